// Eigenvalues of the factors of a Kronecker product from Python: the same for every device.
#pragma once

#include "python.hpp"

#include "lowla/core/view.hpp"

#include <vector>

namespace lowla::bindings {

/// Arrays in main memory, converted where they are not of R.
template <class R> std::vector<std::vector<R>> eigenvalues_of(const py::sequence &w) {
  std::vector<std::vector<R>> values;
  for (const py::handle &factor : w) {
    const auto held = py::cast<py::array_t<R, py::array::c_style | py::array::forcecast>>(factor);
    values.emplace_back(held.data(), held.data() + held.size());
  }
  return values;
}

/// Whether there are as many as the order of each square matrix of eigenvectors.
template <class R, class T>
bool fit_each_other(const std::vector<std::vector<R>> &w, const std::vector<MatrixView<T>> &V) {
  bool fits = w.size() == V.size() && !w.empty();
  for (std::size_t i = 0; fits && i < w.size(); ++i)
    fits = V[i].m == V[i].n && V[i].n == static_cast<index>(w[i].size());
  return fits;
}

} // namespace lowla::bindings
