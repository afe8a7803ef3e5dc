// The low-rank request from Python's arguments, and its facts back: the same for every device.
#pragma once

#include "lowla/rsvd.hpp"

#include "python.hpp"

namespace lowla::bindings {

inline Method method_of(const std::string &name) {
  if (name == "auto")
    return Method::kAuto;
  if (name == "krylov")
    return Method::kKrylov;
  if (name == "subspace")
    return Method::kSubspace;
  if (name == "single_pass")
    return Method::kSinglePass;
  throw ValueError("unknown method \"" + name + "\"");
}

/// Python's callable as (iteration, error) -> stop; None as nothing. What it raises ends the call.
inline std::function<bool(index, double)> make_monitor(const py::object &monitor) {
  if (monitor.is_none())
    return nullptr;
  const py::handle callable = monitor; // alive for the call: it is the caller's argument
  return [callable](index iteration, double error) {
    py::gil_scoped_acquire acquire;
    try {
      return py::cast<bool>(py::bool_(callable(iteration, error)));
    } catch (py::error_already_set &raised) {
      raised.restore();
      throw Cancelled();
    }
  };
}

inline LowRankRequest make_request(index k, double tol, index oversample, index n_iter,
                                   const std::string &method, const std::string &sketch,
                                   std::uint64_t key, bool check_finite,
                                   const py::object &monitor) {
  LowRankRequest request;
  request.k = k;
  request.tol = tol;
  request.oversample = oversample;
  request.n_iter = n_iter;
  request.method = method_of(method);
  request.start = sketch == "sjlt" ? StartBlock::kSjlt : StartBlock::kGaussian;
  request.key = key;
  request.check_finite = check_finite;
  request.monitor = make_monitor(monitor);
  return request;
}

inline py::dict to_dict(const LowRankFacts &facts) {
  py::dict out;
  out["error"] = facts.error;
  out["error_method"] = facts.error_method;
  out["spectral_error"] = facts.spectral_error;
  out["passes"] = facts.passes;
  out["iterations"] = facts.iterations;
  out["converged"] = facts.converged;
  out["method"] = facts.method;
  out["basis"] = facts.basis;
  out["rank"] = facts.rank;
  return out;
}

/// The facts of a stack, each as an array.
inline py::dict to_dict(const std::vector<LowRankFacts> &facts) {
  py::list error, error_method, spectral, passes, iterations, converged, taken, basis, rank;
  for (const auto &f : facts) {
    error.append(f.error);
    error_method.append(f.error_method);
    spectral.append(f.spectral_error);
    passes.append(f.passes);
    iterations.append(f.iterations);
    converged.append(f.converged);
    taken.append(f.method);
    basis.append(f.basis);
    rank.append(f.rank);
  }
  const auto array = py::module_::import("numpy").attr("array");
  py::dict out;
  out["error"] = array(error, "float64");
  out["error_method"] = array(error_method, "str");
  out["spectral_error"] = array(spectral, "float64");
  out["passes"] = array(passes, "int64");
  out["iterations"] = array(iterations, "int64");
  out["converged"] = array(converged, "bool");
  out["method"] = array(taken, "str");
  out["basis"] = array(basis, "int64");
  out["rank"] = array(rank, "int64");
  return out;
}

} // namespace lowla::bindings
