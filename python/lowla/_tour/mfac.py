"""The mfac stop: weights of a softmax regression pruned by their curvature and by their size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

import lowla
from lowla._tour import Picture, Row, Size, Stop, timed, timed_at_its_best

Matrix: TypeAlias = npt.NDArray[np.float64]

_CLASSES = 10
_TRAINED = 1200  # of the 1797 digits
_RIDGE = 1e-3  # of the regression, and damp of its Fisher matrix
_STEPS = 5


class _Digits(NamedTuple):
    """Pixels with a column of ones, and labels."""

    X: Matrix
    y: npt.NDArray[np.int64]


def visit(out: Path, size: Size) -> Stop:
    """Prune a classifier of digits by obs_prune; compare with the smallest weights."""
    train, test = _data()
    weights = _fit(train)
    m = 256 if size == "small" else 1024
    grads = _gradients(train, weights)[np.random.default_rng(0).permutation(_TRAINED)[:m]]
    Finv = lowla.InverseFisher(grads, _RIDGE)
    name = f"digits, {weights.size} weights, {m} gradients"
    rows = []
    for part, steps in ((0.5, _STEPS), (0.8, 1)):
        n = round(part * weights.size)
        ours, seconds = timed(_surgeon(weights, Finv, n, steps), size)
        for usual, pruned, usual_seconds in _usual(grads, weights, n, steps, size):
            rows.append(
                Row(
                    f"obs_prune {part:.0%}" + f", {steps} steps" * (steps > 1),
                    name,
                    seconds,
                    _misread(test, ours),
                    usual,
                    usual_seconds,
                    _misread(test, pruned),
                )
            )
    text = (
        f"A softmax regression on {_TRAINED} of scikit-learn's digits; its {weights.size} weights "
        f"are pruned with the Fisher matrix of {m} of its gradients. The error is the share of "
        f"the other {len(test.y)} digits that is misread; before pruning it is "
        f"{_misread(test, weights):.3f}. To drop the smallest weights takes no time; what it "
        "costs is accuracy. With the Fisher matrix written out and inverted by NumPy the same "
        "weights are pruned."
    )
    picture = _picture(test, weights, Finv, out)
    return Stop("mfac: pruning by curvature", text, rows, [picture])


def _data() -> tuple[_Digits, _Digits]:
    from sklearn.datasets import load_digits

    data = load_digits()
    X = np.column_stack([data.data / 16.0, np.ones(len(data.data))])
    order = np.random.default_rng(0).permutation(len(X))
    first, rest = order[:_TRAINED], order[_TRAINED:]
    return _Digits(X[first], data.target[first]), _Digits(X[rest], data.target[rest])


def _probabilities(X: Matrix, weights: Matrix) -> Matrix:
    scores = X @ weights
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _gradients(data: _Digits, weights: Matrix) -> Matrix:
    """Of the loss of each digit, (digits, weights)."""
    off = _probabilities(data.X, weights) - np.eye(_CLASSES)[data.y]
    return np.asarray((data.X[:, :, None] * off[:, None, :]).reshape(len(data.X), -1))


def _fit(data: _Digits) -> Matrix:
    """The minimiser of the mean loss with a ridge."""
    from scipy.optimize import minimize

    shape, rows = (data.X.shape[1], _CLASSES), np.arange(len(data.y))

    def loss(w: Matrix) -> tuple[float, Matrix]:
        P = _probabilities(data.X, w.reshape(shape))
        off = (P - np.eye(_CLASSES)[data.y]) / len(rows)
        value = -np.log(P[rows, data.y]).mean() + _RIDGE / 2 * (w @ w)
        return float(value), (data.X.T @ off).ravel() + _RIDGE * w

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, np.float64).reshape(shape)


def _misread(data: _Digits, weights: Matrix) -> float:
    return float((np.argmax(data.X @ weights, axis=1) != data.y).mean())


def _usual(
    grads: Matrix, weights: Matrix, n_prune: int, steps: int, size: Size
) -> Iterator[tuple[str, Matrix, float]]:
    """The smallest weights dropped; for one step also the surgeon with a dense inverse."""
    pruned, seconds = timed(lambda: _smallest_pruned(weights, n_prune), size)
    yield "the smallest weights", pruned, seconds
    if steps == 1:
        pruned, seconds = timed_at_its_best(_dense_surgeon(grads, weights, n_prune), size)
        yield "numpy.linalg.inv", pruned, seconds


def _surgeon(
    weights: Matrix, Finv: lowla.InverseFisher, n_prune: int, steps: int
) -> Callable[[], Matrix]:
    return lambda: np.asarray(lowla.obs_prune(weights, Finv, n_prune, steps=steps).w, np.float64)


def _smallest_pruned(weights: Matrix, n_prune: int) -> Matrix:
    order = np.argsort(np.abs(weights), axis=None)
    pruned: Matrix = weights.ravel().copy()
    pruned[order[:n_prune]] = 0.0
    return pruned.reshape(weights.shape)


def _dense_surgeon(grads: Matrix, weights: Matrix, n_prune: int) -> Callable[[], Matrix]:
    """What obs_prune does, with the Fisher matrix written out."""

    def prune() -> Matrix:
        m, d = grads.shape
        F = _RIDGE * np.eye(d) + grads.T @ grads / m
        w = weights.ravel()
        saliency = w**2 / np.diag(np.linalg.inv(F))
        gone, kept = np.split(np.argsort(saliency, kind="stable"), [n_prune])
        change = np.linalg.solve(F[np.ix_(kept, kept)], F[np.ix_(kept, gone)] @ w[gone])
        new = np.zeros(d)
        new[kept] = w[kept] + change
        return new.reshape(weights.shape)

    return prune


def _picture(test: _Digits, weights: Matrix, Finv: lowla.InverseFisher, out: Path) -> Picture:
    from matplotlib.figure import Figure

    sparsity = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95])
    counts = [round(part * weights.size) for part in sparsity]
    curves = {
        f"obs_prune, {_STEPS} steps": [_surgeon(weights, Finv, n, _STEPS)() for n in counts],
        "obs_prune, 1 step": [_surgeon(weights, Finv, n, 1)() for n in counts],
        "the smallest weights": [_smallest_pruned(weights, n) for n in counts],
    }
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, pruned in curves.items():
        axes.plot(100 * sparsity, [1 - _misread(test, w) for w in pruned], "o-", label=name)
    axes.set_xlabel("weights pruned, %")
    axes.set_ylabel("digits read correctly")
    axes.legend(loc="lower left")
    axes.grid(alpha=0.3)
    file = "mfac_pruning.png"
    figure.savefig(out / file, dpi=110)
    return Picture(file, "Test accuracy of a softmax regression on digits as weights are pruned.")
