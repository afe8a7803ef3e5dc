// Minimum-norm solutions of wide A x = b, or of min ||A x - b||^2 + damp^2 ||x||^2: x = B y with
// B = A^H (m x n, tall) and (B^H B + damp^2) y = b.
//
// With a triangle R of [B; damp I], as "precondition" or "direct" of lstsq.hpp have it, and N =
// R^-1: y += N N^H g for g = b - A x - damp^2 y, and x += B (the step of y). The first step has the
// forward error of a backward stable method (Paige, "An error analysis of a method for solving
// matrix equations", Math. Comp. 27, 1973), the second brings ||b - A x|| to rounding level. A
// product B (N w) is wrong by u cond(A) ||x||, and the rounding of g is a part u cond(A) of x: what
// they leave of ||b - A x|| is (u cond(A))^2, too much beyond cond(A) = 1e7.
//
// There, and where R is not of full rank: N = V diag(1 / s) of the singular values that count, Y =
// B N and R1^H R1 = Y^H Y. The columns of Q = Y R1^-1 are orthonormal to rounding, as those of Y
// are to u cond(A), and B V = Q R1 diag(s) to u ||B||. So x = Y R1^-1 R1^-H N^H b is as good as by
// Householder QR (Cholesky QR, preconditioned: Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, ETNA 44,
// 2015), for any unitary V. One read a step, 2 m n^2 flops in the triangle, 6 m n^2 for Q.
//
// Sparse A: N from a sketch of 12 n rows, and the step by conjugate gradients, as in lstsq.hpp.
//
// Certificate: that of lstsq_solver.hpp. With A = V diag(sigma) U^H the gradient of the residual is
// A^H g, and its quadratic form the sum of sigma_i^2 |v_i^H g|^2 / (sigma_i^2 + damp^2 + mu): by V
// where there is one, else at most that of sigma_1 for all of g, exact where A x = b can be solved.
#pragma once

#include "lowla/lstsq_solver.hpp"

namespace lowla {

template <class T> class MinimumNorm final : public LstsqSolver<T> {
public:
  using Wide = wide_t<T>;
  using Result = LstsqResult<Wide>;

  MinimumNorm(TallMatrix<T> &B, Small<Wide> b, const LstsqRequest &request)
      : LstsqSolver<T>(B, request, B.m, b.cols), b_(std::move(b)) {}

private:
  using Base = LstsqSolver<T>;
  using Base::A_;
  using Base::add_damping;
  using Base::b_norms2_;
  using Base::backward_error;
  using Base::check;
  using Base::conjugate_gradients;
  using Base::damp_;
  using Base::embedding;
  using Base::finish;
  using Base::frobenius;
  using Base::gram_factor;
  using Base::kMargin;
  using Base::kQuietOrder;
  using Base::kRefinements;
  using Base::kRestarts;
  using Base::kSmall;
  using Base::kSteps;
  using Base::kUnit;
  using Base::kWideEnough;
  using Base::norm2;
  using Base::request_;
  using Base::sketch_rows;
  using Base::sparse_factor;
  using Base::truncated_factor;

  double scan_b(bool &finite) override { return small::largest_part(b_, finite); }
  void rescale_b(real_t<T> factor) override {
    for (Wide &x : b_.data)
      x *= static_cast<double>(factor);
  }
  std::vector<double> norms2_b() override { return small::column_norms2(b_); }

  Result run() override {
    const index m = A_.m, n = A_.n, d = sketch_rows();
    const blas::OneThread quiet(n <= kQuietOrder);
    NormalProduct<Wide> *const sparse = A_.sparse();
    bool sketches = request_.method != LstsqMethod::kDirect && d < m;
    if (request_.method == LstsqMethod::kAuto)
      sketches = sketches && (sparse != nullptr ? m * n > kSmall : n >= kWideEnough && m >= 2 * d);
    Result result;
    Small<Wide> N, R, none;
    if (sketches && sparse != nullptr) {
      sparse_factor(embedding(d, 8), result, N, R);
      refine(result, N, R.cols > 0, request_.max_iter > 0 ? request_.max_iter : kSteps, kRestarts,
             [&](const Small<Wide> &w, index &left) {
               return conjugate_gradients(*sparse, N, w, left);
             });
      result.facts.s_exact = false;
    } else if (sketches && gram_factor(embedding(d, 4), result, N, R, none)) {
      const index steps = request_.max_iter > 0 ? request_.max_iter : kRefinements;
      if (result.s[0] <= refined() * result.s[n - 1]) {
        refine(result, N, true, steps, steps, one_step);
      } else {
        truncated_factor(std::move(R), result, N);
        expand(result, N);
      }
    } else {
      if (factor(result, N))
        refine(result, N, true, kRefinements, kRefinements, one_step);
      else
        expand(result, N);
      result.facts.iterations = 0;
      result.facts.converged = true;
      return result;
    }
    result.facts.method = "precondition";
    result.facts.rows = d;
    return result;
  }

  static const Small<Wide> &one_step(const Small<Wide> &w, index &left) {
    --left;
    return w;
  }

  /// The condition number up to which steps of refinement end at rounding level.
  double refined() const { return A_.known_by_products() ? 0.1 / std::sqrt(kUnit) : 1e7; }

  /// N from the triangle of [B; damp I], and whether it is R^-1.
  bool factor(Result &result, Small<Wide> &N) {
    const index n = A_.n;
    const Small<Wide> triangle = A_.triangle(damp_);
    check(triangle);
    N = Small<Wide>(n, n);
    for (index j = 0; j < n; ++j)
      std::copy(triangle.col(j), triangle.col(j) + n, N.col(j));
    result.s = blas::singular_values(N);
    const std::vector<double> &s = result.s;
    if (s[n - 1] > std::max(1 / refined(), kMargin * request_.rcond) * s[0] &&
        blas::invert_upper(N)) {
      result.rank = n;
      return true;
    }
    Small<Wide> R = std::move(N);
    truncated_factor(std::move(R), result, N);
    return false;
  }

  /// x by an orthonormal basis of the range of B V, N = V diag(1 / s).
  void expand(Result &result, const Small<Wide> &N) {
    Small<Wide> y(A_.n, b_.cols);
    if (N.cols > 0) {
      Small<Wide> G, c = blas::product('C', N, 'N', b_);
      A_.wide_gram(N, G);
      add_damping(N, G);
      if (blas::cholesky(G) && blas::invert_upper(G))
        c = blas::product('N', G, 'N', blas::product('C', G, 'N', c));
      A_.expand(N, c);
      y = blas::product('N', N, 'N', c);
    }
    std::vector<double> x_norms2;
    Small<Wide> Ax;
    A_.advance(Small<Wide>(A_.n, b_.cols), true, x_norms2, Ax);
    Small<Wide> g = b_;
    for (std::size_t i = 0; i < g.data.size(); ++i)
      g.data[i] -= Ax.data[i];
    const std::vector<double> norms2 = small::column_norms2(g);
    for (std::size_t i = 0; i < g.data.size(); ++i)
      g.data[i] -= damp_ * damp_ * y.data[i];
    const Small<Wide> w = blas::product('C', N, 'N', g);
    result.facts.backward_error =
        backward_error(x_norms2, norms2, result.s,
                       [&](index j, double mu) { return truncated_quadratic(result.s, w, j, mu); });
    end(result, norms2);
  }

  /// y += N z and x += B N z with z = solve(N^H g, left), until the backward error of x is small.
  template <class Solve>
  void refine(Result &result, const Small<Wide> &N, bool plain, index steps, index rounds,
              Solve &&solve) {
    constexpr double kEps = 2.0 * kUnit;
    const double target = request_.tol > 0 ? request_.tol : 0.5 * kEps;
    const double accepted = request_.tol > 0 ? request_.tol : 50.0 * kEps;
    const index least = request_.tol > 0 ? 0 : 2;
    const std::vector<double> &s = result.s;
    Small<Wide> y(A_.n, b_.cols), g = b_, Ax;
    std::vector<double> x_norms2(static_cast<std::size_t>(b_.cols), 0.0), norms2 = b_norms2_;
    double last = std::numeric_limits<double>::infinity();
    index left = steps;
    for (index step = 0;; ++step) {
      const Small<Wide> w = blas::product('C', N, 'N', g);
      const double size = frobenius(w);
      const double error = backward_error(x_norms2, norms2, s, [&](index j, double mu) {
        return plain ? upper_quadratic(s[0], g, j, mu) : truncated_quadratic(s, w, j, mu);
      });
      const bool out_of_steps = left == 0 || step == rounds;
      const bool stagnant = step > least && size > 0.5 * last;
      const bool stopped = request_.monitor && step > 0 && request_.monitor(steps - left, error);
      if (out_of_steps || stagnant || stopped || (step >= least && error <= target)) {
        result.facts.backward_error = error;
        result.facts.iterations = steps - left;
        result.facts.converged = error <= accepted;
        break;
      }
      const Small<Wide> dy = blas::product('N', N, 'N', solve(w, left));
      // x as it is returned from the last steps on, see LstsqSolver::round
      const bool rounds_x = step + 1 >= std::min(least, rounds) || left == 0;
      A_.advance(dy, rounds_x, x_norms2, Ax);
      for (std::size_t i = 0; i < y.data.size(); ++i) {
        y.data[i] += dy.data[i];
        g.data[i] = b_.data[i] - Ax.data[i];
      }
      norms2 = small::column_norms2(g);
      for (std::size_t i = 0; i < y.data.size(); ++i)
        g.data[i] -= damp_ * damp_ * y.data[i];
      last = size;
    }
    end(result, norms2);
  }

  void end(Result &result, const std::vector<double> &norms2) {
    result.x = A_.advanced();
    if (damp_ > 0) { // [A; damp I] has as many singular values as unknowns
      std::vector<double> &s = result.s;
      s.resize(static_cast<std::size_t>(A_.m), damp_);
      result.rank = std::count_if(s.begin(), s.end(),
                                  [&](double value) { return value > request_.rcond * s[0]; });
    }
    finish(result, norms2);
  }

  double upper_quadratic(double s, const Small<Wide> &g, index j, double mu) const {
    return std::max(s * s - damp_ * damp_, 0.0) / (s * s + mu) * norm2(g, j);
  }

  /// For w = diag(1 / s) V^H g.
  double truncated_quadratic(const std::vector<double> &s, const Small<Wide> &w, index j,
                             double mu) const {
    double sum = 0;
    for (index i = 0; i < w.rows; ++i) {
      const double s2 = s[i] * s[i];
      sum += s2 * abs2(w(i, j)) * std::max(s2 - damp_ * damp_, 0.0) / (s2 + mu);
    }
    return sum;
  }

  Small<Wide> b_;
};

} // namespace lowla
