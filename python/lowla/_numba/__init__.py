"""The reference backend: NumPy and SciPy, with Numba for loops over entries.

It has the functions of the compiled modules under the same names and parameters, and is written to
be read. Importing it imports numba.
"""

from __future__ import annotations

from .columns import interp_decomp, qrcp, two_sided_id
from .completion import complete, completion_predict, completion_rmse, completion_svd
from .cr import cr_select
from .cur import cur
from .cur_index import index_anchors, index_query, index_search
from .eigh import nystrom, reigh
from .kron import (
    kron_diagonal,
    kron_eigh,
    kron_inverse,
    kron_matmul,
    kron_slogdet,
    kron_solve,
    kron_solve_shifted,
    nearest_kron,
)
from .logsumexp import logsumexp, softmax
from .lp import lp_regression
from .lstsq import lstsq
from .mfac import (
    fisher_coefficients,
    fisher_columns,
    fisher_combine,
    fisher_cross,
    fisher_diagonal,
    fisher_dots,
    fisher_factor,
    fisher_gram,
    fisher_inner,
    fisher_multiply,
    fisher_push,
    fisher_solve,
    fisher_trace,
    natural_gradient,
)
from .monarch import (
    fftconv,
    monarch_dft,
    monarch_fft,
    monarch_matmul,
    monarch_project,
    monarch_solve,
)
from .nystrom_columns import nystrom_columns
from .observations import completion_holdout
from .philox import philox, random_normal, random_signs
from .pivoting import pivoted_lu_rows, pivoted_qr
from .rsvd import rsvd, rsvd_stacked, stream_finish, stream_pass
from .scores import leverage_scores, lewis_weights, row_scores, sample_rows
from .sinkhorn import sinkhorn
from .sketch import sketch_apply, sketch_entries, sketch_pattern
from .soft_impute import soft_impute
from .threads import features, get_num_threads, set_num_threads
from .transport import transport_gradient, transport_plan, transport_sparse

__all__ = [
    "complete",
    "completion_holdout",
    "completion_predict",
    "completion_rmse",
    "completion_svd",
    "cr_select",
    "cur",
    "features",
    "fftconv",
    "fisher_coefficients",
    "fisher_columns",
    "fisher_combine",
    "fisher_cross",
    "fisher_diagonal",
    "fisher_dots",
    "fisher_factor",
    "fisher_gram",
    "fisher_inner",
    "fisher_multiply",
    "fisher_push",
    "fisher_solve",
    "fisher_trace",
    "get_num_threads",
    "index_anchors",
    "index_query",
    "index_search",
    "interp_decomp",
    "kron_diagonal",
    "kron_eigh",
    "kron_inverse",
    "kron_matmul",
    "kron_slogdet",
    "kron_solve",
    "kron_solve_shifted",
    "leverage_scores",
    "lewis_weights",
    "logsumexp",
    "lp_regression",
    "lstsq",
    "monarch_dft",
    "monarch_fft",
    "monarch_matmul",
    "monarch_project",
    "monarch_solve",
    "natural_gradient",
    "nearest_kron",
    "nystrom",
    "nystrom_columns",
    "philox",
    "pivoted_lu_rows",
    "pivoted_qr",
    "qrcp",
    "random_normal",
    "random_signs",
    "reigh",
    "row_scores",
    "rsvd",
    "rsvd_stacked",
    "sample_rows",
    "set_num_threads",
    "sinkhorn",
    "sketch_apply",
    "sketch_entries",
    "sketch_pattern",
    "soft_impute",
    "softmax",
    "stream_finish",
    "stream_pass",
    "transport_gradient",
    "transport_plan",
    "transport_sparse",
    "two_sided_id",
]
