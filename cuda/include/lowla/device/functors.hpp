// Every device computation that is not a matrix product, as a functor over an index range.
//
// f(i) writes entries of the output that no other f(j) reads or writes, so the calls may run in any
// order; reductions run over `parts` interleaved parts of fixed content, in double precision.
// Matrices are given as (pointer to reals, row stride, column stride) in entries.
#pragma once

#include "lowla/core/philox.hpp"
#include "lowla/device/number.hpp"

namespace lowla::functors {

// --- panels: row-major, rows `ld` entries apart

template <class N> struct Fill {
  N *out;
  N value;
  LOWLA_HD void operator()(index i) const { out[i] = value; }
};

struct Count {
  index *out;
  LOWLA_HD void operator()(index i) const { out[i] = i; }
};

/// P(j, i) = normal(stream, first + i, j): row j, group `first/4 + g` of four.
template <class T> struct FillNormal {
  real_t<T> *P;
  index ld, cols, groups, first;
  std::uint64_t key;
  std::uint32_t stream;
  LOWLA_HD void operator()(index task) const {
    const index j = task / groups, g = first / 4 + task % groups;
    double four[4];
    philox::normals4(key, stream, static_cast<std::uint64_t>(g), static_cast<std::uint64_t>(j),
                     four);
    for (index t = 0; t < 4; ++t) {
      const index i = 4 * g + t - first;
      if (i >= 0 && i < cols)
        Entry<T>::store(P, j * ld + i, Entry<T>::make(static_cast<real_t<T>>(four[t])));
    }
  }
};

/// out(i, j) = normal(stream, i, first + j): four rows, one column.
template <class T> struct NormalEntries {
  real_t<T> *out;
  index ld, rows, cols, first;
  std::uint64_t key;
  std::uint32_t stream;
  LOWLA_HD void operator()(index task) const {
    const index g = task / cols, j = task % cols;
    double four[4];
    philox::normals4(key, stream, static_cast<std::uint64_t>(g),
                     static_cast<std::uint64_t>(first + j), four);
    for (index t = 0; t < 4 && 4 * g + t < rows; ++t)
      Entry<T>::store(out, (4 * g + t) * ld + j, Entry<T>::make(static_cast<real_t<T>>(four[t])));
  }
};

/// Row j of P = S^T, S the sparse sign operator, unscaled.
template <class T> struct FillSjlt {
  real_t<T> *P;
  index ld, cols, nnz;
  std::uint64_t key;
  LOWLA_HD void operator()(index j) const {
    for (index i = 0; i < cols; ++i)
      Entry<T>::store(P, j * ld + i, Entry<T>::make(real_t<T>(0)));
    for (index b = 0; b < nnz; ++b) {
      const auto words = philox::block(key, philox::kStreamSjlt, static_cast<std::uint64_t>(b >> 2),
                                       static_cast<std::uint64_t>(j));
      const auto entry = philox::sjlt_entry(words.w[b & 3], b, cols, nnz);
      Entry<T>::store(P, j * ld + entry.row, Entry<T>::make(static_cast<real_t<T>>(entry.sign)));
    }
  }
};

template <class T> struct FillIdentity {
  real_t<T> *P;
  index ld, cols;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    Entry<T>::store(P, i * ld + j, Entry<T>::make(real_t<T>(i == j ? 1 : 0)));
  }
};

/// to(i, j) = scale from(i, j), or its conjugate; in place is allowed.
template <class T> struct Copy {
  const real_t<T> *from;
  index from_rs, from_cs;
  bool conjugate;
  real_t<T> scale;
  real_t<T> *to;
  index to_rs, to_cs, cols;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    auto x = Entry<T>::load(from, i * from_rs + j * from_cs);
    if (conjugate)
      x = Entry<T>::conjugate(x);
    Entry<T>::store(to, i * to_rs + j * to_cs, scale * x);
  }
};

/// out(i, j) = P(i, j) factor(j), or its conjugate; the product in double precision.
template <class T> struct Store {
  const real_t<T> *P;
  index ld, cols;
  const double *factor;
  bool conjugate;
  real_t<T> *out;
  index rs, cs;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    const auto f = Entry<wide_t<T>>::load(factor, j);
    auto x = Entry<T>::narrow(Entry<T>::wide(Entry<T>::load(P, i * ld + j)) * f);
    if (conjugate)
      x = Entry<T>::conjugate(x);
    Entry<T>::store(out, i * rs + j * cs, x);
  }
};

/// to(i, j) = scale from(i, j), or its conjugate, in double precision; rows `to_ld` apart.
template <class T> struct CopyWide {
  const real_t<T> *from;
  index from_rs, from_cs;
  bool conjugate;
  double scale;
  double *to;
  index to_ld, cols;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    auto x = Entry<T>::wide(Entry<T>::load(from, i * from_rs + j * from_cs));
    if (conjugate)
      x = Entry<wide_t<T>>::conjugate(x);
    Entry<wide_t<T>>::store(to, i * to_ld + j, scale * x);
  }
};

struct Widen {
  const float *from;
  double *to;
  LOWLA_HD void operator()(index i) const { to[i] = static_cast<double>(from[i]); }
};

/// The entry of largest magnitude of column j among rows [part size, (part + 1) size), the first of
/// equals; nothing beats a magnitude of -1.
template <class T> struct PeaksOfPart {
  const real_t<T> *P;
  index ld, rows, cols, size;
  double *magnitude, *value; ///< (parts, cols), value as Wide
  LOWLA_HD void operator()(index task) const {
    const index part = task / cols, j = task % cols;
    const index last = (part + 1) * size < rows ? (part + 1) * size : rows;
    auto best = Entry<T>::wide(Entry<T>::make(real_t<T>(0)));
    double most = -1.0;
    for (index i = part * size; i < last; ++i) {
      const auto x = Entry<T>::load(P, i * ld + j);
      if (Entry<T>::squared(x) > most) {
        most = Entry<T>::squared(x);
        best = Entry<T>::wide(x);
      }
    }
    magnitude[task] = most;
    Entry<wide_t<T>>::store(value, task, best);
  }
};

/// The best of the parts, in row 0.
template <class T> struct PeaksOfAll {
  index parts, cols;
  double *magnitude, *value;
  LOWLA_HD void operator()(index j) const {
    for (index part = 1; part < parts; ++part)
      if (magnitude[part * cols + j] > magnitude[j]) {
        magnitude[j] = magnitude[part * cols + j];
        Entry<wide_t<T>>::store(value, j, Entry<wide_t<T>>::load(value, part * cols + j));
      }
  }
};

// --- reductions: partial[p] grows by the entries p, p + parts, p + 2 parts, ...

/// Walks the entries of an m x n matrix `step` at a time with one division.
struct Walk {
  index i, j, di, dj, n;
  LOWLA_HD Walk(index start, index step, index columns)
      : i(start / columns), j(start % columns), di(step / columns), dj(step % columns), n(columns) {
  }
  LOWLA_HD void next() {
    i += di;
    j += dj;
    if (j >= n) {
      j -= n;
      ++i;
    }
  }
};

template <class T> struct SumSquares {
  const real_t<T> *A;
  index rs, cs, m, n, parts;
  double *partial;
  LOWLA_HD void operator()(index p) const {
    double sum = 0;
    for (Walk at(p, parts, n); at.i < m; at.next())
      sum += Entry<T>::squared(Entry<T>::load(A, at.i * rs + at.j * cs));
    partial[p] += sum;
  }
};

/// partial(p, j) grows by the squares of column j.
template <class T> struct SumColumnSquares {
  const real_t<T> *A;
  index rs, cs, m, n, parts;
  double *partial; ///< (parts, n)
  LOWLA_HD void operator()(index task) const {
    const index p = task / n, j = task % n;
    double sum = 0;
    for (index i = p; i < m; i += parts)
      sum += Entry<T>::squared(Entry<T>::load(A, i * rs + j * cs));
    partial[task] += sum;
  }
};

/// Largest magnitude of a real or imaginary part; infinite where one is not finite.
template <class T> struct LargestPart {
  const real_t<T> *A;
  index rs, cs, m, n, parts;
  double *partial;
  LOWLA_HD void operator()(index p) const {
    constexpr int reals = Entry<T>::kReals;
    double most = partial[p];
    for (Walk at(p, parts, n); at.i < m; at.next())
      for (int part = 0; part < reals; ++part) {
        const double a = fabs(static_cast<double>(A[reals * (at.i * rs + at.j * cs) + part]));
        if (a > most || a != a)
          most = a != a ? HUGE_VAL : a;
      }
    partial[p] = most;
  }
};

/// folded[p] = partial[p] + partial[p + folds] + ...
struct FoldSum {
  const double *partial;
  index parts, folds;
  double *folded;
  LOWLA_HD void operator()(index p) const {
    double sum = 0;
    for (index i = p; i < parts; i += folds)
      sum += partial[i];
    folded[p] = sum;
  }
};

struct FoldLargest {
  const double *partial;
  index parts, folds;
  double *folded;
  LOWLA_HD void operator()(index p) const {
    double most = 0;
    for (index i = p; i < parts; i += folds)
      most = partial[i] > most ? partial[i] : most;
    folded[p] = most;
  }
};

// --- least squares

/// Y <- b - Y, or conj(b) - Y.
template <class T> struct SubtractFrom {
  const real_t<T> *b;
  index rs, cs;
  bool conjugate;
  double *Y; ///< row-major, `cols` columns
  index cols;
  LOWLA_HD void operator()(index task) const {
    using Wide = Entry<wide_t<T>>;
    const index i = task / cols, j = task % cols;
    auto x = Entry<T>::wide(Entry<T>::load(b, i * rs + j * cs));
    if (conjugate)
      x = Wide::conjugate(x);
    Wide::store(Y, task, x + -1.0 * Wide::load(Y, task));
  }
};

/// y <- x <- x + y, rounded to T if `rounds`; reals in double precision.
template <class T> struct Advance {
  double *X, *Y;
  bool rounds;
  LOWLA_HD void operator()(index i) const {
    const double x = X[i] + Y[i];
    X[i] = Y[i] = rounds ? static_cast<double>(static_cast<real_t<T>>(x)) : x;
  }
};

/// sum += x with the rounding error kept in `lost` (Knuth's two-sum).
LOWLA_HD inline void add_compensated(double x, double &sum, double &lost) {
  const double s = sum + x;
  const double back = s - sum;
  lost += (sum - (s - back)) + (x - back);
  sum = s;
}
LOWLA_HD inline void add_compensated(Pair<double> x, Pair<double> &sum, Pair<double> &lost) {
  add_compensated(x.re, sum.re, lost.re);
  add_compensated(x.im, sum.im, lost.im);
}

/// A^H Y in double precision by interleaved parts of the rows: a part is a compensated sum of plain
/// sums over `kChain` rows. Neighbouring calls read neighbouring entries: those of a row, or where
/// `by_columns` of a column, and there, as gemm takes columns, the stored matrix is conj(A).
template <class T> struct AddAdjointParts {
  static constexpr int kChain = 16;
  const real_t<T> *A;
  index rs, cs, m, n;
  bool by_columns;
  const double *Y; ///< row-major, r columns
  index r, parts;
  double *sum, *lost; ///< (parts, r, n), or where `by_columns` (r, n, parts)
  LOWLA_HD void operator()(index task) const {
    using Wide = Entry<wide_t<T>>;
    const index p = by_columns ? task % parts : task / (n * r);
    const index entry = by_columns ? task / parts : task % (n * r);
    const index c = entry / n, j = entry % n;
    auto total = Wide::load(sum, task), rest = Wide::load(lost, task);
    for (index i = p; i < m;) {
      auto chain = Wide::make(0.0);
      for (int k = 0; k < kChain && i < m; ++k, i += parts) {
        const auto a = Entry<T>::wide(Entry<T>::load(A, i * rs + j * cs));
        chain = chain + (by_columns ? a : Wide::conjugate(a)) * Wide::load(Y, i * r + c);
      }
      add_compensated(chain, total, rest);
    }
    Wide::store(sum, task, total);
    Wide::store(lost, task, rest);
  }
};

/// The sum of the parts of each entry, in the order of the parts; S real or complex double.
template <class S> struct FoldCompensated {
  const double *sum, *lost;
  index parts, part_step, entry_step;
  double *folded;
  LOWLA_HD void operator()(index entry) const {
    auto total = Entry<S>::make(0.0), rest = total;
    for (index p = 0; p < parts; ++p) {
      const index at = p * part_step + entry * entry_step;
      add_compensated(Entry<S>::load(sum, at), total, rest);
      rest = rest + Entry<S>::load(lost, at);
    }
    Entry<S>::store(folded, entry, total + rest);
  }
};

// --- scores of rows: matrices row-major, T in double precision

/// Row i of Y times v_i.
template <class T> struct ScaleRows {
  double *Y;
  index cols;
  const double *v;
  LOWLA_HD void operator()(index task) const {
    Entry<T>::store(Y, task, v[task / cols] * Entry<T>::load(Y, task));
  }
};

/// out_i = sum_j |Z(i, j)|^p
template <class T> struct RowPowers {
  const double *Z;
  index cols;
  double p;
  double *out;
  LOWLA_HD void operator()(index i) const {
    double sum = 0;
    for (index j = 0; j < cols; ++j) {
      const double squared = Entry<T>::squared(Entry<T>::load(Z, i * cols + j));
      sum += p == 2.0 ? squared : pow(squared, 0.5 * p);
    }
    out[i] = sum;
  }
};

/// taken(k, :) = row which[k] of A, where it lies among the rows first, first + 1, ... of `block`.
template <class T> struct TakeRows {
  const double *block;
  index ld, first, rows;
  const index *which;
  index cols;
  double *taken; ///< (., cols)
  LOWLA_HD void operator()(index task) const {
    const index row = which[task / cols] - first;
    if (row >= 0 && row < rows)
      Entry<T>::store(taken, task, Entry<T>::load(block, row * ld + task % cols));
  }
};

/// out(k, i) = A(which[k], i) in double precision, by rows.
template <class T> struct TakeWide {
  const real_t<T> *A;
  index rs, cs;
  const index *which;
  index cols;
  double *out;
  LOWLA_HD void operator()(index task) const {
    const index row = which[task / cols], i = task % cols;
    Entry<wide_t<T>>::store(out, task, Entry<T>::wide(Entry<T>::load(A, row * rs + i * cs)));
  }
};

/// Counts what would lead outside the matrix.
template <class I, class P = I> struct CsrDefects {
  const P *indptr;
  const I *indices;
  index m, n, nnz, parts;
  double *partial;
  LOWLA_HD void operator()(index p) const {
    double bad = 0;
    for (index i = p; i < m; i += parts)
      bad += indptr[i] > indptr[i + 1] ? 1.0 : 0.0;
    for (index k = p; k < nnz; k += parts)
      bad += indices[k] < 0 || static_cast<index>(indices[k]) >= n ? 1.0 : 0.0;
    partial[p] += bad;
  }
};

/// out(i, c) = sum_k scale a_ik X(k, c): row i of A, column c of X; N is T, or T its double
/// precision.
template <class T, class I, class N = T> struct Gather {
  const I *indptr, *indices;
  const real_t<T> *data;
  bool conjugate;
  real_t<T> scale;
  const real_t<N> *X;
  index x_rs, x_cs, cols;
  real_t<T> *out;
  index out_rs;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, c = task % cols;
    auto sum = Entry<T>::make(real_t<T>(0));
    for (I p = indptr[i]; p < indptr[i + 1]; ++p) {
      auto a = scale * Entry<T>::load(data, static_cast<index>(p));
      if (conjugate)
        a = Entry<T>::conjugate(a);
      const auto x = Entry<N>::load(X, static_cast<index>(indices[p]) * x_rs + c * x_cs);
      if constexpr (std::is_same_v<T, N>)
        sum = sum + a * x;
      else
        sum = sum + a * Entry<N>::wide(x);
    }
    Entry<T>::store(out, i * out_rs + c, sum);
  }
};

/// out(i, c) = sum_k conj(a_ik) X(k, c) with compensation, row i of A; row-major, doubles.
template <class Wide, class I> struct GatherCompensated {
  const I *indptr, *indices;
  const double *data;
  const double *X;
  index cols;
  double *out;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, c = task % cols;
    auto sum = Entry<Wide>::make(0.0), lost = sum;
    for (I p = indptr[i]; p < indptr[i + 1]; ++p)
      add_compensated(Entry<Wide>::conjugate(Entry<Wide>::load(data, static_cast<index>(p))) *
                          Entry<Wide>::load(X, static_cast<index>(indices[p]) * cols + c),
                      sum, lost);
    Entry<Wide>::store(out, task, sum + lost);
  }
};

/// Row i of a dense block += row first + i of A, or where given its row which[i].
template <class T, class I> struct AddSparseRow {
  const I *indptr, *indices;
  const real_t<T> *data;
  real_t<T> scale;
  index first;
  real_t<T> *block;
  index ld;
  const index *which = nullptr;
  LOWLA_HD void operator()(index i) const {
    const index row = which != nullptr ? which[i] : first + i;
    for (I p = indptr[row]; p < indptr[row + 1]; ++p) {
      const index at = i * ld + static_cast<index>(indices[p]);
      Entry<T>::store(block, at,
                      Entry<T>::load(block, at) +
                          scale * Entry<T>::load(data, static_cast<index>(p)));
    }
  }
};

/// The first position in the ascending `sorted` whose value is not below `value`.
template <class I> LOWLA_HD inline index lower_bound(const I *sorted, index n, index value) {
  index low = 0, high = n;
  while (low < high) {
    const index mid = low + (high - low) / 2;
    if (static_cast<index>(sorted[mid]) < value)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

/// One pass of a stable merge sort by key: sorted runs of `run` positions in `from` become sorted
/// runs of twice that in `to`. An entry finds its place by a binary search in the sibling run.
template <class I> struct MergePass {
  const I *key;
  const index *from;
  index *to;
  index n, run;
  LOWLA_HD void operator()(index i) const {
    const index start = i / (2 * run) * (2 * run);
    const index mid = start + run < n ? start + run : n;
    const index end = start + 2 * run < n ? start + 2 * run : n;
    const bool left = i < mid;
    const I own = key[from[i]];
    index low = left ? mid : start, high = left ? end : mid;
    const index sibling = low;
    while (low < high) {
      const index probe = low + (high - low) / 2;
      const I other = key[from[probe]];
      if (other < own || (!left && other == own))
        low = probe + 1;
      else
        high = probe;
    }
    to[start + (i - (left ? start : mid)) + (low - sibling)] = from[i];
  }
};

/// Where column j begins among the entries in column order.
template <class I, class P = I> struct ColumnStarts {
  const I *indices;
  const index *order;
  index nnz;
  P *starts;
  LOWLA_HD void operator()(index j) const {
    index low = 0, high = nnz;
    while (low < high) {
      const index mid = low + (high - low) / 2;
      if (static_cast<index>(indices[order[mid]]) < j)
        low = mid + 1;
      else
        high = mid;
    }
    starts[j] = static_cast<P>(low);
  }
};

/// Entry i in column order: its row and its value.
template <class T, class I, class P = I> struct ColumnEntries {
  const P *indptr;
  const real_t<T> *data;
  const index *order;
  index m;
  I *rows;
  real_t<T> *values;
  LOWLA_HD void operator()(index i) const {
    // The last row that does not begin behind the entry (empty rows begin at the same place).
    rows[i] = static_cast<I>(lower_bound(indptr, m + 1, order[i] + 1) - 1);
    Entry<T>::store(values, i, Entry<T>::load(data, order[i]));
  }
};

/// Squares of the entries of a transposed matrix, stored duplicates (neighbours there) summed
/// first.
template <class T, class I> struct SumSquaresOfSums {
  const I *starts, *rows;
  const real_t<T> *values;
  real_t<T> scale;
  index n, nnz, parts;
  double *partial;
  LOWLA_HD bool repeats(index i) const { // entry i has the row and the column of entry i - 1
    if (i == 0 || rows[i] != rows[i - 1])
      return false;
    const index column = lower_bound(starts, n + 1, i);
    return static_cast<index>(starts[column]) != i;
  }
  LOWLA_HD void operator()(index p) const {
    double sum = 0;
    for (index i = p; i < nnz; i += parts) {
      if (repeats(i))
        continue;
      auto x = Entry<T>::wide(scale * Entry<T>::load(values, i));
      for (index k = i + 1; k < nnz && repeats(k); ++k)
        x = x + Entry<T>::wide(scale * Entry<T>::load(values, k));
      sum += Entry<wide_t<T>>::squared(x);
    }
    partial[p] += sum;
  }
};

// --- sketches

/// The +-1 at (row of the operator, j): 128 rows from one block.
struct SignEntries {
  std::int8_t *out;
  index rows, cols;
  std::uint64_t key;
  std::uint32_t stream;
  LOWLA_HD void operator()(index task) const {
    const index g = task / cols, j = task % cols;
    const auto words =
        philox::block(key, stream, static_cast<std::uint64_t>(g), static_cast<std::uint64_t>(j));
    for (index i = 128 * g; i < 128 * (g + 1) && i < rows; ++i)
      out[i * cols + j] = ((words.w[(i >> 5) & 3] >> (i & 31)) & 1u) ? -1 : 1;
  }
};

struct PhiloxWords {
  std::uint32_t *out;
  philox::Words counter;
  std::uint64_t key;
  LOWLA_HD void operator()(index) const {
    const auto words = philox::rounds10(counter, static_cast<std::uint32_t>(key),
                                        static_cast<std::uint32_t>(key >> 32));
    for (int i = 0; i < 4; ++i)
      out[i] = words.w[i];
  }
};

/// out(i, j) = S(first_row + i, first_col + j) without the scale, S rademacher or srht.
template <class T> struct SignBlock {
  real_t<T> *out;
  index row_stride, col_stride, cols, first_row, first_col;
  std::uint64_t key;
  bool hadamard;
  int bits; ///< log2 of the order of the Hadamard matrix
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, j = task % cols;
    const auto row = static_cast<std::uint64_t>(first_row + i);
    const auto col = static_cast<std::uint64_t>(first_col + j);
    int sign;
    if (hadamard) {
      sign = philox::sign(key, philox::kStreamDiagonal, col, 0);
      const std::uint64_t kept =
          philox::permuted(key, row & ((std::uint64_t(1) << bits) - 1), bits);
      for (std::uint64_t common = kept & col; common != 0; common &= common - 1)
        sign = -sign;
    } else {
      sign = philox::sign(key, philox::kStreamSign, row, col);
    }
    Entry<T>::store(out, i * row_stride + j * col_stride,
                    Entry<T>::make(static_cast<real_t<T>>(sign)));
  }
};

/// The nonzeros of column j of a sjlt or sparse operator, f(row, sign) for each; returns how many.
struct SparseKind {
  std::uint64_t key;
  index d, nnz;                    ///< nnz 0: the very sparse operator
  const std::uint64_t *thresholds; ///< of it
  template <class F> LOWLA_HD index visit(index j, F &&f) const {
    index count = 0;
    if (nnz == 0) {
      philox::SparseColumn column{key, static_cast<std::uint64_t>(j), thresholds, d};
      for (; column.next(); ++count)
        f(count, column.row, column.sign);
      return count;
    }
    for (; count < nnz; ++count) {
      const auto words =
          philox::block(key, philox::kStreamSjlt, static_cast<std::uint64_t>(count >> 2),
                        static_cast<std::uint64_t>(j));
      const auto entry = philox::sjlt_entry(words.w[count & 3], count, d, nnz);
      f(count, entry.row, entry.sign);
    }
    return count;
  }
};

struct Nothing {
  LOWLA_HD void operator()(index, index, int) const {}
};

struct CountColumn {
  SparseKind S;
  index *counts;
  LOWLA_HD void operator()(index j) const { counts[j] = S.visit(j, Nothing{}); }
};

struct WriteColumn {
  SparseKind S;
  const index *starts;
  index *rows;
  std::int8_t *signs;
  struct Write {
    index *rows;
    std::int8_t *signs;
    LOWLA_HD void operator()(index k, index row, int sign) const {
      rows[k] = row;
      signs[k] = static_cast<std::int8_t>(sign);
    }
  };
  LOWLA_HD void operator()(index j) const {
    S.visit(j, Write{rows + starts[j], signs + starts[j]});
  }
};

/// The column that row i of the row-sampling operator takes.
struct UniformColumns {
  index *columns;
  index n;
  std::uint64_t key;
  LOWLA_HD void operator()(index i) const { columns[i] = philox::uniform_column(key, i, n); }
};

/// data[k] = signs[k] value, or value where there are no signs.
template <class T> struct SignedValues {
  const std::int8_t *signs;
  real_t<T> value;
  real_t<T> *data;
  LOWLA_HD void operator()(index k) const {
    Entry<T>::store(data, k, Entry<T>::make(signs == nullptr || signs[k] > 0 ? value : -value));
  }
};

/// Row i of out = S A, S and A by rows.
template <class T, class I> struct SparseTimesSparse {
  const index *s_starts, *s_columns;
  const real_t<T> *s_values;
  const I *indptr, *indices;
  const real_t<T> *data;
  index n;
  real_t<T> *out; ///< (d, n)
  LOWLA_HD void operator()(index i) const {
    for (index c = 0; c < n; ++c)
      Entry<T>::store(out, i * n + c, Entry<T>::make(real_t<T>(0)));
    for (index k = s_starts[i]; k < s_starts[i + 1]; ++k) {
      const auto s = Entry<T>::load(s_values, k);
      for (I p = indptr[s_columns[k]]; p < indptr[s_columns[k] + 1]; ++p) {
        const index at = i * n + static_cast<index>(indices[p]);
        Entry<T>::store(out, at,
                        Entry<T>::load(out, at) + s * Entry<T>::load(data, static_cast<index>(p)));
      }
    }
  }
};

// --- the fast Hadamard transform of X (order x cols, row-major)

/// X = D A with zeros below.
template <class T> struct LoadSigned {
  const real_t<T> *A;
  index rs, cs, n, cols;
  std::uint64_t key;
  real_t<T> *X;
  LOWLA_HD void operator()(index task) const {
    const index j = task / cols, c = task % cols;
    auto x = Entry<T>::make(real_t<T>(0));
    if (j < n) {
      const auto sign = static_cast<real_t<T>>(
          philox::sign(key, philox::kStreamDiagonal, static_cast<std::uint64_t>(j), 0));
      x = sign * Entry<T>::load(A, j * rs + c * cs);
    }
    Entry<T>::store(X, task, x);
  }
};

/// One level: pairs of rows `half` apart.
template <class T> struct Butterfly {
  real_t<T> *X;
  index cols, half;
  LOWLA_HD void operator()(index task) const {
    const index pair = task / cols, c = task % cols;
    const index upper = (pair / half * 2 * half + pair % half) * cols + c;
    const index lower = upper + half * cols;
    const auto a = Entry<T>::load(X, upper), b = Entry<T>::load(X, lower);
    Entry<T>::store(X, upper, a + b);
    Entry<T>::store(X, lower, a + real_t<T>(-1) * b);
  }
};

/// out(i, c) = scale X(the row kept as i, c).
template <class T> struct KeepRows {
  const real_t<T> *X;
  index cols;
  std::uint64_t key;
  int bits;
  real_t<T> scale;
  real_t<T> *out;
  index ld;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, c = task % cols;
    const auto kept = static_cast<index>(philox::permuted(
        key, static_cast<std::uint64_t>(i) & ((std::uint64_t(1) << bits) - 1), bits));
    Entry<T>::store(out, i * ld + c, scale * Entry<T>::load(X, kept * cols + c));
  }
};

/// X(the row kept as i) = the sum of the rows i, i + order, ... of Y; X is zero before.
template <class T> struct ReturnRows {
  const real_t<T> *Y;
  index rs, cs, d, cols;
  std::uint64_t key;
  int bits;
  real_t<T> *X;
  LOWLA_HD void operator()(index task) const {
    const index i = task / cols, c = task % cols;
    auto sum = Entry<T>::make(real_t<T>(0));
    for (index row = i; row < d; row += index(1) << bits)
      sum = sum + Entry<T>::load(Y, row * rs + c * cs);
    const auto kept =
        static_cast<index>(philox::permuted(key, static_cast<std::uint64_t>(i), bits));
    Entry<T>::store(X, kept * cols + c, sum);
  }
};

/// out = scale D X.
template <class T> struct StoreSigned {
  const real_t<T> *X;
  index cols;
  std::uint64_t key;
  real_t<T> scale;
  real_t<T> *out;
  index ld;
  LOWLA_HD void operator()(index task) const {
    const index j = task / cols, c = task % cols;
    const auto sign = static_cast<real_t<T>>(
        philox::sign(key, philox::kStreamDiagonal, static_cast<std::uint64_t>(j), 0));
    Entry<T>::store(out, j * ld + c, scale * sign * Entry<T>::load(X, task));
  }
};

} // namespace lowla::functors
