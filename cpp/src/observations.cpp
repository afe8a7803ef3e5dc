// Observed entries by rows and by columns (see observations.hpp).
#include "lowla/observations.hpp"

#include "lowla/core/philox.hpp"

#include "host_rows.hpp"

#include <algorithm>
#include <numeric>

namespace lowla {

using threads::parallel_for;

namespace {

constexpr index kChunks = 64;
/// Entries for each part of the transposition, at least.
constexpr index kPartEntries = 1 << 13;
constexpr index kSortParts = 16;

} // namespace

std::vector<RowSpan> chunks_by_entries(const std::int64_t *indptr, index m) {
  const auto work = [&](index i) { return static_cast<index>(indptr[i]) + i; };
  const CsrView<double, std::int64_t> pattern{indptr, nullptr, nullptr, m, 0};
  const std::vector<index> bounds = rows::csr_chunks(pattern, kChunks);
  std::vector<RowSpan> spans;
  for (std::size_t c = 0; c + 1 < bounds.size(); ++c)
    if (bounds[c] < bounds[c + 1])
      spans.emplace_back(bounds[c], bounds[c + 1]);
  std::stable_sort(spans.begin(), spans.end(), [&](const RowSpan &a, const RowSpan &b) {
    return work(a.second) - work(a.first) > work(b.second) - work(b.first);
  });
  return spans;
}

template <class S>
Transposed<S>::Transposed(const Observations<S> &rows)
    : m_(rows.m), n_(rows.n), indptr_(static_cast<std::size_t>(rows.n) + 1, 0),
      indices_(static_cast<std::size_t>(rows.nnz())), values_(indices_.size()),
      weights_(rows.weights == nullptr ? 0 : indices_.size()) {
  // Parts of the rows count their entries in each column; then each part knows where its own go.
  const index nnz = rows.nnz();
  const index parts = std::max<index>(1, std::min(kSortParts, nnz / std::max(n_, kPartEntries)));
  std::vector<index> edges(static_cast<std::size_t>(parts) + 1, m_);
  edges[0] = 0;
  for (index p = 1; p < parts; ++p)
    edges[static_cast<std::size_t>(p)] = std::max<index>(
        edges[static_cast<std::size_t>(p) - 1],
        std::lower_bound(rows.indptr, rows.indptr + m_, nnz / parts * p) - rows.indptr);
  std::vector<std::int64_t> places(static_cast<std::size_t>(parts * n_), 0);
  const auto entries = [&](index p, auto &&f) {
    for (index i = edges[static_cast<std::size_t>(p)]; i < edges[static_cast<std::size_t>(p) + 1];
         ++i)
      for (std::int64_t t = rows.indptr[i]; t < rows.indptr[i + 1]; ++t)
        f(i, t);
  };
  parallel_for(parts, [&](index p) {
    std::int64_t *count = places.data() + p * n_;
    entries(p, [&](index, std::int64_t t) { ++count[rows.indices[t]]; });
  });
  std::int64_t at = 0;
  for (index j = 0; j < n_; ++j) {
    indptr_[static_cast<std::size_t>(j)] = at;
    for (index p = 0; p < parts; ++p) {
      const std::int64_t count = places[static_cast<std::size_t>(p * n_ + j)];
      places[static_cast<std::size_t>(p * n_ + j)] = at;
      at += count;
    }
  }
  indptr_[static_cast<std::size_t>(n_)] = at;
  parallel_for(parts, [&](index p) {
    std::int64_t *place = places.data() + p * n_;
    entries(p, [&](index i, std::int64_t t) {
      const auto to = static_cast<std::size_t>(place[rows.indices[t]]++);
      indices_[to] = static_cast<std::int32_t>(i);
      values_[to] = rows.values[t];
      if (rows.weights != nullptr)
        weights_[to] = rows.weights[t];
    });
  });
}

index components(const std::int64_t *indptr, const std::int32_t *indices, index m, index n) {
  std::vector<index> parent(static_cast<std::size_t>(m + n));
  std::iota(parent.begin(), parent.end(), index(0));
  const auto root = [&](index a) {
    auto *up = parent.data();
    while (up[a] != a) {
      up[a] = up[up[a]];
      a = up[a];
    }
    return a;
  };
  index left = m + n;
  for (index i = 0; i < m; ++i)
    for (std::int64_t t = indptr[i]; t < indptr[i + 1]; ++t) {
      const index a = root(i), b = root(m + indices[t]);
      if (a == b)
        continue;
      parent[static_cast<std::size_t>(std::max(a, b))] = std::min(a, b);
      if (--left == 1) // nothing is left to join
        return left;
    }
  return left;
}

void draw_holdout(const std::int64_t *indptr, const std::int32_t *indices, index m, double fraction,
                  std::uint64_t key, bool *out) {
  const auto spans = chunks_by_entries(indptr, m);
  parallel_for(static_cast<index>(spans.size()), [&](index c) {
    const auto [first, last] = spans[static_cast<std::size_t>(c)];
    for (index i = first; i < last; ++i)
      for (std::int64_t t = indptr[i]; t < indptr[i + 1]; ++t)
        out[t] = philox::uniform(key, philox::kStreamHoldout, i, indices[t]) < fraction;
  });
}

template class Transposed<float>;
template class Transposed<double>;

} // namespace lowla
