// l_p regression with a matrix in main memory (see lp.hpp): A x and A^T y by blocks of rows, and
// the loops over vectors of length m. Sums are formed over pieces whose sizes depend on m alone.
#include "lowla/lp.hpp"

#include "host_scored.hpp"

#include "lowla/core/clones.hpp"

#include <array>
#include <limits>

namespace lowla {

namespace lp {
namespace {

using rows::RowChunks;
using threads::parallel_for;

/// Numbers that a loop keeps in the first-level cache, and those that are worth a thread.
constexpr index kPiece = 512, kChunk = 16 * kPiece;
using Piece = std::array<double, kPiece>;

/// f(first, count) for all pieces.
template <class F> void for_pieces(index n, F &&f) {
  const RowChunks chunks(n, 64, kChunk);
  parallel_for(chunks.count, [&](index c) {
    for (index i = chunks.first(c); i < chunks.last(c); i += kPiece)
      f(i, std::min(kPiece, chunks.last(c) - i));
  });
}

/// The sum of f(first, count) over all pieces.
template <class F> double sum_of(index n, F &&f) {
  const RowChunks chunks(n, 64, kChunk);
  Vector parts(static_cast<std::size_t>(chunks.count), 0.0);
  parallel_for(chunks.count, [&](index c) {
    for (index i = chunks.first(c); i < chunks.last(c); i += kPiece)
      parts[static_cast<std::size_t>(c)] += f(i, std::min(kPiece, chunks.last(c) - i));
  });
  double sum = 0;
  for (const double part : parts)
    sum += part;
  return sum;
}

LOWLA_CLONES double dot_piece(const double *x, const double *y, index n) {
  constexpr index kLanes = 16;
  double sum[kLanes] = {};
  index i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (index lane = 0; lane < kLanes; ++lane)
      sum[lane] += x[i + lane] * y[i + lane];
  for (; i < n; ++i)
    sum[0] += x[i] * y[i];
  for (index half = kLanes / 2; half > 0; half /= 2)
    for (index lane = 0; lane < half; ++lane)
      sum[lane] += sum[lane + half];
  return sum[0];
}

/// x_i <- x_i^e for at most kPiece numbers x_i >= 0. Multiples of 1/4, by square roots and
/// products, are several times as fast as others.
LOWLA_CLONES void raise(double *x, index n, double e) {
  constexpr double kMost = 64;
  const double quarters = 4.0 * std::abs(e);
  if (quarters > kMost || quarters != std::floor(quarters)) {
    for (index i = 0; i < n; ++i)
      x[i] = std::pow(x[i], e);
    return;
  }
  const auto q = static_cast<int>(quarters);
  Piece power;
  for (index i = 0; i < n; ++i) {
    power[static_cast<std::size_t>(i)] = x[i];
    x[i] = 1.0;
  }
  double *y = power.data();
  if ((q & 2) != 0)
    for (index i = 0; i < n; ++i)
      x[i] *= std::sqrt(y[i]);
  if ((q & 1) != 0)
    for (index i = 0; i < n; ++i)
      x[i] *= std::sqrt(std::sqrt(y[i]));
  for (int whole = q / 4; whole > 0; whole /= 2) {
    if (whole % 2 != 0)
      for (index i = 0; i < n; ++i)
        x[i] *= y[i];
    if (whole > 1)
      for (index i = 0; i < n; ++i)
        y[i] *= y[i];
  }
  if (e < 0)
    for (index i = 0; i < n; ++i)
      x[i] = 1.0 / x[i];
}

/// size = |r - t change| / scale, and change with the sign of r - t change.
LOWLA_CLONES void along(const double *r, const double *change, double t, double scale, index n,
                        double *size, double *directed) {
  for (index i = 0; i < n; ++i) {
    const double rest = r[i] - t * change[i];
    size[i] = std::abs(rest) / scale;
    directed[i] = rest < 0 ? -change[i] : rest > 0 ? change[i] : 0.0;
  }
}

LOWLA_CLONES void magnitudes(const double *x, double scale, index n, double *size) {
  for (index i = 0; i < n; ++i)
    size[i] = std::abs(x[i]) / scale;
}

/// The derivative of ||r - t change||_p^p / p in t, r over `scale`.
double slope(const Vector &r, const Vector &change, double t, double scale, double p) {
  return -sum_of(static_cast<index>(r.size()), [&](index first, index n) {
    Piece size, directed;
    along(r.data() + first, change.data() + first, t, scale, n, size.data(), directed.data());
    raise(size.data(), n, p - 1.0);
    return dot_piece(size.data(), directed.data(), n);
  });
}

LOWLA_CLONES void squares(const double *r, double scale, double shift, index n, double *out) {
  for (index i = 0; i < n; ++i)
    out[i] = (r[i] / scale) * (r[i] / scale) + shift;
}

LOWLA_CLONES void roots_of(const double *x, index n, double *out) {
  for (index i = 0; i < n; ++i)
    out[i] = std::sqrt(x[i]);
}

LOWLA_CLONES double largest_of(const double *x, index n) {
  constexpr index kLanes = 16;
  double found[kLanes] = {};
  bool finite = true;
  const auto look = [&](double value, double &most) __attribute__((always_inline)) {
    const double size = std::abs(value);
    most = size > most ? size : most;
    finite = finite & (size <= std::numeric_limits<double>::max());
  };
  index i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (index lane = 0; lane < kLanes; ++lane)
      look(x[i + lane], found[lane]);
  for (; i < n; ++i)
    look(x[i], found[0]);
  return finite ? *std::max_element(found, found + kLanes)
                : std::numeric_limits<double>::infinity();
}

index length(const Vector &x) { return static_cast<index>(x.size()); }

} // namespace

double largest(const Vector &x) {
  const RowChunks chunks(length(x), 64, kChunk);
  Vector found(static_cast<std::size_t>(chunks.count), 0.0);
  parallel_for(chunks.count, [&](index c) {
    const index first = chunks.first(c);
    found[static_cast<std::size_t>(c)] = largest_of(x.data() + first, chunks.last(c) - first);
  });
  return found.empty() ? 0.0 : *std::max_element(found.begin(), found.end());
}

double dot(const Vector &x, const Vector &y) {
  return sum_of(length(x), [&](index first, index n) {
    return dot_piece(x.data() + first, y.data() + first, n);
  });
}

double power_norm(const Vector &x, double p) {
  const double scale = largest(x);
  if (scale == 0)
    return 0;
  const double sum = sum_of(length(x), [&](index first, index n) {
    Piece size, power;
    magnitudes(x.data() + first, scale, n, size.data());
    std::copy_n(size.data(), n, power.data());
    raise(power.data(), n, p - 1.0);
    return dot_piece(size.data(), power.data(), n);
  });
  return scale * std::pow(sum, 1.0 / p);
}

void subtract(double t, const Vector &y, Vector &x) {
  for_pieces(length(x), [&](index first, index n) {
    for (index i = first; i < first + n; ++i)
      x[static_cast<std::size_t>(i)] -= t * y[static_cast<std::size_t>(i)];
  });
}

void weigh(const Vector &r, double scale, double floor, double p, Vector &w, Vector &roots) {
  w.resize(r.size());
  roots.resize(r.size());
  for_pieces(length(r), [&](index first, index n) {
    squares(r.data() + first, scale, floor * floor, n, w.data() + first);
    raise(w.data() + first, n, 0.5 * p - 1.0);
    roots_of(w.data() + first, n, roots.data() + first);
  });
}

void weighted(const Vector &w, const Vector &r, const Vector *change, Vector &y) {
  y.resize(r.size());
  for_pieces(length(r), [&](index first, index n) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(first + n); ++i)
      y[i] = w[i] * (change != nullptr ? r[i] - (*change)[i] : r[i]);
  });
}

double line_minimum(const Vector &r, const Vector &change, double p, double guess) {
  constexpr double kAccuracy = 1e-4;
  constexpr int kMost = 120;
  const double scale = largest(r);
  const auto slope_at = [&](double t) { return slope(r, change, t, scale, p); };
  double low = 0, high = guess, at_low = slope_at(low);
  const double flat = kAccuracy * std::abs(at_low);
  if (!(at_low < 0))
    return 0;
  double at_high = slope_at(high);
  for (int step = 0; at_high < 0 && step < kMost; ++step) {
    low = high;
    at_low = at_high;
    high *= 2;
    at_high = slope_at(high);
  }
  // Regula falsi, the slope at an end that stays halved (Illinois; Dowell, Jarratt, BIT 11, 1971),
  // and bisection after a step that did not halve the bracket, or where the slope overflows.
  int side = 0;
  double width = 2.0 * (high - low);
  for (int step = 0; step < kMost && high - low > kAccuracy * high; ++step) {
    const bool slow = high - low > 0.5 * width || !std::isfinite(at_high);
    width = high - low;
    const double t =
        slow ? 0.5 * (low + high) : (low * at_high - high * at_low) / (at_high - at_low);
    const double at_t = slope_at(t);
    if (std::abs(at_t) <= flat)
      return t;
    if (at_t < 0) {
      low = t;
      at_low = at_t;
      at_high *= side < 0 ? 0.5 : 1.0;
      side = -1;
    } else {
      high = t;
      at_high = at_t;
      at_low *= side > 0 ? 0.5 : 1.0;
      side = 1;
    }
  }
  return 0.5 * (low + high);
}

} // namespace lp

namespace rows {
namespace {

/// A, and b as a last column.
template <class Rows> class WithColumn {
public:
  using Scalar = typename Rows::Scalar;
  using R = real_t<Scalar>;

  WithColumn(const Rows &A, const std::vector<double> &b) : A_(A), b_(b.begin(), b.end()) {}

  index rows() const { return A_.rows(); }
  index cols() const { return A_.cols() + 1; }
  index depth() const { return cols(); }
  bool conjugated() const { return false; }
  void rescale(R factor) {
    for (R &value : b_)
      value *= factor;
    scale_ = factor;
  }

  template <class F> void for_blocks(index first, index last, F &&f) const {
    constexpr int kSlot = 4;
    A_.for_blocks(first, last, [&](index i, index count, const R *block, index rs) {
      R *joined = scratch<R>(simd::kRowBlock * cols(), kSlot);
      for (index r = 0; r < count; ++r) {
        R *row = joined + r * cols();
        for (index j = 0; j < A_.cols(); ++j)
          row[j] = scale_ * block[r * rs + j];
        row[A_.cols()] = b_[static_cast<std::size_t>(i + r)];
      }
      f(i, count, static_cast<const R *>(joined), cols());
    });
  }
  simd::Ahead ahead(index, index) const { return {}; }

  double scan(bool &finite) const {
    bool b_finite = true;
    const double of_b = largest_finite(b_.data(), rows(), b_finite), of_A = A_.scan(finite);
    finite = finite && b_finite;
    return std::max(of_A, of_b);
  }

  /// S [A b] by rows.
  friend Buffer<Scalar> sketch_of(const WithColumn &A, const SketchSpec &spec) {
    const index n = A.A_.cols();
    const Buffer<Scalar> SA = sketch_of(A.A_, spec);
    Buffer<Scalar> Sb(spec.d), out(spec.d * (n + 1));
    sketch_dense(spec, MatrixView<Scalar>{A.b_.data(), A.rows(), 1, 1, 1}, Sb.get());
    for (index i = 0; i < spec.d; ++i) {
      for (index j = 0; j < n; ++j)
        out.get()[i * (n + 1) + j] = A.scale_ * SA.get()[i * n + j];
      out.get()[i * (n + 1) + n] = Sb.get()[i];
    }
    return out;
  }

private:
  const Rows &A_;
  std::vector<Scalar> b_;
  R scale_ = 1;
};

/// y = the rows first .. last - 1 of A x.
template <class T>
void row_products(const DenseRows<T> &A, index first, index last, const double *x, double *y) {
  const simd::DenseKernels<double> &kernels = simd::dense<double>();
  const bool streams = std::is_same_v<T, double> && A.rows_follow();
  A.for_blocks(first, last, [&](index i, index count, const T *stored, index stride) {
    const double *block = wide_rows(stored, A.depth(), count, stride);
    const index next = count * stride;
    kernels.dots(block, stride, count, A.depth(), x, 1, y + i - first,
                 streams ? simd::Ahead{block + next, next * static_cast<index>(sizeof(double))}
                         : simd::Ahead{});
  });
}
template <class T, class I>
void row_products(const CsrRows<T, I> &A, index first, index last, const double *x, double *y) {
  const CsrView<T, I> view = A.view();
  for (index i = first; i < last; ++i) {
    double sum = 0;
    for (I k = view.indptr[i]; k < view.indptr[i + 1]; ++k)
      sum += static_cast<double>(view.data[k]) * x[view.indices[k]];
    y[i - first] = sum;
  }
}

/// z += the combination y of the rows first .. last - 1 of A.
template <class T>
void row_combination(const DenseRows<T> &A, index first, index last, const double *y, double *z) {
  A.for_blocks(first, last, [&](index i, index count, const T *stored, index stride) {
    const double *block = wide_rows(stored, A.depth(), count, stride);
    simd::dense<double>().combinations(block, stride, count, A.depth(), y + i - first, 1, z);
  });
}
template <class T, class I>
void row_combination(const CsrRows<T, I> &A, index first, index last, const double *y, double *z) {
  const CsrView<T, I> view = A.view();
  for (index i = first; i < last; ++i)
    for (I k = view.indptr[i]; k < view.indptr[i + 1]; ++k)
      z[view.indices[k]] += y[i - first] * static_cast<double>(view.data[k]);
}

template <class Rows>
class HostLp final : public HostScored<Rows, LpMatrix<typename Rows::Scalar>> {
public:
  using T = typename Rows::Scalar;
  using Base = HostScored<Rows, LpMatrix<T>>;
  using Base::Base;

  void times(const std::vector<double> &x, std::vector<double> &out) override {
    out.resize(static_cast<std::size_t>(this->m));
    const RowChunks chunks = chunks_of_rows(64);
    parallel_for(chunks.count, [&](index c) {
      row_products(A_, chunks.first(c), chunks.last(c), x.data(), out.data() + chunks.first(c));
    });
  }

  std::vector<double> adjoint_times(const std::vector<double> &y) override {
    const RowChunks chunks = chunks_of_rows(16);
    std::vector<double> parts(static_cast<std::size_t>(chunks.count * this->n), 0.0);
    parallel_for(chunks.count, [&](index c) {
      row_combination(A_, chunks.first(c), chunks.last(c), y.data() + chunks.first(c),
                      parts.data() + c * this->n);
    });
    add_parts(parts.data(), parts.data() + this->n, chunks.count - 1, this->n, this->n);
    parts.resize(static_cast<std::size_t>(this->n));
    return parts;
  }

  std::unique_ptr<ScoredMatrix<T>> beside(const std::vector<double> &b) override {
    return std::make_unique<HostScored<WithColumn<Rows>>>(WithColumn<Rows>(A_, b));
  }

private:
  using Base::A_;

  RowChunks chunks_of_rows(index wanted) const {
    const double flops = 2.0 * static_cast<double>(this->m) * static_cast<double>(this->n);
    return {this->m, chunks_for(flops, wanted), simd::kRowBlock};
  }
};

} // namespace
} // namespace rows

template <class T> std::unique_ptr<LpMatrix<T>> lp_matrix(MatrixView<T> A) {
  return std::make_unique<rows::HostLp<rows::DenseRows<T>>>(rows::DenseRows<T>(A));
}

template <class T, class I> std::unique_ptr<LpMatrix<T>> lp_matrix(CsrView<T, I> A) {
  return std::make_unique<rows::HostLp<rows::CsrRows<T, I>>>(rows::CsrRows<T, I>(A));
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<LpMatrix<T>> lp_matrix(MatrixView<T>);                                  \
  template std::unique_ptr<LpMatrix<T>> lp_matrix(CsrView<T, std::int32_t>);                       \
  template std::unique_ptr<LpMatrix<T>> lp_matrix(CsrView<T, std::int64_t>);                       \
  template class LpRegression<T>;
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
#undef LOWLA_INSTANTIATE

} // namespace lowla
