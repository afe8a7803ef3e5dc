// The GPU's inverse-Fisher-vector products.
#include "lowla/device/cuda_mfac.cuh"
#include "lowla/device/gpu_runtime.hpp"

template struct lowla::CudaMfac<lowla::GpuRuntime>;
