"""Singular values of a matrix that is never held: StreamingSVD.

Single-pass SVD after Yu, Gu, Li, Liu, Li, "Single-pass PCA of large high-dimensional data"
(IJCAI 2017): a fixed test matrix X, Y = A X and Z = A^H Y gathered in one read of the rows. Cost
4·n·l flops a row; memory (m + n)·l entries and one chunk of rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lowla import _arrays, _backend, _call, _checks
from lowla._results import Array, SVDResult
from lowla._rng import RngLike, philox_key

if TYPE_CHECKING:
    from lowla._arrays import ArrayLike, Matrix, SupportsToCsr


@dataclass(frozen=True)
class _Sums:
    """What is kept of rows R, scaled by 2^-exponent: Y by chunks, Z = Aᴴ Y in double, ||A||_F²."""

    Y: tuple[Array, ...] = ()
    Z: Array | None = None
    norm2: float = 0.0
    rows: int = 0
    exponent: int | None = None  # None: all rows are zero, any exponent will do

    def then(self, later: _Sums) -> _Sums:
        """The sums of these rows followed by `later`'s."""
        exponents = [sums.exponent for sums in (self, later) if sums.exponent is not None]
        exponent = max(exponents, default=None)
        first, last = self._at(exponent), later._at(exponent)
        Z = last.Z if first.Z is None else first.Z if last.Z is None else first.Z + last.Z
        return _Sums(
            first.Y + last.Y, Z, first.norm2 + last.norm2, first.rows + last.rows, exponent
        )

    def _at(self, exponent: int | None) -> _Sums:
        if self.exponent is None or exponent is None or self.exponent == exponent:
            return self
        shift = self.exponent - exponent
        Y = tuple(_arrays.times_power_of_two(part, shift) for part in self.Y)
        Z = None if self.Z is None else _arrays.times_power_of_two(self.Z, 2 * shift)
        return _Sums(Y, Z, self.norm2 * 2.0**shift * 2.0**shift, self.rows, exponent)


class StreamingSVD:
    """Truncated SVD of a matrix whose rows arrive in blocks, each seen once.

    The rows are taken in fixed chunks of 256, so the same rows give bit-identical factors whatever
    the blocks they arrived in.

    Parameters
    ----------
    k : int
        Rank, in 1..n.
    n : int
        Number of columns.
    rng : None, int, numpy.random.Generator or numpy.random.SeedSequence, optional
        Streams that are to be merged need the same int.

    Raises
    ------
    ValueError
        If n is below 1 or k is outside 1..n.

    Notes
    -----
    **Guarantee.** With l = min(n, k + max(10, k)) the fixed Gaussian test matrix X (n, l) gives
    Y = A X and Z = Aᴴ Y in one read; the factors are the best rank-k approximation of Q Qᴴ A,
    Q = orth(Y), whose expected error is that of `rsvd(n_iter=0)` with oversample l - k [1]_ [2]_.

    **Cost.** 4·n·l flops a row, one read of each row, memory for (m + n)·l entries and one chunk.

    References
    ----------
    .. [1] W. Yu, Y. Gu, J. Li, S. Liu, Y. Li, "Single-pass PCA of large high-dimensional data",
       IJCAI 2017.
    .. [2] N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness", SIAM
       Review 53(2), 2011, Theorem 10.5.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> A = np.outer(np.arange(1.0, 601.0), np.arange(1.0, 21.0))
    >>> stream = lowla.StreamingSVD(1, 20, rng=0)
    >>> for block in np.array_split(A, 7):
    ...     stream = stream.partial_fit(block)
    >>> U, S, Vh = stream.result()
    >>> bool(np.allclose((U * S) @ Vh, A))
    True
    """

    _CHUNK = 256
    _SAFE_NORM2: ClassVar = {"float32": (1e-30, 1e30), "float64": (1e-200, 1e200)}

    def __init__(self, k: int, n: int, *, rng: RngLike = None) -> None:
        self.n = _checks.count("n", n, least=1)
        self.k = _checks.integer("k", k)
        if not 1 <= self.k <= self.n:
            raise ValueError(f"k must be in 1..n = {self.n}, got {self.k}")
        self._key = philox_key(rng)
        self._width = min(self.n, self.k + max(10, self.k))
        self._form: Matrix | None = None  # a row of the first block: dtype, device, way back
        self._test: Array | None = None  # X, made with the first full chunk
        self._sums = _Sums()
        self._pending: list[Matrix] = []  # rows that wait for a full chunk
        self._seconds = 0.0

    @property
    def n_rows(self) -> int:
        """Number of rows seen."""
        return self._sums.rows + self._n_pending

    @property
    def _n_pending(self) -> int:
        return sum(piece.shape[0] for piece in self._pending)

    def __repr__(self) -> str:
        return f"StreamingSVD(k={self.k}, n={self.n}): {self.n_rows} rows"

    def partial_fit(self, rows: ArrayLike | SupportsToCsr) -> StreamingSVD:
        """Take in a block of rows.

        Parameters
        ----------
        rows : (r, n) array or sparse matrix
            Any r. The first block decides the dtype and the kind of array of the result.

        Returns
        -------
        StreamingSVD
            This object.

        Raises
        ------
        ValueError
            If the block is not (r, n), or holds NaN or Inf; the stream is then as before.
        TypeError
            If the block is not numeric, or is complex where the first was real.
        """
        start = time.perf_counter()
        M = _arrays.matrix(rows, "rows", operator=False)
        if M.shape[1] != self.n:
            raise ValueError(f"rows must have shape (r, {self.n}), got {M.shape}")
        name, _ = _backend.select(M.device)
        M = M.for_backend(name)
        form = self._form or _arrays.owned(_arrays.rows_of(M, 0, min(1, M.shape[0])))
        if M.device != form.device:
            raise TypeError(f"rows must be where the first were ({form.device}), not {M.device}")
        M = _arrays.cast_to(M, form.dtype, "rows")

        # All work goes to copies, so an error or Ctrl-C leaves the stream as it was.
        sums, pending, taken = self._sums, self._pending, 0
        missing = self._CHUNK - self._n_pending
        with M.current_device():
            while M.shape[0] - taken >= missing:
                part = _arrays.rows_of(M, taken, taken + missing)
                sums = self._added(sums, _arrays.stacked_rows([*pending, part]))
                pending, taken, missing = [], taken + missing, self._CHUNK
            if taken < M.shape[0]:
                rest = _arrays.rows_of(M, taken, M.shape[0])
                if not _arrays.is_finite(rest):
                    raise ValueError("rows contains NaN or Inf")
                pending = [*pending, _arrays.owned(rest)]
        self._form, self._sums, self._pending = form, sums, pending
        self._seconds += time.perf_counter() - start
        return self

    def merge(self, other: StreamingSVD) -> StreamingSVD:
        """Append the rows of another stream, which is left as it is.

        Both streams must have been made with the same `k`, `n` and int `rng`. The merged stream
        answers, to rounding, as one stream that saw this one's rows, then the other's.

        Parameters
        ----------
        other : StreamingSVD

        Returns
        -------
        StreamingSVD
            This object.

        Raises
        ------
        ValueError
            If k, n, rng or the dtype of the rows differ.
        TypeError
            If `other` is no StreamingSVD.
        """
        if not isinstance(other, StreamingSVD):
            raise TypeError(f"other must be a StreamingSVD, got {type(other).__name__}")
        if (self.k, self.n) != (other.k, other.n):
            raise ValueError(
                f"streams must have the same k and n, got {(self.k, self.n)} "
                f"and {(other.k, other.n)}"
            )
        if self._key != other._key:
            raise ValueError("streams must be made with the same int rng to be merged")
        if other._form is None:
            return self
        form = self._form or other._form
        if form.dtype != other._form.dtype or form.device != other._form.device:
            raise ValueError(
                f"streams must have rows of one kind, got {form.dtype} on {form.device} and "
                f"{other._form.dtype} on {other._form.device}"
            )
        with form.current_device():
            mine, theirs = self._flushed(), other._flushed()
            both = mine.then(theirs)
        self._form, self._sums, self._pending = form, both, []
        self._seconds += other._seconds
        return self

    def result(self) -> SVDResult:
        """The factors of the rows so far; the stream goes on.

        Returns
        -------
        SVDResult
            `U` (rows seen, k), `S` (k,), `Vh` (k, n), `info`.

        Raises
        ------
        ValueError
            If fewer than k rows were seen.
        """
        start = time.perf_counter()
        form = self._form
        if form is None:
            raise ValueError("no rows yet: call partial_fit before result")
        if self.n_rows < self.k:
            raise ValueError(f"k = {self.k} needs at least {self.k} rows, got {self.n_rows}")
        name, backend = _backend.select(form.device)
        with form.current_device():
            sums = self._flushed()
            assert sums.Z is not None
            U, S, Vh, facts = backend.stream_finish(
                np.concatenate(sums.Y), sums.Z.astype(form.dtype), sums.norm2, self.k
            )
        info = _call.info(facts, (), self.k, None, name, start - self._seconds)
        S = _arrays.times_power_of_two(S, sums.exponent or 0)
        return SVDResult([form.wrap(a) for a in (U, S, Vh)], info)

    def _flushed(self) -> _Sums:
        """The sums with the rows that wait for a full chunk added."""
        if not self._pending:
            return self._sums
        return self._added(self._sums, _arrays.stacked_rows(self._pending))

    def _added(self, sums: _Sums, chunk: Matrix) -> _Sums:
        _, backend = _backend.select(chunk.device)
        if self._test is None:
            dtype = chunk.real_dtype.name
            X = backend.random_normal(self._key, 0, self._width, self.n, dtype).T
            self._test = X.astype(chunk.dtype, copy=False)
        sums_of_chunk = self._pass(backend, chunk, 0)
        low, high = self._SAFE_NORM2[chunk.real_dtype.name]
        if not low < sums_of_chunk.norm2 < high:
            # Products with these rows may over- or underflow: bring them near 1 first.
            largest = _arrays.largest(chunk)
            if not np.isfinite(largest):
                raise ValueError("rows contains NaN or Inf")
            exponent = int(np.frexp(largest)[1]) if largest > 0 else None
            sums_of_chunk = self._pass(backend, chunk, exponent)
        return sums.then(sums_of_chunk)

    def _pass(self, backend: _backend.Backend, chunk: Matrix, exponent: int | None) -> _Sums:
        assert self._test is not None
        if exponent:
            chunk = _arrays.scaled(chunk, -exponent)
        with np.errstate(all="ignore"):
            Y, Z, norm2 = backend.stream_pass(chunk.payload, self._test)
        double = np.result_type(chunk.dtype, np.float64)
        return _Sums((Y,), Z.astype(double), norm2, chunk.shape[0], exponent)
