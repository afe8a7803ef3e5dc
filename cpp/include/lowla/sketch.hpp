// Random embeddings S (d x n) with E S^T S = I, applied without being formed.
//
//   gaussian     S(i, j) = normal(i, j) / sqrt(d)
//   rademacher   S(i, j) = +-1 / sqrt(d)                               (Achlioptas, JCSS 66, 2003)
//   srht         S = R H D / sqrt(d): D random signs, H the Hadamard matrix of order p, the next
//                power of two, R a choice of d distinct rows, or of all of them in turn where d > p
//                (Ailon, Chazelle 2006; Tropp, arXiv:1011.1595)
//   sjlt         +-1/sqrt(nnz), `nnz` a column, one in each row block (SparseStack; Camano,
//   Epperly,
//                Meyer, Tropp, arXiv:2508.21189; Kane, Nelson, JACM 61, 2014); with nnz = 1 the
//                CountSketch of Charikar, Chen, Farach-Colton 2002 and Clarkson, Woodruff 2013
//   sparse       +-1/sqrt(density d) with probability `density`, else 0 (Li, Hastie, Church 2006)
//   uniform      in each row one entry sqrt(n/d): rows sampled with replacement
//
// S is generated from the Philox counter where it is needed. Cost for A with c columns: gaussian,
// rademacher 2 d n c flops and d n entries of S; srht n c log2(p) additions, and d c for each 1024
// rows; sjlt nnz n c, sparse density d n c additions; A is read once by all but the dense kinds,
// which read it once per 512 rows of S and thread. Memory beside the result: blocks that fit the
// caches; for srht with d beyond about 1024 log2(p) a work space of p x 64 bytes for each thread.
#pragma once

#include "lowla/device/host.hpp"

#include <string>

namespace lowla {

enum class SketchKind { kGaussian, kSjlt, kRademacher, kSrht, kSparse, kUniform };

struct SketchSpec {
  SketchKind kind;
  std::uint64_t key;
  index d, n;
  index nnz = 1;        ///< a column, of sjlt
  double density = 1.0; ///< of sparse

  bool is_sparse() const {
    return kind == SketchKind::kSjlt || kind == SketchKind::kSparse || kind == SketchKind::kUniform;
  }
  /// What +-1 (a standard normal) is multiplied by.
  double scale() const;
  /// srht: the order of the transform is 2^log2_order().
  int log2_order() const;
};

/// The operator of that name ("countsketch" is sjlt with nnz = 1); ValueError where an argument has
/// no meaning.
SketchSpec sketch_spec(const std::string &kind, std::uint64_t key, index d, index n, index nnz,
                       double density);

/// out (d x c, row-major) = S A, A (n x c).
template <class T> void sketch_dense(const SketchSpec &spec, MatrixView<T> A, T *out);
template <class T, class I> void sketch_csr(const SketchSpec &spec, CsrView<T, I> A, T *out);
/// out (n x c, row-major) = S^T A, A (d x c).
template <class T> void sketch_adjoint(const SketchSpec &spec, MatrixView<T> A, T *out);

/// S of a dense kind, (d x n) row-major.
template <class R> void sketch_entries(const SketchSpec &spec, R *out);

/// S of a sparse kind by columns, without its scale: starts (n + 1), and for each nonzero its row
/// (ascending within a column) and sign.
struct SketchPattern {
  std::vector<index> starts, rows;
  std::vector<std::int8_t> signs;
};
SketchPattern sketch_pattern(const SketchSpec &spec);

} // namespace lowla
