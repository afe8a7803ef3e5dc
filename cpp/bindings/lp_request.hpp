// What the bindings of l_p regression share, on the host and on the GPU.
#pragma once

#include "lowla/lp.hpp"

#include "request.hpp"
#include "scores_request.hpp"

namespace lowla::bindings {

inline LpRequest lp_request(double p, const std::string &method, index rows, double tol,
                            index max_iter, std::uint64_t key, bool check_finite,
                            const py::object &monitor) {
  if (method != "exact" && method != "sample")
    throw ValueError("unknown method \"" + method + "\"");
  return {p, method == "sample", rows, tol, max_iter, key, check_finite, make_monitor(monitor)};
}

inline py::dict to_dict(const LpFacts &facts) {
  py::dict out;
  out["method"] = facts.method;
  out["objective"] = facts.objective;
  out["gap"] = facts.gap;
  out["iterations"] = facts.iterations;
  out["converged"] = facts.converged;
  out["rows"] = facts.rows;
  return out;
}

} // namespace lowla::bindings
