// Bindings of the Kronecker and Monarch products.
#include "python.hpp"

#include "lowla/kron.hpp"
#include "lowla/monarch.hpp"

namespace lowla::bindings {
namespace {

/// K X, or conj(K) X; X (n, r) C- or Fortran-ordered (else copied), the result alike.
py::array kron_matmul(const py::sequence &factors, const py::array &X, bool conjugate) {
  if (X.ndim() != 2)
    throw ValueError("X must have 2 dimensions, got " + std::to_string(X.ndim()));
  return with_scalar(X.dtype(), [&](auto zero) -> py::array {
    using T = decltype(zero);
    std::vector<py::array> held;
    std::vector<MatrixView<T>> views;
    index rows = 1, inner = 1;
    for (const py::handle &factor : factors) {
      held.push_back(py::cast<py::array>(factor));
      views.push_back(view_of<T>(held.back()));
      views.back().conjugated = conjugate && is_complex_v<T>;
      rows *= views.back().m;
      inner *= views.back().n;
    }
    if (views.empty() || X.shape(0) != inner)
      throw ValueError("X must have " + std::to_string(inner) + " rows, got " +
                       std::to_string(X.shape(0)));
    const index columns = X.shape(1);
    const bool columns_first = (X.flags() & py::array::f_style) != 0 && columns > 1 &&
                               (X.flags() & py::array::c_style) == 0;
    const py::array_t<T, py::array::forcecast> x =
        columns_first ? py::array_t<T, py::array::forcecast>(X)
                      : py::array_t<T, py::array::forcecast>(
                            py::array_t<T, py::array::c_style | py::array::forcecast>(X));
    const auto item = static_cast<py::ssize_t>(sizeof(T));
    const std::vector<py::ssize_t> strides = columns_first
                                                 ? std::vector<py::ssize_t>{item, item * rows}
                                                 : std::vector<py::ssize_t>{item * columns, item};
    py::array_t<T> Y(std::vector<py::ssize_t>{rows, columns}, strides);
    T *y = Y.mutable_data();
    const T *source = x.data();
    if (rows == 0 || columns == 0)
      return Y;
    if (inner == 0) {
      std::fill(y, y + rows * columns, T(0));
      return Y;
    }
    without_gil([&] { kron_multiply(views, source, columns, columns_first, y); });
    return Y;
  });
}

/// M X, M^T X, or either with M conjugated; X (n, c).
py::array monarch_matmul(const py::array &L, const py::array &R, const py::array &X, bool permuted,
                         bool transpose, bool conjugate) {
  if (L.ndim() != 3 || R.ndim() != 3 || X.ndim() != 2)
    throw ValueError("L and R must have 3 dimensions and X 2");
  return with_scalar(X.dtype(), [&](auto zero) -> py::array {
    using T = decltype(zero);
    using Rows = py::array_t<T, py::array::c_style | py::array::forcecast>;
    const Rows left(L), right(R);
    const MatrixView<T> x = view_of<T>(X);
    const Blocks<T> l{left.data(), left.shape(0), left.shape(1), left.shape(2)};
    const Blocks<T> r{right.data(), right.shape(0), right.shape(1), right.shape(2)};
    const index inner = transpose ? l.count * l.m : r.count * r.n;
    if (r.count * r.m != l.count * l.n || x.m != inner)
      throw ValueError("the blocks and X do not fit");
    py::array_t<T> Y({transpose ? r.count * r.n : l.count * l.m, x.n});
    T *y = Y.mutable_data();
    if (Y.size() == 0)
      return Y;
    if (inner == 0 || r.count * r.m == 0) {
      std::fill(y, y + Y.size(), T(0));
      return Y;
    }
    without_gil([&] { monarch_multiply(l, r, x, permuted, transpose, conjugate, y); });
    return Y;
  });
}

} // namespace

void register_kron(py::module_ &m) {
  m.def("kron_matmul", &kron_matmul, py::arg("factors"), py::arg("X"), py::arg("conjugate"));
  m.def("monarch_matmul", &monarch_matmul, py::arg("L"), py::arg("R"), py::arg("X"),
        py::arg("permuted"), py::arg("transpose"), py::arg("conjugate"));
}

} // namespace lowla::bindings
