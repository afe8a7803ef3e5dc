"""Entropic optimal transport against RegOT, OTT-JAX and POT, and log-sum-exp against SciPy.

The cases of Tang et al. (ICLR 2024): random assignment and images at 1/reg = 1200, and clouds of
points at reg = 1e-3 max(C), to a marginal error of 1e-9 (L1, both sides). Peers that do not get
there are stopped; `error` is what every party reached, and the time of one that was stopped is less
than it would need. The limit of a sweep is the larger of one read of C and its exponentials at
NumPy's rate on as many threads. Two large problems run once, in a process of their own, for their
memory.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import scipy.special
from sklearn.datasets import load_digits

import lowla
from benchmarks.measure import ChildProcess, Party, interleave, peak_memory
from benchmarks.session import Row, Session

_TOL = 1e-9
_SWEEPS = 40
_POT_STEPS, _OTT_STEPS, _REGOT_STEPS = 300, 1500, 400


def _image(digit: int) -> np.ndarray:
    pixels = np.kron(load_digits().images[digit], np.ones((4, 4)))[2:30, 2:30].ravel()
    weights = pixels / pixels.sum() + 0.01
    return weights / weights.sum()


def problem(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """a, b, C and reg of a case."""
    rng = np.random.default_rng(0)
    kind, size = name.split()
    n = int(size)
    uniform = np.full(n, 1.0 / n)
    if kind == "assignment":
        return uniform, uniform, rng.random((n, n)), 1 / 1200
    if kind == "clouds":
        X, Y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1.0
        C = ((X[:, None] - Y) ** 2).sum(-1)
        return uniform, uniform, C, 1e-3 * float(C.max())
    grid = np.stack(np.meshgrid(np.arange(28.0), np.arange(28.0)), -1).reshape(-1, 2)
    difference = np.abs(grid[:, None] - grid)
    C = difference.sum(-1) / 28 if kind == "images-L1" else (difference**2).sum(-1) / 28**2
    return _image(0), _image(1), C, 1 / 1200


def marginal_error(P: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum())


def regot(name: str) -> tuple[float, float]:
    """In the child process: seconds of the sparse Newton method, and the error it reached."""
    import regot as library

    a, b, C, reg = problem(name)
    start = time.perf_counter()
    found = library.sinkhorn_ssns(C, a, b, reg, tol=2e-11, max_iter=_REGOT_STEPS)
    return time.perf_counter() - start, marginal_error(np.asarray(found.plan), a, b)


def ott(name: str) -> tuple[float, float]:
    """The same of OTT, compiled beforehand."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    a, b, C, reg = problem(name)
    solve = jax.jit(Sinkhorn(threshold=_TOL / 2, max_iterations=_OTT_STEPS))
    transport = LinearProblem(Geometry(cost_matrix=C, epsilon=reg), a, b)
    solve(transport).f.block_until_ready()
    start = time.perf_counter()
    found = solve(transport)
    found.f.block_until_ready()
    return time.perf_counter() - start, marginal_error(np.asarray(found.matrix), a, b)


def pot(name: str, method: str = "sinkhorn_log") -> tuple[float, float]:
    import ot

    a, b, C, reg = problem(name)
    start = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        P = ot.sinkhorn(a, b, C, reg, method=method, numItermax=_POT_STEPS, stopThr=1e-12)
    return time.perf_counter() - start, marginal_error(P, a, b)


def pot_stabilized(name: str) -> tuple[float, float]:
    return pot(name, "sinkhorn_stabilized")


# module, title, function, runs
_PEERS = (
    ("regot", "RegOT ssns", regot, 2),
    ("ott", "OTT-JAX", ott, 1),
    ("ot", "POT log", pot, 1),
    ("ot", "POT stabilized", pot_stabilized, 1),
)


def _peer(child: ChildProcess, title: str, name: str, most: int) -> Party:
    """A peer that runs at most so often: later turns repeat the last time."""
    seconds: list[float] = []

    def call() -> float:
        if len(seconds) < most:
            _, found = child.call(name=name)
            elapsed, party.error = found
            seconds.append(elapsed)
        return seconds[-1]

    party = Party(title, call)
    return party


def _case(session: Session, children: dict[str, ChildProcess], name: str) -> None:
    a, b, C, reg = problem(name)
    r = lowla.sinkhorn(a, b, C, reg, tol=_TOL)
    ours = Party("lowla", lambda: lowla.sinkhorn(a, b, C, reg, tol=_TOL), r.info.marginal_error)
    parties = [ours]
    for _, title, _, most in _PEERS:
        if title in children:
            parties.append(_peer(children[title], title, name, most))
    session.note(f"{name}: {r.info.sweeps} sweeps, {r.info.newton_steps} Newton steps")
    interleave(parties, session.repetitions)
    limits = session.limits("float64")
    sweep = _sweep_limit(session, C)
    session.add("transport", Row(name, parties, r.info.sweeps * sweep, str(limits)))


def _sweep_limit(session: Session, C: np.ndarray) -> float:
    """Seconds of one read of C or of its exponentials, whichever is longer."""
    limits = session.limits("float64")
    x = np.linspace(-30.0, 0.0, 4096)
    out = np.empty_like(x)
    exponentials = Party("exp", lambda: [np.exp(x, out=out) for _ in range(64)])
    interleave([exponentials, *limits.probes()], 3)
    rate = 64 * x.size / exponentials.median * lowla.get_num_threads()
    return max(C.size / rate, C.nbytes / limits.bandwidth)


def _sweep(session: Session, n: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    C = rng.random((n, n)).astype(dtype)
    uniform = np.full(n, 1.0 / n)
    party = Party("lowla", lambda: _seconds_a_sweep(uniform, C))
    interleave([party], session.repetitions)
    session.add("sweep", Row(f"{n} x {n} {dtype}", [party], _sweep_limit(session, C)))


def _seconds_a_sweep(weights: np.ndarray, C: np.ndarray) -> float:
    """From two runs: what is done once a call cancels."""
    seconds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for steps in (_SWEEPS, 1):
            start = time.perf_counter()
            lowla.sinkhorn(weights, weights, C, 1e-3, method="sinkhorn", tol=1e-15, max_iter=steps)
            seconds.append(time.perf_counter() - start)
    return (seconds[0] - seconds[1]) / (_SWEEPS - 1)


def _logsumexp(session: Session, dtype: str) -> None:
    X = np.random.default_rng(0).standard_normal((8, 4_000_000)).astype(dtype)
    parties = [
        Party("lowla", lambda: lowla.logsumexp(X, axis=1)),
        Party("scipy", lambda: scipy.special.logsumexp(X, axis=1)),
    ]
    limits = session.limits(dtype)
    interleave([*parties, *limits.probes()], session.repetitions)
    limit = limits.seconds(0, X.nbytes)
    session.add("logsumexp", Row(f"8 x 4000000 {dtype}", parties, limit, str(limits)))


def large_dense(n: int) -> tuple[float, float, int]:
    """In the child process: seconds, marginal error and bytes that a large problem adds."""
    rng = np.random.default_rng(0)
    X, Y = rng.random((n, 2)).astype("f4"), rng.random((n, 2)).astype("f4")
    C = np.empty((n, n), np.float32)
    for i in range(n):
        C[i] = ((X[i] - Y) ** 2).sum(1)
    w = np.full(n, 1.0 / n)
    return _once(lambda: lowla.sinkhorn(w, w, C, 1e-3 * float(C.max()), tol=1e-6), C.nbytes)


def large_points(n: int) -> tuple[float, float, int]:
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((n, 3)), 0.8 * rng.standard_normal((n, 3)) + 0.3
    largest = max(float(((x - Y) ** 2).sum(1).max()) for x in X)
    return _once(lambda: lowla.sinkhorn_points(X, Y, 1e-2 * largest, tol=1e-6), 0)


def _once(solve: Callable[[], lowla.TransportResult], given: int) -> tuple[float, float, int]:
    found: list[lowla.TransportResult] = []
    start = time.perf_counter()
    added = peak_memory(lambda: found.append(solve()))
    return time.perf_counter() - start, found[0].info.marginal_error, added + given


def _large(session: Session) -> None:
    for function, n in ((large_dense, 10_000), (large_points, 50_000)):
        child = ChildProcess(__name__, function.__name__)
        seconds, error, added = child.call(n=n)[1]
        child.close()
        session.note(
            f"{function.__name__} {n}: {seconds:.1f} s to a marginal error of {error:.1e}, "
            f"{added / 2**20:.0f} MiB with the costs it was given"
        )


def run(session: Session) -> None:
    children = {
        title: ChildProcess(__name__, function.__name__)
        for module, title, function, _ in _PEERS
        if find_spec(module) is not None
    }
    for name in (
        "assignment 500",
        "assignment 1000",
        "clouds 1000",
        "images-L1 784",
        "images-L2 784",
    ):
        _case(session, children, name)
    for dtype in ("float64", "float32"):
        _sweep(session, 4000, dtype)
        _logsumexp(session, dtype)
    _large(session)
