"""What the functions return: tuples with names, each with an `info` that certifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.inexact]
"""An array of the caller's kind (NumPy, CuPy, torch); typed as NumPy's."""

Flags: TypeAlias = "bool | npt.NDArray[np.bool_]"
Counts: TypeAlias = "int | npt.NDArray[np.int64]"
Reals: TypeAlias = "float | npt.NDArray[np.float64]"


@dataclass(frozen=True)
class RsvdInfo:
    """What was asked of a low-rank factorisation, and what was measured of its answer.

    For stacked input (..., m, n) the measured fields are arrays of the stack's shape.

    Attributes
    ----------
    k, tol : what was asked; None where it was not given
    rank : number of returned singular values above rounding level
    error : relative Frobenius error ||A - U S Vh||_F / ||A||_F of the returned factors, measured
    error_method : how it was measured: "identity", "residual", "leave-one-out" or "exact"
    spectral_error : estimate of ||A - U S Vh||_2 / ||A||_2
    passes : reads of A
    iterations : outer iterations
    converged : False where `tol` was not reached
    method : the algorithm taken
    basis : dimension of the subspace that the factors were drawn from
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int | None
    tol: float | None
    rank: Counts
    error: Reals
    error_method: str
    spectral_error: Reals
    passes: Counts
    iterations: Counts
    converged: Flags
    method: str
    basis: Counts
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["RsvdInfo", *self._lines()])

    def _lines(self) -> list[str]:
        asked = [] if self.k is None else [f"k = {self.k}"]
        asked += [] if self.tol is None else [f"tol = {self.tol:g}"]
        facts = {
            "asked": ", ".join(asked),
            "rank": _span(self.rank),
            "error": f"{_span(self.error)} (relative Frobenius, {self.error_method})",
            "spectral error": f"{_span(self.spectral_error)} (relative, estimated)",
            "converged": _span(self.converged),
            "method": f"{self.method}, basis of {_span(self.basis)}",
            "passes": f"{_span(self.passes)} over A, {_span(self.iterations)} iterations",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


def _span(value: Flags | Counts | Reals) -> str:
    """One number, or the range of a stack's numbers."""
    if isinstance(value, np.ndarray):
        if value.size == 0:
            return "none"
        low, high = value.min(), value.max()
        return _span(low.item()) if low == high else f"{_span(low.item())} .. {_span(high.item())}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class _Factors(tuple[Array, ...]):
    """A tuple of arrays with names, and `info` beside it (not counted by `len`)."""

    _names: tuple[str, ...] = ()
    info: RsvdInfo

    def __new__(cls, arrays: Sequence[Array], info: RsvdInfo) -> _Factors:
        self = super().__new__(cls, arrays)
        object.__setattr__(self, "info", info)
        return self

    def __getnewargs__(self) -> tuple[tuple[Array, ...], RsvdInfo]:
        return tuple(self), self.info

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} {tuple(a.shape)}" for name, a in zip(self._names, self, strict=True)
        )
        dtype = str(self[0].dtype).removeprefix("torch.")
        head = f"{type(self).__name__}: {shapes}, {dtype}"
        return "\n".join([head, *self.info._lines()])


class SVDResult(_Factors):
    """Truncated SVD A ≈ U @ diag(S) @ Vh; unpacks as `U, S, Vh = result`.

    Attributes
    ----------
    U : (..., m, k) array, orthonormal columns
    S : (..., k) real array, descending
    Vh : (..., k, n) array, orthonormal rows
    info : RsvdInfo
    """

    _names = __match_args__ = ("U", "S", "Vh")

    def __new__(cls, arrays: Sequence[Array], info: RsvdInfo) -> SVDResult:
        U, S, Vh = arrays
        return super().__new__(cls, (U, S, Vh), info)  # type: ignore[return-value]

    @property
    def U(self) -> Array:
        """Left singular vectors, (..., m, k)."""
        return self[0]

    @property
    def S(self) -> Array:
        """Singular values, (..., k), descending."""
        return self[1]

    @property
    def Vh(self) -> Array:
        """Right singular vectors, conjugate transposed, (..., k, n)."""
        return self[2]


class EighResult(_Factors):
    """Truncated eigendecomposition A ≈ V @ diag(w) @ V.conj().T; unpacks as `w, V = result`.

    Attributes
    ----------
    w : (k,) real array
    V : (n, k) array, orthonormal columns
    info : RsvdInfo
    """

    _names = __match_args__ = ("w", "V")

    def __new__(cls, arrays: Sequence[Array], info: RsvdInfo) -> EighResult:
        w, V = arrays
        return super().__new__(cls, (w, V), info)  # type: ignore[return-value]

    @property
    def w(self) -> Array:
        """Eigenvalues, (k,)."""
        return self[0]

    @property
    def V(self) -> Array:
        """Eigenvectors, (n, k)."""
        return self[1]
