// What the three families of embeddings share: A as real rows, and the split of its columns.
#pragma once

#include "lowla/sketch.hpp"

#include <algorithm>
#include <vector>

namespace lowla::sketches {

using threads::parallel_for;

/// A as real row-major blocks, complex entries as pairs (S is real): the stored memory itself where
/// rows are contiguous, else packed copies.
template <class T> struct RealRows {
  using R = real_t<T>;
  static constexpr index kPlanes = scalar_traits<T>::planes;
  MatrixView<T> A;

  index columns() const { return kPlanes * A.n; }
  bool direct() const { return (A.cs == 1 || A.n == 1) && !A.conjugated; }
  /// Only where direct().
  index stride() const { return kPlanes * A.rs; }
  const R *at(index j, index c) const { return reinterpret_cast<const R *>(A.at(j, 0)) + c; }

  /// out (rows x (c1 - c0)) = the columns [c0, c1) of rows j, j + 1, ...; whole entries.
  void pack(index j, index rows, index c0, index c1, R *out, index ld) const {
    if (direct()) {
      for (index r = 0; r < rows; ++r)
        std::copy_n(at(j + r, c0), c1 - c0, out + r * ld);
      return;
    }
    constexpr index kTile = 16; // rows and columns at a time, for either memory order
    const index first = c0 / kPlanes, last = c1 / kPlanes;
    for (index r0 = 0; r0 < rows; r0 += kTile)
      for (index k0 = first; k0 < last; k0 += kTile)
        for (index r = r0; r < std::min(rows, r0 + kTile); ++r)
          for (index k = k0; k < std::min(last, k0 + kTile); ++k) {
            const R *entry = reinterpret_cast<const R *>(A.at(j + r, k));
            R *target = out + r * ld + kPlanes * (k - first);
            target[0] = entry[0];
            if constexpr (is_complex_v<T>)
              target[1] = A.conjugated ? -entry[1] : entry[1];
          }
  }
};

/// All rows, copied only where they are not contiguous as they are.
template <class T> struct ContiguousRows {
  using R = real_t<T>;
  Buffer<R> packed;
  const R *data;
  index stride;
  explicit ContiguousRows(const RealRows<T> &source) {
    if (source.direct()) {
      data = source.at(0, 0);
      stride = source.stride();
    } else {
      stride = source.columns();
      packed = Buffer<R>(source.A.m * stride);
      source.pack(0, source.A.m, 0, stride, packed.get(), stride);
      data = packed.get();
    }
  }
};

/// Columns split into slabs of about `wanted` bytes a row, whole 64-byte units, a multiple of the
/// number of threads where there are so many. Columns do not meet, so no result depends on it.
struct Slabs {
  index columns, width, count;
  Slabs(index n_columns, index wanted, index item) : columns(n_columns) {
    const index unit = simd::kPanelBytes / item;
    const index units = std::max<index>(1, (columns + unit - 1) / unit);
    const index n_threads = threads::get_num_threads();
    index slabs = std::max<index>(1, units * simd::kPanelBytes / std::max(wanted, index(64)));
    if (round_up(slabs, n_threads) <= units)
      slabs = round_up(slabs, n_threads);
    width = round_up((units + slabs - 1) / slabs * unit, unit);
    count = std::max<index>(1, (columns + width - 1) / width);
  }
  index first(index slab) const { return slab * width; }
  index last(index slab) const { return std::min(columns, (slab + 1) * width); }
};

/// H(r, j) = -1 where r & j is odd: the Hadamard matrix of Sylvester.
inline bool odd_bits(std::uint64_t x) {
  for (int shift = 32; shift > 0; shift /= 2)
    x ^= x >> shift;
  return (x & 1u) != 0;
}

/// f(b, j, n, words): the words of row block b of a sjlt for the columns j .. j + n - 1, pieces of
/// [first, last); four row blocks of some columns at a time, as their words come from one Philox
/// block.
template <class F> void for_sjlt_words(const SketchSpec &spec, index first, index last, F &&f) {
  constexpr index kColumns = 1024;
  std::uint32_t words[4 * kColumns];
  for (index b0 = 0; b0 < spec.nnz; b0 += 4)
    for (index j = first; j < last; j += kColumns) {
      const index n = std::min(kColumns, last - j);
      simd::words4(spec.key, philox::kStreamSjlt, b0 >> 2, j, n, words, kColumns);
      for (index b = b0; b < std::min(spec.nnz, b0 + 4); ++b)
        f(b, j, n, words + (b & 3) * kColumns);
    }
}

template <class R> void scale_rows(R *out, index rows, index columns, double factor) {
  constexpr index kRows = 64;
  const R by = static_cast<R>(factor);
  parallel_for((rows + kRows - 1) / kRows, [&](index chunk) {
    const index end = std::min(rows, (chunk + 1) * kRows) * columns;
    for (index k = chunk * kRows * columns; k < end; ++k)
      out[k] *= by;
  });
}

// gaussian, rademacher; and srht of sparse matrices
template <class R>
void dense_block(const SketchSpec &spec, index first, index rows, index j, index cols, R *out,
                 index ld);
template <class T> void dense_times(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T, class I> void dense_times_csr(const SketchSpec &spec, CsrView<T, I> A, T *out);
template <class T> void dense_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out);

// srht
template <class T> void srht_times(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T> void srht_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out);

// sjlt, sparse
template <class T> void sjlt_times(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T> void sparse_times(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T, class I> void sparse_times_csr(const SketchSpec &spec, CsrView<T, I> A, T *out);
template <class T> void sparse_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out);
SketchPattern sparse_pattern(const SketchSpec &spec);

// uniform
template <class T> void uniform_times(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T, class I> void uniform_times_csr(const SketchSpec &spec, CsrView<T, I> A, T *out);
template <class T> void uniform_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out);
SketchPattern uniform_pattern(const SketchSpec &spec);

} // namespace lowla::sketches
