"""Nearest neighbours under an expensive score by a CUR decomposition of the score matrix.

E (a, n) holds the scores of a anchor queries against all n items. A query scores j anchor items,
c (j,); its scores of all items are estimated as c E[:, J]^+ E (Yadav, Monath, Angell, Zaheer,
McCallum 2022, "Efficient nearest neighbor search for cross-encoder models using matrix
factorization"), here with Tikhonov's shift lambda in place of a truncated pseudoinverse:
w = M^H (M M^H + lambda I)^-1 c for M = E[:, J]^T. Columns [m_i; sqrt(lambda) e_i] are appended to a
QR factorisation by block Gram-Schmidt with reorthogonalisation (Stewart 2008), so M M^H is not
formed and a further anchor costs O(a j). Adaptive anchors are the items of highest estimate, in
rounds (Yadav, Monath, Zaheer, McCallum 2023, "Adaptive selection of anchor items for CUR-based k-NN
search with cross-encoders").

Cost of a query: its scores, 2 a n flops a round, 4 a j^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict

import numpy as np
import scipy.linalg

from .matrix import Array
from .pivoting import Indices, pivoted_qr, rest_of

Score: TypeAlias = Callable[[Any, Indices], Array]

_QUERIES = 256  # estimated at a time


class SearchFacts(TypedDict):
    """Scores computed for a batch of queries."""

    score_calls: int
    scores_per_query: int
    rounds: int


class Anchors:
    """QR of the columns [m_i; sqrt(shift) e_i] of the anchor items so far."""

    def __init__(self, E: Array, shift: float) -> None:
        self._E = E
        self._root = float(np.sqrt(shift))
        self.Q = np.zeros((len(E), 0))  # the rows that belong to E
        self.S = np.zeros((0, 0))  # the rows that belong to the shift
        self.R = np.zeros((0, 0))

    def append(self, items: Indices) -> None:
        """Further anchor items."""
        old, new = self.R.shape[0], items.size
        V = self._E[:, items]
        W = np.zeros((old + new, new))
        W[old:] = self._root * np.eye(new)
        S = np.vstack([self.S, np.zeros((new, old))])
        coefficients = np.zeros((old, new))
        for _ in range(2):
            step = self.Q.T @ V + S.T @ W
            V, W, coefficients = V - self.Q @ step, W - S @ step, coefficients + step
        Q, corner = np.linalg.qr(np.vstack([V, W]))
        self.Q = np.hstack([self.Q, Q[: len(V)]])
        self.S = np.hstack([S, Q[len(V) :]])
        self.R = np.block([[self.R, coefficients], [np.zeros((new, old)), corner]])

    def weights(self, known: Array) -> Array:
        """w (q, a) for the scores (q, j) of the anchor items."""
        y = scipy.linalg.solve_triangular(self.R, known.T, trans="T", check_finite=False)
        return np.asarray((self.Q @ y).T)


def index_anchors(E: Array, n_anchors: int) -> Indices:
    """Items whose columns span E best: QR pivots, and pivots of the others for more of them."""
    wide = E.astype(np.float64)
    items = np.empty(0, dtype=np.int64)
    while items.size < n_anchors:
        rest = rest_of(E.shape[1], items)
        left = wide[:, rest]
        perm, _, rank = pivoted_qr(left, min(left.shape), max(E.shape) * np.finfo(E.dtype).eps)
        found = rest[perm[: min(max(rank, 1), n_anchors - items.size)]]
        items = np.concatenate([items, found])
    return items


def shift_of(E: Array, reg: float) -> float:
    """lambda = reg times the mean squared distance of the columns of E from their mean.

    A score's large common part is no reason for a large shift.
    """
    spread2 = float(np.sum((E - E.mean(axis=1, keepdims=True)) ** 2))
    floor2 = float(np.finfo(np.float64).eps) * float(np.sum(E**2))
    tiny = float(np.finfo(np.float64).tiny)
    shift: float = reg * max(spread2, floor2) / E.shape[1]
    return max(shift, tiny)


def best(estimates: Array, k: int) -> Indices:
    """The k largest entries of each row, descending, the first of equal ones first."""
    return np.argsort(-estimates, axis=1, kind="stable")[:, :k].astype(np.int64)


def index_query(
    E: Array, anchors: Indices, known: Array, reg: float, k: int
) -> tuple[Indices, Array]:
    """The k items (q, k) of highest estimate, and the estimates, from scores of the anchors."""
    wide = E.astype(np.float64)
    fitted = Anchors(wide, shift_of(wide, reg))
    fitted.append(anchors)
    items = np.empty((len(known), k), dtype=np.int64)
    values = np.empty((len(known), k))
    for begin in range(0, len(known), _QUERIES):
        part = slice(begin, begin + _QUERIES)
        scores = known[part].astype(np.float64)
        estimates = fitted.weights(scores) @ wide
        estimates[:, anchors] = scores
        items[part] = best(estimates, k)
        values[part] = np.take_along_axis(estimates, items[part], axis=1)
    return items, values.astype(E.dtype)


def index_search(
    E: Array,
    anchors: Indices,
    score: Score,
    queries: Any,
    k: int,
    budget: int,
    rounds: int,
    reg: float,
) -> tuple[Indices, Array, SearchFacts]:
    """The k best items (q, k) among `budget` scored ones for each query, and their scores.

    First the anchors are scored, then in `rounds` equal parts the items of highest estimate; every
    part but the last makes further anchors.
    """
    wide = E.astype(np.float64)
    shift = shift_of(wide, reg)
    first = score(queries, anchors)
    calls = 1
    sizes = np.diff(np.linspace(anchors.size, budget, rounds + 1).astype(np.int64))
    found = np.empty((len(queries), k), dtype=np.int64)
    values = np.empty((len(queries), k))
    shared = Anchors(wide, shift)
    shared.append(anchors)
    for q in range(len(queries)):
        fitted = Anchors(wide, shift)
        fitted.Q, fitted.S, fitted.R = shared.Q, shared.S, shared.R
        items, known = anchors, first[q].astype(np.float64)
        for size in sizes[sizes > 0]:
            if items.size > anchors.size:
                fitted.append(items[fitted.R.shape[0] :])
            estimates = fitted.weights(known[None])[0] @ wide
            estimates[items] = -np.inf
            chosen = best(estimates[None], int(size))[0]
            known = np.concatenate([known, score(queries[q : q + 1], chosen)[0]])
            items = np.concatenate([items, chosen])
            calls += 1
        order = best(known[None], k)[0]
        found[q], values[q] = items[order], known[order]
    facts = SearchFacts(score_calls=calls, scores_per_query=budget, rounds=rounds)
    return found, values.astype(E.dtype), facts
