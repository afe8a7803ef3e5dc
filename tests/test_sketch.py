"""sketch: known answers of the generator, the structure of the operators, exact products, and how
well they embed subspaces."""

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
from strategies import DTYPES, LAYOUTS
from thread_counts import with_1_2_and_7_threads
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
        a, b = (m.random_normal(key, 0, 203, 57, "float64") for m in (one, other))
        # the last rounding: cancellation in 1 - cos leaves it relative to the radius
        np.testing.assert_allclose(a, b, rtol=4 * eps("float64"), atol=8 * eps("float64"))


def test_threads_do_not_change_the_draws(backend):
    module = _backend.load(backend)
    drawn = with_1_2_and_7_threads(
        lambda: (
            module.random_normal(3, 0, 999, 33, "float64"),
            module.random_signs(3, 2, 999, 33),
            *module.sketch_pattern("sjlt", 3, 64, 999, 8, 1.0),
            lowla.sketch(np.arange(999.0 * 70).reshape(999, 70), 40, rng=3),
        )
    )
    for other in drawn[1:]:
        for a, b in zip(drawn[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


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


# --- every kind: one operator on every backend

DENSE = ("gaussian", "rademacher", "srht")
SPARSE = ("countsketch", "sjlt", "sparse", "uniform")
KINDS = DENSE + SPARSE
# d, n: small, odd, n no power of two, d > n, d beyond the order of the transform, one, and sizes
# at which srht transforms across its groups of 1024
SHAPES = [(70, 300), (33, 4100), (37, 5), (1, 1), (5, 1), (2300, 3000)]


def operator(kind, d, n, seed, **options):
    if kind == "sparse":
        options.setdefault("density", min(1.0, 3 / d))
    return lowla.sketch_operator(kind, d, n, rng=seed, **options)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends")
@pytest.mark.parametrize("key", KEYS)
def test_backends_draw_the_same_operator(key):
    one, *others = (_backend.load(name) for name in BACKENDS)
    for other in others:
        for d, n in SHAPES[:-1]:
            for kind in ("rademacher", "srht"):  # signs over sqrt(d)
                np.testing.assert_array_equal(
                    one.sketch_entries(kind, key, d, n, "float64"),
                    other.sketch_entries(kind, key, d, n, "float64"),
                )
            for kind in SPARSE:
                # densities with one, many and no nonzeros a column, and gaps beyond the table
                for density in (1.0, 0.3, 0.02, 1e-4) if kind == "sparse" else (1.0,):
                    arguments = (kind, key, d, n, min(5, d), density)
                    for a, b in zip(
                        one.sketch_pattern(*arguments),
                        other.sketch_pattern(*arguments),
                        strict=True,
                    ):
                        assert a.dtype == b.dtype
                        np.testing.assert_array_equal(a, b)


@pytest.mark.core
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_threads_change_nothing(backend, kind, shape):
    d, n = shape
    rng = np.random.default_rng(0)
    A, Y = rng.standard_normal((n, 21)), rng.standard_normal((d, 21))
    S = operator(kind, d, n, 4)
    results = with_1_2_and_7_threads(lambda: (S @ A, S @ A[:, 0], S.T @ Y, S.toarray()))
    if backend == "numba":  # NumPy's BLAS does not promise it
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=tol("float64", n))
        return
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.core
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "step_two", "reversed", "read_only"])
def test_products_are_those_of_the_array(backend, kind, dtype, layout):
    # The rounding of a product of length m: gamma_m |S| |A| (Higham 2002, section 3.5).
    rng = np.random.default_rng(0)
    for (d, n), c in zip(SHAPES, (45, 9, 3, 1, 2, 17), strict=True):
        A, Y = rng.standard_normal((n, c)), rng.standard_normal((d, c))
        if np.dtype(dtype).kind == "c":
            A, Y = A + 1j * A[::-1], Y - 1j * Y[::-1]
        A, Y = LAYOUTS[layout](A.astype(dtype)), LAYOUTS[layout](Y.astype(dtype))
        S = operator(kind, d, n, 9, dtype=np.zeros(1, dtype).real.dtype)
        dense = S.toarray()
        assert dense.dtype == S.dtype
        dense = dense.astype(np.float64)
        for got, left, right in ((S @ A, dense, A), (S.T @ Y, dense.T, Y)):
            assert got.dtype == np.dtype(dtype)
            bound = tol(dtype, left.shape[1], factor=4) * (np.abs(left) @ np.abs(right))
            assert np.all(np.abs(got - left @ right) <= bound + np.finfo(dtype).tiny)
        # the adjoint identity <S A, Y> = <A, S^T Y>
        gap = abs(np.vdot(S @ A, Y) - np.vdot(A, S.T @ Y))
        size = np.linalg.norm(dense) * np.linalg.norm(A) * np.linalg.norm(Y)
        assert gap <= tol(dtype, n + d, factor=4) * size


@pytest.mark.parametrize("kind", ["sjlt", "countsketch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "columns"), [(2003, 331), (67, 5003), (60001, 7)])
def test_results_larger_than_the_cache(backend, kind, dtype, d, columns):
    """Such results are summed strip by strip, each over all rows: what a strip is does not show."""
    rng = np.random.default_rng(0)
    n = 500
    A = rng.standard_normal((n, columns))
    if np.dtype(dtype).kind == "c":
        A = A + 1j * A[::-1]
    A = A.astype(dtype)
    S = operator(kind, d, n, 9)
    expected = S.tosparse() @ A
    bound = tol(dtype, n, factor=4) * (abs(S.tosparse()) @ np.abs(A)) + np.finfo(dtype).tiny
    for layout in ("C", "F", "step_two", "reversed"):
        got, *others = with_1_2_and_7_threads(lambda layout=layout: S @ LAYOUTS[layout](A))
        assert np.all(np.abs(got - expected) <= bound)
        for other in others:
            np.testing.assert_array_equal(got, other)
    part = np.hstack([A, A])[:, 3 : columns + 3]
    expected = S.tosparse() @ part
    assert np.all(np.abs(S @ part - expected) <= np.roll(bound, -3, axis=1))


@pytest.mark.core
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sketch_is_the_operator_on_either_axis(backend, kind, dtype):
    A = np.random.default_rng(1).standard_normal((300, 45)).astype(dtype)
    S = lowla.sketch_operator(kind, 70, 300, rng=9)
    np.testing.assert_array_equal(lowla.sketch(A, 70, kind=kind, rng=9), S @ A)
    rows = lowla.sketch(A.T, 70, kind=kind, axis=1, rng=9)
    assert rows.shape == (45, 70)
    np.testing.assert_array_equal(rows, (S @ A).T)
    assert lowla.sketch(A[:, :0], 70, kind=kind, rng=9).shape == (70, 0)
    np.testing.assert_array_equal(lowla.sketch(A[:0], 7, kind=kind, rng=9), np.zeros((7, 45)))


@pytest.mark.core
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_sparse_matrices_are_sketched_as_dense_ones(backend, kind, dtype, index):
    rng = np.random.default_rng(0)
    D = rng.standard_normal((3000, 90)) * (rng.random((3000, 90)) < 0.1)
    A = scipy.sparse.csr_array(D.astype(dtype))
    A.indices, A.indptr = A.indices.astype(index), A.indptr.astype(index)
    for axis, d in ((0, 50), (1, 20)):
        got = lowla.sketch(A, d, kind=kind, axis=axis, rng=2)
        expected = lowla.sketch(A.toarray(), d, kind=kind, axis=axis, rng=2)
        assert got.dtype == expected.dtype
        size = np.sqrt(A.shape[axis])
        np.testing.assert_allclose(got, expected, rtol=0, atol=tol(dtype, 1, factor=8) * size)


# --- structure


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


def test_countsketch_is_sjlt_with_one_nonzero(backend):
    np.testing.assert_array_equal(
        operator("countsketch", 40, 500, 3).toarray(),
        operator("sjlt", 40, 500, 3, nnz_per_col=1).toarray(),
    )


@pytest.mark.parametrize("kind", ["rademacher", "srht"])
@pytest.mark.parametrize("shape", SHAPES)
def test_entries_are_signs_over_the_root_of_d(backend, kind, shape):
    d, n = shape
    dense = operator(kind, d, n, 0).toarray()
    np.testing.assert_array_equal(np.abs(dense), np.full((d, n), 1 / np.sqrt(d)))


@given(bits=st.integers(0, 11), seed=st.integers(0, 2**63), data=st.data())
def test_srht_keeps_distinct_rows_of_an_orthogonal_matrix(backend, bits, seed, data):
    # Tropp 2011: S = sqrt(p/d) R (H/sqrt(p)) D, so S S^T = (p/d) I where n = p.
    n = 2**bits
    d = data.draw(st.integers(1, n))
    S = operator("srht", d, n, seed)
    expected = n / d * np.eye(d)
    np.testing.assert_allclose(S @ S.toarray().T, expected, atol=tol("float64", n) * n / d)


def test_srht_repeats_its_rows_only_when_none_are_left(backend):
    S = operator("srht", 20, 7, 0).toarray()  # order 8
    np.testing.assert_array_equal(S[:8], S[8:16])
    assert len(np.unique(S[:8] @ S[:8].T > 0, axis=0)) == 8 or len(np.unique(S[:8], axis=0)) == 8


@given(n=st.integers(1, 400), d=st.integers(1, 400), seed=st.integers(0, 2**63))
def test_uniform_takes_one_row_of_the_matrix_a_row(backend, n, d, seed):
    S = operator("uniform", d, n, seed)
    dense = S.toarray()
    assert np.all(np.count_nonzero(dense, axis=1) == 1)
    np.testing.assert_allclose(dense.max(axis=1), np.sqrt(n / d))
    np.testing.assert_array_equal(S.tosparse().toarray(), dense)


def test_uniform_draws_every_row_alike(backend):
    # A chi-squared test of 100 cells with 400 draws each; a correct generator fails it with
    # probability 1e-6 (the seed is one of 2^64, none was tried before).
    drawn = operator("uniform", 40_000, 100, 1).tosparse()
    assert scipy.stats.chisquare(np.diff(drawn.indptr)).pvalue > 1e-6


@pytest.mark.parametrize("density", [1.0, 0.4, 0.03, 0.0005])
def test_sparse_nonzeros_are_independent_with_that_density(backend, density):
    # Binomial counts, of all entries and of each row and column; Bonferroni over the tests, so a
    # correct generator fails with probability 1e-6. A density wrong by 6 standard deviations of the
    # total (2 % at 0.03) is caught with probability 1 - 1e-1 at least.
    d, n = 300, 2000
    S = operator("sparse", d, n, 5, density=density).tosparse()
    np.testing.assert_allclose(np.abs(S.data), 1 / np.sqrt(density * d))
    alpha = 1e-6 / (1 + d + n + 1)
    rows = np.bincount(S.indices, minlength=d)
    for counts, trials in (([S.nnz], d * n), (rows, n), (np.diff(S.indptr), d)):
        for count in counts:
            assert scipy.stats.binomtest(int(count), trials, density).pvalue > alpha
    positive = int(np.count_nonzero(S.data > 0))
    assert scipy.stats.binomtest(positive, S.nnz, 0.5).pvalue > alpha


def test_sparse_has_the_density_of_its_paper_by_default(backend):
    # Li, Hastie, Church 2006: 1/sqrt(n)
    S = lowla.sketch_operator("sparse", 100, 10_000, rng=0)
    assert "density=0.01)" in repr(S)
    assert scipy.stats.binomtest(S.tosparse().nnz, 10**6, 0.01).pvalue > 1e-6


def test_repr_names_the_options():
    assert repr(operator("srht", 2, 3, 0)) == "SketchOperator('srht', 2, 3)"
    assert repr(operator("sjlt", 9, 30, 0)) == "SketchOperator('sjlt', 9, 30, nnz_per_col=8)"
    assert operator("uniform", 2, 3, 0).kind == "uniform"


# --- embedding


def _mean_gram(kind, scale=1.0):
    """Mean of S^T S over seeds, in units of its standard error, entry by entry."""
    d, n, trials = 16, 12, 600
    grams = []
    for seed in range(trials):
        S = scale * operator(kind, d, n, seed, density=0.3 if kind == "sparse" else None).toarray()
        grams.append(S.T @ S)
    grams = np.array(grams)
    error = grams.std(axis=0, ddof=1) / np.sqrt(trials)
    return np.abs(grams.mean(axis=0) - np.eye(n)) / np.maximum(error, eps("float64"))


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_unbiased(backend, kind):
    # E S^T S = I, 78 distinct entries: |mean - I| is within 5.5 standard errors everywhere with
    # probability 1 - 3e-6. A scale wrong by 5 % moves the diagonal by at least 9 standard errors
    # (Var S_j^T S_j <= (1/density + 1)/d <= 0.75 for 600 seeds), and fails.
    if backend == "numba" and kind not in ("gaussian", "srht"):
        pytest.skip("draws the same operator bit for bit")
    constant = kind in ("rademacher", "srht", "sjlt", "countsketch")  # |S e_j| = 1 always
    z = _mean_gram(kind)
    if constant:
        dense = operator(kind, 16, 12, 0).toarray()
        np.testing.assert_allclose((dense**2).sum(axis=0), 1.0, rtol=tol("float64", 16))
        np.fill_diagonal(z, 0.0)
    assert z.max() <= 5.5
    wrong = np.diag(_mean_gram(kind, scale=np.sqrt(1.25 if kind == "uniform" else 1.15)))
    assert wrong.max() > 5.5


def _subspaces(n, r, rng):
    """Orthonormal bases: incoherent, coordinates, and one spike beside a spread one."""
    spread = np.linalg.qr(rng.standard_normal((n, r)))[0]
    coordinates = np.eye(n, r)
    spiky = spread.copy()
    spiky[:, 0] = 0
    spiky[n // 2, 0] = 1
    return {"spread": spread, "coordinates": coordinates, "spiky": np.linalg.qr(spiky)[0]}


def _failures(kind, Q, d, t, seeds):
    """Seeds at which a singular value of S Q leaves 1 +- (sqrt(r/d) + t)."""
    radius = np.sqrt(Q.shape[1] / d) + t
    count = 0
    for seed in seeds:
        s = np.linalg.svd(lowla.sketch(Q, d, kind=kind, rng=seed), compute_uv=False)
        count += int(s[0] > 1 + radius or s[-1] < 1 - radius)
    return count


@pytest.mark.parametrize("name", ["spread", "coordinates", "spiky"])
def test_gaussian_distortion_fails_no_more_often_than_the_theorem_says(backend, name):
    # Davidson, Szarek 2001: beyond 1 +- (sqrt(r/d) + t) with probability at most 2 exp(-d t^2 / 2),
    # here 0.088. 200 seeds are allowed the count that such a coin exceeds once in 1e6; without t
    # the singular values leave the interval far more often, so the bound is not vacuous.
    n, r, d, t, seeds = 500, 10, 100, 0.25, range(200)
    Q = _subspaces(n, r, np.random.default_rng(0))[name]
    theorem = 2 * np.exp(-d * t**2 / 2)
    allowed = scipy.stats.binom.isf(1e-6, len(seeds), theorem)
    assert _failures("gaussian", Q, d, t, seeds) <= allowed
    assert _failures("gaussian", Q, d, -0.15, seeds) > allowed


@pytest.mark.parametrize("kind", ["rademacher", "srht", "sjlt"])
@pytest.mark.parametrize("name", ["spread", "coordinates", "spiky"])
def test_structured_distortion_is_that_of_a_gaussian(backend, kind, name, record_property):
    # The kinds with guarantees of the same form for every subspace (Cohen 2016; Tropp 2011): the
    # rate of failure is printed, and held to the Gaussian theorem's with its slack.
    if backend == "numba":
        pytest.skip("draws the same operator bit for bit")
    n, r, d, t, seeds = 500, 10, 100, 0.25, range(200)
    Q = _subspaces(n, r, np.random.default_rng(0))[name]
    failed = _failures(kind, Q, d, t, seeds)
    print(f"{kind} {name}: {failed} of {len(seeds)} seeds beyond sqrt(r/d) + {t}")
    assert failed <= scipy.stats.binom.isf(1e-6, len(seeds), 2 * np.exp(-d * t**2 / 2))


def test_countsketch_needs_d_quadratic_in_the_dimension(backend):
    # Nelson, Nguyen 2013: two of r coordinates collide with probability at most r^2 / (2 d), and a
    # collision makes S Q singular. At d = 4 r nearly every seed has one, at d = 50 r^2 few have.
    if backend == "numba":
        pytest.skip("draws the same operator bit for bit")
    n, r, seeds = 500, 10, range(200)
    Q = _subspaces(n, r, np.random.default_rng(0))["coordinates"]
    small = [
        np.linalg.matrix_rank(lowla.sketch(Q, 40, kind="countsketch", rng=s)) < r for s in seeds
    ]
    assert sum(small) > 0.5 * len(seeds)
    large = sum(
        np.linalg.matrix_rank(lowla.sketch(Q, 5000, kind="countsketch", rng=s)) < r for s in seeds
    )
    assert large <= scipy.stats.binom.isf(1e-6, len(seeds), r**2 / (2 * 5000))


def test_uniform_loses_coordinates(backend):
    # One of 10 rows of 500 is missed in 100 draws with probability 0.818, all 10 are hit with less
    # than 1e-6; a spread subspace is kept.
    n, r, d, t, seeds = 500, 10, 100, 0.25, range(200)
    bases = _subspaces(n, r, np.random.default_rng(0))
    spread = _failures("uniform", bases["spread"], d, t, seeds)
    lost = _failures("uniform", bases["coordinates"], d, t, seeds)
    print(f"uniform: spread {spread}, coordinates {lost} of {len(seeds)} seeds fail")
    assert spread <= 0.3 * len(seeds)
    assert lost == len(seeds)


def test_sparse_loses_coordinates(backend):
    # Column j is empty with probability (1 - density)^d: here 0.40 each, 0.994 for one of 10.
    n, r, d, seeds = 500, 10, 20, range(200)
    bases = _subspaces(n, r, np.random.default_rng(0))
    ranks = {
        name: [np.linalg.matrix_rank(lowla.sketch(Q, d, kind="sparse", rng=s)) for s in seeds]
        for name, Q in bases.items()
    }
    density = 1 / np.sqrt(n)
    kept = (1 - (1 - density) ** d) ** r
    assert np.sum(np.equal(ranks["coordinates"], r)) <= scipy.stats.binom.isf(1e-6, 200, kept)
    assert np.mean(np.equal(ranks["spread"], r)) >= 0.9
