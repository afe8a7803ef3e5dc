"""lowla: randomized low-rank linear algebra with a compiled core and a NumPy-style interface."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lowla._backend import (
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
    use_backend,
)
from lowla._completion import complete
from lowla._completion_result import CompletionResult
from lowla._config import register_threadpool, show_config
from lowla._cur import cur, interp_decomp, qrcp, row_interp_decomp, two_sided_interp_decomp
from lowla._cur_columns import cr_select, nystrom_columns
from lowla._cur_index import CURIndex
from lowla._cur_results import (
    CRResult,
    CURResult,
    IDResult,
    NeighborsResult,
    NystromColumnsResult,
    QRCPResult,
    TwoSidedIDResult,
)
from lowla._errors import ConvergenceWarning, CudaError
from lowla._kron import kron_matmul, kron_solve, nearest_kron
from lowla._logsumexp import logsumexp, softmax
from lowla._lp import lp_regression
from lowla._lstsq import lstsq
from lowla._mfac import natural_gradient, obs_prune
from lowla._monarch import (
    fftconv,
    monarch_dft,
    monarch_fft,
    monarch_matmul,
    monarch_project,
)
from lowla._results import (
    EighResult,
    LpResult,
    LstsqResult,
    NearestKronResult,
    PruneResult,
    RowSample,
    SVDResult,
)
from lowla._rsvd import nystrom, reigh, rsvd
from lowla._scores import leverage_scores, lewis_weights, sensitivity_sample
from lowla._sinkhorn import sinkhorn, sinkhorn_divergence, sinkhorn_points
from lowla._sketch import sketch, sketch_operator
from lowla._soft_impute import soft_impute, svt
from lowla._streaming import StreamingSVD
from lowla._transport import DivergenceResult, PointsTransportResult, TransportResult

if TYPE_CHECKING:
    from lowla._kron_operator import Kronecker
    from lowla._mfac_operator import InverseFisher
    from lowla._monarch_operator import Monarch
    from lowla._sketch_operator import SketchOperator

__version__ = "0.1.0"

__all__ = [
    "CRResult",
    "CURIndex",
    "CURResult",
    "CompletionResult",
    "ConvergenceWarning",
    "CudaError",
    "DivergenceResult",
    "EighResult",
    "IDResult",
    "InverseFisher",
    "Kronecker",
    "LpResult",
    "LstsqResult",
    "Monarch",
    "NearestKronResult",
    "NeighborsResult",
    "NystromColumnsResult",
    "PointsTransportResult",
    "PruneResult",
    "QRCPResult",
    "RowSample",
    "SVDResult",
    "SketchOperator",
    "StreamingSVD",
    "TransportResult",
    "TwoSidedIDResult",
    "__version__",
    "complete",
    "cr_select",
    "cur",
    "fftconv",
    "get_backend",
    "get_num_threads",
    "interp_decomp",
    "kron_matmul",
    "kron_solve",
    "leverage_scores",
    "lewis_weights",
    "logsumexp",
    "lp_regression",
    "lstsq",
    "monarch_dft",
    "monarch_fft",
    "monarch_matmul",
    "monarch_project",
    "natural_gradient",
    "nearest_kron",
    "nystrom",
    "nystrom_columns",
    "obs_prune",
    "qrcp",
    "reigh",
    "row_interp_decomp",
    "rsvd",
    "sensitivity_sample",
    "set_backend",
    "set_num_threads",
    "show_config",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_points",
    "sketch",
    "sketch_operator",
    "soft_impute",
    "softmax",
    "svt",
    "two_sided_interp_decomp",
    "use_backend",
]

register_threadpool()
del register_threadpool


# Their base class costs the import of scipy.sparse.linalg.
_OPERATORS = {
    "InverseFisher": "lowla._mfac_operator",
    "Kronecker": "lowla._kron_operator",
    "Monarch": "lowla._monarch_operator",
    "SketchOperator": "lowla._sketch_operator",
}


def __getattr__(name: str) -> object:
    if name not in _OPERATORS:
        raise AttributeError(f"module 'lowla' has no attribute {name!r}")
    return getattr(importlib.import_module(_OPERATORS[name]), name)
