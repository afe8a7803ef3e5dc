"""Error bounds that the tests assert, and errors measured without overflow.

Bounds have the form c n u cond of backward error analysis (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, chapters 3 and 19).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.inexact]

_EXTENDED_FLOPS = 20_000_000  # longdouble has no BLAS


def eps(dtype: npt.DTypeLike) -> float:
    """Machine epsilon of a real or complex dtype."""
    return float(np.finfo(dtype).eps)


def tol(dtype: npt.DTypeLike, n: int, cond: float = 1.0, factor: float = 50.0) -> float:
    """The bound factor * n * eps * cond."""
    return factor * max(n, 1) * eps(dtype) * cond


def orthogonality(Q: npt.ArrayLike) -> float:
    """||Q^H Q - I||_2 in double precision: the largest deviation over all directions."""
    wide = _wide(np.asarray(Q))
    return float(np.linalg.norm(wide.conj().T @ wide - np.eye(wide.shape[1]), 2))


def relative_error(
    A: npt.ArrayLike, U: npt.ArrayLike, S: npt.ArrayLike, Vh: npt.ArrayLike
) -> float:
    """||A - U diag(S) Vh||_F / ||A||_F, for entries anywhere in the range of A's dtype.

    Both are scaled by a power of two, which is exact, and multiplied in extended precision where
    that is affordable. 0 / 0 is 0.
    """
    A, U, S, Vh = (_wide(np.asarray(X)) for X in (A, U, S, Vh))
    largest = float(np.abs(A).max(initial=0.0))
    exponent = int(np.frexp(largest)[1]) if largest > 0.0 else 0
    if U.shape[0] * U.shape[1] * Vh.shape[1] <= _EXTENDED_FLOPS:
        A, U, S, Vh = (_extended(X) for X in (A, U, S, Vh))
    A, S = _scaled(A, -exponent), _scaled(S, -exponent)
    residual, norm = _norm(A - (U * S) @ Vh), _norm(A)
    if norm == 0.0:
        return 0.0 if residual == 0.0 else float("inf")
    return residual / norm


def best_error(S: npt.ArrayLike, k: int) -> float:
    """The relative Frobenius error of the best rank-k approximation (Eckart and Young 1936)."""
    S = np.asarray(S, dtype=np.float64)
    largest = float(S.max(initial=0.0))
    if largest == 0.0:
        return 0.0
    scaled = S / largest
    return float(np.linalg.norm(scaled[k:]) / np.linalg.norm(scaled))


def _wide(X: Array) -> Array:
    return X.astype(np.complex128 if X.dtype.kind == "c" else np.float64)


def _extended(X: Array) -> Array:
    return X.astype(np.clongdouble if X.dtype.kind == "c" else np.longdouble)


def _scaled(X: Array, exponent: int) -> Array:
    half = exponent // 2
    return (X * 2.0**half) * 2.0 ** (exponent - half)


def _norm(X: Array) -> float:
    return float(np.sqrt(np.sum(np.abs(X) ** 2)))
