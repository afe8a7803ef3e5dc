// Nuclear-norm completion: min 1/2 sum_observed (X_ij - M_ij)^2 + lam |X|_*, with a duality gap.
//
// X <- the soft-thresholded singular value decomposition of P(M - X) + X (Mazumder, Hastie,
// Tibshirani, J. Mach. Learn. Res. 11, 2010), a sparse plus a low-rank matrix that only products
// are taken with. The decomposition is one step of subspace iteration, from the right singular
// vectors at hand and the leading ones of the sparse part. Between two such steps X = U V^T is
// improved by ridge regressions of its rows and columns: |X|_* is the least 1/2 (|U|^2 + |V|^2) of
// its factorisations (Srebro, Rennie, Jaakkola, NIPS 17, 2004; Hastie, Mazumder, Lee, Zadeh, J.
// Mach. Learn. Res. 16, 2015), so that these descend on the same objective.
//
// Certificate: with R = P(M - X) and theta = min(1, lam / |R|_2) the dual value theta <R, M> - 1/2
// theta^2 |R|^2 is a lower bound of the minimum. |R|_2 and the singular vectors of R come from a
// Krylov space.
// Cost of a round for rank r: about (2 r^2 + 20 r) |Omega| multiply-adds, O((m + n) r^2) besides.
// Memory: two copies of the entries, two residuals, O((m + n) r).
#pragma once

#include "lowla/completion.hpp"

namespace lowla {

struct SoftImputeRequest {
  double lam = 0.0;
  index rank_max = 1, n_iter = 100;
  double tol = 1e-4; ///< of the gap, relative to the objective
  std::uint64_t key = 0;
  bool check_finite = true;
  std::function<bool(index, double)> monitor; ///< (rounds, rmse) -> true to stop
};

/// X = U V^T of at least one column, balanced.
struct SoftImputed {
  Factor U, V;
  double gap = std::numeric_limits<double>::quiet_NaN(); ///< (primal - dual) / primal
  CompletionFacts facts;
};

/// M may be rescaled.
SoftImputed soft_impute(ObservedMatrix &M, const SoftImputeRequest &request);

} // namespace lowla
