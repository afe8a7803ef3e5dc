"""Inverse-Fisher-vector products from the Gram matrix of the gradients (M-FAC).

F = damp·I + (1/m) Σ g_i g_iᵀ = damp·I + (1/m) GᵀG, the gradients being the rows of G (m, d). With
K = G Gᵀ and M = m·damp·I + K = L Lᵀ the identity of Woodbury reads

    F⁻¹ x = (x - Gᵀ M⁻¹ G x) / damp,

and with W = L⁻¹G, [F⁻¹]_ij = (δ_ij - W_i·W_j) / damp for the columns W_i of W. W is the array of
vectors that the static algorithm of Frantar, Kurtic and Alistarh (2021, "M-FAC: efficient
matrix-free approximations of second-order information") builds row by row in 2 m² d flops of BLAS
level 2; here K takes m² d flops (a symmetric product), L m³/3, a product F⁻¹x 4 m d + 2 m² and two
reads of G. Their dynamic algorithm, the exchange of one gradient, costs O(d m + m³); here dropping
the oldest row of M is a rank-one update of the trailing factor and appending the newest one
triangular solve, O(d m + m²) and one read of G.

Blocks: with `block_size` B > 0 the Fisher matrix is replaced by its diagonal blocks of B columns
(the last one may be narrower). A block is kept as L Lᵀ = m·damp·I + K_b with K_b = G_b G_bᵀ of
order m ("dual"); where B < m all blocks are kept as K_b = G_bᵀ G_b of order B ("primal"), for which
F_b = L Lᵀ / m. Beyond the width of a narrower last block K_b is zero. Which form it is follows from
the rows of the shards that a function is given.

Storage: G comes as a list of shards, its columns one shard after another, each float64, float32,
float16, or the bits of bfloat16 as uint16. It is read in slabs of columns that are converted to
float64; all sums are in float64 and rounded once, at the end. Rows of L are in order of age: row a
belongs to row (head + a) mod m of G (primal: in order of the columns, head is ignored). Workspace:
one slab, beside what is returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .philox import njit

Array: TypeAlias = npt.NDArray[Any]
Wide: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.int64]

_SLAB_ENTRIES = 1 << 19  # entries of G converted at a time (4 MiB of float64)


class Pushed(TypedDict):
    """Where the window stands after a push."""

    head: int
    count: int
    refactored: bool


def fisher_gram(shards: Sequence[Array], block_size: int, mask: Flags | None) -> Wide:
    """K (nb, s, s); columns that the mask (d,) has False for count as zero."""
    m, d = _shape(shards)
    primal = _is_primal(m, block_size)
    blocks = _blocks(d, block_size)
    s = block_size if primal else m
    K = np.zeros((len(blocks), s, s))
    with np.errstate(over="ignore", invalid="ignore"):
        for b, (lo, hi) in enumerate(blocks):
            if primal:
                G_b = _masked(_columns(shards, lo, hi), mask, lo, hi)
                K[b, : hi - lo, : hi - lo] = G_b.T @ G_b
            else:
                for start, stop, slab in _slabs(shards, lo, hi):
                    G_s = _masked(slab, mask, start, stop)
                    K[b] += G_s @ G_s.T
    return K


def fisher_factor(K: Wide, shift: float, head: int) -> Wide:
    """L (nb, s, s), lower triangular, L Lᵀ = shift·I + K, rows in order of age.

    LinAlgError where a pivot is below the rounding of its row, s·u·M_ii: in exact arithmetic no
    pivot is below `shift`. A block that holds NaN or Inf has a factor of NaN.
    """
    s = K.shape[-1]
    order = _order(head, s)
    M = K[:, order[:, None], order] + shift * np.eye(s)
    finite = np.isfinite(M).all(axis=(1, 2))
    L = np.full_like(M, np.nan)
    diagonal = np.diagonal(M, axis1=1, axis2=2)[finite]
    try:
        L[finite] = np.linalg.cholesky(M[finite])
        pivots = np.diagonal(L, axis1=1, axis2=2)[finite] ** 2
        sound = bool((pivots > _doubtful(s) * diagonal).all())
    except np.linalg.LinAlgError:
        sound = False
    if not sound:
        raise np.linalg.LinAlgError(
            f"damp is below the rounding of the Gram matrix: it adds {shift:.1e} to its diagonal, "
            f"whose largest entry is {diagonal.max():.1e}"
        )
    return np.asarray(np.tril(L))


def fisher_coefficients(L: Wide, head: int, R: Wide) -> Wide:
    """C = M⁻¹R (m, r), both in the order of the rows of G; L (1, m, m)."""
    order = _order(head, len(R))
    C = np.empty_like(R)
    C[order] = _backward(L[0], _forward(L[0], R[order]))
    return C


def fisher_dots(shards: Sequence[Array], X: Array) -> Wide:
    """G X (m, r)."""
    return _dots(shards, 0, _shape(shards)[1], X)


def fisher_combine(
    shards: Sequence[Array], C: Wide, X: Array, alpha: float, beta: float, dtype: str
) -> Array:
    """alpha·X + beta·GᵀC (d, r)."""
    out = np.empty(X.shape, dtype)
    _combine(shards, 0, len(X), C, X, alpha, beta, out)
    return out


def fisher_solve(
    shards: Sequence[Array],
    L: Wide,
    head: int,
    block_size: int,
    damp: float,
    X: Array,
    dtype: str,
) -> Array:
    """F⁻¹X (d, r)."""
    m, d = _shape(shards)
    out = np.empty(X.shape, dtype)
    for L_b, (lo, hi) in zip(L, _blocks(d, block_size), strict=True):
        if _is_primal(m, block_size):
            L_w = L_b[: hi - lo, : hi - lo]
            found = m * _backward(L_w, _forward(L_w, X[lo:hi].astype(np.float64)))
            out[lo:hi] = _rounded(found, out.dtype)
        else:
            C = fisher_coefficients(L_b[None], head, _dots(shards, lo, hi, X))
            _combine(shards, lo, hi, C, X, 1 / damp, -1 / damp, out)
    return out


def fisher_multiply(
    shards: Sequence[Array], block_size: int, damp: float, X: Array, dtype: str
) -> Array:
    """F X (d, r)."""
    m, d = _shape(shards)
    out = np.empty(X.shape, dtype)
    for lo, hi in _blocks(d, block_size):
        _combine(shards, lo, hi, _dots(shards, lo, hi, X), X, damp, 1 / max(m, 1), out)
    return out


def fisher_diagonal(
    shards: Sequence[Array], L: Wide, head: int, block_size: int, damp: float, dtype: str
) -> Array:
    """[F⁻¹]_ii (d,); L⁻¹G is not kept.

    Dual: (1 - ||W_i||²) / damp, not below 1 / F_ii (Cauchy and Schwarz), where the subtraction
    leaves only rounding. Primal: m ||L⁻¹ e_i||².
    """
    m, d = _shape(shards)
    order = _order(head, m)
    out = np.empty(d, dtype)
    for L_b, (lo, hi) in zip(L, _blocks(d, block_size), strict=True):
        if _is_primal(m, block_size):
            L_w = L_b[: hi - lo, : hi - lo]
            columns = _forward(L_w, np.eye(hi - lo))
            out[lo:hi] = _rounded(m * _squares(columns), out.dtype)
            continue
        for start, stop, slab in _slabs(shards, lo, hi):
            found = (1.0 - _squares(_forward(L_b, slab[order]))) / damp
            least = 1.0 / (damp + _squares(slab) / max(m, 1))
            out[start:stop] = _rounded(np.maximum(found, least), out.dtype)
    return out


def fisher_columns(
    shards: Sequence[Array], L: Wide, head: int, block_size: int, indices: Indices
) -> Wide:
    """W (n, s): row t is L_b⁻¹ G[:, i_t] (dual) or L_b⁻¹ e_{i_t} (primal), b the block of i_t."""
    m, _ = _shape(shards)
    s = L.shape[-1]
    primal = _is_primal(m, block_size)
    order = _order(head, m)
    W = np.empty((len(indices), s))
    blocks = indices // block_size if block_size else np.zeros_like(indices)
    step = max(1, _SLAB_ENTRIES // max(s, 1))
    for b in np.unique(blocks):
        places = np.flatnonzero(blocks == b)
        for first in range(0, len(places), step):
            part = places[first : first + step]
            if primal:
                right = np.zeros((s, len(part)))
                right[indices[part] - b * block_size, np.arange(len(part))] = 1.0
            else:
                right = _gathered(shards, indices[part])[order]
            W[part] = _forward(L[b], right).T
    return W


def fisher_inner(W: Wide, i: Indices, j: Indices) -> Wide:
    """W_i·W_j for the rows of W, (n,)."""
    return np.asarray(np.einsum("ts,ts->t", W[i], W[j]))


def fisher_cross(V: Wide, W: Wide) -> Wide:
    """V Wᵀ."""
    return np.asarray(V @ W.T)


def fisher_trace(L: Wide, shift: float, width: int) -> tuple[float, float]:
    """(Σ_b log det(M_b / shift), Σ_b shift·tr M_b⁻¹), of the last block its first `width` rows.

    With d columns in nb blocks, in either form, log det F = d·log damp + the first number. The
    trace of F⁻¹ is (d - nb·m + the second number) / damp in the dual form and the second number
    over damp in the primal one.
    """
    logdet = trace = 0.0
    for b, L_b in enumerate(L):
        used = L_b[:width, :width] if b == len(L) - 1 else L_b
        logdet += 2.0 * float(np.log(np.diagonal(used) / np.sqrt(shift)).sum())
        trace += shift * float(_squares(_forward(used, np.eye(len(used)))).sum())
    return logdet, trace


def fisher_push(
    shards: Sequence[Array],
    K: Wide,
    L: Wide,
    head: int,
    count: int,
    block_size: int,
    damp: float,
    g: Sequence[Array],
    refactor: bool,
) -> Pushed:
    """Take the gradient g into the window: one row (d_s,) a shard, of the shard's own dtype.

    `shards` are the whole window; while it fills (count < rows) the gradient becomes row `count`
    and of a dual K and L the leading part is in use; then it replaces the oldest, row `head`. Rows
    of K are in the order of the rows of G. `refactor` computes L from K (primal: K from G too)
    rather than from the old L. Shards, K and L are changed in place; after an exception they are
    as before.
    """
    window, _ = _shape(shards)
    full = count == window
    slot, m = (head, count) if full else (count, count + 1)
    new_head = (head + 1) % window if full else head
    kept = [(array, array.copy()) for array in (K, L)]
    kept += [(shard[slot], shard[slot].copy()) for shard in shards]
    oldest = [shard[slot].copy()[None] for shard in shards] if full else []
    try:
        for shard, row in zip(shards, g, strict=True):
            shard[slot] = row
        rows = [shard[:m] for shard in shards]
        if _is_primal(window, block_size):
            _renew_primal(K, rows, slot, oldest, block_size, m * damp, refactor)
            refactored = True
            L[:] = fisher_factor(_not_overflown(K), m * damp, 0)
        else:
            _renew_row(K, rows, slot, block_size)
            refactored = refactor or not full or not _exchange(L, K, m * damp, head)
            if refactored:
                L[:, :m, :m] = fisher_factor(_not_overflown(K[:, :m, :m]), m * damp, new_head)
    except BaseException:
        for array, before in kept:
            array[...] = before
        raise
    return {"head": new_head, "count": m, "refactored": refactored}


def _renew_row(K: Wide, rows: list[Array], slot: int, block_size: int) -> None:
    """Row and column `slot` of every dual K_b, from one read of G."""
    m, d = _shape(rows)
    newest = [shard[slot : slot + 1] for shard in rows]
    for K_b, (lo, hi) in zip(K, _blocks(d, block_size), strict=True):
        r = np.zeros(m)
        with np.errstate(over="ignore", invalid="ignore"):
            for (_, _, slab), (_, _, g) in zip(
                _slabs(rows, lo, hi), _slabs(newest, lo, hi, rows=m), strict=True
            ):
                r += slab @ g[0]
        K_b[slot, :m] = K_b[:m, slot] = r


def _renew_primal(
    K: Wide,
    rows: list[Array],
    slot: int,
    oldest: list[Array],
    block_size: int,
    shift: float,
    from_gradients: bool,
) -> None:
    """K_b += g gᵀ - o oᵀ for the newest gradient, row `slot`, and the oldest, if one went.

    Where a diagonal entry of M falls by more than half, and always if asked, K_b is computed from
    the gradients: the difference would keep the rounding of what was subtracted.
    """
    newest = [shard[slot : slot + 1] for shard in rows]
    for K_b, (lo, hi) in zip(K, _blocks(_shape(rows)[1], block_size), strict=True):
        used = K_b[: hi - lo, : hi - lo]
        before = np.diagonal(used).copy()
        with np.errstate(over="ignore", invalid="ignore"):
            g = _columns(newest, lo, hi)[0]
            used += np.multiply.outer(g, g)
            if oldest:
                o = _columns(oldest, lo, hi)[0]
                used -= np.multiply.outer(o, o)
            fallen = before > 2.0 * (np.diagonal(used) + shift)
            if from_gradients or fallen.any():
                G_b = _columns(rows, lo, hi)
                used[:] = G_b.T @ G_b


def _exchange(L: Wide, K: Wide, shift: float, head: int) -> bool:
    """L without its oldest row and with the newest, row `head` of K; False if that is doubtful.

    With L = [l, 0; l', L'] the rows after the oldest have the factor of L' L'ᵀ + l' l'ᵀ.
    """
    m = L.shape[-1]
    order = _order(head + 1, m)  # of age; the newest is row `head`
    for L_b, K_b in zip(L, K, strict=True):
        trailing, dropped = L_b[1:, 1:].copy(), L_b[1:, 0].copy()
        _add_rank_one(trailing, dropped)
        corner = K_b[head, head] + shift
        row = _forward(trailing, K_b[order[:-1], head][:, None])[:, 0]
        pivot = corner - row @ row
        if not pivot > _doubtful(m) * corner:
            return False
        L_b[:-1, :-1], L_b[:-1, -1] = trailing, 0.0
        L_b[-1, :-1], L_b[-1, -1] = row, np.sqrt(pivot)
    return True


@njit
def _add_rank_one(L: Wide, v: Wide) -> None:
    """L becomes the factor of L Lᵀ + v vᵀ, by Givens rotations; v is overwritten."""
    n = len(v)
    for k in range(n):
        r = np.hypot(L[k, k], v[k])
        c, s = L[k, k] / r, v[k] / r
        L[k, k] = r
        for i in range(k + 1, n):
            old = L[i, k]
            L[i, k] = c * old + s * v[i]
            v[i] = c * v[i] - s * old


def natural_gradient(G: Array, U: Array, S: Array, damp: float) -> Array:
    """(damp·I + U diag(S)² Uᵀ)⁻¹ G (..., d, r) for U (..., d, s), S (..., s).

    With V = U diag(S) by Woodbury's identity (G - V (damp·I + VᵀV)⁻¹ VᵀG) / damp; V is formed by
    slabs of rows.
    """
    out = np.empty(G.shape, np.result_type(G, U, S))
    d, r = G.shape[-2:]
    s = S.shape[-1]
    step = max(1, _SLAB_ENTRIES // max(r + s, 1))
    for item in np.ndindex(G.shape[:-2]):
        scale = S[item].astype(np.float64)
        T, R = np.zeros((s, s)), np.zeros((s, r))
        with np.errstate(over="ignore", invalid="ignore"):
            for lo in range(0, d, step):
                V = U[item][lo : lo + step] * scale
                T += V.T @ V
                R += V.T @ G[item][lo : lo + step].astype(np.float64)
        L = fisher_factor(_not_overflown(T[None]), damp, 0)[0]
        C = _backward(L, _forward(L, R))
        for lo in range(0, d, step):
            V = U[item][lo : lo + step] * scale
            found = (G[item][lo : lo + step] - V @ C) / damp
            out[item][lo : lo + step] = _rounded(found, out.dtype)
    return out


def _shape(shards: Sequence[Array]) -> tuple[int, int]:
    """(m, d)."""
    return shards[0].shape[0], sum(shard.shape[1] for shard in shards)


def _is_primal(m: int, block_size: int) -> bool:
    return 0 < block_size < m


def _blocks(d: int, block_size: int) -> list[tuple[int, int]]:
    """First and last column (exclusive) of each block."""
    if block_size == 0:
        return [(0, d)]
    return [(lo, min(lo + block_size, d)) for lo in range(0, d, block_size)]


def _order(head: int, m: int) -> Indices:
    """Rows of G from the oldest to the newest."""
    return (head + np.arange(m)) % max(m, 1)


def _pieces(shards: Sequence[Array], lo: int, hi: int) -> Iterator[tuple[int, Array]]:
    """Columns lo..hi-1 as views of the shards, each with its first column."""
    first = 0
    for shard in shards:
        start, stop = max(lo, first), min(hi, first + shard.shape[1])
        if start < stop:
            yield start, shard[:, start - first : stop - first]
        first += shard.shape[1]


def _slabs(
    shards: Sequence[Array], lo: int, hi: int, rows: int | None = None
) -> Iterator[tuple[int, int, Wide]]:
    """Columns lo..hi-1 in float64, a slab at a time: first column, last (exclusive), (m, w)."""
    step = max(64, _SLAB_ENTRIES // max(rows or shards[0].shape[0], 1))
    for first, piece in _pieces(shards, lo, hi):
        for start in range(0, piece.shape[1], step):
            slab = _widened(piece[:, start : start + step])
            yield first + start, first + start + slab.shape[1], slab


def _columns(shards: Sequence[Array], lo: int, hi: int) -> Wide:
    """Columns lo..hi-1 in float64, (m, hi - lo)."""
    return np.concatenate([_widened(piece) for _, piece in _pieces(shards, lo, hi)], axis=1)


def _gathered(shards: Sequence[Array], indices: Indices) -> Wide:
    """Columns of G in float64, (m, n)."""
    found = np.empty((shards[0].shape[0], len(indices)))
    first = 0
    for shard in shards:
        here = (first <= indices) & (indices < first + shard.shape[1])
        found[:, here] = _widened(shard[:, indices[here] - first])
        first += shard.shape[1]
    return found


def _widened(stored: Array) -> Wide:
    """Entries as float64, C-contiguous; uint16 holds the upper halves of float32."""
    if stored.dtype == np.uint16:
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(stored, dtype=np.float64)


def _masked(G: Wide, mask: Flags | None, lo: int, hi: int) -> Wide:
    return G if mask is None else np.where(mask[lo:hi], G, 0.0)


def _dots(shards: Sequence[Array], lo: int, hi: int, X: Array) -> Wide:
    """G_b X_b for the columns lo..hi-1, (m, r)."""
    D = np.zeros((shards[0].shape[0], X.shape[1]))
    for start, stop, slab in _slabs(shards, lo, hi):
        D += slab @ _widened(X[start:stop])
    return D


def _combine(
    shards: Sequence[Array],
    lo: int,
    hi: int,
    C: Wide,
    X: Array,
    alpha: float,
    beta: float,
    out: Array,
) -> None:
    """Rows lo..hi-1 of out = alpha·X + beta·GᵀC."""
    for start, stop, slab in _slabs(shards, lo, hi):
        found = alpha * _widened(X[start:stop]) + beta * (slab.T @ C)
        out[start:stop] = _rounded(found, out.dtype)


def _forward(L: Wide, B: Wide) -> Wide:
    """L⁻¹B."""
    if 0 in B.shape:
        return B
    return np.asarray(scipy.linalg.solve_triangular(L, B, lower=True, check_finite=False))


def _backward(L: Wide, B: Wide) -> Wide:
    """L⁻ᵀB."""
    if 0 in B.shape:
        return B
    return np.asarray(scipy.linalg.solve_triangular(L, B, lower=True, trans=1, check_finite=False))


def _squares(W: Wide) -> Wide:
    """Squared norms of the columns."""
    return np.asarray(np.einsum("ij,ij->j", W, W))


def _rounded(found: Wide, dtype: npt.DTypeLike) -> Array:
    with np.errstate(over="ignore"):
        return found.astype(dtype, copy=False)


def _doubtful(s: int) -> float:
    """Pivots below this part of their diagonal entry are rounding: s·u."""
    return s * float(np.finfo(np.float64).eps)


def _not_overflown(K: Wide) -> Wide:
    if not np.isfinite(K).all():
        raise np.linalg.LinAlgError("the Gram matrix of the gradients overflows")
    return K
