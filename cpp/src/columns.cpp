// Interpolative decompositions and pivoted QR in main memory (see columns.hpp).
#include "lowla/columns.hpp"

#include "lowla/core/row_sums.hpp"
#include "lowla/orth.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace lowla {

using threads::for_spans;
using threads::parallel_for;

namespace {

constexpr index kBlocks = 4;           ///< of the sketch that stands for A; one is held out
constexpr index kPivotSigns = 4;       ///< nonzeros in a column of the sketch for pivots alone
constexpr index kCompressionSigns = 8; ///< the same of that sketch's own compression
constexpr index kManyRows = 100;       ///< for a column: from there on one read beats two
constexpr double kSlack = 1e-6;        ///< relative, above rounding: what an exchange has to gain
constexpr index kChunk = 512; ///< columns of a chunk: their sums stay in the first-level cache

/// X <- R^-1 X for the leading triangle of R and as many rows of X.
template <class W> void solve_triangle(const Small<W> &R, index r, Entries<W> &X) {
  for_spans(0, X.cols, kChunk, [&](index first, index last) {
    std::vector<W> a(at(r));
    for (index i = r - 1; i >= 0; --i) {
      for (index j = i + 1; j < r; ++j)
        a[at(j)] = -R(i, j);
      W *x = X.row(i) + first;
      add_rows(X.row(i + 1) + first, X.cols, r - 1 - i, a.data() + i + 1, last - first, x);
      for (index j = 0; j < last - first; ++j)
        x[j] /= R(i, i);
    }
  });
}

template <class W> double squared(const Entries<W> &X) {
  std::vector<double> sums(at(X.rows));
  parallel_for(X.rows, [&](index i) {
    const auto *x = reinterpret_cast<const double *>(X.row(i));
    sums[at(i)] = simd::dense<double>().sum_squares(x, scalar_traits<W>::planes * X.cols);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

template <class W> double squared(const Panel<W> &P) {
  double sum = 0;
  for (index j = 0; j < P.rows; ++j)
    sum += simd::dense<double>().sum_squares(P.row(j), P.ld);
  return sum;
}

/// A place of the largest number, the first of equals.
struct Largest {
  double value = -1;
  index row = 0, col = 0;
  void see(double x, index i, index j) {
    if (x > value || (x == value && (i < row || (i == row && j < col))))
      *this = {x, i, j};
  }
};

/// The largest of f(i, j), i < rows.
template <class F> Largest largest_of(index rows, index cols, F &&f) {
  std::vector<Largest> found(at((cols + kChunk - 1) / kChunk));
  for_spans(0, cols, kChunk, [&](index first, index last) {
    for (index i = 0; i < rows; ++i)
      for (index j = first; j < last; ++j)
        found[at(first / kChunk)].see(f(i, j), i, j);
  });
  Largest all;
  for (const Largest &l : found)
    all.see(l.value, l.row, l.col);
  return all;
}

/// P^H, of few rows and columns.
template <class W> Small<W> adjoint_small(const Panel<W> &P) {
  const Entries<W> rows = adjoint_entries(P);
  Small<W> out(P.cols, P.rows);
  for (index i = 0; i < out.rows; ++i)
    for (index j = 0; j < out.cols; ++j)
      out(i, j) = rows.row(i)[j];
  return out;
}

/// Columns C = Q R11, Q orthonormal, and P = Q^H A.
template <class W> struct Basis {
  Places cols;
  Panel<W> C, Q;
  Small<W> R11; ///< upper triangular, diagonal real, >= 0
  Panel<W> Ph;  ///< P^H (n x k)
  index pivots; ///< leading columns whose pivots are above rounding
  double norm2; ///< ||A||_F^2

  /// One read of A.
  Basis(const ColumnSource<W> &A, typename Host<W>::Matrix &matrix, Places chosen, index pivots_)
      : cols(std::move(chosen)), C(A.columns(cols)), Q(Host<W>::copy(C)), Ph(A.n, C.cols),
        pivots(std::min(pivots_, C.cols)) {
    R11 = Orthonormaliser<Host<W>>(0).qr(Q);
    if (!is_triangular(R11)) {
      Small<W> turn, R;
      small::qr(R11, turn, R);
      Q = Host<W>::combine({&Q}, turn);
      R11 = std::move(R);
    }
    matrix.multiply_adjoint(Q, Ph, &norm2);
  }

  /// T (k x n) of least ||A - C T||_F; zero rows for columns beyond the rank.
  Entries<W> coefficients() const {
    Entries<W> T = adjoint_entries(Ph);
    solve_triangle(R11, pivots, T);
    for (index i = pivots; i < T.rows; ++i)
      std::fill_n(T.row(i), T.cols, W(0));
    for (index i = 0; i < T.rows; ++i)
      for (index j = 0; j < T.rows; ++j)
        T.row(i)[cols[at(j)]] = W(i == j ? 1.0 : 0.0);
    return T;
  }

private:
  static bool is_triangular(const Small<W> &R) {
    for (index j = 0; j < R.cols; ++j) {
      if (!(real_of(R(j, j)) >= 0) || R(j, j) != W(real_of(R(j, j))))
        return false;
      for (index i = j + 1; i < R.rows; ++i)
        if (R(i, j) != W(0))
          return false;
    }
    return true;
  }
};

/// The largest T_ij^2 + (w_i g_j)^2 for the row norms w of R11^-1 and the norms g of what is left
/// of the columns of T; those of negative norm do not count.
template <class W>
Largest largest_growth(const Entries<W> &T, const Small<W> &R11, const std::vector<double> &g2) {
  Small<W> inverse = R11;
  small::invert_upper(inverse);
  std::vector<double> w2(at(R11.cols));
  for (index j = 0; j < R11.cols; ++j)
    for (index i = 0; i <= j; ++i)
      w2[at(i)] += abs2(inverse(i, j));
  return largest_of(T.rows, T.cols, [&](index i, index j) {
    return g2[at(j)] < 0 ? -1.0 : abs2(T.row(i)[j]) + w2[at(i)] * g2[at(j)];
  });
}

/// Exchanges the first `rank` pivots of Y with other columns until T_ij^2 + (w_i g_j)^2 <= bound^2
/// (see largest_growth), so that sigma_i(R11) >= sigma_i(Y) / q and
/// sigma_j(R22) <= q sigma_{k+j}(Y), q^2 = 1 + f^2 k (n - k). Each grows |det R11| by more than the
/// bound. How many there were is added to `swaps`.
template <class W>
Places strong_pivots(const Entries<W> &Y, const PivotedQr<W> &qr, double bound, index &swaps) {
  const index k = qr.rank, n = Y.cols;
  Places cols(qr.perm.begin(), qr.perm.begin() + k);
  const double limit = bound * bound * (1 + kSlack) * (1 + kSlack);
  if (k == 0 || k == n)
    return cols;
  if (k == qr.R.rows) { // usually the pivots stay: the factorisation itself tells
    Entries<W> T(k, n - k);
    for (index i = 0; i < k; ++i)
      for (index j = 0; j < n - k; ++j)
        T.row(i)[j] = qr.R(i, k + j);
    const Small<W> R11 = qr.R.columns(0, k);
    solve_triangle(R11, k, T);
    std::vector<double> g2(at(n - k));
    for (index j = 0; j < n - k; ++j)
      g2[at(j)] = qr.left[at(j)] * qr.left[at(j)];
    if (!(largest_growth(T, R11, g2).value > limit))
      return cols;
  }
  const auto source = column_source(Y.view());
  const auto matrix = source->matrix();
  for (;;) {
    const Basis<W> b(*source, *matrix, cols, k);
    Panel<W> left = panel_of(Y.view().adjoint());
    Host<W>::subtract(left, {&b.Ph}, adjoint_small(b.Q));
    std::vector<double> g2(at(n));
    for_spans(0, n, kChunk, [&](index first, index last) {
      for (index j = first; j < last; ++j)
        g2[at(j)] = simd::dense<double>().sum_squares(left.row(j), left.ld);
    });
    for (const index j : cols)
      g2[at(j)] = -1;
    const Largest l = largest_growth(b.coefficients(), b.R11, g2);
    if (!(l.value > limit))
      return cols;
    cols[at(l.row)] = l.col;
    ++swaps;
  }
}

/// Rows of its compression: there are enough to choose on more than k + p at little cost.
index pivot_rows(const ColumnsRequest &r) { return 3 * (r.k + r.oversample); }

/// Rows of the sketch that stands for A.
index stacked_rows(const ColumnsRequest &r) {
  const index fitted = std::max(10 * r.k + 20, 2 * pivot_rows(r));
  return kBlocks * ((fitted + kBlocks - 2) / (kBlocks - 1));
}

template <class W> class Columns {
public:
  Columns(const ColumnSource<W> &A, const ColumnsRequest &request)
      : A_(A), request_(request), matrix_(A.matrix()) {}

  Interpolation<W> interpolation() {
    const Chosen d = chosen();
    Interpolation<W> out;
    out.perm = permutation(d.cols);
    out.proj = Entries<W>(d.T.rows, A_.n - d.T.rows);
    for (index i = 0; i < out.proj.rows; ++i)
      for (index j = 0; j < out.proj.cols; ++j)
        out.proj.row(i)[j] = d.T.row(i)[out.perm[at(d.T.rows + j)]];
    out.facts = facts_;
    return out;
  }

  TwoSided<W> two_sided() {
    Chosen d = chosen();
    TwoSided<W> out;
    out.X = row_coefficients(d.cols, out.rows);
    out.cols = std::move(d.cols);
    out.Y = std::move(d.T);
    out.facts = facts_;
    return out;
  }

  Qrcp<W> qrcp(int exponent) {
    PivotedQr<W> qr_of_sketch = pivots(sketch());
    const Basis<W> b(A_, *matrix_, std::move(qr_of_sketch.perm), qr_of_sketch.rank);
    const index k = b.Q.cols;
    Qrcp<W> out;
    out.perm = permutation(b.cols);
    Entries<W> P = adjoint_entries(b.Ph);
    for (index i = 0; i < k; ++i) // exactly triangular
      for (index j = 0; j < k; ++j)
        P.row(i)[b.cols[at(j)]] = i <= j ? b.R11(i, j) : W(0);
    out.R = Entries<W>(k, A_.n);
    for (index i = 0; i < k; ++i)
      for (index j = 0; j < A_.n; ++j)
        out.R.row(i)[j] = times_power(P.row(i)[out.perm[at(j)]], -exponent);
    round_to(P.row(0), P.row(k), request_.eps);
    out.Q = Device::copy(b.Q);
    round_to(out.Q.row(0), out.Q.row(out.Q.rows), request_.eps);
    certify(b, out.Q, P);
    set_facts("sketch", b.R11);
    out.facts = facts_;
    return out;
  }

private:
  using Device = Host<W>;
  /// A[:, cols] T.
  struct Chosen {
    Places cols;
    Entries<W> T;
  };

  Places permutation(const Places &cols) const {
    Places out = cols;
    const Places rest = rest_of(A_.n, cols);
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
  }

  double tolerance() const {
    return static_cast<double>(std::max(A_.m, A_.n)) * unit_roundoff<W>();
  }

  /// Where the pivots are chosen; A itself where the sketch has no fewer rows.
  Entries<W> sketch() {
    const index l = request_.k + request_.oversample;
    if (request_.method == "direct" || l >= A_.m)
      return require_safe(A_.entries());
    ++matrix_->reads;
    facts_.sketch_rows = l;
    return require_safe(request_.gaussian ? A_.gaussian(l, request_.key, philox::kStreamGaussian)
                                          : A_.signs(l, kPivotSigns, request_.key));
  }

  /// The first k columns that pivoted QR of Y takes.
  PivotedQr<W> pivots(const Entries<W> &Y) const {
    Entries<W> spoilt(Y.rows, Y.cols);
    std::copy_n(Y.row(0), Y.rows * Y.cols, spoilt.row(0));
    PivotedQr<W> qr = pivoted_qr(spoilt.row(0), Y.cols, Y.rows, Y.cols, request_.k, tolerance());
    qr.perm.resize(at(request_.k));
    return qr;
  }

  Chosen chosen() {
    const index d = stacked_rows(request_);
    const bool cheap = A_.count() > kManyRows * request_.k * A_.n && !request_.gaussian;
    if (d < A_.m && (request_.method == "sketch" || (request_.method == "auto" && cheap)))
      return from_sketch(d);
    const Entries<W> Y = sketch();
    Entries<W> T;
    const Basis<W> b = bounded(A_, *matrix_, Y, T);
    round_to(T.row(0), T.row(T.rows), request_.eps);
    certify(b, b.C, T);
    set_facts("project", b.R11);
    return {b.cols, std::move(T)};
  }

  /// The columns and their coefficients by three blocks of a sketch, the error by the fourth.
  Chosen from_sketch(index d) {
    ++matrix_->reads;
    const Entries<W> SA =
        require_safe(request_.gaussian ? A_.gaussian(d, request_.key, philox::kStreamGaussian)
                                       : A_.signs(d, kBlocks, request_.key));
    const index held_out = d / kBlocks;
    const auto fitted = column_source(SA.view().rows(0, d - held_out));
    const auto H = column_source(SA.view().rows(d - held_out, held_out));
    const auto matrix = fitted->matrix();
    // Signs under another key than those of SA.
    const Entries<W> Y =
        request_.gaussian
            ? fitted->gaussian(pivot_rows(request_), request_.key, philox::kStreamCompression)
            : fitted->signs(pivot_rows(request_), kCompressionSigns, ~request_.key);
    Entries<W> T;
    const Basis<W> b = bounded(*fitted, *matrix, Y, T);
    round_to(T.row(0), T.row(T.rows), request_.eps);
    if (const double norm2 = squared(SA); norm2 > 0) {
      const double left2 = H->matrix()->residual_norm2(H->columns(b.cols), ones(b.C.cols),
                                                       panel_of(T.view().adjoint()));
      facts_.error = std::sqrt(kBlocks * left2 / norm2);
      facts_.error_method = "probe";
    }
    facts_.sketch_rows = d;
    set_facts("sketch", b.R11);
    return {b.cols, std::move(T)};
  }

  /// The basis of the pivots of Y after the exchanges that bring every |T| to at most the bound.
  Basis<W> bounded(const ColumnSource<W> &A, typename Device::Matrix &matrix, const Entries<W> &Y,
                   Entries<W> &T) {
    const PivotedQr<W> qr = pivots(Y);
    Places cols = strong_pivots(Y, qr, request_.bound, facts_.swaps);
    append_missing(cols, qr.perm, qr.rank);
    for (;;) {
      Basis<W> b(A, matrix, cols, qr.rank);
      T = b.coefficients();
      const Largest l =
          largest_of(T.rows, T.cols, [&](index i, index j) { return std::abs(T.row(i)[j]); });
      if (!(l.value > request_.bound * (1 + kSlack)))
        return b;
      cols[at(l.row)] = l.col;
      ++facts_.swaps;
    }
  }

  /// Fills `cols` up to the size of `old`: with those beyond the rank, then with those exchanged.
  static void append_missing(Places &cols, const Places &old, index rank) {
    const auto append = [&](std::size_t first, std::size_t last) {
      for (std::size_t i = first; i < last && cols.size() < old.size(); ++i)
        if (std::find(cols.begin(), cols.end(), old[i]) == cols.end())
          cols.push_back(old[i]);
    };
    append(at(rank), old.size());
    append(0, at(rank));
  }

  /// rows and X with C = X C[rows] for C = A[:, cols], |X| at most the bound.
  Entries<W> row_coefficients(const Places &cols, Places &rows) const {
    const index k = static_cast<index>(cols.size());
    const Panel<W> C = A_.columns(cols);
    Entries<W> Ct(k, A_.m);
    Device::store(C, std::vector<W>(at(k), W(1)), Ct.row(0), 1, A_.m, false);
    const PivotedQr<W> qr = pivots(Ct);
    index swaps = 0;
    rows = strong_pivots(Ct, qr, request_.bound, swaps);
    append_missing(rows, qr.perm, qr.rank);
    const auto source = column_source(Ct.view());
    const Entries<W> Xt = Basis<W>(*source, *source->matrix(), rows, qr.rank).coefficients();
    Entries<W> X(A_.m, k);
    for (index i = 0; i < A_.m; ++i)
      for (index j = 0; j < k; ++j)
        X.row(i)[j] = Xt.row(j)[i];
    return X;
  }

  static std::vector<double> ones(index n) { return std::vector<double>(at(n), 1.0); }

  /// The error of A = X Z: by ||A||^2 - ||P||^2 where that is accurate to 1 %, else by a read.
  void certify(const Basis<W> &b, const Panel<W> &X, const Entries<W> &Z) {
    if (b.norm2 == 0)
      return;
    const double tail2 = std::max(b.norm2 - squared(b.Ph), 0.0);
    const double relative = std::sqrt(tail2 / b.norm2);
    if (relative > identity_floor<W>()) {
      facts_.error = relative;
      facts_.error_method = "identity";
      return;
    }
    const double left2 = matrix_->residual_norm2(X, ones(X.cols), panel_of(Z.view().adjoint()));
    facts_.error = std::sqrt(left2 / b.norm2);
    facts_.error_method = "residual";
  }

  void set_facts(const char *method, const Small<W> &R11) {
    double largest = 0;
    for (index i = 0; i < R11.cols; ++i)
      largest = std::max(largest, real_of(R11(i, i)));
    const double least = static_cast<double>(std::max(A_.m, A_.n)) * request_.eps * largest;
    for (index i = 0; i < R11.cols; ++i)
      facts_.rank += real_of(R11(i, i)) > least ? 1 : 0;
    facts_.passes = matrix_->reads;
    if (facts_.sketch_rows > 0)
      facts_.method = method;
  }

  const ColumnSource<W> &A_;
  const ColumnsRequest &request_;
  std::unique_ptr<typename Device::Matrix> matrix_;
  ColumnsFacts facts_;
};

ColumnsFacts unknown(const ColumnsRequest &request) {
  ColumnsFacts facts;
  facts.error = std::numeric_limits<double>::quiet_NaN();
  for (const char *method : {"sketch", "project", "direct"})
    if (request.method == method || (request.method == "auto" && method[0] == 's'))
      facts.method = method;
  facts.passes = 1;
  return facts;
}

template <class W> Entries<W> not_a_number(index m, index n) {
  Entries<W> out(m, n);
  std::fill_n(out.row(0), m * n, W(std::numeric_limits<double>::quiet_NaN()));
  return out;
}

Places first_places(index n) {
  Places out(at(n));
  std::iota(out.begin(), out.end(), index(0));
  return out;
}

} // namespace

template <class W>
Interpolation<W> interp_decomp(const ColumnSource<W> &A, const ColumnsRequest &request) {
  const workspace::Scope scope;
  return at_safe_scale(
      A, request.check_finite,
      [&](const ColumnSource<W> &safe, int) { return Columns<W>(safe, request).interpolation(); },
      [&] {
        return Interpolation<W>{first_places(A.n), not_a_number<W>(request.k, A.n - request.k),
                                unknown(request)};
      });
}

template <class W>
TwoSided<W> two_sided_id(const ColumnSource<W> &A, const ColumnsRequest &request) {
  const workspace::Scope scope;
  return at_safe_scale(
      A, request.check_finite,
      [&](const ColumnSource<W> &safe, int) { return Columns<W>(safe, request).two_sided(); },
      [&] {
        const index k = request.k;
        return TwoSided<W>{first_places(k), first_places(k), not_a_number<W>(A.m, k),
                           not_a_number<W>(k, A.n), unknown(request)};
      });
}

template <class W> Qrcp<W> qrcp(const ColumnSource<W> &A, const ColumnsRequest &request) {
  const workspace::Scope scope;
  return at_safe_scale(
      A, request.check_finite,
      [&](const ColumnSource<W> &safe, int exponent) {
        return Columns<W>(safe, request).qrcp(exponent);
      },
      [&] {
        const index k = request.k;
        return Qrcp<W>{first_places(A.n), panel_of(not_a_number<W>(A.m, k).view()),
                       not_a_number<W>(k, A.n), unknown(request)};
      });
}

#define LOWLA_INSTANTIATE(W)                                                                       \
  template Interpolation<W> interp_decomp(const ColumnSource<W> &, const ColumnsRequest &);        \
  template TwoSided<W> two_sided_id(const ColumnSource<W> &, const ColumnsRequest &);              \
  template Qrcp<W> qrcp(const ColumnSource<W> &, const ColumnsRequest &);
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
