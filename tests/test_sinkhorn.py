"""sinkhorn, sinkhorn_points, sinkhorn_divergence: marginals by measure, potentials and values by a
long iteration in extended precision, the limits and symmetries of the problem, gradients.

SNS is Tang et al., "Accelerating Sinkhorn algorithm with sparse Newton iterations", ICLR 2024.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tracemalloc
import warnings

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from lowla import _backend
from lowla._numba.transport import METRICS
from strategies import LAYOUTS
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol

TIGHT = 1e-12  # a marginal error that can be asked for up to max|C| / reg of about 1e3
layouts = [name for name in LAYOUTS if name != "broadcast_row"]


def thorough(backend):
    """The reference solves fewer problems of a large set where the compiled backend solves them."""
    return backend == "native" or _backend.why_not("native") is not None


def uniform(n):
    return np.full(n, 1.0 / n)


def clouds(m, n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, d)), rng.standard_normal((n, d)) + 1.0


def costs(X, Y, metric="sqeuclidean"):
    difference = X[:, None].astype(float) - Y.astype(float)
    if metric == "cityblock":
        return np.abs(difference).sum(-1)
    squares = (difference**2).sum(-1)
    return squares if metric == "sqeuclidean" else np.sqrt(squares)


def problem(m, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(m)), rng.dirichlet(np.ones(n)), rng.random((m, n))


def marginal_error(P, a, b):
    """L1 of both sides, in extended precision, over the mass."""
    P = np.asarray(P, np.longdouble)
    return float(np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum()) / np.sum(a)


def logsumexp(X, axis):
    top = X.max(axis=axis, keepdims=True)
    return (top + np.log(np.exp(X - top).sum(axis=axis, keepdims=True))).squeeze(axis)


def reference(a, b, C, reg, steps=3000):
    """f and g of Sinkhorn's iteration in the logarithmic domain, in extended precision."""
    a, b, C = (np.asarray(x, np.longdouble) for x in (a, b, C))
    f, g = np.zeros(len(a), np.longdouble), np.zeros(len(b), np.longdouble)
    for _ in range(steps):
        f = reg * (np.log(a) - logsumexp((g - C) / reg, 1))
        g = reg * (np.log(b) - logsumexp((f[:, None] - C) / reg, 0))
    middle = (a @ f - b @ g) / 2
    return f - middle, g + middle


def objective(P, C, reg):
    """<P, C> + reg · Σ P (log P - 1), 0 log 0 = 0."""
    P = P[P > 0], C[P > 0]
    return float(P[0] @ P[1] + reg * (P[0] @ (np.log(P[0]) - 1.0)))


def transport_cost(a, b, C):
    """The optimum without entropy, by HiGHS; None if there is no plan."""
    m, n = C.shape
    keep = np.isfinite(C).ravel()
    rows = sp.kron(sp.eye_array(m), np.ones((1, n)))
    columns = sp.kron(np.ones((1, m)), sp.eye_array(n))
    constraints = sp.vstack([rows, columns]).tocsc()[:, keep]
    found = scipy.optimize.linprog(
        C.ravel()[keep], A_eq=constraints, b_eq=np.concatenate([a, b]), bounds=(0, None)
    )
    return found.fun if found.status == 0 else None


def digit_images(i, j, power):
    """Two handwritten digits at 28 x 28 with a floor of 0.01, and the costs of SNS, section 5."""
    images = pytest.importorskip("sklearn.datasets").load_digits().images
    weights = []
    for k in (i, j):
        image = np.kron(images[k] / 16.0, np.ones((4, 4)))[2:30, 2:30] + 0.01
        weights.append((image / image.sum()).ravel())
    pixels = np.stack(np.divmod(np.arange(784), 28), axis=1)
    metric = "cityblock" if power == 1 else "sqeuclidean"
    return *weights, costs(pixels, pixels, metric) / 28**power


# --- marginals, potentials, values ----------------------------------------------------------------


@pytest.mark.parametrize("reg", [1e-3, 0.1])
@pytest.mark.parametrize("asked", [1e-6, TIGHT])
def test_marginal_error_is_that_of_the_potentials_in_50_digits(backend, asked, reg):
    a, b, C = problem(12, 9)
    r = lowla.sinkhorn(a, b, C, reg, tol=asked)
    with mpmath.workdps(50):
        f, g = (np.array([mpmath.mpf(x) for x in potential]) for potential in (r.f, r.g))
        P = np.vectorize(mpmath.exp, otypes=[object])((f[:, None] + g - C) / reg)
        error = np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum()
        largest = max(abs(x) for x in (*f, *g))
        rounding = eps(float) * (4 * float(largest) / reg + 50)  # of f + g - C, and of the sums
    assert abs(float(error) - r.info.marginal_error) <= 0.01 * float(error) + rounding
    assert float(error) <= asked + rounding


@pytest.mark.parametrize("method", ["sinkhorn_log", "sinkhorn_stabilized"])
@pytest.mark.parametrize("reg", [0.05, 0.3])
def test_plan_and_value_are_those_of_pot(backend, method, reg):
    ot = pytest.importorskip("ot")
    a, b, C = problem(40, 30)
    P = ot.sinkhorn(a, b, C, reg, method=method, stopThr=1e-14, numItermax=200_000)
    assert marginal_error(P, a, b) <= 1e-11
    r = lowla.sinkhorn(a, b, C, reg, tol=TIGHT)
    assert_allclose(r.plan, P, rtol=1e-8, atol=1e-14)
    assert_allclose(r.value, objective(P, C, reg), rtol=1e-8)
    assert_allclose(r.value_linear, np.vdot(P, C), rtol=1e-8)


@pytest.mark.core
@pytest.mark.parametrize("method", ["newton", "sinkhorn", "auto"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (2, 2), (13, 40), (50, 31)])
def test_marginals_are_those_asked_for(backend, shape, method):
    a, b, C = problem(*shape)
    for reg in (0.05, 0.2, 1e3):
        r = lowla.sinkhorn(a, b, C, reg, method=method, tol=TIGHT)
        assert r.info.converged
        assert r.info.marginal_error <= TIGHT
        assert marginal_error(r.plan, a, b) <= TIGHT + tol(float, sum(shape))
        assert_allclose(
            r.info.marginal_error, marginal_error(r.plan, a, b), rtol=0.1, atol=tol(float, 100)
        )


def test_the_certificate_tells_bad_potentials(backend):
    """A tenth of reg off in one potential is seen, and so is one sweep too few."""
    a, b, C = problem(30, 20)
    r = lowla.sinkhorn(a, b, C, 0.05)
    f = np.array(r.f)
    f[3] += 0.005
    assert marginal_error(np.exp((f[:, None] + r.g - C) / 0.05), a, b) > 0.05 * a[3]
    with pytest.warns(lowla.ConvergenceWarning, match="after 2 sweeps"):
        rough = lowla.sinkhorn(a, b, C, 0.05, method="sinkhorn", max_iter=2)
    assert not rough.info.converged
    assert rough.info.marginal_error > 1e-4
    assert_allclose(rough.info.marginal_error, marginal_error(rough.plan, a, b), rtol=1e-6)


@pytest.mark.parametrize("reg", [0.05, 0.5, 50.0])
@pytest.mark.parametrize("shape", [(20, 30), (31, 12), (25, 25)])
@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_potentials_and_values_are_those_of_the_long_iteration(backend, shape, reg, method):
    a, b, C = problem(*shape, seed=1)
    r = lowla.sinkhorn(a, b, C, reg, method=method, tol=TIGHT)
    f, g = reference(a, b, C, reg)
    # the potentials of a plan with these marginals move by at most reg · error / smallest weight
    bound = 2 * reg * TIGHT / min(a.min(), b.min()) + tol(float, 10) * max(1.0, reg)
    assert bound < 1e-6 * max(1.0, reg)
    assert_allclose(r.f, f.astype(float), rtol=0, atol=bound)
    assert_allclose(r.g, g.astype(float), rtol=0, atol=bound)
    P = np.exp((f[:, None] + g - C) / reg).astype(float)
    assert_allclose(r.plan, P, rtol=bound / reg + tol(float, 10), atol=0)
    assert r.value == pytest.approx(objective(P, C, reg), rel=tol(float, 100))
    assert r.value_linear == pytest.approx(float(np.sum(P * C)), rel=100 * TIGHT)


def test_value_is_a_lower_bound_whatever_the_error(backend):
    """Weak duality; the distance is of second order in the marginal error."""
    a, b, C = problem(40, 30)
    best = lowla.sinkhorn(a, b, C, 0.02, tol=TIGHT).value
    errors, gaps = [], []
    for accuracy in (1e-1, 1e-2, 1e-3, 1e-4):
        r = lowla.sinkhorn(a, b, C, 0.02, method="sinkhorn", tol=accuracy)
        errors.append(r.info.marginal_error)
        gaps.append(best - r.value)
        assert gaps[-1] >= -tol(float, 10)
    assert errors[1] < errors[0] / 5
    assert gaps[3] < gaps[1] * (errors[3] / errors[1]) ** 1.5


@pytest.mark.core
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 25), n=st.integers(1, 25))
def test_transposition_and_shifts(backend, seed, m, n):
    """The transposed problem exchanges the potentials; constants on rows of C go into f."""
    a, b, C = problem(m, n, seed)
    r = lowla.sinkhorn(a, b, C, 0.1, tol=TIGHT)
    bound = 20 * TIGHT
    swapped = lowla.sinkhorn(b, a, C.T, 0.1, tol=TIGHT)
    assert_allclose(swapped.plan.T, r.plan, rtol=0, atol=bound)
    assert swapped.value == pytest.approx(r.value, rel=bound, abs=bound)
    assert a @ r.f == pytest.approx(b @ r.g, abs=tol(float, m + n))
    shift = np.random.default_rng(seed).standard_normal(m)
    shifted = lowla.sinkhorn(a, b, C + shift[:, None], 0.1, tol=TIGHT)
    assert_allclose(shifted.plan, r.plan, rtol=0, atol=bound)
    assert shifted.value == pytest.approx(r.value + a @ shift, abs=bound)


@pytest.mark.parametrize("scale", [1e-280, 1e-6, 1e6, 1e279])
def test_units(backend, scale):
    """Costs and reg in other units; weights of another sum."""
    a, b, C = problem(30, 20)
    r = lowla.sinkhorn(a, b, C, 0.02, tol=TIGHT)
    r2 = lowla.sinkhorn(a, b, C * scale, 0.02 * scale, tol=TIGHT)
    assert_allclose(r2.f / scale, r.f, rtol=0, atol=1e-8)
    r3 = lowla.sinkhorn(a * scale, b * scale, C, 0.02, tol=TIGHT)
    assert r3.info.converged
    assert_allclose(r3.plan / scale, r.plan, rtol=1e-8)
    mass = scale * (r.value + 0.02 * np.log(scale))  # reg Σ P log P of a plan times scale
    assert r3.value == pytest.approx(mass, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_small_reg_is_optimal_transport(backend, seed):
    """0 <= <P, C> - OT <= reg · min(H(a), H(b)): compare the objectives of both plans."""
    a, b, C = problem(30, 40, seed)
    best = transport_cost(a, b, C)
    entropy = min(-a @ np.log(a), -b @ np.log(b))
    for reg in (1e-1, 1e-2, 1e-3, 1e-4):
        r = lowla.sinkhorn(a, b, C, reg)
        assert r.info.converged
        assert best - 1e-8 <= r.value_linear <= best + reg * entropy + 1e-8
    assert lowla.sinkhorn(a, b, C, 10.0).value_linear > best + 1e-3 * entropy


def test_assignments(backend):
    C = np.random.default_rng(5).random((80, 80))
    rows, columns = scipy.optimize.linear_sum_assignment(C)
    r = lowla.sinkhorn(None, None, C, 1e-4)
    assert_array_equal(np.asarray(r.plan).argmax(axis=1), columns)
    assert r.value_linear == pytest.approx(C[rows, columns].mean(), abs=1e-4 * np.log(80))


def test_large_reg_is_the_product_of_the_marginals(backend):
    a, b, C = problem(20, 30)
    P = lowla.sinkhorn(a, b, C, 1e3 * C.max(), tol=TIGHT).plan
    assert_allclose(P, np.outer(a, b), rtol=4e-3)  # the exponents differ by at most 4 · 1e-3


# --- the cases of the paper -----------------------------------------------------------------------


def assert_few_steps(r, a, b):
    assert r.info.converged
    assert not r.info.fallback
    assert marginal_error(r.plan, a, b) <= TIGHT
    assert r.info.sweeps <= 120
    assert r.info.newton_steps <= 25


@pytest.mark.parametrize("n", [500, 1000])
def test_random_assignment_problems(backend, n):
    C = np.random.default_rng(0).random((n, n))
    r = lowla.sinkhorn(None, None, C, 1 / 1200, tol=TIGHT)
    assert_few_steps(r, uniform(n), uniform(n))


@pytest.mark.parametrize(("i", "j"), [(0, 7), (3, 8)])
@pytest.mark.parametrize("power", [1, 2])
def test_image_to_image(backend, i, j, power):
    a, b, C = digit_images(i, j, power)
    assert_few_steps(lowla.sinkhorn(a, b, C, 1 / 1200, tol=TIGHT), a, b)


@pytest.mark.parametrize("m", [600, 1000])
def test_squared_distances_in_the_plane(backend, m):
    C = costs(*clouds(m, 800, 2))
    r = lowla.sinkhorn(None, None, C, 1e-3 * C.max(), tol=TIGHT)
    assert_few_steps(r, uniform(m), uniform(800))


def test_the_same_cases_are_slow_for_sinkhorns_steps(backend):
    """The counts above say something: 120 sweeps of the plain iteration are far from it."""
    a, b, C = digit_images(0, 7, 1)
    with pytest.warns(lowla.ConvergenceWarning):
        r = lowla.sinkhorn(a, b, C, 1 / 1200, method="sinkhorn", max_iter=120)
    assert r.info.marginal_error > 1e-3


def random_instances(seed):
    """Costs of eight kinds and weights of three, m and n between 60 and 150."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(60, 151, 2)
    X, Y = rng.standard_normal((m, 3)), rng.standard_normal((n, 3)) + rng.standard_normal(3)
    pixels = np.stack(np.divmod(np.arange(150), 12), axis=1)
    forbidden = np.where(rng.random((m, n)) < 0.5, np.inf, rng.random((m, n)))
    forbidden[np.arange(m), np.arange(m) % n] = 0.5
    forbidden[np.arange(n) % m, np.arange(n)] = 0.5
    kinds = {
        "random": rng.random((m, n)),
        "plane": costs(X[:, :2], Y[:, :2]),
        "space": costs(X, Y, "cityblock"),
        "line": costs(X[:, :1], Y[:, :1], "euclidean"),
        "integers": rng.integers(0, 5, (m, n)).astype(float),
        "heavy": np.exp(3 * rng.standard_normal((m, n))),
        "grid": costs(pixels[:m], pixels[:n], "cityblock"),
        "forbidden": forbidden,
    }
    tiny = np.where(np.arange(150) % 3 == 0, 1e-300, 1.0), np.where(np.arange(150) % 2, 1.0, 1e-200)
    for kind, C in kinds.items():
        yield kind, uniform(m), uniform(n), C
        yield kind, tiny[0][:m] / tiny[0][:m].sum(), tiny[1][:n] / tiny[1][:n].sum(), C
        if kind != "forbidden":  # where there may be no plan
            yield kind, rng.dirichlet(np.full(m, 0.3)), rng.dirichlet(np.full(n, 0.3)), C


@pytest.mark.parametrize("relative", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("seed", range(4))
def test_no_failures_on_random_instances(backend, seed, relative):
    """276 problems in all; a plain iteration of as many sweeps fails for most."""
    if seed and not thorough(backend):
        pytest.skip("the compiled backend runs the same iteration on them")
    failures = []
    for kind, a, b, C in random_instances(seed):
        reg = relative * C[np.isfinite(C)].max()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lowla.ConvergenceWarning)
            r = lowla.sinkhorn(a, b, C, reg, max_iter=400)
        if not r.info.converged or r.info.fallback:
            failures.append((kind, r.info))
        assert r.info.converged == (marginal_error(r.plan, a, b) <= 1e-9)
    assert not failures


@pytest.mark.parametrize("relative", [1e-5, 1e-6])
def test_hardly_any_entropy(backend, relative):
    """Down to reg = 1e-6 max(C), where rounding alone leaves errors of 1e-10 to 1e-9."""
    for kind, a, b, C in random_instances(7):
        reg = relative * C[np.isfinite(C)].max()
        r = lowla.sinkhorn(a, b, C, reg, tol=1e-7)
        assert r.info.converged, kind


@pytest.mark.parametrize("relative", [1e-4, 1e-5, 1e-6])
def test_weights_of_many_magnitudes(backend, relative):
    """Hundreds of orders apart, and next to no entropy: every safeguard of Newton's step is needed.

    Without the damping, the guard of empty columns, or longer steps between groups that hardly
    exchange mass, one or more of these problems fails.
    """
    failures = []
    for seed in range(0, 30, 1 if thorough(backend) else 6):
        rng = np.random.default_rng(seed)
        m, n = rng.integers(40, 151, 2)
        C = rng.random((m, n))
        a, b = (rng.dirichlet(np.full(size, 0.2)) for size in (m, n))
        a, b = np.maximum(a, 1e-300), np.maximum(b, 1e-300)
        if seed % 3 == 0:
            a, b = np.full(m, 1.0 / m), np.full(n, 1.0)
            a[::3], b[::2] = 1e-300, 1e-200
            a, b = a / a.sum(), b / b.sum()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lowla.ConvergenceWarning)
            r = lowla.sinkhorn(a, b, C, relative, max_iter=400)
        if not r.info.converged:
            failures.append((seed, r.info))
    assert not failures


# --- what a caller may pass -----------------------------------------------------------------------


@st.composite
def awkward(draw):
    """Weights with zeros and 1e-300, costs with inf and six decades."""
    m, n = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = []
    for size in (m, n):
        w = rng.random(size)
        for value in (0.0, 1e-300):
            w[rng.random(size) < draw(st.sampled_from([0.0, 0.3]))] = value
        w[rng.integers(size)] = 1.0
        weights.append(w / w.sum())
    C = rng.random((m, n)) * 10.0 ** rng.integers(-3, 4, (m, n))
    C[rng.random((m, n)) < draw(st.sampled_from([0.0, 0.1, 0.5]))] = np.inf
    return *weights, C, 10.0 ** draw(st.integers(-6, 3))


@given(case=awkward(), method=st.sampled_from(["newton", "sinkhorn"]))
def test_always_an_answer_or_a_warning(backend, case, method):
    a, b, C, relative = case
    inner = np.isfinite(C[np.ix_(a > 0, b > 0)])
    options = {"method": method, "max_iter": 300}
    if not (inner.any(axis=0).all() and inner.any(axis=1).all()):
        with pytest.raises(ValueError, match="C must have a finite cost in every"):
            lowla.sinkhorn(a, b, C, relative, **options)
        return
    reg = relative * C[np.isfinite(C)].max()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r = lowla.sinkhorn(a, b, C, reg, **options)
    assert [w.category for w in caught] == [lowla.ConvergenceWarning] * (not r.info.converged)
    assert_array_equal(np.isneginf(r.f), a == 0)
    assert_array_equal(np.isneginf(r.g), b == 0)
    assert not np.isnan(r.f).any()
    assert not np.isnan(r.g).any()
    P = r.plan
    assert np.isfinite(P).all()
    assert (P[np.isinf(C)] == 0).all()
    assert np.isfinite([r.value, r.value_linear]).all()
    assert_allclose(r.info.marginal_error, marginal_error(P, a, b), rtol=1e-6, atol=1e-12)


def test_zero_weights_are_left_out(backend):
    a, b, C = problem(20, 30)
    wide_a, wide_b, wide_C = np.zeros(25), np.zeros(34), np.full((25, 34), 7.0)
    rows, columns = np.arange(1, 21), np.arange(2, 32)
    wide_a[rows], wide_b[columns], wide_C[np.ix_(rows, columns)] = a, b, C
    wide_C[0], wide_C[:, 1] = np.inf, -1e6
    r, inner = lowla.sinkhorn(wide_a, wide_b, wide_C, 0.02), lowla.sinkhorn(a, b, C, 0.02)
    assert_array_equal(r.f[rows], inner.f)
    assert_array_equal(r.g[columns], inner.g)
    assert (r.plan[wide_a == 0] == 0).all()
    assert r.value == inner.value
    assert r.info.sweeps == inner.info.sweeps


@pytest.mark.parametrize("power", [-300, -150, -20])
def test_potentials_of_tiny_weights(backend, power):
    """A weight of 1e-300 has the potential it must have: its row sum is exact."""
    a, b, C = problem(12, 15)
    a[::3], b[::2] = 10.0**power, 10.0 ** (power + 20)
    a, b = a / a.sum(), b / b.sum()
    r = lowla.sinkhorn(a, b, C, 0.05, tol=TIGHT)
    f, g = (np.asarray(x, np.longdouble) for x in r)
    log_rows = logsumexp((f[:, None] + g - C) / np.longdouble(0.05), 1)
    assert_allclose((log_rows - np.log(a.astype(np.longdouble))).astype(float), 0, atol=1e-7)


def test_one_row_is_a_closed_form(backend):
    b = np.random.default_rng(0).dirichlet(np.ones(9))
    C = 1e3 * np.random.default_rng(1).random((1, 9))
    r = lowla.sinkhorn([1.0], b, C, 0.1, tol=TIGHT)
    assert_allclose(r.plan, b[None], rtol=1e-10)
    assert r.info.sweeps <= 3
    assert r.value_linear == pytest.approx(float(C[0] @ b), rel=tol(float, 100))


def test_forbidden_pairs(backend):
    """Against the same problem without the forbidden entries, and against prohibitive costs."""
    a, b, C = problem(30, 20, 3)
    mask = np.random.default_rng(4).random(C.shape) < 0.3
    expensive, forbidden = np.where(mask, 60.0, C), np.where(mask, np.inf, C)
    r, other = lowla.sinkhorn(a, b, forbidden, 0.05), lowla.sinkhorn(a, b, expensive, 0.05)
    assert r.info.converged
    assert_allclose(r.plan, other.plan, atol=1e-8)
    assert (r.plan[mask] == 0).all()


@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_infeasible_patterns_are_not_claimed_solved(backend, method):
    """Two rows of mass 0.8 that reach one column of mass 0.5: at least 0.6 of L1 error (Hall)."""
    C = np.array([[1.0, np.inf, np.inf], [2.0, np.inf, np.inf], [1.0, 1.0, 3.0]])
    with pytest.warns(lowla.ConvergenceWarning):
        r = lowla.sinkhorn([0.4, 0.4, 0.2], [0.5, 0.25, 0.25], C, 0.1, method=method, max_iter=500)
    assert not r.info.converged
    assert r.info.marginal_error >= 0.6 - tol(float, 10)
    assert np.isfinite(np.concatenate(r)).all()


def test_separate_blocks(backend):
    """Forbidden pairs that split the problem: every block is solved, the gauge spans them all."""
    a, b, C = problem(10, 8)
    wide = np.full((20, 16), np.inf)
    wide[:10, :8], wide[10:, 8:] = C, 2 * C
    a2, b2 = np.concatenate([a, a]) / 2, np.concatenate([b, b]) / 2
    r = lowla.sinkhorn(a2, b2, wide, 0.05, tol=TIGHT)
    assert r.info.converged
    assert_allclose(r.plan[:10, :8], lowla.sinkhorn(a, b, C, 0.05, tol=TIGHT).plan / 2, atol=1e-11)


def test_weights_none_empty_integers_and_rounded_sums(backend):
    C = np.random.default_rng(0).random((10, 8))
    r = lowla.sinkhorn(None, [], C, 0.1)
    assert_array_equal(r.f, lowla.sinkhorn(uniform(10), uniform(8), C, 0.1).f)
    scaled = lowla.sinkhorn(np.full(10, 4), np.full(8, 5), C, 0.1)
    assert_allclose(scaled.plan, 40 * r.plan, rtol=1e-7)
    close = lowla.sinkhorn(uniform(10), uniform(8) * (1 + 5e-9), C, 0.1, tol=TIGHT)
    assert close.info.converged
    assert close.plan.sum() == pytest.approx(1.0, rel=10 * TIGHT)
    single = lowla.sinkhorn(uniform(10).astype(np.float32) * np.float32(1 + 3e-7), None, C, 0.1)
    assert single.info.converged
    with pytest.raises(ValueError, match="a and b must have equal sums"):
        lowla.sinkhorn(uniform(10) * (1 + 3e-7), None, C, 0.1)
    whole = lowla.sinkhorn(None, None, np.arange(6).reshape(2, 3), 1)
    assert whole.plan.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", layouts)
def test_any_layout(backend, layout, dtype):
    a, b, C = problem(70, 50)
    C = C.astype(dtype)
    expected = lowla.sinkhorn(a, b, C.astype(float), 0.01)
    view = LAYOUTS[layout](C)
    before = view.copy()
    r = lowla.sinkhorn(a[::-1][::-1], b, view, 0.01)
    assert_array_equal(r.f, expected.f)
    assert r.f.dtype == r.g.dtype == np.float64
    assert r.plan.dtype == dtype
    assert_allclose(r.plan, expected.plan, rtol=10 * eps(dtype), atol=np.finfo(dtype).tiny)
    assert_array_equal(view, before)


@pytest.mark.parametrize("form", ["array", "points"])
def test_does_not_depend_on_the_number_of_threads(backend, form):
    X, Y = clouds(900, 700, 2)

    def solve():
        if form == "points":
            r = lowla.sinkhorn_points(X, Y, 0.05)
            return np.concatenate([*r, r.grad_X.ravel(), r.grad_Y.ravel()])
        return np.concatenate([*lowla.sinkhorn(None, None, costs(X, Y), 0.05)])

    found = with_1_2_and_7_threads(solve)
    assert_array_equal(found[1], found[0])
    assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("form", ["array", "points"])
def test_memory(backend, form):
    """Nothing of the size of the cost matrix, 18 MB, is made."""
    X, Y = clouds(1500, 1500, 2)
    C = costs(X, Y) if form == "array" else None
    options = {"method": "newton", "sparsity": 0.01, "tol": 1e-3}
    tracemalloc.start()
    try:
        if C is None:
            r = lowla.sinkhorn_points(X, Y, 0.01, **options)
        else:
            r = lowla.sinkhorn(None, None, C, 0.01, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert r.info.converged
    assert peak < 9e6


# --- options --------------------------------------------------------------------------------------


def test_warm_start_takes_fewer_sweeps(backend):
    a, b, C = problem(60, 50)
    cold = lowla.sinkhorn(a, b, C, 1e-3)
    moved = C + 1e-4 * np.random.default_rng(1).random(C.shape)
    again = lowla.sinkhorn(a, b, moved, 1e-3, init=cold)
    assert again.info.converged
    assert again.info.sweeps < lowla.sinkhorn(a, b, moved, 1e-3).info.sweeps / 2
    assert lowla.sinkhorn(a, b, C, 1e-3, init=(cold.f + 5.0, cold.g - 5.0)).info.sweeps <= 2
    useless = lowla.sinkhorn(a, b, C, 1e-3, init=(np.zeros(60), 1e5 * C[0]))
    assert useless.info.converged


def test_a_warm_start_keeps_zero_weights_out(backend):
    a, b, C = problem(12, 10)
    a[2] = 0.0
    a /= a.sum()
    r = lowla.sinkhorn(a, b, C, 0.01)
    again = lowla.sinkhorn(a, b, C, 0.01, init=r)
    assert again.info.sweeps <= 2
    assert np.isneginf(again.f[2])


@pytest.mark.parametrize("warmup", [0, 1, 20])
@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_warmup(backend, warmup, method):
    a, b, C = problem(40, 30)
    r = lowla.sinkhorn(a, b, C, 0.01, warmup=warmup, method=method)
    assert r.info.converged
    assert r.info.method == method
    assert_allclose(r.plan, lowla.sinkhorn(a, b, C, 0.01).plan, atol=2e-9)


def test_sparsity_limits_newtons_matrix(backend):
    C = costs(*clouds(150, 150, 2))
    reg = 2e-2 * C.max()
    free = lowla.sinkhorn(None, None, C, reg)
    assert free.info.density > 0.3
    r = lowla.sinkhorn(None, None, C, reg, sparsity=0.05)
    assert r.info.converged
    assert r.info.density <= 0.05
    assert_allclose(r.plan, free.plan, atol=3e-9)


def test_auto_takes_sinkhorns_steps_where_they_contract_fast(backend):
    a, b, C = problem(40, 30)
    C /= C.max() - C.min()
    easy, hard = (lowla.sinkhorn(a, b, C, reg, method="auto") for reg in (1.0, 0.02))
    assert easy.info.method == "sinkhorn"
    assert easy.info.sweeps <= 60
    assert hard.info.method == "newton"


def test_giving_way_to_scaling_is_said(backend, monkeypatch):
    if backend != "numba":
        pytest.skip("replaces Newton's direction of the reference")
    from lowla._numba.sinkhorn import Solver

    monkeypatch.setattr(Solver, "direction", lambda self, s: -(self.b - s.c) / self.b)
    a, b, C = problem(30, 20)
    r = lowla.sinkhorn(a, b, C, 0.05)
    assert r.info.fallback
    assert r.info.converged
    assert "newton, then sinkhorn" in repr(r)


@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_limits_and_callback(backend, method):
    a, b, C = problem(50, 40)
    seen = []
    r = lowla.sinkhorn(a, b, C, 0.01, method=method, callback=seen.append)
    assert seen[-1].marginal_error <= 1e-9
    assert [info.sweeps for info in seen] == sorted({info.sweeps for info in seen})
    assert seen[-1].sweeps == r.info.sweeps
    stopped = lowla.sinkhorn(a, b, C, 0.01, method=method, callback=lambda info: info.sweeps >= 4)
    assert stopped.info.sweeps <= 6
    assert not stopped.info.converged
    assert stopped.info.marginal_error == pytest.approx(marginal_error(stopped.plan, a, b))
    for limit in (1, 3, 10):
        message = f"sinkhorn stopped at a marginal error of .* after {limit}"
        with pytest.warns(lowla.ConvergenceWarning, match=message) as caught:
            r = lowla.sinkhorn(a, b, C, 1e-3, method="sinkhorn", max_iter=limit)
        assert caught[0].filename == __file__
        assert r.info.sweeps == limit

    def fail(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lowla.sinkhorn(a, b, C, 0.01, method=method, callback=fail)


def test_progress(backend, capsys):
    pytest.importorskip("tqdm")
    lowla.sinkhorn(*problem(20, 20), 0.01, progress=True)
    assert "sinkhorn: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "work",
    [
        'lowla.sinkhorn(None, None, C, 1e-5, method="sinkhorn", max_iter=10**6)',
        "lowla.sinkhorn_points(X, X[::-1] + 1.0, 1e-4, tol=1e-13)",
    ],
)
def test_ctrl_c(backend, work):
    """The work takes hours; that it ends soon after the interrupt is the time limit here."""
    script = f"""
import os, signal, threading, numpy as np, lowla
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
lowla.set_backend({backend!r})
C = np.random.default_rng(0).random((1500, 1500))
X = np.random.default_rng(0).standard_normal((20000, 3))
lowla.sinkhorn_points(X[:20], X[:30], 1.0)
before = lowla.sinkhorn(None, None, C[:50, :50], 0.1).f  # all is imported and compiled
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    {work}
except KeyboardInterrupt:
    print("interrupted")
assert np.array_equal(lowla.sinkhorn(None, None, C[:50, :50], 0.1).f, before)
"""
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert out.stdout == "interrupted\n"


# --- results --------------------------------------------------------------------------------------


def test_result(backend):
    a, b, C = problem(20, 30)
    r = lowla.sinkhorn(a, b, C, 0.05)
    f, g = r
    assert f is r.f is r.grad_a
    assert g is r.g is r.grad_b
    assert_array_equal(r.grad_C, r.plan)
    assert repr(r).startswith("TransportResult: f (20,), g (30,), float64\n")
    assert r.info.backend == _backend.select_for("sinkhorn", "host")[0]
    for duplicate in (copy.copy(r), pickle.loads(pickle.dumps(r))):
        assert type(duplicate) is lowla.TransportResult
        assert duplicate.info == r.info
        assert_array_equal(duplicate.plan, r.plan)
    with pytest.raises(AttributeError):
        r.f = None


@pytest.mark.parametrize("threshold", [1e-300, 1e-12, 1e-5, 1e-3, 1.0])
def test_sparse_plan(backend, threshold):
    a, b, C = problem(40, 30)
    r = lowla.sinkhorn(a, b, C, 0.01)
    found = r.plan_sparse(threshold)
    assert isinstance(found, sp.csr_array)
    dense = r.plan
    expected = np.where(dense >= threshold, dense, 0.0)
    # an entry at the threshold itself may fall on either side
    slack = np.abs(dense / threshold - 1.0) < 1e-9
    assert_allclose(np.where(slack, 0, found.toarray()), np.where(slack, 0, expected), rtol=1e-9)
    assert (found.data >= threshold * (1 - 1e-9)).all()


# --- gradients ------------------------------------------------------------------------------------

STEP = 1e-4  # central differences: an error of STEP² times the third derivative


def derivative(value, step=STEP):
    return (value(step) - value(-step)) / (2 * step)


@pytest.mark.parametrize("reg", [0.05, 0.5])
def test_gradients_by_weights_and_costs(backend, reg):
    a, b, C = problem(8, 6)
    r = lowla.sinkhorn(a, b, C, reg, tol=TIGHT)

    def value(da, db, dC):
        return lowla.sinkhorn(a + da, b + db, C + dC, reg, tol=TIGHT).value

    rng = np.random.default_rng(0)
    da = a * (rng.random(8) - 0.5)
    db = b * (rng.random(6) - 0.5)
    da[-1] -= da.sum()
    db[-1] -= db.sum()
    dC = rng.standard_normal(C.shape)
    along = derivative(lambda t: value(t * da, t * db, t * dC))
    exact = r.grad_a @ da + r.grad_b @ db + np.sum(r.grad_C * dC)
    assert along == pytest.approx(exact, abs=1e3 * STEP**2)
    assert abs(exact) > 1e5 * STEP**2


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_by_points(backend, metric):
    X, Y = clouds(9, 7, 3)
    a, b, _ = problem(9, 7)
    rng = np.random.default_rng(0)
    dX, dY = rng.standard_normal(X.shape), rng.standard_normal(Y.shape)

    def value(t):
        moved = X + t * dX, Y + t * dY
        return lowla.sinkhorn_points(*moved, 0.3, a, b, metric=metric, tol=TIGHT).value

    r = lowla.sinkhorn_points(X, Y, 0.3, a, b, metric=metric, tol=TIGHT)
    exact = np.sum(r.grad_X * dX) + np.sum(r.grad_Y * dY)
    assert derivative(value) == pytest.approx(exact, abs=1e3 * STEP**2)
    assert abs(exact) > 1e4 * STEP**2
    assert_allclose(r.grad_X.sum(0), -r.grad_Y.sum(0), atol=1e-12)  # translations


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_the_divergence(backend, metric):
    X, Y = clouds(8, 6, 2)
    rng = np.random.default_rng(0)
    dX, dY = rng.standard_normal(X.shape), rng.standard_normal(Y.shape)

    def value(t):
        moved = X + t * dX, Y + t * dY
        return float(lowla.sinkhorn_divergence(*moved, 0.3, metric=metric, tol=TIGHT))

    r = lowla.sinkhorn_divergence(X, Y, 0.3, metric=metric, tol=TIGHT)
    exact = np.sum(r.grad_X * dX) + np.sum(r.grad_Y * dY)
    assert derivative(value) == pytest.approx(exact, abs=1e3 * STEP**2)
    assert abs(exact) > 1e4 * STEP**2


# --- points ---------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(40, 30, 2), (25, 60, 5), (1, 9, 1), (400, 350, 3)])
def test_points_are_the_dense_problem(backend, shape, dtype, metric):
    X, Y = (Z.astype(dtype) for Z in clouds(*shape))
    a, b, _ = problem(*shape[:2])
    C = costs(X, Y, metric)
    reg = 1e-2 * C.max()
    r = lowla.sinkhorn_points(X, Y, reg, a, b, metric=metric, tol=TIGHT)
    dense = lowla.sinkhorn(a, b, C, reg, tol=TIGHT)
    assert r.info.converged
    assert_allclose(r.plan, dense.plan, rtol=0, atol=3 * TIGHT)
    assert r.value == pytest.approx(dense.value, rel=tol(float, 100))
    assert r.value_linear == pytest.approx(dense.value_linear, rel=1e-9)
    assert_allclose(r.plan_sparse(1e-5).sum(), dense.plan_sparse(1e-5).sum(), rtol=1e-6)
    assert r.grad_X.dtype == dtype
    assert r.grad_X.shape == X.shape


def test_points_far_from_the_origin(backend):
    """Costs from differences, not |x|² + |y|² - 2 xᵀy: an exact translation changes nothing."""
    X, Y = (np.round(1024 * Z) for Z in clouds(50, 40, 2))
    r, moved = (lowla.sinkhorn_points(X + s, Y + s, 1e4) for s in (0.0, 2.0**40))
    assert_array_equal(r.f, moved.f)


def test_points_with_zero_weights(backend):
    X, Y = clouds(30, 20, 2)
    a, b, _ = problem(30, 20)
    a[::4], b[1] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    r = lowla.sinkhorn_points(X, Y, 0.1, a, b)
    inner = lowla.sinkhorn_points(X[a > 0], Y[b > 0], 0.1, a[a > 0], b[b > 0])
    assert_array_equal(r.f[a > 0], inner.f)
    assert np.isneginf(r.f[::4]).all()
    assert (r.grad_X[::4] == 0).all()
    assert_allclose(r.grad_X[a > 0], inner.grad_X, rtol=1e-12)


def test_coinciding_points(backend):
    X = np.repeat(clouds(6, 6, 2)[0], 3, axis=0)
    for metric in METRICS:
        r = lowla.sinkhorn_points(X, X, 0.1, metric=metric)
        assert r.info.converged
        assert np.isfinite(r.grad_X).all()
    one = lowla.sinkhorn_points(np.zeros((4, 3)), np.zeros((5, 3)), 0.1)
    assert_allclose(one.plan, 1 / 20, rtol=1e-9)


@pytest.mark.core
@given(seed=st.integers(0, 2**32 - 1), metric=st.sampled_from(METRICS))
def test_divergence_is_positive_and_vanishes_for_equal_clouds(backend, seed, metric):
    """Feydy et al. 2019, theorem 1."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 20, 2)
    X, Y = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)) + 0.3
    a, b, _ = problem(m, n, seed)
    order = rng.permutation(m)
    for reg in (0.05, 1.0):
        rounding = 1e-8
        same = lowla.sinkhorn_divergence(X, X[order], reg, a, a[order], metric=metric)
        assert abs(float(same)) <= rounding
        r = lowla.sinkhorn_divergence(X, Y, reg, a, b, metric=metric)
        assert r.value >= -rounding
        other = lowla.sinkhorn_divergence(Y, X, reg, b, a, metric=metric)
        assert r.value == pytest.approx(other.value, abs=rounding)
        assert r.converged
        apart = lowla.sinkhorn_divergence(X, X + 1.0, reg, a, a, metric=metric)
        assert apart.value > 0.1


def test_divergence_of_a_translation(backend):
    """For squared distances OT(X, X + v) = OT(X, X) + |v|²."""
    X, _ = clouds(40, 1, 3)
    v = np.array([1.0, -2.0, 0.5])
    r = lowla.sinkhorn_divergence(X, X + v, 0.2, tol=TIGHT)
    assert r.value == pytest.approx(v @ v, rel=1e-9)
    assert_allclose(r.grad_Y.sum(0), 2 * v, rtol=1e-9)
    assert repr(r).startswith("DivergenceResult: 5.25\n")
