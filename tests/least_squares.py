"""Least-squares problems with a known conditioning, and errors beside those of LAPACK."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.linalg
from numpy.testing import assert_allclose

import lowla
from tolerances import eps, tol


@lru_cache(maxsize=4)
def orthonormal(m, n, is_complex, seed):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((m, n))
    return np.linalg.qr(G + 1j * rng.standard_normal((m, n)) if is_complex else G)[0]


def problem(m, n, cond, residual, dtype="float64", seed=0, columns=None):
    """A with geometric singular values from 1 to 1/cond, b at distance `residual` of its range."""
    is_complex = np.dtype(dtype).kind == "c"
    r = columns or 1
    U, V = orthonormal(m, n + r, is_complex, seed), orthonormal(n, n, is_complex, seed + 1000)
    A = ((U[:, :n] * np.logspace(0, -np.log10(cond), n)) @ V.conj().T).astype(dtype)
    x = np.random.default_rng(seed).standard_normal((n, r))
    b = A @ (x / np.linalg.norm(x, axis=0)).astype(dtype) + residual * U[:, n:]
    return A, (b if columns else b[:, 0]).astype(dtype)


def extended(dtype):
    return np.clongdouble if np.dtype(dtype).kind == "c" else np.longdouble


def wide_blocks(A):
    """The rows of A in extended precision, by blocks that stay in cache."""
    for i in range(0, len(A), 256):
        yield slice(i, i + 256), A[i : i + 256].astype(extended(A.dtype))


def reference(A, b):
    """The solution in extended precision: Bjorck's refinement of the augmented system (1967)."""
    Q, R = np.linalg.qr(A.astype(np.complex128 if A.dtype.kind == "c" else float))
    b = b.astype(extended(A.dtype))
    x, r = np.zeros((A.shape[1], *b.shape[1:]), b.dtype), np.zeros_like(b)
    size = last = np.inf
    while size <= last / 2:
        f, g = b - r, np.zeros_like(x)
        for rows, block in wide_blocks(A):
            f[rows] -= block @ x
            g -= block.conj().T @ r[rows]
        h = scipy.linalg.solve_triangular(R, g.astype(Q.dtype), trans="C")
        f = f.astype(Q.dtype)
        d = Q.conj().T @ f
        dx = scipy.linalg.solve_triangular(R, d - h)
        x = x + dx
        r = r + f - Q @ (d - h)
        size, last = np.linalg.norm(dx), size
    return x


def kw_backward_error(A, b, x):
    """The estimate of Karlson and Walden 1997 with the residual in extended precision."""
    _, s, Vh = np.linalg.svd(np.linalg.qr(A.astype(float), mode="r"))
    r, g = b.astype(np.longdouble), np.zeros(x.shape, np.longdouble)
    for rows, block in wide_blocks(A):
        r[rows] -= block @ x.astype(np.longdouble)
        g += block.T @ r[rows]
    g = g.astype(float)
    theta2 = (np.linalg.norm(s) / np.linalg.norm(b.astype(float), axis=0)) ** 2
    shrink = 1 + theta2 * np.linalg.norm(x.astype(float), axis=0) ** 2
    mu = theta2 * np.linalg.norm(r.astype(float), axis=0) ** 2 / shrink
    terms = (Vh @ g).T / np.sqrt(s**2 + np.expand_dims(mu, -1))
    return np.sqrt(theta2 / shrink) * np.linalg.norm(terms, axis=-1) / np.linalg.norm(s)


def gelsd(A, b, **options):
    return scipy.linalg.lstsq(A, b, lapack_driver="gelsd", **options)[0]


def errors_beside_lapack(m, n, cond, residual, dtype, method, seeds, columns=None):
    """Medians over problems and columns: [forward, backward] errors of ours and of numpy's gelsd.

    numpy solves float32 data in float64 and rounds the answer.
    """
    ours, theirs = [], []
    for seed in range(seeds):
        A, b = problem(m, n, cond, residual, dtype, seed, columns)
        exact = reference(A, b)
        result = lowla.lstsq(A, b, eps(float), method=method, rng=seed)
        assert result.rank == n
        assert result.info.converged
        X = np.column_stack([result.x, np.linalg.lstsq(A, b, rcond=eps(float))[0]])
        errors = np.linalg.norm((X - np.column_stack([exact, exact])).astype(float), axis=0)
        backward = kw_backward_error(A, np.column_stack([b, b]), X)
        pairs = list(zip(errors, backward, strict=True))
        ours += pairs[: len(pairs) // 2]
        theirs += pairs[len(pairs) // 2 :]
    return np.median(ours, axis=0), np.median(theirs, axis=0)


def assert_as_accurate_as_lapack(m, n, cond, residual, dtype, method, seeds, columns=None):
    """Forward and backward error at most twice those of gelsd, in double precision."""
    ours, theirs = errors_beside_lapack(m, n, cond, residual, dtype, method, seeds, columns)
    assert ours[0] <= 2 * theirs[0] + eps(float)
    assert ours[1] <= 2 * theirs[1] + eps(float)


def assert_agrees_with_numpy(A, b, method, seed):
    """The four results of numpy.linalg.lstsq within rounding, and a backward error of its size."""
    n = max(A.shape)
    cutoff = n * eps(float)  # numpy solves in float64, float32 data too
    x, residuals, rank, s = result = lowla.lstsq(A, b, method=method, rng=seed)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert (x.shape, x.dtype) == (theirs[0].shape, A.dtype)
    assert (s.shape, s.dtype) == (theirs[3].shape, np.finfo(A.dtype).dtype)
    if result.info.s_exact:
        assert_allclose(s, theirs[3], rtol=0, atol=tol(A.dtype, n) * theirs[3][0])
    s = theirs[3]
    clear = not np.any((s > cutoff * s[0] / 8) & (s < 8 * cutoff * s[0]))
    if clear:
        assert rank == theirs[2]
        assert residuals.shape == theirs[1].shape
        cond = s[0] / s[rank - 1]
        scale = np.linalg.norm(theirs[0]) * cond + np.linalg.norm(b) * cond**2 / s[0]
        assert_allclose(x, theirs[0], rtol=0, atol=tol(A.dtype, n) * scale)
        norms = np.linalg.norm(b) + s[0] * np.linalg.norm(theirs[0])
        assert_allclose(
            np.sqrt(residuals), np.sqrt(theirs[1]), rtol=0, atol=tol(A.dtype, n) * norms
        )
    assert result.info.backward_error <= tol(A.dtype, n, factor=10)
