// The cancel flag: long loops ask `poll()` on the calling thread; it throws Cancelled on Ctrl-C.
#pragma once

namespace lowla {

/// Called at least several times a second by the thread that entered the library. The bindings
/// install a poll that runs the interpreter's signal handlers; in plain C++ nothing is polled.
class CancelScope {
public:
  using Poll = void (*)();
  explicit CancelScope(Poll poll) : previous_(current()) { current() = poll; }
  ~CancelScope() { current() = previous_; }
  CancelScope(const CancelScope &) = delete;
  CancelScope &operator=(const CancelScope &) = delete;

  static void poll() {
    if (current() != nullptr)
      current()();
  }

private:
  static Poll &current() {
    thread_local Poll poll = nullptr;
    return poll;
  }
  Poll previous_;
};

} // namespace lowla
