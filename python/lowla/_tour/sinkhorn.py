"""The sinkhorn stop: one digit moved onto another, and the colours of one photograph in another."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed

Matrix: TypeAlias = npt.NDArray[np.inexact]

_SEED = 0
_DIGITS = (0, 7)  # images of scikit-learn's digits
_SIDE = 28  # pixels
_FLOOR = 0.01  # added to every pixel, so that all of them have weight
_REG = 1 / 1200
_COLOUR_REG = 1e-3  # of colours in [0, 1]^3
_TOL = 1e-9


def visit(out: Path, size: Size) -> Stop:
    """Transport between images and between colours, against a log-domain loop with SciPy."""
    a, b, C = _digits()
    errors = {
        "newton": _errors(a, b, C, "newton", 10_000),
        "sinkhorn": _errors(a, b, C, "sinkhorn", 300 if size == "small" else 3000),
    }
    source, target = _photograph("flower.jpg"), _photograph("china.jpg")
    colours = _sampled(source, target, 200 if size == "small" else 800)
    rows = [
        _against_scipy(
            f"digits, L1, {C.shape[0]}x{C.shape[1]}",
            lambda: lowla.sinkhorn(a, b, C, _REG, tol=_TOL),
            (a, b, C, _REG),
            size,
        ),
        _colour_row(*colours, size),
    ]
    transferred = _transferred(source, *colours)
    text = (
        f"The digits {_DIGITS[0]} and {_DIGITS[1]} of scikit-learn's images, {_SIDE} x {_SIDE} "
        f"pixels with city-block distances, reg = 1/{1 / _REG:.0f}; and sampled colours of "
        f"flower.jpg and china.jpg with squared distances, reg = {_COLOUR_REG:g}, which "
        "sinkhorn_points computes where it needs them. The usual tool is Sinkhorn's iteration with "
        "scipy.special.logsumexp, given as many iterations as lowla takes sweeps; the error is "
        "that of both marginals (L1). The digits in between are the plan's mass on its straight "
        "way from pixel to pixel. Each pixel of the flower moves as the nearest sampled colour "
        "does, to the mean of its transport plan."
    )
    pictures = [
        _convergence(errors, out),
        _between(a, b, C, out),
        _photographs([source, target, transferred], out),
    ]
    return Stop("sinkhorn: entropic optimal transport", text, rows, pictures)


def _digits() -> tuple[Matrix, Matrix, Matrix]:
    """Weights of two images, and the city-block distances of the pixels over the side."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    border = (8 * 4 - _SIDE) // 2
    weights = []
    for k in _DIGITS:
        large = np.kron(images[k] / 16.0, np.ones((4, 4)))[border:-border, border:-border]
        weights.append((large + _FLOOR).ravel() / float((large + _FLOOR).sum()))
    axis = np.abs(np.subtract.outer(np.arange(_SIDE), np.arange(_SIDE))) / _SIDE
    C = axis[:, None, :, None] + axis[None, :, None, :]
    return weights[0], weights[1], C.reshape(_SIDE**2, _SIDE**2)


def _errors(a: Matrix, b: Matrix, C: Matrix, method: str, sweeps: int) -> list[tuple[int, float]]:
    """Sweeps and marginal error after each step; of the last temperature only."""
    seen: list[tuple[int, float]] = []

    def note(info: lowla._results.TransportInfo) -> None:
        seen.append((info.sweeps, info.marginal_error))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        if method == "newton":
            lowla.sinkhorn(a, b, C, _REG, method="newton", tol=_TOL, callback=note)
        else:
            lowla.sinkhorn(
                a, b, C, _REG, method="sinkhorn", tol=_TOL, max_iter=sweeps, callback=note
            )
    return seen


def _against_scipy(
    name: str,
    solve: Callable[[], lowla.TransportResult],
    problem: tuple[Matrix, Matrix, Matrix, float],
    size: Size,
) -> Row:
    """A solver of lowla's against as many of Sinkhorn's iterations with scipy's logsumexp."""
    r, seconds = timed(solve, size)
    a, b, _, _ = problem
    start = time.perf_counter()
    P = _log_domain(*problem, r.info.sweeps)
    usual = time.perf_counter() - start
    return Row(
        "sinkhorn" if type(r) is lowla.TransportResult else "sinkhorn_points",
        name,
        seconds,
        r.info.marginal_error,
        f"scipy logsumexp, {r.info.sweeps} iterations",
        usual,
        float(np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum()),
    )


def _log_domain(a: Matrix, b: Matrix, C: Matrix, reg: float, iterations: int) -> Matrix:
    from scipy.special import logsumexp

    g = np.zeros(len(b))
    for _ in range(iterations):
        f = reg * (np.log(a) - logsumexp((g - C) / reg, axis=1))
        g = reg * (np.log(b) - logsumexp((f[:, None] - C) / reg, axis=0))
    with np.errstate(under="ignore"):
        return np.asarray(np.exp((f[:, None] + g - C) / reg))


def _photograph(name: str) -> Matrix:
    """Every second pixel, colours in [0, 1]."""
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image(name)[::2, ::2] / 255.0)


def _sampled(source: Matrix, target: Matrix, count: int) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(_SEED)
    X, Y = (image.reshape(-1, 3) for image in (source, target))
    return X[rng.choice(len(X), count, False)], Y[rng.choice(len(Y), count, False)]


def _colour_row(X: Matrix, Y: Matrix, size: Size) -> Row:
    a, b = np.full(len(X), 1.0 / len(X)), np.full(len(Y), 1.0 / len(Y))
    C = ((X[:, None] - Y) ** 2).sum(-1)
    return _against_scipy(
        f"colours, {len(X)}x{len(Y)}",
        lambda: lowla.sinkhorn_points(X, Y, _COLOUR_REG, tol=_TOL),
        (a, b, C, _COLOUR_REG),
        size,
    )


def _transferred(image: Matrix, X: Matrix, Y: Matrix) -> Matrix:
    """Every pixel moved as the nearest colour of X, x - grad / (2 a): to the mean of its plan."""
    from scipy.spatial import cKDTree

    r = lowla.sinkhorn_points(X, Y, _COLOUR_REG)
    moves = -0.5 * len(X) * r.grad_X
    pixels = image.reshape(-1, 3)
    _, nearest = cKDTree(X).query(pixels)
    moved: Matrix = np.clip(pixels + moves[nearest], 0.0, 1.0).reshape(image.shape)
    return moved


def _convergence(errors: dict[str, list[tuple[int, float]]], out: Path) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for method, seen in errors.items():
        axes.loglog(*zip(*seen, strict=True), marker=".", markersize=3, label=f"method={method!r}")
    axes.set_xlabel("sweeps: reads of the costs, one exponential an entry")
    axes.set_ylabel("error of the marginals (L1)")
    axes.grid(alpha=0.3)
    axes.legend()
    file = "sinkhorn_convergence.png"
    figure.savefig(out / file, dpi=110)
    return Picture(
        file,
        "Two digits: Newton's method from temperature to temperature (each begins with a larger "
        "error) against Sinkhorn's iteration.",
    )


def _between(a: Matrix, b: Matrix, C: Matrix, out: Path) -> Picture:
    """The plan's mass on the straight ways from its pixels to their targets, at five times."""
    from matplotlib.figure import Figure

    plan = lowla.sinkhorn(a, b, C, _REG, tol=_TOL).plan_sparse(1e-9).tocoo()
    start, end = (np.stack(np.divmod(k, _SIDE)) for k in plan.coords)
    times = np.linspace(0.0, 1.0, 5)
    figure = Figure(figsize=(10, 2.4), layout="constrained")
    for axes, time_ in zip(figure.subplots(1, len(times)), times, strict=True):
        row, column = np.rint((1 - time_) * start + time_ * end).astype(int)
        pixels = np.bincount(row * _SIDE + column, plan.data, minlength=_SIDE**2)
        axes.imshow(pixels.reshape(_SIDE, _SIDE), cmap="gray_r")
        axes.set_title(f"t = {time_:.2f}")
        axes.axis("off")
    file = "sinkhorn_digits.png"
    figure.savefig(out / file, dpi=110)
    return Picture(file, f"The digit {_DIGITS[0]} on its way to the digit {_DIGITS[1]}.")


def _photographs(images: list[Matrix], out: Path) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    names = ("flower.jpg", "china.jpg", "flower.jpg in the colours of china.jpg")
    for axes, image, name in zip(figure.subplots(1, 3), images, names, strict=True):
        axes.imshow(image)
        axes.set_title(name)
        axes.axis("off")
    file = "sinkhorn_colours.png"
    figure.savefig(out / file, dpi=110)
    return Picture(file, "Colours transported by sinkhorn_points.")
