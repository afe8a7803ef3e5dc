"""Random embeddings: `sketch_operator` and `sketch`.

A sketch S (d, n) has independent random entries scaled so that E ||S x||² = ||x||². It is never
stored: any entry follows from (key, row, column). gaussian: entries N(0, 1/d). sjlt: the
SparseStack construction, in each column one entry ±1/√nnz in each of nnz row blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks
from lowla._results import Array
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix, SupportsToCsr
    from lowla._sketch_operator import SketchOperator

Kind: TypeAlias = Literal["gaussian", "sjlt"]

KINDS = ("gaussian", "sjlt")


def sketch_operator(
    kind: Kind,
    d: int,
    n: int,
    *,
    rng: RngLike = None,
    dtype: npt.DTypeLike = np.float64,
    nnz_per_col: int = 8,
    density: float | None = None,
) -> SketchOperator:
    """A random embedding S of shape (d, n), as a linear operator.

    Parameters
    ----------
    kind : {"gaussian", "sjlt"}
        Entries N(0, 1/d), or exactly `nnz_per_col` entries ±1/√nnz_per_col a column, one in each
        of `nnz_per_col` row blocks (SparseStack).
    d, n : int
        Rows and columns, at least 1.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same S on every backend with any number of threads.
    dtype : float32 or float64, default float64
        Of `toarray` and `tosparse`. A product is computed in the dtype of its other factor.
    nnz_per_col : int, default 8
        Entries a column of "sjlt"; at most d are used.
    density : float, optional
        For kinds with random sparsity; none of those above has one.

    Returns
    -------
    SketchOperator
        A `scipy.sparse.linalg.LinearOperator`: `S @ A`, `S.T @ Y`, `S.toarray()`, `S.tosparse()`.

    Raises
    ------
    ValueError
        If the kind is unknown, a size is below 1, or `density` is given.
    TypeError
        If a size is no int or the dtype is neither float32 nor float64.

    Notes
    -----
    **Guarantee.** Gaussian: for a fixed subspace of dimension r and d >= C (r + log(1/δ))/ε²,
    all norms in it are kept to 1 ± ε with probability 1 - δ [1]_. sjlt: the same with
    d = O(r log(r)/ε²) and nnz_per_col = O(log(r)/ε) [2]_; nnz_per_col = 8 does it in practice
    [3]_.

    **Cost.** S @ A for A (n, c): gaussian 2·d·n·c flops and the generation of S; sjlt
    2·nnz_per_col·n·c flops, one read of A. Nothing of the size of S is stored.

    References
    ----------
    .. [1] D. P. Woodruff, "Sketching as a tool for numerical linear algebra", 2014.
    .. [2] M. B. Cohen, "Nearly tight oblivious subspace embeddings by trace inequalities", SODA
       2016.
    .. [3] C. Camaño, E. N. Epperly, R. A. Meyer, J. A. Tropp, "Faster linear algebra algorithms
       with structured random matrices", 2025, arXiv:2508.21189.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> S = lowla.sketch_operator("sjlt", 16, 1000, rng=0, nnz_per_col=4)
    >>> (S @ np.ones((1000, 3))).shape
    (16, 3)
    >>> S.tosparse().nnz
    4000
    """
    from lowla._sketch_operator import SketchOperator

    _checks.choice("kind", kind, KINDS)
    d = _checks.count("d", d, least=1)
    n = _checks.count("n", n, least=1)
    nnz_per_col = _checks.count("nnz_per_col", nnz_per_col, least=1)
    if density is not None:
        raise ValueError(f"density is not an option of kind {kind!r}, got {density}")
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    nnz = min(nnz_per_col, d) if kind == "sjlt" else d
    return SketchOperator(kind, d, n, nnz, philox_key(rng), dtype)


def sketch(
    A: ArrayLike | SupportsToCsr,
    d: int,
    *,
    kind: Kind = "sjlt",
    axis: int = 0,
    rng: RngLike = None,
) -> Array:
    """Compress a matrix along one axis: S @ A (axis 0) or A @ S.T (axis 1).

    Parameters
    ----------
    A : (m, n) array or sparse matrix
        Real or complex.
    d : int
        Size of the compressed axis, at least 1.
    kind : {"gaussian", "sjlt"}, default "sjlt"
        As in `sketch_operator`.
    axis : {0, 1}, default 0
        The axis that is compressed.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same sketch as `sketch_operator` does, on every backend.

    Returns
    -------
    array
        (d, n) or (m, d), dense, of the kind and dtype of A.

    Raises
    ------
    ValueError
        If the kind is unknown, d is below 1, `axis` is neither 0 nor 1, or A has not two
        dimensions.
    TypeError
        If A is not numeric, or is a linear operator.

    Notes
    -----
    **Guarantee.** That of `sketch_operator`: with d a modest multiple of the dimension of a
    subspace, its norms are kept to a small relative error with high probability.

    **Cost.** sjlt: one read of A, 8 signed additions an entry; gaussian: 2·d flops an entry.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.ones((1000, 4))
    >>> lowla.sketch(A, 50, rng=0).shape
    (50, 4)
    >>> lowla.sketch(A.T, 50, axis=1, rng=0).shape
    (4, 50)
    """
    _checks.choice("kind", kind, KINDS)
    d = _checks.count("d", d, least=1)
    if axis not in (0, 1):
        raise ValueError(f"axis must be 0 or 1, got {axis}")
    M = _arrays.matrix(A, operator=False)
    key = philox_key(rng)
    nnz = min(8, d) if kind == "sjlt" else d
    if axis == 0:
        return apply(kind, key, nnz, (d, M.shape[0]), M, adjoint=False)
    M = _arrays.transposed(M)
    back = M.wrap
    M = _arrays.rewrapped(M, lambda result: back(result.T))
    return apply(kind, key, nnz, (d, M.shape[0]), M, adjoint=False)


def apply(
    kind: str, key: int, nnz: int, shape: tuple[int, int], M: Matrix, *, adjoint: bool
) -> Array:
    """S @ M for S of that shape, or S.T @ M, as the caller's kind of array."""
    d, n = shape
    if adjoint:
        M = _arrays.densified(M)
    name, backend = _backend.select(M.device)
    M = M.on("cuda" if name == "cuda" else "host")
    if 0 in M.shape:
        return M.empty(n if adjoint else d, M.shape[1])
    with M.current_device():
        return M.wrap(backend.sketch_apply(kind, key, d, n, nnz, M.payload, adjoint))
