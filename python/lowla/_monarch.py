"""Monarch matrices and long convolutions: monarch_matmul, monarch_project, monarch_dft, fftconv.

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


def monarch_matmul(L: ArrayLike, R: ArrayLike, X: ArrayLike) -> Array:
    """The product M @ X with the Monarch matrix M of the blocks L and R.

    Parameters
    ----------
    L : (l, s, r) array
        The l blocks of the block-diagonal left factor; real or complex.
    R : (k, q, p) array
        The k blocks of the right factor; k·q = l·r.
    X : (k·p,) or (k·p, c) array

    Returns
    -------
    (l·s,) or (l·s, c) array
        In the common dtype; with z[a·q + b] = sum_i R[a, b, i] x[a·p + i],
        y[i·l + j] = sum_a L[j, i, a] z[a·l + j]. For n = b² and blocks of b x b:
        y[i·b + j] = sum_a L[j, i, a] sum_c R[a, j, c] x[a·b + c].

    Raises
    ------
    ValueError
        If L or R has not 3 dimensions, k·q differs from l·r, or X has not k·p rows.
    TypeError
        If an array is not numeric or not dense, or some are on the GPU and others not.

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
    Y = direct.monarch_matmul(L, R, X) if direct is not None else None
    if Y is not None:
        return Y
    return product(*take_blocks(L, R), _arrays.dense(X, "X", (1, 2)), "X", "N", permuted=False)


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
    NotImplementedError
        If W is on the GPU.

    Notes
    -----
    **Guarantee.** Optimal [1]_: W falls into k·l blocks of m/l x n/k, a row i·l + j belonging to
    block row j, and each is replaced by the nearest block of rank one, so ||W - M||_F² is the sum
    of the squares of all but the largest singular value of every block. A Monarch matrix of these
    blocks is recovered to rounding. `info.error` is measured from the returned M.

    **Cost.** One singular value decomposition of every block, about 20·m·n·min(m/l, n/k) flops;
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


def fftconv(u: ArrayLike, k: ArrayLike) -> Array:
    """Causal convolution along the last axis: y[t] = sum_{j <= t} k[j] u[t - j].

    Parameters
    ----------
    u : (..., n) array
        Real; the signals, for instance (batch, channels, n).
    k : (..., r) array
        Real; the kernels, for instance (channels, r). Leading axes broadcast against those of u.
        Kernels shorter than n are continued by zeros; of longer ones the first n entries count.

    Returns
    -------
    (..., n) array

    Raises
    ------
    ValueError
        If the leading axes do not broadcast, or u or k is a scalar.
    TypeError
        If u or k is complex, not numeric or not dense.

    Notes
    -----
    **Guarantee.** No wrap-around: the transforms have at least n + r - 1 points. The error is at
    most a small multiple of u·log2(n) times ||k||_2 ||u||_2 [1]_. NaN and Inf propagate along the
    whole of their row.

    **Cost.** Real transforms of u, k and the result; memory two spectra of u, four times u for
    r = n.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002,
       section 24.1.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> u = np.array([1.0, 2.0, 3.0, 4.0])
    >>> lowla.fftconv(u, np.array([1.0, 0.5])).round(12)
    array([1. , 2.5, 4. , 5.5])
    """
    signals, kernels = _arrays.together([_arrays.dense(u, "u"), _arrays.dense(k, "k")], "u and k")
    if signals.dtype.kind == "c":
        raise TypeError(f"fftconv is for real u and k, got {signals.dtype}")
    try:
        stack = np.broadcast_shapes(signals.shape[:-1], kernels.shape[:-1])
    except ValueError:
        raise ValueError(
            f"the leading axes of u and k must broadcast, got shapes {signals.shape} and "
            f"{kernels.shape}"
        ) from None
    chosen, backend = _backend.select_for("fftconv", signals.device)
    signals, kernels = (M.on("cuda" if chosen == "cuda" else "host") for M in (signals, kernels))
    shape = (*stack, signals.shape[-1])
    if 0 in shape or kernels.shape[-1] == 0:
        return signals.empty(*shape)
    return signals.wrap(backend.fftconv(signals.dense, kernels.dense))


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
    L, R, X = (M.on("cuda" if chosen == "cuda" else "host") for M in operands)
    if 0 in X.shape or 0 in L.shape or 0 in R.shape:
        return X.empty(rows, *X.shape[1:])
    dense = X.dense[:, None] if len(X.shape) == 1 else X.dense
    compute = backend.monarch_solve if solve else backend.monarch_matmul
    Y = compute(L.dense, R.dense, dense, permuted, transpose, form in "CH")
    return X.wrap(Y.reshape(rows, *X.shape[1:]))


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
