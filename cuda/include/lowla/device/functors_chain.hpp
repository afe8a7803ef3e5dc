// Chains of products with small matrices on tiles in shared memory: one kernel for Kronecker
// products, Monarch matrices and Fourier transforms, all of which are
//   y(o, i, e) = sum_j F_o(i, j) x(o, j, e)
// one after another, with their own places of (o, j, e) in the array.
//
// A tile is some lines (leading indices), all rows of each, and a slab of columns. It is read once
// and written once, whatever the number of products (as in FastKron: Jangda and Yadav, "Fast
// Kronecker matrix-matrix multiplication on GPUs", PPoPP 2024; FlashFFTConv: Fu et al.,
// arXiv:2311.05908). Where the columns are contiguous the first product reads the operand and the
// last one writes the result; else whole tiles are copied, neighbouring threads at neighbouring
// entries. A thread computes a register tile. A pad after every 32 entries keeps rows a power of
// two apart in different banks of shared memory.
#pragma once

#include "lowla/device/number.hpp"
#include "lowla/device/runtime.hpp"

namespace lowla::functors {

/// Entry g of a line, in column c, of what a chain reads: data[line l + step (row g + column c)],
/// zero from real number `limit` of the line on. With step 1 complex entries are read from a real
/// array; a complex entry may straddle the limit.
template <class T> struct Operand {
  const real_t<T> *data;
  index line, row, column;
  index limit;
  int step = Entry<T>::kReals;

  LOWLA_HD Operand at(index l, index c) const {
    Operand out = *this;
    out.data += l * line;
    out.first = c * column;
    return out;
  }
  /// Row r counted through the lines, which follow each other there; all of it within the limit.
  LOWLA_HD auto get(int r, int c) const {
    return Entry<T>::load(data, first + r * row + c * column);
  }
  LOWLA_HD auto get(int l, int g, int c) const {
    const index i = step * (first + g * row + c * column);
    const real_t<T> *x = data + l * line;
    if constexpr (is_complex_v<T>)
      return Pair<real_t<T>>{i < limit ? x[i] : real_t<T>(0),
                             step == 2 && i + 1 < limit ? x[i + 1] : real_t<T>(0)};
    else
      return i < limit ? x[i] : T(0);
  }

  index first = 0;
};

/// The same of what a chain writes; nothing from `limit` on. Columns may lie in runs of `run`,
/// `major` entries apart (0: one run).
template <class T> struct Result {
  real_t<T> *data;
  index line, row, column;
  index limit;
  index run = 0, major = 0;

  LOWLA_HD Result at(index l, index c) const {
    Result out = *this;
    out.data += l * line;
    out.first = c;
    return out;
  }
  LOWLA_HD index place(int c) const {
    const index j = first + c;
    return run == 0 ? j * column : j / run * major + j % run * column;
  }
  template <class Number> LOWLA_HD void put(int r, int c, Number x) const {
    Entry<T>::store(data, r * row + place(c), x);
  }
  template <class Number> LOWLA_HD void put(int l, int g, int c, Number x) const {
    const index i = Entry<T>::kReals * (g * row + place(c));
    real_t<T> *y = data + l * line;
    if constexpr (is_complex_v<T>) {
      if (i < limit)
        y[i] = x.re;
      if (i + 1 < limit)
        y[i + 1] = x.im;
    } else if (i < limit) {
      y[i] = x;
    }
  }

  index first = 0;
};

/// A tile in shared memory, row by row.
template <class T> struct Tile {
  real_t<T> *data;
  int width;
  static LOWLA_HD index padded(index i) { return i + i / 32; }
  LOWLA_HD index place(int r, int c) const { return padded(r * width + c); }
  LOWLA_HD auto get(int r, int c) const { return Entry<T>::load(data, place(r, c)); }
  template <class Number> LOWLA_HD void put(int r, int c, Number x) const {
    Entry<T>::store(data, place(r, c), x);
  }
};

/// y(i) = sum_j F_o(i, j) x(j), x(j) in row o in_outer + e + j in_row of a line, o < outers and
/// e < after, and y(i) alike; times roots[twiddle o i] unless twiddle is 0.
template <class T> struct Stage {
  using R = real_t<T>;
  const R *F;                ///< F_o(i, j) at o matrix + i row + j column
  index matrix, row, column; ///< in entries
  bool conjugate;
  int m, n, outers, after;
  int in_outer, in_row, out_outer, out_row;
  index twiddle = 0;

  LOWLA_HD int rows_in() const { return outers * n * after; }
  LOWLA_HD int rows_out() const { return outers * m * after; }

  /// What one thread does for `lines` lines of `width` columns.
  template <class In, class Out>
  LOWLA_HD void operator()(int thread, int lines, int width, const In &x, const Out &y,
                           const R *roots) const {
    // The register tile: two blocks of threads share the registers of a multiprocessor.
    constexpr int kRows = 8 / Entry<T>::kReals, kColumns = sizeof(T) == 4 ? 4 : 2;
    using Number = typename Entry<T>::Number;
    const int chunks = (m + kRows - 1) / kRows, columns = after * width;
    const int step = (columns + kColumns - 1) / kColumns;
    for (int task = thread; task < lines * outers * chunks * step; task += kBlockThreads) {
      const int q = task % step, batch = task / step / chunks, o = batch % outers;
      const int first = task / step % chunks * kRows;
      const int x_row = batch / outers * rows_in() + o * in_outer;
      const int y_row = batch / outers * rows_out() + o * out_outer;
      index f_row[kRows];
      int e[kColumns], c[kColumns];
      Number sum[kRows][kColumns];
      for (int r = 0; r < kRows; ++r)
        f_row[r] = o * matrix + (first + r < m ? first + r : m - 1) * row;
      for (int k = 0; k < kColumns; ++k) {
        const int p = q + k * step < columns ? q + k * step : columns - 1;
        e[k] = p / width;
        c[k] = p % width;
        for (int r = 0; r < kRows; ++r)
          sum[r][k] = Entry<T>::make(R(0));
      }
      for (int j = 0; j < n; ++j) {
        Number xs[kColumns];
        for (int k = 0; k < kColumns; ++k)
          xs[k] = x.get(x_row + e[k] + j * in_row, c[k]);
        for (int r = 0; r < kRows; ++r) {
          Number f = Entry<T>::load(F, f_row[r] + j * column);
          if (conjugate)
            f = Entry<T>::conjugate(f);
          for (int k = 0; k < kColumns; ++k)
            sum[r][k] = sum[r][k] + f * xs[k];
        }
      }
      for (int r = 0; r < kRows; ++r)
        for (int k = 0; k < kColumns; ++k)
          if (first + r < m && q + k * step < columns) {
            if (twiddle != 0)
              sum[r][k] = sum[r][k] * Entry<T>::load(roots, twiddle * o * (first + r));
            y.put(y_row + e[k] + (first + r) * out_row, c[k], sum[r][k]);
          }
    }
  }
};

/// Block by block, a tile through all stages.
template <class T> struct Chain {
  using R = real_t<T>;
  static constexpr int kMost = 8;
  Stage<T> stage[kMost];
  int stages = 0;
  Operand<T> X;
  Result<T> Y;
  index lines, columns;
  int lines_of_tile = 1, width = 1;
  bool load, store;         ///< whether tiles are copied at the beginning, and at the end
  index second = 0;         ///< where the second of the two buffers begins
  const R *roots = nullptr; ///< roots of unity of the order of the whole transform
  index twist = 0;          ///< unless 0: y in row g of run o is multiplied by roots[twist o g]

  LOWLA_HD index slabs() const { return (columns + width - 1) / width; }
  LOWLA_HD index blocks() const { return (lines + lines_of_tile - 1) / lines_of_tile * slabs(); }
  LOWLA_HD int phases() const { return stages + (load ? 1 : 0) + (store ? 1 : 0); }

  LOWLA_HD void operator()(int phase, index block, int thread, void *shared) const {
    const index line = block / slabs() * lines_of_tile, column = block % slabs() * width;
    const index left = lines - line, right = columns - column;
    const int l = left < lines_of_tile ? static_cast<int>(left) : lines_of_tile;
    const int w = right < width ? static_cast<int>(right) : width;
    const auto x = X.at(line, column);
    const auto y = Y.at(line, column);
    const int s = phase - (load ? 1 : 0);
    const Tile<T> from = tile(shared, phase + 1, w), to = tile(shared, phase, w);
    if (s < 0)
      return read(thread, l, w, x, to);
    if (s == stages)
      return write(thread, l, w, column, from, y);
    const bool reads = s == 0 && !load, writes = s + 1 == stages && !store;
    if (reads && writes)
      stage[s](thread, l, w, x, y, roots);
    else if (reads)
      stage[s](thread, l, w, x, to, roots);
    else if (writes)
      stage[s](thread, l, w, from, y, roots);
    else
      stage[s](thread, l, w, from, to, roots);
  }

private:
  LOWLA_HD Tile<T> tile(void *shared, int number, int w) const {
    return {static_cast<R *>(shared) + Entry<T>::kReals * (number % 2 == 0 ? 0 : second), w};
  }
  LOWLA_HD void read(int thread, int l, int w, const Operand<T> &x, const Tile<T> &to) const {
    const int rows = stage[0].rows_in();
    const bool by_rows = x.row * x.row < x.column * x.column && w > 1;
    for (int i = thread; i < l * rows * w; i += kBlockThreads) {
      const int c = by_rows ? i / rows % w : i % w;
      const int g = by_rows ? i % rows : i / w % rows;
      const int of_line = i / (rows * w);
      to.put(of_line * rows + g, c, x.get(of_line, g, c));
    }
  }
  LOWLA_HD void write(int thread, int l, int w, index column, const Tile<T> &from,
                      const Result<T> &y) const {
    const int rows = stage[stages - 1].rows_out();
    const bool by_rows = y.row < (y.run == 1 ? y.major : y.column) && w > 1;
    for (int i = thread; i < l * rows * w; i += kBlockThreads) {
      const int c = by_rows ? i / rows % w : i % w;
      const int g = by_rows ? i % rows : i / w % rows;
      const int of_line = i / (rows * w);
      auto value = from.get(of_line * rows + g, c);
      if (twist != 0)
        value = value * Entry<T>::load(roots, twist * ((column + c) / y.run) * g);
      y.put(of_line, g, c, value);
    }
  }
};

/// Blocks with any strides as contiguous ones by rows.
template <class T> struct PackBlocks {
  const real_t<T> *F;
  index block, row, column;
  bool conjugate;
  index m, n;
  real_t<T> *out;
  LOWLA_HD void operator()(index task) const {
    const index b = task / (m * n), i = task / n % m, j = task % n;
    auto x = Entry<T>::load(F, b * block + i * row + j * column);
    if (conjugate)
      x = Entry<T>::conjugate(x);
    Entry<T>::store(out, task, x);
  }
};

} // namespace lowla::functors
