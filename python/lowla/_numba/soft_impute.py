"""Nuclear-norm completion: min 0.5 sum_observed (X_ij - M_ij)^2 + lam |X|_*, with a duality gap.

Mazumder, Hastie, Tibshirani 2010, "Spectral regularization algorithms for learning large incomplete
matrices", Journal of Machine Learning Research 11: X <- the soft-thresholded singular value
decomposition of P(M - X) + X, a sparse plus a low-rank matrix that only products are taken with.
Here the decomposition is one step of subspace iteration, from the right singular vectors at hand
and the leading ones of the sparse part, and between two such steps X = U V^T is improved by ridge
regressions of its rows and columns: |X|_* is the minimum of 0.5 (|U|^2 + |V|^2) over its
factorisations (Srebro, Rennie, Jaakkola 2004; Hastie, Mazumder, Lee, Zadeh 2015), so that these
descend on the same objective.
Certificate: with R = P(M - X) and theta = min(1, lam / |R|_2) the dual value
theta <R, M> - 0.5 theta^2 |R|^2 is a lower bound of the minimum. |R|_2 and the singular vectors of
R come from a Krylov space.
Cost of a round for rank r: about (2 r^2 + 20 r) |Omega| multiply-adds, O((m + n) r^2) besides;
memory: two copies of the entries, three residuals, O((m + n) r).
"""

from __future__ import annotations

import math
from typing import Any, TypedDict

import numpy as np
import scipy.sparse

from .alternating import Monitor, balanced
from .completion import safe_exponent
from .linalg import dense_svd, orth
from .matrix import Array, squared_norm, times_power_of_two
from .observations import Csr, Layout, components, layouts
from .row_solvers import residuals, ridge_rows
from .rsvd import rsvd

_FRESH = 8  # singular vectors of the sparse part that a round brings in
_SWEEPS = 3  # of ridge regressions a round


class Facts(TypedDict):
    """What `soft_impute` reports beside its factors."""

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
    gap: float


class Iterate:
    """X = U diag(s) V^T and the residual of its entries."""

    def __init__(self, rows: Layout, U: Array, s: Array, V: Array) -> None:
        self.U, self.s, self.V = U, s, V
        self.residual = residuals(rows, None, V, U * s)

    def sparse_part(self, rows: Layout) -> Any:
        shape = (len(self.U), len(self.V))
        return scipy.sparse.csr_array((self.residual, rows.indices, rows.indptr), shape=shape)


def soft_impute(
    M: Csr,
    lam: float,
    rank_max: int,
    n_iter: int,
    tol: float,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> tuple[Array, Array, Facts]:
    """U (m, r) and V (n, r), r at most rank_max and at least 1, and the facts."""
    indptr, indices, values, (m, n) = M
    if not np.isfinite(values).all():
        if check_finite:
            raise ValueError("M contains NaN or Inf")
        return np.full((m, 1), np.nan), np.full((n, 1), np.nan), _facts([], math.nan, 0, False)
    e = safe_exponent(values, even=True)
    scaled = times_power_of_two(values, -e)
    rows, cols = layouts((indptr, indices, scaled, (m, n)), None)
    lam = float(times_power_of_two(np.float64(lam), -e))
    x = Iterate(rows, np.zeros((m, 1)), np.zeros(1), np.zeros((n, 1)))
    history: list[float] = []
    gap, fresh = certified(x, rows, lam, key)
    while gap > tol and len(history) < n_iter:
        x = proximal_step(x, fresh, rows, lam, rank_max)
        x = regressed(x, rows, cols, lam)
        gap, fresh = certified(x, rows, lam, key)
        rmse = math.sqrt(squared_norm(x.residual) / len(values))
        history.append(float(times_power_of_two(np.float64(rmse), e)))
        if monitor is not None and monitor(len(history), history[-1]):
            break
    half = times_power_of_two(np.sqrt(x.s), e // 2)
    U, V = (x.U * half).astype(values.dtype), (x.V * half).astype(values.dtype)
    facts = _facts(history, gap, int(np.count_nonzero(x.s)), gap <= tol)
    norm2 = squared_norm(scaled.astype(np.float64)) or 1.0
    facts["relative_residual"] = math.sqrt(squared_norm(x.residual) / norm2)
    rmse = math.sqrt(squared_norm(x.residual) / len(values))
    facts["rmse"] = float(times_power_of_two(np.float64(rmse), e))
    facts["rows_undetermined"] = int(np.count_nonzero(rows.counts == 0))
    facts["cols_undetermined"] = int(np.count_nonzero(cols.counts == 0))
    facts["components"] = components(rows, n)
    return U, V, facts


def proximal_step(x: Iterate, fresh: Array, rows: Layout, lam: float, rank_max: int) -> Iterate:
    """Singular value thresholding of P(M - X) + X on the space of one subspace iteration."""
    S = x.sparse_part(rows)
    X = orth(np.hstack([x.V, fresh])[:, : min(S.shape)])
    left = orth(S @ X + (x.U * x.s) @ (x.V.T @ X))
    right = S.T @ left + (x.V * x.s) @ (x.U.T @ left)
    V, s, Wt = dense_svd(right)
    kept = max(1, min(rank_max, int(np.count_nonzero(s > lam))))
    s = np.maximum(s[:kept] - lam, 0.0)
    return Iterate(rows, left @ Wt.T[:, :kept], s, V[:, :kept])


def regressed(x: Iterate, rows: Layout, cols: Layout, lam: float) -> Iterate:
    """X after some sweeps of ridge regressions of its balanced factors."""
    if lam == 0.0 or not x.s[0] > 0.0:
        return x
    U, V = x.U * np.sqrt(x.s), x.V * np.sqrt(x.s)
    for _ in range(_SWEEPS):
        ridge_rows(cols, None, U, V, lam, "exact", 0)
        ridge_rows(rows, None, V, U, lam, "exact", 0)
    left, s, right = balanced(U, V)
    return Iterate(rows, left, s, right)


def certified(x: Iterate, rows: Layout, lam: float, key: int) -> tuple[float, Array]:
    """(primal - dual) / primal, and the leading right singular vectors of the sparse part.

    The gap bounds how far the objective is above the minimum.
    """
    S = x.sparse_part(rows)
    primal = 0.5 * squared_norm(x.residual) + lam * float(np.sum(x.s))
    columns = min(_FRESH, *S.shape)
    csr = (S.indptr, S.indices, S.data, S.shape)
    _, s, Vh, _ = rsvd(csr, columns, 0.0, 10, -1, "auto", "auto", key, False, None)
    if not primal > 0.0:
        return 0.0, Vh.T
    theta = min(1.0, lam / float(s[0])) if float(s[0]) > 0.0 else 1.0
    inner = float(np.sum(x.residual * rows.values))
    dual = theta * inner - 0.5 * theta**2 * squared_norm(x.residual)
    return max(primal - dual, 0.0) / primal, Vh.T


def _facts(history: list[float], gap: float, rank: int, converged: bool) -> Facts:
    return Facts(
        rmse=math.nan,
        relative_residual=math.nan,
        sweeps=len(history),
        history=history,
        converged=converged,
        solver="exact",
        rank=rank,
        rows_undetermined=0,
        cols_undetermined=0,
        components=0,
        gap=gap,
    )
