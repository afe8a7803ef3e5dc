// Binding of least squares.
#include "lowla/lstsq.hpp"

#include "request.hpp"

#include <algorithm>

namespace lowla::bindings {
namespace {

LstsqMethod lstsq_method(const std::string &name) {
  if (name == "auto")
    return LstsqMethod::kAuto;
  if (name == "direct")
    return LstsqMethod::kDirect;
  if (name == "precondition")
    return LstsqMethod::kPrecondition;
  if (name == "sketch")
    return LstsqMethod::kSketch;
  throw ValueError("unknown method \"" + name + "\"");
}

py::dict to_dict(const LstsqFacts &facts) {
  py::dict out;
  out["method"] = facts.method;
  out["cond"] = facts.cond;
  out["backward_error"] = facts.backward_error;
  out["residual_norm"] = py::array_t<double>(static_cast<index>(facts.residual_norm.size()),
                                             facts.residual_norm.data());
  out["s_exact"] = facts.s_exact;
  out["iterations"] = facts.iterations;
  out["passes"] = facts.passes;
  out["converged"] = facts.converged;
  out["rows"] = facts.rows;
  return out;
}

template <class R> py::array_t<R> vector_of(const std::vector<double> &values) {
  py::array_t<R> out(static_cast<index>(values.size()));
  std::transform(values.begin(), values.end(), out.mutable_data(),
                 [](double x) { return static_cast<R>(x); });
  return out;
}

py::tuple lstsq(const py::array &A, const py::array &b, double rcond, const std::string &method,
                const std::string &sketch, double damp, double tol, index max_iter, index rows,
                std::uint64_t key, bool check_finite, const py::object &monitor) {
  LstsqRequest request;
  request.method = lstsq_method(method);
  request.sketch = sketch;
  request.rcond = rcond;
  request.damp = damp;
  request.tol = tol;
  request.max_iter = max_iter;
  request.rows = rows;
  request.key = key;
  request.check_finite = check_finite;
  request.monitor = make_monitor(monitor);
  ensure_blas();
  return with_scalar(A.dtype(), [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    using R = real_t<T>;
    const auto a = view_of<T>(A), rhs = view_of<T>(b);
    if (a.m < a.n || a.n == 0 || rhs.n == 0)
      throw ValueError("A must be tall and b must have columns");
    if (rhs.m != a.m)
      throw ValueError("b must have " + std::to_string(a.m) + " rows, got " +
                       std::to_string(rhs.m));
    const auto result = without_gil([&] {
      const auto matrix = tall_dense(a);
      return LeastSquares<T>(*matrix, rhs, request).solve();
    });
    py::array_t<T> x({result.x.rows, result.x.cols});
    for (index i = 0; i < result.x.rows; ++i)
      for (index j = 0; j < result.x.cols; ++j)
        x.mutable_at(i, j) = static_cast<T>(result.x(i, j));
    return py::make_tuple(x, vector_of<R>(result.residuals2), result.rank, vector_of<R>(result.s),
                          to_dict(result.facts));
  });
}

} // namespace

void register_lstsq(py::module_ &m) {
  m.def("lstsq", &lstsq, py::arg("A"), py::arg("b"), py::arg("rcond"), py::arg("method"),
        py::arg("sketch"), py::arg("damp"), py::arg("tol"), py::arg("max_iter"), py::arg("rows"),
        py::arg("key"), py::arg("check_finite"), py::arg("monitor"));
}

} // namespace lowla::bindings
