// The inverse-Fisher-vector products of the GPU on the CPU, for the tests.
#include "lowla/device/cuda_mfac.cuh"
#include "lowla/device/emulated_runtime.hpp"

template struct lowla::CudaMfac<lowla::EmulatedRuntime>;
