// The passes of completion over observed entries, one by one, for the tests.
#include "completion_request.hpp"
#include "session.hpp"

#include "lowla/device/cuda_completion.hpp"

namespace lowla::bindings::gpu {
namespace {

template <class N> using Held = py::array_t<N, py::array::c_style | py::array::forcecast>;

py::array_t<double> array_of(const Factor &X) {
  py::array_t<double> out({X.rows, X.cols});
  for (index i = 0; i < X.rows; ++i)
    std::copy(X.row(i), X.row(i) + X.cols, out.mutable_data(i, 0));
  return out;
}

/// `pass` over the rows of M (over its columns if `transposed`), regressed on F from U; what it
/// makes of U, or returns, and the sum of squares, or None.
template <class S>
py::tuple pass_of(const std::string &pass, const py::tuple &M, const py::object &weights,
                  bool transposed, const Doubles &F, const py::object &offset, const Doubles &U,
                  double parameter) {
  const auto indptr = py::cast<Held<std::int64_t>>(M[0]);
  const auto indices = py::cast<Held<std::int32_t>>(M[1]);
  const auto values = py::cast<Held<S>>(M[2]);
  const auto shape = py::cast<std::pair<index, index>>(M[3]);
  Doubles w, offsets;
  if (!weights.is_none())
    w = py::cast<Doubles>(weights);
  if (!offset.is_none())
    offsets = py::cast<Doubles>(offset);
  const auto matrix = CudaCompletion<S, Runtime>::open(
      {shape.first, shape.second, static_cast<index>(values.size()), indptr.data(), indices.data(),
       values.data(), weights.is_none() ? nullptr : w.data()});
  const ObservedRows &rows = transposed ? matrix->cols() : matrix->rows();
  const Factor fixed = factor_from(F, F.shape(0));
  Factor u = factor_from(U, U.shape(0));
  const Regressors on{fixed, offset.is_none() ? nullptr : offsets.data()};
  constexpr index kSteps = 2;
  if (pass == "exact") {
    const double left = rows.exact(on, parameter, u);
    return py::make_tuple(array_of(u), left);
  }
  if (pass == "cg") {
    const double left = rows.cg(on, parameter, kSteps, u);
    return py::make_tuple(array_of(u), left);
  }
  if (pass == "nonnegative") {
    rows.nonnegative(on, parameter, u);
    return py::make_tuple(array_of(u), py::none());
  }
  if (pass == "gradient")
    return py::make_tuple(array_of(rows.gradient(on, u)), rows.residual2(on, u));
  const auto found = pass == "residuals" ? rows.residuals(on, u)
                                         : rows.reweighted(on, u, parameter)->residuals(on, u);
  return py::make_tuple(py::array_t<double>(static_cast<py::ssize_t>(found.size()), found.data()),
                        pass == "residuals" ? rows.residual2(on, u)
                                            : rows.reweighted(on, u, parameter)->residual2(on, u));
}

} // namespace

void register_rows(py::module_ &m) {
  m.def("completion_rows",
        [](const std::string &pass, const py::tuple &M, const py::object &weights, bool transposed,
           const Doubles &F, const py::object &offset, const Doubles &U, double parameter) {
          const bool single = py::cast<py::array>(M[2]).dtype().equal(py::dtype::of<float>());
          return (single ? &pass_of<float> : &pass_of<double>)(pass, M, weights, transposed, F,
                                                               offset, U, parameter);
        });
}

} // namespace lowla::bindings::gpu
