// Sparse and uniform embeddings on the CPU, and sjlt but for its product with a dense matrix
// (sketch_sjlt.cpp): sums of signed rows.
//
// With at most two nonzeros a column each row of A is added to its targets as it streams by; the
// targets, a slab of columns of the result, stay in the second-level cache. With more, blocks of
// 1024 rows are sorted by target: a target is then loaded and stored once a block, and its sum runs
// in registers over rows in cache. The block is copied there, aligned: vectors that straddle cache
// lines many times over cost more than the copy. Lists of nonzeros are made in parallel and serve
// all slabs. Every entry of the result is a sum over rows in their order, scaled at the end; only
// for a few columns is it split, by the sizes alone.
#include "sketch_kinds.hpp"

#include "lowla/core/clones.hpp"

namespace lowla::sketches {
namespace {

/// Nonzeros of some columns: row[k], and code[k] = 2 (column - first) + (sign < 0).
struct Entries {
  std::vector<std::uint32_t> row, code;
  std::size_t count = 0;

  void reserve(std::size_t n) {
    if (row.size() < n) {
      row.resize(std::max(n, 2 * row.size()));
      code.resize(row.size());
    }
  }
};

/// Row and code of one row block of the sparse sign operator for n columns (philox::sjlt_entry).
LOWLA_CLONES void sjlt_block(const std::uint32_t *words, index n, std::uint32_t start,
                             std::uint32_t size, std::uint32_t column, std::uint32_t *row,
                             std::uint32_t *code) {
  for (index c = 0; c < n; ++c) {
    const std::uint64_t offset = (static_cast<std::uint64_t>(words[c] >> 1) * size) >> 31;
    row[c] = start + static_cast<std::uint32_t>(offset);
    code[c] = ((column + static_cast<std::uint32_t>(c)) << 1) | (words[c] & 1u);
  }
}

/// The nonzeros of a sjlt or sparse operator.
class Columns {
public:
  explicit Columns(const SketchSpec &spec) : spec_(spec) {
    if (spec.kind == SketchKind::kSparse) {
      thresholds_.resize(philox::kGapTable);
      philox::gap_thresholds(spec.density, thresholds_.data());
    }
  }

  double per_column() const {
    return spec_.kind == SketchKind::kSjlt ? static_cast<double>(spec_.nnz)
                                           : spec_.density * static_cast<double>(spec_.d);
  }

  /// Those of the columns first <= j < last; the rows of a column ascend, and so do the columns of
  /// a row.
  void generate(index first, index last, Entries &out) const {
    out.count = 0;
    if (spec_.kind == SketchKind::kSparse)
      generate_sparse(first, last, out);
    else
      generate_sjlt(first, last, out);
  }

private:
  void generate_sparse(index first, index last, Entries &out) const {
    for (index j = first; j < last; ++j) {
      philox::SparseColumn column{spec_.key, static_cast<std::uint64_t>(j), thresholds_.data(),
                                  spec_.d};
      while (column.next()) {
        out.reserve(out.count + 1);
        out.row[out.count] = static_cast<std::uint32_t>(column.row);
        out.code[out.count++] =
            (static_cast<std::uint32_t>(j - first) << 1) | (column.sign < 0 ? 1u : 0u);
      }
    }
  }

  void generate_sjlt(index first, index last, Entries &out) const {
    out.reserve(static_cast<std::size_t>((last - first) * spec_.nnz));
    for_sjlt_words(spec_, first, last, [&](index b, index j, index n, const std::uint32_t *words) {
      const index start = b * spec_.d / spec_.nnz;
      sjlt_block(words, n, static_cast<std::uint32_t>(start),
                 static_cast<std::uint32_t>((b + 1) * spec_.d / spec_.nnz - start),
                 static_cast<std::uint32_t>(j - first), out.row.data() + out.count,
                 out.code.data() + out.count);
      out.count += static_cast<std::size_t>(n);
    });
  }

  SketchSpec spec_;
  std::vector<std::uint64_t> thresholds_;
};

/// Nonzeros by row or by column: those of bucket b are entry[start[b]] .. entry[start[b + 1] - 1],
/// each 2 (the other number) + (sign < 0), in the order in which they were generated.
class Lists {
public:
  void by_row(const Columns &columns, index first, index last, index d) {
    columns.generate(first, last, made_);
    sort(
        d, [&](std::size_t k) { return made_.row[k]; },
        [&](std::size_t k) { return made_.code[k]; });
  }
  void by_column(const Columns &columns, index first, index last) {
    columns.generate(first, last, made_);
    sort(
        last - first, [&](std::size_t k) { return made_.code[k] >> 1; },
        [&](std::size_t k) { return (made_.row[k] << 1) | (made_.code[k] & 1u); });
  }
  const std::uint32_t *start() const { return start_.data(); }
  const std::uint32_t *entry() const { return entry_.data(); }

private:
  /// Counting sort.
  template <class Bucket, class Entry> void sort(index buckets, Bucket &&bucket, Entry &&entry) {
    // start_[b + 1] is first where bucket b begins, then, moved by each entry, where it ends.
    start_.assign(static_cast<std::size_t>(buckets) + 2, 0);
    std::uint32_t *at = start_.data() + 1;
    for (std::size_t k = 0; k < made_.count; ++k)
      ++at[bucket(k) + 1];
    for (index b = 0; b < buckets; ++b)
      at[b + 1] += at[b];
    if (entry_.size() < made_.count)
      entry_.resize(made_.row.size());
    for (std::size_t k = 0; k < made_.count; ++k)
      entry_[at[bucket(k)]++] = entry(k);
  }

  Entries made_;
  std::vector<std::uint32_t> start_, entry_;
};

/// Rows at a time whose nonzeros are listed: at most about a million of these.
index block_rows(const SketchSpec &spec) {
  return static_cast<index>(std::clamp(0x1p20 / Columns(spec).per_column(), 16.0, 1024.0));
}

/// f(task, first row of a block, its rows, its lists): blocks of rows of A in their order, each for
/// all tasks, in parallel. The lists, by_row or by column, serve all of them.
template <class F>
void for_blocks(const SketchSpec &spec, bool by_row, index block, index n_tasks, F &&f) {
  const Columns columns(spec);
  const index blocks = (spec.n + block - 1) / block;
  const double listed = static_cast<double>(block) * columns.per_column();
  const index at_once = std::min(
      blocks, std::max<index>(threads::get_num_threads(),
                              static_cast<index>(std::clamp(0x1p20 / listed, 1.0, 128.0))));
  std::vector<Lists> lists(static_cast<std::size_t>(at_once));
  for (index b0 = 0; b0 < blocks; b0 += at_once) {
    const index count = std::min(at_once, blocks - b0);
    parallel_for(count, [&](index b) {
      const index first = (b0 + b) * block, last = std::min(spec.n, first + block);
      if (by_row)
        lists[static_cast<std::size_t>(b)].by_row(columns, first, last, spec.d);
      else
        lists[static_cast<std::size_t>(b)].by_column(columns, first, last);
    });
    parallel_for(n_tasks, [&](index task) {
      const workspace::Scope scope;
      for (index b = 0; b < count; ++b) {
        const index first = (b0 + b) * block;
        f(task, first, std::min(block, spec.n - first), lists[static_cast<std::size_t>(b)]);
      }
    });
  }
}

} // namespace

template <class T> void sparse_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  using R = real_t<T>;
  constexpr index kItem = sizeof(R);
  const index block_size = block_rows(spec);
  const RealRows<T> source{A};
  const index ldo = source.columns(), size = spec.d * ldo;
  const double per_column = Columns(spec).per_column();
  // Sorting costs a pass over the targets for each block.
  const bool sorted =
      per_column > 2 && static_cast<double>(block_size) * per_column > static_cast<double>(spec.d);
  // In cache: a slab of the result, and where blocks are sorted one of them too.
  const index cache =
      sorted ? (index(512) << 10) / std::max(block_size, spec.d) : (index(1) << 20) / spec.d;
  const Slabs slabs(ldo, std::clamp<index>(cache, 128, sorted ? 512 : 1024), kItem);
  // Blocks of rows are dealt out, each part with a result of its own, as long as these are small
  // (a rule that knows nothing of threads): rows are then read whole, as they lie in memory. Else
  // slabs are dealt out.
  constexpr index kPartialBytes = index(12) << 20;
  constexpr index kEnough = 4; // parts that make dealing out slabs too needless
  const index parts =
      std::clamp<index>(std::min(spec.n / (4 * block_size), kPartialBytes / (size * kItem)), 1, 16);
  const index groups = parts >= kEnough ? 1 : slabs.count;
  R *result = reinterpret_cast<R *>(out);
  Buffer<R> partial((parts - 1) * size);
  std::fill(result, result + size, R(0));
  std::fill(partial.get(), partial.get() + (parts - 1) * size, R(0));
  const auto add_slab = [&](index slab, index first, index rows, const Lists &lists, R *sums) {
    const index c0 = slabs.first(slab), width = slabs.last(slab) - c0;
    if (source.direct() && !sorted) {
      simd::sketching<R>().scatter(source.at(first, c0), source.stride(), rows, width,
                                   lists.start(), lists.entry(), sums + c0, ldo);
      return;
    }
    Buffer<R> packed(rows * slabs.width);
    source.pack(first, rows, c0, c0 + width, packed.get(), slabs.width);
    if (sorted)
      simd::sketching<R>().gather(packed.get(), slabs.width, width, lists.start(), lists.entry(), 0,
                                  spec.d, sums + c0, ldo);
    else
      simd::sketching<R>().scatter(packed.get(), slabs.width, rows, width, lists.start(),
                                   lists.entry(), sums + c0, ldo);
  };
  for_blocks(spec, sorted, block_size, groups * parts,
             [&](index task, index first, index rows, const Lists &lists) {
               const index part = task % parts, group = task / parts;
               if (first / block_size % parts != part)
                 return;
               R *sums = part == 0 ? result : partial.get() + (part - 1) * size;
               for (index slab = group; slab < slabs.count; slab += groups)
                 add_slab(slab, first, rows, lists, sums);
             });
  for (index part = 1; part < parts; ++part)
    for (index k = 0; k < size; ++k)
      result[k] += partial.get()[(part - 1) * size + k];
  scale_rows(result, spec.d, ldo, spec.scale());
}

template <class T, class I> void sparse_times_csr(const SketchSpec &spec, CsrView<T, I> A, T *out) {
  using R = real_t<T>;
  std::fill(out, out + spec.d * A.n, T(0));
  const index ranges = std::min<index>(spec.d, 4 * threads::get_num_threads());
  // At least as many nonzeros a block as targets: the lists must not cost more than what they list.
  const double per_column = Columns(spec).per_column();
  index block = block_rows(spec);
  while (block < 16384 && static_cast<double>(block) * per_column < static_cast<double>(spec.d))
    block *= 2;
  for_blocks(spec, true, block, ranges, [&](index task, index first, index, const Lists &lists) {
    const std::uint32_t *start = lists.start(), *entry = lists.entry();
    for (index t = task * spec.d / ranges; t < (task + 1) * spec.d / ranges; ++t)
      for (std::uint32_t k = start[t]; k < start[t + 1]; ++k) {
        const index row = first + static_cast<index>(entry[k] >> 1);
        const R sign = (entry[k] & 1u) != 0 ? R(-1) : R(1);
        for (I p = A.indptr[row]; p < A.indptr[row + 1]; ++p)
          out[t * A.n + static_cast<index>(A.indices[p])] += sign * A.data[p];
      }
  });
  scale_rows(reinterpret_cast<R *>(out), spec.d, scalar_traits<T>::planes * A.n, spec.scale());
}

template <class T> void sparse_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  using R = real_t<T>;
  const RealRows<T> source{A};
  const index width = source.columns();
  R *result = reinterpret_cast<R *>(out);
  const ContiguousRows<T> Y(source);
  const Columns columns(spec);
  const R factor = static_cast<R>(spec.scale());
  const index block = block_rows(spec);
  parallel_for((spec.n + block - 1) / block, [&](index chunk) {
    const index first = chunk * block, rows = std::min(block, spec.n - first);
    Lists lists;
    lists.by_column(columns, first, first + rows);
    R *part = result + first * width;
    std::fill(part, part + rows * width, R(0));
    simd::sketching<R>().gather(Y.data, Y.stride, width, lists.start(), lists.entry(), 0, rows,
                                part, width);
    for (index k = 0; k < rows * width; ++k)
      part[k] *= factor;
  });
}

SketchPattern sparse_pattern(const SketchSpec &spec) {
  const Columns columns(spec);
  SketchPattern pattern;
  pattern.starts.assign(static_cast<std::size_t>(spec.n) + 1, 0);
  const index block = block_rows(spec), chunks = (spec.n + block - 1) / block;
  const auto for_chunks = [&](auto &&body) {
    parallel_for(chunks, [&](index chunk) {
      Lists lists;
      const index first = chunk * block, rows = std::min(block, spec.n - first);
      lists.by_column(columns, first, first + rows);
      body(first, rows, lists);
    });
  };
  for_chunks([&](index first, index rows, const Lists &lists) {
    for (index j = 0; j < rows; ++j)
      pattern.starts[static_cast<std::size_t>(first + j + 1)] =
          static_cast<index>(lists.start()[j + 1]) - static_cast<index>(lists.start()[j]);
  });
  for (std::size_t j = 1; j < pattern.starts.size(); ++j)
    pattern.starts[j] += pattern.starts[j - 1];
  const auto total = static_cast<std::size_t>(pattern.starts.back());
  pattern.rows.resize(total);
  pattern.signs.resize(total);
  for_chunks([&](index first, index rows, const Lists &lists) {
    const auto base = static_cast<std::size_t>(pattern.starts[static_cast<std::size_t>(first)]);
    for (std::uint32_t k = 0; k < lists.start()[rows]; ++k) {
      pattern.rows[base + k] = static_cast<index>(lists.entry()[k] >> 1);
      pattern.signs[base + k] = (lists.entry()[k] & 1u) != 0 ? std::int8_t(-1) : std::int8_t(1);
    }
  });
  return pattern;
}

// --- uniform: rows of A, or nothing

template <class T> void uniform_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  const auto factor = static_cast<real_t<T>>(spec.scale());
  constexpr index kRows = 16;
  parallel_for((spec.d + kRows - 1) / kRows, [&](index chunk) {
    for (index i = chunk * kRows; i < std::min(spec.d, (chunk + 1) * kRows); ++i) {
      const index j = philox::uniform_column(spec.key, i, spec.n);
      for (index c = 0; c < A.n; ++c) {
        const T a = *A.at(j, c);
        if constexpr (is_complex_v<T>)
          out[i * A.n + c] = factor * (A.conjugated ? std::conj(a) : a);
        else
          out[i * A.n + c] = factor * a;
      }
    }
  });
}

template <class T, class I>
void uniform_times_csr(const SketchSpec &spec, CsrView<T, I> A, T *out) {
  const auto factor = static_cast<real_t<T>>(spec.scale());
  constexpr index kRows = 16;
  parallel_for((spec.d + kRows - 1) / kRows, [&](index chunk) {
    for (index i = chunk * kRows; i < std::min(spec.d, (chunk + 1) * kRows); ++i) {
      const index j = philox::uniform_column(spec.key, i, spec.n);
      std::fill(out + i * A.n, out + (i + 1) * A.n, T(0));
      for (I p = A.indptr[j]; p < A.indptr[j + 1]; ++p)
        out[i * A.n + static_cast<index>(A.indices[p])] += factor * A.data[p];
    }
  });
}

SketchPattern uniform_pattern(const SketchSpec &spec) {
  SketchPattern pattern;
  const auto d = static_cast<std::size_t>(spec.d);
  std::vector<index> column(d);
  pattern.starts.assign(static_cast<std::size_t>(spec.n) + 1, 0);
  for (std::size_t i = 0; i < d; ++i) {
    column[i] = philox::uniform_column(spec.key, static_cast<index>(i), spec.n);
    ++pattern.starts[static_cast<std::size_t>(column[i]) + 1];
  }
  for (std::size_t j = 1; j < pattern.starts.size(); ++j)
    pattern.starts[j] += pattern.starts[j - 1];
  std::vector<index> place(pattern.starts.begin(), pattern.starts.end() - 1);
  pattern.rows.resize(d);
  for (std::size_t i = 0; i < d; ++i)
    pattern.rows[static_cast<std::size_t>(place[static_cast<std::size_t>(column[i])]++)] =
        static_cast<index>(i);
  pattern.signs.assign(d, 1);
  return pattern;
}

template <class T> void uniform_adjoint_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  const auto factor = static_cast<real_t<T>>(spec.scale());
  std::vector<std::pair<index, index>> entries(static_cast<std::size_t>(spec.d)); // column, row
  for (index i = 0; i < spec.d; ++i)
    entries[static_cast<std::size_t>(i)] = {philox::uniform_column(spec.key, i, spec.n), i};
  std::sort(entries.begin(), entries.end());
  constexpr index kRows = 1024;
  parallel_for((spec.n + kRows - 1) / kRows, [&](index chunk) {
    const index first = chunk * kRows, last = std::min(spec.n, first + kRows);
    std::fill(out + first * A.n, out + last * A.n, T(0));
    for (auto at = std::lower_bound(entries.begin(), entries.end(), std::pair(first, index(0)));
         at != entries.end() && at->first < last; ++at)
      for (index c = 0; c < A.n; ++c) {
        const T a = *A.at(at->second, c);
        if constexpr (is_complex_v<T>)
          out[at->first * A.n + c] += factor * (A.conjugated ? std::conj(a) : a);
        else
          out[at->first * A.n + c] += factor * a;
      }
  });
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template void sparse_times(const SketchSpec &, MatrixView<T>, T *);                              \
  template void sparse_times_csr(const SketchSpec &, CsrView<T, std::int32_t>, T *);               \
  template void sparse_times_csr(const SketchSpec &, CsrView<T, std::int64_t>, T *);               \
  template void sparse_adjoint_times(const SketchSpec &, MatrixView<T>, T *);                      \
  template void uniform_times(const SketchSpec &, MatrixView<T>, T *);                             \
  template void uniform_times_csr(const SketchSpec &, CsrView<T, std::int32_t>, T *);              \
  template void uniform_times_csr(const SketchSpec &, CsrView<T, std::int64_t>, T *);              \
  template void uniform_adjoint_times(const SketchSpec &, MatrixView<T>, T *);
LOWLA_FOR_SCALARS(LOWLA_INSTANTIATE)
#undef LOWLA_INSTANTIATE

} // namespace lowla::sketches
