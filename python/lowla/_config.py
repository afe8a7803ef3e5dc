"""`show_config`, and the thread pool's place in threadpoolctl."""

from __future__ import annotations

import importlib
import platform
import sys

import numpy as np

from lowla import _backend


def show_config() -> None:
    """Print the version, the backends and why one is missing, SIMD level, BLAS and threads."""
    from lowla import __version__

    lines = {
        "lowla": f"{__version__} (Python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {importlib.import_module('scipy').__version__}, {platform.machine()})",
        "backend": f"{_backend.get_backend()} for arrays in main memory",
    }
    for name in _backend.NAMES:
        reason = _backend.why_not(name)
        lines[name] = f"not available: {reason}" if reason else _features(name)
    lines["threads"] = str(_backend.get_num_threads())
    for label, text in lines.items():
        print(f"{label:<9}{text}")


def _features(name: _backend.BackendName) -> str:
    features = _backend.load(name).features()
    return ", ".join(f"{key} {value}" for key, value in features.items())


def register_threadpool() -> None:
    """Let threadpoolctl's limits reach the native module's threads, where it is installed."""
    if _backend.why_not("native") is not None:
        return
    try:
        import threadpoolctl
    except ImportError:
        return

    class LowlaController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "lowla"
        internal_api = "lowla"
        filename_prefixes = ("_native",)
        check_symbols = ("lowla_get_num_threads", "lowla_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.lowla_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.lowla_set_num_threads(num_threads)

        def get_version(self) -> str | None:
            module = sys.modules.get("lowla")
            return None if module is None else str(module.__version__)

    threadpoolctl.register(LowlaController)
