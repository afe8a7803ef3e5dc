// Cuda: passes over a matrix for the scores of its rows (see scores.hpp and device/cuda.cuh).
//
// All go over blocks of rows in double precision: the rows of a dense A themselves where they lie
// as gemm takes them, else copies; those of a sparse A written out. Y = A_block P by gemm; then
//   gram        Y <- diag(v) Y by a functor, G += Y^H Y by gemm
//   row_powers  Z = Y M by gemm, a functor a row for the sum of its powers
// The n x n algebra is the host's. The primitives have no QR: for a triangle A crosses to the host
// block by block and is factored there (exact scores of fewer than 20 columns, matrices of doubtful
// rank, Lewis weights where one step's basis does not serve the next), S A at once.
//
// Memory: up to 32 MiB a block of A, Y and Z each, S A, and m.
#pragma once

#include "lowla/device/cuda_lstsq.cuh"
#include "lowla/scores.hpp"

#include <algorithm>

namespace lowla {
namespace cuda_detail {

/// Dense A by blocks of rows in double precision.
template <class T, class Runtime> class WideDense {
public:
  using Scalar = T;
  using Wide = wide_t<T>;

  explicit WideDense(MatrixView<T> A) : A_(A) {}

  index rows() const { return A_.m; }
  index cols() const { return A_.n; }
  void rescale(real_t<T> factor) { scale_ = factor; }
  double scan(bool &finite) const { return DenseRows<T, Runtime>(A_).scan(finite); }

  /// f(first row, row-major block) for blocks of `rows` rows.
  template <class F> void for_blocks(index rows, F &&f) const {
    const bool direct = std::is_same_v<T, Wide> && scale_ == real_t<T>(1) && !A_.conjugated &&
                        (A_.cs == 1 || A_.n == 1) && leading(A_.rs, A_.n);
    DeviceArray<Runtime, Wide> copy(direct ? 0 : rows * A_.n);
    for (index i = 0; i < A_.m; i += rows) {
      CancelScope::poll();
      const MatrixView<T> part = A_.rows(i, std::min(rows, A_.m - i));
      if constexpr (std::is_same_v<T, Wide>)
        if (direct) {
          f(i, Block<Wide>{part.data, part.m, part.n, part.rs, false});
          continue;
        }
      copy_wide<T, Runtime>(part, A_.conjugated, static_cast<double>(scale_), copy.get(), A_.n);
      f(i, Block<Wide>{copy.get(), part.m, part.n, part.n, false});
    }
  }

  /// S A by rows.
  DeviceArray<Runtime, T> sketch(const SketchSpec &spec) const {
    return sketch_of_rows<T, Runtime>(spec, A_, scale_);
  }

private:
  MatrixView<T> A_;
  real_t<T> scale_ = 1;
};

/// The same of a CSR matrix.
template <class T, class I, class Runtime> class WideSparse {
public:
  using Scalar = T;
  using Wide = wide_t<T>;

  WideSparse(CsrView<T, I> A, index stored)
      : A_(A), stored_(stored), nnz_(checked_nnz<T, I, Runtime>(A, stored)) {}

  index rows() const { return A_.m; }
  index cols() const { return A_.n; }
  void rescale(real_t<T> factor) {
    scaled_ = DeviceArray<Runtime, T>(nnz_);
    copy_entries<T, Runtime>({A_.data, nnz_, 1, 1, 1}, factor, scaled_.get(), 1, 1);
    A_.data = scaled_.get();
  }
  double scan(bool &finite) const {
    return DenseRows<T, Runtime>({A_.data, nnz_, 1, 1, 1}).scan(finite);
  }

  template <class F> void for_blocks(index rows, F &&f) const {
    constexpr bool kWidens = !std::is_same_v<T, Wide>;
    DeviceArray<Runtime, T> block(rows * A_.n);
    DeviceArray<Runtime, Wide> wide(kWidens ? rows * A_.n : 0);
    for (index i = 0; i < A_.m; i += rows) {
      CancelScope::poll();
      const index count = std::min(rows, A_.m - i), entries = count * A_.n;
      Runtime::for_each(entries * Entry<T>::kReals,
                        functors::Fill<real_t<T>>{reals(block.get()), real_t<T>(0)});
      Runtime::for_each(count,
                        functors::AddSparseRow<T, I>{A_.indptr, A_.indices, reals(A_.data),
                                                     real_t<T>(1), i, reals(block.get()), A_.n});
      const Wide *out = nullptr;
      if constexpr (kWidens) {
        Runtime::for_each(entries * Entry<T>::kReals,
                          functors::Widen{reals(block.get()), reals(wide.get())});
        out = wide.get();
      } else {
        out = block.get();
      }
      f(i, Block<Wide>{out, count, A_.n, A_.n, false});
    }
  }

  DeviceArray<Runtime, T> sketch(const SketchSpec &spec) const {
    DeviceArray<Runtime, T> out(spec.d * A_.n);
    Cuda<T, Runtime>::sketch_csr(spec, A_, stored_, out.get());
    return out;
  }

private:
  CsrView<T, I> A_;
  index stored_, nnz_;
  DeviceArray<Runtime, T> scaled_; ///< values, where A was out of range
};

/// A on the device, by WideDense or WideSparse, as ScoredMatrix or what extends it.
template <class Source, class Runtime, class Interface = ScoredMatrix<typename Source::Scalar>>
class CudaScored : public Interface {
public:
  using T = typename Source::Scalar;
  using Wide = wide_t<T>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  explicit CudaScored(Source A) : A_(std::move(A)) {
    this->m = A_.rows();
    this->n = A_.cols();
  }

  Small<Wide> triangle(const std::vector<double> &v) override {
    Small<Wide> R(0, this->n);
    A_.for_blocks(block_rows(this->n), [&](index first, const Block<Wide> &block) {
      std::vector<Wide> rows = fetched(block);
      for (index i = 0; i < block.rows && !v.empty(); ++i)
        for (index j = 0; j < this->n; ++j)
          rows[at(i * this->n + j)] *= v[at(first + i)];
      const Small<Wide> part = triangle_of(rows, block.rows);
      Small<Wide> both(R.rows + part.rows, this->n);
      for (index j = 0; j < this->n; ++j) {
        std::copy(R.col(j), R.col(j) + R.rows, both.col(j));
        std::copy(part.col(j), part.col(j) + part.rows, both.col(j) + R.rows);
      }
      R = std::move(both);
      if (R.rows > part.rows)
        blas::triangle(R);
    });
    return R;
  }

  Small<Wide> sketched_triangle(const SketchSpec &spec) override {
    const Array<T> SA = A_.sketch(spec);
    return triangle_of(to_host<Runtime>(SA.get(), spec.d * this->n), spec.d);
  }

  Small<Wide> gram(const Small<Wide> &P, const std::vector<double> &v) override {
    const index k = P.cols, rows = block_rows(std::max(k, this->n));
    const Array<Wide> right = right_factor<Wide, Runtime>(P);
    const Array<double> weights = to_device<Runtime>(v);
    Array<Wide> Y(rows * k), g(k * k);
    A_.for_blocks(rows, [&](index first, const Block<Wide> &block) {
      multiply_block<Runtime>(block, right.get(), k, k, Y.get(), k);
      if (!v.empty())
        Runtime::for_each(block.rows * k,
                          functors::ScaleRows<Wide>{reals(Y.get()), k, weights.get() + first});
      // G^T = Y^T conj(Y)
      Runtime::gemm('N', 'C', k, k, block.rows, Wide(1), Y.get(), k, Y.get(), k,
                    Wide(first == 0 ? 0.0 : 1.0), g.get(), k);
    });
    Small<Wide> G(k, k);
    const std::vector<Wide> entries = to_host<Runtime>(g.get(), k * k);
    for (index i = 0; i < k; ++i)
      for (index j = 0; j < k; ++j)
        G(i, j) = entries[at(i * k + j)];
    return G;
  }

  std::vector<double> row_powers(const Small<Wide> &P, const Small<Wide> *M, double p) override {
    const index k = P.cols, columns = M != nullptr ? M->cols : k;
    const index rows = block_rows(std::max({k, columns, this->n}));
    const Array<Wide> right = right_factor<Wide, Runtime>(P);
    const Array<Wide> factor = M != nullptr ? right_factor<Wide, Runtime>(*M) : Array<Wide>();
    Array<Wide> Y(rows * k), Z(M != nullptr ? rows * columns : 0);
    Array<double> out(this->m);
    if (k == 0)
      return std::vector<double>(at(this->m), 0.0);
    A_.for_blocks(rows, [&](index first, const Block<Wide> &block) {
      multiply_block<Runtime>(block, right.get(), k, k, Y.get(), k);
      if (M != nullptr)
        multiply_block<Runtime>(Block<Wide>{Y.get(), block.rows, k, k, false}, factor.get(),
                                columns, columns, Z.get(), columns);
      const Wide *powers_of = M != nullptr ? Z.get() : Y.get();
      Runtime::for_each(block.rows,
                        functors::RowPowers<Wide>{reals(powers_of), columns, p, out.get() + first});
    });
    return to_host<Runtime>(out.get(), this->m);
  }

  Small<Wide> rows(const std::vector<index> &which) override {
    const auto count = static_cast<index>(which.size());
    const Array<index> wanted = to_device<Runtime>(which);
    Array<Wide> taken(count * this->n);
    A_.for_blocks(block_rows(this->n), [&](index first, const Block<Wide> &block) {
      Runtime::for_each(count * this->n,
                        functors::TakeRows<Wide>{reals(block.data), block.ld, first, block.rows,
                                                 wanted.get(), this->n, reals(taken.get())});
    });
    const std::vector<Wide> entries = to_host<Runtime>(taken.get(), count * this->n);
    Small<Wide> out(count, this->n);
    for (index k = 0; k < count; ++k)
      for (index j = 0; j < this->n; ++j)
        out(k, j) = entries[at(k * this->n + j)];
    return out;
  }

  double scan(bool &finite) override { return A_.scan(finite); }
  void rescale(real_t<T> factor) override { A_.rescale(factor); }

protected:
  index block_rows(index columns) const {
    const index rows = kWideBytes / (columns * static_cast<index>(sizeof(Wide)));
    return std::min(this->m, std::max(kMinBlockRows, rows));
  }

  Source A_;

private:
  static constexpr index kWideBytes = index(32) << 20;

  static std::size_t at(index i) { return static_cast<std::size_t>(i); }

  /// A block on the host, row-major.
  static std::vector<Wide> fetched(const Block<Wide> &block) {
    if (block.ld == block.cols)
      return to_host<Runtime>(block.data, block.rows * block.cols);
    Array<Wide> packed(block.rows * block.cols);
    copy_entries<Wide, Runtime>({block.data, block.rows, block.cols, block.ld, 1}, 1.0,
                                packed.get(), block.cols, 1);
    return to_host<Runtime>(packed.get(), block.rows * block.cols);
  }

  /// That of rows on the host, row-major.
  template <class N> Small<Wide> triangle_of(const std::vector<N> &rows, index count) const {
    return lowla::scored(MatrixView<N>{rows.data(), count, this->n, this->n, 1})->triangle({});
  }
};

} // namespace cuda_detail

template <class T, class Runtime>
std::unique_ptr<ScoredMatrix<T>> Cuda<T, Runtime>::scored(MatrixView<T> A) {
  using Source = cuda_detail::WideDense<T, Runtime>;
  return std::make_unique<cuda_detail::CudaScored<Source, Runtime>>(Source(A));
}

template <class T, class Runtime>
template <class I>
std::unique_ptr<ScoredMatrix<T>> Cuda<T, Runtime>::scored(CsrView<T, I> A, index stored) {
  using Source = cuda_detail::WideSparse<T, I, Runtime>;
  return std::make_unique<cuda_detail::CudaScored<Source, Runtime>>(Source(A, stored));
}

} // namespace lowla

/// Everything of one scalar type, in the translation unit that compiles it.
#define LOWLA_INSTANTIATE_CUDA(T, Runtime)                                                         \
  template struct lowla::Cuda<T, lowla::Runtime>;                                                  \
  LOWLA_INSTANTIATE_CUDA_CSR(T, std::int32_t, Runtime)                                             \
  LOWLA_INSTANTIATE_CUDA_CSR(T, std::int64_t, Runtime)
#define LOWLA_INSTANTIATE_CUDA_CSR(T, I, Runtime)                                                  \
  template std::unique_ptr<lowla::Cuda<T, lowla::Runtime>::Matrix>                                 \
      lowla::Cuda<T, lowla::Runtime>::csr(lowla::CsrView<T, I>, lowla::index);                     \
  template std::unique_ptr<lowla::ScoredMatrix<T>> lowla::Cuda<T, lowla::Runtime>::scored(         \
      lowla::CsrView<T, I>, lowla::index);                                                         \
  template std::unique_ptr<lowla::TallMatrix<T>> lowla::Cuda<T, lowla::Runtime>::tall(             \
      lowla::CsrView<T, I>, lowla::index, lowla::MatrixView<T>);                                   \
  template std::unique_ptr<lowla::TallMatrix<T>> lowla::Cuda<T, lowla::Runtime>::adjoint_tall(     \
      lowla::CsrView<T, I>, lowla::index);                                                         \
  template void lowla::Cuda<T, lowla::Runtime>::sketch_csr(                                        \
      const lowla::SketchSpec &, lowla::CsrView<T, I>, lowla::index, T *);
