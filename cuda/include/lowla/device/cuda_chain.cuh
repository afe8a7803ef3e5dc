// Plans and launches of chains of small products (see device/functors_chain.hpp).
#pragma once

#include "lowla/core/cancel.hpp"
#include "lowla/device/cuda.cuh"
#include "lowla/device/functors_chain.hpp"

#include <algorithm>
#include <limits>

namespace lowla::cuda_detail {

/// Columns that fill a sector of the cache, 32 bytes: fewer of them are not read in place.
template <class T> constexpr index kLanes = 32 / static_cast<index>(sizeof(T));
/// Blocks that keep the largest devices busy. An expectation of the design, not a measurement.
constexpr index kManyBlocks = 512;
/// Entries of a tile below which it is not made smaller to have more of them.
constexpr index kLeastTile = 1024;
constexpr index kUnlimited = std::numeric_limits<index>::max();

/// Entries of the two buffers of a chain for one line and one column.
struct BufferSizes {
  index first = 0, second = 0;
};

/// `sizes`: of the operand and of the results of the stages, in entries.
inline BufferSizes buffer_sizes(const std::vector<index> &sizes, bool load, bool store) {
  BufferSizes out;
  index phase = 0;
  for (std::size_t k = load ? 0 : 1; k + (store ? 0 : 1) < sizes.size(); ++k, ++phase) {
    index &buffer = phase % 2 == 0 ? out.first : out.second;
    buffer = std::max(buffer, sizes[k]);
  }
  return out;
}

/// Entries of T that a block can hold.
template <class T, class Runtime> index shared_entries() {
  return Runtime::shared_bytes() / static_cast<index>(sizeof(T)) / 33 * 32 - 64;
}

/// Lines times columns of a tile that takes `each` entries for one of them: what fits, but less
/// where there would be few tiles.
template <class T, class Runtime> index tile_size(index each, index lines, index columns) {
  const index most = std::max(shared_entries<T, Runtime>() / each, std::min(columns, kLanes<T>));
  const index least = std::min(most, std::max(std::min(columns, 2 * kLanes<T>), kLeastTile / each));
  return std::clamp(lines * columns / kManyBlocks, least, most);
}

/// Chooses the tiles and runs the chain, whose stages, operand and result are set. One line of
/// min(columns, kLanes) columns must fit.
template <class T, class Runtime> void run_chain(functors::Chain<T> chain) {
  std::vector<index> sizes{chain.stage[0].rows_in()};
  for (int s = 0; s < chain.stages; ++s)
    sizes.push_back(chain.stage[s].rows_out());
  const BufferSizes buffers = buffer_sizes(sizes, chain.load, chain.store);
  // Where nothing is held in shared memory a tile is as large as if its operand were.
  const index each = std::max(buffers.first + buffers.second, sizes.front());
  const index wanted = tile_size<T, Runtime>(each, chain.lines, chain.columns);
  index width = std::min(chain.columns, wanted);
  if (width < chain.columns)
    width = std::max(width / kLanes<T> * kLanes<T>, std::min(width, kLanes<T>));
  const index together = std::clamp<index>(wanted / width, 1, chain.lines);
  chain.width = static_cast<int>(width);
  chain.lines_of_tile = static_cast<int>(together);
  const auto padded = [&](index rows) {
    return functors::Tile<T>::padded(rows * width * together) + 1;
  };
  chain.second = padded(buffers.first);
  const index entries = chain.second + padded(buffers.second);
  CancelScope::poll();
  Runtime::for_each_block(chain.blocks(), static_cast<std::size_t>(entries) * sizeof(T), chain);
}

} // namespace lowla::cuda_detail
