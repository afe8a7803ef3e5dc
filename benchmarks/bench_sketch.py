"""Sketches against scipy.sparse products with the same S, made beforehand, and against the machine.

The limit of a kind that reads A once is one read of A by NumPy's matrix-vector product; that of a
dense kind is NumPy's product of S, made beforehand, with A. Ours includes the generation of S, the
peers' do not.
"""

from __future__ import annotations

import numpy as np

import lowla
from benchmarks.measure import Party, interleave
from benchmarks.session import Row, Session

# rows, columns, sketched rows
_SIZES = ((200_000, 200, 800), (50_000, 500, 2000))
_DENSE = ("gaussian", "rademacher")
_SPARSE = (
    ("countsketch", 1),
    ("sjlt", 4),
    ("sjlt", 8),
    ("sparse", 1),
    ("uniform", 1),
)


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    """Relative Frobenius distance: that both apply the same S."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def _sparse_row(
    session: Session, case: str, kind: str, nnz: int, d: int, A: np.ndarray, read: Party
) -> Row:
    S = lowla.sketch_operator(kind, d, len(A), rng=0, dtype=A.dtype, nnz_per_col=nnz)
    by_column = S.tosparse()
    by_row = by_column.tocsr()
    expected = by_row @ A
    parties = [
        Party("lowla", lambda: S @ A, _error(S @ A, expected)),
        Party("scipy csr @ A", lambda: by_row @ A),
        Party("scipy csc @ A", lambda: by_column @ A),
    ]
    interleave([*parties, read], session.repetitions)
    label = f"{kind} {nnz}" if kind == "sjlt" else kind
    return Row(f"{label} {case}", parties, read.median)


def _srht_row(session: Session, case: str, d: int, A: np.ndarray, read: Party) -> Row:
    S = lowla.sketch_operator("srht", d, len(A), rng=0, dtype=A.dtype)
    parties = [Party("lowla", lambda: S @ A)]
    interleave([*parties, read], session.repetitions)
    return Row(f"srht {case}", parties, read.median)


def _dense_row(session: Session, case: str, kind: str, d: int, A: np.ndarray) -> Row:
    S = lowla.sketch_operator(kind, d, len(A), rng=0, dtype=A.dtype)
    held = S.toarray()
    gemm = Party("numpy S @ A, S held", lambda: held @ A)
    parties = [Party("lowla", lambda: S @ A, _error(S @ A, held @ A)), gemm]
    interleave(parties, max(1, session.repetitions // 3))
    return Row(f"{kind} {case}", parties, gemm.median)


def run(session: Session) -> None:
    """All cases of the family."""
    for n, c, d in _SIZES:
        for dtype in ("float64", "float32"):
            case = f"{n}x{c} to {d} {dtype}"
            A = np.random.default_rng(0).standard_normal((n, c)).astype(dtype)
            x = np.ones(c, dtype)
            for kind, nnz in _SPARSE:
                read = Party("read", lambda A=A, x=x: A @ x)
                session.add("sketch", _sparse_row(session, case, kind, nnz, d, A, read))
            read = Party("read", lambda A=A, x=x: A @ x)
            session.add("sketch", _srht_row(session, case, d, A, read))
            for kind in _DENSE:
                session.add("sketch", _dense_row(session, case, kind, d, A))
