// The GPU's passes of low-rank completion.
#include "lowla/device/cuda_completion.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_COMPLETION(GpuRuntime)
