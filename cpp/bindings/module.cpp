// lowla._native: set-up, threads and features.
#include "python.hpp"

#include "lowla/core/blas.hpp"
#include "lowla/core/simd.hpp"
#include "lowla/core/threads.hpp"
#include "lowla/rsvd.hpp"

#include <chrono>

namespace lowla::bindings {

namespace {

py::dict features() {
  py::dict out;
  out["simd"] = simd::level_name();
  out["threads"] = threads::get_num_threads();
  out["blas_loaded"] = blas::loaded();
  out["blas_integer_bytes"] = blas::integer_bytes();
#if defined(__clang__)
  out["compiler"] = "clang " + std::to_string(__clang_major__);
#elif defined(__GNUC__)
  out["compiler"] = "gcc " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#endif
  out["cplusplus"] = static_cast<long>(__cplusplus);
  return out;
}

/// C = A B by SciPy's gemm, column-major: the test of the BLAS table.
py::array gemm(const py::array &A, const py::array &B) {
  ensure_blas();
  return with_scalar(A.dtype(), [&](auto zero) -> py::array {
    using T = decltype(zero);
    using Fortran = py::array_t<T, py::array::f_style | py::array::forcecast>;
    const auto a = Fortran::ensure(A), b = Fortran::ensure(B);
    if (!a || !b || a.ndim() != 2 || b.ndim() != 2 || a.shape(1) != b.shape(0))
      throw ValueError("A and B must be matrices that fit");
    py::array_t<T, py::array::f_style> c({a.shape(0), b.shape(1)});
    const auto ld = [](py::ssize_t n) { return std::max<index>(1, n); };
    blas::gemm('N', 'N', a.shape(0), b.shape(1), a.shape(1), T(1), a.data(), ld(a.shape(0)),
               b.data(), ld(b.shape(0)), T(0), c.mutable_data(), ld(a.shape(0)));
    return c;
  });
}

/// Eigenvalues and vectors, or singular values and vectors, by the small solvers: for their tests.
py::tuple small_eigh(const py::array &A, index count) {
  return with_scalar(A.dtype(), [&](auto zero) -> py::tuple {
    using S = wide_t<decltype(zero)>;
    const auto a = py::array_t<S, py::array::f_style | py::array::forcecast>::ensure(A);
    Small<S> M(a.shape(0), a.shape(1)), V;
    std::copy(a.data(), a.data() + a.size(), M.data.begin());
    std::vector<double> w;
    small::eigh_leading(M, count < 0 ? M.rows : count, w, V);
    py::array_t<S, py::array::f_style> v({V.rows, V.cols});
    std::copy(V.data.begin(), V.data.end(), v.mutable_data());
    return py::make_tuple(py::array_t<double>(static_cast<py::ssize_t>(w.size()), w.data()), v);
  });
}

/// Seconds of one rsvd with rank k: all of it, the passes over A (which must not need a flip),
/// orthonormalisation and small problems. What the benchmark's shares are made of.
py::tuple timed_rsvd(const py::object &A, index k) {
  return with_matrix(A, [&](auto zero, auto &matrix) -> py::tuple {
    using T = decltype(zero);
    LowRankRequest request;
    request.k = k;
    double small_work = 0;
    const double total = without_gil([&] {
      const auto start = std::chrono::steady_clock::now();
      small_work = LowRank<Host<T>>(matrix, request).svd().facts.small_seconds;
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
    return py::make_tuple(total, matrix.seconds, small_work);
  });
}

py::tuple small_svd(const py::array &A) {
  return with_scalar(A.dtype(), [&](auto zero) -> py::tuple {
    using S = wide_t<decltype(zero)>;
    const auto a = py::array_t<S, py::array::f_style | py::array::forcecast>::ensure(A);
    Small<S> M(a.shape(0), a.shape(1)), U, W;
    std::copy(a.data(), a.data() + a.size(), M.data.begin());
    std::vector<double> s;
    small::svd(M, U, s, W);
    py::array_t<S, py::array::f_style> u({U.rows, U.cols}), v({W.rows, W.cols});
    std::copy(U.data.begin(), U.data.end(), u.mutable_data());
    std::copy(W.data.begin(), W.data.end(), v.mutable_data());
    return py::make_tuple(u, py::array_t<double>(static_cast<py::ssize_t>(s.size()), s.data()), v);
  });
}

} // namespace
} // namespace lowla::bindings

// What threadpoolctl calls (python/lowla/_config.py registers the controller).
extern "C" {
__attribute__((visibility("default"))) int lowla_get_num_threads();
__attribute__((visibility("default"))) void lowla_set_num_threads(int n);
int lowla_get_num_threads() { return lowla::threads::get_num_threads(); }
void lowla_set_num_threads(int n) { lowla::threads::set_num_threads(n); }
}

PYBIND11_MODULE(_native, m, pybind11::mod_gil_not_used()) {
  namespace py = pybind11;
  using namespace lowla;
  m.doc() = "Compiled CPU kernels of lowla.";
  py::register_exception_translator(&bindings::translate);
  m.def("set_num_threads", &threads::set_num_threads, py::arg("n"));
  m.def("get_num_threads", &threads::get_num_threads);
  m.def("features", &bindings::features);
  bindings::register_sketch(m);
  bindings::register_rsvd(m);
  bindings::register_lstsq(m);
  bindings::register_lp(m);
  bindings::register_scores(m);
  bindings::register_kron(m);
  bindings::register_mfac(m);
  bindings::register_sinkhorn(m);
  bindings::register_completion(m);
  bindings::register_cur(m);
  auto testing = m.def_submodule("_testing", "Internals, exposed for the tests.");
  testing.def("gemm", &bindings::gemm, py::arg("A"), py::arg("B"));
  testing.def("eigh", &bindings::small_eigh, py::arg("A"), py::arg("count") = -1);
  testing.def("svd", &bindings::small_svd, py::arg("A"));
  testing.def("timed_rsvd", &bindings::timed_rsvd, py::arg("A"), py::arg("k"));
}
