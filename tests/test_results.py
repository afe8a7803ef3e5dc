"""Results: tuples with names, each with its info."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import lowla


@pytest.fixture
def result(backend):
    A = np.random.default_rng(0).standard_normal((30, 20))
    return lowla.rsvd(A, 4, rng=0)


def test_svd_unpacks_like_numpys_and_has_names(result):
    U, S, Vh = result
    assert len(result) == 3
    assert U is result.U
    assert S is result.S
    assert Vh is result.Vh
    assert isinstance(result, tuple)


def test_eigh_unpacks_like_numpys_and_has_names(backend):
    result = lowla.reigh(np.diag([3.0, 2.0, 1.0]), 2, rng=0)
    w, V = result
    assert len(result) == 2
    assert w is result.w
    assert V is result.V


def test_pattern_matching(result):
    match result:
        case lowla.SVDResult(U=U, S=S):
            assert U is result.U
            assert S is result.S


def test_info_says_what_was_asked_and_reached(result):
    info = result.info
    assert (info.k, info.tol) == (4, None)
    assert 0 < info.error < 1
    assert info.converged is True
    assert info.seconds >= 0
    for field, kind in [
        ("rank", int),
        ("error", float),
        ("spectral_error", float),
        ("passes", int),
        ("iterations", int),
        ("basis", int),
        ("method", str),
        ("error_method", str),
        ("backend", str),
    ]:
        assert type(getattr(info, field)) is kind, field


def test_results_are_read_only(result):
    with pytest.raises(AttributeError):
        result.U = None
    with pytest.raises(AttributeError):
        result.extra = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.info.error = 0.0


def test_repr_is_one_line_per_fact(result):
    lines = repr(result).splitlines()
    assert lines[0] == "SVDResult: U (30, 4), S (4,), Vh (4, 20), float64"
    heads = ["asked", "rank", "error", "spectral error", "converged", "method", "passes"]
    assert [line[2:17].strip() for line in lines[1:8]] == heads
    assert repr(result.info).splitlines()[1:] == lines[1:]


@pytest.mark.parametrize("duplicate", [copy.copy, lambda r: pickle.loads(pickle.dumps(r))])
def test_results_are_copied_and_pickled(result, duplicate):
    other = duplicate(result)
    assert type(other) is lowla.SVDResult
    assert other.info == result.info
    for ours, theirs in zip(result, other, strict=True):
        assert_array_equal(ours, theirs)


def test_a_stack_has_arrays_of_facts(backend):
    A = np.random.default_rng(0).standard_normal((2, 3, 12, 9))
    result = lowla.rsvd(A, 2, rng=0)
    assert [a.shape for a in result] == [(2, 3, 12, 2), (2, 3, 2), (2, 3, 2, 9)]
    for field in ("rank", "error", "spectral_error", "passes", "iterations", "converged", "basis"):
        assert np.shape(getattr(result.info, field)) == (2, 3), field
    assert " .. " in repr(result)


def _iterated(**options):
    A = np.random.default_rng(0).standard_normal((300, 200))
    return lowla.rsvd(A, 4, method="subspace", n_iter=6, rng=0, **options)


def test_callback_sees_each_outer_iteration(backend):
    seen = []
    result = _iterated(callback=seen.append)
    assert [info.iterations for info in seen] == list(range(1, len(seen) + 1))
    assert len(seen) >= 2
    assert all(info.k == 4 and info.backend == backend for info in seen)
    assert result.info.converged


def test_callback_returning_true_stops(backend):
    seen = []
    result = _iterated(callback=lambda info: seen.append(info) or len(seen) == 2)
    assert len(seen) == 2
    assert result.info.iterations < _iterated().info.iterations
    assert result.U.shape == (300, 4)


def test_an_exception_in_the_callback_is_the_callers(backend):
    def fail(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        _iterated(callback=fail)


def test_progress_shows_a_bar(backend, capsys):
    pytest.importorskip("tqdm")
    _iterated(progress=True)
    assert "rsvd: " in capsys.readouterr().err


def test_progress_without_tqdm(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError) as caught:
        _iterated(progress=True)
    assert str(caught.value) == "progress=True needs tqdm: pip install 'lowla[plot]'"
