// The range of entries in which squares and their sums neither overflow nor lose digits.
#pragma once

#include "lowla/core/scalar.hpp"

#include <algorithm>
#include <cmath>

namespace lowla {

/// Entries within 2^+-kSafe leave room for squares. Others are multiplied by power(-exponent).
template <class T> struct SafeRange {
  static constexpr int kSafe = std::is_same_v<real_t<T>, float> ? 30 : 250;

  static bool holds(double largest) {
    return largest == 0 || std::abs(std::ilogb(largest)) <= kSafe;
  }
  /// That of a number to be brought near 1; float: the factor itself must be a normal number.
  static int exponent(double largest) {
    return largest > 0 ? std::clamp(std::ilogb(largest), -4 * kSafe, 4 * kSafe) : 0;
  }
  static real_t<T> power(int e) { return static_cast<real_t<T>>(std::ldexp(1.0, e)); }
};

} // namespace lowla
