// Entropic optimal transport: min <P, C> + reg sum P (log P - 1) subject to P 1 = a, P^T 1 = b has
// P_ij = exp((f_i + g_j - C_ij) / reg).
//
// For a given g one read of C yields the f that makes the row sums a, and the column sums c(g) of
// that plan (both half steps of Sinkhorn's iteration with one exponential an entry: the guess of f
// is the shift of the exponents). What is left is concave in g alone: the semi-dual psi(g) = a^T
// f(g) + b^T g with gradient b - c and Hessian -(D(c) - P^T D(1/a) P) / reg, the Schur complement
// of the Hessian in f and g. From one such read follows either
//   Sinkhorn's step   g += reg log(b / c)   (Sinkhorn 1967; Cuturi 2013), or
//   Newton's, with P thresholded so that the dropped mass is below a tenth of the error (Tang,
//   Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao, Ying, ICLR 2024, arXiv:2401.12253), by
//   conjugate gradients to a tolerance that falls with the error, with Levenberg-Marquardt damping.
// Both are taken in stages of reg halving from a sixteenth of the spread of C, g extrapolated from
// stage to stage (Schmitzer, SIAM J. Sci. Comput. 41, 2019, section 3.3; Kemertas, Jepson,
// Farahmand, arXiv:2307.08507). Cost: a few dozen reads of C with one exponential an entry,
// O(entries kept) a step of conjugate gradients; memory O((m + n) chunks + entries kept).
//
// Rows are divided into chunks that depend on the shape alone and summed in their order: results do
// not depend on the number of threads.
#pragma once

#include "lowla/core/scalar.hpp"
#include "lowla/core/view.hpp"

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lowla {

using Vector = std::vector<double>;
using Places = std::vector<index>;

/// The least and the largest finite cost; rows and columns without; is one inf; NaN or -inf.
struct CostExtent {
  double least = std::numeric_limits<double>::infinity();
  double largest = -std::numeric_limits<double>::infinity();
  std::vector<char> empty_rows, empty_columns;
  bool forbidden = false, invalid = false;
};

struct FittedRows {
  Vector f, c;
};

/// Entries of a plan by rows.
struct SparsePlan {
  std::vector<std::int64_t> indptr;
  std::vector<std::int32_t> indices;
  Vector data;
};

struct PlanSums {
  Vector rows, columns;
  double mass, linear;
};

enum class Metric { kSquaredEuclidean, kEuclidean, kCityblock };

/// C, as the passes over the plan see it.
class TransportCost {
public:
  virtual ~TransportCost() = default;
  index m = 0, n = 0;

  virtual CostExtent extent() const = 0;
  /// The cost of some rows and columns, ascending.
  virtual std::unique_ptr<TransportCost> only(const Places &rows, const Places &columns) const = 0;
  /// f that makes the row sums a for this g, from a guess of f, and then the column sums.
  virtual FittedRows fit(const Vector &a, const Vector &log_a, const Vector &f, const Vector &g,
                         double eps) const = 0;
  /// The entries >= threshold > 0 of the plan; nothing where there are more than `most`.
  virtual std::optional<SparsePlan> sparse(const Vector &f, const Vector &g, double eps,
                                           double threshold, double most) const = 0;
  /// Row sums, column sums, sum P and <P, C> in one read.
  virtual PlanSums sums(const Vector &f, const Vector &g, double reg) const = 0;
  /// log of the column sums, by a running maximum.
  virtual Vector log_column_sums(const Vector &f, const Vector &g, double eps) const = 0;
  /// P, row-major, rounded to float or double.
  virtual void plan(const Vector &f, const Vector &g, double reg, float *out) const = 0;
  virtual void plan(const Vector &f, const Vector &g, double reg, double *out) const = 0;
};

template <class S> std::unique_ptr<TransportCost> array_cost(MatrixView<S> C);
/// X (m, d) and Y (n, d), row-major.
std::unique_ptr<TransportCost> points_cost(const double *X, index m, const double *Y, index n,
                                           index d, Metric metric);

struct TransportRequest {
  double reg, tol;
  std::string method; ///< "newton", "sinkhorn" or "auto"
  index max_iter, warmup;
  double sparsity;
  bool points; ///< Newton's matrix is limited to a number of entries a point
  std::function<bool(index, double)> monitor;
};

struct TransportFacts {
  double marginal_error = std::numeric_limits<double>::quiet_NaN();
  double value = marginal_error, value_linear = marginal_error;
  index sweeps = 0, newton_steps = 0, cg_iterations = 0;
  bool converged = false;
  std::string method = "none";
  bool fallback = false;
  double density = 0;
};

struct Transport {
  Vector f, g;
  TransportFacts facts;
};

/// For weights >= 0 of equal, positive sums. ValueError where C cannot be solved for; all is NaN
/// for C with NaN or -inf if `check_finite` is false. Potentials of rows and columns without weight
/// are -inf. f and g have equal weighted means.
Transport sinkhorn(const Vector &a, const Vector &b, const TransportCost &cost,
                   const TransportRequest &request, const Vector *f0, const Vector *g0,
                   bool check_finite);

/// sum_j P_ij dC_ij/dx_i (m, d) and sum_i P_ij dC_ij/dy_j (n, d).
void transport_gradient(const double *X, index m, const double *Y, index n, index d, Metric metric,
                        const Vector &f, const Vector &g, double reg, double *by_x, double *by_y);

/// log sum exp of each of `rows` rows of n numbers, `stride` apart.
template <class S> void logsumexp(const S *X, index rows, index stride, index n, S *out);
/// softmax of each row; out row-major.
template <class S> void softmax(const S *X, index rows, index stride, index n, S *out);

} // namespace lowla
