"""What the decompositions by columns and rows return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from lowla import _arrays
from lowla._results import Array, _Named

if TYPE_CHECKING:
    from typing_extensions import Self

    from lowla._arrays import MatrixLike

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class CurInfo:
    """What was asked of a decomposition by columns or rows, and what was measured of its answer.

    Attributes
    ----------
    k, tol : what was asked; None where it was not given
    rank : numerical rank of the chosen columns, at rounding level of the dtype of A
    error : relative Frobenius error of the returned factors, measured
    error_method : how it was measured: "identity", "residual", "probe" or "exact"
    passes : reads of A (products, for a linear operator)
    converged : False where `tol` was not reached
    method : how the columns were chosen
    sketch_rows : rows of the sketch they were chosen on; 0 where that was A itself
    swaps : columns exchanged to bound the coefficients
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int | None
    tol: float | None
    rank: int
    error: float
    error_method: str
    passes: int
    converged: bool
    method: str
    sketch_rows: int
    swaps: int
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["CurInfo", *self._lines()])

    def _lines(self) -> list[str]:
        asked = [] if self.k is None else [f"k = {self.k}"]
        asked += [] if self.tol is None else [f"tol = {self.tol:g}"]
        sketch = f", sketch of {self.sketch_rows} rows" if self.sketch_rows else ""
        swaps = f", {self.swaps} exchanges" if self.swaps else ""
        facts = {
            "asked": ", ".join(asked),
            "rank": self.rank,
            "error": f"{self.error:.3g} (relative Frobenius, {self.error_method})",
            "converged": self.converged,
            "method": f"{self.method}{sketch}{swaps}",
            "passes": f"{self.passes} over A",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class CrInfo:
    """How columns of A and rows of B were chosen for their product.

    Attributes
    ----------
    k : what was asked
    error : relative to ||A||_F ||B||_F: for "sample" an upper bound on the root mean square of the
        Frobenius error, for "top" on the error itself
    captured : part of sum_i ||a_i|| ||b_i|| that the chosen i have
    method : "sample" or "top"
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int
    error: float
    captured: float
    method: str
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["CrInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"k = {self.k}, {self.method}",
            "error": f"at most {self.error:.3g} of ||A||_F ||B||_F"
            + (" (root mean square)" if self.method == "sample" else ""),
            "captured": f"{self.captured:.3g} of the norms",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class NystromColumnsInfo:
    """What was asked of `nystrom_columns`, and what was measured of its answer.

    Attributes
    ----------
    k : what was asked
    rank : columns that the factor has; the others are zero
    error : trace(K - F Fᴴ) / trace(K), exact
    entries : entries of K that were read beside its diagonal
    proposals : columns that were drawn, some in vain; 0 for the other methods
    method : "rpcholesky", "greedy", "uniform" or "ridge_leverage"
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int
    rank: int
    error: float
    entries: int
    proposals: int
    method: str
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["NystromColumnsInfo", *self._lines()])

    def _lines(self) -> list[str]:
        drawn = f", {self.proposals} proposals" if self.proposals else ""
        facts = {
            "asked": f"k = {self.k}",
            "rank": self.rank,
            "error": f"{self.error:.3g} (relative trace, exact)",
            "method": f"{self.method}{drawn}",
            "entries": f"{self.entries} of K, and its diagonal",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class SearchInfo:
    """What a search in a `CURIndex` cost.

    Attributes
    ----------
    k : what was asked
    score_calls : calls of `score`
    scores_per_query : pairs scored for each query; 0 where the scores were given
    rounds : rounds in which anchor items were added
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int
    score_calls: int
    scores_per_query: int
    rounds: int
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["SearchInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"k = {self.k}",
            "scores": f"{self.scores_per_query} a query, {self.score_calls} calls",
            "rounds": self.rounds,
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


def host_indices(indices: object) -> Indices:
    """Indices of any array library in main memory."""
    if hasattr(indices, "cpu"):  # a tensor
        indices = indices.cpu()
    return np.asarray(_arrays.to_host(indices))


class QRCPResult(_Named[CurInfo]):
    """A[:, perm] ≈ Q @ R; unpacks as `Q, R, perm = result`.

    Attributes
    ----------
    Q : (m, k) array, orthonormal columns
    R : (k, n) array, upper trapezoidal, the diagonal real and not negative
    perm : (n,) int64 array, the chosen columns first
    info : CurInfo
    """

    _names = __match_args__ = ("Q", "R", "perm")

    @property
    def Q(self) -> Array:
        """An orthonormal basis of the chosen columns, (m, k)."""
        return cast(Array, self[0])

    @property
    def R(self) -> Array:
        """Qᴴ A[:, perm], (k, n)."""
        return cast(Array, self[1])

    @property
    def perm(self) -> Indices:
        """The order of the columns, (n,)."""
        return cast(Indices, self[2])


class IDResult(_Named[CurInfo]):
    """A[:, idx[k:]] ≈ A[:, idx[:k]] @ proj; unpacks as `idx, proj = result`.

    From `row_interp_decomp` it is A[idx[k:]] ≈ proj.T @ A[idx[:k]]: that of A.T.

    Attributes
    ----------
    idx : (n,) int64 array, the skeleton columns first
    proj : (k, n - k) array
    info : CurInfo
    """

    _names = __match_args__ = ("idx", "proj")
    _main = 1

    @property
    def idx(self) -> Indices:
        """All columns, the skeleton first, (n,)."""
        return cast(Indices, self[0])

    @property
    def proj(self) -> Array:
        """Interpolation coefficients, (k, n - k)."""
        return cast(Array, self[1])

    @property
    def k(self) -> int:
        """The number of skeleton columns."""
        return int(self.proj.shape[0])

    def interp_matrix(self) -> Array:
        """P (k, n) with A ≈ A[:, idx[:k]] @ P; P[:, idx[:k]] is the identity."""
        M = _arrays.dense(self.proj, "proj")
        with M.current_device():
            idx = _arrays.placed(host_indices(self.idx), M.device)
            P = M.scratch(self.k, idx.size)
            P[:, idx[: self.k]] = _arrays.placed(np.eye(self.k), M.device)
            P[:, idx[self.k :]] = M.dense
            return M.wrap(P)

    def skel(self, A: MatrixLike) -> Any:
        """The columns A[:, idx[:k]]; sparse for sparse A."""
        return _arrays.take_columns(self._matrix(A), host_indices(self.idx)[: self.k])

    def toarray(self, A: MatrixLike) -> Array:
        """A[:, idx[:k]] @ P, (m, n)."""
        return cast(Array, self.skel(A) @ self.interp_matrix())

    def _matrix(self, A: MatrixLike) -> _arrays.Matrix:
        M = _arrays.matrix(A)
        if M.shape[1] != len(self.idx):
            raise ValueError(f"A must have {len(self.idx)} columns, got shape {M.shape}")
        return M


class TwoSidedIDResult(_Named[CurInfo]):
    """A ≈ X @ A[rows][:, cols] @ Y; unpacks as `rows, cols, X, Y = result`.

    Attributes
    ----------
    rows : (k,) int64 array
    cols : (k,) int64 array
    X : (m, k) array, X[rows] is the identity
    Y : (k, n) array, Y[:, cols] is the identity
    info : CurInfo
    """

    _names = __match_args__ = ("rows", "cols", "X", "Y")
    _main = 2

    @property
    def rows(self) -> Indices:
        """The skeleton rows, (k,)."""
        return cast(Indices, self[0])

    @property
    def cols(self) -> Indices:
        """The skeleton columns, (k,)."""
        return cast(Indices, self[1])

    @property
    def X(self) -> Array:
        """Coefficients of the rows, (m, k)."""
        return cast(Array, self[2])

    @property
    def Y(self) -> Array:
        """Coefficients of the columns, (k, n)."""
        return cast(Array, self[3])

    def skel(self, A: MatrixLike) -> Array:
        """The block A[rows][:, cols], (k, k), dense."""
        M = _arrays.matrix(A)
        if M.shape != (self.X.shape[0], self.Y.shape[1]):
            shape = (self.X.shape[0], self.Y.shape[1])
            raise ValueError(f"A must have shape {shape}, got {M.shape}")
        C = _arrays.take_columns(M, host_indices(self.cols))
        block = _arrays.take_rows(_arrays.matrix(C), host_indices(self.rows))
        return cast(Array, block.toarray() if hasattr(block, "toarray") else block)

    def toarray(self, A: MatrixLike) -> Array:
        """X @ A[rows][:, cols] @ Y, (m, n)."""
        return cast(Array, (self.X @ self.skel(A)) @ self.Y)


class CURResult(_Named[CurInfo]):
    """A ≈ C @ U @ R; unpacks as `C, U, R = result`.

    `result @ x` and `result.toarray()` apply the factors from the right.

    Attributes
    ----------
    C : (m, c) array, or csr_array for sparse A; the columns `cols` of A
    U : (c, r) array
    R : (r, n) array, or csr_array for sparse A; the rows `rows` of A
    rows : (r,) int64 array
    cols : (c,) int64 array
    info : CurInfo
    """

    _names = __match_args__ = ("C", "U", "R")
    _main = 1
    __array_ufunc__ = None  # array @ result is not a product of arrays
    _chosen: tuple[Indices, Indices]

    def __new__(
        cls, values: Sequence[object], info: CurInfo, chosen: tuple[Indices, Indices]
    ) -> Self:
        self = super().__new__(cls, values, info)
        object.__setattr__(self, "_chosen", chosen)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.info, self._chosen

    @property
    def C(self) -> Any:
        """Columns of A, (m, c)."""
        return self[0]

    @property
    def U(self) -> Array:
        """The middle factor, (c, r)."""
        return cast(Array, self[1])

    @property
    def R(self) -> Any:
        """Rows of A, (r, n)."""
        return self[2]

    @property
    def rows(self) -> Indices:
        """Which rows R has, (r,)."""
        return self._chosen[0]

    @property
    def cols(self) -> Indices:
        """Which columns C has, (c,)."""
        return self._chosen[1]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, n) of the product."""
        return int(self.C.shape[0]), int(self.R.shape[1])

    def __matmul__(self, x: Any) -> Any:
        x = x if hasattr(x, "shape") else np.asarray(x)
        if len(x.shape) not in (1, 2) or x.shape[0] != self.shape[1]:
            raise ValueError(
                f"the right factor must have {self.shape[1]} rows, got shape {tuple(x.shape)}"
            )
        return self.C @ (self.U @ (self.R @ x))

    def toarray(self) -> Array:
        """C @ (U @ R), (m, n)."""
        return cast(Array, self.C @ (self.U @ self.R))


class CRResult(_Named[CrInfo]):
    """A @ B ≈ (A[:, indices] * weights) @ B[indices]; unpacks as `indices, weights = result`.

    Attributes
    ----------
    indices : (k,) int64 array, ascending; by "sample" an index may come more than once
    weights : (k,) float64 array; by "top" all 1
    info : CrInfo
    """

    _names = __match_args__ = ("indices", "weights")
    _main = 1

    @property
    def indices(self) -> Indices:
        """The chosen columns of A and rows of B, (k,)."""
        return cast(Indices, self[0])

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Their weights, (k,)."""
        return cast("npt.NDArray[np.float64]", self[1])


class NystromColumnsResult(_Named[NystromColumnsInfo]):
    """K ≈ F @ F.conj().T; unpacks as `columns, F = result`.

    Attributes
    ----------
    columns : (k,) int64 array of different columns, in the order of the pivots
    F : (n, k) array
    info : NystromColumnsInfo
    """

    _names = __match_args__ = ("columns", "F")
    _main = 1

    @property
    def columns(self) -> Indices:
        """The chosen columns, (k,)."""
        return cast(Indices, self[0])

    @property
    def F(self) -> Array:
        """The factor, (n, k); the columns beyond the rank are zero."""
        return cast(Array, self[1])


class NeighborsResult(_Named[SearchInfo]):
    """The items of highest score; unpacks as `items, scores = result`.

    Attributes
    ----------
    items : (q, k) int64 array, the best first
    scores : (q, k) array
    info : SearchInfo
    """

    _names = __match_args__ = ("items", "scores")
    _main = 1

    @property
    def items(self) -> Indices:
        """Items, (q, k), descending in score."""
        return cast(Indices, self[0])

    @property
    def scores(self) -> Array:
        """Their scores, (q, k): estimates from `query`, scores from `search`."""
        return cast(Array, self[1])
