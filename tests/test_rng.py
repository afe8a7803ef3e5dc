"""Seeds, keys and the one definition of every random entry (Philox4x32-10)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lowla import _backend
from lowla._rng import philox_key
from tolerances import tol

_GAUSSIAN, _SJLT, _SIGN = 0, 1, 2
_KEY = 0x299F31D0A4093822
_CORNERS = [(0, 0), (1, 0), (2, 5), (3, 5), (4, 2), (127, 6), (128, 6), (200, 0)]


def test_an_int_is_its_seed_sequence():
    expected = int(np.random.SeedSequence(7).generate_state(1, np.uint64)[0])
    for rng in (7, np.int64(7), np.uint8(7), np.random.SeedSequence(7)):
        assert philox_key(rng) == expected
    assert philox_key(8) != expected


def test_a_generator_is_advanced_by_one_draw():
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    key = philox_key(first)
    assert key == int(second.integers(0, 2**64, dtype=np.uint64))
    assert philox_key(first) != key


def test_none_is_fresh_entropy():
    assert philox_key(None) != philox_key(None)


@pytest.mark.parametrize("rng", [1.5, "7", True, np.random.RandomState(0), [1, 2]])
def test_other_types_are_refused(rng):
    with pytest.raises(TypeError, match=r"rng must be None, an int, a numpy\.random\.Generator or"):
        philox_key(rng)


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="rng must be a non-negative int, got -1"):
        philox_key(-1)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            0xFFFFFFFFFFFFFFFF,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            _KEY,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(backend, counter, key, words):
    """kat_vectors of the Random123 distribution, philox 4x32 with 10 rounds."""
    assert tuple(int(w) for w in _backend.load(backend).philox(key, counter)) == words


def _words(module, stream, row, col):
    """The block of (stream, row, column): 48-bit row and column in three counter words."""
    high = ((row >> 32) & 0xFFFF) | (((col >> 32) & 0xFFFF) << 16)
    counter = (row & 0xFFFFFFFF, col & 0xFFFFFFFF, high, stream)
    return [int(w) for w in module.philox(_KEY, counter)]


def test_signs_are_bits_of_the_block(backend):
    module = _backend.load(backend)
    signs = module.random_signs(_KEY, _SIGN, 201, 7)
    assert signs.shape == (201, 7)
    for i, j in _CORNERS:
        bit = _words(module, _SIGN, i >> 7, j)[(i >> 5) & 3] >> (i & 31) & 1
        assert int(signs[i, j]) == 1 - 2 * bit


def test_normals_are_box_muller_of_the_block(backend):
    module = _backend.load(backend)
    normals = module.random_normal(_KEY, _GAUSSIAN, 201, 7, "float64")
    single = module.random_normal(_KEY, _GAUSSIAN, 201, 7, "float32")
    assert (normals.dtype, single.dtype) == (np.float64, np.float32)
    assert_array_equal(single, normals.astype(np.float32))
    for i, j in _CORNERS:
        words = _words(module, _GAUSSIAN, i >> 2, j)
        u, angle = ((w + 0.5) * 2.0**-32 for w in words[2 * ((i & 3) >> 1) :][:2])
        turn = math.sin if i & 1 else math.cos
        exact = math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * angle)
        assert abs(float(normals[i, j]) - exact) <= tol(np.float64, 1) * max(1.0, abs(exact))


@pytest.mark.parametrize(("d", "nnz"), [(16, 8), (13, 4), (5, 5), (3, 1)])
def test_sjlt_pattern_is_words_of_the_block(backend, d, nnz):
    module = _backend.load(backend)
    n = 9
    indptr, rows, signs = module.sketch_pattern("sjlt", _KEY, d, n, nnz, 1.0)
    assert_array_equal(indptr, np.arange(n + 1) * nnz)
    rows, signs = rows.reshape(n, nnz).T, signs.reshape(n, nnz).T
    starts = [b * d // nnz for b in range(nnz + 1)]
    for b in range(nnz):
        size = starts[b + 1] - starts[b]
        for j in range(n):
            word = _words(module, _SJLT, b >> 2, j)[b & 3]
            assert int(signs[b, j]) == (-1 if word & 1 else 1)
            assert int(rows[b, j]) == starts[b] + (((word >> 1) * size) >> 31)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_backends_and_threads_agree_bit_by_bit(threads):
    present = [name for name in _backend.NAMES if _backend.why_not(name) is None]
    reference = _backend.load("numba")
    before = {name: _backend.load(name).get_num_threads() for name in present}
    for name in present:
        module = _backend.load(name)
        module.set_num_threads(threads)
        try:
            signs = module.random_signs(_KEY, _SIGN, 300, 40)
            pattern = module.sketch_pattern("sjlt", _KEY, 96, 5000, 8, 1.0)
            normals = module.random_normal(_KEY, _GAUSSIAN, 130, 50, "float64")
        finally:
            module.set_num_threads(before[name])
        assert_array_equal(signs, reference.random_signs(_KEY, _SIGN, 300, 40))
        expected = reference.sketch_pattern("sjlt", _KEY, 96, 5000, 8, 1.0)
        for ours, theirs in zip(pattern, expected, strict=True):
            assert_array_equal(ours, theirs)
        same = reference.random_normal(_KEY, _GAUSSIAN, 130, 50, "float64")
        assert np.all(np.abs(normals - same) <= tol(np.float64, 1) * np.maximum(1, np.abs(same)))
