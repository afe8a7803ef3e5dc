"""Monarch matrices: the products against the definition, the optimality of the projection, the
Fourier transform; and long convolutions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
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


def test_arrays_on_the_gpu_are_refused(backend, monkeypatch):
    monkeypatch.setattr(lowla._backend, "select", lambda device: ("cuda", object()))
    with pytest.raises(NotImplementedError) as caught:
        lowla.monarch_project(np.eye(4))
    assert str(caught.value) == "monarch_project does not run on the GPU yet: pass host arrays"


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
