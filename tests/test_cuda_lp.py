"""l_p regression of the CUDA backend on its emulation (see test_cuda.py), against the host's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose

import gpu_arrays
import lowla
from gpu_arrays import OnGpu
from strategies import LAYOUTS

FORMS = [np.asarray, sp.csr_array]


def payload(A):
    return (A.indptr, A.indices, A.data, A.shape) if sp.issparse(A) else A


def problem(m=1500, n=24, dtype="float64", seed=0):
    """Gaussian columns of lengths from 1 to 0.1, heavy-tailed noise."""
    rng = np.random.default_rng(seed)
    A = (rng.standard_normal((m, n)) * np.geomspace(1, 0.1, n)).astype(dtype)
    return A, (A @ np.ones(n) + 0.1 * rng.standard_t(3, m)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_emulated_lp_regression_is_the_hosts(emulated, host, p, form, dtype):
    A, b = problem(dtype=dtype)
    A = payload(form(A))
    for method, rows in (("exact", 0), ("exact", 600), ("sample", 600)):
        options = (A, b, p, method, rows, 1e-8, 0, 7, True, None)
        x, facts = emulated.lp_regression(*options)
        expected, theirs = host.lp_regression(*options)
        assert x.dtype == dtype
        assert (facts["method"], facts["rows"]) == (theirs["method"], theirs["rows"])
        assert facts["converged"]
        # The objective is flat at its optimum, and x as accurate as the root of it.
        assert_allclose(x, expected, rtol=0, atol=1e-4)
        accuracy = 1e-8 if method == "exact" else 1e-4
        assert facts["objective"] == pytest.approx(theirs["objective"], rel=accuracy)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_emulated_lp_regression_of_any_layout(emulated, layout):
    A, b = problem(400, 6)
    plain = lowla.lp_regression(A, b, 1.5)
    view = lowla.lp_regression(LAYOUTS[layout](A), np.repeat(b, 2)[::2], 1.5)
    if layout != "broadcast_row":
        assert view.info.objective == pytest.approx(plain.info.objective, rel=1e-9)
    assert view.info.converged


@pytest.mark.parametrize("scale", [1e-290, 1e290])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1.0, 3.0])
def test_emulated_lp_regression_at_any_scale(emulated, p, form, scale):
    A, b = problem(400, 6)
    plain = lowla.lp_regression(form(A), b, p)
    scaled = lowla.lp_regression(form(A * scale), b * scale, p)
    assert_allclose(scaled.x, plain.x, rtol=0, atol=1e-6)
    assert scaled.info.objective / scale == pytest.approx(plain.info.objective, rel=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["A", "b"])
def test_emulated_lp_regression_of_not_finite_data(emulated, place, value, form):
    A, b = problem(60, 3)
    (A if place == "A" else b)[7] = value
    with pytest.raises(ValueError, match=f"{place} contains NaN or Inf"):
        lowla.lp_regression(form(A), b, 1.5)
    result = lowla.lp_regression(form(A), b, 1.5, check_finite=False)
    assert np.isnan(result.x).all()


def test_emulated_lp_regression_calls_back(emulated):
    A, b = problem(300, 6)
    seen = []
    lowla.lp_regression(A, b, 1.2, callback=seen.append)
    assert [info.iterations for info in seen] == list(range(1, len(seen) + 1))

    def callback(info):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lowla.lp_regression(A, b, 1.2, callback=callback)


def test_emulated_lp_regression_refuses_what_does_not_fit(emulated):
    A, b = problem(30, 3)
    options = (1.5, "exact", 0, 1e-9, 0, 0, True, None)
    with pytest.raises(ValueError, match='unknown method "best"'):
        emulated.lp_regression(A, b, 1.5, "best", *options[2:])
    for right in (b[:-1], b[:, None]):
        with pytest.raises(ValueError, match=r"b must have shape \(30,\)"):
            emulated.lp_regression(A, right, *options)
    with pytest.raises(TypeError, match="b has another dtype than A"):
        emulated.lp_regression(A, b.astype(np.float32), *options)
    with pytest.raises(TypeError, match="A must be real"):
        emulated.lp_regression(A + 0j, b, *options)
    with pytest.raises(TypeError, match="A and b must be arrays"):
        emulated.lp_regression(A, "b", *options)
    with pytest.raises(ValueError, match="A must not be empty"):
        emulated.lp_regression(A[:0], b[:0], *options)
    indptr = np.array([0, 2, 1, 3], np.int32)
    parts = (indptr, np.zeros(3, np.int32), np.ones(3), (3, 1))
    with pytest.raises(ValueError, match="sparse A is malformed"):
        emulated.lp_regression(parts, np.ones(3), *options)


@pytest.fixture
def gpu(module, monkeypatch):
    """CuPy and the CUDA backend, as far as they are needed."""
    return gpu_arrays.install(module, {"lp_regression": (set(), False)}, monkeypatch)


def test_emulated_gpu_arrays_come_back_as_such(gpu):
    A, b = problem(300, 4)
    result = lowla.lp_regression(gpu.asarray(A), gpu.asarray(b), 1)
    assert isinstance(result.x, OnGpu)
    with lowla.use_backend("cuda"):
        there = lowla.lp_regression(A, b, 1)
    here = lowla.lp_regression(A, b, 1)
    assert (result.info.backend, there.info.backend) == ("cuda", "cuda")
    assert type(there.x) is np.ndarray
    for info in (result.info, there.info):
        assert info.objective == pytest.approx(here.info.objective, rel=1e-8)
