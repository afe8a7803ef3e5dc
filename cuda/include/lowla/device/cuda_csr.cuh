// Cuda: CSR matrices (see device/cuda.cuh).
//
// A X is a gather over the rows; A^H Y a gather over the rows of a transposed copy, which is made
// once per call by a stable merge sort of the entries by column. So nothing is scattered, and the
// order of every sum is fixed. Memory: one copy of the indices and data, and two of 8 bytes an
// entry while it is made.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/device/cuda_dense.cuh"

namespace lowla {
namespace cuda_detail {

template <class T, class I, class Runtime> struct CsrStorage {
  DeviceArray<Runtime, I> indptr, indices;
  DeviceArray<Runtime, T> data;
  index m = 0, n = 0;
  CsrView<T, I> view() const { return {indptr.get(), indices.get(), data.get(), m, n}; }
};

/// The places of the entries in column order, those of a column in the order of the rows.
template <class I, class Runtime>
DeviceArray<Runtime, index> column_order(const I *indices, index nnz) {
  DeviceArray<Runtime, index> order(nnz), merged(nnz);
  Runtime::for_each(nnz, functors::Count{order.get()});
  for (index run = 1; run < nnz; run *= 2) {
    Runtime::for_each(nnz, functors::MergePass<I>{indices, order.get(), merged.get(), nnz, run});
    std::swap(order, merged);
  }
  return order;
}

/// A^T; entries of a row in the order of the rows of A, duplicates beside each other.
template <class T, class I, class Runtime>
CsrStorage<T, I, Runtime> transpose(CsrView<T, I> A, index nnz) {
  const auto order = column_order<I, Runtime>(A.indices, nnz);
  CsrStorage<T, I, Runtime> out;
  out.m = A.n;
  out.n = A.m;
  out.indptr = DeviceArray<Runtime, I>(A.n + 1);
  out.indices = DeviceArray<Runtime, I>(nnz);
  out.data = DeviceArray<Runtime, T>(nnz);
  Runtime::for_each(A.n + 1,
                    functors::ColumnStarts<I>{A.indices, order.get(), nnz, out.indptr.get()});
  Runtime::for_each(nnz, functors::ColumnEntries<T, I>{A.indptr, reals(A.data), order.get(), A.m,
                                                       out.indices.get(), reals(out.data.get())});
  return out;
}

/// out = scale A X, or scale conj(A) X; X by strides and, N being in single precision, widened; out
/// row-major.
template <class T, class I, class Runtime, class N = T>
void gather(CsrView<T, I> A, bool conjugate, real_t<T> scale, MatrixView<N> X, T *out, index ld) {
  Runtime::for_each(A.m * X.n,
                    functors::Gather<T, I, N>{A.indptr, A.indices, reals(A.data), conjugate, scale,
                                              reals(X.data), X.rs, X.cs, X.n, reals(out), ld});
}

template <class T, class I, class Runtime> class CsrMatrix final : public Cuda<T, Runtime>::Matrix {
public:
  using Device = Cuda<T, Runtime>;
  using R = real_t<T>;
  using Panel = typename Device::Panel;
  using Matrix = typename Device::Matrix;
  using Storage = CsrStorage<T, I, Runtime>;

  CsrMatrix(CsrView<T, I> A, index nnz)
      : CsrMatrix(A, nnz, std::make_shared<Storage>(transpose<T, I, Runtime>(A, nnz))) {}
  CsrMatrix(CsrView<T, I> A, index nnz, std::shared_ptr<const Storage> transposed)
      : CsrMatrix(A, nnz, std::move(transposed), false, R(1)) {}

  void multiply(const Panel &X, Panel &Y, double *norm2) override {
    const typename Matrix::Read read(*this);
    product(adjoint_, X, Y);
    if (norm2 != nullptr)
      *norm2 = squares();
  }
  void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2) override {
    const typename Matrix::Read read(*this);
    product(!adjoint_, Y, Z);
    if (norm2 != nullptr)
      *norm2 = squares();
  }
  double scan(bool &finite) override {
    Reduction<Runtime> reduction;
    reduction.add_largest(A_.data, nnz_, 1, 1, nnz_);
    const double largest = reduction.largest();
    finite = std::isfinite(largest);
    return largest;
  }
  void rescale(R factor) override { scale_ = factor; }
  std::unique_ptr<Matrix> adjoint() const override {
    return std::unique_ptr<Matrix>(new CsrMatrix(A_, nnz_, transposed_, !adjoint_, scale_));
  }
  double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) override {
    const typename Matrix::Read read(*this);
    return adjoint_ ? residual(V, s, U) : residual(U, s, V);
  }
  bool cheap_to_read() const override { return true; }

private:
  CsrMatrix(CsrView<T, I> A, index nnz, std::shared_ptr<const Storage> transposed, bool adjoint,
            R scale)
      : A_(A), nnz_(nnz), transposed_(std::move(transposed)), adjoint_(adjoint), scale_(scale) {
    this->m = adjoint ? A.n : A.m;
    this->n = adjoint ? A.m : A.n;
  }

  void product(bool by_adjoint, const Panel &X, Panel &Y) const {
    CancelScope::poll();
    gather<T, I, Runtime>(by_adjoint ? transposed_->view() : A_, by_adjoint, scale_,
                          MatrixView<T>{X.row(0), X.rows, X.cols, X.ld, 1, false}, Y.row(0), Y.ld);
  }

  double squares() const {
    using Reduce = Reduction<Runtime>;
    Reduce reduction;
    const CsrView<T, I> At = transposed_->view();
    const index parts = std::min(Reduce::kParts, nnz_);
    Runtime::for_each(parts, functors::SumSquaresOfSums<T, I>{At.indptr, At.indices, reals(At.data),
                                                              scale_, A_.n, nnz_, parts,
                                                              reduction.partial()});
    return reduction.sum();
  }

  /// Dense rows of -U S V^H, a block at a time, with the sparse rows added: O(m n k).
  double residual(const Panel &U, const std::vector<double> &s, const Panel &V) const {
    const Panel scaled = DenseMatrix<T, Runtime>::times_diagonal(U, s);
    const index rows = scratch_rows(A_.m, A_.n * static_cast<index>(sizeof(T)));
    DeviceArray<Runtime, T> rest(rows * A_.n);
    Reduction<Runtime> squares;
    for (index i = 0; i < A_.m; i += rows) {
      CancelScope::poll();
      const index count = std::min(rows, A_.m - i);
      Runtime::gemm('C', 'N', A_.n, count, V.cols, T(-1), V.row(0), V.ld, scaled.row(i), scaled.ld,
                    T(0), rest.get(), A_.n);
      Runtime::for_each(count, functors::AddSparseRow<T, I>{A_.indptr, A_.indices, reals(A_.data),
                                                            scale_, i, reals(rest.get()), A_.n});
      squares.add_squares(rest.get(), A_.n, 1, count, A_.n);
    }
    return squares.sum();
  }

  CsrView<T, I> A_;
  index nnz_;
  std::shared_ptr<const Storage> transposed_;
  bool adjoint_;
  R scale_;
};

/// The number of entries; ValueError where A is malformed.
template <class T, class I, class Runtime> index checked_nnz(CsrView<T, I> A, index stored) {
  using Reduce = Reduction<Runtime>;
  I first, last;
  Runtime::to_host(&first, A.indptr, sizeof(I));
  Runtime::to_host(&last, A.indptr + A.m, sizeof(I));
  const auto nnz = static_cast<index>(last);
  if (first != 0 || nnz < 0 || nnz > stored)
    throw ValueError("sparse A is malformed: indptr must begin with 0 and stay within the data");
  blas::narrow<I>(A.m); // row numbers are stored as I
  Reduce defects;
  const index parts = std::min(Reduce::kParts, std::max(A.m, nnz));
  Runtime::for_each(
      parts, functors::CsrDefects<I>{A.indptr, A.indices, A.m, A.n, nnz, parts, defects.partial()});
  if (defects.sum() != 0)
    throw ValueError("sparse A is malformed: indptr must not decrease, and column indices must be "
                     "in range");
  return nnz;
}

} // namespace cuda_detail

template <class T, class Runtime>
template <class I>
std::unique_ptr<typename Cuda<T, Runtime>::Matrix> Cuda<T, Runtime>::csr(CsrView<T, I> A,
                                                                         index stored) {
  const index nnz = cuda_detail::checked_nnz<T, I, Runtime>(A, stored);
  return std::make_unique<cuda_detail::CsrMatrix<T, I, Runtime>>(A, nnz);
}

} // namespace lowla
