"""What this machine can do at best: measured in the process that is being benchmarked.

GEMM rate: NumPy's own square product, the fastest general kernel a user has. Read bandwidth: one
pass over a matrix much larger than the caches by NumPy's matrix-vector product. A kernel's limit is
max(flops / rate, bytes / bandwidth) for the flops and bytes that its algorithm cannot avoid. A
ratio below 1 says that the kernel beats the BLAS that the rate was measured with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.measure import PAUSE

_ORDER = 2048
_BYTES = 256 << 20
_REPETITIONS = 7


def _least_seconds(call: object) -> float:
    seconds = []
    for _ in range(_REPETITIONS):
        time.sleep(PAUSE)
        start = time.perf_counter()
        call()  # type: ignore[operator]
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True)
class Limits:
    """Flops and bytes a second of this machine for one dtype."""

    dtype: str
    flops: float
    bandwidth: float

    @classmethod
    def measure(cls, dtype: str) -> Limits:
        rng = np.random.default_rng(0)
        square = rng.standard_normal((_ORDER, _ORDER)).astype(dtype)
        flops = 2.0 * _ORDER**3 / _least_seconds(lambda: square @ square)
        columns = 2000
        tall = np.ones((_BYTES // square.itemsize // columns, columns), dtype)
        vector = np.ones(columns, dtype)
        bandwidth = tall.nbytes / _least_seconds(lambda: tall @ vector)
        return cls(dtype, flops, bandwidth)

    def seconds(self, flops: float, nbytes: float) -> float:
        """The shortest time for so many flops and bytes."""
        return max(flops / self.flops, nbytes / self.bandwidth)
