"""Inverse-Fisher-vector products of the CUDA backend, emulated on the CPU (see test_cuda.py).

The properties are those of test_mfac.py, run on the emulation, where slabs and parts are so small
that all ways are taken. `OnGpu` are arrays that mix with those of NumPy as little as CuPy's do.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpu_arrays
import lowla
import test_mfac as mfac
from gpu_arrays import OnGpu
from lowla import _arrays, _backend
from strategies import LAYOUTS
from tolerances import eps, tol


@pytest.fixture
def backend(emulated):
    """The name under which test_mfac.py finds the emulation."""
    return "native"


@pytest.fixture
def functions(emulated):
    return emulated


test_emulated_gram_and_factor = mfac.test_gram_and_factor
test_emulated_solve_and_multiply = mfac.test_solve_and_multiply
test_emulated_steps_of_a_solve = mfac.test_the_three_steps_of_a_solve
test_emulated_diagonal_columns_and_trace = mfac.test_diagonal_columns_and_trace
test_emulated_push = mfac.test_push
test_emulated_exchanges = mfac.test_dropping_and_appending_keeps_the_factor
test_emulated_singular_gram_matrix = mfac.test_a_gram_matrix_that_is_singular_to_rounding_is_refused
test_emulated_products = mfac.test_products_are_those_of_the_dense_inverse
test_emulated_entries = mfac.test_entries_are_those_of_the_dense_inverse
test_emulated_span_of_the_gradients = mfac.test_vectors_in_the_span_of_the_gradients
test_emulated_much_damping = mfac.test_much_damping_is_division
test_emulated_coefficients = mfac.test_the_coefficients_of_the_dynamic_algorithm
test_emulated_recursion_of_the_static_algorithm = mfac.test_the_recursion_of_the_static_algorithm
test_emulated_sherman_and_morrison = mfac.test_one_gradient_is_sherman_and_morrison
test_emulated_window = mfac.test_a_window_is_the_operator_of_its_gradients
test_emulated_window_fills = mfac.test_a_window_fills
test_emulated_push_that_fails = mfac.test_a_push_that_fails_leaves_the_window_as_it_was
test_emulated_large_gradient = mfac.test_a_large_gradient_leaves_no_trace
test_emulated_saved_operators = mfac.test_saved_operators_without_a_window
test_emulated_shards_of_different_dtypes = mfac.test_shards_of_different_dtypes
test_emulated_shards = mfac.test_shards_are_the_whole
test_emulated_two_workers = mfac.test_two_workers_with_columns_each
test_emulated_layouts = mfac.test_layouts
test_emulated_no_columns = mfac.test_no_columns
test_emulated_progress = mfac.test_progress
test_emulated_pruning = mfac.test_pruning_is_that_of_the_dense_matrix
test_emulated_ties = mfac.test_ties_zeros_and_the_ends
test_emulated_natural_gradient = mfac.test_natural_gradient_is_that_of_the_dense_matrix
test_emulated_bad_input = mfac.test_bad_input
test_emulated_bad_gradients = mfac.test_without_the_check_bad_gradients_give_nan


# The ways that only this backend has


@pytest.mark.parametrize("m", [1, 5, 30, 100])
@pytest.mark.parametrize("block_size", [0, 3, 7, 8, 20, 29, 70])
def test_emulated_slabs_of_any_blocks_and_vectors(emulated, m, block_size):
    """Up to 4 vectors by functors, more by slabs; blocks below 8 columns several in a slab, others
    in parts, primal ones by parts of their rows and columns."""
    G, damp, d = mfac.stored(mfac.gradients(0, m, 67), "float16"), 0.1, 67
    shards, every = mfac.split(G, 5), np.random.default_rng(1).standard_normal((d, 13))
    F, head, bound = mfac.fisher(G, damp, block_size), m // 2, mfac.error_bound(G, damp)
    _, L = mfac.factored(emulated, shards, block_size, damp, head)
    for r in (1, 4, 5, 6, 7, 13):
        X = every[:, :r]
        Y = emulated.fisher_multiply(shards, block_size, damp, X, "float64")
        assert (np.abs(Y - F @ X) <= tol("f8", m + d) * (np.abs(F) @ np.abs(X))).all()
        Z = emulated.fisher_solve(shards, L, head, block_size, damp, X, "float64")
        off = np.linalg.norm(Z - np.linalg.solve(F, X), axis=0)
        assert (off <= bound * np.linalg.norm(X, axis=0)).all()
    inverse, primal = np.linalg.inv(F), 0 < block_size < m
    diagonal = emulated.fisher_diagonal(shards, L, head, block_size, damp, "float64")
    assert np.abs(diagonal - np.diag(inverse)).max() <= bound
    W = emulated.fisher_columns(shards, L, head, block_size, np.arange(d)[::-1])[::-1]
    found = emulated.fisher_cross(np.ascontiguousarray(W), np.ascontiguousarray(W))
    found = m * found if primal else (np.eye(d) - found) / damp
    same = np.equal.outer(*2 * [np.arange(d) // (block_size or d)])
    assert np.abs(found - inverse)[same].max() <= bound


@pytest.mark.parametrize("dtype", mfac.DTYPES)
def test_emulated_dots_of_long_gradients(emulated, dtype):
    """1024 parts, each of more columns than a block has threads, and two groups of rows."""
    m, d = 9, 300_000
    G = mfac.stored(mfac.gradients(0, m, d), dtype)
    x = np.random.default_rng(1).standard_normal((d, 1))
    wide = mfac.exact(G)
    found = emulated.fisher_dots([G[:, :1000], G[:, 1000:]], x)
    bound = tol("f8", 300 + 1024) * (np.abs(wide) @ np.abs(x))  # of parts, then over them
    assert (np.abs(found - wide @ x) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_emulated_every_number_of_16_bits_is_read_exactly(emulated, dtype):
    """As the one gradient g: y = gᵀ · 1, Inf and NaN, subnormal numbers and the zeros too."""
    G = np.arange(1 << 16, dtype=np.uint16).view(dtype)[None]
    zero = np.zeros((1 << 16, 1))
    y = emulated.fisher_combine([G], np.ones((1, 1)), zero, 0.0, 1.0, "float64")
    with np.errstate(invalid="ignore"):  # signalling NaN
        np.testing.assert_array_equal(y[:, 0], mfac.exact(G)[0])


@given(
    m=st.integers(1, 12),
    d=st.integers(1, 60),
    block_size=st.integers(0, 20),
    layout=st.sampled_from([name for name in LAYOUTS if name != "broadcast_row"]),
    r=st.sampled_from((1, 3, 9)),
    seed=mfac.seeds,
)
def test_emulated_results_are_the_same_every_time(emulated, m, d, block_size, layout, r, seed):
    """To the last bit: no sum depends on the order in which threads come."""
    rng = np.random.default_rng(seed)
    G = LAYOUTS[layout](rng.standard_normal((m, d)).astype(np.float32))
    X = LAYOUTS[layout](rng.standard_normal((d, r)))
    runs = []
    for _ in range(2):
        _, L = mfac.factored(emulated, [G], block_size, 0.1)
        Y = emulated.fisher_solve([G], L, 0, block_size, 0.1, X, "float64")
        runs.append([L, Y, emulated.fisher_diagonal([G], L, 0, block_size, 0.1, "float64")])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_emulated_functions_refuse_what_does_not_fit(emulated):
    G, K = np.ones((3, 5)), np.eye(3)[None]
    L = np.linalg.cholesky(K)
    X = np.ones((5, 2))
    row = np.ones(5)
    cases = [
        (lambda: emulated.fisher_gram([], 0, None), "shards must hold at least one array"),
        (lambda: emulated.fisher_gram([G, G[:2]], 0, None), "matrices of equally many rows"),
        (lambda: emulated.fisher_gram([G], 0, np.ones(4, bool)), "mask must have an entry"),
        (lambda: emulated.fisher_factor(K[0], 1.0, 0), "K must be a stack of square matrices"),
        (lambda: emulated.fisher_dots([G], X[1:]), "X must have 5 rows"),
        (lambda: emulated.fisher_combine([G], X, X, 1.0, 1.0, "float64"), "C must have a row"),
        (
            lambda: emulated.fisher_solve([G], L[:, :2, :2], 0, 0, 1.0, X, "float64"),
            r"L must have shape \(1, 3, 3\)",
        ),
        (
            lambda: emulated.fisher_solve([G], L.swapaxes(1, 2), 0, 0, 1.0, X, "float64"),
            "the rows of L must be contiguous",
        ),
        (lambda: emulated.fisher_columns([G], L, 0, 0, [5]), r"indices must be in 0\.\.4"),
        (lambda: emulated.fisher_inner(X, [0], [5]), r"j must be in 0\.\.4"),
        (lambda: emulated.fisher_inner(X, [0], [1, 2]), "equally many entries"),
        (lambda: emulated.fisher_inner(X.T, [0], [1]), "W must be C-ordered"),
        (lambda: emulated.fisher_cross(X, G), "V and W must have equally many columns"),
        (lambda: emulated.fisher_trace(L, 1.0, 4), r"width must be in 0\.\.3"),
        (
            lambda: emulated.fisher_push([G], K, L, 3, 3, 0, 1.0, [row], False),
            "g must have a row for each shard of the window, in its dtype",
        ),
        (
            lambda: emulated.fisher_push([G], K, L, 0, 3, 0, 1.0, [row.astype("f4")], False),
            "g must have a row for each shard of the window, in its dtype",
        ),
        (
            lambda: emulated.fisher_push([G], K, L, 0, 3, 0, 1.0, [G], False),
            "g must have 1 dimension a shard, got 2",
        ),
        (
            lambda: emulated.fisher_push([G], K[:, :2, :2], L, 0, 3, 0, 1.0, [row], False),
            "K must be writable and have the shape of L",
        ),
        (lambda: emulated.natural_gradient(X, G, row, 1.0), "stacks of one shape"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="gradients must be float16, bfloat16"):
        emulated.fisher_gram([G.astype(int)], 0, None)
    with pytest.raises(TypeError, match="vectors must be float32 or float64"):
        emulated.fisher_dots([G], X.astype("f2"))
    with pytest.raises(TypeError, match="L must be float64"):
        emulated.fisher_coefficients(L.astype("f4"), 0, np.ones((3, 1)))


# Arrays on the GPU

# Which arguments are in main memory, and whether the result is.
IN_MAIN_MEMORY = {
    "fisher_gram": ({"mask"}, True),
    "fisher_factor": ({"K"}, False),
    "fisher_coefficients": ({"R"}, True),
    "fisher_dots": (set(), True),
    "fisher_combine": ({"C"}, False),
    "fisher_solve": (set(), False),
    "fisher_multiply": (set(), False),
    "fisher_diagonal": (set(), False),
    "fisher_columns": ({"indices"}, False),
    "fisher_inner": ({"i", "j"}, False),
    "fisher_cross": (set(), False),
    "fisher_trace": (set(), True),
    "fisher_push": ({"K"}, True),
    "natural_gradient": (set(), False),
}


@pytest.fixture
def gpu(module, monkeypatch):
    """CuPy and the CUDA backend, as far as they are needed."""
    return gpu_arrays.install(module, IN_MAIN_MEMORY, monkeypatch)


def everything(Finv, w, X, g):
    """All that an operator does, as NumPy arrays; its results are of the kind of X."""
    i, j = np.array([[0], [3]]), np.arange(5)
    found = [Finv @ X, Finv @ X[:, 0], Finv @ X[:, :0], Finv.diagonal(), Finv.element(i, j)]
    Finv.keep_columns()
    found += [Finv.element(i, j), Finv.block([1, -2], [0])]
    if Finv.window:
        for _ in range(3):
            Finv.push(g)
        grads = Finv.grads
        found += [Finv @ X, *(grads if isinstance(grads, list) else [grads])]
    new, mask, _ = lowla.obs_prune(w, Finv, 4, steps=2)
    found += [new, mask]
    assert all(type(a) is type(X) for a in found)
    numbers = [Finv.element(0, 1), Finv.logdet(), Finv.solve_trace(), Finv.info.cond]
    state = Finv.state_dict().values()
    assert all(type(a) in (float, int, np.ndarray) for a in (*numbers, *state))
    return [_arrays.to_host(a) for a in found] + [np.array(numbers)]


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize(
    "options",
    [{}, {"block_size": 3}, {"window": 6}, {"window": 7, "block_size": 4}, {"reduce": np.array}],
    ids=str,
)
def test_emulated_arrays_on_the_gpu_stay_there(gpu, options, dtype):
    """Results are those of the host and of the caller's kind; nothing crosses unasked."""
    G = mfac.gradients(0, 6, 11).astype(dtype)
    rng = np.random.default_rng(1)
    w, X, g = rng.standard_normal(11), rng.standard_normal((11, 2)), rng.standard_normal(11)
    shards = [G[:, :4], np.asfortranarray(G[:, 4:])]
    if "reduce" in options:
        ours = lowla.InverseFisher([gpu.asarray(s) for s in shards], 0.1, window=6, **options)
        theirs = lowla.InverseFisher(shards, 0.1, window=6, **options)
        for Finv, take in ((ours, gpu.asarray), (theirs, np.asarray)):
            Finv.push(take(g))
        pairs = [((ours @ gpu.asarray(X)).get(), theirs @ X)]
    else:
        ours = lowla.InverseFisher([gpu.asarray(s) for s in shards], 0.1, **options)
        theirs = lowla.InverseFisher(shards, 0.1, **options)
        assert ours.info.backend == "cuda"
        pairs = zip(
            everything(ours, *map(gpu.asarray, (w, X, g))),
            everything(theirs, w, X, g),
            strict=True,
        )
    bound = 2 * mfac.error_bound(G, 0.1) + eps("f4" if dtype == "float16" else "f8")
    for found, expected in pairs:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        scale = np.linalg.norm(expected.astype(np.float64)) * 11
        assert np.linalg.norm(found.astype(np.float64) - expected) <= bound * scale


def test_emulated_natural_gradient_of_arrays_on_the_gpu(gpu):
    rng = np.random.default_rng(0)
    G, U, S = rng.standard_normal((2, 9, 3)), rng.standard_normal((2, 9, 4)), np.ones((2, 4))
    found = lowla.natural_gradient(*map(gpu.asarray, (G, U, S)), 0.1)
    assert isinstance(found, OnGpu)
    back = 0.1 * found.get() + U @ (U.swapaxes(1, 2) @ found.get())
    cond = 1 + np.linalg.norm(U, 2, axis=(1, 2)).max() ** 2 / 0.1
    assert np.linalg.norm(back - G) <= tol("f8", 9, cond) * np.linalg.norm(G)
    assert isinstance(
        lowla.natural_gradient(gpu.asarray(G[:0]), gpu.asarray(U[:0]), gpu.asarray(S[:0]), 0.1),
        OnGpu,
    )


def test_emulated_host_arrays_cross_over_where_the_backend_is_asked_for(gpu):
    """Operators stay where they were made, whatever is asked for later."""
    G, X = mfac.gradients(0, 6, 11), np.random.default_rng(1).standard_normal((11, 2))
    here = lowla.InverseFisher(G, 0.1, window=6)
    with lowla.use_backend("cuda"):
        there = lowla.InverseFisher(G, 0.1, window=6)
        found = [here @ X, there @ X, lowla.natural_gradient(X, G.T, np.ones(6), 0.1)]
        again = lowla.InverseFisher.from_state_dict(here.state_dict())
        for Finv in (here, there, again):
            Finv.push(X[:, 0])
    assert (here.info.backend, there.info.backend, again.info.backend) == (
        _backend.get_backend(),
        "cuda",
        "cuda",
    )
    found += [there @ X, again @ X, there.grads]
    assert all(type(a) is np.ndarray for a in found)
    bound = 2 * mfac.error_bound(G, 0.1) * np.linalg.norm(X)
    assert np.linalg.norm(found[1] - found[0]) <= bound
    assert np.linalg.norm(found[3] - here @ X) <= 2 * bound
    assert np.linalg.norm(found[4] - here @ X) <= 2 * bound
    np.testing.assert_array_equal(there.grads, here.grads)


def test_emulated_operands_in_two_places_are_refused(gpu):
    G, x = mfac.gradients(0, 4, 6), np.ones(6)
    here, there = (lowla.InverseFisher(A, 0.1, window=4) for A in (G, gpu.asarray(G)))
    for Finv, other in ((here, gpu.asarray(x)), (there, x)):
        for call, names in (
            (lambda Finv=Finv, other=other: Finv @ other, "grads and the right factor"),
            (lambda Finv=Finv, other=other: Finv.push(other), "grads and g"),
            (
                lambda Finv=Finv, other=other: lowla.obs_prune(other, Finv, 1),
                "the gradients of Finv and w",
            ),
        ):
            with pytest.raises(TypeError) as caught:
                call()
            assert str(caught.value) == f"{names} must both be in main memory or both on the GPU"
    with pytest.raises(TypeError, match="grads must all be in main memory or all on the GPU"):
        lowla.InverseFisher([G, gpu.asarray(G)], 0.1)
