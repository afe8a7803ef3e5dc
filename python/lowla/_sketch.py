"""Random embeddings: `sketch_operator` and `sketch`.

A sketch S (d, n) has random entries with E SᵀS = I, so E ||S x||² = ||x||². It is never stored: any
entry follows from (key, row, column).

============= ==================================================================================
gaussian      entries N(0, 1/d)
rademacher    entries ±1/√d
srht          R H D / √d: random signs D, the Hadamard matrix H, d of its rows R
countsketch   one entry ±1 a column
sjlt          in each column one entry ±1/√nnz in each of nnz row blocks (SparseStack)
sparse        each entry ±1/√(density·d) with probability density, else 0
uniform       one entry √(n/d) a row: rows drawn with replacement
============= ==================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks
from lowla._results import Array
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix, SupportsToCsr
    from lowla._sketch_operator import SketchOperator

Kind: TypeAlias = Literal[
    "gaussian", "rademacher", "srht", "countsketch", "sjlt", "sparse", "uniform"
]

DENSE_KINDS = ("gaussian", "rademacher", "srht")
SPARSE_KINDS = ("countsketch", "sjlt", "sparse", "uniform")
KINDS = DENSE_KINDS + SPARSE_KINDS


@dataclass(frozen=True)
class Spec:
    """A sketch up to its dtype, as the backends take it."""

    kind: str
    key: int
    d: int
    n: int
    nnz: int
    density: float

    def apply(self, M: Matrix, *, adjoint: bool) -> Array:
        """S @ M, or S.T @ M, as the caller's kind of array."""
        if adjoint:
            M = _arrays.densified(M)
        name, backend = _backend.select(M.device)
        M = M.for_backend(name)
        if 0 in M.shape:
            return M.empty(self.n if adjoint else self.d, M.shape[1])
        with M.current_device():
            return M.wrap(
                backend.sketch_apply(
                    self.kind,
                    self.key,
                    self.d,
                    self.n,
                    self.nnz,
                    self.density,
                    M.payload,
                    adjoint,
                )
            )


def spec(kind: str, d: int, n: int, rng: RngLike, nnz_per_col: int, density: float | None) -> Spec:
    """The checked description of an operator whose kind is known."""
    if density is None:
        density = 1.0 / math.sqrt(n)
    elif kind != "sparse":
        raise ValueError(f"density is an option of kind 'sparse', not of {kind!r}, got {density}")
    elif isinstance(density, bool) or not isinstance(density, (int, float, np.number)):
        raise TypeError(f"density must be a float, got {type(density).__name__}")
    density = float(density)
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density:g}")
    nnz = min(nnz_per_col, d) if kind == "sjlt" else 1
    return Spec(kind, philox_key(rng), d, n, nnz, density if kind == "sparse" else 1.0)


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
    kind : {"gaussian", "rademacher", "srht", "countsketch", "sjlt", "sparse", "uniform"}
        gaussian: entries N(0, 1/d). rademacher: entries ±1/√d. srht: R H D / √d with random signs
        D, the Hadamard matrix H of order p, the next power of two, and a random choice R of d of
        its rows (distinct; where d > p all of them in turn). countsketch: one entry ±1 a column.
        sjlt: `nnz_per_col` entries ±1/√nnz_per_col a column, one in each of `nnz_per_col` row
        blocks (SparseStack). sparse: each entry ±1/√(density·d) with probability `density`, else
        0. uniform: one entry √(n/d) a row, that is, rows drawn with replacement.
    d, n : int
        Rows and columns, at least 1.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        The same int gives the same S on every backend with any number of threads.
    dtype : float32 or float64, default float64
        Of `toarray` and `tosparse`. A product is computed in the dtype of its other factor.
    nnz_per_col : int, default 8
        Entries a column of "sjlt"; at most d are used.
    density : float in (0, 1], optional
        Of "sparse"; default 1/√n.

    Returns
    -------
    SketchOperator
        A `scipy.sparse.linalg.LinearOperator`: `S @ A`, `S.T @ Y`, `S.toarray()`, `S.tosparse()`.

    Raises
    ------
    ValueError
        If the kind is unknown, a size is below 1, or `density` is given for another kind than
        "sparse" or lies outside (0, 1].
    TypeError
        If a size is no int, `density` no number, or the dtype neither float32 nor float64.

    Notes
    -----
    **Guarantee.** E SᵀS = I for every kind. For a fixed subspace of dimension r all norms are kept
    to 1 ± ε with probability 1 - δ if, up to constants:

    - gaussian, rademacher: d >= (r + log(1/δ))/ε² [1]_;
    - srht: d >= (√r + √log(n/δ))² log(r/δ)/ε² [2]_;
    - sjlt: d >= r log(r/δ)/ε² and nnz_per_col >= log(r/δ)/ε [3]_; nnz_per_col = 8 does it in
      practice [4]_;
    - countsketch: d >= r²/(δ ε²) [5]_;
    - sparse, uniform: only for subspaces without large coordinates, uniform d >= r μ log(r/δ)/ε²
      with coherence 1 <= μ <= n/r. A subspace that lives on few coordinates is lost.

    **Cost.** S @ A for A (n, c), nothing of the size of S is stored: gaussian, rademacher 2·d·n·c
    flops and the generation of S; srht about n·c·(10 + d/1024) additions, at most n·c·log2(p), in
    one read of A (of a sparse A 2·d flops a stored entry); sjlt, countsketch, sparse nnz(S)·c
    additions, one read of A; uniform reads d rows.

    References
    ----------
    .. [1] D. P. Woodruff, "Sketching as a tool for numerical linear algebra", 2014.
    .. [2] J. A. Tropp, "Improved analysis of the subsampled randomized Hadamard transform", Adv.
       Adapt. Data Anal. 3, 2011.
    .. [3] M. B. Cohen, "Nearly tight oblivious subspace embeddings by trace inequalities", SODA
       2016.
    .. [4] C. Camaño, E. N. Epperly, R. A. Meyer, J. A. Tropp, "Faster linear algebra algorithms
       with structured random matrices", 2025, arXiv:2508.21189.
    .. [5] J. Nelson, H. L. Nguyen, "OSNAP: faster numerical linear algebra algorithms via sparser
       subspace embeddings", FOCS 2013.
    .. [6] P. Li, T. J. Hastie, K. W. Church, "Very sparse random projections", KDD 2006.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> S = lowla.sketch_operator("sjlt", 16, 1000, rng=0, nnz_per_col=4)
    >>> (S @ np.ones((1000, 3))).shape
    (16, 3)
    >>> S.tosparse().nnz
    4000
    >>> H = lowla.sketch_operator("srht", 4, 8, rng=0)
    >>> bool(np.allclose(H.toarray() @ H.toarray().T, 2 * np.eye(4)))
    True
    """
    from lowla._sketch_operator import SketchOperator

    _checks.choice("kind", kind, KINDS)
    d = _checks.count("d", d, least=1)
    n = _checks.count("n", n, least=1)
    nnz_per_col = _checks.count("nnz_per_col", nnz_per_col, least=1)
    described = spec(kind, d, n, rng, nnz_per_col, density)
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return SketchOperator(described, dtype)


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
    kind : str, default "sjlt"
        As in `sketch_operator`, with its defaults ("sjlt": 8 entries a column; "sparse": density
        1/√n).
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

    **Cost.** That of `sketch_operator`: "sjlt" reads A once and makes 8 signed additions an entry.

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
    if axis == 1:
        M = _arrays.transposed(M)
        back = M.wrap
        M = _arrays.rewrapped(M, lambda result: back(result.T))
    n = max(M.shape[0], 1)  # of an empty matrix only the shape of the result matters
    return spec(kind, d, n, rng, 8, None).apply(M, adjoint=False)
