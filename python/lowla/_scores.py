"""Importance of rows and sampling by it: leverage_scores, lewis_weights, sensitivity_sample."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from lowla import _arrays, _backend, _checks
from lowla._errors import ConvergenceWarning
from lowla._results import RowSample, SampleInfo
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, SupportsToCsr
    from lowla._results import Array

SampleMethod: TypeAlias = Literal["leverage", "root_leverage", "lewis", "sensitivity", "mixed"]

_LEVERAGE = ("auto", "exact", "sketched")
_SAMPLE = ("leverage", "root_leverage", "lewis", "sensitivity", "mixed")
_LEWIS_STEPS = 500


def leverage_scores(
    A: ArrayLike | SupportsToCsr,
    *,
    method: Literal["auto", "exact", "sketched"] = "auto",
    rng: RngLike = None,
) -> Array:
    """Leverage scores τ_i = a_iᴴ (Aᴴ A)⁺ a_i, the squared row norms of an orthonormal basis of A.

    Parameters
    ----------
    A : (m, n) array or sparse matrix
        Real or complex.
    method : {"auto", "exact", "sketched"}, default "auto"
        "sketched" replaces AᴴA by that of a sketch of 32·n rows. "auto" does so for large A with at
        least 64·n rows.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        For the sketch. The same int gives the same scores on every backend.

    Returns
    -------
    (m,) real array
        In [0, 1]; the exact ones sum to the rank of A.

    Raises
    ------
    ValueError
        If A has not two dimensions or holds NaN or Inf, or `method` has no such value.
    TypeError
        If A is not numeric, or is a linear operator.

    Notes
    -----
    **Guarantee.** "exact": to rounding, whatever the condition of A. "sketched": within a factor
    of 2 with high probability, as the sketch keeps the norms in range(A) to 1 ± (1/√32 + 0.08)
    [1]_.

    **Cost.** "exact" about 4·m·n² flops in three reads; "sketched" m·n² flops in two.

    References
    ----------
    .. [1] P. Drineas, M. Magdon-Ismail, M. W. Mahoney, D. P. Woodruff, "Fast approximation of
       matrix coherence and statistical leverage", JMLR 13, 2012.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.vstack([np.eye(2), np.eye(2), [[0.0, 0.0]]])
    >>> [round(float(t), 6) for t in lowla.leverage_scores(A)]
    [0.5, 0.5, 0.5, 0.5, 0.0]
    """
    M = _arrays.matrix(A, operator=False)
    _checks.choice("method", method, _LEVERAGE)
    key = philox_key(rng)
    name, backend = _backend.select_for("leverage_scores", M.device)
    M = M.for_backend(name)
    if 0 in M.shape:
        return M.empty(M.shape[0], real=True)
    with M.current_device():
        return M.wrap(backend.leverage_scores(M.payload, method, key, True))


def lewis_weights(A: ArrayLike | SupportsToCsr, p: float, *, tol: float = 1e-3) -> Array:
    """The l_p Lewis weights w_i = (a_iᴴ (Aᴴ W^(1-2/p) A)⁺ a_i)^(p/2); p = 2 are leverage scores.

    Parameters
    ----------
    A : (m, n) array or sparse matrix
        Real or complex.
    p : float
        At least 1.
    tol : float, default 1e-3
        In (0, 1): largest absolute log of the ratio of the two sides of the equation.

    Returns
    -------
    (m,) real array
        Non-negative, summing to the rank of A (within `tol`).

    Raises
    ------
    ValueError
        If A has not two dimensions or holds NaN or Inf, p is below 1 or infinite, or tol is outside
        (0, 1).
    TypeError
        If A is not numeric, or is a linear operator.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached.

    Notes
    -----
    **Guarantee.** The weights exist and are unique for every p [1]_. Up to p = 2 the error in log w
    shrinks by abs(1 - p/2) a step, to p = 4 globally and beyond near the solution by
    (p - 2)/(p + 2).

    **Cost.** About 4·m·n² flops and two reads of A a step.

    References
    ----------
    .. [1] M. B. Cohen, R. Peng, "l_p row sampling by Lewis weights", STOC 2015.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.random.default_rng(0).standard_normal((50, 3))
    >>> round(float(lowla.lewis_weights(A, 1.0, tol=1e-6).sum()), 4)
    3.0
    """
    M = _arrays.matrix(A, operator=False)
    p = _checks.norm_order(p)
    tol = _checks.tolerance(tol)
    name, backend = _backend.select_for("lewis_weights", M.device)
    M = M.for_backend(name)
    if 0 in M.shape:
        return M.empty(M.shape[0], real=True)
    with M.current_device():
        w, facts = backend.lewis_weights(M.payload, p, tol, _LEWIS_STEPS)
    if not facts["converged"]:
        gap = cast(float, facts["gap"])
        warnings.warn(
            f"lewis_weights stopped at a gap of {gap:.1e}, asked was tol={tol:g}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return M.wrap(w)


def sensitivity_sample(
    A: ArrayLike | SupportsToCsr,
    n_samples: int,
    *,
    p: float = 2,
    method: SampleMethod = "leverage",
    rng: RngLike = None,
) -> RowSample:
    """Rows of A drawn by their importance, with weights that keep its p-norms.

    Parameters
    ----------
    A : (m, n) array or sparse matrix
        Real or complex.
    n_samples : int
        At least 1.
    p : float, default 2
        At least 1.
    method : {"leverage", "root_leverage", "lewis", "sensitivity", "mixed"}, default "leverage"
        Scores: τ_i; τ_i^(p/2); Lewis weights; estimates of the l_p sensitivities
        max_x abs(a_i x)^p / ||A x||_p^p; the mean of leverage scores and sensitivities.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int draws the same rows on every backend.

    Returns
    -------
    RowSample
        `indices` (n_samples,) int64, ascending, a row may come more than once; `weights`
        (n_samples,); `info` (`SampleInfo`). The sampled matrix is `weights[:, None] * A[indices]`.

    Raises
    ------
    ValueError
        If A has not two dimensions, is zero or holds NaN or Inf, n_samples is below 1, p is below 1
        or infinite, or `method` has no such value.
    TypeError
        If A is not numeric, or is a linear operator.

    Notes
    -----
    **Guarantee.** For every x, ||S A x||_p^p has mean ||A x||_p^p. With Lewis weights and
    n_samples = 8·n^max(1, p/2)·ln(4n)/ε² it is within 1 ± ε of it for all x together, with high
    probability [1]_ [2]_. The sensitivity estimates are below the truth by at most a factor
    n^abs(p/2-1).

    **Cost.** That of the scores; O(m) for the draw.

    References
    ----------
    .. [1] M. B. Cohen, R. Peng, "l_p row sampling by Lewis weights", STOC 2015.
    .. [2] D. P. Woodruff, T. Yasuda, "Sharper bounds for l_p sensitivity sampling", ICML 2023,
       arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.vstack([np.full((999, 1), 0.01), [[10.0]]])
    >>> indices, weights = lowla.sensitivity_sample(A, 20, p=1, method="lewis", rng=0)
    >>> int(indices[-1]), indices.shape, weights.shape
    (999, (20,), (20,))
    """
    M = _arrays.matrix(A, operator=False)
    n_samples = _checks.count("n_samples", n_samples, least=1)
    p = _checks.norm_order(p)
    _checks.choice("method", method, _SAMPLE)
    if 0 in M.shape or _arrays.largest(M) == 0.0:
        raise ValueError(f"A must have a row that is not zero, got shape {M.shape}")
    start = time.perf_counter()
    key = philox_key(rng)
    name, backend = _backend.select_for("row_scores", M.device)
    M = M.for_backend(name)
    with M.current_device():
        scores = backend.row_scores(M.payload, p, method, key, True)
        indices, weights = backend.sample_rows(scores, n_samples, p, key)
    info = SampleInfo(
        p=p,
        method=method,
        total=float(scores.sum()),
        largest_weight=float(weights.max()),
        distinct=len(np.unique(_arrays.to_host(indices))),
        backend=name,
        seconds=time.perf_counter() - start,
    )
    return RowSample((M.wrap(cast("Array", indices)), M.wrap(weights)), info)
