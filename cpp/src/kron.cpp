// Mode products of a Kronecker product on the CPU (see kron.hpp).
//
// Three levels. A group of modes goes over its operand by blocks that stay in the second-level
// cache: some of the leading indices, and a slab of columns where the trailing ones are many. A
// unit of neighbouring modes of a group goes over the block by pieces whose intermediate results
// stay in the first-level cache. A mode of a unit multiplies its factor into lanes, the contiguous
// entries behind it. The last mode of a single column has none: it is X F_p^T instead. Lanes that
// fill no whole panel unit are gathered from several blocks into a packed tile.
#include "lowla/kron.hpp"

#include "host_rows.hpp"

#include "lowla/core/error.hpp"

#include <cstdio>
#include <limits>

namespace lowla {
namespace {

using namespace rows;

/// Operand and result of a block stay in the second-level cache, the pieces of a unit in the first.
constexpr index kBlockBytes = index(1) << 19;
constexpr index kPieceBytes = index(1) << 15;
/// Factors up to this order have few flops an entry, and are joined into units whose pieces, with
/// the result beside the operand, take somewhat more than that cache; others half as large.
constexpr index kSmallFactor = 8;
/// Blocks below this size are not made smaller to have more of them.
constexpr index kLeastBlockBytes = index(1) << 14;
/// Blocks that a large operand has at least.
constexpr index kBlocks = 8;
/// Narrowest slab of columns and piece of a unit, in panel units.
constexpr index kSlabUnits = 4;
constexpr index kPieceUnits = 2;
/// Rows of a factor up to which its operand is read once or twice, so that packing it is no gain.
constexpr index kFewRows = 8;
/// Columns of a packed tile, in panel units.
constexpr index kTileUnits = 4;

/// Rows of lanes: `row` reals from one to the next.
template <class P> struct Rows {
  P *data;
  index row;
};

/// Falls where a product of m x n is better taken later.
double priority(index m, index n) {
  return 1.0 / static_cast<double>(m) - 1.0 / static_cast<double>(n);
}

template <class T> class Mode {
public:
  using R = real_t<T>;
  static constexpr index kUnit = simd::panel_unit<R>;
  static constexpr index kTile = kTileUnits * kUnit;
  index m, n;

  /// `by_rows`: whether a single column may have this as its last mode.
  Mode(const MatrixView<T> &F, bool by_rows) : m(F.m), n(F.n), F_(F) {
    if ((F.cs != 1 && F.rs != 1) || F.rs < 0 || F.cs < 0) {
      storage_ = Buffer<T>(m * n);
      for (index i = 0; i < m; ++i)
        for (index j = 0; j < n; ++j)
          storage_.get()[i * n + j] = *F.at(i, j);
      F_ = {storage_.get(), m, n, n, 1, F.conjugated};
    }
    by_rows_ = by_rows;
    if (by_rows && !narrow())
      transpose();
  }

  /// Y = F X on w lanes, whole panel units, of all operands of the two repeats.
  void lanes(Rows<const R> X, Rows<R> Y, index w, simd::Repeat inner,
             simd::Repeat outer = {}) const {
    simd::modes<T>().multiply(F_.data, F_.rs, F_.cs, F_.conjugated, m, n, X.data, X.row, Y.data,
                              Y.row, w, inner, outer);
  }

  /// Y(l, :, :) = F X(l, :, :) for l < left; X (left, n, right), right in reals.
  void whole(const R *X, R *Y, index left, index right) const {
    if (right == kPlanes<T> && by_rows_) {
      by_rows(X, left, Y);
      return;
    }
    const index even = right / kUnit * kUnit;
    if (even > 0)
      lanes({X, right}, {Y, right}, even, {left, n * right, m * right});
    if (even < right)
      by_tiles(X, Y, left, even, right);
  }

private:
  /// Few rows, which lie one after the other: not worth a copy padded to whole units.
  bool narrow() const { return !is_complex_v<T> && m < kUnit && F_.cs == 1 && F_.rs == n; }

  /// The real form of F^T, rows padded to whole units.
  void transpose() {
    width_ = round_up(kPlanes<T> * m, kUnit);
    right_ = Buffer<R>(kPlanes<T> * n * width_);
    std::fill(right_.get(), right_.get() + kPlanes<T> * n * width_, R(0));
    for (index j = 0; j < n; ++j)
      for (index i = 0; i < m; ++i) {
        const T value = *F_.at(i, j);
        R *row = right_.get() + kPlanes<T> * j * width_ + kPlanes<T> * i;
        row[0] = std::real(value);
        if constexpr (is_complex_v<T>) {
          const R im = F_.conjugated ? -value.imag() : value.imag();
          row[1] = im;
          row[width_] = -im;
          row[width_ + 1] = value.real();
        }
      }
  }

  /// Rows of X (left x n) times F^T.
  void by_rows(const R *X, index left, R *Y) const {
    const index depth = kPlanes<T> * n, cols = kPlanes<T> * m;
    if (narrow()) {
      simd::dense<R>().dots(X, n, left, n, reinterpret_cast<const R *>(F_.data), m, Y, {});
      return;
    }
    if (cols == width_) {
      simd::dense<R>().multiply(X, depth, left, depth, right_.get(), width_, width_, Y, width_,
                                false, {});
      return;
    }
    for (index l = 0; l < left; l += simd::kRowBlock) {
      const index rows = std::min(simd::kRowBlock, left - l);
      R *out = scratch<R>(simd::kRowBlock * width_, 2);
      simd::dense<R>().multiply(X + l * depth, depth, rows, depth, right_.get(), width_, width_,
                                out, width_, false, {});
      for (index r = 0; r < rows; ++r)
        std::copy_n(out + r * width_, cols, Y + (l + r) * cols);
    }
  }

  /// The columns (l, c), begin <= c < right, of all blocks by packed tiles.
  void by_tiles(const R *X, R *Y, index left, index begin, index right) const {
    R *tile = scratch<R>((n + m) * kTile, 2), *result = tile + n * kTile;
    const index run = right - begin, total = left * run;
    // f(reals of a row of the tile, block, its first column, reals) for the pieces of a tile
    const auto pieces = [&](index first, index count, auto &&f) {
      for (index q = 0; q < count;) {
        const index l = (first + q) / run, c = begin + (first + q) % run;
        const index length = std::min(right - c, count - q);
        f(q, l, c, length);
        q += length;
      }
    };
    for (index first = 0; first < total; first += kTile) {
      const index count = std::min(kTile, total - first), padded = round_up(count, kUnit);
      if (count < padded)
        std::fill(tile, tile + n * kTile, R(0));
      pieces(first, count, [&](index q, index l, index c, index length) {
        for (index i = 0; i < n; ++i)
          std::copy_n(X + (l * n + i) * right + c, length, tile + i * kTile + q);
      });
      lanes({tile, kTile}, {result, kTile}, padded, {});
      pieces(first, count, [&](index q, index l, index c, index length) {
        for (index i = 0; i < m; ++i)
          std::copy_n(result + i * kTile + q, length, Y + (l * m + i) * right + c);
      });
    }
  }

  MatrixView<T> F_;
  Buffer<T> storage_; ///< where the caller's strides do not serve
  bool by_rows_ = false;
  index width_ = 0;
  Buffer<R> right_;
};

/// Product of the sizes first .. last - 1.
index product(const std::vector<index> &sizes, std::size_t first, std::size_t last) {
  index out = 1;
  for (std::size_t p = first; p < last; ++p)
    out *= sizes[p];
  return out;
}

/// Columns of the factors of the modes first .. last - 1.
template <class T>
std::vector<index> sizes_of(const Mode<T> *modes, std::size_t first, std::size_t last) {
  std::vector<index> out;
  for (std::size_t p = first; p < last; ++p)
    out.push_back(modes[p].n);
  return out;
}

/// Neighbouring modes, in the order in which they are taken.
template <class T> class Unit {
public:
  using R = real_t<T>;
  std::size_t first, last; ///< places among all modes
  index in = 1, out = 1;

  Unit(const Mode<T> *modes, std::size_t p)
      : first(p), last(p + 1), in(modes[p].n), out(modes[p].m), modes_(modes), order_{p} {}

  /// Takes the mode p in, if it is a neighbour and the pieces stay small enough.
  bool join(std::size_t p) {
    if ((p + 1 != first && p != last) || last - first == kMostModes)
      return false;
    Unit larger(*this);
    larger.first = std::min(p, first);
    larger.last = std::max(p + 1, last);
    larger.in *= modes_[p].n;
    larger.out *= modes_[p].m;
    larger.order_.push_back(p);
    constexpr auto narrowest = kPieceUnits * Mode<T>::kUnit * static_cast<index>(sizeof(real_t<T>));
    const bool small = std::max(modes_[p].m, modes_[p].n) <= kSmallFactor;
    if (larger.largest() * narrowest > (small ? kPieceBytes : kPieceBytes / 2))
      return false;
    order_ = larger.order_;
    first = larger.first;
    last = larger.last;
    in = larger.in;
    out = larger.out;
    return true;
  }

  /// Y(l, :, j) = U X(l, :, j), l < left, j < after, on w lanes: whole panel units.
  void operator()(Rows<const R> X, Rows<R> Y, index left, index after, index w) const {
    const Mode<T> &mode = modes_[order_[0]];
    if (X.row == w && Y.row == w) { // the indices behind are lanes too
      w *= after;
      X.row = Y.row = w;
      after = 1;
    }
    constexpr auto item = static_cast<index>(sizeof(R));
    const bool single = order_.size() == 1;
    const bool copied = mode.m > simd::kModeRows && simd::crowded(after * X.row * item, mode.n);
    if (single && !copied) {
      mode.lanes({X.data, after * X.row}, {Y.data, after * Y.row}, w, {after, X.row, Y.row},
                 {left, in * after * X.row, out * after * Y.row});
      return;
    }
    constexpr index unit = Mode<T>::kUnit;
    const index widest = std::max(kPieceUnits, kPieceBytes / (largest() * item) / unit) * unit;
    const index width = std::min(w, widest);
    R *buffers[2] = {scratch<R>(2 * largest() * width, 3), nullptr};
    buffers[1] = buffers[0] + largest() * width;
    const index slabs = (w + width - 1) / width, pieces = left * after * slabs;
    for (index t = 0; t < pieces; ++t) {
      const index lane = t % slabs * width, j = t / slabs % after, l = t / slabs / after;
      Rows<const R> x{X.data + (l * in * after + j) * X.row + lane, after * X.row};
      const Rows<R> y{Y.data + (l * out * after + j) * Y.row + lane, after * Y.row};
      const index taken = std::min(width, w - lane);
      if (copied) {
        for (index i = 0; i < in; ++i)
          std::copy_n(x.data + i * x.row, taken, buffers[1] + i * taken);
        x = {buffers[1], taken};
      }
      piece(x, y, taken, buffers);
    }
  }

private:
  static constexpr std::size_t kMostModes = 8;

  /// Rows of the largest array on the way.
  index largest() const {
    std::vector<index> sizes = sizes_of(modes_, first, last);
    index most = product(sizes, 0, sizes.size());
    for (std::size_t p : order_) {
      sizes[p - first] = modes_[p].m;
      most = std::max(most, product(sizes, 0, sizes.size()));
    }
    return most;
  }

  void piece(Rows<const R> x, Rows<R> y, index w, R *const *buffers) const {
    index sizes[kMostModes];
    for (std::size_t p = first; p < last; ++p)
      sizes[p - first] = modes_[p].n;
    for (std::size_t k = 0; k < order_.size(); ++k) {
      const Mode<T> &mode = modes_[order_[k]];
      const std::size_t place = order_[k] - first;
      index before = 1, after = 1;
      for (std::size_t q = 0; q < place; ++q)
        before *= sizes[q];
      for (std::size_t q = place + 1; q < last - first; ++q)
        after *= sizes[q];
      const bool done = k + 1 == order_.size();
      const Rows<R> to = done ? y : Rows<R>{buffers[k % 2], w};
      mode.lanes({x.data, after * x.row}, {to.data, after * to.row}, w, {after, x.row, to.row},
                 {before, mode.n * after * x.row, mode.m * after * to.row});
      sizes[place] = mode.m;
      x = {to.data, to.row};
    }
  }

  const Mode<T> *modes_;
  std::vector<std::size_t> order_;
};

/// Some neighbouring modes.
template <class T> class Group {
public:
  using R = real_t<T>;

  Group(const Mode<T> *modes, std::size_t first, std::size_t last)
      : modes_(modes), first_(first), last_(last) {
    std::vector<index> sizes = sizes_of(modes, first, last);
    for (std::size_t p = last; p-- > first;)
      order_.push_back(p);
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      return priority(modes[a].m, modes[a].n) > priority(modes[b].m, modes[b].n);
    });
    largest_ = in();
    for (std::size_t p : order_) {
      flops_ +=
          2.0 * static_cast<double>(product(sizes, 0, sizes.size()) * modes[p].m) * kPlanes<T>;
      sizes[p - first] = modes[p].m;
      largest_ = std::max(largest_, product(sizes, 0, sizes.size()));
      if (units_.empty() || !units_.back().join(p))
        units_.emplace_back(modes, p);
    }
  }

  std::size_t first() const { return first_; }
  std::size_t last() const { return last_; }
  index in() const { return size(&Mode<T>::n); }
  index out() const { return size(&Mode<T>::m); }

  /// X is an array (left, n_1, ..., n_k, right), right in reals, and Y (left, m_1, ..., right). It
  /// may be X where the group is square.
  void operator()(const R *X, R *Y, index left, index right) const {
    constexpr auto item = static_cast<index>(sizeof(R));
    constexpr index unit = Mode<T>::kUnit;
    const index bytes = largest_ * right * item;
    const index room = std::clamp(bytes * left / kBlocks, kLeastBlockBytes, kBlockBytes);
    // A slab of the columns where even one leading index is too much, else several of these.
    index width = right;
    constexpr index narrowest = kSlabUnits * unit;
    if (bytes > room && right >= 2 * narrowest)
      width = std::clamp(room / (largest_ * item) / unit * unit, narrowest, right);
    const index slabs = (right + width - 1) / width;
    const index together =
        slabs > 1 ? 1 : std::clamp<index>(room / std::max<index>(1, bytes), 1, left);
    const index blocks = (left + together - 1) / together;
    const double work = flops_ * static_cast<double>(left * right);
    const RowChunks chunks(blocks * slabs, chunks_for(work, 64), 1);
    parallel_for(chunks.count, [&](index c) {
      for (index task = chunks.first(c); task < chunks.last(c); ++task) {
        const index l = task / slabs * together, column = task % slabs * width;
        block({X + l * in() * right + column, right}, {Y + l * out() * right + column, right},
              std::min(together, left - l), std::min(width, right - column), slabs > 1);
      }
    });
  }

private:
  index size(index Mode<T>::*side) const {
    index out = 1;
    for (std::size_t p = first_; p < last_; ++p)
      out *= modes_[p].*side;
    return out;
  }

  /// `left` leading indices and `w` columns, with `slab` some of all. A slab is packed first where
  /// it is read more than twice, one unit wider: rows a power of two apart, as they often are,
  /// share a few cache sets.
  void block(Rows<const R> X, Rows<R> Y, index left, index w, bool slab) const {
    const bool even = w % Mode<T>::kUnit == 0, in_place = X.data == Y.data;
    const index row = slab && even ? w + Mode<T>::kUnit : w, size = left * largest_ * row;
    const bool packed = slab && modes_[order_[0]].m > kFewRows &&
                        size * static_cast<index>(sizeof(R)) <= 2 * kBlockBytes;
    R *buffers[2] = {nullptr, nullptr};
    if (order_.size() > 1 || packed || in_place || (slab && !even)) {
      const index room = round_up(size, Mode<T>::kUnit) + Mode<T>::kUnit;
      buffers[0] = scratch<R>(2 * room, 1);
      buffers[1] = buffers[0] + room;
    }
    if (!even) {
      ragged(X, Y, left, w, buffers);
      return;
    }
    std::vector<index> sizes = sizes_of(modes_, first_, last_);
    int next = 0;
    if (packed || (in_place && units_.size() == 1)) {
      copy_rows(X, {buffers[1], row}, left * in(), w);
      X = {buffers[1], row};
    }
    for (std::size_t k = 0; k < units_.size(); ++k) {
      const Unit<T> &unit = units_[k];
      const Rows<R> to = k + 1 == units_.size() ? Y : Rows<R>{buffers[next], row};
      unit(X, to, left * product(sizes, 0, unit.first - first_),
           product(sizes, unit.last - first_, sizes.size()), w);
      for (std::size_t p = unit.first; p < unit.last; ++p)
        sizes[p - first_] = modes_[p].m;
      X = {to.data, to.row};
      next = 1 - next;
    }
  }

  /// Where the columns fill no whole unit: packed, and mode by mode.
  void ragged(Rows<const R> X, Rows<R> Y, index left, index w, R *const *buffers) const {
    std::vector<index> sizes = sizes_of(modes_, first_, last_);
    int next = 0;
    if (X.row != w || X.data == Y.data) {
      copy_rows(X, {buffers[0], w}, left * in(), w);
      X = {buffers[0], w};
      next = 1;
    }
    for (std::size_t k = 0; k < order_.size(); ++k) {
      const std::size_t p = order_[k], place = p - first_;
      R *target = k + 1 == order_.size() && Y.row == w ? Y.data : buffers[next];
      modes_[p].whole(X.data, target, left * product(sizes, 0, place),
                      product(sizes, place + 1, sizes.size()) * w);
      sizes[place] = modes_[p].m;
      X = {target, w};
      next = 1 - next;
    }
    if (Y.row != w)
      copy_rows(X, Y, left * out(), w);
  }

  static void copy_rows(Rows<const R> X, Rows<R> Y, index rows, index w) {
    for (index i = 0; i < rows; ++i)
      std::copy_n(X.data + i * X.row, w, Y.data + i * Y.row);
  }

  const Mode<T> *modes_;
  std::size_t first_, last_;
  std::vector<std::size_t> order_;
  std::vector<Unit<T>> units_;
  index largest_ = 1;
  double flops_ = 0; ///< a real of the columns and leading index
};

} // namespace

template <class T>
void kron_multiply(const std::vector<MatrixView<T>> &factors, const T *X, index columns,
                   bool columns_first, T *Y) {
  using R = real_t<T>;
  constexpr auto item = static_cast<index>(sizeof(R));
  const index before = columns_first ? columns : 1;
  const index after = kPlanes<T> * (columns_first ? 1 : columns);
  std::vector<Mode<T>> modes;
  std::vector<index> sizes;
  modes.reserve(factors.size());
  for (std::size_t p = 0; p < factors.size(); ++p) {
    const bool last =
        std::all_of(factors.begin() + static_cast<std::ptrdiff_t>(p) + 1, factors.end(),
                    [](const MatrixView<T> &F) { return std::min(F.m, F.n) == 1; });
    modes.emplace_back(factors[p], last && after == kPlanes<T>);
    sizes.push_back(factors[p].n);
  }
  const std::size_t count = modes.size();
  // Groups as large as their blocks allow, in the order of least flops, else from the last one on.
  std::vector<Group<T>> groups;
  index left = before * product(sizes, 0, count), right = after;
  for (std::size_t last = count; last > 0;) {
    const index lanes = std::min(right, kSlabUnits * Mode<T>::kUnit);
    std::size_t first = last - 1;
    index n = modes[first].n, m = modes[first].m;
    const index limit = std::clamp(left * right * item / kBlocks, kLeastBlockBytes, kBlockBytes);
    while (first > 0 &&
           std::max(n * modes[first - 1].n, m * modes[first - 1].m) * lanes * item <= limit) {
      --first;
      n *= modes[first].n;
      m *= modes[first].m;
    }
    groups.emplace_back(modes.data(), first, last);
    left /= n;
    right *= m;
    last = first;
  }
  std::stable_sort(groups.begin(), groups.end(), [](const Group<T> &a, const Group<T> &b) {
    return priority(a.out(), a.in()) > priority(b.out(), b.in());
  });
  // After the first group the others work in Y where they are square, else from buffer to buffer.
  const bool in_place = std::all_of(groups.begin() + 1, groups.end(), [](const Group<T> &group) {
    return group.in() == group.out();
  });
  const R *source = reinterpret_cast<const R *>(X);
  Buffer<R> buffers[2];
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Group<T> &group = groups[g];
    left = before * product(sizes, 0, group.first());
    right = after * product(sizes, group.last(), count);
    R *target = reinterpret_cast<R *>(Y);
    if (g + 1 < groups.size() && !in_place) {
      buffers[g % 2] = Buffer<R>(left * group.out() * right);
      target = buffers[g % 2].get();
    }
    group(source, target, left, right);
    for (std::size_t p = group.first(); p < group.last(); ++p)
      sizes[p] = modes[p].m;
    source = target;
  }
}

template <class R>
std::vector<R> shifted_eigenvalues(const std::vector<std::vector<R>> &w, R shift) {
  std::vector<R> values{R(1)};
  index orders = 0;
  for (const std::vector<R> &factor : w) {
    std::vector<R> longer;
    longer.reserve(values.size() * factor.size());
    for (const R value : values)
      for (const R more : factor)
        longer.push_back(value * more);
    values = std::move(longer);
    orders += static_cast<index>(factor.size());
  }
  R largest = std::abs(shift), smallest = std::numeric_limits<R>::infinity();
  for (R &value : values) {
    largest = std::max(largest, std::abs(value));
    value += shift;
    smallest = std::min(smallest, std::abs(value));
  }
  if (!(smallest > static_cast<R>(orders) * std::numeric_limits<R>::epsilon() * largest)) {
    char text[160];
    std::snprintf(text, sizeof text,
                  "the shifted matrix is singular to working precision: an eigenvalue of magnitude "
                  "%.1e beside %.1e",
                  static_cast<double>(smallest), static_cast<double>(largest));
    throw LinAlgError(text);
  }
  return values;
}

template <class T>
void kron_solve_shifted(const std::vector<std::vector<real_t<T>>> &w,
                        const std::vector<MatrixView<T>> &V, real_t<T> shift, const T *B,
                        index columns, bool columns_first, T *X) {
  const std::vector<real_t<T>> values = shifted_eigenvalues(w, shift);
  std::vector<MatrixView<T>> adjoint;
  for (const MatrixView<T> &F : V)
    adjoint.push_back(F.adjoint());
  const auto n = static_cast<index>(values.size());
  Buffer<T> Y(n * columns);
  kron_multiply(adjoint, B, columns, columns_first, Y.get());
  const index runs = columns_first ? columns : n, length = columns_first ? n : columns;
  const RowChunks chunks(runs, chunks_for(static_cast<double>(n * columns), 64), 1);
  parallel_for(chunks.count, [&](index c) {
    for (index i = chunks.first(c); i < chunks.last(c); ++i) {
      T *row = Y.get() + i * length;
      if (columns_first)
        for (index j = 0; j < length; ++j)
          row[j] /= values[j];
      else
        for (index j = 0; j < length; ++j)
          row[j] /= values[i];
    }
  });
  kron_multiply(V, Y.get(), columns, columns_first, X);
}

template std::vector<float> shifted_eigenvalues(const std::vector<std::vector<float>> &, float);
template std::vector<double> shifted_eigenvalues(const std::vector<std::vector<double>> &, double);
#define LOWLA_INSTANTIATE(T)                                                                       \
  template void kron_multiply(const std::vector<MatrixView<T>> &, const T *, index, bool, T *);    \
  template void kron_solve_shifted(const std::vector<std::vector<real_t<T>>> &,                    \
                                   const std::vector<MatrixView<T>> &, real_t<T>, const T *,       \
                                   index, bool, T *);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
