"""Sketched least squares: lstsq.

Rokhlin and Tygert (2008) and Avron, Maymounkov and Toledo (2010) for sketch-and-precondition;
Epperly, Meyer and Nakatsukasa (2024) for its refinement to the backward error of LAPACK. Here: what
a caller may pass is checked, one backend function is called, its facts become `info`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from lowla import _arrays, _checks
from lowla._call import Call
from lowla._results import LstsqInfo, LstsqResult
from lowla._rng import RngLike, philox_key
from lowla._sketch import KINDS

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix, MatrixLike
    from lowla._backend import Facts
    from lowla._results import Array

Method: TypeAlias = Literal["auto", "direct", "precondition", "sketch"]
LstsqCallback: TypeAlias = Callable[[LstsqInfo], object]

_METHODS = ("auto", "direct", "precondition", "sketch")
_SKETCH = "sjlt"
_DENSE_SKETCH = "gaussian"  # has the l_inf guarantee
_DENSE_KINDS = ("gaussian", "rademacher", "srht")
_DIRECT_ENTRIES = 1 << 24  # largest sparse matrix or operator that "direct" writes out
_FAILURE = 1e-4  # probability with which the sizes of "sketch" may miss their eps


def lstsq(
    A: MatrixLike,
    b: ArrayLike,
    rcond: float | None = None,
    *,
    method: Method = "auto",
    sketch: str = "auto",
    damp: float = 0.0,
    tol: float | None = None,
    max_iter: int | None = None,
    eps: float | None = None,
    guarantee: Literal["linf"] | None = None,
    rng: RngLike = None,
    callback: LstsqCallback | None = None,
    check_finite: bool = True,
) -> LstsqResult:
    """Least-squares solution of A x = b, of minimum norm where it is not unique.

    Takes the place of `numpy.linalg.lstsq` and returns the same four results.

    Parameters
    ----------
    A : (m, n) array, sparse matrix or linear operator
        Real or complex.
    b : (m,) or (m, r) array
    rcond : float, optional
        Singular values up to `rcond` times the largest count as zero. None: max(m, n) times the
        machine epsilon of float64, in which the rank is decided for float32 too; for an operator,
        that of its dtype. Negative: LAPACK's machine precision, half that epsilon. Method "sketch"
        never tells apart what the rounding of the sketch, in the dtype of A, has blurred.
    method : {"auto", "direct", "precondition", "sketch"}, default "auto"
        Orthogonal factorisation; sketch-and-precondition, as accurate and for tall A faster;
        sketch-and-solve in one read of A, with a residual within 1 + `eps` of the smallest. "auto"
        is "precondition" for dense A with many more rows than columns, and not few columns, or the
        other way round, and for sparse matrices and operators, else "direct". Where the rank is in
        doubt, a dense "precondition" ends as "direct": `info.method` says so.
    sketch : str, default "auto"
        Kind of the sketch, as in `sketch_operator`. "auto" is "sjlt", and a dense kind for
        `guarantee="linf"`.
    damp : float, default 0
        Minimises ||A x - b||² + damp² ||x||². With damp > 0 all four results are those of the
        augmented matrix [A; damp·I] and right-hand side [b; 0].
    tol : float, optional
        Relative backward error in (0, 1) that ends the iteration of "precondition". The default is
        rounding level.
    max_iter : int, optional
        Most refinement steps (dense) or steps of conjugate gradients of "precondition".
    eps : float, optional
        Accuracy of method "sketch" in (0, 1): 0.1 if not given, 0.5 with `guarantee="linf"`.
    guarantee : {None, "linf"}, default None
        "linf", for method "sketch": a dense sketch, large enough for the entrywise bound below.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    callback : callable, optional
        Called with an `LstsqInfo` after each refinement step (dense) or restart of conjugate
        gradients of "precondition"; returning True stops there.
    check_finite : bool, default True
        Raise if A or b holds NaN or Inf. With False such input gives NaN.

    Returns
    -------
    LstsqResult
        `x` (n,) or (n, r); `residuals` (r,) (or (1,)), the squared residual norms, empty where
        rank < n or m <= n; `rank`; `s` (min(m, n),), the singular values, descending, from the
        sketch where `info.s_exact` is False; and `info` (`LstsqInfo`).

    Raises
    ------
    ValueError
        If shapes do not fit, A or b holds NaN or Inf, damp is negative, tol or eps is outside
        (0, 1), an option has no such value, `guarantee="linf"` meets a sparse sketch, or "direct"
        would write out a large sparse matrix or operator.
    TypeError
        If A or b is not numeric, or an argument has the wrong type.

    Warns
    -----
    ConvergenceWarning
        If "precondition" did not reach `tol`; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** "direct" and "precondition": x has the forward and backward error of Householder
    QR, and `info.backward_error` estimates that of the returned x within a small factor [1]_ [2]_.
    "sketch" with a Gaussian sketch and real A: ||A x - b|| <= (1 + eps) min ||A x - b|| with
    probability 1 - 2e-4 for each column of b; `guarantee="linf"`:
    max_i abs(x_i - x*_i) <= (eps/√n) ||A x* - b|| ||A⁺||, with probability 1 - 2e-4 [3]_. The same
    sizes are taken for the other kinds.

    **Cost**, m and n exchanged where A is wide. "direct" 2·m·n² flops, four times that for wide A
    of condition number beyond 1e7. "precondition" 2·m·n² flops in matrix products and about 5
    reads of A, or for sparse matrices and operators about 20 products with A and Aᴴ each after a
    sketch of 12·n rows (4·n products for an operator). "sketch" one read and 2·d·n² flops for d
    rows. A is copied only where its dtype differs from that of the result; the values of a sparse A
    in single precision are held in double, and a wide sparse A is transposed.

    References
    ----------
    .. [1] E. N. Epperly, M. Meier, Y. Nakatsukasa, "Fast randomized least-squares solvers can be
       just as accurate and stable as classical direct solvers", 2024, arXiv:2406.03468.
    .. [2] R. Karlson, B. Waldén, "Estimation of optimal backward perturbation bounds for the linear
       least squares problem", BIT 37(4), 1997.
    .. [3] Z. Song, M. Ye, J. Yin, L. Zhang, "A nearly-optimal bound for fast regression with l_inf
       guarantee", ICML 2023, arXiv:2302.00248.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> t = np.linspace(0.0, 1.0, 5000)
    >>> A = np.vander(t, 4)
    >>> x, residuals, rank, s = lowla.lstsq(A, 3 * t**2 - 1, rng=0)
    >>> bool(np.allclose(x, [0.0, 3.0, 0.0, -1.0])), rank
    (True, 4)
    >>> lowla.lstsq(A, 3 * t**2 - 1, method="sketch", eps=0.5, rng=0).info.method
    'sketch'
    """
    M = _arrays.matrix(A)
    rhs = _arrays.right_side(b, M)
    _checks.choice("method", method, _METHODS)
    kind = _sketch_kind(sketch, method, guarantee)
    damp = _checks.nonnegative("damp", damp)
    tol = None if tol is None else _checks.tolerance(tol)
    steps = 0 if max_iter is None else _checks.count("max_iter", max_iter, least=1)
    accuracy = _accuracy(eps, method, guarantee)
    M, rhs = _same_dtype(M, rhs)
    m, n = M.shape[0] + (M.shape[1] if damp else 0), M.shape[1]
    cutoff = _cutoff(rcond, m, n, M)
    if method == "direct" and M.kind != "dense" and math.prod(M.shape) > _DIRECT_ENTRIES:
        what = "sparse" if M.kind == "csr" else "a linear operator"
        raise ValueError(f"method='direct' would write out A, which is {what}, of shape {M.shape}")

    key = philox_key(rng)
    call = _LstsqCall(M, tol, callback)
    columns = _arrays.as_columns(rhs.on(call.M.device))
    with call:
        if 0 in M.shape:
            results = _empty(call.M, columns, damp)
        else:
            results = call.backend.lstsq(
                call.M.payload,
                columns.dense,
                cutoff,
                method,
                kind,
                damp,
                tol or 0.0,
                steps,
                sketch_rows(n, accuracy, guarantee) if method == "sketch" else 0,
                key,
                check_finite,
                call.monitor,
            )
    x, residuals, rank, s, facts = results
    vector, r = len(rhs.shape) == 1, math.prod(rhs.shape[1:])
    x = x[:, 0] if vector else x[:, :r]
    residuals = residuals[: r if rank == n and m > n else 0]
    wrap = call.M.wrap if call.M.kind == "dense" else columns.wrap
    info = call.info(facts, rank, None if vector else r)
    return LstsqResult((wrap(x), wrap(residuals), rank, wrap(s)), info)


def sketch_rows(n: int, eps: float, guarantee: str | None) -> int:
    """Rows of a Gaussian sketch with which sketch-and-solve keeps its promise, see docs/lstsq.md.

    The excess of the squared residual is the ratio of a chi-square with n degrees of freedom and
    one with d - n + 1; the error of x has independent normal entries over the root of the latter.
    Tails by Laurent and Massart 2000, Lemma 1.
    """
    if guarantee == "linf":
        t = math.log(n / _FAILURE)
        needed = 2.0 * n * math.log(2.0 * n / _FAILURE) / eps**2
    else:
        t = math.log(1.0 / _FAILURE)
        needed = (n + 2.0 * math.sqrt(n * t) + 2.0 * t) / (eps * (2.0 + eps))
    freedom = (math.sqrt(t) + math.sqrt(t + needed)) ** 2  # x - 2 sqrt(x t) = needed
    return n - 1 + math.ceil(freedom)


def _sketch_kind(sketch: str, method: str, guarantee: str | None) -> str:
    _checks.choice("sketch", sketch, ("auto", *KINDS))
    if guarantee is None:
        return _SKETCH if sketch == "auto" else sketch
    _checks.choice("guarantee", guarantee, ("linf",))
    if method != "sketch":
        raise ValueError(f"guarantee='linf' is for method='sketch', got method={method!r}")
    if sketch == "auto":
        return _DENSE_SKETCH
    if sketch not in _DENSE_KINDS:
        raise ValueError(f"guarantee='linf' needs a dense sketch, got sketch={sketch!r}")
    return sketch


def _accuracy(eps: float | None, method: str, guarantee: str | None) -> float:
    if eps is None:
        return 0.1 if guarantee is None else 0.5
    if method != "sketch":
        raise ValueError(f"eps is for method='sketch', got method={method!r}")
    return _checks.tolerance(eps, "eps")


def _same_dtype(M: Matrix, rhs: Matrix) -> tuple[Matrix, Matrix]:
    """A and b in one dtype: the wider, but an operator's own."""
    if M.kind == "operator":
        return M, _arrays.cast_to(rhs, M.dtype, "b", "A is")
    dtype = cast("np.dtype[np.inexact]", np.result_type(M.dtype, rhs.dtype))
    return _arrays.cast_to(M, dtype, "A"), _arrays.cast_to(rhs, dtype, "b")


def _cutoff(rcond: float | None, m: int, n: int, M: Matrix) -> float:
    # As numpy, which solves in float64; products with an operator have the rounding of its dtype.
    eps = float(np.finfo(M.real_dtype.name if M.kind == "operator" else "float64").eps)
    if rcond is None:
        return eps * max(m, n)
    value = _checks.real("rcond", rcond)
    if math.isnan(value):
        raise ValueError("rcond must not be NaN")
    return value if value >= 0.0 else 0.5 * eps


def _empty(M: Matrix, b: Matrix, damp: float) -> tuple[Array, Array, int, Array, Facts]:
    """x = 0; the augmented matrix has n singular values damp."""
    n, r = M.shape[1], b.shape[1]
    norms = _arrays.column_norms(b)
    rank = n if damp else 0
    facts: Facts = {
        "method": "direct",
        "cond": 1.0 if rank else float("nan"),
        "backward_error": 0.0,
        "residual_norm": norms,
        "s_exact": True,
        "iterations": 0,
        "passes": 0,
        "converged": True,
        "rows": 0,
    }
    s = M.scratch(rank, real=True) + damp
    return M.scratch(n, r), norms**2, rank, s, facts


class _LstsqCall(Call[LstsqInfo]):
    def __init__(self, M: Matrix, tol: float | None, callback: LstsqCallback | None) -> None:
        super().__init__("lstsq", M, callback)
        self._tol = tol

    def _so_far(self, iteration: int, error: float) -> LstsqInfo:
        nan = float("nan")
        return LstsqInfo(
            tol=self._tol,
            method="precondition",
            rank=0,
            cond=nan,
            backward_error=error,
            residual_norm=nan,
            s_exact=False,
            iterations=iteration,
            passes=iteration,
            sketch_rows=0,
            converged=False,
            backend=self.name,
            seconds=self.seconds,
        )

    def info(self, facts: Facts, rank: int, columns: int | None) -> LstsqInfo:
        """The backend's facts as `info`; warns where the answer is not what was asked."""
        norms = np.asarray(_arrays.to_host(facts["residual_norm"]), dtype=np.float64)
        made = LstsqInfo(
            tol=self._tol,
            method=cast(str, facts["method"]),
            rank=rank,
            cond=cast(float, facts["cond"]),
            backward_error=cast(float, facts["backward_error"]),
            residual_norm=float(norms[0]) if columns is None else norms[:columns],
            s_exact=cast(bool, facts["s_exact"]),
            iterations=cast(int, facts["iterations"]),
            passes=cast(int, facts["passes"]),
            sketch_rows=cast(int, facts["rows"]),
            converged=cast(bool, facts["converged"]),
            backend=self.name,
            seconds=self.seconds,
        )
        if not made.converged and not math.isnan(made.backward_error):
            asked = "" if self._tol is None else f", asked was tol={self._tol:g}"
            self.warn(f"stopped at a backward error of {made.backward_error:.1e}{asked}")
        return made
