"""Entropic optimal transport by an annealed Sinkhorn-Newton iteration on the semi-dual.

min <P, C> + reg sum P (log P - 1) subject to P 1 = a, P^T 1 = b has P_ij = exp((f_i + g_j - C_ij) /
reg). For a given g one read of C yields the f that makes the row sums a, and the column sums c(g)
of that plan (`transport.fitted_rows`). What is left is concave in g alone: the semi-dual
psi(g) = a^T f(g) + b^T g with gradient b - c and Hessian -(D(c) - P^T D(1/a) P) / reg, the Schur
complement of the Hessian in f and g. From one such read follows either
- Sinkhorn's step g += reg log(b / c) (Sinkhorn 1967; Cuturi 2013), or
- Newton's, with P thresholded so that the dropped mass is below a tenth of the error (Tang,
  Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao, Ying 2024, arXiv:2401.12253), by conjugate
  gradients to a tolerance that falls with the error, with Levenberg-Marquardt damping.
Both are taken in stages of reg halving from a sixteenth of the spread of C, g extrapolated from
stage to stage (Schmitzer 2019, section 3.3; Kemertas, Jepson, Farahmand 2023, arXiv:2307.08507).
Cost: a few dozen reads of C with one exponential an entry, and O(entries kept) a step of conjugate
gradients; memory O((m + n) chunks + entries kept).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np

from .matrix import Array
from .philox import njit
from .transport import (
    Cost,
    Extent,
    Sparse,
    cost_of,
    extent,
    fitted_rows,
    log_column_sums,
    sparse_plan,
    transport_sums,
)

Monitor: TypeAlias = "Callable[[int, float], bool] | None"

_FIRST_STAGE = 16.0  # the spread of C over reg in the first stage
_STAGE_ERROR = 3e-3  # of the stages before the last
_STAGE_STEPS = 30  # of Newton in such a stage
_WARMUP = 5  # Sinkhorn steps a stage
_DROPPED = 0.1  # mass that Newton's matrix may lack, over the error
_ARMIJO = 1e-4
_HALVINGS = 6
_LONGEST_STEP = 8.0  # of g / reg, before longer ones have gained
_UNSEEN = 1e-2  # of the error, on average over the columns: mass without influence on it
_DEPLETED = 0.1  # columns with less than this part of their mass are not Newton's to judge
_LEAST_DAMPING, _MOST_DAMPING = 1e-8, 1.0
_CG_STEPS = 500
_CG_ACCURACY = 1e-6
_AT_ROUNDING = 5  # steps without gain that end it at the level of rounding
_PATIENCE = 40  # Newton steps in which the error has to halve
_REJECTED = 4  # Newton steps without gain, one after another, until scaling takes over
_FEW_SWEEPS = 60.0  # up to so many by the contraction bound "auto" scales
_POINT_ENTRIES, _MORE_ENTRIES = 64, 1 << 20  # of Newton's matrix for each point, and beside that
_GOOD_START = 0.1  # error from which an initial guess is taken at reg itself
_LARGEST_COST = 1e290
_LARGEST_RATIO = 1e15  # of the spread of C to reg: beyond it f + g - C has no digits left
_FAR_FROM_ONE = 100.0  # of the logarithm of the mass
_SLACK = 0.9  # of tol, for the rounding of the certificate
_EPS = float(np.finfo(np.float64).eps)


class Facts(TypedDict):
    """What a transport solver reports beside the potentials."""

    marginal_error: float
    value: float
    value_linear: float
    sweeps: int
    newton_steps: int
    cg_iterations: int
    converged: bool
    method: str
    fallback: bool
    density: float


class State(NamedTuple):
    """g, the f that fits the rows, the column sums c, and |c - b|_1, at a temperature eps."""

    f: Array
    g: Array
    c: Array
    error: float
    eps: float


class Stopped(Exception):
    """The monitor asked for the end, or the reads of C are used up."""


class Solver:
    """The iteration, for positive weights of sum 1; `state` is the last one reached."""

    state: State

    def __init__(
        self,
        cost: Cost,
        log_a: Array,
        log_b: Array,
        warmup: int,
        most_entries: float,
        max_iter: int,
        monitor: Monitor,
    ) -> None:
        self.cost, self.log_a, self.log_b = cost, log_a, log_b
        self.a, self.b = np.exp(log_a), np.exp(log_b)
        self.per_a = 1.0 / np.maximum(self.a, np.finfo(np.float64).tiny)
        self.warmup, self.most_entries = warmup, most_entries
        self.left, self.monitor = max_iter, monitor
        self.sweeps = self.newton_steps = self.cg_iterations = 0
        self.density, self.fallback = 0.0, False
        self.damping, self.longest = 0.0, _LONGEST_STEP

    def at(self, f: Array, g: Array, eps: float) -> State:
        """The state of g: one read of C; f is a guess."""
        if self.left == 0:
            raise Stopped
        self.left -= 1
        return self.fitted(f, g, eps)

    def fitted(self, f: Array, g: Array, eps: float) -> State:
        self.sweeps += 1
        rows = fitted_rows(self.cost, self.a, self.log_a, f, g, eps)
        return State(rows.f, g, rows.c, float(np.abs(rows.c - self.b).sum()), eps)

    def reach(self, s: State) -> State:
        self.state = s
        if self.monitor is not None and self.monitor(self.sweeps, s.error):
            raise Stopped
        return s

    def scaled(self, s: State) -> State:
        """Sinkhorn's step."""
        log_c = log_column_sums(self.cost, s.f, s.g, s.c, s.eps)
        return self.reach(self.at(s.f, s.g + s.eps * (self.log_b - log_c), s.eps))

    def scale(self, s: State, tol: float, steps: float) -> State:
        """Sinkhorn's steps until the error is at most tol, or there were so many."""
        best, since, k = s.error, 0, 0
        while s.error > tol and k < steps and not (since > _AT_ROUNDING and best <= rounding(s)):
            s = self.scaled(s)
            since = 0 if s.error < best else since + 1
            best, k = min(best, s.error), k + 1
        return s

    def newton_matrix(self, s: State) -> Sparse:
        """The plan without its small entries, whose mass is at most a tenth of the error."""
        m, n = self.cost.shape
        threshold = _DROPPED * min(s.error, 1.0) / (m * n)
        P = sparse_plan(self.cost, s.f, s.g, s.eps, threshold, self.most_entries)
        while P is None:
            threshold *= 8.0
            P = sparse_plan(self.cost, s.f, s.g, s.eps, threshold, self.most_entries)
        self.density = len(P.data) / (m * n)
        return P

    def direction(self, s: State) -> Array:
        """Newton's direction for g / eps, of weighted mean 0."""
        P = self.newton_matrix(s)
        # A nearly empty column's share c of the diagonal would let g leap by (b - c) / c.
        diagonal = np.where(s.c > _DEPLETED * self.b, s.c, self.b)
        diagonal *= 1.0 + self.damping + rounding(s)
        accuracy = max(min(0.1, s.error), _CG_ACCURACY)
        p, steps = solve_schur(P, self.per_a, diagonal, self.b - s.c, accuracy)
        self.newton_steps += 1
        self.cg_iterations += steps
        p -= self.b @ p
        # Conjugate gradients do not see columns whose whole mass is below the accuracy.
        unseen = np.maximum(s.c, self.b) < _UNSEEN * s.error / len(p)
        return np.where(unseen, np.clip(p, -1.0, 1.0), p)

    def newton(self, s: State) -> State | None:
        """Newton's step, shortened until it gains; None if it does not."""
        p = self.direction(s)
        slope = float(p @ (self.b - s.c))
        size = max(float(np.abs(p).max()), 1.0)
        t = min(1.0, self.longest / size)
        for halvings in range(_HALVINGS):
            trial = self.at(s.f, s.g + t * s.eps * p, s.eps)
            gain = float(self.a @ (trial.f - s.f) + self.b @ (trial.g - s.g)) / s.eps
            # psi / eps is large beside its changes, which drown in rounding before the error does.
            if gain >= _ARMIJO * t * slope or trial.error < 0.5 * s.error:
                self.damp(less=halvings == 0)
                # Between groups of rows and columns that hardly exchange mass psi is almost linear.
                growth = 4.0 if halvings == 0 and t < 1.0 else 1.0
                self.longest = max(_LONGEST_STEP, growth * min(t * size, self.longest))
                return self.reach(trial)
            t *= 0.5
        self.damp(less=False)
        self.longest = _LONGEST_STEP
        return None

    def damp(self, *, less: bool) -> None:
        if less:
            self.damping = 0.25 * self.damping if self.damping > _LEAST_DAMPING else 0.0
        else:
            self.damping = min(max(2.0 * self.damping, 1e-4), _MOST_DAMPING)

    def stage(self, s: State, tol: float, newton_steps: float) -> State:
        """Sinkhorn's steps, then Newton's to an error of tol, while they gain."""
        s = self.scale(s, tol, self.warmup)
        rejected, since, best, k = 0, 0, s.error, 0
        while s.error > tol and k < newton_steps:
            trial = self.newton(s)
            rejected = rejected + 1 if trial is None else 0
            s = self.scale(s, tol, self.warmup + 1) if trial is None else trial
            k, since = k + 1, since + 1
            if s.error <= 0.5 * best:
                best, since = s.error, 0
            patience = _AT_ROUNDING if best <= rounding(s) else _PATIENCE
            if rejected == _REJECTED or since > patience:
                break
        return s

    def anneal(self, s: State, reg: float, tol: float, newton_steps: int) -> State:
        """Stages down to reg, each from potentials extrapolated linearly in eps."""
        past: State | None = None
        while s.eps > reg:
            s = self.stage(s, max(_STAGE_ERROR, tol), newton_steps)
            below = max(0.5 * s.eps, reg)
            if past is None:  # f - eps log a, to first order, is what f is at eps = 0
                f = s.f + (below - s.eps) * self.log_a
                g = s.g + (below - s.eps) * self.log_b
            else:
                ratio = (below - s.eps) / (s.eps - past.eps)
                f, g = s.f + ratio * (s.f - past.f), s.g + ratio * (s.g - past.g)
            past, s = s, self.reach(self.at(f, g, below))
        return s

    def solve(self, s: State, reg: float, tol: float, newton: bool) -> None:
        """From a state at any temperature to one at reg, by both steps or by Sinkhorn's alone."""
        s = self.reach(s)
        s = self.anneal(s, reg, tol, _STAGE_STEPS if newton else 0)
        if newton:
            s = self.stage(s, tol, math.inf)
            self.fallback = bool(s.error > max(tol, rounding(s)))
        self.scale(s, tol, math.inf)


def rounding(s: State) -> float:
    """The error that the rounding of f + g - C may account for."""
    return 4.0 * _EPS * (1.0 + float(np.abs(s.f).max() + np.abs(s.g).max()) / s.eps)


@njit
def _schur_product(
    indptr: Array, indices: Array, data: Array, per_a: Array, p: Array, out: Array
) -> None:
    """out -= P^T D(1/a) P p: one read of P."""
    for i in range(len(per_a)):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k] * p[indices[k]]
        total *= per_a[i]
        for k in range(indptr[i], indptr[i + 1]):
            out[indices[k]] -= total * data[k]


@njit
def _schur_diagonal(indptr: Array, indices: Array, data: Array, per_a: Array, out: Array) -> None:
    """out -= the diagonal of P^T D(1/a) P."""
    for i in range(len(per_a)):
        for k in range(indptr[i], indptr[i + 1]):
            out[indices[k]] -= data[k] * data[k] * per_a[i]


def solve_schur(
    P: Sparse, per_a: Array, diagonal: Array, rhs: Array, accuracy: float
) -> tuple[Array, int]:
    """p with (D - P^T D(1/a) P) p = rhs to a relative residual in L1, and the steps taken.

    Conjugate gradients preconditioned by the diagonal; what they have after a limited number of
    steps is an ascent direction as well.
    """
    M = diagonal.copy()
    _schur_diagonal(*P, per_a, M)
    floor = 1e-12 * diagonal
    M = np.maximum(M, np.maximum(floor, np.finfo(np.float64).tiny))
    p, r = np.zeros(len(rhs)), rhs.copy()
    z = r / M
    direction, rz = z, float(r @ z)
    enough = accuracy * float(np.abs(rhs).sum())
    for step in range(_CG_STEPS):
        if float(np.abs(r).sum()) <= enough or not rz > 0.0:
            return p, step
        product = diagonal * direction
        _schur_product(*P, per_a, direction, product)
        curvature = float(direction @ product)
        if not curvature > 0.0:
            return (p if step else z), step
        alpha = rz / curvature
        p = p + alpha * direction
        r = r - alpha * product
        z = r / M
        rz, before = float(r @ z), rz
        direction = z + (rz / before) * direction
    return p, _CG_STEPS


def sinkhorn(
    a: Array,
    b: Array,
    cost: Any,
    reg: float,
    method: str,
    tol: float,
    max_iter: int,
    warmup: int,
    sparsity: float,
    f0: Array | None,
    g0: Array | None,
    check_finite: bool,
    monitor: Monitor,
) -> tuple[Array, Array, Facts]:
    """f (m,), g (n,) and the facts, for weights >= 0 of equal, positive sums.

    cost: C (m, n) or (X, Y, metric). warmup: Sinkhorn's steps a stage, -1 for the default, 0 for no
    stages. sparsity: largest part of the plan that Newton's matrix keeps, -1 for the default. Rows
    and columns without weight are left out; their potentials are -inf.
    """
    whole = cost_of(cost)
    found = extent(whole)
    if found.invalid:
        if check_finite:
            raise ValueError("C contains NaN or -inf")
        return np.full(len(a), np.nan), np.full(len(b), np.nan), _unknown()
    rows, columns = np.flatnonzero(a > 0.0), np.flatnonzero(b > 0.0)
    inner = whole
    if len(rows) < len(a) or len(columns) < len(b):
        inner = whole.only(rows, columns)
        found = extent(inner)
    require_solvable(found, reg, rows, columns)
    spread = found.largest - found.least
    taken = chosen_method(method, spread / reg, tol) if not found.forbidden else method
    newton = taken != "sinkhorn"
    s = Solver(
        inner,
        normalized_logs(a[rows]),
        normalized_logs(b[columns]),
        (_WARMUP if newton else 0) if warmup < 0 else warmup,
        most_entries(cost, inner.shape, sparsity),
        max_iter,
        monitor,
    )
    with np.errstate(under="ignore"):
        run(
            s,
            None if f0 is None or g0 is None else (f0[rows], g0[columns]),
            max(spread / _FIRST_STAGE, reg) if min(inner.shape) > 1 else reg,
            reg,
            _SLACK * tol,
            newton,
        )
        f, g = np.full(len(a), -np.inf), np.full(len(b), -np.inf)
        f[rows], g[columns] = in_gauge(s, math.log(mass(a)) * reg)
        return f, g, facts_of(s, a[rows], b[columns], f[rows], g[columns], reg, tol, newton)


def run(
    s: Solver,
    start: tuple[Array, Array] | None,
    first: float,
    reg: float,
    tol: float,
    newton: bool,
) -> None:
    """Solves from a guess where it is good, else through the stages from `first` on."""
    try:
        if start is not None:
            state = s.at(*start, reg)
            if state.error <= _GOOD_START or not s.warmup:
                s.solve(state, reg, tol, newton)
                return
        if not s.warmup:
            first = reg
        s.solve(s.at(first * s.log_a, first * s.log_b, first), reg, tol, newton)
    except Stopped:
        if s.state.eps != reg:
            s.state = s.fitted(s.state.f, s.state.g, reg)


def require_solvable(found: Extent, reg: float, rows: Array, columns: Array) -> None:
    """ValueError for costs out of range, and weights that can go nowhere."""
    for name, empty, kept in (
        ("row", found.empty_rows, rows),
        ("column", found.empty_columns, columns),
    ):
        if empty.any():
            raise ValueError(
                f"C must have a finite cost in every {name} of positive weight, got only inf in "
                f"{name} {int(kept[np.argmax(empty)])}"
            )
    largest = max(abs(found.least), abs(found.largest))
    if not largest <= _LARGEST_COST:
        raise ValueError(f"costs must be at most {_LARGEST_COST:g} in magnitude, got {largest:.3g}")
    spread = found.largest - found.least
    if not spread <= _LARGEST_RATIO * reg:
        raise ValueError(
            f"reg must be at least {1 / _LARGEST_RATIO:g} times the spread of the costs = "
            f"{spread:.3g}, got {reg:g}"
        )


def chosen_method(method: str, ratio: float, tol: float) -> str:
    """For "auto" Sinkhorn's steps where few are sure to do, by contraction in Hilbert's metric.

    The factor of a full iteration is at most tanh(ratio / 2)^2 (Franklin and Lorenz 1989).
    """
    if method != "auto":
        return method
    rate = math.tanh(0.5 * ratio) ** 2
    enough = rate == 0.0 or math.log(tol) >= _FEW_SWEEPS * math.log(rate)
    return "sinkhorn" if enough else "newton"


def most_entries(cost: Any, shape: tuple[int, int], sparsity: float) -> float:
    """The number of entries of the plan that Newton's matrix may have."""
    if sparsity > 0.0:
        return max(sparsity * shape[0] * shape[1], float(sum(shape)))
    return _POINT_ENTRIES * sum(shape) + _MORE_ENTRIES if isinstance(cost, tuple) else math.inf


def mass(weights: Array) -> float:
    """The sum of the weights; their range is that of float64."""
    top = float(weights.max())
    return top * float(np.sum(weights / top))


def normalized_logs(weights: Array) -> Array:
    return np.asarray(np.log(weights) - math.log(mass(weights)))


def in_gauge(s: Solver, shift: float) -> tuple[Array, Array]:
    """f and g with equal weighted means; `shift` = reg log(mass) is added to their sum."""
    f, g = s.state.f, s.state.g
    middle = 0.5 * (float(s.a @ f) - float(s.b @ g))
    return f - (middle - 0.5 * shift), g + (middle + 0.5 * shift)


def facts_of(
    s: Solver,
    a: Array,
    b: Array,
    f: Array,
    g: Array,
    reg: float,
    tol: float,
    newton: bool,
) -> Facts:
    """The facts of the potentials as they are returned, from one more read of C."""
    total = mass(a)
    far = abs(math.log(total)) > _FAR_FROM_ONE  # then entries of P may leave the range of exp
    unit = total if far else 1.0
    sums = transport_sums(s.cost, f - reg * math.log(unit), g, reg)
    a, b = a / unit, b / mass(b) * (total / unit)
    error = float(np.abs(sums.rows - a).sum() + np.abs(sums.columns - b).sum()) / (total / unit)
    return Facts(
        marginal_error=error,
        value=unit * (float(a @ f) + float(b @ g) - reg * sums.mass),
        value_linear=unit * sums.linear,
        sweeps=s.sweeps,
        newton_steps=s.newton_steps,
        cg_iterations=s.cg_iterations,
        converged=error <= tol,
        method="newton" if newton else "sinkhorn",
        fallback=s.fallback,
        density=s.density,
    )


def _unknown() -> Facts:
    nan = math.nan
    return Facts(
        marginal_error=nan,
        value=nan,
        value_linear=nan,
        sweeps=0,
        newton_steps=0,
        cg_iterations=0,
        converged=False,
        method="none",
        fallback=False,
        density=0.0,
    )
