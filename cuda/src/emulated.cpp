// The GPU's functors and primitives on the CPU, for the tests.
#include "lowla/device/cuda_fourier.cuh"
#include "lowla/device/cuda_kron_solve.cuh"
#include "lowla/device/cuda_lp.cuh"
#include "lowla/device/cuda_scores.cuh"
#include "lowla/device/emulated_runtime.hpp"

LOWLA_INSTANTIATE_CUDA(float, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA(double, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA(std::complex<float>, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA(std::complex<double>, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA_LP(float, EmulatedRuntime)
LOWLA_INSTANTIATE_CUDA_LP(double, EmulatedRuntime)
template struct lowla::CudaRandom<lowla::EmulatedRuntime>;
template struct lowla::CudaKron<float, lowla::EmulatedRuntime>;
template struct lowla::CudaKron<double, lowla::EmulatedRuntime>;
template struct lowla::CudaKron<std::complex<float>, lowla::EmulatedRuntime>;
template struct lowla::CudaKron<std::complex<double>, lowla::EmulatedRuntime>;
LOWLA_INSTANTIATE_FOURIER(float, EmulatedRuntime)
LOWLA_INSTANTIATE_FOURIER(double, EmulatedRuntime)
