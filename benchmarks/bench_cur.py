"""Decompositions by columns and rows against SciPy, LAPACK's pivoted QR and scikit-matter.

The limit is one read of A. `error` is the relative Frobenius error over that of the best matrix of
the same rank, less one.
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import numpy as np
import scipy.linalg
import scipy.linalg.interpolative
import scipy.sparse

import lowla
from benchmarks.measure import ChildProcess, Party, interleave
from benchmarks.session import Row, Session

_RANK = 60
_NOISE = 0.1


def matrix(m: int, n: int) -> np.ndarray:
    """Numbers of rank 60 and noise a tenth of their size."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((m, _RANK)) @ rng.standard_normal((_RANK, n))
    A += _NOISE * np.sqrt(_RANK) * rng.standard_normal((m, n))
    return A


def excess(error: float, best: float) -> float:
    return error / best - 1.0


def best_error(A: np.ndarray, k: int) -> float:
    """The relative error of the best matrix of rank k, by a randomized SVD of high accuracy."""
    return lowla.rsvd(A, k, n_iter=4, rng=0).info.error


def error_of(A: np.ndarray, C: np.ndarray, X: np.ndarray) -> float:
    return float(np.linalg.norm(A - C @ X) / np.linalg.norm(A))


def skmatter(m: int, n: int, k: int) -> float:
    """In the child process: seconds of scikit-matter's choice of k columns."""
    from skmatter.feature_selection import CUR

    A = matrix(m, n)
    start = time.perf_counter()
    CUR(n_to_select=k).fit(A)
    return time.perf_counter() - start


def _once(name: str, call) -> tuple[Party, object]:
    """A slow peer is timed once, here; its turns repeat that time. Also what it returned."""
    start = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - start
    return Party(name, lambda: seconds), found


def _scipy(A: np.ndarray, k: int, best: float) -> Party:
    party, (idx, proj) = _once(
        "scipy interp_decomp", lambda: scipy.linalg.interpolative.interp_decomp(A, k, rng=0)
    )
    T = np.empty((k, A.shape[1]))
    T[:, idx] = np.hstack([np.eye(k), proj])
    party.error = excess(error_of(A, A[:, idx[:k]], T), best)
    return party


def _pivoted(A: np.ndarray, k: int, best: float) -> Party:
    """CUR from LAPACK's pivoted QR of A and of its columns."""

    def call() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cols = scipy.linalg.qr(A, mode="r", pivoting=True, check_finite=False)[1][:k]
        C = A[:, cols]
        rows = scipy.linalg.qr(C.T, mode="r", pivoting=True, check_finite=False)[1][:k]
        R = A[rows]
        U = np.linalg.lstsq(R.T, np.linalg.lstsq(C, A, rcond=None)[0].T, rcond=None)[0].T
        return C, U, R

    party, (C, U, R) = _once("geqp3 CUR", call)
    party.error = excess(error_of(A, C, U @ R), best)
    return party


def _dense(session: Session, m: int, n: int, k: int, child: ChildProcess | None) -> None:
    A = matrix(m, n)
    best = best_error(A, k)
    limits = session.limits("float64")
    small = A.nbytes < 1 << 28
    d = lowla.interp_decomp(A, k, rng=0)
    ours = Party(
        "lowla interp_decomp",
        lambda: lowla.interp_decomp(A, k, rng=0),
        excess(d.info.error, best),
    )
    peers = [_scipy(A, k, best)] if small else []
    interleave([ours, *peers, *limits.probes()], session.repetitions)
    case = f"{m} x {n} float64, k = {k}"
    session.add(
        "interp_decomp", Row(case, [ours, *peers], limits.seconds(0, A.nbytes), str(limits))
    )
    r = lowla.cur(A, k, rng=0)
    ours = Party("lowla cur", lambda: lowla.cur(A, k, rng=0), excess(r.info.error, best))
    peers = [_pivoted(A, k, best)] if small else []
    if child and small:
        _, seconds = child.call(m=m, n=n, k=k)
        peers.append(Party("skmatter columns", lambda: seconds))
    interleave([ours, *peers, *limits.probes()], session.repetitions)
    session.add("cur", Row(case, [ours, *peers], limits.seconds(0, A.nbytes), str(limits)))


def _sparse(session: Session, m: int, n: int, k: int) -> None:
    A = scipy.sparse.random_array((m, n), density=1e-3, rng=0, format="csr")
    limits = session.limits("float64")
    size = A.data.nbytes + A.indices.nbytes
    party = Party("lowla cur", lambda: lowla.cur(A, k, rng=0), lowla.cur(A, k, rng=0).info.error)
    interleave([party, *limits.probes()], session.repetitions)
    case = f"CSR {m} x {n}, {A.nnz:.0e} entries, k = {k} (error itself)"
    session.add("cur", Row(case, [party], limits.seconds(0, size), str(limits)))


def _kernel(session: Session, n: int, k: int) -> None:
    """RPCholesky of a Gaussian kernel that is not formed, against the entries that it must read."""
    X = np.random.default_rng(0).standard_normal((n, 4))
    norms = (X * X).sum(1)

    def kernel(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        d2 = norms[rows][:, None] + norms[cols] - 2.0 * X[rows] @ X[cols].T
        return np.exp(-0.5 * np.maximum(d2, 0.0))

    def call() -> object:
        return lowla.nystrom_columns(kernel, k, diagonal=np.ones(n), rng=0)

    columns = np.arange(k)
    ours = Party("lowla RPCholesky", call, call().info.error)
    limit = Party("entries", lambda: kernel(np.arange(n), columns))
    interleave([ours, limit], session.repetitions)
    session.add("kernel", Row(f"{n} points, k = {k}", [ours], limit.median, "entries alone"))


def run(session: Session) -> None:
    child = ChildProcess(__name__, skmatter.__name__) if find_spec("skmatter") else None
    _dense(session, 5000, 3000, 50, child)
    if child:
        child.close()
    _sparse(session, 200_000, 20_000, 50)
    _kernel(session, 20_000, 500)
    _dense(session, 20_000, 20_000, 100, None)
