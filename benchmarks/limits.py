"""What this machine can do: measured in the process that is being benchmarked, in turn with the
parties of each case, since a shared machine is not equally fast at all times.

GEMM rate: NumPy's own square product, the fastest general kernel a user has. Read bandwidth: one
pass over a matrix much larger than the caches by NumPy's matrix-vector product. A kernel's limit is
max(flops / rate, bytes / bandwidth) for the flops and bytes that its algorithm cannot avoid. A
ratio below 1 says that the kernel beats the BLAS that the rate was measured with.
"""

from __future__ import annotations

import numpy as np

from benchmarks.measure import Party

_ORDER = 2048
_BYTES = 256 << 20
_COLUMNS = 2000


class Limits:
    """Flops and bytes a second of this machine for one dtype: medians beside the latest case."""

    def __init__(self, dtype: str) -> None:
        square = np.random.default_rng(0).standard_normal((_ORDER, _ORDER)).astype(dtype)
        product = np.empty_like(square)
        tall = np.ones((_BYTES // square.itemsize // _COLUMNS, _COLUMNS), dtype)
        vector = np.ones(_COLUMNS, dtype)
        self._bytes = tall.nbytes
        self._gemm = Party("GEMM", lambda: np.matmul(square, square, out=product))
        self._read = Party("read", lambda: tall @ vector)

    def probes(self) -> list[Party]:
        """What is to be timed in turn with the parties of the next case."""
        for probe in (self._gemm, self._read):
            probe.seconds.clear()
        return [self._gemm, self._read]

    @property
    def flops(self) -> float:
        return 2.0 * _ORDER**3 / self._gemm.median

    @property
    def bandwidth(self) -> float:
        return self._bytes / self._read.median

    def seconds(self, flops: float, nbytes: float) -> float:
        """The shortest time for so many flops and bytes."""
        return max(flops / self.flops, nbytes / self.bandwidth)

    def __str__(self) -> str:
        return f"GEMM {self.flops / 1e9:.0f} GF/s, read {self.bandwidth / 1e9:.1f} GB/s"
