// Exponentials of rows: the hot loops of entropic optimal transport, log-sum-exp and softmax,
// compiled once per instruction set (simd_transport.inl) and picked at run time.
#pragma once

#include "lowla/core/scalar.hpp"

#include <cstdint>

namespace lowla::simd {

/// Exponents x_j = (f + g_j - C_j) per_eps of a row of a plan; S is float or double.
template <class S> struct PlanKernels {
  /// out_j = exp(x_j), 0 where x_j <= least (least >= -708; beyond 700 as at 700). Returns the sum.
  double (*exponentials)(const S *C, const double *g, double f, double per_eps, double least,
                         index n, double *out);
  /// max_j (f + g_j - C_j)
  double (*largest)(const S *C, const double *g, double f, index n);
  /// Appends j and x_j of the entries x_j >= least; returns how many.
  index (*above)(const S *C, const double *g, double f, double per_eps, double least, index n,
                 std::int32_t *columns, double *exponents);
  /// sum over P_j > 0 of P_j C_j
  double (*dot)(const double *P, const S *C, index n);
};

/// Sums of exponentials of a row as (top, total) with total exp(top); float or double.
template <class S> struct ExponentKernels {
  /// Adds x: total stays finite. NaN goes into the total.
  void (*add)(const S *x, index n, double &top, double &total);
  /// out = exp(x - top) scale
  void (*scaled)(const S *x, index n, double top, double scale, S *out);
};

struct RowKernels {
  /// y += sum_r a_r x_r for `rows` rows ld apart
  void (*add_rows)(const double *x, index ld, index rows, const double *a, index n, double *y);
  /// x = exp(x), x in -708 .. 700
  void (*exponentiate)(double *x, index n);
};

template <class S> const PlanKernels<S> &plans();
template <class S> const ExponentKernels<S> &exponents();
const RowKernels &rows();

} // namespace lowla::simd
