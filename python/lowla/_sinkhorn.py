"""Entropic optimal transport: sinkhorn, sinkhorn_points, sinkhorn_divergence.

Here: what a caller may pass is checked, one backend function is called, its potentials go back as
the caller's kind of array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import numpy as np

from lowla import _arrays, _checks
from lowla._call import Call
from lowla._results import TransportInfo
from lowla._transport import (
    DivergenceResult,
    PointsTransportResult,
    Problem,
    TransportResult,
    cost_payload,
)

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._backend import Facts
    from lowla._results import Array

TransportCallback: TypeAlias = Callable[[TransportInfo], object]
Metric: TypeAlias = Literal["sqeuclidean", "euclidean", "cityblock"]
Method: TypeAlias = Literal["newton", "sinkhorn", "auto"]
Auto: TypeAlias = Literal["auto"]
Init: TypeAlias = "tuple[ArrayLike, ArrayLike] | TransportResult | None"
Result = TypeVar("Result", bound=TransportResult)

_METHODS = ("newton", "sinkhorn", "auto")
_METRICS = ("sqeuclidean", "euclidean", "cityblock")
# Relative difference of sum(a) and sum(b) that is taken for rounding, by the dtype of the weights.
_ROUNDING = {"float64": 1e-8, "float32": 1e-5}


def sinkhorn(
    a: ArrayLike | None,
    b: ArrayLike | None,
    C: ArrayLike,
    reg: float,
    *,
    method: Method = "newton",
    tol: float = 1e-9,
    max_iter: int = 10_000,
    warmup: int | Auto = "auto",
    sparsity: float | Auto = "auto",
    init: Init = None,
    callback: TransportCallback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> TransportResult:
    """Entropic optimal transport: the plan P >= 0 with P 1 = a and Pᵀ 1 = b that minimises
    <P, C> + reg · Σ P (log P - 1).

    Parameters
    ----------
    a, b : (m,) and (n,) array, or None
        Weights >= 0 of equal sums; None or an empty array is 1/m (or 1/n) everywhere. Sums that
        differ by rounding (1e-8, 1e-5 for float32) are made equal by a factor on b.
    C : (m, n) array
        Real costs, any strides; +inf forbids a pair. Not copied.
    reg : float
        Greater than 0, in the units of C.
    method : {"newton", "sinkhorn", "auto"}, default "newton"
        "sinkhorn" takes Sinkhorn's steps alone. "newton" takes a few of them, then sparse Newton
        steps, at temperatures that halve down to `reg`; where Newton gains too little Sinkhorn's
        steps go on, and `info.fallback` says so. "auto" is "sinkhorn" where Franklin and Lorenz's
        bound tanh(range(C) / 2 reg)² on its convergence factor promises `tol` in 60 sweeps, else
        "newton".
    tol : float, default 1e-9
        In (0, 1): the L1 error of both marginals over the sum of the weights.
    max_iter : int, default 10000
        Most sweeps: reads of C with one exponential an entry.
    warmup : int or "auto", default "auto"
        Sinkhorn's steps at each temperature; 0 begins at `reg` itself. "auto" is 5, and 0 for
        method "sinkhorn".
    sparsity : float or "auto", default "auto"
        In (0, 1]: the largest part of the plan's entries that Newton's matrix may keep. "auto"
        sets no limit: the matrix drops a tenth of the current error.
    init : (f, g), optional
        Potentials to begin from, those of an earlier result for instance. They are taken at `reg`
        itself if their marginal error is below 0.1 (or `warmup` is 0).
    callback : callable, optional
        Called with a `TransportInfo` after each step; its error is that at the current temperature.
        Returning True stops there.
    progress : bool, default False
        Show a progress bar.
    check_finite : bool, default True
        Raise if C holds NaN or -inf. With False such input gives NaN.

    Returns
    -------
    TransportResult
        `f` (m,) and `g` (n,), float64, with P_ij = exp((f_i + g_j - C_ij) / reg); `plan`,
        `plan_sparse(threshold)`, `value`, `value_linear`, `grad_a`, `grad_b`, `grad_C`; `info`
        (`TransportInfo`). The constant that may move between f and g is fixed by aᵀf = bᵀg. In
        terms of POT: f = reg · log["log_u"], and `value` is its value minus reg · sum(a).

    Raises
    ------
    ValueError
        If shapes do not fit; weights are negative, not finite, all zero, or of different sums; C
        holds NaN or -inf, or only inf in a row or column of positive weight; reg is not a finite
        number > 0, or below 1e-15 of the range of C; or an option has no such value.
    TypeError
        If an array is not numeric, not dense or complex, or an option has the wrong type.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `info.converged` is then False. Forbidden pairs may leave no plan
        with these marginals, and rounding leaves an error of about u · max|C| / reg.

    Notes
    -----
    **Guarantee.** `info.marginal_error` is measured from the returned potentials. By weak duality
    `value` is a lower bound of the minimum; the plan is the optimal one for its own marginals.

    **Cost.** The solver needs some dozens of sweeps of m·n exponentials where Sinkhorn's iteration
    needs up to hundreds of thousands [1]_, [2]_. Memory: O(m + n) and 12 bytes for each entry that
    Newton's matrix keeps.

    References
    ----------
    .. [1] M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport",
       NeurIPS 2013.
    .. [2] X. Tang, M. Shavlovsky, H. Rahmanian, E. Tardini, K. K. Thekumparampil, T. Xiao, L. Ying,
       "Accelerating Sinkhorn algorithm with sparse Newton iterations", ICLR 2024,
       arXiv:2401.12253.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> a, b = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    >>> r = lowla.sinkhorn(a, b, np.array([[0.0, 1.0], [1.0, 0.0]]), reg=0.05)
    >>> r.plan.round(4)
    array([[0.25, 0.25],
           [0.  , 0.5 ]])
    >>> round(r.value_linear, 4), r.info.converged
    (0.25, True)
    """
    cost = _real("C", C, 2)
    if 0 in cost.shape:
        raise ValueError(f"C must have at least one row and one column, got shape {cost.shape}")
    options = _options(
        reg, method, tol, max_iter, warmup, sparsity, init, callback, progress, check_finite
    )
    call = _TransportCall("sinkhorn", (cost,), None, cost.shape, a, b, options)
    return call.result(TransportResult, *call.solve())


def sinkhorn_points(
    X: ArrayLike,
    Y: ArrayLike,
    reg: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    metric: Metric = "sqeuclidean",
    method: Method = "newton",
    tol: float = 1e-9,
    max_iter: int = 10_000,
    warmup: int | Auto = "auto",
    sparsity: float | Auto = "auto",
    init: Init = None,
    callback: TransportCallback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> PointsTransportResult:
    """Entropic optimal transport between point clouds, the costs computed where they are needed.

    Parameters
    ----------
    X, Y : (m, d) and (n, d) array
        Real points.
    reg : float
        Greater than 0, in the units of the costs.
    a, b : (m,) and (n,) array, optional
        Weights >= 0 of equal sums; None or an empty array is uniform.
    metric : {"sqeuclidean", "euclidean", "cityblock"}, default "sqeuclidean"
        The cost of a pair: the squared Euclidean distance, the distance, or the sum of the
        absolute differences of the coordinates.
    method, tol, max_iter, warmup, init, callback, progress
        As in `sinkhorn`.
    sparsity : float or "auto", default "auto"
        In (0, 1]: the largest part of the plan's entries that Newton's matrix may keep. "auto" is
        2^20 and 64 a point.
    check_finite : bool, default True
        Raise if X or Y holds NaN or Inf. With False such input gives NaN.

    Returns
    -------
    PointsTransportResult
        As that of `sinkhorn`, with `grad_X` (m, d) and `grad_Y` (n, d).

    Raises
    ------
    ValueError, TypeError
        As in `sinkhorn`; also if X or Y holds NaN or Inf or the points have different dimensions.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached.

    Notes
    -----
    **Guarantee.** As in `sinkhorn`. Gradients are those of `value`, by the envelope theorem:
    Σ_j P_ij ∂C_ij/∂x_i, where ∂C/∂x is 0 at a point where the metric has a kink.

    **Cost.** As in `sinkhorn`, and m·n·d multiplications a sweep; memory O((m + n)·d) and
    12 bytes for each entry that Newton's matrix keeps. The plan is written out only on demand.

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating
       between optimal transport and MMD using Sinkhorn divergences", AISTATS 2019.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> r = lowla.sinkhorn_points(X, X[::-1] + 3.0, reg=0.01)
    >>> round(r.value_linear, 6), r.plan_sparse(1e-6).nnz
    (9.0, 3)
    >>> r.grad_X.ravel().round(6)  # 2 (x - y) / 3 for every point
    array([-2., -2., -2.])
    """
    _checks.choice("metric", metric, _METRICS)
    clouds = _clouds(X, Y, check_finite)
    options = _options(
        reg, method, tol, max_iter, warmup, sparsity, init, callback, progress, check_finite
    )
    shape = (clouds[0].shape[0], clouds[1].shape[0])
    call = _TransportCall("sinkhorn_points", clouds, metric, shape, a, b, options)
    return call.result(PointsTransportResult, *call.solve())


def sinkhorn_divergence(
    X: ArrayLike,
    Y: ArrayLike,
    reg: float,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    metric: Metric = "sqeuclidean",
    method: Method = "newton",
    tol: float = 1e-9,
    max_iter: int = 10_000,
    warmup: int | Auto = "auto",
    sparsity: float | Auto = "auto",
    check_finite: bool = True,
) -> DivergenceResult:
    """The Sinkhorn divergence OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2 of two weighted point clouds.

    Parameters
    ----------
    X, Y, reg, a, b, metric, method, tol, max_iter, warmup, sparsity, check_finite
        As in `sinkhorn_points`.

    Returns
    -------
    DivergenceResult
        `value`, also as `float(result)`; `grad_X`, `grad_Y`; the three transports `xy`, `xx`, `yy`.

    Raises
    ------
    ValueError, TypeError
        As in `sinkhorn_points`.

    Warns
    -----
    ConvergenceWarning
        If one of the three transports did not reach `tol`.

    Notes
    -----
    **Guarantee.** At least 0, and 0 exactly for equal measures [1]_, up to the rounding and the
    tolerance of the three values. The entropy of the weights cancels, so the value is the same for
    Σ P log P and for the relative entropy to a ⊗ b.

    **Cost.** Three transports.

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating
       between optimal transport and MMD using Sinkhorn divergences", AISTATS 2019, theorem 1.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> X = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> r = lowla.sinkhorn_divergence(X, X + [0.0, 2.0], reg=0.5)
    >>> round(r.value, 6)
    4.0
    >>> abs(float(lowla.sinkhorn_divergence(X, X[::-1], reg=0.5))) < 1e-9
    True
    """
    _checks.choice("metric", metric, _METRICS)
    clouds = _clouds(X, Y, check_finite)
    options = _options(
        reg, method, tol, max_iter, warmup, sparsity, None, None, False, check_finite
    )
    parts = []
    for i, j in ((0, 1), (0, 0), (1, 1)):
        pair, weights = (clouds[i], clouds[j]), (a, b)
        shape = (pair[0].shape[0], pair[1].shape[0])
        call = _TransportCall(
            "sinkhorn_divergence", pair, metric, shape, weights[i], weights[j], options
        )
        parts.append(call.result(PointsTransportResult, *call.solve()))
    xy, xx, yy = parts
    return DivergenceResult(xy.value - 0.5 * xx.value - 0.5 * yy.value, xy, xx, yy)


@dataclass(frozen=True)
class _Options:
    """The checked options of a solver, as the backends take them."""

    reg: float
    method: str
    tol: float
    max_iter: int
    warmup: int
    sparsity: float
    init: Any
    callback: TransportCallback | None
    progress: bool
    check_finite: bool


def _options(
    reg: object,
    method: object,
    tol: object,
    max_iter: object,
    warmup: object,
    sparsity: object,
    init: object,
    callback: TransportCallback | None,
    progress: bool,
    check_finite: bool,
) -> _Options:
    _checks.choice("method", method, _METHODS)
    return _Options(
        _checks.positive("reg", reg),
        cast(str, method),
        _checks.tolerance(tol),
        _checks.count("max_iter", max_iter, least=1),
        _checks.AUTO if _is_auto("warmup", warmup) else _checks.count("warmup", warmup),
        _checks.AUTO if _is_auto("sparsity", sparsity) else _part("sparsity", sparsity),
        init,
        callback,
        progress,
        check_finite,
    )


def _is_auto(name: str, value: object) -> bool:
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"{name} must be a number or 'auto', got {value!r}")
    return isinstance(value, str)


def _part(name: str, value: object) -> float:
    number = _checks.real(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {number:g}")
    return number


def _real(name: str, value: ArrayLike, dimensions: int) -> Matrix:
    taken = _arrays.dense(value, name, (dimensions,))
    if taken.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got dtype {taken.dtype}")
    return taken


def _clouds(X: ArrayLike, Y: ArrayLike, check_finite: bool) -> tuple[Matrix, Matrix]:
    """The two clouds: points of one dimension, at least one in each, in one place."""
    clouds = _real("X", X, 2), _real("Y", Y, 2)
    for name, cloud in zip("XY", clouds, strict=True):
        if not cloud.shape[0]:
            raise ValueError(f"{name} must have at least one point, got shape {cloud.shape}")
        if check_finite:
            _arrays.require_finite(cloud, name)
    if clouds[0].shape[1] != clouds[1].shape[1]:
        raise ValueError(
            f"X and Y must have points of one dimension, got {clouds[0].shape[1]} and "
            f"{clouds[1].shape[1]}"
        )
    if clouds[0].device != clouds[1].device:
        raise TypeError("X and Y must both be in main memory or both on the GPU")
    return clouds


def _vector(name: str, value: ArrayLike, size: int, like: Matrix) -> Matrix:
    """A real vector of that size, where `like` is."""
    taken = _real(name, value, 1)
    if taken.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), got {taken.shape}")
    if taken.device != like.device:
        raise TypeError(f"{name} and the costs must both be in main memory or both on the GPU")
    return taken


def _double(vector: Matrix) -> Array:
    """In double precision and in main memory, where the iteration is, whatever the costs are on."""
    return _arrays.to_host(_arrays.cast_to(vector, np.dtype(np.float64), "the vector").dense)


def _weights(name: str, value: ArrayLike | None, size: int, like: Matrix) -> tuple[Array, float]:
    """The weights in double precision, and the relative rounding of their sum."""
    if value is None or 0 in np.shape(cast(Any, value)):
        return np.full(size, 1.0 / size), 0.0
    given = _vector(name, value, size, like)
    w = _double(given)
    bad = ~((w >= 0.0) & (w < np.inf))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"{name} must be finite and at least 0, got {name}[{i}] = {float(w[i]):g}")
    with np.errstate(over="ignore"):
        total = float(w.sum())
    if not 0.0 < total < np.inf:
        raise ValueError(f"{name} must have a positive, finite sum, got {total:g}")
    return w, _ROUNDING[given.dtype.name]


def _same_sums(a: Array, b: Array, rounding: float) -> None:
    sums = float(a.sum()), float(b.sum())
    if abs(sums[0] - sums[1]) > rounding * max(sums):
        raise ValueError(f"a and b must have equal sums, got {sums[0]:.17g} and {sums[1]:.17g}")


def _potentials(
    init: object, a: Array, b: Array, like: Matrix
) -> tuple[Array, Array] | tuple[None, None]:
    """The initial f and g, finite wherever there is weight."""
    if init is None:
        return None, None
    if not isinstance(init, tuple) or len(init) != 2:
        raise TypeError(f"init must be a tuple (f, g), got {type(init).__name__}")
    found = []
    for name, value, weights in zip(("init f", "init g"), init, (a, b), strict=True):
        vector = _double(_vector(name, value, len(weights), like))
        if not np.isfinite(vector[weights > 0.0]).all():
            raise ValueError(f"{name} must be finite wherever the weight is positive")
        found.append(vector)
    return found[0], found[1]


class _TransportCall(Call[TransportInfo]):
    """One transport problem, from its checked parts to a result."""

    def __init__(
        self,
        function: str,
        operands: tuple[Matrix, ...],
        metric: str | None,
        shape: tuple[int, ...],
        a: ArrayLike | None,
        b: ArrayLike | None,
        options: _Options,
    ) -> None:
        self._operands, self._metric, self._options = operands, metric, options
        self._a, rounding_a = _weights("a", a, shape[0], operands[0])
        self._b, rounding_b = _weights("b", b, shape[1], operands[0])
        _same_sums(self._a, self._b, max(rounding_a, rounding_b, _ROUNDING["float64"]))
        self._init = _potentials(options.init, self._a, self._b, operands[0])
        super().__init__("sinkhorn", operands[0], options.callback, options.progress)
        self._function = function

    def solve(self) -> tuple[Array, Array, Facts]:
        options = self._options
        others = [M.for_backend(self.name) for M in self._operands[1:]]
        with self:
            return self.backend.sinkhorn(
                self._a,
                self._b,
                cost_payload([self.M, *others], self._metric),
                options.reg,
                options.method,
                options.tol,
                options.max_iter,
                options.warmup,
                options.sparsity,
                self._init[0],
                self._init[1],
                options.check_finite,
                self.monitor,
            )

    def result(self, kind: type[Result], f: Array, g: Array, facts: Facts) -> Result:
        """The potentials as a result; warns where the tolerance was not reached."""
        info = TransportInfo(
            reg=self._options.reg,
            tol=self._options.tol,
            marginal_error=cast(float, facts["marginal_error"]),
            sweeps=cast(int, facts["sweeps"]),
            newton_steps=cast(int, facts["newton_steps"]),
            cg_iterations=cast(int, facts["cg_iterations"]),
            converged=cast(bool, facts["converged"]),
            method=cast(str, facts["method"]),
            fallback=cast(bool, facts["fallback"]),
            density=cast(float, facts["density"]),
            backend=self.name,
            seconds=self.seconds,
        )
        if not info.converged and not np.isnan(info.marginal_error):
            self.warn(
                f"stopped at a marginal error of {info.marginal_error:.1e} after {info.sweeps} "
                f"sweeps, asked was tol={info.tol:g}"
            )
        value, linear = cast(float, facts["value"]), cast(float, facts["value_linear"])
        problem = Problem(self._operands, self._metric, self._options.reg, (f, g), value, linear)
        first = self._operands[0]
        return kind((first.wrap_host(f), first.wrap_host(g)), info, problem)

    def _so_far(self, iteration: int, error: float) -> TransportInfo:
        return TransportInfo(
            reg=self._options.reg,
            tol=self._options.tol,
            marginal_error=error,
            sweeps=iteration,
            newton_steps=0,
            cg_iterations=0,
            converged=False,
            method=self._options.method,
            fallback=False,
            density=0.0,
            backend=self.name,
            seconds=self.seconds,
        )
