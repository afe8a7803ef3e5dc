"""l_p regression: lp_regression."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from lowla import _arrays, _checks
from lowla._call import Call
from lowla._results import LpInfo, LpResult
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix, SupportsToCsr
    from lowla._backend import Facts

LpCallback: TypeAlias = Callable[[LpInfo], object]

_METHODS = ("auto", "sample", "exact")
_TOL = {"float64": 1e-9, "float32": 1e-5}
_WARM_START = 4  # times the rows of a sample from which "auto" starts with one


def lp_regression(
    A: ArrayLike | SupportsToCsr,
    b: ArrayLike,
    p: float,
    *,
    method: Literal["auto", "sample", "exact"] = "auto",
    eps: float = 0.1,
    max_iter: int | None = None,
    tol: float | None = None,
    rng: RngLike = None,
    callback: LpCallback | None = None,
    check_finite: bool = True,
) -> LpResult:
    """The x that minimises ||A x - b||_p, 1 <= p < ∞.

    Parameters
    ----------
    A : (m, n) array or sparse matrix
        Real.
    b : (m,) array
    p : float
        At least 1; 1 is least absolute deviations.
    method : {"auto", "sample", "exact"}, default "auto"
        "exact" solves to `tol`. "sample" solves for rows of [A b] drawn by importance, for an
        objective within 1 + `eps` of the smallest. "auto" is "exact", started from the solution of
        a sample where A is tall enough.
    eps : float, default 0.1
        In (0, 1): sets the size of the sample.
    max_iter : int, optional
        Most reweighted least-squares steps, 200 if not given.
    tol : float, optional
        In (0, 1): relative gap between objective and optimum. The default is 1e-9, and 1e-5 in
        float32.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int draws the same rows on every backend.
    callback : callable, optional
        Called with an `LpInfo` after each step; returning True stops there.
    check_finite : bool, default True
        Raise if A or b holds NaN or Inf. With False such input gives NaN.

    Returns
    -------
    LpResult
        `x` (n,) and `info` (`LpInfo`); `info.gap` bounds objective/optimum - 1.

    Raises
    ------
    ValueError
        If shapes do not fit, A or b holds NaN or Inf, p is below 1 or infinite, eps or tol is
        outside (0, 1), or `method` has no such value.
    TypeError
        If A or b is not numeric or complex, or A is a linear operator.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** "exact", by reweighted least squares [2]_ and for p = 1 descent from vertex to
    vertex [3]_: `info.gap` comes from a point of the dual problem and holds whatever the iteration
    did. "sample": the objective is at most 1 + eps times the optimum with high
    probability, from 8·d^max(1, p/2)·ln(4d)/eps rows, d = n + 1, drawn by the square roots of
    leverage scores to the power p for p <= 2 and by Lewis weights beyond [1]_.

    **Cost.** 2·m·n² flops and three reads of A a step; 4 to 40 steps. p = 1 ends with O(m·n)
    flops a vertex.

    References
    ----------
    .. [1] D. P. Woodruff, T. Yasuda, "Sharper bounds for l_p sensitivity sampling", ICML 2023,
       arXiv:2306.00732.
    .. [2] D. Adil, R. Peng, S. Sachdeva, "Fast, provably convergent IRLS algorithm for p-norm
       linear regression", NeurIPS 2019.
    .. [3] P. Bloomfield, W. Steiger, "Least absolute deviations curve-fitting", SIAM Journal on
       Scientific and Statistical Computing 1(2), 1980.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.ones((5, 1))
    >>> b = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    >>> float(lowla.lp_regression(A, b, 1).x[0])  # the median
    3.0
    >>> round(float(lowla.lp_regression(A, b, 2).x[0]), 6)  # the mean
    22.0
    """
    M = _arrays.matrix(A, operator=False)
    rhs = _arrays.right_side(b, M)
    if len(rhs.shape) != 1:
        raise ValueError(f"b must have 1 dimension, got shape {rhs.shape}")
    p = _checks.norm_order(p)
    _checks.choice("method", method, _METHODS)
    eps = _checks.tolerance(eps, "eps")
    tol = None if tol is None else _checks.tolerance(tol)
    steps = 0 if max_iter is None else _checks.count("max_iter", max_iter, least=1)
    dtype = np.result_type(M.dtype, rhs.dtype)
    if dtype.kind == "c":
        raise TypeError(f"lp_regression is for real A and b, got {dtype}")
    M, rhs = _arrays.cast_to(M, dtype, "A"), _arrays.cast_to(rhs, dtype, "b")
    key = philox_key(rng)
    call = _LpCall(M, p, tol, callback)
    rhs = rhs.on(call.M.device)
    with call:
        if 0 in M.shape:
            x, facts = call.M.scratch(M.shape[1]), _empty(rhs, p)
        else:
            x, facts = call.backend.lp_regression(
                call.M.payload,
                rhs.dense,
                p,
                "exact" if method == "auto" else method,
                _rows(M.shape, p, method, eps),
                _TOL[dtype.name] if tol is None else tol,
                steps,
                key,
                check_finite,
                call.monitor,
            )
    return LpResult((call.M.wrap(x),), call.info(facts))


def _rows(shape: tuple[int, ...], p: float, method: str, eps: float) -> int:
    """The size of the sample; 0 for none."""
    d = shape[1] + 1
    rows = math.ceil(8.0 * d ** max(1.0, p / 2.0) * math.log(4.0 * d) / eps)
    tall = shape[0] > (1 if method == "sample" else _WARM_START) * rows
    return rows if tall and method != "exact" else 0


def _empty(b: Matrix, p: float) -> Facts:
    return {
        "method": "exact",
        "objective": float((abs(b.dense) ** p).sum()) ** (1.0 / p),
        "gap": 0.0,
        "iterations": 0,
        "converged": True,
        "rows": 0,
    }


class _LpCall(Call[LpInfo]):
    def __init__(self, M: Matrix, p: float, tol: float | None, callback: LpCallback | None) -> None:
        super().__init__("lp_regression", M, callback)
        self._p = p
        self._tol = tol

    def _so_far(self, iteration: int, error: float) -> LpInfo:
        nan = float("nan")
        return self._info("exact", nan, error, iteration, 0, converged=False)

    def _info(
        self,
        method: str,
        objective: float,
        gap: float,
        iterations: int,
        rows: int,
        *,
        converged: bool,
    ) -> LpInfo:
        return LpInfo(
            p=self._p,
            tol=self._tol,
            objective=objective,
            gap=gap,
            iterations=iterations,
            sampled_rows=rows,
            method=method,
            converged=converged,
            backend=self.name,
            seconds=self.seconds,
        )

    def info(self, facts: Facts) -> LpInfo:
        """The backend's facts as `info`; warns where the answer is not what was asked."""
        made = self._info(
            cast(str, facts["method"]),
            cast(float, facts["objective"]),
            cast(float, facts["gap"]),
            cast(int, facts["iterations"]),
            cast(int, facts["rows"]),
            converged=cast(bool, facts["converged"]),
        )
        if not made.converged and not math.isnan(made.objective):
            asked = "" if self._tol is None else f", asked was tol={self._tol:g}"
            self.warn(f"stopped at a gap of {made.gap:.1e}{asked}")
        return made
