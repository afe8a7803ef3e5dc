// Bindings of the low-rank family.
#include "request.hpp"

#include <atomic>

#include "lowla/core/threads.hpp"

#include <algorithm>

namespace lowla::bindings {
namespace {

template <class T> using Result = LowRankResult<Host<T>>;

/// conj(phase) of each peak: the factor that makes the peak real and positive.
template <class T> std::vector<wide_t<T>> phases(const Panel<T> &U) {
  auto factor = Host<T>::peaks(U);
  for (auto &f : factor) {
    const double size = std::abs(f);
    f = size > 0 ? wide_t<T>(conj_of(f) / size) : wide_t<T>(1);
  }
  return factor;
}

template <class T> py::tuple svd_tuple(const Result<T> &r) {
  const auto factor = phases<T>(r.left);
  return py::make_tuple(to_array<T>(r.left, factor, false), vector_of<real_t<T>>(r.values),
                        to_array<T>(r.right, factor, true), to_dict(r.facts));
}

template <class T> py::tuple eigh_tuple(const Result<T> &r) {
  return py::make_tuple(vector_of<real_t<T>>(r.values),
                        to_array<T>(r.right, phases<T>(r.right), false), to_dict(r.facts));
}

void prepare_blas(index m, index n, const LowRankRequest &request) {
  const index order =
      request.k == 0 ? std::min(m, n) : LowRank<Host<double>>::planned_basis(m, n, request);
  if (order > small::kLapackOrder)
    ensure_blas();
}

py::tuple rsvd(const py::object &A, index k, double tol, index oversample, index n_iter,
               const std::string &method, const std::string &sketch, std::uint64_t key,
               bool check_finite, const py::object &monitor) {
  const auto request =
      make_request(k, tol, oversample, n_iter, method, sketch, key, check_finite, monitor);
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    prepare_blas(matrix.m, matrix.n, request);
    const auto result = without_gil([&] { return LowRank<Host<T>>(matrix, request).svd(); });
    return svd_tuple<T>(result);
  });
}

py::tuple rsvd_stacked(const py::array &A, index k, index oversample, index n_iter,
                       const std::string &method, const std::string &sketch, std::uint64_t key,
                       bool check_finite, const py::object &monitor) {
  if (A.ndim() != 3)
    throw ValueError("a stack must have 3 dimensions");
  auto request =
      make_request(k, 0.0, oversample, n_iter, method, sketch, key, check_finite, monitor);
  return with_scalar(A.dtype(), [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    using R = real_t<T>;
    const index batch = A.shape(0), m = A.shape(1), n = A.shape(2);
    prepare_blas(m, n, request);
    py::array_t<T> U({batch, m, k}), Vh({batch, k, n});
    py::array_t<R> S({batch, k});
    std::vector<MatrixView<T>> views;
    const auto size = static_cast<index>(sizeof(T));
    for (index i = 0; i < batch; ++i) {
      MatrixView<T> view{static_cast<const T *>(A.data(i, 0, 0)), m, n, n, 1, false};
      if (m > 1)
        view.rs = A.strides(1) / size;
      if (n > 1)
        view.cs = A.strides(2) / size;
      views.push_back(view);
    }
    std::vector<LowRankFacts> facts(static_cast<std::size_t>(batch));
    T *u = U.mutable_data(), *vh = Vh.mutable_data();
    R *s = S.mutable_data();
    without_gil([&] {
      if (batch == 0)
        return;
      LowRankRequest own = request;
      own.monitor = nullptr;
      const auto start = LowRank<Host<T>>::shared_start(*Host<T>::dense(views[0]), own);
      const auto one = [&](index i) {
        const auto matrix = Host<T>::dense(views[i]);
        const auto result = LowRank<Host<T>>(*matrix, own, &start).svd();
        const auto factor = phases<T>(result.left);
        Host<T>::store(result.left, factor, u + i * m * k, k, 1, false);
        Host<T>::store(result.right, factor, vh + i * k * n, 1, n, true);
        for (index j = 0; j < k; ++j)
          s[i * k + j] = static_cast<R>(result.values[j]);
        facts[i] = result.facts;
      };
      // One matrix a thread, unless the small problems are for LAPACK or the stack is short.
      const bool apart = LowRank<Host<T>>::planned_basis(m, n, request) <= small::kLapackOrder &&
                         batch >= 2 * threads::get_num_threads();
      if (apart && !request.monitor) {
        // Each thread takes the next matrix, and finds the memory of its last one.
        std::atomic<index> next{0};
        threads::parallel_for(threads::get_num_threads(), [&](index) {
          const workspace::Scope scope;
          try {
            for (index i = next++; i < batch; i = next++) {
              CancelScope::poll();
              one(i);
            }
          } catch (...) {
            next = batch; // the others stop too
            throw;
          }
        });
      } else {
        for (index i = 0; i < batch; ++i) {
          one(i);
          CancelScope::poll();
          if (request.monitor)
            request.monitor(i + 1, facts[i].error);
        }
      }
    });
    return py::make_tuple(U, S, Vh, to_dict(facts));
  });
}

py::tuple nystrom(const py::object &A, index k, index oversample, index n_iter,
                  const std::string &sketch, std::uint64_t key, bool check_finite,
                  const py::object &monitor) {
  const auto request =
      make_request(k, 0.0, oversample, n_iter, "auto", sketch, key, check_finite, monitor);
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    if (k + oversample > small::kLapackOrder)
      ensure_blas();
    return eigh_tuple<T>(without_gil([&] { return LowRank<Host<T>>(matrix, request).nystrom(); }));
  });
}

py::tuple reigh(const py::object &A, index k, const std::string &which, index oversample,
                index n_iter, const std::string &sketch, std::uint64_t key, bool check_finite,
                const py::object &monitor) {
  const auto request =
      make_request(k, 0.0, oversample, n_iter, "auto", sketch, key, check_finite, monitor);
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    if (2 * LowRank<Host<T>>::planned_basis(matrix.m, matrix.n, request) > small::kLapackOrder)
      ensure_blas();
    return eigh_tuple<T>(
        without_gil([&] { return LowRank<Host<T>>(matrix, request).reigh(which == "LA"); }));
  });
}

py::tuple stream_pass(const py::object &A, const py::array &X) {
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    const auto x = view_of<T>(X);
    if (x.m != matrix.n)
      throw ValueError("X must have " + std::to_string(matrix.n) + " rows, got " +
                       std::to_string(x.m));
    Panel<T> right(x.m, x.n), Y(matrix.m, x.n), Z(matrix.n, x.n);
    double norm2 = 0;
    without_gil([&] {
      Host<T>::load(right, x);
      matrix.normal(right, &Y, Z, &norm2);
    });
    const std::vector<wide_t<T>> ones(static_cast<std::size_t>(x.n), wide_t<T>(1));
    return py::make_tuple(to_array<T>(Y, ones, false), to_array<T>(Z, ones, false), norm2);
  });
}

py::tuple stream_finish(const py::array &Y, const py::array &Z, double norm2, index k) {
  return with_scalar(Y.dtype(), [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const auto y = view_of<T>(Y), z = view_of<T>(Z);
    if (y.n != z.n)
      throw ValueError("Y and Z must have the same number of columns");
    Panel<T> left(y.m, y.n), right(z.m, z.n);
    const auto result = without_gil([&] {
      Host<T>::load(left, y);
      Host<T>::load(right, z);
      return LowRank<Host<T>>::from_stream(std::move(left), std::move(right), norm2, k, 0);
    });
    return svd_tuple<T>(result);
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

} // namespace lowla::bindings
