"""Monarch products, projections and long convolutions against NumPy, SciPy and torch.

The limit is the larger of the flops at NumPy's GEMM rate and of the bytes of operand, result and
blocks at the measured bandwidth. Flops of a product: those of both stages; of a projection: those
of the Gram matrices of all blocks; of a convolution: 2.5 n log2(n) a real transform. Products run
in bursts of calls, as in bench_kron.
"""

from __future__ import annotations

import math
import time

import numpy as np
import scipy.fft

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


def _blocks(W: np.ndarray, b: int) -> np.ndarray:
    return W.reshape(b, b, b, b).transpose(1, 2, 0, 3).reshape(-1, b, b)


def _projection(session: Session, kind: str, dtype: str) -> None:
    """4096 x 4096 in blocks of 64 x 64, whose singular values are close together or decay."""
    b = 64
    rng = np.random.default_rng(0)
    W = rng.standard_normal((b * b, b * b)).astype(dtype)
    if kind == "decaying":
        decay = np.kron(np.ones(b), 0.5 ** np.arange(b)).astype(dtype)
        mixed = (W * decay).reshape(-1, b) @ rng.standard_normal((b, b)).astype(dtype)
        W = mixed.reshape(b * b, b * b)

    def batched() -> tuple[np.ndarray, ...]:
        return np.linalg.svd(_blocks(W, b), full_matrices=False)

    M = lowla.monarch_project(W)
    wide = W.astype(np.float64)
    leading = np.linalg.svd(_blocks(wide, b), compute_uv=False)[:, 0]
    best = 1.0 - float(np.sum(leading**2) / np.linalg.norm(wide) ** 2)
    excess = M.info.error**2 - best
    parties = [
        Party("lowla", lambda: lowla.monarch_project(W), excess),
        Party("numpy svd", batched),
    ]
    limits = session.limits(dtype)
    interleave([*parties, *limits.probes()], session.repetitions)
    limit = limits.seconds(2.0 * W.size * b, W.nbytes)
    session.add("project", Row(f"{kind} {b * b} x {b * b} {dtype}", parties, limit, str(limits)))


def scipy_convolution(u: np.ndarray, k: np.ndarray, workers: int) -> np.ndarray:
    """The calls of scipy.fft alone."""
    n = u.shape[-1]
    size = scipy.fft.next_fast_len(2 * n - 1, real=True)
    spectrum = scipy.fft.rfft(u, size, workers=workers)
    spectrum *= scipy.fft.rfft(k, size, workers=workers)
    return scipy.fft.irfft(spectrum, size, overwrite_x=True, workers=workers)[..., :n]


def torch_convolution(n: int, dtype: str) -> float:
    """In the child process: seconds of the calls of torch.fft."""
    import torch

    kind = getattr(torch, dtype)
    u, k = torch.randn(8, 64, n, dtype=kind), torch.randn(64, n, dtype=kind)
    start = time.perf_counter()
    product = torch.fft.rfft(u, 2 * n) * torch.fft.rfft(k, 2 * n)
    torch.fft.irfft(product, 2 * n)[..., :n]
    return time.perf_counter() - start


def _convolution(session: Session, child: ChildProcess | None, n: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((8, 64, n)).astype(dtype)
    k = rng.standard_normal((64, n)).astype(dtype)
    workers = lowla.get_num_threads()
    expected = scipy_convolution(u, k, workers)
    error = float(np.linalg.norm(lowla.fftconv(u, k) - expected) / np.linalg.norm(expected))
    parties = [
        Party("lowla", lambda: lowla.fftconv(u, k), error),
        Party("scipy.fft", lambda: scipy_convolution(u, k, workers)),
    ]
    if child is not None:
        parties.append(Party("torch.fft", lambda: child.call(n=n, dtype=dtype)[1]))
    limits = session.limits(dtype)
    interleave([*parties, *limits.probes()], session.repetitions)
    transforms = 2 * u.size + k.size
    limit = limits.seconds(2.5 * 2 * transforms * math.log2(2 * n), 2.0 * u.nbytes + k.nbytes)
    session.add("fftconv", Row(f"8 x 64 x {n} {dtype}", parties, limit, str(limits)))


def run(session: Session) -> None:
    """All cases of the family."""
    _products(session)
    for dtype in ("float64", "float32"):
        for kind in ("Gaussian", "decaying"):
            _projection(session, kind, dtype)
    child = session.torch_process("benchmarks.bench_monarch", "torch_convolution")
    for dtype in ("float64", "float32"):
        for n in (4096, 16384, 65536):
            _convolution(session, child, n, dtype)
    if child is not None:
        child.close()


def _products(session: Session) -> None:
    child = session.torch_process("benchmarks.bench_monarch", "torch_monarch")
    for dtype in ("float64", "float32"):
        for order in _ORDERS:
            for columns in _COLUMNS:
                _case(session, child, order, columns, dtype)
    if child is not None:
        child.close()
    rows = [row for row in session.tables["monarch"] if " x 1 " not in row.case]
    ratios = np.array([row.ours.median / row.limit for row in rows])
    peers = np.array([row.peers().get("torch bmm", np.nan) for row in rows])
    session.note(
        f"monarch, 16 columns and more: ours over the limit {np.exp(np.log(ratios).mean()):.2f}, "
        f"torch over ours {np.exp(np.log(peers).mean()):.2f} (geometric means)"
    )
