// Orthonormalisation of tall-skinny panels: CholeskyQR with Gram matrices in double precision.
//
//   Y = Q R by R = chol(Y^H Y), Q = Y R^-1, done twice (CholeskyQR2; Yamamoto, Nakatsukasa,
//   Yanagisawa, Fukaya, "Roundoff error analysis of the CholeskyQR2 algorithm", ETNA 44, 2015:
//   ||Q^H Q - I|| = O(u) while kappa(Y)^2 u is small). The Gram matrix is scaled to a unit diagonal
//   first, so graded columns cost nothing; a second round is left out where the first one was well
//   conditioned. Where Y is too ill-conditioned: the eigenvectors of the scaled Gram matrix split Y
//   into well-determined directions, which are orthonormalised, and a rest that is small; the rest
//   is projected against them and treated the same way at its own scale. Each level reaches 3 to 5
//   digits deeper. Directions below rounding level are replaced by random ones: the columns of Q
//   are orthonormal to O(u) for every Y, zero and exactly rank-deficient ones included.
// Cost: 2 passes over Y, 4 m d^2 flops in the well-conditioned case.
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/core/philox.hpp"
#include "lowla/core/small.hpp"

#include <cmath>
#include <list>
#include <numeric>
#include <vector>

namespace lowla {

/// Source of replacement directions: columns of the stream kStreamFill, each used once.
struct FillSource {
  std::uint64_t key;
  index used = 0;
};

template <class Device> class Orthonormaliser {
public:
  using T = typename Device::Scalar;
  using Wide = typename Device::Wide;
  using Panel = typename Device::Panel;
  using Panels = typename Device::Panels;

  explicit Orthonormaliser(std::uint64_t key) : fill_{key} {}

  /// Y <- Q with span(Q) containing span(Y), Q^H Q = I.
  void orthonormalise(Panel &Y) {
    if (!cholesky_qr(Y, nullptr))
      by_levels(Y);
  }

  /// Y <- Q; returns R (d x d, not triangular in general) with Y = Q R.
  Small<Wide> qr(Panel &Y) {
    Panel original = Device::copy(Y);
    Small<Wide> R;
    if (cholesky_qr(Y, &R))
      return R;
    by_levels(Y);
    return Device::inner({&Y}, original);
  }

  /// W <- an orthonormal panel orthogonal to the orthonormal panels P, containing the part of
  /// span(W) outside them. `first`: known products recent^H W with those of P in whose span nearly
  /// all of the rest lies.
  void orthonormalise_against(Panel &W, const Panels &P, const Panels &recent = {},
                              const Small<Wide> *first = nullptr) {
    constexpr int kMaxRounds = 4;
    const Panels none;
    Small<Wide> products = first != nullptr
                               ? Device::update(W, recent, *first, nullptr, &P)
                               : Device::update(W, P, Device::coefficients(P, W), nullptr, &P);
    for (int round = 0; round < kMaxRounds; ++round) {
      Triangle triangle;
      Projection next(products, W.cols);
      bool known = factorise(next.G, triangle);
      if (!known || triangle.pivot <= kPivotEasy) {
        // Normalised first: what one round of CholeskyQR leaves, the next one repairs.
        const bool regular = factorise(products.row_block(next.H.rows, W.cols), triangle);
        if (!regular)
          by_levels(W);
        next = Projection(Device::update(W, none, {}, regular ? &triangle.inverse : nullptr, &P),
                          W.cols);
        known = factorise(next.G, triangle);
      }
      Device::update(W, P, next.H, known ? &triangle.inverse : nullptr, nullptr);
      if (!known || triangle.pivot <= kPivotEasy)
        orthonormalise(W);
      // Twice is enough, unless replaced directions had large components in P.
      if (next.share < 1e-3)
        break;
      products = Device::update(W, none, {}, nullptr, &P);
    }
  }

private:
  static constexpr bool kSingle = std::is_same_v<real_t<T>, float>;
  /// Smallest pivot of the scaled Gram matrix that the second round repairs.
  static constexpr double kPivotFloor = kSingle ? 1e-5 : 1e-7;
  /// Above this pivot one round is as good as two.
  static constexpr double kPivotEasy = 0.1;
  /// Eigenvalues of a scaled Gram matrix that count as well determined, relative to the largest.
  static constexpr double kWellDetermined = kSingle ? 1e-5 : 1e-8;

  /// W - P H and its Gram matrix G, which by Pythagoras is known before W is projected (Carson,
  /// Lund, Rozloznik, SIAM J. Matrix Anal. Appl. 42, 2021, section 3).
  struct Projection {
    Small<Wide> H, G;
    double share = 0.0; ///< the largest part of a column of W, by a column of P

    /// From P^H W and, below it, W^H W.
    Projection(const Small<Wide> &products, index d)
        : H(products.row_block(0, products.rows - d)), G(products.row_block(products.rows - d, d)) {
      for (index j = 0; j < d; ++j)
        for (index i = 0; i < H.rows; ++i)
          share = std::max(share, std::abs(H(i, j)) / std::sqrt(real_of(G(j, j))));
      const Small<Wide> HH = small::multiply(small::adjoint(H), H);
      for (std::size_t i = 0; i < G.data.size(); ++i)
        G.data[i] -= HH.data[i];
    }
  };

  /// G = R^H R.
  struct Triangle {
    Small<Wide> R, inverse;
    double pivot = 1.0; ///< the smallest of the scaled G
  };

  /// False where the pivots are too small for CholeskyQR, or G has left the range of the type.
  static bool factorise(Small<Wide> G, Triangle &out) {
    const index d = G.cols;
    std::vector<double> norms(static_cast<std::size_t>(d));
    for (index j = 0; j < d; ++j) {
      norms[j] = std::sqrt(real_of(G(j, j)));
      if (!(norms[j] > kTinyNorm) || !std::isfinite(norms[j]))
        return false;
    }
    for (index j = 0; j < d; ++j)
      for (index i = 0; i < d; ++i)
        G(i, j) /= norms[i] * norms[j];
    if (!small::cholesky(G, kPivotFloor))
      return false;
    out.pivot = 1.0;
    for (index j = 0; j < d; ++j)
      out.pivot = std::min(out.pivot, abs2(G(j, j)));
    out.inverse = G;
    small::invert_upper(out.inverse);
    for (index j = 0; j < d; ++j)
      for (index i = 0; i < d; ++i) {
        out.inverse(i, j) /= norms[i];
        G(i, j) *= norms[j];
      }
    out.R = std::move(G);
    return true;
  }

  /// One or two rounds; false (Y untouched or better conditioned) where the pivots are too small.
  bool cholesky_qr(Panel &Y, Small<Wide> *R) {
    Triangle triangle;
    for (int round = 0; round < 2; ++round) {
      if (!factorise(Device::gram(Y), triangle))
        return false;
      Device::multiply_right(Y, triangle.inverse);
      if (R != nullptr)
        *R = round == 0 ? triangle.R : small::multiply(triangle.R, *R);
      if (triangle.pivot > kPivotEasy)
        break;
    }
    return true;
  }

  void by_levels(Panel &Y) {
    const index d = Y.cols, m = Y.rows;
    std::list<Panel> done; // orthonormal so far
    Panels done_list;
    index count = 0;
    Panel W = normalised(Y);
    double noise = 32.0 * unit_roundoff<T>() * std::sqrt(static_cast<double>(d));
    auto accept = [&](Panel &&Q) {
      done.push_back(std::move(Q));
      done_list.push_back(&done.back());
      count += done.back().cols;
    };
    while (count < d) {
      const index rest = d - count;
      std::vector<double> lambda;
      Small<Wide> V;
      small::eigh(Device::gram(W), lambda, V);
      const double scale = lambda[0] > 0 ? std::sqrt(lambda[0]) : 0.0;
      if (!(scale > noise)) {
        // At most half of the space that is left at a time: such a Gaussian block is well
        // conditioned, a square one need not be.
        while (count < d) {
          Panel F(m, std::max<index>(1, std::min(d - count, (m - count) / 2)));
          Device::fill_normal(F, fill_.key, philox::kStreamFill, fill_.used);
          fill_.used += F.cols;
          settle(F, done_list);
          accept(std::move(F));
        }
        break;
      }
      index kept = 1;
      while (kept < rest && lambda[kept] > kWellDetermined * lambda[0])
        ++kept;
      Small<Wide> head = V.columns(0, kept);
      for (index j = 0; j < kept; ++j)
        for (index i = 0; i < rest; ++i)
          head(i, j) /= std::sqrt(lambda[j]);
      Panel Q = Device::combine({&W}, head);
      settle(Q, done_list);
      accept(std::move(Q));
      if (kept == rest)
        break;
      // The rest, at a scale of its own: one factor for all columns keeps the noise known.
      Small<Wide> tail = V.columns(kept, rest - kept);
      W = Device::combine({&W}, tail);
      for (int round = 0; round < 2; ++round)
        Device::subtract(W, done_list, Device::inner(done_list, W));
      double largest = 0;
      const Small<Wide> G = Device::gram(W);
      for (index j = 0; j < W.cols; ++j)
        largest = std::max(largest, std::sqrt(std::max(0.0, real_of(G(j, j)))));
      if (largest > noise) {
        Small<Wide> up(W.cols, W.cols);
        for (index j = 0; j < W.cols; ++j)
          up(j, j) = 1.0 / largest;
        W = Device::combine({&W}, up);
        noise /= largest;
      } else {
        noise = std::numeric_limits<double>::infinity();
      }
    }
    Y = Device::combine(done_list, Small<Wide>::identity(d));
  }

  /// Orthonormalise a well-conditioned Q against the panels P.
  void settle(Panel &Q, const Panels &P) {
    for (int round = 0; round < 3; ++round) {
      double largest = 0;
      if (!P.empty()) {
        const Small<Wide> H = Device::coefficients(P, Q);
        Device::subtract(Q, P, H);
        for (const Wide &h : H.data)
          largest = std::max(largest, std::abs(h));
      }
      if (!cholesky_qr(Q, nullptr))
        throw LinAlgError("orthonormalisation broke down");
      if (round > 0 && largest < 1e-3)
        return;
      if (P.empty())
        return;
    }
  }

  /// Columns scaled to norm 1 (zero columns stay zero), safe for any range of norms.
  Panel normalised(const Panel &Y) {
    const std::vector<Wide> peak = Device::peaks(Y);
    Small<Wide> D(Y.cols, Y.cols);
    for (index j = 0; j < Y.cols; ++j) {
      const double size = std::abs(peak[j]);
      D(j, j) = size > kTinyNorm ? Wide(1.0 / size) : Wide(0);
    }
    Panel W = Device::combine({&Y}, D);
    const Small<Wide> G = Device::gram(W);
    for (index j = 0; j < Y.cols; ++j)
      D(j, j) = real_of(G(j, j)) > 0 ? Wide(1.0 / std::sqrt(real_of(G(j, j)))) : Wide(0);
    return Device::combine({&W}, D);
  }

  /// Norms below this are zero: their squares, or their inverses, leave the range of the type.
  static constexpr double kTinyNorm = kSingle ? 1e-36 : 1e-145;

  FillSource fill_;
};

} // namespace lowla
