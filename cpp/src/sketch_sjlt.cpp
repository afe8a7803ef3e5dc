// sjlt and countsketch of a dense matrix in one read of it.
//
// Row r of A is added to one target in each of `nnz` row blocks of the result, by pieces of few
// columns that stay in registers meanwhile. Targets are hit at random, so that an addition moves a
// cache line from the second-level cache and back, and this is what the time goes to. Nothing is
// sorted, and A is read where it lies, in blocks of few rows whose pieces together fetch the next.
//
// A result that fits that cache: whole rows in their order, as the memory is fastest so. Every
// entry is a sum in at most kParts parts, a number that depends on the sizes alone.
//
// A larger one: strips of columns, each over all rows, its sums compact in cache. Rows are then
// read by short runs, which costs less than to move the sums.
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
/// A result larger than this is summed by strips, of so many bytes each.
constexpr index kStripBytes = index(1) << 20;

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
    if (spec_.d * ld_ * item > kStripBytes)
      by_strips(reinterpret_cast<R *>(out));
    else
      by_parts(reinterpret_cast<R *>(out));
  }

private:
  static constexpr auto item = static_cast<index>(sizeof(R));

  index block_start(index b) const { return b * spec_.d / spec_.nnz; }

  void by_parts(R *out) const {
    const index size = spec_.d * ld_;
    constexpr index kRowsPerPart = 2 * kDrawn;
    const index parts = std::clamp<index>(spec_.n / kRowsPerPart, 1, kParts);
    // More threads than parts share the columns of one.
    const index shares = std::min(pieces_.count, (threads::get_num_threads() + parts - 1) / parts);
    Buffer<R> sums(parts * size);
    parallel_for(parts * shares, [&](index task) {
      const index part = task / shares, share = task % shares;
      const index first = pieces_.first(pieces_.count * share / shares);
      const index last = pieces_.first(pieces_.count * (share + 1) / shares);
      R *to = sums.get() + part * size + first;
      for (index t = 0; t < spec_.d; ++t)
        std::fill(to + t * ld_, to + t * ld_ + last - first, R(0));
      Buffer<std::uint32_t> entries(spec_.nnz * kDrawn);
      const index end = (part + 1) * spec_.n / parts;
      for (index i = part * spec_.n / parts; i < end; i += kDrawn) {
        const index rows = std::min(kDrawn, end - i);
        draw(i, rows, entries.get(), kDrawn);
        add_rows(i, i + rows, end, first, last, entries.get(), kDrawn, to, ld_);
      }
    });
    collect(sums.get(), parts, out);
  }

  void by_strips(R *out) const {
    Buffer<std::uint32_t> entries(spec_.nnz * spec_.n);
    threads::for_spans(0, spec_.n, kDrawn, [&](index first, index last) {
      draw(first, last - first, entries.get() + first, spec_.n);
    });
    const index columns = pieces_.columns;
    index lines = kStripBytes / (spec_.d * simd::kPanelBytes);
    if (lines < 2 * (kPieceLines - 1)) // not in pieces of about full width
      lines = kPieceLines;
    // As many for every thread where there are few; what they are does not show in the result.
    const index threads = threads::get_num_threads();
    const index strips = std::clamp<index>(round_up((pieces_.units + lines - 1) / lines, threads),
                                           1, std::max<index>(1, pieces_.units));
    const R factor = static_cast<R>(spec_.scale());
    parallel_for(strips, [&](index strip) {
      const index first = pieces_.units * strip / strips * pieces_.unit;
      const index last =
          strip + 1 < strips ? pieces_.units * (strip + 1) / strips * pieces_.unit : columns;
      const index width = last - first, ld = round_up(width, pieces_.unit);
      Buffer<R> sums(spec_.d * ld);
      std::fill(sums.get(), sums.get() + spec_.d * ld, R(0));
      add_rows(0, spec_.n, spec_.n, first, last, entries.get(), spec_.n, sums.get(), ld);
      for (index t = 0; t < spec_.d; ++t)
        for (index c = 0; c < width; ++c)
          out[t * columns + first + c] = factor * sums.get()[t * ld + c];
    });
  }

  /// sums += the rows [row, last) of the columns [c0, c1); `end`: the rows up to there follow.
  void add_rows(index row, index last, index end, index c0, index c1, const std::uint32_t *entries,
                index lde, R *sums, index lds) const {
    const Pieces pieces(c1 - c0, item);
    if (source_.direct()) {
      for (index k = row; k < last; k += kBlock)
        add_block(source_.at(k, c0), source_.stride(), std::min(kBlock, last - k),
                  k + 2 * kBlock <= end, entries + (k - row), lde, pieces, sums, lds);
      return;
    }
    Buffer<R> packed(kPacked * (c1 - c0));
    for (index k = row; k < last; k += kPacked) {
      const index count = std::min(kPacked, last - k);
      source_.pack(k, count, c0, c1, packed.get(), c1 - c0);
      add_block(packed.get(), c1 - c0, count, false, entries + (k - row), lde, pieces, sums, lds);
    }
  }

  void draw(index first, index rows, std::uint32_t *entries, index lde) const {
    for_sjlt_words(spec_, first, first + rows,
                   [&](index b, index j, index n, const std::uint32_t *words) {
                     const index start = block_start(b), size = block_start(b + 1) - start;
                     targets(words, n, static_cast<std::uint32_t>(start),
                             static_cast<std::uint32_t>(size), entries + b * lde + (j - first));
                   });
  }

  /// Adds rows of A to their targets; `more`: a block follows, and is fetched meanwhile.
  void add_block(const R *A, index rs, index rows, bool more, const std::uint32_t *entries,
                 index lde, const Pieces &pieces, R *sums, index lds) const {
    const bool whole = rs == pieces.columns;
    const auto next = reinterpret_cast<std::uintptr_t>(A + rows * rs);
    const index bytes = round_up(rs * item / pieces.count, 64);
    for (index p = 0; p < pieces.count; ++p) {
      const index c = pieces.first(p), width = pieces.last(p) - c;
      // Of rows without gaps a p-th part of the block, of others the same columns.
      simd::StridedAhead ahead;
      if (more && whole)
        ahead = {next + at(p * rows * bytes), bytes, bytes};
      else if (more)
        ahead = {next + at(c * item), rs * item, width * item};
      simd::sketching<R>().scatter_all(A + c, rs, rows, width, entries, spec_.nnz, lde, sums + c,
                                       lds, ahead);
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
