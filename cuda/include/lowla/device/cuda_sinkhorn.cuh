// Entropic optimal transport, log-sum-exp and softmax on the GPU (see sinkhorn.hpp for what is
// computed).
//
// The iteration of sinkhorn.cpp runs on the host and sees the cost through the passes of a
// TransportCost; here each pass over the m x n plan is one kernel or two, with the cost where it
// lies. What crosses are vectors, O(m + n) numbers a pass, and the kept entries of a sparsified
// plan, which the conjugate gradients of the host multiply by.
//
// The pass that fits the rows reads C once, with one exponential an entry: a block of threads takes
// a chunk of rows and keeps the exponentials of four rows at a time (of one, where four do not fit)
// in shared memory until their sums are known. Wider plans keep them in device memory. Column sums
// go by chunks, which a second kernel adds.
//
// Memory beside what is returned: (chunks, n) numbers, at most 512 MiB; points in double precision,
// by rows and by columns.
#pragma once

#include "lowla/device/cuda_sinkhorn.hpp"
#include "lowla/device/functors_mfac.hpp"
#include "lowla/device/functors_sinkhorn.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

namespace lowla {

class EmulatedRuntime;

/// Sizes that decide which way is taken. Expectations of the design, not measurements.
template <class Runtime> struct TransportSizes {
  static constexpr index kTile = index(1) << 12;    ///< entries of the smallest chunk of rows
  static constexpr index kChunks = 1024;            ///< at most
  static constexpr index kPartial = index(1) << 26; ///< numbers that all chunks may hold
  static constexpr index kParts = index(1) << 16;   ///< threads of a sum over columns
  /// Numbers of shared memory for the exponentials of rows, where `other` are used besides.
  static index row_space(index other) {
    return Runtime::shared_bytes() / static_cast<index>(sizeof(double)) - other;
  }
};
/// Little, so that small problems take the ways of large ones.
template <> struct TransportSizes<EmulatedRuntime> {
  static constexpr index kTile = 24, kChunks = 5, kPartial = index(1) << 11, kParts = 64;
  static index row_space(index) { return 128; }
};

namespace sinkhorn_detail {

inline std::size_t at(index i) { return static_cast<std::size_t>(i); }
inline index size_of(const Places &places) { return static_cast<index>(places.size()); }

/// n points of dimension d in double precision: by rows (n, d), and by columns (d, n).
template <class Runtime> struct PointArrays {
  DeviceArray<Runtime, double> rows, columns;

  explicit PointArrays(const Vectors &X) : rows(X.rows * X.cols), columns(X.rows * X.cols) {
    const index n = X.rows, d = X.cols;
    Runtime::for_each(n * d, functors::LoadVectors{X, 0, 0, d, nullptr, rows.get(), d, 1});
    Runtime::for_each(n * d, functors::LoadVectors{X, 0, 0, d, nullptr, columns.get(), 1, n});
  }
};

/// Which rows and columns of an array a cost consists of, in main memory and on the device.
template <class Runtime> struct Choice {
  Places rows, columns;
  DeviceArray<Runtime, index> device_rows, device_columns;

  Choice(Places r, Places c)
      : rows(std::move(r)), columns(std::move(c)), device_rows(to_device<Runtime>(rows)),
        device_columns(to_device<Runtime>(columns)) {}
  functors::Kept kept() const { return {device_rows.get(), device_columns.get()}; }
  /// The same of what is chosen already.
  static Places among(const Places &before, const Places &which) {
    Places out;
    for (const index i : which)
      out.push_back(before[at(i)]);
    return out;
  }
};

template <class Runtime, class Entries> class DeviceCost : public TransportCost {
public:
  /// `held` owns what the entries point to, if they are not the caller's.
  DeviceCost(Entries entries, index columns, std::shared_ptr<const void> held)
      : entries_(entries), held_(std::move(held)) {
    m = entries.m;
    n = columns;
  }

  std::unique_ptr<TransportCost> only(const Places &r, const Places &c) const override {
    Entries part = entries_;
    part.m = size_of(r);
    auto choice =
        choice_ ? std::make_shared<Choice<Runtime>>(Choice<Runtime>::among(choice_->rows, r),
                                                    Choice<Runtime>::among(choice_->columns, c))
                : std::make_shared<Choice<Runtime>>(r, c);
    part.kept = choice->kept();
    auto out = std::make_unique<DeviceCost>(part, size_of(c), held_);
    out->choice_ = std::move(choice);
    return out;
  }

  CostExtent extent() const override {
    if constexpr (std::is_same_v<Entries, functors::PointEntries>)
      return extent_of_points();
    else
      return extent_of_entries();
  }

  FittedRows fit(const Vector &a, const Vector &log_a, const Vector &f, const Vector &g,
                 double eps) const override {
    const bool four = 4 * n <= row_space<4>() || columns_lie_together();
    return four ? fit_by<4>(a, log_a, f, g, eps) : fit_by<1>(a, log_a, f, g, eps);
  }

  std::optional<SparsePlan> sparse(const Vector &f, const Vector &g, double eps, double threshold,
                                   double most) const override {
    using Above = functors::EntriesAbove<Entries>;
    const Array f_there = to_device<Runtime>(f), g_there = to_device<Runtime>(g);
    const index tiles = (n + Above::kColumns - 1) / Above::kColumns;
    const Above above{entries_, n, tiles, f_there.get(), g_there.get(), eps, std::log(threshold)};
    DeviceArray<Runtime, index> counts(m * tiles);
    Runtime::for_each_block(m * tiles, Above::kShared,
                            functors::CountAbove<Entries>{above, counts.get()});
    std::vector<index> starts = to_host<Runtime>(counts.get(), m * tiles);
    SparsePlan out;
    index stored = 0;
    for (index k = 0; k < m * tiles; ++k) {
      if (k % tiles == 0)
        out.indptr.push_back(stored);
      stored += std::exchange(starts[at(k)], stored);
    }
    out.indptr.push_back(stored);
    if (static_cast<double>(stored) > most)
      return std::nullopt;
    Runtime::to_device(counts.get(), starts.data(), starts.size() * sizeof(index));
    DeviceArray<Runtime, std::int32_t> indices(stored);
    Array data(stored);
    Runtime::for_each_block(
        m * tiles, Above::kShared,
        functors::WriteAbove<Entries>{above, counts.get(), indices.get(), data.get()});
    out.indices = to_host<Runtime>(indices.get(), stored);
    out.data = to_host<Runtime>(data.get(), stored);
    return out;
  }

  PlanSums sums(const Vector &f, const Vector &g, double reg) const override {
    using Sum = functors::SumPlan<Entries>;
    const functors::RowChunks chunks = chunks_of(n);
    const Array f_there = to_device<Runtime>(f), g_there = to_device<Runtime>(g);
    Array rows(m), linear(m), columns(chunks.count * n);
    Runtime::for_each_block(chunks.count, Sum::kShared,
                            Sum{entries_, chunks, n, f_there.get(), g_there.get(), reg, rows.get(),
                                linear.get(), columns.get()});
    PlanSums out{to_host<Runtime>(rows.get(), m), added(columns, chunks.count), 0, 0};
    for (const double sum : out.rows)
      out.mass += sum;
    for (const double sum : to_host<Runtime>(linear.get(), m))
      out.linear += sum;
    return out;
  }

  Vector log_column_sums(const Vector &f, const Vector &g, double eps) const override {
    const functors::RowChunks parts = parts_of_columns();
    const Array f_there = to_device<Runtime>(f), g_there = to_device<Runtime>(g);
    Array top(parts.count * n), total(parts.count * n), out(n);
    Runtime::for_each(parts.count * n, functors::LogColumnParts<Entries>{
                                           entries_, parts, n, f_there.get(), g_there.get(), eps,
                                           top.get(), total.get()});
    Runtime::for_each(n, functors::LogColumns{top.get(), total.get(), parts.count, n, out.get()});
    return to_host<Runtime>(out.get(), n);
  }

  void plan(const Vector &f, const Vector &g, double reg, float *out) const override {
    plan_into(f, g, reg, out);
  }
  void plan(const Vector &f, const Vector &g, double reg, double *out) const override {
    plan_into(f, g, reg, out);
  }

private:
  using Array = DeviceArray<Runtime, double>;
  using Sizes = TransportSizes<Runtime>;

  template <int R> static index row_space() {
    return Sizes::row_space(functors::FitRows<Entries, R>::kShared);
  }
  /// An array by columns: four of its rows are one stretch of memory.
  bool columns_lie_together() const {
    if constexpr (std::is_same_v<Entries, functors::PointEntries>)
      return false;
    else
      return std::abs(entries_.rs) < std::abs(entries_.cs);
  }

  /// The partition of the rows where a chunk holds so many numbers.
  functors::RowChunks chunks_of(index held) const {
    const index most = std::max<index>(1, Sizes::kPartial / std::max<index>(1, held));
    return {m, std::min({Sizes::kChunks, m, most, std::max<index>(1, m * n / Sizes::kTile)})};
  }
  functors::RowChunks parts_of_columns() const {
    return {m, std::clamp<index>(Sizes::kParts / n, 1, m)};
  }
  Vector added(const Array &parts, index count) const {
    using Fold = functors::FoldColumns;
    Array out(n);
    Runtime::for_each_block((n + Fold::kColumns - 1) / Fold::kColumns, Fold::kShared,
                            Fold{parts.get(), count, n, out.get()});
    return to_host<Runtime>(out.get(), n);
  }

  template <int R>
  FittedRows fit_by(const Vector &a, const Vector &log_a, const Vector &f, const Vector &g,
                    double eps) const {
    using Fit = functors::FitRows<Entries, R>;
    const bool shared = R * n <= row_space<R>();
    const functors::RowChunks chunks = chunks_of(shared ? n : (R + 1) * n);
    const Array a_there = to_device<Runtime>(a), logs = to_device<Runtime>(log_a),
                guess = to_device<Runtime>(f), g_there = to_device<Runtime>(g);
    Array work(shared ? 0 : chunks.count * R * n), fitted(m), columns(chunks.count * n);
    const index space = Fit::kShared + (shared ? R * n : 0);
    Runtime::for_each_block(chunks.count, at(space) * sizeof(double),
                            Fit{entries_, chunks, n, a_there.get(), logs.get(), guess.get(),
                                g_there.get(), eps, work.get(), fitted.get(), columns.get()});
    return {to_host<Runtime>(fitted.get(), m), added(columns, chunks.count)};
  }

  template <class R> void plan_into(const Vector &f, const Vector &g, double reg, R *out) const {
    const Array f_there = to_device<Runtime>(f), g_there = to_device<Runtime>(g);
    Runtime::for_each(m * n, functors::WritePlan<Entries, R>{entries_, n, f_there.get(),
                                                             g_there.get(), reg, out});
  }

  CostExtent extent_of_entries() const {
    using Extent = functors::ExtentOfChunk<Entries>;
    const functors::RowChunks chunks = chunks_of(1);
    Array found(3 * chunks.count);
    Runtime::for_each_block(chunks.count, Extent::kShared,
                            Extent{entries_, chunks, n, found.get()});
    CostExtent out;
    const Vector values = to_host<Runtime>(found.get(), 3 * chunks.count);
    for (index k = 0; k < chunks.count; ++k) {
      out.least = std::min(out.least, values[at(3 * k)]);
      out.largest = std::max(out.largest, values[at(3 * k + 1)]);
      out.forbidden = out.forbidden || values[at(3 * k + 2)] > 0;
      out.invalid = out.invalid || values[at(3 * k + 2)] > 1;
    }
    out.empty_rows.assign(at(m), 0);
    out.empty_columns.assign(at(n), 0);
    if (out.forbidden)
      find_empty(out);
    return out;
  }

  void find_empty(CostExtent &out) const {
    using InRow = functors::FiniteInRow<Entries>;
    const functors::RowChunks parts = parts_of_columns();
    Array rows(m), columns(parts.count * n);
    Runtime::for_each_block(m, InRow::kShared, InRow{entries_, n, rows.get()});
    Runtime::for_each(parts.count * n,
                      functors::FiniteInColumn<Entries>{entries_, parts, n, columns.get()});
    const Vector by_row = to_host<Runtime>(rows.get(), m), by_column = added(columns, parts.count);
    for (std::size_t i = 0; i < by_row.size(); ++i)
      out.empty_rows[i] = by_row[i] == 0;
    for (std::size_t j = 0; j < by_column.size(); ++j)
      out.empty_columns[j] = by_column[j] == 0;
  }

  /// The diagonal of the box around the points bounds the largest cost.
  CostExtent extent_of_points() const {
    CostExtent out;
    if constexpr (std::is_same_v<Entries, functors::PointEntries>) {
      const index d = entries_.d;
      Vector low(at(d), out.least), high(at(d), out.largest);
      const auto see = [&](const double *points, index count, index step, index axis_step,
                           const Places *which) {
        for (index i = 0; i < (which != nullptr ? size_of(*which) : count); ++i)
          for (index k = 0; k < d; ++k) {
            const index point = which != nullptr ? (*which)[at(i)] : i;
            const double x = points[point * step + k * axis_step];
            out.invalid = out.invalid || !std::isfinite(x);
            low[at(k)] = std::min(low[at(k)], x);
            high[at(k)] = std::max(high[at(k)], x);
          }
      };
      const auto *chosen = choice_.get();
      const index points = chosen != nullptr && m > 0 ? chosen->rows.back() + 1 : m;
      const Vector X = to_host<Runtime>(entries_.X, points * d);
      see(X.data(), m, d, 1, chosen != nullptr ? &chosen->rows : nullptr);
      const Vector YT = to_host<Runtime>(entries_.YT, entries_.ld * d);
      see(YT.data(), n, 1, entries_.ld, chosen != nullptr ? &chosen->columns : nullptr);
      out.least = 0;
      out.largest = functors::entry_of(
          functors::PointEntries{low.data(), high.data(), 1, d, 1, entries_.metric, {}}, 0, 0);
      out.empty_rows.assign(at(m), 0);
      out.empty_columns.assign(at(n), 0);
    }
    return out;
  }

  Entries entries_;
  std::shared_ptr<const void> held_;
  std::shared_ptr<const Choice<Runtime>> choice_;
};

template <class Runtime, class S> std::unique_ptr<TransportCost> cost_of(MatrixView<S> C) {
  using Entries = functors::ArrayEntries<S>;
  return std::make_unique<DeviceCost<Runtime, Entries>>(Entries{C.data, C.rs, C.cs, C.m, {}}, C.n,
                                                        nullptr);
}

} // namespace sinkhorn_detail

template <class Runtime>
std::unique_ptr<TransportCost> CudaSinkhorn<Runtime>::array_cost(MatrixView<float> C) {
  return sinkhorn_detail::cost_of<Runtime>(C);
}
template <class Runtime>
std::unique_ptr<TransportCost> CudaSinkhorn<Runtime>::array_cost(MatrixView<double> C) {
  return sinkhorn_detail::cost_of<Runtime>(C);
}

template <class Runtime>
std::unique_ptr<TransportCost> CudaSinkhorn<Runtime>::points_cost(const Vectors &X,
                                                                  const Vectors &Y, Metric metric) {
  using namespace sinkhorn_detail;
  using Clouds = std::pair<PointArrays<Runtime>, PointArrays<Runtime>>;
  auto held = std::make_shared<Clouds>(PointArrays<Runtime>(X), PointArrays<Runtime>(Y));
  const functors::PointEntries entries{
      held->first.rows.get(), held->second.columns.get(), Y.rows, X.cols, X.rows, metric, {}};
  return std::make_unique<DeviceCost<Runtime, functors::PointEntries>>(entries, Y.rows,
                                                                       std::move(held));
}

/// dC_ij/dy_j is that of the exchanged clouds.
template <class Runtime>
void CudaSinkhorn<Runtime>::gradient(const Vectors &X, const Vectors &Y, Metric metric,
                                     const Vector &f, const Vector &g, double reg, double *by_x,
                                     double *by_y) {
  using Gradient = functors::PointGradient;
  const sinkhorn_detail::PointArrays<Runtime> x(X), y(Y);
  const index m = X.rows, n = Y.rows, d = X.cols;
  const auto f_there = to_device<Runtime>(f), g_there = to_device<Runtime>(g);
  Runtime::for_each_block(m, Gradient::kShared,
                          Gradient{{x.rows.get(), y.columns.get(), n, d, m, metric, {}},
                                   n,
                                   f_there.get(),
                                   g_there.get(),
                                   reg,
                                   by_x});
  Runtime::for_each_block(n, Gradient::kShared,
                          Gradient{{y.rows.get(), x.columns.get(), m, d, n, metric, {}},
                                   m,
                                   g_there.get(),
                                   f_there.get(),
                                   reg,
                                   by_y});
}

// --- log-sum-exp and softmax

namespace sinkhorn_detail {

/// The sum of each line, `spans` apart.
template <class Runtime> struct SumsOfLines {
  index spans;
  DeviceArray<Runtime, functors::ExponentSum> sums;

  template <class S> explicit SumsOfLines(const Lines<S> &X) {
    constexpr index kBlocks = 1024, kMostSpans = 512, kTurns = 16;
    int lanes = kBlockThreads;
    for (; lanes > 8 && (X.across() || lanes * 4 > X.n); lanes /= 2) {
    }
    const index groups = (X.count * lanes + kBlockThreads - 1) / kBlockThreads;
    const index wanted = std::clamp<index>(kBlocks / groups, 1, kMostSpans);
    const index span = std::max<index>(kTurns * lanes, (X.n + wanted - 1) / wanted);
    spans = std::max<index>(1, (X.n + span - 1) / span);
    sums = DeviceArray<Runtime, functors::ExponentSum>(X.count * spans);
    using Sum = functors::SumLines<S>;
    Runtime::for_each_block(groups * spans, Sum::kShared,
                            Sum{X, spans, span, lanes, X.across(), sums.get()});
    if (spans > 1)
      Runtime::for_each(X.count, functors::FoldSpans{spans, sums.get()});
  }
};

} // namespace sinkhorn_detail

template <class S, class Runtime>
void CudaLogsumexp<S, Runtime>::logsumexp(const Lines<S> &X, S *out) {
  if (X.count == 0)
    return;
  const sinkhorn_detail::SumsOfLines<Runtime> found(X);
  Runtime::for_each(X.count, functors::LogSums<S>{found.sums.get(), found.spans, out});
}

template <class S, class Runtime>
void CudaLogsumexp<S, Runtime>::softmax(const Lines<S> &X, S *out) {
  if (X.count == 0)
    return;
  const sinkhorn_detail::SumsOfLines<Runtime> found(X);
  Runtime::for_each(X.count * X.n, functors::Shares<S>{X, found.sums.get(), found.spans, X.across(),
                                                       std::numeric_limits<S>::quiet_NaN(), out});
}

} // namespace lowla

#define LOWLA_INSTANTIATE_SINKHORN(RUNTIME)                                                        \
  template struct lowla::CudaSinkhorn<lowla::RUNTIME>;                                             \
  template struct lowla::CudaLogsumexp<float, lowla::RUNTIME>;                                     \
  template struct lowla::CudaLogsumexp<double, lowla::RUNTIME>;
