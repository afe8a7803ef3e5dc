"""lp_regression: the optimum by certificate and by HiGHS, samples to 1 + eps.

WY is Woodruff, Yasuda, "Sharper bounds for l_p sensitivity sampling", arXiv:2306.00732 (2023).
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from lowla import _backend
from strategies import LAYOUTS
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol

ACCURACY = 1e-8  # relative, of objectives; the default tol is 1e-9


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Small problems: the BLAS pools of NumPy and SciPy only spin against each other."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def problem(m, n, seed=0, noise="t"):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    heavy = {"t": rng.standard_t(3, m), "cauchy": rng.standard_cauchy(m)}
    return A, A @ rng.standard_normal(n) + heavy[noise]


def objective(A, b, x, p):
    return np.linalg.norm(A @ x - b, p)


def least_absolute_deviations(A, b):
    """The optimum by HiGHS: min sum(u + v), A x + u - v = b, u, v >= 0."""
    m, n = A.shape
    cost = np.r_[np.zeros(n), np.ones(2 * m)]
    constraints = np.hstack([A, np.eye(m), -np.eye(m)])
    bounds = [(None, None)] * n + [(0, None)] * (2 * m)
    return scipy.optimize.linprog(cost, A_eq=constraints, b_eq=b, bounds=bounds).fun


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", ["t", "cauchy"])
@pytest.mark.parametrize("shape", [(200, 5), (500, 20), (60, 30), (21, 20)])
def test_p_one_is_the_linear_programme(backend, shape, noise, seed):
    A, b = problem(*shape, seed, noise)
    result = lowla.lp_regression(A, b, 1)
    assert objective(A, b, result.x, 1) <= (1 + ACCURACY) * least_absolute_deviations(A, b)
    assert result.info.converged
    assert result.info.gap <= ACCURACY
    assert np.sum(np.abs(A @ result.x - b) < tol(float, 500, 1e3)) >= shape[1]  # a vertex


@pytest.mark.parametrize("seed", range(6))
def test_degenerate_linear_programmes(backend, seed):
    # Integer data: many residuals vanish at once, many vertices are optimal.
    rng = np.random.default_rng(seed)
    A = rng.integers(-2, 3, (80, 6)).astype(float)
    b = rng.integers(-3, 4, 80).astype(float)
    result = lowla.lp_regression(A, b, 1)
    assert objective(A, b, result.x, 1) <= (1 + ACCURACY) * least_absolute_deviations(A, b)


def test_deficient_rank(backend):
    A, b = problem(120, 4)
    optimum = least_absolute_deviations(A, b)
    A = np.hstack([A, A[:, :2] @ [[1.0, 2.0], [-1.0, 0.5]], np.zeros((120, 1))])
    for p in (1, 1.5, 3):
        x = lowla.lp_regression(A, b, p).x
        assert x.shape == (7,)
        full = lowla.lp_regression(A[:, :4], b, p).x
        assert objective(A, b, x, p) <= (1 + ACCURACY) * objective(A[:, :4], b, full, p)
    assert objective(A, b, lowla.lp_regression(A, b, 1).x, 1) <= (1 + ACCURACY) * optimum


@pytest.mark.parametrize("p", [1.1, 1.5, 1.9, 2.5, 3.0, 4.0, 8.0, 20.0])
@pytest.mark.parametrize("shape", [(300, 8), (1000, 20)])
def test_stationary_and_certified(backend, shape, p):
    # Convex and smooth for p > 1: a zero gradient is the optimum; and no solver of SciPy is lower.
    A, b = problem(*shape)
    result = lowla.lp_regression(A, b, p)
    assert result.info.converged
    assert result.info.gap <= ACCURACY
    f = objective(A, b, result.x, p)
    assert result.info.objective == pytest.approx(f, rel=tol(float, 1000))
    found = scipy.optimize.minimize(
        lambda x: objective(A, b, x, p), result.x, method="BFGS", options={"gtol": 1e-12}
    )
    assert f <= (1 + ACCURACY) * found.fun


@pytest.mark.parametrize("seed", range(4))
def test_p_near_one_with_outliers(backend, seed):
    A, b = problem(300, 15, seed, "cauchy")
    result = lowla.lp_regression(A * np.geomspace(1, 1e3, 15), b, 1.01)
    assert result.info.gap <= ACCURACY
    best = lowla.lp_regression(A, b, 1.01).info.objective
    assert result.info.objective == pytest.approx(best, rel=ACCURACY)


@pytest.mark.parametrize("p", [1.0, 1.3, 3.0, 6.0])
def test_the_gap_bounds_the_distance_from_the_optimum(backend, p):
    A, b = problem(300, 6)
    best = lowla.lp_regression(A, b, p).info.objective
    gaps = []
    for steps in range(1, 6):
        rough = lowla.lp_regression(
            A, b, p, max_iter=steps, tol=0.5, callback=lambda info: gaps.append(info.gap)
        )
        assert rough.info.objective / best - 1 <= rough.info.gap + ACCURACY
    assert gaps


def test_p_two_is_least_squares(backend):
    A, b = problem(400, 7)
    assert_allclose(
        lowla.lp_regression(A, b, 2).x, np.linalg.lstsq(A, b, rcond=None)[0], rtol=tol(float, 400)
    )


@given(seed=st.integers(0, 2**32), values=st.integers(1, 41), p=st.sampled_from([1.0, 1.5, 4.0]))
@pytest.mark.core
def test_location(backend, seed, values, p):
    # A = ones: the median for p = 1; equivariant under shift and scale for every p.
    b = np.random.default_rng(seed).standard_normal(values)
    A = np.ones((values, 1))
    x = lowla.lp_regression(A, b, p).x
    if p == 1:
        assert np.abs(b - x).sum() <= np.abs(b - np.median(b)).sum() * (1 + ACCURACY)
    moved = lowla.lp_regression(A, 3 * b + 2, p).x
    if p > 1:
        spread = np.ptp(b) + 1
        assert_allclose(moved, 3 * x + 2, rtol=0, atol=10 * np.sqrt(ACCURACY) * spread)


@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_consistent_systems_have_objective_zero(backend, p):
    A, _ = problem(100, 6)
    x = np.arange(6.0)
    for left, right in ((A, A @ x), (A, np.zeros(100)), (A[:4], A[:4] @ x)):
        result = lowla.lp_regression(left, right, p)
        assert objective(left, right, result.x, p) <= tol(float, 100) * np.linalg.norm(A)
        assert result.info.converged


@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_forms_and_scales(backend, p):
    A, b = problem(300, 5)
    best = lowla.lp_regression(A, b, p).info.objective
    for form, scale in [
        (sp.csr_array, 1.0),
        (sp.csc_array, 1.0),
        (np.asfortranarray, 1.0),
        (lambda A: A[::-1][::-1], 1.0),
        (np.asarray, 1e150),
        (np.asarray, 1e-200),
    ]:
        result = lowla.lp_regression(form(A * scale), b * scale, p)
        assert result.info.objective / scale == pytest.approx(best, rel=ACCURACY)
        assert objective(A, b, result.x, p) == pytest.approx(best, rel=ACCURACY)
    single = lowla.lp_regression(A.astype(np.float32), b.astype(np.float32), p)
    assert single.x.dtype == np.float32
    assert objective(A, b, single.x.astype(float), p) <= best * (1 + 100 * eps(np.float32))


def test_empty(backend):
    assert lowla.lp_regression(np.zeros((0, 3)), np.zeros(0), 1).x.shape == (3,)
    none = lowla.lp_regression(np.zeros((2, 0)), np.array([3.0, -4.0]), 1)
    assert none.x.shape == (0,)
    assert none.info.objective == 7
    (x,) = lowla.lp_regression(np.zeros((5, 2)), np.ones(5), 1)
    assert_array_equal(x, [0, 0])


@pytest.mark.parametrize("p", [1, 1.5, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast_row"])
def test_any_layout(backend, layout, dtype, p):
    A, b = problem(700, 6)
    A, b = A.astype(dtype), b.astype(dtype)
    view = LAYOUTS[layout](A)
    best = lowla.lp_regression(np.ascontiguousarray(view), b, p).info.objective
    result = lowla.lp_regression(view, b[::-1][::-1], p)
    accuracy = max(ACCURACY, 100 * eps(dtype))
    assert result.info.objective == pytest.approx(best, rel=accuracy)


@pytest.mark.parametrize("scale", [1e-4, 1e8])
@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_ill_conditioned_columns(backend, p, scale):
    # The optimum does not depend on the basis of the range.
    A, b = problem(400, 25)
    best = lowla.lp_regression(A, b, p).info.objective
    skewed = A * np.geomspace(1, scale, 25)
    skewed[:, 1:] += skewed[:, :-1]
    result = lowla.lp_regression(skewed, b, p)
    assert result.info.gap <= ACCURACY
    assert result.info.objective == pytest.approx(best, rel=ACCURACY)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("p", [1, 1.5, 3])
def test_does_not_depend_on_the_number_of_threads(backend, p, form):
    if backend == "numba":
        pytest.skip("the BLAS decides there")
    A, b = problem(30_000, 20)
    A = form(A)
    found = with_1_2_and_7_threads(lambda: lowla.lp_regression(A, b, p, rng=0).x)
    assert_array_equal(found[1], found[0])
    assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_backends_agree(backend, p, form):
    A, b = tall_problem(20_000)
    reference = _backend.load("numba")
    whole = form(A)
    payload = whole if isinstance(whole, np.ndarray) else _payload(whole)
    for method, rows in (("exact", 0), ("exact", 2000), ("sample", 2000)):
        options = (payload, b, p, method, rows, 1e-10, 0, 7, True, None)
        x, facts = _backend.load(backend).lp_regression(*options)
        expected, theirs = reference.lp_regression(*options)
        assert set(facts) == set(theirs)
        assert (facts["method"], facts["rows"]) == (theirs["method"], theirs["rows"])
        assert facts["converged"]
        assert theirs["converged"]
        # Near the optimum the objective is flat: x is as accurate as the root of it, and so is the
        # objective where x minimises that of a sample.
        rough = np.sqrt(ACCURACY)
        assert_allclose(x, expected, rtol=0, atol=rough * np.abs(expected).max())
        accuracy = ACCURACY if method == "exact" else rough
        assert facts["objective"] == pytest.approx(theirs["objective"], rel=accuracy)


def _payload(A):
    return A.indptr, A.indices, A.data, A.shape


@pytest.mark.parametrize("p", [1.0, 1.5])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan_where_asked(backend, value, p):
    for place in ("A", "b"):
        A, b = problem(50, 3)
        (A if place == "A" else b)[7] = value
        with pytest.raises(ValueError, match=f"{place} contains NaN or Inf"):
            lowla.lp_regression(A, b, p)
        result = lowla.lp_regression(A, b, p, check_finite=False)
        assert np.isnan(result.x).all()
        assert np.isnan(result.info.objective)
        assert not result.info.converged


def test_bad_requests_to_the_compiled_module():
    native = pytest.importorskip("lowla._native", exc_type=ImportError)
    A, b = problem(30, 3)
    options = (1.5, "exact", 0, 1e-9, 0, 0, True, None)
    with pytest.raises(ValueError, match='unknown method "best"'):
        native.lp_regression(A, b, 1.5, "best", *options[2:])
    with pytest.raises(ValueError, match=r"b must have shape \(30,\)"):
        native.lp_regression(A, b[:-1], *options)
    with pytest.raises(TypeError, match="b has another dtype than A"):
        native.lp_regression(A, b.astype(np.float32), *options)
    with pytest.raises(TypeError, match="A must be real"):
        native.lp_regression(A + 0j, b, *options)
    with pytest.raises(ValueError, match="A must not be empty"):
        native.lp_regression(A[:0], b[:0], *options)


def test_exceptions_of_callbacks_come_back(backend):
    A, b = problem(300, 6)

    def callback(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lowla.lp_regression(A, b, 1.2, callback=callback)


# --- samples -------------------------------------------------------------------------------------


def tall_problem(m=30_000, n=5, seed=0):
    """Heavy-tailed, with planted rows that decide one coefficient."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * np.exp(rng.standard_normal(m))[:, None]
    A[:, 0] *= np.arange(m) < 5
    A[:5, 0] = 100.0
    return A, A @ np.ones(n) + rng.standard_t(3, m)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_samples_are_within_eps_of_the_optimum(backend, p):
    # WY, Theorem 1.2 for p <= 2; Cohen, Peng 2015 for Lewis weights.
    A, b = tall_problem()
    best = lowla.lp_regression(A, b, p, method="exact").info.objective
    for seed in range(5):
        result = lowla.lp_regression(A, b, p, method="sample", eps=0.1, rng=seed)
        assert result.info.method == "sample"
        assert 0 < result.info.sampled_rows < len(A)
        assert result.info.objective <= 1.1 * best
        assert result.info.objective == pytest.approx(objective(A, b, result.x, p))


def test_uniform_samples_of_that_size_miss_the_planted_rows(backend):
    A, b = tall_problem()
    best = lowla.lp_regression(A, b, 1).info.objective
    size = lowla.lp_regression(A, b, 1, method="sample", rng=0).info.sampled_rows
    failures = 0
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(len(A), size=size)
        x = np.linalg.lstsq(A[rows], b[rows], rcond=None)[0]
        failures += objective(A, b, x, 1) > 1.005 * best and x[0] == 0
    assert failures >= 2


def test_auto_starts_from_a_sample_and_ends_exact(backend):
    A, b = tall_problem()
    for p in (1.0, 1.5, 3.0):
        auto = lowla.lp_regression(A, b, p, rng=0)
        exact = lowla.lp_regression(A, b, p, method="exact")
        assert auto.info.method == "exact"
        assert auto.info.gap <= ACCURACY
        assert auto.info.objective == pytest.approx(exact.info.objective, rel=ACCURACY)


def test_one_seed_one_answer(backend):
    A, b = tall_problem()
    first = lowla.lp_regression(A, b, 1.5, method="sample", rng=1).x
    assert_array_equal(first, lowla.lp_regression(A, b, 1.5, method="sample", rng=1).x)
    other = lowla.lp_regression(A, b, 1.5, method="sample", rng=2).x
    assert not np.array_equal(first, other)


def test_limits_and_callback(backend):
    A, b = problem(300, 6)
    with pytest.warns(lowla.ConvergenceWarning, match="lp_regression stopped at a gap of"):
        rough = lowla.lp_regression(A, b, 1.2, max_iter=2)
    assert not rough.info.converged
    seen = []
    lowla.lp_regression(A, b, 1.2, callback=seen.append)
    assert seen[-1].gap <= 1e-9
    stopped = lowla.lp_regression(A, b, 1.2, callback=lambda info: info.iterations == 3)
    assert stopped.info.iterations == 3
    assert "LpResult: x (6,), float64" in repr(stopped)
