// Cuda: matrices as sources of columns and rows (see column_source.hpp and device/cuda.cuh).
//
// A stays on the device; the algorithms, the host's, see it through
//   signs, gaussian    S A by gathers over the rows of S, G A by gemm (gathers for sparse A)
//   columns, rows      gathers of the entries; of sparse A columns are rows of its transpose
//   matrix             products with panels, which go up, the products coming down
// in double precision. What crosses are S A, the chosen columns and rows, and a panel of k columns
// and its product in each read of A. Dense A in single precision is widened by blocks of rows,
// entry by entry for S A; of a sparse one the values are copied.
//
// Memory: up to 16 MiB a block, the panels and S A; of sparse A its transpose.
#pragma once

#include "lowla/column_source.hpp"
#include "lowla/device/cuda_host_panels.cuh"
#include "lowla/device/cuda_sketch.cuh"

#include <memory>

namespace lowla {
namespace cuda_detail {

/// The rows (m x n, row-major) on the host.
template <class Runtime, class W>
Entries<W> fetched(const DeviceArray<Runtime, W> &rows, index m, index n) {
  Entries<W> out(m, n);
  Runtime::to_host(out.row(0), rows.get(), static_cast<std::size_t>(m * n) * sizeof(W));
  return out;
}

/// What dense and sparse A on the device share.
template <class W, class Runtime> class CudaSource : public ColumnSource<W> {
public:
  using Device = Cuda<W, Runtime>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  std::unique_ptr<typename Host<W>::Matrix> matrix() const override {
    return std::make_unique<HostPanels<W, Runtime>>(held_matrix());
  }
  Entries<W> signs(index d, index nnz, std::uint64_t key) const override {
    Array<W> SA(d * this->n);
    sketch(sign_spec(d, this->m, nnz, key), SA.get());
    return fetched<Runtime>(SA, d, this->n);
  }
  Entries<W> gaussian(index l, std::uint64_t key, std::uint32_t stream) const override {
    typename Device::Panel start(this->m, l), Yh(this->n, l);
    Device::fill_normal(start, key, stream);
    held_matrix()->multiply_adjoint(start, Yh);
    Array<W> Y(l * this->n);
    Device::store(Yh, std::vector<W>(at(l), W(1)), Y.get(), 1, this->n, true);
    return fetched<Runtime>(Y, l, this->n);
  }
  Panel<W> columns(const Places &cols) const override {
    const Entries<W> taken = lines(cols, true);
    return panel_of(MatrixView<W>{taken.row(0), this->m, taken.rows, 1, this->m});
  }
  Panel<W> adjoint_rows(const Places &rows) const override {
    return panel_of(lines(rows, false).view().adjoint());
  }

protected:
  virtual std::unique_ptr<typename Device::Matrix> held_matrix() const = 0;
  /// out (d x n, row-major) = S A
  virtual void sketch(const SketchSpec &spec, W *out) const = 0;
  /// `count` columns or rows of A, each a row of `out`.
  virtual void take(const index *which, index count, bool of_columns, W *out) const = 0;

private:
  /// Columns or rows of A on the host, each a row, by blocks of them.
  Entries<W> lines(const Places &which, bool of_columns) const {
    const auto count = static_cast<index>(which.size());
    const index length = of_columns ? this->m : this->n;
    const index most = scratch_rows(count, length * static_cast<index>(sizeof(W)));
    const Array<index> wanted = to_device<Runtime>(which);
    Array<W> block(most * length);
    Entries<W> out(count, length);
    for (index first = 0; first < count; first += most) {
      CancelScope::poll();
      const index taken = std::min(most, count - first);
      take(wanted.get() + first, taken, of_columns, block.get());
      Runtime::to_host(out.row(first), block.get(),
                       static_cast<std::size_t>(taken * length) * sizeof(W));
    }
    return out;
  }
};

/// `count` numbers times 2^exponent, which itself may be out of range.
template <class W, class Runtime> void scale_by_power(W *x, index count, int exponent) {
  for (const int part : {exponent / 2, exponent - exponent / 2})
    copy_entries<W, Runtime>({x, count, 1, 1, 1}, std::ldexp(1.0, part), x, 1, 1);
}

template <class T, class Runtime>
class CudaDenseSource final : public CudaSource<wide_t<T>, Runtime> {
public:
  using W = wide_t<T>;
  using Source = CudaSource<W, Runtime>;
  using typename Source::Device;
  template <class N> using Array = DeviceArray<Runtime, N>;

  /// A is not conjugated.
  CudaDenseSource(MatrixView<T> A, Array<T> owned) : A_(A), owned_(std::move(owned)) {
    this->m = A.m;
    this->n = A.n;
  }
  index count() const override { return A_.m * A_.n; }
  std::unique_ptr<ColumnSource<W>> scaled(int exponent) const override {
    Array<W> copy(count());
    copy_wide<T, Runtime>(A_, false, 1.0, copy.get(), A_.n);
    scale_by_power<W, Runtime>(copy.get(), count(), exponent);
    const MatrixView<W> view{copy.get(), A_.m, A_.n, A_.n, 1};
    return std::make_unique<CudaDenseSource<W, Runtime>>(view, std::move(copy));
  }

protected:
  std::unique_ptr<typename Device::Matrix> held_matrix() const override {
    if constexpr (std::is_same_v<T, W>)
      return Device::dense(A_);
    else
      return std::make_unique<DenseMatrix<W, Runtime, WidenedRows<T, Runtime>>>(A_);
  }
  void sketch(const SketchSpec &spec, W *out) const override {
    const auto S = sparse_operator<W, Runtime>(spec, false);
    gather<W, index, Runtime>(S.view(), false, 1.0, A_, out, A_.n);
  }
  void take(const index *which, index count, bool of_columns, W *out) const override {
    const MatrixView<T> lines = of_columns ? MatrixView<T>{A_.data, A_.n, A_.m, A_.cs, A_.rs} : A_;
    Runtime::for_each(count * lines.n, functors::TakeWide<T>{reals(lines.data), lines.rs, lines.cs,
                                                             which, lines.n, reals(out)});
  }

private:
  MatrixView<T> A_;
  Array<T> owned_;
};

/// Values in double precision, the caller's or `owned`.
template <class W, class I, class Runtime>
class CudaCsrSource final : public CudaSource<W, Runtime> {
public:
  using Source = CudaSource<W, Runtime>;
  using typename Source::Device;
  using Storage = CsrStorage<W, I, Runtime>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  CudaCsrSource(CsrView<W, I> A, index nnz, Array<W> owned)
      : A_(A), nnz_(nnz), owned_(std::move(owned)),
        transposed_(std::make_shared<Storage>(transpose<W, I, Runtime>(A, nnz))) {
    this->m = A.m;
    this->n = A.n;
  }
  index count() const override { return nnz_; }
  std::unique_ptr<ColumnSource<W>> scaled(int exponent) const override {
    Array<W> copy(nnz_);
    copy_entries<W, Runtime>({A_.data, nnz_, 1, 1, 1}, 1.0, copy.get(), 1, 1);
    scale_by_power<W, Runtime>(copy.get(), nnz_, exponent);
    const CsrView<W, I> view{A_.indptr, A_.indices, copy.get(), A_.m, A_.n};
    return std::make_unique<CudaCsrSource>(view, nnz_, std::move(copy));
  }

protected:
  std::unique_ptr<typename Device::Matrix> held_matrix() const override {
    return std::make_unique<CsrMatrix<W, I, Runtime>>(A_, nnz_, transposed_);
  }
  void sketch(const SketchSpec &spec, W *out) const override {
    Device::sketch_csr(spec, A_, nnz_, out);
  }
  void take(const index *which, index count, bool of_columns, W *out) const override {
    const CsrView<W, I> lines = of_columns ? transposed_->view() : A_;
    Runtime::for_each(count * lines.n * Entry<W>::kReals, functors::Fill<double>{reals(out), 0.0});
    Runtime::for_each(count,
                      functors::AddSparseRow<W, I>{lines.indptr, lines.indices, reals(lines.data),
                                                   1.0, 0, reals(out), lines.n, which});
  }

private:
  CsrView<W, I> A_;
  index nnz_;
  Array<W> owned_;
  std::shared_ptr<const Storage> transposed_;
};

} // namespace cuda_detail

template <class T, class Runtime>
std::unique_ptr<ColumnSource<wide_t<T>>> CudaColumns<T, Runtime>::open(MatrixView<T> A) {
  return std::make_unique<cuda_detail::CudaDenseSource<T, Runtime>>(A, DeviceArray<Runtime, T>());
}

template <class T, class Runtime>
template <class I>
std::unique_ptr<ColumnSource<wide_t<T>>> CudaColumns<T, Runtime>::open(CsrView<T, I> A,
                                                                       index stored) {
  using W = wide_t<T>;
  const index nnz = cuda_detail::checked_nnz<T, I, Runtime>(A, stored);
  DeviceArray<Runtime, W> values;
  CsrView<W, I> wide{A.indptr, A.indices, nullptr, A.m, A.n};
  if constexpr (std::is_same_v<T, W>) {
    wide.data = A.data;
  } else {
    values = DeviceArray<Runtime, W>(nnz);
    cuda_detail::copy_wide<T, Runtime>({A.data, nnz, 1, 1, 1}, false, 1.0, values.get(), 1);
    wide.data = values.get();
  }
  return std::make_unique<cuda_detail::CudaCsrSource<W, I, Runtime>>(wide, nnz, std::move(values));
}

} // namespace lowla

#define LOWLA_INSTANTIATE_CUDA_COLUMNS(T, Runtime)                                                 \
  template struct lowla::CudaColumns<T, lowla::Runtime>;                                           \
  LOWLA_INSTANTIATE_CUDA_COLUMNS_CSR(T, std::int32_t, Runtime)                                     \
  LOWLA_INSTANTIATE_CUDA_COLUMNS_CSR(T, std::int64_t, Runtime)
#define LOWLA_INSTANTIATE_CUDA_COLUMNS_CSR(T, I, Runtime)                                          \
  template std::unique_ptr<lowla::ColumnSource<lowla::wide_t<T>>>                                  \
      lowla::CudaColumns<T, lowla::Runtime>::open(lowla::CsrView<T, I>, lowla::index);
