// Cuda: matrices on the device for algorithms that keep their panels in main memory. Panels go up,
// products come down.
#pragma once

#include "lowla/device/cuda.cuh"
#include "lowla/device/host.hpp"

#include <memory>

namespace lowla::cuda_detail {

/// A matrix of the device for panels of the host.
template <class W, class Runtime> class HostPanels final : public Host<W>::Matrix {
public:
  using Device = Cuda<W, Runtime>;
  using Panel = lowla::Panel<W>;
  using Matrix = typename Host<W>::Matrix;

  explicit HostPanels(std::unique_ptr<typename Device::Matrix> A) : A_(std::move(A)) {
    this->m = A_->m;
    this->n = A_->n;
  }

  void multiply(const Panel &X, Panel &Y, double *norm2) override {
    const Counted counted(*this);
    DevicePanel y(Y.rows, Y.cols);
    A_->multiply(up(X), y, norm2);
    down(y, Y);
  }
  void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2) override {
    const Counted counted(*this);
    DevicePanel z(Z.rows, Z.cols);
    A_->multiply_adjoint(up(Y), z, norm2);
    down(z, Z);
  }
  void normal(const Panel &X, Panel *Y, Panel &Z, double *norm2) override {
    const Counted counted(*this);
    DevicePanel y, z(Z.rows, Z.cols);
    if (Y != nullptr)
      y = DevicePanel(Y->rows, Y->cols);
    A_->normal(up(X), Y != nullptr ? &y : nullptr, z, norm2);
    if (Y != nullptr)
      down(y, *Y);
    down(z, Z);
  }
  double scan(bool &finite) override { return A_->scan(finite); }
  void rescale(double factor) override { A_->rescale(factor); }
  std::unique_ptr<Matrix> adjoint() const override {
    return std::make_unique<HostPanels>(A_->adjoint());
  }
  double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) override {
    const Counted counted(*this);
    return A_->residual_norm2(up(U), s, up(V));
  }
  bool iterate_on_columns() const override { return A_->iterate_on_columns(); }
  bool cheap_to_read() const override { return A_->cheap_to_read(); }

private:
  using DevicePanel = typename Device::Panel;

  /// Adds the reads of the matrix on the device, and their time, to those of this one.
  class Counted {
  public:
    explicit Counted(HostPanels &A) : A_(A), reads_(A.A_->reads), seconds_(A.A_->seconds) {}
    ~Counted() {
      A_.reads += A_.A_->reads - reads_;
      A_.seconds += A_.A_->seconds - seconds_;
    }
    Counted(const Counted &) = delete;
    Counted &operator=(const Counted &) = delete;

  private:
    HostPanels &A_;
    index reads_;
    double seconds_;
  };

  static std::size_t bytes(const DevicePanel &P) {
    return static_cast<std::size_t>(P.rows * P.ld) * sizeof(W);
  }
  static DevicePanel up(const Panel &P) {
    DevicePanel out(P.rows, P.cols);
    Buffer<W> rows(P.rows * out.ld);
    Host<W>::store(P, std::vector<W>(at(P.cols), W(1)), rows.get(), out.ld, 1, false);
    Runtime::to_device(out.row(0), rows.get(), bytes(out));
    return out;
  }
  static void down(const DevicePanel &P, Panel &out) {
    Buffer<W> rows(P.rows * P.ld);
    Runtime::to_host(rows.get(), P.row(0), bytes(P));
    Host<W>::load(out, {rows.get(), P.rows, P.cols, P.ld, 1});
  }

  std::unique_ptr<typename Device::Matrix> A_;
};

} // namespace lowla::cuda_detail
