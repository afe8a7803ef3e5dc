// Ridge regressions on few rows of a factor (core/simd_tiles.hpp); included once per
// instruction set after simd_stored.inl.

#include "lowla/core/simd_tiles.hpp"

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

/// Entries whose rows of the factor are on their way from memory.
constexpr index kEntriesAhead = 16;

template <class S, bool kWeighted, bool kOffset>
LOWLA_INLINE void gather_rows(const double *V, index ld, const double *offset, index k,
                              const std::int32_t *rows, const S *values, const double *weights,
                              index count, index follow, double *tile, index ldt) {
  constexpr index W = kDoubles;
  for (index e = 0; e < count; ++e) {
    if (e + kEntriesAhead < count + follow) {
      const double *next = V + rows[e + kEntriesAhead] * ld;
      for (index j = 0; j < ld; j += kLineBytes / 8)
        __builtin_prefetch(next + j);
    }
    const double *v = V + rows[e] * ld;
    double *t = tile + e * ldt;
    const double root = kWeighted ? __builtin_sqrt(weights[e]) : 1.0;
    index j = 0;
    for (; j < ld; j += W)
      store(t + j, kWeighted ? load(v + j) * root : load(v + j));
    for (; j < ldt; j += W)
      store(t + j, vec<double>{});
    const double value = static_cast<double>(values[e]) - (kOffset ? offset[rows[e]] : 0.0);
    t[k] = kWeighted ? value * root : value;
  }
}

template <class S>
void gather_tile(const double *V, index ld, const double *offset, index k, const std::int32_t *rows,
                 const S *values, const double *weights, index count, index follow, double *tile,
                 index ldt) {
  if (weights != nullptr && offset != nullptr)
    gather_rows<S, true, true>(V, ld, offset, k, rows, values, weights, count, follow, tile, ldt);
  else if (weights != nullptr)
    gather_rows<S, true, false>(V, ld, offset, k, rows, values, weights, count, follow, tile, ldt);
  else if (offset != nullptr)
    gather_rows<S, false, true>(V, ld, offset, k, rows, values, weights, count, follow, tile, ldt);
  else
    gather_rows<S, false, false>(V, ld, offset, k, rows, values, weights, count, follow, tile, ldt);
}

constexpr int kGramRows = LOWLA_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int kGramUnits = LOWLA_VECTOR_BYTES == 64 ? 3 : 1;

/// Rows p.. p + MR of the lower triangle of G += T^T T.
template <int MR, int NU>
LOWLA_INLINE void gram_rows(const double *T, index ldt, index count, index p, double *G) {
  constexpr index U = panel_unit<double>;
  const index width = (p + MR + U - 1) / U * U;
  index j = 0;
  for (; j + NU * U <= width; j += NU * U)
    tile<double, Walk::kDown, MR, NU>(T + p, ldt, count, T + j, ldt, G + p * ldt + j, ldt, true,
                                      nullptr);
  if constexpr (NU > 1)
    if (j + 2 * U <= width) {
      tile<double, Walk::kDown, MR, 2>(T + p, ldt, count, T + j, ldt, G + p * ldt + j, ldt, true,
                                       nullptr);
      j += 2 * U;
    }
  if (j < width)
    tile<double, Walk::kDown, MR, 1>(T + p, ldt, count, T + j, ldt, G + p * ldt + j, ldt, true,
                                     nullptr);
}

template <int MR>
LOWLA_INLINE void gram_tail(const double *T, index ldt, index count, index p, index rows,
                            double *G) {
  if (rows == MR)
    gram_rows<MR, kGramUnits>(T, ldt, count, p, G);
  else if constexpr (MR > 1)
    gram_tail<MR - 1>(T, ldt, count, p, rows, G);
}

inline void gram(const double *T, index ldt, index count, index q, double *G) {
  index p = 0;
  for (; p + kGramRows <= q; p += kGramRows)
    gram_rows<kGramRows, kGramUnits>(T, ldt, count, p, G);
  if constexpr (kGramRows > 1)
    gram_tail<kGramRows - 1>(T, ldt, count, p, q - p, G);
}

/// y = T x for the rows e .. e + MR - 1, where MR is as many as row_dots takes, or one.
inline double product(const double *T, index ldt, index count, const double *x, double *y) {
  constexpr index MR = kDotRows<double>;
  index e = 0;
  for (; e + MR <= count; e += MR)
    row_dots<double>(T + e * ldt, ldt, ldt, x, y + e, 1, nullptr);
  for (; e < count; ++e)
    y[e] = row_dot<double>(T + e * ldt, ldt, x);
  double squares = 0;
  for (e = 0; e < count; ++e)
    squares += y[e] * y[e];
  return squares;
}

/// out += sum_r y_r T(r, :) for MR rows, and diagonal += sum_r T(r, :)^2 where wanted.
template <int MR, bool kDiagonal>
LOWLA_INLINE void add_tile_rows(const double *T, index ldt, const double *y, double *out,
                                double *diagonal) {
  for (index j = 0; j < ldt; j += kDoubles) {
    vec<double> sum = load(out + j), squares = kDiagonal ? load(diagonal + j) : sum;
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const vec<double> t = load(T + r * ldt + j);
      sum += y[r] * t;
      if constexpr (kDiagonal)
        squares += t * t;
    }
    store(out + j, sum);
    if constexpr (kDiagonal)
      store(diagonal + j, squares);
  }
}

template <bool kDiagonal>
LOWLA_INLINE double apply_rows(const double *T, index ldt, index count, const double *x,
                               double *out, double *diagonal) {
  constexpr index MR = kDotRows<double>;
  double squares = 0;
  double y[MR];
  for (index e = 0; e < count; e += MR) {
    const index rows = count - e < MR ? count - e : MR;
    squares += product(T + e * ldt, ldt, rows, x, y);
    if (rows == MR)
      add_tile_rows<MR, kDiagonal>(T + e * ldt, ldt, y, out, diagonal);
    else
      for (index r = 0; r < rows; ++r)
        add_tile_rows<1, kDiagonal>(T + (e + r) * ldt, ldt, y + r, out, diagonal);
  }
  return squares;
}

inline double apply(const double *T, index ldt, index count, const double *x, double *out,
                    double *diagonal) {
  return diagonal == nullptr ? apply_rows<false>(T, ldt, count, x, out, nullptr)
                             : apply_rows<true>(T, ldt, count, x, out, diagonal);
}

/// Factors L D L^T of kSystems symmetric systems, one a lane of `Lanes`: the lower triangles by
/// rows, row p at p (p + 1) / 2.
typedef double Lanes __attribute__((vector_size(8 * kSystems), may_alias));
LOWLA_INLINE Lanes *packed_row(Lanes *A, index p) { return A + p * (p + 1) / 2; }

/// L D L^T in place, 1 / D on the diagonal (0 for a pivot <= 0).
LOWLA_INLINE void factor(Lanes *A, index k) {
  for (index p = 0; p < k; ++p) {
    const Lanes d = packed_row(A, p)[p];
    const Lanes inverse = d > Lanes{} ? 1.0 / d : Lanes{};
    packed_row(A, p)[p] = inverse;
    for (index i = p + 1; i < k; ++i) {
      Lanes *a = packed_row(A, i);
      const Lanes l = a[p] * inverse;
      for (index j = p + 1; j <= i; ++j)
        a[j] -= l * packed_row(A, j)[p];
    }
    for (index i = p + 1; i < k; ++i)
      packed_row(A, i)[p] *= inverse;
  }
}

/// x = (L D L^T)^-1 x
LOWLA_INLINE void substitute(const Lanes *factors, index k, Lanes *x) {
  Lanes *A = const_cast<Lanes *>(factors);
  for (index p = 1; p < k; ++p) {
    Lanes sum = x[p];
    for (index j = 0; j < p; ++j)
      sum -= packed_row(A, p)[j] * x[j];
    x[p] = sum;
  }
  for (index p = k - 1; p >= 0; --p) {
    Lanes sum = x[p] * packed_row(A, p)[p];
    for (index i = p + 1; i < k; ++i)
      sum -= packed_row(A, i)[p] * x[i];
    x[p] = sum;
  }
}

inline void solve(const double *G, index stride, index ldt, index k, double ridge, double floor,
                  double *work, double *X) {
  Lanes *A = reinterpret_cast<Lanes *>(work);
  for (index s = 0; s < kSystems; ++s) {
    const double *g = G + s * stride;
    double *a = work + s;
    for (index p = 0; p <= k; ++p, g += ldt)
      for (index j = 0; j <= p; ++j, a += kSystems)
        *a = g[j];
  }
  Lanes *h = packed_row(A, k), *x = h + k + 1, *more = x + k;
  Lanes added{};
  for (index p = 0; p < k; ++p)
    added += packed_row(A, p)[p];
  added *= floor;
  for (index p = 0; p < k; ++p) {
    packed_row(A, p)[p] += added + ridge;
    x[p] = h[p];
  }
  factor(A, k);
  substitute(A, k, x);
  for (index p = 0; p < k; ++p)
    more[p] = added * x[p];
  substitute(A, k, more);
  Lanes squares = h[k];
  for (index p = 0; p < k; ++p) {
    x[p] += more[p];
    squares -= x[p] * (h[p] + ridge * x[p]);
  }
  for (index s = 0; s < kSystems; ++s) {
    for (index p = 0; p < k; ++p)
      X[s * (k + 1) + p] = x[p][s];
    X[s * (k + 1) + k] = squares[s];
  }
}

#define LOWLA_FACTOR_TABLE(NAME, S)                                                                \
  extern const FactorKernels<S> NAME;                                                              \
  const FactorKernels<S> NAME{gather_tile<S>};
LOWLA_FACTOR_TABLE(kFactorFloat, float)
LOWLA_FACTOR_TABLE(kFactorDouble, double)
#undef LOWLA_FACTOR_TABLE
extern const TileKernels kTiles;
const TileKernels kTiles{gram, apply, product, solve};

} // namespace lowla::simd::LOWLA_SIMD_NAMESPACE
