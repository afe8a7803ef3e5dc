// Least squares min ||A x - b||^2 + damp^2 ||x||^2 for tall A, to the accuracy of Householder QR.
//
// precondition. S A D = Q R0 from a sparse sketch of d = 2 n + 32 rows and powers of two D makes
//   P = D R0^-1 a preconditioner: cond(A P) <= (1 + sqrt(n/d)) / (1 - sqrt(n/d)), about 6, whatever
//   cond(A) (Rokhlin, Tygert, PNAS 105, 2008). Its Gram matrix G = (A P)^H (A P) = R1^H R1 is
//   formed in one read of A by row blocks; R^-1 = N = P R1^-1 orthonormalises A to rounding. Then x
//   = N c and steps x += N N^H A^H (b - A x), one read each: at least two, as the first gives the
//   forward and the second the backward error (Epperly, Meier, Nakatsukasa, "Fast randomized
//   least-squares solvers can be just as accurate and stable as classical direct solvers", 2024).
//   Cost: 2 m n^2 flops in two triangular products, about five reads, 8 n^2 + O(n r) memory.
//   Sparse A: S A of 12 n rows, in double, and x += P z with (P^H A^H A P) z = P^H A^H (b - A x) by
//   conjugate gradients, restarted from the true residual (SPIR of the same authors), as A P would
//   be dense. Where the sketch is not of full rank P comes from its truncated SVD. About 20
//   products with A and A^H a restart; 24 n^3 flops for the sketch.
// direct. The triangle of [A b], where A is tall by Cholesky QR behind a sketch, else by LAPACK's
//   QR of row blocks (TSQR); then its SVD: minimum norm, any rank. 2 m n^2 flops, no copy of A.
// sketch. The same on [S A, S b].
#pragma once

#include "lowla/lstsq_solver.hpp"
#include "lowla/tsqr.hpp"

namespace lowla {

template <class T> class LeastSquares final : public LstsqSolver<T> {
public:
  using Wide = wide_t<T>;
  using Result = LstsqResult<Wide>;

  LeastSquares(TallMatrix<T> &A, const LstsqRequest &request)
      : LstsqSolver<T>(A, request, A.n, A.r) {}

private:
  using Base = LstsqSolver<T>;
  using Base::A_;
  using Base::backward_error;
  using Base::check;
  using Base::conjugate_gradients;
  using Base::damp_;
  using Base::embedding;
  using Base::finish;
  using Base::frobenius;
  using Base::gram_factor;
  using Base::kMargin;
  using Base::kPlain;
  using Base::kQuietOrder;
  using Base::kRefinements;
  using Base::kRestarts;
  using Base::kSingle;
  using Base::kSmall;
  using Base::kSteps;
  using Base::kUnit;
  using Base::kWideEnough;
  using Base::norm2;
  using Base::request_;
  using Base::round;
  using Base::sketch_rows;
  using Base::sparse_factor;

  double scan_b(bool &finite) override { return A_.scan_b(finite); }
  void rescale_b(real_t<T> factor) override { A_.rescale_b(factor); }
  std::vector<double> norms2_b() override { return A_.norms2_b(); }

  // --- the choice ---

  Result run() override {
    const index m = A_.m, n = A_.n, d = sketch_rows();
    NormalProduct<Wide> *const sparse = A_.sparse();
    LstsqMethod method = request_.method;
    const blas::OneThread quiet(n <= kQuietOrder);
    if (method == LstsqMethod::kAuto) {
      const bool small = sparse != nullptr ? m * n <= kSmall : n < kWideEnough || m < 2 * d;
      method = small ? LstsqMethod::kDirect : LstsqMethod::kPrecondition;
    }
    if (method != LstsqMethod::kDirect && d < m) {
      // A preconditioner needs less of its sketch than a solution: with half the nonzeros the bound
      // on cond(A P) goes from 6 to 7.
      const bool half = method == LstsqMethod::kPrecondition && sparse == nullptr;
      const SketchSpec spec = embedding(d, half ? 4 : 8);
      if (method == LstsqMethod::kSketch)
        return by_triangle(A_.sketched_triangle(spec, damp_), "sketch", d, sketch_cutoff(d));
      if (sparse != nullptr)
        return iterate(*sparse, spec);
      if (std::optional<Result> result = precondition(spec))
        return std::move(*result);
    }
    return by_triangle(A_.triangle(damp_), "direct", 0, request_.rcond);
  }

  /// S A is formed in T: smaller singular values of float data are its rounding.
  double sketch_cutoff(index d) {
    const double rounding = 2.0 * kUnit * static_cast<double>(std::max(d, A_.n));
    return kSingle && A_.sparse() == nullptr ? std::max(request_.rcond, rounding) : request_.rcond;
  }

  // --- direct and sketch: a triangle ---

  Result by_triangle(const Small<Wide> &R, const char *method, index rows, double rcond) {
    check(R);
    const index n = A_.n, r = A_.r;
    Small<Wide> U(n, n), c(n, r), V;
    for (index j = 0; j < n; ++j)
      std::copy(R.col(j), R.col(j) + std::min(n, R.rows), U.col(j));
    for (index j = 0; j < r; ++j)
      std::copy(R.col(n + j), R.col(n + j) + std::min(n, R.rows), c.col(j));
    Result result;
    // B B^H = (A^H A)^+ and x = B c: B = R^-1, or V diag(1 / s) where singular values count.
    Small<Wide> B, R1 = U;
    result.s = blas::singular_values(R1);
    const std::vector<double> &s = result.s;
    const bool plain = s[n - 1] > std::max(kPlain, kMargin * rcond) * s[0];
    if (plain) {
      B = std::move(U);
      blas::invert_upper(B);
      result.rank = n;
    } else {
      blas::gesdd(n, n, U, result.s, V);
      while (result.rank < n && s[result.rank] > rcond * s[0])
        ++result.rank;
      B = V.columns(0, result.rank);
      for (index j = 0; j < result.rank; ++j)
        for (index i = 0; i < n; ++i)
          B(i, j) /= s[j];
      c = blas::product('C', U.columns(0, result.rank), 'N', c);
    }
    result.x = blas::product('N', B, 'N', c);
    result.facts.method = method;
    result.facts.rows = rows;
    result.facts.s_exact = rows == 0;
    // The triangle is good to rounding, what was solved with it is not always: two corrections.
    const int corrections = rows == 0 && !A_.known_by_products() ? 2 : 0;
    double last = std::numeric_limits<double>::infinity();
    std::vector<double> norms2;
    Small<Wide> g, w;
    for (int step = 0;; ++step) {
      if (step == corrections)
        round(result.x);
      measure(result.x, norms2, g);
      w = blas::product('C', B, 'N', g);
      const double size = frobenius(w);
      if (step == corrections || (!kSingle && (size == 0 || !(size < last))))
        break;
      last = size;
      const Small<Wide> dx = blas::product('N', B, 'N', w);
      for (std::size_t i = 0; i < dx.data.size(); ++i)
        result.x.data[i] += dx.data[i];
    }
    result.facts.backward_error =
        backward_error(small::column_norms2(result.x), norms2, s, [&](index j, double mu) {
          return plain ? quadratic(R1, B, g, w, j, mu) : truncated_quadratic(s, w, j, mu);
        });
    finish(result, norms2);
    return result;
  }

  // --- precondition ---

  std::optional<Result> precondition(const SketchSpec &spec) {
    Result result;
    Small<Wide> N, R, c;
    if (!gram_factor(spec, result, N, R, c))
      return std::nullopt;
    const index steps = request_.max_iter > 0 ? request_.max_iter : kRefinements;
    refine(
        result, N, blas::product('N', N, 'N', c), steps,
        [](const Small<Wide> &w, index &left) {
          --left;
          return w;
        },
        [&](const Small<Wide> &g, const Small<Wide> &w, index j, double mu) {
          return quadratic(R, N, g, w, j, mu);
        });
    result.facts.method = "precondition";
    result.facts.rows = spec.d;
    return result;
  }

  // --- precondition, sparse ---

  Result iterate(NormalProduct<Wide> &A, const SketchSpec &spec) {
    const index n = A_.n;
    Result result;
    Small<Wide> N, R;
    sparse_factor(spec, result, N, R);
    const std::vector<double> &s = result.s;
    refine(
        result, N, Small<Wide>(n, A_.r), request_.max_iter > 0 ? request_.max_iter : kSteps,
        [&](const Small<Wide> &w, index &left) { return conjugate_gradients(A, N, w, left); },
        [&](const Small<Wide> &g, const Small<Wide> &w, index j, double mu) {
          return R.cols > 0 ? quadratic(R, N, g, w, j, mu) : truncated_quadratic(s, w, j, mu);
        });
    result.facts.method = "precondition";
    result.facts.rows = spec.d;
    result.facts.s_exact = false;
    return result;
  }

  // --- refinement ---

  /// x += N z with z = solve(N^H g, left), until the backward error of x is small; `left` counts
  /// down from `steps`.
  template <class Solve, class Quadratic>
  void refine(Result &result, const Small<Wide> &N, Small<Wide> x, index steps, Solve &&solve,
              Quadratic &&quadratic) {
    constexpr double kEps = 2.0 * kUnit;
    const double target = request_.tol > 0 ? request_.tol : 0.5 * kEps;
    const double accepted = request_.tol > 0 ? request_.tol : 50.0 * kEps;
    const index least = request_.tol > 0 ? 0 : 2;
    const index rounds = A_.sparse() != nullptr ? kRestarts : steps;
    const std::vector<double> &s = result.s;
    double last = std::numeric_limits<double>::infinity();
    index left = steps;
    for (index step = 0;; ++step) {
      std::vector<double> norms2;
      Small<Wide> g;
      if (step >= std::min(least, rounds) || left == 0)
        round(x);
      measure(x, norms2, g);
      const Small<Wide> w = blas::product('C', N, 'N', g);
      const double size = frobenius(w);
      const std::vector<double> x_norms2 = small::column_norms2(x);
      double error = backward_error(
          x_norms2, norms2, s, [&](index j, double mu) { return upper_quadratic(g, w, j, mu); });
      const bool out_of_steps = left == 0 || step == rounds;
      const bool stagnant = step > least && size > 0.5 * last;
      const bool last_step = out_of_steps || stagnant || step >= least;
      if (last_step && error > target)
        error = backward_error(x_norms2, norms2, s,
                               [&](index j, double mu) { return quadratic(g, w, j, mu); });
      const bool stopped = request_.monitor && step > 0 && request_.monitor(steps - left, error);
      if (out_of_steps || stagnant || stopped || (step >= least && error <= target)) {
        if (request_.tol > 0) // what is reported is the estimate, not its bound
          error = backward_error(x_norms2, norms2, s,
                                 [&](index j, double mu) { return quadratic(g, w, j, mu); });
        result.x = std::move(x);
        result.facts.backward_error = error;
        result.facts.iterations = steps - left;
        result.facts.converged = error <= accepted;
        finish(result, norms2);
        return;
      }
      const Small<Wide> dx = blas::product('N', N, 'N', solve(w, left));
      for (std::size_t i = 0; i < x.data.size(); ++i)
        x.data[i] += dx.data[i];
      last = size;
    }
  }

  // --- the certificate ---

  /// The residual norms of x, and g = A^H (b - A x) - damp^2 x.
  void measure(const Small<Wide> &x, std::vector<double> &norms2, Small<Wide> &g) {
    A_.residual(x, norms2, g);
    if (damp_ > 0)
      for (std::size_t i = 0; i < g.data.size(); ++i)
        g.data[i] -= damp_ * damp_ * x.data[i];
  }

  /// (A^H A + mu)^-1 is below (A^H A)^-1 and below 1 / mu.
  static double upper_quadratic(const Small<Wide> &g, const Small<Wide> &w, index j, double mu) {
    const double bound = norm2(w, j);
    return mu > 0 ? std::min(bound, norm2(g, j) / mu) : bound;
  }

  /// For w = diag(1 / s) V^H g.
  static double truncated_quadratic(const std::vector<double> &s, const Small<Wide> &w, index j,
                                    double mu) {
    double sum = 0;
    for (index i = 0; i < w.rows; ++i) {
      const double s2 = s[i] * s[i];
      if (s2 + mu > 0)
        sum += abs2(w(i, j)) * (s2 / (s2 + mu));
    }
    return sum;
  }

  /// By the Cholesky factor of R^H R + mu, or where that has lost the small singular values, of
  /// I + mu N^H N.
  double quadratic(const Small<Wide> &R, const Small<Wide> &N, const Small<Wide> &g,
                   const Small<Wide> &w, index j, double mu) const {
    const double r2 = frobenius(R) * frobenius(R);
    const bool well_shifted = mu > 1e-8 * r2;
    Small<Wide> M = well_shifted ? blas::product('C', R, 'N', R) : blas::product('C', N, 'N', N);
    if (!well_shifted)
      for (Wide &x : M.data)
        x *= mu;
    for (index i = 0; i < M.rows; ++i)
      M(i, i) += well_shifted ? mu : 1.0;
    if (!blas::potrf(M.rows, M.data.data(), M.rows))
      return upper_quadratic(g, w, j, mu);
    // L y = v with L = M^H, the upper factor's columns
    const Wide *v = (well_shifted ? g : w).col(j);
    std::vector<Wide> y(static_cast<std::size_t>(M.rows));
    double sum = 0;
    for (index i = 0; i < M.rows; ++i) {
      Wide value = v[i];
      for (index k = 0; k < i; ++k)
        value -= conj_of(M(k, i)) * y[k];
      y[i] = value / real_of(M(i, i));
      sum += abs2(y[i]);
    }
    return sum;
  }
};

} // namespace lowla
