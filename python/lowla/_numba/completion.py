"""Low-rank completion M ≈ U V^T (+ mean and biases) from observed entries.

Minimised is
    0.5 sum_(ij observed) w_ij (mean + a_i + b_j + u_i . v_j - M_ij)^2
        + 0.5 reg (|U|^2 + |V|^2 + |a|^2 + |b|^2),
or, with loss "l1", the same with |r| in place of 0.5 r^2, by the iterations of `alternating`. They
begin at the leading singular vectors of the observations with zeros elsewhere, over the sampling
rate, long rows clipped (Jain, Netrapalli, Sanghavi 2013, algorithm 2; for "l1" large values are
clipped before), at random, or at given factors. They end at the factors P S^(1/2) and Q S^(1/2) of
the singular value decomposition P S Q^T of their product: of all factors of that product those with
the least |U|^2 + |V|^2. Entries and weights whose squares might leave the range of float64 are
scaled by powers of two.
Cost: one randomized SVD of the observations, some dozens of sweeps. Memory: two copies of indices
and values (of the weights too), 4 (m + n) k numbers, for "l1" three more numbers an entry.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypedDict

import numpy as np

from .alternating import (
    OUTLIER,
    Fit,
    Monitor,
    Stopped,
    alternate,
    alternate_robust,
    balanced,
    descend_scaled,
)
from .linalg import rank_of
from .matrix import Array, exponent_of, times_power_of_two
from .observations import Csr, Layout, components, layouts
from .philox import STREAM_FACTORS, njit, random_normal
from .rsvd import rsvd

Completion: TypeAlias = "tuple[Array, Array, float, Array | None, Array | None, Facts]"

_CLIP = 8.0  # largest squared row norm of the start over their mean
_LEAST_START = 1e-3  # smallest singular value of the start over the largest
_STIR = 1e-3  # of normal numbers in the start, over its size
_EXACT_RANK = 32  # up to it "auto" takes the exact solver
_SAFE_EXPONENT = 200  # of two: entries and weights within it either way are taken as they are


class Facts(TypedDict):
    """What a completion reports beside its factors."""

    rmse: float
    relative_residual: float
    sweeps: int
    history: list[float]
    converged: bool
    solver: str
    rank: int
    rows_undetermined: int
    cols_undetermined: int
    components: int


def spectral_start(rows: Layout, n: int, k: int, key: int, robust: bool) -> tuple[Array, Array]:
    """Balanced factors of the best rank-k approximation of the rescaled observations, clipped."""
    m = len(rows.counts)
    values = rows.values if rows.weights is None else rows.values * rows.weights
    total = len(values) if rows.weights is None else float(np.sum(rows.weights))
    if robust:
        limit = OUTLIER * float(np.median(np.abs(values)))
        values = np.clip(values, -limit, limit) if limit > 0.0 else values
    scaled = np.asarray(values * (m * n / total), dtype=np.float64)
    csr = (rows.indptr, rows.indices, scaled, (m, n))
    U, s, Vh, _ = rsvd(csr, k, 0.0, 10, -1, "auto", "auto", key, False, None)
    root = np.sqrt(np.maximum(s, _LEAST_START * s[0]))
    return stirred(clipped(U) * root, clipped(Vh.T) * root, key)


def stirred(U: Array, V: Array, key: int) -> tuple[Array, Array]:
    """The factors with a little of everything: a row that is zero in a column would stay so."""
    both = random_normal(key, STREAM_FACTORS, len(U) + len(V), U.shape[1], "float64")
    little = [_STIR * np.linalg.norm(X) / math.sqrt(X.size) for X in (U, V)]
    return U + little[0] * both[: len(U)], V + little[1] * both[len(U) :]


def clipped(U: Array) -> Array:
    """Rows far longer than the others, shortened: the start is to be incoherent."""
    norms = np.linalg.norm(U, axis=1)
    limit = math.sqrt(_CLIP * float(np.mean(norms**2)))
    return np.asarray(U * np.minimum(1.0, limit / np.maximum(norms, limit))[:, None])


def random_start(rms: float, m: int, n: int, k: int, key: int) -> tuple[Array, Array]:
    """Normal factors whose product has entries of about that size."""
    both = random_normal(key, STREAM_FACTORS, m + n, k, "float64")
    both = both * math.sqrt(rms / math.sqrt(k))
    return both[:m], both[m:]


def started(
    rows: Layout,
    n: int,
    k: int,
    init: str,
    given: tuple[Array, Array] | None,
    key: int,
    robust: bool,
    nonnegative: bool,
    mean: float,
) -> tuple[Array, Array]:
    """The first factors; those given are copied."""
    if given is not None:
        U, V = given
    elif init == "random":
        rms = math.sqrt(float(np.mean(np.square(rows.values - mean, dtype=np.float64))))
        U, V = random_start(rms, len(rows.counts), n, k, key)
    else:
        centred = rows if mean == 0.0 else rows._replace(values=rows.values - mean)
        U, V = spectral_start(centred, n, k, key, robust)
    if nonnegative:
        U, V = np.abs(U), np.abs(V)
    return np.array(U, dtype=np.float64, order="C"), np.array(V, dtype=np.float64, order="C")


def complete(
    M: Csr,
    weights: Array | None,
    k: int,
    method: str,
    loss: str,
    solver: str,
    bias: bool,
    nonnegative: bool,
    reg: float,
    n_iter: int,
    tol: float,
    init: str,
    U0: Array | None,
    V0: Array | None,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> Completion:
    """U (m, k), V (n, k), the mean, row and column biases (or 0 and None), and the facts.

    M: CSR without duplicates, every stored entry observed. weights: > 0, one for each, or None.
    init "given": from U0 and V0, with `bias` one column wider, for the biases.
    """
    indptr, indices, values, (m, n) = M
    if not np.isfinite(values).all():
        if check_finite:
            raise ValueError("M contains NaN or Inf")
        return unknown(m, n, k, values.dtype, bias)
    e, f = safe_exponent(values, even=True), 0 if weights is None else safe_exponent(weights)
    if e and bias:
        largest = float(np.max(np.abs(values)))
        raise ValueError(
            f"bias=True needs entries of M within 1e-60..1e60 in magnitude, got {largest:g}"
        )
    scaled = times_power_of_two(values, -e)
    heavy = None if weights is None else times_power_of_two(weights, -f)
    rows, cols = layouts((indptr, indices, scaled, (m, n)), heavy)
    robust = loss == "l1"
    mean = centre(rows, robust) if bias else 0.0
    given = None
    if U0 is not None and V0 is not None:
        given = times_power_of_two(U0, -e // 2), times_power_of_two(V0, -e // 2)
    U, V = started(rows, n, k, init, given, key, robust, nonnegative, mean)
    if bias and given is None:
        U, V = (np.hstack([X, np.zeros((len(X), 1))]) for X in (U, V))
    chosen = "nonnegative" if nonnegative else chosen_solver(solver, k)
    fit = Fit(rows, cols, U, V, bias, mean, chosen, monitor)
    fit.random = init == "random"
    ridge = float(times_power_of_two(np.float64(reg), -f if robust else -e - f))
    solve = descend_scaled if method == "scaled_gd" else alternate
    accuracy = max(tol, 16.0 * float(np.finfo(values.dtype).eps))
    try:
        converged = (alternate_robust if robust else solve)(fit, ridge, n_iter, accuracy)
    except Stopped:
        converged = False
    if method == "scaled_gd":
        fit.solver = "gradient"
    return finished(fit, values.dtype, e, converged, nonnegative)


def safe_exponent(values: Array, even: bool = False) -> int:
    """An exponent of two to divide by, other than 0 only where squares might leave the range."""
    largest = float(np.max(np.abs(values))) if len(values) else 0.0
    if largest == 0.0 or 2.0**-_SAFE_EXPONENT < largest < 2.0**_SAFE_EXPONENT:
        return 0
    e = exponent_of(largest)
    return e + e % 2 if even else e


def centre(rows: Layout, robust: bool) -> float:
    """The weighted mean of the values, their median where outliers are expected."""
    if robust:
        return float(np.median(rows.values))
    return float(np.average(np.asarray(rows.values, np.float64), weights=rows.weights))


def chosen_solver(solver: str, k: int) -> str:
    if solver != "auto":
        return solver
    return "exact" if k <= _EXACT_RANK else "cg"


def finished(fit: Fit, dtype: Any, e: int, converged: bool, nonnegative: bool) -> Completion:
    """The factors balanced, in the units and the dtype of M, and what is measured of them."""
    k = fit.k
    U, V = fit.U[:, :k], fit.V[:, :k]
    finite = bool(np.isfinite(fit.U).all() and np.isfinite(fit.V).all())
    if not finite:
        m, n = len(U), len(V)
        return unknown(m, n, k, dtype, fit.bias)
    left, s, right = balanced(U, V)
    if not nonnegative:
        U, V = left * np.sqrt(s), right * np.sqrt(s)
    with np.errstate(over="ignore", under="ignore"):
        U, V = (times_power_of_two(X, e // 2).astype(dtype) for X in (U, V))
    biases: tuple[Array | None, Array | None] = None, None
    if fit.bias:
        biases = fit.U[:, k].astype(dtype), fit.V[:, k].astype(dtype)
        fit.U[:, k], fit.V[:, k] = biases
    fit.U[:, :k], fit.V[:, :k] = (times_power_of_two(X.astype(float), -e // 2) for X in (U, V))
    relative = fit.relative_residual()
    rmse = times_power_of_two(np.float64(relative * math.sqrt(fit.norm2 / fit.weight)), e)
    facts = Facts(
        rmse=float(rmse),
        relative_residual=relative,
        sweeps=len(fit.history),
        history=[float(times_power_of_two(np.float64(x), e)) for x in fit.history],
        converged=converged,
        solver=fit.solver,
        rank=rank_of(s.astype(dtype), len(U), len(V)),
        rows_undetermined=int(np.count_nonzero(fit.rows.counts < k)),
        cols_undetermined=int(np.count_nonzero(fit.cols.counts < k)),
        components=components(fit.rows, len(V)),
    )
    return U, V, fit.mean, *biases, facts


def unknown(m: int, n: int, k: int, dtype: Any, bias: bool) -> Completion:
    """Factors full of NaN."""
    nan = math.nan
    facts = Facts(
        rmse=nan,
        relative_residual=nan,
        sweeps=0,
        history=[],
        converged=False,
        solver="none",
        rank=0,
        rows_undetermined=0,
        cols_undetermined=0,
        components=0,
    )
    U, V = (np.full((size, k), nan, dtype) for size in (m, n))
    if not bias:
        return U, V, 0.0, None, None, facts
    return U, V, nan, np.full(m, nan, dtype), np.full(n, nan, dtype), facts


def completion_svd(U: Array, V: Array) -> tuple[Array, Array, Array]:
    """The singular value decomposition of U V^T: U (m, k), s (k,), Vh (k, n)."""
    left, s, right = balanced(U.astype(np.float64), V.astype(np.float64))
    return left.astype(U.dtype), s.astype(U.dtype), np.ascontiguousarray(right.T).astype(U.dtype)


def completion_predict(
    U: Array,
    V: Array,
    mean: float,
    row_bias: Array | None,
    col_bias: Array | None,
    rows: Array,
    cols: Array,
) -> Array:
    """mean + a_i + b_j + u_i . v_j for pairs of indices (two vectors of one length)."""
    out = np.empty(len(rows))
    _predict(U, V, rows, cols, out)
    if row_bias is not None and col_bias is not None:
        out += (row_bias[rows].astype(np.float64) + col_bias[cols]) + mean
    return out.astype(U.dtype)


@njit
def _predict(U: Array, V: Array, rows: Array, cols: Array, out: Array) -> None:
    for t in range(len(rows)):
        i, j, total = rows[t], cols[t], 0.0
        for a in range(U.shape[1]):
            total += float(U[i, a]) * float(V[j, a])
        out[t] = total


def completion_rmse(
    M: Csr,
    weights: Array | None,
    U: Array,
    V: Array,
    mean: float,
    row_bias: Array | None,
    col_bias: Array | None,
) -> float:
    """sqrt(sum w r^2 / sum w) over the stored entries."""
    indptr, indices, values, (m, _) = M
    rows = np.repeat(np.arange(m), np.diff(indptr))
    predicted = completion_predict(U, V, mean, row_bias, col_bias, rows, indices)
    r = values.astype(np.float64) - predicted
    top = float(np.max(np.abs(r), initial=0.0))
    if not top > 0.0:
        return top
    return top * math.sqrt(float(np.average((r / top) ** 2, weights=weights)))
