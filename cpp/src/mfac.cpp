// Inverse-Fisher-vector products in main memory (see mfac.hpp).
//
// One vector or several: their columns by tiles, which stay in cache in double while the rows of G
// pass by. The Gram matrix and the columns of L^-1 G: blocks of rows are widened to double in
// cache, and the dense kernels do the rest.
#include "lowla/mfac.hpp"

#include "lowla/core/blas.hpp"
#include "lowla/core/clones.hpp"
#include "lowla/core/error.hpp"
#include "lowla/core/simd.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/core/workspace.hpp"

#include "host_rows.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace lowla {

using rows::RowChunks;
using rows::scratch;
using threads::parallel_for;

namespace {

constexpr index kUnit = simd::panel_unit<double>;
/// Parts for threads are of so many columns, and some times as many.
constexpr index kPart = 4096;
/// Columns of a tile of one vector: long runs of each row, memory is read faster by a fifth than in
/// runs of a quarter.
constexpr index kTile = 16384;
/// Numbers of a tile of several vectors: in the second-level cache.
constexpr index kWideNumbers = 1 << 15;
/// Blocks of G that several vectors meet as they are stored: rows and columns in the second-level
/// cache, so many columns of eight vectors, or so many rows of a strip of columns, in the first.
constexpr index kDotsRows = 128, kDotsColumns = 512, kCombineRows = 12;
/// Rows of the small factor that are solved for together, and of G that are widened together.
constexpr index kRows = 24;
/// Rows of U that are taken together.
constexpr index kSlab = 512;
/// Vectors that are taken together.
constexpr index kTogether = 64;
constexpr index kMostParts = 64;

enum Slot { kVectorSlot, kWideSlot, kResultSlot, kSmallSlot, kPanelSlot };

// --- numbers as they are stored ---

template <class S> const simd::StoredKernels<S> &kernels_of(const S *) { return simd::stored<S>(); }

/// `count` numbers of each of so many rows in double.
void widen_rows(const Shard &shard, index row, index rows, index first, index count, double *out,
                index ld) {
  with_entry(shard, row, first, [&](const auto *x) {
    if (shard.cs == 1) {
      kernels_of(x).widen(x, shard.rs, rows, count, out, ld);
      return;
    }
    for (index r = 0; r < rows; ++r)
      for (index k = 0; k < count; ++k)
        out[r * ld + k] = widened(x[r * shard.rs + k * shard.cs]);
  });
}

/// The columns first .. first + n - 1 of the rows begin .. end - 1 in double.
void widen_rows(const Gradients &G, index begin, index end, index first, index n, double *out,
                index ld) {
  G.for_spans(first, first + n, [&](const Shard &shard, index from, index width, index at) {
    widen_rows(shard, begin, end - begin, from, width, out + at, ld);
  });
}

/// The same of all rows in order of age, from the row `head` on.
void widen_by_age(const Gradients &G, index head, index first, index n, double *out, index ld) {
  widen_rows(G, head, G.m, first, n, out, ld);
  widen_rows(G, 0, head, first, n, out + (G.m - head) * ld, ld);
}

/// Brings a part of a row to the second-level cache.
void near_row(const Gradients &G, index row, index first, index n) {
  G.for_spans(first, first + n, [&](const Shard &shard, index from, index width, index) {
    with_entry(shard, row, from, [&](const auto *x) {
      const auto *bytes = reinterpret_cast<const char *>(x);
      for (index at = 0; at < width * static_cast<index>(sizeof *x); at += simd::kLineBytes)
        __builtin_prefetch(bytes + at, 0, 2);
    });
  });
}

LOWLA_CLONES void narrow(const double *x, index n, float *out) {
  for (index i = 0; i < n; ++i)
    out[i] = static_cast<float>(x[i]);
}
void narrow(const double *x, index n, double *out) { std::copy_n(x, n, out); }

/// The columns c .. c + cols - 1 of the rows first .. first + n - 1 of X, padded with zeros to
/// width.
void load_vectors(const Vectors &X, index first, index n, index c, index cols, index width,
                  double *out) {
  const auto copy = [&](const auto *x) {
    const auto *start = x + first * X.rs + c * X.cs;
    const bool whole = X.rs == width && cols == width && (X.cs == 1 || width == 1);
    if (whole || (X.cs == 1 && width > 1)) {
      kernels_of(x).widen(start, X.rs, whole ? 1 : n, whole ? n * width : cols, out, width);
      for (index i = 0; cols < width && i < n; ++i)
        std::fill(out + i * width + cols, out + (i + 1) * width, 0.0);
      return;
    }
    for (index i = 0; i < n; ++i) {
      for (index j = 0; j < cols; ++j)
        out[i * width + j] = static_cast<double>(x[(first + i) * X.rs + (c + j) * X.cs]);
      std::fill(out + i * width + cols, out + (i + 1) * width, 0.0);
    }
  };
  if (X.is_double)
    copy(static_cast<const double *>(X.data));
  else
    copy(static_cast<const float *>(X.data));
}

void store_vectors(const double *y, index first, index n, index c, index cols, index width,
                   const MutableVectors &Y) {
  const auto copy = [&](auto *out) {
    using R = std::remove_pointer_t<decltype(out)>;
    if (Y.rs == width && cols == width && (Y.cs == 1 || width == 1)) {
      narrow(y, n * width, out + first * width);
      return;
    }
    for (index i = 0; i < n; ++i)
      for (index j = 0; j < cols; ++j)
        out[(first + i) * Y.rs + (c + j) * Y.cs] = static_cast<R>(y[i * width + j]);
  };
  if (Y.is_double)
    copy(static_cast<double *>(Y.data));
  else
    copy(static_cast<float *>(Y.data));
}

// --- loops that the compiler vectorises ---

/// The rows of v = the columns of an 8 x 8 block of x, whose rows are ld apart.
inline __attribute__((always_inline)) void load_turned(const double *x, index ld, eight (&v)[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    v[i] = *reinterpret_cast<const eight *>(x + i * ld);
  transpose(v);
}

/// out (cols x rows, rows ldo apart) = x^T (rows x cols), cols a multiple of 8.
LOWLA_CLONES void turn(const double *x, index rows, index cols, double *out, index ldo) {
  index i = 0;
  for (; i + 8 <= rows; i += 8)
    for (index j = 0; j < cols; j += 8) {
      eight block[8];
      load_turned(x + i * cols + j, cols, block);
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r)
        *reinterpret_cast<eight *>(out + (j + r) * ldo + i) = block[r];
    }
  for (; i < rows; ++i)
    for (index j = 0; j < cols; ++j)
      out[j * ldo + i] = x[i * cols + j];
}

/// out (rows x cols) = a x + b y^T, y (cols x rows, rows ldy apart), cols a multiple of 8.
LOWLA_CLONES void blend_turned(double a, const double *x, double b, const double *y, index ldy,
                               index rows, index cols, double *out) {
  index i = 0;
  for (; i + 8 <= rows; i += 8)
    for (index j = 0; j < cols; j += 8) {
      eight block[8];
      load_turned(y + j * ldy + i, ldy, block);
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        const index at = (i + r) * cols + j;
        *reinterpret_cast<eight *>(out + at) =
            a * *reinterpret_cast<const eight *>(x + at) + b * block[r];
      }
    }
  for (; i < rows; ++i)
    for (index j = 0; j < cols; ++j)
      out[i * cols + j] = a * x[i * cols + j] + b * y[j * ldy + i];
}

/// out = a x + b y
LOWLA_CLONES void blend(double a, const double *x, double b, const double *y, index n,
                        double *out) {
  for (index i = 0; i < n; ++i)
    out[i] = a * x[i] + b * y[i];
}

/// x^T y; meanwhile what is multiplied next is fetched, a line of each at a time.
LOWLA_CLONES double inner(const double *x, const double *y, index n, const double *next_x,
                          const double *next_y) {
  constexpr index kLine = 8;
  eight sum[4] = {};
  index k = 0;
  for (; k + 4 * kLine <= n; k += 4 * kLine)
#pragma GCC unroll 4
    for (index v = 0; v < 4; ++v) {
      const index at = k + v * kLine;
      __builtin_prefetch(next_x + at);
      __builtin_prefetch(next_y + at);
      sum[v] += *reinterpret_cast<const eight *>(x + at) * *reinterpret_cast<const eight *>(y + at);
    }
  double total = 0;
  for (; k < n; ++k)
    total += x[k] * y[k];
  const eight all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (index lane = 0; lane < kLine; ++lane)
    total += all[lane];
  return total;
}

LOWLA_CLONES void multiply_by(const double *factor, index n, double *x) {
  for (index i = 0; i < n; ++i)
    x[i] *= factor[i];
}

/// out[j] += sum over the rows of W(i, j)^2
LOWLA_CLONES void add_column_squares(const double *W, index rows, index ld, index cols,
                                     double *out) {
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < cols; ++j)
      out[j] += W[i * ld + j] * W[i * ld + j];
}

/// Rotates a row of the factor into v: what a rank-one update does, rotation by rotation.
double rotated(const double *row, const double *cosine, const double *sine, index n, double v,
               double *out) {
  for (index k = 0; k < n; ++k) {
    const double x = row[k];
    out[k] = cosine[k] * x + sine[k] * v;
    v = cosine[k] * v - sine[k] * x;
  }
  return v;
}

// --- passes over the columns first .. last - 1, on one thread ---

index padded(index r) { return r == 1 ? 1 : round_up(r, kUnit); }

/// Columns of G beside which so many of X are taken.
index tile_columns(index width) { return width == 1 ? kTile : kWideNumbers / width; }

/// f(row, rows, block, row stride, next) for blocks of about `most` rows of a shard's columns from
/// .. from + count - 1, of those up to `end` that are read one after the other. A block is the
/// stored memory, `next` what is read after it or null; or a widened copy, where entries do not lie
/// side by side or rows that are met more than once push each other out of cache.
template <class F>
void for_row_blocks(const Shard &shard, index m, index most, bool again, index from, index count,
                    index end, F &&f) {
  if (m == 0)
    return;
  with_entry(shard, 0, from, [&](const auto *G) {
    const index bytes = static_cast<index>(sizeof *G);
    if (shard.cs != 1 || (again && simd::crowded(shard.rs * bytes, most))) {
      const index ld = round_up(count, kUnit) + kUnit;
      double *wide = scratch<double>(kRows * ld, kWideSlot);
      for (index i = 0; i < m; i += kRows) {
        const index rows = std::min(kRows, m - i);
        widen_rows(shard, i, rows, from, count, wide, ld);
        f(i, rows, static_cast<const double *>(wide), ld, static_cast<const double *>(nullptr));
      }
      return;
    }
    const index blocks = std::max<index>(1, (m + most / 2) / most);
    const index size = round_up((m + blocks - 1) / blocks, 3); // whole tiles
    for (index i = 0; i < m; i += size) {
      const auto *next = i + size < m                               ? G + (i + size) * shard.rs
                         : from + count < std::min(end, shard.cols) ? G + count
                                                                    : nullptr;
      f(i, std::min(size, m - i), G + i * shard.rs, shard.rs, next);
    }
  });
}

/// R (m x width) += G X for one vector or for panels of whole units; X begins at the column
/// `origin`.
void add_dots(const Gradients &G, const Vectors &X, index first, index last, index origin, index c,
              index cols, double *R) {
  const index width = padded(cols), tile = width == 1 ? kTile : kDotsColumns, ldx = tile + kUnit;
  const bool many = width > 1;
  double *x = scratch<double>(tile * width, kVectorSlot);
  double *turned = many ? scratch<double>(ldx * width, kResultSlot) : x;
  for (index k = first; k < last; k += tile) {
    const index n = std::min(tile, last - k);
    load_vectors(X, k - origin, n, c, cols, width, x);
    if (many)
      turn(x, n, width, turned, ldx);
    G.for_spans(k, k + n, [&](const Shard &shard, index from, index count, index at) {
      for_row_blocks(shard, G.m, many ? kDotsRows : G.m, many, from, count, from + last - k - at,
                     [&](index i, index rows, const auto *g, index rs, const auto *next) {
                       if (many)
                         kernels_of(g).many_dots(g, rs, rows, count, turned + at, ldx, width,
                                                 R + i * width, width, next);
                       else
                         kernels_of(g).dots(g, rs, rows, count, x + at, R + i);
                     });
    });
  }
}

/// Y = alpha X + beta G^T C for C (m x width).
void combine(const Gradients &G, const double *C, const Vectors &X, double alpha, double beta,
             index first, index last, index c, index cols, const MutableVectors &Y) {
  const index width = padded(cols), tile = tile_columns(width), ldz = tile + kUnit;
  const bool many = width > 1;
  double *x = scratch<double>(tile * width, kVectorSlot);
  double *z = scratch<double>(ldz * width, kResultSlot);
  for (index k = first; k < last; k += tile) {
    const index n = std::min(tile, last - k);
    std::fill(z, z + ldz * width, 0.0);
    G.for_spans(k, k + n, [&](const Shard &shard, index from, index count, index at) {
      for_row_blocks(shard, G.m, many ? kCombineRows : G.m, many, from, count, from + last - k - at,
                     [&](index i, index rows, const auto *g, index rs, const auto *next) {
                       if (many)
                         kernels_of(g).many_combine(g, rs, rows, count, C + i * width, width, width,
                                                    z + at, ldz, next);
                       else
                         kernels_of(g).combine(g, rs, rows, count, C + i, z + at);
                     });
    });
    load_vectors(X, k, n, c, cols, width, x);
    if (many)
      blend_turned(alpha, x, beta, z, ldz, n, width, x);
    else
      blend(alpha, x, beta, z, n, x);
    store_vectors(x, k, n, c, cols, width, Y);
  }
}

// --- triangular solves with the small factors ---

/// X <- L^-1 X in place, X (s x width); `inverses` holds those of the diagonal blocks. before(i,
/// count) is called as the rows i .. i + count - 1 are reached.
template <class Before>
void solve_lower(const double *L, index ld, index s, const double *inverses, double *X, index width,
                 Before &&before) {
  double *block = scratch<double>(kRows * width, kSmallSlot);
  for (index i = 0; i < s; i += kRows) {
    const index count = std::min(kRows, s - i);
    double *Xi = X + i * width;
    before(i, count);
    simd::dense<double>().multiply(L + i * ld, ld, count, i, X, width, width, block, width, false,
                                   {});
    blend(1.0, Xi, -1.0, block, count * width, block);
    simd::dense<double>().multiply(inverses + i * kRows, kRows, count, count, block, width, width,
                                   Xi, width, false, {});
  }
}

void solve_lower(const double *L, index ld, index s, const double *inverses, double *X,
                 index width) {
  solve_lower(L, ld, s, inverses, X, width, [](index, index) {});
}

/// X <- L^-T X in place.
void solve_upper(const double *L, index ld, index s, const double *inverses, double *X,
                 index width) {
  double *block = scratch<double>(kRows * width, kSmallSlot);
  for (index i = (s - 1) / kRows * kRows; i >= 0; i -= kRows) {
    const index count = std::min(kRows, s - i);
    double *Xi = X + i * width;
    simd::dense<double>().multiply_transposed(inverses + i * kRows, kRows, count, count, Xi, width,
                                              width, block, width, false, {});
    std::copy(block, block + count * width, Xi);
    for (index j = 0; j < count * width; ++j)
      block[j] = -block[j];
    simd::dense<double>().multiply_transposed(L + i * ld, ld, count, i, block, width, width, X,
                                              width, true, {});
  }
}

/// The inverses of the diagonal blocks of L, each kRows wide: kRows s numbers.
Buffer<double> block_inverses(const double *L, index ld, index s) {
  Buffer<double> out(kRows * s);
  std::fill(out.get(), out.get() + kRows * s, 0.0);
  for (index i = 0; i < s; i += kRows) {
    const index count = std::min(kRows, s - i);
    const double *D = L + i * ld + i;
    double *inverse = out.get() + i * kRows;
    for (index c = 0; c < count; ++c)
      for (index r = c; r < count; ++r) {
        double sum = r == c ? 1.0 : 0.0;
        for (index k = c; k < r; ++k)
          sum -= D[r * ld + k] * inverse[k * kRows + c];
        inverse[r * kRows + c] = sum / D[r * ld + r];
      }
  }
  return out;
}

/// T (s x width) <- (L L^T)^-1 T
void solve_both(const double *L, index ld, index s, double *T, index width) {
  const Buffer<double> inverses = block_inverses(L, ld, s);
  solve_lower(L, ld, s, inverses.get(), T, width);
  solve_upper(L, ld, s, inverses.get(), T, width);
}

/// C <- M^-1 C, C (m x width) in the order of G's rows.
void apply_inverse(const double *L, index ld, index m, index head, double *C, index width) {
  const index units = round_up(width, kUnit);
  Buffer<double> T(m * units);
  std::fill(T.get(), T.get() + m * units, 0.0);
  for (index a = 0; a < m; ++a)
    std::copy_n(C + (head + a) % m * width, width, T.get() + a * units);
  solve_both(L, ld, m, T.get(), units);
  for (index a = 0; a < m; ++a)
    std::copy_n(T.get() + a * units, width, C + (head + a) % m * width);
}

// --- partitions ---

/// The columns in parts of whole tiles, as many as `flops` in all are worth, at most `most`.
RowChunks parts_of(index d, index tile, double flops, index most) {
  return {d, rows::chunks_for(flops, std::max<index>(1, most)), tile};
}

/// Partial results of `size` numbers that may be kept.
index affordable_parts(const Gradients &G, index size) {
  return std::clamp<index>(std::max(G.d, index(1) << 20) / std::max<index>(1, size), 8, kMostParts);
}

double flops_of(const Gradients &G, index r) {
  return 2.0 * static_cast<double>(G.m) * static_cast<double>(G.d) * static_cast<double>(r);
}

/// f(first column, columns) for groups of vectors that are taken together.
template <class F> void for_groups(index r, F &&f) {
  for (index c = 0; c < r; c += kTogether)
    f(c, std::min(kTogether, r - c));
}

/// R (m x padded(cols)) = G X, in parallel.
Buffer<double> all_dots(const Gradients &G, const Vectors &X, index c, index cols) {
  const index size = G.m * padded(cols);
  const RowChunks parts = parts_of(G.d, kPart, flops_of(G, cols), affordable_parts(G, size));
  Buffer<double> partial(parts.count * size);
  parallel_for(parts.count, [&](index p) {
    double *R = partial.get() + p * size;
    std::fill(R, R + size, 0.0);
    add_dots(G, X, parts.first(p), parts.last(p), 0, c, cols, R);
  });
  rows::add_parts(partial.get(), partial.get() + size, parts.count - 1, size, size);
  return partial;
}

void all_combined(const Gradients &G, const double *C, const Vectors &X, double alpha, double beta,
                  index c, index cols, const MutableVectors &Y) {
  const index most = padded(cols) == 1 ? kMostParts : 4 * kMostParts;
  const RowChunks parts = parts_of(G.d, kPart, flops_of(G, cols), most);
  parallel_for(parts.count, [&](index p) {
    combine(G, C, X, alpha, beta, parts.first(p), parts.last(p), c, cols, Y);
  });
}

} // namespace

Gradients::Gradients(std::vector<Shard> shards, index m_rows, index block)
    : m(m_rows), d(0), block_size(block), shards_(std::move(shards)) {
  starts_.push_back(0);
  for (const Shard &shard : shards_)
    starts_.push_back(d += shard.cols);
  width_ = block_size > 0 ? block_size : std::max<index>(1, d);
  blocks = std::max<index>(1, (d + width_ - 1) / width_);
}

// --- the Gram matrices ---

namespace {

/// Adds the Gram matrix of rows begin.. up to end with all rows before, of some columns of G.
struct RowGram {
  const Gradients &G;
  const double *mask; ///< of all columns, or null
  index padded_rows;  ///< of K

  explicit RowGram(const Gradients &gradients, const double *factors)
      : G(gradients), mask(factors), padded_rows(round_up(G.m, simd::GramKernels::kRows)) {}

  void operator()(index first, index last, index begin, index end, double *K) const {
    const index depth = G.m <= 256 ? 512 : 384;
    const index ld = depth + kUnit, rows = std::min(G.m, end);
    std::vector<const char *> ahead(static_cast<std::size_t>(rows));
    double *P = scratch<double>(padded_rows * ld, kPanelSlot);
    std::fill(P + rows * ld, P + padded_rows * ld, 0.0);
    for (index k = first; k < last; k += depth) {
      const index n = std::min(depth, last - k), units = round_up(n, kUnit);
      widen_rows(G, 0, rows, k, n, P, ld);
      for (index i = 0; i < rows; ++i) {
        if (mask != nullptr)
          multiply_by(mask + k, n, P + i * ld);
        std::fill(P + i * ld + n, P + i * ld + units, 0.0);
      }
      simd::gram().lower(P, ld, units, begin, rows, K, padded_rows,
                         rows_ahead(k + depth, std::min(depth, last - k - depth), ahead));
    }
  }

private:
  /// Where the next n columns lie, as far as they are of one shard.
  simd::RowsAhead rows_ahead(index first, index n, std::vector<const char *> &rows) const {
    simd::RowsAhead out;
    if (n <= 0)
      return out;
    G.for_spans(first, first + n, [&](const Shard &shard, index from, index count, index at) {
      if (at != 0 || shard.cs != 1)
        return;
      with_entry(shard, 0, from, [&](const auto *x) {
        for (std::size_t i = 0; i < rows.size(); ++i)
          rows[i] = reinterpret_cast<const char *>(x + static_cast<index>(i) * shard.rs);
        out = {rows.data(), static_cast<index>(rows.size()), count * static_cast<index>(sizeof *x)};
      });
    });
    return out;
  }
};

/// Rows at which the triangle of K is cut into `bands` of about equal size.
index band_row(index rows, index band, index bands) {
  const double share = std::sqrt(static_cast<double>(band) / static_cast<double>(bands));
  return band == bands
             ? rows
             : std::min(rows, round_up(static_cast<index>(share * static_cast<double>(rows)),
                                       simd::GramKernels::kRows));
}

/// The lower triangle of K (padded rows) as the symmetric m x m matrix.
void mirror(const double *K, index ld, index m, double *out) {
  for (index i = 0; i < m; ++i)
    for (index j = 0; j <= i; ++j)
      out[i * m + j] = out[j * m + i] = K[i * ld + j];
}

void gram_of_all(const Gradients &G, const double *mask, double *K) {
  const RowGram add(G, mask);
  const index rows = add.padded_rows, size = rows * rows;
  const double flops = flops_of(G, G.m) / 2;
  const RowChunks parts = parts_of(G.d, kPart, flops, affordable_parts(G, size));
  // Bands read some rows again: only as many as it takes to occupy the threads.
  const index bands = std::clamp<index>(2 * threads::get_num_threads() / parts.count, 1,
                                        std::max<index>(1, rows / 96));
  Buffer<double> partial(parts.count * size);
  std::fill(partial.get(), partial.get() + parts.count * size, 0.0);
  parallel_for(parts.count * bands, [&](index chunk) {
    const index p = chunk / bands, band = chunk % bands;
    add(parts.first(p), parts.last(p), band_row(rows, band, bands), band_row(rows, band + 1, bands),
        partial.get() + p * size);
  });
  rows::add_parts(partial.get(), partial.get() + size, parts.count - 1, size, size);
  mirror(partial.get(), rows, G.m, K);
}

/// K (B x B) = G_b^T G_b for the columns first .. last - 1; zero beyond them.
void gram_of_columns(const Gradients &G, const double *mask, index first, index last, index B,
                     double *K) {
  constexpr index kPanel = 3 * kUnit;
  const index n = last - first, ld = round_up(n, kUnit);
  double *wide = scratch<double>(kRows * ld, kWideSlot);
  double *product = scratch<double>(ld * ld, kPanelSlot);
  std::fill(product, product + ld * ld, 0.0);
  for (index i = 0; i < G.m; i += kRows) {
    const index count = std::min(kRows, G.m - i);
    widen_rows(G, i, i + count, first, n, wide, ld);
    for (index r = 0; r < count; ++r) {
      if (mask != nullptr)
        multiply_by(mask + first, n, wide + r * ld);
      std::fill(wide + r * ld + n, wide + (r + 1) * ld, 0.0);
    }
    for (index q = 0; q < ld; q += kPanel) // what is left of the diagonal is mirrored
      simd::dense<double>().multiply_transposed(wide + q, ld, count, ld - q, wide + q, ld,
                                                std::min(kPanel, ld - q), product + q * ld + q, ld,
                                                true, {});
  }
  std::fill(K, K + B * B, 0.0);
  for (index i = 0; i < n; ++i)
    for (index j = 0; j <= i; ++j)
      K[i * B + j] = K[j * B + i] = product[i * ld + j];
}

} // namespace

void fisher_gram(const Gradients &G, const unsigned char *mask, double *K) {
  Buffer<double> factors(mask != nullptr ? G.d : 0);
  for (index k = 0; mask != nullptr && k < G.d; ++k)
    factors.get()[k] = mask[k] != 0 ? 1.0 : 0.0;
  const index s = G.order();
  if (s == 0)
    return;
  if (G.blocks == 1 && !G.primal()) {
    gram_of_all(G, factors.get(), K);
    return;
  }
  parallel_for(G.blocks, [&](index b) {
    if (G.primal()) {
      gram_of_columns(G, factors.get(), G.first(b), G.last(b), s, K + b * s * s);
      return;
    }
    const RowGram add(G, factors.get());
    const index rows = add.padded_rows;
    double *sum = scratch<double>(rows * rows, kResultSlot);
    std::fill(sum, sum + rows * rows, 0.0);
    add(G.first(b), G.last(b), 0, rows, sum);
    mirror(sum, rows, s, K + b * s * s);
  });
}

// --- factors ---

namespace {

/// A pivot below this part of its diagonal entry is rounding.
double doubtful(index s) { return static_cast<double>(s) * std::numeric_limits<double>::epsilon(); }

/// M (row-major) <- its lower Cholesky factor; false where that is doubtful.
bool cholesky(double *M, index s) {
  std::vector<double> diagonal(static_cast<std::size_t>(s));
  for (index i = 0; i < s; ++i)
    diagonal[static_cast<std::size_t>(i)] = M[i * (s + 1)];
  // The upper factor of the column-major matrix is the lower one of the row-major.
  if (s > 0 && !blas::potrf(s, M, s))
    return false;
  for (index i = 0; i < s; ++i) {
    const double pivot = M[i * (s + 1)] * M[i * (s + 1)];
    if (!(pivot > doubtful(s) * diagonal[static_cast<std::size_t>(i)]))
      return false;
  }
  return true;
}

[[noreturn]] void refuse(const double *K, index ld, index s, double shift) {
  double largest = 0;
  for (index i = 0; i < s; ++i)
    largest = std::max(largest, K[i * (ld + 1)]);
  char text[160];
  std::snprintf(
      text, sizeof text,
      "damp is below the rounding of the Gram matrix: it adds %.1e to its diagonal, whose "
      "largest entry is %.1e",
      shift, largest + shift);
  throw LinAlgError(text);
}

} // namespace

void fisher_factor(const Stack<const double> &K, index blocks, index s, double shift, index head,
                   const Stack<double> &L) {
  const blas::OneThread serial(s <= 1024);
  Buffer<double> M(s * s);
  for (index b = 0; b < blocks; ++b) {
    const double *Kb = K.at(b);
    bool finite = true;
    for (index i = 0; i < s; ++i)
      for (index j = 0; j <= i; ++j) {
        const double entry = Kb[(head + i) % s * K.ld + (head + j) % s] + (i == j ? shift : 0.0);
        M.get()[i * s + j] = entry;
        finite = finite && std::isfinite(entry);
      }
    if (finite && !cholesky(M.get(), s))
      refuse(Kb, K.ld, s, shift);
    for (index i = 0; i < s; ++i) {
      double *row = L.at(b) + i * L.ld;
      if (finite)
        std::copy_n(M.get() + i * s, i + 1, row);
      else
        std::fill(row, row + i + 1, std::numeric_limits<double>::quiet_NaN());
      std::fill(row + i + 1, row + s, 0.0);
    }
    CancelScope::poll();
  }
}

LogTrace fisher_log_trace(const Factors &L, index blocks, index s, index width, double shift) {
  constexpr index kColumns = 56; // of L^-1 at a time
  LogTrace out{0, 0};
  for (index b = 0; b < blocks; ++b) {
    const double *factor = L.at(b);
    const index n = b + 1 == blocks ? width : s;
    for (index i = 0; i < n; ++i)
      out.log_det += 2 * std::log(factor[i * (L.ld + 1)] / std::sqrt(shift));
    const Buffer<double> inverses = block_inverses(factor, L.ld, n);
    const index parts = (n + kColumns - 1) / kColumns;
    std::vector<double> traces(static_cast<std::size_t>(parts), 0.0);
    parallel_for(parts, [&](index p) {
      double *X = scratch<double>(n * kColumns, kResultSlot);
      std::fill(X, X + n * kColumns, 0.0);
      for (index j = 0; j < std::min(kColumns, n - p * kColumns); ++j)
        X[(p * kColumns + j) * kColumns + j] = 1;
      solve_lower(factor, L.ld, n, inverses.get(), X, kColumns);
      double squares[kColumns] = {};
      add_column_squares(X, n, kColumns, kColumns, squares);
      for (const double square : squares)
        traces[static_cast<std::size_t>(p)] += square;
    });
    for (const double trace : traces)
      out.trace += shift * trace;
  }
  return out;
}

// --- the window ---

namespace {

/// The oldest gradient, of row `slot` of K, gives way to the newest, whose row of K is up to date:
/// L (m x m, in order of age) is `before` without its first row and column and with a new last row.
/// False where the new pivot is rounding.
bool exchange(const double *before, index ld_before, const double *K, index ldk, index m,
              index slot, double shift, double *L, index ld) {
  Buffer<double> rotations(2 * m);
  double *cosine = rotations.get(), *sine = cosine + m;
  for (index i = 0; i + 1 < m; ++i) { // row i + 1 of the old factor becomes row i
    const double *old = before + (i + 1) * ld_before;
    double *row = L + i * ld;
    const double diagonal = old[i + 1];
    const double v = rotated(old + 1, cosine, sine, i, old[0], row);
    const double length = std::hypot(diagonal, v);
    cosine[i] = diagonal / length;
    sine[i] = v / length;
    row[i] = length;
    std::fill(row + i + 1, row + m, 0.0);
  }
  double *last = L + (m - 1) * ld;
  const double *newest = K + slot * ldk;
  const double corner = newest[slot] + shift;
  double pivot = corner;
  for (index i = 0; i + 1 < m; ++i) {
    double sum = 0;
    simd::dense<double>().dots(L + i * ld, ld, 1, i, last, 1, &sum, {});
    last[i] = (newest[(slot + 1 + i) % m] - sum) / L[i * (ld + 1)];
    pivot -= last[i] * last[i];
  }
  last[m - 1] = std::sqrt(std::max(pivot, 0.0));
  return pivot > doubtful(m) * corner;
}

/// One push; what it has changed goes back unless it is kept.
class Push {
public:
  Push(const std::vector<Shard> &window, index rows, const std::vector<Shard> &newest,
       index block_size, const Stack<double> &K, const Stack<double> &L, index head, index count,
       double damp)
      : full_(count == rows), slot_(full_ ? head : count), m_(full_ ? count : count + 1),
        head_(full_ ? (head + 1) % rows : head), shift_(static_cast<double>(m_) * damp),
        G_(window, m_, block_size), g_(newest, 1, block_size), K_(K), L_(L),
        primal_(block_size > 0 && block_size < rows), s_(primal_ ? block_size : m_),
        first_(primal_ ? 0 : slot_), changed_(primal_ ? s_ : 1), old_K_(G_.blocks * changed_ * s_) {
    for (index b = 0; b < G_.blocks; ++b)
      for (index i = 0; i < changed_; ++i)
        std::copy_n(K_.at(b) + (first_ + i) * K_.ld, s_, old_row_of_K(b, i));
  }

  Window run(bool refactor) {
    Buffer<double> made(G_.blocks * s_ * s_);
    const Stack<double> L{made.get(), s_ * s_, s_};
    bool refactored = true;
    try {
      primal_ ? renew_primal(refactor) : renew_row();
      for (index i = 0; i < G_.blocks * s_; ++i)
        if (!std::isfinite(K_.at(i / s_)[i % s_ * (K_.ld + 1)]))
          throw LinAlgError("the Gram matrix of the gradients overflows");
      refactored = primal_ || refactor || !full_ || !exchanged(L);
      if (refactored)
        fisher_factor({K_.data, K_.block, K_.ld}, G_.blocks, s_, shift_, primal_ ? 0 : head_, L);
    } catch (...) {
      restore_K();
      write(old_row_);
      throw;
    }
    for (index b = 0; b < G_.blocks; ++b)
      copy_block(L.at(b), s_, L_.at(b), L_.ld);
    if (!primal_)
      write_newest();
    return {head_, m_, refactored};
  }

private:
  using Rows = std::vector<std::vector<char>>; ///< the bytes of a row, shard by shard

  void copy_block(const double *from, index ld_from, double *to, index ld_to) const {
    for (index i = 0; i < s_; ++i)
      std::copy_n(from + i * ld_from, s_, to + i * ld_to);
  }

  double *old_row_of_K(index b, index i) { return old_K_.get() + (b * changed_ + i) * s_; }
  void restore_K() {
    for (index b = 0; b < G_.blocks; ++b)
      for (index i = 0; i < changed_; ++i)
        for (index j = 0; j < s_; ++j)
          K_.at(b)[(first_ + i) * K_.ld + j] = K_.at(b)[j * K_.ld + first_ + i] =
              old_row_of_K(b, i)[j];
  }

  static Rows bytes_of(const Gradients &G, index row) {
    Rows out;
    G.for_spans(0, G.d, [&](const Shard &shard, index, index count, index) {
      with_entry(shard, row, 0, [&](const auto *x) {
        constexpr index item = static_cast<index>(sizeof *x);
        std::vector<char> bytes(static_cast<std::size_t>(count * item));
        copy_numbers<item>(reinterpret_cast<const char *>(x), shard.cs * item, bytes.data(), item,
                           count);
        out.push_back(std::move(bytes));
      });
    });
    return out;
  }
  /// Where the numbers of the slot lie; the window is the operator's own memory.
  template <class S> static char *bytes_at(const S *x) {
    return reinterpret_cast<char *>(const_cast<S *>(x));
  }
  /// Into the slot.
  void write(const Rows &row) const {
    if (row.empty())
      return;
    std::size_t s = 0;
    G_.for_spans(0, G_.d, [&](const Shard &shard, index, index count, index) {
      with_entry(shard, slot_, 0, [&](const auto *x) {
        constexpr index item = static_cast<index>(sizeof *x);
        copy_numbers<item>(row[s].data(), item, bytes_at(x), shard.cs * item, count);
      });
      ++s;
    });
  }

  /// The newest gradient into the slot, in parallel.
  void write_newest() const {
    const RowChunks parts(G_.d, kMostParts, kPart);
    parallel_for(parts.count, [&](index p) {
      std::vector<std::pair<const char *, index>>
          spans; // of g: where, and bytes to the next number
      g_.for_spans(parts.first(p), parts.last(p),
                   [&](const Shard &shard, index from, index, index) {
                     with_entry(shard, 0, from, [&](const auto *x) {
                       spans.emplace_back(reinterpret_cast<const char *>(x),
                                          shard.cs * static_cast<index>(sizeof *x));
                     });
                   });
      auto span = spans.begin();
      G_.for_spans(
          parts.first(p), parts.last(p), [&](const Shard &shard, index from, index count, index) {
            with_entry(shard, slot_, from, [&](const auto *x) {
              constexpr index item = static_cast<index>(sizeof *x);
              copy_numbers<item>(span->first, span->second, bytes_at(x), shard.cs * item, count);
            });
            ++span;
          });
    });
  }
  /// `count` numbers of `item` bytes, so many bytes apart in each place.
  template <index item>
  static void copy_numbers(const char *from, index from_step, char *to, index to_step,
                           index count) {
    constexpr auto size = static_cast<std::size_t>(item);
    if (from_step == item && to_step == item) {
      std::memcpy(to, from, static_cast<std::size_t>(count) * size);
      return;
    }
    for (index k = 0; k < count; ++k)
      std::memcpy(to + k * to_step, from + k * from_step, size);
  }

  /// The columns of block b of the newest gradient in double.
  std::vector<double> newest(index b) const {
    std::vector<double> out(static_cast<std::size_t>(G_.last(b) - G_.first(b)));
    widen_rows(g_, 0, 1, G_.first(b), G_.last(b) - G_.first(b), out.data(), 0);
    return out;
  }

  /// Row and column `slot` of every K_b, from one read of G.
  void renew_row() {
    const RowChunks parts = parts_of(G_.d, kPart, flops_of(G_, 1), affordable_parts(G_, m_));
    const index count = G_.blocks > 1 ? G_.blocks : parts.count;
    Buffer<double> dots(count * m_);
    parallel_for(count, [&](index p) {
      const index first = G_.blocks > 1 ? G_.first(p) : parts.first(p);
      const index last = G_.blocks > 1 ? G_.last(p) : parts.last(p);
      double *r = dots.get() + p * m_, *g = scratch<double>(kTile, kPanelSlot);
      std::fill(r, r + m_, 0.0);
      double square = 0;
      for (index k = first; k < last; k += kTile) {
        const index n = std::min(kTile, last - k);
        widen_rows(g_, 0, 1, k, n, g, 0);
        add_dots(G_, {g, true, n, 1, 1, 1}, k, k + n, k, 0, 1, r);
        simd::stored<double>().dots(g, n, 1, n, g, &square);
      }
      r[slot_] = square;
    });
    if (G_.blocks == 1)
      rows::add_parts(dots.get(), dots.get() + m_, count - 1, m_, m_);
    for (index b = 0; b < G_.blocks; ++b)
      for (index i = 0; i < m_; ++i)
        K_.at(b)[slot_ * K_.ld + i] = K_.at(b)[i * K_.ld + slot_] = dots.get()[b * m_ + i];
  }

  /// K_b += g g^T - o o^T for the newest gradient and the oldest, if one goes. From the gradients
  /// if asked, or where a diagonal entry of M falls by more than half: the difference would keep
  /// the rounding of what was subtracted.
  void renew_primal(bool from_gradients) {
    std::vector<double> oldest(full_ ? static_cast<std::size_t>(G_.d) : 0);
    if (full_)
      widen_rows(G_, slot_, slot_ + 1, 0, G_.d, oldest.data(), 0);
    old_row_ = bytes_of(G_, slot_);
    write_newest();
    parallel_for(G_.blocks, [&](index b) {
      const std::vector<double> g = newest(b);
      const double *o = full_ ? oldest.data() + G_.first(b) : nullptr;
      bool fallen = from_gradients;
      for (std::size_t i = 0; i < g.size(); ++i) {
        double *row = K_.at(b) + static_cast<index>(i) * K_.ld;
        const double before = row[i];
        for (std::size_t j = 0; j < g.size(); ++j)
          row[j] += g[i] * g[j];
        for (std::size_t j = 0; o != nullptr && j < g.size(); ++j)
          row[j] -= o[i] * o[j];
        fallen = fallen || before > 2 * (row[i] + shift_);
      }
      if (fallen) {
        Buffer<double> K(s_ * s_);
        gram_of_columns(G_, nullptr, G_.first(b), G_.last(b), s_, K.get());
        copy_block(K.get(), s_, K_.at(b), K_.ld);
      }
    });
  }

  /// L of the window moved on, from the one in use.
  bool exchanged(const Stack<double> &L) const {
    for (index b = 0; b < G_.blocks; ++b)
      if (!exchange(L_.at(b), L_.ld, K_.at(b), K_.ld, m_, slot_, shift_, L.at(b), s_))
        return false;
    return true;
  }

  bool full_;
  index slot_, m_, head_;
  double shift_;
  Gradients G_, g_;
  Stack<double> K_, L_;
  bool primal_;
  index s_, first_, changed_; ///< rows of each K_b that change
  Buffer<double> old_K_;
  Rows old_row_;
};

} // namespace

Window fisher_push(const std::vector<Shard> &window, index rows, const std::vector<Shard> &g,
                   index block_size, const Stack<double> &K, const Stack<double> &L, index head,
                   index count, double damp, bool refactor) {
  return Push(window, rows, g, block_size, K, L, head, count, damp).run(refactor);
}

void fisher_coefficients(const Factors &L, index m, index head, const double *R, index r,
                         double *C) {
  std::copy_n(R, m * r, C);
  if (m > 0 && r > 0)
    apply_inverse(L.data, L.ld, m, head, C, r);
}

// --- products ---

void fisher_dots(const Gradients &G, const Vectors &X, double *R) {
  for_groups(X.cols, [&](index c, index cols) {
    const Buffer<double> found = all_dots(G, X, c, cols);
    for (index i = 0; i < G.m; ++i)
      std::copy_n(found.get() + i * padded(cols), cols, R + i * X.cols + c);
  });
}

void fisher_combine(const Gradients &G, const double *C, const Vectors &X, double alpha,
                    double beta, const MutableVectors &Y) {
  for_groups(X.cols, [&](index c, index cols) {
    const index width = padded(cols);
    Buffer<double> panel(G.m * width);
    std::fill(panel.get(), panel.get() + G.m * width, 0.0);
    for (index i = 0; i < G.m; ++i)
      std::copy_n(C + i * X.cols + c, cols, panel.get() + i * width);
    all_combined(G, panel.get(), X, alpha, beta, c, cols, Y);
  });
}

namespace {

/// y_b = m (L L^T)^-1 x_b
void solve_primal(const Gradients &G, const Factors &L, index b, const Vectors &X, index c,
                  index cols, const MutableVectors &Y) {
  const index n = G.last(b) - G.first(b), width = round_up(cols, kUnit);
  double *T = scratch<double>(n * width, kVectorSlot);
  load_vectors(X, G.first(b), n, c, cols, width, T);
  solve_both(L.at(b), L.ld, n, T, width);
  for (index i = 0; i < n * width; ++i)
    T[i] *= static_cast<double>(G.m);
  store_vectors(T, G.first(b), n, c, cols, width, Y);
}

/// y_b = alpha x_b + beta G_b^T small(G_b x_b) for every block.
template <class Small>
void by_blocks(const Gradients &G, const Vectors &X, index c, index cols, double alpha, double beta,
               const MutableVectors &Y, Small &&small) {
  if (G.blocks == 1) {
    Buffer<double> R = all_dots(G, X, c, cols);
    small(0, R.get());
    all_combined(G, R.get(), X, alpha, beta, c, cols, Y);
    return;
  }
  parallel_for(G.blocks, [&](index b) {
    const index size = G.m * padded(cols);
    double *R = scratch<double>(size, kPanelSlot);
    std::fill(R, R + size, 0.0);
    add_dots(G, X, G.first(b), G.last(b), 0, c, cols, R);
    small(b, R);
    combine(G, R, X, alpha, beta, G.first(b), G.last(b), c, cols, Y);
  });
}

} // namespace

void fisher_solve(const Gradients &G, const Factors &L, index head, double damp, const Vectors &X,
                  const MutableVectors &Y) {
  for_groups(X.cols, [&](index c, index cols) {
    if (G.primal()) {
      parallel_for(G.blocks, [&](index b) { solve_primal(G, L, b, X, c, cols, Y); });
      return;
    }
    by_blocks(G, X, c, cols, 1 / damp, -1 / damp, Y, [&](index b, double *R) {
      if (G.m > 0)
        apply_inverse(L.at(b), L.ld, G.m, head, R, padded(cols));
    });
  });
}

void fisher_multiply(const Gradients &G, double damp, const Vectors &X, const MutableVectors &Y) {
  const double scale = G.m > 0 ? 1 / static_cast<double>(G.m) : 0.0;
  for_groups(X.cols, [&](index c, index cols) {
    by_blocks(G, X, c, cols, damp, scale, Y, [](index, double *) {});
  });
}

// --- entries of the inverse ---

namespace {

/// Columns that are solved for together: they stay in the second-level cache, and their rows are no
/// multiple of a page apart.
index columns_together(index s) {
  return std::clamp<index>((index(1) << 16) / std::max<index>(1, s) / 64 * 64, 64, 512) - kUnit;
}

/// The factors of the inverse: w_i = L_b^-1 G(:, i), primal L_b^-1 e_i, by tiles of columns.
class InverseColumns {
public:
  InverseColumns(const Gradients &G, const Factors &L, index head, index b)
      : G_(G), L_(L.at(b)), ld_(L.ld), head_(head), first_(G.first(b)),
        inverses_(block_inverses(L_, ld_, G.order())) {}

  /// G(:, i) in order of age, primal e_i, for the columns first .. first + n - 1.
  void load(index first, index n, double *W, index width) const {
    if (G_.primal())
      units([&](index t) { return first + t; }, n, W, width);
    else
      widen_by_age(G_, head_, first, n, W, width);
  }
  /// The same for any columns; read fast where they ascend.
  void load(const std::int64_t *columns, index n, double *W, index width) const {
    if (G_.primal())
      units([&](index t) { return columns[t]; }, n, W, width);
    else
      for (index t = 0; t < n; ++t)
        G_.for_spans(columns[t], columns[t] + 1, [&](const Shard &shard, index from, index, index) {
          with_entry(shard, 0, from, [&](const auto *x) {
            for (index a = 0; a < G_.m; ++a)
              W[a * width + t] = widened(x[(head_ + a) % G_.m * shard.rs]);
          });
        });
  }

  /// W <- L_b^-1 W, n columns. Meanwhile as many from `next` on, if any, are brought near.
  void solve(double *W, index width, index n, index next) const {
    for (index i = 0; i < G_.order(); ++i) // what pads the tile must be numbers
      std::fill(W + i * width + n, W + (i + 1) * width, 0.0);
    const index ahead = next < 0 || G_.primal() ? 0 : std::min(n, G_.d - next);
    solve_lower(L_, ld_, G_.order(), inverses_.get(), W, width, [&](index i, index count) {
      if (ahead > 0)
        for (index a = i; a < i + count; ++a)
          near_row(G_, (head_ + a) % G_.m, next, ahead);
    });
  }

private:
  template <class Column> void units(Column &&column, index n, double *W, index width) const {
    std::fill(W, W + G_.order() * width, 0.0);
    for (index t = 0; t < n; ++t)
      W[(column(t) - first_) * width + t] = 1;
  }

  const Gradients &G_;
  const double *L_;
  index ld_, head_, first_;
  Buffer<double> inverses_;
};

void diagonal_of(const Gradients &G, const InverseColumns &columns, double damp, index first,
                 index last, double *out) {
  const index s = G.order(), width = columns_together(s);
  double *W = scratch<double>(s * width, kPanelSlot);
  for (index k = first; k < last; k += width) {
    const index n = std::min(width, last - k);
    double found[512] = {}, squares[512] = {};
    columns.load(k, n, W, width);
    add_column_squares(W, s, width, n, squares);
    columns.solve(W, width, n, k + n);
    add_column_squares(W, s, width, n, found);
    const auto m = static_cast<double>(G.m);
    for (index j = 0; j < n; ++j)
      out[k + j] =
          G.primal() ? m * found[j] : std::max((1 - found[j]) / damp, 1 / (damp + squares[j] / m));
  }
}

} // namespace

void fisher_diagonal(const Gradients &G, const Factors &L, index head, double damp, double *out) {
  if (G.blocks == 1) {
    const InverseColumns columns(G, L, head, 0);
    const RowChunks parts = parts_of(G.d, 512, flops_of(G, G.order()), 4 * kMostParts);
    parallel_for(parts.count, [&](index p) {
      diagonal_of(G, columns, damp, parts.first(p), parts.last(p), out);
    });
    return;
  }
  parallel_for(G.blocks, [&](index b) {
    diagonal_of(G, InverseColumns(G, L, head, b), damp, G.first(b), G.last(b), out);
  });
}

void fisher_columns(const Gradients &G, const Factors &L, index head, const std::int64_t *indices,
                    index n, double *W) {
  const index s = G.order(), width = columns_together(s);
  const index block_width = G.blocks == 1 ? std::max<index>(1, G.d) : G.block_size;
  const auto block_of = [&](index t) { return indices[t] / block_width; };
  for (index begin = 0; begin < n;) { // a run of indices in one block
    index end = begin + 1;
    while (end < n && block_of(end) == block_of(begin))
      ++end;
    const InverseColumns columns(G, L, head, block_of(begin));
    parallel_for((end - begin + width - 1) / width, [&](index chunk) {
      const index first = begin + chunk * width, count = std::min(width, end - first);
      double *tile = scratch<double>(s * width, kPanelSlot);
      bool follow = true;
      for (index t = 1; t < count; ++t)
        follow = follow && indices[first + t] == indices[first] + t;
      if (follow)
        columns.load(indices[first], count, tile, width);
      else
        columns.load(indices + first, count, tile, width);
      columns.solve(tile, width, count, -1);
      for (index t = 0; t < count; ++t)
        for (index a = 0; a < s; ++a)
          W[(first + t) * s + a] = tile[a * width + t];
    });
    begin = end;
  }
}

void fisher_inner(const double *W, index s, const std::int64_t *i, const std::int64_t *j, index n,
                  double *out) {
  constexpr index kPairs = 256;
  parallel_for((n + kPairs - 1) / kPairs, [&](index chunk) {
    const index last = std::min(n, (chunk + 1) * kPairs);
    for (index t = chunk * kPairs; t < last; ++t) {
      const index soon = std::min(t + 1, last - 1);
      out[t] = inner(W + i[t] * s, W + j[t] * s, s, W + i[soon] * s, W + j[soon] * s);
    }
  });
}

void fisher_cross(const double *V, index p, const double *W, index q, index s, double *out) {
  parallel_for(
      p, [&](index t) { simd::dense<double>().dots(W, s, q, s, V + t * s, 1, out + t * q, {}); });
}

// --- natural gradient ---

void natural_gradient(const Vectors &G, const Vectors &U, const double *S, double damp,
                      const MutableVectors &Y) {
  const index d = U.rows, s = U.cols, r = G.cols;
  const index su = round_up(std::max<index>(1, s), kUnit), ru = round_up(r, kUnit);
  const index size = su * (su + ru);
  const double flops = 2.0 * static_cast<double>(d) * static_cast<double>(size);
  const RowChunks parts = parts_of(d, kSlab, flops, 16);
  Buffer<double> partial(parts.count * size);
  parallel_for(parts.count, [&](index p) { // U^T [U, G]
    double *sum = partial.get() + p * size;
    std::fill(sum, sum + size, 0.0);
    double *u = scratch<double>(kSlab * su, kWideSlot);
    double *g = scratch<double>(kSlab * ru, kVectorSlot);
    for (index k = parts.first(p); k < parts.last(p); k += kSlab) {
      const index n = std::min(kSlab, parts.last(p) - k);
      load_vectors(U, k, n, 0, s, su, u);
      load_vectors(G, k, n, 0, r, ru, g);
      simd::dense<double>().multiply_transposed(u, su, n, su, u, su, su, sum, su, true, {});
      simd::dense<double>().multiply_transposed(u, su, n, su, g, ru, ru, sum + su * su, ru, true,
                                                {});
    }
  });
  rows::add_parts(partial.get(), partial.get() + size, parts.count - 1, size, size);
  // C = S (damp I + S U^T U S)^-1 S U^T G
  double *M = partial.get(), *C = M + su * su;
  for (index i = 0; i < s; ++i)
    for (index j = 0; j < s; ++j)
      M[i * su + j] *= S[i] * S[j];
  for (index i = 0; i < s; ++i)
    if (!std::isfinite(M[i * (su + 1)]))
      throw LinAlgError("the Gram matrix of the gradients overflows");
  Buffer<double> L(s * s);
  fisher_factor({M, 0, su}, 1, s, damp, 0, {L.get(), 0, s});
  for (index i = 0; i < s; ++i)
    for (index j = 0; j < ru; ++j)
      C[i * ru + j] *= S[i];
  if (s > 0)
    solve_both(L.get(), s, s, C, ru);
  for (index i = 0; i < s; ++i)
    for (index j = 0; j < ru; ++j)
      C[i * ru + j] *= S[i];
  std::fill(C + s * ru, C + su * ru, 0.0);
  parallel_for(parts.count, [&](index p) {
    double *u = scratch<double>(kSlab * su, kWideSlot);
    double *g = scratch<double>(kSlab * ru, kVectorSlot);
    double *y = scratch<double>(kSlab * ru, kResultSlot);
    for (index k = parts.first(p); k < parts.last(p); k += kSlab) {
      const index n = std::min(kSlab, parts.last(p) - k);
      load_vectors(U, k, n, 0, s, su, u);
      load_vectors(G, k, n, 0, r, ru, g);
      simd::dense<double>().multiply(u, su, n, su, C, ru, ru, y, ru, false, {});
      blend(1 / damp, g, -1 / damp, y, n * ru, y);
      store_vectors(y, k, n, 0, r, ru, Y);
    }
  });
}

} // namespace lowla
