// Products with Monarch matrices M = P_s L P_l R (Dao et al., "Monarch: Expressive structured
// matrices for efficient and accurate training", ICML 2022), never formed.
//
// R has k blocks q x p and L has l blocks s x r, k q = l r. Entry a l + j of R x is entry a of what
// block j of L gets, and entry i of its result is entry i l + j of y. "Permuted" matrices M P_k
// take entry j k + i of x as entry i p + j. 2 (k q p + l s r) flops a column; both stages run on a
// slab of columns in cache, so that X is read and Y written once.
#pragma once

#include "lowla/core/view.hpp"

namespace lowla {

/// Contiguous blocks count x m x n.
template <class T> struct Blocks {
  const T *data;
  index count, m, n;
};

/// Y = M X, or M^T X; with conj(M) where `conjugate`. Y by rows.
template <class T>
void monarch_multiply(const Blocks<T> &L, const Blocks<T> &R, const MatrixView<T> &X, bool permuted,
                      bool transpose, bool conjugate, T *Y);

/// L (l, s, k) and R (k, l, p) of the Monarch matrix nearest to W (l s x k p) in the Frobenius
/// norm: entry (i l + j, b p + c) is L[j, i, b] R[b, j, c], so each of the k l blocks of s x p is
/// replaced by the nearest one of rank one (section 3.3 of the paper). The singular value goes in
/// equal parts into both factors, the largest entry of the one of L is positive. Returns ||W - M||
/// / ||W||, measured. NaN or Inf in W: ValueError where `check_finite`, else NaN. With d = min(s,
/// p) about 2 s p d + 4/3 d^3 flops a block, in double precision; memory 3 blocks a thread.
template <class T>
double monarch_project(const MatrixView<T> &W, index k, index l, bool check_finite, T *L, T *R);

} // namespace lowla
