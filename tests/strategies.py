"""Hypothesis strategies for matrices: what is drawn is the description, NumPy builds the entries.

Kinds after LAPACK's test matrix generator xLATMS (Demmel and McKenney 1989, LAPACK Working Note 9):
prescribed spectra, rank deficiency, grading, bad scaling; layouts: everything a strided view can
be. Shrinking goes towards small shapes, plain kinds and the C layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[np.inexact]

DTYPES = ("float64", "float32", "complex128", "complex64")


def _real(dtype: npt.DTypeLike) -> np.dtype[np.floating]:
    return np.finfo(dtype).dtype


def _gauss(rng: np.random.Generator, m: int, n: int, is_complex: bool) -> Array:
    A = rng.standard_normal((m, n))
    return A + 1j * rng.standard_normal((m, n)) if is_complex else A


def _orthonormal(rng: np.random.Generator, m: int, n: int, is_complex: bool) -> Array:
    return np.linalg.qr(_gauss(rng, m, n, is_complex))[0]


@dataclass(frozen=True)
class MatrixSpec:
    """A matrix, up to its entries; `build` makes them.

    `log10_cond` is the decade span of the spectra, `rank` that of "rank_deficient".
    """

    m: int
    n: int
    dtype: str
    kind: str
    layout: str
    seed: int
    log10_cond: int
    rank: int

    def build(self) -> Array:
        """The array; its entries depend on everything but the layout."""
        with np.errstate(all="ignore"):
            return LAYOUTS[self.layout](KINDS[self.kind](self).astype(self.dtype))

    @property
    def is_complex(self) -> bool:
        return np.dtype(self.dtype).kind == "c"

    @property
    def range_decades(self) -> int:
        """Decades either side of 1 that a graded matrix of this dtype spans."""
        return 300 if _real(self.dtype) == np.float64 else 30

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def gauss(self) -> Array:
        return _gauss(self.rng(), self.m, self.n, self.is_complex)

    def with_spectrum(self, S: Array) -> Array:
        """Random singular vectors and the singular values S."""
        rng, r = self.rng(), len(S)
        U = _orthonormal(rng, self.m, r, self.is_complex)
        V = _orthonormal(rng, self.n, r, self.is_complex)
        return (U * S) @ V.conj().T


def _rank_deficient(spec: MatrixSpec) -> Array:
    rng, r = spec.rng(), min(spec.rank, spec.m, spec.n)
    left = _gauss(rng, spec.m, r, spec.is_complex)
    return left @ _gauss(rng, r, spec.n, spec.is_complex)


def _geometric(spec: MatrixSpec) -> Array:
    return spec.with_spectrum(np.logspace(0, -spec.log10_cond, min(spec.m, spec.n)))


def _polynomial(spec: MatrixSpec) -> Array:
    return spec.with_spectrum(1.0 / np.arange(1, min(spec.m, spec.n) + 1))


def _one_small(spec: MatrixSpec) -> Array:
    S = np.ones(min(spec.m, spec.n))
    S[-1] = 10.0**-spec.log10_cond
    return spec.with_spectrum(S)


def _grades(spec: MatrixSpec, count: int) -> Array:
    return np.logspace(-spec.range_decades, spec.range_decades, count)


def _graded_rows(spec: MatrixSpec) -> Array:
    return _grades(spec, spec.m)[:, None] * spec.gauss()


def _graded_cols(spec: MatrixSpec) -> Array:
    return spec.gauss() * _grades(spec, spec.n)


def _near_parallel(spec: MatrixSpec) -> Array:
    return spec.gauss()[:, :1] + 10.0**-spec.log10_cond * spec.gauss()


def _tiny(spec: MatrixSpec) -> Array:
    return spec.gauss() * np.sqrt(np.float64(np.finfo(spec.dtype).tiny))


def _huge(spec: MatrixSpec) -> Array:
    return spec.gauss() * np.sqrt(np.float64(np.finfo(spec.dtype).max))


def _hilbert(spec: MatrixSpec) -> Array:
    return 1.0 / (np.arange(spec.m)[:, None] + np.arange(spec.n) + 1.0)


def _integer(spec: MatrixSpec) -> Array:
    return spec.rng().integers(-9, 10, (spec.m, spec.n)).astype(np.float64)


KINDS: dict[str, Callable[[MatrixSpec], Array]] = {
    "gauss": MatrixSpec.gauss,
    "integer": _integer,
    "zero": lambda spec: np.zeros((spec.m, spec.n)),
    "rank_deficient": _rank_deficient,
    "geometric": _geometric,
    "polynomial": _polynomial,
    "one_small": _one_small,
    "near_parallel": _near_parallel,
    "hilbert": _hilbert,
    "tiny": _tiny,
    "huge": _huge,
    "graded_rows": _graded_rows,
    "graded_cols": _graded_cols,
}


def _step_two(A: Array) -> Array:
    wide = np.full((2 * A.shape[0], 2 * A.shape[1]), np.nan, dtype=A.dtype)
    wide[::2, ::2] = A
    return wide[::2, ::2]


def _reversed(A: Array) -> Array:
    return A[::-1, ::-1].copy()[::-1, ::-1]


def _sub_view(A: Array) -> Array:
    wide = np.full((A.shape[0] + 3, A.shape[1] + 5), np.nan, dtype=A.dtype)
    wide[1:-2, 2:-3] = A
    return wide[1:-2, 2:-3]


def _read_only(A: Array) -> Array:
    A = A.copy()
    A.flags.writeable = False
    return A


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "step_two": _step_two,
    "reversed": _reversed,
    "sub_view": _sub_view,
    "read_only": _read_only,
    "broadcast_row": lambda A: np.broadcast_to(A[:1], A.shape),
}


@st.composite
def matrix_specs(
    draw: st.DrawFn,
    *,
    max_m: int = 120,
    max_n: int = 120,
    dtypes: Sequence[str] = DTYPES,
    kinds: Sequence[str] = tuple(KINDS),
    layouts: Sequence[str] = tuple(LAYOUTS),
) -> MatrixSpec:
    """Descriptions of matrices with 1..max_m rows and 1..max_n columns."""
    m, n = draw(st.integers(1, max_m)), draw(st.integers(1, max_n))
    dtype = draw(st.sampled_from(dtypes))
    return MatrixSpec(
        m=m,
        n=n,
        dtype=dtype,
        kind=draw(st.sampled_from(kinds)),
        layout=draw(st.sampled_from(layouts)),
        seed=draw(st.integers(0, 2**32 - 1)),
        log10_cond=draw(st.integers(0, 15 if _real(dtype) == np.float64 else 7)),
        rank=draw(st.integers(1, min(m, n))),
    )


def matrices(**limits: int | Sequence[str]) -> st.SearchStrategy[Array]:
    """Arrays; the arguments of `matrix_specs`."""
    return matrix_specs(**limits).map(MatrixSpec.build)  # type: ignore[arg-type]


@st.composite
def hermitian(
    draw: st.DrawFn,
    *,
    max_n: int = 120,
    definite: bool = False,
    dtypes: Sequence[str] = DTYPES,
) -> Array:
    """Hermitian matrices V diag(w) V^H, symmetric to the last bit; positive ones if `definite`."""
    n = draw(st.integers(1, max_n))
    dtype = draw(st.sampled_from(dtypes))
    rank = draw(st.integers(1, n))
    decades = draw(st.integers(0, 15 if _real(dtype) == np.float64 else 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = np.zeros(n)
    w[:rank] = np.logspace(0, -decades, rank)
    if not definite:
        w *= rng.choice([-1.0, 1.0], n)
    V = _orthonormal(rng, n, n, np.dtype(dtype).kind == "c")
    A = (V * w) @ V.conj().T
    return ((A + A.conj().T) / 2).astype(dtype)


def ranks(A: Array) -> st.SearchStrategy[int]:
    """Admissible k for A."""
    return st.integers(1, min(A.shape))


@st.composite
def matrices_with_rank(draw: st.DrawFn, **limits: int | Sequence[str]) -> tuple[Array, int]:
    """An array and an admissible k, the full rank among them."""
    A = draw(matrices(**limits))
    return A, draw(ranks(A) | st.just(min(A.shape)))
