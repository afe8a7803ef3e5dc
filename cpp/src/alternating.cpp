// Alternating minimisation and scaled gradient descent (see alternating.hpp).
#include "lowla/alternating.hpp"

#include "lowla/device/host.hpp"
#include "lowla/orth.hpp"

#include "host_rows.hpp"

#include <algorithm>
#include <cmath>

namespace lowla {

using threads::for_spans;

namespace {

using Device = Host<double>;
using Numbers = std::vector<double>;

constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr double kContinuation = 0.1; ///< ridge / (G rel^2)
constexpr double kStalled = 0.9;      ///< above this part of the last, a residual has stopped
constexpr double kStalledDecay = 0.5; ///< of the ridge in a sweep, at least, where it has stopped
constexpr double kScarce = 2.5;       ///< entries over degrees of freedom: the ridge falls freely
constexpr double kFastest = 0.2, kSlowest = 0.7; ///< factor of the ridge in a sweep
constexpr double kSlowestRandom = 0.8;           ///< after a random start
constexpr double kOverSigns = 2.0;    ///< ridge of small directions over the norm of random signs
constexpr double kFirstEps = 0.5;     ///< over the largest singular value
constexpr double kSharp = 0.05;       ///< delta over the median of |r| below which it stays
constexpr double kLeastRidge = 1e-12; ///< of a column over the largest
constexpr double kEnough = 0.1;       ///< of tol: a residual at which the ridge may stay
constexpr double kNegligible = 1e-15; ///< ridge / G
constexpr index kCgSteps = 2;
constexpr double kSharpen = 0.8;    ///< factor of delta in a sweep
constexpr double kStep = 0.5;       ///< of scaled gradient descent, over the sampling rate
constexpr double kShortest = 1e-12; ///< step at which it gives up
/// Squared relative residual below which differences of sums say too little of it.
constexpr double kMeasured = 1e-10;
/// Norm of a column over the largest below which its direction is taken for dead.
constexpr double kDead = 1e-150;

constexpr index kFactorRows = 1 << 10;

double squared_norm(const Factor &X, index columns) {
  double total = 0;
  for (index i = 0; i < X.rows; ++i) {
    double in_row = 0;
    for (index a = 0; a < columns; ++a)
      in_row += X.row(i)[a] * X.row(i)[a];
    total += in_row;
  }
  return total;
}

/// X - Y
Factor difference(const Factor &X, const Factor &Y) {
  Factor out(X.rows, X.cols);
  for_spans(0, X.rows, kFactorRows, [&](index first, index last) {
    for (index t = first * X.ld; t < last * X.ld; ++t)
      out.row(0)[t] = X.row(0)[t] - Y.row(0)[t];
  });
  return out;
}

/// ||D F^T||_F
double product_norm(const Factor &D, const Factor &F) {
  const auto GD = Device::gram(D), GF = Device::gram(F);
  double total = 0;
  for (std::size_t t = 0; t < GD.data.size(); ++t)
    total += GD.data[t] * GF.data[t];
  return std::sqrt(std::max(total, 0.0));
}

/// What the other factor's rows are regressed on, and what to subtract from the values.
class Design {
public:
  Design(const Fit &fit, const Factor &fixed) : fixed_(&fixed) {
    if (!fit.bias)
      return;
    own_ = Device::copy(fixed);
    offsets_.resize(at(fixed.rows));
    for (index j = 0; j < fixed.rows; ++j) {
      offsets_[at(j)] = fixed.row(j)[fit.k] + fit.mean;
      own_.row(j)[fit.k] = 1.0;
    }
    fixed_ = &own_;
  }
  Design(const Design &) = delete;
  Design &operator=(const Design &) = delete;

  const Factor &F() const { return *fixed_; }
  Regressors regressors() const { return {*fixed_, offsets_.empty() ? nullptr : offsets_.data()}; }
  /// F diag(1 / d) from here on.
  void divide_columns(const Numbers &d) {
    if (fixed_ != &own_)
      own_ = Device::copy(*fixed_);
    fixed_ = &own_;
    Numbers inverse(d.size());
    for (std::size_t a = 0; a < d.size(); ++a)
      inverse[a] = 1.0 / d[a];
    scale_columns(own_, inverse);
  }

private:
  const Factor *fixed_;
  Factor own_;
  Numbers offsets_;
};

/// The ridge of a sweep: reg and what goes beyond it, less for large singular values.
///
/// A direction of singular value s gets reg + beyond eps / (s + eps): with falling eps the large
/// ones are left to the data and the small ones pressed to zero, as by reweighted least squares for
/// a sum of log(s + eps) (Mohan, Fazel, J. Mach. Learn. Res. 13, 2012).
struct Ridge {
  double reg, beyond, eps;

  Numbers of(const Numbers &s) const {
    const double more = std::max(beyond - reg, 0.0);
    Numbers out(s.size(), reg);
    if (more > 0 && eps > 0)
      for (std::size_t a = 0; a < s.size(); ++a)
        out[a] += more / (1.0 + s[a] / eps);
    return out;
  }
};

/// The sweeps over a fit.
class Sweeps {
public:
  explicit Sweeps(Fit &fit) : fit_(fit) {}

  /// U diag(s)^(1/2), V diag(s)^(1/2) of the product's decomposition, to rounding of s; s. Of
  /// nonnegative factors, which stay as they are, the norms of the k terms.
  Numbers rebalance(Factor &fixed, Factor &moving) {
    const index k = fit_.k;
    if (fit_.solver == "nonnegative") {
      Numbers norms(at(k));
      const auto GU = Device::gram(fit_.U), GV = Device::gram(fit_.V);
      for (index a = 0; a < k; ++a)
        norms[at(a)] = std::sqrt(std::max(GU(a, a), 0.0) * std::max(GV(a, a), 0.0));
      return norms;
    }
    if (diagonal_.empty()) { // the first time: both factors are general
      const Numbers s = balance(fit_.U, fit_.V, k);
      remember(s);
      return s;
    }
    // `moving` has a diagonal Gram matrix: it was the fixed factor of the last half sweep.
    const Numbers &d = diagonal_;
    auto C = leading(Device::gram(fixed));
    for (index j = 0; j < k; ++j)
      for (index i = 0; i < k; ++i)
        C(i, j) *= d[at(i)] * d[at(j)];
    Numbers squares;
    Small<double> L;
    small::eigh(C, squares, L);
    Numbers s(at(k));
    for (index a = 0; a < k; ++a)
      s[at(a)] = std::sqrt(std::max(squares[at(a)], 0.0));
    const double least = std::max(kEps * s.front(), kDead);
    auto to_moving = Small<double>::identity(moving.cols), to_fixed = to_moving;
    for (index j = 0; j < k; ++j) {
      const double root = std::sqrt(std::max(s[at(j)], least));
      for (index i = 0; i < k; ++i) {
        to_moving(i, j) = L(i, j) * root / d[at(i)];
        to_fixed(i, j) = d[at(i)] * L(i, j) / root;
      }
    }
    Device::multiply_right(moving, to_moving);
    Device::multiply_right(fixed, to_fixed);
    remember(s);
    return s;
  }

  /// V, then U; the change of the matrix relative to its norm. With delta > 0 weights w / max(|r|,
  /// delta), renewed before each half, in place of w.
  double sweep(const Ridge &ridge, double delta) {
    double change = half(fit_.M.cols(), fit_.U, fit_.V, ridge, delta);
    change += half(fit_.M.rows(), fit_.V, fit_.U, ridge, delta);
    return change / norm_of_matrix();
  }

  /// The Frobenius norm of a whole matrix of entries like the observed ones.
  double norm_of_matrix() const {
    return std::sqrt(fit_.norm2 / fit_.weight * static_cast<double>(fit_.U.rows) *
                     static_cast<double>(fit_.V.rows));
  }
  double median_residual() const {
    const Design design(fit_, fit_.V);
    return median(magnitudes(fit_.M.rows().residuals(design.regressors(), fit_.U)));
  }

private:
  Small<double> leading(const Small<double> &G) const {
    Small<double> out(fit_.k, fit_.k);
    for (index j = 0; j < fit_.k; ++j)
      std::copy(G.col(j), G.col(j) + fit_.k, out.col(j));
    return out;
  }

  /// The norms of the columns of both factors.
  void remember(const Numbers &s) {
    diagonal_.resize(s.size());
    for (std::size_t a = 0; a < s.size(); ++a)
      diagonal_[a] = std::sqrt(std::max({s[a], kEps * s.front(), kDead}));
  }

  double half(const ObservedRows &side, Factor &fixed, Factor &moving, const Ridge &ridge,
              double delta) {
    Numbers lam = ridge.of(rebalance(fixed, moving));
    if (fit_.bias)
      lam.push_back(*std::min_element(lam.begin(), lam.end()));
    if (!(delta > 0))
      return regress(side, fixed, moving, lam);
    const auto weighted = side.reweighted(Design(fit_, fixed).regressors(), moving, delta);
    return regress(*weighted, fixed, moving, lam);
  }

  /// Regresses the moving factor on the fixed one; the Frobenius norm of the change. lam: a ridge
  /// for each column; columns are scaled to have a single one.
  double regress(const ObservedRows &side, const Factor &fixed, Factor &moving,
                 const Numbers &lam) {
    Design design(fit_, fixed);
    const double largest = *std::max_element(lam.begin(), lam.end());
    const bool scaled = *std::min_element(lam.begin(), lam.end()) < largest;
    Numbers scale(lam.size(), 1.0);
    if (scaled) {
      for (std::size_t a = 0; a < lam.size(); ++a)
        scale[a] = std::sqrt(std::max(lam[a] / largest, kLeastRidge));
      design.divide_columns(scale);
      scale_columns(moving, scale);
    }
    const Factor before = Device::copy(moving);
    const Regressors on = design.regressors();
    if (fit_.solver == "nonnegative") {
      side.nonnegative(on, largest, moving);
      fit_.squares = 0; // to be measured
    } else if (fit_.solver == "exact") {
      fit_.squares = side.exact(on, largest, moving);
    } else {
      fit_.squares = side.cg(on, largest, kCgSteps, moving);
    }
    const double change = product_norm(difference(moving, before), design.F());
    if (scaled) {
      for (double &d : scale)
        d = 1.0 / d;
      scale_columns(moving, scale);
    }
    return change;
  }

  Fit &fit_;
  Numbers diagonal_;
};

/// G: the mean trace of a row's Gram matrix, for balanced factors.
double gram_trace(const Fit &fit) {
  const double sampled =
      fit.weight / (static_cast<double>(fit.U.rows) * static_cast<double>(fit.V.rows));
  return sampled * std::sqrt(squared_norm(fit.U, fit.k) * squared_norm(fit.V, fit.k));
}

/// The factor by which the ridge may fall in a sweep: by observations per degree of freedom.
double slowest_decay(const Fit &fit) {
  if (fit.random)
    return kSlowestRandom;
  const double freedom =
      static_cast<double>(fit.k) * static_cast<double>(fit.U.rows + fit.V.rows - fit.k);
  return std::clamp(kScarce * freedom / static_cast<double>(fit.M.nnz), kFastest, kSlowest);
}

/// The ridge 0.1 G rel^2 for squared residuals, as far as it may fall in a sweep.
class Continuation {
public:
  Continuation(const Fit &fit, double reg, double relative, double enough)
      : reg_(reg), gram_trace_(gram_trace(fit)), enough_(enough), slowest_(slowest_decay(fit)),
        last_(std::min(relative, 1.0)), lam_(kContinuation * gram_trace_ * last_ * last_) {}

  /// Whether only reg is left.
  bool down() const { return lam_ <= std::max(reg_, kNegligible * gram_trace_); }
  Ridge ridge() const {
    return {reg_, down() ? 0.0 : lam_, std::numeric_limits<double>::infinity()};
  }
  void update(double relative) {
    if (relative <= enough_) // directions without data, if any, are better left as they are
      return;
    double goal = kContinuation * gram_trace_ * relative * relative;
    if (relative > kStalled * last_)
      goal = std::min(goal, kStalledDecay * lam_);
    last_ = relative;
    lam_ = std::max(std::min(goal, lam_), slowest_ * lam_);
  }

private:
  double reg_, gram_trace_, enough_, slowest_, last_, lam_;
};

/// X <- X - reg Y
void subtract_scaled(Factor &X, double reg, const Factor &Y) {
  for_spans(0, X.rows, kFactorRows, [&](index first, index last) {
    for (index t = first * X.ld; t < last * X.ld; ++t)
      X.row(0)[t] -= reg * Y.row(0)[t];
  });
}

/// X + step Y
Factor moved(const Factor &X, double step, const Factor &Y) {
  Factor out = Device::copy(X);
  subtract_scaled(out, -step, Y);
  return out;
}

/// B <- B (F^T F + shift I)^-1 factor, on the range of F.
void solve_gram(const Factor &F, double shift, double factor, Factor &B) {
  Numbers s;
  Small<double> Q;
  small::eigh(Device::gram(F), s, Q);
  const index k = Q.rows;
  const double least =
      static_cast<double>(k) * kEps * std::max(s.empty() ? 0.0 : s.front() + shift, 0.0);
  Small<double> scaled = Q;
  for (index j = 0; j < k; ++j) {
    const double value = s[at(j)] + shift;
    for (index i = 0; i < k; ++i)
      scaled(i, j) *= value > least ? factor / value : 0.0;
  }
  Device::multiply_right(B, small::multiply(scaled, small::adjoint(Q)));
}

} // namespace

void scale_columns(Factor &X, const Numbers &d) {
  for_spans(0, X.rows, kFactorRows, [&](index first, index last) {
    for (index i = first; i < last; ++i)
      for (index a = 0; a < X.cols; ++a)
        X.row(i)[a] *= d[at(a)];
  });
}

BalancedFactors balanced(const Factor &U, const Factor &V) {
  Orthonormaliser<Device> orth(0);
  BalancedFactors out{Device::copy(U), Device::copy(V), {}};
  const auto Ru = orth.qr(out.left), Rv = orth.qr(out.right);
  Small<double> left, right;
  small::svd(small::multiply(Ru, small::adjoint(Rv)), left, out.s, right);
  Device::multiply_right(out.left, left);
  Device::multiply_right(out.right, right);
  const auto peaks = Device::peaks(out.left);
  for (index a = 0; a < U.cols; ++a) {
    if (!(peaks[at(a)] < 0))
      continue;
    for (Factor *X : {&out.left, &out.right})
      for (index i = 0; i < X->rows; ++i)
        X->row(i)[a] = -X->row(i)[a];
  }
  return out;
}

Factor with_columns(const Factor &X, index columns) {
  Factor out(X.rows, columns);
  out.zero();
  for (index i = 0; i < X.rows; ++i)
    std::copy(X.row(i), X.row(i) + std::min(columns, X.cols), out.row(i));
  return out;
}

std::vector<double> balance(Factor &U, Factor &V, index k) {
  const BalancedFactors f = balanced(with_columns(U, k), with_columns(V, k));
  for (index a = 0; a < k; ++a) {
    const double root = std::sqrt(f.s[at(a)]);
    for (index i = 0; i < U.rows; ++i)
      U.row(i)[a] = f.left.row(i)[a] * root;
    for (index j = 0; j < V.rows; ++j)
      V.row(j)[a] = f.right.row(j)[a] * root;
  }
  return f.s;
}

void Fit::begin() {
  const EntrySums sums = M.sums(mean);
  weight = sums.weight;
  norm2 = sums.squares;
  if (norm2 == 0)
    norm2 = 1.0; // all zero: fitted by zero
}

double Fit::relative_residual() const {
  const Design design(*this, V);
  return std::sqrt(M.rows().residual2(design.regressors(), U) / norm2);
}

double Fit::left_over() const {
  return squares > kMeasured * norm2 ? std::sqrt(squares / norm2) : relative_residual();
}

void Fit::note(double relative) {
  const double rmse = relative * std::sqrt(norm2 / weight);
  history.push_back(rmse);
  CancelScope::poll();
  if (monitor && monitor(static_cast<index>(history.size()), rmse))
    throw Stopped();
}

bool alternate(Fit &fit, double reg, index n_iter, double tol) {
  Sweeps sweeps(fit);
  Continuation continuation(fit, reg, fit.relative_residual(), kEnough * tol);
  for (index i = 0; i < n_iter; ++i) {
    const double change = sweeps.sweep(continuation.ridge(), 0.0);
    const double relative = fit.left_over();
    fit.note(relative);
    if (change <= tol && (continuation.down() || relative <= tol))
      return true;
    continuation.update(relative);
  }
  return false;
}

/// The ridge of small singular values is twice the spectral norm that random signs at the observed
/// entries have: outliers cannot hold a direction against it.
bool alternate_robust(Fit &fit, double reg, index n_iter, double tol) {
  Sweeps sweeps(fit);
  Numbers sizes = fit.M.values();
  for (double &y : sizes)
    y = std::fabs(y - fit.mean);
  double size = median(sizes);
  if (size == 0)
    size = *std::max_element(sizes.begin(), sizes.end());
  if (size == 0)
    size = 1.0;
  sizes = Numbers();
  double relative = sweeps.median_residual() / size;
  double delta = std::max(kOutlier * relative, tol) * size;
  const double beyond =
      kOverSigns * std::sqrt(fit.weight / static_cast<double>(std::min(fit.U.rows, fit.V.rows)));
  const Numbers s = sweeps.rebalance(fit.U, fit.V);
  double eps = kFirstEps * *std::max_element(s.begin(), s.end());
  for (index i = 0; i < n_iter; ++i) {
    const double change = sweeps.sweep(Ridge{reg, beyond, eps}, delta);
    relative = sweeps.median_residual() / size;
    fit.note(fit.relative_residual());
    const double least = std::max(tol, kSharp * relative) * size;
    if (change <= tol && (delta <= least || relative <= tol))
      return true;
    delta = std::max(kSharpen * delta, least);
    eps *= kSharpen;
  }
  return false;
}

bool descend_scaled(Fit &fit, double reg, index n_iter, double tol) {
  const double rate =
      fit.weight / (static_cast<double>(fit.U.rows) * static_cast<double>(fit.V.rows));
  const auto objective = [&] {
    const double loss = fit.M.rows().residual2({fit.V, nullptr}, fit.U);
    return 0.5 * loss + 0.5 * reg * (squared_norm(fit.U, fit.k) + squared_norm(fit.V, fit.k));
  };
  const Sweeps sweeps(fit);
  double step = kStep, best = objective();
  for (index i = 0; i < n_iter; ++i) {
    Factor to_U = fit.M.rows().gradient({fit.V, nullptr}, fit.U);
    Factor to_V = fit.M.cols().gradient({fit.U, nullptr}, fit.V);
    subtract_scaled(to_U, reg, fit.U);
    subtract_scaled(to_V, reg, fit.V);
    solve_gram(fit.V, reg / rate, 1.0 / rate, to_U);
    solve_gram(fit.U, reg / rate, 1.0 / rate, to_V);
    Factor U = std::move(fit.U), V = std::move(fit.V);
    double value;
    while (true) {
      fit.U = moved(U, step, to_U);
      fit.V = moved(V, step, to_V);
      value = objective();
      if (value <= best)
        break;
      step *= 0.5;
      if (step < kShortest) {
        fit.U = std::move(U);
        fit.V = std::move(V);
        return fit.relative_residual() <= tol;
      }
    }
    best = value;
    fit.note(fit.relative_residual());
    const double change =
        step * (product_norm(to_U, V) + product_norm(to_V, U)) / sweeps.norm_of_matrix();
    if (change <= tol * step)
      return true;
  }
  return false;
}

} // namespace lowla
