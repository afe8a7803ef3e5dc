// Eigenvalues of the factors of a Kronecker product from Python: the same for every device.
#pragma once

#include "python.hpp"

#include "lowla/core/view.hpp"

#include <vector>

namespace lowla::bindings {

/// As many as the order of each square matrix of eigenvectors; from arrays in main memory,
/// converted where they are of another dtype.
template <class T>
std::vector<std::vector<real_t<T>>> eigenvalues_of(const py::sequence &w,
                                                   const std::vector<MatrixView<T>> &V) {
  using R = real_t<T>;
  std::vector<std::vector<R>> values;
  for (const py::handle &factor : w) {
    const auto held = py::cast<py::array_t<R, py::array::c_style | py::array::forcecast>>(factor);
    values.emplace_back(held.data(), held.data() + held.size());
  }
  bool fits = values.size() == V.size() && !values.empty();
  for (std::size_t i = 0; fits && i < values.size(); ++i)
    fits = V[i].m == V[i].n && V[i].n == static_cast<index>(values[i].size());
  if (!fits)
    throw ValueError("w and V do not fit");
  return values;
}

} // namespace lowla::bindings
