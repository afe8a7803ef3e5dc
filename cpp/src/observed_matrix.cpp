// Observed entries in main memory (see observed_matrix.hpp).
#include "lowla/observed_matrix.hpp"

#include "lowla/device/host.hpp"
#include "lowla/rsvd.hpp"

#include <algorithm>
#include <cmath>

namespace lowla {

using threads::for_spans;

namespace {

using Device = Host<double>;
using Numbers = std::vector<double>;

constexpr index kEntries = 1 << 16; ///< to a chunk
constexpr index kWeights = 1 << 10; ///< to a chunk, where they are renewed
constexpr int kSafeExponent = 200;  ///< entries and weights within 2^+- it stay as they are

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

template <class S> double weight_of(const Observations<S> &o, index t) {
  return o.weights == nullptr ? 1.0 : o.weights[t];
}

template <class S> double largest_of(const S *values, index count) {
  double largest = 0;
  for (index t = 0; t < count; ++t)
    largest = std::max(largest, std::fabs(static_cast<double>(values[t])));
  return largest;
}

template <class X> std::vector<X> times_power(const X *values, index count, int exponent) {
  std::vector<X> out(values, values + count);
  for (X &x : out)
    x = std::ldexp(x, exponent);
  return out;
}

/// The matrix with these values in the places of `rows`: one type of integers for both arrays.
template <class S> HeldMatrix sparse_matrix(const Observations<S> &rows, const double *values) {
  const index nnz = rows.nnz();
  if (nnz <= std::numeric_limits<std::int32_t>::max()) {
    const auto indptr =
        std::make_shared<std::vector<std::int32_t>>(rows.indptr, rows.indptr + rows.m + 1);
    return {indptr, Device::csr(CsrView<double, std::int32_t>{indptr->data(), rows.indices, values,
                                                              rows.m, rows.n})};
  }
  const auto indices =
      std::make_shared<std::vector<std::int64_t>>(rows.indices, rows.indices + nnz);
  return {indices, Device::csr(CsrView<double, std::int64_t>{rows.indptr, indices->data(), values,
                                                             rows.m, rows.n})};
}

/// w (y - mean), clipped at `outlier` medians; nothing where that is the values themselves.
template <class S> Numbers start_values(const Observations<S> &rows, double mean, double outlier) {
  if (std::is_same_v<S, double> && rows.weights == nullptr && mean == 0 && outlier == 0)
    return {};
  Numbers values(at(rows.nnz()));
  for_spans(0, rows.nnz(), kEntries, [&](index first, index last) {
    for (index t = first; t < last; ++t)
      values[at(t)] = (static_cast<double>(rows.values[t]) - mean) * weight_of(rows, t);
  });
  const double limit = outlier > 0 ? outlier * median(magnitudes(values)) : 0.0;
  if (limit > 0)
    for (double &x : values)
      x = std::clamp(x, -limit, limit);
  return values;
}

template <class S> class HostRows : public ObservedRows {
public:
  explicit HostRows(const Observations<S> &entries) : entries_(entries) {}
  HostRows(const Observations<S> &entries, Numbers weights)
      : entries_(entries), own_(std::move(weights)) {
    entries_.weights = own_.data();
  }
  HostRows(const HostRows &) = delete;
  HostRows &operator=(const HostRows &) = delete;

  double exact(const Regressors &on, double ridge, Factor &out) const override {
    return exact_rows(problem(on), ridge, out);
  }
  double cg(const Regressors &on, double ridge, index steps, Factor &out) const override {
    return cg_rows(problem(on), ridge, steps, out);
  }
  void nonnegative(const Regressors &on, double ridge, Factor &out) const override {
    nonnegative_rows(problem(on), ridge, out);
  }
  double residual2(const Regressors &on, const Factor &U) const override {
    return lowla::residual2(problem(on), U);
  }
  Numbers residuals(const Regressors &on, const Factor &U) const override {
    Numbers out(at(entries_.nnz()));
    lowla::residuals(problem(on), U, out.data());
    return out;
  }
  Factor gradient(const Regressors &on, const Factor &U) const override {
    return gradient_rows(problem(on), U);
  }
  std::unique_ptr<ObservedRows> reweighted(const Regressors &on, const Factor &U,
                                           double delta) const override {
    Numbers weights = residuals(on, U);
    for_spans(0, entries_.nnz(), kWeights, [&](index first, index last) {
      for (index t = first; t < last; ++t)
        weights[at(t)] = weight_of(entries_, t) / std::max(std::fabs(weights[at(t)]), delta);
    });
    return std::make_unique<HostRows>(entries_, std::move(weights));
  }
  index count_short(index k) const override {
    index count = 0;
    for (index i = 0; i < entries_.m; ++i)
      count += entries_.count(i) < k ? 1 : 0;
    return count;
  }

private:
  RowProblem<S> problem(const Regressors &on) const { return {entries_, on.offset, on.F}; }

  Observations<S> entries_;
  Numbers own_;
};

template <class S> class HostMatrix : public ObservedMatrix {
public:
  explicit HostMatrix(const Observations<S> &M) : entries_(M) {
    m = M.m;
    n = M.n;
    nnz = M.nnz();
    single = std::is_same_v<S, float>;
    rows_ = std::make_unique<HostRows<S>>(entries_);
  }

  EntryExtent extent() const override {
    EntryExtent out;
    out.finite =
        sum_over(nnz, [&](index t) { return std::isfinite(entries_.values[t]) ? 0.0 : 1.0; }) == 0;
    out.largest = largest_of(entries_.values, nnz);
    if (entries_.weights != nullptr)
      out.largest_weight = largest_of(entries_.weights, nnz);
    return out;
  }
  void rescale(int e, int f) override {
    if (e != 0) {
      values_ = times_power(entries_.values, nnz, -e);
      entries_.values = values_.data();
    }
    if (f != 0) {
      weights_ = times_power(entries_.weights, nnz, -f);
      entries_.weights = weights_.data();
    }
    rows_ = std::make_unique<HostRows<S>>(entries_);
  }

  double total_weight() const override {
    if (entries_.weights == nullptr)
      return static_cast<double>(nnz);
    return sum_over(nnz, [&](index t) { return entries_.weights[t]; });
  }
  double weighted_values() const override {
    return sum_over(nnz, [&](index t) {
      return weight_of(entries_, t) * static_cast<double>(entries_.values[t]);
    });
  }
  double squares(double mean) const override {
    return sum_over(nnz, [&](index t) {
      const double y = static_cast<double>(entries_.values[t]) - mean;
      return y * y;
    });
  }
  EntrySums sums(double mean) const override {
    EntrySums out;
    for (index t = 0; t < nnz; ++t) {
      const double w = weight_of(entries_, t), y = static_cast<double>(entries_.values[t]) - mean;
      out.weight += w;
      out.squares += w * y * y;
    }
    return out;
  }
  Numbers values() const override { return Numbers(entries_.values, entries_.values + nnz); }

  LeadingVectors leading(double mean, double outlier, index k, std::uint64_t key) const override {
    LowRankRequest request;
    request.k = k;
    request.key = key;
    request.check_finite = false;
    const Numbers values = start_values(entries_, mean, outlier);
    const double *data = values.data();
    if constexpr (std::is_same_v<S, double>)
      data = values.empty() ? entries_.values : data;
    const HeldMatrix entries = sparse_matrix(entries_, data);
    auto found = LowRank<Device>(*entries.matrix, request).svd();
    return {std::move(found.left), std::move(found.right), std::move(found.values)};
  }

  HeldMatrix with_values(const Numbers &values) const override {
    return sparse_matrix(entries_, values.data());
  }

  const ObservedRows &rows() const override { return *rows_; }
  const ObservedRows &cols() const override {
    if (cols_ == nullptr) {
      transposed_ = std::make_unique<Transposed<S>>(entries_);
      cols_ = std::make_unique<HostRows<S>>(transposed_->view());
    }
    return *cols_;
  }
  index components() const override {
    return lowla::components(entries_.indptr, entries_.indices, m, n);
  }

private:
  Observations<S> entries_;
  std::vector<S> values_;
  Numbers weights_;
  std::unique_ptr<HostRows<S>> rows_;
  mutable std::unique_ptr<Transposed<S>> transposed_;
  mutable std::unique_ptr<HostRows<S>> cols_;
};

} // namespace

template <class S> std::unique_ptr<ObservedMatrix> observed_matrix(const Observations<S> &M) {
  return std::make_unique<HostMatrix<S>>(M);
}
template std::unique_ptr<ObservedMatrix> observed_matrix(const Observations<float> &);
template std::unique_ptr<ObservedMatrix> observed_matrix(const Observations<double> &);

int safe_exponent(double largest, bool even) {
  if (largest == 0 ||
      (largest > std::ldexp(1.0, -kSafeExponent) && largest < std::ldexp(1.0, kSafeExponent)))
    return 0;
  int e;
  std::frexp(largest, &e);
  return even ? e + std::abs(e % 2) : e;
}

double median(std::vector<double> values) {
  if (values.empty())
    return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1)
    return *middle;
  return 0.5 * (*middle + *std::max_element(values.begin(), middle));
}

std::vector<double> magnitudes(std::vector<double> values) {
  for (double &x : values)
    x = std::fabs(x);
  return values;
}

} // namespace lowla
