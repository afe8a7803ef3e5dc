// The nearest Monarch matrix on the CPU (see monarch.hpp).
//
// A block B, or its transpose where that is the taller one, is copied to the thread's scratch in
// double precision, m x n with m >= n. The leading eigenvector x of B^H B, complex matrices as real
// ones of twice the order, comes from the Lanczos process, and the Cholesky factorisation of
// theta I - B^H B, theta a rounding error above, shows that there is no larger eigenvalue, however
// close the next one is; where it does not, x comes from the tridiagonalisation (core/small.hpp).
// Squaring B costs no digits of the largest eigenvalue: its error is a few u ||B||_F^2. With
// u = B x / ||B x|| and z = B^H u, u z^H is the nearest matrix with that column space.
#include "lowla/monarch.hpp"

#include "panel_products.hpp"

#include "lowla/core/clones.hpp"
#include "lowla/core/error.hpp"
#include "lowla/rank_one.hpp"

#include <limits>

namespace lowla {
namespace {

using namespace rows;

/// ||b - a t||^2 for a row b of reals.
LOWLA_CLONES double residual_real(const double *b, double a, const double *t, index n) {
  double sums[16] = {}, tail = 0;
  index i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j) {
      const double r = b[i + j] - a * t[i + j];
      sums[j] += r * r;
    }
  for (; i < n; ++i)
    tail += (b[i] - a * t[i]) * (b[i] - a * t[i]);
  for (double sum : sums)
    tail += sum;
  return tail;
}

/// The same for planar complex rows b and t, their imaginary parts n after the real ones.
LOWLA_CLONES double residual_planar(const double *b, double ar, double ai, const double *t,
                                    index n) {
  double sums[8] = {}; // n is whole panel units
  for (index i = 0; i < n; i += 8)
    for (int j = 0; j < 8; ++j) {
      const double tr = t[i + j], ti = t[n + i + j];
      const double re = b[i + j] - (ar * tr - ai * ti), im = b[n + i + j] - (ar * ti + ai * tr);
      sums[j] += re * re + im * im;
    }
  double total = 0;
  for (double sum : sums)
    total += sum;
  return total;
}

/// Columns of B^H B that are computed at a time, from the top to the diagonal.
constexpr index kGramPanel = 16;

/// Blocks whose squares sum to less, or to more than its inverse, are scaled.
constexpr double kLeastSquare = 0x1p-500;

/// One block of W and what is found of it; the memory serves one block after the other.
template <class T> class RankOne {
  using S = wide_t<T>;

public:
  /// Blocks of s x p.
  RankOne(index s, index p)
      : s_(s), p_(p), transposed_(s < p), m_(std::max(s, p)), n_(std::min(s, p)),
        width_(round_up(n_, simd::panel_unit<double>)), ld_(kPlanes<T> * width_), B_(m_ * ld_),
        gram_(ld_ * ld_), u_(at(m_)), z_(at(n_)), start_(at(ld_), 0.0) {
    std::fill(B_.get(), B_.get() + m_ * ld_, 0.0);
    for (index c = 0; c < n_; ++c)
      start_[at(c)] = rank_one::start_entry(c);
  }

  double residual2 = 0, norm2 = 0; ///< of the block times 2^-exponent
  int exponent = 0;                ///< even
  bool finite = true;

  /// left (s entries, `stride` apart) and right (p entries) with left right^T nearest to A.
  void operator()(const MatrixView<T> &A, T *left, index stride, T *right) {
    load(A);
    if (!finite)
      return;
    leading_vectors();
    // A = B: left = u, right = conj(z); A = B^T: left = conj(z), right = u
    for (S &z : z_)
      z = conj_of(z);
    rank_one::store<T>(u_, z_, transposed_, exponent, {left, stride}, {right, 1});
    residual2 = distance2();
  }

private:
  /// B <- A or A^T, times 2^-exponent where squares need it.
  void load(const MatrixView<T> &A) {
    const MatrixView<T> source =
        transposed_ ? MatrixView<T>{A.data, A.n, A.m, A.cs, A.rs, A.conjugated} : A;
    for (index i = 0; i < m_; ++i)
      load_row(source, i, B_.get() + i * ld_);
    exponent = 0;
    finite = true;
    norm2 = simd::dense<double>().sum_squares(B_.get(), m_ * ld_);
    if (norm2 > kLeastSquare && norm2 < 1 / kLeastSquare)
      return;
    const double largest = largest_finite(B_.get(), m_ * ld_, finite);
    if (!finite || !(largest > 0))
      return;
    exponent = std::ilogb(largest) / 2 * 2;
    const double power = std::ldexp(1.0, -exponent / 2);
    for (index i = 0; i < m_ * ld_; ++i)
      B_.get()[i] *= power, B_.get()[i] *= power; // 2^-exponent alone can overflow
    norm2 = simd::dense<double>().sum_squares(B_.get(), m_ * ld_);
  }

  void load_row(const MatrixView<T> &A, index i, double *row) const {
    if constexpr (std::is_same_v<T, double>)
      if (A.cs == 1) {
        std::copy_n(A.at(i, 0), n_, row);
        return;
      }
    if constexpr (std::is_same_v<T, float>)
      if (A.cs == 1) {
        widen(A.at(i, 0), row, n_);
        return;
      }
    for (index c = 0; c < n_; ++c) {
      const T value = *A.at(i, c);
      row[c] = static_cast<double>(std::real(value));
      if constexpr (is_complex_v<T>)
        row[width_ + c] = static_cast<double>(value.imag());
    }
  }

  /// u (unit norm, or zero) and z = B^H u from the leading eigenvector of B^H B.
  void leading_vectors() {
    const auto &kernels = simd::dense<double>();
    const double *B = B_.get();
    for (index q = 0; q < ld_; q += kGramPanel) { // upper blocks, then their transposes
      const index end = std::min(q + kGramPanel, ld_);
      kernels.multiply_transposed(B, ld_, m_, end, B + q, ld_, end - q, gram_.get() + q, ld_, false,
                                  {});
      for (index i0 = 0; i0 < q; i0 += 8)
        for (index j = q; j < end; ++j)
          for (index i = i0; i < i0 + 8; ++i)
            gram_.get()[j * ld_ + i] = gram_.get()[i * ld_ + j];
    }
    if constexpr (is_complex_v<T>)
      embed_gram();
    double *x = scratch<double>(kPlanes<T> * (ld_ + m_ + ld_), 1);
    double *y = x + kPlanes<T> * ld_, *z = y + kPlanes<T> * m_;
    std::fill(z, z + kPlanes<T> * ld_, 0.0);
    std::copy(start_.begin(), start_.end(), x);
    rank_one::leading_eigenvector(gram_.get(), ld_, x);
    if constexpr (is_complex_v<T>) { // [Br | Bi] [xr xi; -xi xr]
      std::copy_n(x + width_, width_, x + ld_);
      std::copy_n(x, width_, x + ld_ + width_);
      for (index c = 0; c < width_; ++c)
        x[width_ + c] = -x[width_ + c];
    }
    kernels.dots(B, ld_, m_, ld_, x, kPlanes<T>, y, {});
    const double norm = std::sqrt(kernels.sum_squares(y, kPlanes<T> * m_));
    for (index i = 0; i < kPlanes<T> * m_; ++i)
      y[i] = norm > 0 ? y[i] / norm : 0.0;
    kernels.combinations(B, ld_, m_, ld_, y, kPlanes<T>, z);
    for (index i = 0; i < m_; ++i)
      if constexpr (is_complex_v<T>)
        u_[at(i)] = {y[2 * i], y[2 * i + 1]};
      else
        u_[at(i)] = y[i];
    for (index c = 0; c < n_; ++c)
      if constexpr (is_complex_v<T>)
        z_[at(c)] = {z[c] + z[ld_ + width_ + c], z[ld_ + c] - z[width_ + c]};
      else
        z_[at(c)] = z[c];
  }

  /// [Re G, -Im G; Im G, Re G] for G = B^H B, from the products of the planes.
  void embed_gram() {
    double *upper = gram_.get(), *lower = upper + width_ * ld_;
    for (index i = 0; i < width_; ++i)
      for (index j = 0; j < width_; ++j) {
        const index at = i * ld_ + j;
        const double re = upper[at] + lower[at + width_], im = upper[at + width_] - lower[at];
        upper[at] = lower[at + width_] = re;
        upper[at + width_] = -im;
        lower[at] = im;
      }
  }

  /// ||B - u z^T||_F^2, z conjugated by now.
  double distance2() const {
    double *t = scratch<double>(ld_, 1), total = 0;
    std::fill(t, t + ld_, 0.0);
    for (index c = 0; c < n_; ++c) {
      t[c] = real_of(z_[at(c)]);
      if constexpr (is_complex_v<T>)
        t[width_ + c] = z_[at(c)].imag();
    }
    for (index i = 0; i < m_; ++i) {
      const double *row = B_.get() + i * ld_;
      if constexpr (is_complex_v<T>)
        total += residual_planar(row, u_[at(i)].real(), u_[at(i)].imag(), t, width_);
      else
        total += residual_real(row, u_[at(i)], t, n_);
    }
    return total;
  }

  index s_, p_;
  bool transposed_;
  index m_, n_, width_, ld_;
  Buffer<double> B_, gram_;
  std::vector<S> u_, z_;
  std::vector<double> start_; ///< of the Lanczos process
};

} // namespace

template <class T>
double monarch_project(const MatrixView<T> &W, index k, index l, bool check_finite, T *L, T *R) {
  const index s = W.m / l, p = W.n / k;
  std::vector<rank_one::Squares> found(static_cast<std::size_t>(k * l));
  parallel_for(l, [&](index j) { // neighbours in a row share lines and pages
    const workspace::Scope memory;
    RankOne<T> block(s, p);
    for (index b = 0; b < k; ++b) {
      const MatrixView<T> A{W.at(j, b * p), s, p, l * W.rs, W.cs, W.conjugated};
      block(A, L + j * s * k + b, k, R + (b * l + j) * p);
      found[static_cast<std::size_t>(j * k + b)] = {block.residual2, block.norm2, block.exponent,
                                                    block.finite};
    }
  });
  const double error = rank_one::relative_error(found);
  if (std::isnan(error)) {
    if (check_finite)
      throw ValueError("W contains NaN or Inf");
    constexpr auto nan = std::numeric_limits<real_t<T>>::quiet_NaN();
    std::fill(L, L + l * s * k, T(nan));
    std::fill(R, R + k * l * p, T(nan));
  }
  return error;
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template double monarch_project(const MatrixView<T> &, index, index, bool, T *, T *);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
