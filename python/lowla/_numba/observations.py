"""The observed entries of a matrix, by rows and by columns, and what their pattern decides.

Half a sweep of alternating minimisation reads all entries of one row after another, the other half
all entries of a column: each has its own copy of the indices and values. Rows are divided into
chunks of about equal numbers of entries, so that a few long rows do not hold up the rest; the
partition depends on the pattern alone, and so do all sums.
The bipartite graph of the pattern has a vertex for each row and column and an edge for each entry.
Where it falls into several components nothing relates their factors, and no method can tell the
missing entries between them (Király, Theran, Tomioka 2015, Journal of Machine Learning Research 16,
section 3.2): they are counted by union-find with path halving, about one step an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .matrix import Array
from .philox import STREAM_HOLDOUT, _block, njit
from .threads import in_threads

T = TypeVar("T")
Csr: TypeAlias = "tuple[Array, Array, Array, tuple[int, int]]"

_CHUNKS = 64
_CHUNK_ENTRIES = 1 << 13  # at least; fewer are not worth a thread


class Layout(NamedTuple):
    """Entries by rows: those of row i are indptr[i]..indptr[i + 1] of indices and values.

    weights: one for each entry, or None where all are 1.
    """

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[Any]
    values: Array
    weights: Array | None

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The number of entries in each row."""
        return np.diff(self.indptr)

    def chunks(self) -> list[tuple[int, int]]:
        """The partition of the rows, whatever the number of threads."""
        m = len(self.indptr) - 1
        work = self.indptr + np.arange(m + 1)
        count = min(_CHUNKS, max(1, int(work[-1]) // _CHUNK_ENTRIES))
        goals = np.arange(1, count) * (int(work[-1]) / count)
        inner = np.searchsorted(work, goals)
        return list(pairwise([0, *np.unique(inner[(inner > 0) & (inner < m)]).tolist(), m]))

    def by_chunks(self, work: Callable[[int, int], T]) -> list[T]:
        """work(first, last) of every chunk of rows, in order."""
        chunks = self.chunks()
        if len(chunks) == 1:
            return [work(*chunks[0])]
        return in_threads(lambda chunk: work(*chunk), chunks)


def layouts(csr: Csr, weights: Array | None) -> tuple[Layout, Layout]:
    """The entries by rows, as they are given, and a copy of them by columns."""
    indptr, indices, values, (_, n) = csr
    rows = Layout(indptr.astype(np.int64, copy=False), indices, values, weights)
    return rows, by_columns(rows, n)


def by_columns(rows: Layout, n: int) -> Layout:
    """The transposed layout; entries of a column come in the order of their rows."""
    m = len(rows.indptr) - 1
    starts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows.indices, minlength=n), out=starts[1:])
    small = np.int32 if m < 2**31 else np.int64
    indices = np.empty(len(rows.indices), dtype=small)
    values = np.empty_like(rows.values)
    weights = None if rows.weights is None else np.empty_like(rows.weights)
    _scatter(*rows, starts[:-1].copy(), indices, values, weights)
    return Layout(starts, indices, values, weights)


@njit
def _scatter(
    indptr: Array,
    indices: Array,
    values: Array,
    weights: Array | None,
    place: Array,
    out_indices: Array,
    out_values: Array,
    out_weights: Array | None,
) -> None:
    for i in range(len(indptr) - 1):
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            p = place[j]
            place[j] = p + 1
            out_indices[p] = i
            out_values[p] = values[t]
            if weights is not None and out_weights is not None:
                out_weights[p] = weights[t]


def components(rows: Layout, n: int) -> int:
    """Connected components of the bipartite graph; an empty row or column is one of its own."""
    m = len(rows.indptr) - 1
    return m + n - int(_joined(rows.indptr, rows.indices, np.arange(m + n)))


@njit
def _joined(indptr: Array, indices: Array, parent: Array) -> int:
    """The number of edges that joined two components."""
    m, joined = len(indptr) - 1, 0
    for i in range(m):
        for t in range(indptr[i], indptr[i + 1]):
            a, b = i, m + indices[t]
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a != b:
                joined += 1
                if joined == len(parent) - 1:  # nothing is left to join
                    return joined
                if a < b:
                    parent[b] = a
                else:
                    parent[a] = b
    return joined


@njit
def _draw_holdout(
    key: int, indptr: Array, indices: Array, fraction: float, out: npt.NDArray[np.bool_]
) -> None:
    stream = np.uint64(STREAM_HOLDOUT)
    for i in range(len(indptr) - 1):
        for t in range(indptr[i], indptr[i + 1]):
            w0, w1, _, _ = _block(key, stream, np.uint64(i), np.uint64(indices[t]))
            u = float((w0 << np.uint64(21)) | (w1 >> np.uint64(11))) * 2.0**-53
            out[t] = u < fraction


def completion_holdout(M: Csr, fraction: float, key: int) -> npt.NDArray[np.bool_]:
    """Which stored entries are held out: entry (i, j) if the uniform number at (i, j) is below."""
    out = np.empty(len(M[1]), dtype=np.bool_)
    _draw_holdout(np.uint64(key), M[0], M[1], fraction, out)
    return out
