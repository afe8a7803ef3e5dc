// The least-squares request from Python's arguments, and its results back: the same for every
// device.
#pragma once

#include "lowla/lstsq.hpp"
#include "lowla/minimum_norm.hpp"

#include "request.hpp"

#include <string>
#include <vector>

namespace lowla::bindings {

inline LstsqMethod lstsq_method(const std::string &name) {
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

inline LstsqRequest lstsq_request(double rcond, const std::string &method,
                                  const std::string &sketch, double damp, double tol,
                                  index max_iter, index rows, std::uint64_t key, bool check_finite,
                                  const py::object &monitor) {
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
  return request;
}

template <class View, class T> void check_shapes(const View &A, const MatrixView<T> &b) {
  if (A.m == 0 || A.n == 0 || b.n == 0)
    throw ValueError("A and b must not be empty");
  if (b.m != A.m)
    throw ValueError("b must have " + std::to_string(A.m) + " rows, got " + std::to_string(b.m));
}

/// The entries of M in T, row-major.
template <class T> std::vector<T> by_rows(const Small<wide_t<T>> &M) {
  std::vector<T> out;
  out.reserve(M.data.size());
  for (index i = 0; i < M.rows; ++i)
    for (index j = 0; j < M.cols; ++j)
      out.push_back(static_cast<T>(M(i, j)));
  return out;
}

inline py::dict to_dict(const LstsqFacts &facts) {
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

} // namespace lowla::bindings
