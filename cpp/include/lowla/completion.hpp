// Low-rank completion M = U V^T (+ mean and biases) from observed entries.
//
// Minimised is
//     1/2 sum_(ij observed) w_ij (mean + a_i + b_j + u_i . v_j - M_ij)^2
//         + reg/2 (|U|^2 + |V|^2 + |a|^2 + |b|^2),
// or, if robust, the same with |r| in place of r^2 / 2.
//
// by the iterations of alternating.hpp. They begin at the leading singular vectors of the
// observations with zeros elsewhere, over the sampling rate, long rows clipped (Jain, Netrapalli,
// Sanghavi, STOC 2013, algorithm 2; if robust large values are clipped before), at random, or at
// given factors. They end at the factors P S^(1/2) and Q S^(1/2) of the singular value
// decomposition P S Q^T of their product: of all factors of that product those with the least
// |U|^2 + |V|^2. Entries and weights whose squares might leave the range of double are scaled by
// powers of two.
// Cost: one randomised SVD of the observations, some dozens of sweeps. Memory: one more copy of
// indices and values, by columns; 4 (m + n) k numbers; if robust three more numbers an entry.
#pragma once

#include "lowla/alternating.hpp"

#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace lowla {

struct CompletionRequest {
  index k = 1;
  bool scaled_gd = false, robust = false, bias = false, nonnegative = false;
  std::string solver = "auto"; ///< "exact", "cg" or "auto"
  double reg = 0.0, tol = 0.0;
  index n_iter = 100;
  bool random_start = false;
  std::uint64_t key = 0;
  bool check_finite = true;
  std::function<bool(index, double)> monitor; ///< (sweeps, rmse) -> true to stop
};

struct CompletionFacts {
  double rmse = std::numeric_limits<double>::quiet_NaN();
  double relative_residual = rmse;
  std::vector<double> history; ///< rmse after each sweep
  bool converged = false;
  std::string solver = "none";
  index rank = 0, rows_undetermined = 0, cols_undetermined = 0, components = 0;
};

struct Completion {
  Factor U, V; ///< with biases in a last column of their own
  double mean = 0.0;
  CompletionFacts facts;
};

/// From U0 and V0 (with `bias` a column more) if they are given. Weights are positive. Factors are
/// rounded to single precision where the values are; they and the facts are NaN for entries with
/// NaN or Inf if `check_finite` is false. M may be rescaled.
Completion complete(ObservedMatrix &M, const CompletionRequest &request, const Factor *U0,
                    const Factor *V0);
/// The same of entries in main memory.
template <class S>
Completion complete(const Observations<S> &M, const CompletionRequest &request, const Factor *U0,
                    const Factor *V0);

} // namespace lowla
