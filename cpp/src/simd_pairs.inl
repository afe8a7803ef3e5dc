// Products with panels of 16 columns of single precision, where one vector is one row of a panel.
//
// As simd_kernels.inl has them, every multiply-add there needs the load of an entry of A, and loads
// limit. Here a broadcast of 64 bits takes two entries side by side, A(i, k) and A(i, k + 1), for
// two vectors of 8 columns each: half the loads.
//
// A panel X "in pairs" holds its rows k, k + 1 (k even) as 32 numbers, X(k, c) at 2 c and
// X(k + 1, c) at 2 c + 1; a panel Y "twice" holds each of its numbers twice.

#if LOWLA_VECTOR_BYTES != 64
#error "two vectors of 16 numbers make a row of a pair"
#endif

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

constexpr int kPairTile = 12; ///< rows, or pairs of columns, of a tile
constexpr index kPairRow = 32;

using Pairs = vec<float>;
using Spots = PlacesOf<float>::type;

LOWLA_INLINE Pairs pair_at(const float *p) {
  typedef double loose __attribute__((aligned(4), may_alias));
  const double d = *reinterpret_cast<const loose *>(p);
  return (Pairs)vec<double>{d, d, d, d, d, d, d, d};
}

/// Every second number of a and then of b, from the first on or from the second on.
LOWLA_INLINE Pairs even_of(Pairs a, Pairs b) {
  return __builtin_shuffle(a, b, Spots{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30});
}
LOWLA_INLINE Pairs odd_of(Pairs a, Pairs b) {
  return __builtin_shuffle(a, b, Spots{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31});
}
/// a and b by turns: the first 8 of each, and the last.
LOWLA_INLINE Pairs low_turns(Pairs a, Pairs b) {
  return __builtin_shuffle(a, b, Spots{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
}
LOWLA_INLINE Pairs high_turns(Pairs a, Pairs b) {
  return __builtin_shuffle(a, b,
                           Spots{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31});
}

static void join_rows(const float *X, index n, float *out) {
  for (index k = 0; k < n; k += 2) {
    const Pairs a = load(X + 16 * k), b = load(X + 16 * k + 16);
    store(out + 16 * k, low_turns(a, b));
    store(out + 16 * k + 16, high_turns(a, b));
  }
}

static void part_rows(float *Z, index n) {
  for (index k = 0; k < n; k += 2) {
    const Pairs a = load(Z + 16 * k), b = load(Z + 16 * k + 16);
    store(Z + 16 * k, even_of(a, b));
    store(Z + 16 * k + 16, odd_of(a, b));
  }
}

/// MR rows of A X.
template <int MR>
LOWLA_INLINE void pairs_along(const float *A, index rs, index n, const float *X, float *Y,
                              float *twice, const char *ahead) {
  constexpr index kFetch = (MR * kSteps * 4 + 127) / 128 * kLineBytes; // half of what is read
  Pairs acc[MR][2] = {};
  const auto step = [&](index k) __attribute__((always_inline)) {
    const Pairs b[2] = {load(X + 16 * k), load(X + 16 * k + 16)};
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      const Pairs a = pair_at(A + r * rs + k);
      for (int v = 0; v < 2; ++v)
        acc[r][v] += a * b[v];
    }
  };
  index k = 0;
  for (; k + kSteps <= n; k += kSteps) {
    fetch<kFetch>(ahead);
    step(k);
    step(k + 2);
  }
  if (k < n)
    step(k);
  for (int r = 0; r < MR; ++r) {
    const Pairs y = even_of(acc[r][0], acc[r][1]) + odd_of(acc[r][0], acc[r][1]);
    store(Y + 16 * r, y);
    store(twice + kPairRow * r, low_turns(y, y));
    store(twice + kPairRow * r + 16, high_turns(y, y));
  }
}

static void pairs_multiply(const float *A, index rs, index m, index n, const float *X, float *Y,
                           float *twice, Ahead ahead) {
  const char *start = ahead.bytes > 0 ? static_cast<const char *>(ahead.at) : nullptr;
  const index per_row = m > 0 ? ahead.bytes / m : 0;
  index i = 0;
  for (; i + kPairTile <= m; i += kPairTile)
    pairs_along<kPairTile>(A + i * rs, rs, n, X, Y + 16 * i, twice + kPairRow * i,
                           start != nullptr ? start + i * per_row : nullptr);
  for (; i < m; ++i)
    pairs_along<1>(A + i * rs, rs, n, X, Y + 16 * i, twice + kPairRow * i, nullptr);
}

/// MP pairs of rows of A^T Y.
template <int MP>
LOWLA_INLINE void pairs_down(const float *A, index rs, index m, const float *twice, float *Z,
                             bool accumulate, const char *ahead) {
  constexpr index kFetch = (2 * MP * kSteps * 4 + 127) / 128 * kLineBytes;
  Pairs acc[MP][2];
  for (int r = 0; r < MP; ++r)
    for (int v = 0; v < 2; ++v)
      acc[r][v] = accumulate ? load(Z + kPairRow * r + 16 * v) : Pairs{};
  const auto step = [&](index i) __attribute__((always_inline)) {
    const Pairs b[2] = {load(twice + kPairRow * i), load(twice + kPairRow * i + 16)};
#pragma GCC unroll 12
    for (int r = 0; r < MP; ++r) {
      const Pairs a = pair_at(A + i * rs + 2 * r);
      for (int v = 0; v < 2; ++v)
        acc[r][v] += a * b[v];
    }
  };
  index i = 0;
  for (; i + kSteps <= m; i += kSteps) {
    fetch<kFetch>(ahead);
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s)
      step(i + s);
  }
  for (; i < m; ++i)
    step(i);
  for (int r = 0; r < MP; ++r)
    for (int v = 0; v < 2; ++v)
      store(Z + kPairRow * r + 16 * v, acc[r][v]);
}

static void pairs_multiply_transposed(const float *A, index rs, index m, index p,
                                      const float *twice, float *Z, bool accumulate, Ahead ahead) {
  const char *start = ahead.bytes > 0 ? static_cast<const char *>(ahead.at) : nullptr;
  const index per_column = p > 0 ? ahead.bytes / p : 0;
  index j = 0;
  for (; j + 2 * kPairTile <= p; j += 2 * kPairTile)
    pairs_down<kPairTile>(A + j, rs, m, twice, Z + 16 * j, accumulate,
                          start != nullptr ? start + j * per_column : nullptr);
  for (; j + 8 <= p; j += 8)
    pairs_down<4>(A + j, rs, m, twice, Z + 16 * j, accumulate, nullptr);
  for (; j < p; j += 2)
    pairs_down<1>(A + j, rs, m, twice, Z + 16 * j, accumulate, nullptr);
}

extern const PairKernels kPairs;
const PairKernels kPairs{join_rows, part_rows, pairs_multiply, pairs_multiply_transposed};

} // namespace lowla::simd::LOWLA_SIMD_NAMESPACE
