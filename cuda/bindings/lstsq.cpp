// Binding of least squares.
#include "arrays.hpp"
#include "lstsq_request.hpp"

namespace lowla::bindings::gpu {
namespace {

/// tall(b) opens A with its right-hand sides, adjoint() A^H of a wide A.
template <class View, class T, class Tall, class Adjoint>
py::tuple solve(const View &A, const MatrixView<T> &b, const LstsqRequest &request, Tall &&tall,
                Adjoint &&adjoint) {
  check_shapes(A, b);
  const auto result = without_gil([&] {
    if (A.m >= A.n)
      return LeastSquares<T>(*tall(b), request).solve();
    return MinimumNorm<T>(*adjoint(), Device<T>::entries(b), request).solve();
  });
  const Output<T> x({result.x.rows, result.x.cols});
  const std::vector<T> values = by_rows<T>(result.x);
  Runtime::to_device(x.data, values.data(), values.size() * sizeof(T));
  return py::make_tuple(x.array, vector_of<T>(result.residuals2), result.rank,
                        vector_of<T>(result.s), to_dict(result.facts));
}

py::tuple lstsq(const py::object &A, const py::object &b, double rcond, const std::string &method,
                const std::string &sketch, double damp, double tol, index max_iter, index rows,
                std::uint64_t key, bool check_finite, const py::object &monitor) {
  const LstsqRequest request =
      lstsq_request(rcond, method, sketch, damp, tol, max_iter, rows, key, check_finite, monitor);
  if (!is_array(b) || !(is_array(A) || py::isinstance<py::tuple>(A)))
    throw py::type_error(std::string("A and b must be arrays of ") + kArrayLibrary);
  const Session session(located(A));
  ensure_blas();
  const ArrayInfo right(b);
  if (py::isinstance<py::tuple>(A)) {
    const CsrParts parts(py::reinterpret_borrow<py::tuple>(A));
    return with_scalar(parts.data.dtype, [&](auto zero) {
      using T = decltype(zero);
      return with_index(parts, [&](auto integer) {
        const auto a = parts.view<T, decltype(integer)>();
        return solve(
            a, matrix_view_of<T>(right), request,
            [&](const MatrixView<T> &rhs) { return Device<T>::tall(a, parts.stored(), rhs); },
            [&] { return Device<T>::adjoint_tall(a, parts.stored()); });
      });
    });
  }
  const ArrayInfo matrix(A);
  return with_scalar(matrix.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto a = matrix_view_of<T>(matrix);
    return solve(
        a, matrix_view_of<T>(right), request,
        [&](const MatrixView<T> &rhs) { return Device<T>::tall(a, rhs); },
        [&] { return Device<T>::adjoint_tall(a); });
  });
}

} // namespace

void register_lstsq(py::module_ &m) {
  m.def("lstsq", &lstsq, py::arg("A"), py::arg("b"), py::arg("rcond"), py::arg("method"),
        py::arg("sketch"), py::arg("damp"), py::arg("tol"), py::arg("max_iter"), py::arg("rows"),
        py::arg("key"), py::arg("check_finite"), py::arg("monitor"));
}

} // namespace lowla::bindings::gpu
