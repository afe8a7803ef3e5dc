// What a call of the module stands on: its run-time, its array library and its device.
//
// The bindings are written for `Runtime`; the module _cuda has GpuRuntime and CuPy, the module
// _cuda_emulated (for tests) EmulatedRuntime and NumPy. session_gpu.cpp and session_emulated.cpp
// define the same functions for the two.
#pragma once

#include "python.hpp"

#include "lowla/device/cuda.cuh"

#if defined(LOWLA_CUDA_EMULATED)
#include "lowla/device/emulated_runtime.hpp"
#else
#include "lowla/device/gpu_runtime.hpp"
#endif

namespace lowla::bindings::gpu {

#if defined(LOWLA_CUDA_EMULATED)
using Runtime = EmulatedRuntime;
#else
using Runtime = GpuRuntime;
#endif
template <class T> using Device = Cuda<T, Runtime>;

/// The library of the arrays, and the attribute by which they describe themselves.
extern const char *const kArrayLibrary;
extern const char *const kArrayInterface;

/// For the time of a call: the device that holds `array` (the current one for None) is current, and
/// work goes to the caller's current stream on it. SciPy's BLAS is loaded.
class Session {
public:
  explicit Session(const py::object &array = py::none());
  ~Session();
  Session(const Session &) = delete;
  Session &operator=(const Session &) = delete;

private:
  struct State;
  void leave();
  std::unique_ptr<State> state_;
};

int device_count();
py::dict features();
/// Sets the module up.
void prepare(py::module_ &m);

} // namespace lowla::bindings::gpu
