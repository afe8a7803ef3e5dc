"""Kronecker products: against the product written out, the algebra of the operator, the optimality
of the nearest sum."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator, cg

import lowla
from lowla import _arrays
from lowla._numba import kron
from strategies import DTYPES, LAYOUTS
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol


def gauss(rng, shape, dtype):
    real = rng.standard_normal(shape)
    is_complex = np.dtype(dtype).kind == "c"
    return (real + 1j * rng.standard_normal(shape) if is_complex else real).astype(dtype)


def dense(factors):
    """The product written out in extended precision, by numpy.kron."""
    wide = np.clongdouble if any(np.iscomplexobj(F) for F in factors) else np.longdouble
    K = np.ones((1, 1), wide)
    for F in factors:
        K = np.kron(K, np.asarray(F).astype(wide))
    return K


def assert_product(Y, K, X, dtype, steps, factor=4.0):
    """|Y - K X| <= factor · steps · u · |K| |X| in every entry (Higham 2002, 3.5)."""
    bound = np.abs(K) @ np.abs(X) * (factor * steps * eps(dtype))
    assert Y.dtype == dtype
    assert Y.shape == (K @ X).shape
    assert (np.abs(Y - K @ X) <= bound).all()


@st.composite
def shapes(draw, most=400, square=False, longest=64):
    """1 to 6 shapes, ones and rectangular ones among them, that multiply to at most `most`."""
    found, rows, columns = [], 1, 1
    for _ in range(draw(st.integers(1, 6))):
        m = draw(st.integers(1, min(longest, most // rows)))
        n = m if square else draw(st.integers(1, min(longest, most // columns)))
        found.append((m, n))
        rows, columns = rows * m, columns * n
    return found


layouts = st.sampled_from([name for name in LAYOUTS if name != "broadcast_row"])
seeds = st.integers(0, 2**32 - 1)


@given(sizes=shapes(), dtype=st.sampled_from(DTYPES), seed=seeds, data=st.data())
def test_product_is_that_of_the_dense_matrix(backend, sizes, dtype, seed, data):
    rng = np.random.default_rng(seed)
    factors = [LAYOUTS[data.draw(layouts)](gauss(rng, shape, dtype)) for shape in sizes]
    r = data.draw(st.integers(1, 5))
    X = LAYOUTS[data.draw(layouts)](gauss(rng, (math.prod(n for _, n in sizes), r), dtype))
    before = [A.copy() for A in [*factors, X]]
    K, steps = dense(factors), 8 * len(sizes) + sum(n for _, n in sizes)
    assert_product(lowla.kron_matmul(factors, X), K, X, dtype, steps)
    assert_product(lowla.kron_matmul(factors, X[:, 0]), K, X[:, 0], dtype, steps)
    operator = lowla.Kronecker(*factors)
    Y = gauss(rng, (K.shape[0], r), dtype)
    assert_product(operator @ X, K, X, dtype, steps)
    assert_product(operator.T @ Y, K.T, Y, dtype, steps + sum(m for m, _ in sizes))
    assert_product(operator.H @ Y, K.conj().T, Y, dtype, steps + sum(m for m, _ in sizes))
    for kept, A in zip(before, [*factors, X], strict=True):
        np.testing.assert_array_equal(kept, A)


@pytest.mark.core
@given(sizes=shapes(most=2000), seed=seeds, dtype=st.sampled_from(DTYPES))
def test_small_integers_are_exact(backend, sizes, seed, dtype):
    """No rounding in any order of the factors: every index is right."""
    rng = np.random.default_rng(seed)
    factors = [rng.integers(-1, 2, shape).astype(dtype) for shape in sizes]
    X = rng.integers(-2, 3, math.prod(n for _, n in sizes)).astype(dtype)
    exact = X.astype(np.complex128)
    for i, F in enumerate(factors):
        before, after = math.prod(m for m, _ in sizes[:i]), math.prod(n for _, n in sizes[i + 1 :])
        exact = np.einsum("ij,ajb->aib", F, exact.reshape(before, F.shape[1], after))
    largest = 2.0 * math.prod(n for _, n in sizes)
    assert largest * eps(dtype) < 1.0
    np.testing.assert_array_equal(lowla.kron_matmul(factors, X), exact.reshape(-1))


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "r"),
    [
        ([(8, 8)] * 3, 200),  # slabs of columns, two modes a piece
        ([(16, 16)] * 2, 1030),  # the last slab is no whole vector
        ([(4, 4)] * 7, 3),
        ([(9, 5), (7, 12), (4, 3)], 333),
        ([(32, 32), (1, 1), (24, 17)], 96),
        ([(40, 33), (20, 25)], 64),
        ([(2, 2)] * 11, 1),
        ([(1, 1)] * 12 + [(3, 5)], 50),
        ([(1500, 1), (1, 1500)], 20),  # contracts before it expands
    ],
)
def test_blocks_slabs_and_pieces(backend, sizes, r, dtype):
    """Operands of many cache blocks, in small integers: every entry is exact."""
    rng = np.random.default_rng(3)
    factors = [rng.integers(-1, 2, shape).astype(dtype) for shape in sizes]
    X = rng.integers(-2, 3, (math.prod(n for _, n in sizes), r)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        factors = [F + 1j * rng.integers(-1, 2, F.shape).astype(F.real.dtype) for F in factors]
        X = X + 1j * X[::-1]
    exact = X.astype(np.complex128)
    for i, F in enumerate(factors):
        before, after = math.prod(m for m, _ in sizes[:i]), math.prod(n for _, n in sizes[i + 1 :])
        exact = np.matmul(F, exact.reshape(before, F.shape[1], after * r)).reshape(-1, r)
    assert np.abs(exact).max() * eps(dtype) < 1.0
    np.testing.assert_array_equal(lowla.kron_matmul(factors, X), exact)
    np.testing.assert_array_equal(lowla.kron_matmul(factors, np.asfortranarray(X)), exact)
    conjugated = lowla.Kronecker(*factors).H.T @ X.conj()
    np.testing.assert_array_equal(conjugated, exact.conj())


def test_the_direct_call_is_the_usual_one(monkeypatch):
    """What needs no intake takes a shorter way to the same kernel; the rest is left alone."""
    if lowla._backend.why_not("native") is not None:
        pytest.skip("the compiled module is not there")
    rng = np.random.default_rng(0)
    direct = lowla._backend.direct()
    for dtype in DTYPES:
        factors = [
            gauss(rng, (3, 4), dtype),
            gauss(rng, (5, 2), dtype).T,
            gauss(rng, (6, 9), dtype),
        ]
        factors[2] = factors[2][::-1, ::3]
        for r in (None, 1, 7):
            X = gauss(rng, (60,) if r is None else (60, r), dtype)
            for operand in (X, np.asfortranarray(X)):
                Y = direct.kron_matmul(factors, operand, None)
                with monkeypatch.context() as patch:
                    patch.setattr(lowla._backend, "direct", lambda: None)
                    expected = lowla.kron_matmul(factors, operand)
                np.testing.assert_array_equal(Y, expected)
                assert Y.flags.f_contiguous == expected.flags.f_contiguous
                np.testing.assert_array_equal(direct.kron_matmul(tuple(factors), operand, None), Y)
                out = np.empty_like(Y)
                assert direct.kron_matmul(factors, operand, out) is out
                np.testing.assert_array_equal(out, Y)
    A, x = np.eye(2), np.ones(4)
    unaligned = np.frombuffer(b"0" + x.tobytes(), dtype=np.uint8)[1:].view(np.float64)
    assert not unaligned.flags.aligned
    for factors, X in [
        ([], np.ones(1)),
        (iter([A, A]), x),
        ([A, [[1.0]]], x),
        ([A, A.astype(np.float32)], x),
        ([A, np.ma.masked_array(A)], x),
        ([A, A], x.astype(">f8")),
        ([A, A], unaligned),
        ([A, A], x.astype(np.int64)),
        ([A, A], x[:3]),
        ([A, A], np.ones((4, 0))),
        ([A, A], np.ones((4, 1, 1))),
        ([A, A], np.ones((4, 6))[:, ::2]),
        ([A, np.ones(2)], x),
        ([A, A], None),
        (None, x),
    ]:
        assert direct.kron_matmul(factors, X, None) is None
    X = np.ones((4, 4))
    for out in (
        x,
        np.empty(3),
        X,
        X[::-1],
        X.T,
        A,
        np.empty((8, 4))[::2],
        np.empty((4, 4), int),
        0,
    ):
        operand = x if np.ndim(out) == 1 else X
        assert direct.kron_matmul([A, A], operand, out) is None
    X.flags.writeable = False
    assert direct.kron_matmul([A, A], np.ones((4, 4)), X) is None
    with lowla.use_backend("numba"):
        assert lowla._backend.direct() is None
    monkeypatch.setattr(lowla._backend, "_environment", "numba")
    assert lowla._backend.direct() is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_caller_gives_memory_for_the_result(backend, dtype):
    rng = np.random.default_rng(0)
    factors = [gauss(rng, (4, 4), dtype), gauss(rng, (5, 5), dtype)]
    for X in (gauss(rng, 20, dtype), gauss(rng, (20, 3), dtype), gauss(rng, (3, 20), dtype).T):
        expected = lowla.kron_matmul(factors, X)
        for out in (
            np.full_like(expected, np.nan),
            np.asfortranarray(np.full_like(expected, np.nan)),
            np.full((40, *X.shape[1:]), np.nan, dtype)[::-2],
        ):
            assert lowla.kron_matmul(factors, X, out=out) is out
            np.testing.assert_array_equal(out, expected)
        overlapping = X.copy(order="K")
        assert lowla.kron_matmul(factors, overlapping, out=overlapping) is overlapping
        np.testing.assert_array_equal(overlapping, expected)
    square = gauss(rng, (5, 5), dtype)
    expected = lowla.kron_matmul([square], square)
    shared = square.copy()
    np.testing.assert_array_equal(lowla.kron_matmul([shared], square, out=shared), expected)


def test_memory_that_cannot_take_the_result(backend):
    A, x = np.eye(2), np.ones(4)
    for out, error, message in [
        (np.empty(3), ValueError, r"out must have the shape of the result, \(4,\), got \(3,\)"),
        (np.empty((4, 1)), ValueError, r"out must have the shape of the result"),
        (np.empty(4, np.float32), TypeError, "out must be float64 as the result, got float32"),
        ([0.0] * 4, TypeError, "out must be a numpy.ndarray, got builtins.list"),
        (np.broadcast_to(x, 4), ValueError, "out is read-only"),
    ]:
        with pytest.raises(error, match=message):
            lowla.kron_matmul([A, A], x, out=out)
        with pytest.raises(error, match=message):
            lowla.monarch_matmul(np.ones((2, 2, 2)), np.ones((2, 2, 2)), x, out=out)


@pytest.mark.parametrize("sizes", [[(64, 64)], [(1, 64), (64, 1)], [(1, 1)] * 6, [(2, 3)] * 6])
@pytest.mark.parametrize("r", [1, 7])
def test_named_sizes(backend, sizes, r):
    rng = np.random.default_rng(0)
    factors = [gauss(rng, shape, "float64") for shape in sizes]
    X = gauss(rng, (math.prod(n for _, n in sizes), r), "float64")
    steps = 8 * len(sizes) + sum(n for _, n in sizes)
    assert_product(lowla.kron_matmul(factors, X), dense(factors), X, "float64", steps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_has_the_order_of_x(backend, dtype):
    rng = np.random.default_rng(1)
    factors = [gauss(rng, shape, dtype) for shape in [(3, 4), (5, 2), (4, 4)]]
    X = gauss(rng, (32, 6), dtype)
    assert lowla.kron_matmul(factors, X).flags.c_contiguous
    by_columns = lowla.kron_matmul(factors, np.asfortranarray(X))
    assert by_columns.flags.f_contiguous
    assert_product(by_columns, dense(factors), X, dtype, 40)


def test_dtypes_are_promoted(backend):
    A, X = np.eye(2, dtype=np.float32), np.ones(4, np.float32)
    assert lowla.kron_matmul([A, A], X).dtype == np.float32
    assert lowla.kron_matmul([A, A * 1j], X).dtype == np.complex64
    assert lowla.kron_matmul([A, A], X.astype(np.complex128)).dtype == np.complex128
    assert lowla.kron_matmul([A, A.astype(float)], X).dtype == np.float64
    assert lowla.kron_matmul([A.astype(int), A], X).dtype == np.float64
    assert lowla.kron_matmul([A.astype(np.float16)] * 2, X).dtype == np.float32
    assert (lowla.Kronecker(A, A) @ X.astype(np.complex64)).dtype == np.complex64
    assert lowla.Kronecker(A, 1j * A).dtype == np.complex64


@given(sizes=shapes(most=10**9, longest=9))
def test_order_of_the_factors_is_the_cheapest(sizes):
    factors = [np.empty(shape) for shape in sizes]

    def flops(order):
        total, size = 0.0, float(math.prod(n for _, n in sizes))
        for i in order:
            m, n = sizes[i]
            total += size * m
            size *= m / n
        return total

    least = min(flops(order) for order in itertools.permutations(range(len(sizes))))
    assert flops(kron._cheapest_order(factors)) <= least * (1.0 + eps("float64") * 100)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("sizes", [[(16, 16)] * 4, [(4, 64), (64, 4), (16, 16)]])
def test_memory_is_one_array_beside_the_result(backend, sizes, order):
    rng = np.random.default_rng(2)
    factors = [gauss(rng, shape, "float64") for shape in sizes]
    X = np.array(gauss(rng, (math.prod(n for _, n in sizes), 8), "float64"), order=order)
    lowla.kron_matmul(factors, X)
    tracemalloc.start()
    try:
        Y = lowla.kron_matmul(factors, X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= Y.nbytes + max(X.nbytes, Y.nbytes) + 2**16


@pytest.mark.parametrize("shape", [(0,), (0, 3), (6, 0)])
def test_empty_arrays(backend, shape):
    middle = 3 if shape[0] else 0
    Y = lowla.kron_matmul([np.ones((4, 2)), np.ones((5, middle))], np.ones(shape, np.float32))
    np.testing.assert_array_equal(Y, np.zeros((20, *shape[1:])))
    K = lowla.Kronecker(np.ones((0, 0)), np.eye(3))
    assert tuple(K.logdet()) == tuple(np.linalg.slogdet(np.ones((0, 0))))
    assert K.trace() == 0.0
    assert K.diagonal().shape == K.eigh().w.shape == (0,)
    assert K.toarray().shape == K.inv().shape == (0, 0)
    assert K.solve(np.ones(0)).shape == K.solve(np.ones((0, 2)), 1.0)[:, 0].shape == (0,)


def test_nan_propagates(backend):
    X = np.ones((6, 2))
    X[4, 1] = np.nan
    Y = lowla.kron_matmul([np.ones((2, 2)), np.ones((3, 3))], X)
    assert np.isnan(Y[:, 1]).all()
    np.testing.assert_array_equal(Y[:, 0], 6.0)


# The operator


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposes_and_adjoints(backend, dtype):
    rng = np.random.default_rng(3)
    factors = [gauss(rng, shape, dtype) for shape in [(3, 4), (5, 2), (2, 3)]]
    K = lowla.Kronecker(*factors)
    assert isinstance(K, LinearOperator)
    assert K.shape == (30, 24)
    assert K.dtype == dtype
    A = K.toarray()
    np.testing.assert_array_equal(A, np.kron(np.kron(*factors[:2]), factors[2]))
    for turned, expected in [
        (K.T, A.T),
        (K.H, A.conj().T),
        (K.H.H, A),
        (K.T.T, A),
        (K.T.H, A.conj()),
        (K.H.T, A.conj()),
    ]:
        assert isinstance(turned, lowla.Kronecker)
        np.testing.assert_array_equal(turned.toarray(), expected)
        X = gauss(rng, (turned.shape[1], 3), dtype)
        assert_product(turned @ X, expected, X, dtype, 40)
        assert_product(turned.matvec(X[:, 0]), expected, X[:, 0], dtype, 40)
        Y = gauss(rng, (turned.shape[0], 3), dtype)
        assert_product(turned.rmatmat(Y), expected.conj().T, Y, dtype, 40)
        assert_product(turned.rmatvec(Y[:, 0]), expected.conj().T, Y[:, 0], dtype, 40)
    for ours, theirs in zip(K.H.factors, factors, strict=True):
        np.testing.assert_array_equal(ours, theirs.conj().T)
    assert np.shares_memory(K.T.factors[0], factors[0])


@given(sizes=shapes(most=60, longest=12), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_adjoint_identity(backend, sizes, dtype, seed):
    rng = np.random.default_rng(seed)
    K = lowla.Kronecker(*[gauss(rng, shape, dtype) for shape in sizes])
    x, y = gauss(rng, K.shape[1], dtype), gauss(rng, K.shape[0], dtype)
    scale = np.abs(y) @ np.abs(K.toarray()) @ np.abs(x)
    assert abs(np.vdot(y, K @ x) - np.vdot(K.H @ y, x)) <= tol(dtype, sum(K.shape)) * scale


@pytest.mark.parametrize("sizes", [[(3, 3), (4, 4)], [(2, 6), (6, 2)], [(3, 2), (2, 5)], [(4, 4)]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_diagonal_and_trace(backend, sizes, dtype):
    rng = np.random.default_rng(4)
    K = lowla.Kronecker(*[gauss(rng, shape, dtype) for shape in sizes])
    A = K.toarray()
    assert K.diagonal().dtype == dtype
    for operator, array in [(K, A), (K.H, A.conj().T)]:
        np.testing.assert_allclose(operator.diagonal(), np.diagonal(array), rtol=8 * eps(dtype))
        absolute = np.abs(np.diagonal(array)).sum()
        assert abs(operator.trace() - np.trace(array)) <= tol(dtype, len(A)) * absolute
        assert isinstance(operator.trace(), complex if np.iscomplexobj(A) else float)


@given(sizes=shapes(most=40, square=True, longest=8), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_logdet_is_slogdet(backend, sizes, dtype, seed):
    rng = np.random.default_rng(seed)
    K = lowla.Kronecker(*[gauss(rng, shape, dtype) for shape in sizes])
    for operator in (K, K.H):
        wide = np.result_type(dtype, np.float64)
        A = lowla.Kronecker(*[F.astype(wide) for F in operator.factors]).toarray()
        sign, logabsdet = np.linalg.slogdet(A)
        cond = np.linalg.cond(A)
        found = operator.logdet()
        assert abs(found.sign - sign) <= tol("float64", len(A), cond)
        assert abs(found.logabsdet - logabsdet) <= tol("float64", len(A), cond)


def test_logdet_of_named_matrices(backend):
    flip = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert tuple(lowla.Kronecker(flip, np.eye(3)).logdet()) == (-1.0, 0.0)
    assert tuple(lowla.Kronecker(flip, np.eye(2)).logdet()) == (1.0, 0.0)
    sign, logabsdet = lowla.Kronecker(1e-300 * np.eye(50), 1e-300 * np.eye(50)).logdet()
    assert sign == 1.0
    expected = 2500 * 2 * math.log(1e-300)
    assert logabsdet == pytest.approx(expected, rel=tol("float64", 50))
    assert tuple(lowla.Kronecker(np.ones((3, 3)), flip).logdet()) == (0.0, -math.inf)
    assert tuple(lowla.Kronecker(np.ones((2, 3)), np.ones((3, 2))).logdet()) == (0.0, -math.inf)


@given(sizes=shapes(most=60, square=True, longest=9), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_solve_and_inverse(backend, sizes, dtype, seed):
    rng = np.random.default_rng(seed)
    factors = [gauss(rng, s, dtype) + 2 * s[0] * np.eye(s[0], dtype=dtype) for s in sizes]
    K = lowla.Kronecker(*factors)
    for operator in (K, K.H):
        A = dense(operator.factors)
        B = LAYOUTS["step_two"](gauss(rng, (len(A), 3), dtype))
        cond = np.prod([np.linalg.cond(F) for F in factors])
        bound = tol(dtype, len(A), cond, factor=10.0)
        X = operator.solve(B)
        assert X.dtype == dtype
        assert np.linalg.norm(A @ X - B) <= bound * np.linalg.norm(B)
        np.testing.assert_allclose(operator.solve(B[:, 1]), X[:, 1], rtol=bound, atol=bound)
        assert np.linalg.norm(operator.inv() @ B - X) <= bound * np.linalg.norm(X)


def hermitian(rng, n, dtype, spectrum=None):
    V = np.linalg.qr(gauss(rng, (n, n), np.result_type(dtype, np.float64)))[0]
    w = rng.standard_normal(n) if spectrum is None else spectrum
    A = (V * w) @ V.conj().T
    return ((A + A.conj().T) / 2).astype(dtype)


@given(sizes=shapes(most=60, square=True, longest=9), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_eigh(backend, sizes, dtype, seed):
    rng = np.random.default_rng(seed)
    K = lowla.Kronecker(*[hermitian(rng, n, dtype) for n, _ in sizes])
    w, V = K.eigh()
    A, Q = dense(K.factors), dense(V.factors)
    assert w.dtype == np.finfo(dtype).dtype
    assert V.dtype == dtype
    bound = tol(dtype, sum(n for n, _ in sizes))
    norm = math.prod(np.linalg.norm(F.astype(np.complex128), 2) for F in K.factors)
    assert np.linalg.norm(((Q * w) @ Q.conj().T - A).astype(np.complex128), 2) <= bound * norm
    assert np.linalg.norm((Q.conj().T @ Q - np.eye(len(A))).astype(np.complex128), 2) <= bound
    assert K.eigh().V.factors[0] is V.factors[0]  # kept


@given(
    sizes=shapes(most=60, square=True, longest=9),
    dtype=st.sampled_from(DTYPES),
    seed=seeds,
    shift=st.sampled_from([0.0, 1e-3, 0.5, 3.0]),
)
def test_kron_solve_residual(backend, sizes, dtype, seed, shift):
    """Of a backward stable solver, ||(K + s I) x - b|| <= c n u ||K + s I|| ||x||."""
    rng = np.random.default_rng(seed)
    factors = [hermitian(rng, n, dtype, np.logspace(0, -1, n)) for n, _ in sizes]
    A = dense(factors)
    A = A + shift * np.eye(len(A))
    B = LAYOUTS["reversed"](gauss(rng, (len(A), 2), dtype))
    X = lowla.kron_solve(factors, B, shift)
    assert X.dtype == dtype
    bound = tol(dtype, sum(n for n, _ in sizes), 1.0 + shift, factor=20.0)
    assert np.linalg.norm(A @ X - B) <= bound * np.linalg.norm(X)
    K = lowla.Kronecker(*factors)
    again = K.solve(B, shift)
    assert np.linalg.norm(A @ again - B) <= bound * 10 * np.linalg.norm(X)
    assert np.linalg.norm(A @ K.solve(B[:, 0], shift) - B[:, 0]) <= bound * 10 * np.linalg.norm(X)


def test_indefinite_matrices_are_solved(backend):
    rng = np.random.default_rng(5)
    factors = [hermitian(rng, n, "float64", np.linspace(-1, 2, n)) for n in (7, 8)]
    A = np.kron(*factors) - 0.3 * np.eye(56)
    x = lowla.kron_solve(factors, np.ones(56), -0.3)
    assert np.linalg.norm(A @ x - 1.0) <= tol("float64", 56, np.linalg.cond(A))


def test_eigenpairs_are_computed_once(backend, monkeypatch):
    calls = []
    backends = {name: lowla._backend.load(name) for name in ("numba",)}
    original = backends["numba"].kron_eigh
    monkeypatch.setattr(backends["numba"], "kron_eigh", lambda f: calls.append(1) or original(f))
    K = lowla.Kronecker(np.diag([1.0, 2.0]), np.diag([3.0, 4.0]))
    for shift in (0.5, 1.0, 2.0):
        np.testing.assert_allclose(K.solve(np.ones(4), shift), 1.0 / (K.diagonal() + shift))
    K.eigh()
    assert len(calls) == 1


def test_singular_matrices_raise(backend):
    rank_one, flip = np.ones((3, 3)), np.array([[0.0, 1.0], [1.0, 0.0]])
    K = lowla.Kronecker(flip, rank_one)
    for call in (K.inv, lambda: K.solve(np.ones(6))):
        with pytest.raises(np.linalg.LinAlgError) as caught:
            call()
        assert str(caught.value).startswith(
            "factors[1] is singular to working precision (condition number "
        )
    for factors, shift in [([flip, rank_one], 0.0), ([flip], -1.0), ([flip, flip], 1.0)]:
        n = math.prod(len(F) for F in factors)
        with pytest.raises(np.linalg.LinAlgError) as caught:
            lowla.kron_solve(factors, np.ones(n), shift)
        assert str(caught.value).startswith(
            "the shifted matrix is singular to working precision: an eigenvalue of magnitude "
        )


def test_operator_serves_scipy(backend):
    rng = np.random.default_rng(6)
    K = lowla.Kronecker(*[hermitian(rng, n, "float64", np.linspace(1, 2, n)) for n in (6, 7)])
    x, code = cg(K, np.ones(42), rtol=1e-12)
    assert code == 0
    np.testing.assert_allclose(x, K.solve(np.ones(42)), rtol=1e-10)
    twice = 2.0 * K + aslinearoperator(np.eye(42))
    np.testing.assert_allclose(twice @ x, 2.0 * (K @ x) + x)
    np.testing.assert_allclose(K @ x[:, None].tolist(), (K @ x)[:, None])


def test_tensors_come_back_as_tensors(backend):
    torch = pytest.importorskip("torch")
    A, X = torch.arange(6.0).reshape(2, 3), torch.ones((9, 2))
    Y = lowla.kron_matmul([A, np.ones((2, 3), np.float32)], X)
    assert isinstance(Y, torch.Tensor)
    np.testing.assert_array_equal(Y.numpy(), np.kron(A.numpy(), np.ones((2, 3))) @ X.numpy())
    K = lowla.Kronecker(torch.eye(2), torch.eye(3))
    assert isinstance(K.toarray(), torch.Tensor)
    assert isinstance(K.eigh().w, torch.Tensor)
    assert isinstance(K.factors[0], torch.Tensor)
    assert isinstance(K.solve(X[:6]), torch.Tensor)
    assert K.trace() == 6.0


# The nearest sum of Kronecker products


def rearranged(A, shape1, shape2):
    rows = [
        A[i * shape2[0] : (i + 1) * shape2[0], j * shape2[1] : (j + 1) * shape2[1]].ravel()
        for i in range(shape1[0])
        for j in range(shape1[1])
    ]
    return np.array(rows)


def sum_of(B, C):
    return sum(np.kron(b, c) for b, c in zip(B, C, strict=True))


@given(
    shape1=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    shape2=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    dtype=st.sampled_from(DTYPES),
    layout=layouts,
    seed=seeds,
    data=st.data(),
)
def test_nearest_kron_is_optimal(backend, shape1, shape2, dtype, layout, seed, data):
    """Van Loan and Pitsianis 1993: error² = the sum of the squared singular values left out."""
    rng = np.random.default_rng(seed)
    shape = (shape1[0] * shape2[0], shape1[1] * shape2[1])
    A = LAYOUTS[layout](gauss(rng, shape, dtype))
    terms = data.draw(st.integers(1, min(math.prod(shape1), math.prod(shape2))))
    B, C = result = lowla.nearest_kron(A, shape1, shape2, terms)
    assert (B.shape, C.shape) == ((terms, *shape1), (terms, *shape2))
    assert B.dtype == C.dtype == dtype
    wide = A.astype(np.clongdouble)
    s = np.linalg.svd(rearranged(A.astype(np.complex128), shape1, shape2), compute_uv=False)
    best = np.sqrt(np.sum(s[terms:] ** 2) / np.sum(s**2))
    error = np.linalg.norm(wide - sum_of(B, C)) / np.linalg.norm(wide)
    assert error == pytest.approx(best, abs=tol(dtype, 1))
    assert result.info.error == pytest.approx(float(error), abs=tol(dtype, 1))
    assert result.info.method == "svd"
    norms = np.linalg.norm(B.reshape(terms, -1), axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(C.reshape(terms, -1), axis=1), rtol=1e-4)
    np.testing.assert_allclose(norms**2, s[:terms], rtol=1e-3, atol=tol(dtype, 10) * s[0])


@pytest.mark.core
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_nearest_kron_recovers_products(backend, scale):
    rng = np.random.default_rng(7)
    left, right = gauss(rng, (3, 5), "float64"), gauss(rng, (4, 2), "float64")
    A = scale * np.kron(left, right)
    B, C = result = lowla.nearest_kron(A, (3, 5), (4, 2))
    assert result.info.error <= tol("float64", 1)
    gap = np.abs(np.kron(B[0], C[0]) - A)
    assert gap.max() <= tol("float64", 1) * np.abs(A).max()


def test_nearest_kron_of_large_matrices(backend):
    """The Krylov method, for a rearrangement of 400 x 441."""
    rng = np.random.default_rng(8)
    terms = [
        (3.0**-t, gauss(rng, (20, 20), "float64"), gauss(rng, (21, 21), "float64"))
        for t in range(20)
    ]
    A = sum(scale * np.kron(b, c) for scale, b, c in terms)
    A += 1e-11 * gauss(rng, A.shape, "float64")
    s = np.linalg.svd(rearranged(A, (20, 20), (21, 21)), compute_uv=False)
    for number in (1, 6, 20):
        result = lowla.nearest_kron(A, (20, 20), (21, 21), number, rng=0)
        assert result.info.method == "krylov"
        best = np.linalg.norm(s[number:]) / np.linalg.norm(s)
        assert result.info.error == pytest.approx(best, rel=1e-3)
        error = np.linalg.norm(A - sum_of(*result)) / np.linalg.norm(A)
        assert error == pytest.approx(result.info.error, rel=1e-4)
        for ours, again in zip(
            result, lowla.nearest_kron(A, (20, 20), (21, 21), number, rng=0), strict=True
        ):
            np.testing.assert_array_equal(ours, again)
    swapped = lowla.nearest_kron(np.ascontiguousarray(A.T), (21, 20), (20, 21), 2, rng=0)
    assert swapped.info.method == "krylov"


def test_nearest_kron_of_nothing(backend):
    B, C = result = lowla.nearest_kron(np.zeros((6, 6)), (2, 3), (3, 2), 2)
    assert not B.any()
    assert not C.any()
    assert result.info.error == 0.0
    bad = np.ones((6, 6))
    bad[2, 3] = np.inf
    B, C = result = lowla.nearest_kron(bad, (2, 3), (3, 2), 2, check_finite=False)
    assert np.isnan(B).all()
    assert np.isnan(C).all()
    assert np.isnan(result.info.error)


def test_results_print_their_facts(backend):
    result = lowla.nearest_kron(np.eye(6), (2, 2), (3, 3))
    lines = str(result).splitlines()
    assert lines[0] == "NearestKronResult: B (1, 2, 2), C (1, 3, 3), float64"
    assert lines[1] == "  asked          terms = 1"
    assert repr(result.info).splitlines() == ["NearestKronInfo", *lines[1:]]
    assert result.B is result[0]
    assert result.C is result[1]


def test_intake_without_copies():
    A = np.asfortranarray(np.ones((3, 4)))
    assert _arrays.dense(A, "A", (2,)).dense is A


# One group and several, slabs of columns, packed tiles, a single column: rectangular ones too.
_LARGE = [
    ([(16, 16)] * 3, 70),
    ([(8, 8)] * 4, 33),
    ([(8, 8)] * 5, 1),
    ([(20, 30), (5, 40), (60, 7)], 100),
    ([(3, 50), (50, 3), (9, 9)], 257),
    ([(64, 64), (64, 64)], 3),
]


@pytest.mark.core
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shapes", "columns"), _LARGE)
def test_large_products_are_mode_products(backend, shapes, columns, dtype):
    rng = np.random.default_rng(0)
    factors = [gauss(rng, shape, dtype) for shape in shapes]
    sizes = [n for _, n in shapes]
    X = gauss(rng, (math.prod(sizes), columns), dtype)
    wide = np.result_type(dtype, np.float64)
    expected, scale = X.astype(wide).reshape(*sizes, columns), np.abs(X).reshape(*sizes, columns)
    for axis, F in enumerate(factors):
        expected = np.moveaxis(np.tensordot(F.astype(wide), expected, (1, axis)), 0, axis)
        scale = np.moveaxis(np.tensordot(np.abs(F), scale, (1, axis)), 0, axis)
    bound = 4.0 * sum(sizes) * eps(dtype) * scale.reshape(-1, columns)
    for order in "CF":
        Y = lowla.kron_matmul(factors, np.asarray(X, order=order))
        assert np.all(np.abs(Y - expected.reshape(-1, columns)) <= bound)


@pytest.mark.parametrize("columns", [1, 200])
def test_products_do_not_depend_on_the_number_of_threads(backend, columns):
    if backend == "numba":
        pytest.skip("the BLAS decides there")
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((16, 16)) for _ in range(3)]
    X = rng.standard_normal((16**3, columns))
    found = with_1_2_and_7_threads(lambda: lowla.kron_matmul(factors, X))
    assert np.array_equal(found[1], found[0])
    assert np.array_equal(found[2], found[0])
