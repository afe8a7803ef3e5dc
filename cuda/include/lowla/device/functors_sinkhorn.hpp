// Passes over the plan P_ij = exp((f_i + g_j - C_ij) / eps) of a transport problem (see
// sinkhorn.hpp), as functors over an index range or over blocks of threads.
//
// Costs are read in the type in which they are stored, or made of points where they are needed; all
// arithmetic is in double precision. Every sum has an order of its own, given by the sizes alone:
// the threads of a block take every 256th column, their sums are added by a fixed tree, and column
// sums go by chunks of rows that are added in two steps.
#pragma once

#include "lowla/device/runtime.hpp"
#include "lowla/sinkhorn.hpp"

#include <cmath>
#include <cstdint>

namespace lowla::functors {

/// Exponents below it count as -inf: their exponentials are multiplied, and would be denormal.
constexpr double kNegligibleExponent = -600;
/// The same for results that are not multiplied any more.
constexpr double kLeastExponent = -700;
constexpr double kLargestExponent = 700;
/// Row sums within 1 / this .. this are taken as they are.
constexpr double kSafeSum = 1e100;

LOWLA_HD inline double masked_exp(double x, double least) {
  return x > least ? exp(x < kLargestExponent ? x : kLargestExponent) : 0.0;
}
LOWLA_HD inline bool is_finite(double x) { return fabs(x) < HUGE_VAL; }

// --- costs: their rows by R at a time; rows behind the last one are the last one

/// The rows and columns of a cost that a problem has; null: all.
struct Kept {
  const index *rows, *columns;
  LOWLA_HD index row(index i) const { return rows != nullptr ? rows[i] : i; }
  LOWLA_HD index column(index j) const { return columns != nullptr ? columns[j] : j; }
};

template <class S> struct ArrayEntries {
  const S *C;
  index rs, cs, m;
  Kept kept;

  template <int R> struct Rows {
    const S *row[R];
    index cs;
    Kept kept;
    LOWLA_HD void load(index j, double (&c)[R]) const {
      const index at = kept.column(j) * cs;
      for (int r = 0; r < R; ++r)
        c[r] = static_cast<double>(row[r][at]);
    }
  };
  template <int R> LOWLA_HD Rows<R> rows(index first) const {
    Rows<R> out{{}, cs, kept};
    for (int r = 0; r < R; ++r)
      out.row[r] = C + kept.row(first + r < m ? first + r : m - 1) * rs;
    return out;
  }
};

/// Distances of the points X (., d) row-major and Y, whose coordinates lie `ld` apart.
struct PointEntries {
  const double *X, *YT;
  index ld, d, m;
  Metric metric;
  Kept kept;

  template <int R> struct Rows {
    const double *x[R], *YT;
    index ld, d;
    Metric metric;
    Kept kept;
    LOWLA_HD void load(index j, double (&c)[R]) const {
      const double *y = YT + kept.column(j);
      for (int r = 0; r < R; ++r)
        c[r] = 0.0;
      for (index k = 0; k < d; ++k)
        for (int r = 0; r < R; ++r) {
          const double difference = x[r][k] - y[k * ld];
          c[r] += metric == Metric::kCityblock ? fabs(difference) : difference * difference;
        }
      for (int r = 0; r < R; ++r)
        c[r] = metric == Metric::kEuclidean ? sqrt(c[r]) : c[r];
    }
  };
  template <int R> LOWLA_HD Rows<R> rows(index first) const {
    Rows<R> out{{}, YT, ld, d, metric, kept};
    for (int r = 0; r < R; ++r)
      out.x[r] = X + kept.row(first + r < m ? first + r : m - 1) * d;
    return out;
  }
};

/// C(i, j)
template <class Cost> LOWLA_HD double entry_of(const Cost &cost, index i, index j) {
  double c[1];
  cost.template rows<1>(i).load(j, c);
  return c[0];
}

// --- partitions and sums

/// The m rows in `count` chunks that are not empty.
struct RowChunks {
  index m, count;
  LOWLA_HD index begin(index chunk) const { return m * chunk / count; }
  LOWLA_HD index end(index chunk) const { return begin(chunk + 1); }
  /// Groups of R rows that the largest chunk has.
  LOWLA_HD index groups(int R) const { return ((m + count - 1) / count + R - 1) / R; }
};

/// Q numbers of each thread of a block and their sums (or maxima): all threads set, then all fold,
/// then any reads.
template <int Q> struct BlockSums {
  static constexpr int kFew = 16;
  static constexpr index kSize = Q * (kBlockThreads + kFew);
  double *all, *few;

  LOWLA_HD explicit BlockSums(void *memory)
      : all(static_cast<double *>(memory)), few(all + Q * kBlockThreads) {}
  LOWLA_HD void set(int q, int thread, double x) const { all[q * kBlockThreads + thread] = x; }

  LOWLA_HD void fold(int thread) const {
    if (thread >= Q * kFew)
      return;
    const double *own = all + thread / kFew * kBlockThreads;
    double sum = 0;
    for (int k = thread % kFew; k < kBlockThreads; k += kFew)
      sum += own[k];
    few[thread] = sum;
  }
  LOWLA_HD double total(int q) const {
    double sum = 0;
    for (int k = 0; k < kFew; ++k)
      sum += few[q * kFew + k];
    return sum;
  }

  LOWLA_HD void fold_largest(int thread) const {
    if (thread >= Q * kFew)
      return;
    const double *own = all + thread / kFew * kBlockThreads;
    double top = -HUGE_VAL;
    for (int k = thread % kFew; k < kBlockThreads; k += kFew)
      top = own[k] > top ? own[k] : top;
    few[thread] = top;
  }
  LOWLA_HD double largest(int q) const {
    double top = -HUGE_VAL;
    for (int k = 0; k < kFew; ++k)
      top = few[q * kFew + k] > top ? few[q * kFew + k] : top;
    return top;
  }
};

/// out_j = sum of the parts of column j, (count, n): a block takes 32 columns, their parts in 8
/// interleaved sums.
struct FoldColumns {
  static constexpr int kColumns = 32, kSums = kBlockThreads / kColumns;
  static constexpr std::size_t kShared = kBlockThreads * sizeof(double);
  const double *parts;
  index count, n;
  double *out;

  LOWLA_HD int phases() const { return 2; }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    auto *sums = static_cast<double *>(shared);
    const index j = block * kColumns + thread % kColumns;
    double sum = 0;
    if (phase == 0) {
      for (index p = thread / kColumns; p < count && j < n; p += kSums)
        sum += parts[p * n + j];
      sums[thread] = sum;
    } else if (thread < kColumns && j < n) {
      for (int k = 0; k < kSums; ++k)
        sum += sums[k * kColumns + thread];
      out[j] = sum;
    }
  }
};

// --- both half steps of Sinkhorn's iteration in one read

/// f that makes the row sums a for this g, and the column sums of that plan by chunks of rows. A
/// block takes a chunk, R rows at a time, whose exponentials stay in shared memory (or in `work`)
/// until their sums are known. The guess of f is the shift of the exponents: near the solution
/// every row sum is about 1. Rows whose sums leave the safe range are taken again with their
/// maximum.
template <class Cost, int R> struct FitRows {
  static constexpr int kPhases = 10;
  static constexpr index kShared = BlockSums<R>::kSize + 3 * R; ///< doubles beside R n

  Cost cost;
  RowChunks chunks;
  index n;
  const double *a, *log_a, *guess, *g;
  double eps;
  double *work;        ///< (chunks, R, n), or null where shared memory holds as much
  double *f, *columns; ///< (m), (chunks, n)

  LOWLA_HD int phases() const { return static_cast<int>(kPhases * chunks.groups(R)); }
  LOWLA_HD void operator()(int phase, index chunk, int thread, void *shared) const {
    const index first = chunks.begin(chunk) + phase / kPhases * R;
    const index left = chunks.end(chunk) - first;
    if (left <= 0)
      return;
    const Rows rows{first, static_cast<int>(left < R ? left : R), chunk, shared, work, n};
    switch (phase % kPhases) {
    case 0:
      exponentials(rows, thread, true);
      break;
    case 2:
      judge(rows, thread);
      break;
    case 3:
      find_largest(rows, thread);
      break;
    case 4:
      rows.sums.fold_largest(thread);
      break;
    case 5:
      shift_again(rows, thread);
      break;
    case 6:
      exponentials(rows, thread, false);
      break;
    case 8:
      finish(rows, thread);
      break;
    case 9:
      add_columns(rows, thread, phase < kPhases);
      break;
    default: // 1 and 7
      rows.sums.fold(thread);
    }
  }

private:
  /// The rows of a group, and what is known of them in shared memory.
  struct Rows {
    index first;
    int count;
    BlockSums<R> sums;
    double *shift, *share, *again; ///< (R)
    double *e;                     ///< (R, n)
    index chunk;
    LOWLA_HD Rows(index first_row, int rows, index own, void *shared, double *work, index n)
        : first(first_row), count(rows), sums(shared), shift(sums.all + BlockSums<R>::kSize),
          share(shift + R), again(share + R), e(work != nullptr ? work + own * R * n : again + R),
          chunk(own) {}
    LOWLA_HD bool any() const {
      bool found = false;
      for (int r = 0; r < R; ++r)
        found = found || again[r] != 0.0;
      return found;
    }
  };

  LOWLA_HD double first_shift(index i) const { return guess[i] - eps * log_a[i]; }

  LOWLA_HD void exponentials(const Rows &rows, int thread, bool at_first) const {
    double shift[R], sum[R] = {};
    bool wanted[R];
    bool any = false;
    for (int r = 0; r < R; ++r) {
      wanted[r] = r < rows.count && (at_first || rows.again[r] != 0.0);
      shift[r] = !wanted[r] ? 0.0 : at_first ? first_shift(rows.first + r) : rows.shift[r];
      any = any || wanted[r];
    }
    if (!any)
      return;
    const double per_eps = 1 / eps;
    const auto entries = cost.template rows<R>(rows.first);
    for (index j = thread; j < n; j += kBlockThreads) {
      double c[R];
      entries.load(j, c);
      const double own = g[j];
      for (int r = 0; r < R; ++r)
        if (wanted[r]) {
          const double x = (shift[r] + own - c[r]) * per_eps;
          const double e = masked_exp(x, kNegligibleExponent);
          rows.e[r * n + j] = e;
          sum[r] += e;
        }
    }
    for (int r = 0; r < R; ++r)
      if (at_first || wanted[r])
        rows.sums.set(r, thread, sum[r]);
  }

  LOWLA_HD void judge(const Rows &rows, int thread) const {
    if (thread >= R)
      return;
    const bool own = thread < rows.count;
    const double total = rows.sums.total(thread);
    rows.shift[thread] = own ? first_shift(rows.first + thread) : 0.0;
    rows.again[thread] = own && !(total > 1 / kSafeSum && total < kSafeSum) ? 1.0 : 0.0;
  }

  LOWLA_HD void find_largest(const Rows &rows, int thread) const {
    if (!rows.any())
      return;
    double top[R];
    for (int r = 0; r < R; ++r)
      top[r] = -HUGE_VAL;
    const auto entries = cost.template rows<R>(rows.first);
    for (index j = thread; j < n; j += kBlockThreads) {
      double c[R];
      entries.load(j, c);
      for (int r = 0; r < R; ++r) {
        const double x = rows.shift[r] + g[j] - c[r];
        top[r] = x > top[r] ? x : top[r];
      }
    }
    for (int r = 0; r < R; ++r)
      if (rows.again[r] != 0.0)
        rows.sums.set(r, thread, top[r]);
  }

  LOWLA_HD void shift_again(const Rows &rows, int thread) const {
    if (thread < R && rows.again[thread] != 0.0)
      rows.shift[thread] -= rows.sums.largest(thread);
  }

  LOWLA_HD void finish(const Rows &rows, int thread) const {
    if (thread >= rows.count)
      return;
    const index i = rows.first + thread;
    const double total = rows.sums.total(thread);
    f[i] = rows.shift[thread] + eps * (log_a[i] - log(total));
    rows.share[thread] = a[i] / total;
  }

  LOWLA_HD void add_columns(const Rows &rows, int thread, bool begins) const {
    double *own = columns + rows.chunk * n;
    for (index j = thread; j < n; j += kBlockThreads) {
      double sum = begins ? 0.0 : own[j];
      for (int r = 0; r < rows.count; ++r)
        sum += rows.share[r] * rows.e[r * n + j];
      own[j] = sum;
    }
  }
};

// --- sums over a plan

/// Row sums of P and of P C, and the column sums of P by chunks of rows.
template <class Cost> struct SumPlan {
  static constexpr int kRows = 4, kPhases = 3;
  static constexpr std::size_t kShared = BlockSums<2 * kRows>::kSize * sizeof(double);

  Cost cost;
  RowChunks chunks;
  index n;
  const double *f, *g;
  double reg;
  double *rows, *linear, *columns; ///< (m), (m), (chunks, n)

  LOWLA_HD int phases() const { return static_cast<int>(kPhases * chunks.groups(kRows)); }
  LOWLA_HD void operator()(int phase, index chunk, int thread, void *shared) const {
    const index first = chunks.begin(chunk) + phase / kPhases * kRows;
    const index left = chunks.end(chunk) - first;
    const int count = static_cast<int>(left < kRows ? left : kRows);
    const BlockSums<2 * kRows> sums(shared);
    if (left <= 0)
      return;
    if (phase % kPhases == 0) {
      add(first, count, thread, phase < kPhases, columns + chunk * n, sums);
    } else if (phase % kPhases == 1) {
      sums.fold(thread);
    } else if (thread < count) {
      rows[first + thread] = sums.total(thread);
      linear[first + thread] = sums.total(kRows + thread);
    }
  }

private:
  LOWLA_HD void add(index first, int count, int thread, bool begins, double *own,
                    const BlockSums<2 * kRows> &sums) const {
    double sum[2 * kRows] = {};
    const double per_reg = 1 / reg;
    const auto entries = cost.template rows<kRows>(first);
    for (index j = thread; j < n; j += kBlockThreads) {
      double c[kRows], column = begins ? 0.0 : own[j];
      entries.load(j, c);
      for (int r = 0; r < kRows; ++r)
        if (r < count) {
          const double e = masked_exp((f[first + r] + g[j] - c[r]) * per_reg, kLeastExponent);
          column += e;
          sum[r] += e;
          sum[kRows + r] += e > 0.0 ? e * c[r] : 0.0; // C may be inf
        }
      own[j] = column;
    }
    for (int q = 0; q < 2 * kRows; ++q)
      sums.set(q, thread, sum[q]);
  }
};

/// top and total of the exponents of column j over a part of the rows, (parts, n).
template <class Cost> struct LogColumnParts {
  Cost cost;
  RowChunks parts;
  index n;
  const double *f, *g;
  double eps;
  double *top, *total;
  LOWLA_HD void operator()(index task) const {
    const index p = task / n, j = task % n;
    double most = -HUGE_VAL, sum = 0;
    for (index i = parts.begin(p); i < parts.end(p); ++i) {
      const double x = (f[i] + g[j] - entry_of(cost, i, j)) / eps;
      if (!(x > -HUGE_VAL))
        continue;
      if (x > most) {
        sum = sum * exp(most - x) + 1;
        most = x;
      } else {
        sum += exp(x - most);
      }
    }
    top[task] = most;
    total[task] = sum;
  }
};

struct LogColumns {
  const double *top, *total;
  index parts, n;
  double *out;
  LOWLA_HD void operator()(index j) const {
    double most = -HUGE_VAL, sum = 0;
    for (index p = 0; p < parts; ++p)
      most = top[p * n + j] > most ? top[p * n + j] : most;
    for (index p = 0; p < parts; ++p)
      if (total[p * n + j] > 0.0)
        sum += total[p * n + j] * exp(top[p * n + j] - most);
    out[j] = sum > 0.0 ? most + log(sum) : -HUGE_VAL;
  }
};

/// P, row-major.
template <class Cost, class R> struct WritePlan {
  Cost cost;
  index n;
  const double *f, *g;
  double reg;
  R *out;
  LOWLA_HD void operator()(index task) const {
    const index i = task / n, j = task % n;
    out[task] = static_cast<R>(exp((f[i] + g[j] - entry_of(cost, i, j)) * (1 / reg)));
  }
};

// --- the entries of a plan that are at least exp(least): counted, then written in their order

/// A block takes kColumns columns of a row, a thread kOwn neighbouring ones.
template <class Cost> struct EntriesAbove {
  static constexpr int kOwn = 4, kColumns = kOwn * kBlockThreads, kFew = 16;
  static constexpr std::size_t kShared = (kBlockThreads + kBlockThreads / kFew) * sizeof(index);

  Cost cost;
  index n, tiles; ///< of a row
  const double *f, *g;
  double eps, least;

  /// Calls keep(number, j, exponent) for the thread's entries; returns how many.
  template <class Keep> LOWLA_HD index visit(index block, int thread, const Keep &keep) const {
    const index i = block / tiles, first = block % tiles * kColumns + thread * kOwn;
    const auto row = cost.template rows<1>(i);
    const double per_eps = 1 / eps;
    index count = 0;
    for (index j = first; j < first + kOwn && j < n; ++j) {
      double c[1];
      row.load(j, c);
      const double x = (f[i] + g[j] - c[0]) * per_eps;
      if (x >= least)
        keep(count++, j, x);
    }
    return count;
  }
  /// How many each 16 threads have, from how many each has.
  LOWLA_HD static void fold(int thread, index *counts) {
    if (thread >= kBlockThreads / kFew)
      return;
    index sum = 0;
    for (int k = 0; k < kFew; ++k)
      sum += counts[thread * kFew + k];
    counts[kBlockThreads + thread] = sum;
  }
};

struct IgnoreEntry {
  LOWLA_HD void operator()(index, index, double) const {}
};
struct StoreEntry {
  std::int32_t *indices;
  double *data;
  LOWLA_HD void operator()(index at, index j, double x) const {
    indices[at] = static_cast<std::int32_t>(j);
    data[at] = masked_exp(x, kLeastExponent);
  }
};

template <class Cost> struct CountAbove {
  EntriesAbove<Cost> entries;
  index *counts; ///< (m, tiles)
  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    auto *own = static_cast<index *>(shared);
    if (phase == 0) {
      own[thread] = entries.visit(block, thread, IgnoreEntry{});
    } else if (phase == 1) {
      entries.fold(thread, own);
    } else if (thread == 0) {
      index sum = 0;
      for (int k = 0; k < kBlockThreads / entries.kFew; ++k)
        sum += own[kBlockThreads + k];
      counts[block] = sum;
    }
  }
};

template <class Cost> struct WriteAbove {
  EntriesAbove<Cost> entries;
  const index *starts; ///< (m, tiles)
  std::int32_t *indices;
  double *data;
  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    auto *own = static_cast<index *>(shared);
    if (phase == 0) {
      own[thread] = entries.visit(block, thread, IgnoreEntry{});
    } else if (phase == 1) {
      entries.fold(thread, own);
    } else if (own[thread] > 0) {
      constexpr int kFew = EntriesAbove<Cost>::kFew;
      index at = starts[block];
      for (int k = 0; k < thread / kFew; ++k)
        at += own[kBlockThreads + k];
      for (int k = thread / kFew * kFew; k < thread; ++k)
        at += own[k];
      entries.visit(block, thread, StoreEntry{indices + at, data + at});
    }
  }
};

// --- the range of the costs

/// The least and the largest finite cost of a chunk of rows; 1 where one is not finite, 3 where one
/// is NaN or -inf: (chunks, 3).
template <class Cost> struct ExtentOfChunk {
  static constexpr int kRows = 4;
  static constexpr std::size_t kShared = 3 * kBlockThreads * sizeof(double);
  Cost cost;
  RowChunks chunks;
  index n;
  double *out;

  LOWLA_HD int phases() const { return 2; }
  LOWLA_HD void operator()(int phase, index chunk, int thread, void *shared) const {
    auto *found = static_cast<double *>(shared);
    double least = HUGE_VAL, largest = -HUGE_VAL, odd = 0;
    if (phase == 0) {
      for (index i = chunks.begin(chunk); i < chunks.end(chunk); i += kRows) {
        const auto entries = cost.template rows<kRows>(i); // rows of the next chunk as well
        const index count = chunks.end(chunk) - i;
        for (index j = thread; j < n; j += kBlockThreads) {
          double c[kRows];
          entries.load(j, c);
          for (int r = 0; r < kRows && r < count; ++r)
            see(c[r], least, largest, odd);
        }
      }
      found[3 * thread] = least;
      found[3 * thread + 1] = largest;
      found[3 * thread + 2] = odd;
    } else if (thread == 0) {
      for (int k = 0; k < kBlockThreads; ++k) {
        const double *other = found + 3 * k;
        least = other[0] < least ? other[0] : least;
        largest = other[1] > largest ? other[1] : largest;
        odd = other[2] > odd ? other[2] : odd;
      }
      out[3 * chunk] = least;
      out[3 * chunk + 1] = largest;
      out[3 * chunk + 2] = odd;
    }
  }

private:
  LOWLA_HD static void see(double c, double &least, double &largest, double &odd) {
    if (is_finite(c)) {
      least = c < least ? c : least;
      largest = c > largest ? c : largest;
    } else {
      const double kind = c > 0.0 ? 1.0 : 3.0;
      odd = kind > odd ? kind : odd;
    }
  }
};

/// How many costs of row i are finite.
template <class Cost> struct FiniteInRow {
  static constexpr std::size_t kShared = BlockSums<1>::kSize * sizeof(double);
  Cost cost;
  index n;
  double *out;
  LOWLA_HD int phases() const { return 3; }
  LOWLA_HD void operator()(int phase, index i, int thread, void *shared) const {
    const BlockSums<1> sums(shared);
    if (phase == 0) {
      const auto row = cost.template rows<1>(i);
      double count = 0;
      for (index j = thread; j < n; j += kBlockThreads) {
        double c[1];
        row.load(j, c);
        count += is_finite(c[0]) ? 1.0 : 0.0;
      }
      sums.set(0, thread, count);
    } else if (phase == 1) {
      sums.fold(thread);
    } else if (thread == 0) {
      out[i] = sums.total(0);
    }
  }
};

/// How many costs of column j in a part of the rows are finite, (parts, n).
template <class Cost> struct FiniteInColumn {
  Cost cost;
  RowChunks parts;
  index n;
  double *out;
  LOWLA_HD void operator()(index task) const {
    double count = 0;
    for (index i = parts.begin(task / n); i < parts.end(task / n); ++i)
      count += is_finite(entry_of(cost, i, task % n)) ? 1.0 : 0.0;
    out[task] = count;
  }
};

// --- gradients with respect to points

/// out_ik = sum_j P_ij dC_ij/dx_ik, (m, d): a block takes a row, kAxes coordinates at a time.
struct PointGradient {
  static constexpr int kAxes = 8, kPhases = 3;
  static constexpr std::size_t kShared = BlockSums<kAxes>::kSize * sizeof(double);
  PointEntries cost;
  index n;
  const double *f, *g;
  double reg;
  double *out;

  LOWLA_HD int phases() const { return static_cast<int>((cost.d + kAxes - 1) / kAxes * kPhases); }
  LOWLA_HD void operator()(int phase, index i, int thread, void *shared) const {
    const BlockSums<kAxes> sums(shared);
    const index first = phase / kPhases * kAxes, left = cost.d - first;
    const int axes = static_cast<int>(left < kAxes ? left : kAxes);
    if (phase % kPhases == 0)
      add(i, first, axes, thread, sums);
    else if (phase % kPhases == 1)
      sums.fold(thread);
    else if (thread < axes)
      out[i * cost.d + first + thread] = sums.total(thread);
  }

private:
  /// P_ij times what the differences of coordinates are multiplied by.
  LOWLA_HD double weight(index i, index j, double c) const {
    const double e = masked_exp((f[i] + g[j] - c) * (1 / reg), kLeastExponent);
    if (cost.metric == Metric::kSquaredEuclidean)
      return 2 * e;
    if (cost.metric == Metric::kCityblock)
      return e;
    return c > 0.0 ? e / c : 0.0; // the gradient of |x - y| is 0 at x = y
  }
  LOWLA_HD void add(index i, index first, int axes, int thread,
                    const BlockSums<kAxes> &sums) const {
    double sum[kAxes] = {};
    const auto row = cost.template rows<1>(i);
    for (index j = thread; j < n; j += kBlockThreads) {
      double c[1];
      row.load(j, c);
      const double w = weight(i, j, c[0]);
      for (int k = 0; k < kAxes; ++k)
        if (k < axes) {
          const double difference = row.x[0][first + k] - cost.YT[(first + k) * cost.ld + j];
          const double sign = difference > 0 ? 1.0 : difference < 0 ? -1.0 : 0.0;
          sum[k] += w * (cost.metric == Metric::kCityblock ? sign : difference);
        }
    }
    for (int k = 0; k < kAxes; ++k)
      sums.set(k, thread, sum[k]);
  }
};

} // namespace lowla::functors
