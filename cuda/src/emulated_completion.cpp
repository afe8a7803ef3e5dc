// The low-rank completion of the GPU on the CPU, for the tests.
#include "lowla/device/cuda_completion.cuh"
#include "lowla/device/emulated_runtime.hpp"

LOWLA_INSTANTIATE_COMPLETION(EmulatedRuntime)
