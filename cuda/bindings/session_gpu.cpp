// Sessions on a GPU: CuPy's allocator, current stream and cuBLAS handle (see session.hpp).
#include "session.hpp"

#include "lowla/core/threads.hpp"

#include <optional>

namespace lowla::bindings::gpu {

const char *const kArrayLibrary = "cupy";
const char *const kArrayInterface = "__cuda_array_interface__";

namespace {

/// Device memory of CuPy's pool; the owner is its Python object. The pool hands freed memory only
/// to later work on the same stream.
void *allocate(std::size_t bytes, void *&owner) {
  py::gil_scoped_acquire acquire;
  try {
    py::object memory = py::module_::import("cupy.cuda").attr("alloc")(bytes);
    auto *data = reinterpret_cast<void *>(py::cast<std::uintptr_t>(memory.attr("ptr")));
    owner = memory.release().ptr();
    return data;
  } catch (py::error_already_set &error) {
    error.restore();
    throw Cancelled();
  }
}

void release(void *owner) {
  py::gil_scoped_acquire acquire;
  py::error_scope kept; // an exception may be on its way
  py::handle(static_cast<PyObject *>(owner)).dec_ref();
}

/// Where the CUDA wheels or the toolkit have it.
std::string cublas_path() {
  try {
    const auto pathfinder = py::module_::import("cuda.pathfinder");
    return py::cast<std::string>(
        pathfinder.attr("load_nvidia_dynamic_lib")("cublas").attr("abs_path"));
  } catch (const py::error_already_set &error) {
    throw CudaError(std::string("cuBLAS was not found: ") + error.what());
  }
}

/// The library that CuPy's handle belongs to: CuPy has loaded it already.
const CublasTable &cublas(const py::module_ &cuda) {
  static std::optional<CublasTable> table; // under the GIL
  if (!table) {
    const auto version = py::cast<int>(cuda.attr("runtime").attr("runtimeGetVersion")());
    try {
      table = CublasTable::open("libcublas.so." + std::to_string(version / 1000), true);
    } catch (const CudaError &) {
      table = CublasTable::open(cublas_path(), false);
    }
  }
  return *table;
}

} // namespace

struct Session::State {
  py::object device;
  std::optional<GpuRuntime::Scope> scope;
};

Session::Session(const py::object &array) : state_(std::make_unique<State>()) {
  ensure_blas();
  const auto cuda = py::module_::import("cupy.cuda");
  py::object device =
      py::hasattr(array, "device") ? py::object(array.attr("device")) : cuda.attr("Device")();
  const auto id = py::cast<int>(device.attr("id"));
  device.attr("__enter__")();
  state_->device = std::move(device);
  try {
    const auto stream = py::cast<std::uintptr_t>(cuda.attr("get_current_stream")().attr("ptr"));
    const auto handle = py::cast<std::uintptr_t>(cuda.attr("get_cublas_handle")());
    state_->scope.emplace(id, reinterpret_cast<void *>(stream), reinterpret_cast<void *>(handle),
                          cublas(cuda), &allocate);
  } catch (...) {
    leave();
    throw;
  }
}

Session::~Session() { leave(); }

void Session::leave() {
  {
    py::gil_scoped_release waiting; // for the last copies to the device
    state_->scope.reset();
  }
  py::error_scope kept;
  try {
    state_->device.attr("__exit__")(py::none(), py::none(), py::none());
  } catch (py::error_already_set &error) {
    error.discard_as_unraisable("lowla._cuda");
  }
}

int device_count() { return GpuRuntime::device_count(); }

py::dict features() {
  py::dict out;
  out["devices"] = device_count();
  const int version = GpuRuntime::version();
  out["cuda"] = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  out["architectures"] = LOWLA_CUDA_ARCHITECTURES;
  out["threads"] = threads::get_num_threads();
  return out;
}

void prepare(py::module_ &m) {
  m.doc() = "CUDA kernels of lowla.";
  GpuRuntime::set_release(&release);
}

} // namespace lowla::bindings::gpu
