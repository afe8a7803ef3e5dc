"""The compiled CPU backend; `lowla._backend.Backend` says what each function does."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lowla._arrays import Dense, Payload
from lowla._backend import Facts, Monitor
from lowla._results import Array

def random_normal(key: int, stream: int, rows: int, cols: int, dtype: str) -> Array: ...
def random_signs(key: int, stream: int, rows: int, cols: int) -> npt.NDArray[np.int8]: ...
def philox(key: int, counter: tuple[int, int, int, int]) -> npt.NDArray[np.uint32]: ...
def sketch_entries(kind: str, key: int, d: int, n: int, dtype: str) -> Array: ...
def sketch_pattern(
    kind: str, key: int, d: int, n: int, nnz: int, density: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]]: ...
def sketch_apply(
    kind: str,
    key: int,
    d: int,
    n: int,
    nnz: int,
    density: float,
    A: Payload,
    adjoint: bool,
) -> Array: ...
def rsvd(
    A: Payload,
    k: int,
    tol: float,
    oversample: int,
    n_iter: int,
    method: str,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor | None,
) -> tuple[Array, Array, Array, Facts]: ...
def rsvd_stacked(
    A: Dense,
    k: int,
    oversample: int,
    n_iter: int,
    method: str,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor | None,
) -> tuple[Array, Array, Array, Facts]: ...
def nystrom(
    A: Payload,
    k: int,
    oversample: int,
    n_iter: int,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor | None,
) -> tuple[Array, Array, Facts]: ...
def reigh(
    A: Payload,
    k: int,
    which: str,
    oversample: int,
    n_iter: int,
    sketch: str,
    key: int,
    check_finite: bool,
    monitor: Monitor | None,
) -> tuple[Array, Array, Facts]: ...
def lstsq(
    A: Payload,
    b: Dense,
    rcond: float,
    method: str,
    sketch: str,
    damp: float,
    tol: float,
    max_iter: int,
    rows: int,
    key: int,
    check_finite: bool,
    monitor: Monitor | None,
) -> tuple[Array, Array, int, Array, Facts]: ...
def leverage_scores(A: Payload, method: str, key: int, check_finite: bool) -> Array: ...
def lewis_weights(A: Payload, p: float, tol: float, max_iter: int) -> tuple[Array, Facts]: ...
def row_scores(A: Payload, p: float, method: str, key: int, check_finite: bool) -> Array: ...
def sample_rows(
    scores: Array, n_samples: int, p: float, key: int
) -> tuple[npt.NDArray[np.int64], Array]: ...
def lp_regression(
    A: Payload,
    b: Dense,
    p: float,
    method: str,
    rows: int,
    tol: float,
    max_iter: int,
    key: int,
    check_finite: bool,
    monitor: Monitor | None,
) -> tuple[Array, Facts]: ...
def kron_matmul(factors: Sequence[Array], X: Array, conjugate: bool) -> Array: ...
def kron_solve_shifted(w: Sequence[Array], V: Sequence[Array], b: Array, shift: float) -> Array: ...
def monarch_matmul(
    L: Array, R: Array, X: Array, permuted: bool, transpose: bool, conjugate: bool
) -> Array: ...
def monarch_project(W: Array, k: int, l: int, check_finite: bool) -> tuple[Array, Array, float]: ...
def stream_pass(A: Payload, X: Array) -> tuple[Array, Array, float]: ...
def stream_finish(
    Y: Array, Z: Array, norm2: float, k: int
) -> tuple[Array, Array, Array, Facts]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def features() -> dict[str, str | int | bool]: ...
