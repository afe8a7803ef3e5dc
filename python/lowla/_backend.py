"""Which compiled module computes: native (C++), cuda, or numba.

The three export the same functions with the same parameters (`Backend` below). The array decides
(GPU arrays go to cuda), else native, else numba where the compiled module is absent. `use_backend`,
`set_backend` and LOWLA_BACKEND override that, in this order of strength.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lowla._arrays import Cost, Csr, Dense, Payload, Points
    from lowla._results import Array

BackendName: TypeAlias = Literal["native", "cuda", "numba"]
Device: TypeAlias = Literal["host", "cuda"]
Facts: TypeAlias = "dict[str, object]"
Stored: TypeAlias = "npt.NDArray[np.floating | np.uint16]"
Wide: TypeAlias = "npt.NDArray[np.float64]"
Monitor: TypeAlias = Callable[[int, float], bool]
KernelBlock: TypeAlias = "Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Array]"
Queries: TypeAlias = "Sequence[object] | npt.NDArray[np.generic]"
ScoreBlock: TypeAlias = "Callable[[Queries, npt.NDArray[np.int64]], Array]"

NAMES: tuple[BackendName, ...] = ("native", "cuda", "numba")


class Backend(Protocol):
    """The functions that `lowla._native`, `lowla._cuda` and `lowla._numba` all export."""

    def random_normal(self, key: int, stream: int, rows: int, cols: int, dtype: str) -> Array: ...
    def random_signs(self, key: int, stream: int, rows: int, cols: int) -> npt.NDArray[np.int8]: ...
    def philox(self, key: int, counter: tuple[int, int, int, int]) -> npt.NDArray[np.uint32]: ...
    def sketch_entries(self, kind: str, key: int, d: int, n: int, dtype: str) -> Array: ...
    def sketch_pattern(
        self, kind: str, key: int, d: int, n: int, nnz: int, density: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]]: ...
    def sketch_apply(
        self,
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
        self,
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
        self,
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
        self,
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
        self,
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
        self,
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
    def leverage_scores(self, A: Payload, method: str, key: int, check_finite: bool) -> Array: ...
    def lewis_weights(
        self, A: Payload, p: float, tol: float, max_iter: int
    ) -> tuple[Array, Facts]: ...
    def row_scores(
        self, A: Payload, p: float, method: str, key: int, check_finite: bool
    ) -> Array: ...
    def sample_rows(
        self, scores: Array, n_samples: int, p: float, key: int
    ) -> tuple[npt.NDArray[np.int64], Array]: ...
    def lp_regression(
        self,
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
    def kron_matmul(self, factors: Sequence[Dense], X: Dense, conjugate: bool) -> Array: ...
    def kron_diagonal(self, factors: Sequence[Dense]) -> Array: ...
    def kron_slogdet(self, factors: Sequence[Dense]) -> tuple[complex, float]: ...
    def kron_inverse(self, factors: Sequence[Dense]) -> list[Array]: ...
    def kron_solve(self, factors: Sequence[Dense], b: Dense) -> Array: ...
    def kron_eigh(self, factors: Sequence[Dense]) -> tuple[list[Array], list[Array]]: ...
    def kron_solve_shifted(
        self, w: Sequence[Array], V: Sequence[Array], b: Dense, shift: float
    ) -> Array: ...
    def nearest_kron(
        self,
        A: Dense,
        shape1: tuple[int, int],
        shape2: tuple[int, int],
        terms: int,
        key: int,
        check_finite: bool,
    ) -> tuple[Array, Array, Facts]: ...
    def fisher_gram(
        self, shards: Sequence[Stored], block_size: int, mask: npt.NDArray[np.bool_] | None
    ) -> Wide: ...
    def fisher_factor(self, K: Wide, shift: float, head: int) -> Wide: ...
    def fisher_coefficients(self, L: Wide, head: int, R: Wide) -> Wide: ...
    def fisher_dots(self, shards: Sequence[Stored], X: Dense) -> Wide: ...
    def fisher_combine(
        self,
        shards: Sequence[Stored],
        C: Wide,
        X: Dense,
        alpha: float,
        beta: float,
        dtype: str,
    ) -> Array: ...
    def fisher_solve(
        self,
        shards: Sequence[Stored],
        L: Wide,
        head: int,
        block_size: int,
        damp: float,
        X: Dense,
        dtype: str,
    ) -> Array: ...
    def fisher_multiply(
        self, shards: Sequence[Stored], block_size: int, damp: float, X: Dense, dtype: str
    ) -> Array: ...
    def fisher_diagonal(
        self,
        shards: Sequence[Stored],
        L: Wide,
        head: int,
        block_size: int,
        damp: float,
        dtype: str,
    ) -> Array: ...
    def fisher_columns(
        self,
        shards: Sequence[Stored],
        L: Wide,
        head: int,
        block_size: int,
        indices: npt.NDArray[np.int64],
    ) -> Wide: ...
    def fisher_inner(self, W: Wide, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> Wide: ...
    def fisher_cross(self, V: Wide, W: Wide) -> Wide: ...
    def fisher_trace(self, L: Wide, shift: float, width: int) -> tuple[float, float]: ...
    def fisher_push(
        self,
        shards: Sequence[Stored],
        K: Wide,
        L: Wide,
        head: int,
        count: int,
        block_size: int,
        damp: float,
        g: Sequence[Stored],
        refactor: bool,
    ) -> Mapping[str, object]: ...
    def natural_gradient(self, G: Dense, U: Dense, S: Dense, damp: float) -> Array: ...
    def monarch_matmul(
        self, L: Dense, R: Dense, X: Dense, permuted: bool, transpose: bool, conjugate: bool
    ) -> Array: ...
    def monarch_solve(
        self, L: Dense, R: Dense, b: Dense, permuted: bool, transpose: bool, conjugate: bool
    ) -> Array: ...
    def monarch_project(
        self, W: Dense, k: int, l: int, check_finite: bool
    ) -> tuple[Array, Array, float]: ...
    def monarch_dft(self, n: int, k: int, dtype: str) -> tuple[Array, Array]: ...
    def monarch_fft(self, x: Dense, n: int, inverse: bool) -> Array: ...
    def fftconv(self, u: Dense, k: Dense, mask: Dense | None) -> Array: ...
    def sinkhorn(
        self,
        a: Array,
        b: Array,
        cost: Cost,
        reg: float,
        method: str,
        tol: float,
        max_iter: int,
        warmup: int,
        sparsity: float,
        f0: Array | None,
        g0: Array | None,
        check_finite: bool,
        monitor: Monitor | None,
    ) -> tuple[Array, Array, Facts]: ...
    def transport_plan(self, cost: Cost, f: Array, g: Array, reg: float) -> Array: ...
    def transport_sparse(
        self, cost: Cost, f: Array, g: Array, reg: float, threshold: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Array]: ...
    def transport_gradient(
        self, cost: Points, f: Array, g: Array, reg: float
    ) -> tuple[Array, Array]: ...
    def complete(
        self,
        M: Csr,
        weights: Array | None,
        k: int,
        method: str,
        loss: str,
        solver: str,
        bias: bool,
        nonnegative: bool,
        reg: float,
        n_iter: int,
        tol: float,
        init: str,
        U0: Array | None,
        V0: Array | None,
        key: int,
        check_finite: bool,
        monitor: Monitor | None,
    ) -> tuple[Array, Array, float, Array | None, Array | None, Facts]: ...
    def completion_holdout(self, M: Csr, fraction: float, key: int) -> npt.NDArray[np.bool_]: ...
    def completion_predict(
        self,
        U: Array,
        V: Array,
        mean: float,
        row_bias: Array | None,
        col_bias: Array | None,
        rows: npt.NDArray[np.int64],
        cols: npt.NDArray[np.int64],
    ) -> Array: ...
    def completion_rmse(
        self,
        M: Csr,
        weights: Array | None,
        U: Array,
        V: Array,
        mean: float,
        row_bias: Array | None,
        col_bias: Array | None,
    ) -> float: ...
    def completion_svd(self, U: Array, V: Array) -> tuple[Array, Array, Array]: ...
    def soft_impute(
        self,
        M: Csr,
        lam: float,
        rank_max: int,
        n_iter: int,
        tol: float,
        key: int,
        check_finite: bool,
        monitor: Monitor | None,
    ) -> tuple[Array, Array, Facts]: ...
    def logsumexp(self, X: Dense) -> Array: ...
    def softmax(self, X: Dense) -> Array: ...
    def pivoted_qr(
        self, Y: Dense, k: int, tol: float
    ) -> tuple[npt.NDArray[np.int64], Array, int]: ...
    def pivoted_lu_rows(self, Y: Dense, k: int) -> npt.NDArray[np.int64]: ...
    def qrcp(
        self,
        A: Payload,
        k: int,
        tol: float,
        oversample: int,
        sketch: str,
        key: int,
        check_finite: bool,
    ) -> tuple[Array, Array, npt.NDArray[np.int64], Facts]: ...
    def interp_decomp(
        self,
        A: Payload,
        k: int,
        eps: float,
        method: str,
        oversample: int,
        bound: float,
        sketch: str,
        key: int,
        check_finite: bool,
    ) -> tuple[npt.NDArray[np.int64], Array, Facts]: ...
    def two_sided_id(
        self,
        A: Payload,
        k: int,
        eps: float,
        method: str,
        oversample: int,
        bound: float,
        sketch: str,
        key: int,
        check_finite: bool,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array, Array, Facts]: ...
    def cur(
        self,
        A: Payload,
        k: int,
        tol: float,
        method: str,
        middle: str,
        oversample: int,
        sketch: str,
        key: int,
        check_finite: bool,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array, Facts]: ...
    def cr_select(
        self, A: Payload, B: Payload, k: int, method: str, key: int, check_finite: bool
    ) -> tuple[npt.NDArray[np.int64], Array, Facts]: ...
    def nystrom_columns(
        self,
        K: Dense | KernelBlock,
        diagonal: Wide,
        k: int,
        method: str,
        reg: float,
        dtype: str,
        key: int,
        check_finite: bool,
    ) -> tuple[npt.NDArray[np.int64], Array, Facts]: ...
    def index_anchors(self, E: Dense, n_anchors: int) -> npt.NDArray[np.int64]: ...
    def index_query(
        self, E: Dense, anchors: npt.NDArray[np.int64], known: Dense, reg: float, k: int
    ) -> tuple[npt.NDArray[np.int64], Array]: ...
    def index_search(
        self,
        E: Dense,
        anchors: npt.NDArray[np.int64],
        score: ScoreBlock,
        queries: Queries,
        k: int,
        budget: int,
        rounds: int,
        reg: float,
    ) -> tuple[npt.NDArray[np.int64], Array, Facts]: ...
    def stream_pass(self, A: Payload, X: Array) -> tuple[Array, Array, float]: ...
    def stream_finish(
        self, Y: Array, Z: Array, norm2: float, k: int
    ) -> tuple[Array, Array, Array, Facts]: ...
    def set_num_threads(self, n: int) -> None: ...
    def get_num_threads(self) -> int: ...
    def features(self) -> dict[str, str | int | bool]: ...


class Direct(Protocol):
    """Functions for exact `numpy.ndarray`s of one dtype: None where the usual intake is needed."""

    def kron_matmul(self, factors: object, X: object, out: object) -> Array | None: ...
    def monarch_matmul(self, L: object, R: object, X: object, out: object) -> Array | None: ...


_requested: ContextVar[BackendName | None] = ContextVar("lowla_backend", default=None)
# Read once: to look it up takes a fifth of the time of the smallest product.
_environment = os.environ.get("LOWLA_BACKEND") or None


def _checked(name: str, source: str) -> BackendName:
    for known in NAMES:
        if name == known:
            return known
    raise ValueError(f"{source} must be one of {', '.join(map(repr, NAMES))}, got {name!r}")


def set_backend(name: BackendName | None) -> None:
    """Choose the backend for this thread (this `contextvars` context) from now on.

    Parameters
    ----------
    name : {"native", "cuda", "numba"} or None
        None goes back to the automatic choice.

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If the backend is not available here; the message says why.
    """
    if name is not None:
        load(_checked(name, "name"))
    _requested.set(name)


@contextmanager
def use_backend(name: BackendName) -> Iterator[None]:
    """Choose the backend inside a `with` block.

    `"cuda"` with arrays in main memory copies them to the GPU and the results back.

    Parameters
    ----------
    name : {"native", "cuda", "numba"}

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If the backend is not available here; the message says why.

    Examples
    --------
    >>> import lowla
    >>> with lowla.use_backend("numba"):
    ...     lowla.get_backend()
    'numba'
    """
    load(_checked(name, "name"))
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


def get_backend() -> BackendName:
    """The backend that computes for arrays in main memory.

    Returns
    -------
    {"native", "cuda", "numba"}
    """
    return select("host")[0]


def _asked() -> BackendName | None:
    name = _requested.get()
    if name is None and _environment is not None:
        name = _checked(_environment, "the environment variable LOWLA_BACKEND")
    return name


def select(device: Device) -> tuple[BackendName, Backend]:
    """The backend for an array that lives on `device`."""
    name = _asked()
    if name is None:
        host: BackendName = "native" if why_not("native") is None else "numba"
        name = "cuda" if device == "cuda" else host
    elif device == "cuda" and name != "cuda":
        raise TypeError(
            f"backend {name!r} takes arrays in main memory, got an array on the GPU: copy it "
            "there yourself (cupy.asnumpy(A), tensor.cpu()) or use the backend 'cuda'"
        )
    return name, load(name)


def direct() -> Direct | None:
    """The calls of least overhead, unless a backend other than native is asked for."""
    if _environment is not None or _requested.get() not in (None, "native"):
        return None
    return _direct()


@functools.cache
def _direct() -> Direct | None:
    module, _ = _native()
    return None if module is None else cast(Direct, module._direct)


# Functions that so far the compiled modules may lack.
NUMBA_ONLY = frozenset(
    {
        "cr_select",
        "fftconv",
        "index_anchors",
        "index_query",
        "index_search",
        "kron_diagonal",
        "kron_eigh",
        "kron_inverse",
        "kron_slogdet",
        "kron_solve",
        "monarch_dft",
        "monarch_fft",
        "monarch_solve",
        "nearest_kron",
        "nystrom_columns",
    }
)


def select_for(function: str, device: Device) -> tuple[BackendName, Backend]:
    """`select`, or numba where the compiled module does not have the function yet."""
    return _with(function, *select(device))


def select_held(function: str, device: Device) -> tuple[BackendName, Backend]:
    """The backend for what an object holds on `device`: asking for cuda does not move it."""
    if device == "host" and _asked() == "cuda":
        host: BackendName = "native" if why_not("native") is None else "numba"
        return _with(function, host, load(host))
    return select_for(function, device)


def _with(function: str, name: BackendName, backend: Backend) -> tuple[BackendName, Backend]:
    if lacks(name, function) and not hasattr(backend, function):
        return numba_instead_of(name, function)
    return name, backend


def lacks(name: BackendName, function: str) -> bool:
    """Whether the backend may do without that function so far."""
    return name != "numba" and function in NUMBA_ONLY


def numba_instead_of(name: BackendName, what: str) -> tuple[BackendName, Backend]:
    """numba, for what the compiled modules do not have yet; it takes no arrays on the GPU."""
    if name == "cuda":
        raise NotImplementedError(f"{what} does not run on the GPU yet: pass host arrays")
    return "numba", load("numba")


def load(name: BackendName) -> Backend:
    """The module of that name, imported at first use; RuntimeError saying why it cannot be."""
    module, reason = _LOADERS[name]()
    if module is None:
        raise RuntimeError(f"backend {name!r} is not available: {reason}")
    return cast(Backend, module)


def why_not(name: BackendName) -> str | None:
    """Why a backend is not available, or None if it is."""
    return _LOADERS[name]()[1]


_Loaded: TypeAlias = "tuple[ModuleType, None] | tuple[None, str]"


@functools.cache
def _native() -> _Loaded:
    try:
        return importlib.import_module("lowla._native"), None
    except ModuleNotFoundError as error:
        if error.name != "lowla._native":
            return None, str(error)
        return None, "lowla was installed without its compiled module (no C++ compiler)"
    except ImportError as error:
        return None, str(error)


@functools.cache
def _cuda() -> _Loaded:
    try:
        module = importlib.import_module("lowla._cuda")
    except ModuleNotFoundError as error:
        if error.name != "lowla._cuda":
            return None, str(error)
        return None, "lowla was built without CUDA (no nvcc was found)"
    except ImportError as error:
        return None, str(error)
    if not module.features().get("devices", 0):
        return None, "there is no CUDA device (or no driver for it)"
    try:
        importlib.import_module("cupy")
    except ImportError:
        return None, "it needs CuPy: pip install 'lowla[cuda13]' (or 'lowla[cuda12]')"
    return module, None


@functools.cache
def _numba() -> _Loaded:
    try:
        module = importlib.import_module("lowla._numba")
    except ImportError as error:
        return None, str(error)
    if _threads is not None:
        module.set_num_threads(_threads)
    return module, None


_LOADERS: dict[BackendName, Callable[[], _Loaded]] = {
    "native": _native,
    "cuda": _cuda,
    "numba": _numba,
}

# What set_num_threads last asked for, for a backend that is loaded later.
_threads: int | None = None


def set_num_threads(n: int) -> None:
    """Let lowla's parallel loops use up to `n` threads, in every backend.

    The default is the environment variable LOWLA_NUM_THREADS, else the CPUs that this process may
    run on. Results do not depend on the number of threads.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an int, or below 1.
    """
    global _threads  # noqa: PLW0603
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an int, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _threads = int(n)
    if why_not("native") is None:
        load("native").set_num_threads(_threads)
    if _numba.cache_info().currsize and why_not("numba") is None:
        load("numba").set_num_threads(_threads)


def get_num_threads() -> int:
    """The number of threads that lowla's parallel loops may use.

    Returns
    -------
    int
    """
    return load("native" if why_not("native") is None else "numba").get_num_threads()
