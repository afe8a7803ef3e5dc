// The observed entries of a matrix where they lie, as the iterations of completion see them.
//
// alternating.hpp and completion.hpp are written once, against these two interfaces. Whoever holds
// the entries implements them: main memory (`observed_matrix`) by ridge_rows.hpp, the GPU by
// device/cuda_completion.hpp. Each call is one pass over all entries, or over those of all rows;
// factors, offsets and sums are in main memory.
#pragma once

#include "lowla/device/host.hpp"
#include "lowla/ridge_rows.hpp"

#include <memory>
#include <vector>

namespace lowla {

/// What rows are regressed on: a factor, and an offset for each of its rows or null.
struct Regressors {
  const Factor &F;
  const double *offset;
};

/// The entries of the rows of a matrix, or of its columns as rows. What the passes compute is said
/// at the functions of ridge_rows.hpp.
class ObservedRows {
public:
  virtual ~ObservedRows() = default;

  virtual double exact(const Regressors &on, double ridge, Factor &out) const = 0;
  virtual double cg(const Regressors &on, double ridge, index steps, Factor &out) const = 0;
  virtual void nonnegative(const Regressors &on, double ridge, Factor &out) const = 0;
  virtual double residual2(const Regressors &on, const Factor &U) const = 0;
  virtual std::vector<double> residuals(const Regressors &on, const Factor &U) const = 0;
  virtual Factor gradient(const Regressors &on, const Factor &U) const = 0;
  /// The same entries with weights w / max(|residual|, delta).
  virtual std::unique_ptr<ObservedRows> reweighted(const Regressors &on, const Factor &U,
                                                   double delta) const = 0;
  /// Rows with fewer than k entries.
  virtual index count_short(index k) const = 0;
};

struct EntryExtent {
  bool finite = true;
  double largest = 0, largest_weight = 0; ///< in magnitude; 0 without weights
};
struct EntrySums {
  double weight = 0, squares = 0; ///< sum w, sum w (y - mean)^2
};
struct LeadingVectors {
  Factor left, right;
  std::vector<double> values;
};

/// A matrix for panels in main memory, and what it is made of.
struct HeldMatrix {
  std::shared_ptr<const void> memory;
  std::unique_ptr<Host<double>::Matrix> matrix;
};

/// Entries y_ij with weights w_ij > 0, or 1 where none are given.
class ObservedMatrix {
public:
  index m = 0, n = 0, nnz = 0;
  bool single = false; ///< whether values are stored in single precision

  virtual ~ObservedMatrix() = default;

  virtual EntryExtent extent() const = 0;
  /// Values times 2^-e and weights times 2^-f from here on, in copies.
  virtual void rescale(int e, int f) = 0;

  virtual double total_weight() const = 0;
  /// sum w y
  virtual double weighted_values() const = 0;
  /// sum (y - mean)^2
  virtual double squares(double mean) const = 0;
  virtual EntrySums sums(double mean) const = 0;
  /// The values by rows in double precision.
  virtual std::vector<double> values() const = 0;
  /// Singular vectors of the w (y - mean), zeros elsewhere, the entries clipped at `outlier` times
  /// their median magnitude if that is positive.
  virtual LeadingVectors leading(double mean, double outlier, index k, std::uint64_t key) const = 0;

  /// The matrix with these values, by rows, in the places of the entries, zeros elsewhere. They
  /// must outlive it.
  virtual HeldMatrix with_values(const std::vector<double> &values) const = 0;

  virtual const ObservedRows &rows() const = 0;
  /// Made at the first call.
  virtual const ObservedRows &cols() const = 0;
  /// Of the bipartite graph of the pattern.
  virtual index components() const = 0;
};

/// Entries in main memory, which must outlive it.
template <class S> std::unique_ptr<ObservedMatrix> observed_matrix(const Observations<S> &M);

/// An exponent of two to divide entries by, other than 0 only where squares might leave the range.
int safe_exponent(double largest, bool even);

/// The median; 0 of nothing.
double median(std::vector<double> values);
std::vector<double> magnitudes(std::vector<double> values);

} // namespace lowla
