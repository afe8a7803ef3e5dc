// Monarch products on the CPU (see monarch.hpp).
//
// A stage multiplies blocks into rows that lie a fixed distance apart. The rows of a block are
// packed first, padded to whole panel units: distances are often powers of two, and rows that far
// apart share a few cache sets.
#include "lowla/monarch.hpp"

#include "host_rows.hpp"

namespace lowla {
namespace {

using namespace rows;

/// Columns of a slab, in panel units: one register tile.
constexpr index kSlabUnits = 3;
/// Slabs below which threads share the blocks of one.
constexpr index kFewSlabs = 8;

/// Rows of a stage's operand or result: row j of block b is number b * block + j * row.
struct Places {
  index block, row;
};

template <class T> struct Stage {
  using R = real_t<T>;
  Blocks<T> F;
  bool transpose, conjugate;
  index count, m, n; ///< blocks, and one of them as it is applied
  Places in, out;

  Stage(const Blocks<T> &blocks, bool transposed, bool conjugated, Places from, Places to)
      : F(blocks), transpose(transposed), conjugate(conjugated), count(blocks.count),
        m(transposed ? F.n : F.m), n(transposed ? F.m : F.n), in(from), out(to) {}

  /// The blocks b0 .. b1 - 1 for `w` reals of each row of X, whose rows are x_row reals and columns
  /// x_column entries apart; the same of Y by rows.
  void operator()(index b0, index b1, const R *X, index x_row, index x_column, R *Y, index y_row,
                  index w) const {
    if constexpr (!is_complex_v<T>)
      if (w == 1) {
        one_column(b0, b1, X, x_row, Y, y_row);
        return;
      }
    const index padded = round_up(w, simd::panel_unit<R>);
    R *packed = scratch<R>((n + m) * padded, 2), *result = packed + n * padded;
    if (w < padded)
      std::fill(packed, packed + n * padded, R(0));
    for (index b = b0; b < b1; ++b) {
      for (index j = 0; j < n; ++j) {
        const R *x = X + (b * in.block + j * in.row) * x_row;
        R *target = packed + j * padded;
        if (x_column == 1)
          std::copy_n(x, w, target);
        else
          for (index c = 0; c < w / kPlanes<T>; ++c)
            std::copy_n(x + kPlanes<T> * c * x_column, kPlanes<T>, target + kPlanes<T> * c);
      }
      R *y = Y + b * out.block * y_row;
      const bool direct = padded == w;
      simd::modes<T>().multiply(F.data + b * F.m * F.n, transpose ? 1 : F.n, transpose ? F.n : 1,
                                conjugate, m, n, packed, padded, direct ? y : result,
                                direct ? out.row * y_row : padded, padded, {}, {});
      if (!direct)
        for (index i = 0; i < m; ++i)
          std::copy_n(result + i * padded, w, y + i * out.row * y_row);
    }
  }

private:
  /// Read once, a block is what takes the time: the next one is fetched meanwhile.
  void one_column(index b0, index b1, const R *X, index x_row, R *Y, index y_row) const {
    const auto &kernels = simd::dense<R>();
    R *x = scratch<R>(n + m, 2), *y = x + n;
    for (index b = b0; b < b1; ++b) {
      const R *block = reinterpret_cast<const R *>(F.data) + b * F.m * F.n;
      for (index j = 0; j < n; ++j)
        x[j] = X[(b * in.block + j * in.row) * x_row];
      if (transpose) {
        std::fill(y, y + m, R(0));
        kernels.combinations(block, F.n, F.m, F.n, x, 1, y);
      } else {
        const index next = b + 1 < b1 ? m * n * static_cast<index>(sizeof(R)) : 0;
        kernels.dots(block, n, m, n, x, 1, y, {block + m * n, next});
      }
      for (index i = 0; i < m; ++i)
        Y[(b * out.block + i * out.row) * y_row] = y[i];
    }
  }
};

} // namespace

template <class T>
void monarch_multiply(const Blocks<T> &L, const Blocks<T> &R, const MatrixView<T> &X, bool permuted,
                      bool transpose, bool conjugate, T *Y) {
  using Real = real_t<T>;
  const Places blocks_of_R{R.m, 1}, blocks_of_L{1, L.count};
  const Places x_of_R = permuted ? Places{1, R.count} : Places{R.n, 1};
  const Stage<T> right(R, transpose, conjugate, transpose ? blocks_of_R : x_of_R,
                       transpose ? x_of_R : blocks_of_R);
  const Stage<T> left(L, transpose, conjugate, blocks_of_L, blocks_of_L);
  const Stage<T> &first = transpose ? left : right, &second = transpose ? right : left;
  const index between = first.count * first.m, row = kPlanes<T> * X.n;
  const index width = std::min(row, kSlabUnits * simd::panel_unit<Real>);
  const index slabs = (row + width - 1) / width;
  const index x_row = kPlanes<T> * X.rs;
  const auto x_from = [&](index column) { // a multiple of a panel unit, in reals
    return reinterpret_cast<const Real *>(X.data + column / kPlanes<T> * X.cs);
  };
  Real *y = reinterpret_cast<Real *>(Y);
  // For one column an entry of a block is read for two flops: the reading counts.
  constexpr double kReading = 4.0;
  const double flops =
      (X.n == 1 ? kReading : 1.0) * 2.0 * static_cast<double>(row) * kPlanes<T> *
      static_cast<double>(first.count * first.m * first.n + second.count * second.m * second.n);
  if (slabs < kFewSlabs) { // the blocks are shared out instead
    Buffer<Real> T1(between * width);
    const auto run = [&](const Stage<T> &stage, const Real *from, index from_row, index from_column,
                         Real *to, index to_row, index w) {
      const RowChunks chunks(stage.count, chunks_for(flops / static_cast<double>(2 * slabs), 64),
                             1);
      parallel_for(chunks.count, [&](index c) {
        stage(chunks.first(c), chunks.last(c), from, from_row, from_column, to, to_row, w);
      });
    };
    for (index column = 0; column < row; column += width) {
      const index w = std::min(width, row - column);
      run(first, x_from(column), x_row, X.cs, T1.get(), w, w);
      run(second, T1.get(), w, 1, y + column, row, w);
    }
    return;
  }
  const RowChunks chunks(slabs, chunks_for(flops, slabs), 1);
  parallel_for(chunks.count, [&](index c) {
    Real *T1 = scratch<Real>(between * width, 1);
    for (index s = chunks.first(c); s < chunks.last(c); ++s) {
      const index column = s * width, w = std::min(width, row - column);
      first(0, first.count, x_from(column), x_row, X.cs, T1, w, w);
      second(0, second.count, T1, w, 1, y + column, row, w);
    }
  });
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template void monarch_multiply(const Blocks<T> &, const Blocks<T> &, const MatrixView<T> &,      \
                                 bool, bool, bool, T *);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
