// Ridge regressions of all rows of observed entries on one fixed factor.
//
// With the factor F (n, k) fixed, row i of the other one minimises, over its entries j,
//     1/2 sum_j w_ij (y_ij - f_j . u)^2 + ridge/2 |u|^2,   y_ij = value_ij - offset_j.
// exact: Gram matrix and right-hand side in one pass, systems of several rows solved side by side;
//   c k^2 / 2 + k^3 / 6 multiply-adds for c entries. Rows with c < k go through the c x c matrix of
//   the dual, whose limit at ridge = 0 is the least-squares solution of minimum norm.
// cg: steps of conjugate gradients from the present u, preconditioned by the diagonal of the Gram
//   matrix, which is never formed; 2 c k multiply-adds a step. Rows with c < k as above where that
//   is less work, and always at ridge = 0.
// nonnegative: u >= 0 by coordinate descent on the Gram matrix (Cichocki, Phan, IEICE Trans.
//   Fundamentals E92-A, 2009; Franc, Hlavac, Navara, CAIP 2005).
// Everything is summed in double. Memory: a tile of the entries of a row and k^2 numbers a thread.
#pragma once

#include "lowla/core/panel.hpp"
#include "lowla/observations.hpp"

#include <limits>
#include <vector>

namespace lowla {

namespace regression {
/// Over the trace, added to the diagonal and taken off again by a step of refinement; keeps
/// singular systems apart from zero pivots.
inline constexpr double kFloor = 16 * std::numeric_limits<double>::epsilon();
/// Entries of a row up to which the dual's matrix takes less work than steps of conjugate
/// gradients.
inline constexpr index kDualEntries = 16;
/// Coordinate descent: cycles at most, and the change of a coordinate, relative to the largest, at
/// which it ends.
inline constexpr index kCycles = 200;
inline constexpr double kDescentAccuracy = 1e-14;
} // namespace regression

/// n x k.
using Factor = Panel<double>;

/// The regressions of one side: its entries, the factor, and an offset for each of F's rows or
/// null.
template <class S> struct RowProblem {
  const Observations<S> &entries;
  const double *offset;
  const Factor &F;
};

/// Returns sum w (y - f_j . u_i)^2, to rounding of the sum of w y^2.
template <class S> double exact_rows(const RowProblem<S> &problem, double ridge, Factor &out);
/// From what `out` holds. Returns the same sum, to rounding of what it was before.
template <class S>
double cg_rows(const RowProblem<S> &problem, double ridge, index steps, Factor &out);
/// From what `out` holds.
template <class S> void nonnegative_rows(const RowProblem<S> &problem, double ridge, Factor &out);

/// sum w (y - f_j . u_i)^2
template <class S> double residual2(const RowProblem<S> &problem, const Factor &U);
/// out[t] = y - f_j . u_i of every entry, without weights.
template <class S> void residuals(const RowProblem<S> &problem, const Factor &U, double *out);
/// F_i^T W (y - F_i u_i) for every row i.
template <class S> Factor gradient_rows(const RowProblem<S> &problem, const Factor &U);

} // namespace lowla
