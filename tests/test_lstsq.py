"""lstsq: the accuracy of LAPACK, the interface of numpy.linalg.lstsq, the guarantees of sketching.

EMN is Epperly, Meier, Nakatsukasa, "Fast randomized least-squares solvers can be just as accurate
and stable as classical direct solvers", arXiv:2406.03468 (2024). WKS is Walden, Karlson, Sun,
"Optimal backward perturbation bounds for the linear least squares problem" (1995).
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import aslinearoperator

import lowla
from least_squares import (
    assert_agrees_with_numpy,
    assert_as_accurate_as_lapack,
    gelsd,
    kw_backward_error,
    problem,
    reference,
)
from lowla._lstsq import sketch_rows
from strategies import DTYPES, matrix_specs
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol

EXACT = ("auto", "direct", "precondition")


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Small problems: the BLAS pools of NumPy and SciPy only spin against each other."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def optimal_backward_error(A, b, x):
    """min ||[dA, theta db]||_F / ||A||_F, theta = ||A||_F / ||b|| (WKS; Higham 2002, Thm 20.5)."""
    r = b - A @ x
    norm_A, norm_x, norm_r = np.linalg.norm(A), np.linalg.norm(x), np.linalg.norm(r)
    theta2 = (norm_A / np.linalg.norm(b)) ** 2
    mu = theta2 * norm_x**2 / (1 + theta2 * norm_x**2)
    phi = np.sqrt(mu) * norm_r / norm_x
    projector = np.eye(len(r)) - np.outer(r, r.conj()) / norm_r**2
    smallest = np.linalg.svd(np.hstack([A, phi * projector]), compute_uv=False)[-1]
    return min(phi, smallest) / norm_A


# --- as accurate as LAPACK -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["direct", "precondition"])
@pytest.mark.parametrize("residual", [1e-12, 1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("cond", [1.0, 1e4, 1e8, 1e12])
def test_forward_and_backward_error_are_those_of_lapack(backend, cond, residual, method):
    # EMN, Theorem 1 and section 4.
    assert_as_accurate_as_lapack(2000, 20, cond, residual, "float64", method, seeds=5, columns=5)


@pytest.mark.parametrize("method", ["direct", "precondition"])
@pytest.mark.parametrize("residual", [1e-6, 1.0])
@pytest.mark.parametrize("cond", [1e2, 1e8, 1e12])
def test_errors_at_fifty_columns(backend, cond, residual, method):
    assert_as_accurate_as_lapack(4000, 50, cond, residual, "float64", method, 5, columns=5)


@pytest.mark.parametrize("method", ["direct", "precondition"])
@pytest.mark.parametrize("residual", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("cond", [1.0, 1e2, 1e4, 1e5, 1e6, 1e9])
def test_errors_in_single_precision(backend, cond, residual, method):
    # The errors of the columns of one matrix go together: many matrices.
    assert_as_accurate_as_lapack(2000, 20, cond, residual, "float32", method, seeds=20, columns=2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("residual", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("cond", [1.0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize(
    ("m", "n", "columns"), [(100_000, 50, 5), (100_000, 200, 2), (50_000, 500, 2)]
)
def test_errors_at_full_size(backend, m, n, columns, cond, residual, dtype):
    # Columns of one problem: the reference in extended precision is what takes the time. The more
    # singular values there are near the smallest, the less a single ratio varies.
    assert_as_accurate_as_lapack(m, n, cond, residual, dtype, "precondition", 1, columns)


def test_one_step_without_refinement_would_fail(backend):
    # What the refinement is for: the normal equations are worse than the bound above allows.
    A, b = problem(2000, 20, 1e6, 1e-6)
    exact = reference(A, b)
    normal = scipy.linalg.solve(A.T @ A, A.T @ b, assume_a="pos")
    lapack = np.linalg.norm((gelsd(A, b) - exact).astype(float))
    assert np.linalg.norm((normal - exact).astype(float)) > 20 * lapack
    ours = lowla.lstsq(A, b, method="precondition", rng=0)
    assert np.linalg.norm((ours.x - exact).astype(float)) <= 2 * lapack
    assert ours.info.method == "precondition"


@given(
    spec=matrix_specs(max_m=80, max_n=40, kinds=("gauss", "geometric", "polynomial", "one_small")),
    method=st.sampled_from(EXACT),
    columns=st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
@pytest.mark.core
def test_every_shape_dtype_and_layout(backend, spec, method, columns, seed):
    A = spec.build()
    rng = np.random.default_rng(seed)
    shape = (len(A), columns) if columns else (len(A),)
    b = rng.standard_normal(shape).astype(A.dtype)
    assert_agrees_with_numpy(A, b, method, seed)


# --- rank ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(900, 30), (60, 40), (30, 70)])
@pytest.mark.parametrize("method", EXACT)
def test_exactly_rank_deficient_gives_the_minimum_norm(backend, dtype, shape, method):
    rng = np.random.default_rng(1)
    A = rng.integers(-3, 4, (shape[0], 12)) @ rng.integers(-3, 4, (12, shape[1]))
    b = rng.standard_normal((shape[0], 2))
    A, b = A.astype(dtype), b.astype(dtype)
    x, residuals, rank, s = result = lowla.lstsq(A, b, method=method, rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert rank == theirs[2] == 12
    assert residuals.shape == (0,)
    bound = tol(dtype, max(shape), s[0] / s[11])
    assert_allclose(x, theirs[0], rtol=0, atol=bound * np.abs(theirs[0]).max())
    assert result.info.method == "direct"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [2000, 100_000])
@pytest.mark.parametrize("method", EXACT)
def test_repeated_columns_give_numpys_rank(backend, dtype, m, method):
    rng = np.random.default_rng(0)
    A = (rng.standard_normal((m, 7)) @ np.eye(7, 10)).astype(dtype)
    A[:, 7:] = A[:, :3]
    A[:, 8] *= 2
    b = rng.standard_normal(m).astype(dtype)
    ours = lowla.lstsq(A, b, method=method, rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert ours.rank == theirs[2] == 7
    assert_allclose(ours.x, theirs[0], rtol=0, atol=tol(dtype, 1) * np.abs(theirs[0]).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damp", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["product", "columns", "powers"])
def test_direct_factors_tall_singular_matrices_as_lapack_does(backend, kind, damp, dtype):
    rng = np.random.default_rng(3)
    m, n = 2500, 48
    if kind == "powers":  # singular values fall by a factor of about 6 to rounding level
        A = rng.uniform(-1, 1, m)[:, None] ** np.arange(n)
    else:
        A = rng.standard_normal((m, n))
        if np.dtype(dtype).kind == "c":
            A = A + 1j * rng.standard_normal((m, n))
    if kind == "product":
        A = np.round(4 * A[:, :30]) @ rng.integers(-3, 4, (30, n))
    if kind == "columns":  # none, or in the range of others, or of another size
        A[:, [0, 7]] = 0
        A[:, 9] = A[:, 10]
        A[:, 11] = A[:, 12] - 3 * A[:, 13]
        A[:, 20:] *= np.logspace(-6, 6, n - 20)
    A, b = A.astype(dtype), rng.standard_normal((m, 2)).astype(dtype)
    double = np.result_type(dtype, np.float64)
    B = np.vstack([A.astype(double), damp * np.eye(n)])
    c = np.vstack([b, np.zeros((n, 2))])
    rcond = 1e-8 if kind == "powers" else n * m * eps(float)
    ours = lowla.lstsq(A, b, rcond, method="direct", damp=damp)
    theirs = np.linalg.lstsq(B, c, rcond=rcond)
    assert ours.rank == theirs[2]
    assert ours.info.method == "direct"
    rounding = 8 * n * eps(float) + eps(dtype)
    assert_allclose(ours.s, theirs[3], rtol=0, atol=rounding * theirs[3][0])
    # Higham 2002, theorem 20.1
    x, s0 = theirs[0], theirs[3][0]
    cond = s0 / theirs[3][ours.rank - 1]
    angle = np.linalg.norm(c - B @ x) / (s0 * np.linalg.norm(x))
    bound = eps(float) * cond * (1 + cond * angle) + 4 * eps(dtype)
    assert_allclose(ours.x, x, rtol=0, atol=bound * np.abs(x).max())


def test_direct_does_not_depend_on_its_sketch():
    # S v is nearly zero: R0 is ill-conditioned where A is not.
    native = pytest.importorskip("lowla._native", exc_type=ImportError)
    m, n = 1000, 40
    d = 2 * n + 32
    S = np.zeros((d, m))
    starts, rows, signs = native.sketch_pattern("sjlt", 0, d, m, 4, 1.0)
    for j in range(m):
        S[rows[starts[j] : starts[j + 1]], j] = signs[starts[j] : starts[j + 1]]
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((m, n)), rng.standard_normal(m)
    v = rng.standard_normal(m)
    seen = np.linalg.pinv(S) @ (S @ v)
    for left in (0.0, 1e-6):
        A[:, 5] = A[:, 0] + v - (1 - left) * seen
        with lowla.use_backend("native"):
            ours = lowla.lstsq(A, b, method="direct")
        theirs = np.linalg.lstsq(A, b, rcond=None)
        assert ours.rank == theirs[2] == n
        assert_allclose(ours.x, theirs[0], rtol=0, atol=1e-13)
        assert_allclose(ours.s, theirs[3], rtol=2e-14)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, aslinearoperator])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_a_single_precision_sketch_does_not_invent_rank(backend, dtype, form):
    rng = np.random.default_rng(0)
    A = rng.integers(-3, 4, (30_000, 5)) @ rng.integers(-3, 4, (5, 8))
    b = (A @ np.ones(8) + rng.standard_normal(30_000)).astype(dtype)
    theirs = np.linalg.lstsq(A.astype(dtype), b, rcond=None)
    for method in ("precondition", "sketch"):
        ours = lowla.lstsq(form(A.astype(dtype)), b, method=method, rng=0)
        assert ours.rank == theirs[2] == 5
        error = np.linalg.norm(ours.x - theirs[0])
        assert error <= (0.1 if method == "sketch" else 1e-6) * np.linalg.norm(theirs[0])


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_is_as_good_as_numpys_double(backend, dtype):
    # numpy solves float32 data in float64 and rounds the answer.
    A, b = problem(20_000, 50, 1e3, 1e-2, dtype)
    exact = reference(A, b)
    ours = lowla.lstsq(A, b, rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert ours.info.method == "precondition"
    assert ours.rank == theirs[2] == 50
    errors = [np.linalg.norm((x - exact).astype(A.dtype)) for x in (ours.x, theirs[0])]
    assert errors[0] <= 1.01 * errors[1]
    assert_allclose(ours.s, theirs[3], rtol=0, atol=tol(dtype, 1))


@pytest.mark.parametrize("cond", [1e4, 1e7, 1e9])
def test_single_precision_leaves_what_it_cannot_resolve_to_double(backend, cond):
    A, b = problem(4000, 20, cond, 1e-2, "float32")
    ours = lowla.lstsq(A, b, method="precondition", rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert ours.rank == theirs[2] == 20
    assert ours.info.method == ("precondition" if cond < 1e5 else "direct")


@pytest.mark.parametrize("kappa", [1e13, 1e15, 1e17])
def test_nearly_rank_deficient_is_decided_from_the_matrix_not_from_the_sketch(backend, kappa):
    A, b = problem(2000, 20, 1e2, 1e-3)
    A[:, -1] = A[:, 0] + A[:, -1] / kappa
    ours = lowla.lstsq(A, b, method="precondition", rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert ours.info.method == "direct"
    assert ours.rank == theirs[2]
    assert ours.residuals.shape == theirs[1].shape
    size = np.linalg.norm(theirs[0])
    if ours.rank < 20:
        assert_allclose(ours.x, theirs[0], rtol=0, atol=tol(float, 2000, 1e2) * size)


@pytest.mark.parametrize("method", EXACT)
def test_rcond_is_numpys(backend, method):
    A, b = problem(3000, 10, 1e6, 1e-3)
    for rcond in (None, -1, 0, 3e-4, 0.5):
        ours = lowla.lstsq(A, b, rcond, method=method, rng=0)
        theirs = np.linalg.lstsq(A, b, rcond=rcond)
        assert ours.rank == theirs[2]
        assert ours.residuals.shape == theirs[1].shape
        assert_allclose(ours.x, theirs[0], rtol=tol(float, 3000, 1e6))
        assert_allclose(ours.s, theirs[3], rtol=0, atol=tol(float, 10))


@pytest.mark.parametrize("method", EXACT)
def test_zero_matrix(backend, method):
    x, residuals, rank, s = lowla.lstsq(np.zeros((40, 3)), np.ones(40), method=method)
    assert_array_equal(x, np.zeros(3))
    assert_array_equal(s, np.zeros(3))
    assert (rank, residuals.shape) == (0, (0,))


@pytest.mark.parametrize(
    "shape", [(4, 2, 0), (0, 4, 1), (0, 4, 2), (4, 0, 1), (4, 0, 2), (0, 0, 0)]
)
def test_empty(backend, shape):
    # numpy/linalg/tests/test_linalg.py, TestLstsq.test_empty_a_b
    m, n, r = shape
    A, b = np.arange(m * n, dtype=float).reshape(m, n), np.ones((m, r))
    x, residuals, rank, s = lowla.lstsq(A, b)
    assert x.shape == (n, r)
    assert residuals.shape == ((r,) if m > n else (0,))
    assert_allclose(residuals, np.sum((b - A @ x) ** 2, axis=0)[: len(residuals)])
    assert rank == min(m, n)
    assert s.shape == (min(m, n),)


@pytest.mark.parametrize("scale", [1e-150, 1e150, 1e-290, 1e290])
@pytest.mark.parametrize("method", EXACT)
def test_any_scale(backend, scale, method):
    A, b = problem(900, 12, 1e3, 1e-2)
    plain = lowla.lstsq(A, b, method=method, rng=0)
    scaled = lowla.lstsq(A * scale, b, method=method, rng=0)
    assert_allclose(scaled.x * scale, plain.x, rtol=tol(float, 900, 1e3))
    assert_allclose(scaled.s / scale, plain.s, rtol=tol(float, 900, 1e3))
    tiny_b = lowla.lstsq(A, b * 1e-200, method=method, rng=0)
    assert_allclose(tiny_b.x * 1e200, plain.x, rtol=tol(float, 900, 1e3))
    assert scaled.info.backward_error <= tol(float, 12)


def test_badly_scaled_columns_keep_their_digits(backend):
    # Columns of size 1e-100 .. 1e100: with rcond=0 the answer is that of the equilibrated matrix.
    A, b = problem(3000, 12, 1e2, 1e-3)
    grades = 2.0 ** np.linspace(-330, 330, 12).round()
    ours = lowla.lstsq(A * grades, b, 0.0, method="precondition", rng=0)
    assert ours.info.method == "precondition"
    assert_allclose(ours.x * grades, reference(A, b).astype(float), rtol=tol(float, 3000, 1e2))


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_near_the_ends_of_its_range(backend, dtype):
    A, b = problem(900, 12, 10.0, 1e-2, dtype)
    plain = lowla.lstsq(A, b, rng=0)
    for scale in (1e-30, 1e30):
        scaled = lowla.lstsq(A * np.float32(scale), b * np.float32(scale), rng=0)
        assert_allclose(scaled.x, plain.x, rtol=tol(dtype, 12, 10.0))


# --- the interface of numpy.linalg.lstsq ---------------------------------------------------------


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_numpys(backend, dtype, method):
    A, b = problem(1500, 8, 10.0, 0.1, dtype)
    B = np.stack([b, 2 * b, b[::-1]], axis=1)
    for rhs in (b, B, B[:, :1]):
        ours = lowla.lstsq(A, rhs, method=method, rng=0)
        theirs = np.linalg.lstsq(A, rhs, rcond=None)
        for mine, numpys in zip(
            (ours.x, ours.residuals, ours.s), np.array(theirs, object)[[0, 1, 3]], strict=True
        ):
            assert mine.shape == numpys.shape
            assert mine.dtype == numpys.dtype
            assert_allclose(mine, numpys, rtol=tol(dtype, 1500), atol=tol(dtype, 1500))
        assert isinstance(ours.rank, int)
        assert ours.rank == theirs[2]


def test_tuple_and_names(backend):
    A, b = problem(50, 4, 10.0, 0.1)
    x, residuals, rank, s = result = lowla.lstsq(A, b)
    assert x is result.x
    assert residuals is result.residuals
    assert rank is result.rank
    assert s is result.s
    assert "LstsqResult: x (4,), residuals (1,), rank 4, s (4,), float64" in repr(result)
    assert "backward error" in repr(result.info)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_numpys_square_and_wide_cases(backend, n):
    # The LinalgCase shapes of numpy/linalg/tests/test_linalg.py: 1x1, 2x2, 8x11, 11x8, 1x4, 4x1
    rng = np.random.default_rng(n)
    for m, k in [(1, 1), (2, 2), (8, 11), (11, 8), (1, 4), (4, 1)]:
        A, b = rng.random((m, k)), rng.random((m, n))
        ours, theirs = lowla.lstsq(A, b), np.linalg.lstsq(A, b, rcond=None)
        assert_allclose(ours.x, theirs[0], rtol=0, atol=tol(float, 11, ours.info.cond**2))
        assert ours.residuals.shape == theirs[1].shape


def test_dtypes_are_promoted(backend):
    A, b = problem(60, 5, 10.0, 0.1)
    for left, right, result in [
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("float64", "complex64", "complex128"),
        ("complex64", "float32", "complex64"),
    ]:
        x = lowla.lstsq(A.astype(left), b.astype(right)).x
        assert x.dtype == result
        assert_allclose(x, gelsd(A, b), rtol=0, atol=tol("float32", 60, 10.0))
    integers = lowla.lstsq(np.array([[1, 2], [3, 4], [5, 6]]), [1, 2, 3])
    assert integers.x.dtype == np.float64
    assert_allclose(integers.x, [0, 0.5], atol=tol(float, 3, 10.0))


def test_inputs_are_not_written_to(backend):
    A, b = problem(3000, 8, 10.0, 0.1)
    before = A.copy(), b.copy()
    A.flags.writeable = b.flags.writeable = False
    for method in EXACT:
        lowla.lstsq(A, b, method=method, rng=0)
    assert_array_equal(A, before[0])
    assert_array_equal(b, before[1])


def test_torch_tensors_come_back_as_tensors(backend):
    torch = pytest.importorskip("torch")
    A, b = problem(500, 6, 10.0, 0.1)
    result = lowla.lstsq(torch.from_numpy(A), torch.from_numpy(b))
    assert isinstance(result.x, torch.Tensor)
    assert isinstance(result.s, torch.Tensor)
    assert_allclose(result.x.numpy(), gelsd(A, b), rtol=tol(float, 500, 10.0))


@pytest.mark.parametrize("method", ["precondition", "sketch"])
def test_one_seed_one_answer(backend, method):
    A, b = problem(5000, 8, 10.0, 0.1)
    first = lowla.lstsq(A, b, method=method, rng=7)
    assert_array_equal(first.x, lowla.lstsq(A, b, method=method, rng=7).x)
    with lowla.use_backend("numba"):
        assert_allclose(first.x, lowla.lstsq(A, b, method=method, rng=7).x, rtol=tol(float, 5000))
    other = lowla.lstsq(A, b, method="sketch", rng=8).x
    assert not np.array_equal(lowla.lstsq(A, b, method="sketch", rng=7).x, other)


# --- damping, sparse, operators, wide ------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, aslinearoperator])
@pytest.mark.parametrize("shape", [(900, 20), (30, 20), (20, 30)])
@pytest.mark.parametrize("method", EXACT)
def test_damp_is_the_augmented_system(backend, method, shape, form):
    # As scipy.sparse.linalg.lsqr: min ||A x - b||^2 + damp^2 ||x||^2
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal(shape), rng.standard_normal((shape[0], 2))
    for damp in (1e-3, 0.7, 30.0):
        ours = lowla.lstsq(form(A), b, method=method, damp=damp, rng=0)
        n = shape[1]
        theirs = np.linalg.lstsq(
            np.vstack([A, damp * np.eye(n)]), np.vstack([b, np.zeros((n, 2))]), rcond=None
        )
        bound = tol(float, 900, theirs[3][0] / theirs[3][-1])
        assert_allclose(ours.x, theirs[0], rtol=0, atol=bound * np.abs(theirs[0]).max())
        assert_allclose(ours.residuals, theirs[1], rtol=bound)
        assert ours.rank == n
        assert ours.s.shape == (n,)
        if ours.info.s_exact:
            assert_allclose(ours.s, theirs[3], rtol=bound)


def test_damped_rank_deficient_is_the_ridge_solution(backend):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2000, 3)) @ rng.standard_normal((3, 9))
    b = rng.standard_normal(2000)
    ridge = np.linalg.solve(A.T @ A + 0.25 * np.eye(9), A.T @ b)
    for method in EXACT:
        x = lowla.lstsq(A, b, method=method, damp=0.5, rng=0).x
        assert_allclose(x, ridge, rtol=0, atol=tol(float, 2000, 1e2))


def sparse_problem(m, n, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    A = sp.random_array((m, n), density=0.05, rng=rng, format="csr").astype(dtype)
    A.data = A.data + (1j * rng.standard_normal(A.nnz) if np.dtype(dtype).kind == "c" else 0)
    A = (A + sp.vstack([sp.eye_array(n), sp.csr_array((m - n, n))]) if m > n else A).tocsr()
    return A.astype(dtype), rng.standard_normal((m, 2)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array, aslinearoperator])
def test_sparse_and_operators_solve_the_dense_problem(backend, dtype, form):
    A, b = sparse_problem(3000, 40, dtype)
    dense = A.toarray()
    wide = np.complex128 if A.dtype.kind == "c" else float
    exact = np.linalg.lstsq(dense.astype(wide), b.astype(wide), rcond=None)
    ours = lowla.lstsq(form(A), b, method="precondition", rng=0)
    cond = exact[3][0] / exact[3][-1]
    assert ours.info.method == "precondition"
    assert ours.info.converged
    assert not ours.info.s_exact
    assert_allclose(ours.x, exact[0], rtol=0, atol=tol(dtype, 40, cond))
    assert ours.rank == 40


@pytest.mark.parametrize("cond", [1e2, 1e6, 1e9])
@pytest.mark.parametrize("form", [sp.csr_array, aslinearoperator])
def test_conjugate_gradients_reach_lapacks_errors(backend, form, cond):
    # EMN, section 4. A sparse product is a running sum: its A^H r has several times the rounding
    # error of one summed by blocks, which the forward error shows.
    ours, theirs = [], []
    for seed in range(5):
        A, b = problem(1500, 15, cond, 1e-3, seed=seed)
        exact = reference(A, b)
        x = lowla.lstsq(form(A), b, method="precondition", rng=seed).x
        for v, errors in ((x, ours), (gelsd(A, b), theirs)):
            forward = np.linalg.norm((v - exact).astype(float))
            errors.append((forward, kw_backward_error(A, b, v)))
    forward, backward = np.median(ours, axis=0)
    lapack_forward, lapack_backward = np.median(theirs, axis=0)
    assert forward <= 10 * lapack_forward + tol(float, 1, cond)
    assert backward <= 2 * lapack_backward + eps(float)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, aslinearoperator])
@pytest.mark.parametrize("cond", [1e1, 1e4])
def test_wide_systems_give_the_minimum_norm(backend, form, cond):
    A = problem(2000, 20, cond, 0.0)[0].T
    b = np.random.default_rng(0).standard_normal(20)
    exact = np.linalg.lstsq(A, b, rcond=None)[0]
    for method in EXACT:
        ours = lowla.lstsq(form(A), b, method=method, rng=0)
        assert_allclose(ours.x, exact, rtol=0, atol=tol(float, 20, cond) * np.linalg.norm(exact))
        assert ours.residuals.shape == (0,)
        assert ours.info.backward_error <= tol(float, 20)


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cond", [1.0, 1e4, 1e7, 1e9, 1e12])
@pytest.mark.parametrize("shape", [(40, 3000), (24, 70), (5, 6)])
def test_wide_residuals_are_at_rounding_level_at_any_condition(backend, shape, cond, dtype):
    rng = np.random.default_rng(1)
    k, n = shape

    def orthonormal(rows):
        G = rng.standard_normal((rows, k))
        return np.linalg.qr(G + 1j * rng.standard_normal((rows, k)) if dtype[0] == "c" else G)[0]

    A = ((orthonormal(k) * np.geomspace(1, 1 / cond, k)) @ orthonormal(n).conj().T).astype(dtype)
    b = rng.standard_normal((k, 2)).astype(dtype)
    lapack = np.linalg.lstsq(A.astype(np.result_type(A, float)), b, rcond=None)
    s = lapack[3]
    wide_A, wide_b = A.astype(np.clongdouble), b.astype(np.clongdouble)
    for method in EXACT:
        ours = lowla.lstsq(A, b, method=method, rng=0)
        assert ours.info.backend == backend
        assert ours.rank == lapack[2]
        r = np.linalg.norm((wide_b - wide_A @ ours.x).astype(complex), axis=0)
        size = s[0] * np.linalg.norm(ours.x, axis=0) + np.linalg.norm(b, axis=0)
        assert np.all(r <= 4 * eps(dtype) * size)
        assert ours.info.backward_error <= 4 * eps(dtype)
        distance = np.linalg.norm(ours.x - lapack[0])
        bound = 20 * (eps(dtype) + eps(float) * s[0] / s[-1])
        assert distance <= bound * np.linalg.norm(lapack[0])


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("method", EXACT)
def test_damped_wide_systems(backend, method, form, dtype):
    A, b = sparse_problem(3000, 30, dtype)
    A = A.T.tocsr()
    b = b[:30]
    dense = A.toarray().astype(np.result_type(dtype, float))
    s = np.linalg.svd(dense, compute_uv=False)
    for damp in (1e-3, 1.0, 30.0):
        y = np.linalg.solve(dense @ dense.conj().T + damp**2 * np.eye(30), b)
        ours = lowla.lstsq(form(A.toarray()), b, method=method, damp=damp, rng=0)
        x = dense.conj().T @ y
        cond = np.hypot(s[0], damp) / np.hypot(s[-1], damp)
        assert_allclose(ours.x, x, rtol=0, atol=tol(dtype, 30, cond**2) * np.abs(x).max())
        assert ours.rank == 3000
        assert ours.s.shape == (3000,)
        assert_allclose(ours.s[30:], damp, rtol=eps(dtype))
        if ours.info.s_exact:
            assert_allclose(ours.s[:30], np.hypot(s, damp), rtol=tol(dtype, 30, cond))


@pytest.mark.core
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("scale", [1e-290, 1e290])
@pytest.mark.parametrize("method", ["precondition", "direct"])
def test_operators_of_any_scale(backend, method, scale, wide):
    A, b = problem(3000, 20, 1e2, 0.1)
    A, b = (A.T, b[:20]) if wide else (A, b)
    plain = lowla.lstsq(A, b)
    scaled = lowla.lstsq(aslinearoperator(A * scale), b, method=method, rng=0)
    assert scaled.info.backend == backend
    assert scaled.info.converged
    assert_allclose(scaled.x * scale, plain.x, rtol=0, atol=1e-11 * np.abs(plain.x).max())


class SpoiltOperator(scipy.sparse.linalg.LinearOperator):
    """Of ones, but NaN where `where` names the product."""

    def __init__(self, where):
        super().__init__(np.dtype(float), (3000, 20))
        self.where = where

    def _matmat(self, X):
        spoilt = np.nan if self.where == "matmat" else 1.0
        return np.ones((3000, 1)) @ X.sum(axis=0, keepdims=True) * spoilt

    def _rmatmat(self, Y):
        spoilt = np.nan if self.where == "rmatmat" else 1.0
        return np.ones((20, 1)) @ Y.sum(axis=0, keepdims=True) * spoilt


@pytest.mark.core
@pytest.mark.parametrize("where", ["matmat", "rmatmat"])
@pytest.mark.parametrize("method", EXACT)
def test_operators_that_are_not_finite(backend, method, where):
    operator = SpoiltOperator(where)
    with pytest.raises(ValueError, match="A contains NaN or Inf"):
        lowla.lstsq(operator, np.ones(3000), method=method, rng=0)
    result = lowla.lstsq(operator, np.ones(3000), method=method, rng=0, check_finite=False)
    assert np.isnan(result.x).all()
    assert not result.info.converged


@pytest.mark.parametrize("form", [sp.csr_array, aslinearoperator])
def test_rank_deficient_sparse_and_operators(backend, form):
    A, b = sparse_problem(2000, 20)
    A = sp.hstack([A, A[:, :5], sp.csr_array((2000, 2))]).tocsr()
    exact = np.linalg.lstsq(A.toarray(), b, rcond=None)
    ours = lowla.lstsq(form(A), b, method="precondition", rng=0)
    assert ours.rank == exact[2] == 20
    assert ours.residuals.shape == (0,)
    assert_allclose(ours.x, exact[0], rtol=0, atol=tol(float, 2000, 10.0))


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", EXACT)
def test_sparse_of_any_form(backend, method, dtype):
    # 64-bit indices, rows in any order, and entries that come twice.
    A, b = sparse_problem(3000, 24, dtype)
    dense = A.toarray()
    indptr, order = 2 * A.indptr.astype(np.int64), np.repeat(np.arange(A.nnz), 2)
    for i in range(len(A.indptr) - 1):
        order[indptr[i] : indptr[i + 1]] = order[indptr[i] : indptr[i + 1]][::-1]
    twice = ((A.data / 2)[order], A.indices.astype(np.int64)[order], indptr)
    exact = np.linalg.lstsq(dense, b, rcond=None)
    bound = tol(dtype, 24, exact[3][0] / exact[3][-1])
    for form in (A, sp.csr_array(twice, shape=A.shape)):
        ours = lowla.lstsq(form, b, method=method, rng=0)
        assert ours.info.backend == backend
        assert ours.rank == 24
        assert_allclose(ours.x, exact[0], rtol=0, atol=bound)
        assert_allclose(ours.residuals, exact[1], rtol=bound)


@pytest.mark.core
@pytest.mark.parametrize("method", ["precondition", "direct"])
@pytest.mark.parametrize("scale", [1e-290, 1e290])
def test_sparse_of_any_scale(backend, scale, method):
    A, b = sparse_problem(2000, 20)
    plain = lowla.lstsq(A, b, method=method, rng=0)
    scaled = lowla.lstsq(A * scale, b, method=method, rng=0)
    assert_allclose(scaled.x * scale, plain.x, rtol=tol(float, 2000, plain.info.cond))
    assert_allclose(scaled.s / scale, plain.s, rtol=tol(float, 2000, plain.info.cond))
    assert scaled.info.converged


@pytest.mark.parametrize("cond", [1e3, 1e7])
def test_sparse_single_precision_is_sketched_in_double(backend, cond):
    A, b = problem(4000, 20, cond, 1e-2, "float32")
    ours = lowla.lstsq(sp.csr_array(A), b, method="precondition", rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert ours.rank == theirs[2] == 20
    assert ours.info.converged
    exact = reference(A, b)
    errors = [np.linalg.norm((x - exact).astype(float)) for x in (ours.x, theirs[0])]
    assert errors[0] <= 2 * errors[1]


def test_badly_scaled_columns_of_a_sparse_matrix(backend):
    # With rcond=0 the answer is that of the equilibrated matrix.
    if backend == "numba":
        pytest.skip("takes the rank from the singular values of the sketch")
    A, b = sparse_problem(3000, 12)
    grades = 2.0 ** np.linspace(-200, 200, 12).round()
    ours = lowla.lstsq((A * grades).tocsr(), b, 0.0, method="precondition", rng=0)
    exact = np.linalg.lstsq(A.toarray(), b, rcond=None)[0]
    assert_allclose(ours.x * grades[:, None], exact, rtol=0, atol=tol(float, 3000))


@pytest.mark.core
def test_sparse_and_damped_and_deficient_or_zero(backend):
    A, b = sparse_problem(2000, 20)
    twins = sp.hstack([A, A[:, :5]]).tocsr()
    dense = twins.toarray()
    ridge = np.linalg.solve(dense.T @ dense + 0.25 * np.eye(25), dense.T @ b)
    damped = lowla.lstsq(twins, b, method="precondition", damp=0.5, rng=0)
    assert_allclose(damped.x, ridge, rtol=0, atol=tol(float, 2000))
    zero = lowla.lstsq(sp.csr_array((2000, 3)), b, method="precondition", rng=0)
    assert zero.rank == 0
    assert_array_equal(zero.x, np.zeros((3, 2)))


def test_sparse_does_not_depend_on_the_number_of_threads(backend):
    if backend == "numba":
        pytest.skip("the BLAS decides there")
    A, b = sparse_problem(40_000, 30)
    found = with_1_2_and_7_threads(lambda: lowla.lstsq(A, b, method="precondition", rng=0).x)
    assert_array_equal(found[1], found[0])
    assert_array_equal(found[2], found[0])


def test_sparse_that_is_not_finite_gives_nan_where_asked(backend):
    A, b = sparse_problem(3000, 5)
    A.data[7] = np.nan
    result = lowla.lstsq(A, b, method="precondition", check_finite=False, rng=0)
    assert np.all(np.isnan(result.x))
    assert np.all(np.isnan(result.s))


# --- NIST ----------------------------------------------------------------------------------------

# Wampler (1970) and Longley (1967): NIST Statistical Reference Datasets, Linear Regression,
# https://www.itl.nist.gov/div898/strd/lls/lls.shtml (public domain), certified values.
_T = np.arange(21.0)
_WAMPLER_NOISE = np.where(_T % 2 == 0, 2048.0, -2048.0)
_WAMPLER_NOISE[[0, 20]], _WAMPLER_NOISE[[4, 16]], _WAMPLER_NOISE[[8, 12]] = 759.0, 2523.0, 1838.0
_SIX = np.vander(_T, 6, increasing=True)
WAMPLER = {
    1: (_SIX @ np.ones(6), np.ones(6)),
    2: (_SIX @ 0.1 ** np.arange(6.0), 0.1 ** np.arange(6.0)),
    3: (_SIX @ np.ones(6) + _WAMPLER_NOISE, np.ones(6)),
    4: (_SIX @ np.ones(6) + 100 * _WAMPLER_NOISE, np.ones(6)),
    5: (_SIX @ np.ones(6) + 10000 * _WAMPLER_NOISE, np.ones(6)),
}
LONGLEY = np.loadtxt(
    """\
60323  83.0 234289 2356 1590 107608 1947
61122  88.5 259426 2325 1456 108632 1948
60171  88.2 258054 3682 1616 109773 1949
61187  89.5 284599 3351 1650 110929 1950
63221  96.2 328975 2099 3099 112075 1951
63639  98.1 346999 1932 3594 113270 1952
64989  99.0 365385 1870 3547 115094 1953
63761 100.0 363112 3578 3350 116219 1954
66019 101.2 397469 2904 3048 117388 1955
67857 104.6 419180 2822 2857 118734 1956
68169 108.4 442769 2936 2798 120445 1957
66513 110.8 444546 4681 2637 121950 1958
68655 112.6 482704 3813 2552 123366 1959
69564 114.2 502601 3931 2514 125368 1960
69331 115.7 518173 4806 2572 127852 1961
70551 116.9 554894 4007 2827 130081 1962
""".splitlines()
)
LONGLEY_CERTIFIED = [
    -3482258.63459582,
    15.0618722713733,
    -0.358191792925910e-01,
    -2.02022980381683,
    -1.03322686717359,
    -0.511041056535807e-01,
    1829.15146461355,
]


def digits(x, certified):
    """Correct digits, as NIST counts them: -log10 of the largest relative error."""
    error = np.max(np.abs(x - certified) / np.abs(certified))
    return -np.log10(max(error, eps(float)))


@pytest.mark.parametrize("number", WAMPLER)
def test_wampler(backend, number):
    b, certified = WAMPLER[number]
    ours = digits(lowla.lstsq(_SIX, b).x, certified)
    assert ours >= digits(gelsd(_SIX, b), certified) - 1


def test_longley(backend):
    A = np.column_stack([np.ones(16), LONGLEY[:, 1:]])
    ours = digits(lowla.lstsq(A, LONGLEY[:, 0]).x, LONGLEY_CERTIFIED)
    assert ours >= digits(gelsd(A, LONGLEY[:, 0]), LONGLEY_CERTIFIED) - 1
    assert ours > 6


@pytest.mark.parametrize("number", WAMPLER)
def test_wampler_many_times(backend, number):
    # 500 copies of the rows: the same solution, through the sketch.
    b, certified = WAMPLER[number]
    A, b = np.tile(_SIX, (500, 1)), np.tile(b, 500)
    ours = lowla.lstsq(A, b, method="precondition", rng=0)
    assert ours.info.method == "precondition"
    assert digits(ours.x, certified) >= digits(gelsd(A, b), certified) - 1


# --- the certificate -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("residual", [1e-8, 1e-2, 1.0])
def test_backward_error_is_certified(backend, residual, seed):
    # Gratton, Jiranek, Titley-Peloquin 2012: the estimate is within sqrt(2) of the optimum of WKS;
    # the rest of the factor 3 is the distortion of the sketch that gives the singular values.
    A, b = problem(300, 5, 1e3, residual, seed=seed)
    for options in (
        {"method": "sketch", "eps": 0.8},
        {"method": "precondition", "tol": 1e-3, "max_iter": 3},
    ):
        form = A if options["method"] == "sketch" else sp.csr_array(A)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lowla.ConvergenceWarning)
            result = lowla.lstsq(form, b, rng=seed, **options)
        true = optimal_backward_error(A, b, result.x)
        if true > tol(float, 300):
            assert true / 3 <= result.info.backward_error <= 3 * true


@pytest.mark.parametrize("cond", [1.0, 1e4, 1e8])
def test_cond_and_singular_values(backend, cond):
    A, b = problem(3000, 20, cond, 1e-3)
    s = np.logspace(0, -np.log10(cond), 20)
    for method in ("direct", "precondition"):
        exact = lowla.lstsq(A, b, method=method, rng=0)
        assert exact.info.s_exact
        assert_allclose(exact.s, s, rtol=0, atol=tol(float, 20))
        assert exact.info.cond == pytest.approx(cond, rel=tol(float, 20, cond))
    rough = lowla.lstsq(A, b, method="sketch", eps=0.3, rng=0)
    assert not rough.info.s_exact
    d = rough.info.sketch_rows
    distortion = (1 + np.sqrt(20 / d) + 0.15) / (1 - np.sqrt(20 / d) - 0.15)
    assert cond / distortion <= rough.info.cond <= cond * distortion


def test_residual_norms(backend):
    A, b = problem(2000, 10, 10.0, 0.3)
    single = lowla.lstsq(A, b, rng=0)
    assert single.info.residual_norm == pytest.approx(0.3, rel=tol(float, 2000))
    several = lowla.lstsq(A, np.stack([b, 2 * b], axis=1), rng=0)
    assert_allclose(several.info.residual_norm, [0.3, 0.6], rtol=tol(float, 2000))


def test_a_tolerance_ends_early_and_an_unreachable_one_warns(backend):
    A, b = problem(3000, 20, 1e4, 1e-3)
    loose = lowla.lstsq(sp.csr_array(A), b, method="precondition", tol=1e-6, rng=0)
    tight = lowla.lstsq(sp.csr_array(A), b, method="precondition", rng=0)
    assert loose.info.converged
    assert loose.info.backward_error <= 1e-6
    assert loose.info.iterations < tight.info.iterations
    with pytest.warns(lowla.ConvergenceWarning, match="lstsq stopped at a backward error of"):
        short = lowla.lstsq(sp.csr_array(A), b, method="precondition", max_iter=1, rng=0)
    assert not short.info.converged


def test_callback_sees_the_error_and_can_stop(backend):
    A, b = problem(3000, 20, 1e4, 1e-3)
    seen = []
    lowla.lstsq(A, b, method="precondition", rng=0, callback=seen.append)
    assert len(seen) >= 2
    assert all(info.backward_error < 1 for info in seen)
    stopped = lowla.lstsq(A, b, method="precondition", rng=0, callback=lambda info: True)
    assert stopped.info.iterations == 1


def test_how_auto_chooses(backend):
    def method(form, m, n):
        A = np.random.default_rng(0).standard_normal((m, n))
        return lowla.lstsq(form(A), np.ones(m), rng=0).info.method

    assert method(np.asarray, 30_000, 20) == "precondition"
    assert method(np.asarray, 300, 10) == "direct"
    assert method(np.asarray, 700, 600) == "direct"
    assert method(np.asarray, 20, 30_000) == ("direct" if backend == "numba" else "precondition")
    assert method(sp.csr_array, 30_000, 20) == "precondition"
    assert method(aslinearoperator, 30_000, 20) == "precondition"
    assert method(aslinearoperator, 300, 20) == "direct"


# The peak of resident memory during one call: VmHWM, reset before it (Linux, proc(5)).
_PEAK = """
import sys
import numpy as np, lowla

def status(name):
    return int(next(s for s in open("/proc/self/status") if s.startswith(name)).split()[1]) << 10

m, n, r, dtype, order, method = sys.argv[1:]
m, n, r = int(m), int(n), int(r)
rng = np.random.default_rng(0)
A = np.asarray(rng.standard_normal((m, n), np.float32), dtype, order)
b = np.asarray(rng.standard_normal((m, r), np.float32), dtype)
with lowla.use_backend("native"):
    lowla.lstsq(A[:2000, :5].copy(), b[:2000].copy(), method=method, rng=0)
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    result = lowla.lstsq(A, b, method=method, rng=0)
assert result.info.method == method
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("method", "r"),
    [("direct", 10), ("precondition", 1), ("precondition", 10), ("sketch", 1), ("sketch", 10)],
)
def test_memory_beyond_the_input(backend, method, r, order, dtype):
    # 12 n^2 + 4 (m + n) r elements + 16 MiB; A has 76 or 153 MiB.
    if backend != "native":
        pytest.skip("the compiled backend's promise")
    m, n = 200_000, 100
    paths = [str(Path(lowla.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    out = subprocess.run(
        [sys.executable, "-c", _PEAK, str(m), str(n), str(r), dtype, order, method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    allowed = (12 * n * n + 4 * (m + n) * r) * np.dtype(dtype).itemsize + (16 << 20)
    assert int(out.stdout) <= allowed


# --- sketch and solve ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sjlt", "gaussian"])
@pytest.mark.parametrize("accuracy", [0.1, 0.5])
def test_sketch_and_solve_keeps_its_residual(backend, kind, accuracy):
    # ||S A x - S b|| minimised: Gaussian excess is n/(d-n-1) on average (Davidson, Szarek 2001).
    A, b = problem(20_000, 8, 1e3, 1.0)
    best = lowla.lstsq(A, b, method="direct").info.residual_norm
    excess = []
    for seed in range(10):
        result = lowla.lstsq(A, b, method="sketch", sketch=kind, eps=accuracy, rng=seed)
        assert result.info.passes <= 2
        excess.append(result.info.residual_norm / best - 1)
    assert max(excess) <= accuracy
    mean = 8 / (result.info.sketch_rows - 9) / 2
    assert 0.3 * mean <= np.mean(excess) <= 2.5 * mean


def spiky(m, n):
    """A = [I; 0] and a residual that sits in few entries: the hard instance of section 1.2 of
    Price, Song, Woodruff, "Fast regression with an l_inf guarantee", ICALP 2017."""
    A = np.eye(m, n)
    b = np.zeros(m)
    b[n : n + n] = 1.0
    return A, b


def linf_error(A, b, x):
    n = A.shape[1]
    exact = np.linalg.lstsq(A, b, rcond=None)[0]
    r = np.linalg.norm(b - A @ exact)
    return np.max(np.abs(x - exact)) * np.sqrt(n) / (r * np.linalg.norm(np.linalg.pinv(A), 2))


def test_linf_guarantee_over_many_seeds(backend):
    # Song, Ye, Yin, Zhang 2023, Theorem 1.1; the constant is that of a Gaussian sketch.
    A, b = spiky(2048, 8)
    accuracy = 0.9
    d = sketch_rows(8, accuracy, "linf")
    assert d < 2048
    errors = []
    for seed in range(200):
        result = lowla.lstsq(A, b, method="sketch", guarantee="linf", eps=accuracy, rng=seed)
        errors.append(linf_error(A, b, result.x))
    assert result.info.sketch_rows == d
    assert max(errors) <= accuracy
    assert max(errors) > accuracy / 10


def test_countsketch_breaks_the_linf_guarantee(backend):
    # Two spikes in one bucket with a unit vector move one entry by a multiple of 1, whatever d.
    A, b = spiky(2048, 8)
    accuracy = 0.9
    d = sketch_rows(8, accuracy, "linf")
    broken = 0
    for seed in range(200):
        S = lowla.sketch_operator("sjlt", d, 2048, nnz_per_col=1, rng=seed).tosparse()
        x = np.linalg.lstsq(S @ A, S @ b, rcond=None)[0]
        broken += linf_error(A, b, x) > accuracy
    assert broken >= 5
