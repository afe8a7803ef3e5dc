"""Monarch matrices: the products against the definition, the optimality of the projection, the
Fourier transform; and long convolutions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import next_fast_len
from scipy.sparse.linalg import LinearOperator, gmres

import lowla
from strategies import DTYPES, LAYOUTS
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol


def gauss(rng, shape, dtype):
    real = rng.standard_normal(shape)
    is_complex = np.dtype(dtype).kind == "c"
    return (real + 1j * rng.standard_normal(shape) if is_complex else real).astype(dtype)


def dense(L, R):
    """The matrix written out from the definition, entry by entry, in double precision."""
    (l, s, r), (k, q, p) = L.shape, R.shape
    wide = np.result_type(L.dtype, np.float64)
    first, second = np.zeros((k * q, k * p), wide), np.zeros((l * s, l * r), wide)
    for a in range(k):
        first[a * q : (a + 1) * q, a * p : (a + 1) * p] = R[a]
    for j in range(l):
        for i in range(s):
            for a in range(r):
                second[i * l + j, a * l + j] = L[j, i, a]
    return second @ first


def assert_product(Y, M, X, dtype, steps, factor=4.0):
    """|Y - M X| <= factor · steps · u · |M| |X| in every entry, for blocks as `blocks_of`."""
    bound = np.abs(M) @ np.abs(X) * (factor * steps * eps(dtype))
    assert Y.dtype == dtype
    assert Y.shape == (M @ X).shape
    assert (np.abs(Y - M @ X) <= bound).all()


def blocks_of(rng, left, right, dtype):
    """Blocks whose sums do not cancel, so that |M| is nearly the product of their moduli."""
    is_complex = np.dtype(dtype).kind == "c"

    def drawn(shape):
        real = 1.0 + rng.random(shape)
        return (real + 0.3j * rng.random(shape) if is_complex else real).astype(dtype)

    return drawn(left), drawn(right)


@st.composite
def shapes(draw, square=False):
    """Shapes of L and R that fit, ones and rectangular blocks among them."""
    if square:
        k, l = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        return (l, k, k), (k, l, l)
    l, r = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    k = draw(st.sampled_from([d for d in range(1, l * r + 1) if l * r % d == 0]))
    s, p = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    return (l, s, r), (k, l * r // k, p)


layouts = st.sampled_from([name for name in LAYOUTS if name != "broadcast_row"])
seeds = st.integers(0, 2**32 - 1)


@given(
    sizes=shapes(),
    dtype=st.sampled_from(DTYPES),
    layout=layouts,
    seed=seeds,
    columns=st.sampled_from([1, 3, 64, 70, 130]),
)
def test_product_is_that_of_the_definition(backend, sizes, dtype, layout, seed, columns):
    rng = np.random.default_rng(seed)
    L, R = blocks_of(rng, *sizes, dtype)
    M, steps = dense(L, R), 8 + sizes[0][2] + sizes[1][2]
    X = LAYOUTS[layout](gauss(rng, (M.shape[1], columns), dtype))
    Y = LAYOUTS[layout](gauss(rng, (M.shape[0], columns), dtype))
    kept = [A.copy() for A in (L, R, X)]
    assert_product(lowla.monarch_matmul(L, R, X), M, X, dtype, steps)
    assert_product(lowla.monarch_matmul(L, R, X[:, 0]), M, X[:, 0], dtype, steps)
    strided = lowla.Monarch(np.asfortranarray(L), R[:, :, ::-1].copy()[:, :, ::-1])
    steps += sizes[0][1] + sizes[1][1]
    for operator, expected in [
        (strided, M),
        (strided.T, M.T),
        (strided.H, M.conj().T),
        (strided.T.H, M.conj()),
        (strided.H.H, M),
        (strided.H.T, M.conj()),
        (strided.T.H.T, M.conj().T),
    ]:
        assert operator.shape == expected.shape
        V, U = (X, Y) if expected.shape == M.shape else (Y, X)
        assert_product(operator @ V, expected, V, dtype, steps)
        assert_product(operator @ V[:, 0], expected, V[:, 0], dtype, steps)
        assert_product(operator.rmatmat(U), expected.conj().T, U, dtype, steps)
        assert_product(operator.rmatvec(U[:, 0]), expected.conj().T, U[:, 0], dtype, steps)
    for before, after in zip(kept, (L, R, X), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_formula_of_square_blocks(backend):
    """y[l·b + j] = sum_k L[j, l, k] sum_i R[k, j, i] x[k·b + i], in integers: no rounding."""
    rng = np.random.default_rng(0)
    b = 5
    L, R = (rng.integers(-9, 10, (b, b, b)) for _ in range(2))
    x = rng.integers(-9, 10, b * b)
    y = np.einsum("jlk,kji,ki->lj", L, R, x.reshape(b, b)).ravel()
    np.testing.assert_array_equal(lowla.monarch_matmul(L, R, x), y)


@pytest.mark.core
@given(sizes=shapes(), seed=seeds, dtype=st.sampled_from(DTYPES), permuted=st.booleans())
def test_small_integers_are_exact(backend, sizes, seed, dtype, permuted):
    rng = np.random.default_rng(seed)
    L, R = (rng.integers(-3, 4, size).astype(dtype) for size in sizes)
    M, (k, _, p) = dense(L, R), sizes[1]
    if permuted:
        M = M[:, np.arange(k * p).reshape(k, p).T.ravel()]
    operator = lowla.Monarch(L, R, permuted=permuted)
    np.testing.assert_array_equal(operator.toarray(), M)
    np.testing.assert_array_equal(operator.T.toarray(), M.T)
    assert operator.toarray().dtype == operator.dtype == dtype
    assert operator.nparams == operator.T.nparams == L.size + R.size


@given(sizes=shapes(), dtype=st.sampled_from(DTYPES), seed=seeds, permuted=st.booleans())
def test_adjoint_identity(backend, sizes, dtype, seed, permuted):
    rng = np.random.default_rng(seed)
    L, R = (gauss(rng, size, dtype) for size in sizes)
    M = lowla.Monarch(L, R, permuted=permuted)
    x, y = gauss(rng, M.shape[1], dtype), gauss(rng, M.shape[0], dtype)
    scale = np.abs(y) @ lowla.Monarch(np.abs(L), np.abs(R), permuted=permuted).toarray() @ np.abs(x)
    assert abs(np.vdot(y, M @ x) - np.vdot(M.H @ y, x)) <= tol(dtype, sum(M.shape)) * scale


def test_kronecker_products_are_monarch_matrices(backend):
    rng = np.random.default_rng(1)
    A, B = rng.integers(-4, 5, (3, 4)), rng.integers(-4, 5, (5, 2))
    M = lowla.Monarch(np.stack([A] * 5), np.stack([B] * 4))
    np.testing.assert_array_equal(M.toarray(), np.kron(A, B))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_caller_gives_memory_for_the_result(backend, dtype):
    rng = np.random.default_rng(0)
    L, R = (rng.standard_normal((4, 4, 4)).astype(dtype) for _ in range(2))
    for X in (rng.standard_normal(shape).astype(dtype) for shape in ((16,), (16, 3))):
        expected = lowla.monarch_matmul(L, R, X)
        for out in (
            np.full_like(expected, np.nan),
            np.asfortranarray(np.full_like(expected, np.nan)),
            np.full((32, *X.shape[1:]), np.nan, dtype)[::-2],
            X.copy(),
        ):
            assert lowla.monarch_matmul(L, R, X, out=out) is out
            np.testing.assert_array_equal(out, expected)
        assert lowla.monarch_matmul(L, R, X, out=X) is X
        np.testing.assert_array_equal(X, expected)
    X = rng.standard_normal((16, 4)).astype(dtype)
    expected = lowla.monarch_matmul(L, R, X)
    out = L.reshape(16, 4)
    np.testing.assert_array_equal(lowla.monarch_matmul(L, R, X, out=out), expected)


def test_the_operator_is_a_linear_operator(backend):
    rng = np.random.default_rng(2)
    L, R = np.float32(gauss(rng, (3, 3, 3), "float64")), gauss(rng, (3, 3, 3), "float32")
    M = lowla.Monarch(L + 4 * np.eye(3, dtype="f"), R + 4 * np.eye(3, dtype="f"))
    assert isinstance(M, LinearOperator)
    assert repr(M) == "Monarch(9 x 9, L (3, 3, 3), R (3, 3, 3))"
    assert M.info is None
    assert not M.permuted
    assert lowla.Monarch(L, R).R is R
    assert (M @ np.ones(9)).dtype == np.float64
    assert (M @ np.ones(9, np.complex64)).dtype == np.complex64
    assert lowla.Monarch(L, R * 1j).dtype == np.complex64
    x, code = gmres(M, np.ones(9), rtol=1e-5)
    assert code == 0
    assert np.linalg.norm(M @ x - 1.0) <= 1e-4


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_is_less_than_one_array_beside_the_result(backend, order):
    rng = np.random.default_rng(3)
    L, R = gauss(rng, (32, 32, 32), "float64"), gauss(rng, (32, 32, 32), "float64")
    X = np.array(gauss(rng, (1024, 2000), "float64"), order=order)
    lowla.monarch_matmul(L, R, X)
    tracemalloc.start()
    try:
        Y = lowla.monarch_matmul(L, R, X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 1.5 * Y.nbytes


def test_empty_arrays(backend):
    L, R = np.ones((2, 3, 4)), np.ones((4, 2, 5), np.float32)
    assert lowla.monarch_matmul(L, R, np.ones((20, 0))).shape == (6, 0)
    none = lowla.monarch_matmul(np.ones((2, 3, 0)), np.ones((0, 2, 5)), np.ones((0, 7)))
    np.testing.assert_array_equal(none, np.zeros((6, 7)))
    square = lowla.Monarch(np.ones((0, 2, 2)), np.ones((2, 0, 0)))
    assert square.solve(np.ones(0)).shape == (0,)


# Solves


@given(sizes=shapes(square=True), dtype=st.sampled_from(DTYPES), seed=seeds, permuted=st.booleans())
def test_solve(backend, sizes, dtype, seed, permuted):
    rng = np.random.default_rng(seed)
    L, R = (gauss(rng, size, dtype) + 6 * np.eye(size[1], dtype=dtype) for size in sizes)
    M = lowla.Monarch(L, R, permuted=permuted)
    for operator in (M, M.T, M.H, M.T.H):
        A = operator.toarray().astype(np.result_type(dtype, np.float64))
        B = gauss(rng, (len(A), 3), dtype)
        X = operator.solve(B)
        assert X.dtype == dtype
        cond = float(np.linalg.cond(L).max() * np.linalg.cond(R).max())
        bound = tol(dtype, len(A), cond)
        assert np.linalg.norm(A @ X - B) <= bound * np.linalg.norm(B)
        np.testing.assert_allclose(operator.solve(B[:, 2]), X[:, 2], rtol=bound, atol=bound)


def test_singular_blocks_raise(backend):
    good, bad = np.stack([np.eye(3)] * 3), np.stack([np.eye(3), np.eye(3), np.ones((3, 3))])
    for M, name in [(lowla.Monarch(bad, good), "L"), (lowla.Monarch(good, bad), "R")]:
        with pytest.raises(np.linalg.LinAlgError) as caught:
            M.solve(np.ones(9))
        assert str(caught.value).startswith(
            f"{name}[2] is singular to working precision (condition number "
        )


# The projection


def block_singular_values(W, k, l):
    (m, n), found = W.shape, []
    for b in range(k):
        for j in range(l):
            block = W[j::l, b * n // k : (b + 1) * n // k]
            found.append(np.linalg.svd(block, compute_uv=False))
    assert sum(len(s) for s in found) == k * l * min(m // l, n // k)
    return np.array(found)


@st.composite
def projections(draw):
    k, l = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return (l * draw(st.integers(1, 6)), k * draw(st.integers(1, 6))), (k, l)


@given(case=projections(), dtype=st.sampled_from(DTYPES), layout=layouts, seed=seeds)
def test_projection_is_the_best_rank_one_of_every_block(backend, case, dtype, layout, seed):
    """Eckart and Young 1936, block by block: error² = the squares of what is left out."""
    shape, (k, l) = case
    rng = np.random.default_rng(seed)
    W = LAYOUTS[layout](gauss(rng, shape, dtype))
    M = lowla.monarch_project(W, (k, l))
    assert M.L.shape == (l, shape[0] // l, k)
    assert M.R.shape == (k, l, shape[1] // k)
    assert M.dtype == dtype
    wide = W.astype(np.result_type(dtype, np.float64))
    s = block_singular_values(wide, k, l)
    total = np.sum(s**2)
    error2 = np.linalg.norm(wide - dense(M.L, M.R)) ** 2 / total
    slack = 1e-10 if eps(dtype) < 1e-10 else tol(dtype, 1)
    assert error2 == pytest.approx(np.sum(s[:, 1:] ** 2) / total, abs=slack)
    assert M.info.error == pytest.approx(float(np.sqrt(error2)), abs=tol(dtype, 1))
    assert M.info.blocks == (k, l)


@pytest.mark.core
@given(case=projections(), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_projection_recovers_monarch_matrices(backend, case, dtype, seed):
    (m, n), (k, l) = case
    rng = np.random.default_rng(seed)
    L, R = gauss(rng, (l, m // l, k), dtype), gauss(rng, (k, l, n // k), dtype)
    W = lowla.Monarch(L, R).toarray()
    M = lowla.monarch_project(W, (k, l))
    assert M.info.error <= tol(dtype, 1)
    assert np.abs(M.toarray() - W).max() <= tol(dtype, 1) * np.abs(W).max()
    again = lowla.monarch_project(M.toarray(), (k, l))
    assert np.abs(again.toarray() - M.toarray()).max() <= tol(dtype, 1) * np.abs(W).max()


SPECTRA = {
    "double": np.r_[1.0, 1.0, np.linspace(0.9, 0.1, 38)],
    "all equal": np.ones(40),
    "nearly double": np.r_[1.0, 1.0 - 1e-9, np.linspace(0.9, 0.1, 38)],
    "close": 1.0 - 1e-5 * np.arange(40),
    "cluster": np.r_[1.0 - 1e-12 * np.arange(10), 0.5 ** np.arange(1, 31)],
    "decaying": 0.3 ** np.arange(40),
    "flat": np.r_[1.0, np.full(39, 0.999)],
    "low rank": np.r_[1.0, 0.9, 0.8, np.zeros(37)],
}


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(40, 40), (40, 57), (57, 40)])
def test_projection_is_optimal_however_close_singular_values_are(backend, shape, spectrum, dtype):
    """What is kept of every block is its largest singular value squared, to rounding."""
    rng = np.random.default_rng(9)
    (s, p), k, l = shape, 2, 3
    U, V = (np.linalg.qr(gauss(rng, (k * l, n, 40), dtype))[0] for n in (s, p))
    blocks = ((U * SPECTRA[spectrum]) @ V.transpose(0, 2, 1)).reshape(k, l, s, p)
    W = blocks.transpose(2, 1, 0, 3).reshape(s * l, k * p)
    M = lowla.monarch_project(W, (k, l))
    best = 1.0 - 1.0 / np.sum(SPECTRA[spectrum] ** 2)
    assert M.info.error**2 == pytest.approx(best, abs=tol(dtype, 57))
    kept = np.linalg.norm(M.R, axis=2).T * np.linalg.norm(M.L, axis=1)
    np.testing.assert_allclose(kept, 1.0, rtol=tol(dtype, 57))
    np.testing.assert_allclose(np.linalg.norm(M.R, axis=2).T, np.linalg.norm(M.L, axis=1))


@pytest.mark.core
@pytest.mark.parametrize("rank", [2, 3, 40])
def test_projection_finds_what_its_start_vector_misses(backend, rank):
    """The C++ backend starts a Lanczos process from fixed numbers: here the leading singular vector
    is orthogonal to them."""
    rng = np.random.default_rng(17)
    start = 0.5 + (np.arange(1, 41) * 0.6180339887498949) % 1.0
    Q = np.linalg.qr(np.column_stack([start, gauss(rng, (40, 39), "float64")]))[0]
    turn = np.linalg.qr(gauss(rng, (rank - 1, rank - 1), "float64"))[0]
    V = np.column_stack([Q[:, 1], np.delete(Q, 1, axis=1)[:, : rank - 1] @ turn])
    U = np.linalg.qr(gauss(rng, (40, rank), "float64"))[0]
    M = lowla.monarch_project((U * np.linspace(1.0, 0.5, rank)) @ V.T, (1, 1))
    kept = np.linalg.norm(M.L) * np.linalg.norm(M.R)
    assert kept == pytest.approx(1.0, rel=tol("float64", 40))


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
def test_projection_of_structured_blocks(backend, dtype):
    """Leading vectors that are zero, or sum to zero, where others are large."""
    n = 24
    two = np.zeros((n, n), dtype)
    two[:4, :4], two[4:, 4:] = 6 * np.eye(4), 0.25  # singular values 6 (four times) and 5
    even = np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n).astype(dtype)
    sign = np.where(np.arange(n) % 2, -1.0, 1.0)
    alternating = (np.outer(sign, sign) + 0.9 * np.ones((n, n))).astype(dtype)
    for W in (two, even, alternating, np.eye(n, dtype=dtype)):
        M = lowla.monarch_project(W, (1, 1))
        wide = np.linalg.svd(W.astype(np.result_type(dtype, np.float64)), compute_uv=False)
        kept = np.linalg.norm(M.L) * np.linalg.norm(M.R)
        assert kept == pytest.approx(wide[0], rel=tol(dtype, n, factor=4.0))


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
def test_projection_convention(backend, dtype):
    """Both factors have the root of the singular value; the largest entry of L's is positive."""
    rng = np.random.default_rng(12)
    for shape in ((33, 20), (20, 33)):
        M = lowla.monarch_project(gauss(rng, shape, dtype), (1, 1))
        u, v = M.L[0, :, 0], M.R[0, 0]
        peak = u[np.argmax(np.abs(u))]
        assert peak.real > 0
        assert abs(peak.imag) <= eps(dtype) * abs(peak)
        assert np.linalg.norm(u) == pytest.approx(np.linalg.norm(v), rel=tol(dtype, 1))


def test_the_backends_project_alike():
    rng = np.random.default_rng(13)
    W = gauss(rng, (64, 96), "complex128")
    found = []
    for name in ("native", "numba"):
        if lowla._backend.why_not(name) is None:
            with lowla.use_backend(name):
                found.append(lowla.monarch_project(W, (4, 4)).toarray())
    s = block_singular_values(W, 4, 4)
    cond = float(np.max(s[:, 0] / (s[:, 0] - s[:, 1])))
    for other in found[1:]:
        assert np.abs(found[0] - other).max() <= tol("float64", 24, cond)


def test_the_projection_does_not_depend_on_the_number_of_threads(backend):
    if backend == "numba":
        pytest.skip("the BLAS decides there")
    W = np.random.default_rng(0).standard_normal((360, 420)).astype("float32")
    found = with_1_2_and_7_threads(lambda: lowla.monarch_project(W).toarray())
    assert np.array_equal(found[1], found[0])
    assert np.array_equal(found[2], found[0])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_no_perturbation_is_nearer(backend, dtype):
    rng = np.random.default_rng(4)
    W = gauss(rng, (36, 36), dtype)
    M = lowla.monarch_project(W)
    L, R = M.L, M.R
    best = np.linalg.norm(W - dense(L, R))
    for size in 10.0 ** np.arange(-6, 1):
        for _ in range(20):
            moved = dense(
                L + size * gauss(rng, L.shape, dtype), R + size * gauss(rng, R.shape, dtype)
            )
            assert np.linalg.norm(W - moved) >= best


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((36, 36), (6, 6)),
        ((12, 12), (3, 4)),
        ((7, 7), (1, 7)),
        ((8, 18), (3, 4)),
        ((1, 1), (1, 1)),
        ((768, 3072), (48, 32)),
    ],
)
def test_default_blocks(backend, shape, blocks):
    W = np.ones(shape, np.float32)
    M = lowla.monarch_project(W)
    assert M.info.blocks == blocks
    np.testing.assert_allclose(M.toarray(), W, rtol=8 * eps("float32"))
    if shape[0] == shape[1]:
        assert M.L.shape[1] == M.L.shape[2]
        assert M.R.shape[1] == M.R.shape[2]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_projection_at_the_ends_of_the_range(backend, scale):
    rng = np.random.default_rng(5)
    W = gauss(rng, (16, 16), "float64")
    ours, scaled = lowla.monarch_project(W), lowla.monarch_project(W * scale)
    assert scaled.info.error == pytest.approx(ours.info.error, rel=tol("float64", 4))
    gap = np.abs(scaled.toarray() / scale - ours.toarray())
    assert gap.max() <= tol("float64", 16)


def test_projection_of_blocks_far_apart_in_size(backend):
    """The block that counts decides the error; subnormal numbers and the largest ones work."""
    rng = np.random.default_rng(14)
    W = gauss(rng, (6, 6), "float64")
    blocks = W / np.abs(W).max()
    large = np.zeros((12, 12))
    large[:6, :6] = blocks * 1e308
    whole = lowla.monarch_project(large, (2, 1)).info.error
    large[6:, 6:] = blocks * 1e-310
    assert lowla.monarch_project(large, (2, 1)).info.error == pytest.approx(
        whole, rel=tol("float64", 6)
    )
    least = np.full((4, 4), 5e-324)
    assert lowla.monarch_project(least).info.error <= tol("float64", 4)
    single = np.full((4, 4), 1e-45, np.float32)
    assert lowla.monarch_project(single).info.error <= tol("float32", 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_projection_refuses_what_is_not_finite(backend, dtype, bad):
    W = np.ones((6, 6), dtype)
    W[4, 5] = bad
    with pytest.raises(ValueError, match=r"^W contains NaN or Inf$"):
        lowla.monarch_project(W)
    M = lowla.monarch_project(W, check_finite=False)
    assert np.isnan(M.L).all()
    assert np.isnan(M.R).all()
    assert np.isnan(M.info.error)


def test_projection_of_zero_blocks_and_of_nan(backend):
    W = np.zeros((9, 9))
    W[0, 0] = 2.0
    M = lowla.monarch_project(W)
    np.testing.assert_allclose(M.toarray(), W, atol=eps("float64"))
    zero = lowla.monarch_project(0 * W)
    assert not zero.toarray().any()
    assert zero.info.error == 0.0
    W[3, 4] = np.nan
    bad = lowla.monarch_project(W, check_finite=False)
    assert np.isnan(bad.L).all()
    assert np.isnan(bad.R).all()
    assert np.isnan(bad.info.error)


def test_info_prints_its_facts(backend):
    info = lowla.monarch_project(np.eye(4)).info
    assert repr(info).splitlines()[:2] == ["MonarchInfo", "  asked          blocks = (2, 2)"]
    assert info.error <= 1.0


# The Fourier transform


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 15, 16, 36, 48, 168, 512, 1000, 1024])
def test_the_dft_is_exact(backend, n):
    F = lowla.monarch_dft(n)
    assert F.dtype == np.complex128
    A = F.toarray()
    assert np.abs(A - np.fft.fft(np.eye(n))).max() <= 1e-12
    exact = np.exp(-2j * np.pi * (np.outer(np.arange(n), np.arange(n)) % n) / n)
    assert np.abs(A - exact).max() <= 8 * eps("float64")
    rng = np.random.default_rng(n)
    x = gauss(rng, (n, 3), "complex128")
    bound = tol("float64", 4 + int(np.log2(n))) * np.linalg.norm(x) * np.sqrt(n)
    assert np.linalg.norm(F @ x - np.fft.fft(x, axis=0)) <= bound
    assert np.linalg.norm(F.H @ x / n - np.fft.ifft(x, axis=0)) <= bound / n
    assert np.linalg.norm(F.T @ x - F @ x) <= bound
    np.testing.assert_allclose(F.solve(F @ x), x, atol=bound)


def test_the_dft_is_small(backend):
    F = lowla.monarch_dft(1024)
    assert F.nparams == 2 * 32**3
    assert F.permuted
    single = lowla.monarch_dft(1024, dtype=np.complex64)
    assert single.dtype == np.complex64
    np.testing.assert_allclose(single.L, F.L, atol=eps("float32"))
    assert repr(F) == "Monarch(1024 x 1024, L (32, 32, 32), R (32, 32, 32), permuted)"


def dft(n):
    return np.exp(-2j * np.pi * (np.outer(np.arange(n), np.arange(n)) % n) / n)


@given(
    stack=st.sampled_from([(), (3,), (2, 3)]),
    length=st.integers(1, 40),
    n=st.one_of(st.none(), st.integers(1, 60)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["C", "reversed", "step"]),
    seed=seeds,
)
def test_fft_is_the_sum_of_its_definition(backend, stack, length, n, dtype, layout, seed):
    x = gauss(np.random.default_rng(seed), (*stack, 2 * length), dtype)
    x = {"C": x[..., :length], "reversed": x[..., length - 1 :: -1], "step": x[..., ::2]}[layout]
    before = x.copy()
    size = length if n is None else n
    cut = np.zeros((*stack, size), np.complex128)
    cut[..., : min(size, length)] = x[..., :size]
    for inverse, F in ((False, dft(size)), (True, dft(size).conj() / size)):
        y = lowla.monarch_fft(x, n, inverse=inverse)
        expected = cut @ F
        assert y.dtype == np.result_type(dtype, np.complex64)
        assert y.shape == expected.shape
        bound = tol(dtype, 2 + int(np.log2(size))) * np.linalg.norm(expected)
        assert np.linalg.norm(y - expected) <= bound
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("n", [1, 7, 36, 168, 1000, 1024])
def test_fft_is_the_monarch_product(backend, n):
    rng = np.random.default_rng(n)
    x = gauss(rng, (3, n), "complex128")
    y, F = lowla.monarch_fft(x), lowla.monarch_dft(n)
    bound = tol("float64", 4 + int(np.log2(n))) * np.sqrt(n) * np.linalg.norm(x)
    assert np.linalg.norm((F @ x.T).T - y) <= bound
    assert np.linalg.norm(np.fft.fft(x) - y) <= bound
    assert np.linalg.norm(np.fft.ifft(x) - lowla.monarch_fft(x, inverse=True)) <= bound / n
    assert np.linalg.norm(lowla.monarch_fft(y, inverse=True) - x) <= bound


@given(n=st.integers(1, 300), seed=seeds)
def test_fft_adjoint_identity(backend, n, seed):
    """F^H = n F^-1, so <y, F x> = n <F^-1 y, x>; and Parseval: ||F x||² = n ||x||²."""
    rng = np.random.default_rng(seed)
    x, y = gauss(rng, (2, n), "complex128")
    X, Y = lowla.monarch_fft(x), lowla.monarch_fft(y, inverse=True)
    scale = np.sqrt(n) * np.linalg.norm(x) * np.linalg.norm(y)
    assert abs(np.vdot(y, X) - n * np.vdot(Y, x)) <= tol("float64", 9) * scale
    assert np.linalg.norm(X) == pytest.approx(np.sqrt(n) * np.linalg.norm(x), rel=1e-13)


def test_fft_of_nan_of_nothing_and_of_integers(backend):
    x = np.ones((3, 8))
    x[1, 2] = np.nan
    y = lowla.monarch_fft(x)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()
    assert lowla.monarch_fft(np.ones((0, 4), np.float32), 6).shape == (0, 6)
    assert lowla.monarch_fft(np.ones((0, 4), np.float32)).dtype == np.complex64
    whole = lowla.monarch_fft([1, 2, 3])
    assert whole.dtype == np.complex128
    np.testing.assert_allclose(whole, np.fft.fft([1, 2, 3]))


def test_large_transforms_use_all_threads_and_agree(backend):
    x = gauss(np.random.default_rng(0), (40, 4096), "complex64")
    expected = np.fft.fft(x.astype(np.complex128))
    bound = tol("complex64", 14) * np.linalg.norm(expected)
    assert np.linalg.norm(lowla.monarch_fft(x) - expected) <= bound


# Long convolutions


@given(
    stack=st.sampled_from([((), ()), ((3,), ()), ((2, 3), (3,)), ((2, 3), (2, 1)), ((), (2,))]),
    n=st.integers(1, 60),
    r=st.integers(1, 70),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=seeds,
)
def test_fftconv_is_the_direct_convolution(backend, stack, n, r, dtype, seed):
    rng = np.random.default_rng(seed)
    u, k = gauss(rng, (*stack[0], n), dtype), gauss(rng, (*stack[1], r), dtype)
    y = lowla.fftconv(u, k)
    wide, kernels = np.broadcast_arrays(u[..., None].astype(float), k[..., None, :].astype(float))
    wide, kernels = wide[..., 0], kernels[..., 0, :]
    expected = np.zeros(wide.shape)
    for index in np.ndindex(wide.shape[:-1]):
        expected[index] = np.convolve(wide[index], kernels[index])[:n]
    norms = np.linalg.norm(wide, axis=-1) * np.linalg.norm(kernels, axis=-1)
    assert y.dtype == dtype
    assert y.shape == expected.shape
    bound = tol(dtype, 1 + int(np.log2(n + r)), factor=4.0) * norms
    assert (np.abs(y - expected) <= bound[..., None]).all()


@pytest.mark.parametrize("n", [1, 31, 1000, 4096])
@pytest.mark.parametrize("r", [1, 64, 4096])
def test_fftconv_is_scipys(backend, n, r):
    rng = np.random.default_rng(6)
    u, k = LAYOUTS["step_two"](gauss(rng, (8, n), "float64")), gauss(rng, (1, r), "float64")
    expected = scipy.signal.fftconvolve(u, k, axes=-1)[:, :n]
    bound = tol("float64", 16, factor=4.0) * np.linalg.norm(u) * np.linalg.norm(k)
    assert np.abs(lowla.fftconv(u, k) - expected).max() <= bound


def test_fftconv_is_causal(backend):
    """An impulse gives the kernel from there on: nothing before it, nothing wraps around."""
    k = np.arange(1.0, 65.0)
    for position in (0, 1, 63):
        u = np.zeros((2, 64))
        u[1, position] = 1.0
        y = lowla.fftconv(u, k)
        expected = np.zeros((2, 64))
        expected[1, position:] = k[: 64 - position]
        np.testing.assert_allclose(y, expected, atol=tol("float64", 64))


@pytest.mark.parametrize("few", ["kernels", "signals"])
def test_fftconv_by_blocks_of_rows(backend, few, monkeypatch):
    """Blocks of any size give the same rows."""
    from lowla._numba import monarch

    rng = np.random.default_rng(15)
    u, k = gauss(rng, (3, 5, 2, 17), "float64"), gauss(rng, (5, 1, 9), "float64")
    if few == "signals":
        u, k = k, u
    whole = lowla.fftconv(u, k)
    for size in (1, 700, 2000, 5000, 10**6):
        monkeypatch.setattr(monarch, "_BLOCK_BYTES", size)
        np.testing.assert_array_equal(lowla.fftconv(u, k), whole)


def dense_masked(u, k, mask):
    """The definition, by dense transforms in double precision."""
    length = u.shape[-1]
    k = k[..., :length].astype(float)
    n = next_fast_len(length + k.shape[-1] - 1, real=True)
    count, f = n // 2 + 1, mask.shape[-1]
    places = np.linspace(0, f - 1, count)
    factors = np.apply_along_axis(lambda m: np.interp(places, np.arange(f), m), -1, mask)
    both = np.concatenate([factors, factors[..., (n - 1) // 2 : 0 : -1]], axis=-1)
    F = dft(n)
    spectrum = (u.astype(float) @ F[:length]) * (k @ F[: k.shape[-1]]) * both
    return (spectrum @ F.conj() / n).real[..., :length]


@given(
    stack=st.sampled_from(
        [((), (), ()), ((2, 3), (3,), ()), ((2, 3), (3,), (3,)), ((3,), (), (3,))]
    ),
    n=st.integers(1, 40),
    r=st.integers(1, 45),
    f=st.integers(1, 30),
    dtype=st.sampled_from(["float64", "float32"]),
    seed=seeds,
)
def test_masked_convolution_is_that_of_the_definition(backend, stack, n, r, f, dtype, seed):
    rng = np.random.default_rng(seed)
    u, k = gauss(rng, (*stack[0], n), dtype), gauss(rng, (*stack[1], r), dtype)
    mask = rng.random((*stack[2], f))
    y = lowla.fftconv(u, k, mask=mask)
    expected = dense_masked(u, k, mask)
    assert y.dtype == dtype
    assert y.shape == expected.shape
    norms = np.linalg.norm(u) * np.linalg.norm(k)
    assert np.abs(y - expected).max() <= tol(dtype, 1 + int(np.log2(n + r)), factor=4.0) * norms


def test_masks_of_ones_and_zeros(backend):
    rng = np.random.default_rng(16)
    u, k = gauss(rng, (2, 50), "float32"), gauss(rng, (50,), "float32")
    plain = lowla.fftconv(u, k)
    frequencies = next_fast_len(99, real=True) // 2 + 1
    for mask in (np.ones(1), np.ones(7), np.ones(frequencies), [1, 1, 1]):
        np.testing.assert_array_equal(lowla.fftconv(u, k, mask=mask), plain)
    assert not lowla.fftconv(u, k, mask=np.zeros(5)).any()
    low = np.zeros(frequencies)
    low[0] = 1.0  # the mean of the transform alone
    mean = u.sum(axis=1, keepdims=True) * k.sum() / next_fast_len(99, real=True)
    bound = tol("float32", 50) * np.linalg.norm(u) * np.linalg.norm(k)
    np.testing.assert_allclose(
        lowla.fftconv(u, k, mask=low), np.broadcast_to(mean, u.shape), atol=bound
    )
    stacked = lowla.fftconv(u[0], k, mask=np.ones((4, 1)))
    np.testing.assert_array_equal(stacked, np.broadcast_to(plain[0], (4, 50)))


def test_nan_in_a_convolution_stays_in_its_row(backend):
    u, k = np.ones((2, 6)), np.ones((2, 6))
    for array in (u, k):
        kept = array[1, 2]
        array[1, 2] = np.nan
        y = lowla.fftconv(u, k)
        assert np.isnan(y[1]).all()
        assert np.isfinite(y[0]).all()
        array[1, 2] = kept
    y = lowla.fftconv(u, k, mask=[[1.0, 1.0], [1.0, np.nan]])
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[0]).all()


def test_fftconv_of_nothing(backend):
    assert lowla.fftconv(np.ones((2, 0)), np.ones(3)).shape == (2, 0)
    np.testing.assert_array_equal(lowla.fftconv(np.ones((2, 4)), np.ones(0)), np.zeros((2, 4)))
    assert lowla.fftconv([1, 2], np.ones(1, np.float32)).dtype == np.float64


def test_tensors_come_back_as_tensors(backend):
    torch = pytest.importorskip("torch")
    W = torch.arange(16.0).reshape(4, 4)
    M = lowla.monarch_project(W)
    assert isinstance(M.L, torch.Tensor)
    assert isinstance(M @ W, torch.Tensor)
    assert isinstance(M.toarray(), torch.Tensor)
    assert isinstance(lowla.fftconv(W, W[0]), torch.Tensor)
    assert isinstance(lowla.fftconv(W, W[0], mask=torch.ones(3)), torch.Tensor)
    assert isinstance(lowla.monarch_fft(W), torch.Tensor)


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 2, 30, 500])
def test_large_products_are_two_batched_products(backend, columns, dtype):
    rng = np.random.default_rng(0)
    k, q, p, l, s = 12, 20, 9, 15, 11
    L, R = gauss(rng, (l, s, k * q // l), dtype), gauss(rng, (k, q, p), dtype)
    X = gauss(rng, (k * p, columns), dtype)

    def product(L, R, X):
        T = np.matmul(R, X.reshape(k, p, columns)).reshape(-1, l, columns).transpose(1, 0, 2)
        return np.matmul(L, T).transpose(1, 0, 2).reshape(-1, columns)

    wide = np.result_type(dtype, np.float64)
    expected = product(L.astype(wide), R.astype(wide), X.astype(wide))
    bound = 4.0 * (p + k * q // l) * eps(dtype) * product(np.abs(L), np.abs(R), np.abs(X))
    for order in "CF":
        Y = lowla.monarch_matmul(L, R, np.asarray(X, order=order))
        assert np.all(np.abs(Y - expected) <= bound)


@pytest.mark.parametrize("columns", [1, 40, 700])
def test_products_do_not_depend_on_the_number_of_threads(backend, columns):
    if backend == "numba":
        pytest.skip("the BLAS decides there")
    rng = np.random.default_rng(0)
    L, R = rng.standard_normal((2, 32, 32, 32))
    X = rng.standard_normal((1024, columns))
    found = with_1_2_and_7_threads(lambda: lowla.monarch_matmul(L, R, X))
    assert np.array_equal(found[1], found[0])
    assert np.array_equal(found[2], found[0])
