// The GPU's Fourier transforms and convolutions.
#include "lowla/device/cuda_fourier.cuh"
#include "lowla/device/gpu_runtime.hpp"

LOWLA_INSTANTIATE_FOURIER(float, GpuRuntime)
LOWLA_INSTANTIATE_FOURIER(double, GpuRuntime)
