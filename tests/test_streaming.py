"""StreamingSVD: the rows decide the answer, not the blocks they came in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import lowla
from tolerances import orthogonality, relative_error, tol

K, N, ROWS = 4, 30, 600
DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def _matrix(dtype=np.float64, rows=ROWS):
    """Rank K exactly, so the stream's factors reproduce it to rounding."""
    rng = np.random.default_rng(rows)
    left, right = rng.standard_normal((rows, K)), rng.standard_normal((K, N))
    A = left @ right
    if np.dtype(dtype).kind == "c":
        A = A + 1j * (left @ right[::-1])
    return A.astype(dtype)


def _streamed(*blocks, k=2 * K):
    stream = lowla.StreamingSVD(k, N, rng=1)
    for block in blocks:
        stream.partial_fit(block)
    return stream


def _assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert_array_equal(a, b)


@given(cuts=st.lists(st.integers(0, ROWS), max_size=8), dtype=st.sampled_from(DTYPES))
def test_any_split_gives_the_same_bits(backend, cuts, dtype):
    A = _matrix(dtype)
    split = _streamed(*np.split(A, sorted(cuts)))
    _assert_same(split.result(), _streamed(A).result())
    assert split.n_rows == ROWS


@given(cuts=st.lists(st.integers(0, ROWS), max_size=5))
def test_any_split_of_sparse_rows_gives_the_same_bits(backend, cuts):
    A = sp.random_array((ROWS, N), density=0.2, rng=np.random.default_rng(0), format="csr")
    edges = [0, *sorted(cuts), ROWS]
    split = _streamed(*(A[a:b] for a, b in itertools.pairwise(edges)))
    _assert_same(split.result(), _streamed(A).result())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [np.asfortranarray, lambda A: A[::-1][::-1], lambda A: A])
def test_an_exactly_low_rank_matrix_is_recovered(backend, dtype, layout):
    A = _matrix(dtype)
    U, S, Vh = result = _streamed(layout(A)).result()
    assert (U.shape, S.shape, Vh.shape) == ((ROWS, 2 * K), (2 * K,), (2 * K, N))
    assert (U.dtype, S.dtype) == (dtype, np.finfo(dtype).dtype)
    bound = tol(dtype, ROWS)
    assert relative_error(A, U, S, Vh) <= bound
    assert orthogonality(U) <= bound
    assert orthogonality(Vh.conj().T) <= bound
    assert result.info.passes == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["tiny", "huge"])
def test_the_range_of_the_dtype_is_no_limit(backend, dtype, where):
    limits = np.finfo(dtype)
    scale = limits.tiny * 2.0**20 if where == "tiny" else limits.max / 2.0**20
    A = _matrix(dtype) * np.asarray(scale, limits.dtype)
    assert relative_error(A, *_streamed(A[:100], A[100:]).result()) <= tol(dtype, ROWS)


@pytest.mark.parametrize("order", [1, -1])
def test_blocks_of_very_different_size_add_up(backend, order):
    A = _matrix()
    A[:256] *= 1e-250
    A[256:512] *= 1e250
    A = A[::order]
    U, S, Vh = _streamed(A[:300], A[300:]).result()
    assert np.isfinite(S).all()
    assert relative_error(A, U, S, Vh) <= tol(np.float64, ROWS)


@pytest.mark.parametrize("cut", [0, 100, 256, 512, ROWS])
def test_merged_streams_answer_as_one(backend, cut):
    A = _matrix()
    first, second = _streamed(A[:cut]), _streamed(A[cut:])
    merged = first.merge(second)
    assert merged is first
    assert merged.n_rows == ROWS
    whole = _streamed(A).result()
    bound = tol(np.float64, ROWS)
    result = merged.result()
    assert np.abs(result.S - whole.S).max() <= bound * whole.S[0]
    assert relative_error(A, *result) <= bound
    if cut < ROWS:
        assert second.n_rows == ROWS - cut
        assert second.result().U.shape[0] == ROWS - cut


def test_a_merged_stream_goes_on(backend):
    A = _matrix(rows=900)
    stream = _streamed(A[:100]).merge(_streamed(A[100:500])).partial_fit(A[500:])
    assert relative_error(A, *stream.result()) <= tol(np.float64, 900)


def test_streams_of_different_dtypes_do_not_merge(backend):
    with pytest.raises(ValueError, match="streams must have rows of one kind, got float64 on"):
        _streamed(_matrix()).merge(_streamed(_matrix(np.float32)))


def test_result_does_not_end_the_stream(backend):
    A = _matrix()
    stream = _streamed(A[:300])
    early = stream.result()
    assert early.U.shape == (300, 2 * K)
    _assert_same(stream.partial_fit(A[300:]).result(), _streamed(A).result())


def test_later_changes_of_the_rows_do_not_matter(backend):
    A = _matrix()
    rows = A[:100].copy()
    stream = _streamed(rows)
    rows[:] = 0
    _assert_same(stream.partial_fit(A[100:]).result(), _streamed(A).result())


def test_fewer_rows_than_the_sketch_is_wide(backend):
    A = _matrix()[:9]
    assert relative_error(A, *_streamed(A).result()) <= tol(np.float64, N)


def test_zero_rows(backend):
    U, S, Vh = _streamed(np.zeros((300, N))).result()
    assert not S.any()
    assert orthogonality(U) <= tol(np.float64, 300)
    assert orthogonality(Vh.conj().T) <= tol(np.float64, N)


def test_the_error_is_certified(backend):
    A = np.random.default_rng(0).standard_normal((700, N)) * 0.8 ** np.arange(N)
    result = _streamed(A).result()
    true = relative_error(A, *result)
    assert abs(result.info.error - true) <= 0.01 * true


def test_repr(backend):
    assert repr(_streamed(_matrix())) == f"StreamingSVD(k={2 * K}, n={N}): {ROWS} rows"
