"""Matrix completion against cmfrec, and against the floor of a sweep.

Gaussian factors, no noise. The floor of a sweep is measured in the same turns: two passes over the
observations, by rows and by columns, with k multiply-adds an entry. A sweep of ours is timed from
one callback to the next; one of cmfrec from two fits of different length. `to 1e-6` is the time of
the whole call with the fewest sweeps that reach a root mean square error of 1e-6 on entries that
were held back: set-up, spectral start and all.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numba
import numpy as np
import scipy.sparse

import lowla
from benchmarks.measure import ChildProcess, Party, interleave, peak_memory
from benchmarks.session import Row, Session

_SWEEPS = 6
_HELD = 20_000
_GOAL = 1e-6
_RIDGE = 1e-8  # of cmfrec: next to nothing, as ours
_MOST_STEPS = 60  # of cmfrec


@dataclass
class Problem:
    """Observed entries of U V^T, and others to test with."""

    M: scipy.sparse.csr_array
    test: tuple[np.ndarray, np.ndarray, np.ndarray]


@lru_cache(maxsize=1)
def problem(m: int, n: int, nnz: int, k: int, law: str) -> Problem:
    """About nnz entries at random places; with law "power" a few rows and columns have most."""
    rng = np.random.default_rng(0)
    U, V = rng.standard_normal((m, k)), rng.standard_normal((n, k))

    def places(size: int) -> tuple[np.ndarray, np.ndarray]:
        if law == "power":
            return tuple(  # density of the index ~ x^-1/2
                (count * rng.random(size) ** 2).astype(np.int64) for count in (m, n)
            )
        return rng.integers(0, m, size), rng.integers(0, n, size)

    def values(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        out = np.empty(len(rows))
        for first in range(0, len(rows), 1 << 20):
            part = slice(first, first + (1 << 20))
            out[part] = np.einsum("ij,ij->i", U[rows[part]], V[cols[part]])
        return out

    rows, cols = places(nnz)
    keys = np.unique(rows * n + cols)
    rows, cols = keys // n, keys % n
    indptr = np.zeros(m + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=m), out=indptr[1:])
    M = scipy.sparse.csr_array((values(rows, cols), cols.astype(np.int32), indptr), shape=(m, n))
    away = places(_HELD)
    return Problem(M, (*away, values(*away)))


@lru_cache(maxsize=8)
def floor_kernel(k: int):
    """One pass over entries by rows: k multiply-adds each, the least a half sweep can do."""

    @numba.njit(parallel=True, fastmath=True)
    def one_pass(indptr, indices, values, F, U):
        sums = np.zeros(len(indptr) - 1)
        for i in numba.prange(len(indptr) - 1):
            total = 0.0
            for t in range(indptr[i], indptr[i + 1]):
                r, j = values[t], indices[t]
                for a in range(k):
                    r -= U[i, a] * F[j, a]
                total += r * r
            sums[i] = total
        return sums.sum()

    return one_pass


def floor_party(p: Problem, k: int) -> Party:
    by_columns = p.M.T.tocsr()
    U, V = np.ones((p.M.shape[0], k)), np.ones((p.M.shape[1], k))
    one_pass = floor_kernel(k)

    def both() -> None:
        one_pass(p.M.indptr, p.M.indices, p.M.data, V, U)
        one_pass(by_columns.indptr, by_columns.indices, by_columns.data, U, V)

    return Party("floor", both)


def seconds_a_sweep(M: scipy.sparse.csr_array, k: int) -> float:
    stamps: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        lowla.complete(
            M, k, tol=1e-15, n_iter=_SWEEPS, callback=lambda _: stamps.append(time.perf_counter())
        )
    return float(np.median(np.diff(stamps)))


def held_out(p: Problem, predict) -> float:
    rows, cols, truth = p.test
    return float(np.sqrt(np.mean((predict(rows, cols) - truth) ** 2)))


def cmfrec(case: tuple, steps: int, threads: int) -> tuple[float, float]:
    """In the child process: seconds of a fit, and its error on the entries held back."""
    from cmfrec import CMF

    p = problem(*case)
    coo = p.M.tocoo()
    coo.row, coo.col = coo.row.astype(np.int32), coo.col.astype(np.int32)
    model = CMF(
        k=case[3],
        lambda_=_RIDGE,
        use_cg=False,
        user_bias=False,
        item_bias=False,
        center=False,
        niter=steps,
        use_float=False,
        nthreads=threads,
        precompute_for_predictions=False,
    )
    start = time.perf_counter()
    model.fit(scipy.sparse.coo_matrix(coo))
    seconds = time.perf_counter() - start
    return seconds, held_out(p, model.predict)


def _peer_sweep(child: ChildProcess, case: tuple) -> Party:
    """cmfrec is timed once: it is far behind, and its steps all take the same time."""
    found: list[float] = []

    def call() -> float:
        if not found:
            seconds = []
            for steps in (1, 4):
                _, (elapsed, _) = child.call(
                    case=case, steps=steps, threads=lowla.get_num_threads()
                )
                seconds.append(elapsed)
            found.append((seconds[1] - seconds[0]) / 3)
        return found[0]

    return Party("cmfrec", call)


def _sweep(session: Session, child: ChildProcess | None, case: tuple) -> None:
    p, k = problem(*case), case[3]
    ours = Party("lowla", lambda: seconds_a_sweep(p.M, k))
    floor = floor_party(p, k)
    peers = [_peer_sweep(child, case)] if child else []
    interleave([ours, floor, *peers], session.repetitions)
    session.add("sweep", Row(_name(case), [ours, *peers], floor.median))


def _name(case: tuple) -> str:
    m, n, nnz, k, law = case
    return f"{m} x {n}, {nnz:.0e} {law}, k = {k}"


def _second_core(session: Session, case: tuple) -> None:
    p, k = problem(*case), case[3]

    def with_threads(count: int) -> float:
        before = lowla.get_num_threads()
        lowla.set_num_threads(count)
        try:
            return seconds_a_sweep(p.M, k)
        finally:
            lowla.set_num_threads(before)

    all_of_them = lowla.get_num_threads()
    parties = [
        Party(f"{count} threads", lambda count=count: with_threads(count))
        for count in (all_of_them, 1)
    ]
    interleave(parties, session.repetitions)
    session.add("threads", Row(_name(case), parties, parties[1].median / all_of_them))


def _after(M: scipy.sparse.csr_array, k: int, sweeps: int) -> lowla.CompletionResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        return lowla.complete(M, k, n_iter=sweeps, tol=1e-14)


def _fewest(error_after: Callable[[int], float]) -> int:
    """The fewest steps to the goal: the same rule for every party."""
    for steps in range(8, _MOST_STEPS):
        if error_after(steps) <= _GOAL:
            break
    return steps


def _to_goal(session: Session, child: ChildProcess | None, case: tuple) -> None:
    p, k = problem(*case), case[3]
    sweeps = _fewest(lambda sweeps: held_out(p, _after(p.M, k, sweeps).predict))
    ours = Party("lowla", lambda: _after(p.M, k, sweeps))
    ours.error = held_out(p, _after(p.M, k, sweeps).predict)
    session.note(f"{_name(case)}: {sweeps} sweeps to {ours.error:.1e}")
    peers = []
    if child:
        peer = Party("cmfrec", lambda: peer.seconds[-1])

        def fit(steps: int) -> float:
            _, (seconds, peer.error) = child.call(
                case=case, steps=steps, threads=lowla.get_num_threads()
            )
            peer.seconds[:] = [seconds]
            return peer.error

        session.note(f"cmfrec: {_fewest(fit)} steps to {peer.error:.1e}")
        peers.append(peer)
    floor = floor_party(p, k)
    interleave([ours, floor], session.repetitions)
    session.add("to 1e-6", Row(_name(case), [ours, *peers], sweeps * floor.median))


def _growth(session: Session) -> None:
    """Time of a sweep by the number of observations: of one matrix, and of one that grows too."""
    _growth_of(session, "of one matrix", [(20_000, 5_000, n) for n in (10**6, 10**7, 5 * 10**7)])
    _growth_of(
        session, "100 a row", [(n // 100, n // 400, n) for n in (10**6, 5 * 10**6, 2 * 10**7)]
    )


def _growth_of(session: Session, name: str, sizes: list[tuple[int, int, int]]) -> None:
    medians: tuple[list[float], list[float]] = ([], [])
    for size in sizes:
        case = (*size, 10, "uniform")
        p = problem(*case)
        ours = Party("lowla", lambda p=p: seconds_a_sweep(p.M, 10))
        floor = floor_party(p, 10)
        interleave([ours, floor], session.repetitions)
        session.add(f"growth, {name}", Row(_name(case), [ours], floor.median))
        for kept, party in zip(medians, (ours, floor), strict=True):
            kept.append(party.median)
    observed = np.log([nnz for *_, nnz in sizes])
    slope, least = (np.polyfit(observed, np.log(kept), 1)[0] for kept in medians)
    session.note(
        f"growth of a sweep, {name}: (observations)^{slope:.2f}, of the floor ^{least:.2f}"
    )


def memory(case: tuple) -> tuple[int, int, int]:
    """In a fresh process: bytes added at the peak, of the observations, and of the factors."""
    p = problem(*case)
    M, k = p.M, case[3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        small = scipy.sparse.random_array((50, 40), density=0.5, rng=0, format="csr")
        lowla.complete(small, 2, n_iter=2)
        added = peak_memory(lambda: lowla.complete(M, k, n_iter=2))
    return added, M.data.nbytes + M.indices.nbytes, 8 * k * sum(M.shape)


def _memory(session: Session, case: tuple) -> None:
    child = ChildProcess(__name__, memory.__name__)
    _, (added, observations, factors) = child.call(case=case)
    child.close()
    session.note(
        f"memory, {_name(case)}: {added / 1e6:.0f} MB added; observations "
        f"{observations / 1e6:.0f} MB (the caller's), factors {factors / 1e6:.0f} MB"
    )


def run(session: Session) -> None:
    child = ChildProcess(__name__, cmfrec.__name__) if find_spec("cmfrec") else None
    if child is None:
        session.note("cmfrec is not installed")
    for k in (10, 32, 64, 128):
        _sweep(session, child if k <= 64 else None, (20_000, 5_000, 2_000_000, k, "uniform"))
    _second_core(session, (20_000, 5_000, 2_000_000, 10, "uniform"))
    _second_core(session, (20_000, 5_000, 2_000_000, 64, "uniform"))
    _to_goal(session, child, (20_000, 5_000, 2_000_000, 10, "uniform"))
    _sweep(session, child, (200_000, 20_000, 20_000_000, 32, "power"))
    _growth(session)
    _memory(session, (200_000, 20_000, 20_000_000, 10, "uniform"))
