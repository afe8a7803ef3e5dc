// Pivoted factorisations of small dense matrices (see pivoting.hpp).
#include "lowla/pivoting.hpp"

#include "lowla/core/row_sums.hpp"
#include "lowla/core/threads.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowla {

using threads::for_spans;

namespace {

using Complex = std::complex<double>;

/// Reflectors that are applied together.
constexpr index kBlock = 32;
/// Columns of a chunk: a row of it and its sums stay in the first-level cache.
constexpr index kColumns = 512;
constexpr double kEps = std::numeric_limits<double>::epsilon();

/// The factorisation, column by column; row-major Y, reflectors in V (by rows, v_s(s) = 1).
template <class W> class Factorisation {
public:
  Factorisation(W *Y, index ld, index l, index n, index k)
      : Y_(Y), ld_(ld), l_(l), n_(n), k_(std::min({k, l, n})), V_(at(kBlock * l)),
        F_(at(kBlock * n)), norms_(at(n)), known_(at(n)), perm_(at(n)) {
    std::iota(perm_.begin(), perm_.end(), index(0));
    for_spans(0, n, kColumns, [&](index first, index last) {
      for (index j = first; j < last; ++j)
        norms_[at(j)] = known_[at(j)] = norm_below(0, j);
    });
  }

  PivotedQr<W> run(double tol) {
    for (index begin = 0; begin < k_; begin = done_)
      block(begin);
    PivotedQr<W> out;
    out.perm = perm_;
    out.left.assign(norms_.begin() + k_, norms_.end());
    out.R = Small<W>(k_, n_);
    for (index i = 0; i < k_; ++i) {
      const W d = Y_[i * ld_ + i];
      const double size = std::abs(d);
      const W phase = size > 0 ? conj_of(d) / size : W(1);
      for (index j = i; j < n_; ++j)
        out.R(i, j) = phase * Y_[i * ld_ + j];
    }
    double largest = 0;
    for (index i = 0; i < k_; ++i)
      largest = std::max(largest, std::abs(out.R(i, i)));
    for (index i = 0; i < k_; ++i)
      out.rank += std::abs(out.R(i, i)) > tol * largest ? 1 : 0;
    return out;
  }

private:
  double norm_below(index row, index j) const {
    double largest = 0, sum = 0;
    for (index i = row; i < l_; ++i)
      largest = std::max(largest, std::abs(Y_[i * ld_ + j]));
    if (!(largest > 0))
      return largest;
    for (index i = row; i < l_; ++i)
      sum += abs2(Y_[i * ld_ + j] / largest);
    return largest * std::sqrt(sum);
  }

  /// Up to kBlock steps; fewer where norms have to be computed again. What the reflectors do to the
  /// other columns' rows below is left to the end: Y -= V F.
  void block(index begin) {
    const index end = std::min(k_, begin + kBlock);
    bool lost = false;
    index t = begin;
    for (; t < end && !lost; ++t)
      lost = step(begin, t);
    done_ = t;
    const index count = t - begin;
    for_spans(t, n_, kColumns, [&](index first, index last) {
      W a[kBlock];
      for (index i = t; i < l_; ++i) {
        for (index s = 0; s < count; ++s)
          a[s] = -V_[at(s * l_ + i)];
        add_rows(F_.data() + first, n_, count, a, last - first, Y_ + i * ld_ + first);
      }
      for (index j = first; j < last; ++j)
        if (known_[at(j)] < 0)
          norms_[at(j)] = known_[at(j)] = norm_below(t, j);
    });
  }

  /// Pivot, reflector and row t; true where the norm of a column has lost its digits.
  bool step(index begin, index t) {
    const index s = t - begin;
    const index pivot = std::max_element(norms_.begin() + t, norms_.end()) - norms_.begin();
    if (pivot != t)
      swap_columns(t, pivot, s);
    // The pivot column as the reflectors of this block leave it.
    for (index i = t; i < l_; ++i)
      for (index q = 0; q < s; ++q)
        Y_[i * ld_ + t] -= V_[at(q * l_ + i)] * F_[at(q * n_ + t)];
    const W tau = reflect(t, s);
    W *v = V_.data() + s * l_, *f = F_.data() + s * n_;
    // tau v^H V of the earlier reflectors.
    W with[kBlock];
    for (index q = 0; q < s; ++q) {
      W dot(0);
      for (index i = t; i < l_; ++i)
        dot += conj_of(v[i]) * V_[at(q * l_ + i)];
      with[q] = -tau * dot;
    }
    std::vector<W> scaled(at(l_));
    for (index i = t; i < l_; ++i)
      scaled[at(i)] = tau * conj_of(v[i]);
    const index chunks = (n_ - t - 1 + kColumns - 1) / kColumns;
    std::vector<char> lost(at(std::max<index>(chunks, 1)), 0);
    for_spans(t + 1, n_, kColumns, [&](index first, index last) {
      const index width = last - first;
      std::fill(f + first, f + last, W(0));
      add_rows(Y_ + t * ld_ + first, ld_, l_ - t, scaled.data() + t, width, f + first);
      add_rows(F_.data() + first, n_, s, with, width, f + first);
      W a[kBlock];
      for (index q = 0; q <= s; ++q)
        a[q] = -V_[at(q * l_ + t)];
      add_rows(F_.data() + first, n_, s + 1, a, width, Y_ + t * ld_ + first);
      for (index j = first; j < last; ++j)
        if (!downdate(t, j))
          lost[at((first - t - 1) / kColumns)] = 1;
    });
    return std::find(lost.begin(), lost.end(), 1) != lost.end();
  }

  void swap_columns(index a, index b, index rows_of_f) {
    for (index i = 0; i < l_; ++i)
      std::swap(Y_[i * ld_ + a], Y_[i * ld_ + b]);
    for (index q = 0; q < rows_of_f; ++q)
      std::swap(F_[at(q * n_ + a)], F_[at(q * n_ + b)]);
    std::swap(perm_[at(a)], perm_[at(b)]);
    norms_[at(b)] = norms_[at(a)];
    known_[at(b)] = known_[at(a)];
  }

  /// Householder vector of column t from row t on, v(t) = 1; Y(t, t) becomes the diagonal of R.
  W reflect(index t, index s) {
    W *v = V_.data() + s * l_;
    std::fill(v, v + l_, W(0));
    v[t] = W(1);
    const double norm = norm_below(t, t);
    const W alpha = Y_[t * ld_ + t];
    if (!(norm > 0) || (norm == std::abs(alpha) && real_of(alpha) == std::abs(alpha)))
      return W(0); // nothing below, and no sign to change
    const double beta = real_of(alpha) > 0 ? -norm : norm;
    const W pivot = alpha - W(beta);
    for (index i = t + 1; i < l_; ++i)
      v[i] = Y_[i * ld_ + t] / pivot;
    Y_[t * ld_ + t] = W(beta);
    return conj_of((W(beta) - alpha) / W(beta)); // H^H = I - conj(tau) v v^H
  }

  /// The norm of column j below row t; false where it has lost its digits (it is negative then).
  bool downdate(index t, index j) {
    double &norm = norms_[at(j)], &known = known_[at(j)];
    if (!(norm > 0))
      return true;
    const double ratio = std::abs(Y_[t * ld_ + j]) / norm;
    const double left = std::max(0.0, (1 + ratio) * (1 - ratio));
    const double since = norm / known;
    if (left * since * since <= std::sqrt(kEps)) {
      known = -1;
      return false;
    }
    norm *= std::sqrt(left);
    return true;
  }

  W *Y_;
  const index ld_, l_, n_, k_;
  std::vector<W> V_, F_;
  std::vector<double> norms_, known_; ///< downdated; when last computed
  Places perm_;
  index done_ = 0;
};

} // namespace

template <class W> PivotedQr<W> pivoted_qr(W *Y, index ld, index l, index n, index k, double tol) {
  return Factorisation<W>(Y, ld, l, n, k).run(tol);
}

template <class W> Places pivoted_lu_rows(W *Y, index ld, index m, index k) {
  Places perm(at(m));
  std::iota(perm.begin(), perm.end(), index(0));
  for (index t = 0; t < std::min(m, k); ++t) {
    index pivot = t;
    double largest = -1;
    for (index i = t; i < m; ++i) {
      const W x = Y[i * ld + t];
      const double size = std::abs(real_of(x)) + std::abs(x - W(real_of(x)));
      if (size > largest) {
        largest = size;
        pivot = i;
      }
    }
    if (pivot != t) {
      std::swap(perm[at(t)], perm[at(pivot)]);
      std::swap_ranges(Y + t * ld, Y + t * ld + k, Y + pivot * ld);
    }
    if (!(largest > 0))
      continue;
    const W *top = Y + t * ld;
    for (index i = t + 1; i < m; ++i) {
      W *row = Y + i * ld;
      const W factor = row[t] / top[t];
      for (index j = t + 1; j < k; ++j)
        row[j] -= factor * top[j];
    }
  }
  std::sort(perm.begin() + std::min(m, k), perm.end());
  return perm;
}

Places rest_of(index n, const Places &chosen) {
  std::vector<char> left(at(n), 1);
  for (const index i : chosen)
    left[at(i)] = 0;
  Places out;
  for (index i = 0; i < n; ++i)
    if (left[at(i)])
      out.push_back(i);
  return out;
}

template PivotedQr<double> pivoted_qr(double *, index, index, index, index, double);
template PivotedQr<Complex> pivoted_qr(Complex *, index, index, index, index, double);
template Places pivoted_lu_rows(double *, index, index, index);
template Places pivoted_lu_rows(Complex *, index, index, index);

} // namespace lowla
