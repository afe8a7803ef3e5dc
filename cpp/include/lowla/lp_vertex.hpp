// Least absolute deviations: descent along the edges of the linear programme.
//
// A vertex is given by k = rank(A) rows B of A, independent, with residual zero: x = B^-1 b_B. The
// other rows have y_i = +-1 with y_i r_i >= 0, and A^T y = 0 fixes y on B. Where these |y_i| are at
// most 1, y is dual feasible and b^T y = ||r||_1: the vertex is optimal. Else ||r||_1 is at most
// max |y_i| times the optimum, and falls when the row of largest |y_i| leaves B: along that edge
// its slope is 1 - |y_i|, and grows by 2 |a_j d| for every row j whose residual changes sign. The
// row at which it becomes positive enters B (Bloomfield, Steiger, SIAM J. Sci. Stat. Comput. 1(2),
// 1980; Barrodale, Roberts, SIAM J. Numer. Anal. 10, 1973). Rows keep their y_i where r_i is zero.
// An edge takes one read of A, O(m n + n^2) flops; B^-1 is updated, and made anew every
// kFresh edges with everything that follows from it. Coordinates: x = x0 + N z, A N
// orthonormal (row_basis.hpp).
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/scores.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace lowla {

/// What l_p regression asks of A beyond its scores.
template <class T> class LpMatrix : public ScoredMatrix<T> {
public:
  /// out = A x
  virtual void times(const std::vector<double> &x, std::vector<double> &out) = 0;
  /// A^T y
  virtual std::vector<double> adjoint_times(const std::vector<double> &y) = 0;
  /// [A b], which refers to A.
  virtual std::unique_ptr<ScoredMatrix<T>> beside(const std::vector<double> &b) = 0;
};

/// A in main memory.
template <class T> std::unique_ptr<LpMatrix<T>> lp_matrix(MatrixView<T> A);
template <class T, class I> std::unique_ptr<LpMatrix<T>> lp_matrix(CsrView<T, I> A);

template <class T> class VertexDescent {
public:
  using Vector = std::vector<double>;
  using Matrix = Small<double>;

  VertexDescent(LpMatrix<T> &A, const Vector &b, Matrix N)
      : A_(A), b_(b), N_(std::move(N)), k_(N_.cols) {}

  const Vector &x() const { return x_; }
  /// A lower bound of the smallest ||A x - b||_1.
  double optimum() const { return optimum_; }

  /// The vertex near x with residual r; false where the rows of small residual do not make one.
  bool start(Vector x, const Vector &r) {
    x_ = std::move(x);
    r_ = r;
    y_.resize(r.size());
    for (std::size_t i = 0; i < r.size(); ++i)
      y_[i] = r[i] < 0 ? -1.0 : 1.0;
    choose_basis();
    return refresh();
  }

  /// Down the edges until the gap is at most tol; the number of vertices seen.
  index run(double tol, index steps) {
    for (index seen = 1;; ++seen) {
      const index leaving = violated();
      const bool done = seen >= steps || excess_ - 1.0 <= std::max(tol, kRounding);
      if (done && age_ == 0)
        return seen;
      if (done || age_ >= kFresh || !pivot(leaving)) {
        if (age_ == 0 || !refresh())
          return seen;
      }
    }
  }

private:
  static constexpr index kCandidates = 20; ///< rows a column among which the first vertex is sought
  static constexpr index kFresh = 32;
  static constexpr double kRounding = 1e-12;
  /// Entries of A d or r below this part of the largest are rounding.
  static constexpr double kSmall = 1e-13;
  static constexpr double kStable = 1e-7;    ///< pivots below this part of their row make B^-1 anew
  static constexpr double kSingular = 1e-14; ///< 1 / cond(B N)

  static double dot(const double *x, const double *y, index n) {
    double sum = 0;
    for (index i = 0; i < n; ++i)
      sum += x[i] * y[i];
    return sum;
  }
  static double largest(const Vector &x) {
    double found = 0;
    for (const double value : x)
      found = std::max(found, std::abs(value));
    return found;
  }
  static Matrix column(Vector x) {
    Matrix out(static_cast<index>(x.size()), 1);
    out.data = std::move(x);
    return out;
  }
  /// The chosen rows of A N.
  Matrix coordinates(const std::vector<index> &rows) {
    return blas::product('N', A_.rows(rows), 'N', N_);
  }
  void move(const Matrix &z, double t) {
    const Matrix d = blas::product('N', N_, 'N', z);
    for (std::size_t j = 0; j < x_.size(); ++j)
      x_[j] += t * d.data[j];
  }

  /// k independent rows of small residual: Gram-Schmidt with pivoting of the rows over |r_i|.
  void choose_basis() {
    const index m = A_.m, count = std::min(m, kCandidates * k_);
    std::vector<index> rows(static_cast<std::size_t>(m));
    for (index i = 0; i < m; ++i)
      rows[i] = i;
    const auto closer = [&](index i, index j) {
      const double a = std::abs(r_[i]), b = std::abs(r_[j]);
      return a < b || (a == b && i < j);
    };
    std::nth_element(rows.begin(), rows.begin() + (count - 1), rows.end(), closer);
    rows.resize(static_cast<std::size_t>(count));
    std::sort(rows.begin(), rows.end(), closer);
    Matrix C = small::adjoint(coordinates(rows));
    const double shift = 1e-9 * std::abs(r_[rows.back()]) + std::numeric_limits<double>::min();
    Vector norms2(static_cast<std::size_t>(count));
    for (index j = 0; j < count; ++j) {
      for (index i = 0; i < k_; ++i)
        C(i, j) /= std::abs(r_[rows[j]]) + shift;
      norms2[j] = dot(C.col(j), C.col(j), k_);
    }
    basis_.clear();
    for (index step = 0; step < k_; ++step) {
      const index pivot = std::max_element(norms2.begin(), norms2.end()) - norms2.begin();
      if (!(norms2[pivot] > 0))
        return;
      basis_.push_back(rows[pivot]);
      const Vector q(C.col(pivot), C.col(pivot) + k_);
      const double size2 = dot(q.data(), q.data(), k_);
      for (index j = 0; j < count; ++j) {
        double *c = C.col(j);
        const double share = dot(q.data(), c, k_) / size2;
        for (index i = 0; i < k_; ++i)
          c[i] -= share * q[i];
        norms2[j] = norms2[j] < 0 ? -1.0 : dot(c, c, k_);
      }
      norms2[pivot] = -1.0;
    }
  }

  /// B^-1, x, r and A^T y from the basis and the signs y; false where B is singular.
  bool refresh() {
    if (static_cast<index>(basis_.size()) < k_)
      return false;
    // B N = U diag(s) V^T
    Matrix U = coordinates(basis_), V;
    Vector s;
    blas::gesdd(k_, k_, U, s, V);
    if (!(s[k_ - 1] > kSingular * s[0]))
      return false;
    for (index j = 0; j < k_; ++j)
      for (index i = 0; i < k_; ++i)
        V(i, j) /= s[j];
    inverse_ = blas::product('N', V, 'C', U);
    measure();
    Vector off(static_cast<std::size_t>(k_));
    for (index j = 0; j < k_; ++j)
      off[j] = r_[basis_[j]];
    move(blas::product('N', inverse_, 'N', column(std::move(off))), 1.0);
    measure();
    for (const index i : basis_)
      r_[i] = y_[i] = 0;
    const double rounding = kSmall * largest(r_);
    for (std::size_t i = 0; i < r_.size(); ++i)
      if (y_[i] * r_[i] < -rounding)
        y_[i] = -y_[i];
    pulled_ = A_.adjoint_times(y_);
    age_ = 0;
    return true;
  }

  void measure() {
    A_.times(x_, r_);
    for (std::size_t i = 0; i < r_.size(); ++i)
      r_[i] = b_[i] - r_[i];
  }

  /// The multipliers, and the place in the basis of the largest.
  index violated() {
    multipliers_ = blas::product('C', inverse_, 'N', blas::product('C', N_, 'N', column(pulled_)));
    index worst = 0;
    for (index j = 0; j < k_; ++j) {
      multipliers_(j, 0) = -multipliers_(j, 0);
      if (std::abs(multipliers_(j, 0)) > std::abs(multipliers_(worst, 0)))
        worst = j;
    }
    excess_ = std::abs(multipliers_(worst, 0));
    if (age_ == 0)
      optimum_ = std::max(optimum_, dot(y_.data(), r_.data(), A_.m) / std::max(excess_, 1.0));
    return worst;
  }

  /// Along the edge on which basis_[leaving] gets a residual, to its lowest point.
  bool pivot(index leaving) {
    const double multiplier = multipliers_(leaving, 0), sign = multiplier < 0 ? -1.0 : 1.0;
    Matrix z = inverse_.columns(leaving, 1);
    for (double &value : z.data)
      value *= -sign;
    A_.times(blas::product('N', N_, 'N', z).data, change_);
    crossings();
    double slope = 1.0 - std::abs(multiplier);
    std::vector<index> crossed;
    double t = 0;
    while (slope < 0) {
      if (crossings_.empty())
        return false;
      std::pop_heap(crossings_.begin(), crossings_.end(), std::greater<>());
      const auto [ratio, row] = crossings_.back();
      crossings_.pop_back();
      crossed.push_back(row);
      t = ratio;
      slope += 2.0 * std::abs(change_[row]);
    }
    const index entering = crossed.back(), left = basis_[leaving];
    if (!replace(leaving, entering))
      return false;
    move(z, t);
    for (std::size_t i = 0; i < r_.size(); ++i)
      r_[i] -= t * change_[i];
    for (const index i : basis_)
      r_[i] = 0;
    const Matrix rows = A_.rows(crossed);
    for (index c = 0; c < rows.rows; ++c) {
      const double turned = crossed[c] == entering ? 1.0 : 2.0;
      for (index j = 0; j < rows.cols; ++j)
        pulled_[j] -= turned * y_[crossed[c]] * rows(c, j);
      y_[crossed[c]] -= turned * y_[crossed[c]];
    }
    y_[left] = sign;
    const Matrix row = A_.rows({left});
    for (index j = 0; j < row.cols; ++j)
      pulled_[j] += sign * row(0, j);
    return true;
  }

  /// A heap of (t, row) for the residuals r - t A d that change sign, the first on top.
  void crossings() {
    const double rounding = kSmall * largest(change_);
    crossings_.clear();
    for (index i = 0; i < A_.m; ++i) { // y is zero on the basis
      const double approach = y_[i] * change_[i];
      if (approach > rounding)
        crossings_.emplace_back(std::max(y_[i] * r_[i], 0.0) / approach, i);
    }
    std::make_heap(crossings_.begin(), crossings_.end(), std::greater<>());
  }

  /// B^-1 for another row of B; false where that is singular.
  bool replace(index leaving, index entering) {
    const Matrix row = coordinates({entering});
    const Matrix share = blas::product('N', row, 'N', inverse_);
    const double pivot = share(0, leaving);
    if (pivot == 0)
      return false;
    age_ = std::abs(pivot) > kStable * largest(share.data) ? age_ + 1 : kFresh;
    double *own = inverse_.col(leaving);
    for (index i = 0; i < k_; ++i)
      own[i] /= pivot;
    for (index j = 0; j < k_; ++j)
      if (j != leaving)
        for (index i = 0; i < k_; ++i)
          inverse_(i, j) -= share(0, j) * own[i];
    basis_[leaving] = entering;
    return true;
  }

  LpMatrix<T> &A_;
  const Vector &b_;
  Matrix N_;
  index k_;
  Vector x_, r_, y_, change_;
  Vector pulled_; ///< A^T y, y zero on the basis
  std::vector<index> basis_;
  Matrix inverse_, multipliers_; ///< (B N)^-1, and y on the basis
  std::vector<std::pair<double, index>> crossings_;
  double excess_ = 0, optimum_ = 0;
  index age_ = 0; ///< edges since B^-1 was made
};

} // namespace lowla
