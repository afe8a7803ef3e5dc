// Binding of least squares.
#include "lstsq_request.hpp"
#include "operator_tall.hpp"

#include <algorithm>

namespace lowla::bindings {
namespace {

template <class T> Small<wide_t<T>> entries_of(MatrixView<T> b) {
  Small<wide_t<T>> out(b.m, b.n);
  for (index i = 0; i < b.m; ++i)
    for (index j = 0; j < b.n; ++j) {
      const wide_t<T> value(*b.at(i, j));
      out(i, j) = b.conjugated ? conj_of(value) : value;
    }
  return out;
}

/// Matrices as NumPy arrays (see operator_tall.hpp).
template <class T> struct SmallExchange {
  using Wide = wide_t<T>;
  static Small<Wide> apply(py::handle object, const char *method, real_t<T> factor,
                           const Small<Wide> &X, index rows) {
    py::array_t<T> x({X.rows, X.cols});
    auto to = x.template mutable_unchecked<2>();
    for (index i = 0; i < X.rows; ++i)
      for (index j = 0; j < X.cols; ++j)
        to(i, j) = static_cast<T>(X(i, j)) * factor;
    const py::object product = object.attr(method)(x);
    const auto y = py::array_t<T, py::array::forcecast>::ensure(product);
    if (!y)
      throw py::error_already_set();
    if (y.ndim() != 2 || y.shape(0) != rows || y.shape(1) != X.cols)
      throw py::value_error(std::string("A.") + method + " returned an array of the wrong shape");
    return entries_of(view_of<T>(y));
  }
};

py::tuple lstsq(const py::object &A, const py::array &b, double rcond, const std::string &method,
                const std::string &sketch, double damp, double tol, index max_iter, index rows,
                std::uint64_t key, bool check_finite, const py::object &monitor) {
  const LstsqRequest request =
      lstsq_request(rcond, method, sketch, damp, tol, max_iter, rows, key, check_finite, monitor);
  ensure_blas();
  const auto finish = [](auto zero, const auto &result) {
    using T = decltype(zero);
    using R = real_t<T>;
    py::array_t<T> x({result.x.rows, result.x.cols});
    const std::vector<T> values = by_rows<T>(result.x);
    std::copy(values.begin(), values.end(), x.mutable_data());
    return py::make_tuple(x, vector_of<R>(result.residuals2), result.rank, vector_of<R>(result.s),
                          to_dict(result.facts));
  };
  if (!py::isinstance<py::array>(A) && !py::isinstance<py::tuple>(A))
    return with_operator(A, [&](auto zero, index m, index n) -> py::tuple {
      using T = decltype(zero);
      return finish(zero, solve_operator<T, SmallExchange<T>>(A, m, n, view_of<T>(b), request,
                                                              entries_of<T>));
    });
  return with_view(A, [&](auto zero, auto a) -> py::tuple {
    using T = decltype(zero);
    const auto rhs = view_of<T>(b);
    check_shapes(a, rhs);
    return finish(zero, without_gil([&] {
                    if (a.m >= a.n)
                      return LeastSquares<T>(*tall(a, rhs), request).solve();
                    return MinimumNorm<T>(*adjoint_tall(a), entries_of(rhs), request).solve();
                  }));
  });
}

} // namespace

void register_lstsq(py::module_ &m) {
  m.def("lstsq", &lstsq, py::arg("A"), py::arg("b"), py::arg("rcond"), py::arg("method"),
        py::arg("sketch"), py::arg("damp"), py::arg("tol"), py::arg("max_iter"), py::arg("rows"),
        py::arg("key"), py::arg("check_finite"), py::arg("monitor"));
}

} // namespace lowla::bindings
