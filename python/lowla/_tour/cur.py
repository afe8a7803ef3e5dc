"""The cur stop: telling pixels and digits, a photograph from its columns, a search by CUR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed, timed_at_its_best

Matrix: TypeAlias = npt.NDArray[np.floating]
Indices: TypeAlias = npt.NDArray[np.integer]

_SEED = 0
_PIXELS = 16
_RANKS = (5, 10, 20, 35, 50, 75, 100)
_FRAME = 12  # side of the frame in which the digits lie, 8 x 8 pixels
_ANCHORS = 100
_NEAREST = 10
_BUDGETS = (30, 40, 60, 80, 120, 200)


def visit(out: Path, size: Size) -> Stop:
    """Decompose by columns and rows; compare with SciPy, scikit-learn and plain NumPy."""
    from sklearn.datasets import load_digits, load_sample_image

    grey = load_sample_image("china.jpg").astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    digits = load_digits()
    search = _Search(digits.images, 800 if size == "small" else 1500)
    rows = [
        _interpolative("photograph", grey, 50, "sketch", size),
        _interpolative("digits", digits.data, _PIXELS, "direct", size),
        _kernel_row(digits.data, size),
        _search_row(search, size),
    ]
    text = (
        f"The photograph is scikit-learn's china.jpg in grey, {grey.shape[0]} x {grey.shape[1]}; "
        "interp_decomp writes all of its columns as combinations of a few of them, cur as a "
        "product of columns, a small matrix and rows. nystrom_columns takes columns of the "
        "Gaussian kernel of the digits, of which it reads little more than these; the error is "
        "that of the trace, and scikit-learn's Nystroem takes columns at random. In the search "
        f"digits lie at random places of a {_FRAME} x {_FRAME} frame, and a score is the largest "
        f"correlation over all shifts, by fast Fourier transforms; {_ANCHORS} anchor queries are "
        f"scored against all {search.n_items} items once. The error is 1 - recall of the "
        f"{_NEAREST} nearest with 60 scores a query, and the usual tool is the same with random "
        "anchor items and NumPy's pseudoinverse (ANNCUR). A score here is cheap, so that the times "
        "are those of the search itself."
    )
    pictures = [
        _digits_picture(digits.data, digits.target, out),
        _errors_picture(grey, out),
        _search_picture(search, out),
    ]
    return Stop("cur: decompositions by columns and rows", text, rows, pictures)


# --- interpolative decompositions and kernels ----------------------------------------------------


def _interpolative(name: str, A: Matrix, k: int, method: Any, size: Size) -> Row:
    from scipy.linalg.interpolative import interp_decomp

    ours, seconds = timed(lambda: lowla.interp_decomp(A, k, method=method, rng=_SEED), size)
    (idx, proj), usual_seconds = timed_at_its_best(
        lambda: interp_decomp(A, k, rand=method != "direct"), size
    )
    residual = A[:, idx[k:]] - A[:, idx[:k]] @ proj
    return Row(
        f"interp_decomp k={k}",
        f"{name} {A.shape[0]}x{A.shape[1]}",
        seconds,
        float(np.linalg.norm(A - ours.toarray(A)) / np.linalg.norm(A)),
        "scipy interp_decomp",
        usual_seconds,
        float(np.linalg.norm(residual) / np.linalg.norm(A)),
    )


def _kernel_row(points: Matrix, size: Size) -> Row:
    """Columns of the Gaussian kernel with the median distance as its width, beside random ones."""
    from sklearn.kernel_approximation import Nystroem

    k, n = 100, len(points)
    norms2 = np.sum(points**2, axis=1)
    sample = points[:200]
    gamma = 1.0 / float(np.median(np.sum((sample[:, None] - sample) ** 2, axis=2)))

    def K(rows: Indices, cols: Indices) -> Matrix:
        squares = norms2[rows][:, None] + norms2[cols] - 2.0 * points[rows] @ points[cols].T
        return np.asarray(np.exp(-gamma * squares))

    ours, seconds = timed(lambda: lowla.nystrom_columns(K, k, diagonal=np.ones(n), rng=_SEED), size)
    uniform = Nystroem(gamma=gamma, n_components=k, random_state=_SEED)
    theirs, usual_seconds = timed_at_its_best(lambda: uniform.fit_transform(points), size)
    return Row(
        f"nystrom_columns k={k}",
        f"kernel of the digits {n}x{n}",
        seconds,
        ours.info.error,
        "sklearn Nystroem",
        usual_seconds,
        float(1.0 - np.sum(theirs**2) / n),
    )


# --- the search ----------------------------------------------------------------------------------


class _Search:
    """Digits at random places of a frame, and the largest correlation over all shifts of it."""

    def __init__(self, images: Matrix, n_items: int) -> None:
        rng = np.random.default_rng(_SEED)
        count = n_items + _ANCHORS + 40
        frames = np.zeros((count, _FRAME, _FRAME))
        places = rng.integers(0, _FRAME - 7, (count, 2))
        chosen = images[rng.permutation(len(images))[:count]]
        for frame, (y, x), image in zip(frames, places, chosen, strict=True):
            frame[y : y + 8, x : x + 8] = image
        frames /= np.linalg.norm(frames, axis=(1, 2), keepdims=True)
        self.n_items = n_items
        self.items = frames[:n_items]
        self.queries = frames[n_items + _ANCHORS :]
        self._transforms = np.fft.rfft2(self.items)
        everything = np.arange(n_items)
        self.anchor_rows = self.score(frames[n_items : n_items + _ANCHORS], everything)
        self.truth = self.score(self.queries, everything)

    def score(self, queries: Sequence[Matrix] | Matrix, items: Indices) -> Matrix:
        """Largest correlations, (len(queries), len(items))."""
        conjugates = self._transforms[items].conj()
        side = (_FRAME, _FRAME)
        return np.stack(
            [
                np.fft.irfft2(transform * conjugates, s=side).max(axis=(1, 2))
                for transform in np.fft.rfft2(np.asarray(queries))
            ]
        )

    def index(self) -> lowla.CURIndex:
        """The index, fitted."""
        return lowla.CURIndex(self.n_items, self.score).fit(self.anchor_rows)

    def recall(self, items: Indices) -> float:
        """Part of the true nearest that was found."""
        true = np.argsort(-self.truth, axis=1)[:, :_NEAREST]
        found = [len(set(a) & set(b)) for a, b in zip(items.tolist(), true.tolist(), strict=True)]
        return float(np.mean(found)) / _NEAREST

    def looked_at(self, estimates: Matrix, budget: int) -> Indices:
        """The nearest among the `budget` items of highest estimate."""
        candidates = np.argsort(-estimates, axis=1)[:, :budget]
        scores = np.stack(
            [self.score(q[None], c)[0] for q, c in zip(self.queries, candidates, strict=True)]
        )
        order = np.argsort(-scores, axis=1)[:, :_NEAREST]
        return np.asarray(np.take_along_axis(candidates, order, axis=1))

    def anncur(self, budget: int) -> Indices:
        """Random anchor items, half of the budget, and a pseudoinverse."""
        chosen = np.random.default_rng(_SEED).choice(self.n_items, budget // 2, replace=False)
        known = self.score(self.queries, chosen)
        estimates = known @ np.linalg.pinv(self.anchor_rows[:, chosen]) @ self.anchor_rows
        estimates[:, chosen] = np.inf
        return self.looked_at(estimates, budget)

    def pixels(self, budget: int) -> Indices:
        """The nearest by the pixels as they are."""
        flat = self.items.reshape(self.n_items, -1)
        return self.looked_at(self.queries.reshape(len(self.queries), -1) @ flat.T, budget)


def _search_row(search: _Search, size: Size) -> Row:
    index, budget = search.index(), 60
    ours, seconds = timed(lambda: index.search(search.queries, _NEAREST, budget=budget), size)
    theirs, usual_seconds = timed_at_its_best(lambda: search.anncur(budget), size)
    return Row(
        f"CURIndex, {budget} scores",
        f"{len(search.queries)} queries, {search.n_items} digits",
        seconds,
        1.0 - search.recall(ours.items),
        "ANNCUR in NumPy",
        usual_seconds,
        1.0 - search.recall(theirs),
    )


# --- pictures ------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _digits_picture(data: Matrix, target: Indices, out: Path) -> Picture:
    """Columns of the digits' matrix are pixels, rows are digits."""
    r = lowla.cur(data, _PIXELS, rng=_SEED)
    figure = _figure(11, 3.4)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2.2])
    axes = left.subplots()
    axes.imshow(data.mean(axis=0).reshape(8, 8), cmap="Greys")
    for order, pixel in enumerate(r.cols):
        y, x = divmod(int(pixel), 8)
        axes.text(x, y, str(order + 1), color="#bc4c00", ha="center", va="center", weight="bold")
    axes.set_title(f"{_PIXELS} pixels, on the mean digit")
    axes.axis("off")
    for small, row in zip(right.subplots(2, _PIXELS // 2).ravel(), r.rows, strict=True):
        small.imshow(data[row].reshape(8, 8), cmap="Greys")
        small.set_title(str(target[row]), fontsize=9)
        small.axis("off")
    right.suptitle(f"{_PIXELS} digits", fontsize=11)
    file = "cur_digits.png"
    figure.savefig(out / file, dpi=110)
    caption = (
        "The pixels (in the order of their choice) and the digits that cur takes: with a small "
        f"matrix between them they give all 1797 x 64 values to an error of {r.info.error:.2f}."
    )
    return Picture(file, caption)


def _errors_picture(grey: Matrix, out: Path) -> Picture:
    S = np.linalg.svd(grey, compute_uv=False)
    best = np.sqrt(np.cumsum(S[::-1] ** 2)[::-1]) / np.linalg.norm(S)
    curves: list[tuple[str, Callable[[int], float]]] = [
        ("best rank k (SVD)", lambda k: float(best[k])),
        ("interp_decomp", lambda k: lowla.interp_decomp(grey, k, rng=_SEED).info.error),
        ("cur", lambda k: lowla.cur(grey, k, rng=_SEED).info.error),
        ("cur, cross", lambda k: lowla.cur(grey, k, middle="cross", rng=_SEED).info.error),
    ]
    figure = _figure(11, 4.2)
    errors, picture = figure.subplots(1, 2)
    for (label, error), colour in zip(
        curves, ("#57606a", "#0969da", "#bc4c00", "#8250df"), strict=True
    ):
        errors.semilogy(_RANKS, [error(k) for k in _RANKS], "o-", color=colour, label=label)
    errors.set_xlabel("columns and rows")
    errors.set_ylabel("relative error")
    errors.legend()
    r = lowla.cur(grey, 50, rng=_SEED)
    picture.imshow(r.toarray(), cmap="gray", vmin=0, vmax=255)
    for col in r.cols:
        picture.plot([col, col], [-12, -2], color="#bc4c00", linewidth=1, clip_on=False)
    for row in r.rows:
        picture.plot([-12, -2], [row, row], color="#bc4c00", linewidth=1, clip_on=False)
    picture.axis("off")
    file = "cur_photograph.png"
    figure.savefig(out / file, dpi=110)
    return Picture(
        file,
        "china.jpg in grey from some of its own columns and rows: the errors, and cur with the "
        "50 columns and 50 rows that are marked.",
    )


def _search_picture(search: _Search, out: Path) -> Picture:
    index = search.index()

    def cur(budget: int, rounds: int) -> float:
        r = index.search(search.queries, _NEAREST, budget=budget, rounds=rounds)
        return search.recall(r.items)

    curves: list[tuple[str, Callable[[int], float]]] = [
        ("CURIndex, 4 rounds of anchors", lambda budget: cur(budget, 4)),
        ("CURIndex, 1 round", lambda budget: cur(budget, 1)),
        ("ANNCUR in NumPy", lambda budget: search.recall(search.anncur(budget))),
        ("nearest by pixels", lambda budget: search.recall(search.pixels(budget))),
    ]
    figure = _figure(7, 4)
    axes = figure.subplots()
    colours = ("#0969da", "#8250df", "#bc4c00", "#57606a")
    for (label, recall), colour in zip(curves, colours, strict=True):
        axes.plot(_BUDGETS, [recall(b) for b in _BUDGETS], "o-", color=colour, label=label)
    axes.set_xlabel(f"scores a query, of {search.n_items}")
    axes.set_ylabel(f"recall of the {_NEAREST} nearest")
    axes.set_ylim(0, 1.02)
    axes.legend()
    file = "cur_search.png"
    figure.savefig(out / file, dpi=110)
    return Picture(file, "Shifted digits found by the largest correlation over all shifts.")
