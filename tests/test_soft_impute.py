"""soft_impute, svt: the convex problem against its optimality conditions and a dense iteration.

MHT is Mazumder, Hastie, Tibshirani, "Spectral regularization algorithms for learning large
incomplete matrices", Journal of Machine Learning Research 11, 2010.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from observed_entries import low_rank, mask, observed
from tolerances import tol


def proximal_iteration(M, lam, steps=3000):
    """MHT, algorithm 1, with dense decompositions, to a change of 1e-12."""
    D, seen, Z = M.toarray(), mask(M), np.zeros(M.shape)
    for _ in range(steps):
        U, s, Vh = np.linalg.svd(np.where(seen, D, Z), full_matrices=False)
        new = (U * np.maximum(s - lam, 0.0)) @ Vh
        if np.linalg.norm(new - Z) <= 1e-12 * np.linalg.norm(new):
            return new
        Z = new
    return Z


@pytest.mark.core
@pytest.mark.parametrize("part", [0.5, 0.2, 0.05])
def test_soft_impute_is_the_convex_optimum(backend, part):
    """Against the dense proximal iteration; R = M - X is lam times a subgradient of the norm:
    ‖R‖₂ <= lam, and R V = lam U on the singular vectors of X (MHT, lemma 1)."""
    X = low_rank(40, 30, 3)
    M = observed(X, 700)
    M.data += 0.1 * np.random.default_rng(0).standard_normal(M.nnz)
    lam = part * np.linalg.norm(M.toarray(), 2)
    r = lowla.soft_impute(M, lam, tol=1e-12, rng=0)
    found = r.toarray()
    assert_allclose(found, proximal_iteration(M, lam), atol=1e-5)
    R = np.where(mask(M), M.toarray() - found, 0.0)
    assert np.linalg.norm(R, 2) <= lam * (1 + 1e-5)
    s = r.svd()
    assert s.S.min() > 0.0
    assert_allclose(R @ s.Vh.T, lam * s.U, atol=1e-5 * lam)
    assert_allclose(R.T @ s.U, lam * s.Vh.T, atol=1e-5 * lam)
    assert r.info.rank == np.linalg.matrix_rank(found, tol=1e-9)


def test_the_gap_bounds_the_suboptimality(backend):
    """Wherever it stops, the objective is within the gap of the minimum; a mutant off by 1 % is
    seen."""
    X = low_rank(40, 30, 3)
    M = observed(X, 700)
    lam = 0.1 * np.linalg.norm(M.toarray(), 2)

    def value(Z):
        R = (Z - M.toarray())[mask(M)]
        return 0.5 * np.sum(R**2) + lam * np.linalg.norm(Z, "nuc")

    best = value(proximal_iteration(M, lam))
    for rounds in (1, 2, 3, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lowla.ConvergenceWarning)
            r = lowla.soft_impute(M, lam, n_iter=rounds, tol=1e-11)
        here = value(r.toarray())
        assert here - best <= r.info.gap * here * (1 + 1e-9) + tol(float, 100) * here
    assert value(1.01 * proximal_iteration(M, lam)) > best * (1 + 1e-6)


def test_soft_impute_limits(backend):
    """From the largest singular value on X = 0; rank_max binds, and then says so."""
    M = observed(low_rank(40, 30, 3), 700)
    top = np.linalg.norm(M.toarray(), 2)
    zero = lowla.soft_impute(M, 1.001 * top)
    assert zero.U.shape == (40, 1)
    assert not zero.toarray().any()
    assert zero.info.rank == 0
    assert zero.info.converged
    assert lowla.soft_impute(M, 0.9 * top).info.rank >= 1
    with pytest.warns(lowla.ConvergenceWarning, match="at rank 1 and a duality gap"):
        r = lowla.soft_impute(M, 0.1 * top, rank_max=1, n_iter=10)
    assert r.U.shape == (40, 1)
    assert r.info.gap > 1e-3
    assert lowla.soft_impute(M.astype(np.float32), 0.2 * top).U.dtype == np.float32


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_soft_impute_at_the_ends_of_the_range(backend, scale):
    M = observed(low_rank(40, 30, 3), 700)
    lam = 0.1 * np.linalg.norm(M.toarray(), 2)
    plain = lowla.soft_impute(M, lam, tol=1e-8, rng=0)
    scaled = lowla.soft_impute(M * scale, lam * scale, tol=1e-8, rng=0)
    assert scaled.info.rank == plain.info.rank
    assert scaled.info.rmse == pytest.approx(plain.info.rmse * scale, rel=1e-6)
    assert_allclose(scaled.toarray() / scale, plain.toarray(), atol=1e-4)


def test_soft_impute_ends_where_it_is_asked_to(backend):
    M = observed(low_rank(40, 30, 3), 700)
    seen = []
    r = lowla.soft_impute(M, 1.0, tol=1e-12, callback=lambda info: seen.append(info) or True)
    assert (len(seen), r.info.sweeps, len(r.info.history)) == (1, 1, 1)
    assert seen[0].rmse == r.info.rmse == r.info.history[0]
    with pytest.warns(lowla.ConvergenceWarning, match="stopped after 2 rounds"):
        r = lowla.soft_impute(M, 1.0, tol=1e-12, n_iter=2)
    assert r.info.sweeps == 2
    again = lowla.soft_impute(M, 1.0, tol=1e-9, rng=5)
    assert_array_equal(again.U, lowla.soft_impute(M, 1.0, tol=1e-9, rng=5).U)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_soft_impute_of_entries_that_are_not_finite(backend, bad):
    M = observed(low_rank(40, 30, 3), 700)
    M.data[5] = bad
    with pytest.raises(ValueError, match=r"^M contains NaN or Inf$"):
        lowla.soft_impute(M, 1.0)
    r = lowla.soft_impute(M, 1.0, check_finite=False)
    assert np.isnan(r.U).all()
    assert np.isnan(r.V).all()
    assert (r.U.shape, r.V.shape, r.info.converged) == ((40, 1), (30, 1), False)


@pytest.mark.parametrize("form", [lambda X: X, sp.csr_array, sp.linalg.aslinearoperator])
@pytest.mark.parametrize("shape", [(12, 9), (60, 80), (150, 120)])
def test_svt_is_the_thresholded_decomposition(backend, form, shape):
    """Cai, Candès, Shen 2010, theorem 2.1; decaying spectra, thresholds from all to none."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal(shape) @ np.diag(0.8 ** np.arange(shape[1]))
    U, s, Vh = np.linalg.svd(X, full_matrices=False)
    for tau in (0.0, 0.5 * (s[3] + s[4]), 2.0 * s[0], s[6]):
        if tau == 0.0 and shape[0] > 100:
            continue  # needs all of a wide spectrum
        r = lowla.svt(form(X), tau, rng=0)
        found = (r.U * r.S) @ r.Vh
        exact = (U * np.maximum(s - tau, 0.0)) @ Vh
        assert_allclose(found, exact, atol=1e-8 * s[0])
        expected = np.linalg.norm(X - exact) / np.linalg.norm(X)
        assert r.info.error == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert len(r.S) == np.count_nonzero(s > tau) or tau == s[6]
