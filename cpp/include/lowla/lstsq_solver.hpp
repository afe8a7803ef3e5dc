// What the solvers of least squares share, tall (lstsq.hpp) and wide (minimum_norm.hpp): the matrix
// as they see it, the range of its entries, the sketched preconditioner, conjugate gradients with
// it, and the certificate.
//
// The matrix is always the tall one, B (m x n, m >= n): A itself, or A^H where A is wide.
//
// Preconditioner: S B D = Q R0 from a sparse sketch and powers of two D; P = D R0^-1 has
//   cond(B P) <= (1 + sqrt(n/d)) / (1 - sqrt(n/d)), whatever cond(B) (Rokhlin, Tygert, PNAS 105,
//   2008). Where the sketch is not of full rank P comes from its truncated SVD.
//
// Certificate: the backward error of Karlson and Walden (BIT 37, 1997) for
// min ||[dA, theta db]||_F / ||A||_F, theta = ||A||_F / ||b||, within sqrt(2) of the optimum
// (Gratton, Jiranek, Titley-Peloquin, SIAM J. Matrix Anal. Appl. 33, 2012):
//   theta / sqrt(1 + theta^2 ||x||^2) ||(A^H A + mu)^(-1/2) A^H r||,
//   mu = theta^2 ||r||^2 / (1 + theta^2 ||x||^2).
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/core/error.hpp"
#include "lowla/core/range.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/view.hpp"
#include "lowla/sketch.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lowla {

enum class LstsqMethod { kAuto, kDirect, kPrecondition, kSketch };

struct LstsqRequest {
  LstsqMethod method = LstsqMethod::kAuto;
  std::string sketch = "sjlt"; ///< a kind of sketch.hpp, with its default sparsity
  double rcond = 0, damp = 0;
  double tol = 0;               ///< backward error that ends the refinement; 0: rounding level
  index max_iter = 0, rows = 0; ///< 0: chosen
  std::uint64_t key = 0;
  bool check_finite = true;
  /// (step, backward error) -> true to stop
  std::function<bool(index, double)> monitor;
};

struct LstsqFacts {
  const char *method = "direct";
  double cond = 0, backward_error = 0;
  std::vector<double> residual_norm;
  bool s_exact = true, converged = true;
  index iterations = 0, passes = 0, rows = 0;
};

template <class W> struct LstsqResult {
  Small<W> x;
  std::vector<double> residuals2, s;
  index rank = 0;
  LstsqFacts facts;
};

/// A that is sparse, or known by its products alone.
template <class Wide> class NormalProduct {
public:
  virtual ~NormalProduct() = default;
  /// Z = A^H A X
  virtual void normal(const Small<Wide> &X, Small<Wide> &Z) = 0;
};

/// What the solvers ask of B (m x n, m >= n; below it is called A) and of r columns b beside it,
/// which only `gram`, `residual`, the triangles and what ends in `_b` mean.
template <class T> class TallMatrix {
public:
  using Wide = wide_t<T>;
  index m = 0, n = 0, r = 0;
  index reads = 0; ///< of A
  virtual ~TallMatrix() = default;
  /// S A.
  virtual Small<Wide> sketch(const SketchSpec &spec) = 0;
  /// With Y = A P, P upper triangular: G = Y^H Y and H = Y^H b.
  virtual void gram(const Small<Wide> &P, Small<Wide> &G, Small<Wide> &H) = 0;
  /// Z = A^H (b - A X) and the squared norms of the columns of b - A X, in double precision.
  virtual void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) = 0;
  /// For wide systems, where X (m x r, at first zero) is kept beside A. X += A dY, then rounded to
  /// T if `rounds`; Z = A^H X and the squared norms of the columns of X.
  virtual void advance(const Small<Wide> &dY, bool rounds, std::vector<double> &norms2,
                       Small<Wide> &Z) = 0;
  /// With Y = A P in double precision, bit for bit the same in both: G = Y^H Y, X = Y C.
  virtual void wide_gram(const Small<Wide> &P, Small<Wide> &G) = 0;
  virtual void expand(const Small<Wide> &P, const Small<Wide> &C) = 0;
  virtual Small<Wide> advanced() = 0; ///< X
  /// Of the triangular factor of [A b; damp I 0] the first n rows, or more.
  virtual Small<Wide> triangle(double damp) = 0;
  /// That of [S A, S b; damp I, 0].
  virtual Small<Wide> sketched_triangle(const SketchSpec &spec, double damp) = 0;
  /// Largest magnitude among the finite entries of A, or of b.
  virtual double scan(bool &finite) = 0;
  virtual double scan_b(bool &finite) = 0;
  /// From here on A, or b, times `factor`.
  virtual void rescale(real_t<T> factor) = 0;
  virtual void rescale_b(real_t<T> factor) = 0;
  /// Squared norms of the columns of b.
  virtual std::vector<double> norms2_b() = 0;
  /// Where A is sparse; its sketches are then in double precision.
  virtual NormalProduct<Wide> *sparse() { return nullptr; }
  /// Whether these, in the precision T, are all that is known of it: a sketch is dear.
  virtual bool known_by_products() const { return false; }
};

/// A and b in main memory.
template <class T> std::unique_ptr<TallMatrix<T>> tall(MatrixView<T> A, MatrixView<T> b);
template <class T, class I> std::unique_ptr<TallMatrix<T>> tall(CsrView<T, I> A, MatrixView<T> b);
/// A^H, without right-hand sides; of a CSR matrix a transposed copy.
template <class T> std::unique_ptr<TallMatrix<T>> adjoint_tall(MatrixView<T> A);
template <class T, class I> std::unique_ptr<TallMatrix<T>> adjoint_tall(CsrView<T, I> A);

/// The frame of a solver: `run` with entries in the safe range.
template <class T> class LstsqSolver {
public:
  using Wide = wide_t<T>;
  using Result = LstsqResult<Wide>;

  virtual ~LstsqSolver() = default;

  Result solve() {
    bool finite = true;
    const int b_exponent = scale_b(finite);
    if (!finite)
      return not_finite("b");
    b_norms2_ = norms2_b();
    std::optional<Result> result;
    int a_exponent = 0;
    try {
      if (A_.known_by_products())
        a_exponent = scale_a(false);
      result = run();
    } catch (const OutOfRange &) {
      try {
        a_exponent = scale_a(true);
        result = run();
      } catch (const OutOfRange &) {
        return not_finite("A");
      }
    }
    result->facts.passes = A_.reads;
    scale_back(*result, a_exponent, b_exponent);
    return std::move(*result);
  }

protected:
  LstsqSolver(TallMatrix<T> &B, const LstsqRequest &request, index unknowns, index columns)
      : A_(B), request_(request), damp_(request.damp), unknowns_(unknowns), columns_(columns) {}

  virtual Result run() = 0;
  /// As in TallMatrix, of the right-hand sides.
  virtual double scan_b(bool &finite) = 0;
  virtual void rescale_b(real_t<T> factor) = 0;
  virtual std::vector<double> norms2_b() = 0;

  using Range = SafeRange<T>;
  static constexpr bool kSingle = std::is_same_v<real_t<T>, float>;
  static constexpr double kUnit = unit_roundoff<T>();
  /// Singular values this close to the rank decision leave it to `direct`; those of R are that
  /// accurate as long as the columns of A are better conditioned than kResolved.
  static constexpr double kMargin = 2.0;
  /// Y = A P is formed in T: its error E is about kUnit ||A D||_F ||(A D)^-1||_F beside singular
  /// values near 1. As A + E P^-1 = (Y + E) P^-1, this is the relative error of every singular
  /// value of R, however small, and the factor by which a refinement step shrinks the error of x.
  /// The same holds for the rounding of S A and the size of those of A P. Beyond 1 / (60 kUnit)
  /// (3e5 for float) T cannot tell A from one of lower rank, and `direct`, in double, decides.
  static constexpr double kResolved = 1.0 / (60.0 * kUnit);
  /// Relative singular values above which R^-1 serves as well as the SVD of R.
  static constexpr double kPlain = 1e-9;
  static constexpr index kRefinements = 8;
  /// Sparse A: steps of conjugate gradients, and restarts of them.
  static constexpr index kSteps = 200, kRestarts = 6;
  /// Reduction of the preconditioned gradient between two restarts.
  static constexpr double kReduction = 1e-10;
  /// Entries of a sparse A below which "auto" does not sketch.
  static constexpr index kSmall = index(1) << 18;
  /// Columns from which "auto" preconditions, given rows for two sketches. The cost of the sketch
  /// grows with m n, what is gained on LAPACK's QR with m n^2: whatever m, the two are even at 16
  /// to 20 columns (measured on one core, all four types, r = 1).
  static constexpr index kWideEnough = 20;

  /// Orders up to which LAPACK's share is worth one thread only.
  static constexpr index kQuietOrder = 768;

  struct OutOfRange {};

  // --- range ---

  /// Brings b into the safe range if it is not there: b 2^-e.
  int scale_b(bool &finite) {
    const double largest = scan_b(finite);
    if (!finite || Range::holds(largest))
      return 0;
    const int e = Range::exponent(largest);
    rescale_b(Range::power(-e));
    return e;
  }

  /// The same for A; `surely`: whatever its range seems to be. OutOfRange where it is not finite.
  int scale_a(bool surely) {
    bool finite = true;
    const double largest = A_.scan(finite);
    if (!finite)
      throw OutOfRange{};
    if (!surely && Range::holds(largest))
      return 0;
    const int e = Range::exponent(largest);
    A_.rescale(Range::power(-e));
    damp_ = std::ldexp(request_.damp, -e);
    rescaled_ = true;
    return e;
  }

  void scale_back(Result &result, int a_exponent, int b_exponent) const {
    for (Wide &x : result.x.data)
      x = ldexp(x, b_exponent - a_exponent);
    for (double &r : result.residuals2)
      r = std::ldexp(r, 2 * b_exponent);
    for (double &r : result.facts.residual_norm)
      r = std::ldexp(r, b_exponent);
    for (double &s : result.s)
      s = std::ldexp(s, a_exponent);
  }

  static double ldexp(double x, int e) { return std::ldexp(x, e); }
  static std::complex<double> ldexp(std::complex<double> x, int e) {
    return {std::ldexp(x.real(), e), std::ldexp(x.imag(), e)};
  }

  /// Finite and in range, or OutOfRange, whose handler looks at the entries of A.
  void check(const Small<Wide> &M) const {
    double largest = 0;
    for (const Wide &x : M.data) {
      const double size = std::abs(x);
      if (!std::isfinite(size))
        throw OutOfRange{};
      largest = std::max(largest, size);
    }
    if (!rescaled_ && !Range::holds(largest))
      throw OutOfRange{};
  }

  Result not_finite(const char *name) const {
    if (request_.check_finite)
      throw ValueError(std::string(name) + " contains NaN or Inf");
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto r = static_cast<std::size_t>(columns_);
    Result result;
    result.x = Small<Wide>(unknowns_, columns_);
    std::fill(result.x.data.begin(), result.x.data.end(), Wide(nan));
    result.residuals2.assign(r, nan);
    result.s.assign(static_cast<std::size_t>(A_.n), nan);
    result.facts.residual_norm.assign(r, nan);
    result.facts.cond = result.facts.backward_error = nan;
    result.facts.s_exact = result.facts.converged = false;
    result.facts.passes = 1;
    return result;
  }

  // --- the sketched preconditioner ---

  /// Rows of a sketch.
  index sketch_rows() const {
    const index least = 2 * A_.n + 32;
    if (request_.rows > 0)
      return request_.rows;
    const index a_column = A_.known_by_products() ? 4 : 12;
    return A_.sparse() != nullptr ? std::max(least, std::min(a_column * A_.n, A_.m / 2)) : least;
  }

  SketchSpec embedding(index d, index nnz) const {
    const double density = 1.0 / std::sqrt(static_cast<double>(A_.m));
    return sketch_spec(request_.sketch, request_.key, d, A_.m, std::min(nnz, d), density);
  }

  /// [S A; damp I].
  Small<Wide> sketched(const SketchSpec &spec) {
    const index n = A_.n, d = spec.d;
    Small<Wide> SA = A_.sketch(spec);
    check(SA);
    if (damp_ == 0)
      return SA;
    Small<Wide> taller(d + n, n);
    for (index j = 0; j < n; ++j) {
      std::copy(SA.col(j), SA.col(j) + d, taller.col(j));
      taller(d + j, j) = damp_;
    }
    return taller;
  }

  /// The preconditioner from SA (or its triangle), powers of two D in front: P = D R0^-1 and R0
  /// D^-1; false where the rank of A is in doubt.
  bool sketched_factor(Small<Wide> SA, Small<Wide> &P, Small<Wide> &R0, std::vector<double> &D) {
    const index n = A_.n;
    D.resize(static_cast<std::size_t>(n));
    for (index j = 0; j < n; ++j) {
      double largest = 0;
      for (index i = 0; i < SA.rows; ++i)
        largest = std::max(largest, std::abs(SA(i, j)));
      if (!(largest > 0))
        return false;
      D[j] = std::ldexp(1.0, -std::ilogb(largest));
      for (index i = 0; i < SA.rows; ++i)
        SA(i, j) *= D[j];
    }
    blas::triangle(SA);
    P = SA;
    if (!blas::invert_upper(P))
      return false;
    R0 = std::move(SA);
    // P as `gram` takes it: else its rounding, no noise, stays in A N
    if (kSingle && A_.sparse() == nullptr) {
      for (Wide &x : P.data)
        x = Wide(static_cast<T>(x));
      R0 = P;
      if (!blas::invert_upper(R0))
        return false;
    }
    for (index j = 0; j < n; ++j)
      for (index i = 0; i <= j; ++i) {
        P(i, j) *= D[i];
        R0(i, j) /= D[j];
      }
    return resolved(R0, P, D);
  }

  /// ||R D||_F ||D^-1 R^-1||_F < kResolved
  static bool resolved(const Small<Wide> &R, const Small<Wide> &inverse,
                       const std::vector<double> &D) {
    double norm = 0, inverse_norm = 0;
    for (index j = 0; j < R.cols; ++j)
      for (index i = 0; i <= j; ++i) {
        norm += abs2(R(i, j) * D[j]);
        inverse_norm += abs2(inverse(i, j) / D[i]);
      }
    return std::sqrt(norm) * std::sqrt(inverse_norm) < kResolved;
  }

  /// Both, side by side where LAPACK keeps to the thread that calls it.
  template <class F, class G> void at_once(F &&f, G &&g) const {
    if (A_.n <= kQuietOrder) {
      threads::parallel_for(2, [&](index task) { task == 0 ? f() : g(); });
    } else {
      f();
      g();
    }
  }

  /// G += damp^2 P^H P
  void add_damping(const Small<Wide> &P, Small<Wide> &G) const {
    if (damp_ == 0)
      return;
    const Small<Wide> PP = blas::product('C', P, 'N', P);
    for (std::size_t i = 0; i < G.data.size(); ++i)
      G.data[i] += damp_ * damp_ * PP.data[i];
  }

  /// N = R^-1 with (B N)^H (B N) = I to rounding in T, from the sketch and the Gram matrix of B P,
  /// c = N^H B^H b, singular values and rank; false where the rank is in doubt.
  bool gram_factor(const SketchSpec &spec, Result &result, Small<Wide> &N, Small<Wide> &R,
                   Small<Wide> &c) {
    const index n = A_.n;
    Small<Wide> P, R0, G, H;
    std::vector<double> D;
    if (!sketched_factor(sketched(spec), P, R0, D))
      return false;
    A_.gram(P, G, H);
    add_damping(P, G);
    for (const Wide &x : G.data)
      if (!std::isfinite(std::abs(x)))
        throw OutOfRange{};
    if (!blas::cholesky(G))
      return false;
    R = blas::product('N', G, 'N', R0);
    bool inverted = false;
    at_once(
        [&] {
          inverted = blas::invert_upper(G);
          if (inverted) {
            N = blas::product('N', P, 'N', G);
            c = blas::product('C', G, 'N', H);
          }
        },
        [&] { result.s = blas::singular_values(R); });
    if (!inverted || !resolved(R, N, D))
      return false;
    result.rank = n;
    return !(result.s[n - 1] < kMargin * request_.rcond * result.s[0]);
  }

  /// N with N^H B^H B N near I from the sketch of sparse B, its rank and singular values. R with
  /// R N = I, or empty where N comes from the truncated SVD.
  void sparse_factor(const SketchSpec &spec, Result &result, Small<Wide> &N, Small<Wide> &R) {
    const index n = A_.n;
    Small<Wide> triangle = sketched(spec);
    blas::triangle(triangle);
    std::vector<double> D;
    bool certain = sketched_factor(triangle, N, R, D);
    if (certain) {
      result.s = blas::singular_values(R);
      certain = !(result.s[n - 1] < kMargin * request_.rcond * result.s[0]);
      result.rank = n;
    }
    if (!certain) {
      truncated_factor(std::move(triangle), result, N);
      R = Small<Wide>();
    }
  }

  /// Singular values of R, the rank, and N = V diag(1 / s) of those that count.
  void truncated_factor(Small<Wide> R, Result &result, Small<Wide> &N) const {
    const index n = A_.n;
    Small<Wide> V;
    blas::gesdd(n, n, R, result.s, V);
    const std::vector<double> &s = result.s;
    result.rank = 0;
    while (result.rank < n && s[result.rank] > request_.rcond * s[0])
      ++result.rank;
    N = V.columns(0, result.rank);
    for (index j = 0; j < result.rank; ++j)
      for (index i = 0; i < n; ++i)
        N(i, j) /= s[j];
  }

  /// z with N^H (A^H A + damp^2) N z = c, column by column: to the reduction of the residual, for
  /// `left` steps in all, or until four steps do not halve it.
  Small<Wide> conjugate_gradients(NormalProduct<Wide> &A, const Small<Wide> &N,
                                  const Small<Wide> &c, index &left) {
    const double reduction = std::max(kReduction, 8.0 * kUnit);
    Small<Wide> z(c.rows, c.cols), residual = c, direction = c, image;
    std::vector<double> size2 = small::column_norms2(c);
    const std::vector<double> start2 = size2;
    std::vector<double> worst{*std::max_element(size2.begin(), size2.end())};
    const auto done = [&] {
      for (index j = 0; j < c.cols; ++j)
        if (size2[j] > reduction * reduction * start2[j])
          return false;
      return true;
    };
    for (; left > 0 && !done(); --left) {
      const Small<Wide> step = blas::product('N', N, 'N', direction);
      A.normal(step, image);
      for (std::size_t i = 0; damp_ > 0 && i < image.data.size(); ++i)
        image.data[i] += damp_ * damp_ * step.data[i];
      const Small<Wide> curved = blas::product('C', N, 'N', image);
      for (index j = 0; j < c.cols; ++j) {
        double curvature = 0;
        for (index i = 0; i < c.rows; ++i)
          curvature += real_of(conj_of(direction(i, j)) * curved(i, j));
        const double alpha = curvature > 0 ? size2[j] / curvature : 0;
        for (index i = 0; i < c.rows; ++i) {
          z(i, j) += alpha * direction(i, j);
          residual(i, j) -= alpha * curved(i, j);
        }
        const double next2 = norm2(residual, j), beta = size2[j] > 0 ? next2 / size2[j] : 0;
        for (index i = 0; i < c.rows; ++i)
          direction(i, j) = residual(i, j) + beta * direction(i, j);
        size2[j] = next2;
      }
      worst.push_back(*std::max_element(size2.begin(), size2.end()));
      const std::size_t last = worst.size() - 1;
      if (last > 4 && worst[last] > 0.25 * worst[last - 4]) {
        --left;
        break;
      }
    }
    return z;
  }

  // --- the certificate ---

  /// x as it is returned. Not before the last step: a step from a rounded x would carry its
  /// rounding, which has no small component where A is small, over into all components.
  static void round(Small<Wide> &x) {
    for (Wide &value : x.data)
      value = Wide(static_cast<T>(value));
  }

  static double norm2(const Small<Wide> &M, index j) {
    double sum = 0;
    for (index i = 0; i < M.rows; ++i)
      sum += abs2(M(i, j));
    return sum;
  }
  static double frobenius(const Small<Wide> &M) {
    double sum = 0;
    for (const Wide &x : M.data)
      sum += abs2(x);
    return std::sqrt(sum);
  }

  /// The worst column's backward error from the squared norms of x and r; quadratic(j, mu) =
  /// g_j^H (A^H A + mu)^-1 g_j for the gradient g = A^H r.
  template <class F>
  double backward_error(const std::vector<double> &x_norms2, const std::vector<double> &norms2,
                        const std::vector<double> &s, F &&quadratic) const {
    double norm_A2 = 0, worst = 0;
    for (double value : s)
      norm_A2 += value * value;
    if (norm_A2 == 0)
      return 0;
    for (index j = 0; j < columns_; ++j) {
      if (b_norms2_[j] == 0)
        continue;
      const double theta2 = norm_A2 / b_norms2_[j], x2 = x_norms2[j];
      const double shrink = 1 + theta2 * x2;
      const double mu = theta2 * (norms2[j] + damp_ * damp_ * x2) / shrink;
      const double eta = std::sqrt(theta2 / shrink * quadratic(j, mu));
      worst = std::max(worst, eta / std::sqrt(norm_A2));
    }
    return worst;
  }

  void finish(Result &result, const std::vector<double> &norms2) const {
    const std::vector<double> &s = result.s;
    result.facts.cond =
        s.back() > 0 ? s.front() / s.back() : std::numeric_limits<double>::infinity();
    for (index j = 0; j < columns_; ++j) {
      result.facts.residual_norm.push_back(std::sqrt(norms2[j]));
      result.residuals2.push_back(norms2[j] + damp_ * damp_ * norm2(result.x, j));
    }
  }

  TallMatrix<T> &A_;
  std::vector<double> b_norms2_; ///< of the columns
  LstsqRequest request_;
  double damp_;
  index unknowns_, columns_; ///< the shape of x
  bool rescaled_ = false;
};

} // namespace lowla
