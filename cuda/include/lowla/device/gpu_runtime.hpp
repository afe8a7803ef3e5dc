// GpuRuntime: CUDA and cuBLAS under `Cuda` (device/runtime.hpp lists what a run-time offers).
//
// The CUDA run-time is linked statically; cuBLAS is a table of pointers into the library that the
// caller's array library has loaded, so that its handle (and workspace) is shared. All work goes to
// one stream, the caller's current one; only copies to the host wait, for that stream.
#pragma once

#include "lowla/device/runtime.hpp"

#include <algorithm>
#include <complex>
#include <string>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace lowla {

/// The routines of cuBLAS that are used, by their C prototypes (handles are opaque pointers, status
/// codes and enumerations are ints).
struct CublasTable {
  template <class T>
  using Gemm = int (*)(void *handle, int op_a, int op_b, int m, int n, int k, const T *alpha,
                       const T *A, int lda, const T *B, int ldb, const T *beta, T *C, int ldc);
  Gemm<float> sgemm = nullptr;
  Gemm<double> dgemm = nullptr;
  Gemm<std::complex<float>> cgemm = nullptr;
  Gemm<std::complex<double>> zgemm = nullptr;
  template <class T>
  using GemmBatched = int (*)(void *handle, int op_a, int op_b, int m, int n, int k, const T *alpha,
                              const T *A, int lda, long long step_a, const T *B, int ldb,
                              long long step_b, const T *beta, T *C, int ldc, long long step_c,
                              int count);
  GemmBatched<float> sgemm_batched = nullptr;
  GemmBatched<double> dgemm_batched = nullptr;
  GemmBatched<std::complex<float>> cgemm_batched = nullptr;
  GemmBatched<std::complex<double>> zgemm_batched = nullptr;
  int (*get_stream)(void *handle, void **stream) = nullptr;
  int (*set_stream)(void *handle, void *stream) = nullptr;
  int (*get_pointer_mode)(void *handle, int *mode) = nullptr;
  int (*set_pointer_mode)(void *handle, int mode) = nullptr;
  int (*get_math_mode)(void *handle, int *mode) = nullptr;
  int (*set_math_mode)(void *handle, int mode) = nullptr;

  /// From the shared library at `path`; `loaded` insists that the process has it already.
  /// CudaError where it cannot be had.
  static CublasTable open(const std::string &path, bool loaded);
};

class GpuRuntime {
public:
  using Allocate = void *(*)(std::size_t bytes, void *&owner);
  using Release = void (*)(void *owner);

  /// Makes a device, a stream and a cuBLAS handle those of the calling thread. The handle's stream
  /// and modes are put back at the end.
  class Scope {
  public:
    Scope(int device, void *stream, void *cublas, const CublasTable &table, Allocate allocate);
    ~Scope();
    Scope(const Scope &) = delete;
    Scope &operator=(const Scope &) = delete;

  private:
    friend class GpuRuntime;
    void *stream_, *cublas_;
    const CublasTable &table_;
    Allocate allocate_;
    /// Host memory whose copies to the device the stream may still have to make.
    std::vector<std::vector<unsigned char>> in_flight_;
    void *old_stream_ = nullptr;
    int old_pointer_mode_ = 0, old_math_mode_ = 0;
    Scope *outer_;
  };

  /// What frees memory, whatever scope is current.
  static void set_release(Release release);

  static void *allocate(std::size_t bytes, void *&owner);
  static void release(void *owner);
  static void to_host(void *to, const void *from, std::size_t bytes);
  static void to_device(void *to, const void *from, std::size_t bytes);
  static void copy(void *to, const void *from, std::size_t bytes);
  template <class F> static void for_each(index n, const F &f);
  /// Half of what the device has for one block, so that two blocks share a multiprocessor.
  static index shared_bytes();
  template <class F> static void for_each_block(index blocks, std::size_t bytes, const F &f);

  static void gemm(char op_a, char op_b, index m, index n, index k, float alpha, const float *A,
                   index lda, const float *B, index ldb, float beta, float *C, index ldc);
  static void gemm(char op_a, char op_b, index m, index n, index k, double alpha, const double *A,
                   index lda, const double *B, index ldb, double beta, double *C, index ldc);
  static void gemm(char op_a, char op_b, index m, index n, index k, std::complex<float> alpha,
                   const std::complex<float> *A, index lda, const std::complex<float> *B, index ldb,
                   std::complex<float> beta, std::complex<float> *C, index ldc);
  static void gemm(char op_a, char op_b, index m, index n, index k, std::complex<double> alpha,
                   const std::complex<double> *A, index lda, const std::complex<double> *B,
                   index ldb, std::complex<double> beta, std::complex<double> *C, index ldc);

  static void gemm_batched(char op_a, char op_b, index m, index n, index k, const float *A,
                           index lda, index step_a, const float *B, index ldb, index step_b,
                           float *C, index ldc, index step_c, index count);
  static void gemm_batched(char op_a, char op_b, index m, index n, index k, const double *A,
                           index lda, index step_a, const double *B, index ldb, index step_b,
                           double *C, index ldc, index step_c, index count);
  static void gemm_batched(char op_a, char op_b, index m, index n, index k,
                           const std::complex<float> *A, index lda, index step_a,
                           const std::complex<float> *B, index ldb, index step_b,
                           std::complex<float> *C, index ldc, index step_c, index count);
  static void gemm_batched(char op_a, char op_b, index m, index n, index k,
                           const std::complex<double> *A, index lda, index step_a,
                           const std::complex<double> *B, index ldb, index step_b,
                           std::complex<double> *C, index ldc, index step_c, index count);

  /// 0 without a driver.
  static int device_count();
  /// Of the CUDA run-time inside, as 1000 major + 10 minor.
  static int version();

private:
  static Scope &scope();
  static Scope *&current();
  /// CudaError that names the call, where `status` is one.
  static void check(int status, const char *call);
};

#if defined(__CUDACC__)
namespace cuda_detail {
template <class F> __global__ void __launch_bounds__(256) each(index n, F f) {
  const index step = static_cast<index>(gridDim.x) * blockDim.x;
  for (index i = static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    f(i);
}

template <class F>
__global__ void __launch_bounds__(kBlockThreads)
    each_block(index blocks, const __grid_constant__ F f) {
  extern __shared__ double2 shared[]; // aligned to 16 bytes
  for (index b = blockIdx.x; b < blocks; b += gridDim.x)
    for (int phase = 0; phase < f.phases(); ++phase) {
      f(phase, b, static_cast<int>(threadIdx.x), static_cast<void *>(shared));
      __syncthreads();
    }
}
constexpr index kMaxBlocks = index(1) << 16;
} // namespace cuda_detail

template <class F> void GpuRuntime::for_each(index n, const F &f) {
  if (n <= 0)
    return;
  constexpr index kThreads = 256;
  const index blocks = std::min(cuda_detail::kMaxBlocks, (n + kThreads - 1) / kThreads);
  cuda_detail::each<<<static_cast<unsigned>(blocks), kThreads, 0,
                      static_cast<cudaStream_t>(scope().stream_)>>>(n, f);
  check(static_cast<int>(cudaGetLastError()), "kernel launch");
}

template <class F> void GpuRuntime::for_each_block(index blocks, std::size_t bytes, const F &f) {
  if (blocks <= 0)
    return;
  check(static_cast<int>(cudaFuncSetAttribute(cuda_detail::each_block<F>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(bytes))),
        "cudaFuncSetAttribute");
  cuda_detail::each_block<<<static_cast<unsigned>(std::min(cuda_detail::kMaxBlocks, blocks)),
                            kBlockThreads, bytes, static_cast<cudaStream_t>(scope().stream_)>>>(
      blocks, f);
  check(static_cast<int>(cudaGetLastError()), "kernel launch");
}
#endif

} // namespace lowla
