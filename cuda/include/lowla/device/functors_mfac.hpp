// What the inverse-Fisher-vector products do on the device beside matrix products (see
// device/cuda_mfac.cuh), as functors over an index range or over blocks of threads.
//
// Gradients are read in the type in which they are stored; all arithmetic is in double precision.
// Every sum has an order of its own, given by the sizes alone.
#pragma once

#include "lowla/device/number.hpp"
#include "lowla/device/runtime.hpp"
#include "lowla/mfac.hpp"

#include <cmath>
#include <cstring>

namespace lowla::functors {

// --- numbers as they are stored (core/stored.hpp has the host's, which need its library)

LOWLA_HD inline double wide_of(float x) { return static_cast<double>(x); }
LOWLA_HD inline double wide_of(double x) { return x; }
LOWLA_HD inline double wide_of_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<double>(value);
}
LOWLA_HD inline double wide_of(BFloat16 x) {
  return wide_of_bits(static_cast<std::uint32_t>(x.bits) << 16);
}
LOWLA_HD inline double wide_of(Float16 x) {
  const std::uint32_t magnitude = x.bits & 0x7fffu, sign = (x.bits & 0x8000u) << 16;
  if (magnitude < 0x400u) { // subnormal: a multiple of 2^-24
    const double value = static_cast<double>(magnitude) * 0x1p-24;
    return sign != 0 ? -value : value;
  }
  const std::uint32_t bias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u; // Inf and NaN stay
  return wide_of_bits(sign | ((magnitude << 13) + bias));
}

LOWLA_HD inline double entry(const Vectors &X, index i, index j) {
  const index at = i * X.rs + j * X.cs;
  return X.is_double ? static_cast<const double *>(X.data)[at]
                     : static_cast<double>(static_cast<const float *>(X.data)[at]);
}
LOWLA_HD inline void store(const MutableVectors &Y, index i, index j, double value) {
  const index at = i * Y.rs + j * Y.cs;
  if (Y.is_double)
    static_cast<double *>(Y.data)[at] = value;
  else
    static_cast<float *>(Y.data)[at] = static_cast<float>(value);
}

/// out(i, j) of some columns of a shard: its row (head + i) mod rows; zero where the mask is.
template <class S> struct WidenColumns {
  const S *data;
  index rs, cs, head, rows, cols;
  const unsigned char *mask; ///< of these columns, or null
  double *out;
  index ld;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    const index row = head + i < rows ? head + i : head + i - rows;
    const bool chosen = mask == nullptr || mask[j] != 0;
    out[i * ld + j] = chosen ? wide_of(data[row * rs + j * cs]) : 0.0;
  }
};

/// out[i out_rs + j out_cs] = X(first + i, column + j), times scale[j] unless null; zero below X.
struct LoadVectors {
  Vectors X;
  index first, column, cols;
  const double *scale;
  double *out;
  index out_rs, out_cs;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    double value = first + i < X.rows ? entry(X, first + i, column + j) : 0.0;
    if (scale != nullptr)
      value *= scale[j];
    out[i * out_rs + j * out_cs] = value;
  }
};

/// Y = alpha X + beta Z in the rows from `first` on and the columns from `column` on.
struct BlendVectors {
  Vectors X;
  double alpha, beta;
  const double *Z; ///< (., cols) row-major
  index first, column, cols;
  MutableVectors Y;
  LOWLA_HD void operator()(index task) const {
    const index i = first + task / cols, j = column + task % cols;
    store(Y, i, j, alpha * entry(X, i, j) + beta * Z[task]);
  }
};

// --- one vector, or a few: G is read once, as it is stored

/// The columns of each block of G in `parts` parts; parts are counted through the blocks.
struct Chunks {
  index width, parts, size, d;
  LOWLA_HD index begin(index q) const { return q / parts * width + q % parts * size; }
  LOWLA_HD index end(index q) const {
    const index own = begin(q) + size, block = (q / parts + 1) * width;
    const index most = own < block ? own : block;
    return most < d ? most : d;
  }
};

/// partial(q, i) += the part q of g_i x, as far as it lies in one shard. A block of threads takes a
/// part and kRows rows: each thread its columns, then the sums of the threads in two steps.
template <class S> struct PartialDots {
  static constexpr int kRows = 8, kSums = kBlockThreads / kRows;
  static constexpr std::size_t kShared = kRows * (kBlockThreads + kSums) * sizeof(double);

  const S *data;
  index rs, cs, begin, end; ///< columns of the shard, counted as those of x
  const double *x;
  index m, groups; ///< of rows
  Chunks chunks;
  index first; ///< part
  double *partial;

  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const index q = first + block / groups, row = block % groups * kRows;
    auto *sums = static_cast<double *>(shared), *few = sums + kRows * kBlockThreads;
    if (phase == 0) {
      double sum[kRows] = {};
      const index from = chunks.begin(q) > begin ? chunks.begin(q) : begin;
      const index to = chunks.end(q) < end ? chunks.end(q) : end;
      for (index j = from + thread; j < to; j += kBlockThreads) {
        const S *column = data + (j - begin) * cs;
        for (int r = 0; r < kRows; ++r)
          sum[r] += wide_of(column[(row + r < m ? row + r : m - 1) * rs]) * x[j];
      }
      for (int r = 0; r < kRows; ++r)
        sums[r * kBlockThreads + thread] = sum[r];
    } else if (phase == 1) {
      const int r = thread / kSums, lane = thread % kSums;
      double sum = 0;
      for (int k = lane; k < kBlockThreads; k += kSums)
        sum += sums[r * kBlockThreads + k];
      few[thread] = sum;
    } else if (thread < kRows && row + thread < m) {
      double sum = 0;
      for (int k = 0; k < kSums; ++k)
        sum += few[thread * kSums + k];
      partial[q * m + row + thread] += sum;
    }
  }
};

/// R(b, i) = sum of the parts of block b, in their order; entries of R `step` apart.
struct FoldDots {
  const double *partial;
  index m, parts;
  double *R;
  index step;
  LOWLA_HD void operator()(index task) const {
    const index b = task / m, i = task % m;
    double sum = 0;
    for (index p = 0; p < parts; ++p)
      sum += partial[(b * parts + p) * m + i];
    R[task * step] = sum;
  }
};

/// Y = alpha X + beta G_b^T C_b for the columns of one shard and up to kVectors vectors, a column
/// of G in one thread.
template <class S> struct CombineColumns {
  static constexpr int kVectors = 4;

  const S *data;
  index rs, cs, begin; ///< its first column, counted from `origin`
  index m, width;      ///< of a block; C begins with that of column `origin`
  const double *C;     ///< (., m, r)
  int r;
  Vectors X;
  double alpha, beta;
  index origin, column; ///< row of X and Y at column 0, and first column of X and Y
  MutableVectors Y;
  LOWLA_HD void operator()(index t) const {
    const index j = begin + t;
    const double *c = C + j / width * m * r;
    double sum[kVectors] = {};
    for (index i = 0; i < m; ++i) {
      const double g = wide_of(data[i * rs + t * cs]);
      for (int k = 0; k < kVectors; ++k)
        if (k < r)
          sum[k] += g * c[i * r + k];
    }
    for (int k = 0; k < kVectors; ++k)
      if (k < r)
        store(Y, origin + j, column + k, alpha * entry(X, origin + j, column + k) + beta * sum[k]);
  }
};

// --- systems with the small factors: L lower triangular, row-major

/// T <- L^-1 T, or (L L^T)^-1 T, for the system q: the factor which[q] (or q) and `columns` columns
/// of T_q, whose row i is number (head + i) mod s. A block of threads takes kColumns columns of one
/// system. Phase k of a sweep subtracts the multiples of row k, which is divided in the next phase,
/// as all threads read it before.
struct SolveFactors {
  static constexpr index kColumns = 8;

  const double *L;
  index block, ld, s, head;
  const index *which;
  double *T;
  index t_block, t_ld, columns, groups; ///< of columns
  bool both;

  LOWLA_HD int phases() const { return static_cast<int>((both ? 2 : 1) * (s + 1)); }
  LOWLA_HD void operator()(int phase, index task, int thread, void *) const {
    const index q = task / groups, c = task % groups * kColumns;
    const int width = static_cast<int>(columns - c < kColumns ? columns - c : kColumns);
    const double *l = L + (which != nullptr ? which[q] : q) * block;
    double *t = T + q * t_block + c;
    if (phase <= s)
      forward(l, t, width, phase, thread);
    else
      backward(l, t, width, 2 * s - phase, thread);
  }

private:
  LOWLA_HD double &at(double *t, index i, index c) const {
    return t[(head + i < s ? head + i : head + i - s) * t_ld + c];
  }
  LOWLA_HD void forward(const double *l, double *t, int width, index k, int thread) const {
    const index first = k > 0 ? k - 1 : 0;
    for (index task = thread; task < (s - first) * width; task += kBlockThreads) {
      const index i = first + task / width, c = task % width;
      if (i < k)
        at(t, i, c) /= l[i * ld + i];
      else if (i > k)
        at(t, i, c) -= l[i * ld + k] * (at(t, k, c) / l[k * ld + k]);
    }
  }
  LOWLA_HD void backward(const double *l, double *t, int width, index k, int thread) const {
    const index rows = k + 2 < s ? k + 2 : s;
    for (index task = thread; task < rows * width; task += kBlockThreads) {
      const index i = task / width, c = task % width;
      if (i > k)
        at(t, i, c) /= l[i * ld + i];
      else if (i < k)
        at(t, i, c) -= l[k * ld + i] * (at(t, k, c) / l[k * ld + k]);
    }
  }
};

/// Rows first .. last - 1 of L_b T_b = T_b, the rows before being solved for and subtracted: a
/// column in one thread.
struct SolvePanel {
  const double *L;
  index block, ld, first, last;
  double *T;
  index t_block, t_ld, columns;
  LOWLA_HD void operator()(index task) const {
    const double *l = L + task / columns * block;
    double *t = T + task / columns * t_block + task % columns;
    for (index i = first; i < last; ++i) {
      double sum = t[i * t_ld];
      for (index k = first; k < i; ++k)
        sum -= l[i * ld + k] * t[k * t_ld];
      t[i * t_ld] = sum / l[i * ld + i];
    }
  }
};

/// The oldest gradient, of row `slot` of K, gives way to the newest: L_b (m x m) becomes the factor
/// `before` without its first row and column, by rotations, and with a new last row, by a
/// triangular solve. Both go through the columns: a block of threads takes a matrix, a phase a
/// column. pivot is the square of the last entry, which may be rounding.
struct ExchangeRows {
  const double *before;
  index block, ld;
  const double *newest; ///< (., m), row of K in the order of the rows of G
  index m, slot;
  double shift;
  double *L;     ///< (., m, m), zeros
  double *v, *y; ///< (., m), what is rotated in and what is solved for
  double *pivot;

  LOWLA_HD int phases() const { return static_cast<int>(m + 1); }
  LOWLA_HD void operator()(int phase, index b, int thread, void *) const {
    const double *old = before + b * block;
    double *l = L + b * m * m, *in = v + b * m, *right = y + b * m;
    const index k = phase - 1;
    if (phase == 0) {
      for (index i = thread; i + 1 < m; i += kBlockThreads) {
        in[i] = old[(i + 1) * ld];
        right[i] = newest[b * m + (slot + 1 + i) % m];
      }
      if (thread == 0)
        pivot[b] = newest[b * m + slot] + shift;
    } else if (k + 1 < m) {
      const double diagonal = old[(k + 1) * (ld + 1)], length = hypot(diagonal, in[k]);
      const double cosine = diagonal / length, sine = in[k] / length, x = right[k] / length;
      for (index i = k + 1 + thread; i + 1 < m; i += kBlockThreads) {
        const double entry = old[(i + 1) * ld + k + 1];
        const double rotated = cosine * entry + sine * in[i];
        in[i] = cosine * in[i] - sine * entry;
        l[i * m + k] = rotated;
        right[i] -= rotated * x;
      }
      if (thread == 0) {
        l[k * (m + 1)] = length;
        l[(m - 1) * m + k] = x;
        pivot[b] -= x * x;
      }
    } else if (thread == 0) {
      l[m * m - 1] = sqrt(pivot[b] > 0 ? pivot[b] : 0.0);
    }
  }
};

/// T_b(i, c) = 1 where i = first + c, else 0: columns of the identity, (., s, columns).
struct UnitColumns {
  double *T;
  index s, columns, first;
  LOWLA_HD void operator()(index task) const {
    T[task] = task / columns % s == first + task % columns ? 1.0 : 0.0;
  }
};

/// The squared norms of the columns of T_b, one after another.
struct SquaresOfColumns {
  const double *T;
  index t_block, t_ld, rows, columns;
  double *out;
  LOWLA_HD void operator()(index task) const {
    const double *t = T + task / columns * t_block + task % columns;
    double sum = 0;
    for (index i = 0; i < rows; ++i)
      sum += t[i * t_ld] * t[i * t_ld];
    out[task] = sum;
  }
};

/// [F^-1]_jj, not below 1 / F_jj, from the squares of column j of L^-1 G and of G.
struct DualDiagonal {
  const double *found, *squares;
  double damp, m;
  index first;
  MutableVectors out;
  LOWLA_HD void operator()(index j) const {
    const double value = (1.0 - found[j]) / damp, least = 1.0 / (damp + squares[j] / m);
    store(out, first + j, 0, value < least ? least : value);
  }
};

// --- entries, rows and small matrices

/// out[t out_t + a out_a] = the column indices[t] of G where it is of this shard; a counts its rows
/// by age.
template <class S> struct GatherColumns {
  const S *data;
  index rs, cs, begin, end, head, m;
  const index *indices;
  double *out;
  index out_t, out_a;
  LOWLA_HD void operator()(index task) const {
    const index t = task / m, a = task % m, j = indices[t];
    const index row = head + a < m ? head + a : head + a - m;
    if (begin <= j && j < end)
      out[t * out_t + a * out_a] = wide_of(data[row * rs + (j - begin) * cs]);
  }
};

/// W(t, :) = e_i for i = indices[t] mod width, (., s).
struct UnitRows {
  const index *indices;
  index width, s;
  double *W;
  LOWLA_HD void operator()(index task) const {
    W[task] = indices[task / s] % width == task % s ? 1.0 : 0.0;
  }
};

struct InnerRows {
  const double *W;
  index s;
  const index *i, *j;
  double *out;
  LOWLA_HD void operator()(index t) const {
    double sum = 0;
    for (index k = 0; k < s; ++k)
      sum += W[i[t] * s + k] * W[j[t] * s + k];
    out[t] = sum;
  }
};

template <class S> struct CopyRow {
  const S *from;
  index from_step;
  S *to;
  index to_step;
  LOWLA_HD void operator()(index j) const { to[j * to_step] = from[j * from_step]; }
};

/// The upper triangles of (., s, s) from the lower ones.
struct Mirror {
  double *K;
  index s;
  LOWLA_HD void operator()(index task) const {
    const index i = task / s % s, j = task % s;
    if (i < j)
      K[task] = K[task + (j - i) * (s - 1)];
  }
};

/// (., s, s) with any step from row to row and from matrix to matrix.
struct CopySquares {
  const double *from;
  index from_block, from_ld;
  double *to;
  index to_block, to_ld, s;
  LOWLA_HD void operator()(index task) const {
    const index b = task / s / s, i = task / s % s, j = task % s;
    to[b * to_block + i * to_ld + j] = from[b * from_block + i * from_ld + j];
  }
};

} // namespace lowla::functors
