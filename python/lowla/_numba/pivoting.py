"""Which columns or rows of a small dense matrix span it best.

pivoted_qr: QR with column pivoting (Businger and Golub 1965; LAPACK geqp3), 4 l n min(l, n) flops
for l x n. pivoted_lu_rows: Gaussian elimination with row pivoting, the rows that DEIM selects
(Sorensen and Embree 2016), m k^2 flops. strong_pivots: exchanges after pivoted QR until the
rank-revealing condition of Gu and Eisenstat (1996), theorem 3.2, holds; each grows |det R11| by
more than the bound f > 1, so there are at most k log_f(n) / 2 after geqp3 and usually none.
distinct_sample: sampling without replacement by exponential keys (Efraimidis and Spirakis 2006).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .lstsq import triangle
from .matrix import Array
from .philox import uniforms

Indices = npt.NDArray[np.int64]

_SLACK = 1e-6  # relative, above rounding: an exchange has to grow the determinant


def rest_of(n: int, chosen: Indices) -> Indices:
    """The indices below n that are not chosen, ascending."""
    left = np.ones(n, dtype=bool)
    left[chosen] = False
    return np.flatnonzero(left).astype(np.int64)


def phases_of(z: Array) -> Array:
    """z / |z| of modulus 1 to rounding, for denormal z too; 1 for 0."""
    near = np.where(z == 0.0, 1.0, z)
    largest = np.maximum(np.abs(near.real), np.abs(near.imag))
    near = near * np.where(largest < 2.0**-900, 2.0**900, 1.0)
    near = near / np.maximum(np.abs(near.real), np.abs(near.imag))
    return np.asarray(near / np.abs(near))


def positive_qr(A: Array) -> tuple[Array, Array]:
    """Thin QR with a real diagonal of R that is not negative."""
    Q, R = np.linalg.qr(A)
    phases = phases_of(np.diagonal(R))
    return Q * phases, phases.conj()[:, None] * R


def pivoted_qr(Y: Array, k: int, tol: float) -> tuple[Indices, Array, int]:
    """perm (n,) and the first k rows of R in Y[:, perm] = Q R; how many |R_jj| > tol |R_00|.

    The diagonal of R is real and not negative. Of columns of equal norm LAPACK takes the first.
    """
    wide = Y.astype(np.result_type(Y.dtype, np.float64))
    R, perm = scipy.linalg.qr(wide, mode="r", pivoting=True, check_finite=False)
    R = R[: min(k, *Y.shape)]
    diagonal = np.diagonal(R)
    magnitude = np.abs(diagonal)
    phases = phases_of(diagonal)
    rank = int(np.count_nonzero(magnitude > tol * magnitude.max(initial=0.0)))
    return perm.astype(np.int64), phases.conj()[:, None] * R, rank


def pivoted_lu_rows(Y: Array, k: int) -> Indices:
    """A permutation of the rows of Y (m, c), the pivots of its first k columns in front.

    The pivot is the first of largest |re| + |im|.
    """
    _, swaps, _ = scipy.linalg.lapack.get_lapack_funcs("getrf", (Y,))(Y[:, :k])
    perm = np.arange(Y.shape[0], dtype=np.int64)
    for i, j in enumerate(swaps):
        perm[[i, j]] = perm[[j, i]]
    return np.concatenate([perm[:k], np.sort(perm[k:])])


def strong_pivots(Y: Array, cols: Indices, bound: float) -> tuple[Indices, int]:
    """The columns after exchanges with others, and how many there were.

    With Y[:, cols] = Q1 R11 and T = R11^-1 R12, afterwards T_ij^2 + (w_i g_j)^2 <= f^2 for the row
    norms w of R11^-1 and the norms g of what is left of the other columns. Then |T| <= f,
    sigma_i(R11) >= sigma_i(Y) / q and sigma_j(R22) <= q sigma_{k+j}(Y), q^2 = 1 + f^2 k (n - k).
    """
    cols = cols.copy()
    k, n = cols.size, Y.shape[1]
    swaps = 0
    while 0 < k < n:
        rest = rest_of(n, cols)
        R = triangle(Y[:, np.concatenate([cols, rest])])
        inverse = scipy.linalg.solve_triangular(R[:k, :k], np.eye(k), check_finite=False)
        T = np.abs(inverse @ R[:k, k:])
        growth2 = T**2 + np.outer(
            np.sum(np.abs(inverse) ** 2, axis=1), np.sum(np.abs(R[k:, k:]) ** 2, axis=0)
        )
        i, j = np.unravel_index(int(np.argmax(growth2)), growth2.shape)
        if not growth2[i, j] > (bound * (1.0 + _SLACK)) ** 2:
            break
        cols[i] = rest[j]
        swaps += 1
    return cols, swaps


def distinct_sample(weights: Array, count: int, key: int, stream: int) -> Indices:
    """`count` different indices, each next one with probability proportional to its weight.

    The smallest of the keys -log(1 - u_i) / w_i; indices without weight come last, in order.
    """
    u = uniforms(key, stream, weights.size)
    keys = np.full(weights.size, np.inf)
    np.divide(-np.log1p(-u), weights, out=keys, where=weights > 0.0)
    return np.argsort(keys, kind="stable")[:count].astype(np.int64)
