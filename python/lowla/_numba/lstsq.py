"""Least squares min ||A x - b||^2 + damp^2 ||x||^2.

direct: TSQR of [A b] by blocks of rows, then the SVD of the small triangle (minimum norm).
precondition, dense and tall: R0 of a sketch S A makes A R0^-1 well-conditioned (Rokhlin and Tygert
2008), so that the Cholesky factor R1 of its Gram matrix is accurate, A (R1 R0)^-1 is orthonormal to
rounding, and steps of x += R^-1 R^-H A^H (b - A x) reach the backward error of Householder QR.
precondition, sparse and operators: conjugate gradients on A P, restarted from the true residual
(SPIR of Epperly, Meyer, Nakatsukasa, "Fast randomized least-squares solvers can be just as accurate
and stable as classical direct solvers", 2024). Wide A: x = A^H y with A A^H y = b, the same way.
sketch: min ||S (A x - b)||.

With damp > 0, A stands for [A; damp I] and b for [b; 0] throughout. The tall view of A is called B:
B = A, or A^H where A is wide. Cost for m x n: direct 2 m n^2 flops; precondition 2 m n^2 and about
five reads (dense), or 8 nnz a conjugate gradient step; sketch one read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .linalg import dense_svd, rounded
from .matrix import (
    Array,
    Matrix,
    NotFiniteError,
    adjoint,
    exponent_of,
    open_matrix,
    times_power_of_two,
)
from .sketch import csr_matrix, embed, real_dtype

Monitor: TypeAlias = Callable[[int, float], bool] | None

_SAFE_EXPONENT = 300  # largest entries within 2^+-300 leave room for squares of norms
_SAFE_EXPONENT_SINGLE = 90  # float32 is sketched in float32
_MARGIN = 10.0  # singular values of the sketch this close to the rank decision leave it to `direct`
_EMBEDDED = 1e-4  # the Gram matrix of a preconditioned A has eigenvalues within 1/36 and 36
_REFINEMENTS = 8
_PRECONDITIONER_NONZEROS = 4  # a column of a sjlt: cond(A P) is 7 at most, 6 with eight
_CG_STEPS = 200
_CG_REDUCTION = 1e-10  # of the preconditioned gradient, between two restarts
_CG_RESTARTS = 6
_OPERATOR_BLOCK = 256  # rows of S that an operator is applied to at a time
_SMALL = 1 << 18  # entries of A below which "auto" does not sketch


class Facts(TypedDict):
    """What a least-squares solver reports beside its results."""

    method: str
    cond: float
    backward_error: float
    residual_norm: Array
    s_exact: bool
    iterations: int
    passes: int
    converged: bool
    rows: int


Lstsq: TypeAlias = tuple[Array, Array, int, Array, Facts]


@dataclass
class Problem:
    """The scaled problem B x = b (or B^H x = b where `matrix.swapped`), and how to scale back."""

    payload: Any  # scaled A as a backend argument
    matrix: Matrix
    b: Array
    damp: float
    rcond: float
    a_exponent: int
    b_exponent: int
    dtype: np.dtype[Any]
    target: float  # backward error that ends an iteration
    accepted: float  # backward error that counts as converged
    least_steps: int  # refinements before the target may end it

    @property
    def wide(self) -> bool:
        return self.matrix.swapped

    @property
    def unknowns(self) -> int:
        return self.matrix.shape[0 if self.wide else 1]


@dataclass
class Solution:
    """x, and the singular values and right singular vectors (of B) that judge it."""

    x: Array
    s: Array
    Vh: Array
    rank: int
    method: str
    s_exact: bool
    iterations: int = 0
    rows: int = 0
    y: Array | None = None  # x = A^H y, where A is wide
    certificate: tuple[float, Array] | None = None  # backward error and ||b - A x||


# --- scaling and intake --------------------------------------------------------------------------


def safe_exponent(entries: Array, name: str) -> int:
    """e such that entries 2^e are in the safe range; 0 where they are already."""
    largest = float(np.abs(entries).max(initial=0.0))
    if not np.isfinite(largest):
        raise NotFiniteError(name)
    safe = _SAFE_EXPONENT_SINGLE if entries.dtype.itemsize <= 4 else _SAFE_EXPONENT
    if entries.dtype == np.complex64:
        safe = _SAFE_EXPONENT_SINGLE
    exponent = exponent_of(largest) if largest > 0.0 else 0
    return 0 if abs(exponent) <= safe else -exponent


def _double(dtype: npt.DTypeLike) -> npt.DTypeLike:
    return np.complex128 if np.dtype(dtype).kind == "c" else np.float64


def safe_payload(A: Any) -> tuple[Any, int]:
    """A 2^e (a copy in double precision), or A itself where its entries are in the safe range."""
    if isinstance(A, np.ndarray):
        exponent = safe_exponent(A, "A")
        if exponent:
            A = times_power_of_two(A.astype(_double(A.dtype)), exponent)
        return A, exponent
    if isinstance(A, tuple):
        indptr, indices, data, shape = A
        data = data[: int(indptr[-1])]
        exponent = safe_exponent(data, "A")
        if exponent:
            data = times_power_of_two(data.astype(_double(data.dtype)), exponent)
        return (indptr, indices, data, shape), exponent
    return A, 0


def open_problem(A: Any, b: Array, rcond: float, damp: float, tol: float) -> Problem:
    """The problem with entries in the safe range; raises NotFiniteError."""
    payload, exponent = safe_payload(A)
    matrix = open_matrix(payload)
    if matrix.kind == "operator":
        matrix.rescale()
        exponent = matrix.exponent
        probe = np.full((matrix.shape[0], 1), matrix.shape[0] ** -0.5, dtype=matrix.work_dtype)
        if not np.isfinite(matrix.rmatmat(probe)).all():
            raise NotFiniteError
    wide_b = b.astype(_double(b.dtype))
    b_exponent = safe_exponent(wide_b, "b")
    eps = float(np.finfo(b.dtype).eps)
    return Problem(
        payload=payload,
        matrix=matrix,
        b=times_power_of_two(wide_b, b_exponent),
        damp=float(times_power_of_two(np.float64(damp), exponent)),
        rcond=rcond,
        a_exponent=exponent,
        b_exponent=b_exponent,
        dtype=b.dtype,
        target=tol if tol > 0.0 else 0.5 * eps,
        accepted=tol if tol > 0.0 else 50.0 * eps,
        least_steps=0 if tol > 0.0 else 2,
    )


# --- the certificate -----------------------------------------------------------------------------


def representable(p: Problem, x: Array) -> Array:
    """x in the precision of the results, so that what is measured is what is returned."""
    return x.astype(p.dtype).astype(x.dtype)


def residuals(p: Problem, x: Array, y: Array | None) -> tuple[Array, Array]:
    """r = b - A x and the gradient g = A^H r - damp^2 x: one read of a dense A.

    Where A is wide, and x = A^H y, instead g = r - damp^2 y.
    """
    if y is not None:
        r = p.b - p.matrix.rmatmat(x)
        return r, r - p.damp**2 * y
    r, g = p.matrix.residual(p.b, x)
    return r, g - p.damp**2 * x


def backward_error(p: Problem, x: Array, r: Array, g: Array, s: Array, Vh: Array) -> float:
    """The relative backward error of x, the worst column.

    The estimate of Karlson and Walden 1997 for min ||[dA, theta db]||_F / ||A||_F with
    theta = ||A||_F / ||b||, within sqrt(2) of the optimum (Gratton, Jiranek, Titley-Peloquin
    2012). It needs the gradient in the right singular vectors of A: V^H g, and where A is wide,
    with B = U diag(sigma) V^H, U^H B g = diag(sigma) V^H g.
    """
    norm_A = float(np.linalg.norm(s))
    kept = s[: len(Vh)]
    if norm_A == 0.0 or kept.size == 0:
        return 0.0
    projected = np.abs(Vh @ g)
    if p.wide:
        projected *= np.sqrt(np.maximum(kept**2 - p.damp**2, 0.0))[:, None]
    worst = 0.0
    norm_x, norm_b = np.linalg.norm(x, axis=0), np.linalg.norm(p.b, axis=0)
    norm_r = np.hypot(np.linalg.norm(r, axis=0), p.damp * norm_x)
    for j in np.flatnonzero(norm_b > 0.0):
        theta2 = (norm_A / norm_b[j]) ** 2
        shrink = 1.0 + theta2 * norm_x[j] ** 2
        weights = kept**2 + theta2 * norm_r[j] ** 2 / shrink
        terms = projected[weights > 0.0, j] / np.sqrt(weights[weights > 0.0])
        eta = np.sqrt(theta2 / shrink) * float(np.linalg.norm(terms))
        worst = max(worst, eta / norm_A)
    return float(worst)


# --- direct --------------------------------------------------------------------------------------


def rank_of(s: Array, rcond: float) -> int:
    """The number of singular values above rcond times the largest."""
    return int(np.count_nonzero(s > rcond * s[0])) if s.size and s[0] > 0.0 else 0


def triangle(X: Array) -> Array:
    """The R of X = Q R."""
    return np.asarray(np.linalg.qr(X, mode="r"))


def tsqr(matrix: Matrix, b: Array | None, damp: float) -> Array:
    """The triangular factor of [B b; damp I 0], one read."""
    n = matrix.shape[1]
    columns = n if b is None else n + b.shape[1]
    R = np.zeros((n if damp > 0.0 else 0, columns), dtype=matrix.work_dtype)
    np.fill_diagonal(R, damp)
    for rows, block in matrix.blocks(2 * columns):
        whole = block if b is None else np.hstack([block, b[rows]])
        R = triangle(np.vstack([R, whole]))
    return R


def _direct_tall(p: Problem) -> Solution:
    n = p.matrix.shape[1]
    R = tsqr(p.matrix, p.b, p.damp)
    U, s, Vh = dense_svd(R[:n, :n])
    k = rank_of(s, p.rcond)
    x = adjoint(Vh[:k]) @ (adjoint(U[:, :k]) @ R[:n, n:] / s[:k, None])
    if p.matrix.kind != "operator":  # whose products may be worse than the triangle
        x = corrected(p, x, s[:k], Vh[:k])
    return Solution(x, s, Vh[:k], k, "direct", s_exact=True)


def corrected(p: Problem, x: Array, s: Array, Vh: Array) -> Array:
    """At most two steps of refinement: rounding grows with the number of blocks of `tsqr`."""
    last = np.inf
    for _ in range(2):
        w = Vh @ residuals(p, x, None)[1] / s[:, None]
        size = float(np.linalg.norm(w))
        if not 0.0 < size < last:
            break
        x = x + adjoint(Vh) @ (w / s[:, None])
        last = size
    return x


def _direct_wide(p: Problem) -> Solution:
    """B = A^H = U diag(s) V^H; x = U diag(s / (s^2 + damp^2)) V^H b."""
    Q, R = np.linalg.qr(p.matrix.to_dense())
    U, s, Vh = dense_svd(R)
    damped = np.hypot(s, p.damp)
    k = rank_of(damped, p.rcond)
    c = (Vh[:k] @ p.b) / damped[:k, None] ** 2
    x = Q @ (U[:, :k] @ (s[:k, None] * c))
    return Solution(x, damped, Vh[:k], k, "direct", s_exact=True, y=adjoint(Vh[:k]) @ c)


def direct(p: Problem) -> Solution:
    return _direct_wide(p) if p.wide else _direct_tall(p)


# --- sketches ------------------------------------------------------------------------------------


def sketched(p: Problem, kind: str, key: int, d: int, nnz: int = 8) -> Array:
    """S B (d, n): one read of an array, d products of an operator.

    Summed in the precision of A (sparse A: in double), returned in double.
    """
    m, n = p.matrix.shape
    if p.matrix.kind == "operator":
        SB = np.empty((d, n), dtype=p.matrix.work_dtype)
        for begin in range(0, d, _OPERATOR_BLOCK):
            rows = slice(begin, min(begin + _OPERATOR_BLOCK, d))
            columns_of_St = embed(kind, key, d, m, np.eye(d)[:, rows], adjoint=True, nnz=nnz)
            SB[rows] = adjoint(p.matrix.rmatmat(columns_of_St.astype(p.matrix.work_dtype)))
        return SB
    B = p.payload
    if isinstance(B, tuple):
        indptr, indices, data, shape = B
        B = (indptr, indices, data.astype(p.matrix.work_dtype, copy=False), shape)
        if p.wide:
            transposed = csr_matrix(B).conj().T.tocsr()
            B = (transposed.indptr, transposed.indices, transposed.data, transposed.shape)
    elif p.wide:
        B = B.conj().T
    p.matrix.passes += 1
    return embed(kind, key, d, m, B, nnz=nnz).astype(p.matrix.work_dtype)


def sketch_cutoff(p: Problem, SB: Array) -> float:
    """The rank decision on a sketch: smaller singular values of float32 data are its rounding."""
    if p.matrix.kind == "csr" or p.matrix.output_eps == np.finfo(np.float64).eps:
        return p.rcond
    return float(max(p.rcond, p.matrix.output_eps * max(SB.shape)))


def with_damp(SB: Array, damp: float) -> Array:
    """[S B; damp I]."""
    if damp == 0.0:
        return SB
    return np.vstack([SB, damp * np.eye(SB.shape[1], dtype=SB.dtype)])


def sketch_and_solve(p: Problem, kind: str, key: int, d: int) -> Solution:
    """argmin ||S (A x - b)||, minimum norm."""
    SA = with_damp(sketched(p, kind, key, d), p.damp)
    Sb = np.zeros((SA.shape[0], p.b.shape[1]), dtype=SA.dtype)
    Sb[:d] = embed(kind, key, d, p.b.shape[0], p.b)
    U, s, Vh = _finite_svd(SA)
    k = rank_of(s, sketch_cutoff(p, SA))
    x = adjoint(Vh[:k]) @ (adjoint(U[:, :k]) @ Sb / s[:k, None])
    return Solution(x, s, Vh[:k], k, "sketch", s_exact=False, rows=d)


def _finite_svd(SA: Array) -> tuple[Array, Array, Array]:
    if not np.isfinite(SA).all():
        raise NotFiniteError
    return dense_svd(SA)


# --- sketch-and-precondition, dense and tall -----------------------------------------------------


def _columns_to_unit(SA: Array) -> Array:
    """Powers of two that bring the largest entry of each column near 1."""
    return np.asarray(2.0 ** -np.frexp(np.abs(SA).max(axis=0))[1].astype(np.float64))


def sketched_factor(p: Problem, kind: str, key: int, d: int) -> tuple[Array, Array] | None:
    """R0 and D with S A D = Q R0; None where the rank of A is in doubt."""
    SA = with_damp(sketched(p, kind, key, d, _PRECONDITIONER_NONZEROS), p.damp)
    if not np.isfinite(SA).all():
        raise NotFiniteError
    if not SA.any(axis=0).all():
        return None
    D = _columns_to_unit(SA)
    R0 = triangle(SA * D)
    scaled_s = np.linalg.svd(R0, compute_uv=False)
    s = np.linalg.svd(R0 / D, compute_uv=False)
    u = p.matrix.output_eps  # of the sketch: smaller singular values are its rounding
    if s[-1] < _MARGIN * p.rcond * s[0] or scaled_s[-1] <= 30.0 * u * scaled_s[0]:
        return None
    return R0, D


def gram_factor(p: Problem, R0: Array, D: Array) -> tuple[Array, Array] | None:
    """R with R^H R = D A^H A D, and R^-H D A^H b: one read of A.

    None where A R0^-1 is not well-conditioned, as where rounding (the sketch of float32 data is a
    float32 one) made S A of full rank and A is not.
    """
    n = R0.shape[1]
    G = np.zeros((n, n), dtype=R0.dtype)
    h = np.zeros((n, p.b.shape[1]), dtype=R0.dtype)

    def preconditioned(rows: Array) -> Array:
        return adjoint(scipy.linalg.solve_triangular(R0, adjoint(rows * D), trans="C"))

    for rows, block in p.matrix.blocks(n):
        Y = preconditioned(block)
        G += adjoint(Y) @ Y
        h += adjoint(Y) @ p.b[rows]
    if p.damp > 0.0:
        Y = preconditioned(p.damp * np.eye(n, dtype=R0.dtype))
        G += adjoint(Y) @ Y
    eigenvalues = np.linalg.eigvalsh(G)
    if eigenvalues[0] <= _EMBEDDED * eigenvalues[-1]:
        return None
    R1 = scipy.linalg.cholesky(G)
    return R1 @ R0, scipy.linalg.solve_triangular(R1, h, trans="C")


def precondition_dense(
    p: Problem, kind: str, key: int, d: int, max_iter: int, monitor: Monitor
) -> Solution | None:
    """Refinement with a Cholesky-QR factor; None where the rank of A is in doubt."""
    sketched_R = sketched_factor(p, kind, key, d)
    if sketched_R is None:
        return None
    R0, D = sketched_R
    factor = gram_factor(p, R0, D)
    if factor is None:
        return None
    R, c = factor
    _, s, Vh = dense_svd(R / D)
    if s[-1] < 2.0 * p.rcond * s[0]:
        return None

    x = D[:, None] * scipy.linalg.solve_triangular(R, c)
    last = np.inf
    for step in range((max_iter or _REFINEMENTS) + 1):
        x = representable(p, x)
        r, g = residuals(p, x, None)
        error = backward_error(p, x, r, g, s, Vh)
        dz = scipy.linalg.solve_triangular(R, D[:, None] * g, trans="C")
        size = float(np.linalg.norm(dz))
        stagnant = step > p.least_steps and size > 0.5 * last
        stopped = monitor is not None and step > 0 and monitor(step, error)
        done = step >= p.least_steps and error <= p.target
        if stopped or stagnant or done or step == (max_iter or _REFINEMENTS):
            break
        x = x + D[:, None] * scipy.linalg.solve_triangular(R, dz)
        last = size
    norms = np.linalg.norm(r, axis=0)
    return Solution(x, s, Vh, s.size, "precondition", True, step, d, certificate=(error, norms))


# --- sketch-and-precondition by conjugate gradients ----------------------------------------------


def preconditioner(p: Problem, SB: Array) -> tuple[Array, Array, Array, int]:
    """P (n, k), s, Vh and k from the SVD of the sketch: S B P is orthonormal.

    Columns are brought to norm 1 first where the rank is full; a deficient rank is cut off in the
    caller's scaling, as P then decides which solution has minimum norm.
    """
    _, s, Vh = _finite_svd(SB)
    k = rank_of(s, sketch_cutoff(p, SB))
    if k < s.size:
        return adjoint(Vh[:k]) / s[:k], s, Vh[:k], k
    D = _columns_to_unit(SB)
    _, scaled_s, Wh = dense_svd(SB * D)
    return D[:, None] * adjoint(Wh) / scaled_s, s, Vh, k


def conjugate_gradients(
    apply: Callable[[Array], Array], c: Array, steps: int, reduction: float
) -> tuple[Array, int]:
    """z with apply(z) = c, column by column, for a well-conditioned positive definite `apply`.

    Ends at the reduction of ||c - apply(z)||, after `steps`, or where four steps did not halve it.
    """
    z = np.zeros_like(c)
    residual = direction = c
    norm2 = start2 = np.sum(np.abs(c) ** 2, axis=0)
    history = [float(norm2.max(initial=0.0))]
    step = 0
    while step < steps and np.any(norm2 > reduction**2 * start2):
        image = apply(direction)
        curvature = np.sum((direction.conj() * image).real, axis=0)
        alpha = np.divide(norm2, curvature, where=curvature > 0.0, out=np.zeros_like(norm2))
        z = z + alpha * direction
        residual = residual - alpha * image
        new2 = np.sum(np.abs(residual) ** 2, axis=0)
        beta = np.divide(new2, norm2, where=norm2 > 0.0, out=np.zeros_like(norm2))
        direction = residual + beta * direction
        norm2 = new2
        step += 1
        history.append(float(norm2.max()))
        if step > 4 and history[-1] > 0.25 * history[-5]:
            break
    return z, step


def precondition_iterative(
    p: Problem, kind: str, key: int, d: int, max_iter: int, monitor: Monitor
) -> Solution:
    """Restarted conjugate gradients on P^H (B^H B + damp^2) P."""
    B = p.matrix
    whole = 2 * d >= B.shape[0]  # a sketch would not be much smaller
    SB = tsqr(B, None, p.damp) if whole else with_damp(sketched(p, kind, key, d), p.damp)
    P, s, Vh, k = preconditioner(p, SB)

    def gram(z: Array) -> Array:
        y = P @ z
        return adjoint(P) @ (B.fused(y)[1] + p.damp**2 * y)

    left = max_iter or _CG_STEPS
    reduction = max(_CG_REDUCTION, 4.0 * B.unit_roundoff)
    y = np.zeros((B.shape[1], p.b.shape[1]), dtype=B.work_dtype)
    x = np.zeros((p.unknowns, p.b.shape[1]), dtype=B.work_dtype)
    last, steps = np.inf, 0
    for restart in range(_CG_RESTARTS + 1):
        x = representable(p, x)
        r, g = residuals(p, x, y if p.wide else None)
        error = backward_error(p, x, r, g, s, Vh)
        gradient = adjoint(P) @ g
        size = float(np.linalg.norm(gradient))
        stopped = monitor is not None and restart > 0 and monitor(steps, error)
        done = restart >= p.least_steps and error <= p.target
        stagnant = restart > p.least_steps and size > 0.5 * last
        if stopped or done or stagnant or left == 0 or restart == _CG_RESTARTS:
            break
        z, taken = conjugate_gradients(gram, gradient, left, reduction)
        steps, left, last = steps + taken, left - taken, size
        y = y + P @ z
        x = x + (B.matmat(P @ z) if p.wide else P @ z)
    norms = np.linalg.norm(r, axis=0)
    return Solution(
        x, s, Vh, k, "precondition", whole, steps, 0 if whole else d, certificate=(error, norms)
    )


# --- the choice ----------------------------------------------------------------------------------


def _solve(
    p: Problem, method: str, sketch: str, max_iter: int, rows: int, key: int, monitor: Monitor
) -> Solution:
    m, n = p.matrix.shape
    dense = p.matrix.kind == "dense"
    d = rows or max(n + 32, (4 if p.matrix.kind != "csr" else 12) * n)
    if method == "auto":
        small = m * n <= _SMALL or (dense and (p.wide or m < 2 * d))
        method = "direct" if small else "precondition"
    if method == "direct":
        return direct(p)
    if method == "sketch" and d < m and not p.wide:
        return sketch_and_solve(p, sketch, key, d)
    if not dense:
        return precondition_iterative(p, sketch, key, d, max_iter, monitor)
    if p.wide or d >= m:
        return direct(p)
    return precondition_dense(p, sketch, key, d, max_iter, monitor) or direct(p)


def _finish(p: Problem, solution: Solution) -> Lstsq:
    x, s = solution.x, solution.s
    if solution.certificate is None:
        x = representable(p, x)
        r, g = residuals(p, x, solution.y)
        error = backward_error(p, x, r, g, s, solution.Vh)
        norms = np.linalg.norm(r, axis=0)
    else:
        error, norms = solution.certificate
    damped = np.hypot(norms, p.damp * np.linalg.norm(x, axis=0))
    rank = solution.rank
    if p.wide and p.damp > 0.0:  # [A; damp I] has n singular values
        s = np.concatenate([s, np.full(p.unknowns - s.size, p.damp)])
        rank = rank_of(s, p.rcond)
    real = real_dtype(p.dtype)
    facts = Facts(
        method=solution.method,
        cond=float(s[0] / s[-1]) if s[-1] > 0.0 else float("inf"),
        backward_error=error,
        residual_norm=times_power_of_two(norms, -p.b_exponent),
        s_exact=solution.s_exact,
        iterations=solution.iterations,
        passes=p.matrix.passes,
        converged=solution.method != "precondition" or error <= p.accepted,
        rows=solution.rows,
    )
    return (
        rounded(times_power_of_two(x, p.a_exponent - p.b_exponent), p.dtype),
        rounded(times_power_of_two(damped, -p.b_exponent) ** 2, real),
        rank,
        rounded(times_power_of_two(s, -p.a_exponent), real),
        facts,
    )


def _nan_lstsq(shape: tuple[int, int], columns: int, dtype: np.dtype[Any]) -> Lstsq:
    nan, real = float("nan"), real_dtype(dtype)
    return (
        np.full((shape[1], columns), nan, dtype=dtype),
        np.full(columns, nan, dtype=real),
        0,
        np.full(min(shape), nan, dtype=real),
        Facts(
            method="direct",
            cond=nan,
            backward_error=nan,
            residual_norm=np.full(columns, nan),
            s_exact=False,
            iterations=0,
            passes=1,
            converged=False,
            rows=0,
        ),
    )


def lstsq(
    A: Any,
    b: Array,
    rcond: float,
    method: str,
    sketch: str,
    damp: float,
    tol: float,
    max_iter: int,
    rows: int,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> Lstsq:
    """x (n, r), squared residuals (r,), rank, singular values and the facts, for b (m, r)."""
    shape = A[3] if isinstance(A, tuple) else A.shape
    with np.errstate(all="ignore"):
        try:
            p = open_problem(A, b, rcond, damp, tol)
            return _finish(p, _solve(p, method, sketch, max_iter, rows, key, monitor))
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return _nan_lstsq(shape, b.shape[1], b.dtype)
