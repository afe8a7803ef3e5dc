// The completion request from Python's arguments, and its facts back: the same for every device.
#pragma once

#include "lowla/soft_impute.hpp"

#include "request.hpp"

namespace lowla::bindings {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

inline CompletionRequest completion_request(index k, const std::string &method,
                                            const std::string &loss, const std::string &solver,
                                            bool bias, bool nonnegative, double reg, index n_iter,
                                            double tol, const std::string &init, std::uint64_t key,
                                            bool check_finite, const py::object &monitor) {
  CompletionRequest request;
  request.k = k;
  request.scaled_gd = method == "scaled_gd";
  request.robust = loss == "l1";
  request.bias = bias;
  request.nonnegative = nonnegative;
  request.solver = solver;
  request.reg = reg;
  request.tol = tol;
  request.n_iter = n_iter;
  request.random_start = init == "random";
  request.key = key;
  request.check_finite = check_finite;
  request.monitor = make_monitor(monitor);
  return request;
}

/// `name` is that of the rank.
inline void check_completion(const char *name, index rank, index m, index n, index nnz) {
  if (rank < 1 || rank > std::min(m, n))
    throw ValueError(std::string(name) + " must be in 1..min(M.shape)");
  if (nnz == 0)
    throw ValueError("M must have observed entries");
}

inline SoftImputeRequest soft_impute_request(double lam, index rank_max, index n_iter, double tol,
                                             std::uint64_t key, bool check_finite,
                                             const py::object &monitor) {
  SoftImputeRequest request;
  request.lam = lam;
  request.rank_max = rank_max;
  request.n_iter = n_iter;
  request.tol = tol;
  request.key = key;
  request.check_finite = check_finite;
  request.monitor = make_monitor(monitor);
  return request;
}

inline Factor factor_from(const Doubles &X, index rows) {
  if (X.ndim() != 2 || X.shape(0) != rows)
    throw ValueError("a factor must have a row for each row or column of M");
  Factor out(X.shape(0), X.shape(1));
  out.zero();
  for (index i = 0; i < out.rows; ++i)
    std::copy(X.data(i, 0), X.data(i, 0) + out.cols, out.row(i));
  return out;
}

/// The factors to begin with, from arrays in main memory; none where these are None.
class GivenFactors {
public:
  GivenFactors(const py::object &U0, const py::object &V0, index m, index n,
               const CompletionRequest &request)
      : given_(!U0.is_none() && !V0.is_none()) {
    if (!given_)
      return;
    U_ = factor_from(py::cast<Doubles>(U0), m);
    V_ = factor_from(py::cast<Doubles>(V0), n);
    if (U_.cols != V_.cols || U_.cols != request.k + (request.bias ? 1 : 0))
      throw ValueError("U0 and V0 must have k columns, and one more with bias");
  }
  const Factor *left() const { return given_ ? &U_ : nullptr; }
  const Factor *right() const { return given_ ? &V_ : nullptr; }

private:
  bool given_;
  Factor U_, V_;
};

inline py::dict to_dict(const CompletionFacts &facts) {
  py::dict out;
  out["rmse"] = facts.rmse;
  out["relative_residual"] = facts.relative_residual;
  out["sweeps"] = facts.history.size();
  py::list history;
  for (const double rmse : facts.history)
    history.append(rmse);
  out["history"] = history;
  out["converged"] = facts.converged;
  out["solver"] = facts.solver;
  out["rank"] = facts.rank;
  out["rows_undetermined"] = facts.rows_undetermined;
  out["cols_undetermined"] = facts.cols_undetermined;
  out["components"] = facts.components;
  return out;
}

inline py::dict to_dict(const SoftImputed &found) {
  py::dict out = to_dict(found.facts);
  out["gap"] = found.gap;
  return out;
}

/// The functions of completion.hpp and soft_impute.hpp, as every device has them.
template <class Complete, class SoftImpute, class Holdout, class Rmse, class Predict, class Svd>
void add_completion(py::module_ &m, Complete complete, SoftImpute soft_impute, Holdout holdout,
                    Rmse rmse, Predict predict, Svd svd) {
  m.def("complete", complete, py::arg("M"), py::arg("weights").none(true), py::arg("k"),
        py::arg("method"), py::arg("loss"), py::arg("solver"), py::arg("bias"),
        py::arg("nonnegative"), py::arg("reg"), py::arg("n_iter"), py::arg("tol"), py::arg("init"),
        py::arg("U0"), py::arg("V0"), py::arg("key"), py::arg("check_finite"), py::arg("monitor"));
  m.def("soft_impute", soft_impute, py::arg("M"), py::arg("lam"), py::arg("rank_max"),
        py::arg("n_iter"), py::arg("tol"), py::arg("key"), py::arg("check_finite"),
        py::arg("monitor"));
  m.def("completion_holdout", holdout, py::arg("M"), py::arg("fraction"), py::arg("key"));
  m.def("completion_rmse", rmse, py::arg("M"), py::arg("weights"), py::arg("U"), py::arg("V"),
        py::arg("mean"), py::arg("row_bias"), py::arg("col_bias"));
  m.def("completion_predict", predict, py::arg("U"), py::arg("V"), py::arg("mean"),
        py::arg("row_bias"), py::arg("col_bias"), py::arg("rows"), py::arg("cols"));
  m.def("completion_svd", svd, py::arg("U"), py::arg("V"));
}

} // namespace lowla::bindings
