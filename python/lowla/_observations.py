"""Intake of partly observed matrices: every kind as CSR without duplicates, weights beside it.

Observed are the stored entries of a sparse matrix (stored zeros too), the entries of a dense array
that are not NaN, and the unmasked ones of a masked array. Entries of weight 0 are not. CSR with
ascending indices is not copied. What is on the GPU stays there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lowla import _arrays

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Csr, Matrix, SupportsToCsr
    from lowla._backend import Device
    from lowla._results import Array

Observable: TypeAlias = "ArrayLike | SupportsToCsr"
Indices: TypeAlias = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Observations:
    """The observed entries; `like` is the caller's matrix, for its dtype and kind of array."""

    csr: Csr
    weights: Array | None
    like: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.csr[3]

    def part(self, kept: npt.NDArray[np.bool_]) -> Observations:
        """Some of the entries."""
        indptr, indices, values, shape = self.csr
        csr = (_starts(kept)[indptr], indices[kept], values[kept], shape)
        weights = None if self.weights is None else self.weights[kept]
        return Observations(csr, weights, self.like)

    def on(self, device: Device) -> Observations:
        """The same entries for a backend that computes on `device`."""
        if device == self.like.device:
            return self
        indptr, indices, values, shape = self.csr
        indptr, indices, values = (
            _arrays.placed(part, device) for part in (indptr, indices, values)
        )
        weights = None if self.weights is None else _arrays.placed(self.weights, device)
        return Observations((indptr, indices, values, shape), weights, self.like)


def observations(
    M: Observable, weights: Observable | None, duplicates: str, check_finite: bool
) -> Observations:
    """The observed entries of M.

    Raises TypeError for what is no real matrix, ValueError where entries contradict
    each other, there is none, or the weights do not fit.
    """
    taken, csr = _taken(M, "M", duplicates, check_finite)
    found = Observations(csr, None, taken)
    if weights is not None:
        with taken.current_device():
            found = _weighted(found, weights)
    if not len(found.csr[1]):
        positive = "" if weights is None else " of positive weight"
        raise ValueError(f"M must have at least one observed entry{positive}, got none")
    return found


def _taken(M: Any, name: str, duplicates: str, check_finite: bool) -> tuple[Matrix, Csr]:
    if isinstance(M, np.ma.MaskedArray):
        taken = _arrays.dense(M.data, name, (2,))
        observed = ~np.ma.getmaskarray(M)
        csr = _unmasked(_real(taken, name).dense, observed)
        if check_finite and not np.isfinite(csr[2]).all():
            raise ValueError(f"{name} contains NaN or Inf that is not masked")
        return taken, csr
    if hasattr(M, "format") and callable(getattr(M, "tocoo", None)):
        return _sparse(M, name, duplicates)
    taken = _real(_arrays.matrix(M, name, operator=False), name)
    with taken.current_device():
        if taken.kind == "csr":
            return taken, _canonical(taken.csr, name, duplicates)
        A = taken.dense
        if check_finite and np.isinf(A).any():
            raise ValueError(f"{name} contains Inf")
        return taken, _unmasked(A, ~np.isnan(A))


def _real(taken: Matrix, name: str) -> Matrix:
    if taken.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got dtype {taken.dtype}")
    return taken


def _unmasked(A: Array, observed: npt.NDArray[np.bool_]) -> Csr:
    m, n = A.shape
    indices = _narrow(np.nonzero(observed)[1], n)
    return _starts(observed.sum(axis=1)), indices, A[observed], (m, n)


def _starts(counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where parts of these sizes begin, and where the last one ends."""
    out = _arrays.library(counts).zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, dtype=np.int64, out=out[1:])
    return cast("npt.NDArray[np.int64]", out)


def _rows(indptr: Any, stored: int) -> Indices:
    """The row of each entry."""
    if isinstance(indptr, np.ndarray):
        return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    begun = np.bincount(indptr[1:-1], minlength=stored + 1)  # CuPy repeats all equally often
    return cast(Indices, np.cumsum(begun[:stored]))


def _narrow(indices: Indices, n: int) -> Indices:
    return indices.astype(np.int32 if n < 2**31 else np.int64, copy=False)


def _sparse(M: Any, name: str, duplicates: str) -> tuple[Matrix, Csr]:
    """Any format of scipy.sparse; conversions of SciPy that add up duplicates are not used."""
    if M.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {M.shape}")
    shape = (int(M.shape[0]), int(M.shape[1]))
    if M.format == "csr":
        taken = _real(_arrays.matrix(M, name), name)
        with taken.current_device():
            return taken, _canonical(taken.csr, name, duplicates)
    rows, cols, values = _diagonals(M) if M.format == "dia" else _coordinates(M)
    entries = _real(_arrays.dense(values, name, (1,)), name)
    with entries.current_device():
        like = _arrays.dense(entries.scratch(0, 0), name, (2,))
        return like, _sorted(rows, cols, entries.dense, shape, name, duplicates)


def _coordinates(M: Any) -> tuple[Indices, Indices, Array]:
    coo = M.tocoo()
    return coo.row, coo.col, coo.data


def _diagonals(M: Any) -> tuple[Indices, Indices, Array]:
    """The stored entries of the DIA format, zeros among them."""
    cols = np.broadcast_to(_arrays.library(M.data).arange(M.data.shape[1]), M.data.shape)
    rows = cols - M.offsets[:, None]
    inside = (rows >= 0) & (rows < M.shape[0]) & (cols < M.shape[1])
    return rows[inside], cols[inside], M.data[inside]


def _canonical(csr: Csr, name: str, duplicates: str) -> Csr:
    """The same entries with ascending, distinct indices in each row."""
    indptr, indices, values, (m, n) = csr
    stored = int(indptr[-1])
    indices, values = indices[:stored], values[:stored]
    ascending = _arrays.library(indices).ones(stored, dtype=bool)
    ascending[1:] = indices[1:] > indices[:-1]
    ascending[indptr[:-1][indptr[:-1] < stored]] = True
    if ascending.all():
        return indptr.astype(np.int64, copy=False), _narrow(indices, n), values, (m, n)
    return _sorted(_rows(indptr, stored), indices, values, (m, n), name, duplicates)


def _sorted(
    rows: Indices,
    cols: Indices,
    values: Array,
    shape: tuple[int, int],
    name: str,
    duplicates: str,
) -> Csr:
    """CSR of coordinates in any order; equal ones are an error, or their mean is taken."""
    m, n = shape
    on_host = isinstance(rows, np.ndarray)
    order = np.lexsort((cols, rows) if on_host else np.stack([cols, rows]))  # as CuPy wants it
    rows, cols, values = rows[order], cols[order], values[order]
    if len(rows) and (rows[0] < 0 or rows[-1] >= m or cols.min() < 0 or cols.max() >= n):
        raise ValueError(f"{name} has indices outside its shape {shape}")
    first = _arrays.library(rows).ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (cols[1:] != cols[:-1])
    if not first.all():
        if duplicates == "error":
            at = int(np.argmin(first))
            raise ValueError(
                f"{name} must have one value for an entry, got several for "
                f"({int(rows[at])}, {int(cols[at])}): pass duplicates='mean' to average them"
            )
        starts = np.flatnonzero(first)
        counts = np.bincount(np.cumsum(first))[1:]
        shares = values.astype(np.float64) / counts[np.cumsum(first) - 1]
        values = _arrays.library(values).add.reduceat(shares, starts).astype(values.dtype)
        rows, cols = rows[first], cols[first]
    return _starts(np.bincount(rows, minlength=m)), _narrow(cols, n), values, shape


def _weighted(found: Observations, weights: Observable) -> Observations:
    """The entries of positive weight."""
    indptr, indices, _, (m, n) = found.csr
    if callable(getattr(weights, "tocoo", None)):
        taken, csr = _taken(weights, "weights", "error", True)
        _require_beside(taken, found.like)
        w_indptr, w_indices, w, shape = csr
        same = shape == (m, n) and np.array_equal(w_indptr, indptr)
        if not same or not np.array_equal(w_indices, indices):
            raise ValueError("weights must have the shape and the stored entries of M")
    else:
        taken = _real(_arrays.dense(cast("ArrayLike", weights), "weights", (2,)), "weights")
        _require_beside(taken, found.like)
        if taken.shape != (m, n):
            raise ValueError(f"weights must have shape {(m, n)}, got {taken.shape}")
        w = taken.dense[_rows(indptr, len(indices)), indices]
    w = w.astype(np.float64, copy=False)
    bad = ~((w >= 0.0) & (w < np.inf))
    if bad.any():
        raise ValueError(f"weights must be finite and at least 0, got {float(w[bad][0]):g}")
    weighted = Observations(found.csr, w, found.like)
    return weighted if (w > 0.0).all() else weighted.part(w > 0.0)


def _require_beside(weights: Matrix, M: Matrix) -> None:
    if weights.device != M.device:
        raise TypeError("M and weights must both be in main memory or both on the GPU")
