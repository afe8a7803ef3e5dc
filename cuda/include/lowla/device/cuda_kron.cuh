// Kronecker and Monarch products on the GPU (see kron.hpp and monarch.hpp for what is computed).
//
// Neighbouring small factors of a Kronecker product go through shared memory as one chain
// (device/functors_chain.hpp), which reads its operand and writes its result once. A larger factor
// is a strided-batched product. Groups and the factors in a group are taken in the order of least
// flops. Memory: two arrays of at most the larger of X and Y.
//
// The two stages of a Monarch product are a chain where a slab of columns fits in shared memory and
// there are slabs for all of the device; else two strided-batched products with the array between
// them in memory. The permutations are strides in both.
#pragma once

#include "lowla/device/cuda_chain.cuh"
#include "lowla/device/cuda_panels.cuh"

#include <numeric>

namespace lowla {
namespace cuda_detail {

/// Sides of factors up to which they join a chain.
constexpr index kSmallSide = 64;
/// Slabs from which the stages of a Monarch product are fused.
constexpr index kFusedSlabs = 64;

/// Rows of an array as products take them: row j of block b at b block + j row, columns contiguous.
struct RowPlaces {
  index block, row;
};

/// Blocks that gemm can take as a factor: by rows or by columns, packed where they are neither. It
/// conjugates only what it transposes: on the left what lies by rows, on the right what lies by
/// columns; other conjugates are packed too.
template <class T, class Runtime> class GemmBlocks {
public:
  GemmBlocks(const BlocksView<T> &F, bool on_left) : F_(F) {
    const bool rows_lie = (F.cs == 1 || F.n == 1) && leading(F.rs, F.n);
    const bool columns_lie = (F.rs == 1 || F.m == 1) && leading(F.cs, F.m);
    by_rows_ = rows_lie && (!F.conjugated || on_left);
    if (by_rows_ || (columns_lie && (!F.conjugated || !on_left)))
      return;
    packed_ = DeviceArray<Runtime, T>(F.count * F.m * F.n);
    Runtime::for_each(F.count * F.m * F.n,
                      functors::PackBlocks<T>{reals(F.data), F.block, F.rs, F.cs, F.conjugated, F.m,
                                              F.n, reals(packed_.get())});
    F_ = {packed_.get(), F.count, F.m, F.n, F.m * F.n, F.n, 1};
    by_rows_ = true;
  }
  const T *data() const { return F_.data; }
  index step() const { return F_.block; }
  index ld() const { return by_rows_ ? F_.rs : F_.cs; }
  /// op that makes F of the column-major matrix in memory, and the one that makes F^T.
  char plain() const { return by_rows_ ? transposition() : 'N'; }
  char transposed() const { return by_rows_ ? 'N' : transposition(); }

private:
  char transposition() const { return F_.conjugated ? 'C' : 'T'; }

  BlocksView<T> F_;
  bool by_rows_;
  DeviceArray<Runtime, T> packed_;
};

/// Y_b = F_b X_b for `count` blocks of `columns` columns; F.block may be 0.
template <class T, class Runtime>
void multiply_blocks(const BlocksView<T> &F, const T *X, RowPlaces x, T *Y, RowPlaces y,
                     index columns, index count) {
  const GemmBlocks<T, Runtime> blocks(F, false); // Y^T = X^T F^T
  Runtime::gemm_batched('N', blocks.transposed(), columns, F.m, F.n, X, x.row, x.block,
                        blocks.data(), blocks.ld(), F.block == 0 ? 0 : blocks.step(), Y, y.row,
                        y.block, count);
}

template <class T> functors::Stage<T> stage_of(const BlocksView<T> &F) {
  functors::Stage<T> out{};
  out.F = reals(F.data);
  out.matrix = F.block;
  out.row = F.rs;
  out.column = F.cs;
  out.conjugate = F.conjugated;
  out.m = static_cast<int>(F.m);
  out.n = static_cast<int>(F.n);
  return out;
}

inline index product(const std::vector<index> &sizes, std::size_t first, std::size_t last) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(first),
                         sizes.begin() + static_cast<std::ptrdiff_t>(last), index(1),
                         std::multiplies<>());
}

/// Positions, those of the highest priority first.
inline std::vector<std::size_t> by_priority(const std::vector<double> &priority) {
  std::vector<std::size_t> order(priority.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return priority[a] > priority[b]; });
  return order;
}

/// An operator from n to m is better applied before those of lower priority (exchange of
/// neighbours).
inline double priority(index m, index n) {
  return 1.0 / static_cast<double>(m) - 1.0 / static_cast<double>(n);
}

/// Neighbouring factors, as one operator from n to m.
template <class T, class Runtime> class KronGroup {
public:
  index m = 1, n = 1;

  explicit KronGroup(std::vector<MatrixView<T>> factors) : factors_(std::move(factors)) {
    std::vector<double> priorities;
    for (const MatrixView<T> &F : factors_) {
      small_ = small_ && std::max(F.m, F.n) <= kSmallSide;
      m *= F.m;
      n *= F.n;
      priorities.push_back(priority(F.m, F.n));
    }
    order_ = by_priority(priorities);
  }

  bool is_chain() const {
    return small_ && factors_.size() <= static_cast<std::size_t>(functors::Chain<T>::kMost);
  }

  /// Whether a tile of `lanes` columns, copied where they are few, fits in shared memory.
  bool fits(index lanes) const {
    const bool copies = lanes < kLanes<T>;
    std::vector<index> current = sizes(), all{n};
    for (const std::size_t p : order_) {
      current[p] = factors_[p].m;
      all.push_back(product(current, 0, current.size()));
    }
    const BufferSizes buffers = buffer_sizes(all, copies, copies);
    return (buffers.first + buffers.second) * lanes <= shared_entries<T, Runtime>();
  }

  /// Y (left, m, right) of X (left, n, right).
  void operator()(const T *X, T *Y, index left, index right) const {
    if (is_chain())
      chain(X, Y, left, right);
    else if (right == 1)
      last_mode(X, Y, left);
    else
      multiply_blocks<T, Runtime>(blocks(0), X, {n * right, right}, Y, {m * right, right}, right,
                                  left);
  }

private:
  std::vector<index> sizes() const {
    std::vector<index> out;
    for (const MatrixView<T> &F : factors_)
      out.push_back(F.n);
    return out;
  }
  BlocksView<T> blocks(std::size_t p) const {
    const MatrixView<T> &F = factors_[p];
    return {F.data, 1, F.m, F.n, 0, F.rs, F.cs, F.conjugated};
  }

  void chain(const T *X, T *Y, index left, index right) const {
    functors::Chain<T> chain{};
    chain.load = chain.store = right < kLanes<T> && fits(right);
    constexpr index kReals = Entry<T>::kReals;
    chain.X = {reals(X), n * right * kReals, right, 1, kUnlimited};
    chain.Y = {reals(Y), m * right * kReals, right, 1, kUnlimited};
    chain.lines = left;
    chain.columns = right;
    std::vector<index> current = sizes();
    for (const std::size_t p : order_) {
      functors::Stage<T> stage = stage_of(blocks(p));
      stage.outers = static_cast<int>(product(current, 0, p));
      stage.after = static_cast<int>(product(current, p + 1, current.size()));
      stage.in_outer = stage.n * stage.after;
      stage.out_outer = stage.m * stage.after;
      stage.in_row = stage.out_row = stage.after;
      chain.stage[chain.stages++] = stage;
      current[p] = factors_[p].m;
    }
    run_chain<T, Runtime>(chain);
  }

  /// Y = X F^T by rows: Y^T = F X^T by columns.
  void last_mode(const T *X, T *Y, index left) const {
    const GemmBlocks<T, Runtime> F(blocks(0), true);
    Runtime::gemm(F.plain(), 'N', m, left, n, T(1), F.data(), F.ld(), X, n, T(0), Y, m);
  }

  std::vector<MatrixView<T>> factors_;
  std::vector<std::size_t> order_;
  bool small_ = true;
};

/// The factors in groups, each as large as its chain can be, from the last one on.
template <class T, class Runtime>
std::vector<KronGroup<T, Runtime>> groups_of(const std::vector<MatrixView<T>> &factors,
                                             index right) {
  using Group = KronGroup<T, Runtime>;
  std::vector<Group> groups;
  index lanes = std::min(right, kLanes<T>);
  for (std::size_t last = factors.size(); last > 0;) {
    std::size_t first = last;
    const auto from = [&](std::size_t p) {
      return Group({factors.begin() + static_cast<std::ptrdiff_t>(p),
                    factors.begin() + static_cast<std::ptrdiff_t>(last)});
    };
    while (first > 0) {
      const Group longer = from(first - 1);
      if (first < last && !(longer.is_chain() && longer.fits(lanes)))
        break;
      --first;
      if (!longer.is_chain())
        break;
    }
    groups.insert(groups.begin(), from(first));
    lanes = kLanes<T>;
    last = first;
  }
  return groups;
}

/// Row j of block b is number b places.block + j places.row, in the operand and in the result.
template <class T> struct MonarchStage {
  BlocksView<T> F;
  RowPlaces in, out;

  MonarchStage transposed() const {
    return {{F.data, F.count, F.n, F.m, F.block, F.cs, F.rs, F.conjugated}, out, in};
  }
  index rows_in() const { return F.count * F.n; }
  index rows_out() const { return F.count * F.m; }
};

/// M = P L P^T R, or its transpose, as two stages.
template <class T>
std::pair<MonarchStage<T>, MonarchStage<T>>
monarch_stages(const BlocksView<T> &L, const BlocksView<T> &R, bool permuted, bool transpose) {
  const RowPlaces blocks_of_R{R.m, 1}, blocks_of_L{1, L.count};
  const RowPlaces x_of_R = permuted ? RowPlaces{1, R.count} : RowPlaces{R.n, 1};
  const MonarchStage<T> right{R, x_of_R, blocks_of_R}, left{L, blocks_of_L, blocks_of_L};
  if (transpose)
    return {left.transposed(), right.transposed()};
  return {right, left};
}

template <class T> bool columns_lie(const MatrixView<T> &X) { return X.cs == 1 || X.n == 1; }

/// Whether both stages can run on slabs of columns in shared memory, and there are many slabs.
template <class T, class Runtime>
bool fits_in_shared(const MonarchStage<T> &first, const MonarchStage<T> &second,
                    const MatrixView<T> &X) {
  const std::vector<index> sizes{first.rows_in(), first.rows_out(), second.rows_out()};
  const BufferSizes buffers = buffer_sizes(sizes, !columns_lie(X), false);
  return X.n >= kLanes<T> * kFusedSlabs &&
         (buffers.first + buffers.second) * kLanes<T> <= shared_entries<T, Runtime>();
}

template <class T>
functors::Chain<T> monarch_chain(const MonarchStage<T> &first, const MonarchStage<T> &second,
                                 const MatrixView<T> &X, T *Y) {
  functors::Chain<T> chain{};
  chain.load = !columns_lie(X);
  chain.store = false;
  chain.lines = 1;
  chain.columns = X.n;
  chain.X = {reals(X.data), 0, X.rs, X.cs, kUnlimited};
  chain.Y = {reals(Y), 0, X.n, 1, kUnlimited};
  for (const MonarchStage<T> *half : {&first, &second}) {
    functors::Stage<T> stage = stage_of(half->F);
    stage.outers = static_cast<int>(half->F.count);
    stage.after = 1;
    stage.in_outer = static_cast<int>(half->in.block);
    stage.in_row = static_cast<int>(half->in.row);
    stage.out_outer = static_cast<int>(half->out.block);
    stage.out_row = static_cast<int>(half->out.row);
    chain.stage[chain.stages++] = stage;
  }
  return chain;
}

/// Two strided-batched products; X is copied where its columns do not lie as gemm needs them.
template <class T, class Runtime>
void multiply_twice(const MonarchStage<T> &first, const MonarchStage<T> &second,
                    const MatrixView<T> &X, T *Y) {
  const index columns = X.n;
  const T *source = X.data;
  index row = X.rs;
  DeviceArray<Runtime, T> copy, middle(first.rows_out() * columns);
  if (!columns_lie(X) || !leading(X.rs, columns)) {
    copy = DeviceArray<Runtime, T>(X.m * columns);
    copy_entries<T, Runtime>(X, real_t<T>(1), copy.get(), columns, 1);
    source = copy.get();
    row = columns;
  }
  const auto multiply = [&](const MonarchStage<T> &stage, T *target) {
    multiply_blocks<T, Runtime>(stage.F, source, {stage.in.block * row, stage.in.row * row}, target,
                                {stage.out.block * columns, stage.out.row * columns}, columns,
                                stage.F.count);
  };
  multiply(first, middle.get());
  source = middle.get();
  row = columns;
  multiply(second, Y);
}

} // namespace cuda_detail

template <class T, class Runtime>
void CudaKron<T, Runtime>::kron_multiply(const std::vector<MatrixView<T>> &factors, const T *X,
                                         index columns, bool columns_first, T *Y) {
  const auto groups = cuda_detail::groups_of<T, Runtime>(factors, columns_first ? 1 : columns);
  std::vector<index> sizes{columns_first ? columns : 1};
  std::vector<double> priorities;
  for (const auto &group : groups) {
    sizes.push_back(group.n);
    priorities.push_back(cuda_detail::priority(group.m, group.n));
  }
  sizes.push_back(columns_first ? 1 : columns);
  DeviceArray<Runtime, T> buffers[2];
  const T *source = X;
  std::size_t done = 0;
  for (const std::size_t g : cuda_detail::by_priority(priorities)) {
    const index left = cuda_detail::product(sizes, 0, g + 1);
    const index right = cuda_detail::product(sizes, g + 2, sizes.size());
    T *target = Y;
    if (++done < groups.size()) {
      buffers[done % 2] = DeviceArray<Runtime, T>(left * groups[g].m * right);
      target = buffers[done % 2].get();
    }
    groups[g](source, target, left, right);
    sizes[g + 1] = groups[g].m;
    source = target;
  }
}

template <class T, class Runtime>
void CudaKron<T, Runtime>::monarch_multiply(const BlocksView<T> &L, const BlocksView<T> &R,
                                            const MatrixView<T> &X, bool permuted, bool transpose,
                                            T *Y) {
  const auto [first, second] = cuda_detail::monarch_stages(L, R, permuted, transpose);
  if (cuda_detail::fits_in_shared<T, Runtime>(first, second, X))
    cuda_detail::run_chain<T, Runtime>(cuda_detail::monarch_chain(first, second, X, Y));
  else
    cuda_detail::multiply_twice<T, Runtime>(first, second, X, Y);
}

} // namespace lowla
