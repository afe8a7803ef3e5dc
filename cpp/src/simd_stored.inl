// Passes over rows of stored numbers, and the Gram matrix of rows, in double precision; included
// once per instruction set after simd_kernels.inl.
//
// A pass reads every row once, kStoredRows of them side by side: so many streams, each brought near
// kStoredAhead bytes before it is used, read memory at the rate of plain reading (one row after the
// other takes 1.8 times as long).

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

constexpr index kStoredRows = 8;
constexpr index kStoredAhead = 1024;
constexpr index kDoubles = kLanes<double>;

// --- a vector of doubles from stored numbers ---

/// 32-bit integers, as many as a vector has doubles.
typedef std::uint32_t Words __attribute__((vector_size(LOWLA_VECTOR_BYTES / 2)));
typedef std::uint16_t Halves
    __attribute__((vector_size(LOWLA_VECTOR_BYTES / 4), aligned(2), may_alias));

LOWLA_INLINE vec<double> from_bits(Words bits) {
  return widened_lanes((typename Narrow<float>::type)bits);
}
LOWLA_INLINE vec<double> wide(const BFloat16 *p) {
  return from_bits(__builtin_convertvector(*reinterpret_cast<const Halves *>(p), Words) << 16);
}
LOWLA_INLINE vec<double> wide(const Float16 *p) {
#if defined(__F16C__) && LOWLA_VECTOR_BYTES == 64
  return __builtin_convertvector(
      _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))), vec<double>);
#elif defined(__F16C__)
  return __builtin_convertvector(
      _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))), vec<double>);
#else
  vec<double> out;
  for (index i = 0; i < kDoubles; ++i)
    out[i] = widened(p[i]);
  return out;
#endif
}

LOWLA_INLINE void near(const void *p) { __builtin_prefetch(p, 0, 2); }

template <class S> void widen(const S *A, index rs, index m, index n, double *out, index ld) {
  constexpr index kLine = kLineBytes / static_cast<index>(sizeof(S));
  for (index r = 0; r < m; ++r) {
    const S *a = A + r * rs;
    double *o = out + r * ld;
    index k = 0;
    for (; k + kLine <= n; k += kLine) {
      if (r + 1 < m) // rows lie far apart: no hardware foresees the next one
        __builtin_prefetch(a + rs + k);
#pragma GCC unroll 8
      for (index j = 0; j < kLine; j += kDoubles)
        store(o + k + j, wide(a + k + j));
    }
    for (; k < n; ++k)
      o[k] = widened(a[k]);
  }
}

// --- passes ---

/// Where the numbers k.. of the row r will be wanted: the same row further on or, at its end, the
/// row that is read after it.
template <class S, index MR>
LOWLA_INLINE void near_row(const S *A, index rs, index rows_left, index n, index r, index k) {
  constexpr index kAhead = kStoredAhead / static_cast<index>(sizeof(S));
  if (k + kAhead < n)
    __builtin_prefetch(A + r * rs + k + kAhead);
  else if (rows_left >= 2 * MR)
    __builtin_prefetch(A + (r + MR) * rs + k + kAhead - n);
}

template <class S, index MR>
LOWLA_INLINE void stored_dots(const S *A, index rs, index rows_left, index n, const double *x,
                              double *y) {
  constexpr index kLine = kLineBytes / static_cast<index>(sizeof(S));
  vec<double> sum[MR] = {};
  index k = 0;
  for (; k + kLine <= n; k += kLine) {
#pragma GCC unroll 8
    for (index r = 0; r < MR; ++r) {
      near_row<S, MR>(A, rs, rows_left, n, r, k);
      for (index j = 0; j < kLine; j += kDoubles)
        sum[r] += wide(A + r * rs + k + j) * load(x + k + j);
    }
  }
  for (index r = 0; r < MR; ++r) {
    double total = lane_sum<double>(sum[r]);
    for (index j = k; j < n; ++j)
      total += widened(A[r * rs + j]) * x[j];
    y[r] += total;
  }
}

template <class S> void dots(const S *A, index rs, index m, index n, const double *x, double *y) {
  index i = 0;
  for (; i + kStoredRows <= m; i += kStoredRows)
    stored_dots<S, kStoredRows>(A + i * rs, rs, m - i, n, x, y + i);
  for (; i < m; ++i)
    stored_dots<S, 1>(A + i * rs, rs, m - i, n, x, y + i);
}

template <class S, index MR>
LOWLA_INLINE void stored_combine(const S *A, index rs, index rows_left, index n, const double *y,
                                 double *z) {
  constexpr index kLine = kLineBytes / static_cast<index>(sizeof(S));
  index k = 0;
  for (; k + kLine <= n; k += kLine) {
    vec<double> sum[kLine / kDoubles];
    for (index j = 0; j < kLine / kDoubles; ++j)
      sum[j] = load(z + k + j * kDoubles);
#pragma GCC unroll 8
    for (index r = 0; r < MR; ++r) {
      near_row<S, MR>(A, rs, rows_left, n, r, k);
      for (index j = 0; j < kLine / kDoubles; ++j)
        sum[j] += y[r] * wide(A + r * rs + k + j * kDoubles);
    }
    for (index j = 0; j < kLine / kDoubles; ++j)
      store(z + k + j * kDoubles, sum[j]);
  }
  for (; k < n; ++k)
    for (index r = 0; r < MR; ++r)
      z[k] += y[r] * widened(A[r * rs + k]);
}

template <class S>
void combine(const S *A, index rs, index m, index n, const double *y, double *z) {
  index i = 0;
  for (; i + kStoredRows <= m; i += kStoredRows)
    stored_combine<S, kStoredRows>(A + i * rs, rs, m - i, n, y + i, z);
  for (; i < m; ++i)
    stored_combine<S, 1>(A + i * rs, rs, m - i, n, y + i, z);
}

// --- passes for several vectors, and the tiles of a Gram matrix ---

/// A tile: kGramI times kGramJ sums, kGramI vectors of rows and one more, in registers.
constexpr int kGramI = 3;
constexpr int kGramJ = LOWLA_VECTOR_BYTES == 64 ? 8 : 4;
static_assert(GramKernels::kRows % kGramI == 0 && GramKernels::kRows % kGramJ == 0);

/// Keeps compilers from loading v anew for each of its uses.
LOWLA_INLINE void in_register(vec<double> &v) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(v));
#elif defined(__SSE2__)
  __asm__("" : "+x"(v));
#else
  (void)v;
#endif
}

/// to[v] += the sum of the lanes of sum[v], v < kGramJ.
LOWLA_INLINE void add_lane_sums(const vec<double> (&sum)[kGramJ], double *to) {
  constexpr int W = static_cast<int>(kDoubles);
#pragma GCC unroll 4
  for (int first = 0; first < kGramJ; first += W) {
    vec<double> s[W];
#pragma GCC unroll 8
    for (int v = 0; v < W; v += 2)
      s[v / 2] = joined<1, double>(sum[first + v], sum[first + v + 1]);
    if constexpr (W >= 4) {
#pragma GCC unroll 8
      for (int v = 0; v < W / 2; v += 2)
        s[v / 2] = joined<2, double>(s[v], s[v + 1]);
    }
    if constexpr (W >= 8)
      s[0] = joined<4, double>(s[0], s[1]);
    store(to + first, load(to + first) + s[0]);
  }
}

static_assert(StoredKernels<float>::kVectors % kGramJ == 0);

/// MR rows and NJ vectors of R += A X^T; a line of A from `next` on, if any, is fetched for every
/// `share` that are read.
template <class S, int MR, int NJ = kGramJ>
LOWLA_INLINE void dots_tile(const S *A, index rs, index n, const double *X, index ldx, double *R,
                            index ldr, const S *next, index share) {
  constexpr index kLine = kLineBytes / static_cast<index>(sizeof(S));
  vec<double> sum[MR][kGramJ] = {};
  const auto step = [&](index k) __attribute__((always_inline)) {
    vec<double> a[MR];
    for (int i = 0; i < MR; ++i)
      a[i] = wide(A + i * rs + k);
#pragma GCC unroll 8
    for (int j = 0; j < NJ; ++j) {
      vec<double> x = load(X + j * ldx + k);
      in_register(x);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i)
        sum[i][j] += a[i] * x;
    }
  };
  index k = 0;
  for (; k + kLine <= n; k += kLine) {
    if (next != nullptr)
      for (int i = 0; i < MR; ++i) {
        near(next + i * rs + k / share);
        __builtin_prefetch(A + (MR + i) * rs + k);
      }
    for (index l = 0; l < kLine; l += kDoubles)
      step(k + l);
  }
  for (; k + kDoubles <= n; k += kDoubles)
    step(k);
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NJ; ++j)
      for (index l = k; l < n; ++l)
        R[i * ldr + j] += widened(A[i * rs + l]) * X[j * ldx + l];
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
    add_lane_sums(sum[i], R + i * ldr);
}

template <class S>
void many_dots(const S *A, index rs, index m, index n, const double *X, index ldx, index width,
               double *R, index ldr, const S *next) {
  const index share = width / kGramJ, columns = n / share;
  for (index c = 0; c < width; c += kGramJ) {
    const S *soon = next == nullptr ? nullptr : next + c / kGramJ * columns;
    index i = 0;
    for (; i + kGramI <= m; i += kGramI)
      dots_tile<S, kGramI>(A + i * rs, rs, n, X + c * ldx, ldx, R + i * ldr + c, ldr,
                           soon == nullptr ? soon : soon + i * rs, share);
    for (; i < m; ++i)
      dots_tile<S, 1>(A + i * rs, rs, n, X + c * ldx, ldx, R + i * ldr + c, ldr, nullptr, share);
  }
}

/// NV vectors of columns and kGramJ vectors of Z += C^T A.
template <class S, int NV>
LOWLA_INLINE void combine_tile(const S *A, index rs, index m, const double *C, index ldc, double *Z,
                               index ldz, const S *next) {
  vec<double> sum[kGramJ][NV];
#pragma GCC unroll 8
  for (int c = 0; c < kGramJ; ++c)
    for (int v = 0; v < NV; ++v)
      sum[c][v] = load(Z + c * ldz + v * kDoubles);
  for (index r = 0; r < m; ++r) {
    if (next != nullptr)
      near(next + r * rs);
    __builtin_prefetch(A + r * rs + 2 * NV * kDoubles);
    vec<double> a[NV];
    for (int v = 0; v < NV; ++v)
      a[v] = wide(A + r * rs + v * kDoubles);
#pragma GCC unroll 8
    for (int c = 0; c < kGramJ; ++c) {
      vec<double> factor = C[r * ldc + c] - vec<double>{}; // + would be an addition: -0 + 0 is 0
      in_register(factor);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v)
        sum[c][v] += factor * a[v];
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < kGramJ; ++c)
    for (int v = 0; v < NV; ++v)
      store(Z + c * ldz + v * kDoubles, sum[c][v]);
}

template <class S>
void many_combine(const S *A, index rs, index m, index n, const double *C, index ldc, index width,
                  double *Z, index ldz, const S *next) {
  constexpr index kWide = kGramI * kDoubles;
  const index share = width / kGramJ, columns = n / share;
  for (index c = 0; c < width; c += kGramJ) {
    const S *soon = next == nullptr ? nullptr : next + c / kGramJ * columns;
    index k = 0;
    for (; k + kWide <= n; k += kWide)
      combine_tile<S, kGramI>(A + k, rs, m, C + c, ldc, Z + c * ldz + k, ldz,
                              soon == nullptr ? soon : soon + k / share);
    for (; k + kDoubles <= n; k += kDoubles)
      combine_tile<S, 1>(A + k, rs, m, C + c, ldc, Z + c * ldz + k, ldz, nullptr);
    for (; k < n; ++k)
      for (index r = 0; r < m; ++r)
        for (int j = 0; j < kGramJ; ++j)
          Z[(c + j) * ldz + k] += C[r * ldc + c + j] * widened(A[r * rs + k]);
  }
}

// --- the Gram matrix of rows ---

/// Rows whose tiles stay in the second-level cache while the others pass by.
constexpr index kGramBlock = 96;

/// f(i, j) for the tiles of the rows first .. last - 1 that reach the lower triangle.
template <class F> LOWLA_INLINE void for_gram_tiles(index first, index last, F &&f) {
  for (index block = first; block < last; block += kGramBlock) {
    const index end = block + kGramBlock < last ? block + kGramBlock : last;
    for (index j = 0; j < end; j += kGramJ) {
      const index begin = j <= block ? block : block + (j - block) / kGramI * kGramI;
      for (index i = begin; i < end; i += kGramI)
        f(i, j);
    }
  }
}

/// Fetches memory by rows, line by line.
struct LinesAhead {
  RowsAhead what;
  index row = 0, at = 0;

  LOWLA_INLINE void fetch(index lines) {
    for (; lines > 0 && row < what.count; --lines) {
      near(what.rows[row] + at);
      at += kLineBytes;
      if (at >= what.bytes) {
        at = 0;
        ++row;
      }
    }
  }
};

inline void gram_lower(const double *P, index ld, index depth, index first, index last, double *K,
                       index ldk, RowsAhead ahead) {
  index tiles = 0;
  for_gram_tiles(first, last, [&](index, index) { ++tiles; });
  const index lines = ahead.count * ((ahead.bytes + kLineBytes - 1) / kLineBytes);
  const index per_tile = tiles > 0 ? (lines + tiles - 1) / tiles : 0;
  LinesAhead next{ahead};
  for_gram_tiles(first, last, [&](index i, index j) __attribute__((always_inline)) {
    next.fetch(per_tile);
    double *to = K + i * ldk + j;
    for (int r = 0; r < kGramI; ++r) // K of many rows is not in cache
      __builtin_prefetch(to + r * ldk, 1, 2);
    const double *p = P + i * ld, *q = P + j * ld;
    if (i + kGramI <= j + kGramJ / 2) // on the diagonal: half of the columns are above it
      dots_tile<double, kGramI, kGramJ / 2>(p, ld, depth, q, ld, to, ldk, nullptr, 1);
    else
      dots_tile<double, kGramI>(p, ld, depth, q, ld, to, ldk, nullptr, 1);
  });
}

// --- tables ---

#define LOWLA_STORED_TABLE(NAME, S)                                                                \
  extern const StoredKernels<S> NAME;                                                              \
  const StoredKernels<S> NAME{widen<S>, dots<S>, combine<S>, many_dots<S>, many_combine<S>};
LOWLA_STORED_TABLE(kStoredFloat, float)
LOWLA_STORED_TABLE(kStoredDouble, double)
LOWLA_STORED_TABLE(kStoredFloat16, Float16)
LOWLA_STORED_TABLE(kStoredBFloat16, BFloat16)
#undef LOWLA_STORED_TABLE

extern const GramKernels kGram;
const GramKernels kGram{gram_lower};

} // namespace lowla::simd::LOWLA_SIMD_NAMESPACE
