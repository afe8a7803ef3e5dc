// Randomised low-rank factorisation, written once over a Device (device/host.hpp lists what it
// needs).
//
// krylov (default). Block Krylov subspace of A^H A from a random n x b block P_0 (Musco, Musco,
//   NeurIPS 2015; Tropp, Webber, arXiv:2306.12418): Y_i = A P_i and W = A^H Y_i in one read of A,
//   P_{i+1} = orth((I - P P^H) W). With P = [P_0 .. P_r] and Y = A P known, the Rayleigh-Ritz pairs
//   of T = Y^H Y (block tridiagonal to rounding: A^H A P_i is in the span of P_0 .. P_{i+1}) give
//   V = P E; the k columns of B = Y E are nearly orthogonal and B = U S W^H by a column-scaled
//   Cholesky factor and one-sided Jacobi. The result is the exact SVD of A V V^H, so that
//   ||A - U S V^H||_F^2 = ||A||_F^2 - sum s_i^2.
//   Cost: r fused reads and half a read, 4 m n b r + 2 m n b flops, (m + n) d memory, d = (r + 1)
//   b. Where T cannot resolve the wanted directions (sigma_k^2 near u sigma_1^2), `refine` repeats
//   X = orth(A^H orth(Y)), Y = A X with separate reads, and the small SVD is that of R in Y = Q R.
// subspace. X = orth((A^H A)^q X_0), then Y = A X = Q R and Z = A^H Y in the same read, so that
//   A^H Q = Z R^-1 (Halko, Martinsson, Tropp, SIAM Rev. 53, 2011, algorithms 4.4 and 5.1; q = 0 has
//   their theorems 10.5 and 10.6).
// single_pass. q = 0 and never a second read (Yu, Gu, Li, Liu, Li, IJCAI 2017).
// nystrom, reigh: positive semidefinite and Hermitian A.
//
// Certificate: the identity above where it holds to 1 %, else one more read that measures the
// residual. The spectral error is the next Ritz value, a lower estimate that is sharp in practice.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/workspace.hpp"
#include "lowla/orth.hpp"

#include <chrono>
#include <cmath>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

namespace lowla {

enum class Method { kAuto, kKrylov, kSubspace, kSinglePass };
enum class StartBlock { kGaussian, kSjlt };

struct LowRankRequest {
  index k = 0;      ///< 0: as many as `tol` needs
  double tol = 0.0; ///< 0: as asked by k
  index oversample = 10;
  index n_iter = -1; ///< -1: chosen
  Method method = Method::kAuto;
  StartBlock start = StartBlock::kGaussian;
  std::uint64_t key = 0;
  bool check_finite = true;
  /// (iteration, relative error so far) -> true to stop
  std::function<bool(index, double)> monitor;
};

struct LowRankFacts {
  double error = 0.0;
  const char *error_method = "exact";
  double spectral_error = 0.0;
  index passes = 0, iterations = 0, basis = 0, rank = 0;
  bool converged = true;
  const char *method = "krylov";
  double small_seconds = 0.0; ///< orthonormalisation and small problems of a Krylov run
};

/// A = left diag(values) right^H; for nystrom and reigh, left is right.
template <class Device> struct LowRankResult {
  typename Device::Panel left, right;
  std::vector<double> values;
  LowRankFacts facts;
};

template <class Device> class LowRank {
public:
  using T = typename Device::Scalar;
  using Wide = typename Device::Wide;
  using Panel = typename Device::Panel;
  using Panels = typename Device::Panels;
  using Matrix = typename Device::Matrix;
  using Result = LowRankResult<Device>;

  /// `start`: the first block, where several matrices share it (`shared_start`).
  LowRank(Matrix &A, const LowRankRequest &request, const Panel *start = nullptr)
      : given_(A), request_(request), orth_(request.key), start_(start) {}

  /// The first block of a Krylov run on A: the same for all matrices of its shape and layout.
  static Panel shared_start(Matrix &A, const LowRankRequest &request) {
    LowRank run(A, request);
    run.orient();
    const index small = std::min(A.m, A.n);
    return run.start_block(std::min(make_plan(request, small).block, small));
  }

  Result svd() {
    const workspace::Scope scope;
    const threads::Awake awake;
    orient();
    return in_range([&] { return swap_back(oriented_svd()); });
  }

  Result nystrom() {
    const workspace::Scope scope;
    const threads::Awake awake;
    A_ = &given_;
    return in_range([&] { return oriented_nystrom(); });
  }

  /// `algebraic`: the largest eigenvalues; else the largest in magnitude.
  Result reigh(bool algebraic) {
    const workspace::Scope scope;
    const threads::Awake awake;
    A_ = &given_;
    return in_range([&] { return oriented_reigh(algebraic); });
  }

  /// Basis dimension that `svd` would use: what decides whether it may run inside a parallel loop.
  static index planned_basis(index m, index n, const LowRankRequest &request) {
    const index small = std::min(m, n);
    if (request.method == Method::kSubspace)
      return std::min(small, request.k + request.oversample);
    if (request.method == Method::kSinglePass)
      return std::min(small, request.k + std::max(request.oversample, request.k));
    const Plan plan = make_plan(request, small);
    return std::min(small, (plan.reads + 1) * plan.block);
  }

  /// Single-pass SVD from what a stream left behind: Y = A X, Z = A^H Y, X orthonormal.
  static Result from_stream(Panel Y, Panel Z, double norm2, index k, std::uint64_t key) {
    struct Nothing final : Matrix {
      void multiply(const Panel &, Panel &, double *) override {}
      void multiply_adjoint(const Panel &, Panel &, double *) override {}
      void normal(const Panel &, Panel *, Panel &, double *) override {}
      double scan(bool &finite) override {
        finite = true;
        return 0;
      }
      void rescale(real_t<T>) override {}
      std::unique_ptr<Matrix> adjoint() const override { return nullptr; }
      double residual_norm2(const Panel &, const std::vector<double> &, const Panel &) override {
        return 0;
      }
    } nothing;
    LowRankRequest request;
    request.k = k;
    request.key = key;
    request.method = Method::kSinglePass;
    LowRank self(nothing, request);
    self.A_ = &nothing;
    self.norm2_ = norm2;
    nothing.m = Y.rows;
    nothing.n = Z.rows;
    if (!std::isfinite(norm2))
      throw ValueError("A contains NaN or Inf");
    if (norm2 == 0)
      return self.zero_result();
    Result result = self.finish_from_products(std::move(Y), std::move(Z), "single_pass");
    result.facts.passes = 1;
    return result;
  }

private:
  static constexpr bool kSingle = std::is_same_v<real_t<T>, float>;
  static constexpr double kUnit = unit_roundoff<T>();
  /// Ritz values below this fraction of the largest are lost in the fused product A^H (A X).
  static constexpr double kRitzFloor = kSingle ? 3e-3 : 1e-6;
  /// Relative error above which ||A||^2 - sum s^2 holds to 1 %.
  static constexpr double kIdentityFloor = kSingle ? 1e-2 : 1e-6;
  /// Relative errors that consist of rounding.
  static constexpr double kRoundingLevel = 100 * kUnit;
  /// Tolerances that captured energy alone can certify.
  static constexpr double kTolFloor = kSingle ? 5e-3 : 4e-7;

  struct Plan {
    index block, reads;
  };

  /// Blocks of about k/3 columns: smaller ones give more accuracy per flop, but need more reads.
  /// The reads bring the excess error to that of seven power iterations on k + 10 columns, or below
  /// (measured on polynomial and exponential spectra, k from 10 to 128).
  static Plan make_plan(const LowRankRequest &request, index small) {
    if (request.k == 0)
      return {std::min<index>(32, round_up(small, 16)), small};
    Plan plan;
    plan.block = 16 * ((request.k + 55) / 56);
    plan.reads = request.n_iter >= 0
                     ? request.n_iter
                     : 4 + (request.k - plan.block / 4 + plan.block - 1) / plan.block;
    const index needed = request.k + request.oversample;
    if ((plan.reads + 1) * plan.block < needed)
      plan.block = round_up((needed + plan.reads) / (plan.reads + 1), 16);
    return plan;
  }

  // --- frame ---

  void orient() {
    const index small = std::min(given_.m, given_.n);
    const bool shorter_is_n = given_.n <= given_.m;
    bool columns = given_.iterate_on_columns();
    if (planned_basis(given_.m, given_.n, request_) >= small || request_.tol > 0)
      columns = shorter_is_n; // the full basis of the short side
    swapped_ = !columns;
    if (swapped_) {
      flipped_ = given_.adjoint();
      A_ = flipped_.get();
    } else {
      A_ = &given_;
    }
  }

  Result swap_back(Result result) {
    if (swapped_)
      std::swap(result.left, result.right);
    result.facts.passes = A_->reads + (swapped_ ? given_.reads : 0);
    return result;
  }

  struct OutOfRange {};

  /// Run `body`; where the entries leave the range in which squares are safe, once more with A
  /// scaled by a power of two.
  template <class Body> Result in_range(Body &&body) {
    try {
      return body();
    } catch (const OutOfRange &) {
    }
    bool finite = true;
    const double largest = A_->scan(finite);
    if (!finite) {
      if (request_.check_finite)
        throw ValueError("A contains NaN or Inf");
      return nan_result();
    }
    if (largest == 0)
      return zero_result();
    const int exponent = std::max(-1000, std::min(1000, std::ilogb(largest)));
    if (kSingle && std::abs(exponent) > 120) // the factor itself must be a normal float
      scale_ = std::ldexp(1.0, exponent > 0 ? 120 : -120);
    else
      scale_ = std::ldexp(1.0, exponent);
    A_->rescale(static_cast<real_t<T>>(1.0 / scale_));
    rescaled_ = true;
    Result result = body();
    for (double &s : result.values)
      s *= scale_;
    return result;
  }

  /// Squared norms between which nothing under- or overflows on the way.
  void check_range(double norm2) {
    if (rescaled_) {
      norm2_ = norm2;
      return;
    }
    const double low = kSingle ? 1e-16 : 1e-180, high = kSingle ? 1e20 : 1e180;
    if (!(norm2 > low) || !(norm2 < high))
      throw OutOfRange{};
    norm2_ = norm2;
  }

  Result zero_result() {
    Result result;
    const index k = request_.k > 0 && request_.tol == 0 ? request_.k : 1;
    result.left = Panel(A_->m, k);
    result.right = Panel(A_->n, k);
    Device::set_identity(result.left);
    Device::set_identity(result.right);
    result.values.assign(static_cast<std::size_t>(k), 0.0);
    result.facts.error_method = "exact";
    result.facts.method = "zero";
    result.facts.passes = A_->reads;
    if (swapped_)
      std::swap(result.left, result.right);
    return result;
  }

  Result nan_result() {
    Result result = zero_result();
    const double nan = std::numeric_limits<double>::quiet_NaN();
    Small<Wide> factor(result.left.cols, result.left.cols);
    for (Wide &x : factor.data)
      x = nan;
    result.left = Device::combine({&result.left}, factor);
    result.right = Device::combine({&result.right}, factor);
    std::fill(result.values.begin(), result.values.end(), nan);
    result.facts.error = result.facts.spectral_error = nan;
    result.facts.error_method = "none";
    result.facts.converged = false;
    return result;
  }

  bool stop_asked(index iteration, double captured) {
    if (!request_.monitor)
      return false;
    const double left = std::max(0.0, 1.0 - captured / norm2_);
    return request_.monitor(iteration, std::sqrt(left));
  }

  Panel start_block(index columns) {
    if (start_ != nullptr && start_->rows == A_->n && start_->cols == columns)
      return Device::copy(*start_);
    Panel X(A_->n, columns);
    if (request_.start == StartBlock::kSjlt)
      Device::fill_sjlt(X, request_.key, std::min<index>(8, columns));
    else
      Device::fill_normal(X, request_.key, philox::kStreamGaussian);
    const SmallWork timed(small_seconds_);
    orth_.orthonormalise(X);
    return X;
  }

  static Panel leading_columns(const Panel &P, index count) {
    return Device::combine({&P}, Small<Wide>::identity(P.cols).columns(0, count));
  }

  // --- svd ---

  Result oriented_svd() {
    const index small = std::min(A_->m, A_->n);
    Method method = request_.method;
    if (method == Method::kAuto)
      method = request_.n_iter == 0 ? Method::kSubspace : Method::kKrylov;
    if (request_.tol > 0)
      method = Method::kKrylov;
    if (method == Method::kSinglePass)
      return subspace(0, std::min(small, request_.k + std::max(request_.oversample, request_.k)),
                      "single_pass");
    if (method == Method::kSubspace)
      return subspace(request_.n_iter >= 0 ? request_.n_iter : kSubspaceReads,
                      std::min(small, request_.k + request_.oversample), "subspace");
    if (request_.tol == 0 && planned_basis(A_->m, A_->n, request_) >= small)
      return direct();
    return krylov();
  }

  static constexpr index kSubspaceReads = 4;

  struct Basis {
    std::list<Panel> P, Y;
    Panels p, y;
    std::vector<Small<Wide>> columns; ///< of T, by blocks: their last rows to the diagonal
    double captured = 0.0;            ///< the trace of T
    index dimension = 0;

    void add(Panel block) {
      P.push_back(std::move(block));
      p.push_back(&P.back());
      dimension += P.back().cols;
    }
    /// The last two of the panels.
    static Panels recent(const Panels &all) {
      return {all.end() - std::min<std::ptrdiff_t>(2, all.end() - all.begin()), all.end()};
    }
    void extend(Small<Wide> column) {
      const index b = column.cols, above = column.rows - b;
      for (index j = 0; j < b; ++j)
        captured += real_of(column(above + j, j));
      columns.push_back(std::move(column));
    }
    /// T = Y^H Y, or P^H A P: Hermitian, with zeros above the known rows of its columns.
    Small<Wide> T() const {
      index n = 0;
      for (const Small<Wide> &column : columns)
        n += column.cols;
      Small<Wide> T(n, n);
      index first = 0;
      for (const Small<Wide> &column : columns) {
        const index b = column.cols, zeros = first + b - column.rows;
        for (index j = 0; j < b; ++j) {
          for (index i = zeros; i < first; ++i) {
            T(i, first + j) = column(i - zeros, j);
            T(first + j, i) = conj_of(column(i - zeros, j));
          }
          for (index i = 0; i <= j; ++i) {
            const Wide mean =
                0.5 * (column(first - zeros + i, j) + conj_of(column(first - zeros + j, i)));
            T(first + i, first + j) = mean;
            T(first + j, first + i) = conj_of(mean);
          }
        }
        first += b;
      }
      return T;
    }
  };

  Result krylov() {
    Basis basis;
    index iteration = 0;
    const bool stopped = expand(basis, iteration);
    std::vector<double> lambda;
    Small<Wide> E;
    {
      const SmallWork timed(small_seconds_);
      const bool rank_is_given = request_.tol == 0;
      small::eigh_leading(basis.T(), rank_is_given ? request_.k + 1 : basis.dimension, lambda, E);
    }
    Result result;
    if (request_.tol > 0 && request_.tol < kTolFloor) {
      result = beyond_the_floor(basis);
    } else {
      index k = request_.k > 0 ? std::min(request_.k, basis.dimension) : basis.dimension;
      if (request_.tol > 0) {
        const index rank = rank_for(lambda, basis.captured, request_.tol);
        k = rank > 0 ? std::min(k, rank) : k;
      }
      const bool resolved = request_.tol > 0 || lambda[k - 1] > kRitzFloor * kRitzFloor * lambda[0];
      if (!resolved || !ritz(basis, lambda, E, k, result))
        result = refine(basis, k);
      result.facts.basis = basis.dimension;
      result.facts.converged = true;
    }
    result.facts.method = "krylov";
    result.facts.iterations = iteration;
    if (request_.tol > 0)
      result.facts.converged = result.facts.error <= request_.tol * 1.01;
    if (stopped)
      result.facts.converged = false;
    result.facts.small_seconds = small_seconds_;
    return result;
  }

  /// Adds its lifetime to the seconds of small work.
  class SmallWork {
  public:
    explicit SmallWork(double &seconds)
        : seconds_(seconds), start_(std::chrono::steady_clock::now()) {}
    ~SmallWork() {
      seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    SmallWork(const SmallWork &) = delete;
    SmallWork &operator=(const SmallWork &) = delete;

  private:
    double &seconds_;
    std::chrono::steady_clock::time_point start_;
  };

  /// Grow the Krylov basis: to the planned number of reads, or until it holds enough for `tol`.
  /// Returns whether the monitor ended it.
  bool expand(Basis &basis, index &iteration) {
    const index small = std::min(A_->m, A_->n);
    const Plan plan = make_plan(request_, small);
    const bool keep_products = !A_->cheap_to_read();
    basis.add(start_block(std::min(plan.block, small)));
    index previous_rank = -1;
    for (;; ++iteration) {
      const Panel &X = *basis.p.back();
      const bool last_of_plan = iteration >= plan.reads;
      Panel W(A_->n, X.cols);
      double norm2 = 0;
      double *norm_wanted = iteration == 0 ? &norm2 : nullptr;
      Small<Wide> column;
      bool has_column = false;
      if (keep_products) {
        basis.Y.emplace_back(A_->m, X.cols);
        basis.y.push_back(&basis.Y.back());
        if (request_.tol > 0 || !last_of_plan)
          has_column = A_->normal_and_products(X, basis.Y.back(), W, norm_wanted,
                                               Basis::recent(basis.y), column);
        else
          A_->multiply(X, basis.Y.back(), norm_wanted);
      } else {
        A_->normal(X, nullptr, W, norm_wanted);
      }
      if (iteration == 0)
        check_range(norm2);
      {
        const SmallWork timed(small_seconds_);
        if (!has_column)
          column = keep_products ? Device::coefficients(Basis::recent(basis.y), *basis.y.back())
                                 : Device::coefficients(Basis::recent(basis.p), W);
        basis.extend(column);
      }
      if (!std::isfinite(basis.captured))
        throw OutOfRange{};
      if (stop_asked(iteration + 1, basis.captured))
        return true;
      const index room = small - basis.dimension;
      if (room == 0 || (request_.tol == 0 && last_of_plan))
        return false;
      if (request_.tol > 0 &&
          (enough_for_tol(basis, previous_rank) ||
           (request_.k > 0 && iteration > plan.reads && basis.dimension >= 2 * request_.k)))
        return false;
      const bool reuse = room >= W.cols; // `column` is of P^H W: Y^H A X = P^H A^H A X
      if (room < W.cols)                 // the last block fills the space
        W = leading_columns(W, room);
      const SmallWork timed(small_seconds_);
      orth_.orthonormalise_against(W, basis.p, Basis::recent(basis.p), reuse ? &column : nullptr);
      basis.add(std::move(W));
    }
  }

  /// The captured energy reaches tol, and one more block no longer lowers the rank.
  bool enough_for_tol(const Basis &basis, index &previous_rank) const {
    const double goal = std::max(request_.tol, kTolFloor);
    if (norm2_ - basis.captured > goal * goal * norm2_)
      return false;
    std::vector<double> lambda;
    Small<Wide> E;
    small::eigh(basis.T(), lambda, E);
    const index rank = rank_for(lambda, basis.captured, goal);
    const bool settled = rank == previous_rank;
    previous_rank = rank;
    return settled;
  }

  /// The k leading Ritz vectors E of T as a factorisation; false where B = A P E is not nearly
  /// orthogonal, so that T has not resolved them.
  bool ritz(const Basis &basis, const std::vector<double> &lambda, const Small<Wide> &E, index k,
            Result &result) {
    const Small<Wide> leading = E.columns(0, k);
    Panel B;
    Small<Wide> G;
    if (basis.y.empty()) {
      B = Panel(A_->m, k);
      A_->multiply(Device::combine(basis.p, leading), B);
      G = Device::coefficients({&B}, B);
    } else {
      B = Device::combine(basis.y, leading, &G);
    }
    {
      const SmallWork timed(small_seconds_);
      if (!finish_nearly_orthogonal(basis, std::move(B), std::move(G), leading, result))
        return false;
    }
    const bool more = k < static_cast<index>(lambda.size());
    const bool complete = basis.dimension >= std::min(A_->m, A_->n);
    certify(result, more ? std::sqrt(std::max(0.0, lambda[k])) : (complete ? 0.0 : -1.0));
    return true;
  }

  /// Smallest k with ||A||^2 - sum_{j<k} lambda_j <= tol^2 ||A||^2; 0 where even all are too few.
  index rank_for(const std::vector<double> &lambda, double captured, double tol) const {
    const double allowed = tol * tol * norm2_;
    double left = std::max(0.0, norm2_ - captured);
    if (left > allowed)
      return 0;
    index k = static_cast<index>(lambda.size());
    while (k > 1 && left + std::max(0.0, lambda[k - 1]) <= allowed) {
      left += std::max(0.0, lambda[k - 1]);
      --k;
    }
    return k;
  }

  /// B = A V with nearly orthogonal columns, V = P E, G = B^H B: the SVD of B by its scaled
  /// Cholesky factor.
  bool finish_nearly_orthogonal(const Basis &basis, Panel B, Small<Wide> G, const Small<Wide> &E,
                                Result &result) {
    const index k = E.cols;
    std::vector<double> norms(static_cast<std::size_t>(k));
    for (index j = 0; j < k; ++j) {
      norms[j] = std::sqrt(real_of(G(j, j)));
      if (!(norms[j] > 0))
        return false;
    }
    for (index j = 0; j < k; ++j)
      for (index i = 0; i < k; ++i)
        G(i, j) /= norms[i] * norms[j];
    constexpr double kNearlyOrthogonal = 0.01;
    if (!small::cholesky(G, kNearlyOrthogonal))
      return false;
    Small<Wide> R = G, inverse = G, Ur, W;
    small::invert_upper(inverse);
    for (index j = 0; j < k; ++j)
      for (index i = 0; i < k; ++i) {
        R(i, j) *= norms[j];
        inverse(i, j) /= norms[i];
      }
    small::svd(R, Ur, result.values, W, 0.01 * kUnit);
    Device::multiply_right(B, small::multiply(inverse, Ur));
    result.left = std::move(B);
    result.right = Device::combine(basis.p, small::multiply(E, W));
    return true;
  }

  /// Separate reads for Y = A X and A^H orth(Y): nothing is squared, so directions down to
  /// u sigma_1 are found.
  Result refine(Basis &basis, index k) {
    Panel X = Device::combine(basis.p, Small<Wide>::identity(basis.dimension));
    basis.P.clear();
    basis.p.clear();
    Panel Y(A_->m, X.cols);
    if (A_->cheap_to_read())
      A_->multiply(X, Y);
    else
      Y = Device::combine(basis.y, Small<Wide>::identity(basis.dimension));
    basis.Y.clear();
    basis.y.clear();
    constexpr int kRounds = 2;
    for (int round = 0; round < kRounds; ++round)
      power_step(X, Y);
    return finish_by_qr(std::move(X), std::move(Y), k);
  }

  void power_step(Panel &X, Panel &Y) {
    orth_.orthonormalise(Y);
    A_->multiply_adjoint(Y, X);
    orth_.orthonormalise(X);
    A_->multiply(X, Y);
  }

  /// Y = A X, X orthonormal: Y = Q R, R = Ur S W^H, A X X^H = (Q Ur) S (X W)^H.
  Result finish_by_qr(Panel X, Panel Y, index k) {
    Result result;
    std::vector<double> s;
    Small<Wide> Ur, W;
    const Small<Wide> R = orth_.qr(Y);
    small::svd(R, Ur, s, W);
    result.facts.basis = X.cols;
    if (request_.tol > 0) { // the smallest rank for tol, at most the k asked for
      double left = residual_of_basis(X, Y, Ur, s, W);
      const double allowed = request_.tol * request_.tol * norm2_;
      result.facts.converged = left <= allowed;
      k = static_cast<index>(s.size());
      while (k > 1 && left + s[k - 1] * s[k - 1] <= allowed) {
        left += s[k - 1] * s[k - 1];
        --k;
      }
      if (request_.k > 0 && k > request_.k) {
        k = request_.k;
        result.facts.converged = false;
      }
    }
    result.left = Device::combine({&Y}, Ur.columns(0, k));
    result.right = Device::combine({&X}, W.columns(0, k));
    const double next =
        k < static_cast<index>(s.size()) ? s[k] : (X.cols >= std::min(A_->m, A_->n) ? 0.0 : -1.0);
    s.resize(static_cast<std::size_t>(k));
    result.values = std::move(s);
    certify(result, next);
    return result;
  }

  double residual_of_basis(const Panel &X, const Panel &Q, const Small<Wide> &Ur,
                           const std::vector<double> &s, const Small<Wide> &W) {
    const Panel U = Device::combine({&Q}, Ur), V = Device::combine({&X}, W);
    return A_->residual_norm2(U, s, V);
  }

  /// tol below what the captured energy can certify: grow the basis with separate reads until the
  /// measured residual is small enough, or the basis is complete.
  Result beyond_the_floor(Basis &basis) {
    const index small = std::min(A_->m, A_->n);
    Panel X = Device::combine(basis.p, Small<Wide>::identity(basis.dimension));
    basis.P.clear();
    basis.p.clear();
    basis.Y.clear();
    basis.y.clear();
    index used = 0;
    for (;;) {
      Panel Y(A_->m, X.cols);
      A_->multiply(X, Y);
      if (X.cols < small)
        power_step(X, Y);
      const index d = X.cols;
      Result result = finish_by_qr(Device::copy(X), std::move(Y), d);
      result.facts.method = "krylov";
      const bool k_is_the_limit = request_.k > 0 && d >= 2 * request_.k;
      if (result.facts.converged || d >= small || k_is_the_limit)
        return result;
      const index extra = std::min(d, small - d);
      Panel F(A_->n, extra);
      Device::fill_normal(F, request_.key, philox::kStreamProbe, used);
      used += extra;
      orth_.orthonormalise_against(F, {&X});
      Small<Wide> all = Small<Wide>::identity(d + extra);
      X = Device::combine({&X, &F}, all);
    }
  }

  /// The basis would be everything: A itself is the panel.
  Result direct() {
    Basis basis;
    basis.add(Panel(A_->n, A_->n));
    Device::set_identity(basis.P.back());
    basis.Y.emplace_back(A_->m, A_->n);
    basis.y.push_back(&basis.Y.back());
    double norm2 = 0;
    A_->multiply(basis.P.back(), basis.Y.back(), &norm2);
    check_range(norm2);
    std::vector<double> lambda;
    Small<Wide> E;
    small::eigh(Device::gram(basis.Y.back()), lambda, E);
    Result result;
    const index k = request_.k;
    constexpr double kGramFloor = 1e-6; // A^H A itself is formed in double precision
    if (!(lambda[k - 1] > kGramFloor * kGramFloor * lambda[0]) ||
        !ritz(basis, lambda, E, k, result))
      result = finish_by_qr(std::move(basis.P.back()), std::move(basis.Y.back()), k);
    result.facts.method = "direct";
    result.facts.basis = A_->n;
    return result;
  }

  Result subspace(index power_reads, index l, const char *name) {
    Panel X = start_block(l);
    Panel Z(A_->n, l), Y(A_->m, l);
    index iteration = 0;
    bool stopped = false;
    while (iteration < power_reads && !stopped) {
      double norm2 = 0;
      A_->normal(X, nullptr, Z, iteration == 0 ? &norm2 : nullptr);
      if (iteration == 0)
        check_range(norm2);
      std::swap(X, Z);
      orth_.orthonormalise(X);
      stopped = stop_asked(++iteration, 0.0);
    }
    double norm2 = 0;
    A_->normal(X, &Y, Z, iteration == 0 ? &norm2 : nullptr);
    if (iteration == 0)
      check_range(norm2);
    Result result = finish_from_products(std::move(Y), std::move(Z), name);
    result.facts.iterations = iteration;
    result.facts.converged = !stopped;
    return result;
  }

  /// Y = A X and Z = A^H Y: Q R = Y, A^H Q = Z R^-1, and the SVD of A^H Q.
  Result finish_from_products(Panel Y, Panel Z, const char *name) {
    const index k = request_.k, l = std::min(Y.rows, Y.cols);
    if (l < Y.cols) { // fewer rows than test vectors: as many of those span all of A
      Y = leading_columns(Y, l);
      Z = leading_columns(Z, l);
    }
    const bool one_pass = request_.method == Method::kSinglePass;
    const Small<Wide> R = orth_.qr(Y);
    Small<Wide> Ur, W;
    std::vector<double> s;
    small::svd(R, Ur, s, W);
    // R^-1 multiplies the rounding of Z by sigma_1 / sigma_l: read A again beyond these.
    const double safe = kSingle ? 1e-2 : 1e-4, usable = std::sqrt(kUnit);
    Panel Q = Device::combine({&Y}, Ur);
    Panel Bh;
    if (s[l - 1] > safe * s[0] || one_pass) {
      for (index j = 0; j < l; ++j)
        for (index i = 0; i < l; ++i)
          W(i, j) = s[j] > usable * s[0] ? Wide(W(i, j) / s[j]) : Wide(0);
      Bh = Device::combine({&Z}, W);
    } else {
      Bh = std::move(Z);
      A_->multiply_adjoint(Q, Bh);
    }
    const Small<Wide> R2 = orth_.qr(Bh);
    Small<Wide> U2, W2;
    std::vector<double> values;
    small::svd(R2, U2, values, W2);
    Result result;
    result.left = Device::combine({&Q}, W2.columns(0, k));
    result.right = Device::combine({&Bh}, U2.columns(0, k));
    const double next = k < l ? values[k] : -1.0;
    double tail = 0;
    for (index j = k; j < l; ++j)
      tail += values[j] * values[j];
    values.resize(static_cast<std::size_t>(k));
    result.values = std::move(values);
    result.facts.method = name;
    result.facts.basis = l;
    if (one_pass)
      certify_one_pass(result, s, W, tail, next);
    else
      certify(result, next);
    return result;
  }

  // --- certificates ---

  /// next: the (k+1)-th Ritz value (0: none is left), or -1 where the basis has no more.
  void certify(Result &result, double next) {
    const double residual2 = energy_left(result.values);
    const double floor2 = kIdentityFloor * kIdentityFloor * norm2_;
    double error2 = residual2;
    if (A_->has_entries()) {
      result.facts.error_method = "identity";
      if (!(residual2 > floor2)) {
        error2 = A_->residual_norm2(result.left, result.values, result.right);
        result.facts.error_method = "residual";
      }
    } else {
      error2 = A_->residual_norm2(result.left, result.values, result.right);
      norm2_ = sum_squares(result.values) + error2;
      result.facts.error_method = "probe";
    }
    result.facts.error = std::sqrt(std::max(0.0, error2) / norm2_);
    finish_facts(result, next);
  }

  /// No second read: the identity, or under its floor the leave-one-out estimate (Epperly, Tropp,
  /// SIAM J. Sci. Comput. 46, 2024) for one column less: mean_i 1 / ||row_i(R^-1)||^2 is the
  /// squared residual of a test vector, and those are uniform in n - l + 1 dimensions.
  void certify_one_pass(Result &result, const std::vector<double> &s, const Small<Wide> &W_over_s,
                        double tail, double next) {
    const double residual2 = energy_left(result.values);
    double error2 = residual2;
    result.facts.error_method = "identity";
    if (!(residual2 > kIdentityFloor * kIdentityFloor * norm2_)) {
      // row_i(R^-1) = row_i(W S^-1 Ur^H): its norm is that of row i of W S^-1.
      const index l = W_over_s.rows;
      double sum = 0;
      bool full = true;
      for (double x : s)
        full = full && x > std::sqrt(kUnit) * s[0];
      for (index i = 0; i < l && full; ++i) {
        double row = 0;
        for (index j = 0; j < l; ++j)
          row += abs2(W_over_s(i, j));
        sum += 1.0 / row;
      }
      const double rounding = std::sqrt(kUnit) * std::sqrt(norm2_);
      const double dimensions = static_cast<double>(A_->n - l + 1);
      error2 = tail + (full ? dimensions * sum / static_cast<double>(l) : rounding * rounding);
      result.facts.error_method = "leave-one-out";
    }
    result.facts.error = std::sqrt(std::max(0.0, error2) / norm2_);
    finish_facts(result, next < 0 ? 0.0 : next);
  }

  void finish_facts(Result &result, double next) {
    const std::vector<double> &s = result.values;
    double top = 0;
    for (double x : s)
      top = std::max(top, std::abs(x));
    const double frobenius = result.facts.error * std::sqrt(norm2_);
    double spectral = next;
    if (next < 0)
      spectral = residual_spectral_norm(result);
    if (result.facts.error < kRoundingLevel) // rounding, not the next singular value, decides
      spectral = frobenius;
    result.facts.spectral_error = top > 0 ? std::min(spectral, frobenius) / top : 0.0;
    const double floor = 2.0 * kUnit * static_cast<double>(std::max(A_->m, A_->n)) * top;
    result.facts.rank = 0;
    for (double x : s)
      if (std::abs(x) > floor)
        ++result.facts.rank;
  }

  static double sum_squares(const std::vector<double> &s) {
    double sum = 0;
    for (double x : s)
      sum += x * x;
    return sum;
  }

  double energy_left(const std::vector<double> &s) const { return norm2_ - sum_squares(s); }

  /// ||A (I - V V^H)||_2 from below, by one block power step on a random block.
  double residual_spectral_norm(const Result &result) {
    const index block = std::min<index>(16, A_->n - result.right.cols);
    if (block <= 0)
      return 0.0;
    Panel X(A_->n, block), Z(A_->n, block), Y(A_->m, block);
    Device::fill_normal(X, request_.key, philox::kStreamProbe);
    const Panels V{&result.right};
    orth_.orthonormalise_against(X, V);
    A_->normal(X, nullptr, Z);
    orth_.orthonormalise_against(Z, V);
    A_->multiply(Z, Y);
    std::vector<double> lambda;
    Small<Wide> E;
    small::eigh(Device::gram(Y), lambda, E);
    return std::sqrt(std::max(0.0, lambda[0]));
  }

  // --- Hermitian matrices ---

  /// Nystrom approximation with a stabilising shift (Tropp, Yurtsever, Udell, Cevher, NeurIPS 2017,
  /// algorithm 3): A ~ (A X) (X^H A X)^+ (A X)^H, positive semidefinite, below A.
  Result oriented_nystrom() {
    const index n = A_->n, l = std::min(n, request_.k + request_.oversample);
    const index power = request_.n_iter >= 0 ? request_.n_iter : 2;
    Panel X = start_block(l), Y(n, l);
    double norm2 = 0;
    for (index i = 0; i <= power; ++i) {
      A_->multiply(X, Y, i == 0 ? &norm2 : nullptr);
      if (i == 0)
        check_range(norm2);
      if (i == power || stop_asked(i + 1, 0.0))
        break;
      std::swap(X, Y);
      orth_.orthonormalise(X);
    }
    const double size = std::sqrt(std::max(0.0, trace(Device::gram(Y))));
    const double shift = 2.0 * kUnit * std::sqrt(static_cast<double>(n)) * size;
    Small<Wide> core = Device::inner({&X}, Y), V;
    for (index j = 0; j < l; ++j)
      for (index i = 0; i <= j; ++i) {
        const Wide mean = 0.5 * (core(i, j) + conj_of(core(j, i)));
        core(i, j) = mean;
        core(j, i) = conj_of(mean);
      }
    std::vector<double> lambda;
    small::eigh(core, lambda, V);
    const double tolerance = (kSingle ? 1e-4 : 1e-9) * std::max(lambda[0], size);
    if (lambda[l - 1] < -std::max(10.0 * shift, tolerance))
      throw LinAlgError("A is not positive semidefinite: its compression to the sketch has the "
                        "eigenvalue " +
                        std::to_string(lambda[l - 1] * scale_) +
                        "; use reigh for Hermitian matrices");
    // B = (Y + shift X) (core + shift)^(-1/2)
    Small<Wide> root = V;
    for (index j = 0; j < l; ++j)
      for (index i = 0; i < l; ++i)
        root(i, j) /= std::sqrt(std::max(lambda[j] + shift, shift));
    Small<Wide> shifted = root;
    for (Wide &x : shifted.data)
      x *= shift;
    Panel B = Device::combine({&Y, &X}, small::stack(root, shifted));
    const Small<Wide> R = orth_.qr(B);
    Small<Wide> Ur, W;
    std::vector<double> s;
    small::svd(R, Ur, s, W);
    Result result;
    result.right = Device::combine({&B}, Ur.columns(0, request_.k));
    for (double &x : s)
      x = std::max(0.0, x * x - shift);
    const double next = request_.k < l ? s[request_.k] : -1.0;
    s.resize(static_cast<std::size_t>(request_.k));
    result.values = std::move(s);
    result.left = Device::copy(result.right);
    result.facts.method = "nystrom";
    result.facts.iterations = power;
    result.facts.basis = l;
    const double error2 = A_->residual_norm2(result.left, result.values, result.right);
    result.facts.error_method = A_->has_entries() ? "residual" : "probe";
    if (!A_->has_entries())
      norm2_ = sum_squares(result.values) + error2;
    result.facts.error = std::sqrt(error2 / norm2_);
    finish_facts(result, next);
    result.facts.passes = A_->reads;
    return result;
  }

  static double trace(const Small<Wide> &A) {
    double sum = 0;
    for (index j = 0; j < A.cols; ++j)
      sum += real_of(A(j, j));
    return sum;
  }

  /// Rayleigh-Ritz on the block Krylov subspace of A itself.
  Result oriented_reigh(bool algebraic) {
    const index n = A_->n;
    Plan plan = make_plan(request_, n);
    if (request_.n_iter < 0)
      plan.reads *= 2; // one product raises the degree by one only
    Basis basis;
    basis.add(start_block(std::min(plan.block, n)));
    index iteration = 0;
    for (;; ++iteration) {
      const Panel &X = *basis.p.back();
      Panel W(n, X.cols);
      double norm2 = 0;
      A_->multiply(X, W, iteration == 0 ? &norm2 : nullptr);
      if (iteration == 0)
        check_range(norm2);
      basis.extend(Device::inner(basis.p, W));
      const index room = n - basis.dimension;
      if (iteration >= plan.reads || room == 0 || stop_asked(iteration + 1, 0.0))
        break;
      if (room < W.cols)
        W = leading_columns(W, room);
      orth_.orthonormalise_against(W, basis.p);
      basis.add(std::move(W));
    }
    std::vector<double> lambda;
    Small<Wide> E;
    small::eigh(basis.T(), lambda, E);
    std::vector<index> order(lambda.size());
    std::iota(order.begin(), order.end(), index(0));
    if (!algebraic)
      std::stable_sort(order.begin(), order.end(),
                       [&](index a, index b) { return std::abs(lambda[a]) > std::abs(lambda[b]); });
    const index k = request_.k;
    Small<Wide> Ek(E.rows, k);
    Result result;
    for (index j = 0; j < k; ++j) {
      std::copy(E.col(order[j]), E.col(order[j]) + E.rows, Ek.col(j));
      result.values.push_back(lambda[order[j]]);
    }
    result.right = Device::combine(basis.p, Ek);
    result.left = Device::copy(result.right);
    double next = 0; // what is left over, in magnitude
    for (std::size_t j = static_cast<std::size_t>(k); j < order.size(); ++j)
      next = std::max(next, std::abs(lambda[order[j]]));
    if (k == static_cast<index>(lambda.size()) && k < n)
      next = -1.0;
    result.facts.method = "krylov";
    result.facts.iterations = iteration;
    result.facts.basis = basis.dimension;
    certify(result, next);
    result.facts.passes = A_->reads;
    return result;
  }

  Matrix &given_;
  std::unique_ptr<Matrix> flipped_;
  Matrix *A_ = nullptr;
  LowRankRequest request_;
  Orthonormaliser<Device> orth_;
  const Panel *start_;
  bool swapped_ = false, rescaled_ = false;
  double scale_ = 1.0;
  double norm2_ = 0.0;
  double small_seconds_ = 0.0;
};

} // namespace lowla
