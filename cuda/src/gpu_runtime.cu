// GpuRuntime: copies, cuBLAS and errors (see device/gpu_runtime.hpp).
#include "lowla/device/gpu_runtime.hpp"

#include "lowla/core/blas.hpp"
#include "lowla/core/cancel.hpp"

#include <cstring>
#include <dlfcn.h>

namespace lowla {
namespace {

GpuRuntime::Release release_memory = nullptr;

cudaStream_t stream_of(void *stream) { return static_cast<cudaStream_t>(stream); }

const char *cublas_status(int status) {
  switch (status) {
  case 1:
    return "not initialized";
  case 3:
    return "allocation failed";
  case 7:
    return "invalid value";
  case 8:
    return "architecture mismatch";
  case 11:
    return "mapping error";
  case 13:
    return "execution failed";
  case 14:
    return "internal error";
  case 15:
    return "not supported";
  default:
    return "unknown status";
  }
}

void check_cublas(int status, const char *call) {
  if (status != 0)
    throw CudaError(std::string(call) + " failed: " + cublas_status(status) + " (status " +
                    std::to_string(status) + ")");
}

int operation(char op) { return op == 'N' ? 0 : op == 'T' ? 1 : 2; }

template <class Function>
void resolve(void *library, const std::string &path, const char *name, Function &function) {
  void *symbol = dlsym(library, name);
  if (symbol == nullptr)
    throw CudaError(std::string(name) + " is missing in " + path);
  function = reinterpret_cast<Function>(symbol);
}

} // namespace

CublasTable CublasTable::open(const std::string &path, bool loaded) {
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | (loaded ? RTLD_NOLOAD : 0));
  if (library == nullptr) {
    const char *reason = dlerror();
    throw CudaError("cuBLAS cannot be loaded: " +
                    (reason != nullptr ? std::string(reason) : path + " is not loaded"));
  }
  CublasTable table; // the library stays open for the life of the process
  resolve(library, path, "cublasSgemm_v2", table.sgemm);
  resolve(library, path, "cublasDgemm_v2", table.dgemm);
  resolve(library, path, "cublasCgemm_v2", table.cgemm);
  resolve(library, path, "cublasZgemm_v2", table.zgemm);
  resolve(library, path, "cublasSgemmStridedBatched", table.sgemm_batched);
  resolve(library, path, "cublasDgemmStridedBatched", table.dgemm_batched);
  resolve(library, path, "cublasCgemmStridedBatched", table.cgemm_batched);
  resolve(library, path, "cublasZgemmStridedBatched", table.zgemm_batched);
  resolve(library, path, "cublasGetStream_v2", table.get_stream);
  resolve(library, path, "cublasSetStream_v2", table.set_stream);
  resolve(library, path, "cublasGetPointerMode_v2", table.get_pointer_mode);
  resolve(library, path, "cublasSetPointerMode_v2", table.set_pointer_mode);
  resolve(library, path, "cublasGetMathMode", table.get_math_mode);
  resolve(library, path, "cublasSetMathMode", table.set_math_mode);
  return table;
}

GpuRuntime::Scope *&GpuRuntime::current() {
  thread_local Scope *scope = nullptr;
  return scope;
}

GpuRuntime::Scope &GpuRuntime::scope() {
  if (current() == nullptr)
    throw CudaError("no GPU scope on this thread");
  return *current();
}

void GpuRuntime::check(int status, const char *call) {
  if (status != static_cast<int>(cudaSuccess))
    throw CudaError(std::string(call) +
                    " failed: " + cudaGetErrorString(static_cast<cudaError_t>(status)) + " (" +
                    cudaGetErrorName(static_cast<cudaError_t>(status)) + ")");
}

GpuRuntime::Scope::Scope(int device, void *stream, void *cublas, const CublasTable &table,
                         Allocate allocate)
    : stream_(stream), cublas_(cublas), table_(table), allocate_(allocate), outer_(current()) {
  check(static_cast<int>(cudaSetDevice(device)), "cudaSetDevice");
  check_cublas(table_.get_stream(cublas_, &old_stream_), "cublasGetStream");
  check_cublas(table_.get_pointer_mode(cublas_, &old_pointer_mode_), "cublasGetPointerMode");
  check_cublas(table_.get_math_mode(cublas_, &old_math_mode_), "cublasGetMathMode");
  constexpr int kHostPointers = 0, kDefaultMath = 0; // no TF32
  check_cublas(table_.set_stream(cublas_, stream_), "cublasSetStream");
  check_cublas(table_.set_pointer_mode(cublas_, kHostPointers), "cublasSetPointerMode");
  check_cublas(table_.set_math_mode(cublas_, kDefaultMath), "cublasSetMathMode");
  current() = this;
}

GpuRuntime::Scope::~Scope() {
  if (!in_flight_.empty())
    cudaStreamSynchronize(stream_of(stream_));
  table_.set_math_mode(cublas_, old_math_mode_);
  table_.set_pointer_mode(cublas_, old_pointer_mode_);
  table_.set_stream(cublas_, old_stream_);
  current() = outer_;
}

void GpuRuntime::set_release(Release release) { release_memory = release; }

void *GpuRuntime::allocate(std::size_t bytes, void *&owner) {
  return scope().allocate_(bytes, owner);
}

void GpuRuntime::release(void *owner) { release_memory(owner); }

void GpuRuntime::to_host(void *to, const void *from, std::size_t bytes) {
  CancelScope::poll();
  Scope &self = scope();
  check(static_cast<int>(
            cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_of(self.stream_))),
        "cudaMemcpyAsync");
  check(static_cast<int>(cudaStreamSynchronize(stream_of(self.stream_))), "cudaStreamSynchronize");
  self.in_flight_.clear();
}

void GpuRuntime::to_device(void *to, const void *from, std::size_t bytes) {
  Scope &self = scope();
  const auto *first = static_cast<const unsigned char *>(from);
  self.in_flight_.emplace_back(first, first + bytes);
  check(static_cast<int>(cudaMemcpyAsync(to, self.in_flight_.back().data(), bytes,
                                         cudaMemcpyHostToDevice, stream_of(self.stream_))),
        "cudaMemcpyAsync");
}

void GpuRuntime::copy(void *to, const void *from, std::size_t bytes) {
  check(static_cast<int>(
            cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_of(scope().stream_))),
        "cudaMemcpyAsync");
}

#define LOWLA_GEMM(T, routine, name)                                                               \
  void GpuRuntime::gemm(char op_a, char op_b, index m, index n, index k, T alpha, const T *A,      \
                        index lda, const T *B, index ldb, T beta, T *C, index ldc) {               \
    using blas::narrow;                                                                            \
    if (m == 0 || n == 0)                                                                          \
      return;                                                                                      \
    const Scope &self = scope();                                                                   \
    check_cublas(self.table_.routine(self.cublas_, operation(op_a), operation(op_b),               \
                                     narrow<int>(m), narrow<int>(n), narrow<int>(k), &alpha, A,    \
                                     narrow<int>(lda), B, narrow<int>(ldb), &beta, C,              \
                                     narrow<int>(ldc)),                                            \
                 name);                                                                            \
  }
LOWLA_GEMM(float, sgemm, "cublasSgemm")
LOWLA_GEMM(double, dgemm, "cublasDgemm")
LOWLA_GEMM(std::complex<float>, cgemm, "cublasCgemm")
LOWLA_GEMM(std::complex<double>, zgemm, "cublasZgemm")
#undef LOWLA_GEMM

#define LOWLA_GEMM_BATCHED(T, routine, name)                                                       \
  void GpuRuntime::gemm_batched(char op_a, char op_b, index m, index n, index k, const T *A,       \
                                index lda, index step_a, const T *B, index ldb, index step_b,      \
                                T *C, index ldc, index step_c, index count) {                      \
    using blas::narrow;                                                                            \
    if (m == 0 || n == 0 || count == 0)                                                            \
      return;                                                                                      \
    const Scope &self = scope();                                                                   \
    const T one(1), zero(0);                                                                       \
    check_cublas(self.table_.routine(self.cublas_, operation(op_a), operation(op_b),               \
                                     narrow<int>(m), narrow<int>(n), narrow<int>(k), &one, A,      \
                                     narrow<int>(lda), step_a, B, narrow<int>(ldb), step_b, &zero, \
                                     C, narrow<int>(ldc), step_c, narrow<int>(count)),             \
                 name);                                                                            \
  }
LOWLA_GEMM_BATCHED(float, sgemm_batched, "cublasSgemmStridedBatched")
LOWLA_GEMM_BATCHED(double, dgemm_batched, "cublasDgemmStridedBatched")
LOWLA_GEMM_BATCHED(std::complex<float>, cgemm_batched, "cublasCgemmStridedBatched")
LOWLA_GEMM_BATCHED(std::complex<double>, zgemm_batched, "cublasZgemmStridedBatched")
#undef LOWLA_GEMM_BATCHED

index GpuRuntime::shared_bytes() {
  int device = 0, bytes = 0;
  check(static_cast<int>(cudaGetDevice(&device)), "cudaGetDevice");
  check(static_cast<int>(
            cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)),
        "cudaDeviceGetAttribute");
  constexpr int kReserved = 1024; // of each block
  return (bytes - kReserved) / 2;
}

int GpuRuntime::device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess)
    return count;
  cudaGetLastError(); // forget it: no driver, or one that is too old, is no device
  return 0;
}

int GpuRuntime::version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version;
}

} // namespace lowla
