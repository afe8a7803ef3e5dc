// The GPU's kernels and primitives for double.
#include "lowla/device/cuda_scores.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_CUDA(double, GpuRuntime)
template struct lowla::CudaRandom<lowla::GpuRuntime>;
