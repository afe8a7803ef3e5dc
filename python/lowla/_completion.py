"""Low-rank matrix completion: complete.

Here: what a caller may pass is checked, observations are held out, one backend function is called
(one for each rank that k="auto" tries), its factors go back as the caller's kind of array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from lowla import _arrays, _checks
from lowla._arrays import to_host
from lowla._call import Call
from lowla._completion_result import CompletionResult, Model, model_of
from lowla._observations import Observable, Observations, observations
from lowla._results import CompletionInfo
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike
    from lowla._backend import Facts
    from lowla._results import Array

CompletionCallback: TypeAlias = Callable[[CompletionInfo], object]
Init: TypeAlias = "Literal['spectral', 'random'] | CompletionResult | tuple[ArrayLike, ArrayLike]"
Duplicates: TypeAlias = Literal["error", "mean"]

_METHODS = ("altmin", "scaled_gd")
_LOSSES = ("l2", "l1")
_SOLVERS = ("auto", "exact", "cg")
_STARTS = ("spectral", "random")
_DUPLICATES = ("error", "mean")
_HOLDOUT = 0.1  # of the observations, for k="auto"
_SEARCH_TOL = 1e-6  # while ranks are tried
_BETTER = 0.99  # held-out error that counts as lower, over the best so far
_PATIENCE = 2  # ranks without a lower one that end the search
_EXACT = 1e-5  # held-out error over the largest entry at which the rank is settled


def complete(
    M: Observable,
    k: int | Literal["auto"],
    *,
    weights: Observable | None = None,
    reg: float = 0.0,
    method: Literal["altmin", "scaled_gd"] = "altmin",
    loss: Literal["l2", "l1"] = "l2",
    solver: Literal["auto", "exact", "cg"] = "auto",
    bias: bool = False,
    nonnegative: bool = False,
    duplicates: Duplicates = "error",
    holdout: float = 0.0,
    n_iter: int = 500,
    tol: float = 1e-8,
    init: Init = "spectral",
    rng: RngLike = None,
    callback: CompletionCallback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> CompletionResult:
    """Low-rank completion: U and V with U @ V.T close to M at the observed entries.

    Minimised is Σ w (u_i·v_j - M_ij)² / 2 + reg (‖U‖² + ‖V‖²) / 2 over the observed entries.

    Parameters
    ----------
    M : (m, n) sparse matrix, array or masked array
        A sparse matrix: every stored entry is observed, stored zeros too. A float array: NaN is
        missing. A masked array: the masked entries are missing. Real; float32 and float64 are
        kept, other numbers become float64.
    k : int or "auto"
        Rank, in 1..min(m, n). "auto" tries 1, 2, 3, ... on the observations without the held-out
        ones (`holdout`, else a tenth), until the held-out error has not fallen by 1 % for two ranks
        or is at rounding level, and takes the best. Without `holdout` all observations are then
        fitted at that rank, and `info.holdout_rmse` is that of the trial.
    weights : (m, n) array or sparse matrix with the stored entries of M, optional
        Finite, not negative; entries of weight 0 count as not observed.
    reg : float, default 0
        At least 0. It is not multiplied by the number of observations of a row.
    method : {"altmin", "scaled_gd"}, default "altmin"
        Alternating minimisation [1]_, [2]_, or scaled gradient descent [3]_.
    loss : {"l2", "l1"}, default "l2"
        "l1" replaces r² / 2 by abs(r) and is exact in spite of a part of gross outliers; k may then
        be larger than the rank. Only for "altmin".
    solver : {"auto", "exact", "cg"}, default "auto"
        Of the rows' ridge regressions: Cholesky, or two steps of conjugate gradients from the last
        sweep's solution. "auto" is "exact" for k <= 32.
    bias : bool, default False
        Add a mean and biases of the rows and columns, with the same ridge `reg`. Only for "altmin".
    nonnegative : bool, default False
        U, V >= 0. Only for "altmin", and not with `bias`.
    duplicates : {"error", "mean"}, default "error"
        What several stored values for one entry of a sparse M are.
    holdout : float, default 0
        In [0, 1): the part of the observations, drawn at random, that is not fitted but measured in
        `info.holdout_rmse`.
    n_iter : int, default 500
        Most sweeps.
    tol : float, default 1e-8
        In (0, 1): the change of the whole matrix in a sweep, relative to its norm, at which it
        ends. At least 16 times the unit roundoff of the dtype is allowed.
    init : {"spectral", "random"}, CompletionResult or (U, V), default "spectral"
        Leading singular vectors of the observations, random factors, or given ones (m, k), (n, k).
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int holds out the same entries on every backend.
    callback : callable, optional
        Called with a `CompletionInfo` after each sweep; returning True stops there.
    progress : bool, default False
        Show a progress bar.
    check_finite : bool, default True
        Raise if an observation is not finite. With False such input gives NaN.

    Returns
    -------
    CompletionResult
        `U` (m, k), `V` (n, k), in the dtype of M, balanced: U = P √S, V = Q √S for the singular
        value decomposition P S Qᵀ of their product (not with `nonnegative`); `mean`, `row_bias`,
        `col_bias`, `predict`, `toarray`, `svd`, `top` and `info` (`CompletionInfo`).

    Raises
    ------
    ValueError
        If k is outside 1..min(m, n); there is no observation, one is Inf (or NaN, in a sparse or
        masked M), or an entry has several; weights are negative or do not fit; or options
        contradict each other.
    TypeError
        If M is not a real matrix, or an option has the wrong type.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** `info.rmse` and `info.holdout_rmse` are measured on the returned factors.
    `info.identifiable` is False if the pattern of the observations cannot determine the rest. For
    incoherent matrices of rank k and enough entries at random positions, alternating minimisation
    recovers all of them, at a linear rate [1]_, [2]_; it cannot be known from the observations that
    these conditions hold. A row with fewer than k observations gets the solution of least norm.

    **Cost.** A sweep over N observations takes O(N k²) flops (solver "exact") or O(N k) ("cg",
    "scaled_gd"). Memory: two copies of the observations, 3 (m + n) k numbers; loss "l1" four
    more numbers an observation.

    References
    ----------
    .. [1] P. Jain, P. Netrapalli, S. Sanghavi, "Low-rank matrix completion using alternating
       minimization", STOC 2013.
    .. [2] Y. Gu, Z. Song, J. Yin, L. Zhang, "Low rank matrix completion via robust alternating
       minimization in nearly linear time", 2023, arXiv:2302.11068.
    .. [3] T. Tong, C. Ma, Y. Chi, "Accelerating ill-conditioned low-rank matrix estimation via
       scaled gradient descent", Journal of Machine Learning Research 22, 2021, arXiv:2005.08898.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> M = np.add.outer(np.arange(6.0), np.arange(5.0)) + 1.0  # of rank 2
    >>> hidden = M.copy()
    >>> hidden[[0, 2, 4], [1, 3, 0]] = np.nan
    >>> r = lowla.complete(hidden, 2, rng=0)
    >>> bool(np.allclose(r.predict([0, 2, 4], [1, 3, 0]), M[[0, 2, 4], [1, 3, 0]]))
    True
    >>> r.info.identifiable, r.info.converged
    (True, True)
    """
    options = _options(
        reg, method, loss, solver, bias, nonnegative, n_iter, tol, callback, progress, check_finite
    )
    _checks.choice("duplicates", duplicates, _DUPLICATES)
    part = _fraction("holdout", holdout)
    key = philox_key(rng)
    found = observations(M, weights, duplicates, check_finite)
    rank = _rank(k, found.shape)
    call = _CompletionCall("complete", found, rank, key, options)
    start = call.start(init, rank)
    with call:
        if rank:
            return call.result(call.fit(rank, part, start, options.tol))
        return call.result(call.search(part))


@dataclass(frozen=True)
class _Options:
    """The checked options, as the backends take them."""

    reg: float
    method: str
    loss: str
    solver: str
    bias: bool
    nonnegative: bool
    n_iter: int
    tol: float
    callback: CompletionCallback | None
    progress: bool
    check_finite: bool


def _options(
    reg: object,
    method: str,
    loss: str,
    solver: str,
    bias: bool,
    nonnegative: bool,
    n_iter: object,
    tol: object,
    callback: CompletionCallback | None,
    progress: bool,
    check_finite: bool,
) -> _Options:
    _checks.choice("method", method, _METHODS)
    _checks.choice("loss", loss, _LOSSES)
    _checks.choice("solver", solver, _SOLVERS)
    if method == "scaled_gd":
        for name, other in (
            ("loss='l1'", loss == "l1"),
            ("bias", bias),
            ("nonnegative", nonnegative),
        ):
            if other:
                raise ValueError(f"method='scaled_gd' does not go with {name}: use 'altmin'")
    if bias and nonnegative:
        raise ValueError("nonnegative does not go with bias")
    return _Options(
        _checks.nonnegative("reg", reg),
        method,
        loss,
        solver,
        bool(bias),
        bool(nonnegative),
        _checks.count("n_iter", n_iter, least=1),
        _checks.tolerance(tol),
        callback,
        progress,
        check_finite,
    )


def _fraction(name: str, value: object) -> float:
    number = _checks.real(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must be in [0, 1), got {number:g}")
    return number


def _rank(k: object, shape: tuple[int, int]) -> int:
    """The rank; 0 for "auto"."""
    if isinstance(k, str):
        if k != "auto":
            raise ValueError(f"k must be an int or 'auto', got {k!r}")
        return 0
    number = _checks.integer("k", k)
    if not 1 <= number <= min(shape):
        raise ValueError(f"k must be in 1..min(M.shape) = {min(shape)}, got {number}")
    return number


@dataclass(frozen=True)
class _Start:
    """How the factors begin; U and V are one column wider where there are biases."""

    init: str
    U: Array | None = None
    V: Array | None = None


@dataclass(frozen=True)
class _Fit:
    """What a backend made of the fitted part of the observations."""

    model: Model
    facts: Facts
    k: int
    holdout_rmse: float


class _CompletionCall(Call[CompletionInfo]):
    """One completion, from its checked parts to a result."""

    def __init__(
        self, function: str, found: Observations, k: int, key: int, options: _Options
    ) -> None:
        super().__init__(function, found.like, options.callback, options.progress)
        self._found = found.on(self.M.device)
        self._k, self._key, self._options = k, key, options

    def start(self, init: object, k: int) -> _Start:
        """The start that `init` asks for."""
        if isinstance(init, str):
            _checks.choice("init", init, _STARTS)
            return _Start(init)
        if not isinstance(init, tuple) or len(init) != 2:
            raise TypeError(
                "init must be 'spectral', 'random', a CompletionResult or (U, V), got "
                f"{type(init).__name__}"
            )
        if not k:
            raise ValueError("k='auto' needs init='spectral' or 'random'")
        U, V = (
            _factor(f"init {name}", value, (size, k))
            for name, value, size in zip("UV", init, self._found.shape, strict=True)
        )
        if self._options.bias:
            model = init._model if isinstance(init, CompletionResult) else None
            U = _widened(U, None if model is None else model.row_bias)
            V = _widened(V, None if model is None else model.col_bias)
        return _Start("given", U, V)

    def fit(self, k: int, part: float, start: _Start, tol: float) -> _Fit:
        """The factors of rank k of the observations without the part held out."""
        o = self._options
        fitted, held = self._split(part)
        U, V, mean, row_bias, col_bias, facts = self.backend.complete(
            fitted.csr,
            fitted.weights,
            k,
            o.method,
            o.loss,
            o.solver,
            o.bias,
            o.nonnegative,
            o.reg,
            o.n_iter,
            tol,
            start.init,
            start.U,
            start.V,
            self._key,
            o.check_finite,
            self.monitor,
        )
        factors = (U, V, mean, row_bias, col_bias)
        error = math.nan
        if held is not None:
            error = self.backend.completion_rmse(held.csr, held.weights, *factors)
        return _Fit(model_of(factors, fitted, self.M.device), facts, k, error)

    def search(self, part: float) -> _Fit:
        """The rank with the least held-out error, and the factors of that rank."""
        start, trial = _Start("spectral"), part or _HOLDOUT
        best, since = math.inf, 0
        chosen = 1
        largest = float(np.max(np.abs(self._found.csr[2])))
        for k in range(1, min(self._found.shape) + 1):
            found = self.fit(k, trial, start, max(_SEARCH_TOL, self._options.tol))
            since += 1
            if found.holdout_rmse < _BETTER * best or k == 1:
                best, chosen, since = found.holdout_rmse, k, 0
            if since >= _PATIENCE or self._stopped or not best > _EXACT * largest:
                break
        final = self.fit(chosen, part, start, self._options.tol)
        return final if part else replace(final, holdout_rmse=best)

    def _split(self, part: float) -> tuple[Observations, Observations | None]:
        if not part:
            return self._found, None
        held = self.backend.completion_holdout(self._found.csr, part, self._key)
        if held.all() or not held.any():
            raise ValueError(
                f"holdout={part:g} of {len(held)} observations leaves none to "
                f"{'fit' if held.all() else 'hold out'}"
            )
        return self._found.part(~held), self._found.part(held)

    def result(self, fit: _Fit) -> CompletionResult:
        """The factors as a result; warns where the tolerance was not reached."""
        info = self._info(fit)
        if not info.converged and not np.isnan(info.rmse):
            self.warn(
                f"stopped after {info.sweeps} sweeps at a relative residual of "
                f"{info.relative_residual:.1e}, asked was a change below tol={info.tol:g}"
            )
        factors = fit.model.wrap(fit.model.U), fit.model.wrap(fit.model.V)
        return CompletionResult(factors, info, fit.model)

    def _info(self, fit: _Fit) -> CompletionInfo:
        facts = fit.facts
        return CompletionInfo(
            k=fit.k,
            reg=self._options.reg,
            tol=self._options.tol,
            loss=self._options.loss,
            rank=cast(int, facts["rank"]),
            rmse=cast(float, facts["rmse"]),
            relative_residual=cast(float, facts["relative_residual"]),
            holdout_rmse=fit.holdout_rmse,
            sweeps=cast(int, facts["sweeps"]),
            history=tuple(cast("list[float]", facts["history"])),
            converged=cast(bool, facts["converged"]),
            method=self._options.method,
            solver=cast(str, facts["solver"]),
            rows_undetermined=cast(int, facts["rows_undetermined"]),
            cols_undetermined=cast(int, facts["cols_undetermined"]),
            components=cast(int, facts["components"]),
            gap=cast(float, facts.get("gap", math.nan)),
            backend=self.name,
            seconds=self.seconds,
        )

    def _so_far(self, iteration: int, error: float) -> CompletionInfo:
        return running_info(
            self._k,
            self._options.reg,
            self._options.tol,
            self._options.loss,
            self._options.method,
            iteration,
            error,
            self.name,
            self.seconds,
        )


def running_info(
    k: int,
    reg: float,
    tol: float,
    loss: str,
    method: str,
    sweeps: int,
    rmse: float,
    backend: str,
    seconds: float,
) -> CompletionInfo:
    """What is known in the middle of the work."""
    return CompletionInfo(
        k=k,
        reg=reg,
        tol=tol,
        loss=loss,
        rank=k,
        rmse=rmse,
        relative_residual=math.nan,
        holdout_rmse=math.nan,
        sweeps=sweeps,
        history=(),
        converged=False,
        method=method,
        solver="running",
        rows_undetermined=0,
        cols_undetermined=0,
        components=0,
        gap=math.nan,
        backend=backend,
        seconds=seconds,
    )


def _factor(name: str, value: ArrayLike, shape: tuple[int, int]) -> Array:
    taken = _arrays.dense(value, name, (2,))
    if taken.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got dtype {taken.dtype}")
    if taken.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {taken.shape}")
    _arrays.require_finite(taken, name)
    return np.asarray(to_host(taken.dense), dtype=np.float64)


def _widened(U: Array, bias: Array | None) -> Array:
    column = np.zeros(len(U)) if bias is None else np.asarray(to_host(bias), dtype=np.float64)
    return np.hstack([U, column[:, None]])
