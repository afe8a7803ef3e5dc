// The GPU's Kronecker and Monarch products.
#include "lowla/device/cuda_kron_solve.cuh"
#include "lowla/device/gpu_runtime.hpp"

template struct lowla::CudaKron<float, lowla::GpuRuntime>;
template struct lowla::CudaKron<double, lowla::GpuRuntime>;
template struct lowla::CudaKron<std::complex<float>, lowla::GpuRuntime>;
template struct lowla::CudaKron<std::complex<double>, lowla::GpuRuntime>;
