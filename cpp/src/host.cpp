// The CPU's primitives (see device/host.hpp).
#include "lowla/device/host.hpp"

#include "host_rows.hpp"

#include "lowla/core/clones.hpp"

#include <cmath>
#include <cstring>
#include <numeric>

namespace lowla {

namespace rows {

LOWLA_CLONES void widen(const float *x, double *y, index n) {
  for (index i = 0; i < n; ++i)
    y[i] = static_cast<double>(x[i]);
}

namespace {
template <class R>
inline __attribute__((always_inline)) void sum_parts(R *out, const R *parts, index n_parts,
                                                     index stride, index n) {
  for (index p = 0; p < n_parts; ++p)
    for (index j = 0; j < n; ++j)
      out[j] += parts[p * stride + j];
}
} // namespace
LOWLA_CLONES void add_parts(float *out, const float *parts, index n_parts, index stride, index n) {
  sum_parts(out, parts, n_parts, stride, n);
}
LOWLA_CLONES void add_parts(double *out, const double *parts, index n_parts, index stride,
                            index n) {
  sum_parts(out, parts, n_parts, stride, n);
}

LOWLA_CLONES void add_block(const float *block, index rows, index q, double *Z, index ldz) {
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < q; ++j)
      Z[i * ldz + j] += static_cast<double>(block[i * q + j]);
}

} // namespace rows

namespace {

using namespace rows;

/// out = -U(i .. i+rows-1, :) diag(s)
template <class T>
void scale_rows(const Panel<T> &U, const std::vector<double> &s, index i, index rows,
                real_t<T> *out) {
  using R = real_t<T>;
  for (index r = 0; r < rows; ++r)
    for (int plane = 0; plane < kPlanes<T>; ++plane)
      for (index j = 0; j < U.width; ++j)
        out[r * U.ld + plane * U.width + j] =
            j < U.cols ? static_cast<R>(-s[j]) * U.row(i + r)[plane * U.width + j] : R(0);
}

/// Panels of so many units are narrow: what is done with them is fused, one block of rows at a
/// time.
constexpr index kNarrow = 4;

/// Rows whose products are added up in the precision of the product; sums of these in double.
constexpr index kProductRows = 96;

/// Into how many parts a sum of products over `rows` is split, each of `size` numbers. One thread
/// adds them up: none of few rows.
index parts_of_products(index rows, index size) {
  constexpr index kSmall = 1024;
  const index rows_per_part = size <= kSmall ? 192 : 384;
  const index affordable =
      kPartialBytes / (static_cast<index>(sizeof(double)) * std::max<index>(1, size));
  return std::max<index>(1, std::min<index>({32, rows / rows_per_part + 1, affordable}));
}

/// Numbers in a row of the stacked panels.
template <class T> index stacked_ld(const std::vector<const Panel<T> *> &P) {
  return std::accumulate(P.begin(), P.end(), index(0),
                         [](index sum, const Panel<T> *p) { return sum + p->ld; });
}

/// part += the stacked P_i^H W of so many rows from i on.
template <class T>
void add_stacked(const std::vector<const Panel<T> *> &P, const Panel<T> &W, index i, index rows,
                 double *part) {
  for (const Panel<T> *p : P) {
    add_products(p->row(i), p->ld, used(*p), W.row(i), W.ld, W.ld, rows, part, W.ld);
    part += p->ld * W.ld;
  }
}

/// The stacked P_i^H W from `count` parts of it (rows of all P_i x W.ld), added up in the first.
/// Of W^H W, where it stands alone, the parts need to hold the upper triangle only.
template <class T>
Small<wide_t<T>> sum_of_products(const std::vector<const Panel<T> *> &P, const Panel<T> &W,
                                 double *parts, index count) {
  using Wide = wide_t<T>;
  const bool symmetric = P.size() == 1 && P[0] == &W;
  index total_cols = 0;
  for (const Panel<T> *p : P)
    total_cols += p->cols;
  const index size = stacked_ld(P) * W.ld;
  for (index c = 1; c < count; ++c)
    add_parts(parts, parts + c * size, 1, size, size);
  Small<Wide> H(total_cols, W.cols);
  index offset = 0, out = 0;
  for (const Panel<T> *p : P) {
    for (index i = 0; i < p->cols; ++i)
      for (index j = 0; j < W.cols; ++j) {
        const double *upper = parts + (offset + i) * W.ld;
        if constexpr (is_complex_v<T>) {
          const double *lower = upper + p->width * W.ld;
          H(out + i, j) = Wide(upper[j] + lower[W.width + j], upper[W.width + j] - lower[j]);
        } else {
          H(out + i, j) = symmetric && i > j ? parts[j * W.ld + i] : upper[j];
        }
      }
    offset += p->ld;
    out += p->cols;
  }
  return H;
}

// --- dense ---

/// Complex entries are interleaved in memory, so the panels are: for A X rows 2j, 2j+1 of the right
/// factor are
/// [Xr | Xi], [-Xi | Xr]; for A^H Y the rows 2j, 2j+1 of the product fold into Z.
template <class T> class DenseMatrix final : public Host<T>::Matrix, private DenseRows<T> {
public:
  using R = real_t<T>;
  using Panel = lowla::Panel<T>;
  using Matrix = typename Host<T>::Matrix;
  using DenseRows<T>::ahead;
  using DenseRows<T>::depth;
  using DenseRows<T>::for_blocks;

  explicit DenseMatrix(MatrixView<T> A, R scale = R(1)) : DenseRows<T>(A, scale) {
    this->m = A.m;
    this->n = A.n;
  }

  void multiply(const Panel &X, Panel &Y, double *norm2) override {
    const typename Matrix::Read read(*this);
    if (mirrored().by_columns() && !this->direct())
      mirrored().adjoint_by_columns(X, Y, norm2);
    else
      multiply_by_rows(X, Y, norm2);
  }

  void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2) override {
    const typename Matrix::Read read(*this);
    if (by_columns())
      adjoint_by_columns(Y, Z, norm2);
    else if (mirrored().direct() && !this->direct())
      mirrored().multiply_by_rows(Y, Z, norm2);
    else
      adjoint_by_rows(Y, Z, norm2);
  }

  void normal(const Panel &X, Panel *Y, Panel &Z, double *norm2) override {
    normal_with(X, Y, Z, norm2, [](index, index, index) {});
  }

  bool normal_and_products(const Panel &X, Panel &Y, Panel &Z, double *norm2,
                           const std::vector<const Panel *> &P,
                           Small<wide_t<T>> &products) override {
    if (X.ld > kNarrow * simd::panel_unit<R>) { // the products of short blocks of rows are slow
      normal(X, &Y, Z, norm2);
      return false;
    }
    const index size = stacked_ld(P) * Y.ld;
    Buffer<double> parts(kParts * size);
    std::fill(parts.get(), parts.get() + kParts * size, 0.0);
    const index count = normal_with(X, &Y, Z, norm2, [&](index c, index i, index rows) {
      add_stacked(P, Y, i, rows, parts.get() + c * size);
    });
    products = sum_of_products<T>(P, Y, parts.get(), count);
    return true;
  }

  double scan(bool &finite) override { return DenseRows<T>::scan(finite); }

  void rescale(R factor) override { scale_ = factor; }

  std::unique_ptr<Matrix> adjoint() const override {
    return std::make_unique<DenseMatrix>(A_.adjoint(), scale_);
  }

  double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) override {
    const typename Matrix::Read read(*this);
    // Row blocks of A minus (U diag(s)) V^H, in the real interleaved form: the right factor is
    // V^H as kPlanes k rows of length kPlanes n.
    const index k = V.cols, width = round_up(depth(), simd::panel_unit<R>);
    Buffer<R> right(kPlanes<T> * U.width * width);
    std::fill(right.get(), right.get() + kPlanes<T> * U.width * width, R(0));
    for (index j = 0; j < A_.n; ++j)
      for (index c = 0; c < k; ++c) {
        // conj of V where A is taken as stored; a conjugated view negates the stored imaginary
        // part.
        const R vr = V.row(j)[c];
        if constexpr (is_complex_v<T>) {
          const R vi = V.row(j)[V.width + c];
          const R flip = A_.conjugated ? R(-1) : R(1);
          right.get()[c * width + 2 * j] = vr;
          right.get()[c * width + 2 * j + 1] = -flip * vi;
          right.get()[(U.width + c) * width + 2 * j] = vi;
          right.get()[(U.width + c) * width + 2 * j + 1] = flip * vr;
        } else {
          right.get()[c * width + j] = vr;
        }
      }
    const RowChunks chunks(A_.m, std::min<index>(128, A_.m / 96 + 1), simd::kRowBlock);
    std::vector<double> squares(static_cast<std::size_t>(chunks.count), 0.0);
    parallel_for(chunks.count, [&](index c) {
      R *left = scratch<R>(simd::kRowBlock * U.ld, 1);
      R *product = scratch<R>(simd::kRowBlock * width, 2);
      for_blocks(chunks.first(c), chunks.last(c),
                 [&](index i, index rows, const R *block, index rs) {
                   scale_rows(U, s, i, rows, left);
                   simd::dense<R>().multiply(left, U.ld, rows, U.ld, right.get(), width, width,
                                             product, width, false, {});
                   for (index r = 0; r < rows; ++r) {
                     for (index j = 0; j < depth(); ++j)
                       product[r * width + j] += block[r * rs + j];
                     squares[c] += simd::dense<R>().sum_squares(product + r * width, depth());
                   }
                 });
    });
    double sum = 0;
    for (double x : squares)
      sum += x;
    return sum;
  }

  bool iterate_on_columns() const override {
    // Rows that lie contiguously need no packing; only for very tall or wide matrices is the
    // shorter vector worth more than that.
    constexpr index kExtreme = 32;
    if (A_.n > kExtreme * A_.m)
      return false;
    if (A_.m > kExtreme * A_.n)
      return true;
    if (A_.cs == 1)
      return true;
    return A_.rs == 1 ? false : A_.n <= A_.m;
  }

private:
  /// Of a product with A^H: fewest slabs, columns of a tile in the first-level cache, memory of a
  /// slab's product, and what may be read of A before a cancelled call ends.
  static constexpr index kSlabs = 8, kSlabColumns = 64, kSlabBytes = index(1) << 19,
                         kUninterrupted = index(1) << 28;
  /// Parts of a sum over the rows, at most.
  static constexpr index kParts = 16;

  /// Of a right or left factor with rows of `ld` numbers.
  index panel_bytes(index ld) const { return depth() * ld * static_cast<index>(sizeof(R)); }

  /// X as the kernels of A X and A^H (A X) take it.
  class RightFactor {
  public:
    RightFactor(const DenseMatrix &A, const Panel &X) : depth_(A.depth()), ld_(X.ld) {
      if constexpr (is_complex_v<T>) {
        copy_ = embedded<R, T>(X.rows, X.cols, X.width, A.A_.conjugated, [&](index i, index j) {
          return std::complex<R>(X.row(i)[j], X.row(i)[X.width + j]);
        });
      } else if constexpr (std::is_same_v<R, float>) {
        pairs_ = X.ld == simd::panel_unit<R> && A.A_.n % 2 == 0 ? simd::pairs() : nullptr;
        if (pairs_ != nullptr) {
          copy_ = Buffer<R>(X.rows * X.ld);
          pairs_->join_rows(X.row(0), X.rows, copy_.get());
        }
      }
      factor_ = copy_.get() != nullptr ? copy_.get() : X.row(0);
    }

    /// y (rows x ld) = block X. Returns what add_transposed wants of it, besides y.
    const R *multiply(const R *block, index rs, index rows, R *y, simd::Ahead next) const {
      if constexpr (std::is_same_v<T, float>)
        if (pairs_ != nullptr) {
          R *twice = scratch<R>(2 * simd::kRowBlock * ld_, 2);
          pairs_->multiply(block, rs, rows, depth_, factor_, y, twice, next);
          return twice;
        }
      simd::dense<R>().multiply(block, rs, rows, depth_, factor_, ld_, ld_, y, ld_, false, next);
      return nullptr;
    }

    /// Z (+)= block^T y, which `put_in_order` has to follow at the end.
    void add_transposed(const R *block, index rs, index rows, const R *y, const R *twice, R *Z,
                        bool accumulate, simd::Ahead next) const {
      if constexpr (std::is_same_v<T, float>)
        if (pairs_ != nullptr) {
          pairs_->multiply_transposed(block, rs, rows, depth_, twice, Z, accumulate, next);
          return;
        }
      simd::dense<R>().multiply_transposed(block, rs, rows, depth_, y, ld_, ld_, Z, ld_, accumulate,
                                           next);
    }
    void put_in_order(Panel &Z, index first, index last) const {
      if constexpr (std::is_same_v<T, float>)
        if (pairs_ != nullptr)
          pairs_->part_rows(Z.row(first), last - first);
    }

  private:
    index depth_, ld_;
    const simd::PairKernels *pairs_ = nullptr;
    Buffer<R> copy_;
    const R *factor_ = nullptr;
  };

  /// `done(part, i, rows)` as soon as these rows of Y are known; returns the number of parts.
  template <class Done>
  index normal_with(const Panel &X, Panel *Y, Panel &Z, double *norm2, Done &&done) {
    const typename Matrix::Read read(*this);
    const RightFactor right(*this, X);
    const auto part_of = [&](index c, index begin, index end, R *Zpart) {
      double sum = 0;
      R *local = Y == nullptr ? scratch<R>(simd::kRowBlock * X.ld, 1) : nullptr;
      for_blocks(begin, end, [&](index i, index rows, const R *block, index rs) {
        R *y = Y == nullptr ? local : Y->row(i);
        simd::Ahead next = ahead(i + rows, 2 * panel_bytes(X.ld));
        const simd::Ahead half = next.take(1, 2);
        const R *twice = right.multiply(block, rs, rows, y, half);
        right.add_transposed(block, rs, rows, y, twice, Zpart, i > begin, next);
        sum += norm2 != nullptr ? squares_of(block, rs, rows) : 0.0;
        done(c, i, rows);
      });
      return sum;
    };
    const auto finish = [&](index first, index last) { right.put_in_order(Z, first, last); };
    return reduce(X.ld, Z, 4.0, norm2, part_of, finish);
  }

  DenseMatrix mirrored() const { return DenseMatrix(A_.adjoint(), scale_); }

  void multiply_by_rows(const Panel &X, Panel &Y, double *norm2) {
    const RightFactor right(*this, X);
    const double flops = 2.0 * static_cast<double>(A_.m) * static_cast<double>(A_.n) *
                         static_cast<double>(X.ld) * kPlanes<T>;
    const RowChunks chunks(A_.m, chunks_for(flops, std::min<index>(128, A_.m / 192 + 1)),
                           simd::kRowBlock);
    std::vector<double> squares(static_cast<std::size_t>(chunks.count));
    parallel_for(chunks.count, [&](index c) {
      double sum = 0;
      for_blocks(chunks.first(c), chunks.last(c),
                 [&](index i, index rows, const R *block, index rs) {
                   right.multiply(block, rs, rows, Y.row(i), ahead(i + rows, panel_bytes(X.ld)));
                   sum += norm2 != nullptr ? squares_of(block, rs, rows) : 0.0;
                 });
      squares[c] = sum;
    });
    if (norm2 != nullptr)
      *norm2 = std::accumulate(squares.begin(), squares.end(), 0.0);
  }

  /// Rows are contiguous, and there are enough columns for `adjoint_by_columns`.
  bool by_columns() const { return this->direct() && depth() >= kSlabs * kSlabColumns; }

  /// In slabs of columns of A: no sums of parts, and a slab's product stays in the second-level
  /// cache.
  void adjoint_by_columns(const Panel &Y, Panel &Z, double *norm2) {
    const index bytes = A_.m * depth() * static_cast<index>(sizeof(R));
    const index wanted = std::max({kSlabs, panel_bytes(Y.ld) / kSlabBytes, bytes / kUninterrupted});
    const RowChunks slabs(A_.n, wanted, kSlabColumns / kPlanes<T>);
    const auto *A = reinterpret_cast<const R *>(A_.data);
    const index rs = kPlanes<T> * A_.rs;
    std::vector<double> squares(static_cast<std::size_t>(slabs.count), 0.0);
    parallel_for(slabs.count, [&](index c) {
      const index first = kPlanes<T> * slabs.first(c), last = kPlanes<T> * slabs.last(c);
      R *sums = is_complex_v<T> ? scratch<R>((last - first) * Y.ld, 1) : Z.row(first);
      for (index i = 0; i < A_.m; i += simd::kRowBlock) {
        const index rows = std::min(simd::kRowBlock, A_.m - i);
        simd::Ahead next;
        next.below = i + 2 * rows <= A_.m;
        for (index j = first; j < last; j += kSlabColumns)
          simd::dense<R>().multiply_transposed(A + i * rs + j, rs, rows,
                                               std::min(kSlabColumns, last - j), Y.row(i), Y.ld,
                                               Y.ld, sums + (j - first) * Y.ld, Y.ld, i > 0, next);
        if (norm2 != nullptr)
          for (index r = i; r < i + rows; ++r)
            squares[c] += simd::dense<R>().sum_squares_fast(A + r * rs + first, last - first);
      }
      if constexpr (is_complex_v<T>)
        for (index j = slabs.first(c); j < slabs.last(c); ++j) {
          std::fill_n(Z.row(j), Z.ld, R(0));
          fold(sums + (2 * j - first) * Y.ld, Y.ld, Z.width, Z.row(j));
        }
    });
    if (norm2 != nullptr)
      *norm2 = std::accumulate(squares.begin(), squares.end(), 0.0);
  }

  void adjoint_by_rows(const Panel &Y, Panel &Z, double *norm2) {
    const auto part_of = [&](index, index begin, index end, R *Zpart) {
      double sum = 0;
      for_blocks(begin, end, [&](index i, index rows, const R *block, index rs) {
        simd::dense<R>().multiply_transposed(block, rs, rows, depth(), Y.row(i), Y.ld, Y.ld, Zpart,
                                             Y.ld, i > begin, ahead(i + rows, panel_bytes(Y.ld)));
        sum += norm2 != nullptr ? squares_of(block, rs, rows) : 0.0;
      });
      return sum;
    };
    reduce(Y.ld, Z, 2.0, norm2, part_of, [](index, index) {});
  }

  /// z += what the two rows of a product with interleaved entries stand for.
  void fold(const R *even, index ldy, index w, R *z) const {
    const R flip = A_.conjugated ? R(-1) : R(1);
    const R *odd = even + ldy;
    for (index c = 0; c < w; ++c) {
      z[c] += even[c] + flip * odd[w + c];
      z[w + c] += even[w + c] - flip * odd[c];
    }
  }

  double squares_of(const R *block, index rs, index rows) const {
    double sum = 0;
    for (index r = 0; r < rows; ++r)
      sum += simd::dense<R>().sum_squares_fast(block + r * rs, depth());
    return sum;
  }

  /// Z = sum over parts c of the rows of part_of(c, begin, end, Zpart), which sets Zpart (planes n
  /// x ldy); norm2, where wanted, the sum of what it returns. Then finish(first, last) for rows of
  /// Z, an even number of them but for the last. Returns the number of parts, at most kParts.
  template <class Part, class Finish>
  index reduce(index ldy, Panel &Z, double flops_per, double *norm2, Part &&part_of,
               Finish &&finish) {
    const index size = depth() * ldy;
    const double flops = flops_per * static_cast<double>(A_.m) * static_cast<double>(size);
    const index budget = kPartialBytes / static_cast<index>(sizeof(R)) + (A_.m + A_.n) * ldy;
    // A part costs its addition to the others: no parts of few rows, and few parts of a short A.
    constexpr index kFewestRows = 256, kRowsPerPart = 448;
    const index shares = A_.m < 2 * kFewestRows ? 1 : std::max<index>(2, A_.m / kRowsPerPart);
    const index wanted = std::min(
        shares, std::max<index>(2, std::min<index>(kParts, budget / std::max<index>(1, size))));
    const RowChunks chunks(A_.m, chunks_for(flops, wanted), simd::kRowBlock);
    std::vector<double> sums(static_cast<std::size_t>(chunks.count));
    // For real A the first part is Z itself.
    constexpr index kApart = is_complex_v<T> ? 0 : 1;
    Buffer<R> parts((chunks.count - kApart) * size);
    parallel_for(chunks.count, [&](index c) {
      R *part = c < kApart ? Z.row(0) : parts.get() + (c - kApart) * size;
      sums[c] = part_of(c, chunks.first(c), chunks.last(c), part);
    });
    // Bound by memory: an addition costs more than a flop.
    const double cost = 8.0 * static_cast<double>(chunks.count * size);
    const RowChunks out(A_.n, chunks_for(cost, 16), 16);
    parallel_for(out.count, [&](index o) {
      const index first = out.first(o), last = out.last(o);
      if constexpr (!is_complex_v<T>) {
        add_parts(Z.row(first), parts.get() + first * ldy, chunks.count - kApart, size,
                  (last - first) * ldy);
      } else {
        for (index j = first; j < last; ++j) {
          std::fill(Z.row(j), Z.row(j) + Z.ld, R(0));
          for (index p = 0; p < chunks.count; ++p)
            fold(parts.get() + p * size + 2 * j * ldy, ldy, Z.width, Z.row(j));
        }
      }
      finish(first, last);
    });
    if (norm2 != nullptr)
      *norm2 = std::accumulate(sums.begin(), sums.end(), 0.0);
    return chunks.count;
  }

  using DenseRows<T>::A_;
  using DenseRows<T>::scale_;
};

// --- sparse ---

template <class T, class I> class CsrMatrix final : public Host<T>::Matrix {
public:
  using R = real_t<T>;
  using Panel = lowla::Panel<T>;
  using Matrix = typename Host<T>::Matrix;

  explicit CsrMatrix(CsrView<T, I> A, bool adjoint = false) : A_(A), adjoint_(adjoint) {
    this->m = adjoint ? A.n : A.m;
    this->n = adjoint ? A.m : A.n;
  }

  void multiply(const Panel &X, Panel &Y, double *norm2) override {
    const typename Matrix::Read read(*this);
    if (adjoint_)
      scatter(X, Y);
    else
      gather(X, Y);
    if (norm2 != nullptr)
      *norm2 = squares();
  }
  void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2) override {
    const typename Matrix::Read read(*this);
    if (adjoint_)
      gather(Y, Z);
    else
      scatter(Y, Z);
    if (norm2 != nullptr)
      *norm2 = squares();
  }
  void normal(const Panel &X, Panel *Y, Panel &Z, double *norm2) override {
    if (adjoint_ || Y != nullptr) {
      Matrix::normal(X, Y, Z, norm2);
      return;
    }
    const typename Matrix::Read read(*this);
    accumulate(Z, X.ld, [&](index first, index last, R *part) {
      simd::sparse<T, I>().normal(A_.indptr, A_.indices, values(), first, last, X.row(0), X.ld,
                                  X.width, part, X.ld);
    });
    if (norm2 != nullptr)
      *norm2 = squares();
  }
  double scan(bool &finite) override {
    const auto first = static_cast<index>(A_.indptr[0]);
    finite = true;
    return largest_finite(reinterpret_cast<const R *>(values() + first), kPlanes<T> * A_.nnz(),
                          finite);
  }
  void rescale(R factor) override {
    const index end = static_cast<index>(A_.indptr[A_.m]);
    scaled_ = std::make_shared<std::vector<T>>(A_.data, A_.data + end);
    for (T &a : *scaled_)
      a *= factor;
  }
  std::unique_ptr<Matrix> adjoint() const override {
    auto flipped = std::make_unique<CsrMatrix>(A_, !adjoint_);
    flipped->scaled_ = scaled_;
    return flipped;
  }
  double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) override {
    const typename Matrix::Read read(*this);
    return adjoint_ ? residual(V, s, U) : residual(U, s, V);
  }
  bool cheap_to_read() const override { return true; }

private:
  const T *values() const { return scaled_ ? scaled_->data() : A_.data; }

  void gather(const Panel &X, Panel &Y) {
    const auto bounds = csr_chunks(A_, 64);
    parallel_for(static_cast<index>(bounds.size()) - 1, [&](index c) {
      simd::sparse<T, I>().multiply(A_.indptr, A_.indices, values(), bounds[c], bounds[c + 1],
                                    X.row(0), X.ld, X.width, Y.row(0), Y.ld);
    });
  }

  void scatter(const Panel &Y, Panel &Z) {
    accumulate(Z, Y.ld, [&](index first, index last, R *part) {
      simd::sparse<T, I>().multiply_adjoint(A_.indptr, A_.indices, values(), first, last, Y.row(0),
                                            Y.ld, Y.width, part, Y.ld);
    });
  }

  template <class Body> void accumulate(Panel &Z, index ld, Body &&body) {
    const index size = A_.n * ld;
    const index budget = kPartialBytes / static_cast<index>(sizeof(R)) + (A_.m + A_.n) * ld;
    const auto bounds =
        csr_chunks(A_, std::max<index>(2, std::min<index>(4, budget / std::max<index>(1, size))));
    const index count = static_cast<index>(bounds.size()) - 1;
    Buffer<R> parts(count * size);
    parallel_for(count, [&](index c) {
      R *part = parts.get() + c * size;
      std::fill(part, part + size, R(0));
      body(bounds[c], bounds[c + 1], part);
    });
    const RowChunks out(A_.n, chunks_for(static_cast<double>(count * size), 16), 16);
    parallel_for(out.count, [&](index o) {
      const index first = out.first(o), numbers = (out.last(o) - first) * ld;
      std::fill_n(Z.row(first), numbers, R(0));
      add_parts(Z.row(first), parts.get() + first * ld, count, size, numbers);
    });
  }

  double squares() const {
    const R *x =
        reinterpret_cast<const R *>(values()) + kPlanes<T> * static_cast<index>(A_.indptr[0]);
    const index total = kPlanes<T> * A_.nnz();
    if (!A_has_duplicates())
      return simd::dense<R>().sum_squares(x, total);
    double sum = 0;
    std::vector<Wide> row(static_cast<std::size_t>(A_.n), Wide(0));
    for (index i = 0; i < A_.m; ++i) {
      for (I k = A_.indptr[i]; k < A_.indptr[i + 1]; ++k)
        row[A_.indices[k]] += Wide(values()[k]);
      for (I k = A_.indptr[i]; k < A_.indptr[i + 1]; ++k) {
        sum += abs2(row[A_.indices[k]]);
        row[A_.indices[k]] = Wide(0);
      }
    }
    return sum;
  }

  using Wide = wide_t<T>;

  bool A_has_duplicates() const {
    if (!checked_) {
      checked_ = true;
      std::vector<index> seen(static_cast<std::size_t>(A_.n), -1);
      for (index i = 0; i < A_.m && !duplicates_; ++i) {
        bool sorted = true;
        for (I k = A_.indptr[i] + 1; k < A_.indptr[i + 1]; ++k)
          sorted = sorted && A_.indices[k - 1] < A_.indices[k];
        if (sorted)
          continue;
        for (I k = A_.indptr[i]; k < A_.indptr[i + 1]; ++k) {
          duplicates_ = duplicates_ || seen[A_.indices[k]] == i;
          seen[A_.indices[k]] = i;
        }
      }
    }
    return duplicates_;
  }

  /// Dense rows of -U S V^H, a few at a time, with the sparse rows added: O(m n k), the price of a
  /// measured error where the identity ||A||^2 - sum s^2 has lost its digits.
  double residual(const Panel &U, const std::vector<double> &s, const Panel &V) const {
    constexpr index kRows = 8;
    const index k = U.cols, w = round_up(A_.n, simd::panel_unit<R>), width = kPlanes<T> * w;
    Buffer<R> right(U.ld * width);
    std::fill(right.get(), right.get() + U.ld * width, R(0));
    for (index j = 0; j < A_.n; ++j)
      for (index c = 0; c < k; ++c) {
        right.get()[c * width + j] = V.row(j)[c];
        if constexpr (is_complex_v<T>) {
          const R vi = V.row(j)[V.width + c];
          right.get()[c * width + w + j] = -vi;
          right.get()[(U.width + c) * width + j] = vi;
          right.get()[(U.width + c) * width + w + j] = V.row(j)[c];
        }
      }
    const auto bounds = csr_chunks(A_, 64);
    std::vector<double> sums(bounds.size(), 0.0);
    parallel_for(static_cast<index>(bounds.size()) - 1, [&](index c) {
      R *left = scratch<R>(kRows * U.ld, 1);
      R *product = scratch<R>(kRows * width, 2);
      for (index i = bounds[c]; i < bounds[c + 1]; i += kRows) {
        const index rows = std::min(kRows, bounds[c + 1] - i);
        scale_rows(U, s, i, rows, left);
        simd::dense<R>().multiply(left, U.ld, rows, U.ld, right.get(), width, width, product, width,
                                  false, {});
        for (index r = 0; r < rows; ++r) {
          R *row = product + r * width;
          for (I p = A_.indptr[i + r]; p < A_.indptr[i + r + 1]; ++p) {
            const R *value = reinterpret_cast<const R *>(values() + p);
            row[A_.indices[p]] += value[0];
            if constexpr (is_complex_v<T>)
              row[w + A_.indices[p]] += value[1];
          }
          sums[c] += simd::dense<R>().sum_squares(row, width);
        }
      }
    });
    double total = 0;
    for (double x : sums)
      total += x;
    return total;
  }

  CsrView<T, I> A_;
  bool adjoint_;
  std::shared_ptr<std::vector<T>> scaled_;
  mutable bool checked_ = false, duplicates_ = false;
};

} // namespace

template <class T> std::unique_ptr<typename Host<T>::Matrix> Host<T>::dense(MatrixView<T> A) {
  return std::make_unique<DenseMatrix<T>>(A);
}

template <class T>
template <class I>
std::unique_ptr<typename Host<T>::Matrix> Host<T>::csr(CsrView<T, I> A) {
  return std::make_unique<CsrMatrix<T, I>>(A);
}

template <class T>
void Host<T>::fill_normal(Panel &P, std::uint64_t key, std::uint32_t stream, index first) {
  // The generator runs along the rows of P: blocks of it are drawn transposed.
  constexpr index kRows = 64;
  const index skipped = first % 4, groups = (skipped + P.cols + 3) / 4;
  const RowChunks chunks(P.rows, chunks_for(10.0 * static_cast<double>(P.rows * P.cols), 64),
                         kRows);
  parallel_for(chunks.count, [&](index c) {
    R *drawn = scratch<R>(4 * groups * kRows, 1);
    for (index j = chunks.first(c); j < chunks.last(c); j += kRows) {
      const index rows = std::min(kRows, chunks.last(c) - j);
      simd::sketching<R>().normals(key, stream, first / 4, groups, j, rows, drawn, kRows);
      for (index r = 0; r < rows; ++r) {
        R *row = P.row(j + r);
        for (index i = 0; i < P.cols; ++i)
          row[i] = drawn[(skipped + i) * kRows + r];
        std::fill(row + P.cols, row + P.ld, R(0));
      }
    }
  });
}

template <class T> void Host<T>::fill_sjlt(Panel &P, std::uint64_t key, index nnz) {
  P.zero();
  for (index j = 0; j < P.rows; ++j)
    for (index b = 0; b < nnz; ++b) {
      const auto words = philox::block(key, philox::kStreamSjlt, static_cast<std::uint64_t>(b >> 2),
                                       static_cast<std::uint64_t>(j));
      const auto entry = philox::sjlt_entry(words.w[b & 3], b, P.cols, nnz);
      P.row(j)[entry.row] = static_cast<R>(entry.sign);
    }
}

template <class T> void Host<T>::set_identity(Panel &P) {
  P.zero();
  for (index j = 0; j < std::min(P.rows, P.cols); ++j)
    P.row(j)[j] = R(1);
}

template <class T> typename Host<T>::Panel Host<T>::copy(const Panel &P) {
  Panel out(P.rows, P.cols);
  std::copy(P.row(0), P.row(0) + P.rows * P.ld, out.row(0));
  return out;
}

namespace {

/// The stacked P_i^H W: products of kProductRows rows in the precision Product.
template <class Product, class T>
Small<wide_t<T>> stacked_products(const std::vector<const Panel<T> *> &P, const Panel<T> &W) {
  const bool symmetric = P.size() == 1 && P[0] == &W;
  const index total = stacked_ld(P);
  // Tasks: row chunks by column panels of W, so that partial sums stay within their budget.
  const index panel = 4 * simd::panel_unit<Product>;
  const index columns = std::min(W.ld, round_up(used(W), simd::panel_unit<Product>));
  const index n_panels = (columns + panel - 1) / panel;
  const index size = total * W.ld;
  const double flops = 2.0 * static_cast<double>(W.rows) * static_cast<double>(size);
  const RowChunks chunks(W.rows, chunks_for(flops, parts_of_products(W.rows, size)), kProductRows);
  const index groups = std::min<index>(n_panels, chunks.count >= 8 ? 1 : chunks_for(flops, 8));
  Buffer<double> parts(chunks.count * size);
  parallel_for(chunks.count * groups, [&](index task) {
    const index c = task / groups, g = task % groups;
    const index q0 = std::min(columns, n_panels * g / groups * panel);
    const index q1 = std::min(columns, n_panels * (g + 1) / groups * panel);
    double *part = parts.get() + c * size;
    for (index row = 0; row < total; ++row)
      std::fill(part + row * W.ld + q0, part + row * W.ld + q1, 0.0);
    for (index i = chunks.first(c); i < chunks.last(c); i += kProductRows) {
      const index depth = std::min(chunks.last(c) - i, kProductRows);
      double *target = part;
      const Product *w = as<Product>(W.row(i), depth * W.ld, 1);
      for (const Panel<T> *p : P) {
        const Product *x = p == &W ? w : as<Product>(p->row(i), depth * p->ld, 0);
        // The Gram matrix needs its upper triangle only, by panels.
        const bool triangle = symmetric && !is_complex_v<T>;
        for (index q = q0; q < q1; q += triangle ? panel : q1 - q0) {
          const index width = triangle ? std::min(panel, q1 - q) : q1 - q0;
          const index rows = triangle ? std::min(used(*p), q + panel) : used(*p);
          add_products(x, p->ld, rows, w + q, W.ld, width, depth, target + q, W.ld);
        }
        target += p->ld * W.ld;
      }
    }
  });
  return sum_of_products(P, W, parts.get(), chunks.count);
}

} // namespace

template <class T> Small<wide_t<T>> Host<T>::inner(const Panels &P, const Panel &W) {
  return stacked_products<double>(P, W);
}

template <class T> Small<wide_t<T>> Host<T>::coefficients(const Panels &P, const Panel &W) {
  return stacked_products<R>(P, W);
}

template <class T> Small<wide_t<T>> Host<T>::gram(const Panel &Y) { return inner({&Y}, Y); }

namespace {

/// f(i, rows) for blocks of rows of W; `inner` multiply-adds for each of its numbers.
template <class T, class F> void for_row_blocks(const Panel<T> &W, index inner, F &&f) {
  const double flops = 2.0 * static_cast<double>(W.rows) * static_cast<double>(inner * W.ld);
  const RowChunks chunks(W.rows, chunks_for(flops, std::min<index>(64, W.rows / 48 + 1)),
                         simd::kRowBlock);
  parallel_for(chunks.count, [&](index c) {
    for (index i = chunks.first(c); i < chunks.last(c); i += simd::kRowBlock)
      f(i, std::min(simd::kRowBlock, chunks.last(c) - i));
  });
}

/// The stacked P_i^H W and, below them, W^H W, added up in the precision Gram: those of a block of
/// rows once write(i, rows) has written it.
template <class Gram, class T, class F>
Small<wide_t<T>> products_once_written(std::vector<const Panel<T> *> P, const Panel<T> &W,
                                       F &&write) {
  const index above = stacked_ld(P) * W.ld, size = above + W.ld * W.ld;
  const double flops = 2.0 * static_cast<double>(W.rows) * static_cast<double>(size);
  const RowChunks chunks(W.rows, chunks_for(flops, parts_of_products(W.rows, size)), kProductRows);
  Buffer<double> parts(chunks.count * size);
  parallel_for(chunks.count, [&](index c) {
    double *part = parts.get() + c * size;
    std::fill(part, part + size, 0.0);
    for (index i = chunks.first(c); i < chunks.last(c); i += kProductRows) {
      const index rows = std::min(chunks.last(c) - i, kProductRows);
      write(i, rows);
      add_stacked(P, W, i, rows, part);
      const Gram *w = as<Gram>(W.row(i), rows * W.ld, 1);
      add_products(w, W.ld, used(W), w, W.ld, W.ld, rows, part + above, W.ld);
    }
  });
  P.push_back(&W);
  return sum_of_products<T>(P, W, parts.get(), chunks.count);
}

/// sign sum_i P_i H_i, by blocks of rows.
template <class T> class Combination {
public:
  using R = real_t<T>;

  Combination(const std::vector<const Panel<T> *> &P, const Small<wide_t<T>> &H, const Panel<T> &W,
              double sign)
      : P_(P) {
    index first = 0;
    for (const Panel<T> *p : P) {
      factors_.push_back(embed_small<T>(H, first, p->cols, p->width, W.width, sign));
      first += p->cols;
    }
  }

  /// W (+)= it in rows i .. i + rows - 1.
  void add_to(Panel<T> &W, index i, index rows, bool add) const {
    for (std::size_t b = 0; b < P_.size(); ++b)
      simd::dense<R>().multiply(P_[b]->row(i), P_[b]->ld, rows, used(*P_[b]), factors_[b].get(),
                                W.ld, W.ld, W.row(i), W.ld, add || b > 0, {});
  }

  void add_to(Panel<T> &W, bool add) const {
    for_row_blocks(W, stacked_ld(P_), [&](index i, index rows) { add_to(W, i, rows, add); });
  }

private:
  const std::vector<const Panel<T> *> &P_;
  std::vector<Buffer<R>> factors_;
};

/// Y <- Y M, by blocks of rows.
template <class T> class RightMultiplier {
public:
  using R = real_t<T>;

  RightMultiplier(const Small<wide_t<T>> &M, const Panel<T> &Y)
      : factor_(embed_small<T>(M, 0, M.rows, Y.width, Y.width, 1.0)) {}

  void operator()(Panel<T> &Y, index i, index rows) const {
    R *product = scratch<R>(rows * Y.ld, 1);
    simd::dense<R>().multiply(Y.row(i), Y.ld, rows, used(Y), factor_.get(), Y.ld, Y.ld, product,
                              Y.ld, false, {});
    std::copy(product, product + rows * Y.ld, Y.row(i));
  }

private:
  Buffer<R> factor_;
};

} // namespace

template <class T> void Host<T>::subtract(Panel &W, const Panels &P, const Small<Wide> &H) {
  Combination<T>(P, H, W, -1.0).add_to(W, true);
}

template <class T>
typename Host<T>::Panel Host<T>::combine(const Panels &P, const Small<Wide> &E, Small<Wide> *G) {
  Panel W(P.front()->rows, E.cols);
  const Combination<T> sum(P, E, W, 1.0);
  if (G == nullptr || W.ld > kNarrow * simd::panel_unit<R>) {
    sum.add_to(W, false);
    if (G != nullptr)
      *G = coefficients({&W}, W);
    return W;
  }
  *G = products_once_written<R>(Panels{}, W,
                                [&](index i, index rows) { sum.add_to(W, i, rows, false); });
  return W;
}

template <class T> void Host<T>::multiply_right(Panel &Y, const Small<Wide> &M) {
  const RightMultiplier<T> times(M, Y);
  for_row_blocks(Y, Y.ld, [&](index i, index rows) { times(Y, i, rows); });
}

template <class T>
Small<wide_t<T>> Host<T>::update(Panel &W, const Panels &P, const Small<Wide> &H,
                                 const Small<Wide> *M, const Panels *Q) {
  // Wide panels: one after the other.
  if (W.ld > kNarrow * simd::panel_unit<R>) {
    if (!P.empty())
      subtract(W, P, H);
    if (M != nullptr)
      multiply_right(W, *M);
    return Q == nullptr ? Small<Wide>() : small::stack(coefficients(*Q, W), gram(W));
  }
  const Combination<T> minus(P, H, W, -1.0);
  const RightMultiplier<T> times(M != nullptr ? *M : Small<Wide>(), W);
  const auto write = [&](index i, index rows) {
    minus.add_to(W, i, rows, true);
    if (M != nullptr)
      times(W, i, rows);
  };
  if (Q != nullptr)
    return products_once_written<double>(*Q, W, write);
  for_row_blocks(W, stacked_ld(P) + W.ld, write);
  return {};
}

namespace {

/// The entry (i, j) of a panel.
template <class T> wide_t<T> entry_of(const Panel<T> &P, index i, index j) {
  if constexpr (is_complex_v<T>)
    return {P.row(i)[j], P.row(i)[P.width + j]};
  else
    return P.row(i)[j];
}

/// Rows of a panel copied or searched at a time: few enough for the first-level cache.
constexpr index kCopyRows = 128;

} // namespace

namespace {

/// largest[j] = max over rows of |x(i, j)|, or of its square where rows hold imaginary parts too,
/// `imaginary` numbers after the real ones (0: none).
template <class R>
inline __attribute__((always_inline)) void
column_peaks(const R *x, index rows, index ld, index width, index imaginary, double *largest) {
  for (index j = 0; j < width; ++j)
    largest[j] = -1.0;
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < width; ++j) {
      const double re = x[i * ld + j];
      double size = re < 0 ? -re : re;
      if (imaginary > 0) {
        const double im = x[i * ld + imaginary + j];
        size = re * re + im * im;
      }
      largest[j] = size > largest[j] ? size : largest[j];
    }
}
LOWLA_CLONES void peaks_of(const float *x, index rows, index ld, index width, index imaginary,
                           double *largest) {
  column_peaks(x, rows, ld, width, imaginary, largest);
}
LOWLA_CLONES void peaks_of(const double *x, index rows, index ld, index width, index imaginary,
                           double *largest) {
  column_peaks(x, rows, ld, width, imaginary, largest);
}

} // namespace

template <class T> std::vector<wide_t<T>> Host<T>::peaks(const Panel &P) {
  const index blocks = (P.rows + kCopyRows - 1) / kCopyRows;
  std::vector<double> largest(static_cast<std::size_t>(blocks * P.width));
  const RowChunks chunks(blocks, chunks_for(4.0 * static_cast<double>(P.rows * P.ld), 64), 1);
  parallel_for(chunks.count, [&](index c) {
    for (index b = chunks.first(c); b < chunks.last(c); ++b)
      peaks_of(P.row(b * kCopyRows), std::min(kCopyRows, P.rows - b * kCopyRows), P.ld, P.width,
               is_complex_v<T> ? P.width : 0, largest.data() + b * P.width);
  });
  // The first entry that attains it.
  std::vector<Wide> peaks(static_cast<std::size_t>(P.cols), Wide(0));
  for (index j = 0; j < P.cols; ++j) {
    index best = 0;
    for (index b = 1; b < blocks; ++b)
      if (largest[b * P.width + j] > largest[best * P.width + j])
        best = b;
    double size = -1.0;
    for (index i = best * kCopyRows; i < std::min(P.rows, (best + 1) * kCopyRows); ++i) {
      const Wide value = entry_of(P, i, j);
      const double here = is_complex_v<T> ? abs2(value) : std::abs(value);
      if (here > size) {
        size = here;
        peaks[j] = value;
      }
    }
  }
  return peaks;
}

template <class T>
void Host<T>::store(const Panel &P, const std::vector<Wide> &factor, T *out, index rs, index cs,
                    bool conjugate) {
  const auto write = [&](index i, index j, T *target) {
    if constexpr (is_complex_v<T>) {
      const Wide value = entry_of(P, i, j) * factor[j];
      *target =
          T(static_cast<R>(value.real()), static_cast<R>(conjugate ? -value.imag() : value.imag()));
    } else {
      *target = P.row(i)[j] * static_cast<R>(factor[j]);
    }
  };
  const RowChunks chunks(P.rows, chunks_for(4.0 * static_cast<double>(P.rows * P.ld), 64),
                         kCopyRows);
  parallel_for(chunks.count, [&](index c) {
    if (cs == 1) {
      for (index i = chunks.first(c); i < chunks.last(c); ++i)
        for (index j = 0; j < P.cols; ++j)
          write(i, j, out + i * rs + j);
      return;
    }
    for (index first = chunks.first(c); first < chunks.last(c); first += kCopyRows)
      for (index j = 0; j < P.cols; ++j)
        for (index i = first; i < std::min(chunks.last(c), first + kCopyRows); ++i)
          write(i, j, out + i * rs + j * cs);
  });
}

template <class T> void Host<T>::load(Panel &P, MatrixView<T> A) {
  P.zero();
  for (index i = 0; i < A.m; ++i)
    for (index j = 0; j < A.n; ++j) {
      const R *entry = reinterpret_cast<const R *>(A.at(i, j));
      P.row(i)[j] = entry[0];
      if constexpr (is_complex_v<T>)
        P.row(i)[P.width + j] = A.conjugated ? -entry[1] : entry[1];
    }
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template struct Host<T>;                                                                         \
  template std::unique_ptr<typename Host<T>::Matrix> Host<T>::csr(CsrView<T, std::int32_t>);       \
  template std::unique_ptr<typename Host<T>::Matrix> Host<T>::csr(CsrView<T, std::int64_t>);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
