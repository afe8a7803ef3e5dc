"""`Monarch`, a Monarch matrix as a `scipy.sparse.linalg.LinearOperator`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from lowla import _arrays, _monarch
from lowla._linear_operator import Applied
from lowla._monarch import Form
from lowla._results import Array, MonarchInfo

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix

_TRANSPOSED: dict[Form, Form] = {"N": "T", "T": "N", "C": "H", "H": "C"}
_ADJOINT: dict[Form, Form] = {"N": "H", "T": "C", "C": "T", "H": "N"}


class _Blocks(Applied):
    """A Monarch matrix M in one of its forms: M, Mᵀ, conj(M) or Mᴴ."""

    _left: Matrix
    _right: Matrix
    _permuted: bool
    _form: Form

    def _hold(self, left: Matrix, right: Matrix, permuted: bool, form: Form) -> None:
        (l, s, _), (k, _, p) = left.shape, right.shape
        shape = (l * s, k * p) if form in "NC" else (k * p, l * s)
        super().__init__(left.dtype, shape)
        self._left, self._right, self._permuted, self._form = left, right, permuted, form

    def _in_form(self, form: Form) -> _Blocks:
        if self.dtype.kind != "c":
            form = "T" if form in "TH" else "N"
        if form == "N":
            return Monarch._of(self._left, self._right, self._permuted)
        other = _Blocks.__new__(_Blocks)
        other._hold(self._left, self._right, self._permuted, form)
        return other

    def _apply(self, M: Matrix) -> Array:
        X = _arrays.densified(M)
        return _monarch.product(
            self._left, self._right, X, "X", self._form, permuted=self._permuted
        )

    def _transpose(self) -> _Blocks:
        return self._in_form(_TRANSPOSED[self._form])

    def _adjoint(self) -> _Blocks:
        return self._in_form(_ADJOINT[self._form])

    def _rmatmat(self, X: Array) -> Array:
        return self._adjoint()._matmat(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._adjoint()._matvec(x)

    @property
    def nparams(self) -> int:
        """The number of entries of L and R."""
        return int(np.prod(self._left.shape) + np.prod(self._right.shape))

    def toarray(self) -> Array:
        """The matrix as an array of the blocks' kind."""
        identity = self._left.wrap_host(np.eye(self.shape[1], dtype=self.dtype))
        return cast(Array, self @ identity)

    def solve(self, b: ArrayLike, *, check_finite: bool = True) -> Array:
        """The solution x of M x = b, for square blocks, by LU factorisations of the blocks.

        Parameters
        ----------
        b : (n,) or (n, c) array
        check_finite : bool, default True
            Raise if the blocks or b hold NaN or Inf. With False NaN in b gives NaN.

        Returns
        -------
        (n,) or (n, c) array

        Raises
        ------
        ValueError
            If the blocks are not square, b has another number of rows, or there is a NaN or Inf.
        numpy.linalg.LinAlgError
            If a block is singular to working precision.
        """
        for name, M in (("L", self._left), ("R", self._right)):
            if M.shape[1] != M.shape[2]:
                raise ValueError(f"solve needs square blocks, {name} has shape {M.shape}")
            if check_finite:
                _arrays.require_finite(M, name)
        rhs = _arrays.dense(b, "b", (1, 2))
        if check_finite:
            _arrays.require_finite(rhs, "b")
        return _monarch.solution(
            self._left, self._right, rhs, "b", self._form, permuted=self._permuted
        )


class Monarch(_Blocks):
    """The Monarch matrix of the blocks L and R, as a linear operator.

    Parameters
    ----------
    L : (l, s, r) array
        The l blocks of the left factor; real or complex.
    R : (k, q, p) array
        The k blocks of the right factor; k·q = l·r. The arrays are not copied: do not change them
        while the operator is in use.
    permuted : bool, default False
        Take entry j·k + i of x as entry i·p + j: a Monarch matrix behind the permutation that makes
        the Fourier transform one.
    info : MonarchInfo, optional
        Kept as the attribute.

    Attributes
    ----------
    L, R : arrays
    permuted : bool
    shape : tuple of int
        (l·s, k·p).
    dtype : numpy.dtype
        The common dtype of L and R.
    info : MonarchInfo or None
        From `monarch_project`.

    Raises
    ------
    ValueError
        If L or R has not 3 dimensions, or k·q differs from l·r.
    TypeError
        If L or R is not numeric or not dense.

    Notes
    -----
    `M @ X` is `monarch_matmul`, with its guarantee and cost; `M.T` and `M.H` hold the same blocks
    and have the same methods.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> rng = np.random.default_rng(0)
    >>> M = lowla.Monarch(rng.standard_normal((4, 4, 4)), rng.standard_normal((4, 4, 4)))
    >>> M
    Monarch(16 x 16, L (4, 4, 4), R (4, 4, 4))
    >>> M.nparams
    128
    >>> x = rng.standard_normal(16)
    >>> bool(np.allclose(M.solve(M @ x), x)), bool(np.allclose(M.T @ x, M.toarray().T @ x))
    (True, True)
    """

    def __init__(
        self,
        L: ArrayLike,
        R: ArrayLike,
        *,
        permuted: bool = False,
        info: MonarchInfo | None = None,
    ) -> None:
        left, right = _monarch.take_blocks(L, R)
        self._hold(left, right, bool(permuted), "N")
        self._info = info

    @classmethod
    def _of(cls, left: Matrix, right: Matrix, permuted: bool) -> Monarch:
        self = cls.__new__(cls)
        self._hold(left, right, permuted, "N")
        self._info = None
        return self

    def __repr__(self) -> str:
        m, n = self.shape
        extra = ", permuted" if self._permuted else ""
        return f"Monarch({m} x {n}, L {self._left.shape}, R {self._right.shape}{extra})"

    @property
    def L(self) -> Array:
        """The blocks of the left factor, (l, s, r)."""
        return self._left.wrap(self._left.dense)

    @property
    def R(self) -> Array:
        """The blocks of the right factor, (k, q, p)."""
        return self._right.wrap(self._right.dense)

    @property
    def permuted(self) -> bool:
        """Whether x is permuted first."""
        return self._permuted

    @property
    def info(self) -> MonarchInfo | None:
        """What `monarch_project` found; None otherwise."""
        return self._info
