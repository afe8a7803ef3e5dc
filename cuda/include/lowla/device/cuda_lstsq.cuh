// Cuda: passes over a tall dense matrix for least squares (see lstsq.hpp and device/cuda.cuh).
//
// All go over blocks of rows; the n x n algebra is the host's, in double precision.
//   gram      Y = A_block P in T; G += Y^H Y and H += Y^H b in double precision, Y widened for it.
//             4 m n^2 flops in gemm, one read of A.
//   residual  y = b - A_block X by gemm, single-precision blocks widened for it; then Z = A^H y by
//             functors, which should find the block in the L2 cache. All in double precision. The
//             rounding of Z limits the forward error of x, and summed by gemm it is too large for
//             the bound on that error: no more than 16 rows are added up plainly, these sums with
//             compensation.
//   triangle  The primitives have no QR: A crosses to the host, which factors it by blocks
//             (triangle_by_blocks). So methods "direct" and, for S A, "sketch".
// Where gemm needs conj(A) for A (`mirrored`), X and b go in conjugated, G, H and Z come out so.
//
// Memory: up to 80 MiB or three matrices of order n, S A, and where A is out of range a scaled copy
// of it for the sketch.
#pragma once

#include "lowla/device/cuda_sketch.cuh"
#include "lowla/lstsq.hpp"

#include <algorithm>

namespace lowla {
namespace cuda_detail {

/// Work space of `gram`: blocks of Y, of Y in double precision and of b.
constexpr index kGramBytes = index(64) << 20;

/// Squared norms of the columns of matrices that are added one after the other.
template <class Runtime> class ColumnSquares {
public:
  explicit ColumnSquares(index columns)
      : columns_(columns), parts_(std::clamp<index>((index(1) << 17) / columns, 16, 1024)),
        partial_(parts_ * columns) {
    Runtime::for_each(parts_ * columns, functors::Fill<double>{partial_.get(), 0.0});
  }
  template <class T> void add(const T *A, index rs, index cs, index rows) {
    Runtime::for_each(
        parts_ * columns_,
        functors::SumColumnSquares<T>{reals(A), rs, cs, rows, columns_, parts_, partial_.get()});
  }
  std::vector<double> sums() const {
    const auto partial = to_host<Runtime>(partial_.get(), parts_ * columns_);
    std::vector<double> out(static_cast<std::size_t>(columns_), 0.0);
    for (index p = 0; p < parts_; ++p)
      for (index j = 0; j < columns_; ++j)
        out[static_cast<std::size_t>(j)] += partial[static_cast<std::size_t>(p * columns_ + j)];
    return out;
  }

private:
  index columns_, parts_;
  DeviceArray<Runtime, double> partial_;
};

/// Z = A^H Y over blocks of rows, Y with r columns.
template <class T, class Runtime> class AdjointSum {
public:
  using Wide = wide_t<T>;

  AdjointSum(index n, index r)
      : n_(n), r_(r), parts_(std::clamp<index>(kEntries / (n * r), 1, kMostParts)),
        state_(2 * parts_ * n * r) {
    Runtime::for_each(2 * reals_of_parts(), functors::Fill<double>{sum(), 0.0});
  }
  void add(const Block<T> &A, const Wide *Y) {
    by_columns_ = A.by_columns;
    Runtime::for_each(parts_ * n_ * r_,
                      functors::AddAdjointParts<T>{
                          reals(A.data), A.by_columns ? 1 : A.ld, A.by_columns ? A.ld : 1, A.rows,
                          n_, A.by_columns, reals(Y), r_, parts_, sum(), lost()});
  }
  Small<Wide> total() {
    DeviceArray<Runtime, Wide> folded(n_ * r_);
    Runtime::for_each(
        n_ * r_, functors::FoldCompensated<Wide>{sum(), lost(), parts_, by_columns_ ? 1 : n_ * r_,
                                                 by_columns_ ? parts_ : 1, reals(folded.get())});
    Small<Wide> Z(n_, r_);
    Z.data = to_host<Runtime>(folded.get(), n_ * r_);
    return Z;
  }

private:
  /// Enough to occupy the GPU; the parts of one entry are folded one after the other.
  static constexpr index kEntries = index(1) << 17, kMostParts = 2048;

  index reals_of_parts() const { return parts_ * n_ * r_ * Entry<Wide>::kReals; }
  double *sum() { return reals(state_.get()); }
  double *lost() { return sum() + reals_of_parts(); }

  index n_, r_, parts_;
  bool by_columns_ = false;
  DeviceArray<Runtime, Wide> state_;
};

/// to = scale from, or its conjugate, in double precision, row-major.
template <class T, class Runtime>
void copy_wide(MatrixView<T> from, bool conjugate, double scale, wide_t<T> *to, index ld) {
  Runtime::for_each(from.m * from.n,
                    functors::CopyWide<T>{reals(from.data), from.rs, from.cs, conjugate, scale,
                                          reals(to), ld, from.n});
}

/// A scaled copy, row-major.
template <class T, class Runtime>
DeviceArray<Runtime, T> scaled(MatrixView<T> M, real_t<T> factor) {
  DeviceArray<Runtime, T> out(M.m * M.n);
  copy_entries<T, Runtime>(M, factor, out.get(), M.n, 1);
  return out;
}

/// S A of `scale` A, by rows.
template <class T, class Runtime>
DeviceArray<Runtime, T> sketch_of_rows(const SketchSpec &spec, MatrixView<T> A, real_t<T> scale) {
  DeviceArray<Runtime, T> out(spec.d * A.n);
  if (scale == real_t<T>(1)) {
    Cuda<T, Runtime>::sketch_dense(spec, A, out.get());
    return out;
  }
  // Out of range: S A of the scaled rows, which a sketch of A itself could not hold.
  const auto copy = scaled<T, Runtime>(A, scale);
  Cuda<T, Runtime>::sketch_dense(spec, {copy.get(), A.m, A.n, A.n, 1, false}, out.get());
  return out;
}

/// A and b on the device.
template <class T, class Runtime>
class CudaTall final : public TallMatrix<T>, private DenseRows<T, Runtime> {
public:
  using Device = Cuda<T, Runtime>;
  using R = real_t<T>;
  using Wide = wide_t<T>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  CudaTall(MatrixView<T> A, MatrixView<T> b) : DenseRows<T, Runtime>(A), b_(b) {
    this->m = A.m;
    this->n = A.n;
    this->r = b.n;
  }

  Small<Wide> sketch(const SketchSpec &spec) override {
    const Array<T> SA = sketched_rows(spec);
    return from_device(SA, spec.d, A_.n);
  }

  void gram(const Small<Wide> &P, Small<Wide> &G, Small<Wide> &H) override {
    ++this->reads;
    const index n = A_.n, r = b_.n;
    const index rows =
        block_rows(kGramBytes, n * static_cast<index>(sizeof(T) + (kWidens ? sizeof(Wide) : 0)) +
                                   r * static_cast<index>(sizeof(Wide)));
    const auto right = right_factor<T, Runtime>(as_stored(P));
    typename Device::Panel Y(rows, n);
    Array<Wide> wide(kWidens ? rows * Y.ld : 0), b(rows * r), g(n * n), h(n * r);
    this->for_blocks(rows, [&](index i, const Block<T> &block) {
      multiply_block<Runtime>(block, right.get(), n, n, Y.row(0), Y.ld);
      const Wide *y = wide_rows<T, Runtime>(Y, 0, block.rows, wide);
      copy_wide<T, Runtime>(b_.rows(i, block.rows), conjugates_b(), 1.0, b.get(), r);
      const Wide beta(i == 0 ? 0.0 : 1.0);
      // G^T = Y^T conj(Y) and H^T = b^T conj(Y)
      Runtime::gemm('N', 'C', n, n, block.rows, Wide(1), y, Y.ld, y, Y.ld, beta, g.get(), n);
      Runtime::gemm('N', 'C', r, n, block.rows, Wide(1), b.get(), r, y, Y.ld, beta, h.get(), r);
    });
    G = as_stored(from_device(g, n, n));
    H = as_stored(from_device(h, n, r));
  }

  void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) override {
    ++this->reads;
    const index n = A_.n, r = b_.n;
    const index rows = block_rows(kBlockBytes, (n + r) * static_cast<index>(sizeof(Wide)));
    const auto right = right_factor<Wide, Runtime>(as_stored(X));
    Array<Wide> wide(kWidens ? rows * n : 0), y(rows * r);
    AdjointSum<T, Runtime> sum(n, r);
    ColumnSquares<Runtime> squares(r);
    this->for_blocks(rows, [&](index i, const Block<T> &block) {
      multiply_block<Runtime>(widened(block, wide), right.get(), r, r, y.get(), r);
      Runtime::for_each(block.rows * r,
                        functors::SubtractFrom<T>{reals(b_.at(i, 0)), b_.rs, b_.cs, conjugates_b(),
                                                  reals(y.get()), r});
      squares.add(y.get(), r, 1, block.rows);
      sum.add(block, y.get());
    });
    norms2 = squares.sums();
    Z = as_stored(sum.total());
  }

  Small<Wide> triangle(double damp) override {
    ++this->reads;
    const index n = A_.n, columns = n + b_.n;
    const index most = block_rows(kBlockBytes, columns * static_cast<index>(sizeof(Wide)));
    std::vector<Wide> fetched; // rows `start` to `end` of [A b]
    index start = 0, end = 0;
    return triangle_by_blocks<Wide>(
        A_.m, columns, n, damp, [&](index first, index rows, Small<Wide> &out, index below) {
          if (first + rows > end) {
            start = first;
            end = std::min(A_.m, first + std::max(rows, most));
            fetched = augmented_rows(start, end - start);
          }
          for (index j = 0; j < columns; ++j)
            for (index i = 0; i < rows; ++i)
              out(below + i, j) =
                  fetched[static_cast<std::size_t>((first - start + i) * columns + j)];
        });
  }

  Small<Wide> sketched_triangle(const SketchSpec &spec, double damp) override {
    const Array<T> SA = sketched_rows(spec);
    Array<T> Sb(spec.d * b_.n);
    Device::sketch_dense(spec, b_, Sb.get());
    return CudaTall({SA.get(), spec.d, A_.n, A_.n, 1, false},
                    {Sb.get(), spec.d, b_.n, b_.n, 1, false})
        .triangle(damp);
  }

  double scan(bool &finite) override {
    ++this->reads;
    return DenseRows<T, Runtime>::scan(finite);
  }
  double scan_b(bool &finite) override { return DenseRows<T, Runtime>(b_).scan(finite); }

  void rescale(R factor) override { scale_ = factor; }
  void rescale_b(R factor) override {
    scaled_b_ = scaled<T, Runtime>(b_, factor);
    b_ = {scaled_b_.get(), b_.m, b_.n, b_.n, 1, false};
  }

  std::vector<double> norms2_b() override {
    ColumnSquares<Runtime> squares(b_.n);
    squares.add(b_.data, b_.rs, b_.cs, b_.m);
    return squares.sums();
  }

private:
  using DenseRows<T, Runtime>::A_;
  using DenseRows<T, Runtime>::scale_;
  static constexpr bool kWidens = !std::is_same_v<R, double>;

  index block_rows(index bytes, index bytes_a_row) const {
    return std::min(A_.m, std::max(kMinBlockRows, bytes / bytes_a_row));
  }

  /// S A by rows.
  Array<T> sketched_rows(const SketchSpec &spec) {
    ++this->reads;
    return sketch_of_rows<T, Runtime>(spec, A_, scale_);
  }

  template <class N> static Small<Wide> from_device(const Array<N> &rows, index m, index n) {
    const auto entries = to_host<Runtime>(rows.get(), m * n);
    Small<Wide> out(m, n);
    for (index i = 0; i < m; ++i)
      for (index j = 0; j < n; ++j)
        out(i, j) = Wide(entries[static_cast<std::size_t>(i * n + j)]);
    return out;
  }

  /// M, or conj(M) where the blocks are those of conj(A).
  Small<Wide> as_stored(Small<Wide> M) const {
    if (this->mirrored())
      for (Wide &x : M.data)
        x = conj_of(x);
    return M;
  }
  bool conjugates_b() const { return b_.conjugated != this->mirrored(); }

  /// The block in double precision and its own order: itself, or widened into `scratch`.
  static Block<Wide> widened(const Block<T> &block, Array<Wide> &scratch) {
    if constexpr (kWidens) {
      const index lines = block.by_columns ? block.cols : block.rows;
      const index length = block.by_columns ? block.rows : block.cols;
      copy_wide<T, Runtime>({block.data, lines, length, block.ld, 1, false}, false, 1.0,
                            scratch.get(), length);
      return {scratch.get(), block.rows, block.cols, length, block.by_columns};
    } else {
      (void)scratch;
      return block;
    }
  }

  /// Rows of [A b], row-major, on the host.
  std::vector<Wide> augmented_rows(index first, index count) const {
    const index n = A_.n, columns = n + b_.n;
    Array<Wide> rows(count * columns);
    copy_wide<T, Runtime>(A_.rows(first, count), A_.conjugated, static_cast<double>(scale_),
                          rows.get(), columns);
    copy_wide<T, Runtime>(b_.rows(first, count), b_.conjugated, 1.0, rows.get() + n, columns);
    return to_host<Runtime>(rows.get(), count * columns);
  }

  MatrixView<T> b_;
  Array<T> scaled_b_; ///< where b was out of range
};

} // namespace cuda_detail

template <class T, class Runtime>
std::unique_ptr<TallMatrix<T>> Cuda<T, Runtime>::tall(MatrixView<T> A, MatrixView<T> b) {
  return std::make_unique<cuda_detail::CudaTall<T, Runtime>>(A, b);
}

} // namespace lowla
