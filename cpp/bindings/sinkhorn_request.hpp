// The transport request from Python's arguments, and what is found back: the same for every device.
#pragma once

#include "lowla/sinkhorn.hpp"

#include "request.hpp"

namespace lowla::bindings {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

inline Vector vector_from(const Doubles &values) {
  return Vector(values.data(), values.data() + values.size());
}
inline py::array_t<double> array_from(const Vector &values) {
  return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
}

inline Metric metric_of(const std::string &name) {
  if (name == "sqeuclidean")
    return Metric::kSquaredEuclidean;
  if (name == "euclidean")
    return Metric::kEuclidean;
  if (name == "cityblock")
    return Metric::kCityblock;
  throw ValueError("unknown metric \"" + name + "\"");
}

inline void require_fits(const TransportCost &cost, const Vector &f, const Vector &g,
                         const char *names) {
  if (static_cast<index>(f.size()) != cost.m || static_cast<index>(g.size()) != cost.n)
    throw ValueError(std::string(names) + " must have an entry for each row and column of C");
}

inline py::dict to_dict(const TransportFacts &facts) {
  py::dict out;
  out["marginal_error"] = facts.marginal_error;
  out["value"] = facts.value;
  out["value_linear"] = facts.value_linear;
  out["sweeps"] = facts.sweeps;
  out["newton_steps"] = facts.newton_steps;
  out["cg_iterations"] = facts.cg_iterations;
  out["converged"] = facts.converged;
  out["method"] = facts.method;
  out["fallback"] = facts.fallback;
  out["density"] = facts.density;
  return out;
}

/// f, g and facts.
inline py::tuple solve_transport(const Doubles &a, const Doubles &b, const TransportCost &cost,
                                 const TransportRequest &request, const py::object &f0,
                                 const py::object &g0, bool check_finite) {
  const Vector weights_a = vector_from(a), weights_b = vector_from(b);
  require_fits(cost, weights_a, weights_b, "a and b");
  Vector f, g;
  const bool started = !f0.is_none() && !g0.is_none();
  if (started) {
    f = vector_from(py::cast<Doubles>(f0));
    g = vector_from(py::cast<Doubles>(g0));
    require_fits(cost, f, g, "f0 and g0");
  }
  const Transport result = without_gil([&] {
    return sinkhorn(weights_a, weights_b, cost, request, started ? &f : nullptr,
                    started ? &g : nullptr, check_finite);
  });
  return py::make_tuple(array_from(result.f), array_from(result.g), to_dict(result.facts));
}

/// indptr, indices and data of the entries >= threshold.
inline py::tuple sparse_transport(const TransportCost &cost, const Vector &f, const Vector &g,
                                  double reg, double threshold) {
  require_fits(cost, f, g, "f and g");
  const SparsePlan P = without_gil(
      [&] { return *cost.sparse(f, g, reg, threshold, std::numeric_limits<double>::infinity()); });
  return py::make_tuple(
      py::array_t<std::int64_t>(static_cast<py::ssize_t>(P.indptr.size()), P.indptr.data()),
      py::array_t<std::int32_t>(static_cast<py::ssize_t>(P.indices.size()), P.indices.data()),
      array_from(P.data));
}

} // namespace lowla::bindings
