"""Nearest neighbours under an expensive score: CURIndex."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lowla import _arrays, _backend, _checks
from lowla._cur_results import NeighborsResult, SearchInfo

if TYPE_CHECKING:
    from typing_extensions import Self

    from lowla._arrays import ArrayLike, Matrix
    from lowla._cur_results import Indices
    from lowla._results import Array

Score: TypeAlias = "Callable[[Any, Indices], Any]"
Queries: TypeAlias = "Sequence[Any] | npt.NDArray[Any]"

_SHARE = 5  # anchor items are the fifth part of the anchor queries
_ROUNDS = 4


class CURIndex:
    """k nearest neighbours under an expensive pairwise score, by a CUR of the score matrix.

    The scores of a few anchor queries against all items are computed once. A query is scored
    against a few anchor items; its scores of all others are estimated as a combination of the
    anchor queries' rows.

    Parameters
    ----------
    n_items : int
        Number of items, at least 1.
    score : callable, optional
        `score(queries, items)` gives the scores (len(queries), len(items)), higher for nearer;
        `queries` is a part of the sequence that the caller passes, `items` an int64 array. Needed
        for `fit_queries` and `search`.
    n_anchors : int, optional
        Number of anchor items; a fifth of the number of anchor queries unless given.
    reg : float, default 0.1
        Tikhonov's shift, over the mean squared distance of the columns of the anchor rows from
        their mean.

    Raises
    ------
    ValueError
        If a number is out of range.
    TypeError
        If `score` is not callable, or an argument has the wrong type.

    Notes
    -----
    **Guarantee.** `search` returns scores that were computed, never estimates: what may be wrong is
    only which items were looked at. With as many anchor items as the rank of the score matrix and a
    small `reg` the estimates are exact [1]_. Anchors that are chosen in rounds: [2]_.

    **Cost.** A query takes `budget` scores and 2·a·n flops a round, for a anchor queries and n
    items; memory 8·a·n bytes.

    References
    ----------
    .. [1] N. Yadav, N. Monath, R. Angell, M. Zaheer, A. McCallum, "Efficient nearest neighbor
       search for cross-encoder models using matrix factorization", EMNLP 2022.
    .. [2] N. Yadav, N. Monath, M. Zaheer, A. McCallum, "Adaptive selection of anchor items for
       CUR-based k-NN search with cross-encoders", 2023, arXiv:2305.02996.

    Examples
    --------
    >>> import numpy as np, lowla
    >>> x = np.linspace(0.0, 1.0, 500)
    >>> def score(queries, items):
    ...     return -np.abs(np.subtract.outer(np.asarray(queries), x[items]))
    >>> index = lowla.CURIndex(500, score).fit_queries(np.linspace(0.0, 1.0, 40))
    >>> items, scores = r = index.search([0.25, 0.5], 1, budget=40)
    >>> [round(float(x[i]), 2) for i in items[:, 0]], r.info.scores_per_query
    ([0.25, 0.5], 40)
    """

    def __init__(
        self,
        n_items: int,
        score: Score | None = None,
        *,
        n_anchors: int | None = None,
        reg: float = 0.1,
    ) -> None:
        self._n = _checks.count("n_items", n_items, least=1)
        if score is not None and not callable(score):
            raise TypeError(f"score must be callable, got {type(score).__name__}")
        self._score = score
        self._wanted = None if n_anchors is None else _checks.integer("n_anchors", n_anchors)
        if self._wanted is not None and not 1 <= self._wanted <= self._n:
            raise ValueError(f"n_anchors must be in 1..n_items = {self._n}, got {self._wanted}")
        self._reg = _checks.positive("reg", reg)
        self._rows: Matrix | None = None
        self._anchors: Indices = np.empty(0, dtype=np.int64)

    @property
    def anchors(self) -> Indices:
        """The anchor items, int64."""
        return self._anchors

    def fit(self, anchor_rows: ArrayLike) -> Self:
        """Take the scores of the anchor queries.

        Parameters
        ----------
        anchor_rows : (a, n_items) array
            Real and finite; kept, not copied.

        Returns
        -------
        CURIndex
            This index.

        Raises
        ------
        ValueError
            If the shape does not fit, there are no rows, or there is a NaN or Inf.
        TypeError
            If the array is not numeric or not real.
        """
        return self._take(self._block(anchor_rows, "anchor_rows", self._n))

    def fit_queries(self, queries: Queries) -> Self:
        """Score the anchor queries against all items: one call of `score`.

        Parameters
        ----------
        queries : sequence
            At least one, of any kind that `score` takes.

        Returns
        -------
        CURIndex
            This index.

        Raises
        ------
        ValueError
            If the index has no `score`, there are no queries, or a score is NaN or Inf.
        TypeError
            If the scores are not real numbers.
        """
        everything = np.arange(self._n, dtype=np.int64)
        return self._take(self._scored(queries, everything))

    def query(self, anchor_scores: ArrayLike, k: int = 10) -> NeighborsResult:
        """The items of highest estimated score, from the scores of the anchor items alone.

        Parameters
        ----------
        anchor_scores : (len(anchors),) or (q, len(anchors)) array
            Scores of one query or of q queries against `anchors`, in that order.
        k : int, default 10
            In 1..n_items.

        Returns
        -------
        NeighborsResult
            `items` (k,) or (q, k), `scores` of that shape, estimates, and `info` (`SearchInfo`).

        Raises
        ------
        ValueError
            If the index is not fitted, a shape does not fit, k is out of range, or there is a NaN.
        TypeError
            If the scores are not real numbers.
        """
        start = time.perf_counter()
        E = self._fitted()
        number = self._count(k, self._n, "n_items")
        M = _arrays.dense(anchor_scores, "anchor_scores", (1, 2))
        many = len(M.shape) == 2
        known = self._block(M.dense if many else M.dense[None], "anchor_scores", len(self._anchors))
        name, backend = _backend.select_for("index_query", E.device)
        items, scores = backend.index_query(E.dense, self._anchors, known.dense, self._reg, number)
        info = SearchInfo(
            k=number,
            score_calls=0,
            scores_per_query=0,
            rounds=0,
            backend=name,
            seconds=time.perf_counter() - start,
        )
        values = (items, scores) if many else (items[0], scores[0])
        return NeighborsResult([M.wrap(cast("Array", a)) for a in values], info)

    def search(
        self,
        queries: Queries,
        k: int = 10,
        *,
        budget: int | None = None,
        rounds: int = _ROUNDS,
    ) -> NeighborsResult:
        """The items of highest score among those that are looked at.

        First the anchor items are scored, then in `rounds` equal parts the items of highest
        estimate, each part but the last being further anchors. One round is the method of fixed
        anchors.

        Parameters
        ----------
        queries : sequence
            Of any kind that `score` takes; it is cut by slices.
        k : int, default 10
            In 1..budget.
        budget : int, optional
            Scores for each query, the anchors among them, at most n_items; five times the number of
            anchors and at least k beyond it, unless given.
        rounds : int, default 4
            At least 1.

        Returns
        -------
        NeighborsResult
            `items` (q, k), the best first, `scores` (q, k) and `info` (`SearchInfo`).

        Raises
        ------
        ValueError
            If the index is not fitted or has no `score`, a number is out of range, or a score is
            NaN or Inf.
        TypeError
            If the scores are not real numbers.
        """
        start = time.perf_counter()
        E = self._fitted()
        anchors = len(self._anchors)
        if budget is None:
            wanted = min(self._n, max(5 * anchors, anchors + _checks.count("k", k, least=1)))
        else:
            wanted = _checks.integer("budget", budget)
        if not anchors <= wanted <= self._n:
            raise ValueError(
                f"budget must be in len(anchors)..n_items = {anchors}..{self._n}, got {wanted}"
            )
        number = self._count(k, wanted, "budget")
        steps = _checks.count("rounds", rounds, least=1)
        if len(queries) == 0:
            raise ValueError("queries must hold at least one query, got none")
        self._require_score()
        name, backend = _backend.select_for("index_search", E.device)

        def score(part: Queries, items: Indices) -> Array:
            return self._scored(part, items).dense

        items, scores, facts = backend.index_search(
            E.dense, self._anchors, score, queries, number, wanted, steps, self._reg
        )
        info = SearchInfo(
            k=number,
            score_calls=cast(int, facts["score_calls"]),
            scores_per_query=cast(int, facts["scores_per_query"]),
            rounds=cast(int, facts["rounds"]),
            backend=name,
            seconds=time.perf_counter() - start,
        )
        return NeighborsResult((items, scores), info)

    def _take(self, rows: Matrix) -> Self:
        wanted = self._wanted or min(max(1, rows.shape[0] // _SHARE), self._n)
        _, backend = _backend.select_for("index_anchors", rows.device)
        self._anchors = backend.index_anchors(rows.dense, wanted)
        self._rows = rows
        return self

    def _fitted(self) -> Matrix:
        if self._rows is None:
            raise ValueError("the index has no anchor rows yet: call fit or fit_queries")
        return self._rows

    def _count(self, k: int, most: int, of: str) -> int:
        number = _checks.integer("k", k)
        if not 1 <= number <= most:
            raise ValueError(f"k must be in 1..{of} = {most}, got {number}")
        return number

    def _require_score(self) -> Score:
        if self._score is None:
            raise ValueError("the index was made without score")
        return self._score

    def _scored(self, queries: Queries, items: Indices) -> Matrix:
        score = self._require_score()
        found = score(queries, items)
        return self._block(found, "score(queries, items)", items.size, len(queries))

    def _block(self, block: Any, name: str, columns: int, rows: int | None = None) -> Matrix:
        """A real, finite block of scores of the right shape."""
        M = _arrays.dense(block, name, (2,))
        if M.dtype.kind == "c":
            raise TypeError(f"{name} must be real, got dtype {M.dtype}")
        needed = (M.shape[0] if rows is None else rows, columns)
        if M.shape != needed:
            need = f"({'r' if rows is None else rows}, {columns})"
            raise ValueError(f"{name} must have shape {need}, got {M.shape}")
        if M.shape[0] == 0:
            raise ValueError(f"{name} must have at least one row, got shape {M.shape}")
        _arrays.require_finite(M, name)
        return M
