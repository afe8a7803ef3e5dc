// Cuda: the device "GPU". The primitives are those of device/host.hpp, with the same meaning.
//
// Panels are row-major with interleaved complex entries, the layout of the arrays that go in and
// out: for cuBLAS, which is column-major, a panel is its own transpose, so Y = A X is computed as
// Y^T = X^T A^T. Dense A in C or F order is read in place through transpose flags and leading
// dimensions; any other strides, and a scale factor, through packed copies of row blocks. The d x d
// problems stay on the host in double precision; only they cross over, and each crossing waits for
// the stream. Gram matrices are formed in double precision.
//
// `Runtime` says how memory is had and functors are run (device/runtime.hpp). Members are defined
// in the cuda_*.cuh beside this file and instantiated once per scalar type.
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/small.hpp"
#include "lowla/core/view.hpp"
#include "lowla/device/matrix.hpp"
#include "lowla/device/runtime.hpp"
#include "lowla/sketch.hpp"

#include <memory>
#include <vector>

namespace lowla {

template <class T> class TallMatrix;
template <class T> class ScoredMatrix;
template <class T> class LpMatrix;
template <class W> class ColumnSource;

template <class T, class Runtime> struct Cuda {
  using Scalar = T;
  using R = real_t<T>;
  using Wide = wide_t<T>;
  template <class N> using Array = DeviceArray<Runtime, N>;

  /// rows x cols, row-major; rows begin at multiples of 16 bytes, the padding is never read.
  struct Panel {
    static constexpr index kUnit = sizeof(T) < 16 ? 16 / static_cast<index>(sizeof(T)) : 1;
    index rows = 0, cols = 0;
    index ld = 0;
    Array<T> storage;

    Panel() = default;
    Panel(index m, index n) : rows(m), cols(n), ld(round_up(n, kUnit)), storage(m * ld) {}
    T *row(index i) { return storage.get() + i * ld; }
    const T *row(index i) const { return storage.get() + i * ld; }
  };
  using Panels = std::vector<const Panel *>;

  using Matrix = lowla::Matrix<Panel, R, Wide>;

  /// The views point to device memory.
  static std::unique_ptr<Matrix> dense(MatrixView<T> A);
  /// `stored`: the length of the caller's indices and data. ValueError where A is malformed.
  template <class I> static std::unique_ptr<Matrix> csr(CsrView<T, I> A, index stored);
  /// For least squares (lstsq_solver.hpp).
  static std::unique_ptr<TallMatrix<T>> tall(MatrixView<T> A, MatrixView<T> b);
  static std::unique_ptr<TallMatrix<T>> adjoint_tall(MatrixView<T> A);
  template <class I>
  static std::unique_ptr<TallMatrix<T>> tall(CsrView<T, I> A, index stored, MatrixView<T> b);
  template <class I>
  static std::unique_ptr<TallMatrix<T>> adjoint_tall(CsrView<T, I> A, index stored);
  /// M on the host.
  static Small<Wide> entries(MatrixView<T> M);
  /// For the scores of rows (scores.hpp).
  static std::unique_ptr<ScoredMatrix<T>> scored(MatrixView<T> A);
  template <class I> static std::unique_ptr<ScoredMatrix<T>> scored(CsrView<T, I> A, index stored);

  static void fill_normal(Panel &P, std::uint64_t key, std::uint32_t stream, index first = 0);
  static void fill_sjlt(Panel &P, std::uint64_t key, index nnz);
  static void set_identity(Panel &P);
  static Panel copy(const Panel &P);

  static Small<Wide> inner(const Panels &P, const Panel &W);
  static Small<Wide> gram(const Panel &Y) { return inner({&Y}, Y); }
  /// The same: double precision is fast where this runs.
  static Small<Wide> coefficients(const Panels &P, const Panel &W) { return inner(P, W); }
  static void subtract(Panel &W, const Panels &P, const Small<Wide> &H);
  static Panel combine(const Panels &P, const Small<Wide> &E, Small<Wide> *G = nullptr);
  static void multiply_right(Panel &Y, const Small<Wide> &M) { Y = combine({&Y}, M); }
  static Small<Wide> update(Panel &W, const Panels &P, const Small<Wide> &H, const Small<Wide> *M,
                            const Panels *Q) {
    if (!P.empty())
      subtract(W, P, H);
    if (M != nullptr)
      multiply_right(W, *M);
    if (Q == nullptr)
      return {};
    Panels all = *Q;
    all.push_back(&W);
    return inner(all, W);
  }
  static std::vector<Wide> peaks(const Panel &P);
  static void store(const Panel &P, const std::vector<Wide> &factor, T *out, index rs, index cs,
                    bool conjugate);
  static void load(Panel &P, MatrixView<T> A);

  /// ||P||_F^2, and the largest magnitude of a part of an entry (infinite if one is not finite).
  static double squares(const Panel &P);
  static double largest(const Panel &P);

  /// out(i, j) = normal(stream, i, first + j), rows `ld` apart.
  static void normal_entries(T *out, index ld, index rows, index cols, index first,
                             std::uint64_t key, std::uint32_t stream);

  /// out(i, j) = S(first_row + i, first_col + j) without the scale: rademacher or srht.
  static void sketch_block(const SketchSpec &spec, index first_row, index rows, index first_col,
                           index cols, T *out, index row_stride, index col_stride);
  /// As in sketch.hpp, on device memory.
  static void sketch_entries(const SketchSpec &spec, T *out);
  static void sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out);
  template <class I>
  static void sketch_csr(const SketchSpec &spec, CsrView<T, I> A, index stored, T *out);
  static void sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out);
};

/// l_p regression (lp.hpp), T float or double.
template <class T, class Runtime> struct CudaLpRegression {
  static std::unique_ptr<LpMatrix<T>> open(MatrixView<T> A);
  /// As Cuda::csr.
  template <class I> static std::unique_ptr<LpMatrix<T>> open(CsrView<T, I> A, index stored);
};

/// For decompositions by columns and rows (column_source.hpp).
template <class T, class Runtime> struct CudaColumns {
  static std::unique_ptr<ColumnSource<wide_t<T>>> open(MatrixView<T> A);
  /// As Cuda::csr.
  template <class I>
  static std::unique_ptr<ColumnSource<wide_t<T>>> open(CsrView<T, I> A, index stored);
};

/// The draws that are not floating-point numbers, into device memory.
template <class Runtime> struct CudaRandom {
  static void signs(std::int8_t *out, index rows, index cols, std::uint64_t key,
                    std::uint32_t stream);
  static void words(std::uint32_t *out, const philox::Words &counter, std::uint64_t key);
  /// starts (n + 1): where the nonzeros of each column of a sparse kind begin; returns their
  /// number.
  static index pattern_starts(const SketchSpec &spec, index *starts);
  static void pattern(const SketchSpec &spec, const index *starts, index *rows, std::int8_t *signs);
};

/// Blocks count x m x n with any strides, `block` entries from one to the next.
template <class T> struct BlocksView {
  const T *data;
  index count, m, n;
  index block, rs, cs;
  bool conjugated = false;
};

/// Kronecker and Monarch products on device memory (see kron.hpp and monarch.hpp).
template <class T, class Runtime> struct CudaKron {
  static void kron_multiply(const std::vector<MatrixView<T>> &factors, const T *X, index columns,
                            bool columns_first, T *Y);
  static void monarch_multiply(const BlocksView<T> &L, const BlocksView<T> &R,
                               const MatrixView<T> &X, bool permuted, bool transpose, T *Y);
  /// X = (F_1 x ... x F_P)^-1 B for square factors. LinAlgError where one is singular.
  static void kron_solve(const std::vector<MatrixView<T>> &factors, const T *B, index columns,
                         bool columns_first, T *X);
  static void kron_solve_shifted(const std::vector<std::vector<real_t<T>>> &w,
                                 const std::vector<MatrixView<T>> &V, real_t<T> shift, const T *B,
                                 index columns, bool columns_first, T *X);
  /// M^-1 B, or M^-T B, for square blocks. LinAlgError where one is singular.
  static void monarch_solve(const BlocksView<T> &L, const BlocksView<T> &R, const MatrixView<T> &B,
                            bool permuted, bool transpose, T *X);
  static double monarch_project(const MatrixView<T> &W, index k, index l, bool check_finite, T *L,
                                T *R);
  /// A by blocks of m2 x n2, n1 of them side by side: each becomes a row of `out`.
  static void rearrange(const MatrixView<T> &A, index n1, index m2, index n2, T *out);
};

/// Fourier transforms on device memory, R float or double. Arrays of lines, contiguous.
template <class R, class Runtime> struct CudaFourier {
  using T = std::complex<R>;
  /// out (lines, n): the transforms of x (lines, m), each line cut or continued by zeros to n; x
  /// real or complex (N = R or T).
  template <class N>
  static void transform(const N *x, index lines, index m, index n, bool inverse, T *out);
  /// y (lines, n), line i the first n entries of u[of_u[i]] * k[of_k[i]], u (., n) and k (., r).
  static void convolve(const R *u, index n, const std::vector<index> &of_u, const R *k, index r,
                       const std::vector<index> &of_k, R *y);
  /// The same, circular of the next length from n + min(n, r) - 1 on with prime factors up to 5,
  /// and the spectra of k multiplied by mask[of_mask[i]], `f` samples from frequency 0 to half the
  /// length.
  static void convolve_masked(const R *u, index n, const std::vector<index> &of_u, const R *k,
                              index r, const std::vector<index> &of_k, const R *mask, index f,
                              const std::vector<index> &of_mask, R *y);
};

} // namespace lowla
