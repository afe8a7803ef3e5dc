// CUR decompositions A = C U R + E: columns C and rows R of A itself.
//
// Columns: pivots of a sketch (QR or LU; Dong, Martinsson, Adv. Comput. Math. 49, 2023), DEIM
// (Sorensen, Embree, SIAM J. Sci. Comput. 38, 2016), or sampling by rank-k leverage scores
// (Drineas, Mahoney, Muthukrishnan, SIAM J. Matrix Anal. Appl. 30, 2008). Rows are chosen from the
// selected columns: QR pivots of an orthonormal basis of C, so that C[rows] is well-conditioned
// within C; more of them by pivots of what is left. U is C^+ A R^+, of least error, or A[rows,
// cols]^+ ("cross"), both by singular value decompositions of small matrices.
//
// With orthonormal bases B of C and V of R^H, G = B^H A V and M the same of C U R,
// ||A - C U R||^2 = ||A||^2 - ||G||^2 + ||G - M||^2: a certificate for one product with A. U itself
// loses cond(C) u in its product with C and R, so singular values are left out below the level at
// which the measured ||G - M|| is least.
//
// Cost: the sketch, and 2 m n k flops in one read of A; O((m + n) k^2); memory (m + n) k numbers.
// All in double precision.
#pragma once

#include "lowla/columns.hpp"

#include <string>

namespace lowla {

struct CurRequest {
  index k = 1;
  std::string method;    ///< "qrcp", "lupp", "deim" or "leverage"
  bool cross = false;    ///< U = A[rows, cols]^+
  index oversample = 0;  ///< rows beyond k; by leverage columns too
  bool gaussian = false; ///< the sketch
  std::uint64_t key = 0;
  bool check_finite = true;
  double eps = 2e-16; ///< of the dtype that the results are rounded to
};

template <class W> struct Cur {
  std::vector<index> rows, cols;
  Small<W> U;
  ColumnsFacts facts; ///< but for `method`
};

/// ValueError for NaN or Inf, or U and error NaN if `check_finite` is false.
template <class W> Cur<W> cur(const ColumnSource<W> &A, const CurRequest &request);

} // namespace lowla
