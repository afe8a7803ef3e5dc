// The thread pool behind lowla::threads::parallel_for (see core/threads.hpp for its rules).
#include "lowla/core/threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace lowla::threads {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50), kAwakeSpin = std::chrono::microseconds(1000);
constexpr int kMaxThreads = 256;

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

/// One parallel loop. It lives on the heap, shared by all who may look at it, so that a worker that
/// wakes late finds a closed job rather than a dead stack frame. Every thread begins with a share
/// of neighbouring chunks, the same in every loop of as many, and then helps with the others': what
/// it left in its caches it is likely to find again.
struct Job {
  struct alignas(64) Share {
    std::atomic<index> next{0};
    index last = 0;
  };

  detail::ChunkFunction function;
  void *context;
  index n_chunks;
  std::vector<Share> shares;
  std::atomic<index> done{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  Job(detail::ChunkFunction f, void *data, index chunks, index threads)
      : function(f), context(data), n_chunks(chunks), shares(static_cast<std::size_t>(threads)) {
    for (index t = 0; t < threads; ++t) {
      shares[static_cast<std::size_t>(t)].next.store(chunks * t / threads);
      shares[static_cast<std::size_t>(t)].last = chunks * (t + 1) / threads;
    }
  }

  /// Take chunks until none is left, as thread 0 (the caller) and so on. Only a thread that holds a
  /// chunk touches `context`.
  void work(std::size_t thread);

private:
  void run(index chunk, bool caller);
};

thread_local bool t_in_parallel = false;
std::atomic<int> g_awake{0}; // scopes of Awake

struct ParallelScope {
  bool previous = t_in_parallel;
  ParallelScope() { t_in_parallel = true; }
  ~ParallelScope() { t_in_parallel = previous; }
};

void Job::work(std::size_t thread) {
  for (std::size_t k = 0; k < shares.size(); ++k) {
    Share &share = shares[(thread + k) % shares.size()];
    for (index chunk = share.next.fetch_add(1); chunk < share.last; chunk = share.next.fetch_add(1))
      run(chunk, thread == 0);
  }
}

void Job::run(index chunk, bool caller) {
  if (!failed.load(std::memory_order_relaxed)) {
    try {
      {
        ParallelScope scope;
        function(context, chunk);
      }
      if (caller)
        CancelScope::poll();
    } catch (...) {
      if (!failed.exchange(true))
        error = std::current_exception();
    }
  }
  done.fetch_add(1, std::memory_order_acq_rel);
}

class Pool {
public:
  /// Run the job on up to `n_threads` threads, the caller included.
  void run(const std::shared_ptr<Job> &job, int n_threads) {
    grow(n_threads - 1);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      current_ = job;
      wanted_ = n_threads - 1;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job->work(0);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
    while (job->done.load(std::memory_order_acquire) < job->n_chunks) {
      // A worker still holds a chunk: it is at most one chunk away.
      if (std::chrono::steady_clock::now() < deadline)
        pause_cpu();
      else
        std::this_thread::yield();
    }
  }

private:
  void grow(int n_workers) {
    std::lock_guard<std::mutex> lock(mutex_);
    while (static_cast<int>(workers_.size()) < n_workers) {
      const int id = static_cast<int>(workers_.size());
      workers_.emplace_back([this, id] { loop(id); });
      workers_.back().detach();
    }
  }

  void loop(int id) {
    std::uint64_t seen = 0;
    for (;;) {
      const auto start = std::chrono::steady_clock::now();
      while (generation_.load(std::memory_order_acquire) == seen &&
             std::chrono::steady_clock::now() - start <
                 (g_awake.load(std::memory_order_relaxed) > 0 ? kAwakeSpin : kSpin))
        for (int i = 0; i < 16; ++i)
          pause_cpu();
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        if (id < wanted_)
          job = current_;
      }
      if (job)
        job->work(static_cast<std::size_t>(id) + 1);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
  std::shared_ptr<Job> current_;
  int wanted_ = 0;
  std::atomic<std::uint64_t> generation_{0};
};

// The pool is never destroyed: its threads are detached and outlive static destruction; a forked
// child abandons the parent's pool, whose threads do not exist there.
std::atomic<Pool *> g_pool{nullptr};
std::atomic<bool> g_busy{false}; // one job at a time; a second caller runs serially

Pool &pool() {
  Pool *current = g_pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    auto *made = new Pool;
    if (g_pool.compare_exchange_strong(current, made))
      current = made;
    else
      delete made;
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, [] {
      g_pool.store(nullptr);
      g_busy.store(false);
      g_awake.store(0);
      t_in_parallel = false;
    });
    (void)registered;
#endif
  }
  return *current;
}

int default_threads() {
  if (const char *text = std::getenv("LOWLA_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n > 0)
      return n < kMaxThreads ? n : kMaxThreads;
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0)
      return n < kMaxThreads ? n : kMaxThreads;
  }
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

std::atomic<int> &thread_count() {
  static std::atomic<int> count{default_threads()};
  return count;
}

struct BusyScope {
  bool owned = !g_busy.exchange(true, std::memory_order_acquire);
  ~BusyScope() {
    if (owned)
      g_busy.store(false, std::memory_order_release);
  }
};

} // namespace

int get_num_threads() { return thread_count().load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  thread_count().store(n < 1 ? 1 : (n > kMaxThreads ? kMaxThreads : n), std::memory_order_relaxed);
}

bool in_parallel() { return t_in_parallel; }

Awake::Awake() { g_awake.fetch_add(1, std::memory_order_relaxed); }
Awake::~Awake() { g_awake.fetch_sub(1, std::memory_order_relaxed); }

namespace detail {

void run(index n_chunks, ChunkFunction f, void *context) {
  const BusyScope busy;
  const index n_threads = busy.owned ? std::min<index>(get_num_threads(), n_chunks) : 1;
  const auto job = std::make_shared<Job>(f, context, n_chunks, n_threads);
  if (busy.owned)
    pool().run(job, static_cast<int>(n_threads));
  else
    job->work(0);
  if (job->failed.load())
    std::rethrow_exception(job->error);
}

} // namespace detail
} // namespace lowla::threads
