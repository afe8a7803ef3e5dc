"""The kron stop: a Gaussian process on a grid of elevations, and matrices as Monarch matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed, timed_at_its_best

Matrix: TypeAlias = npt.NDArray[np.inexact]

_SEED = 0
_LENGTH = 12.0  # of the kernel, in grid points
_NOISE = 60.0  # metres, standard deviation
_PATCH = 16  # pixels
_TILE = (43, 31)  # divides the grid of 344 x 403


def visit(out: Path, size: Size) -> Stop:
    """Fit elevations by kron_solve and matrices by monarch_project; compare with SciPy, NumPy."""
    truth = _elevations()
    noise = np.random.default_rng(_SEED).standard_normal(truth.shape)
    noisy = truth + _NOISE * noise
    rows, fitted = _fits(truth, noisy, size)
    rows += [_dft(256 if size == "small" else 1024, size), _filter(size)]
    whole = truth.size**2 * 8 / 1e9
    text = (
        f"A Gaussian process on the {truth.shape[0]} x {truth.shape[1]} elevations of matplotlib's "
        f"Jacksboro fault, with Gaussian noise of {_NOISE:g} m added: its covariance matrix is a "
        "Kronecker product of those of the two axes (Matérn 3/2), plus the variance of the noise. "
        f"Written out it would take {whole:.0f} GB, so Cholesky's method is shown where it can be "
        "had: for the same fit on a corner of the grid, and for the whole grid cut into tiles that "
        "know nothing of each other. The error is that of the fitted elevations against the "
        f"measured ones; before the fit it is {_error(truth, noisy):.3f}. "
        "Monarch matrices are compared with low-rank matrices of as many numbers: the Fourier "
        "transform, its columns in the order that makes it one, is recovered to rounding; the "
        f"other matrix is the best linear filter of noise from the {_PATCH} x {_PATCH} patches of "
        "scikit-learn's china.jpg."
    )
    picture = _picture(truth, noisy, fitted, out)
    return Stop("kron, monarch: structured matrices", text, rows, [picture])


def _elevations() -> Matrix:
    from matplotlib.cbook import get_sample_data

    with np.load(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as data:
        return np.asarray(data["elevation"], np.float64)


def _covariances(shape: tuple[int, ...], variance: float) -> list[Matrix]:
    """Matérn kernels of order 3/2 on the two axes, the variance in the first."""
    factors = []
    for n in shape:
        scaled = np.sqrt(3.0) * np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / _LENGTH
        factors.append((1.0 + scaled) * np.exp(-scaled))
    return [variance * factors[0], factors[1]]


def _fits(truth: Matrix, noisy: Matrix, size: Size) -> tuple[list[Row], Matrix]:
    """The fit on a corner and on the whole grid."""
    corner = (24, 30) if size == "small" else (48, 56)
    part = np.s_[: corner[0], : corner[1]]
    rows = []
    fitted = noisy
    for name, true, observed, tool, tile in (
        ("corner", truth[part], noisy[part], "scipy cho_solve", corner),
        ("all", truth, noisy, "scipy cho_solve, tiles", _TILE),
    ):
        mean, variance = float(observed.mean()), float(observed.var() - _NOISE**2)
        factors = _covariances(observed.shape, variance)
        fitted, seconds = timed(_by_kron(factors, observed, mean), size)
        blocks = _covariances(tile, variance)
        theirs, usual_seconds = timed_at_its_best(_by_cholesky(blocks, observed, mean), size)
        rows.append(
            Row(
                "kron_solve",
                f"elevations, {name} {observed.shape[0]}x{observed.shape[1]}",
                seconds,
                _error(true, fitted),
                tool,
                usual_seconds,
                _error(true, theirs),
            )
        )
    return rows, fitted


def _by_kron(factors: list[Matrix], observed: Matrix, mean: float) -> Callable[[], Matrix]:
    def fit() -> Matrix:
        weights = lowla.kron_solve(factors, (observed - mean).ravel(), shift=_NOISE**2)
        return mean + lowla.kron_matmul(factors, weights).reshape(observed.shape)

    return fit


def _by_cholesky(blocks: list[Matrix], observed: Matrix, mean: float) -> Callable[[], Matrix]:
    """The fit of every tile by itself; one factorisation serves all."""
    from scipy.linalg import cho_factor, cho_solve

    s, p = (len(block) for block in blocks)
    m, n = observed.shape[0] // s, observed.shape[1] // p

    def fit() -> Matrix:
        K = np.kron(*blocks)
        tiles = (observed - mean).reshape(m, s, n, p).transpose(1, 3, 0, 2).reshape(s * p, m * n)
        shifted = K + _NOISE**2 * np.eye(len(K))
        found = K @ cho_solve(cho_factor(shifted, overwrite_a=True, check_finite=False), tiles)
        tiled: Matrix = found.reshape(s, p, m, n).transpose(2, 0, 3, 1).reshape(observed.shape)
        return mean + tiled

    return fit


def _dft(n: int, size: Size) -> Row:
    """The Fourier transform, its columns in the order of the Monarch form."""
    b = round(n**0.5)
    F = np.fft.fft(np.eye(n))[:, np.arange(n).reshape(b, b).T.ravel()]
    return _against_low_rank(f"Fourier transform {n}x{n}", F, size)


def _filter(size: Size) -> Row:
    """C (C + s²I)⁻¹ for the covariance C of the patches of a photograph."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg").astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    windows = np.lib.stride_tricks.sliding_window_view(grey, (_PATCH, _PATCH))
    patches = windows[::4, ::4].reshape(-1, _PATCH**2)
    C = np.cov(patches, rowvar=False)
    W = np.linalg.solve(C + 20.0**2 * np.eye(len(C)), C).T
    return _against_low_rank(f"filter of patches {len(W)}x{len(W)}", W, size)


def _against_low_rank(name: str, W: Matrix, size: Size) -> Row:
    """monarch_project against the truncated SVD of as many numbers."""
    M, seconds = timed(lambda: lowla.monarch_project(W), size)
    rank = M.nparams // sum(W.shape)

    def truncated() -> Matrix:
        U, S, Vh = np.linalg.svd(W, full_matrices=False)
        return np.asarray((U[:, :rank] * S[:rank]) @ Vh[:rank])

    theirs, usual_seconds = timed_at_its_best(truncated, size)
    return Row(
        "monarch_project",
        name,
        seconds,
        _error(W, M.toarray()),
        f"numpy.linalg.svd, rank {rank}",
        usual_seconds,
        _error(W, theirs),
    )


def _error(truth: Matrix, found: Matrix) -> float:
    return float(np.linalg.norm(truth - found) / np.linalg.norm(truth))


def _picture(truth: Matrix, noisy: Matrix, fitted: Matrix, out: Path) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    limits = float(truth.min()), float(truth.max())
    for axes, (title, surface) in zip(
        figure.subplots(1, 3),
        [("measured", truth), ("noise added", noisy), ("fitted", fitted)],
        strict=True,
    ):
        drawn = axes.imshow(surface, cmap="gist_earth", vmin=limits[0], vmax=limits[1])
        root = np.sqrt(np.mean((surface - truth) ** 2))
        axes.set_title(title if surface is truth else f"{title}: off by {root:.0f} m (rms)")
        axes.axis("off")
    figure.colorbar(drawn, ax=figure.axes, label="elevation in m", shrink=0.8)
    file = "kron_elevation.png"
    figure.savefig(out / file, dpi=110)
    return Picture(
        file, "Elevations of the Jacksboro fault, with noise, and the fit by kron_solve."
    )
