// Ridge regressions on few rows of a factor (core/simd_tiles.hpp); included once per
// instruction set after simd_stored.inl.

#include "lowla/core/clones.hpp"
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

/// kDoubles symmetric systems, one a lane of `Lanes`: the lower triangles by rows, row p at
/// p (p + 1) / 2.
using Lanes = vec<double>;
static_assert(kSystems % kDoubles == 0);
LOWLA_INLINE Lanes *packed_row(Lanes *A, index p) { return A + p * (p + 1) / 2; }

/// Rows and columns of a block of triangles that is kept in registers.
constexpr int kBlockSide = LOWLA_VECTOR_BYTES == 64 ? 4 : 3;

/// MR rows from i on of NC columns from c on: less what the c columns before contribute, whose
/// rows c.. times the inverse pivots are W (by rows of c). On the diagonal (MR = NC, i = c)
/// factored, with unit[t][j] for the columns as W for those before; else by these columns, in turn.
template <int MR, int NC, bool kDiagonal>
LOWLA_INLINE void eliminate(Lanes *A, index i, index c, const Lanes *W, Lanes (&unit)[NC][NC]) {
  Lanes sums[MR][NC];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j)
      sums[r][j] = !kDiagonal || j <= r ? packed_row(A, i + r)[c + j] : Lanes{};
  for (index q = 0; q < c; ++q) {
    Lanes w[NC];
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j)
      w[j] = W[j * c + q];
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
      const Lanes a = packed_row(A, i + r)[q];
#pragma GCC unroll 4
      for (int j = 0; j < NC; ++j)
        sums[r][j] -= a * w[j];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < NC; ++j) {
    Lanes inverse{};
    if constexpr (kDiagonal) {
      inverse = sums[j][j] > Lanes{} ? 1.0 / sums[j][j] : Lanes{};
#pragma GCC unroll 4
      for (int t = j + 1; t < NC; ++t)
        unit[t][j] = sums[t][j] * inverse;
    }
#pragma GCC unroll 4
    for (int r = kDiagonal ? j : 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int t = j + 1; t < NC; ++t)
        sums[r][t] -= sums[r][j] * unit[t][j];
      packed_row(A, i + r)[c + j] = kDiagonal && r == j ? inverse : sums[r][j];
    }
  }
}

/// L D L^T of order k in place: L D below the diagonal, 1 / D on it (0 for a pivot <= 0). W holds
/// kBlockSide k numbers.
template <int NC> LOWLA_INLINE void factor_columns(Lanes *A, index k, index c, Lanes *W) {
  for (int j = 0; j < NC; ++j)
    for (index q = 0; q < c; ++q)
      W[j * c + q] = packed_row(A, c + j)[q] * packed_row(A, q)[q];
  Lanes unit[NC][NC];
  eliminate<NC, NC, true>(A, c, c, W, unit);
  index i = c + NC;
  for (; i + kBlockSide <= k; i += kBlockSide)
    eliminate<kBlockSide, NC, false>(A, i, c, W, unit);
  for (; i < k; ++i)
    eliminate<1, NC, false>(A, i, c, W, unit);
}

LOWLA_INLINE void factor(Lanes *A, index k, Lanes *W) {
  index c = 0;
  for (; c + kBlockSide <= k; c += kBlockSide)
    factor_columns<kBlockSide>(A, k, c, W);
  for (; c < k; ++c)
    factor_columns<1>(A, k, c, W);
}

/// x <- (L D L^T)^-1 x
LOWLA_INLINE void substitute(Lanes *A, index k, Lanes *x) {
  index p = 0;
  for (; p + 4 <= k; p += 4) { // four columns at a time
    Lanes y[4];
    for (index j = 0; j < 4; ++j) {
      y[j] = x[p + j];
      for (index q = 0; q < j; ++q)
        y[j] -= packed_row(A, p + j)[p + q] * y[q];
      x[p + j] = y[j];
      y[j] *= packed_row(A, p + j)[p + j];
    }
    for (index i = p + 4; i < k; ++i) {
      const Lanes *a = packed_row(A, i) + p;
      x[i] -= (a[0] * y[0] + a[1] * y[1]) + (a[2] * y[2] + a[3] * y[3]);
    }
  }
  for (; p < k; ++p) {
    const Lanes y = x[p] * packed_row(A, p)[p];
    for (index i = p + 1; i < k; ++i)
      x[i] -= packed_row(A, i)[p] * y;
  }
  p = k;
  for (; p >= 4; p -= 4) { // four rows
    const Lanes *a[4] = {packed_row(A, p - 4), packed_row(A, p - 3), packed_row(A, p - 2),
                         packed_row(A, p - 1)};
    Lanes y[4];
    for (index j = 3; j >= 0; --j) {
      y[j] = x[p - 4 + j];
      for (index q = j + 1; q < 4; ++q)
        y[j] -= a[q][p - 4 + j] * y[q];
      y[j] *= a[j][p - 4 + j];
      x[p - 4 + j] = y[j];
    }
    for (index i = 0; i < p - 4; ++i)
      x[i] -= (a[0][i] * y[0] + a[1][i] * y[1]) + (a[2][i] * y[2] + a[3][i] * y[3]);
  }
  for (; p > 0; --p) {
    const Lanes *a = packed_row(A, p - 1);
    x[p - 1] *= a[p - 1];
    for (index i = 0; i < p - 1; ++i)
      x[i] -= a[i] * x[p - 1];
  }
}

/// The lower triangles of kDoubles matrices of `order` rows of ldt numbers, a lane each.
LOWLA_INLINE void interleave(const double *G, index stride, index ldt, index order, Lanes *A) {
#if LOWLA_VECTOR_BYTES == 64
  static_assert(kTilePad == 8);
  for (index p = 0; p < order; ++p)
    for (index j = 0; j <= p; j += 8) {
      eight rows[8];
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s)
        rows[s] = *reinterpret_cast<const eight *>(G + s * stride + p * ldt + j);
      transpose(rows);
      Lanes *a = packed_row(A, p) + j;
      const index count = p - j + 1 < 8 ? p - j + 1 : 8;
      for (index t = 0; t < count; ++t)
        store(reinterpret_cast<double *>(a + t), rows[t]);
    }
#else
  for (index s = 0; s < kDoubles; ++s) {
    const double *g = G + s * stride;
    double *a = reinterpret_cast<double *>(A) + s;
    for (index p = 0; p < order; ++p, g += ldt)
      for (index j = 0; j <= p; ++j, a += kDoubles)
        *a = g[j];
  }
#endif
}

/// kDoubles of the systems.
LOWLA_INLINE void solve_lanes(const double *G, index stride, index ldt, index k, double ridge,
                              double floor, Lanes *A, double *X) {
  interleave(G, stride, ldt, k + 1, A);
  Lanes *h = packed_row(A, k), *x = h + k + 1, *more = x + k, *W = more + k;
  Lanes added{};
  for (index p = 0; p < k; ++p)
    added += packed_row(A, p)[p];
  added *= floor;
  for (index p = 0; p < k; ++p) {
    packed_row(A, p)[p] += added + ridge;
    x[p] = h[p];
  }
  factor(A, k, W);
  substitute(A, k, x);
  for (index p = 0; p < k; ++p)
    more[p] = added * x[p];
  substitute(A, k, more);
  Lanes squares = h[k];
  for (index p = 0; p < k; ++p) {
    x[p] += more[p];
    squares -= x[p] * (h[p] + ridge * x[p]);
  }
  for (index s = 0; s < kDoubles; ++s) {
    for (index p = 0; p < k; ++p)
      X[s * (k + 1) + p] = x[p][s];
    X[s * (k + 1) + k] = squares[s];
  }
}

inline void solve(const double *G, index stride, index ldt, index k, double ridge, double floor,
                  double *work, double *X) {
  for (index s = 0; s < kSystems; s += kDoubles)
    solve_lanes(G + s * stride, stride, ldt, k, ridge, floor, reinterpret_cast<Lanes *>(work),
                X + s * (k + 1));
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
