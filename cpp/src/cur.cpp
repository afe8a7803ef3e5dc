// CUR decompositions in main memory (see cur.hpp).
#include "lowla/cur.hpp"

#include "lowla/core/error.hpp"
#include "lowla/orth.hpp"
#include "lowla/pivoting.hpp"
#include "lowla/rsvd.hpp"
#include "lowla/sketch.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowla {

using threads::parallel_for;

namespace {

using Numbers = std::vector<double>;
using Places = std::vector<index>;

constexpr index kOversample = 10; ///< rows of the sketch beyond k
constexpr index kSigns = 8;       ///< nonzeros of the sketch in a column
constexpr int kLevels = 17;       ///< singular values below 10^-level are left out
/// A sketch whose entries are within 2^+- it says that squares of those of A are safe.
constexpr int kSafeExponent = 250;
/// Of the floor below which rounding of the product of the factors decides.
constexpr double kRoundings = 1e4;
constexpr double kEps = std::numeric_limits<double>::epsilon();

std::size_t at(index i) { return static_cast<std::size_t>(i); }

/// NaN or Inf among the entries.
struct NotFinite {};

// --- reading A ---

template <class W> Panel<W> panel_of(const W *data, index rows, index cols, index rs, index cs) {
  Panel<W> out(rows, cols);
  Host<W>::load(out, MatrixView<W>{data, rows, cols, rs, cs, false});
  return out;
}

template <class W> Panel<W> adjoint_panel_of(const std::vector<W> &data, index rows, index n) {
  Panel<W> out(n, rows);
  Host<W>::load(out, MatrixView<W>{data.data(), rows, n, n, 1, false}.adjoint());
  return out;
}

template <class W> SketchSpec sign_spec(index d, index n, std::uint64_t key) {
  return sketch_spec("sjlt", key, d, n, std::min(kSigns, d), 1.0);
}

template <class W> class DenseSource final : public ColumnSource<W> {
public:
  DenseSource(MatrixView<W> A, std::vector<W> owned) : A_(A), owned_(std::move(owned)) {
    if (!owned_.empty())
      A_ = {owned_.data(), A.m, A.n, A.n, 1, false};
    this->m = A.m;
    this->n = A.n;
  }
  std::unique_ptr<typename Host<W>::Matrix> matrix() const override { return Host<W>::dense(A_); }
  std::vector<W> signs(index d, std::uint64_t key) const override {
    std::vector<W> out(at(d * A_.n));
    sketch_dense(sign_spec<W>(d, A_.m, key), A_, out.data());
    return out;
  }
  Panel<W> columns(const Places &cols) const override {
    const index c = static_cast<index>(cols.size());
    std::vector<W> out(at(A_.m * c));
    for_rows(A_.m, [&](index i) {
      for (index j = 0; j < c; ++j)
        out[at(i * c + j)] = entry(i, cols[at(j)]);
    });
    return panel_of(out.data(), A_.m, c, c, 1);
  }
  Panel<W> adjoint_rows(const Places &rows) const override {
    std::vector<W> out(rows.size() * at(A_.n));
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (index j = 0; j < A_.n; ++j)
        out[r * at(A_.n) + at(j)] = entry(rows[r], j);
    return adjoint_panel_of(out, static_cast<index>(rows.size()), A_.n);
  }
  std::unique_ptr<ColumnSource<W>> scaled(int exponent) const override {
    std::vector<W> copy(at(A_.m * A_.n));
    for_rows(A_.m, [&](index i) {
      for (index j = 0; j < A_.n; ++j)
        copy[at(i * A_.n + j)] = times_power(entry(i, j), exponent);
    });
    return std::make_unique<DenseSource>(MatrixView<W>{nullptr, A_.m, A_.n, A_.n, 1, false},
                                         std::move(copy));
  }
  static W times_power(W x, int exponent) {
    const double half = std::ldexp(1.0, exponent / 2);
    return x * half * std::ldexp(1.0, exponent - exponent / 2);
  }

private:
  W entry(index i, index j) const {
    const W x = *A_.at(i, j);
    return A_.conjugated ? W(conj_of(x)) : x;
  }
  template <class F> static void for_rows(index m, F &&f) {
    constexpr index kRows = 256;
    parallel_for((m + kRows - 1) / kRows, [&](index c) {
      for (index i = c * kRows; i < std::min(m, (c + 1) * kRows); ++i)
        f(i);
    });
  }

  MatrixView<W> A_;
  std::vector<W> owned_;
};

template <class W, class I> class CsrSource final : public ColumnSource<W> {
public:
  CsrSource(CsrView<W, I> A, std::vector<W> owned) : A_(A), owned_(std::move(owned)) {
    if (!owned_.empty())
      A_.data = owned_.data();
    this->m = A.m;
    this->n = A.n;
  }
  std::unique_ptr<typename Host<W>::Matrix> matrix() const override { return Host<W>::csr(A_); }
  std::vector<W> signs(index d, std::uint64_t key) const override {
    std::vector<W> out(at(d * A_.n));
    sketch_csr(sign_spec<W>(d, A_.m, key), A_, out.data());
    return out;
  }
  Panel<W> columns(const Places &cols) const override {
    const index c = static_cast<index>(cols.size());
    Places slot(at(A_.n), -1);
    for (index j = 0; j < c; ++j)
      slot[at(cols[at(j)])] = j;
    std::vector<W> out(at(A_.m * c), W(0));
    for (index i = 0; i < A_.m; ++i)
      for (I t = A_.indptr[i]; t < A_.indptr[i + 1]; ++t)
        if (const index j = slot[at(static_cast<index>(A_.indices[t]))]; j >= 0)
          out[at(i * c + j)] += A_.data[t];
    return panel_of(out.data(), A_.m, c, c, 1);
  }
  Panel<W> adjoint_rows(const Places &rows) const override {
    std::vector<W> out(rows.size() * at(A_.n), W(0));
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (I t = A_.indptr[rows[r]]; t < A_.indptr[rows[r] + 1]; ++t)
        out[r * at(A_.n) + at(static_cast<index>(A_.indices[t]))] += A_.data[t];
    return adjoint_panel_of(out, static_cast<index>(rows.size()), A_.n);
  }
  std::unique_ptr<ColumnSource<W>> scaled(int exponent) const override {
    std::vector<W> copy(A_.data, A_.data + static_cast<index>(A_.indptr[A_.m]));
    for (W &x : copy)
      x = DenseSource<W>::times_power(x, exponent);
    return std::make_unique<CsrSource>(A_, std::move(copy));
  }

private:
  CsrView<W, I> A_;
  std::vector<W> owned_;
};

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

/// Rows of a panel as a row-major matrix, transposed: (cols x count).
template <class W> std::vector<W> transposed(const Panel<W> &X, const Places &rows) {
  std::vector<W> all(at(X.rows * X.cols)), out(rows.size() * at(X.cols));
  Host<W>::store(X, std::vector<W>(at(X.cols), W(1)), all.data(), X.cols, 1, false);
  for (std::size_t r = 0; r < rows.size(); ++r)
    for (index j = 0; j < X.cols; ++j)
      out[at(j) * rows.size() + r] = all[at(rows[r] * X.cols + j)];
  return out;
}

Places all_but(index n, const Places &chosen) {
  std::vector<char> left(at(n), 1);
  for (const index i : chosen)
    left[at(i)] = 0;
  Places out;
  for (index i = 0; i < n; ++i)
    if (left[at(i)])
      out.push_back(i);
  return out;
}

/// `count` rows of the orthonormal B: QR pivots, and those of what is left for more of them.
template <class W> Places chosen_rows(const Panel<W> &B, index count) {
  Places rows;
  while (static_cast<index>(rows.size()) < count) {
    const Places rest = all_but(B.rows, rows);
    const index more = count - static_cast<index>(rows.size());
    if (B.cols == 0) {
      rows.insert(rows.end(), rest.begin(), rest.begin() + more);
      break;
    }
    std::vector<W> Y = transposed(B, rest);
    const index n = static_cast<index>(rest.size());
    const PivotedQr<W> found = pivoted_qr(Y.data(), n, B.cols, n, B.cols, 0.0);
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
  std::vector<W> all = transposed(Rh, cols); // r x c, conjugated
  Small<W> core(r, c), left, Z;
  for (index i = 0; i < r; ++i)
    for (index j = 0; j < c; ++j)
      core(i, j) = conj_of(all[at(i * c + j)]);
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

template <class W> void round_to(Small<W> &U, double eps) {
  if (eps < 1e-10)
    return;
  for (W &x : U.data) {
    if constexpr (is_complex_v<W>)
      x = W(static_cast<float>(x.real()), static_cast<float>(x.imag()));
    else
      x = static_cast<float>(x);
  }
}

// --- the decomposition ---

template <class W> class Decomposition {
public:
  using Device = Host<W>;

  Decomposition(const ColumnSource<W> &A, const CurRequest &request)
      : A_(A), request_(request), matrix_(A.matrix()) {}

  Cur<W> run() {
    const workspace::Scope scope;
    const Places cols = chosen_columns();
    return solved(cols);
  }

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
      const std::vector<W> Y = sketch(k);
      std::vector<W> across(Y.size());
      for (index i = 0; i < k; ++i)
        for (index j = 0; j < A_.n; ++j)
          across[at(j * k + i)] = conj_of(Y[at(i * A_.n + j)]);
      Places perm = pivoted_lu_rows(across.data(), k, A_.n, k);
      perm.resize(at(k));
      return perm;
    }
    const index l = std::min(k + kOversample, A_.m);
    std::vector<W> Y = l == A_.m ? entries() : sketch(l);
    Places perm = pivoted_qr(Y.data(), A_.n, l, A_.n, k, tolerance()).perm;
    perm.resize(at(k));
    return perm;
  }

  /// A itself, row-major.
  std::vector<W> entries() {
    Places rows(at(A_.m));
    std::iota(rows.begin(), rows.end(), index(0));
    const Panel<W> Ah = A_.adjoint_rows(rows);
    std::vector<W> out(at(A_.m * A_.n));
    Device::store(Ah, std::vector<W>(at(A_.m), W(1)), out.data(), 1, A_.n, true);
    return require_finite(std::move(out));
  }

  /// S A: one read.
  std::vector<W> sketch(index l) {
    facts_.sketch_rows = l;
    if (!request_.gaussian) {
      ++matrix_->reads;
      return require_finite(A_.signs(l, request_.key));
    }
    Panel<W> start(A_.m, l), Y(A_.n, l);
    Device::fill_normal(start, request_.key, philox::kStreamGaussian);
    matrix_->multiply_adjoint(start, Y);
    std::vector<W> out(at(l * A_.n));
    Device::store(Y, std::vector<W>(at(l), W(1)), out.data(), 1, A_.n, true);
    return require_finite(std::move(out));
  }

  /// The same of A itself: one read.
  void require_safe() {
    bool finite = true;
    const double largest = matrix_->scan(finite);
    if (!finite || (largest > 0 && std::abs(std::ilogb(largest)) > kSafeExponent))
      throw NotFinite();
  }

  static std::vector<W> require_finite(std::vector<W> Y) {
    double largest = 0;
    bool finite = true;
    for (const W &x : Y) {
      const double size = std::abs(x);
      finite = finite && std::isfinite(size);
      largest = std::max(largest, size);
    }
    if (!finite || (largest > 0 && std::abs(std::ilogb(largest)) > kSafeExponent))
      throw NotFinite();
    return Y;
  }

  /// DEIM on, or sampling by, the leading right singular vectors.
  Places from_singular_vectors() {
    LowRankRequest low_rank;
    low_rank.k = request_.k;
    low_rank.key = request_.key;
    low_rank.check_finite = false;
    require_safe();
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
    const std::vector<W> Vt = transposed(V, everything); // rank x n
    if (request_.method == "leverage") {
      Numbers scores(at(A_.n), 0.0);
      for (index i = 0; i < rank; ++i)
        for (index j = 0; j < A_.n; ++j)
          scores[at(j)] += abs2(Vt[at(i * A_.n + j)]);
      return distinct_sample(scores, k + extra());
    }
    std::vector<W> across(at(A_.n * rank));
    for (index i = 0; i < rank; ++i)
      for (index j = 0; j < A_.n; ++j)
        across[at(j * rank + i)] = Vt[at(i * A_.n + j)];
    Places perm = pivoted_lu_rows(across.data(), rank, A_.n, rank);
    perm.resize(at(k));
    return perm;
  }

  /// The smallest of the keys -log(1 - u) / w: sampling without replacement (Efraimidis, Spirakis,
  /// Inf. Process. Lett. 97, 2006); columns without weight come last, in order.
  Places distinct_sample(const Numbers &weights, index count) const {
    Numbers keys(weights.size(), std::numeric_limits<double>::infinity());
    for (std::size_t j = 0; j < weights.size(); ++j) {
      if (!(weights[j] > 0))
        continue;
      const philox::Words words = philox::block(request_.key, philox::kStreamColumns, 0, j);
      const std::uint64_t bits =
          (static_cast<std::uint64_t>(words.w[0]) << 21) | (words.w[1] >> 11);
      keys[j] = -std::log1p(-static_cast<double>(bits) * 0x1p-53) / weights[j];
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
      round_to(U, request_.eps);
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
    if (tail2 > kRoundings * rounding * rounding &&
        relative > std::sqrt(5e3 * unit_roundoff<W>())) {
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
  CurFacts facts_;
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

template <class T> std::unique_ptr<ColumnSource<wide_t<T>>> column_source(MatrixView<T> A) {
  using W = wide_t<T>;
  if constexpr (std::is_same_v<T, W>) {
    return std::make_unique<DenseSource<W>>(A, std::vector<W>());
  } else {
    std::vector<W> copy(at(A.m * A.n));
    for (index i = 0; i < A.m; ++i)
      for (index j = 0; j < A.n; ++j) {
        const W x(*A.at(i, j));
        copy[at(i * A.n + j)] = A.conjugated ? W(conj_of(x)) : x;
      }
    return std::make_unique<DenseSource<W>>(MatrixView<W>{nullptr, A.m, A.n, A.n, 1, false},
                                            std::move(copy));
  }
}

template <class T, class I>
std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, I> A) {
  using W = wide_t<T>;
  if constexpr (std::is_same_v<T, W>) {
    return std::make_unique<CsrSource<W, I>>(A, std::vector<W>());
  } else {
    std::vector<W> values(A.data, A.data + static_cast<index>(A.indptr[A.m]));
    return std::make_unique<CsrSource<W, I>>(CsrView<W, I>{A.indptr, A.indices, nullptr, A.m, A.n},
                                             std::move(values));
  }
}

template <class W> Cur<W> cur(const ColumnSource<W> &A, const CurRequest &request) {
  try {
    return Decomposition<W>(A, request).run();
  } catch (const NotFinite &) { // or far from 1: then all is done for another power of two
  }
  bool finite = true;
  const double largest = A.matrix()->scan(finite);
  if (!finite) {
    if (request.check_finite)
      throw ValueError("A contains NaN or Inf");
    return unknown<W>(request);
  }
  const int exponent = -std::ilogb(largest);
  const auto scaled = A.scaled(exponent);
  Cur<W> out = Decomposition<W>(*scaled, request).run();
  for (W &x : out.U.data)
    x = DenseSource<W>::times_power(x, exponent);
  return out;
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<ColumnSource<wide_t<T>>> column_source(MatrixView<T>);                  \
  template std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, std::int32_t>);       \
  template std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, std::int64_t>);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE
template Cur<double> cur(const ColumnSource<double> &, const CurRequest &);
template Cur<std::complex<double>> cur(const ColumnSource<std::complex<double>> &,
                                       const CurRequest &);

} // namespace lowla
