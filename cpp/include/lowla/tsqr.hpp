// TSQR: the triangular factor of a tall matrix by row blocks (Demmel, Grigori, Hoemmen, Langou,
// SIAM J. Sci. Comput. 34, 2012, sequential case), by LAPACK and in double precision.
#pragma once

#include "lowla/core/blas.hpp"
#include "lowla/core/cancel.hpp"

#include <algorithm>
#include <utility>

namespace lowla {

/// The triangular factor of [M; damp I 0], M m x columns, I of order n, by row blocks of M:
/// load(first, rows, out, below) writes the rows first .. of M to `out` from row `below` on.
template <class S, class Load>
Small<S> triangle_by_blocks(index m, index columns, index n, double damp, Load &&load) {
  Small<S> R(damp > 0 ? n : 0, columns);
  for (index j = 0; j < R.rows; ++j)
    R(j, j) = damp;
  const index block = std::max<index>(2 * columns, 256);
  for (index first = 0; first < m; first += block) {
    CancelScope::poll();
    const index rows = std::min(block, m - first);
    Small<S> stacked(R.rows + rows, columns);
    for (index j = 0; j < columns; ++j)
      std::copy(R.col(j), R.col(j) + R.rows, stacked.col(j));
    load(first, rows, stacked, R.rows);
    R = std::move(stacked);
    blas::triangle(R);
  }
  return R;
}

} // namespace lowla
