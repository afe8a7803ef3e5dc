"""rsvd: the theorems, the certificate, and every matrix that has broken somebody's rsvd.

HMT is Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 53 (2011).
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st

import lowla
from spectra import matrix_with_spectrum
from strategies import DTYPES, matrices_with_rank, matrix_specs
from thread_counts import with_1_2_and_7_threads
from tolerances import best_error, eps, orthogonality, relative_error, tol

METHODS = ("krylov", "subspace", "single_pass")


def singular_values(A):
    return np.linalg.svd(
        A.astype(np.complex128 if A.dtype.kind == "c" else float), compute_uv=False
    )


def assert_orthonormal(r, n):
    bound = tol(r.U.dtype, n)
    assert orthogonality(r.U) <= bound
    assert orthogonality(r.Vh.conj().T) <= bound


def assert_certified(A, r):
    """`info.error` is the error: to 1 % above rounding level, within 3 times at it."""
    true = relative_error(A, r.U, r.S, r.Vh)
    rounding = 64 * eps(A.dtype) * np.sqrt(max(A.shape))
    if true > rounding:
        assert r.info.error == pytest.approx(true, rel=0.01)
    else:
        assert r.info.error <= max(3 * true, rounding)


# --- structure -----------------------------------------------------------------------------------


@pytest.mark.core
@given(drawn=matrices_with_rank(), seed=st.integers(0, 2**32))
def test_factors_are_orthonormal_descending_and_certified(backend, drawn, seed):
    A, k = drawn
    m, n = A.shape
    r = lowla.rsvd(A, k, rng=seed)
    assert (r.U.shape, r.S.shape, r.Vh.shape) == ((m, k), (k,), (k, n))
    assert r.U.dtype == r.Vh.dtype == A.dtype
    assert r.S.dtype == np.zeros(1, A.dtype).real.dtype
    assert np.all(np.isfinite(r.U))
    assert np.all(np.isfinite(r.Vh))
    assert np.all(r.S >= 0)
    assert np.all(np.diff(r.S) <= 0)
    assert_orthonormal(r, max(m, n))
    assert_certified(A, r)


@given(spec=matrix_specs(), method=st.sampled_from(METHODS), seed=st.integers(0, 2**32))
def test_every_method_is_orthonormal_and_never_below_the_optimum(backend, spec, method, seed):
    A = spec.build()
    k = max(1, min(A.shape) // 3)
    r = lowla.rsvd(A, k, method=method, rng=seed)
    assert_orthonormal(r, max(A.shape))
    with np.errstate(all="ignore"):
        scaled = A / np.abs(A).max() if np.abs(A).max() > 0 else A
    best = best_error(singular_values(scaled), k)
    error = relative_error(A, r.U, r.S, r.Vh)
    assert error >= best - tol(A.dtype, max(A.shape))


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
def test_orthogonality_at_condition_1e16(backend, dtype):
    # The case on which a published binding of a CholeskyQR-based rsvd returns
    # ||U^T U - I|| = 1.5e-2 in single precision.
    for seed in range(5):
        A = matrix_with_spectrum(300, 200, np.logspace(0, -16, 200), dtype, seed)
        for method in METHODS:
            r = lowla.rsvd(A, 60, method=method, rng=seed)
            assert_orthonormal(r, 60)


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_make_the_largest_entry_of_each_left_vector_positive(backend, dtype):
    A = matrix_with_spectrum(60, 90, 1 / np.arange(1, 61), dtype)
    for M in (A, A.T):
        U = lowla.rsvd(M, 8, rng=0).U
        peaks = U[np.abs(U).argmax(axis=0), np.arange(8)]
        assert np.all(peaks.real > 0)
        assert np.all(np.abs(peaks.imag) <= tol(dtype, 1))


# --- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", ["polynomial", "exponential"])
def test_expected_error_of_the_plain_sketch(backend, dtype, decay):
    # HMT theorems 10.5 and 10.6 for l = k + p and no power iteration, the mean over 200 seeds. The
    # means are below the bounds by a factor of about 1.5, so that they would show a broken sketch.
    m, n, k, p, trials = 120, 90, 15, 5, 200
    S = 1 / np.arange(1, n + 1) if decay == "polynomial" else np.exp(-np.arange(n) / 12)
    A = matrix_with_spectrum(m, n, S, dtype)
    tail = np.linalg.norm(S[k:])
    frobenius, spectral = [], []
    for seed in range(trials):
        r = lowla.rsvd(A, k + p, method="subspace", n_iter=0, oversample=0, rng=seed)
        residual = A - (r.U * r.S) @ r.Vh
        frobenius.append(np.linalg.norm(residual))
        spectral.append(np.linalg.norm(residual, 2))
    frobenius_bound = np.sqrt(1 + k / (p - 1)) * tail
    spectral_bound = (1 + np.sqrt(k / (p - 1))) * S[k] + np.e * np.sqrt(k + p) / p * tail
    assert np.mean(frobenius) <= frobenius_bound
    assert np.mean(spectral) <= spectral_bound
    assert np.mean(frobenius) >= 0.3 * frobenius_bound  # the bound is not vacuous


def test_deviation_of_the_plain_sketch(backend):
    # HMT theorem 10.7: the failure rate over 200 seeds is at most 2 t^-p + exp(-v^2 / 2).
    m, n, k, p, trials, t, v = 120, 90, 12, 8, 200, 1.7, 2.0
    S = 1 / np.arange(1, n + 1)
    A = matrix_with_spectrum(m, n, S)
    tail = np.linalg.norm(S[k:])
    bound = (1 + t * np.sqrt(3 * k / (p + 1))) * tail + v * t * np.e * np.sqrt(k + p) / (p + 1) * S[
        k
    ]
    failures = 0
    for seed in range(trials):
        r = lowla.rsvd(A, k + p, method="subspace", n_iter=0, oversample=0, rng=seed)
        failures += np.linalg.norm(A - (r.U * r.S) @ r.Vh) > bound
    assert failures / trials <= 2 * t**-p + np.exp(-(v**2) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "spectrum"),
    [
        ("polynomial", lambda n: 1 / np.arange(1, n + 1)),
        ("slow", lambda n: np.arange(1, n + 1) ** -0.5),
        ("exponential", lambda n: np.exp(-np.arange(n) / 10)),
        ("step", lambda n: np.where(np.arange(n) < 12, 1.0, 0.05)),
    ],
)
def test_default_is_near_optimal(backend, dtype, name, spectrum):
    # The default's promise: scikit-learn's n_iter="auto" accuracy, an excess over the best rank-k
    # error far below 1 %.
    n, k = 220, 12
    S = spectrum(n)
    A = matrix_with_spectrum(300, n, S, dtype)
    r = lowla.rsvd(A, k, rng=3)
    assert relative_error(A, r.U, r.S, r.Vh) <= 1.001 * best_error(S, k) + tol(dtype, 1)
    np.testing.assert_allclose(r.S, S[:k], rtol=0.01)


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(97, 92), (100, 107), (131, 110), (96, 120), (109, 98)])
def test_every_remainder_of_the_tiles(backend, dtype, shape):
    """One block of 16 columns, and rows and columns that leave tiles of every size."""
    A = matrix_with_spectrum(*shape, 0.5 ** np.arange(min(shape)), dtype)
    r = lowla.rsvd(A, 3, rng=0)
    np.testing.assert_allclose(r.S, singular_values(A)[:3], rtol=20 * eps(dtype))
    assert_orthonormal(r, max(shape))
    assert_certified(A, r)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectra_below_the_square_root_of_rounding(backend, dtype):
    # A^H A squares the spectrum: singular values below sqrt(u) sigma_1 must survive all the same.
    decades = 15 if np.finfo(dtype).eps < 1e-10 else 7
    S = np.logspace(0, -decades, 100)
    A = matrix_with_spectrum(150, 130, S, dtype)
    for k in (20, 40, 60, 99):
        r = lowla.rsvd(A, k, rng=k)
        error = relative_error(A, r.U, r.S, r.Vh)
        assert error <= 10 * (best_error(S, k) + 4 * eps(dtype) * np.sqrt(k))
        assert np.all(np.abs(r.S - S[:k]) <= 10 * S[k] + tol(dtype, 10))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_rank_is_recovered(backend, dtype):
    for rank in (1, 5, 17):
        A = matrix_with_spectrum(80, 70, np.linspace(1, 2, rank), dtype, seed=rank)
        for k in (rank, rank + 9):
            r = lowla.rsvd(A, k, rng=0)
            assert relative_error(A, r.U, r.S, r.Vh) <= tol(dtype, 10)
            assert r.info.rank == rank
            assert np.all(r.S[rank:] <= tol(dtype, 80))
            assert_orthonormal(r, 80)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_zero_matrix(backend, k):
    r = lowla.rsvd(np.zeros((6, 4)), k, rng=0)
    np.testing.assert_array_equal(r.S, 0)
    assert_orthonormal(r, 1)
    assert r.info.error == 0


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_smallest_shapes(backend, shape, dtype):
    A = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    r = lowla.rsvd(A, 1, rng=0)
    assert r.S[0] == pytest.approx(singular_values(A)[0], rel=tol(dtype, 1))


@pytest.mark.core
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float64", 1e-300),
        ("float64", 1e200),
        ("float64", 1e300),
        ("float32", 1e-30),
        ("float32", 1e20),
        ("float32", 1e30),
        ("complex64", 1e25),
        ("complex128", 1e-250),
    ],
)
def test_scaled_input_gives_scaled_output(backend, dtype, scale):
    # scikit-learn 1.8: "array must not contain infs" on these; svds: ArpackError.
    A = matrix_with_spectrum(70, 50, np.logspace(0, -2, 50), dtype)
    scaled = (A.astype(np.result_type(dtype, float)) * scale).astype(dtype)
    r = lowla.rsvd(scaled, 6, rng=1)
    np.testing.assert_allclose(
        r.S.astype(float) / scale, singular_values(A)[:6], rtol=tol(dtype, 100)
    )
    assert_orthonormal(r, 70)
    assert_certified(scaled, r)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("decay", ["polynomial", "exponential", "low rank plus noise"])
@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-6])
def test_tolerance_returns_the_smallest_rank(backend, dtype, decay, tolerance):
    n = 160
    S = {
        "polynomial": np.arange(1.0, n + 1) ** (-1 if tolerance > 0.1 else -4),
        "exponential": np.exp(-np.arange(n) / 4),
        "low rank plus noise": np.r_[np.linspace(2, 1, 20), np.full(n - 20, tolerance / 40)],
    }[decay]
    A = matrix_with_spectrum(200, n, S, dtype)
    r = lowla.rsvd(A, tol=tolerance, rng=0)
    optimal = next(k for k in range(1, n + 1) if best_error(S, k) <= tolerance)
    assert relative_error(A, r.U, r.S, r.Vh) <= tolerance * 1.01
    assert r.info.converged
    assert optimal <= len(r.S) <= optimal + 2
    assert_certified(A, r)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-4])
def test_tolerance_in_single_precision(backend, dtype, tolerance):
    S = np.exp(-np.arange(120) / 5)
    A = matrix_with_spectrum(150, 120, S, dtype)
    r = lowla.rsvd(A, tol=tolerance, rng=0)
    optimal = next(k for k in range(1, 121) if best_error(S, k) <= tolerance)
    assert relative_error(A, r.U, r.S, r.Vh) <= tolerance * 1.01
    assert optimal <= len(r.S) <= optimal + 2


def test_tolerance_and_rank_together(backend):
    S = np.exp(-np.arange(100) / 8)
    A = matrix_with_spectrum(120, 100, S)
    few = lowla.rsvd(A, 30, tol=0.2, rng=0)
    assert len(few.S) < 30
    assert few.info.converged
    with pytest.warns(lowla.ConvergenceWarning):
        capped = lowla.rsvd(A, 10, tol=1e-3, rng=0)
    assert len(capped.S) == 10
    assert not capped.info.converged


def test_unreachable_tolerance_ends_and_says_so(backend):
    A = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)
    with pytest.warns(lowla.ConvergenceWarning):
        r = lowla.rsvd(A, tol=1e-12, rng=0)
    assert not r.info.converged
    assert_orthonormal(r, 60)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_error_is_near_the_truth(backend, dtype):
    S = 1 / np.arange(1, 121)
    A = matrix_with_spectrum(150, 120, S, dtype)
    for k in (1, 10, 40):
        r = lowla.rsvd(A, k, rng=k)
        true = np.linalg.norm(A - (r.U * r.S) @ r.Vh, 2) / S[0]
        assert 0.9 * true <= r.info.spectral_error <= 1.1 * true


def test_spectral_error_without_spare_columns(backend):
    S = 1 / np.arange(1, 121)
    A = matrix_with_spectrum(150, 120, S)
    r = lowla.rsvd(A, 20, method="subspace", oversample=0, n_iter=2, rng=0)
    true = np.linalg.norm(A - (r.U * r.S) @ r.Vh, 2)
    assert 0.8 * true <= r.info.spectral_error * r.S[0] <= 1.001 * true


def test_single_pass_reads_once_and_estimates_its_error(backend):
    S = np.exp(-np.arange(100) / 3)
    A = matrix_with_spectrum(200, 100, S)
    for k in (5, 15, 30):
        r = lowla.rsvd(A, k, method="single_pass", rng=k)
        assert r.info.passes == 1
        true = relative_error(A, r.U, r.S, r.Vh)
        assert true <= 3 * best_error(S, k)
        assert 0.5 * true <= r.info.error <= 2 * true


def test_leave_one_out_error_of_a_single_pass(backend):
    # Epperly, Tropp 2024: where ||A||^2 - sum s^2 has no digits left, the mean over 40 seeds.
    A = matrix_with_spectrum(150, 100, np.r_[np.ones(10), np.full(90, 1e-7)])
    ratios = []
    for seed in range(40):
        r = lowla.rsvd(A, 10, method="single_pass", rng=seed)
        assert r.info.error_method == "leave-one-out"
        ratios.append(r.info.error / relative_error(A, r.U, r.S, r.Vh))
    assert 0.8 <= np.mean(ratios) <= 1.25


def test_passes_over_the_data(backend):
    A = matrix_with_spectrum(300, 200, 1 / np.arange(1, 201))
    r = lowla.rsvd(A, 10, n_iter=4, rng=0)
    assert r.info.passes == 5  # four fused reads and the last half
    assert r.info.iterations == 4


# --- inputs --------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
def test_sparse_is_the_dense_answer(backend, dtype, shape, index_dtype):
    rng = np.random.default_rng(0)
    D = np.where(rng.random(shape) < 0.2, rng.standard_normal(shape), 0).astype(dtype)
    if np.dtype(dtype).kind == "c":
        D = D * np.exp(1j * rng.random(shape)).astype(dtype)
    A = scipy.sparse.csr_array(D)
    A.indices, A.indptr = A.indices.astype(index_dtype), A.indptr.astype(index_dtype)
    r = lowla.rsvd(A, 6, rng=0)
    assert_certified(D, r)
    assert_orthonormal(r, 90)
    S = singular_values(D)
    assert relative_error(D, r.U, r.S, r.Vh) <= 1.01 * best_error(S, 6)
    other = lowla.rsvd(A.tocsc(), 6, rng=0)
    np.testing.assert_allclose(other.S, r.S, rtol=tol(dtype, 100))


def test_sparse_with_duplicates_and_unsorted_columns(backend):
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 30, 400), rng.integers(0, 20, 400)
    coo = scipy.sparse.coo_array((rng.standard_normal(400), (rows, cols)), shape=(30, 20))
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(31))
    A = scipy.sparse.csr_array((coo.data[order], cols[order], indptr), shape=(30, 20))
    r = lowla.rsvd(A, 4, rng=0)
    assert_certified(coo.toarray(), r)


def test_sparse_low_rank_is_certified_at_rounding_level(backend):
    rng = np.random.default_rng(0)
    D = np.zeros((200, 90))
    D[rng.integers(0, 200, 8)] = rng.standard_normal((8, 90))
    r = lowla.rsvd(scipy.sparse.csr_array(D), 12, rng=0)
    assert_certified(D, r)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_operator_is_certified_within_its_probes(backend, dtype):
    S = 1 / np.arange(1, 101)
    A = matrix_with_spectrum(150, 100, S, dtype)
    r = lowla.rsvd(scipy.sparse.linalg.aslinearoperator(A), 10, rng=0)
    true = relative_error(A, r.U, r.S, r.Vh)
    assert true <= 1.01 * best_error(S, 10)
    assert 0.8 * true <= r.info.error <= 1.25 * true
    assert_orthonormal(r, 150)


def test_operator_errors_are_raised_as_they_are(backend):
    class Broken(scipy.sparse.linalg.LinearOperator):
        def __init__(self):
            super().__init__(np.float64, (50, 40))

        def _matmat(self, X):
            raise ZeroDivisionError("from the operator")

        _rmatmat = _matmat

    with pytest.raises(ZeroDivisionError, match="from the operator"):
        lowla.rsvd(Broken(), 3, rng=0)


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_change_the_answer(backend, layout, dtype):
    A = matrix_with_spectrum(130, 70, 1 / np.arange(1, 71), dtype)
    view = {
        "F": np.asfortranarray(A),
        "strided": np.repeat(np.repeat(A, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": A[::-1, ::-1].copy()[::-1, ::-1],
        "transposed": np.ascontiguousarray(A.T).T,
    }[layout]
    np.testing.assert_array_equal(view, A)
    before = view.copy()
    a, b = lowla.rsvd(A, 7, rng=0), lowla.rsvd(view, 7, rng=0)
    np.testing.assert_allclose(a.S, b.S, rtol=1e3 * eps(dtype))
    np.testing.assert_array_equal(view, before)


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
def test_stack_is_each_of_its_matrices(backend, dtype):
    A = np.stack(
        [matrix_with_spectrum(40, 30, 1 / np.arange(1, 31), dtype, seed) for seed in range(6)]
    ).reshape(2, 3, 40, 30)
    r = lowla.rsvd(A, 5, rng=0)
    assert (r.U.shape, r.S.shape, r.Vh.shape) == ((2, 3, 40, 5), (2, 3, 5), (2, 3, 5, 30))
    for i, j in np.ndindex(2, 3):
        one = lowla.rsvd(A[i, j], 5, rng=0)
        np.testing.assert_allclose(r.S[i, j], one.S, rtol=100 * eps(dtype))
        assert relative_error(A[i, j], r.U[i, j], r.S[i, j], r.Vh[i, j]) == pytest.approx(
            r.info.error[i, j], rel=0.01
        )
    swapped = lowla.rsvd(A.swapaxes(-1, -2), 5, rng=0)
    np.testing.assert_allclose(swapped.S, r.S, rtol=1e3 * eps(dtype))


def test_stack_with_nan_raises_and_zero_matrices_are_fine(backend):
    A = np.random.default_rng(0).standard_normal((5, 30, 20))
    A[2] = 0
    r = lowla.rsvd(A, 4, rng=0)
    np.testing.assert_array_equal(r.S[2], 0)
    A[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="A contains NaN or Inf"):
        lowla.rsvd(A, 4, rng=0)


def test_not_finite_without_the_check_gives_nan_and_no_crash(backend):
    A = np.ones((20, 10))
    A[3, 3] = np.inf
    r = lowla.rsvd(A, 3, rng=0, check_finite=False)
    assert np.all(np.isnan(r.S))
    assert not r.info.converged


# --- one seed, one answer ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(backend):
    A = matrix_with_spectrum(900, 300, 1 / np.arange(1, 301))
    sparse = scipy.sparse.random_array((3000, 500), density=0.02, rng=np.random.default_rng(0))
    for M in (A, np.asfortranarray(A), sparse.tocsr()):
        results = with_1_2_and_7_threads(lambda M=M: lowla.rsvd(M, 12, rng=5))
        for r in results[1:]:
            if backend == "numba":  # BLAS decides there
                np.testing.assert_allclose(r.S, results[0].S, rtol=1e-12)
            else:
                np.testing.assert_array_equal(r.U, results[0].U)
                np.testing.assert_array_equal(r.S, results[0].S)
                np.testing.assert_array_equal(r.Vh, results[0].Vh)


def test_different_seeds_differ(backend):
    # With iterations both may converge to the same last digit.
    A = matrix_with_spectrum(400, 300, 1 / np.arange(1, 301))
    first, second = (lowla.rsvd(A, 3, n_iter=0, rng=seed).S for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_callback_sees_falling_errors_and_stops(backend):
    A = matrix_with_spectrum(300, 200, 1 / np.arange(1, 201))
    seen = []
    whole = lowla.rsvd(A, 10, rng=0, callback=lambda info: seen.append(info.error))
    assert len(seen) == whole.info.iterations + 1
    assert np.all(np.diff(seen) <= tol("float64", 1))
    calls = []

    def stop_at_two(info):
        calls.append(info)
        return len(calls) == 2

    r = lowla.rsvd(A, 10, rng=0, callback=stop_at_two)
    assert len(calls) == 2
    assert not r.info.converged
    assert_orthonormal(r, 300)


def test_exceptions_of_the_callback_come_through(backend):
    def fail(info):
        raise ZeroDivisionError("from the callback")

    with pytest.raises(ZeroDivisionError, match="from the callback"):
        lowla.rsvd(np.eye(200), 5, rng=0, callback=fail)


# --- scikit-learn's cases for randomized_svd, re-expressed ---------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_sklearn_low_rank(backend, dtype):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 20)) @ rng.standard_normal((20, 500)) * 10
    X = X.astype(dtype)
    k, full = 10, np.linalg.svd(X.astype(float), compute_uv=False)
    for method in ("krylov", "subspace"):
        r = lowla.rsvd(X, k, method=method, rng=0)
        computed = "float32" if dtype == "float32" else "float64"
        assert r.U.dtype == computed
        np.testing.assert_allclose(r.S, full[:k], rtol=tol(computed, 100, 10))
        product = (X @ r.Vh.T) / r.S
        np.testing.assert_allclose(np.abs(product), np.abs(r.U), atol=tol(computed, 100, 100))
    s = lowla.rsvd(scipy.sparse.csr_array(X), k, rng=0).S
    np.testing.assert_allclose(s, full[:k], rtol=tol(computed, 100, 10))


@pytest.mark.parametrize("structure", ["noisy", "full rank"])
def test_sklearn_power_iterations_help(backend, structure):
    rank = 5 if structure == "noisy" else 100
    S = np.exp(-((np.arange(100) / rank) ** 2)) + (0.1 if structure == "noisy" else 0.5) / (
        1 + np.arange(100) / 50
    )
    X = matrix_with_spectrum(120, 100, S)
    one = lowla.rsvd(X, 5, method="subspace", n_iter=0, oversample=0, rng=0)
    assert np.abs(one.S - S[:5]).max() > 0.01
    r = lowla.rsvd(X, 5, method="subspace", n_iter=30, oversample=10, rng=0)
    np.testing.assert_allclose(r.S, S[:5], rtol=0.01)


def test_sklearn_transpose_consistency(backend):
    X = matrix_with_spectrum(80, 300, np.exp(-np.arange(80) / 10))
    a, b = lowla.rsvd(X, 8, rng=0), lowla.rsvd(X.T, 8, rng=0)
    np.testing.assert_allclose(a.S, b.S, rtol=1e-12)
    np.testing.assert_allclose((a.U * a.S) @ a.Vh, ((b.U * b.S) @ b.Vh).T, atol=1e-10)


def test_sklearn_sparse_integers(backend):
    X = scipy.sparse.random_array((60, 40), density=0.3, rng=np.random.default_rng(0)).tocsr()
    X.data = np.ceil(9 * X.data).astype(np.int64)
    X = X.astype(np.int64)
    r = lowla.rsvd(X, 5, rng=0)
    assert_certified(X.toarray().astype(float), r)


# --- nystrom and reigh ---------------------------------------------------------------------------


def psd(n, w, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n))
    if np.dtype(dtype).kind == "c":
        G = G + 1j * rng.standard_normal((n, n))
    V = np.linalg.qr(G)[0]
    A = (V * w) @ V.conj().T
    return ((A + A.conj().T) / 2).astype(dtype)


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
def test_nystrom_is_below_the_matrix_and_certified(backend, dtype):
    w = np.exp(-np.arange(80) / 6)
    A = psd(80, w, dtype)
    r = lowla.nystrom(A, 12, rng=0)
    assert r.V.shape == (80, 12)
    assert np.all(r.w >= 0)
    assert np.all(np.diff(r.w) <= 0)
    assert orthogonality(r.V) <= tol(dtype, 80)
    approximation = (r.V * r.w) @ r.V.conj().T
    # A^ <= A in the semidefinite order, for the untruncated approximation (Tropp et al. 2017)
    full = lowla.nystrom(A, 12, oversample=0, rng=0)
    lowest = np.linalg.eigvalsh(A - (full.V * full.w) @ full.V.conj().T)[0]
    assert lowest >= -tol(dtype, 80)
    error = np.linalg.norm(A - approximation) / np.linalg.norm(A)
    assert r.info.error == pytest.approx(error, rel=0.01, abs=tol(dtype, 1))
    assert error <= 1.05 * best_error(w, 12)


def test_nystrom_expected_nuclear_error(backend):
    # Tropp, Yurtsever, Udell, Cevher 2017, theorem 4.1:
    # E ||A - A^||_* <= (1 + r / (l - r - 1)) sum_{j > r} lambda_j for every r < l - 1, without
    # power iteration, over 200 seeds.
    n, sketch, r = 60, 16, 8
    w = 1 / np.arange(1, n + 1) ** 2
    A = psd(n, w)
    errors = []
    for seed in range(200):
        got = lowla.nystrom(A, sketch, oversample=0, n_iter=0, rng=seed)
        errors.append(np.abs(np.linalg.eigvalsh(A - (got.V * got.w) @ got.V.T)).sum())
    bound = (1 + r / (sketch - r - 1)) * w[r:].sum()
    assert 0.1 * bound <= np.mean(errors) <= bound


def test_nystrom_rejects_indefinite_matrices(backend):
    with pytest.raises(np.linalg.LinAlgError, match="not positive semidefinite"):
        lowla.nystrom(psd(60, np.linspace(1, -1, 60)), 20, rng=0)


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["LM", "LA"])
def test_reigh_finds_the_wanted_end(backend, dtype, which):
    rng = np.random.default_rng(0)
    w = np.exp(-np.arange(90) / 8) * rng.choice([-1.0, 1.0], 90)
    A = psd(90, w, dtype)
    r = lowla.reigh(A, 8, which=which, rng=0)
    order = np.argsort(-w) if which == "LA" else np.argsort(-np.abs(w))
    np.testing.assert_allclose(r.w, w[order[:8]], rtol=1e-4, atol=tol(dtype, 90))
    assert orthogonality(r.V) <= tol(dtype, 90)
    error = np.linalg.norm(A - (r.V * r.w) @ r.V.conj().T) / np.linalg.norm(A)
    assert r.info.error == pytest.approx(error, rel=0.01, abs=tol(dtype, 1))


def test_eigenproblems_of_sparse_matrices_and_operators(backend):
    A = psd(70, np.exp(-np.arange(70) / 5))
    for M in (scipy.sparse.csr_array(A), scipy.sparse.linalg.aslinearoperator(A)):
        np.testing.assert_allclose(
            lowla.nystrom(M, 5, rng=0).w, np.exp(-np.arange(5) / 5), rtol=1e-3
        )
        np.testing.assert_allclose(lowla.reigh(M, 5, rng=0).w, np.exp(-np.arange(5) / 5), rtol=1e-6)


@pytest.mark.parametrize("function", ["nystrom", "reigh"])
def test_eigenproblems_of_the_zero_matrix(backend, function):
    r = getattr(lowla, function)(np.zeros((9, 9)), 3, rng=0)
    np.testing.assert_array_equal(r.w, 0)
    assert orthogonality(r.V) <= tol("float64", 9)


# --- streaming -----------------------------------------------------------------------------------


def splits(m, rng):
    cuts = np.sort(rng.integers(0, m + 1, rng.integers(0, 12)))
    return np.split(np.arange(m), cuts)


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
def test_stream_does_not_depend_on_the_blocks(backend, dtype):
    m, n, k = 700, 60, 7
    A = matrix_with_spectrum(m, n, np.exp(-np.arange(n) / 5), dtype)
    whole = lowla.StreamingSVD(k, n, rng=0)
    whole.partial_fit(A)
    expected = whole.result()
    rng = np.random.default_rng(0)
    for _ in range(5):
        stream = lowla.StreamingSVD(k, n, rng=0)
        for rows in splits(m, rng):
            stream.partial_fit(A[rows])
        r = stream.result()
        np.testing.assert_array_equal(r.U, expected.U)
        np.testing.assert_array_equal(r.S, expected.S)
        np.testing.assert_array_equal(r.Vh, expected.Vh)
    assert_orthonormal(expected, m)
    true = relative_error(A, *expected)
    assert true <= 1.2 * best_error(np.exp(-np.arange(n) / 5), k)
    assert expected.info.error == pytest.approx(true, rel=0.02)
    assert expected.info.passes == 1


def test_streams_merge(backend):
    A = matrix_with_spectrum(900, 50, 1 / np.arange(1, 51))
    whole = lowla.StreamingSVD(6, 50, rng=1)
    whole.partial_fit(A)
    first, second = (lowla.StreamingSVD(6, 50, rng=1) for _ in range(2))
    first.partial_fit(A[:333])
    second.partial_fit(A[333:])
    first.merge(second)
    a, b = whole.result(), first.result()
    np.testing.assert_allclose(a.S, b.S, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(a.U * b.U, axis=0)), 1, rtol=1e-8)


def test_stream_goes_on_after_a_result(backend):
    A = matrix_with_spectrum(400, 40, 1 / np.arange(1, 41))
    stream = lowla.StreamingSVD(5, 40, rng=1)
    stream.partial_fit(A[:100])
    stream.result()
    stream.partial_fit(A[100:])
    whole = lowla.StreamingSVD(5, 40, rng=1)
    whole.partial_fit(A)
    np.testing.assert_array_equal(stream.result().S, whole.result().S)
