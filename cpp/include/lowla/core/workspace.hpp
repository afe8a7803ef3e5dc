// Memory for panels, kept from one allocation to the next.
//
// Fresh pages cost as much as the arithmetic on them (the kernel clears them), and a solver asks
// for the same few sizes again and again. Freed buffers go to a free list of the thread and are
// taken from there: all of them inside a Scope, the latest 16 MiB between calls, none when the
// thread ends.
#pragma once

#include "lowla/core/scalar.hpp"

#include <cstddef>

namespace lowla::workspace {

/// 64-byte aligned, uninitialised; throws std::bad_alloc.
void *allocate(std::size_t bytes);
void release(void *memory, std::size_t bytes) noexcept;

/// Keeps all freed buffers of this thread for reuse until the outermost scope ends.
class Scope {
public:
  Scope();
  ~Scope();
  Scope(const Scope &) = delete;
  Scope &operator=(const Scope &) = delete;
};

/// Memory for one use: where it ends, outside any Scope, this thread keeps 1 MiB at most.
class OneUse {
public:
  OneUse() = default;
  ~OneUse();
  OneUse(const OneUse &) = delete;
  OneUse &operator=(const OneUse &) = delete;
};

} // namespace lowla::workspace

namespace lowla {

/// Uninitialised, 64-byte aligned array.
template <class R> class Buffer {
public:
  Buffer() = default;
  explicit Buffer(index n)
      : bytes_(n > 0 ? static_cast<std::size_t>(n) * sizeof(R) : 0),
        data_(bytes_ > 0 ? static_cast<R *>(workspace::allocate(bytes_)) : nullptr) {}
  Buffer(Buffer &&other) noexcept : bytes_(other.bytes_), data_(other.data_) {
    other.bytes_ = 0;
    other.data_ = nullptr;
  }
  Buffer &operator=(Buffer &&other) noexcept {
    if (this != &other) {
      workspace::release(data_, bytes_);
      bytes_ = other.bytes_;
      data_ = other.data_;
      other.bytes_ = 0;
      other.data_ = nullptr;
    }
    return *this;
  }
  ~Buffer() { workspace::release(data_, bytes_); }

  R *get() { return data_; }
  const R *get() const { return data_; }

private:
  std::size_t bytes_ = 0;
  R *data_ = nullptr;
};

} // namespace lowla
