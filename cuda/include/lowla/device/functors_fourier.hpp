// Fourier transforms beside their chains (device/functors_chain.hpp): roots of unity, the product
// of two spectra of real signals, convolutions in shared memory, and Bluestein's chirps.
#pragma once

#include "lowla/device/functors_chain.hpp"

#include <cmath>

namespace lowla::functors {

/// exp(-2 pi i k/n), or with `inverse` its conjugate, for 0 <= k < n. The angle is reduced to an
/// eighth of the circle in integers, so every root is correct to the last bits of a double.
LOWLA_HD inline Pair<double> root_of_unity(index k, index n, bool inverse) {
  constexpr double kPi = 3.14159265358979323846;
  const index octant = 8 * k / n;        // 8 k = octant n + rest
  const index rest = 8 * k - octant * n; // of the angle from the octant's beginning, in 8 n-ths
  const bool mirrored = octant % 2 != 0; // then from its end
  const double angle =
      kPi / 4 * static_cast<double>(mirrored ? n - rest : rest) / static_cast<double>(n);
  const double c = cos(angle), s = sin(angle);
  const bool swapped = octant % 4 == 1 || octant % 4 == 2; // nearer to the imaginary axis
  const double re = swapped ? s : c, im = swapped ? c : s;
  const bool left = octant >= 2 && octant < 6, below = octant >= 4;
  return {left ? -re : re, below != inverse ? im : -im};
}

/// roots[k] = exp(-+2 pi i k/n)
template <class R> struct FillRoots {
  R *roots;
  index n;
  bool inverse;
  LOWLA_HD void operator()(index k) const {
    using C = Entry<std::complex<R>>;
    C::store(roots, k, C::narrow(root_of_unity(k, n, inverse)));
  }
};

/// The spectrum of a real signal of 2 M points at one frequency, as the transforms of its even and
/// its odd entries: of Z, the transform of the even ones plus i times the odd ones,
///   E_k = (Z_k + conj Z_{M-k}) / 2,  O_k = (Z_k - conj Z_{M-k}) / 2i.
template <class R> struct RealSpectrum {
  Pair<R> even, odd;
  LOWLA_HD RealSpectrum(Pair<R> z, Pair<R> mirror)
      : even{R(0.5) * (z.re + mirror.re), R(0.5) * (z.im - mirror.im)},
        odd{R(0.5) * (z.im + mirror.im), R(0.5) * (mirror.re - z.re)} {}
};

/// Z_k of the convolution of a and b: E = E^a E^b + w^k O^a O^b, O = E^a O^b + O^a E^b, `root`
/// being w^k, w = exp(-2 pi i/M).
template <class R>
LOWLA_HD inline Pair<R> multiplied(const RealSpectrum<R> &a, const RealSpectrum<R> &b,
                                   Pair<R> root) {
  const Pair<R> even = a.even * b.even + root * (a.odd * b.odd);
  const Pair<R> odd = a.even * b.odd + a.odd * b.even;
  return {even.re - odd.im, even.im + odd.re};
}

/// The product of such spectra, lines of M entries. A call does k and M - k; `out` may be u.
template <class R> struct MultiplySpectra {
  using C = Entry<std::complex<R>>;
  const R *u, *v;
  const index *of_u, *of_v; ///< the lines of u and v that belong to a line of the result
  const R *roots;           ///< of order M
  index M;
  R *out;

  LOWLA_HD void operator()(index task) const {
    const index pairs = M / 2 + 1, line = task / pairs, k = task % pairs;
    const index mirror = k == 0 ? 0 : M - k;
    const R *x = u + 2 * M * of_u[line], *y = v + 2 * M * of_v[line];
    R *z = out + 2 * M * line;
    const Pair<R> xk = C::load(x, k), xm = C::load(x, mirror);
    const Pair<R> yk = C::load(y, k), ym = C::load(y, mirror);
    C::store(z, k, multiplied<R>({xk, xm}, {yk, ym}, C::load(roots, k)));
    if (mirror != k)
      C::store(z, mirror, multiplied<R>({xm, xk}, {ym, yk}, C::load(roots, mirror)));
  }
};

/// out(line, k) = mask u v on whole spectra of N frequencies, the mask of a line being `f` real
/// samples from frequency 0 to the highest, N / 2, read linearly between them.
template <class R> struct MultiplyMasked {
  using C = Entry<std::complex<R>>;
  const R *u, *v, *mask;
  const index *of_u, *of_v, *of_mask; ///< their lines that belong to a line of the result
  index N, f;
  R *out;

  LOWLA_HD void operator()(index task) const {
    const index line = task / N, k = task % N, last = N / 2;
    const R *m = mask + f * of_mask[line];
    const index place = (k < N - k ? k : N - k) * (f - 1), left = last > 0 ? place / last : 0;
    const index right = left + 1 < f ? left + 1 : f - 1;
    const R weight =
        last > 0
            ? static_cast<R>(static_cast<double>(place - left * last) / static_cast<double>(last))
            : R(0);
    const R factor = m[left] * (R(1) - weight) + m[right] * weight;
    C::store(out, task, factor * (C::load(u, N * of_u[line] + k) * C::load(v, N * of_v[line] + k)));
  }
};

/// y(line, t) = Re x(line, t), t < n, of lines of N entries.
template <class R> struct RealParts {
  const R *x;
  index N, n;
  R *y;
  LOWLA_HD void operator()(index task) const { y[task] = x[2 * (task / n * N + task % n)]; }
};

/// Lines of u convolved in shared memory: transform, product with the spectrum of the filter,
/// inverse transform.
template <class R> struct Convolution {
  using T = std::complex<R>;
  using C = Entry<T>;
  Chain<T> forward, backward; ///< one line each, of M entries
  const R *filter;
  const index *of_filter; ///< the line of `filter` that belongs to a line of u
  int M;
  index lines;
  int lines_of_tile = 1;
  index second = 0; ///< where the second of the two buffers begins

  LOWLA_HD index blocks() const { return (lines + lines_of_tile - 1) / lines_of_tile; }
  LOWLA_HD int phases() const { return forward.stages + backward.stages + 3; }

  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const index line = block * lines_of_tile, left = lines - line;
    const int l = left < lines_of_tile ? static_cast<int>(left) : lines_of_tile;
    const auto tile = [&](int number) {
      return Tile<T>{static_cast<R *>(shared) + 2 * (number % 2 == 0 ? 0 : second), 1};
    };
    const Tile<T> from = tile(phase + 1), to = tile(phase);
    const int product = forward.stages + 1, last = product + backward.stages + 1;
    if (phase == 0) {
      const auto x = forward.X.at(line, 0);
      for (int i = thread; i < l * M; i += kBlockThreads)
        to.put(i, 0, x.get(i / M, i % M, 0));
    } else if (phase < product) {
      forward.stage[phase - 1](thread, l, 1, from, to, forward.roots);
    } else if (phase == product) {
      for (int i = thread; i < l * M; i += kBlockThreads) {
        const int of_line = i / M, k = i % M, mirror = of_line * M + (k == 0 ? 0 : M - k);
        const R *f = filter + 2 * M * of_filter[line + of_line];
        to.put(i, 0,
               multiplied<R>({from.get(i, 0), from.get(mirror, 0)},
                             {C::load(f, k), C::load(f, k == 0 ? 0 : M - k)},
                             C::load(forward.roots, k)));
      }
    } else if (phase < last) {
      backward.stage[phase - product - 1](thread, l, 1, from, to, backward.roots);
    } else {
      const auto y = backward.Y.at(line, 0);
      for (int i = thread; i < l * M; i += kBlockThreads)
        y.put(i / M, i % M, 0, from.get(i, 0));
    }
  }
};

/// chirp[j] = exp(-+pi i j^2/n), squares reduced modulo 2 n.
template <class R> struct FillChirp {
  R *chirp;
  index n;
  bool inverse;
  LOWLA_HD void operator()(index j) const {
    using C = Entry<std::complex<R>>;
    // n < 2^31: j^2 does not overflow
    C::store(chirp, j, C::narrow(root_of_unity(j * j % (2 * n), 2 * n, inverse)));
  }
};

/// filter[j] = filter[M - j] = conj(chirp[j]) for j < n, zero between.
template <class R> struct FillChirpFilter {
  const R *chirp;
  index n, M;
  R *filter;
  LOWLA_HD void operator()(index i) const {
    using C = Entry<std::complex<R>>;
    const index j = i < M - i ? i : M - i;
    C::store(filter, i, j < n ? C::conjugate(C::load(chirp, j)) : C::make(R(0)));
  }
};

/// to(line, j) = scale factor(j) from(line, j), entries of a line from `from_limit` reals on being
/// zero; a complex `from` has step 2, a real one 1.
template <class R> struct MultiplyLines {
  const R *from;
  index from_line, from_limit; ///< in reals
  int step;
  const R *factor;
  R scale;
  R *to;
  index to_line, n; ///< in entries
  LOWLA_HD void operator()(index task) const {
    using C = Entry<std::complex<R>>;
    const index line = task / n, j = task % n, i = step * j;
    const R *x = from + line * from_line;
    const Pair<R> value{i < from_limit ? x[i] : R(0),
                        step == 2 && i + 1 < from_limit ? x[i + 1] : R(0)};
    C::store(to, line * to_line + j, scale * (C::load(factor, j) * value));
  }
};

} // namespace lowla::functors
