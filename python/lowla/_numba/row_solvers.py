"""Ridge regressions of all rows of observed entries on one fixed factor.

With the factor F (n, k) fixed, row i of the other one minimises, over its entries j,
    0.5 sum_j w_ij (y_ij - f_j . u)^2 + 0.5 lam |u|^2,   y_ij = value_ij - offset_j :
k unknowns, as many equations as the row has entries. Three solvers:
- exact: Gram matrix and right-hand side in one pass, then Cholesky; c k^2 / 2 + k^3 / 6
  multiply-adds for c entries. Rows with c < k are solved through the c x c matrix of the dual, at
  lam = 0 for the least-squares solution of minimum norm. A pivot at the level of rounding adds a
  ridge of 64 k u trace.
- cg: some steps of conjugate gradients from the present u, preconditioned by the diagonal of the
  Gram matrix, which is never formed; 2 c k multiply-adds a step. In the principal axes of F (where
  F^T F is diagonal) the row's Gram matrix is nearly diagonal for random patterns, so that few steps
  do (`alternating.Fit.rebalance`). Rows with c < k as above where that is less work, and always at
  lam = 0.
- nonnegative: u >= 0 by coordinate descent on the Gram matrix (Cichocki, Phan 2009, "Fast local
  algorithms for large scale nonnegative matrix and tensor factorizations"; Franc, Hlavac, Navara
  2005, "Sequential coordinate-wise algorithm for the non-negative least squares problem").
Everything is summed in float64. Memory: k^2 numbers a chunk of rows.
"""

from __future__ import annotations

import math

import numpy as np

from .matrix import Array
from .observations import Layout
from .philox import njit

_EPS = float(np.finfo(np.float64).eps)
_DUAL_ENTRIES = 16  # of a row, up to which the dual's matrix is less work than cg
_DESCENT_CYCLES = 200  # of coordinate descent a row, at most
_DESCENT_ACCURACY = 1e-14  # of a coordinate's change, relative to the largest coordinate


def ridge_rows(
    rows: Layout,
    offset: Array | None,
    F: Array,
    out: Array,
    lam: float,
    solver: str,
    cg_steps: int,
) -> None:
    """out[i] = the ridge regression of row i on F; for solver "cg" from what out[i] was."""
    if solver == "exact":
        rows.by_chunks(lambda first, last: _exact(first, last, *rows, offset, F, out, lam))
    else:
        rows.by_chunks(
            lambda first, last: _descend(first, last, *rows, offset, F, out, lam, cg_steps)
        )


def nonnegative_rows(rows: Layout, F: Array, out: Array, lam: float) -> None:
    """out[i] = the nonnegative ridge regression of row i on F, from what it was."""
    rows.by_chunks(lambda first, last: _nonnegative(first, last, *rows, None, F, out, lam))


@njit
def _normal_equations(
    begin: int,
    end: int,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    G: Array,
    b: Array,
) -> None:
    """G = lower triangle of F_i^T W F_i and b = F_i^T W y of the entries begin..end."""
    k = F.shape[1]
    b[:] = 0.0
    G[:] = 0.0
    for t in range(begin, end):
        j = indices[t]
        y = float(values[t])
        if offset is not None:
            y -= offset[j]
        for a in range(k):
            f = F[j, a]
            if weights is not None:
                f *= weights[t]
            b[a] += f * y
            for c in range(a + 1):
                G[a, c] += f * F[j, c]


@njit
def _dual_equations(
    begin: int,
    end: int,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    G: Array,
    b: Array,
) -> None:
    """G = lower triangle of A A^T and b = W^(1/2) y, A = W^(1/2) F_i, of the entries begin..end."""
    k = F.shape[1]
    for t in range(begin, end):
        j, s = indices[t], 1.0
        y = float(values[t])
        if offset is not None:
            y -= offset[j]
        if weights is not None:
            s = math.sqrt(weights[t])
        b[t - begin] = s * y
        for t2 in range(begin, t + 1):
            j2, product = indices[t2], s
            if weights is not None:
                product *= math.sqrt(weights[t2])
            dot = 0.0
            for a in range(k):
                dot += F[j, a] * F[j2, a]
            G[t - begin, t2 - begin] = product * dot


@njit
def _solved(G: Array, lam: float, size: int, L: Array, b: Array) -> bool:
    """b := (G + lam I)^-1 b by Cholesky; False, and b as it was, at a pivot lost in rounding."""
    for a in range(size):
        for c in range(a):
            x = G[a, c]
            for d in range(c):
                x -= L[a, d] * L[c, d]
            L[a, c] = x / L[c, c]
        x = G[a, a] + lam
        for d in range(a):
            x -= L[a, d] * L[a, d]
        if not x > 16.0 * size * _EPS * (G[a, a] + lam):
            return False
        L[a, a] = math.sqrt(x)
    for a in range(size):
        x = b[a]
        for c in range(a):
            x -= L[a, c] * b[c]
        b[a] = x / L[a, a]
    for a in range(size - 1, -1, -1):
        x = b[a]
        for c in range(a + 1, size):
            x -= L[c, a] * b[c]
        b[a] = x / L[a, a]
    return True


@njit
def _solve(G: Array, lam: float, size: int, L: Array, b: Array) -> None:
    """b := (G + lam I)^-1 b, with a larger ridge where that is singular to rounding."""
    trace = 0.0
    for a in range(size):
        trace += G[a, a]
    ridge = 64.0 * size * _EPS * trace
    while not _solved(G, lam, size, L, b):
        if not 0.0 < ridge < np.inf:
            b[:size] = np.nan if ridge != 0.0 else 0.0
            return
        lam += ridge
        ridge *= 16.0


@njit
def _exact_row(
    begin: int,
    end: int,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    lam: float,
    G: Array,
    L: Array,
    b: Array,
    u: Array,
) -> None:
    """u = the ridge regression of the entries begin..end, through the smaller matrix."""
    k, count = F.shape[1], end - begin
    if count >= k:
        _normal_equations(begin, end, indices, values, weights, offset, F, G, b)
        _solve(G, lam, k, L, b)
        u[:] = b
        return
    _dual_equations(begin, end, indices, values, weights, offset, F, G, b)
    _solve(G, lam, count, L, b)
    u[:] = 0.0
    for t in range(begin, end):
        x = b[t - begin]
        if weights is not None:
            x *= math.sqrt(weights[t])
        for a in range(k):
            u[a] += x * F[indices[t], a]


@njit
def _exact(
    first: int,
    last: int,
    indptr: Array,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    out: Array,
    lam: float,
) -> None:
    k = F.shape[1]
    G, L, b = np.empty((k, k)), np.empty((k, k)), np.empty(k)
    for i in range(first, last):
        begin, end = indptr[i], indptr[i + 1]
        _exact_row(begin, end, indices, values, weights, offset, F, lam, G, L, b, out[i])


@njit
def _gradient(
    begin: int,
    end: int,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    u: Array,
    r: Array,
    diagonal: Array,
) -> None:
    """r = F_i^T W (y - F_i u) and the diagonal of F_i^T W F_i."""
    k = F.shape[1]
    r[:] = 0.0
    diagonal[:] = 0.0
    for t in range(begin, end):
        j, w = indices[t], 1.0
        e = float(values[t])
        if offset is not None:
            e -= offset[j]
        if weights is not None:
            w = weights[t]
        for a in range(k):
            e -= F[j, a] * u[a]
        for a in range(k):
            f = w * F[j, a]
            r[a] += f * e
            diagonal[a] += f * F[j, a]


@njit
def _multiply(
    begin: int, end: int, indices: Array, weights: Array | None, F: Array, p: Array, q: Array
) -> None:
    """q += F_i^T W F_i p."""
    k = F.shape[1]
    for t in range(begin, end):
        j, s = indices[t], 0.0
        for a in range(k):
            s += F[j, a] * p[a]
        if weights is not None:
            s *= weights[t]
        for a in range(k):
            q[a] += s * F[j, a]


@njit
def _descend(
    first: int,
    last: int,
    indptr: Array,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    out: Array,
    lam: float,
    steps: int,
) -> None:
    """Preconditioned conjugate gradients for each row; short rows are solved exactly."""
    k = F.shape[1]
    dual = min(k - 1, _DUAL_ENTRIES) if lam > 0.0 else k - 1
    G, L, b = np.empty((k, k)), np.empty((k, k)), np.empty(k)
    r, p, q, d = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    for i in range(first, last):
        begin, end, u = indptr[i], indptr[i + 1], out[i]
        if end - begin <= dual:
            _exact_row(begin, end, indices, values, weights, offset, F, lam, G, L, b, u)
            continue
        _gradient(begin, end, indices, values, weights, offset, F, u, r, d)
        rz = 0.0
        for a in range(k):
            r[a] -= lam * u[a]
            d[a] += lam
            p[a] = r[a] / d[a] if d[a] > 0.0 else 0.0
            rz += r[a] * p[a]
        for _ in range(steps):
            if not rz > 0.0:
                break
            for a in range(k):
                q[a] = lam * p[a]
            _multiply(begin, end, indices, weights, F, p, q)
            curvature = 0.0
            for a in range(k):
                curvature += p[a] * q[a]
            if not curvature > 0.0:
                break
            alpha, before, rz = rz / curvature, rz, 0.0
            for a in range(k):
                u[a] += alpha * p[a]
                r[a] -= alpha * q[a]
                rz += r[a] * r[a] / d[a] if d[a] > 0.0 else 0.0
            for a in range(k):
                z = r[a] / d[a] if d[a] > 0.0 else 0.0
                p[a] = z + (rz / before) * p[a]


@njit
def _nonnegative(
    first: int,
    last: int,
    indptr: Array,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    out: Array,
    lam: float,
) -> None:
    """Cyclic coordinate descent for each row until its coordinates stand still."""
    k = F.shape[1]
    G, b = np.empty((k, k)), np.empty(k)
    for i in range(first, last):
        _normal_equations(indptr[i], indptr[i + 1], indices, values, weights, offset, F, G, b)
        for a in range(k):
            for c in range(a):
                G[c, a] = G[a, c]
            G[a, a] += lam
        u = out[i]
        for _ in range(_DESCENT_CYCLES):
            moved = largest = 0.0
            for a in range(k):
                x = 0.0
                if G[a, a] > 0.0:
                    slope = b[a]
                    for c in range(k):
                        slope -= G[a, c] * u[c]
                    x = max(u[a] + slope / G[a, a], 0.0)
                moved = max(moved, abs(x - u[a]))
                largest = max(largest, x)
                u[a] = x
            if moved <= _DESCENT_ACCURACY * largest:
                break


@njit
def _residuals(
    first: int,
    last: int,
    indptr: Array,
    indices: Array,
    values: Array,
    offset: Array | None,
    F: Array,
    U: Array,
    out: Array,
) -> None:
    k = F.shape[1]
    for i in range(first, last):
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            e = float(values[t])
            if offset is not None:
                e -= offset[j]
            for a in range(k):
                e -= U[i, a] * F[j, a]
            out[t] = e


def residuals(rows: Layout, offset: Array | None, F: Array, U: Array) -> Array:
    """y - f_j . u_i of every entry: one read of the entries, k multiply-adds each."""
    out = np.empty(len(rows.values))
    parts = (rows.indptr, rows.indices, rows.values, offset, F, U, out)
    rows.by_chunks(lambda first, last: _residuals(first, last, *parts))
    return out


@njit
def _robust_weights(weights: Array | None, r: Array, delta: float) -> None:
    for t in range(len(r)):
        w = 1.0
        if weights is not None:
            w = weights[t]
        r[t] = w / max(abs(r[t]), delta)


def robust_weights(weights: Array | None, r: Array, delta: float) -> Array:
    """w / max(|r|, delta), written over r: their weighted squares majorise sums of w |r|."""
    _robust_weights(weights, r, delta)
    return r


@njit
def _residual_sum(
    first: int,
    last: int,
    indptr: Array,
    indices: Array,
    values: Array,
    weights: Array | None,
    offset: Array | None,
    F: Array,
    U: Array,
) -> float:
    k = F.shape[1]
    total = 0.0
    for i in range(first, last):
        in_row = 0.0
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            e = float(values[t])
            if offset is not None:
                e -= offset[j]
            for a in range(k):
                e -= U[i, a] * F[j, a]
            in_row += e * e if weights is None else weights[t] * e * e
        total += in_row
    return total


def residual2(rows: Layout, offset: Array | None, F: Array, U: Array) -> float:
    """sum w (y - f_j . u_i)^2, without storing a residual."""
    return math.fsum(
        rows.by_chunks(lambda first, last: _residual_sum(first, last, *rows, offset, F, U))
    )


@njit
def _gradient_rows(
    first: int,
    last: int,
    indptr: Array,
    indices: Array,
    values: Array,
    weights: Array | None,
    F: Array,
    U: Array,
    out: Array,
) -> None:
    k = F.shape[1]
    diagonal = np.empty(k)
    for i in range(first, last):
        begin, end = indptr[i], indptr[i + 1]
        _gradient(begin, end, indices, values, weights, None, F, U[i], out[i], diagonal)


def gradient_rows(rows: Layout, F: Array, U: Array) -> Array:
    """F_i^T W (y - F_i u_i) for every row i: the negative gradient by U of half the squared sum."""
    out = np.empty_like(U)
    rows.by_chunks(lambda first, last: _gradient_rows(first, last, *rows, F, U, out))
    return out
