// Errors thrown by the core; the bindings map each to the Python exception named beside it.
#pragma once

#include <stdexcept>
#include <string>

namespace lowla {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// ValueError
struct ValueError : Error {
  using Error::Error;
};
/// numpy.linalg.LinAlgError: a breakdown that has no answer
struct LinAlgError : Error {
  using Error::Error;
};
/// OverflowError: a size that the BLAS integer cannot hold
struct OverflowError : Error {
  using Error::Error;
};
/// The Python error indicator is set (Ctrl-C, or an exception in a callback or operator).
struct Cancelled : Error {
  Cancelled() : Error("cancelled") {}
};

} // namespace lowla
