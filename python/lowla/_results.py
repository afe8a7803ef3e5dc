"""What the functions return: tuples with names, each with an `info` that certifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self

Array: TypeAlias = npt.NDArray[np.inexact]
"""An array of the caller's kind (NumPy, CuPy, torch); typed as NumPy's."""

Flags: TypeAlias = "bool | npt.NDArray[np.bool_]"
Counts: TypeAlias = "int | npt.NDArray[np.int64]"
Reals: TypeAlias = "float | npt.NDArray[np.float64]"


@dataclass(frozen=True)
class RsvdInfo:
    """What was asked of a low-rank factorisation, and what was measured of its answer.

    For stacked input (..., m, n) the measured fields are arrays of the stack's shape.

    Attributes
    ----------
    k, tol : what was asked; None where it was not given
    rank : number of returned singular values above rounding level
    error : relative Frobenius error ||A - U S Vh||_F / ||A||_F of the returned factors, measured
    error_method : how it was measured: "identity", "residual", "leave-one-out" or "exact"
    spectral_error : estimate of ||A - U S Vh||_2 / ||A||_2
    passes : reads of A
    iterations : outer iterations
    converged : False where `tol` was not reached
    method : the algorithm taken
    basis : dimension of the subspace that the factors were drawn from
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int | None
    tol: float | None
    rank: Counts
    error: Reals
    error_method: str
    spectral_error: Reals
    passes: Counts
    iterations: Counts
    converged: Flags
    method: str
    basis: Counts
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["RsvdInfo", *self._lines()])

    def _lines(self) -> list[str]:
        asked = [] if self.k is None else [f"k = {self.k}"]
        asked += [] if self.tol is None else [f"tol = {self.tol:g}"]
        facts = {
            "asked": ", ".join(asked),
            "rank": _span(self.rank),
            "error": f"{_span(self.error)} (relative Frobenius, {self.error_method})",
            "spectral error": f"{_span(self.spectral_error)} (relative, estimated)",
            "converged": _span(self.converged),
            "method": f"{self.method}, basis of {_span(self.basis)}",
            "passes": f"{_span(self.passes)} over A, {_span(self.iterations)} iterations",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


def _span(value: Flags | Counts | Reals) -> str:
    """One number, or the range of a stack's numbers."""
    if isinstance(value, np.ndarray):
        if value.size == 0:
            return "none"
        low, high = value.min(), value.max()
        return _span(low.item()) if low == high else f"{_span(low.item())} .. {_span(high.item())}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, repr=False)
class LstsqInfo:
    """What was asked of a least-squares solver, and what was measured of its answer.

    Attributes
    ----------
    tol : the backward error that was asked; None where it was not given
    method : the algorithm taken: "direct", "precondition" or "sketch"
    rank : number of singular values above rcond times the largest
    cond : largest over smallest singular value (inf if that is 0), as accurate as `s`
    backward_error : of the returned x, relative to ||A||_F, the worst column: the estimate of
        Karlson and Waldén
    residual_norm : ||b - A x||, a number, or (r,) for b (m, r)
    s_exact : whether `s` is accurate to rounding; else to the distortion of the sketch
    iterations : refinement steps, or steps of conjugate gradients
    passes : reads of A (products, for a linear operator)
    sketch_rows : rows of the sketch; 0 where none was taken
    converged : False where `tol` (or rounding level) was not reached
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    tol: float | None
    method: str
    rank: int
    cond: float
    backward_error: float
    residual_norm: Reals
    s_exact: bool
    iterations: int
    passes: int
    sketch_rows: int
    converged: bool
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["LstsqInfo", *self._lines()])

    def _lines(self) -> list[str]:
        sketch = f", sketch of {self.sketch_rows} rows" if self.sketch_rows else ""
        facts = {
            "asked": "rounding level" if self.tol is None else f"tol = {self.tol:g}",
            "rank": self.rank,
            "cond": f"{self.cond:.3g} ({'exact' if self.s_exact else 'of the sketch'})",
            "backward error": f"{self.backward_error:.3g} (relative, estimated)",
            "residual norm": _span(self.residual_norm),
            "converged": self.converged,
            "method": f"{self.method}{sketch}",
            "passes": f"{self.passes} over A, {self.iterations} iterations",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class LpInfo:
    """What was asked of an l_p regression, and what was measured of its answer.

    Attributes
    ----------
    p : the norm
    tol : the relative gap that was asked; None where it was not given
    objective : ||A x - b||_p of the returned x, over all rows
    gap : upper bound on objective / optimum - 1 from a feasible dual point; NaN where the answer
        comes from a sample
    iterations : reweighted least-squares steps
    sampled_rows : rows of [A b] that were solved for; 0 where all were
    method : "exact" or "sample"
    converged : False where `tol` was not reached
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    p: float
    tol: float | None
    objective: float
    gap: float
    iterations: int
    sampled_rows: int
    method: str
    converged: bool
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["LpInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"p = {self.p:g}" + ("" if self.tol is None else f", tol = {self.tol:g}"),
            "objective": f"{self.objective:.6g}",
            "gap": f"{self.gap:.3g} (relative, an upper bound)",
            "converged": self.converged,
            "method": self.method
            + (f", {self.sampled_rows} sampled rows" if self.sampled_rows else ""),
            "iterations": self.iterations,
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class SampleInfo:
    """How rows were sampled.

    Attributes
    ----------
    p : the norm that the sample keeps
    method : the importance scores
    total : sum of the scores
    largest_weight : of the sampled rows
    distinct : number of different rows
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    p: float
    method: str
    total: float
    largest_weight: float
    distinct: int
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["SampleInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"p = {self.p:g}, {self.method}",
            "scores": f"{self.total:.4g} in all",
            "largest weight": f"{self.largest_weight:.3g}",
            "distinct": f"{self.distinct} rows",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class NearestKronInfo:
    """What was asked of `nearest_kron`, and what was measured of its answer.

    Attributes
    ----------
    terms : number of Kronecker products
    error : relative Frobenius error ||A - sum B_t ⊗ C_t||_F / ||A||_F of the returned arrays,
        measured
    method : how the rearranged matrix was factored: "svd" or "krylov"
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    terms: int
    error: float
    method: str
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["NearestKronInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"terms = {self.terms}",
            "error": f"{self.error:.3g} (relative Frobenius, residual)",
            "method": self.method,
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class MonarchInfo:
    """What was asked of `monarch_project`, and what was measured of its answer.

    Attributes
    ----------
    blocks : numbers of blocks of R and of L
    error : relative Frobenius error ||W - M||_F / ||W||_F of the returned M, measured
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    blocks: tuple[int, int]
    error: float
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["MonarchInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"blocks = {self.blocks}",
            "error": f"{self.error:.3g} (relative Frobenius, residual)",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class TransportInfo:
    """What was asked of an optimal transport solver, and what was measured of its answer.

    Attributes
    ----------
    reg, tol : what was asked
    marginal_error : ||P 1 - a||_1 + ||Pᵀ 1 - b||_1 over sum(a), of the plan of the returned
        potentials, measured in float64
    sweeps : reads of the cost, each with one exponential an entry
    newton_steps : Newton steps among them
    cg_iterations : steps of conjugate gradients, on the sparse matrix
    converged : whether marginal_error <= tol
    method : "newton" or "sinkhorn"
    fallback : whether Newton gained too little and Sinkhorn's steps took over
    density : part of the plan's entries that the last matrix of Newton's method kept; 0 for none
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    reg: float
    tol: float
    marginal_error: float
    sweeps: int
    newton_steps: int
    cg_iterations: int
    converged: bool
    method: str
    fallback: bool
    density: float
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["TransportInfo", *self._lines()])

    def _lines(self) -> list[str]:
        steps = f", {self.newton_steps} Newton steps, {self.cg_iterations} of conjugate gradients"
        facts = {
            "asked": f"reg = {self.reg:g}, tol = {self.tol:g}",
            "marginal error": f"{self.marginal_error:.3g} (L1, both sides, measured)",
            "converged": self.converged,
            "method": self.method + (", then sinkhorn" if self.fallback else ""),
            "work": f"{self.sweeps} sweeps" + (steps if self.newton_steps else ""),
            "density": f"{self.density:.3g} of the plan in Newton's matrix",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        if not self.newton_steps:
            del facts["density"]
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class CompletionInfo:
    """What was asked of a low-rank completion, and what was measured of its answer.

    Attributes
    ----------
    k, reg, tol, loss : what was asked; for `soft_impute` k is `rank_max` and reg is `lam`
    rank : numerical rank of U Vᵀ
    rmse : root mean square of the residuals of the fitted observations, measured (weighted, if
        there are weights)
    relative_residual : the same over the root mean square of the observations (minus their mean,
        with biases)
    holdout_rmse : root mean square of the residuals of the observations held out; NaN without
    sweeps : sweeps over the observations
    history : rmse after each sweep
    converged : False where `tol` was not reached
    method : "altmin", "scaled_gd" or "soft_impute"
    solver : of the rows' regressions: "exact", "cg", "nonnegative"; "gradient" for scaled_gd
    rows_undetermined, cols_undetermined : rows and columns with fewer than k observations
        (`soft_impute`: with none)
    components : connected components of the graph whose edges are the observations
    gap : `soft_impute`: upper bound on (objective - minimum) / objective; NaN otherwise
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    k: int
    reg: float
    tol: float
    loss: str
    rank: int
    rmse: float
    relative_residual: float
    holdout_rmse: float
    sweeps: int
    history: tuple[float, ...]
    converged: bool
    method: str
    solver: str
    rows_undetermined: int
    cols_undetermined: int
    components: int
    gap: float
    backend: str
    seconds: float

    @property
    def identifiable(self) -> bool:
        """False where the pattern alone rules out that the missing entries are determined.

        That is, if it falls into several components or a row or column has too few observations.
        True is no promise: a matrix with few large entries may have hidden them all.
        """
        return self.components == 1 and not self.rows_undetermined + self.cols_undetermined

    def __repr__(self) -> str:
        return "\n".join(["CompletionInfo", *self._lines()])

    def _lines(self) -> list[str]:
        held_out = "" if np.isnan(self.holdout_rmse) else f", held out {self.holdout_rmse:.6g}"
        gap = "" if np.isnan(self.gap) else f", duality gap {self.gap:.3g}"
        undetermined = f"{self.rows_undetermined} rows, {self.cols_undetermined} columns"
        facts = {
            "asked": f"k = {self.k}, reg = {self.reg:g}, loss {self.loss}, tol = {self.tol:g}",
            "rank": self.rank,
            "rmse": f"{self.rmse:.6g} (relative {self.relative_residual:.3g}){held_out}",
            "converged": f"{self.converged}, {self.sweeps} sweeps{gap}",
            "identifiable": f"{'not ruled out' if self.identifiable else False}: "
            f"{self.components} components, undetermined {undetermined}",
            "method": f"{self.method}, {self.solver}",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class FisherInfo:
    """What an `InverseFisher` holds.

    Attributes
    ----------
    m, d : number of gradients and of their entries (with `reduce`, of the worker's own)
    damp : what was asked
    block_size : what was asked; None for the full matrix
    blocks : number of diagonal blocks
    method : "dual" for matrices of order m, "primal" for ones of the order of a block
    cond : estimate from below of the condition number of m·damp·I + K, the worst block
    pushes : gradients pushed so far
    refactorisations : of these, how many took a factorisation instead of an update
    backend : "native", "cuda" or "numba"
    seconds : wall time of the set-up
    """

    m: int
    d: int
    damp: float
    block_size: int | None
    blocks: int
    method: str
    cond: float
    pushes: int
    refactorisations: int
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["FisherInfo", *self._lines()])

    def _lines(self) -> list[str]:
        blocks = "" if self.block_size is None else f", blocks of {self.block_size}"
        facts = {
            "asked": f"damp = {self.damp:g}{blocks}",
            "gradients": f"{self.m} of {self.d} entries",
            "method": f"{self.method}, {self.blocks} block{'s' * (self.blocks != 1)}",
            "cond": f"{self.cond:.3g} (estimated from below)",
            "pushes": f"{self.pushes}, {self.refactorisations} with a factorisation",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


@dataclass(frozen=True, repr=False)
class PruneInfo:
    """How weights were pruned.

    Attributes
    ----------
    n_prune, steps : what was asked
    kept : number of weights that are left
    backend : "native", "cuda" or "numba"
    seconds : wall time of the call
    """

    n_prune: int
    steps: int
    kept: int
    backend: str
    seconds: float

    def __repr__(self) -> str:
        return "\n".join(["PruneInfo", *self._lines()])

    def _lines(self) -> list[str]:
        facts = {
            "asked": f"n_prune = {self.n_prune}, steps = {self.steps}",
            "kept": f"{self.kept} weights",
            "backend": self.backend,
            "seconds": f"{self.seconds:.3g}",
        }
        return [f"  {name:<15}{value}" for name, value in facts.items()]


class SupportsLines(Protocol):
    """An info as the results print it."""

    def _lines(self) -> list[str]: ...


Info = TypeVar("Info", bound=SupportsLines)


class _Named(tuple[Any, ...], Generic[Info]):
    """A tuple with names, and `info` beside it (not counted by `len`)."""

    _names: tuple[str, ...] = ()
    _main = 0  # the one whose dtype is that of the result
    info: Info

    def __new__(cls, values: Sequence[object], info: Info) -> Self:
        self = super().__new__(cls, values)
        object.__setattr__(self, "info", info)
        return self

    def __getnewargs__(self) -> tuple[tuple[object, ...], Info]:
        return tuple(self), self.info

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only")

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name} {_span(value) if isinstance(value, (int, float)) else tuple(value.shape)}"
            for name, value in zip(self._names, self, strict=True)
        )
        dtype = str(self[self._main].dtype).removeprefix("torch.")
        head = f"{type(self).__name__}: {shapes}, {dtype}"
        return "\n".join([head, *self.info._lines()])


class SVDResult(_Named[RsvdInfo]):
    """Truncated SVD A ≈ U @ diag(S) @ Vh; unpacks as `U, S, Vh = result`.

    Attributes
    ----------
    U : (..., m, k) array, orthonormal columns
    S : (..., k) real array, descending
    Vh : (..., k, n) array, orthonormal rows
    info : RsvdInfo
    """

    _names = __match_args__ = ("U", "S", "Vh")

    @property
    def U(self) -> Array:
        """Left singular vectors, (..., m, k)."""
        return cast(Array, self[0])

    @property
    def S(self) -> Array:
        """Singular values, (..., k), descending."""
        return cast(Array, self[1])

    @property
    def Vh(self) -> Array:
        """Right singular vectors, conjugate transposed, (..., k, n)."""
        return cast(Array, self[2])


class EighResult(_Named[RsvdInfo]):
    """Truncated eigendecomposition A ≈ V @ diag(w) @ V.conj().T; unpacks as `w, V = result`.

    Attributes
    ----------
    w : (k,) real array
    V : (n, k) array, orthonormal columns
    info : RsvdInfo
    """

    _names = __match_args__ = ("w", "V")

    @property
    def w(self) -> Array:
        """Eigenvalues, (k,)."""
        return cast(Array, self[0])

    @property
    def V(self) -> Array:
        """Eigenvectors, (n, k)."""
        return cast(Array, self[1])


class LstsqResult(_Named[LstsqInfo]):
    """Least-squares solution; unpacks as `x, residuals, rank, s = result`.

    Attributes
    ----------
    x : (n,) or (n, r) array
    residuals : (1,) or (r,) real array of the sums of squares; (0,) where rank < n or m <= n
    rank : int
    s : (min(m, n),) real array, descending
    info : LstsqInfo
    """

    _names = __match_args__ = ("x", "residuals", "rank", "s")

    @property
    def x(self) -> Array:
        """The solution, (n,) or (n, r)."""
        return cast(Array, self[0])

    @property
    def residuals(self) -> Array:
        """Sums of squared residuals, (r,), or (0,) where rank < n or m <= n."""
        return cast(Array, self[1])

    @property
    def rank(self) -> int:
        """Number of singular values above rcond times the largest."""
        return cast(int, self[2])

    @property
    def s(self) -> Array:
        """Singular values, descending."""
        return cast(Array, self[3])


class LpResult(_Named[LpInfo]):
    """Solution of an l_p regression; unpacks as `(x,) = result`.

    Attributes
    ----------
    x : (n,) array
    info : LpInfo
    """

    _names = __match_args__ = ("x",)

    @property
    def x(self) -> Array:
        """The solution, (n,)."""
        return cast(Array, self[0])


class RowSample(_Named[SampleInfo]):
    """Sampled rows; unpacks as `indices, weights = result`.

    The matrix `weights[:, None] * A[indices]` has nearly the p-norms of A.

    Attributes
    ----------
    indices : (n_samples,) int64 array, ascending; a row may come more than once
    weights : (n_samples,) float64 array
    info : SampleInfo
    """

    _names = __match_args__ = ("indices", "weights")

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """The sampled rows, (n_samples,), ascending."""
        return cast("npt.NDArray[np.int64]", self[0])

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """Their weights, (n_samples,)."""
        return cast("npt.NDArray[np.float64]", self[1])


class NearestKronResult(_Named[NearestKronInfo]):
    """A ≈ sum_t kron(B[t], C[t]); unpacks as `B, C = result`.

    Attributes
    ----------
    B : (terms, m1, n1) array
    C : (terms, m2, n2) array
    info : NearestKronInfo
    """

    _names = __match_args__ = ("B", "C")

    @property
    def B(self) -> Array:
        """The left factors, (terms, m1, n1); orthogonal to each other, the largest term first."""
        return cast(Array, self[0])

    @property
    def C(self) -> Array:
        """The right factors, (terms, m2, n2); term t has the norm of B[t]."""
        return cast(Array, self[1])


class PruneResult(_Named[PruneInfo]):
    """Pruned weights; unpacks as `w, mask, loss_increase = result`.

    Attributes
    ----------
    w : array of the shape of the weights; zero where they are pruned
    mask : bool array of the same shape; True where they are kept
    loss_increase : float
    info : PruneInfo
    """

    _names = __match_args__ = ("w", "mask", "loss_increase")

    @property
    def w(self) -> Array:
        """The weights after pruning."""
        return cast(Array, self[0])

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True where a weight is kept."""
        return cast("npt.NDArray[np.bool_]", self[1])

    @property
    def loss_increase(self) -> float:
        """½ δᵀ F δ of the whole change δ of the weights."""
        return cast(float, self[2])
