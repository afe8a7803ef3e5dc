// Passes over the plan of a transport problem in main memory, and over rows of exponents (see
// sinkhorn.hpp). Rows of C are read where they lie if they are contiguous; those of points, and of
// other arrays, are made one at a time.
#include "lowla/sinkhorn.hpp"

#include "lowla/core/clones.hpp"
#include "lowla/core/simd_transport.hpp"
#include "lowla/core/threads.hpp"

#include "host_rows.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

namespace lowla {

using rows::scratch;
using threads::parallel_for;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr index kTile = index(1) << 17; ///< entries of the smallest chunk
constexpr index kChunks = 64;
constexpr index kRowsTogether = 4;
/// Exponents below it count as -inf: exponentials would be nearly denormal, and slow.
constexpr double kNegligible = -600;
/// The same for results that are not multiplied any more.
constexpr double kLeast = -700;
/// Row sums within 1 / this .. this are taken as they are.
constexpr double kSafe = 1e100;

enum Slot { kRowSlot, kWorkSlot };

LOWLA_CLONES void add_squares(const double *y, double x, index n, double *out) {
  for (index j = 0; j < n; ++j)
    out[j] += (x - y[j]) * (x - y[j]);
}
LOWLA_CLONES void add_magnitudes(const double *y, double x, index n, double *out) {
  for (index j = 0; j < n; ++j)
    out[j] += std::abs(x - y[j]);
}
LOWLA_CLONES void take_roots(index n, double *out) {
  for (index j = 0; j < n; ++j)
    out[j] = std::sqrt(out[j]);
}
/// Parts of the rows of an m x n plan, whatever the number of threads.
index chunks_of(index m, index n) {
  return std::min({kChunks, std::max<index>(m, 1), std::max<index>(1, m * n / kTile)});
}

// --- costs: where a row comes from ---

/// An array; perhaps some of its rows and columns.
template <class S> struct ArrayRows {
  using Scalar = S;
  MatrixView<S> C;
  std::optional<Places> rows, columns;
  index m, n;

  explicit ArrayRows(MatrixView<S> view) : C(view), m(view.m), n(view.n) {}

  ArrayRows only(const Places &r, const Places &c) const {
    ArrayRows out = *this;
    out.rows = chosen(rows, r);
    out.columns = chosen(columns, c);
    out.m = static_cast<index>(r.size());
    out.n = static_cast<index>(c.size());
    return out;
  }
  const S *row(index i, S *work) const {
    const S *start = C.data + (rows ? (*rows)[at(i)] : i) * C.rs;
    if (!columns && (C.cs == 1 || n <= 1))
      return start;
    for (index j = 0; j < n; ++j)
      work[j] = start[(columns ? (*columns)[at(j)] : j) * C.cs];
    return work;
  }

private:
  static Places chosen(const std::optional<Places> &before, const Places &which) {
    if (!before)
      return which;
    Places out;
    for (const index i : which)
      out.push_back((*before)[at(i)]);
    return out;
  }
};

/// Distances of points.
struct PointRows {
  using Scalar = double;
  Vector X, YT; ///< (m, d), (d, n)
  index m, n, d;
  Metric metric;

  PointRows(const double *points, index rows, const double *others, index columns, index dimension,
            Metric kind)
      : X(points, points + rows * dimension), YT(at(columns * dimension)), m(rows), n(columns),
        d(dimension), metric(kind) {
    for (index j = 0; j < n; ++j)
      for (index k = 0; k < d; ++k)
        YT[at(k * n + j)] = others[j * d + k];
  }

  PointRows only(const Places &r, const Places &c) const {
    Vector points, others;
    for (const index i : r)
      points.insert(points.end(), X.begin() + i * d, X.begin() + (i + 1) * d);
    for (const index j : c)
      for (index k = 0; k < d; ++k)
        others.push_back(YT[at(k * n + j)]);
    return {
        points.data(), static_cast<index>(r.size()), others.data(), static_cast<index>(c.size()), d,
        metric};
  }
  const double *row(index i, double *work) const {
    std::fill(work, work + n, 0.0);
    for (index k = 0; k < d; ++k)
      (metric == Metric::kCityblock ? add_magnitudes : add_squares)(YT.data() + k * n,
                                                                    X[at(i * d + k)], n, work);
    if (metric == Metric::kEuclidean)
      take_roots(n, work);
    return work;
  }
};

// --- the passes ---

template <class Rows> class CostOf : public TransportCost {
public:
  using S = typename Rows::Scalar;

  explicit CostOf(Rows source) : rows_(std::move(source)) {
    m = rows_.m;
    n = rows_.n;
  }

  std::unique_ptr<TransportCost> only(const Places &r, const Places &c) const override {
    return std::make_unique<CostOf>(rows_.only(r, c));
  }

  CostExtent extent() const override {
    if constexpr (std::is_same_v<Rows, PointRows>)
      return extent_of_points();
    else
      return extent_of_entries();
  }

  FittedRows fit(const Vector &a, const Vector &log_a, const Vector &f, const Vector &g,
                 double eps) const override {
    FittedRows out{Vector(at(m)), Vector()};
    Buffer<double> columns = partial_columns();
    by_chunks([&](index chunk, index first, index last) {
      double *c = columns.get() + chunk * n, *work = scratch<double>(kRowsTogether * n, kWorkSlot);
      double share[kRowsTogether];
      for (index i = first; i < last; i += kRowsTogether) {
        const index count = std::min(kRowsTogether, last - i);
        for (index r = 0; r < count; ++r)
          share[r] = fit_row(i + r, a[at(i + r)], log_a[at(i + r)], f[at(i + r)], g, eps,
                             work + r * n, out.f[at(i + r)]);
        simd::rows().add_rows(work, n, count, share, n, c);
      }
    });
    out.c = summed(columns);
    return out;
  }

  std::optional<SparsePlan> sparse(const Vector &f, const Vector &g, double eps, double threshold,
                                   double most) const override {
    const double least = std::log(threshold);
    std::vector<SparsePlan> parts(at(chunks()));
    std::vector<index> counts(at(m));
    std::atomic<index> stored{0};
    const auto too_many = [&] { return static_cast<double>(stored.load()) > most; };
    by_chunks([&](index chunk, index first, index last) {
      SparsePlan &part = parts[at(chunk)];
      auto *columns = reinterpret_cast<std::int32_t *>(scratch<double>(2 * n, kWorkSlot));
      double *exponents = scratch<double>(2 * n, kWorkSlot) + n;
      for (index i = first; i < last; ++i) {
        const index kept = simd::plans<S>().above(row(i), g.data(), f[at(i)], 1 / eps, least, n,
                                                  columns, exponents);
        counts[at(i)] = kept;
        part.indices.insert(part.indices.end(), columns, columns + kept);
        part.data.insert(part.data.end(), exponents, exponents + kept);
        stored += kept;
        if (too_many())
          return;
      }
      simd::rows().exponentiate(part.data.data(), static_cast<index>(part.data.size()));
    });
    if (too_many())
      return std::nullopt;
    return joined(parts, counts);
  }

  PlanSums sums(const Vector &f, const Vector &g, double reg) const override {
    PlanSums out{Vector(at(m)), Vector(), 0, 0};
    Buffer<double> columns = partial_columns();
    Vector linear(at(chunks()), 0.0);
    by_chunks([&](index chunk, index first, index last) {
      double *c = columns.get() + chunk * n, *work = scratch<double>(n, kWorkSlot);
      for (index i = first; i < last; ++i) {
        const S *C = row(i);
        out.rows[at(i)] =
            simd::plans<S>().exponentials(C, g.data(), f[at(i)], 1 / reg, kLeast, n, work);
        rows::add_parts(c, work, 1, n, n);
        linear[at(chunk)] += simd::plans<S>().dot(work, C, n);
      }
    });
    out.columns = summed(columns);
    for (const double sum : out.rows)
      out.mass += sum;
    for (const double part : linear)
      out.linear += part;
    return out;
  }

  Vector log_column_sums(const Vector &f, const Vector &g, double eps) const override {
    Vector top(at(n), -kInf), total(at(n), 0.0);
    for (index i = 0; i < m; ++i) {
      const S *C = row(i);
      for (index j = 0; j < n; ++j) {
        const double x = (f[at(i)] + g[at(j)] - static_cast<double>(C[j])) / eps;
        if (!(x > -kInf))
          continue;
        if (x > top[at(j)]) {
          total[at(j)] = total[at(j)] * std::exp(top[at(j)] - x) + 1;
          top[at(j)] = x;
        } else {
          total[at(j)] += std::exp(x - top[at(j)]);
        }
      }
    }
    for (index j = 0; j < n; ++j)
      top[at(j)] = total[at(j)] > 0 ? top[at(j)] + std::log(total[at(j)]) : -kInf;
    return top;
  }

  void plan(const Vector &f, const Vector &g, double reg, float *out) const override {
    plan_into(f, g, reg, out);
  }
  void plan(const Vector &f, const Vector &g, double reg, double *out) const override {
    plan_into(f, g, reg, out);
  }

private:
  index chunks() const { return chunks_of(m, n); }
  /// f(chunk, first row, last row) of the partition.
  template <class F> void by_chunks(F &&f) const {
    const index count = chunks();
    parallel_for(count, [&](index chunk) { f(chunk, m * chunk / count, m * (chunk + 1) / count); });
  }
  const S *row(index i) const { return rows_.row(i, scratch<S>(std::max<index>(1, n), kRowSlot)); }

  Buffer<double> partial_columns() const {
    Buffer<double> out(chunks() * n);
    std::fill(out.get(), out.get() + chunks() * n, 0.0);
    return out;
  }
  Vector summed(const Buffer<double> &columns) const {
    Vector out(columns.get(), columns.get() + n);
    rows::add_parts(out.data(), columns.get() + n, chunks() - 1, n, n);
    return out;
  }

  /// Fits f_i; the exponentials of the row and what they are to be multiplied by. The guess of f is
  /// the shift of the exponents: near the solution every row sum is about 1.
  double fit_row(index i, double a, double log_a, double guess, const Vector &g, double eps,
                 double *work, double &fitted) const {
    const S *C = row(i);
    const auto &kernels = simd::plans<S>();
    double f = guess - eps * log_a;
    double total = kernels.exponentials(C, g.data(), f, 1 / eps, kNegligible, n, work);
    if (!(total > 1 / kSafe && total < kSafe)) {
      f -= kernels.largest(C, g.data(), f, n);
      total = kernels.exponentials(C, g.data(), f, 1 / eps, kNegligible, n, work);
    }
    fitted = f + eps * (log_a - std::log(total));
    return a / total;
  }

  SparsePlan joined(const std::vector<SparsePlan> &parts, const std::vector<index> &counts) const {
    SparsePlan out;
    out.indptr.assign(at(m + 1), 0);
    for (index i = 0; i < m; ++i)
      out.indptr[at(i + 1)] = out.indptr[at(i)] + counts[at(i)];
    out.indices.reserve(at(out.indptr.back()));
    out.data.reserve(at(out.indptr.back()));
    for (const SparsePlan &part : parts) {
      out.indices.insert(out.indices.end(), part.indices.begin(), part.indices.end());
      out.data.insert(out.data.end(), part.data.begin(), part.data.end());
    }
    return out;
  }

  template <class R> void plan_into(const Vector &f, const Vector &g, double reg, R *out) const {
    by_chunks([&](index, index first, index last) {
      for (index i = first; i < last; ++i) {
        const S *C = row(i);
        for (index j = 0; j < n; ++j)
          out[i * n + j] = static_cast<R>(
              std::exp((f[at(i)] + g[at(j)] - static_cast<double>(C[j])) * (1 / reg)));
      }
    });
  }

  CostExtent extent_of_entries() const {
    std::vector<CostExtent> parts(at(chunks()));
    std::vector<char> empty_rows(at(m), 1);
    by_chunks([&](index chunk, index first, index last) {
      CostExtent &part = parts[at(chunk)];
      part.empty_columns.assign(at(n), 1);
      for (index i = first; i < last; ++i) {
        const S *C = row(i);
        for (index j = 0; j < n; ++j) {
          const auto x = static_cast<double>(C[j]);
          if (!std::isfinite(x)) {
            part.forbidden = true;
            part.invalid = part.invalid || !(x > 0);
            continue;
          }
          empty_rows[at(i)] = part.empty_columns[at(j)] = 0;
          part.least = std::min(part.least, x);
          part.largest = std::max(part.largest, x);
        }
      }
    });
    CostExtent out;
    out.empty_rows = std::move(empty_rows);
    out.empty_columns.assign(at(n), 1);
    for (const CostExtent &part : parts) {
      out.least = std::min(out.least, part.least);
      out.largest = std::max(out.largest, part.largest);
      out.forbidden = out.forbidden || part.forbidden;
      out.invalid = out.invalid || part.invalid;
      for (std::size_t j = 0; j < out.empty_columns.size(); ++j)
        out.empty_columns[j] = out.empty_columns[j] && part.empty_columns[j];
    }
    return out;
  }

  /// The diagonal of the box around the points bounds the largest cost.
  CostExtent extent_of_points() const {
    CostExtent out;
    if constexpr (std::is_same_v<Rows, PointRows>) {
      const index d = rows_.d;
      Vector low(at(d), kInf), high(at(d), -kInf);
      const auto see = [&](double x, index k) {
        out.invalid = out.invalid || !std::isfinite(x);
        low[at(k)] = std::min(low[at(k)], x);
        high[at(k)] = std::max(high[at(k)], x);
      };
      for (index i = 0; i < m * d; ++i)
        see(rows_.X[at(i)], i % d);
      for (index i = 0; i < n * d; ++i)
        see(rows_.YT[at(i)], i / n);
      double farthest = 0;
      PointRows(low.data(), 1, high.data(), 1, d, rows_.metric).row(0, &farthest);
      out.least = 0;
      out.largest = farthest;
      out.empty_rows.assign(at(m), 0);
      out.empty_columns.assign(at(n), 0);
    }
    return out;
  }

  Rows rows_;
};

} // namespace

template <class S> std::unique_ptr<TransportCost> array_cost(MatrixView<S> C) {
  return std::make_unique<CostOf<ArrayRows<S>>>(ArrayRows<S>(C));
}
template std::unique_ptr<TransportCost> array_cost(MatrixView<float>);
template std::unique_ptr<TransportCost> array_cost(MatrixView<double>);

std::unique_ptr<TransportCost> points_cost(const double *X, index m, const double *Y, index n,
                                           index d, Metric metric) {
  return std::make_unique<CostOf<PointRows>>(PointRows(X, m, Y, n, d, metric));
}

// --- gradients with respect to points ---

namespace {

/// by_x_k and by_y_k (n) of one row: weights times differences; their sum, and minus each.
LOWLA_CLONES double add_differences(const double *weight, double x, const double *y, bool signs,
                                    index n, double *by_y) {
  double total = 0;
  for (index j = 0; j < n; ++j) {
    const double difference = x - y[j];
    const double unit = difference > 0 ? 1.0 : difference < 0 ? -1.0 : 0.0;
    const double change = weight[j] * (signs ? unit : difference);
    total += change;
    by_y[j] -= change;
  }
  return total;
}

} // namespace

void transport_gradient(const double *X, index m, const double *Y, index n, index d, Metric metric,
                        const Vector &f, const Vector &g, double reg, double *by_x, double *by_y) {
  const PointRows points(X, m, Y, n, d, metric);
  const index count = chunks_of(m, n);
  Buffer<double> parts(count * d * n);
  std::fill(parts.get(), parts.get() + count * d * n, 0.0);
  parallel_for(count, [&](index chunk) {
    double *work = scratch<double>(n, kWorkSlot), *cost = scratch<double>(n, kRowSlot);
    for (index i = m * chunk / count; i < m * (chunk + 1) / count; ++i) {
      points.row(i, cost);
      simd::plans<double>().exponentials(cost, g.data(), f[at(i)], 1 / reg, kLeast, n, work);
      for (index j = 0; j < n; ++j) { // the gradient of |x - y| is 0 at x = y
        if (metric == Metric::kEuclidean)
          work[j] = cost[j] > 0 ? work[j] / cost[j] : 0.0;
        else if (metric == Metric::kSquaredEuclidean)
          work[j] *= 2;
      }
      for (index k = 0; k < d; ++k)
        by_x[i * d + k] =
            add_differences(work, points.X[at(i * d + k)], points.YT.data() + k * n,
                            metric == Metric::kCityblock, n, parts.get() + (chunk * d + k) * n);
    }
  });
  rows::add_parts(parts.get(), parts.get() + d * n, count - 1, d * n, d * n);
  for (index j = 0; j < n; ++j)
    for (index k = 0; k < d; ++k)
      by_y[j * d + k] = parts.get()[k * n + j];
}

// --- log-sum-exp and softmax ---

namespace {

/// Entries of a row that are summed together, whatever the number of threads.
constexpr index kSpan = index(1) << 17;

struct Exponents {
  double top = -kInf, total = 0;

  void add(const Exponents &other) {
    if (other.total != other.total || total != total) {
      total = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    if (other.top == -kInf)
      return;
    if (other.top > top) {
      total = top == -kInf || other.top == kInf ? 0 : total * std::exp(top - other.top);
      top = other.top;
    }
    if (top == kInf)
      total = 1;
    else
      total += other.total * std::exp(other.top - top);
  }
};

template <class S>
std::vector<Exponents> sums_of_rows(const S *X, index rows, index stride, index n) {
  const index spans = std::max<index>(1, (n + kSpan - 1) / kSpan);
  std::vector<Exponents> parts(at(rows * spans));
  const index together = std::max<index>(1, kSpan / std::max<index>(1, n));
  const index tasks = (rows * spans + together - 1) / together;
  parallel_for(tasks, [&](index task) {
    for (index p = task * together; p < std::min(rows * spans, (task + 1) * together); ++p) {
      const index i = p / spans, first = p % spans * kSpan;
      Exponents &part = parts[at(p)];
      simd::exponents<S>().add(X + i * stride + first, std::min(kSpan, n - first), part.top,
                               part.total);
    }
  });
  std::vector<Exponents> out(at(rows));
  for (index i = 0; i < rows; ++i)
    for (index s = 0; s < spans; ++s)
      out[at(i)].add(parts[at(i * spans + s)]);
  return out;
}

} // namespace

template <class S> void logsumexp(const S *X, index rows, index stride, index n, S *out) {
  const std::vector<Exponents> sums = sums_of_rows(X, rows, stride, n);
  for (index i = 0; i < rows; ++i) {
    const Exponents &sum = sums[at(i)];
    out[i] = static_cast<S>(sum.total != sum.total ? sum.total : sum.top + std::log(sum.total));
    if (sum.total == 0)
      out[i] = static_cast<S>(-kInf);
  }
}

template <class S> void softmax(const S *X, index rows, index stride, index n, S *out) {
  const std::vector<Exponents> sums = sums_of_rows(X, rows, stride, n);
  const index spans = std::max<index>(1, (n + kSpan - 1) / kSpan);
  parallel_for(rows * spans, [&](index p) {
    const index i = p / spans, first = p % spans * kSpan, count = std::min(kSpan, n - first);
    const Exponents &sum = sums[at(i)];
    S *to = out + i * n + first;
    if (!(sum.total > 0) || sum.top == kInf) // as SciPy has it
      std::fill(to, to + count, std::numeric_limits<S>::quiet_NaN());
    else
      simd::exponents<S>().scaled(X + i * stride + first, count, sum.top, 1 / sum.total, to);
  });
}

template void logsumexp(const float *, index, index, index, float *);
template void logsumexp(const double *, index, index, index, double *);
template void softmax(const float *, index, index, index, float *);
template void softmax(const double *, index, index, index, double *);

} // namespace lowla
