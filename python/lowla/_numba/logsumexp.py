"""exp for compiled loops; log-sum-exp and softmax without a pass for the maximum.

Dukhan and Ablavatski 2020 ("The two-pass softmax algorithm", arXiv:2001.04438): exp(x) = m 2^k with
m in [0.7, 1.42] kept as the pair (m, k) cannot overflow, and neither can a sum of pairs. One read
of X for the sum, a second one for softmax; about 25 flops an entry; no work space of the size of X.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .matrix import Array
from .philox import njit

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 6.93147180369123816490e-01  # its last 21 bits are zero: times |k| < 2^21 exact
_LN2_LOW = 1.90821492927058770002e-10
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, kept in the low bits
_LARGEST = 700.0  # of the arguments of exp: beyond it the result is that of 700
_FAR = 2.0**20  # lines with larger entries are shifted first, to reduce the others exactly
_ENTRIES = 1 << 18  # of X at a time


@njit
def exp_fraction(r: float) -> float:
    """exp(r) for |r| <= ln(2)/2: Taylor's polynomial of degree 12, truncation below 2^-56."""
    p = 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    return p * r + 1.0


@njit
def exp(x: float) -> float:
    """exp(x) for -700 <= x to 2 units in the last place (min(x, 700) beyond); no branches."""
    x = min(x, _LARGEST)
    rounded = x * _LOG2_E + _ROUND
    k = rounded - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    bits = np.float64(rounded).view(np.int64)
    power = np.int64((bits + 1023) << 52).view(np.float64)
    return float(exp_fraction(r) * power)


@njit
def _pair(x: float) -> tuple[float, float]:
    """(m, k) with exp(x) = m 2^k, for |x| <= 2^20."""
    k = np.floor(x * _LOG2_E + 0.5)
    return exp_fraction((x - k * _LN2_HIGH) - k * _LN2_LOW), k


@njit
def _power(k: float) -> float:
    """2^k for an integer k <= 0; 0 where it is below the smallest normal number."""
    return math.ldexp(1.0, int(k)) if k > -1022.0 else 0.0


@njit
def _sum_of_pairs(row: Array, shift: float) -> tuple[float, float, bool]:
    """(m, k) with m 2^k = sum exp(row - shift), and whether an entry was beyond the range of pairs.

    (nan, 0), (inf, 0) and (0, 0) where that is the sum.
    """
    total, exponent, special, far = 0.0, 0.0, 0.0, False
    for x in row:
        if math.isinf(x) or math.isnan(x):
            special += x if not x < 0.0 else 0.0  # -inf adds nothing
            continue
        if abs(x - shift) > _FAR:
            far = True
            continue
        m, k = _pair(x - shift)
        if total == 0.0:
            total, exponent = m, k
        elif k > exponent:
            total, exponent = total * _power(exponent - k) + m, k
        else:
            total += m * _power(k - exponent)
    if special != 0.0:
        return special, 0.0, False
    return total, exponent, far


@njit
def _sum_of_line(row: Array) -> tuple[float, float, float]:
    """(m, k, shift) with sum exp(row) = m 2^k exp(shift), the shift 0 but for huge entries."""
    total, exponent, far = _sum_of_pairs(row, 0.0)
    shift = 0.0
    if far:
        shift = -math.inf
        for x in row:
            shift = max(shift, x) if not math.isinf(x) else shift
        total, exponent, _ = _sum_of_pairs(row, shift)
    return total, exponent, shift


@njit
def _logsumexp_rows(X: Array, out: Array) -> None:
    for i in range(X.shape[0]):
        m, k, shift = _sum_of_line(X[i])
        if m == 0.0:
            out[i] = -math.inf
        else:
            out[i] = shift + (k * _LN2_HIGH + (k * _LN2_LOW + math.log(m)))


@njit
def _softmax_rows(X: Array, out: Array) -> None:
    for i in range(X.shape[0]):
        total, exponent, shift = _sum_of_line(X[i])
        for j in range(X.shape[1]):
            x = X[i, j]
            if total == 0.0 or math.isinf(total) or math.isnan(total):
                out[i, j] = math.nan  # no finite entry, or one that is inf or NaN, as SciPy has it
            elif math.isinf(x):
                out[i, j] = 0.0
            else:
                m, k = _pair(max(x - shift, -_FAR))
                out[i, j] = math.ldexp(m / total, int(max(k - exponent, -1100.0)))


def _tiles(X: Array, out: Array) -> Iterator[tuple[Array, Array]]:
    """Blocks of the rows of X (..., n), contiguous in double precision, and views of `out`."""
    if X.ndim > 2:
        for part, below in zip(X, out, strict=True):
            yield from _tiles(part, below)
        return
    rows = max(1, _ENTRIES // max(X.shape[-1], 1))
    for first in range(0, X.shape[0], rows):
        tile = X[first : first + rows].astype(np.float64)
        yield tile, out[first : first + rows]


def logsumexp(X: Array) -> Array:
    """log sum exp along the last axis; X (..., n) with at least 2 dimensions."""
    out = np.empty(X.shape[:-1], X.dtype)
    for tile, below in _tiles(X, out):
        sums = np.empty(len(tile))
        _logsumexp_rows(tile, sums)
        below[...] = sums
    return out


def softmax(X: Array) -> Array:
    """exp(X) / sum exp(X) along the last axis; X (..., n) with at least 2 dimensions."""
    out = np.empty(X.shape, X.dtype)
    for tile, below in _tiles(X, out):
        shares = np.empty(tile.shape)
        _softmax_rows(tile, shares)
        below[...] = shares
    return out
