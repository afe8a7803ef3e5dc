// Products with a Kronecker product of small matrices, which is never formed.
//
// (F_1 x ... x F_P) X for X of n_1 ... n_P rows is P mode products: with X as an array
// (left, n_p, right), each is Y(l, :, :) = F_p X(l, :, :). They commute; the cost is least where
// 1/m_p - 1/n_p falls from one to the next (exchange of neighbours). Modes are taken in groups
// whose blocks stay in the second-level cache, so that a group reads its operand once and writes
// its result once, whatever the number of its factors. 2 sum_p (prod_{q < p} m_q)(prod_{q >= p}
// n_q) m_p flops a column in the order taken; memory: one array of the size of the result for every
// group but the last.
#pragma once

#include "lowla/core/view.hpp"

#include <vector>

namespace lowla {

/// Y = (F_1 x ... x F_P) X, `columns` columns. X is an array (n_1, ..., n_P, columns) and Y
/// (m_1, ..., m_P, columns), or with `columns_first` (columns, n_1, ..., n_P) and so on;
/// contiguous.
template <class T>
void kron_multiply(const std::vector<MatrixView<T>> &factors, const T *X, index columns,
                   bool columns_first, T *Y);

/// w + shift for w = w_1 x ... x w_P. LinAlgError where one of them is lost in the rounding of the
/// largest of w and shift.
template <class R>
std::vector<R> shifted_eigenvalues(const std::vector<std::vector<R>> &w, R shift);

/// X = V (w + shift)^-1 V^H B for the eigenvalues w = w_1 x ... x w_P and eigenvectors V = V_1 x
/// ... x V_P of a Hermitian Kronecker product; B and X as above. Memory: one array of the size of
/// X, and its rows.
template <class T>
void kron_solve_shifted(const std::vector<std::vector<real_t<T>>> &w,
                        const std::vector<MatrixView<T>> &V, real_t<T> shift, const T *B,
                        index columns, bool columns_first, T *X);

} // namespace lowla
