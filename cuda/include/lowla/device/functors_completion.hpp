// Passes over observed entries for matrix completion (see ridge_rows.hpp for what is computed), as
// functors over an index range or over blocks of threads.
//
// A block takes one row u of a factor. Its entries are read where they lie, the rows f_j of the
// other factor through the cache; values may be single precision, all arithmetic is in double
// precision. Every sum has an order of its own, given by the sizes alone.
//   RegressRows      the Gram matrix of the row with its right-hand side and sum of squares: a
//                    thread sums 4 x 4 tiles of it over every g-th entry, the g parts are added;
//                    factored as L D L^T, one column a phase, with the same shift of the diagonal
//                    and step of refinement as the host's. Rows with fewer entries than unknowns:
//                    the Gram matrix of the dual.
//   ConjugateRows    F u by entries, F^T r by columns, in turn.
//   NonnegativeRows  the same Gram matrix; a phase moves one coordinate.
// What a block keeps is in shared memory, or where that does not hold it in device memory.
#pragma once

#include "lowla/core/philox.hpp"
#include "lowla/device/functors_sinkhorn.hpp"
#include "lowla/device/runtime.hpp"

#include <cmath>
#include <cstdint>

namespace lowla::functors {

/// The entries of rows (see Observations), and what they are regressed on: F, its rows of k numbers
/// `ld` apart, and an offset for each of them or null.
template <class S> struct RowEntries {
  const std::int64_t *indptr;
  const std::int32_t *indices;
  const S *values;
  const double *weights; ///< or null
  const double *F;
  index k, ld;
  const double *offset;

  LOWLA_HD index begin(index i) const { return static_cast<index>(indptr[i]); }
  LOWLA_HD index end(index i) const { return static_cast<index>(indptr[i + 1]); }
  LOWLA_HD index count(index i) const { return end(i) - begin(i); }
  LOWLA_HD double weight(index t) const { return weights != nullptr ? weights[t] : 1.0; }
  LOWLA_HD const double *regressor(index t) const { return F + indices[t] * ld; }
  LOWLA_HD double target(index t) const {
    const auto y = static_cast<double>(values[t]);
    return offset != nullptr ? y - offset[indices[t]] : y;
  }
  /// f_j . u
  LOWLA_HD double product(index t, const double *u) const {
    const double *f = regressor(t);
    double sum = 0;
    for (index a = 0; a < k; ++a)
      sum += f[a] * u[a];
    return sum;
  }
  LOWLA_HD double residual(index t, const double *u) const { return target(t) - product(t, u); }
};

/// Where blocks keep what they work on: `size` numbers each.
struct BlockSpace {
  double *device; ///< or null: in shared memory
  index size;
  LOWLA_HD double *of(index block, void *shared) const {
    return device != nullptr ? device + block * size : static_cast<double *>(shared);
  }
};

/// The lower triangle of a symmetric matrix by rows.
struct Packed {
  double *data;
  static constexpr LOWLA_HD index size(index n) { return n * (n + 1) / 2; }
  LOWLA_HD double *row(index i) const { return data + size(i); }
  /// Entry of the symmetric matrix.
  LOWLA_HD double get(index i, index j) const { return i < j ? row(j)[i] : row(i)[j]; }
};

// --- Gram matrices of rows

/// The Gram matrix of a row's [F_i y], or of the dual, summed by the threads of a block in `tiles`
/// of the lower triangle and as many parts of the sum as there are threads to a tile.
template <class S> struct RowGram {
  static constexpr index kTile = 4, kNumbers = kTile * kTile;
  /// Numbers for the parts of all tiles.
  static constexpr index kParts = kNumbers * kBlockThreads;

  RowEntries<S> entries;
  index i, n; ///< row, and order: k + 1, or its entries for the dual
  bool dual;

  LOWLA_HD index tiles() const { return Packed::size((n + kTile - 1) / kTile); }
  LOWLA_HD index parts() const {
    const index all = tiles();
    return all > kBlockThreads ? 1 : kBlockThreads / (all > 0 ? all : 1);
  }

  /// Before the barrier.
  LOWLA_HD void add(int thread, double *partial, const Packed &G) const {
    const index all = tiles();
    if (all > kBlockThreads) {
      for (index tile = thread; tile < all; tile += kBlockThreads)
        store(tile, sum(tile, 0), G);
    } else if (thread < all * parts()) {
      const Sums own = sum(thread % all, thread / all);
      for (index r = 0; r < kNumbers; ++r)
        partial[thread * kNumbers + r] = own.of[r];
    }
  }
  /// Behind it.
  LOWLA_HD void fold(int thread, const double *partial, const Packed &G) const {
    const index all = tiles(), groups = parts();
    if (all > kBlockThreads)
      return;
    for (index tile = thread; tile < all; tile += kBlockThreads) {
      Sums total{};
      for (index g = 0; g < groups; ++g)
        for (index r = 0; r < kNumbers; ++r)
          total.of[r] += partial[(g * all + tile) * kNumbers + r];
      store(tile, total, G);
    }
  }

private:
  struct Sums {
    double of[kNumbers];
  };
  struct Place {
    index row, column;
  };
  /// The first entry of a tile.
  LOWLA_HD static Place place(index tile) {
    index p = 0, q = tile;
    while (q > p)
      q -= ++p;
    return {p * kTile, q * kTile};
  }
  LOWLA_HD void store(index tile, const Sums &sums, const Packed &G) const {
    const Place at = place(tile);
    for (index r = 0; r < kNumbers; ++r) {
      const index a = at.row + r / kTile, b = at.column + r % kTile;
      if (a < n && b <= a)
        G.row(a)[b] = sums.of[r];
    }
  }
  /// The part `group` of a tile.
  LOWLA_HD Sums sum(index tile, index group) const {
    const Place at = place(tile);
    return dual ? sum_dual(at.row, at.column, group) : sum_entries(at.row, at.column, group);
  }

  /// Columns first .. first + 3 of [f_j y]; zeros behind.
  LOWLA_HD void load(index t, index first, double (&x)[kTile]) const {
    const double *f = entries.regressor(t);
    for (index c = 0; c < kTile; ++c) {
      const index a = first + c;
      x[c] = a < entries.k ? f[a] : a == entries.k ? entries.target(t) : 0.0;
    }
  }
  LOWLA_HD Sums sum_entries(index p, index q, index group) const {
    Sums sums{};
    for (index t = entries.begin(i) + group; t < entries.end(i); t += parts()) {
      double x[kTile], y[kTile];
      load(t, p, x);
      load(t, q, y);
      const double w = entries.weight(t);
      for (index r = 0; r < kNumbers; ++r)
        sums.of[r] += w * x[r / kTile] * y[r % kTile];
    }
    return sums;
  }
  /// Rows and columns behind the last are that one, and not stored.
  LOWLA_HD Sums sum_dual(index p, index q, index group) const {
    const double *x[kTile], *y[kTile];
    double by_x[kTile], by_y[kTile];
    for (index c = 0; c < kTile; ++c) {
      const index s = entries.begin(i) + (p + c < n ? p + c : n - 1);
      const index t = entries.begin(i) + (q + c < n ? q + c : n - 1);
      x[c] = entries.regressor(s);
      y[c] = entries.regressor(t);
      by_x[c] = sqrt(entries.weight(s));
      by_y[c] = sqrt(entries.weight(t));
    }
    Sums sums{};
    for (index a = group; a < entries.k; a += parts())
      for (index r = 0; r < kNumbers; ++r)
        sums.of[r] += by_x[r / kTile] * x[r / kTile][a] * (by_y[r % kTile] * y[r % kTile][a]);
    return sums;
  }
};

/// L D L^T of a shifted matrix of order n with the right-hand side as row n: one column a phase.
/// Below the diagonal stays L D; zero pivots give zeros.
struct PackedFactors {
  Packed A;
  index n;

  LOWLA_HD double inverse(index p) const {
    const double d = A.row(p)[p];
    return d > 0 ? 1.0 / d : 0.0;
  }
  LOWLA_HD double *last() const { return A.row(n); }
  LOWLA_HD void eliminate(index p, int thread) const {
    constexpr int kSide = 16;
    static_assert(kSide * kSide == kBlockThreads);
    const double by = inverse(p);
    for (index a = p + 1 + thread / kSide; a <= n; a += kSide) {
      double *row = A.row(a);
      const double l = row[p] * by;
      for (index b = p + 1 + thread % kSide; b <= a && b < n; b += kSide)
        row[b] -= l * A.row(b)[p];
    }
  }
  /// x <- L^-1 x, and D L^-T D^-1 x: number p is known, the others lose their part of it.
  LOWLA_HD void forward(index p, double *x, int thread) const {
    const double known = inverse(p) * x[p];
    for (index a = p + 1 + thread; a < n; a += kBlockThreads)
      x[a] -= A.row(a)[p] * known;
  }
  LOWLA_HD void backward(index p, double *x, int thread) const {
    const double known = inverse(p) * x[p];
    for (index a = thread; a < p; a += kBlockThreads)
      x[a] -= A.row(p)[a] * known;
  }
};

/// exact_rows: all rows with at most `longest` entries, systems of order `order` at most.
template <class S> struct RegressRows {
  RowEntries<S> entries;
  index first; ///< the row of block 0
  index order, longest;
  double ridge, floor;
  BlockSpace space;
  double *out;     ///< (m, ld)
  double *squares; ///< (m)

  static LOWLA_HD index numbers(index order) {
    return RowGram<S>::kParts + Packed::size(order + 1) + 3 * (order + 1) + 1;
  }

  static constexpr int kStart = 4;
  LOWLA_HD int phases() const { return static_cast<int>(kStart + 4 * order + 4); }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const Row row(*this, block, shared);
    if (row.count > longest)
      return;
    index p = phase;
    if (p < kStart)
      return start(row, phase, thread);
    p -= kStart;
    if (p < order)
      return p < row.n ? row.factors.eliminate(p, thread) : void();
    p -= order;
    if (p < order)
      return p < row.n ? row.factors.backward(row.n - 1 - p, row.factors.last(), thread) : void();
    if (p == order)
      return solution(row, thread);
    p -= order + 1;
    if (p < order)
      return p < row.n ? row.factors.forward(p, row.more, thread) : void();
    p -= order;
    if (p < order)
      return p < row.n ? row.factors.backward(row.n - 1 - p, row.more, thread) : void();
    finish(row, p - order, thread);
  }

private:
  struct Row {
    index i, count, n; ///< n: order of the system
    bool dual;
    RowGram<S> gram;
    double *partial;
    PackedFactors factors;
    double *right, *x, *more, *added;

    LOWLA_HD Row(const RegressRows &of, index block, void *shared)
        : i(of.first + block), count(of.entries.count(i)),
          n(count < of.entries.k ? count : of.entries.k), dual(count < of.entries.k),
          gram{of.entries, i, dual ? n : n + 1, dual}, partial(of.space.of(block, shared)),
          factors{{partial + RowGram<S>::kParts}, n},
          right(factors.A.data + Packed::size(of.order + 1)), x(right + of.order + 1),
          more(x + of.order + 1), added(more + of.order + 1) {}
  };

  LOWLA_HD void start(const Row &row, int phase, int thread) const {
    if (phase == 0)
      row.gram.add(thread, row.partial, row.factors.A);
    else if (phase == 1)
      row.gram.fold(thread, row.partial, row.factors.A);
    else if (phase == 2)
      prepare(row, thread);
    else
      shift(row, thread);
  }
  LOWLA_HD void finish(const Row &row, index phase, int thread) const {
    if (phase == 0)
      refine(row, thread);
    else if (phase == 1)
      write(row, thread);
    else
      measure(row, thread);
  }

  /// The right-hand side, which the elimination changes, and the shift.
  LOWLA_HD void prepare(const Row &row, int thread) const {
    double *last = row.factors.last();
    for (index a = thread; a < row.n; a += kBlockThreads) {
      if (row.dual) {
        const index t = entries.begin(row.i) + a;
        last[a] = sqrt(entries.weight(t)) * entries.target(t);
      }
      row.right[a] = last[a];
    }
    if (thread != 0)
      return;
    double trace = 0;
    for (index a = 0; a < row.n; ++a)
      trace += row.factors.A.row(a)[a];
    *row.added = floor * trace;
  }
  LOWLA_HD void shift(const Row &row, int thread) const {
    for (index a = thread; a < row.n; a += kBlockThreads)
      row.factors.A.row(a)[a] += *row.added + ridge;
  }
  /// x, and what the shift left of the right-hand side.
  LOWLA_HD void solution(const Row &row, int thread) const {
    for (index a = thread; a < row.n; a += kBlockThreads) {
      row.x[a] = row.factors.inverse(a) * row.factors.last()[a];
      row.more[a] = *row.added * row.x[a];
    }
  }
  LOWLA_HD void refine(const Row &row, int thread) const {
    for (index a = thread; a < row.n; a += kBlockThreads)
      row.x[a] += row.factors.inverse(a) * row.more[a];
  }
  LOWLA_HD void write(const Row &row, int thread) const {
    double *u = out + row.i * entries.ld;
    for (index a = thread; a < entries.ld; a += kBlockThreads) {
      double value = 0;
      if (!row.dual && a < entries.k)
        value = row.x[a];
      for (index e = 0; row.dual && a < entries.k && e < row.n; ++e) {
        const index t = entries.begin(row.i) + e;
        value += row.x[e] * sqrt(entries.weight(t)) * entries.regressor(t)[a];
      }
      u[a] = value;
    }
  }
  LOWLA_HD void measure(const Row &row, int thread) const {
    if (thread != 0)
      return;
    double sum = row.dual ? 0.0 : row.factors.last()[row.n];
    for (index a = 0; a < row.n; ++a) {
      if (row.dual) {
        const index t = entries.begin(row.i) + a;
        const double r = entries.residual(t, out + row.i * entries.ld);
        sum += entries.weight(t) * r * r;
      } else {
        sum -= row.x[a] * (row.right[a] + ridge * row.x[a]);
      }
    }
    squares[row.i] = sum;
  }
};

// --- products with the regressors of a row

/// F_i x by entries, and F_i^T products by columns, by the threads of a block.
template <class S> struct RowProducts {
  RowEntries<S> entries;
  double *products; ///< of every entry

  /// Numbers that `add_columns` needs.
  static LOWLA_HD index parts(index k) { return k > kBlockThreads ? k : kBlockThreads; }
  LOWLA_HD index groups() const {
    return entries.k > kBlockThreads ? 1 : kBlockThreads / entries.k;
  }

  /// products = w (y - F u); returns the thread's part of ||w^1/2 (y - F u)||^2.
  LOWLA_HD double residuals(index i, int thread, const double *u) const {
    double sum = 0;
    for (index t = entries.begin(i) + thread; t < entries.end(i); t += kBlockThreads) {
      const double r = entries.residual(t, u), w = entries.weight(t);
      products[t] = w * r;
      sum += w * r * r;
    }
    return sum;
  }
  /// products = w F x
  LOWLA_HD void multiply(index i, int thread, const double *x) const {
    for (index t = entries.begin(i) + thread; t < entries.end(i); t += kBlockThreads)
      products[t] = entries.weight(t) * entries.product(t, x);
  }
  /// Parts of F^T products, and of the diagonal of F^T W F unless null.
  LOWLA_HD void add_columns(index i, int thread, double *sums, double *diagonal) const {
    const index k = entries.k, step = groups();
    for (index c = thread; c < k * step; c += kBlockThreads) {
      const index a = c % k;
      double sum = 0, squares = 0;
      for (index t = entries.begin(i) + c / k; t < entries.end(i); t += step) {
        const double f = entries.regressor(t)[a];
        sum += products[t] * f;
        if (diagonal != nullptr)
          squares += entries.weight(t) * f * f;
      }
      sums[c] = sum;
      if (diagonal != nullptr)
        diagonal[c] = squares;
    }
  }
  LOWLA_HD double column(index a, const double *sums) const {
    double sum = 0;
    for (index g = 0; g < groups(); ++g)
      sum += sums[g * entries.k + a];
    return sum;
  }
};

/// cg_rows: rows with more than `shortest` entries.
template <class S> struct ConjugateRows {
  RowProducts<S> by;
  index first; ///< the row of block 0
  index shortest, steps;
  double ridge;
  BlockSpace space;
  double *out;     ///< (m, ld), from what it holds
  double *squares; ///< (m)

  static constexpr std::size_t kShared = BlockSums<2>::kSize * sizeof(double);
  static LOWLA_HD index numbers(index k, index steps) {
    return 4 * k + 2 * RowProducts<S>::parts(k) + 1 + 3 * (steps + 1);
  }

  static constexpr int kStart = 4, kStep = 7, kEnd = 3;
  LOWLA_HD int phases() const { return static_cast<int>(kStart + kStep * steps + kEnd); }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const Row row(*this, block, shared);
    if (by.entries.count(row.i) <= shortest)
      return;
    const index step = (phase - kStart) / kStep;
    if (phase < kStart)
      start(row, phase, thread);
    else if (step < steps)
      advance(row, step, (phase - kStart) % kStep, thread);
    else
      finish(row, phase - kStart - kStep * static_cast<int>(steps), thread);
  }

private:
  /// The residual r, the direction x, q = (F^T W F + ridge) x and the preconditioner d; rz, whether
  /// a step is taken, and whether it met curvature, of every step.
  struct Row {
    index i;
    BlockSums<2> sums;
    double *u, *x, *r, *q, *d, *parts, *diagonal, *left, *rz, *going, *curved;
    LOWLA_HD Row(const ConjugateRows &of, index block, void *shared)
        : i(of.first + block), sums(shared), u(of.out + i * of.by.entries.ld),
          x(of.space.of(block, static_cast<double *>(shared) + BlockSums<2>::kSize)),
          r(x + of.by.entries.k), q(r + of.by.entries.k), d(q + of.by.entries.k),
          parts(d + of.by.entries.k), diagonal(parts + RowProducts<S>::parts(of.by.entries.k)),
          left(diagonal + RowProducts<S>::parts(of.by.entries.k)), rz(left + 1),
          going(rz + of.steps + 1), curved(going + of.steps + 1) {}
  };

  LOWLA_HD void start(const Row &row, int phase, int thread) const {
    if (phase == 0) {
      row.sums.set(0, thread, by.residuals(row.i, thread, row.u));
    } else if (phase == 1) {
      by.add_columns(row.i, thread, row.parts, row.diagonal);
      row.sums.fold(thread);
    } else if (phase == 2) {
      double rz = 0, norm2 = 0;
      for (index a = thread; a < by.entries.k; a += kBlockThreads) {
        const double whole = by.column(a, row.diagonal) + ridge;
        row.d[a] = whole > 0 ? 1.0 / whole : 0.0;
        row.r[a] = by.column(a, row.parts) - ridge * row.u[a];
        row.x[a] = row.r[a] * row.d[a];
        rz += row.r[a] * row.x[a];
        norm2 += row.u[a] * row.u[a];
      }
      if (thread == 0)
        *row.left = row.sums.total(0);
      row.sums.set(0, thread, rz);
      row.sums.set(1, thread, norm2);
    } else {
      row.sums.fold(thread);
    }
  }

  LOWLA_HD void advance(const Row &row, index step, int phase, int thread) const {
    if (phase == 0)
      return turn(row, step, thread);
    if (row.going[step] == 0.0)
      return;
    if (phase == 1) {
      by.multiply(row.i, thread, row.x);
    } else if (phase == 2) {
      by.add_columns(row.i, thread, row.parts, nullptr);
    } else if (phase == 3) {
      double curvature = 0;
      for (index a = thread; a < by.entries.k; a += kBlockThreads) {
        row.q[a] = by.column(a, row.parts) + ridge * row.x[a];
        curvature += row.x[a] * row.q[a];
      }
      row.sums.set(0, thread, curvature);
    } else if (phase == 5) {
      move(row, step, thread);
    } else {
      row.sums.fold(thread);
    }
  }
  /// The direction; of the first step it is there.
  LOWLA_HD void turn(const Row &row, index step, int thread) const {
    const double rz = row.sums.total(0);
    if (thread == 0) {
      if (step == 0)
        *row.left += ridge * row.sums.total(1); // the objective, from here on
      const bool before = step == 0 || (row.going[step - 1] != 0.0 && row.curved[step - 1] != 0.0);
      row.going[step] = before && rz > 0 ? 1.0 : 0.0;
      row.rz[step] = rz;
    }
    if (step > 0)
      for (index a = thread; a < by.entries.k; a += kBlockThreads)
        row.x[a] = row.r[a] * row.d[a] + rz / row.rz[step - 1] * row.x[a];
  }
  LOWLA_HD void move(const Row &row, index step, int thread) const {
    const double curvature = row.sums.total(0), before = row.rz[step];
    if (thread == 0)
      row.curved[step] = curvature > 0 ? 1.0 : 0.0;
    if (!(curvature > 0))
      return;
    const double alpha = before / curvature;
    double rz = 0;
    for (index a = thread; a < by.entries.k; a += kBlockThreads) {
      row.u[a] += alpha * row.x[a];
      row.r[a] -= alpha * row.q[a];
      rz += row.r[a] * row.r[a] * row.d[a];
    }
    row.sums.set(0, thread, rz);
    if (thread == 0)
      *row.left -= alpha * before;
  }

  LOWLA_HD void finish(const Row &row, int phase, int thread) const {
    if (phase == 0) {
      double norm2 = 0;
      for (index a = thread; a < by.entries.k; a += kBlockThreads)
        norm2 += row.u[a] * row.u[a];
      row.sums.set(0, thread, norm2);
    } else if (phase == 1) {
      row.sums.fold(thread);
    } else if (thread == 0) {
      const double sum = *row.left - ridge * row.sums.total(0);
      squares[row.i] = sum > 0.0 ? sum : 0.0;
    }
  }
};

/// gradient_rows
template <class S> struct GradientOfRows {
  RowProducts<S> by;
  index first; ///< the row of block 0
  BlockSpace space;
  const double *U; ///< (m, ld)
  double *out;     ///< (m, ld)

  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    double *parts = space.of(block, shared);
    const index i = first + block, ld = by.entries.ld;
    if (phase == 0)
      by.residuals(i, thread, U + i * ld);
    else if (phase == 1)
      by.add_columns(i, thread, parts, nullptr);
    else
      for (index a = thread; a < ld; a += kBlockThreads)
        out[i * ld + a] = a < by.entries.k ? by.column(a, parts) : 0.0;
  }
};

/// out_i = sum w (y - f_j . u_i)^2
template <class S> struct SumResiduals {
  static constexpr std::size_t kShared = BlockSums<1>::kSize * sizeof(double);
  RowEntries<S> entries;
  const double *U; ///< (m, ld)
  double *out;

  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index i, int thread, void *shared) const {
    const BlockSums<1> sums(shared);
    if (phase == 0) {
      double sum = 0;
      for (index t = entries.begin(i) + thread; t < entries.end(i); t += kBlockThreads) {
        const double r = entries.residual(t, U + i * entries.ld);
        sum += entries.weight(t) * r * r;
      }
      sums.set(0, thread, sum);
    } else if (phase == 1) {
      sums.fold(thread);
    } else if (thread == 0) {
      out[i] = sums.total(0);
    }
  }
};

/// The residuals of all entries.
template <class S> struct WriteResiduals {
  RowEntries<S> entries;
  const double *U; ///< (m, ld)
  double *out;
  LOWLA_HD int phases() const { return 1; }
  LOWLA_HD void operator()(int, index i, int thread, void *) const {
    for (index t = entries.begin(i) + thread; t < entries.end(i); t += kBlockThreads)
      out[t] = entries.residual(t, U + i * entries.ld);
  }
};

/// nonnegative_rows: a phase moves a coordinate, and between two cycles the slopes are computed
/// anew. Slopes and u change places, as all threads read what one changes.
template <class S> struct NonnegativeRows {
  RowEntries<S> entries;
  index first; ///< the row of block 0
  index cycles;
  double accuracy, ridge;
  BlockSpace space;
  double *out; ///< (m, ld), from what it holds

  static LOWLA_HD index numbers(index k, index cycles) {
    return RowGram<S>::kParts + Packed::size(k + 1) + 4 * k + 3 + cycles + 1;
  }

  static constexpr int kStart = 4;
  LOWLA_HD int phases() const { return static_cast<int>(kStart + cycles * (entries.k + 1) + 1); }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const Row row(*this, block, shared);
    const index k = entries.k, task = phase - kStart, cycle = task / (k + 1), a = task % (k + 1);
    if (phase == 0)
      row.gram.add(thread, row.partial, row.G);
    else if (phase == 1)
      row.gram.fold(thread, row.partial, row.G);
    else if (phase == 2)
      prepare(row, thread);
    else if (phase == 3)
      slopes(row, 0, thread);
    else if (cycle == cycles)
      write(row, thread);
    else if (a == k)
      turn(row, cycle, thread);
    else if (row.going[cycle] != 0.0)
      move(row, cycle % 2, a, thread);
  }

private:
  struct Row {
    index i, k;
    RowGram<S> gram;
    double *partial;
    Packed G;
    double *slopes, *u;             ///< two of each
    double *moved, *largest, *last; ///< of this cycle; which u is the result
    double *going;                  ///< whether there is such a cycle
    LOWLA_HD Row(const NonnegativeRows &of, index block, void *shared)
        : i(of.first + block), k(of.entries.k), gram{of.entries, i, k + 1, false},
          partial(of.space.of(block, shared)), G{partial + RowGram<S>::kParts},
          slopes(G.data + Packed::size(k + 1)), u(slopes + 2 * k), moved(u + 2 * k),
          largest(moved + 1), last(largest + 1), going(last + 1) {}
  };

  LOWLA_HD void prepare(const Row &row, int thread) const {
    for (index a = thread; a < row.k; a += kBlockThreads) {
      row.G.row(a)[a] += ridge;
      row.u[a] = out[row.i * entries.ld + a];
    }
    if (thread == 0) {
      *row.moved = *row.largest = 0.0;
      row.going[0] = 1.0;
    }
  }
  LOWLA_HD void slopes(const Row &row, index which, int thread) const {
    const double *u = row.u + which * row.k;
    for (index a = thread; a < row.k; a += kBlockThreads) {
      double slope = row.G.row(row.k)[a];
      for (index c = 0; c < row.k; ++c)
        slope -= row.G.get(a, c) * u[c];
      row.slopes[a] = slope;
    }
  }
  LOWLA_HD void move(const Row &row, index which, index a, int thread) const {
    const double *before = row.slopes + a % 2 * row.k;
    double *after = row.slopes + (a + 1) % 2 * row.k;
    const double g = row.G.row(a)[a], u = row.u[which * row.k + a];
    const double free = g > 0 ? u + before[a] / g : 0.0, x = free > 0 ? free : 0.0;
    for (index c = thread; c < row.k; c += kBlockThreads)
      after[c] = before[c] - row.G.get(a, c) * (x - u);
    if (thread != 0)
      return;
    row.u[(1 - which) * row.k + a] = x;
    const double way = fabs(x - u);
    *row.moved = way > *row.moved ? way : *row.moved;
    *row.largest = x > *row.largest ? x : *row.largest;
  }
  LOWLA_HD void turn(const Row &row, index cycle, int thread) const {
    const bool was_going = row.going[cycle] != 0.0;
    const index now = 1 - cycle % 2;
    if (was_going)
      slopes(row, now, thread);
    if (thread != 0)
      return;
    row.going[cycle + 1] = was_going && *row.moved > accuracy * *row.largest ? 1.0 : 0.0;
    if (was_going)
      *row.last = static_cast<double>(now);
    *row.moved = *row.largest = 0.0;
  }
  LOWLA_HD void write(const Row &row, int thread) const {
    const double *u = row.u + static_cast<index>(*row.last) * row.k;
    for (index a = thread; a < entries.ld; a += kBlockThreads)
      out[row.i * entries.ld + a] = a < row.k ? u[a] : 0.0;
  }
};

// --- single entries

/// w / max(|r|, delta) in place of r.
struct RobustWeights {
  const double *weights; ///< or null
  double delta;
  double *r;
  LOWLA_HD void operator()(index t) const {
    const double size = fabs(r[t]);
    r[t] = (weights != nullptr ? weights[t] : 1.0) / (size < delta ? delta : size);
  }
};

/// out_t = values_t 2^exponent
template <class N> struct TimesPower {
  const N *values;
  int exponent;
  N *out;
  LOWLA_HD void operator()(index t) const {
    out[t] = static_cast<N>(ldexp(static_cast<double>(values[t]), exponent));
  }
};

/// Terms of sums over entries: w, w y, (y - mean)^2 and w (y - mean)^2.
enum class EntryTerm { kWeight, kWeightedValue, kSquare, kWeightedSquare };
template <class S> struct SumEntries {
  const S *values;
  const double *weights; ///< or null
  EntryTerm term;
  double mean;
  index nnz, parts;
  double *partial;
  LOWLA_HD void operator()(index p) const {
    double sum = 0;
    for (index t = p; t < nnz; t += parts)
      sum += of(t);
    partial[p] += sum;
  }

private:
  LOWLA_HD double of(index t) const {
    const double w = weights != nullptr ? weights[t] : 1.0, y = static_cast<double>(values[t]);
    const double r = y - mean;
    return term == EntryTerm::kWeight          ? w
           : term == EntryTerm::kWeightedValue ? w * y
           : term == EntryTerm::kSquare        ? r * r
                                               : w * r * r;
  }
};

/// out_t = w (y - mean)
template <class S> struct StartValues {
  const S *values;
  const double *weights; ///< or null
  double mean;
  double *out;
  LOWLA_HD void operator()(index t) const {
    const double w = weights != nullptr ? weights[t] : 1.0;
    out[t] = (static_cast<double>(values[t]) - mean) * w;
  }
};

struct Clip {
  double limit;
  double *x;
  LOWLA_HD void operator()(index t) const {
    x[t] = x[t] > limit ? limit : x[t] < -limit ? -limit : x[t];
  }
};

/// out_t = from[order[t]]
template <class N> struct Take {
  const N *from;
  const index *order;
  N *out;
  LOWLA_HD void operator()(index t) const { out[t] = from[order[t]]; }
};

template <class From, class To> struct Convert {
  const From *from;
  To *out;
  LOWLA_HD void operator()(index t) const { out[t] = static_cast<To>(from[t]); }
};

/// draw_holdout
struct DrawHoldout {
  const std::int64_t *indptr;
  const std::int32_t *indices;
  double fraction;
  std::uint64_t key;
  bool *out;
  LOWLA_HD int phases() const { return 1; }
  LOWLA_HD void operator()(int, index i, int thread, void *) const {
    for (index t = static_cast<index>(indptr[i]) + thread; t < static_cast<index>(indptr[i + 1]);
         t += kBlockThreads)
      out[t] = philox::uniform(key, philox::kStreamHoldout, i, indices[t]) < fraction;
  }
};

// --- predictions

/// One factor with the bias (plus the mean) and a column of ones behind it, `left` in this order:
/// one product of two such rows predicts. Rows of `width` numbers.
template <class S> struct WidenFactor {
  const S *X;
  index k;
  const S *bias; ///< or null
  double mean;
  bool left;
  index width;
  double *out;
  LOWLA_HD void operator()(index task) const {
    const index i = task / width, a = task % width;
    const bool own = (a == k) == left;
    out[task] = a < k ? static_cast<double>(X[i * k + a])
                : own ? static_cast<double>(bias[i]) + mean
                      : 1.0;
  }
};

/// out_t = L_i . R_j for the pairs (i, j) of row numbers.
template <class S> struct PredictPairs {
  const double *L, *R;
  index width;
  const std::int64_t *rows, *cols;
  S *out;
  LOWLA_HD void operator()(index t) const {
    const double *l = L + rows[t] * width, *r = R + cols[t] * width;
    double sum = 0;
    for (index a = 0; a < width; ++a)
      sum += l[a] * r[a];
    out[t] = static_cast<S>(sum);
  }
};

/// How many indices are not in 0 .. size - 1.
struct IndicesOutside {
  const std::int64_t *indices;
  index count, size, parts;
  double *partial;
  LOWLA_HD void operator()(index p) const {
    double bad = 0;
    for (index t = p; t < count; t += parts)
      bad += indices[t] < 0 || static_cast<index>(indices[t]) >= size ? 1.0 : 0.0;
    partial[p] += bad;
  }
};

} // namespace lowla::functors
