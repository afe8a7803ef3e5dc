// Cuda: passes over a real matrix for l_p regression (see lp.hpp and device/cuda.cuh).
//
// A x and A^T y go over blocks of rows in double precision, as the scores of rows do
// (device/cuda_scores.cuh), by gemm with one column. The loops over vectors of length m, and the
// descent from vertex to vertex, are the host's: what crosses in a step of reweighting is x, and
// five vectors of m numbers. The sample is solved on the host.
#pragma once

#include "lowla/device/cuda_scores.cuh"
#include "lowla/lp.hpp"

namespace lowla {
namespace cuda_detail {

/// Blocks of rows of [A b], by those of A.
template <class Source, class Runtime> class WideWithColumn {
public:
  using Scalar = typename Source::Scalar;
  using Wide = wide_t<Scalar>;

  WideWithColumn(const Source &A, const std::vector<double> &b)
      : A_(A), b_(to_device<Runtime>(std::vector<Scalar>(b.begin(), b.end()))) {}

  index rows() const { return A_.rows(); }
  index cols() const { return A_.cols() + 1; }
  void rescale(real_t<Scalar> factor) {
    DeviceArray<Runtime, Scalar> scaled(rows());
    copy_entries<Scalar, Runtime>(column(0, rows()), factor, scaled.get(), 1, 1);
    b_ = std::move(scaled);
    scale_ = factor;
  }
  double scan(bool &finite) const {
    bool b_finite = true;
    const double of_b = DenseRows<Scalar, Runtime>(column(0, rows())).scan(b_finite);
    const double of_A = A_.scan(finite);
    finite = finite && b_finite;
    return std::max(of_A, of_b);
  }

  template <class F> void for_blocks(index rows, F &&f) const {
    const index n = A_.cols();
    DeviceArray<Runtime, Wide> joined(rows * (n + 1));
    A_.for_blocks(rows, [&](index first, const Block<Wide> &block) {
      copy_entries<Wide, Runtime>({block.data, block.rows, n, block.ld, 1},
                                  static_cast<double>(scale_), joined.get(), n + 1, 1);
      copy_wide<Scalar, Runtime>(column(first, block.rows), false, 1.0, joined.get() + n, n + 1);
      f(first, Block<Wide>{joined.get(), block.rows, n + 1, n + 1, false});
    });
  }

  /// S [A b] by rows.
  DeviceArray<Runtime, Scalar> sketch(const SketchSpec &spec) const {
    const index n = A_.cols();
    const DeviceArray<Runtime, Scalar> SA = A_.sketch(spec);
    DeviceArray<Runtime, Scalar> Sb(spec.d), out(spec.d * (n + 1));
    Cuda<Scalar, Runtime>::sketch_dense(spec, column(0, rows()), Sb.get());
    copy_entries<Scalar, Runtime>({SA.get(), spec.d, n, n, 1}, scale_, out.get(), n + 1, 1);
    copy_entries<Scalar, Runtime>({Sb.get(), spec.d, 1, 1, 1}, Scalar(1), out.get() + n, n + 1, 1);
    return out;
  }

private:
  MatrixView<Scalar> column(index first, index count) const {
    return {b_.get() + first, count, 1, 1, 1};
  }

  const Source &A_;
  DeviceArray<Runtime, Scalar> b_;
  real_t<Scalar> scale_ = 1;
};

/// A on the device, by WideDense or WideSparse.
template <class Source, class Runtime>
class CudaLp final : public CudaScored<Source, Runtime, LpMatrix<typename Source::Scalar>> {
public:
  using T = typename Source::Scalar;
  using Base = CudaScored<Source, Runtime, LpMatrix<T>>;
  using Base::Base;

  void times(const std::vector<double> &x, std::vector<double> &out) override {
    const auto right = to_device<Runtime>(x);
    DeviceArray<Runtime, double> y(this->m);
    A_.for_blocks(this->block_rows(this->n), [&](index first, const Block<double> &block) {
      multiply_block<Runtime>(block, right.get(), 1, 1, y.get() + first, 1);
    });
    out = to_host<Runtime>(y.get(), this->m);
  }

  std::vector<double> adjoint_times(const std::vector<double> &y) override {
    const auto right = to_device<Runtime>(y);
    DeviceArray<Runtime, double> z(this->n);
    A_.for_blocks(this->block_rows(this->n), [&](index first, const Block<double> &block) {
      // the block's rows are the columns of a matrix of gemm
      Runtime::gemm('N', 'N', this->n, 1, block.rows, 1.0, block.data, block.ld,
                    right.get() + first, block.rows, first == 0 ? 0.0 : 1.0, z.get(), this->n);
    });
    return to_host<Runtime>(z.get(), this->n);
  }

  std::unique_ptr<ScoredMatrix<T>> beside(const std::vector<double> &b) override {
    using Joined = WideWithColumn<Source, Runtime>;
    return std::make_unique<CudaScored<Joined, Runtime>>(Joined(A_, b));
  }

private:
  using Base::A_;
};

} // namespace cuda_detail

template <class T, class Runtime>
std::unique_ptr<LpMatrix<T>> CudaLpRegression<T, Runtime>::open(MatrixView<T> A) {
  using Source = cuda_detail::WideDense<T, Runtime>;
  return std::make_unique<cuda_detail::CudaLp<Source, Runtime>>(Source(A));
}

template <class T, class Runtime>
template <class I>
std::unique_ptr<LpMatrix<T>> CudaLpRegression<T, Runtime>::open(CsrView<T, I> A, index stored) {
  using Source = cuda_detail::WideSparse<T, I, Runtime>;
  return std::make_unique<cuda_detail::CudaLp<Source, Runtime>>(Source(A, stored));
}

} // namespace lowla

#define LOWLA_INSTANTIATE_CUDA_LP(T, Runtime)                                                      \
  template struct lowla::CudaLpRegression<T, lowla::Runtime>;                                      \
  template std::unique_ptr<lowla::LpMatrix<T>> lowla::CudaLpRegression<T, lowla::Runtime>::open(   \
      lowla::CsrView<T, std::int32_t>, lowla::index);                                              \
  template std::unique_ptr<lowla::LpMatrix<T>> lowla::CudaLpRegression<T, lowla::Runtime>::open(   \
      lowla::CsrView<T, std::int64_t>, lowla::index);
