"""Alternating minimisation and scaled gradient descent for low-rank completion.

alternate: V and U in turn by ridge regressions of all columns and rows (Jain, Netrapalli, Sanghavi
2013; with inexact solves Gu, Song, Yin, Zhang 2023, arXiv:2302.11068). A ridge that falls with the
residual keeps the factors from growing where few entries determine them: it follows 0.1 G rel^2
down to reg, at most by a factor that is closer to 1 where observations are scarce (G: mean trace of
a row's Gram matrix; rel: relative residual), and halves where noise holds the residual up.
alternate_robust: the same with weights w / max(|r|, delta), iteratively reweighted least squares
for sums of |r|, and a ridge that presses small singular values to zero; delta falls by a fifth a
sweep.
descend_scaled: gradient steps preconditioned by (V^T V)^-1 and (U^T U)^-1 (Tong, Ma, Chi 2021,
arXiv:2005.08898, section 3), at a step halved where the objective rises.

Before each half sweep the factors are brought to P S^(1/2) and Q S^(1/2) of the decomposition
P S Q^T of their product: the sum of their squares is then least, and the rows' Gram matrices are
nearly diagonal. Nonnegative factors stay as they are.
Cost of a sweep: |Omega| k^2 multiply-adds (exact), 12 |Omega| k (cg), 4 |Omega| k (scaled); three
reads of the entries, six of `alternate_robust`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .linalg import dense_svd, fixed_phases
from .matrix import Array, squared_norm
from .observations import Layout
from .row_solvers import (
    gradient_rows,
    nonnegative_rows,
    residual2,
    residuals,
    ridge_rows,
    robust_weights,
)

Monitor: TypeAlias = "Callable[[int, float], bool] | None"

# Three standard deviations of a normal distribution, over the median of the magnitude.
OUTLIER = 3.0 * 1.4826
_CONTINUATION = 0.1  # ridge / (G rel^2)
_STALLED = 0.9  # a residual above this part of the last one has stopped falling
_STALLED_DECAY = 0.5  # of the ridge in a sweep, at least, where the residual has stopped falling
_SCARCE = 2.5  # observations over degrees of freedom that let the ridge fall freely
_FASTEST, _SLOWEST = 0.2, 0.7  # factor of the ridge in a sweep
_SLOWEST_RANDOM = 0.8  # after a random start
_OVER_SIGNS = 2.0  # ridge of small directions over the norm of a matrix of random signs
_FIRST_EPS = 0.5  # over the largest singular value
_SHARP = 0.05  # delta over the median of |r| below which it stays
_LEAST_RIDGE = 1e-12  # of a column over the largest
_ENOUGH = 0.1  # of tol: a residual at which the ridge may stay
_NEGLIGIBLE = 1e-15  # ridge / G
_CG_STEPS = 2
_SHARPEN = 0.8  # factor of delta in a sweep
_STEP = 0.5  # of scaled gradient descent, over the sampling rate
_SHORTEST = 1e-12  # step at which it gives up
_EPS = float(np.finfo(np.float64).eps)


class Stopped(Exception):
    """The monitor asked for the end."""


class Fit:
    """The factors, the entries by rows and by columns, and the sweeps so far.

    With `bias` the last column of U and of V holds the biases.
    """

    def __init__(
        self,
        rows: Layout,
        cols: Layout,
        U: Array,
        V: Array,
        bias: bool,
        mean: float,
        solver: str,
        monitor: Monitor,
    ) -> None:
        self.rows, self.cols, self.U, self.V = rows, cols, U, V
        self.k = U.shape[1] - bias
        self.bias, self.mean, self.solver, self.monitor = bias, mean, solver, monitor
        w = 1.0 if rows.weights is None else rows.weights
        y = rows.values - mean
        self.weight = float(np.sum(w * np.ones(len(y))))
        self.norm2 = float(np.sum(w * y * y)) or 1.0  # all zero: fitted by zero
        self.history: list[float] = []
        self.random = False  # whether the factors began at random

    @property
    def norm_of_matrix(self) -> float:
        """The Frobenius norm of a whole matrix of entries like the observed ones."""
        return math.sqrt(self.norm2 / self.weight * len(self.U) * len(self.V))

    @property
    def gram_trace(self) -> float:
        """G: the mean trace of a row's Gram matrix, for balanced factors."""
        k = self.k
        norms = math.sqrt(squared_norm(self.U[:, :k]) * squared_norm(self.V[:, :k]))
        return self.weight / (len(self.U) * len(self.V)) * norms

    def design(self, fixed: Array) -> tuple[Array, Array | None]:
        """What the other factor's rows are regressed on, and what to subtract from the values."""
        if not self.bias:
            return fixed, None
        F = fixed.copy()
        F[:, -1] = 1.0
        return F, fixed[:, -1] + self.mean

    def rebalance(self) -> Array:
        """Brings the factors to U diag(s)^(1/2), V diag(s)^(1/2) of their product's SVD; s.

        Nonnegative ones stay as they are, and s is the norms of the k terms of the product.
        """
        k = self.k
        if self.solver == "nonnegative":
            return np.asarray(np.linalg.norm(self.U, axis=0) * np.linalg.norm(self.V, axis=0))
        left, s, right = balanced(self.U[:, :k], self.V[:, :k])
        self.U[:, :k], self.V[:, :k] = left * np.sqrt(s), right * np.sqrt(s)
        return s

    def half_sweep(self, side: Layout, fixed: Array, moving: Array, ridge: Array) -> float:
        """Regresses the moving factor on the fixed one; the Frobenius norm of the change.

        ridge: one for each column; columns are scaled to have a single one.
        """
        F, offset = self.design(fixed)
        lam = float(ridge.max())
        scale = np.sqrt(np.maximum(ridge / lam, _LEAST_RIDGE)) if lam > 0.0 else np.ones(len(ridge))
        F = F / scale
        after = moving * scale
        before = after.copy()
        if self.solver == "nonnegative":
            nonnegative_rows(side, F, after, lam)
        else:
            ridge_rows(side, offset, F, after, lam, self.solver, _CG_STEPS)
        moving[:] = after / scale
        return product_norm(after - before, F)

    def sweep(self, ridge: Ridge, delta: float | None) -> float:
        """V, then U; the change of the matrix relative to its norm.

        delta: weights w / max(|r|, delta), renewed before each half, in place of w.
        """
        change = 0.0
        for side, fixed, moving in ((self.cols, self.U, self.V), (self.rows, self.V, self.U)):
            lam = ridge.of(self.rebalance())
            if self.bias:
                lam = np.append(lam, lam.min())
            weighted = side if delta is None else self.reweighted(side, fixed, moving, delta)
            change += self.half_sweep(weighted, fixed, moving, lam)
        return change / self.norm_of_matrix

    def reweighted(self, side: Layout, fixed: Array, moving: Array, delta: float) -> Layout:
        r = self.residuals(side, fixed, moving)
        return side._replace(weights=robust_weights(side.weights, r, delta))

    def residuals(self, side: Layout, fixed: Array, moving: Array) -> Array:
        """y - f_j . u_i of every entry."""
        F, offset = self.design(fixed)
        return residuals(side, offset, F, moving)

    def median_residual(self) -> float:
        return float(np.median(np.abs(self.residuals(self.rows, self.V, self.U))))

    def median_value(self) -> float:
        """A size of the values that outliers do not change; 1 if all are zero."""
        sizes = np.abs(self.rows.values - self.mean)
        return float(np.median(sizes)) or float(np.max(sizes)) or 1.0

    def relative_residual(self) -> float:
        F, offset = self.design(self.V)
        return math.sqrt(residual2(self.rows, offset, F, self.U) / self.norm2)

    def note(self, relative: float) -> None:
        """A sweep is done; Stopped if the monitor asks for the end."""
        rmse = relative * math.sqrt(self.norm2 / self.weight)
        self.history.append(rmse)
        if self.monitor is not None and self.monitor(len(self.history), rmse):
            raise Stopped


def product_norm(D: Array, F: Array) -> float:
    """||D F^T||_F."""
    return math.sqrt(max(float(np.sum((D @ (F.T @ F)) * D)), 0.0))


class Ridge:
    """The ridge of the sweeps: reg and what goes beyond it, less for large singular values.

    A direction of singular value s gets reg + beyond · eps / (s + eps): with falling eps the large
    ones are left to the data and the small ones pressed to zero, as by reweighted least squares for
    a sum of log(s + eps) (Mohan, Fazel 2012, Journal of Machine Learning Research 13).
    """

    def __init__(self, reg: float, beyond: float, eps: float) -> None:
        self.reg, self.beyond, self.eps = reg, max(beyond - reg, 0.0), eps

    def of(self, s: Array) -> Array:
        if self.beyond == 0.0 or not self.eps > 0.0:
            return np.full(len(s), self.reg)
        return np.asarray(self.reg + self.beyond / (1.0 + s / self.eps))


class Continuation:
    """The ridge 0.1 G rel^2 for squared residuals, as far as it may fall in a sweep."""

    def __init__(self, fit: Fit, reg: float, relative: float, enough: float) -> None:
        self.reg, self.gram_trace, self.enough = reg, fit.gram_trace, enough
        self.slowest = slowest_decay(fit)
        self.last = min(relative, 1.0)
        self.lam = _CONTINUATION * self.gram_trace * self.last**2

    @property
    def down(self) -> bool:
        """Whether only reg is left."""
        return self.lam <= max(self.reg, _NEGLIGIBLE * self.gram_trace)

    @property
    def ridge(self) -> Ridge:
        return Ridge(self.reg, 0.0 if self.down else self.lam, math.inf)

    def update(self, relative: float) -> None:
        if relative <= self.enough:  # directions without data, if any, are better left as they are
            return
        goal = _CONTINUATION * self.gram_trace * relative**2
        if relative > _STALLED * self.last:
            goal = min(goal, _STALLED_DECAY * self.lam)
        self.last = relative
        self.lam = max(min(goal, self.lam), self.slowest * self.lam)


def slowest_decay(fit: Fit) -> float:
    """The factor by which the ridge may fall in a sweep: by observations per degree of freedom."""
    if fit.random:
        return _SLOWEST_RANDOM
    freedom: int = fit.k * (len(fit.U) + len(fit.V) - fit.k)
    return min(max(_SCARCE * freedom / len(fit.rows.values), _FASTEST), _SLOWEST)


def alternate(fit: Fit, reg: float, n_iter: int, tol: float) -> bool:
    """Sweeps until the matrix moves by at most tol; whether it got there."""
    continuation = Continuation(fit, reg, fit.relative_residual(), _ENOUGH * tol)
    for _ in range(n_iter):
        change = fit.sweep(continuation.ridge, None)
        relative = fit.relative_residual()
        fit.note(relative)
        if change <= tol and (continuation.down or relative <= tol):
            return True
        continuation.update(relative)
    return False


def alternate_robust(fit: Fit, reg: float, n_iter: int, tol: float) -> bool:
    """`alternate` for the sum of |r|: delta, and the eps of the ridge, fall together.

    The ridge of small singular values is twice the spectral norm that random signs at the observed
    entries have: outliers cannot hold a direction against it.
    """
    size, relative = fit.median_value(), fit.median_residual()
    relative /= size
    delta = max(OUTLIER * relative, tol) * size
    beyond = _OVER_SIGNS * math.sqrt(fit.weight / min(len(fit.U), len(fit.V)))
    eps = _FIRST_EPS * float(fit.rebalance().max())
    for _ in range(n_iter):
        change = fit.sweep(Ridge(reg, beyond, eps), delta)
        relative = fit.median_residual() / size
        fit.note(fit.relative_residual())
        least = max(tol, _SHARP * relative) * size
        if change <= tol and (delta <= least or relative <= tol):
            return True
        delta = max(_SHARPEN * delta, least)
        eps *= _SHARPEN
    return False


def descend_scaled(fit: Fit, reg: float, n_iter: int, tol: float) -> bool:
    """Scaled gradient descent on both factors at once."""
    m, n = len(fit.U), len(fit.V)
    rate = fit.weight / (m * n)
    step, best = _STEP, objective(fit, reg)
    for _ in range(n_iter):
        grad_U = gradient_rows(fit.rows, fit.V, fit.U) - reg * fit.U
        grad_V = gradient_rows(fit.cols, fit.U, fit.V) - reg * fit.V
        U, V = fit.U, fit.V
        to_U = solved_gram(V, reg / rate, grad_U) / rate
        to_V = solved_gram(U, reg / rate, grad_V) / rate
        while True:
            fit.U, fit.V = U + step * to_U, V + step * to_V
            value = objective(fit, reg)
            if value <= best:
                break
            step *= 0.5
            if step < _SHORTEST:
                fit.U, fit.V = U, V
                return fit.relative_residual() <= tol
        best = value
        relative = fit.relative_residual()
        fit.note(relative)
        change = step * (product_norm(to_U, V) + product_norm(to_V, U)) / fit.norm_of_matrix
        if change <= tol * step:
            return True
    return False


def objective(fit: Fit, reg: float) -> float:
    loss = residual2(fit.rows, None, fit.V, fit.U)
    return 0.5 * loss + 0.5 * reg * (squared_norm(fit.U) + squared_norm(fit.V))


def solved_gram(F: Array, shift: float, B: Array) -> Array:
    """B (F^T F + shift I)^-1, on the range of F."""
    s, Q = np.linalg.eigh(F.T @ F)
    s = s + shift
    kept = s > len(s) * _EPS * max(float(s[-1]), 0.0)
    return np.asarray((B @ Q[:, kept]) / s[kept] @ Q[:, kept].T)


def balanced(U: Array, V: Array) -> tuple[Array, Array, Array]:
    """Left and right singular vectors of U V^T and its singular values, without forming it."""
    Qu, Ru = np.linalg.qr(U)
    Qv, Rv = np.linalg.qr(V)
    left, s, right = dense_svd(Ru @ Rv.T)
    signed, phases = fixed_phases(Qu @ left, np.float64)
    return signed, s, (Qv @ right.T) * phases
