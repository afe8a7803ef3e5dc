// l_p regression min ||A x - b||_p for real A (m x n) and 1 <= p < infinity.
//
// exact. Reweighted least squares with a line search: with r = b - A x, d minimises
//   ||W^(1/2) (A d - r)||, W = (r^2 + delta^2)^(p/2-1), which for p > 1 is the direction of
//   Newton's method (Osborne, "Finite algorithms in optimization and data analysis", 1985; the line
//   search finds the damping of Adil, Peng, Sachdeva, NeurIPS 2019). With an orthonormal basis
//   W^(1/2) A N (row_basis.hpp; that of one step preconditions the next) d = N N^T A^T W r. y = W
//   (r - A d) has A^T y = 0: scaled to ||y||_q = 1 it is a point of the dual max b^T y, so that
//   every step bounds the optimum. A^T y is (I - N^T A^T W A N) A^T W r in these coordinates: what
//   the basis lacks of orthonormality, to 1e-6 at worst, vanishes with the gradient. 2 m n^2 flops
//   in a matrix product and three reads of A a step. p = 1 ends by descent from vertex to vertex
//   (lp_vertex.hpp).
// sample. The same for rows of [A b] drawn by Lewis weights (p > 2) or roots of leverage scores
//   (Woodruff, Yasuda, ICML 2023, arXiv:2306.00732). "exact" may start from there.
//
// Everything is in double precision, A is not copied. Memory: a few n^2 a thread, and m.
#pragma once

#include "lowla/lp_vertex.hpp"
#include "lowla/row_basis.hpp"
#include "lowla/scores.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lowla {

struct LpRequest {
  double p = 1;
  bool sample = false; ///< ends with the sample's solution; else it only starts there
  index rows = 0;      ///< of the sample; 0 for none
  double tol = 0;      ///< objective / optimum - 1
  index max_iter = 0;  ///< 0: chosen
  std::uint64_t key = 0;
  bool check_finite = true;
  /// (step, gap) -> true to stop
  std::function<bool(index, double)> monitor;
};

struct LpFacts {
  const char *method = "exact";
  double objective = 0, gap = 0;
  index iterations = 0, rows = 0;
  bool converged = false;
};

struct LpResult {
  std::vector<double> x;
  LpFacts facts;
};

namespace lp {

/// Long vectors, over pieces of a fixed partition.
using Vector = std::vector<double>;
/// max |x_i|; NaN and infinity as infinity.
double largest(const Vector &x);
double dot(const Vector &x, const Vector &y);
/// ||x||_p without overflow.
double power_norm(const Vector &x, double p);
/// x -= t y
void subtract(double t, const Vector &y, Vector &x);
/// w_i = ((r_i / scale)^2 + floor^2)^(p/2 - 1), and their roots.
void weigh(const Vector &r, double scale, double floor, double p, Vector &w, Vector &roots);
/// y = w * (r - change) entry by entry; without a change w * r.
void weighted(const Vector &w, const Vector &r, const Vector *change, Vector &y);
/// The t >= 0 that minimises ||r - t change||_p, to a relative error that costs a step of Newton's
/// method 1e-8 of its gain; `guess` is where the search begins.
double line_minimum(const Vector &r, const Vector &change, double p, double guess);

} // namespace lp

template <class T> class LpRegression {
public:
  using Vector = lp::Vector;

  struct State {
    Vector x, r; ///< r = b - A x
    double objective = 0;
    double optimum = 0; ///< a lower bound of it
    index steps = 0;
    bool stopped = false; ///< by the monitor
    double gap() const {
      if (objective == 0)
        return 0;
      return optimum > 0 ? std::max(objective / optimum - 1.0, 0.0)
                         : std::numeric_limits<double>::infinity();
    }
  };

  LpRegression(LpMatrix<T> &A, Vector b, const LpRequest &request)
      : A_(A), bases_(A), b_(std::move(b)), request_(request), p_(request.p) {
    bases_.trust_range();
  }

  LpResult solve() {
    const blas::OneThread quiet(A_.n <= kQuietOrder);
    bool finite = true;
    const double largest_a = A_.scan(finite), largest_b = lp::largest(b_);
    if (!finite || !std::isfinite(largest_b))
      return not_finite(finite ? "b" : "A");
    const int a_exponent = SafeRange<T>::holds(largest_a) ? 0 : SafeRange<T>::exponent(largest_a);
    const int b_exponent =
        SafeRange<double>::holds(largest_b) ? 0 : SafeRange<double>::exponent(largest_b);
    if (a_exponent != 0)
      A_.rescale(SafeRange<T>::power(-a_exponent));
    if (b_exponent != 0)
      for (double &value : b_)
        value = std::ldexp(value, -b_exponent);
    LpResult result = solve_in_range();
    for (double &value : result.x)
      value = std::ldexp(value, b_exponent - a_exponent);
    result.facts.objective = std::ldexp(result.facts.objective, b_exponent);
    return result;
  }

  /// The minimiser from `start`, or from least squares; for data in the safe range.
  State minimise(std::optional<Vector> start) {
    State s;
    const bool warm = start.has_value();
    s.x = warm ? std::move(*start) : Vector(static_cast<std::size_t>(A_.n), 0.0);
    if (!warm || basis_.P.cols < A_.n)
      basis_ = unweighted();
    first_basis_ = basis_;
    measure(s);
    // The basis is loose: the second time takes the error of the first.
    for (int round = 0; !warm && round < 2; ++round) {
      lp::subtract(-1.0, direction(s.r), s.x);
      measure(s);
    }
    const index steps = request_.max_iter > 0 ? request_.max_iter : kSteps;
    reweight(s, p_ > 1.0 ? request_.tol : std::max(request_.tol, kNearVertex), steps);
    measure(s);
    if (p_ == 1.0 && !s.stopped && s.gap() > request_.tol && s.objective > negligible())
      descend(s, kEdges * A_.n + steps);
    return s;
  }

  /// From another problem's basis, whose weighted rows resemble those of this one.
  void precondition_by(const LpRegression<double> &other) { basis_ = other.basis(); }
  const Basis<double> &basis() const { return basis_; }

private:
  static constexpr double kEps = std::numeric_limits<double>::epsilon();
  static constexpr index kSteps = 200;
  static constexpr index kEdges = 5;          ///< a column, beside the steps
  static constexpr double kNearVertex = 1e-6; ///< gap at which edges take over
  /// By this delta shrinks from step to step; where that was too fast, by its root, and so on.
  static constexpr double kSmoothing = 0.05, kSlowest = 0.6;
  /// delta / max |r|: the least, and below which it is not shrunk; the least for p > 2.
  static constexpr double kLeastDelta = 1e-12, kSmallDelta = 1e-11, kLeastWeight = 1e-8;
  static constexpr double kGain = 1e-3; ///< of the gap: steps that gain less have stalled
  /// Condition of the weighted basis over n (see the header): errors of d to (1e3 n)^2 roundings.
  static constexpr double kLoose = 1e3;
  /// Orders up to which LAPACK's share is worth one thread only.
  static constexpr index kQuietOrder = 1024;

  LpResult not_finite(const char *name) const {
    if (request_.check_finite)
      throw ValueError(std::string(name) + " contains NaN or Inf");
    const double nan = std::numeric_limits<double>::quiet_NaN();
    LpResult result;
    result.x.assign(static_cast<std::size_t>(A_.n), nan);
    result.facts.objective = result.facts.gap = nan;
    return result;
  }

  LpResult solve_in_range() {
    LpResult result;
    std::optional<Vector> start;
    if (0 < request_.rows && request_.rows < A_.m) {
      State sampled = minimise_sample();
      if (request_.sample || sampled.stopped) {
        result.facts.converged = sampled.gap() <= request_.tol;
        measure(sampled);
        result.facts.method = "sample";
        result.facts.rows = request_.rows;
        finish(result, std::move(sampled));
        result.facts.gap = std::numeric_limits<double>::quiet_NaN();
        return result;
      }
      result.facts.iterations = sampled.steps;
      start = std::move(sampled.x);
    }
    State s = minimise(std::move(start));
    result.facts.gap = s.objective <= negligible() ? 0.0 : s.gap();
    result.facts.converged = result.facts.gap <= request_.tol;
    finish(result, std::move(s));
    return result;
  }

  static void finish(LpResult &result, State s) {
    result.x = std::move(s.x);
    result.facts.objective = s.objective;
    result.facts.iterations += s.steps;
  }

  /// For rows of [A b]; leaves the basis of the last step.
  State minimise_sample() {
    SampledRows sample;
    {
      const auto joined = A_.beside(b_);
      const SampleMethod method = p_ <= 2.0 ? SampleMethod::kRootLeverage : SampleMethod::kLewis;
      sample = sample_rows(RowScores<T>(*joined).sampling(p_, method, request_.key), request_.rows,
                           p_, request_.key);
    }
    // One row for all its copies.
    std::vector<index> taken;
    Vector weights;
    for (std::size_t first = 0, last; first < sample.rows.size(); first = last) {
      for (last = first; last < sample.rows.size() && sample.rows[last] == sample.rows[first];)
        ++last;
      taken.push_back(sample.rows[first]);
      weights.push_back(sample.weights[first] *
                        std::pow(static_cast<double>(last - first), 1.0 / p_));
    }
    const Small<double> rows = A_.rows(taken);
    Buffer<double> part(rows.rows * rows.cols);
    Vector b(taken.size());
    for (index i = 0; i < rows.rows; ++i) {
      for (index j = 0; j < rows.cols; ++j)
        part.get()[i * rows.cols + j] = weights[i] * rows(i, j);
      b[i] = weights[i] * b_[taken[i]];
    }
    const auto matrix =
        lp_matrix(MatrixView<double>{part.get(), rows.rows, rows.cols, rows.cols, 1});
    LpRegression<double> small(*matrix, std::move(b), request_);
    auto found = small.minimise(std::nullopt);
    precondition_by(small);
    State s;
    s.x = std::move(found.x);
    s.objective = found.objective <= small.negligible() ? 0.0 : found.objective;
    s.optimum = found.optimum;
    s.steps = found.steps;
    s.stopped = found.stopped;
    return s;
  }

  template <class> friend class LpRegression;

  /// Objectives that are rounding.
  double negligible() {
    if (b_norm_ < 0)
      b_norm_ = lp::power_norm(b_, p_);
    return 1e3 * kEps * b_norm_;
  }

  /// r and the objective of x.
  void measure(State &s) const {
    A_.times(s.x, s.r);
    for (std::size_t i = 0; i < s.r.size(); ++i)
      s.r[i] = b_[i] - s.r[i];
    s.objective = lp::power_norm(s.r, p_);
  }

  /// The basis of A: by its Gram matrix where that is good enough.
  Basis<double> unweighted() {
    if (auto basis = own_basis({}))
      return std::move(*basis);
    plain_ = false;
    return bases_.exact();
  }

  /// That of diag(v) A: by its own Gram matrix while that is good enough, at half the cost.
  Basis<double> weighted_basis(const Vector &v) {
    if (plain_)
      if (auto basis = own_basis(v))
        return std::move(*basis);
    plain_ = false;
    // Weights over many orders of magnitude may have cost the last basis some of its rank.
    const bool whole = basis_.P.cols >= first_basis_.P.cols;
    return bases_.reweighted(whole ? basis_ : first_basis_, v, kLoose);
  }

  std::optional<Basis<double>> own_basis(const Vector &v) {
    return bases_.orthonormalised(Small<double>::identity(A_.n), v, kLoose, 1);
  }

  /// N N^T A^T y
  Vector direction(const Vector &y) const {
    Small<double> g(A_.n, 1);
    g.data = A_.adjoint_times(y);
    const Small<double> N = basis_.product();
    return blas::product('N', N, 'N', blas::product('C', N, 'N', g)).data;
  }

  /// Reweighted least squares until the gap is at most tol, or steps gain nothing.
  void reweight(State &s, double tol, index steps) {
    Vector w, roots, y, change;
    const double first =
        p_ < 2.0 ? lp::power_norm(s.r, 2.0) / std::sqrt(static_cast<double>(A_.m)) : 0.0;
    double delta = first, smoothing = kSmoothing, t = 1.0;
    for (index step = 0; step < steps && s.objective > negligible(); ++step) {
      const double scale = lp::largest(s.r);
      const double floor = std::max(delta, (p_ < 2.0 ? kLeastDelta : kLeastWeight) * scale);
      lp::weigh(s.r, scale, floor / scale, p_, w, roots);
      basis_ = weighted_basis(roots);
      lp::weighted(w, s.r, nullptr, y);
      const Vector d = direction(y);
      A_.times(d, change);
      lp::weighted(w, s.r, &change, y);
      bound(s, y);
      ++s.steps;
      s.stopped = request_.monitor && request_.monitor(s.steps, s.gap());
      if (s.stopped || s.gap() <= tol)
        return;
      t = lp::line_minimum(s.r, change, p_, t > 0 ? t : 1.0);
      lp::subtract(-t, d, s.x);
      lp::subtract(t, change, s.r);
      const double open = std::clamp(s.gap(), tol, 1.0) * s.objective, before = s.objective;
      s.objective = lp::power_norm(s.r, p_);
      if (delta > kSmallDelta * scale) {
        delta *= smoothing;
      } else if (before - s.objective <= kGain * open) {
        if (p_ == 1.0 || p_ >= 2.0 || smoothing > kSlowest)
          return;
        smoothing = std::sqrt(smoothing);
        delta = first;
      }
    }
  }

  /// b^T y / ||y||_q = r^T y / ||y||_q for A^T y = 0.
  void bound(State &s, const Vector &y) const {
    const double norm = p_ == 1.0 ? lp::largest(y) : lp::power_norm(y, p_ / (p_ - 1.0));
    if (norm > 0)
      s.optimum = std::max(s.optimum, lp::dot(s.r, y) / norm);
  }

  /// p = 1: to a vertex that is optimal.
  void descend(State &s, index steps) {
    const Small<double> N = first_basis_.product();
    if (N.cols == 0 || A_.m <= N.cols)
      return;
    VertexDescent<T> descent(A_, b_, N);
    if (!descent.start(s.x, s.r))
      return;
    s.steps += descent.run(request_.tol, steps);
    s.x = descent.x();
    measure(s);
    s.optimum = std::max(s.optimum, descent.optimum());
  }

  LpMatrix<T> &A_;
  RowBases<T> bases_;
  Vector b_;
  LpRequest request_;
  double p_;
  double b_norm_ = -1;
  Basis<double> basis_, first_basis_; ///< for the weights of the last step, and of full rank
  bool plain_ = true;                 ///< A's own columns serve for P
};

} // namespace lowla
