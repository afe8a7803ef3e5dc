"""Importance of rows: leverage scores, l_p Lewis weights, sensitivities; and sampling by them.

Leverage tau_i = a_i^H (A^H A)^+ a_i. Lewis weights: w_i = (a_i^H (A^H W^(1-2/p) A)^+ a_i)^(p/2)
(Cohen and Peng 2015). The map's derivative in log w is -(p/2 - 1) times a matrix with spectrum in
[0, 1] (the squared entries of a projection, rows normalised), so that steps of length 4 / (p + 2)
contract near the solution by (p - 2) / (p + 2) for every p > 2; up to p = 2 the plain map contracts
by 1 - p/2. Sampling as in Woodruff and Yasuda 2023. Cost 2 m n^2 flops for a factor, as much again
for the scores; memory n^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import scipy.linalg

from .linalg import dense_svd
from .lstsq import rank_of, safe_payload, triangle
from .matrix import Array, NotFiniteError, adjoint
from .philox import STREAM_ROWS, uniforms
from .sketch import csr_matrix, embed, real_dtype

_BLOCK_ENTRIES = 1 << 19
_SKETCH_ROWS = 32  # per column: scores to a factor of 2
_LARGE = 1 << 22  # entries from which "auto" sketches
_CORESET = 8  # rows a column of the sample on which sensitivities are estimated


class LewisFacts(TypedDict):
    """How the fixed point was reached."""

    iterations: int
    converged: bool
    gap: float


def row_blocks(A: Any) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows of a dense array or CSR tuple, dense in double precision."""
    matrix = csr_matrix(A) if isinstance(A, tuple) else A
    m, n = matrix.shape
    wide = np.complex128 if matrix.dtype.kind == "c" else np.float64
    step = max(64, 2 * n, _BLOCK_ENTRIES // n)
    for begin in range(0, m, step):
        rows = slice(begin, min(begin + step, m))
        block = matrix[rows]
        yield rows, (block.toarray() if isinstance(A, tuple) else block).astype(wide, copy=False)


def weighted_factor(A: Any, weights: Array | None = None) -> Array:
    """P (n, k) with orthonormal diag(weights) A P, k the rank: one read."""
    R = np.zeros((0, _shape(A)[1]))
    for rows, block in row_blocks(A):
        scaled = block if weights is None else weights[rows, None] * block
        R = triangle(np.vstack([R, scaled]))
    _, s, Vh = dense_svd(R)
    k = rank_of(s, max(_shape(A)) * float(np.finfo(np.float64).eps))
    return np.asarray(adjoint(Vh[:k]) / s[:k])


def row_norms2(A: Any, P: Array) -> Array:
    """||a_i P||^2: one read."""
    norms2 = np.empty(_shape(A)[0])
    for rows, block in row_blocks(A):
        Y = block @ P
        norms2[rows] = np.sum(Y.real**2 + Y.imag**2, axis=1)
    return norms2


def _shape(A: Any) -> tuple[int, int]:
    m, n = A[3] if isinstance(A, tuple) else A.shape
    return m, n


def _exact_leverage(A: Any) -> Array:
    """Row norms of Y R^-1 with Y = A P, R^H R = Y^H Y, which takes back what cond(A) cost Y."""
    P = weighted_factor(A)
    G = np.zeros((P.shape[1], P.shape[1]), dtype=P.dtype)
    for _, block in row_blocks(A):
        Y = block @ P
        G = G + adjoint(Y) @ Y
    R = scipy.linalg.cholesky(G)
    scores = np.empty(_shape(A)[0])
    for rows, block in row_blocks(A):
        Z = scipy.linalg.solve_triangular(R, adjoint(block @ P), trans="C")
        scores[rows] = np.sum(np.abs(Z) ** 2, axis=0)
    return np.minimum(scores, 1.0)


def _sketched_leverage(A: Any, key: int) -> Array:
    """With A^H S^H S A in place of A^H A (Drineas, Magdon-Ismail, Mahoney, Woodruff 2012)."""
    m, n = _shape(A)
    d = _SKETCH_ROWS * n
    if d >= m:
        return _exact_leverage(A)
    SA = embed("sjlt", key, d, m, A)
    if real_dtype(SA.dtype) == np.float32:
        # Sums of 8 m / d terms: singular values near u sqrt(m / 4) times the largest are rounding.
        s = scipy.linalg.svdvals(SA.astype(np.result_type(SA, np.float64)), check_finite=False)
        if not s[-1] > 2.5 * np.finfo(np.float32).eps * np.sqrt(m) * s[0]:
            return _exact_leverage(A)
    return np.minimum(row_norms2(A, weighted_factor(SA)), 1.0)


def _leverage(A: Any, method: str, key: int) -> Array:
    m, n = _shape(A)
    large = m * n >= _LARGE and m >= 2 * _SKETCH_ROWS * n
    if method == "sketched" or (method == "auto" and large):
        return _sketched_leverage(A, key)
    return _exact_leverage(A)


def leverage_scores(A: Any, method: str, key: int, check_finite: bool) -> Array:
    """tau (m,), in the real dtype of A."""
    dtype = real_dtype(A[2].dtype if isinstance(A, tuple) else A.dtype)
    with np.errstate(all="ignore"):
        try:
            return _leverage(safe_payload(A)[0], method, key).astype(dtype)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return np.full(_shape(A)[0], np.nan, dtype=dtype)


def _lewis_map(A: Any, w: Array, p: float) -> Array:
    """(a_i^H (A^H W^(1-2/p) A)^+ a_i)^(p/2)."""
    powers = np.zeros_like(w)
    powers[w > 0.0] = w[w > 0.0] ** (0.5 - 1.0 / p)
    return np.asarray(row_norms2(A, weighted_factor(A, powers)) ** (p / 2.0))


def _lewis(A: Any, p: float, tol: float, max_iter: int) -> tuple[Array, LewisFacts]:
    w = _exact_leverage(A)
    if p == 2.0:
        return w, LewisFacts(iterations=0, converged=True, gap=0.0)
    step = min(1.0, 4.0 / (p + 2.0))
    gap, last = np.inf, np.inf
    iteration = 0
    while True:
        iteration += 1
        mapped = _lewis_map(A, w, p)
        kept = (w > 0.0) & (mapped > 0.0)
        gap = float(np.abs(np.log(mapped[kept] / w[kept])).max(initial=0.0))
        if gap <= tol or iteration == max_iter:
            break
        if gap > last:
            step /= 2.0
        last = gap
        w = np.where(kept, w ** (1.0 - step) * mapped**step, 0.0)
    return mapped, LewisFacts(iterations=iteration, converged=gap <= tol, gap=gap)


def lewis_weights(A: Any, p: float, tol: float, max_iter: int) -> tuple[Array, LewisFacts]:
    """w (m,), within exp(+-tol) of the right side of its equation, and the facts."""
    dtype = real_dtype(A[2].dtype if isinstance(A, tuple) else A.dtype)
    with np.errstate(all="ignore"):
        try:
            w, facts = _lewis(safe_payload(A)[0], p, tol, max_iter)
        except NotFiniteError as error:
            raise ValueError(str(error)) from None
    return w.astype(dtype), facts


def _rows(A: Any, indices: Array) -> Array:
    matrix = csr_matrix(A)[indices].toarray() if isinstance(A, tuple) else A[indices]
    return np.asarray(matrix)


def _sensitivities(A: Any, p: float, key: int) -> Array:
    """|a_i x|^p / ||A x||_p^p at the x that maximises it in the Lewis norm.

    Below the sensitivity by at most n^|p/2-1| (exact for p = 2). ||A x||_p is that of a sample by
    Lewis weights.
    """
    n = _shape(A)[1]
    w, _ = _lewis(A, p, 1e-2, 100)
    indices, weights = sample_rows(w, _CORESET * n * int(np.ceil(np.log(4 * n))), p, key)
    coreset = weights[:, None] * _rows(A, indices)
    powers = np.zeros_like(w)
    powers[w > 0.0] = w[w > 0.0] ** (0.5 - 1.0 / p)
    P = weighted_factor(A, powers)
    sensitivities = np.zeros(len(w))
    for rows, block in row_blocks(A):
        Y = block @ P  # x = P y / ||y||^2 has a_i x = 1
        norms2 = np.sum(np.abs(Y) ** 2, axis=1)
        images = np.sum(np.abs(coreset @ (P @ adjoint(Y))) ** p, axis=0)
        found = images > 0.0
        sensitivities[rows] = np.divide(norms2**p, images, where=found, out=np.zeros_like(norms2))
    return np.minimum(sensitivities, 1.0)


def row_scores(A: Any, p: float, method: str, key: int, check_finite: bool) -> Array:
    """The scores of a sampling method, (m,) float64, summing to about n (not normalised)."""
    with np.errstate(all="ignore"):
        try:
            A, _ = safe_payload(A)
            if method == "lewis":
                return _lewis(A, p, 1e-2, 100)[0]
            if method == "sensitivity":
                return _sensitivities(A, p, key)
            leverage: Array = _leverage(A, "auto", key)
            if method == "root_leverage":
                return np.asarray(leverage ** (p / 2.0))
            if method == "mixed":
                sensitivities = _sensitivities(A, p, key)
                total = max(float(sensitivities.sum()), np.finfo(np.float64).tiny)
                return np.asarray(leverage + sensitivities * (float(leverage.sum()) / total))
            return leverage
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return np.full(_shape(A)[0], np.nan)


def sample_rows(scores: Array, n_samples: int, p: float, key: int) -> tuple[Array, Array]:
    """Ascending indices and weights (n_samples,): draw j inverts the distribution at (j + u_j) / N.

    One draw from each of N equal parts of the distribution: row i comes N q_i times on average,
    never off by more than one, and weights (N q_i)^(-1/p) keep sums of p-th powers unbiased.
    """
    cumulative = np.cumsum(scores.astype(np.float64))
    points = (np.arange(n_samples) + uniforms(key, STREAM_ROWS, n_samples)) / n_samples
    indices = np.searchsorted(cumulative, points * cumulative[-1], side="right")
    indices = np.minimum(indices, np.flatnonzero(scores)[-1])
    q = scores[indices] / cumulative[-1]
    return indices.astype(np.int64), (n_samples * q) ** (-1.0 / p)
