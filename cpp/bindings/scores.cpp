// Bindings of the scores of rows and of sampling by them.
#include "scores_request.hpp"

namespace lowla::bindings {
namespace {

/// finish(T{}, f(scores)), f without the GIL.
template <class F, class Finish>
auto with_scores(const py::object &A, bool check_finite, F &&f, Finish &&finish) {
  ensure_blas();
  return with_view(A, [&](auto zero, auto view) {
    using T = decltype(zero);
    check_not_empty(view);
    return finish(zero, without_gil([&] {
                    const auto matrix = scored(view);
                    return f(RowScores<T>(*matrix, check_finite));
                  }));
  });
}

py::array leverage_scores(const py::object &A, const std::string &method, std::uint64_t key,
                          bool check_finite) {
  const LeverageMethod chosen = leverage_method(method);
  return with_scores(
      A, check_finite, [&](auto scores) { return scores.leverage(chosen, key); },
      [](auto zero, const std::vector<double> &tau) -> py::array {
        return vector_of<real_t<decltype(zero)>>(tau);
      });
}

py::tuple lewis_weights(const py::object &A, double p, double tol, index max_iter) {
  LewisFacts facts;
  return with_scores(
      A, true, [&](auto scores) { return scores.lewis(p, tol, max_iter, facts); },
      [&](auto zero, const std::vector<double> &w) -> py::tuple {
        return py::make_tuple(vector_of<real_t<decltype(zero)>>(w), to_dict(facts));
      });
}

py::array row_scores(const py::object &A, double p, const std::string &method, std::uint64_t key,
                     bool check_finite) {
  const SampleMethod chosen = sample_method(method);
  return with_scores(
      A, check_finite, [&](auto scores) { return scores.sampling(p, chosen, key); },
      [](auto, const std::vector<double> &found) -> py::array { return vector_of<double>(found); });
}

py::tuple sample(const py::array_t<double, py::array::c_style | py::array::forcecast> &scores,
                 index n_samples, double p, std::uint64_t key) {
  if (scores.ndim() != 1)
    throw ValueError("scores must have 1 dimension, got " + std::to_string(scores.ndim()));
  const std::vector<double> values(scores.data(), scores.data() + scores.size());
  const SampledRows made = without_gil([&] { return sample_rows(values, n_samples, p, key); });
  return py::make_tuple(
      py::array_t<std::int64_t>(static_cast<py::ssize_t>(made.rows.size()), made.rows.data()),
      vector_of<double>(made.weights));
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

} // namespace lowla::bindings
