// Scalar traits: the four computed types and the arithmetic type of their small problems.
#pragma once

#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define LOWLA_HD __host__ __device__
#else
#define LOWLA_HD
#endif

namespace lowla {

using index = std::int64_t;

/// A place in a std::vector.
inline std::size_t at(index i) { return static_cast<std::size_t>(i); }

template <class T> struct scalar_traits {
  using real = T;
  static constexpr bool is_complex = false;
  static constexpr int planes = 1; // real panels that hold one scalar panel
};
template <class R> struct scalar_traits<std::complex<R>> {
  using real = R;
  static constexpr bool is_complex = true;
  static constexpr int planes = 2;
};

template <class T> using real_t = typename scalar_traits<T>::real;
template <class T> inline constexpr bool is_complex_v = scalar_traits<T>::is_complex;

/// The type in which Gram matrices and every small dense problem of a T-valued matrix are solved.
template <class T> using wide_t = std::conditional_t<is_complex_v<T>, std::complex<double>, double>;

/// Unit roundoff (half the machine epsilon).
template <class T> constexpr double unit_roundoff() {
  return 0.5 * static_cast<double>(std::numeric_limits<real_t<T>>::epsilon());
}

inline double conj_of(double x) { return x; }
inline std::complex<double> conj_of(std::complex<double> x) { return std::conj(x); }
inline double real_of(double x) { return x; }
inline double real_of(std::complex<double> x) { return x.real(); }
inline double abs2(double x) { return x * x; }
inline double abs2(std::complex<double> x) { return std::norm(x); }

constexpr index round_up(index x, index multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

} // namespace lowla

/// M(T) for the four scalar types.
#define LOWLA_FOR_SCALARS(M) M(float) M(double) M(std::complex<float>) M(std::complex<double>)
