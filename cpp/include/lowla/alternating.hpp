// Alternating minimisation and scaled gradient descent for low-rank completion.
//
// alternate: V and U in turn by ridge regressions of all columns and rows (Jain, Netrapalli,
//   Sanghavi, STOC 2013; with inexact solves Gu, Song, Yin, Zhang 2023, arXiv:2302.11068). A ridge
//   that falls with the residual keeps the factors from growing where few entries determine them:
//   it follows 0.1 G rel^2 down to reg, at most by a factor that is closer to 1 where observations
//   are scarce (G: mean trace of a row's Gram matrix; rel: relative residual), and halves where
//   noise holds the residual up.
// alternate_robust: the same with weights w / max(|r|, delta), iteratively reweighted least squares
//   for sums of |r|, and a ridge that presses small singular values to zero; delta falls by a fifth
//   a sweep.
// descend_scaled: gradient steps preconditioned by (V^T V)^-1 and (U^T U)^-1 (Tong, Ma, Chi, J.
//   Mach. Learn. Res. 22, 2021, section 3), at a step halved where the objective rises.
//
// Before each half sweep the factors are brought to P S^(1/2) and Q S^(1/2) of the decomposition P
// S Q^T of their product: the sum of their squares is then least, and the rows' Gram matrices are
// nearly diagonal. With D the fixed factor's norms (its Gram matrix is diagonal from the last time)
// the eigenvectors L of D V^T V D do it, U D^-1 L S^(1/2) and V D L S^(-1/2): whatever is lost in S
// to rounding, the product stays. Nonnegative factors stay as they are.
// What is left of the observations after a sweep follows from the regressions' own sums, and is
// measured by a read of its own where those have lost too many digits.
// Cost of a sweep: |Omega| k^2 multiply-adds (exact), 14 |Omega| k (cg), 4 |Omega| k (scaled); one
// read of the entries by rows and one by columns, six in all for `alternate_robust`.
#pragma once

#include "lowla/observed_matrix.hpp"

#include <functional>
#include <string>
#include <vector>

namespace lowla {

/// Three standard deviations of a normal distribution, over the median of the magnitude.
inline constexpr double kOutlier = 3.0 * 1.4826;

/// U diag(s) V^T, U and V orthonormal.
struct BalancedFactors {
  Factor left, right;
  std::vector<double> s;
};
/// The singular value decomposition of U V^T without forming it; the largest entry of a column of
/// `left` is positive.
BalancedFactors balanced(const Factor &U, const Factor &V);

/// X <- X diag(d)
void scale_columns(Factor &X, const std::vector<double> &d);
/// The first columns of X; zeros where it has fewer.
Factor with_columns(const Factor &X, index columns);
/// The first k columns of U and V become those of U diag(s)^(1/2) and V diag(s)^(1/2) of the
/// decomposition of their product; s.
std::vector<double> balance(Factor &U, Factor &V, index k);

/// Thrown where the monitor asks for the end.
struct Stopped {};

/// The entries, the factors, and the sweeps so far. With `bias` the last column of U and of V holds
/// the biases.
struct Fit {
  const ObservedMatrix &M;
  Factor U, V;
  index k = 0;
  bool bias = false;
  double mean = 0.0;
  std::string solver;  ///< "exact", "cg" or "nonnegative"
  bool random = false; ///< whether the factors began at random
  std::function<bool(index, double)> monitor;
  double weight = 0, norm2 = 0;
  std::vector<double> history;
  /// What the last half sweep left of the observations, squared and summed.
  double squares = 0;

  explicit Fit(const ObservedMatrix &entries) : M(entries) {}
  /// Sums up the entries.
  void begin();
  /// ||y - prediction|| of the observations over their norm, by a read.
  double relative_residual() const;
  /// The same from `squares`, where that is accurate.
  double left_over() const;
  /// A sweep is done; Stopped if the monitor asks for the end.
  void note(double relative);
};

/// Whether the matrix moved by at most tol in the last of at most n_iter sweeps.
bool alternate(Fit &fit, double reg, index n_iter, double tol);
bool alternate_robust(Fit &fit, double reg, index n_iter, double tol);
bool descend_scaled(Fit &fit, double reg, index n_iter, double tol);

} // namespace lowla
