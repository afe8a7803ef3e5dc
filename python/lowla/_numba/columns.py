"""Bases from columns of A: rank-revealing QR by a sketch, interpolative decompositions.

The columns are the pivots of a sketch S A of k + p rows (Voronin and Martinsson 2017; Dong and
Martinsson 2023): one read of A, 2 m n (k + p) flops or 4 nnz(A) additions with sparse signs, and
4 (k + p)^2 n for the pivots.

"project": one more read, 2 m n k flops, forms P = Q^H A with the orthonormal basis Q of the chosen
columns C. Then ||A - Q P||_F^2 = ||A||_F^2 - ||P||_F^2 certifies, the leading columns of Q serve
every smaller rank, and T = R11^-1 P is the least-squares solution C^+ A. Memory (k + p) (m + n)
numbers.

"sketch": no second read. S A has four blocks of b rows, each with every row of A once, under signs
of its own (SparseStack; Camano, Epperly, Meyer, Tropp, arXiv:2508.21189). Three of them stand for A
in all of the above: pivots are those of its compression to 3 (k + p) rows, again by signs, T is
their least-squares solution. With l = 3 b >= 10 k rows the error is about sqrt(1 + k / (l - k - 1))
times the least one, 5 % more (exact in the mean for a Gaussian S; Drineas, Mahoney, Muthukrishnan,
Sarlos 2011). The fourth block H has not seen the choice: E ||H X||^2 = ||X||^2 / 4 for X = A - C T,
with relative variance at most 2 / b. Memory 4 b n.

Interpolation coefficients are bounded by the exchanges of Gu and Eisenstat (1996), on the sketch
and then, in the magnitude of T alone, on A itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import scipy.linalg

from .linalg import certificate, orth, rounded
from .lstsq import safe_payload
from .matrix import (
    Array,
    Matrix,
    NotFiniteError,
    adjoint,
    open_matrix,
    times_power_of_two,
)
from .philox import STREAM_COMPRESSION, random_normal
from .pivoting import Indices, pivoted_qr, positive_qr, rest_of, strong_pivots
from .sketch import csr_matrix, embed, start_block

_FIRST_RANK = 16  # tried first for a given tolerance, then doubled
_BLOCKS = 4  # of the sketch that stands for A; one is held out for the error
_PIVOT_SIGNS = 4  # nonzeros in a column of the sketch for pivots alone
_COMPRESSION_SIGNS = 8  # the same of that sketch's own compression
_MANY_ROWS = 100  # for a column: from there on one read beats two
_SLACK = 1e-6


class CurFacts(TypedDict):
    """What a decomposition by columns (and rows) reports beside its factors."""

    error: float
    error_method: str
    rank: int
    passes: int
    converged: bool
    method: str
    sketch_rows: int
    swaps: int


@dataclass
class Input:
    """A as it came, in the safe range, and the ways to read it."""

    payload: Any
    matrix: Matrix
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    exponent: int  # everything here is about A 2^exponent

    def times(self, X: Array) -> Array:
        """A X: one read."""
        return self.matrix.rmatmat(X) if self.matrix.swapped else self.matrix.matmat(X)

    def adjoint_times(self, Y: Array) -> Array:
        """A^H Y: one read."""
        return self.matrix.matmat(Y) if self.matrix.swapped else self.matrix.rmatmat(Y)

    def columns(self, cols: Indices) -> Array:
        """A[:, cols] in double precision."""
        if self.matrix.kind == "operator":
            return self.times(unit_vectors(self.shape[1], cols))
        part = self.payload if self.matrix.kind == "dense" else csr_matrix(self.payload)
        return self._wide(part[:, cols])

    def rows(self, rows: Indices) -> Array:
        """A[rows] in double precision."""
        if self.matrix.kind == "operator":
            return adjoint(self.adjoint_times(unit_vectors(self.shape[0], rows)))
        part = self.payload if self.matrix.kind == "dense" else csr_matrix(self.payload)
        return self._wide(part[rows])

    def _wide(self, part: Any) -> Array:
        dense = part if self.matrix.kind == "dense" else part.toarray()
        return np.asarray(dense, dtype=self.matrix.work_dtype)

    def wide_payload(self) -> Any:
        """The array or the CSR tuple in double precision."""
        wide = self.matrix.work_dtype
        if self.matrix.kind == "dense":
            return self.payload.astype(wide, copy=False)
        indptr, indices, data, shape = self.payload
        return indptr, indices, data.astype(wide, copy=False), shape

    def dense(self) -> Array:
        """A itself in double precision."""
        tall = self.matrix.to_dense()
        return adjoint(tall) if self.matrix.swapped else tall

    @property
    def rank_tolerance(self) -> float:
        """Pivots below this part of the largest are rounding errors of the products."""
        return max(self.shape) * self.matrix.unit_roundoff

    @property
    def output_tolerance(self) -> float:
        """Pivots below this part of the largest are rounding errors of the entries of A."""
        return max(self.shape) * float(np.finfo(self.dtype).eps)


def unit_vectors(n: int, indices: Indices) -> Array:
    """The columns `indices` of the identity of order n."""
    E = np.zeros((n, indices.size))
    E[indices, np.arange(indices.size)] = 1.0
    return E


def open_input(A: Any) -> Input:
    """A scaled to the safe range; raises NotFiniteError."""
    payload, exponent = safe_payload(A)
    matrix = open_matrix(payload)
    if matrix.kind == "operator":
        matrix.rescale()
        exponent = matrix.exponent
    if isinstance(A, tuple):
        shape, dtype = A[3], A[2].dtype
    else:
        shape, dtype = A.shape, A.dtype
    return Input(payload, matrix, (int(shape[0]), int(shape[1])), np.dtype(dtype), exponent)


def require_finite(X: Array) -> Array:
    """X, or NotFiniteError: an operator's entries are first seen in a product."""
    if not np.isfinite(X).all():
        raise NotFiniteError
    return X


def sketched(inp: Input, k: int, oversample: int, sketch: str, key: int) -> Array:
    """S A with k + oversample rows, or A itself where that has no more; one read."""
    if k + oversample >= inp.shape[0]:
        return require_finite(inp.dense())
    return sketch_of(inp, k + oversample, sketch, key)


def sketch_of(inp: Input, l: int, sketch: str, key: int) -> Array:
    """S A with l rows: one read."""
    start = start_block(kind_of(inp, sketch), key, inp.shape[0], l, _PIVOT_SIGNS)
    return require_finite(adjoint(inp.adjoint_times(start.astype(inp.matrix.work_dtype))))


def kind_of(inp: Input, sketch: str) -> str:
    """The sketch that "auto" stands for."""
    if sketch != "auto":
        return sketch
    return "gaussian" if inp.matrix.kind == "operator" else "sjlt"


def pivot_rows(k: int, oversample: int) -> int:
    """Rows of its compression: there are enough to choose on more than k + p at little cost."""
    return 3 * (k + oversample)


def stacked_rows(k: int, oversample: int) -> int:
    """Rows of the sketch that stands for A."""
    fitted = max(10 * k + 20, 2 * pivot_rows(k, oversample))
    return _BLOCKS * -(-fitted // (_BLOCKS - 1))


def stacked_sketch(inp: Input, d: int, sketch: str, key: int) -> tuple[Array, Array]:
    """The rows of S A (d, n) to choose and fit by, and those held out; E S^T S = I; one read."""
    m, kind = inp.shape[0], kind_of(inp, sketch)
    if inp.matrix.kind == "operator":
        start = start_block(kind, key, m, d, _BLOCKS) / np.sqrt(d)
        SA = adjoint(inp.adjoint_times(start.astype(inp.matrix.work_dtype)))
    else:
        inp.matrix.passes += 1
        SA = embed(kind, key, d, m, inp.wide_payload(), nnz=_BLOCKS)
    held_out = d // _BLOCKS
    return require_finite(SA[:-held_out]), require_finite(SA[-held_out:])


def measured(inp: Input, X: Array, Z: Array, tail2: float | None) -> tuple[float, str]:
    """Relative Frobenius error of X Z, and how it was found (`certificate`)."""
    if inp.matrix.swapped:
        factors, basis = (adjoint(Z), np.ones(X.shape[1]), adjoint(X)), orth(X)
    else:
        factors, basis = (X, np.ones(X.shape[1]), Z), orth(adjoint(Z))
    return certificate(inp.matrix, factors, basis, tail2)


# --- columns and their span ----------------------------------------------------------------------


@dataclass
class Basis:
    """Columns C = Q R11 of A, Q orthonormal, and P = Q^H A."""

    cols: Indices
    Q: Array
    triangle: Array  # R11
    P: Array
    pivots: int  # leading columns whose pivots are above rounding
    Y: Array  # what the columns were chosen on

    def leading(self, k: int) -> Basis:
        """The basis of the first k columns."""
        R11 = self.triangle[:k, :k]
        return Basis(self.cols[:k], self.Q[:, :k], R11, self.P[:k], min(self.pivots, k), self.Y)

    def coefficients(self) -> Array:
        """T (k, n) of least ||A - A[:, cols] T||_F; zero rows for columns beyond the rank."""
        r = self.pivots
        T = np.zeros_like(self.P)
        T[:r] = scipy.linalg.solve_triangular(self.triangle[:r, :r], self.P[:r], check_finite=False)
        T[:, self.cols] = np.eye(self.cols.size)
        return T


def project(inp: Input, cols: Indices, pivots: int, Y: Array) -> Basis:
    """The basis of given columns: one read."""
    Q, R11 = positive_qr(inp.columns(cols))
    P = adjoint(inp.adjoint_times(Q))
    return Basis(cols, Q, np.triu(R11), P, min(pivots, cols.size), Y)


def rest2_of(inp: Input, b: Basis, tol: float) -> tuple[float, float]:
    """||A - Q P||_F^2, accurate beside tol^2 ||A||_F^2, and ||A||_F^2."""
    norm2 = inp.matrix.norm2
    if norm2 is not None and 5e4 * inp.matrix.unit_roundoff < tol**2:
        return max(norm2 - float(np.sum(np.abs(b.P) ** 2)), 0.0), norm2
    ones = np.ones(b.cols.size)
    if inp.matrix.swapped:
        return inp.matrix.residual2(adjoint(b.P), ones, adjoint(b.Q), b.Q)
    return inp.matrix.residual2(b.Q, ones, b.P, orth(adjoint(b.P)))


def smallest_rank(b: Basis, rest2: float, allowed2: float) -> int:
    """The least number >= 1 of leading columns that leaves no more than allowed2, k if none."""
    captured = np.sum(np.abs(b.P) ** 2, axis=1)
    left2 = rest2 + np.concatenate([np.cumsum(captured[::-1])[::-1][1:], [0.0]])
    enough = np.flatnonzero(left2 <= allowed2)
    return int(enough[0]) + 1 if enough.size else b.cols.size


def pivot_basis(inp: Input, k: int, oversample: int, sketch: str, key: int) -> Basis:
    """The first k pivots of the sketch and their span: two reads."""
    Y = sketched(inp, k, oversample, sketch, key)
    perm, _, rank = pivoted_qr(Y, min(k, *Y.shape), inp.rank_tolerance)
    return project(inp, perm[:k], rank, Y)


def basis_within(
    inp: Input, k: int, tol: float, oversample: int, sketch: str, key: int
) -> tuple[Basis, bool]:
    """The basis of k columns, or of the fewest pivots within tol (at most k if that is given)."""
    limit = k or min(inp.shape)
    if tol == 0.0:
        return pivot_basis(inp, limit, oversample, sketch, key), True
    target = max(tol, 0.5 * float(np.finfo(inp.dtype).eps))
    tried = min(_FIRST_RANK, limit)
    while True:
        b = pivot_basis(inp, tried, oversample, sketch, key)
        rest2, norm2 = rest2_of(inp, b, target)
        if rest2 <= target**2 * norm2 or tried == limit:
            j = smallest_rank(b, rest2, target**2 * norm2)
            return b.leading(j), rest2 <= target**2 * norm2
        tried = min(2 * tried, limit)


def facts_of(
    inp: Input, b: Basis, error: tuple[float, str], converged: bool, method: str, swaps: int
) -> CurFacts:
    """The facts of a result that spans what `b` spans."""
    magnitude = np.abs(np.diagonal(b.triangle))
    rank = np.count_nonzero(magnitude > inp.output_tolerance * magnitude.max(initial=0.0))
    sketch_rows = 0 if b.Y.shape[0] == inp.shape[0] else b.Y.shape[0]
    return CurFacts(
        error=error[0],
        error_method=error[1],
        rank=int(rank),
        passes=inp.matrix.passes,
        converged=converged,
        method=method if sketch_rows else "direct",
        sketch_rows=sketch_rows,
        swaps=swaps,
    )


def nan_facts(method: str) -> CurFacts:
    """Facts of factors full of NaN."""
    return CurFacts(
        error=float("nan"),
        error_method="exact",
        rank=0,
        passes=1,
        converged=False,
        method=method,
        sketch_rows=0,
        swaps=0,
    )


def tail2_of(inp: Input, P: Array) -> float | None:
    """||A||_F^2 - ||P||_F^2 where ||A|| is known."""
    norm2 = inp.matrix.norm2
    return None if norm2 is None else norm2 - float(np.sum(np.abs(P) ** 2))


def shape_of(A: Any) -> tuple[int, int]:
    """The shape of a backend argument."""
    m, n = A[3] if isinstance(A, tuple) else A.shape
    return int(m), int(n)


def dtype_of(A: Any) -> np.dtype[Any]:
    """The dtype of a backend argument."""
    dtype: np.dtype[Any] = np.dtype(A[2].dtype if isinstance(A, tuple) else A.dtype)
    return dtype


# --- the decompositions --------------------------------------------------------------------------


def qrcp(
    A: Any, k: int, tol: float, oversample: int, sketch: str, key: int, check_finite: bool
) -> tuple[Array, Array, Indices, CurFacts]:
    """Q (m, k), R (k, n), perm (n,) with A[:, perm] = Q R + E, and the facts."""
    with np.errstate(all="ignore"):
        try:
            inp = open_input(A)
            b, converged = basis_within(inp, k, tol, oversample, sketch, key)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            (m, n), dtype, k = shape_of(A), dtype_of(A), max(k, 1)
            nan = np.full((m, k), np.nan, dtype), np.full((k, n), np.nan, dtype)
            return *nan, np.arange(n, dtype=np.int64), nan_facts("sketch")
        rest = rest_of(inp.shape[1], b.cols)
        R = np.hstack([b.triangle, b.P[:, rest]])
        Q = rounded(b.Q, inp.dtype)
        R = rounded(times_power_of_two(R, -inp.exponent), inp.dtype)
        perm = np.concatenate([b.cols, rest])
        P = np.empty_like(b.P)
        P[:, perm] = times_power_of_two(R.astype(P.dtype), inp.exponent)
        found = measured(inp, Q.astype(P.dtype), P, tail2_of(inp, b.P))
        return Q, R, perm, facts_of(inp, b, found, converged, "sketch", 0)


def bounded(inp: Input, b: Basis, bound: float) -> tuple[Basis, Array, int]:
    """The basis after exchanges that bring every |T| to at most `bound`; T; their number."""
    cols, swaps = strong_pivots(b.Y, b.cols[: b.pivots], bound)
    if swaps:
        extra = [c for c in b.cols[b.pivots :] if c not in cols]
        extra += [c for c in b.cols[: b.pivots] if c not in cols]
        missing = b.cols.size - cols.size
        cols = np.concatenate([cols, np.array(extra[:missing], dtype=np.int64)])
        b = project(inp, cols, b.pivots, b.Y)
    while True:
        T = b.coefficients()
        i, j = np.unravel_index(int(np.argmax(np.abs(T))), T.shape)
        if not abs(T[i, j]) > bound * (1.0 + _SLACK):
            return b, T, swaps
        cols = b.cols.copy()
        cols[i] = j
        b = project(inp, cols, b.pivots, b.Y)
        swaps += 1


@dataclass
class HeldOut:
    """The block H A of the sketch that T has not seen, and an estimate of ||A||_F."""

    HA: Array
    norm: float

    def error(self, cols: Indices, T: Array) -> tuple[float, str]:
        """An estimate of ||A - A[:, cols] T||_F / ||A||_F, as `certificate` gives it."""
        if self.norm == 0.0:
            return 0.0, "exact"
        left = np.linalg.norm(self.HA - self.HA[:, cols] @ T)
        return float(np.sqrt(_BLOCKS) * left / self.norm), "probe"


@dataclass
class Interpolation:
    """A = A[:, cols] T + E."""

    inp: Input
    basis: Basis
    T: Array
    converged: bool
    swaps: int
    method: str
    held_out: HeldOut | None = None
    sketch_rows: int = 0  # of the sketch that stood for A


def interpolation(
    A: Any,
    k: int,
    eps: float,
    method: str,
    oversample: int,
    bound: float,
    sketch: str,
    key: int,
) -> Interpolation:
    """The column interpolative decomposition; raises NotFiniteError."""
    inp = open_input(A)
    d = stacked_rows(k, oversample)
    if method == "auto" and eps == 0.0 and kind_of(inp, sketch) == "sjlt":
        cheap = entries_of(A) > _MANY_ROWS * k * inp.shape[1]
        method = "sketch" if cheap else "project"
    if method == "sketch" and d < inp.shape[0]:
        return interpolation_of_sketch(inp, k, d, oversample, bound, sketch, key)
    if method == "direct":
        oversample = inp.shape[0]
    else:
        method = "project"
    b, converged = basis_within(inp, k, eps, oversample, sketch, key)
    size = b.cols.size
    while True:
        found, T, swaps = bounded(inp, b, bound)
        if eps == 0.0 or not converged or size == min(inp.shape):
            break
        rest2, norm2 = rest2_of(inp, found, eps)
        if rest2 <= max(eps, 0.5 * float(np.finfo(inp.dtype).eps)) ** 2 * norm2:
            break
        if k and size >= k:
            converged = False
            break
        size = min(size + max(1, size // 16), k or min(inp.shape))
        b = pivot_basis(inp, size, oversample, sketch, key)
    return Interpolation(inp, found, T, converged, swaps, method)


def entries_of(A: Any) -> int:
    """How many entries of A are stored."""
    return int(A[0][-1]) if isinstance(A, tuple) else int(A.size)


def interpolation_of_sketch(
    inp: Input, k: int, d: int, oversample: int, bound: float, sketch: str, key: int
) -> Interpolation:
    """That of three blocks of a sketch of d rows, which stand for A: one read of A."""
    fitted, held_out = stacked_sketch(inp, d, sketch, key)
    norm = float(np.hypot(np.linalg.norm(fitted), np.linalg.norm(held_out)))
    small = open_input(fitted)
    rows, kind = pivot_rows(k, oversample), kind_of(inp, sketch)
    if kind == "gaussian":
        Y = random_normal(key, STREAM_COMPRESSION, rows, len(fitted), "float64") @ fitted
    else:  # signs under another key than the sketch's
        other = key ^ (2**64 - 1)
        Y = embed(kind, other, rows, len(fitted), fitted, nnz=_COMPRESSION_SIGNS)
    perm, _, rank = pivoted_qr(Y, k, inp.rank_tolerance)
    b, T, swaps = bounded(small, project(small, perm[:k], rank, Y), bound)
    return Interpolation(inp, b, T, True, swaps, "sketch", HeldOut(held_out, norm), d)


def interpolation_facts(d: Interpolation, X: Array, T: Array) -> CurFacts:
    """The facts of A = X T + E, where X is A[:, cols] to rounding."""
    if d.held_out is not None:
        error = d.held_out.error(d.basis.cols, T)
    else:
        error = measured(d.inp, X, T, tail2_of(d.inp, d.basis.P))
    facts = facts_of(d.inp, d.basis, error, d.converged, d.method, d.swaps)
    if d.sketch_rows:
        facts["method"], facts["sketch_rows"] = d.method, d.sketch_rows
    return facts


def interp_decomp(
    A: Any,
    k: int,
    eps: float,
    method: str,
    oversample: int,
    bound: float,
    sketch: str,
    key: int,
    check_finite: bool,
) -> tuple[Indices, Array, CurFacts]:
    """idx (n,) and proj (k, n-k) with A[:, idx[k:]] = A[:, idx[:k]] proj + E, and the facts."""
    with np.errstate(all="ignore"):
        try:
            d = interpolation(A, k, eps, method, oversample, bound, sketch, key)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            n, k = shape_of(A)[1], max(k, 1)
            proj = np.full((k, n - k), np.nan, dtype_of(A))
            facts = nan_facts("sketch" if method == "auto" else method)
            return np.arange(n, dtype=np.int64), proj, facts
        b = d.basis
        rest = rest_of(d.inp.shape[1], b.cols)
        proj = rounded(d.T[:, rest], d.inp.dtype)
        d.T[:, rest] = proj
        C = d.inp.columns(b.cols) if d.held_out is None else np.empty((0, b.cols.size))
        facts = interpolation_facts(d, C, d.T)
    return np.concatenate([b.cols, rest]), proj, facts


def two_sided_id(
    A: Any,
    k: int,
    eps: float,
    method: str,
    oversample: int,
    bound: float,
    sketch: str,
    key: int,
    check_finite: bool,
) -> tuple[Indices, Indices, Array, Array, CurFacts]:
    """rows, cols (k,), X (m, k), Y (k, n) with A = X A[rows][:, cols] Y + E, and the facts.

    The columns first; then rows of C = A[:, cols], whose span they reproduce to rounding.
    """
    with np.errstate(all="ignore"):
        try:
            d = interpolation(A, k, eps, method, oversample, bound, sketch, key)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            (m, n), dtype, k = shape_of(A), dtype_of(A), max(k, 1)
            nan = np.full((m, k), np.nan, dtype), np.full((k, n), np.nan, dtype)
            first = np.arange(k, dtype=np.int64)
            return first, first, *nan, nan_facts("sketch" if method == "auto" else method)
        C = d.inp.columns(d.basis.cols)
        rows, X = row_interpolation(C, d.inp.rank_tolerance, bound)
        X = rounded(X, d.inp.dtype)
        Y = rounded(d.T, d.inp.dtype)
        wide = d.inp.matrix.work_dtype
        facts = interpolation_facts(d, X.astype(wide) @ C[rows], Y.astype(wide))
    return rows, d.basis.cols, X, Y, facts


def row_interpolation(C: Array, tolerance: float, bound: float) -> tuple[Indices, Array]:
    """rows (k,) and X (m, k) with C = X C[rows] for C (m, k), |X| <= bound."""
    m, k = C.shape
    perm, _, rank = pivoted_qr(C.T, k, tolerance)
    rows, _ = strong_pivots(C.T, perm[:rank], bound)
    spare = [i for i in perm if i not in rows][: k - rank]
    rows = np.concatenate([rows, np.array(spare, dtype=np.int64)])
    Q, R = np.linalg.qr(C.T[:, rows])
    X = np.zeros((m, k), dtype=C.dtype)
    coefficients = adjoint(Q[:, :rank]) @ C.T
    X[:, :rank] = scipy.linalg.solve_triangular(R[:rank, :rank], coefficients, check_finite=False).T
    X[rows] = np.eye(k)
    return rows, X
