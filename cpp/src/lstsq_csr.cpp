// Passes over a tall CSR matrix in main memory for least squares (see lstsq.hpp).
//
// All in double precision; values of single precision are widened once, in 8 (16) bytes a stored
// entry. normal: A^H (A X) row by row, both products while the row is in registers. residual
// and advance: the same with y = b - A X, or X, A^H y added up entry by entry with compensation:
// the rounding of this sum is what limits the forward error. 8 flops a stored entry and column of
// X.
#include "host_tall.hpp"

namespace lowla {
namespace {

using namespace rows;

/// The view in double precision; `values` holds what had to be widened.
template <class T, class I>
CsrView<wide_t<T>, I> widened(CsrView<T, I> A, std::vector<wide_t<T>> &values) {
  if constexpr (std::is_same_v<T, wide_t<T>>) {
    (void)values;
    return A;
  } else {
    values.assign(A.data, A.data + static_cast<index>(A.indptr[A.m]));
    return {A.indptr, A.indices, values.data(), A.m, A.n};
  }
}

/// A^H by rows, in double precision.
template <class T, class I> struct AdjointCsr {
  std::vector<I> indptr, indices;
  std::vector<wide_t<T>> data;

  explicit AdjointCsr(CsrView<T, I> A)
      : indptr(static_cast<std::size_t>(A.n) + 1, I(0)), indices(static_cast<std::size_t>(A.nnz())),
        data(indices.size()) {
    const auto at = [](I i) { return static_cast<std::size_t>(i); };
    for (I k = A.indptr[0]; k < A.indptr[A.m]; ++k)
      ++indptr[at(A.indices[k]) + 1];
    for (std::size_t j = 1; j < indptr.size(); ++j)
      indptr[j] += indptr[j - 1];
    std::vector<I> next(indptr.begin(), indptr.end() - 1);
    for (index i = 0; i < A.m; ++i)
      for (I k = A.indptr[i]; k < A.indptr[i + 1]; ++k) {
        const std::size_t place = at(next[at(A.indices[k])]++);
        indices[place] = static_cast<I>(i);
        data[place] = conj_of(wide_t<T>(A.data[k]));
      }
  }
};

/// sum += x, x complex or real, with the rounding error kept in `lost` (Knuth's two-sum).
inline void add_term(double x, double &sum, double &lost) {
  const double s = sum + x, back = s - sum;
  lost += (sum - (s - back)) + (x - back);
  sum = s;
}

template <class T, class I>
class CsrTall final : public HostTall<T, CsrRows<wide_t<T>, I>>, public NormalProduct<wide_t<T>> {
public:
  using Wide = wide_t<T>;
  using Base = HostTall<T, CsrRows<Wide, I>>;

  CsrTall(CsrView<Wide, I> A, std::vector<Wide> values, MatrixView<T> b)
      : Base(CsrRows<Wide, I>(A), b), values_(std::move(values)) {}
  /// A^H of A with so many columns.
  CsrTall(AdjointCsr<T, I> At, index columns)
      : Base(CsrRows<Wide, I>({At.indptr.data(), At.indices.data(), At.data.data(),
                               static_cast<index>(At.indptr.size()) - 1, columns}),
             {nullptr, static_cast<index>(At.indptr.size()) - 1, 0, 0, 0, false}),
        values_(std::move(At.data)), indptr_(std::move(At.indptr)),
        indices_(std::move(At.indices)) {}

  NormalProduct<Wide> *sparse() override { return this; }

  void normal(const Small<Wide> &X, Small<Wide> &Z) override {
    ++this->reads;
    const CsrView<Wide, I> A = A_.view();
    const Panel<Wide> right = panel_of(X);
    const index size = A.n * right.ld;
    const std::vector<index> bounds = csr_chunks(A, wanted_parts(size));
    const index count = static_cast<index>(bounds.size()) - 1;
    Buffer<double> parts(count * size);
    parallel_for(count, [&](index c) {
      double *part = parts.get() + c * size;
      std::fill(part, part + size, 0.0);
      simd::sparse<Wide, I>().normal(A.indptr, A.indices, A.data, bounds[c], bounds[c + 1],
                                     right.row(0), right.ld, right.width, part, right.ld);
    });
    add_parts(parts.get(), parts.get() + size, count - 1, size, size);
    Z = Small<Wide>(A.n, X.cols);
    for (index i = 0; i < A.n; ++i)
      for (index j = 0; j < X.cols; ++j) {
        const double *row = parts.get() + i * right.ld;
        if constexpr (is_complex_v<T>)
          Z(i, j) = {row[j], row[right.width + j]};
        else
          Z(i, j) = row[j];
      }
  }

private:
  using Base::A_;

  void pass(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z,
            const typename Base::Edit &edit) override {
    ++this->reads;
    const CsrView<Wide, I> A = A_.view();
    const Panel<Wide> right = panel_of(X);
    const index r = X.cols, ld = right.ld, width = right.width, per_row = kPlanes<T> * r;
    const index size = A.n * per_row; // of a sum: planes of r columns
    const std::vector<index> bounds = csr_chunks(A, wanted_parts(2 * size));
    const index count = static_cast<index>(bounds.size()) - 1;
    Buffer<double> parts(2 * count * size);
    std::vector<double> squares(static_cast<std::size_t>(count * r), 0.0);
    parallel_for(count, [&](index c) {
      double *sum = parts.get() + 2 * c * size, *lost = sum + size;
      std::fill(sum, sum + 2 * size, 0.0);
      double *y = scratch<double>(2 * simd::kRowBlock * ld, 1);
      for (index first = bounds[c]; first < bounds[c + 1]; first += simd::kRowBlock) {
        const index rows = std::min(simd::kRowBlock, bounds[c + 1] - first);
        simd::sparse<Wide, I>().multiply(A.indptr + first, A.indices, A.data, 0, rows, right.row(0),
                                         ld, width, y, ld);
        edit(first, rows, width, y + simd::kRowBlock * ld, y);
        for (index i = 0; i < rows; ++i)
          for (index j = 0; j < r; ++j)
            for (int plane = 0; plane < kPlanes<T>; ++plane) {
              const double value = y[i * ld + plane * width + j];
              squares[c * r + j] += value * value;
            }
        for (index i = 0; i < rows; ++i)
          for (I k = A.indptr[first + i]; k < A.indptr[first + i + 1]; ++k)
            add_row(A.data[k], y + i * ld, width, r, static_cast<index>(A.indices[k]) * per_row,
                    sum, lost);
      }
    });
    double *sum = parts.get(), *lost = sum + size;
    norms2.assign(static_cast<std::size_t>(r), 0.0);
    for (index c = 0; c < count; ++c) {
      for (index j = 0; j < r; ++j)
        norms2[j] += squares[c * r + j];
      if (c > 0) {
        add_compensated(parts.get() + 2 * c * size, sum, lost, size);
        add_parts(lost, parts.get() + 2 * c * size + size, 1, size, size);
      }
    }
    Z = Small<Wide>(A.n, r);
    for (index i = 0; i < A.n; ++i)
      for (index j = 0; j < r; ++j) {
        const index k = i * per_row + j;
        if constexpr (is_complex_v<T>)
          Z(i, j) = {sum[k] + lost[k], sum[k + r] + lost[k + r]};
        else
          Z(i, j) = sum[k] + lost[k];
      }
  }

  /// Partial sums of `size` numbers that their budget holds.
  static index wanted_parts(index size) {
    return std::clamp<index>(kPartialBytes / (size * static_cast<index>(sizeof(double))), 4, 16);
  }

  static Panel<Wide> panel_of(const Small<Wide> &X) {
    Panel<Wide> out(X.rows, X.cols);
    out.zero();
    for (index j = 0; j < X.cols; ++j)
      for (index i = 0; i < X.rows; ++i) {
        out.row(i)[j] = real_of(X(i, j));
        if constexpr (is_complex_v<T>)
          out.row(i)[out.width + j] = X(i, j).imag();
      }
    return out;
  }

  /// conj(a) y, y one row, to the numbers from `at` on.
  static void add_row(const Wide &a, const double *y, index width, index r, index at, double *sum,
                      double *lost) {
    for (index j = 0; j < r; ++j) {
      if constexpr (is_complex_v<T>) {
        const double re = y[j], im = y[width + j];
        add_term(a.real() * re + a.imag() * im, sum[at + j], lost[at + j]);
        add_term(a.real() * im - a.imag() * re, sum[at + r + j], lost[at + r + j]);
      } else {
        (void)width;
        add_term(a * y[j], sum[at + j], lost[at + j]);
      }
    }
  }

  std::vector<Wide> values_; ///< where those of A are of single precision, or A is an adjoint
  std::vector<I> indptr_, indices_; ///< where A is an adjoint
};

} // namespace

template <class T, class I> std::unique_ptr<TallMatrix<T>> tall(CsrView<T, I> A, MatrixView<T> b) {
  std::vector<wide_t<T>> values;
  const CsrView<wide_t<T>, I> wide = widened(A, values);
  return std::make_unique<CsrTall<T, I>>(wide, std::move(values), b);
}
template <class T, class I> std::unique_ptr<TallMatrix<T>> adjoint_tall(CsrView<T, I> A) {
  return std::make_unique<CsrTall<T, I>>(AdjointCsr<T, I>(A), A.m);
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<TallMatrix<T>> tall(CsrView<T, std::int32_t>, MatrixView<T>);           \
  template std::unique_ptr<TallMatrix<T>> tall(CsrView<T, std::int64_t>, MatrixView<T>);           \
  template std::unique_ptr<TallMatrix<T>> adjoint_tall(CsrView<T, std::int32_t>);                  \
  template std::unique_ptr<TallMatrix<T>> adjoint_tall(CsrView<T, std::int64_t>);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
