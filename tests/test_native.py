"""The compiled module: its small solvers, BLAS table, thread pool, instruction sets and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import lowla
from conftest import BACKENDS
from strategies import DTYPES
from tolerances import eps, orthogonality, tol

if "native" not in BACKENDS:
    pytest.skip("the native backend is not tested here", allow_module_level=True)

from lowla import _native

SIZES = [1, 2, 3, 5, 8, 9, 16, 33, 64, 100]


def random_matrix(m, n, dtype, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n))
    return (A + 1j * rng.standard_normal((m, n)) if np.dtype(dtype).kind == "c" else A).astype(
        dtype
    )


def run_python(code, **environment):
    """The code in a fresh interpreter; its standard output."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- small solvers ---


@pytest.mark.core
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_eigh_is_backward_stable(n, dtype):
    X = random_matrix(n, n, dtype)
    spectra = [
        np.linspace(-1, 1, n),
        np.ones(n),
        np.logspace(0, -18, n),
        np.r_[np.zeros(n - 1), 1.0],
    ]
    Q = np.linalg.qr(X)[0]
    for H in [X + X.conj().T, *((Q * w) @ Q.conj().T for w in spectra), np.zeros((n, n))]:
        A = (H + H.conj().T) / 2
        w, V = _native._testing.eigh(A.astype(dtype))
        norm = np.linalg.norm(A, 2)
        assert np.all(np.diff(w) <= 0)
        assert orthogonality(V) <= tol("float64", n, factor=10)
        assert np.linalg.norm(A @ V - V * w, 2) <= tol("float64", n, factor=10) * norm
        assert np.abs(w[::-1] - np.linalg.eigvalsh(A)).max() <= tol("float64", n, factor=10) * norm


@pytest.mark.core
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_leading_eigenpairs_are_those_of_eigh(n, dtype):
    # Twisted factorisations where the eigenvalues are apart, QL where they are not (clusters,
    # multiplicity, zero): the same bounds hold.
    X = random_matrix(n, n, dtype)
    Q = np.linalg.qr(X)[0]
    spectra = [
        np.linspace(-1, 1, n),
        np.ones(n),
        np.logspace(0, -18, n),
        np.r_[np.zeros(n - 1), 1.0],
        np.repeat([3.0, 2.0, 1.0], n)[::3][:n],
        1 + 1e-13 * np.arange(n),
        np.linspace(1, 2, n) * 1e200,
        np.linspace(1, 2, n) * 1e-200,
    ]
    for H in [
        X @ X.conj().T,
        *((Q * w) @ Q.conj().T for w in spectra),
        np.zeros((n, n)),
        np.eye(n),
    ]:
        A = ((H + H.conj().T) / 2).astype(dtype)
        for count in {1, max(1, n // 6), max(1, n // 2), n}:
            w, V = _native._testing.eigh(A, count)
            norm = np.linalg.norm(A, 2)
            assert w.shape == (count,)
            assert orthogonality(V) <= tol("float64", n, factor=10)
            assert np.linalg.norm(A @ V - V * w, 2) <= tol("float64", n, factor=10) * norm
            top = np.linalg.eigvalsh(A)[::-1][:count]
            assert np.abs(w - top).max() <= tol("float64", n, factor=10) * norm


@pytest.mark.core
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (9, 9), (40, 17), (64, 64), (130, 100)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_svd_is_backward_stable(shape, dtype):
    m, n = shape
    X = random_matrix(m, n, dtype)
    graded = X * np.logspace(0, -250, n)
    deficient = X[:, : max(1, n // 2)] @ random_matrix(max(1, n // 2), n, dtype, 1)
    for A in (X, graded, deficient, 1e200 * X, 1e-200 * X, np.zeros(shape, dtype)):
        U, s, V = _native._testing.svd(A)
        norm = np.abs(A).max()
        assert np.all(np.diff(s) <= 0)
        assert orthogonality(U) <= tol("float64", m, factor=10)
        assert orthogonality(V) <= tol("float64", m, factor=10)
        scaled = A / norm if norm > 0 else A
        residual = scaled - (U * (s / norm if norm > 0 else s)) @ V.conj().T
        assert np.linalg.norm(residual) <= tol("float64", m, factor=10) * np.linalg.norm(scaled)


def test_svd_of_graded_columns_keeps_relative_accuracy():
    # One-sided Jacobi (Demmel, Veselic 1992): each singular value of a well-conditioned matrix with
    # scaled columns is accurate relative to itself.
    Q = np.linalg.qr(random_matrix(8, 8, "float64"))[0]
    grades = np.logspace(0, -70, 8)
    _, s, _ = _native._testing.svd(Q * grades)
    np.testing.assert_allclose(s, grades, rtol=tol("float64", 8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gemm_through_scipys_capsules(dtype):
    for m, k, n in ((1, 1, 1), (3, 5, 7), (300, 200, 100), (0, 3, 2), (4, 0, 2)):
        A, B = random_matrix(m, k, dtype), random_matrix(k, n, dtype, 1)
        got = _native._testing.gemm(A, B)
        bound = tol(dtype, max(k, 1), factor=4)
        assert np.all(np.abs(got - A @ B) <= bound * (np.abs(A) @ np.abs(B)) + bound)
    assert _native.features()["blas_integer_bytes"] in (4, 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_small_problems_go_to_lapack(dtype):
    # A basis beyond 256 columns: eigh and svd of that order are LAPACK's.
    S = 1 / np.arange(1, 401)
    Q = np.linalg.qr(random_matrix(450, 400, dtype))[0]
    A = ((Q * S) @ np.linalg.qr(random_matrix(400, 400, dtype, 1))[0]).astype(dtype)
    for k in (120, 390):
        r = lowla.rsvd(A, k, rng=0)
        np.testing.assert_allclose(r.S, S[:k], rtol=0.01)
        assert orthogonality(r.U) <= tol(dtype, 450)


# --- instruction sets ---


@pytest.mark.parametrize("level", ["baseline", "v3"])
def test_lower_instruction_sets_give_the_same_answer(level):
    out = run_python(
        """
        import numpy as np, scipy.sparse, lowla
        rng = np.random.default_rng(0)
        for dtype in ("float64", "float32", "complex128", "complex64"):
            A = rng.standard_normal((257, 131)) * (1 / np.arange(1, 132))
            A = (A + 1j * A[::-1] if dtype[0] == "c" else A).astype(dtype)
            sparse = scipy.sparse.csr_array(np.where(abs(A) > 0.1, A, 0))
            for M in (A, np.asfortranarray(A), A[::2, ::-1], sparse):
                r = lowla.rsvd(M, 9, rng=0)
                print(" ".join(f"{s:.4e}" for s in r.S), f"{r.info.error:.4e}")
        """,
        LOWLA_SIMD=level,
    )
    expected = run_python(
        """
        import numpy as np, scipy.sparse, lowla
        rng = np.random.default_rng(0)
        for dtype in ("float64", "float32", "complex128", "complex64"):
            A = rng.standard_normal((257, 131)) * (1 / np.arange(1, 132))
            A = (A + 1j * A[::-1] if dtype[0] == "c" else A).astype(dtype)
            sparse = scipy.sparse.csr_array(np.where(abs(A) > 0.1, A, 0))
            for M in (A, np.asfortranarray(A), A[::2, ::-1], sparse):
                M = M.toarray() if scipy.sparse.issparse(M) else M
                s = np.linalg.svd(M, compute_uv=False).astype(float)
                error = np.sqrt((s[9:] ** 2).sum() / (s**2).sum())
                print(" ".join(f"{x:.4e}" for x in s[:9]), f"{error:.4e}")
        """
    )
    for got, want in zip(out.splitlines(), expected.splitlines(), strict=True):
        np.testing.assert_allclose(
            [float(x) for x in got.split()], [float(x) for x in want.split()], rtol=2e-3
        )


# --- threads, interrupts, fork ---


def test_two_threads_at_once_do_not_disturb_each_other():
    A = [random_matrix(400, 300, "float64", seed) for seed in range(4)]
    alone = [lowla.rsvd(M, 10, rng=0).S for M in A]
    found: dict[int, np.ndarray] = {}

    def work(i):
        for _ in range(5):
            found[i] = lowla.rsvd(A[i], 10, rng=0).S

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(4):
        np.testing.assert_array_equal(found[i], alone[i])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes():
    out = run_python(
        """
        import os, sys, numpy as np, lowla
        A = np.random.default_rng(0).standard_normal((600, 400))
        before = lowla.rsvd(A, 10, rng=0).S
        child = os.fork()
        if child == 0:
            ok = np.array_equal(lowla.rsvd(A, 10, rng=0).S, before)
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert np.array_equal(lowla.rsvd(A, 10, rng=0).S, before)
        print("done")
        """,
        PYTHONWARNINGS="ignore",
    )
    assert out.strip() == "done"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_ctrl_c_interrupts_and_leaves_no_state_behind():
    # The work takes minutes; the interrupt comes after 0.3 s of it. That it ends soon after is the
    # time limit of run_python.
    out = run_python(
        """
        import os, signal, threading, time, numpy as np, lowla
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
        A = np.random.default_rng(0).standard_normal((3000, 2000))
        small = lowla.rsvd(A[:300], 10, rng=0).S
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        start = time.perf_counter()
        try:
            lowla.rsvd(A, 100, n_iter=2000, method="subspace", rng=0)
        except KeyboardInterrupt:
            print("interrupted", time.perf_counter() - start)
        assert np.array_equal(lowla.rsvd(A[:300], 10, rng=0).S, small)
        """
    )
    assert out.startswith("interrupted")
    assert float(out.split()[1]) < 5


def test_threads_are_bounded_and_settable():
    before = lowla.get_num_threads()
    try:
        for n in (1, 3, 2):
            lowla.set_num_threads(n)
            assert lowla.get_num_threads() == n
            assert _native.features()["threads"] == n
    finally:
        lowla.set_num_threads(before)
    out = run_python("import lowla; print(lowla.get_num_threads())", LOWLA_NUM_THREADS="5")
    assert out.strip() == "5"


# --- memory and references ---


def test_no_copy_of_the_input():
    # At the peak at most 4 (m + n)(k + p) elements + 16 MiB beyond A, which has 92 MiB.
    out = run_python(
        """
        import resource, numpy as np, lowla
        lowla.rsvd(np.random.default_rng(0).standard_normal((400, 300)), 5, rng=0)
        m, n, k = 4000, 3000, 50
        for order in "CF":
            A = np.asarray(np.random.default_rng(0).standard_normal((m, n)), order=order)
            A *= 1.0
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            lowla.rsvd(A, k, rng=0)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print((after - before) * 1024, 4 * (m + n) * (k + 10) * 8 + (16 << 20))
            del A
        """
    )
    for line in out.splitlines():
        used, allowed = map(float, line.split())
        assert used <= allowed


@pytest.mark.parametrize("fails", [False, True])
def test_repeated_calls_do_not_leak(fails):
    psutil = pytest.importorskip("psutil")
    A = random_matrix(300, 200, "float64")
    if fails:
        A[5, 5] = np.nan
    references = sys.getrefcount(A)

    def call():
        try:
            lowla.rsvd(A, 10, rng=0)
        except ValueError:
            assert fails

    for _ in range(50):
        call()
    process = psutil.Process()
    start = process.memory_info().rss
    for _ in range(500):
        call()
    assert process.memory_info().rss - start < 5e6
    assert sys.getrefcount(A) == references


def test_threads_that_end_give_their_memory_back():
    psutil = pytest.importorskip("psutil")
    A = random_matrix(4000, 1000, np.float64)

    def work():
        lowla.rsvd(A, 50, rng=0)  # some 8 MiB of panels, which the thread keeps for its next call

    def resident_after(count):
        for _ in range(count):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return psutil.Process().memory_info().rss

    before = resident_after(5)
    assert resident_after(25) - before < 32 << 20


# --- malformed payloads: the module itself never reads out of bounds ---


@pytest.mark.core
@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1, 2], [0, 7], "column index out of range"),
        ([0, 1, 2], [0, -1], "column index out of range"),
        ([0, 2, 1], [0, 1], "indptr must not decrease"),
        ([0, 1, 9], [0, 1], "indptr points past the data"),
        ([0, 2], [0, 1], "indptr must have m \\+ 1 entries"),
    ],
)
def test_malformed_csr_is_refused(indptr, indices, message):
    payload = (np.array(indptr), np.array(indices), np.ones(2), (2, 3))
    with pytest.raises(ValueError, match=message):
        _native.rsvd(payload, 1, 0.0, 10, -1, "auto", "auto", 0, True, None)


@pytest.mark.core
def test_wrong_arrays_are_refused():
    arguments = (1, 0.0, 10, -1, "auto", "auto", 0, True, None)
    with pytest.raises(TypeError, match="float32, float64, complex64 or complex128"):
        _native.rsvd(np.ones((3, 3), np.int64), *arguments)
    with pytest.raises(ValueError, match="2 dimensions"):
        _native.rsvd(np.ones(3), *arguments)
    with pytest.raises(ValueError, match="unknown method"):
        _native.rsvd(np.eye(3), 1, 0.0, 10, -1, "none", "auto", 0, True, None)
    with pytest.raises(ValueError, match="must have 4 rows"):
        _native.sketch_apply("sjlt", 0, 2, 4, 1, 1.0, np.eye(3), False)
    for arguments, message in (
        (("dct", 0, 2, 3, 1, 1.0), "kind must be"),
        (("sjlt", 0, 2, 3, 3, 1.0), "nnz must be in 1..d = 2, got 3"),
        (("sparse", 0, 2, 3, 1, 0.0), r"density must be in \(0, 1\], got 0"),
        (("sparse", 0, 2, 3, 1, np.nan), r"density must be in \(0, 1\], got nan"),
        (("srht", 0, 0, 3, 1, 1.0), r"d and n must be in 1\.\.2\^48, got 0 and 3"),
        (("uniform", 0, 2**31, 3, 1, 1.0), r"must be below 2\^31, got 2147483648"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.sketch_apply(*arguments, np.eye(3), False)
    with pytest.raises(ValueError, match="kind must be a sparse one"):
        _native.sketch_pattern("srht", 0, 2, 3, 1, 1.0)
    with pytest.raises(ValueError, match="kind must be a dense one"):
        _native.sketch_entries("sjlt", 0, 2, 3, "float64")
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        _native.sketch_entries("srht", 0, 2, 3, "complex64")


def test_rounding_units_are_those_of_the_dtype():
    for dtype in DTYPES:
        U = lowla.rsvd(random_matrix(60, 40, dtype), 5, rng=0).U
        assert orthogonality(U) <= 200 * eps(dtype)
