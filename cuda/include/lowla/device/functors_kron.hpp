// What the device computes of solves, projections and rearrangements of structured matrices, beside
// products (device/functors_chain.hpp).
#pragma once

#include "lowla/device/number.hpp"

#include <limits>

namespace lowla::functors {

/// X_b = F_b^-1 B_b by substitution, a column in one thread. L and U of F_b[rows] are one above the
/// other in double precision, row-major, the diagonal of U inverted; `step` is 0 where all blocks
/// have the same matrix. Row j of block b is number b block + j row of rows of `columns`.
template <class T> struct SolveBlocks {
  const double *lu;
  const index *rows;
  index n, step;
  const real_t<T> *B;
  index b_block, b_row;
  real_t<T> *X;
  index x_block, x_row, columns;

  LOWLA_HD void operator()(index task) const {
    using Wide = Entry<wide_t<T>>;
    const index b = task / columns, c = task % columns;
    const index *order = rows + b * step * n;
    const index first = b * step * n * n;
    const auto x = [&](index j) { return (b * x_block + j * x_row) * columns + c; };
    for (index i = 0; i < n; ++i) {
      auto sum = Entry<T>::wide(Entry<T>::load(B, (b * b_block + order[i] * b_row) * columns + c));
      for (index j = 0; j < i; ++j)
        sum = sum - Wide::load(lu, first + i * n + j) * Entry<T>::wide(Entry<T>::load(X, x(j)));
      Entry<T>::store(X, x(i), Entry<T>::narrow(sum));
    }
    for (index i = n - 1; i >= 0; --i) {
      auto sum = Entry<T>::wide(Entry<T>::load(X, x(i)));
      for (index j = i + 1; j < n; ++j)
        sum = sum - Wide::load(lu, first + i * n + j) * Entry<T>::wide(Entry<T>::load(X, x(j)));
      sum = Wide::load(lu, first + i * n + i) * sum;
      Entry<T>::store(X, x(i), Entry<T>::narrow(sum));
    }
  }
};

/// Row i of Y, or entry i of each row, over values[i].
template <class T> struct DivideByValues {
  real_t<T> *Y;
  const real_t<T> *values;
  index cols;
  bool by_rows;
  LOWLA_HD void operator()(index task) const {
    const real_t<T> inverse = real_t<T>(1) / values[by_rows ? task / cols : task % cols];
    Entry<T>::store(Y, task, inverse * Entry<T>::load(Y, task));
  }
};

/// out, a row for each block of m2 x n2 of A, with its entries by rows (Van Loan, Pitsianis 1993);
/// n1 blocks lie side by side.
template <class T> struct Rearrange {
  const real_t<T> *A;
  index rs, cs, n1, m2, n2;
  real_t<T> *out;
  LOWLA_HD void operator()(index task) const {
    const index block = task / (m2 * n2), entry = task % (m2 * n2);
    const index i = block / n1 * m2 + entry / n2, j = block % n1 * n2 + entry % n2;
    Entry<T>::store(out, task, Entry<T>::load(A, i * rs + j * cs));
  }
};

// --- projections of blocks A_b, `block` entries apart, to rank one

/// out[b m + i] = the largest part of an entry in row i of A_b; Inf where one is NaN or Inf.
template <class T> struct LargestOfRows {
  const real_t<T> *A;
  index block, rs, cs, m, n;
  double *out;
  LOWLA_HD void operator()(index task) const {
    double largest = 0;
    for (index j = 0; j < n; ++j) {
      const index place = (task / m * block + task % m * rs + j * cs) * Entry<T>::kReals;
      for (int part = 0; part < Entry<T>::kReals; ++part) {
        const auto x = static_cast<double>(A[place + part]);
        const double size = x < 0 ? -x : x;
        largest = size <= largest ? largest : size;
        if (!(size - size == 0))
          largest = kInfinite;
      }
    }
    out[task] = largest;
  }
  static constexpr double kInfinite = std::numeric_limits<double>::infinity();
};

/// B_b = factor[b]^2 A_b by rows in double precision.
template <class T> struct LoadBlocks {
  const real_t<T> *A;
  index block, rs, cs;
  bool conjugate;
  const double *factor; ///< its square may be out of range
  index m, n;
  double *B;
  LOWLA_HD void operator()(index task) const {
    using Wide = Entry<wide_t<T>>;
    const index b = task / (m * n), i = task / n % m, j = task % n;
    auto x = Entry<T>::wide(Entry<T>::load(A, b * block + i * rs + j * cs));
    if (conjugate)
      x = Wide::conjugate(x);
    Wide::store(B, task, factor[b] * (factor[b] * x));
  }
};

/// Row i of block b: out[2 (b m + i)] = ||B_b(i, :) - a_b(i) t_b^T||^2, and behind it ||B_b(i,
/// :)||^2.
template <class S> struct RankOneSquares {
  const double *B, *a, *t;
  index m, n;
  double *out;
  LOWLA_HD void operator()(index task) const {
    const auto scale = Entry<S>::load(a, task);
    double left = 0, all = 0;
    for (index j = 0; j < n; ++j) {
      const auto x = Entry<S>::load(B, task * n + j);
      left += Entry<S>::squared(x - scale * Entry<S>::load(t, task / m * n + j));
      all += Entry<S>::squared(x);
    }
    out[2 * task] = left;
    out[2 * task + 1] = all;
  }
};

} // namespace lowla::functors
