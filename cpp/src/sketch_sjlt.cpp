// sjlt and countsketch of a dense matrix in one read of it.
//
// Row r of A is added to one target in each of `nnz` row blocks of the result. The result is kept
// as slabs of few columns, so that the targets of one row block of a slab stay in the first-level
// cache, and A is taken in blocks of few rows that stay in the second-level cache while every slab
// and row block goes over them; the next block is fetched meanwhile. Nothing is sorted, and A is
// read where it lies. Every entry of the result is a sum over rows in their order, in at most
// kParts parts, a number that depends on the sizes alone.
#include "sketch_kinds.hpp"

#include "lowla/core/clones.hpp"

namespace lowla::sketches {
namespace {

/// Rows of A in cache at a time, and rows whose targets are drawn at a time.
constexpr index kBlock = 48, kDrawn = 4096;
/// Rows packed at a time where they are not contiguous: long runs of each column.
constexpr index kPacked = 256;
/// Width of a slab, in cache lines: the targets of a row block of d / nnz = 100 rows are 32 KiB.
constexpr index kSlabLines = 5;
/// Sums that are kept in the second-level cache at a time.
constexpr index kTargetBytes = index(5) << 18;
constexpr index kParts = 2;
/// Memory of all parts.
constexpr index kPartialBytes = index(12) << 20;

/// 2 (row within the row block) + (sign < 0), as philox::sjlt_entry has them.
LOWLA_CLONES void targets(const std::uint32_t *words, index n, std::uint32_t size,
                          std::uint32_t *entry) {
  for (index c = 0; c < n; ++c) {
    const std::uint64_t row = (static_cast<std::uint64_t>(words[c] >> 1) * size) >> 31;
    entry[c] = (static_cast<std::uint32_t>(row) << 1) | (words[c] & 1u);
  }
}

/// Columns in slabs of equal width, of which the last may overlap the one before.
struct EqualSlabs {
  index columns, width, count;
  EqualSlabs(index n_columns, index item) : columns(n_columns) {
    const index unit = simd::kPanelBytes / item, units = (columns + unit - 1) / unit;
    const index wanted = (units + kSlabLines - 1) / kSlabLines;
    width = (units + wanted - 1) / wanted * unit;
    count = (columns + width - 1) / width;
  }
  /// The columns that are worked on, and those that are new.
  index first(index slab) const {
    return std::max<index>(0, std::min(slab * width, columns - width));
  }
  index used() const { return std::min(width, columns); }
  index first_new(index slab) const { return slab * width; }
  index last(index slab) const { return std::min(columns, (slab + 1) * width); }
};

template <class T> class Sjlt {
public:
  using R = real_t<T>;

  Sjlt(const SketchSpec &spec, MatrixView<T> A)
      : spec_(spec), source_{A}, slabs_(source_.columns(), sizeof(R)) {}

  void times(T *out) const {
    const index size = slabs_.count * slab_size();
    constexpr index kRowsPerPart = 2 * kDrawn;
    const index parts = std::clamp<index>(
        std::min(spec_.n / kRowsPerPart, kPartialBytes / (size * static_cast<index>(sizeof(R)))), 1,
        kParts);
    // More threads than parts share the columns of one.
    const index shares = std::min(slabs_.count, (threads::get_num_threads() + parts - 1) / parts);
    Buffer<R> sums(parts * size);
    parallel_for(parts * shares, [&](index task) {
      const index part = task / shares, share = task % shares;
      add_rows(part * spec_.n / parts, (part + 1) * spec_.n / parts, slabs_.count * share / shares,
               slabs_.count * (share + 1) / shares, sums.get() + part * size);
    });
    collect(sums.get(), parts, size, reinterpret_cast<R *>(out));
  }

private:
  index slab_size() const { return spec_.d * slabs_.width; }
  index block_start(index b) const { return b * spec_.d / spec_.nnz; }

  /// Adds the rows of a part to the slabs [slab0, slab1) of its sums.
  void add_rows(index first, index last, index slab0, index slab1, R *sums) const {
    std::fill(sums + slab0 * slab_size(), sums + slab1 * slab_size(), R(0));
    Buffer<std::uint32_t> entries(spec_.nnz * kDrawn);
    const index group =
        std::max<index>(1, kTargetBytes / (slab_size() * static_cast<index>(sizeof(R))));
    for (index i = first; i < last; i += kDrawn) {
      const index rows = std::min(kDrawn, last - i);
      draw(i, rows, entries.get());
      for (index s = slab0; s < slab1; s += group)
        add_group(i, rows, last, entries.get(), s, std::min(slab1, s + group), sums);
    }
  }

  void draw(index first, index rows, std::uint32_t *entries) const {
    for_sjlt_words(
        spec_, first, first + rows, [&](index b, index j, index n, const std::uint32_t *words) {
          const index size = block_start(b + 1) - block_start(b);
          targets(words, n, static_cast<std::uint32_t>(size), entries + b * kDrawn + (j - first));
        });
  }

  /// All blocks of some rows, for slabs whose sums are in cache together.
  void add_group(index first, index rows, index last, const std::uint32_t *entries, index slab0,
                 index slab1, R *sums) const {
    const index c0 = slabs_.first(slab0), c1 = slabs_.last(slab1 - 1);
    const bool direct = source_.direct();
    const index block = direct ? kBlock : kPacked;
    Buffer<R> packed(direct ? 0 : block * (c1 - c0));
    const index passes = (slab1 - slab0) * spec_.nnz;
    const index lines = (c1 - c0) * static_cast<index>(sizeof(R)) / 64 + 2;
    const index lines_a_pass = (lines + passes - 1) / passes;
    for (index i = 0; i < rows; i += block) {
      const index count = std::min(block, rows - i);
      const R *A = direct ? source_.at(first + i, c0) : packed.get();
      const index rs = direct ? source_.stride() : c1 - c0;
      if (!direct)
        source_.pack(first + i, count, c0, c1, packed.get(), rs);
      // A pass fetches some lines of every row of the next block.
      const bool more = direct && first + i + 2 * kBlock <= last;
      index fetched = 0;
      for (index s = slab0; s < slab1; ++s)
        for (index b = 0; b < spec_.nnz; ++b) {
          const index fetch = more ? std::min(lines_a_pass, lines - fetched) : 0;
          const auto ahead = reinterpret_cast<std::uintptr_t>(A + kBlock * rs) +
                             static_cast<std::uintptr_t>(64 * fetched);
          simd::sketching<R>().scatter_one(
              A + slabs_.first(s) - c0, rs, count, slabs_.used(), entries + b * kDrawn + i,
              sums + s * slab_size() + block_start(b) * slabs_.width, slabs_.width, ahead, fetch);
          fetched += fetch;
        }
    }
  }

  /// out = the sum of the parts, scaled.
  void collect(const R *sums, index parts, index size, R *out) const {
    constexpr index kRows = 16;
    const R factor = static_cast<R>(spec_.scale());
    const index columns = slabs_.columns;
    parallel_for((spec_.d + kRows - 1) / kRows, [&](index chunk) {
      for (index t = chunk * kRows; t < std::min(spec_.d, (chunk + 1) * kRows); ++t)
        for (index s = 0; s < slabs_.count; ++s) {
          const index c0 = slabs_.first_new(s), n = slabs_.last(s) - c0;
          const R *part = sums + s * slab_size() + t * slabs_.width + (c0 - slabs_.first(s));
          R *target = out + t * columns + c0;
          for (index c = 0; c < n; ++c)
            target[c] = part[c];
          for (index p = 1; p < parts; ++p)
            for (index c = 0; c < n; ++c)
              target[c] += part[p * size + c];
          for (index c = 0; c < n; ++c)
            target[c] *= factor;
        }
    });
  }

  SketchSpec spec_;
  RealRows<T> source_;
  EqualSlabs slabs_;
};

} // namespace

template <class T> void sjlt_times(const SketchSpec &spec, MatrixView<T> A, T *out) {
  if (A.n > 0)
    Sjlt<T>(spec, A).times(out);
}

#define LOWLA_INSTANTIATE(T) template void sjlt_times(const SketchSpec &, MatrixView<T>, T *);
LOWLA_FOR_SCALARS(LOWLA_INSTANTIATE)
#undef LOWLA_INSTANTIATE

} // namespace lowla::sketches
