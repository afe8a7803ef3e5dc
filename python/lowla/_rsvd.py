"""Low-rank factorisation by random projections: rsvd, nystrom, reigh.

Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 53 (2011) for the
framework; Tropp, Webber, "Randomized algorithms for low-rank matrix approximation: design,
analysis, and applications" (2023) for the block Krylov default. Here: what a caller may pass is
checked, one backend function is called, its facts become `info`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from lowla import _arrays, _checks
from lowla._call import Callback, RsvdCall
from lowla._results import EighResult, SVDResult
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import Matrix, MatrixLike

Method: TypeAlias = Literal["auto", "krylov", "subspace", "single_pass"]
Sketch: TypeAlias = Literal["auto", "gaussian", "sjlt"]

_METHODS = ("auto", "krylov", "subspace", "single_pass")
_SKETCHES = ("auto", "gaussian", "sjlt")


def rsvd(
    A: MatrixLike,
    k: int | None = None,
    *,
    tol: float | None = None,
    oversample: int = 10,
    n_iter: int | Literal["auto"] = "auto",
    method: Method = "auto",
    sketch: Sketch = "auto",
    rng: RngLike = None,
    callback: Callback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> SVDResult:
    """Truncated singular value decomposition A ≈ U diag(S) Vh.

    Parameters
    ----------
    A : (..., m, n) array, or (m, n) sparse matrix or linear operator
        Real or complex. A stack (more than two dimensions, dense, with `k`) is factored matrix by
        matrix in one call. An operator needs `matmat` and `rmatmat` (or `matvec` and `rmatvec`).
    k : int, optional
        Rank, in 1..min(m, n). Give `k`, `tol` or both.
    tol : float, optional
        Relative Frobenius error in (0, 1): the smallest rank that reaches it is returned, at most
        `k` if that is given too. Not for stacks.
    oversample : int, default 10
        Columns of the sketch beyond `k` (methods "subspace" and "single_pass").
    n_iter : int or "auto", default "auto"
        Outer iterations, each one read of A for Aᴴ(A X). "auto" reaches the accuracy of
        scikit-learn's `randomized_svd(n_iter="auto")`; 0 is the plain sketch of Halko, Martinsson
        and Tropp (two reads).
    method : {"auto", "krylov", "subspace", "single_pass"}, default "auto"
        Block Krylov, subspace iteration, or one read of A. "auto" is "krylov", and a dense SVD
        where that is cheaper.
    sketch : {"auto", "gaussian", "sjlt"}, default "auto"
        Distribution of the starting block.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    callback : callable, optional
        Called with an `RsvdInfo` after each outer iteration; returning True stops there.
    progress : bool, default False
        Show a tqdm bar.
    check_finite : bool, default True
        Raise if A holds NaN or Inf. With False such input gives factors of NaN.

    Returns
    -------
    SVDResult
        `U` (..., m, k), `S` (..., k) descending, `Vh` (..., k, n) and `info` (`RsvdInfo`), arrays
        of the kind and dtype of A. In each column of U the entry of largest magnitude is real and
        positive.

    Raises
    ------
    ValueError
        If neither k nor tol is given, k is outside 1..min(m, n), tol is outside (0, 1), A has
        fewer than two dimensions or holds NaN or Inf, or an option has no such value.
    TypeError
        If A is not numeric, or an argument has the wrong type.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** U and V are orthonormal to rounding for every input. `info.error` is measured
    from A and the returned factors. With a Gaussian sketch, `n_iter=0` and oversample p >= 2, the
    basis Q of k + p columns satisfies E ||A - Q Qᴴ A||_F <= sqrt(1 + k/(p-1)) (sum_{j>k} σ_j²)^½
    [1]_ (Theorem 10.5); every further iteration only lowers the error. Block Krylov reaches
    relative excess ε in O(log(n)/√ε) iterations whatever the spectrum [2]_ [3]_.

    **Cost.** With basis dimension d (k + oversample columns, or the Krylov basis of about k + 3
    blocks): 4·m·n flops a column and read, n_iter + 1 reads of A, O((m + n)·d²) flops besides, and
    about 2·(m + n)·d entries of memory. A is never copied.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness:
       probabilistic algorithms for constructing approximate matrix decompositions", SIAM Review
       53(2), 2011.
    .. [2] C. Musco, C. Musco, "Randomized block Krylov methods for stronger and faster approximate
       singular value decomposition", NeurIPS 2015.
    .. [3] J. A. Tropp, R. J. Webber, "Randomized algorithms for low-rank matrix approximation:
       design, analysis, and applications", 2023, arXiv:2306.12418.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.outer(np.arange(1.0, 41.0), np.ones(30)) + np.eye(40, 30)
    >>> U, S, Vh = lowla.rsvd(A, 3, rng=0)
    >>> U.shape, S.shape, Vh.shape
    ((40, 3), (3,), (3, 30))
    >>> bool(np.allclose(S, np.linalg.svd(A, compute_uv=False)[:3], rtol=1e-2))
    True
    >>> lowla.rsvd(A, tol=0.5, rng=0).S.shape
    (1,)
    """
    M = _arrays.matrix(A, stacked=True)
    stack = M.shape[:-2]
    if k is None and tol is None:
        raise ValueError("give k (the rank), tol (the relative error) or both")
    if k is not None:
        k = _checks.rank(k, M.shape)
    if tol is not None:
        tol = _checks.tolerance(tol)
        if len(M.shape) > 2:
            raise ValueError("tol is for one matrix; a stack of shape (..., m, n) needs k")
    oversample = _checks.count("oversample", oversample)
    iterations = _checks.n_iter(n_iter)
    _checks.choice("method", method, _METHODS)
    _checks.choice("sketch", sketch, _SKETCHES)
    if method == "krylov" and iterations == 0:
        raise ValueError(
            "method='krylov' needs n_iter of at least 1, got 0 (n_iter=0 is method='subspace')"
        )
    if method == "single_pass" and iterations > 0:
        raise ValueError(f"method='single_pass' reads A once: n_iter must be 0, got {n_iter}")
    if method == "single_pass" and k is None:
        raise ValueError("method='single_pass' needs k: tol takes more than one read of A")

    key = philox_key(rng)
    call = RsvdCall("rsvd", M, k, tol, callback, progress)
    if 0 in M.shape:
        return _empty_svd(call)
    with call:
        if stack:
            A3 = call.M.dense.reshape(-1, *M.shape[-2:])
            U, S, Vh, facts = call.backend.rsvd_stacked(
                A3, k or 0, oversample, iterations, method, sketch, key, check_finite, call.monitor
            )
            U, S, Vh = (a.reshape(stack + a.shape[1:]) for a in (U, S, Vh))
        else:
            U, S, Vh, facts = call.backend.rsvd(
                call.M.payload,
                k or 0,
                tol or 0.0,
                oversample,
                iterations,
                method,
                sketch,
                key,
                check_finite,
                call.monitor,
            )
    return SVDResult([call.M.wrap(a) for a in (U, S, Vh)], call.info(facts))


def _empty_svd(call: RsvdCall) -> SVDResult:
    """Rank-0 factors, or a stack of no matrices."""
    M, k = call.M, call.k or 0
    *stack, m, n = M.shape
    factors = M.empty(*stack, m, k), M.empty(*stack, k, real=True), M.empty(*stack, k, n)
    return SVDResult(factors, call.exact())


def nystrom(
    A: MatrixLike,
    k: int,
    *,
    oversample: int = 10,
    n_iter: int | Literal["auto"] = "auto",
    sketch: Sketch = "auto",
    rng: RngLike = None,
    callback: Callback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> EighResult:
    """Truncated eigendecomposition A ≈ V diag(w) Vᴴ of a positive semidefinite matrix.

    Parameters
    ----------
    A : (n, n) array, sparse matrix or linear operator
        Hermitian positive semidefinite. A dense array is checked for symmetry (within
        64·√n·eps·max|A|); sparse matrices and operators are taken at their word. An operator
        needs `matmat` only.
    k : int
        Rank, in 1..n.
    oversample : int, default 10
        Columns of the sketch beyond `k`.
    n_iter : int or "auto", default "auto"
        Extra products with A before the approximation is formed; 0 reads A once.
    sketch : {"auto", "gaussian", "sjlt"}, default "auto"
        Distribution of the starting block.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    callback : callable, optional
        Called with an `RsvdInfo` after each outer iteration; returning True stops there.
    progress : bool, default False
        Show a tqdm bar.
    check_finite : bool, default True
        Raise if A holds NaN or Inf.

    Returns
    -------
    EighResult
        `w` (k,) descending, not negative, `V` (n, k) and `info` (`RsvdInfo`).

    Raises
    ------
    ValueError
        If A is not square, not Hermitian, or holds NaN or Inf; if k is outside 1..n.
    TypeError
        If A is not numeric, or an argument has the wrong type.

    Notes
    -----
    **Guarantee.** The approximation is positive semidefinite and never exceeds A (in the
    Loewner order, to rounding). With a Gaussian sketch of l = k + p columns and one read,
    E ||A - Â||_* <= (1 + r/(l-r-1)) sum_{j>r} λ_j for every r < l - 1 [1]_.

    **Cost.** One product of A with k + oversample columns an iteration, O(n·(k + oversample)²)
    flops besides, and about 3·n·(k + oversample) entries of memory.

    References
    ----------
    .. [1] J. A. Tropp, A. Yurtsever, M. Udell, V. Cevher, "Fixed-rank approximation of a
       positive-semidefinite matrix from streaming data", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> B = np.vander(np.linspace(0.0, 1.0, 50), 4)
    >>> w, V = lowla.nystrom(B @ B.T, 4, rng=0)
    >>> bool(np.allclose((V * w) @ V.T, B @ B.T))
    True
    """
    M = _square(A)
    k = _checks.rank(k, M.shape)
    oversample = _checks.count("oversample", oversample)
    iterations = _checks.n_iter(n_iter)
    _checks.choice("sketch", sketch, _SKETCHES)
    _arrays.check_hermitian(M)
    key = philox_key(rng)
    call = RsvdCall("nystrom", M, k, None, callback, progress)
    with call:
        w, V, facts = call.backend.nystrom(
            call.M.payload, k, oversample, iterations, sketch, key, check_finite, call.monitor
        )
    return EighResult([call.M.wrap(w), call.M.wrap(V)], call.info(facts))


def reigh(
    A: MatrixLike,
    k: int,
    *,
    which: Literal["LM", "LA"] = "LM",
    oversample: int = 10,
    n_iter: int | Literal["auto"] = "auto",
    sketch: Sketch = "auto",
    rng: RngLike = None,
    callback: Callback | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> EighResult:
    """Truncated eigendecomposition A ≈ V diag(w) Vᴴ of a Hermitian matrix.

    Parameters
    ----------
    A : (n, n) array, sparse matrix or linear operator
        Hermitian. A dense array is checked for it (within 64·√n·eps·max|A|); sparse matrices and
        operators are taken at their word. An operator needs `matmat` only.
    k : int
        Number of eigenvalues, in 1..n.
    which : {"LM", "LA"}, default "LM"
        The largest in magnitude, or the algebraically largest.
    oversample : int, default 10
        Columns of the sketch beyond `k`.
    n_iter : int or "auto", default "auto"
        Outer iterations, each one read of A.
    sketch : {"auto", "gaussian", "sjlt"}, default "auto"
        Distribution of the starting block.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    callback : callable, optional
        Called with an `RsvdInfo` after each outer iteration; returning True stops there.
    progress : bool, default False
        Show a tqdm bar.
    check_finite : bool, default True
        Raise if A holds NaN or Inf.

    Returns
    -------
    EighResult
        `w` (k,), descending in magnitude ("LM") or value ("LA"), `V` (n, k) and `info`.

    Raises
    ------
    ValueError
        If A is not square, not Hermitian, or holds NaN or Inf; if k is outside 1..n.
    TypeError
        If A is not numeric, or an argument has the wrong type.

    Notes
    -----
    **Guarantee.** V is orthonormal to rounding; each w lies within the spectrum of A and
    `info.error` is the relative Frobenius error of V diag(w) Vᴴ, measured [1]_ (section 5.3).

    **Cost.** One product of A with a block an iteration, O(n·d²) flops for a basis of dimension d,
    and about 3·n·d entries of memory.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness:
       probabilistic algorithms for constructing approximate matrix decompositions", SIAM Review
       53(2), 2011.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.diag([3.0, -5.0, 1.0, 0.5])
    >>> w, V = lowla.reigh(A, 2, rng=0)
    >>> [round(float(x), 6) for x in w]
    [-5.0, 3.0]
    """
    M = _square(A)
    k = _checks.rank(k, M.shape)
    _checks.choice("which", which, ("LM", "LA"))
    oversample = _checks.count("oversample", oversample)
    iterations = _checks.n_iter(n_iter)
    _checks.choice("sketch", sketch, _SKETCHES)
    _arrays.check_hermitian(M)
    key = philox_key(rng)
    call = RsvdCall("reigh", M, k, None, callback, progress)
    with call:
        w, V, facts = call.backend.reigh(
            call.M.payload,
            k,
            which,
            oversample,
            iterations,
            sketch,
            key,
            check_finite,
            call.monitor,
        )
    return EighResult([call.M.wrap(w), call.M.wrap(V)], call.info(facts))


def _square(A: MatrixLike) -> Matrix:
    M = _arrays.matrix(A)
    if M.shape[0] != M.shape[1]:
        raise ValueError(f"A must be square, got shape {M.shape}")
    return M
