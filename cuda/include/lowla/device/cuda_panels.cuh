// Cuda: panels and reductions (see device/cuda.cuh).
#pragma once

#include "lowla/core/cancel.hpp"
#include "lowla/device/cuda.cuh"
#include "lowla/device/functors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lowla {
namespace cuda_detail {

/// Scratch of one step over rows, where it is not a panel.
constexpr index kScratchBytes = index(16) << 20;

/// Rows that fit into the scratch.
inline index scratch_rows(index rows, index bytes_a_row) {
  return std::max<index>(1, std::min(rows, kScratchBytes / std::max<index>(1, bytes_a_row)));
}

/// Whether gemm takes rows (or columns) of `size` entries that begin `ld` apart.
inline bool leading(index ld, index size) {
  return ld >= std::max<index>(1, size) && ld <= std::numeric_limits<std::int32_t>::max();
}

/// A sum, or a maximum, over many numbers in double precision. The parts, and so the result, depend
/// on the sizes alone; they are folded twice on the device and once on the host.
template <class Runtime> class Reduction {
public:
  static constexpr index kParts = index(1) << 17, kFolds = 256;

  Reduction() : partial_(kParts) {
    Runtime::for_each(kParts, functors::Fill<double>{partial_.get(), 0.0});
  }
  double *partial() { return partial_.get(); }

  template <class T> void add_squares(const T *A, index rs, index cs, index m, index n) {
    const index parts = std::min(kParts, m * n);
    if (parts > 0)
      Runtime::for_each(parts, functors::SumSquares<T>{reals(A), rs, cs, m, n, parts, partial()});
  }
  template <class T> void add_largest(const T *A, index rs, index cs, index m, index n) {
    const index parts = std::min(kParts, m * n);
    if (parts > 0)
      Runtime::for_each(parts, functors::LargestPart<T>{reals(A), rs, cs, m, n, parts, partial()});
  }

  double sum() {
    double total = 0;
    for (double x : folded<functors::FoldSum>())
      total += x;
    return total;
  }
  double largest() {
    const auto parts = folded<functors::FoldLargest>();
    return *std::max_element(parts.begin(), parts.end());
  }

private:
  template <class Fold> std::vector<double> folded() {
    DeviceArray<Runtime, double> out(kFolds);
    Runtime::for_each(kFolds, Fold{partial_.get(), kParts, kFolds, out.get()});
    return to_host<Runtime>(out.get(), kFolds);
  }

  DeviceArray<Runtime, double> partial_;
};

/// to(i, j) = scale from(i, j), or its conjugate.
template <class T, class Runtime>
void copy_entries(MatrixView<T> from, real_t<T> scale, T *to, index to_rs, index to_cs) {
  Runtime::for_each(from.m * from.n,
                    functors::Copy<T>{reals(from.data), from.rs, from.cs, from.conjugated, scale,
                                      reals(to), to_rs, to_cs, from.n});
}

/// The rows of M, row-major, in the scalar type of the panels: the right factor of products.
template <class T, class Runtime> DeviceArray<Runtime, T> right_factor(const Small<wide_t<T>> &M) {
  std::vector<T> rows(M.data.size());
  for (index i = 0; i < M.rows; ++i)
    for (index j = 0; j < M.cols; ++j)
      rows[static_cast<std::size_t>(i * M.cols + j)] = static_cast<T>(M(i, j));
  return to_device<Runtime>(rows);
}

/// W = sign sum_i P_i H_i + beta W
template <class T, class Runtime>
void add_products(typename Cuda<T, Runtime>::Panel &W, const typename Cuda<T, Runtime>::Panels &P,
                  const Small<wide_t<T>> &H, T sign, T beta) {
  const auto right = right_factor<T, Runtime>(H);
  index first = 0;
  for (const auto *p : P) {
    Runtime::gemm('N', 'N', H.cols, W.rows, p->cols, sign, right.get() + first * H.cols, H.cols,
                  p->row(0), p->ld, first == 0 ? beta : T(1), W.row(0), W.ld);
    first += p->cols;
  }
}

/// Rows first .. first+count-1 of a panel in double precision, rows `ld` apart: the memory itself,
/// or widened into `scratch`.
template <class T, class Runtime>
const wide_t<T> *wide_rows(const typename Cuda<T, Runtime>::Panel &P, index first, index count,
                           DeviceArray<Runtime, wide_t<T>> &scratch) {
  if constexpr (std::is_same_v<real_t<T>, double>) {
    (void)count;
    (void)scratch;
    return P.row(first);
  } else {
    Runtime::for_each(count * P.ld * Entry<T>::kReals,
                      functors::Widen{reals(P.row(first)), reals(scratch.get())});
    return scratch.get();
  }
}

} // namespace cuda_detail

template <class T, class Runtime>
void Cuda<T, Runtime>::fill_normal(Panel &P, std::uint64_t key, std::uint32_t stream, index first) {
  const index groups = (first + P.cols + 3) / 4 - first / 4;
  Runtime::for_each(P.rows * groups, functors::FillNormal<T>{reals(P.row(0)), P.ld, P.cols, groups,
                                                             first, key, stream});
}

template <class T, class Runtime>
void Cuda<T, Runtime>::fill_sjlt(Panel &P, std::uint64_t key, index nnz) {
  Runtime::for_each(P.rows, functors::FillSjlt<T>{reals(P.row(0)), P.ld, P.cols, nnz, key});
}

template <class T, class Runtime> void Cuda<T, Runtime>::set_identity(Panel &P) {
  Runtime::for_each(P.rows * P.cols, functors::FillIdentity<T>{reals(P.row(0)), P.ld, P.cols});
}

template <class T, class Runtime>
typename Cuda<T, Runtime>::Panel Cuda<T, Runtime>::copy(const Panel &P) {
  Panel out(P.rows, P.cols);
  Runtime::copy(out.row(0), P.row(0), static_cast<std::size_t>(P.rows * P.ld) * sizeof(T));
  return out;
}

template <class T, class Runtime>
Small<wide_t<T>> Cuda<T, Runtime>::inner(const Panels &P, const Panel &W) {
  const bool symmetric = P.size() == 1 && P[0] == &W;
  index total = 0, widest = 0;
  for (const Panel *p : P) {
    total += p->cols;
    widest = std::max(widest, p->ld);
  }
  Small<Wide> H(total, W.cols);
  if (total == 0 || W.cols == 0)
    return H;
  constexpr bool widen = !std::is_same_v<R, double>;
  const index chunk =
      widen ? cuda_detail::scratch_rows(W.rows, static_cast<index>(sizeof(Wide)) * (widest + W.ld))
            : W.rows;
  Array<Wide> left(widen && !symmetric ? chunk * widest : 0), right(widen ? chunk * W.ld : 0);
  Array<Wide> out(total * W.cols); // H row-major
  for (index i = 0; i < W.rows; i += chunk) {
    CancelScope::poll();
    const index rows = std::min(chunk, W.rows - i);
    const Wide *w = cuda_detail::wide_rows<T, Runtime>(W, i, rows, right);
    index first = 0;
    for (const Panel *p : P) {
      const Wide *x = p == &W ? w : cuda_detail::wide_rows<T, Runtime>(*p, i, rows, left);
      // H^T = W^T conj(P), all of them transposes of row-major memory
      Runtime::gemm('N', 'C', W.cols, p->cols, rows, Wide(1), w, W.ld, x, p->ld,
                    i == 0 ? Wide(0) : Wide(1), out.get() + first * W.cols, W.cols);
      first += p->cols;
    }
  }
  const auto entries = to_host<Runtime>(out.get(), total * W.cols);
  for (index i = 0; i < total; ++i)
    for (index j = 0; j < W.cols; ++j)
      H(i, j) =
          symmetric && i > j ? conj_of(H(j, i)) : entries[static_cast<std::size_t>(i * W.cols + j)];
  return H;
}

template <class T, class Runtime>
void Cuda<T, Runtime>::subtract(Panel &W, const Panels &P, const Small<Wide> &H) {
  cuda_detail::add_products<T, Runtime>(W, P, H, T(-1), T(1));
}

template <class T, class Runtime>
typename Cuda<T, Runtime>::Panel Cuda<T, Runtime>::combine(const Panels &P, const Small<Wide> &E,
                                                           Small<Wide> *G) {
  Panel out(P.front()->rows, E.cols);
  cuda_detail::add_products<T, Runtime>(out, P, E, T(1), T(0));
  if (G != nullptr)
    *G = gram(out);
  return out;
}

template <class T, class Runtime> std::vector<wide_t<T>> Cuda<T, Runtime>::peaks(const Panel &P) {
  constexpr index kParts = 512;
  const index size = std::max<index>(16, (P.rows + kParts - 1) / kParts);
  const index parts = (P.rows + size - 1) / size;
  Array<double> magnitude(parts * P.cols);
  Array<Wide> value(parts * P.cols);
  Runtime::for_each(parts * P.cols,
                    functors::PeaksOfPart<T>{reals(P.row(0)), P.ld, P.rows, P.cols, size,
                                             magnitude.get(), reals(value.get())});
  Runtime::for_each(P.cols,
                    functors::PeaksOfAll<T>{parts, P.cols, magnitude.get(), reals(value.get())});
  return to_host<Runtime>(value.get(), P.cols);
}

template <class T, class Runtime>
void Cuda<T, Runtime>::store(const Panel &P, const std::vector<Wide> &factor, T *out, index rs,
                             index cs, bool conjugate) {
  const auto factors = to_device<Runtime>(factor);
  Runtime::for_each(P.rows * P.cols,
                    functors::Store<T>{reals(P.row(0)), P.ld, P.cols, reals(factors.get()),
                                       conjugate, reals(out), rs, cs});
}

template <class T, class Runtime> void Cuda<T, Runtime>::load(Panel &P, MatrixView<T> A) {
  cuda_detail::copy_entries<T, Runtime>(A, R(1), P.row(0), P.ld, 1);
}

template <class T, class Runtime> double Cuda<T, Runtime>::squares(const Panel &P) {
  cuda_detail::Reduction<Runtime> reduction;
  reduction.add_squares(P.row(0), P.ld, 1, P.rows, P.cols);
  return reduction.sum();
}

template <class T, class Runtime> double Cuda<T, Runtime>::largest(const Panel &P) {
  cuda_detail::Reduction<Runtime> reduction;
  reduction.add_largest(P.row(0), P.ld, 1, P.rows, P.cols);
  return reduction.largest();
}

template <class T, class Runtime>
void Cuda<T, Runtime>::normal_entries(T *out, index ld, index rows, index cols, index first,
                                      std::uint64_t key, std::uint32_t stream) {
  Runtime::for_each((rows + 3) / 4 * cols,
                    functors::NormalEntries<T>{reals(out), ld, rows, cols, first, key, stream});
}

} // namespace lowla
