// What the modules share at run time: signals, SciPy's BLAS, and exceptions.
#include "python.hpp"

#include "lowla/core/blas.hpp"

#include <chrono>
#include <cstring>

namespace lowla::bindings {

void poll_signals() {
  using clock = std::chrono::steady_clock;
  thread_local clock::time_point last{};
  const auto now = clock::now();
  if (now - last < std::chrono::milliseconds(50))
    return;
  last = now;
  py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0)
    throw Cancelled();
}

namespace {

/// The pointer of one capsule of scipy.linalg.cython_*, after a look at its signature: it must be
/// a void function of `arity` pointers.
void *capsule_pointer(const py::dict &capi, const std::string &name, int arity) {
  if (!capi.contains(name))
    throw py::import_error("SciPy's BLAS/LAPACK lacks " + name);
  const py::object capsule = capi[name.c_str()];
  const char *signature = PyCapsule_GetName(capsule.ptr());
  if (signature == nullptr)
    throw py::error_already_set();
  int commas = 0, stars = 0;
  for (const char *c = signature; *c != '\0'; ++c) {
    commas += *c == ',';
    stars += *c == '*';
  }
  if (std::strncmp(signature, "void ", 5) != 0 || commas + 1 != arity || stars != arity)
    throw py::import_error("SciPy's " + name + " has an unexpected signature: " + signature);
  void *pointer = PyCapsule_GetPointer(capsule.ptr(), signature);
  if (pointer == nullptr)
    throw py::error_already_set();
  return pointer;
}

/// 4 or 8: ilaver writes three integers; what it leaves of three int64 -1 tells their width.
int probe_integer_bytes(void *ilaver) {
  std::int64_t version[3] = {-1, -1, -1};
  reinterpret_cast<void (*)(void *, void *, void *)>(ilaver)(&version[0], &version[1], &version[2]);
  return (version[0] >> 32) == -1 ? 4 : 8;
}

} // namespace

void ensure_blas() {
  if (blas::loaded())
    return;
  const auto blas_capi =
      py::module_::import("scipy.linalg.cython_blas").attr("__pyx_capi__").cast<py::dict>();
  const auto lapack_capi =
      py::module_::import("scipy.linalg.cython_lapack").attr("__pyx_capi__").cast<py::dict>();
  const int bytes = probe_integer_bytes(capsule_pointer(lapack_capi, "ilaver", 3));
  for (const char type : {'s', 'd', 'c', 'z'}) {
    const bool complex = type == 'c' || type == 'z';
    const int arity[blas::kRoutineCount] = {13, 11, 10, 5, complex ? 13 : 11, complex ? 15 : 14,
                                            8,  6,  6};
    for (int r = 0; r < blas::kRoutineCount; ++r) {
      const auto routine = static_cast<blas::Routine>(r);
      const std::string name = blas::routine_name(routine, type);
      const bool from_blas = routine <= blas::kHerk;
      blas::install(routine, type,
                    capsule_pointer(from_blas ? blas_capi : lapack_capi, name, arity[r]), bytes);
    }
  }
}

void translate(std::exception_ptr p) {
  try {
    if (p)
      std::rethrow_exception(p);
  } catch (const ValueError &e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const OverflowError &e) {
    PyErr_SetString(PyExc_OverflowError, e.what());
  } catch (const LinAlgError &e) {
    py::set_error(py::module_::import("numpy.linalg").attr("LinAlgError"), e.what());
  } catch (const Cancelled &) {
    if (!PyErr_Occurred())
      PyErr_SetString(PyExc_KeyboardInterrupt, "");
  } catch (const Error &e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
}

} // namespace lowla::bindings
