"""What the completions return: two factors, and what they say about the other entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks
from lowla._arrays import to_host
from lowla._results import Array, CompletionInfo, RsvdInfo, SVDResult, _Named

if TYPE_CHECKING:
    from typing_extensions import Self

    from lowla._arrays import Csr
    from lowla._backend import Device
    from lowla._observations import Observations


@dataclass(frozen=True)
class Model:
    """The factors and biases as a backend made them, and the pattern of the observations."""

    U: Array
    V: Array
    mean: float
    row_bias: Array | None
    col_bias: Array | None
    observed: Csr
    wrap: Callable[[Array], Array]
    device: Device = "host"

    def current_device(self) -> AbstractContextManager[object]:
        """Makes the GPU that holds the factors the current one."""
        if self.device == "host":
            return nullcontext()
        return cast("AbstractContextManager[object]", cast(Any, self.U).device)

    def predict(self, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]) -> Array:
        """The entries at the places that indices in main memory broadcast to."""
        _, backend = _backend.select_held("completion_predict", self.device)
        with self.current_device():
            there = (_arrays.placed(index, self.device) for index in (rows, cols))
            i, j = np.broadcast_arrays(*there)
            found = backend.completion_predict(
                self.U, self.V, self.mean, self.row_bias, self.col_bias, i.ravel(), j.ravel()
            )
            return found.reshape(i.shape)


def model_of(
    factors: tuple[Array, Array, float, Array | None, Array | None],
    fitted: Observations,
    device: Device,
) -> Model:
    """What a backend made on `device`, where the caller's matrix is."""
    like, observed = fitted.like, fitted.csr
    if device != like.device:
        U, V, mean, row_bias, col_bias = factors
        factors = (to_host(U), to_host(V), mean, to_host(row_bias), to_host(col_bias))
        indptr, indices, values, shape = observed
        pattern = _arrays.in_main_memory(indptr), _arrays.in_main_memory(indices)
        observed = (*pattern, to_host(values), shape)
    return Model(*factors, observed, like.wrap, like.device)


class CompletionResult(_Named[CompletionInfo]):
    """A low-rank completion M ≈ U @ V.T (+ mean and biases); unpacks as `U, V = result`.

    Attributes
    ----------
    U : (m, k) array
    V : (n, k) array
    info : CompletionInfo
    """

    _names = __match_args__ = ("U", "V")
    _model: Model

    def __new__(cls, values: Sequence[object], info: CompletionInfo, model: Model) -> Self:
        self = super().__new__(cls, values, info)
        object.__setattr__(self, "_model", model)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.info, self._model

    @property
    def U(self) -> Array:
        """Factor of the rows, (m, k)."""
        return cast(Array, self[0])

    @property
    def V(self) -> Array:
        """Factor of the columns, (n, k)."""
        return cast(Array, self[1])

    @property
    def mean(self) -> float:
        """The mean of the observations (their median for loss "l1"); 0 without biases."""
        return self._model.mean

    @property
    def row_bias(self) -> Array | None:
        """What each row is above the mean, (m,); None without biases."""
        bias = self._model.row_bias
        return None if bias is None else self._model.wrap(bias)

    @property
    def col_bias(self) -> Array | None:
        """What each column is above the mean, (n,); None without biases."""
        bias = self._model.col_bias
        return None if bias is None else self._model.wrap(bias)

    def predict(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> Array:
        """The completed entries (rows[t], cols[t]).

        Parameters
        ----------
        rows, cols : int arrays that broadcast with each other
            Indices from 0 to m - 1 and n - 1.

        Returns
        -------
        array of the broadcast shape

        Raises
        ------
        IndexError
            If an index is negative or too large.
        TypeError, ValueError
            If the indices are not integers, or do not broadcast.
        """
        m, n = len(self._model.U), len(self._model.V)
        found = self._model.predict(_indices("rows", rows, m), _indices("cols", cols, n))
        return self._model.wrap(found)

    def toarray(self) -> Array:
        """All entries, (m, n)."""
        m, n = len(self._model.U), len(self._model.V)
        return self.predict(np.arange(m)[:, None], np.arange(n))

    def svd(self) -> SVDResult:
        """The singular value decomposition of U @ V.T, without the biases and without forming it.

        Returns
        -------
        SVDResult
            `U` (m, k), `S` (k,), `Vh` (k, n).
        """
        name, backend = _backend.select_held("completion_svd", self._model.device)
        with self._model.current_device():
            U, S, Vh = backend.completion_svd(self._model.U, self._model.V)
        k = len(S)
        info = RsvdInfo(
            k=k,
            tol=None,
            rank=min(k, self.info.rank),
            error=0.0,
            error_method="exact",
            spectral_error=0.0,
            passes=1,
            iterations=0,
            converged=True,
            method="direct",
            basis=k,
            backend=name,
            seconds=0.0,
        )
        return SVDResult([self._model.wrap(a) for a in (U, S, Vh)], info)

    def top(
        self, row: int, n: int, *, exclude_observed: bool = False
    ) -> tuple[npt.NDArray[np.int64], Array]:
        """The columns with the largest completed entries of a row, best first.

        Parameters
        ----------
        row : int
        n : int
            How many; fewer come back where there are no more.
        exclude_observed : bool, default False
            Leave out the columns that were fitted in this row.

        Returns
        -------
        cols : (n,) int64 NumPy array
        scores : (n,) array

        Raises
        ------
        IndexError
            If there is no such row.
        TypeError, ValueError
            If `row` or `n` is not an int, or n < 1.
        """
        i = int(_indices("row", _checks.integer("row", row), len(self._model.U)))
        count = _checks.count("n", n, least=1)
        cols = np.arange(len(self._model.V))
        if exclude_observed:
            indptr, indices, _, _ = self._model.observed
            seen = indices[int(indptr[i]) : int(indptr[i + 1])]
            cols = np.delete(cols, _arrays.in_main_memory(seen))
        scores = _arrays.to_host(self._model.predict(np.array(i), cols))
        best = np.argsort(-scores, kind="stable")[:count]
        with self._model.current_device():
            found = _arrays.placed(scores[best], self._model.device)
        return cols[best], self._model.wrap(found)


def _indices(name: str, value: npt.ArrayLike, size: int) -> npt.NDArray[np.int64]:
    given = np.asarray(_arrays.in_main_memory(value))
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {given.dtype}")
    bad = (given < 0) | (given >= size)
    if bad.any():
        raise IndexError(f"{name} must be in 0..{size - 1}, got {int(given[bad].flat[0])}")
    return given.astype(np.int64)
