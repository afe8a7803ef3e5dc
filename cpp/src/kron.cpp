// Mode products of a Kronecker product on the CPU (see kron.hpp).
//
// A group of modes goes over its operand by blocks: some of the leading indices, and a slab of
// columns where the trailing ones are many. Where a mode has a cache line of entries behind it, its
// product is that of the tall-skinny kernels with F_p as the left factor. The last mode of a single
// column is X F_p^T instead. What is left, and complex factors, goes through a packed tile whose
// columns come from several blocks; a complex product is the real one [Re F | Im F] [X; i X].
#include "lowla/kron.hpp"

#include "host_rows.hpp"

namespace lowla {
namespace {

using namespace rows;

/// Operand and result of a block stay in the second-level cache; a mode's own rows in the first.
constexpr index kBlockBytes = index(1) << 18;
/// Blocks below this size are not made smaller to have more of them.
constexpr index kLeastBlockBytes = index(1) << 14;
/// Blocks that a large operand has at least.
constexpr index kBlocks = 8;
/// Narrowest slab of columns, in panel units: runs of several cache lines.
constexpr index kSlabUnits = 8;
/// Columns of a packed tile, in panel units.
constexpr index kTileUnits = 4;

template <class T> class Mode {
public:
  using R = real_t<T>;
  static constexpr index kUnit = simd::panel_unit<R>;
  static constexpr index kTile = kTileUnits * kUnit;
  index m, n;

  explicit Mode(const MatrixView<T> &F)
      : m(F.m), n(F.n), left_(m * kPlanes<T> * n), width_(round_up(kPlanes<T> * m, kUnit)),
        right_(kPlanes<T> * n * width_) {
    std::fill(right_.get(), right_.get() + kPlanes<T> * n * width_, R(0));
    const R flip = F.conjugated ? R(-1) : R(1);
    for (index i = 0; i < m; ++i)
      for (index j = 0; j < n; ++j) {
        const T value = *F.at(i, j);
        const R re = std::real(value);
        left_.get()[i * kPlanes<T> * n + j] = re;
        R *row = right_.get() + kPlanes<T> * j * width_ + kPlanes<T> * i;
        row[0] = re;
        if constexpr (is_complex_v<T>) {
          const R im = flip * std::imag(value);
          left_.get()[i * 2 * n + n + j] = im;
          row[1] = im;
          row[width_] = -im;
          row[width_ + 1] = re;
        }
      }
  }

  /// Falls where a mode is better taken later.
  double priority() const { return 1.0 / static_cast<double>(m) - 1.0 / static_cast<double>(n); }

  /// Y(l, :, :) = F X(l, :, :) for l < left; X (left, n, right), right in reals.
  void apply(const R *X, R *Y, index left, index right) const {
    if (right == kPlanes<T>) {
      by_rows(X, left, Y);
      return;
    }
    const index whole = is_complex_v<T> ? 0 : right / kUnit * kUnit;
    if (whole > 0)
      for (index l = 0; l < left; ++l)
        simd::dense<R>().multiply(left_.get(), n, m, n, X + l * n * right, right, whole,
                                  Y + l * m * right, right, false, {});
    if (whole < right)
      by_tiles(X, Y, left, whole, right);
  }

  /// The same for a slab of w columns, whole panel units, of rows `x_row` and `y_row` reals apart:
  /// Y(l, :, j) = F X(l, :, j) for l < left, j < after. Real F only.
  void apply_slab(const R *X, index x_row, R *Y, index y_row, index left, index after,
                  index w) const {
    for (index l = 0; l < left; ++l)
      for (index j = 0; j < after; ++j)
        simd::dense<R>().multiply(left_.get(), n, m, n, X + (l * n * after + j) * x_row,
                                  after * x_row, w, Y + (l * m * after + j) * y_row, after * y_row,
                                  false, {});
  }

private:
  /// Rows of X (left x n) times F^T.
  void by_rows(const R *X, index left, R *Y) const {
    const index depth = kPlanes<T> * n, cols = kPlanes<T> * m;
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
    R *tile = scratch<R>((kPlanes<T> * n + m) * kTile, 2), *result = tile + kPlanes<T> * n * kTile;
    const index run = right - begin, total = left * run;
    for (index first = 0; first < total; first += kTile) {
      const index count = std::min(kTile, total - first), padded = round_up(count, kUnit);
      if (count < padded)
        std::fill(tile, tile + kPlanes<T> * n * kTile, R(0));
      for (index q = 0; q < count;) {
        const index l = (first + q) / run, c = begin + (first + q) % run;
        const index length = std::min(right - c, count - q);
        const R *x = X + l * n * right + c;
        for (index i = 0; i < n; ++i, x += right)
          for (index k = 0; k < length; ++k) {
            tile[i * kTile + q + k] = x[k];
            if constexpr (is_complex_v<T>) // i X: pairs begin at even c
              tile[(n + i) * kTile + q + k] = (k & 1) != 0 ? x[k - 1] : -x[k + 1];
          }
        q += length;
      }
      simd::dense<R>().multiply(left_.get(), kPlanes<T> * n, m, kPlanes<T> * n, tile, kTile, padded,
                                result, kTile, false, {});
      for (index q = 0; q < count;) {
        const index l = (first + q) / run, c = begin + (first + q) % run;
        const index length = std::min(right - c, count - q);
        R *y = Y + l * m * right + c;
        for (index i = 0; i < m; ++i, y += right)
          std::copy_n(result + i * kTile + q, length, y);
        q += length;
      }
    }
  }

  Buffer<R> left_; ///< [Re F | Im F]
  index width_;
  Buffer<R> right_; ///< the real form of F^T, rows padded to whole units
};

/// Some neighbouring modes of an array (left, n_1, ..., n_k, right), right in reals.
template <class T> class Group {
public:
  using R = real_t<T>;

  Group(const std::vector<Mode<T>> &modes, std::size_t first, std::size_t last, index right)
      : modes_(modes), first_(first), last_(last), right_(right) {
    std::vector<index> sizes;
    for (std::size_t p = first; p < last; ++p) {
      order_.push_back(p);
      sizes.push_back(modes[p].n);
    }
    std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
      return modes[a].priority() > modes[b].priority();
    });
    largest_ = product(sizes);
    for (std::size_t p : order_) {
      flops_ += 2.0 * static_cast<double>(product(sizes) * modes[p].m * kPlanes<T>);
      sizes[p - first] = modes[p].m;
      largest_ = std::max(largest_, product(sizes));
    }
  }

  index right() const { return right_; }
  index in() const { return size(&Mode<T>::n); }
  index out() const { return size(&Mode<T>::m); }

  /// Y may be X where the group is square.
  void operator()(const R *X, R *Y, index left) const {
    constexpr auto item = static_cast<index>(sizeof(R));
    constexpr index unit = Mode<T>::kUnit;
    const index bytes = largest_ * right_ * item;
    const index room = std::clamp(bytes * left / kBlocks, kLeastBlockBytes, kBlockBytes);
    // A slab of the columns where even one leading index is too much, else several of these.
    index width = right_;
    constexpr index narrowest = kSlabUnits * unit;
    if (bytes > room && right_ >= 2 * narrowest)
      width = std::clamp(room / (largest_ * item) / unit * unit, narrowest, right_);
    const index slabs = (right_ + width - 1) / width;
    const index together =
        slabs > 1 ? 1 : std::clamp<index>(room / std::max<index>(1, bytes), 1, left);
    const index blocks = (left + together - 1) / together;
    const double work = flops_ * static_cast<double>(left * right_);
    const RowChunks chunks(blocks * slabs, chunks_for(work, 64), 1);
    parallel_for(chunks.count, [&](index c) {
      for (index task = chunks.first(c); task < chunks.last(c); ++task) {
        const index l = task / slabs * together, column = task % slabs * width;
        block(X + l * in() * right_ + column, Y + l * out() * right_ + column,
              std::min(together, left - l), std::min(width, right_ - column));
      }
    });
  }

private:
  static index product(const std::vector<index> &sizes) {
    index out = 1;
    for (index s : sizes)
      out *= s;
    return out;
  }
  index size(index Mode<T>::*side) const {
    index out = 1;
    for (std::size_t p = first_; p < last_; ++p)
      out *= modes_[p].*side;
    return out;
  }

  /// `left` leading indices and `w` columns. A slab of the columns is packed first: rows a power of
  /// two apart, as they often are, would share a few cache sets.
  void block(const R *X, R *Y, index left, index w) const {
    std::vector<index> sizes;
    for (std::size_t p = first_; p < last_; ++p)
      sizes.push_back(modes_[p].n);
    const bool slab = w < right_, lines = !is_complex_v<T> && w % Mode<T>::kUnit == 0;
    const bool read_packed = slab || X == Y;
    const bool write_packed = slab && !lines;
    const index room = left * largest_ * w;
    R *buffers[2] = {nullptr, nullptr};
    if (read_packed || write_packed || order_.size() > 1) {
      buffers[0] = scratch<R>(2 * room + 2 * Mode<T>::kUnit, 1);
      buffers[1] = buffers[0] + round_up(room, Mode<T>::kUnit) + Mode<T>::kUnit;
    }
    int next = 0;
    index row = right_; // of X
    if (read_packed) {
      copy_rows(X, right_, left * in(), w, buffers[0], w);
      X = buffers[0];
      row = w;
      next = 1;
    }
    for (std::size_t k = 0; k < order_.size(); ++k) {
      const std::size_t p = order_[k];
      const bool to_Y = k + 1 == order_.size() && !write_packed;
      R *target = to_Y ? Y : buffers[next];
      const index target_row = to_Y ? right_ : w;
      index before = left, after = 1;
      for (std::size_t q = first_; q < p; ++q)
        before *= sizes[q - first_];
      for (std::size_t q = p + 1; q < last_; ++q)
        after *= sizes[q - first_];
      if (row == w && target_row == w)
        modes_[p].apply(X, target, before, after * w);
      else
        modes_[p].apply_slab(X, row, target, target_row, before, after, w);
      sizes[p - first_] = modes_[p].m;
      X = target;
      row = target_row;
      next = 1 - next;
    }
    if (write_packed)
      copy_rows(X, w, left * out(), w, Y, right_);
  }

  static void copy_rows(const R *X, index ldx, index rows, index w, R *Y, index ldy) {
    for (index i = 0; i < rows; ++i)
      std::copy_n(X + i * ldx, w, Y + i * ldy);
  }

  const std::vector<Mode<T>> &modes_;
  std::size_t first_, last_;
  index right_;
  std::vector<std::size_t> order_;
  index largest_ = 1;
  double flops_ = 0; ///< a real of the columns and leading index
};

} // namespace

template <class T>
void kron_multiply(const std::vector<MatrixView<T>> &factors, const T *X, index columns,
                   bool columns_first, T *Y) {
  using R = real_t<T>;
  std::vector<Mode<T>> modes;
  modes.reserve(factors.size());
  for (const MatrixView<T> &F : factors)
    modes.emplace_back(F);
  constexpr auto item = static_cast<index>(sizeof(R));
  index left = columns_first ? columns : 1, right = kPlanes<T> * (columns_first ? 1 : columns);
  for (const Mode<T> &mode : modes)
    left *= mode.n;
  const index all = left;
  // Groups from the last mode on, as large as their blocks allow.
  std::vector<Group<T>> groups;
  for (std::size_t last = modes.size(); last > 0;) {
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
    groups.emplace_back(modes, first, last, right);
    left /= n;
    right *= m;
    last = first;
  }
  // After the first group the others work in Y where they are square, else from buffer to buffer.
  const bool in_place = std::all_of(groups.begin() + 1, groups.end(), [](const Group<T> &group) {
    return group.in() == group.out();
  });
  const R *source = reinterpret_cast<const R *>(X);
  Buffer<R> buffers[2];
  left = all;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    left /= groups[g].in();
    R *target = reinterpret_cast<R *>(Y);
    if (g + 1 < groups.size() && !in_place) {
      buffers[g % 2] = Buffer<R>(left * groups[g].out() * groups[g].right());
      target = buffers[g % 2].get();
    }
    groups[g](source, target, left);
    source = target;
  }
}

#define LOWLA_INSTANTIATE(T)                                                                       \
  template void kron_multiply(const std::vector<MatrixView<T>> &, const T *, index, bool, T *);
LOWLA_INSTANTIATE(float)
LOWLA_INSTANTIATE(double)
LOWLA_INSTANTIATE(std::complex<float>)
LOWLA_INSTANTIATE(std::complex<double>)
#undef LOWLA_INSTANTIATE

} // namespace lowla
