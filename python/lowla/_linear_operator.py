"""What lowla's linear operators share: `@` for every kind of array that lowla takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from lowla import _arrays
from lowla._results import Array


class Applied(LinearOperator):  # type: ignore[misc]
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
