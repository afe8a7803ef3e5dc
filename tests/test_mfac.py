"""Inverse-Fisher-vector products: against the dense inverse, the identities of the paper, and the
closed forms."""

from __future__ import annotations

import io
import threading
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import lowla
from lowla import _backend
from strategies import LAYOUTS
from thread_counts import with_1_2_and_7_threads
from tolerances import eps, tol

DTYPES = ("float64", "float32", "float16", "bfloat16")


# Gradients, and the Fisher matrix written out


def stored(G, dtype):
    """G rounded to a storage dtype, as the backends take it (bfloat16: its bits)."""
    if dtype != "bfloat16":
        return G.astype(dtype)
    bits = G.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def exact(G):
    """What is stored, in float64."""
    if G.dtype == np.uint16:
        return (G.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return G.astype(np.float64)


def blocks_of(d, block_size):
    return [np.s_[lo : min(lo + (block_size or d), d)] for lo in range(0, d, block_size or d)]


def fisher(G, damp, block_size=0):
    """damp·I + GᵀG / m, its diagonal blocks only if there is a block size."""
    G = exact(G)
    m, d = G.shape
    F = np.zeros((d, d))
    for b in blocks_of(d, block_size):
        F[b, b] = damp * np.eye(G[:, b].shape[1]) + G[:, b].T @ G[:, b] / max(m, 1)
    return F


def error_bound(G, damp, factor=4.0):
    """Of ||computed - F⁻¹x|| / ||x||: Cholesky's method solves (M + E) c = Gx with a backward error
    ||E|| <= 3 m² u ||M|| (Higham 2002, theorem 10.3), K has one of d u ||K||, and both
    ||Gᵀ M⁻¹|| and ||M⁻¹ G|| are at most 1 / (2 sqrt(m damp)), so E costs ||E|| / (4 m damp²)."""
    m, d = G.shape
    shift = m * damp
    cond = 1.0 + np.linalg.norm(exact(G), 2) ** 2 / shift
    return factor * (3 * m * m + d) * eps(np.float64) * cond / damp


def gradients(seed, m, d, kind="gauss"):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((m, d))
    if kind == "scaled":
        G *= np.logspace(-3, 2, d) * np.logspace(1, -2, m)[:, None]
    elif kind == "duplicates":
        G = G[rng.integers(0, max(1, m // 3), m)]
    elif kind == "correlated":
        G = G[:1] + 1e-3 * G
    elif kind == "zero":
        G *= rng.integers(0, 2, m)[:, None]
    return G


KINDS = ("gauss", "scaled", "duplicates", "correlated", "zero")
seeds = st.integers(0, 2**32 - 1)
cases = {
    "m": st.integers(1, 20),
    "d": st.integers(1, 40),
    "dtype": st.sampled_from(DTYPES),
    "kind": st.sampled_from(KINDS),
    "damp": st.sampled_from((1e-3, 0.1, 1.0, 100.0)),
    "block_size": st.integers(0, 45),
    "seed": seeds,
}


# The functions of a backend


@pytest.fixture
def functions(backend):
    """The module that has the fisher functions."""
    return _backend.select_for("fisher_gram", "host")[1]


def split(G, seed):
    """Shards of G: Fortran-ordered, strided and read-only ones."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, G.shape[1] + 1, 2))
    forms = [np.asfortranarray, lambda A: np.repeat(A, 2, axis=1)[:, ::2], lambda A: A[::-1][::-1]]
    shards = [form(A) for form, A in zip(forms, np.split(G, cuts, axis=1), strict=True)]
    for shard in shards:
        shard.flags.writeable = False
    return shards


def factored(functions, shards, block_size, damp, head=0):
    m = shards[0].shape[0]
    K = functions.fisher_gram(shards, block_size, None)
    return K, functions.fisher_factor(K, m * damp, 0 if 0 < block_size < m else head)


@pytest.mark.core
@given(**cases)
def test_gram_and_factor(functions, m, d, dtype, kind, damp, block_size, seed):
    """K_b = G_b G_bᵀ or G_bᵀ G_b, symmetric to the last bit; L Lᵀ = M with rows by age."""
    G = stored(gradients(seed, m, d, kind), dtype)
    mask = np.random.default_rng(seed).random(d) < 0.7
    head = 0 if 0 < block_size < m else seed % m
    for chosen in (None, mask):
        wide = exact(G) * (1.0 if chosen is None else chosen)
        K = functions.fisher_gram(split(G, seed), block_size, chosen)
        s = block_size if 0 < block_size < m else m
        assert K.shape == (len(blocks_of(d, block_size)), s, s)
        np.testing.assert_array_equal(K, K.transpose(0, 2, 1))
        L = functions.fisher_factor(K, m * damp, head)
        np.testing.assert_array_equal(L, np.tril(L))
        order = (head + np.arange(s)) % s
        for K_b, L_b, b in zip(K, L, blocks_of(d, block_size), strict=True):
            G_b = wide[:, b]
            absolute = np.abs(G_b)
            if s < m:
                w = G_b.shape[1]
                assert (
                    np.abs(K_b[:w, :w] - G_b.T @ G_b) <= tol("f8", m) * (absolute.T @ absolute)
                ).all()
                assert not K_b[w:].any()
            else:
                assert (np.abs(K_b - G_b @ G_b.T) <= tol("f8", d) * (absolute @ absolute.T)).all()
            M = K_b[np.ix_(order, order)] + m * damp * np.eye(s)
            scale = np.sqrt(np.outer(np.diag(M), np.diag(M)))
            assert (np.abs(L_b @ L_b.T - M) <= tol("f8", s, factor=4.0) * scale).all()


@pytest.mark.core
@given(**cases, r=st.integers(1, 3))
def test_solve_and_multiply(functions, m, d, dtype, kind, damp, block_size, seed, r):
    G = stored(gradients(seed, m, d, kind), dtype)
    shards, rng = split(G, seed), np.random.default_rng(seed)
    F = fisher(G, damp, block_size)
    head = seed % m
    _, L = factored(functions, shards, block_size, damp, head)
    for X in (rng.standard_normal((d, r)), np.asfortranarray(rng.standard_normal((d, r)), "f4")):
        wide = X.astype(np.float64)
        for out in ("float64", "float32"):
            Y = functions.fisher_multiply(shards, block_size, damp, X, out)
            assert Y.dtype == out
            scale = damp * np.abs(wide) + np.abs(F) @ np.abs(wide)
            assert (np.abs(Y - F @ wide) <= (tol("f8", m + d) + eps(out)) * scale).all()
            Z = functions.fisher_solve(shards, L, head, block_size, damp, X, out)
            assert Z.dtype == out
            right = np.linalg.solve(F, wide)
            off = np.linalg.norm(Z - right, axis=0)
            bound = error_bound(G, damp) * np.linalg.norm(wide, axis=0)
            assert (off <= bound + eps(out) * np.linalg.norm(right, axis=0)).all()


@pytest.mark.core
@given(**{**cases, "block_size": st.just(0)})
def test_the_three_steps_of_a_solve(functions, m, d, dtype, kind, damp, block_size, seed):
    """fisher_solve is dots, coefficients and combine, all in the order of the rows of G."""
    G = stored(gradients(seed, m, d, kind), dtype)
    shards, wide = split(G, seed), exact(G)
    X = np.random.default_rng(seed).standard_normal((d, 2))
    K, L = factored(functions, shards, 0, damp, seed % m)
    D = functions.fisher_dots(shards, X)
    assert (np.abs(D - wide @ X) <= tol("f8", d) * (np.abs(wide) @ np.abs(X))).all()
    C = functions.fisher_coefficients(L, seed % m, D)
    M = K[0] + m * damp * np.eye(m)
    residual = np.abs(M @ C - D)
    assert (residual <= tol("f8", m * m) * (np.abs(M) @ np.abs(C) + np.linalg.norm(D))).all()
    Y = functions.fisher_combine(shards, C, X, 1 / damp, -1 / damp, "float64")
    scale = (np.abs(X) + np.abs(wide.T) @ np.abs(C)) / damp
    assert (np.abs(Y - (X - wide.T @ C) / damp) <= tol("f8", m) * scale).all()
    Z = functions.fisher_solve(shards, L, seed % m, 0, damp, X, "float64")
    assert (np.abs(Y - Z) <= tol("f8", m) * scale).all()


@pytest.mark.core
@given(**cases)
def test_diagonal_columns_and_trace(functions, m, d, dtype, kind, damp, block_size, seed):
    G = stored(gradients(seed, m, d, kind), dtype)
    shards, head = split(G, seed), seed % m
    F = fisher(G, damp, block_size)
    inverse, bound = np.linalg.inv(F), error_bound(G, damp)
    _, L = factored(functions, shards, block_size, damp, head)
    primal = 0 < block_size < m
    for out in ("float64", "float32"):
        diagonal = functions.fisher_diagonal(shards, L, head, block_size, damp, out)
        assert diagonal.dtype == out
        off = np.abs(diagonal - np.diag(inverse))
        assert (off <= bound + eps(out) * np.diag(inverse)).all()
        assert (diagonal > 0).all()
        assert (diagonal <= (1 + eps(out)) / damp).all()
    rng = np.random.default_rng(seed)
    i, j = rng.integers(0, d, (2, 7))
    V, W = (functions.fisher_columns(shards, L, head, block_size, k) for k in (i, j))
    same = i // (block_size or d) == j // (block_size or d)
    places = np.arange(7)
    inner = functions.fisher_inner(np.concatenate([V, W]), places, places + 7)
    np.testing.assert_allclose(
        functions.fisher_cross(V, W)[places, places], inner, rtol=0, atol=bound * damp
    )
    found = m * inner if primal else ((i == j) - inner) / damp
    assert (np.abs(found - inverse[i, j])[same] <= bound).all()
    width = d - (L.shape[0] - 1) * block_size if primal else m
    logdet, trace = functions.fisher_trace(L, m * damp, width)
    expected = np.linalg.slogdet(F)[1]
    logs = d * np.log(damp) + logdet
    assert abs(logs - expected) <= d * bound * damp + tol("f8", d) * d * abs(np.log(damp))
    found = (trace if primal else d - len(L) * m + trace) / damp
    assert abs(found - np.trace(inverse)) <= (d + len(L) * m) * bound


@pytest.mark.core
@given(
    window=st.integers(1, 9),
    d=st.integers(1, 30),
    dtype=st.sampled_from(DTYPES),
    block_size=st.integers(0, 32),
    damp=st.sampled_from((1e-3, 1.0)),
    seed=seeds,
    refactor=st.booleans(),
)
def test_push(functions, window, d, dtype, block_size, damp, seed, refactor):
    """After every push K and L are those of the rows in the window."""
    G = stored(gradients(seed, 3 * window + 2, d), dtype)
    cut = seed % (d + 1)
    ring = [np.zeros((window, cut), G.dtype), np.zeros((window, d - cut), G.dtype, order="F")]
    s = block_size if 0 < block_size < window else window
    K = np.zeros((len(blocks_of(d, block_size)), s, s))
    L, head, count = np.zeros_like(K), 0, 0
    for t, g in enumerate(G):
        facts = functions.fisher_push(
            ring, K, L, head, count, block_size, damp, [g[:cut], g[cut:]], refactor and t % 2 == 0
        )
        head, count = facts["head"], facts["count"]
        assert count == min(t + 1, window)
        assert head == (t + 1) % window if t >= window else head == 0
        whole = np.concatenate(ring, axis=1)[:count]
        by_age = whole[(head + np.arange(count)) % count]
        np.testing.assert_array_equal(by_age, G[max(0, t + 1 - window) : t + 1])
        primal = s < window
        fresh = grams(whole, block_size, primal)
        used = np.s_[:, : fresh.shape[1], : fresh.shape[1]]
        assert (np.abs(K[used] - fresh) <= tol("f8", d + t) * np.abs(K).max() * 10).all()
        order = np.arange(s) if primal else (head + np.arange(count)) % count
        M = K[used][:, order[:, None], order] + count * damp * np.eye(len(order))
        LLt = L[used] @ L[used].transpose(0, 2, 1)
        assert (np.abs(LLt - M) <= tol("f8", s + t, factor=4.0) * M.max()).all()
        assert not np.triu(L, 1).any()


def grams(G, block_size, primal):
    """K_b of all blocks; a narrower last primal one padded."""
    parts = [exact(G)[:, b] for b in blocks_of(G.shape[1], block_size)]
    if not primal:
        return np.stack([G_b @ G_b.T for G_b in parts])
    return np.stack([np.pad(G_b.T @ G_b, (0, block_size - G_b.shape[1])) for G_b in parts])


def test_dropping_and_appending_keeps_the_factor(functions):
    """The factor after 2000 exchanges without a factorisation is that of the rows it stands for:
    rank-one updates and triangular solves are backward stable (Golub and Van Loan 2013, 6.5.4)."""
    window, d, damp = 8, 11, 1e-4
    rng = np.random.default_rng(0)
    ring, K, L = [np.zeros((window, d))], np.zeros((1, window, window)), np.zeros((1, 8, 8))
    head = count = refactored = 0
    for t in range(2000 + window):
        g = rng.standard_normal(d) * 10.0 ** rng.integers(-3, 2)
        facts = functions.fisher_push(ring, K, L, head, count, 0, damp, [g], False)
        head, count = facts["head"], facts["count"]
        refactored += facts["refactored"] and t >= window
    assert refactored == 0
    order = (head + np.arange(window)) % window
    M = K[0][np.ix_(order, order)] + window * damp * np.eye(window)
    assert np.linalg.norm(L[0] @ L[0].T - M) <= tol("f8", window, factor=10.0) * np.linalg.norm(M)


@pytest.mark.core
def test_a_gram_matrix_that_is_singular_to_rounding_is_refused(functions):
    """A pivot below the rounding of its row: two equal rows, damp far below u ||g||²."""
    G = np.ones((2, 3)) * 1e3
    K = functions.fisher_gram([G], 0, None)
    for shift in (1e-20, 1e-300):
        with pytest.raises(np.linalg.LinAlgError, match="damp is below the rounding of the Gram"):
            functions.fisher_factor(K, shift, 0)
    functions.fisher_factor(K, 1e-3, 0)
    graded = np.diag([1e200, 1.0, 1e-200])[None]  # each row is well determined by itself
    L = functions.fisher_factor(graded, 1e-250, 0)
    np.testing.assert_allclose(L[0], np.sqrt(graded[0]), rtol=tol("f8", 3))


# The operator against the dense inverse


def dense_error(found, F, x):
    return np.linalg.norm(found - np.linalg.solve(F, x), axis=0)


@pytest.mark.core
@given(**cases, r=st.integers(0, 3))
def test_products_are_those_of_the_dense_inverse(
    backend, m, d, dtype, kind, damp, block_size, seed, r
):
    G = gradients(seed, m, d, kind).astype("f4" if dtype == "bfloat16" else dtype)
    before = G.copy()
    Finv = lowla.InverseFisher(G, damp, block_size=block_size or None)
    F, rng = fisher(G, damp, block_size), np.random.default_rng(seed)
    x = rng.standard_normal((d, r) if r else d)
    y = Finv @ x
    assert (y.dtype, y.shape) == (np.float64, x.shape)
    bound = error_bound(G, damp) * np.linalg.norm(x, axis=0)
    assert (dense_error(y, F, x) <= bound).all()
    single = Finv @ x.astype(np.float32)
    assert single.dtype == np.result_type(Finv.dtype, np.float32)
    off = dense_error(single, F, x.astype(np.float32).astype(np.float64))
    assert (off <= bound + eps(single.dtype) * np.linalg.norm(y, axis=0)).all()
    # F (F⁻¹x) = x
    back = np.linalg.norm(F @ y - x, axis=0)
    assert (back <= np.linalg.norm(F, 2) * bound + tol("f8", d) * np.linalg.norm(x, axis=0)).all()
    np.testing.assert_array_equal(G, before)


@pytest.mark.core
@given(**cases)
def test_entries_are_those_of_the_dense_inverse(backend, m, d, dtype, kind, damp, block_size, seed):
    G = gradients(seed, m, d, kind).astype("f8" if dtype == "float64" else "f4")
    Finv = lowla.InverseFisher(G, damp, block_size=block_size or None)
    F = fisher(G, damp, block_size)
    inverse = np.linalg.inv(F)
    bound = error_bound(G, damp) + eps(G.dtype) / damp
    diagonal = Finv.diagonal()
    assert (diagonal.dtype, diagonal.shape) == (G.dtype, (d,))
    assert (np.abs(diagonal - np.diag(inverse)) <= bound).all()
    rng = np.random.default_rng(seed)
    i, j = rng.integers(-d, d, (5, 1)), rng.integers(-d, d, 4)
    for _ in range(2):
        found = Finv.element(i, j)
        assert (found.dtype, found.shape) == (G.dtype, (5, 4))
        assert (np.abs(found - inverse[i, j]) <= bound).all()
        part = Finv.block(i[:, 0], j)
        assert part.dtype == G.dtype
        assert (np.abs(part - inverse[np.ix_(i[:, 0], j)]) <= bound).all()
        one = Finv.element(0, -1)
        assert isinstance(one, float)
        assert abs(one - inverse[0, -1]) <= bound
        Finv.keep_columns()
    assert Finv.element([], []).shape == (0,)
    assert Finv.block([], [0]).shape == (0, 1)
    columns = Finv @ np.eye(d)
    assert (np.abs(columns - columns.T) <= bound).all()
    logs = abs(Finv.logdet() - np.linalg.slogdet(F)[1])
    assert logs <= d * bound * damp + tol("f8", d) * d * abs(np.log(damp))
    blocks = Finv.info.blocks
    assert abs(Finv.solve_trace() - np.trace(inverse)) <= (d + blocks * m) * bound


@pytest.mark.core
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("damp", [1e-8, 1e-5, 1e-2])
def test_vectors_in_the_span_of_the_gradients(backend, dtype, damp):
    """For x = Gᵀa all but damp / λ of x cancels in x - Gᵀc. The reference is F⁻¹Gᵀa = m·Gᵀ M⁻¹a,
    where nothing does, in extended precision. A Gram matrix in float32 loses every digit."""
    m, d = 16, 3000
    G = np.random.default_rng(1).standard_normal((m, d)).astype(dtype)
    a = np.random.default_rng(2).standard_normal(m)
    wide = G.astype(np.longdouble)
    M = wide @ wide.T + m * np.longdouble(damp) * np.eye(m)
    right = m * (wide.T @ refined_solve(M, a.astype(np.longdouble))).astype(np.float64)
    x = (wide.T @ a).astype(np.float64)

    def error(found):
        return np.linalg.norm(found - right) / np.linalg.norm(right)

    s = np.linalg.svd(G.astype(np.float64), compute_uv=False)
    ratio = 1.0 + s[0] ** 2 / (m * damp)  # what cancels
    bound = tol("f8", 1, ratio * (s[0] / s[-1]) ** 2, factor=10.0)
    Finv = lowla.InverseFisher(G, damp)
    assert error(Finv @ x) <= bound
    K = (G.astype(np.float32) @ G.astype(np.float32).T).astype(np.float64)
    L = np.linalg.cholesky(K + m * damp * np.eye(m))
    c = np.linalg.solve(L.T, np.linalg.solve(L, G.astype(np.float64) @ x))
    assert error((x - G.T.astype(np.float64) @ c) / damp) > 100 * bound
    if damp == 1e-8:
        assert error((x - G.T.astype(np.float64) @ c) / damp) > 1.0
        assert bound < eps(np.float32) * 1000


def refined_solve(M, b):
    """M x = b in extended precision: iterative refinement of a solve in double."""
    x = np.zeros_like(b)
    for _ in range(8):
        x += np.linalg.solve(M.astype(np.float64), (b - M @ x).astype(np.float64))
    return x


@given(d=st.integers(1, 40), damp=st.sampled_from((1e-8, 1e-3, 1.0, 1e2)), seed=seeds)
def test_one_gradient_is_sherman_and_morrison(backend, d, damp, seed):
    """(damp·I + g gᵀ)⁻¹x = (x - g (g·x) / (damp + g·g)) / damp (Sherman and Morrison 1950)."""
    rng = np.random.default_rng(seed)
    g, x = rng.standard_normal((2, d))
    found = lowla.InverseFisher(g[None], damp) @ x
    wide = np.longdouble
    right = (x - wide(g) * (wide(g) @ wide(x) / (damp + wide(g) @ wide(g)))) / damp
    assert np.linalg.norm(found - right) <= tol("f8", d) * np.linalg.norm(x) / damp


@given(**cases)
def test_the_order_of_the_gradients_does_not_matter(
    backend, m, d, dtype, kind, damp, block_size, seed
):
    G, rng = gradients(seed, m, d, kind), np.random.default_rng(seed)
    x = rng.standard_normal(d)
    first, second = (
        lowla.InverseFisher(H, damp, block_size=block_size or None) @ x
        for H in (G, G[rng.permutation(m)])
    )
    assert np.linalg.norm(first - second) <= 2 * error_bound(G, damp) * np.linalg.norm(x)


@given(**cases)
def test_symmetric_linear_and_positive(backend, m, d, dtype, kind, damp, block_size, seed):
    G, rng = gradients(seed, m, d, kind), np.random.default_rng(seed)
    Finv = lowla.InverseFisher(G, damp, block_size=block_size or None)
    x, y = rng.standard_normal((2, d))
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    assert abs(x @ (Finv @ y) - y @ (Finv @ x)) <= 2 * error_bound(G, damp) * norms
    off = Finv @ (2.0 * x - 3.0 * y) - 2.0 * (Finv @ x) + 3.0 * (Finv @ y)
    total = 2 * np.linalg.norm(x) + 3 * np.linalg.norm(y)
    assert np.linalg.norm(off) <= 2 * error_bound(G, damp) * total
    assert x @ (Finv @ x) > 0
    diagonal = Finv.diagonal()
    assert (diagonal > 0).all()
    assert (diagonal <= (1 + eps(diagonal.dtype)) / damp).all()


@pytest.mark.core
def test_much_damping_is_division(backend):
    """||damp·F⁻¹x - x|| <= λ_max / damp ||x||; and with little damping the diagonal stays within
    1/F_ii and 1/damp, where a subtraction would leave any sign."""
    G, x = gradients(3, 5, 7), np.arange(7.0)
    largest = np.linalg.norm(G, 2) ** 2 / 5
    for damp in (1e3, 1e8, 1e300):
        off = np.linalg.norm(damp * (lowla.InverseFisher(G, damp) @ x) - x)
        assert off <= (largest / damp + tol("f8", 7)) * np.linalg.norm(x)
    for largest in 10.0 ** np.arange(4.0, 16.0, 0.5):
        G, damp = np.array([[largest, 1.0, -largest / 1e9]]), 1e-2
        diagonal = lowla.InverseFisher(G, damp).diagonal()
        least = 1.0 / (damp + (G**2).mean(axis=0))
        assert (diagonal >= least * (1 - 2 * eps("f8"))).all()
        assert (diagonal <= 1 / damp).all()


# The identities of the paper (Frantar, Kurtic and Alistarh 2021)


@given(m=st.integers(1, 8), d=st.integers(1, 20), seed=seeds)
def test_the_recursion_of_the_static_algorithm(backend, m, d, seed):
    """F_k⁻¹ = F_(k-1)⁻¹ - v vᵀ / (m + g_kᵀ v), v = F_(k-1)⁻¹ g_k, from F_0 = damp·I (eq. 4): the
    first k of m gradients, the others zero."""
    damp, G = 0.1, gradients(seed, m, d)
    inverse = np.eye(d, dtype=np.longdouble) / damp
    for k in range(m):
        v = inverse @ G[k]
        inverse = inverse - np.outer(v, v) / (m + G[k] @ v)
        part = np.where(np.arange(m)[:, None] <= k, G, 0.0)
        every = np.arange(d)
        found = lowla.InverseFisher(part, damp).block(every, every)
        assert np.abs(found - inverse).max() <= error_bound(G, damp)


@given(m=st.integers(1, 8), extra=st.integers(0, 12), seed=seeds)
def test_the_coefficients_of_the_dynamic_algorithm(functions, m, extra, seed):
    """F⁻¹x = x / damp - Σ γ_k g_k, γ by the recursion over inner products of gradients (section 4):
    v_k = F_(k-1)⁻¹ g_k = g_k / damp - Gᵀβ_k."""
    damp, G = 0.1, gradients(seed, m, m + extra)
    x = np.random.default_rng(seed).standard_normal(m + extra)
    K, D = G @ G.T, G @ x
    spans = np.zeros((m, m))  # v_k = Gᵀ spans[k]
    gamma = np.zeros(m)
    for k in range(m):
        spans[k, k] = 1 / damp
        for j in range(k):
            spans[k] -= (spans[j] @ K[:, k]) / (m + spans[j] @ K[:, j]) * spans[j]
        gamma += (spans[k] @ D) / (m + spans[k] @ K[:, k]) * spans[k]
    _, L = factored(functions, [G], 0, damp)
    C = functions.fisher_coefficients(L, 0, functions.fisher_dots([G], x[:, None]))
    # both are solutions of M c = D with a backward error
    cond = np.linalg.cond(K + m * damp * np.eye(m))
    scale = np.linalg.norm(D) / (m * damp)
    assert np.linalg.norm(C[:, 0] - damp * gamma) <= tol("f8", m * m, cond) * scale


# The window


def last(history, window, d):
    return np.array(history[-window:]).reshape(-1, d)


class Window(RuleBasedStateMachine):
    """An operator with a window against a new one of the last gradients."""

    @initialize(
        window=st.integers(1, 6),
        d=st.integers(1, 12),
        start=st.integers(0, 8),
        block_size=st.none() | st.integers(1, 13),
        dtype=st.sampled_from(("float64", "float32", "float16")),
        seed=seeds,
    )
    def begin(self, window, d, start, block_size, dtype, seed):
        self.rng = np.random.default_rng(seed)
        self.window, self.d, self.dtype, self.damp = window, d, np.dtype(dtype), 0.05
        first = self.rng.standard_normal((start, d)).astype(dtype)
        self.history, self.block_size = list(first), block_size
        self.operator = lowla.InverseFisher(first, self.damp, window=window, block_size=block_size)

    @rule(scale=st.sampled_from((1.0, 0.0, 30.0)))
    def push(self, scale):
        g = scale * self.rng.standard_normal(self.d)
        self.operator.push(g)
        self.history.append(g.astype(self.dtype))

    @rule()
    def push_one_that_was_there(self):
        g = self.history[-1] if self.history else np.zeros(self.d, self.dtype)
        self.operator.push(g)
        self.history.append(g)

    @rule()
    def reload(self):
        file, x = io.BytesIO(), self.rng.standard_normal(self.d)
        np.savez(file, **self.operator.state_dict())
        file.seek(0)
        before, info = self.operator @ x, self.operator.info
        self.operator = lowla.InverseFisher.from_state_dict(np.load(file))
        np.testing.assert_array_equal(self.operator @ x, before)
        assert self.operator.info.cond == info.cond
        assert self.operator.info.pushes == info.pushes

    @rule()
    def fail(self):
        x = self.rng.standard_normal(self.d)
        before = self.operator @ x
        with pytest.raises(ValueError, match="g contains NaN or Inf"):
            self.operator.push(np.full(self.d, np.nan))
        np.testing.assert_array_equal(self.operator @ x, before)

    @rule()
    def product(self):
        held = last(self.history, self.window, self.d).astype(self.dtype)
        np.testing.assert_array_equal(self.operator.grads, held)
        assert self.operator.grads.dtype == self.dtype
        X = self.rng.standard_normal((self.d, 2))
        Y, diagonal = self.operator @ X, self.operator.diagonal()
        assert self.operator.info.m == len(held)
        if not len(held):
            np.testing.assert_allclose(Y, X / self.damp, rtol=eps("f8"))
            np.testing.assert_allclose(diagonal, 1 / self.damp, rtol=eps(diagonal.dtype))
            assert self.operator.solve_trace() == self.d / self.damp
            return
        new = lowla.InverseFisher(held, self.damp, block_size=self.block_size)
        bound = 2 * error_bound(held, self.damp)
        assert (np.linalg.norm(Y - new @ X, axis=0) <= bound * np.linalg.norm(X, axis=0)).all()
        slack = eps(diagonal.dtype) / self.damp
        assert np.abs(diagonal - new.diagonal()).max() <= bound + slack
        assert abs(self.operator.element(0, -1) - new.element(0, -1)) <= bound + slack
        near = self.d * (bound * self.damp + tol("f8", 50))
        assert abs(self.operator.logdet() - new.logdet()) <= near


def test_a_window_is_the_operator_of_its_gradients(backend):
    """After any sequence of pushes, failures, and saving and loading."""
    run_state_machine_as_test(
        Window, settings=settings(settings.default, max_examples=30, stateful_step_count=25)
    )


@pytest.mark.core
@pytest.mark.parametrize("block_size", [None, 1, 2, 3, 4, 7, 20])
def test_a_window_fills(backend, block_size):
    """From no gradients, through the change from dual to primal blocks where there is one."""
    G, x = gradients(0, 9, 10), np.arange(10.0)
    operator = lowla.InverseFisher(G[:0], 0.1, window=4, block_size=block_size)
    for t, g in enumerate(G):
        operator.push(g)
        held = G[max(0, t - 3) : t + 1]
        new = lowla.InverseFisher(held, 0.1, block_size=block_size)
        off = np.linalg.norm(operator @ x - new @ x)
        assert off <= 2 * error_bound(held, 0.1) * np.linalg.norm(x)
        primal = block_size is not None and block_size < len(held)
        assert operator.info.method == ("primal" if primal else "dual")
        assert operator.state_dict()["count"] == len(held)


def test_ten_thousand_pushes_do_not_drift(backend):
    window, d, damp = 5, 9, 1e-3
    rng = np.random.default_rng(0)
    G = rng.standard_normal((10_000, d))
    operator = lowla.InverseFisher(np.zeros((0, d)), damp, window=window)
    for g in G:
        operator.push(g)
    x = rng.standard_normal(d)
    new = lowla.InverseFisher(G[-window:], damp)
    bound = 2 * error_bound(G[-window:], damp)  # which does not know how many came before
    assert np.linalg.norm(operator @ x - new @ x) <= bound * np.linalg.norm(x)
    assert bound * np.linalg.norm(x) < eps("f4") * np.linalg.norm(new @ x)
    assert operator.info.pushes == 10_000
    # while it fills, and every 4 windows
    assert operator.info.refactorisations == window + 10_000 // (4 * window)


def test_a_push_that_fails_leaves_the_window_as_it_was(backend):
    for block_size in (None, 2, 5):
        operator = lowla.InverseFisher(np.eye(3), 1.0, window=3, block_size=block_size)
        before, grads = operator @ np.arange(3.0), operator.grads
        with pytest.raises(np.linalg.LinAlgError) as caught:
            operator.push([1e200, 0.0, 0.0])
        assert str(caught.value) == "the Gram matrix of the gradients overflows"
        np.testing.assert_array_equal(operator @ np.arange(3.0), before)
        np.testing.assert_array_equal(operator.grads, grads)
        assert operator.info.pushes == 0
    operator = lowla.InverseFisher(np.ones((1, 3)), 1e-18, window=2)
    before = operator @ np.arange(3.0)
    with pytest.raises(np.linalg.LinAlgError, match="damp is below the rounding"):
        operator.push(np.ones(3) * 1e4)
    np.testing.assert_array_equal(operator @ np.arange(3.0), before)
    assert (operator.info.m, operator.info.pushes) == (1, 0)


@pytest.mark.parametrize("block_size", [None, 2, 5, 30])
def test_a_large_gradient_leaves_no_trace(backend, block_size):
    """Once it is out of the window: a difference of Gram matrices would keep its rounding."""
    G, x = gradients(0, 5, 12), np.arange(12.0)
    operator = lowla.InverseFisher(1e6 * G[:1], 1e-2, window=5, block_size=block_size)
    for g in G:
        operator.push(g)
    new = lowla.InverseFisher(G, 1e-2, block_size=block_size)
    off = np.linalg.norm(operator @ x - new @ x)
    assert off <= 2 * error_bound(G, 1e-2) * np.linalg.norm(x)


@pytest.mark.core
def test_kept_columns_go_with_the_next_push(backend):
    operator = lowla.InverseFisher(np.eye(3), 1.0, window=3)
    operator.keep_columns()
    assert operator.element(0, 0) == pytest.approx(0.75, rel=tol("f8", 3))
    operator.push([3.0, 0.0, 0.0])  # for the oldest, e_0
    assert operator.element(0, 0) == pytest.approx(0.25, rel=tol("f8", 3))


def test_a_window_owns_its_memory(backend):
    G = np.eye(3)
    operator = lowla.InverseFisher(G, 1.0, window=3)
    state = operator.state_dict()
    operator.push(np.ones(3))
    np.testing.assert_array_equal(G, np.eye(3))
    np.testing.assert_array_equal(state["grads_0"], np.eye(3))
    again = lowla.InverseFisher.from_state_dict(state)
    again.push(np.ones(3))
    np.testing.assert_array_equal(again @ np.ones(3), operator @ np.ones(3))
    np.testing.assert_array_equal(state["grads_0"], np.eye(3))


@pytest.mark.core
@pytest.mark.parametrize("block_size", [None, 3, 7])
def test_saved_operators_without_a_window(backend, block_size):
    shards = [gradients(0, 5, 8), gradients(1, 5, 4).astype(np.float32)]
    first = lowla.InverseFisher(shards, 0.1, block_size=block_size)
    file, x = io.BytesIO(), np.arange(12.0)
    np.savez(file, **first.state_dict())
    file.seek(0)
    second = lowla.InverseFisher.from_state_dict(np.load(file))
    np.testing.assert_array_equal(second @ x, first @ x)
    np.testing.assert_array_equal(second.diagonal(), first.diagonal())
    assert [held.dtype for held in second.grads] == [np.float64, np.float32]
    assert (second.damp, second.window, second.info.block_size) == (0.1, None, block_size)
    with pytest.raises(AttributeError):
        second.damp = 1.0


# Shards, workers, memory


@given(**cases)
def test_shards_are_the_whole(backend, m, d, dtype, kind, damp, block_size, seed):
    G = gradients(seed, m, d, kind).astype(dtype if dtype != "bfloat16" else "f4")
    whole, parts = (
        lowla.InverseFisher(grads, damp, block_size=block_size or None)
        for grads in (G, split(G, seed))
    )
    x = np.random.default_rng(seed).standard_normal(d)
    bound = 2 * error_bound(G, damp) * np.linalg.norm(x)
    assert np.linalg.norm(whole @ x - parts @ x) <= bound
    assert parts.shape == whole.shape
    for shard, mine in zip(parts.grads, split(G, seed), strict=True):
        np.testing.assert_array_equal(shard, mine)


def test_shards_of_different_dtypes(backend):
    G = gradients(0, 4, 9)
    shards = [G[:, :3].astype(np.float16), G[:, 3:5], G[:, 5:].astype(np.float32)]
    exactly = np.concatenate([shard.astype(np.float64) for shard in shards], axis=1)
    operator = lowla.InverseFisher(shards, 0.1, window=4)
    assert operator.dtype == np.float64
    x = np.arange(9.0)
    off = np.linalg.norm(operator @ x - np.linalg.solve(fisher(exactly, 0.1), x))
    assert off <= error_bound(exactly, 0.1) * np.linalg.norm(x)
    for g in (G[0], [G[0, :3], G[0, 3:5], G[0, 5:]]):
        operator.push(g)
        rounded = [shard[-1] for shard in operator.grads]
        np.testing.assert_array_equal(rounded[0], G[0, :3].astype(np.float16))
        np.testing.assert_array_equal(rounded[1], G[0, 3:5])


def in_two_workers(work):
    """work(reduce, worker) in two threads; reduce sums over both, at a barrier."""
    barrier, held, results = threading.Barrier(2), [None, None], [None, None]

    def run(worker):
        def reduce(array):
            held[worker] = array
            barrier.wait(timeout=60)
            total = held[0] + held[1]
            barrier.wait(timeout=60)
            return total

        results[worker] = work(reduce, worker)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("window", [None, 5])
def test_two_workers_with_columns_each(backend, window):
    G, x, cut, damp = gradients(0, 5, 14), np.arange(14.0), 6, 0.1
    sides = (np.s_[..., :cut], np.s_[..., cut:])

    def work(reduce, worker):
        with lowla.use_backend(backend):
            mine = sides[worker]
            Finv = lowla.InverseFisher(G[mine], damp, window=window, reduce=reduce)
            if window:
                for g in G[:3]:
                    Finv.push(g[mine])
                again = lowla.InverseFisher.from_state_dict(Finv.state_dict(), reduce=reduce)
                np.testing.assert_array_equal(again @ x[mine], Finv @ x[mine])
            return Finv @ x[mine], Finv.diagonal(), Finv.logdet(), Finv.solve_trace()

    first, second = in_two_workers(work)
    held = np.concatenate([G, G[:3]])[-5:]
    whole = lowla.InverseFisher(held, damp)
    bound = 2 * error_bound(held, damp)
    found = np.concatenate([first[0], second[0]])
    assert np.linalg.norm(found - whole @ x) <= bound * np.linalg.norm(x)
    diagonal = np.concatenate([first[1], second[1]])
    assert np.abs(diagonal - whole.diagonal()).max() <= bound
    assert first[2:] == second[2:]
    assert abs(first[2] - whole.logdet()) <= 14 * (bound * damp + tol("f8", 14))
    assert abs(first[3] - whole.solve_trace()) <= 19 * bound


@pytest.mark.core
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast_row"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("block_size", [None, 3, 10])
def test_layouts(backend, layout, dtype, block_size):
    G, x = gradients(0, 7, 23).astype(dtype), np.arange(23.0)
    expected = lowla.InverseFisher(G, 0.1, block_size=block_size)
    laid = LAYOUTS[layout](G)
    Finv = lowla.InverseFisher(laid, 0.1, block_size=block_size)
    assert np.shares_memory(Finv._state.rows[0], laid)
    bound = 2 * error_bound(G, 0.1) * np.linalg.norm(x)
    assert np.linalg.norm(Finv @ x - expected @ x) <= bound
    X = LAYOUTS[layout](np.stack([x, -x], axis=1))
    assert np.linalg.norm(Finv @ X - expected @ X) <= 2 * bound


def test_columns_in_any_order(functions):
    """Also some twice: the first and the last do not tell whether they follow one another."""
    G = np.random.default_rng(0).standard_normal((3, 9))
    _, L = factored(functions, [G], 0, 0.1)
    every = functions.fisher_columns([G], L, 0, 0, np.arange(9))
    for indices in ([0, 0, 2], [2, 3, 4], [4, 3, 2], [5, 7, 7, 8], [8]):
        found = functions.fisher_columns([G], L, 0, 0, np.array(indices))
        np.testing.assert_allclose(found, every[indices], rtol=tol("f8", 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strided_vectors(backend, dtype):
    """A column of a matrix is read where it lies."""
    rng = np.random.default_rng(0)
    Finv = lowla.InverseFisher(rng.standard_normal((5, 40)), 0.1)
    X = rng.standard_normal((40, 3)).astype(dtype)
    for x in (X[:, 1], X[::-1, 0]):
        np.testing.assert_array_equal(Finv @ x, Finv @ x.copy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16"])
def test_memory_mapped_gradients_are_not_copied(functions, tmp_path, dtype):
    """Also not while they are read: the work space is a slab."""
    m, d = 8, 400_000
    path = tmp_path / "grads.npy"
    np.save(path, np.random.default_rng(0).integers(0, 9, (m, d)).astype(dtype))
    mapped = np.load(path, mmap_mode="r")
    x = np.ones((d, 1), np.float32)
    factored(functions, [mapped], 0, 1.0)
    tracemalloc.start()
    _, L = factored(functions, [mapped], 0, 1.0)
    functions.fisher_solve([mapped], L, 0, 0, 1.0, x, "float32")
    functions.fisher_diagonal([mapped], L, 0, 0, 1.0, "float32")
    peak = tracemalloc.get_traced_memory()[1]
    if dtype != "uint16":
        Finv = lowla.InverseFisher(mapped, 1.0)
        assert np.shares_memory(Finv._state.rows[0], mapped)
        assert Finv.grads is mapped
    tracemalloc.stop()
    in_float64 = 8 * m * d
    assert peak < 0.9 * in_float64
    assert peak < mapped.nbytes + 24 * 2**20


@pytest.mark.parametrize("block_size", [None, 7, 100])
def test_products_do_not_depend_on_the_number_of_threads(backend, block_size):
    if backend == "numba":
        pytest.skip("the BLAS decides there")
    rng = np.random.default_rng(0)
    G, X = rng.standard_normal((40, 5000)), rng.standard_normal((5000, 3))

    def work():
        Finv = lowla.InverseFisher(G, 0.1, block_size=block_size, window=40)
        Finv.push(X[:, 0])
        return np.column_stack([Finv @ X, Finv.diagonal()])

    found = with_1_2_and_7_threads(work)
    assert np.array_equal(found[1], found[0])
    assert np.array_equal(found[2], found[0])


def test_half_precision_of_other_libraries(backend):
    """bfloat16 is read as its bits and given back as it came."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    G = gradients(0, 3, 8).astype(ml_dtypes.bfloat16)
    operator = lowla.InverseFisher(G, 0.1)
    assert operator._state.rows[0].dtype == np.uint16
    assert operator.dtype == np.float32
    x = np.arange(8.0)
    wide = G.astype(np.float64)
    off = np.linalg.norm(operator @ x - np.linalg.solve(fisher(wide, 0.1), x))
    assert off <= error_bound(wide, 0.1) * np.linalg.norm(x)
    ring = lowla.InverseFisher(G, 0.1, window=2)
    ring.push(np.full(8, 1 / 3))
    assert ring.grads.dtype == G.dtype
    np.testing.assert_array_equal(ring.grads[-1], np.full(8, 1 / 3).astype(G.dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_tensors(backend, dtype):
    torch = pytest.importorskip("torch")
    G = torch.from_numpy(gradients(0, 3, 8)).to(getattr(torch, dtype))
    operator = lowla.InverseFisher(G, 0.1)
    assert operator._state.rows[0].ctypes.data == G.data_ptr()
    assert operator.grads is G
    assert isinstance(operator.diagonal(), torch.Tensor)
    x = torch.arange(8, dtype=torch.float64)
    wide = G.to(torch.float64).numpy()
    found = operator @ x
    assert isinstance(found, torch.Tensor)
    off = np.linalg.norm(found.numpy() - np.linalg.solve(fisher(wide, 0.1), x.numpy()))
    assert off <= error_bound(wide, 0.1) * np.linalg.norm(x)
    ring = lowla.InverseFisher(G, 0.1, window=2)
    ring.push(torch.full((8,), 1 / 3))
    assert ring.grads.dtype == G.dtype
    assert torch.equal(ring.grads[-1], torch.full((8,), 1 / 3).to(G.dtype))


def test_bfloat16_rounds_to_nearest_even(backend):
    """The bits of a saved window of bfloat16 gradients; what is pushed is rounded to them."""
    G = gradients(0, 4, 6)
    state = lowla.InverseFisher(G.astype(np.float32), 0.1, window=4).state_dict()
    state["grads_0"] = stored(G, "bfloat16")
    operator = lowla.InverseFisher.from_state_dict(state)
    assert operator.grads.dtype == np.float32
    np.testing.assert_array_equal(operator.grads, exact(stored(G, "bfloat16")))
    # spacing 2^-7 above 1: below, above, and on the middle
    step = 2.0**-7
    ties = np.array([1 + 0.49 * step, 1 + 0.51 * step, 1 + step / 2, 1 + 1.5 * step, -0.0, 3e38])
    operator.push(ties)
    expected = np.array([1.0, 1 + step, 1.0, 1 + 2 * step, 0.0, 3e38])
    assert (
        np.abs(operator.grads[-1] - expected) <= 2.0**-8 * np.abs(expected) * [0, 0, 0, 0, 0, 1]
    ).all()


# The rest of the interface


@pytest.mark.core
def test_is_a_linear_operator(backend):
    G = gradients(0, 4, 6).astype(np.float32)
    Finv = lowla.InverseFisher(G, 0.1)
    assert isinstance(Finv, LinearOperator)
    assert (Finv.shape, Finv.dtype) == ((6, 6), np.float32)
    assert Finv.T is Finv
    assert Finv.H is Finv
    x = np.arange(6.0)
    np.testing.assert_array_equal(Finv.matvec(x), Finv @ x)
    np.testing.assert_array_equal(Finv.rmatvec(x), Finv @ x)
    np.testing.assert_array_equal(Finv.rmatmat(x[:, None]), Finv @ x[:, None])
    doubled = (2.0 * Finv + aslinearoperator(np.eye(6))) @ x
    np.testing.assert_allclose(doubled, 2.0 * (Finv @ x) + x, rtol=tol("f4", 6))
    np.testing.assert_array_equal(Finv @ sp.csr_array(np.diag(x)), Finv @ np.diag(x))
    assert repr(Finv) == "InverseFisher((4, 6), damp=0.1)"


@pytest.mark.core
def test_lists_and_integers(backend):
    """A list of lists of numbers is one matrix; a list of matrices are shards."""
    rows = [[1, 2, 0], [0, 1, -1]]
    expected = lowla.InverseFisher(np.array(rows, float), 0.5) @ np.ones(3)
    for grads in (rows, np.array(rows), [np.array(row) for row in rows], tuple(map(tuple, rows))):
        operator = lowla.InverseFisher(grads, 0.5)
        assert operator.dtype == np.float64
        np.testing.assert_array_equal(operator @ np.ones(3), expected)
    shards = [np.array(rows)[:, :1], np.array(rows)[:, 1:]]
    np.testing.assert_array_equal(lowla.InverseFisher(shards, 0.5) @ np.ones(3), expected)
    np.testing.assert_array_equal(lowla.InverseFisher(rows, 0.5).grads, rows)


@pytest.mark.parametrize("block_size", [None, 2])
def test_no_columns(backend, block_size):
    Finv = lowla.InverseFisher(np.zeros((3, 0)), 1.0, block_size=block_size)
    assert (Finv @ np.zeros(0)).shape == (0,)
    assert Finv.diagonal().shape == (0,)
    assert (Finv.logdet(), Finv.info.d) == (0.0, 0)
    assert abs(Finv.solve_trace()) <= tol("f8", 3)
    assert lowla.obs_prune(np.zeros(0), Finv, 0).loss_increase == 0.0


@pytest.mark.parametrize("block_size", [None, 7])
def test_progress(backend, block_size, capsys):
    """The bar counts slabs; the sum is over the same products."""
    G, x = gradients(0, 9, 950), np.ones(950)
    plain = lowla.InverseFisher(G, 0.1, block_size=block_size) @ x
    shown = lowla.InverseFisher(G, 0.1, block_size=block_size, progress=True) @ x
    assert np.linalg.norm(plain - shown) <= 2 * error_bound(G, 0.1) * np.linalg.norm(x)
    assert "InverseFisher" in capsys.readouterr().err


@pytest.mark.core
def test_info(backend):
    operator = lowla.InverseFisher(gradients(0, 6, 9), 0.1, window=6, block_size=4)
    info = operator.info
    assert (info.m, info.d, info.damp, info.block_size, info.blocks) == (6, 9, 0.1, 4, 3)
    assert (info.method, info.pushes, info.refactorisations) == ("primal", 0, 0)
    assert info.backend in (backend, "numba")
    assert info.seconds > 0
    operator.push(np.ones(9))
    assert (operator.info.pushes, operator.info.refactorisations) == (1, 1)
    lines = repr(operator.info).splitlines()
    assert lines[0] == "FisherInfo"
    assert lines[1:4] == [
        "  asked          damp = 0.1, blocks of 4",
        "  gradients      6 of 9 entries",
        "  method         primal, 3 blocks",
    ]
    G = gradients(0, 5, 50)
    M = G @ G.T + 5 * 0.1 * np.eye(5)
    dual = lowla.InverseFisher(G, 0.1).info
    assert dual.method == "dual"
    assert dual.block_size is None
    assert 1.0 <= dual.cond <= np.linalg.cond(M) * (1 + tol("f8", 5))
    assert lowla.InverseFisher(G.T, 0.1).info.method == "primal"  # fewer columns than gradients


# Optimal brain surgeon


def best_change(F, w, pruned):
    """The minimiser of ½ δᵀFδ under w + δ = 0 on the pruned weights, by its Lagrange multipliers
    (Hassibi and Stork 1993, for several weights)."""
    inverse = np.linalg.inv(F)
    change = -inverse[:, pruned] @ np.linalg.solve(inverse[np.ix_(pruned, pruned)], w[pruned])
    change[pruned] = -w[pruned]
    return change


def brute_force(F, w, n_prune, steps):
    """By dense inverses of the blocks of the kept weights."""
    d = len(w)
    pruned, new = np.zeros(d, bool), w.copy()
    for step in range(steps):
        kept = np.flatnonzero(~pruned)
        saliency = new[kept] ** 2 / (2 * np.diag(np.linalg.inv(F[np.ix_(kept, kept)])))
        more = n_prune * (step + 1) // steps - n_prune * step // steps
        pruned[kept[np.argsort(saliency, kind="stable")[:more]]] = True
        new = w + best_change(F, w, np.flatnonzero(pruned))
    delta = new - w
    return new, ~pruned, 0.5 * delta @ F @ delta


@pytest.mark.core
@given(
    m=st.integers(1, 20),
    d=st.integers(1, 14),
    block_size=st.none() | st.integers(1, 16),
    damp=st.sampled_from((1e-2, 1.0)),
    steps=st.integers(1, 5),
    window=st.booleans(),
    seed=seeds,
    data=st.data(),
)
def test_pruning_is_that_of_the_dense_matrix(
    backend, m, d, block_size, damp, steps, window, seed, data
):
    G, rng = gradients(seed, m, d), np.random.default_rng(seed)
    w, n_prune = rng.standard_normal(d), data.draw(st.integers(0, d))
    if window:  # a ring that begins in the middle
        Finv = lowla.InverseFisher(G, damp, block_size=block_size, window=m)
        for g in G[: m // 2]:
            Finv.push(g)
    else:
        Finv = lowla.InverseFisher(G, damp, block_size=block_size)
    F = fisher(G, damp, block_size or 0)
    new, mask, loss = result = lowla.obs_prune(w, Finv, n_prune, steps=steps)
    right, right_mask, right_loss = brute_force(F, w, n_prune, steps)
    np.testing.assert_array_equal(mask, right_mask)
    assert (new[~mask] == 0).all()
    cond = np.linalg.cond(F)
    bound = tol("f8", m * m + d, cond**2) * np.linalg.norm(w)
    assert np.linalg.norm(new - right) <= bound
    delta = new - w
    np.testing.assert_allclose(loss, 0.5 * delta @ F @ delta, rtol=tol("f8", m + d, cond))
    assert abs(loss - right_loss) <= tol("f8", m * m + d, cond**2) * right_loss
    assert result.info.kept == mask.sum() == d - n_prune
    assert (result.info.n_prune, result.info.steps) == (n_prune, steps)


@pytest.mark.core
def test_no_other_change_of_the_kept_weights_costs_less(backend):
    """½ δᵀFδ is least: F δ vanishes on the kept weights, and moving them only adds to it. Leaving
    them as they are, and the sum of the single changes, cost more."""
    rng = np.random.default_rng(0)
    G, w, damp = gradients(0, 8, 12), rng.standard_normal(12), 1e-2
    F, Finv = fisher(G, damp), lowla.InverseFisher(G, damp)
    new, mask, loss = lowla.obs_prune(w, Finv, 6)
    delta = new - w
    assert np.abs((F @ delta)[mask]).max() <= tol("f8", 8, np.linalg.cond(F)) * np.abs(w).max()
    for scale in (1e-3, 1.0):
        moved = delta + scale * mask * rng.standard_normal((50, 12))
        assert (0.5 * np.einsum("ti,ij,tj->t", moved, F, moved) > loss).all()
    pruned = np.flatnonzero(~mask)
    alone = np.where(mask, 0.0, -w)
    inverse = np.linalg.inv(F)
    single = -(inverse[:, pruned] * (w[pruned] / np.diag(inverse)[pruned])).sum(axis=1)
    single[pruned] = -w[pruned]
    for other in (alone, single):
        assert 0.5 * other @ F @ other > 1.05 * loss


def test_more_steps_follow_the_changed_saliencies(backend):
    """Two weights that can stand in for each other: pruned together both go, in two steps one does
    and the other then carries its part."""
    G = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    w, Finv = np.array([1.0, 1.0, 0.3]), lowla.InverseFisher(G, 1e-4)
    assert lowla.obs_prune(w, Finv, 2).mask.tolist() == [False, False, True]
    result = lowla.obs_prune(w, Finv, 2, steps=2)
    assert result.mask.tolist() == [False, True, False]
    assert abs(result.w[1] - 2.0) < 1e-3
    assert result.loss_increase < lowla.obs_prune(w, Finv, 2).loss_increase / 10


@pytest.mark.core
@pytest.mark.parametrize("block_size", [None, 2])
def test_ties_zeros_and_the_ends(backend, block_size):
    """The first of equal saliencies; zero weights before all others; none and all pruned."""
    Finv = lowla.InverseFisher(np.zeros((2, 5)), 2.0, block_size=block_size)
    w = np.array([[3.0, -1.0, 1.0, 0.0, 1.0]]).T
    for n, kept in [(0, "11111"), (1, "11101"), (2, "10101"), (3, "10001"), (5, "00000")]:
        new, mask, loss = lowla.obs_prune(w, Finv, n)
        assert "".join(map(str, mask.astype(int).ravel())) == kept
        assert new.shape == mask.shape == (5, 1)
        np.testing.assert_array_equal(new, w * mask)
        assert loss == (w[~mask] ** 2).sum()  # ½ · damp · ||w_Q||², damp = 2
    assert lowla.obs_prune(w, Finv, 2, steps=100).mask.sum() == 3
    many = lowla.InverseFisher(np.zeros((2, 500)), 2.0, block_size=block_size)
    w = np.random.default_rng(0).integers(1, 3, 500).astype(np.float64)
    first = np.flatnonzero(w == 1.0)[:77]
    np.testing.assert_array_equal(np.flatnonzero(~lowla.obs_prune(w, many, 77).mask), first)


@pytest.mark.core
def test_weights_go_back_as_they_came(backend):
    G = gradients(0, 6, 8)
    Finv = lowla.InverseFisher(G, 0.1)
    w = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    w.flags.writeable = False
    for weights in (w, np.asfortranarray(w), w[:, ::-1][:, ::-1]):
        result = lowla.obs_prune(weights, Finv, 3)
        assert (result.w.dtype, result.w.shape) == (np.float32, (2, 4))
        assert (result.mask.dtype, result.mask.shape) == (np.bool_, (2, 4))
    assert lowla.obs_prune(np.arange(8), Finv, 3).w.dtype == np.float64
    lines = repr(result).splitlines()
    assert lines[0].startswith("PruneResult: w (2, 4), mask (2, 4), loss_increase 0.")
    assert lines[1:3] == ["  asked          n_prune = 3, steps = 1", "  kept           5 weights"]


def test_huge_and_tiny_weights(backend):
    """The saliencies are compared without being squared."""
    Finv = lowla.InverseFisher(np.eye(4), 1.0)
    for scale in (1e-200, 1e200):
        w = scale * np.array([3.0, 1.0, 2.0, 4.0])
        result = lowla.obs_prune(w, Finv, 2)
        assert result.mask.tolist() == [True, False, False, True]


# Natural gradients


@pytest.mark.core
@given(
    stack=st.sampled_from(((), (3,), (2, 1))),
    d=st.integers(1, 40),
    s=st.integers(0, 12),
    r=st.integers(0, 4),
    dtype=st.sampled_from(("float64", "float32")),
    damp=st.sampled_from((1e-3, 1.0)),
    layout=st.sampled_from(("C", "F", "reversed")),
    seed=seeds,
)
def test_natural_gradient_is_that_of_the_dense_matrix(
    backend, stack, d, s, r, dtype, damp, layout, seed
):
    """Columns of U not orthonormal, some parallel; entries of S of any sign and zero."""
    rng = np.random.default_rng(seed)
    G, U = (rng.standard_normal((*stack, d, n)).astype(dtype) for n in (r, s))
    S = rng.integers(-2, 3, (*stack, s)).astype(dtype)
    U[..., s // 2 :] = U[..., :1] if s > 1 else U[..., s // 2 :]
    if not stack:
        G, U = LAYOUTS[layout](G), LAYOUTS[layout](U)
    found = lowla.natural_gradient(G, U, S, damp)
    assert (found.dtype, found.shape) == (dtype, G.shape)
    V = U.astype(np.float64) * S[..., None, :]
    C = damp * np.eye(d) + V @ V.swapaxes(-1, -2)
    right = np.linalg.solve(C, G.astype(np.float64))
    for index in np.ndindex(stack):
        cond = np.linalg.cond(C[index])
        bound = tol("f8", s * s + d, cond, factor=4.0) / damp * np.linalg.norm(G[index])
        rounding = eps(dtype) * np.linalg.norm(right[index])
        assert np.linalg.norm(found[index] - right[index]) <= bound + rounding


def test_natural_gradient_is_the_inverse_fisher_without_1_over_m(backend):
    """(damp·I + GᵀG)⁻¹ = F⁻¹ / m for damp / m."""
    G, x = gradients(0, 5, 20), np.arange(20.0)[:, None]
    ours = lowla.natural_gradient(x, G.T, np.ones(5), 0.1)
    theirs = lowla.InverseFisher(G, 0.1 / 5) @ x / 5
    bound = 2 * error_bound(G, 0.1 / 5) / 5 * np.linalg.norm(x)
    assert np.linalg.norm(ours - theirs) <= bound


def test_natural_gradient_reads_slabs(backend):
    """More rows than one slab has."""
    rng = np.random.default_rng(0)
    U, G = rng.standard_normal((30_000, 24)).astype("f4"), rng.standard_normal((30_000, 2))
    found = lowla.natural_gradient(G, U, np.ones(24), 1.0)
    wide = U.astype(np.float64)
    back = found + wide @ (wide.T @ found)
    assert np.linalg.norm(back - G) <= tol("f8", 30, np.linalg.norm(wide, 2) ** 2) * np.linalg.norm(
        G
    )


# Bad input: each case has its exact exception and message, on every backend


G2, V8 = gradients(0, 4, 8), np.arange(8.0)


def _inverse(**options):
    return lowla.InverseFisher(G2, 0.1, **options)


def _with(value, A=G2):
    bad = A.copy()
    bad[1, 5] = value
    return bad


def _state(**changes):
    state = _inverse(window=4).state_dict()
    state.update(changes)
    return lowla.InverseFisher.from_state_dict(
        {key: value for key, value in state.items() if value is not None}
    )


VALUE = [
    (lambda: lowla.InverseFisher(G2, 0.0), "damp must be in 1e-300..1e300, got 0"),
    (lambda: lowla.InverseFisher(G2, -1.0), "damp must be in 1e-300..1e300, got -1"),
    (lambda: lowla.InverseFisher(G2, np.nan), "damp must be in 1e-300..1e300, got nan"),
    (lambda: lowla.InverseFisher(G2, np.inf), "damp must be in 1e-300..1e300, got inf"),
    (lambda: lowla.InverseFisher(G2, 1e-310), "damp must be in 1e-300..1e300, got 1e-310"),
    (lambda: lowla.InverseFisher(V8, 1.0), "grads must have 2 dimensions, got shape (8,)"),
    (lambda: lowla.InverseFisher(3.0, 1.0), "grads must have 2 dimensions, got shape ()"),
    (lambda: lowla.InverseFisher([], 1.0), "grads must hold at least one array, got none"),
    (
        lambda: lowla.InverseFisher([G2, G2[:2]], 1.0),
        "grads must have the same number of rows in all shards, got (4, 8), (2, 8)",
    ),
    (
        lambda: lowla.InverseFisher(G2[:0], 1.0),
        "grads must have at least one row, or pass window=",
    ),
    (lambda: lowla.InverseFisher(_with(np.nan), 1.0), "grads contains NaN or Inf"),
    (lambda: lowla.InverseFisher(_with(-np.inf), 1.0), "grads contains NaN or Inf"),
    (lambda: lowla.InverseFisher([G2, _with(np.inf)], 1.0), "grads contains NaN or Inf"),
    (
        lambda: lowla.InverseFisher(_with(np.nan).astype("f2"), 1.0, block_size=3),
        "grads contains NaN or Inf",
    ),
    (lambda: lowla.InverseFisher(_with(np.nan), 1.0, window=4), "grads contains NaN or Inf"),
    (lambda: _inverse(block_size=0), "block_size must be at least 1, got 0"),
    (lambda: _inverse(window=0), "window must be at least 1, got 0"),
    (
        lambda: _inverse(reduce=lambda a: a, block_size=2),
        "reduce is for the full matrix: block_size must be None",
    ),
    (
        lambda: _inverse(reduce=lambda a: a[0]),
        "reduce must return the shape (1, 4, 4) it got, got (4, 4)",
    ),
    (lambda: _inverse() @ np.ones(7), "the right factor must have 8 rows, got shape (7, 1)"),
    (lambda: _inverse() @ np.ones((7, 2)), "the right factor must have 8 rows, got shape (7, 2)"),
    (
        lambda: _inverse() @ np.ones((1, 8, 1)),
        "the right factor must have 2 dimensions, got shape (1, 8, 1)",
    ),
    (
        lambda: _inverse().push(V8),
        "push needs a window of gradients: pass window= to InverseFisher",
    ),
    (lambda: _inverse(window=4).push(V8[:7]), "g must have shape (8,), got (7,)"),
    (lambda: _inverse(window=4).push(G2), "g must have shape (8,), got (4, 8)"),
    (lambda: _inverse(window=4).push([V8, V8]), "g must have shape (8,), got (8,), (8,)"),
    (
        lambda: lowla.InverseFisher([G2[:, :3], G2[:, 3:]], 1.0, window=4).push([V8[:4], V8[4:]]),
        "g must have the shards' widths [3, 5], got [4, 4]",
    ),
    (lambda: _inverse(window=4).push(V8 * np.nan), "g contains NaN or Inf"),
    (
        lambda: lowla.InverseFisher(G2.astype("f2"), 1.0, window=4).push(V8 * 1e4),
        "g overflows float16, in which the gradients are stored",
    ),
    (lambda: _inverse().block(0, [1]), "rows must have 1 dimension, got shape ()"),
    (lambda: _inverse().block([1], [[1]]), "cols must have 1 dimension, got shape (1, 1)"),
    (lambda: _state(K=None), "state lacks 'K'"),
    (lambda: _state(grads_0=None), "state lacks 'grads_0'"),
    (lambda: _state(head=-1), "state['head'] must be at least 0, got -1"),
    (
        lambda: _state(grads_0=V8),
        "state['grads_0'] must be a matrix of gradients as stored, got float64 of shape (8,)",
    ),
    *(
        (
            lambda changes=changes: _state(**changes),
            "state does not fit together: its arrays are not those of one operator",
        )
        for changes in (
            {"L": np.eye(3)[None]},
            {"L": np.eye(4)},
            {"K": np.eye(4)[None].astype("f4")},
            {"grads_0": G2[:3]},
            {"grads_1": G2[:3]},
            {"head": 4},
            {"count": 5},
            {"window": 0},
            {"block_size": 2},
            {"block_size": 6},
        )
    ),
    (lambda: lowla.obs_prune(V8, _inverse(), 9), "n_prune must be in 0..8, got 9"),
    (lambda: lowla.obs_prune(V8, _inverse(), -1), "n_prune must be in 0..8, got -1"),
    (lambda: lowla.obs_prune(V8, _inverse(), 3, steps=0), "steps must be at least 1, got 0"),
    (
        lambda: lowla.obs_prune(V8[1:], _inverse(), 3),
        "w must have 8 entries as Finv, got shape (7,)",
    ),
    (lambda: lowla.obs_prune(3.0, _inverse(), 3), "w must have at least 1 dimension, got a scalar"),
    (lambda: lowla.obs_prune(V8 + np.inf, _inverse(), 3), "w contains NaN or Inf"),
    (
        lambda: lowla.obs_prune(V8, _inverse(reduce=lambda a: a), 3),
        "obs_prune needs all columns in one place: Finv was made with reduce",
    ),
    (
        lambda: lowla.natural_gradient(V8, G2.T, V8[:4], 1.0),
        "G must have at least 2 dimensions, got shape (8,)",
    ),
    (
        lambda: lowla.natural_gradient(G2.T, V8, V8[:4], 1.0),
        "U must have at least 2 dimensions, got shape (8,)",
    ),
    *(
        (
            lambda U=U, S=S: lowla.natural_gradient(G2.T, U, S, 1.0),
            "G, U and S must have shapes (..., d, r), (..., d, s) and (..., s), got "
            f"(8, 4), {U.shape} and {S.shape}",
        )
        for U, S in ((G2, V8), (G2.T, V8), (G2.T[None], V8[:4]), (G2.T, V8[None, :4]))
    ),
    (lambda: lowla.natural_gradient(_with(np.nan).T, G2.T, V8[:4], 1.0), "G contains NaN or Inf"),
    (lambda: lowla.natural_gradient(G2.T, _with(np.inf).T, V8[:4], 1.0), "U contains NaN or Inf"),
    (lambda: lowla.natural_gradient(G2.T, G2.T, V8[:4] * np.nan, 1.0), "S contains NaN or Inf"),
    (
        lambda: lowla.natural_gradient(G2.T, G2.T, V8[:4], 0.0),
        "damp must be in 1e-300..1e300, got 0",
    ),
]

TYPE = [
    (lambda: lowla.InverseFisher(G2, "small"), "damp must be a float, got str"),
    (lambda: lowla.InverseFisher(G2, None), "damp must be a float, got NoneType"),
    (lambda: lowla.InverseFisher(G2 * 1j, 1.0), "grads must be real, got dtype complex128"),
    (
        lambda: lowla.InverseFisher([G2, G2 * 1j], 1.0),
        "grads[1] must be real, got dtype complex128",
    ),
    (lambda: lowla.InverseFisher(G2.astype(str), 1.0), "grads must be numeric, got dtype <U32"),
    (
        lambda: lowla.InverseFisher(G2.astype(object), 1.0),
        "grads must be numeric, got dtype object",
    ),
    (
        lambda: lowla.InverseFisher(sp.csr_array(G2), 1.0),
        "grads must be a dense array, got csr_array",
    ),
    (
        lambda: lowla.InverseFisher(np.ma.masked_array(G2.astype("f2")), 1.0),
        "grads is a masked array: fill it (grads.filled(0)) first",
    ),
    (lambda: _inverse(block_size=2.0), "block_size must be an int, got float"),
    (lambda: _inverse(window="all"), "window must be an int, got str"),
    (lambda: _inverse(reduce=1), "reduce must be callable, got int"),
    (lambda: _inverse() @ (V8 * 1j), "the right factor must be real, got complex128"),
    (
        lambda: _inverse() @ V8.astype(object),
        "the right factor must be numeric, got dtype object",
    ),
    (lambda: _inverse(window=4).push(V8 * 1j), "g must be real, got dtype complex128"),
    (lambda: _inverse(window=4).push("gradient"), "g must be numeric, got dtype <U8"),
    (lambda: _inverse().element(0.0, 1), "i must be of integers, got dtype float64"),
    (lambda: _inverse().element(0, True), "j must be of integers, got dtype bool"),
    (lambda: _inverse().block([0.5], [1]), "rows must be of integers, got dtype float64"),
    (
        lambda: lowla.obs_prune(V8, np.eye(8), 3),
        "Finv must be an InverseFisher, got ndarray",
    ),
    (lambda: lowla.obs_prune(V8 * 1j, _inverse(), 3), "w must be real, got complex128"),
    (lambda: lowla.obs_prune(V8, _inverse(), 3.0), "n_prune must be an int, got float"),
    (lambda: lowla.obs_prune(V8, _inverse(), 3, steps=1.5), "steps must be an int, got float"),
    (
        lambda: lowla.obs_prune(sp.csr_array(V8[None]), _inverse(), 3),
        "w must be a dense array, got csr_array",
    ),
    (
        lambda: lowla.natural_gradient(G2.T * 1j, G2.T, V8[:4], 1.0),
        "G must be real, got complex128",
    ),
    (
        lambda: lowla.natural_gradient(G2.T, G2.T, V8[:4], None),
        "damp must be a float, got NoneType",
    ),
]

INDEX = [
    (lambda: _inverse().element(8, 0), "i must be in -8..7, got 8"),
    (lambda: _inverse().element(0, [1, -9]), "j must be in -8..7, got -9"),
    (lambda: _inverse().block([0, 80], [1]), "rows must be in -8..7, got 80"),
    (lambda: _inverse().block([0], [8]), "cols must be in -8..7, got 8"),
]

ALGEBRA = [
    (lambda: lowla.InverseFisher(G2 * 1e160, 1.0), "the Gram matrix of the gradients overflows"),
    (
        lambda: lowla.InverseFisher(G2 * 1e160, 1.0, window=4, block_size=2),
        "the Gram matrix of the gradients overflows",
    ),
    (
        lambda: lowla.InverseFisher(np.ones((2, 4)), 1e-20),
        "damp is below the rounding of the Gram matrix: it adds 2.0e-20 to its diagonal, whose "
        "largest entry is 4.0e+00",
    ),
    (
        lambda: lowla.natural_gradient(G2.T, G2.T * 1e160, V8[:4], 1.0),
        "the Gram matrix of the gradients overflows",
    ),
    (
        lambda: lowla.natural_gradient(G2.T, np.ones((8, 2)), np.ones(2), 1e-20),
        "damp is below the rounding of the Gram matrix: it adds 1.0e-20 to its diagonal, whose "
        "largest entry is 8.0e+00",
    ),
]


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (kind, call, message)
        for kind, rows in (
            (ValueError, VALUE),
            (TypeError, TYPE),
            (IndexError, INDEX),
            (np.linalg.LinAlgError, ALGEBRA),
        )
        for call, message in rows
    ],
)
def test_bad_input(backend, kind, call, message):
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == message


def test_without_the_check_bad_gradients_give_nan(backend):
    for block_size in (None, 3):
        Finv = lowla.InverseFisher(_with(np.nan), 1.0, block_size=block_size, check_finite=False)
        assert np.isnan((Finv @ V8)[3:6]).all()
    assert np.isnan(_inverse() @ (V8 * np.nan)).all()
    w, mask, loss = lowla.obs_prune(V8 * np.nan, _inverse(), 3, check_finite=False)
    assert np.isnan(w[mask]).all()
    assert np.isnan(loss)
