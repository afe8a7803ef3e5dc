// The hot loops, compiled once per instruction set and picked at run time.
//
// Everything dense in the library is one of two real tall-skinny products on row-major data whose
// right-hand panels are `kPanelBytes` wide: Y = A X and Z += A^T Y. They keep a register tile of
// Y (or Z) and broadcast A, so A is read as it lies, without packing. Complex matrices reach them
// as real ones (device/host.hpp says how).
#pragma once

#include "lowla/core/scalar.hpp"

namespace lowla::simd {

/// Widths of panels are multiples of 64 bytes, whatever the instruction set.
inline constexpr index kPanelBytes = 64;
template <class R> inline constexpr index panel_unit = kPanelBytes / static_cast<index>(sizeof(R));

/// Rows of A that a pass keeps in cache between its two products.
inline constexpr index kRowBlock = 48;

template <class R> struct DenseKernels {
  /// Y (m x q) = A X, or += where `accumulate`; A (m x n) with row stride rs and unit columns.
  void (*multiply)(const R *A, index rs, index m, index n, const R *X, index ldx, index q, R *Y,
                   index ldy, bool accumulate);
  /// Z (p x q) += A^T Y; A (m x p).
  void (*multiply_transposed)(const R *A, index rs, index m, index p, const R *Y, index ldy,
                              index q, R *Z, index ldz);
  /// Sum of squares of a contiguous vector, in double.
  double (*sum_squares)(const R *x, index n);
};

/// Rows `first..last-1` of a CSR matrix times panels. Complex panels are planar: real parts in the
/// first half of a row, imaginary parts in the second; q is the width of one plane.
template <class T, class I> struct SparseKernels {
  using R = real_t<T>;
  /// Y(i, :) = A(i, :) X
  void (*multiply)(const I *indptr, const I *indices, const T *data, index first, index last,
                   const R *X, index ldx, index q, R *Y, index ldy);
  /// Z += A(i, :)^H Y(i, :)
  void (*multiply_adjoint)(const I *indptr, const I *indices, const T *data, index first,
                           index last, const R *Y, index ldy, index q, R *Z, index ldz);
  /// Z += A(i, :)^H (A(i, :) X): both products while the row is in registers.
  void (*normal)(const I *indptr, const I *indices, const T *data, index first, index last,
                 const R *X, index ldx, index q, R *Z, index ldz);
};

enum class Level { kBaseline, kV3, kV4 };

/// The level in use: the CPU's best, or the lower one that LOWLA_SIMD names (baseline, v3, v4).
Level level();
const char *level_name();

template <class R> const DenseKernels<R> &dense();
template <class T, class I> const SparseKernels<T, I> &sparse();

} // namespace lowla::simd
