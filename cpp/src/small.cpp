// Small dense problems (see core/small.hpp): four vector loops, and the algorithms on top of them.
#include "lowla/core/small.hpp"

#include "lowla/core/blas.hpp"
#include "lowla/core/clones.hpp"
#include "lowla/core/error.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/workspace.hpp"

#include <cmath>
#include <functional>
#include <numeric>

namespace lowla::small {
namespace {

using complex = std::complex<double>;

constexpr double kEps = std::numeric_limits<double>::epsilon();
/// Squared norms below this are zero in a matrix whose largest entry is about 1: their inverses
/// would overflow.
constexpr double kNegligibleSquare = 1e-280;
/// Numbers below this have lost digits to underflow: no phase can be had from them.
constexpr double kNegligible = 1e-290;

// --- vector loops; complex vectors are pairs of doubles ---

LOWLA_CLONES double dot_real(const double *x, const double *y, index n) {
  double acc[16] = {};
  index i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j)
      acc[j] += x[i + j] * y[i + j];
  if (i + 8 <= n) {
    for (int j = 0; j < 8; ++j)
      acc[j] += x[i + j] * y[i + j];
    i += 8;
  }
  double tail = 0;
  for (; i < n; ++i)
    tail += x[i] * y[i];
  for (int width = 8; width > 0; width /= 2)
    for (int j = 0; j < width; ++j)
      acc[j] += acc[j + width];
  return acc[0] + tail;
}

LOWLA_CLONES void axpy_real(double a, const double *x, double *y, index n) {
  for (index i = 0; i < n; ++i)
    y[i] += a * x[i];
}

/// [x, y] <- [c x - s y, s x + c y]
LOWLA_CLONES void rotate_real(double *x, double *y, index n, double c, double s) {
  for (index i = 0; i < n; ++i) {
    const double xi = x[i], yi = y[i];
    x[i] = c * xi - s * yi;
    y[i] = s * xi + c * yi;
  }
}

LOWLA_CLONES void rank2_real(double a, const double *x, double b, const double *y, double *z,
                             index n) {
  for (index i = 0; i < n; ++i)
    z[i] -= a * x[i] + b * y[i];
}

inline __attribute__((always_inline)) double lane_sum(const eight &s) {
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/// Columns z_c = z + c stride of a trailing matrix: z_c -= a_c x + b_c y, out_c = z_c . v, for
/// kColumns of them in one sweep over x, y and v.
constexpr int kColumns = 4;
LOWLA_CLONES void rank2_dots_real(const double *a, const double *x, const double *b,
                                  const double *y, double *z, index stride, const double *v,
                                  index n, double *out) {
  eight acc[kColumns] = {};
  index i = 0;
  for (; i + 8 <= n; i += 8) {
    const eight xi = *reinterpret_cast<const eight *>(x + i);
    const eight yi = *reinterpret_cast<const eight *>(y + i);
    const eight vi = *reinterpret_cast<const eight *>(v + i);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      eight &zc = *reinterpret_cast<eight *>(z + c * stride + i);
      zc -= a[c] * xi + b[c] * yi;
      acc[c] += zc * vi;
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    double tail = 0;
    for (index k = i; k < n; ++k) {
      z[c * stride + k] -= a[c] * x[k] + b[c] * y[k];
      tail += z[c * stride + k] * v[k];
    }
    out[c] = lane_sum(acc[c]) + tail;
  }
}

/// Columns z_c <- z_c - beta (v . z_c) v, kColumns of them in two sweeps over v.
LOWLA_CLONES void reflect_real(double beta, const double *v, double *z, index stride, index n) {
  eight acc[kColumns] = {};
  const index whole = n / 8 * 8;
  for (index i = 0; i < whole; i += 8) {
    const eight vi = *reinterpret_cast<const eight *>(v + i);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      acc[c] += vi * *reinterpret_cast<const eight *>(z + c * stride + i);
  }
  double factor[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    factor[c] = lane_sum(acc[c]);
    for (index k = whole; k < n; ++k)
      factor[c] += v[k] * z[c * stride + k];
    factor[c] *= -beta;
    for (index k = whole; k < n; ++k)
      z[c * stride + k] += factor[c] * v[k];
  }
  for (index i = 0; i < whole; i += 8) {
    const eight vi = *reinterpret_cast<const eight *>(v + i);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      *reinterpret_cast<eight *>(z + c * stride + i) += factor[c] * vi;
  }
}

constexpr index kStripRows = 16;
/// C (kStripRows x kColumns, columns ldc apart) = A (kStripRows x n, columns lda apart) B.
LOWLA_CLONES void multiply_strip(const double *A, index lda, const double *B, index ldb, index n,
                                 double *C, index ldc) {
  eight acc[kColumns][2] = {};
  for (index k = 0; k < n; ++k) {
    const eight low = *reinterpret_cast<const eight *>(A + k * lda);
    const eight high = *reinterpret_cast<const eight *>(A + k * lda + 8);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      acc[c][0] += B[c * ldb + k] * low;
      acc[c][1] += B[c * ldb + k] * high;
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    *reinterpret_cast<eight *>(C + c * ldc) = acc[c][0];
    *reinterpret_cast<eight *>(C + c * ldc + 8) = acc[c][1];
  }
}

/// x^H y
LOWLA_CLONES void dot_pairs(const double *x, const double *y, index n, double out[2]) {
  double re[8] = {}, im[8] = {};
  index i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) {
      const double xr = x[2 * (i + j)], xi = x[2 * (i + j) + 1];
      const double yr = y[2 * (i + j)], yi = y[2 * (i + j) + 1];
      re[j] += xr * yr + xi * yi;
      im[j] += xr * yi - xi * yr;
    }
  for (; i < n; ++i) {
    re[0] += x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
    im[0] += x[2 * i] * y[2 * i + 1] - x[2 * i + 1] * y[2 * i];
  }
  out[0] = out[1] = 0;
  for (int j = 0; j < 8; ++j) {
    out[0] += re[j];
    out[1] += im[j];
  }
}

LOWLA_CLONES void axpy_pairs(double ar, double ai, const double *x, double *y, index n) {
  for (index i = 0; i < n; ++i) {
    const double xr = x[2 * i], xi = x[2 * i + 1];
    y[2 * i] += ar * xr - ai * xi;
    y[2 * i + 1] += ar * xi + ai * xr;
  }
}

double *pairs(complex *x) { return reinterpret_cast<double *>(x); }
const double *pairs(const complex *x) { return reinterpret_cast<const double *>(x); }

double dot(const double *x, const double *y, index n) { return dot_real(x, y, n); }
complex dot(const complex *x, const complex *y, index n) {
  double out[2];
  dot_pairs(pairs(x), pairs(y), n, out);
  return {out[0], out[1]};
}
void axpy(double a, const double *x, double *y, index n) { axpy_real(a, x, y, n); }
void axpy(complex a, const complex *x, complex *y, index n) {
  axpy_pairs(a.real(), a.imag(), pairs(x), pairs(y), n);
}
void rotate(double *x, double *y, index n, double c, double s) { rotate_real(x, y, n, c, s); }
void rotate(complex *x, complex *y, index n, double c, double s) {
  rotate_real(pairs(x), pairs(y), 2 * n, c, s);
}
/// z -= a x + b y
void rank2(double a, const double *x, double b, const double *y, double *z, index n) {
  rank2_real(a, x, b, y, z, n);
}
void rank2(complex a, const complex *x, complex b, const complex *y, complex *z, index n) {
  axpy(-a, x, z, n);
  axpy(-b, y, z, n);
}
/// For the m columns z_j of a trailing matrix: z_j -= conj(y_j) x + conj(x_j) y, out_j = z_j^H v.
void rank2_dots(const double *x, const double *y, double *z, index stride, const double *v, index m,
                double *out) {
  index j = 0;
  for (; j + kColumns <= m; j += kColumns)
    rank2_dots_real(y + j, x, x + j, y, z + j * stride, stride, v, m, out + j);
  for (; j < m; ++j) {
    rank2_real(y[j], x, x[j], y, z + j * stride, m);
    out[j] = dot_real(z + j * stride, v, m);
  }
}
void rank2_dots(const complex *x, const complex *y, complex *z, index stride, const complex *v,
                index m, complex *out) {
  for (index j = 0; j < m; ++j) {
    rank2(std::conj(y[j]), x, std::conj(x[j]), y, z + j * stride, m);
    out[j] = dot(z + j * stride, v, m);
  }
}
/// The m columns z_j <- z_j - beta (v^H z_j) v, each of n numbers.
void reflect_columns(double beta, const double *v, double *z, index stride, index n, index m) {
  index j = 0;
  for (; j + kColumns <= m; j += kColumns)
    reflect_real(beta, v, z + j * stride, stride, n);
  for (; j < m; ++j)
    axpy_real(-beta * dot_real(v, z + j * stride, n), v, z + j * stride, n);
}
void reflect_columns(double beta, const complex *v, complex *z, index stride, index n, index m) {
  for (index j = 0; j < m; ++j)
    axpy(-beta * dot(v, z + j * stride, n), v, z + j * stride, n);
}
double norm2(const double *x, index n) { return dot_real(x, x, n); }
double norm2(const complex *x, index n) { return dot_real(pairs(x), pairs(x), 2 * n); }

template <class S> double max_abs(const Small<S> &A) {
  double largest = 0;
  for (const S &a : A.data)
    largest = std::max(largest, std::abs(a));
  return largest;
}

template <class S> void scale(Small<S> &A, double factor) {
  for (S &a : A.data)
    a *= factor;
}

/// Power of two near x > 0, so that scaling by it is exact.
double power_of_two(double x) { return std::ldexp(1.0, std::ilogb(x)); }

bool use_lapack(index n) { return n > kLapackOrder && !threads::in_parallel() && blas::loaded(); }

// --- Hermitian eigenproblem ---

/// A = Q T Q^H: T real tridiagonal with diagonal d and off-diagonal e, Q = H_0 H_1 ... diag(phase)
/// with the reflectors H_k = I - beta_k v v^H, v in column k of A below the diagonal.
template <class S> struct Tridiagonal {
  std::vector<double> d, e, beta;
  std::vector<S> phase;

  /// Reduces A, which then holds the reflectors.
  explicit Tridiagonal(Small<S> &A)
      : d(count(A), 0.0), e(count(A), 0.0), beta(count(A), 0.0), phase(count(A), S(1)) {
    const index n = A.rows;
    // The rank-2 update of step k - 1 is applied while step k multiplies by its v: one sweep over
    // the trailing matrix a step.
    std::vector<S> pending(count(A), S(0)), next(count(A), S(0)), zero(count(A), S(0));
    const S *previous = zero.data(); // v of the step before, from the row of `pending` on
    for (index k = 0; k + 1 < n; ++k) {
      S *v = A.col(k) + k + 1;
      const index m = n - k - 1;
      d[k] = real_of(A(k, k));
      reflect(v, m, k);
      rank2_dots(previous + 1, pending.data() + 1, A.col(k + 1) + k + 1, n, v, m, next.data());
      const double half = 0.5 * beta[k] * real_of(dot(v, next.data(), m)) * beta[k];
      for (index i = 0; i < m; ++i)
        pending[i] = beta[k] * next[i] - half * v[i];
      previous = v;
      // The next column is needed now.
      rank2(conj_of(pending[0]), v, conj_of(v[0]), pending.data(), A.col(k + 1) + k + 1, m);
    }
    if (n > 0)
      d[n - 1] = real_of(A(n - 1, n - 1));
  }

  /// Z <- Q Z.
  void apply(const Small<S> &A, Small<S> &Z) const {
    const index n = A.rows;
    for (index j = 0; j < Z.cols; ++j)
      for (index i = 0; i < n; ++i)
        Z(i, j) *= phase[i];
    for (index j = 0; j < Z.cols; j += kColumns) {
      const index columns = std::min<index>(kColumns, Z.cols - j);
      for (index k = n - 2; k >= 0; --k)
        if (beta[k] > 0)
          reflect_columns(beta[k], A.col(k) + k + 1, Z.col(j) + k + 1, n, n - k - 1, columns);
    }
  }

  /// A <- Q.
  void form(Small<S> &A) const {
    const index n = A.rows;
    for (index k = n - 1; k >= 0; --k) {
      if (k + 1 < n && beta[k] > 0) {
        const index m = n - k - 1;
        reflect_columns(beta[k], A.col(k) + k + 1, A.col(k + 1) + k + 1, n, m, m);
      }
      std::fill(A.col(k), A.col(k) + n, S(0));
      A(k, k) = S(1);
      for (index j = k + 1; j < n; ++j)
        A(k, j) = S(0);
    }
    for (index j = 0; j < n; ++j)
      if (phase[j] != S(1))
        for (index i = 0; i < n; ++i)
          A(i, j) *= phase[j];
  }

private:
  static std::size_t count(const Small<S> &A) { return static_cast<std::size_t>(A.rows); }

  /// The reflector that maps x to alpha e_1 overwrites x (zero where x needs none). The
  /// off-diagonal is made real: T(k+1, k) = |alpha|, the phase goes into a diagonal.
  void reflect(S *x, index m, index k) {
    const double tail = norm2(x + 1, m - 1);
    const double head = std::abs(x[0]);
    S alpha = x[0];
    if (tail > kNegligibleSquare) {
      const S direction = head > kNegligible ? S(x[0] / head) : S(1);
      alpha = -direction * std::sqrt(head * head + tail);
      x[0] -= alpha;
      beta[k] = 2.0 / (abs2(x[0]) + tail);
    } else {
      std::fill(x, x + m, S(0));
    }
    const double size = std::abs(alpha);
    e[k] = size > kNegligible ? size : 0.0;
    phase[k + 1] = phase[k] * (size > kNegligible ? S(alpha / size) : S(1));
  }
};

/// Implicit QL on (d, e); the rotations are applied to the columns of Z.
template <class S>
void tridiagonal_ql(std::vector<double> &d, std::vector<double> &e, Small<S> &Z) {
  const index n = static_cast<index>(d.size());
  // The reduction to T has already cost kEps ||T||: couplings below that carry nothing.
  double norm = 0;
  for (index i = 0; i < n; ++i)
    norm = std::max(norm, std::abs(d[i]) + std::abs(e[i]));
  const double negligible = std::max(0.5 * kEps * norm, std::numeric_limits<double>::min());
  for (index l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      index m = l;
      while (m + 1 < n && std::abs(e[m]) > 0.5 * kEps * (std::abs(d[m]) + std::abs(d[m + 1])) &&
             std::abs(e[m]) > negligible)
        ++m;
      if (m == l)
        break;
      if (sweep == 60)
        throw LinAlgError("eigenvalue iteration did not converge");
      double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
      double r = std::sqrt(g * g + 1.0);
      g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
      double s = 1.0, c = 1.0, p = 0.0;
      index i = m - 1;
      for (; i >= l; --i) {
        const double f = s * e[i], b = c * e[i];
        r = std::sqrt(f * f + g * g);
        e[i + 1] = r;
        if (r == 0.0) {
          d[i + 1] -= p;
          e[m] = 0.0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        rotate(Z.col(i), Z.col(i + 1), Z.rows, c, s);
      }
      if (r == 0.0 && i >= l)
        continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0.0;
    }
  }
}

/// d <- the eigenvalues, unordered: QL without square roots (Pal, Walker, Kahan; Parlett, "The
/// Symmetric Eigenvalue Problem", 1980, section 8.15), two divisions deep a step.
void tridiagonal_values(std::vector<double> &d, const std::vector<double> &e) {
  const index n = static_cast<index>(d.size());
  double norm = 0;
  for (index i = 0; i < n; ++i)
    norm = std::max(norm, std::abs(d[i]) + std::abs(e[i]));
  const double negligible = std::max(0.5 * kEps * norm, kNegligible);
  std::vector<double> squares(e.size(), 0.0);
  for (index i = 0; i + 1 < n; ++i)
    squares[i] = std::abs(e[i]) > negligible ? e[i] * e[i] : 0.0;
  for (index l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      index m = l;
      while (m + 1 < n && squares[m] > 0.25 * kEps * kEps * std::abs(d[m] * d[m + 1]) &&
             squares[m] > negligible * negligible)
        ++m;
      if (m == l)
        break;
      if (sweep == 60)
        throw LinAlgError("eigenvalue iteration did not converge");
      const double coupling = std::sqrt(squares[l]);
      const double half = (d[l + 1] - d[l]) / (2.0 * coupling);
      const double shift =
          d[l] - coupling / (half + std::copysign(std::sqrt(half * half + 1.0), half));
      double c = 1.0, s = 0.0, gamma = d[m] - shift, p = gamma * gamma;
      for (index i = m - 1; i >= l; --i) {
        const double square = squares[i], r = p + square, before = c, last = gamma;
        squares[i + 1] = s * r; // that of m is zero, as s is
        c = p / r;
        s = square / r;
        gamma = c * (d[i] - shift) - s * last;
        d[i + 1] = last + (d[i] - gamma);
        p = c != 0.0 ? gamma * gamma / c : before * square;
      }
      squares[l] = s * p;
      d[l] = shift + gamma;
    }
  }
}

/// The largest eigenvalue by Laguerre's iteration from above, which decreases monotonically to the
/// largest root and converges cubically (Parlett 1980, section 4.11; Wilkinson, "The Algebraic
/// Eigenvalue Problem", 1965, section 7.28), from `guess` where that is above. The pivots q_i of
/// x - T are positive exactly where x is: that brackets the eigenvalue, whatever rounding does to a
/// step.
double largest_value(const std::vector<double> &d, const std::vector<double> &e, double guess) {
  const index n = static_cast<index>(d.size());
  double above = d[0], below = d[0], norm = 0;
  for (index i = 0; i < n; ++i) {
    const double radius = (i + 1 < n ? std::abs(e[i]) : 0.0) + (i > 0 ? std::abs(e[i - 1]) : 0.0);
    below = std::max(below, d[i]);
    above = std::max(above, d[i] + radius);
    norm = std::max(norm, std::abs(d[i]) + radius);
  }
  const double resolution = 4.0 * kEps * norm, order = static_cast<double>(n);
  double x = std::min(above, guess), back = resolution;
  while (above - below > resolution) {
    // With p = prod q_i: sum = p'/p and squares = -(p'/p)'.
    double q = x - d[0], slope = 1.0, bend = 0.0, sum = 0.0, squares = 0.0;
    for (index i = 0; q > 0; ++i) {
      const double inverse = 1.0 / q, ratio = slope * inverse;
      sum += ratio;
      squares += ratio * ratio - bend * inverse;
      if (i + 1 == n)
        break;
      const double coupling = e[i] * e[i] * inverse;
      q = x - d[i + 1] - coupling;
      bend = coupling * inverse * (bend - 2.0 * slope * ratio);
      slope = 1.0 + coupling * inverse * slope;
    }
    if (q > 0) {
      const double spread = std::max((order - 1.0) * (order * squares - sum * sum), 0.0);
      const double step = order / (sum + std::sqrt(spread));
      above = x;
      x -= step;
      if (!(step > resolution))
        break;
    } else { // a little back, and more each time
      below = std::max(below, x);
      x += back;
      back *= 16.0;
    }
    if (!(x > below && x < above))
      x = 0.5 * (above + below);
  }
  return std::clamp(x, below, above);
}

constexpr index kLanes = 8;

/// Eigenvectors of the tridiagonal T for kLanes eigenvalues at once, by twisted factorisations
/// (Fernando 1997; Dhillon, Parlett 2004): T - x = L diag(q) L^T from the top and U diag(u) U^T
/// from the bottom meet where |gamma| is least. z is n x kLanes, `work` twice that.
LOWLA_CLONES void twisted_vectors(const double *d, const double *e, index n, const double *x,
                                  double pivot_floor, double *z, double *work) {
  double *lower = work, *upper = work + n * kLanes;
  double q[kLanes], best[kLanes];
  index twist[kLanes];
  // From the top: lower[i] = e_i / q_i; z keeps q_i for the moment.
  for (index j = 0; j < kLanes; ++j)
    q[j] = d[0] - x[j];
  for (index i = 0; i < n; ++i) {
    const double coupling = i + 1 < n ? e[i] : 0.0, diagonal = i + 1 < n ? d[i + 1] : 0.0;
    for (index j = 0; j < kLanes; ++j) {
      const double size = std::abs(q[j]);
      const double pivot = size < pivot_floor ? pivot_floor : q[j];
      z[i * kLanes + j] = pivot;
      const double ratio = coupling / pivot;
      lower[i * kLanes + j] = ratio;
      q[j] = (diagonal - x[j]) - coupling * ratio;
    }
  }
  // From the bottom: upper[i] = e_i / u_{i+1}, and gamma_i = q_i + u_i - (d_i - x).
  for (index j = 0; j < kLanes; ++j) {
    best[j] = std::abs(z[(n - 1) * kLanes + j]);
    twist[j] = n - 1;
    q[j] = d[n - 1] - x[j];
  }
  for (index i = n - 2; i >= 0; --i)
    for (index j = 0; j < kLanes; ++j) {
      const double size = std::abs(q[j]);
      const double pivot = size < pivot_floor ? pivot_floor : q[j];
      const double ratio = e[i] / pivot;
      upper[i * kLanes + j] = ratio;
      const double shift = e[i] * ratio;
      q[j] = (d[i] - x[j]) - shift;
      const double gamma = std::abs(z[i * kLanes + j] - shift);
      twist[j] = gamma < best[j] ? i : twist[j];
      best[j] = gamma < best[j] ? gamma : best[j];
    }
  double last[kLanes] = {};
  for (index i = n - 1; i >= 0; --i)
    for (index j = 0; j < kLanes; ++j) {
      const double up = -lower[i * kLanes + j] * last[j];
      last[j] = i == twist[j] ? 1.0 : i < twist[j] ? up : 0.0;
      z[i * kLanes + j] = last[j];
    }
  for (index j = 0; j < kLanes; ++j)
    last[j] = z[j];
  for (index i = 1; i < n; ++i)
    for (index j = 0; j < kLanes; ++j) {
      const double down = -upper[(i - 1) * kLanes + j] * last[j];
      last[j] = i > twist[j] ? down : z[i * kLanes + j];
      z[i * kLanes + j] = last[j];
    }
}

/// Orthonormal eigenvectors Z (n x w.size()) of the tridiagonal (d, e) for its eigenvalues w; false
/// where they are too close together to be had one by one.
bool tridiagonal_vectors(const std::vector<double> &d, const std::vector<double> &e,
                         const std::vector<double> &w, Small<double> &Z) {
  const index n = static_cast<index>(d.size()), count = static_cast<index>(w.size());
  double norm = 0;
  for (index i = 0; i < n; ++i)
    norm = std::max(norm, std::abs(d[i]) + 2.0 * std::abs(e[i]));
  // A vector that loses so little to the others is orthogonal to rounding after one round.
  constexpr double kHardlyChanged = 0.99;
  const double residual_allowed = 8.0 * kEps * std::sqrt(static_cast<double>(n)) * norm;
  std::vector<double> z(static_cast<std::size_t>(n * kLanes)), work(2 * z.size()), r(z.size());
  Z = Small<double>(n, count);
  for (index first = 0; first < count; first += kLanes) {
    double x[kLanes];
    for (index j = 0; j < kLanes; ++j)
      x[j] = w[std::min(first + j, count - 1)];
    twisted_vectors(d.data(), e.data(), n, x, kEps * kEps * norm, z.data(), work.data());
    for (index c = first; c < std::min(first + kLanes, count); ++c) {
      double *v = Z.col(c);
      for (index i = 0; i < n; ++i)
        v[i] = z[i * kLanes + c - first];
      const double size = std::sqrt(norm2(v, n));
      if (!(size >= 0.5) || !std::isfinite(size)) // its largest entry is near 1
        return false;
      for (index i = 0; i < n; ++i)
        v[i] /= size;
      for (int round = 0; round < 2; ++round) {
        for (index o = 0; o < c; ++o)
          axpy(-dot(Z.col(o), v, n), Z.col(o), v, n);
        const double left = std::sqrt(norm2(v, n));
        if (left < 0.5)
          return false;
        for (index i = 0; i < n; ++i)
          v[i] /= left;
        if (left > kHardlyChanged)
          break;
      }
      for (index i = 0; i < n; ++i)
        r[i] = (d[i] - w[c]) * v[i] + (i > 0 ? e[i - 1] * v[i - 1] : 0.0) +
               (i + 1 < n ? e[i] * v[i + 1] : 0.0);
      if (!(norm2(r.data(), n) <= residual_allowed * residual_allowed))
        return false;
    }
  }
  return true;
}

template <class S> void sort_columns(std::vector<double> &w, Small<S> &V, Small<S> *V2 = nullptr) {
  std::vector<index> order(w.size());
  std::iota(order.begin(), order.end(), index(0));
  std::stable_sort(order.begin(), order.end(), [&](index a, index b) { return w[a] > w[b]; });
  auto permute = [&](Small<S> &M) {
    Small<S> sorted(M.rows, M.cols);
    for (index j = 0; j < M.cols; ++j)
      std::copy(M.col(order[j]), M.col(order[j]) + M.rows, sorted.col(j));
    M = std::move(sorted);
  };
  std::vector<double> w_sorted(w.size());
  for (std::size_t j = 0; j < w.size(); ++j)
    w_sorted[j] = w[order[j]];
  w = std::move(w_sorted);
  permute(V);
  if (V2 != nullptr)
    permute(*V2);
}

/// The `count` leading eigenpairs of Q T Q^H, reflectors of Q in V, which they overwrite; false (V
/// untouched) where the eigenvalues are too close together.
template <class S>
bool leading_pairs(const Tridiagonal<S> &T, index count, std::vector<double> &w, Small<S> &V) {
  std::vector<double> values;
  if (count == 1) {
    values.push_back(largest_value(T.d, T.e, std::numeric_limits<double>::infinity()));
  } else {
    // Krylov matrices are graded downwards: QL is quick on them from the other end.
    values.assign(T.d.rbegin(), T.d.rend());
    std::vector<double> e(T.e.rbegin() + 1, T.e.rend());
    e.push_back(0.0);
    tridiagonal_values(values, e);
    std::partial_sort(values.begin(), values.begin() + count, values.end(), std::greater<>());
    values.resize(static_cast<std::size_t>(count));
  }
  Small<double> Z;
  if (!tridiagonal_vectors(T.d, T.e, values, Z))
    return false;
  Small<S> vectors(V.rows, count);
  std::copy(Z.data.begin(), Z.data.end(), vectors.data.begin());
  T.apply(V, vectors);
  w = std::move(values);
  V = std::move(vectors);
  return true;
}

// --- the leading eigenvector of a semidefinite matrix ---

/// 8 kVectors columns of combine_rows: 8 sums, of every kPhases-th row each.
template <int kVectors>
inline __attribute__((always_inline)) void combine_strip(const double *A, index ld, index count,
                                                         const double *c, double *out) {
  constexpr int kPhases = 8 / kVectors;
  eight sum[kPhases][kVectors] = {};
  index k = 0;
  for (; k + kPhases <= count; k += kPhases)
#pragma GCC unroll 8
    for (int p = 0; p < kPhases; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        sum[p][v] += c[k + p] * *reinterpret_cast<const eight *>(A + (k + p) * ld + 8 * v);
  for (; k < count; ++k)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      sum[0][v] += c[k] * *reinterpret_cast<const eight *>(A + k * ld + 8 * v);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (int p = 1; p < kPhases; ++p)
      sum[0][v] += sum[p][v];
    *reinterpret_cast<eight *>(out + 8 * v) = sum[0][v];
  }
}

/// out = sum_k c_k row_k of A (count rows), `width` columns in whole vectors.
LOWLA_CLONES void combine_rows(const double *A, index ld, index count, const double *c, index width,
                               double *out) {
  index j = 0;
  for (; j + 64 <= width; j += 64)
    combine_strip<8>(A + j, ld, count, c, out + j);
  if (j + 32 <= width) {
    combine_strip<4>(A + j, ld, count, c, out + j);
    j += 32;
  }
  if (j + 16 <= width) {
    combine_strip<2>(A + j, ld, count, c, out + j);
    j += 16;
  }
  if (j < width)
    combine_strip<1>(A + j, ld, count, c, out + j);
}

/// w -= b x; returns w . y
LOWLA_CLONES double subtract_and_dot(double b, const double *x, double *w, const double *y,
                                     index n) {
  eight sum = {};
  for (index i = 0; i < n; i += 8) {
    eight &wi = *reinterpret_cast<eight *>(w + i);
    wi -= b * *reinterpret_cast<const eight *>(x + i);
    sum += wi * *reinterpret_cast<const eight *>(y + i);
  }
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/// The Lanczos process on G (n x n by rows, n whole vectors) from the first row of V, and its
/// tridiagonal matrix. The rows lose orthogonality only to eigenvectors that have been found (Paige
/// 1976), which does no harm to the one wanted.
struct Lanczos {
  const double *G;
  index n;
  Buffer<double> V;
  std::vector<double> d, e;

  Lanczos(const double *G, index n, double accuracy, const double *start)
      : G(G), n(n), V((n + 1) * n), accuracy_(accuracy) {
    const double inverse = 1.0 / std::sqrt(norm2(start, n));
    std::transform(start, start + n, V.get(), [&](double x) { return x * inverse; });
  }

  /// `steps` in all, at most n; false where they span an invariant space before that, to the
  /// accuracy of G.
  bool run(index steps) {
    for (index j = static_cast<index>(d.size()); j < steps; ++j) {
      double *v = V.get() + j * n, *w = v + n;
      combine_rows(G, n, n, v, n, w);
      d.push_back(j > 0 ? subtract_and_dot(e.back(), v - n, w, v, n) : dot(w, v, n));
      const double left = std::sqrt(subtract_and_dot(d.back(), v, w, w, n));
      largest_ = std::max(largest_, std::abs(d.back()) + left);
      e.push_back(left);
      if (!(left > accuracy_ * largest_))
        return false;
      const double inverse = 1.0 / left;
      for (index i = 0; i < n; ++i)
        w[i] *= inverse;
    }
    return true;
  }

private:
  double accuracy_, largest_ = 0;
};

/// c I - G = (I + U^T diag(d)^-1) diag(d) (I + diag(d)^-1 U), U strictly upper; G n x n by rows.
/// Row by row, so that a row stays in registers; in whole vectors, from that of the diagonal on.
struct ShiftedFactor {
  index n;
  Buffer<double> U;
  std::vector<double> inverse; ///< 1 / d
  bool definite = false;       ///< all eigenvalues of G are below c

  ShiftedFactor(const double *G, index n, double c)
      : n(n), U(n * n), inverse(static_cast<std::size_t>(n)) {
    std::vector<double> ratio(static_cast<std::size_t>(n));
    for (index i = 0; i < n; ++i) {
      const index first = i / 8 * 8;
      double *row = U.get() + i * n;
      for (index k = 0; k < i; ++k)
        ratio[k] = U.get()[k * n + i] * inverse[k];
      combine_rows(U.get() + first, n, i, ratio.data(), n - first, row + first);
      for (index j = first; j < n; ++j)
        row[j] = -G[i * n + j] - row[j];
      const double pivot = c + row[i];
      if (!(pivot > 0))
        return;
      inverse[i] = 1.0 / pivot;
      std::fill(row + first, row + i + 1, 0.0);
    }
    definite = true;
  }

  /// x <- (c I - G)^-1 x
  void solve(double *x) const {
    for (index i = 0; i < n; ++i) {
      const index first = i / 8 * 8;
      x[i] *= inverse[i];
      axpy(-x[i], U.get() + i * n + first, x + first, n - first);
    }
    for (index i = n - 1; i >= 0; --i) {
      const index first = i / 8 * 8;
      x[i] -= inverse[i] * dot(U.get() + i * n + first, x + first, n - first);
    }
  }
};

// --- one-sided Jacobi ---

/// Rotate pairs of columns of B (and of V alike) until all are orthogonal to `accuracy` or
/// rounding.
template <class S> void orthogonalise_columns(Small<S> &B, Small<S> &V, double accuracy) {
  const index m = B.rows, n = B.cols;
  const double tol = std::max(accuracy, kEps * std::sqrt(static_cast<double>(m)));
  std::vector<double> squares(static_cast<std::size_t>(n));
  for (int sweep = 0; sweep < 40; ++sweep) {
    bool rotated = false;
    for (index j = 0; j < n; ++j)
      squares[j] = norm2(B.col(j), m);
    for (index p = 0; p + 1 < n; ++p)
      for (index q = p + 1; q < n; ++q) {
        const double a = squares[p], b = squares[q];
        if (a <= kNegligibleSquare || b <= kNegligibleSquare)
          continue;
        const S g = dot(B.col(p), B.col(q), m);
        const double size = std::abs(g);
        if (size <= tol * std::sqrt(a) * std::sqrt(b) || size <= kNegligible)
          continue;
        rotated = true;
        if constexpr (is_complex_v<S>) {
          const S turn = std::conj(g) / size;
          for (index i = 0; i < m; ++i)
            B(i, q) *= turn;
          for (index i = 0; i < V.rows; ++i)
            V(i, q) *= turn;
        }
        const double gamma = is_complex_v<S> ? size : real_of(g);
        const double zeta = (b - a) / (2.0 * gamma);
        const double t = std::copysign(1.0, zeta) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double c = 1.0 / std::sqrt(1.0 + t * t), s = c * t;
        rotate(B.col(p), B.col(q), m, c, s);
        rotate(V.col(p), V.col(q), V.rows, c, s);
        squares[p] = norm2(B.col(p), m);
        squares[q] = norm2(B.col(q), m);
      }
    if (!rotated)
      return;
  }
}

/// Fill the columns of U listed in `missing` so that U has orthonormal columns: unit vectors,
/// orthogonalised twice against the rest.
template <class S> void complete_columns(Small<S> &U, const std::vector<index> &missing) {
  std::vector<bool> present(static_cast<std::size_t>(U.cols), true);
  for (index j : missing)
    present[j] = false;
  index candidate = 0;
  for (index j : missing) {
    for (; candidate < U.rows; ++candidate) {
      S *u = U.col(j);
      std::fill(u, u + U.rows, S(0));
      u[candidate] = S(1);
      for (int round = 0; round < 2; ++round)
        for (index i = 0; i < U.cols; ++i)
          if (present[i])
            axpy(-dot(U.col(i), u, U.rows), U.col(i), u, U.rows);
      const double left = std::sqrt(norm2(u, U.rows));
      if (left > 0.5 / std::sqrt(static_cast<double>(U.rows))) {
        for (index i = 0; i < U.rows; ++i)
          u[i] /= left;
        present[j] = true;
        ++candidate;
        break;
      }
    }
  }
}

} // namespace

template <class S> Small<S> multiply(const Small<S> &A, const Small<S> &B) {
  Small<S> C(A.rows, B.cols);
  if constexpr (std::is_same_v<S, double>)
    if (A.rows >= kStripRows && B.cols >= kColumns) {
      // The last strips overlap those before.
      for (index i = 0; i < A.rows; i += kStripRows)
        for (index j = 0; j < B.cols; j += kColumns) {
          const index row = std::min(i, A.rows - kStripRows);
          const index col = std::min<index>(j, B.cols - kColumns);
          multiply_strip(A.col(0) + row, A.rows, B.col(col), B.rows, A.cols, C.col(col) + row,
                         C.rows);
        }
      return C;
    }
  for (index j = 0; j < B.cols; ++j)
    for (index k = 0; k < A.cols; ++k)
      if (B(k, j) != S(0))
        axpy(B(k, j), A.col(k), C.col(j), A.rows);
  return C;
}

template <class S> Small<S> adjoint(const Small<S> &A) {
  Small<S> B(A.cols, A.rows);
  for (index j = 0; j < A.cols; ++j)
    for (index i = 0; i < A.rows; ++i)
      B(j, i) = conj_of(A(i, j));
  return B;
}

template <class S> bool cholesky(Small<S> &G, double floor) {
  const index n = G.rows;
  for (index j = 0; j < n; ++j) {
    const double diagonal = real_of(G(j, j));
    if (!(diagonal > 0))
      return false;
    for (index i = 0; i < j; ++i)
      G(i, j) = (G(i, j) - dot(G.col(i), G.col(j), i)) / real_of(G(i, i));
    const double pivot = diagonal - norm2(G.col(j), j);
    if (!(pivot > floor * diagonal))
      return false;
    G(j, j) = std::sqrt(pivot);
    std::fill(G.col(j) + j + 1, G.col(j) + n, S(0));
  }
  return true;
}

template <class S> void qr(const Small<S> &A, Small<S> &Q, Small<S> &R) {
  const index n = A.rows;
  R = A;
  Q = Small<S>::identity(n);
  std::vector<S> v(static_cast<std::size_t>(n)), dots(static_cast<std::size_t>(n));
  for (index t = 0; t < n; ++t) {
    double largest = 0, squares = 0; // columns may be of any scale
    for (index i = t; i < n; ++i)
      largest = std::max(largest, std::abs(R(i, t)));
    if (!(largest > 0))
      continue;
    for (index i = t; i < n; ++i) {
      v[i] = R(i, t) / largest;
      squares += abs2(v[i]);
    }
    const double root = std::sqrt(squares), norm = largest * root;
    for (index i = t; i < n; ++i)
      v[i] /= root;
    const double size = std::abs(v[t]);
    const S phase = size > 0 ? v[t] / size : S(1);
    v[t] += phase;
    const double beta = 1.0 / (1.0 + size); // H = I - beta v v^H
    for (index j = t; j < n; ++j) {
      S dot(0);
      for (index i = t; i < n; ++i)
        dot += conj_of(v[i]) * R(i, j);
      axpy(-beta * dot, v.data() + t, R.col(j) + t, n - t);
    }
    std::fill(dots.begin(), dots.end(), S(0));
    for (index j = t; j < n; ++j)
      axpy(v[j], Q.col(j), dots.data(), n);
    for (index j = t; j < n; ++j)
      axpy(-beta * conj_of(v[j]), dots.data(), Q.col(j), n);
    for (index j = t; j < n; ++j) // the diagonal is -phase norm
      R(t, j) *= -conj_of(phase);
    for (index i = 0; i < n; ++i)
      Q(i, t) *= -phase;
    std::fill(R.col(t) + t + 1, R.col(t) + n, S(0));
    R(t, t) = norm;
  }
}

template <class S> void invert_upper(Small<S> &R) {
  const index n = R.rows;
  for (index j = 0; j < n; ++j) {
    // Column j of the inverse from R X = I: X(0..j-1, j) = -X(0..j-1, 0..j-1) R(0..j-1, j) / R(j,j)
    std::vector<S> column(R.col(j), R.col(j) + j);
    const S inverse = S(1) / R(j, j);
    std::fill(R.col(j), R.col(j) + j, S(0));
    for (index k = 0; k < j; ++k)
      axpy(-column[k] * inverse, R.col(k), R.col(j), k + 1);
    R(j, j) = inverse;
  }
}

template <class S> void eigh(const Small<S> &A, std::vector<double> &w, Small<S> &V) {
  eigh_leading(A, A.rows, w, V);
}

template <class S>
void eigh_leading(const Small<S> &A, index count, std::vector<double> &w, Small<S> &V) {
  const index n = A.rows;
  count = std::min(count, n);
  w.assign(static_cast<std::size_t>(count), 0.0);
  V = A;
  const double largest = max_abs(A);
  if (n == 0)
    return;
  if (!(largest > 0)) {
    V = Small<S>::identity(n).columns(0, count);
    return;
  }
  const double unit = power_of_two(largest);
  scale(V, 1.0 / unit);
  if (use_lapack(n)) {
    w.resize(static_cast<std::size_t>(n));
    blas::heevd(n, V.data.data(), w.data());
    sort_columns(w, V);
  } else {
    const Tridiagonal<S> T(V);
    if (2 * count > n || !leading_pairs(T, count, w, V)) {
      T.form(V);
      w = T.d;
      std::vector<double> e = T.e;
      tridiagonal_ql(w, e, V);
      sort_columns(w, V);
    }
  }
  w.resize(static_cast<std::size_t>(count));
  V.cols = count;
  V.data.resize(static_cast<std::size_t>(n * count));
  for (double &value : w)
    value *= unit;
}

bool leading_vector(const double *G, index n, double *x) {
  const double accuracy = kEps * static_cast<double>(n); // that of the entries of G
  const double accepted = 0.4 * std::sqrt(accuracy);     // the eigenvalue has its square
  constexpr index kFirstCheck = 12;
  Lanczos lanczos(G, n, accuracy, x);
  const auto &d = lanczos.d, &e = lanczos.e;
  Small<double> z;
  double theta = std::numeric_limits<double>::infinity(), residual = 0;
  bool more = true;
  for (index steps = std::min(kFirstCheck, n); more; steps = std::min(2 * steps, n)) {
    more = lanczos.run(steps) && steps < n;
    theta = largest_value(d, e, theta + residual);
    if (!tridiagonal_vectors(d, e, {theta}, z))
      return false;
    residual = e.back() * std::abs(z.data.back());
    if (more && residual > accepted * theta)
      continue;
    const bool accurate = residual <= accuracy * theta;
    // A larger one, and this one squared, would sum to more than ||G||_F^2.
    const bool largest = accurate && theta * theta > 0.51 * norm2(G, n * n);
    const ShiftedFactor above(G, largest ? 0 : n, theta * (1.0 + 8.0 * accuracy));
    if (!above.definite)
      continue;
    combine_rows(lanczos.V.get(), n, z.rows, z.col(0), n, x);
    if (!accurate)
      above.solve(x); // inverse iteration: the residual is that of rounding then
    return true;
  }
  return false;
}

template <class S>
void svd(const Small<S> &A, Small<S> &U, std::vector<double> &s, Small<S> &W, double accuracy) {
  const index m = A.rows, n = A.cols;
  U = A;
  W = Small<S>::identity(n);
  s.assign(static_cast<std::size_t>(n), 0.0);
  const double largest = max_abs(A);
  double unit = 1.0;
  if (largest > 0) {
    unit = power_of_two(largest);
    scale(U, 1.0 / unit);
    if (use_lapack(n)) {
      blas::gesdd(m, n, U, s, W);
    } else {
      if (n > 8) {
        std::vector<double> squares;
        eigh(multiply(adjoint(U), U), squares, W);
        U = multiply(U, W);
      }
      orthogonalise_columns(U, W, accuracy);
      for (index j = 0; j < n; ++j)
        s[j] = std::sqrt(norm2(U.col(j), m));
      sort_columns(s, U, &W);
      for (index j = 0; j < n; ++j)
        if (s[j] > 1e-140)
          for (index i = 0; i < m; ++i)
            U(i, j) /= s[j];
        else
          s[j] = 0.0;
    }
  }
  std::vector<index> missing;
  for (index j = 0; j < n; ++j) {
    if (!(s[j] > 0))
      missing.push_back(j);
    s[j] *= unit;
  }
  complete_columns(U, missing);
}

#define LOWLA_INSTANTIATE(S)                                                                       \
  template Small<S> multiply(const Small<S> &, const Small<S> &);                                  \
  template Small<S> adjoint(const Small<S> &);                                                     \
  template bool cholesky(Small<S> &, double);                                                      \
  template void qr(const Small<S> &, Small<S> &, Small<S> &);                                      \
  template void invert_upper(Small<S> &);                                                          \
  template void eigh(const Small<S> &, std::vector<double> &, Small<S> &);                         \
  template void eigh_leading(const Small<S> &, index, std::vector<double> &, Small<S> &);          \
  template void svd(const Small<S> &, Small<S> &, std::vector<double> &, Small<S> &, double);
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(complex)
#undef LOWLA_INSTANTIATE

} // namespace lowla::small
