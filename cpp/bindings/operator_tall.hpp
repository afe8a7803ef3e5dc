// A linear operator of Python for least squares (see lstsq_solver.hpp).
//
// Everything is by products, whose vectors pass through main memory in double precision; the
// operator gets and gives numbers of its own dtype. S A is the adjoint of A^H S^T, d products. What
// needs entries ("direct") writes A out.
#pragma once

#include "lstsq_request.hpp"
#include "operator.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace lowla::bindings {

/// `Exchange` takes matrices to arrays of T and back:
///   apply(object, method, factor, X, rows)   object.method(factor X), with so many rows
template <class T, class Exchange>
class OperatorTall final : public TallMatrix<T>, public NormalProduct<wide_t<T>> {
public:
  using R = real_t<T>;
  using Wide = wide_t<T>;

  /// Of an m x n operator with b beside it, or of its adjoint.
  OperatorTall(py::handle object, index m, index n, bool adjoint, Small<Wide> b)
      : object_(object), adjoint_(adjoint), b_(std::move(b)) {
    this->m = adjoint ? n : m;
    this->n = adjoint ? m : n;
    this->r = b_.cols;
  }

  NormalProduct<Wide> *sparse() override { return this; }
  bool known_by_products() const override { return true; }

  Small<Wide> sketch(const SketchSpec &spec) override {
    const index m = this->m, d = spec.d;
    const index most = std::clamp<index>(kSketchBytes / (m * index(sizeof(Wide))), 1, kAtOnce);
    Small<Wide> SA(d, this->n);
    for (index first = 0; first < d; first += most) {
      const index count = std::min(most, d - first);
      std::vector<double> unit(at(d * count), 0.0), columns(at(m * count));
      for (index j = 0; j < count; ++j)
        unit[at((first + j) * count + j)] = 1.0;
      sketch_adjoint(spec, MatrixView<double>{unit.data(), d, count, count, 1, false},
                     columns.data());
      Small<Wide> St(m, count);
      for (index i = 0; i < m; ++i)
        for (index j = 0; j < count; ++j)
          St(i, j) = columns[at(i * count + j)];
      const Small<Wide> part = adjoint_times(St);
      for (index j = 0; j < count; ++j)
        for (index i = 0; i < this->n; ++i)
          SA(first + j, i) = conj_of(part(i, j));
    }
    return SA;
  }

  void normal(const Small<Wide> &X, Small<Wide> &Z) override { Z = adjoint_times(times(X)); }

  void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) override {
    Small<Wide> y = times(X);
    for (std::size_t i = 0; i < y.data.size(); ++i)
      y.data[i] = b_.data[i] - y.data[i];
    norms2 = small::column_norms2(y);
    Z = adjoint_times(y);
  }

  void advance(const Small<Wide> &dY, bool rounds, std::vector<double> &norms2,
               Small<Wide> &Z) override {
    const Small<Wide> y = times(dY);
    if (x_.data.empty())
      x_ = Small<Wide>(y.rows, y.cols);
    for (std::size_t i = 0; i < y.data.size(); ++i) {
      x_.data[i] += y.data[i];
      if (rounds)
        x_.data[i] = Wide(static_cast<T>(x_.data[i]));
    }
    norms2 = small::column_norms2(x_);
    Z = adjoint_times(x_);
  }
  Small<Wide> advanced() override { return x_; }

  void gram(const Small<Wide> &P, Small<Wide> &G, Small<Wide> &H) override {
    written().gram(P, G, H);
  }
  Small<Wide> triangle(double damp) override { return written().triangle(damp); }
  Small<Wide> sketched_triangle(const SketchSpec &spec, double damp) override {
    const Small<Wide> SA = sketch(spec);
    std::vector<Wide> Sb(at(spec.d * b_.cols));
    sketch_dense(spec, view_of_small(b_), Sb.data());
    return lowla::tall(view_of_small(SA),
                       MatrixView<Wide>{Sb.data(), spec.d, b_.cols, b_.cols, 1, false})
        ->triangle(damp);
  }
  void wide_gram(const Small<Wide> &P, Small<Wide> &G) override { written().wide_gram(P, G); }
  void expand(const Small<Wide> &P, const Small<Wide> &C) override {
    written().expand(P, C);
    x_ = written_->advanced();
  }

  /// The operator has no entries to look at: the largest of a product stands for them. Where
  /// products overflow, that of a fraction of the operator does.
  double scan(bool &finite) override {
    const double found = probe(finite);
    if (finite)
      return found;
    const int e = 2 * SafeRange<T>::kSafe;
    const R scale = std::exchange(scale_, SafeRange<T>::power(-e));
    finite = true;
    const double fraction = probe(finite);
    scale_ = scale;
    return std::ldexp(fraction, e);
  }
  void rescale(R factor) override {
    scale_ = factor;
    written_.reset();
  }
  double scan_b(bool &finite) override { return small::largest_part(b_, finite); }
  void rescale_b(R factor) override {
    for (Wide &x : b_.data)
      x *= static_cast<double>(factor);
    written_.reset();
  }
  std::vector<double> norms2_b() override { return small::column_norms2(b_); }

private:
  /// Rows of S that the operator is applied to at a time, and memory for them.
  static constexpr index kAtOnce = 256, kSketchBytes = index(64) << 20;

  static std::size_t at(index i) { return static_cast<std::size_t>(i); }

  static MatrixView<Wide> view_of_small(const Small<Wide> &M) {
    return {M.data.data(), M.rows, M.cols, 1, M.rows, false};
  }

  double probe(bool &finite) {
    const auto signs = [](index n) {
      Small<Wide> x(n, 1);
      for (index i = 0; i < n; ++i)
        x(i, 0) = (i % 2 == 0 ? 1.0 : -1.0) / std::sqrt(static_cast<double>(n));
      return x;
    };
    return std::max(small::largest_part(times(signs(this->n)), finite),
                    small::largest_part(adjoint_times(signs(this->m)), finite));
  }

  Small<Wide> times(const Small<Wide> &X) {
    return apply(adjoint_ ? "rmatmat" : "matmat", X, this->m);
  }
  Small<Wide> adjoint_times(const Small<Wide> &Y) {
    return apply(adjoint_ ? "matmat" : "rmatmat", Y, this->n);
  }
  Small<Wide> apply(const char *method, const Small<Wide> &X, index rows) {
    ++this->reads;
    Small<Wide> out;
    call_python([&] { out = Exchange::apply(object_, method, scale_, X, rows); });
    return out;
  }

  /// A with all its entries, and b.
  TallMatrix<Wide> &written() {
    if (!written_) {
      entries_ = times(Small<Wide>::identity(this->n));
      written_ = lowla::tall(view_of_small(entries_), view_of_small(b_));
    }
    return *written_;
  }

  py::handle object_; // kept alive by the caller's argument
  bool adjoint_;
  Small<Wide> b_, x_, entries_;
  std::unique_ptr<TallMatrix<Wide>> written_;
  R scale_ = 1;
};

/// Least squares with an operator; entries(b) are those of b on the host.
template <class T, class Exchange, class Entries>
LstsqResult<wide_t<T>> solve_operator(const py::object &A, index m, index n, const MatrixView<T> &b,
                                      LstsqRequest request, Entries &&entries) {
  check_shapes(MatrixView<T>{nullptr, m, n, n, 1, false}, b);
  // products have the rounding of the operator's dtype
  request.rcond = std::max(request.rcond, 2.0 * unit_roundoff<T>());
  return without_gil([&] {
    Small<wide_t<T>> right = entries(b);
    if (m >= n) {
      OperatorTall<T, Exchange> matrix(A, m, n, false, std::move(right));
      return LeastSquares<T>(matrix, request).solve();
    }
    OperatorTall<T, Exchange> matrix(A, m, n, true, Small<wide_t<T>>(n, 0));
    return MinimumNorm<T>(matrix, std::move(right), request).solve();
  });
}

} // namespace lowla::bindings
