// Low-rank completion on the GPU (see completion.hpp for what is computed).
//
// The iteration of alternating.cpp runs on the host and sees the entries through the passes of an
// ObservedMatrix; here each pass is a kernel, a block of threads a row, with the entries where they
// lie. Those by columns are made once, by a stable merge sort on the device. The start is the
// randomised SVD of the entries on the device (rsvd.hpp).
//
// What crosses: both factors, (m + n) k numbers each way in a half sweep, and a number a row for
// sums; the singular vectors of the start; for loss l1 the residuals, whose median the host takes,
// nnz numbers a sweep; the pattern once at the end, whose components the host counts. The next step
// is to keep the factors on the device.
//
// A row of any length is one block's. Gram matrices and vectors of a row are in shared memory up to
// about k = 140 on an H100; those of higher rank are in device memory, at most kWork numbers for
// the rows of one launch.
//
// Memory: the entries by columns, 16 bytes an entry more while they are sorted; two factors and
// nnz numbers.
#pragma once

#include "lowla/device/cuda_completion.hpp"
#include "lowla/device/cuda_csr.cuh"
#include "lowla/device/cuda_host_panels.cuh"
#include "lowla/device/functors_completion.hpp"
#include "lowla/rsvd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace lowla {

class EmulatedRuntime;

/// Sizes that decide which way is taken. Expectations of the design, not measurements.
template <class Runtime> struct CompletionSizes {
  static constexpr index kWork = index(1) << 25; ///< numbers in device memory of one launch
  static index shared_bytes() { return Runtime::shared_bytes(); }
};
/// So that small ranks take both ways, and several launches.
template <> struct CompletionSizes<EmulatedRuntime> {
  static constexpr index kWork = index(1) << 15;
  static index shared_bytes() { return index(40) << 10; }
};

namespace completion_detail {

using Numbers = std::vector<double>;

/// A factor on the device, its rows as far apart as on the host.
template <class Runtime> struct DeviceFactor {
  index rows, ld;
  DeviceArray<Runtime, double> data;

  DeviceFactor(index m, index stride) : rows(m), ld(stride), data(m * stride) {}
  explicit DeviceFactor(const Factor &X) : DeviceFactor(X.rows, X.ld) {
    if (rows > 0)
      Runtime::to_device(data.get(), X.row(0), bytes());
  }
  double *get() { return data.get(); }
  void to(Factor &X) const {
    if (rows > 0)
      Runtime::to_host(X.row(0), data.get(), bytes());
  }

private:
  std::size_t bytes() const { return static_cast<std::size_t>(rows * ld) * sizeof(double); }
};

inline double sum_of(const Numbers &x) {
  double sum = 0;
  for (const double value : x)
    sum += value;
  return sum;
}

/// launch(first row, rows, where blocks keep `numbers` numbers each, bytes of shared memory), once
/// or for as many rows as device memory is spent on; `fixed` bytes are shared in any case.
template <class Runtime, class Launch>
void for_row_blocks(index rows, index numbers, std::size_t fixed, Launch &&launch) {
  using Sizes = CompletionSizes<Runtime>;
  const std::size_t bytes = fixed + static_cast<std::size_t>(numbers) * sizeof(double);
  if (static_cast<index>(bytes) <= Sizes::shared_bytes())
    return launch(0, rows, functors::BlockSpace{nullptr, numbers}, bytes);
  const index batch = std::clamp<index>(Sizes::kWork / numbers, 1, std::max<index>(1, rows));
  DeviceArray<Runtime, double> work(batch * numbers);
  for (index first = 0; first < rows; first += batch)
    launch(first, std::min(batch, rows - first), functors::BlockSpace{work.get(), numbers}, fixed);
}

template <class S, class Runtime> class DeviceRows : public ObservedRows {
public:
  using Array = DeviceArray<Runtime, double>;
  using Device = DeviceFactor<Runtime>;

  explicit DeviceRows(const StoredEntries<S> &entries) : entries_(entries) {}
  DeviceRows(const StoredEntries<S> &entries, Array weights)
      : entries_(entries), own_(std::move(weights)) {
    entries_.weights = own_.get();
  }

  double exact(const Regressors &on, double ridge, Factor &out) const override {
    const Passed passed(*this, on);
    Device u(entries_.m, out.ld);
    Array squares(entries_.m);
    regress(passed.entries, on.F.cols, std::numeric_limits<index>::max(), ridge, u, squares);
    u.to(out);
    return sum_of(to_host<Runtime>(squares.get(), entries_.m));
  }

  double cg(const Regressors &on, double ridge, index steps, Factor &out) const override {
    using Solve = functors::ConjugateRows<S>;
    const index k = on.F.cols, dual = ridge > 0 ? std::min(k - 1, regression::kDualEntries) : k - 1;
    const Passed passed(*this, on);
    Device u(out);
    Array squares(entries_.m), products(entries_.nnz);
    regress(passed.entries, dual, dual, ridge, u, squares);
    for_row_blocks<Runtime>(
        entries_.m, Solve::numbers(k, steps), Solve::kShared,
        [&](index first, index rows, const functors::BlockSpace &space, std::size_t bytes) {
          Runtime::for_each_block(rows, bytes,
                                  Solve{{passed.entries, products.get()},
                                        first,
                                        dual,
                                        steps,
                                        ridge,
                                        space,
                                        u.get(),
                                        squares.get()});
        });
    u.to(out);
    return sum_of(to_host<Runtime>(squares.get(), entries_.m));
  }

  void nonnegative(const Regressors &on, double ridge, Factor &out) const override {
    using Solve = functors::NonnegativeRows<S>;
    const Passed passed(*this, on);
    Device u(out);
    for_row_blocks<Runtime>(
        entries_.m, Solve::numbers(on.F.cols, regression::kCycles), 0,
        [&](index first, index rows, const functors::BlockSpace &space, std::size_t bytes) {
          Runtime::for_each_block(rows, bytes,
                                  Solve{passed.entries, first, regression::kCycles,
                                        regression::kDescentAccuracy, ridge, space, u.get()});
        });
    u.to(out);
  }

  double residual2(const Regressors &on, const Factor &U) const override {
    const Passed passed(*this, on);
    Device u(U);
    Array squares(entries_.m);
    using Sum = functors::SumResiduals<S>;
    Runtime::for_each_block(entries_.m, Sum::kShared, Sum{passed.entries, u.get(), squares.get()});
    return sum_of(to_host<Runtime>(squares.get(), entries_.m));
  }

  Numbers residuals(const Regressors &on, const Factor &U) const override {
    return to_host<Runtime>(residuals_there(on, U).get(), entries_.nnz);
  }

  Factor gradient(const Regressors &on, const Factor &U) const override {
    using Solve = functors::GradientOfRows<S>;
    const Passed passed(*this, on);
    Device u(U), found(U.rows, U.ld);
    Array products(entries_.nnz);
    for_row_blocks<Runtime>(
        entries_.m, functors::RowProducts<S>::parts(on.F.cols), 0,
        [&](index first, index rows, const functors::BlockSpace &space, std::size_t bytes) {
          Runtime::for_each_block(
              rows, bytes,
              Solve{{passed.entries, products.get()}, first, space, u.get(), found.get()});
        });
    Factor out(U.rows, U.cols);
    found.to(out);
    return out;
  }

  std::unique_ptr<ObservedRows> reweighted(const Regressors &on, const Factor &U,
                                           double delta) const override {
    Array weights = residuals_there(on, U);
    Runtime::for_each(entries_.nnz,
                      functors::RobustWeights{entries_.weights, delta, weights.get()});
    return std::make_unique<DeviceRows>(entries_, std::move(weights));
  }

  index count_short(index k) const override {
    const auto indptr = to_host<Runtime>(entries_.indptr, entries_.m + 1);
    index count = 0;
    for (std::size_t i = 1; i < indptr.size(); ++i)
      count += indptr[i] - indptr[i - 1] < k ? 1 : 0;
    return count;
  }

private:
  /// The entries with the regressors on the device.
  struct Passed {
    Device F;
    Array offset;
    functors::RowEntries<S> entries;

    Passed(const DeviceRows &rows, const Regressors &on) : F(on.F) {
      if (on.offset != nullptr) {
        offset = Array(on.F.rows);
        Runtime::to_device(offset.get(), on.offset,
                           static_cast<std::size_t>(on.F.rows) * sizeof(double));
      }
      const StoredEntries<S> &o = rows.entries_;
      entries = {o.indptr, o.indices, o.values, o.weights, F.get(), on.F.cols, F.ld, offset.get()};
    }
    Passed(const Passed &) = delete;
    Passed &operator=(const Passed &) = delete;
  };

  /// Rows with at most `longest` entries.
  void regress(const functors::RowEntries<S> &entries, index order, index longest, double ridge,
               Device &u, Array &squares) const {
    using Solve = functors::RegressRows<S>;
    for_row_blocks<Runtime>(
        entries_.m, Solve::numbers(order), 0,
        [&](index first, index rows, const functors::BlockSpace &space, std::size_t bytes) {
          Runtime::for_each_block(rows, bytes,
                                  Solve{entries, first, order, longest, ridge, regression::kFloor,
                                        space, u.get(), squares.get()});
        });
  }

  Array residuals_there(const Regressors &on, const Factor &U) const {
    const Passed passed(*this, on);
    Device u(U);
    Array out(entries_.nnz);
    Runtime::for_each_block(entries_.m, 0,
                            functors::WriteResiduals<S>{passed.entries, u.get(), out.get()});
    return out;
  }

  StoredEntries<S> entries_;
  Array own_;
};

/// The entries by columns.
template <class S, class Runtime> struct ByColumns {
  DeviceArray<Runtime, std::int64_t> indptr;
  DeviceArray<Runtime, std::int32_t> indices;
  DeviceArray<Runtime, S> values;
  DeviceArray<Runtime, double> weights;
  StoredEntries<S> view;

  explicit ByColumns(const StoredEntries<S> &M)
      : indptr(M.n + 1), indices(M.nnz), values(M.nnz), weights(M.weights != nullptr ? M.nnz : 0),
        view{M.n, M.m, M.nnz, indptr.get(), indices.get(), values.get(), nullptr} {
    const auto order = cuda_detail::column_order<std::int32_t, Runtime>(M.indices, M.nnz);
    Runtime::for_each(M.n + 1, functors::ColumnStarts<std::int32_t, std::int64_t>{
                                   M.indices, order.get(), M.nnz, indptr.get()});
    Runtime::for_each(M.nnz,
                      functors::ColumnEntries<S, std::int32_t, std::int64_t>{
                          M.indptr, M.values, order.get(), M.m, indices.get(), values.get()});
    if (M.weights == nullptr)
      return;
    Runtime::for_each(M.nnz, functors::Take<double>{M.weights, order.get(), weights.get()});
    view.weights = weights.get();
  }
};

template <class S, class Runtime> class DeviceMatrix : public ObservedMatrix {
public:
  using Array = DeviceArray<Runtime, double>;
  using Device = Cuda<double, Runtime>;
  using Rows = DeviceRows<S, Runtime>;

  explicit DeviceMatrix(const StoredEntries<S> &M) : entries_(M), rows_(M) {
    m = M.m;
    n = M.n;
    nnz = M.nnz;
    single = std::is_same_v<S, float>;
  }

  EntryExtent extent() const override {
    EntryExtent out;
    out.largest = largest_of(entries_.values);
    out.finite = std::isfinite(out.largest);
    if (entries_.weights != nullptr)
      out.largest_weight = largest_of(entries_.weights);
    return out;
  }
  void rescale(int e, int f) override {
    if (e != 0)
      entries_.values = scaled(entries_.values, -e, values_);
    if (f != 0)
      entries_.weights = scaled(entries_.weights, -f, weights_);
    rows_ = Rows(entries_);
  }

  double total_weight() const override {
    return entries_.weights == nullptr ? static_cast<double>(nnz)
                                       : sum(functors::EntryTerm::kWeight, 0.0);
  }
  double weighted_values() const override { return sum(functors::EntryTerm::kWeightedValue, 0.0); }
  double squares(double mean) const override { return sum(functors::EntryTerm::kSquare, mean); }
  EntrySums sums(double mean) const override {
    return {total_weight(), sum(functors::EntryTerm::kWeightedSquare, mean)};
  }
  Numbers values() const override {
    const auto stored = to_host<Runtime>(entries_.values, nnz);
    return Numbers(stored.begin(), stored.end());
  }

  LeadingVectors leading(double mean, double outlier, index k, std::uint64_t key) const override {
    Array start(nnz);
    Runtime::for_each(
        nnz, functors::StartValues<S>{entries_.values, entries_.weights, mean, start.get()});
    const double limit =
        outlier > 0 ? outlier * median(magnitudes(to_host<Runtime>(start.get(), nnz))) : 0.0;
    if (limit > 0)
      Runtime::for_each(nnz, functors::Clip{limit, start.get()});
    LowRankRequest request;
    request.k = k;
    request.key = key;
    request.check_finite = false;
    const SparseMatrix matrix(entries_, std::move(start));
    auto found = LowRank<Device>(*matrix.held, request).svd();
    return {factor_of(found.left), factor_of(found.right), std::move(found.values)};
  }
  HeldMatrix with_values(const Numbers &values) const override {
    auto matrix = std::make_shared<SparseMatrix>(entries_, to_device<Runtime>(values));
    auto panels =
        std::make_unique<cuda_detail::HostPanels<double, Runtime>>(std::move(matrix->held));
    return {std::move(matrix), std::move(panels)};
  }

  const ObservedRows &rows() const override { return rows_; }
  const ObservedRows &cols() const override {
    if (!by_columns_) {
      by_columns_.emplace(entries_);
      cols_.emplace(by_columns_->view);
    }
    return *cols_;
  }
  index components() const override {
    const auto indptr = to_host<Runtime>(entries_.indptr, m + 1);
    const auto indices = to_host<Runtime>(entries_.indices, nnz);
    return lowla::components(indptr.data(), indices.data(), m, n);
  }

private:
  template <class N> double largest_of(const N *numbers) const {
    cuda_detail::Reduction<Runtime> reduction;
    reduction.add_largest(numbers, nnz, 1, 1, nnz);
    return reduction.largest();
  }
  template <class N> const N *scaled(const N *numbers, int e, DeviceArray<Runtime, N> &own) const {
    own = DeviceArray<Runtime, N>(nnz);
    Runtime::for_each(nnz, functors::TimesPower<N>{numbers, e, own.get()});
    return own.get();
  }
  double sum(functors::EntryTerm term, double mean) const {
    using Reduce = cuda_detail::Reduction<Runtime>;
    Reduce reduction;
    const index parts = std::min(Reduce::kParts, nnz);
    Runtime::for_each(parts, functors::SumEntries<S>{entries_.values, entries_.weights, term, mean,
                                                     nnz, parts, reduction.partial()});
    return reduction.sum();
  }

  /// Values of its own in the places of the entries: one type of integers for both arrays.
  struct SparseMatrix {
    DeviceArray<Runtime, std::int32_t> indptr;
    DeviceArray<Runtime, std::int64_t> indices;
    Array values;
    std::unique_ptr<typename Device::Matrix> held;

    SparseMatrix(const StoredEntries<S> &M, Array numbers) : values(std::move(numbers)) {
      if (M.nnz <= std::numeric_limits<std::int32_t>::max()) {
        indptr = DeviceArray<Runtime, std::int32_t>(M.m + 1);
        Runtime::for_each(M.m + 1,
                          functors::Convert<std::int64_t, std::int32_t>{M.indptr, indptr.get()});
        held = Device::csr(
            CsrView<double, std::int32_t>{indptr.get(), M.indices, values.get(), M.m, M.n}, M.nnz);
        return;
      }
      indices = DeviceArray<Runtime, std::int64_t>(M.nnz);
      Runtime::for_each(M.nnz,
                        functors::Convert<std::int32_t, std::int64_t>{M.indices, indices.get()});
      held = Device::csr(
          CsrView<double, std::int64_t>{M.indptr, indices.get(), values.get(), M.m, M.n}, M.nnz);
    }
  };
  static Factor factor_of(const typename Device::Panel &X) {
    const Numbers entries = to_host<Runtime>(X.row(0), X.rows * X.ld);
    Factor out(X.rows, X.cols);
    out.zero();
    for (index i = 0; i < X.rows; ++i)
      std::copy(entries.data() + i * X.ld, entries.data() + i * X.ld + X.cols, out.row(i));
    return out;
  }

  StoredEntries<S> entries_;
  DeviceArray<Runtime, S> values_;
  Array weights_;
  Rows rows_;
  mutable std::optional<ByColumns<S, Runtime>> by_columns_;
  mutable std::optional<Rows> cols_;
};

/// Both factors of a model, widened for one product.
template <class S, class Runtime> struct WideModel {
  index width;
  DeviceArray<Runtime, double> L, R;

  explicit WideModel(const StoredModel<S> &model)
      : width(model.k + (model.row_bias != nullptr ? 2 : 0)), L(model.m * width),
        R(model.n * width) {
    Runtime::for_each(model.m * width, functors::WidenFactor<S>{model.U, model.k, model.row_bias,
                                                                model.mean, true, width, L.get()});
    Runtime::for_each(model.n * width, functors::WidenFactor<S>{model.V, model.k, model.col_bias,
                                                                0.0, false, width, R.get()});
  }
};

template <class Runtime> bool inside(const std::int64_t *indices, index count, index size) {
  using Reduce = cuda_detail::Reduction<Runtime>;
  Reduce outside;
  const index parts = std::min(Reduce::kParts, count);
  Runtime::for_each(parts,
                    functors::IndicesOutside{indices, count, size, parts, outside.partial()});
  return outside.sum() == 0;
}

} // namespace completion_detail

template <class S, class Runtime>
bool CudaCompletion<S, Runtime>::valid(const StoredEntries<S> &M) {
  using Reduce = cuda_detail::Reduction<Runtime>;
  std::int64_t ends[2];
  Runtime::to_host(&ends[0], M.indptr, sizeof(std::int64_t));
  Runtime::to_host(&ends[1], M.indptr + M.m, sizeof(std::int64_t));
  if (ends[0] != 0 || static_cast<index>(ends[1]) != M.nnz)
    return false;
  Reduce defects;
  const index parts = std::min(Reduce::kParts, std::max(M.m, M.nnz));
  Runtime::for_each(parts, functors::CsrDefects<std::int32_t, std::int64_t>{
                               M.indptr, M.indices, M.m, M.n, M.nnz, parts, defects.partial()});
  return defects.sum() == 0;
}

template <class S, class Runtime>
std::unique_ptr<ObservedMatrix> CudaCompletion<S, Runtime>::open(const StoredEntries<S> &M) {
  return std::make_unique<completion_detail::DeviceMatrix<S, Runtime>>(M);
}

template <class S, class Runtime>
double CudaCompletion<S, Runtime>::rmse(const StoredEntries<S> &M, const StoredModel<S> &model) {
  using namespace completion_detail;
  using Sum = functors::SumResiduals<S>;
  const WideModel<S, Runtime> wide(model);
  DeviceArray<Runtime, double> squares(M.m);
  Runtime::for_each_block(
      M.m, Sum::kShared,
      Sum{{M.indptr, M.indices, M.values, M.weights, wide.R.get(), wide.width, wide.width, nullptr},
          wide.L.get(),
          squares.get()});
  const double total = DeviceMatrix<S, Runtime>(M).total_weight();
  return std::sqrt(sum_of(to_host<Runtime>(squares.get(), M.m)) / total);
}

template <class S, class Runtime>
bool CudaCompletion<S, Runtime>::predict(const StoredModel<S> &model, const std::int64_t *rows,
                                         const std::int64_t *cols, index count, S *out) {
  using namespace completion_detail;
  if (!inside<Runtime>(rows, count, model.m) || !inside<Runtime>(cols, count, model.n))
    return false;
  const WideModel<S, Runtime> wide(model);
  Runtime::for_each(
      count, functors::PredictPairs<S>{wide.L.get(), wide.R.get(), wide.width, rows, cols, out});
  return true;
}

template <class S, class Runtime>
void CudaCompletion<S, Runtime>::holdout(const StoredEntries<S> &M, double fraction,
                                         std::uint64_t key, bool *out) {
  Runtime::for_each_block(M.m, 0, functors::DrawHoldout{M.indptr, M.indices, fraction, key, out});
}

} // namespace lowla

#define LOWLA_INSTANTIATE_COMPLETION(RUNTIME)                                                      \
  template struct lowla::CudaCompletion<float, lowla::RUNTIME>;                                    \
  template struct lowla::CudaCompletion<double, lowla::RUNTIME>;
