"""Randomized SVD: block Krylov, subspace iteration, single pass, fixed tolerance, streaming.

krylov: block Krylov space of A^H A (Musco and Musco 2015; RBKI of Tropp and Webber 2023), one read
of A a step, full orthogonalisation; the SVD of A restricted to the space. subspace: Halko,
Martinsson and Tropp 2011, Algorithms 4.4 and 5.1, with the last read shared by A X and A^H (A X).
single_pass: Yu et al. 2017, certified by the identity or by the leave-one-out estimate (Epperly
and Tropp 2024). tol: the Krylov space grows until the smallest sufficient rank is known.

Cost: 4 m n b flops a read of b columns, 4 m d^2 + 4 n d^2 for a basis of d vectors; memory
(m + n) d numbers. Certificate: ||A - U S V^H||_F^2 = ||A||_F^2 - sum s_i^2, an identity as U S V^H
is a projection of A; one more read measures the residual where that difference cancels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .linalg import (
    Facts,
    certificate,
    complete,
    dense_svd,
    fixed_phases,
    identity_floor,
    nan_facts,
    orth,
    orth_against,
    rank_of,
    residual_spectral_norm,
    rounded,
    scaled_back,
    tall_svd,
)
from .matrix import (
    Array,
    Matrix,
    NotFiniteError,
    adjoint,
    open_matrix,
    squared_norm,
    times_power_of_two,
)
from .sketch import csr_matrix, start_block

Monitor: TypeAlias = Callable[[int, float], bool] | None
Svd: TypeAlias = tuple[Array, Array, Array, Facts]
_T = TypeVar("_T")
_Arguments = ParamSpec("_Arguments")

_SUBSPACE_READS = 4  # power steps of method "subspace" unless given
_GROWTH_BLOCK = 16  # columns a step for a given tolerance


@dataclass
class Projection:
    """The SVD U diag(s) V^H of the part of the (tall) A that a range finder captured."""

    U: Array
    s: Array
    V: Array
    method: Literal["krylov", "subspace", "single_pass", "direct"]
    iterations: int
    complete: bool = True  # False where the monitor ended it
    rest: tuple[float, float] | None = None  # ||A - U S V^H||_F^2 and ||A||_F^2 where known


def first_read(
    matrix: Matrix,
    read: Callable[_Arguments, _T],
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _T:
    """The first product with A: repeated if it shows that A has to be rescaled."""
    call = functools.partial(read, *arguments, **options)
    result = call()
    return call() if matrix.rescale() else result


def refine_floor(matrix: Matrix) -> float:
    """sigma_i / sigma_1 below which products with A^H A lose the direction: 64 sqrt(u)."""
    return float(64.0 * np.sqrt(matrix.unit_roundoff))


def krylov_plan(k: int, n_iter: int, oversample: int) -> tuple[int, int]:
    """Block size and number of fused reads."""
    block = 16 * math.ceil(k / 56)
    if n_iter < 0:
        return block, 4 + math.ceil((k - block // 4) / block)
    needed = math.ceil((k + oversample) / (n_iter + 1))
    return max(block, 16 * math.ceil(needed / 16)), n_iter


def krylov_space(
    matrix: Matrix, start: Array, last: int | None, separate: bool
) -> Iterator[tuple[Array, Array]]:
    """Orthonormal P and Y = A P after each step; P spans start, A^H A start, ...

    Step `last` reads A once for Y only; None goes on as long as the caller does. `separate` forms
    A^H Q with an orthonormal Q instead of A^H (A P): two reads a step (the block Golub-Kahan form),
    accurate for singular values down to u sigma_1 instead of sqrt(u) sigma_1.
    """
    P = block = orth(start.astype(matrix.work_dtype))
    Y = Q = np.empty((matrix.shape[0], 0), dtype=matrix.work_dtype)
    for step in itertools.count():
        half = separate or step == last
        product: Callable[[Array], Any] = matrix.matmat if half else matrix.fused
        products = first_read(matrix, product, block) if step == 0 else product(block)
        image = products if half else products[0]
        Y = np.hstack([Y, image])
        yield P, Y
        if step == last:
            return
        if separate:
            new = orth_against(Q, image)
            Q = np.hstack([Q, new])
            W = matrix.rmatmat(new)
        else:
            W = products[1]
        block = orth_against(P, W)
        P = np.hstack([P, block])


def refined(matrix: Matrix, Y: Array) -> tuple[Array, Array]:
    """Orthonormal P and Y = A P after two steps of orthogonal iteration from range(Y)."""
    for _ in range(2):
        P = orth(matrix.rmatmat(orth(Y)))
        Y = matrix.matmat(P)
    return P, Y


def needs_refining(matrix: Matrix, s: Array, k: int) -> bool:
    """Whether one of the k values lies where fused products are inaccurate, above rounding."""
    wanted = s[:k] / s[0] if s[0] > 0.0 else np.zeros(0)
    lost = (wanted < refine_floor(matrix)) & (wanted > 10.0 * matrix.unit_roundoff)
    return bool(lost.any())


def ritz_error(matrix: Matrix, Y: Array, k: int) -> float:
    """Relative error of the best rank-k factors in the space so far; NaN where ||A|| is unknown."""
    if not matrix.norm2:
        return 0.0 if matrix.norm2 == 0.0 else float("nan")
    values = np.linalg.eigvalsh(adjoint(Y) @ Y)[::-1]
    return float(np.sqrt(max(matrix.norm2 - values[:k].sum(), 0.0) / matrix.norm2))


def restricted_svd(P: Array, Y: Array) -> tuple[Array, Array, Array]:
    """U, s, V of A P P^H from Y = A P."""
    U, s, Wh = tall_svd(Y)
    return U, s, P @ adjoint(Wh)


def _direct(matrix: Matrix) -> Projection:
    A = first_read(matrix, matrix.to_dense)
    U, s, Vh = dense_svd(A)
    return Projection(U, s, adjoint(Vh), "direct", 0)


def _krylov(
    matrix: Matrix, k: int, oversample: int, n_iter: int, sketch: str, key: int, monitor: Monitor
) -> Projection:
    n = matrix.shape[1]
    block, last = krylov_plan(k, n_iter, oversample)
    if (last + 1) * block >= n:
        return _direct(matrix)
    stopped = False
    start = start_block(sketch, key, n, block)
    for step, space in enumerate(krylov_space(matrix, start, last, separate=False)):
        P, Y = space
        if monitor is not None and monitor(step + 1, ritz_error(matrix, Y, k)):
            stopped = Y.shape[1] >= k
            if stopped:
                break
    U, s, V = restricted_svd(P, Y)
    if not stopped and needs_refining(matrix, s, k):
        P, Y = refined(matrix, Y)
        U, s, V = restricted_svd(P, Y)
    return Projection(U, s, V, "krylov", step, not stopped)


def _subspace(
    matrix: Matrix, k: int, oversample: int, n_iter: int, sketch: str, key: int, monitor: Monitor
) -> Projection:
    n = matrix.shape[1]
    power = _SUBSPACE_READS if n_iter < 0 else n_iter
    start = start_block(sketch, key, n, min(k + oversample, n))
    X = orth(start.astype(matrix.work_dtype))
    stopped = False
    for step in range(power + 1):
        Y, Z = first_read(matrix, matrix.fused, X) if step == 0 else matrix.fused(X)
        stopped = bool(monitor is not None and monitor(step + 1, ritz_error(matrix, Y, k)))
        if stopped or step == power:
            break
        X = orth(Z)
    Q, R = np.linalg.qr(Y)
    if np.linalg.cond(R) < matrix.unit_roundoff**-0.25:
        projected = adjoint(scipy.linalg.solve_triangular(R, adjoint(Z), trans="C"))
    else:
        projected = matrix.rmatmat(Q)  # Z R^-1 would lose cond(R) u
    V, s, Wh = tall_svd(projected)
    U = Q @ adjoint(Wh)
    if power > 0 and not stopped and needs_refining(matrix, s, k):
        U, s, V = restricted_svd(*refined(matrix, Y))
    return Projection(U, s, V, "subspace", step, not stopped or step == power)


def single_pass_svd(
    Y: Array, Z: Array, norm2: float, gain: float, u: float
) -> tuple[Array, Array, Array, float]:
    """U, s, V of Q Q^H A, Q spanning Y, from Y = A X and Z = A^H Y; the squared error beside Q.

    Q^H A = R^-H Z^H loses u ||A|| ||Y|| / sigma_i(Y) in the i-th left singular direction of Y, u
    the unit roundoff of Z, so that directions below sqrt(u) ||Y|| are left out. `gain` is the mean
    of ||x^H X||^2 over unit vectors x.
    """
    U_Y, values, Wh = dense_svd(Y)
    kept = values > np.sqrt(u) * values[0]
    if not kept.any():
        return U_Y[:, kept], values[kept], Z[:, :0], 0.0
    projected = (Z @ adjoint(Wh[kept])) / values[kept]
    V, s, Th = dense_svd(projected)
    lost2 = (u / 4) ** 2 * norm2 * float(np.sum((values[0] / values[kept]) ** 2))
    lost2 += float(np.sum(values[~kept] ** 2)) / gain
    return U_Y[:, kept] @ adjoint(Th), s, V, lost2


def leave_one_out2(Y: Array) -> float:
    """Unbiased estimate of ||A - Q Q^H A||_F^2 for one sketch column less (Epperly, Tropp 2024).

    Y = A X with standard normal X; 0 where Y is rank-deficient.
    """
    R = np.linalg.qr(Y)[1]
    if R.shape[0] < R.shape[1] or not np.abs(np.diag(R)).min() > 0.0:
        return 0.0
    inverse = scipy.linalg.solve_triangular(R, np.eye(R.shape[0], dtype=R.dtype))
    rows = np.linalg.norm(inverse, axis=1)
    return float(np.mean(rows**-2.0))


def _single_pass(
    matrix: Matrix, k: int, oversample: int, sketch: str, key: int, monitor: Monitor
) -> tuple[Projection, float | None]:
    """The projection and, where the identity cannot certify it, its leave-one-out error^2."""
    n = matrix.shape[1]
    columns = min(k + max(oversample, k), n)
    start = start_block(sketch, key, n, columns).astype(matrix.work_dtype)
    X, mixing = np.linalg.qr(start)
    Y, Z = first_read(matrix, matrix.fused, X)
    if columns == n:  # A = Y X^H
        U, s, V = restricted_svd(X, Y)
        return Projection(U, s, V, "single_pass", 1), 0.0
    U, s, V, lost2 = single_pass_svd(
        Y, Z, matrix.norm2 or squared_norm(Y), columns / n, matrix.unit_roundoff
    )
    p = Projection(complete(U, k), _padded(s, k), complete(V, k), "single_pass", 1)
    if monitor is not None:
        monitor(1, float("nan"))
    if matrix.norm2 is not None:
        left2 = matrix.norm2 - float(s @ s)
        if left2 > identity_floor(matrix) ** 2 * matrix.norm2:
            return p, None
    return p, leave_one_out2(Y @ mixing) + lost2


def _padded(s: Array, length: int) -> Array:
    return np.concatenate([s, np.zeros(max(0, length - s.size))])


def _tail_sums(s: Array) -> Array:
    """sum_{i >= j} s_i^2 for j = 0..len(s), smallest first."""
    return np.concatenate([np.cumsum(s[::-1] ** 2)[::-1], [0.0]])


def _captured_tail2(matrix: Matrix, p: Projection, tol: float) -> tuple[float, float]:
    """||A - U diag(s) V^H||_F^2 of a whole projection, accurate beside tol^2 ||A||^2, and ||A||^2.

    The identity is off by about 50 u ||A||^2; where that matters the residual is measured.
    """
    if matrix.norm2 is not None and 5e4 * matrix.unit_roundoff < tol**2:
        return max(matrix.norm2 - float(p.s @ p.s), 0.0), matrix.norm2
    return matrix.residual2(p.U, p.s, adjoint(p.V), p.V)


def _rounding2(matrix: Matrix, norm2: float) -> float:
    """A squared residual that more directions may not lower."""
    return (1e3 * matrix.unit_roundoff) ** 2 * norm2


def _smallest_rank(tails: Array, allowed: float) -> int:
    """The smallest rank >= 1 whose tail is allowed, len(tails) if there is none."""
    return max(1, int(np.count_nonzero(tails > allowed)))


@dataclass
class _RankSearch:
    """Decides when a growing space has settled the smallest rank that reaches a tolerance.

    With rho^2 = ||A - A P P^H||_F^2, rank j leaves rho^2 + sum_{i>j} s_i^2, while no rank-j matrix
    leaves less than sum_{i>j} s_i^2 (Ky Fan): the two counts enclose the optimal rank. Where the
    enclosure stays wide (slow decay) the search ends when a step moved the leading sum by less than
    a quarter of the last value kept.
    """

    target: float
    previous: Array | None = None
    previous_tail2: float = np.inf

    def settled(self, s: Array, tail2: float, norm2: float, rounding2: float) -> bool:
        tails = _tail_sums(s)
        allowed = self.target**2 * norm2
        rank = _smallest_rank(tails + tail2, allowed)
        stagnant = 0.25 * self.previous_tail2 < tail2 < rounding2
        before, self.previous, self.previous_tail2 = self.previous, s, tail2
        if rank > s.size:
            return stagnant
        if rank - _smallest_rank(tails, allowed) <= 1:
            return True
        if before is None or before.size < rank:
            return False
        gain = float(np.sum(s[:rank] ** 2 - before[:rank] ** 2))
        return gain < 0.25 * float(s[rank - 1]) ** 2


def _adaptive(
    matrix: Matrix, k: int, tol: float, oversample: int, sketch: str, key: int, monitor: Monitor
) -> Projection:
    """A Krylov space large enough for `tol`, or for rank k if that is given and met first."""
    n = matrix.shape[1]
    target = max(tol, 0.5 * matrix.output_eps)
    block, last = krylov_plan(k, -1, oversample) if k else (_GROWTH_BLOCK, n)
    if 2 * block >= n:
        return _direct(matrix)
    search = _RankSearch(target)
    separate = target < refine_floor(matrix)
    start = start_block(sketch, key, n, block)
    for step, (P, Y) in enumerate(krylov_space(matrix, start, last, separate)):
        p: Projection | None = None
        error = float("nan")
        done = False
        if matrix.norm2 == 0.0:
            error, done = 0.0, True
        elif matrix.norm2 is not None:
            rest = max(1.0 - squared_norm(Y) / matrix.norm2, 0.0)
            error = float(np.sqrt(rest))
        if not done and not error**2 > target**2 + 50.0 * matrix.unit_roundoff:
            p = Projection(*restricted_svd(P, Y), "krylov", step + 1)
            p.rest = tail2, norm2 = _captured_tail2(matrix, p, target)
            error = float(np.sqrt(tail2 / norm2)) if norm2 > 0.0 else 0.0
            done = norm2 == 0.0 or search.settled(p.s, tail2, norm2, _rounding2(matrix, norm2))
        stopped = bool(monitor is not None and monitor(step + 1, error))
        if done or stopped or step == last:
            if p is None:
                p = Projection(*restricted_svd(P, Y), "krylov", step + 1)
            p.complete = not stopped
            return p
        if 2 * (Y.shape[1] + block) > n:
            return _direct(matrix)
    raise AssertionError("the Krylov space has no last step")


def _chosen_rank(matrix: Matrix, p: Projection, k: int, tol: float, known2: float | None) -> int:
    """The smallest rank (at most k, if given) within tol."""
    limit = min(k, p.s.size) if k else p.s.size
    if tol == 0.0 or matrix.norm2 == 0.0:
        return limit if tol == 0.0 else 1
    target = max(tol, 0.5 * matrix.output_eps)
    if p.method == "direct":
        tail2, norm2 = 0.0, float(p.s @ p.s)
    elif p.rest is not None:
        tail2, norm2 = p.rest
    elif known2 is not None:
        tail2, norm2 = known2, matrix.norm2 or float(p.s @ p.s) + known2
    else:
        tail2, norm2 = _captured_tail2(matrix, p, target)
    rank = _smallest_rank(_tail_sums(p.s) + tail2, target**2 * norm2)
    if rank > p.s.size and tail2 < _rounding2(matrix, norm2):
        rank = _smallest_rank(_tail_sums(p.s), tail2)  # the rest is rounding
    return min(rank, limit)


@dataclass
class _Factors:
    """Rounded factors of A, and the same of the tall, scaled matrix in the work dtype."""

    U: Array
    s: Array
    Vh: Array
    tall: tuple[Array, Array, Array]


def _factors(matrix: Matrix, p: Projection, rank: int) -> _Factors:
    """Rank-`rank` factors: orientation, phases, scale and dtype of the input."""
    U, V = (p.V, p.U) if matrix.swapped else (p.U, p.V)
    left, phases = fixed_phases(U[:, :rank], matrix.dtype)
    Vh = rounded(phases[:, None] * adjoint(V[:, :rank]), matrix.dtype)
    s = scaled_back(p.s[:rank], matrix)
    wide = matrix.work_dtype
    U_work, Vh_work = left.astype(wide), Vh.astype(wide)
    if matrix.swapped:
        U_work, Vh_work = adjoint(Vh_work), adjoint(U_work)
    s_work = times_power_of_two(s.astype(np.float64), matrix.exponent)
    return _Factors(left, s, Vh, (U_work, s_work, Vh_work))


def _spectral_error(matrix: Matrix, p: Projection, f: _Factors, error: float) -> float:
    """Estimate of ||A - U S Vh||_2 / ||A||_2: the next Ritz value, or power steps on the residual.

    Capped by the Frobenius error, which is an upper bound.
    """
    largest = float(p.s[0])
    if not largest > 0.0:
        return 0.0
    norm = np.sqrt(matrix.norm2) if matrix.norm2 is not None else np.linalg.norm(p.s)
    cap = float(error * norm / largest)
    rank = f.s.size
    if p.s.size > rank:
        estimate = float(p.s[rank]) / largest
    elif rank == matrix.shape[1] or p.method == "single_pass":
        return cap
    else:
        estimate = residual_spectral_norm(matrix, *f.tall) / largest
    return min(estimate, cap)


def _error(matrix: Matrix, p: Projection, f: _Factors, known2: float | None) -> tuple[float, str]:
    """Relative Frobenius error of the rounded factors, and how it was found."""
    rank = f.s.size
    dropped2 = float(p.s[rank:] @ p.s[rank:])
    if known2 is not None:  # single pass: A is not read again
        norm2 = matrix.norm2 if matrix.norm2 is not None else float(p.s @ p.s) + known2
        if norm2 == 0.0:
            return 0.0, "exact"
        rounding2 = 0.25 * matrix.output_eps**2
        error = float(np.sqrt((known2 + dropped2) / norm2 + rounding2))
        return error, "leave-one-out" if known2 > 0.0 else "exact"
    tail2 = None
    if matrix.norm2 is not None and p.method != "direct":
        tail2 = matrix.norm2 - float(p.s[:rank] @ p.s[:rank])
    return certificate(matrix, f.tall, p.V, tail2)


def _finish(matrix: Matrix, p: Projection, k: int, tol: float, known2: float | None) -> Svd:
    rank = _chosen_rank(matrix, p, k, tol, known2)
    limit = min(k, p.s.size) if k else p.s.size
    f = _factors(matrix, p, rank)
    error, error_method = _error(matrix, p, f, known2)
    while tol > 0.0 and tol < error < 1.5 * tol and rank < limit:  # lost to rounding only
        rank += 1
        f = _factors(matrix, p, rank)
        error, error_method = _error(matrix, p, f, known2)
    facts = Facts(
        error=error,
        error_method=error_method,
        spectral_error=_spectral_error(matrix, p, f, error),
        passes=0,
        iterations=p.iterations,
        converged=p.complete and (tol == 0.0 or error <= tol),
        method=p.method,
        basis=p.s.size,
        rank=rank_of(f.s, *matrix.shape),
    )
    facts["passes"] = matrix.passes
    return f.U, f.s, f.Vh, facts


def _nan_svd(matrix: Matrix, k: int, method: str) -> Svd:
    m, n = matrix.shape[::-1] if matrix.swapped else matrix.shape
    k = max(k, 1)
    real = np.empty(0, dtype=matrix.dtype).real.dtype
    return (
        np.full((m, k), np.nan, dtype=matrix.dtype),
        np.full(k, np.nan, dtype=real),
        np.full((k, n), np.nan, dtype=matrix.dtype),
        nan_facts(method),
    )


def rsvd(
    A: Any,
    k: int,
    tol: float,
    oversample: int,
    n_iter: int,
    method: str,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> Svd:
    """Truncated SVD: U (m, k), s (k,), Vh (k, n) and the facts about them."""
    kind = "sjlt" if sketch == "sjlt" else "gaussian"
    known2: float | None = None
    with np.errstate(all="ignore"):
        matrix = open_matrix(A)
        try:
            if method == "single_pass" and k:
                p, known2 = _single_pass(matrix, k, oversample, kind, key, monitor)
            elif k and (method == "subspace" or (method == "auto" and n_iter == 0)):
                p = _subspace(matrix, k, oversample, n_iter, kind, key, monitor)
            elif tol > 0.0:
                p = _adaptive(matrix, k, tol, oversample, kind, key, monitor)
            else:
                p = _krylov(matrix, k, oversample, n_iter, kind, key, monitor)
            return _finish(matrix, p, k, tol, known2)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return _nan_svd(matrix, k, method)


def rsvd_stacked(
    A: Array,
    k: int,
    oversample: int,
    n_iter: int,
    method: str,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """`rsvd` of every matrix of a stack (batch, m, n); the facts are arrays (batch,)."""
    results = [
        rsvd(matrix, k, 0.0, oversample, n_iter, method, sketch, key, check_finite, monitor)
        for matrix in A
    ]
    U, s, Vh, every = zip(*results, strict=True)
    all_facts = cast("tuple[dict[str, Any], ...]", every)
    facts = {name: np.array([f[name] for f in all_facts]) for name in all_facts[0]}
    return np.stack(U), np.stack(s), np.stack(Vh), facts


def stream_pass(A: Any, X: Array) -> tuple[Array, Array, float]:
    """Y = A X in the dtype of A, Z = A^H Y in double precision, and ||A||_F^2, for some rows A.

    Z belongs to the rounded Y, so that A^H Q = Z R^-1 holds for Y = Q R whatever the dtype.
    """
    with np.errstate(all="ignore"):
        if isinstance(A, tuple):
            wide_A = csr_matrix(A).toarray().astype(_double(A[2].dtype), copy=False)
            dtype = A[2].dtype
        else:
            wide_A = A.astype(_double(A.dtype), copy=False)
            dtype = A.dtype
        Y = rounded(wide_A @ X.astype(wide_A.dtype), dtype)
        Z = adjoint(wide_A) @ Y.astype(wide_A.dtype)
        return Y, Z, squared_norm(wide_A)


def _double(dtype: npt.DTypeLike) -> npt.DTypeLike:
    return np.complex128 if np.dtype(dtype).kind == "c" else np.float64


def stream_finish(Y: Array, Z: Array, norm2: float, k: int) -> Svd:
    """Single-pass SVD from Y (m, l) and Z (n, l) added up over all rows."""
    wide = _double(Y.dtype)
    with np.errstate(all="ignore"):
        if not np.isfinite(norm2) or not np.isfinite(Z).all():
            raise ValueError(str(NotFiniteError()))
        Y_wide = Y.astype(wide)
        u = float(np.finfo(Z.dtype).eps)
        # E ||Y||_F^2 = l ||A||_F^2 for standard normal X: finds the scale of X.
        columns = Y.shape[1]
        scale = np.sqrt(squared_norm(Y_wide) / (columns * norm2)) if norm2 > 0.0 else 1.0
        gain = float(columns * scale**2)
        U, s, V, lost2 = single_pass_svd(Y_wide, Z.astype(wide), norm2, gain, u)
        found = min(k, s.size)
        left, phases = fixed_phases(complete(U[:, :found], k), Y.dtype)
        Vh = rounded(phases[:, None] * adjoint(complete(V[:, :found], k)), Y.dtype)
        kept = _padded(s[:found], k)
        values = rounded(kept, left.real.dtype)
        error, error_method = 0.0, "exact"
        if norm2 > 0.0:
            left2 = (norm2 - float(kept @ kept)) / norm2
            error_method = "identity"
            if left2 < 5e3 * u:
                missed2 = leave_one_out2(Y_wide / scale) + lost2
                missed2 += float(s[found:] @ s[found:])
                left2 = missed2 / norm2 + 0.25 * float(np.finfo(Y.dtype).eps) ** 2
                error_method = "leave-one-out"
            error = float(np.sqrt(left2))
        cap = error * np.sqrt(norm2) / kept[0] if kept[0] > 0.0 else 0.0
        following = s[k] / s[0] if s.size > k else cap
    facts = Facts(
        error=error,
        error_method=error_method,
        spectral_error=float(min(following, cap)),
        passes=1,
        iterations=1,
        converged=True,
        method="single_pass",
        basis=Y.shape[1],
        rank=rank_of(values, Y.shape[0], Z.shape[0]),
    )
    return left, values, Vh, facts
