// A linear operator of Python as a matrix of any device.
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/core/philox.hpp"
#include "lowla/core/small.hpp"

#include <pybind11/pybind11.h>

#include <cmath>
#include <memory>
#include <vector>

namespace lowla::bindings {

namespace py = pybind11;

/// f() with the GIL; what Python raises there ends the call.
template <class F> void call_python(F &&f) {
  py::gil_scoped_acquire acquire;
  try {
    f();
  } catch (py::error_already_set &error) {
    error.restore();
    throw Cancelled();
  } catch (py::builtin_exception &error) {
    error.set_error();
    throw Cancelled();
  }
}

/// An object with shape, dtype, matmat and rmatmat. `Exchange` takes panels to arrays and back:
///   multiply(object, method, factor, X, Y)   Y = object.method(factor X)
///   squares(Y), largest(Y)                   sum of squares, and largest magnitude (or not finite)
template <class Device, class Exchange> class OperatorMatrix final : public Device::Matrix {
public:
  using T = typename Device::Scalar;
  using R = real_t<T>;
  using Panel = typename Device::Panel;
  using Matrix = typename Device::Matrix;

  OperatorMatrix(py::handle object, index m, index n, bool adjoint = false, R scale = R(1))
      : object_(object), adjoint_(adjoint), scale_(scale) {
    this->m = adjoint ? n : m;
    this->n = adjoint ? m : n;
  }
  void multiply(const Panel &X, Panel &Y, double *norm2) override {
    apply(adjoint_ ? "rmatmat" : "matmat", X, Y);
    if (norm2 != nullptr) // E ||A X||^2 = b/n ||A||^2 for a random orthonormal X
      *norm2 = Exchange::squares(Y) * static_cast<double>(this->n) / static_cast<double>(X.cols);
  }
  void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2) override {
    apply(adjoint_ ? "matmat" : "rmatmat", Y, Z);
    if (norm2 != nullptr)
      *norm2 = Exchange::squares(Z) * static_cast<double>(this->m) / static_cast<double>(Y.cols);
  }
  /// The operator has no entries to look at: the largest entry of a product stands for them.
  double scan(bool &finite) override {
    Panel X(this->n, 1), Y(this->m, 1);
    Device::fill_normal(X, 0, philox::kStreamProbe);
    multiply(X, Y, nullptr);
    const double largest = Exchange::largest(Y);
    finite = std::isfinite(largest);
    return largest;
  }
  void rescale(R factor) override { scale_ = factor; }
  std::unique_ptr<Matrix> adjoint() const override {
    return std::make_unique<OperatorMatrix>(object_, adjoint_ ? this->n : this->m,
                                            adjoint_ ? this->m : this->n, !adjoint_, scale_);
  }
  /// ||R||_F^2 of R = A - U S V^H: its part inside span(V) is rounding; outside it, the mean over
  /// Gaussian probes.
  double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) override {
    constexpr index kProbes = 64;
    const index probes = std::min(kProbes, this->n);
    Panel X(this->n, probes), Y(this->m, probes);
    if (probes == this->n)
      Device::set_identity(X);
    else
      Device::fill_normal(X, 0, philox::kStreamProbe);
    multiply(X, Y, nullptr);
    Small<typename Device::Wide> H = Device::inner({&V}, X);
    for (index j = 0; j < H.cols; ++j)
      for (index i = 0; i < H.rows; ++i)
        H(i, j) *= s[static_cast<std::size_t>(i)];
    Device::subtract(Y, {&U}, H);
    return Exchange::squares(Y) / (probes == this->n ? 1.0 : static_cast<double>(probes));
  }
  bool has_entries() const override { return false; }

private:
  void apply(const char *method, const Panel &X, Panel &Y) {
    const typename Matrix::Read read(*this);
    call_python([&] { Exchange::multiply(object_, method, scale_, X, Y); });
  }

  py::handle object_; // kept alive by the caller's argument
  bool adjoint_;
  R scale_;
};

} // namespace lowla::bindings
