// Keeping SciPy's OpenBLAS on one thread (see core/blas.hpp).
#include "lowla/core/blas.hpp"

#include <mutex>

#if defined(__linux__)
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#endif

namespace lowla::blas {
namespace {

struct Pool {
  int (*get)();
  void (*set)(int);
};

/// The OpenBLAS libraries with LP64 integers in this process: SciPy's, or a shared one.
std::vector<Pool> find_pools() {
  std::vector<Pool> pools;
#if defined(__linux__)
  std::vector<std::string> paths;
  dl_iterate_phdr(
      [](dl_phdr_info *info, std::size_t, void *found) {
        if (info->dlpi_name != nullptr && std::strstr(info->dlpi_name, "openblas") != nullptr)
          static_cast<std::vector<std::string> *>(found)->emplace_back(info->dlpi_name);
        return 0;
      },
      &paths);
  for (const std::string &path : paths) {
    void *library = dlopen(path.c_str(), RTLD_NOLOAD | RTLD_LAZY);
    if (library == nullptr)
      continue;
    for (const char *prefix : {"scipy_", ""}) {
      const std::string stem = std::string(prefix) + "openblas_";
      void *get = dlsym(library, (stem + "get_num_threads").c_str());
      void *set = dlsym(library, (stem + "set_num_threads").c_str());
      if (get != nullptr && set != nullptr) {
        pools.push_back({reinterpret_cast<int (*)()>(get), reinterpret_cast<void (*)(int)>(set)});
        break;
      }
    }
    dlclose(library); // one reference less; whoever loaded it keeps it
  }
#endif
  return pools;
}

/// How many `OneThread` there are, and what the first of them found.
struct State {
  std::mutex mutex;
  std::vector<Pool> pools;
  std::vector<int> before;
  bool searched = false;
  int depth = 0;
};

State &state() {
  static State *const s = new State; // outlives every thread
  return *s;
}

} // namespace

OneThread::OneThread(bool wanted) : active_(wanted) {
  if (!active_)
    return;
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!s.searched) {
    s.pools = find_pools();
    s.searched = true;
  }
  if (s.depth++ > 0)
    return;
  s.before.clear();
  for (const Pool &pool : s.pools) {
    s.before.push_back(pool.get());
    if (s.before.back() > 1)
      pool.set(1);
  }
}

OneThread::~OneThread() {
  if (!active_)
    return;
  State &s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (--s.depth > 0)
    return;
  for (std::size_t i = 0; i < s.pools.size(); ++i)
    if (s.before[i] > 1)
      s.pools[i].set(s.before[i]);
}

} // namespace lowla::blas
