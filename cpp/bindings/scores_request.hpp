// The methods of row scores by name, and their facts as Python sees them: the same for every
// device.
#pragma once

#include "lowla/scores.hpp"

#include "python.hpp"

#include <string>

namespace lowla::bindings {

inline LeverageMethod leverage_method(const std::string &name) {
  if (name == "auto")
    return LeverageMethod::kAuto;
  if (name == "exact")
    return LeverageMethod::kExact;
  if (name == "sketched")
    return LeverageMethod::kSketched;
  throw ValueError("unknown method \"" + name + "\"");
}

inline SampleMethod sample_method(const std::string &name) {
  if (name == "leverage")
    return SampleMethod::kLeverage;
  if (name == "root_leverage")
    return SampleMethod::kRootLeverage;
  if (name == "lewis")
    return SampleMethod::kLewis;
  if (name == "sensitivity")
    return SampleMethod::kSensitivity;
  if (name == "mixed")
    return SampleMethod::kMixed;
  throw ValueError("unknown method \"" + name + "\"");
}

template <class View> void check_not_empty(const View &A) {
  if (A.m == 0 || A.n == 0)
    throw ValueError("A must not be empty");
}

inline py::dict to_dict(const LewisFacts &facts) {
  py::dict out;
  out["iterations"] = facts.iterations;
  out["converged"] = facts.converged;
  out["gap"] = facts.gap;
  return out;
}

} // namespace lowla::bindings
