// The GPU's entropic optimal transport, log-sum-exp and softmax.
#include "lowla/device/cuda_sinkhorn.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_SINKHORN(GpuRuntime)
