// The GPU's functors and primitives on the CPU, for the tests.
#include "lowla/device/cuda_lstsq.cuh"
#include "lowla/device/emulated_runtime.hpp"

LOWLA_INSTANTIATE_CUDA(float, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA(double, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA(std::complex<float>, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA(std::complex<double>, EmulatedRuntime)
template struct lowla::CudaRandom<lowla::EmulatedRuntime>;
