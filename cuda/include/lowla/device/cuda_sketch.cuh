// Cuda: sketches (see sketch.hpp and device/cuda.cuh).
#pragma once

#include "lowla/device/cuda_csr.cuh"

#include <cmath>

namespace lowla {
namespace cuda_detail {

/// The operator's nonzeros, with the thresholds of the very sparse one on the device.
template <class Runtime> struct SparseSource {
  DeviceArray<Runtime, std::uint64_t> thresholds;
  functors::SparseKind kind;

  explicit SparseSource(const SketchSpec &spec)
      : kind{spec.key, spec.d, spec.kind == SketchKind::kSjlt ? spec.nnz : 0, nullptr} {
    if (spec.kind == SketchKind::kSparse) {
      std::vector<std::uint64_t> table(philox::kGapTable);
      philox::gap_thresholds(spec.density, table.data());
      thresholds = to_device<Runtime>(table);
      kind.thresholds = thresholds.get();
    }
  }
};

/// S as CSR, d x n, or S^T.
template <class T, class Runtime>
CsrStorage<T, index, Runtime> sparse_operator(const SketchSpec &spec, bool adjoint) {
  using R = real_t<T>;
  CsrStorage<T, index, Runtime> out;
  const R value = static_cast<R>(spec.scale());
  index nnz = spec.d;
  const bool by_rows = spec.kind == SketchKind::kUniform;
  out.m = by_rows ? spec.d : spec.n;
  out.n = by_rows ? spec.n : spec.d;
  out.indptr = DeviceArray<Runtime, index>(out.m + 1);
  if (by_rows) {
    out.indices = DeviceArray<Runtime, index>(nnz);
    Runtime::for_each(out.m + 1, functors::Count{out.indptr.get()});
    Runtime::for_each(spec.d, functors::UniformColumns{out.indices.get(), spec.n, spec.key});
    out.data = DeviceArray<Runtime, T>(nnz);
    Runtime::for_each(nnz, functors::SignedValues<T>{nullptr, value, reals(out.data.get())});
  } else {
    nnz = CudaRandom<Runtime>::pattern_starts(spec, out.indptr.get());
    out.indices = DeviceArray<Runtime, index>(nnz);
    out.data = DeviceArray<Runtime, T>(nnz);
    DeviceArray<Runtime, std::int8_t> signs(nnz);
    CudaRandom<Runtime>::pattern(spec, out.indptr.get(), out.indices.get(), signs.get());
    Runtime::for_each(nnz, functors::SignedValues<T>{signs.get(), value, reals(out.data.get())});
  }
  return by_rows == adjoint ? transpose<T, index, Runtime>(out.view(), nnz) : std::move(out);
}

/// (S A)^H = A^H S^T by columns of S^T.
template <class T, class Runtime>
void dense_times(const SketchSpec &spec, typename Cuda<T, Runtime>::Matrix &A, T *out) {
  using Device = Cuda<T, Runtime>;
  constexpr index kColumns = 256;
  for (index first = 0; first < spec.d; first += kColumns) {
    const index columns = std::min(kColumns, spec.d - first);
    typename Device::Panel St(spec.n, columns), Z(A.n, columns);
    if (spec.kind == SketchKind::kGaussian)
      Device::fill_normal(St, spec.key, philox::kStreamGaussian, first);
    else
      Device::sketch_block(spec, first, columns, 0, spec.n, St.row(0), 1, St.ld);
    A.multiply_adjoint(St, Z);
    const std::vector<wide_t<T>> factor(static_cast<std::size_t>(columns), wide_t<T>(spec.scale()));
    Device::store(Z, factor, out + first * A.n, 1, A.n, true);
  }
}

/// The fast transform by blocks of columns, S A or S^T A.
template <class T, class Runtime>
void hadamard_times(const SketchSpec &spec, MatrixView<T> A, bool adjoint, T *out) {
  using R = real_t<T>;
  const int bits = spec.log2_order();
  const index order = index(1) << bits;
  const index block = scratch_rows(A.n, order * static_cast<index>(sizeof(T)));
  const R scale = static_cast<R>(spec.scale());
  DeviceArray<Runtime, T> storage(order * block);
  R *X = reals(storage.get());
  for (index c = 0; c < A.n; c += block) {
    CancelScope::poll();
    const index cols = std::min(block, A.n - c);
    const R *source = reals(A.at(0, c));
    if (adjoint) {
      Runtime::for_each(order * cols * Entry<T>::kReals, functors::Fill<R>{X, R(0)});
      Runtime::for_each(
          std::min(spec.d, order) * cols,
          functors::ReturnRows<T>{source, A.rs, A.cs, spec.d, cols, spec.key, bits, X});
    } else {
      Runtime::for_each(order * cols,
                        functors::LoadSigned<T>{source, A.rs, A.cs, spec.n, cols, spec.key, X});
    }
    for (index half = 1; half < order; half *= 2)
      Runtime::for_each(order / 2 * cols, functors::Butterfly<T>{X, cols, half});
    if (adjoint)
      Runtime::for_each(spec.n * cols,
                        functors::StoreSigned<T>{X, cols, spec.key, scale, reals(out + c), A.n});
    else
      Runtime::for_each(spec.d * cols,
                        functors::KeepRows<T>{X, cols, spec.key, bits, scale, reals(out + c), A.n});
  }
}

} // namespace cuda_detail

template <class T, class Runtime>
void Cuda<T, Runtime>::sketch_block(const SketchSpec &spec, index first_row, index rows,
                                    index first_col, index cols, T *out, index row_stride,
                                    index col_stride) {
  Runtime::for_each(rows * cols, functors::SignBlock<T>{
                                     reals(out), row_stride, col_stride, cols, first_row, first_col,
                                     spec.key, spec.kind == SketchKind::kSrht, spec.log2_order()});
}

template <class T, class Runtime>
void Cuda<T, Runtime>::sketch_entries(const SketchSpec &spec, T *out) {
  if (spec.kind == SketchKind::kGaussian)
    normal_entries(out, spec.n, spec.d, spec.n, 0, spec.key, philox::kStreamGaussian);
  else
    sketch_block(spec, 0, spec.d, 0, spec.n, out, spec.n, 1);
  const R scale = static_cast<R>(spec.scale());
  Runtime::for_each(spec.d * spec.n, functors::Copy<T>{reals(out), spec.n, 1, false, scale,
                                                       reals(out), spec.n, 1, spec.n});
}

template <class T, class Runtime>
void Cuda<T, Runtime>::sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out) {
  if (spec.kind == SketchKind::kSrht) {
    cuda_detail::hadamard_times<T, Runtime>(spec, A, false, out);
  } else if (spec.is_sparse()) {
    const auto S = cuda_detail::sparse_operator<T, Runtime>(spec, false);
    cuda_detail::gather<T, index, Runtime>(S.view(), false, R(1), A, out, A.n);
  } else {
    cuda_detail::dense_times<T, Runtime>(spec, *dense(A), out);
  }
}

template <class T, class Runtime>
template <class I>
void Cuda<T, Runtime>::sketch_csr(const SketchSpec &spec, CsrView<T, I> A, index stored, T *out) {
  if (!spec.is_sparse()) {
    cuda_detail::dense_times<T, Runtime>(spec, *csr(A, stored), out);
    return;
  }
  cuda_detail::checked_nnz<T, I, Runtime>(A, stored);
  const auto S = cuda_detail::sparse_operator<T, Runtime>(spec, false);
  Runtime::for_each(spec.d, functors::SparseTimesSparse<T, I>{
                                S.indptr.get(), S.indices.get(), reals(S.data.get()), A.indptr,
                                A.indices, reals(A.data), A.n, reals(out)});
}

template <class T, class Runtime>
void Cuda<T, Runtime>::sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out) {
  if (spec.kind == SketchKind::kSrht) {
    cuda_detail::hadamard_times<T, Runtime>(spec, A, true, out);
    return;
  }
  if (spec.is_sparse()) {
    const auto St = cuda_detail::sparse_operator<T, Runtime>(spec, true);
    cuda_detail::gather<T, index, Runtime>(St.view(), false, R(1), A, out, A.n);
    return;
  }
  // (S^T A)^H = A^H S by columns of S.
  const auto matrix = dense(A);
  const index most =
      cuda_detail::scratch_rows(spec.n, (spec.d + A.n) * static_cast<index>(sizeof(T)));
  const std::vector<Wide> factor(static_cast<std::size_t>(most), Wide(spec.scale()));
  for (index first = 0; first < spec.n; first += most) {
    Panel S(spec.d, std::min(most, spec.n - first)), Z(A.n, S.cols);
    if (spec.kind == SketchKind::kGaussian)
      normal_entries(S.row(0), S.ld, S.rows, S.cols, first, spec.key, philox::kStreamGaussian);
    else
      sketch_block(spec, 0, S.rows, first, S.cols, S.row(0), S.ld, 1);
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
index CudaRandom<Runtime>::pattern_starts(const SketchSpec &spec, index *starts) {
  const auto prefix_sums = [&](std::vector<index> counts) {
    counts.push_back(0);
    index sum = 0;
    for (index &count : counts)
      sum += std::exchange(count, sum);
    Runtime::to_device(starts, counts.data(), counts.size() * sizeof(index));
    return sum;
  };
  if (spec.kind == SketchKind::kUniform) {
    DeviceArray<Runtime, index> columns(spec.d);
    Runtime::for_each(spec.d, functors::UniformColumns{columns.get(), spec.n, spec.key});
    std::vector<index> counts(static_cast<std::size_t>(spec.n));
    for (const index j : to_host<Runtime>(columns.get(), spec.d))
      ++counts[static_cast<std::size_t>(j)];
    return prefix_sums(std::move(counts));
  }
  const cuda_detail::SparseSource<Runtime> S(spec);
  DeviceArray<Runtime, index> counts(spec.n);
  Runtime::for_each(spec.n, functors::CountColumn{S.kind, counts.get()});
  return prefix_sums(to_host<Runtime>(counts.get(), spec.n));
}

template <class Runtime>
void CudaRandom<Runtime>::pattern(const SketchSpec &spec, const index *starts, index *rows,
                                  std::int8_t *signs) {
  if (spec.kind == SketchKind::kUniform) {
    const auto St = cuda_detail::sparse_operator<double, Runtime>(spec, true);
    Runtime::copy(rows, St.indices.get(), static_cast<std::size_t>(spec.d) * sizeof(index));
    Runtime::for_each(spec.d, functors::Fill<std::int8_t>{signs, 1});
    return;
  }
  const cuda_detail::SparseSource<Runtime> S(spec);
  Runtime::for_each(spec.n, functors::WriteColumn{S.kind, starts, rows, signs});
}

} // namespace lowla
