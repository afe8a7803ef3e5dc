"""`SketchOperator`, a random embedding as a `scipy.sparse.linalg.LinearOperator`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from scipy.sparse.linalg import LinearOperator

from lowla import _arrays, _backend, _sketch
from lowla._results import Array


class _Applied(LinearOperator):  # type: ignore[misc]
    """`@` for every kind of array that lowla takes; subclasses say what is applied."""

    def _apply(self, M: _arrays.Matrix) -> Array:
        raise NotImplementedError

    def __matmul__(self, other: object) -> Any:
        return self.dot(other)

    def dot(self, x: Any) -> Any:
        """The product with an array, a sparse matrix, or another operator."""
        if isinstance(x, LinearOperator) or np.isscalar(x):
            return super().dot(x)
        one = getattr(x, "ndim", None) == 1 or (not hasattr(x, "ndim") and np.ndim(x) == 1)
        if one:
            column = x.reshape(-1, 1) if hasattr(x, "reshape") else np.reshape(x, (-1, 1))
            return self.dot(column).reshape(-1)
        M = _arrays.matrix(x, "the right factor", operator=False)
        if M.shape[0] != self.shape[1]:
            raise ValueError(
                f"the right factor must have {self.shape[1]} rows, got shape {M.shape}"
            )
        return self._apply(M)

    def _matmat(self, X: Array) -> Array:
        return self._apply(_arrays.matrix(X, "X"))

    def _matvec(self, x: Array) -> Array:
        return self._matmat(x.reshape(-1, 1)).reshape(-1)


class SketchOperator(_Applied):
    """A random embedding S of shape (d, n), made by `sketch_operator`.

    Attributes
    ----------
    kind : str
        "gaussian" or "sjlt".
    nnz_per_col : int
        Nonzeros in each column; d for a dense kind.
    shape : tuple of int
        (d, n).
    dtype : numpy.dtype
        Of `toarray` and `tosparse`.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> S = lowla.sketch_operator("gaussian", 8, 100, rng=0)
    >>> A = np.ones((100, 2))
    >>> bool(np.allclose(S @ A, S.toarray() @ A))
    True
    >>> (S.T @ np.ones(8)).shape
    (100,)
    """

    def __init__(
        self, kind: str, d: int, n: int, nnz_per_col: int, key: int, dtype: np.dtype[Any]
    ) -> None:
        super().__init__(dtype, (d, n))
        self._kind = kind
        self._nnz = nnz_per_col
        self._key = key

    @property
    def kind(self) -> str:
        """The distribution, "gaussian" or "sjlt"."""
        return self._kind

    @property
    def nnz_per_col(self) -> int:
        """Nonzeros in each column; d for a dense kind."""
        return self._nnz

    def __repr__(self) -> str:
        d, n = self.shape
        return f"SketchOperator({self.kind!r}, {d}, {n}, nnz_per_col={self.nnz_per_col})"

    def _apply(self, M: _arrays.Matrix) -> Array:
        return _sketch.apply(self._kind, self._key, self._nnz, self.shape, M, adjoint=False)

    def _adjoint(self) -> _TransposedSketch:
        return _TransposedSketch(self)

    _transpose = _adjoint

    def _rmatmat(self, X: Array) -> Array:
        return self._adjoint()._matmat(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._adjoint()._matvec(x)

    def toarray(self) -> Array:
        """S as a dense (d, n) NumPy array."""
        d, n = self.shape
        if self._kind == "sjlt":
            return cast(Array, self.tosparse().toarray())
        backend = _backend.select("host")[1]
        S: Array = _arrays.to_host(backend.random_normal(self._key, 0, d, n, self.dtype.name))
        S /= np.asarray(np.sqrt(d), self.dtype)
        return S

    def tosparse(self) -> Any:
        """S as a `scipy.sparse.csc_array`; ValueError for a dense kind."""
        from scipy.sparse import csc_array

        if self._kind != "sjlt":
            raise ValueError(f"a sketch of kind {self._kind!r} is dense: use toarray()")
        d, n = self.shape
        backend = _backend.select("host")[1]
        pattern = backend.sjlt_pattern(self._key, d, n, self._nnz)
        rows, signs = (_arrays.to_host(part) for part in pattern)
        data = signs.T.astype(self.dtype).reshape(-1) / np.asarray(np.sqrt(self._nnz), self.dtype)
        pointers = np.arange(0, n * self._nnz + 1, self._nnz)
        return csc_array((data, rows.T.reshape(-1), pointers), shape=(d, n))


class _TransposedSketch(_Applied):
    """Sᵀ of shape (n, d); a sketch is real, so it is Sᴴ too."""

    def __init__(self, sketch: SketchOperator) -> None:
        d, n = sketch.shape
        super().__init__(sketch.dtype, (n, d))
        self._sketch = sketch

    def _apply(self, M: _arrays.Matrix) -> Array:
        S = self._sketch
        return _sketch.apply(S._kind, S._key, S._nnz, S.shape, M, adjoint=True)

    def _adjoint(self) -> SketchOperator:
        return self._sketch

    _transpose = _adjoint

    def _rmatmat(self, X: Array) -> Array:
        return self._sketch._matmat(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._sketch._matvec(x)

    def toarray(self) -> Array:
        """Sᵀ as a dense NumPy array."""
        return cast(Array, self._sketch.toarray().T)
