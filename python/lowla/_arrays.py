"""Array intake: everything a caller may pass, brought to the three forms the backends take.

A backend sees a dense array (2-D or stacked), a CSR tuple, or an object with `matmat` and
`rmatmat`. NumPy arrays, CuPy arrays, torch tensors and whatever speaks DLPack go in without a copy,
strided, Fortran-ordered and read-only ones too; `Matrix.wrap` gives results back as the caller's
kind. Foreign libraries are recognised by the module of the type and never imported here, except
CuPy where the data is on a GPU.

Copied are: integers and bool (float64), float16 and bfloat16 (float32), longdouble (float64) and
clongdouble (complex128), byte-swapped and unaligned data, strides that are no multiple of the item
size, and sparse formats other than CSR.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lowla._backend import BackendName, Device
from lowla._results import Array


class SupportsDLPack(Protocol):
    """CuPy arrays, torch tensors, and every other array that exports DLPack."""

    def __dlpack_device__(self) -> tuple[Any, int]: ...


class SupportsMatmat(Protocol):
    """A linear operator: `scipy.sparse.linalg.LinearOperator`, pylops, or one's own."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def matmat(self, X: Array, /) -> Array: ...
    def rmatmat(self, X: Array, /) -> Array: ...


class SupportsMatvec(Protocol):
    """A linear operator that multiplies one vector at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def matvec(self, x: Array, /) -> Array: ...
    def rmatvec(self, x: Array, /) -> Array: ...


class SupportsToCsr(Protocol):
    """`scipy.sparse` arrays and matrices."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def tocsr(self) -> object: ...


ArrayLike: TypeAlias = "npt.ArrayLike | SupportsDLPack"
MatrixLike: TypeAlias = "ArrayLike | SupportsToCsr | SupportsMatmat | SupportsMatvec"

Dense: TypeAlias = Array
Points: TypeAlias = "tuple[Dense, Dense, str]"
"""X (m, d), Y (n, d) and the metric: the cost matrix (m, n) of a transport problem, not formed."""
Cost: TypeAlias = "Dense | Points"
Csr: TypeAlias = "tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], Array, tuple[int, int]]"


class Operator(Protocol):
    """What a backend may ask of an operator."""

    shape: tuple[int, int]
    dtype: np.dtype[np.inexact]

    def matmat(self, X: Array) -> Array: ...
    def rmatmat(self, X: Array) -> Array: ...


Payload: TypeAlias = "Dense | Csr | Operator"
Kind: TypeAlias = Literal["dense", "csr", "operator"]


@dataclass(frozen=True)
class Matrix:
    """A matrix as the backends take it, and the way back to the caller's kind of array."""

    kind: Kind
    payload: Payload
    shape: tuple[int, ...]
    dtype: np.dtype[np.inexact]
    device: Device
    wrap: Callable[[Array], Array]

    @property
    def dense(self) -> Dense:
        return cast(Dense, self.payload)

    @property
    def csr(self) -> Csr:
        return cast(Csr, self.payload)

    def for_backend(self, name: BackendName) -> Matrix:
        """This matrix where the backend of that name computes."""
        return self.on("cuda" if name == "cuda" else "host")

    def on(self, device: Device) -> Matrix:
        """This matrix for a backend that computes on `device` (the caller asked for it by name)."""
        if device == self.device:
            return self
        cupy = _cupy()
        payload: Payload
        if self.kind == "dense":
            payload = cupy.asarray(self.dense)
        elif self.kind == "csr":
            indptr, indices, data, shape = self.csr
            payload = (cupy.asarray(indptr), cupy.asarray(indices), cupy.asarray(data), shape)
        else:
            payload = _HostOperatorOnGpu(cast(Operator, self.payload))
        back = self.wrap
        return replace(
            self, payload=payload, device=device, wrap=lambda result: back(cupy.asnumpy(result))
        )

    def current_device(self) -> AbstractContextManager[object]:
        """Makes the GPU that holds the data the current one."""
        if self.device == "host" or self.kind == "operator":
            return nullcontext()
        array = self.csr[2] if self.kind == "csr" else self.dense
        return cast("AbstractContextManager[object]", cast(Any, array).device)

    def wrap_host(self, a: Array) -> Array:
        """A result in main memory as the caller's kind of array, where this matrix is."""
        with self.current_device():
            return self.wrap(cast(Array, placed(a, self.device)))

    @property
    def real_dtype(self) -> np.dtype[np.inexact]:
        return np.dtype(self.dtype.char.lower())

    def empty(self, *shape: int, real: bool = False) -> Array:
        """Zeros of this matrix's dtype (or its real part's), as the caller's kind."""
        return self.wrap(self.scratch(*shape, real=real))

    def scratch(self, *shape: int, real: bool = False) -> Array:
        """The same zeros as the backends take them."""
        xp = np if self.device == "host" else _cupy()
        return cast(Array, xp.zeros(shape, self.real_dtype if real else self.dtype))


def matrix(
    A: MatrixLike,
    name: str = "A",
    *,
    stacked: bool = False,
    operator: bool = True,
) -> Matrix:
    """Take in a matrix; with `stacked` also a dense (..., m, n).

    Raises TypeError for what is no numeric array (or an operator where entries are needed) and
    ValueError for a wrong number of dimensions.
    """
    taken = _take(cast(Any, A), name)
    if taken.kind == "operator" and not operator:
        raise TypeError(f"{name} must be an array or a sparse matrix, got a linear operator")
    ndim = len(taken.shape)
    if ndim < 2 or (ndim > 2 and not stacked):
        need = "at least 2 dimensions" if stacked else "2 dimensions"
        raise ValueError(f"{name} must have {need}, got shape {taken.shape}")
    return taken


def right_side(b: ArrayLike, A: Matrix, name: str = "b") -> Matrix:
    """Take in the dense right-hand side b, (m,) or (m, r), that belongs to A (m, n).

    Raises TypeError for what is no numeric array or lives elsewhere than A, ValueError for a shape
    that does not fit.
    """
    taken = _take(cast(Any, b), name)
    if taken.kind != "dense":
        raise TypeError(f"{name} must be a dense array, got {type(b).__name__}")
    if len(taken.shape) not in (1, 2):
        raise ValueError(f"{name} must have 1 or 2 dimensions, got shape {taken.shape}")
    if taken.shape[0] != A.shape[0]:
        raise ValueError(f"{name} must have A.shape[0] = {A.shape[0]} rows, got {taken.shape}")
    if taken.device != A.device:
        raise TypeError(f"A and {name} must both be in main memory or both on the GPU")
    return taken


def dense(A: ArrayLike, name: str, dims: tuple[int, ...] = ()) -> Matrix:
    """Take in a dense array whose number of dimensions is one of `dims`, or at least 1.

    Raises TypeError for what is no numeric dense array and ValueError for other dimensions.
    """
    taken = _take(cast(Any, A), name)
    if taken.kind != "dense":
        raise TypeError(f"{name} must be a dense array, got {type(A).__name__}")
    if not dims and not taken.shape:
        raise ValueError(f"{name} must have at least 1 dimension, got a scalar")
    if dims and len(taken.shape) not in dims:
        need = " or ".join(map(str, dims)) + (" dimension" if dims == (1,) else " dimensions")
        raise ValueError(f"{name} must have {need}, got shape {taken.shape}")
    return taken


def into(out: Array | None, result: Array) -> Array:
    """The result itself, or `out` with the result in it.

    Raises TypeError for an `out` of another kind or dtype, ValueError for another shape or one that
    cannot be written to.
    """
    if out is None:
        return result
    if not isinstance(out, type(result)):
        raise TypeError(f"out must be a {_type_name(result)}, got {_type_name(out)}")
    if out.dtype != result.dtype:
        raise TypeError(f"out must be {result.dtype} as the result, got {out.dtype}")
    if out.shape != result.shape:
        raise ValueError(
            f"out must have the shape of the result, {tuple(result.shape)}, got {tuple(out.shape)}"
        )
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("out is read-only")
    out[...] = result
    return out


def _type_name(a: object) -> str:
    return f"{type(a).__module__}.{type(a).__name__}"


@dataclass(frozen=True)
class Stored:
    """A dense real array in the dtype that it is stored in; `dtype` is the one computed in."""

    payload: npt.NDArray[Any]
    """float64, float32, float16, or uint16: the bits of bfloat16."""
    original: object
    dtype: np.dtype[np.inexact]
    device: Device
    wrap: Callable[[Array], Array]
    """Results, in `dtype`, as the caller's kind."""
    restore: Callable[[Any], object]
    """Arrays like `payload` as the caller's kind, in the dtype of the original."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.payload.shape

    def for_backend(self, name: BackendName) -> Stored:
        """This array where the backend of that name computes."""
        device: Device = "cuda" if name == "cuda" else "host"
        if device == self.device:
            return self
        cupy, wrap, restore = _cupy(), self.wrap, self.restore
        return replace(
            self,
            payload=cupy.asarray(self.payload),
            device=device,
            wrap=lambda result: wrap(cupy.asnumpy(result)),
            restore=lambda held: restore(cupy.asnumpy(held)),
        )

    def current_device(self) -> AbstractContextManager[object]:
        """Makes the GPU that holds the data the current one."""
        if self.device == "host":
            return nullcontext()
        return cast("AbstractContextManager[object]", cast(Any, self.payload).device)

    def place(self, a: Any) -> Any:
        """An array in main memory, where this one is."""
        with self.current_device():
            return placed(a, self.device)

    def zeros(self, *shape: int) -> npt.NDArray[Any]:
        """Zeros like the entries of this array, and where it is."""
        xp = np if self.device == "host" else _cupy()
        with self.current_device():
            return cast("npt.NDArray[Any]", xp.zeros(shape, self.payload.dtype))


def stored(A: ArrayLike, name: str) -> Stored:
    """Take in a dense real array whose entries only need to be read: float16 and bfloat16 stay.

    Raises TypeError for what is no real numeric dense array.
    """
    roots = _roots(A)
    half = _torch_half(A) if "torch" in roots else _half(A, roots)
    if half is not None:
        return half
    taken = _take(cast(Any, A), name)
    if taken.kind != "dense":
        raise TypeError(f"{name} must be a dense array, got {type(A).__name__}")
    if taken.dtype.kind == "c":
        raise TypeError(f"{name} must be real, got dtype {taken.dtype}")
    original = A if hasattr(A, "shape") else taken.dense
    return Stored(taken.dense, original, taken.dtype, taken.device, taken.wrap, taken.wrap)


def _half(A: Any, roots: set[str]) -> Stored | None:
    """float16 and bfloat16 (of ml_dtypes) arrays of NumPy and CuPy."""
    on_gpu = "cupy" in roots
    if not on_gpu and (not isinstance(A, np.ndarray) or isinstance(A, np.ma.MaskedArray)):
        return None
    dtype = A.dtype
    if dtype.kind == "f" and dtype.itemsize == 2:
        payload = _readable(A.astype(np.float16, copy=False))
        restore: Callable[[Any], object] = _same
    elif dtype.name == "bfloat16":
        payload = _readable(A.view(np.uint16))

        def restore(bits: Any) -> object:
            return bits.view(dtype)
    else:
        return None
    device: Device = "cuda" if on_gpu else "host"
    return Stored(payload, A, np.dtype(np.float32), device, _same, restore)


def _torch_half(A: Any) -> Stored | None:
    torch = sys.modules["torch"]
    usual = A.layout == torch.strided and A.device.type in ("cpu", "cuda")
    if not usual or A.dtype not in (torch.float16, torch.bfloat16):
        return None
    from_dlpack = np.from_dlpack if A.device.type == "cpu" else _cupy().from_dlpack
    device: Device = "host" if A.device.type == "cpu" else "cuda"
    payload, restore = A.detach(), torch.from_dlpack
    if A.dtype == torch.bfloat16:
        payload = payload.view(torch.int16)

        def restore(bits: Any) -> object:
            return torch.from_dlpack(bits.view(np.int16)).view(torch.bfloat16)

    payload = from_dlpack(payload)
    if A.dtype == torch.bfloat16:
        payload = payload.view(np.uint16)
    return Stored(payload, A, np.dtype(np.float32), device, torch.from_dlpack, restore)


def stored_bits(payload: npt.NDArray[Any]) -> Stored:
    """NumPy arrays that are in storage form already; bfloat16 goes back as float32."""
    if payload.dtype != np.uint16:
        return stored(payload, "payload")
    single = np.dtype(np.float32)
    return Stored(payload, bfloat16_to_float32(payload), single, "host", _same, bfloat16_to_float32)


def with_payload(S: Stored, payload: npt.NDArray[Any]) -> Stored:
    """A part of S."""
    return replace(S, payload=payload)


def stored_is_finite(S: Stored) -> bool:
    """No NaN and no Inf; reads slabs of columns, so that nothing of the size of S is made."""
    a = S.payload if S.payload.ndim == 2 else S.payload[None]
    step = max(1, (1 << 20) // max(a.shape[0], 1))
    for start in range(0, a.shape[1], step):
        part = a[:, start : start + step]
        finite = part & 0x7F80 != 0x7F80 if a.dtype == np.uint16 else np.isfinite(part)
        if not finite.all():
            return False
    return True


def rounded_to(S: Stored, like: Stored, name: str) -> npt.NDArray[Any]:
    """The payload of S rounded to the storage dtype of another; ValueError where it overflows."""
    dtype = like.payload.dtype
    if S.payload.dtype == dtype:
        return S.payload
    with np.errstate(over="ignore"):
        single = bfloat16_to_float32(S.payload) if S.payload.dtype == np.uint16 else S.payload
        rounded = float32_to_bfloat16(single) if dtype == np.uint16 else single.astype(dtype)
    found = replace(S, payload=rounded)
    if not stored_is_finite(found):
        raise ValueError(
            f"{name} overflows {'bfloat16' if dtype == np.uint16 else dtype}, in which the "
            "gradients are stored"
        )
    return found.payload


def bfloat16_to_float32(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The numbers whose bits as bfloat16 are given."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(a: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers, ties to even; `a` is first rounded to float32."""
    bits = a.astype(np.float32, order="C", copy=False).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def together(operands: Sequence[Matrix], names: str) -> list[Matrix]:
    """Dense operands of one product in their common dtype; they must live in one place."""
    first, *others = operands
    if all(M.dtype == first.dtype and M.device == first.device for M in others):
        return list(operands)
    if any(M.device != first.device for M in others):
        raise TypeError(f"{names} must all be in main memory or all on the GPU")
    dtype = cast("np.dtype[np.inexact]", np.result_type(*(M.dtype for M in operands)))
    return [cast_to(M, dtype, names) for M in operands]


def require_finite(M: Matrix, name: str) -> None:
    """ValueError if there is a NaN or Inf among the entries."""
    if not is_finite(M):
        raise ValueError(f"{name} contains NaN or Inf")


def as_columns(b: Matrix) -> Matrix:
    """A vector as a matrix of one column, no columns as one of zeros, a matrix as it is."""
    if len(b.shape) == 2 and b.shape[1]:
        return b
    payload = b.dense[:, None] if len(b.shape) == 1 else b.scratch(b.shape[0], 1)
    return replace(b, payload=payload, shape=(b.shape[0], 1))


def column_norms(b: Matrix) -> Array:
    """The 2-norm of each column of dense `b`."""
    return cast(Array, (abs(b.dense) ** 2).sum(axis=0) ** 0.5)


def _roots(A: object) -> set[str]:
    """The packages that the classes of A come from."""
    return {c.__module__.partition(".")[0] for c in type(A).__mro__}


def _take(A: Any, name: str) -> Matrix:
    if type(A) is np.ndarray:
        return _host(A, name)
    roots = _roots(A)
    if "dask" in roots:
        raise TypeError(
            f"{name} is a Dask array, which lowla does not take yet: pass {name}.compute(), or "
            "feed its blocks of rows to lowla.StreamingSVD"
        )
    if "torch" in roots:
        return _torch(A, name)
    if "cupy" in roots or hasattr(A, "__cuda_array_interface__"):
        return _gpu(_cupy().asarray(A), name)
    if callable(getattr(A, "tocsr", None)):
        return _csr(A, name, "cuda" if "cupyx" in roots else "host")
    if hasattr(A, "shape") and (hasattr(A, "matmat") or hasattr(A, "matvec")):
        return _operator(A, name, "cuda" if "cupyx" in roots else "host")
    if isinstance(A, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill it ({name}.filled(0)) first")
    if hasattr(A, "__dlpack_device__") and not hasattr(A, "__array_interface__"):
        return _dlpack(A, name)
    return _host(np.asarray(A), name)


def _compute_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[np.inexact]:
    """The dtype that data of `dtype` is computed in."""
    if dtype.kind in "biu" or dtype == np.longdouble:
        return np.dtype(np.float64)
    if dtype == np.clongdouble:
        return np.dtype(np.complex128)
    if dtype == np.float16 or dtype.name == "bfloat16":
        return np.dtype(np.float32)
    if dtype.kind in "fc":
        return cast("np.dtype[np.inexact]", dtype.newbyteorder("="))
    raise TypeError(f"{name} must be numeric, got dtype {dtype}")


def _computable(a: Any, name: str) -> Any:
    """`a` itself where a backend can read it, else a converted copy."""
    dtype = _compute_dtype(a.dtype, name)
    return a.astype(dtype) if a.dtype != dtype else _readable(a)


def _readable(a: Any) -> Any:
    """`a` itself if it is aligned and its strides are whole numbers of entries, else a copy."""
    strided = all(
        step % a.itemsize == 0 for step, size in zip(a.strides, a.shape, strict=True) if size > 1
    )
    return a if strided and getattr(a.flags, "aligned", True) else a.copy()


def _same(result: Array) -> Array:
    return result


def _dense(a: Any, device: Device, wrap: Callable[[Array], Array]) -> Matrix:
    return Matrix("dense", a, tuple(a.shape), a.dtype, device, wrap)


def _host(a: npt.NDArray[Any], name: str) -> Matrix:
    flags, dtype = a.flags, a.dtype
    if dtype.char in "fdFD" and dtype.isnative and flags.forc and flags.aligned:
        return _dense(a, "host", _same)  # as nearly all are
    return _dense(_computable(a, name), "host", _same)


def _gpu(a: Any, name: str) -> Matrix:
    return _dense(_computable(a, name), "cuda", _same)


def _dlpack(A: Any, name: str) -> Matrix:
    """Any other array of the array-API standard; results go back to its own library."""
    on_cpu = int(A.__dlpack_device__()[0]) == 1
    namespace = getattr(A, "__array_namespace__", None)
    wrap: Callable[[Array], Array] = _same if namespace is None else namespace().from_dlpack
    if on_cpu:
        return replace(_host(np.from_dlpack(A), name), wrap=wrap)
    return replace(_gpu(_cupy().from_dlpack(A), name), wrap=wrap)


def _torch(A: Any, name: str) -> Matrix:
    torch = sys.modules["torch"]
    if A.device.type not in ("cpu", "cuda"):
        raise TypeError(f"{name} must be on the CPU or a CUDA device, got device {A.device}")
    A = A.detach()
    if A.dtype.is_floating_point and A.dtype.itemsize < 4:
        A = A.to(torch.float32)
    elif A.dtype.is_complex and A.dtype.itemsize < 8:
        A = A.to(torch.complex64)
    elif not (A.dtype.is_floating_point or A.dtype.is_complex):
        A = A.to(torch.float64)
    from_dlpack = np.from_dlpack if A.device.type == "cpu" else _cupy().from_dlpack
    device: Device = "host" if A.device.type == "cpu" else "cuda"
    if A.layout == torch.sparse_csr:
        parts = (A.crow_indices(), A.col_indices(), A.values())
        indptr, indices, data = (from_dlpack(part) for part in parts)
        payload = _checked_csr(indptr, indices, data, tuple(A.shape), name)
        dtype = _compute_dtype(data.dtype, name)
        return Matrix("csr", payload, tuple(A.shape), dtype, device, torch.from_dlpack)
    if A.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense or CSR tensor, got layout {A.layout}: pass "
            f"{name}.to_sparse_csr()"
        )
    a = from_dlpack(A.resolve_conj().resolve_neg())
    return _dense(a, device, torch.from_dlpack)


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(
            "arrays on the GPU need CuPy: pip install 'lowla[cuda13]' (or 'lowla[cuda12]')"
        ) from error


def _csr(A: Any, name: str, device: Device) -> Matrix:
    shape = tuple(int(size) for size in A.shape)
    _compute_dtype(A.dtype, name)
    if len(shape) != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {shape}")
    A = A.tocsr()
    data = _computable(A.data, name)
    payload = _checked_csr(A.indptr, A.indices, data, shape, name)
    return Matrix("csr", payload, shape, data.dtype, device, _same)


def _checked_csr(indptr: Any, indices: Any, data: Any, shape: Any, name: str) -> Csr:
    """The CSR tuple, safe to follow: pointers ascend, indices lie in the matrix."""
    if len(shape) != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {shape}")
    m, n = shape
    if indptr.dtype != indices.dtype or indices.dtype.itemsize < 4:
        indptr, indices = indptr.astype(np.int64), indices.astype(np.int64)
    stored = int(indptr[-1]) if len(indptr) == m + 1 else -1
    unsigned = f"uint{8 * indices.dtype.itemsize}"  # a negative index is a huge unsigned one
    if (
        stored < 0
        or stored > min(len(indices), len(data))
        or int(indptr[0]) != 0
        or (indptr[1:] < indptr[:-1]).any()
        or (stored and int(indices[:stored].view(unsigned).max()) >= n)
    ):
        raise ValueError(f"{name} is not a valid CSR matrix of shape {(m, n)}")
    return indptr, indices, data, (m, n)


def _operator(A: Any, name: str, device: Device) -> Matrix:
    shape = tuple(int(size) for size in A.shape)
    declared = getattr(A, "dtype", None)
    dtype = _compute_dtype(np.dtype(np.float64 if declared is None else declared), name)
    xp = np if device == "host" else _cupy()
    products = _Products(A, name, cast("tuple[int, int]", shape), dtype, xp)
    return Matrix("operator", products, shape, dtype, device, _same)


class _Products:
    """A caller's operator, each product checked for shape and dtype."""

    def __init__(
        self, A: Any, name: str, shape: tuple[int, int], dtype: np.dtype[np.inexact], xp: Any
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._A = A
        self._name = name
        self._xp = xp

    def matmat(self, X: Array) -> Array:
        return self._product("matmat", "matvec", X, self.shape[0])

    def rmatmat(self, X: Array) -> Array:
        return self._product("rmatmat", "rmatvec", X, self.shape[1])

    def _product(self, block: str, single: str, X: Array, rows: int) -> Array:
        xp = self._xp
        try:
            if hasattr(self._A, block):
                Y = xp.asarray(getattr(self._A, block)(X))
            elif hasattr(self._A, single):
                columns = [xp.asarray(getattr(self._A, single)(x)).reshape(-1) for x in X.T]
                Y = xp.stack(columns, axis=1)
            else:
                raise NotImplementedError
        except (NotImplementedError, TypeError) as error:
            # SciPy's operator without an adjoint calls None.
            if isinstance(error, TypeError) and "'NoneType' object is not callable" not in str(
                error
            ):
                raise
            raise TypeError(f"{self._name} needs {block} or {single}") from error
        if Y.shape != (rows, X.shape[1]):
            raise ValueError(
                f"{self._name}.{block} must return shape {(rows, X.shape[1])}, got {Y.shape}"
            )
        if Y.dtype.kind == "c" and self.dtype.kind != "c":
            raise TypeError(f"{self._name} has dtype {self.dtype}, but {block} returned {Y.dtype}")
        return cast(Array, Y.astype(self.dtype, copy=False))


class _HostOperatorOnGpu:
    """An operator in main memory for the cuda backend: each product crosses over and back."""

    def __init__(self, host: Operator) -> None:
        self.shape = host.shape
        self.dtype = host.dtype
        self._host = host

    def matmat(self, X: Array) -> Array:
        return cast(Array, _cupy().asarray(self._host.matmat(_cupy().asnumpy(X))))

    def rmatmat(self, X: Array) -> Array:
        return cast(Array, _cupy().asarray(self._host.rmatmat(_cupy().asnumpy(X))))


def to_host(a: Any) -> Array:
    """A backend's result in main memory."""
    return cast(Array, a.get() if hasattr(a, "get") else a)


def in_main_memory(a: Any) -> Any:
    """A CuPy array or a tensor in main memory; anything else as it is."""
    roots = _roots(a)
    if "cupy" in roots:
        return a.get()
    return a.cpu() if "torch" in roots else a


def library(a: Any) -> Any:
    """NumPy or CuPy, whichever made a payload."""
    return np if isinstance(a, np.ndarray) else _cupy()


def placed(a: Any, device: Device) -> Any:
    """An array in main memory, on `device`."""
    return a if device == "host" else _cupy().asarray(a)


class _TransposedOperator:
    """The plain transpose of an operator."""

    def __init__(self, A: Operator) -> None:
        self.shape = (A.shape[1], A.shape[0])
        self.dtype = A.dtype
        self._A = A

    def matmat(self, X: Array) -> Array:
        return cast(Array, self._A.rmatmat(X.conj()).conj())

    def rmatmat(self, X: Array) -> Array:
        return cast(Array, self._A.matmat(X.conj()).conj())


def transposed(M: Matrix) -> Matrix:
    """The plain transpose: a view of dense data, a converted copy of CSR."""
    m, n = M.shape
    if M.kind == "dense":
        return replace(M, payload=M.dense.T, shape=(n, m))
    if M.kind == "operator":
        return replace(M, payload=_TransposedOperator(cast(Operator, M.payload)), shape=(n, m))
    csr = scipy_csr(M).T.tocsr()
    return replace(M, payload=(csr.indptr, csr.indices, csr.data, (n, m)), shape=(n, m))


def rewrapped(M: Matrix, wrap: Callable[[Array], Array]) -> Matrix:
    """The same matrix with another way back."""
    return replace(M, wrap=wrap)


def densified(M: Matrix) -> Matrix:
    """CSR as a dense array."""
    return M if M.kind == "dense" else replace(M, kind="dense", payload=scipy_csr(M).toarray())


def scipy_csr(M: Matrix) -> Any:
    """The CSR tuple as a sparse matrix of scipy (or of cupyx on the GPU)."""
    indptr, indices, data, shape = M.csr
    library = "scipy.sparse" if M.device == "host" else "cupyx.scipy.sparse"
    return importlib.import_module(library).csr_matrix((data, indices, indptr), shape=shape)


def rows_of(M: Matrix, start: int, stop: int) -> Matrix:
    """Rows start..stop-1: a view of dense data; of CSR the pointers are new."""
    shape = (stop - start, M.shape[1])
    if M.kind == "dense":
        return replace(M, payload=M.dense[start:stop], shape=shape)
    indptr, indices, data, _ = M.csr
    first, last = int(indptr[start]), int(indptr[stop])
    part = (indptr[start : stop + 1] - indptr[start], indices[first:last], data[first:last], shape)
    return replace(M, payload=part, shape=shape)


def diagonal(M: Matrix) -> Matrix:
    """The diagonal of a dense square matrix."""
    return replace(M, payload=M.dense.diagonal(), shape=(M.shape[0],))


def take_columns(M: Matrix, indices: npt.NDArray[np.int64]) -> Any:
    """M[:, indices] as the caller's kind; of SciPy's formats a csr_array with the same entries."""
    with M.current_device():
        which = placed(indices, M.device)
        if M.kind == "dense":
            return M.wrap(M.dense[:, which])
        if M.kind == "csr":
            return _sparse_part(M, scipy_csr(M)[:, which])
    return M.wrap(cast(Operator, M.payload).matmat(_unit_vectors(M, 1, indices)))


def take_rows(M: Matrix, indices: npt.NDArray[np.int64]) -> Any:
    """M[indices], in the same way."""
    with M.current_device():
        which = placed(indices, M.device)
        if M.kind == "dense":
            return M.wrap(M.dense[which])
        if M.kind == "csr":
            return _sparse_part(M, scipy_csr(M)[which])
    E = _unit_vectors(M, 0, indices)
    return M.wrap(cast(Operator, M.payload).rmatmat(E).conj().T)


def _sparse_part(M: Matrix, part: Any) -> Any:
    if M.wrap is not _same:  # a tensor: parts of it are dense
        return M.wrap(part.toarray())
    if M.device == "cuda":
        return part
    return importlib.import_module("scipy.sparse").csr_array(part)


def _unit_vectors(M: Matrix, axis: int, indices: npt.NDArray[np.int64]) -> Array:
    E = M.scratch(M.shape[axis], indices.size)
    E[indices, np.arange(indices.size)] = 1.0
    return E


def stacked_rows(pieces: list[Matrix]) -> Matrix:
    """One matrix of the pieces' rows; CSR if all are CSR, else dense."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    shape = (sum(piece.shape[0] for piece in pieces), first.shape[1])
    if any(piece.kind == "dense" for piece in pieces):
        dense = np.concatenate([densified(piece).dense for piece in pieces])
        return replace(first, kind="dense", payload=dense, shape=shape)
    offsets = np.cumsum([0] + [len(piece.csr[1]) for piece in pieces])
    indptr = [p.csr[0][1:] + offset for p, offset in zip(pieces, offsets[:-1], strict=True)]
    payload = (
        np.concatenate([pieces[0].csr[0][:1], *indptr]),
        np.concatenate([piece.csr[1].astype(np.int64) for piece in pieces]),
        np.concatenate([piece.csr[2] for piece in pieces]),
        shape,
    )
    return replace(first, payload=payload, shape=shape)


def owned(M: Matrix) -> Matrix:
    """A copy that does not change when the caller's array does."""
    if M.kind == "dense":
        return replace(M, payload=M.dense.copy())
    indptr, indices, data, shape = M.csr
    return replace(M, payload=(indptr.copy(), indices.copy(), data.copy(), shape))


def cast_to(
    M: Matrix, dtype: np.dtype[np.inexact], name: str, first: str = "the first rows were"
) -> Matrix:
    """The same array or CSR in another dtype; TypeError if that would drop an imaginary part."""
    if M.dtype == dtype:
        return M
    if M.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"{name} must be {dtype} as {first}, got {M.dtype}")
    if M.kind == "dense":
        return replace(M, payload=M.dense.astype(dtype), dtype=dtype)
    indptr, indices, data, shape = M.csr
    return replace(M, payload=(indptr, indices, data.astype(dtype), shape), dtype=dtype)


def _entries(M: Matrix) -> Array:
    return M.dense if M.kind == "dense" else M.csr[2]


def is_finite(M: Matrix) -> bool:
    """No NaN and no Inf among the stored entries."""
    return bool(np.isfinite(_entries(M)).all())


def largest(M: Matrix) -> float:
    """The largest magnitude of a real or imaginary part; NaN or Inf if there is one."""
    data = _entries(M)
    if data.size == 0:
        return 0.0
    parts = (data.real, data.imag) if M.dtype.kind == "c" else (data,)
    return float(np.max([float(abs(part).max()) for part in parts]))


def times_power_of_two(a: Array, exponent: int) -> Array:
    """a · 2^exponent, exact unless the result leaves the range of the dtype."""
    half = exponent // 2  # 2^exponent itself may not be representable
    real = a.real.dtype.type
    return cast(Array, a * real(2.0**half) * real(2.0 ** (exponent - half)))


def scaled(M: Matrix, exponent: int) -> Matrix:
    """M · 2^exponent."""
    data = times_power_of_two(_entries(M), exponent)
    if M.kind == "dense":
        return replace(M, payload=data)
    indptr, indices, _, shape = M.csr
    return replace(M, payload=(indptr, indices, data, shape))


def check_hermitian(M: Matrix, name: str = "A") -> None:
    """ValueError unless dense `M` equals its conjugate transpose to rounding.

    One read in 512 x 512 blocks. Allowed is |a_ij - conj(a_ji)| <= 64 sqrt(n) eps max|A|, the
    rounding of a product of well-scaled factors. Sparse matrices and operators are taken at their
    word. NaN passes: the backend's own check names it.
    """
    if M.kind != "dense":
        return
    A, n, size = M.dense, M.shape[0], 512
    largest = gap = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for i in range(0, n, size):
            for j in range(0, i + 1, size):
                lower = A[i : i + size, j : j + size]
                upper = A[j : j + size, i : i + size].conj().T
                largest = max(largest, float(abs(lower).max()), float(abs(upper).max()))
                gap = max(gap, float(abs(lower - upper).max()))
    if gap > 64 * np.sqrt(n) * np.finfo(M.real_dtype.name).eps * largest:
        raise ValueError(
            f"{name} must be Hermitian, but |{name} - {name}^H| reaches {gap:.1e} "
            f"(largest entry {largest:.1e})"
        )
