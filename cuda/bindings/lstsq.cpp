// Binding of least squares.
#include "arrays.hpp"
#include "lstsq_request.hpp"
#include "operator_tall.hpp"

namespace lowla::bindings::gpu {
namespace {

/// Matrices as arrays of the device's library (see operator_tall.hpp).
template <class T> struct SmallExchange {
  using Wide = wide_t<T>;
  static Small<Wide> apply(py::handle object, const char *method, real_t<T> factor,
                           const Small<Wide> &X, index rows) {
    std::vector<T> values = by_rows<T>(X);
    for (T &value : values)
      value *= factor;
    const Output<T> x({X.rows, X.cols});
    Runtime::to_device(x.data, values.data(), values.size() * sizeof(T));
    const py::object product = object.attr(method)(x.array);
    if (!is_array(product))
      throw py::type_error(std::string("A.") + method + " returned no array of " + kArrayLibrary);
    const ArrayInfo y(product);
    if (y.shape != std::vector<index>{rows, X.cols})
      throw py::value_error(std::string("A.") + method + " returned an array of the wrong shape");
    return Device<T>::entries(matrix_view_of<T>(y));
  }
};

template <class T> py::tuple to_tuple(const LstsqResult<wide_t<T>> &result) {
  const Output<T> x({result.x.rows, result.x.cols});
  const std::vector<T> values = by_rows<T>(result.x);
  Runtime::to_device(x.data, values.data(), values.size() * sizeof(T));
  return py::make_tuple(x.array, vector_of<T>(result.residuals2), result.rank,
                        vector_of<T>(result.s), to_dict(result.facts));
}

/// tall(b) opens A with its right-hand sides, adjoint() A^H of a wide A.
template <class View, class T, class Tall, class Adjoint>
py::tuple solve(const View &A, const MatrixView<T> &b, const LstsqRequest &request, Tall &&tall,
                Adjoint &&adjoint) {
  check_shapes(A, b);
  return to_tuple<T>(without_gil([&] {
    if (A.m >= A.n)
      return LeastSquares<T>(*tall(b), request).solve();
    return MinimumNorm<T>(*adjoint(), Device<T>::entries(b), request).solve();
  }));
}

py::tuple lstsq(const py::object &A, const py::object &b, double rcond, const std::string &method,
                const std::string &sketch, double damp, double tol, index max_iter, index rows,
                std::uint64_t key, bool check_finite, const py::object &monitor) {
  const LstsqRequest request =
      lstsq_request(rcond, method, sketch, damp, tol, max_iter, rows, key, check_finite, monitor);
  if (!is_array(b))
    throw py::type_error(std::string("b must be an array of ") + kArrayLibrary);
  const Session session(located(A));
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
  if (!is_array(A))
    return with_operator(A, [&](auto zero, index m, index n) {
      using T = decltype(zero);
      return to_tuple<T>(solve_operator<T, SmallExchange<T>>(A, m, n, matrix_view_of<T>(right),
                                                             request, Device<T>::entries));
    });
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
