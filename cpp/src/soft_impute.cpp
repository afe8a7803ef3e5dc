// Nuclear-norm completion (see soft_impute.hpp).
#include "lowla/soft_impute.hpp"

#include "lowla/core/error.hpp"
#include "lowla/orth.hpp"
#include "lowla/rsvd.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowla {
namespace {

using Device = Host<double>;
using Numbers = std::vector<double>;

constexpr index kFresh = 8;  ///< singular vectors of the sparse part that a round brings in
constexpr index kSweeps = 3; ///< of ridge regressions a round

double dot(const Numbers &x, const Numbers &y) {
  return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
}

/// The first `most` columns of [X Y].
Factor joined(const Factor &X, const Factor &Y, index most) {
  Factor out(Y.rows, std::min(X.cols + Y.cols, most));
  out.zero();
  for (index i = 0; i < out.rows; ++i) {
    const index own = std::min(X.cols, out.cols);
    std::copy_n(X.row(i), own, out.row(i));
    std::copy_n(Y.row(i), out.cols - own, out.row(i) + own);
  }
  return out;
}

class NuclearNorm {
public:
  NuclearNorm(const ObservedMatrix &M, const SoftImputeRequest &request, double lam)
      : M_(M), request_(request), lam_(lam), orth_(request.key), values_(M.values()),
        residual_(values_) {}

  /// Until the gap is small enough; rounds and errors go to `history`.
  void run(Numbers &history) {
    certify();
    while (gap_ > request_.tol && static_cast<index>(history.size()) < request_.n_iter) {
      threshold();
      regress();
      certify();
      history.push_back(rmse());
      if (request_.monitor && request_.monitor(static_cast<index>(history.size()), history.back()))
        return;
    }
  }

  double gap() const { return gap_; }
  double rmse() const { return std::sqrt(dot(residual_, residual_) / static_cast<double>(M_.nnz)); }
  double relative_residual() const {
    const double norm2 = dot(values_, values_);
    return std::sqrt(dot(residual_, residual_) / (norm2 > 0 ? norm2 : 1.0));
  }
  index rank() const { return static_cast<index>(s_.size()); }

  /// U diag(s)^(1/2) and V diag(s)^(1/2), times 2^(e / 2); a column of zeros where X is zero.
  void factors(int e, Factor &U, Factor &V) const {
    if (s_.empty()) {
      U = Factor(M_.m, 1);
      V = Factor(M_.n, 1);
      U.zero();
      V.zero();
      return;
    }
    Numbers roots;
    for (const double s : s_)
      roots.push_back(std::ldexp(std::sqrt(s), e / 2));
    U = Device::copy(U_);
    V = Device::copy(V_);
    scale_columns(U, roots);
    scale_columns(V, roots);
  }

private:
  /// X = U diag(s) V^T, its columns orthonormal, s > 0.
  void set(Factor U, Numbers s, Factor V) {
    U_ = std::move(U);
    V_ = std::move(V);
    s_ = std::move(s);
    residual_ = values_;
    if (s_.empty())
      return;
    Factor scaled = Device::copy(U_);
    scale_columns(scaled, s_);
    residual_ = M_.rows().residuals({V_, nullptr}, scaled);
  }

  /// Y += P diag(s) Q^T X
  void add_low_rank(const Factor &P, const Factor &Q, const Factor &X, Factor &Y) const {
    if (s_.empty())
      return;
    Small<double> H = Device::inner({&Q}, X);
    for (index j = 0; j < H.cols; ++j)
      for (index i = 0; i < H.rows; ++i)
        H(i, j) *= -s_[at(i)];
    Device::subtract(Y, {&P}, H);
  }

  /// Singular value thresholding of P(M - X) + X on the space of one subspace iteration.
  void threshold() {
    Factor X = joined(V_, fresh_, std::min(M_.m, M_.n));
    orth_.orthonormalise(X);
    Factor left(M_.m, X.cols), right(M_.n, X.cols);
    sparse_.matrix->multiply(X, left);
    add_low_rank(U_, V_, X, left);
    orth_.orthonormalise(left);
    sparse_.matrix->multiply_adjoint(left, right);
    add_low_rank(V_, U_, left, right);
    const Small<double> R = orth_.qr(right);
    Small<double> A, W;
    Numbers s;
    small::svd(R, A, s, W);
    index kept = 0;
    while (kept < std::min<index>(request_.rank_max, R.cols) && s[at(kept)] > lam_)
      ++kept;
    s.resize(at(kept));
    for (double &x : s)
      x -= lam_;
    if (kept == 0)
      return set({}, {}, {});
    set(Device::combine({&left}, W.columns(0, kept)), std::move(s),
        Device::combine({&right}, A.columns(0, kept)));
  }

  /// X after some sweeps of ridge regressions of its balanced factors.
  void regress() {
    if (lam_ == 0 || s_.empty())
      return;
    Factor U, V;
    factors(0, U, V);
    for (index sweep = 0; sweep < kSweeps; ++sweep) {
      M_.cols().exact({U, nullptr}, lam_, V);
      M_.rows().exact({V, nullptr}, lam_, U);
    }
    BalancedFactors balanced_factors = balanced(U, V);
    Numbers &s = balanced_factors.s;
    const auto positive = std::find_if(s.begin(), s.end(), [](double x) { return !(x > 0); });
    const auto kept = static_cast<index>(positive - s.begin());
    s.resize(at(kept));
    if (kept < balanced_factors.left.cols) {
      balanced_factors.left = with_columns(balanced_factors.left, kept);
      balanced_factors.right = with_columns(balanced_factors.right, kept);
    }
    set(std::move(balanced_factors.left), std::move(s), std::move(balanced_factors.right));
  }

  /// The gap, and the leading right singular vectors of the sparse part.
  void certify() {
    sparse_ = M_.with_values(residual_);
    LowRankRequest request;
    request.k = std::min({kFresh, M_.m, M_.n});
    request.key = request_.key;
    request.check_finite = false;
    auto found = LowRank<Device>(*sparse_.matrix, request).svd();
    fresh_ = std::move(found.right);
    const double norm2 = dot(residual_, residual_), largest = found.values[0];
    const double primal = 0.5 * norm2 + lam_ * std::accumulate(s_.begin(), s_.end(), 0.0);
    if (!(primal > 0)) {
      gap_ = 0;
      return;
    }
    const double theta = largest > 0 ? std::min(1.0, lam_ / largest) : 1.0;
    const double dual = theta * dot(residual_, values_) - 0.5 * theta * theta * norm2;
    gap_ = std::max(primal - dual, 0.0) / primal;
  }

  const ObservedMatrix &M_;
  const SoftImputeRequest &request_;
  double lam_;
  Orthonormaliser<Device> orth_;
  Numbers values_, residual_; ///< of the entries
  Factor U_, V_;
  Numbers s_;
  HeldMatrix sparse_; ///< P(M - X)
  Factor fresh_;
  double gap_ = 0;
};

} // namespace

SoftImputed soft_impute(ObservedMatrix &M, const SoftImputeRequest &request) {
  const workspace::Scope scope; // rounds ask for the same sizes
  SoftImputed out;
  const EntryExtent extent = M.extent();
  if (!extent.finite) {
    if (request.check_finite)
      throw ValueError("M contains NaN or Inf");
    out.U = Factor(M.m, 1);
    out.V = Factor(M.n, 1);
    for (Factor *X : {&out.U, &out.V})
      std::fill(X->row(0), X->row(0) + X->rows * X->ld, std::numeric_limits<double>::quiet_NaN());
    return out;
  }
  const int e = safe_exponent(extent.largest, true);
  if (e != 0)
    M.rescale(e, 0);
  NuclearNorm solver(M, request, std::ldexp(request.lam, -e));
  CompletionFacts &facts = out.facts;
  solver.run(facts.history);
  solver.factors(e, out.U, out.V);
  out.gap = solver.gap();
  for (double &rmse : facts.history)
    rmse = std::ldexp(rmse, e);
  facts.rmse = std::ldexp(solver.rmse(), e);
  facts.relative_residual = solver.relative_residual();
  facts.converged = out.gap <= request.tol;
  facts.solver = "exact";
  facts.rank = solver.rank();
  facts.rows_undetermined = M.rows().count_short(1);
  facts.cols_undetermined = M.cols().count_short(1);
  facts.components = M.components();
  return out;
}

} // namespace lowla
