// Sessions without a GPU: NumPy arrays, and the device emulated on the CPU (see session.hpp).
#include "session.hpp"

namespace lowla::bindings::gpu {

const char *const kArrayLibrary = "numpy";
const char *const kArrayInterface = "__array_interface__";

struct Session::State {};

Session::Session(const py::object &) { ensure_blas(); }
Session::~Session() = default;
void Session::leave() {}

int device_count() { return 0; }

py::dict features() {
  py::dict out;
  out["devices"] = device_count();
  out["emulated"] = true;
  return out;
}

void register_rows(py::module_ &m);

void prepare(py::module_ &m) {
  m.doc() = "The CUDA backend of lowla, emulated on the CPU for its tests.";
  // Whether a write behind the end of device memory was seen on this thread.
  m.def("overrun", [] { return EmulatedRuntime::overrun(); });
  register_rows(m);
}

} // namespace lowla::bindings::gpu
