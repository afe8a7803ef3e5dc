"""Row scores of the CUDA backend on its emulation (see test_cuda.py), against the host's.

Same sketches for the same key: what follows differs by rounding.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from strategies import DTYPES, LAYOUTS
from tolerances import eps, tol

KEY = 11
FORMS = [np.asarray, sp.csr_array]
METHODS = ("leverage", "root_leverage", "lewis", "sensitivity", "mixed")


def payload(A):
    return (A.indptr, A.indices, A.data, A.shape) if sp.issparse(A) else A


def matrix(m, n, dtype="float64", form=np.asarray, cond=10.0):
    """Gaussian columns of lengths from 1 to 1/cond, mixed."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((m, n))
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((m, n))
    mixer = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return form(((A * np.geomspace(1, 1 / cond, n)) @ mixer).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["exact", "sketched"])
@pytest.mark.parametrize("shape", [(900, 6), (1500, 24), (12, 12), (12, 30)])
def test_emulated_leverage_is_the_hosts(emulated, host, shape, method, form, dtype):
    A = payload(matrix(*shape, dtype, form))
    ours = emulated.leverage_scores(A, method, KEY, True)
    theirs = host.leverage_scores(A, method, KEY, True)
    assert ours.dtype == theirs.dtype
    assert_allclose(ours, theirs, rtol=tol(dtype, shape[1]), atol=tol(dtype, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_leverage_of_any_layout(emulated, dtype, layout):
    A = LAYOUTS[layout](matrix(1200, 24, dtype))
    plain = lowla.leverage_scores(np.ascontiguousarray(A), method="exact")
    assert_allclose(lowla.leverage_scores(A, method="exact"), plain, rtol=tol(dtype, 24))


@pytest.mark.parametrize("cond", [1e2, 1e8, 1e12])
@pytest.mark.parametrize("columns", [10, 30])
def test_emulated_exact_leverage_sums_to_the_rank_at_any_condition(emulated, columns, cond):
    A = matrix(900, columns, cond=cond)
    assert lowla.leverage_scores(A).sum() == pytest.approx(columns, rel=tol(float, 900))
    A[:, -4:] = A[:, :4]
    assert lowla.leverage_scores(A).sum() == pytest.approx(columns - 4, rel=tol(float, 900))


def test_emulated_leverage_of_zeros_and_duplicates(emulated):
    assert_array_equal(lowla.leverage_scores(np.zeros((50, 3))), np.zeros(50))
    assert lowla.leverage_scores(np.zeros((0, 3))).shape == (0,)
    A = sp.random_array((600, 8), density=0.3, rng=np.random.default_rng(0), format="csr")
    twice = sp.csr_array(
        (np.repeat(A.data / 2, 2), np.repeat(A.indices, 2), 2 * A.indptr.astype(np.int64)),
        shape=A.shape,
    )
    expected = lowla.leverage_scores(A.toarray())
    assert_allclose(lowla.leverage_scores(twice), expected, rtol=tol(float, 8), atol=eps(float))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-200, 1e180])
def test_emulated_scores_do_not_feel_the_scale(emulated, form, scale):
    A = matrix(600, 24)
    for method in ("exact", "sketched"):
        plain = lowla.leverage_scores(A, method=method, rng=0)
        scaled = lowla.leverage_scores(form(A * scale), method=method, rng=0)
        assert_allclose(scaled, plain, rtol=tol(float, 24, 10))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, 6.0])
def test_emulated_lewis_weights_are_the_hosts(emulated, host, p, form, dtype):
    A = payload(matrix(700, 9, dtype, form))
    ours, facts = emulated.lewis_weights(A, p, 1e-6, 200)
    theirs, expected = host.lewis_weights(A, p, 1e-6, 200)
    assert facts["converged"]
    assert facts["iterations"] == expected["iterations"]
    assert_allclose(ours, theirs, rtol=tol(dtype, 700))
    assert ours.sum() == pytest.approx(9, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1.0, 3.0])
def test_emulated_row_scores_are_the_hosts(emulated, host, p, method, dtype, form):
    A = payload(matrix(800, 7, dtype, form))
    ours = emulated.row_scores(A, p, method, KEY, True)
    theirs = host.row_scores(A, p, method, KEY, True)
    assert ours.dtype == theirs.dtype == np.float64
    assert_allclose(ours, theirs, rtol=tol(float, 800), atol=eps(float))


def test_emulated_samples_are_the_hosts(emulated, host):
    scores = np.random.default_rng(0).random(5000)
    for view in (scores, scores[::-2], scores[:1]):
        ours = emulated.sample_rows(view, 300, 1.5, KEY)
        theirs = host.sample_rows(view, 300, 1.5, KEY)
        assert_array_equal(ours[0], theirs[0])
        assert_array_equal(ours[1], theirs[1])
    with pytest.raises(ValueError, match="scores must have 1 dimension, got 2"):
        emulated.sample_rows(scores[:, None], 3, 1.0, KEY)
    with pytest.raises(TypeError, match="scores must be float64"):
        emulated.sample_rows(scores.astype(np.float32), 3, 1.0, KEY)
    with pytest.raises(ValueError, match="scores must not all be zero"):
        emulated.sample_rows(np.zeros(4), 3, 1.0, KEY)


@pytest.mark.parametrize("method", METHODS)
def test_emulated_sensitivity_sample_keeps_norms(emulated, method):
    A = matrix(20_000, 5)
    indices, weights = lowla.sensitivity_sample(A, 1500, p=1.5, method=method, rng=0)
    X = np.random.default_rng(1).standard_normal((5, 20))
    kept = np.sum(np.abs(weights[:, None] * (A[indices] @ X)) ** 1.5, axis=0)
    assert_allclose(kept, np.sum(np.abs(A @ X) ** 1.5, axis=0), rtol=0.3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_emulated_scores_over_blocks_of_rows(emulated, host, dtype, layout):
    """A of several blocks of 32 MiB in double precision."""
    A = LAYOUTS[layout](np.random.default_rng(0).standard_normal((250_000, 20)).astype(dtype))
    A[:, 3] *= 100
    for method in ("exact", "sketched"):
        ours = emulated.leverage_scores(A, method, KEY, True)
        theirs = host.leverage_scores(A, method, KEY, True)
        assert_allclose(ours, theirs, rtol=tol(dtype, 20))
    deficient = np.asarray(A)
    deficient[:, 5] = deficient[:, 6]  # its triangle comes from the host, block by block
    ours = emulated.leverage_scores(deficient, "exact", KEY, True)
    assert ours.sum(dtype=float) == pytest.approx(19, rel=tol(dtype, 100))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", FORMS)
def test_emulated_not_finite_scores(emulated, form, value):
    A = np.ones((30, 2))
    A[3, 1] = value
    bad = payload(form(A))
    assert np.all(np.isnan(emulated.leverage_scores(bad, "exact", 0, False)))
    assert np.all(np.isnan(emulated.row_scores(bad, 1.5, "mixed", 0, False)))
    with pytest.raises(ValueError, match="A contains NaN or Inf"):
        emulated.lewis_weights(bad, 1.5, 1e-3, 10)


def test_emulated_bad_requests(emulated):
    A = np.ones((3, 2))
    with pytest.raises(ValueError, match='unknown method "best"'):
        emulated.leverage_scores(A, "best", 0, True)
    with pytest.raises(ValueError, match='unknown method "best"'):
        emulated.row_scores(A, 1.0, "best", 0, True)
    with pytest.raises(ValueError, match="A must not be empty"):
        emulated.leverage_scores(np.ones((0, 2)), "exact", 0, True)
    csr = sp.csr_array(A)
    with pytest.raises(ValueError, match="sparse A is malformed"):
        emulated.leverage_scores((csr.indptr, csr.indices + 2, csr.data, (3, 2)), "exact", 0, True)
