// Bindings of matrix completion.
#include "lowla/core/threads.hpp"

#include "completion_request.hpp"

namespace lowla::bindings {
namespace {

using Places = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

/// The caller's entries by rows, indices in 32 bits; a copy where they are stored otherwise.
template <class S> struct HeldObservations {
  py::array_t<std::int64_t, py::array::c_style | py::array::forcecast> indptr;
  py::array_t<std::int32_t, py::array::c_style | py::array::forcecast> indices;
  py::array_t<S, py::array::c_style> values;
  Doubles weights;
  Observations<S> view;

  HeldObservations(const py::tuple &M, const py::object &given)
      : indptr(py::cast<decltype(indptr)>(M[0])), values(py::cast<decltype(values)>(M[2])) {
    const auto shape = py::cast<py::tuple>(M[3]);
    constexpr index kMost = std::numeric_limits<std::int32_t>::max();
    view.m = py::cast<index>(shape[0]);
    view.n = py::cast<index>(shape[1]);
    if (view.m > kMost || view.n > kMost)
      throw ValueError("M must have fewer than 2^31 rows and columns");
    indices = py::cast<decltype(indices)>(M[1]);
    view.indptr = indptr.data();
    view.indices = indices.data();
    view.values = values.data();
    if (!valid())
      throw ValueError("M is not a valid CSR matrix");
    if (!given.is_none()) {
      weights = py::cast<Doubles>(given);
      if (weights.size() != view.nnz())
        throw ValueError("weights must have one number for each entry of M");
      view.weights = weights.data();
    }
  }

private:
  /// Nothing is read out of bounds.
  bool valid() const {
    if (indptr.size() != view.m + 1 || indices.size() != values.size() || view.indptr[0] != 0 ||
        view.indptr[view.m] != indices.size())
      return false;
    for (index i = 0; i < view.m; ++i)
      if (view.indptr[i] > view.indptr[i + 1])
        return false;
    for (index t = 0; t < view.nnz(); ++t)
      if (view.indices[t] < 0 || view.indices[t] >= view.n)
        return false;
    return true;
  }
};

/// f(observations) of a CSR matrix of float32 or float64.
template <class F> auto with_observations(const py::tuple &M, const py::object &weights, F &&f) {
  const char kind = py::cast<py::array>(M[2]).dtype().char_();
  if (kind == 'f')
    return f(HeldObservations<float>(M, weights).view);
  if (kind == 'd')
    return f(HeldObservations<double>(M, weights).view);
  throw py::type_error("M must be float32 or float64");
}

template <class S> py::array_t<S> columns_of(const Factor &X, index columns) {
  py::array_t<S> out({X.rows, columns});
  S *to = out.mutable_data();
  for (index i = 0; i < X.rows; ++i)
    for (index a = 0; a < columns; ++a)
      *to++ = static_cast<S>(X.row(i)[a]);
  return out;
}

template <class S> py::object bias_of(const Factor &X, index k) {
  if (X.cols == k)
    return py::none();
  py::array_t<S> out(X.rows);
  for (index i = 0; i < X.rows; ++i)
    out.mutable_data()[i] = static_cast<S>(X.row(i)[k]);
  return out;
}

py::tuple solve(const py::tuple &M, const py::object &weights, index k, const std::string &method,
                const std::string &loss, const std::string &solver, bool bias, bool nonnegative,
                double reg, index n_iter, double tol, const std::string &init, const py::object &U0,
                const py::object &V0, std::uint64_t key, bool check_finite,
                const py::object &monitor) {
  const CompletionRequest request =
      completion_request(k, method, loss, solver, bias, nonnegative, reg, n_iter, tol, init, key,
                         check_finite, monitor);
  return with_observations(M, weights, [&](const auto &view) -> py::tuple {
    using S = std::decay_t<decltype(*view.values)>;
    check_completion("k", k, view.m, view.n, view.nnz());
    ensure_blas();
    const GivenFactors given(U0, V0, view.m, view.n, request);
    const Completion r =
        without_gil([&] { return complete(view, request, given.left(), given.right()); });
    return py::make_tuple(columns_of<S>(r.U, k), columns_of<S>(r.V, k), r.mean, bias_of<S>(r.U, k),
                          bias_of<S>(r.V, k), to_dict(r.facts));
  });
}

py::tuple nuclear(const py::tuple &M, double lam, index rank_max, index n_iter, double tol,
                  std::uint64_t key, bool check_finite, const py::object &monitor) {
  const SoftImputeRequest request =
      soft_impute_request(lam, rank_max, n_iter, tol, key, check_finite, monitor);
  return with_observations(M, py::none(), [&](const auto &view) -> py::tuple {
    using S = std::decay_t<decltype(*view.values)>;
    check_completion("rank_max", rank_max, view.m, view.n, view.nnz());
    ensure_blas();
    const SoftImputed r = without_gil([&] { return soft_impute(*observed_matrix(view), request); });
    return py::make_tuple(columns_of<S>(r.U, r.U.cols), columns_of<S>(r.V, r.V.cols), to_dict(r));
  });
}

py::array holdout(const py::tuple &M, double fraction, std::uint64_t key) {
  return with_observations(M, py::none(), [&](const auto &view) -> py::array {
    py::array_t<bool> out(view.nnz());
    bool *to = out.mutable_data();
    without_gil([&] { draw_holdout(view.indptr, view.indices, view.m, fraction, key, to); });
    return out;
  });
}

/// The factors with the biases (as offsets of ones) behind them, so that one product predicts.
struct Model {
  Factor U, V;
  Model(const Doubles &left, const Doubles &right, double mean, const py::object &row_bias,
        const py::object &col_bias) {
    if (left.ndim() != 2 || right.ndim() != 2 || left.shape(1) != right.shape(1))
      throw ValueError("U and V must have as many columns");
    const index k = left.shape(1);
    const bool bias = !row_bias.is_none() && !col_bias.is_none();
    U = widened(left, k + (bias ? 2 : 0));
    V = widened(right, k + (bias ? 2 : 0));
    if (!bias)
      return;
    const auto a = py::cast<Doubles>(row_bias), b = py::cast<Doubles>(col_bias);
    if (a.size() != U.rows || b.size() != V.rows)
      throw ValueError("biases must have one number for each row and column");
    for (index i = 0; i < U.rows; ++i) {
      U.row(i)[k] = a.data()[i] + mean;
      U.row(i)[k + 1] = 1.0;
    }
    for (index j = 0; j < V.rows; ++j) {
      V.row(j)[k] = 1.0;
      V.row(j)[k + 1] = b.data()[j];
    }
  }

private:
  static Factor widened(const Doubles &X, index columns) {
    Factor out(X.shape(0), columns);
    out.zero();
    for (index i = 0; i < out.rows; ++i)
      std::copy(X.data(i, 0), X.data(i, 0) + X.shape(1), out.row(i));
    return out;
  }
};

double rmse(const py::tuple &M, const py::object &weights, const Doubles &U, const Doubles &V,
            double mean, const py::object &row_bias, const py::object &col_bias) {
  const Model model(U, V, mean, row_bias, col_bias);
  return with_observations(M, weights, [&](const auto &view) {
    using S = std::decay_t<decltype(*view.values)>;
    if (view.m != model.U.rows || view.n != model.V.rows)
      throw ValueError("U and V must have a row for each row and column of M");
    return without_gil([&] {
      const RowProblem<S> problem{view, nullptr, model.V};
      double total = static_cast<double>(view.nnz());
      if (view.weights != nullptr) {
        total = 0;
        for (index t = 0; t < view.nnz(); ++t)
          total += view.weights[t];
      }
      return std::sqrt(residual2(problem, model.U) / total);
    });
  });
}

py::array predict(const py::array &U, const py::array &V, double mean, const py::object &row_bias,
                  const py::object &col_bias, const Places &rows, const Places &cols) {
  const Model model(py::cast<Doubles>(U), py::cast<Doubles>(V), mean, row_bias, col_bias);
  const auto inside = [](const Places &places, index size) {
    return std::all_of(places.data(), places.data() + places.size(),
                       [&](std::int64_t i) { return i >= 0 && i < size; });
  };
  if (rows.size() != cols.size())
    throw ValueError("rows and cols must have as many indices");
  if (!inside(rows, model.U.rows) || !inside(cols, model.V.rows))
    throw py::index_error("an index is out of range");
  const auto fill = [&](auto zero) -> py::array {
    using S = decltype(zero);
    py::array_t<S> out(rows.size());
    S *to = out.mutable_data();
    without_gil([&] {
      constexpr index kPairs = 1 << 14;
      const index count = rows.size();
      threads::parallel_for((count + kPairs - 1) / kPairs, [&](index c) {
        for (index t = c * kPairs; t < std::min(count, (c + 1) * kPairs); ++t) {
          const double *u = model.U.row(rows.data()[t]), *v = model.V.row(cols.data()[t]);
          double sum = 0;
          for (index a = 0; a < model.U.cols; ++a)
            sum += u[a] * v[a];
          to[t] = static_cast<S>(sum);
        }
      });
    });
    return out;
  };
  return U.dtype().char_() == 'f' ? fill(float{}) : fill(double{});
}

py::tuple svd(const py::array &U, const py::array &V) {
  const Doubles left = py::cast<Doubles>(U), right = py::cast<Doubles>(V);
  if (left.ndim() != 2 || right.ndim() != 2 || left.shape(1) != right.shape(1))
    throw ValueError("U and V must have as many columns");
  ensure_blas();
  const Factor X = factor_from(left, left.shape(0)), Y = factor_from(right, right.shape(0));
  const BalancedFactors f = without_gil([&] { return balanced(X, Y); });
  const auto wrap = [&](auto zero) -> py::tuple {
    using S = decltype(zero);
    py::array_t<S> Vh({Y.cols, Y.rows});
    for (index a = 0; a < Y.cols; ++a)
      for (index j = 0; j < Y.rows; ++j)
        Vh.mutable_data()[a * Y.rows + j] = static_cast<S>(f.right.row(j)[a]);
    return py::make_tuple(columns_of<S>(f.left, X.cols), vector_of<S>(f.s), Vh);
  };
  return U.dtype().char_() == 'f' ? wrap(float{}) : wrap(double{});
}

} // namespace

void register_completion(py::module_ &m) {
  add_completion(m, &solve, &nuclear, &holdout, &rmse, &predict, &svd);
}

} // namespace lowla::bindings
