// Passes over a tall dense matrix in main memory for least squares (see lstsq.hpp).
//
// gram: as in panel_products.hpp, per entry of A 2 n flops, A read once. residual and advance:
// blocks of simd::kRowBlock rows; y = b - A X, or X, and A^H y added up over kChain rows before it
// joins a compensated sum, so that its error does not grow with m.
#include "host_tall.hpp"

#include "lowla/core/clones.hpp"
#include "lowla/minimum_norm.hpp"

namespace lowla {

namespace rows {

LOWLA_CLONES void add_compensated(const double *x, double *sum, double *lost, index n) {
  for (index i = 0; i < n; ++i) {
    const double s = sum[i] + x[i];
    const double back = s - sum[i];
    lost[i] += (sum[i] - (s - back)) + (x[i] - back);
    sum[i] = s;
  }
}

} // namespace rows

namespace {

using namespace rows;

/// Rows whose contributions to A^H y are added up plainly: the gradient's rounding limits the
/// forward error of the solution.
constexpr index kChain = 16;

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

template <class T> class DenseTall final : public HostTall<T, DenseRows<T>> {
public:
  using R = real_t<T>;
  using Wide = wide_t<T>;
  using Base = HostTall<T, DenseRows<T>>;
  using Base::Base;

private:
  using Base::A_;

  void pass(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z,
            const typename Base::Edit &edit) override {
    ++this->reads;
    const index m = this->m, n = this->n, r = X.cols, depth = A_.depth();
    // Few columns as vectors, many as a panel.
    constexpr index kFew = 4;
    const bool few = kPlanes<T> * r <= kFew;
    const index width = few ? r : round_up(r, simd::panel_unit<double>), ld = kPlanes<T> * width;
    Buffer<double> right = right_factor<double, T>(X, width, A_.conjugated());
    if (few)
      right = by_columns(right.get(), depth, ld);
    const index size = depth * ld;
    const double flops = 4.0 * static_cast<double>(m) * static_cast<double>(size);
    const index wanted =
        std::clamp<index>(kPartialBytes / (2 * size * static_cast<index>(sizeof(double))), 4, 16);
    const RowChunks chunks(m, chunks_for(flops, wanted), simd::kRowBlock);
    Buffer<double> parts(chunks.count * 2 * size);
    std::vector<double> squares(static_cast<std::size_t>(chunks.count * r), 0.0);
    const simd::DenseKernels<double> &kernels = simd::dense<double>();
    constexpr auto item = static_cast<index>(sizeof(double));
    const bool streams = std::is_same_v<R, double> && A_.rows_follow();
    parallel_for(chunks.count, [&](index c) {
      double *sum = parts.get() + c * 2 * size, *lost = sum + size;
      std::fill(sum, sum + 2 * size, 0.0);
      double *y = scratch<double>(2 * kChain * ld, 1);
      double *z = scratch<double>(size, 3);
      A_.for_blocks(
          chunks.first(c), chunks.last(c),
          [&](index i, index count, const R *stored, index stride) {
            const double *block = wide_rows(stored, depth, count, stride);
            for (index k = 0; k < count; k += kChain) {
              const index rows = std::min(kChain, count - k);
              const double *A = block + k * stride;
              if (few)
                kernels.dots(A, stride, rows, depth, right.get(), ld, y,
                             streams ? simd::Ahead{A + rows * stride, rows * stride * item}
                                     : simd::Ahead{});
              else
                kernels.multiply(A, stride, rows, depth, right.get(), ld, ld, y, ld, false, {});
              edit(i + k, rows, width, y + kChain * ld, y);
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
    const double flip = A_.conjugated() ? -1.0 : 1.0;
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
};

} // namespace

template <class T> std::unique_ptr<TallMatrix<T>> tall(MatrixView<T> A, MatrixView<T> b) {
  return std::make_unique<DenseTall<T>>(DenseRows<T>(A), b);
}
template <class T> std::unique_ptr<TallMatrix<T>> adjoint_tall(MatrixView<T> A) {
  return tall(A.adjoint(), MatrixView<T>{nullptr, A.n, 0, 0, 0, false});
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<TallMatrix<T>> tall(MatrixView<T>, MatrixView<T>);                      \
  template std::unique_ptr<TallMatrix<T>> adjoint_tall(MatrixView<T>);                             \
  template class LeastSquares<T>;                                                                  \
  template class MinimumNorm<T>;
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
