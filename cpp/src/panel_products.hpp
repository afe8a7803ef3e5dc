// Y = A P for row blocks of A and a small P, and the Gram matrix of Y.
//
// Blocks of kBlock rows: Y stays in the second-level cache, by column panels of one register tile.
// A panel is contiguous (rows that lie a page apart cost a third of the speed at n = 500); that of
// the columns q, q + 1, ... of Y begins at q kBlock. Per entry of A n flops for triangular P of
// order n, and n more for the upper blocks of Y^H Y.
#pragma once

#include "host_rows.hpp"

#include "lowla/core/small.hpp"
#include "lowla/sketch.hpp"

namespace lowla::rows {

/// Columns of a panel, in panel units.
inline constexpr index kPanelUnits = 3;
/// Rows of a block of Y.
inline constexpr index kBlock = 4 * simd::kRowBlock;

/// The right factor M (rows x ld, row-major) of Y = A M by panels. Zero blocks are left out: below
/// the diagonal of triangular M half of the work.
template <class R> class RightPanels {
public:
  static constexpr index kPanel = kPanelUnits * simd::panel_unit<R>;

  RightPanels(const Buffer<R> &M, index rows, index ld)
      : ld(ld), rows_(rows), entries_(rows * ld), depth_(panels(ld)),
        nonzero_(panels(ld) * panels(rows)) {
    for (index q = 0; q < ld; q += kPanel)
      for (index i = 0; i < rows; ++i) {
        const R *row = M.get() + i * ld + q;
        const index cols = width(q);
        std::copy_n(row, cols, entries_.get() + q * rows + i * cols);
        if (std::any_of(row, row + cols, [](R x) { return x != R(0); })) {
          depth_[at(q)] = i + 1;
          nonzero_[at(q) * panels(rows) + at(i)] = 1;
        }
      }
  }

  index ld;

  /// Columns of the panel that begins at q.
  index width(index q) const { return std::min(kPanel, ld - q); }

  /// Rows first.. of the block Y from `count` rows of A; meanwhile `ahead` is fetched.
  void multiply(const R *A, index rs, index count, index first, R *Y, simd::Ahead ahead) const {
    for (index q = 0; q < ld; q += kPanel)
      simd::dense<R>().multiply(A, rs, count, depth_[at(q)], entries_.get() + q * rows_, width(q),
                                width(q), Y + q * kBlock + first * width(q), width(q), false,
                                ahead.take(kPanel, ld - q));
  }

  /// The block Z = X M of a block X that is itself by panels.
  void multiply_panels(const R *X, index count, R *Z) const {
    for (index q = 0; q < ld; q += kPanel) {
      R *Zq = Z + q * kBlock;
      bool begun = false;
      for (index p = 0; p < rows_; p += kPanel) {
        const index depth = std::min(kPanel, rows_ - p);
        if (nonzero_[at(q) * panels(rows_) + at(p)] == 0)
          continue;
        simd::dense<R>().multiply(X + p * kBlock, depth, count, depth,
                                  entries_.get() + q * rows_ + p * width(q), width(q), width(q), Zq,
                                  width(q), begun, {});
        begun = true;
      }
      if (!begun)
        std::fill(Zq, Zq + count * width(q), R(0));
    }
  }

  /// Y = A for the identity of order n.
  void copy(const R *A, index rs, index n, index count, index first, R *Y) const {
    for (index q = 0; q < ld; q += kPanel) {
      const index cols = std::clamp<index>(n - q, 0, width(q));
      for (index i = 0; i < count; ++i) {
        R *row = Y + q * kBlock + (first + i) * width(q);
        std::copy_n(A + i * rs + q, cols, row);
        std::fill(row + cols, row + width(q), R(0));
      }
    }
  }

private:
  static index panels(index n) { return (n + kPanel - 1) / kPanel; }
  static std::size_t at(index q) { return static_cast<std::size_t>(q / kPanel); }

  index rows_;
  Buffer<R> entries_;
  std::vector<index> depth_;
  std::vector<char> nonzero_;
};

/// P as the right factor of stored rows of A: planes of `width` columns.
template <class T, class R> class BlockProduct {
public:
  index width, ld;

  template <class Rows>
  BlockProduct(const Rows &A, const Small<wide_t<T>> &P)
      : width(round_up(P.cols, simd::panel_unit<R>)), ld(kPlanes<T> * width),
        right_(embedded<R, T>(P.rows, P.cols, width, A.conjugated(),
                              [&](index i, index j) { return P(i, j); }),
               A.depth(), ld),
        identity_(!is_complex_v<T> && is_identity(P)) {}

  /// Y for the rows first .. last - 1 of A, at most kBlock, in the precision R.
  template <class Rows> void operator()(const Rows &A, index first, index last, R *Y) const {
    A.for_blocks(first, last, [&](index i, index count, const real_t<T> *block, index rs) {
      if (identity_) {
        index stride = rs;
        const R *rows = as_product(block, A.depth(), count, stride);
        right_.copy(rows, stride, A.cols(), count, i - first, Y);
      } else if constexpr (std::is_same_v<R, real_t<T>>) {
        const index beside = kBlock * ld * static_cast<index>(sizeof(R));
        right_.multiply(block, rs, count, i - first, Y, A.ahead(i + count, beside));
      } else {
        const R *wide = wide_rows(block, A.depth(), count, rs);
        right_.multiply(wide, rs, count, i - first, Y, {});
      }
    });
  }

  /// Of a block Y: in its row i what a row-major block has in the column l < ld.
  R entry(const R *Y, index i, index l) const {
    const index q = l / RightPanels<R>::kPanel * RightPanels<R>::kPanel;
    return Y[q * kBlock + i * right_.width(q) + (l - q)];
  }

  const RightPanels<R> &right() const { return right_; }

private:
  static const R *as_product(const real_t<T> *block, index depth, index count, index &rs) {
    if constexpr (std::is_same_v<R, real_t<T>>) {
      (void)depth;
      (void)count;
      return block;
    } else {
      return wide_rows(block, depth, count, rs);
    }
  }
  static bool is_identity(const Small<wide_t<T>> &P) {
    return P.rows == P.cols && P.data == Small<wide_t<T>>::identity(P.rows).data;
  }

  RightPanels<R> right_;
  bool identity_; ///< nothing to multiply
};

/// (Y^H W)(i, j) from the real product of planar panels.
template <class T>
wide_t<T> adjoint_entry(const double *H, index ld, index upper_width, index width, index i,
                        index j) {
  const double *upper = H + i * ld;
  if constexpr (is_complex_v<T>) {
    const double *lower = H + (upper_width + i) * ld;
    return {upper[j] + lower[width + j], upper[width + j] - lower[j]};
  } else {
    (void)upper_width;
    (void)width;
    return upper[j];
  }
}

/// G = Y^H Y and H = Y^H B for Y = A P in the precision R, both summed in double. After
/// prepare(first, rows, Y, B) Y is as it is to be counted and B (planes of whole units) is loaded.
template <class T, class R, class Rows, class Prepare>
void gram_by_blocks(const Rows &A, const Small<wide_t<T>> &P, index b_cols, Prepare &&prepare,
                    Small<wide_t<T>> &G, Small<wide_t<T>> &H) {
  const index n = P.cols;
  const BlockProduct<T, R> product(A, P);
  const RightPanels<R> &panels = product.right();
  constexpr index panel = RightPanels<R>::kPanel;
  const index width = product.width, ld = product.ld;
  const index used = is_complex_v<T> ? ld : n;
  const index b_width = round_up(b_cols, simd::panel_unit<R>), ldb = kPlanes<T> * b_width;
  const index size = used * (ld + ldb);
  const index budget = std::max<index>(index(10) << 20, 6 * n * n * static_cast<index>(sizeof(T)));
  const index wanted = parts_within(budget, size * static_cast<index>(sizeof(double)));
  const double flops = 2.0 * static_cast<double>(A.rows()) * static_cast<double>(size);
  const RowChunks chunks(A.rows(), chunks_for(flops, wanted), kBlock);
  Buffer<double> parts(chunks.count * size);
  parallel_for(chunks.count, [&](index c) {
    double *G_part = parts.get() + c * size, *H_part = G_part + used * ld;
    std::fill(G_part, G_part + size, 0.0);
    R *Y = scratch<R>(kBlock * ld, 1), *B = scratch<R>(kBlock * ldb, 3);
    for (index first = chunks.first(c); first < chunks.last(c); first += kBlock) {
      const index rows = std::min(kBlock, chunks.last(c) - first);
      product(A, first, first + rows, Y);
      prepare(first, rows, Y, B);
      for (index q = 0; q < ld; q += panel) {
        const R *Yq = Y + q * kBlock;
        const index cols = panels.width(q);
        for (index p = 0; p <= q; p += panel)
          add_products(Y + p * kBlock, panels.width(p), std::min(panels.width(p), used - p), Yq,
                       cols, cols, rows, G_part + p * ld + q, ld);
        if (ldb > 0)
          add_products(Yq, cols, std::min(cols, used - q), B, ldb, ldb, rows, H_part + q * ldb,
                       ldb);
      }
    }
  });
  for (index c = 1; c < chunks.count; ++c)
    add_parts(parts.get(), parts.get() + c * size, 1, size, size);
  G = Small<wide_t<T>>(n, n);
  H = Small<wide_t<T>>(n, b_cols);
  const double *g = parts.get(), *h = g + used * ld;
  for (index i = 0; i < n; ++i) {
    for (index j = i; j < n; ++j) {
      if constexpr (is_complex_v<T>) // of the symmetric product the upper triangle is there
        G(i, j) = {g[i * ld + j] + g[(width + i) * ld + width + j],
                   g[i * ld + width + j] - g[j * ld + width + i]};
      else
        G(i, j) = g[i * ld + j];
      G(j, i) = conj_of(G(i, j));
    }
    for (index j = 0; j < b_cols; ++j)
      H(i, j) = adjoint_entry<T>(h, ldb, width, b_width, i, j);
  }
}

/// f(i, j, a_ij) for the entries of the rows first .. last - 1 of A, in double precision.
template <class Rows, class F> void for_entries(const Rows &A, index first, index last, F &&f) {
  using T = typename Rows::Scalar;
  const double flip = A.conjugated() ? -1.0 : 1.0;
  A.for_blocks(first, last, [&](index i, index count, const real_t<T> *block, index rs) {
    for (index r = 0; r < count; ++r)
      for (index j = 0; j < A.cols(); ++j) {
        const real_t<T> *entry = block + r * rs + kPlanes<T> * j;
        if constexpr (is_complex_v<T>)
          f(i + r, j, wide_t<T>(entry[0], flip * static_cast<double>(entry[1])));
        else
          f(i + r, j, flip * static_cast<double>(entry[0]));
      }
  });
}

/// S A by rows.
template <class T> Buffer<T> sketch_of(const DenseRows<T> &A, const SketchSpec &spec) {
  const MatrixView<T> &view = A.view();
  Buffer<T> out(spec.d * view.n);
  if (A.scale() == real_t<T>(1)) {
    sketch_dense(spec, view, out.get());
    return out;
  }
  // Out of range: S A of the scaled rows, which a sketch of A itself could not hold.
  Buffer<T> scaled(view.m * view.n);
  for (index i = 0; i < view.m; ++i)
    for (index j = 0; j < view.n; ++j)
      scaled.get()[i * view.n + j] = *view.at(i, j) * A.scale();
  sketch_dense(spec, MatrixView<T>{scaled.get(), view.m, view.n, view.n, 1, view.conjugated},
               out.get());
  return out;
}
template <class T, class I> Buffer<T> sketch_of(const CsrRows<T, I> &A, const SketchSpec &spec) {
  Buffer<T> out(spec.d * A.cols());
  sketch_csr(spec, A.view(), out.get());
  return out;
}

} // namespace lowla::rows
