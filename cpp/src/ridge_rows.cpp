// Ridge regressions of observed entries (see ridge_rows.hpp).
#include "lowla/ridge_rows.hpp"

#include "lowla/core/simd_tiles.hpp"

#include "host_rows.hpp"

#include <algorithm>
#include <cmath>

namespace lowla {

using namespace regression;
using rows::scratch;
using threads::parallel_for;

namespace {

/// Entries of a tile whose Gram matrix is summed: in the first-level cache for usual k.
constexpr index kGramEntries = 64;
/// Numbers of a tile that several products with one row's entries share: in the second-level cache.
constexpr index kTileNumbers = 1 << 16;
index padded(index k) {
  return (k + simd::kTilePad) / simd::kTilePad * simd::kTilePad; // more than k
}

std::vector<double> numbers(index n) { return std::vector<double>(at(n), 0.0); }

/// f(first row, last row) for all chunks, in parallel; what it returns, in the order of the rows.
template <class S, class F> double sum_chunks(const Observations<S> &entries, F &&f) {
  const auto spans = chunks_by_entries(entries.indptr, entries.m);
  std::vector<std::pair<index, double>> sums(spans.size());
  parallel_for(static_cast<index>(spans.size()), [&](index c) {
    const auto [first, last] = spans[static_cast<std::size_t>(c)];
    sums[static_cast<std::size_t>(c)] = {first, f(first, last)};
  });
  std::sort(sums.begin(), sums.end());
  double total = 0;
  for (const auto &[row, sum] : sums)
    total += sum;
  return total;
}

template <class S, class F> void for_chunks(const Observations<S> &entries, F &&f) {
  sum_chunks(entries, [&](index first, index last) {
    f(first, last);
    return 0.0;
  });
}

/// Scratch memory of a thread.
enum Slot { kTileSlot, kGramSlot, kWorkSlot, kSolutionSlot };

/// The tiles of one thread.
template <class S> class Tiles {
public:
  const index k, ldt;

  Tiles(const RowProblem<S> &problem, index entries)
      : k(problem.F.cols), ldt(padded(k)), problem_(problem), entries_(entries),
        tile_(scratch<double>(entries * ldt, kTileSlot)) {}

  /// f(tile, entries) for the entries of a row in their order. A row that fits is gathered once.
  template <class F> void of_row(index i, F &&f) {
    const auto &o = problem_.entries;
    const index begin = static_cast<index>(o.indptr[i]), count = o.count(i);
    for (index done = 0; done < count; done += entries_) {
      const index size = std::min(entries_, count - done);
      if (held_ != i || size < count)
        gather(begin + done, size);
      held_ = i;
      f(static_cast<const double *>(tile_), size);
    }
  }

private:
  void gather(index at, index size) {
    const auto &o = problem_.entries;
    simd::factors<S>().gather(problem_.F.row(0), problem_.F.ld, problem_.offset, k, o.indices + at,
                              o.values + at, o.weights == nullptr ? nullptr : o.weights + at, size,
                              static_cast<index>(o.indptr[o.m]) - at - size, tile_, ldt);
  }

  const RowProblem<S> &problem_;
  const index entries_;
  double *tile_;
  index held_ = -1;
};

/// At least k entries, so that short rows fit.
template <class S> Tiles<S> tiles_for_products(const RowProblem<S> &problem) {
  const index k = problem.F.cols;
  return Tiles<S>(problem, std::max({kGramEntries, k, kTileNumbers / padded(k)}));
}

/// The vector whose product with a tile are a row's residuals, with the other sign.
class RowResiduals {
public:
  template <class S>
  explicit RowResiduals(const Tiles<S> &tiles) : k_(tiles.k), x_(numbers(tiles.ldt)) {}
  /// (u, -1)
  const double *against(const double *u) {
    std::copy(u, u + k_, x_.begin());
    x_[at(k_)] = -1.0;
    return x_.data();
  }

private:
  index k_;
  std::vector<double> x_;
};

/// Systems of rows that are solved together.
class Systems {
public:
  Systems(index k, index ldt)
      : k_(k), ldt_(ldt), stride_((k + 1) * ldt),
        G_(scratch<double>(simd::kSystems * stride_, kGramSlot)),
        work_(scratch<double>((k + 1) * (k + 14) / 2 * simd::kSystems, kWorkSlot)),
        X_(scratch<double>(simd::kSystems * (k + 1), kSolutionSlot)) {
    clear();
  }

  bool full() const { return count_ == simd::kSystems; }
  /// The matrix of the next row.
  double *next(index row) {
    rows_[count_] = row;
    return G_ + count_++ * stride_;
  }
  /// Solves what is there; returns the sum of squares that is left.
  double solve(double ridge, Factor &out) {
    if (count_ == 0)
      return 0;
    simd::tiles().solve(G_, stride_, ldt_, k_, ridge, kFloor, work_, X_);
    double squares = 0;
    for (index s = 0; s < count_; ++s) {
      const double *x = X_ + s * (k_ + 1);
      std::copy(x, x + k_, out.row(rows_[s]));
      squares += x[k_];
    }
    clear();
    return squares;
  }

private:
  void clear() {
    count_ = 0;
    std::fill(G_, G_ + simd::kSystems * stride_, 0.0);
  }

  index k_, ldt_, stride_;
  double *G_, *work_, *X_;
  index rows_[simd::kSystems] = {};
  index count_ = 0;
};

/// Rows with fewer entries than unknowns, through the dual: u = T^T z, (T T^T + ridge I) z = y, the
/// solution of least norm. kSystems of them together, the smaller ones with rows of a multiple of
/// I.
template <class S> class ShortRows {
public:
  ShortRows(index k, index ldt)
      : k_(k), ldt_(ldt), stride_(k * ldt), across_(k * ldt), G_(simd::kSystems * stride_),
        work_((k + 1) * (k + 14) / 2 * simd::kSystems), X_(simd::kSystems * (k + 1)) {}

  /// Returns the sum of squares that is left, of this row and others or of none.
  double add(Tiles<S> &tiles, index i, double ridge, Factor &out) {
    double *G = G_.get() + count_ * stride_;
    std::fill_n(out.row(i), k_, 0.0);
    std::fill_n(G, stride_, 0.0);
    orders_[count_] = 0;
    tiles.of_row(i, [&](const double *T, index entries) { // they fit a tile
      for (index j = 0; j < k_; ++j) {
        double *row = across_.get() + j * ldt_;
        for (index e = 0; e < entries; ++e)
          row[e] = T[e * ldt_ + j];
        std::fill(row + entries, row + ldt_, 0.0);
      }
      simd::tiles().gram(across_.get(), ldt_, k_, entries, G);
      double *y = G + entries * ldt_; // nothing of use is there
      for (index e = 0; e < entries; ++e)
        y[e] = T[e * ldt_ + k_];
      orders_[count_] = entries;
    });
    if (orders_[count_] > 0)
      rows_[count_++] = i;
    return count_ == simd::kSystems ? solve(tiles, ridge, out) : 0.0;
  }

  double solve(Tiles<S> &tiles, double ridge, Factor &out) {
    if (count_ == 0)
      return 0;
    const index order = *std::max_element(orders_, orders_ + count_);
    for (index s = 0; s < simd::kSystems; ++s)
      if (s < count_)
        extend(G_.get() + s * stride_, orders_[s], order);
      else
        std::fill_n(G_.get() + s * stride_, (order + 1) * ldt_, 0.0);
    simd::tiles().solve(G_.get(), stride_, ldt_, order, ridge, kFloor, work_.get(), X_.get());
    RowResiduals against(tiles);
    std::vector<double> left(at(order));
    double squares = 0;
    for (index s = 0; s < count_; ++s) {
      const double *z = X_.get() + s * (order + 1);
      double *u = out.row(rows_[s]);
      tiles.of_row(rows_[s], [&](const double *T, index entries) {
        for (index e = 0; e < entries; ++e)
          for (index j = 0; j < k_; ++j)
            u[j] += z[e] * T[e * ldt_ + j];
        squares += simd::tiles().product(T, ldt_, entries, against.against(u), left.data());
      });
    }
    count_ = 0;
    return squares;
  }

private:
  /// [G; y^T] of order n becomes one of a larger order with the solution (z, 0).
  void extend(double *G, index n, index order) const {
    double trace = 0;
    for (index a = 0; a < n; ++a)
      trace += G[a * ldt_ + a];
    std::vector<double> y(G + n * ldt_, G + n * ldt_ + n);
    std::fill(G + n * ldt_, G + (order + 1) * ldt_, 0.0);
    for (index a = n; a < order; ++a)
      G[a * ldt_ + a] = trace / static_cast<double>(n);
    std::copy(y.begin(), y.end(), G + order * ldt_);
  }

  index k_, ldt_, stride_;
  Buffer<double> across_, G_, work_, X_;
  index rows_[simd::kSystems] = {}, orders_[simd::kSystems] = {};
  index count_ = 0;
};

} // namespace

template <class S> double exact_rows(const RowProblem<S> &problem, double ridge, Factor &out) {
  const index k = problem.F.cols;
  return sum_chunks(problem.entries, [&](index first, index last) {
    Tiles<S> tiles(problem, std::max(kGramEntries, k));
    Systems systems(k, tiles.ldt);
    ShortRows<S> short_rows(k, tiles.ldt);
    double squares = 0;
    for (index i = first; i < last; ++i) {
      if (problem.entries.count(i) < k) {
        squares += short_rows.add(tiles, i, ridge, out);
        continue;
      }
      double *G = systems.next(i);
      tiles.of_row(i, [&](const double *T, index count) {
        simd::tiles().gram(T, tiles.ldt, count, k + 1, G);
      });
      if (systems.full())
        squares += systems.solve(ridge, out);
    }
    squares += short_rows.solve(tiles, ridge, out);
    return squares + systems.solve(ridge, out);
  });
}

namespace {

/// One row's conjugate gradients.
template <class S> class GradientRow {
public:
  GradientRow(Tiles<S> &tiles, double ridge)
      : tiles_(tiles), k_(tiles.k), ridge_(ridge), x_(numbers(tiles.ldt)), r_(x_), q_(x_), d_(x_) {}

  /// Returns the sum of squares that is left.
  double solve(index i, index steps, double *u) {
    double squares = start(i, u), rz = 0;
    for (index a = 0; a < k_; ++a)
      rz += r_[at(a)] * x_[at(a)];
    squares += ridge_ * squared(u); // the objective, from here on
    for (index step = 0; step < steps && rz > 0; ++step) {
      // x_ is the direction, its last number 0
      fill(q_);
      tiles_.of_row(i, [&](const double *T, index count) {
        simd::tiles().apply(T, tiles_.ldt, count, x_.data(), q_.data(), nullptr);
      });
      double curvature = 0;
      for (index a = 0; a < k_; ++a) {
        q_[at(a)] += ridge_ * x_[at(a)];
        curvature += x_[at(a)] * q_[at(a)];
      }
      if (!(curvature > 0))
        break;
      const double alpha = rz / curvature, before = rz;
      squares -= alpha * rz;
      rz = 0;
      for (index a = 0; a < k_; ++a) {
        u[a] += alpha * x_[at(a)];
        r_[at(a)] -= alpha * q_[at(a)];
        rz += r_[at(a)] * r_[at(a)] * d_[at(a)];
      }
      for (index a = 0; a < k_; ++a)
        x_[at(a)] = r_[at(a)] * d_[at(a)] + rz / before * x_[at(a)];
    }
    return std::max(squares - ridge_ * squared(u), 0.0);
  }

private:
  static void fill(std::vector<double> &x) { std::fill(x.begin(), x.end(), 0.0); }

  double squared(const double *u) const {
    double sum = 0;
    for (index a = 0; a < k_; ++a)
      sum += u[a] * u[a];
    return sum;
  }

  /// r = T^T W (y - F u) - ridge u, d = 1 / diagonal, x = d r; returns the sum of squares.
  double start(index i, const double *u) {
    fill(x_);
    fill(r_);
    fill(d_);
    std::copy(u, u + k_, x_.begin());
    x_[at(k_)] = -1.0;
    double squares = 0;
    tiles_.of_row(i, [&](const double *T, index count) {
      squares += simd::tiles().apply(T, tiles_.ldt, count, x_.data(), r_.data(), d_.data());
    });
    x_[at(k_)] = 0.0;
    for (index a = 0; a < k_; ++a) {
      r_[at(a)] = -r_[at(a)] - ridge_ * u[a];
      const double whole = d_[at(a)] + ridge_;
      d_[at(a)] = whole > 0 ? 1.0 / whole : 0.0;
      x_[at(a)] = r_[at(a)] * d_[at(a)];
    }
    return squares;
  }

  Tiles<S> &tiles_;
  const index k_;
  const double ridge_;
  std::vector<double> x_, r_, q_, d_;
};

} // namespace

template <class S>
double cg_rows(const RowProblem<S> &problem, double ridge, index steps, Factor &out) {
  const index k = problem.F.cols;
  // Without a ridge, rows with fewer entries than unknowns have a solution by the dual only.
  const index dual = ridge > 0 ? std::min(k - 1, kDualEntries) : k - 1;
  return sum_chunks(problem.entries, [&](index first, index last) {
    Tiles<S> tiles = tiles_for_products(problem);
    GradientRow<S> gradients(tiles, ridge);
    ShortRows<S> short_rows(k, tiles.ldt);
    double squares = 0;
    for (index i = first; i < last; ++i)
      squares += problem.entries.count(i) <= dual ? short_rows.add(tiles, i, ridge, out)
                                                  : gradients.solve(i, steps, out.row(i));
    return squares + short_rows.solve(tiles, ridge, out);
  });
}

template <class S> void nonnegative_rows(const RowProblem<S> &problem, double ridge, Factor &out) {
  const index k = problem.F.cols;
  for_chunks(problem.entries, [&](index first, index last) {
    Tiles<S> tiles(problem, kGramEntries);
    const index ld = tiles.ldt;
    std::vector<double> gram = numbers((k + 1) * ld);
    double *G = gram.data();
    for (index i = first; i < last; ++i) {
      std::fill(gram.begin(), gram.end(), 0.0);
      tiles.of_row(
          i, [&](const double *T, index count) { simd::tiles().gram(T, ld, count, k + 1, G); });
      for (index a = 0; a < k; ++a) {
        for (index c = 0; c < a; ++c)
          G[c * ld + a] = G[a * ld + c];
        G[a * ld + a] += ridge;
      }
      const double *b = G + k * ld;
      double *u = out.row(i);
      for (index cycle = 0; cycle < kCycles; ++cycle) {
        double moved = 0, largest = 0;
        for (index a = 0; a < k; ++a) {
          const double *g = G + a * ld;
          double x = 0;
          if (g[a] > 0) {
            double slope = b[a];
            for (index c = 0; c < k; ++c)
              slope -= g[c] * u[c];
            x = std::max(u[a] + slope / g[a], 0.0);
          }
          moved = std::max(moved, std::fabs(x - u[a]));
          largest = std::max(largest, x);
          u[a] = x;
        }
        if (moved <= kDescentAccuracy * largest)
          break;
      }
    }
  });
}

template <class S> double residual2(const RowProblem<S> &problem, const Factor &U) {
  return sum_chunks(problem.entries, [&](index first, index last) {
    Tiles<S> tiles(problem, kGramEntries);
    RowResiduals residuals(tiles);
    double y[kGramEntries], sum = 0;
    for (index i = first; i < last; ++i) {
      const double *x = residuals.against(U.row(i));
      double in_row = 0;
      tiles.of_row(i, [&](const double *T, index count) {
        in_row += simd::tiles().product(T, tiles.ldt, count, x, y);
      });
      sum += in_row;
    }
    return sum;
  });
}

template <class S> void residuals(const RowProblem<S> &problem, const Factor &U, double *out) {
  Observations<S> plain = problem.entries;
  plain.weights = nullptr;
  const RowProblem<S> unweighted{plain, problem.offset, problem.F};
  for_chunks(plain, [&](index first, index last) {
    Tiles<S> tiles(unweighted, kGramEntries);
    RowResiduals residuals(tiles);
    double *to = out + plain.indptr[first];
    for (index i = first; i < last; ++i) {
      const double *x = residuals.against(U.row(i));
      tiles.of_row(i, [&](const double *T, index count) {
        simd::tiles().product(T, tiles.ldt, count, x, to);
        for (index t = 0; t < count; ++t)
          to[t] = -to[t];
        to += count;
      });
    }
  });
}

template <class S> Factor gradient_rows(const RowProblem<S> &problem, const Factor &U) {
  Factor out(U.rows, U.cols);
  out.zero();
  for_chunks(problem.entries, [&](index first, index last) {
    Tiles<S> tiles(problem, kGramEntries);
    RowResiduals residuals(tiles);
    std::vector<double> sum = numbers(tiles.ldt);
    for (index i = first; i < last; ++i) {
      const double *x = residuals.against(U.row(i));
      std::fill(sum.begin(), sum.end(), 0.0);
      tiles.of_row(i, [&](const double *T, index count) {
        simd::tiles().apply(T, tiles.ldt, count, x, sum.data(), nullptr);
      });
      for (index a = 0; a < U.cols; ++a)
        out.row(i)[a] = -sum[at(a)];
    }
  });
  return out;
}

#define LOWLA_INSTANTIATE(S)                                                                       \
  template double exact_rows(const RowProblem<S> &, double, Factor &);                             \
  template double cg_rows(const RowProblem<S> &, double, index, Factor &);                         \
  template void nonnegative_rows(const RowProblem<S> &, double, Factor &);                         \
  template double residual2(const RowProblem<S> &, const Factor &);                                \
  template void residuals(const RowProblem<S> &, const Factor &, double *);                        \
  template Factor gradient_rows(const RowProblem<S> &, const Factor &);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)

} // namespace lowla
