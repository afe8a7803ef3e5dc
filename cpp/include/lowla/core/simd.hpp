// The hot loops, compiled once per instruction set and picked at run time.
//
// Everything dense in the library is one of two real tall-skinny products on row-major data whose
// right-hand panels are `kPanelBytes` wide: Y = A X and Z += A^T Y. They keep a register tile of
// Y (or Z) and broadcast A, so A is read as it lies, without packing. Complex matrices reach them
// as real ones (device/host.hpp says how).
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/stored.hpp"

#include <cstdint>

namespace lowla::simd {

/// Widths of panels are multiples of 64 bytes, whatever the instruction set.
inline constexpr index kPanelBytes = 64;
template <class R> inline constexpr index panel_unit = kPanelBytes / static_cast<index>(sizeof(R));

/// Rows of A that a pass keeps in cache between its two products.
inline constexpr index kRowBlock = 48;

inline constexpr index kLineBytes = 64;

/// Memory that a kernel brings to the second-level cache while it works, evenly: what the caller
/// reads next. Waiting for lines of a matrix that streams takes as long as the arithmetic; these
/// come for nothing. Some more lines than asked for may be fetched.
struct Ahead {
  const void *at = nullptr;
  index bytes = 0;
  /// Instead, where a product walks down the rows of A: as many rows below them, which need not lie
  /// one after the other.
  bool below = false;

  /// The first part / whole of it, which is taken away. (Always inlined: this header is compiled
  /// for several instruction sets.)
  __attribute__((always_inline)) Ahead take(index part, index whole) {
    const index taken = part < whole ? bytes / kLineBytes * part / whole * kLineBytes : bytes;
    const Ahead first{at, taken, below};
    below = false;
    if (taken > 0)
      at = static_cast<const char *>(at) + taken;
    bytes -= taken;
    return first;
  }
};

/// The same for a kernel that goes through rows: with each `bytes` are fetched, `stride` on from
/// those of the row before. They may lie behind the end of the matrix.
struct StridedAhead {
  std::uintptr_t begin = 0;
  index stride = 0, bytes = 0;
};

template <class R> struct DenseKernels {
  /// Y (m x q) = A X, or += where `accumulate`; A (m x n) with row stride rs and unit columns.
  void (*multiply)(const R *A, index rs, index m, index n, const R *X, index ldx, index q, R *Y,
                   index ldy, bool accumulate, Ahead ahead);
  /// Z (p x q) = A^T Y, or += where `accumulate`; A (m x p).
  void (*multiply_transposed)(const R *A, index rs, index m, index p, const R *Y, index ldy,
                              index q, R *Z, index ldz, bool accumulate, Ahead ahead);
  /// The same for few columns, whose vectors are contiguous: Y (m x q, rows contiguous) = A X, X
  /// (n x q) and Z (n x q) by columns with stride n; Z += A^T Y.
  void (*dots)(const R *A, index rs, index m, index n, const R *X, index q, R *Y, Ahead ahead);
  void (*combinations)(const R *A, index rs, index m, index n, const R *Y, index q, R *Z);
  /// Sum of squares of a contiguous vector, in double.
  double (*sum_squares)(const R *x, index n);
  /// The same with sums of 4 squares in R: to 3e-7 in single precision.
  double (*sum_squares_fast)(const R *x, index n);
};

/// The first two for panels of 16 columns of single precision, A with an even number of columns.
/// `twice` (m x 32) holds Y for the second; X and Z (n x 16 each) are "in pairs": rows k, k + 1 (k
/// even) as 32 numbers, X(k, c) at 2 c, X(k + 1, c) at 2 c + 1.
struct PairKernels {
  /// Rows X in order -> out in pairs.
  void (*join_rows)(const float *X, index n, float *out);
  /// Z in pairs -> rows in order, in place.
  void (*part_rows)(float *Z, index n);
  void (*multiply)(const float *A, index rs, index m, index n, const float *X, float *Y,
                   float *twice, Ahead ahead);
  void (*multiply_transposed)(const float *A, index rs, index m, index p, const float *twice,
                              float *Z, bool accumulate, Ahead ahead);
};

/// A count of operands and the distances from one to the next, in reals.
struct Repeat {
  index count = 1, x = 0, y = 0;
};

/// Rows `stride` bytes apart that are read more than once: whether n of them push each other out of
/// a first-level cache of 8 ways and 4 KiB a way. (Always inlined, as above.)
__attribute__((always_inline)) inline bool crowded(index stride, index n) {
  constexpr index kWay = 4096, kWays = 8;
  index sets = 1;
  for (index step = stride % kWay; step != 0 && sets < n; step = (step + stride) % kWay)
    ++sets;
  return n > sets * kWays;
}

/// A small matrix times the lanes of an array: the modes of Kronecker products, blocks of Monarch
/// matrices. Complex numbers are interleaved.
template <class T> struct ModeKernels {
  using R = real_t<T>;
  /// Y (m x w) = F X, or conj(F) X, for all operands of the two repeats; X (n x w) with rows ldx
  /// reals apart, w a multiple of a panel unit. F(i, k) at F[i rs + k cs], one of the strides 1.
  void (*multiply)(const T *F, index rs, index cs, bool conjugate, index m, index n, const R *X,
                   index ldx, R *Y, index ldy, index w, Repeat inner, Repeat outer);
};
/// Rows of F up to which the kernel reads X once however its rows lie.
inline constexpr index kModeRows = 16;

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

/// What sketches are made of (simd_sketch.inl). Matrices are row-major with the strides given.
template <class R> struct SketchKernels {
  /// out(4 g + t, c) = normal(stream, 4 (first + g) + t, j + c), g < groups, t < 4, c < cols.
  void (*normals)(std::uint64_t key, std::uint32_t stream, index first, index groups, index j,
                  index cols, R *out, index ld);
  /// out(i, c) = sign(stream, first + i, j + c) = +-1.
  void (*signs)(std::uint64_t key, std::uint32_t stream, index first, index rows, index j,
                index cols, R *out, index ld);
  /// out(t, :) += sum of +-A(row, :) over the entries 2 row + (sign < 0) of target t, in their
  /// order; t in [first, last), its entries are entry[start[t]] .. entry[start[t + 1] - 1].
  void (*gather)(const R *A, index rs, index width, const std::uint32_t *start,
                 const std::uint32_t *entry, index first, index last, R *out, index ldo);
  /// out(t, :) += +-A(row, :) for every entry 2 t + (sign < 0) of every row, rows in their order.
  void (*scatter)(const R *A, index rs, index rows, index width, const std::uint32_t *start,
                  const std::uint32_t *entry, R *out, index ldo);
  /// The same with `nnz` entries a row, those of row r entry[b lde + r].
  void (*scatter_all)(const R *A, index rs, index rows, index width, const std::uint32_t *entry,
                      index nnz, index lde, R *out, index ldo, StridedAhead ahead);
  /// X (rows x width) <- H X, H the unnormalised Hadamard matrix of Sylvester, rows a power of two,
  /// width whole panel units.
  void (*hadamard)(R *X, index ld, index rows, index width);
};

/// Rows of stored numbers, summed in double precision: the passes over gradients. S is float,
/// double, Float16 or BFloat16 (core/stored.hpp); rows are contiguous, rs numbers apart.
template <class S> struct StoredKernels {
  /// out (m x n, rows ld apart) = A
  void (*widen)(const S *A, index rs, index m, index n, double *out, index ld);
  /// y[r] += A(r, :) x, r < m
  void (*dots)(const S *A, index rs, index m, index n, const double *x, double *y);
  /// z += sum_r y[r] A(r, :)
  void (*combine)(const S *A, index rs, index m, index n, const double *y, double *z);
  /// The same for `width` vectors, a multiple of kVectors: R(r, c) += A(r, :) X(c, :) and
  /// Z(c, :) += sum_r C(r, c) A(r, :), rows ldx and so on apart. Meanwhile as much as A from `next`
  /// on, if any, is brought to the second-level cache.
  void (*many_dots)(const S *A, index rs, index m, index n, const double *X, index ldx, index width,
                    double *R, index ldr, const S *next);
  void (*many_combine)(const S *A, index rs, index m, index n, const double *C, index ldc,
                       index width, double *Z, index ldz, const S *next);
  static constexpr index kVectors = 8;
};

/// Memory in rows that is to be read next.
struct RowsAhead {
  const char *const *rows = nullptr;
  index count = 0, bytes = 0;
};

/// Products of the rows of one matrix with each other.
struct GramKernels {
  /// P and K have a multiple of so many rows, and K as many columns, beyond the last: zeros in P.
  static constexpr index kRows = 24;
  /// K(i, j) += P(i, :) P(j, :) for j <= i, first <= i < last (first a multiple of kRows), and some
  /// more up to the next multiples of kRows. Meanwhile `ahead` is brought to the second-level
  /// cache, evenly.
  void (*lower)(const double *P, index ld, index depth, index first, index last, double *K,
                index ldk, RowsAhead ahead);
};

/// Bytes of the second-level cache of a core.
index second_level_cache();

enum class Level { kBaseline, kV3, kV4 };

/// The level in use: the CPU's best, or the lower one that LOWLA_SIMD names (baseline, v3, v4).
Level level();
const char *level_name();

template <class R> const DenseKernels<R> &dense();
/// Null where they gain nothing.
const PairKernels *pairs();
template <class T> const ModeKernels<T> &modes();
template <class T, class I> const SparseKernels<T, I> &sparse();
template <class R> const SketchKernels<R> &sketching();
template <class S> const StoredKernels<S> &stored();
const GramKernels &gram();

/// out[t ld + c] = word t of the Philox block (stream, row, j + c), t < 4, c < cols.
void words4(std::uint64_t key, std::uint32_t stream, index row, index j, index cols,
            std::uint32_t *out, index ld);

} // namespace lowla::simd
