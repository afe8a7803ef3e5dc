// The GPU's kernels and primitives for std::complex<float>.
#include "lowla/device/cuda_scores.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_CUDA(std::complex<float>, GpuRuntime)
