"""logsumexp and softmax: scipy.special's answers, the extremes and any layout among them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from lowla._numba.logsumexp import exp
from strategies import LAYOUTS
from tolerances import eps, tol

AXES = [
    (shape, axis) for shape in [(7,), (5, 9), (3, 4, 6), (2, 3, 4, 5)] for axis in range(len(shape))
]
EXTREMES = [0.0, -0.0, 1.0, -1.0, 700.0, 710.0, 1e3, -1e3, 745.2, -745.2, 1e5, -1e5, 1e300, -1e300]


def expected(function, X, axis):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(X.astype(np.float64), axis=axis).astype(X.dtype)


def assert_same(found, exact, n, X):
    """(n + 10) u in the logarithm, 6e-7 in single precision, and the rounding of the result."""
    assert found.dtype == X.dtype
    assert found.shape == exact.shape
    single = 6e-7 if X.dtype == np.float32 else 0.0
    assert_allclose(found, exact, rtol=4 * eps(X.dtype), atol=(n + 10) * eps(float) + single)


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_along_every_axis(backend, shape, axis, dtype):
    X = (30 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    n = shape[axis]
    for k in (axis, axis - len(shape)):
        assert_same(lowla.logsumexp(X, k), expected(scipy.special.logsumexp, X, k), n, X)
        shares = lowla.softmax(X, k)
        assert_allclose(shares, expected(scipy.special.softmax, X, k), rtol=100 * eps(dtype))
        assert_allclose(shares.sum(k, dtype=float), 1.0, rtol=n * eps(dtype))
    exact = expected(scipy.special.logsumexp, X, None)
    assert_same(lowla.logsumexp(X), exact, X.size, X)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_any_layout(backend, layout, dtype):
    X = LAYOUTS[layout](np.random.default_rng(0).standard_normal((40, 30)).astype(dtype))
    before = X.copy()
    for axis in (0, 1):
        exact = expected(scipy.special.logsumexp, X, axis)
        assert_same(lowla.logsumexp(X, axis), exact, 40, X)
        exact = expected(scipy.special.softmax, X, axis)
        assert_allclose(lowla.softmax(X, axis), exact, rtol=20 * eps(dtype))
    assert_same(lowla.logsumexp(X), expected(scipy.special.logsumexp, X, None), X.size, X)
    assert_array_equal(X, before)


@pytest.mark.core
@given(
    rows=st.lists(
        st.lists(
            st.sampled_from(EXTREMES) | st.floats(-1e308, 1e308) | st.floats(-50, 50),
            min_size=4,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    ),
    dtype=st.sampled_from(["float64", "float32"]),
)
def test_extremes(backend, rows, dtype):
    with np.errstate(over="ignore"):
        X = np.clip(np.array(rows), *(np.finfo(dtype).min, np.finfo(dtype).max)).astype(dtype)
    found, exact = lowla.logsumexp(X, 1), expected(scipy.special.logsumexp, X, 1)
    assert_same(found, exact, 4, X)
    shares = lowla.softmax(X)
    exact = expected(scipy.special.softmax, X, 1)
    # SciPy's difference x - max is rounded
    bound = (10 * eps(dtype) + 1e3 * eps(float)) * exact + np.finfo(dtype).tiny
    assert (np.abs(shares.astype(float) - exact) <= bound).all()
    assert_allclose(shares.sum(axis=1, dtype=float), 1.0, rtol=10 * eps(dtype))


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_entry_anywhere_in_a_long_line(backend, bad, dtype):
    """Blocks, groups of vectors and what is left of them all see it."""
    n = 3001
    X = np.random.default_rng(0).standard_normal(n).astype(dtype)
    for place in (0, 7, 511, 512, 1023, 1024, 2047, 2999, 3000):
        Y = X.copy()
        Y[place] = bad
        assert_array_equal(lowla.logsumexp(Y), np.asarray(bad, dtype))
        Y[place] = -np.inf
        exact = expected(scipy.special.logsumexp, Y, 0)
        assert_same(lowla.logsumexp(Y), exact, n, Y)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_infinities_and_nan_are_scipys(backend, dtype):
    inf, nan = np.inf, np.nan
    X = np.array(
        [
            [1, -inf, 2],
            [-inf, -inf, -inf],
            [inf, 1, 2],
            [inf, inf, -inf],
            [inf, -inf, nan],
            [nan, 1, 2],
            [nan, nan, nan],
            [1, 2, -inf],
        ],
        dtype,
    )
    for axis in (0, 1, None):
        exact = expected(scipy.special.logsumexp, X, axis)
        assert_allclose(lowla.logsumexp(X, axis), exact, rtol=4 * eps(dtype))
    assert_allclose(lowla.softmax(X), expected(scipy.special.softmax, X, 1), rtol=10 * eps(dtype))
    assert_allclose(
        lowla.softmax(X, 0), expected(scipy.special.softmax, X, 0), rtol=10 * eps(dtype)
    )


def test_empty_arrays_and_scalars(backend):
    assert lowla.logsumexp(np.zeros((3, 0)), 1).tolist() == [-np.inf] * 3
    assert lowla.logsumexp(np.zeros((0, 3)), 1).shape == (0,)
    assert lowla.logsumexp(np.zeros(0)) == -np.inf
    assert lowla.softmax(np.zeros((3, 0))).shape == (3, 0)
    assert lowla.softmax(np.zeros((0, 3))).shape == (0, 3)
    assert isinstance(lowla.logsumexp(np.ones(3)), np.float64)
    assert isinstance(lowla.logsumexp(np.ones((3, 2), np.float32)), np.float32)
    assert lowla.logsumexp([1, 2, 3]) == pytest.approx(np.log(np.exp([1, 2, 3]).sum()))


def test_long_sums(backend):
    """Many blocks of rows, and a line longer than a block."""
    X = np.random.default_rng(0).standard_normal((3, 400_000))
    exact = expected(scipy.special.logsumexp, X, 1)
    assert_allclose(lowla.logsumexp(X, 1), exact, rtol=tol(float, 100))
    assert_allclose(lowla.logsumexp(X.T, 0), exact, rtol=tol(float, 100))
    assert_allclose(
        lowla.softmax(X.T, 0), expected(scipy.special.softmax, X.T, 0), rtol=tol(float, 100)
    )


@given(x=st.floats(-700, 700))
def test_the_exponential_of_the_loops(x):
    """Two units in the last place of the correctly rounded one (in extended precision)."""
    exact = np.exp(np.longdouble(x))
    assert abs(exp.py_func(np.float64(x)) - exact) <= 2 * eps(float) * exact
    assert exp(x) == exp.py_func(np.float64(x))
