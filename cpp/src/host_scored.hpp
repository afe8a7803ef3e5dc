// Passes over a matrix in main memory for the scores of its rows (see scores.hpp).
//
// All go over row blocks as in panel_products.hpp, float rows widened to double: Y = A P, then the
// Gram matrix of Y, or Z = Y M and the powers of its rows while they are in cache. Rows of a sparse
// matrix are written out block by block.
#pragma once

#include "lowla/scores.hpp"

#include "panel_products.hpp"

#include "lowla/tsqr.hpp"

#include <utility>

namespace lowla::rows {

/// Columns of M at a time: Z, of kBlock rows, stays in the second-level cache.
inline constexpr index kColumns = 96;

/// out[i] += squared norm of row i of X (rows x cols, whole panel units).
void add_squares(const double *X, index rows, index cols, double *out);

/// |z|^p for |z|^2; the usual p without the general power, which costs ten times as much.
inline double power_of(double squared, double p) {
  const double size = std::sqrt(squared);
  if (p == 1.0)
    return size;
  if (p == 1.5)
    return size * std::sqrt(size);
  if (p == 3.0)
    return squared * size;
  return p == 4.0 ? squared * squared : std::pow(size, p);
}

/// A by its rows (DenseRows and the like), as ScoredMatrix or what extends it.
template <class Rows, class Interface = ScoredMatrix<typename Rows::Scalar>>
class HostScored : public Interface {
public:
  using T = typename Rows::Scalar;
  using Wide = wide_t<T>;
  using Panels = RightPanels<double>;

  explicit HostScored(Rows A) : A_(std::move(A)) {
    this->m = A_.rows();
    this->n = A_.cols();
  }

  Small<Wide> triangle(const std::vector<double> &v) override {
    return triangle_by_blocks<Wide>(
        this->m, this->n, this->n, 0.0,
        [&](index first, index rows, Small<Wide> &out, index below) {
          for_entries(A_, first, first + rows, [&](index i, index j, Wide a) {
            out(below + i - first, j) = v.empty() ? a : v[static_cast<std::size_t>(i)] * a;
          });
        });
  }

  Small<Wide> sketched_triangle(const SketchSpec &spec) override {
    const Buffer<T> SA = sketch_of(A_, spec);
    const MatrixView<T> view{SA.get(), spec.d, this->n, this->n, 1, false};
    return HostScored<DenseRows<T>>(DenseRows<T>(view)).triangle({});
  }

  Small<Wide> gram(const Small<Wide> &P, const std::vector<double> &v) override {
    Small<Wide> G, none;
    const index ld = kPlanes<T> * round_up(P.cols, simd::panel_unit<double>);
    const auto reweight = [&](index first, index rows, double *Y, double *) {
      if (v.empty())
        return;
      for (index q = 0; q < ld; q += Panels::kPanel) {
        const index cols = std::min(Panels::kPanel, ld - q);
        for (index i = 0; i < rows; ++i)
          for (index j = 0; j < cols; ++j)
            Y[q * kBlock + i * cols + j] *= v[static_cast<std::size_t>(first + i)];
      }
    };
    gram_by_blocks<T, double>(A_, P, 0, reweight, G, none);
    return G;
  }

  std::vector<double> row_powers(const Small<Wide> &P, const Small<Wide> *M, double p) override {
    std::vector<double> out(static_cast<std::size_t>(this->m), 0.0);
    if (P.cols == 0)
      return out;
    const BlockProduct<T, double> product(A_, P);
    std::vector<Panels> factors;
    index widest = 0, columns = product.ld;
    if (M != nullptr)
      for (index j = 0; j < M->cols; j += kColumns) {
        const Small<Wide> part = M->columns(j, std::min(kColumns, M->cols - j));
        const index width = round_up(part.cols, simd::panel_unit<double>);
        factors.emplace_back(embed_small<Wide>(part, 0, part.rows, product.width, width, 1.0),
                             product.ld, kPlanes<T> * width);
        widest = std::max(widest, factors.back().ld);
        columns += factors.back().ld;
      }
    const double flops = 2.0 * static_cast<double>(this->m) * static_cast<double>(product.ld) *
                         static_cast<double>(columns);
    const RowChunks chunks(this->m, chunks_for(flops, 128), kBlock);
    parallel_for(chunks.count, [&](index c) {
      double *Y = scratch<double>(kBlock * product.ld, 1);
      double *Z = scratch<double>(kBlock * widest, 3);
      for (index first = chunks.first(c); first < chunks.last(c); first += kBlock) {
        const index rows = std::min(kBlock, chunks.last(c) - first);
        double *sums = out.data() + first;
        product(A_, first, first + rows, Y);
        if (M == nullptr)
          add_powers(product.right(), Y, rows, p, sums);
        for (const Panels &factor : factors) {
          factor.multiply_panels(Y, rows, Z);
          add_powers(factor, Z, rows, p, sums);
        }
      }
    });
    return out;
  }

  Small<Wide> rows(const std::vector<index> &which) override {
    Small<Wide> out(static_cast<index>(which.size()), this->n);
    for (index k = 0; k < out.rows; ++k) {
      const index row = which[static_cast<std::size_t>(k)];
      for_entries(A_, row, row + 1, [&](index, index j, Wide a) { out(k, j) = a; });
    }
    return out;
  }

  double scan(bool &finite) override { return A_.scan(finite); }
  void rescale(real_t<T> factor) override { A_.rescale(factor); }

protected:
  Rows A_;

private:
  /// out[i] += sum_j |z_ij|^p for a block Z by panels, planes side by side.
  static void add_powers(const Panels &panels, const double *Z, index rows, double p, double *out) {
    if (p == 2.0) {
      for (index q = 0; q < panels.ld; q += Panels::kPanel)
        add_squares(Z + q * kBlock, rows, panels.width(q), out);
      return;
    }
    // Panel units lie within panels, so that the planes of one are two pieces of a row.
    constexpr index unit = simd::panel_unit<double>;
    const index width = panels.ld / kPlanes<T>;
    for (index j = 0; j < width; j += unit)
      for (index i = 0; i < rows; ++i) {
        const double *re = piece(panels, Z, i, j), *im = piece(panels, Z, i, panels.ld - width + j);
        for (index lane = 0; lane < unit; ++lane)
          out[i] += power_of(
              is_complex_v<T> ? re[lane] * re[lane] + im[lane] * im[lane] : re[lane] * re[lane], p);
      }
  }

  static const double *piece(const Panels &panels, const double *Z, index i, index j) {
    const index q = j / Panels::kPanel * Panels::kPanel;
    return Z + q * kBlock + i * panels.width(q) + (j - q);
  }
};

} // namespace lowla::rows
