// BLAS and LAPACK as SciPy ships them, overloaded on the scalar type.
//
// The bindings hand over the function pointers of scipy.linalg.cython_blas and cython_lapack at
// first use (`install`); nothing is linked. Sizes are int64 here and narrowed by `narrow`, the one
// checked place. Both integer widths (LP64, ILP64) are called. Column-major, as in Fortran.
// Never call these inside a parallel loop: they own a thread pool of their own.
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/core/scalar.hpp"
#include "lowla/core/small.hpp"

#include <limits>
#include <string>
#include <vector>

namespace lowla::blas {

/// While one lives, SciPy's OpenBLAS works on the calling thread alone. Its workers spin for up
/// to 0.2 s after every call, on cores that the next loop of ours needs: for small problems between
/// such loops they cost more than they give (least squares 200000 x 200 on two cores: 1.45 x).
class OneThread {
public:
  explicit OneThread(bool wanted = true);
  ~OneThread();
  OneThread(const OneThread &) = delete;
  OneThread &operator=(const OneThread &) = delete;

private:
  bool active_;
};

/// The routines used, in the order of kRoutineNames.
enum Routine { kGemm, kTrsm, kHerk, kPotrf, kHeevd, kGesdd, kGeqrf, kTrtri, kGetrf, kRoutineCount };
/// The name for a type letter: syrk and syevd are herk and heevd for complex types.
std::string routine_name(Routine routine, char type);

/// Install one routine for the type letter s, d, c or z. `integer_bytes` is 4 or 8, the same for
/// all.
void install(Routine routine, char type, void *function, int integer_bytes);
bool loaded();
int integer_bytes();

/// An int64 size as the BLAS integer; OverflowError beyond it.
template <class Int> Int narrow(index value) {
  if (value < 0 || value > static_cast<index>(std::numeric_limits<Int>::max()))
    throw OverflowError("size " + std::to_string(value) +
                        " does not fit the integer of the BLAS that SciPy was built with");
  return static_cast<Int>(value);
}

/// C = alpha op(A) op(B) + beta C, op by 'N', 'T' or 'C'.
void gemm(char op_a, char op_b, index m, index n, index k, float alpha, const float *A, index lda,
          const float *B, index ldb, float beta, float *C, index ldc);
void gemm(char op_a, char op_b, index m, index n, index k, double alpha, const double *A, index lda,
          const double *B, index ldb, double beta, double *C, index ldc);
void gemm(char op_a, char op_b, index m, index n, index k, std::complex<float> alpha,
          const std::complex<float> *A, index lda, const std::complex<float> *B, index ldb,
          std::complex<float> beta, std::complex<float> *C, index ldc);
void gemm(char op_a, char op_b, index m, index n, index k, std::complex<double> alpha,
          const std::complex<double> *A, index lda, const std::complex<double> *B, index ldb,
          std::complex<double> beta, std::complex<double> *C, index ldc);

/// B <- R^-T B for upper triangular R of order n and B n x r, by substitution.
template <class S> void solve_transposed(index n, index r, const S *R, index ldr, S *B, index ldb);
/// The upper triangle of C (n x n) += A A^H, A n x k.
template <class S> void add_gram(index n, index k, const S *A, index lda, S *C, index ldc);

/// Upper Cholesky factor in place; false where A is not positive definite.
template <class S> bool potrf(index n, S *A, index lda);

/// Eigenvalues (ascending) and eigenvectors (in place of A) of a Hermitian matrix.
template <class S> void heevd(index n, S *A, real_t<S> *w);

/// A (m x n, m >= n) = U diag(s) W^H; A is overwritten by U.
void gesdd(index m, index n, Small<double> &A, std::vector<double> &s, Small<double> &W);
void gesdd(index m, index n, Small<std::complex<double>> &A, std::vector<double> &s,
           Small<std::complex<double>> &W);

/// op(A) op(B)
template <class S> Small<S> product(char op_a, const Small<S> &A, char op_b, const Small<S> &B);
/// G <- the upper triangular R of G = R^H R; false where G is not positive definite.
template <class S> bool cholesky(Small<S> &G);
/// A <- the upper triangular (or trapezoidal) R of A = Q R, min(rows, cols) x cols.
template <class S> void triangle(Small<S> &A);
/// R <- R^-1, R upper triangular; false where a diagonal entry is zero.
template <class S> bool invert_upper(Small<S> &R);
/// L U = A[rows], A square: U in the upper triangle, L with its diagonal of ones left out below it.
template <class S> struct Lu {
  Small<S> factors;
  std::vector<index> rows;
};
template <class S> Lu<S> lu(Small<S> A);
/// ||A^-1||_1; infinite where a pivot is zero.
template <class S> double inverse_norm1(const Lu<S> &A);

/// Singular values, descending, of a square matrix.
template <class S> std::vector<double> singular_values(Small<S> A);

} // namespace lowla::blas
