// Bindings of the scores of rows and of sampling by them.
#include "arrays.hpp"
#include "scores_request.hpp"

namespace lowla::bindings::gpu {
namespace {

/// finish(T{}, f(scores)), f without the GIL.
template <class F, class Finish>
auto with_scores(const py::object &A, bool check_finite, F &&f, Finish &&finish) {
  const auto compute = [&](auto zero, auto &&open) {
    using T = decltype(zero);
    return finish(zero, without_gil([&] {
                    const auto matrix = open();
                    return f(RowScores<T>(*matrix, check_finite));
                  }));
  };
  if (py::isinstance<py::tuple>(A)) {
    const CsrParts parts(py::reinterpret_borrow<py::tuple>(A));
    return with_scalar(parts.data.dtype, [&](auto zero) {
      using T = decltype(zero);
      return with_index(parts, [&](auto integer) {
        const auto view = parts.view<T, decltype(integer)>();
        check_not_empty(view);
        return compute(zero, [&] { return Device<T>::scored(view, parts.stored()); });
      });
    });
  }
  const ArrayInfo array(A);
  return with_scalar(array.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto view = matrix_view_of<T>(array);
    check_not_empty(view);
    return compute(zero, [&] { return Device<T>::scored(view); });
  });
}

py::object leverage_scores(const py::object &A, const std::string &method, std::uint64_t key,
                           bool check_finite) {
  const LeverageMethod chosen = leverage_method(method);
  const Session session(located(A));
  return with_scores(
      A, check_finite, [&](auto scores) { return scores.leverage(chosen, key); },
      [](auto zero, const std::vector<double> &tau) { return vector_of<decltype(zero)>(tau); });
}

py::tuple lewis_weights(const py::object &A, double p, double tol, index max_iter) {
  LewisFacts facts;
  const Session session(located(A));
  return with_scores(
      A, true, [&](auto scores) { return scores.lewis(p, tol, max_iter, facts); },
      [&](auto zero, const std::vector<double> &w) {
        return py::make_tuple(vector_of<decltype(zero)>(w), to_dict(facts));
      });
}

py::object row_scores(const py::object &A, double p, const std::string &method, std::uint64_t key,
                      bool check_finite) {
  const SampleMethod chosen = sample_method(method);
  const Session session(located(A));
  return with_scores(
      A, check_finite, [&](auto scores) { return scores.sampling(p, chosen, key); },
      [](auto, const std::vector<double> &found) { return vector_of<double>(found); });
}

/// The scores come down: drawing takes their running sums, in order.
py::tuple sample(const py::object &scores, index n_samples, double p, std::uint64_t key) {
  const Session session(scores);
  const ArrayInfo info(scores);
  if (info.ndim() != 1)
    throw ValueError("scores must have 1 dimension, got " + std::to_string(info.ndim()));
  if (!info.dtype.equal(py::dtype::of<double>()))
    throw py::type_error("scores must be float64");
  const index m = info.size();
  const auto item = static_cast<index>(sizeof(double));
  if (m > 1 && info.strides[0] % item != 0)
    throw py::type_error("scores are not aligned to their items");
  const MatrixView<double> row{static_cast<const double *>(info.data), 1, m, m,
                               m > 1 ? info.strides[0] / item : 1};
  const SampledRows made = without_gil([&] {
    Device<double>::Panel values(1, m);
    Device<double>::load(values, row);
    return sample_rows(to_host<Runtime>(values.row(0), m), n_samples, p, key);
  });
  const auto count = static_cast<index>(made.rows.size());
  const Output<std::int64_t> rows({count});
  Runtime::to_device(rows.data, made.rows.data(), made.rows.size() * sizeof(index));
  return py::make_tuple(rows.array, vector_of<double>(made.weights));
}

} // namespace

void register_scores(py::module_ &m) {
  m.def("leverage_scores", &leverage_scores, py::arg("A"), py::arg("method"), py::arg("key"),
        py::arg("check_finite"));
  m.def("lewis_weights", &lewis_weights, py::arg("A"), py::arg("p"), py::arg("tol"),
        py::arg("max_iter"));
  m.def("row_scores", &row_scores, py::arg("A"), py::arg("p"), py::arg("method"), py::arg("key"),
        py::arg("check_finite"));
  m.def("sample_rows", &sample, py::arg("scores"), py::arg("n_samples"), py::arg("p"),
        py::arg("key"));
}

} // namespace lowla::bindings::gpu
