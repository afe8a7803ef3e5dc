// Random embeddings on the CPU (see sketch.hpp).
#include "lowla/sketch.hpp"

#include <cmath>

namespace lowla {
namespace {

using threads::parallel_for;

/// Columns of S^T generated at a time: a panel of n x kColumns.
constexpr index kColumns = 64;

/// The nonzeros of column j of the sparse operator, in row-block order.
struct SjltColumn {
  std::vector<index> row;
  std::vector<int> sign;

  explicit SjltColumn(index nnz)
      : row(static_cast<std::size_t>(nnz)), sign(static_cast<std::size_t>(nnz)) {}
  void generate(const SketchSpec &spec, index j) {
    for (index b = 0; b < spec.nnz; b += 4) {
      const auto words =
          philox::block(spec.key, philox::kStreamSjlt, static_cast<std::uint64_t>(b >> 2),
                        static_cast<std::uint64_t>(j));
      for (index t = b; t < std::min(spec.nnz, b + 4); ++t) {
        const auto entry = philox::sjlt_entry(words.w[t & 3], t, spec.d, spec.nnz);
        row[t] = entry.row;
        sign[t] = entry.sign;
      }
    }
  }
};

/// out(first + j, c) = conj(Z(c, j)) factor for the columns j of Z.
template <class T> void store_adjoint(const Panel<T> &Z, index first, double factor, T *out) {
  using R = real_t<T>;
  for (index c = 0; c < Z.rows; ++c)
    for (index j = 0; j < Z.cols; ++j) {
      const R re = Z.row(c)[j] * static_cast<R>(factor);
      if constexpr (is_complex_v<T>)
        out[(first + j) * Z.rows + c] = T(re, -Z.row(c)[Z.width + j] * static_cast<R>(factor));
      else
        out[(first + j) * Z.rows + c] = re;
    }
}

template <class T> void gaussian(const SketchSpec &spec, typename Host<T>::Matrix &A, T *out) {
  for (index first = 0; first < spec.d; first += kColumns) {
    const index columns = std::min(kColumns, spec.d - first);
    Panel<T> St(spec.n, columns), Z(A.n, columns);
    Host<T>::fill_normal(St, spec.key, philox::kStreamGaussian, first);
    A.multiply_adjoint(St, Z); // (S A)^H = A^H S^T
    store_adjoint(Z, first, 1.0 / std::sqrt(static_cast<double>(spec.d)), out);
  }
}

} // namespace

template <class T> void sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out) {
  using R = real_t<T>;
  if (spec.kind == SketchKind::kGaussian) {
    gaussian<T>(spec, *Host<T>::dense(A), out);
    return;
  }
  const R scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(spec.nnz)));
  constexpr index kSlab = 64;
  const index slabs = (A.n + kSlab - 1) / kSlab;
  std::fill(out, out + spec.d * A.n, T(0));
  parallel_for(slabs, [&](index slab) {
    const index c0 = slab * kSlab, c1 = std::min(A.n, c0 + kSlab);
    SjltColumn column(spec.nnz);
    for (index j = 0; j < spec.n; ++j) {
      column.generate(spec, j);
      for (index t = 0; t < spec.nnz; ++t) {
        T *target = out + column.row[t] * A.n;
        const R value = column.sign[t] > 0 ? scale : -scale;
        for (index c = c0; c < c1; ++c)
          target[c] += value * *A.at(j, c);
      }
    }
  });
}

template <class T, class I> void sketch_csr(const SketchSpec &spec, CsrView<T, I> A, T *out) {
  using R = real_t<T>;
  if (spec.kind == SketchKind::kGaussian) {
    gaussian<T>(spec, *Host<T>::csr(A), out);
    return;
  }
  const R scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(spec.nnz)));
  std::fill(out, out + spec.d * A.n, T(0));
  // The row blocks of S are disjoint in the output: one task for each four of them.
  parallel_for((spec.nnz + 3) / 4, [&](index group) {
    for (index j = 0; j < A.m; ++j) {
      const auto words =
          philox::block(spec.key, philox::kStreamSjlt, static_cast<std::uint64_t>(group),
                        static_cast<std::uint64_t>(j));
      for (index t = 4 * group; t < std::min(spec.nnz, 4 * group + 4); ++t) {
        const auto entry = philox::sjlt_entry(words.w[t & 3], t, spec.d, spec.nnz);
        T *target = out + entry.row * A.n;
        const R value = entry.sign > 0 ? scale : -scale;
        for (I p = A.indptr[j]; p < A.indptr[j + 1]; ++p)
          target[A.indices[p]] += value * A.data[p];
      }
    }
  });
}

template <class T> void sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out) {
  using R = real_t<T>;
  constexpr index kRows = 256;
  const index chunks = (spec.n + kRows - 1) / kRows;
  if (spec.kind == SketchKind::kGaussian) {
    Panel<T> Y(A.m, A.n);
    Host<T>::load(Y, A);
    const R scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(spec.d)));
    const index depth = round_up(spec.d, 4);
    parallel_for(chunks, [&](index chunk) {
      const index first = chunk * kRows, rows = std::min(kRows, spec.n - first);
      Buffer<R> left(rows * depth), product(rows * Y.ld);
      for (index r = 0; r < rows; ++r)
        for (index g = 0; g < depth / 4; ++g) {
          double four[4];
          philox::normals4(spec.key, philox::kStreamGaussian, static_cast<std::uint64_t>(g),
                           static_cast<std::uint64_t>(first + r), four);
          for (index t = 0; t < 4; ++t)
            left.get()[r * depth + 4 * g + t] = scale * static_cast<R>(four[t]);
        }
      simd::dense<R>().multiply(left.get(), depth, rows, spec.d, Y.row(0), Y.ld, Y.ld,
                                product.get(), Y.ld, false);
      for (index r = 0; r < rows; ++r)
        for (index c = 0; c < A.n; ++c) {
          const R *source = product.get() + r * Y.ld;
          if constexpr (is_complex_v<T>)
            out[(first + r) * A.n + c] = T(source[c], source[Y.width + c]);
          else
            out[(first + r) * A.n + c] = source[c];
        }
    });
    return;
  }
  const R scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(spec.nnz)));
  parallel_for(chunks, [&](index chunk) {
    SjltColumn column(spec.nnz);
    for (index j = chunk * kRows; j < std::min(spec.n, (chunk + 1) * kRows); ++j) {
      column.generate(spec, j);
      T *target = out + j * A.n;
      std::fill(target, target + A.n, T(0));
      for (index t = 0; t < spec.nnz; ++t) {
        const R value = column.sign[t] > 0 ? scale : -scale;
        for (index c = 0; c < A.n; ++c)
          target[c] += value * *A.at(column.row[t], c);
      }
    }
  });
}

void sjlt_pattern(const SketchSpec &spec, index *rows, std::int8_t *signs) {
  constexpr index kRows = 1024;
  parallel_for((spec.n + kRows - 1) / kRows, [&](index chunk) {
    SjltColumn column(spec.nnz);
    for (index j = chunk * kRows; j < std::min(spec.n, (chunk + 1) * kRows); ++j) {
      column.generate(spec, j);
      for (index t = 0; t < spec.nnz; ++t) {
        rows[t * spec.n + j] = column.row[t];
        signs[t * spec.n + j] = static_cast<std::int8_t>(column.sign[t]);
      }
    }
  });
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template void sketch_dense(const SketchSpec &, MatrixView<T>, T *);                              \
  template void sketch_csr(const SketchSpec &, CsrView<T, std::int32_t>, T *);                     \
  template void sketch_csr(const SketchSpec &, CsrView<T, std::int64_t>, T *);                     \
  template void sketch_adjoint(const SketchSpec &, MatrixView<T>, T *);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
