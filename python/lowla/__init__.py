"""lowla: randomized low-rank linear algebra with a compiled core and a NumPy-style interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowla._backend import (
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
    use_backend,
)
from lowla._config import register_threadpool, show_config
from lowla._errors import ConvergenceWarning, CudaError
from lowla._lp import lp_regression
from lowla._lstsq import lstsq
from lowla._results import EighResult, LpResult, LstsqResult, RowSample, SVDResult
from lowla._rsvd import nystrom, reigh, rsvd
from lowla._scores import leverage_scores, lewis_weights, sensitivity_sample
from lowla._sketch import sketch, sketch_operator
from lowla._streaming import StreamingSVD

if TYPE_CHECKING:
    from lowla._sketch_operator import SketchOperator

__version__ = "0.1.0"

__all__ = [
    "ConvergenceWarning",
    "CudaError",
    "EighResult",
    "LpResult",
    "LstsqResult",
    "RowSample",
    "SVDResult",
    "SketchOperator",
    "StreamingSVD",
    "__version__",
    "get_backend",
    "get_num_threads",
    "leverage_scores",
    "lewis_weights",
    "lp_regression",
    "lstsq",
    "nystrom",
    "reigh",
    "rsvd",
    "sensitivity_sample",
    "set_backend",
    "set_num_threads",
    "show_config",
    "sketch",
    "sketch_operator",
    "use_backend",
]

register_threadpool()
del register_threadpool


def __getattr__(name: str) -> object:
    # Its base class costs the import of scipy.sparse.linalg.
    if name == "SketchOperator":
        from lowla._sketch_operator import SketchOperator

        return SketchOperator
    raise AttributeError(f"module 'lowla' has no attribute {name!r}")
