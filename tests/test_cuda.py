"""The CUDA backend: what can be shown of it without a GPU.

`lowla._cuda` must import, and say that it has no device, on a machine without a driver. All it
computes is matrix products and functors over index ranges or blocks, written once for two run-times
(cuda/include/lowla/device/runtime.hpp): the GPU, and an emulation on the CPU whose memory starts as
NaN and whose functors run backwards. The tests named `emulated` run the public functions on that
emulation; LOWLA_CUDA_EMULATED is the path of the module (CMake target `_cuda_emulated`). Where a
GPU is, the other test files run on it (fixture `backend`).
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import types

import hypothesis
import hypothesis.strategies as hs
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import lowla
from least_squares import (
    assert_agrees_with_numpy,
    assert_as_accurate_as_lapack,
    problem,
)
from lowla import _backend
from spectra import matrix_with_spectrum
from strategies import DTYPES, LAYOUTS, hermitian, matrices_with_rank, matrix_specs
from tolerances import best_error, eps, orthogonality, relative_error, tol

KEY = 11


# --- the module itself


@pytest.fixture(scope="module")
def cuda():
    return pytest.importorskip("lowla._cuda", exc_type=ImportError)


def test_imports_without_a_driver_and_says_so(cuda):
    assert cuda.features()["devices"] == cuda.device_count() >= 0
    assert re.fullmatch(r"\d+\.\d+", cuda.features()["cuda"])
    if cuda.device_count() == 0:
        assert _backend.why_not("cuda") == "there is no CUDA device (or no driver for it)"


def test_needs_no_cuda_library_to_load(cuda):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    command = ["readelf", "-d", cuda.__file__]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", out)
    assert needed
    assert not [name for name in needed if re.match(r"lib(cu|nv)", name)]


def test_a_failed_cuda_call_is_a_CudaError(cuda, monkeypatch):
    if cuda.device_count() > 0:
        pytest.skip("needs a machine without a GPU")
    entered = []
    device = types.SimpleNamespace(
        id=0,
        __enter__=lambda: entered.append(True),
        __exit__=lambda *_: entered.pop(),
    )
    library = types.ModuleType("cupy.cuda")
    library.Device = lambda: device
    library.get_current_stream = lambda: types.SimpleNamespace(ptr=0)
    library.get_cublas_handle = lambda: 1
    library.runtime = types.SimpleNamespace(runtimeGetVersion=lambda: 13000)
    package = types.ModuleType("cupy")
    package.cuda = library
    monkeypatch.setitem(sys.modules, "cupy", package)
    monkeypatch.setitem(sys.modules, "cupy.cuda", library)
    with pytest.raises(lowla.CudaError, match=r"cudaSetDevice failed|cuBLAS was not found"):
        cuda.random_signs(KEY, 0, 2, 2)
    assert not entered


# --- the emulation


def gauss(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        A = A + 1j * rng.standard_normal(shape)
    return A.astype(dtype)


def assert_svd(A, r):
    n = max(A.shape)
    assert orthogonality(r.U) <= tol(A.dtype, n)
    assert orthogonality(r.Vh.conj().T) <= tol(A.dtype, n)
    assert np.all(np.diff(r.S) <= 0)
    peaks = r.U[np.abs(r.U).argmax(axis=0), np.arange(r.U.shape[1])]
    assert np.all(peaks.real >= 0)
    assert np.all(np.abs(peaks.imag) <= tol(A.dtype, 1) * np.abs(peaks))
    true = relative_error(A, r.U, r.S, r.Vh)
    if r.info.error_method in ("identity", "residual", "exact"):
        rounding = tol(A.dtype, 1)
        assert abs(r.info.error - true) <= 0.01 * true or max(r.info.error, true) <= rounding
    return true


def test_emulated_exports_the_same_functions(module):
    for name, function in vars(_backend.Backend).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        if _backend.lacks("cuda", name) and not hasattr(module, name):
            continue
        expected = [p for p in inspect.signature(function).parameters if p != "self"]
        first = getattr(module, name).__doc__.splitlines()[0]
        text = re.sub(r"\[[^][]*(\[[^][]*\][^][]*)*\]", "", first[first.index("(") + 1 :])
        found = [part.split(":")[0].strip() for part in text.split(") ->")[0].split(",")]
        assert [p for p in found if p] == expected, name


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_emulated_philox_matches_random123(emulated, key, counter, words):
    """The known answers of Random123 (Salmon et al. 2011)."""
    assert tuple(emulated.philox(key, counter)) == words


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (130, 7), (257, 2)])
def test_emulated_draws_are_those_of_the_host(emulated, host, shape):
    for dtype in ("float32", "float64"):
        ours = emulated.random_normal(KEY, 3, *shape, dtype)
        theirs = host.random_normal(KEY, 3, *shape, dtype)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=4 * eps(dtype), atol=4 * eps(dtype))
    np.testing.assert_array_equal(
        emulated.random_signs(KEY, 2, *shape), host.random_signs(KEY, 2, *shape)
    )


SPARSE_KINDS = ("countsketch", "sjlt", "sparse", "uniform")
KINDS = ("gaussian", "rademacher", "srht", *SPARSE_KINDS)
DENSITY = 0.1


@pytest.mark.parametrize(("d", "n", "nnz"), [(20, 50, 8), (5, 3, 1), (7, 9, 7), (33, 1, 6)])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_emulated_operator_is_that_of_the_host(emulated, host, kind, d, n, nnz):
    if kind in SPARSE_KINDS:
        for density in (1.0, DENSITY, 0.001):
            arguments = (kind, KEY, d, n, nnz, density)
            for ours, theirs in zip(
                emulated.sketch_pattern(*arguments), host.sketch_pattern(*arguments), strict=True
            ):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
    else:
        for dtype in ("float32", "float64"):
            np.testing.assert_array_equal(
                emulated.sketch_entries(kind, KEY, d, n, dtype),
                host.sketch_entries(kind, KEY, d, n, dtype),
            )


def operator(backend, kind, d, n, nnz):
    if kind not in SPARSE_KINDS:
        return backend.sketch_entries(kind, KEY, d, n, "float64")
    indptr, rows, signs = backend.sketch_pattern(kind, KEY, d, n, nnz, DENSITY)
    squared = {"countsketch": 1, "sjlt": 1 / nnz, "sparse": 1 / (DENSITY * d), "uniform": n / d}
    S = scipy.sparse.csc_array((signs * np.sqrt(squared[kind]), rows, indptr), shape=(d, n))
    return S.toarray()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_sketch_is_the_operator_applied(emulated, kind, dtype, layout):
    for d, n in ((30, 75), (20, 6)):  # fewer and more rows than the Hadamard matrix has
        check_products(emulated, kind, dtype, layout, d, n)


def check_products(emulated, kind, dtype, layout, d, n):
    c, nnz = 11, 6
    S = operator(emulated, kind, d, n, nnz)
    A = LAYOUTS[layout](gauss((n, c), dtype))
    Y = LAYOUTS[layout](gauss((d, c), dtype))
    SA = emulated.sketch_apply(kind, KEY, d, n, nnz, DENSITY, A, False)
    StY = emulated.sketch_apply(kind, KEY, d, n, nnz, DENSITY, Y, True)
    assert SA.dtype == StY.dtype == A.dtype
    size = np.linalg.norm(S)
    assert np.linalg.norm(SA - S @ A) <= tol(dtype, 1) * size * np.linalg.norm(A)
    assert np.linalg.norm(StY - S.T @ Y) <= tol(dtype, 1) * size * np.linalg.norm(Y)


def random_csr(m, n, stored, dtype, index, seed=0):
    """Unsorted rows, some of them empty, with entries stored more than once."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, max(1, m // 2), stored))
    indptr = np.searchsorted(rows, np.arange(m + 1)).astype(index)
    indices = rng.integers(0, n, stored).astype(index)
    data = gauss(stored, dtype, seed)
    D = np.zeros((m, n), np.result_type(dtype, np.float64))
    np.add.at(D, (rows, indices), data)
    return (indptr, indices, data, (m, n)), D


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_emulated_sketch_of_csr_is_the_operator_applied(emulated, kind, dtype, index):
    d, n, c, nnz = 30, 75, 11, 6
    A, D = random_csr(n, c, 300, dtype, index)
    S = operator(emulated, kind, d, n, nnz)
    SA = emulated.sketch_apply(kind, KEY, d, n, nnz, DENSITY, A, False)
    assert SA.dtype == np.dtype(dtype)
    assert np.linalg.norm(SA - S @ D) <= tol(dtype, 1) * np.linalg.norm(S) * np.linalg.norm(D)


@hypothesis.given(
    drawn=matrices_with_rank(max_m=60, max_n=60),
    method=hs.sampled_from(["auto", "subspace", "single_pass"]),
    sketch=hs.sampled_from(["gaussian", "sjlt"]),
)
def test_emulated_factors_are_orthonormal_certified_and_as_good(
    emulated, host, drawn, method, sketch
):
    A, k = drawn
    r = lowla.rsvd(A, k, method=method, sketch=sketch, rng=1)
    true = assert_svd(A, r)
    # The sides may differ in a single pass, whose error is random: the host's worst of some draws.
    slack, draws = (2.0, 6) if method == "single_pass" else (1.05, 1)
    worst = 0.0
    for seed in range(1, 1 + draws):
        key = lowla._rng.philox_key(seed)
        U, S, Vh, _ = host.rsvd(A, k, 0.0, 10, -1, method, sketch, key, True, None)
        worst = max(worst, relative_error(A, U, S, Vh))
    assert true <= slack * worst + tol(A.dtype, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
@pytest.mark.parametrize("method", ["krylov", "subspace"])
def test_emulated_result_does_not_depend_on_the_layout(emulated, dtype, shape, method):
    A = matrix_with_spectrum(*shape, 0.5 ** np.arange(12), dtype)
    results = [
        lowla.rsvd(layout(A), 6, method=method, rng=0)
        for name, layout in LAYOUTS.items()
        if name != "broadcast_row"
    ]
    for r in results:
        assert_svd(A, r)
        gap = 2.0**-6  # of singular value 5 to the others, relative to the largest
        close = tol(dtype, max(shape), 1 / gap)
        np.testing.assert_allclose(r.S, results[0].S, atol=close)
        np.testing.assert_allclose(r.U, results[0].U, atol=close)
        np.testing.assert_allclose(r.Vh, results[0].Vh, atol=close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "reversed"])
def test_emulated_blocks_of_rows_add_up(emulated, dtype, layout):
    """A of more than one block of rows (16 MiB), and a panel widened in chunks."""
    n = 40
    m = (20 << 20) // (n * np.dtype(dtype).itemsize)
    A = LAYOUTS[layout](matrix_with_spectrum(m, n, 1.0 / np.arange(1, 21), dtype))
    r = lowla.rsvd(A, 8, method="subspace", n_iter=1, rng=0)
    assert assert_svd(A, r) <= 1.5 * best_error(1.0 / np.arange(1, 21), 8)
    r = lowla.rsvd(A, 21, method="subspace", n_iter=0, rng=0)
    assert r.info.error_method == "residual"
    assert_svd(A, r)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(120, 30), (30, 120), (50, 50)])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_emulated_csr_is_the_dense_matrix(emulated, dtype, shape, index):
    A, D = random_csr(*shape, 700, dtype, index)
    D = D.astype(dtype)
    sparse = scipy.sparse.csr_array((A[2], A[1], A[0]), shape=shape)
    for k, method in ((4, "krylov"), (4, "subspace"), (25, "krylov")):
        r = lowla.rsvd(sparse, k, method=method, rng=0)
        true = assert_svd(D, r)
        dense = lowla.rsvd(D, k, method=method, rng=0)
        assert true <= 1.02 * relative_error(D, *dense) + tol(dtype, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transpose", [False, True])
def test_emulated_low_rank_csr_is_certified_by_its_residual(emulated, dtype, transpose):
    D = np.zeros((90, 50), dtype)
    D[[3, 7, 60]] = gauss((3, 50), dtype)
    D = D.T.copy() if transpose else D
    r = lowla.rsvd(scipy.sparse.csr_array(D), 3, rng=0)
    assert r.info.error_method == "residual"
    assert_svd(D, r)


def test_emulated_csr_without_entries_is_zero(emulated):
    r = lowla.rsvd(scipy.sparse.csr_array((30, 20)), 3, rng=0)
    assert not r.S.any()
    assert orthogonality(r.U) <= tol("float64", 30)


@pytest.mark.parametrize(
    "broken",
    [
        lambda p, i: (p + 1, i),
        lambda p, i: (p[::-1].copy(), i),
        lambda p, i: (p, np.where(i == i[0], -1, i)),
        lambda p, i: (p, np.where(i == i[0], 10, i)),
        lambda p, i: (p, i[:-1]),
        lambda p, i: (p[:-1], i),
    ],
)
def test_emulated_malformed_csr_is_refused(emulated, broken):
    (indptr, indices, data, shape), _ = random_csr(20, 10, 40, "float64", "int64")
    indptr, indices = broken(indptr, indices)
    with pytest.raises(ValueError, match="sparse A is malformed"):
        emulated.stream_pass((indptr, indices, data, shape), np.eye(10, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-1.0, 1.0])
@pytest.mark.parametrize("sparse", [False, True])
def test_emulated_extreme_scales_only_scale(emulated, dtype, exponent, sparse):
    far = 600 if np.finfo(dtype).bits == 64 else 100
    scale = 2.0 ** (exponent * far)
    A = matrix_with_spectrum(60, 25, 0.5 ** np.arange(20), dtype)
    scaled = (A * np.real(A).dtype.type(scale)).astype(dtype)
    wrap = scipy.sparse.csr_array if sparse else np.asarray
    plain, r = (lowla.rsvd(wrap(X), 5, rng=0) for X in (A, scaled))
    assert_svd(scaled, r)
    np.testing.assert_allclose(r.S / scale, plain.S, rtol=tol(dtype, 60))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", range(1, 7))
def test_emulated_tol_is_reached(emulated, dtype, exponent):
    goal = 10.0**-exponent
    if goal < 100 * eps(dtype):
        pytest.skip("below rounding")
    S = 0.6 ** np.arange(40)
    A = matrix_with_spectrum(80, 60, S, dtype)
    r = lowla.rsvd(A, tol=goal, rng=0)
    assert r.info.converged
    assert assert_svd(A, r) <= 1.01 * goal
    optimal = next(k for k in range(1, 41) if best_error(S, k) <= goal)
    assert len(r.S) <= optimal + 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_stack_is_matrix_by_matrix(emulated, dtype, layout):
    stack = np.stack([LAYOUTS[layout](gauss((30, 12), dtype, seed)) for seed in range(3)])
    stack = stack.swapaxes(1, 2) if layout == "F" else stack[:, ::-1]
    r = lowla.rsvd(stack, 4, rng=0)
    for i, A in enumerate(stack):
        one = lowla.rsvd(A, 4, rng=0)
        for ours, single in zip((r.U[i], r.S[i], r.Vh[i]), one, strict=True):
            np.testing.assert_array_equal(ours, single)


@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_operator_is_certified_within_its_probes(emulated, dtype):
    S = 1.0 / np.arange(1, 41)
    A = matrix_with_spectrum(70, 50, S, dtype)
    r = lowla.rsvd(scipy.sparse.linalg.aslinearoperator(A), 6, rng=0)
    true = assert_svd(A, r)
    assert true <= 1.01 * best_error(S, 6)
    assert 0.8 * true <= r.info.error <= 1.25 * true


class Raising(scipy.sparse.linalg.LinearOperator):
    def __init__(self):
        super().__init__(np.dtype(np.float64), (30, 20))

    def _matmat(self, X):
        raise KeyError("mine")

    _rmatmat = _matmat


def test_emulated_exceptions_of_callers_come_back(emulated):
    with pytest.raises(KeyError, match="mine"):
        lowla.rsvd(Raising(), 3, rng=0)

    def callback(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lowla.rsvd(gauss((200, 150), "float64"), 3, rng=0, callback=callback)


@hypothesis.given(A=hermitian(max_n=50), data=hs.data())
def test_emulated_reigh_is_certified(emulated, A, data):
    k = data.draw(hs.integers(1, len(A)))
    r = lowla.reigh(A, k, rng=0)
    assert orthogonality(r.V) <= tol(A.dtype, len(A))
    true = relative_error(A, r.V, r.w, r.V.conj().T)
    assert abs(r.info.error - true) <= 0.01 * true or max(r.info.error, true) <= tol(A.dtype, 1)


@hypothesis.given(A=hermitian(max_n=50, definite=True), data=hs.data())
def test_emulated_nystrom_is_certified(emulated, A, data):
    k = data.draw(hs.integers(1, len(A)))
    r = lowla.nystrom(A, k, rng=0)
    assert orthogonality(r.V) <= tol(A.dtype, len(A))
    assert np.all(r.w >= 0)
    true = relative_error(A, r.V, r.w, r.V.conj().T)
    assert abs(r.info.error - true) <= 0.01 * true or max(r.info.error, true) <= tol(A.dtype, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse", [False, True])
def test_emulated_stream_does_not_depend_on_the_blocks(emulated, dtype, sparse):
    A = matrix_with_spectrum(150, 30, 0.5 ** np.arange(15), dtype)
    rows = scipy.sparse.csr_array(A) if sparse else A
    results = []
    for block in (150, 37):
        stream = lowla.StreamingSVD(5, 30, rng=0)
        for start in range(0, 150, block):
            stream.partial_fit(rows[start : start + block])
        results.append(stream.result())
    for r in results:
        assert relative_error(A, *r) <= 3 * best_error(0.5 ** np.arange(15), 5) + tol(dtype, 1)
        np.testing.assert_allclose(r.S, results[0].S, atol=tol(dtype, 150))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sparse", [False, True])
def test_emulated_not_finite_is_an_error_or_not_a_number(emulated, bad, sparse):
    A = gauss((40, 20), "float64")
    A[7, 3] = bad
    wrap = scipy.sparse.csr_array if sparse else np.asarray
    with pytest.raises(ValueError, match="A contains NaN or Inf"):
        lowla.rsvd(wrap(A), 3, rng=0)
    r = lowla.rsvd(wrap(A), 3, rng=0, check_finite=False)
    assert np.isnan(r.U).all()
    assert np.isnan(r.S).all()


# --- least squares

EXACT = ("auto", "direct", "precondition")


@hypothesis.given(
    spec=matrix_specs(max_m=160, max_n=30, kinds=("gauss", "geometric", "polynomial", "one_small")),
    method=hs.sampled_from(EXACT),
    wide=hs.booleans(),
    columns=hs.integers(0, 10),
    seed=hs.integers(0, 2**32),
)
def test_emulated_lstsq_is_numpys(emulated, spec, method, wide, columns, seed):
    A = spec.build()
    A = A if wide == (A.shape[0] < A.shape[1]) else A.swapaxes(0, 1)
    shape = (len(A), columns) if columns else (len(A),)
    b = np.random.default_rng(seed).standard_normal(shape).astype(A.dtype)
    assert_agrees_with_numpy(A, b, method, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("form", [scipy.sparse.csr_array, scipy.sparse.csc_array, np.asarray])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("deficient", [False, True])
def test_emulated_lstsq_of_sparse_and_wide_matrices(emulated, deficient, wide, form, method, dtype):
    rng = np.random.default_rng(0)
    A = problem(400, 24, 1e3, 0.1, dtype)[0] * (rng.random((400, 24)) < 0.2)
    if deficient:
        A[:, 3] = A[:, 17]
    A = A.T if wide else A
    b = rng.standard_normal((len(A), 3)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        b = b + 1j * b[::-1]
    double = np.result_type(dtype, float)
    dense = form is np.asarray
    for damp in (0.0, 0.3):
        ours = lowla.lstsq(form(A), b, method=method, damp=damp, rng=0)
        columns = A.shape[1]
        augmented = np.vstack([A, damp * np.eye(columns)]) if damp else A
        x, _, rank, s = np.linalg.lstsq(
            augmented.astype(double), np.vstack([b, np.zeros((columns, 3))])[: len(augmented)]
        )
        assert ours.rank == rank == (A.shape[1] if damp else 24 - deficient)
        cond = s[0] / s[rank - 1]
        np.testing.assert_allclose(ours.x, x, rtol=0, atol=tol(dtype, 24, cond) * np.abs(x).max())
        if ours.info.s_exact:
            np.testing.assert_allclose(ours.s, s, rtol=0, atol=tol(dtype, 24) * s[0])
        decides = rank == min(A.shape) or damp > 0 if dense else method == "precondition"
        assert ours.info.method == ("precondition" if decides and method != "direct" else "direct")
        assert ours.info.converged
        assert ours.info.backward_error <= tol(dtype, 24)


@pytest.mark.parametrize("cond", [1.0, 1e7, 1e9, 1e12])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_emulated_wide_residuals_are_at_rounding_level(emulated, dtype, order, cond):
    rng = np.random.default_rng(0)
    A = np.asarray(problem(3000, 24, cond, 0.1, "float64")[0].T.astype(dtype), order=order)
    if dtype == "complex128":
        A *= np.exp(1j * rng.uniform(0, 6, 3000))
    b = rng.standard_normal(24).astype(dtype)
    for method in EXACT:
        r = lowla.lstsq(A, b, method=method, rng=0)
        size = np.linalg.norm(A, 2) * np.linalg.norm(r.x) + np.linalg.norm(b)
        assert np.linalg.norm(A @ r.x - b) <= 8 * eps(float) * size
        assert r.info.backward_error <= 4 * eps(float)


@pytest.mark.parametrize("scale", [1e-290, 1e290])
@pytest.mark.parametrize("wide", [False, True])
def test_emulated_sparse_lstsq_at_any_scale(emulated, wide, scale):
    A = scipy.sparse.random_array((2000, 20), density=0.1, rng=np.random.default_rng(0))
    A = A.T.tocsr() if wide else A.tocsr()
    b = np.ones(A.shape[0])
    for method in ("direct", "precondition"):
        plain = lowla.lstsq(A, b, method=method, rng=0)
        scaled = lowla.lstsq(A * scale, b, method=method, rng=0)
        np.testing.assert_allclose(scaled.x * scale, plain.x, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast_row"])
@pytest.mark.parametrize("method", [*EXACT, "sketch"])
def test_emulated_lstsq_is_the_hosts(emulated, host, dtype, layout, method):
    """The same sketch for the same key: what follows differs by rounding."""
    A, b = problem(3000, 25, 10.0, 0.1, dtype, columns=10)
    A, b = LAYOUTS[layout](A), LAYOUTS[layout](b)
    rows = 600 if method == "sketch" else 0
    options = (eps(float), method, "sjlt", 0.3, 0.0, 0, rows, KEY, True, None)
    x, residuals, rank, s, facts = emulated.lstsq(A, b, *options)
    expected = host.lstsq(A, b, *options)
    for ours, theirs in zip((x, residuals, s), np.array(expected, object)[[0, 1, 3]], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=tol(dtype, 1), atol=tol(dtype, 1))
    assert rank == expected[2] == 25
    assert facts["method"] == ("precondition" if method == "auto" else method)
    for fact in ("method", "rows", "s_exact", "converged"):
        assert facts[fact] == expected[4][fact]
    augmented = np.vstack([A, 0.3 * np.eye(25)]), np.vstack([b, np.zeros((25, 10))])
    if method != "sketch":
        theirs = np.linalg.lstsq(*augmented, rcond=None)[0]
        np.testing.assert_allclose(x, theirs, rtol=0, atol=tol(dtype, 1))


@pytest.mark.parametrize("kind", ["gaussian", "srht", "countsketch", "uniform"])
def test_emulated_lstsq_by_any_sketch(emulated, host, kind):
    A, b = problem(3000, 10, 10.0, 0.1, columns=3)
    options = (eps(float), "sketch", kind, 0.0, 0.0, 0, 300, KEY, True, None)
    ours, theirs = emulated.lstsq(A, b, *options), host.lstsq(A, b, *options)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=tol(float, 10))
    assert ours[4]["passes"] == theirs[4]["passes"] == 2


@pytest.mark.parametrize("method", ["direct", "precondition"])
@pytest.mark.parametrize("residual", [1e-12, 1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("cond", [1.0, 1e4, 1e8, 1e12])
def test_emulated_lstsq_has_lapacks_errors(emulated, cond, residual, method):
    assert_as_accurate_as_lapack(2000, 20, cond, residual, "float64", method, seeds=5, columns=5)


@pytest.mark.parametrize("residual", [1e-6, 1.0])
@pytest.mark.parametrize("cond", [1.0, 1e3, 1e6])
def test_emulated_lstsq_has_lapacks_errors_in_single_precision(emulated, cond, residual):
    assert_as_accurate_as_lapack(2000, 20, cond, residual, "float32", "auto", seeds=5, columns=5)


@pytest.mark.parametrize("residual", [1e-6, 1.0])
@pytest.mark.parametrize("cond", [1e4, 1e8])
def test_emulated_sums_over_many_rows_are_as_accurate(emulated, cond, residual):
    """Several blocks of rows and of sums."""
    assert_as_accurate_as_lapack(
        150_000, 20, cond, residual, "float64", "precondition", seeds=1, columns=5
    )


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("layout", ["C", "F", "reversed"])
def test_emulated_lstsq_over_blocks_of_rows(emulated, dtype, layout):
    """A of several blocks: residual 16 MiB, packed copies 16 MiB, gram 64 MiB."""
    n = 24
    m = (72 << 20) // (n * np.dtype(np.result_type(dtype, float)).itemsize)
    A, b = gauss((m, n), dtype), gauss((m, 2), dtype, seed=1)
    A[:, 3] *= 100
    r = lowla.lstsq(LAYOUTS[layout](A), b, method="precondition", rng=0)
    gram = A.conj().T.astype(np.result_type(dtype, float)) @ A
    exact = np.linalg.solve(gram, A.conj().T.astype(gram.dtype) @ b)
    assert r.info.method == "precondition"
    np.testing.assert_allclose(r.x, exact, rtol=0, atol=tol(dtype, 1) * np.abs(exact).max())
    norms = np.linalg.norm(b - A @ exact, axis=0)
    np.testing.assert_allclose(r.info.residual_norm, norms, rtol=tol(dtype, 10))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", EXACT)
def test_emulated_rank_deficient_gives_the_minimum_norm(emulated, dtype, method):
    rng = np.random.default_rng(1)
    A = (rng.integers(-3, 4, (900, 12)) @ rng.integers(-3, 4, (12, 30))).astype(dtype)
    b = rng.standard_normal((900, 2)).astype(dtype)
    r = lowla.lstsq(A, b, method=method, rng=0)
    theirs = np.linalg.lstsq(A, b, rcond=None)
    assert (r.rank, r.residuals.shape, r.info.method) == (12, (0,), "direct")
    bound = tol(dtype, 900, r.s[0] / r.s[11])
    np.testing.assert_allclose(r.x, theirs[0], rtol=0, atol=bound * np.abs(theirs[0]).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [*EXACT, "sketch"])
def test_emulated_lstsq_at_any_scale(emulated, dtype, method):
    A, b = problem(900, 24, 10.0, 1e-2, dtype)
    real = np.finfo(dtype).dtype.type
    far = 1e200 if np.finfo(dtype).bits == 64 else 1e30
    plain = lowla.lstsq(A, b, method=method, rng=0)
    for a_scale, b_scale in ((far, 1.0), (1 / far, 1.0), (1.0, far), (1.0, 1 / far), (far, far)):
        r = lowla.lstsq(A * real(a_scale), b * real(b_scale), method=method, rng=0)
        scale = b_scale / a_scale
        np.testing.assert_allclose(r.x / scale, plain.x, rtol=tol(dtype, 24, 10.0))
        np.testing.assert_allclose(r.s / a_scale, plain.s, rtol=tol(dtype, 24, 10.0))
        assert r.info.method == plain.info.method


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["A", "b"])
@pytest.mark.parametrize("method", [*EXACT, "sketch"])
def test_emulated_lstsq_of_not_finite_data(emulated, bad, where, method):
    A, b = problem(900, 24, 10.0, 1e-2)
    (A if where == "A" else b)[17] = bad
    with pytest.raises(ValueError, match=f"{where} contains NaN or Inf"):
        lowla.lstsq(A, b, method=method, rng=0)
    r = lowla.lstsq(A, b, method=method, rng=0, check_finite=False)
    assert np.isnan(r.x).all()
    assert np.isnan(r.s).all()


def test_emulated_lstsq_calls_back(emulated):
    A, b = problem(3000, 24, 1e4, 1e-3)
    seen = []
    lowla.lstsq(A, b, method="precondition", rng=0, callback=seen.append)
    assert len(seen) >= 2
    stopped = lowla.lstsq(A, b, method="precondition", rng=0, callback=lambda info: True)
    assert stopped.info.iterations == 1

    def callback(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lowla.lstsq(A, b, method="precondition", rng=0, callback=callback)


def test_emulated_lstsq_refuses_what_does_not_fit(emulated):
    options = (0.0, "auto", "sjlt", 0.0, 0.0, 0, 0, KEY, True, None)
    for A, b, message in (
        (np.ones((0, 4)), np.ones((0, 1)), "A and b must not be empty"),
        (np.ones((4, 3)), np.ones((5, 1)), "b must have 4 rows, got 5"),
        (np.ones((4, 3)), np.ones(4), "2 dimensions, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.lstsq(A, b, *options)
    with pytest.raises(TypeError, match="another dtype"):
        emulated.lstsq(np.ones((4, 3)), np.ones((4, 1), np.float32), *options)
    with pytest.raises(TypeError, match="b must be an array"):
        emulated.lstsq(np.ones((4, 3)), [1.0], *options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("method", [*EXACT, "sketch"])
def test_emulated_lstsq_of_an_operator(emulated, method, wide, dtype):
    A, b = problem(3000, 24, 1e2, 0.1, dtype)
    A, b = (A.T, b[:24]) if wide else (A, b)
    operator = scipy.sparse.linalg.aslinearoperator(A)
    ours = lowla.lstsq(operator, b, method=method, rng=0)
    x = np.linalg.lstsq(A.astype(np.result_type(dtype, float)), b, rcond=None)[0]
    assert ours.rank == 24
    assert ours.info.converged
    if method == "sketch" and not wide:
        r = np.linalg.norm(A @ x - b)
        assert r * (1 - tol(dtype, 24)) <= np.linalg.norm(A @ ours.x - b) <= 1.1 * r
    else:
        np.testing.assert_allclose(ours.x, x, rtol=0, atol=tol(dtype, 24, 1e2) * np.abs(x).max())
        assert ours.info.backward_error <= tol(dtype, 24)


@pytest.mark.parametrize("returned", ["list", "shape"])
def test_emulated_lstsq_of_an_operator_that_returns_something_else(emulated, returned):
    class Operator:
        shape, dtype = (3000, 24), np.dtype(float)

        def matmat(self, X):
            return [1.0] if returned == "list" else np.ones((2, X.shape[1]))

        rmatmat = matmat

    error, message = (
        (TypeError, "returned no array")
        if returned == "list"
        else (ValueError, "returned an array of the wrong shape")
    )
    options = (0.0, "precondition", "sjlt", 0.0, 0.0, 0, 0, KEY, True, None)
    with pytest.raises(error, match=message):
        emulated.lstsq(Operator(), np.ones((3000, 1)), *options)


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("cr_select", lambda A: lowla.cr_select(A, A.T, 2)),
        ("nystrom_columns", lambda A: lowla.nystrom_columns(A.T @ A, 2)),
    ],
)
def test_emulated_functions_say_that_they_do_not_run_on_the_gpu(
    module, monkeypatch, function, call
):
    monkeypatch.setitem(_backend._LOADERS, "cuda", lambda: (module, None))
    with lowla.use_backend("cuda"), pytest.raises(NotImplementedError) as caught:
        call(np.ones((9, 3)))
    assert str(caught.value) == f"{function} does not run on the GPU yet: pass host arrays"
