// EmulatedRuntime: the device's functors and products on the CPU, for the tests of everything but
// the hardware (device/runtime.hpp lists what a run-time offers).
//
// It is unkind on purpose: memory is handed out full of NaN and checked for writes behind its end,
// and functors are called from the last index to the first, the threads of a block likewise in each
// phase.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/device/runtime.hpp"

#include <cstdlib>
#include <cstring>
#include <new>

namespace lowla {

class EmulatedRuntime {
public:
  static void *allocate(std::size_t bytes, void *&owner) {
    const std::size_t whole = (kHeader + bytes + kGuard + kHeader - 1) / kHeader * kHeader;
    auto *memory = static_cast<unsigned char *>(std::aligned_alloc(kHeader, whole));
    if (memory == nullptr)
      throw std::bad_alloc();
    std::memset(memory, kPoison, kHeader + bytes + kGuard);
    std::memcpy(memory, &bytes, sizeof bytes);
    owner = memory;
    return memory + kHeader;
  }
  static void release(void *owner) {
    auto *memory = static_cast<unsigned char *>(owner);
    std::size_t bytes;
    std::memcpy(&bytes, memory, sizeof bytes);
    for (std::size_t i = 0; i < kGuard; ++i)
      overrun() |= memory[kHeader + bytes + i] != kPoison;
    std::free(memory);
  }
  /// Whether anything on this thread wrote behind the end of its memory.
  static bool &overrun() {
    thread_local bool seen = false;
    return seen;
  }

  static void to_host(void *to, const void *from, std::size_t bytes) { move(to, from, bytes); }
  static void to_device(void *to, const void *from, std::size_t bytes) { move(to, from, bytes); }
  static void copy(void *to, const void *from, std::size_t bytes) { move(to, from, bytes); }

  template <class F> static void for_each(index n, const F &f) {
    for (index i = n - 1; i >= 0; --i)
      f(i);
  }

  /// Little, so that small problems take the ways of large ones.
  static index shared_bytes() { return index(32) << 10; }

  template <class F> static void for_each_block(index blocks, std::size_t bytes, const F &f) {
    void *owner = nullptr;
    void *shared = allocate(bytes, owner);
    for (index b = blocks - 1; b >= 0; --b) {
      std::memset(shared, kPoison, bytes);
      for (int phase = 0; phase < f.phases(); ++phase)
        for (int thread = kBlockThreads - 1; thread >= 0; --thread)
          f(phase, b, thread, shared);
    }
    release(owner);
  }

  template <class T>
  static void gemm(char op_a, char op_b, index m, index n, index k, T alpha, const T *A, index lda,
                   const T *B, index ldb, T beta, T *C, index ldc) {
    blas::gemm(op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  }
  template <class T>
  static void gemm_batched(char op_a, char op_b, index m, index n, index k, const T *A, index lda,
                           index step_a, const T *B, index ldb, index step_b, T *C, index ldc,
                           index step_c, index count) {
    for (index i = count - 1; i >= 0; --i)
      gemm(op_a, op_b, m, n, k, T(1), A + i * step_a, lda, B + i * step_b, ldb, T(0),
           C + i * step_c, ldc);
  }

private:
  static constexpr std::size_t kHeader = 256, kGuard = 64; // aligned as on a GPU
  static constexpr unsigned char kPoison = 0xff;           // all bits set is a NaN, or -1

  static void move(void *to, const void *from, std::size_t bytes) {
    if (bytes > 0)
      std::memcpy(to, from, bytes);
  }
};

} // namespace lowla
