"""complete: recovery counted over many seeds with the truth known at all entries, rows of the
factors against dense least squares.

JNS is Jain, Netrapalli, Sanghavi, "Low-rank matrix completion using alternating minimization",
STOC 2013.
"""

from __future__ import annotations

import copy
import pickle
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import lowla
from lowla import _backend
from lowla._numba import observations as patterns
from lowla._numba import row_solvers
from observed_entries import low_rank, mask, observed
from strategies import LAYOUTS
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol

TIGHT = 1e-12  # change of the last sweep in tests of exact recovery
EXACT = 1e-10  # relative error that counts as recovered in float64


def freedom(m, n, k):
    """Degrees of freedom of a rank-k matrix."""
    return k * (m + n - k)


def with_outliers(M, part, seed=0, size=10.0):
    rng = np.random.default_rng(seed + 2000)
    bad = M.copy()
    hit = rng.random(M.nnz) < part
    bad.data[hit] += size * rng.standard_normal(np.count_nonzero(hit))
    return bad


def error(r, X):
    """Relative Frobenius error over all entries."""
    return np.linalg.norm(np.asarray(r.toarray(), float) - X) / np.linalg.norm(X)


def quietly(*args, **options):
    """complete, where it may stop short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        return lowla.complete(*args, **options)


def objective(r, M, reg, weights=None):
    R = (r.toarray() - M.toarray())[mask(M)]
    w = 1.0 if weights is None else weights.toarray()[mask(M)]
    return 0.5 * np.sum(w * R**2) + 0.5 * reg * (np.sum(r.U**2) + np.sum(r.V**2))


# --- recovery -------------------------------------------------------------------------------------


def recovered(seeds, m, n, k, count, fit=None, **options):
    found = []
    for seed in range(seeds):
        X = low_rank(m, n, k, seed)
        r = quietly(observed(X, count, seed), fit or k, tol=TIGHT, rng=seed, **options)
        found.append(error(r, X) <= EXACT)
        if found[-1] and r.info.loss == "l2":
            assert r.info.converged
            assert r.info.relative_residual <= EXACT
    return np.mean(found)


@pytest.mark.parametrize("k", [2, 3])
def test_recovery_from_k_n_log_n_entries(backend, k):
    """|Ω| = (m + n) k log(m + n), the order of JNS, theorem 2.5, with C = 1: 99 of 100."""
    m, n = 100, 80
    assert recovered(100, m, n, k, (m + n) * k * np.log(m + n)) >= 0.99


@pytest.mark.parametrize("k", [2, 3])
def test_recovery_from_three_times_the_degrees_of_freedom(backend, k):
    assert recovered(100, 100, 80, k, 3 * freedom(100, 80, k)) >= 0.95


def test_too_few_entries_are_not_recovered(backend):
    """Below the degrees of freedom no method can: what the counts above would say if all passed."""
    assert recovered(10, 60, 50, 3, 0.9 * freedom(60, 50, 3), n_iter=60) == 0.0


@pytest.mark.core
@pytest.mark.parametrize("solver", ["exact", "cg"])
@pytest.mark.parametrize("cond", [1.0, 10.0, 100.0])
def test_condition_numbers(backend, cond, solver):
    """A small singular value needs no more entries; its error is relative to the largest."""
    for seed in range(5):
        X = low_rank(100, 80, 3, seed, cond)
        M = observed(X, 5 * freedom(100, 80, 3), seed)
        r = lowla.complete(M, 3, tol=TIGHT, solver=solver, rng=0)
        assert r.info.solver == solver
        assert error(r, X) <= EXACT
        assert np.linalg.cond(r.svd().S[:, None] * np.eye(3)) == pytest.approx(cond, rel=1e-6)


def test_linear_rate(backend):
    """The residual falls by a constant factor a sweep; alternating without a ridge does so too."""
    X = low_rank(200, 150, 4)
    r = lowla.complete(observed(X, 8 * freedom(200, 150, 4)), 4, tol=TIGHT)
    history = np.array(r.info.history)
    falling = history[history > 1e4 * eps(float)][5:]
    assert len(falling) >= 5
    assert np.all(falling[1:] / falling[:-1] < 0.6)
    assert r.info.sweeps <= 40


def test_power_law_sampling(backend):
    """Busy rows and columns have ten times the entries of quiet ones."""
    good = 0
    for seed in range(10):
        X = low_rank(100, 80, 2, seed)
        M = observed(X, 8 * freedom(100, 80, 2), seed, power=0.5)
        r = quietly(M, 2, tol=TIGHT)
        good += error(r, X) <= EXACT or not r.info.identifiable
    assert good >= 9


@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_over_specified_rank(backend, solver):
    """With k = 2 r there are solutions of rank 2 r as well; the falling ridge leads to rank r."""
    for seed in range(5):
        X = low_rank(100, 80, 3, seed)
        M = observed(X, 5 * freedom(100, 80, 6), seed)
        r = lowla.complete(M, 6, tol=TIGHT, solver=solver)
        assert error(r, X) <= EXACT


def test_random_start(backend):
    good = 0
    for seed in range(10):
        X = low_rank(100, 80, 3, seed)
        r = quietly(observed(X, 4 * freedom(100, 80, 3), seed), 3, tol=TIGHT, init="random", rng=1)
        good += error(r, X) <= EXACT
    assert good >= 9


@pytest.mark.parametrize("noise", [1e-3, 1e-1])
def test_noise(backend, noise):
    """Held to twice the error of the oracle that knows both singular spaces' tangent:
    sigma sqrt(dof / |Ω|) a entry (Candès, Plan, "Matrix completion with noise", 2010, III.B)."""
    m, n, k = 120, 100, 3
    for seed in range(4):
        X = low_rank(m, n, k, seed)
        M = observed(X, 8 * freedom(m, n, k), seed)
        M.data += noise * np.random.default_rng(seed).standard_normal(M.nnz)
        r = lowla.complete(M, k)
        oracle = noise * np.sqrt(freedom(m, n, k) / M.nnz)
        rms = np.linalg.norm(r.toarray() - X) / np.sqrt(m * n)
        assert 0.5 * oracle < rms < 2.0 * oracle


def test_scaled_gradient_descent_does_not_feel_the_condition(backend):
    """Tong, Ma, Chi 2021, theorem 2: the number of steps does not depend on it."""
    steps = []
    for cond in (1.0, 30.0):
        X = low_rank(100, 80, 2, 1, cond)
        M = observed(X, 12 * freedom(100, 80, 2), 1)
        r = lowla.complete(M, 2, method="scaled_gd", tol=TIGHT)
        assert (r.info.method, r.info.solver) == ("scaled_gd", "gradient")
        assert error(r, X) <= EXACT
        steps.append(r.info.sweeps)
    assert steps[1] < 2 * steps[0]


def test_scaled_gradient_descent_with_ridge_and_weights_is_altmins_minimum(backend):
    X = low_rank(40, 30, 2)
    M = observed(X, 700)
    M.data += 0.1 * np.random.default_rng(0).standard_normal(M.nnz)
    w = M.copy()
    w.data = np.random.default_rng(1).uniform(0.5, 1.5, M.nnz)
    a, b = (lowla.complete(M, 2, reg=0.5, weights=w, method=x) for x in ("altmin", "scaled_gd"))
    assert_allclose(b.toarray(), a.toarray(), atol=1e-5)
    assert objective(b, M, 0.5, w) == pytest.approx(objective(a, M, 0.5, w), rel=1e-9)


# --- robust ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [3, 6])
def test_gross_outliers(backend, fit):
    """A fifth of the entries off by ten times their size: "l1" is exact, also for twice the rank,
    where "l2" is far off."""
    for seed in range(4):
        X = low_rank(100, 80, 3, seed)
        M = with_outliers(observed(X, 9 * freedom(100, 80, 3), seed), 0.2, seed)
        r = lowla.complete(M, fit, loss="l1", tol=1e-11)
        assert error(r, X) <= EXACT
        assert r.info.rank == 3
        assert error(quietly(M, fit, n_iter=50), X) > 0.1


def test_l1_without_outliers_and_with_noise(backend):
    X = low_rank(100, 80, 3)
    M = observed(X, 5 * freedom(100, 80, 3))
    assert error(lowla.complete(M, 3, loss="l1", tol=1e-11), X) <= EXACT
    noisy = with_outliers(M, 0.1)
    noisy.data += 0.01 * np.random.default_rng(0).standard_normal(M.nnz)
    r = quietly(noisy, 3, loss="l1")
    oracle = 0.01 * np.sqrt(freedom(100, 80, 3) / M.nnz)
    # least absolute deviations lose a factor sqrt(pi / 2) against least squares
    assert np.linalg.norm(r.toarray() - X) / np.sqrt(X.size) < 2.5 * oracle


# --- variants against small dense references ------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lam", [0.0, 1e-3, 10.0])
def test_rows_are_ridge_regressions(weighted, lam):
    """Both solvers against numpy's least squares; rows shorter than k, and empty ones, of least
    norm."""
    rng = np.random.default_rng(3)
    m, n, k = 40, 25, 5
    M = observed(rng.standard_normal((m, n)), 300, power=0.7)
    w = rng.uniform(0.5, 2.0, M.nnz) if weighted else None
    rows, _ = patterns.layouts((M.indptr, M.indices, M.data, M.shape), w)
    F = rng.standard_normal((n, k))
    assert rows.counts.min() < k
    expected = np.empty((m, k))
    for i in range(m):
        at = slice(M.indptr[i], M.indptr[i + 1])
        root = np.ones(rows.counts[i]) if w is None else np.sqrt(w[at])
        A = np.vstack([root[:, None] * F[M.indices[at]], np.sqrt(lam) * np.eye(k)])
        expected[i] = np.linalg.lstsq(A, np.append(root * M.data[at], np.zeros(k)), rcond=1e-12)[0]
    cond = 1e4  # squared, of the worst row
    for solver, steps in (("exact", 0), ("cg", 10 * k)):
        out = np.zeros((m, k))
        row_solvers.ridge_rows(rows, None, F, out, lam, solver, steps)
        assert_allclose(out, expected, atol=tol(float, k, cond) * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore::lowla.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_many_rows_shorter_than_a_large_rank(solver):
    """The factors of one native sweep against those of Numba, which takes rows one by one."""
    if (reason := _backend.why_not("native")) is not None:
        pytest.skip(reason)
    m, n, k = 310, 330, 300
    rng = np.random.default_rng(0)
    M = observed(rng.standard_normal((m, n)), 0.7 * m * n, power=0.2)
    assert np.median(np.diff(M.indptr)) < k
    init = (rng.standard_normal((m, k)), rng.standard_normal((n, k)))
    found = []
    for name in ("native", "numba"):
        with lowla.use_backend(name):
            found.append(lowla.complete(M, k, solver=solver, init=init, n_iter=1, reg=1e-3))
    for x, y in zip(*found, strict=True):
        assert_allclose(x, y, atol=1e-7 * np.abs(y).max())


def test_two_steps_of_conjugate_gradients_are_not_exact():
    """What the comparison above would say of a solver that stops early."""
    rng = np.random.default_rng(0)
    M = observed(rng.standard_normal((20, 30)), 500)
    rows, _ = patterns.layouts((M.indptr, M.indices, M.data, M.shape), None)
    F, out, exact = rng.standard_normal((30, 8)), np.zeros((20, 8)), np.zeros((20, 8))
    row_solvers.ridge_rows(rows, None, F, exact, 0.0, "exact", 0)
    row_solvers.ridge_rows(rows, None, F, out, 0.0, "cg", 2)
    assert np.abs(out - exact).max() > 1e-3


def test_singular_rows_give_finite_factors():
    """A repeated column of the factor, a zero factor, and one of rank 1."""
    M = observed(np.random.default_rng(0).standard_normal((20, 15)), 200)
    rows, _ = patterns.layouts((M.indptr, M.indices, M.data, M.shape), None)
    x = np.random.default_rng(1).standard_normal((15, 1))
    for F in (np.hstack([x, x, x]), np.zeros((15, 3)), np.hstack([x, 0 * x, 1e-200 * x])):
        for solver in ("exact", "cg"):
            out = np.zeros((20, 3))
            row_solvers.ridge_rows(rows, None, F, out, 0.0, solver, 3)
            assert np.isfinite(out).all()
            best = np.zeros((20, 1))
            row_solvers.ridge_rows(rows, None, x, best, 0.0, "exact", 0)
            if F.any():
                assert_allclose(out @ F.T, best @ x.T, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), lam=st.floats(0.01, 10.0))
def test_monotone_objective_of_exact_half_sweeps(seed, lam):
    rng = np.random.default_rng(seed)
    M = observed(rng.standard_normal((15, 12)), 80, seed % 1000)
    rows, cols = patterns.layouts((M.indptr, M.indices, M.data, M.shape), None)
    U, V = rng.standard_normal((15, 3)), rng.standard_normal((12, 3))
    values = []
    for half in range(8):
        if half % 2:
            row_solvers.ridge_rows(rows, None, V, U, lam, "exact", 0)
        else:
            row_solvers.ridge_rows(cols, None, U, V, lam, "exact", 0)
        loss = row_solvers.residual2(rows, None, V, U)
        values.append(0.5 * loss + 0.5 * lam * (np.sum(U**2) + np.sum(V**2)))
    assert np.all(np.diff(values) <= tol(float, 100) * values[0])
    assert values[-1] < values[0]


def test_stationary_points_of_the_stated_objective(backend):
    """Gradients by U and V vanish, with weights, at full and at sparse rows; and it is least."""
    X = low_rank(30, 25, 3)
    M = observed(X, 400)
    M.data += 0.3 * np.random.default_rng(0).standard_normal(M.nnz)
    w = M.copy()
    w.data = np.random.default_rng(1).uniform(0.0, 2.0, M.nnz)
    reg = 0.7
    for solver in ("exact", "cg"):
        r = lowla.complete(M, 3, reg=reg, weights=w, tol=TIGHT, solver=solver)
        R = w.toarray() * np.where(mask(M), r.toarray() - M.toarray(), 0.0)
        size = np.abs(R).max()
        assert np.abs(R @ r.V + reg * r.U).max() < 1e-8 * size
        assert np.abs(R.T @ r.U + reg * r.V).max() < 1e-8 * size
        here = objective(r, M, reg, w)
        rng = np.random.default_rng(2)
        for _ in range(5):
            shift = [1e-3 * rng.standard_normal(x.shape) for x in r]
            other = [x + d for x, d in zip(r, shift, strict=True)]
            R = ((other[0] @ other[1].T) - M.toarray())[mask(M)]
            value = 0.5 * np.sum(w.toarray()[mask(M)] * R**2)
            value += 0.5 * reg * sum(np.sum(x**2) for x in other)
            assert value > here


def test_weights_are_repetitions(backend):
    """Weight 2 is the entry seen twice; weight 0 is the entry not seen; dense or sparse."""
    X = low_rank(30, 20, 2)
    M = observed(X, 350)
    M.data += 0.1 * np.random.default_rng(0).standard_normal(M.nnz)
    w = M.copy()
    w.data = np.random.default_rng(1).integers(0, 3, M.nnz).astype(float)
    r = lowla.complete(M, 2, weights=w, reg=0.1, tol=TIGHT)
    seen = M.copy()
    seen.data[w.data == 0.0] = np.nan
    dense = np.where(mask(M), seen.toarray(), np.nan)
    full = np.where(mask(M), w.toarray(), np.nan)  # weights where nothing is seen do not matter
    assert_allclose(
        lowla.complete(
            dense, 2, weights=np.where(np.isnan(dense), 7.0, full), reg=0.1, tol=TIGHT
        ).toarray(),
        r.toarray(),
        atol=1e-9,
    )
    scaled = lowla.complete(M, 2, weights=4.0 * w, reg=0.4, tol=TIGHT)
    assert_allclose(scaled.toarray(), r.toarray(), atol=1e-9)
    assert np.linalg.norm(lowla.complete(M, 2, reg=0.1).toarray() - r.toarray()) > 1e-2


def test_biases(backend):
    """mean + a_i + b_j + rank 2 is recovered; against the same objective by L-BFGS."""
    rng = np.random.default_rng(0)
    m, n = 60, 50
    X = low_rank(m, n, 2) + 5.0 + rng.standard_normal(m)[:, None] + rng.standard_normal(n)
    M = observed(X, 6 * freedom(m, n, 2))
    r = lowla.complete(M, 2, bias=True, tol=TIGHT)
    assert error(r, X) <= EXACT
    assert r.mean == pytest.approx(M.data.mean())
    assert r.row_bias.shape == (m,)
    assert r.col_bias.shape == (n,)
    parts = r.U @ r.V.T + r.mean + r.row_bias[:, None] + r.col_bias
    assert_allclose(parts, r.toarray(), atol=tol(float, 10) * 10)

    reg, k, seen = 0.5, 1, mask(M)
    r = lowla.complete(M, k, bias=True, reg=reg, tol=TIGHT, n_iter=3000)

    def loss(x):
        U, V = x[: m * k].reshape(m, k), x[m * k : (m + n) * k].reshape(n, k)
        a, b = x[(m + n) * k :][:m], x[(m + n) * k :][m:]
        R = np.where(seen, U @ V.T + r.mean + a[:, None] + b - X, 0.0)
        gradient = [(R @ V + reg * U).ravel(), (R.T @ U + reg * V).ravel()]
        gradient += [R.sum(1) + reg * a, R.sum(0) + reg * b]
        return 0.5 * np.sum(R**2) + 0.5 * reg * x @ x, np.concatenate(gradient)

    ours = np.concatenate([r.U.ravel(), r.V.ravel(), r.row_bias, r.col_bias])
    best = scipy.optimize.minimize(
        loss,
        ours + 1e-3 * rng.standard_normal(ours.size),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-9},
    )
    assert loss(ours)[0] <= best.fun * (1 + 1e-9)
    assert np.abs(loss(ours)[1]).max() < 1e-6 * np.abs(X).max()


def test_nonnegative_factors(backend):
    """Rows are nonnegative least squares (scipy.optimize.nnls), and nonnegative data are fitted."""
    rng = np.random.default_rng(0)
    m, n, k = 40, 30, 3
    X = rng.random((m, k)) @ rng.random((k, n))
    M = observed(X, 800)
    r = quietly(M, k, nonnegative=True, n_iter=3000, tol=1e-7)
    assert r.info.solver == "nonnegative"
    assert r.U.min() >= 0.0
    assert r.V.min() >= 0.0
    assert r.info.relative_residual < 1e-3
    M.data += 0.2 * rng.standard_normal(M.nnz)
    r = lowla.complete(M, k, nonnegative=True, reg=0.3, tol=1e-10, n_iter=3000)
    for i in range(m):
        at = slice(M.indptr[i], M.indptr[i + 1])
        A = np.vstack([r.V[M.indices[at]], np.sqrt(0.3) * np.eye(k)])
        u, _ = scipy.optimize.nnls(A, np.append(M.data[at], np.zeros(k)))
        assert_allclose(r.U[i], u, atol=1e-7)
    assert (r.U == 0.0).any()  # a bound is active somewhere


# --- what the pattern cannot tell -----------------------------------------------------------------


def test_separate_blocks_are_reported(backend):
    """Two blocks that share no row or column: fitted, but not called identifiable."""
    X = low_rank(40, 40, 2)
    seen = np.zeros((40, 40), dtype=bool)
    seen[:20, :20] = seen[20:, 20:] = True
    M = np.where(seen, X, np.nan)
    r = lowla.complete(M, 2)
    assert r.info.components == 2
    assert r.info.identifiable is False
    assert "identifiable   False" in repr(r)
    assert r.info.relative_residual < 1e-7
    assert error(r, X) > 0.1


@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 12), n=st.integers(1, 12))
def test_components_are_scipys(seed, m, n):
    M = observed(np.ones((m, n)), np.random.default_rng(seed).integers(1, m * n + 1), seed % 99)
    rows, _ = patterns.layouts((M.indptr, M.indices, M.data, M.shape), None)
    graph = sp.block_array([[None, M], [M.T, None]])
    assert patterns.components(rows, n) == sp.csgraph.connected_components(graph)[0]


def test_short_and_empty_rows_and_columns(backend):
    """They are counted; empty ones get zero factors; the rest is recovered all the same."""
    X = low_rank(60, 50, 3)
    M = observed(X, 6 * freedom(60, 50, 3)).tolil()
    M[5, :] = 0.0
    M[:, 7] = 0.0
    M = M.tocsr()
    M.eliminate_zeros()
    M = M.tolil()
    M[9, :] = 0.0
    M[9, 3] = X[9, 3]  # one entry, three unknowns
    M = M.tocsr()
    M.eliminate_zeros()
    r = lowla.complete(M, 3, tol=1e-11)
    assert (r.info.rows_undetermined, r.info.cols_undetermined) == (2, 1)
    assert r.info.components == 3
    assert not r.info.identifiable
    assert_array_equal(r.U[5], 0.0)
    assert_array_equal(r.V[7], 0.0)
    kept = np.ix_([i for i in range(60) if i not in (5, 9)], [j for j in range(50) if j != 7])
    assert np.linalg.norm((r.toarray() - X)[kept]) <= 1e-9 * np.linalg.norm(X)
    assert r.predict(9, 3) == pytest.approx(X[9, 3])
    assert np.linalg.norm(r.U[9]) < 3 * np.linalg.norm(r.U, axis=1).max()


def test_a_coherent_matrix_is_not_claimed(backend):
    """A single large entry that is not observed cannot be known: the residual is 0, the matrix is
    wrong, and nothing in `info` says that it was recovered."""
    X = np.zeros((30, 30))
    X[3, 4] = 1.0
    seen = observed(X, 450)
    dense = np.where(mask(seen), X, np.nan)
    dense[3, 4] = np.nan
    r = lowla.complete(dense, 1)
    assert r.info.rmse == 0.0
    assert r.info.rank == 0
    assert error(r, X) == 1.0
    assert "recover" not in repr(r)
    assert "not ruled out" in repr(r)


# --- forms, symmetries, dtypes --------------------------------------------------------------------


@pytest.mark.core
def test_forms_of_the_same_observations(backend):
    X = low_rank(30, 20, 2)
    M = observed(X, 350)
    reference = lowla.complete(M, 2, tol=TIGHT).toarray()
    dense = np.where(mask(M), X, np.nan)
    shuffled = M.tocoo()
    order = np.random.default_rng(0).permutation(M.nnz)
    shuffled = sp.coo_array(
        (shuffled.data[order], (shuffled.row[order], shuffled.col[order])), shape=M.shape
    )
    forms = [dense, np.ma.masked_invalid(dense), np.ma.MaskedArray(X, ~mask(M)), shuffled]
    forms += [M.asformat(name) for name in ("csc", "coo", "lil", "dok")]
    forms += [sp.csr_matrix(M), np.asfortranarray(dense)]
    for form in forms:
        found = lowla.complete(form, 2, tol=TIGHT).toarray()
        assert_allclose(found, reference, atol=1e-9)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast_row"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_layouts(backend, layout, dtype):
    X = low_rank(30, 20, 2)
    dense = np.where(mask(observed(X, 350)), X, np.nan).astype(dtype)
    r = lowla.complete(LAYOUTS[layout](dense), 2)
    assert r.U.dtype == r.V.dtype == dtype
    assert error(r, X) < max(1e-6, 100 * eps(dtype))


def test_stored_zeros_are_observed(backend):
    """In every format that stores them, diagonals among them."""
    X = low_rank(20, 15, 2)
    X[:, 4] = 0.0
    M = observed(X, 250)
    assert (M.data == 0.0).any()
    for form in (M, M.tocsc(), M.tocoo(), M.tobsr((4, 3))):
        r = lowla.complete(form, 2, reg=1e-9)
        assert np.abs(r.toarray()[:, 4]).max() < 1e-6
    diagonals = sp.dia_array(([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [0, 1]), shape=(3, 3))
    r = lowla.complete(diagonals, 2, reg=1e-3)
    assert r.info.components == 1
    assert (r.info.rows_undetermined, r.info.cols_undetermined) == (1, 1)


def test_integers_and_duplicates(backend):
    X = np.add.outer(np.arange(6), np.arange(5))
    assert lowla.complete(X, 2).U.dtype == np.float64
    i, j = (x.ravel() for x in np.indices(X.shape))
    twice = sp.coo_array(
        (np.tile(X.ravel(), 2) + np.repeat([1.0, -1.0], X.size), (np.tile(i, 2), np.tile(j, 2)))
    )
    r = lowla.complete(twice, 2, duplicates="mean", tol=TIGHT)
    assert_allclose(r.toarray(), X, atol=1e-9)
    csr = sp.csr_array(([1.0, 3.0, 2.0], [0, 0, 1], [0, 2, 3]), shape=(2, 2))
    assert lowla.complete(csr, 1, duplicates="mean").predict(0, 0) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"got several for \(0, 0\): pass duplicates='mean'"):
        lowla.complete(csr, 1)


@pytest.mark.core
@given(seed=st.integers(0, 2**16))
def test_permutation_transposition_and_scale(backend, seed):
    """Determined problems have one answer, whatever the order and the units."""
    X = low_rank(40, 30, 2, seed)
    M = observed(X, 8 * freedom(40, 30, 2), seed)
    if not lowla.complete(M, 2, reg=1.0).info.identifiable:
        return
    rng = np.random.default_rng(seed)
    p, q = rng.permutation(40), rng.permutation(30)
    base = quietly(M, 2, reg=0.05, tol=TIGHT).toarray()
    assert_allclose(quietly(M[p][:, q], 2, reg=0.05, tol=TIGHT).toarray(), base[p][:, q], atol=1e-8)
    assert_allclose(quietly(M.T, 2, reg=0.05, tol=TIGHT).toarray(), base.T, atol=1e-8)
    for scale in (1e-3, 1e100, 1e-150):
        r = quietly(M * scale, 2, reg=0.05 * scale, tol=TIGHT)
        assert_allclose(r.toarray() / scale, base, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_units(backend, scale):
    X = low_rank(40, 30, 2)
    M = observed(X, 8 * freedom(40, 30, 2)) * scale
    r = lowla.complete(M, 2, tol=1e-11)
    assert np.linalg.norm(r.toarray() / scale - X) < 1e-9 * np.linalg.norm(X)
    assert r.info.rmse <= 1e-9 * scale
    s = lowla.soft_impute(M, 0.5 * scale)
    assert_allclose(s.toarray() / scale, lowla.soft_impute(M / scale, 0.5).toarray(), atol=1e-6)


def test_float32(backend):
    """Recovery to the rounding of the data; never NaN."""
    X = low_rank(100, 80, 3)
    M = observed(X, 6 * freedom(100, 80, 3)).astype(np.float32)
    for options in ({}, {"solver": "cg"}, {"loss": "l1"}, {"bias": True}):
        r = lowla.complete(M, 3, **options)
        assert r.U.dtype == np.float32
        assert r.predict([0], [0]).dtype == np.float32
        assert error(r, X) < 100 * eps("float32")


def test_torch_tensors(backend):
    torch = pytest.importorskip("torch")
    X = low_rank(20, 15, 2)
    dense = torch.tensor(np.where(mask(observed(X, 250)), X, np.nan))
    r = lowla.complete(dense, 2)
    assert isinstance(r.U, torch.Tensor)
    assert isinstance(r.toarray(), torch.Tensor)
    assert_allclose(np.asarray(r.toarray()), X, atol=1e-6)


@pytest.mark.core
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 14),
    n=st.integers(1, 14),
    part=st.floats(0.0, 1.0),
    kind=st.sampled_from(["gauss", "zero", "constant", "rank1", "spike"]),
    options=st.sampled_from(
        [
            {},
            {"solver": "cg"},
            {"loss": "l1"},
            {"bias": True},
            {"nonnegative": True},
            {"method": "scaled_gd"},
            {"reg": 0.3},
            {"init": "random"},
        ]
    ),
)
def test_always_finite_and_truthful(backend, seed, m, n, part, kind, options):
    rng = np.random.default_rng(seed)
    X = {
        "gauss": rng.standard_normal((m, n)),
        "zero": np.zeros((m, n)),
        "constant": np.full((m, n), 3.0),
        "rank1": np.outer(rng.standard_normal(m), rng.standard_normal(n)),
        "spike": np.where(np.arange(m * n).reshape(m, n) == 0, 1e6, 1.0),
    }[kind]
    M = observed(X, 1 + part * (m * n - 1), seed % 1000)
    k = int(rng.integers(1, min(m, n) + 1))
    r = quietly(M, k, n_iter=30, rng=0, **options)
    assert np.isfinite(r.toarray()).all()
    R = (r.toarray() - M.toarray())[mask(M)]
    assert r.info.rmse == pytest.approx(
        np.sqrt(np.mean(R**2)), rel=1e-6, abs=tol(float, k) * np.abs(X).max() * 100
    )
    assert len(r.info.history) == r.info.sweeps <= 30
    counts = mask(M).sum(1), mask(M).sum(0)
    found = r.info.rows_undetermined, r.info.cols_undetermined
    assert found == tuple(int((c < k).sum()) for c in counts)
    if r.info.converged and "reg" not in options:
        longer = quietly(M, k, n_iter=30, rng=0, **{**options, "init": r})
        moved = np.linalg.norm(longer.toarray() - r.toarray())
        assert moved <= 0.1 * max(np.linalg.norm(X), 1e-300) or not r.info.identifiable


def test_does_not_depend_on_the_number_of_threads(backend):
    X = low_rank(700, 500, 4)
    M = observed(X, 60_000, power=0.5)
    for options in ({}, {"solver": "cg"}, {"loss": "l1"}):
        found = with_1_2_and_7_threads(
            lambda o=options: quietly(M, 4, n_iter=4, init="random", rng=0, **o)
        )
        for r in found[1:]:
            assert_array_equal(r.U, found[0].U)
            assert_array_equal(r.V, found[0].V)


@pytest.mark.parametrize("power", [0.0, 0.9])
def test_chunks_have_equal_numbers_of_entries(power):
    """Also where a few rows hold most of them."""
    M = observed(np.ones((3000, 400)), 200_000, power=power)
    rows, cols = patterns.layouts((M.indptr, M.indices, M.data, M.shape), None)
    for side in (rows, cols):
        chunks = side.chunks()
        assert [first for first, _ in chunks[1:]] == [last for _, last in chunks[:-1]]
        assert (chunks[0][0], chunks[-1][1]) == (0, len(side.counts))
        sizes = [side.indptr[last] - side.indptr[first] for first, last in chunks]
        assert max(sizes) <= 2 * M.nnz / len(chunks) + side.counts.max()
        assert len(chunks) > 10


# --- options --------------------------------------------------------------------------------------


def test_holdout(backend):
    """The drawn part is not fitted; the same int draws the same; its error is that of predict."""
    X = low_rank(60, 50, 2)
    M = observed(X, 1500)
    M.data += 0.1 * np.random.default_rng(0).standard_normal(M.nnz)
    r = lowla.complete(M, 2, holdout=0.2, rng=5)
    drawn = lowla._backend.load("numba").completion_holdout(
        (M.indptr, M.indices, M.data, M.shape), 0.2, lowla._rng.philox_key(5)
    )
    part = np.mean(drawn)
    assert abs(part - 0.2) < 5 * np.sqrt(0.2 * 0.8 / M.nnz)
    coo = M.tocoo()
    R = (r.predict(coo.row, coo.col) - M.data)[drawn]
    assert r.info.holdout_rmse == pytest.approx(np.sqrt(np.mean(R**2)))
    assert r.info.rmse < 0.1 < r.info.holdout_rmse < 0.2
    changed = M.copy()
    changed.data[drawn] = 1e6  # what is held out has no influence
    assert_array_equal(lowla.complete(changed, 2, holdout=0.2, rng=5).U, r.U)
    assert np.isnan(lowla.complete(M, 2).info.holdout_rmse)


def test_rank_by_holdout(backend):
    for k, noise in ((1, 0.05), (3, 0.05), (4, 0.0)):
        X = low_rank(80, 60, k, seed=k)
        M = observed(X, 12 * freedom(80, 60, k))
        M.data += noise * np.random.default_rng(0).standard_normal(M.nnz)
        r = quietly(M, "auto", rng=0)
        assert r.U.shape == (80, k)
        assert r.info.k == k
        assert r.info.holdout_rmse < max(2 * noise, 1e-3)
        assert quietly(M, "auto", holdout=0.2, rng=0).U.shape == (80, k)


def test_warm_start(backend):
    X = low_rank(100, 80, 3)
    M = observed(X, 5 * freedom(100, 80, 3))
    cold = lowla.complete(M, 3, tol=1e-9)
    for start in (cold, (cold.U, cold.V)):
        warm = lowla.complete(M, 3, tol=1e-9, init=start)
        assert warm.info.sweeps < cold.info.sweeps / 4
        assert error(warm, X) < 1e-8
    shifted = sp.csr_array((M.data + 7.0, M.indices, M.indptr), shape=M.shape)
    cold = lowla.complete(shifted, 3, bias=True, tol=1e-9)
    warm = lowla.complete(shifted, 3, bias=True, tol=1e-9, init=cold)
    assert warm.info.sweeps < cold.info.sweeps / 4


@pytest.mark.parametrize("function", ["complete", "soft_impute"])
def test_callback_limits_and_warnings(backend, function):
    X = low_rank(60, 50, 3)
    M = observed(X, 1500)
    call = {
        "complete": lambda **o: lowla.complete(M, 3, **o),
        "soft_impute": lambda **o: lowla.soft_impute(M, 0.1, tol=1e-12, **o),
    }[function]
    seen = []
    stopped = call(callback=lambda info: seen.append(info) or len(seen) == 2)
    assert [info.sweeps for info in seen] == [1, 2]
    assert seen[1].rmse < seen[0].rmse
    assert stopped.info.sweeps == 2
    assert not stopped.info.converged
    assert stopped.info.history == tuple(info.rmse for info in seen)
    with pytest.warns(lowla.ConvergenceWarning, match=f"{function} stopped after 1 "):
        r = call(n_iter=1)
    assert r.info.sweeps == 1
    with pytest.raises(KeyError):
        call(callback=lambda info: {}["missing"])


def test_progress(backend, capsys):
    pytest.importorskip("tqdm")
    lowla.complete(observed(low_rank(20, 15, 1), 200), 1, progress=True)
    assert "complete" in capsys.readouterr().err


def test_ctrl_c(backend):
    """An interrupt in the middle ends the call, and nothing is left behind."""
    script = f"""
import signal, time, numpy as np, scipy.sparse as sp, lowla
lowla.set_backend({backend!r})
M = sp.random_array((3000, 2000), density=0.05, rng=0).tocsr()
lowla.complete(M[:50, :40], 1, reg=1.0)
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.5)
start = time.perf_counter()
try:
    lowla.complete(M, 10, n_iter=100000, tol=1e-15)
except KeyboardInterrupt:
    print("interrupted" if time.perf_counter() - start < 60 else "late")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "interrupted"


# --- the result -----------------------------------------------------------------------------------


def test_result(backend):
    X = low_rank(30, 20, 2)
    M = observed(X, 400)
    r = lowla.complete(M, 2, tol=1e-11)
    U, V = r
    assert U is r.U
    assert V is r.V
    assert (U.shape, V.shape) == ((30, 2), (20, 2))
    assert (r.mean, r.row_bias, r.col_bias) == (0.0, None, None)
    assert_allclose(r.toarray(), U @ V.T, atol=tol(float, 2) * 10)
    i, j = np.arange(5)[:, None], np.arange(7)
    assert_allclose(r.predict(i, j), X[:5, :7], atol=1e-8)
    assert r.predict(3, [1, 2]).shape == (2,)
    assert r.predict(3, 4).shape == ()
    assert r.predict([], []).shape == (0,)
    for again in (pickle.loads(pickle.dumps(r)), copy.deepcopy(r)):
        assert_array_equal(again.toarray(), r.toarray())
        assert repr(again) == repr(r)
    assert repr(r).startswith("CompletionResult: U (30, 2), V (20, 2), float64")
    with pytest.raises(AttributeError, match="read-only"):
        r.info = None


@pytest.mark.parametrize("bias", [False, True])
def test_svd_of_the_factors(backend, bias):
    X = low_rank(40, 30, 3, cond=20.0)
    r = lowla.complete(observed(X, 1000), 3, bias=bias)
    s = r.svd()
    assert_allclose((s.U * s.S) @ s.Vh, r.U @ r.V.T, atol=tol(float, 40) * 40)
    assert_allclose(s.S, np.linalg.svd(r.U @ r.V.T)[1][:3], rtol=tol(float, 40, 20.0))
    assert_allclose(s.U.T @ s.U, np.eye(3), atol=tol(float, 40))
    assert_allclose(s.Vh @ s.Vh.T, np.eye(3), atol=tol(float, 40))
    # the returned factors are balanced
    assert_allclose(r.U.T @ r.U, np.diag(s.S), atol=tol(float, 40) * s.S[0])
    assert_allclose(r.V.T @ r.V, np.diag(s.S), atol=tol(float, 40) * s.S[0])


def test_top(backend):
    X = low_rank(30, 20, 2)
    M = observed(X, 400)
    r = lowla.complete(M, 2, tol=1e-11)
    cols, scores = r.top(4, 5)
    assert_array_equal(cols, np.argsort(-X[4])[:5])
    assert_allclose(scores, np.sort(X[4])[::-1][:5], atol=1e-8)
    cols, _ = r.top(4, 20, exclude_observed=True)
    unseen = np.flatnonzero(~mask(M)[4])
    assert_array_equal(cols, unseen[np.argsort(-X[4, unseen])])


def test_bad_indices(backend):
    r = lowla.complete(np.ones((4, 3)), 1)
    for call, message in (
        (lambda: r.predict([0, 4], 0), "rows must be in 0..3, got 4"),
        (lambda: r.predict(-1, 0), "rows must be in 0..3, got -1"),
        (lambda: r.predict(0, [[3]]), "cols must be in 0..2, got 3"),
        (lambda: r.top(4, 1), "row must be in 0..3, got 4"),
    ):
        with pytest.raises(IndexError) as caught:
            call()
        assert str(caught.value) == message
    with pytest.raises(TypeError, match="rows must be integers, got dtype float64"):
        r.predict(0.5, 0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        r.top(0, 0)
    with pytest.raises(TypeError, match="row must be an int, got float"):
        r.top(0.0, 1)


# --- the example ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ratings.csv", "ratings.dat", "u.data"])
def test_movielens_example(backend, tmp_path, capsys, form):
    """The example reads the three formats and recommends what the user has not rated."""
    rng = np.random.default_rng(0)
    scores = np.clip(np.round(3 + low_rank(40, 30, 1)), 1, 5)
    lines = ["userId,movieId,rating,timestamp"] if form == "ratings.csv" else []
    between = {"ratings.csv": ",", "ratings.dat": "::", "u.data": "\t"}[form]
    for i, j in zip(*np.nonzero(rng.random(scores.shape) < 0.6), strict=True):
        lines.append(between.join(map(str, (i + 1, 10 * j + 3, scores[i, j], 0))))
    path = tmp_path / form
    path.write_text("\n".join(lines) + "\n")
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "movielens.py"))
    example["main"]([str(path), "--rank", "1", "--user", "7", "--reg", "1"])
    shown = capsys.readouterr().out
    assert "40 users, 30 films" in shown
    assert "held-out RMSE 0." in shown
    films = [int(line.split()[1]) for line in shown.splitlines() if line.startswith("  film ")]
    rated = {int(x.split(between)[1]) for x in lines if x.startswith(f"7{between}")}
    assert 0 < len(films) <= 10
    assert not rated & set(films)
