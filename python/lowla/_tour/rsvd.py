"""The rsvd stop: a photograph, its patches, and handwritten digits, compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed, timed_at_its_best

Matrix: TypeAlias = npt.NDArray[np.floating]
Factors: TypeAlias = Sequence[npt.NDArray[np.inexact]]

_RANKS = (5, 10, 20, 50, 100)
_SEED = 0
_TOL = 0.1


def visit(out: Path, size: Size) -> Stop:
    """Compress real data by rsvd; compare with the full SVD and scikit-learn."""
    from sklearn.datasets import load_digits, load_sample_image

    photo = load_sample_image("china.jpg").astype(np.float64) / 255.0
    grey = photo @ np.array([0.299, 0.587, 0.114])
    digits = load_digits()
    patches = _patches(photo, step=4 if size == "small" else 2)
    inputs = [
        ("photograph", grey, 50),
        ("photograph", grey, 20),
        ("digits", digits.data, 16),
        ("patches of the photograph", patches, 16),
    ]
    rows = [row for name, A, k in inputs for row in _compare(f"{name} {_shape(A)}", A, k, size)]
    within = lowla.rsvd(grey, tol=_TOL, rng=_SEED)
    text = (
        f"rsvd gives the leading k singular triplets. The photograph is a {_shape(grey)} matrix of "
        f"grey values: asked for a relative error of {_TOL:g}, rsvd returns rank {len(within.S)} "
        f"and certifies an error of {within.info.error:.4f} (measured). "
        "Digits are 1797 pictures of 8 x 8 pixels; patches are the 8 x 8 colour squares of the "
        "photograph, one a row."
    )
    pictures = [
        _ranks_picture(photo, out),
        _spectrum_picture(grey, out),
        _digits_picture(digits.data, digits.target, out),
    ]
    return Stop("rsvd: low-rank factorisation", text, rows, pictures)


def _patches(photo: Matrix, step: int) -> Matrix:
    """Every 8 x 8 colour square on a grid of `step` pixels, as a row of 192 centred values."""
    windows = np.lib.stride_tricks.sliding_window_view(photo, (8, 8), axis=(0, 1))
    rows = windows[::step, ::step].reshape(-1, 192)
    centred: Matrix = (rows - rows.mean(axis=0)).astype(np.float32)
    return centred


def _compare(name: str, A: Matrix, k: int, size: Size) -> list[Row]:
    from sklearn.utils.extmath import randomized_svd

    def full() -> Factors:
        U, S, Vh = np.linalg.svd(A, full_matrices=False)
        return U[:, :k], S[:k], Vh[:k]

    ours, seconds = timed(lambda: lowla.rsvd(A, k, rng=_SEED), size)
    usual: list[tuple[str, Callable[[], Factors]]] = [
        ("numpy.linalg.svd", full),
        ("sklearn randomized_svd", lambda: randomized_svd(A, k, random_state=_SEED)),
    ]
    rows = []
    for tool, work in usual:
        theirs, usual_seconds = timed_at_its_best(work, size)
        error, usual_error = _error(A, ours), _error(A, theirs)
        rows.append(Row(f"rsvd k={k}", name, seconds, error, tool, usual_seconds, usual_error))
    return rows


def _error(A: Matrix, factors: Factors) -> float:
    U, S, Vh = factors
    return float(np.linalg.norm(A - (U * S) @ Vh) / np.linalg.norm(A))


def _shape(A: Matrix) -> str:
    return f"{A.shape[0]}x{A.shape[1]}"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Any, out: Path, file: str, caption: str) -> Picture:
    figure.savefig(out / file, dpi=110)
    return Picture(file, caption)


def _ranks_picture(photo: Matrix, out: Path) -> Picture:
    """The three colour channels are a stack (3, m, n): one call each rank."""
    m, n, _ = photo.shape
    channels = np.moveaxis(photo, 2, 0)
    figure = _figure(11, 5)
    grid = figure.subplots(2, 3).ravel()
    grid[0].imshow(photo)
    grid[0].set_title("original")
    for axes, k in zip(grid[1:], _RANKS, strict=True):
        result = lowla.rsvd(channels, k, rng=_SEED)
        U, S, Vh = result
        picture = np.moveaxis((U * S[:, None, :]) @ Vh, 0, 2)
        axes.imshow(np.clip(picture, 0, 1))
        kept = k * (m + n + 1) / (m * n)
        axes.set_title(
            f"rank {k}: {kept:.0%} of the numbers, error {np.max(result.info.error):.2f}"
        )
    for axes in grid:
        axes.axis("off")
    return _saved(
        figure,
        out,
        "rsvd_photograph.png",
        "scikit-learn's china.jpg: each colour channel replaced by its best rank-k matrix.",
    )


def _spectrum_picture(grey: Matrix, out: Path) -> Picture:
    exact = np.linalg.svd(grey, compute_uv=False)
    norm = np.linalg.norm(grey)
    ranks = [1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200]
    results = [lowla.rsvd(grey, k, rng=_SEED) for k in ranks]
    best = np.sqrt(np.cumsum(exact[::-1] ** 2)[::-1])[1:] / norm
    blue, orange = "#0969da", "#bc4c00"

    figure = _figure(11, 4)
    values, errors = figure.subplots(1, 2)
    values.semilogy(np.arange(1, 201), exact[:200], color=blue, label="full SVD")
    values.semilogy(
        np.arange(1, 201), results[-1].S, ".", color=orange, label="rsvd, k = 200", ms=4
    )
    values.set(xlabel="index", title="singular values")
    errors.semilogy(np.arange(1, 201), best[:200], color=blue, label="best possible (full SVD)")
    certified = [result.info.error for result in results]
    errors.semilogy(ranks, certified, "o", color=orange, label="rsvd, info.error", ms=5)
    errors.set(xlabel="rank", title="relative error, Frobenius norm")
    for axes in (values, errors):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return _saved(
        figure,
        out,
        "rsvd_spectrum.png",
        "The photograph's singular values and the error that rsvd certifies, rank by rank.",
    )


def _digits_picture(data: Matrix, target: npt.NDArray[np.integer], out: Path) -> Picture:
    centred = data - data.mean(axis=0)
    U, S, Vh = lowla.rsvd(centred, 12, rng=_SEED)
    figure = _figure(11, 4.5)
    left, right = figure.subfigures(1, 2)
    for axes, direction in zip(left.subplots(3, 4).ravel(), Vh, strict=True):
        size = float(np.abs(direction).max())
        axes.imshow(direction.reshape(8, 8), cmap="RdBu", vmin=-size, vmax=size)
        axes.axis("off")
    left.suptitle("first 12 principal directions")
    scatter = right.subplots()
    points = U[:, :2] * S[:2]
    for digit in range(10):
        chosen = points[target == digit]
        scatter.plot(*chosen.T, ".", ms=4, color=f"C{digit}", label=str(digit))
    scatter.set(xlabel="first component", ylabel="second component")
    scatter.spines[["top", "right"]].set_visible(False)
    scatter.legend(frameon=False, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    right.suptitle("1797 handwritten digits")
    return _saved(
        figure,
        out,
        "rsvd_digits.png",
        "scikit-learn's digits: principal directions and the first two components by rsvd.",
    )
