// Cuda: dense matrices (see device/cuda.cuh).
#pragma once

#include "lowla/device/cuda_panels.cuh"

namespace lowla {
namespace cuda_detail {

/// Rows of A whose two products run one after the other: the block should still be in the L2 cache
/// (40 to 50 MB on the data-centre GPUs) when the second product reads it. An expectation of the
/// design, not a measurement.
constexpr index kBlockBytes = index(16) << 20;
constexpr index kMinBlockRows = 256;

/// Rows of A (or of conj(A)) as gemm takes them: where `by_columns`, their conjugates are stored.
template <class T> struct Block {
  const T *data;
  index rows, cols, ld;
  bool by_columns; ///< column-major; else row-major
};

/// Y = A X, row-major, `cols` columns: Y^T = X^T A^T
template <class Runtime, class T>
void multiply_block(const Block<T> &A, const T *X, index ldx, index cols, T *Y, index ldy) {
  Runtime::gemm('N', A.by_columns ? 'C' : 'N', cols, A.rows, A.cols, T(1), X, ldx, A.data, A.ld,
                T(0), Y, ldy);
}

/// to = scale from, or its conjugate, in double precision, row-major.
template <class T, class Runtime>
void copy_wide(MatrixView<T> from, bool conjugate, double scale, wide_t<T> *to, index ld) {
  Runtime::for_each(from.m * from.n,
                    functors::CopyWide<T>{reals(from.data), from.rs, from.cs, conjugate, scale,
                                          reals(to), ld, from.n});
}

/// A block in double precision and its own order, times `scale`: in `scratch`.
template <class Runtime, class T>
Block<wide_t<T>> widened(const Block<T> &block, double scale,
                         DeviceArray<Runtime, wide_t<T>> &scratch) {
  const index lines = block.by_columns ? block.cols : block.rows;
  const index length = block.by_columns ? block.rows : block.cols;
  copy_wide<T, Runtime>({block.data, lines, length, block.ld, 1, false}, false, scale,
                        scratch.get(), length);
  return {scratch.get(), block.rows, block.cols, length, block.by_columns};
}

/// The stored matrix by blocks of rows, times `scale`.
template <class T, class Runtime> class DenseRows {
public:
  using View = MatrixView<T>;
  using R = real_t<T>;

  explicit DenseRows(MatrixView<T> A, R scale = R(1)) : A_(A), scale_(scale) {}

  /// gemm conjugates only together with a transposition. Rows as stored, and columns of the
  /// conjugate, are what it can do; otherwise everything is computed for conj(A).
  bool mirrored() const {
    if constexpr (is_complex_v<T>)
      return (by_rows() && A_.conjugated) || (by_columns() && !A_.conjugated);
    else
      return false;
  }

  /// f(first row, block) for blocks of `rows` rows: the memory itself, or packed copies.
  template <class F> void for_blocks(index rows, F &&f) const {
    const bool rows_lie = by_rows(), columns_lie = by_columns(), packed = !rows_lie && !columns_lie;
    if (packed)
      rows = scratch_rows(std::min(rows, A_.m), A_.n * static_cast<index>(sizeof(T)));
    DeviceArray<Runtime, T> scratch(packed ? rows * A_.n : 0);
    for (index i = 0; i < A_.m; i += rows) {
      CancelScope::poll();
      const index count = std::min(rows, A_.m - i);
      if (packed) {
        copy_entries<T, Runtime>(A_.rows(i, count), scale_, scratch.get(), A_.n, 1);
        f(i, Block<T>{scratch.get(), count, A_.n, A_.n, false});
      } else {
        f(i, Block<T>{A_.at(i, 0), count, A_.n, rows_lie ? A_.rs : A_.cs, columns_lie});
      }
    }
  }

  /// out = rows first .. first+count-1, row-major.
  void copy_rows(index first, index count, T *out) const {
    copy_entries<T, Runtime>(A_.rows(first, count), scale_, out, A_.n, 1);
  }

  double scan(bool &finite) const {
    Reduction<Runtime> reduction;
    reduction.add_largest(A_.data, A_.rs, A_.cs, A_.m, A_.n);
    const double largest = reduction.largest();
    finite = std::isfinite(largest);
    return largest;
  }

protected:
  MatrixView<T> A_;
  R scale_;

private:
  bool by_rows() const {
    return scale_ == R(1) && (A_.cs == 1 || A_.n == 1) && leading(A_.rs, A_.n);
  }
  bool by_columns() const {
    return scale_ == R(1) && !by_rows() && (A_.rs == 1 || A_.m == 1) && leading(A_.cs, A_.m);
  }
};

/// The same of a matrix in single precision, in double precision.
template <class T, class Runtime> class WidenedRows {
public:
  using View = MatrixView<T>;
  using Wide = wide_t<T>;

  WidenedRows(View A, double scale) : A_(A), scale_(scale), rows_(A) {}

  bool mirrored() const { return rows_.mirrored(); }

  template <class F> void for_blocks(index rows, F &&f) const {
    rows = scratch_rows(std::min(rows, A_.m), A_.n * static_cast<index>(sizeof(Wide)));
    DeviceArray<Runtime, Wide> scratch(rows * A_.n);
    rows_.for_blocks(rows, [&](index i, const Block<T> &block) {
      f(i, widened<Runtime>(block, scale_, scratch));
    });
  }

  void copy_rows(index first, index count, Wide *out) const {
    copy_wide<T, Runtime>(A_.rows(first, count), A_.conjugated, scale_, out, A_.n);
  }

  double scan(bool &finite) const { return rows_.scan(finite); }

protected:
  View A_;
  double scale_;

private:
  DenseRows<T, Runtime> rows_;
};

template <class T, class Runtime, class Rows = DenseRows<T, Runtime>>
class DenseMatrix final : public Cuda<T, Runtime>::Matrix, private Rows {
public:
  using Device = Cuda<T, Runtime>;
  using R = real_t<T>;
  using Panel = typename Device::Panel;
  using Matrix = typename Device::Matrix;
  using Rows::for_blocks;
  using Rows::mirrored;

  explicit DenseMatrix(typename Rows::View A, R scale = R(1)) : Rows(A, scale) {
    this->m = A.m;
    this->n = A.n;
  }

  void multiply(const Panel &X, Panel &Y, double *norm2) override {
    const typename Matrix::Read read(*this);
    const Conjugated x(X, mirrored());
    const auto squares = norm2 != nullptr ? std::make_unique<Reduction<Runtime>>() : nullptr;
    for_blocks(norm2 != nullptr ? block_rows() : A_.m, [&](index i, const Block<T> &block) {
      multiply_block<Runtime>(block, x.panel.row(0), X.ld, X.cols, Y.row(i), Y.ld);
      add_squares(squares.get(), block);
    });
    conjugate_if(mirrored(), Y);
    if (norm2 != nullptr)
      *norm2 = squares->sum();
  }

  void multiply_adjoint(const Panel &Y, Panel &Z, double *norm2) override {
    const typename Matrix::Read read(*this);
    const Conjugated y(Y, mirrored());
    const auto squares = norm2 != nullptr ? std::make_unique<Reduction<Runtime>>() : nullptr;
    for_blocks(norm2 != nullptr ? block_rows() : A_.m, [&](index i, const Block<T> &block) {
      add_adjoint_block(block, y.panel.row(i), Y.ld, i == 0, Z);
      add_squares(squares.get(), block);
    });
    conjugate_if(mirrored(), Z);
    if (norm2 != nullptr)
      *norm2 = squares->sum();
  }

  /// Block by block, so that each block crosses from main memory once.
  void normal(const Panel &X, Panel *Y, Panel &Z, double *norm2) override {
    const typename Matrix::Read read(*this);
    const Conjugated x(X, mirrored());
    const auto squares = norm2 != nullptr ? std::make_unique<Reduction<Runtime>>() : nullptr;
    Panel own;
    if (Y == nullptr)
      own = Panel(block_rows(), X.cols);
    for_blocks(block_rows(), [&](index i, const Block<T> &block) {
      T *y = Y == nullptr ? own.row(0) : Y->row(i);
      multiply_block<Runtime>(block, x.panel.row(0), X.ld, X.cols, y, X.ld);
      add_adjoint_block(block, y, X.ld, i == 0, Z);
      add_squares(squares.get(), block);
    });
    if (Y != nullptr)
      conjugate_if(mirrored(), *Y);
    conjugate_if(mirrored(), Z);
    if (norm2 != nullptr)
      *norm2 = squares->sum();
  }

  double scan(bool &finite) override { return Rows::scan(finite); }

  void rescale(R factor) override { scale_ = factor; }

  std::unique_ptr<Matrix> adjoint() const override {
    return std::make_unique<DenseMatrix>(A_.adjoint(), scale_);
  }

  double residual_norm2(const Panel &U, const std::vector<double> &s, const Panel &V) override {
    const typename Matrix::Read read(*this);
    const Panel scaled = times_diagonal(U, s);
    const index rows = scratch_rows(A_.m, A_.n * static_cast<index>(sizeof(T)));
    DeviceArray<Runtime, T> rest(rows * A_.n);
    Reduction<Runtime> squares;
    for (index i = 0; i < A_.m; i += rows) {
      CancelScope::poll();
      const index count = std::min(rows, A_.m - i);
      this->copy_rows(i, count, rest.get());
      Runtime::gemm('C', 'N', A_.n, count, V.cols, T(-1), V.row(0), V.ld, scaled.row(i), scaled.ld,
                    T(1), rest.get(), A_.n);
      squares.add_squares(rest.get(), A_.n, 1, count, A_.n);
    }
    return squares.sum();
  }

  static Panel times_diagonal(const Panel &U, const std::vector<double> &s) {
    Small<wide_t<T>> D(U.cols, U.cols);
    for (index j = 0; j < U.cols; ++j)
      D(j, j) = s[static_cast<std::size_t>(j)];
    return Device::combine({&U}, D);
  }

private:
  /// A panel, or a conjugated copy of it.
  struct Conjugated {
    Panel own;
    const Panel &panel;
    Conjugated(const Panel &X, bool conjugate)
        : own(conjugate ? Device::copy(X) : Panel()), panel(conjugate ? own : X) {
      conjugate_if(conjugate, own);
    }
    Conjugated(const Conjugated &) = delete;
    Conjugated &operator=(const Conjugated &) = delete;
  };

  static void conjugate_if(bool wanted, Panel &P) {
    if (wanted)
      copy_entries<T, Runtime>(MatrixView<T>{P.row(0), P.rows, P.cols, P.ld, 1, true}, R(1),
                               P.row(0), P.ld, 1);
  }

  index block_rows() const {
    const index rows = kBlockBytes / (A_.n * static_cast<index>(sizeof(T)));
    return std::min(A_.m, std::max(kMinBlockRows, rows));
  }

  /// Z (+)= A^H Y: Z^T (+)= Y^T conj(A)
  static void add_adjoint_block(const Block<T> &A, const T *Y, index ldy, bool first, Panel &Z) {
    Runtime::gemm('N', A.by_columns ? 'N' : 'C', Z.cols, A.cols, A.rows, T(1), Y, ldy, A.data, A.ld,
                  first ? T(0) : T(1), Z.row(0), Z.ld);
  }

  void add_squares(Reduction<Runtime> *squares, const Block<T> &A) const {
    if (squares != nullptr)
      squares->add_squares(A.data, A.by_columns ? 1 : A.ld, A.by_columns ? A.ld : 1, A.rows, A_.n);
  }

  using Rows::A_;
  using Rows::scale_;
};

} // namespace cuda_detail

template <class T, class Runtime>
std::unique_ptr<typename Cuda<T, Runtime>::Matrix> Cuda<T, Runtime>::dense(MatrixView<T> A) {
  return std::make_unique<cuda_detail::DenseMatrix<T, Runtime>>(A);
}

} // namespace lowla
