"""Monarch matrices M = P_s L P_l R (Dao et al. 2022), their projection, Fourier transforms, and
long convolutions.

R (k, q, p) and L (l, s, r) are block-diagonal matrices of k blocks q x p and l blocks s x r, with
k q = l r. The permutations exchange the two digits of an index: entry a l + j of R x is entry a of
what block j of L gets, and entry i of its result is entry i l + j of y. "Permuted" matrices M P_k
take entry j k + i of x as entry i p + j, which makes the DFT one of them. Cost for c columns
2 c (k q p + l s r) flops; memory beside the result that of a few tiles of columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.fft

from .linalg import rounded
from .matrix import Array, NotFiniteError, exponent_of, squared_norm, times_power_of_two
from .threads import get_num_threads

Stage: TypeAlias = Callable[[Array], Array]

_TILE = 64  # columns
_PARALLEL = 1 << 16  # numbers from which a transform uses more than one thread
_BLOCK_BYTES = 1 << 20  # of the padded rows that a worker takes at a time


class _Monarch(NamedTuple):
    """The blocks, and how a product runs through the two stages."""

    L: Array
    R: Array
    permuted: bool

    def forward(self, X: Array, right: Stage, left: Stage) -> Array:
        """x to y: the blocks of R, then those of L; each stage (blocks, rows, columns)."""
        (l, s, r), (k, _, p), c = self.L.shape, self.R.shape, X.shape[1]
        T = X.reshape(p, k, c).transpose(1, 0, 2) if self.permuted else X.reshape(k, p, c)
        Y = left(right(T).reshape(r, l, c).transpose(1, 0, 2))
        return np.asarray(Y.transpose(1, 0, 2).reshape(s * l, c))

    def backward(self, Y: Array, left: Stage, right: Stage) -> Array:
        """y to x: the blocks of L, then those of R."""
        (l, s, _), (k, q, p), c = self.L.shape, self.R.shape, Y.shape[1]
        T = left(Y.reshape(s, l, c).transpose(1, 0, 2))
        X = right(T.transpose(1, 0, 2).reshape(k, q, c))
        return (X.transpose(1, 0, 2) if self.permuted else X).reshape(k * p, c)


def monarch_matmul(
    L: Array, R: Array, X: Array, permuted: bool, transpose: bool, conjugate: bool
) -> Array:
    """M X, Mᵀ X, or either with M conjugated; X (n, c)."""
    M = _Monarch(L, R, permuted)
    if transpose:
        LT, RT = L.transpose(0, 2, 1), R.transpose(0, 2, 1)
        return _by_tiles(lambda T: M.backward(T, _times(LT), _times(RT)), X, conjugate)
    return _by_tiles(lambda T: M.forward(T, _times(R), _times(L)), X, conjugate)


def monarch_solve(
    L: Array, R: Array, b: Array, permuted: bool, transpose: bool, conjugate: bool
) -> Array:
    """M⁻¹ b for square blocks, or with Mᵀ, conj(M), Mᴴ in place of M; b (n, c)."""
    for name, blocks in (("L", L), ("R", R)):
        cond = np.linalg.cond(blocks, 1) if blocks.size else np.ones(1)
        worst = int(np.argmax(cond))
        if not cond[worst] * np.finfo(blocks.dtype).eps < 1.0:
            raise np.linalg.LinAlgError(
                f"{name}[{worst}] is singular to working precision "
                f"(condition number {cond[worst]:.1e})"
            )
    M = _Monarch(L, R, permuted)
    if transpose:
        LT, RT = L.transpose(0, 2, 1), R.transpose(0, 2, 1)
        return _by_tiles(lambda T: M.forward(T, _divided_by(RT), _divided_by(LT)), b, conjugate)
    return _by_tiles(lambda T: M.backward(T, _divided_by(L), _divided_by(R)), b, conjugate)


def _times(blocks: Array) -> Stage:
    return lambda T: np.matmul(blocks, T)


def _divided_by(blocks: Array) -> Stage:
    return lambda T: np.linalg.solve(blocks, T)


def _by_tiles(product: Stage, X: Array, conjugate: bool) -> Array:
    """The product by blocks of columns; conj(M) X = conj(M conj(X))."""
    conjugate = conjugate and X.dtype.kind == "c"
    result: Array | None = None
    for first in range(0, X.shape[1], _TILE):
        tile = np.ascontiguousarray(X[:, first : first + _TILE])
        Y = product(tile.conj() if conjugate else tile)
        if result is None:
            result = np.empty((len(Y), X.shape[1]), dtype=X.dtype)
        result[:, first : first + _TILE] = Y.conj() if conjugate else Y
    assert result is not None
    return result


def monarch_project(W: Array, k: int, l: int, check_finite: bool) -> tuple[Array, Array, float]:
    """L (l, s, k) and R (k, l, p) of the Monarch matrix nearest to W (l s, k p); relative error.

    Entry (i l + j, b p + c) of M is L[j, i, b] R[b, j, c], so for each j and b an s x p block of W
    is to be approximated by one of rank one: its leading singular triplet (Dao et al. 2022,
    section 3.3), the root of the singular value in both factors. The error is measured.
    """
    s, p = W.shape[0] // l, W.shape[1] // k
    work = np.result_type(W.dtype, np.float64)
    parts = (W.real, W.imag) if W.dtype.kind == "c" else (W,)
    largest = float(np.max([np.abs(part).max() for part in parts]))
    if not np.isfinite(largest):
        if check_finite:
            raise ValueError(str(NotFiniteError("W")))
        nan = float("nan")
        return np.full((l, s, k), nan, W.dtype), np.full((k, l, p), nan, W.dtype), nan
    # even, so that half of it goes into each factor
    exponent = -2 * (exponent_of(largest) // 2) if largest else 0
    L, R = np.empty((l, s, k), W.dtype), np.empty((k, l, p), W.dtype)
    residual2 = norm2 = 0.0
    for b in range(k):
        column = W[:, b * p : (b + 1) * p].reshape(s, l, p).transpose(1, 0, 2).astype(work)
        blocks = times_power_of_two(column, exponent)
        left, right = _rank_one(blocks)
        L[:, :, b] = times_power_of_two(left, -exponent // 2)
        R[b] = times_power_of_two(right, -exponent // 2)
        left = times_power_of_two(L[:, :, b].astype(work), exponent // 2)
        right = times_power_of_two(R[b].astype(work), exponent // 2)
        norm2 += squared_norm(blocks)
        residual2 += squared_norm(blocks - left[:, :, None] * right[:, None, :])
    return L, R, float(np.sqrt(residual2 / norm2)) if norm2 else 0.0


def _rank_one(blocks: Array) -> tuple[Array, Array]:
    """u (l, s) and v (l, p) with u vᵀ nearest to each block; the largest entry of u positive."""
    U, sigma, Vh = np.linalg.svd(blocks, full_matrices=False)
    roots = np.sqrt(sigma[:, :1])
    u, v = U[:, :, 0], Vh[:, 0, :]
    pivots = np.take_along_axis(u, np.argmax(np.abs(u), axis=1)[:, None], axis=1)
    turn = pivots / np.abs(pivots)
    return u * turn.conj() * roots, v * turn * roots


def monarch_dft(n: int, k: int, dtype: str) -> tuple[Array, Array]:
    """L and R of the permuted Monarch matrix that is the DFT of order n, k a divisor of n.

    With input index j k + i and output index a l + b, l = n / k (Cooley and Tukey 1965):
    ω^((j k + i)(a l + b)) = ω^(k j b) ω^(i (a l + b)), ω = exp(-2πi/n).
    """
    l = n // k
    i, j, a, b = np.arange(k), np.arange(l), np.arange(k), np.arange(l)
    one_block = k * np.multiply.outer(b, j)
    L = np.multiply.outer(a * l + b[:, None], i)
    blocks = np.broadcast_to(_roots_of_unity(one_block, n), (k, l, l))
    return rounded(_roots_of_unity(L, n), dtype), rounded(blocks, dtype)


def _roots_of_unity(powers: npt.NDArray[np.int64], n: int) -> Array:
    """exp(-2πi powers/n), the angles reduced exactly."""
    return np.asarray(np.exp(-2j * np.pi * (powers % n / n)))


def monarch_fft(x: Array, n: int, inverse: bool) -> Array:
    """The discrete Fourier transform along the last axis, of x cut or padded with zeros to n."""
    workers = get_num_threads() if x.size >= _PARALLEL else 1
    transform = scipy.fft.ifft if inverse else scipy.fft.fft
    return np.asarray(transform(x, n, workers=workers))


def fftconv(u: Array, k: Array, mask: Array | None) -> Array:
    """y[..., t] = sum_{j <= t} k[..., j] u[..., t - j], for t < u.shape[-1].

    The kernels' spectra are multiplied by the mask, read along a uniform grid of frequencies. The
    longer of the two stacks goes through in blocks of rows that stay in cache, the other's spectrum
    is kept.
    """
    length = u.shape[-1]
    k = k[..., :length]
    n = scipy.fft.next_fast_len(length + k.shape[-1] - 1, real=True)
    kept, streamed = (k, u) if u.size >= k.size else (u, k)
    workers = get_num_threads() if u.size >= _PARALLEL else 1
    spectrum = scipy.fft.rfft(kept, n, workers=workers)
    if mask is not None:
        spectrum = spectrum * _interpolated(mask, spectrum.shape[-1])
    stack = np.broadcast_shapes(streamed.shape[:-1], spectrum.shape[:-1])
    y = np.empty((*stack, length), u.dtype)
    streamed = np.broadcast_to(streamed, (*stack, streamed.shape[-1]))
    spectrum = np.broadcast_to(spectrum, (*stack, spectrum.shape[-1]))
    rows = workers * max(1, _BLOCK_BYTES // (n * u.itemsize))
    for block in _row_blocks(stack, rows):
        product = scipy.fft.rfft(streamed[block], n, workers=workers)
        product *= spectrum[block]
        y[block] = scipy.fft.irfft(product, n, overwrite_x=True, workers=workers)[..., :length]
    return y


def _row_blocks(stack: tuple[int, ...], rows: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices of about so many rows each that together make up the stack."""
    if not stack:
        yield ()
        return
    inner = math.prod(stack[1:])
    if inner >= rows and len(stack) > 1:
        for i in range(stack[0]):
            for rest in _row_blocks(stack[1:], rows):
                yield (i, *rest)
        return
    step = max(1, rows // inner)
    for first in range(0, stack[0], step):
        yield (slice(first, first + step),)


def _interpolated(mask: Array, frequencies: int) -> Array:
    """The mask at so many frequencies, linearly between its entries at 0, ..., the highest."""
    last = mask.shape[-1] - 1
    places = np.linspace(0, last, frequencies)
    left = places.astype(np.int64)
    weight = (places - left).astype(mask.dtype)
    right = np.minimum(left + 1, last)
    return np.asarray(mask[..., left] * (1 - weight) + mask[..., right] * weight)
