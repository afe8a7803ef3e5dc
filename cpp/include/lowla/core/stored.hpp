// Numbers as callers store them: those of 16 bits are read where they lie and computed in double.
#pragma once

#include "lowla/core/scalar.hpp"

#include <cmath>
#include <cstring>

namespace lowla {

/// IEEE 754 binary16.
struct Float16 {
  std::uint16_t bits;
};
/// The upper half of a binary32.
struct BFloat16 {
  std::uint16_t bits;
};

inline double widened(float x) { return static_cast<double>(x); }
inline double widened(double x) { return x; }
inline double widened(BFloat16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<double>(value);
}
inline double widened(Float16 x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  double value;
  if (exponent == 31)
    value = fraction == 0 ? HUGE_VAL : NAN;
  else
    value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (x.bits & 0x8000) != 0 ? -value : value;
}

} // namespace lowla
