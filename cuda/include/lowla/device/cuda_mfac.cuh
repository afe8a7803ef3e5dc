// M-FAC on the GPU (see mfac.hpp for what is computed).
//
// On the device are the gradients, the vectors, the factors L and columns of L^-1 G. In main memory
// are the Gram matrices K, which are factored there (the primitives have no Cholesky; L crosses by
// pieces), and G x where a caller asks for it. A product F^-1 x moves nothing between the two.
//
// One to four vectors: G x is a functor over blocks of threads, which reads G once a vector as it
// is stored, G^T c one that reads it once for all. More vectors, the Gram matrices and the columns
// of L^-1 G: slabs of columns are widened to double precision, and cuBLAS multiplies them. A slab
// is part of one block of F, or, where these are narrow, several whole ones, multiplied as a batch.
// Systems with L: a functor over blocks of threads for few columns of any number of factors; for
// slabs products with the rows of L, 32 at a time, and substitution among those.
//
// A push reads G once (G g). K gets its new row in main memory; the rotations of L and its new row
// are one kernel, a block of threads a factor, O(m^2). All sums have an order given by the sizes.
//
// Memory beside what is returned: slabs of 32 MiB and the vectors in double precision.
#pragma once

#include "lowla/core/cancel.hpp"
#include "lowla/core/error.hpp"
#include "lowla/device/cuda_mfac.hpp"
#include "lowla/device/functors.hpp"
#include "lowla/device/functors_mfac.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lowla {

class EmulatedRuntime;

/// Sizes that decide which way is taken. Expectations of the design, not measurements.
template <class Runtime> struct MfacSizes {
  static constexpr index kSlab = index(1) << 22; ///< entries in double precision
  static constexpr index kNarrow = 256;   ///< columns of a block below which several go along
  static constexpr index kPanel = 32;     ///< rows of L that are solved for together
  static constexpr index kPart = 2048;    ///< least columns of a part of a dot product
  static constexpr index kVectors = 1024; ///< taken together
};
/// Little, so that small problems take the ways of large ones.
template <> struct MfacSizes<EmulatedRuntime> {
  static constexpr index kSlab = 512, kNarrow = 8, kPanel = 4, kPart = 8, kVectors = 6;
};

namespace mfac_detail {

template <class N> using Host = std::vector<N>;

inline std::size_t size_of(index n) { return static_cast<std::size_t>(n); }

template <class P> using pointee_t = std::remove_const_t<std::remove_pointer_t<P>>;

template <class Runtime> void zero(double *x, index n) {
  Runtime::for_each(n, functors::Fill<double>{x, 0.0});
}

/// The columns first .. last - 1 of the rows row .. row + count - 1 (or from `head` on, around the
/// m rows) in double precision.
template <class Runtime>
void widen(const Gradients &G, index row, index count, index head, index first, index last,
           const unsigned char *mask, double *out, index ld) {
  const index rows = row == 0 ? G.m : count;
  G.for_spans(first, last, [&](const Shard &shard, index from, index cols, index at) {
    with_entry(shard, row, from, [&](const auto *x) {
      using S = pointee_t<decltype(x)>;
      Runtime::for_each(count * cols,
                        functors::WidenColumns<S>{x, shard.rs, shard.cs, head, rows, cols,
                                                  mask != nullptr ? mask + first + at : nullptr,
                                                  out + at, ld});
    });
  });
}

inline index width_of(const Gradients &G) {
  return G.block_size > 0 ? G.block_size : std::max<index>(1, G.d);
}

/// Part of a block, or `count` whole blocks; padded with zeros to the width of a block.
struct Slab {
  index block, count; ///< count 0: a part
  index first, cols;
  bool begins, ends; ///< its block
  index blocks() const { return std::max<index>(1, count); }
};

/// How wide a slab with `rows` entries a column is: `blocks` whole blocks, or (0) columns of one.
struct SlabSize {
  index blocks, cols;
};
template <class Runtime> SlabSize slab_size(const Gradients &G, index rows) {
  using Sizes = MfacSizes<Runtime>;
  const index width = width_of(G);
  const index most = std::max<index>(1, Sizes::kSlab / std::max<index>(1, rows));
  if (width >= Sizes::kNarrow || width > most)
    return {0, std::min(most, width)};
  const index blocks = std::min(most / width, G.blocks);
  return {blocks, blocks * width};
}

/// f(slab) for the blocks b0 .. b1 - 1.
template <class F>
void for_slabs(const Gradients &G, const SlabSize &size, index b0, index b1, F &&f) {
  const index width = width_of(G);
  for (index b = b0; b < b1 && size.blocks > 0; b += size.blocks) {
    CancelScope::poll();
    const index count = std::min(size.blocks, b1 - b);
    f(Slab{b, count, b * width, count * width, true, true});
  }
  for (index b = b0; b < b1 && size.blocks == 0; ++b)
    for (index k = G.first(b); k < G.last(b); k += size.cols) {
      CancelScope::poll();
      const index n = std::min(size.cols, G.last(b) - k);
      f(Slab{b, 0, k, n, k == G.first(b), k + n == G.last(b)});
    }
}

/// All rows of a slab, from `head` on.
template <class Runtime>
void widen(const Gradients &G, const Slab &slab, index head, const unsigned char *mask, double *P) {
  const index last = std::min(G.d, slab.first + slab.cols);
  if (last < slab.first + slab.cols)
    zero<Runtime>(P, G.m * slab.cols);
  widen<Runtime>(G, 0, G.m, head, slab.first, last, mask, P, slab.cols);
}

/// C = op(A) op(B) + beta C for `count` matrices; beta 0 where there are several.
template <class Runtime>
void multiply(char op_a, char op_b, index m, index n, index k, const double *A, index lda,
              index step_a, const double *B, index ldb, index step_b, double beta, double *C,
              index ldc, index step_c, index count) {
  if (m == 0 || n == 0)
    return;
  if (k == 0) {
    if (beta == 0.0)
      zero<Runtime>(C, step_c * (count - 1) + ldc * (n - 1) + m);
  } else if (count == 1) {
    Runtime::gemm(op_a, op_b, m, n, k, 1.0, A, lda, B, ldb, beta, C, ldc);
  } else {
    Runtime::gemm_batched(op_a, op_b, m, n, k, A, lda, step_a, B, ldb, step_b, C, ldc, step_c,
                          count);
  }
}

// --- Gram matrices

/// K_b = G_b G_b^T of all blocks.
template <class Runtime>
void gram_of_rows(const Gradients &G, const unsigned char *mask, double *K) {
  const index m = G.m;
  const SlabSize size = slab_size<Runtime>(G, m);
  DeviceArray<Runtime, double> P(m * size.cols), sums;
  for_slabs(G, size, 0, G.blocks, [&](const Slab &slab) {
    const index width = slab.count > 0 ? width_of(G) : slab.cols, entries = slab.blocks() * m * m;
    if (slab.begins)
      sums = DeviceArray<Runtime, double>(entries);
    widen<Runtime>(G, slab, 0, mask, P.get());
    multiply<Runtime>('T', 'N', m, m, width, P.get(), slab.cols, width, P.get(), slab.cols, width,
                      slab.begins ? 0.0 : 1.0, sums.get(), m, m * m, slab.blocks());
    if (!slab.ends)
      return;
    Runtime::for_each(entries, functors::Mirror{sums.get(), m});
    Runtime::to_host(K + slab.block * m * m, sums.get(), size_of(entries) * sizeof(double));
  });
}

/// K_b = G_b^T G_b of the blocks b0 .. b1 - 1, by rows of G where a block does not fit into a slab.
template <class Runtime>
void gram_of_columns(const Gradients &G, const unsigned char *mask, index b0, index b1, double *K) {
  using Sizes = MfacSizes<Runtime>;
  const index B = width_of(G), fit = Sizes::kSlab / (G.m * B);
  const index together = B < Sizes::kNarrow ? std::clamp<index>(fit, 1, b1 - b0) : 1;
  const index rows = together > 1 ? G.m : std::clamp<index>(Sizes::kSlab / B, 1, G.m);
  DeviceArray<Runtime, double> P(rows * together * B), sums(together * B * B);
  for (index b = b0; b < b1; b += together) {
    const index count = std::min(together, b1 - b), cols = count * B, first = b * B;
    for (index i = 0; i < G.m; i += rows) {
      CancelScope::poll();
      const index n = std::min(rows, G.m - i), last = std::min(G.d, first + cols);
      if (last < first + cols)
        zero<Runtime>(P.get(), n * cols);
      widen<Runtime>(G, i, n, 0, first, last, mask, P.get(), cols);
      multiply<Runtime>('N', 'T', B, B, n, P.get(), cols, B, P.get(), cols, B, i == 0 ? 0.0 : 1.0,
                        sums.get(), B, B * B, count);
    }
    Runtime::for_each(count * B * B, functors::Mirror{sums.get(), B});
    Runtime::to_host(K + (b - b0) * B * B, sums.get(), size_of(count * B * B) * sizeof(double));
  }
}

// --- G x and G^T c for the blocks b0 .. b1 - 1 and the columns c .. c + r - 1 of X

/// The rows of X that belong to those blocks.
struct Rows {
  index first, last;
  Rows(const Gradients &G, index b0, index b1) : first(G.first(b0)), last(G.last(b1 - 1)) {}
  index count() const { return last - first; }
};

template <class Runtime>
void few_dots(const Gradients &G, index b0, index b1, const Vectors &X, index c, index r,
              double *R) {
  using Sizes = MfacSizes<Runtime>;
  constexpr index kMostParts = 1024;
  const Rows own(G, b0, b1);
  const index width = width_of(G), m = G.m;
  const index size = std::max(Sizes::kPart, (width + kMostParts - 1) / kMostParts);
  const functors::Chunks chunks{width, (width + size - 1) / size, size, own.count()};
  DeviceArray<Runtime, double> x(own.count()), partial((b1 - b0) * chunks.parts * m);
  const auto part_of = [&](index j) { return j / width * chunks.parts + j % width / size; };
  for (index k = 0; k < r; ++k) {
    zero<Runtime>(partial.get(), (b1 - b0) * chunks.parts * m);
    Runtime::for_each(own.count(),
                      functors::LoadVectors{X, own.first, c + k, 1, nullptr, x.get(), 1, 1});
    G.for_spans(own.first, own.last, [&](const Shard &shard, index from, index cols, index at) {
      const index first = part_of(at), last = part_of(at + cols - 1) + 1;
      with_entry(shard, 0, from, [&](const auto *g) {
        using Dots = functors::PartialDots<pointee_t<decltype(g)>>;
        const index groups = (m + Dots::kRows - 1) / Dots::kRows;
        Runtime::for_each_block((last - first) * groups, Dots::kShared,
                                Dots{g, shard.rs, shard.cs, at, at + cols, x.get(), m, groups,
                                     chunks, first, partial.get()});
      });
    });
    Runtime::for_each((b1 - b0) * m, functors::FoldDots{partial.get(), m, chunks.parts, R + k, r});
  }
}

/// R (b1 - b0, m, r)
template <class Runtime>
void dots(const Gradients &G, index b0, index b1, const Vectors &X, index c, index r, double *R) {
  if (r <= functors::CombineColumns<double>::kVectors)
    return few_dots<Runtime>(G, b0, b1, X, c, r, R);
  const index m = G.m;
  const SlabSize size = slab_size<Runtime>(G, m + r);
  DeviceArray<Runtime, double> P(m * size.cols), x(size.cols * r);
  for_slabs(G, size, b0, b1, [&](const Slab &slab) {
    const index width = slab.count > 0 ? width_of(G) : slab.cols;
    widen<Runtime>(G, slab, 0, nullptr, P.get());
    Runtime::for_each(slab.cols * r,
                      functors::LoadVectors{X, slab.first, c, r, nullptr, x.get(), r, 1});
    multiply<Runtime>('N', 'N', r, m, width, x.get(), r, width * r, P.get(), slab.cols, width,
                      slab.begins ? 0.0 : 1.0, R + (slab.block - b0) * m * r, r, m * r,
                      slab.blocks());
  });
}

/// Y = alpha X + beta G^T C, C (b1 - b0, m, r)
template <class Runtime>
void combine(const Gradients &G, index b0, index b1, const double *C, const Vectors &X, index c,
             index r, double alpha, double beta, const MutableVectors &Y) {
  const index m = G.m, width = width_of(G);
  if (r <= functors::CombineColumns<double>::kVectors) {
    const Rows own(G, b0, b1);
    G.for_spans(own.first, own.last, [&](const Shard &shard, index from, index cols, index at) {
      with_entry(shard, 0, from, [&](const auto *g) {
        using S = pointee_t<decltype(g)>;
        Runtime::for_each(cols, functors::CombineColumns<S>{g, shard.rs, shard.cs, at, m, width, C,
                                                            static_cast<int>(r), X, alpha, beta,
                                                            own.first, c, Y});
      });
    });
    return;
  }
  const SlabSize size = slab_size<Runtime>(G, m + r);
  DeviceArray<Runtime, double> P(m * size.cols), Z(size.cols * r);
  for_slabs(G, size, b0, b1, [&](const Slab &slab) {
    const index own = slab.count > 0 ? width : slab.cols;
    widen<Runtime>(G, slab, 0, nullptr, P.get());
    multiply<Runtime>('N', 'T', r, own, m, C + (slab.block - b0) * m * r, r, m * r, P.get(),
                      slab.cols, own, 0.0, Z.get(), r, own * r, slab.blocks());
    Runtime::for_each(std::min(slab.cols, G.d - slab.first) * r,
                      functors::BlendVectors{X, alpha, beta, Z.get(), slab.first, c, r, Y});
  });
}

/// f(b0, b1, c, r): groups of blocks with `size` numbers a vector and block, and of vectors.
template <class Runtime, class F> void for_groups(index blocks, index size, index vectors, F &&f) {
  using Sizes = MfacSizes<Runtime>;
  for (index c = 0; c < vectors; c += Sizes::kVectors) {
    const index r = std::min(Sizes::kVectors, vectors - c);
    const index together = std::max<index>(1, Sizes::kSlab / std::max<index>(1, size * r));
    for (index b = 0; b < blocks; b += together) {
      CancelScope::poll();
      f(b, std::min(blocks, b + together), c, r);
    }
  }
}

// --- systems with the factors

/// T_q <- (L_q L_q^T)^-1 T_q for T (count, s, r), rows from `head` on.
template <class Runtime>
void solve_both(const Factors &L, index b0, index count, index s, index head, double *T, index r) {
  using Solve = functors::SolveFactors;
  const index groups = (r + Solve::kColumns - 1) / Solve::kColumns;
  if (s > 0)
    Runtime::for_each_block(
        count * groups, 0,
        Solve{L.at(b0), L.block, L.ld, s, head, nullptr, T, s * r, r, r, groups, true});
}

/// T_q <- L_q^-1 T_q for `count` systems of `columns` columns (0: one of them), by many threads.
template <class Runtime>
void solve_lower(const Factors &L, index b, index s, double *T, index t_block, index t_ld,
                 index columns, index count) {
  const index step = count > 0 ? s : MfacSizes<Runtime>::kPanel;
  for (index i = 0; i < s; i += step) {
    const index last = std::min(s, i + step);
    if (i > 0 && columns > 0)
      Runtime::gemm('N', 'N', columns, last - i, i, -1.0, T, t_ld, L.at(b) + i * L.ld, L.ld, 1.0,
                    T + i * t_ld, t_ld);
    Runtime::for_each(
        std::max<index>(1, count) * columns,
        functors::SolvePanel{L.at(b), L.block, L.ld, i, last, T, t_block, t_ld, columns});
  }
}

/// (count, s, s) of any steps, packed.
template <class Runtime> Host<double> fetched(const Factors &L, index b0, index count, index s) {
  DeviceArray<Runtime, double> packed(count * s * s);
  Runtime::for_each(count * s * s,
                    functors::CopySquares{L.at(b0), L.block, L.ld, packed.get(), s * s, s, s});
  return to_host<Runtime>(packed.get(), count * s * s);
}

/// f(b0, b1) for blocks with matrices of order s.
template <class Runtime, class F> void for_matrices(index blocks, index s, F &&f) {
  const index together = std::max<index>(1, MfacSizes<Runtime>::kSlab / std::max<index>(1, s * s));
  for (index b = 0; b < blocks; b += together) {
    CancelScope::poll();
    f(b, std::min(blocks, b + together));
  }
}

// --- the diagonal

template <class Runtime>
void dual_diagonal(const Gradients &G, const Factors &L, index head, double damp,
                   const MutableVectors &out) {
  const index m = G.m;
  const SlabSize size = slab_size<Runtime>(G, m);
  DeviceArray<Runtime, double> P(m * size.cols), squares(size.cols), found(size.cols);
  for_slabs(G, size, 0, G.blocks, [&](const Slab &slab) {
    const index cols = slab.cols, width = slab.count > 0 ? width_of(G) : cols;
    const auto add_squares = [&](double *to) {
      Runtime::for_each(cols, functors::SquaresOfColumns{P.get(), 0, cols, m, cols, to});
    };
    widen<Runtime>(G, slab, head, nullptr, P.get());
    add_squares(squares.get());
    solve_lower<Runtime>(L, slab.block, m, P.get(), width, cols, width, slab.count);
    add_squares(found.get());
    const auto rows = static_cast<double>(std::max<index>(1, m));
    Runtime::for_each(
        std::min(cols, G.d - slab.first),
        functors::DualDiagonal{found.get(), squares.get(), damp, rows, slab.first, out});
  });
}

/// Y without its first rows.
inline MutableVectors from_row(MutableVectors Y, index row) {
  const index at = row * Y.rs;
  if (Y.is_double)
    Y.data = static_cast<double *>(Y.data) + at;
  else
    Y.data = static_cast<float *>(Y.data) + at;
  return Y;
}

/// m ||L_b^-1 e_i||^2
template <class Runtime>
void primal_diagonal(const Gradients &G, const Factors &L, const MutableVectors &out) {
  using Sizes = MfacSizes<Runtime>;
  const index B = G.block_size, fit = Sizes::kSlab / (B * B);
  const index together = B < Sizes::kNarrow ? std::clamp<index>(fit, 1, G.blocks) : 1;
  const index cols = together > 1 ? B : std::clamp<index>(Sizes::kSlab / B, 1, B);
  DeviceArray<Runtime, double> T(together * B * cols), squares(together * cols);
  const auto scale = static_cast<double>(G.m);
  for (index b = 0; b < G.blocks; b += together)
    for (index k = 0; k < B; k += cols) {
      CancelScope::poll();
      const index count = std::min(together, G.blocks - b), n = std::min(cols, B - k);
      Runtime::for_each(count * B * n, functors::UnitColumns{T.get(), B, n, k});
      solve_lower<Runtime>(L, b, B, T.get(), B * n, n, n, together > 1 ? count : 0);
      Runtime::for_each(count * n,
                        functors::SquaresOfColumns{T.get(), B * n, n, B, n, squares.get()});
      const index first = b * B + k;
      const Vectors unused{squares.get(), true, count * n, 1, 1, 1};
      Runtime::for_each(
          std::clamp<index>(G.d - first, 0, count * n),
          functors::BlendVectors{unused, 0.0, scale, squares.get(), 0, 0, 1, from_row(out, first)});
    }
}

// --- the window

/// One push; what it has changed goes back unless it is kept.
template <class Runtime> class FisherPush {
public:
  FisherPush(const std::vector<Shard> &window, index rows, const std::vector<Shard> &newest,
             index block_size, const Stack<double> &K, const Stack<double> &L, index head,
             index count, double damp)
      : full_(count == rows), slot_(full_ ? head : count), m_(full_ ? count : count + 1),
        head_(full_ ? (head + 1) % rows : head), shift_(static_cast<double>(m_) * damp),
        shards_(window), newest_(newest), G_(window, m_, block_size), g_(newest, 1, block_size),
        K_(K), L_(L), primal_(block_size > 0 && block_size < rows), s_(primal_ ? block_size : m_),
        first_(primal_ ? 0 : slot_), changed_(primal_ ? s_ : 1) {
    for (index b = 0; b < G_.blocks; ++b)
      for (index i = 0; i < changed_; ++i) {
        const double *row = K_.at(b) + (first_ + i) * K_.ld;
        old_K_.insert(old_K_.end(), row, row + s_);
      }
  }

  Window run(bool refactor) {
    DeviceArray<Runtime, double> made(G_.blocks * s_ * s_);
    const Stack<double> L{made.get(), s_ * s_, s_};
    bool refactored = true;
    try {
      primal_ ? renew_primal(refactor) : renew_row();
      for (index i = 0; i < G_.blocks * s_; ++i)
        if (!std::isfinite(K_.at(i / s_)[i % s_ * (K_.ld + 1)]))
          throw LinAlgError("the Gram matrix of the gradients overflows");
      refactored = primal_ || refactor || !full_ || !exchanged(made.get());
      if (refactored)
        CudaMfac<Runtime>::factor({K_.data, K_.block, K_.ld}, G_.blocks, s_, shift_,
                                  primal_ ? 0 : head_, L);
    } catch (...) {
      restore();
      throw;
    }
    Runtime::for_each(G_.blocks * s_ * s_,
                      functors::CopySquares{made.get(), s_ * s_, s_, L_.data, L_.block, L_.ld, s_});
    if (!primal_)
      write();
    return {head_, m_, refactored};
  }

private:
  /// Row and column `slot` of every dual K_b, from one read of G.
  void renew_row() {
    const index blocks = G_.blocks;
    DeviceArray<Runtime, double> g(G_.d), R(blocks * m_), square(blocks);
    widen<Runtime>(g_, 0, 1, 0, 0, G_.d, nullptr, g.get(), G_.d);
    const Vectors x{g.get(), true, G_.d, 1, 1, 1};
    dots<Runtime>(G_, 0, blocks, x, 0, 1, R.get());
    dots<Runtime>(g_, 0, blocks, x, 0, 1, square.get());
    row_ = to_host<Runtime>(R.get(), blocks * m_);
    const Host<double> squares = to_host<Runtime>(square.get(), blocks);
    for (index b = 0; b < blocks; ++b) {
      row_[size_of(b * m_ + slot_)] = squares[size_of(b)]; // G has another gradient there
      for (index i = 0; i < m_; ++i)
        K_.at(b)[slot_ * K_.ld + i] = K_.at(b)[i * K_.ld + slot_] = row_[size_of(b * m_ + i)];
    }
  }

  /// K_b += g g^T - o o^T for the newest gradient and the oldest, if one goes. From the gradients
  /// if asked, or where a diagonal entry of M falls by more than half: the difference would keep
  /// the rounding of what was subtracted.
  void renew_primal(bool from_gradients) {
    const Host<double> g = row_of(g_, 0), o = full_ ? row_of(G_, slot_) : Host<double>();
    save();
    write();
    for (index b = 0; b < G_.blocks; ++b) {
      CancelScope::poll();
      const index first = G_.first(b), n = G_.last(b) - first;
      bool fallen = from_gradients;
      for (index i = 0; i < n; ++i) {
        double *row = K_.at(b) + i * K_.ld;
        const double before = row[i], g_i = g[size_of(first + i)];
        for (index j = 0; j < n; ++j)
          row[j] += g_i * g[size_of(first + j)];
        for (index j = 0; j < n && full_; ++j)
          row[j] -= o[size_of(first + i)] * o[size_of(first + j)];
        fallen = fallen || before > 2 * (row[i] + shift_);
      }
      if (!fallen)
        continue;
      Host<double> K(size_of(s_ * s_));
      gram_of_columns<Runtime>(G_, nullptr, b, b + 1, K.data());
      for (index i = 0; i < s_; ++i)
        std::copy_n(K.data() + i * s_, s_, K_.at(b) + i * K_.ld);
    }
  }

  Host<double> row_of(const Gradients &G, index row) const {
    DeviceArray<Runtime, double> wide(G.d);
    G.for_spans(0, G.d, [&](const Shard &shard, index from, index cols, index at) {
      with_entry(shard, row, from, [&](const auto *x) {
        using S = pointee_t<decltype(x)>;
        Runtime::for_each(cols, functors::WidenColumns<S>{x, shard.rs, shard.cs, 0, 1, cols,
                                                          nullptr, wide.get() + at, cols});
      });
    });
    return to_host<Runtime>(wide.get(), G.d);
  }

  /// L of the window moved on, from the one in use; false where a new pivot is rounding.
  bool exchanged(double *L) const {
    const index blocks = G_.blocks;
    const DeviceArray<Runtime, double> newest = to_device<Runtime>(row_);
    DeviceArray<Runtime, double> v(blocks * m_), y(blocks * m_), pivot(blocks);
    zero<Runtime>(L, blocks * m_ * m_);
    Runtime::for_each_block(blocks, 0,
                            functors::ExchangeRows{L_.data, L_.block, L_.ld, newest.get(), m_,
                                                   slot_, shift_, L, v.get(), y.get(),
                                                   pivot.get()});
    const Host<double> pivots = to_host<Runtime>(pivot.get(), blocks);
    const double doubtful = static_cast<double>(m_) * std::numeric_limits<double>::epsilon();
    for (index b = 0; b < blocks; ++b)
      if (!(pivots[size_of(b)] > doubtful * (row_[size_of(b * m_ + slot_)] + shift_)))
        return false;
    return true;
  }

  /// f(entry of the window's row, entry of g, of their type; shard of each)
  template <class F> void for_rows(F &&f) const {
    for (std::size_t i = 0; i < shards_.size(); ++i)
      with_entry(shards_[i], slot_, 0, [&](const auto *to) {
        using S = pointee_t<decltype(to)>;
        f(const_cast<S *>(to), static_cast<const S *>(newest_[i].data), shards_[i], newest_[i]);
      });
  }
  void write() const {
    for_rows([](auto *to, const auto *from, const Shard &shard, const Shard &g) {
      using S = pointee_t<decltype(to)>;
      Runtime::for_each(shard.cols, functors::CopyRow<S>{from, g.cs, to, shard.cs});
    });
  }
  void save() {
    for_rows([&](auto *to, const auto *, const Shard &shard, const Shard &) {
      using S = pointee_t<decltype(to)>;
      saved_.emplace_back(shard.cols * static_cast<index>(sizeof(S)));
      auto *copy = reinterpret_cast<S *>(saved_.back().get());
      Runtime::for_each(shard.cols, functors::CopyRow<S>{to, shard.cs, copy, 1});
    });
  }
  void restore() {
    for (index b = 0; b < G_.blocks; ++b)
      for (index i = 0; i < changed_; ++i)
        for (index j = 0; j < s_; ++j) {
          const double old = old_K_[size_of((b * changed_ + i) * s_ + j)];
          K_.at(b)[(first_ + i) * K_.ld + j] = old;
          if (!primal_)
            K_.at(b)[j * K_.ld + first_ + i] = old;
        }
    std::size_t next = 0;
    for_rows([&](auto *to, const auto *, const Shard &shard, const Shard &) {
      using S = pointee_t<decltype(to)>;
      if (next < saved_.size())
        Runtime::for_each(shard.cols,
                          functors::CopyRow<S>{reinterpret_cast<const S *>(saved_[next++].get()), 1,
                                               to, shard.cs});
    });
  }

  bool full_;
  index slot_, m_, head_;
  double shift_;
  std::vector<Shard> shards_, newest_;
  Gradients G_, g_;
  Stack<double> K_, L_;
  bool primal_;
  index s_, first_, changed_; ///< rows of each K_b that change
  Host<double> old_K_, row_;  ///< row `slot` of K, block by block
  std::vector<DeviceArray<Runtime, unsigned char>> saved_;
};

} // namespace mfac_detail

template <class Runtime>
void CudaMfac<Runtime>::gram(const Gradients &G, const unsigned char *mask, double *K) {
  using namespace mfac_detail;
  if (G.order() == 0)
    return;
  std::fill_n(K, G.blocks * G.order() * G.order(), 0.0);
  DeviceArray<Runtime, unsigned char> chosen;
  if (mask != nullptr)
    chosen = to_device<Runtime>(Host<unsigned char>(mask, mask + G.d));
  if (G.primal())
    gram_of_columns<Runtime>(G, chosen.get(), 0, G.blocks, K);
  else
    gram_of_rows<Runtime>(G, chosen.get(), K);
}

template <class Runtime>
void CudaMfac<Runtime>::factor(const Stack<const double> &K, index blocks, index s, double shift,
                               index head, const Stack<double> &L) {
  using namespace mfac_detail;
  Host<double> piece;
  double settled;
  if (s == 0)
    return;
  for_matrices<Runtime>(blocks, s, [&](index b0, index b1) {
    const index count = b1 - b0, size = count * s * s;
    piece.resize(size_of(size));
    fisher_factor({K.at(b0), K.block, K.ld}, count, s, shift, head, {piece.data(), s * s, s});
    const DeviceArray<Runtime, double> made = to_device<Runtime>(piece);
    Runtime::for_each(size,
                      functors::CopySquares{made.get(), s * s, s, L.at(b0), L.block, L.ld, s});
    // Waits: what is on its way to the device has a copy in main memory.
    Runtime::to_host(&settled, L.at(b0), sizeof settled);
  });
}

template <class Runtime>
void CudaMfac<Runtime>::coefficients(const Factors &L, index m, index head, const double *R,
                                     index r, double *C) {
  using namespace mfac_detail;
  DeviceArray<Runtime, double> T = to_device<Runtime>(Host<double>(R, R + m * r));
  solve_both<Runtime>(L, 0, 1, m, head, T.get(), r);
  Runtime::to_host(C, T.get(), size_of(m * r) * sizeof(double));
}

template <class Runtime>
void CudaMfac<Runtime>::dots(const Gradients &G, const Vectors &X, double *R) {
  using namespace mfac_detail;
  for_groups<Runtime>(1, G.m, X.cols, [&](index, index, index c, index r) {
    DeviceArray<Runtime, double> found(G.m * r);
    mfac_detail::dots<Runtime>(G, 0, 1, X, c, r, found.get());
    const Host<double> entries = to_host<Runtime>(found.get(), G.m * r);
    for (index i = 0; i < G.m; ++i)
      std::copy_n(entries.data() + i * r, r, R + i * X.cols + c);
  });
}

template <class Runtime>
void CudaMfac<Runtime>::combine(const Gradients &G, const double *C, const Vectors &X, double alpha,
                                double beta, const MutableVectors &Y) {
  using namespace mfac_detail;
  for_groups<Runtime>(1, G.m, X.cols, [&](index, index, index c, index r) {
    Host<double> part(size_of(G.m * r));
    for (index i = 0; i < G.m; ++i)
      std::copy_n(C + i * X.cols + c, r, part.data() + i * r);
    const DeviceArray<Runtime, double> factors = to_device<Runtime>(part);
    mfac_detail::combine<Runtime>(G, 0, 1, factors.get(), X, c, r, alpha, beta, Y);
  });
}

template <class Runtime>
void CudaMfac<Runtime>::solve(const Gradients &G, const Factors &L, index head, double damp,
                              const Vectors &X, const MutableVectors &Y) {
  using namespace mfac_detail;
  const index s = G.order();
  for_groups<Runtime>(G.blocks, s, X.cols, [&](index b0, index b1, index c, index r) {
    DeviceArray<Runtime, double> T((b1 - b0) * s * r);
    if (!G.primal()) {
      mfac_detail::dots<Runtime>(G, b0, b1, X, c, r, T.get());
      solve_both<Runtime>(L, b0, b1 - b0, s, head, T.get(), r);
      mfac_detail::combine<Runtime>(G, b0, b1, T.get(), X, c, r, 1 / damp, -1 / damp, Y);
      return;
    }
    const Rows own(G, b0, b1);
    Runtime::for_each((b1 - b0) * s * r,
                      functors::LoadVectors{X, own.first, c, r, nullptr, T.get(), r, 1});
    solve_both<Runtime>(L, b0, b1 - b0, s, 0, T.get(), r);
    Runtime::for_each(own.count() * r, functors::BlendVectors{X, 0.0, static_cast<double>(G.m),
                                                              T.get(), own.first, c, r, Y});
  });
}

template <class Runtime>
void CudaMfac<Runtime>::multiply(const Gradients &G, double damp, const Vectors &X,
                                 const MutableVectors &Y) {
  using namespace mfac_detail;
  const double scale = G.m > 0 ? 1 / static_cast<double>(G.m) : 0.0;
  for_groups<Runtime>(G.blocks, G.m, X.cols, [&](index b0, index b1, index c, index r) {
    DeviceArray<Runtime, double> R((b1 - b0) * G.m * r);
    mfac_detail::dots<Runtime>(G, b0, b1, X, c, r, R.get());
    mfac_detail::combine<Runtime>(G, b0, b1, R.get(), X, c, r, damp, scale, Y);
  });
}

template <class Runtime>
void CudaMfac<Runtime>::diagonal(const Gradients &G, const Factors &L, index head, double damp,
                                 const MutableVectors &out) {
  if (G.primal())
    mfac_detail::primal_diagonal<Runtime>(G, L, out);
  else
    mfac_detail::dual_diagonal<Runtime>(G, L, head, damp, out);
}

template <class Runtime>
void CudaMfac<Runtime>::columns(const Gradients &G, const Factors &L, index head,
                                const std::vector<index> &indices, double *W) {
  using namespace mfac_detail;
  const index s = G.order(), n = static_cast<index>(indices.size()), width = width_of(G);
  if (s == 0 || n == 0)
    return;
  const DeviceArray<Runtime, index> chosen = to_device<Runtime>(indices);
  const auto gather = [&](index t, index count, double *out, index out_t, index out_a) {
    G.for_spans(0, G.d, [&](const Shard &shard, index from, index cols, index at) {
      with_entry(shard, 0, from, [&](const auto *x) {
        using S = pointee_t<decltype(x)>;
        Runtime::for_each(count * s,
                          functors::GatherColumns<S>{x, shard.rs, shard.cs, at, at + cols, head, s,
                                                     chosen.get() + t, out, out_t, out_a});
      });
    });
  };
  if (G.blocks == 1 && !G.primal()) {
    const index most = std::clamp<index>(MfacSizes<Runtime>::kSlab / s, 1, n);
    DeviceArray<Runtime, double> P(s * most);
    for (index t = 0; t < n; t += most) {
      CancelScope::poll();
      const index count = std::min(most, n - t);
      gather(t, count, P.get(), 1, count);
      solve_lower<Runtime>(L, 0, s, P.get(), 0, count, count, 0);
      Runtime::for_each(count * s,
                        functors::Copy<double>{P.get(), 1, count, false, 1.0, W + t * s, s, 1, s});
    }
    return;
  }
  std::vector<index> blocks(indices);
  for (index &block : blocks)
    block /= width;
  const DeviceArray<Runtime, index> which = to_device<Runtime>(blocks);
  if (G.primal())
    Runtime::for_each(n * s, functors::UnitRows{chosen.get(), width, s, W});
  else
    gather(0, n, W, s, 1);
  Runtime::for_each_block(
      n, 0, functors::SolveFactors{L.data, L.block, L.ld, s, 0, which.get(), W, s, 1, 1, 1, false});
}

template <class Runtime>
void CudaMfac<Runtime>::inner(const double *W, index s, const std::vector<index> &i,
                              const std::vector<index> &j, double *out) {
  const DeviceArray<Runtime, index> left = to_device<Runtime>(i), right = to_device<Runtime>(j);
  Runtime::for_each(static_cast<index>(i.size()),
                    functors::InnerRows{W, s, left.get(), right.get(), out});
}

template <class Runtime>
void CudaMfac<Runtime>::cross(const double *V, index p, const double *W, index q, index s,
                              double *out) {
  mfac_detail::multiply<Runtime>('T', 'N', q, p, s, W, s, 0, V, s, 0, 0.0, out, q, 0, 1);
}

template <class Runtime>
LogTrace CudaMfac<Runtime>::log_trace(const Factors &L, index blocks, index s, index width,
                                      double shift) {
  using namespace mfac_detail;
  LogTrace out{0, 0};
  for_matrices<Runtime>(blocks, s, [&](index b0, index b1) {
    const Host<double> piece = fetched<Runtime>(L, b0, b1 - b0, s);
    const LogTrace found =
        fisher_log_trace({piece.data(), s * s, s}, b1 - b0, s, b1 == blocks ? width : s, shift);
    out.log_det += found.log_det;
    out.trace += found.trace;
  });
  return out;
}

template <class Runtime>
Window CudaMfac<Runtime>::push(const std::vector<Shard> &window, index rows,
                               const std::vector<Shard> &g, index block_size,
                               const Stack<double> &K, const Stack<double> &L, index head,
                               index count, double damp, bool refactor) {
  return mfac_detail::FisherPush<Runtime>(window, rows, g, block_size, K, L, head, count, damp)
      .run(refactor);
}

template <class Runtime>
void CudaMfac<Runtime>::natural_gradient(const Vectors &G, const Vectors &U, const Vectors &S,
                                         double damp, const MutableVectors &Y) {
  using namespace mfac_detail;
  const index d = U.rows, s = U.cols, r = G.cols;
  const index most = std::clamp<index>(MfacSizes<Runtime>::kSlab / (s + 2 * r), 1, d);
  DeviceArray<Runtime, double> scale(s), V(most * s), g(most * r), T(s * s), R(s * r);
  Runtime::for_each(s, functors::LoadVectors{S, 0, 0, 1, nullptr, scale.get(), 1, 1});
  const auto load = [&](const Vectors &X, index k, index n, const double *factors, double *out) {
    CancelScope::poll();
    Runtime::for_each(n * X.cols, functors::LoadVectors{X, k, 0, X.cols, factors, out, X.cols, 1});
  };
  for (index k = 0; k < d; k += most) { // V^T [V, G], V = U diag(S)
    const index n = std::min(most, d - k);
    const double beta = k == 0 ? 0.0 : 1.0;
    load(U, k, n, scale.get(), V.get());
    load(G, k, n, nullptr, g.get());
    mfac_detail::multiply<Runtime>('N', 'T', s, s, n, V.get(), s, 0, V.get(), s, 0, beta, T.get(),
                                   s, 0, 1);
    mfac_detail::multiply<Runtime>('N', 'T', r, s, n, g.get(), r, 0, V.get(), s, 0, beta, R.get(),
                                   r, 0, 1);
  }
  const Host<double> K = to_host<Runtime>(T.get(), s * s);
  for (index i = 0; i < s; ++i)
    if (!std::isfinite(K[size_of(i * (s + 1))]))
      throw LinAlgError("the Gram matrix of the gradients overflows");
  factor({K.data(), s * s, s}, 1, s, damp, 0, {T.get(), s * s, s});
  solve_both<Runtime>({T.get(), s * s, s}, 0, 1, s, 0, R.get(), r);
  DeviceArray<Runtime, double> Z(most * r);
  for (index k = 0; k < d; k += most) {
    const index n = std::min(most, d - k);
    load(U, k, n, scale.get(), V.get());
    mfac_detail::multiply<Runtime>('N', 'N', r, n, s, R.get(), r, 0, V.get(), s, 0, 0.0, Z.get(), r,
                                   0, 1);
    Runtime::for_each(n * r, functors::BlendVectors{G, 1 / damp, -1 / damp, Z.get(), k, 0, r, Y});
  }
}

} // namespace lowla
