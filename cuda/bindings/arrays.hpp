// From Python objects to device views and matrices, and results back.
#pragma once

#include "operator.hpp"
#include "session.hpp"

#include "lowla/rsvd.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace lowla::bindings::gpu {

/// An array's own description of itself (version 3 of the CUDA array interface, or NumPy's). The
/// intake has ordered the array's own stream with the current one.
struct ArrayInfo {
  void *data;
  std::vector<index> shape, strides; ///< strides in bytes
  py::dtype dtype;

  explicit ArrayInfo(const py::handle &array);
  index ndim() const { return static_cast<index>(shape.size()); }
  index size() const;
};

inline bool is_array(const py::handle &object) { return py::hasattr(object, kArrayInterface); }

/// A new, uninitialised C-ordered array of N, and its memory.
struct NewArray {
  py::object array;
  void *data;
};
NewArray new_array(const std::vector<index> &shape, const py::dtype &dtype);
/// What the array library's `function`, "empty" or "zeros", returns.
py::object make_array(const char *function, const std::vector<index> &shape,
                      const py::dtype &dtype);

template <class N> struct Output {
  py::object array;
  N *data;
  explicit Output(const std::vector<index> &shape) {
    NewArray made = new_array(shape, py::dtype::of<N>());
    array = std::move(made.array);
    data = static_cast<N *>(made.data);
  }
};

/// Numbers of the host in double precision into device memory of T's real type.
template <class T> void write_values(const std::vector<double> &values, real_t<T> *out) {
  std::vector<real_t<T>> narrow(values.size());
  std::transform(values.begin(), values.end(), narrow.begin(),
                 [](double x) { return static_cast<real_t<T>>(x); });
  Runtime::to_device(out, narrow.data(), narrow.size() * sizeof(real_t<T>));
}

/// The same as a new array.
template <class T> py::object vector_of(const std::vector<double> &values) {
  const Output<real_t<T>> out({static_cast<index>(values.size())});
  write_values<T>(values, out.data);
  return out.array;
}

/// conj(phase) of the largest entry of each column: the factor that makes that entry positive.
template <class T> std::vector<wide_t<T>> phases(const typename Device<T>::Panel &U) {
  auto factor = Device<T>::peaks(U);
  for (auto &f : factor) {
    const double size = std::abs(f);
    f = size > 0 ? wide_t<T>(conj_of(f) / size) : wide_t<T>(1);
  }
  return factor;
}

/// View of axes `first`, `first + 1` of an array of T.
template <class T> MatrixView<T> view_of(const ArrayInfo &A, std::size_t first = 0) {
  const auto item = static_cast<index>(sizeof(T));
  MatrixView<T> view{
      static_cast<const T *>(A.data), A.shape[first], A.shape[first + 1], 1, 1, false};
  const auto stride = [&](std::size_t axis) {
    if (A.strides[axis] % item != 0)
      throw py::type_error("A is not aligned to its items");
    return A.strides[axis] / item;
  };
  view.rs = view.m > 1 ? stride(first) : std::max<index>(1, view.n);
  view.cs = view.n > 1 ? stride(first + 1) : 1;
  return view;
}

template <class T> MatrixView<T> matrix_view_of(const ArrayInfo &A) {
  if (A.ndim() != 2)
    throw ValueError("A must have 2 dimensions, got " + std::to_string(A.ndim()));
  if (!A.dtype.equal(py::dtype::of<T>()))
    throw py::type_error("A has another dtype than expected");
  return view_of<T>(A);
}

/// The parts of a CSR tuple (indptr, indices, data, (m, n)).
struct CsrParts {
  ArrayInfo indptr, indices, data;
  index m, n;
  explicit CsrParts(const py::tuple &A);
  index stored() const { return std::min(indices.size(), data.size()); }
  template <class T, class I> CsrView<T, I> view() const {
    return {static_cast<const I *>(indptr.data), static_cast<const I *>(indices.data),
            static_cast<const T *>(data.data), m, n};
  }
};

/// f(I{}) for the integer type of the indices.
template <class F> auto with_index(const CsrParts &A, F &&f) {
  return A.indices.dtype.itemsize() == 8 ? f(std::int64_t{}) : f(std::int32_t{});
}

/// Panels of the device as its library's arrays (see operator.hpp).
template <class T> struct DeviceExchange {
  using Panel = typename Device<T>::Panel;

  static double squares(const Panel &Y) { return Device<T>::squares(Y); }
  static double largest(const Panel &Y) { return Device<T>::largest(Y); }
  static void multiply(py::handle object, const char *method, real_t<T> factor, const Panel &X,
                       Panel &Y) {
    const Output<T> x({X.rows, X.cols});
    Device<T>::store(X, std::vector<wide_t<T>>(static_cast<std::size_t>(X.cols), wide_t<T>(factor)),
                     x.data, X.cols, 1, false);
    const py::object product = object.attr(method)(x.array);
    if (!is_array(product))
      throw py::type_error(std::string("A.") + method + " returned no array of " + kArrayLibrary);
    const ArrayInfo y(product);
    if (y.shape != std::vector<index>{Y.rows, Y.cols})
      throw py::value_error(std::string("A.") + method + " returned an array of the wrong shape");
    Device<T>::load(Y, matrix_view_of<T>(y));
  }
};

/// f(T{}, matrix) for any A that a backend accepts.
template <class F> auto with_matrix(const py::object &A, F &&f) {
  if (py::isinstance<py::tuple>(A)) {
    const CsrParts parts(py::reinterpret_borrow<py::tuple>(A));
    return with_scalar(parts.data.dtype, [&](auto zero) {
      using T = decltype(zero);
      return with_index(parts, [&](auto integer) {
        using I = decltype(integer);
        const auto view = parts.view<T, I>();
        const auto matrix = without_gil([&] { return Device<T>::csr(view, parts.stored()); });
        return f(zero, *matrix);
      });
    });
  }
  if (is_array(A)) {
    const ArrayInfo array(A);
    return with_scalar(array.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto matrix = Device<T>::dense(matrix_view_of<T>(array));
      return f(zero, *matrix);
    });
  }
  return with_operator(A, [&](auto zero, index m, index n) {
    using T = decltype(zero);
    OperatorMatrix<Device<T>, DeviceExchange<T>> matrix(A, m, n);
    return f(zero, matrix);
  });
}

/// The array that says where the data of A is, or None.
py::object located(const py::object &A);

void register_sketch(py::module_ &m);
void register_rsvd(py::module_ &m);
void register_lstsq(py::module_ &m);
void register_scores(py::module_ &m);
void register_completion(py::module_ &m);
void register_lp(py::module_ &m);
void register_cur(py::module_ &m);
void register_kron(py::module_ &m);
void register_mfac(py::module_ &m);
void register_sinkhorn(py::module_ &m);

} // namespace lowla::bindings::gpu
