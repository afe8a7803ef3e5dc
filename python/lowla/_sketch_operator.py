"""`SketchOperator`, a random embedding as a `scipy.sparse.linalg.LinearOperator`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from lowla import _arrays, _backend, _sketch
from lowla._linear_operator import Applied
from lowla._results import Array


class SketchOperator(Applied):
    """A random embedding S of shape (d, n), made by `sketch_operator`.

    Attributes
    ----------
    kind : str
        The distribution, as in `sketch_operator`.
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

    def __init__(self, spec: _sketch.Spec, dtype: np.dtype[Any]) -> None:
        super().__init__(dtype, (spec.d, spec.n))
        self._spec = spec

    @property
    def kind(self) -> str:
        """The distribution, as in `sketch_operator`."""
        return self._spec.kind

    def __repr__(self) -> str:
        spec, option = self._spec, ""
        if spec.kind == "sjlt":
            option = f", nnz_per_col={spec.nnz}"
        elif spec.kind == "sparse":
            option = f", density={spec.density:g}"
        return f"SketchOperator({spec.kind!r}, {spec.d}, {spec.n}{option})"

    def _apply(self, M: _arrays.Matrix) -> Array:
        return self._spec.apply(M, adjoint=False)

    def _adjoint(self) -> _TransposedSketch:
        return _TransposedSketch(self)

    _transpose = _adjoint

    def _rmatmat(self, X: Array) -> Array:
        return self._adjoint()._matmat(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._adjoint()._matvec(x)

    def toarray(self) -> Array:
        """S as a dense (d, n) NumPy array."""
        spec = self._spec
        if spec.kind in _sketch.SPARSE_KINDS:
            return cast(Array, self.tosparse().toarray())
        backend = _backend.select("host")[1]
        S = backend.sketch_entries(spec.kind, spec.key, spec.d, spec.n, self.dtype.name)
        return _arrays.to_host(S)

    def tosparse(self) -> Any:
        """S as a `scipy.sparse.csc_array`; ValueError for a dense kind."""
        from scipy.sparse import csc_array

        spec = self._spec
        if spec.kind in _sketch.DENSE_KINDS:
            raise ValueError(f"a sketch of kind {spec.kind!r} is dense: use toarray()")
        pattern = _backend.select("host")[1].sketch_pattern(
            spec.kind, spec.key, spec.d, spec.n, spec.nnz, spec.density
        )
        starts, rows, signs = (_arrays.to_host(part) for part in pattern)
        squared = {
            "countsketch": 1.0,
            "sjlt": 1.0 / spec.nnz,
            "sparse": 1.0 / (spec.density * spec.d),
            "uniform": spec.n / spec.d,
        }[spec.kind]
        data = signs.astype(self.dtype) * np.asarray(np.sqrt(squared), self.dtype)
        return csc_array((data, rows, starts), shape=self.shape)


class _TransposedSketch(Applied):
    """Sᵀ of shape (n, d); a sketch is real, so it is Sᴴ too."""

    def __init__(self, sketch: SketchOperator) -> None:
        d, n = sketch.shape
        super().__init__(sketch.dtype, (n, d))
        self._sketch = sketch

    def _apply(self, M: _arrays.Matrix) -> Array:
        return self._sketch._spec.apply(M, adjoint=True)

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
