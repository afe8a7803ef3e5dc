"""Interpolative decompositions from one read: a sketch chooses, fits, and holds rows out to judge.

The fit: Drineas, Mahoney, Muthukrishnan, Sarlos, "Faster least squares approximation", Numer. Math.
117 (2011); the sketch: Camano, Epperly, Meyer, Tropp, arXiv:2508.21189.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg.interpolative
import threadpoolctl
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import aslinearoperator

import lowla
from column_matrices import FORMS, column_error, error_of, heavy_tailed
from lowla import _backend
from spectra import matrix_with_spectrum
from strategies import DTYPES
from tolerances import tol


@pytest.fixture(autouse=True)
def one_blas_thread():
    """Small problems: the BLAS pools of NumPy and SciPy only spin against each other."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def tall(kind, seed, dtype="float64"):
    """1200 x 120: a sketch for ten columns has 160 rows, of which 40 are held out."""
    if kind == "heavy-tailed":
        return heavy_tailed(1200, 120, seed).astype(dtype)
    j = np.arange(120)
    S = 1.0 / (j + 1) if kind == "polynomial" else np.exp(-j / 5)
    return matrix_with_spectrum(1200, 120, S, dtype, seed)


TALL = ("polynomial", "exponential", "heavy-tailed")
HELD_OUT = 40


@pytest.mark.core
@pytest.mark.parametrize("form", ["dense", "F", "csr"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_read_gives_bounded_coefficients_and_an_estimate(backend, form, dtype):
    A = tall("polynomial", 1, dtype)
    r = lowla.interp_decomp(FORMS[form](A), 10, rng=5)
    assert (r.info.method, r.info.passes, r.info.sketch_rows) == ("sketch", 1, 4 * HELD_OUT)
    assert r.info.error_method == "probe"
    assert r.proj.dtype == A.dtype
    assert np.abs(r.proj).max() <= 2.0 * (1 + tol(A.dtype, 1) + 2e-6)
    true = error_of(A, A[:, r.idx[:10]], r.interp_matrix())
    # chi-square with at least 40 degrees of freedom: 5 standard deviations of the square
    assert abs(r.info.error**2 / true**2 - 1) <= 5 * np.sqrt(2 / HELD_OUT)


@pytest.mark.parametrize("kind", TALL)
def test_the_held_out_estimate_is_unbiased(backend, kind):
    # E ||H X||^2 = ||X||^2, relative variance <= 2 / 40: the mean of 100 within 5 deviations.
    seeds, ratios = 100, []
    for seed in range(seeds):
        A = tall(kind, seed)
        r = lowla.interp_decomp(A, 10, rng=seed)
        true = error_of(A, A[:, r.idx[:10]], r.interp_matrix())
        ratios.append((r.info.error / true) ** 2)
    assert abs(np.mean(ratios) - 1) <= 5 * np.sqrt(2 / HELD_OUT / seeds) + 0.02
    assert np.std(ratios) <= 1.5 * np.sqrt(2 / HELD_OUT)


def test_the_estimate_sees_a_residual_in_one_row(backend):
    # Every row of A is in the held-out block, so none can hide there.
    A = tall("exponential", 3)
    for row in range(0, 1200, 120):
        spiked = A.copy()
        spiked[row, :60] += 30 * np.random.default_rng(row).standard_normal(60)
        r = lowla.interp_decomp(spiked, 10, rng=0)
        true = error_of(spiked, spiked[:, r.idx[:10]], r.interp_matrix())
        assert 0.4 * true <= r.info.error <= 2 * true


@pytest.mark.parametrize("kind", TALL)
def test_one_read_costs_five_percent_of_accuracy(backend, kind):
    # sqrt(1 + k / (l - k - 1)) = 1.046 for l = 120 rows, against the projection on the same columns
    # and against SciPy's decomposition.
    ratios, ours, theirs = [], [], []
    for seed in range(30):
        A = tall(kind, seed)
        r = lowla.interp_decomp(A, 10, rng=seed)
        ours.append(error_of(A, A[:, r.idx[:10]], r.interp_matrix()))
        ratios.append(ours[-1] / column_error(A, r.idx[:10]))
        idx, proj = scipy.linalg.interpolative.interp_decomp(A, 10, rand=False)
        residual = A[:, idx[10:]] - A[:, idx[:10]] @ proj
        theirs.append(np.linalg.norm(residual) / np.linalg.norm(A))
    assert 1.0 <= np.median(ratios) <= 1.08
    assert np.median(ours) <= 1.1 * np.median(theirs)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_read_reproduces_low_rank_to_rounding(backend, form, dtype):
    A = matrix_with_spectrum(1000, 60, np.linspace(1, 2, 6), dtype)
    for k in (6, 9):
        r = lowla.interp_decomp(FORMS[form](A), k, rng=2)
        assert r.info.method == "sketch"
        assert r.info.rank == 6
        assert error_of(A, A[:, r.idx[:k]], r.interp_matrix()) <= tol(A.dtype, 1000)
        assert r.info.error <= tol(A.dtype, 1000)


def test_methods_that_a_shape_or_a_tolerance_rules_out(backend):
    A = tall("polynomial", 0)
    assert lowla.interp_decomp(A, 10, method="project", rng=0).info.passes == 2
    assert lowla.interp_decomp(A, 60, rng=0).info.method == "project"
    assert lowla.interp_decomp(A, 10, sketch="gaussian", rng=0).info.method == "project"
    assert lowla.interp_decomp(aslinearoperator(A), 10, rng=0).info.method == "project"
    assert lowla.interp_decomp(A, 0.1, rng=0).info.method == "project"
    assert lowla.interp_decomp(A[:100], 10, method="sketch", rng=0).info.method == "project"
    for given, passes in ((A, 1), (aslinearoperator(A), 2)):  # one tells an operator's scale
        r = lowla.interp_decomp(given, 10, method="sketch", sketch="gaussian", rng=0)
        assert (r.info.method, r.info.passes) == ("sketch", passes)
        true = error_of(A, A[:, r.idx[:10]], r.interp_matrix())
        assert abs(r.info.error**2 / true**2 - 1) <= 5 * np.sqrt(2 / HELD_OUT)
    with pytest.raises(ValueError, match="'sketch' is for a number of columns"):
        lowla.interp_decomp(A, 0.1, method="sketch")


def test_one_seed_gives_one_sketch_on_every_backend():
    for kind in TALL:
        A = tall(kind, 7)
        found = []
        for name in ("native", "numba"):
            if _backend.why_not(name) is None:
                with lowla.use_backend(name):
                    found.append(lowla.interp_decomp(A, 10, rng=3))
        for r in found[1:]:
            assert_array_equal(r.idx, found[0].idx)
            assert_allclose(r.proj, found[0].proj, atol=1e-10)
            assert r.info.error == pytest.approx(found[0].info.error, rel=1e-8)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_one_read_of_scaled_input(backend, scale):
    A = tall("polynomial", 2)
    whole, scaled = (lowla.interp_decomp(X, 10, rng=1) for X in (A, A * scale))
    assert scaled.info.method == "sketch"
    assert_array_equal(scaled.idx, whole.idx)
    assert_allclose(scaled.proj, whole.proj, atol=1e-8)
    assert scaled.info.error == pytest.approx(whole.info.error, rel=1e-6)


def test_two_sided_from_one_read(backend):
    A = tall("polynomial", 4)
    r = lowla.two_sided_interp_decomp(A, 10, rng=1)
    assert (r.info.method, r.info.error_method) == ("sketch", "probe")
    assert np.abs(r.X).max() <= 2.0 + 1e-5
    assert_array_equal(r.X[r.rows], np.eye(10))
    true = error_of(A, r.X @ A[np.ix_(r.rows, r.cols)], r.Y)
    assert abs(r.info.error**2 / true**2 - 1) <= 5 * np.sqrt(2 / HELD_OUT)
