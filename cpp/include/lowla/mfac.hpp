// M-FAC: the inverse of the empirical Fisher matrix F = damp I + (1/m) sum_i g_i g_i^T without
// forming it (Frantar, Kurtic, Alistarh, "M-FAC: Efficient matrix-free approximations of
// second-order information", NeurIPS 2021).
//
// With the gradients as rows of G (m x d), K = G G^T and shift = m damp, everything follows from
// one Cholesky factorisation M = shift I + K = L L^T (Woodbury):
//   F^-1 x       = (x - G^T M^-1 G x) / damp                            4 d m + 2 m^2 flops, two
//   reads of G (F^-1)_ij    = (delta_ij - w_i . w_j) / damp, w_i = L^-1 G(:, i) log det F    = d
//   log damp + 2 sum log L_ii - m log shift tr F^-1      = (d - m + shift tr M^-1) / damp
// The paper's own set-up computes the rows of L^-1 G one by one from all before (2 d m^2 flops in m
// reads of G); K takes d m^2 in one. The window of gradients moves in O(d m + m^2): the Gram matrix
// gets one new row, and L loses its first row and column by a rank-one *update* of the rest, which
// is always stable (Gill, Golub, Murray, Saunders, "Methods for modifying matrix factorizations",
// Math. Comp. 28, 1974, method C1), and gains a row by one triangular solve.
//
// A block-diagonal F (block_size B) has one such problem for each B columns; where B < m the B x B
// matrix shift I + G_b^T G_b is factored instead ("primal"), F_b^-1 = m (L L^T)^-1.
//
// Gradients stay as they are stored (16, 32 or 64 bits). Every sum is in double precision and
// results are rounded once: with single-precision sums F^-1 x of an x among the gradients has no
// digits at small damp. Reductions have a fixed partition: results do not depend on the threads.
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/stored.hpp"
#include "lowla/core/view.hpp"

#include <algorithm>
#include <vector>

namespace lowla {

enum class Stored { kFloat, kDouble, kFloat16, kBFloat16 };

/// Columns of G in a memory of their own; strides in numbers.
struct Shard {
  const void *data;
  Stored type;
  index rs, cs, cols;
};

/// f(pointer to the entry, of its type) of the row `row` and the column `column` of a shard.
template <class F> void with_entry(const Shard &shard, index row, index column, F &&f) {
  const index at = row * shard.rs + column * shard.cs;
  switch (shard.type) {
  case Stored::kFloat:
    return f(static_cast<const float *>(shard.data) + at);
  case Stored::kDouble:
    return f(static_cast<const double *>(shard.data) + at);
  case Stored::kFloat16:
    return f(static_cast<const Float16 *>(shard.data) + at);
  default:
    return f(static_cast<const BFloat16 *>(shard.data) + at);
  }
}

/// X as its caller has it, float or double; out of the same kind.
struct Vectors {
  const void *data;
  bool is_double;
  index rows, cols, rs, cs;
};
struct MutableVectors {
  void *data;
  bool is_double;
  index rs, cs;
};

/// The gradients: m rows, d columns, in blocks of `block` columns (0: one block).
class Gradients {
public:
  Gradients(std::vector<Shard> shards, index m, index block_size);

  index m, d, block_size, blocks;

  bool primal() const { return block_size > 0 && block_size < m; }
  /// Order of the small matrix of each block.
  index order() const { return primal() ? block_size : m; }
  index first(index block) const { return block * width_; }
  index last(index block) const { return std::min(d, (block + 1) * width_); }

  /// f(shard, its first column, count, columns before) for the columns first .. last - 1.
  template <class F> void for_spans(index first, index last, F &&f) const {
    for (std::size_t s = 0; s < shards_.size(); ++s) {
      const index from = std::max(first, starts_[s]), to = std::min(last, starts_[s + 1]);
      if (from < to)
        f(shards_[s], from - starts_[s], to - from, from - first);
    }
  }

private:
  std::vector<Shard> shards_;
  std::vector<index> starts_;
  index width_;
};

/// The small matrices of all blocks, s x s and row-major.
template <class Number> struct Stack {
  Number *data;
  index block, ld; ///< from one matrix, or row, to the next
  Number *at(index b) const { return data + b * block; }
};
using Factors = Stack<const double>;

/// K_b for all blocks: (blocks, s, s), symmetric. Columns whose mask is 0 count as zero.
void fisher_gram(const Gradients &G, const unsigned char *mask, double *K);

/// The lower Cholesky factors of shift I + K_b, (blocks, s, s), rows in order of age: row a belongs
/// to the row (head + a) mod s of K. LinAlgError where a pivot is below the rounding of its row, s
/// eps M_ii (in exact arithmetic none is below the shift). NaN where K_b holds NaN or Inf.
void fisher_factor(const Stack<const double> &K, index blocks, index s, double shift, index head,
                   const Stack<double> &L);

/// C = M^-1 R, (m, r) row-major in the order of G's rows.
void fisher_coefficients(const Factors &L, index m, index head, const double *R, index r,
                         double *C);

/// R = G X, (m, r) row-major.
void fisher_dots(const Gradients &G, const Vectors &X, double *R);

/// Y = alpha X + beta G^T C.
void fisher_combine(const Gradients &G, const double *C, const Vectors &X, double alpha,
                    double beta, const MutableVectors &Y);

/// Y = F^-1 X.
void fisher_solve(const Gradients &G, const Factors &L, index head, double damp, const Vectors &X,
                  const MutableVectors &Y);

/// Y = F X.
void fisher_multiply(const Gradients &G, double damp, const Vectors &X, const MutableVectors &Y);

/// The diagonal of F^-1; dual, it is not below 1 / F_ii (Cauchy and Schwarz), where the subtraction
/// leaves only rounding.
void fisher_diagonal(const Gradients &G, const Factors &L, index head, double damp, double *out);

/// W(t, :) = L_b^-1 G(:, i_t) in order of age, primal L_b^-1 e_i; (n, s) row-major.
void fisher_columns(const Gradients &G, const Factors &L, index head, const std::int64_t *indices,
                    index n, double *W);

/// out[t] = W(i_t, :) W(j_t, :)^T.
void fisher_inner(const double *W, index s, const std::int64_t *i, const std::int64_t *j, index n,
                  double *out);

/// out (p x q) = V W^T.
void fisher_cross(const double *V, index p, const double *W, index q, index s, double *out);

/// Where a window stands: `count` gradients, the oldest of them row `head`.
struct Window {
  index head, count;
  bool refactored;
};

/// Takes the gradient g (one row a shard, stored as the shard is) into the window, whose shards are
/// written to. While it fills the gradient becomes row `count`, and of a dual K and L the leading
/// part is in use; then it replaces the oldest. K has the order of the rows of G, L that of age.
/// `refactor`: L from K (primal: K from G too) rather than from the old L. After an exception all
/// is as before.
Window fisher_push(const std::vector<Shard> &window, index rows, const std::vector<Shard> &g,
                   index block_size, const Stack<double> &K, const Stack<double> &L, index head,
                   index count, double damp, bool refactor);

/// (sum_b log det (M_b / shift), sum_b shift tr M_b^-1), of the last block its first `width` rows.
struct LogTrace {
  double log_det, trace;
};
LogTrace fisher_log_trace(const Factors &L, index blocks, index s, index width, double shift);

/// Y = (damp I + U diag(S)^2 U^T)^-1 G for U (d, s), S (s), G (d, r).
void natural_gradient(const Vectors &G, const Vectors &U, const double *S, double damp,
                      const MutableVectors &Y);

} // namespace lowla
