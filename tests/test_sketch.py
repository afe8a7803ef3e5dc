"""sketch: known answers of the generator, the structure of the operators, exact products."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import lowla
from conftest import BACKENDS
from lowla import _backend
from strategies import DTYPES
from tolerances import eps, tol

KEYS = [0, 1, 2**32, 2**64 - 1, 0x0123456789ABCDEF]


@pytest.mark.core
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(backend, counter, key, words):
    # kat_vectors of Random123 (Salmon, Moraes, Dror, Shaw 2011), philox4x32-10
    got = _backend.load(backend).philox(key, counter)
    np.testing.assert_array_equal(got, np.array(words, np.uint32))


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends")
@pytest.mark.parametrize("key", KEYS)
def test_backends_draw_the_same_bits(key):
    one, *others = (_backend.load(name) for name in BACKENDS)
    for other in others:
        np.testing.assert_array_equal(
            one.random_signs(key, 2, 300, 17), other.random_signs(key, 2, 300, 17)
        )
        for d, n, nnz in ((64, 500, 8), (37, 100, 5), (3, 50, 3), (1, 9, 1)):
            for a, b in zip(
                one.sjlt_pattern(key, d, n, nnz), other.sjlt_pattern(key, d, n, nnz), strict=True
            ):
                np.testing.assert_array_equal(a, b)
        a, b = (m.random_normal(key, 0, 203, 57, "float64") for m in (one, other))
        # the last rounding: cancellation in 1 - cos leaves it relative to the radius
        np.testing.assert_allclose(a, b, rtol=4 * eps("float64"), atol=8 * eps("float64"))


def test_threads_do_not_change_the_draws(backend):
    module, before = _backend.load(backend), lowla.get_num_threads()
    try:
        drawn = []
        for threads in (1, 2, 7):
            lowla.set_num_threads(threads)
            drawn.append(
                (
                    module.random_normal(3, 0, 999, 33, "float64"),
                    module.random_signs(3, 2, 999, 33),
                    *module.sjlt_pattern(3, 64, 999, 8),
                    lowla.sketch(np.arange(999.0 * 70).reshape(999, 70), 40, rng=3),
                )
            )
        for other in drawn[1:]:
            for a, b in zip(drawn[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        lowla.set_num_threads(before)


def test_normals_are_normal_and_independent(backend):
    module = _backend.load(backend)
    Z = module.random_normal(12345, 0, 400, 500, "float64")
    assert scipy.stats.kstest(Z.ravel(), "norm").pvalue > 1e-4
    for lag in (Z[1:] * Z[:-1], Z[:, 1:] * Z[:, :-1], Z[2:] * Z[:-2], Z[::4, 1:] * Z[1::4, :-1]):
        assert abs(lag.mean()) <= 5 / np.sqrt(lag.size)
    np.testing.assert_array_equal(
        module.random_normal(12345, 0, 400, 500, "float32"), Z.astype(np.float32)
    )


def test_entries_do_not_depend_on_the_size_asked_for(backend):
    module = _backend.load(backend)
    large = module.random_normal(7, 0, 101, 60, "float64")
    np.testing.assert_array_equal(module.random_normal(7, 0, 50, 31, "float64"), large[:50, :31])
    large = module.random_signs(7, 2, 301, 60)
    np.testing.assert_array_equal(module.random_signs(7, 2, 130, 31), large[:130, :31])


@given(
    d=st.integers(1, 200), n=st.integers(1, 300), nnz=st.integers(1, 16), seed=st.integers(0, 2**63)
)
def test_sjlt_has_one_nonzero_in_each_row_block_of_each_column(backend, d, n, nnz, seed):
    nnz = min(nnz, d)
    S = lowla.sketch_operator("sjlt", d, n, rng=seed, nnz_per_col=nnz)
    dense = S.toarray()
    assert np.all(np.count_nonzero(dense, axis=0) == nnz)
    np.testing.assert_allclose(np.abs(dense[dense != 0]), 1 / np.sqrt(nnz))
    for b in range(nnz):
        block = dense[b * d // nnz : (b + 1) * d // nnz]
        assert np.all(np.count_nonzero(block, axis=0) == 1)
    np.testing.assert_array_equal(S.tosparse().toarray(), dense)


@pytest.mark.parametrize("kind", ["gaussian", "sjlt"])
def test_embeddings_are_unbiased(backend, kind):
    # E S^T S = I: the mean of |Sx|^2 over 400 seeds, standard deviation sqrt(2/d) of one seed for
    # the Gaussian operator and no more for the sparse one.
    n, d, trials = 60, 32, 400
    x = np.random.default_rng(0).standard_normal(n)
    x /= np.linalg.norm(x)
    y = np.zeros(n)
    y[:2] = 1 / np.sqrt(2)
    for v in (x, y):
        norms = [
            np.linalg.norm(lowla.sketch_operator(kind, d, n, rng=s) @ v) ** 2 for s in range(trials)
        ]
        assert abs(np.mean(norms) - 1) <= 4 * np.sqrt(2 / d / trials)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["gaussian", "sjlt"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_products_are_those_of_the_array(backend, kind, dtype, layout):
    rng = np.random.default_rng(0)
    n, d, c = 300, 70, 45
    A = rng.standard_normal((n, c)).astype(dtype)
    Y = rng.standard_normal((d, c)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        A, Y = A + 1j * A[::-1], Y - 1j * Y[::-1]
    if layout == "F":
        A, Y = np.asfortranarray(A), np.asfortranarray(Y)
    elif layout == "strided":
        A, Y = np.repeat(A, 2, axis=1)[:, ::2], np.repeat(Y, 2, axis=0)[::2]
    real = np.zeros(1, dtype).real.dtype
    S = lowla.sketch_operator(kind, d, n, rng=9, dtype=real)
    dense = S.toarray().astype(np.float64)
    bound = tol(dtype, n, factor=4)
    for got, expected in (
        (S @ A, dense @ A),
        (S.T @ Y, dense.T @ Y),
        (lowla.sketch(A, d, kind=kind, rng=9), dense @ A),
        (lowla.sketch(A.T, d, kind=kind, axis=1, rng=9), A.T @ dense.T),
    ):
        assert got.dtype == np.dtype(dtype)
        assert np.abs(got - expected).max() <= bound * np.abs(expected).max()
    # the adjoint identity <S A, Y> = <A, S^T Y>
    left, right = np.vdot(S @ A, Y), np.vdot(A, S.T @ Y)
    assert abs(left - right) <= bound * np.linalg.norm(A) * np.linalg.norm(Y)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["gaussian", "sjlt"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_matrices_are_sketched_as_dense_ones(backend, kind, dtype):
    A = scipy.sparse.random_array((400, 90), density=0.1, rng=np.random.default_rng(0)).astype(
        dtype
    )
    for axis, d in ((0, 50), (1, 20)):
        got = lowla.sketch(A.tocsr(), d, kind=kind, axis=axis, rng=2)
        expected = lowla.sketch(A.toarray(), d, kind=kind, axis=axis, rng=2)
        np.testing.assert_allclose(got, expected, atol=tol(dtype, 400))


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_distortion_of_a_subspace(backend, seed):
    # Davidson, Szarek 2001: the singular values of S Q lie in 1 +- (sqrt(n/d) + t) with probability
    # 1 - 2 exp(-d t^2 / 2): here beyond 1 - 1e-8.
    n, k, d, t = 2000, 50, 400, 0.32
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, k)))[0]
    for kind in ("gaussian", "sjlt"):
        s = np.linalg.svd(lowla.sketch(Q, d, kind=kind, rng=seed), compute_uv=False)
        assert s[0] <= 1 + np.sqrt(k / d) + t
        assert s[-1] >= 1 - np.sqrt(k / d) - t
