"""Columns S of a positive semidefinite K, and F with F F^H = K[:, S] K[S, S]^-1 K[S, :].

rpcholesky: each next column is drawn with probability proportional to the diagonal of what is left
(Chen, Epperly, Tropp, Webber 2025, "Randomly pivoted Cholesky"), in blocks by rejection sampling
that draws from the same distribution (Epperly, Tropp, Webber 2024, "Embrace rejection", algorithm
3.2). greedy: the largest diagonal (Higham 1990). uniform; ridge_leverage: without replacement by
diag(K (K + reg I)^-1); where K is a function, by those of the factor of 2 k columns of rpcholesky
plus the diagonal of what that leaves over reg.

F is the Cholesky factor with those pivots: k columns of K and its diagonal are read, n k entries,
and the square of a block for each block of proposals. Cost 2 n k^2 flops, n k numbers. The residual
has the trace sum_i (K_ii - |F_i|^2): the certificate is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict

import numpy as np
import scipy.linalg

from .linalg import rounded
from .matrix import Array, NotFiniteError, adjoint
from .philox import STREAM_COLUMNS, STREAM_PROPOSALS, uniforms
from .pivoting import Indices, distinct_sample

Kernel: TypeAlias = Callable[[Indices, Indices], Array]

_BLOCK = 32  # proposals at a time
_NEGATIVE = 100.0  # times the rounding of the diagonal, grown by small pivots: not rounding


class NystromFacts(TypedDict):
    """What was reached and read."""

    error: float
    rank: int
    entries: int
    proposals: int


@dataclass
class Factor:
    """A growing partial Cholesky factorisation of K."""

    kernel: Kernel
    diagonal: Array
    k: int
    eps: float
    wide: np.dtype[Any]
    entries: int = 0
    proposals: int = 0
    columns: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = self.diagonal.size
        self.F = np.zeros((n, self.k), dtype=self.wide)
        self.left = self.diagonal.copy()
        self.largest = float(self.diagonal.max(initial=0.0))
        self.floor = n * self.eps * self.largest
        self.pivot = self.largest  # the smallest so far

    @property
    def exhausted(self) -> bool:
        """What is left is rounding errors."""
        return not float(self.left.max(initial=0.0)) > self.floor

    def read(self, rows: Indices, cols: Indices) -> Array:
        """A block of what is left of K."""
        self.entries += rows.size * cols.size
        block = np.asarray(self.kernel(rows, cols))
        if block.shape != (rows.size, cols.size):
            raise ValueError(
                f"K(rows, cols) must return shape {(rows.size, cols.size)}, got {block.shape}"
            )
        if block.dtype.kind == "c" and self.wide.kind != "c":
            raise TypeError("K has a real dtype, but K(rows, cols) returned a complex block")
        if not np.isfinite(block).all():
            raise NotFiniteError("K")
        taken = self.F[:, : len(self.columns)]
        return np.asarray(block.astype(self.wide) - taken[rows] @ adjoint(taken[cols]))

    def add(self, cols: Indices, corner: Array) -> None:
        """Takes the columns, of which `corner` is the Cholesky factor of what is left."""
        everything = np.arange(self.diagonal.size, dtype=np.int64)
        done = len(self.columns)
        G = self.read(everything, cols)
        new = adjoint(scipy.linalg.solve_triangular(corner, adjoint(G), lower=True))
        self.F[:, done : done + cols.size] = new
        self.columns.extend(cols.tolist())
        self.left = self.left - np.sum(np.abs(new) ** 2, axis=1)
        lowest = int(np.argmin(self.left))
        self.pivot = min(self.pivot, float(np.abs(np.diagonal(corner)).min()) ** 2)
        if self.left[lowest] < -_NEGATIVE * self.floor * self.largest / self.pivot:
            raise np.linalg.LinAlgError(
                f"K must be positive semidefinite, but after {len(self.columns)} columns the "
                f"diagonal of the rest reaches {self.left[lowest]:.1e} "
                f"(largest entry of the diagonal {self.largest:.1e})"
            )
        self.left[self.columns] = 0.0
        np.maximum(self.left, 0.0, out=self.left)


def _accepted(H: Array, left: Array, u: Array, room: int, floor: float) -> tuple[list[int], Array]:
    """Which proposals are kept, one after another, and the Cholesky factor of their block.

    Proposal i, drawn by `left`, is kept with the probability that what is left of it now bears to
    what was left of it then.
    """
    kept: list[int] = []
    L = np.zeros((0, 0), dtype=H.dtype)
    for i in range(len(H)):
        row = scipy.linalg.solve_triangular(L, H[kept, i], lower=True) if kept else H[kept, i]
        now = float(H[i, i].real - np.sum(np.abs(row) ** 2))
        if len(kept) == room or not (now > floor and u[i] * left[i] < now):
            continue
        L = np.block(
            [[L, np.zeros((len(kept), 1), dtype=H.dtype)], [row.conj()[None], np.sqrt(now)]]
        )
        kept.append(i)
    return kept, L


def _random_pivots(f: Factor, k: int, key: int) -> None:
    """Columns by rpcholesky until there are k."""
    while len(f.columns) < k and not f.exhausted:
        block = min(_BLOCK, f.diagonal.size)
        u = uniforms(key, STREAM_PROPOSALS, f.proposals * 2 + 2 * block)[2 * f.proposals :]
        f.proposals += block
        cumulative = np.cumsum(np.where(f.left > f.floor, f.left, 0.0))
        drawn = np.searchsorted(cumulative, u[:block] * cumulative[-1], side="right")
        drawn = np.minimum(drawn, np.flatnonzero(f.left > f.floor)[-1]).astype(np.int64)
        H = f.read(drawn, drawn)
        kept, L = _accepted(H, f.left[drawn], u[block:], k - len(f.columns), f.floor)
        if not kept:  # the first proposal is refused by rounding only
            f.left[drawn[0]] = 0.0
            continue
        f.add(drawn[kept], L)


def _largest_pivots(f: Factor, among: Array, k: int) -> None:
    """Columns by the largest diagonal, of the allowed ones."""
    while len(f.columns) < k:
        masked = np.where(among, f.left, 0.0)
        s = int(np.argmax(masked))
        if not masked[s] > f.floor:
            return
        f.add(np.array([s]), np.array([[np.sqrt(masked[s])]], dtype=f.wide))


def _ridge_scores(f: Factor, K: Any, reg: float, key: int) -> Array:
    """diag(K (K + reg I)^-1), or an estimate of it."""
    n = f.diagonal.size
    if callable(K):
        few = Factor(f.kernel, f.diagonal, min(n, 2 * f.k), f.eps, f.wide)
        _random_pivots(few, few.k, key ^ 1)
        f.entries += few.entries
        W = adjoint(few.F) @ few.F + reg * np.eye(few.k)
        Z = scipy.linalg.solve_triangular(np.linalg.cholesky(W), adjoint(few.F), lower=True)
        return np.asarray(np.minimum(np.sum(np.abs(Z) ** 2, axis=0) + few.left / reg, 1.0))
    everything = np.arange(n, dtype=np.int64)
    M = f.read(everything, everything) + reg * np.eye(n)
    inverse = scipy.linalg.solve_triangular(np.linalg.cholesky(M), np.eye(n), lower=True)
    return np.asarray(np.clip(1.0 - reg * np.sum(np.abs(inverse) ** 2, axis=0), 0.0, 1.0))


def nystrom_columns(
    K: Any,
    diagonal: Array,
    k: int,
    method: str,
    reg: float,
    dtype: str,
    key: int,
    check_finite: bool,
) -> tuple[Indices, Array, NystromFacts]:
    """columns (k,), F (n, k) with K ~ F F^H, zero columns beyond the rank, and the facts.

    K is an array, or a function of row and column indices that gives the block.
    """
    n = diagonal.size
    kernel: Kernel = K if callable(K) else lambda rows, cols: K[np.ix_(rows, cols)]
    wide = np.dtype(np.complex128 if np.dtype(dtype).kind == "c" else np.float64)
    f = Factor(kernel, diagonal, k, float(np.finfo(dtype).eps), wide)
    with np.errstate(all="ignore"):
        try:
            if not np.isfinite(diagonal).all():
                raise NotFiniteError("K")
            columns = _choose(f, K, method, reg, key)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            nan = float("nan")
            facts = NystromFacts(error=nan, rank=0, entries=f.entries, proposals=f.proposals)
            return np.arange(k, dtype=np.int64), np.full((n, k), nan, dtype), facts
    F = rounded(f.F, dtype)
    trace = float(diagonal.sum())
    captured = np.sum(np.abs(F.astype(wide)) ** 2, axis=1)
    left = float(np.sum(np.maximum(diagonal - captured, 0.0)))
    return (
        columns,
        F,
        NystromFacts(
            error=left / trace if trace > 0.0 else 0.0,
            rank=len(f.columns),
            entries=f.entries,
            proposals=f.proposals,
        ),
    )


def _choose(f: Factor, K: Any, method: str, reg: float, key: int) -> Indices:
    """Factors f; the k columns, those beyond the rank last."""
    n = f.diagonal.size
    candidates = np.arange(n, dtype=np.int64)
    if method == "rpcholesky":
        _random_pivots(f, f.k, key)
    else:
        if method != "greedy":
            scores = np.ones(n) if method == "uniform" else _ridge_scores(f, K, reg, key)
            candidates = distinct_sample(scores, f.k, key, STREAM_COLUMNS)
        among = np.zeros(n, dtype=bool)
        among[candidates] = True
        _largest_pivots(f, among, f.k)
    pivots = np.array(f.columns, dtype=np.int64)
    spare = candidates[~np.isin(candidates, pivots)]
    return np.concatenate([pivots, spare])[: f.k]
