// Low-rank completion (see completion.hpp).
#include "lowla/completion.hpp"

#include "lowla/core/error.hpp"
#include "lowla/device/host.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lowla {

namespace {

using Device = Host<double>;
using Numbers = std::vector<double>;

constexpr double kClip = 8.0; ///< largest squared row norm of the start over their mean
/// Of normal numbers in the start, over its size: a row that is zero in a column would stay so.
constexpr double kStir = 1e-3;
constexpr double kLeastStart = 1e-3; ///< smallest singular value of the start over the largest
constexpr index kExactRank = 32;     ///< up to it "auto" takes the exact solver

/// Rows far longer than the others, shortened (the start is to be incoherent), times the roots.
Factor clipped(Factor U, const Numbers &roots) {
  Numbers norms(at(U.rows));
  double mean2 = 0;
  for (index i = 0; i < U.rows; ++i) {
    double sum = 0;
    for (index a = 0; a < U.cols; ++a)
      sum += U.row(i)[a] * U.row(i)[a];
    norms[at(i)] = std::sqrt(sum);
    mean2 += sum / static_cast<double>(U.rows);
  }
  const double limit = std::sqrt(kClip * mean2);
  for (index i = 0; i < U.rows; ++i) {
    const double shrink = norms[at(i)] > limit ? limit / norms[at(i)] : 1.0;
    for (index a = 0; a < U.cols; ++a)
      U.row(i)[a] *= shrink * roots[at(a)];
  }
  return U;
}

struct Start {
  Factor U, V;
};

/// U += size_u N and V += size_v N for one stream of normal numbers.
void add_normals(std::uint64_t key, double size_u, double size_v, Factor &U, Factor &V) {
  const index m = U.rows, n = V.rows;
  for (index block = 0; 4 * block < m + n; ++block)
    for (index a = 0; a < U.cols; ++a) {
      double four[4];
      philox::normals4(key, philox::kStreamFactors, static_cast<std::uint64_t>(block),
                       static_cast<std::uint64_t>(a), four);
      for (index r = 0; r < 4 && 4 * block + r < m + n; ++r) {
        const index i = 4 * block + r;
        if (i < m)
          U.row(i)[a] += size_u * four[r];
        else
          V.row(i - m)[a] += size_v * four[r];
      }
    }
}

/// Normal factors whose product has entries of about the observed size.
Start random_start(const ObservedMatrix &M, double mean, const CompletionRequest &request) {
  const index k = request.k;
  const double rms = std::sqrt(M.squares(mean) / static_cast<double>(M.nnz));
  const double size = std::sqrt(rms / std::sqrt(static_cast<double>(k)));
  Start start{Factor(M.m, k), Factor(M.n, k)};
  start.U.zero();
  start.V.zero();
  add_normals(request.key, size, size, start.U, start.V);
  return start;
}

/// The root mean square of the entries.
double size_of(const Factor &X) {
  double sum = 0;
  for (index t = 0; t < X.rows * X.ld; ++t)
    sum += X.row(0)[t] * X.row(0)[t];
  return std::sqrt(sum / static_cast<double>(X.rows * X.cols));
}

/// Balanced factors of the best rank-k approximation of the rescaled observations, clipped.
Start spectral_start(const ObservedMatrix &M, double mean, const CompletionRequest &request) {
  const double scale = static_cast<double>(M.m) * static_cast<double>(M.n) / M.total_weight();
  LeadingVectors r = M.leading(mean, request.robust ? kOutlier : 0.0, request.k, request.key);
  Numbers roots(r.values.size());
  for (std::size_t a = 0; a < roots.size(); ++a)
    roots[a] = std::sqrt(scale * std::max(r.values[a], kLeastStart * r.values[0]));
  Start start{clipped(std::move(r.left), roots), clipped(std::move(r.right), roots)};
  add_normals(request.key, kStir * size_of(start.U), kStir * size_of(start.V), start.U, start.V);
  return start;
}

Factor times_power(const Factor &X, int exponent) {
  Factor out = Device::copy(X);
  if (exponent != 0)
    for (index t = 0; t < out.rows * out.ld; ++t)
      out.row(0)[t] = std::ldexp(out.row(0)[t], exponent);
  return out;
}

Start started(const ObservedMatrix &M, double mean, const CompletionRequest &request, int e,
              const Factor *U0, const Factor *V0) {
  Start start;
  if (U0 != nullptr && V0 != nullptr)
    start = {times_power(*U0, -e / 2), times_power(*V0, -e / 2)};
  else if (request.random_start)
    start = random_start(M, mean, request);
  else
    start = spectral_start(M, mean, request);
  for (Factor *X : {&start.U, &start.V}) {
    if (request.nonnegative)
      for (index t = 0; t < X->rows * X->ld; ++t)
        X->row(0)[t] = std::fabs(X->row(0)[t]);
    if (request.bias && X->cols == request.k)
      *X = with_columns(*X, request.k + 1);
  }
  return start;
}

/// The weighted mean of the values, their median where outliers are expected.
double centre_of(const ObservedMatrix &M, bool robust) {
  return robust ? median(M.values()) : M.weighted_values() / M.total_weight();
}

bool all_finite(const Factor &X) {
  return std::all_of(X.row(0), X.row(0) + X.rows * X.ld, [](double x) { return std::isfinite(x); });
}

/// Factors full of NaN.
Completion unknown(index m, index n, const CompletionRequest &request) {
  const index columns = request.k + (request.bias ? 1 : 0);
  Completion out{Factor(m, columns), Factor(n, columns), 0.0, {}};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (Factor *X : {&out.U, &out.V})
    std::fill(X->row(0), X->row(0) + X->rows * X->ld, nan);
  out.mean = request.bias ? nan : 0.0;
  return out;
}

void round_to_single(Factor &X) {
  for (index t = 0; t < X.rows * X.ld; ++t)
    X.row(0)[t] = static_cast<double>(static_cast<float>(X.row(0)[t]));
}

/// The unit roundoff of the values, doubled.
double epsilon_of(const ObservedMatrix &M) {
  return M.single ? static_cast<double>(std::numeric_limits<float>::epsilon())
                  : std::numeric_limits<double>::epsilon();
}

/// The factors balanced, in the units of M and rounded as it is, and what is measured of them.
Completion finished(Fit &fit, const CompletionRequest &request, int e, bool converged) {
  const index k = request.k, m = fit.U.rows, n = fit.V.rows;
  if (!all_finite(fit.U) || !all_finite(fit.V))
    return unknown(m, n, request);
  const Numbers s = request.nonnegative ? balanced(with_columns(fit.U, k), with_columns(fit.V, k)).s
                                        : balance(fit.U, fit.V, k);
  Completion out{times_power(fit.U, e / 2), times_power(fit.V, e / 2), fit.mean, {}};
  if (fit.M.single) {
    round_to_single(out.U);
    round_to_single(out.V);
  }
  fit.U = times_power(out.U, -e / 2);
  fit.V = times_power(out.V, -e / 2);
  CompletionFacts &facts = out.facts;
  facts.relative_residual = fit.relative_residual();
  facts.rmse = std::ldexp(facts.relative_residual * std::sqrt(fit.norm2 / fit.weight), e);
  for (const double rmse : fit.history)
    facts.history.push_back(std::ldexp(rmse, e));
  facts.converged = converged;
  facts.solver = request.scaled_gd ? "gradient" : fit.solver;
  const double level = static_cast<double>(std::max(m, n)) * epsilon_of(fit.M);
  for (const double value : s)
    facts.rank += value > s.front() * level ? 1 : 0;
  facts.rows_undetermined = fit.M.rows().count_short(k);
  facts.cols_undetermined = fit.M.cols().count_short(k);
  facts.components = fit.M.components();
  return out;
}

} // namespace

Completion complete(ObservedMatrix &M, const CompletionRequest &request, const Factor *U0,
                    const Factor *V0) {
  const workspace::Scope scope; // sweeps ask for the same few sizes
  const EntryExtent extent = M.extent();
  if (!extent.finite) {
    if (request.check_finite)
      throw ValueError("M contains NaN or Inf");
    return unknown(M.m, M.n, request);
  }
  const int e = safe_exponent(extent.largest, true);
  const int f = safe_exponent(extent.largest_weight, false);
  if (e != 0 && request.bias) {
    char message[120];
    std::snprintf(message, sizeof message,
                  "bias=True needs entries of M within 1e-60..1e60 in magnitude, got %g",
                  extent.largest);
    throw ValueError(message);
  }
  if (e != 0 || f != 0)
    M.rescale(e, f);
  const double mean = request.bias ? centre_of(M, request.robust) : 0.0;
  Start start = started(M, mean, request, e, U0, V0);
  std::string solver = request.solver;
  if (request.nonnegative)
    solver = "nonnegative";
  else if (solver == "auto")
    solver = request.k <= kExactRank ? "exact" : "cg";
  Fit fit(M);
  fit.U = std::move(start.U);
  fit.V = std::move(start.V);
  fit.k = request.k;
  fit.bias = request.bias;
  fit.mean = mean;
  fit.solver = solver;
  fit.random = request.random_start;
  fit.monitor = request.monitor;
  fit.begin();
  const double reg = std::ldexp(request.reg, request.robust ? -f : -e - f);
  const double tol = std::max(request.tol, 16.0 * epsilon_of(M));
  bool converged = false;
  try {
    converged = request.robust      ? alternate_robust(fit, reg, request.n_iter, tol)
                : request.scaled_gd ? descend_scaled(fit, reg, request.n_iter, tol)
                                    : alternate(fit, reg, request.n_iter, tol);
  } catch (const Stopped &) {
  }
  return finished(fit, request, e, converged);
}

template <class S>
Completion complete(const Observations<S> &M, const CompletionRequest &request, const Factor *U0,
                    const Factor *V0) {
  return complete(*observed_matrix(M), request, U0, V0);
}
template Completion complete(const Observations<float> &, const CompletionRequest &, const Factor *,
                             const Factor *);
template Completion complete(const Observations<double> &, const CompletionRequest &,
                             const Factor *, const Factor *);

} // namespace lowla
