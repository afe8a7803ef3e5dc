"""python -m benchmarks.mfac_from_disk DIR: inverse-Fisher-vector products from a file.

Gradients of 2e8 parameters, 16 of them in float32, 12.8 GB, are written to DIR and memory-mapped;
the process may then have no more than half of that in memory of its own. Prints the time of the
set-up (with its progress bar) and of a product, and how far F (F^-1 x) is from x.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

import lowla

_ROWS, _COLUMNS, _SLAB = 16, 200_000_000, 4_000_000
_DAMP = 1e-2


def write(path: Path, rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    G = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, columns))
    for row in G:
        for start in range(0, columns, _SLAB):
            stop = min(start + _SLAB, columns)
            row[start:stop] = rng.standard_normal(stop - start, dtype=np.float32)
    G.flush()


def residual(G: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """||F y - x|| / ||x||, slab by slab."""
    starts = range(0, len(x), _SLAB)
    c = sum(G[:, s : s + _SLAB].astype(np.float64) @ y[s : s + _SLAB] for s in starts) / len(G)
    square = 0.0
    for s in starts:
        part = _DAMP * y[s : s + _SLAB] + c @ G[:, s : s + _SLAB].astype(np.float64)
        square += float(np.sum((part - x[s : s + _SLAB]) ** 2))
    return float(np.sqrt(square) / np.linalg.norm(x))


def main() -> None:
    path = Path(sys.argv[1]) / "gradients.npy"
    write(path, _ROWS, _COLUMNS)
    try:
        limit = path.stat().st_size // 2
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        G = np.load(path, mmap_mode="r")
        start = time.perf_counter()
        Finv = lowla.InverseFisher(G, _DAMP, progress=True)
        print(f"set-up {time.perf_counter() - start:.1f} s, {limit / 1e9:.1f} GB allowed, ", end="")
        print(f"{path.stat().st_size / 1e9:.1f} GB of gradients")
        x = np.random.default_rng(1).standard_normal(_COLUMNS)
        start = time.perf_counter()
        y = Finv @ x
        print(f"product {time.perf_counter() - start:.1f} s")
        print(f"||F (F^-1 x) - x|| / ||x|| = {residual(G, x, y):.1e}")
    finally:
        path.unlink()


if __name__ == "__main__":
    main()
