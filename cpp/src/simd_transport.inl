// Exponentials of rows (core/simd_transport.hpp); included once per instruction set after
// simd_stored.inl.
//
// exp(x) = 2^k exp(r), k the integer nearest to x / ln 2, |r| <= ln(2)/2 by Taylor's polynomial of
// degree 12 (truncation below 2^-56), ln 2 in two parts (Cody and Waite 1980); about two units in
// the last place, no branches. Exponents whose exponential would be denormal are masked away
// beforehand: denormals cost ten times as much.

#include "lowla/core/simd_transport.hpp"

namespace lowla::simd::LOWLA_SIMD_NAMESPACE {

constexpr double kLargestExponent = 700.0;

LOWLA_INLINE vec<double> lowest(vec<double> x, double bound) {
  const vec<double> b = vec<double>{} + bound;
  return x < b ? x : b;
}

LOWLA_INLINE vec<double> exp_of(vec<double> x) {
  using Integers = typename PlacesOf<double>::type;
  constexpr double kRound = 6755399441055744.0; // 1.5 2^52: the sum is an integer, in the low bits
  const vec<double> rounded = x * 1.4426950408889634 + kRound;
  const vec<double> k = rounded - kRound;
  const vec<double> r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  vec<double> p = vec<double>{} + 1.0 / 479001600.0;
  constexpr double kTerms[] = {
      1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0,
      1.0 / 120.0,      1.0 / 24.0,      1.0 / 6.0,      0.5,           1.0,          1.0};
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i)
    p = p * r + kTerms[i];
  const Integers power = ((Integers)rounded + 1023) << 52;
  return p * (vec<double>)power;
}

LOWLA_INLINE vec<double> masked_exp(vec<double> x, double least) {
  const vec<double> zero{};
  return x > zero + least ? exp_of(lowest(x, kLargestExponent)) : zero;
}

/// The numbers that are left behind the last whole vector, padded by `fill`.
template <class S> LOWLA_INLINE vec<double> some_of(const S *p, index count, double fill) {
  vec<double> v = vec<double>{} + fill;
  for (index i = 0; i < count; ++i)
    v[i] = static_cast<double>(p[i]);
  return v;
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

template <class S> double largest(const S *C, const double *g, double f, index n) {
  constexpr index W = kLanes<double>;
  vec<double> top = vec<double>{} - __builtin_inf();
  for (index j = 0; j < n; j += W) {
    const index count = n - j < W ? n - j : W;
    const vec<double> x =
        count == W ? f + load(g + j) - wide(C + j)
                   : f + some_of(g + j, count, 0.0) - some_of(C + j, count, __builtin_inf());
    top = x > top ? x : top;
  }
  double out = top[0];
  for (index i = 1; i < W; ++i)
    out = top[i] > out ? top[i] : out;
  return out;
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
      store(x + j, exp_of(lowest(load(x + j), kLargestExponent)));
      continue;
    }
    const vec<double> e = exp_of(lowest(some_of(x + j, count, 0.0), kLargestExponent));
    for (index i = 0; i < count; ++i)
      x[j + i] = e[i];
  }
}

// --- log-sum-exp ---

/// Entries between two looks at the maximum: they stay in the first-level cache.
constexpr index kExponentBlock = 1024;
/// Exponents below it do not change a sum that has an entry of exponent 0.
constexpr double kLeastExponent = -700.0;
/// Below it exponentials are not normal numbers.
constexpr double kLeastNormal = -708.396;

template <class S> void add_exponents(const S *x, index n, double &top, double &total) {
  constexpr index W = kLanes<double>;
  for (index first = 0; first < n; first += kExponentBlock) {
    const S *block = x + first;
    const index size = n - first < kExponentBlock ? n - first : kExponentBlock;
    const index whole = size / W * W, left = size - whole;
    vec<double> highest = vec<double>{} - __builtin_inf(), odd{};
    const auto look = [&](vec<double> v) __attribute__((always_inline)) {
      highest = v > highest ? v : highest;
      odd = v == v ? odd : v; // NaN
    };
    for (index j = 0; j < whole; j += W)
      look(wide(block + j));
    if (left > 0)
      look(some_of(block + whole, left, -__builtin_inf()));
    double next = top;
    for (index i = 0; i < W; ++i) {
      next = highest[i] > next ? highest[i] : next;
      total += odd[i] == odd[i] ? 0.0 : odd[i];
    }
    if (next == -__builtin_inf())
      continue;
    if (next == __builtin_inf()) { // an infinite sum, unless there is a NaN
      total = total == total ? 1.0 : total;
      top = next;
      continue;
    }
    if (next > top) {
      total *= __builtin_exp(top - next);
      top = next;
    }
    vec<double> sum[2] = {};
    index j = 0;
    for (; j + 2 * W <= whole; j += 2 * W)
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s)
        sum[s] += masked_exp(wide(block + j + s * W) - top, kLeastExponent);
    for (; j < whole; j += W)
      sum[0] += masked_exp(wide(block + j) - top, kLeastExponent);
    if (left > 0)
      sum[1] += masked_exp(some_of(block + whole, left, -__builtin_inf()) - top, kLeastExponent);
    total += lane_sum<double>(sum[0] + sum[1]);
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
