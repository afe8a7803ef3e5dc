// Row blocks of a matrix in main memory, and what loops over them share.
#pragma once

#include "lowla/core/panel.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/view.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace lowla::rows {

using threads::parallel_for;

/// Below this many flops a loop is not worth waking a thread for.
inline constexpr double kSerialFlops = 1e6;
/// Memory for the partial sums of one reduction, beyond what the panels themselves take.
inline constexpr index kPartialBytes = index(8) << 20;

inline index chunks_for(double flops, index wanted) {
  const auto affordable = static_cast<index>(flops / kSerialFlops) + 1;
  return std::max<index>(1, std::min(wanted, affordable));
}

/// Partial sums of so many bytes each that `budget` holds: at most 16, at least 2, and an even
/// number, which two threads share without a rest.
inline index parts_within(index budget, index bytes) {
  return std::clamp<index>(budget / bytes, 2, 16) / 2 * 2;
}

/// Split of `rows` into chunks of whole row blocks, about as many in each; at least one chunk.
/// Depends on the sizes alone.
struct RowChunks {
  index rows, block, blocks, count;
  RowChunks(index n_rows, index wanted, index block_rows)
      : rows(n_rows), block(block_rows), blocks((n_rows + block_rows - 1) / block_rows),
        count(std::max<index>(1, std::min(wanted, blocks))) {}
  index first(index c) const { return std::min(rows, blocks * c / count * block); }
  index last(index c) const { return first(c + 1); }
};

/// Per-thread scratch that survives between calls on one thread.
template <class R> R *scratch(index n, int slot) {
  constexpr int kSlots = 5;
  thread_local Buffer<R> buffers[kSlots];
  thread_local index sizes[kSlots] = {};
  if (sizes[slot] < n) {
    buffers[slot] = Buffer<R>();
    buffers[slot] = Buffer<R>(n);
    sizes[slot] = n;
  }
  return buffers[slot].get();
}

void widen(const float *x, double *y, index n);
/// Z (rows x q, row stride ldz) += block (rows x q)
void add_block(const float *block, index rows, index q, double *Z, index ldz);

/// out[j] += sum over parts of part[j], in the order of the parts.
void add_parts(float *out, const float *parts, index n_parts, index stride, index n);
void add_parts(double *out, const double *parts, index n_parts, index stride, index n);

template <class T> inline constexpr int kPlanes = scalar_traits<T>::planes;

/// Entries of a panel's row that may not be zero: a real row's padding need not be multiplied.
template <class T> index used(const Panel<T> &P) { return is_complex_v<T> ? P.ld : P.cols; }

/// The numbers x as type Product: the memory itself, or widened into the thread's scratch.
template <class Product, class R> const Product *as(const R *x, index n, int slot) {
  if constexpr (std::is_same_v<Product, R>) {
    (void)n;
    (void)slot;
    return x;
  } else {
    Product *wide = scratch<Product>(n, slot);
    widen(x, wide, n);
    return wide;
  }
}

/// Z (rows x q) += X^T W over `depth` rows, added up in R, Z in double.
template <class R>
void add_products(const R *X, index ldx, index rows, const R *W, index ldw, index q, index depth,
                  double *Z, index ldz) {
  if constexpr (std::is_same_v<R, double>) {
    simd::dense<double>().multiply_transposed(X, ldx, depth, rows, W, ldw, q, Z, ldz, true, {});
  } else {
    R *block = scratch<R>(rows * q, 2);
    std::fill(block, block + rows * q, R(0));
    simd::dense<R>().multiply_transposed(X, ldx, depth, rows, W, ldw, q, block, q, true, {});
    add_block(block, rows, q, Z, ldz);
  }
}

/// The right factor of A M for stored rows of A, M(i, j) = entry(i, j): for complex A rows 2i, 2i+1
/// are [Mr | Mi] and [-Mi | Mr] (the sign follows a conjugated view), columns padded to `width` a
/// plane.
template <class R, class T, class Entry>
Buffer<R> embedded(index rows, index cols, index width, bool conjugated, Entry &&entry) {
  constexpr int planes = kPlanes<T>;
  const index ld = planes * width;
  Buffer<R> out(planes * rows * ld);
  std::fill(out.get(), out.get() + planes * rows * ld, R(0));
  const R flip = conjugated ? R(-1) : R(1);
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < cols; ++j) {
      const auto value = entry(i, j);
      R *row = out.get() + planes * i * ld + j;
      row[0] = static_cast<R>(real_of(value));
      if constexpr (is_complex_v<T>) {
        row[width] = static_cast<R>(value.imag());
        row[ld] = -flip * static_cast<R>(value.imag());
        row[ld + width] = flip * static_cast<R>(value.real());
      } else {
        (void)flip;
      }
    }
  return out;
}

/// Largest magnitude among the finite ones of x; clears `finite` where not all are.
template <class R> double largest_finite(const R *x, index n, bool &finite) {
  double largest = 0;
  for (index i = 0; i < n; ++i) {
    const double a = std::abs(static_cast<double>(x[i]));
    if (!std::isfinite(a))
      finite = false;
    else if (a > largest)
      largest = a;
  }
  return largest;
}

/// The stored matrix as the kernels see it: m x (planes n) reals, rows contiguous, times `scale`.
template <class T> class DenseRows {
public:
  using Scalar = T;
  using R = real_t<T>;

  explicit DenseRows(MatrixView<T> A, R scale = R(1)) : A_(A), scale_(scale) {}

  index rows() const { return A_.m; }
  index cols() const { return A_.n; }
  index depth() const { return kPlanes<T> * A_.n; }
  bool conjugated() const { return A_.conjugated; }
  const MatrixView<T> &view() const { return A_; }
  R scale() const { return scale_; }
  void rescale(R factor) { scale_ = factor; }

  bool direct() const { return (A_.cs == 1 || A_.n == 1) && scale_ == R(1); }

  /// f(i, rows, block, row stride) for the row blocks of [first, last); a block is the stored
  /// memory itself where its rows are contiguous, else a packed (and scaled) copy of the block.
  template <class F> void for_blocks(index first, index last, F &&f) const {
    const index most = block_rows();
    if (direct()) {
      for (index i = first; i < last; i += most)
        f(i, std::min(most, last - i), reinterpret_cast<const R *>(A_.at(i, 0)),
          kPlanes<T> * A_.rs);
      return;
    }
    // Several blocks at a time: of columns that lie contiguous long runs are read.
    const index at_once = std::min(packed_rows(), last - first);
    for (index i = first; i < last; i += at_once) {
      const index count = std::min(at_once, last - i);
      R *packed = scratch<R>(at_once * depth(), 0);
      pack(i, count, packed);
      for (index k = 0; k < count; k += most)
        f(i + k, std::min(most, count - k), static_cast<const R *>(packed + k * depth()), depth());
    }
  }

  /// Rows are contiguous and lie one after the other.
  bool rows_follow() const { return direct() && A_.rs >= A_.n && A_.rs <= A_.n + A_.n / 8; }

  /// The block at row `next`, if there is one, to be fetched while the one before is in use: where
  /// both and `beside` bytes have room in the second-level cache.
  simd::Ahead ahead(index next, index beside) const {
    if (!rows_follow() || next >= A_.m)
      return {};
    const index bytes = std::min(block_rows(), A_.m - next) * A_.rs * static_cast<index>(sizeof(T));
    if (2 * bytes + beside > simd::second_level_cache() / 8 * 5)
      return {};
    return {A_.at(next, 0), bytes};
  }

  /// Largest magnitude among the finite parts, and whether all are finite.
  double scan(bool &finite) const {
    const RowChunks chunks(A_.m, 64, simd::kRowBlock);
    std::vector<double> largest(static_cast<std::size_t>(chunks.count), 0.0);
    std::vector<char> bad(static_cast<std::size_t>(chunks.count), 0);
    parallel_for(chunks.count, [&](index c) {
      bool all = true;
      for_blocks(chunks.first(c), chunks.last(c), [&](index, index rows, const R *block, index rs) {
        for (index r = 0; r < rows; ++r)
          largest[c] = std::max(largest[c], largest_finite(block + r * rs, depth(), all));
      });
      bad[c] = all ? 0 : 1;
    });
    finite = std::none_of(bad.begin(), bad.end(), [](char b) { return b != 0; });
    return *std::max_element(largest.begin(), largest.end());
  }

protected:
  MatrixView<T> A_;
  R scale_;

private:
  /// Of a block: half as many where kRowBlock long rows and the next block take up a usual
  /// second-level cache.
  index block_rows() const {
    constexpr index kMuch = index(1) << 19;
    return simd::kRowBlock * depth() * static_cast<index>(sizeof(R)) > kMuch ? simd::kRowBlock / 2
                                                                             : simd::kRowBlock;
  }

  /// Whole blocks, which take half of a usual second-level cache at most, or one block.
  index packed_rows() const {
    constexpr index kRoom = index(1) << 19;
    const index bytes = block_rows() * depth() * static_cast<index>(sizeof(R));
    return std::clamp<index>(kRoom / bytes, 1, 4) * block_rows();
  }

  void pack(index i, index rows, R *out) const {
    constexpr index kTile = 16;
    for (index j0 = 0; j0 < A_.n; j0 += kTile) {
      const index j1 = std::min(A_.n, j0 + kTile);
      for (index r = 0; r < rows; ++r) {
        const T *source = A_.at(i + r, 0);
        R *target = out + r * depth();
        for (index j = j0; j < j1; ++j) {
          const R *entry = reinterpret_cast<const R *>(source + j * A_.cs);
          for (int plane = 0; plane < kPlanes<T>; ++plane)
            target[kPlanes<T> * j + plane] = scale_ * entry[plane];
        }
      }
    }
  }
};

/// First rows of chunks of about equal numbers of stored entries, and the end; depends on A alone.
template <class T, class I> std::vector<index> csr_chunks(const CsrView<T, I> &A, index wanted) {
  const index nnz = A.nnz(), start = static_cast<index>(A.indptr[0]);
  const double work = static_cast<double>(nnz) + static_cast<double>(A.m);
  wanted = std::max<index>(1, std::min(wanted, static_cast<index>(work / 2e4) + 1));
  std::vector<index> bounds{0};
  for (index c = 1; c < wanted; ++c) {
    const double goal = work * static_cast<double>(c) / static_cast<double>(wanted);
    index low = bounds.back(), high = A.m;
    while (low < high) {
      const index mid = (low + high) / 2;
      if (static_cast<double>(static_cast<index>(A.indptr[mid]) - start + mid) < goal)
        low = mid + 1;
      else
        high = mid;
    }
    bounds.push_back(low);
  }
  bounds.push_back(A.m);
  return bounds;
}

/// The rows of a CSR matrix in the form of DenseRows: blocks of them written out.
template <class T, class I> class CsrRows {
public:
  using Scalar = T;
  using R = real_t<T>;

  explicit CsrRows(CsrView<T, I> A) : A_(A) {}

  index rows() const { return A_.m; }
  index cols() const { return A_.n; }
  index depth() const { return kPlanes<T> * A_.n; }
  bool conjugated() const { return false; }
  /// Copies the values, not their places.
  void rescale(R factor) {
    scaled_.assign(A_.data, A_.data + static_cast<index>(A_.indptr[A_.m]));
    for (T &value : scaled_)
      value *= factor;
  }
  CsrView<T, I> view() const {
    return {A_.indptr, A_.indices, scaled_.empty() ? A_.data : scaled_.data(), A_.m, A_.n};
  }

  template <class F> void for_blocks(index first, index last, F &&f) const {
    const T *values = view().data;
    for (index i = first; i < last; i += simd::kRowBlock) {
      const index rows = std::min(simd::kRowBlock, last - i);
      R *block = scratch<R>(simd::kRowBlock * depth(), 0);
      std::fill(block, block + rows * depth(), R(0));
      for (index r = 0; r < rows; ++r)
        for (I k = A_.indptr[i + r]; k < A_.indptr[i + r + 1]; ++k) {
          const R *value = reinterpret_cast<const R *>(values + k);
          R *entry = block + r * depth() + kPlanes<T> * static_cast<index>(A_.indices[k]);
          for (int plane = 0; plane < kPlanes<T>; ++plane)
            entry[plane] += value[plane];
        }
      f(i, rows, static_cast<const R *>(block), depth());
    }
  }

  /// Rows are written out by blocks: nothing of them can be fetched ahead.
  simd::Ahead ahead(index, index) const { return {}; }

  double scan(bool &finite) const {
    const auto begin = static_cast<index>(A_.indptr[0]);
    finite = true;
    return largest_finite(reinterpret_cast<const R *>(view().data + begin), kPlanes<T> * A_.nnz(),
                          finite);
  }

private:
  CsrView<T, I> A_;
  std::vector<T> scaled_; ///< where A was out of range
};

/// The rows of a block in double: themselves, or widened one after the other; `rs` follows.
template <class R> const double *wide_rows(const R *A, index depth, index count, index &rs) {
  if constexpr (std::is_same_v<R, double>) {
    (void)depth;
    (void)count;
    return A;
  } else {
    double *out = scratch<double>(simd::kRowBlock * depth, 2);
    for (index i = 0; i < count; ++i)
      widen(A + i * rs, out + i * depth, depth);
    rs = depth;
    return out;
  }
}

} // namespace lowla::rows
