// Small dense problems (see core/small.hpp): four vector loops, and the algorithms on top of them.
#include "lowla/core/small.hpp"

#include "lowla/core/blas.hpp"
#include "lowla/core/clones.hpp"
#include "lowla/core/error.hpp"
#include "lowla/core/threads.hpp"

#include <cmath>
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
  for (; i < n; ++i)
    acc[0] += x[i] * y[i];
  double sum = 0;
  for (double a : acc)
    sum += a;
  return sum;
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

/// A -> Q T Q^H, T real tridiagonal with diagonal d and off-diagonal e; A becomes Q.
template <class S>
void tridiagonalise(Small<S> &A, std::vector<double> &d, std::vector<double> &e) {
  const index n = A.rows;
  d.assign(static_cast<std::size_t>(n), 0.0);
  e.assign(static_cast<std::size_t>(n), 0.0);
  std::vector<S> p(static_cast<std::size_t>(n)), phase(static_cast<std::size_t>(n), S(1));
  std::vector<double> beta(static_cast<std::size_t>(n), 0.0);
  for (index k = 0; k + 1 < n; ++k) {
    // H = I - beta v v^H maps column k below the diagonal to alpha e_1; v overwrites the column.
    S *v = A.col(k) + k + 1;
    const index m = n - k - 1;
    const double tail = norm2(v + 1, m - 1);
    const double head = std::abs(v[0]);
    const double norm = std::sqrt(head * head + tail);
    d[k] = real_of(A(k, k));
    S alpha = v[0];
    if (tail > kNegligibleSquare) {
      const S direction = head > kNegligible ? S(v[0] / head) : S(1);
      alpha = -direction * norm;
      const S v0 = v[0] - alpha;
      const double scale2 = abs2(v0) + tail;
      beta[k] = 2.0 / scale2;
      v[0] = v0;
      std::fill(p.begin(), p.begin() + m, S(0));
      for (index j = 0; j < m; ++j)
        axpy(v[j], A.col(k + 1 + j) + k + 1, p.data(), m);
      const double half = 0.5 * beta[k] * real_of(dot(v, p.data(), m)) * beta[k];
      for (index i = 0; i < m; ++i)
        p[i] = beta[k] * p[i] - half * v[i];
      for (index j = 0; j < m; ++j)
        rank2(conj_of(p[j]), v, conj_of(v[j]), p.data(), A.col(k + 1 + j) + k + 1, m);
    }
    // Make the off-diagonal real: T(k+1, k) = alpha, absorbed in a diagonal of phases.
    const double size = std::abs(alpha);
    e[k] = size > kNegligible ? size : 0.0;
    phase[k + 1] = phase[k] * (size > kNegligible ? S(alpha / size) : S(1));
  }
  d[n - 1] = real_of(A(n - 1, n - 1));
  // Q = H_0 H_1 ... diag(phase), accumulated from the last reflector.
  for (index k = n - 1; k >= 0; --k) {
    if (k + 1 < n) {
      const S *v = A.col(k) + k + 1;
      const index m = n - k - 1;
      if (beta[k] > 0)
        for (index j = 0; j < m; ++j) {
          S *q = A.col(k + 1 + j) + k + 1;
          axpy(-beta[k] * dot(v, q, m), v, q, m);
        }
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

// --- one-sided Jacobi ---

/// Rotate pairs of columns of B (and of V alike) until all are orthogonal to `tol`.
template <class S> void orthogonalise_columns(Small<S> &B, Small<S> &V) {
  const index m = B.rows, n = B.cols;
  const double tol = kEps * std::sqrt(static_cast<double>(m));
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
  const index n = A.rows;
  V = A;
  w.assign(static_cast<std::size_t>(n), 0.0);
  const double largest = max_abs(A);
  if (n == 0)
    return;
  if (!(largest > 0)) {
    V = Small<S>::identity(n);
    return;
  }
  const double unit = power_of_two(largest);
  scale(V, 1.0 / unit);
  if (use_lapack(n)) {
    blas::heevd(n, V.data.data(), w.data());
  } else {
    std::vector<double> e;
    tridiagonalise(V, w, e);
    tridiagonal_ql(w, e, V);
  }
  for (double &value : w)
    value *= unit;
  sort_columns(w, V);
}

template <class S> void svd(const Small<S> &A, Small<S> &U, std::vector<double> &s, Small<S> &W) {
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
      orthogonalise_columns(U, W);
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
  template void invert_upper(Small<S> &);                                                          \
  template void eigh(const Small<S> &, std::vector<double> &, Small<S> &);                         \
  template void svd(const Small<S> &, Small<S> &, std::vector<double> &, Small<S> &);
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(complex)
#undef LOWLA_INSTANTIATE

} // namespace lowla::small
