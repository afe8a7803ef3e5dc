"""Monarch products against NumPy's and torch's batched products, and against the machine.

The limit is the larger of the flops of both stages at NumPy's GEMM rate and the bytes of operand,
result and blocks at the measured bandwidth. Bursts of calls, as in bench_kron.
"""

from __future__ import annotations

import numpy as np

import lowla
from benchmarks.bench_kron import burst
from benchmarks.measure import ChildProcess, Party, interleave
from benchmarks.session import Row, Session

_ORDERS = (32, 64, 128)  # of a block; n is their square
_COLUMNS = (1, 16, 64, 256, 1024)


def numpy_monarch(L: np.ndarray, R: np.ndarray, X: np.ndarray) -> np.ndarray:
    """What is written with NumPy: two batched products and their transposes."""
    b, c = len(L), X.shape[1]
    T = np.matmul(R, X.reshape(b, b, c)).transpose(1, 0, 2)
    return np.ascontiguousarray(np.matmul(L, T).transpose(1, 0, 2)).reshape(b * b, c)


def torch_monarch(order: int, columns: int, dtype: str) -> float:
    """In the child process: seconds of two torch.bmm with their transposes."""
    import torch

    kind = getattr(torch, dtype)
    L, R = (torch.randn(order, order, order, dtype=kind) for _ in range(2))
    X = torch.randn(order * order, columns, dtype=kind)

    def product() -> object:
        T = torch.bmm(R, X.reshape(order, order, columns)).transpose(0, 1)
        return torch.bmm(L, T).transpose(0, 1).contiguous()

    product()
    return burst(product)


def _case(
    session: Session, child: ChildProcess | None, order: int, columns: int, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    L, R = (rng.standard_normal((order, order, order)).astype(dtype) for _ in range(2))
    X = rng.standard_normal((order * order, columns)).astype(dtype)
    ours, expected = lowla.monarch_matmul(L, R, X), numpy_monarch(L, R, X.astype(np.float64))
    error = float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))
    parties = [
        Party("lowla", lambda: burst(lambda: lowla.monarch_matmul(L, R, X)), error),
        Party("numpy", lambda: burst(lambda: numpy_monarch(L, R, X))),
    ]
    if child is not None:
        request = {"order": order, "columns": columns, "dtype": dtype}
        parties.append(Party("torch bmm", lambda: child.call(**request)[1]))
    limits = session.limits(dtype)
    interleave([*parties, *limits.probes()], session.repetitions)
    limit = limits.seconds(4.0 * order * X.size, 2.0 * X.nbytes + L.nbytes + R.nbytes)
    session.add(
        "monarch", Row(f"n={order * order} x {columns} {dtype}", parties, limit, str(limits))
    )


def run(session: Session) -> None:
    """All cases of the family."""
    child = session.torch_process("benchmarks.bench_monarch", "torch_monarch")
    for dtype in ("float64", "float32"):
        for order in _ORDERS:
            for columns in _COLUMNS:
                _case(session, child, order, columns, dtype)
    if child is not None:
        child.close()
    ratios = np.array([row.ours.median / row.limit for row in session.tables["monarch"]])
    session.note(
        f"monarch: ours over the limit, geometric mean {np.exp(np.log(ratios).mean()):.2f}"
    )
