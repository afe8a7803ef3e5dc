"""Matrix completion of the CUDA backend on its emulation (see test_cuda.py).

The passes over observed entries one by one against dense references, whole fits against the truth
and against the host's.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

import gpu_arrays
import lowla
import test_soft_impute as nuclear
from gpu_arrays import OnGpu, SparseOnGpu
from lowla._rng import philox_key
from observed_entries import low_rank, mask, observed
from strategies import LAYOUTS
from tolerances import eps, tol

EXACT = 1e-10  # relative error that counts as recovered
RANKS = [1, 3, 16, 33, 64, 130]  # those beyond 38 keep a row's matrix in device memory


def csr(M):
    return M.indptr, M.indices, M.data, M.shape


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lowla.ConvergenceWarning)
        return lowla.complete(*args, **options)


def error(r, X):
    return np.linalg.norm(np.asarray(r.toarray(), float) - X) / np.linalg.norm(X)


# --- passes over the rows -------------------------------------------------------------------------


class Rows:
    """Rows of 0, 1, about k, about 3 k and thousands of entries, and what they are regressed on."""

    def __init__(self, k, dtype="float64", weighted=False, offset=False, seed=0):
        rng = np.random.default_rng(seed)
        self.k, n = k, 2500
        counts = [0, 1, max(k - 1, 0), k, k + 1, 3 * k, n, 0, min(k, 5), 2 * k]
        cols = [np.sort(rng.choice(n, count, replace=False)) for count in counts]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        data = rng.standard_normal(indptr[-1]).astype(dtype)
        self.M = sp.csr_array((data, np.concatenate(cols), indptr), (len(counts), n))
        self.weights = rng.uniform(0.25, 4.0, self.M.nnz) if weighted else None
        self.offset = rng.standard_normal(n) if offset else None
        self.F = rng.standard_normal((n, k))
        self.U = rng.standard_normal((len(counts), k))

    def __iter__(self):
        """A_i and y_i of each row, weighted: its regressors and what they are to be."""
        for i in range(self.M.shape[0]):
            at = slice(self.M.indptr[i], self.M.indptr[i + 1])
            j = self.M.indices[at]
            y = self.M.data[at].astype(float) - (0.0 if self.offset is None else self.offset[j])
            root = np.ones(len(j)) if self.weights is None else np.sqrt(self.weights[at])
            yield root[:, None] * self.F[j], root * y

    def run(self, emulated, which, parameter=0.0, transposed=False):
        M, weights = self.M, self.weights
        if transposed:  # the entries by columns are those of M by rows
            order = sp.csr_array((np.arange(M.nnz), M.indices, M.indptr), M.shape).T.tocsr()
            weights = None if weights is None else weights[order.data]
            M = sp.csr_array((M.data[order.data], order.indices, order.indptr), order.shape)
        return emulated.completion_rows(
            which, csr(M), weights, transposed, self.F, self.offset, self.U, parameter
        )


def cases(k):
    """Values, weights and offsets of every kind at a small rank, one mixture at others."""
    if k == 3:
        return [Rows(k, dtype, w, o) for dtype in ("f4", "f8") for w in (0, 1) for o in (0, 1)]
    return [Rows(k, "f4"), Rows(k, "f8", True, True)]


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 10.0])
@pytest.mark.parametrize("k", RANKS)
def test_emulated_rows_are_ridge_regressions(emulated, k, ridge):
    """Of least norm without a ridge. The normal equations square the condition number, and the
    row's sum of squares is a difference from that of y."""
    for rows in cases(k):
        u, left = rows.run(emulated, "exact", ridge)
        total, allowed = 0.0, 0.0
        for i, (A, y) in enumerate(rows):
            if not len(y):
                assert not u[i].any()
                continue
            s = np.linalg.svd(A, compute_uv=False)
            cond = (s[0] ** 2 + ridge) / (s[-1] ** 2 + ridge)
            stacked = np.vstack([A, np.sqrt(ridge) * np.eye(k)])
            expected = np.linalg.lstsq(stacked, np.append(y, np.zeros(k)), rcond=None)[0]
            bound = tol(float, k + len(y), cond)
            assert bound < 0.1
            assert np.linalg.norm(u[i] - expected) <= bound * np.linalg.norm(expected)
            total += np.sum((A @ expected - y) ** 2)
            allowed += bound * np.sum(y**2)
        assert abs(left - total) <= allowed
        again, left_again = rows.run(emulated, "exact", ridge, transposed=True)
        assert_array_equal(again, u)
        assert left_again == left


def test_emulated_columns_of_different_sizes(emulated):
    """The shift of the diagonal, 16 eps of the trace, is large beside small columns: the step of
    refinement squares what it costs. Elimination itself does not see the scale of columns."""
    rows, scale = Rows(3, weighted=True), np.array([1.0, 1e-4, 1e-4])
    rows.F *= scale
    u, _ = rows.run(emulated, "exact")
    for i, (A, y) in enumerate(rows):
        if len(y) >= 3:
            expected = np.linalg.lstsq(A / scale, y, rcond=None)[0]
            s = np.linalg.svd(A / scale, compute_uv=False)
            shift = 16 * eps(float) * np.sum(A**2) / (1e-4 * s[-1]) ** 2
            bound = tol(float, 3 + len(y), (s[0] / s[-1]) ** 2) + 3 * shift**2
            assert bound < 0.1 * shift or len(y) > 100
            assert np.linalg.norm(u[i] * scale - expected) <= bound * np.linalg.norm(expected)


def test_emulated_singular_rows_are_finite(emulated):
    """A repeated column of F, a zero F, and one of rank 1: zero pivots give zeros."""
    rows = Rows(3)
    x = rows.F[:, :1].copy()
    rows.k, rows.F = 1, x
    rows.U = np.zeros((len(rows.U), 1))
    best, _ = rows.run(emulated, "exact")
    rows.U = np.zeros((len(rows.U), 3))
    for F in (np.hstack([x, x, x]), np.zeros((len(x), 3)), np.hstack([x, 0 * x, 1e-200 * x])):
        rows.F = F
        for which in ("exact", "cg"):
            u, _ = rows.run(emulated, which)
            assert np.isfinite(u).all()
            if F.any() and which == "exact":
                # Two entries make the matrix of the dual singular, which it need not be here.
                full = np.diff(rows.M.indptr) != 2
                assert_allclose(u[full] @ F.T, best[full] @ x.T, atol=1e-6)


def conjugate_gradients(A, y, u, ridge, steps):
    """u after some steps, preconditioned by the diagonal, and ||A u - y||^2; in long doubles.

    With one unknown the first step ends at the solution.
    """
    A, y, u = (np.asarray(x, np.longdouble) for x in (A, y, u))
    r = A.T @ (y - A @ u) - ridge * u
    d = 1 / (np.sum(A**2, axis=0) + ridge)
    x, rz = d * r, r @ (d * r)
    for _ in range(min(steps, len(u))):
        q = A.T @ (A @ x) + ridge * x
        alpha = rz / (x @ q)
        u, r, before = u + alpha * x, r - alpha * q, rz
        rz = r @ (d * r)
        x = d * r + rz / before * x
    return u, np.sum((A @ u - y) ** 2)


def test_emulated_vectors_of_a_large_rank_are_in_device_memory(emulated):
    """The passes above where the vectors of a row do not fit in shared memory."""
    m, n, k = 3, 20, 5200
    rng = np.random.default_rng(0)
    M = observed(rng.standard_normal((m, n)), m * n)
    F, U = rng.standard_normal((n, k)), rng.standard_normal((m, k))
    gradient, _ = emulated.completion_rows("gradient", csr(M), None, False, F, None, U, 0.0)
    r = M.toarray() - U @ F.T
    size = np.abs(U).sum(axis=1).max() * np.abs(F).max() ** 2 * n
    assert_allclose(gradient, r @ F, rtol=0, atol=tol(float, 1) * size)
    u, _ = emulated.completion_rows("cg", csr(M), None, False, F, None, U, 10.0)
    for i in range(m):
        expected, _ = conjugate_gradients(F, M.toarray()[i], U[i], 10.0, 2)
        distance = np.linalg.norm(np.asarray(u[i] - expected, float))
        assert distance <= tol(float, k + n) * np.linalg.norm(U[i])


@pytest.mark.parametrize("ridge", [0.0, 1e-2, 10.0])
@pytest.mark.parametrize("k", RANKS)
def test_emulated_conjugate_gradients_are_two_steps(emulated, k, ridge):
    """Rows up to 16 entries, or k without a ridge, are regressed exactly; of the others every sum
    is one of at most `entries` terms, and rounds as such."""
    longest = min(k - 1, 16) if ridge else k - 1
    for rows in cases(k):
        u, left = rows.run(emulated, "cg", ridge)
        exact, _ = rows.run(emulated, "exact", ridge)
        total = allowed = 0.0
        for i, (A, y) in enumerate(rows):
            if len(y) <= longest:
                assert_array_equal(u[i], exact[i])
                total += np.sum((A @ u[i] - y) ** 2)
                allowed += tol(float, k + len(y), 1e3) * np.sum(y**2)
                continue
            expected, squares = conjugate_gradients(A, y, rows.U[i], ridge, 2)
            size = np.linalg.norm(rows.U[i]) + np.linalg.norm(np.asarray(expected, float))
            bound = tol(float, k + len(y))
            assert np.linalg.norm(np.asarray(u[i] - expected, float)) <= bound * size
            total += float(squares)
            allowed += bound * np.sum((A @ rows.U[i] - y) ** 2)
            allowed += bound * ridge * size**2
        assert abs(left - total) <= allowed
        assert_array_equal(rows.run(emulated, "cg", ridge, transposed=True)[0], u)


def test_two_steps_of_conjugate_gradients_are_not_exact(emulated):
    """What the comparison above would say of another number of steps."""
    rows = Rows(16)
    u, _ = rows.run(emulated, "cg", 10.0)
    for i, (A, y) in enumerate(rows):
        if len(y) > 16:
            for steps in (1, 3):
                other, _ = conjugate_gradients(A, y, rows.U[i], 10.0, steps)
                distance = np.linalg.norm(np.asarray(u[i] - other, float))
                assert distance > 100 * tol(float, 2600) * np.linalg.norm(u[i])


@pytest.mark.parametrize("k", [1, 3, 16, 64, 300])
def test_emulated_residuals_and_gradients(emulated, k):
    """Each residual is a sum of k + 1 terms, each gradient one over the entries of a row."""
    for rows in cases(k):
        found, squares = rows.run(emulated, "residuals")
        gradient, squares_again = rows.run(emulated, "gradient")
        expected, bounds, total = [], [], 0.0
        for i, (A, y) in enumerate(rows):
            r = y - A @ rows.U[i]
            rounding = tol(float, k + 1) * (np.abs(A) @ np.abs(rows.U[i]) + np.abs(y))
            allowed = np.abs(A).T @ (rounding + tol(float, len(y)) * np.abs(r))
            assert np.all(np.abs(gradient[i] - A.T @ r) <= allowed)
            expected.append(r)
            bounds.append(rounding)
            total += np.sum(r**2)
        roots = 1.0 if rows.weights is None else np.sqrt(rows.weights)
        assert np.all(np.abs(roots * found - np.concatenate(expected)) <= np.concatenate(bounds))
        assert squares == squares_again == pytest.approx(total, rel=tol(float, rows.M.nnz))


def test_emulated_robust_weights(emulated):
    """w / max(|r|, delta) in place of w; the residuals have none."""
    delta = 0.5
    for rows in cases(3):
        r, _ = rows.run(emulated, "residuals")
        again, squares = rows.run(emulated, "reweighted", delta)
        assert_array_equal(again, r)
        w = 1.0 if rows.weights is None else rows.weights
        assert np.abs(r).min() < delta < np.abs(r).max()
        expected = np.sum(w * r**2 / np.maximum(np.abs(r), delta))
        assert squares == pytest.approx(expected, rel=tol(float, len(r)))


@pytest.mark.parametrize("k", [1, 3, 16, 64])
def test_emulated_nonnegative_rows_are_optimal(emulated, k):
    """u >= 0 with slope 0 where u > 0, else slope <= 0. The last cycle moved no coordinate by more
    than 1e-14 of the largest, and each moves the slopes by a row of the Gram matrix."""
    ridge = 2.0 * k
    for rows in cases(k):
        rows.U = np.abs(rows.U)
        u, _ = rows.run(emulated, "nonnegative", ridge)
        assert (u >= 0).all()
        assert k == 1 or (u == 0).any()
        for i, (A, y) in enumerate(rows):
            G = A.T @ A + ridge * np.eye(k)
            slope = A.T @ y - G @ u[i]
            rounding = tol(float, k + len(y)) * (np.abs(A).T @ np.abs(y) + np.abs(G) @ u[i])
            allowed = 1e-13 * np.abs(G).sum(axis=1) * u[i].max(initial=0.0) + rounding
            assert np.all(slope <= allowed)
            assert np.all(np.abs(slope[u[i] > 0]) <= allowed[u[i] > 0])


# --- whole fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "exact"},
        {"solver": "cg"},
        {"method": "scaled_gd", "n_iter": 2000},
        {"loss": "l1"},
        {"init": "random"},
    ],
)
@pytest.mark.parametrize("k", [2, 3])
def test_emulated_incoherent_targets_are_recovered(emulated, k, options):
    for seed in range(4):
        X = low_rank(60, 50, k, seed)
        M = observed(X, 6 * k * (110 - k), seed)
        r = lowla.complete(M, k, tol=1e-12, rng=seed, **options)
        assert r.info.converged
        assert error(r, X) <= EXACT
        assert r.info.rank == k


def test_emulated_too_few_entries_are_not_recovered(emulated):
    """Below the degrees of freedom nothing can: what the test above would say if all passed."""
    X = low_rank(60, 50, 3)
    assert error(quietly(observed(X, 0.9 * 3 * 107), 3, n_iter=40), X) > 1e-3


OPTIONS = [
    {},
    {"solver": "cg"},
    {"method": "scaled_gd", "reg": 0.1},
    {"weighted": True},
    {"weighted": True, "solver": "cg", "reg": 0.02},
    {"bias": True},
    {"bias": True, "loss": "l1", "weighted": True},
    {"loss": "l1"},
    {"nonnegative": True},
    {"init": "random"},
    {"k": 40, "solver": "exact"},
    {"k": 40, "solver": "cg", "reg": 0.1},
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_emulated_sweeps_are_the_hosts(emulated, host, options, dtype):
    """Three sweeps over noisy entries: each rmse is a sum over the entries, and differs by its
    rounding and that of the regressions before, of condition 1e3 at most; factors of a float32
    matrix are rounded to it."""
    chosen = {
        "k": 3,
        "method": "altmin",
        "loss": "l2",
        "solver": "auto",
        "bias": False,
        "nonnegative": False,
        "reg": 0.0,
        "init": "spectral",
        **options,
    }
    weighted = chosen.pop("weighted", False)
    rng = np.random.default_rng(0)
    M = observed(low_rank(70, 60, 3) + 0.1 * rng.standard_normal((70, 60)) + 0.5, 2000)
    M = sp.csr_array((M.data.astype(dtype), M.indices, M.indptr.astype(np.int64)), M.shape)
    w = rng.uniform(0.1, 2.0, M.nnz) if weighted else None

    def fit(backend):
        return backend.complete(
            csr(M),
            w,
            chosen["k"],
            chosen["method"],
            chosen["loss"],
            chosen["solver"],
            chosen["bias"],
            chosen["nonnegative"],
            chosen["reg"],
            3,
            1e-12,
            chosen["init"],
            None,
            None,
            7,
            True,
            None,
        )

    U, V, mean, a, b, facts = fit(emulated)
    host_U, host_V, host_mean, host_a, host_b, expected = fit(host)
    bound = tol(float, M.nnz, 1e3)
    assert_allclose(facts["history"], expected["history"], rtol=bound)
    assert mean == pytest.approx(host_mean, rel=bound)
    rounding = bound + 4 * eps(dtype)
    largest = np.abs(host_U @ host_V.T).max()
    assert_allclose(U @ V.T, host_U @ host_V.T, rtol=0, atol=rounding * largest)
    for ours, theirs in ((a, host_a), (b, host_b)):
        assert (ours is None) == (theirs is None) == (not chosen["bias"])
        if ours is not None:
            assert ours.dtype == dtype
            assert_allclose(ours, theirs, rtol=0, atol=rounding * np.abs(theirs).max())
    assert U.dtype == V.dtype == dtype
    assert facts["rmse"] == pytest.approx(expected["rmse"], rel=bound + eps(dtype))
    same = ("solver", "rank", "sweeps", "components", "rows_undetermined", "cols_undetermined")
    for name in same:
        assert facts[name] == expected[name], name


@pytest.mark.parametrize("options", [{}, {"solver": "cg"}, {"loss": "l1"}], ids=str)
def test_emulated_results_do_not_change_from_run_to_run(emulated, options):
    M = observed(low_rank(60, 50, 3), 1500)
    first, second = (quietly(M, 3, n_iter=4, rng=0, **options) for _ in range(2))
    assert_array_equal(first.U, second.U)
    assert first.info.history == second.info.history


def test_emulated_weights_of_zero_and_short_rows(emulated):
    """A row and a column without entries, and rows with fewer than k, are zero or of least norm."""
    X = low_rank(40, 30, 3)
    M = observed(X, 800).tolil()
    M[5], M[:, 7], M[9] = 0, 0, 0
    M[9, 0] = X[9, 0]
    M = M.tocsr()
    M.eliminate_zeros()
    r = quietly(M, 3, tol=1e-10)
    assert not r.U[5].any()
    assert not r.V[7].any()
    assert r.info.rows_undetermined >= 2
    assert not r.info.identifiable
    weights = mask(M) * np.where(np.arange(30) == 3, 0.0, 1.0)
    assert not quietly(M, 3, weights=weights).V[3].any()


def test_emulated_warm_starts(emulated):
    X = low_rank(60, 50, 3)
    M = observed(X, 1500)
    cold = lowla.complete(M, 3, tol=1e-10)
    warm = lowla.complete(M, 3, tol=1e-10, init=cold)
    assert warm.info.sweeps < cold.info.sweeps / 2
    given = lowla.complete(M, 3, tol=1e-10, init=(cold.U, cold.V))
    assert given.info.history == warm.info.history
    biased = lowla.complete(M, 2, bias=True, init=lowla.complete(M, 2, bias=True))
    assert biased.row_bias.shape == (60,)


def test_emulated_fits_end_where_they_are_asked_to(emulated):
    M = observed(low_rank(60, 50, 3), 1500)
    seen = []
    r = lowla.complete(M, 3, callback=lambda info: seen.append(info.rmse) or len(seen) == 4)
    assert r.info.sweeps == 4
    assert r.info.history == tuple(seen)
    with pytest.warns(lowla.ConvergenceWarning, match="stopped after 2 sweeps"):
        r = lowla.complete(M, 3, n_iter=2)
    assert (r.info.sweeps, r.info.converged) == (2, False)
    assert lowla.complete(M, 3, tol=1e-2).info.sweeps < lowla.complete(M, 3).info.sweeps

    def callback(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lowla.complete(M, 3, callback=callback)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_emulated_not_finite_entries(emulated, value):
    M = observed(low_rank(30, 20, 2), 300)
    M.data[17] = value
    with pytest.raises(ValueError, match="M contains NaN or Inf"):
        lowla.complete(M, 2)
    r = lowla.complete(M, 2, check_finite=False)
    assert np.isnan(r.U).all()
    assert np.isnan(r.V).all()
    assert np.isnan(r.info.rmse)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("options", [{}, {"loss": "l1"}, {"solver": "cg"}], ids=str)
def test_emulated_units(emulated, scale, options):
    X = low_rank(40, 30, 2)
    M = observed(X, 1000)
    r = lowla.complete(M * scale, 2, tol=1e-11, **options)
    assert np.linalg.norm(r.toarray() / scale - X) <= 1e-9 * np.linalg.norm(X)
    assert r.info.rmse <= 1e-9 * scale
    options = {**options, "n_iter": 3, "rng": 0}
    # 2^900 is scaled to 1/2; the ridge of loss l1 goes with the root of the weights.
    plain, heavy = (quietly(M, 2, weights=mask(M) * w, **options) for w in (0.5, 2.0**900))
    assert_allclose(heavy.info.history, plain.info.history, rtol=tol(float, M.nnz))


def test_emulated_biases_need_a_usual_scale(emulated):
    M = observed(low_rank(30, 20, 2), 300) * 1e100
    with pytest.raises(ValueError, match=r"bias=True needs entries of M within 1e-60\.\.1e60"):
        lowla.complete(M, 2, bias=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_dense_layouts(emulated, layout):
    X = low_rank(20, 15, 1)
    X[mask(observed(X, 60, 1))] = np.nan
    plain = quietly(X, 1, n_iter=3, rng=0)
    if layout != "broadcast_row":
        assert_array_equal(quietly(LAYOUTS[layout](X), 1, n_iter=3, rng=0).U, plain.U)


@pytest.mark.parametrize("index", ["int32", "int64"])
def test_emulated_index_types(emulated, index):
    M = observed(low_rank(30, 20, 2), 300)
    parts = (M.indptr.astype(index), M.indices.astype(index), M.data, M.shape)
    options = (2, "altmin", "l2", "auto", False, False, 0.0, 3, 1e-9, "spectral")
    tail = (None, None, philox_key(0), True, None)
    U, *_ = emulated.complete(parts, None, *options, *tail)
    assert_array_equal(U, quietly(M, 2, n_iter=3, tol=1e-9, rng=0).U)


# --- what is asked of a model ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_emulated_holdout_is_the_hosts(emulated, host, dtype):
    M = observed(low_rank(60, 50, 2), 1500).astype(dtype)
    for part in (0.0, 0.1, 0.9):
        ours = emulated.completion_holdout(csr(M), part, 7)
        assert ours.dtype == bool
        assert_array_equal(ours, host.completion_holdout(csr(M), part, 7))
    r = lowla.complete(M, 2, holdout=0.1, rng=7)
    held = emulated.completion_holdout(csr(M), 0.1, philox_key(7))
    assert 0 < held.sum() < M.nnz
    i, j = M.tocoo().coords
    left = (M.data - r.predict(i, j))[held]
    rounding = eps(dtype) * float(np.abs(M.data).max())
    assert r.info.holdout_rmse == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-3, abs=rounding)
    assert lowla.complete(M, "auto", rng=0).info.k == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
def test_emulated_predictions_are_the_hosts(emulated, host, bias, dtype):
    """A prediction is a product of k + 2 terms, rounded to the dtype."""
    rng = np.random.default_rng(0)
    m, n, k = 40, 30, 5
    U, V, a, b = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (n, k), m, n))
    model = (U, V, 1.5, a, b) if bias else (U, V, 0.0, None, None)
    i, j = rng.integers(0, m, 999), rng.integers(0, n, 999)
    ours, theirs = (f.completion_predict(*model, i, j) for f in (emulated, host))
    assert ours.dtype == dtype
    size = np.abs(U).max() * np.abs(V).max() * k + 5
    assert_allclose(ours, theirs, rtol=eps(dtype), atol=tol(float, k + 2) * size)
    M = observed(rng.standard_normal((m, n)), 500).astype(dtype)
    for w in (None, rng.uniform(0.1, 2.0, M.nnz)):
        error = emulated.completion_rmse(csr(M), w, *model)
        expected = host.completion_rmse(csr(M), w, *model)
        assert error == pytest.approx(expected, rel=tol(float, M.nnz))
    for ours, theirs in zip(emulated.completion_svd(U, V), host.completion_svd(U, V), strict=True):
        assert ours.dtype == dtype
        assert_array_equal(ours, theirs)


def test_emulated_completion_refuses_what_does_not_fit(emulated):
    M = observed(low_rank(20, 15, 2), 150)
    indptr, indices, data, shape = csr(M)

    def complete(parts, weights=None, k=2, U0=None, V0=None):
        options = (k, "altmin", "l2", "auto", False, False, 0.0, 3, 1e-9, "spectral")
        return emulated.complete(parts, weights, *options, U0, V0, 0, True, None)

    negative, far, falling, late = indices.copy(), indices.copy(), indptr.copy(), indptr.copy()
    negative[3], far[3], falling[4], late[0] = -1, 15, 150, 1
    for broken in (
        (indptr, negative, data, shape),
        (indptr, far, data, shape),
        (falling, indices, data, shape),
        (late, indices, data, shape),
        (indptr[:-1], indices, data, shape),
        (indptr, indices[:-1], data, shape),
        (indptr, indices, data[:-1], shape),
    ):
        with pytest.raises(ValueError, match="M is not a valid CSR matrix"):
            complete(broken)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 rows and columns"):
        complete((indptr, indices, data, (20, 2**31)))
    with pytest.raises(TypeError, match="M must be float32 or float64"):
        complete((indptr, indices, data.astype(complex), shape))
    with pytest.raises(TypeError, match="M must be an array of numpy"):
        complete((indptr, list(indices), data, shape))
    with pytest.raises(TypeError, match="weights must be an array of numpy"):
        complete(csr(M), list(np.ones(M.nnz)))
    with pytest.raises(ValueError, match="weights must have one number for each entry"):
        complete(csr(M), np.ones(M.nnz - 1))
    for k in (0, 16):
        with pytest.raises(ValueError, match=r"k must be in 1\.\.min\(M\.shape\)"):
            complete(csr(M), k=k)
    empty = sp.csr_array((20, 15))
    with pytest.raises(ValueError, match="M must have observed entries"):
        complete(csr(empty))
    with pytest.raises(ValueError, match="a row for each row or column of M"):
        complete(csr(M), U0=np.ones((19, 2)), V0=np.ones((15, 2)))
    with pytest.raises(ValueError, match="U0 and V0 must have k columns"):
        complete(csr(M), U0=np.ones((20, 3)), V0=np.ones((15, 3)))


def test_emulated_model_refuses_what_does_not_fit(emulated):
    M = observed(low_rank(20, 15, 2), 150)
    U, V, at = np.ones((20, 2)), np.ones((15, 2)), np.zeros(1, np.int64)
    none = (0.0, None, None)
    for i, j in ((20, 0), (0, 15), (-1, 0), (0, -1)):
        with pytest.raises(IndexError, match="an index is out of range"):
            emulated.completion_predict(U, V, *none, at + i, at + j)
    with pytest.raises(ValueError, match="rows and cols must have as many indices"):
        emulated.completion_predict(U, V, *none, at, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="U and V must have as many columns"):
        emulated.completion_predict(U, V[:, :1], *none, at, at)
    with pytest.raises(ValueError, match="biases must have one number"):
        emulated.completion_predict(U, V, 0.0, np.ones(19), np.ones(15), at, at)
    with pytest.raises(TypeError, match="U must be float32 or float64"):
        emulated.completion_predict(U.astype(int), V, *none, at, at)
    with pytest.raises(TypeError, match="U must be an array of numpy"):
        emulated.completion_svd(U.tolist(), V)
    with pytest.raises(ValueError, match="a row for each row and column of M"):
        emulated.completion_rmse(csr(M), None, V, U, *none)


# --- arrays of the GPU ----------------------------------------------------------------------------


@pytest.fixture
def gpu(module, monkeypatch):
    """CuPy and the CUDA backend, as far as they are needed."""
    functions = {
        "complete": ({"U0", "V0"}, False),
        "completion_holdout": (set(), False),
        "completion_predict": (set(), False),
        "completion_rmse": (set(), False),
        "completion_svd": (set(), False),
        "soft_impute": (set(), False),
    }
    return gpu_arrays.install(module, functions, monkeypatch)


def forms(gpu, M):
    """The same observations in every form that the GPU has, and weights of 1 in it."""
    dense = np.where(mask(M), M.toarray(), np.nan)
    shuffled = sp.csr_array(M)
    for i in range(M.shape[0]):
        at = slice(M.indptr[i], M.indptr[i + 1])
        shuffled.indices[at], shuffled.data[at] = M.indices[at][::-1], M.data[at][::-1]
    shuffled.has_sorted_indices = False
    ones = gpu.asarray(np.ones(M.shape))
    yield gpu.asarray(dense), ones
    for held in (M, M.tocoo(), M.tocsc(), shuffled):
        yield SparseOnGpu(held), ones
    weights = sp.csr_array((np.ones(M.nnz), M.indices, M.indptr), M.shape)
    yield SparseOnGpu(M), SparseOnGpu(weights)


def test_emulated_gpu_arrays_stay_on_the_gpu(gpu):
    M = observed(low_rank(30, 20, 2), 400)
    for form, weights in forms(gpu, M):
        for options in ({}, {"weights": weights}, {"bias": True, "holdout": 0.1}):
            r = lowla.complete(form, 2, rng=0, **options)
            if "weights" in options:
                options["weights"] = np.ones(M.shape)
            plain = lowla.complete(M, 2, rng=0, **options)
            assert r.info.backend == "cuda"
            assert type(r.U) is type(r.V) is OnGpu
            assert type(r.predict([0, 1], [2, 3])) is OnGpu
            assert type(r.toarray()) is OnGpu
            assert (r.row_bias is None) or type(r.row_bias) is OnGpu
            assert error_on_gpu(r, plain) <= tol(float, 400) * np.abs(plain.toarray()).max()
    parts = r.svd()
    assert all(type(part) is OnGpu for part in parts)
    assert_allclose(parts.S.get(), plain.svd().S, rtol=1e-9)
    band = sp.dia_array((low_rank(9, 30, 1)[:, :20] + 3.0, np.arange(-4, 5)), (30, 20))
    r, plain = (quietly(A, 1, n_iter=3, rng=0) for A in (SparseOnGpu(band), band))
    assert error_on_gpu(r, plain) <= tol(float, 200) * np.abs(plain.toarray()).max()


def error_on_gpu(r, plain):
    return np.abs(r.toarray().get() - plain.toarray()).max()


def test_emulated_gpu_results_are_asked_as_on_the_host(gpu):
    M = observed(low_rank(30, 20, 2), 400)
    on_gpu, plain = lowla.complete(SparseOnGpu(M), 2, rng=0), lowla.complete(M, 2, rng=0)
    for exclude in (False, True):
        cols, scores = on_gpu.top(3, 5, exclude_observed=exclude)
        expected, values = plain.top(3, 5, exclude_observed=exclude)
        assert_array_equal(cols, expected)
        assert type(scores) is OnGpu
        assert_allclose(scores.get(), values, atol=1e-9)
    rows = gpu.asarray(np.array([[0], [5]]))
    expected = plain.predict([[0], [5]], [1, 2])
    assert_allclose(on_gpu.predict(rows, [1, 2]).get(), expected, atol=1e-9)
    with pytest.raises(IndexError, match=r"rows must be in 0\.\.29, got 30"):
        on_gpu.predict(30, 0)
    again = lowla.complete(SparseOnGpu(M), 2, init=on_gpu)
    assert again.info.sweeps < on_gpu.info.sweeps
    start = lowla.complete(SparseOnGpu(M), 2, bias=True, init=on_gpu)
    assert lowla.complete(SparseOnGpu(M), 2, bias=True, init=start).info.backend == "cuda"
    assert lowla.complete(SparseOnGpu(M), "auto", rng=0).info.k == 2


def test_emulated_duplicates_on_the_gpu(gpu):
    M = sp.coo_array(observed(low_rank(30, 20, 2), 400))
    i, j = np.concatenate([M.row, M.row[:50]]), np.concatenate([M.col, M.col[:50]])
    twice = np.concatenate([M.data, M.data[:50]])
    twice[:50] += 1.0
    twice[400:] -= 1.0
    double = sp.coo_array((twice, (i, j)), M.shape)
    with pytest.raises(ValueError, match="M must have one value for an entry, got several"):
        lowla.complete(SparseOnGpu(double), 2)
    r = lowla.complete(SparseOnGpu(double), 2, duplicates="mean", rng=0)
    assert error_on_gpu(r, lowla.complete(M, 2, rng=0)) < 1e-7


def test_emulated_weights_must_be_beside_the_matrix(gpu):
    M = observed(low_rank(30, 20, 2), 400)
    for there, weights in (
        (SparseOnGpu(M), np.ones(M.shape)),
        (SparseOnGpu(M), M),
        (M, gpu.asarray(np.ones(M.shape))),
        (M, SparseOnGpu(M)),
    ):
        with pytest.raises(TypeError, match="M and weights must both be in main memory or both"):
            lowla.complete(there, 2, weights=weights)
    with pytest.raises(ValueError, match="weights must be finite and at least 0, got -1"):
        lowla.complete(SparseOnGpu(M), 2, weights=gpu.asarray(-np.ones(M.shape)))
    with pytest.raises(ValueError, match="M contains Inf"):
        lowla.complete(gpu.asarray(np.full((4, 4), np.inf)), 2)


def test_emulated_host_arrays_go_to_the_gpu_and_back(gpu):
    M = observed(low_rank(30, 20, 2), 400)
    options = {"rng": 0, "weights": mask(M).astype(float), "bias": True, "holdout": 0.1}
    plain = lowla.complete(M, 2, **options)
    with lowla.use_backend("cuda"):
        r = lowla.complete(M, 2, **options)
        inside = r.toarray()
    assert r.info.backend == "cuda"
    assert type(r.U) is type(r.row_bias) is type(inside) is np.ndarray
    assert_array_equal(inside, r.toarray())
    assert np.abs(inside - plain.toarray()).max() < 1e-7
    assert r.svd().S.shape == (2,)
    cols, _ = r.top(3, 20, exclude_observed=True)
    assert not np.isin(cols, M.indices[M.indptr[3] : M.indptr[4]]).all()


# --- the nuclear norm


@pytest.fixture
def backend(emulated):
    """The name under which test_soft_impute.py finds the emulation."""
    return "native"


test_emulated_soft_impute = nuclear.test_soft_impute_is_the_convex_optimum
test_emulated_gap = nuclear.test_the_gap_bounds_the_suboptimality
test_emulated_soft_impute_limits = nuclear.test_soft_impute_limits
test_emulated_soft_impute_units = nuclear.test_soft_impute_at_the_ends_of_the_range
test_emulated_soft_impute_ends = nuclear.test_soft_impute_ends_where_it_is_asked_to
test_emulated_soft_impute_of_bad_entries = nuclear.test_soft_impute_of_entries_that_are_not_finite


def test_emulated_soft_impute_refuses_what_does_not_fit(emulated):
    M = observed(low_rank(5, 4, 1), 12)
    parts = (M.indptr, M.indices, M.data, M.shape)
    nothing = (np.zeros(6, np.int64), np.zeros(0, np.int32), np.zeros(0), (5, 4))
    for entries, rank, message in (
        (parts, 0, r"rank_max must be in 1\.\.min\(M\.shape\)"),
        (parts, 5, r"rank_max must be in 1\.\.min\(M\.shape\)"),
        (nothing, 1, "M must have observed entries"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.soft_impute(entries, 1.0, rank, 10, 1e-4, 0, True, None)


def test_emulated_soft_impute_on_the_gpu(gpu):
    M = observed(low_rank(30, 20, 2), 400)
    plain = lowla.soft_impute(M, 1.0, tol=1e-9, rng=0)
    r = lowla.soft_impute(SparseOnGpu(M), 1.0, tol=1e-9, rng=0)
    assert (r.info.backend, type(r.U)) == ("cuda", OnGpu)
    # both are within the gap of the minimum of an objective whose data part is 1-strongly convex
    bound = np.sqrt(2 * 1e-9 * M.nnz) * np.abs(M.data).max()
    assert np.abs((r.toarray().get() - plain.toarray())[mask(M)]).max() <= 2 * bound
    with lowla.use_backend("cuda"):
        moved = lowla.soft_impute(M, 1.0, tol=1e-9, rng=0)
    assert (moved.info.backend, type(moved.U)) == ("cuda", np.ndarray)
    assert_array_equal(moved.toarray(), r.toarray().get())
