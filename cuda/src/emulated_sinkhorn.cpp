// The entropic optimal transport, log-sum-exp and softmax of the GPU on the CPU, for the tests.
#include "lowla/device/cuda_sinkhorn.cuh"
#include "lowla/device/emulated_runtime.hpp"

LOWLA_INSTANTIATE_SINKHORN(EmulatedRuntime)
