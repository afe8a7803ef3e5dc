// Fourier transforms and causal convolutions on the GPU.
//
// The Monarch form of the DFT (FlashFFTConv: Fu et al., arXiv:2311.05908) is Cooley and Tukey's
// factorisation with dense factors: for n = n_1 n_2 ... the operand is multiplied with DFT matrices
// of order n_1, n_2, ... along one axis after another, with twiddle factors between and the digits
// reversed by the places that results are written to (Stockham). Factors up to 16, and single
// primes up to 61, run one after another in shared memory as a chain (device/functors_chain.hpp). A
// length that does not fit there is split once more in the same way: each pass reads and writes
// memory once. 8 n sum_i n_i real flops a line.
//
// Other lengths go through Bluestein's chirps ("A linear filtering approach to the computation of
// discrete Fourier transform", IEEE Trans. Audio Electroacoustics 18, 1970): a circular convolution
// of power-of-two length at least 2 n - 1.
//
// A convolution of real signals of length N is one of complex signals of length N/2, even entries
// as real parts and odd ones as imaginary parts: arrays of reals are read and written as they lie.
// Where a line fits in shared memory it stays there from its transform to its inverse transform, as
// in FlashFFTConv.
#pragma once

#include "lowla/device/cuda_chain.cuh"
#include "lowla/device/functors_fourier.hpp"

namespace lowla {
namespace cuda_detail {

/// Order of the DFT matrices that composite radices do not exceed, and the largest prime one.
constexpr index kRadix = 16, kLargestPrime = 61;

/// The prime factors, the largest first.
inline std::vector<index> prime_factors(index n) {
  std::vector<index> out;
  for (index p = 2; p * p <= n; ++p)
    for (; n % p == 0; n /= p)
      out.insert(out.begin(), p);
  if (n > 1)
    out.insert(out.begin(), n);
  return out;
}

/// The fewest factors of the product of `primes` that fit: all of it if at most `whole`, else each
/// at most `part`; as equal as they come out of the primes one by one.
inline std::vector<index> split(const std::vector<index> &primes, index whole, index part) {
  for (std::size_t count = 1;; ++count) {
    std::vector<index> out(count, 1);
    for (const index p : primes)
      *std::min_element(out.begin(), out.end()) *= p;
    if (*std::max_element(out.begin(), out.end()) <= (count == 1 ? whole : part))
      return out;
  }
}

/// Orders of the DFT matrices whose product is n.
inline std::vector<index> radices(index n) {
  std::vector<index> out;
  for (; n > 1; n /= out.back()) {
    index r = std::min(n, kRadix);
    while (n % r != 0)
      --r;
    out.push_back(r > 1 ? r : prime_factors(n).back());
  }
  return out.empty() ? std::vector<index>{1} : out;
}

/// The smallest length from n on without prime factors above `largest`.
inline index fast_length(index n, index largest) {
  while (prime_factors(n).size() > 0 && prime_factors(n).front() > largest)
    ++n;
  return n;
}

/// Lines of reals as a transform reads or writes them: those from `limit` on are zero, or dropped.
template <class P> struct Lines {
  P *data;
  index line, limit;
  int step = 2; ///< reals of an entry: 1 where a real signal is read
};

/// DFTs of order n without large prime factors, with the tables they need.
template <class R, class Runtime> class Transform {
public:
  using T = std::complex<R>;

  static bool suits(index n) { return n == 1 || prime_factors(n).front() <= kLargestPrime; }

  Transform(index n, bool inverse, double scale) : n_(n), roots_(n) {
    Runtime::for_each(n, functors::FillRoots<R>{reals(roots_.get()), n, inverse});
    const index room = shared_entries<T, Runtime>() / 2;
    lengths_ = split(prime_factors(n), room, room / kLanes<T>);
    std::vector<T> tables;
    for (const index length : lengths_)
      for (const index r : radices(length)) {
        radices_.push_back({r, static_cast<index>(tables.size())});
        const double factor = radices_.size() == 1 ? scale : 1.0;
        for (index i = 0; i < r; ++i)
          for (index j = 0; j < r; ++j) {
            const auto root = functors::root_of_unity(i * j % r, r, inverse);
            tables.emplace_back(static_cast<R>(factor * root.re), static_cast<R>(factor * root.im));
          }
      }
    tables_ = to_device<Runtime>(tables);
  }

  const T *roots() const { return roots_.get(); }
  bool is_one_pass() const { return lengths_.size() == 1; }
  functors::Chain<T> only_pass(Lines<const R> x, index lines, Lines<R> y) const {
    std::size_t radix = 0;
    return chain(x, lines, y, n_, 1, radix);
  }

  void operator()(Lines<const R> x, index lines, Lines<R> y) const {
    DeviceArray<Runtime, T> buffers[2];
    index done = 1;
    std::size_t radix = 0;
    for (std::size_t pass = 0; pass < lengths_.size(); ++pass) {
      Lines<R> target = y;
      if (pass + 1 < lengths_.size()) {
        buffers[pass % 2] = DeviceArray<Runtime, T>(lines * n_);
        target = {reals(buffers[pass % 2].get()), 2 * n_, 2 * n_};
      }
      run_chain<T, Runtime>(chain(x, lines, target, lengths_[pass], done, radix));
      done *= lengths_[pass];
      x = {target.data, target.line, target.limit};
    }
  }

private:
  struct Radix {
    index order, table;
  };

  /// One pass: with `done` the product of the lengths before it and rest = n / (done length),
  /// entry (q, o, e) of (length, rest, done) to entry (o, i, e) of (rest, length, done).
  functors::Chain<T> chain(Lines<const R> x, index lines, Lines<R> y, index length, index done,
                           std::size_t &radix) const {
    const index rest = n_ / (done * length);
    functors::Chain<T> out{};
    out.load = out.store = true;
    out.X = {x.data, x.line, rest * done, 1, x.limit, x.step};
    out.Y = {y.data, y.line, done, 1, y.limit, done, length * done};
    out.lines = lines;
    out.columns = rest * done;
    out.roots = reals(roots_.get());
    out.twist = rest > 1 ? done : 0;
    // The same in shared memory.
    for (index before = 1; out.stages == 0 || before < length; ++radix) {
      const auto [r, table] = radices_[radix];
      const index after = length / (before * r);
      functors::Stage<T> stage{};
      stage.F = reals(tables_.get() + table);
      stage.row = r;
      stage.column = 1;
      stage.m = stage.n = static_cast<int>(r);
      stage.outers = static_cast<int>(after);
      stage.after = static_cast<int>(before);
      stage.in_outer = static_cast<int>(before);
      stage.in_row = static_cast<int>(after * before);
      stage.out_outer = static_cast<int>(r * before);
      stage.out_row = static_cast<int>(before);
      stage.twiddle = after > 1 ? n_ / (r * after) : 0;
      out.stage[out.stages++] = stage;
      before *= r;
    }
    return out;
  }

  index n_;
  DeviceArray<Runtime, T> roots_, tables_;
  std::vector<index> lengths_;
  std::vector<Radix> radices_;
};

/// Convolutions of lines that fit in shared memory.
template <class R, class Runtime> void run_convolution(functors::Convolution<R> convolution) {
  using T = std::complex<R>;
  const index M = convolution.M;
  convolution.lines_of_tile = static_cast<int>(tile_size<T, Runtime>(2 * M, convolution.lines, 1));
  convolution.second = functors::Tile<T>::padded(M * convolution.lines_of_tile) + 1;
  CancelScope::poll();
  Runtime::for_each_block(convolution.blocks(),
                          static_cast<std::size_t>(2 * convolution.second) * sizeof(T),
                          convolution);
}

/// DFTs of any order n < 2^31: with a_j = exp(-pi i j^2/n), X_k = a_k sum_j (a_j x_j)
/// conj(a_{k-j}).
template <class R, class Runtime>
void bluestein(Lines<const R> x, index lines, index n, bool inverse, std::complex<R> *out) {
  using T = std::complex<R>;
  index M = 1;
  while (M < 2 * n - 1)
    M *= 2;
  DeviceArray<Runtime, T> chirp(n), filter(M), spectrum(M), u(lines * M), v(lines * M);
  Runtime::for_each(n, functors::FillChirp<R>{reals(chirp.get()), n, inverse});
  Runtime::for_each(M, functors::FillChirpFilter<R>{reals(chirp.get()), n, M, reals(filter.get())});
  const auto all = [&](T *a) { return Lines<R>{reals(a), 2 * M, 2 * M}; };
  const auto read = [&](const T *a) { return Lines<const R>{reals(a), 2 * M, 2 * M}; };
  const Transform<R, Runtime> forward(M, false, 1.0);
  const Transform<R, Runtime> backward(M, true, 1.0 / static_cast<double>(M));
  forward(read(filter.get()), 1, all(spectrum.get()));
  Runtime::for_each(lines * n,
                    functors::MultiplyLines<R>{x.data, x.line, x.limit, x.step, reals(chirp.get()),
                                               R(1), reals(v.get()), n, n});
  forward({reals(v.get()), 2 * n, 2 * n}, lines, all(u.get()));
  Runtime::for_each(lines * M,
                    functors::MultiplyLines<R>{reals(u.get()), 2 * M, 2 * M, 2,
                                               reals(spectrum.get()), R(1), reals(u.get()), M, M});
  backward(read(u.get()), lines, all(v.get()));
  const R scale = inverse ? R(1) / static_cast<R>(n) : R(1);
  Runtime::for_each(lines * n,
                    functors::MultiplyLines<R>{reals(v.get()), 2 * M, 2 * M, 2, reals(chirp.get()),
                                               scale, reals(out), n, n});
}

} // namespace cuda_detail

template <class R, class Runtime>
template <class N>
void CudaFourier<R, Runtime>::transform(const N *x, index lines, index m, index n, bool inverse,
                                        T *out) {
  constexpr int step = Entry<N>::kReals;
  const cuda_detail::Lines<const R> from{reals(x), step * m, step * m, step};
  if (!cuda_detail::Transform<R, Runtime>::suits(n)) {
    cuda_detail::bluestein<R, Runtime>(from, lines, n, inverse, out);
    return;
  }
  const double scale = inverse ? 1.0 / static_cast<double>(n) : 1.0;
  const cuda_detail::Transform<R, Runtime> run(n, inverse, scale);
  run(from, lines, {reals(out), 2 * n, 2 * n});
}

template <class R, class Runtime>
void CudaFourier<R, Runtime>::convolve(const R *u, index n, const std::vector<index> &of_u,
                                       const R *k, index r, const std::vector<index> &of_k, R *y) {
  const auto lines_of = [](const std::vector<index> &lines) {
    return *std::max_element(lines.begin(), lines.end()) + 1;
  };
  const auto lines = static_cast<index>(of_u.size());
  const index u_lines = lines_of(of_u), k_lines = lines_of(of_k), taps = std::min(n, r);
  const index M = cuda_detail::fast_length((n + taps) / 2, 7); // 2 M >= n + taps - 1
  const cuda_detail::Transform<R, Runtime> forward(M, false, 1.0);
  const cuda_detail::Transform<R, Runtime> backward(M, true, 1.0 / static_cast<double>(M));
  DeviceArray<Runtime, T> K(k_lines * M);
  forward({k, r, taps}, k_lines, {reals(K.get()), 2 * M, 2 * M});
  const auto device_of_k = to_device<Runtime>(of_k);
  const bool in_place = u_lines == lines; // then of_u counts up
  if (in_place && forward.is_one_pass()) {
    cuda_detail::run_convolution<R, Runtime>(
        {forward.only_pass({u, n, n}, lines, {}), backward.only_pass({}, lines, {y, n, n}),
         reals(K.get()), device_of_k.get(), static_cast<int>(M), lines});
    return;
  }
  DeviceArray<Runtime, T> U(u_lines * M), product;
  forward({u, n, n}, u_lines, {reals(U.get()), 2 * M, 2 * M});
  if (!in_place)
    product = DeviceArray<Runtime, T>(lines * M);
  T *spectra = in_place ? U.get() : product.get();
  const auto device_of_u = to_device<Runtime>(of_u);
  Runtime::for_each(lines * (M / 2 + 1),
                    functors::MultiplySpectra<R>{reals(U.get()), reals(K.get()), device_of_u.get(),
                                                 device_of_k.get(), reals(forward.roots()), M,
                                                 reals(spectra)});
  backward({reals(spectra), 2 * M, 2 * M}, lines, {y, n, n});
}

template <class R, class Runtime>
void CudaFourier<R, Runtime>::convolve_masked(const R *u, index n, const std::vector<index> &of_u,
                                              const R *k, index r, const std::vector<index> &of_k,
                                              const R *mask, index f,
                                              const std::vector<index> &of_mask, R *y) {
  const auto lines_of = [](const std::vector<index> &lines) {
    return *std::max_element(lines.begin(), lines.end()) + 1;
  };
  const auto lines = static_cast<index>(of_u.size());
  const index u_lines = lines_of(of_u), k_lines = lines_of(of_k), taps = std::min(n, r);
  const index N = cuda_detail::fast_length(n + taps - 1, 5); // part of what the mask means
  const cuda_detail::Transform<R, Runtime> forward(N, false, 1.0);
  const cuda_detail::Transform<R, Runtime> backward(N, true, 1.0 / static_cast<double>(N));
  DeviceArray<Runtime, T> U(u_lines * N), K(k_lines * N), product(lines * N), Y(lines * N);
  forward({u, n, n, 1}, u_lines, {reals(U.get()), 2 * N, 2 * N});
  forward({k, r, taps, 1}, k_lines, {reals(K.get()), 2 * N, 2 * N});
  const auto device_of_u = to_device<Runtime>(of_u), device_of_k = to_device<Runtime>(of_k);
  const auto device_of_mask = to_device<Runtime>(of_mask);
  Runtime::for_each(lines * N,
                    functors::MultiplyMasked<R>{reals(U.get()), reals(K.get()), mask,
                                                device_of_u.get(), device_of_k.get(),
                                                device_of_mask.get(), N, f, reals(product.get())});
  backward({reals(product.get()), 2 * N, 2 * N}, lines, {reals(Y.get()), 2 * N, 2 * N});
  Runtime::for_each(lines * n, functors::RealParts<R>{reals(Y.get()), N, n, y});
}

} // namespace lowla

#define LOWLA_INSTANTIATE_FOURIER(R, Runtime)                                                      \
  template struct lowla::CudaFourier<R, lowla::Runtime>;                                           \
  template void lowla::CudaFourier<R, lowla::Runtime>::transform(                                  \
      const R *, lowla::index, lowla::index, lowla::index, bool, std::complex<R> *);               \
  template void lowla::CudaFourier<R, lowla::Runtime>::transform(                                  \
      const std::complex<R> *, lowla::index, lowla::index, lowla::index, bool, std::complex<R> *);
