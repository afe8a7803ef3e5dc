// Host: the device "CPU". What an algorithm may ask of a device, and how the CPU does it.
//
// A device offers tall-skinny linear algebra on Panels; small d x d matrices (`Small`) always live
// on the host in double precision. The primitives:
//
//   Panel                         n x b block of vectors
//   Matrix                        A, seen only through products (dense, CSR, operator):
//     multiply(X, Y, norm2)         Y = A X           one read of A
//     multiply_adjoint(Y, Z, norm2) Z = A^H Y         one read of A
//     normal(X, Y, Z, norm2)        Y = A X, Z = A^H Y   one read of A for both where it is stored
//     normal_and_products(..)       the same with coefficients(P, Y), where the loop can hold them
//     scan(finite)                  max |a_ij|, and whether all entries are finite
//     rescale(s)                    from now on the matrix stands for s A
//   fill_normal, fill_sjlt, set_identity         start blocks, addressed by (key, stream, row, col)
//   inner(P, W)                   the stacked P_i^H W in double precision
//   coefficients(P, W)            the same, short sums in working precision: for projections, which
//                                 are done twice, and products that hold rounding already
//   subtract(W, P, H)             W -= sum_i P_i H_i
//   combine(P, E, G)              W = sum_i P_i E_i, and G = coefficients({W}, W) where wanted
//   multiply_right(Y, M)          Y <- Y M in place, M square
//   update(W, P, H, M, Q)         W <- (W - sum_i P_i H_i) M, and of the new W the stacked
//                                 coefficients(Q, W), gram(W): one read of all
//   residual_norm2(A, U, s, V)    ||A - U diag(s) V^H||_F^2, measured, one read of A
//
// Reductions over rows run over a partition that depends on the sizes alone, and partial sums are
// added in its order: results do not depend on the number of threads.
#pragma once

#include "lowla/core/error.hpp"
#include "lowla/core/panel.hpp"
#include "lowla/core/philox.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/view.hpp"
#include "lowla/device/matrix.hpp"

#include <memory>
#include <vector>

namespace lowla {

template <class T> struct Host {
  using Scalar = T;
  using R = real_t<T>;
  using Wide = wide_t<T>;
  using Panel = lowla::Panel<T>;
  using Panels = std::vector<const Panel *>;

  using Matrix = lowla::Matrix<Panel, R, Wide>;

  static std::unique_ptr<Matrix> dense(MatrixView<T> A);
  template <class I> static std::unique_ptr<Matrix> csr(CsrView<T, I> A);

  /// P(j, i) = normal(stream, first + i, j): the transpose of rows first.. of the Gaussian
  /// operator.
  static void fill_normal(Panel &P, std::uint64_t key, std::uint32_t stream, index first = 0);
  /// P = S^T, S the d x n sparse sign operator (unscaled), d = P.cols, n = P.rows.
  static void fill_sjlt(Panel &P, std::uint64_t key, index nnz);
  static void set_identity(Panel &P);
  static Panel copy(const Panel &P);

  static Small<Wide> inner(const Panels &P, const Panel &W);
  static Small<Wide> coefficients(const Panels &P, const Panel &W);
  static Small<Wide> gram(const Panel &Y);
  static void subtract(Panel &W, const Panels &P, const Small<Wide> &H);
  static Panel combine(const Panels &P, const Small<Wide> &E, Small<Wide> *G = nullptr);
  static void multiply_right(Panel &Y, const Small<Wide> &M);
  /// M may be null: I. Q may be null: no products are wanted.
  static Small<Wide> update(Panel &W, const Panels &P, const Small<Wide> &H, const Small<Wide> *M,
                            const Panels *Q);
  /// For each column the entry of largest magnitude, the first of equals.
  static std::vector<Wide> peaks(const Panel &P);
  /// out(i, j) = P(i, j) factor(j) for the caller's array.
  static void store(const Panel &P, const std::vector<Wide> &factor, T *out, index rs, index cs,
                    bool conjugate);
  static void load(Panel &P, MatrixView<T> A);
};

} // namespace lowla
