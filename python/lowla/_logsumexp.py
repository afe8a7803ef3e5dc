"""logsumexp and softmax: one and two reads of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lowla import _arrays, _backend, _checks

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._backend import Backend
    from lowla._results import Array


def logsumexp(X: ArrayLike, axis: int | None = None) -> Array:
    """log(sum(exp(X))) along an axis, without overflow.

    Parameters
    ----------
    X : array
        Real, at least 1 dimension.
    axis : int, optional
        All entries if not given.

    Returns
    -------
    array
        In the dtype of X, without that axis; a scalar where none is left. The sum of no terms is
        -inf.

    Raises
    ------
    ValueError
        If X is a scalar or has no such axis.
    TypeError
        If X is complex or not numeric, or axis is no int.

    Notes
    -----
    **Guarantee.** Infinities and NaN as in `scipy.special.logsumexp`. With n terms the error is at
    most (n + 10) u, u = 1.1e-16, in the result, beside its rounding; for float32 6e-7 more, since
    exponentials and sums of eight of them may be in single precision.

    **Cost.** One read of X, without one for the maximum beforehand [1]_. Memory: the result and a
    block of rows.

    References
    ----------
    .. [1] M. Dukhan, A. Ablavatski, "The two-pass softmax algorithm", arXiv:2001.04438, 2020.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> round(float(lowla.logsumexp(np.array([1000.0, 1000.0]))), 6)  # 1000 + log(2)
    1000.693147
    """
    M, backend = _real_array(X, "logsumexp")
    if axis is None:
        with M.current_device():
            return M.wrap(backend.logsumexp(_flat(M.dense)[None, :]).reshape(()))[()]
    number = _axis(axis, M.shape)
    shape = M.shape[:number] + M.shape[number + 1 :]
    with M.current_device():
        return M.wrap(backend.logsumexp(_rows(M, number)).reshape(shape))[()]


def softmax(X: ArrayLike, axis: int = -1) -> Array:
    """exp(X) / sum(exp(X)) along an axis, without overflow.

    Parameters
    ----------
    X : array
        Real, at least 1 dimension.
    axis : int, default -1

    Returns
    -------
    array
        Of the shape and dtype of X; sums to 1 along the axis.

    Raises
    ------
    ValueError
        If X is a scalar or has no such axis.
    TypeError
        If X is complex or not numeric, or axis is no int.

    Notes
    -----
    **Guarantee.** Infinities and NaN as in `scipy.special.softmax`: -inf gives 0; +inf, NaN, or
    nothing but -inf give NaN along that line.

    **Cost.** Two reads of X instead of three [1]_. Memory: the result and a block of rows.

    References
    ----------
    .. [1] M. Dukhan, A. Ablavatski, "The two-pass softmax algorithm", arXiv:2001.04438, 2020.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> lowla.softmax(np.array([[0.0, 0.0], [-1000.0, 1000.0]]))
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    M, backend = _real_array(X, "softmax")
    number = _axis(axis, M.shape)
    with M.current_device():
        shares = backend.softmax(_rows(M, number))
        if len(M.shape) == 1:
            return M.wrap(shares[0])
        return M.wrap(np.moveaxis(shares, -1, number))


def _real_array(X: ArrayLike, function: str) -> tuple[Matrix, Backend]:
    M = _arrays.dense(X, "X")
    if M.dtype.kind == "c":
        raise TypeError(f"X must be real, got dtype {M.dtype}")
    name, backend = _backend.select_for(function, M.device)
    return M.for_backend(name), backend


def _axis(axis: object, shape: tuple[int, ...]) -> int:
    number = _checks.integer("axis", axis)
    if not -len(shape) <= number < len(shape):
        raise ValueError(f"axis must be in {-len(shape)}..{len(shape) - 1}, got {number}")
    return number % len(shape)


def _flat(a: Array) -> Array:
    """All entries, in the order in which they lie in memory: no copy where they fill a stretch."""
    axes = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    flat: Array = a.transpose(axes).reshape(-1)
    return flat


def _rows(M: Matrix, axis: int) -> Array:
    """The array with that axis last, at least 2 dimensions."""
    if len(M.shape) == 1:
        return M.dense[None, :]
    return np.moveaxis(M.dense, axis, -1)
