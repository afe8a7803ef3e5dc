// Ridge regressions of observed entries on rows of a factor: the hot loops of matrix completion,
// compiled once per instruction set (simd_tiles.inl) and picked at run time.
//
// The rows v_e of the factor V that some observations meet are brought together in a tile, with the
// observed value behind each: t_e = w_e^1/2 (v_e, m_e). One symmetric product T^T T then holds the
// normal equations' matrix, right-hand side and sum of squares, and T x with x = (u, -1) the
// residuals.
#pragma once

#include "lowla/core/scalar.hpp"

#include <cstdint>

namespace lowla::simd {

/// Rows of tiles and of systems are padded to whole multiples of this many numbers.
inline constexpr index kTilePad = 8;
/// Systems solved at once; the same for all instruction sets.
inline constexpr index kSystems = 8;

/// Observed values are stored as float or double.
template <class S> struct FactorKernels {
  /// Rows w_e^1/2 (v, value - offset) of a tile, zeros behind up to ldt > k. Rows of V are padded
  /// with zeros to ld, a whole multiple of kTilePad; weights and offsets (one for each row of V)
  /// may be null. `follow` more of `rows` are those of the next tiles.
  void (*gather)(const double *V, index ld, const double *offset, index k, const std::int32_t *rows,
                 const S *values, const double *weights, index count, index follow, double *tile,
                 index ldt);
};

struct TileKernels {
  /// G += T^T T, the lower triangle of its first q rows; ldt numbers a row, both.
  void (*gram)(const double *T, index ldt, index count, index q, double *G);
  /// out += T^T (T x), and diagonal += that of T^T T where wanted (not null); returns ||T x||^2.
  double (*apply)(const double *T, index ldt, index count, const double *x, double *out,
                  double *diagonal);
  /// y = T x; returns ||y||^2.
  double (*product)(const double *T, index ldt, index count, const double *x, double *y);
  /// x_s with (A_s + (ridge + floor trace A_s) I) x_s = h_s for kSystems systems given as lower
  /// triangles G_s = [A_s; h_s^T c_s], `stride` apart, of k + 1 rows of ldt numbers; one step of
  /// refinement takes what `floor` adds out again. Zero pivots give zeros. `work` holds
  /// (k + 1)(k + 14)/2 kSystems numbers, aligned to a cache line; X (kSystems, k + 1), with
  /// c_s - h_s . x_s - ridge |x_s|^2 = ||T x - y||^2 behind each solution.
  void (*solve)(const double *G, index stride, index ldt, index k, double ridge, double floor,
                double *work, double *X);
};

template <class S> const FactorKernels<S> &factors();
const TileKernels &tiles();

} // namespace lowla::simd
