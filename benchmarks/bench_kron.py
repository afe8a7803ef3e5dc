"""Kronecker products against NumPy's products of reshaped arrays, torch's, pyfastkron,
linear_operator, and the machine.

The limit is the larger of the flops of the mode products at NumPy's GEMM rate and the bytes of
operand and result at the measured bandwidth. Cases whose limit is below 20 us would show the
overhead of a call, which has a row of its own. Arrays stay warm: a call is repeated for a twentieth
of a second, and its share of that counts. "lowla" and "numpy" write into memory that is there
already; "lowla, fresh result" makes an array in each call, as the other peers do, and is what those
are counted against.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

import lowla
from benchmarks.measure import ChildProcess, Party, interleave
from benchmarks.session import Row, Session

_SIZES = (8, 16, 32, 64)
_FACTORS = (2, 3, 4, 5)
_COLUMNS = (1, 16, 64, 1024)
_LARGEST = 3e7  # numbers of an operand
_SMALLEST = 3e4  # the same, or as long a time of arithmetic: some more cases than are counted
_BURST = 0.05  # seconds
_SHORT = 20e-6
_PEERS = ("torch", "pyfastkron", "linear_operator")
_FRESH = "lowla, fresh result"


def burst(call: Callable[[], object]) -> float:
    """Seconds a call, in a burst of them."""
    start = time.perf_counter()
    call()
    count = max(1, int(_BURST / (time.perf_counter() - start + 1e-9)))
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def numpy_kron(
    factors: list[np.ndarray], X: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """What is written with NumPy: a batched product for each factor, from the last one on."""
    columns = right = X.shape[1]
    for F in reversed(factors[1:]):
        X = np.matmul(F, X.reshape(-1, F.shape[1], right))
        right *= len(F)
    F = factors[0]
    target = None if out is None else out.reshape(1, len(F), right)
    return np.matmul(F, X.reshape(-1, F.shape[1], right), out=target).reshape(-1, columns)


def peer_kron(name: str, size: int, count: int, columns: int, dtype: str) -> float:
    """In the child process: seconds of a peer's product."""
    import torch

    kind = getattr(torch, dtype)
    factors = [torch.randn(size, size, dtype=kind) for _ in range(count)]
    X = torch.randn(size**count, columns, dtype=kind)
    if name == "linear_operator":
        from linear_operator.operators import KroneckerProductLinearOperator

        operator = KroneckerProductLinearOperator(*factors)
        return _warm(lambda: operator @ X)
    if name == "pyfastkron":
        from pyfastkron.fastkronnumpy import gekmm

        arrays, Z = [F.numpy() for F in factors], X.numpy()
        return _warm(lambda: gekmm(arrays, Z))

    def product() -> object:
        Y, right = X, columns
        for F in reversed(factors):
            Y = torch.matmul(F, Y.reshape(-1, size, right))
            right *= size
        return Y

    return _warm(product)


def _warm(call: Callable[[], object]) -> float:
    call()
    return burst(call)


def _case(
    session: Session, child: ChildProcess | None, size: int, count: int, columns: int, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((size, size)).astype(dtype) for _ in range(count)]
    X = rng.standard_normal((size**count, columns)).astype(dtype)
    Y, expected = lowla.kron_matmul(factors, X), numpy_kron(factors, X.astype(np.float64))
    error = float(np.linalg.norm(Y - expected) / np.linalg.norm(expected))
    parties = [
        Party("lowla", lambda: burst(lambda: lowla.kron_matmul(factors, X, out=Y)), error),
        Party(_FRESH, lambda: burst(lambda: lowla.kron_matmul(factors, X)), error),
        Party("numpy", lambda: burst(lambda: numpy_kron(factors, X, Y))),
    ]
    for name in _PEERS:
        if child is None or find_spec(name) is None:
            session.note(f"{name} is not installed")
            continue
        request = {"name": name, "size": size, "count": count, "columns": columns, "dtype": dtype}
        parties.append(Party(name, lambda request=request: child.call(**request)[1]))
    limits = session.limits(dtype)
    interleave([*parties, *limits.probes()], session.repetitions)
    limit = limits.seconds(2.0 * count * size * X.size, 2.0 * X.nbytes)
    session.add("kron", Row(f"{size}^{count} x {columns} {dtype}", parties, limit, str(limits)))


def _overhead(session: Session) -> None:
    """A product too small to take time."""
    A, x = np.eye(2), np.ones(4)
    calls = {
        "lowla": lambda: lowla.kron_matmul([A, A], x),
        "numpy": lambda: numpy_kron([A, A], x[:, None]),
    }
    parties = [Party(name, lambda call=call: burst(call)) for name, call in calls.items()]
    interleave(parties, session.repetitions)
    session.add("kron call", Row("2^2 x 1 float64, a call", parties, parties[0].median))
    session.note(f"a call of kron_matmul: {parties[0].median * 1e6:.1f} us")


def run(session: Session) -> None:
    """All cases of the family."""
    child = session.torch_process("benchmarks.bench_kron", "peer_kron")
    _overhead(session)
    for dtype in ("float64", "float32"):
        for count in _FACTORS:
            for size in _SIZES:
                for columns in _COLUMNS:
                    numbers = float(size) ** count * columns
                    if numbers * max(1.0, count * size / 40) >= _SMALLEST and numbers <= _LARGEST:
                        _case(session, child, size, count, columns, dtype)
    if child is not None:
        child.close()
    rows = [row for row in session.tables["kron"] if row.limit > _SHORT]
    ratios = np.array([row.ours.median / row.limit for row in rows])
    session.note(
        f"kron: {len(rows)} cases with a limit above {_SHORT * 1e6:.0f} us, ours over the limit: "
        f"geometric mean {np.exp(np.log(ratios).mean()):.2f}, largest {ratios.max():.2f}"
    )
    for name in rows[0].peers():
        if name != _FRESH:
            lost = sum(
                row.peers()[name] < (row.peers()[_FRESH] if name in _PEERS else 1) for row in rows
            )
            session.note(f"kron: {name} is faster than ours in {lost} of them")
