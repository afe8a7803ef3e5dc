"""The lstsq stop: diabetes progression from polynomial features, over all pairs of patients."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed, timed_at_its_best

Matrix: TypeAlias = npt.NDArray[np.inexact]

_SEED = 0


def visit(out: Path, size: Size) -> Stop:
    """Solve a tall regression by lstsq; compare with numpy.linalg.lstsq."""
    from sklearn.datasets import load_diabetes
    from sklearn.preprocessing import PolynomialFeatures

    data = load_diabetes()
    degree = 2 if size == "small" else 3
    X = PolynomialFeatures(degree, include_bias=False).fit_transform(data.data)
    A, b = _pairs(X, data.target)
    ours, seconds = timed(lambda: lowla.lstsq(A, b, rng=_SEED), size)
    theirs, usual_seconds = timed_at_its_best(lambda: np.linalg.lstsq(A, b, rcond=None)[0], size)
    name = f"diabetes, degree {degree}, all pairs {A.shape[0]}x{A.shape[1]}"
    row = Row(
        "lstsq",
        name,
        seconds,
        _residual(A, b, ours.x),
        "numpy.linalg.lstsq",
        usual_seconds,
        _residual(A, b, theirs),
    )
    text = (
        f"The polynomial features of degree {degree} of 442 patients, and how each pair of them "
        "differs in features and in the progression of the disease: least squares over all pairs "
        "has the solution of least squares with an intercept over all patients. The error in the "
        "table is the relative residual ||b - A x|| / ||b||. lowla took the "
        f"method {ours.info.method!r}, estimates a condition number of {ours.info.cond:.1e} and "
        f"certifies a backward error of {ours.info.backward_error:.1e}."
    )
    return Stop("lstsq: least squares", text, [row], [_picture(X, data.target, ours.x, out)])


def _pairs(X: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
    first, second = np.triu_indices(len(X), 1)
    return X[first] - X[second], y[first] - y[second]


def _residual(A: Matrix, b: Matrix, x: Matrix) -> float:
    return float(np.linalg.norm(b - A @ x) / np.linalg.norm(b))


def _picture(X: Matrix, y: Matrix, x: Matrix, out: Path) -> Picture:
    from matplotlib.figure import Figure

    fitted = y.mean() + (X - X.mean(axis=0)) @ x
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(y, fitted, s=10)
    axes.plot([y.min(), y.max()], [y.min(), y.max()], color="black", linewidth=1)
    axes.set_xlabel("measured progression")
    axes.set_ylabel("fitted progression")
    file = "lstsq_diabetes.png"
    figure.savefig(out / file, dpi=110)
    return Picture(file, "The fit to the 442 patients, from least squares over all pairs.")
