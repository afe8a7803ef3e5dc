"""Small dense algebra of the range finders: orthonormal bases, tall SVDs, signs, certificates.

Everything is float64/complex128 and by Householder QR: Q is orthonormal to the unit roundoff for
any finite input, and its columns complete the basis where the input is rank-deficient (Golub and
Van Loan, Matrix Computations, 5.2). Cost 4 n d^2 flops for n x d.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .matrix import Array, Matrix, adjoint, times_power_of_two
from .philox import STREAM_FILL, STREAM_PROBE, random_normal


class Facts(TypedDict):
    """What a factorisation reports beside its factors."""

    error: float
    error_method: str
    spectral_error: float
    passes: int
    iterations: int
    converged: bool
    method: str
    basis: int
    rank: int


def orth(Y: Array) -> Array:
    """An orthonormal basis of a space that contains range(Y), as many columns as Y."""
    return np.asarray(np.linalg.qr(Y)[0])


def orth_against(basis: Array, W: Array) -> Array:
    """Orthonormal columns, orthogonal to the orthonormal `basis`, that span W with it."""
    return orth(np.hstack([basis, W]))[:, basis.shape[1] :]


def complete(U: Array, columns: int) -> Array:
    """Orthonormal U extended by random directions to so many columns."""
    missing = columns - U.shape[1]
    if missing <= 0:
        return U
    fill = random_normal(0, STREAM_FILL, U.shape[0], missing, "float64")
    return np.hstack([U, orth_against(U, fill.astype(U.dtype))])


def dense_svd(A: Array) -> tuple[Array, Array, Array]:
    """Thin SVD; by QR iteration where divide and conquer fails."""
    try:
        U, s, Vh = scipy.linalg.svd(A, full_matrices=False, check_finite=False)
    except np.linalg.LinAlgError:
        U, s, Vh = scipy.linalg.svd(
            A, full_matrices=False, check_finite=False, lapack_driver="gesvd"
        )
    return U, s, Vh


def tall_svd(Y: Array) -> tuple[Array, Array, Array]:
    """Thin SVD of a tall Y by QR and the SVD of R."""
    Q, R = np.linalg.qr(Y)
    U, s, Wh = dense_svd(R)
    return Q @ U, s, Wh


def rank_of(s: Array, m: int, n: int) -> int:
    """Values above the rounding level max(m, n) u of the largest, as numpy.linalg.matrix_rank."""
    if s.size == 0 or not s.max() > 0.0:
        return 0
    return int(np.count_nonzero(s > s.max() * max(m, n) * np.finfo(s.dtype).eps))


def rounded(X: Array, dtype: npt.DTypeLike) -> Array:
    """X in the dtype of the results; C-ordered."""
    return np.ascontiguousarray(X, dtype=dtype)


def fixed_phases(U: Array, dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """U in `dtype`, the first entry of largest magnitude of each column real positive; the phases.

    The columns were multiplied by conj(phases): U diag(s) Vh = U_new diag(s) diag(phases) Vh.
    """
    columns = np.arange(U.shape[1])
    phases = np.ones(U.shape[1], dtype=U.dtype)
    for _ in range(4):  # rounding moves the pivot between entries of equal magnitude
        result = rounded(U, dtype)
        pivots = np.argmax(np.abs(result), axis=0)
        found = result[pivots, columns]
        if np.all((found.imag == 0.0) & (found.real > 0.0)):
            break
        largest = np.abs(U[pivots, columns])
        turn = U[pivots, columns] / largest
        U = U * turn.conj()
        U[pivots, columns] = largest
        phases = phases * turn
    return rounded(U, dtype), phases


def scaled_back(s: Array, matrix: Matrix) -> Array:
    """Values of the scaled matrix as values of A, in the real dtype of the results."""
    real = np.empty(0, dtype=matrix.dtype).real.dtype
    return rounded(times_power_of_two(s, -matrix.exponent), real)


def identity_floor(matrix: Matrix) -> float:
    """Relative error above which ||A||^2 - sum s_i^2 is accurate to 1 %.

    The difference of the squares is off by about 50 u ||A||^2, a hundredth of the squared floor.
    """
    return float(np.sqrt(5e3 * matrix.unit_roundoff))


def certificate(
    matrix: Matrix, factors: tuple[Array, Array, Array], basis: Array, tail2: float | None
) -> tuple[float, str]:
    """Relative Frobenius error of the factors U, s, Vh, and how it was found.

    `basis` is that of `Matrix.residual2`. `tail2` is ||A||_F^2 - sum s_i^2, or None where no
    identity holds; below the identity's floor the residual is measured in one read of A.
    """
    norm2 = matrix.norm2
    if norm2 == 0.0:
        return 0.0, "exact"
    if tail2 is not None and norm2 is not None:
        relative = np.sqrt(max(tail2, 0.0) / norm2)
        if relative > identity_floor(matrix):
            return float(relative), "identity"
    residual2, norm2 = matrix.residual2(*factors, basis)
    if norm2 == 0.0:
        return 0.0, "exact"
    method = "residual" if matrix.measures_exactly else "probe"
    return float(np.sqrt(residual2 / norm2)), method


def nan_facts(method: str) -> Facts:
    """Facts of factors full of NaN."""
    nan = float("nan")
    return Facts(
        error=nan,
        error_method="exact",
        spectral_error=nan,
        passes=1,
        iterations=0,
        converged=False,
        method=method,
        basis=0,
        rank=0,
    )


def residual_spectral_norm(matrix: Matrix, U: Array, s: Array, Vh: Array, steps: int = 3) -> float:
    """A lower estimate of ||A - U diag(s) Vh||_2 by block power steps on the residual."""
    n = matrix.shape[1]
    X: Any = random_normal(0, STREAM_PROBE, n, min(4, n), "float64")
    largest = 0.0
    for _ in range(steps):
        X = orth(X.astype(matrix.work_dtype))
        Y = matrix.matmat(X) - (U * s) @ (Vh @ X)
        largest = float(np.linalg.norm(Y, 2))
        X = matrix.rmatmat(Y) - adjoint(Vh) @ (s[:, None] * (adjoint(U) @ Y))
    return largest
