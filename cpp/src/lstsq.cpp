// Passes over a tall dense matrix in main memory for least squares (see lstsq.hpp).
//
// gram: row blocks of kBlock rows. Y = A_block P by column panels, each to the depth of the
// triangle, stays in the second-level cache; then the upper blocks of Y^H Y. Per entry of A 2 n
// flops, A read once. residual: blocks of simd::kRowBlock rows; y = b - A X, and A^H y added up
// over kChain rows before it joins a compensated sum, so that its error does not grow with m.
#include "lowla/lstsq.hpp"

#include "host_rows.hpp"

#include "lowla/core/clones.hpp"

namespace lowla {
namespace {

using namespace rows;

/// Columns of a panel of P and Y, in panel units: one register tile. A panel is contiguous: rows
/// that lie a page apart cost a third of the speed at n = 500.
constexpr index kPanelUnits = 3;
/// Rows of a block of Y.
constexpr index kBlock = 4 * simd::kRowBlock;

/// Rows whose contributions to A^H y are added up plainly: the gradient's rounding limits the
/// forward error of the solution.
constexpr index kChain = 16;

/// sum += x with the rounding error kept in `lost` (Knuth's two-sum).
LOWLA_CLONES void add_compensated(const double *x, double *sum, double *lost, index n) {
  for (index i = 0; i < n; ++i) {
    const double s = sum[i] + x[i];
    const double back = s - sum[i];
    lost[i] += (sum[i] - (s - back)) + (x[i] - back);
    sum[i] = s;
  }
}

/// The right factor of A M for stored rows of A.
template <class R, class T>
Buffer<R> right_factor(const Small<wide_t<T>> &M, index width, bool conjugated) {
  return embedded<R, T>(M.rows, M.cols, width, conjugated,
                        [&](index i, index j) { return M(i, j); });
}

/// The columns of a row-major matrix one after the other.
Buffer<double> by_columns(const double *M, index rows, index cols) {
  Buffer<double> out(rows * cols);
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < cols; ++j)
      out.get()[j * rows + i] = M[i * cols + j];
  return out;
}

/// The panels of a row-major matrix one after the other.
template <class R> Buffer<R> by_panels(const Buffer<R> &M, index rows, index cols) {
  constexpr index panel = kPanelUnits * simd::panel_unit<R>;
  Buffer<R> out(rows * cols);
  for (index q = 0; q < cols; q += panel) {
    const index width = std::min(panel, cols - q);
    for (index i = 0; i < rows; ++i)
      std::copy_n(M.get() + i * cols + q, width, out.get() + q * rows + i * width);
  }
  return out;
}

/// Rows first.. of b as a planar panel with `width` columns a plane.
template <class Out, class T>
void load_rows(MatrixView<T> b, index first, index count, index width, Out *out) {
  const index ld = kPlanes<T> * width;
  std::fill(out, out + count * ld, Out(0));
  for (index i = 0; i < count; ++i)
    for (index j = 0; j < b.n; ++j) {
      const T value = *b.at(first + i, j);
      out[i * ld + j] = static_cast<Out>(std::real(value));
      if constexpr (is_complex_v<T>)
        out[i * ld + width + j] = static_cast<Out>(b.conjugated ? -value.imag() : value.imag());
    }
}

template <class T> class DenseTall final : public TallMatrix<T>, private DenseRows<T> {
public:
  using R = real_t<T>;
  using Wide = wide_t<T>;

  DenseTall(MatrixView<T> A, MatrixView<T> b) : DenseRows<T>(A), b_(b) {
    this->m = A.m;
    this->n = A.n;
    this->r = b.n;
  }

  Small<Wide> sketch(const SketchSpec &spec) override {
    const Buffer<T> SA = sketched_rows(spec);
    Small<Wide> S(spec.d, A_.n);
    for (index j = 0; j < A_.n; ++j)
      for (index i = 0; i < spec.d; ++i)
        S(i, j) = Wide(SA.get()[i * A_.n + j]);
    return S;
  }

  void gram(const Small<Wide> &P, Small<Wide> &G, Small<Wide> &H) override {
    ++this->reads;
    const MatrixView<T> &b = b_;
    constexpr index unit = simd::panel_unit<R>, panel = kPanelUnits * unit;
    const index n = A_.n, depth = this->depth();
    const index width = round_up(n, unit), ld = kPlanes<T> * width;
    const index used = is_complex_v<T> ? ld : n;
    const index b_width = round_up(b.n, unit), ldb = kPlanes<T> * b_width;
    const Buffer<R> right = by_panels(right_factor<R, T>(P, width, A_.conjugated), depth, ld);
    const index size = used * (ld + ldb);
    const index budget =
        std::max<index>(index(16) << 20, 6 * n * n * static_cast<index>(sizeof(T)));
    const index wanted =
        std::clamp<index>(budget / (size * static_cast<index>(sizeof(double))), 2, 16);
    const double flops = 2.0 * static_cast<double>(A_.m) * static_cast<double>(size);
    const RowChunks chunks(A_.m, chunks_for(flops, wanted), kBlock);
    Buffer<double> parts(chunks.count * size);
    parallel_for(chunks.count, [&](index c) {
      double *G_part = parts.get() + c * size, *H_part = G_part + used * ld;
      std::fill(G_part, G_part + size, 0.0);
      R *Y = scratch<R>(kBlock * ld, 1), *rhs = scratch<R>(kBlock * ldb, 3);
      for (index first = chunks.first(c); first < chunks.last(c); first += kBlock) {
        const index rows = std::min(kBlock, chunks.last(c) - first);
        // Y by panels: that of the columns q, q + 1, ... begins at q kBlock.
        this->for_blocks(first, first + rows, [&](index i, index count, const R *A, index rs) {
          simd::Ahead next =
              this->ahead(i + count, chunks.last(c), kBlock * ld * static_cast<index>(sizeof(R)));
          for (index q = 0; q < ld; q += panel) {
            const index cols = std::min(panel, ld - q);
            const index deep = depth_of_panel(q, cols, width);
            simd::dense<R>().multiply(A, rs, count, deep, right.get() + q * depth, cols, cols,
                                      Y + q * kBlock + (i - first) * cols, cols, false,
                                      next.take(panel, ld - q));
          }
        });
        load_rows(b, first, rows, b_width, rhs);
        for (index q = 0; q < ld; q += panel) {
          const R *Yq = Y + q * kBlock;
          const index cols = std::min(panel, ld - q);
          for (index p = 0; p <= q; p += panel) {
            const index above = std::min(panel, ld - p);
            add_products(Y + p * kBlock, above, std::min(above, used - p), Yq, cols, cols, rows,
                         G_part + p * ld + q, ld);
          }
          add_products(Yq, cols, std::min(cols, used - q), rhs, ldb, ldb, rows, H_part + q * ldb,
                       ldb);
        }
      }
    });
    for (index c = 1; c < chunks.count; ++c)
      add_parts(parts.get(), parts.get() + c * size, 1, size, size);
    G = Small<Wide>(n, n);
    H = Small<Wide>(n, b.n);
    const double *g = parts.get(), *h = g + used * ld;
    for (index i = 0; i < n; ++i) {
      for (index j = i; j < n; ++j) {
        if constexpr (is_complex_v<T>) // of the symmetric product the upper triangle is there
          G(i, j) = {g[i * ld + j] + g[(width + i) * ld + width + j],
                     g[i * ld + width + j] - g[j * ld + width + i]};
        else
          G(i, j) = g[i * ld + j];
        G(j, i) = conj_of(G(i, j));
      }
      for (index j = 0; j < b.n; ++j)
        if constexpr (is_complex_v<T>)
          H(i, j) = adjoint_entry(h, ldb, width, b_width, i, j);
        else
          H(i, j) = h[i * ldb + j];
    }
  }

  void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) override {
    ++this->reads;
    const MatrixView<T> &b = b_;
    const index n = A_.n, r = b.n, depth = this->depth();
    // Few columns as vectors, many as a panel.
    constexpr index kFew = 4;
    const bool few = kPlanes<T> * r <= kFew;
    const index width = few ? r : round_up(r, simd::panel_unit<double>), ld = kPlanes<T> * width;
    Buffer<double> right = right_factor<double, T>(X, width, A_.conjugated);
    if (few)
      right = by_columns(right.get(), depth, ld);
    const index size = depth * ld;
    const double flops = 4.0 * static_cast<double>(A_.m) * static_cast<double>(size);
    const index wanted =
        std::clamp<index>(kPartialBytes / (2 * size * static_cast<index>(sizeof(double))), 4, 16);
    const RowChunks chunks(A_.m, chunks_for(flops, wanted), simd::kRowBlock);
    Buffer<double> parts(chunks.count * 2 * size);
    std::vector<double> squares(static_cast<std::size_t>(chunks.count * r), 0.0);
    const simd::DenseKernels<double> &kernels = simd::dense<double>();
    constexpr auto item = static_cast<index>(sizeof(double));
    const bool streams = std::is_same_v<R, double> && this->rows_follow();
    parallel_for(chunks.count, [&](index c) {
      double *sum = parts.get() + c * 2 * size, *lost = sum + size;
      std::fill(sum, sum + 2 * size, 0.0);
      double *y = scratch<double>(2 * kChain * ld, 1), *target = y + kChain * ld;
      double *z = scratch<double>(size, 3);
      this->for_blocks(
          chunks.first(c), chunks.last(c), [&](index i, index count, const R *stored, index rs) {
            const double *block = wide_rows(stored, rs, count);
            const index stride = std::is_same_v<R, double> ? rs : depth;
            for (index k = 0; k < count; k += kChain) {
              const index rows = std::min(kChain, count - k);
              const double *A = block + k * stride;
              if (few)
                kernels.dots(A, stride, rows, depth, right.get(), ld, y,
                             streams ? simd::Ahead{A + rows * stride, rows * stride * item}
                                     : simd::Ahead{});
              else
                kernels.multiply(A, stride, rows, depth, right.get(), ld, ld, y, ld, false, {});
              load_rows(b, i + k, rows, width, target);
              for (index l = 0; l < rows * ld; ++l)
                y[l] = target[l] - y[l];
              for (index row = 0; row < rows; ++row)
                for (index j = 0; j < r; ++j)
                  for (int plane = 0; plane < kPlanes<T>; ++plane) {
                    const double value = y[row * ld + plane * width + j];
                    squares[c * r + j] += value * value;
                  }
              std::fill(z, z + size, 0.0);
              if (few)
                kernels.combinations(A, stride, rows, depth, y, ld, z);
              else
                kernels.multiply_transposed(A, stride, rows, depth, y, ld, ld, z, ld, true, {});
              add_compensated(z, sum, lost, size);
            }
          });
    });
    norms2.assign(static_cast<std::size_t>(r), 0.0);
    double *sum = parts.get(), *lost = sum + size;
    for (index c = 0; c < chunks.count; ++c) {
      for (index j = 0; j < r; ++j)
        norms2[j] += squares[c * r + j];
      if (c > 0) {
        add_compensated(parts.get() + c * 2 * size, sum, lost, size);
        add_parts(lost, parts.get() + c * 2 * size + size, 1, size, size);
      }
    }
    Z = Small<Wide>(n, r);
    const double flip = A_.conjugated ? -1.0 : 1.0;
    for (index i = 0; i < n; ++i)
      for (index j = 0; j < r; ++j) {
        const auto at = [&](index row, index column) {
          const index k = few ? column * depth + row : row * ld + column;
          return sum[k] + lost[k];
        };
        if constexpr (is_complex_v<T>)
          Z(i, j) = {at(2 * i, j) + flip * at(2 * i + 1, width + j),
                     at(2 * i, width + j) - flip * at(2 * i + 1, j)};
        else
          Z(i, j) = at(i, j);
      }
  }

  Small<Wide> triangle(double damp) override {
    ++this->reads;
    const index n = A_.n;
    return triangle_by_blocks<Wide>(
        A_.m, n + b_.n, n, damp, [&](index first, index rows, Small<Wide> &out, index below) {
          for (index j = 0; j < out.cols; ++j)
            for (index i = 0; i < rows; ++i)
              out(below + i, j) = j < n ? value_at(A_, first + i, j) * static_cast<double>(scale_)
                                        : value_at(b_, first + i, j - n);
        });
  }

  Small<Wide> sketched_triangle(const SketchSpec &spec, double damp) override {
    const Buffer<T> SA = sketched_rows(spec);
    Buffer<T> Sb(spec.d * b_.n);
    sketch_dense(spec, b_, Sb.get());
    return DenseTall({SA.get(), spec.d, A_.n, A_.n, 1, false},
                     {Sb.get(), spec.d, b_.n, b_.n, 1, false})
        .triangle(damp);
  }

  double scan(bool &finite) override {
    ++this->reads;
    return DenseRows<T>::scan(finite);
  }

  void rescale(R factor) override { scale_ = factor; }

  double scan_b(bool &finite) override {
    double largest = 0;
    for (index i = 0; i < b_.m; ++i)
      for (index j = 0; j < b_.n; ++j) {
        const double size = std::max(std::abs(static_cast<double>(std::real(*b_.at(i, j)))),
                                     std::abs(static_cast<double>(std::imag(*b_.at(i, j)))));
        if (!std::isfinite(size))
          finite = false;
        largest = std::max(largest, size);
      }
    return largest;
  }

  void rescale_b(R factor) override {
    scaled_b_.reserve(static_cast<std::size_t>(b_.m * b_.n));
    for (index i = 0; i < b_.m; ++i)
      for (index j = 0; j < b_.n; ++j)
        scaled_b_.push_back(*b_.at(i, j) * factor);
    b_ = {scaled_b_.data(), b_.m, b_.n, b_.n, 1, b_.conjugated};
  }

  std::vector<double> norms2_b() override {
    std::vector<double> norms2;
    for (index j = 0; j < b_.n; ++j) {
      double sum = 0;
      for (index i = 0; i < b_.m; ++i)
        sum += abs2(Wide(*b_.at(i, j)));
      norms2.push_back(sum);
    }
    return norms2;
  }

private:
  using DenseRows<T>::A_;
  using DenseRows<T>::scale_;
  MatrixView<T> b_;
  std::vector<T> scaled_b_; ///< where b was out of range

  /// S A by rows.
  Buffer<T> sketched_rows(const SketchSpec &spec) {
    ++this->reads;
    Buffer<T> out(spec.d * A_.n);
    if (scale_ == R(1)) {
      sketch_dense(spec, A_, out.get());
      return out;
    }
    // Out of range: S A of the scaled rows, which a sketch of A itself could not hold.
    Buffer<T> scaled(A_.m * A_.n);
    for (index i = 0; i < A_.m; ++i)
      for (index j = 0; j < A_.n; ++j)
        scaled.get()[i * A_.n + j] = *A_.at(i, j) * scale_;
    sketch_dense(spec, MatrixView<T>{scaled.get(), A_.m, A_.n, A_.n, 1, A_.conjugated}, out.get());
    return out;
  }

  static Wide value_at(const MatrixView<T> &M, index i, index j) {
    const Wide value(*M.at(i, j));
    return M.conjugated ? conj_of(value) : value;
  }

  /// (Y^H W)(i, j) from the real product of the planar panels.
  static Wide adjoint_entry(const double *H, index ld, index upper_width, index width, index i,
                            index j) {
    const double *upper = H + i * ld, *lower = H + (upper_width + i) * ld;
    if constexpr (is_complex_v<T>)
      return {upper[j] + lower[width + j], upper[width + j] - lower[j]};
    else
      return upper[j];
  }

  /// Rows of P above the end of its columns q .. q + cols - 1, planes side by side: P is
  /// triangular.
  index depth_of_panel(index q, index cols, index width) const {
    const index last = q + cols - 1;
    const bool one_plane = q / width == last / width;
    return kPlanes<T> * (one_plane ? std::min(A_.n, last % width + 1) : A_.n);
  }

  /// The rows of a block in double: themselves, or widened one after the other.
  const double *wide_rows(const R *A, index rs, index count) const {
    if constexpr (std::is_same_v<R, double>) {
      (void)rs;
      (void)count;
      return A;
    } else {
      const index depth = this->depth();
      double *out = scratch<double>(simd::kRowBlock * depth, 2);
      for (index i = 0; i < count; ++i)
        widen(A + i * rs, out + i * depth, depth);
      return out;
    }
  }
};

} // namespace

template <class T> std::unique_ptr<TallMatrix<T>> tall_dense(MatrixView<T> A, MatrixView<T> b) {
  return std::make_unique<DenseTall<T>>(A, b);
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<TallMatrix<T>> tall_dense(MatrixView<T>, MatrixView<T>);                \
  template class LeastSquares<T>;
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
