"""python -m benchmarks.completion_large: 1e8 observed entries, in 6 GB.

Entries of a matrix of 1e6 x 1e5 and rank 10, 100 in each row. The process may have no more than
6 GB of memory of its own, input included. Prints the time of a sweep, the most memory there was,
and the root mean square error on entries that were not observed.
"""

from __future__ import annotations

import resource
import time
import warnings

import numpy as np
import scipy.sparse

import lowla

_ROWS, _COLUMNS, _RANK, _PER_ROW = 1_000_000, 100_000, 10, 100
_SLAB = 10_000
_SWEEPS = 12
_LIMIT = 6 * 10**9


def observed(U: np.ndarray, V: np.ndarray, rng: np.random.Generator) -> scipy.sparse.csr_array:
    """_PER_ROW entries of U V^T in each row, one at random in each of as many spans of columns."""
    span = _COLUMNS // _PER_ROW
    offsets = np.arange(0, _COLUMNS, span, dtype=np.int32)
    indices = np.empty((_ROWS, _PER_ROW), np.int32)
    values = np.empty((_ROWS, _PER_ROW))
    for first in range(0, _ROWS, _SLAB):
        part = slice(first, first + _SLAB)
        indices[part] = rng.integers(0, span, (_SLAB, _PER_ROW), dtype=np.int32) + offsets
        values[part] = np.einsum("ik,ijk->ij", U[part], V[indices[part]])
    indptr = np.arange(_ROWS + 1, dtype=np.int64) * _PER_ROW
    return scipy.sparse.csr_array((values.ravel(), indices.ravel(), indptr), (_ROWS, _COLUMNS))


def main() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT, _LIMIT))
    rng = np.random.default_rng(0)
    U, V = rng.standard_normal((_ROWS, _RANK)), rng.standard_normal((_COLUMNS, _RANK))
    M = observed(U, V, rng)
    stamps: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        found = lowla.complete(
            M, _RANK, n_iter=_SWEEPS, callback=lambda _: stamps.append(time.perf_counter())
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    i, j = rng.integers(0, _ROWS, 20_000), rng.integers(0, _COLUMNS, 20_000)
    error = found.predict(i, j) - np.einsum("ij,ij->i", U[i], V[j])
    print(f"{M.nnz:.0e} entries, {np.median(np.diff(stamps)):.2f} s a sweep")
    print(f"{peak / 1e9:.1f} GB at most, of {_LIMIT / 1e9:.0f} GB allowed")
    print(f"error on entries that were not observed {np.sqrt(np.mean(error**2)):.1e}")


if __name__ == "__main__":
    main()
