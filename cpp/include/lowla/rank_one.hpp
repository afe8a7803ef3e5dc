// The nearest matrices of rank one to the blocks of a Monarch projection (see monarch.hpp): what
// every device leaves to the host.
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/core/scalar.hpp"
#include "lowla/core/small.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace lowla::rank_one {

/// A start for the Lanczos process in no relation to the structure of a block.
inline double start_entry(index i) {
  constexpr double kGolden = 0.6180339887498949;
  return 0.5 + std::fmod(static_cast<double>(i + 1) * kGolden, 1.0);
}

/// x <- an eigenvector of the largest eigenvalue of a real positive semidefinite G (n x n, n a
/// multiple of 8), by the Lanczos process from x or, where that is not certified, from the
/// tridiagonalisation.
inline void leading_eigenvector(const double *G, index n, double *x) {
  if (small::leading_vector(G, n, x))
    return;
  Small<double> copy(n, n), X;
  std::copy_n(G, n * n, copy.col(0));
  std::vector<double> lambda;
  small::eigh_leading(copy, 1, lambda, X);
  std::copy_n(X.col(0), n, x);
}

/// Where one goes in memory: its entries `stride` apart.
template <class T> struct Target {
  T *data;
  index stride;
};

/// left right^T = 2^exponent u z^T, u of unit norm or zero: the largest entry of left is positive,
/// both have the root of the norm of z. With `swapped` left comes from z and right from u. u and z
/// become what was stored, rounded to T, times 2^(-exponent / 2).
template <class T>
void store(std::vector<wide_t<T>> &u, std::vector<wide_t<T>> &z, bool swapped, int exponent,
           Target<T> left, Target<T> right) {
  using S = wide_t<T>;
  double sigma2 = 0;
  for (const S &x : z)
    sigma2 += abs2(x);
  const double sigma = std::sqrt(sigma2), root = std::sqrt(sigma);
  std::vector<S> &of_left = swapped ? z : u, &of_right = swapped ? u : z;
  const auto peak = std::max_element(of_left.begin(), of_left.end(),
                                     [](S a, S b) { return std::abs(a) < std::abs(b); });
  const double size = std::abs(*peak);
  const S turn = size > 0 ? S(*peak / size) : S(1);
  for (S &x : u)
    x *= root;
  for (S &x : z)
    x *= sigma > 0 ? 1.0 / root : 0.0;
  const double up = std::ldexp(1.0, exponent / 2), down = std::ldexp(1.0, -exponent / 2);
  const auto put = [&](std::vector<S> &values, S factor, Target<T> target) {
    for (S &value : values) {
      *target.data = static_cast<T>(value * factor * up); // the root of 2^exponent
      value = S(*target.data) * down;
      target.data += target.stride;
    }
  };
  put(of_left, conj_of(turn), left);
  put(of_right, turn, right);
}

/// Of one block, times 2^-exponent.
struct Squares {
  double residual2 = 0, norm2 = 0;
  int exponent = 0;
  bool finite = true;
};

/// ||W - M|| / ||W||, or NaN where a block is not finite.
inline double relative_error(const std::vector<Squares> &blocks) {
  int exponent = std::numeric_limits<int>::min(); // of the blocks that are not zero
  for (const Squares &block : blocks) {
    if (!block.finite)
      return std::numeric_limits<double>::quiet_NaN();
    if (block.norm2 > 0)
      exponent = std::max(exponent, block.exponent);
  }
  double residual2 = 0, norm2 = 0;
  for (const Squares &block : blocks)
    if (block.norm2 > 0) {
      residual2 += std::ldexp(block.residual2, 2 * (block.exponent - exponent));
      norm2 += std::ldexp(block.norm2, 2 * (block.exponent - exponent));
    }
  return norm2 > 0 ? std::sqrt(residual2 / norm2) : 0.0;
}

} // namespace lowla::rank_one
