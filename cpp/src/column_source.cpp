// Dense and CSR matrices as sources of columns and rows (see column_source.hpp).
#include "lowla/column_source.hpp"

#include <algorithm>
#include <numeric>

namespace lowla {

namespace {

/// Entries within 2^+- it have squares, and sums of them, far from the ends of the range.
constexpr int kSafeExponent = 250;
constexpr index kChunk = 256; ///< rows at a time

/// f(i) for every row.
template <class F> void for_rows(index m, F &&f) {
  threads::for_spans(0, m, kChunk, [&](index first, index last) {
    for (index i = first; i < last; ++i)
      f(i);
  });
}

template <class W> class DenseSource final : public ColumnSource<W> {
public:
  DenseSource(MatrixView<W> A, Entries<W> owned) : A_(A), owned_(std::move(owned)) {
    this->m = A.m;
    this->n = A.n;
  }
  std::unique_ptr<typename Host<W>::Matrix> matrix() const override { return Host<W>::dense(A_); }
  index count() const override { return A_.m * A_.n; }
  Entries<W> signs(index d, index nnz, std::uint64_t key) const override {
    Entries<W> out(d, A_.n);
    sketch_dense(sign_spec(d, A_.m, nnz, key), A_, out.row(0));
    return out;
  }
  Panel<W> columns(const Places &cols) const override {
    Entries<W> out(A_.m, static_cast<index>(cols.size()));
    for_rows(A_.m, [&](index i) {
      for (std::size_t j = 0; j < cols.size(); ++j)
        out.row(i)[j] = entry(i, cols[j]);
    });
    return panel_of(out.view());
  }
  Panel<W> adjoint_rows(const Places &rows) const override {
    Entries<W> out(static_cast<index>(rows.size()), A_.n);
    for (index r = 0; r < out.rows; ++r)
      for (index j = 0; j < A_.n; ++j)
        out.row(r)[j] = entry(rows[at(r)], j);
    return panel_of(out.view().adjoint());
  }
  std::unique_ptr<ColumnSource<W>> scaled(int exponent) const override {
    Entries<W> copy(A_.m, A_.n);
    for_rows(A_.m, [&](index i) {
      for (index j = 0; j < A_.n; ++j)
        copy.row(i)[j] = times_power(entry(i, j), exponent);
    });
    const MatrixView<W> view = copy.view();
    return std::make_unique<DenseSource>(view, std::move(copy));
  }

private:
  W entry(index i, index j) const {
    const W x = *A_.at(i, j);
    return A_.conjugated ? W(conj_of(x)) : x;
  }

  MatrixView<W> A_;
  Entries<W> owned_;
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
  index count() const override { return static_cast<index>(A_.indptr[A_.m]); }
  Entries<W> signs(index d, index nnz, std::uint64_t key) const override {
    Entries<W> out(d, A_.n);
    sketch_csr(sign_spec(d, A_.m, nnz, key), A_, out.row(0));
    return out;
  }
  Panel<W> columns(const Places &cols) const override {
    Places slot(at(A_.n), -1);
    for (std::size_t j = 0; j < cols.size(); ++j)
      slot[at(cols[j])] = static_cast<index>(j);
    Entries<W> out(A_.m, static_cast<index>(cols.size()));
    for_rows(A_.m, [&](index i) {
      std::fill_n(out.row(i), out.cols, W(0));
      for (I t = A_.indptr[i]; t < A_.indptr[i + 1]; ++t)
        if (const index j = slot[at(static_cast<index>(A_.indices[t]))]; j >= 0)
          out.row(i)[j] += A_.data[t];
    });
    return panel_of(out.view());
  }
  Panel<W> adjoint_rows(const Places &rows) const override {
    Entries<W> out(static_cast<index>(rows.size()), A_.n);
    for (index r = 0; r < out.rows; ++r) {
      std::fill_n(out.row(r), out.cols, W(0));
      const index i = rows[at(r)];
      for (I t = A_.indptr[i]; t < A_.indptr[i + 1]; ++t)
        out.row(r)[static_cast<index>(A_.indices[t])] += A_.data[t];
    }
    return panel_of(out.view().adjoint());
  }
  std::unique_ptr<ColumnSource<W>> scaled(int exponent) const override {
    std::vector<W> copy(A_.data, A_.data + count());
    for (W &x : copy)
      x = times_power(x, exponent);
    return std::make_unique<CsrSource>(A_, std::move(copy));
  }

private:
  CsrView<W, I> A_;
  std::vector<W> owned_;
};

} // namespace

SketchSpec sign_spec(index d, index m, index nnz, std::uint64_t key) {
  return sketch_spec("sjlt", key, d, m, std::min(nnz, d), 1.0);
}

template <class W> Panel<W> panel_of(MatrixView<W> A) {
  Panel<W> out(A.m, A.n);
  Host<W>::load(out, A);
  return out;
}

template <class W> Entries<W> adjoint_entries(const Panel<W> &P) {
  Entries<W> out(P.cols, P.rows);
  Host<W>::store(P, std::vector<W>(at(P.cols), W(1)), out.row(0), 1, P.rows, true);
  return out;
}

template <class W> void round_to(W *begin, const W *end, double eps) {
  if (eps < 1e-10)
    return;
  for (W *x = begin; x != end; ++x) {
    if constexpr (is_complex_v<W>)
      *x = W(static_cast<float>(x->real()), static_cast<float>(x->imag()));
    else
      *x = static_cast<float>(*x);
  }
}

template <class W> Entries<W> ColumnSource<W>::entries() const {
  Places rows(at(m));
  std::iota(rows.begin(), rows.end(), index(0));
  return adjoint_entries(adjoint_rows(rows));
}

template <class W>
Entries<W> ColumnSource<W>::gaussian(index l, std::uint64_t key, std::uint32_t stream) const {
  Panel<W> start(m, l), Yh(n, l);
  Host<W>::fill_normal(start, key, stream);
  matrix()->multiply_adjoint(start, Yh);
  return adjoint_entries(Yh);
}

template <class W> void require_safe(typename Host<W>::Matrix &A) {
  bool finite = true;
  const double largest = A.scan(finite);
  if (!finite || (largest > 0 && std::abs(std::ilogb(largest)) > kSafeExponent))
    throw OutOfRange();
}

template <class W> Entries<W> require_safe(Entries<W> Y) {
  require_safe<W>(*Host<W>::dense(Y.view()));
  return Y;
}

template <class T> std::unique_ptr<ColumnSource<wide_t<T>>> column_source(MatrixView<T> A) {
  using W = wide_t<T>;
  if constexpr (std::is_same_v<T, W>) {
    return std::make_unique<DenseSource<W>>(A, Entries<W>());
  } else {
    Entries<W> copy(A.m, A.n);
    for_rows(A.m, [&](index i) {
      for (index j = 0; j < A.n; ++j) {
        const W x(*A.at(i, j));
        copy.row(i)[j] = A.conjugated ? W(conj_of(x)) : x;
      }
    });
    const MatrixView<W> view = copy.view();
    return std::make_unique<DenseSource<W>>(view, std::move(copy));
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

#define LOWLA_INSTANTIATE(T)                                                                       \
  template std::unique_ptr<ColumnSource<wide_t<T>>> column_source(MatrixView<T>);                  \
  template std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, std::int32_t>);       \
  template std::unique_ptr<ColumnSource<wide_t<T>>> column_source(CsrView<T, std::int64_t>);
LOWLA_FOR_SCALARS(LOWLA_INSTANTIATE)
#undef LOWLA_INSTANTIATE
#define LOWLA_INSTANTIATE(W)                                                                       \
  template class ColumnSource<W>;                                                                  \
  template Panel<W> panel_of(MatrixView<W>);                                                       \
  template Entries<W> adjoint_entries(const Panel<W> &);                                           \
  template void round_to(W *, const W *, double);                                                  \
  template void require_safe<W>(Host<W>::Matrix &);                                                \
  template Entries<W> require_safe(Entries<W>);
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
