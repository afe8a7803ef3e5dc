// Gradients and indices as Python sees them: the same for every device.
#pragma once

#include "lowla/mfac.hpp"

#include "python.hpp"

#include <string>

namespace lowla::bindings {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Indices = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

inline Stored stored_type(const py::dtype &dtype) {
  switch (dtype.char_()) {
  case 'f':
    return Stored::kFloat;
  case 'd':
    return Stored::kDouble;
  case 'e':
    return Stored::kFloat16;
  case 'H':
    return Stored::kBFloat16;
  default:
    throw py::type_error("gradients must be float16, bfloat16 (as uint16), float32 or float64");
  }
}

/// Of vectors: float or double.
inline bool is_double(const py::dtype &dtype) {
  const char kind = dtype.char_();
  if (kind != 'f' && kind != 'd')
    throw py::type_error("vectors must be float32 or float64");
  return kind == 'd';
}

inline void check_below(const Indices &indices, index n, const char *name) {
  for (py::ssize_t t = 0; t < indices.size(); ++t)
    if (indices.data()[t] < 0 || indices.data()[t] >= n)
      throw ValueError(std::string(name) + " must be in 0.." + std::to_string(n - 1));
}

inline py::dict to_dict(const Window &window) {
  py::dict out;
  out["head"] = window.head;
  out["count"] = window.count;
  out["refactored"] = window.refactored;
  return out;
}

} // namespace lowla::bindings
