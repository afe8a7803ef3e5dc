// The GPU's side of decompositions by columns and rows on the CPU, for the tests.
#include "lowla/device/cuda_columns.cuh"
#include "lowla/device/emulated_runtime.hpp"

LOWLA_INSTANTIATE_CUDA_COLUMNS(float, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA_COLUMNS(double, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA_COLUMNS(std::complex<float>, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA_COLUMNS(std::complex<double>, EmulatedRuntime)
