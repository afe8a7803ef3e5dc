// Bindings of entropic optimal transport, log-sum-exp and softmax.
//
// On the device are costs, points, plans and gradients; weights, potentials and sparse plans are in
// main memory and come and go as NumPy arrays.
#include "arrays.hpp"
#include "sinkhorn_request.hpp"

#include "lowla/device/cuda_sinkhorn.hpp"

namespace lowla::bindings::gpu {
namespace {

using Sinkhorn = CudaSinkhorn<Runtime>;

/// f(T{}) for a real dtype.
template <class F> auto with_real(const py::dtype &dtype, const char *name, F &&f) {
  if (dtype.equal(py::dtype::of<float>()))
    return f(float{});
  if (dtype.equal(py::dtype::of<double>()))
    return f(double{});
  throw py::type_error(std::string(name) + " must be float32 or float64");
}

Vectors points_of(const py::handle &array, const char *name) {
  const ArrayInfo X(array);
  if (X.ndim() != 2)
    throw ValueError(std::string(name) + " must have 2 dimensions");
  return with_real(X.dtype, name, [&](auto zero) {
    const auto view = view_of<decltype(zero)>(X);
    return Vectors{view.data, sizeof zero == sizeof(double), view.m, view.n, view.rs, view.cs};
  });
}

struct Points {
  Vectors X, Y;
  Metric metric;

  explicit Points(const py::tuple &cost)
      : X(points_of(cost[0], "X")), Y(points_of(cost[1], "Y")),
        metric(metric_of(py::cast<std::string>(cost[2]))) {
    if (X.cols != Y.cols)
      throw ValueError("X and Y must be points of one dimension");
  }
};

py::object located_cost(const py::object &cost) {
  return py::isinstance<py::tuple>(cost) ? py::object(py::reinterpret_borrow<py::tuple>(cost)[0])
                                         : cost;
}

/// The cost, and the dtype of its plan.
struct HeldCost {
  bool points;
  py::dtype dtype;
  std::unique_ptr<TransportCost> cost;

  explicit HeldCost(const py::object &given)
      : points(py::isinstance<py::tuple>(given)), dtype(py::dtype::of<double>()) {
    if (points) {
      const Points clouds(py::reinterpret_borrow<py::tuple>(given));
      cost = Sinkhorn::points_cost(clouds.X, clouds.Y, clouds.metric);
      return;
    }
    const ArrayInfo C(given);
    dtype = C.dtype;
    cost = with_real(dtype, "C", [&](auto zero) {
      return Sinkhorn::array_cost(matrix_view_of<decltype(zero)>(C));
    });
  }
};

py::tuple solve(const Doubles &a, const Doubles &b, const py::object &cost, double reg,
                const std::string &method, double tol, index max_iter, index warmup,
                double sparsity, const py::object &f0, const py::object &g0, bool check_finite,
                const py::object &monitor) {
  const Session session(located_cost(cost));
  const HeldCost held(cost);
  const TransportRequest request{reg,    tol,      method,      max_iter,
                                 warmup, sparsity, held.points, make_monitor(monitor)};
  return solve_transport(a, b, *held.cost, request, f0, g0, check_finite);
}

py::object plan(const py::object &cost, const Doubles &f, const Doubles &g, double reg) {
  const Session session(located_cost(cost));
  const HeldCost held(cost);
  const Vector left = vector_from(f), right = vector_from(g);
  require_fits(*held.cost, left, right, "f and g");
  return with_real(held.dtype, "C", [&](auto zero) {
    const Output<decltype(zero)> P({held.cost->m, held.cost->n});
    without_gil([&] { held.cost->plan(left, right, reg, P.data); });
    return P.array;
  });
}

py::tuple sparse(const py::object &cost, const Doubles &f, const Doubles &g, double reg,
                 double threshold) {
  const Session session(located_cost(cost));
  const HeldCost held(cost);
  return sparse_transport(*held.cost, vector_from(f), vector_from(g), reg, threshold);
}

py::tuple gradient(const py::tuple &cost, const Doubles &f, const Doubles &g, double reg) {
  const Session session(located_cost(cost));
  const Points points(cost);
  const Vector left = vector_from(f), right = vector_from(g);
  const index m = points.X.rows, n = points.Y.rows, d = points.X.cols;
  if (f.size() != m || g.size() != n)
    throw ValueError("f and g must have an entry for each point");
  const Output<double> by_x({m, d}), by_y({n, d});
  without_gil([&] {
    Sinkhorn::gradient(points.X, points.Y, points.metric, left, right, reg, by_x.data, by_y.data);
  });
  return py::make_tuple(by_x.array, by_y.array);
}

/// The lines of X (..., n), with neighbouring axes as one where their places allow it; false where
/// there are too many.
template <class S> bool find_lines(const ArrayInfo &X, Lines<S> &out) {
  const auto item = static_cast<index>(sizeof(S));
  const std::size_t last = X.shape.size() - 1;
  out = {static_cast<const S *>(X.data), 1, X.shape[last], X.strides[last] / item, 0, {}, {}};
  for (std::size_t axis = 0; axis < last; ++axis) {
    const index size = X.shape[axis], stride = X.strides[axis] / item;
    out.count *= size;
    if (size == 1)
      continue;
    if (out.axes > 0 && out.strides[out.axes - 1] == size * stride) {
      out.sizes[out.axes - 1] *= size;
      out.strides[out.axes - 1] = stride;
      continue;
    }
    if (out.axes == Lines<S>::kAxes)
      return false;
    out.sizes[out.axes] = size;
    out.strides[out.axes++] = stride;
  }
  return true;
}

/// f(S{}, lines) of X (..., n); a copy where it has more axes than can be followed.
template <class F> py::object by_lines(const py::object &X, F &&f) {
  const Session session(X);
  const ArrayInfo array(X);
  if (array.ndim() < 1)
    throw ValueError("X must have at least 1 dimension");
  return with_real(array.dtype, "X", [&](auto zero) -> py::object {
    using S = decltype(zero);
    Lines<S> lines;
    if (find_lines(array, lines))
      return f(zero, lines, array.shape);
    const py::object copy = py::module_::import(kArrayLibrary).attr("ascontiguousarray")(X);
    find_lines(ArrayInfo(copy), lines);
    return f(zero, lines, array.shape);
  });
}

py::object sum_lines(const py::object &X) {
  return by_lines(X, [](auto zero, const auto &lines, std::vector<index> shape) -> py::object {
    using S = decltype(zero);
    shape.pop_back();
    const Output<S> out(shape);
    without_gil([&] { CudaLogsumexp<S, Runtime>::logsumexp(lines, out.data); });
    return out.array;
  });
}

py::object normalize_lines(const py::object &X) {
  return by_lines(X, [](auto zero, const auto &lines, std::vector<index> shape) -> py::object {
    using S = decltype(zero);
    if (lines.across()) { // the result lies as X does
      shape.insert(shape.begin(), shape.back());
      shape.pop_back();
    }
    const Output<S> out(shape);
    without_gil([&] { CudaLogsumexp<S, Runtime>::softmax(lines, out.data); });
    return lines.across() ? py::module_::import(kArrayLibrary).attr("moveaxis")(out.array, 0, -1)
                          : out.array;
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
  m.def("logsumexp", &sum_lines, py::arg("X"));
  m.def("softmax", &normalize_lines, py::arg("X"));
}

} // namespace lowla::bindings::gpu
