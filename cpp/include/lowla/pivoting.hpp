// Which columns or rows of a small dense matrix span it best.
//
// pivoted_qr: QR with column pivoting (Businger, Golub, Numer. Math. 7, 1965), stopped after k
//   columns. Reflectors are applied to the other columns in blocks, so that a step reads them once
//   and writes one row (Quintana-Orti, Sun, Bischof, SIAM J. Sci. Comput. 19, 1998; LAPACK's
//   geqp3); norms are downdated, and computed again where that has lost too many digits (Drmac,
//   Bujanovic, ACM Trans. Math. Softw. 35, 2008). 4 l n k flops for l x n.
// pivoted_lu_rows: Gaussian elimination with row pivoting, the rows that DEIM selects (Sorensen,
//   Embree, SIAM J. Sci. Comput. 38, 2016); m k^2 flops.
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/small.hpp"

#include <vector>

namespace lowla {

using Places = std::vector<index>;

template <class W> struct PivotedQr {
  Places perm;              ///< Y(:, perm) = Q R, the pivots first
  Small<W> R;               ///< its first k rows; diagonal real, >= 0
  index rank = 0;           ///< of the first k, those with |R_jj| > tol |R_00|
  std::vector<double> left; ///< norms of what is left of the other columns, to a few digits
};

/// Y (l x n), row-major with ld numbers a row, is spoilt. W is double or complex<double>. Of
/// columns of equal norm the first in the present order is taken.
template <class W> PivotedQr<W> pivoted_qr(W *Y, index ld, index l, index n, index k, double tol);

/// A permutation of the rows of Y (m x k, row-major with ld numbers a row), the pivots of its
/// columns in front, the others ascending. Y is spoilt.
template <class W> Places pivoted_lu_rows(W *Y, index ld, index m, index k);

/// The indices below n that are not chosen, ascending.
Places rest_of(index n, const Places &chosen);

} // namespace lowla
