// Bindings of the Kronecker and Monarch products.
#include "kron_request.hpp"

#include "lowla/kron.hpp"
#include "lowla/monarch.hpp"

namespace lowla::bindings {
namespace {

/// Factors of a Kronecker product, and the arrays that own their memory.
template <class T> struct Factors {
  std::vector<py::array> held;
  std::vector<MatrixView<T>> views;
  index rows = 1, columns = 1;

  explicit Factors(const py::sequence &factors, bool conjugate = false) {
    for (const py::handle &factor : factors) {
      held.push_back(py::cast<py::array>(factor));
      views.push_back(view_of<T>(held.back()));
      views.back().conjugated = conjugate && is_complex_v<T>;
      rows *= views.back().m;
      columns *= views.back().n;
    }
  }
};

/// An uninitialised matrix in C order, or in Fortran order where `columns_first`.
template <class T> py::array_t<T> matrix_in_order(index rows, index columns, bool columns_first) {
  const std::vector<py::ssize_t> shape{rows, columns};
  if (!columns_first)
    return py::array_t<T>(shape);
  const auto item = static_cast<py::ssize_t>(sizeof(T));
  return py::array_t<T>(shape, std::vector<py::ssize_t>{item, item * rows});
}

/// multiply(columns of X, columns first, x, y) for X (n, r) as it lies in C or Fortran order (else
/// a copy) and a result of `rows` rows in the same order; zeros where `n` is 0.
template <class T, class F>
py::array in_order_of(const py::array &X, index n, index rows, F &&multiply) {
  if (X.ndim() != 2)
    throw ValueError("X must have 2 dimensions, got " + std::to_string(X.ndim()));
  if (X.shape(0) != n)
    throw ValueError("X must have " + std::to_string(n) + " rows, got " +
                     std::to_string(X.shape(0)));
  const index columns = X.shape(1);
  const bool columns_first =
      (X.flags() & py::array::f_style) != 0 && columns > 1 && (X.flags() & py::array::c_style) == 0;
  using Any = py::array_t<T, py::array::forcecast>;
  using ByRows = py::array_t<T, py::array::c_style | py::array::forcecast>;
  const Any x = columns_first ? Any(X) : Any(ByRows(X));
  py::array_t<T> Y = matrix_in_order<T>(rows, columns, columns_first);
  T *y = Y.mutable_data();
  if (rows == 0 || columns == 0)
    return Y;
  if (n == 0) {
    std::fill(y, y + rows * columns, T(0));
    return Y;
  }
  const T *source = x.data();
  without_gil([&] { multiply(columns, columns_first, source, y); });
  return Y;
}

/// K X, or conj(K) X; X (n, r) C- or Fortran-ordered (else copied), the result alike.
py::array kron_matmul(const py::sequence &factors, const py::array &X, bool conjugate) {
  return with_scalar(X.dtype(), [&](auto zero) -> py::array {
    using T = decltype(zero);
    const Factors<T> K(factors, conjugate);
    if (K.views.empty())
      throw ValueError("there must be at least one factor");
    return in_order_of<T>(X, K.columns, K.rows, [&](index columns, bool first, const T *x, T *y) {
      kron_multiply(K.views, x, columns, first, y);
    });
  });
}

/// V (w + shift)^-1 V^H b
py::array kron_solve_shifted(const py::sequence &w, const py::sequence &V, const py::array &b,
                             double shift) {
  return with_scalar(b.dtype(), [&](auto zero) -> py::array {
    using T = decltype(zero);
    using R = real_t<T>;
    const Factors<T> vectors(V);
    const auto values = eigenvalues_of(w, vectors.views);
    return in_order_of<T>(b, vectors.columns, vectors.rows,
                          [&](index columns, bool first, const T *x, T *y) {
                            lowla::kron_solve_shifted(values, vectors.views, static_cast<R>(shift),
                                                      x, columns, first, y);
                          });
  });
}

/// M X, M^T X, or either with M conjugated; X (n, c).
py::array monarch_matmul(const py::array &L, const py::array &R, const py::array &X, bool permuted,
                         bool transpose, bool conjugate) {
  if (L.ndim() != 3 || R.ndim() != 3 || X.ndim() != 2)
    throw ValueError("L and R must have 3 dimensions and X 2");
  return with_scalar(X.dtype(), [&](auto zero) -> py::array {
    using T = decltype(zero);
    using Rows = py::array_t<T, py::array::c_style | py::array::forcecast>;
    const Rows left(L), right(R);
    const MatrixView<T> x = view_of<T>(X);
    const Blocks<T> l{left.data(), left.shape(0), left.shape(1), left.shape(2)};
    const Blocks<T> r{right.data(), right.shape(0), right.shape(1), right.shape(2)};
    const index inner = transpose ? l.count * l.m : r.count * r.n;
    if (r.count * r.m != l.count * l.n || x.m != inner)
      throw ValueError("the blocks and X do not fit");
    py::array_t<T> Y({transpose ? r.count * r.n : l.count * l.m, x.n});
    T *y = Y.mutable_data();
    if (Y.size() == 0)
      return Y;
    if (inner == 0 || r.count * r.m == 0) {
      std::fill(y, y + Y.size(), T(0));
      return Y;
    }
    without_gil([&] { monarch_multiply(l, r, x, permuted, transpose, conjugate, y); });
    return Y;
  });
}

/// L and R of the Monarch matrix nearest to W, and the relative error.
py::tuple monarch_project(const py::array &W, index k, index l, bool check_finite) {
  return with_scalar(W.dtype(), [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const MatrixView<T> view = view_of<T>(W);
    if (k < 1 || l < 1 || view.n % k != 0 || view.m % l != 0 || W.size() == 0)
      throw ValueError("the blocks and W do not fit");
    py::array_t<T> L({l, view.m / l, k}), R({k, l, view.n / k});
    T *left = L.mutable_data(), *right = R.mutable_data();
    const double error =
        without_gil([&] { return lowla::monarch_project(view, k, l, check_finite, left, right); });
    return py::make_tuple(L, R, error);
  });
}

// --- the direct calls ---

/// What NumPy's own struct says of an array: no Python object is made to read it.
struct Plain {
  const py::detail::PyArray_Proxy *array = nullptr;
  int type = -1;

  /// Exactly a numpy.ndarray, aligned, in the machine's byte order, not empty; of `least` to `most`
  /// dimensions.
  explicit Plain(py::handle object, int least, int most) {
    using Api = py::detail::npy_api;
    if (static_cast<void *>(Py_TYPE(object.ptr())) != static_cast<void *>(Api::get().PyArray_Type_))
      return;
    const auto *proxy = py::detail::array_proxy(object.ptr());
    const auto *descr = py::detail::array_descriptor_proxy(proxy->descr);
    if (proxy->nd < least || proxy->nd > most || descr->byteorder != '=' ||
        (proxy->flags & Api::NPY_ARRAY_ALIGNED_) == 0)
      return;
    for (int axis = 0; axis < proxy->nd; ++axis)
      if (proxy->dimensions[axis] == 0)
        return;
    array = proxy;
    type = descr->type_num;
  }

  explicit operator bool() const { return array != nullptr; }
  index size(int axis) const { return array->dimensions[axis]; }
  bool has(int flag) const { return (array->flags & flag) != 0; }
  /// Whether no byte lies between the first and the last of both.
  template <class T> bool apart(const Plain &other) const {
    const auto [first, last] = span<T>();
    const auto [begin, end] = other.span<T>();
    return last <= begin || end <= first;
  }
  template <class T> const T *data() const { return reinterpret_cast<const T *>(array->data); }
  /// In items; false where the stride is no whole number of them.
  template <class T> bool stride(int axis, index &out) const {
    constexpr auto item = static_cast<py::ssize_t>(sizeof(T));
    out = array->strides[axis] / item;
    return array->strides[axis] % item == 0;
  }

private:
  template <class T> std::pair<const char *, const char *> span() const {
    const char *first = array->data, *last = first;
    for (int axis = 0; axis < array->nd; ++axis) {
      const index reach = (array->dimensions[axis] - 1) * array->strides[axis];
      (reach < 0 ? first : last) += reach;
    }
    return {first, last + sizeof(T)};
  }
};

constexpr int kC = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
constexpr int kF = py::detail::npy_api::NPY_ARRAY_F_CONTIGUOUS_;

/// f(T{}) for NumPy's number of the type, else None.
template <class F> py::object with_type(int type, F &&f) {
  using Api = py::detail::npy_api;
  switch (type) {
  case Api::NPY_DOUBLE_:
    return f(double{});
  case Api::NPY_FLOAT_:
    return f(float{});
  case Api::NPY_CDOUBLE_:
    return f(std::complex<double>{});
  case Api::NPY_CFLOAT_:
    return f(std::complex<float>{});
  default:
    return py::none();
  }
}

/// The caller's array where one is given and can take a result of `rows` rows in the order of X as
/// it is, without lying in X; else None. Where none is given, a new one.
template <class T>
py::object result_for(const py::handle &out, const Plain &given, const Plain &X, index rows,
                      bool columns_first) {
  const bool vector = X.array->nd == 1;
  if (!out.is_none()) {
    const bool fits = given && given.type == X.type && given.array->nd == X.array->nd &&
                      given.size(0) == rows && (vector || given.size(1) == X.size(1)) &&
                      given.has(columns_first ? kF : kC) &&
                      given.has(py::detail::npy_api::NPY_ARRAY_WRITEABLE_) && given.apart<T>(X);
    return fits ? py::reinterpret_borrow<py::object>(out) : py::none();
  }
  if (vector)
    return py::array_t<T>(rows);
  return matrix_in_order<T>(rows, X.size(1), columns_first);
}

/// Work too short to let other threads take the interpreter, or to be interrupted.
template <class F> void at_once_or_without_gil(double flops, F &&f) {
  constexpr double kShort = 1e5;
  if (flops < kShort)
    f();
  else
    without_gil(f);
}

/// kron_matmul for arrays that need no intake; None where something about them is unusual.
py::object direct_kron_matmul(const py::handle &factors, const py::handle &object,
                              const py::handle &out) {
  const bool list = PyList_CheckExact(factors.ptr()) != 0;
  if (!list && !PyTuple_CheckExact(factors.ptr()))
    return py::none();
  const Plain X(object, 1, 2), given(out, 1, 2);
  const auto count = static_cast<std::size_t>(Py_SIZE(factors.ptr()));
  if (!X || count == 0 || !X.has(kC | kF))
    return py::none();
  return with_type(X.type, [&](auto zero) -> py::object {
    using T = decltype(zero);
    std::vector<MatrixView<T>> views(count);
    index rows = 1, inner = 1;
    double sizes = 0;
    for (std::size_t p = 0; p < count; ++p) {
      const auto place = static_cast<Py_ssize_t>(p);
      const Plain F(list ? PyList_GET_ITEM(factors.ptr(), place)
                         : PyTuple_GET_ITEM(factors.ptr(), place),
                    2, 2);
      MatrixView<T> &view = views[p];
      if (!F || F.type != X.type || (given && !given.apart<T>(F)))
        return py::none();
      view = {F.data<T>(), F.size(0), F.size(1), 1, 1, false};
      if (!F.stride<T>(0, view.rs) || !F.stride<T>(1, view.cs))
        return py::none();
      rows *= view.m;
      inner *= view.n;
      sizes += static_cast<double>(std::max(view.m, view.n));
    }
    if (inner != X.size(0))
      return py::none();
    const index columns = X.array->nd == 1 ? 1 : X.size(1);
    const bool columns_first = !X.has(kC);
    py::object Y = result_for<T>(out, given, X, rows, columns_first);
    if (Y.is_none())
      return Y;
    T *y = reinterpret_cast<T *>(py::detail::array_proxy(Y.ptr())->data);
    const double work =
        sizes * static_cast<double>(columns) * static_cast<double>(std::max(rows, inner));
    at_once_or_without_gil(work,
                           [&] { kron_multiply(views, X.data<T>(), columns, columns_first, y); });
    return Y;
  });
}

/// monarch_matmul for arrays that need no intake; None where something about them is unusual.
py::object direct_monarch_matmul(const py::handle &left, const py::handle &right,
                                 const py::handle &object, const py::handle &out) {
  const Plain L(left, 3, 3), R(right, 3, 3), X(object, 1, 2), given(out, 1, 2);
  if (!L || !R || !X || L.type != X.type || R.type != X.type || !L.has(kC) || !R.has(kC))
    return py::none();
  return with_type(X.type, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Blocks<T> l{L.data<T>(), L.size(0), L.size(1), L.size(2)};
    const Blocks<T> r{R.data<T>(), R.size(0), R.size(1), R.size(2)};
    const bool vector = X.array->nd == 1;
    MatrixView<T> x{X.data<T>(), X.size(0), vector ? 1 : X.size(1), 1, 1, false};
    if (r.count * r.m != l.count * l.n || x.m != r.count * r.n || !X.stride<T>(0, x.rs) ||
        (!vector && !X.stride<T>(1, x.cs)))
      return py::none();
    if (given && (!given.apart<T>(L) || !given.apart<T>(R)))
      return py::none();
    py::object Y = result_for<T>(out, given, X, l.count * l.m, false);
    if (Y.is_none())
      return Y;
    T *y = reinterpret_cast<T *>(py::detail::array_proxy(Y.ptr())->data);
    const double work = 2.0 * static_cast<double>(x.n) *
                        static_cast<double>(l.count * l.m * l.n + r.count * r.m * r.n);
    at_once_or_without_gil(work, [&] { monarch_multiply(l, r, x, false, false, false, y); });
    return Y;
  });
}

} // namespace

void register_kron(py::module_ &m) {
  m.def("kron_matmul", &kron_matmul, py::arg("factors"), py::arg("X"), py::arg("conjugate"));
  m.def("kron_solve_shifted", &kron_solve_shifted, py::arg("w"), py::arg("V"), py::arg("b"),
        py::arg("shift"));
  m.def("monarch_matmul", &monarch_matmul, py::arg("L"), py::arg("R"), py::arg("X"),
        py::arg("permuted"), py::arg("transpose"), py::arg("conjugate"));
  m.def("monarch_project", &monarch_project, py::arg("W"), py::arg("k"), py::arg("l"),
        py::arg("check_finite"));
  auto direct = m.def_submodule("_direct", "Calls of least overhead; None where intake is needed.");
  direct.def("kron_matmul", &direct_kron_matmul, py::arg("factors"), py::arg("X"), py::arg("out"));
  direct.def("monarch_matmul", &direct_monarch_matmul, py::arg("L"), py::arg("R"), py::arg("X"),
             py::arg("out"));
}

} // namespace lowla::bindings
