// Orthonormal bases of the range of diag(v) A for tall A (m x n) and weights v of its rows.
//
// P comes from the triangle of diag(v) A (TSQR by row blocks, and its SVD), from that of a sketch
// of A of 2 n + 32 rows (Rokhlin, Tygert, PNAS 105, 2008: cond(A P) is about 6), or is the basis
// for other weights. Y = diag(v) A P is orthonormalised by its Gram matrix Y^H Y = R^H R: what
// cond(A) cost Y does not enter the orthonormality of Y R^-1 (Yamamoto et al., ETNA 44, 2015:
// repeated where Y is ill-conditioned). R^-1 is not folded into P, whose rounding would show in
// row norms of Y R^-1. Rank: singular values above max(m, n) eps.
// One read of A and 2 m n^2 flops a Gram matrix or triangle. Everything but S A is in double.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/core/error.hpp"
#include "lowla/core/range.hpp"
#include "lowla/sketch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace lowla {

/// What a basis asks of A (m x n), in double precision.
template <class T> class WeightedMatrix {
public:
  using Wide = wide_t<T>;
  index m = 0, n = 0;
  virtual ~WeightedMatrix() = default;
  /// The triangular factor of diag(v) A, min(m, n) x n; of A where v is empty.
  virtual Small<Wide> triangle(const std::vector<double> &v) = 0;
  /// That of S A.
  virtual Small<Wide> sketched_triangle(const SketchSpec &spec) = 0;
  /// Y^H Y, Y = diag(v) A P.
  virtual Small<Wide> gram(const Small<Wide> &P, const std::vector<double> &v) = 0;
  /// Largest magnitude among the finite entries of A.
  virtual double scan(bool &finite) = 0;
  /// From here on A times `factor`.
  virtual void rescale(real_t<T> factor) = 0;
};

/// diag(v) A P M is orthonormal, M upper triangular.
template <class Wide> struct Basis {
  Small<Wide> P, M;
  Small<Wide> product() const { return blas::product('N', P, 'N', M); }
};

/// Entries of A are not finite, or out of the range of squares.
struct OutOfRange {};

template <class T> class RowBases {
public:
  using Wide = wide_t<T>;
  using Weights = std::vector<double>;

  /// ||R||_F ||R^-1||_F / n of a Gram matrix R^H R that is well-conditioned (a good sketch: 2).
  static constexpr double kTame = 8.0;
  static constexpr int kRounds = 3;

  explicit RowBases(WeightedMatrix<T> &A) : A_(A) {}

  /// The entries of A are finite and in range: triangles are not checked for that any more.
  void trust_range() { in_range_ = true; }

  /// The basis of A itself.
  Basis<Wide> exact() {
    if (std::optional<Basis<Wide>> basis = preconditioned())
      return std::move(*basis);
    return decided({});
  }

  /// The basis for diag(v) A from one for other weights.
  Basis<Wide> reweighted(const Basis<Wide> &basis, const Weights &v, double tame = kTame) {
    std::optional<Basis<Wide>> next = orthonormalised(basis.product(), v, tame);
    return next ? std::move(*next) : decided(v);
  }

  /// The basis from P, whose diag(v) A P must have full rank; nothing where that is in doubt.
  /// Orthonormal to about (n tame)^2 roundings.
  std::optional<Basis<Wide>> orthonormalised(Small<Wide> P, const Weights &v, double tame = kTame,
                                             int rounds = kRounds) {
    const index k = P.cols;
    if (k == 0)
      return Basis<Wide>{std::move(P), Small<Wide>(0, 0)};
    for (int round = 0; round < rounds; ++round) {
      Small<Wide> R = A_.gram(P, v);
      if (!std::isfinite(frobenius(R)) || !blas::cholesky(R))
        return std::nullopt;
      Small<Wide> M = R;
      if (!blas::invert_upper(M))
        return std::nullopt;
      if (frobenius(R) * frobenius(M) <= tame * static_cast<double>(k))
        return Basis<Wide>{std::move(P), std::move(M)};
      P = blas::product('N', P, 'N', M);
    }
    return std::nullopt;
  }

  /// A triangle of A or of S A: finite and in range, or OutOfRange, whose handler looks at A.
  Small<Wide> checked(Small<Wide> R) const {
    double largest = 0;
    for (const Wide &x : R.data) {
      const double size = std::abs(x);
      if (!std::isfinite(size)) {
        if (in_range_)
          throw LinAlgError("the weights of the rows leave the range of double precision");
        throw OutOfRange{};
      }
      largest = std::max(largest, size);
    }
    if (!in_range_ && !SafeRange<T>::holds(largest))
      throw OutOfRange{};
    return R;
  }

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

private:
  static constexpr double kEps = std::numeric_limits<double>::epsilon();
  /// Columns from which the sketch is worth more than LAPACK's QR of A.
  static constexpr index kWideEnough = 20;
  /// Relative singular values above which R^-1, a triangle, serves as well as the SVD of R.
  static constexpr double kPlain = 1e-9;

  static double frobenius(const Small<Wide> &M) {
    double sum = 0;
    for (const Wide &x : M.data)
      sum += abs2(x);
    return std::sqrt(sum);
  }

  double cutoff() const { return static_cast<double>(std::max(A_.m, A_.n)) * kEps; }

  /// By way of the SVD, which decides the rank.
  Basis<Wide> decided(const Weights &v) {
    Small<Wide> P = orthonormaliser(checked(A_.triangle(v)), cutoff());
    if (std::optional<Basis<Wide>> basis = orthonormalised(P, v))
      return std::move(*basis);
    Small<Wide> identity = Small<Wide>::identity(P.cols);
    return {std::move(P), std::move(identity)};
  }

  /// By way of a sketch, where A is tall and its rank not in doubt.
  std::optional<Basis<Wide>> preconditioned() {
    const index n = A_.n, d = 2 * n + 32;
    if (n < kWideEnough || A_.m < 2 * d)
      return std::nullopt;
    Small<Wide> P = checked(A_.sketched_triangle(sketch_spec("sjlt", 0, d, A_.m, 4, 1.0)));
    const double size = frobenius(P);
    if (!blas::invert_upper(P) || !(size * frobenius(P) * cutoff() < 0.5))
      return std::nullopt;
    std::optional<Basis<Wide>> basis = orthonormalised(std::move(P), {});
    if (basis) { // A = Q N^-1
      Small<Wide> N = basis->product();
      const double inverse_size = frobenius(N);
      if (!blas::invert_upper(N) || !(inverse_size * frobenius(N) * cutoff() < 0.5))
        return std::nullopt;
    }
    return basis;
  }

  WeightedMatrix<T> &A_;
  bool in_range_ = false;
};

} // namespace lowla
