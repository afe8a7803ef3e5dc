// Random embeddings on the CPU: what each kind is, and where it is computed (see sketch.hpp).
#include "lowla/sketch.hpp"

#include "sketch_kinds.hpp"

#include <cmath>

namespace lowla {

double SketchSpec::scale() const {
  const double rows = static_cast<double>(d);
  switch (kind) {
  case SketchKind::kSjlt:
    return 1.0 / std::sqrt(static_cast<double>(nnz));
  case SketchKind::kSparse:
    return 1.0 / std::sqrt(density * rows);
  case SketchKind::kUniform:
    return std::sqrt(static_cast<double>(n) / rows);
  default:
    return 1.0 / std::sqrt(rows);
  }
}

int SketchSpec::log2_order() const {
  int bits = 0;
  while ((index(1) << bits) < n)
    ++bits;
  return bits;
}

SketchSpec sketch_spec(const std::string &kind, std::uint64_t key, index d, index n, index nnz,
                       double density) {
  SketchSpec spec{SketchKind::kGaussian, key, d, n, 1, 1.0};
  if (kind == "rademacher") {
    spec.kind = SketchKind::kRademacher;
  } else if (kind == "srht") {
    spec.kind = SketchKind::kSrht;
  } else if (kind == "sjlt" || kind == "countsketch") {
    spec.kind = SketchKind::kSjlt;
    spec.nnz = kind == "sjlt" ? nnz : 1;
  } else if (kind == "sparse") {
    spec.kind = SketchKind::kSparse;
    spec.density = density;
  } else if (kind == "uniform") {
    spec.kind = SketchKind::kUniform;
  } else if (kind != "gaussian") {
    throw ValueError("kind must be \"gaussian\", \"rademacher\", \"srht\", \"countsketch\", "
                     "\"sjlt\", \"sparse\" or \"uniform\", got \"" +
                     kind + "\"");
  }
  constexpr index kMost = index(1) << 48; // row and column numbers have 48 bits in the counter
  if (d < 1 || d > kMost || n < 1 || n > kMost)
    throw ValueError("d and n must be in 1..2^48, got " + std::to_string(d) + " and " +
                     std::to_string(n));
  if (spec.kind != SketchKind::kGaussian && spec.kind != SketchKind::kRademacher &&
      d >= (index(1) << 31)) // row numbers share a word with a sign
    throw ValueError("d of kind \"" + kind + "\" must be below 2^31, got " + std::to_string(d));
  if (spec.nnz < 1 || spec.nnz > d)
    throw ValueError("nnz must be in 1..d = " + std::to_string(d) + ", got " + std::to_string(nnz));
  if (!(spec.density > 0 && spec.density <= 1))
    throw ValueError("density must be in (0, 1], got " + std::to_string(density));
  return spec;
}

template <class T> void sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out) {
  switch (spec.kind) {
  case SketchKind::kSrht:
    return sketches::srht_times(spec, A, out);
  case SketchKind::kUniform:
    return sketches::uniform_times(spec, A, out);
  case SketchKind::kSjlt:
    return sketches::sjlt_times(spec, A, out);
  case SketchKind::kSparse:
    return sketches::sparse_times(spec, A, out);
  default:
    return sketches::dense_times(spec, A, out);
  }
}

template <class T, class I> void sketch_csr(const SketchSpec &spec, CsrView<T, I> A, T *out) {
  switch (spec.kind) {
  case SketchKind::kUniform:
    return sketches::uniform_times_csr(spec, A, out);
  case SketchKind::kSjlt:
  case SketchKind::kSparse:
    return sketches::sparse_times_csr(spec, A, out);
  default: // a transform would fill A in: srht too is applied by its entries
    return sketches::dense_times_csr(spec, A, out);
  }
}

template <class T> void sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out) {
  switch (spec.kind) {
  case SketchKind::kSrht:
    return sketches::srht_adjoint_times(spec, A, out);
  case SketchKind::kUniform:
    return sketches::uniform_adjoint_times(spec, A, out);
  case SketchKind::kSjlt:
  case SketchKind::kSparse:
    return sketches::sparse_adjoint_times(spec, A, out);
  default:
    return sketches::dense_adjoint_times(spec, A, out);
  }
}

template <class R> void sketch_entries(const SketchSpec &spec, R *out) {
  constexpr index kRows = 4;
  const R factor = static_cast<R>(spec.scale());
  threads::parallel_for((spec.d + kRows - 1) / kRows, [&](index chunk) {
    const index first = chunk * kRows, rows = std::min(kRows, spec.d - first);
    Buffer<R> block(kRows * spec.n); // generators write four rows at a time
    sketches::dense_block(spec, first, kRows, 0, spec.n, block.get(), spec.n);
    for (index k = 0; k < rows * spec.n; ++k)
      out[first * spec.n + k] = factor * block.get()[k];
  });
}

SketchPattern sketch_pattern(const SketchSpec &spec) {
  return spec.kind == SketchKind::kUniform ? sketches::uniform_pattern(spec)
                                           : sketches::sparse_pattern(spec);
}

template void sketch_entries(const SketchSpec &, float *);
template void sketch_entries(const SketchSpec &, double *);
#define LOWLA_INSTANTIATE(T)                                                                       \
  template void sketch_dense(const SketchSpec &, MatrixView<T>, T *);                              \
  template void sketch_csr(const SketchSpec &, CsrView<T, std::int32_t>, T *);                     \
  template void sketch_csr(const SketchSpec &, CsrView<T, std::int64_t>, T *);                     \
  template void sketch_adjoint(const SketchSpec &, MatrixView<T>, T *);
LOWLA_FOR_SCALARS(LOWLA_INSTANTIATE)
#undef LOWLA_INSTANTIATE

} // namespace lowla
