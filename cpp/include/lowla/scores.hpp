// Importance of rows: leverage scores, l_p Lewis weights, sensitivities; and sampling by them.
//
// Leverage tau_i = a_i^H (A^H A)^+ a_i: the squared row norms of A N for any N that makes the
// columns of A N an orthonormal basis of range(A).
//
// exact. tau_i = ||y_i R^-1||^2, Y R^-1 the orthonormal basis A P R^-1 of row_basis.hpp. Three
// reads
//   of A; 4 m n^2 flops, with the triangle of A 5 m n^2.
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

#include "lowla/core/view.hpp"
#include "lowla/row_basis.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
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

/// What the scores ask of A beyond its bases, in double precision.
template <class T> class ScoredMatrix : public WeightedMatrix<T> {
public:
  using Wide = wide_t<T>;
  /// For each row sum_j |(a_i P M)_j|^p; without M sum_j |(a_i P)_j|^p.
  virtual std::vector<double> row_powers(const Small<Wide> &P, const Small<Wide> *M, double p) = 0;
  /// Some of the rows.
  virtual Small<Wide> rows(const std::vector<index> &which) = 0;
};

/// A in main memory.
template <class T> std::unique_ptr<ScoredMatrix<T>> scored(MatrixView<T> A);
template <class T, class I> std::unique_ptr<ScoredMatrix<T>> scored(CsrView<T, I> A);

template <class T> class RowScores {
public:
  using Wide = wide_t<T>;
  using Scores = std::vector<double>;

  explicit RowScores(ScoredMatrix<T> &A, bool check_finite = true)
      : A_(A), bases_(A), check_finite_(check_finite) {}

  Scores leverage(LeverageMethod method, std::uint64_t key) {
    return in_range([&] { return leverage_of(method, key); });
  }

  /// w within exp(+-tol) of the right side of its equation.
  Scores lewis(double p, double tol, index max_iter, LewisFacts &facts) {
    return in_range([&] {
      Basis<Wide> basis;
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
  /// Orders up to which LAPACK's share is worth one thread only.
  static constexpr index kQuietOrder = 1024;

  // --- range ---

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
      bases_.trust_range();
      return f();
    }
  }

  Scores norms2(const Basis<Wide> &basis) { return A_.row_powers(basis.P, &basis.M, 2.0); }

  // --- leverage ---

  static Scores at_most_one(Scores scores) {
    for (double &x : scores)
      x = std::min(x, 1.0);
    return scores;
  }

  Scores exact() { return at_most_one(norms2(bases_.exact())); }

  Scores sketched(std::uint64_t key) {
    const index n = A_.n, d = kSketchRows * n;
    if (d >= A_.m)
      return exact();
    const Small<Wide> R = bases_.checked(
        A_.sketched_triangle(sketch_spec("sjlt", key, d, A_.m, std::min<index>(8, d), 1)));
    // S A is formed in T, each entry from 8 m / d terms: singular values below about u sqrt(m / 4)
    // times the largest are its rounding. Near them A itself decides, in double.
    if (kSingle) {
      const std::vector<double> s = blas::singular_values(R);
      if (!(s[n - 1] > 5.0 * unit_roundoff<T>() * std::sqrt(static_cast<double>(A_.m)) * s[0]))
        return exact();
    }
    const Small<Wide> P = RowBases<T>::orthonormaliser(R, static_cast<double>(d) * kEps);
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

  /// Leaves the last step's basis.
  Scores lewis_of(double p, double tol, index max_iter, LewisFacts &facts, Basis<Wide> &basis) {
    facts = LewisFacts{};
    basis = bases_.exact();
    Scores w = at_most_one(norms2(basis));
    if (p == 2.0)
      return w;
    double step = std::min(1.0, 4.0 / (p + 2.0));
    double last = std::numeric_limits<double>::infinity();
    for (;;) {
      ++facts.iterations;
      basis = bases_.reweighted(basis, reweighting(w, p));
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
    Basis<Wide> basis;
    const Scores w = lewis_of(p, kLewisTol, kLewisSteps, facts, basis);
    const auto log_rows = static_cast<index>(std::ceil(std::log(4.0 * n)));
    const SampledRows sample = sample_rows(w, kCoreset * A_.n * log_rows, p, key);
    Small<Wide> coreset = A_.rows(sample.rows);
    for (index j = 0; j < coreset.cols; ++j)
      for (index i = 0; i < coreset.rows; ++i)
        coreset(i, j) *= sample.weights[static_cast<std::size_t>(i)];
    basis = bases_.reweighted(basis, reweighting(w, p));
    // With y_i = a_i P M the maximiser x = P M y_i^H / ||y_i||^2 has a_i x = 1.
    const Small<Wide> N = basis.product();
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
      Basis<Wide> basis;
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
  RowBases<T> bases_;
  bool check_finite_;
};

} // namespace lowla
