// The observed entries of a matrix by rows and by columns, and what their pattern decides.
//
// Half a sweep of alternating minimisation reads all entries of one row after another, the other
// half all entries of a column: each has its own copy of indices and values. The transposed copy
// is a counting sort, entries of a column in the order of their rows. Rows are divided into chunks
// of about equal numbers of entries, longest first, so that a few long rows do not hold up the
// rest; partition and sums depend on the pattern alone, not on the number of threads.
// Where the bipartite graph of the pattern falls into several components nothing relates their
// factors (Kiraly, Theran, Tomioka, J. Mach. Learn. Res. 16, 2015, section 3.2): they are counted
// by union-find with path halving.
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/threads.hpp"

#include <cstdint>
#include <utility>
#include <vector>

namespace lowla {

/// Entries of m rows: those of row i are indptr[i] .. indptr[i + 1] - 1 of the other arrays, of
/// which `weights` may be null (all are 1). Not the owner.
template <class S> struct Observations {
  index m = 0, n = 0;
  const std::int64_t *indptr = nullptr;
  const std::int32_t *indices = nullptr;
  const S *values = nullptr;
  const double *weights = nullptr;

  index nnz() const { return static_cast<index>(indptr[m]); }
  index count(index i) const { return static_cast<index>(indptr[i + 1] - indptr[i]); }
};

/// Rows first .. last - 1.
using RowSpan = std::pair<index, index>;

/// The partition of the rows into chunks, in the order in which they are begun.
std::vector<RowSpan> chunks_by_entries(const std::int64_t *indptr, index m);

/// The same entries by columns, with memory of their own.
template <class S> class Transposed {
public:
  explicit Transposed(const Observations<S> &rows);

  Observations<S> view() const {
    return {n_,
            m_,
            indptr_.data(),
            indices_.data(),
            values_.data(),
            weights_.empty() ? nullptr : weights_.data()};
  }

private:
  index m_, n_;
  std::vector<std::int64_t> indptr_;
  std::vector<std::int32_t> indices_;
  std::vector<S> values_;
  std::vector<double> weights_;
};

/// Connected components of the bipartite graph; an empty row or column is one of its own.
index components(const std::int64_t *indptr, const std::int32_t *indices, index m, index n);

/// out[t] = the uniform number of entry t's row and column lies below `fraction`.
void draw_holdout(const std::int64_t *indptr, const std::int32_t *indices, index m, double fraction,
                  std::uint64_t key, bool *out);

} // namespace lowla
