// Hot loops of the sketches, included once per instruction set after simd_kernels.inl.
//
// Random numbers: Philox4x32-10 and Box-Muller of core/philox.hpp, which is the definition and the
// tested reference, on vectors of 64-bit lanes: a lane is a column. Every word of the generator
// lives in the low half of a lane; what the upper half holds is never looked at before the end,
// since the widening product ignores it. That product and the square root are the two operations
// without a portable vector form that compilers map to the one instruction.
//
// Signed sums of rows: multiplication by +-1 is exact, so a fused multiply-add gives the rounding
// of the addition, and the result is the sum in the order of the entries on any instruction set.

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

using Words64 = vec<std::uint64_t>;
using Doubles = vec<double>;
constexpr int kWide = LOWLA_VECTOR_BYTES / 8;

/// The 64-bit products of the low halves.
LOWLA_INLINE Words64 multiply_words(Words64 a, std::uint32_t b) {
  const Words64 B = Words64{} + b;
#if defined(__AVX512F__) && LOWLA_VECTOR_BYTES == 64
  return (Words64)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)B);
#elif defined(__AVX2__) && LOWLA_VECTOR_BYTES == 32
  return (Words64)_mm256_mul_epu32((__m256i)a, (__m256i)B);
#elif defined(__SSE2__) && LOWLA_VECTOR_BYTES == 16
  return (Words64)_mm_mul_epu32((__m128i)a, (__m128i)B);
#else
  return (a & 0xffffffffu) * B;
#endif
}

LOWLA_INLINE Doubles square_root(Doubles x) {
#if defined(__AVX512F__) && LOWLA_VECTOR_BYTES == 64
  return (Doubles)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#elif defined(__AVX2__) && LOWLA_VECTOR_BYTES == 32
  return (Doubles)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__) && LOWLA_VECTOR_BYTES == 16
  return (Doubles)_mm_sqrt_pd((__m128d)x);
#else
  for (int lane = 0; lane < kWide; ++lane)
    x[lane] = __builtin_sqrt(x[lane]);
  return x;
#endif
}

struct WordLanes {
  Words64 w[4]; ///< below 2^32
};

/// The blocks at (stream, row, column of each lane).
LOWLA_INLINE WordLanes philox_lanes(std::uint64_t key, std::uint32_t stream, std::uint64_t row,
                                    Words64 column) {
  constexpr std::uint64_t kLow = 0xffffffffu;
  Words64 c0 = Words64{} + (row & kLow), c1 = column;
  Words64 c2 = ((column >> 32 & 0xffff) << 16) | ((row >> 32) & 0xffff), c3 = Words64{} + stream;
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words64 p0 = multiply_words(c0, 0xD2511F53u), p1 = multiply_words(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c1 = p1;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0 & kLow, c1 & kLow, c2 & kLow, c3 & kLow}};
}

/// 2^52 + w as a double, w below 2^32.
LOWLA_INLINE Doubles shifted_double(Words64 w) { return (Doubles)(w | 0x4330000000000000u); }

/// philox::log_uniform
LOWLA_INLINE Doubles log_lanes(Words64 w) {
  const Doubles u = (shifted_double(w) - (0x1p52 - 0.5)) * 0x1p-32;
  const Words64 bits = (Words64)u;
  Doubles e = shifted_double(bits >> 52) - (0x1p52 + 1023);
  Doubles m = (Doubles)((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  const auto large = m > 1.4142135623730951;
  m = large ? m * 0.5 : m;
  e = large ? e + 1.0 : e;
  const Doubles z = (m - 1.0) / (m + 1.0);
  const Doubles s = z * z;
  Doubles p = s * (1.0 / 19.0) + 1.0 / 17.0;
  p = p * s + 1.0 / 15.0;
  p = p * s + 1.0 / 13.0;
  p = p * s + 1.0 / 11.0;
  p = p * s + 1.0 / 9.0;
  p = p * s + 1.0 / 7.0;
  p = p * s + 1.0 / 5.0;
  p = p * s + 1.0 / 3.0;
  p = p * s + 1.0;
  return e * 0.6931471805599453 + 2.0 * z * p;
}

/// philox::cos_sin_turn
LOWLA_INLINE void cos_sin_lanes(Words64 w, Doubles &c, Doubles &s) {
  const Words64 shifted =
      w + 0x20000000u; // bit 30: odd quadrant; the carry above bit 31 is harmless
  const Doubles t = (shifted_double(shifted & 0x3fffffffu) - 0x1p52 - (0x1p29 - 0.5)) *
                    (0x1p-32 * 6.283185307179586);
  const Doubles q = t * t;
  Doubles ps = q * (-1.0 / 1307674368000.0) + 1.0 / 6227020800.0;
  ps = ps * q - 1.0 / 39916800.0;
  ps = ps * q + 1.0 / 362880.0;
  ps = ps * q - 1.0 / 5040.0;
  ps = ps * q + 1.0 / 120.0;
  ps = ps * q - 1.0 / 6.0;
  const Doubles sin_t = t + t * q * ps;
  Doubles pc = q * (1.0 / 20922789888000.0) - 1.0 / 87178291200.0;
  pc = pc * q + 1.0 / 479001600.0;
  pc = pc * q - 1.0 / 3628800.0;
  pc = pc * q + 1.0 / 40320.0;
  pc = pc * q - 1.0 / 720.0;
  pc = pc * q + 1.0 / 24.0;
  pc = pc * q - 0.5;
  const Doubles cos_t = 1.0 + q * pc;
  const auto odd = (shifted & 0x40000000u) != 0;
  const Words64 c_sign = ((shifted + 0x40000000u) & 0x80000000u) << 32; // quadrants 1 and 2
  const Words64 s_sign = (shifted & 0x80000000u) << 32;                 // quadrants 2 and 3
  c = (Doubles)((Words64)(odd ? sin_t : cos_t) ^ c_sign);
  s = (Doubles)((Words64)(odd ? cos_t : sin_t) ^ s_sign);
}

/// One vector of doubles as R.
LOWLA_INLINE void put(double *p, Doubles x) { store<double>(p, x); }
LOWLA_INLINE void put(float *p, Doubles x) {
  typedef float narrow __attribute__((vector_size(LOWLA_VECTOR_BYTES / 2), aligned(4), may_alias));
  *reinterpret_cast<narrow *>(p) = __builtin_convertvector(x, narrow);
}

/// The first `count` of a vector.
template <class R> LOWLA_INLINE void put_some(R *p, Doubles x, index count) {
  if (count >= kWide) {
    put(p, x);
    return;
  }
  R whole[kWide];
  put(whole, x);
  for (index lane = 0; lane < count; ++lane)
    p[lane] = whole[lane];
}

LOWLA_INLINE Words64 lanes_from(index j) {
  Words64 column = Words64{} + static_cast<std::uint64_t>(j);
  for (int lane = 0; lane < kWide; ++lane)
    column[lane] += static_cast<std::uint64_t>(lane);
  return column;
}

void words4(std::uint64_t key, std::uint32_t stream, index row, index j, index cols,
            std::uint32_t *out, index ld);
void words4(std::uint64_t key, std::uint32_t stream, index row, index j, index cols,
            std::uint32_t *out, index ld) {
  typedef std::uint32_t narrow
      __attribute__((vector_size(LOWLA_VECTOR_BYTES / 2), aligned(4), may_alias));
  for (index c = 0; c < cols; c += kWide) {
    const WordLanes b =
        philox_lanes(key, stream, static_cast<std::uint64_t>(row), lanes_from(j + c));
    for (int t = 0; t < 4; ++t) {
      const narrow words = __builtin_convertvector(b.w[t], narrow);
      if (c + kWide <= cols)
        *reinterpret_cast<narrow *>(out + t * ld + c) = words;
      else
        for (int lane = 0; c + lane < cols; ++lane)
          out[t * ld + c + lane] = words[lane];
    }
  }
}

static void normals(std::uint64_t key, std::uint32_t stream, index first, index groups, index j,
                    index cols, double *out, index ld) {
  for (index g = 0; g < groups; ++g) {
    double *row = out + 4 * g * ld;
    for (index c = 0; c < cols; c += kWide) {
      const WordLanes b =
          philox_lanes(key, stream, static_cast<std::uint64_t>(first + g), lanes_from(j + c));
      for (int half = 0; half < 2; ++half) {
        const Doubles r = square_root(-2.0 * log_lanes(b.w[2 * half]));
        Doubles cosine, sine;
        cos_sin_lanes(b.w[2 * half + 1], cosine, sine);
        put_some(row + 2 * half * ld + c, r * cosine, cols - c);
        put_some(row + (2 * half + 1) * ld + c, r * sine, cols - c);
      }
    }
  }
}

// The same in single precision, twice as many lanes, to a few roundings of float: what would cancel
// (u near 1, angles near a quarter turn) is taken from the integers, where it is exact.

using Words32 = vec<std::uint32_t>;
using Integers = vec<std::int32_t>;
using Floats = vec<float>;
constexpr int kNarrow = LOWLA_VECTOR_BYTES / 4;

LOWLA_INLINE Floats square_root(Floats x) {
#if defined(__AVX512F__) && LOWLA_VECTOR_BYTES == 64
  return (Floats)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__AVX2__) && LOWLA_VECTOR_BYTES == 32
  return (Floats)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__) && LOWLA_VECTOR_BYTES == 16
  return (Floats)_mm_sqrt_ps((__m128)x);
#else
  for (int lane = 0; lane < kNarrow; ++lane)
    x[lane] = __builtin_sqrtf(x[lane]);
  return x;
#endif
}

/// philox::log_uniform
LOWLA_INLINE Floats log_lanes(Words32 w) {
  const Floats v = __builtin_convertvector(w, Floats) + 0.5f;
  const Words32 bits = (Words32)v;
  Floats e = __builtin_convertvector((Integers)(bits >> 23), Floats) - (127.0f + 32.0f);
  Floats m = (Floats)((bits & 0x007fffffu) | 0x3f800000u);
  const auto large = m > 1.41421356f;
  m = large ? m * 0.5f : m;
  e = large ? e + 1.0f : e;
  // From u = sqrt(1/2) on f = u - 1 exactly as the integer has it.
  const auto near_one = w >= 0xB504F334u;
  const Floats below = (__builtin_convertvector(~w, Floats) + 0.5f) * -0x1p-32f;
  const Floats f = near_one ? below : m - 1.0f;
  e = near_one ? Floats{} : e;
  const Floats z = f / (f + 2.0f);
  const Floats s = z * z;
  Floats p = s * (1.0f / 9.0f) + 1.0f / 7.0f;
  p = p * s + 1.0f / 5.0f;
  p = p * s + 1.0f / 3.0f;
  p = p * s + 1.0f;
  return e * 0.69314718f + 2.0f * z * p;
}

/// philox::cos_sin_turn
LOWLA_INLINE void cos_sin_lanes(Words32 w, Floats &c, Floats &s) {
  const Words32 shifted = w + 0x20000000u;
  const Integers offset = (Integers)(shifted & 0x3fffffffu) - 0x20000000;
  const Floats t = (__builtin_convertvector(offset, Floats) + 0.5f) * (0x1p-32f * 6.28318531f);
  const Floats q = t * t;
  Floats ps = q * (1.0f / 362880.0f) - 1.0f / 5040.0f;
  ps = ps * q + 1.0f / 120.0f;
  ps = ps * q - 1.0f / 6.0f;
  const Floats sin_t = t + t * q * ps;
  Floats pc = q * (-1.0f / 3628800.0f) + 1.0f / 40320.0f;
  pc = pc * q - 1.0f / 720.0f;
  pc = pc * q + 1.0f / 24.0f;
  pc = pc * q - 0.5f;
  const Floats cos_t = 1.0f + q * pc;
  const auto odd = (shifted & 0x40000000u) != 0;
  const Words32 c_sign = (shifted + 0x40000000u) & 0x80000000u;
  const Words32 s_sign = shifted & 0x80000000u;
  c = (Floats)((Words32)(odd ? sin_t : cos_t) ^ c_sign);
  s = (Floats)((Words32)(odd ? cos_t : sin_t) ^ s_sign);
}

LOWLA_INLINE void put_some(float *p, Floats x, index count) {
  if (count >= kNarrow) {
    store<float>(p, x);
    return;
  }
  for (index lane = 0; lane < count; ++lane)
    p[lane] = x[lane];
}

static void normals(std::uint64_t key, std::uint32_t stream, index first, index groups, index j,
                    index cols, float *out, index ld) {
  for (index g = 0; g < groups; ++g) {
    float *row = out + 4 * g * ld;
    for (index c = 0; c < cols; c += kNarrow) {
      // Columns j, j + 2, ... and j + 1, j + 3, ...: their words interleave to those of all.
      const Words64 columns = 2 * lanes_from(0) + static_cast<std::uint64_t>(j + c);
      const auto row_counter = static_cast<std::uint64_t>(first + g);
      const WordLanes even = philox_lanes(key, stream, row_counter, columns);
      const WordLanes odd = philox_lanes(key, stream, row_counter, columns + 1);
      Words32 w[4];
      for (int t = 0; t < 4; ++t)
        w[t] = (Words32)(even.w[t] | (odd.w[t] << 32));
      for (int half = 0; half < 2; ++half) {
        const Floats r = square_root(-2.0f * log_lanes(w[2 * half]));
        Floats cosine, sine;
        cos_sin_lanes(w[2 * half + 1], cosine, sine);
        put_some(row + 2 * half * ld + c, r * cosine, cols - c);
        put_some(row + (2 * half + 1) * ld + c, r * sine, cols - c);
      }
    }
  }
}

template <class R>
void signs(std::uint64_t key, std::uint32_t stream, index first, index rows, index j, index cols,
           R *out, index ld) {
  // Columns at a time, so that the words of 128 rows of them stay in cache.
  constexpr index kColumns = 256;
  Words64 words[4 * kColumns / kWide];
  for (index c0 = 0; c0 < cols; c0 += kColumns) {
    const index count = cols - c0 < kColumns ? cols - c0 : kColumns;
    for (index i = first; i < first + rows;) {
      const index begin = i, group = i >> 7;
      const index end = first + rows < 128 * (group + 1) ? first + rows : 128 * (group + 1);
      for (index c = 0; c < count; c += kWide) {
        const WordLanes b =
            philox_lanes(key, stream, static_cast<std::uint64_t>(group), lanes_from(j + c0 + c));
        for (int t = 0; t < 4; ++t)
          words[4 * (c / kWide) + t] = b.w[t];
      }
      for (i = begin; i < end; ++i) {
        const int t = static_cast<int>((i >> 5) & 3), bit = static_cast<int>(i & 31);
        R *row = out + (i - first) * ld + c0;
        for (index c = 0; c < count; c += kWide) {
          const Words64 minus =
              (words[4 * (c / kWide) + t] << (63 - bit)) & (std::uint64_t(1) << 63);
          put_some(row + c, (Doubles)(minus | 0x3ff0000000000000u), count - c);
        }
      }
    }
  }
}

// --- signed sums of rows

/// A table, since a branch on a random sign is mispredicted every other time.
template <class R> constexpr R kSign[2] = {R(1), R(-1)};

constexpr int kGatherVectors = 8; // accumulators; more only lengthen the code

/// One target: NV vectors of every entry; the last vector ends at `tail`, overlapping the one
/// before it, so nothing behind the row is touched.
template <class R, int NV>
LOWLA_INLINE void gather_target(const R *A, index rs, const std::uint32_t *entry,
                                const std::uint32_t *end, R *out, index tail) {
  constexpr index W = kLanes<R>;
  vec<R> acc[NV];
  for (int v = 0; v < NV; ++v)
    acc[v] = load(out + (v + 1 < NV ? v * W : tail));
  for (; entry != end; ++entry) {
    const R *row = A + static_cast<index>(*entry >> 1) * rs;
    const R sign = kSign<R>[*entry & 1u];
    for (int v = 0; v < NV; ++v)
      acc[v] += sign * load(row + (v + 1 < NV ? v * W : tail));
  }
  for (int v = 0; v < NV; ++v)
    store(out + (v + 1 < NV ? v * W : tail), acc[v]);
}

/// All targets, `width` columns of them, NV whole vectors or NV - 1 and a part.
template <class R, int NV>
LOWLA_INLINE void gather_columns(const R *A, index rs, index width, const std::uint32_t *start,
                                 const std::uint32_t *entry, index first, index last, R *out,
                                 index ldo) {
  const index tail = width - kLanes<R>;
  for (index t = first; t < last; ++t)
    gather_target<R, NV>(A, rs, entry + start[t], entry + start[t + 1], out + t * ldo, tail);
}

/// One row of A in registers, added to all its targets.
template <class R, int NV>
LOWLA_INLINE void scatter_columns(const R *A, index rs, index rows, index width,
                                  const std::uint32_t *start, const std::uint32_t *entry, R *out,
                                  index ldo) {
  constexpr index W = kLanes<R>;
  const index tail = width - W;
  for (index r = 0; r < rows; ++r) {
    vec<R> a[NV];
    for (int v = 0; v < NV; ++v)
      a[v] = load(A + r * rs + (v + 1 < NV ? v * W : tail));
    for (std::uint32_t e = start[r]; e < start[r + 1]; ++e) {
      R *target = out + static_cast<index>(entry[e] >> 1) * ldo;
      const R sign = kSign<R>[entry[e] & 1u];
      vec<R> sum[NV];
      for (int v = 0; v < NV; ++v)
        sum[v] = load(target + (v + 1 < NV ? v * W : tail)) + sign * a[v];
      for (int v = 0; v < NV; ++v)
        store(target + (v + 1 < NV ? v * W : tail), sum[v]);
    }
  }
}

/// `nnz` entries a row, `lde` apart. All vectors are loaded before the first is stored, as the last
/// may overlap.
template <class R, int NV>
LOWLA_INLINE void scatter_all_columns(const R *A, index rs, index rows, index width,
                                      const std::uint32_t *entry, index nnz, index lde, R *out,
                                      index ldo, StridedAhead ahead) {
  constexpr index W = kLanes<R>;
  const index tail = width - W;
  for (index r = 0; r < rows; ++r) {
    vec<R> a[NV];
    for (int v = 0; v < NV; ++v)
      a[v] = load(A + r * rs + (v + 1 < NV ? v * W : tail));
    for (index byte = 0; byte < ahead.bytes; byte += 64)
      __builtin_prefetch(
          reinterpret_cast<const void *>(ahead.begin + static_cast<std::uintptr_t>(byte)), 0, 2);
    ahead.begin += static_cast<std::uintptr_t>(ahead.stride);
    for (index b = 0; b < nnz; ++b) {
      const std::uint32_t e = entry[b * lde + r];
      R *target = out + static_cast<index>(e >> 1) * ldo;
      const R sign = kSign<R>[e & 1u];
      vec<R> sum[NV];
      for (int v = 0; v < NV; ++v)
        sum[v] = load(target + (v + 1 < NV ? v * W : tail)) + sign * a[v];
      for (int v = 0; v < NV; ++v)
        store(target + (v + 1 < NV ? v * W : tail), sum[v]);
    }
  }
}

/// CALL(NV, piece) for pieces of `width` columns of at most kGatherVectors vectors; the last two
/// share what is left, so that none is narrower than a vector.
#define LOWLA_FOR_PIECES(CALL)                                                                     \
  while (width > 0) {                                                                              \
    const index vectors = (width + W - 1) / W;                                                     \
    const index piece = vectors <= kGatherVectors      ? width                                     \
                        : vectors < 2 * kGatherVectors ? vectors / 2 * W                           \
                                                       : kGatherVectors * W;                       \
    switch ((piece + W - 1) / W) {                                                                 \
      CALL(1) CALL(2) CALL(3) CALL(4) CALL(5) CALL(6) CALL(7) CALL(8)                              \
    }                                                                                              \
    A += piece;                                                                                    \
    out += piece;                                                                                  \
    width -= piece;                                                                                \
  }

template <class R>
void gather(const R *A, index rs, index width, const std::uint32_t *start,
            const std::uint32_t *entry, index first, index last, R *out, index ldo) {
  constexpr index W = kLanes<R>;
  if (width < W) {
    for (index t = first; t < last; ++t)
      for (std::uint32_t e = start[t]; e < start[t + 1]; ++e)
        for (index c = 0; c < width; ++c)
          out[t * ldo + c] +=
              kSign<R>[entry[e] & 1u] * A[static_cast<index>(entry[e] >> 1) * rs + c];
    return;
  }
#define LOWLA_CALL(NV)                                                                             \
  case NV:                                                                                         \
    gather_columns<R, NV>(A, rs, piece, start, entry, first, last, out, ldo);                      \
    break;
  LOWLA_FOR_PIECES(LOWLA_CALL)
#undef LOWLA_CALL
}

template <class R>
void scatter(const R *A, index rs, index rows, index width, const std::uint32_t *start,
             const std::uint32_t *entry, R *out, index ldo) {
  constexpr index W = kLanes<R>;
  if (width < W) {
    for (index r = 0; r < rows; ++r)
      for (std::uint32_t e = start[r]; e < start[r + 1]; ++e)
        for (index c = 0; c < width; ++c)
          out[static_cast<index>(entry[e] >> 1) * ldo + c] +=
              kSign<R>[entry[e] & 1u] * A[r * rs + c];
    return;
  }
#define LOWLA_CALL(NV)                                                                             \
  case NV:                                                                                         \
    scatter_columns<R, NV>(A, rs, rows, piece, start, entry, out, ldo);                            \
    break;
  LOWLA_FOR_PIECES(LOWLA_CALL)
#undef LOWLA_CALL
}

template <class R>
void scatter_all(const R *A, index rs, index rows, index width, const std::uint32_t *entry,
                 index nnz, index lde, R *out, index ldo, StridedAhead ahead) {
  constexpr index W = kLanes<R>;
  if (width < W) {
    for (index r = 0; r < rows; ++r)
      for (index b = 0; b < nnz; ++b) {
        const std::uint32_t e = entry[b * lde + r];
        for (index c = 0; c < width; ++c)
          out[static_cast<index>(e >> 1) * ldo + c] += kSign<R>[e & 1u] * A[r * rs + c];
      }
    return;
  }
#define LOWLA_CALL(NV)                                                                             \
  case NV:                                                                                         \
    scatter_all_columns<R, NV>(A, rs, rows, piece, entry, nnz, lde, out, ldo, ahead);              \
    break;
  LOWLA_FOR_PIECES(LOWLA_CALL)
#undef LOWLA_CALL
}

// --- Hadamard transform

/// The butterflies of 2^LOG rows `step` apart, one vector.
template <class R, int LOG> LOWLA_INLINE void butterflies(R *x, index step) {
  constexpr int N = 1 << LOG;
  vec<R> a[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
    a[i] = load(x + i * step);
#pragma GCC unroll 4
  for (int h = 1; h < N; h *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
      if ((i & h) == 0) {
        const vec<R> sum = a[i] + a[i + h];
        a[i + h] = a[i] - a[i + h];
        a[i] = sum;
      }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i)
    store(x + i * step, a[i]);
}

/// LOG levels, from distance `stride` rows on.
template <class R, int LOG>
LOWLA_INLINE void hadamard_pass(R *X, index ld, index rows, index width, index stride) {
  for (index base = 0; base < rows; base += stride << LOG)
    for (index i = base; i < base + stride; ++i)
      for (index c = 0; c < width; c += kLanes<R>)
        butterflies<R, LOG>(X + i * ld + c, stride * ld);
}

template <class R> void hadamard(R *X, index ld, index rows, index width) {
  constexpr int kLog = LOWLA_VECTOR_BYTES == 64 ? 4 : 3; // 16 values need the 32 registers
  for (index stride = 1; stride < rows;) {
    const index left = rows / stride;
    if (left >= (1 << kLog)) {
      hadamard_pass<R, kLog>(X, ld, rows, width, stride);
      stride <<= kLog;
    } else if (left >= 8) {
      hadamard_pass<R, 3>(X, ld, rows, width, stride);
      stride <<= 3;
    } else if (left >= 4) {
      hadamard_pass<R, 2>(X, ld, rows, width, stride);
      stride <<= 2;
    } else {
      hadamard_pass<R, 1>(X, ld, rows, width, stride);
      stride <<= 1;
    }
  }
}

extern const SketchKernels<float> kSketchFloat;
extern const SketchKernels<double> kSketchDouble;
const SketchKernels<float> kSketchFloat{normals,        signs<float>,       gather<float>,
                                        scatter<float>, scatter_all<float>, hadamard<float>};
const SketchKernels<double> kSketchDouble{normals,         signs<double>,       gather<double>,
                                          scatter<double>, scatter_all<double>, hadamard<double>};

} // namespace lowla::simd::LOWLA_SIMD_NAMESPACE
