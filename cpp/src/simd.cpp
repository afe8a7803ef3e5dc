// Picks the instruction set of the hot loops once, at first use (see core/simd.hpp).
#include "lowla/core/simd.hpp"
#include "lowla/core/simd_tiles.hpp"
#include "lowla/core/simd_transport.hpp"

#include <cstdlib>
#include <cstring>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace lowla::simd {

#define LOWLA_DECLARE(SET)                                                                         \
  namespace SET {                                                                                  \
  extern const DenseKernels<float> kDenseFloat;                                                    \
  extern const DenseKernels<double> kDenseDouble;                                                  \
  void words4(std::uint64_t key, std::uint32_t stream, index row, index j, index cols,             \
              std::uint32_t *out, index ld);                                                       \
  extern const ModeKernels<float> kModesS;                                                         \
  extern const ModeKernels<double> kModesD;                                                        \
  extern const ModeKernels<std::complex<float>> kModesC;                                           \
  extern const ModeKernels<std::complex<double>> kModesZ;                                          \
  extern const StoredKernels<float> kStoredFloat;                                                  \
  extern const StoredKernels<double> kStoredDouble;                                                \
  extern const StoredKernels<Float16> kStoredFloat16;                                              \
  extern const StoredKernels<BFloat16> kStoredBFloat16;                                            \
  extern const GramKernels kGram;                                                                  \
  extern const PlanKernels<float> kPlanFloat;                                                      \
  extern const PlanKernels<double> kPlanDouble;                                                    \
  extern const ExponentKernels<float> kExponentsFloat;                                             \
  extern const ExponentKernels<double> kExponentsDouble;                                           \
  extern const RowKernels kRows;                                                                   \
  extern const FactorKernels<float> kFactorFloat;                                                  \
  extern const FactorKernels<double> kFactorDouble;                                                \
  extern const TileKernels kTiles;                                                                 \
  extern const SketchKernels<float> kSketchFloat;                                                  \
  extern const SketchKernels<double> kSketchDouble;                                                \
  extern const SparseKernels<float, std::int32_t> kSparseS32;                                      \
  extern const SparseKernels<float, std::int64_t> kSparseS64;                                      \
  extern const SparseKernels<double, std::int32_t> kSparseD32;                                     \
  extern const SparseKernels<double, std::int64_t> kSparseD64;                                     \
  extern const SparseKernels<std::complex<float>, std::int32_t> kSparseC32;                        \
  extern const SparseKernels<std::complex<float>, std::int64_t> kSparseC64;                        \
  extern const SparseKernels<std::complex<double>, std::int32_t> kSparseZ32;                       \
  extern const SparseKernels<std::complex<double>, std::int64_t> kSparseZ64;                       \
  }
LOWLA_DECLARE(baseline)
#if defined(__x86_64__)
LOWLA_DECLARE(v3)
LOWLA_DECLARE(v4)
namespace v4 {
extern const PairKernels kPairs;
}
#endif
#undef LOWLA_DECLARE

namespace {

Level best_level() {
#if defined(__x86_64__)
  Level best = Level::kBaseline;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    best = Level::kV3;
  if (best == Level::kV3 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    best = Level::kV4;
  if (const char *asked = std::getenv("LOWLA_SIMD")) {
    if (std::strcmp(asked, "baseline") == 0)
      return Level::kBaseline;
    if (std::strcmp(asked, "v3") == 0 && best == Level::kV4)
      return Level::kV3;
  }
  return best;
#else
  return Level::kBaseline;
#endif
}

} // namespace

index second_level_cache() {
  constexpr index kUsual = index(1) << 20;
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const index bytes = static_cast<index>(sysconf(_SC_LEVEL2_CACHE_SIZE));
  return bytes > 0 ? bytes : kUsual;
#else
  return kUsual;
#endif
}

Level level() {
  static const Level chosen = best_level();
  return chosen;
}

const char *level_name() {
  switch (level()) {
  case Level::kV4:
    return "x86-64-v4 (AVX-512)";
  case Level::kV3:
    return "x86-64-v3 (AVX2, FMA)";
  default:
    return "baseline";
  }
}

void words4(std::uint64_t key, std::uint32_t stream, index row, index j, index cols,
            std::uint32_t *out, index ld) {
#if defined(__x86_64__)
  static const auto chosen = level() == Level::kV4   ? v4::words4
                             : level() == Level::kV3 ? v3::words4
                                                     : baseline::words4;
#else
  static const auto chosen = baseline::words4;
#endif
  chosen(key, stream, row, j, cols, out, ld);
}

#if defined(__x86_64__)
#define LOWLA_PICK(NAME)                                                                           \
  return level() == Level::kV4 ? v4::NAME : level() == Level::kV3 ? v3::NAME : baseline::NAME;
#else
#define LOWLA_PICK(NAME) return baseline::NAME;
#endif

template <> const DenseKernels<float> &dense<float>() { LOWLA_PICK(kDenseFloat) }
template <> const DenseKernels<double> &dense<double>() { LOWLA_PICK(kDenseDouble) }
const PairKernels *pairs() {
#if defined(__x86_64__)
  if (level() == Level::kV4)
    return &v4::kPairs;
#endif
  return nullptr;
}
template <> const ModeKernels<float> &modes<float>() { LOWLA_PICK(kModesS) }
template <> const ModeKernels<double> &modes<double>() { LOWLA_PICK(kModesD) }
template <> const ModeKernels<std::complex<float>> &modes<std::complex<float>>() {
  LOWLA_PICK(kModesC)
}
template <> const ModeKernels<std::complex<double>> &modes<std::complex<double>>() {
  LOWLA_PICK(kModesZ)
}
template <> const StoredKernels<float> &stored<float>() { LOWLA_PICK(kStoredFloat) }
template <> const StoredKernels<double> &stored<double>() { LOWLA_PICK(kStoredDouble) }
template <> const StoredKernels<Float16> &stored<Float16>() { LOWLA_PICK(kStoredFloat16) }
template <> const StoredKernels<BFloat16> &stored<BFloat16>() { LOWLA_PICK(kStoredBFloat16) }
const GramKernels &gram() { LOWLA_PICK(kGram) }
template <> const PlanKernels<float> &plans<float>() { LOWLA_PICK(kPlanFloat) }
template <> const PlanKernels<double> &plans<double>() { LOWLA_PICK(kPlanDouble) }
template <> const ExponentKernels<float> &exponents<float>() { LOWLA_PICK(kExponentsFloat) }
template <> const ExponentKernels<double> &exponents<double>() { LOWLA_PICK(kExponentsDouble) }
const RowKernels &rows() { LOWLA_PICK(kRows) }
template <> const FactorKernels<float> &factors<float>() { LOWLA_PICK(kFactorFloat) }
template <> const FactorKernels<double> &factors<double>() { LOWLA_PICK(kFactorDouble) }
const TileKernels &tiles() { LOWLA_PICK(kTiles) }
template <> const SketchKernels<float> &sketching<float>() { LOWLA_PICK(kSketchFloat) }
template <>
const SketchKernels<double> &sketching<double>(){LOWLA_PICK(kSketchDouble)}
#define LOWLA_SPARSE(T, I, NAME)                                                                   \
  template <> const SparseKernels<T, I> &sparse<T, I>() { LOWLA_PICK(NAME) }
LOWLA_SPARSE(float, std::int32_t, kSparseS32) LOWLA_SPARSE(float, std::int64_t, kSparseS64)
    LOWLA_SPARSE(double, std::int32_t, kSparseD32) LOWLA_SPARSE(double, std::int64_t, kSparseD64)
        LOWLA_SPARSE(std::complex<float>, std::int32_t, kSparseC32)
            LOWLA_SPARSE(std::complex<float>, std::int64_t, kSparseC64)
                LOWLA_SPARSE(std::complex<double>, std::int32_t, kSparseZ32)
                    LOWLA_SPARSE(std::complex<double>, std::int64_t, kSparseZ64)

} // namespace lowla::simd
