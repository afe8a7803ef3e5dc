// The free lists behind core/workspace.hpp.
#include "lowla/core/workspace.hpp"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lowla::workspace {
namespace {

struct Block {
  void *memory;
  std::size_t bytes;
};

constexpr int kKeep = 24; // blocks a thread keeps at most
/// From here on huge pages: a byte of them is cleared six times faster.
constexpr std::size_t kLarge = std::size_t(1) << 24, kHugePage = std::size_t(1) << 21;

/// Trivially destructible: buffers of other thread-local objects may be released after it.
struct FreeList {
  Block blocks[kKeep];
  int count = 0;
  int depth = 0;

  Block take(int i) noexcept {
    const Block taken = blocks[i];
    for (--count; i < count; ++i)
      blocks[i] = blocks[i + 1];
    return taken;
  }
};

FreeList &free_list() {
  thread_local FreeList list;
  return list;
}

/// What is really allocated for a request: two equal requests fit the same block.
std::size_t rounded(std::size_t bytes) {
  const std::size_t unit = bytes >= (std::size_t(1) << 16) ? 4096 : 64;
  return (bytes + unit - 1) / unit * unit;
}

} // namespace

void *allocate(std::size_t bytes) {
  bytes = rounded(bytes);
  FreeList &list = free_list();
  for (int i = list.count; i-- > 0;) // the latest is the warmest
    if (list.blocks[i].bytes == bytes)
      return list.take(i).memory;
  const bool large = bytes >= kLarge;
  if (large)
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void *memory = std::aligned_alloc(large ? kHugePage : 64, bytes);
  if (memory == nullptr)
    throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (large)
    madvise(memory, bytes, MADV_HUGEPAGE); // where it is refused, small pages serve
#endif
  return memory;
}

void release(void *memory, std::size_t bytes) noexcept {
  if (memory == nullptr)
    return;
  FreeList &list = free_list();
  if (list.depth == 0) {
    std::free(memory);
    return;
  }
  if (list.count == kKeep)
    std::free(list.take(0).memory);
  list.blocks[list.count++] = {memory, rounded(bytes)};
}

Scope::Scope() { ++free_list().depth; }

Scope::~Scope() {
  FreeList &list = free_list();
  if (--list.depth == 0)
    while (list.count > 0)
      std::free(list.blocks[--list.count].memory);
}

} // namespace lowla::workspace
