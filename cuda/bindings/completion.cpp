// Bindings of matrix completion.
//
// On the device are the entries, weights, factors, biases and predictions; the factors to begin
// with come as NumPy arrays.
#include "arrays.hpp"
#include "completion_request.hpp"

#include "lowla/device/cuda_completion.hpp"

#include <limits>
#include <optional>

namespace lowla::bindings::gpu {
namespace {

template <class S> using Completions = CudaCompletion<S, Runtime>;

/// A contiguous array of N; a copy where it is stored otherwise.
template <class N> struct Contiguous {
  py::object array;
  ArrayInfo info;
  const N *data;

  Contiguous(const py::object &given, const char *name)
      : array(converted(given, name)), info(array), data(static_cast<const N *>(info.data)) {}

private:
  static py::object converted(const py::object &given, const char *name) {
    if (!is_array(given))
      throw py::type_error(std::string(name) + " must be an array of " + kArrayLibrary);
    return py::module_::import(kArrayLibrary).attr("ascontiguousarray")(given, py::dtype::of<N>());
  }
};

/// f(S{}) for float32 and float64.
template <class F> auto with_real(const py::object &array, const char *name, F &&f) {
  if (!is_array(array))
    throw py::type_error(std::string(name) + " must be an array of " + kArrayLibrary);
  const py::dtype dtype = ArrayInfo(array).dtype;
  if (dtype.equal(py::dtype::of<float>()))
    return f(float{});
  if (dtype.equal(py::dtype::of<double>()))
    return f(double{});
  throw py::type_error(std::string(name) + " must be float32 or float64");
}

/// The caller's entries by rows, indices in 32 bits.
template <class S> struct HeldEntries {
  Contiguous<std::int64_t> indptr;
  Contiguous<std::int32_t> indices;
  Contiguous<S> values;
  std::optional<Contiguous<double>> weights;
  StoredEntries<S> view{};

  HeldEntries(const py::tuple &M, const py::object &given)
      : indptr(M[0], "M"), indices(checked(M)[1], "M"), values(M[2], "M") {
    const auto shape = py::cast<py::tuple>(M[3]);
    view.m = py::cast<index>(shape[0]);
    view.n = py::cast<index>(shape[1]);
    view.nnz = values.info.size();
    view.indptr = indptr.data;
    view.indices = indices.data;
    view.values = values.data;
    if (indptr.info.size() != view.m + 1 || indices.info.size() != view.nnz ||
        !without_gil([&] { return Completions<S>::valid(view); }))
      throw ValueError("M is not a valid CSR matrix");
    if (given.is_none())
      return;
    weights.emplace(given, "weights");
    if (weights->info.size() != view.nnz)
      throw ValueError("weights must have one number for each entry of M");
    view.weights = weights->data;
  }

private:
  static const py::tuple &checked(const py::tuple &M) {
    constexpr index kMost = std::numeric_limits<std::int32_t>::max();
    const auto shape = py::cast<py::tuple>(M[3]);
    if (py::cast<index>(shape[0]) > kMost || py::cast<index>(shape[1]) > kMost)
      throw ValueError("M must have fewer than 2^31 rows and columns");
    return M;
  }
};

/// f(entries) of a CSR matrix of float32 or float64.
template <class F> auto with_entries(const py::tuple &M, const py::object &weights, F &&f) {
  return with_real(M[2], "M",
                   [&](auto zero) { return f(HeldEntries<decltype(zero)>(M, weights).view); });
}

template <class S> py::object columns_of(const Factor &X, index columns) {
  std::vector<S> values;
  values.reserve(static_cast<std::size_t>(X.rows * columns));
  for (index i = 0; i < X.rows; ++i)
    for (index a = 0; a < columns; ++a)
      values.push_back(static_cast<S>(X.row(i)[a]));
  const Output<S> out({X.rows, columns});
  Runtime::to_device(out.data, values.data(), values.size() * sizeof(S));
  return out.array;
}

template <class S> py::object bias_of(const Factor &X, index k) {
  if (X.cols == k)
    return py::none();
  std::vector<double> bias(static_cast<std::size_t>(X.rows));
  for (index i = 0; i < X.rows; ++i)
    bias[static_cast<std::size_t>(i)] = X.row(i)[k];
  return vector_of<S>(bias);
}

py::tuple solve(const py::tuple &M, const py::object &weights, index k, const std::string &method,
                const std::string &loss, const std::string &solver, bool bias, bool nonnegative,
                double reg, index n_iter, double tol, const std::string &init, const py::object &U0,
                const py::object &V0, std::uint64_t key, bool check_finite,
                const py::object &monitor) {
  const CompletionRequest request =
      completion_request(k, method, loss, solver, bias, nonnegative, reg, n_iter, tol, init, key,
                         check_finite, monitor);
  const Session session(located(M));
  return with_entries(M, weights, [&](const auto &view) -> py::tuple {
    using S = std::decay_t<decltype(*view.values)>;
    check_completion("k", k, view.m, view.n, view.nnz);
    const GivenFactors given(U0, V0, view.m, view.n, request);
    const Completion r = without_gil([&] {
      return complete(*Completions<S>::open(view), request, given.left(), given.right());
    });
    return py::make_tuple(columns_of<S>(r.U, k), columns_of<S>(r.V, k), r.mean, bias_of<S>(r.U, k),
                          bias_of<S>(r.V, k), to_dict(r.facts));
  });
}

py::tuple nuclear(const py::tuple &M, double lam, index rank_max, index n_iter, double tol,
                  std::uint64_t key, bool check_finite, const py::object &monitor) {
  const SoftImputeRequest request =
      soft_impute_request(lam, rank_max, n_iter, tol, key, check_finite, monitor);
  const Session session(located(M));
  return with_entries(M, py::none(), [&](const auto &view) -> py::tuple {
    using S = std::decay_t<decltype(*view.values)>;
    check_completion("rank_max", rank_max, view.m, view.n, view.nnz);
    const SoftImputed r =
        without_gil([&] { return soft_impute(*Completions<S>::open(view), request); });
    return py::make_tuple(columns_of<S>(r.U, r.U.cols), columns_of<S>(r.V, r.V.cols), to_dict(r));
  });
}

py::object holdout(const py::tuple &M, double fraction, std::uint64_t key) {
  const Session session(located(M));
  return with_entries(M, py::none(), [&](const auto &view) -> py::object {
    using S = std::decay_t<decltype(*view.values)>;
    const Output<bool> out({view.nnz});
    without_gil([&] { Completions<S>::holdout(view, fraction, key, out.data); });
    return out.array;
  });
}

template <class S> struct HeldModel {
  Contiguous<S> U, V;
  std::optional<Contiguous<S>> row_bias, col_bias;
  StoredModel<S> view{};

  HeldModel(const py::object &left, const py::object &right, double mean, const py::object &by_row,
            const py::object &by_col)
      : U(left, "U"), V(right, "V") {
    if (U.info.ndim() != 2 || V.info.ndim() != 2 || U.info.shape[1] != V.info.shape[1])
      throw ValueError("U and V must have as many columns");
    view = {U.info.shape[0], V.info.shape[0], U.info.shape[1], U.data, V.data, mean,
            nullptr,         nullptr};
    if (by_row.is_none() || by_col.is_none())
      return;
    row_bias.emplace(by_row, "row_bias");
    col_bias.emplace(by_col, "col_bias");
    if (row_bias->info.size() != view.m || col_bias->info.size() != view.n)
      throw ValueError("biases must have one number for each row and column");
    view.row_bias = row_bias->data;
    view.col_bias = col_bias->data;
  }
};

double rmse(const py::tuple &M, const py::object &weights, const py::object &U, const py::object &V,
            double mean, const py::object &row_bias, const py::object &col_bias) {
  const Session session(located(M));
  return with_entries(M, weights, [&](const auto &view) {
    using S = std::decay_t<decltype(*view.values)>;
    const HeldModel<S> model(U, V, mean, row_bias, col_bias);
    if (view.m != model.view.m || view.n != model.view.n)
      throw ValueError("U and V must have a row for each row and column of M");
    return without_gil([&] { return Completions<S>::rmse(view, model.view); });
  });
}

py::object predict(const py::object &U, const py::object &V, double mean,
                   const py::object &row_bias, const py::object &col_bias, const py::object &rows,
                   const py::object &cols) {
  const Session session(located(U));
  return with_real(U, "U", [&](auto zero) -> py::object {
    using S = decltype(zero);
    const HeldModel<S> model(U, V, mean, row_bias, col_bias);
    const Contiguous<std::int64_t> i(rows, "rows"), j(cols, "cols");
    const index count = i.info.size();
    if (j.info.size() != count)
      throw ValueError("rows and cols must have as many indices");
    const Output<S> out({count});
    if (!without_gil(
            [&] { return Completions<S>::predict(model.view, i.data, j.data, count, out.data); }))
      throw py::index_error("an index is out of range");
    return out.array;
  });
}

/// Both factors in main memory.
py::tuple svd(const py::object &U, const py::object &V) {
  const Session session(located(U));
  return with_real(U, "U", [&](auto zero) -> py::tuple {
    using S = decltype(zero);
    const HeldModel<S> model(U, V, 0.0, py::none(), py::none());
    const BalancedFactors f = without_gil([&] {
      const auto factor = [](const S *X, index rows, index cols) {
        const std::vector<S> values = to_host<Runtime>(X, rows * cols);
        Factor out(rows, cols);
        out.zero();
        for (index i = 0; i < rows; ++i)
          std::copy(values.data() + i * cols, values.data() + (i + 1) * cols, out.row(i));
        return out;
      };
      const auto &view = model.view;
      return balanced(factor(view.U, view.m, view.k), factor(view.V, view.n, view.k));
    });
    Factor Vh(f.right.cols, f.right.rows);
    for (index a = 0; a < Vh.rows; ++a)
      for (index j = 0; j < Vh.cols; ++j)
        Vh.row(a)[j] = f.right.row(j)[a];
    return py::make_tuple(columns_of<S>(f.left, f.left.cols), vector_of<S>(f.s),
                          columns_of<S>(Vh, Vh.cols));
  });
}

} // namespace

void register_completion(py::module_ &m) {
  add_completion(m, &solve, &nuclear, &holdout, &rmse, &predict, &svd);
}

} // namespace lowla::bindings::gpu
