// Cuda: sketches (see sketch.hpp and device/cuda.cuh).
#pragma once

#include "lowla/device/cuda_csr.cuh"

#include <cmath>

namespace lowla {
namespace cuda_detail {

inline double inverse_root(index n) { return 1.0 / std::sqrt(static_cast<double>(n)); }

/// S^T as CSR, n x d.
template <class T, class Runtime>
CsrStorage<T, index, Runtime> sjlt_adjoint(const SketchSpec &spec) {
  CsrStorage<T, index, Runtime> out;
  out.m = spec.n;
  out.n = spec.d;
  out.indptr = DeviceArray<Runtime, index>(spec.n + 1);
  out.indices = DeviceArray<Runtime, index>(spec.n * spec.nnz);
  out.data = DeviceArray<Runtime, T>(spec.n * spec.nnz);
  Runtime::for_each(spec.n + 1,
                    functors::SjltRow<T>{out.indptr.get(), out.indices.get(), reals(out.data.get()),
                                         spec.d, spec.n, spec.nnz, spec.key,
                                         static_cast<real_t<T>>(inverse_root(spec.nnz))});
  return out;
}

/// (S A)^H = A^H S^T by columns of S^T.
template <class T, class Runtime>
void gaussian(const SketchSpec &spec, typename Cuda<T, Runtime>::Matrix &A, T *out) {
  using Device = Cuda<T, Runtime>;
  constexpr index kColumns = 256;
  for (index first = 0; first < spec.d; first += kColumns) {
    const index columns = std::min(kColumns, spec.d - first);
    typename Device::Panel St(spec.n, columns), Z(A.n, columns);
    Device::fill_normal(St, spec.key, philox::kStreamGaussian, first);
    A.multiply_adjoint(St, Z);
    const std::vector<wide_t<T>> factor(static_cast<std::size_t>(columns),
                                        wide_t<T>(inverse_root(spec.d)));
    Device::store(Z, factor, out + first * A.n, 1, A.n, true);
  }
}

} // namespace cuda_detail

template <class T, class Runtime>
void Cuda<T, Runtime>::sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out) {
  if (spec.kind == SketchKind::kGaussian) {
    cuda_detail::gaussian<T, Runtime>(spec, *dense(A), out);
    return;
  }
  const auto St = cuda_detail::sjlt_adjoint<T, Runtime>(spec);
  const auto S = cuda_detail::transpose<T, index, Runtime>(St.view(), spec.n * spec.nnz);
  cuda_detail::gather<T, index, Runtime>(S.view(), false, R(1), A, out, A.n);
}

template <class T, class Runtime>
template <class I>
void Cuda<T, Runtime>::sketch_csr(const SketchSpec &spec, CsrView<T, I> A, index stored, T *out) {
  if (spec.kind == SketchKind::kGaussian) {
    cuda_detail::gaussian<T, Runtime>(spec, *csr(A, stored), out);
    return;
  }
  const index nnz = cuda_detail::checked_nnz<T, I, Runtime>(A, stored);
  const auto At = cuda_detail::transpose<T, I, Runtime>(A, nnz);
  Runtime::for_each(spec.d * A.n * Entry<T>::kReals, functors::Fill<R>{reals(out), R(0)});
  Runtime::for_each((spec.nnz + 3) / 4 * A.n,
                    functors::SjltTimesColumn<T, I>{
                        At.indptr.get(), At.indices.get(), reals(At.data.get()), spec.d, A.n,
                        spec.nnz, spec.key, static_cast<R>(cuda_detail::inverse_root(spec.nnz)),
                        reals(out)});
}

template <class T, class Runtime>
void Cuda<T, Runtime>::sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out) {
  if (spec.kind == SketchKind::kSjlt) {
    const auto St = cuda_detail::sjlt_adjoint<T, Runtime>(spec);
    cuda_detail::gather<T, index, Runtime>(St.view(), false, R(1), A, out, A.n);
    return;
  }
  // (S^T A)^H = A^H S by columns of S.
  const auto matrix = dense(A);
  const index most =
      cuda_detail::scratch_rows(spec.n, (spec.d + A.n) * static_cast<index>(sizeof(T)));
  const std::vector<Wide> factor(static_cast<std::size_t>(most),
                                 Wide(cuda_detail::inverse_root(spec.d)));
  for (index first = 0; first < spec.n; first += most) {
    Panel S(spec.d, std::min(most, spec.n - first)), Z(A.n, S.cols);
    normal_entries(S.row(0), S.ld, S.rows, S.cols, first, spec.key, philox::kStreamGaussian);
    matrix->multiply_adjoint(S, Z);
    store(Z, factor, out + first * A.n, 1, A.n, true);
  }
}

template <class Runtime>
void CudaRandom<Runtime>::signs(std::int8_t *out, index rows, index cols, std::uint64_t key,
                                std::uint32_t stream) {
  Runtime::for_each((rows + 127) / 128 * cols, functors::SignEntries{out, rows, cols, key, stream});
}

template <class Runtime>
void CudaRandom<Runtime>::words(std::uint32_t *out, const philox::Words &counter,
                                std::uint64_t key) {
  Runtime::for_each(1, functors::PhiloxWords{out, counter, key});
}

template <class Runtime>
void CudaRandom<Runtime>::pattern(const SketchSpec &spec, index *rows, std::int8_t *signs) {
  Runtime::for_each((spec.nnz + 3) / 4 * spec.n,
                    functors::SjltPattern{rows, signs, spec.d, spec.n, spec.nnz, spec.key});
}

} // namespace lowla

/// Everything of one scalar type, in the translation unit that compiles it.
#define LOWLA_INSTANTIATE_CUDA(T, Runtime)                                                         \
  template struct lowla::Cuda<T, lowla::Runtime>;                                                  \
  template std::unique_ptr<lowla::Cuda<T, lowla::Runtime>::Matrix>                                 \
      lowla::Cuda<T, lowla::Runtime>::csr(lowla::CsrView<T, std::int32_t>, lowla::index);          \
  template std::unique_ptr<lowla::Cuda<T, lowla::Runtime>::Matrix>                                 \
      lowla::Cuda<T, lowla::Runtime>::csr(lowla::CsrView<T, std::int64_t>, lowla::index);          \
  template void lowla::Cuda<T, lowla::Runtime>::sketch_csr(                                        \
      const lowla::SketchSpec &, lowla::CsrView<T, std::int32_t>, lowla::index, T *);              \
  template void lowla::Cuda<T, lowla::Runtime>::sketch_csr(                                        \
      const lowla::SketchSpec &, lowla::CsrView<T, std::int64_t>, lowla::index, T *);
