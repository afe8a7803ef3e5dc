"""Fixtures and hypothesis profiles shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType

import hypothesis
import pytest

import lowla
from lowla import _backend

# The `backend` fixture holds for all examples of a test, which is what is wanted of it.
_SUPPRESSED = [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "dev", max_examples=25, deadline=None, suppress_health_check=_SUPPRESSED
)
hypothesis.settings.register_profile(
    "ci",
    max_examples=30,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=_SUPPRESSED,
)
hypothesis.settings.register_profile(
    "sanitize",
    max_examples=15,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=_SUPPRESSED,
)
hypothesis.settings.register_profile(
    "nightly",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SUPPRESSED,
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
)


def _tested_backends() -> list[str]:
    """Those of LOWLA_TEST_BACKENDS (comma-separated), each of which must be there; else all."""
    wanted = os.environ.get("LOWLA_TEST_BACKENDS")
    if not wanted:
        return [name for name in _backend.NAMES if _backend.why_not(name) is None]
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        _backend.load(name)
    return names


BACKENDS = _tested_backends()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each backend that is available; gives its name."""
    with lowla.use_backend(request.param):
        yield request.param


@pytest.fixture(scope="session")
def module() -> ModuleType:
    """`_cuda_emulated`: the CUDA backend on the CPU (see test_cuda.py)."""
    path = os.environ.get("LOWLA_CUDA_EMULATED")
    if not path:
        pytest.skip("LOWLA_CUDA_EMULATED does not name the module _cuda_emulated")
    spec = importlib.util.spec_from_file_location("_cuda_emulated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulated(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """lowla's functions run on the emulated device; nothing may write behind its memory."""
    monkeypatch.setitem(_backend._LOADERS, "native", lambda: (module, None))
    with lowla.use_backend("native"):
        yield module
    assert not module.overrun()


@pytest.fixture(scope="session")
def host() -> _backend.Backend:
    """Another backend to compare with."""
    name = "native" if _backend.why_not("native") is None else "numba"
    return _backend.load(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked slow run with HYPOTHESIS_PROFILE=nightly."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "nightly":
        return
    skip = pytest.mark.skip(reason="slow: needs HYPOTHESIS_PROFILE=nightly")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


def pytest_report_header() -> str:
    missing = {
        name: reason for name in _backend.NAMES if (reason := _backend.why_not(name)) is not None
    }
    return f"lowla {lowla.__version__}: testing {', '.join(BACKENDS)}; missing {missing}"
