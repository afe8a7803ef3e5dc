"""The completion stop: a photograph with half, and with four fifths, of its numbers removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed

Matrix: TypeAlias = npt.NDArray[np.inexact]
Mask: TypeAlias = npt.NDArray[np.bool_]

_SEED = 0
_REMOVED = (0.5, 0.8)  # part of the numbers
_RANK, _REG = 30, 1.0
_LAM = 2.0
_NEIGHBOURS = 5
_TOL = 1e-3


def visit(out: Path, size: Size) -> Stop:
    """Alternating minimisation and the nuclear norm against scikit-learn's nearest neighbours."""
    image = _photograph(4 if size == "small" else 2)
    X = np.hstack([image[..., channel] for channel in range(3)])
    rng = np.random.default_rng(_SEED)
    rows, shown, quality = [], [], []
    for part in _REMOVED:
        seen = rng.random(X.shape) >= part
        hidden = np.where(seen, X, np.nan)
        found, lines = _compared(X, seen, hidden, f"{part:.0%} of {X.shape[0]}x{X.shape[1]}", size)
        rows += lines
        shown.append([np.where(seen, X, 0.0), *found.values()])
        quality.append({name: _psnr(Y, X) for name, Y in found.items()})
    decibels = "; ".join(
        f"{part:.0%} removed: " + ", ".join(f"{name} {db:.1f}" for name, db in levels.items())
        for part, levels in zip(_REMOVED, quality, strict=True)
    )
    text = (
        f"Pixels of china.jpg, {image.shape[0]} x {image.shape[1]}, the three colours side by side "
        "as one matrix, of which numbers at random places are removed. complete takes rank "
        f"{_RANK} and reg = {_REG:g}, soft_impute lam = {_LAM:g}; the usual tool is scikit-learn's "
        f"KNNImputer with {_NEIGHBOURS} neighbours on the same array. The error is that of the "
        f"removed numbers. Peak signal-to-noise ratios in dB: {decibels}."
    )
    return Stop("completion: missing entries", text, rows, [_pictures(shown, quality, out)])


def _photograph(step: int) -> Matrix:
    """Every step-th pixel, colours in [0, 1]."""
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image("china.jpg")[::step, ::step] / 255.0)


def _compared(
    X: Matrix, seen: Mask, hidden: Matrix, name: str, size: Size
) -> tuple[dict[str, Matrix], list[Row]]:
    """The filled arrays, and our two functions against the imputer."""
    from sklearn.impute import KNNImputer

    usual, usual_seconds = timed(
        lambda: KNNImputer(n_neighbors=_NEIGHBOURS).fit_transform(hidden), size
    )
    ours: dict[str, Callable[[], lowla.CompletionResult]] = {
        "complete": lambda: lowla.complete(hidden, _RANK, reg=_REG, tol=_TOL, rng=_SEED),
        "soft_impute": lambda: lowla.soft_impute(hidden, _LAM, tol=_TOL, rng=_SEED),
    }
    found, rows = {"KNNImputer": usual}, []
    for kernel, work in ours.items():
        r, seconds = timed(work, size)
        found[kernel] = np.where(seen, X, r.toarray())
        errors = _error(found[kernel], X, seen), _error(usual, X, seen)
        rows.append(Row(kernel, name, seconds, errors[0], "KNNImputer", usual_seconds, errors[1]))
    return found, rows


def _error(Y: Matrix, X: Matrix, seen: Mask) -> float:
    """Relative, of the entries that were not seen."""
    return float(np.linalg.norm((Y - X)[~seen]) / np.linalg.norm(X[~seen]))


def _psnr(Y: Matrix, X: Matrix) -> float:
    return float(-10.0 * np.log10(np.mean((np.clip(Y, 0.0, 1.0) - X) ** 2)))


def _pictures(shown: list[list[Matrix]], quality: list[dict[str, float]], out: Path) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.3 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(shown[0]), squeeze=False)
    for line, images, part, levels in zip(grid, shown, _REMOVED, quality, strict=True):
        titles = [f"{part:.0%} removed", *(f"{name}, {db:.1f} dB" for name, db in levels.items())]
        for axes, image, title in zip(line, images, titles, strict=True):
            axes.imshow(np.clip(np.stack(np.hsplit(image, 3), axis=-1), 0.0, 1.0))
            axes.set_title(title)
            axes.axis("off")
    file = "completion_photograph.png"
    figure.savefig(out / file, dpi=110)
    return Picture(file, "A photograph from half and from a fifth of its numbers.")
