"""CUR decompositions A = C U R + E: columns C and rows R of A itself.

Columns: pivots of a sketch (QR or LU; Dong and Martinsson 2023), DEIM (Sorensen and Embree 2016),
or sampling by rank-k leverage scores (Drineas, Mahoney, Muthukrishnan 2008). Rows are chosen from
the selected columns: QR pivots of an orthonormal basis of C, so that C[rows] is well-conditioned
within C (rows from an independent sketch may miss it), more of them by pivots of what is left.
U is C^+ A R^+, of least error, or A[rows, cols]^+ ("cross"), both by singular value decompositions
of small matrices.

With orthonormal bases B of C and V of R^H, G = B^H A V and M the same of C U R,
||A - C U R||^2 = ||A||^2 - ||G||^2 + ||G - M||^2: a certificate for one product with A. U itself
loses cond(C) u in its product with C and R, so singular values are left out below the level at
which the measured ||G - M|| is least (about sqrt(u) in the worst case).

Cost: the sketch, and 2 m n k flops in one read of A; O((m + n) k^2); memory (m + n) k numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import (
    CurFacts,
    Input,
    dtype_of,
    measured,
    nan_facts,
    open_input,
    project,
    require_finite,
    rest2_of,
    shape_of,
    sketch_of,
    sketched,
    smallest_rank,
)
from .linalg import dense_svd, rounded
from .matrix import Array, NotFiniteError, adjoint, squared_norm, times_power_of_two
from .philox import STREAM_COLUMNS
from .pivoting import Indices, distinct_sample, pivoted_lu_rows, pivoted_qr, rest_of
from .rsvd import rsvd

_OVERSAMPLE = 10  # rows of the sketch beyond k
_FIRST_RANK = 16
_LEVELS = range(0, 17)  # singular values below 10^-level of the largest are left out


@dataclass
class Span:
    """The singular value decomposition X = W diag(s) Z^H of columns, or of adjoint rows."""

    W: Array
    s: Array
    Zh: Array

    @classmethod
    def of(cls, X: Array, tolerance: float) -> Span:
        """Without the singular values that are rounding errors."""
        W, s, Zh = dense_svd(X)
        kept = s > tolerance * s.max(initial=0.0)
        return cls(W[:, kept], s[kept], Zh[kept])


@dataclass
class Cur:
    """Rows, columns, U of the scaled matrix, and the measured error."""

    rows: Indices
    cols: Indices
    U: Array
    rank: int
    error: tuple[float, str]


# --- columns -------------------------------------------------------------------------------------


def chosen_columns(
    inp: Input, k: int, method: str, extra: int, sketch: str, key: int
) -> tuple[Indices, int]:
    """k columns (k + extra by leverage) and the rows of the sketch that they were chosen on."""
    if method in ("deim", "leverage"):
        V = leading_vectors(inp, k, key)
        if method == "leverage":
            scores = np.sum(np.abs(V) ** 2, axis=1)
            return distinct_sample(scores, k + extra, key, STREAM_COLUMNS), 0
        return pivoted_lu_rows(V, k)[:k], 0
    if method == "lupp":
        return pivoted_lu_rows(adjoint(sketch_of(inp, k, sketch, key)), k)[:k], k
    Y = sketched(inp, k, _OVERSAMPLE, sketch, key)
    perm, _, _ = pivoted_qr(Y, min(k, *Y.shape), inp.rank_tolerance)
    return perm[:k], 0 if Y.shape[0] == inp.shape[0] else Y.shape[0]


def leading_vectors(inp: Input, k: int, key: int) -> Array:
    """The right singular vectors (n, r) of the r <= k leading singular values above rounding."""
    _, _, Vh, facts = rsvd(inp.payload, k, 0.0, 10, -1, "auto", "auto", key, False, None)
    wide = require_finite(Vh).astype(inp.matrix.work_dtype)
    return adjoint(wide[: facts["rank"]])


# --- rows and the middle factor ------------------------------------------------------------------


def chosen_rows(B: Array, count: int) -> Indices:
    """`count` rows of the orthonormal B: QR pivots, and those of what is left for more of them."""
    rows = np.empty(0, dtype=np.int64)
    while rows.size < count:
        rest = rest_of(B.shape[0], rows)
        if B.shape[1] == 0:
            return rest[:count]
        perm, _, rank = pivoted_qr(B[rest].T, B.shape[1], 0.0)
        found = rest[perm[: min(max(rank, 1), count - rows.size)]]
        rows = np.concatenate([rows, found])
    return rows


def kept(s: Array, level: int) -> int:
    """How many singular values are above 10^-level of the largest."""
    return int(np.count_nonzero(s > s.max(initial=0.0) * 10.0**-level))


def middles(left: Span, right: Span, G: Array) -> list[Array]:
    """Candidates for U = C^+ A R^+, both pseudoinverses truncated at one level."""
    found = []
    for a, b in sorted({(kept(left.s, level), kept(right.s, level)) for level in _LEVELS}):
        inner = G[:a, :b] / np.outer(left.s[:a], right.s[:b])
        found.append(adjoint(left.Zh[:a]) @ inner @ right.Zh[:b])
    return found


def crosses(core: Array) -> list[Array]:
    """Candidates for U = A[rows, cols]^+, truncated."""
    W, s, Zh = dense_svd(core)
    counts = sorted({kept(s, level) for level in _LEVELS})
    return [adjoint(Zh[:a]) @ (adjoint(W[:, :a]) / s[:a, None]) for a in counts]


def rounding2(left: Span, U: Array, right: Span) -> float:
    """The square of u ||C|| ||U|| ||R||, by which the product of the factors is off."""
    norms = np.linalg.norm(left.s) * np.linalg.norm(U) * np.linalg.norm(right.s)
    return float(norms * np.finfo(np.float64).eps) ** 2


def solved(inp: Input, cols: Indices, count: int, middle: str) -> Cur:
    """Rows and the middle factor for given columns: one read of A."""
    C = inp.columns(cols)
    left = Span.of(C, inp.rank_tolerance)
    rows = chosen_rows(left.W, count)
    R = inp.rows(rows)
    right = Span.of(adjoint(R), inp.rank_tolerance)
    G = adjoint(left.W) @ inp.times(right.W)
    candidates = middles(left, right, G) if middle == "lstsq" else crosses(R[:, cols])
    best, misfit2 = np.zeros((cols.size, count), dtype=C.dtype), squared_norm(G)
    for candidate in candidates:
        U = rounded(candidate, inp.dtype).astype(C.dtype)
        M = (left.s[:, None] * (left.Zh @ U @ adjoint(right.Zh))) * right.s
        off2 = squared_norm(G - M)
        if off2 < misfit2:
            best, misfit2 = U, off2
    norm2 = inp.matrix.norm2
    tail2 = None if norm2 is None else norm2 - squared_norm(G) + misfit2
    if tail2 is not None and not tail2 > 1e4 * rounding2(left, best, right):
        tail2 = None  # then the order of the products matters: the residual is measured
    error = measured(inp, C, best @ R, tail2)
    rank = int(np.count_nonzero(left.s > inp.output_tolerance * left.s.max(initial=0.0)))
    return Cur(rows, cols, best, rank, error)


# --- the decomposition ---------------------------------------------------------------------------


def ordered(inp: Input, cols: Indices, target: float, error: float) -> tuple[Indices, int]:
    """The columns by QR pivots, and how many of them should reach the target: one read.

    The error of the columns alone is known for each number of them; that of CUR is taken to exceed
    it by the same factor as it does with all columns.
    """
    C = inp.columns(cols)
    perm, _, rank = pivoted_qr(C, cols.size, inp.rank_tolerance)
    b = project(inp, cols[perm], rank, C)
    rest2, norm2 = rest2_of(inp, b, target)
    factor2 = max(1.0, error**2 * norm2 / rest2) if rest2 > 0.0 else 1.0
    return b.cols, smallest_rank(b, rest2, target**2 * norm2 / factor2)


def cur_within(
    inp: Input, limit: int, tol: float, method: str, middle: str, extra: int, sketch: str, key: int
) -> tuple[Cur, int, bool]:
    """The fewest columns (by pivots, not the minimum over all choices) within `tol`.

    The number is doubled until the error is small enough, then the columns are taken by pivots.
    """
    tried = min(_FIRST_RANK, limit)
    while True:
        cols, sketch_rows = chosen_columns(inp, tried, method, extra, sketch, key)
        d = solved(inp, cols, tried + extra, middle)
        if d.error[0] <= tol or tried == limit:
            break
        tried = min(2 * tried, limit)
    if d.error[0] > tol:
        return d, sketch_rows, False
    cols, size = ordered(inp, cols, tol, d.error[0])
    while size < cols.size:
        smaller = solved(inp, cols[:size], size + extra, middle)
        if smaller.error[0] <= tol:
            return smaller, sketch_rows, True
        size += max(1, size // 16)
    return d, sketch_rows, True


def cur(
    A: Any,
    k: int,
    tol: float,
    method: str,
    middle: str,
    oversample: int,
    sketch: str,
    key: int,
    check_finite: bool,
) -> tuple[Indices, Indices, Array, CurFacts]:
    """rows (r,), cols (c,), U (c, r) with A = A[:, cols] U A[rows] + E, and the facts.

    r = k + oversample; c = k, by leverage k + oversample too.
    """
    with np.errstate(all="ignore"):
        try:
            inp = open_input(A)
            if tol == 0.0:
                cols, sketch_rows = chosen_columns(inp, k, method, oversample, sketch, key)
                d, converged = solved(inp, cols, k + oversample, middle), True
            else:
                m, n = shape_of(A)
                limit = k or min(m - oversample, n - oversample if method == "leverage" else n)
                d, sketch_rows, converged = cur_within(
                    inp, limit, tol, method, middle, oversample, sketch, key
                )
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return nan_cur(A, max(k, 1), method, oversample)
        U = rounded(times_power_of_two(d.U, inp.exponent), inp.dtype)
        facts = CurFacts(
            error=d.error[0],
            error_method=d.error[1],
            rank=d.rank,
            passes=inp.matrix.passes,
            converged=converged,
            method=method,
            sketch_rows=sketch_rows,
            swaps=0,
        )
    return d.rows, d.cols, U, facts


def nan_cur(
    A: Any, k: int, method: str, oversample: int
) -> tuple[Indices, Indices, Array, CurFacts]:
    """The first rows and columns, and NaN between them."""
    rows = np.arange(k + oversample, dtype=np.int64)
    cols = rows if method == "leverage" else rows[:k]
    U = np.full((cols.size, rows.size), np.nan, dtype_of(A))
    return rows, cols, U, nan_facts(method)
