"""Columns for a product or for a kernel matrix: cr_select, nystrom_columns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from lowla import _arrays, _backend, _checks
from lowla._cur_results import CrInfo, CRResult, NystromColumnsInfo, NystromColumnsResult
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix, Payload, SupportsToCsr
    from lowla._backend import KernelBlock
    from lowla._results import Array

Kernel: TypeAlias = "Callable[[Any, Any], Any]"
NystromMethod: TypeAlias = Literal["rpcholesky", "greedy", "uniform", "ridge_leverage"]

_CR = ("sample", "top")
_NYSTROM = ("rpcholesky", "greedy", "uniform", "ridge_leverage")


def cr_select(
    A: ArrayLike | SupportsToCsr,
    B: ArrayLike | SupportsToCsr,
    k: int,
    *,
    method: Literal["sample", "top"] = "sample",
    rng: RngLike = None,
    check_finite: bool = True,
) -> CRResult:
    """Columns of A and rows of B whose product stands for A @ B.

    Parameters
    ----------
    A : (m, n) array or sparse matrix
    B : (n, p) array or sparse matrix
    k : int
        Number of column-row pairs: at least 1, with "top" at most n.
    method : {"sample", "top"}, default "sample"
        Independent draws by the products of the norms, or the k largest of them.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int draws the same pairs on every backend.
    check_finite : bool, default True
        Raise if A or B holds NaN or Inf. With False such input gives weights of NaN.

    Returns
    -------
    CRResult
        `indices` (k,), `weights` (k,) with (A[:, indices] * weights) @ B[indices] ≈ A @ B, and
        `info` (`CrInfo`).

    Raises
    ------
    ValueError
        If A or B has not two dimensions, their shapes do not fit, n is 0, k is out of range, A or B
        holds NaN or Inf, or `method` has no such value.
    TypeError
        If A or B is not numeric or is a linear operator, or an argument has the wrong type.

    Notes
    -----
    **Guarantee.** With s = Σ_i ||a_i|| ||b_i||, "sample" has mean A B and
    E ||A B - C R||_F² = (s² - ||A B||_F²) / k, the least of all distributions [1]_ (lemma 4); so
    `info.error` = s / (√k ||A||_F ||B||_F) <= 1/√k bounds the root mean square. "top" has weights 1
    and is not unbiased; its error is at most the sum over the pairs left out.

    **Cost.** One read of A and of B.

    References
    ----------
    .. [1] P. Drineas, R. Kannan, M. W. Mahoney, "Fast Monte Carlo algorithms for matrices I:
       approximating matrix multiplication", SIAM Journal on Computing 36(1), 2006.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A, B = np.array([[3.0, 0.0, 1.0]]), np.array([[2.0], [5.0], [0.0]])
    >>> indices, weights = lowla.cr_select(A, B, 2, rng=0)
    >>> (A[:, indices] * weights) @ B[indices]
    array([[6.]])
    """
    start = time.perf_counter()
    left = _arrays.matrix(A, operator=False)
    right = _arrays.matrix(B, "B", operator=False)
    n = left.shape[1]
    if right.shape[0] != n:
        raise ValueError(f"B must have A.shape[1] = {n} rows, got shape {right.shape}")
    if n == 0:
        raise ValueError(f"A must have at least one column, got shape {left.shape}")
    if left.device != right.device:
        raise TypeError("A and B must both be in main memory or both on the GPU")
    number = _checks.count("k", k, least=1)
    _checks.choice("method", method, _CR)
    if method == "top" and number > n:
        raise ValueError(f"k must be in 1..A.shape[1] = {n}, got {number}")
    key = philox_key(rng)
    name, backend = _backend.select_for("cr_select", left.device)
    indices, weights, facts = backend.cr_select(
        _never_empty(left), _never_empty(right), number, method, key, check_finite
    )
    info = CrInfo(
        k=number,
        error=cast(float, facts["error"]),
        captured=cast(float, facts["captured"]),
        method=method,
        backend=name,
        seconds=time.perf_counter() - start,
    )
    return CRResult((left.wrap(cast("Array", indices)), left.wrap(weights)), info)


def _never_empty(M: Matrix) -> Payload:
    """A row or column of zeros in the place of none."""
    return M.payload if 0 not in M.shape else M.scratch(*(max(size, 1) for size in M.shape))


def nystrom_columns(
    K: ArrayLike | Kernel,
    k: int,
    *,
    method: NystromMethod = "rpcholesky",
    diagonal: ArrayLike | None = None,
    reg: float | None = None,
    rng: RngLike = None,
    check_finite: bool = True,
) -> NystromColumnsResult:
    """Columns of a positive semidefinite matrix or kernel, and the factor of their Nyström matrix.

    Parameters
    ----------
    K : (n, n) array, or callable
        Hermitian positive semidefinite. An array is checked for symmetry. A callable `K(rows,
        cols)` takes two int64 arrays and returns the block K[rows][:, cols]; n and the dtype are
        those of `diagonal`.
    k : int
        Number of columns, in 1..n.
    method : {"rpcholesky", "greedy", "uniform", "ridge_leverage"}, default "rpcholesky"
        Randomly pivoted Cholesky; the largest diagonal of what is left; at random, all alike or by
        diag(K (K + reg·I)⁻¹), without replacement.
    diagonal : (n,) array, optional
        The diagonal of K; needed for a callable, and only for one.
    reg : float, optional
        For "ridge_leverage", and only for it: above 0.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int draws the same columns on every backend.
    check_finite : bool, default True
        Raise if K holds NaN or Inf; a callable, in what is read of it. With False such input gives
        NaN where it is read.

    Returns
    -------
    NystromColumnsResult
        `columns` (k,), `F` (n, k) with K ≈ F @ F.conj().T, and `info` (`NystromColumnsInfo`).

    Raises
    ------
    ValueError
        If K is not square, not Hermitian, has a negative diagonal or holds NaN or Inf, k is out of
        range, or an argument is missing or without use.
    TypeError
        If K is not numeric, or an argument has the wrong type.
    numpy.linalg.LinAlgError
        If K turns out not to be positive semidefinite.

    Notes
    -----
    **Guarantee.** F Fᴴ = K[:, S] K[S, S]⁻¹ K[S, :] for the columns S, positive semidefinite and at
    most K. `info.error` = trace(K - F Fᴴ) / trace(K) is exact. "rpcholesky": the expected trace is
    at most (1 + ε) times that of the best rank-r matrix from
    k >= r/ε + r·log(1/(ε η)) columns, η the relative trace error of that matrix [1]_ (theorem 3.1).

    **Cost.** k·n entries of K, and a few percent more for proposals that are rejected [2]_; 2·n·k²
    flops, n·k numbers. "ridge_leverage" takes n³ flops and a copy of an array; of a callable it
    reads 2·k columns more and uses the scores of their Nyström matrix plus the diagonal of what
    that leaves over `reg`, an estimate.

    References
    ----------
    .. [1] Y. Chen, E. N. Epperly, J. A. Tropp, R. J. Webber, "Randomly pivoted Cholesky: practical
       approximation of a kernel matrix with few entry evaluations", Communications on Pure and
       Applied Mathematics 78, 2025, arXiv:2207.06503.
    .. [2] E. N. Epperly, J. A. Tropp, R. J. Webber, "Embrace rejection: kernel matrix approximation
       by accelerated randomly pivoted Cholesky", 2024, arXiv:2410.03969.
    .. [3] C. Musco, C. Musco, "Recursive sampling for the Nyström method", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> x = np.linspace(0.0, 1.0, 1000)
    >>> def K(rows, cols):
    ...     return np.exp(-10.0 * np.subtract.outer(x[rows], x[cols]) ** 2)
    >>> columns, F = r = lowla.nystrom_columns(K, 12, diagonal=np.ones(1000), rng=0)
    >>> F.shape, r.info.error < 1e-5, r.info.entries < 30_000
    ((1000, 12), True, True)
    """
    start = time.perf_counter()
    held, D = _kernel(K, diagonal)
    n = D.shape[0]
    number = _checks.integer("k", k)
    if not 1 <= number <= n:
        raise ValueError(f"k must be in 1..n = {n}, got {number}")
    _checks.choice("method", method, _NYSTROM)
    if (method == "ridge_leverage") != (reg is not None):
        need = "needs reg" if reg is None else f"has no use for reg, got {reg!r}"
        raise ValueError(f"method={method!r} {need}")
    shift = 0.0 if reg is None else _checks.positive("reg", reg)
    if check_finite and not isinstance(held, _KernelCheck):
        _arrays.require_finite(held, "K")
    key = philox_key(rng)
    name, backend = _backend.select_for("nystrom_columns", D.device)
    entries = held if isinstance(held, _KernelCheck) else held.dense
    dtype = np.dtype(D.dtype if isinstance(held, _KernelCheck) else held.dtype)
    values = np.array(D.dense.real, dtype=np.float64)
    if (values < 0).any():
        i = int(np.argmax(values < 0))
        raise ValueError(
            f"K must be positive semidefinite, but its diagonal holds {values[i]:g} at {i}"
        )
    columns, F, facts = backend.nystrom_columns(
        entries, values, number, method, shift, dtype.name, key, check_finite
    )
    info = NystromColumnsInfo(
        k=number,
        rank=cast(int, facts["rank"]),
        error=cast(float, facts["error"]),
        entries=cast(int, facts["entries"]),
        proposals=cast(int, facts["proposals"]),
        method=method,
        backend=name,
        seconds=time.perf_counter() - start,
    )
    return NystromColumnsResult((D.wrap(cast("Array", columns)), D.wrap(F)), info)


class _KernelCheck:
    """A caller's kernel: what it returns is taken in as an array."""

    def __init__(self, kernel: KernelBlock) -> None:
        self._kernel = kernel

    def __call__(self, rows: Any, cols: Any) -> Array:
        return _arrays.dense(self._kernel(rows, cols), "K(rows, cols)", (2,)).dense


def _kernel(
    K: ArrayLike | Kernel, diagonal: ArrayLike | None
) -> tuple[Matrix | _KernelCheck, Matrix]:
    """The matrix or the function, and its diagonal."""
    if callable(K) and not hasattr(K, "shape"):
        if diagonal is None:
            raise ValueError("diagonal is needed where K is a function")
        return _KernelCheck(cast("KernelBlock", K)), _arrays.dense(diagonal, "diagonal", (1,))
    if diagonal is not None:
        raise ValueError("diagonal is for a K that is a function, got an array K")
    M = _arrays.dense(cast("ArrayLike", K), "K", (2,))
    if M.shape[0] != M.shape[1]:
        raise ValueError(f"K must be square, got shape {M.shape}")
    _arrays.check_hermitian(M, "K")
    return M, _arrays.diagonal(M)
