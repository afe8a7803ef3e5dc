"""Columns and rows by the CUDA backend on its emulation (see test_cuda.py), against the host's.

The sketch is the same matrix on both, so the same columns and rows are chosen where no two are
equally good up to rounding, and the factors differ by rounding.
"""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import aslinearoperator

import gpu_arrays
import lowla
from column_matrices import error_of
from gpu_arrays import OnGpu, held
from strategies import DTYPES, LAYOUTS
from tolerances import eps, orthogonality, tol

KEY = 11
K = 8
COND = 1e2
ID_METHODS = ("sketch", "project", "direct", "auto")
CUR_METHODS = ("qrcp", "lupp", "deim", "leverage")
MIDDLES = ("lstsq", "cross")
SKETCHES = ("auto", "gaussian")


def csr(A, index=np.int32):
    """A CSR tuple with explicit duplicates: every entry as the sum of a half and a half."""
    S = sp.csr_array(A)
    doubled = (2 * S.indptr).astype(index), np.repeat(S.indices, 2).astype(index)
    return (*doubled, np.repeat(S.data / 2, 2).astype(S.dtype), S.shape)


FORMS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "csr32": csr,
    "csr64": lambda A: csr(A, np.int64),
}


def matrix(m=1200, n=50, dtype="float64", seed=0):
    """Half of the entries zero; columns of lengths from 1 to 1/COND, mixed by neighbours."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal((m, n))
    A = A * (rng.random((m, n)) < 0.5) * np.geomspace(1, 1 / COND, n)
    return (A + 0.5 * np.roll(A, 1, axis=1)).astype(dtype)


def low_rank(m, n, rank, dtype, seed=0):
    """Integers, exact in every dtype."""
    rng = np.random.default_rng(seed)
    A = rng.integers(-3, 4, (m, rank)) @ rng.integers(-3, 4, (rank, n))
    return (A + 1j * A[:, ::-1] if np.dtype(dtype).kind == "c" else A).astype(dtype)


def assert_same_facts(ours, theirs, m=1200):
    """The errors are differences of squared norms, sums over m rows: their squares to 4 m u."""
    for fact in ("error_method", "rank", "passes", "converged", "method", "sketch_rows", "swaps"):
        assert ours[fact] == theirs[fact], fact
    assert abs(ours["error"] ** 2 - theirs["error"] ** 2) <= tol(float, m, factor=4)


# --- against the host ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sketch", SKETCHES)
@pytest.mark.parametrize("method", ID_METHODS)
def test_emulated_interp_decomp_is_the_hosts(emulated, host, method, sketch, form, dtype):
    A = FORMS[form](matrix(dtype=dtype))
    options = (K, 0.0, method, 10, 2.0, sketch, KEY, True)
    perm, proj, facts = emulated.interp_decomp(A, *options)
    expected, coefficients, theirs = host.interp_decomp(A, *options)
    assert (perm.dtype, proj.dtype) == (np.int64, dtype)
    assert_array_equal(perm, expected)
    assert_allclose(proj, coefficients, rtol=0, atol=2 * eps(dtype) + tol(float, 1200, COND))
    assert_same_facts(facts, theirs)
    if method != "auto":
        assert facts["method"] == method


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["sketch", "project"])
def test_emulated_two_sided_id_is_the_hosts(emulated, host, method, form, dtype):
    A = FORMS[form](matrix(dtype=dtype))
    options = (K, 0.0, method, 10, 2.0, "auto", KEY, True)
    *ours, facts = emulated.two_sided_id(A, *options)
    *theirs, expected = host.two_sided_id(A, *options)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert_array_equal(a, b)
    for a, b in zip(ours[2:], theirs[2:], strict=True):
        assert a.dtype == dtype
        assert_allclose(a, b, rtol=0, atol=2 * eps(dtype) + tol(float, 1200, COND))
    assert_same_facts(facts, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sketch", SKETCHES)
def test_emulated_qrcp_is_the_hosts(emulated, host, sketch, form, dtype):
    A = FORMS[form](matrix(dtype=dtype))
    options = (K, 0.0, 10, sketch, KEY, True)
    Q, R, perm, facts = emulated.qrcp(A, *options)
    Q0, R0, perm0, theirs = host.qrcp(A, *options)
    assert (Q.dtype, R.dtype, perm.dtype) == (dtype, dtype, np.int64)
    assert_array_equal(perm, perm0)
    size = np.abs(R0).max()
    assert_allclose(Q, Q0, rtol=0, atol=2 * eps(dtype) + tol(float, 1200, COND))
    assert_allclose(R, R0, rtol=0, atol=(2 * eps(dtype) + tol(float, 1200, COND)) * size)
    assert_same_facts(facts, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("method", CUR_METHODS)
def test_emulated_cur_is_the_hosts(emulated, host, method, middle, form, dtype):
    A = FORMS[form](matrix(dtype=dtype))
    for sketch, oversample in (("auto", 0), ("gaussian", 3)):
        options = (K, 0.0, method, middle, oversample, sketch, KEY, True)
        rows, cols, U, facts = emulated.cur(A, *options)
        rows0, cols0, U0, theirs = host.cur(A, *options)
        assert (rows.dtype, cols.dtype, U.dtype) == (np.int64, np.int64, dtype)
        assert_array_equal(rows, rows0)
        assert_array_equal(cols, cols0)
        slack = 2 * eps(dtype) + tol(float, 1200, COND)
        assert_allclose(U, U0, rtol=0, atol=slack * np.abs(U0).max())
        assert facts["method"] == method
        assert_same_facts(facts, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_columns_of_any_layout(emulated, host, layout, dtype):
    A = LAYOUTS[layout](matrix(300, 24, dtype))
    for method in ("sketch", "project", "direct"):
        options = (5, 0.0, method, 4, 2.0, "auto", KEY, True)
        ours, theirs = emulated.interp_decomp(A, *options), host.interp_decomp(A, *options)
        assert_array_equal(ours[0], theirs[0])
        assert_allclose(ours[1], theirs[1], atol=2 * eps(dtype) + tol(float, 300, COND))
    for method in CUR_METHODS:
        options = (5, 0.0, method, "lstsq", 0, "auto", KEY, True)
        ours, theirs = emulated.cur(A, *options), host.cur(A, *options)
        error = ours[3]["error"]
        assert error == pytest.approx(theirs[3]["error"], rel=tol(float, 300), abs=eps(dtype))
        if layout != "broadcast_row":  # there all rows are equal
            assert_array_equal(ours[0], theirs[0])
            assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("form", ["C", "F", "csr32"])
def test_emulated_columns_of_several_blocks(emulated, host, form, dtype):
    """A, and k columns of it, of more than 16 MiB in double precision."""
    m, n, k = 130_000, 30, 25
    A = FORMS[form](matrix(m, n, dtype))
    options = (k, 0.0, "project", 3, 2.0, "auto", KEY, True)
    ours, theirs = emulated.interp_decomp(A, *options), host.interp_decomp(A, *options)
    assert_array_equal(ours[0], theirs[0])
    assert_allclose(ours[1], theirs[1], rtol=0, atol=2 * eps(dtype) + tol(float, 1200, COND))
    assert_same_facts(ours[2], theirs[2], m)


@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_wide_matrices(emulated, host, dtype):
    for form in FORMS.values():
        A = form(np.ascontiguousarray(matrix(3000, 40, dtype).T))
        ours = emulated.qrcp(A, K, 0.0, 10, "auto", KEY, True)
        theirs = host.qrcp(A, K, 0.0, 10, "auto", KEY, True)
        assert_array_equal(ours[2], theirs[2])
        assert_same_facts(ours[3], theirs[3])
        for method in CUR_METHODS:
            options = (K, 0.0, method, "lstsq", 0, "auto", KEY, True)
            a, b = emulated.cur(A, *options), host.cur(A, *options)
            assert_array_equal(a[0], b[0])
            assert_array_equal(a[1], b[1])


# --- against the definitions ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_emulated_low_rank_is_reproduced_to_rounding(emulated, form, dtype):
    A = low_rank(400, 30, 5, dtype)
    rank, given, bound = np.linalg.matrix_rank(A), form(A), tol(dtype, 400)
    for k in (rank, rank + 3):
        for method in ID_METHODS:
            r = lowla.interp_decomp(given, int(k), method=method, rng=1)
            assert r.info.rank == rank
            assert np.abs(r.proj).max(initial=0) <= 2 * (1 + tol(dtype, 1))
            assert max(error_of(A, A[:, r.idx[:k]], r.interp_matrix()), r.info.error) <= bound
        q = lowla.qrcp(given, int(k), rng=1)
        assert orthogonality(q.Q) <= bound
        assert max(error_of(A[:, q.perm], q.Q, q.R), q.info.error) <= bound
        t = lowla.two_sided_interp_decomp(given, int(k), rng=1)
        assert max(error_of(A, t.X @ A[np.ix_(t.rows, t.cols)], t.Y), t.info.error) <= bound
        for method in CUR_METHODS:
            c = lowla.cur(given, int(k), method=method, rng=1)
            assert c.info.rank == rank
            assert_array_equal(A[:, c.cols], c.C.toarray() if sp.issparse(c.C) else c.C)
            # A few digits are lost in the product with U (docs/cur.md).
            assert max(error_of(A, A[:, c.cols] @ c.U, A[c.rows]), c.info.error) <= 100 * bound


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_errors_are_measured(emulated, form, dtype):
    A = matrix(800, 40, dtype)
    given = form(A)
    r = lowla.interp_decomp(given, K, method="project", rng=0)
    q = lowla.qrcp(given, K, rng=0)
    c = lowla.cur(given, K, rng=0)
    measured = (
        (r.info, error_of(A, A[:, r.idx[:K]], r.interp_matrix())),
        (q.info, error_of(A[:, q.perm], q.Q, q.R)),
        (c.info, error_of(A, A[:, c.cols] @ c.U, A[c.rows])),
    )
    for info, true in measured:
        assert true > 0.01
        assert info.error == pytest.approx(true, rel=0.01)


@pytest.mark.parametrize("form", FORMS)
def test_emulated_small_errors_are_measured_on_the_device(emulated, host, form):
    """Below sqrt(u) the identity of norms says nothing: the residual is formed block by block."""
    A = matrix(20_000, 40)
    A[:, K:] = A[:, :K] @ np.random.default_rng(0).standard_normal((K, 32))
    A += 1e-11 * np.random.default_rng(1).standard_normal(A.shape)
    given = FORMS[form](A)
    _, _, facts = emulated.interp_decomp(given, K, 0.0, "project", 10, 2.0, "auto", KEY, True)
    _, _, theirs = host.interp_decomp(given, K, 0.0, "project", 10, 2.0, "auto", KEY, True)
    assert facts["error_method"] == theirs["error_method"] == "residual"
    assert facts["error"] == pytest.approx(theirs["error"], rel=1e-3)
    _, _, _, facts = emulated.cur(given, K, 0.0, "qrcp", "lstsq", 0, "auto", KEY, True)
    _, _, _, theirs = host.cur(given, K, 0.0, "qrcp", "lstsq", 0, "auto", KEY, True)
    assert facts["error_method"] == theirs["error_method"] == "residual"
    assert facts["error"] == pytest.approx(theirs["error"], rel=1e-3)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_zero_matrices(emulated, form, dtype):
    A = form(np.zeros((60, 9), dtype))
    for method in ID_METHODS:
        r = lowla.interp_decomp(A, 3, method=method)
        assert (r.info.error, r.info.rank) == (0.0, 0)
        assert not r.proj.any()
        assert sorted(r.idx) == list(range(9))
    q = lowla.qrcp(A, 3)
    assert orthogonality(q.Q) <= tol(dtype, 60)
    assert (q.info.error, q.info.rank, q.R.any()) == (0.0, 0, False)
    t = lowla.two_sided_interp_decomp(A, 3)
    assert not (t.X @ t.skel(A) @ t.Y).any()
    for method in CUR_METHODS:
        c = lowla.cur(A, 3, method=method)
        assert (c.info.error, c.info.rank, c.U.any()) == (0.0, 0, False)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float64", 1e200),
        ("float64", 1e-200),
        ("float64", 1e-307),
        ("complex128", 1e200),
        ("complex128", 1e-200),
        ("float32", 1e30),
        ("float32", 1e-30),
        ("complex64", 1e30),
    ],
)
def test_emulated_choices_do_not_feel_the_scale(emulated, form, dtype, scale):
    power = 2.0 ** np.round(np.log2(scale))  # exact, as far as nothing leaves the range
    A = matrix(500, 30, dtype)
    plain, scaled = form(A), form((A * power).astype(dtype))
    # The smallest entries of 1e-307 A are denormal numbers.
    near = 2 * eps(dtype) + tol(float, 500, COND) + (1e-9 if scale == 1e-307 else 0)
    for method in ID_METHODS:
        a = lowla.interp_decomp(plain, K, method=method, rng=0)
        b = lowla.interp_decomp(scaled, K, method=method, rng=0)
        assert_array_equal(a.idx, b.idx)
        assert_allclose(b.proj, a.proj, rtol=0, atol=near)
        assert b.info.error == pytest.approx(a.info.error, rel=1e-9)
    a, b = lowla.qrcp(plain, K, rng=0), lowla.qrcp(scaled, K, rng=0)
    assert_array_equal(a.perm, b.perm)
    assert_allclose(b.Q, a.Q, rtol=0, atol=near)
    assert_allclose(b.R / power, a.R, rtol=0, atol=near * np.abs(a.R).max())
    for method in CUR_METHODS:
        a, b = (lowla.cur(M, K, method=method, rng=0) for M in (plain, scaled))
        assert_array_equal(a.cols, b.cols)
        assert_array_equal(a.rows, b.rows)
        if scale != 1e-307:  # U overflows there
            assert_allclose(b.U * power, a.U, rtol=0, atol=near * np.abs(a.U).max())


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_emulated_choices_from_denormal_numbers(emulated, form, dtype):
    """Whole multiples of the least number; the power of two that scales them is none itself."""
    A = low_rank(300, 20, 5, dtype)
    least = 2.0**-1074
    for method in ID_METHODS:
        a, b = (lowla.interp_decomp(form(M), 5, method=method, rng=0) for M in (A, A * least))
        assert_array_equal(a.idx, b.idx)
        assert_allclose(b.proj, a.proj, rtol=0, atol=tol(float, 300))


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_emulated_not_finite_entries(emulated, host, value, form, dtype):
    A = matrix(200, 20, dtype)
    A[7, 3] = value
    given = form(A)
    functions = [
        *(lambda m=m, **o: lowla.interp_decomp(given, 4, method=m, **o) for m in ID_METHODS),
        lambda **o: lowla.two_sided_interp_decomp(given, 4, **o),
        lambda **o: lowla.qrcp(given, 4, **o),
        *(lambda m=m, **o: lowla.cur(given, 4, method=m, **o) for m in CUR_METHODS),
    ]
    for function in functions:
        with pytest.raises(ValueError, match="A contains NaN or Inf"):
            function()
        result = function(check_finite=False)
        assert np.isnan(result.info.error)
        floats = [a for a in result if not sp.issparse(a) and a.dtype == dtype]
        assert any(np.isnan(a).all() for a in floats)


# --- pivoted factorisations ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_pivoted_factorisations_are_the_hosts(emulated, host, layout, dtype):
    Y = LAYOUTS[layout](matrix(20, 70, dtype))
    ours, theirs = emulated.pivoted_qr(Y, 12, 1e-10), host.pivoted_qr(Y, 12, 1e-10)
    assert_array_equal(ours[0], theirs[0])
    assert_array_equal(ours[1], theirs[1])
    assert ours[2] == theirs[2]
    assert_array_equal(emulated.pivoted_lu_rows(Y.T, 12), host.pivoted_lu_rows(Y.T, 12))


def test_emulated_pivoted_qr_is_lapacks(emulated):
    Y = matrix(40, 30)
    perm, R, rank = emulated.pivoted_qr(Y, 30, 0.0)
    _, R0, perm0 = scipy.linalg.qr(Y, mode="economic", pivoting=True)
    assert rank == 30
    assert_array_equal(perm, perm0)
    assert_allclose(np.abs(R), np.abs(R0), rtol=0, atol=tol(float, 40, COND))


# --- what does not fit ---------------------------------------------------------------------------


def test_emulated_columns_refuse_what_does_not_fit(emulated):
    A = np.ones((6, 4))
    id_options = (0.0, "auto", 2, 2.0, "auto", KEY, True)
    cur_options = (0.0, "qrcp", "lstsq", 0, "auto", KEY, True)
    for k in (0, 5):
        for function in (emulated.interp_decomp, emulated.two_sided_id):
            with pytest.raises(ValueError, match="k must fit the shape of A"):
                function(A, k, *id_options)
        with pytest.raises(ValueError, match="k must fit the shape of A"):
            emulated.qrcp(A, k, 0.0, 2, "auto", KEY, True)
        with pytest.raises(ValueError, match="k and oversample must fit the shape of A"):
            emulated.cur(A, k, *cur_options)
    with pytest.raises(ValueError, match="k and oversample must fit the shape of A"):
        emulated.cur(A, 3, 0.0, "leverage", "lstsq", 2, "auto", KEY, True)
    for call in (
        lambda: emulated.interp_decomp(A, 2, 0.1, *id_options[1:]),
        lambda: emulated.cur(A, 2, 0.1, *cur_options[1:]),
    ):
        with pytest.raises(ValueError, match="tol is not known here"):
            call()
    with pytest.raises(ValueError, match="A must have 2 dimensions, got 1"):
        emulated.interp_decomp(A[0], 1, *id_options)
    with pytest.raises(TypeError, match=r"A must be a dense array, or \(indptr, indices, data"):
        emulated.interp_decomp(aslinearoperator(A), 1, *id_options)
    with pytest.raises(TypeError, match="A must be float32, float64, complex64 or complex128"):
        emulated.interp_decomp(A.astype(int), 1, *id_options)
    indptr = np.array([0, 2, 1, 3], np.int32)
    with pytest.raises(ValueError, match="sparse A is malformed"):
        emulated.cur((indptr, np.zeros(3, np.int32), np.ones(3), (3, 1)), 1, *cur_options)
    for function in (
        lambda Y: emulated.pivoted_qr(Y, 1, 0.0),
        lambda Y: emulated.pivoted_lu_rows(Y, 1),
    ):
        with pytest.raises(ValueError, match="Y must have 2 dimensions, got 1"):
            function(A[0])
        with pytest.raises(TypeError, match="Y must be a dense array"):
            function([[1.0]])


# --- arrays on the GPU ---------------------------------------------------------------------------

FUNCTIONS = ("interp_decomp", "two_sided_id", "qrcp", "cur")


class CsrOnGpu:
    """As much of cupyx.scipy.sparse.csr_matrix as lowla uses."""

    __module__ = "cupyx.scipy.sparse"

    def __init__(self, given, shape=None):
        if isinstance(given, tuple):
            given = sp.csr_array(tuple(held(part) for part in given), shape=shape)
        self._held = given
        self.shape, self.dtype = given.shape, given.dtype

    data = property(lambda self: OnGpu(self._held.data))
    indices = property(lambda self: OnGpu(self._held.indices))
    indptr = property(lambda self: OnGpu(self._held.indptr))
    T = property(lambda self: CsrOnGpu(self._held.T))

    def tocsr(self):
        return CsrOnGpu(self._held.tocsr())

    def toarray(self):
        return OnGpu(self._held.toarray())

    def __getitem__(self, key):
        return CsrOnGpu(self._held[held(key)])

    def __matmul__(self, other):
        return OnGpu(self._held @ held(other))


@pytest.fixture
def gpu(module, monkeypatch):
    """CuPy and the CUDA backend, as far as they are needed."""
    cupyx = types.ModuleType("cupyx.scipy.sparse")
    cupyx.csr_matrix = CsrOnGpu
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", cupyx)
    return gpu_arrays.install(module, dict.fromkeys(FUNCTIONS, (set(), False)), monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("sparse", [False, True])
def test_emulated_gpu_arrays_come_back_as_such(gpu, sparse, dtype):
    A = matrix(300, 24, dtype)
    given = CsrOnGpu(sp.csr_array(A)) if sparse else gpu.asarray(A)
    here = sp.csr_array(A) if sparse else A

    def assert_on_gpu(result, expected, exact=()):
        assert result.info.backend == "cuda"
        for name in type(result)._names:
            a, b = getattr(result, name), getattr(expected, name)
            assert isinstance(a, CsrOnGpu if sp.issparse(b) else OnGpu), name
            if sp.issparse(b):
                a, b = a.toarray(), b.toarray()
            slack = 2 * eps(dtype) + tol(float, 300, COND)
            assert_allclose(a.get(), b, rtol=0, atol=slack * np.abs(b).max(), err_msg=name)

    r, e = (lowla.interp_decomp(M, K, rng=0) for M in (given, here))
    assert_on_gpu(r, e)
    assert_allclose(held(r.interp_matrix()), e.interp_matrix(), atol=tol(dtype, 1))
    product = tol(dtype, K)
    assert_allclose(held(r.toarray(given)), e.toarray(here), atol=product)
    r, e = (lowla.row_interp_decomp(M, K, rng=0) for M in (given, here))
    assert_on_gpu(r, e)
    r, e = (lowla.qrcp(M, K, rng=0) for M in (given, here))
    assert_on_gpu(r, e)
    r, e = (lowla.two_sided_interp_decomp(M, K, rng=0) for M in (given, here))
    assert_on_gpu(r, e)
    assert_array_equal(held(r.skel(given)), e.skel(here))
    assert_allclose(held(r.toarray(given)), e.toarray(here), atol=product * 10)
    r, e = (lowla.cur(M, K, oversample=2, rng=0) for M in (given, here))
    assert_on_gpu(r, e)
    assert all(isinstance(places, OnGpu) for places in (r.rows, r.cols))
    assert_array_equal(held(r.rows), e.rows)
    assert_array_equal(held(r.cols), e.cols)
    assert_allclose(held(r @ OnGpu(np.ones(24, dtype))), e @ np.ones(24, dtype), atol=product * 10)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_emulated_the_gpu_on_request(gpu, form):
    A = form(matrix(300, 24))
    for call in (
        lambda: lowla.interp_decomp(A, K, rng=0),
        lambda: lowla.qrcp(A, K, rng=0),
        lambda: lowla.two_sided_interp_decomp(A, K, rng=0),
        lambda: lowla.cur(A, K, rng=0),
    ):
        with lowla.use_backend("cuda"):
            there = call()
        here = call()
        assert (there.info.backend, here.info.backend != "cuda") == ("cuda", True)
        for a, b in zip(there, here, strict=True):
            assert type(a) is type(b)
            if not sp.issparse(a):
                assert_allclose(a, b, rtol=0, atol=tol(float, 300, COND) * max(1, np.abs(b).max()))
    assert type(lowla.cur(A, K, rng=0).rows) is np.ndarray


def test_emulated_tolerances_and_operators_do_not_run_on_the_gpu(gpu):
    A = gpu.asarray(matrix(30, 8))
    operator = aslinearoperator(matrix(30, 8))
    for function, call in (
        ("qrcp", lambda M, k, eps: lowla.qrcp(M, k, tol=eps)),
        ("interp_decomp", lambda M, k, eps: lowla.interp_decomp(M, k or eps)),
        ("two_sided_id", lambda M, k, eps: lowla.two_sided_interp_decomp(M, k or eps)),
        ("cur", lambda M, k, eps: lowla.cur(M, k, tol=eps)),
    ):
        message = f"{function} with a tolerance or of an operator does not run on the GPU yet"
        with pytest.raises(NotImplementedError, match=message):
            call(A, None, 0.1)
        with lowla.use_backend("cuda"), pytest.raises(NotImplementedError, match=message):
            call(operator, 2, None)
