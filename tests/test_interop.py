"""Foreign arrays go in and come out as what they are, without a copy."""

from __future__ import annotations

import numpy as np
import pytest

import lowla
from lowla import _arrays, _backend
from tolerances import relative_error, tol


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def cupy():
    if (reason := _backend.why_not("cuda")) is not None:
        pytest.skip(reason)
    return pytest.importorskip("cupy")


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_tensors_go_both_ways_without_a_copy(torch, dtype):
    x = torch.ones((5, 3), dtype=getattr(torch, dtype))
    M = _arrays.matrix(x)
    assert M.dense.ctypes.data == x.data_ptr()
    assert M.dtype == dtype
    result = np.ones((5, 2), dtype)
    back = M.wrap(result)
    assert isinstance(back, torch.Tensor)
    assert back.data_ptr() == result.ctypes.data


@pytest.mark.parametrize(
    "view", [lambda x: x.T, lambda x: x[::2, 1:], lambda x: x[:1].expand(6, 4)]
)
def test_strided_tensors_go_in_without_a_copy(torch, view):
    x = view(torch.arange(24.0).reshape(6, 4))
    M = _arrays.matrix(x)
    assert M.dense.ctypes.data == x.data_ptr()
    np.testing.assert_array_equal(M.dense, x.numpy())


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        ("float16", np.float32),
        ("bfloat16", np.float32),
        ("int32", np.float64),
        ("uint8", np.float64),
        ("bool", np.float64),
    ],
)
def test_other_tensors_are_converted(torch, dtype, computed):
    assert _arrays.matrix(torch.ones((3, 2), dtype=getattr(torch, dtype))).dtype == computed


def test_conjugate_and_gradient_views(torch):
    x = torch.tensor([[1 + 2j, 3j]], requires_grad=True)
    np.testing.assert_array_equal(_arrays.matrix(x.conj()).dense, [[1 - 2j, -3j]])
    np.testing.assert_array_equal(_arrays.matrix(x.conj().imag).dense, [[-2, -3]])


def test_parameters_and_other_subclasses_are_tensors(torch):
    class Mine(torch.nn.Parameter):
        pass

    assert isinstance(lowla.rsvd(Mine(torch.ones(4, 3)), 1, rng=0).U, torch.Tensor)


def test_rsvd_of_a_tensor_is_tensors(backend, torch):
    x = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = lowla.rsvd(x, 30, rng=0)
    assert all(isinstance(a, torch.Tensor) for a in result)
    assert relative_error(x.numpy(), *(a.numpy() for a in result)) <= tol(np.float64, 40)
    assert repr(result).startswith("SVDResult: U (40, 30), S (30,), Vh (30, 30), float64")
    stacked = lowla.rsvd(torch.stack([x, 2 * x]), 3, rng=0)
    assert tuple(stacked.U.shape) == (2, 40, 3)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_sparse_tensors(backend, torch):
    x = torch.eye(12, dtype=torch.float64)
    x[3, 7] = 5
    result = lowla.rsvd(x.to_sparse_csr(), 12, rng=0)
    assert relative_error(x.numpy(), *(a.numpy() for a in result)) <= tol(np.float64, 12)
    with pytest.raises(TypeError, match=r"A must be a dense or CSR tensor, got layout torch"):
        lowla.rsvd(x.to_sparse_coo(), 2)


def test_tensors_without_data_are_refused(torch):
    with pytest.raises(TypeError, match="A must be on the CPU or a CUDA device, got device meta"):
        lowla.rsvd(torch.ones((3, 3), device="meta"), 1)


def test_sketches_of_tensors(backend, torch):
    x = torch.ones((50, 3), dtype=torch.float32)
    assert isinstance(lowla.sketch(x, 10, rng=0), torch.Tensor)
    S = lowla.sketch_operator("sjlt", 10, 50, rng=0)
    assert isinstance(S @ x, torch.Tensor)
    assert tuple((S @ x[:, 0]).shape) == (10,)
    np.testing.assert_array_equal((S @ x).numpy(), lowla.sketch(x, 10, rng=0).numpy())


def test_streams_of_tensors(backend, torch):
    x = torch.eye(20, dtype=torch.float64)
    stream = lowla.StreamingSVD(2, 20, rng=0).partial_fit(x[:7]).partial_fit(x[7:])
    assert isinstance(stream.result().Vh, torch.Tensor)


def test_cupy_arrays_are_computed_on_the_gpu(cupy):
    A = cupy.random.default_rng(0).standard_normal((40, 30))
    result = lowla.rsvd(A, 30, rng=0)
    assert result.info.backend == "cuda"
    assert all(isinstance(a, cupy.ndarray) for a in result)
    assert relative_error(A.get(), *(a.get() for a in result)) <= tol(np.float64, 40)


def test_transport_and_softmax_of_cupy_arrays(cupy):
    C = cupy.random.default_rng(0).random((40, 30))
    result = lowla.sinkhorn(None, None, C, 0.05)
    assert result.info.backend == "cuda"
    assert all(isinstance(a, cupy.ndarray) for a in (*result, result.plan))
    np.testing.assert_allclose(result.plan.get().sum(axis=1), 1 / 40, rtol=1e-8)
    points = lowla.sinkhorn_points(C[:, :2], C[:9, :2], 0.05)
    assert isinstance(points.grad_X, cupy.ndarray)
    shares = lowla.softmax(C, axis=0)
    np.testing.assert_allclose(shares.sum(axis=0).get(), 1.0, rtol=tol(np.float64, 40))


def test_cuda_tensors_are_computed_on_the_gpu(cupy, torch):
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA device")
    x = torch.ones((40, 30), device="cuda")
    result = lowla.rsvd(x, 2, rng=0)
    assert result.U.device == x.device


def test_host_arrays_on_the_gpu_by_request(cupy):
    with lowla.use_backend("cuda"):
        result = lowla.rsvd(np.eye(5), 2, rng=0)
    assert isinstance(result.U, np.ndarray)
