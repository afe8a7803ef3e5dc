"""Kronecker and Monarch products, Fourier transforms and convolutions of the CUDA backend, emulated
on the CPU (see test_cuda.py): against the definitions, with the error bounds of the CPU tests."""

from __future__ import annotations

import types

import hypothesis.strategies as hs
import numpy as np
import pytest
from hypothesis import given

import gpu_arrays
import lowla
import test_kron as kron
import test_monarch as monarch
from lowla import _arrays, _backend
from strategies import DTYPES, LAYOUTS
from tolerances import eps, tol

KEY = 11
layouts = hs.sampled_from([name for name in LAYOUTS if name != "broadcast_row"])
seeds = hs.integers(0, 2**32 - 1)


def gauss(shape, dtype, seed=0):
    return kron.gauss(np.random.default_rng(seed), shape, dtype)


# Kronecker products


def check_kron(emulated, factors, X, dtype, *, conjugate):
    K, steps = kron.dense(factors), 8 + sum(max(F.shape) for F in factors)
    K = K.conj() if conjugate else K
    Y = emulated.kron_matmul(factors, X, conjugate)
    # A product of few factors may be one of cuBLAS, in any order of summation.
    kron.assert_product(Y, K, X, dtype, 2 * steps)
    by_columns = X.flags.f_contiguous and not X.flags.c_contiguous
    assert Y.flags.f_contiguous if by_columns else Y.flags.c_contiguous


@given(
    sizes=kron.shapes(),
    dtype=hs.sampled_from(DTYPES),
    layout=layouts,
    factor_layout=layouts,
    columns=hs.sampled_from([1, 2, 5, 40]),
    conjugate=hs.booleans(),
    seed=seeds,
)
def test_emulated_product_is_that_of_the_dense_matrix(
    emulated, sizes, dtype, layout, factor_layout, columns, conjugate, seed
):
    rng = np.random.default_rng(seed)
    factors = [LAYOUTS[factor_layout](kron.gauss(rng, shape, dtype)) for shape in sizes]
    n = int(np.prod([F.shape[1] for F in factors]))
    X = LAYOUTS[layout](kron.gauss(rng, (n, columns), dtype))
    check_kron(emulated, factors, X, dtype, conjugate=conjugate)


@pytest.mark.parametrize(
    "sizes",
    [
        [(64, 64)],  # the largest factor that joins a chain, and larger ones
        [(65, 3)],
        [(3, 65)],
        [(70, 2), (3, 66)],
        [(2, 2), (66, 66), (2, 3)],
        [(16, 16)] * 3,  # more than shared memory holds
        [(32, 32), (32, 32)],
        [(2, 2)] * 10,  # more factors than one chain takes
        [(1, 9), (9, 1)],  # first the one, then the other
        [(9, 1), (1, 9)],
        [(1, 1), (1, 1)],
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 3, 20])
@pytest.mark.parametrize("order", ["C", "F"])
def test_emulated_groups_of_factors(emulated, sizes, dtype, columns, order):
    for factor_order in "CF":
        factors = [
            np.asarray(gauss(shape, dtype, seed), order=factor_order)
            for seed, shape in enumerate(sizes)
        ]
        n = int(np.prod([F.shape[1] for F in factors]))
        X = np.asarray(gauss((n, columns), dtype, 99), order=order)
        for conjugate in (False, True):
            expected = X.astype(np.result_type(dtype, np.float64))
            for i, F in enumerate(factors):  # mode by mode, the leading axis last
                done = int(np.prod([G.shape[0] for G in factors[:i]]))
                wide = (F.conj() if conjugate else F).astype(expected.dtype)
                expected = wide @ expected.reshape(done, F.shape[1], -1)
            expected = expected.reshape(-1, columns)
            Y = emulated.kron_matmul(factors, X, conjugate)
            assert Y.dtype == dtype
            scale = np.prod([np.linalg.norm(F) for F in factors]) * np.linalg.norm(X)
            assert np.linalg.norm(Y - expected) <= tol(dtype, 1) * scale


@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_operators_use_views_of_the_factors(emulated, dtype):
    factors = [gauss((3, 4), dtype), gauss((5, 2), dtype)]
    K, D = lowla.Kronecker(*factors), kron.dense(factors)
    for operator, expected in [(K, D), (K.T, D.T), (K.H, D.conj().T), (K.T.H, D.conj())]:
        X = gauss((expected.shape[1], 6), dtype, 1)
        kron.assert_product(operator @ X, expected, X, dtype, 32)
        kron.assert_product(operator @ X[:, 0], expected, X[:, 0], dtype, 32)


@pytest.mark.parametrize(
    ("sizes", "columns"), [([(3, 4), (0, 2)], 3), ([(3, 0), (2, 2)], 3), ([(3, 2)], 0)]
)
def test_emulated_empty_kronecker_products(emulated, sizes, columns):
    factors = [np.ones(shape) for shape in sizes]
    rows, inner = (int(np.prod([shape[side] for shape in sizes])) for side in (0, 1))
    Y = emulated.kron_matmul(factors, np.ones((inner, columns)), False)
    np.testing.assert_array_equal(Y, np.zeros((rows, columns)))


def test_emulated_kron_matmul_refuses_what_does_not_fit(emulated):
    F = np.ones((2, 3))
    for factors, X, message in (
        ([F], np.ones(3), "X must have 2 dimensions, got 1"),
        ([F, F], np.ones((3, 2)), "X must have 9 rows, got 3"),
        ([], np.ones((1, 2)), "there must be at least one factor"),
        ([np.ones(3)], np.ones((3, 2)), "A must have 2 dimensions, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.kron_matmul(factors, X, False)
    with pytest.raises(TypeError, match="another dtype"):
        emulated.kron_matmul([F.astype("float32")], np.ones((3, 2)), False)
    with pytest.raises(TypeError, match="must be float32, float64"):
        emulated.kron_matmul([F], np.ones((3, 2), int), False)


def test_emulated_host_arrays_cross_over_where_the_backend_is_asked_for(module, monkeypatch):
    monkeypatch.setitem(_backend._LOADERS, "cuda", lambda: (module, None))
    crossed = []

    def asarray(a):
        crossed.append(a)
        return a

    cupy = types.SimpleNamespace(asarray=asarray, asnumpy=np.asarray)
    monkeypatch.setattr(_arrays, "_cupy", lambda: cupy)
    F, x = gauss((3, 3), "float64"), gauss(9, "float64", 1)
    blocks = gauss((3, 3, 3), "float64", 2)
    host = lowla.monarch_matmul(blocks, blocks, x), lowla.fftconv(x, x), lowla.monarch_fft(x)
    with lowla.use_backend("cuda"):
        y = lowla.kron_matmul([F, F], x)
        device = (
            lowla.monarch_matmul(blocks, blocks, x),
            lowla.fftconv(x, x),
            lowla.monarch_fft(x),
        )
    kron.assert_product(y, np.kron(F, F), x, "float64", 16)
    for got, expected in zip(device, host, strict=True):
        error = np.linalg.norm(got - expected)
        assert error <= tol("float64", 16) * np.linalg.norm(expected)
    assert len(crossed) == 3 + 3 + 2 + 1


# Monarch matrices


@given(
    sizes=monarch.shapes(),
    dtype=hs.sampled_from(DTYPES),
    layout=layouts,
    block_layout=hs.sampled_from(["C", "F", "reversed"]),
    columns=hs.sampled_from([1, 3, 64, 130]),
    form=hs.tuples(hs.booleans(), hs.booleans(), hs.booleans()),
    seed=seeds,
)
def test_emulated_monarch_is_its_definition(
    emulated, sizes, dtype, layout, block_layout, columns, form, seed
):
    rng = np.random.default_rng(seed)
    blocks = monarch.blocks_of(rng, *sizes, dtype)
    if block_layout == "F":
        blocks = tuple(np.asfortranarray(B) for B in blocks)
    elif block_layout == "reversed":
        blocks = tuple(B[:, ::-1, ::-1].copy()[:, ::-1, ::-1] for B in blocks)
    check_monarch(emulated, *blocks, columns, dtype, layout, form, rng)


@pytest.mark.parametrize("sizes", [((4, 4, 4), (4, 4, 4)), ((6, 3, 2), (4, 3, 5))])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 7, 255, 256, 511, 512, 1000])
def test_emulated_monarch_of_any_number_of_columns(emulated, sizes, dtype, columns):
    """Two batched products, or both stages in shared memory."""
    rng = np.random.default_rng(0)
    L, R = monarch.blocks_of(rng, *sizes, dtype)
    for layout in ("C", "F"):
        for transpose in (False, True):
            for permuted in (False, True):
                form = (permuted, transpose, True)
                check_monarch(emulated, L, R, columns, dtype, layout, form, rng)


@pytest.mark.parametrize("b", [16, 32, 64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("permuted", [False, True])
def test_emulated_monarch_larger_than_shared_memory(emulated, host, b, dtype, permuted):
    rng = np.random.default_rng(0)
    L, R = monarch.blocks_of(rng, (b, b, b), (b, b, b), dtype)
    X = monarch.gauss(rng, (b * b, 520), dtype)
    for transpose in (False, True):
        Y = emulated.monarch_matmul(L, R, X, permuted, transpose, True)
        Z = host.monarch_matmul(L, R, X, permuted, transpose, True)
        assert np.linalg.norm(Y - Z) <= tol(dtype, 2 * b, factor=2.0) * np.linalg.norm(Z)


def check_monarch(emulated, L, R, columns, dtype, layout, form, rng):
    permuted, transpose, conjugate = form
    M, steps = monarch.dense(L, R), 16 + 2 * (sum(L.shape[1:]) + sum(R.shape[1:]))
    if permuted:  # M P: entry j k + i of x is taken as entry i p + j
        k, _, p = R.shape
        M = M.reshape(-1, k, p).swapaxes(1, 2).reshape(len(M), -1)
    M = M.T if transpose else M
    M = M.conj() if conjugate else M
    X = LAYOUTS[layout](monarch.gauss(rng, (M.shape[1], columns), dtype))
    Y = emulated.monarch_matmul(L, R, X, permuted, transpose, conjugate)
    monarch.assert_product(Y, M, X, dtype, steps)


@pytest.mark.parametrize("empty", ["L", "R", "X", "between"])
def test_emulated_empty_monarch_products(emulated, empty):
    L = np.ones((2, 0 if empty == "L" else 3, 0 if empty == "between" else 2))
    R = np.ones((2, 0 if empty == "between" else 2, 0 if empty == "R" else 5))
    X = np.ones((R.shape[0] * R.shape[2], 0 if empty == "X" else 4))
    Y = emulated.monarch_matmul(L, R, X, False, False, False)
    np.testing.assert_array_equal(Y, np.zeros((L.shape[0] * L.shape[1], X.shape[1])))


def test_emulated_monarch_matmul_refuses_what_does_not_fit(emulated):
    L, R, X = np.ones((2, 3, 2)), np.ones((2, 2, 5)), np.ones((10, 4))
    form = (False, False, False)
    for arguments, message in (
        ((L[0], R, X), "L and R must have 3 dimensions and X 2"),
        ((L, R, X[0]), "L and R must have 3 dimensions and X 2"),
        ((L, R, X[:6]), "the blocks and X do not fit"),
        ((L[:, :, :1], R, X), "the blocks and X do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            emulated.monarch_matmul(*arguments, *form)
    with pytest.raises(TypeError, match="L has another dtype"):
        emulated.monarch_matmul(L.astype("float32"), R, X, *form)
    skewed = np.ndarray((2, 2, 5), "float64", buffer=bytearray(300), strides=(84, 40, 8))
    with pytest.raises(TypeError, match="R is not aligned to its items"):
        emulated.monarch_matmul(L, skewed, X, *form)


# Fourier transforms


SMOOTH = [1, 2, 3, 5, 12, 61, 128, 210, 1000, 1922, 4096, 65536]
ORDERS = [*SMOOTH, 67, 97, 194, 1009]


def transformed(x, n, *, inverse):
    wide = x.astype(np.complex128)
    return np.fft.ifft(wide, n) if inverse else np.fft.fft(wide, n)


def check_fft(emulated, x, n, *, inverse):
    """||X - DFT x|| <= c u log2(n) ||X|| (Higham 2002, theorem 24.2)."""
    kept = x.copy()
    X, expected = emulated.monarch_fft(x, n, inverse), transformed(x, n, inverse=inverse)
    assert X.dtype == np.result_type(x.dtype, np.complex64)
    assert X.shape == expected.shape
    bound = tol(x.dtype, 1 + int(np.log2(n)), factor=4.0) * np.linalg.norm(expected, axis=-1)
    assert (np.linalg.norm(X - expected, axis=-1) <= bound).all()
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inverse", [False, True])
def test_emulated_fft_is_the_dft(emulated, n, dtype, inverse):
    for length in {n, n // 2, n + 3}:  # as it is, continued by zeros, cut
        check_fft(emulated, gauss(length, dtype), n, inverse=inverse)


@given(
    n=hs.integers(1, 300),
    length=hs.integers(0, 300),
    stack=hs.sampled_from([(), (1,), (5,), (2, 3), (0,), (40,)]),
    dtype=hs.sampled_from(DTYPES),
    inverse=hs.booleans(),
    strided=hs.booleans(),
    seed=seeds,
)
def test_emulated_fft_along_the_last_axis(
    emulated, n, length, stack, dtype, inverse, strided, seed
):
    x = gauss((*stack, length), dtype, seed)
    x = np.repeat(x, 2, axis=-1)[..., ::2] if strided else x
    check_fft(emulated, x, n, inverse=inverse)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_emulated_fft_in_three_passes(emulated, dtype):
    """2^18 points: more than shared memory holds of the columns of a square array."""
    n = 1 << 18
    check_fft(emulated, gauss((2, n), dtype), n, inverse=False)
    check_fft(emulated, gauss((1, n - 5), dtype), n, inverse=True)


@pytest.mark.parametrize("n", SMOOTH)
def test_emulated_roots_of_unity_are_exact(emulated, n):
    """The transform of an impulse is a table of roots: products of a few exact ones."""
    impulse = np.zeros(n)
    impulse[1 % n] = 1.0
    angles = -2 * np.pi * (np.arange(n, dtype=np.longdouble) / n) * (n > 1)
    exact = np.cos(angles) + 1j * np.sin(angles)
    found = emulated.monarch_fft(impulse, n, False)
    assert np.abs(found - exact).max() <= tol("float64", 1, factor=8.0)


@pytest.mark.parametrize("n", [60, 97])
def test_emulated_inverse_fft_inverts(emulated, n):
    x = gauss((3, n), "complex128")
    back = emulated.monarch_fft(emulated.monarch_fft(x, n, False), n, True)
    assert np.linalg.norm(back - x) <= tol("float64", 8) * np.linalg.norm(x)


def test_emulated_fft_refuses_what_it_cannot_do(emulated):
    for n in (0, -1, 2**31):
        with pytest.raises(ValueError, match=rf"n must be in 1\.\.2\^31 - 1, got {n}"):
            emulated.monarch_fft(np.ones(3), n, False)
    with pytest.raises(ValueError, match="x must have at least 1 dimension"):
        emulated.monarch_fft(np.array(1.0), 3, False)
    with pytest.raises(TypeError, match="must be float32, float64"):
        emulated.monarch_fft(np.ones(3, int), 3, False)


# Solves, inverses, eigenvalues, rearrangements and projections: what holds on the CPU


@pytest.fixture
def backend(emulated):
    """The name under which test_kron.py and test_monarch.py find the emulation."""
    return "native"


test_emulated_kron_transposes_and_adjoints = kron.test_transposes_and_adjoints
test_emulated_kron_diagonal_and_trace = kron.test_diagonal_and_trace
test_emulated_kron_logdet_is_slogdet = kron.test_logdet_is_slogdet
test_emulated_kron_logdet_of_named_matrices = kron.test_logdet_of_named_matrices
test_emulated_kron_solve_and_inverse = kron.test_solve_and_inverse
test_emulated_kron_eigh = kron.test_eigh
test_emulated_kron_kron_solve_residual = kron.test_kron_solve_residual
test_emulated_kron_indefinite_matrices_are_solved = kron.test_indefinite_matrices_are_solved
test_emulated_kron_eigenpairs_are_computed_once = kron.test_eigenpairs_are_computed_once
test_emulated_kron_singular_matrices_raise = kron.test_singular_matrices_raise
test_emulated_kron_nearest_kron_is_optimal = kron.test_nearest_kron_is_optimal
test_emulated_kron_nearest_kron_recovers_products = kron.test_nearest_kron_recovers_products
test_emulated_kron_nearest_kron_of_large_matrices = kron.test_nearest_kron_of_large_matrices
test_emulated_kron_nearest_kron_of_nothing = kron.test_nearest_kron_of_nothing
test_emulated_monarch_empty_arrays = monarch.test_empty_arrays
test_emulated_monarch_solve = monarch.test_solve
test_emulated_monarch_singular_blocks_raise = monarch.test_singular_blocks_raise
test_emulated_projection = monarch.test_projection_is_the_best_rank_one_of_every_block
test_emulated_recovery = monarch.test_projection_recovers_monarch_matrices
test_emulated_close_values = monarch.test_projection_is_optimal_however_close_singular_values_are
test_emulated_missed_start = monarch.test_projection_finds_what_its_start_vector_misses
test_emulated_structured_blocks = monarch.test_projection_of_structured_blocks
test_emulated_convention = monarch.test_projection_convention
test_emulated_ends_of_the_range = monarch.test_projection_at_the_ends_of_the_range
test_emulated_blocks_far_apart = monarch.test_projection_of_blocks_far_apart_in_size
test_emulated_projection_of_bad = monarch.test_projection_refuses_what_is_not_finite
test_emulated_projection_of_nothing = monarch.test_projection_of_zero_blocks_and_of_nan


@pytest.fixture
def gpu(module, monkeypatch):
    in_main_memory = {
        "kron_matmul": (set(), False),
        "kron_solve": (set(), False),
        "kron_solve_shifted": ({"w"}, False),
        "monarch_matmul": (set(), False),
        "monarch_solve": (set(), False),
        "nearest_kron": (set(), False),
        "monarch_project": (set(), False),
    }
    return gpu_arrays.install(module, in_main_memory, monkeypatch)


def everything_of_kronecker(factors, b):
    """What the operator does; the results are arrays of the kind of b, or numbers."""
    K = lowla.Kronecker(*factors)
    w, V = K.eigh()
    arrays = [K @ b, K.H @ b, K.toarray(), K.diagonal(), K.solve(b), K.solve(b, 0.5), w, V @ b]
    arrays += [K.inv() @ b, lowla.kron_solve(factors, b, 1.0), *K.factors]
    found = lowla.nearest_kron(K.toarray(), factors[0].shape, factors[1].shape)
    arrays += [found.B, found.C]
    assert all(type(a) is type(b) for a in arrays)
    return arrays, [K.trace(), *K.logdet(), found.info.error]


def everything_of_monarch(blocks, b):
    M = lowla.Monarch(blocks, blocks)
    projected = lowla.monarch_project(M.toarray(), (3, 3))
    arrays = [M @ b, M.H @ b, M.toarray(), M.solve(b), projected.L, projected.R, M.L]
    assert all(type(a) is type(b) for a in arrays)
    return arrays, [projected.info.error]


@pytest.mark.parametrize("everything", [everything_of_kronecker, everything_of_monarch])
@pytest.mark.parametrize("asked", [False, True])
def test_emulated_operators_on_the_gpu(gpu, everything, asked):
    """Results are those of the host and of the caller's kind, on the GPU or by `use_backend`."""
    rng = np.random.default_rng(3)
    if everything is everything_of_kronecker:
        operands = [kron.hermitian(rng, n, "float64", np.linspace(1, 2, n)) for n in (3, 4)]
        b = gauss((12, 2), "float64")
    else:
        operands, b = gauss((3, 3, 3), "float64") + 6 * np.eye(3), gauss((9, 2), "float64")
    with lowla.use_backend("numba"):
        arrays, numbers = everything(operands, b)
    if asked:
        with lowla.use_backend("cuda"):
            found, measured = everything(operands, b)
    else:
        place = (
            (lambda F: [gpu.asarray(a) for a in F]) if isinstance(operands, list) else gpu.asarray
        )
        found, measured = everything(place(operands), gpu.asarray(b))
        found = [a.get() for a in found]
    for ours, expected in zip(found, arrays, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=tol("float64", 100))
    np.testing.assert_allclose(measured, numbers, rtol=1e-12, atol=tol("float64", 10))


def test_emulated_solves_refuse_what_does_not_fit(emulated):
    with pytest.raises(ValueError, match="the factors must be square"):
        emulated.kron_solve([np.ones((2, 3))], np.ones((3, 1)))
    with pytest.raises(ValueError, match="w and V do not fit"):
        emulated.kron_solve_shifted([np.ones(3)], [np.eye(2)], np.ones((2, 1)), 1.0)
    with pytest.raises(ValueError, match="there must be at least one factor"):
        emulated.kron_solve([], np.ones((1, 1)))
    with pytest.raises(ValueError, match="the blocks and X do not fit"):
        emulated.monarch_solve(
            np.ones((2, 3, 2)), np.ones((2, 2, 2)), np.ones((4, 1)), False, False, False
        )
    with pytest.raises(ValueError, match="the blocks and W do not fit"):
        emulated.monarch_project(np.ones((4, 4)), 3, 2, True)
    with pytest.raises(ValueError, match="the shapes, the terms and A do not fit"):
        emulated.nearest_kron(np.ones((4, 4)), (2, 2), (2, 2), 5, KEY, True)


# Convolutions


def check_fftconv(emulated, u, k):
    """|y - k * u| <= c u log2(n + r) ||k||_2 ||u||_2 in each entry (Higham 2002, section 24.1)."""
    y = emulated.fftconv(u, k, None)
    n, r = u.shape[-1], k.shape[-1]
    stack = np.broadcast_shapes(u.shape[:-1], k.shape[:-1])
    wide = np.broadcast_to(u.astype(float), (*stack, n))
    kernels = np.broadcast_to(k.astype(float), (*stack, r))
    assert y.dtype == u.dtype
    assert y.shape == wide.shape
    for index in np.ndindex(stack):
        expected = np.convolve(wide[index], kernels[index])[:n]
        bound = tol(u.dtype, 2 + int(np.log2(n + r)), factor=4.0)
        size = np.linalg.norm(wide[index]) * np.linalg.norm(kernels[index])
        assert np.abs(y[index] - expected).max() <= bound * size


@given(
    stack=hs.sampled_from(
        [((), ()), ((3,), ()), ((2, 3), (3,)), ((2, 3), (2, 1)), ((), (2,)), ((2, 1), (3,))]
    ),
    n=hs.integers(1, 80),
    r=hs.integers(1, 90),
    dtype=hs.sampled_from(["float64", "float32"]),
    strided=hs.booleans(),
    seed=seeds,
)
def test_emulated_fftconv_is_the_direct_convolution(emulated, stack, n, r, dtype, strided, seed):
    u, k = gauss((*stack[0], n), dtype, seed), gauss((*stack[1], r), dtype, seed + 1)
    check_fftconv(emulated, np.repeat(u, 2, axis=-1)[..., ::2] if strided else u, k)


@pytest.mark.parametrize(("n", "r"), [(4096, 4096), (1000, 1), (1, 1000), (20000, 300)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_emulated_long_convolutions(emulated, n, r, dtype):
    check_fftconv(emulated, gauss((2, n), dtype), gauss(r, dtype, 1))


def test_emulated_fftconv_is_causal(emulated):
    """An impulse gives the kernel from there on: nothing before it, nothing wraps around."""
    k = np.arange(1.0, 65.0)
    for position in (0, 1, 63):
        u = np.zeros((2, 64))
        u[1, position] = 1.0
        expected = np.zeros((2, 64))
        expected[1, position:] = k[: 64 - position]
        scale = np.linalg.norm(k)
        assert np.abs(lowla.fftconv(u, k) - expected).max() <= scale * 8 * eps("float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "r"), [(1, 1), (7, 3), (64, 64), (301, 50)])
@pytest.mark.parametrize("f", [1, 2, 5, 60, 400])
def test_emulated_fftconv_takes_a_mask(emulated, dtype, n, r, f):
    """The same circular convolution, so the same result, as on the host."""
    u, k, mask = gauss((2, 1, n), dtype), gauss((3, r), dtype, 1), gauss((2, 1, f), dtype, 2)
    got, expected = emulated.fftconv(u, k, mask), lowla.fftconv(u, k, mask=mask)
    assert got.shape == expected.shape == (2, 3, n)
    scale = np.linalg.norm(u) * np.linalg.norm(k) * np.abs(mask).max()
    assert np.abs(got - expected).max() <= tol(dtype, 16) * scale


def test_emulated_fftconv_keeps_nan_in_its_line(emulated):
    u = np.ones((3, 10))
    u[1, 4] = np.nan
    y = emulated.fftconv(u, np.ones(3), None)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize(("u", "k"), [((2, 0), (3,)), ((0, 4), (3,)), ((2, 4), (0,))])
def test_emulated_fftconv_of_nothing(emulated, u, k):
    np.testing.assert_array_equal(emulated.fftconv(np.ones(u), np.ones(k), None), np.zeros(u))


def test_emulated_fftconv_refuses_what_does_not_fit(emulated):
    with pytest.raises(ValueError, match="the leading axes of u and k must broadcast"):
        emulated.fftconv(np.ones((2, 4)), np.ones((3, 4)), None)
    with pytest.raises(ValueError, match="k must have at least 1 dimension, got a scalar"):
        emulated.fftconv(np.ones(4), np.array(1.0), None)
    with pytest.raises(TypeError, match="u and k must be real"):
        emulated.fftconv(np.ones(4, complex), np.ones(4, complex), None)
    with pytest.raises(TypeError, match="k has another dtype"):
        emulated.fftconv(np.ones(4), np.ones(4, "float32"), None)
    with pytest.raises(TypeError, match="mask"):
        emulated.fftconv(np.ones(4), np.ones(4), np.ones(4, "float32"))
    with pytest.raises(ValueError, match="mask must have at least 1 entry"):
        emulated.fftconv(np.ones(4), np.ones(4), np.ones(0))
