// Cuda: passes over a matrix for least squares (see lstsq_solver.hpp and device/cuda.cuh).
//
// Dense A: all go over blocks of rows; the n x n algebra is the host's, in double precision.
//   gram      Y = A_block P in T; G += Y^H Y and H += Y^H b in double precision, Y widened for it.
//             4 m n^2 flops in gemm, one read of A.
//   residual, advance  y = b - A_block X, or X, by gemm, single-precision blocks widened for it;
//   then Z = A^H y by
//             functors, which should find the block in the L2 cache. All in double precision. The
//             rounding of Z limits the forward error of x, and summed by gemm it is too large for
//             the bound on that error: no more than 16 rows are added up plainly, these sums with
//             compensation.
//   triangle  The primitives have no QR: A crosses to the host, which factors it by blocks
//             (triangle_by_blocks). So methods "direct" and, for S A, "sketch".
// Sparse A: gathers over its rows and those of its transpose, all in double precision.
// Where gemm needs conj(A) for A (`mirrored`), X and b go in conjugated, G, H and Z come out so.
//
// Memory: up to 80 MiB or three matrices of order n, S A, and where A is out of range a scaled copy
// of it for the sketch.
#pragma once

#include "lowla/device/cuda_csr.cuh"
#include "lowla/device/cuda_sketch.cuh"
#include "lowla/lstsq.hpp"
#include "lowla/minimum_norm.hpp"

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

/// The rows (m x n, row-major) as a matrix of the host, in double precision.
template <class Runtime, class N>
Small<wide_t<N>> from_device(const DeviceArray<Runtime, N> &rows, index m, index n) {
  const auto entries = to_host<Runtime>(rows.get(), m * n);
  Small<wide_t<N>> out(m, n);
  for (index i = 0; i < m; ++i)
    for (index j = 0; j < n; ++j)
      out(i, j) = wide_t<N>(entries[static_cast<std::size_t>(i * n + j)]);
  return out;
}

/// What stands beside A on the device: b, and X of `advance`.
template <class T, class Runtime> class CudaBeside : public TallMatrix<T> {
public:
  using R = real_t<T>;
  using Wide = wide_t<T>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  double scan_b(bool &finite) override { return DenseRows<T, Runtime>(b_).scan(finite); }
  void rescale_b(R factor) override {
    scaled_b_ = scaled<T, Runtime>(b_, factor);
    b_ = {scaled_b_.get(), b_.m, b_.n, b_.n, 1, false};
  }
  std::vector<double> norms2_b() override {
    ColumnSquares<Runtime> squares(b_.n);
    squares.add(b_.data, b_.rs, b_.cs, b_.m);
    return squares.sums();
  }

protected:
  CudaBeside(index m, index n, MatrixView<T> b) : b_(b) {
    this->m = m;
    this->n = n;
    this->r = b.n;
  }

  /// y <- b - y for the rows first.., y row-major.
  void subtract_from_b(index first, index rows, bool conjugate, Wide *y) const {
    Runtime::for_each(rows * b_.n, functors::SubtractFrom<T>{reals(b_.at(first, 0)), b_.rs, b_.cs,
                                                             conjugate, reals(y), b_.n});
  }

  /// Room for X of `columns` columns, zero at first.
  void begin_x(index columns) {
    if (columns_of_x_ == columns)
      return;
    columns_of_x_ = columns;
    x_ = Array<Wide>(this->m * columns);
    Runtime::for_each(this->m * columns * Entry<Wide>::kReals,
                      functors::Fill<double>{reals(x_.get()), 0.0});
  }
  /// y <- X <- X + y for the rows first.., rounded to T if `rounds`.
  void advance_rows(index first, index rows, bool rounds, Wide *y) {
    Runtime::for_each(
        rows * columns_of_x_ * Entry<Wide>::kReals,
        functors::Advance<T>{reals(x_.get() + first * columns_of_x_), reals(y), rounds});
  }

  MatrixView<T> b_;
  Array<Wide> x_; ///< by rows
  index columns_of_x_ = 0;

private:
  Array<T> scaled_b_; ///< where b was out of range
};

/// Dense A on the device.
template <class T, class Runtime>
class CudaTall final : public CudaBeside<T, Runtime>, private DenseRows<T, Runtime> {
public:
  using Device = Cuda<T, Runtime>;
  using Beside = CudaBeside<T, Runtime>;
  using R = real_t<T>;
  using Wide = wide_t<T>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  CudaTall(MatrixView<T> A, MatrixView<T> b) : Beside(A.m, A.n, b), DenseRows<T, Runtime>(A) {}

  Small<Wide> sketch(const SketchSpec &spec) override {
    const Array<T> SA = sketched_rows(spec);
    return from_device<Runtime>(SA, spec.d, A_.n);
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
      const Wide beta(i == 0 ? 0.0 : 1.0);
      // G^T = Y^T conj(Y) and H^T = b^T conj(Y)
      Runtime::gemm('N', 'C', n, n, block.rows, Wide(1), y, Y.ld, y, Y.ld, beta, g.get(), n);
      if (r == 0)
        return;
      copy_wide<T, Runtime>(b_.rows(i, block.rows), conjugates_b(), 1.0, b.get(), r);
      Runtime::gemm('N', 'C', r, n, block.rows, Wide(1), b.get(), r, y, Y.ld, beta, h.get(), r);
    });
    G = as_stored(from_device<Runtime>(g, n, n));
    H = as_stored(from_device<Runtime>(h, n, r));
  }

  void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) override {
    pass(X, norms2, Z, [&](index first, index rows, Wide *y) {
      this->subtract_from_b(first, rows, conjugates_b(), y);
    });
  }

  void advance(const Small<Wide> &dY, bool rounds, std::vector<double> &norms2,
               Small<Wide> &Z) override {
    this->begin_x(dY.cols);
    pass(dY, norms2, Z,
         [&](index first, index rows, Wide *y) { this->advance_rows(first, rows, rounds, y); });
  }

  Small<Wide> advanced() override {
    return as_stored(from_device<Runtime>(this->x_, this->m, this->columns_of_x_));
  }

  void wide_gram(const Small<Wide> &P, Small<Wide> &G) override {
    const index k = P.cols;
    Array<Wide> g(k * k);
    for_products(P, [&](index i, index rows, const Wide *Y) {
      const Wide beta(i == 0 ? 0.0 : 1.0);
      Runtime::gemm('N', 'C', k, k, rows, Wide(1), Y, k, Y, k, beta, g.get(), k);
    });
    G = as_stored(from_device<Runtime>(g, k, k));
  }

  void expand(const Small<Wide> &P, const Small<Wide> &C) override {
    const index k = P.cols, r = C.cols;
    const auto right = right_factor<Wide, Runtime>(as_stored(C));
    this->begin_x(r);
    for_products(P, [&](index i, index rows, const Wide *Y) {
      multiply_block<Runtime>(Block<Wide>{Y, rows, k, k, false}, right.get(), r, r,
                              this->x_.get() + i * r, r);
    });
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
  void rescale(R factor) override { scale_ = factor; }

private:
  using DenseRows<T, Runtime>::A_;
  using DenseRows<T, Runtime>::scale_;
  using Beside::b_;
  static constexpr bool kWidens = !std::is_same_v<R, double>;

  index block_rows(index bytes, index bytes_a_row) const {
    return std::min(A_.m, std::max(kMinBlockRows, bytes / bytes_a_row));
  }

  /// S A by rows.
  Array<T> sketched_rows(const SketchSpec &spec) {
    ++this->reads;
    return sketch_of_rows<T, Runtime>(spec, A_, scale_);
  }

  /// Z = A^H Y and the squared norms of the columns of Y, where edit(first row, rows, y) makes rows
  /// of Y, row-major, of those of A X.
  template <class Edit>
  void pass(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z, Edit &&edit) {
    ++this->reads;
    const index n = A_.n, r = X.cols;
    const index rows = block_rows(kBlockBytes, (n + r) * static_cast<index>(sizeof(Wide)));
    const auto right = right_factor<Wide, Runtime>(as_stored(X));
    Array<Wide> wide(kWidens ? rows * n : 0), y(rows * r);
    AdjointSum<T, Runtime> sum(n, r);
    ColumnSquares<Runtime> squares(r);
    this->for_blocks(rows, [&](index i, const Block<T> &block) {
      multiply_block<Runtime>(widened(block, wide), right.get(), r, r, y.get(), r);
      edit(i, block.rows, y.get());
      squares.add(y.get(), r, 1, block.rows);
      sum.add(block, y.get());
    });
    norms2 = squares.sums();
    Z = as_stored(sum.total());
  }

  /// f(first row, rows, Y) for blocks of Y = A P in double precision, row-major: always the same.
  template <class F> void for_products(const Small<Wide> &P, F &&f) {
    ++this->reads;
    const index n = A_.n, k = P.cols;
    const index rows = block_rows(kGramBytes, (n + k) * static_cast<index>(sizeof(Wide)));
    const auto right = right_factor<Wide, Runtime>(as_stored(P));
    Array<Wide> wide(kWidens ? rows * n : 0), Y(rows * k);
    this->for_blocks(rows, [&](index i, const Block<T> &block) {
      multiply_block<Runtime>(widened(block, wide), right.get(), k, k, Y.get(), k);
      f(i, block.rows, static_cast<const Wide *>(Y.get()));
    });
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
      return cuda_detail::widened<Runtime>(block, 1.0, scratch);
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
    if (columns > n)
      copy_wide<T, Runtime>(b_.rows(first, count), b_.conjugated, 1.0, rows.get() + n, columns);
    return to_host<Runtime>(rows.get(), count * columns);
  }
};

/// Sparse A on the device, its values in double precision: products are gathers over its rows and
/// those of its transpose. What needs triangles or an orthonormal basis, "direct", is done by the
/// host on a copy.
template <class T, class I, class Runtime>
class CudaCsrTall final : public CudaBeside<T, Runtime>, public NormalProduct<wide_t<T>> {
public:
  using Beside = CudaBeside<T, Runtime>;
  using R = real_t<T>;
  using Wide = wide_t<T>;
  using Storage = CsrStorage<Wide, I, Runtime>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  /// Of A, or of A^H.
  CudaCsrTall(CsrView<T, I> A, index nnz, MatrixView<T> b, bool adjoint)
      : Beside(adjoint ? A.n : A.m, adjoint ? A.m : A.n, b), nnz_(nnz) {
    Array<Wide> values(nnz);
    copy_wide<T, Runtime>({A.data, nnz, 1, 1, 1}, adjoint, 1.0, values.get(), 1);
    (adjoint ? A_ : At_) =
        transpose<Wide, I, Runtime>({A.indptr, A.indices, values.get(), A.m, A.n}, nnz);
    (adjoint ? At_ : A_) = with_values(A, std::move(values));
  }

  NormalProduct<Wide> *sparse() override { return this; }

  Small<Wide> sketch(const SketchSpec &spec) override {
    ++this->reads;
    Array<Wide> SA(spec.d * this->n);
    Cuda<Wide, Runtime>::sketch_csr(spec, A_.view(), nnz_, SA.get());
    return from_device<Runtime>(SA, spec.d, this->n);
  }

  void normal(const Small<Wide> &X, Small<Wide> &Z) override {
    ++this->reads;
    const index r = X.cols;
    const Array<Wide> y = product(X);
    Array<Wide> z(this->n * r);
    gather<Wide, I, Runtime>(At_.view(), true, 1.0, {y.get(), this->m, r, r, 1, false}, z.get(), r);
    Z = from_device<Runtime>(z, this->n, r);
  }

  void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) override {
    Array<Wide> y = product(X);
    this->subtract_from_b(0, this->m, b_.conjugated, y.get());
    finish_pass(y, X.cols, norms2, Z);
  }

  void advance(const Small<Wide> &dY, bool rounds, std::vector<double> &norms2,
               Small<Wide> &Z) override {
    Array<Wide> y = product(dY);
    this->begin_x(dY.cols);
    this->advance_rows(0, this->m, rounds, y.get());
    finish_pass(y, dY.cols, norms2, Z);
  }

  Small<Wide> advanced() override {
    return from_device<Runtime>(this->x_, this->m, this->columns_of_x_);
  }

  void gram(const Small<Wide> &P, Small<Wide> &G, Small<Wide> &H) override { host().gram(P, G, H); }
  Small<Wide> triangle(double damp) override { return host().triangle(damp); }
  Small<Wide> sketched_triangle(const SketchSpec &spec, double damp) override {
    return host().sketched_triangle(spec, damp);
  }
  void wide_gram(const Small<Wide> &P, Small<Wide> &G) override { host().wide_gram(P, G); }
  void expand(const Small<Wide> &P, const Small<Wide> &C) override {
    host().expand(P, C);
    const auto X = right_factor<Wide, Runtime>(host().advanced());
    this->begin_x(C.cols);
    Runtime::copy(this->x_.get(), X.get(),
                  static_cast<std::size_t>(this->m * C.cols) * sizeof(Wide));
  }

  double scan(bool &finite) override {
    return DenseRows<Wide, Runtime>({A_.data.get(), nnz_, 1, 1, 1}).scan(finite);
  }
  void rescale(R factor) override {
    host_.reset();
    for (Storage *M : {&A_, &At_})
      copy_entries<Wide, Runtime>({M->data.get(), nnz_, 1, 1, 1}, static_cast<double>(factor),
                                  M->data.get(), 1, 1);
  }
  void rescale_b(R factor) override {
    host_.reset();
    Beside::rescale_b(factor);
  }

private:
  using Beside::b_;

  /// A and b in main memory.
  struct HostCopy {
    std::vector<I> indptr, indices;
    std::vector<Wide> data, b;
    std::unique_ptr<TallMatrix<Wide>> matrix;
  };

  TallMatrix<Wide> &host() {
    ++this->reads;
    if (!host_) {
      host_ = std::make_unique<HostCopy>();
      host_->indptr = to_host<Runtime>(A_.indptr.get(), this->m + 1);
      host_->indices = to_host<Runtime>(A_.indices.get(), nnz_);
      host_->data = to_host<Runtime>(A_.data.get(), nnz_);
      Array<Wide> b(this->m * b_.n);
      copy_wide<T, Runtime>(b_, b_.conjugated, 1.0, b.get(), b_.n);
      host_->b = to_host<Runtime>(b.get(), this->m * b_.n);
      host_->matrix = lowla::tall(CsrView<Wide, I>{host_->indptr.data(), host_->indices.data(),
                                                   host_->data.data(), this->m, this->n},
                                  MatrixView<Wide>{host_->b.data(), this->m, b_.n, b_.n, 1, false});
    }
    return *host_->matrix;
  }

  /// The pattern of A with other values.
  Storage with_values(CsrView<T, I> A, Array<Wide> values) const {
    Storage out;
    out.m = A.m;
    out.n = A.n;
    out.indptr = Array<I>(A.m + 1);
    out.indices = Array<I>(nnz_);
    out.data = std::move(values);
    Runtime::copy(out.indptr.get(), A.indptr, static_cast<std::size_t>(A.m + 1) * sizeof(I));
    Runtime::copy(out.indices.get(), A.indices, static_cast<std::size_t>(nnz_) * sizeof(I));
    return out;
  }

  /// A X by rows.
  Array<Wide> product(const Small<Wide> &X) {
    CancelScope::poll();
    const index r = X.cols;
    const auto right = right_factor<Wide, Runtime>(X);
    Array<Wide> y(this->m * r);
    gather<Wide, I, Runtime>(A_.view(), false, 1.0, {right.get(), this->n, r, r, 1, false}, y.get(),
                             r);
    return y;
  }

  /// Z = A^H Y, its sums compensated, and the squared norms of the columns of Y.
  void finish_pass(const Array<Wide> &y, index r, std::vector<double> &norms2, Small<Wide> &Z) {
    ++this->reads;
    ColumnSquares<Runtime> squares(r);
    squares.add(y.get(), r, 1, this->m);
    norms2 = squares.sums();
    Array<Wide> z(this->n * r);
    const CsrView<Wide, I> At = At_.view();
    Runtime::for_each(this->n * r,
                      functors::GatherCompensated<Wide, I>{At.indptr, At.indices, reals(At.data),
                                                           reals(y.get()), r, reals(z.get())});
    Z = from_device<Runtime>(z, this->n, r);
  }

  index nnz_;
  Storage A_, At_;
  std::unique_ptr<HostCopy> host_;
};

} // namespace cuda_detail

template <class T, class Runtime>
std::unique_ptr<TallMatrix<T>> Cuda<T, Runtime>::tall(MatrixView<T> A, MatrixView<T> b) {
  return std::make_unique<cuda_detail::CudaTall<T, Runtime>>(A, b);
}
template <class T, class Runtime>
std::unique_ptr<TallMatrix<T>> Cuda<T, Runtime>::adjoint_tall(MatrixView<T> A) {
  return tall(A.adjoint(), MatrixView<T>{nullptr, A.n, 0, 0, 0, false});
}

template <class T, class Runtime>
template <class I>
std::unique_ptr<TallMatrix<T>> Cuda<T, Runtime>::tall(CsrView<T, I> A, index stored,
                                                      MatrixView<T> b) {
  const index nnz = cuda_detail::checked_nnz<T, I, Runtime>(A, stored);
  return std::make_unique<cuda_detail::CudaCsrTall<T, I, Runtime>>(A, nnz, b, false);
}
template <class T, class Runtime>
template <class I>
std::unique_ptr<TallMatrix<T>> Cuda<T, Runtime>::adjoint_tall(CsrView<T, I> A, index stored) {
  const index nnz = cuda_detail::checked_nnz<T, I, Runtime>(A, stored);
  return std::make_unique<cuda_detail::CudaCsrTall<T, I, Runtime>>(
      A, nnz, MatrixView<T>{nullptr, A.n, 0, 0, 0, false}, true);
}

template <class T, class Runtime> Small<wide_t<T>> Cuda<T, Runtime>::entries(MatrixView<T> M) {
  DeviceArray<Runtime, Wide> wide(M.m * M.n);
  cuda_detail::copy_wide<T, Runtime>(M, M.conjugated, 1.0, wide.get(), M.n);
  return cuda_detail::from_device<Runtime>(wide, M.m, M.n);
}

} // namespace lowla
