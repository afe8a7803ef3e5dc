// Importance of rows: leverage scores, l_p Lewis weights, sensitivities; and sampling by them.
//
// Leverage tau_i = a_i^H (A^H A)^+ a_i: the squared row norms of A N for any N that makes the
// columns of A N an orthonormal basis of range(A).
//
// exact. P from the triangle of A (TSQR by row blocks, and its SVD), or for tall A from that of a
//   sketch of 2 n + 32 rows (Rokhlin, Tygert, PNAS 105, 2008): cond(A P) is about 6. Y = A P is
//   orthonormalised by its Gram matrix Y^H Y = R^H R, and tau_i = ||y_i R^-1||^2: what cond(A) cost
//   Y does not enter the orthonormality (Yamamoto et al., ETNA 44, 2015: repeated where Y is ill-
//   conditioned). R^-1 is not folded into P, whose rounding would show in the sum of the scores.
//   Three reads of A; 4 m n^2 flops, with the triangle of A 5 m n^2. Rank: singular values above
//   max(m, n) eps.
// sketched. P from a sketch of 32 n rows, tau_i = ||a_i P||^2 (Drineas, Magdon-Ismail, Mahoney,
//   Woodruff, JMLR 13, 2012). Two reads, m n^2 flops.
// Lewis weights. w_i = (a_i^H (A^H W^(1-2/p) A)^+ a_i)^(p/2) (Cohen, Peng, STOC 2015). The map's
//   derivative in log w is -(p/2 - 1) times a matrix with spectrum in [0, 1], so that steps of
//   length 4 / (p + 2) contract near the solution by (p - 2) / (p + 2) for every p > 2; up to p = 2
//   the plain map contracts by 1 - p/2. The basis of one step preconditions the next: two reads and
//   4 m n^2 flops a step.
// sensitivities. |a_i x|^p / ||A x||_p^p at the x that maximises it in the Lewis norm: below the
//   sensitivity by at most n^|p/2-1|. ||A x||_p is that of a sample by Lewis weights. Sampling as
//   in Woodruff, Yasuda, ICML 2023, arXiv:2306.00732.
//
// Everything but S A is in double precision. Memory: a few n^2 a thread, and m.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/core/error.hpp"
#include "lowla/core/range.hpp"
#include "lowla/core/view.hpp"
#include "lowla/sketch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lowla {

enum class LeverageMethod { kAuto, kExact, kSketched };
enum class SampleMethod { kLeverage, kRootLeverage, kLewis, kSensitivity, kMixed };

/// How the fixed point of the Lewis weights was reached.
struct LewisFacts {
  index iterations = 0;
  bool converged = true;
  double gap = 0;
};

struct SampledRows {
  std::vector<index> rows; ///< ascending
  std::vector<double> weights;
};

/// Draw j inverts the distribution at (j + u_j) / N. One draw from each of N equal parts of it:
/// row i comes N q_i times on average, never off by more than one, and weights (N q_i)^(-1/p) keep
/// sums of p-th powers unbiased.
SampledRows sample_rows(const std::vector<double> &scores, index n_samples, double p,
                        std::uint64_t key);

/// What the scores ask of A (m x n), in double precision.
template <class T> class ScoredMatrix {
public:
  using Wide = wide_t<T>;
  index m = 0, n = 0;
  virtual ~ScoredMatrix() = default;
  /// The triangular factor of diag(v) A, min(m, n) x n; of A where v is empty.
  virtual Small<Wide> triangle(const std::vector<double> &v) = 0;
  /// That of S A.
  virtual Small<Wide> sketched_triangle(const SketchSpec &spec) = 0;
  /// Y^H Y, Y = diag(v) A P.
  virtual Small<Wide> gram(const Small<Wide> &P, const std::vector<double> &v) = 0;
  /// For each row sum_j |(a_i P M)_j|^p; without M sum_j |(a_i P)_j|^p.
  virtual std::vector<double> row_powers(const Small<Wide> &P, const Small<Wide> *M, double p) = 0;
  /// Some of the rows.
  virtual Small<Wide> rows(const std::vector<index> &which) = 0;
  /// Largest magnitude among the finite entries of A.
  virtual double scan(bool &finite) = 0;
  /// From here on A times `factor`.
  virtual void rescale(real_t<T> factor) = 0;
};

/// A in main memory.
template <class T> std::unique_ptr<ScoredMatrix<T>> scored(MatrixView<T> A);
template <class T, class I> std::unique_ptr<ScoredMatrix<T>> scored(CsrView<T, I> A);

template <class T> class RowScores {
public:
  using Wide = wide_t<T>;
  using Scores = std::vector<double>;

  explicit RowScores(ScoredMatrix<T> &A, bool check_finite = true)
      : A_(A), check_finite_(check_finite) {}

  Scores leverage(LeverageMethod method, std::uint64_t key) {
    return in_range([&] { return leverage_of(method, key); });
  }

  /// w within exp(+-tol) of the right side of its equation.
  Scores lewis(double p, double tol, index max_iter, LewisFacts &facts) {
    return in_range([&] {
      Basis basis;
      return lewis_of(p, tol, max_iter, facts, basis);
    });
  }

  /// The scores of a sampling method, summing to about n.
  Scores sampling(double p, SampleMethod method, std::uint64_t key) {
    return in_range([&] { return sampling_of(p, method, key); });
  }

private:
  using Range = SafeRange<T>;
  static constexpr bool kSingle = std::is_same_v<real_t<T>, float>;
  static constexpr double kEps = std::numeric_limits<double>::epsilon();
  static constexpr index kSketchRows = 32;        ///< a column: scores to a factor of 2
  static constexpr index kLarge = index(1) << 22; ///< entries from which "auto" sketches
  static constexpr index kCoreset = 8;            ///< rows a column, for sensitivities
  static constexpr double kLewisTol = 1e-2;       ///< of the weights that are sampled by
  static constexpr index kLewisSteps = 100;
  /// Columns from which the sketch is worth more than LAPACK's QR of A.
  static constexpr index kWideEnough = 20;
  /// Relative singular values above which R^-1, a triangle, serves as well as the SVD of R.
  static constexpr double kPlain = 1e-9;
  /// ||R||_F ||R^-1||_F / n of a Gram matrix R^H R that is well-conditioned (a good sketch: 2).
  static constexpr double kTame = 8.0;
  static constexpr int kRounds = 3;
  /// Orders up to which LAPACK's share is worth one thread only.
  static constexpr index kQuietOrder = 1024;

  /// A P M is orthonormal to rounding, M upper triangular.
  struct Basis {
    Small<Wide> P, M;
  };

  struct OutOfRange {};

  // --- range and rank ---

  template <class F> Scores in_range(F &&f) {
    const blas::OneThread quiet(A_.n <= kQuietOrder);
    try {
      return f();
    } catch (const OutOfRange &) {
      bool finite = true;
      const double largest = A_.scan(finite);
      if (!finite) {
        if (check_finite_)
          throw ValueError("A contains NaN or Inf");
        return Scores(static_cast<std::size_t>(A_.m), std::numeric_limits<double>::quiet_NaN());
      }
      A_.rescale(Range::power(-Range::exponent(largest)));
      rescaled_ = true;
      return f();
    }
  }

  /// A triangle of A or of S A: finite and in range, or OutOfRange, whose handler looks at A.
  Small<Wide> checked(Small<Wide> R) const {
    double largest = 0;
    for (const Wide &x : R.data) {
      const double size = std::abs(x);
      if (!std::isfinite(size)) {
        if (rescaled_)
          throw LinAlgError("the weights of the rows leave the range of double precision");
        throw OutOfRange{};
      }
      largest = std::max(largest, size);
    }
    if (!rescaled_ && !Range::holds(largest))
      throw OutOfRange{};
    return R;
  }

  static double frobenius(const Small<Wide> &M) {
    double sum = 0;
    for (const Wide &x : M.data)
      sum += abs2(x);
    return std::sqrt(sum);
  }

  double cutoff() const { return static_cast<double>(std::max(A_.m, A_.n)) * kEps; }

  /// P (n x k) with orthonormal R P, k the number of singular values above `relative` times the
  /// largest.
  static Small<Wide> orthonormaliser(const Small<Wide> &R, double relative) {
    const index n = R.cols;
    std::vector<double> s;
    if (R.rows == n) {
      s = blas::singular_values(R);
      if (s[n - 1] > std::max(kPlain, 2.0 * relative) * s[0]) {
        Small<Wide> P = R;
        blas::invert_upper(P);
        return P;
      }
    }
    // R^H = V diag(s) U^H
    Small<Wide> V = small::adjoint(R), U;
    blas::gesdd(n, R.rows, V, s, U);
    index k = 0;
    while (k < R.rows && s[k] > relative * s[0])
      ++k;
    Small<Wide> P = V.columns(0, k);
    for (index j = 0; j < k; ++j)
      for (index i = 0; i < n; ++i)
        P(i, j) /= s[j];
    return P;
  }

  // --- bases ---

  /// The basis from P, whose diag(v) A P must have full rank; nothing where that is in doubt.
  std::optional<Basis> orthonormalised(Small<Wide> P, const Scores &v) {
    const index k = P.cols;
    if (k == 0)
      return Basis{std::move(P), Small<Wide>(0, 0)};
    for (int round = 0; round < kRounds; ++round) {
      Small<Wide> R = A_.gram(P, v);
      if (!std::isfinite(frobenius(R)) || !blas::potrf(k, R.data.data(), k))
        return std::nullopt;
      for (index j = 0; j < k; ++j)
        std::fill(R.col(j) + j + 1, R.col(j) + k, Wide(0));
      Small<Wide> M = R;
      if (!blas::invert_upper(M))
        return std::nullopt;
      if (frobenius(R) * frobenius(M) <= kTame * static_cast<double>(k))
        return Basis{std::move(P), std::move(M)};
      P = blas::product('N', P, 'N', M);
    }
    return std::nullopt;
  }

  /// By way of the SVD, which decides the rank.
  Basis decided(const Scores &v) {
    Small<Wide> P = orthonormaliser(checked(A_.triangle(v)), cutoff());
    if (std::optional<Basis> basis = orthonormalised(P, v))
      return std::move(*basis);
    Small<Wide> identity = Small<Wide>::identity(P.cols);
    return {std::move(P), std::move(identity)};
  }

  /// By way of a sketch, where A is tall and its rank not in doubt.
  std::optional<Basis> preconditioned() {
    const index n = A_.n, d = 2 * n + 32;
    if (n < kWideEnough || A_.m < 2 * d)
      return std::nullopt;
    Small<Wide> P = checked(A_.sketched_triangle(sketch_spec("sjlt", 0, d, A_.m, 4, 1.0)));
    const double size = frobenius(P);
    if (!blas::invert_upper(P) || !(size * frobenius(P) * cutoff() < 0.5))
      return std::nullopt;
    std::optional<Basis> basis = orthonormalised(std::move(P), {});
    if (basis) { // A = Q N^-1
      Small<Wide> N = blas::product('N', basis->P, 'N', basis->M);
      const double inverse_size = frobenius(N);
      if (!blas::invert_upper(N) || !(inverse_size * frobenius(N) * cutoff() < 0.5))
        return std::nullopt;
    }
    return basis;
  }

  Basis exact_basis() {
    if (std::optional<Basis> basis = preconditioned())
      return std::move(*basis);
    return decided({});
  }

  Scores norms2(const Basis &basis) { return A_.row_powers(basis.P, &basis.M, 2.0); }

  // --- leverage ---

  static Scores at_most_one(Scores scores) {
    for (double &x : scores)
      x = std::min(x, 1.0);
    return scores;
  }

  Scores exact() { return at_most_one(norms2(exact_basis())); }

  Scores sketched(std::uint64_t key) {
    const index n = A_.n, d = kSketchRows * n;
    if (d >= A_.m)
      return exact();
    const Small<Wide> R =
        checked(A_.sketched_triangle(sketch_spec("sjlt", key, d, A_.m, std::min<index>(8, d), 1)));
    // S A is formed in T, each entry from 8 m / d terms: singular values below about u sqrt(m / 4)
    // times the largest are its rounding. Near them A itself decides, in double.
    if (kSingle) {
      const std::vector<double> s = blas::singular_values(R);
      if (!(s[n - 1] > 5.0 * unit_roundoff<T>() * std::sqrt(static_cast<double>(A_.m)) * s[0]))
        return exact();
    }
    const Small<Wide> P = orthonormaliser(R, static_cast<double>(d) * kEps);
    return at_most_one(A_.row_powers(P, nullptr, 2.0));
  }

  Scores leverage_of(LeverageMethod method, std::uint64_t key) {
    const bool large = A_.m * A_.n >= kLarge && A_.m >= 2 * kSketchRows * A_.n;
    if (method == LeverageMethod::kSketched || (method == LeverageMethod::kAuto && large))
      return sketched(key);
    return exact();
  }

  // --- Lewis weights ---

  /// The diagonal of W^(1/2-1/p).
  static Scores reweighting(const Scores &w, double p) {
    Scores v(w.size(), 0.0);
    for (std::size_t i = 0; i < w.size(); ++i)
      if (w[i] > 0)
        v[i] = std::pow(w[i], 0.5 - 1.0 / p);
    return v;
  }

  /// The basis for diag(v) A from one for other weights.
  Basis reweighted(const Basis &basis, const Scores &v) {
    std::optional<Basis> next = orthonormalised(blas::product('N', basis.P, 'N', basis.M), v);
    return next ? std::move(*next) : decided(v);
  }

  /// Leaves the last step's basis.
  Scores lewis_of(double p, double tol, index max_iter, LewisFacts &facts, Basis &basis) {
    facts = LewisFacts{};
    basis = exact_basis();
    Scores w = at_most_one(norms2(basis));
    if (p == 2.0)
      return w;
    double step = std::min(1.0, 4.0 / (p + 2.0));
    double last = std::numeric_limits<double>::infinity();
    for (;;) {
      ++facts.iterations;
      basis = reweighted(basis, reweighting(w, p));
      Scores mapped = norms2(basis);
      facts.gap = 0;
      for (std::size_t i = 0; i < w.size(); ++i) {
        mapped[i] = std::pow(mapped[i], 0.5 * p);
        if (w[i] > 0 && mapped[i] > 0)
          facts.gap = std::max(facts.gap, std::abs(std::log(mapped[i] / w[i])));
      }
      facts.converged = facts.gap <= tol;
      if (facts.converged || facts.iterations == max_iter)
        return mapped;
      if (facts.gap > last)
        step /= 2.0;
      last = facts.gap;
      for (std::size_t i = 0; i < w.size(); ++i)
        w[i] = w[i] > 0 && mapped[i] > 0 ? std::pow(w[i], 1.0 - step) * std::pow(mapped[i], step)
                                         : 0.0;
    }
  }

  // --- sampling scores ---

  Scores sensitivities(double p, std::uint64_t key) {
    const auto n = static_cast<double>(A_.n);
    LewisFacts facts;
    Basis basis;
    const Scores w = lewis_of(p, kLewisTol, kLewisSteps, facts, basis);
    const auto log_rows = static_cast<index>(std::ceil(std::log(4.0 * n)));
    const SampledRows sample = sample_rows(w, kCoreset * A_.n * log_rows, p, key);
    Small<Wide> coreset = A_.rows(sample.rows);
    for (index j = 0; j < coreset.cols; ++j)
      for (index i = 0; i < coreset.rows; ++i)
        coreset(i, j) *= sample.weights[static_cast<std::size_t>(i)];
    basis = reweighted(basis, reweighting(w, p));
    // With y_i = a_i P M the maximiser x = P M y_i^H / ||y_i||^2 has a_i x = 1.
    const Small<Wide> N = blas::product('N', basis.P, 'N', basis.M);
    const Small<Wide> images =
        blas::product('N', basis.M, 'C', blas::product('N', coreset, 'N', N));
    const Scores squares = norms2(basis), powers = A_.row_powers(basis.P, &images, p);
    Scores found(squares.size(), 0.0);
    for (std::size_t i = 0; i < found.size(); ++i)
      if (powers[i] > 0)
        found[i] = std::min(std::pow(squares[i], p) / powers[i], 1.0);
    return found;
  }

  Scores sampling_of(double p, SampleMethod method, std::uint64_t key) {
    if (method == SampleMethod::kLewis) {
      LewisFacts facts;
      Basis basis;
      return lewis_of(p, kLewisTol, kLewisSteps, facts, basis);
    }
    if (method == SampleMethod::kSensitivity)
      return sensitivities(p, key);
    Scores scores = leverage_of(LeverageMethod::kAuto, key);
    if (method == SampleMethod::kRootLeverage)
      for (double &x : scores)
        x = std::pow(x, 0.5 * p);
    if (method == SampleMethod::kMixed) {
      const Scores other = sensitivities(p, key);
      double sum = 0, total = 0;
      for (std::size_t i = 0; i < scores.size(); ++i) {
        sum += scores[i];
        total += other[i];
      }
      const double factor = sum / std::max(total, std::numeric_limits<double>::min());
      for (std::size_t i = 0; i < scores.size(); ++i)
        scores[i] += factor * other[i];
    }
    return scores;
  }

  ScoredMatrix<T> &A_;
  bool check_finite_;
  bool rescaled_ = false;
};

} // namespace lowla
