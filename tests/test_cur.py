"""Decompositions by columns and rows: the bounds, the certificate, and what has broken others.

GE is Gu, Eisenstat, "Efficient algorithms for computing a strong rank-revealing QR factorization",
SIAM J. Sci. Comput. 17 (1996); DMM Drineas, Mahoney, Muthukrishnan, "Relative-error CUR matrix
decompositions", SIAM J. Matrix Anal. Appl. 30 (2008); SE Sorensen, Embree, "A DEIM induced CUR
factorization", SIAM J. Sci. Comput. 38 (2016).
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.linalg.interpolative
import scipy.sparse as sp
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import aslinearoperator

import lowla
from column_matrices import FORMS, column_error, error_of, heavy_tailed, kahan
from lowla import _backend
from spectra import matrix_with_spectrum
from strategies import DTYPES, matrices_with_rank, matrix_specs
from thread_counts import with_1_2_and_7_threads
from tolerances import best_error, eps, orthogonality, relative_error, tol

METHODS = ("qrcp", "lupp", "deim", "leverage")
MIDDLES = ("lstsq", "cross")
# U is a matrix of numbers: in the worst case half of the digits are lost (docs/cur.md).
HALF = 0.5


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Small problems: the BLAS pools of NumPy and SciPy only spin against each other."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


SPECTRA = {
    "decaying": lambda seed: matrix_with_spectrum(40, 30, 0.6 ** np.arange(30), seed=seed),
    "heavy-tailed": lambda seed: heavy_tailed(40, 30, seed),
    "Kahan": lambda seed: kahan(30, 0.9 + seed / 500),
}


def assert_certified(A, X, Z, info):
    """`info.error` is the error: to 1 % above rounding level, within 3 times at it."""
    true = error_of(A, X, Z)
    rounding = 64 * eps(A.dtype) * np.sqrt(max(A.shape))
    if true > rounding:
        assert info.error == pytest.approx(true, rel=0.01)
    else:
        assert info.error <= max(3 * true, rounding)


def is_permutation(perm, n):
    return perm.dtype == np.int64 and sorted(perm.tolist()) == list(range(n))


def are_distinct(indices, n):
    found = indices.tolist()
    return len(set(found)) == len(found) and all(0 <= i < n for i in found)


def backend_function(backend, name):
    with lowla.use_backend(backend):
        return getattr(_backend.select_for(name, "host")[1], name)


# --- pivots --------------------------------------------------------------------------------------


@given(spec=matrix_specs(max_m=30, max_n=40, kinds=("gauss", "geometric", "integer")))
def test_pivoted_qr_takes_the_longest_column_each_time(backend, spec):
    # Businger and Golub (1965): R_jj is at least the norm of every later column below row j.
    Y = spec.build()
    k = min(Y.shape)
    perm, R, rank = backend_function(backend, "pivoted_qr")(Y, k, tol(spec.dtype, max(Y.shape)))
    wide = Y.astype(np.result_type(Y.dtype, float))[:, perm]
    assert is_permutation(perm, Y.shape[1])
    assert 0 <= rank <= k
    slack = tol(float, max(Y.shape)) * max(1.0, np.linalg.norm(wide))
    assert np.all(np.abs(np.tril(R, -1)) <= slack)
    assert_allclose(R.conj().T @ R, wide.conj().T @ wide, atol=slack * np.linalg.norm(wide))
    diagonal = np.diagonal(R)
    assert np.all(diagonal.real >= 0)
    assert np.all(np.abs(diagonal.imag) <= slack)
    for j in range(k):
        assert np.linalg.norm(R[j:, j:], axis=0).max() <= diagonal[j].real + slack


@pytest.mark.parametrize("dtype", DTYPES)
def test_pivoted_qr_finds_the_rank(backend, dtype):
    function = backend_function(backend, "pivoted_qr")
    for rank in (1, 4, 9):
        A = matrix_with_spectrum(30, 50, np.ones(rank), dtype, seed=rank)
        assert function(A, 20, tol(dtype, 50))[2] == rank


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_pivoted_lu_takes_the_largest_entry_of_each_column(backend, dtype):
    Y = matrix_with_spectrum(40, 8, np.logspace(0, -3, 8), dtype)
    perm = backend_function(backend, "pivoted_lu_rows")(Y, 8)
    assert is_permutation(perm, 40)
    assert np.all(np.diff(perm[8:]) > 0)
    left = Y[perm].copy()
    for j in range(8):
        size = np.abs(left[j:, j].real) + np.abs(left[j:, j].imag)  # as LAPACK measures
        assert size.max() <= size[0] * (1 + tol(dtype, 8))
        left[j + 1 :] -= np.outer(left[j + 1 :, j] / left[j, j], left[j])


# --- qrcp ----------------------------------------------------------------------------------------


@pytest.mark.core
@given(drawn=matrices_with_rank(max_m=60, max_n=60), seed=st.integers(0, 2**32))
def test_qrcp_is_a_certified_pivoted_qr(backend, drawn, seed):
    A, k = drawn
    m, n = A.shape
    Q, R, perm = r = lowla.qrcp(A, k, rng=seed)
    assert (Q.shape, R.shape) == ((m, k), (k, n))
    assert Q.dtype == R.dtype == A.dtype
    assert is_permutation(perm, n)
    assert orthogonality(Q) <= tol(A.dtype, max(m, n))
    assert np.all(np.tril(R, -1) == 0)
    assert np.all(np.diagonal(R).real >= 0)
    assert_certified(A[:, perm], Q, R, r.info)
    assert r.info.rank <= k


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_qrcp_finds_the_rank(backend, form, dtype):
    for rank in (1, 5, 17):
        A = matrix_with_spectrum(80, 70, np.linspace(1, 2, rank), dtype, seed=rank)
        Q, R, perm = r = lowla.qrcp(FORMS[form](A), 20, rng=0)
        assert r.info.rank == rank
        assert error_of(A[:, perm], Q, R) <= tol(dtype, 80)
        r = lowla.qrcp(FORMS[form](A), tol=1e-3, rng=0)
        assert r.Q.shape[1] == rank


@pytest.mark.core
@pytest.mark.parametrize("form", ["dense", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_columns_give_the_same_on_any_number_of_threads(backend, form, dtype):
    # From 512 real columns on, products with A^H are formed in slabs of columns.
    A = matrix_with_spectrum(130, 700, 0.9 ** np.arange(130), dtype)
    given = FORMS[form](A)
    found = with_1_2_and_7_threads(lambda: lowla.qrcp(given, 9, rng=0))
    Q, R, perm = found[0]
    assert_allclose(R, Q.conj().T @ A[:, perm], atol=tol(dtype, 700))
    assert found[0].info.error == pytest.approx(column_error(A, perm[:9]), rel=1e-3)
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            if backend == "numba":  # the BLAS decides there
                assert_allclose(x, y, atol=tol(dtype, 700))
            else:
                assert_array_equal(x, y)


@pytest.mark.core
def test_columns_of_any_scale_give_an_orthonormal_basis(backend):
    # Columns from 1e-300 to 1e300: squares of what is left of them are zero, or have few bits.
    for seed in range(40):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((7, 9)) * 10.0 ** rng.integers(-300, 300, 9)
        for X in (A, A.T, A + 1j * A):
            Q, R, _ = lowla.qrcp(X, 2 + seed % 5, rng=seed)
            assert orthogonality(Q) <= tol(float, 9)
            assert np.all(np.diagonal(R).real >= 0)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-9])
@pytest.mark.parametrize("shape", [(120, 90), (90, 120)])
def test_a_tolerance_is_reached_with_no_pivot_to_spare(backend, shape, tolerance):
    A = matrix_with_spectrum(*shape, np.exp(-np.arange(90) / 3))
    r = lowla.qrcp(A, tol=tolerance, rng=1)
    assert r.info.error <= tolerance
    assert column_error(A, r.perm[: len(r.R)]) <= tolerance * (1 + 1e-6)
    assert column_error(A, r.perm[: len(r.R) - 1]) > tolerance


# --- interpolative decompositions ----------------------------------------------------------------


@pytest.mark.core
@given(
    drawn=matrices_with_rank(max_m=50, max_n=50),
    seed=st.integers(0, 2**32),
    bound=st.sampled_from([1.1, 2.0, 10.0]),
    method=st.sampled_from(["sketch", "direct"]),
)
def test_coefficients_are_bounded_and_certified(backend, drawn, seed, bound, method):
    # GE: an exchange with |T_ij| > f multiplies the determinant by more than f, so it ends.
    A, k = drawn
    n = A.shape[1]
    idx, proj = r = lowla.interp_decomp(A, k, bound=bound, method=method, rng=seed)
    assert is_permutation(idx, n)
    assert proj.shape == (k, n - k)
    assert proj.dtype == A.dtype
    assert r.k == k
    assert np.abs(proj).max(initial=0) <= bound * (1 + tol(A.dtype, 1) + 2e-6)
    P = r.interp_matrix()
    assert_array_equal(P[:, idx[:k]], np.eye(k))
    assert_array_equal(r.skel(A), A[:, idx[:k]])
    assert_certified(A, A[:, idx[:k]], P, r.info)


def test_kahans_matrix_needs_exchanges(backend):
    # Pivoted QR leaves coefficients that grow like 2^k there: the bound is not vacuous.
    for n in (20, 30):
        A = kahan(n)
        perm, R, _ = backend_function(backend, "pivoted_qr")(A, n - 1, 0.0)
        assert_array_equal(perm, np.arange(n))
        assert np.abs(np.linalg.solve(R[:, :-1], R[:, -1:])).max() > 10
        for method in ("sketch", "direct"):
            r = lowla.interp_decomp(A, n - 1, method=method, rng=0)
            assert r.info.swaps >= 1
            assert np.abs(r.proj).max() <= 2.0


@pytest.mark.parametrize("bound", [1.5, 2.0])
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_strong_rrqr_bounds(backend, kind, bound):
    # GE theorem 3.2: sigma_i(R11) >= sigma_i(A) / q, ||A - C P||_2 <= q sigma_{k+1}(A).
    for seed in range(10):
        A, k = SPECTRA[kind](seed), 3 + 2 * seed
        n = A.shape[1]
        q = np.sqrt(1 + bound**2 * k * (n - k))
        S = np.linalg.svd(A, compute_uv=False)
        r = lowla.interp_decomp(A, k, bound=bound, method="direct")
        chosen = np.linalg.svd(A[:, r.idx[:k]], compute_uv=False)
        assert np.all(chosen >= S[:k] / q * (1 - 1e-5))
        residual = np.linalg.norm(A - r.toarray(A), 2)
        assert residual <= q * S[k] * (1 + 1e-5) + tol(float, n) * S[0]


def growth(A, cols):
    """GE lemma 3.1: the factors by which exchanges multiply the determinant of R11, the largest."""
    k, rest = len(cols), np.setdiff1d(np.arange(A.shape[1]), cols)
    R = np.linalg.qr(A[:, np.concatenate([cols, rest])], mode="r")
    inverse = np.linalg.inv(R[:k, :k])
    below = np.linalg.norm(R[k:, k:], axis=0)
    rows = np.linalg.norm(inverse, axis=1)
    return np.sqrt(np.abs(inverse @ R[:k, k:]) ** 2 + np.outer(rows, below) ** 2).max()


@pytest.mark.parametrize("n", [6, 8, 10])
def test_no_exchange_is_worth_while(backend, n):
    # GE theorem 3.2 needs more than bounded coefficients: no exchange grows the determinant by
    # more than f. On Kahan's matrix the pivots of QR keep |T| below this bound, and not that.
    A, k = kahan(n, 0.9), n - 1
    R = backend_function(backend, "pivoted_qr")(A, k, 0.0)[1]
    largest = np.abs(np.linalg.solve(R[:, :k], R[:, k:])).max()
    bound = np.sqrt(largest * growth(A, np.arange(k)))
    assert largest < 0.99 * bound
    cols = lowla.interp_decomp(A, k, bound=bound, method="direct").idx[:k]
    assert growth(A, cols) <= bound * (1 + 2e-6)


@pytest.mark.parametrize("kind", SPECTRA)
def test_the_factor_over_the_best_rank_k_error(backend, kind):
    # GE for the sketch's pivots, ||R22||_F <= q ||A - A_k||_F, counted over 200 seeds; the columns
    # that come last in the order break it where it matters which are taken.
    k, worst, wrong = 8, 0.0, 0.0
    for seed in range(200):
        A = SPECTRA[kind](seed)
        best = best_error(np.linalg.svd(A, compute_uv=False), k)
        r = lowla.interp_decomp(A, k, rng=seed)
        worst = max(worst, r.info.error / best)
        wrong = max(wrong, column_error(A, r.idx[-k:]) / best)
    q = np.sqrt(1 + 4 * k * (A.shape[1] - k))
    assert worst <= q
    assert worst <= 4.0  # measured 1.3 to 2.1: an order below the theorem
    if kind == "heavy-tailed":
        assert wrong > q


@pytest.mark.parametrize("kind", ["polynomial", "exponential", "coherent"])
def test_interp_decomp_is_as_accurate_as_scipys(backend, kind):
    ours, theirs = [], []
    for seed in range(15):
        if kind == "coherent":
            A = heavy_tailed(90, 70, seed)
        else:
            S = 1 / np.arange(1, 71) if kind == "polynomial" else np.exp(-np.arange(70) / 5)
            A = matrix_with_spectrum(90, 70, S, seed=seed)
        ours.append(lowla.interp_decomp(A, 12, rng=seed).info.error)
        idx, proj = scipy.linalg.interpolative.interp_decomp(A, 12, rand=False)
        residual = A[:, idx[12:]] - A[:, idx[:12]] @ proj
        theirs.append(np.linalg.norm(residual) / np.linalg.norm(A))
    assert np.median(ours) <= 1.1 * np.median(theirs)


@pytest.mark.parametrize(
    ("shape", "k"), [((60, 40), 40), ((40, 60), 40), ((60, 40), 1), ((1, 7), 1), ((7, 1), 1)]
)
def test_ranks_on_which_scipy_crashes_or_gives_empty_results(backend, shape, k):
    # scipy 1.17: k = 50 on (60, 40) is a segmentation fault, (1, n) fails.
    A = np.random.default_rng(0).standard_normal(shape)
    r = lowla.interp_decomp(A, k, rng=0)
    assert r.proj.shape == (k, shape[1] - k)
    if k == min(shape):
        assert error_of(A, A[:, r.idx[:k]], r.interp_matrix()) <= tol(float, 60)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rank_deficient_input_is_reproduced_to_rounding(backend, form, dtype):
    A = matrix_with_spectrum(60, 45, np.linspace(1, 2, 6), dtype)
    given = FORMS[form](A)
    for k in (6, 11):
        r = lowla.interp_decomp(given, k, rng=2)
        assert r.info.rank == 6
        assert np.abs(r.proj).max() <= 2.0 * (1 + tol(dtype, 1))
        assert error_of(A, A[:, r.idx[:k]], r.interp_matrix()) <= tol(dtype, 60)
        row = lowla.row_interp_decomp(given, k, rng=2)
        assert row.proj.shape == (k, 60 - k)
        assert error_of(A, row.interp_matrix().T, A[row.idx[:k]]) <= tol(dtype, 60)
        two = lowla.two_sided_interp_decomp(given, k, rng=2)
        assert error_of(A, two.X @ A[np.ix_(two.rows, two.cols)], two.Y) <= tol(dtype, 200)
    assert lowla.interp_decomp(given, 1e-4, rng=2).k == 6


@given(drawn=matrices_with_rank(max_m=50, max_n=50), seed=st.integers(0, 2**32))
def test_two_sided_coefficients_are_bounded_and_the_error_that_of_the_columns(backend, drawn, seed):
    A, k = drawn
    rows, cols, X, Y = r = lowla.two_sided_interp_decomp(A, k, rng=seed)
    assert are_distinct(rows, A.shape[0])
    assert are_distinct(cols, A.shape[1])
    assert_array_equal(X[rows], np.eye(k))
    assert_array_equal(Y[:, cols], np.eye(k))
    assert max(np.abs(X).max(), np.abs(Y).max()) <= 2.0 * (1 + tol(A.dtype, 1) + 2e-6)
    assert_array_equal(r.skel(A), A[np.ix_(rows, cols)])
    with np.errstate(all="ignore"):
        columns = lowla.interp_decomp(A, k, rng=seed).info.error
    assert r.info.error <= columns + tol(A.dtype, max(A.shape), k)


def test_two_sided_is_stable_where_the_middle_factor_is_not(backend):
    # Park, Nakatsukasa (2024), arXiv:2405.06375: U explicit is limited by sqrt(u).
    A = matrix_with_spectrum(80, 60, np.logspace(0, -18, 60))
    two = lowla.two_sided_interp_decomp(A, 50, rng=0)
    assert two.info.error <= tol(float, 80)
    explicit = lowla.cur(A, 50, rng=0)
    assert explicit.info.error <= eps(float) ** HALF
    assert explicit.info.error > 10 * two.info.error


@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-7, 1e-11])
def test_interpolation_to_a_tolerance(backend, tolerance):
    S = np.exp(-np.arange(90) / 3)
    A = matrix_with_spectrum(120, 90, S)
    r = lowla.interp_decomp(A, tolerance, rng=1)
    assert error_of(A, A[:, r.idx[: r.k]], r.interp_matrix()) <= tolerance * 1.01
    best = 1 + int(np.flatnonzero([best_error(S, j) <= tolerance for j in range(1, 90)])[0])
    assert best <= r.k <= 1.1 * best + 2


def test_the_transposed_problem(backend):
    A = matrix_with_spectrum(50, 40, 1 / np.arange(1, 41), "complex128")
    for form in FORMS.values():
        row = lowla.row_interp_decomp(form(A), 9, sketch="gaussian", rng=4)
        column = lowla.interp_decomp(np.ascontiguousarray(A.T), 9, sketch="gaussian", rng=4)
        assert_array_equal(row.idx, column.idx)
        assert_allclose(row.proj, column.proj, atol=tol(float, 50))
        assert error_of(A.T, A.T[:, row.idx[:9]], row.interp_matrix()) == pytest.approx(
            row.info.error
        )


# --- CUR -----------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize("method", METHODS)
@given(
    drawn=matrices_with_rank(max_m=50, max_n=50),
    seed=st.integers(0, 2**32),
    middle=st.sampled_from(MIDDLES),
)
def test_cur_has_the_matrixs_own_rows_and_columns_and_a_certificate(
    backend, method, drawn, seed, middle
):
    A, k = drawn
    C, U, R = r = lowla.cur(A, k, method=method, middle=middle, rng=seed)
    assert are_distinct(r.cols, A.shape[1])
    assert are_distinct(r.rows, A.shape[0])
    assert_array_equal(C, A[:, r.cols])
    assert_array_equal(R, A[r.rows])
    assert U.shape == (k, k)
    assert C.dtype == U.dtype == R.dtype == A.dtype
    assert np.all(np.isfinite(U))
    with np.errstate(all="ignore"):
        wide = (U.astype(np.result_type(U.dtype, float)) @ R).astype(np.result_type(U.dtype, float))
    true = error_of(A, C, wide)
    # In floating point C (U R) is off by u ||C|| ||U|| ||R||, in whatever order it is computed.
    scales = [np.linalg.norm(X.astype(np.result_type(X.dtype, np.longdouble))) for X in (A, *r)]
    norm = float(scales[0]) or 1.0
    rounding = tol(A.dtype, 1) + tol(float, k) * float(scales[1] * scales[2] * scales[3] / norm)
    assert r.info.error == pytest.approx(true, rel=0.01, abs=rounding)
    assert r.info.error <= 1 + tol(A.dtype, k)  # never worse than nothing


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("middle", MIDDLES)
def test_low_rank_is_reproduced_to_rounding(backend, form, dtype, method, middle):
    rank = 7
    A = matrix_with_spectrum(70, 50, np.linspace(1, 2, rank), dtype)
    for k in (rank, rank + 5):
        r = lowla.cur(FORMS[form](A), k, method=method, middle=middle, rng=1)
        assert r.info.rank == rank
        # The conditions of C and R, of which U has the inverses.
        conds = [np.linalg.svd(X, compute_uv=False) for X in (A[:, r.cols], A[r.rows])]
        cond = np.prod([S[0] / S[rank - 1] for S in conds])
        assert relative_error(A, A[:, r.cols], np.ones(k), r.U @ A[r.rows]) <= tol(dtype, 70, cond)


@pytest.mark.parametrize("kind", SPECTRA)
def test_lstsq_is_the_best_middle_and_bounded_by_the_two_projections(backend, kind):
    # Stewart (1999): C^+ A R^+ minimises the error, and its square is at most the sum of squares.
    for seed in range(20):
        A = SPECTRA[kind](seed)
        r = lowla.cur(A, 6, rng=seed)
        columns, rows = column_error(A, r.cols), column_error(A.T, r.rows)
        assert r.info.error <= np.hypot(columns, rows) * (1 + 1e-6)
        assert r.info.error >= max(columns, rows) * (1 - 1e-6)
        cross = lowla.cur(A, 6, middle="cross", rng=seed)
        assert_array_equal(cross.cols, r.cols)
        assert cross.info.error >= r.info.error * (1 - 1e-6)
        for factor in (0.99, 1.01):
            moved = np.linalg.norm(A - factor * r.toarray()) / np.linalg.norm(A)
            assert moved > r.info.error * (1 - 1e-6)


def deim(V):
    """SE algorithm 1."""
    p = [int(np.argmax(np.abs(V[:, 0])))]
    for j in range(1, V.shape[1]):
        c = np.linalg.solve(V[p, :j], V[p, j])
        p.append(int(np.argmax(np.abs(V[:, j] - V[:, :j] @ c))))
    return p


@pytest.mark.parametrize("kind", ["polynomial", "exponential", "coherent"])
@pytest.mark.parametrize("method", ["qrcp", "deim", "lupp"])
def test_cur_is_as_accurate_as_deim_written_plainly(backend, kind, method):
    ours, theirs = [], []
    for seed in range(15):
        if kind == "coherent":
            A = heavy_tailed(90, 70, seed)
        else:
            S = 1 / np.arange(1, 71) if kind == "polynomial" else np.exp(-np.arange(70) / 5)
            A = matrix_with_spectrum(90, 70, S, seed=seed)
        ours.append(lowla.cur(A, 12, method=method, rng=seed).info.error)
        W, _, Vh = np.linalg.svd(A)
        C, R = A[:, deim(Vh[:12].T)], A[deim(W[:, :12])]
        U = np.linalg.pinv(C) @ A @ np.linalg.pinv(R)
        theirs.append(np.linalg.norm(A - C @ U @ R) / np.linalg.norm(A))
    # LU pivots are as a rule somewhat worse than QR pivots (Dong and Martinsson 2023).
    assert np.median(ours) <= (1.2 if method == "lupp" else 1.1) * np.median(theirs)


def test_deim_takes_the_columns_of_deim(backend):
    A = matrix_with_spectrum(60, 50, 2.0 ** -np.arange(50))
    r = lowla.cur(A, 8, method="deim", rng=0)
    assert_array_equal(r.cols, deim(np.linalg.svd(A)[2][:8].T))


def test_leverage_sampling_meets_the_relative_error_theorem(backend):
    # DMM theorem 3 with constant 1: c = k log(k) / eps^2 columns leave (1 + eps) ||A - A_k||_F with
    # probability 0.7; uniform columns do not, where a few columns carry a direction.
    k, accuracy, n = 5, 0.5, 400
    rng = np.random.default_rng(0)
    A = matrix_with_spectrum(60, n, 1 / np.arange(1, 61))
    A[:, :3] += 3.0 * rng.standard_normal((60, 3))
    count = int(np.ceil(k * np.log(k) / accuracy**2))
    allowed = (1 + accuracy) * best_error(np.linalg.svd(A, compute_uv=False), k)
    met = uniform = 0
    for seed in range(100):
        r = lowla.cur(A, k, method="leverage", oversample=count - k, rng=seed)
        assert r.U.shape == (count, count)
        met += column_error(A, r.cols) <= allowed
        uniform += column_error(A, rng.choice(n, count, replace=False)) <= allowed
    assert met >= 70
    assert uniform < 70


def test_leverage_draws_by_the_scores(backend):
    # The first draw of sampling without replacement has probabilities l_j / k.
    A = np.diag([3.0, 2.0, 0.0, 0.0]) @ np.ones((4, 4))
    A[1] = [2.0, 0.0, 0.0, -2.0]
    V = np.linalg.svd(A)[2][:2]
    expected = np.sum(V**2, axis=0) / 2
    draws = [lowla.cur(A, 2, method="leverage", rng=seed).cols[0] for seed in range(1500)]
    found = np.bincount(draws, minlength=4) / len(draws)
    assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / len(draws)))


def test_more_rows_help_the_cross(backend):
    # Park, Nakatsukasa (2024): oversampled rows bring the cross nearer to the projection.
    plain, more = [], []
    for seed in range(30):
        A = matrix_with_spectrum(80, 60, np.exp(-np.arange(60) / 6), seed=seed)
        plain.append(lowla.cur(A, 10, middle="cross", rng=seed).info.error)
        r = lowla.cur(A, 10, middle="cross", oversample=10, rng=seed)
        assert (r.U.shape, r.R.shape) == ((10, 20), (20, 60))
        assert are_distinct(r.rows, 80)
        more.append(r.info.error / column_error(A, r.cols))
    assert np.median(more) < np.median(np.array(plain) / column_error(A, r.cols))
    assert np.median(more) <= 1.3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_cur_to_a_tolerance(backend, form, method):
    A = matrix_with_spectrum(90, 70, np.exp(-np.arange(70) / 4))
    r = lowla.cur(FORMS[form](A), tol=1e-3, method=method, rng=0)
    assert r.info.converged
    assert error_of(A, A[:, r.cols], r.U @ A[r.rows]) <= 1e-3 * 1.01
    best = int(
        np.flatnonzero([best_error(np.exp(-np.arange(70) / 4), j) <= 1e-3 for j in range(70)])[0]
    )
    assert best <= len(r.cols) <= 1.4 * best


def test_tolerances_out_of_reach_warn(backend):
    A = np.random.default_rng(0).standard_normal((60, 40))
    for call in (
        lambda: lowla.cur(A, 5, tol=0.1),
        lambda: lowla.qrcp(A, 5, tol=0.1),
        lambda: lowla.cur(matrix_with_spectrum(60, 60, np.logspace(0, -20, 60)), tol=1e-15),
    ):
        with pytest.warns(lowla.ConvergenceWarning, match="stopped at a relative error of"):
            assert not call().info.converged


# --- formats, seeds, scales ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [sp.csr_array, sp.csc_matrix, sp.coo_array])
def test_sparse_factors_are_parts_of_a_sparse_matrix(backend, method, given):
    A = sp.random_array((300, 200), density=0.03, random_state=0, format="csr")
    A.data[:20] = 0.0  # stored zeros stay stored
    r = lowla.cur(given(A), 12, method=method, rng=0)
    csc = A.tocsc()
    for part, expected in ((r.C, csc[:, r.cols].tocsr()), (r.R, A[r.rows])):
        part.sort_indices()
        assert isinstance(part, sp.csr_array)
        assert_array_equal(part.indptr, expected.indptr)
        assert_array_equal(part.indices, expected.indices)
        assert_array_equal(part.data, expected.data)
    assert error_of(A.toarray(), r.C.toarray(), r.U @ r.R) == pytest.approx(r.info.error)
    x = np.ones(200)
    assert_allclose(r @ x, r.toarray() @ x, atol=tol(float, 200))


@pytest.mark.core
@pytest.mark.parametrize("method", METHODS)
def test_one_seed_gives_one_choice(backend, method):
    A = matrix_with_spectrum(90, 70, 1 / np.arange(1, 71))
    first, again = (lowla.cur(A, 9, method=method, rng=3) for _ in range(2))
    assert_array_equal(first.U, again.U)
    chosen = {(*first.rows.tolist(), *first.cols.tolist())}
    for name in [n for n in _backend.NAMES if n != "cuda" and _backend.why_not(n) is None]:
        with lowla.use_backend(name):
            r = lowla.cur(A, 9, method=method, rng=3)
            chosen.add((*r.rows.tolist(), *r.cols.tolist()))
    assert len(chosen) == 1
    others = {tuple(lowla.cur(A, 9, method=method, rng=s).cols.tolist()) for s in range(8)}
    assert len(others) == 1 if method == "deim" else len(others) > 1


@pytest.mark.parametrize("sketch", ["gaussian", "sjlt"])
@pytest.mark.parametrize("method", METHODS)
def test_all_forms_of_a_matrix_give_one_choice(backend, method, sketch):
    A = matrix_with_spectrum(90, 70, 1 / np.arange(1, 71), "complex128")
    found = [lowla.cur(f(A), 9, method=method, sketch=sketch, rng=3) for f in FORMS.values()]
    for r in found[1:]:
        assert_array_equal(r.cols, found[0].cols)
        assert_array_equal(r.rows, found[0].rows)
        assert_allclose(r.U, found[0].U, atol=tol(float, 90, np.abs(found[0].U).max()))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float64", 1e-290), ("float64", 1e290), ("float32", 1e-30), ("complex64", 1e30)],
)
def test_scaled_input_gives_the_same_choice(backend, dtype, scale):
    A = matrix_with_spectrum(60, 50, np.logspace(0, -2, 50), dtype)
    scaled = (A.astype(np.result_type(dtype, float)) * scale).astype(dtype)
    for function in (lowla.qrcp, lowla.interp_decomp, lowla.cur):
        plain, r = function(A, 8, rng=0), function(scaled, 8, rng=0)
        assert r.info.error == pytest.approx(plain.info.error, rel=1e-3)
        assert all(np.all(np.isfinite(part)) for part in r)
    assert_array_equal(lowla.cur(scaled, 8, rng=0).cols, lowla.cur(A, 8, rng=0).cols)


def test_large_operators_are_certified_by_probes(backend):
    # Beyond 512 columns: exact on the rows of the factors, random vectors beside them.
    m, n = 700, 650
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((m, 60)))[0]
    V = np.linalg.qr(np.random.default_rng(1).standard_normal((n, 60)))[0]
    S = 1 / np.arange(1, 61)
    A = (U * S) @ V.T
    operator = aslinearoperator(A)
    for function in (lowla.qrcp, lowla.interp_decomp, lowla.cur):
        r = function(operator, 12, rng=0)
        exact = function(A, 12, sketch="gaussian", rng=0)
        assert r.info.error_method == "probe"
        assert r.info.error == pytest.approx(exact.info.error, rel=0.05)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (1, 1), (1, 6), (6, 1)])
def test_zero_matrices(backend, shape):
    Z, k = np.zeros(shape), min(shape)
    Q, R, _ = r = lowla.qrcp(Z, k)
    assert (r.info.error, r.info.rank) == (0.0, 0)
    assert orthogonality(Q) <= tol(float, 5)
    assert_array_equal(R, 0)
    r = lowla.interp_decomp(Z, k)
    assert (r.info.error, r.info.rank) == (0.0, 0)
    assert_array_equal(r.proj, 0)
    assert lowla.interp_decomp(Z, 0.5).k == 1
    assert_array_equal(lowla.two_sided_interp_decomp(Z, k).toarray(Z), 0)
    for method in METHODS:
        r = lowla.cur(Z, k, method=method)
        assert (r.info.error, r.info.rank) == (0.0, 0)
        assert_array_equal(r.U, 0)
        assert are_distinct(r.cols, shape[1])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_matrices_have_no_columns(backend, shape):
    A = np.zeros(shape, np.float32)
    m, n = shape
    Q, R, perm = lowla.qrcp(A, tol=0.5)
    assert (Q.shape, R.shape, perm.shape) == ((m, 0), (0, n), (n,))
    r = lowla.interp_decomp(A, 0.5)
    assert (r.idx.shape, r.proj.shape, r.toarray(A).shape) == ((n,), (0, n), shape)
    r = lowla.two_sided_interp_decomp(A, 0.5)
    assert r.toarray(A).shape == shape
    r = lowla.cur(A, tol=0.5)
    assert (r.C.shape, r.U.shape, r.R.shape) == ((m, 0), (0, 0), (0, n))
    assert r.toarray().dtype == np.float32


def test_integers_become_float64_and_inputs_stay_as_they_were(backend):
    A = np.arange(48).reshape(8, 6) % 7
    before = A.copy()
    r = lowla.cur(A, 3, rng=0)
    assert r.U.dtype == r.C.dtype == np.float64
    assert_array_equal(A, before)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, aslinearoperator])
def test_without_the_check_nan_gives_nan(backend, form):
    A = np.ones((30, 20))
    A[3, 4] = np.nan
    A = form(A)
    assert np.isnan(lowla.qrcp(A, 3, check_finite=False).R).all()
    assert np.isnan(lowla.interp_decomp(A, 3, check_finite=False).proj).all()
    assert np.isnan(lowla.two_sided_interp_decomp(A, 3, check_finite=False).X).all()
    for method in METHODS:
        r = lowla.cur(A, 3, method=method, check_finite=False)
        assert np.isnan(r.U).all()
        assert np.isnan(r.info.error)


# --- results -------------------------------------------------------------------------------------


def test_results_are_tuples_with_names(backend):
    A = matrix_with_spectrum(30, 20, 1 / np.arange(1, 21))
    r = lowla.cur(A, 4, rng=0)
    for result in (
        r,
        lowla.qrcp(A, 4, rng=0),
        lowla.interp_decomp(A, 4, rng=0),
        lowla.two_sided_interp_decomp(A, 4, rng=0),
    ):
        for again in (pickle.loads(pickle.dumps(result)), copy.copy(result)):
            assert again.info == result.info
            for one, other in zip(again, result, strict=True):
                assert_array_equal(one, other)
        text = repr(result)
        assert "float64" in text
        assert "(relative Frobenius, identity)" in text
        assert repr(result.info).startswith("CurInfo\n")
    again = pickle.loads(pickle.dumps(r))
    assert_array_equal(again.rows, r.rows)
    assert_array_equal(again.cols, r.cols)
    assert r.shape == (30, 20)
    X = np.arange(40.0).reshape(20, 2)
    assert_allclose(r @ X, r.toarray() @ X)
    assert_allclose(r @ X[:, 0].tolist(), r.toarray() @ X[:, 0])
    with pytest.raises(TypeError):
        X.T @ r  # not the product of a tuple of arrays
    lines = repr(lowla.cur(A, tol=0.3, rng=0)).splitlines()
    assert lines[1].split() == ["asked", "tol", "=", "0.3"]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_tensors_come_back_as_tensors(backend):
    torch = pytest.importorskip("torch")
    A = torch.from_numpy(matrix_with_spectrum(30, 20, 1 / np.arange(1, 21), "float32"))
    r = lowla.cur(A, 4, rng=0)
    assert all(isinstance(part, torch.Tensor) for part in (*r, r.rows, r.cols, r.toarray()))
    i = lowla.interp_decomp(A, 4, rng=0)
    assert isinstance(i.interp_matrix(), torch.Tensor)
    assert isinstance(i.toarray(A), torch.Tensor)
    assert isinstance(lowla.two_sided_interp_decomp(A, 4, rng=0).toarray(A), torch.Tensor)
    sparse = lowla.cur(A.to_sparse_csr(), 4, rng=0)
    assert_array_equal(sparse.C, A[:, sparse.cols])
