// sjlt and countsketch of a dense matrix in one read of it.
//
// Row r of A is added to one target in each of `nnz` row blocks of the result, by pieces of few
// columns that stay in registers meanwhile. Targets are hit at random, so that an addition moves a
// cache line from the second-level cache and back, and this is what the time goes to. A is taken in
// blocks of few rows, whole rows and in their order, as the memory is fastest so: the pieces of one
// block together fetch the next. Nothing is sorted, and A is read where it lies. Every entry of the
// result is a sum over rows in their order, in at most kParts parts, a number that depends on the
// sizes alone.
#include "sketch_kinds.hpp"

#include "lowla/core/clones.hpp"

namespace lowla::sketches {
namespace {

/// Rows of A in cache at a time, and rows whose targets are drawn at a time.
constexpr index kBlock = 48, kDrawn = 4096;
/// Rows packed at a time where they are not contiguous: long runs of each column.
constexpr index kPacked = 256;
/// Width of a piece, in cache lines.
constexpr index kPieceLines = 5;
constexpr index kParts = 2;
/// Memory of all parts.
constexpr index kPartialBytes = index(12) << 20;

/// 2 row + (sign < 0), as philox::sjlt_entry has them, for the row block of `size` rows from
/// `first` on.
LOWLA_CLONES void targets(const std::uint32_t *words, index n, std::uint32_t first,
                          std::uint32_t size, std::uint32_t *entry) {
  for (index c = 0; c < n; ++c) {
    const std::uint64_t row = (static_cast<std::uint64_t>(words[c] >> 1) * size) >> 31;
    entry[c] = ((first + static_cast<std::uint32_t>(row)) << 1) | (words[c] & 1u);
  }
}

/// Columns in pieces of whole cache lines and about equal width; the last has what is left over.
struct Pieces {
  index columns, unit, units, count;
  Pieces(index n_columns, index item)
      : columns(n_columns), unit(simd::kPanelBytes / item), units(columns / unit),
        count(std::max<index>(1, (units + kPieceLines - 1) / kPieceLines)) {}
  index first(index p) const { return p == count ? columns : units * p / count * unit; }
  index last(index p) const { return first(p + 1); }
};

template <class T> class Sjlt {
public:
  using R = real_t<T>;

  Sjlt(const SketchSpec &spec, MatrixView<T> A)
      : spec_(spec), source_{A}, pieces_(source_.columns(), sizeof(R)),
        ld_(round_up(pieces_.columns, pieces_.unit)) {}

  void times(T *out) const {
    const index size = spec_.d * ld_;
    constexpr index kRowsPerPart = 2 * kDrawn;
    const index parts = std::clamp<index>(
        std::min(spec_.n / kRowsPerPart, kPartialBytes / (size * static_cast<index>(sizeof(R)))), 1,
        kParts);
    // More threads than parts share the columns of one.
    const index shares = std::min(pieces_.count, (threads::get_num_threads() + parts - 1) / parts);
    Buffer<R> sums(parts * size);
    parallel_for(parts * shares, [&](index task) {
      const index part = task / shares, share = task % shares;
      add_rows(part * spec_.n / parts, (part + 1) * spec_.n / parts, pieces_.count * share / shares,
               pieces_.count * (share + 1) / shares, sums.get() + part * size);
    });
    collect(sums.get(), parts, reinterpret_cast<R *>(out));
  }

private:
  index block_start(index b) const { return b * spec_.d / spec_.nnz; }

  /// The sums over the rows of a part, for the pieces [piece0, piece1).
  void add_rows(index first, index last, index piece0, index piece1, R *sums) const {
    const index c0 = pieces_.first(piece0), c1 = pieces_.first(piece1);
    for (index t = 0; t < spec_.d; ++t)
      std::fill(sums + t * ld_ + c0, sums + t * ld_ + c1, R(0));
    Buffer<std::uint32_t> entries(spec_.nnz * kDrawn);
    Buffer<R> packed(source_.direct() ? 0 : kPacked * (c1 - c0));
    for (index i = first; i < last; i += kDrawn) {
      const index rows = std::min(kDrawn, last - i);
      draw(i, rows, entries.get());
      if (source_.direct()) {
        for (index k = i; k < i + rows; k += kBlock)
          add_block(source_.at(k, c0), source_.stride(), std::min(kBlock, i + rows - k),
                    k + 2 * kBlock <= last, entries.get() + (k - i), piece0, piece1, sums);
      } else {
        for (index k = i; k < i + rows; k += kPacked) {
          const index count = std::min(kPacked, i + rows - k);
          source_.pack(k, count, c0, c1, packed.get(), c1 - c0);
          add_block(packed.get(), c1 - c0, count, false, entries.get() + (k - i), piece0, piece1,
                    sums);
        }
      }
    }
  }

  void draw(index first, index rows, std::uint32_t *entries) const {
    for_sjlt_words(spec_, first, first + rows,
                   [&](index b, index j, index n, const std::uint32_t *words) {
                     const index start = block_start(b), size = block_start(b + 1) - start;
                     targets(words, n, static_cast<std::uint32_t>(start),
                             static_cast<std::uint32_t>(size), entries + b * kDrawn + (j - first));
                   });
  }

  /// Adds rows to their targets, A being their columns from those of piece0 on; `more`: a block
  /// follows, and is fetched meanwhile.
  void add_block(const R *A, index rs, index rows, bool more, const std::uint32_t *entries,
                 index piece0, index piece1, R *sums) const {
    constexpr auto item = static_cast<index>(sizeof(R));
    const bool whole = piece1 - piece0 == pieces_.count && rs == pieces_.columns;
    const auto next = reinterpret_cast<std::uintptr_t>(A + rows * rs);
    const index bytes = round_up(rs * item / pieces_.count, 64);
    for (index p = piece0; p < piece1; ++p) {
      const index c = pieces_.first(p), width = pieces_.last(p) - c;
      const index from = c - pieces_.first(piece0);
      // Of rows without gaps a p-th part of the block, of others the same columns.
      simd::StridedAhead ahead;
      if (more && whole)
        ahead = {next + at(p * rows * bytes), bytes, bytes};
      else if (more)
        ahead = {next + at(from * item), rs * item, width * item};
      simd::sketching<R>().scatter_all(A + from, rs, rows, width, entries, spec_.nnz, kDrawn,
                                       sums + c, ld_, ahead);
    }
  }
  static std::uintptr_t at(index bytes) { return static_cast<std::uintptr_t>(bytes); }

  /// out = the sum of the parts, scaled.
  void collect(const R *sums, index parts, R *out) const {
    constexpr index kRows = 16;
    const R factor = static_cast<R>(spec_.scale());
    const index columns = pieces_.columns, size = spec_.d * ld_;
    parallel_for((spec_.d + kRows - 1) / kRows, [&](index chunk) {
      for (index t = chunk * kRows; t < std::min(spec_.d, (chunk + 1) * kRows); ++t) {
        const R *part = sums + t * ld_;
        R *target = out + t * columns;
        std::copy_n(part, columns, target);
        for (index p = 1; p < parts; ++p)
          for (index c = 0; c < columns; ++c)
            target[c] += part[p * size + c];
        for (index c = 0; c < columns; ++c)
          target[c] *= factor;
      }
    });
  }

  SketchSpec spec_;
  RealRows<T> source_;
  Pieces pieces_;
  index ld_; ///< of the sums
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
