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

#include "lowla/device/host.hpp"

#include <memory>
#include <string>
#include <vector>

namespace lowla {

/// A matrix with entries, as CUR reads it. W is double or complex<double>.
template <class W> class ColumnSource {
public:
  virtual ~ColumnSource() = default;
  index m = 0, n = 0;

  virtual std::unique_ptr<typename Host<W>::Matrix> matrix() const = 0;
  /// S A (d x n, row-major) for d rows of sparse signs.
  virtual std::vector<W> signs(index d, std::uint64_t key) const = 0;
  /// A[:, cols]
  virtual Panel<W> columns(const std::vector<index> &cols) const = 0;
  /// A[rows]^H
  virtual Panel<W> adjoint_rows(const std::vector<index> &rows) const = 0;
  /// A 2^exponent, a copy.
  virtual std::unique_ptr<ColumnSource> scaled(int exponent) const = 0;
};

/// Views of T in double precision: a copy of entries of single precision.
template <class T> std::unique_ptr<ColumnSource<wide_t<T>>> column_source(MatrixView<T> A);
template <class T, class I> std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, I> A);

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

struct CurFacts {
  double error = 0.0;
  const char *error_method = "exact";
  index rank = 0, passes = 0, sketch_rows = 0;
};

template <class W> struct Cur {
  std::vector<index> rows, cols;
  Small<W> U;
  CurFacts facts;
};

/// ValueError for NaN or Inf, or U and error NaN if `check_finite` is false.
template <class W> Cur<W> cur(const ColumnSource<W> &A, const CurRequest &request);

} // namespace lowla
