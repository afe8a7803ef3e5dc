// Random embeddings applied without being formed.
//
//   gaussian  S(i, j) = normal(i, j) / sqrt(d)
//   sjlt      S(i, j) = +-1/sqrt(nnz), `nnz` a column, one in each row block (SparseStack; Camano,
//             Epperly, Meyer, Tropp, arXiv:2508.21189; Kane, Nelson, JACM 61, 2014)
// S is d x n, generated from the Philox counter where it is needed. Cost: gaussian 2 d n c flops
// and d n normals; sjlt nnz n c additions, A read once.
#pragma once

#include "lowla/device/host.hpp"

namespace lowla {

enum class SketchKind { kGaussian, kSjlt };

struct SketchSpec {
  SketchKind kind;
  std::uint64_t key;
  index d, n, nnz;
};

/// out (d x c, row-major) = S A, A (n x c).
template <class T> void sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T, class I> void sketch_csr(const SketchSpec &spec, CsrView<T, I> A, T *out);
/// out (n x c, row-major) = S^T A, A (d x c).
template <class T> void sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out);
/// rows, signs (nnz x n, row-major): the pattern of the sparse operator.
void sjlt_pattern(const SketchSpec &spec, index *rows, std::int8_t *signs);

} // namespace lowla
