"""A product A B from some columns of A and rows of B: the CR approximation.

Drineas, Kannan, Mahoney, "Fast Monte Carlo algorithms for matrices I" (2006): k independent draws
of i with p_i = |a_i| |b_i| / s, s = sum |a_i| |b_i|, each weighted by 1 / (k p_i), have mean A B
and the least variance of all such p, E ||A B - C R||_F^2 = (s^2 - ||A B||_F^2) / k. The k largest
|a_i| |b_i| without weights leave at most the sum of the others. Cost: one read of A and of B.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from .lstsq import safe_payload
from .matrix import Array, NotFiniteError, times_power_of_two
from .philox import STREAM_PRODUCT, uniforms
from .pivoting import Indices
from .scores import row_blocks
from .sketch import csr_matrix


class CrFacts(TypedDict):
    """What bounds the error, relative to ||A||_F ||B||_F."""

    error: float
    captured: float


def row_norms(B: Any) -> Array:
    """||b_i|| of the rows: one read."""
    shape = B[3] if isinstance(B, tuple) else B.shape
    norms2 = np.zeros(shape[0])
    for rows, block in row_blocks(B):
        norms2[rows] = np.sum(block.real**2 + block.imag**2, axis=1)
    return np.asarray(np.sqrt(norms2))


def _transposed(A: Any) -> Any:
    if not isinstance(A, tuple):
        return A.T
    T = csr_matrix(A).T.tocsr()
    return T.indptr, T.indices, T.data, T.shape


def _scaled_norms(A: Any, name: str) -> Array:
    """Norms of rows over their largest, free of overflow; raises NotFiniteError."""
    try:
        payload, exponent = safe_payload(A)
    except NotFiniteError:
        raise NotFiniteError(name) from None
    del exponent  # the norms are only compared
    norms = row_norms(payload)
    largest = norms.max(initial=0.0)
    return times_power_of_two(norms, -int(np.frexp(largest)[1])) if largest > 0.0 else norms


def cr_select(
    A: Any, B: Any, k: int, method: str, key: int, check_finite: bool
) -> tuple[Indices, Array, CrFacts]:
    """indices and weights (k,) with A B ~ (A[:, indices] weights) B[indices], ascending."""
    with np.errstate(all="ignore"):
        try:
            a, b = _scaled_norms(_transposed(A), "A"), _scaled_norms(B, "B")
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            facts = CrFacts(error=float("nan"), captured=float("nan"))
            return np.arange(k, dtype=np.int64), np.full(k, np.nan), facts
    products = a * b
    total = float(products.sum())
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    if method == "top":
        indices = np.sort(np.argsort(-products, kind="stable")[:k]).astype(np.int64)
        captured = float(products[indices].sum())
        left = max(total - captured, 0.0) if indices.size < products.size else 0.0
        facts = CrFacts(
            error=left / scale if scale > 0.0 else 0.0,
            captured=captured / total if total > 0.0 else 1.0,
        )
        return indices, np.ones(k), facts
    if total == 0.0:
        return np.zeros(k, dtype=np.int64), np.zeros(k), CrFacts(error=0.0, captured=1.0)
    cumulative = np.cumsum(products)
    points = uniforms(key, STREAM_PRODUCT, k) * cumulative[-1]
    indices = np.searchsorted(cumulative, points, side="right")
    indices = np.sort(np.minimum(indices, np.flatnonzero(products)[-1])).astype(np.int64)
    captured = float(products[np.unique(indices)].sum()) / total
    facts = CrFacts(error=total / (scale * np.sqrt(k)), captured=captured)
    return indices, total / (k * products[indices]), facts
