// Exponentials of rows (core/simd_transport.hpp); included once per instruction set after
// simd_stored.inl.
//
// exp(x) = 2^(k/N) exp(r), k the integer nearest to N x / ln 2, ln 2 in two parts (Cody and Waite
// 1980). 2^(k/N) from a table of N numbers where one register holds it, else N = 1 (Tang, ACM TOMS
// 15, 1989). For |r| <= ln(2)/(2 N) the polynomial 1 + r + r^2 q(r) of least relative error
// (Remez): at most 4e-18 in double precision, 3e-9 in single. About two units in the last place, no
// branches. Exponents whose exponential would be denormal are masked away or raised beforehand:
// denormals cost ten times as much.

#include "lowla/core/simd_transport.hpp"

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

constexpr double kLargestExponent = 700.0;

LOWLA_INLINE vec<double> lowest(vec<double> x, double bound) {
  const vec<double> b = vec<double>{} + bound;
  return x < b ? x : b;
}

template <class R> struct Exponential;
template <> struct Exponential<double> {
  static constexpr double kRound = 6755399441055744.0; // 1.5 2^52
  static constexpr double kHigh = 6.93147180369123816490e-01, kLow = 1.90821492927058770002e-10;
  static constexpr int kMantissa = 52;
#if LOWLA_VECTOR_BYTES == 64
  static constexpr int kParts = 3;
  static constexpr double kTerms[] = {1.984056419932816901e-4,
                                      1.3889782275221315726e-3,
                                      8.3333333712715324786e-3,
                                      4.1666666569726371059e-2,
                                      1.6666666666663707888e-1,
                                      5.0000000000002977802e-1,
                                      1.0,
                                      1.0};
#else
  static constexpr int kParts = 0;
  static constexpr double kTerms[] = {2.5000061625531279527e-8,
                                      2.763024838532302056e-7,
                                      2.7557586373785180954e-6,
                                      2.4801493098887391545e-5,
                                      1.9841269506578723932e-4,
                                      1.3888888943630134161e-3,
                                      8.3333333334944616639e-3,
                                      4.1666666666530158494e-2,
                                      1.6666666666666412523e-1,
                                      5.0000000000000106271e-1,
                                      1.0,
                                      1.0};
#endif
  /// The bits of 2^(i/N), less what i itself adds to them.
  static constexpr std::uint64_t kTable[] = {
      0x3ff0000000000000, 0x3fef72b83c7d517b, 0x3fef06fe0a31b715, 0x3feebfdad5362a27,
      0x3feea09e667f3bcd, 0x3feeace5422aa0db, 0x3feee89f995ad3ad, 0x3fef5818dcfba487};
};
template <> struct Exponential<float> {
  static constexpr float kRound = 12582912.0f; // 1.5 2^23
  static constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  static constexpr int kMantissa = 23;
#if LOWLA_VECTOR_BYTES == 64
  static constexpr int kParts = 4;
  static constexpr float kTerms[] = {1.6666718560608187993e-1f, 5.0001618971159940117e-1f, 1.0f,
                                     1.0f};
#else
  static constexpr int kParts = 0;
  static constexpr float kTerms[] = {1.3814598646664034453e-3f,
                                     8.3687168797281399469e-3f,
                                     4.1668388045313996659e-2f,
                                     1.6666520631709496887e-1f,
                                     4.9999993447796486827e-1f,
                                     1.0f,
                                     1.0f};
#endif
  static constexpr std::uint32_t kTable[] = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3,
                                             0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                                             0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                                             0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
};

template <class R> LOWLA_INLINE vec<R> exp_of(vec<R> x) {
  using E = Exponential<R>;
  // Unsigned: exponents out of range, which are not looked at, wrap.
  using Bits = vec<std::conditional_t<sizeof(R) == 4, std::uint32_t, std::uint64_t>>;
  constexpr int kCount = static_cast<int>(sizeof(E::kTerms) / sizeof(R));
  constexpr R kN = R(1 << E::kParts);
  const vec<R> rounded = x * (kN * R(1.4426950408889634)) + E::kRound; // k in the low bits
  const vec<R> k = rounded - E::kRound;
  const vec<R> r = (x - k * (E::kHigh / kN)) - k * (E::kLow / kN);
  vec<R> p = vec<R>{} + E::kTerms[0];
#pragma GCC unroll 12
  for (int i = 1; i < kCount; ++i)
    p = p * r + E::kTerms[i];
  Bits power = (Bits)rounded << (E::kMantissa - E::kParts);
  if constexpr (E::kParts > 0) {
    Bits table;
    __builtin_memcpy(&table, E::kTable, sizeof table);
    power += __builtin_shuffle(table, (Bits)rounded);
  } else {
    power += E::kTable[0];
  }
  return p * (vec<R>)power;
}

LOWLA_INLINE vec<double> masked_exp(vec<double> x, double least) {
  const vec<double> zero{};
  return x > zero + least ? exp_of<double>(lowest(x, kLargestExponent)) : zero;
}

/// The numbers that are left behind the last whole vector, padded by `fill`.
template <class S> LOWLA_INLINE vec<double> some_of(const S *p, index count, double fill) {
  vec<double> v = vec<double>{} + fill;
  for (index i = 0; i < count; ++i)
    v[i] = static_cast<double>(p[i]);
  return v;
}

/// What a row that is read from p on holds 1 KiB and 4 KiB later goes to the first and the second
/// level: the entries of an exponential in work fill the scheduler, so few loads run ahead.
template <class S> LOWLA_INLINE void fetch_row(const S *p) {
  __builtin_prefetch(p + 1024 / sizeof(S), 0, 3);
  __builtin_prefetch(p + 4096 / sizeof(S), 0, 2);
}

template <class S>
double exponentials(const S *C, const double *g, double f, double per_eps, double least, index n,
                    double *out) {
  constexpr index W = kLanes<double>;
  constexpr int kSums = 2;
  vec<double> sum[kSums] = {};
  index j = 0;
  for (; j + kSums * W <= n; j += kSums * W)
#pragma GCC unroll 2
    for (int s = 0; s < kSums; ++s) {
      fetch_row(C + j + s * W);
      const vec<double> x = (f + load(g + j + s * W) - wide(C + j + s * W)) * per_eps;
      const vec<double> e = masked_exp(x, least);
      store(out + j + s * W, e);
      sum[s] += e;
    }
  for (; j < n; j += W) {
    const index count = n - j < W ? n - j : W;
    const vec<double> x =
        (f + some_of(g + j, count, 0.0) - some_of(C + j, count, __builtin_inf())) * per_eps;
    const vec<double> e = masked_exp(x, least);
    for (index i = 0; i < count; ++i)
      out[j + i] = e[i];
    sum[0] += e;
  }
  return lane_sum<double>(sum[0] + sum[1]);
}

template <class S> LOWLA_INLINE vec<S> greater(vec<S> a, vec<S> b) { return a > b ? a : b; }

/// The greatest lane, by halves.
template <class S> LOWLA_INLINE S lane_max(vec<S> v) {
  if constexpr (kLanes<S> >= 16)
    v = greater<S>(v, exchanged<8, S>(v));
  if constexpr (kLanes<S> >= 8)
    v = greater<S>(v, exchanged<4, S>(v));
  if constexpr (kLanes<S> >= 4)
    v = greater<S>(v, exchanged<2, S>(v));
  return v[0] > v[1] ? v[0] : v[1];
}

template <class S> double largest(const S *C, const double *g, double f, index n) {
  constexpr index W = kLanes<double>;
  vec<double> top = vec<double>{} - __builtin_inf();
  for (index j = 0; j < n; j += W) {
    const index count = n - j < W ? n - j : W;
    const vec<double> x =
        count == W ? f + load(g + j) - wide(C + j)
                   : f + some_of(g + j, count, 0.0) - some_of(C + j, count, __builtin_inf());
    top = greater<double>(x, top);
  }
  return lane_max<double>(top);
}

template <class S>
index above(const S *C, const double *g, double f, double per_eps, double least, index n,
            std::int32_t *columns, double *exponents) {
  constexpr index W = kLanes<double>;
  index kept = 0;
  for (index j = 0; j < n; j += W) {
    const index count = n - j < W ? n - j : W;
    const vec<double> x =
        count == W
            ? (f + load(g + j) - wide(C + j)) * per_eps
            : (f + some_of(g + j, count, 0.0) - some_of(C + j, count, __builtin_inf())) * per_eps;
    const auto chosen = x >= vec<double>{} + least;
    long any = 0;
    for (index i = 0; i < W; ++i)
      any |= static_cast<long>(chosen[i]);
    if (any == 0)
      continue;
    for (index i = 0; i < count; ++i) {
      columns[kept] = static_cast<std::int32_t>(j + i);
      exponents[kept] = x[i];
      kept += chosen[i] != 0 ? 1 : 0;
    }
  }
  return kept;
}

template <class S> double dot(const double *P, const S *C, index n) {
  constexpr index W = kLanes<double>;
  vec<double> sum{};
  index j = 0;
  for (; j + W <= n; j += W) {
    const vec<double> p = load(P + j);
    sum += p > vec<double>{} ? p * wide(C + j) : vec<double>{};
  }
  double total = lane_sum<double>(sum);
  for (; j < n; ++j)
    if (P[j] > 0)
      total += P[j] * static_cast<double>(C[j]);
  return total;
}

inline void add_rows(const double *x, index ld, index rows, const double *a, index n, double *y) {
  constexpr index W = kLanes<double>;
  index j = 0;
  for (; j + W <= n; j += W) {
    vec<double> sum = load(y + j);
    for (index r = 0; r < rows; ++r)
      sum += a[r] * load(x + r * ld + j);
    store(y + j, sum);
  }
  for (; j < n; ++j)
    for (index r = 0; r < rows; ++r)
      y[j] += a[r] * x[r * ld + j];
}

inline void exponentiate(double *x, index n) {
  constexpr index W = kLanes<double>;
  for (index j = 0; j < n; j += W) {
    const index count = n - j < W ? n - j : W;
    if (count == W) {
      store(x + j, exp_of<double>(lowest(load(x + j), kLargestExponent)));
      continue;
    }
    const vec<double> e = exp_of<double>(lowest(some_of(x + j, count, 0.0), kLargestExponent));
    for (index i = 0; i < count; ++i)
      x[j + i] = e[i];
  }
}

// --- log-sum-exp ---

/// Bytes of entries between two looks at the maximum: they stay in the first-level cache.
constexpr index kExponentBytes = 8192;
/// How far above exponent 0 entries may be before their block is summed again.
constexpr double kSlack = 1.0;
/// Exponents below it do not change a sum that has an entry of exponent 0.
template <class S> constexpr S kLeastExponent = sizeof(S) == 4 ? S(-87) : S(-700);
/// Below it exponentials are not normal numbers.
constexpr double kLeastNormal = -708.396;

/// A vector of the rest of a row, padded by -inf.
template <class S> LOWLA_INLINE vec<S> rest_of(const S *x, index count) {
  vec<S> v = vec<S>{} - static_cast<S>(__builtin_inf());
  for (index i = 0; i < count; ++i)
    v[i] = x[i];
  return v;
}

/// The greater; `v` where it is NaN.
template <class S> LOWLA_INLINE vec<S> at_least(vec<S> v, vec<S> low) { return low > v ? low : v; }

/// All lanes, in double precision.
template <class S> LOWLA_INLINE double wide_sum(vec<S> v) {
  double total = 0;
  for (index i = 0; i < kLanes<S>; ++i)
    total += static_cast<double>(v[i]);
  return total;
}

/// The greatest entry but for NaN.
template <class S> LOWLA_INLINE S greatest(const S *x, index n) {
  constexpr index W = kLanes<S>;
  vec<S> highest = vec<S>{} - static_cast<S>(__builtin_inf());
  for (index j = 0; j < n; j += W)
    highest = greater<S>(n - j < W ? rest_of(x + j, n - j) : load(x + j), highest);
  return lane_max<S>(highest);
}

/// sum_j exp(x_j - top), in the precision of S but for the sum of groups of kGroup vectors; `most`
/// is the greatest entry but for NaN.
template <class S> LOWLA_INLINE double exponent_sum(const S *x, index n, S top, S &most) {
  constexpr index W = kLanes<S>;
  constexpr int kGroup = 8;
  const vec<S> least = vec<S>{} + kLeastExponent<S>;
  vec<S> highest[2];
  highest[0] = highest[1] = vec<S>{} - static_cast<S>(__builtin_inf());
  vec<double> sum{};
  index j = 0;
  for (; j + kGroup * W <= n; j += kGroup * W) {
    vec<S> group[2] = {};
#pragma GCC unroll 8
    for (int g = 0; g < kGroup; ++g) {
      const S *p = x + j + g * W;
      fetch_row(p);
      const vec<S> v = load(p);
      highest[g % 2] = greater<S>(v, highest[g % 2]);
      group[g % 2] += exp_of<S>(at_least<S>(v - top, least));
    }
    S parts[W];
    store(parts, group[0] + group[1]);
    for (index half = 0; half < W; half += kLanes<double>)
      sum += wide(parts + half);
  }
  double total = lane_sum<double>(sum);
  for (; j < n; j += W) {
    const vec<S> v = n - j < W ? rest_of(x + j, n - j) : load(x + j);
    highest[0] = greater<S>(v, highest[0]);
    total += wide_sum<S>(exp_of<S>(at_least<S>(v - top, least)));
  }
  most = lane_max<S>(greater<S>(highest[0], highest[1]));
  return total;
}

/// Blocks are summed with the greatest entry so far as the shift; again where that was too small.
template <class S> void add_exponents(const S *x, index n, double &top, double &total) {
  constexpr index kBlock = kExponentBytes / static_cast<index>(sizeof(S));
  constexpr index kGlance = 128;
  constexpr double kInfinity = __builtin_inf();
  for (index first = 0; first < n; first += kBlock) {
    const S *block = x + first;
    const index size = n - first < kBlock ? n - first : kBlock;
    if (top == -kInfinity) { // a guess from some; all where those are nothing
      top = static_cast<double>(greatest(block, size < kGlance ? size : kGlance));
      if (top == -kInfinity)
        top = static_cast<double>(greatest(block, size));
    }
    S most = static_cast<S>(top);
    double sum = 0;
    if (top - top == 0)
      sum = exponent_sum(block, size, static_cast<S>(top), most);
    const auto next = static_cast<double>(most);
    if (next - next != 0 || top - top != 0) { // nothing or infinity, unless there is a NaN
      for (index j = 0; j < size; ++j)
        total += block[j] == block[j] ? 0.0 : static_cast<double>(block[j]);
      top = next > top ? next : top;
      if (top > 0)
        total = total == total ? 1.0 : total;
      continue;
    }
    if (next > top + kSlack) {
      total *= __builtin_exp(top - next);
      top = next;
      sum = exponent_sum(block, size, most, most);
    }
    total += sum;
  }
}

template <class S> void scaled_exponents(const S *x, index n, double top, double scale, S *out) {
  constexpr index W = kLanes<double>;
  index j = 0;
  for (; j + W <= n; j += W) {
    const vec<double> e = scale * masked_exp(wide(x + j) - top, kLeastNormal);
    *reinterpret_cast<typename Narrow<S>::type *>(out + j) =
        __builtin_convertvector(e, typename Narrow<S>::type);
  }
  if (j < n) {
    const vec<double> e =
        scale * masked_exp(some_of(x + j, n - j, -__builtin_inf()) - top, kLeastNormal);
    for (index i = 0; j + i < n; ++i)
      out[j + i] = static_cast<S>(e[i]);
  }
}

#define LOWLA_TABLES(S, NAME)                                                                      \
  extern const PlanKernels<S> kPlan##NAME;                                                         \
  const PlanKernels<S> kPlan##NAME{exponentials<S>, largest<S>, above<S>, dot<S>};                 \
  extern const ExponentKernels<S> kExponents##NAME;                                                \
  const ExponentKernels<S> kExponents##NAME{add_exponents<S>, scaled_exponents<S>};
LOWLA_TABLES(float, Float)
LOWLA_TABLES(double, Double)
#undef LOWLA_TABLES
extern const RowKernels kRows;
const RowKernels kRows{add_rows, exponentiate};

} // namespace lowla::simd::LOWLA_SIMD_NAMESPACE
