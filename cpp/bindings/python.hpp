// From Python objects to views and matrices, and errors back: what every binding shares.
#pragma once

#include "lowla/core/cancel.hpp"
#include "lowla/core/error.hpp"
#include "lowla/device/host.hpp"

#include "operator.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace lowla::bindings {

namespace py = pybind11;

/// Load SciPy's BLAS and LAPACK pointers unless that is done (imports scipy.linalg).
void ensure_blas();

/// Runs signal handlers at most every 50 ms; throws Cancelled where one raised.
void poll_signals();

/// The Python exception that core/error.hpp names beside each error.
void translate(std::exception_ptr p);

/// Run f() without the GIL, Ctrl-C polled; Cancelled becomes the Python error that is set.
template <class F> auto without_gil(F &&f) {
  try {
    py::gil_scoped_release release;
    CancelScope scope(&poll_signals);
    return f();
  } catch (const Cancelled &) {
    throw py::error_already_set();
  }
}

/// f(T{}) for the dtype's scalar type.
template <class F> auto with_scalar(const py::dtype &dtype, F &&f) {
  const char kind = dtype.kind();
  const auto size = dtype.itemsize();
  if (kind == 'f' && size == 8)
    return f(double{});
  if (kind == 'f' && size == 4)
    return f(float{});
  if (kind == 'c' && size == 16)
    return f(std::complex<double>{});
  if (kind == 'c' && size == 8)
    return f(std::complex<float>{});
  throw py::type_error("A must be float32, float64, complex64 or complex128, got " +
                       py::cast<std::string>(py::str(dtype)));
}

/// f(T{}, m, n) for an operator of so many rows and columns.
template <class F> auto with_operator(const py::object &A, F &&f) {
  const auto shape = py::cast<py::tuple>(A.attr("shape"));
  const auto m = py::cast<index>(shape[0]), n = py::cast<index>(shape[1]);
  return with_scalar(py::dtype::from_args(A.attr("dtype")),
                     [&](auto zero) { return f(zero, m, n); });
}

/// View of a 2-D array of T without a copy. Strides of axes of length <= 1 are not trusted.
template <class T> MatrixView<T> view_of(const py::array &A) {
  if (A.ndim() != 2)
    throw ValueError("A must have 2 dimensions, got " + std::to_string(A.ndim()));
  if (!py::isinstance<py::array_t<T>>(A))
    throw py::type_error("A has another dtype than expected");
  const auto size = static_cast<py::ssize_t>(sizeof(T));
  MatrixView<T> view{static_cast<const T *>(A.data()), A.shape(0), A.shape(1), 1, 1, false};
  const auto stride = [&](int axis) {
    if (A.strides(axis) % size != 0)
      throw py::type_error("A is not aligned to its items");
    return static_cast<index>(A.strides(axis) / size);
  };
  view.rs = view.m > 1 ? stride(0) : (view.n > 0 ? view.n : 1);
  view.cs = view.n > 1 ? stride(1) : 1;
  return view;
}

/// CSR view of (indptr, indices, data, (m, n)); checks everything that could read out of bounds.
template <class T, class I> CsrView<T, I> csr_of(const py::tuple &A) {
  const auto indptr = py::cast<py::array_t<I>>(A[0]);
  const auto indices = py::cast<py::array_t<I>>(A[1]);
  const auto data = py::cast<py::array_t<T>>(A[2]);
  const auto shape = py::cast<py::tuple>(A[3]);
  CsrView<T, I> view{indptr.data(), indices.data(), data.data(), py::cast<index>(shape[0]),
                     py::cast<index>(shape[1])};
  if (indptr.size() != view.m + 1)
    throw ValueError("sparse A is malformed: indptr must have m + 1 entries");
  index previous = 0;
  for (index i = 0; i <= view.m; ++i) {
    const auto p = static_cast<index>(view.indptr[i]);
    if (p < previous)
      throw ValueError("sparse A is malformed: indptr must not decrease");
    previous = p;
  }
  if (previous > indices.size() || previous > data.size())
    throw ValueError("sparse A is malformed: indptr points past the data");
  for (index p = 0; p < previous; ++p) {
    const auto j = static_cast<index>(view.indices[p]);
    if (j < 0 || j >= view.n)
      throw ValueError("sparse A is malformed: column index out of range");
  }
  return view;
}

/// Panels of the host as NumPy arrays (see operator.hpp).
template <class T> struct HostExchange {
  using Panel = lowla::Panel<T>;

  static double squares(const Panel &Y) {
    return simd::dense<real_t<T>>().sum_squares(Y.row(0), Y.rows * Y.ld);
  }
  static double largest(const Panel &Y) {
    double found = 0;
    for (index i = 0; i < Y.rows * Y.ld; ++i) {
      const double a = std::abs(static_cast<double>(Y.row(0)[i]));
      if (!std::isfinite(a))
        return a;
      found = std::max(found, a);
    }
    return found;
  }
  static void multiply(py::handle object, const char *method, real_t<T> factor, const Panel &X,
                       Panel &Y) {
    py::array_t<T> x({X.rows, X.cols});
    Host<T>::store(X, std::vector<wide_t<T>>(static_cast<std::size_t>(X.cols), wide_t<T>(factor)),
                   x.mutable_data(), X.cols, 1, false);
    const py::object product = object.attr(method)(x);
    const auto y = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(product);
    if (!y)
      throw py::error_already_set();
    if (y.ndim() != 2 || y.shape(0) != Y.rows || y.shape(1) != Y.cols)
      throw py::value_error(std::string("A.") + method + " returned an array of the wrong shape");
    Host<T>::load(Y, view_of<T>(y));
  }
};

template <class T> using PythonOperator = OperatorMatrix<Host<T>, HostExchange<T>>;

/// f(T{}, view) for a dense array or (indptr, indices, data, (m, n)).
template <class F> auto with_view(const py::object &A, F &&f) {
  if (py::isinstance<py::array>(A)) {
    const auto array = py::reinterpret_borrow<py::array>(A);
    return with_scalar(array.dtype(),
                       [&](auto zero) { return f(zero, view_of<decltype(zero)>(array)); });
  }
  const auto parts = py::cast<py::tuple>(A);
  if (parts.size() != 4)
    throw py::type_error("sparse A must be (indptr, indices, data, (m, n))");
  const auto indices = py::cast<py::array>(parts[1]);
  return with_scalar(py::cast<py::array>(parts[2]).dtype(), [&](auto zero) {
    using T = decltype(zero);
    return indices.dtype().itemsize() == 8 ? f(zero, csr_of<T, std::int64_t>(parts))
                                           : f(zero, csr_of<T, std::int32_t>(parts));
  });
}

template <class T> auto host_matrix(MatrixView<T> A) { return Host<T>::dense(A); }
template <class T, class I> auto host_matrix(CsrView<T, I> A) { return Host<T>::csr(A); }

/// f(T{}, matrix) for any A that a backend accepts.
template <class F> auto with_matrix(const py::object &A, F &&f) {
  if (py::isinstance<py::array>(A) || py::isinstance<py::tuple>(A))
    return with_view(A, [&](auto zero, auto view) {
      auto matrix = host_matrix(view);
      return f(zero, *matrix);
    });
  return with_operator(A, [&](auto zero, index m, index n) {
    using T = decltype(zero);
    PythonOperator<T> matrix(A, m, n);
    return f(zero, matrix);
  });
}

/// Numbers in double as a numpy vector of R.
template <class R> py::array_t<R> vector_of(const std::vector<double> &values) {
  py::array_t<R> out(static_cast<index>(values.size()));
  std::transform(values.begin(), values.end(), out.mutable_data(),
                 [](double x) { return static_cast<R>(x); });
  return out;
}

/// A new numpy array holding a panel (or its adjoint), columns multiplied by `factor`.
template <class T>
py::array_t<T> to_array(const Panel<T> &P, const std::vector<wide_t<T>> &factor, bool adjoint) {
  py::array_t<T> out(adjoint ? std::vector<py::ssize_t>{P.cols, P.rows}
                             : std::vector<py::ssize_t>{P.rows, P.cols});
  T *data = out.mutable_data();
  const py::gil_scoped_release released;
  Host<T>::store(P, factor, data, adjoint ? 1 : P.cols, adjoint ? P.rows : 1, adjoint);
  return out;
}

void register_sketch(py::module_ &m);
void register_rsvd(py::module_ &m);
void register_lstsq(py::module_ &m);
void register_lp(py::module_ &m);
void register_mfac(py::module_ &m);
void register_scores(py::module_ &m);
void register_kron(py::module_ &m);
void register_sinkhorn(py::module_ &m);
void register_completion(py::module_ &m);
void register_cur(py::module_ &m);

} // namespace lowla::bindings
