"""Inverse-Fisher-vector products against NumPy and the published static algorithm.

d = 10^6, float32. The limit of a set-up is the flops of the Gram matrix, m^2 d, at NumPy's DGEMM
rate: every sum is in double precision. That of a product are two reads of the gradients at the
measured bandwidth (with several vectors, or their flops at the DGEMM rate), that of a push one. The
published algorithm is written as in its paper: each row of L^-1 G takes the product of all rows
before it with one gradient, and their combination.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import lowla
from benchmarks.measure import Party, interleave
from benchmarks.session import Row, Session

_COLUMNS = 1_000_000
_ROWS = (128, 512, 1024)
_DAMP = 1e-3
_VECTORS = 16
_PAIRS = 100_000


def static_algorithm(G: np.ndarray, damp: float) -> np.ndarray:
    """Frantar, Kurtic and Alistarh (2021), section 3.1: the vectors F_k^-1 g_k and their scales."""
    m = len(G)
    H = np.empty_like(G)
    scale = np.empty(m, G.dtype)
    for k in range(m):
        H[k] = G[k] / damp
        if k:
            H[k] -= ((H[:k] @ G[k]) / scale[:k]) @ H[:k]
        scale[k] = m + H[k] @ G[k]
    return H


def single_precision(G: np.ndarray, damp: float) -> np.ndarray:
    """What is written with NumPy: the Gram matrix as the gradients are stored."""
    K = (G @ G.T).astype(np.float64)
    return np.linalg.cholesky(K + len(G) * damp * np.eye(len(G)))


def double_precision(G: np.ndarray, damp: float) -> np.ndarray:
    """The same with double sums, converted slab by slab."""
    K = len(G) * damp * np.eye(len(G))
    for start in range(0, G.shape[1], 8192):
        slab = G[:, start : start + 8192].astype(np.float64)
        K += slab @ slab.T
    return np.linalg.cholesky(K)


def once(call: Callable[[], object]) -> Callable[[], float]:
    """The seconds of the first call, whenever asked: for peers that take minutes."""
    seconds: list[float] = []

    def timed() -> float:
        if not seconds:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds[0]

    return timed


def _table(
    session: Session,
    table: str,
    case: str,
    parties: list[Party],
    flops: float,
    nbytes: float,
    extra: Callable[[], dict[str, float]] = dict,
) -> None:
    limits = session.limits("float64")
    interleave([*parties, *limits.probes()], session.repetitions)
    limit = limits.seconds(flops, nbytes)
    session.add(table, Row(case, parties, limit, str(limits), extra()))


def _set_up(session: Session, G: np.ndarray, case: str) -> None:
    m, d = G.shape
    parties = [
        Party("lowla", lambda: lowla.InverseFisher(G, _DAMP)),
        Party("numpy float64", lambda: double_precision(G, _DAMP)),
        Party("numpy float32", lambda: single_precision(G, _DAMP)),
    ]
    if m <= 512:
        parties.append(Party("static algorithm", once(lambda: static_algorithm(G, _DAMP))))
    _table(session, "mfac set-up", case, parties, float(m * m * d), G.nbytes)


def _products(session: Session, G: np.ndarray, Finv: lowla.InverseFisher, case: str) -> None:
    m, d = G.shape
    rng = np.random.default_rng(1)
    X = rng.standard_normal((d, _VECTORS), dtype=np.float32)
    x = np.ascontiguousarray(X[:, 0])
    L = single_precision(G, _DAMP)

    def numpy_product() -> np.ndarray:
        c = np.linalg.solve(L.T, np.linalg.solve(L, (G @ x).astype(np.float64)))
        return (x - c.astype(np.float32) @ G) / _DAMP

    one = Party("lowla", lambda: Finv @ x)
    reads = 2.0 * G.nbytes
    _table(session, "mfac product", case, [one, Party("numpy", numpy_product)], 0, reads)
    single = Party("one vector", lambda: Finv @ x)
    many = Party("lowla", lambda: Finv @ X)
    _table(
        session,
        "mfac product",
        f"{case}, {_VECTORS} vectors",
        [many, single],
        4.0 * m * d * _VECTORS,
        reads,
        lambda: {f"of {_VECTORS} times one vector": many.median / single.median / _VECTORS},
    )


def _push(session: Session, G: np.ndarray, case: str) -> None:
    window = lowla.InverseFisher(G, _DAMP, window=len(G))
    g = np.random.default_rng(2).standard_normal(G.shape[1], dtype=np.float32)
    parties = [Party("lowla", lambda: window.push(g)), Party("numpy G @ g", lambda: G @ g)]
    _table(session, "mfac push", case, parties, 0, G.nbytes)


def _entries(session: Session, G: np.ndarray, Finv: lowla.InverseFisher, case: str) -> None:
    m, d = G.shape
    set_up = Party("set-up", lambda: lowla.InverseFisher(G, _DAMP))
    diagonal = Party("lowla", Finv.diagonal)
    _table(session, "mfac diagonal", case, [diagonal, set_up], float(m * m * d), G.nbytes)
    if m != 512:
        return
    i, j = np.random.default_rng(3).integers(0, d, (2, _PAIRS))
    Finv.keep_columns()
    parties = [Party("lowla", lambda: Finv.element(i, j))]
    _table(session, "mfac element", f"{case}, {_PAIRS} pairs", parties, 0, 16.0 * m * _PAIRS)


def run(session: Session) -> None:
    rng = np.random.default_rng(0)
    for m in _ROWS:
        G = rng.standard_normal((m, _COLUMNS), dtype=np.float32)
        case = f"m={m} d={_COLUMNS} float32"
        _set_up(session, G, case)
        Finv = lowla.InverseFisher(G, _DAMP)
        _products(session, G, Finv, case)
        _push(session, G, case)
        _entries(session, G, Finv, case)
