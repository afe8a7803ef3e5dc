// Gaussian and Rademacher embeddings on the CPU, and whatever is applied by its entries.
//
// Blocks of S are generated next to the product that uses them up, in the second-level cache; a
// thread owns up to 512 rows of S, so no entry is made twice. Each entry of the result is one chain
// of additions in the order of the rows of A, whatever the blocks and threads; the scale comes
// last.
#include "sketch_kinds.hpp"

namespace lowla::sketches {
namespace {

constexpr index kDepth = 128; // columns of a block of S: a panel of A then fits the first cache

/// The rows of S are split for the threads, each part whole groups of four normals.
struct RowParts {
  index rows, size, count;
  RowParts(index n_rows, index most, index n_threads) : rows(n_rows) {
    const index parts = round_up((rows + most - 1) / most, n_threads);
    size = round_up((rows + parts - 1) / parts, 4);
    count = (rows + size - 1) / size;
  }
  index first(index part) const { return part * size; }
  index length(index part) const { return std::min(size, rows - part * size); }
};

/// Rows of a block lie this far apart: not a power of two, whose rows would share cache sets.
template <class R> constexpr index kBlockStride = kDepth + simd::panel_unit<R>;

} // namespace

/// out(i, c) = S(first + i, j + c) without the scale. `first` a multiple of 4; gaussian writes
/// whole groups of four rows.
template <class R>
void dense_block(const SketchSpec &spec, index first, index rows, index j, index cols, R *out,
                 index ld) {
  switch (spec.kind) {
  case SketchKind::kGaussian:
    simd::sketching<R>().normals(spec.key, philox::kStreamGaussian, first / 4, (rows + 3) / 4, j,
                                 cols, out, ld);
    return;
  case SketchKind::kRademacher:
    simd::sketching<R>().signs(spec.key, philox::kStreamSign, first, rows, j, cols, out, ld);
    return;
  default:
    break;
  }
  // srht: H(r, j) = (-1)^(number of common bits of r and j)
  const int bits = spec.log2_order();
  std::vector<R> diagonal(static_cast<std::size_t>(cols));
  for (index c = 0; c < cols; ++c)
    diagonal[static_cast<std::size_t>(c)] = static_cast<R>(
        philox::sign(spec.key, philox::kStreamDiagonal, static_cast<std::uint64_t>(j + c), 0));
  for (index i = 0; i < rows; ++i) {
    const std::uint64_t order = std::uint64_t(1) << bits;
    const std::uint64_t r =
        philox::permuted(spec.key, static_cast<std::uint64_t>(first + i) & (order - 1), bits);
    for (index c = 0; c < cols; ++c) {
      const R sign = diagonal[static_cast<std::size_t>(c)];
      out[i * ld + c] = odd_bits(r & static_cast<std::uint64_t>(j + c)) ? -sign : sign;
    }
  }
}

template <class T> void dense_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  using R = real_t<T>;
  constexpr index kUnit = simd::panel_unit<R>, kSlab = 2048 / static_cast<index>(sizeof(R));
  const RealRows<T> source{A};
  const index columns = source.columns(), ld = round_up(columns, kUnit);
  const bool in_place = source.direct() && ld == columns;
  const RowParts parts(spec.d, 512, threads::get_num_threads());
  const R factor = static_cast<R>(spec.scale());
  Buffer<R> product(spec.d * ld);
  // Some 1e10 flops at a time, so that an interrupt need not wait for all.
  const index rows_at_once =
      std::max<index>(1, index(5'000'000'000) / (kDepth * spec.d * ld)) * kDepth;
  for (index j0 = 0; j0 < spec.n; j0 += rows_at_once)
    parallel_for(parts.count, [&](index part) {
      const index first = parts.first(part), rows = parts.length(part);
      R *sums = product.get() + first * ld;
      Buffer<R> S(parts.size * kBlockStride<R>), packed;
      if (!in_place) {
        packed = Buffer<R>(kDepth * std::min(kSlab, ld));
        std::fill(packed.get(), packed.get() + kDepth * std::min(kSlab, ld), R(0));
      }
      for (index j = j0; j < std::min(spec.n, j0 + rows_at_once); j += kDepth) {
        const index depth = std::min(kDepth, spec.n - j);
        dense_block(spec, first, rows, j, depth, S.get(), kBlockStride<R>);
        for (index c = 0; c < ld; c += kSlab) {
          const index width = std::min(kSlab, ld - c);
          const R *block = in_place ? source.at(j, c) : packed.get();
          if (!in_place)
            source.pack(j, depth, c, std::min(columns, c + width), packed.get(), width);
          simd::dense<R>().multiply(S.get(), kBlockStride<R>, rows, depth, block,
                                    in_place ? source.stride() : width, width, sums + c, ld, j > 0,
                                    {});
        }
      }
    });
  R *result = reinterpret_cast<R *>(out);
  for (index i = 0; i < spec.d; ++i)
    for (index c = 0; c < columns; ++c)
      result[i * columns + c] = factor * product.get()[i * ld + c];
}

template <class T, class I> void dense_times_csr(const SketchSpec &spec, CsrView<T, I> A, T *out) {
  using R = real_t<T>;
  constexpr index kRows = 64;
  const R factor = static_cast<R>(spec.scale());
  // (S A)^H = A^H S^T by 64 columns of S^T.
  parallel_for((spec.d + kRows - 1) / kRows, [&](index part) {
    const index first = part * kRows, rows = std::min(kRows, spec.d - first);
    Panel<T> St(kDepth, rows), Z(A.n, rows);
    St.zero();
    Z.zero();
    Buffer<R> S(kRows * kBlockStride<R>);
    for (index j = 0; j < spec.n; j += kDepth) {
      const index depth = std::min(kDepth, spec.n - j);
      dense_block(spec, first, rows, j, depth, S.get(), kBlockStride<R>);
      for (index k = 0; k < depth; ++k)
        for (index i = 0; i < rows; ++i)
          St.row(k)[i] = S.get()[i * kBlockStride<R> + k];
      simd::sparse<T, I>().multiply_adjoint(A.indptr + j, A.indices, A.data, 0, depth, St.row(0),
                                            St.ld, St.width, Z.row(0), Z.ld);
    }
    for (index c = 0; c < A.n; ++c)
      for (index i = 0; i < rows; ++i) {
        const R re = factor * Z.row(c)[i];
        if constexpr (is_complex_v<T>)
          out[(first + i) * A.n + c] = T(re, -factor * Z.row(c)[Z.width + i]);
        else
          out[(first + i) * A.n + c] = re;
      }
  });
}

template <class T> void dense_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  using R = real_t<T>;
  const RealRows<T> source{A};
  const index columns = source.columns(), ld = round_up(columns, simd::panel_unit<R>);
  Buffer<R> Y(spec.d * ld);
  std::fill(Y.get(), Y.get() + spec.d * ld, R(0));
  source.pack(0, spec.d, 0, columns, Y.get(), ld);
  const R factor = static_cast<R>(spec.scale());
  parallel_for((spec.n + kDepth - 1) / kDepth, [&](index chunk) {
    constexpr index kRows = 128; // of S at a time
    const index j = chunk * kDepth, width = std::min(kDepth, spec.n - j);
    Buffer<R> S(kRows * kBlockStride<R>), product(width * ld);
    std::fill(product.get(), product.get() + width * ld, R(0));
    for (index i = 0; i < spec.d; i += kRows) {
      const index rows = std::min(kRows, spec.d - i);
      dense_block(spec, i, rows, j, width, S.get(), kBlockStride<R>);
      simd::dense<R>().multiply_transposed(S.get(), kBlockStride<R>, rows, width, Y.get() + i * ld,
                                           ld, ld, product.get(), ld, true, {});
    }
    R *result = reinterpret_cast<R *>(out) + j * columns;
    for (index r = 0; r < width; ++r)
      for (index c = 0; c < columns; ++c)
        result[r * columns + c] = factor * product.get()[r * ld + c];
  });
}

template void dense_block(const SketchSpec &, index, index, index, index, float *, index);
template void dense_block(const SketchSpec &, index, index, index, index, double *, index);
#define LOWLA_INSTANTIATE(T)                                                                       \
  template void dense_times(const SketchSpec &, MatrixView<T>, T *);                               \
  template void dense_times_csr(const SketchSpec &, CsrView<T, std::int32_t>, T *);                \
  template void dense_times_csr(const SketchSpec &, CsrView<T, std::int64_t>, T *);                \
  template void dense_adjoint_times(const SketchSpec &, MatrixView<T>, T *);
LOWLA_FOR_SCALARS(LOWLA_INSTANTIATE)
#undef LOWLA_INSTANTIATE

} // namespace lowla::sketches
