"""The choice of the backend, and that all backends are one interface."""

from __future__ import annotations

import concurrent.futures
import inspect
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import lowla
from lowla import _backend

_PRESENT = [name for name in _backend.NAMES if _backend.why_not(name) is None]
_INTERFACE = {
    name: [p for p in inspect.signature(function).parameters if p != "self"]
    for name, function in vars(_backend.Backend).items()
    if inspect.isfunction(function) and not name.startswith("_")
}


def _parameters(function):
    """Parameter names, from the signature or from the first line of pybind11's docstring."""
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        pass
    found = re.match(r"\w+\((.*)\) -> ", function.__doc__.splitlines()[0])
    text, depth, names, current = found.group(1), 0, [], ""
    for character in text + ",":
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            names.append(current)
            current = ""
        else:
            current += character
    return [name.split(":")[0].split("=")[0].strip() for name in names if name.strip()]


def test_pybind11_signatures_are_read():
    def function():
        """f(A: object, k: typing.SupportsInt, x: tuple[int, float] | None = None) -> tuple"""

    function.__signature__ = "none"
    parse = _parameters.__globals__["_parameters"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "signature", lambda f: (_ for _ in ()).throw(ValueError))
        assert parse(function) == ["A", "k", "x"]


@pytest.mark.parametrize("name", _PRESENT)
def test_backends_export_the_same_functions(name):
    module = _backend.load(name)
    for function, parameters in _INTERFACE.items():
        if _backend.lacks(name, function) and not hasattr(module, function):
            continue
        assert _parameters(getattr(module, function)) == parameters, f"{name}.{function}"


def test_cuda_exports_the_same_functions_without_a_device():
    cuda = pytest.importorskip("lowla._cuda", exc_type=ImportError)
    for function, parameters in _INTERFACE.items():
        if _backend.lacks("cuda", function) and not hasattr(cuda, function):
            continue
        assert _parameters(getattr(cuda, function)) == parameters, function


def test_features_are_printable(backend):
    features = _backend.load(backend).features()
    assert features
    assert all(isinstance(value, (str, int, bool)) for value in features.values())


def test_default_is_native_else_numba(monkeypatch):
    monkeypatch.setattr(_backend, "_environment", None)
    assert lowla.get_backend() == ("native" if "native" in _PRESENT else "numba")


def test_without_the_compiled_module_numba_computes(monkeypatch):
    monkeypatch.setattr(_backend, "_environment", None)
    reason = "lowla was installed without its compiled module (no C++ compiler)"
    monkeypatch.setitem(_backend._LOADERS, "native", lambda: (None, reason))
    assert lowla.get_backend() == "numba"
    with pytest.raises(RuntimeError) as caught, lowla.use_backend("native"):
        pass
    assert str(caught.value) == f"backend 'native' is not available: {reason}"


def test_functions_that_only_numba_has_run_there(monkeypatch):
    monkeypatch.setattr(_backend, "_environment", None)
    for name in _backend.NUMBA_ONLY:
        chosen, module = _backend.select_for(name, "host")
        assert callable(getattr(module, name))
        assert chosen in ("native", "numba")


def test_use_backend_ends_with_its_block(backend):
    with lowla.use_backend("numba"):
        assert lowla.get_backend() == "numba"
        with lowla.use_backend(backend):
            assert lowla.get_backend() == backend
        assert lowla.get_backend() == "numba"
    assert lowla.get_backend() == backend


def test_use_backend_ends_with_an_exception(backend):
    with pytest.raises(KeyError), lowla.use_backend("numba"):
        raise KeyError
    assert lowla.get_backend() == backend


def test_set_backend_and_back(monkeypatch):
    monkeypatch.setattr(_backend, "_environment", None)
    default = lowla.get_backend()
    lowla.set_backend("numba")
    try:
        assert lowla.get_backend() == "numba"
    finally:
        lowla.set_backend(None)
    assert lowla.get_backend() == default


def test_environment_names_the_backend(monkeypatch):
    """Read when lowla is imported."""
    script = "import lowla; print(lowla.get_backend())"
    environment = {**os.environ, "LOWLA_BACKEND": "numba"}
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == "numba\n"
    monkeypatch.setattr(_backend, "_environment", "numba")
    assert lowla.get_backend() == "numba"
    assert lowla.rsvd(np.eye(3), 1, rng=0).info.backend == "numba"


def test_info_names_the_backend(backend):
    assert lowla.rsvd(np.eye(3), 1, rng=0).info.backend == backend


@pytest.mark.parametrize("name", ["openmp", "", "Native"])
def test_unknown_names(name):
    message = f"name must be one of 'native', 'cuda', 'numba', got {name!r}"
    with pytest.raises(ValueError) as caught:
        lowla.set_backend(name)
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught, lowla.use_backend(name):
        pass
    assert str(caught.value) == message


def test_unknown_name_in_the_environment(monkeypatch):
    monkeypatch.setattr(_backend, "_environment", "openmp")
    with pytest.raises(ValueError) as caught:
        lowla.rsvd(np.eye(3), 1)
    assert str(caught.value) == (
        "the environment variable LOWLA_BACKEND must be one of 'native', 'cuda', 'numba', "
        "got 'openmp'"
    )


@pytest.mark.skipif("cuda" in _PRESENT, reason="cuda is available here")
def test_cuda_says_why_it_is_missing():
    with pytest.raises(RuntimeError, match="backend 'cuda' is not available: "):
        lowla.set_backend("cuda")


def test_gpu_arrays_are_not_copied_behind_the_back(backend):
    if backend == "cuda":
        pytest.skip("host backends only")
    with pytest.raises(TypeError, match=f"backend '{backend}' takes arrays in main memory"):
        _backend.select("cuda")


def test_the_choice_belongs_to_its_thread(monkeypatch):
    monkeypatch.setattr(_backend, "_environment", None)
    default, seen = lowla.get_backend(), []
    with lowla.use_backend("numba"):
        thread = threading.Thread(target=lambda: seen.append(lowla.get_backend()))
        thread.start()
        thread.join()
    assert seen == [default]


@pytest.mark.parametrize("n", [0, -1])
def test_threads_are_at_least_one(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        lowla.set_num_threads(n)


@pytest.mark.parametrize("n", [1.5, "2", None, True])
def test_threads_are_an_int(n):
    with pytest.raises(TypeError, match="n must be an int, got"):
        lowla.set_num_threads(n)


def test_threads_are_set():
    before = lowla.get_num_threads()
    try:
        lowla.set_num_threads(1)
        assert lowla.get_num_threads() == 1
    finally:
        lowla.set_num_threads(before)
    assert lowla.get_num_threads() == before


@pytest.mark.skipif("native" not in _PRESENT, reason="needs the compiled module")
def test_blas_pools_are_looked_for_once(monkeypatch):
    """The search runs Python code in a callback from C, where an interrupt would be lost."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    from lowla._numba import threads

    before = threads.get_num_threads()

    def search(*args, **kwargs):
        raise AssertionError("a second search")

    for name in ("ThreadpoolController", "threadpool_info", "threadpool_limits"):
        monkeypatch.setattr(threadpoolctl, name, search)
    assert threads.get_num_threads() == before


def test_threadpoolctl_limits_are_respected():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = lowla.get_num_threads()
    with threadpoolctl.threadpool_limits(1, user_api="lowla"):
        assert lowla.get_num_threads() == 1
    assert lowla.get_num_threads() == before


def test_import_is_light():
    heavy = {"numba", "scipy.linalg", "scipy.sparse", "matplotlib", "tqdm", "cupy", "torch"}
    code = f"import sys, lowla; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_show_config(capsys):
    lowla.show_config()
    text = capsys.readouterr().out
    assert lowla.__version__ in text
    for name in _backend.NAMES:
        reason = _backend.why_not(name)
        assert re.search(rf"^{name} +{'not available: ' if reason else ''}\S", text, re.MULTILINE)


def test_info_command():
    run = subprocess.run(
        [sys.executable, "-m", "lowla", "info"], check=True, capture_output=True, text=True
    )
    assert run.stdout.startswith("lowla")


def test_operator_classes_are_public():
    assert isinstance(lowla.sketch_operator("gaussian", 2, 3, rng=0), lowla.SketchOperator)
    operators = {"InverseFisher", "Kronecker", "Monarch", "SketchOperator"}
    assert set(lowla.__all__) <= set(dir(lowla)) | operators
    assert lowla.Kronecker(np.eye(2)).shape == (2, 2)
    assert lowla.InverseFisher(np.ones((2, 3)), 1.0).shape == (3, 3)
    assert lowla.Monarch(np.ones((2, 3, 4)), np.ones((8, 1, 5))).shape == (6, 40)
    with pytest.raises(AttributeError, match="module 'lowla' has no attribute 'lsqr'"):
        _ = lowla.lsqr


@pytest.mark.skipif("native" not in _PRESENT, reason="needs the compiled module")
def test_blas_keeps_its_threads():
    """Least squares holds SciPy's OpenBLAS to one thread only while it runs."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    import scipy.linalg  # noqa: F401  (loads SciPy's BLAS)

    A = np.random.default_rng(0).standard_normal((3000, 60))

    def solve(seed: int) -> float:
        with lowla.use_backend("native"):
            return float(lowla.lstsq(A, A[:, 0], method="precondition", rng=seed).x[0])

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(solve, range(40)))
        after = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    assert after == before
    assert np.allclose(found, 1.0)
