"""Optimal brain surgeon pruning and natural gradients, from inverse Fisher matrices.

`lowla.InverseFisher` is in `_mfac_operator.py`. Here: what a caller may pass is checked, the
functions of a backend are called, the result goes back as the caller's kind of array.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks
from lowla._results import PruneInfo, PruneResult

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._mfac_operator import InverseFisher
    from lowla._results import Array

_LEAST_DAMP, _MOST_DAMP = 1e-300, 1e300


def obs_prune(
    w: ArrayLike,
    Finv: InverseFisher,
    n_prune: int,
    *,
    steps: int = 1,
    check_finite: bool = True,
) -> PruneResult:
    """Set weights to zero and change the others to make up for them: the optimal brain surgeon.

    Parameters
    ----------
    w : array of d entries
        The weights, of any shape.
    Finv : InverseFisher
        Of shape (d, d), made without `reduce`.
    n_prune : int
        Number of weights to prune, 0..d.
    steps : int, default 1
        Prune n_prune / steps weights at a time, the saliencies being those of the weights left.
    check_finite : bool, default True
        Raise if w holds NaN or Inf. With False such weights give NaN.

    Returns
    -------
    PruneResult
        `w`, the new weights in the shape of the old, `mask`, True where a weight is kept, and
        `loss_increase`; `info` (`PruneInfo`) beside them.

    Raises
    ------
    ValueError
        If the number of weights is not d, a count is out of range, `Finv` has `reduce`, or w holds
        NaN or Inf.
    TypeError
        If w is not numeric, not real or not dense, or an argument has the wrong type.

    Notes
    -----
    The loss around trained weights is taken as ½ δᵀ F δ for a change δ. Setting weight i alone to
    zero, with the best change of the others, costs w_i² / (2 [F⁻¹]_ii), its saliency [1]_. Each
    step prunes the weights of least saliency (the first of equal ones) in the Fisher matrix of the
    kept ones. Those that are left, P, then change by

        δ_P = F_PP⁻¹ F_PQ w_Q,

    the minimiser of ½ δᵀ F δ under w + δ = 0 on all pruned weights Q, not the sum of the changes
    for one weight each [2]_.

    **Guarantee.** No other change that sets Q to zero has a lower ½ δᵀ F δ, up to rounding; which
    weights make up Q is the saliencies' choice. `loss_increase` is ½ δᵀ F δ of the whole change,
    before it is rounded to the dtype of w.

    **Cost.** A step: m²·d + m³/3 flops for the factor with the pruned columns left out, and 5 reads
    of the gradients; each step but the last as much again as `Finv.diagonal()`.

    References
    ----------
    .. [1] B. Hassibi, D. G. Stork, "Second order derivatives for network pruning: optimal brain
       surgeon", NIPS 1992.
    .. [2] E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: efficient matrix-free approximations of
       second-order information", NeurIPS 2021.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> G = np.random.default_rng(0).standard_normal((20, 4))
    >>> w, mask, loss = lowla.obs_prune(np.array([1.0, 0.1, -2.0, 0.0]),
    ...                                 lowla.InverseFisher(G, damp=0.01), 2)
    >>> mask
    array([ True, False,  True, False])
    >>> bool(np.all(w[~mask] == 0.0))
    True
    """
    from lowla._mfac_operator import InverseFisher

    start = time.perf_counter()
    if not isinstance(Finv, InverseFisher):
        raise TypeError(f"Finv must be an InverseFisher, got {type(Finv).__name__}")
    if Finv._reduce is not None:
        raise ValueError("obs_prune needs all columns in one place: Finv was made with reduce")
    W, d = _real(_arrays.dense(w, "w"), "w"), Finv.shape[0]
    if math.prod(W.shape) != d:
        raise ValueError(f"w must have {d} entries as Finv, got shape {W.shape}")
    count = _checks.integer("n_prune", n_prune)
    if not 0 <= count <= d:
        raise ValueError(f"n_prune must be in 0..{d}, got {count}")
    number = _checks.count("steps", steps, least=1)
    if check_finite:
        _arrays.require_finite(W, "w")
    if W.device != Finv._home:
        raise TypeError(
            "the gradients of Finv and w must both be in main memory or both on the GPU"
        )
    old = _arrays.to_host(W.dense).astype(np.float64).reshape(-1)
    new, kept, loss = _pruned(old, Finv, count, number)
    info = PruneInfo(
        n_prune=count,
        steps=number,
        kept=d - count,
        backend=Finv.info.backend,
        seconds=time.perf_counter() - start,
    )
    with np.errstate(over="ignore"):
        found = new.astype(W.dtype).reshape(W.shape)
    mask = cast("Array", kept.reshape(W.shape))
    return PruneResult((_back(W, found), _back(W, mask), loss), info)


def _back(W: Matrix, found: Array) -> Array:
    """An array in main memory as the caller's kind, where W is."""
    with W.current_device():
        return W.wrap(_arrays.placed(found, W.device))


def _pruned(
    w: npt.NDArray[np.float64], Finv: InverseFisher, count: int, steps: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], float]:
    """New weights, which are kept, and ½ δᵀFδ, all in main memory."""
    kept, L, new = np.ones(len(w), np.bool_), Finv._L, w
    steps = min(steps, count)
    for total in (count * step // steps for step in range(1, steps + 1)):
        diagonal = _arrays.to_host(Finv._diagonal(L, "float64"))
        # |w_i| / sqrt([F⁻¹]_ii): the order of the saliencies, which could overflow.
        salience = np.abs(new[kept]) / np.sqrt(diagonal[kept])
        least = np.argsort(salience, kind="stable")[: total - int((~kept).sum())]
        kept[np.flatnonzero(kept)[least]] = False
        L = Finv._masked_factor(kept)
        # From the old weights each time: the model is quadratic, the steps only choose Q.
        right = np.where(kept, Finv._multiply(np.where(kept, 0.0, w)), 0.0)
        change = Finv._solve_host(L, right)
        new = np.where(kept, w + change, 0.0)
    delta = new - w
    with np.errstate(over="ignore"):
        loss = 0.5 * float(delta @ Finv._multiply(delta))
    return new, kept, loss


def natural_gradient(G: ArrayLike, U: ArrayLike, S: ArrayLike, damp: float) -> Array:
    """(damp·I + U diag(S)² Uᵀ)⁻¹ G, for a curvature matrix of low rank.

    Parameters
    ----------
    G : (..., d, r) array
        Real; leading axes are a stack.
    U : (..., d, s) array
        Need not have orthonormal columns: gradients as columns with S = 1 give the update of
        Natural GaLore [1]_.
    S : (..., s) array
    damp : float
        In 1e-300..1e300.

    Returns
    -------
    (..., d, r) array
        In the common dtype of the three.

    Raises
    ------
    ValueError
        If shapes do not fit, `damp` is out of range, or an array holds NaN or Inf.
    TypeError
        If an array is not numeric, not real or not dense, or some are on the GPU and others not.
    numpy.linalg.LinAlgError
        If `damp` is below the rounding of diag(S) UᵀU diag(S), or that overflows.

    Notes
    -----
    **Guarantee.** Computed in float64 by Woodbury's identity and rounded once: the error is a small
    multiple of u₆₄·cond(damp·I + VᵀV)·||G|| / damp before that, V = U diag(S).

    **Cost.** 2·d·s² + 4·d·s·r + s³/3 flops, two reads of U and G, 8·s² bytes.

    References
    ----------
    .. [1] A. Das, "Natural GaLore: accelerating GaLore for memory-efficient LLM training and
       fine-tuning", 2024, arXiv:2410.16029.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> U, S, G = np.array([[1.0], [0.0]]), np.array([2.0]), np.array([[10.0], [3.0]])
    >>> lowla.natural_gradient(G, U, S, damp=1.0)
    array([[2.],
           [3.]])
    """
    arrays = [_real(_arrays.dense(A, name), name) for A, name in ((G, "G"), (U, "U"), (S, "S"))]
    right, left, scale = _arrays.together(arrays, "G, U and S")
    number = checked_damp(damp)
    for M, name in ((right, "G"), (left, "U")):
        if len(M.shape) < 2:
            raise ValueError(f"{name} must have at least 2 dimensions, got shape {M.shape}")
    needed = (*right.shape[:-1], scale.shape[-1])
    if left.shape != needed or scale.shape != (*right.shape[:-2], scale.shape[-1]):
        raise ValueError(
            "G, U and S must have shapes (..., d, r), (..., d, s) and (..., s), got "
            f"{right.shape}, {left.shape} and {scale.shape}"
        )
    for M, name in ((right, "G"), (left, "U"), (scale, "S")):
        _arrays.require_finite(M, name)
    name, backend = _backend.select_for("natural_gradient", right.device)
    if 0 in right.shape:
        return right.empty(*right.shape)
    right, left, scale = (M.for_backend(name) for M in (right, left, scale))
    with right.current_device():
        found = backend.natural_gradient(right.dense, left.dense, scale.dense, number)
        return right.wrap(found)


def checked_damp(damp: object) -> float:
    """A positive float that may be multiplied and divided by."""
    number = _checks.real("damp", damp)
    if not _LEAST_DAMP <= number <= _MOST_DAMP:
        raise ValueError(f"damp must be in 1e-300..1e300, got {number:g}")
    return number


def columns(shards: list[npt.NDArray[Any]], lo: int, hi: int) -> list[npt.NDArray[Any]]:
    """Columns lo..hi-1 of the shards, as views."""
    found, first = [], 0
    for shard in shards:
        start, stop = max(lo - first, 0), min(hi - first, shard.shape[1])
        if start < stop:
            found.append(shard[:, start:stop])
        first += shard.shape[1]
    return found or [shards[0][:, :0]]


def _real(M: Matrix, name: str) -> Matrix:
    if M.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got {M.dtype}")
    return M
