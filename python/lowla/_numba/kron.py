"""Kronecker products K = F_1 ⊗ ... ⊗ F_d that are never formed: products, solves, eigenvalues.

Index convention: with rows i = (i_1, ..., i_d), the last index fastest, and columns likewise,
K[i, j] = prod F_k[i_k, j_k]. A product applies one factor after another to the array of d indices
(Davio 1981; Van Loan 2000, "The ubiquitous Kronecker product"). Applying factor i (m_i x n_i) to an
array of S numbers costs 2 S m_i flops and leaves S m_i / n_i. Of two factors i, j that follow each
other i should come first if 1/n_i - 1/m_i < 1/n_j - 1/m_j, whatever the others do, so sorting by
that number gives the least flops; the array first shrinks, then grows, and is never larger than
input or output. Memory: two such arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import scipy.linalg

from .linalg import dense_svd, fixed_phases
from .matrix import (
    Array,
    NotFiniteError,
    adjoint,
    exponent_of,
    open_matrix,
    squared_norm,
    times_power_of_two,
)
from .rsvd import krylov_plan, krylov_space, restricted_svd
from .sketch import start_block

_EXACT_SIDE = 256  # shorter side of the rearranged matrix up to which its SVD is taken in full
_OVERSAMPLE = 10


def kron_matmul(factors: Sequence[Array], X: Array, conjugate: bool) -> Array:
    """K X, or conj(K) X; X (n, r) C- or Fortran-ordered (else copied), the result alike."""
    r = X.shape[1]
    by_columns = X.flags.f_contiguous and not X.flags.c_contiguous
    before = r if by_columns else 1
    T = X.T if by_columns else np.ascontiguousarray(X)
    sizes = [F.shape[1] for F in factors]
    for i in _cheapest_order(factors):
        F = factors[i].conj() if conjugate and X.dtype.kind == "c" else factors[i]
        left = before * math.prod(sizes[:i])
        T = _along_the_middle(F, T.reshape(left, sizes[i], -1))
        sizes[i] = len(F)
    rows = math.prod(sizes)
    return T.reshape(r, rows).T if by_columns else T.reshape(rows, r)


def _cheapest_order(factors: Sequence[Array]) -> list[int]:
    return sorted(
        range(len(factors)), key=lambda i: 1 / factors[i].shape[1] - 1 / factors[i].shape[0]
    )


def _along_the_middle(F: Array, T: Array) -> Array:
    """sum_j F[i, j] T[:, j, :]."""
    left, n, right = T.shape
    if right == 1:
        return np.asarray(T.reshape(left, n) @ F.T)
    if left == 1:
        return np.asarray(F @ T[0])
    return np.asarray(np.matmul(F, T))


def kron_diagonal(factors: Sequence[Array]) -> Array:
    """K[i, i] for i < min(K.shape)."""
    shapes = [F.shape for F in factors]
    index = np.arange(min(math.prod(m for m, _ in shapes), math.prod(n for _, n in shapes)))
    rows = np.unravel_index(index, [m for m, _ in shapes])
    columns = np.unravel_index(index, [n for _, n in shapes])
    diagonal = np.ones(index.size, dtype=factors[0].dtype)
    for F, i, j in zip(factors, rows, columns, strict=True):
        diagonal *= F[i, j]
    return diagonal


def kron_slogdet(factors: Sequence[Array]) -> tuple[complex, float]:
    """Sign and log|det K| of a square K: det K = prod (det F_i)^(n / n_i), in double precision."""
    if any(F.shape[0] != F.shape[1] for F in factors):
        return 0.0, -math.inf  # rank K = prod rank F_i < n
    n = math.prod(len(F) for F in factors)
    sign, logabsdet = 1.0 + 0.0j, 0.0
    for F in factors if n else ():
        found = np.linalg.slogdet(F.astype(np.result_type(F.dtype, np.float64)))
        sign *= complex(found[0]) ** (n // len(F))
        logabsdet += (n // len(F)) * float(found[1])
    return (0.0, -math.inf) if sign == 0.0 else (sign, logabsdet)


def kron_inverse(factors: Sequence[Array]) -> list[Array]:
    """The factors of K^-1."""
    _require_invertible(factors)
    return [np.linalg.inv(F) for F in factors]


def kron_solve(factors: Sequence[Array], b: Array) -> Array:
    """K^-1 b, b (n, r), by an LU factorisation of each factor."""
    _require_invertible(factors)
    T, left = b, 1
    for F in factors:
        T = T.reshape(left, len(F), -1)
        columns = T.transpose(1, 0, 2).reshape(len(F), -1)
        solved = scipy.linalg.lu_solve(
            scipy.linalg.lu_factor(F, check_finite=False), columns, check_finite=False
        )
        T = solved.reshape(len(F), left, -1).transpose(1, 0, 2)
        left *= len(F)
    return T.reshape(b.shape)


def _require_invertible(factors: Sequence[Array]) -> None:
    for i, F in enumerate(factors):
        cond = float(np.linalg.cond(F, 1)) if F.size else 1.0
        if not cond * np.finfo(F.dtype).eps < 1.0:
            raise np.linalg.LinAlgError(
                f"factors[{i}] is singular to working precision (condition number {cond:.1e})"
            )


def kron_eigh(factors: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Eigenvalues (ascending) and eigenvectors of each Hermitian factor."""
    pairs = [np.linalg.eigh(F) for F in factors]
    return [w for w, _ in pairs], [V for _, V in pairs]


def kron_solve_shifted(w: Sequence[Array], V: Sequence[Array], b: Array, shift: float) -> Array:
    """(K + shift I)^-1 b = V (w + shift)^-1 V^H b, w and V as from `kron_eigh`.

    Computed eigenvalues are those of a matrix within n_i u ||F_i|| of each factor: below that
    distance from 0 they say nothing.
    """
    values = w[0]
    for more in w[1:]:
        values = np.multiply.outer(values, more).ravel()
    denominators = values + values.dtype.type(shift)
    largest = max(float(np.abs(values).max()), abs(shift))
    smallest = float(np.abs(denominators).min())
    if not smallest > sum(map(len, w)) * np.finfo(values.dtype).eps * largest:
        raise np.linalg.LinAlgError(
            f"the shifted matrix is singular to working precision: an eigenvalue of magnitude "
            f"{smallest:.1e} beside {largest:.1e}"
        )
    Y = kron_matmul([vectors.T for vectors in V], b, conjugate=True)
    return kron_matmul(V, Y / denominators[:, None], conjugate=False)


class NearestFacts(TypedDict):
    """What `nearest_kron` reports beside its terms."""

    error: float
    method: str


def nearest_kron(
    A: Array,
    shape1: tuple[int, int],
    shape2: tuple[int, int],
    terms: int,
    key: int,
    check_finite: bool,
) -> tuple[Array, Array, NearestFacts]:
    """B (terms, m1, n1) and C (terms, m2, n2) that minimise ||A - sum_t B_t ⊗ C_t||_F.

    Van Loan and Pitsianis 1993: the norm is that of R(A) - sum_t vec(B_t) vec(C_t)^T, so truncating
    the SVD of the rearranged R(A), (m1 n1) x (m2 n2), gives the minimum. Both factors of a term
    carry the root of its singular value. The error is measured in one more read of A.
    """
    try:
        R = _Rearranged(A, shape1, shape2)
    except NotFiniteError as error:
        if check_finite:
            raise ValueError(str(error)) from None
        nan = float("nan")
        B, C = (np.full((terms, *shape), nan, dtype=A.dtype) for shape in (shape1, shape2))
        return B, C, {"error": nan, "method": "svd"}
    (U, s, Vh), method = _leading(R, terms, key)
    U, phases = fixed_phases(U, R.dtype)
    Vh = phases[:, None] * Vh
    roots = np.sqrt(s)
    B = (U * roots).T
    C = roots[:, None] * Vh
    B = times_power_of_two(B, -R.exponent // 2).astype(A.dtype)
    C = times_power_of_two(C, -R.exponent // 2).astype(A.dtype)
    facts: NearestFacts = {"error": R.relative_residual(B, C), "method": method}
    return B.reshape(terms, *shape1), C.reshape(terms, *shape2), facts


def _leading(R: _Rearranged, terms: int, key: int) -> tuple[tuple[Array, Array, Array], str]:
    """The leading singular triplets of R, and how they were found."""
    block, last = krylov_plan(terms, -1, _OVERSAMPLE)
    short = min(R.shape)
    if short <= max(_EXACT_SIDE, (last + 1) * block):
        U, s, Vh = dense_svd(R.to_dense())
        return (U[:, :terms], s[:terms], Vh[:terms]), "svd"
    matrix = open_matrix(R)
    P = Y = np.empty((0, 0))
    start = start_block("gaussian", key, short, block)
    for P, Y in krylov_space(matrix, start, last, separate=True):  # noqa: B007
        pass
    U, s, V = restricted_svd(P, Y)
    U, s, V = U[:, :terms], s[:terms], V[:, :terms]
    return ((V, s, adjoint(U)) if matrix.swapped else (U, s, adjoint(V))), "krylov"


class _Rearranged:
    """R(A) 2^exponent in double precision, its row (i, j) the block A_ij of m2 x n2, as operator.

    Reads A by block rows: n1 rows of R at a time are written out, 1/m1 of A.
    """

    def __init__(self, A: Array, shape1: tuple[int, int], shape2: tuple[int, int]) -> None:
        self._blocks = A.reshape(shape1[0], shape2[0], *A.shape[1:])
        self._n1, self._n2 = shape1[1], shape2[1]
        self.shape = (math.prod(shape1), math.prod(shape2))
        self.dtype: np.dtype[Any] = np.result_type(A.dtype, np.float64)
        parts = (A.real, A.imag) if A.dtype.kind == "c" else (A,)
        largest = max(float(np.abs(part).max()) for part in parts)
        if not math.isfinite(largest):
            raise NotFiniteError
        # even, so that half of it goes into each factor
        self.exponent = -2 * (exponent_of(largest) // 2) if largest else 0

    def _row_blocks(self) -> Any:
        for i, block in enumerate(self._blocks):
            by_columns = block.reshape(len(block), self._n1, self._n2).transpose(1, 0, 2)
            rows = by_columns.reshape(self._n1, -1).astype(self.dtype, copy=False)
            yield slice(i * self._n1, (i + 1) * self._n1), times_power_of_two(rows, self.exponent)

    def to_dense(self) -> Array:
        R = np.empty(self.shape, dtype=self.dtype)
        for rows, block in self._row_blocks():
            R[rows] = block
        return R

    def matmat(self, X: Array) -> Array:
        Y = np.empty((self.shape[0], X.shape[1]), dtype=self.dtype)
        for rows, block in self._row_blocks():
            Y[rows] = block @ X
        return Y

    def rmatmat(self, Y: Array) -> Array:
        Z = np.zeros((self.shape[1], Y.shape[1]), dtype=self.dtype)
        for rows, block in self._row_blocks():
            Z += adjoint(block) @ Y[rows]
        return Z

    def relative_residual(self, B: Array, C: Array) -> float:
        """||A - sum B_t ⊗ C_t||_F / ||A||_F, B_t and C_t the rows of B and C."""
        B = times_power_of_two(B.astype(self.dtype), self.exponent // 2)
        C = times_power_of_two(C.astype(self.dtype), self.exponent // 2)
        residual2 = norm2 = 0.0
        for rows, block in self._row_blocks():
            norm2 += squared_norm(block)
            residual2 += squared_norm(block - B[:, rows].T @ C)
        return math.sqrt(residual2 / norm2) if norm2 else 0.0
