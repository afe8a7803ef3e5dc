"""Thread count and description of the reference backend: the threads of BLAS, and `in_threads`.

The count is set through threadpoolctl where it is installed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import numpy as np
import scipy
import scipy.linalg  # its BLAS is one of the pools

S = TypeVar("S")
T = TypeVar("T")


class _BlasThreads:
    """The BLAS pools of the process, as threadpoolctl sees them."""

    def __init__(self) -> None:
        self.available = importlib.util.find_spec("threadpoolctl") is not None
        self.chosen: int | None = None
        self._pools: Any = None
        self._limit: Any = None  # keeps the limit in force

    def set(self, n: int) -> None:
        self.chosen = n
        if self.available:
            self._limit = self._controller().limit(limits=n, user_api="blas")

    def get(self) -> int:
        if self.chosen is not None:
            return self.chosen
        if self.available:
            pools = self._controller().info()
            counts = [int(pool["num_threads"]) for pool in pools if pool["user_api"] == "blas"]
            if counts:
                return max(counts)
        return os.cpu_count() or 1

    def _controller(self) -> Any:
        # Looked for once: the search takes milliseconds, and runs Python code in a callback from C,
        # where an interrupt would be lost.
        if self._pools is None:
            import threadpoolctl

            self._pools = threadpoolctl.ThreadpoolController()
        return self._pools


_threads = _BlasThreads()
if os.environ.get("LOWLA_NUM_THREADS", "").isdecimal():
    _threads.set(max(1, int(os.environ["LOWLA_NUM_THREADS"])))


def set_num_threads(n: int) -> None:
    """Limit the BLAS threads of the process."""
    _threads.set(n)


def get_num_threads() -> int:
    """The number of BLAS threads."""
    return _threads.get()


def features() -> dict[str, str | int | bool]:
    """What this backend is made of."""
    return {
        "backend": "numba",
        "numba": numba.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "threads": get_num_threads(),
        "threadpoolctl": _threads.available,
    }


def in_threads(work: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """[work(item) for item in items], on so many threads at once; `work` releases the GIL."""
    count = min(get_num_threads(), len(items))
    if count < 2:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(count)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C what has not begun never does
