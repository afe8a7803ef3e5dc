"""Decompositions by columns and rows of A itself: qrcp, interpolative decompositions, cur.

Here: what a caller may pass is checked, one backend function is called, its facts become `info`.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from lowla import _arrays, _backend, _checks
from lowla._cur_results import (
    CurInfo,
    CURResult,
    IDResult,
    QRCPResult,
    TwoSidedIDResult,
    host_indices,
)
from lowla._errors import ConvergenceWarning
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import Matrix, MatrixLike
    from lowla._backend import Backend, BackendName, Facts
    from lowla._cur_results import Indices
    from lowla._results import Array

Sketch: TypeAlias = Literal["auto", "gaussian", "sjlt"]
IdMethod: TypeAlias = Literal["auto", "sketch", "project", "direct"]
CurMethod: TypeAlias = Literal["qrcp", "deim", "leverage", "lupp"]

_SKETCHES = ("auto", "gaussian", "sjlt")
_ID = ("auto", "sketch", "project", "direct")
_CUR = ("qrcp", "deim", "leverage", "lupp")
_MIDDLES = ("lstsq", "cross")
_EMPTY: Facts = {
    "error": 0.0,
    "error_method": "exact",
    "rank": 0,
    "passes": 0,
    "converged": True,
    "method": "direct",
    "sketch_rows": 0,
    "swaps": 0,
}


def qrcp(
    A: MatrixLike,
    k: int | None = None,
    *,
    tol: float | None = None,
    oversample: int = 10,
    sketch: Sketch = "auto",
    rng: RngLike = None,
    check_finite: bool = True,
) -> QRCPResult:
    """Truncated QR decomposition with column pivoting, the pivots chosen on a sketch.

    Parameters
    ----------
    A : (m, n) array, sparse matrix or linear operator
        Real or complex. An operator needs `matmat` and `rmatmat` (or `matvec` and `rmatvec`).
    k : int, optional
        Number of columns, in 1..min(m, n). Give `k`, `tol` or both.
    tol : float, optional
        Relative Frobenius error in (0, 1): as few pivots as reach it, at most `k` if that is given.
    oversample : int, default 10
        Rows of the sketch beyond `k`.
    sketch : {"auto", "gaussian", "sjlt"}, default "auto"
        "auto" is sparse signs for arrays and sparse matrices, Gaussian for operators.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    check_finite : bool, default True
        Raise if A holds NaN or Inf. With False such input gives factors of NaN.

    Returns
    -------
    QRCPResult
        `Q` (m, k), `R` (k, n), `perm` (n,) with A[:, perm] ≈ Q @ R, and `info` (`CurInfo`).

    Raises
    ------
    ValueError
        If neither k nor tol is given, k is outside 1..min(m, n), tol is outside (0, 1), A has not
        two dimensions or holds NaN or Inf, or an option has no such value.
    TypeError
        If A is not numeric, or an argument has the wrong type.
    NotImplementedError
        On the cuda backend, if `tol` is given or A is a linear operator.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** Q is orthonormal to rounding and R = Qᴴ A[:, perm], so that Q R is the orthogonal
    projection of A onto the chosen columns. `info.error` is measured from A and the factors. The
    pivots are those of LAPACK's geqp3 on the sketch, which preserves the norms that pivoting
    compares up to a factor [1]_. Beyond `info.rank`, columns of Q are arbitrary and rows of R are
    rounding errors.

    **Cost.** Two reads of A: 2·m·n·(k + oversample) flops for a Gaussian sketch, 4·m·n additions
    for the sparse one, and 2·m·n·k. Memory (k + oversample)·(m + n) numbers.

    References
    ----------
    .. [1] J. A. Duersch, M. Gu, "Randomized QR with column pivoting", SIAM Journal on Scientific
       Computing 39(4), 2017.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.vander(np.linspace(0.0, 1.0, 30), 8)
    >>> Q, R, perm = lowla.qrcp(A, 8, rng=0)
    >>> bool(np.allclose(A[:, perm], Q @ R))
    True
    """
    start = time.perf_counter()
    M = _arrays.matrix(A)
    rank, error = _rank_or_tolerance(M, k, tol)
    oversample = _checks.count("oversample", oversample)
    _checks.choice("sketch", sketch, _SKETCHES)
    key = philox_key(rng)
    name, backend = _backend_for("qrcp", M, error)
    values: tuple[Array, ...]
    if 0 in M.shape:
        m, n = M.shape
        values, facts = (M.empty(m, 0), M.empty(0, n), _places(M, n)), _EMPTY
    else:
        there = M.for_backend(name)
        with there.current_device():
            Q, R, perm, facts = backend.qrcp(
                there.payload, rank or 0, error or 0.0, oversample, sketch, key, check_finite
            )
            values = tuple(there.wrap(cast("Array", a)) for a in (Q, R, perm))
    return QRCPResult(values, _info("qrcp", facts, rank, error, name, start))


def interp_decomp(
    A: MatrixLike,
    eps_or_k: float,
    *,
    method: IdMethod = "auto",
    oversample: int = 10,
    bound: float = 2.0,
    sketch: Sketch = "auto",
    rng: RngLike = None,
    check_finite: bool = True,
) -> IDResult:
    """Interpolative decomposition: all columns of A from k of them.

    In the place of `scipy.linalg.interpolative.interp_decomp`, for every dtype and shape. What it
    returns unpacks as `idx, proj` for a tolerance too; the rank is `result.k`.

    Parameters
    ----------
    A : (m, n) array, sparse matrix or linear operator
        Real or complex. An operator needs `matmat` and `rmatmat` (or `matvec` and `rmatvec`).
    eps_or_k : float in (0, 1) or int
        Relative Frobenius error to be reached, or number of columns in 1..min(m, n).
    method : {"auto", "sketch", "project", "direct"}, default "auto"
        "sketch" takes columns and coefficients from one random sketch, for a number of columns
        only. "project" chooses the columns on a sketch and takes the least-squares coefficients of
        A. "direct" chooses them on A, written out as a dense array (SciPy's `rand=False`). "auto"
        is "sketch" for a number of columns where A has more than 100·k entries a column and
        `sketch` is of sparse signs, else "project".
    oversample : int, default 10
        Rows beyond k of the sketch on which columns are chosen; three times as many with "sketch".
    bound : float, default 2.0
        Largest magnitude of a coefficient, above 1.
    sketch : {"auto", "gaussian", "sjlt"}, default "auto"
        "auto" is sparse signs for arrays and sparse matrices, Gaussian for operators.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    check_finite : bool, default True
        Raise if A holds NaN or Inf. With False such input gives NaN coefficients.

    Returns
    -------
    IDResult
        `idx` (n,), `proj` (k, n - k) with A[:, idx[:k]] @ proj ≈ A[:, idx[k:]], and `info`
        (`CurInfo`); methods `skel(A)`, `interp_matrix()`, `toarray(A)`.

    Raises
    ------
    ValueError
        If eps_or_k, bound or an option is out of its range, A has not two dimensions or holds NaN
        or Inf.
    TypeError
        If A is not numeric, or an argument has the wrong type.
    NotImplementedError
        On the cuda backend, if `eps_or_k` is a tolerance or A is a linear operator.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** abs(proj) <= bound: columns are exchanged until it holds [1]_. With method
    "direct" and f = `bound`, ||A - A[:, idx[:k]] P||_2 is at most sqrt(1 + f²·k·(n - k)) σ_(k+1)
    ([1]_, theorem 3.2); with a sketch the same holds for the sketch. Coefficients of columns beyond
    the numerical rank are zero.

    "project", "direct": proj is the least-squares solution for the chosen columns, so the error is
    that of the projection onto them; `info.error` is measured.

    "sketch": proj is the least-squares solution for three quarters of a sketch, at least 10·k rows;
    the error is about 5 % above that of the projection [3]_. `info.error` is estimated from the
    last quarter, b > 3·k rows, that had no part in the choice: its square has the mean of the
    squared error and a relative standard deviation of at most sqrt(2 / b), and
    `info.error_method` is "probe".

    **Cost.** "sketch": one read of A, 4·m·n additions, 2·n·k·(10·k) flops twice; memory about
    13·k·n numbers. "project": as `qrcp`. An exchange on the sketch costs 2·n·(k + oversample)²
    flops, one on A (rare) one more read. "direct": 4·m·n·min(m, n) flops and a copy of A in double
    precision.

    References
    ----------
    .. [1] M. Gu, S. C. Eisenstat, "Efficient algorithms for computing a strong rank-revealing QR
       factorization", SIAM Journal on Scientific Computing 17(4), 1996.
    .. [2] H. Cheng, Z. Gimbutas, P.-G. Martinsson, V. Rokhlin, "On the compression of low rank
       matrices", SIAM Journal on Scientific Computing 26(4), 2005.
    .. [3] P. Drineas, M. W. Mahoney, S. Muthukrishnan, T. Sarlós, "Faster least squares
       approximation", Numerische Mathematik 117, 2011.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.vander(np.linspace(0.0, 1.0, 30), 3)[:, [0, 1, 2, 1, 0]]
    >>> idx, proj = r = lowla.interp_decomp(A, 3, rng=0)
    >>> bool(np.allclose(A[:, idx[:3]] @ proj, A[:, idx[3:]])), r.info.error < 1e-14
    (True, True)
    >>> lowla.interp_decomp(A, 1e-10, rng=0).k
    3
    """
    return _interpolative(
        "interp_decomp",
        _arrays.matrix(A),
        eps_or_k,
        method,
        oversample,
        bound,
        sketch,
        rng,
        check_finite,
    )


def row_interp_decomp(
    A: MatrixLike,
    eps_or_k: float,
    *,
    method: IdMethod = "auto",
    oversample: int = 10,
    bound: float = 2.0,
    sketch: Sketch = "auto",
    rng: RngLike = None,
    check_finite: bool = True,
) -> IDResult:
    """Interpolative decomposition by rows: that of A.T.

    Parameters
    ----------
    A : (m, n) array, sparse matrix or linear operator
    eps_or_k : float in (0, 1) or int
        Relative Frobenius error to be reached, or number of rows in 1..min(m, n).
    method, oversample, bound, sketch, rng, check_finite
        As in `interp_decomp`.

    Returns
    -------
    IDResult
        `idx` (m,), `proj` (k, m - k) with proj.T @ A[idx[:k]] ≈ A[idx[k:]], and `info`. Its methods
        are about A.T: `skel(A.T)`, `interp_matrix()` (k, m), `toarray(A.T)`.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As in `interp_decomp`.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    Notes
    -----
    **Guarantee.** That of `interp_decomp` for A.T.

    **Cost.** That of `interp_decomp`; sparse A is copied once.

    References
    ----------
    .. [1] M. Gu, S. C. Eisenstat, "Efficient algorithms for computing a strong rank-revealing QR
       factorization", SIAM Journal on Scientific Computing 17(4), 1996.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.outer(np.arange(1.0, 6.0), np.ones(4))
    >>> idx, proj = lowla.row_interp_decomp(A, 1, rng=0)
    >>> bool(np.allclose(proj.T @ A[idx[:1]], A[idx[1:]]))
    True
    """
    return _interpolative(
        "row_interp_decomp",
        _arrays.transposed(_arrays.matrix(A)),
        eps_or_k,
        method,
        oversample,
        bound,
        sketch,
        rng,
        check_finite,
    )


def _interpolative(
    function: str,
    M: Matrix,
    eps_or_k: float,
    method: str,
    oversample: int,
    bound: float,
    sketch: str,
    rng: RngLike,
    check_finite: bool,
) -> IDResult:
    start = time.perf_counter()
    k, eps = _rank_or_eps(eps_or_k, M.shape)
    number, limit = _id_options(method, k, oversample, bound, sketch)
    key = philox_key(rng)
    name, backend = _backend_for("interp_decomp", M, eps)
    values: tuple[Array, ...]
    if 0 in M.shape:
        values, facts = (_places(M, M.shape[1]), M.empty(0, M.shape[1])), _EMPTY
    else:
        there = M.for_backend(name)
        with there.current_device():
            idx, proj, facts = backend.interp_decomp(
                there.payload, k or 0, eps or 0.0, method, number, limit, sketch, key, check_finite
            )
            values = tuple(there.wrap(cast("Array", a)) for a in (idx, proj))
    return IDResult(values, _info(function, facts, k, eps, name, start, depth=4))


def two_sided_interp_decomp(
    A: MatrixLike,
    eps_or_k: float,
    *,
    method: IdMethod = "auto",
    oversample: int = 10,
    bound: float = 2.0,
    sketch: Sketch = "auto",
    rng: RngLike = None,
    check_finite: bool = True,
) -> TwoSidedIDResult:
    """Interpolative decomposition by rows and columns: A from a k x k block of it.

    Parameters
    ----------
    A : (m, n) array, sparse matrix or linear operator
    eps_or_k : float in (0, 1) or int
        Relative Frobenius error to be reached, or number of rows and columns in 1..min(m, n).
    method, oversample, bound, sketch, rng, check_finite
        As in `interp_decomp`.

    Returns
    -------
    TwoSidedIDResult
        `rows` (k,), `cols` (k,), `X` (m, k), `Y` (k, n) with A ≈ X @ A[rows][:, cols] @ Y, and
        `info`; methods `skel(A)`, `toarray(A)`.

    Raises
    ------
    ValueError, TypeError, NotImplementedError
        As in `interp_decomp`.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    Notes
    -----
    **Guarantee.** abs(X) and abs(Y) are at most `bound`. The rows are chosen from the k columns and
    reproduce them to rounding, so the error is that of `interp_decomp` [1]_. It holds in floating
    point for any singular values, where the middle factor of `cur` loses half of the digits.

    **Cost.** That of `interp_decomp` and 4·m·k² flops.

    References
    ----------
    .. [1] S. Voronin, P.-G. Martinsson, "Efficient algorithms for CUR and interpolative matrix
       decompositions", Advances in Computational Mathematics 43, 2017.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.add.outer(np.arange(6.0), np.arange(4.0))
    >>> rows, cols, X, Y = lowla.two_sided_interp_decomp(A, 2, rng=0)
    >>> bool(np.allclose(X @ A[np.ix_(rows, cols)] @ Y, A))
    True
    """
    start = time.perf_counter()
    M = _arrays.matrix(A)
    k, eps = _rank_or_eps(eps_or_k, M.shape)
    number, limit = _id_options(method, k, oversample, bound, sketch)
    key = philox_key(rng)
    name, backend = _backend_for("two_sided_id", M, eps)
    values: tuple[Array, ...]
    if 0 in M.shape:
        none, facts = _places(M, 0), _EMPTY
        values = (none, none, M.empty(M.shape[0], 0), M.empty(0, M.shape[1]))
    else:
        there = M.for_backend(name)
        with there.current_device():
            rows, cols, X, Y, facts = backend.two_sided_id(
                there.payload, k or 0, eps or 0.0, method, number, limit, sketch, key, check_finite
            )
            values = tuple(there.wrap(cast("Array", a)) for a in (rows, cols, X, Y))
    info = _info("two_sided_interp_decomp", facts, k, eps, name, start)
    return TwoSidedIDResult(values, info)


def cur(
    A: MatrixLike,
    k: int | None = None,
    *,
    tol: float | None = None,
    method: CurMethod = "qrcp",
    middle: Literal["lstsq", "cross"] = "lstsq",
    oversample: int = 0,
    sketch: Sketch = "auto",
    rng: RngLike = None,
    check_finite: bool = True,
) -> CURResult:
    """CUR decomposition: A from some of its columns and rows, A ≈ C @ U @ R.

    Parameters
    ----------
    A : (m, n) array, sparse matrix or linear operator
        Real or complex. C and R of a sparse matrix are sparse, with its entries. An operator needs
        `matmat` and `rmatmat` (or `matvec` and `rmatvec`).
    k : int, optional
        Number of columns, in 1..min(m, n). Give `k`, `tol` or both.
    tol : float, optional
        Relative Frobenius error in (0, 1): about as few columns as reach it, at most `k` if that is
        given. The number is doubled until the measured error is small enough, then lowered.
    method : {"qrcp", "deim", "leverage", "lupp"}, default "qrcp"
        How columns are chosen: pivots of QR or of LU on a sketch of A; DEIM on the leading k right
        singular vectors; at random by their leverage scores, without replacement.
    middle : {"lstsq", "cross"}, default "lstsq"
        U = C⁺ A R⁺, of least error, or U = A[rows][:, cols]⁺.
    oversample : int, default 0
        Rows beyond k; with method "leverage" columns too, k being the rank the scores belong to.
    sketch : {"auto", "gaussian", "sjlt"}, default "auto"
        "auto" is sparse signs for arrays and sparse matrices, Gaussian for operators.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch on every backend with any number of threads.
    check_finite : bool, default True
        Raise if A holds NaN or Inf. With False such input gives NaN in U.

    Returns
    -------
    CURResult
        `C` (m, c), `U` (c, r), `R` (r, n), `rows` (r,), `cols` (c,) and `info` (`CurInfo`); the
        product is `result @ x` and `result.toarray()`.

    Raises
    ------
    ValueError
        If neither k nor tol is given, k, oversample or tol is out of range, A has not two
        dimensions or holds NaN or Inf, or an option has no such value.
    TypeError
        If A is not numeric, or an argument has the wrong type.
    NotImplementedError
        On the cuda backend, if `tol` is given or A is a linear operator.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; `info.converged` is then False.

    Notes
    -----
    **Guarantee.** `info.error` is measured for the returned factors. With "lstsq" the error
    satisfies ||A - C U R||_F² <= ||A - C C⁺ A||_F² + ||A - A R⁺ R||_F², and no other U has a
    smaller one [1]_. Rows are pivots of an orthonormal basis of C, which keeps "cross" stable [4]_.
    DEIM: [2]_; leverage scores: O(k·log(k)/ε²) columns leave ||A - C C⁺ A||_F <= (1 + ε) times the
    best rank-k error with constant probability [3]_.

    As a matrix of numbers, U loses digits in its product with ill-conditioned C and R. Singular
    values of C and R below a level are left out; of the levels 10⁻¹, 10⁻², ... the one of least
    measured error is taken. In the worst case the error cannot be below the square root of the
    rounding unit; `two_sided_interp_decomp` has no such limit.

    **Cost.** As `qrcp`; "deim" and "leverage" the cost of `rsvd(A, k)` besides. Memory for C and R
    in double precision.

    References
    ----------
    .. [1] G. W. Stewart, "Four algorithms for the efficient computation of truncated pivoted QR
       approximations to a sparse matrix", Numerische Mathematik 83, 1999.
    .. [2] D. C. Sorensen, M. Embree, "A DEIM induced CUR factorization", SIAM Journal on Scientific
       Computing 38(3), 2016.
    .. [3] P. Drineas, M. W. Mahoney, S. Muthukrishnan, "Relative-error CUR matrix decompositions",
       SIAM Journal on Matrix Analysis and Applications 30(2), 2008.
    .. [4] T. Park, Y. Nakatsukasa, "Accuracy and stability of CUR decompositions with
       oversampling", 2024, arXiv:2405.06375.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.add.outer(np.arange(6.0), np.arange(4.0))
    >>> C, U, R = r = lowla.cur(A, 2, rng=0)
    >>> bool(np.allclose(C @ U @ R, A)), bool(np.all(C == A[:, r.cols]))
    (True, True)
    >>> lowla.cur(A, tol=1e-8, rng=0).U.shape
    (2, 2)
    """
    start = time.perf_counter()
    M = _arrays.matrix(A)
    rank, error = _rank_or_tolerance(M, k, tol)
    _checks.choice("method", method, _CUR)
    _checks.choice("middle", middle, _MIDDLES)
    _checks.choice("sketch", sketch, _SKETCHES)
    oversample = _checks.count("oversample", oversample)
    most = min(M.shape) if method == "leverage" else M.shape[0]
    if 0 not in M.shape and (rank or 1) + oversample > most:
        of = "min(A.shape)" if method == "leverage" else "A.shape[0]"
        got = (rank or 1) + oversample
        raise ValueError(f"k + oversample must be at most {of} = {most}, got {got}")
    key = philox_key(rng)
    name, backend = _backend_for("cur", M, error)
    if 0 in M.shape:
        rows = cols = _places(M, 0)
        U, facts = M.empty(0, 0), _EMPTY
    else:
        there = M.for_backend(name)
        with there.current_device():
            *found, facts = backend.cur(
                there.payload,
                rank or 0,
                error or 0.0,
                method,
                middle,
                oversample,
                sketch,
                key,
                check_finite,
            )
            rows, cols, U = (there.wrap(cast("Array", a)) for a in found)
    info = _info("cur", facts, rank, error, name, start)
    C = _arrays.take_columns(M, host_indices(cols))
    R = _arrays.take_rows(M, host_indices(rows))
    return CURResult((C, U, R), info, cast("tuple[Indices, Indices]", (rows, cols)))


# --- checks and facts ----------------------------------------------------------------------------


def _backend_for(function: str, M: Matrix, tol: float | None) -> tuple[BackendName, Backend]:
    name, backend = _backend.select_for(function, M.device)
    if name != "numba" and (tol is not None or M.kind == "operator"):
        return _backend.numba_instead_of(name, f"{function} with a tolerance or of an operator")
    return name, backend


def _places(M: Matrix, count: int) -> Array:
    """The first indices, where M is."""
    return M.wrap_host(cast("Array", np.arange(count)))


def _rank_or_tolerance(
    M: Matrix, k: int | None, tol: float | None
) -> tuple[int | None, float | None]:
    if k is None and tol is None:
        raise ValueError("give k (the number of columns), tol (the relative error) or both")
    rank = None if k is None else _checks.rank(k, M.shape)
    return rank, None if tol is None else _checks.tolerance(tol)


def _rank_or_eps(eps_or_k: float, shape: tuple[int, ...]) -> tuple[int | None, float | None]:
    """SciPy's one argument for both."""
    need = f"an int in 1..min(A.shape) = {min(shape)} or a float in (0, 1)"
    if isinstance(eps_or_k, bool) or not isinstance(
        eps_or_k, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"eps_or_k must be {need}, got {type(eps_or_k).__name__}")
    if isinstance(eps_or_k, (int, np.integer)):
        if not 1 <= eps_or_k <= min(shape):
            raise ValueError(f"eps_or_k must be {need}, got {eps_or_k}")
        return int(eps_or_k), None
    if not 0.0 < eps_or_k < 1.0:
        raise ValueError(f"eps_or_k must be {need}, got {eps_or_k:g}")
    return None, float(eps_or_k)


def _id_options(
    method: str, k: int | None, oversample: int, bound: float, sketch: str
) -> tuple[int, float]:
    _checks.choice("method", method, _ID)
    if method == "sketch" and k is None:
        raise ValueError(
            "method 'sketch' is for a number of columns; for a tolerance take 'project' or 'direct'"
        )
    _checks.choice("sketch", sketch, _SKETCHES)
    limit = _checks.real("bound", bound)
    if not 1.0 < limit < math.inf:
        raise ValueError(f"bound must be a finite number > 1, got {limit:g}")
    return _checks.count("oversample", oversample), limit


def _info(
    function: str,
    facts: Facts,
    k: int | None,
    tol: float | None,
    backend: BackendName,
    start: float,
    depth: int = 3,
) -> CurInfo:
    """The backend's facts as `info`; warns where the answer is not what was asked."""
    info = CurInfo(
        k=k,
        tol=tol,
        rank=cast(int, facts["rank"]),
        error=cast(float, facts["error"]),
        error_method=cast(str, facts["error_method"]),
        passes=cast(int, facts["passes"]),
        converged=cast(bool, facts["converged"]),
        method=cast(str, facts["method"]),
        sketch_rows=cast(int, facts["sketch_rows"]),
        swaps=cast(int, facts["swaps"]),
        backend=backend,
        seconds=time.perf_counter() - start,
    )
    if not info.converged and not math.isnan(info.error):
        warnings.warn(
            f"{function} stopped at a relative error of {info.error:.1e}, asked was tol={tol:g}",
            ConvergenceWarning,
            stacklevel=depth,
        )
    return info
