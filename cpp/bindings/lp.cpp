// Binding of l_p regression.
#include "lp_request.hpp"

namespace lowla::bindings {
namespace {

/// b (m,) in double precision.
template <class T> std::vector<double> right_side(const py::array &b, index m) {
  if (b.ndim() != 1 || b.shape(0) != m)
    throw ValueError("b must have shape (" + std::to_string(m) + ",)");
  if (!py::isinstance<py::array_t<T>>(b))
    throw py::type_error("b has another dtype than A");
  std::vector<double> out(static_cast<std::size_t>(m));
  const auto values = py::reinterpret_borrow<py::array_t<T>>(b).template unchecked<1>();
  for (index i = 0; i < m; ++i)
    out[static_cast<std::size_t>(i)] = static_cast<double>(values(i));
  return out;
}

py::tuple lp_regression(const py::object &A, const py::array &b, double p,
                        const std::string &method, index rows, double tol, index max_iter,
                        std::uint64_t key, bool check_finite, const py::object &monitor) {
  const LpRequest request = lp_request(p, method, rows, tol, max_iter, key, check_finite, monitor);
  ensure_blas();
  return with_view(A, [&](auto zero, auto view) -> py::tuple {
    using T = decltype(zero);
    if constexpr (is_complex_v<T>) {
      throw py::type_error("A must be real");
    } else {
      check_not_empty(view);
      std::vector<double> right = right_side<T>(b, view.m);
      const LpResult result = without_gil([&] {
        const auto matrix = lp_matrix(view);
        return LpRegression<T>(*matrix, std::move(right), request).solve();
      });
      return py::make_tuple(vector_of<T>(result.x), to_dict(result.facts));
    }
  });
}

} // namespace

void register_lp(py::module_ &m) {
  m.def("lp_regression", &lp_regression, py::arg("A"), py::arg("b"), py::arg("p"),
        py::arg("method"), py::arg("rows"), py::arg("tol"), py::arg("max_iter"), py::arg("key"),
        py::arg("check_finite"), py::arg("monitor"));
}

} // namespace lowla::bindings
