"""Kronecker products that are never formed: kron_matmul, kron_solve, nearest_kron.

Van Loan (2000), "The ubiquitous Kronecker product". Here: what a caller may pass is checked, one
backend function is called, its result goes back as the caller's kind of array.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from lowla import _arrays, _backend, _checks
from lowla._results import NearestKronInfo, NearestKronResult
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._results import Array


def kron_matmul(factors: Sequence[ArrayLike], X: ArrayLike, *, out: Array | None = None) -> Array:
    """The product (F_1 ⊗ ... ⊗ F_d) @ X, the Kronecker product never formed.

    Parameters
    ----------
    factors : sequence of (m_i, n_i) arrays
        At least one; real or complex, rectangular ones too.
    X : (prod n_i,) or (prod n_i, r) array
        Row index (i_1, ..., i_d), the last fastest, as `numpy.kron` has it.
    out : array, optional
        Takes the result, as in `numpy.matmul`: an array of its kind, shape and dtype. To fill fresh
        memory can take as long as the product itself. It may share memory with the operands;
        fastest is one that does not and is contiguous as the result would be.

    Returns
    -------
    (prod m_i,) or (prod m_i, r) array
        In the common dtype of factors and X; Fortran-ordered where X is. `out` where that is given.

    Raises
    ------
    ValueError
        If there are no factors, one has not 2 dimensions, X not prod n_i rows, or `out` not the
        shape of the result or is read-only.
    TypeError
        If an array is not numeric or not dense, some are on the GPU and others not, or `out` is of
        another kind or dtype than the result.

    Notes
    -----
    **Guarantee.** Backward stable factor by factor: the error is at most sum n_i · u times the
    product of the absolute values, to first order. NaN and Inf propagate.

    **Cost.** The factors are applied one after another [1]_, in the order of least flops: for d
    square factors of size p, 2·r·d·p^(d+1). Memory: the result and an array no larger than X or
    the result; X is copied only if it is neither C- nor Fortran-contiguous.

    References
    ----------
    .. [1] C. F. Van Loan, "The ubiquitous Kronecker product", Journal of Computational and Applied
       Mathematics 123, 2000.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A, B = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> lowla.kron_matmul([A, B], np.arange(4.0))
    array([ 7.,  4., 15.,  8.])
    >>> np.kron(A, B) @ np.arange(4.0)
    array([ 7.,  4., 15.,  8.])
    """
    direct = _backend.direct()
    Y = direct.kron_matmul(factors, X, out) if direct is not None else None
    if Y is not None:
        return Y
    return _arrays.into(out, product(take_factors(factors), _arrays.dense(X, "X", (1, 2))))


def kron_solve(
    factors: Sequence[ArrayLike],
    b: ArrayLike,
    shift: float = 0.0,
    *,
    check_finite: bool = True,
) -> Array:
    """The solution x of (K_1 ⊗ ... ⊗ K_d + shift·I) x = b for Hermitian factors.

    For several right-hand sides or shifts one after another, `Kronecker(*factors).solve(b, shift)`
    keeps the eigendecompositions; with shift 0 it takes any invertible factors.

    Parameters
    ----------
    factors : sequence of (n_i, n_i) arrays
        At least one; symmetric, or Hermitian if complex.
    b : (prod n_i,) or (prod n_i, r) array
    shift : float, default 0
    check_finite : bool, default True
        Raise if a factor or b holds NaN or Inf. With False NaN in b gives NaN; a factor must not
        hold any.

    Returns
    -------
    (prod n_i,) or (prod n_i, r) array

    Raises
    ------
    ValueError
        If there are no factors, a factor is not Hermitian or holds NaN or Inf, shapes do not fit,
        or the shift is not finite.
    TypeError
        If an array is not numeric or not dense, or the shift is no number.
    numpy.linalg.LinAlgError
        If the matrix is singular to working precision.

    Notes
    -----
    **Guarantee.** With K_i = V_i diag(w_i) V_iᴴ, x = V (w + shift)⁻¹ Vᴴ b [1]_. The residual is at
    most a small multiple of sum n_i · u · ||K + shift·I|| ||x||, the residual of a backward stable
    solver.

    **Cost.** About 9·sum n_i³ flops for the eigendecompositions and two products as in
    `kron_matmul`; memory two arrays of the size of b.

    References
    ----------
    .. [1] C. F. Van Loan, "The ubiquitous Kronecker product", Journal of Computational and Applied
       Mathematics 123, 2000.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> K = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> x = lowla.kron_solve([K, K], np.ones(4), shift=1.0)
    >>> bool(np.allclose((np.kron(K, K) + np.eye(4)) @ x, 1.0))
    True
    """
    from lowla._kron_operator import Kronecker

    number = checked_shift(shift)
    K = Kronecker._of(take_factors(factors))
    return K._solve_hermitian("kron_solve", b, number, check_finite)


def nearest_kron(
    A: ArrayLike,
    shape1: tuple[int, int],
    shape2: tuple[int, int],
    terms: int = 1,
    *,
    rng: RngLike = None,
    check_finite: bool = True,
) -> NearestKronResult:
    """The sum of Kronecker products nearest to A in the Frobenius norm.

    Parameters
    ----------
    A : (m1·m2, n1·n2) array
        Real or complex.
    shape1, shape2 : (m1, n1) and (m2, n2)
        Shapes of the left and right factors.
    terms : int, default 1
        Number of products, 1..min(m1·n1, m2·n2).
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        For large A, whose rearrangement is factored by a randomized method.
    check_finite : bool, default True
        Raise if A holds NaN or Inf. With False such input gives NaN.

    Returns
    -------
    NearestKronResult
        `B` (terms, m1, n1) and `C` (terms, m2, n2) with A ≈ sum_t kron(B[t], C[t]), the largest
        term first, and `info` (`NearestKronInfo`).

    Raises
    ------
    ValueError
        If the shapes do not multiply to that of A, `terms` is out of range, or A holds NaN or Inf.
    TypeError
        If A is not numeric or not dense, or an argument has the wrong type.

    Notes
    -----
    **Guarantee.** The rearrangement of A to (m1·n1) x (m2·n2), one row for each block, turns
    Kronecker products into matrices of rank one, so the truncated SVD is optimal [1]_:
    ||A - sum||_F² = sum_{i > terms} σ_i². `info.error` is measured from the returned arrays. Where
    min(m1·n1, m2·n2) > 256 a block Krylov method takes the place of the full SVD
    (`info.method == "krylov"`); it is optimal up to a small relative error.

    **Cost.** For sides p <= q of the rearrangement, 2·q·p² flops and a copy of A in double
    precision; with the Krylov method about 10 reads of A, no copy, and memory for 5·(terms + 16)
    vectors.

    References
    ----------
    .. [1] C. F. Van Loan, N. Pitsianis, "Approximation with Kronecker products", Linear Algebra for
       Large Scale and Real-Time Applications, 1993.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.kron([[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0, 2.0]])
    >>> B, C = r = lowla.nearest_kron(A, (2, 2), (1, 3))
    >>> B.shape, C.shape, r.info.error < 1e-14
    ((1, 2, 2), (1, 1, 3), True)
    >>> bool(np.allclose(np.kron(B[0], C[0]), A))
    True
    """
    start = time.perf_counter()
    M = _arrays.dense(A, "A", (2,))
    left, right = _shape("shape1", shape1), _shape("shape2", shape2)
    needed = (left[0] * right[0], left[1] * right[1])
    if M.shape != needed:
        raise ValueError(f"A must have shape1 * shape2 = {needed}, got shape {M.shape}")
    number = _checks.integer("terms", terms)
    most = min(math.prod(left), math.prod(right))
    if not 1 <= number <= most:
        raise ValueError(f"terms must be in 1..min(m1*n1, m2*n2) = {most}, got {number}")
    key = philox_key(rng)
    name, backend = _backend.select_for("nearest_kron", M.device)
    M = M.for_backend(name)
    B, C, facts = backend.nearest_kron(M.dense, left, right, number, key, check_finite)
    info = NearestKronInfo(
        terms=number,
        error=cast(float, facts["error"]),
        method=cast(str, facts["method"]),
        backend=name,
        seconds=time.perf_counter() - start,
    )
    return NearestKronResult((M.wrap(B), M.wrap(C)), info)


def take_factors(factors: Sequence[ArrayLike]) -> list[Matrix]:
    """The factors taken in, in their common dtype."""
    try:
        taken = [_arrays.dense(F, f"factors[{i}]", (2,)) for i, F in enumerate(factors)]
    except TypeError as error:
        if hasattr(factors, "__iter__"):
            raise
        message = f"factors must be a sequence of matrices, got {type(factors).__name__}"
        raise TypeError(message) from error
    if not taken:
        raise ValueError("factors must hold at least one matrix, got none")
    return _arrays.together(taken, "factors")


def columns_of(factors: Sequence[Matrix]) -> int:
    """prod n_i."""
    return math.prod(F.shape[1] for F in factors)


def rows_of(factors: Sequence[Matrix]) -> int:
    """prod m_i."""
    return math.prod(F.shape[0] for F in factors)


def product(factors: list[Matrix], X: Matrix, *, conjugate: bool = False) -> Array:
    """(⊗ F_i) X, or with the factors conjugated, as X's kind of array."""
    n = columns_of(factors)
    if X.shape[0] != n:
        raise ValueError(f"X must have prod(n_i) = {n} rows, got shape {X.shape}")
    name, backend = _backend.select_for("kron_matmul", X.device)
    operands = _arrays.together([*factors, X], "factors and X")
    *factors, X = (M.for_backend(name) for M in operands)
    rows = rows_of(factors)
    if 0 in X.shape or rows == 0:
        return X.empty(rows, *X.shape[1:])
    payloads = [F.dense for F in factors]
    if len(X.shape) == 1:
        return X.wrap(backend.kron_matmul(payloads, X.dense[:, None], conjugate)[:, 0])
    return X.wrap(backend.kron_matmul(payloads, X.dense, conjugate))


def checked_shift(shift: object) -> float:
    """A finite float."""
    number = _checks.real("shift", shift)
    if not math.isfinite(number):
        raise ValueError(f"shift must be a finite number, got {number:g}")
    return number


def _shape(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of ints, got {value!r}")
    m, n = (_checks.count(f"{name}[{i}]", size, least=1) for i, size in enumerate(value))
    return m, n
