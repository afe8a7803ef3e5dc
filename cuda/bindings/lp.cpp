// Binding of l_p regression.
#include "arrays.hpp"
#include "lp_request.hpp"

namespace lowla::bindings::gpu {
namespace {

template <class T> using Lp = CudaLpRegression<T, Runtime>;

/// b (m,) on the host in double precision.
template <class T> std::vector<double> right_side(const py::object &b, index m) {
  const ArrayInfo info(b);
  if (info.ndim() != 1 || info.size() != m)
    throw ValueError("b must have shape (" + std::to_string(m) + ",)");
  if (!info.dtype.equal(py::dtype::of<T>()))
    throw py::type_error("b has another dtype than A");
  const auto item = static_cast<index>(sizeof(T));
  if (m > 1 && info.strides[0] % item != 0)
    throw py::type_error("b is not aligned to its items");
  const MatrixView<T> column{static_cast<const T *>(info.data), m, 1,
                             m > 1 ? info.strides[0] / item : 1, 1};
  return without_gil([&] { return Device<T>::entries(column).data; });
}

py::tuple lp_regression(const py::object &A, const py::object &b, double p,
                        const std::string &method, index rows, double tol, index max_iter,
                        std::uint64_t key, bool check_finite, const py::object &monitor) {
  const LpRequest request = lp_request(p, method, rows, tol, max_iter, key, check_finite, monitor);
  if (!is_array(b) || !(is_array(A) || py::isinstance<py::tuple>(A)))
    throw py::type_error(std::string("A and b must be arrays of ") + kArrayLibrary);
  const Session session(located(A));
  const auto solve = [&](auto zero, const auto &view, auto &&open) -> py::tuple {
    using T = decltype(zero);
    check_not_empty(view);
    std::vector<double> right = right_side<T>(b, view.m);
    const LpResult result = without_gil([&] {
      const auto matrix = open(view);
      return LpRegression<T>(*matrix, std::move(right), request).solve();
    });
    return py::make_tuple(vector_of<T>(result.x), to_dict(result.facts));
  };
  const auto of_real = [](auto zero, auto &&f) -> py::tuple {
    if constexpr (is_complex_v<decltype(zero)>)
      throw py::type_error("A must be real");
    else
      return f(zero);
  };
  if (py::isinstance<py::tuple>(A)) {
    const CsrParts parts(py::reinterpret_borrow<py::tuple>(A));
    return with_scalar(parts.data.dtype, [&](auto scalar) {
      return of_real(scalar, [&](auto zero) {
        using T = decltype(zero);
        return with_index(parts, [&](auto integer) {
          return solve(zero, parts.view<T, decltype(integer)>(),
                       [&](const auto &view) { return Lp<T>::open(view, parts.stored()); });
        });
      });
    });
  }
  const ArrayInfo matrix(A);
  return with_scalar(matrix.dtype, [&](auto scalar) {
    return of_real(scalar, [&](auto zero) {
      using T = decltype(zero);
      return solve(zero, matrix_view_of<T>(matrix),
                   [](const auto &view) { return Lp<T>::open(view); });
    });
  });
}

} // namespace

void register_lp(py::module_ &m) {
  m.def("lp_regression", &lp_regression, py::arg("A"), py::arg("b"), py::arg("p"),
        py::arg("method"), py::arg("rows"), py::arg("tol"), py::arg("max_iter"), py::arg("key"),
        py::arg("check_finite"), py::arg("monitor"));
}

} // namespace lowla::bindings::gpu
