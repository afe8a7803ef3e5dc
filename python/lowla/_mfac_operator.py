"""`InverseFisher`, the inverse of an empirical Fisher matrix as a linear operator.

What a caller may pass is checked, the gradients and the small matrices are held, and the functions
of a backend do the work (`_numba/mfac.py` has the algorithm). A window of gradients is a ring of
rows: it is dual as long as no more rows are held than a block has columns, then primal.

Where the gradients are on the GPU, L, columns of L⁻¹G and what has the size of vectors are there
too; K, which is factored and summed over workers, indices and masks are in main memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks, _mfac
from lowla._arrays import Stored
from lowla._call import _progress_bar
from lowla._linear_operator import Applied
from lowla._results import FisherInfo

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix
    from lowla._results import Array

Reduce: TypeAlias = "Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]"
_Indices: TypeAlias = "npt.NDArray[np.int64]"

_REFACTOR_EVERY = 4  # windows
_SLABS = 100  # of a Gram matrix with a progress bar


@dataclass
class _State:
    """The rows held and the matrices made of them; `fisher_push` changes the arrays in place."""

    rows: list[npt.NDArray[Any]]
    count: int
    head: int
    K: npt.NDArray[np.float64] | None  # where rows are exchanged
    L: npt.NDArray[np.float64]


class InverseFisher(Applied):
    """F⁻¹ for F = damp·I + (1/m) Σ g_i g_iᵀ, the gradients g_i being rows, as a linear operator.

    Parameters
    ----------
    grads : (m, d) array, or list of (m, d_s) arrays
        Real. A list holds the columns one shard after another. float16, bfloat16, float32 and
        float64 are read as they are, memory-mapped arrays too: without `window` they are not
        copied, do not change them while the operator is in use. Of other dtypes float64 copies are
        made.
    damp : float
        In 1e-300..1e300; as F, it scales with the squared norm of the gradients.
    block_size : int, optional
        Only the diagonal blocks of F of this many columns, the last one may be narrower.
    window : int, optional
        Hold the last `window` gradients, in memory of the operator's own, for `push`. m is then
        the number of gradients held, which may be 0: `grads` may have shape (0, d).
    reduce : callable, optional
        For workers that each hold columns of the gradients: given a float64 array, returns its sum
        over the workers. All workers make the same calls. Not with `block_size`.
    progress : bool, default False
        Show a tqdm bar while the Gram matrix is summed.
    check_finite : bool, default True
        Raise if `grads` holds NaN or Inf. With False such gradients give NaN.

    Attributes
    ----------
    shape : tuple of int
        (d, d).
    dtype : numpy.dtype
        float64 for float64 and integer gradients, else float32.
    window : int or None
    damp : float

    Raises
    ------
    ValueError
        If a shape or an option does not fit, or there is a NaN or Inf in `grads`.
    TypeError
        If `grads` is not numeric, not real or not dense, or an argument has the wrong type.
    numpy.linalg.LinAlgError
        If the Gram matrix overflows, or `damp` is below its rounding.

    Notes
    -----
    **Guarantee.** With M = m·damp·I + G Gᵀ, whatever the dtype of the gradients, products are
    accumulated in float64 and rounded once: the error of F⁻¹x is a small multiple of
    u₆₄·cond(M)·||x|| / damp before that rounding. The diagonal lies between 1/F_ii and 1/damp.

    **Cost.** Set-up: m²·d + m³/3 flops and one read of the gradients, 8·m² bytes. `F @ x`:
    4·m·d + 2·m² flops and two reads, the same two for many columns. `push`: one read, 2·m·d + O(m²)
    flops. With blocks of B columns d/B matrices of order min(m, B).

    The method is M-FAC [1]_, from the Gram matrix; see the documentation of the family.

    References
    ----------
    .. [1] E. Frantar, E. Kurtic, D. Alistarh, "M-FAC: efficient matrix-free approximations of
       second-order information", NeurIPS 2021.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> G = np.random.default_rng(0).standard_normal((3, 5))
    >>> Finv = lowla.InverseFisher(G, damp=0.1)
    >>> F = 0.1 * np.eye(5) + G.T @ G / 3
    >>> bool(np.allclose(F @ (Finv @ np.arange(5.0)), np.arange(5.0)))
    True
    >>> bool(np.allclose(Finv.diagonal(), np.diag(np.linalg.inv(F))))
    True
    >>> window = lowla.InverseFisher(np.zeros((0, 5)), damp=0.1, window=2)
    >>> for g in G:
    ...     window.push(g)
    >>> bool(np.array_equal(window.grads, G[1:]))
    True
    """

    def __init__(
        self,
        grads: ArrayLike | Sequence[ArrayLike],
        damp: float,
        *,
        block_size: int | None = None,
        window: int | None = None,
        reduce: Reduce | None = None,
        progress: bool = False,
        check_finite: bool = True,
    ) -> None:
        start = time.perf_counter()
        shards = _take_shards(grads)
        self._made_by, _ = _backend.select_for("fisher_gram", shards[0].device)
        self._hold(shards, damp, block_size, window, reduce)
        m = shards[0].shape[0]
        if window is None and m == 0:
            raise ValueError("grads must have at least one row, or pass window=")
        with self._here():
            self._set_up(m, progress=progress, check_finite=check_finite)
        self._seconds = time.perf_counter() - start

    def _set_up(self, m: int, *, progress: bool, check_finite: bool) -> None:
        """The rows held, K and L."""
        count = m if self.window is None else min(m, self._window)
        if self.window is None:
            rows = [S.payload for S in self._shards]
        else:
            rows = [_ring(S, self._window) for S in self._shards]
        K = self._gram([a[:count] for a in rows], progress=progress)
        if check_finite and not np.isfinite(K).all():
            self._explain()
        L = self._factor(K, count, 0)
        self._state = _State(rows, count, 0, None, L)
        if self.window is not None:
            self._state.K, self._state.L = self._with_room(K, count), self._with_room(L, count)

    def _hold(
        self,
        shards: list[Stored],
        damp: object,
        block_size: object,
        window: object,
        reduce: object,
    ) -> None:
        """Checks the options and keeps them."""
        d = sum(S.shape[1] for S in shards)
        super().__init__(np.result_type(*(S.dtype for S in shards)), (d, d))
        self._damp = _mfac.checked_damp(damp)
        self._asked_block = (
            None if block_size is None else _checks.count("block_size", block_size, least=1)
        )
        self._size = None if window is None else _checks.count("window", window, least=1)
        if reduce is not None and not callable(reduce):
            raise TypeError(f"reduce must be callable, got {type(reduce).__name__}")
        if reduce is not None and block_size is not None:
            raise ValueError("reduce is for the full matrix: block_size must be None")
        self._reduce = cast("Reduce | None", reduce)
        self._home = shards[0].device
        self._shards = [S.for_backend(self._made_by) for S in shards]
        # Fewer columns than gradients: one primal block of all columns.
        primal = window is None and reduce is None and d < shards[0].shape[0]
        self._block = self._asked_block or (d if primal else 0)
        self._kept: npt.NDArray[np.float64] | None = None
        self._pushes = self._refactorisations = 0
        self._seconds = 0.0

    def __repr__(self) -> str:
        return f"InverseFisher(({self._state.count}, {self.shape[0]}), damp={self.damp:g})"

    # What is held

    @property
    def damp(self) -> float:
        """The multiple of the identity in F."""
        return self._damp

    @property
    def window(self) -> int | None:
        """The most gradients that are held; None if there are no pushes."""
        return self._size

    @property
    def grads(self) -> Any:
        """The gradients held, the oldest first: the caller's array or list; of a window a copy."""
        if self.window is None:
            held = [S.original for S in self._shards]
        else:
            held = [S.restore(a) for S, a in zip(self._shards, self._by_age(), strict=True)]
        return held[0] if len(held) == 1 else held

    def _by_age(self) -> list[npt.NDArray[Any]]:
        """Copies of the gradients held, the oldest first."""
        s = self._state
        with self._here():
            return [np.concatenate([a[s.head : s.count], a[: s.head]]) for a in s.rows]

    @property
    def info(self) -> FisherInfo:
        """What is held, how, and how well it is conditioned."""
        d = self.shape[0]
        pivots = _arrays.to_host(np.diagonal(self._L, axis1=1, axis2=2))
        used = pivots.reshape(-1)[:d] if self._primal else pivots
        ratio = float((used.max() / used.min()) ** 2) if used.size else 1.0
        return FisherInfo(
            m=self._state.count,
            d=d,
            damp=self.damp,
            block_size=self._asked_block,
            blocks=len(pivots),
            method="primal" if self._primal else "dual",
            cond=ratio,
            pushes=self._pushes,
            refactorisations=self._refactorisations,
            backend=self._made_by,
            seconds=self._seconds,
        )

    @property
    def _window(self) -> int:
        return cast(int, self._size)

    @property
    def _primal(self) -> bool:
        return 0 < self._block < self._state.count

    @property
    def _shift(self) -> float:
        return self._state.count * self.damp

    @property
    def _rows(self) -> list[npt.NDArray[Any]]:
        return [a[: self._state.count] for a in self._state.rows]

    @property
    def _L(self) -> npt.NDArray[np.float64]:
        L, m = self._state.L, self._state.count
        return L if self._primal else L[:, :m, :m]

    # Products

    def _apply(self, M: Matrix) -> Array:
        if M.dtype.kind == "c":
            raise TypeError(f"the right factor must be real, got {M.dtype}")
        if M.device != self._home:
            raise TypeError(
                "grads and the right factor must both be in main memory or both on the GPU"
            )
        M = _arrays.densified(M).on(self._shards[0].device)
        dtype = np.result_type(self.dtype, M.dtype)
        with M.current_device():
            if M.shape[1] == 0:
                return M.wrap(M.scratch(*M.shape).astype(dtype))
            return M.wrap(self._solve(self._L, M.dense, dtype.name))

    def _solve(self, L: npt.NDArray[np.float64], X: Array, dtype: str) -> Array:
        backend, head = self._backend("fisher_solve"), self._state.head
        if self._reduce is None:
            return backend.fisher_solve(self._rows, L, head, self._block, self.damp, X, dtype)
        D = self._reduced(backend.fisher_dots(self._rows, X))
        C = backend.fisher_coefficients(L, head, D)
        scale = 1 / self.damp
        return backend.fisher_combine(self._rows, C, X, scale, -scale, dtype)

    def _solve_host(
        self, L: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """F⁻¹x in float64, x (d,), both in main memory."""
        found = self._solve(L, self._shards[0].place(x[:, None]), "float64")
        return cast("npt.NDArray[np.float64]", _arrays.to_host(found)[:, 0])

    def _multiply(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """F x in float64, x (d,), both in main memory."""
        backend = self._backend("fisher_multiply")
        column = self._shards[0].place(x[:, None])
        found = backend.fisher_multiply(self._rows, self._block, self.damp, column, "float64")
        return cast("npt.NDArray[np.float64]", _arrays.to_host(found)[:, 0])

    def _masked_factor(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """L of the Fisher matrix whose columns without a mark are zero but for damp."""
        K = self._gram(self._rows, mask=mask)
        return self._factor(K, self._state.count, self._state.head)

    def _transpose(self) -> InverseFisher:
        return self

    def _adjoint(self) -> InverseFisher:
        return self

    def _rmatmat(self, X: Array) -> Array:
        return self._matmat(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._matvec(x)

    # Entries

    def diagonal(self) -> Array:
        """The diagonal of F⁻¹, (d,); m²·d flops and one read of the gradients."""
        return self._wrap(self._diagonal(self._L, self.dtype.name))

    def _diagonal(self, L: npt.NDArray[np.float64], dtype: str) -> Array:
        backend = self._backend("fisher_diagonal")
        head = self._state.head
        return backend.fisher_diagonal(self._rows, L, head, self._block, self.damp, dtype)

    def element(self, i: npt.ArrayLike, j: npt.ArrayLike) -> Array | float:
        """Entries of F⁻¹, O(m²) flops each; O(m) after `keep_columns`.

        Parameters
        ----------
        i, j : int or int arrays
            Broadcast against each other; negative ones count from the end.

        Returns
        -------
        float, or array of their common shape

        Raises
        ------
        IndexError
            If an index is out of range.
        TypeError
            If an index is no integer.
        """
        i, j = np.broadcast_arrays(self._indices("i", i), self._indices("j", j))
        shape, i, j = i.shape, i.ravel(), j.ravel()
        with self._here():
            found = self._entries(self._inner(i, j), i, j).reshape(shape)
            return self._wrap(found) if shape else float(_arrays.to_host(found))

    def _inner(self, i: _Indices, j: _Indices) -> npt.NDArray[np.float64]:
        """Inner products of columns of L⁻¹G."""
        backend = self._backend("fisher_inner")
        if self._kept is not None:
            return backend.fisher_inner(self._kept, i, j)
        needed, places = np.unique(np.concatenate([i, j]), return_inverse=True)
        W = self._columns(needed)
        return backend.fisher_inner(W, places[: len(i)], places[len(i) :])

    def block(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> Array:
        """The entries of F⁻¹ in some rows and columns, (len(rows), len(cols)).

        Parameters
        ----------
        rows, cols : (n,) int arrays
            Negative ones count from the end.

        Returns
        -------
        (len(rows), len(cols)) array

        Raises
        ------
        IndexError
            If an index is out of range.
        TypeError
            If an index is no integer.
        ValueError
            If `rows` or `cols` has not 1 dimension.
        """
        i, j = self._indices("rows", rows), self._indices("cols", cols)
        for name, index in (("rows", i), ("cols", j)):
            if index.ndim != 1:
                raise ValueError(f"{name} must have 1 dimension, got shape {index.shape}")
        with self._here():
            V, W = self._columns(i), self._columns(j)
            cross = self._backend("fisher_cross").fisher_cross(V, W)
            return self._wrap(self._entries(cross, i[:, None], j))

    def keep_columns(self) -> None:
        """Keep L⁻¹G, 8·m·d bytes, for `element` and `block`; until the next `push`."""
        self._kept = self._columns(np.arange(self.shape[0]))

    def _columns(self, indices: _Indices) -> npt.NDArray[np.float64]:
        if self._kept is not None:
            kept: npt.NDArray[np.float64] = self._kept[self._shards[0].place(indices)]
            return kept
        backend, head = self._backend("fisher_columns"), self._state.head
        return backend.fisher_columns(self._rows, self._L, head, self._block, indices)

    def _entries(self, inner: npt.NDArray[np.float64], i: _Indices, j: _Indices) -> Array:
        """Entries of F⁻¹ from the inner products of columns of L⁻¹G (primal: of L⁻¹)."""
        i, j = self._shards[0].place(i), self._shards[0].place(j)
        found = self._state.count * inner if self._primal else ((i == j) - inner) / self.damp
        if self._block:
            found = np.where(i // self._block == j // self._block, found, 0.0)
        return cast("Array", found.astype(self.dtype))

    def _indices(self, name: str, value: npt.ArrayLike) -> _Indices:
        index, d = np.asarray(value), self.shape[0]
        if index.size == 0:
            index = index.astype(np.int64)
        if index.dtype.kind not in "iu":
            raise TypeError(f"{name} must be of integers, got dtype {index.dtype}")
        outside = (index < -d) | (index >= d)
        if outside.any():
            raise IndexError(f"{name} must be in {-d}..{d - 1}, got {index[outside].flat[0]}")
        return np.where(index < 0, index + d, index).astype(np.int64)

    # Determinant and trace

    def logdet(self) -> float:
        """The natural logarithm of det F; with `reduce`, of the matrix of all workers."""
        return self._columns_of_all() * float(np.log(self.damp)) + self._trace()[0]

    def solve_trace(self) -> float:
        """The trace of F⁻¹; with `reduce`, of the matrix of all workers."""
        found = self._trace()[1]
        if not self._primal:
            found += self._columns_of_all() - len(self._state.L) * self._state.count
        return found / self.damp

    def _columns_of_all(self) -> int:
        d = self.shape[0]
        return d if self._reduce is None else round(float(self._reduced(np.array([float(d)]))[0]))

    def _trace(self) -> tuple[float, float]:
        L = self._L
        width = self.shape[0] - (len(L) - 1) * self._block if self._primal else self._state.count
        return self._backend("fisher_trace").fisher_trace(L, self._shift, width)

    # The window

    def push(self, g: ArrayLike | Sequence[ArrayLike]) -> None:
        """Take in a gradient; where the window is full it replaces the oldest.

        Parameters
        ----------
        g : (d,) array, or list of (d_s,) arrays
            Rounded to the dtype in which the gradients are stored.

        Raises
        ------
        ValueError
            If the operator has no window, g has another shape, holds NaN or Inf, or overflows that
            dtype.
        TypeError
            If g is not numeric, not real or not dense.
        numpy.linalg.LinAlgError
            If the Gram matrix overflows, or `damp` is below its rounding. The window is then as it
            was.

        Notes
        -----
        **Cost.** One read of the gradients; O(m²) flops beside, a factorisation in m³/3 while the
        window fills and every 4·m pushes. Primal blocks are factored each time, and with `reduce`
        the matrix is.
        """
        if self.window is None:
            raise ValueError("push needs a window of gradients: pass window= to InverseFisher")
        renew = (self._pushes + 1) % (_REFACTOR_EVERY * self._window) == 0
        with self._here():
            row = self._take_gradient(g)
            refactored = self._push_reduced(row) if self._reduce else self._push(row, renew)
        self._kept = None
        self._pushes += 1
        self._refactorisations += refactored

    def _push(self, row: list[npt.NDArray[Any]], renew: bool) -> bool:
        s, window = self._state, self._window
        K, L = cast("npt.NDArray[np.float64]", s.K), s.L
        rows = s.rows
        if 0 < self._block < window:
            if s.count < self._block:
                rows = [a[: self._block] for a in rows]  # still dual
            elif s.count == self._block:
                K, L = (np.zeros_like(A, shape=(len(K), self._block, self._block)) for A in (K, L))
                renew = True
        facts = self._backend("fisher_push").fisher_push(
            rows, K, L, s.head, s.count, self._block, self.damp, row, renew
        )
        head, count = cast(int, facts["head"]), cast(int, facts["count"])
        self._state = _State(s.rows, count, head, K, L)
        return bool(facts["refactored"])

    def _push_reduced(self, row: list[npt.NDArray[Any]]) -> bool:
        """The new row of K is a sum over workers: `fisher_push` in its parts."""
        s, backend = self._state, self._backend("fisher_dots")
        full = s.count == self._window
        slot, m = (s.head, s.count) if full else (s.count, s.count + 1)
        head = (s.head + 1) % m if full else s.head
        before = [a[slot].copy() for a in s.rows]
        try:
            for a, part in zip(s.rows, row, strict=True):
                a[slot] = part
            rows = [a[:m] for a in s.rows]
            newest = [a[slot : slot + 1] for a in s.rows]
            g = backend.fisher_combine(newest, np.ones((1, 1)), self._zeros(), 0.0, 1.0, "float64")
            K = cast("npt.NDArray[np.float64]", s.K).copy()
            K[0, slot, :m] = K[0, :m, slot] = self._reduced(backend.fisher_dots(rows, g))[:, 0]
            if not np.isfinite(K).all():
                raise np.linalg.LinAlgError("the Gram matrix of the gradients overflows")
            L = self._with_room(self._factor(K[:, :m, :m], m, head), m)
        except BaseException:
            for a, part in zip(s.rows, before, strict=True):
                a[slot] = part
            raise
        self._state = _State(s.rows, m, head, K, L)
        return True

    def _zeros(self) -> npt.NDArray[np.float64]:
        """A vector as one column."""
        zeros = self._shards[0].place(np.zeros((self.shape[0], 1)))
        return cast("npt.NDArray[np.float64]", zeros)

    def _take_gradient(self, g: ArrayLike | Sequence[ArrayLike]) -> list[npt.NDArray[Any]]:
        """g in the dtypes of the shards, one row each."""
        parts, d = _take_parts(g, "g"), self.shape[0]
        widths = [S.shape[1] for S in self._shards]
        if any(len(S.shape) != 1 for S in parts) or sum(S.shape[0] for S in parts) != d:
            shapes = ", ".join(str(S.shape) for S in parts)
            raise ValueError(f"g must have shape ({d},), got {shapes}")
        if any(S.device != self._home for S in parts):
            raise TypeError("grads and g must both be in main memory or both on the GPU")
        for S in parts:
            if not _arrays.stored_is_finite(S):
                raise ValueError("g contains NaN or Inf")
        parts = [S.for_backend(self._made_by) for S in parts]
        if len(parts) == 1:
            ends, whole = np.cumsum(widths).tolist(), parts[0]
            parts = [
                _arrays.with_payload(whole, whole.payload[end - width : end])
                for end, width in zip(ends, widths, strict=True)
            ]
        if [S.shape[0] for S in parts] != widths:
            raise ValueError(
                f"g must have the shards' widths {widths}, got {[S.shape[0] for S in parts]}"
            )
        return [
            _arrays.rounded_to(part, S, "g") for part, S in zip(parts, self._shards, strict=True)
        ]

    def state_dict(self) -> dict[str, npt.NDArray[Any] | int | float]:
        """What the operator holds, as plain arrays and numbers; `numpy.savez(file, **state)`.

        Returns
        -------
        dict
            `damp`, `block_size` and `window` (0 for None), `head`, `count`, `pushes`,
            `refactorisations`, `K`, `L`, and the gradients `grads_0`, `grads_1`, ... of the
            shards, bfloat16 as its bits in uint16. Of a window, and from the GPU, these are copies.
        """
        s = self._state
        state: dict[str, npt.NDArray[Any] | int | float] = {
            "damp": self.damp,
            "block_size": self._asked_block or 0,
            "window": self.window or 0,
            "head": s.head,
            "count": s.count,
            "pushes": self._pushes,
            "refactorisations": self._refactorisations,
            "K": np.zeros((0, 0, 0)) if s.K is None else s.K.copy(),
            "L": _arrays.to_host(s.L.copy()),
        }
        for i, a in enumerate(s.rows):
            state[f"grads_{i}"] = _arrays.to_host(a if self.window is None else a.copy())
        return state

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Any], *, reduce: Reduce | None = None
    ) -> InverseFisher:
        """The operator whose `state_dict` is given; it continues bit for bit.

        Parameters
        ----------
        state : dict
            Or what `numpy.load` gives of it. The arrays of a window are copied.
        reduce : callable, optional
            As for `InverseFisher`, where it was given there.

        Returns
        -------
        InverseFisher
            Its results are NumPy arrays; `grads` of bfloat16 come as float32.

        Raises
        ------
        ValueError
            If something is missing, or the parts do not fit together.
        """
        start = time.perf_counter()
        taken = _read_state(state)
        self = cls.__new__(cls)
        self._made_by, _ = _backend.select_for("fisher_solve", "host")
        window, block_size = taken.number("window") or None, taken.number("block_size") or None
        self._hold(taken.shards, float(taken.get("damp")), block_size, window, reduce)
        rows = [S.payload for S in self._shards]
        self._state = _State(
            rows=[a.copy() for a in rows] if window else rows,
            count=taken.number("count"),
            head=taken.number("head"),
            K=np.array(taken.get("K")) if window else None,
            L=self._shards[0].place(np.array(taken.get("L"))),
        )
        blocks = -(-self.shape[0] // self._block) if self._block else 1
        taken.check(self._state, (blocks, self._order(), self._order()), window)
        self._pushes = taken.number("pushes")
        self._refactorisations = taken.number("refactorisations")
        self._seconds = time.perf_counter() - start
        return self

    # Set-up

    def _gram(
        self,
        rows: list[npt.NDArray[Any]],
        *,
        mask: npt.NDArray[np.bool_] | None = None,
        progress: bool = False,
    ) -> npt.NDArray[np.float64]:
        backend = self._backend("fisher_gram")
        if progress:
            K = self._gram_with_bar(backend, rows)
        else:
            K = backend.fisher_gram(rows, self._block, mask)
        return K if self._reduce is None else self._reduced(K)

    def _gram_with_bar(
        self, backend: _backend.Backend, rows: list[npt.NDArray[Any]]
    ) -> npt.NDArray[np.float64]:
        """K by slabs of columns, whole blocks in each."""
        d, block = self.shape[0], self._block
        step = -(-d // _SLABS) or 1
        step = -(-step // block) * block if block else step
        parts: list[npt.NDArray[np.float64]] = []
        with closing(_progress_bar("InverseFisher")) as bar:
            for lo in range(0, max(d, 1), step):
                slab = _mfac.columns(rows, lo, min(lo + step, d))
                part = backend.fisher_gram(slab, block, None)
                parts = [*parts, part] if block or not parts else [parts[0] + part]
                bar.update(1)
        return np.concatenate(parts)

    def _factor(self, K: npt.NDArray[np.float64], m: int, head: int) -> npt.NDArray[np.float64]:
        primal = 0 < self._block < m
        backend = self._backend("fisher_factor")
        with self._here():
            return backend.fisher_factor(K, m * self.damp, 0 if primal else head)

    def _explain(self) -> None:
        """Why K is not finite."""
        for S in self._shards:
            if not _arrays.stored_is_finite(S):
                raise ValueError("grads contains NaN or Inf")
        raise np.linalg.LinAlgError("the Gram matrix of the gradients overflows")

    def _order(self) -> int:
        """Order of the matrices K and L as they are stored."""
        if self.window is None:
            return self._block if self._primal else self._state.count
        if self._primal or 0 < self._block < self.window:
            return self._block
        return self.window

    def _with_room(self, A: npt.NDArray[np.float64], m: int) -> npt.NDArray[np.float64]:
        """K or L with the rows that the window does not hold yet, as zeros."""
        n = self._block if 0 < self._block < self._window else self._window
        wide = np.zeros_like(A, shape=(len(A), n, n))
        wide[:, : A.shape[1], : A.shape[2]] = A
        return wide

    def _reduced(self, a: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found = np.asarray(cast(Reduce, self._reduce)(a), np.float64)
        if found.shape != a.shape:
            raise ValueError(f"reduce must return the shape {a.shape} it got, got {found.shape}")
        return found

    def _here(self) -> AbstractContextManager[object]:
        """Makes the GPU that holds the gradients the current one."""
        return self._shards[0].current_device()

    def _backend(self, function: str) -> _backend.Backend:
        return _backend.select_held(function, self._shards[0].device)[1]

    def _wrap(self, result: Array) -> Array:
        return self._shards[0].wrap(result)


@dataclass
class _Saved:
    """A state dict being read."""

    state: Mapping[str, Any]
    shards: list[Stored]

    def get(self, key: str) -> Any:
        if key not in self.state:
            raise ValueError(f"state lacks {key!r}")
        return self.state[key]

    def number(self, key: str) -> int:
        value = int(self.get(key))
        if value < 0:
            raise ValueError(f"state[{key!r}] must be at least 0, got {value}")
        return value

    def check(self, s: _State, shape: tuple[int, int, int], window: int | None) -> None:
        """ValueError unless the shapes are those of a state, K and L having the given one."""
        held = s.rows[0].shape[0]
        fits = all(a.shape[0] == held for a in s.rows) and s.L.shape == shape
        fits = fits and s.L.dtype == np.float64
        if window is None:
            fits = fits and s.count == held > 0 and s.head == 0 == np.size(self.get("K"))
        else:
            fits = fits and held == window and s.count <= window and s.head < window
            fits = fits and s.K is not None and s.K.shape == s.L.shape and s.K.dtype == np.float64
        if not fits:
            raise ValueError(
                "state does not fit together: its arrays are not those of one operator"
            )


def _read_state(state: Mapping[str, Any]) -> _Saved:
    saved = _Saved(state, [])
    while not saved.shards or f"grads_{len(saved.shards)}" in state:
        i = len(saved.shards)
        array = np.asarray(saved.get(f"grads_{i}"))
        if array.ndim != 2 or array.dtype not in (np.float64, np.float32, np.float16, np.uint16):
            raise ValueError(
                f"state['grads_{i}'] must be a matrix of gradients as stored, got "
                f"{array.dtype} of shape {array.shape}"
            )
        saved.shards.append(_arrays.stored_bits(array))
    return saved


def _take_parts(arrays: object, name: str) -> list[Stored]:
    """One array, or a list of the arrays of the shards (each has a shape: no list of rows)."""
    dims = 2 if name == "grads" else 1
    if isinstance(arrays, (list, tuple)) and all(
        len(getattr(a, "shape", ())) == dims for a in arrays
    ):
        if not arrays:
            raise ValueError(f"{name} must hold at least one array, got none")
        return [_arrays.stored(a, f"{name}[{i}]") for i, a in enumerate(arrays)]
    return [_arrays.stored(cast("ArrayLike", arrays), name)]


def _take_shards(grads: object) -> list[Stored]:
    shards = _take_parts(grads, "grads")
    first = shards[0]
    if len(first.shape) != 2:
        raise ValueError(f"grads must have 2 dimensions, got shape {first.shape}")
    if any(S.shape[0] != first.shape[0] for S in shards):
        shapes = ", ".join(str(S.shape) for S in shards)
        raise ValueError(f"grads must have the same number of rows in all shards, got {shapes}")
    if any(S.device != first.device for S in shards):
        raise TypeError("grads must all be in main memory or all on the GPU")
    return shards


def _ring(S: Stored, window: int) -> npt.NDArray[Any]:
    """Room for `window` rows, the last ones of S in its first rows."""
    ring = S.zeros(window, S.shape[1])
    last = S.payload[-window:]
    ring[: len(last)] = last
    return ring
