"""One face for the three kinds of input: dense array, CSR tuple, operator object.

A `Matrix` multiplies by blocks of vectors and counts the reads of A. Arrays are read by blocks of
rows, so that A^H (A X) takes one read, and every block is converted to float64/complex128 on the
way: products, Gram matrices and norms are accurate to the double unit roundoff whatever the dtype
of A. Operators are called in their own dtype. The matrix is tall (n <= m): a wide input is read as
its adjoint. Entries outside the safe range are brought into it by a power of two (`exponent`),
which is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

from .philox import STREAM_PROBE, njit, random_normal, random_signs

Array: TypeAlias = npt.NDArray[Any]

_BLOCK_ENTRIES = 1 << 19  # entries of A converted at a time (4 MiB of float64)
_SAFE_EXPONENT = 300  # float64: largest entry within 2^+-300, so that squares of norms are safe
_SAFE_EXPONENT_SINGLE = 40  # the same for products formed in float32
_SUM_ROWS = 16
_EXACT_COLUMNS = 512  # operators with at most so many columns are certified exactly
_PROBES = 64  # random vectors at a time that certify larger operators
_PROBE_ACCURACY = 0.01  # standard deviation of their squared error


class NotFiniteError(ValueError):
    """A (or the argument of that name) has NaN or Inf entries."""

    def __init__(self, name: str = "A") -> None:
        super().__init__(f"{name} contains NaN or Inf")


def adjoint(X: Array) -> Array:
    """The conjugate transpose."""
    return np.asarray(X.conj().T)


def squared_norm(X: Array) -> float:
    """||X||_F^2 by NumPy's pairwise sums (a BLAS dot loses a hundred times more)."""
    squares = np.square(X.real) + np.square(X.imag) if X.dtype.kind == "c" else np.square(X)
    return float(np.sum(squares))


def times_power_of_two(X: Array, exponent: int) -> Array:
    """X 2^exponent without intermediate overflow (a copy, or X itself for exponent 0)."""
    if exponent == 0:
        return X
    half = exponent // 2
    return np.asarray((X * 2.0**half) * 2.0 ** (exponent - half))


def exponent_of(value: float) -> int:
    """e with 2^(e-1) <= value < 2^e."""
    return int(np.frexp(value)[1])


def blocked_product(A: Array, B: Array) -> Array:
    """A^H B summed by blocks of rows, the blocks in extended precision (where NumPy has it).

    Where A^H B cancels, as in A^H (b - A x), the rounding of BLAS's running sums over all rows is
    what limits the result.
    """
    whole = len(A) - len(A) % _SUM_ROWS
    chunks = A[:whole].reshape(-1, _SUM_ROWS, A.shape[1]).conj().transpose(0, 2, 1)
    partial = chunks @ B[:whole].reshape(-1, _SUM_ROWS, B.shape[1])
    rest = adjoint(A[whole:]) @ B[whole:]
    return np.asarray(np.sum(partial, axis=0, dtype=_extended(A.dtype)) + rest)


def _extended(dtype: npt.DTypeLike) -> npt.DTypeLike:
    return np.clongdouble if np.dtype(dtype).kind == "c" else np.longdouble


class Matrix(ABC):
    """A tall view (m >= n) of the input; see the module's header."""

    kind: Literal["dense", "csr", "operator"]
    unit_roundoff = float(np.finfo(np.float64).eps)  # of the products

    def __init__(self, shape: tuple[int, int], dtype: npt.DTypeLike) -> None:
        self.swapped = shape[0] < shape[1]
        self.shape: tuple[int, int] = (shape[1], shape[0]) if self.swapped else shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        is_complex = self.dtype.kind == "c"
        self.work_dtype: np.dtype[Any] = np.dtype(np.complex128 if is_complex else np.float64)
        self.norm2: float | None = None  # ||A||_F^2 of the scaled matrix, once known
        self.exponent = 0  # the scaled matrix is A 2^exponent
        self.passes = 0

    @property
    def output_eps(self) -> float:
        """Machine epsilon of the dtype of the results."""
        return float(np.finfo(self.dtype).eps)

    @abstractmethod
    def matmat(self, X: Array) -> Array:
        """A X: one read."""

    @abstractmethod
    def rmatmat(self, Y: Array) -> Array:
        """A^H Y: one read."""

    @abstractmethod
    def fused(self, X: Array) -> tuple[Array, Array]:
        """A X and A^H (A X): one read of an array, two of an operator."""

    @abstractmethod
    def blocks(self, least: int) -> Iterator[tuple[slice, Array]]:
        """One read of A as dense blocks of at least so many rows (the last may have fewer)."""

    def residual(self, b: Array, X: Array) -> tuple[Array, Array]:
        """R = b - A X and A^H R: one read of a dense array, two of the others."""
        R = b - self.matmat(X)
        return R, self.rmatmat(R)

    @abstractmethod
    def rescale(self) -> bool:
        """Choose `exponent` after a first read; True if that read has to be repeated."""

    @abstractmethod
    def to_dense(self) -> Array:
        """The scaled matrix."""

    @abstractmethod
    def residual2(self, U: Array, s: Array, Vh: Array, basis: Array) -> tuple[float, float]:
        """||A - U diag(s) Vh||_F^2 and ||A||_F^2, measured (estimated for a large operator).

        `basis`: orthonormal columns whose span holds the rows of Vh; an estimate is exact on it.
        """

    @property
    @abstractmethod
    def measures_exactly(self) -> bool:
        """Whether `residual2` measures, rather than estimates."""


class ArrayMatrix(Matrix):
    """Dense arrays of any strides, and CSR: both can be cut into dense blocks of rows."""

    @abstractmethod
    def _row_blocks(self, least: int = 16) -> Iterator[tuple[slice, Array]]:
        """Blocks of rows of the tall, scaled matrix, dense in the work dtype."""

    def blocks(self, least: int) -> Iterator[tuple[slice, Array]]:
        self.passes += 1
        yield from self._row_blocks(least)

    @abstractmethod
    def _largest(self) -> float:
        """max |a_ij| of the unscaled matrix; NaN or Inf if there is one."""

    def rescale(self) -> bool:
        assert self.norm2 is not None
        if 2.0 ** (-2 * _SAFE_EXPONENT) < self.norm2 < 2.0 ** (2 * _SAFE_EXPONENT):
            return False
        largest = self._largest()
        if not np.isfinite(largest):
            raise NotFiniteError
        if largest == 0.0:
            return False
        self.exponent = -exponent_of(largest)
        self.norm2 = None
        return True

    def residual2(self, U: Array, s: Array, Vh: Array, basis: Array) -> tuple[float, float]:
        self.passes += 1
        scaled = U * s
        residual = norm2 = 0.0
        for rows, block in self._row_blocks():
            norm2 += squared_norm(block)
            residual += squared_norm(block - scaled[rows] @ Vh)
        return residual, norm2

    @property
    def measures_exactly(self) -> bool:
        return True


class DenseMatrix(ArrayMatrix):
    kind = "dense"

    def __init__(self, A: Array) -> None:
        super().__init__((A.shape[0], A.shape[1]), A.dtype)
        self._tall = A.T if self.swapped else A
        self._conjugate = self.swapped and self.dtype.kind == "c"

    def _row_blocks(self, least: int = 16) -> Iterator[tuple[slice, Array]]:
        m, n = self.shape
        step = max(least, _BLOCK_ENTRIES // n)
        for begin in range(0, m, step):
            rows = slice(begin, min(begin + step, m))
            block = self._tall[rows].astype(self.work_dtype, copy=False)
            if self._conjugate:
                block = block.conj()
            yield rows, times_power_of_two(block, self.exponent)

    def _read(self) -> Iterator[tuple[slice, Array]]:
        """The blocks of one counted read; the first also finds the norm."""
        self.passes += 1
        norm2 = 0.0
        first = self.norm2 is None
        for rows, block in self._row_blocks():
            if first:
                norm2 += squared_norm(block)
            yield rows, block
        if first:
            self.norm2 = norm2

    def _largest(self) -> float:
        return float(np.max([np.abs(block).max() for _, block in self._row_blocks()]))

    def matmat(self, X: Array) -> Array:
        Y = np.empty((self.shape[0], X.shape[1]), dtype=self.work_dtype)
        for rows, block in self._read():
            Y[rows] = block @ X
        return Y

    def rmatmat(self, Y: Array) -> Array:
        Z = np.zeros((self.shape[1], Y.shape[1]), dtype=self.work_dtype)
        for rows, block in self._read():
            Z += adjoint(block) @ Y[rows]
        return Z

    def fused(self, X: Array) -> tuple[Array, Array]:
        Y = np.empty((self.shape[0], X.shape[1]), dtype=self.work_dtype)
        Z = np.zeros((self.shape[1], X.shape[1]), dtype=self.work_dtype)
        for rows, block in self._read():
            Y[rows] = block @ X
            Z += adjoint(block) @ Y[rows]
        return Y, Z

    def residual(self, b: Array, X: Array) -> tuple[Array, Array]:
        R = np.empty(b.shape, dtype=self.work_dtype)
        Z = np.zeros((self.shape[1], b.shape[1]), dtype=_extended(self.work_dtype))
        for rows, block in self._read():
            R[rows] = b[rows] - block @ X
            Z += blocked_product(block, R[rows])
        return R, Z.astype(self.work_dtype)

    def to_dense(self) -> Array:
        A = np.empty(self.shape, dtype=self.work_dtype)
        for rows, block in self._read():
            A[rows] = block
        return A


class CsrMatrix(ArrayMatrix):
    kind = "csr"

    def __init__(self, A: tuple[Array, Array, Array, tuple[int, int]]) -> None:
        indptr, indices, data, shape = A
        super().__init__(shape, data.dtype)
        matrix = scipy.sparse.csr_array(
            (data.astype(self.work_dtype, copy=False), indices, indptr), shape=shape
        )
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        self._csr = matrix
        self.norm2 = squared_norm(matrix.data)

    def _largest(self) -> float:
        data = self._csr.data
        return float(np.abs(data).max()) if data.size else 0.0

    def rescale(self) -> bool:
        if not super().rescale():
            return False
        self._csr = self._csr.copy()
        self._csr.data = times_power_of_two(self._csr.data, self.exponent)
        self.norm2 = squared_norm(self._csr.data)
        return True

    def _row_blocks(self, least: int = 16) -> Iterator[tuple[slice, Array]]:
        m, n = self.shape
        tall = self._csr.conj().T.tocsr() if self.swapped else self._csr
        step = max(least, _BLOCK_ENTRIES // n)
        for begin in range(0, m, step):
            rows = slice(begin, min(begin + step, m))
            yield rows, tall[rows].toarray()

    def _product(self, X: Array, from_left: bool) -> Array:
        if from_left == self.swapped:
            product: Array = self._csr @ X
        else:
            product = (self._csr.T @ X.conj()).conj()  # without a copy of the data
        return product

    def matmat(self, X: Array) -> Array:
        self.passes += 1
        return self._product(X, from_left=False)

    def rmatmat(self, Y: Array) -> Array:
        self.passes += 1
        return self._product(Y, from_left=True)

    def fused(self, X: Array) -> tuple[Array, Array]:
        self.passes += 1  # two SciPy products, which stand for one sweep over the rows
        Y = self._product(X, from_left=False)
        return Y, self._product(Y, from_left=True)

    def residual(self, b: Array, X: Array) -> tuple[Array, Array]:
        if self.swapped:
            return super().residual(b, X)
        R = b - self.matmat(X)
        self.passes += 1
        Z = np.zeros((self.shape[1], b.shape[1]), dtype=self.work_dtype)
        A = self._csr
        _add_adjoint(A.indptr, A.indices, A.data, R, Z, np.zeros_like(Z))
        return R, Z

    def to_dense(self) -> Array:
        self.passes += 1
        dense = self._csr.toarray()
        return adjoint(dense) if self.swapped else np.asarray(dense)


@njit
def _add_adjoint(
    indptr: Array, indices: Array, data: Array, R: Array, Z: Array, lost: Array
) -> None:
    """Z += A^H R with the rounding errors of the sums kept in `lost` (Knuth's two-sum)."""
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j, a = indices[k], np.conj(data[k])
            for c in range(R.shape[1]):
                term = a * R[i, c]
                total = Z[j, c] + term
                back = total - Z[j, c]
                lost[j, c] += (Z[j, c] - (total - back)) + (term - back)
                Z[j, c] = total
    Z += lost


class OperatorMatrix(Matrix):
    kind = "operator"

    def __init__(self, A: Any) -> None:
        super().__init__((int(A.shape[0]), int(A.shape[1])), A.dtype)
        self._operator = A
        self.unit_roundoff = self.output_eps
        single = self.output_eps > 1e-10
        self._safe = _SAFE_EXPONENT_SINGLE if single else _SAFE_EXPONENT
        self._unsafe_scale = 2 * self._safe

    def _call(self, product: Any, X: Array) -> Array:
        self.passes += 1
        # Half of the scale before the call, so that neither the argument nor the result overflows.
        before = int(np.clip(self.exponent, -self._unsafe_scale, self._unsafe_scale))
        argument = times_power_of_two(X, before).astype(self.dtype)
        result = np.asarray(product(argument)).astype(self.work_dtype)
        return times_power_of_two(result, self.exponent - before)

    def matmat(self, X: Array) -> Array:
        A = self._operator
        return self._call(A.rmatmat if self.swapped else A.matmat, X)

    def rmatmat(self, Y: Array) -> Array:
        A = self._operator
        return self._call(A.matmat if self.swapped else A.rmatmat, Y)

    def fused(self, X: Array) -> tuple[Array, Array]:
        Y = self.matmat(X)
        return Y, self.rmatmat(Y)

    def rescale(self) -> bool:
        x = np.full((self.shape[1], 1), self.shape[1] ** -0.5, dtype=self.work_dtype)
        sign = random_signs(0, STREAM_PROBE, self.shape[1], 1)
        largest = float(np.abs(self.matmat(x * sign)).max())
        if not np.isfinite(largest):  # NaN, Inf, or an overflow in the operator
            self.exponent = -self._unsafe_scale
            largest = float(np.abs(self.matmat(x * sign)).max())
            if not np.isfinite(largest):
                raise NotFiniteError
            largest_exponent = exponent_of(largest) + self._unsafe_scale
        else:
            largest_exponent = exponent_of(largest) if largest else 0
        in_range = abs(largest_exponent) <= self._safe
        self.exponent = 0 if in_range else -largest_exponent
        return not in_range

    def to_dense(self) -> Array:
        return self.matmat(np.eye(self.shape[1], dtype=self.work_dtype))

    def blocks(self, least: int) -> Iterator[tuple[slice, Array]]:
        yield slice(0, self.shape[0]), self.to_dense()

    @property
    def measures_exactly(self) -> bool:
        return self.shape[1] <= _EXACT_COLUMNS

    def residual2(self, U: Array, s: Array, Vh: Array, basis: Array) -> tuple[float, float]:
        """Exact on the unit vectors; for a wide operator exact on the basis P, probes beside it.

        ||A - U S V^H||_F^2 = ||A P - U S V^H P||_F^2 + ||A (I - P P^H)||_F^2, the second term as
        the mean of ||A (I - P P^H) g||^2 over Gaussian g (Girard 1989, Hutchinson 1990).
        """
        n = self.shape[1]
        if self.measures_exactly:
            image = self.matmat(np.eye(n, dtype=self.work_dtype))
            return squared_norm(image - (U * s) @ Vh), squared_norm(image)
        image = self.matmat(basis)
        inside2 = squared_norm(image)
        residual2 = squared_norm(image - (U * s) @ (Vh @ basis))
        probes = random_normal(0, STREAM_PROBE, n, _EXACT_COLUMNS, "float64")
        samples = np.empty(0)
        while samples.size < _EXACT_COLUMNS:
            X = probes[:, samples.size : samples.size + _PROBES]
            for _ in range(2):
                X = X - basis @ (adjoint(basis) @ X)
            image = self.matmat(X)
            samples = np.append(samples, np.linalg.norm(image, axis=0) ** 2)
            deviation = float(np.std(samples)) / np.sqrt(samples.size)
            outside2 = float(np.mean(samples))
            if deviation <= _PROBE_ACCURACY * (residual2 + outside2):
                break
        return residual2 + outside2, inside2 + outside2


def open_matrix(A: Any) -> Matrix:
    """The Matrix of a backend argument."""
    if isinstance(A, np.ndarray):
        return DenseMatrix(A)
    if isinstance(A, tuple):
        return CsrMatrix(A)
    return OperatorMatrix(A)
