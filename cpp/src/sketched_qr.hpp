// The triangular factor of a tall matrix by Cholesky QR behind a sketch, for any condition number
// (Balabanov, "Randomized Cholesky QR factorizations", arXiv:2210.09953, 2022).
//
// S A = Q R0 and Y = A R0^-1: cond(Y) <= (1 + sqrt(n/d)) / (1 - sqrt(n/d)), about 6 for d = 2 n +
// 32, so that the Cholesky factor R1 of Y^H Y is accurate, and R = R1 R0. By substitution row by
// row, Y R0 = A + E with |E| <= n u |Y| |R0| (Higham, "Accuracy and Stability of Numerical
// Algorithms", 2002, theorem 8.5): with ||Y|| bounded rounding level in each column, however
// ill-conditioned R0 is. A product with R0^-1 has no such bound. Beneath A stand rows diag(t), t_j
// = sqrt(n) eps ||S a_j||: what rounding leaves of a column that depends on others becomes a column
// of Y that is neither zero nor long.
//
// 2 m n^2 flops in matrix products, two reads, 8 n^2 + O(n r) memory; LAPACK's QR spends half of
// its flops of narrow blocks on products with vectors.
#pragma once

#include "panel_products.hpp"

#include "lowla/core/blas.hpp"

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace lowla::rows {

/// Rows of the sketch for n columns.
inline index sketched_qr_rows(index n) { return 2 * n + 32; }

/// The first n rows of the triangular factor of [A b; damp I 0] (n + r columns), from what
/// load(first, rows, out) writes to `out`, the rows of [A b] as columns; SA is S A. Nothing where S
/// did not embed the columns of A.
template <class S, class Load>
std::optional<Small<S>> sketched_qr(index m, index r, Small<S> SA, double damp, Load &&load) {
  constexpr index kRows = 256; // of a block: it stays in the second-level cache
  constexpr double kLongest = 100, kConditioned = 100; // Y, and Y with columns of norm 1
  const index n = SA.cols;
  const double level = std::sqrt(static_cast<double>(n)) * std::numeric_limits<double>::epsilon();
  // Beneath A; R0 of a column of zeros is that of a unit vector, whose row and column leave R.
  std::vector<double> tail(static_cast<std::size_t>(n));
  std::vector<char> empty(static_cast<std::size_t>(n), 0);
  Small<S> R0(SA.rows + n, n);
  for (index j = 0; j < n; ++j) {
    std::copy(SA.col(j), SA.col(j) + SA.rows, R0.col(j));
    double squared = 0;
    for (index i = 0; i < SA.rows; ++i)
      squared += abs2(SA(i, j));
    tail[j] = std::hypot(damp, level * std::sqrt(squared));
    if (!(tail[j] > 0)) {
      empty[j] = 1;
      tail[j] = 1;
    }
    R0(SA.rows + j, j) = tail[j];
  }
  SA = {};
  // In columns near norm 1.
  std::vector<double> unit(static_cast<std::size_t>(n));
  for (index j = 0; j < n; ++j) {
    double largest = 0;
    for (index i = 0; i < R0.rows; ++i)
      largest = std::max(largest, std::abs(R0(i, j)));
    if (!std::isfinite(largest))
      return std::nullopt;
    unit[j] = std::ldexp(1.0, -std::ilogb(largest));
    for (index i = 0; i < R0.rows; ++i)
      R0(i, j) *= unit[j];
  }
  blas::triangle(R0);
  for (index j = 0; j < n; ++j)
    for (index i = 0; i <= j; ++i)
      R0(i, j) /= unit[j];

  // [Y b] by blocks, their rows as columns, and the products [G H] = Y^H [Y b], conjugated.
  const index columns = n + r, size = n * columns;
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(size);
  const index wanted = parts_within(index(6) << 20, size * static_cast<index>(sizeof(S)));
  const RowChunks chunks(m, chunks_for(flops, wanted), kRows);
  Small<S> GH(n, columns);
  Buffer<S> parts(chunks.count * size);
  {
    const blas::OneThread quiet;
    const auto add = [&](Small<S> &block, S *part) {
      S *Y = block.data.data();
      blas::solve_transposed(n, block.cols, R0.data.data(), n, Y, columns);
      blas::add_gram(n, block.cols, Y, columns, part, n);
      if (r > 0)
        blas::gemm('N', 'C', n, r, block.cols, S(1), Y, columns, Y + n, columns, S(1), part + n * n,
                   n);
    };
    parallel_for(chunks.count, [&](index c) {
      S *part = parts.get() + c * size;
      std::fill(part, part + size, S(0));
      Small<S> block;
      for (index first = chunks.first(c); first < chunks.last(c); first += kRows) {
        const index rows = std::min(kRows, chunks.last(c) - first);
        if (block.cols != rows)
          block = Small<S>(columns, rows);
        load(first, rows, block);
        add(block, part);
      }
    });
    add_parts(reinterpret_cast<double *>(GH.data.data()),
              reinterpret_cast<const double *>(parts.get()), chunks.count, kPlanes<S> * size,
              kPlanes<S> * size);
    Small<S> below(columns, n);
    for (index j = 0; j < n; ++j)
      below(j, j) = tail[j];
    add(below, GH.data.data());
    for (S &x : GH.data)
      x = conj_of(x);
  }

  // The error of Cholesky is small beside the norms of the columns of Y, whatever these are.
  std::vector<double> norms(static_cast<std::size_t>(n));
  for (index j = 0; j < n; ++j) {
    norms[j] = std::sqrt(real_of(GH(j, j)));
    if (!(norms[j] > 0 && norms[j] < kLongest))
      return std::nullopt;
  }
  Small<S> R1 = GH.columns(0, n);
  if (!blas::cholesky(R1))
    return std::nullopt;
  Small<S> inverse = R1;
  if (!blas::invert_upper(inverse))
    return std::nullopt;
  double squared = 0;
  for (index j = 0; j < n; ++j)
    for (index i = 0; i <= j; ++i)
      squared += norms[i] * norms[i] * abs2(inverse(i, j));
  if (!(squared <= kConditioned * kConditioned * static_cast<double>(n)))
    return std::nullopt;

  Small<S> R(n, columns);
  blas::gemm('N', 'N', n, n, n, S(1), R1.data.data(), n, R0.data.data(), n, S(0), R.data.data(), n);
  for (index j = 0; j < n; ++j)
    if (empty[j] != 0)
      R(j, j) = 0;
  if (r > 0)
    blas::gemm('C', 'N', n, r, n, S(1), inverse.data.data(), n, GH.col(n), n, S(0), R.col(n), n);
  return R;
}

} // namespace lowla::rows
