// Body of the hot loops of core/simd.hpp, included once per instruction set with
//   LOWLA_SIMD_NAMESPACE  the namespace of this set
//   LOWLA_VECTOR_BYTES    its vector register
// No standard-library templates here: a copy of one compiled for a newer instruction set could be
// kept by the linker for all.
//
// Register tiles: MR rows by NU panel units. With 32 registers 24 accumulators (12 x 2, 6 x 4,
// ...; 12 x 1, whose row addresses still fit the integer registers), with 16 registers 12. Per step
// of the inner loop a tile loads NU panel vectors and MR broadcasts for MR * NU fused
// multiply-adds. Where rows of A are read along (kAlong), tall tiles take kSteps steps at once: one
// address a row serves them all.

#include "lowla/core/simd.hpp"

#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

template <class R> struct VectorOf {
  typedef R type __attribute__((vector_size(LOWLA_VECTOR_BYTES), aligned(sizeof(R)), may_alias));
};
template <class R> using vec = typename VectorOf<R>::type;
template <class R> constexpr index kLanes = LOWLA_VECTOR_BYTES / static_cast<index>(sizeof(R));
/// Vectors per panel unit.
constexpr int kPerUnit = static_cast<int>(kPanelBytes / LOWLA_VECTOR_BYTES);
constexpr int kAccumulators = LOWLA_VECTOR_BYTES == 64 ? 24 : 12;
/// Widest tile, in units.
constexpr int kMaxUnits = LOWLA_VECTOR_BYTES == 64 ? 4 : 1;
constexpr int kTallest = 12;
constexpr int kSteps = 4;
constexpr int tile_rows(int units) {
  const int rows = kAccumulators / (units * kPerUnit);
  return rows > kTallest ? kTallest : rows > 0 ? rows : 1;
}

#define LOWLA_INLINE inline __attribute__((always_inline))

template <class R> LOWLA_INLINE vec<R> load(const R *p) {
  return *reinterpret_cast<const vec<R> *>(p);
}
template <class R> LOWLA_INLINE void store(R *p, vec<R> v) { *reinterpret_cast<vec<R> *>(p) = v; }

/// As many numbers as a vector of doubles holds.
template <class R> struct Narrow {
  typedef R type __attribute__((vector_size(LOWLA_VECTOR_BYTES / sizeof(double) * sizeof(R)),
                                aligned(sizeof(R)), may_alias));
};

/// In double; compilers split the conversion of whole registers.
LOWLA_INLINE vec<double> widened_lanes(typename Narrow<float>::type v) {
#if defined(__AVX512F__) && LOWLA_VECTOR_BYTES == 64
  return (vec<double>)_mm512_maskz_cvtps_pd(0xff, (__m256)v);
#else
  return __builtin_convertvector(v, vec<double>);
#endif
}
LOWLA_INLINE vec<double> wide(const double *p) { return load(p); }
LOWLA_INLINE vec<double> wide(const float *p) {
  return widened_lanes(*reinterpret_cast<const typename Narrow<float>::type *>(p));
}

/// Integers as wide as R, one a lane.
template <class R> struct PlacesOf {
  typedef std::conditional_t<sizeof(R) == 4, std::int32_t, std::int64_t> type
      __attribute__((vector_size(LOWLA_VECTOR_BYTES)));
};

/// The lane i of the result is the lane i ^ kFlip of v.
template <int kFlip, class R> LOWLA_INLINE vec<R> exchanged(vec<R> v) {
  using Places = typename PlacesOf<R>::type;
  // written out: a loop over the lanes would be run, not folded
  if constexpr (kLanes<R> == 16)
    return __builtin_shuffle(v,
                             Places{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} ^ kFlip);
  else if constexpr (kLanes<R> == 8)
    return __builtin_shuffle(v, Places{0, 1, 2, 3, 4, 5, 6, 7} ^ kFlip);
  else if constexpr (kLanes<R> == 4)
    return __builtin_shuffle(v, Places{0, 1, 2, 3} ^ kFlip);
  else
    return __builtin_shuffle(v, Places{0, 1} ^ kFlip);
}

/// a and b hold sums of kGroups rows each, W / kGroups lanes a row: those of all in one vector,
/// half as many lanes a row.
template <int kGroups, class R, int... I>
LOWLA_INLINE vec<R> joined(vec<R> a, vec<R> b, std::integer_sequence<int, I...>) {
  using Places = typename PlacesOf<R>::type;
  constexpr int W = static_cast<int>(kLanes<R>), lanes = W / kGroups, half = lanes / 2;
  const Places low{(I / half % kGroups * lanes + I % half + (I / half < kGroups ? 0 : W))...};
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + half);
}
template <int kGroups, class R> LOWLA_INLINE vec<R> joined(vec<R> a, vec<R> b) {
  return joined<kGroups, R>(a, b, std::make_integer_sequence<int, static_cast<int>(kLanes<R>)>{});
}

/// Sum of the lanes, by halves.
template <class R> LOWLA_INLINE R lane_sum(vec<R> v) {
  if constexpr (kLanes<R> >= 16)
    v += exchanged<8, R>(v);
  if constexpr (kLanes<R> >= 8)
    v += exchanged<4, R>(v);
  if constexpr (kLanes<R> >= 4)
    v += exchanged<2, R>(v);
  return v[0] + v[1];
}

// --- dense ---

/// How a tile walks A: along its rows (A X), or down its columns (A^T Y).
enum class Walk { kAlong, kDown };

/// The next kBytes ahead; nothing where it is null.
template <index kBytes> LOWLA_INLINE void fetch(const char *&ahead) {
  if (ahead == nullptr)
    return;
  for (index line = 0; line < kBytes; line += kLineBytes)
    __builtin_prefetch(ahead + line, 0, 2);
  ahead += kBytes;
}

/// C (MR x NU units) (+)= sum_k a(r, k) B(k, :); a(r, k) = A[r stride + k] along, A[r + k stride]
/// down. Down, what is `below` numbers further on is fetched, if any.
template <class R, Walk kWalk, int MR, int NU>
LOWLA_INLINE void tile(const R *A, index stride, index depth, const R *B, index ldb, R *C,
                       index ldc, bool accumulate, const char *ahead, index below = 0) {
  // Half of what a group of steps reads: a block is used by two products.
  constexpr index kFetch = (MR * kSteps * static_cast<index>(sizeof(R)) + 127) / 128 * kLineBytes;
  constexpr int NV = NU * kPerUnit;
  constexpr index W = kLanes<R>;
  constexpr bool kAlong = kWalk == Walk::kAlong;
  vec<R> acc[MR][NV];
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v)
      acc[r][v] = accumulate ? load(C + r * ldc + v * W) : vec<R>{};
  index k = 0;
  if constexpr (kAlong && MR == kTallest && (kSteps + MR) * NV <= 32) {
    for (; k + kSteps <= depth; k += kSteps) {
      fetch<kFetch>(ahead);
      vec<R> b[kSteps][NV];
      for (int s = 0; s < kSteps; ++s)
        for (int v = 0; v < NV; ++v)
          b[s][v] = load(B + (k + s) * ldb + v * W);
#pragma GCC unroll 24
      for (int r = 0; r < MR; ++r) {
        const R *a = A + r * stride + k;
        for (int s = 0; s < kSteps; ++s)
          for (int v = 0; v < NV; ++v)
            acc[r][v] += a[s] * b[s][v];
      }
    }
  }
  const auto step = [&](index at) __attribute__((always_inline)) {
    if (!kAlong && below != 0)
      for (index r = 0; r < MR; r += kLineBytes / static_cast<index>(sizeof(R)))
        __builtin_prefetch(A + r + at * stride + below, 0, 2);
    vec<R> b[NV];
    for (int v = 0; v < NV; ++v)
      b[v] = load(B + at * ldb + v * W);
#pragma GCC unroll 24
    for (int r = 0; r < MR; ++r) {
      const R a = kAlong ? A[r * stride + at] : A[r + at * stride];
      for (int v = 0; v < NV; ++v)
        acc[r][v] += a * b[v];
    }
  };
  for (; k + kSteps <= depth; k += kSteps) {
    fetch<kFetch>(ahead);
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s)
      step(k + s);
  }
  for (; k < depth; ++k)
    step(k);
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v)
      store(C + r * ldc + v * W, acc[r][v]);
}

/// All rows of one panel of NU units; the tail in tiles of 4 and 1 rows.
template <class R, Walk kWalk, int NU>
LOWLA_INLINE void panel(const R *A, index stride, index rows, index depth, const R *B, index ldb,
                        R *C, index ldc, bool accumulate, Ahead ahead) {
  constexpr int MR = tile_rows(NU);
  const index step = kWalk == Walk::kAlong ? stride : 1;
  const char *start = ahead.bytes > 0 ? static_cast<const char *>(ahead.at) : nullptr;
  const index per_row = rows > 0 ? ahead.bytes / rows : 0;
  const index below = kWalk == Walk::kDown && ahead.below ? depth * stride : 0;
  const auto at = [&](index i) __attribute__((always_inline)) {
    return start != nullptr ? start + i * per_row : nullptr;
  };
  index i = 0;
  for (; i + MR <= rows; i += MR)
    tile<R, kWalk, MR, NU>(A + i * step, stride, depth, B, ldb, C + i * ldc, ldc, accumulate, at(i),
                           below);
  if constexpr (MR > 4)
    for (; i + 4 <= rows; i += 4)
      tile<R, kWalk, 4, NU>(A + i * step, stride, depth, B, ldb, C + i * ldc, ldc, accumulate,
                            at(i), below);
  for (; i < rows; ++i)
    tile<R, kWalk, 1, NU>(A + i * step, stride, depth, B, ldb, C + i * ldc, ldc, accumulate, at(i),
                          below);
}

/// C (rows x q) (+)= a B by panels.
template <class R, Walk kWalk>
LOWLA_INLINE void panels(const R *A, index stride, index rows, index depth, const R *B, index ldb,
                         index q, R *C, index ldc, bool accumulate, Ahead ahead) {
  constexpr index U = panel_unit<R>;
  index j = 0;
  if constexpr (kMaxUnits >= 4) {
    for (; j + 4 * U <= q; j += 4 * U)
      panel<R, kWalk, 4>(A, stride, rows, depth, B + j, ldb, C + j, ldc, accumulate,
                         ahead.take(4 * U, q - j));
    if (j + 3 * U <= q) {
      panel<R, kWalk, 3>(A, stride, rows, depth, B + j, ldb, C + j, ldc, accumulate, ahead);
      return;
    }
    if (j + 2 * U <= q) {
      panel<R, kWalk, 2>(A, stride, rows, depth, B + j, ldb, C + j, ldc, accumulate, ahead);
      return;
    }
  }
  for (; j < q; j += U)
    panel<R, kWalk, 1>(A, stride, rows, depth, B + j, ldb, C + j, ldc, accumulate,
                       ahead.take(U, q - j));
}

/// Depth of a panel of X that stays in the second-level cache.
constexpr index kDepth = 1024;

template <class R>
void multiply(const R *A, index rs, index m, index n, const R *X, index ldx, index q, R *Y,
              index ldy, bool accumulate, Ahead ahead) {
  for (index k = 0; k < n || k == 0; k += kDepth) {
    const index depth = n - k < kDepth ? n - k : kDepth;
    panels<R, Walk::kAlong>(A + k, rs, m, depth, X + k * ldx, ldx, q, Y, ldy, accumulate || k > 0,
                            ahead.take(depth, n - k));
  }
}

template <class R>
void multiply_transposed(const R *A, index rs, index m, index p, const R *Y, index ldy, index q,
                         R *Z, index ldz, bool accumulate, Ahead ahead) {
  panels<R, Walk::kDown>(A, rs, p, m, Y, ldy, q, Z, ldz, accumulate, ahead);
}

/// Rows that are read side by side: their sums fit one vector.
template <class R> constexpr int kDotRows = kLanes<R> < 8 ? static_cast<int>(kLanes<R>) : 8;

/// y[r stride] = A(r, :) x for kDotRows rows. As much as is read is fetched ahead.
template <class R>
LOWLA_INLINE void row_dots(const R *A, index rs, index n, const R *x, R *y, index stride,
                           const char *ahead) {
  constexpr index W = kLanes<R>;
  constexpr int MR = kDotRows<R>;
  vec<R> sum[MR] = {};
  index k = 0;
  for (; k + W <= n; k += W) {
    fetch<MR * W *static_cast<index>(sizeof(R))>(ahead);
    const vec<R> b = load(x + k);
    for (int r = 0; r < MR; ++r)
      sum[r] += load(A + r * rs + k) * b;
  }
  for (int r = 0; r < MR; r += 2)
    sum[r / 2] = joined<1, R>(sum[r], sum[r + 1]);
  if constexpr (MR >= 4)
    for (int r = 0; r < MR / 2; r += 2)
      sum[r / 2] = joined<2, R>(sum[r], sum[r + 1]);
  if constexpr (MR >= 8)
    sum[0] = joined<4, R>(sum[0], sum[1]);
  if constexpr (W == 2 * MR)
    sum[0] += exchanged<1, R>(sum[0]);
  if constexpr (W == MR)
    if (stride == 1 && k == n) {
      store(y, sum[0]);
      return;
    }
  for (int r = 0; r < MR; ++r) {
    R total = sum[0][r * (W / MR)];
    for (index j = k; j < n; ++j)
      total += A[r * rs + j] * x[j];
    y[r * stride] = total;
  }
}

/// A(0, :) x
template <class R> LOWLA_INLINE R row_dot(const R *a, index n, const R *x) {
  constexpr index W = kLanes<R>;
  vec<R> sum[2] = {};
  index k = 0;
  for (; k + 2 * W <= n; k += 2 * W)
    for (int half = 0; half < 2; ++half)
      sum[half] += load(a + k + half * W) * load(x + k + half * W);
  R total = lane_sum<R>(sum[0] + sum[1]);
  for (; k < n; ++k)
    total += a[k] * x[k];
  return total;
}

template <class R>
void dots(const R *A, index rs, index m, index n, const R *X, index q, R *Y, Ahead ahead) {
  const char *start = ahead.bytes > 0 ? static_cast<const char *>(ahead.at) : nullptr;
  const index per_row = m > 0 ? ahead.bytes / m : 0;
  index i = 0;
  for (; i + kDotRows<R> <= m; i += kDotRows<R>)
    for (index c = 0; c < q; ++c)
      row_dots<R>(A + i * rs, rs, n, X + c * n, Y + i * q + c, q,
                  start != nullptr && c == 0 ? start + i * per_row : nullptr);
  for (; i < m; ++i)
    for (index c = 0; c < q; ++c)
      Y[i * q + c] = row_dot<R>(A + i * rs, n, X + c * n);
}

/// z += sum_r y[r stride] A(r, :)
template <class R, int MR>
LOWLA_INLINE void add_rows(const R *A, index rs, index n, const R *y, index stride, R *z) {
  constexpr index W = kLanes<R>;
  index k = 0;
  for (; k + W <= n; k += W) {
    vec<R> sum = load(z + k);
    for (int r = 0; r < MR; ++r)
      sum += y[r * stride] * load(A + r * rs + k);
    store(z + k, sum);
  }
  for (; k < n; ++k)
    for (int r = 0; r < MR; ++r)
      z[k] += y[r * stride] * A[r * rs + k];
}

template <class R>
void combinations(const R *A, index rs, index m, index n, const R *Y, index q, R *Z) {
  index i = 0;
  for (; i + 4 <= m; i += 4)
    for (index c = 0; c < q; ++c)
      add_rows<R, 4>(A + i * rs, rs, n, Y + i * q + c, q, Z + c * n);
  for (; i < m; ++i)
    for (index c = 0; c < q; ++c)
      add_rows<R, 1>(A + i * rs, rs, n, Y + i * q + c, q, Z + c * n);
}

template <class R> double sum_squares(const R *x, index n) {
  constexpr index W = kLanes<double>;
  constexpr int kSums = 4;
  vec<double> sums[kSums] = {};
  index i = 0;
  for (; i + kSums * W <= n; i += kSums * W)
    for (int k = 0; k < kSums; ++k) {
      const vec<double> v = wide(x + i + k * W);
      sums[k] += v * v;
    }
  double total = lane_sum<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; ++i)
    total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

/// Sums of kShort squares a lane in R, those sums in double.
template <class R> double sum_squares_fast(const R *x, index n) {
  if constexpr (sizeof(R) == sizeof(double)) {
    return sum_squares(x, n);
  } else {
    constexpr index W = kLanes<R>, kHalf = kLanes<double>;
    constexpr int kShort = 4;
    vec<double> sums[4] = {};
    index i = 0;
    for (; i + 2 * kShort * W <= n; i += 2 * kShort * W) {
      vec<R> squares[2] = {};
      for (int k = 0; k < 2 * kShort; ++k) {
        const vec<R> v = load(x + i + k * W);
        squares[k % 2] += v * v;
      }
      R parts[2 * W];
      for (int k = 0; k < 2; ++k)
        store(parts + k * W, squares[k]);
      for (int k = 0; k < 4; ++k)
        sums[k] += wide(parts + k * kHalf);
    }
    return lane_sum<double>((sums[0] + sums[1]) + (sums[2] + sums[3])) + sum_squares(x + i, n - i);
  }
}

// --- modes ---

/// A tile: kModeTile rows of F and kModeVectors vectors of X, or twice the rows and one.
constexpr int kModeVectors = 3;
constexpr int kModeTile = LOWLA_VECTOR_BYTES == 64 ? 8 : 4;

/// i x for interleaved complex numbers, or -i x: `turn` is (-1, 1, ...) or its negative.
template <class R> LOWLA_INLINE vec<R> times_i(vec<R> x, vec<R> turn) {
  return exchanged<1, R>(x) * turn;
}

/// MR rows of F times NV vectors; `stride` reals between the rows of F (kAlong) or its columns.
template <class T, Walk kWalk, int MR, int NV>
LOWLA_INLINE void mode_tile(const real_t<T> *F, index stride, index n, const real_t<T> *X,
                            index ldx, real_t<T> *Y, index ldy, vec<real_t<T>> turn) {
  using R = real_t<T>;
  constexpr index W = kLanes<R>;
  constexpr int P = is_complex_v<T> ? 2 : 1;
  vec<R> acc[MR][NV] = {};
#pragma GCC unroll 2
  for (index k = 0; k < n; ++k) {
    vec<R> x[NV], turned[NV];
    for (int v = 0; v < NV; ++v) {
      x[v] = load(X + k * ldx + v * W);
      if constexpr (is_complex_v<T>)
        turned[v] = times_i<R>(x[v], turn);
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const R *f = kWalk == Walk::kAlong ? F + r * stride + P * k : F + P * r + k * stride;
      for (int v = 0; v < NV; ++v) {
        acc[r][v] += f[0] * x[v];
        if constexpr (is_complex_v<T>)
          acc[r][v] += f[1] * turned[v];
      }
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v)
      store(Y + r * ldy + v * W, acc[r][v]);
}

template <class T, Walk kWalk, int NV>
LOWLA_INLINE void mode_columns(const real_t<T> *F, index stride, index m, index n,
                               const real_t<T> *X, index ldx, real_t<T> *Y, index ldy,
                               vec<real_t<T>> turn) {
  constexpr int P = is_complex_v<T> ? 2 : 1;
  const index step = kWalk == Walk::kAlong ? stride : P;
  index i = 0;
  if constexpr (NV == 1)
    for (; i + 2 * kModeTile <= m; i += 2 * kModeTile)
      mode_tile<T, kWalk, 2 * kModeTile, 1>(F + i * step, stride, n, X, ldx, Y + i * ldy, ldy,
                                            turn);
  for (; i + kModeTile <= m; i += kModeTile)
    mode_tile<T, kWalk, kModeTile, NV>(F + i * step, stride, n, X, ldx, Y + i * ldy, ldy, turn);
  if constexpr (kModeTile > 4)
    for (; i + 4 <= m; i += 4)
      mode_tile<T, kWalk, 4, NV>(F + i * step, stride, n, X, ldx, Y + i * ldy, ldy, turn);
  for (; i + 2 <= m; i += 2)
    mode_tile<T, kWalk, 2, NV>(F + i * step, stride, n, X, ldx, Y + i * ldy, ldy, turn);
  if (i < m)
    mode_tile<T, kWalk, 1, NV>(F + i * step, stride, n, X, ldx, Y + i * ldy, ldy, turn);
}

template <class T, Walk kWalk>
LOWLA_INLINE void mode(const real_t<T> *F, index stride, index m, index n, const real_t<T> *X,
                       index ldx, real_t<T> *Y, index ldy, index vectors, Repeat inner,
                       Repeat outer, vec<real_t<T>> turn) {
  constexpr index W = kLanes<real_t<T>>;
  // Rows that push each other out of the cache are read once, by one tile.
  const bool narrow = m > kModeTile && m <= 2 * kModeTile &&
                      crowded(ldx * static_cast<index>(sizeof(real_t<T>)), n);
  for (index a = 0; a < outer.count; ++a)
    for (index b = 0; b < inner.count; ++b) {
      const real_t<T> *x = X + a * outer.x + b * inner.x;
      real_t<T> *y = Y + a * outer.y + b * inner.y;
      for (index left = vectors; left > 0;) {
        // no single vector where two groups of two do it
        const int taken = narrow ? 1 : left >= 5 || left == 3 ? kModeVectors : left >= 2 ? 2 : 1;
        if (taken == kModeVectors)
          mode_columns<T, kWalk, kModeVectors>(F, stride, m, n, x, ldx, y, ldy, turn);
        else if (taken == 2)
          mode_columns<T, kWalk, 2>(F, stride, m, n, x, ldx, y, ldy, turn);
        else
          mode_columns<T, kWalk, 1>(F, stride, m, n, x, ldx, y, ldy, turn);
        left -= taken;
        x += taken * W;
        y += taken * W;
      }
    }
}

template <class T>
void mode_multiply(const T *F, index rs, index cs, bool conjugate, index m, index n,
                   const real_t<T> *X, index ldx, real_t<T> *Y, index ldy, index w, Repeat inner,
                   Repeat outer) {
  using R = real_t<T>;
  constexpr int P = is_complex_v<T> ? 2 : 1;
  vec<R> turn;
  for (int i = 0; i < kLanes<R>; ++i)
    turn[i] = ((i & 1) == 0) != conjugate ? R(-1) : R(1);
  const R *f = reinterpret_cast<const R *>(F);
  if (cs == 1)
    mode<T, Walk::kAlong>(f, P * rs, m, n, X, ldx, Y, ldy, w / kLanes<R>, inner, outer, turn);
  else
    mode<T, Walk::kDown>(f, P * cs, m, n, X, ldx, Y, ldy, w / kLanes<R>, inner, outer, turn);
}

// --- sparse ---

template <class T> struct Parts {
  static LOWLA_INLINE T re(T a) { return a; }
  static LOWLA_INLINE T im(T) { return T(0); }
};
template <class R> struct Parts<std::complex<R>> {
  static LOWLA_INLINE R re(const std::complex<R> &a) {
    return reinterpret_cast<const R(&)[2]>(a)[0];
  }
  static LOWLA_INLINE R im(const std::complex<R> &a) {
    return reinterpret_cast<const R(&)[2]>(a)[1];
  }
};

/// One row of a panel, NV vectors per plane.
template <class T, int NV> struct RowTile {
  using R = real_t<T>;
  static constexpr bool kComplex = is_complex_v<T>;
  static constexpr index W = kLanes<R>;
  vec<R> re[NV] = {};
  vec<R> im[kComplex ? NV : 1] = {};

  LOWLA_INLINE void load_from(const R *p, index q) {
    for (int v = 0; v < NV; ++v) {
      re[v] = load(p + v * W);
      if constexpr (kComplex)
        im[v] = load(p + q + v * W);
    }
  }
  LOWLA_INLINE void store_to(R *p, index q) const {
    for (int v = 0; v < NV; ++v) {
      store(p + v * W, re[v]);
      if constexpr (kComplex)
        store(p + q + v * W, im[v]);
    }
  }
  /// this += a x
  LOWLA_INLINE void gather(const T &a, const R *x, index q) {
    const R ar = Parts<T>::re(a), ai = Parts<T>::im(a);
    for (int v = 0; v < NV; ++v) {
      const vec<R> xr = load(x + v * W);
      if constexpr (kComplex) {
        const vec<R> xi = load(x + q + v * W);
        re[v] += ar * xr - ai * xi;
        im[v] += ar * xi + ai * xr;
      } else {
        re[v] += ar * xr;
      }
    }
  }
  /// z += conj(a) this
  LOWLA_INLINE void scatter(const T &a, R *z, index q) const {
    const R ar = Parts<T>::re(a), ai = Parts<T>::im(a);
    for (int v = 0; v < NV; ++v) {
      if constexpr (kComplex) {
        store(z + v * W, load(z + v * W) + (ar * re[v] + ai * im[v]));
        store(z + q + v * W, load(z + q + v * W) + (ar * im[v] - ai * re[v]));
      } else {
        store(z + v * W, load(z + v * W) + ar * re[v]);
      }
    }
  }
};

/// f<NV>(j) over the columns j of a plane of width q, in tiles of 4, 2 and 1 panel units.
#define LOWLA_FOR_TILES(CALL)                                                                      \
  constexpr index U = panel_unit<real_t<T>>;                                                       \
  index j = 0;                                                                                     \
  for (; j + 4 * U <= q; j += 4 * U) {                                                             \
    CALL(4 * kPerUnit)                                                                             \
  }                                                                                                \
  if (j + 2 * U <= q) {                                                                            \
    CALL(2 * kPerUnit)                                                                             \
    j += 2 * U;                                                                                    \
  }                                                                                                \
  if (j < q) {                                                                                     \
    CALL(kPerUnit)                                                                                 \
  }

template <class T, class I>
void sparse_multiply(const I *indptr, const I *indices, const T *data, index first, index last,
                     const real_t<T> *X, index ldx, index q, real_t<T> *Y, index ldy) {
#define LOWLA_CALL(NV)                                                                             \
  for (index i = first; i < last; ++i) {                                                           \
    RowTile<T, (NV)> y;                                                                            \
    for (I k = indptr[i]; k < indptr[i + 1]; ++k)                                                  \
      y.gather(data[k], X + static_cast<index>(indices[k]) * ldx + j, q);                          \
    y.store_to(Y + i * ldy + j, q);                                                                \
  }
  LOWLA_FOR_TILES(LOWLA_CALL)
#undef LOWLA_CALL
}

template <class T, class I>
void sparse_multiply_adjoint(const I *indptr, const I *indices, const T *data, index first,
                             index last, const real_t<T> *Y, index ldy, index q, real_t<T> *Z,
                             index ldz) {
#define LOWLA_CALL(NV)                                                                             \
  for (index i = first; i < last; ++i) {                                                           \
    RowTile<T, (NV)> y;                                                                            \
    y.load_from(Y + i * ldy + j, q);                                                               \
    for (I k = indptr[i]; k < indptr[i + 1]; ++k)                                                  \
      y.scatter(data[k], Z + static_cast<index>(indices[k]) * ldz + j, q);                         \
  }
  LOWLA_FOR_TILES(LOWLA_CALL)
#undef LOWLA_CALL
}

template <class T, class I>
void sparse_normal(const I *indptr, const I *indices, const T *data, index first, index last,
                   const real_t<T> *X, index ldx, index q, real_t<T> *Z, index ldz) {
#define LOWLA_CALL(NV)                                                                             \
  for (index i = first; i < last; ++i) {                                                           \
    RowTile<T, (NV)> y;                                                                            \
    for (I k = indptr[i]; k < indptr[i + 1]; ++k)                                                  \
      y.gather(data[k], X + static_cast<index>(indices[k]) * ldx + j, q);                          \
    for (I k = indptr[i]; k < indptr[i + 1]; ++k)                                                  \
      y.scatter(data[k], Z + static_cast<index>(indices[k]) * ldz + j, q);                         \
  }
  LOWLA_FOR_TILES(LOWLA_CALL)
#undef LOWLA_CALL
}

// --- tables ---

extern const DenseKernels<float> kDenseFloat;
extern const DenseKernels<double> kDenseDouble;
const DenseKernels<float> kDenseFloat{multiply<float>,    multiply_transposed<float>,
                                      dots<float>,        combinations<float>,
                                      sum_squares<float>, sum_squares_fast<float>};
const DenseKernels<double> kDenseDouble{multiply<double>,    multiply_transposed<double>,
                                        dots<double>,        combinations<double>,
                                        sum_squares<double>, sum_squares_fast<double>};

#define LOWLA_MODE_TABLE(NAME, T)                                                                  \
  extern const ModeKernels<T> NAME;                                                                \
  const ModeKernels<T> NAME{mode_multiply<T>};
LOWLA_MODE_TABLE(kModesS, float)
LOWLA_MODE_TABLE(kModesD, double)
LOWLA_MODE_TABLE(kModesC, std::complex<float>)
LOWLA_MODE_TABLE(kModesZ, std::complex<double>)
#undef LOWLA_MODE_TABLE

#define LOWLA_SPARSE_TABLE(NAME, T, I)                                                             \
  extern const SparseKernels<T, I> NAME;                                                           \
  const SparseKernels<T, I> NAME{sparse_multiply<T, I>, sparse_multiply_adjoint<T, I>,             \
                                 sparse_normal<T, I>};
LOWLA_SPARSE_TABLE(kSparseS32, float, std::int32_t)
LOWLA_SPARSE_TABLE(kSparseS64, float, std::int64_t)
LOWLA_SPARSE_TABLE(kSparseD32, double, std::int32_t)
LOWLA_SPARSE_TABLE(kSparseD64, double, std::int64_t)
LOWLA_SPARSE_TABLE(kSparseC32, std::complex<float>, std::int32_t)
LOWLA_SPARSE_TABLE(kSparseC64, std::complex<float>, std::int64_t)
LOWLA_SPARSE_TABLE(kSparseZ32, std::complex<double>, std::int32_t)
LOWLA_SPARSE_TABLE(kSparseZ64, std::complex<double>, std::int64_t)

} // namespace lowla::simd::LOWLA_SIMD_NAMESPACE
