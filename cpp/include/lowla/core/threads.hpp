// One small thread pool for the whole library.
//
// Lazy; the caller works too and never waits for a worker that has not started; workers spin for at
// most kSpin, or kAwakeSpin inside a kernel that asks for it (Awake), then sleep; a nested
// parallel_for runs serially; the first exception is rethrown on the caller; after fork() the child
// starts with an empty pool. Chunks are handed out dynamically, so a result must depend on the
// chunk index alone, never on the thread.
#pragma once

#include "lowla/core/cancel.hpp"
#include "lowla/core/scalar.hpp"

#include <algorithm>
#include <memory>
#include <type_traits>

namespace lowla::threads {

/// Threads that a parallel loop may use (LOWLA_NUM_THREADS, else the CPUs this process may run on).
int get_num_threads();
void set_num_threads(int n);
/// True inside a parallel loop: everything called from there runs serially.
bool in_parallel();

/// While one lives, workers wait longer for the next loop before they sleep, out of which they need
/// some 50 us: for kernels whose loops alternate with short serial work.
class Awake {
public:
  Awake();
  ~Awake();
  Awake(const Awake &) = delete;
  Awake &operator=(const Awake &) = delete;
};

namespace detail {
using ChunkFunction = void (*)(void *context, index chunk);
void run(index n_chunks, ChunkFunction f, void *context);
} // namespace detail

/// f(chunk) for chunk in 0..n_chunks-1, in parallel; returns when all are done.
template <class F> void parallel_for(index n_chunks, F &&f) {
  if (n_chunks <= 1 || in_parallel() || get_num_threads() == 1) {
    for (index chunk = 0; chunk < n_chunks; ++chunk) {
      f(chunk);
      if (!in_parallel())
        CancelScope::poll();
    }
    return;
  }
  detail::run(
      n_chunks,
      [](void *context, index chunk) {
        (*static_cast<std::remove_reference_t<F> *>(context))(chunk);
      },
      const_cast<void *>(static_cast<const void *>(std::addressof(f))));
}

/// f(first, last) for spans of `size` (the last may be shorter) of the numbers begin .. end - 1.
template <class F> void for_spans(index begin, index end, index size, F &&f) {
  parallel_for((end - begin + size - 1) / size,
               [&](index c) { f(begin + c * size, std::min(end, begin + (c + 1) * size)); });
}

} // namespace lowla::threads
