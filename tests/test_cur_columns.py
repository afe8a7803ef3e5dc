"""Columns for a product and for a kernel: variances, expected traces, and what is read.

DKM is Drineas, Kannan, Mahoney, "Fast Monte Carlo algorithms for matrices I", SIAM J. Comput. 36
(2006); CETW Chen, Epperly, Tropp, Webber, "Randomly pivoted Cholesky", arXiv:2207.06503.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from lowla import _backend
from strategies import DTYPES, hermitian, matrix_specs
from tolerances import tol

METHODS = ("rpcholesky", "greedy", "uniform", "ridge_leverage")
HOSTS = [n for n in _backend.NAMES if n != "cuda" and _backend.why_not(n) is None]


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Small problems: the BLAS pools of NumPy and SciPy only spin against each other."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


# --- cr_select -----------------------------------------------------------------------------------


def factors(dtype="float64", seed=0, shape=(5, 8, 4)):
    rng = np.random.default_rng(seed)
    m, n, p = shape
    A = rng.standard_normal((m, n)) * rng.uniform(0.1, 3.0, n)
    B = rng.standard_normal((n, p)) * rng.uniform(0.1, 3.0, (n, 1))
    if np.dtype(dtype).kind == "c":
        A, B = A * np.exp(1j * rng.uniform(0, 6, A.shape)), B * (1 + 1j)
    return A.astype(dtype), B.astype(dtype)


def product(A, B, r):
    return (A[:, r.indices] * r.weights) @ B[r.indices]


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_the_sampled_product_is_unbiased_with_the_variance_of_the_lemma(backend, dtype):
    # DKM lemma 4: E CR = A B, E ||A B - C R||_F^2 = (s^2 - ||A B||_F^2) / k. The mean of t draws is
    # within 5 of its standard deviations; the mean square has itself a relative one below
    # sqrt(20 / t) here (the fourth moment of a mean of k bounded terms).
    A, B = factors(dtype)
    k, trials = 6, 2500
    exact = (A @ B).astype(np.result_type(dtype, float))
    s = float(np.sum(np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=1)))
    variance = (s**2 - np.linalg.norm(exact) ** 2) / k
    errors = [product(A, B, lowla.cr_select(A, B, k, rng=t)) - exact for t in range(trials)]
    assert np.linalg.norm(np.mean(errors, axis=0)) <= 5 * np.sqrt(variance / trials)
    squares = np.sum(np.abs(errors) ** 2, axis=(1, 2))
    assert squares.mean() == pytest.approx(variance, rel=np.sqrt(20 / trials))
    uniform = 8 * np.sum((np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=1)) ** 2)
    assert (uniform - np.linalg.norm(exact) ** 2) / k > variance * (1 + 2 * np.sqrt(20 / trials))
    info = lowla.cr_select(A, B, k, rng=0).info
    scale = np.linalg.norm(A) * np.linalg.norm(B)
    assert info.error == pytest.approx(s / (np.sqrt(k) * scale), rel=tol(dtype, 8))
    assert info.error <= 1 / np.sqrt(k)


@given(spec=matrix_specs(max_m=20, max_n=20), k=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_samples_are_valid_for_every_matrix(backend, spec, k, seed):
    A = spec.build()
    indices, weights = r = lowla.cr_select(A, np.eye(A.shape[1]), k, rng=seed)
    assert (indices.dtype, weights.dtype) == (np.int64, np.float64)
    assert (indices.shape, weights.shape) == ((k,), (k,))
    assert np.all(np.diff(indices) >= 0)
    assert np.all((indices >= 0) & (indices < A.shape[1]))
    assert np.all(np.isfinite(weights) & (weights >= 0))
    assert 0 <= r.info.captured <= 1 + tol(float, 20)


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_pairs(backend, form, dtype):
    A, B = factors(dtype, shape=(9, 30, 7))
    sizes = np.linalg.norm(A, axis=0) * np.linalg.norm(B, axis=1)
    r = lowla.cr_select(form(A), form(B), 11, method="top")
    assert_array_equal(r.indices, np.sort(np.argsort(-sizes)[:11]))
    assert_array_equal(r.weights, 1)
    left = np.linalg.norm(A @ B - product(A, B, r)) / (np.linalg.norm(A) * np.linalg.norm(B))
    assert left <= r.info.error
    whole = lowla.cr_select(form(A), form(B), 30, method="top")
    assert (whole.info.error, whole.info.captured) == (0.0, pytest.approx(1.0))


def test_products_of_nothing(backend):
    Z = np.zeros((3, 4))
    r = lowla.cr_select(Z, np.ones((4, 2)), 5)
    assert_array_equal(product(Z, np.ones((4, 2)), r), 0)
    assert (r.info.error, r.info.captured) == (0.0, 1.0)
    assert lowla.cr_select(np.ones((0, 4)), np.ones((4, 2)), 2).indices.shape == (2,)
    assert lowla.cr_select(np.ones((2, 4)), np.ones((4, 0)), 2, method="top").info.error == 0.0
    bad = np.full((3, 4), np.nan)
    assert np.isnan(lowla.cr_select(bad, np.ones((4, 2)), 2, check_finite=False).weights).all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scales_cancel_in_the_sample(backend, scale):
    A, B = factors()
    plain, r = lowla.cr_select(A, B, 9, rng=1), lowla.cr_select(A * scale, B, 9, rng=1)
    assert_array_equal(plain.indices, r.indices)
    assert_allclose(plain.weights, r.weights, rtol=tol(float, 8))


# --- nystrom_columns -----------------------------------------------------------------------------


def gaussian_kernel(points, width=1.0):
    """K(rows, cols) that counts what it is asked for."""

    def K(rows, cols):
        K.entries += len(rows) * len(cols)
        squares = np.sum(points[rows] ** 2, axis=1)[:, None] + np.sum(points[cols] ** 2, axis=1)
        return np.exp(-(squares - 2 * points[rows] @ points[cols].T) / (2 * width**2))

    K.entries = 0
    return K


def outliers(n=200, far=20, seed=0):
    """A cluster and points far from it: CETW section 2.4, on which greedy pivots do badly."""
    rng = np.random.default_rng(seed)
    points = 0.3 * rng.standard_normal((n, 2))
    points[:far] = 60.0 * np.arange(1, far + 1)[:, None]
    everything = np.arange(n)
    return gaussian_kernel(points)(everything, everything)


@pytest.mark.core
@pytest.mark.parametrize("method", METHODS)
@given(A=hermitian(max_n=60, definite=True), data=st.data(), seed=st.integers(0, 2**32))
def test_the_factor_is_that_of_the_chosen_columns(backend, method, A, data, seed):
    n = len(A)
    k = data.draw(st.integers(1, n))
    reg = 1e-3 if method == "ridge_leverage" else None
    columns, F = r = lowla.nystrom_columns(A, k, method=method, reg=reg, rng=seed)
    assert sorted(set(columns.tolist())) == sorted(columns.tolist())
    assert columns.dtype == np.int64
    assert np.all((columns >= 0) & (columns < n))
    assert (F.shape, F.dtype) == ((n, k), A.dtype)
    assert np.all(F[:, r.info.rank :] == 0)
    wide = A.astype(np.result_type(A.dtype, float))
    G = F.astype(wide.dtype)
    trace = np.trace(wide).real
    residual = wide - G @ G.conj().T
    # What is left is positive semidefinite, zero on the columns, and of the certified trace.
    rounding = tol(A.dtype, n, n)
    assert np.linalg.eigvalsh(residual).min() >= -rounding * trace
    used = columns[: r.info.rank]
    assert np.abs(residual[:, used]).max(initial=0) <= np.sqrt(rounding) * trace
    assert r.info.error == pytest.approx(np.trace(residual).real / trace, abs=rounding)
    if r.info.rank < k and method in ("rpcholesky", "greedy"):
        assert r.info.error <= rounding


def plain_rpcholesky(K, k, rng):
    """CETW algorithm 1; the relative trace error."""
    left, F = np.diag(K).copy(), np.zeros((len(K), k))
    for i in range(k):
        s = rng.choice(len(K), p=left / left.sum())
        g = K[:, s] - F[:, :i] @ F[s, :i]
        F[:, i] = g / np.sqrt(g[s])
        left = np.maximum(left - F[:, i] ** 2, 0.0)
        left[s] = 0.0
    return left.sum() / np.trace(K)


def test_the_expected_trace_error_of_rpcholesky(backend):
    # CETW theorem 3.1: k >= r/e + r log(1/(e eta)) columns leave (1 + e) times the best rank-r
    # trace in expectation. Greedy and uniform columns do not reach it where there are outliers.
    K = outliers()
    w = np.linalg.eigvalsh(K)[::-1]
    rank, accuracy = 10, 0.5
    eta = w[rank:].sum() / w.sum()
    k = int(np.ceil(rank / accuracy + rank * np.log(1 / (accuracy * eta))))
    found = [lowla.nystrom_columns(K, k, rng=seed).info.error for seed in range(100)]
    assert np.mean(found) <= (1 + accuracy) * eta
    assert k < 60
    few = 16
    theirs = [plain_rpcholesky(K, few, np.random.default_rng(seed)) for seed in range(300)]
    ours = [lowla.nystrom_columns(K, few, rng=seed).info.error for seed in range(300)]
    # Blocks with rejection draw from the same distribution: equal means to 5 standard errors.
    spread = np.hypot(np.std(theirs), np.std(ours)) / np.sqrt(300)
    assert abs(np.mean(ours) - np.mean(theirs)) <= 5 * spread
    greedy = lowla.nystrom_columns(K, few, method="greedy").info.error
    assert greedy > np.mean(ours) + 10 * spread


def test_the_first_pivot_is_drawn_by_the_diagonal(backend):
    K = np.diag([4.0, 3.0, 2.0, 1.0, 0.0])
    draws = [lowla.nystrom_columns(K, 1, rng=seed).columns[0] for seed in range(2000)]
    found = np.bincount(draws, minlength=5) / 2000
    assert_allclose(found, np.diag(K) / 10, atol=4 * np.sqrt(0.25 / 2000))
    assert found[4] == 0


def test_greedy_is_cholesky_with_complete_pivoting(backend):
    rng = np.random.default_rng(0)
    G = rng.standard_normal((30, 30)) * 0.7 ** np.arange(30)
    K = G @ G.T
    left, expected = K.copy(), []
    for _ in range(10):
        s = int(np.argmax(np.diag(left)))
        expected.append(s)
        left = left - np.outer(left[:, s], left[s]) / left[s, s]
    r = lowla.nystrom_columns(K, 10, method="greedy")
    assert_array_equal(r.columns, expected)
    assert r.info.error == pytest.approx(np.trace(left) / np.trace(K))


def test_ridge_leverage_finds_small_clusters(backend):
    # Musco and Musco (2017): scores of duplicates share the leverage of their direction; uniform
    # columns miss clusters of 1 %.
    labels = np.repeat(np.arange(6), [295, 1, 1, 1, 1, 1])
    K = (labels[:, None] == labels).astype(float)

    def as_function(rows, cols):
        return K[np.ix_(rows, cols)]

    def missed(given, method, **options):
        found = [
            lowla.nystrom_columns(given, 9, method=method, rng=seed, **options)
            for seed in range(60)
        ]
        return np.mean([r.info.rank < 6 for r in found])

    assert missed(K, "ridge_leverage", reg=1e-2) <= 0.2
    assert missed(as_function, "ridge_leverage", reg=1e-2, diagonal=np.ones(300)) <= 0.2
    assert missed(K, "uniform") == 1.0
    # The scores themselves: 1 / (size + reg) for each of a cluster.
    draws = [
        lowla.nystrom_columns(K, 1, method="ridge_leverage", reg=1e-2, rng=s).columns[0]
        for s in range(600)
    ]
    assert np.mean(np.array(draws) >= 295) == pytest.approx(5 / 6, abs=4 * np.sqrt(0.25 / 600))


def test_a_kernel_of_20000_points_is_never_formed(backend):
    n, k = 20_000, 40
    points = np.random.default_rng(0).standard_normal((n, 2))
    K = gaussian_kernel(points)
    r = lowla.nystrom_columns(K, k, diagonal=np.ones(n), rng=0)
    assert r.info.entries == K.entries
    assert K.entries <= 1.1 * n * k
    some = np.random.default_rng(1).choice(n, 200, replace=False)
    block = K(some, some)
    assert np.trace(block - r.F[some] @ r.F[some].T) / 200 == pytest.approx(r.info.error, rel=0.3)
    assert r.info.error < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_function_and_its_matrix_give_the_same_columns(backend, method):
    points = np.random.default_rng(0).standard_normal((120, 3))
    everything = np.arange(120)
    whole = gaussian_kernel(points)(everything, everything)
    reg = {"reg": 0.1} if method == "ridge_leverage" else {}
    for dtype in ("float32", "float64"):
        K = ((whole + whole.T) / 2).astype(dtype)
        a = lowla.nystrom_columns(K, 20, method=method, rng=5, **reg)
        b = lowla.nystrom_columns(
            lambda rows, cols, K=K: K[np.ix_(rows, cols)],
            20,
            method=method,
            diagonal=np.diag(K),
            rng=5,
            **reg,
        )
        assert a.F.dtype == b.F.dtype == dtype
        if method != "ridge_leverage":  # exact scores there, an estimate here
            assert_array_equal(a.columns, b.columns)
            assert_array_equal(a.F, b.F)


@pytest.mark.parametrize("method", METHODS)
def test_one_seed_gives_one_choice(backend, method):
    K = outliers(seed=1)
    reg = {"reg": 0.1} if method == "ridge_leverage" else {}
    chosen = set()
    for name in HOSTS:
        with lowla.use_backend(name):
            for _ in range(2):
                r = lowla.nystrom_columns(K, 12, method=method, rng=9, **reg)
                chosen.add(tuple(r.columns.tolist()))
    assert len(chosen) == 1
    A, B = factors()
    samples = set()
    for name in HOSTS:
        with lowla.use_backend(name):
            samples.add(tuple(lowla.cr_select(A, B, 9, rng=3).indices.tolist()))
    assert len(samples) == 1


def test_a_zero_kernel_and_bad_kernels(backend):
    r = lowla.nystrom_columns(np.zeros((4, 4)), 2)
    assert (r.info.rank, r.info.error) == (0, 0.0)
    assert_array_equal(r.F, 0)
    assert_array_equal(r.columns, [0, 1])
    indefinite = np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(np.linalg.LinAlgError, match="K must be positive semidefinite, but after 1"):
        lowla.nystrom_columns(indefinite, 1)
    bad = np.full((4, 4), np.nan)
    assert np.isnan(lowla.nystrom_columns(bad, 2, check_finite=False).F).all()


def test_an_error_in_the_kernel_comes_out(backend):
    def K(rows, cols):
        raise KeyError("the kernel's own")

    with pytest.raises(KeyError, match="the kernel's own"):
        lowla.nystrom_columns(K, 2, diagonal=np.ones(5))


def test_results_are_tuples_with_names(backend):
    for result in (
        lowla.cr_select(*factors(), 3, rng=0),
        lowla.nystrom_columns(outliers(), 3, rng=0),
    ):
        for again in (pickle.loads(pickle.dumps(result)), copy.copy(result)):
            assert again.info == result.info
            for one, other in zip(again, result, strict=True):
                assert_array_equal(one, other)
        assert repr(result).splitlines()[0].endswith("float64")
        assert repr(result.info).startswith(type(result.info).__name__ + "\n")
