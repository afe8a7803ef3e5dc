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
/// What it keeps of them between calls; nothing where every use after release is to be seen.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kKeepBytes = 0;
#else
constexpr std::size_t kKeepBytes = std::size_t(1) << 24;
#endif
/// From here on huge pages: a byte of them is cleared six times faster.
constexpr std::size_t kLarge = std::size_t(1) << 24, kHugePage = std::size_t(1) << 21;

/// Trivially destructible: buffers of other thread-local objects may be released after it.
struct FreeList {
  Block blocks[kKeep]; // the oldest first
  int count = 0;
  std::size_t bytes = 0;
  int depth = 0;
  bool closed = false; // the thread ends

  Block take(int i) noexcept {
    const Block taken = blocks[i];
    for (--count; i < count; ++i)
      blocks[i] = blocks[i + 1];
    bytes -= taken.bytes;
    return taken;
  }
  void put(Block block) noexcept {
    if (count == kKeep)
      std::free(take(0).memory);
    blocks[count++] = block;
    bytes += block.bytes;
  }
  /// Frees what alone is more than `most`, then the oldest.
  void shrink(std::size_t most) noexcept {
    for (int i = count; i-- > 0;)
      if (blocks[i].bytes > most)
        std::free(take(i).memory);
    while (bytes > most)
      std::free(take(0).memory);
  }
};

FreeList &free_list() {
  thread_local FreeList list;
  return list;
}

/// Made by a thread that keeps memory between calls: gives it back when the thread ends.
struct LastOwner {
  ~LastOwner() {
    free_list().closed = true;
    free_list().shrink(0);
  }
};

void keep_some(FreeList &list) noexcept {
  thread_local LastOwner owner;
  (void)owner;
  list.shrink(list.closed ? 0 : kKeepBytes);
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
  list.put({memory, rounded(bytes)});
  if (list.depth == 0)
    keep_some(list);
}

Scope::Scope() { ++free_list().depth; }

Scope::~Scope() {
  FreeList &list = free_list();
  if (--list.depth == 0)
    keep_some(list);
}

OneUse::~OneUse() {
  constexpr std::size_t kLeft = std::size_t(1) << 20;
  FreeList &list = free_list();
  if (list.depth == 0)
    list.shrink(kLeft);
}

} // namespace lowla::workspace
