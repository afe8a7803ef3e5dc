// Panel: a tall-skinny block of vectors in the library's own layout.
//
// Row-major, rows padded with zeros to whole 64-byte units. Complex panels are planar: a row holds
// its real parts, then its imaginary parts, each `width` wide. So every product of panels is a real
// one, with the flops of the complex one:
//   Y = A X:   [Yr | Yi] = [Ar | Ai] [[Xr, Xi], [-Xi, Xr]]
//   H = P^H W: Hr = PrWr + PiWi, Hi = PrWi - PiWr from the real product [Pr|Pi]^T [Wr|Wi]
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/simd.hpp"
#include "lowla/core/small.hpp"
#include "lowla/core/workspace.hpp"

#include <algorithm>

namespace lowla {

template <class T> struct Panel {
  using R = real_t<T>;
  static constexpr int kPlanes = scalar_traits<T>::planes;

  index rows = 0, cols = 0;
  index width = 0; ///< padded columns of one plane
  index ld = 0;    ///< kPlanes * width
  Buffer<R> storage;

  Panel() = default;
  Panel(index m, index n)
      : rows(m), cols(n), width(round_up(n, simd::panel_unit<R>)), ld(kPlanes * width),
        storage(m * ld) {}

  R *row(index i) { return storage.get() + i * ld; }
  const R *row(index i) const { return storage.get() + i * ld; }
  void zero() { std::fill(row(0), row(0) + rows * ld, R(0)); }
};

/// The small matrix M as the right factor of a panel product: (kPlanes wp) x (kPlanes wq), with the
/// padding of both panels as zeros.
template <class T>
Buffer<real_t<T>> embed_small(const Small<wide_t<T>> &M, index first_row, index rows, index wp,
                              index wq, double sign) {
  using R = real_t<T>;
  constexpr int planes = scalar_traits<T>::planes;
  Buffer<R> out(planes * wp * planes * wq);
  std::fill(out.get(), out.get() + planes * wp * planes * wq, R(0));
  const index ld = planes * wq;
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < M.cols; ++j) {
      const auto value = sign * M(first_row + i, j);
      out.get()[i * ld + j] = static_cast<R>(real_of(value));
      if constexpr (is_complex_v<T>) {
        out.get()[i * ld + wq + j] = static_cast<R>(value.imag());
        out.get()[(wp + i) * ld + j] = static_cast<R>(-value.imag());
        out.get()[(wp + i) * ld + wq + j] = static_cast<R>(value.real());
      }
    }
  return out;
}

} // namespace lowla
