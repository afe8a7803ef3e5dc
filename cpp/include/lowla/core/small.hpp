// Small dense problems, serial and in double precision: the d x d algebra of a sketch.
//
// They run between passes over the data on one thread and never wake a BLAS pool. Above
// kLapackOrder, and outside parallel loops, the work goes to LAPACK (core/blas.hpp).
//   cholesky        G = R^H R
//   qr              Householder
//   eigh            Householder tridiagonalisation and implicit QL with Wilkinson shifts
//                   (Golub, Van Loan, Matrix Computations, 4th ed., algorithms 8.3.1 and 8.3.3)
//   eigh_leading    the same without accumulated rotations; vectors by twisted factorisations
//                   (Dhillon, Parlett, SIAM J. Matrix Anal. Appl. 25, 2004), all of them
//                   orthogonalised and checked, `eigh` where the check fails
//   leading_vector  one eigenvector by Lanczos, certified; much less work than eigh_leading
//   svd             Gram preconditioning, then one-sided Jacobi (Drmac, Veselic 2008): high
//                   relative accuracy on column-scaled matrices
#pragma once

#include "lowla/core/scalar.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace lowla {

/// Dense column-major matrix of double or complex<double>.
template <class S> struct Small {
  index rows = 0, cols = 0;
  std::vector<S> data;

  Small() = default;
  Small(index m, index n) : rows(m), cols(n), data(static_cast<std::size_t>(m * n), S(0)) {}
  S &operator()(index i, index j) { return data[static_cast<std::size_t>(i + j * rows)]; }
  const S &operator()(index i, index j) const {
    return data[static_cast<std::size_t>(i + j * rows)];
  }
  S *col(index j) { return data.data() + j * rows; }
  const S *col(index j) const { return data.data() + j * rows; }

  static Small identity(index n) {
    Small I(n, n);
    for (index i = 0; i < n; ++i)
      I(i, i) = S(1);
    return I;
  }
  /// Columns first..first+count-1.
  Small columns(index first, index count) const {
    Small out(rows, count);
    std::copy(col(first), col(first) + rows * count, out.data.begin());
    return out;
  }
  /// Rows first..first+count-1.
  Small row_block(index first, index count) const {
    Small out(count, cols);
    for (index j = 0; j < cols; ++j)
      for (index i = 0; i < count; ++i)
        out(i, j) = (*this)(first + i, j);
    return out;
  }
};

namespace small {

inline constexpr index kLapackOrder = 256;

/// One above the other.
template <class S> Small<S> stack(const Small<S> &upper, const Small<S> &lower) {
  Small<S> out(upper.rows + lower.rows, lower.cols);
  for (index j = 0; j < out.cols; ++j) {
    std::copy(upper.col(j), upper.col(j) + upper.rows, out.col(j));
    std::copy(lower.col(j), lower.col(j) + lower.rows, out.col(j) + upper.rows);
  }
  return out;
}

/// Squared norms of the columns.
template <class S> std::vector<double> column_norms2(const Small<S> &M) {
  std::vector<double> out;
  for (index j = 0; j < M.cols; ++j) {
    double sum = 0;
    for (index i = 0; i < M.rows; ++i)
      sum += abs2(M(i, j));
    out.push_back(sum);
  }
  return out;
}

/// Largest magnitude of a real or imaginary part; clears `finite` where not all are.
template <class S> double largest_part(const Small<S> &M, bool &finite) {
  double largest = 0;
  for (const S &x : M.data) {
    const double size = std::max(std::abs(std::real(x)), std::abs(std::imag(x)));
    finite = finite && std::isfinite(size);
    largest = std::max(largest, size);
  }
  return largest;
}

template <class S> Small<S> multiply(const Small<S> &A, const Small<S> &B);
template <class S> Small<S> adjoint(const Small<S> &A);

/// Upper R with G = R^H R, in place (strict lower part zeroed). False if a pivot falls below
/// `floor` times its diagonal entry; G is then spoilt.
template <class S> bool cholesky(Small<S> &G, double floor);
/// Inverse of an upper triangular matrix, in place.
template <class S> void invert_upper(Small<S> &R);

/// A = Q R, square, by Householder reflectors; R upper triangular, its diagonal real, >= 0.
template <class S> void qr(const Small<S> &A, Small<S> &Q, Small<S> &R);

/// Eigenvalues (descending) and eigenvectors (columns of V) of a Hermitian matrix.
template <class S> void eigh(const Small<S> &A, std::vector<double> &w, Small<S> &V);
/// The `count` largest eigenvalues (fewer than half of them at about half the cost of all) and
/// their eigenvectors.
template <class S>
void eigh_leading(const Small<S> &A, index count, std::vector<double> &w, Small<S> &V);

/// x <- an eigenvector, of no particular length, of the largest eigenvalue theta of a real positive
/// semidefinite G (n x n, n a multiple of 8), by the Lanczos process from x. True where it is shown
/// that none is larger than (1 + 8 n eps) theta: the factorisation of that multiple of I less G has
/// positive pivots, or theta^2 is more than half of ||G||_F^2. False leaves no meaning in x.
bool leading_vector(const double *G, index n, double *x);

/// A (m x n, m >= n) = U diag(s) W^H, s descending, U (m x n), whose columns are orthogonal to
/// `accuracy`, or to rounding. Columns of U whose singular value is zero are zero.
template <class S>
void svd(const Small<S> &A, Small<S> &U, std::vector<double> &s, Small<S> &W,
         double accuracy = 0.0);

} // namespace small
} // namespace lowla
