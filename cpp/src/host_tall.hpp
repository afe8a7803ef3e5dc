// What the passes of least squares over A in main memory share, dense or sparse (see lstsq.hpp).
#pragma once

#include "lowla/lstsq.hpp"

#include "panel_products.hpp"
#include "sketched_qr.hpp"

#include <functional>

namespace lowla::rows {

/// sum += x with the rounding error kept in `lost` (Knuth's two-sum).
void add_compensated(const double *x, double *sum, double *lost, index n);

/// Rows first.. of b as a planar panel with `width` columns a plane.
template <class Out, class T>
void load_rows(MatrixView<T> b, index first, index count, index width, Out *out) {
  const index ld = kPlanes<T> * width;
  std::fill(out, out + count * ld, Out(0));
  for (index i = 0; i < count; ++i)
    for (index j = 0; j < b.n; ++j) {
      const T value = *b.at(first + i, j);
      out[i * ld + j] = static_cast<Out>(std::real(value));
      if constexpr (is_complex_v<T>)
        out[i * ld + width + j] = static_cast<Out>(b.conjugated ? -value.imag() : value.imag());
    }
}

/// A sketch of d rows in double precision.
template <class Rows> Small<wide_t<typename Rows::Scalar>> wide_sketch(const Rows &A, index d) {
  using T = typename Rows::Scalar;
  using Wide = wide_t<T>;
  const index m = A.rows(), n = A.cols();
  const auto spec = [&](index part, index rows) {
    return sketch_spec("sjlt", static_cast<std::uint64_t>(part), d, rows, 4, 1.0);
  };
  const workspace::OneUse memory; // beside what the solver needs next
  Small<Wide> out(d, n);
  const auto add = [&](const Wide *SA) {
    for (index j = 0; j < n; ++j)
      for (index i = 0; i < d; ++i)
        out(i, j) += SA[i * n + j];
  };
  if constexpr (std::is_same_v<T, Wide>) {
    add(sketch_of(A, spec(0, m)).get());
  } else { // rows at a time, as a copy of A in double precision would be large
    const index block = std::max<index>(d, (index(4) << 20) / (n * index(sizeof(Wide))));
    Buffer<Wide> wide(std::min(block, m) * n), SA(d * n);
    for (index first = 0; first < m; first += block) {
      const index rows = std::min(block, m - first);
      for_entries(A, first, first + rows,
                  [&](index i, index j, Wide a) { wide.get()[(i - first) * n + j] = a; });
      sketch_dense(spec(first, rows), MatrixView<Wide>{wide.get(), rows, n, n, 1, false}, SA.get());
      add(SA.get());
    }
  }
  return out;
}

/// The first n rows of the triangular factor of [A b; damp I 0]; `reads` of A are counted.
template <class Rows, class T>
Small<wide_t<T>> triangle_of(const Rows &A, MatrixView<T> b, double damp, index &reads) {
  using Wide = wide_t<T>;
  // From this many columns, and this many times as many rows as the sketch has, `sketched_qr` is
  // faster than LAPACK's QR.
  constexpr index kColumns = 32, kShape = 4;
  const index m = A.rows(), n = A.cols(), d = sketched_qr_rows(n);
  const auto load = [&](index first, index rows, auto &&put) { // put(i, j, entry of [A b])
    for_entries(A, first, first + rows, [&](index i, index j, Wide a) { put(i - first, j, a); });
    for (index i = 0; i < rows; ++i)
      for (index j = 0; j < b.n; ++j) {
        const Wide value(*b.at(first + i, j));
        put(i, n + j, b.conjugated ? conj_of(value) : value);
      }
  };
  if (n >= kColumns && m >= kShape * d) {
    reads += 2;
    std::optional<Small<Wide>> R = sketched_qr(
        m, b.n, wide_sketch(A, d), damp, [&](index first, index rows, Small<Wide> &out) {
          load(first, rows, [&](index i, index j, Wide a) { out(j, i) = a; });
        });
    if (R)
      return std::move(*R);
  }
  ++reads;
  return triangle_by_blocks<Wide>(
      m, n + b.n, n, damp, [&](index first, index rows, Small<Wide> &out, index below) {
        load(first, rows, [&](index i, index j, Wide a) { out(below + i, j) = a; });
      });
}

/// A by its rows, DenseRows or CsrRows of T or of wider numbers, and b.
template <class T, class Rows> class HostTall : public TallMatrix<T> {
public:
  using Stored = typename Rows::Scalar;
  using Wide = wide_t<T>;

  HostTall(Rows A, MatrixView<T> b) : A_(std::move(A)), b_(b) {
    this->m = A_.rows();
    this->n = A_.cols();
    this->r = b.n;
  }

  Small<Wide> sketch(const SketchSpec &spec) override {
    ++this->reads;
    const workspace::OneUse memory;
    const Buffer<Stored> SA = sketch_of(A_, spec);
    Small<Wide> S(spec.d, this->n);
    for (index j = 0; j < S.cols; ++j)
      for (index i = 0; i < S.rows; ++i)
        S(i, j) = Wide(SA.get()[i * S.cols + j]);
    return S;
  }

  void gram(const Small<Wide> &P, Small<Wide> &G, Small<Wide> &H) override {
    using R = real_t<Stored>;
    ++this->reads;
    const index width = round_up(b_.n, simd::panel_unit<R>);
    gram_by_blocks<Stored, R>(
        A_, P, b_.n,
        [&](index first, index count, R *, R *B) { load_rows(b_, first, count, width, B); }, G, H);
  }

  Small<Wide> triangle(double damp) override { return triangle_of(A_, b_, damp, this->reads); }

  Small<Wide> sketched_triangle(const SketchSpec &spec, double damp) override {
    ++this->reads;
    const workspace::OneUse memory;
    const Buffer<Stored> SA = sketch_of(A_, spec);
    Buffer<T> Sb(spec.d * b_.n);
    sketch_dense(spec, b_, Sb.get());
    const DenseRows<Stored> rows({SA.get(), spec.d, this->n, this->n, 1, false});
    index reads_of_sketch = 0;
    return triangle_of(rows, MatrixView<T>{Sb.get(), spec.d, b_.n, b_.n, 1, false}, damp,
                       reads_of_sketch);
  }

  void residual(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z) override {
    pass(X, norms2, Z, [&](index first, index rows, index width, double *scratch, double *y) {
      load_rows(b_, first, rows, width, scratch);
      for (index l = 0; l < rows * kPlanes<T> * width; ++l)
        y[l] = scratch[l] - y[l];
    });
  }

  void advance(const Small<Wide> &dY, bool rounds, std::vector<double> &norms2,
               Small<Wide> &Z) override {
    begin_x(dY.cols);
    pass(dY, norms2, Z, [&](index first, index rows, index width, double *, double *y) {
      advance_rows(first, rows, dY.cols, width, rounds, y);
    });
  }

  void wide_gram(const Small<Wide> &P, Small<Wide> &G) override {
    ++this->reads;
    Small<Wide> H;
    gram_by_blocks<Stored, double>(A_, P, 0, [](index, index, double *, double *) {}, G, H);
  }

  void expand(const Small<Wide> &P, const Small<Wide> &C) override {
    ++this->reads;
    const BlockProduct<Stored, double> product(A_, P);
    const index r = C.cols, k = P.cols;
    begin_x(r);
    threads::for_spans(0, this->m, kBlock, [&](index first, index last) {
      double *Y = scratch<double>(kBlock * product.ld, 1);
      product(A_, first, last, Y); // the blocks of gram_by_blocks
      for (index i = 0; i < last - first; ++i) {
        double *x = x_.data() + (first + i) * kPlanes<T> * r;
        for (index j = 0; j < r; ++j) {
          Wide sum(0);
          for (index l = 0; l < k; ++l) {
            if constexpr (is_complex_v<T>)
              sum += Wide(product.entry(Y, i, l), product.entry(Y, i, product.width + l)) * C(l, j);
            else
              sum += product.entry(Y, i, l) * C(l, j);
          }
          x[j] = real_of(sum);
          if constexpr (is_complex_v<T>)
            x[r + j] = sum.imag();
        }
      }
    });
  }

  Small<Wide> advanced() override {
    const index r = static_cast<index>(x_.size()) / (this->m * kPlanes<T>);
    Small<Wide> X(this->m, r);
    for (index i = 0; i < X.rows; ++i)
      for (index j = 0; j < r; ++j) {
        const double *row = x_.data() + i * kPlanes<T> * r;
        if constexpr (is_complex_v<T>)
          X(i, j) = {row[j], row[r + j]};
        else
          X(i, j) = row[j];
      }
    return X;
  }

  double scan(bool &finite) override {
    ++this->reads;
    return A_.scan(finite);
  }

  void rescale(real_t<T> factor) override { A_.rescale(factor); }

  double scan_b(bool &finite) override {
    double largest = 0;
    for (index i = 0; i < b_.m; ++i)
      for (index j = 0; j < b_.n; ++j) {
        const double size = std::max(std::abs(static_cast<double>(std::real(*b_.at(i, j)))),
                                     std::abs(static_cast<double>(std::imag(*b_.at(i, j)))));
        if (!std::isfinite(size))
          finite = false;
        largest = std::max(largest, size);
      }
    return largest;
  }

  void rescale_b(real_t<T> factor) override {
    scaled_b_.reserve(static_cast<std::size_t>(b_.m * b_.n));
    for (index i = 0; i < b_.m; ++i)
      for (index j = 0; j < b_.n; ++j)
        scaled_b_.push_back(*b_.at(i, j) * factor);
    b_ = {scaled_b_.data(), b_.m, b_.n, b_.n, 1, b_.conjugated};
  }

  std::vector<double> norms2_b() override {
    std::vector<double> norms2;
    for (index j = 0; j < b_.n; ++j) {
      double sum = 0;
      for (index i = 0; i < b_.m; ++i)
        sum += abs2(Wide(*b_.at(i, j)));
      norms2.push_back(sum);
    }
    return norms2;
  }

protected:
  /// (first row, rows, columns a plane, scratch as large as y, y): makes rows of Y of those of A X.
  using Edit = std::function<void(index, index, index, double *, double *)>;
  /// Z = A^H Y and the squared norms of the columns of Y.
  virtual void pass(const Small<Wide> &X, std::vector<double> &norms2, Small<Wide> &Z,
                    const Edit &edit) = 0;

  Rows A_;
  MatrixView<T> b_;

private:
  /// Room for X of r columns, zero at first.
  void begin_x(index r) { x_.resize(static_cast<std::size_t>(this->m * kPlanes<T> * r), 0.0); }
  /// y <- X <- X + y, rounded to T if `rounds`, for the rows first.., r columns.
  void advance_rows(index first, index rows, index r, index width, bool rounds, double *y) {
    for (index i = 0; i < rows; ++i)
      for (int plane = 0; plane < kPlanes<T>; ++plane) {
        double *x = x_.data() + ((first + i) * kPlanes<T> + plane) * r;
        double *to = y + (i * kPlanes<T> + plane) * width;
        for (index j = 0; j < r; ++j) {
          x[j] += to[j];
          if (rounds)
            x[j] = static_cast<double>(static_cast<real_t<T>>(x[j]));
          to[j] = x[j];
        }
      }
  }

  std::vector<double> x_;   ///< of `advance`: by rows, planes one after the other
  std::vector<T> scaled_b_; ///< where b was out of range
};

} // namespace lowla::rows
