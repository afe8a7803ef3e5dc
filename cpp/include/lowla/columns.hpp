// Bases from columns of A: pivoted QR by a sketch, interpolative decompositions.
//
// The columns are the pivots of a sketch S A of k + p rows (Voronin, Martinsson, Adv. Comput. Math.
// 43, 2017; Duersch, Gu, SIAM J. Sci. Comput. 39, 2017): one read of A, 2 m n (k + p) flops or
// 4 nnz(A) additions with sparse signs, and 4 (k + p) n k for the pivots.
//
// "project": one more read, 2 m n k flops, forms P = Q^H A with the orthonormal basis Q of the
// chosen columns C = Q R11. Then ||A - Q P||^2 = ||A||^2 - ||P||^2 certifies, and T = R11^-1 P is
// the least-squares solution C^+ A.
//
// "sketch": no second read. S A has four blocks of b rows, each with every row of A once, under
// signs of its own (SparseStack; Camano, Epperly, Meyer, Tropp, arXiv:2508.21189). Three of them
// stand for A in all of the above, pivots from their compression by signs to 3 (k + p) rows: with
// l = 3 b >= 10 k rows the error is about sqrt(1 + k / (l - k - 1)) times the least one (exact in
// the mean for a Gaussian S; Drineas, Mahoney, Muthukrishnan, Sarlos, Numer. Math. 117, 2011). The
// fourth block H has not seen the choice: E ||H X||^2 = ||X||^2 / 4 for X = A - C T, with relative
// variance at most 2 / b.
//
// Interpolation coefficients are bounded by the exchanges of Gu and Eisenstat (SIAM J. Sci. Comput.
// 17, 1996), on the sketch and then, in the magnitude of T alone, on A itself.
//
// Memory 4 b n numbers for "sketch", else (k + p) (m + n). All in double precision.
#pragma once

#include "lowla/column_source.hpp"

#include <string>

namespace lowla {

struct ColumnsRequest {
  index k = 1;
  std::string method = "auto"; ///< or "sketch", "project", "direct" (the sketch is A itself)
  index oversample = 10;       ///< p
  double bound = 2.0;          ///< of the magnitude of a coefficient
  bool gaussian = false;       ///< the sketch
  std::uint64_t key = 0;
  bool check_finite = true;
  double eps = 2e-16; ///< of the dtype that the results are rounded to
};

struct ColumnsFacts {
  double error = 0.0;
  const char *error_method = "exact";
  const char *method = "direct"; ///< "direct" where the sketch would have as many rows as A
  index rank = 0, passes = 0, sketch_rows = 0, swaps = 0;
};

/// A[:, perm] = A[:, perm[:k]] [I, proj] + E
template <class W> struct Interpolation {
  Places perm;
  Entries<W> proj; ///< k x (n - k)
  ColumnsFacts facts;
};
/// A = X A[rows][:, cols] Y + E
template <class W> struct TwoSided {
  Places rows, cols;
  Entries<W> X, Y; ///< m x k, k x n
  ColumnsFacts facts;
};
/// A[:, perm] = Q R + E
template <class W> struct Qrcp {
  Places perm;
  Panel<W> Q;
  Entries<W> R; ///< k x n
  ColumnsFacts facts;
};

/// ValueError for NaN or Inf, or NaN in the results if `check_finite` is false.
template <class W>
Interpolation<W> interp_decomp(const ColumnSource<W> &A, const ColumnsRequest &request);
template <class W>
TwoSided<W> two_sided_id(const ColumnSource<W> &A, const ColumnsRequest &request);
/// `method`, `bound` have no meaning.
template <class W> Qrcp<W> qrcp(const ColumnSource<W> &A, const ColumnsRequest &request);

} // namespace lowla
