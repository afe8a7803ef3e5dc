// The GPU's side of decompositions by columns and rows.
#include "lowla/device/cuda_columns.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_CUDA_COLUMNS(float, GpuRuntime)
LOWLA_INSTANTIATE_CUDA_COLUMNS(double, GpuRuntime)
LOWLA_INSTANTIATE_CUDA_COLUMNS(std::complex<float>, GpuRuntime)
LOWLA_INSTANTIATE_CUDA_COLUMNS(std::complex<double>, GpuRuntime)
