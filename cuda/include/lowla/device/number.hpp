// The four scalar types as device code computes with them: std::complex has no device operators.
#pragma once

#include "lowla/core/scalar.hpp"

namespace lowla {

template <class R> struct Pair {
  R re, im;
};

template <class R> LOWLA_HD inline Pair<R> operator+(Pair<R> a, Pair<R> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class R> LOWLA_HD inline Pair<R> operator-(Pair<R> a, Pair<R> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class R> LOWLA_HD inline Pair<R> operator*(Pair<R> a, Pair<R> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class R> LOWLA_HD inline Pair<R> operator*(R a, Pair<R> b) {
  return {a * b.re, a * b.im};
}

/// How an array of T lies in memory, and its entries as numbers with arithmetic.
template <class T> struct Entry {
  using Number = T;
  static constexpr int kReals = 1;
  LOWLA_HD static T make(T re) { return re; }
  LOWLA_HD static T load(const T *a, index i) { return a[i]; }
  LOWLA_HD static void store(T *a, index i, T x) { a[i] = x; }
  LOWLA_HD static T conjugate(T x) { return x; }
  LOWLA_HD static double squared(T x) { return static_cast<double>(x) * static_cast<double>(x); }
  /// In double precision, and back.
  LOWLA_HD static double wide(T x) { return static_cast<double>(x); }
  LOWLA_HD static T narrow(double x) { return static_cast<T>(x); }
};

template <class R> struct Entry<std::complex<R>> {
  using Number = Pair<R>;
  static constexpr int kReals = 2;
  LOWLA_HD static Number make(R re) { return {re, R(0)}; }
  LOWLA_HD static Number load(const R *a, index i) { return {a[2 * i], a[2 * i + 1]}; }
  LOWLA_HD static void store(R *a, index i, Number x) {
    a[2 * i] = x.re;
    a[2 * i + 1] = x.im;
  }
  LOWLA_HD static Number conjugate(Number x) { return {x.re, -x.im}; }
  LOWLA_HD static double squared(Number x) {
    return static_cast<double>(x.re) * static_cast<double>(x.re) +
           static_cast<double>(x.im) * static_cast<double>(x.im);
  }
  LOWLA_HD static Pair<double> wide(Number x) {
    return {static_cast<double>(x.re), static_cast<double>(x.im)};
  }
  LOWLA_HD static Number narrow(Pair<double> x) {
    return {static_cast<R>(x.re), static_cast<R>(x.im)};
  }
};

/// Memory of T as the reals it consists of.
template <class T> real_t<T> *reals(T *a) { return reinterpret_cast<real_t<T> *>(a); }
template <class T> const real_t<T> *reals(const T *a) {
  return reinterpret_cast<const real_t<T> *>(a);
}

} // namespace lowla
