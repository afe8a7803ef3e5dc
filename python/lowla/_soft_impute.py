"""Nuclear-norm completion and singular value thresholding: soft_impute, svt."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from lowla import _arrays, _checks
from lowla._call import Call
from lowla._completion import CompletionCallback, running_info
from lowla._completion_result import CompletionResult, model_of
from lowla._observations import Observable, Observations, observations
from lowla._results import CompletionInfo, SVDResult
from lowla._rng import RngLike, philox_key
from lowla._rsvd import rsvd

if TYPE_CHECKING:
    from lowla._arrays import MatrixLike
    from lowla._results import Array

_FIRST_RANK = 10
_SPARE = 4  # singular values below the threshold that have to be seen


def soft_impute(
    M: Observable,
    lam: float,
    *,
    rank_max: int | None = None,
    duplicates: str = "error",
    n_iter: int = 200,
    tol: float = 1e-6,
    rng: RngLike = None,
    callback: CompletionCallback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> CompletionResult:
    """Nuclear-norm completion: the X that minimises Σ (X_ij - M_ij)² / 2 + lam ‖X‖_*.

    The sum runs over the observed entries; the problem is convex, and the rank follows from `lam`.

    Parameters
    ----------
    M : (m, n) sparse matrix, array or masked array
        As in `complete`.
    lam : float
        Greater than 0. From the largest singular value of the observations (zeros elsewhere) on, X
        is 0.
    rank_max : int, optional
        Largest rank, in 1..min(m, n). If the solution has a larger one, it is not reached.
    duplicates, callback, progress, check_finite
        As in `complete`.
    n_iter : int, default 200
        Most rounds: one thresholded decomposition and three sweeps of ridge regressions.
    tol : float, default 1e-6
        In (0, 1): the relative duality gap at which it ends.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional

    Returns
    -------
    CompletionResult
        X = U @ V.T with U = P √S, V = Q √S for its singular value decomposition P S Qᵀ; one column
        of zeros if X = 0. `info.gap` is the certificate.

    Raises
    ------
    ValueError, TypeError
        As in `complete`.

    Warns
    -----
    ConvergenceWarning
        If the gap is still larger than `tol`.

    Notes
    -----
    **Guarantee.** The objective is within `info.gap` times itself of the minimum, by weak duality:
    for R = M - X at the observed entries, min(1, lam / ‖R‖₂) R is feasible for the dual problem.
    ‖R‖₂ is computed by a block Krylov method.

    **Cost.** A round takes about (2 r² + 300) N multiply-adds for rank r and N observations.
    Memory: two copies of the observations, some residuals, O((m + n) r).

    References
    ----------
    .. [1] R. Mazumder, T. Hastie, R. Tibshirani, "Spectral regularization algorithms for learning
       large incomplete matrices", Journal of Machine Learning Research 11, 2010.
    .. [2] T. Hastie, R. Mazumder, J. D. Lee, R. Zadeh, "Matrix completion and low-rank SVD via fast
       alternating least squares", Journal of Machine Learning Research 16, 2015.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> M = np.add.outer(np.arange(6.0), np.arange(5.0)) + 1.0
    >>> M[[0, 2, 4], [1, 3, 0]] = np.nan
    >>> r = lowla.soft_impute(M, lam=0.1, rng=0)
    >>> r.info.rank, r.info.gap <= 1e-6
    (2, True)
    """
    _checks.choice("duplicates", duplicates, ("error", "mean"))
    weight = _checks.positive("lam", lam)
    rounds, accuracy = _checks.count("n_iter", n_iter, least=1), _checks.tolerance(tol)
    found = observations(M, None, duplicates, check_finite)
    limit = _limit(rank_max, found.shape)
    asked = _Asked(weight, limit, accuracy)
    call = _SoftImputeCall(found, asked, callback, progress)
    there, key = found.on(call.M.device), philox_key(rng)
    with call:
        U, V, facts = call.backend.soft_impute(
            there.csr, weight, limit, rounds, accuracy, key, check_finite, call.monitor
        )
        return call.result(there, U, V, facts)


def _limit(rank_max: object, shape: tuple[int, int]) -> int:
    if not min(shape):
        raise ValueError(f"M must have at least one row and one column, got shape {shape}")
    if rank_max is None:
        return min(shape)
    number = _checks.integer("rank_max", rank_max)
    if not 1 <= number <= min(shape):
        raise ValueError(f"rank_max must be in 1..min(M.shape) = {min(shape)}, got {number}")
    return number


@dataclass(frozen=True)
class _Asked:
    lam: float
    rank_max: int
    tol: float


class _SoftImputeCall(Call[CompletionInfo]):
    """One nuclear-norm completion."""

    def __init__(
        self,
        found: Observations,
        asked: _Asked,
        callback: CompletionCallback | None,
        progress: bool,
    ) -> None:
        super().__init__("soft_impute", found.like, callback, progress)
        self._asked = asked

    def result(
        self, found: Observations, U: Array, V: Array, facts: dict[str, object]
    ) -> CompletionResult:
        sweeps, rmse = cast(int, facts["sweeps"]), cast(float, facts["rmse"])
        info = replace(
            self._so_far(sweeps, rmse),
            rank=cast(int, facts["rank"]),
            relative_residual=cast(float, facts["relative_residual"]),
            history=tuple(cast("list[float]", facts["history"])),
            converged=cast(bool, facts["converged"]),
            solver=cast(str, facts["solver"]),
            rows_undetermined=cast(int, facts["rows_undetermined"]),
            cols_undetermined=cast(int, facts["cols_undetermined"]),
            components=cast(int, facts["components"]),
            gap=cast(float, facts["gap"]),
        )
        if not info.converged and not np.isnan(info.gap):
            self.warn(
                f"stopped after {info.sweeps} rounds at rank {info.rank} and a duality gap of "
                f"{info.gap:.1e}, asked was tol={info.tol:g}"
            )
        model = model_of((U, V, 0.0, None, None), found, self.M.device)
        return CompletionResult((model.wrap(model.U), model.wrap(model.V)), info, model)

    def _so_far(self, iteration: int, error: float) -> CompletionInfo:
        asked = self._asked
        return running_info(
            asked.rank_max,
            asked.lam,
            asked.tol,
            "l2",
            "soft_impute",
            iteration,
            error,
            self.name,
            self.seconds,
        )


def svt(
    X: MatrixLike,
    tau: float,
    *,
    rng: RngLike = None,
    check_finite: bool = True,
) -> SVDResult:
    """Singular value thresholding: the proximal operator of tau ‖·‖_*.

    Parameters
    ----------
    X : (m, n) array, sparse matrix or linear operator
        As for `rsvd`.
    tau : float
        At least 0.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
    check_finite : bool, default True
        Raise if X holds NaN or Inf.

    Returns
    -------
    SVDResult
        `U` (m, r), `S` (r,), `Vh` (r, n): the singular triplets of X above tau, the values less
        tau. `info.error` is ‖X - U S Vh‖_F / ‖X‖_F.

    Raises
    ------
    ValueError, TypeError
        If X is not a numeric matrix or holds NaN or Inf, or tau is not a finite number >= 0.

    Notes
    -----
    **Guarantee.** U S Vh minimises ‖Z - X‖_F² / 2 + tau ‖Z‖_* over Z [1]_, to the accuracy of the
    triplets (see `rsvd`).

    **Cost.** `rsvd` of rank 10, 20, 40, ... until at least 4 values are below tau.

    References
    ----------
    .. [1] J.-F. Cai, E. J. Candès, Z. Shen, "A singular value thresholding algorithm for matrix
       completion", SIAM Journal on Optimization 20(4), 2010, theorem 2.1.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> U, S, Vh = lowla.svt(np.diag([5.0, 3.0, 1.0]), 2.0)
    >>> ((U * S) @ Vh).round(12) + 0.0
    array([[3., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]])
    """
    threshold = _checks.nonnegative("tau", tau)
    M = _arrays.matrix(X, "X")
    if check_finite and M.kind != "operator":
        _arrays.require_finite(M, "X")
    if 0 in M.shape:
        return rsvd(X, tol=0.5)
    key = np.random.SeedSequence(philox_key(rng))
    k = min(_FIRST_RANK, *M.shape)
    while True:
        r = rsvd(X, k, rng=key, check_finite=check_finite)
        values = np.asarray(_arrays.to_host(r.S), dtype=np.float64)
        above = int(np.count_nonzero(values > threshold))
        if k == min(M.shape) or above + _SPARE <= k:
            break
        k = min(2 * k, *M.shape)
    info = replace(r.info, k=None, rank=above, error=_shrunk_error(r, values, above, threshold))
    return SVDResult([r.U[:, :above], r.S[:above] - threshold, r.Vh[:above]], info)


def _shrunk_error(r: SVDResult, values: Array, above: int, tau: float) -> float:
    """The relative error after values have been lowered by tau or dropped."""
    lost = cast(float, r.info.error)
    top = float(values.max(initial=0.0))
    if not top > 0.0 or not lost < 1.0:
        return lost
    scaled = values / top
    norm2 = float(np.sum(scaled**2)) / (1.0 - lost**2)
    removed2 = above * (tau / top) ** 2 + float(np.sum(scaled[above:] ** 2))
    return math.sqrt(lost**2 + removed2 / norm2)
