// Bindings of the low-rank family.
#include "arrays.hpp"
#include "request.hpp"

#include <algorithm>

namespace lowla::bindings::gpu {
namespace {

template <class T> using Result = LowRankResult<Device<T>>;

/// U (m, k), S (k,) and Vh (k, n) into memory for them.
template <class T> void write_svd(const Result<T> &r, T *U, real_t<T> *S, T *Vh) {
  const auto factor = phases<T>(r.left);
  Device<T>::store(r.left, factor, U, r.left.cols, 1, false);
  write_values<T>(r.values, S);
  Device<T>::store(r.right, factor, Vh, 1, r.right.rows, true);
}

template <class T> py::tuple svd_tuple(const Result<T> &r) {
  const index k = r.left.cols;
  const Output<T> U({r.left.rows, k}), Vh({k, r.right.rows});
  const Output<real_t<T>> S({k});
  without_gil([&] { write_svd<T>(r, U.data, S.data, Vh.data); });
  return py::make_tuple(U.array, S.array, Vh.array, to_dict(r.facts));
}

template <class T> py::tuple eigh_tuple(const Result<T> &r) {
  const index k = r.right.cols;
  const Output<T> V({r.right.rows, k});
  const Output<real_t<T>> w({k});
  without_gil([&] {
    Device<T>::store(r.right, phases<T>(r.right), V.data, k, 1, false);
    write_values<T>(r.values, w.data);
  });
  return py::make_tuple(w.array, V.array, to_dict(r.facts));
}

py::tuple rsvd(const py::object &A, index k, double tol, index oversample, index n_iter,
               const std::string &method, const std::string &sketch, std::uint64_t key,
               bool check_finite, const py::object &monitor) {
  const auto request =
      make_request(k, tol, oversample, n_iter, method, sketch, key, check_finite, monitor);
  const Session session(located(A));
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    return svd_tuple<T>(without_gil([&] { return LowRank<Device<T>>(matrix, request).svd(); }));
  });
}

/// One matrix after the other on the one stream.
py::tuple rsvd_stacked(const py::object &A, index k, index oversample, index n_iter,
                       const std::string &method, const std::string &sketch, std::uint64_t key,
                       bool check_finite, const py::object &monitor) {
  const auto request =
      make_request(k, 0.0, oversample, n_iter, method, sketch, key, check_finite, monitor);
  const Session session(A);
  const ArrayInfo stack(A);
  if (stack.ndim() != 3)
    throw ValueError("a stack must have 3 dimensions");
  return with_scalar(stack.dtype, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const index batch = stack.shape[0], m = stack.shape[1], n = stack.shape[2];
    if (stack.strides[0] % static_cast<index>(sizeof(T)) != 0)
      throw py::type_error("A is not aligned to its items");
    const index step = stack.strides[0] / static_cast<index>(sizeof(T));
    const Output<T> U({batch, m, k}), Vh({batch, k, n});
    const Output<real_t<T>> S({batch, k});
    std::vector<LowRankFacts> facts(static_cast<std::size_t>(batch));
    without_gil([&] {
      LowRankRequest own = request;
      own.monitor = nullptr;
      for (index i = 0; i < batch; ++i) {
        auto view = view_of<T>(stack, 1);
        view.data += i * step;
        const auto matrix = Device<T>::dense(view);
        const auto result = LowRank<Device<T>>(*matrix, own).svd();
        write_svd<T>(result, U.data + i * m * k, S.data + i * k, Vh.data + i * k * n);
        facts[static_cast<std::size_t>(i)] = result.facts;
        if (request.monitor)
          request.monitor(i + 1, result.facts.error);
      }
    });
    return py::make_tuple(U.array, S.array, Vh.array, to_dict(facts));
  });
}

py::tuple nystrom(const py::object &A, index k, index oversample, index n_iter,
                  const std::string &sketch, std::uint64_t key, bool check_finite,
                  const py::object &monitor) {
  const auto request =
      make_request(k, 0.0, oversample, n_iter, "auto", sketch, key, check_finite, monitor);
  const Session session(located(A));
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    return eigh_tuple<T>(
        without_gil([&] { return LowRank<Device<T>>(matrix, request).nystrom(); }));
  });
}

py::tuple reigh(const py::object &A, index k, const std::string &which, index oversample,
                index n_iter, const std::string &sketch, std::uint64_t key, bool check_finite,
                const py::object &monitor) {
  const auto request =
      make_request(k, 0.0, oversample, n_iter, "auto", sketch, key, check_finite, monitor);
  const Session session(located(A));
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    return eigh_tuple<T>(
        without_gil([&] { return LowRank<Device<T>>(matrix, request).reigh(which == "LA"); }));
  });
}

py::tuple stream_pass(const py::object &A, const py::object &X) {
  const Session session(located(A));
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    const auto x = matrix_view_of<T>(ArrayInfo(X));
    if (x.m != matrix.n)
      throw ValueError("X must have " + std::to_string(matrix.n) + " rows, got " +
                       std::to_string(x.m));
    const Output<T> Y({matrix.m, x.n}), Z({matrix.n, x.n});
    double norm2 = 0;
    without_gil([&] {
      typename Device<T>::Panel right(x.m, x.n), y(matrix.m, x.n), z(matrix.n, x.n);
      Device<T>::load(right, x);
      matrix.normal(right, &y, z, &norm2);
      const std::vector<wide_t<T>> ones(static_cast<std::size_t>(x.n), wide_t<T>(1));
      Device<T>::store(y, ones, Y.data, x.n, 1, false);
      Device<T>::store(z, ones, Z.data, x.n, 1, false);
    });
    return py::make_tuple(Y.array, Z.array, norm2);
  });
}

py::tuple stream_finish(const py::object &Y, const py::object &Z, double norm2, index k) {
  const Session session(Y);
  const ArrayInfo left(Y), right(Z);
  return with_scalar(left.dtype, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const auto y = matrix_view_of<T>(left), z = matrix_view_of<T>(right);
    if (y.n != z.n)
      throw ValueError("Y and Z must have the same number of columns");
    return svd_tuple<T>(without_gil([&] {
      typename Device<T>::Panel own_y(y.m, y.n), own_z(z.m, z.n);
      Device<T>::load(own_y, y);
      Device<T>::load(own_z, z);
      return LowRank<Device<T>>::from_stream(std::move(own_y), std::move(own_z), norm2, k, 0);
    }));
  });
}

} // namespace

void register_rsvd(py::module_ &m) {
  m.def("rsvd", &rsvd, py::arg("A"), py::arg("k"), py::arg("tol"), py::arg("oversample"),
        py::arg("n_iter"), py::arg("method"), py::arg("sketch"), py::arg("key"),
        py::arg("check_finite"), py::arg("monitor"));
  m.def("rsvd_stacked", &rsvd_stacked, py::arg("A"), py::arg("k"), py::arg("oversample"),
        py::arg("n_iter"), py::arg("method"), py::arg("sketch"), py::arg("key"),
        py::arg("check_finite"), py::arg("monitor"));
  m.def("nystrom", &nystrom, py::arg("A"), py::arg("k"), py::arg("oversample"), py::arg("n_iter"),
        py::arg("sketch"), py::arg("key"), py::arg("check_finite"), py::arg("monitor"));
  m.def("reigh", &reigh, py::arg("A"), py::arg("k"), py::arg("which"), py::arg("oversample"),
        py::arg("n_iter"), py::arg("sketch"), py::arg("key"), py::arg("check_finite"),
        py::arg("monitor"));
  m.def("stream_pass", &stream_pass, py::arg("A"), py::arg("X"));
  m.def("stream_finish", &stream_finish, py::arg("Y"), py::arg("Z"), py::arg("norm2"),
        py::arg("k"));
}

} // namespace lowla::bindings::gpu
