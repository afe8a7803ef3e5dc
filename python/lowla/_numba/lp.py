"""l_p regression min ||A x - b||_p for real data and 1 <= p < infinity.

Reweighted least squares with an exact line search: d minimises ||W^(1/2) (A d - r)|| with
W = (r^2 + delta^2)^(p/2-1), the direction of Newton's method for p > 1 (Osborne 1985; the line
search finds the damping of Adil, Peng, Sachdeva 2019). y = W (r - A d) satisfies A^T y = 0: scaled
to ||y||_q = 1 it is a point of the dual max b^T y, so that every step bounds its own distance from
the optimum. p = 1: the steps lead near a vertex of the linear programme, and descent along its
edges with an exact line search (Bloomfield and Steiger 1980) ends at one with a dual certificate.
"sample" solves for rows of [A b] drawn by Lewis weights or roots of leverage scores (Woodruff and
Yasuda 2023).
Cost of a step 2 m n^2 flops; of an edge O(m n + n^2).
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import scipy.linalg
import scipy.sparse

from .linalg import dense_svd
from .lstsq import Monitor, rank_of, safe_exponent, safe_payload, triangle
from .matrix import Array, NotFiniteError, times_power_of_two
from .scores import row_blocks, row_scores, sample_rows
from .sketch import csr_matrix

_STEPS = 200
_EDGES = 5  # per column and step limit
_SMOOTHING = 0.2  # by which delta shrinks after a step that gained little
_LINE_STEPS = 60


class Facts(TypedDict):
    """What an l_p solver reports beside x."""

    method: str
    objective: float
    gap: float
    iterations: int
    converged: bool
    rows: int


def power_norm(r: Array, p: float) -> float:
    """||r||_p without overflow."""
    largest = float(np.abs(r).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    return float(largest * np.sum((np.abs(r) / largest) ** p) ** (1.0 / p))


def times(A: Any, x: Array) -> Array:
    """A x in double precision."""
    return np.concatenate([block @ x for _, block in row_blocks(A)])


def weighted_step(A: Any, weights: Array, r: Array) -> Array:
    """argmin ||diag(weights)^(1/2) (A d - r)||, minimum norm: one read."""
    n = (A[3] if isinstance(A, tuple) else A.shape)[1]
    roots = np.sqrt(weights)[:, None]
    R = np.zeros((0, n + 1))
    for rows, block in row_blocks(A):
        R = triangle(np.vstack([R, roots[rows] * np.hstack([block, r[rows, None]])]))
    U, s, Vh = dense_svd(R[:n, :n])
    k = rank_of(s, max(n, len(r)) * float(np.finfo(np.float64).eps))
    return np.asarray(Vh[:k].T @ (U[:, :k].T @ R[:n, n] / s[:k]))


def line_minimum(r: Array, change: Array, p: float) -> float:
    """The t >= 0 that minimises ||r - t change||_p, by bisection of the derivative."""

    def slope(t: float) -> float:
        rest = r - t * change
        return -float(np.sum(np.sign(rest) * np.abs(rest) ** (p - 1.0) * change))

    low, high = 0.0, 1.0
    for _ in range(_LINE_STEPS):
        if slope(high) >= 0.0:
            break
        low, high = high, 2.0 * high
    for _ in range(_LINE_STEPS):
        middle = 0.5 * (low + high)
        if slope(middle) < 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def duality_gap(r: Array, y: Array, objective: float, p: float) -> float:
    """objective / (b^T y / ||y||_q) - 1 for A^T y = 0, where b^T y = r^T y."""
    q = p / (p - 1.0) if p > 1.0 else np.inf
    norm = float(np.abs(y).max()) if p == 1.0 else power_norm(y, q)
    bound = float(r @ y) / norm if norm > 0.0 else 0.0
    return objective / bound - 1.0 if bound > 0.0 else float("inf")


class State:
    """x, r = b - A x and the best bound so far."""

    def __init__(self, A: Any, b: Array, p: float, x: Array) -> None:
        self.A, self.b, self.p = A, b, p
        self.steps = 0
        self.gap = float("inf")
        self.move_to(x)

    def move_to(self, x: Array) -> None:
        self.x = x
        self.r = self.b - times(self.A, x)
        self.objective = power_norm(self.r, self.p)

    def bound(self, y: Array) -> None:
        self.gap = max(duality_gap(self.r, y, self.objective, self.p), 0.0)


def reweighted(s: State, tol: float, steps: int, monitor: Monitor) -> bool:
    """Reweighted least squares until the gap is at most tol; True if the monitor ended it."""
    negligible = 1e3 * np.finfo(np.float64).eps * power_norm(s.b, s.p)
    delta = float(np.sqrt(np.mean(s.r**2))) if s.p < 2.0 else 0.0
    for _ in range(steps):
        if s.objective <= negligible:
            s.gap = 0.0
            return False
        scale = float(np.abs(s.r).max())
        floor = max(delta, 1e-12 * scale if s.p < 2.0 else 1e-8 * scale)
        weights = ((s.r / scale) ** 2 + (floor / scale) ** 2) ** (s.p / 2.0 - 1.0)
        d = weighted_step(s.A, weights, s.r)
        change = times(s.A, d)
        s.bound(weights * (s.r - change))
        s.steps += 1
        stopped = monitor is not None and monitor(s.steps, s.gap)
        if stopped or s.gap <= tol:
            return stopped
        before = s.objective
        s.move_to(s.x + line_minimum(s.r, change, s.p) * d)
        if before - s.objective <= 1e-3 * max(s.gap, tol) * before:
            if delta == 0.0 or delta < 1e-11 * scale:
                return False
            delta *= _SMOOTHING
    return False


def starting_basis(s: State) -> Array:
    """n independent rows with small residuals: pivoted QR of the rows scaled by 1 / |r|."""
    n = len(s.x)
    candidates = np.argsort(np.abs(s.r), kind="stable")[: min(len(s.r), 20 * n)]
    rows = dense_rows(s.A, candidates)
    small = np.abs(s.r[candidates])
    scaled = rows / (small + 1e-9 * small.max() + np.finfo(np.float64).tiny)[:, None]
    _, pivots = scipy.linalg.qr(scaled.T, mode="r", pivoting=True)
    return np.asarray(candidates[pivots[:n]])


def dense_rows(A: Any, rows: Array) -> Array:
    """The given rows, in double precision."""
    taken = csr_matrix(A)[rows].toarray() if isinstance(A, tuple) else A[rows]
    return np.asarray(taken, dtype=np.float64)


def weighted_median(breaks: Array, weights: Array, enough: float) -> int:
    """The first index, in the order of the breaks, at which the sum of weights reaches enough."""
    order = np.argsort(breaks, kind="stable")
    reached = np.searchsorted(np.cumsum(weights[order]), enough)
    return int(order[min(int(reached), len(order) - 1)])


def edges(s: State, tol: float, steps: int) -> None:
    """p = 1: from vertex to vertex along the edge whose multiplier is largest, while above 1."""
    n = len(s.x)
    basis = starting_basis(s)
    for _ in range(steps):
        rows = dense_rows(s.A, basis)
        if len(basis) < n or np.linalg.cond(rows) > 1e14:
            return
        inverse = np.linalg.inv(rows)
        x = s.x + inverse @ s.r[basis]
        vertex = State(s.A, s.b, 1.0, x)
        outside = np.ones(len(s.b), dtype=bool)
        outside[basis] = False
        signs = np.where(outside, np.sign(vertex.r), 0.0)
        pulled = np.zeros(n)
        for block_rows, block in row_blocks(s.A):
            pulled += signs[block_rows] @ block
        y = signs.copy()
        y[basis] = -inverse.T @ pulled
        vertex.bound(y)
        vertex.steps = s.steps + 1
        s.x, s.r, s.objective = vertex.x, vertex.r, vertex.objective
        s.gap, s.steps = vertex.gap, vertex.steps
        leaving = int(np.argmax(np.abs(y[basis])))
        multiplier = float(y[basis][leaving])
        if s.gap <= tol or abs(multiplier) <= 1.0 + 1e-12:
            return
        direction = -np.sign(multiplier) * inverse[:, leaving]
        change = times(s.A, direction)
        ratio = np.divide(s.r, change, where=np.abs(change) > 1e-13, out=np.full(len(s.r), -1.0))
        ahead = np.flatnonzero(outside & (ratio >= 0.0))
        if not ahead.size:
            return
        # The slope of the edge is 1 - |multiplier|; a residual that changes sign adds 2 |change|.
        gains = np.where(s.r[ahead] == 0.0, 1.0, 2.0) * np.abs(change[ahead])
        basis = basis.copy()
        basis[leaving] = ahead[weighted_median(ratio[ahead], gains, abs(multiplier) - 1.0)]


def independent_columns(A: Any) -> Array:
    """Columns of A that span its range (at least one), ascending: pivoted QR of its triangle."""
    m, n = A[3] if isinstance(A, tuple) else A.shape
    R = np.zeros((0, n))
    for _, block in row_blocks(A):
        R = triangle(np.vstack([R, block]))
    R, pivots = scipy.linalg.qr(R, mode="r", pivoting=True)
    sizes = np.abs(np.diag(R))
    k = rank_of(sizes, max(m, n) * float(np.finfo(np.float64).eps))
    return np.sort(pivots[: max(k, 1)])


def only_columns(A: Any, columns: Array) -> Any:
    """Some columns of A, a copy; A itself if they are all."""
    if len(columns) == (A[3] if isinstance(A, tuple) else A.shape)[1]:
        return A
    if isinstance(A, tuple):
        part = csr_matrix(A)[:, columns].tocsr()
        return part.indptr, part.indices, part.data, part.shape
    return A[:, columns]


def solve(
    A: Any, b: Array, p: float, x: Array | None, tol: float, max_iter: int, monitor: Monitor
) -> tuple[State, bool]:
    """The minimiser from x, or from least squares; whether the monitor ended it."""
    start = weighted_step(A, np.ones(len(b)), b) if x is None else x
    s = State(A, b, p, start)
    steps = max_iter or _STEPS
    stopped = reweighted(s, tol if p > 1.0 else max(tol, 1e-6), steps, monitor)
    if p == 1.0 and not stopped and s.gap > tol and len(b) > len(s.x):
        edges(s, tol, _EDGES * len(s.x) + steps)
    return s, stopped


def sampled(A: Any, b: Array, p: float, rows: int, key: int) -> tuple[Array, Array]:
    """Rows of [A b], weighted: a dense matrix and a vector."""
    whole = _with_column(A, b)
    scores = row_scores(whole, p, "root_leverage" if p <= 2.0 else "lewis", key, True)
    indices, weights = sample_rows(scores, rows, p, key)
    taken, first, counts = np.unique(indices, return_index=True, return_counts=True)
    weights = weights[first] * counts ** (1.0 / p)  # one row for all its copies
    return weights[:, None] * dense_rows(A, taken), weights * b[taken]


def _with_column(A: Any, b: Array) -> Any:
    if isinstance(A, tuple):
        joined = scipy.sparse.hstack([csr_matrix(A), scipy.sparse.csr_array(b[:, None])]).tocsr()
        return joined.indptr, joined.indices, joined.data, joined.shape
    return np.column_stack([A, b])


def lp_regression(
    A: Any,
    b: Array,
    p: float,
    method: str,
    rows: int,
    tol: float,
    max_iter: int,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> tuple[Array, Facts]:
    """x (n,) and the facts, for b (m,); with rows > 0 "exact" starts from a sample of so many."""
    m, n = A[3] if isinstance(A, tuple) else A.shape
    with np.errstate(all="ignore"):
        try:
            A, a_exponent = safe_payload(A)
            wide_b = b.astype(np.float64)
            b_exponent = safe_exponent(wide_b, "b")
            scaled_b = times_power_of_two(wide_b, b_exponent)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            nan = float("nan")
            return np.full(n, nan, dtype=b.dtype), Facts(
                method="exact", objective=nan, gap=nan, iterations=0, converged=False, rows=0
            )
        columns = independent_columns(A) if p == 1.0 else np.arange(n)  # a vertex needs rank n
        A = only_columns(A, columns)
        sampling = 0 < rows < m
        start, steps, converged, stopped = None, 0, True, False
        if sampling:
            small, stopped = solve(
                *sampled(A, scaled_b, p, rows, key), p, None, tol, max_iter, monitor
            )
            start, steps, converged = small.x, small.steps, small.gap <= tol
        if start is not None and (method == "sample" or stopped):
            s = State(A, scaled_b, p, start)
            s.gap = float("nan")
        else:
            s, _ = solve(A, scaled_b, p, start, tol, max_iter, monitor)
            converged, sampling = s.gap <= tol, False
        x = np.zeros(n)
        x[columns] = s.x
    return (
        times_power_of_two(x, a_exponent - b_exponent).astype(b.dtype),
        Facts(
            method="sample" if sampling else "exact",
            objective=float(times_power_of_two(np.float64(s.objective), -b_exponent)),
            gap=s.gap,
            iterations=steps + s.steps,
            converged=converged,
            rows=rows if sampling else 0,
        ),
    )
