// What `Cuda` (device/cuda.cuh) asks of a run-time, and memory that is owned through one.
//
// A run-time is a type with static members only; it works on whatever its scope on the calling
// thread has made current (GPU: device, stream, cuBLAS handle, allocator).
//   void *allocate(bytes, void *&owner)       uninitialised memory, ordered on the stream
//   void release(void *owner)                 gives it back
//   void to_host(to, from, bytes)             waits until the bytes are there
//   void to_device(to, from, bytes)           `from` may be reused on return
//   void copy(to, from, bytes)                device to device
//   void for_each(n, f)                       f(i) for i in 0..n-1, in any order, in parallel
//   index shared_bytes()                      the most shared memory that a block may ask for
//   void for_each_block(blocks, bytes, f)     the same for blocks of kBlockThreads threads with
//                                             `bytes` of uninitialised shared memory: for each
//                                             phase < f.phases() every thread of the block calls
//                                             f(phase, block, thread, shared), then all wait
//   void gemm(op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
//                                             column-major, overloaded on the scalar type
//   void gemm_batched(op_a, op_b, m, n, k, A, lda, step_a, B, ldb, step_b, C, ldc, step_c, count)
//                                             C = op(A) op(B) for `count` matrices that lie
//                                             `step` entries apart
// Everything a device computes is gemm, a functor over an index range (device/functors.hpp), or one
// over blocks (device/functors_chain.hpp): no atomics, each entry of the output written by one
// call, shared memory only between the phases of a block. Two run-times exist: GpuRuntime, and
// EmulatedRuntime, which runs the same functors on the CPU for the tests.
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/core/scalar.hpp"

#include <cstddef>
#include <utility>
#include <vector>

namespace lowla {

/// lowla.CudaError
struct CudaError : Error {
  using Error::Error;
};

/// Threads of a block with shared memory.
constexpr int kBlockThreads = 256;

/// `n` uninitialised numbers on the device.
template <class Runtime, class N> class DeviceArray {
public:
  DeviceArray() = default;
  explicit DeviceArray(index n) {
    if (n > 0)
      data_ = static_cast<N *>(Runtime::allocate(static_cast<std::size_t>(n) * sizeof(N), owner_));
  }
  DeviceArray(DeviceArray &&other) noexcept { swap(other); }
  DeviceArray &operator=(DeviceArray &&other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceArray() {
    if (owner_ != nullptr)
      Runtime::release(owner_);
  }

  N *get() { return data_; }
  const N *get() const { return data_; }

private:
  void swap(DeviceArray &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(owner_, other.owner_);
  }

  N *data_ = nullptr;
  void *owner_ = nullptr;
};

template <class Runtime, class N> DeviceArray<Runtime, N> to_device(const std::vector<N> &values) {
  DeviceArray<Runtime, N> out(static_cast<index>(values.size()));
  if (!values.empty())
    Runtime::to_device(out.get(), values.data(), values.size() * sizeof(N));
  return out;
}

template <class Runtime, class N> std::vector<N> to_host(const N *values, index n) {
  std::vector<N> out(static_cast<std::size_t>(n));
  if (n > 0)
    Runtime::to_host(out.data(), values, out.size() * sizeof(N));
  return out;
}

} // namespace lowla
