"""Passes over the plan P_ij = exp((f_i + g_j - C_ij) / reg) of a transport problem.

The cost C is an array (m, n), or a tuple (X, Y, metric) of points (m, d) and (n, d) whose costs are
computed where they are needed. Both are read by tiles of rows, contiguous in double precision: an
array that is so already is not copied. Rows are divided into chunks that depend on the shape alone
and summed in their order, so results do not depend on the number of threads.
Cost of a pass: m n exponentials, one read of C (or m n d multiplications), (chunks + 4) (m + n)
numbers of memory and a tile for each thread.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .logsumexp import exp
from .matrix import Array
from .philox import njit
from .threads import in_threads

T = TypeVar("T")
Index = npt.NDArray[np.intp]

METRICS = ("sqeuclidean", "euclidean", "cityblock")

_TILE = 1 << 17  # entries
_CHUNKS = 64
_NEGLIGIBLE = -600.0  # exponents below it count as -inf: exp(x) would be near denormal, and slow
_LEAST = -700.0  # the same for results that are not multiplied any more
_SAFE = 1e100  # row sums within 1 / this .. this are taken as they are
_SAFE_COLUMN = 1e-140  # column sums below it may lack entries that were negligible


class Cost(ABC):
    """What the passes ask of a cost: its shape, and tiles of its rows."""

    shape: tuple[int, int]

    @abstractmethod
    def tile(self, first: int, last: int) -> Array:
        """Rows first..last-1, C-contiguous float64; not to be written to."""

    @abstractmethod
    def only(self, rows: Array, columns: Array) -> Cost:
        """The cost of some rows and columns, ascending."""

    def tiles(self, first: int, last: int) -> Iterator[tuple[slice, Array]]:
        """Rows first..last-1 in tiles."""
        step = max(1, _TILE // max(self.shape[1], 1))
        for start in range(first, last, step):
            stop = min(start + step, last)
            yield slice(start, stop), self.tile(start, stop)

    def chunks(self) -> list[tuple[int, int]]:
        """The partition of the rows, whatever the number of threads."""
        m, n = self.shape
        count = min(_CHUNKS, max(m, 1), max(1, m * n // _TILE))
        edges = [m * k // count for k in range(count + 1)]
        return list(pairwise(edges))

    def by_chunks(self, work: Callable[[int, int], T]) -> list[T]:
        """work(first, last) of every chunk of rows, in order."""
        return in_threads(lambda chunk: work(*chunk), self.chunks())


class ArrayCost(Cost):
    """An array of any strides and dtype; perhaps some of its rows and columns."""

    def __init__(self, C: Array, rows: Array | None = None, columns: Array | None = None) -> None:
        self._C, self._rows, self._columns = C, rows, columns
        m = C.shape[0] if rows is None else len(rows)
        n = C.shape[1] if columns is None else len(columns)
        self.shape = (m, n)

    def tile(self, first: int, last: int) -> Array:
        part = self._C[first:last] if self._rows is None else self._C[self._rows[first:last]]
        if self._columns is not None:
            part = part[:, self._columns]
        ready = part.flags.c_contiguous and part.flags.writeable and part.dtype == np.float64
        return part if ready else np.array(part, dtype=np.float64, order="C")

    def only(self, rows: Array, columns: Array) -> Cost:
        kept_rows = rows if self._rows is None else self._rows[rows]
        kept_columns = columns if self._columns is None else self._columns[columns]
        return ArrayCost(self._C, kept_rows, kept_columns)


class PointsCost(Cost):
    """Distances between points, computed in double precision whatever their dtype."""

    def __init__(self, X: Array, Y: Array, metric: str) -> None:
        self.X = np.array(X, dtype=np.float64, order="C")
        self.YT = np.array(Y.T, dtype=np.float64, order="C")
        self.metric = METRICS.index(metric)
        self.shape = (len(X), len(Y))

    def tile(self, first: int, last: int) -> Array:
        out = np.empty((last - first, self.shape[1]))
        _distances(self.X[first:last], self.YT, self.metric, out)
        return out

    def only(self, rows: Array, columns: Array) -> Cost:
        return PointsCost(self.X[rows], self.YT[:, columns].T, METRICS[self.metric])


def cost_of(cost: Any) -> Cost:
    """The cost that a caller passed as an array or as (X, Y, metric)."""
    return PointsCost(*cost) if isinstance(cost, tuple) else ArrayCost(cost)


@njit
def _distances(X: Array, YT: Array, metric: int, out: Array) -> None:
    """out_ij = d(x_i, y_j); the columns of YT are the points."""
    for i in range(X.shape[0]):
        for j in range(YT.shape[1]):
            out[i, j] = 0.0
        for k in range(X.shape[1]):
            x = X[i, k]
            if metric == 2:
                for j in range(YT.shape[1]):
                    out[i, j] += abs(x - YT[k, j])
            else:
                for j in range(YT.shape[1]):
                    out[i, j] += (x - YT[k, j]) * (x - YT[k, j])
        if metric == 1:
            for j in range(YT.shape[1]):
                out[i, j] = math.sqrt(out[i, j])


class Extent(NamedTuple):
    """The least and the largest finite cost; rows and columns without; is one inf; NaN or -inf."""

    least: float
    largest: float
    empty_rows: Array
    empty_columns: Array
    forbidden: bool
    invalid: bool


def extent(cost: Cost) -> Extent:
    """One read of an array; for points the diagonal of the box around them bounds the largest."""
    m, n = cost.shape
    if isinstance(cost, PointsCost):
        return _extent_of_points(cost)
    parts = cost.by_chunks(lambda first, last: _extent_of_rows(cost, first, last))
    return Extent(
        min((p.least for p in parts), default=math.inf),
        max((p.largest for p in parts), default=-math.inf),
        np.concatenate([p.empty_rows for p in parts]) if m else np.zeros(0, bool),
        np.logical_and.reduce([p.empty_columns for p in parts]) if m else np.ones(n, bool),
        any(p.forbidden for p in parts),
        any(p.invalid for p in parts),
    )


def _extent_of_rows(cost: Cost, first: int, last: int) -> Extent:
    least, largest, forbidden, invalid = math.inf, -math.inf, False, False
    empty_rows, empty_columns = np.ones(last - first, bool), np.ones(cost.shape[1], bool)
    for rows, tile in cost.tiles(first, last):
        finite = np.isfinite(tile)
        empty_rows[rows.start - first : rows.stop - first] = ~finite.any(axis=1)
        empty_columns &= ~finite.any(axis=0)
        forbidden = forbidden or not finite.all()
        invalid = invalid or bool((~finite & (tile != np.inf)).any())
        least = min(least, float(tile.min(initial=math.inf, where=finite)))
        largest = max(largest, float(tile.max(initial=-math.inf, where=finite)))
    return Extent(least, largest, empty_rows, empty_columns, forbidden, invalid)


def _extent_of_points(cost: PointsCost) -> Extent:
    low = np.minimum(cost.X.min(axis=0), cost.YT.min(axis=1))
    high = np.maximum(cost.X.max(axis=0), cost.YT.max(axis=1))
    corners = np.empty((1, 1))
    _distances(low[None, :], high[:, None], cost.metric, corners)
    invalid = not (np.isfinite(cost.X).all() and np.isfinite(cost.YT).all())
    none = np.zeros(cost.shape[0], bool), np.zeros(cost.shape[1], bool)
    return Extent(0.0, float(corners[0, 0]), *none, False, invalid)


# --- both half steps of Sinkhorn's iteration in one read ------------------------------------------


class Rows(NamedTuple):
    """f with the row sums of the plan exact for a given g, and then its column sums."""

    f: Array
    c: Array


def fitted_rows(cost: Cost, a: Array, log_a: Array, f: Array, g: Array, eps: float) -> Rows:
    """f that makes the row sums a for this g, from a guess of f, and the column sums: one read."""

    def part(first: int, last: int) -> tuple[Array, Array]:
        fitted, columns, work = np.empty(last - first), np.zeros(len(g)), np.empty(len(g))
        for rows, tile in cost.tiles(first, last):
            below = fitted[rows.start - first : rows.stop - first]
            _fit_rows(tile, a[rows], log_a[rows], f[rows], g, eps, below, columns, work)
        return fitted, columns

    parts = cost.by_chunks(part)
    return Rows(np.concatenate([p[0] for p in parts]), np.add.reduce([p[1] for p in parts], axis=0))


@njit
def _fit_rows(
    tile: Array,
    a: Array,
    log_a: Array,
    f: Array,
    g: Array,
    eps: float,
    fitted: Array,
    columns: Array,
    work: Array,
) -> None:
    """The guess f is the shift of the exponents: near the solution every row sum is about 1."""
    n = len(g)
    per_eps = 1.0 / eps
    for i in range(tile.shape[0]):
        fi = f[i] - eps * log_a[i]
        for j in range(n):
            x = (fi + g[j] - tile[i, j]) * per_eps
            work[j] = exp(x) if x > _NEGLIGIBLE else 0.0
        total = _sum(work)
        if not 1.0 / _SAFE < total < _SAFE:
            top = -math.inf
            for j in range(n):
                top = max(top, fi + g[j] - tile[i, j])
            fi -= top
            for j in range(n):
                x = (fi + g[j] - tile[i, j]) * per_eps
                work[j] = exp(x) if x > _NEGLIGIBLE else 0.0
            total = _sum(work)
        fitted[i] = fi + eps * (log_a[i] - math.log(total))
        share = a[i] / total
        for j in range(n):
            columns[j] += share * work[j]


@njit
def _sum(values: Array) -> float:
    """The sum by 8 running sums, which the compiler can keep in vectors."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = len(values) - len(values) % 8
    for j in range(0, whole, 8):
        s0 += values[j]
        s1 += values[j + 1]
        s2 += values[j + 2]
        s3 += values[j + 3]
        s4 += values[j + 4]
        s5 += values[j + 5]
        s6 += values[j + 6]
        s7 += values[j + 7]
    for j in range(whole, len(values)):
        s0 += values[j]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


def log_column_sums(cost: Cost, f: Array, g: Array, c: Array, eps: float) -> Array:
    """log of the column sums c; those near underflow are summed again, by their maximum."""
    with np.errstate(divide="ignore"):
        logs = np.asarray(np.log(c))
    small = np.flatnonzero(~(c >= _SAFE_COLUMN))
    if len(small):
        part = cost.only(np.arange(cost.shape[0]), small)
        logs[small] = _log_sums(part, f, g[small], eps)
    return logs


def _log_sums(cost: Cost, f: Array, g: Array, eps: float) -> Array:
    """log of the column sums of the plan, with a running maximum."""
    top, total = np.full(len(g), -np.inf), np.zeros(len(g))
    for rows, tile in cost.tiles(0, cost.shape[0]):
        x = (f[rows, None] + g - tile) / eps
        higher = np.maximum(top, x.max(axis=0))
        shift = np.where(np.isfinite(higher), higher, 0.0)
        total = total * np.exp(top - shift) + np.exp(x - shift).sum(axis=0)
        top = higher
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(np.isfinite(top), top, 0.0) + np.log(total))


# --- the plan, what is above a threshold, and sums over it ----------------------------------------


class Sparse(NamedTuple):
    """A sparse matrix by rows: indptr (m + 1), column indices, entries."""

    indptr: Array
    indices: Array
    data: Array


def sparse_plan(
    cost: Cost, f: Array, g: Array, eps: float, threshold: float, most: float = math.inf
) -> Sparse | None:
    """The entries >= threshold > 0 of the plan; None where there are more than `most`."""
    log_threshold = math.log(threshold)

    def part(first: int, last: int) -> tuple[list[Array], list[Array], list[Array]]:
        counts: list[Array] = []
        indices: list[Array] = []
        data: list[Array] = []
        stored = 0
        for rows, tile in cost.tiles(first, last):
            count = np.empty(len(tile), np.int64)
            columns, entries = np.empty(tile.size, np.int32), np.empty(tile.size)
            kept = _entries_above(tile, f[rows], g, eps, log_threshold, count, columns, entries)
            counts.append(count)
            indices.append(columns[:kept].copy())
            data.append(entries[:kept].copy())
            stored += kept
            if stored > most:
                break
        return counts, indices, data

    parts = cost.by_chunks(part)
    data = [block for p in parts for block in p[2]]
    if sum(map(len, data)) > most:
        return None
    counts = np.concatenate([block for p in parts for block in p[0]])
    indices = np.concatenate([block for p in parts for block in p[1]])
    return Sparse(np.concatenate([[0], np.cumsum(counts)]), indices, np.concatenate(data))


@njit
def _entries_above(
    tile: Array,
    f: Array,
    g: Array,
    eps: float,
    log_threshold: float,
    count: Array,
    columns: Array,
    entries: Array,
) -> int:
    stored = 0
    per_eps = 1.0 / eps
    for i in range(tile.shape[0]):
        before = stored
        for j in range(len(g)):
            x = (f[i] + g[j] - tile[i, j]) * per_eps
            if x >= log_threshold:
                columns[stored] = j
                entries[stored] = x
                stored += 1
        count[i] = stored - before
    for k in range(stored):
        entries[k] = math.exp(entries[k])
    return stored


class Sums(NamedTuple):
    """Marginals and value of a plan."""

    rows: Array
    columns: Array
    mass: float
    linear: float


def transport_sums(cost: Cost, f: Array, g: Array, reg: float) -> Sums:
    """Row sums, column sums, sum P and <P, C> in one read."""

    def part(first: int, last: int) -> tuple[Array, Array, float]:
        sums, columns, work = np.empty(last - first), np.zeros(len(g)), np.empty(len(g))
        linear = 0.0
        for rows, tile in cost.tiles(first, last):
            below = sums[rows.start - first : rows.stop - first]
            linear += _sum_plan(tile, f[rows], g, reg, below, columns, work)
        return sums, columns, linear

    parts = cost.by_chunks(part)
    sums = np.concatenate([p[0] for p in parts])
    columns = np.add.reduce([p[1] for p in parts], axis=0)
    return Sums(sums, columns, float(np.sum(sums)), math.fsum(p[2] for p in parts))


@njit
def _sum_plan(
    tile: Array, f: Array, g: Array, reg: float, rows: Array, columns: Array, work: Array
) -> float:
    linear = 0.0
    per_reg = 1.0 / reg
    for i in range(tile.shape[0]):
        for j in range(len(g)):
            x = (f[i] + g[j] - tile[i, j]) * per_reg
            work[j] = exp(x) if x > _LEAST else 0.0
        rows[i] = _sum(work)
        for j in range(len(g)):
            columns[j] += work[j]
        for j in range(len(g)):
            if work[j] > 0.0:
                work[j] *= tile[i, j]
        linear += _sum(work)
    return linear


def transport_plan(cost: Any, f: Array, g: Array, reg: float) -> Array:
    """P (m, n), in the dtype of the cost (float64 for points)."""
    C = cost_of(cost)
    P = np.empty(C.shape, np.float64 if isinstance(cost, tuple) else cost.dtype)
    for rows, tile in C.tiles(0, C.shape[0]):
        with np.errstate(under="ignore"):
            P[rows] = np.exp((f[rows, None] + g - tile) * (1.0 / reg))
    return P


def transport_sparse(
    cost: Any, f: Array, g: Array, reg: float, threshold: float
) -> tuple[Array, Array, Array]:
    """The entries >= threshold of P as indptr, indices, data."""
    found = sparse_plan(cost_of(cost), f, g, reg, threshold)
    assert found is not None  # there is no limit to their number
    return found


def transport_gradient(
    cost: tuple[Array, Array, str], f: Array, g: Array, reg: float
) -> tuple[Array, Array]:
    """sum_j P_ij dC_ij/dx_i (m, d) and sum_i P_ij dC_ij/dy_j (n, d)."""
    C = PointsCost(*cost)

    def part(first: int, last: int) -> tuple[Array, Array]:
        by_x, by_y = np.zeros((last - first, len(C.YT))), np.zeros(C.YT.shape)
        work = np.empty(len(g))
        for rows, tile in C.tiles(first, last):
            below = by_x[rows.start - first : rows.stop - first]
            _gradients(tile, C.X[rows], C.YT, C.metric, f[rows], g, reg, below, by_y, work)
        return by_x, by_y

    parts = C.by_chunks(part)
    by_x = np.concatenate([p[0] for p in parts])
    return by_x, np.ascontiguousarray(np.add.reduce([p[1] for p in parts], axis=0).T)


@njit
def _gradients(
    tile: Array,
    X: Array,
    YT: Array,
    metric: int,
    f: Array,
    g: Array,
    reg: float,
    by_x: Array,
    by_y: Array,
    work: Array,
) -> None:
    for i in range(tile.shape[0]):
        for j in range(len(g)):
            x = (f[i] + g[j] - tile[i, j]) * (1.0 / reg)
            weight = exp(x) if x > _LEAST else 0.0
            if metric == 1:  # the gradient of |x - y| is (x - y) / |x - y|, and 0 at x = y
                weight = weight / tile[i, j] if tile[i, j] > 0.0 else 0.0
            work[j] = 2.0 * weight if metric == 0 else weight
        for k in range(X.shape[1]):
            total = 0.0
            for j in range(len(g)):
                difference = X[i, k] - YT[k, j]
                if metric == 2:
                    difference = np.sign(difference)
                change = work[j] * difference
                total += change
                by_y[k, j] -= change
            by_x[i, k] = total
