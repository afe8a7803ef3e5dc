// CUR decompositions in main memory (see cur.hpp).
#include "lowla/cur.hpp"

#include "lowla/orth.hpp"
#include "lowla/rsvd.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowla {

namespace {

using Numbers = std::vector<double>;

constexpr index kOversample = 10; ///< rows of the sketch beyond k
constexpr index kSigns = 4;       ///< nonzeros of the sketch in a column
constexpr int kLevels = 17;       ///< singular values below 10^-level are left out
/// Of the floor below which rounding of the product of the factors decides.
constexpr double kRoundings = 1e4;
constexpr double kEps = std::numeric_limits<double>::epsilon();

// --- bases ---

/// X = basis diag(s) Z^H without the singular values that are rounding errors.
template <class W> struct Span {
  Panel<W> basis;
  Numbers s;
  Small<W> Z;

  Span(const Panel<W> &X, double tolerance) {
    using Device = Host<W>;
    Small<W> left;
    if (X.rows >= X.cols) {
      basis = Device::copy(X);
      const Small<W> R = Orthonormaliser<Device>(0).qr(basis);
      small::svd(R, left, s, Z);
    } else { // few rows: those of X^H are many
      Small<W> wide(X.rows, X.cols);
      Panel<W> eye(X.rows, X.rows);
      Device::set_identity(eye);
      wide = Device::inner({&eye}, X);
      small::svd(small::adjoint(wide), Z, s, left);
      basis = std::move(eye);
    }
    const double least = tolerance * (s.empty() ? 0.0 : s.front());
    index kept = 0;
    while (kept < static_cast<index>(s.size()) && s[at(kept)] > least)
      ++kept;
    s.resize(at(kept));
    Z = Z.columns(0, kept);
    basis = Device::combine({&basis}, left.columns(0, kept));
  }
  index rank() const { return static_cast<index>(s.size()); }
  /// How many singular values are above 10^-level of the largest.
  index above(int level) const { return above(s, level); }
  static index above(const Numbers &s, int level) {
    const double least = s.empty() ? 0.0 : s.front() * std::pow(10.0, -level);
    return std::count_if(s.begin(), s.end(), [&](double x) { return x > least; });
  }
};

/// Rows of a panel, transposed: (cols x count).
template <class W> Entries<W> transposed(const Panel<W> &X, const Places &rows) {
  Entries<W> all(X.rows, X.cols), out(X.cols, static_cast<index>(rows.size()));
  Host<W>::store(X, std::vector<W>(at(X.cols), W(1)), all.row(0), X.cols, 1, false);
  for (index r = 0; r < out.cols; ++r)
    for (index j = 0; j < X.cols; ++j)
      out.row(j)[r] = all.row(rows[at(r)])[j];
  return out;
}

/// Y^H
template <class W> Entries<W> adjoint_of(const Entries<W> &Y) {
  Entries<W> out(Y.cols, Y.rows);
  for (index i = 0; i < Y.rows; ++i)
    for (index j = 0; j < Y.cols; ++j)
      out.row(j)[i] = conj_of(Y.row(i)[j]);
  return out;
}

/// `count` rows of the orthonormal B: QR pivots, and those of what is left for more of them.
template <class W> Places chosen_rows(const Panel<W> &B, index count) {
  Places rows;
  while (static_cast<index>(rows.size()) < count) {
    const Places rest = rest_of(B.rows, rows);
    const index more = count - static_cast<index>(rows.size());
    if (B.cols == 0) {
      rows.insert(rows.end(), rest.begin(), rest.begin() + more);
      break;
    }
    Entries<W> Y = transposed(B, rest);
    const index n = Y.cols;
    const PivotedQr<W> found = pivoted_qr(Y.row(0), n, B.cols, n, B.cols, 0.0);
    const index take = std::min({std::max<index>(found.rank, 1), more, n});
    for (index j = 0; j < take; ++j)
      rows.push_back(rest[at(found.perm[at(j)])]);
  }
  return rows;
}

template <class W> double squared(const Small<W> &A) {
  double sum = 0;
  for (const W &x : A.data)
    sum += abs2(x);
  return sum;
}
double norm(const Numbers &s) {
  return std::sqrt(std::inner_product(s.begin(), s.end(), s.begin(), 0.0));
}

/// Z(:, :a) inner (a x b) Y(:, :b)^H
template <class W> Small<W> between(const Small<W> &Z, const Small<W> &inner, const Small<W> &Y) {
  return small::multiply(small::multiply(Z.columns(0, inner.rows), inner),
                         small::adjoint(Y.columns(0, inner.cols)));
}

/// Candidates for U = C^+ A R^+, both pseudoinverses truncated at one level.
template <class W>
std::vector<Small<W>> middles(const Span<W> &left, const Span<W> &right, const Small<W> &G) {
  std::vector<std::pair<index, index>> sizes;
  for (int level = 0; level < kLevels; ++level)
    sizes.emplace_back(left.above(level), right.above(level));
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  std::vector<Small<W>> found;
  for (const auto &[a, b] : sizes) {
    Small<W> inner(a, b);
    for (index j = 0; j < b; ++j)
      for (index i = 0; i < a; ++i)
        inner(i, j) = G(i, j) / (left.s[at(i)] * right.s[at(j)]);
    found.push_back(between(left.Z, inner, right.Z));
  }
  return found;
}

/// Candidates for U = A[rows, cols]^+, truncated; R^H (n x r) holds the rows.
template <class W> std::vector<Small<W>> crosses(const Panel<W> &Rh, const Places &cols) {
  const index r = Rh.cols, c = static_cast<index>(cols.size());
  const Entries<W> all = transposed(Rh, cols); // r x c, conjugated
  Small<W> core(r, c), left, Z;
  for (index i = 0; i < r; ++i)
    for (index j = 0; j < c; ++j)
      core(i, j) = conj_of(all.row(i)[j]);
  Numbers s;
  small::svd(core, left, s, Z);
  std::vector<Small<W>> found;
  index last = -1;
  for (int level = 0; level < kLevels; ++level) {
    const index a = Span<W>::above(s, level);
    if (a == last)
      continue;
    last = a;
    Small<W> scaled = Z.columns(0, a);
    for (index j = 0; j < a; ++j)
      for (index i = 0; i < c; ++i)
        scaled(i, j) /= s[at(j)];
    found.push_back(small::multiply(scaled, small::adjoint(left.columns(0, a))));
  }
  return found;
}

// --- the decomposition ---

template <class W> class Decomposition {
public:
  using Device = Host<W>;

  Decomposition(const ColumnSource<W> &A, const CurRequest &request)
      : A_(A), request_(request), matrix_(A.matrix()) {}

  Cur<W> run() { return solved(chosen_columns()); }

private:
  double tolerance() const {
    return static_cast<double>(std::max(A_.m, A_.n)) * unit_roundoff<W>();
  }
  index extra() const { return request_.oversample; }

  Places chosen_columns() {
    const index k = request_.k;
    if (request_.method == "deim" || request_.method == "leverage")
      return from_singular_vectors();
    if (request_.method == "lupp") {
      Entries<W> across = adjoint_of(sketch(k));
      Places perm = pivoted_lu_rows(across.row(0), k, A_.n, k);
      perm.resize(at(k));
      return perm;
    }
    const index l = std::min(k + kOversample, A_.m);
    Entries<W> Y = l == A_.m ? require_safe(A_.entries()) : sketch(l);
    Places perm = pivoted_qr(Y.row(0), A_.n, l, A_.n, k, tolerance()).perm;
    perm.resize(at(k));
    return perm;
  }

  /// S A: one read.
  Entries<W> sketch(index l) {
    facts_.sketch_rows = l;
    ++matrix_->reads;
    return require_safe(request_.gaussian ? A_.gaussian(l, request_.key, philox::kStreamGaussian)
                                          : A_.signs(l, kSigns, request_.key));
  }

  /// DEIM on, or sampling by, the leading right singular vectors.
  Places from_singular_vectors() {
    LowRankRequest low_rank;
    low_rank.k = request_.k;
    low_rank.key = request_.key;
    low_rank.check_finite = false;
    require_safe<W>(*matrix_);
    const auto r = LowRank<Device>(*matrix_, low_rank).svd();
    const index rank = r.facts.rank, k = request_.k;
    Places everything(at(A_.n));
    std::iota(everything.begin(), everything.end(), index(0));
    auto kept = Small<W>::identity(r.right.cols).columns(0, rank);
    const std::vector<W> peaks = Device::peaks(r.left); // LU pivots depend on the phases
    for (index j = 0; j < rank; ++j)
      if (const double size = std::abs(peaks[at(j)]); size > 0)
        kept(j, j) = conj_of(peaks[at(j)]) / size;
    const Panel<W> V = Device::combine({&r.right}, kept);
    const Entries<W> Vt = transposed(V, everything); // rank x n
    if (request_.method == "leverage") {
      Numbers scores(at(A_.n), 0.0);
      for (index i = 0; i < rank; ++i)
        for (index j = 0; j < A_.n; ++j)
          scores[at(j)] += abs2(Vt.row(i)[j]);
      return distinct_sample(scores, k + extra());
    }
    Entries<W> across(A_.n, rank);
    for (index i = 0; i < rank; ++i)
      for (index j = 0; j < A_.n; ++j)
        across.row(j)[i] = Vt.row(i)[j];
    Places perm = pivoted_lu_rows(across.row(0), rank, A_.n, rank);
    perm.resize(at(k));
    return perm;
  }

  /// The smallest of the keys -log(1 - u) / w: sampling without replacement (Efraimidis, Spirakis,
  /// Inf. Process. Lett. 97, 2006); columns without weight come last, in order.
  Places distinct_sample(const Numbers &weights, index count) const {
    Numbers keys(weights.size(), std::numeric_limits<double>::infinity());
    for (std::size_t j = 0; j < weights.size(); ++j) {
      const double u =
          philox::uniform(request_.key, philox::kStreamColumns, 0, static_cast<index>(j));
      if (weights[j] > 0)
        keys[j] = -std::log1p(-u) / weights[j];
    }
    Places order(weights.size());
    std::iota(order.begin(), order.end(), index(0));
    std::stable_sort(order.begin(), order.end(),
                     [&](index a, index b) { return keys[at(a)] < keys[at(b)]; });
    order.resize(at(count));
    return order;
  }

  /// Rows and the middle factor for given columns: one read of A.
  Cur<W> solved(const Places &cols) {
    const Panel<W> C = A_.columns(cols);
    const Span<W> left(C, tolerance());
    Cur<W> out;
    out.cols = cols;
    out.rows = chosen_rows(left.basis, request_.k + extra());
    const Panel<W> Rh = A_.adjoint_rows(out.rows);
    const Span<W> right(Rh, tolerance());
    double norm2 = 0;
    const Small<W> G = projected(left, right, norm2);
    const double captured = squared(G);
    double misfit2 = captured;
    out.U = Small<W>(static_cast<index>(cols.size()), static_cast<index>(out.rows.size()));
    for (Small<W> &U : request_.cross ? crosses(Rh, cols) : middles(left, right, G)) {
      round_to(U.data.data(), U.data.data() + U.data.size(), request_.eps);
      Small<W> M = small::multiply(small::multiply(small::adjoint(left.Z), U), right.Z);
      for (index j = 0; j < M.cols; ++j)
        for (index i = 0; i < M.rows; ++i)
          M(i, j) = G(i, j) - left.s[at(i)] * M(i, j) * right.s[at(j)];
      const double off2 = squared(M);
      if (off2 < misfit2) {
        misfit2 = off2;
        out.U = std::move(U);
      }
    }
    certify(out, C, Rh, left, right, norm2, norm2 - captured + misfit2);
    const double least =
        static_cast<double>(std::max(A_.m, A_.n)) * request_.eps * (left.s.empty() ? 0 : left.s[0]);
    facts_.rank = std::count_if(left.s.begin(), left.s.end(), [&](double s) { return s > least; });
    facts_.passes = matrix_->reads;
    out.facts = facts_;
    return out;
  }

  /// B^H A V, and ||A||_F^2: one read of A.
  Small<W> projected(const Span<W> &left, const Span<W> &right, double &norm2) {
    if (left.rank() > 0 && right.rank() > 0) {
      Panel<W> AV(A_.m, right.rank());
      matrix_->multiply(right.basis, AV, &norm2);
      return Device::inner({&left.basis}, AV);
    }
    Panel<W> nothing(A_.n, 1), product(A_.m, 1);
    nothing.zero();
    matrix_->multiply(nothing, product, &norm2);
    return Small<W>(left.rank(), right.rank());
  }

  /// The error by the identity where that is accurate to 1 %, else by a read.
  void certify(const Cur<W> &d, const Panel<W> &C, const Panel<W> &Rh, const Span<W> &left,
               const Span<W> &right, double norm2, double tail2) {
    if (norm2 == 0)
      return;
    const double rounding = norm(left.s) * std::sqrt(squared(d.U)) * norm(right.s) * kEps;
    const double relative = std::sqrt(std::max(tail2, 0.0) / norm2);
    if (tail2 > kRoundings * rounding * rounding && relative > identity_floor<W>()) {
      facts_.error = relative;
      facts_.error_method = "identity";
      return;
    }
    const Panel<W> V = Device::combine({&Rh}, small::adjoint(d.U));
    const double left2 = matrix_->residual_norm2(C, Numbers(at(C.cols), 1.0), V);
    facts_.error = std::sqrt(left2 / norm2);
    facts_.error_method = "residual";
  }

  const ColumnSource<W> &A_;
  const CurRequest &request_;
  std::unique_ptr<typename Device::Matrix> matrix_;
  ColumnsFacts facts_;
};

template <class W> Cur<W> unknown(const CurRequest &request) {
  Cur<W> out;
  const index count = request.k + request.oversample;
  out.rows.resize(at(count));
  std::iota(out.rows.begin(), out.rows.end(), index(0));
  out.cols = out.rows;
  if (request.method != "leverage")
    out.cols.resize(at(request.k));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  out.U = Small<W>(static_cast<index>(out.cols.size()), count);
  std::fill(out.U.data.begin(), out.U.data.end(), W(nan));
  out.facts.error = nan;
  out.facts.passes = 1;
  return out;
}

} // namespace

template <class W> Cur<W> cur(const ColumnSource<W> &A, const CurRequest &request) {
  const workspace::Scope scope;
  return at_safe_scale(
      A, request.check_finite,
      [&](const ColumnSource<W> &safe, int exponent) {
        Cur<W> out = Decomposition<W>(safe, request).run();
        for (W &x : out.U.data)
          x = times_power(x, exponent);
        return out;
      },
      [&] { return unknown<W>(request); });
}

template Cur<double> cur(const ColumnSource<double> &, const CurRequest &);
template Cur<std::complex<double>> cur(const ColumnSource<std::complex<double>> &,
                                       const CurRequest &);

} // namespace lowla
