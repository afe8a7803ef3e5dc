"""lstsq against numpy, scipy gelsy and torch gels, and against one product A.T @ A.

The limit of a row is the time of A.T @ A in the same run (what any method that forms n² inner
products of columns must do); sketch mode's is that of its reads, A @ x. The error of a party is the
backward error of its answer relative to ||A||_F, by the singular values of A.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg

import lowla
from benchmarks.measure import ChildProcess, Party, interleave, peak_memory
from benchmarks.session import Row, Session


@dataclass
class Case:
    """A = U diag(s) V^T with cond(A) given, b = A x + r of norm `residual`."""

    name: str
    A: np.ndarray
    b: np.ndarray
    s: np.ndarray
    V: np.ndarray

    def backward_error(self, x: np.ndarray) -> float:
        """Karlson and Walden's estimate for the worst column."""
        A, s = self.A, self.s
        x = x.reshape(len(s), -1).astype(np.float64)
        b = self.b.reshape(len(A), -1).astype(np.float64)
        r = b - A @ x
        g = self.V.T @ (A.T @ r)
        norm_A = np.linalg.norm(s)
        theta2 = (norm_A / np.linalg.norm(b, axis=0)) ** 2
        shrink = 1 + theta2 * np.sum(x**2, axis=0)
        mu = theta2 * np.sum(r**2, axis=0) / shrink
        weights = s[:, None] ** 2 + mu
        eta = np.sqrt(theta2 / shrink * np.sum(g**2 / weights, axis=0))
        return float(np.max(eta) / norm_A)


def _case(m: int, n: int, cond: float, residual: float, dtype: str, columns: int = 1) -> Case:
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((n, n)))[0]
    s = np.logspace(0, -np.log10(cond), n)
    A = np.linalg.qr(rng.standard_normal((m, n)))[0]
    A *= s
    A = np.ascontiguousarray((A @ V.T).astype(dtype))
    noise = rng.standard_normal((m, columns)) * (residual / np.sqrt(m))
    b = (A @ rng.standard_normal((n, columns)) + noise).astype(dtype)
    name = f"{m}x{n} cond {cond:.0e} {dtype}" + (f" r={columns}" if columns > 1 else "")
    return Case(name, A, b[:, 0] if columns == 1 else b, s, V)


def torch_lstsq(path: str, keep: bool) -> object:
    """torch.linalg.lstsq(driver="gels") on the arrays of an npz file, kept between calls."""
    import torch

    if path not in _loaded:
        _loaded.clear()
        data = np.load(path)
        _loaded[path] = (torch.from_numpy(data["A"]), torch.from_numpy(data["b"]))
    A, b = _loaded[path]
    x = torch.linalg.lstsq(A, b.reshape(len(A), -1), driver="gels").solution
    return x.numpy() if keep else None


_loaded: dict[str, tuple[object, object]] = {}


def lstsq_memory(path: str, method: str) -> int:
    """In a fresh process: bytes of resident memory that one regression adds at its peak."""
    with np.load(path) as data:
        A, b = data["A"], data["b"]
    small = np.random.default_rng(0).standard_normal((2000, 5))
    lowla.lstsq(small, small[:, 0], method=method, rng=0)  # all is imported, the threads exist
    return peak_memory(lambda: lowla.lstsq(A, b, method=method, rng=0))


def _memory(session: Session, case: Case, path: Path) -> None:
    """The peak of additional memory beside 12 n² + 4 (m + n) r elements + 16 MiB."""
    m, n = case.A.shape
    r = case.b.size // m
    allowed = (12 * n * n + 4 * (m + n) * r) * case.A.itemsize + (16 << 20)
    for method in ("direct", "precondition", "sketch"):
        child = ChildProcess("benchmarks.bench_lstsq", "lstsq_memory")
        used = child.call(path=str(path), method=method)[1]
        child.close()
        session.note(
            f"memory {case.name} {method}: {used / 2**20:.1f} MiB beyond the input, "
            f"allowed {allowed / 2**20:.1f} MiB"
        )


def _party(name: str, case: Case, solve: Callable[[], np.ndarray]) -> Party:
    return Party(name, solve, case.backward_error(solve()))


def _run(session: Session, case: Case, child: ChildProcess | None, folder: Path) -> None:
    A, b = case.A, case.b
    parties = [
        _party("lowla", case, lambda: lowla.lstsq(A, b, rng=0).x),
        _party("numpy lstsq", case, lambda: np.linalg.lstsq(A, b, rcond=None)[0]),
        _party(
            "scipy gelsy",
            case,
            lambda: scipy.linalg.lstsq(A, b, lapack_driver="gelsy", check_finite=False)[0],
        ),
    ]
    path = folder / (case.name.replace(" ", "_") + ".npz")  # the child keeps arrays by path
    np.savez(path, A=A, b=b)
    _memory(session, case, path)
    if child is not None:
        x = child.call(path=str(path), keep=True)[1]
        parties.append(
            Party(
                "torch gels",
                lambda: child.call(path=str(path), keep=False)[0],
                case.backward_error(x),
            )
        )
    product = Party("A.T @ A", lambda: A.T @ A)
    interleave([*parties, product], session.repetitions)
    path.unlink()
    session.add("lstsq", Row(case.name, parties, product.median))


def _sketch_mode(session: Session, case: Case) -> None:
    A, b = case.A, case.b
    x = np.ones(A.shape[1], A.dtype)
    read = Party("A @ x", lambda: A @ x)
    ours = _party("lowla sketch", case, lambda: lowla.lstsq(A, b, method="sketch", rng=0).x)
    interleave([ours, read], session.repetitions)
    session.add("lstsq sketch", Row(case.name, [ours], read.median))


def _ridge(session: Session, case: Case, damp: float) -> None:
    A, b = case.A, case.b
    n = A.shape[1]
    augmented = np.vstack([A, damp * np.eye(n, dtype=A.dtype)])
    zeros = np.concatenate([b, np.zeros(n, A.dtype)])
    ours = Party("lowla", lambda: lowla.lstsq(A, b, damp=damp, rng=0).x)
    peer = Party("numpy, augmented", lambda: np.linalg.lstsq(augmented, zeros, rcond=None)[0])
    product = Party("A.T @ A", lambda: A.T @ A)
    interleave([ours, peer, product], session.repetitions)
    session.add("lstsq", Row(f"{case.name} damp={damp:g}", [ours, peer], product.median))


def _wide(session: Session, case: Case) -> None:
    """The minimum-norm solution of A.T x = c; the error is that of the residual."""
    A = np.ascontiguousarray(case.A.T)
    b = np.random.default_rng(1).standard_normal(len(A)).astype(A.dtype)

    def party(name: str, solve: Callable[[], np.ndarray]) -> Party:
        x = solve().astype(np.float64)
        size = case.s[0] * np.linalg.norm(x) + np.linalg.norm(b)
        return Party(name, solve, float(np.linalg.norm(A @ x - b) / size))

    parties = [
        party("lowla", lambda: lowla.lstsq(A, b, rng=0).x),
        party("numpy lstsq", lambda: np.linalg.lstsq(A, b, rcond=None)[0]),
    ]
    product = Party("A @ A.T", lambda: A @ A.T)
    interleave([*parties, product], session.repetitions)
    name = case.name.replace(f"{A.shape[1]}x{A.shape[0]}", f"{A.shape[0]}x{A.shape[1]}")
    session.add("lstsq wide", Row(name, parties, product.median))


def run(session: Session) -> None:
    """All cases of the family."""
    child = session.torch_process("benchmarks.bench_lstsq", "torch_lstsq")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for m, n in ((200_000, 200), (50_000, 500)):
            for cond, residual in ((1e6, 1e-3), (1e10, 1e-8)):
                case = _case(m, n, cond, residual, "float64")
                _run(session, case, child, folder)
                _wide(session, case)
            _sketch_mode(session, case)
            _ridge(session, case, 1e-3)
            _run(session, _case(m, n, 1e6, 1e-3, "float64", columns=10), child, folder)
            _run(session, _case(m, n, 1e3, 1e-3, "float32"), child, folder)
    if child is not None:
        child.close()
