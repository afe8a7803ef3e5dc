// The GPU's kernels and primitives for float.
#include "lowla/device/cuda_scores.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_CUDA(float, GpuRuntime)
