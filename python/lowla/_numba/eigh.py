"""Randomized Hermitian eigendecompositions: Nystrom for semidefinite A, Rayleigh-Ritz for any.

nystrom: stabilised Nystrom approximation with a shift (Tropp, Yurtsever, Udell and Cevher 2017,
"Fixed-rank approximation of a positive-semidefinite matrix from streaming data", Algorithm 3)
on the range of A^(q+1) X, truncated to rank k: A V w V^H <= A, w >= 0.
reigh: Rayleigh-Ritz on a block Krylov space of A with full orthogonalisation (Saad 2011, Numerical
Methods for Large Eigenvalue Problems, 6.6). V w V^H has the diagonal of V^H A V, so that
||A - V w V^H||_F^2 = ||A||_F^2 - sum w_i^2.
Cost: 2 n^2 b flops a read of b columns, 8 n d^2 for a basis of d vectors; memory 2 n d numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg

from .linalg import (
    Facts,
    certificate,
    fixed_phases,
    nan_facts,
    orth,
    orth_against,
    rank_of,
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
from .rsvd import first_read, krylov_plan
from .sketch import start_block

Monitor: TypeAlias = Callable[[int, float], bool] | None
Eigh: TypeAlias = tuple[Array, Array, Facts]

_NYSTROM_POWER = 4  # power steps of nystrom unless given


def _hermitian(T: Array) -> Array:
    return (T + adjoint(T)) / 2


def _check_semidefinite(values: Array, matrix: Matrix) -> None:
    """Raise if a Ritz value is negative beyond the rounding of A itself."""
    largest = float(np.abs(values).max())
    smallest = float(values.min())
    if smallest < -10.0 * matrix.shape[0] * matrix.output_eps * largest:
        ratio = smallest / largest
        raise np.linalg.LinAlgError(
            f"A is not positive semidefinite: it has a Ritz value of {ratio:.1e} times the largest"
        )


class _Eigenpairs:
    """Rounded eigenpairs of A and their certificate."""

    def __init__(self, matrix: Matrix, w: Array, V: Array) -> None:
        self.matrix = matrix
        self.V = fixed_phases(V, matrix.dtype)[0]
        self.w = scaled_back(w, matrix)
        self.V_work = self.V.astype(matrix.work_dtype)
        self.w_work = times_power_of_two(self.w.astype(np.float64), matrix.exponent)

    def certified(self, basis: Array, tail2: float | None) -> tuple[float, str]:
        factors = self.V_work, self.w_work, adjoint(self.V_work)
        return certificate(self.matrix, factors, basis, tail2)

    def product_tail2(self) -> float | None:
        """||A||_F^2 - 2 sum w_i v_i^H A v_i + ||V w V^H||_F^2, one read of k columns."""
        if self.matrix.norm2 is None:
            return None
        image = self.matrix.matmat(self.V_work)
        quotients = np.einsum("ij,ij->j", self.V_work.conj(), image).real
        overlaps = np.abs(adjoint(self.V_work) @ self.V_work) ** 2  # V is rounded
        return float(self.matrix.norm2 + self.w_work @ (overlaps @ self.w_work - 2.0 * quotients))

    def facts(
        self, error: tuple[float, str], rest: float, iterations: int, method: str, basis: int
    ) -> Facts:
        """`rest`: the largest magnitude among the Ritz values that were left out."""
        matrix = self.matrix
        largest = max(float(np.abs(self.w_work).max()), rest)
        norm = np.sqrt(matrix.norm2) if matrix.norm2 is not None else largest
        spectral = min(rest, error[0] * norm) / largest if largest > 0.0 else 0.0
        return Facts(
            error=error[0],
            error_method=error[1],
            spectral_error=float(spectral),
            passes=matrix.passes,
            iterations=iterations,
            converged=True,
            method=method,
            basis=basis,
            rank=rank_of(np.abs(self.w), *matrix.shape),
        )


def _nan_eigh(matrix: Matrix, k: int, method: str) -> Eigh:
    real = np.empty(0, dtype=matrix.dtype).real.dtype
    w, V = np.full(k, np.nan, dtype=real), np.full((matrix.shape[0], k), np.nan, matrix.dtype)
    return w, V, nan_facts(method)


def _direct(matrix: Matrix) -> tuple[Array, Array]:
    """All eigenpairs by LAPACK."""
    A = first_read(matrix, matrix.to_dense)
    w, V = scipy.linalg.eigh(_hermitian(A), check_finite=False)
    return w, V


def _nystrom_factors(matrix: Matrix, X: Array, Y: Array) -> tuple[Array, Array]:
    """w, V of the shifted Nystrom approximation Y (X^H Y)^-1 Y^H, X orthonormal."""
    _check_semidefinite(np.linalg.eigvalsh(_hermitian(adjoint(X) @ Y)), matrix)
    n = matrix.shape[0]
    shift = math.sqrt(n) * matrix.unit_roundoff * float(np.linalg.norm(Y, 2))
    shift = max(shift, float(np.finfo(np.float64).tiny))
    while True:
        shifted = Y + shift * X
        try:
            C = scipy.linalg.cholesky(_hermitian(adjoint(X) @ shifted), check_finite=False)
            break
        except np.linalg.LinAlgError:
            shift *= 10.0
    B = adjoint(scipy.linalg.solve_triangular(C, adjoint(shifted), trans="C"))
    V, s, _ = tall_svd(B)
    return np.maximum(s**2 - shift, 0.0), V


def _nystrom(
    matrix: Matrix, k: int, oversample: int, n_iter: int, sketch: str, key: int, monitor: Monitor
) -> Eigh:
    n = matrix.shape[0]
    columns = min(k + oversample, n)
    if columns == n:
        w, V = _direct(matrix)
        _check_semidefinite(w, matrix)
        w, V, steps, method = np.maximum(w[::-1], 0.0), V[:, ::-1], 0, "direct"
    else:
        power = _NYSTROM_POWER if n_iter < 0 else n_iter
        start = start_block(sketch, key, n, columns)
        X = orth(start.astype(matrix.work_dtype))
        for steps in range(power + 1):
            Y = first_read(matrix, matrix.matmat, X) if steps == 0 else matrix.matmat(X)
            error = _captured_error(matrix, Y)
            if (monitor is not None and monitor(steps + 1, error)) or steps == power:
                break
            X = orth(Y)
        w, V = _nystrom_factors(matrix, X, Y)
        method = "nystrom"
    pairs = _Eigenpairs(matrix, w[:k], V[:, :k])
    # No identity holds: one more read, which for a dense A measures the residual itself.
    tail2 = pairs.product_tail2() if matrix.kind == "csr" else None
    rest = float(w[k]) if w.size > k else 0.0
    return pairs.w, pairs.V, pairs.facts(pairs.certified(V, tail2), rest, steps, method, columns)


def _captured_error(matrix: Matrix, Y: Array) -> float:
    """Relative norm of the part of A outside the space of Y = A X; NaN where ||A|| is unknown."""
    if matrix.norm2 is None:
        return float("nan")
    rest2 = max(matrix.norm2 - squared_norm(Y), 0.0)
    return float(np.sqrt(rest2 / matrix.norm2)) if matrix.norm2 > 0.0 else 0.0


def nystrom(
    A: Any,
    k: int,
    oversample: int,
    n_iter: int,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> Eigh:
    """Leading eigenpairs w (k,), V (n, k) of a positive semidefinite Hermitian A."""
    kind = "sjlt" if sketch == "sjlt" else "gaussian"
    with np.errstate(all="ignore"):
        matrix = open_matrix(A)
        try:
            return _nystrom(matrix, k, oversample, n_iter, kind, key, monitor)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return _nan_eigh(matrix, k, "nystrom")


def _krylov_ritz(
    matrix: Matrix, block: int, last: int, sketch: str, key: int, monitor: Monitor
) -> tuple[Array, Array, int]:
    """Ritz values and vectors of A on span(X, A X, ..., A^last X), one read a power."""
    n = matrix.shape[0]
    start = start_block(sketch, key, n, block)
    P = X = orth(start.astype(matrix.work_dtype))
    image = np.empty((n, 0), dtype=matrix.work_dtype)
    for step in range(last + 1):
        W = first_read(matrix, matrix.matmat, X) if step == 0 else matrix.matmat(X)
        image = np.hstack([image, W])
        error = _captured_error(matrix, image)
        if (monitor is not None and monitor(step + 1, error)) or step == last:
            break
        X = orth_against(P, W)
        P = np.hstack([P, X])
    w, E = np.linalg.eigh(_hermitian(adjoint(P) @ image))
    return w, P @ E, step


def _reigh(
    matrix: Matrix,
    k: int,
    which: str,
    oversample: int,
    n_iter: int,
    sketch: str,
    key: int,
    monitor: Monitor,
) -> Eigh:
    block, reads = krylov_plan(k, n_iter, oversample)
    last = 2 * reads if n_iter < 0 else n_iter  # a fused read of rsvd is two powers
    if (last + 1) * block >= matrix.shape[0]:
        w, V = _direct(matrix)
        steps, method = 0, "direct"
    else:
        w, V, steps = _krylov_ritz(matrix, block, last, sketch, key, monitor)
        method = "krylov"
    order = np.argsort(-np.abs(w) if which == "LM" else -w, kind="stable")
    w, V, basis = w[order], V[:, order], w.size
    pairs = _Eigenpairs(matrix, w[:k], V[:, :k])
    tail2 = None
    if matrix.norm2 is not None and method != "direct":
        tail2 = matrix.norm2 - float(w[:k] @ w[:k])
    rest = float(np.abs(w[k:]).max()) if w.size > k else 0.0
    return pairs.w, pairs.V, pairs.facts(pairs.certified(V, tail2), rest, steps, method, basis)


def reigh(
    A: Any,
    k: int,
    which: str,
    oversample: int,
    n_iter: int,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor,
) -> Eigh:
    """k eigenpairs w (k,), V (n, k) of a Hermitian A: "LM" by magnitude, "LA" by value."""
    kind = "sjlt" if sketch == "sjlt" else "gaussian"
    with np.errstate(all="ignore"):
        matrix = open_matrix(A)
        try:
            return _reigh(matrix, k, which, oversample, n_iter, kind, key, monitor)
        except NotFiniteError as error:
            if check_finite:
                raise ValueError(str(error)) from None
            return _nan_eigh(matrix, k, "krylov")
