// A as algorithms see it on every device: m x n, known by its products with panels.
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/small.hpp"

#include <chrono>
#include <memory>
#include <vector>

namespace lowla {

template <class Panel, class R, class Wide> class Matrix {
public:
  index m = 0, n = 0;
  index reads = 0;    ///< passes over A so far
  double seconds = 0; ///< between their starts and ends on the host
  virtual ~Matrix() = default;
  /// norm2, where given, receives ||A||_F^2 (or NaN where products alone cannot tell it).
  virtual void multiply(const Panel &X, Panel &Y, double *norm2 = nullptr) = 0;
  virtual void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2 = nullptr) = 0;
  /// Y = A X and Z = A^H Y; Y may be null where it is not wanted. Two reads, unless overridden.
  virtual void normal(const Panel &X, Panel *Y, Panel &Z, double *norm2 = nullptr) {
    Panel own;
    if (Y == nullptr) {
      own = Panel(m, X.cols);
      Y = &own;
    }
    multiply(X, *Y, norm2);
    multiply_adjoint(*Y, Z);
  }
  /// The same, Y wanted, with `products` = the device's coefficients(P, Y), Y being one of P or
  /// not. False where the loop over A cannot hold them: there are none then.
  virtual bool normal_and_products(const Panel &X, Panel &Y, Panel &Z, double *norm2,
                                   const std::vector<const Panel *> &P, Small<Wide> &products) {
    (void)P;
    (void)products;
    normal(X, &Y, Z, norm2);
    return false;
  }
  virtual double scan(bool &finite) = 0;
  virtual void rescale(R factor) = 0;
  virtual std::unique_ptr<Matrix> adjoint() const = 0;
  /// ||A - U diag(s) V^H||_F^2
  virtual double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) = 0;
  /// Whether iterating with vectors of length n (rather than m) is the better side.
  virtual bool iterate_on_columns() const { return n <= m; }
  /// Whether keeping the m x d products costs more than reading A once more.
  virtual bool cheap_to_read() const { return false; }
  /// Whether ||A||_F is known from the entries.
  virtual bool has_entries() const { return true; }

protected:
  /// Counts and times one pass over A, for as long as it lives.
  class Read {
  public:
    explicit Read(Matrix &A) : A_(A), start_(std::chrono::steady_clock::now()) { ++A.reads; }
    ~Read() {
      A_.seconds +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    Read(const Read &) = delete;
    Read &operator=(const Read &) = delete;

  private:
    Matrix &A_;
    std::chrono::steady_clock::time_point start_;
  };
};

} // namespace lowla
