// The GPU's passes of l_p regression.
#include "lowla/device/cuda_lp.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_CUDA_LP(float, GpuRuntime)
LOWLA_INSTANTIATE_CUDA_LP(double, GpuRuntime)
