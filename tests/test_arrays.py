"""Array intake: what goes in without a copy, what is converted, what is refused."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from lowla import _arrays

COMPUTED = [np.float32, np.float64, np.complex64, np.complex128]


def _grid(m=6, n=4, dtype=np.float64):
    return np.arange(m * n).reshape(m, n).astype(dtype)


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize(
    "layout",
    [
        lambda A: A,
        np.asfortranarray,
        lambda A: A.T,
        lambda A: A[::2, ::-1],
        lambda A: A[1:, 1:],
        lambda A: A[::-1],
        lambda A: np.broadcast_to(A[0], A.shape),
        lambda A: A[:1],
        lambda A: A[:0],
    ],
    ids=["C", "F", "T", "step", "offset", "reversed", "broadcast", "row", "empty"],
)
def test_numpy_arrays_pass_without_a_copy(dtype, layout):
    A = layout(_grid(dtype=dtype))
    M = _arrays.matrix(A)
    assert M.kind == "dense"
    assert M.payload is A
    assert (M.shape, M.dtype, M.device) == (A.shape, dtype, "host")


def test_read_only_arrays_pass_as_they_are():
    A = _grid()
    A.flags.writeable = False
    assert _arrays.matrix(A).payload is A


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        (np.bool_, np.float64),
        (np.int8, np.float64),
        (np.uint64, np.float64),
        (np.float16, np.float32),
        (np.longdouble, np.float64),
        (np.clongdouble, np.complex128),
        (">f4", np.float32),
        (">c16", np.complex128),
        (">i4", np.float64),
    ],
)
def test_other_numeric_dtypes_are_converted(dtype, computed):
    A = _grid().astype(dtype)
    M = _arrays.matrix(A)
    assert M.dtype == computed
    assert M.dense.dtype.isnative
    assert_array_equal(M.dense, A.astype(computed))


@pytest.mark.parametrize(
    "A",
    [
        np.array([["a", "b"], ["c", "d"]]),
        np.array([[None, 1], [2, 3]]),
        np.zeros((2, 2), "M8[s]"),
        np.zeros((2, 2), "m8[s]"),
        np.zeros((2, 2), "S3"),
        [["1", "2"]],
        None,
        "A",
        {"a": 1},
    ],
)
def test_what_is_not_numeric_is_a_type_error(A):
    with pytest.raises(TypeError, match="A must be numeric, got dtype"):
        _arrays.matrix(A)


def test_lists_are_taken():
    assert_array_equal(_arrays.matrix([[1, 2], [3, 4]]).dense, [[1.0, 2.0], [3.0, 4.0]])


def test_unaligned_data_is_copied():
    raw = np.zeros(8 * 6 + 1, np.uint8)
    A = raw[1:].view(np.float64).reshape(2, 3)
    A[:] = _grid(2, 3)
    assert not A.flags.aligned
    M = _arrays.matrix(A)
    assert M.dense.flags.aligned
    assert_array_equal(M.dense, A)


def test_strides_that_are_no_multiple_of_the_item_are_copied():
    records = np.zeros((3, 4), np.dtype([("z", np.complex128), ("pad", np.float64)]))
    A = records["z"]
    A[:] = _grid(3, 4)
    M = _arrays.matrix(A)
    assert all(step % 16 == 0 for step in M.dense.strides)
    assert_array_equal(M.dense, A)


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match=r"A is a masked array: fill it \(A\.filled\(0\)\) first"):
        _arrays.matrix(np.ma.masked_less(_grid(), 3))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_numpy_matrix_is_an_array():
    assert type(_arrays.matrix(np.asmatrix(_grid())).dense) is np.ndarray


@pytest.mark.parametrize(("A", "shape"), [(np.zeros(3), "(3,)"), (1.0, "()")])
def test_too_few_dimensions(A, shape):
    with pytest.raises(ValueError) as caught:
        _arrays.matrix(A, stacked=True)
    assert str(caught.value) == f"A must have at least 2 dimensions, got shape {shape}"


def test_stacks_only_where_they_are_taken():
    A = np.zeros((2, 3, 4))
    assert _arrays.matrix(A, stacked=True).payload is A
    with pytest.raises(ValueError) as caught:
        _arrays.matrix(A)
    assert str(caught.value) == "A must have 2 dimensions, got shape (2, 3, 4)"


@pytest.mark.parametrize("form", [sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("dtype", COMPUTED)
def test_csr_passes_without_a_copy(form, dtype):
    A = form(_grid(dtype=dtype))
    M = _arrays.matrix(A)
    indptr, indices, data, shape = M.csr
    assert M.kind == "csr"
    assert indptr is A.indptr
    assert indices is A.indices
    assert data is A.data
    assert shape == (6, 4)


@pytest.mark.parametrize("form", ["bsr", "coo", "csc", "dia", "dok", "lil"])
def test_other_sparse_formats_become_csr(form):
    A = sp.csr_array(_grid().astype(np.int32)).asformat(form)
    M = _arrays.matrix(A)
    assert M.dtype == np.float64
    assert_array_equal(_arrays.densified(M).dense, _grid())


def test_wide_indices_pass_without_a_copy():
    A = sp.csr_array(_grid())
    A.indptr, A.indices = A.indptr.astype(np.int64), A.indices.astype(np.int64)
    assert _arrays.matrix(A).csr[1] is A.indices


@pytest.mark.parametrize("index", [-1, 4, 2**31 - 1])
def test_indices_outside_the_matrix_are_refused(index):
    A = sp.csr_array(_grid())
    A.indices[3] = index
    with pytest.raises(ValueError, match=r"A is not a valid CSR matrix of shape \(6, 4\)"):
        _arrays.matrix(A)


def test_pointers_that_descend_are_refused():
    A = sp.csr_array(_grid())
    A.indptr[2] = 100
    with pytest.raises(ValueError, match="A is not a valid CSR matrix"):
        _arrays.matrix(A)


def test_sparse_of_objects_is_a_type_error():
    A = sp.coo_array(_grid())
    A.data = A.data.astype(object)
    with pytest.raises(TypeError, match="A must be numeric, got dtype object"):
        _arrays.matrix(A)


def test_linear_operators_multiply():
    A = _grid(dtype=np.complex128) * (1 + 2j)
    M = _arrays.matrix(aslinearoperator(A))
    assert (M.kind, M.shape, M.dtype) == ("operator", (6, 4), np.complex128)
    X, Y = np.eye(4, 2, dtype=A.dtype), np.eye(6, 2, dtype=A.dtype)
    assert_array_equal(M.payload.matmat(X), A @ X)
    assert_array_equal(M.payload.rmatmat(Y), A.conj().T @ Y)


class _VectorsOnly:
    def __init__(self, A):
        self.A, self.shape = A, A.shape

    def matvec(self, x):
        return self.A @ x

    def rmatvec(self, x):
        return self.A.T @ x


def test_objects_with_matvec_multiply():
    A = _grid()
    M = _arrays.matrix(_VectorsOnly(A))
    assert M.dtype == np.float64
    assert_array_equal(M.payload.matmat(np.eye(4)), A)
    assert_array_equal(M.payload.rmatmat(np.eye(6)), A.T)


def test_an_operator_without_adjoint_is_named():
    M = _arrays.matrix(LinearOperator((3, 3), matvec=lambda x: x, dtype=np.float64))
    with pytest.raises(TypeError, match="A needs rmatmat or rmatvec"):
        M.payload.rmatmat(np.eye(3))


def test_a_product_of_the_wrong_shape_is_named():
    class Wrong:
        shape = (3, 2)

        def matmat(self, X):
            return np.zeros((2, X.shape[1]))

    M = _arrays.matrix(Wrong())
    with pytest.raises(ValueError) as caught:
        M.payload.matmat(np.eye(2))
    assert str(caught.value) == "A.matmat must return shape (3, 2), got (2, 2)"


def test_a_complex_product_of_a_real_operator_is_a_type_error():
    class Liar:
        shape, dtype = (2, 2), np.dtype(np.float32)

        def matmat(self, X):
            return 1j * X

    with pytest.raises(TypeError, match="A has dtype float32, but matmat returned complex"):
        _arrays.matrix(Liar()).payload.matmat(np.eye(2, dtype=np.float32))


def test_operators_are_refused_where_entries_are_needed():
    with pytest.raises(TypeError, match="A must be an array or a sparse matrix"):
        _arrays.matrix(aslinearoperator(_grid()), operator=False)


def test_dask_arrays_are_refused_with_advice():
    fake = types.ModuleType("dask.array.core")
    DaskArray = type("Array", (), {"__module__": fake.__name__, "shape": (2, 2)})
    with pytest.raises(TypeError, match=r"A is a Dask array, .* pass A\.compute\(\)"):
        _arrays.matrix(DaskArray())


def test_nothing_foreign_is_imported():
    before = set(sys.modules)
    _arrays.matrix(_grid())
    _arrays.matrix([[1.0]])
    assert not {"torch", "cupy", "dask"} & (set(sys.modules) - before)


class _Exporter:
    """An array library of its own: DLPack and `__array_namespace__`, nothing else."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()

    def __array_namespace__(self):
        return types.SimpleNamespace(from_dlpack=lambda a: _Exporter(np.from_dlpack(a)))


def test_dlpack_goes_both_ways_without_a_copy():
    a = _grid()
    M = _arrays.matrix(_Exporter(a))
    assert np.shares_memory(M.dense, a)
    back = M.wrap(a)
    assert isinstance(back, _Exporter)
    assert np.shares_memory(back.a, a)


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("n", [1, 5, 513, 1100])
def test_hermitian_to_rounding_is_hermitian(dtype, n):
    rng = np.random.default_rng(n)
    B = rng.standard_normal((n, 7)).astype(dtype)
    if np.iscomplexobj(B):
        B += 1j * rng.standard_normal((n, 7)).astype(B.real.dtype)
    A = B @ B.conj().T
    _arrays.check_hermitian(_arrays.matrix(A))
    if n > 1:
        A[n - 1, 0] += 1
        with pytest.raises(ValueError, match=r"A must be Hermitian, but \|A - A\^H\| reaches"):
            _arrays.check_hermitian(_arrays.matrix(A))


def test_nan_is_left_to_the_backend():
    _arrays.check_hermitian(_arrays.matrix(np.full((3, 3), np.nan)))


def test_rows_and_stacks_of_csr():
    A = sp.random_array((20, 7), density=0.3, rng=np.random.default_rng(0), format="csr")
    M = _arrays.matrix(A)
    pieces = [_arrays.rows_of(M, a, b) for a, b in [(0, 3), (3, 3), (3, 11), (11, 20)]]
    joined = _arrays.stacked_rows(pieces)
    assert joined.kind == "csr"
    assert_array_equal(_arrays.densified(joined).dense, A.toarray())
    mixed = _arrays.stacked_rows([_arrays.densified(pieces[0]), *pieces[1:]])
    assert mixed.kind == "dense"
    assert_array_equal(mixed.dense, A.toarray())


def test_transposed():
    A = sp.random_array((5, 7), density=0.3, rng=np.random.default_rng(0), format="csr")
    for M in (_arrays.matrix(A), _arrays.matrix(A.toarray())):
        T = _arrays.transposed(M)
        assert T.shape == (7, 5)
        assert_array_equal(_arrays.densified(T).dense, A.toarray().T)


@pytest.mark.parametrize("dtype", COMPUTED)
def test_powers_of_two_are_exact(dtype):
    limits = np.finfo(dtype)
    a = np.array([limits.tiny], dtype)
    there = _arrays.times_power_of_two(a, limits.maxexp - limits.minexp - 1)
    assert there[0].real == 2.0 ** (limits.maxexp - 1)
    assert_array_equal(_arrays.times_power_of_two(there, limits.minexp - limits.maxexp + 1), a)
