"""Monarch matrices, Fourier transforms and long convolutions: what _numba.monarch computes.

Dao et al. (2022), "Monarch: expressive structured matrices for efficient and accurate training".
Here: what a caller may pass is checked, one backend function is called, its result goes back as the
caller's kind of array.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks
from lowla._results import MonarchInfo

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._monarch_operator import Monarch
    from lowla._results import Array

Form: TypeAlias = Literal["N", "T", "C", "H"]
"""M itself, transposed, conjugated, or both."""


def monarch_matmul(L: ArrayLike, R: ArrayLike, X: ArrayLike, *, out: Array | None = None) -> Array:
    """The product M @ X with the Monarch matrix M of the blocks L and R.

    Parameters
    ----------
    L : (l, s, r) array
        The l blocks of the block-diagonal left factor; real or complex.
    R : (k, q, p) array
        The k blocks of the right factor; k·q = l·r.
    X : (k·p,) or (k·p, c) array
    out : array, optional
        Takes the result, as in `numpy.matmul`: an array of its kind, shape and dtype. To fill fresh
        memory can take as long as the product itself. It may share memory with the operands;
        fastest is one that does not and is C-contiguous.

    Returns
    -------
    (l·s,) or (l·s, c) array
        In the common dtype; `out` where that is given. With
        z[a·q + b] = sum_i R[a, b, i] x[a·p + i],
        y[i·l + j] = sum_a L[j, i, a] z[a·l + j]. For n = b² and blocks of b x b:
        y[i·b + j] = sum_a L[j, i, a] sum_c R[a, j, c] x[a·b + c].

    Raises
    ------
    ValueError
        If L or R has not 3 dimensions, k·q differs from l·r, X has not k·p rows, or `out` not the
        shape of the result or is read-only.
    TypeError
        If an array is not numeric or not dense, some are on the GPU and others not, or `out` is of
        another kind or dtype than the result.

    Notes
    -----
    **Guarantee.** The error is at most (p + r)·u times the product of the absolute values, to first
    order. NaN and Inf propagate.

    **Cost.** 2·c·(k·q·p + l·s·r) flops [1]_: 4·c·n^1.5 for b x b blocks, where a dense product
    takes 2·c·n². Memory beside the result that of 64 columns.

    References
    ----------
    .. [1] T. Dao, B. Chen, N. S. Sohoni, A. Desai, M. Poli, J. Grogan, A. Liu, A. Rao, A. Rudra,
       C. Ré, "Monarch: expressive structured matrices for efficient and accurate training",
       ICML 2022, arXiv:2204.00595.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A, B = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    >>> L, R = np.stack([A, A]), np.stack([B, B])  # A ⊗ B is a Monarch matrix
    >>> lowla.monarch_matmul(L, R, np.arange(4.0))
    array([ 7., 11., 15., 23.])
    >>> np.kron(A, B) @ np.arange(4.0)
    array([ 7., 11., 15., 23.])
    """
    direct = _backend.direct()
    Y = direct.monarch_matmul(L, R, X, out) if direct is not None else None
    if Y is not None:
        return Y
    operand = _arrays.dense(X, "X", (1, 2))
    return _arrays.into(out, product(*take_blocks(L, R), operand, "X", "N", permuted=False))


def monarch_project(
    W: ArrayLike, blocks: tuple[int, int] | None = None, *, check_finite: bool = True
) -> Monarch:
    """The Monarch matrix nearest to W in the Frobenius norm.

    Parameters
    ----------
    W : (m, n) array
        Real or complex.
    blocks : (k, l), optional
        Numbers of blocks of R (k, l, n/k) and of L (l, m/l, k); k divides n and l divides m. The
        default is the largest divisor k <= √n and the smallest divisor l >= √m: square blocks where
        W is square.
    check_finite : bool, default True
        Raise if W holds NaN or Inf. With False such input gives NaN.

    Returns
    -------
    Monarch
        With `info` (`MonarchInfo`).

    Raises
    ------
    ValueError
        If W has not 2 dimensions, is empty, or holds NaN or Inf, or `blocks` does not divide its
        shape.
    TypeError
        If W is not numeric or not dense, or `blocks` no pair of ints.

    Notes
    -----
    **Guarantee.** Optimal [1]_: W falls into k·l blocks of m/l x n/k, a row i·l + j belonging to
    block row j, and each is replaced by the nearest block of rank one, so ||W - M||_F² is the sum
    of the squares of all but the largest singular value of every block. A Monarch matrix of these
    blocks is recovered to rounding. `info.error` is measured from the returned M.

    **Cost.** In C++ about 2·m·n·d flops, d = min(m/l, n/k), and memory of a few blocks a thread:
    the leading eigenvector of the d x d Gram matrix of every block comes from a Lanczos process
    that a factorisation then certifies, or where it does not, from a tridiagonalisation. The Numba
    backend takes a singular value decomposition of every block, about ten times the flops, and
    memory 1/k of W in double precision.

    References
    ----------
    .. [1] T. Dao, B. Chen, N. S. Sohoni, A. Desai, M. Poli, J. Grogan, A. Liu, A. Rao, A. Rudra,
       C. Ré, "Monarch: expressive structured matrices for efficient and accurate training",
       ICML 2022, arXiv:2204.00595.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> W = np.kron(np.ones((3, 3)), np.eye(3))
    >>> M = lowla.monarch_project(W)
    >>> M
    Monarch(9 x 9, L (3, 3, 3), R (3, 3, 3))
    >>> bool(np.allclose(M.toarray(), W)), M.info.error < 1e-14
    (True, True)
    """
    from lowla._monarch_operator import Monarch

    start = time.perf_counter()
    M = _arrays.dense(W, "W", (2,))
    if 0 in M.shape:
        raise ValueError(f"W must not be empty, got shape {M.shape}")
    k, l = _divisors(M.shape) if blocks is None else _checked_blocks(blocks, M.shape)
    name, backend = _backend.select_for("monarch_project", M.device)
    M = M.for_backend(name)
    L, R, error = backend.monarch_project(M.dense, k, l, check_finite)
    info = MonarchInfo(
        blocks=(k, l), error=error, backend=name, seconds=time.perf_counter() - start
    )
    return Monarch(M.wrap(L), M.wrap(R), info=info)


def monarch_dft(n: int, *, dtype: npt.DTypeLike = np.complex128) -> Monarch:
    """The matrix of the discrete Fourier transform of order n, as a Monarch matrix.

    Parameters
    ----------
    n : int
        At least 1.
    dtype : complex64 or complex128, default complex128

    Returns
    -------
    Monarch
        F with F @ x = numpy.fft.fft(x). Its blocks are of k x k and n/k x n/k, k the largest
        divisor of n up to √n, behind a permutation of x (`Monarch.permuted`).

    Raises
    ------
    ValueError
        If n is below 1.
    TypeError
        If n is no int, or the dtype not complex.

    Notes
    -----
    **Guarantee.** Exact: with input index j·k + i and output index a·l + b, l = n/k, the entries
    ω^((j·k + i)(a·l + b)) = ω^(k·j·b) ω^(i·(a·l + b)) are products of one entry of R and one of L
    [1]_, each correctly rounded to within a few u.

    **Cost.** n·(k + n/k) numbers; a product 2·n·(k + n/k) complex multiply-adds a column. For prime
    n that is the dense matrix.

    References
    ----------
    .. [1] J. W. Cooley, J. W. Tukey, "An algorithm for the machine calculation of complex Fourier
       series", Mathematics of Computation 19, 1965.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> F = lowla.monarch_dft(12)
    >>> x = np.arange(12.0)
    >>> bool(np.allclose(F @ x, np.fft.fft(x)))
    True
    >>> F.nparams
    84
    """
    from lowla._monarch_operator import Monarch

    size = _checks.count("n", n, least=1)
    name = np.dtype(dtype).name
    if name not in ("complex64", "complex128"):
        raise TypeError(f"dtype must be complex64 or complex128, got {name}")
    _, backend = _backend.select_for("monarch_dft", "host")
    L, R = backend.monarch_dft(size, _divisors((size, size))[0], name)
    return Monarch(L, R, permuted=True)


def monarch_fft(x: ArrayLike, n: int | None = None, *, inverse: bool = False) -> Array:
    """The discrete Fourier transform along the last axis, as numpy.fft.fft and numpy.fft.ifft.

    Parameters
    ----------
    x : (..., m) array
        Real or complex.
    n : int, optional
        Length of the transform, m by default: x is cut to it or continued by zeros.
    inverse : bool, default False
        The inverse transform, 1/n included.

    Returns
    -------
    (..., n) array
        Complex, in the precision of x.

    Raises
    ------
    ValueError
        If n is below 1, or x is a scalar or its last axis empty.
    TypeError
        If x is not numeric or not dense, or n no int.

    Notes
    -----
    **Guarantee.** y[j] = sum_t x[t] ω^(j·t), ω = exp(-2πi/n), which is `monarch_dft(n) @ x`, with
    an error of at most a small multiple of u·log2(n) times ||y||_2 [1]_. NaN and Inf propagate
    along the whole of their row.

    **Cost.** O(n·log n) flops a row. On the CPU it is scipy.fft, which takes a fifth of the time of
    the Monarch product there. The transform as two Monarch stages, 4·n^1.5 complex
    multiply-adds in matrix products [2]_, pays where those are nearly free: on the matrix units of
    a GPU.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002,
       section 24.1.
    .. [2] D. Y. Fu, H. Kumbong, E. Nguyen, C. Ré, "FlashFFTConv: efficient convolutions for long
       sequences with tensor cores", ICLR 2024, arXiv:2311.05908.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> x = np.arange(6.0)
    >>> X = lowla.monarch_fft(x)
    >>> bool(np.allclose(X, np.fft.fft(x))), bool(np.allclose(X, lowla.monarch_dft(6) @ x))
    (True, True)
    >>> bool(np.allclose(lowla.monarch_fft(X, inverse=True), x))
    True
    """
    rows = _arrays.dense(x, "x")
    *stack, length = rows.shape
    if length == 0:
        raise ValueError(f"the last axis of x must not be empty, got shape {rows.shape}")
    size = length if n is None else _checks.count("n", n, least=1)
    chosen, backend = _backend.select_for("monarch_fft", rows.device)
    if 0 in stack:
        complex_rows = _arrays.cast_to(rows, np.result_type(rows.dtype, np.complex64), "x")
        return complex_rows.empty(*stack, size)
    rows = rows.for_backend(chosen)
    return rows.wrap(backend.monarch_fft(rows.dense, size, bool(inverse)))


def fftconv(u: ArrayLike, k: ArrayLike, *, mask: ArrayLike | None = None) -> Array:
    """Causal convolution along the last axis: y[t] = sum_{j <= t} k[j] u[t - j].

    Parameters
    ----------
    u : (..., n) array
        Real; the signals, for instance (batch, channels, n).
    k : (..., r) array
        Real; the kernels, for instance (channels, r). Leading axes broadcast against those of u.
        Kernels shorter than n are continued by zeros; of longer ones the first n entries count.
    mask : (..., f) array, optional
        Real; factors for the frequencies of the kernels: f >= 1 samples on a uniform grid from 0 to
        the highest, linearly interpolated to the n_fft//2 + 1 frequencies of the transforms
        (f of that size is used as it is). Leading axes broadcast against those of u and k. It is
        taken in the precision of u and k.

    Returns
    -------
    (..., n) array

    Raises
    ------
    ValueError
        If the leading axes do not broadcast, or an array is a scalar, or the mask is empty.
    TypeError
        If an array is complex, not numeric or not dense.

    Notes
    -----
    **Guarantee.** The transforms have n_fft = `scipy.fft.next_fast_len(n + min(r, n) - 1,
    real=True)` points: without a mask nothing wraps around. The error is at most a small multiple
    of u·log2(n) times ||k||_2 ||u||_2 (and the largest factor of the mask) [1]_. NaN and Inf
    propagate along the whole of their row.

    With a mask it is the circular convolution of n_fft points with the kernel whose Fourier
    coefficients are those of k times the mask [2]_: such a kernel has no longer a beginning and an
    end, so that y[t] depends on all of u.

    **Cost.** Real transforms of u, k and the result. u goes through in blocks of rows that stay in
    the second-level cache; memory beside the result the spectra of the smaller of u and k.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002,
       section 24.1.
    .. [2] D. Y. Fu, H. Kumbong, E. Nguyen, C. Ré, "FlashFFTConv: efficient convolutions for long
       sequences with tensor cores", ICLR 2024, arXiv:2311.05908 (frequency-sparse convolutions).

    Examples
    --------
    >>> import numpy as np, lowla
    >>> u = np.array([1.0, 2.0, 3.0, 4.0])
    >>> lowla.fftconv(u, np.array([1.0, 0.5])).round(12)
    array([1. , 2.5, 4. , 5.5])
    >>> lowla.fftconv(u, np.array([1.0, 0.5]), mask=[2.0]).round(12)
    array([ 2.,  5.,  8., 11.])
    """
    signals, kernels = _arrays.together([_arrays.dense(u, "u"), _arrays.dense(k, "k")], "u and k")
    if signals.dtype.kind == "c":
        raise TypeError(f"fftconv is for real u and k, got {signals.dtype}")
    weights = None if mask is None else _checked_mask(mask, signals)
    operands = [M for M in (signals, kernels, weights) if M is not None]
    try:
        stack = np.broadcast_shapes(*(M.shape[:-1] for M in operands))
    except ValueError:
        names = "u and k" if weights is None else "u, k and mask"
        shapes = " and ".join(str(M.shape) for M in operands)
        raise ValueError(
            f"the leading axes of {names} must broadcast, got shapes {shapes}"
        ) from None
    chosen, backend = _backend.select_for("fftconv", signals.device)
    signals, kernels, *rest = (M.for_backend(chosen) for M in operands)
    shape = (*stack, signals.shape[-1])
    if 0 in shape or kernels.shape[-1] == 0:
        return signals.empty(*shape)
    factors = rest[0].dense if rest else None
    return signals.wrap(backend.fftconv(signals.dense, kernels.dense, factors))


def take_blocks(L: ArrayLike, R: ArrayLike) -> tuple[Matrix, Matrix]:
    """L and R taken in, in their common dtype."""
    left, right = _arrays.together(
        [_arrays.dense(L, "L", (3,)), _arrays.dense(R, "R", (3,))], "L and R"
    )
    (l, _, r), (k, q, _) = left.shape, right.shape
    if k * q != l * r:
        raise ValueError(
            f"L (l, s, r) and R (k, q, p) must have k*q = l*r, got shapes {left.shape} and "
            f"{right.shape}"
        )
    return left, right


def product(L: Matrix, R: Matrix, X: Matrix, name: str, form: Form, *, permuted: bool) -> Array:
    """M X in one of its forms, as X's kind of array."""
    return _called("monarch_matmul", L, R, X, name, form, permuted=permuted)


def solution(L: Matrix, R: Matrix, b: Matrix, name: str, form: Form, *, permuted: bool) -> Array:
    """M⁻¹ b in one of its forms, as b's kind of array."""
    return _called("monarch_solve", L, R, b, name, form, permuted=permuted)


def _called(
    function: Literal["monarch_matmul", "monarch_solve"],
    L: Matrix,
    R: Matrix,
    X: Matrix,
    name: str,
    form: Form,
    *,
    permuted: bool,
) -> Array:
    transpose, solve = form in "TH", function == "monarch_solve"
    rows, columns = L.shape[0] * L.shape[1], R.shape[0] * R.shape[2]
    if transpose:
        rows, columns = columns, rows
    if X.shape[0] != columns:
        raise ValueError(f"{name} must have {columns} rows, got shape {X.shape}")
    chosen, backend = _backend.select_for(function, X.device)
    operands = _arrays.together([L, R, X], f"L, R and {name}")
    L, R, X = (M.for_backend(chosen) for M in operands)
    if 0 in X.shape or 0 in L.shape or 0 in R.shape:
        return X.empty(rows, *X.shape[1:])
    dense = X.dense[:, None] if len(X.shape) == 1 else X.dense
    compute = backend.monarch_solve if solve else backend.monarch_matmul
    Y = compute(L.dense, R.dense, dense, permuted, transpose, form in "CH")
    return X.wrap(Y.reshape(rows, *X.shape[1:]))


def _checked_mask(mask: ArrayLike, signals: Matrix) -> Matrix:
    """The mask in the precision of the signals."""
    factors = _arrays.dense(mask, "mask")
    if factors.dtype.kind == "c":
        raise TypeError(f"mask must be real, got {factors.dtype}")
    if factors.shape[-1] == 0:
        raise ValueError(f"mask must have at least 1 entry, got shape {factors.shape}")
    _arrays.together([signals, factors], "u, k and mask")
    return _arrays.cast_to(factors, signals.dtype, "mask")


def _divisors(shape: tuple[int, ...]) -> tuple[int, int]:
    """The largest divisor of n up to √n, and the smallest divisor of m from √m."""
    m, n = shape
    k, other = (next(d for d in range(math.isqrt(size), 0, -1) if size % d == 0) for size in (n, m))
    return k, m // other


def _checked_blocks(blocks: object, shape: tuple[int, ...]) -> tuple[int, int]:
    if not isinstance(blocks, Sequence) or len(blocks) != 2:
        raise TypeError(f"blocks must be a pair of ints, got {blocks!r}")
    k, l = (_checks.count(f"blocks[{i}]", size, least=1) for i, size in enumerate(blocks))
    m, n = shape
    if n % k or m % l:
        raise ValueError(
            f"blocks = (k, l) must divide the columns and rows of W: got {(k, l)} for shape "
            f"{(m, n)}"
        )
    return k, l
