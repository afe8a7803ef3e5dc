// Bindings of entropic optimal transport, log-sum-exp and softmax.
#include "sinkhorn_request.hpp"

namespace lowla::bindings {
namespace {

struct Points {
  Doubles X, Y;
  Metric metric;

  explicit Points(const py::tuple &cost)
      : X(py::cast<Doubles>(cost[0])), Y(py::cast<Doubles>(cost[1])),
        metric(metric_of(py::cast<std::string>(cost[2]))) {
    if (X.ndim() != 2 || Y.ndim() != 2 || X.shape(1) != Y.shape(1))
      throw ValueError("X and Y must be points of one dimension");
  }
};

/// The cost, and the arrays that own its memory.
struct HeldCost {
  py::array C;
  std::optional<Points> points;
  std::unique_ptr<TransportCost> cost;

  explicit HeldCost(const py::object &given) {
    if (py::isinstance<py::tuple>(given)) {
      points.emplace(py::reinterpret_borrow<py::tuple>(given));
      cost = points_cost(points->X.data(), points->X.shape(0), points->Y.data(), points->Y.shape(0),
                         points->X.shape(1), points->metric);
      return;
    }
    C = py::cast<py::array>(given);
    if (C.dtype().char_() == 'f')
      cost = array_cost(view_of<float>(C));
    else if (C.dtype().char_() == 'd')
      cost = array_cost(view_of<double>(C));
    else
      throw py::type_error("C must be float32 or float64");
  }
};

py::tuple solve(const Doubles &a, const Doubles &b, const py::object &cost, double reg,
                const std::string &method, double tol, index max_iter, index warmup,
                double sparsity, const py::object &f0, const py::object &g0, bool check_finite,
                const py::object &monitor) {
  const HeldCost held(cost);
  const TransportRequest request{
      reg, tol, method, max_iter, warmup, sparsity, held.points.has_value(), make_monitor(monitor)};
  return solve_transport(a, b, *held.cost, request, f0, g0, check_finite);
}

py::array plan(const py::object &cost, const Doubles &f, const Doubles &g, double reg) {
  const HeldCost held(cost);
  const Vector left = vector_from(f), right = vector_from(g);
  require_fits(*held.cost, left, right, "f and g");
  const auto fill = [&](auto zero) -> py::array {
    using R = decltype(zero);
    py::array_t<R> P({held.cost->m, held.cost->n});
    R *out = P.mutable_data();
    without_gil([&] { held.cost->plan(left, right, reg, out); });
    return P;
  };
  if (!held.points && held.C.dtype().char_() == 'f')
    return fill(float{});
  return fill(double{});
}

py::tuple sparse(const py::object &cost, const Doubles &f, const Doubles &g, double reg,
                 double threshold) {
  const HeldCost held(cost);
  return sparse_transport(*held.cost, vector_from(f), vector_from(g), reg, threshold);
}

py::tuple gradient(const py::tuple &cost, const Doubles &f, const Doubles &g, double reg) {
  const Points points(cost);
  const Vector left = vector_from(f), right = vector_from(g);
  const index m = points.X.shape(0), n = points.Y.shape(0), d = points.X.shape(1);
  if (f.size() != m || g.size() != n)
    throw ValueError("f and g must have an entry for each point");
  py::array_t<double> by_x({m, d}), by_y({n, d});
  double *x = by_x.mutable_data(), *y = by_y.mutable_data();
  without_gil([&] {
    transport_gradient(points.X.data(), m, points.Y.data(), n, d, points.metric, left, right, reg,
                       x, y);
  });
  return py::make_tuple(by_x, by_y);
}

/// f(T{}, rows, stride, n, data) of X (..., n) as rows; a copy unless they follow one another.
template <class F> py::array by_rows(const py::array &X, F &&f) {
  if (X.ndim() < 1)
    throw ValueError("X must have at least 1 dimension");
  const auto with = [&](auto zero) -> py::array {
    using T = decltype(zero);
    const py::ssize_t n = X.shape(X.ndim() - 1);
    const bool matrix = X.ndim() == 2 && (n <= 1 || X.strides(1) == sizeof(T)) &&
                        X.strides(0) % static_cast<py::ssize_t>(sizeof(T)) == 0;
    if (matrix) {
      const py::array_t<T> same(X);
      return f(zero, static_cast<index>(X.shape(0)),
               static_cast<index>(X.strides(0) / static_cast<py::ssize_t>(sizeof(T))),
               static_cast<index>(n), same.data());
    }
    const auto whole = py::array_t<T, py::array::c_style | py::array::forcecast>(X);
    return f(zero, static_cast<index>(n > 0 ? whole.size() / n : 0), static_cast<index>(n),
             static_cast<index>(n), whole.data());
  };
  if (X.dtype().char_() == 'f')
    return with(float{});
  if (X.dtype().char_() == 'd')
    return with(double{});
  throw py::type_error("X must be float32 or float64");
}

py::array sum_rows(const py::array &X) {
  return by_rows(
      X, [&](auto zero, index rows, index stride, index n, const auto *data) -> py::array {
        using T = decltype(zero);
        py::array_t<T> out(std::vector<py::ssize_t>(X.shape(), X.shape() + X.ndim() - 1));
        T *to = out.mutable_data();
        without_gil([&] { logsumexp(data, rows, stride, n, to); });
        return out;
      });
}

py::array normalize_rows(const py::array &X) {
  return by_rows(X,
                 [&](auto zero, index rows, index stride, index n, const auto *data) -> py::array {
                   using T = decltype(zero);
                   py::array_t<T> out(std::vector<py::ssize_t>(X.shape(), X.shape() + X.ndim()));
                   T *to = out.mutable_data();
                   without_gil([&] { softmax(data, rows, stride, n, to); });
                   return out;
                 });
}

} // namespace

void register_sinkhorn(py::module_ &m) {
  m.def("sinkhorn", &solve, py::arg("a"), py::arg("b"), py::arg("cost"), py::arg("reg"),
        py::arg("method"), py::arg("tol"), py::arg("max_iter"), py::arg("warmup"),
        py::arg("sparsity"), py::arg("f0"), py::arg("g0"), py::arg("check_finite"),
        py::arg("monitor"));
  m.def("transport_plan", &plan, py::arg("cost"), py::arg("f"), py::arg("g"), py::arg("reg"));
  m.def("transport_sparse", &sparse, py::arg("cost"), py::arg("f"), py::arg("g"), py::arg("reg"),
        py::arg("threshold"));
  m.def("transport_gradient", &gradient, py::arg("cost"), py::arg("f"), py::arg("g"),
        py::arg("reg"));
  m.def("logsumexp", &sum_rows, py::arg("X"));
  m.def("softmax", &normalize_rows, py::arg("X"));
}

} // namespace lowla::bindings
