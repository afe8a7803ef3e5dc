// Binding of least squares.
#include "arrays.hpp"
#include "lstsq_request.hpp"

namespace lowla::bindings::gpu {
namespace {

template <class T> py::object vector_of(const std::vector<double> &values) {
  const Output<real_t<T>> out({static_cast<index>(values.size())});
  write_values<T>(values, out.data);
  return out.array;
}

py::tuple lstsq(const py::object &A, const py::object &b, double rcond, const std::string &method,
                const std::string &sketch, double damp, double tol, index max_iter, index rows,
                std::uint64_t key, bool check_finite, const py::object &monitor) {
  const LstsqRequest request =
      lstsq_request(rcond, method, sketch, damp, tol, max_iter, rows, key, check_finite, monitor);
  if (!is_array(A) || !is_array(b))
    throw py::type_error(std::string("A and b must be arrays of ") + kArrayLibrary);
  const Session session(A);
  const ArrayInfo matrix(A), right(b);
  return with_scalar(matrix.dtype, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const auto a = matrix_view_of<T>(matrix), rhs = matrix_view_of<T>(right);
    check_tall(a, rhs);
    const auto result = without_gil([&] {
      const auto tall = Device<T>::tall(a, rhs);
      return LeastSquares<T>(*tall, request).solve();
    });
    const Output<T> x({result.x.rows, result.x.cols});
    const std::vector<T> values = by_rows<T>(result.x);
    Runtime::to_device(x.data, values.data(), values.size() * sizeof(T));
    return py::make_tuple(x.array, vector_of<T>(result.residuals2), result.rank,
                          vector_of<T>(result.s), to_dict(result.facts));
  });
}

} // namespace

void register_lstsq(py::module_ &m) {
  m.def("lstsq", &lstsq, py::arg("A"), py::arg("b"), py::arg("rcond"), py::arg("method"),
        py::arg("sketch"), py::arg("damp"), py::arg("tol"), py::arg("max_iter"), py::arg("rows"),
        py::arg("key"), py::arg("check_finite"), py::arg("monitor"));
}

} // namespace lowla::bindings::gpu
