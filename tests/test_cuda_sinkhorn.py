"""Entropic optimal transport, log-sum-exp and softmax of the CUDA backend, emulated on the CPU (see
test_cuda.py).

The properties are those of test_sinkhorn.py and test_logsumexp.py, run on the emulation, where
shared memory and chunks of rows are so small that all ways are taken: 4 rows at a time in shared
memory up to 32 columns, one row up to 128, rows in device memory beyond.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import gpu_arrays
import lowla
import test_logsumexp as lines
import test_sinkhorn as transport
from gpu_arrays import OnGpu
from lowla import _arrays
from lowla._numba.transport import METRICS
from strategies import LAYOUTS
from test_sinkhorn import TIGHT, clouds, costs, marginal_error, problem, uniform
from tolerances import eps, tol


@pytest.fixture
def backend(emulated):
    """The name under which test_sinkhorn.py finds the emulation."""
    return "native"


test_emulated_marginals = transport.test_marginals_are_those_asked_for
test_emulated_certificate = transport.test_the_certificate_tells_bad_potentials
test_emulated_lower_bound = transport.test_value_is_a_lower_bound_whatever_the_error
test_emulated_transposition_and_shifts = transport.test_transposition_and_shifts
test_emulated_units = transport.test_units
test_emulated_assignments = transport.test_assignments
test_emulated_large_reg = transport.test_large_reg_is_the_product_of_the_marginals
test_emulated_answer_or_warning = transport.test_always_an_answer_or_a_warning
test_emulated_zero_weights = transport.test_zero_weights_are_left_out
test_emulated_tiny_weights = transport.test_potentials_of_tiny_weights
test_emulated_one_row = transport.test_one_row_is_a_closed_form
test_emulated_forbidden_pairs = transport.test_forbidden_pairs
test_emulated_infeasible_patterns = transport.test_infeasible_patterns_are_not_claimed_solved
test_emulated_separate_blocks = transport.test_separate_blocks
test_emulated_weights = transport.test_weights_none_empty_integers_and_rounded_sums
test_emulated_layouts = transport.test_any_layout
test_emulated_warm_start = transport.test_warm_start_takes_fewer_sweeps
test_emulated_warm_start_with_zero_weights = transport.test_a_warm_start_keeps_zero_weights_out
test_emulated_sparsity = transport.test_sparsity_limits_newtons_matrix
test_emulated_auto = transport.test_auto_takes_sinkhorns_steps_where_they_contract_fast
test_emulated_limits_and_callback = transport.test_limits_and_callback
test_emulated_result = transport.test_result
test_emulated_sparse_plan = transport.test_sparse_plan
test_emulated_gradients_by_weights = transport.test_gradients_by_weights_and_costs
test_emulated_gradients_by_points = transport.test_gradients_by_points
test_emulated_gradients_of_the_divergence = transport.test_gradients_of_the_divergence
test_emulated_points_far_away = transport.test_points_far_from_the_origin
test_emulated_points_with_zero_weights = transport.test_points_with_zero_weights
test_emulated_coinciding_points = transport.test_coinciding_points
test_emulated_divergence = transport.test_divergence_is_positive_and_vanishes_for_equal_clouds
test_emulated_translations = transport.test_divergence_of_a_translation

test_emulated_axes = lines.test_along_every_axis
test_emulated_layouts_of_lines = lines.test_any_layout
test_emulated_extremes = lines.test_extremes
test_emulated_infinities_and_nan = lines.test_infinities_and_nan_are_scipys
test_emulated_empty_arrays = lines.test_empty_arrays_and_scalars


# The ways that only this backend has

SHAPES = [(9, 7), (40, 30), (30, 90), (6, 300), (300, 5), (3, 2500)]


def sorted_rows(C):
    """Columns lie together: read four rows at a time, however wide."""
    return np.asfortranarray(C)


@pytest.mark.parametrize("order", [np.ascontiguousarray, sorted_rows])
@pytest.mark.parametrize("shape", SHAPES)
def test_emulated_passes_are_those_of_the_host(emulated, host, shape, order):
    """Rows in shared memory by four or one, or in device memory; sparse rows of several tiles."""
    a, b, C = problem(*shape)
    C = order(C)
    for cost, reg in ((C, 0.02), ((*clouds(*shape, 2), "euclidean"), 0.2)):
        options = (reg, "newton", TIGHT, 1000, -1, -1.0, None, None, True, None)
        f, g, facts = emulated.sinkhorn(a, b, cost, *options)
        assert facts["converged"]
        assert_allclose(f, host.sinkhorn(a, b, cost, *options)[0], rtol=0, atol=1e-9)
        P, expected = emulated.transport_plan(cost, f, g, reg), host.transport_plan(cost, f, g, reg)
        assert_allclose(P, expected, rtol=tol(float, 10), atol=np.finfo(float).tiny)
        assert marginal_error(P, a, b) <= TIGHT + tol(float, sum(shape))
        found = emulated.transport_sparse(cost, f, g, reg, 1e-7)
        for ours, theirs in zip(
            found[:2], host.transport_sparse(cost, f, g, reg, 1e-7), strict=False
        ):
            assert_array_equal(ours, theirs)
        assert_array_equal(found[2], P[P >= 1e-7])


@pytest.mark.parametrize("order", [np.ascontiguousarray, sorted_rows])
@pytest.mark.parametrize("shape", SHAPES)
def test_emulated_rows_out_of_the_safe_range(emulated, shape, order):
    """One fit from a guess of f that is up to 1000 reg off: its row sums are a, and its column
    sums, of which the callback has the error, are those of the plan, as after a guess that fits."""
    a, b, C = problem(*shape)
    g = np.linspace(0.0, 0.3, shape[1])
    f = 0.1 * np.log(a) - 0.1 * transport.logsumexp((g - C) / 0.1, 1)
    exact = np.exp((f[:, None] + g - C) / 0.1)
    error = np.abs(exact.sum(0) - b).sum()
    assert 1e-3 < error < 1.9
    for guess in (f, f + np.linspace(-100.0, 100.0, shape[0])):
        seen = []
        with pytest.warns(lowla.ConvergenceWarning, match="after 1 sweeps"):
            r = lowla.sinkhorn(
                a, b, order(C), 0.1, init=(guess, g), warmup=0, max_iter=1, callback=seen.append
            )
        assert_allclose(r.plan, exact, rtol=tol(float, sum(shape)))
        assert [info.marginal_error for info in seen] == [pytest.approx(error, rel=1e-11)]


def test_emulated_columns_that_underflow_among_those_with_weight(emulated):
    """Sums of columns below 1e-140 are taken again with their maximum: some of some columns."""
    a, b, C = problem(3, 20)
    reg = 2e-4
    g = reg * np.log(b)
    f = reg * np.log(a) - reg * transport.logsumexp((g - C) / reg, 1)
    assert (np.exp((f[:, None] + g - C) / reg).sum(0) < 1e-140).any()
    wide_a, wide_b, wide_C = np.zeros(5), np.zeros(27), np.full((5, 27), 7.0)
    rows, columns = np.arange(1, 4), np.arange(5, 25)
    wide_a[rows], wide_b[columns], wide_C[np.ix_(rows, columns)] = a, b, C
    options = {"method": "sinkhorn", "max_iter": 40}
    with pytest.warns(lowla.ConvergenceWarning):
        inner = lowla.sinkhorn(a, b, C, reg, **options)
    with pytest.warns(lowla.ConvergenceWarning):
        r = lowla.sinkhorn(wide_a, wide_b, wide_C, reg, **options)
    assert_array_equal(r.f[rows], inner.f)
    assert_array_equal(r.g[columns], inner.g)
    P = np.exp((inner.f[:, None] + inner.g - C) / reg)
    assert inner.info.marginal_error == pytest.approx(marginal_error(P, a, b), rel=1e-9)
    assert inner.info.marginal_error < 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [0, 1, 8, 11])
def test_emulated_gradients_of_any_dimension(emulated, host, metric, d):
    """Coordinates go by eight."""
    X, Y = clouds(20, 270, d)
    f, g = np.full(20, -1.0), np.zeros(270)
    f[3] = -np.inf
    found = emulated.transport_gradient((X, Y.astype("f4"), metric), f, g, 4.0)
    expected = host.transport_gradient((X, Y.astype("f4").astype(float), metric), f, g, 4.0)
    for ours, theirs in zip(found, expected, strict=True):
        assert_allclose(
            ours, theirs, rtol=0, atol=tol(float, 270) * max(1, np.abs(theirs).max(initial=0))
        )
    assert not d or (np.abs(found[0]).max() > 1 and (found[0][3] == 0).all())


@pytest.mark.parametrize("layout", transport.layouts)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_emulated_points_in_any_layout(emulated, layout, dtype):
    X, Y = (Z.astype(dtype) for Z in clouds(30, 40, 3))
    expected = lowla.sinkhorn_points(X, Y, 0.2)
    r = lowla.sinkhorn_points(LAYOUTS[layout](X), LAYOUTS[layout](Y), 0.2)
    assert_array_equal(r.f, expected.f)
    assert r.grad_X.dtype == dtype
    assert_array_equal(r.grad_X, expected.grad_X)
    dense = lowla.sinkhorn(None, None, costs(X, Y), 0.2)
    assert_allclose(r.plan, dense.plan, rtol=0, atol=3e-9)


def test_emulated_random_assignment_problem(emulated):
    C = np.random.default_rng(0).random((300, 300))
    r = lowla.sinkhorn(None, None, C, 1 / 1200, tol=TIGHT)
    transport.assert_few_steps(r, uniform(300), uniform(300))


def test_emulated_costs_that_are_not_finite(emulated):
    """Several chunks of rows, and entries in any of them."""
    C = np.random.default_rng(0).random((60, 40))
    for value in (np.nan, -np.inf):
        for i, j in ((0, 0), (31, 7), (59, 39)):
            bad = C.copy()
            bad[i, j] = value
            with pytest.raises(ValueError, match="C contains NaN or -inf"):
                lowla.sinkhorn(None, None, bad, 0.1)
            r = lowla.sinkhorn(None, None, bad, 0.1, check_finite=False)
            assert np.isnan(np.concatenate(r)).all()
    C[17] = np.inf
    with pytest.raises(ValueError, match="got only inf in row 17"):
        lowla.sinkhorn(None, None, C, 0.1)
    with pytest.raises(ValueError, match="got only inf in column 33"):
        lowla.sinkhorn(None, None, np.roll(C.T, 16, axis=1), 0.1)
    with pytest.raises(ValueError, match="X contains NaN or Inf"):
        lowla.sinkhorn_points(C, C, 0.1)
    r = lowla.sinkhorn_points(C, C, 0.1, check_finite=False)
    assert np.isnan(np.concatenate(r)).all()


@given(
    m=st.integers(1, 40),
    n=st.integers(1, 150),
    form=st.sampled_from(("array", "points")),
    seed=st.integers(0, 2**32 - 1),
)
def test_emulated_results_are_the_same_every_time(emulated, m, n, form, seed):
    """To the last bit: no sum depends on the order in which threads come."""
    X, Y = clouds(m, n, 2, seed)
    runs = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lowla.ConvergenceWarning)
            if form == "points":
                r = lowla.sinkhorn_points(X, Y, 0.5, max_iter=15)
                runs.append([*r, r.plan, r.grad_X, r.grad_Y, r.plan_sparse(1e-9).data])
            else:
                r = lowla.sinkhorn(None, None, costs(X, Y), 0.5, max_iter=15)
                runs.append([*r, r.plan, r.plan_sparse(1e-9).data, lowla.softmax(r.plan, 0)])
    for first, second in zip(*runs, strict=True):
        assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 3, 31, 33, 127, 1000, 20_000])
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_emulated_lines_of_any_length(emulated, rows, n, dtype):
    """8 to 256 threads a line, along it or across; long lines in spans."""
    if rows * n > 100_000:
        rows = 5
    X = (40 * np.random.default_rng(n).standard_normal((rows, n))).astype(dtype)
    for Z, axis in ((X, 1), (np.ascontiguousarray(X.T), 0), (X[:, ::-1], 1)):
        exact = lines.expected(scipy.special.logsumexp, Z, axis)
        lines.assert_same(lowla.logsumexp(Z, axis), exact, n, Z)
        shares, exact = lowla.softmax(Z, axis), lines.expected(scipy.special.softmax, Z, axis)
        assert_allclose(shares, exact, rtol=200 * eps(dtype), atol=np.finfo(dtype).tiny)
        assert shares.shape == Z.shape


def test_emulated_lines_of_many_axes(emulated):
    """More axes than a line's place is computed from, none of which follow one another."""
    X = np.random.default_rng(0).standard_normal((3,) * 9)[..., ::2]
    X = X.transpose(0, 2, 4, 6, 8, 7, 5, 3, 1)
    for axis in (0, 3, 8):
        exact = lines.expected(scipy.special.softmax, X, axis)
        assert_allclose(lowla.softmax(X, axis), exact, rtol=tol(float, 1))
        lines.assert_same(
            lowla.logsumexp(X, axis), lines.expected(scipy.special.logsumexp, X, axis), 3, X
        )
    assert_allclose(lowla.logsumexp(X), scipy.special.logsumexp(X), rtol=tol(float, 1))


def test_emulated_functions_refuse_what_does_not_fit(emulated):
    a, b, C = problem(4, 3)
    X, Y = clouds(4, 3, 2)
    options = (0.1, "newton", 1e-9, 10, -1, -1.0)
    cases = [
        (lambda: emulated.sinkhorn(b, a, C, *options, None, None, True, None), "a and b must have"),
        (lambda: emulated.sinkhorn(a, b, C, *options, b, b, True, None), "f0 and g0 must have"),
        (lambda: emulated.sinkhorn(a, b, C[0], *options, None, None, True, None), "2 dimensions"),
        (lambda: emulated.transport_plan(C, b, b, 0.1), "f and g must have an entry for each row"),
        (lambda: emulated.transport_sparse(C, a, a, 0.1, 1.0), "f and g must have an entry"),
        (lambda: emulated.transport_plan((X, Y[:, :1], "euclidean"), a, b, 0.1), "one dimension"),
        (lambda: emulated.transport_plan((X[0], Y, "euclidean"), a, b, 0.1), "X must have 2 dim"),
        (lambda: emulated.transport_plan((X, Y, "cosine"), a, b, 0.1), 'unknown metric "cosine"'),
        (
            lambda: emulated.transport_gradient((X, Y, "euclidean"), b, b, 0.1),
            "f and g must have an entry for each point",
        ),
        (lambda: emulated.logsumexp(np.array(1.0)), "X must have at least 1 dimension"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    for call, name in (
        (lambda: emulated.transport_plan(C.astype(complex), a, b, 0.1), "C"),
        (lambda: emulated.transport_plan((X, Y.astype(int), "euclidean"), a, b, 0.1), "Y"),
        (lambda: emulated.softmax(C.astype(int)), "X"),
    ):
        with pytest.raises(TypeError, match=f"{name} must be float32 or float64"):
            call()


# Arrays on the GPU

# Which arguments are in main memory, and whether the result is.
IN_MAIN_MEMORY = {
    "sinkhorn": ({"a", "b", "f0", "g0"}, True),
    "transport_plan": ({"f", "g"}, False),
    "transport_sparse": ({"f", "g"}, True),
    "transport_gradient": ({"f", "g"}, False),
    "logsumexp": (set(), False),
    "softmax": (set(), False),
}


@pytest.fixture
def gpu(module, monkeypatch):
    """CuPy and the CUDA backend, as far as they are needed."""
    return gpu_arrays.install(module, IN_MAIN_MEMORY, monkeypatch)


def everything(take, dtype):
    """All that the transport functions return, from arrays as `take` makes them of NumPy's."""
    a, b, C = problem(12, 9)
    X, Y = (take(Z.astype(dtype)) for Z in clouds(12, 9, 2))
    a, b, C = take(a), take(b), take(C.astype(dtype))
    dense = lowla.sinkhorn(a, b, C, 0.1, tol=TIGHT)
    again = lowla.sinkhorn(a, b, C, 0.1, init=dense)
    assert again.info.sweeps <= 2
    points = lowla.sinkhorn_points(X, Y, 0.3, a, b, tol=TIGHT)
    d = lowla.sinkhorn_divergence(X, Y, 0.3, a, b, tol=TIGHT)
    found = [*dense, dense.plan, dense.grad_C, *points, points.plan, points.grad_X, points.grad_Y]
    found += [d.grad_X, d.grad_Y]
    assert all(type(x) is type(C) for x in found)
    sparse = [dense.plan_sparse(1e-5).toarray(), points.plan_sparse(1e-5).toarray()]
    numbers = [dense.value, dense.value_linear, points.value, float(d)]
    assert all(type(x) is float for x in numbers)
    return [_arrays.to_host(x) for x in found] + sparse + [np.array(numbers)], dense.info.backend


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_emulated_arrays_on_the_gpu_stay_there(gpu, dtype):
    """Results are those of the host and of the caller's kind; nothing crosses unasked."""
    ours, backend = everything(gpu.asarray, dtype)
    theirs, _ = everything(np.asarray, dtype)
    assert backend == "cuda"
    for found, expected in zip(ours, theirs, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert_allclose(found, expected, rtol=0, atol=1e-8 + 10 * eps(found.dtype))


def test_emulated_weights_need_not_be_given(gpu):
    _, _, C = problem(12, 9)
    r = lowla.sinkhorn(None, None, gpu.asarray(C), 0.1)
    assert isinstance(r.f, OnGpu)
    assert_allclose(r.f.get(), lowla.sinkhorn(None, None, C, 0.1).f, rtol=0, atol=1e-8)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_emulated_lines_on_the_gpu_stay_there(gpu, axis):
    X = np.random.default_rng(0).standard_normal((4, 5, 6)).transpose(2, 0, 1)
    found = lowla.logsumexp(gpu.asarray(X), axis)
    exact = scipy.special.logsumexp(X, axis)
    if axis is not None:
        assert isinstance(found, OnGpu)
        shares = lowla.softmax(gpu.asarray(X), axis)
        assert isinstance(shares, OnGpu)
        assert_allclose(shares.get(), scipy.special.softmax(X, axis), rtol=tol(float, 1))
    assert_allclose(_arrays.to_host(found), exact, rtol=tol(float, 10))
    line = lowla.softmax(gpu.asarray(X[0, 0]))
    assert isinstance(line, OnGpu)
    assert line.shape == (5,)


def test_emulated_host_arrays_cross_over_where_the_backend_is_asked_for(gpu):
    with lowla.use_backend("cuda"):
        ours, backend = everything(np.asarray, "float64")
        shares = lowla.softmax(np.eye(3), 0)
        total = lowla.logsumexp(np.eye(3))
    theirs, _ = everything(np.asarray, "float64")
    assert backend == "cuda"
    assert type(shares) is np.ndarray
    assert_allclose(shares, scipy.special.softmax(np.eye(3), 0), rtol=tol(float, 1))
    assert total == pytest.approx(scipy.special.logsumexp(np.eye(3)))
    for found, expected in zip(ours, theirs, strict=True):
        assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_emulated_operands_in_two_places_are_refused(gpu):
    a, b, C = problem(4, 3)
    X, Y = clouds(4, 3, 2)
    take = gpu.asarray
    r = lowla.sinkhorn(a, b, C, 0.1)
    where = "must both be in main memory or both on the GPU"
    for call, names in (
        (lambda: lowla.sinkhorn(a, b, take(C), 0.1), "a and the costs"),
        (lambda: lowla.sinkhorn(None, take(b), C, 0.1), "b and the costs"),
        (lambda: lowla.sinkhorn(take(a), take(b), take(C), 0.1, init=r), "init f and the costs"),
        (lambda: lowla.sinkhorn_points(take(X), Y, 0.1), "X and Y"),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == f"{names} {where}"
