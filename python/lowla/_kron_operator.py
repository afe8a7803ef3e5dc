"""`Kronecker`, a Kronecker product as a `scipy.sparse.linalg.LinearOperator`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lowla import _arrays, _backend, _kron
from lowla._linear_operator import Applied

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._results import Array


class KroneckerSlogdet(NamedTuple):
    """det K = sign · exp(logabsdet), as `numpy.linalg.slogdet` returns it."""

    sign: float | complex
    logabsdet: float


class KroneckerEigh(NamedTuple):
    """K = V diag(w) Vᴴ, w in the order of the Kronecker product."""

    w: Array
    V: Kronecker


class Kronecker(Applied):
    """The Kronecker product F_1 ⊗ ... ⊗ F_d, as a linear operator that is never formed.

    Parameters
    ----------
    *factors : (m_i, n_i) arrays
        At least one; real or complex, rectangular ones too. They are not copied: do not change
        them while the operator is in use.

    Attributes
    ----------
    factors : tuple of arrays
    shape : tuple of int
        (prod m_i, prod n_i).
    dtype : numpy.dtype
        The common dtype of the factors.

    Raises
    ------
    ValueError
        If there are no factors or one has not 2 dimensions.
    TypeError
        If a factor is not numeric or not dense.

    Notes
    -----
    `K @ X` is `kron_matmul`, with its guarantee and cost; `K.T` and `K.H` hold views of the same
    factors. The other methods work on the factors and cost O(sum n_i³) beside their results.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A, B = np.array([[2.0, 1.0], [1.0, 2.0]]), np.diag([1.0, 2.0, 3.0])
    >>> K = lowla.Kronecker(A, B)
    >>> K
    Kronecker((2, 2), (3, 3))
    >>> bool(np.allclose(K @ np.ones(6), np.kron(A, B) @ np.ones(6)))
    True
    >>> K.trace(), round(K.logdet().logabsdet, 6)
    (24.0, 6.879356)
    >>> bool(np.allclose(K @ K.solve(np.arange(6.0)), np.arange(6.0)))
    True
    """

    def __init__(self, *factors: ArrayLike) -> None:
        self._hold(_kron.take_factors(factors), conjugate=False)

    def _hold(self, factors: list[Matrix], *, conjugate: bool) -> None:
        shape = (_kron.rows_of(factors), _kron.columns_of(factors))
        super().__init__(factors[0].dtype, shape)
        self._taken = factors
        self._conjugate = conjugate and factors[0].dtype.kind == "c"
        self._pairs: tuple[list[Array], list[Array]] | None = None

    @classmethod
    def _of(cls, factors: list[Matrix], *, conjugate: bool = False) -> Kronecker:
        self = cls.__new__(cls)
        self._hold(factors, conjugate=conjugate)
        return self

    def __repr__(self) -> str:
        return f"Kronecker({', '.join(str(F.shape) for F in self._taken)})"

    @property
    def factors(self) -> tuple[Array, ...]:
        """F_1, ..., F_d."""
        return tuple(F.wrap(F.dense.conj() if self._conjugate else F.dense) for F in self._taken)

    def _apply(self, M: Matrix) -> Array:
        return _kron.product(self._taken, _arrays.densified(M), conjugate=self._conjugate)

    def _transpose(self) -> Kronecker:
        turned = [_arrays.transposed(F) for F in self._taken]
        return Kronecker._of(turned, conjugate=self._conjugate)

    def _adjoint(self) -> Kronecker:
        turned = [_arrays.transposed(F) for F in self._taken]
        return Kronecker._of(turned, conjugate=not self._conjugate)

    def _rmatmat(self, X: Array) -> Array:
        return self._adjoint()._matmat(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._adjoint()._matvec(x)

    def toarray(self) -> Array:
        """K as an array of the factors' kind, as `numpy.kron` gives it."""
        with self._taken[0].current_device():
            return self._wrap(_entries(self._payloads()))

    def diagonal(self) -> Array:
        """The diagonal, (min(K.shape),)."""
        diagonal = _on_host("kron_diagonal").kron_diagonal(self._in_main_memory())
        return self._taken[0].wrap_host(diagonal)

    def trace(self) -> float | complex:
        """The sum of the diagonal; of square factors the product of their traces."""
        if any(F.shape[0] != F.shape[1] for F in self._taken):
            return _number(self.diagonal().sum())
        return math.prod(_number(F.trace()) for F in self._payloads())

    def logdet(self) -> KroneckerSlogdet:
        """Sign and natural logarithm of the absolute determinant, as `numpy.linalg.slogdet`.

        Returns
        -------
        KroneckerSlogdet
            `sign`, of magnitude 1 (complex for complex factors), and `logabsdet`, both computed in
            double precision; 0 and -inf where K is singular.

        Raises
        ------
        ValueError
            If K is not square.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"logdet needs a square operator, got shape {self.shape}")
        sign, logabsdet = _on_host("kron_slogdet").kron_slogdet(self._in_main_memory())
        return KroneckerSlogdet(sign if self.dtype.kind == "c" else sign.real, logabsdet)

    def inv(self) -> Kronecker:
        """The inverse, the Kronecker product of the factors' inverses.

        Raises
        ------
        ValueError
            If a factor is not square.
        numpy.linalg.LinAlgError
            If a factor is singular to working precision.
        """
        self._require_square("inv")
        return self._new(_on_host("kron_inverse").kron_inverse(self._in_main_memory()))

    def solve(self, b: ArrayLike, shift: float = 0.0, *, check_finite: bool = True) -> Array:
        """The solution x of (K + shift·I) x = b.

        Parameters
        ----------
        b : (n,) or (n, r) array
        shift : float, default 0
            Other than 0 for Hermitian factors only: by their eigendecompositions, which the
            operator keeps. 0: by LU factorisations.
        check_finite : bool, default True
            Raise if a factor or b holds NaN or Inf. With False NaN in b gives NaN.

        Returns
        -------
        (n,) or (n, r) array

        Raises
        ------
        ValueError
            If a factor is not square, or not Hermitian where `shift` asks for it; if b has another
            number of rows, or an array holds NaN or Inf.
        numpy.linalg.LinAlgError
            If a factor, or the shifted matrix, is singular to working precision.
        """
        number = _kron.checked_shift(shift)
        if number:
            return self._solve_hermitian("solve with a shift", b, number, check_finite)
        self._require_square("solve")
        self._require_finite(check_finite)
        name, backend = self._backend("kron_solve")
        factors, columns, rhs = self._right_side(b, self._payloads(), name, check_finite)
        if 0 in columns.shape:
            return rhs.empty(*rhs.shape)
        return rhs.wrap(backend.kron_solve(factors, columns).reshape(rhs.shape))

    def eigh(self) -> KroneckerEigh:
        """Eigenvalues and eigenvectors of Hermitian factors; the operator keeps them.

        Returns
        -------
        KroneckerEigh
            `w` (n,), real, in the order of the Kronecker product (not sorted), and `V`, a unitary
            `Kronecker`: K = V diag(w) Vᴴ.

        Raises
        ------
        ValueError
            If a factor is not Hermitian or holds NaN or Inf.
        """
        self._require_hermitian("eigh", check_finite=True)
        w, V = self._eigenpairs()
        values = _entries([factor[:, None] for factor in w])
        return KroneckerEigh(self._taken[0].wrap_host(values[:, 0]), self._new(V))

    def _require_hermitian(self, what: str, *, check_finite: bool) -> None:
        self._require_square(what)
        if self._pairs is None:
            self._require_finite(check_finite)
            for i, F in enumerate(self._taken):
                _arrays.check_hermitian(F, f"factors[{i}]")

    def _solve_hermitian(self, what: str, b: ArrayLike, shift: float, check_finite: bool) -> Array:
        self._require_hermitian(what, check_finite=check_finite)
        w, V = self._eigenpairs()
        name, backend = self._backend("kron_solve_shifted")
        factors, columns, rhs = self._right_side(b, self._beside(V), name, check_finite)
        if 0 in columns.shape:
            return rhs.empty(*rhs.shape)
        return rhs.wrap(backend.kron_solve_shifted(w, factors, columns, shift).reshape(rhs.shape))

    def _eigenpairs(self) -> tuple[list[Array], list[Array]]:
        """Of each factor, in main memory."""
        if self._pairs is None:
            self._pairs = _on_host("kron_eigh").kron_eigh(self._in_main_memory())
        return self._pairs

    def _right_side(
        self, b: ArrayLike, factors: list[Array], name: _backend.BackendName, check_finite: bool
    ) -> tuple[list[Array], Array, Matrix]:
        """Factors and b (n, r) in their common dtype, where that backend computes; b as taken."""
        rhs = _arrays.dense(b, "b", (1, 2))
        if rhs.shape[0] != self.shape[0]:
            raise ValueError(f"b must have {self.shape[0]} rows, got shape {rhs.shape}")
        if check_finite:
            _arrays.require_finite(rhs, "b")
        held = [replace(F, payload=G) for F, G in zip(self._taken, factors, strict=True)]
        operands = _arrays.together([*held, rhs], "factors and b")
        *held, rhs = (M.for_backend(name) for M in operands)
        columns = rhs.dense[:, None] if len(rhs.shape) == 1 else rhs.dense
        return [F.dense for F in held], columns, rhs

    def _require_square(self, what: str) -> None:
        for i, F in enumerate(self._taken):
            if F.shape[0] != F.shape[1]:
                raise ValueError(f"{what} needs square factors, factors[{i}] has shape {F.shape}")

    def _require_finite(self, check_finite: bool) -> None:
        if check_finite:
            for i, F in enumerate(self._taken):
                _arrays.require_finite(F, f"factors[{i}]")

    def _payloads(self) -> list[Array]:
        return [F.dense.conj() if self._conjugate else F.dense for F in self._taken]

    def _in_main_memory(self) -> list[Array]:
        return [_arrays.to_host(F) for F in self._payloads()]

    def _beside(self, arrays: list[Array]) -> list[Array]:
        """Arrays in main memory, where the factors are."""
        first = self._taken[0]
        with first.current_device():
            return [_arrays.placed(a, first.device) for a in arrays]

    def _new(self, factors: list[Array]) -> Kronecker:
        """Of factors in main memory."""
        first, placed = self._taken[0], self._beside(factors)
        return Kronecker._of(
            [replace(first, payload=F, shape=F.shape, dtype=F.dtype) for F in placed]
        )

    def _backend(self, function: str) -> tuple[_backend.BackendName, _backend.Backend]:
        return _backend.select_for(function, self._taken[0].device)

    def _wrap(self, result: Array) -> Array:
        return self._taken[0].wrap(result)


def _entries(factors: list[Array]) -> Array:
    """K as an array, by the library of the factors."""
    K: Array = factors[0].copy()
    for F in factors[1:]:
        product = K[:, None, :, None] * F[None, :, None, :]
        K = product.reshape(K.shape[0] * F.shape[0], K.shape[1] * F.shape[1])
    return K


def _on_host(function: str) -> _backend.Backend:
    """The backend for what is asked of the factors alone: it is done in main memory."""
    return _backend.select_held(function, "host")[1]


def _number(value: Array) -> float | complex:
    number: float | complex = value.item()
    return number
