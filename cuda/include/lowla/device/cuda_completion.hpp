// Low-rank completion on the device: observed entries there (see observed_matrix.hpp), and what is
// predicted of them. device/cuda_completion.cuh defines it.
#pragma once

#include "lowla/device/runtime.hpp"
#include "lowla/observed_matrix.hpp"

namespace lowla {

/// Entries of an m x n matrix by rows in device memory, as in Observations.
template <class S> struct StoredEntries {
  index m, n, nnz;
  const std::int64_t *indptr;
  const std::int32_t *indices;
  const S *values;
  const double *weights; ///< or null
};

/// U (m, k) and V (n, k) by rows and biases in device memory, which are both given or null.
template <class S> struct StoredModel {
  index m, n, k;
  const S *U, *V;
  double mean;
  const S *row_bias, *col_bias;
};

template <class S, class Runtime> struct CudaCompletion {
  /// Whether indptr ascends from 0 to nnz and the indices lie in the matrix.
  static bool valid(const StoredEntries<S> &M);
  /// Reads M where it lies.
  static std::unique_ptr<ObservedMatrix> open(const StoredEntries<S> &M);
  /// The root of the weighted mean square of what the model leaves of M.
  static double rmse(const StoredEntries<S> &M, const StoredModel<S> &model);
  /// out[t]: the entry (rows[t], cols[t]); false where an index is out of range.
  static bool predict(const StoredModel<S> &model, const std::int64_t *rows,
                      const std::int64_t *cols, index count, S *out);
  /// As in observations.hpp.
  static void holdout(const StoredEntries<S> &M, double fraction, std::uint64_t key, bool *out);
};

} // namespace lowla
