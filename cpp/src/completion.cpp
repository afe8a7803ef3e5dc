// Low-rank completion in main memory (see completion.hpp).
#include "lowla/completion.hpp"

#include "lowla/core/error.hpp"
#include "lowla/device/host.hpp"
#include "lowla/rsvd.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lowla {

using threads::for_spans;

namespace {

using Device = Host<double>;
using Numbers = std::vector<double>;

constexpr double kClip = 8.0; ///< largest squared row norm of the start over their mean
/// Of normal numbers in the start, over its size: a row that is zero in a column would stay so.
constexpr double kStir = 1e-3;
constexpr double kLeastStart = 1e-3; ///< smallest singular value of the start over the largest
constexpr index kExactRank = 32;     ///< up to it "auto" takes the exact solver
constexpr int kSafeExponent = 200;   ///< entries and weights within 2^+- it stay as they are
constexpr index kEntries = 1 << 16;  ///< to a chunk

/// Sum of f(t) for t in 0 .. n - 1, by chunks in their order.
template <class F> double sum_over(index n, F &&f) {
  Numbers sums(at((n + kEntries - 1) / kEntries));
  for_spans(0, n, kEntries, [&](index first, index last) {
    double sum = 0;
    for (index t = first; t < last; ++t)
      sum += f(t);
    sums[at(first / kEntries)] = sum;
  });
  double total = 0;
  for (const double sum : sums)
    total += sum;
  return total;
}

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
template <class S>
Start random_start(const Observations<S> &rows, double mean, const CompletionRequest &request) {
  const index nnz = rows.nnz(), k = request.k;
  const double squares = sum_over(nnz, [&](index t) {
    const double y = static_cast<double>(rows.values[t]) - mean;
    return y * y;
  });
  const double rms = std::sqrt(squares / static_cast<double>(nnz));
  const double size = std::sqrt(rms / std::sqrt(static_cast<double>(k)));
  Start start{Factor(rows.m, k), Factor(rows.n, k)};
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

/// The leading singular vectors of the entries.
template <class I>
LowRankResult<Device> leading(const I *indptr, const I *indices, const double *values, index m,
                              index n, const CompletionRequest &request) {
  LowRankRequest low_rank;
  low_rank.k = request.k;
  low_rank.key = request.key;
  low_rank.check_finite = false;
  const auto matrix = Device::csr(CsrView<double, I>{indptr, indices, values, m, n});
  return LowRank<Device>(*matrix, low_rank).svd();
}

/// The same with the places of `rows`: one type of integers for both arrays.
template <class S>
LowRankResult<Device> leading(const Observations<S> &rows, const double *values,
                              const CompletionRequest &request) {
  const index nnz = rows.nnz();
  if (nnz <= std::numeric_limits<std::int32_t>::max()) {
    std::vector<std::int32_t> indptr(at(rows.m + 1));
    std::transform(rows.indptr, rows.indptr + rows.m + 1, indptr.begin(),
                   [](std::int64_t p) { return static_cast<std::int32_t>(p); });
    return leading(indptr.data(), rows.indices, values, rows.m, rows.n, request);
  }
  const std::vector<std::int64_t> indices(rows.indices, rows.indices + nnz);
  return leading(rows.indptr, indices.data(), values, rows.m, rows.n, request);
}

/// What the start is made of: w (y - mean), outliers clipped if robust; nothing where that is the
/// values themselves.
template <class S> Numbers start_values(const Observations<S> &rows, double mean, bool robust) {
  if (std::is_same_v<S, double> && rows.weights == nullptr && mean == 0 && !robust)
    return {};
  Numbers values(at(rows.nnz()));
  for_spans(0, rows.nnz(), kEntries, [&](index first, index last) {
    for (index t = first; t < last; ++t)
      values[at(t)] = (static_cast<double>(rows.values[t]) - mean) *
                      (rows.weights == nullptr ? 1.0 : rows.weights[t]);
  });
  const double limit = robust ? kOutlier * median(magnitudes(values)) : 0.0;
  if (limit > 0)
    for (double &x : values)
      x = std::clamp(x, -limit, limit);
  return values;
}

/// Balanced factors of the best rank-k approximation of the rescaled observations, clipped.
template <class S>
Start spectral_start(const Observations<S> &rows, double mean, const CompletionRequest &request) {
  const double total = rows.weights == nullptr
                           ? static_cast<double>(rows.nnz())
                           : sum_over(rows.nnz(), [&](index t) { return rows.weights[t]; });
  const double scale = static_cast<double>(rows.m) * static_cast<double>(rows.n) / total;
  const Numbers values = start_values(rows, mean, request.robust);
  const double *data = values.data();
  if constexpr (std::is_same_v<S, double>)
    data = values.empty() ? rows.values : data;
  const auto r = leading(rows, data, request);
  Numbers roots(r.values.size());
  for (std::size_t a = 0; a < roots.size(); ++a)
    roots[a] = std::sqrt(scale * std::max(r.values[a], kLeastStart * r.values[0]));
  Start start{clipped(Device::copy(r.left), roots), clipped(Device::copy(r.right), roots)};
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

template <class S>
Start started(const Observations<S> &rows, double mean, const CompletionRequest &request, int e,
              const Factor *U0, const Factor *V0) {
  Start start;
  if (U0 != nullptr && V0 != nullptr)
    start = {times_power(*U0, -e / 2), times_power(*V0, -e / 2)};
  else if (request.random_start)
    start = random_start(rows, mean, request);
  else
    start = spectral_start(rows, mean, request);
  for (Factor *X : {&start.U, &start.V}) {
    if (request.nonnegative)
      for (index t = 0; t < X->rows * X->ld; ++t)
        X->row(0)[t] = std::fabs(X->row(0)[t]);
    if (request.bias && X->cols == request.k)
      *X = with_columns(*X, request.k + 1);
  }
  return start;
}

template <class S> double largest_of(const S *values, index count) {
  double largest = 0;
  for (index t = 0; t < count; ++t)
    largest = std::max(largest, std::fabs(static_cast<double>(values[t])));
  return largest;
}

/// An exponent of two to divide by, other than 0 only where squares might leave the range.
template <class S> int safe_exponent(const S *values, index count, bool even) {
  const double largest = largest_of(values, count);
  if (largest == 0 ||
      (largest > std::ldexp(1.0, -kSafeExponent) && largest < std::ldexp(1.0, kSafeExponent)))
    return 0;
  int e;
  std::frexp(largest, &e);
  return even ? e + std::abs(e % 2) : e;
}

template <class X> std::vector<X> times_power(const X *values, index count, int exponent) {
  std::vector<X> out(values, values + count);
  for (X &x : out)
    x = std::ldexp(x, exponent);
  return out;
}

/// The weighted mean of the values, their median where outliers are expected.
template <class S> double centre_of(const Observations<S> &rows, bool robust) {
  const index nnz = rows.nnz();
  if (robust)
    return median(Numbers(rows.values, rows.values + nnz));
  const auto weight = [&](index t) { return rows.weights == nullptr ? 1.0 : rows.weights[t]; };
  return sum_over(nnz, [&](index t) { return weight(t) * static_cast<double>(rows.values[t]); }) /
         sum_over(nnz, weight);
}

template <class S> bool all_finite(const S *values, index count) {
  return sum_over(count, [&](index t) { return std::isfinite(values[t]) ? 0.0 : 1.0; }) == 0;
}
bool all_finite(const Factor &X) { return all_finite(X.row(0), X.rows * X.ld); }

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

index count_short(const std::int64_t *indptr, index rows, index k) {
  index count = 0;
  for (index i = 0; i < rows; ++i)
    count += indptr[i + 1] - indptr[i] < k ? 1 : 0;
  return count;
}

/// As stored in S.
template <class S> void round_to(Factor &X) {
  if constexpr (std::is_same_v<S, float>)
    for (index t = 0; t < X.rows * X.ld; ++t)
      X.row(0)[t] = static_cast<double>(static_cast<S>(X.row(0)[t]));
}

/// The factors balanced, in the units of M and rounded to S, and what is measured of them.
template <class S>
Completion finished(Fit<S> &fit, const CompletionRequest &request, int e, bool converged) {
  const index k = request.k, m = fit.U.rows, n = fit.V.rows;
  if (!all_finite(fit.U) || !all_finite(fit.V))
    return unknown(m, n, request);
  const Numbers s = request.nonnegative ? balanced(with_columns(fit.U, k), with_columns(fit.V, k)).s
                                        : balance(fit.U, fit.V, k);
  Completion out{times_power(fit.U, e / 2), times_power(fit.V, e / 2), fit.mean, {}};
  round_to<S>(out.U);
  round_to<S>(out.V);
  fit.U = times_power(out.U, -e / 2);
  fit.V = times_power(out.V, -e / 2);
  CompletionFacts &facts = out.facts;
  facts.relative_residual = fit.relative_residual();
  facts.rmse = std::ldexp(facts.relative_residual * std::sqrt(fit.norm2 / fit.weight), e);
  for (const double rmse : fit.history)
    facts.history.push_back(std::ldexp(rmse, e));
  facts.converged = converged;
  facts.solver = request.scaled_gd ? "gradient" : fit.solver;
  const double level =
      static_cast<double>(std::max(m, n)) * static_cast<double>(std::numeric_limits<S>::epsilon());
  for (const double value : s)
    facts.rank += value > s.front() * level ? 1 : 0;
  facts.rows_undetermined = count_short(fit.rows.indptr, m, k);
  facts.cols_undetermined = count_short(fit.cols.indptr, n, k);
  facts.components = components(fit.rows.indptr, fit.rows.indices, m, n);
  return out;
}

} // namespace

template <class S>
Completion complete(const Observations<S> &M, const CompletionRequest &request, const Factor *U0,
                    const Factor *V0) {
  const workspace::Scope scope; // sweeps ask for the same few sizes
  const index nnz = M.nnz();
  if (!all_finite(M.values, nnz)) {
    if (request.check_finite)
      throw ValueError("M contains NaN or Inf");
    return unknown(M.m, M.n, request);
  }
  Observations<S> rows = M;
  const int e = safe_exponent(M.values, nnz, true);
  const int f = M.weights == nullptr ? 0 : safe_exponent(M.weights, nnz, false);
  if (e != 0 && request.bias) {
    char message[120];
    std::snprintf(message, sizeof message,
                  "bias=True needs entries of M within 1e-60..1e60 in magnitude, got %g",
                  largest_of(M.values, nnz));
    throw ValueError(message);
  }
  std::vector<S> scaled;
  Numbers heavy;
  if (e != 0) {
    scaled = times_power(M.values, nnz, -e);
    rows.values = scaled.data();
  }
  if (f != 0) {
    heavy = times_power(M.weights, nnz, -f);
    rows.weights = heavy.data();
  }
  const double mean = request.bias ? centre_of(rows, request.robust) : 0.0;
  Start start = started(rows, mean, request, e, U0, V0);
  const Transposed<S> by_columns(rows); // after the start, whose memory has been given back
  std::string solver = request.solver;
  if (request.nonnegative)
    solver = "nonnegative";
  else if (solver == "auto")
    solver = request.k <= kExactRank ? "exact" : "cg";
  Fit<S> fit;
  fit.rows = rows;
  fit.cols = by_columns.view();
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
  const double tol =
      std::max(request.tol, 16.0 * static_cast<double>(std::numeric_limits<S>::epsilon()));
  bool converged = false;
  try {
    converged = request.robust      ? alternate_robust(fit, reg, request.n_iter, tol)
                : request.scaled_gd ? descend_scaled(fit, reg, request.n_iter, tol)
                                    : alternate(fit, reg, request.n_iter, tol);
  } catch (const Stopped &) {
  }
  return finished(fit, request, e, converged);
}

template Completion complete(const Observations<float> &, const CompletionRequest &, const Factor *,
                             const Factor *);
template Completion complete(const Observations<double> &, const CompletionRequest &,
                             const Factor *, const Factor *);

} // namespace lowla
