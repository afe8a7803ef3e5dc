// Decompositions by columns and rows, and pivoted factorisations, as Python calls them: the same
// for every device. `Arrays` says what its arrays are:
//   with_source(A, f)       f(T{}, m, n, open), where open() makes the ColumnSource of A
//   with_copy(Y, f)         f(W{}, entries, l, n), those of Y in double precision, row-major
//   array<N>(shape, write)  a new C-ordered array, whose entries write(N *out) writes
#pragma once

#include "lowla/cur.hpp"

#include "python.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace lowla::bindings {

inline py::dict facts_of(const ColumnsFacts &f) {
  py::dict facts;
  facts["error"] = f.error;
  facts["error_method"] = f.error_method;
  facts["rank"] = f.rank;
  facts["passes"] = f.passes;
  facts["converged"] = f.error == f.error;
  facts["method"] = f.method;
  facts["sketch_rows"] = f.sketch_rows;
  facts["swaps"] = f.swaps;
  return facts;
}

/// What the requests of columns.hpp and cur.hpp share, for A of the dtype T.
template <class Request, class T>
Request request_for(index k, const std::string &method, index oversample, const std::string &sketch,
                    std::uint64_t key, bool check_finite) {
  Request request;
  request.k = k;
  request.method = method;
  request.oversample = oversample;
  request.gaussian = sketch == "gaussian";
  request.key = key;
  request.check_finite = check_finite;
  request.eps = static_cast<double>(std::numeric_limits<real_t<T>>::epsilon());
  return request;
}

template <class Arrays> struct CurFunctions {
  static py::tuple interp_decomp(const py::object &A, index k, double eps,
                                 const std::string &method, index oversample, double bound,
                                 const std::string &sketch, std::uint64_t key, bool check_finite) {
    return with_columns(
        A, k, eps, method, oversample, bound, sketch, key, check_finite,
        [](auto zero, auto &&open, const ColumnsRequest &request) {
          const auto r = without_gil([&] { return lowla::interp_decomp(*open(), request); });
          return py::make_tuple(places(r.perm), matrix<decltype(zero)>(r.proj), facts_of(r.facts));
        });
  }

  static py::tuple two_sided_id(const py::object &A, index k, double eps, const std::string &method,
                                index oversample, double bound, const std::string &sketch,
                                std::uint64_t key, bool check_finite) {
    return with_columns(A, k, eps, method, oversample, bound, sketch, key, check_finite,
                        [](auto zero, auto &&open, const ColumnsRequest &request) {
                          using T = decltype(zero);
                          const auto r =
                              without_gil([&] { return lowla::two_sided_id(*open(), request); });
                          return py::make_tuple(places(r.rows), places(r.cols), matrix<T>(r.X),
                                                matrix<T>(r.Y), facts_of(r.facts));
                        });
  }

  static py::tuple qrcp(const py::object &A, index k, double tol, index oversample,
                        const std::string &sketch, std::uint64_t key, bool check_finite) {
    return with_columns(A, k, tol, "project", oversample, 2.0, sketch, key, check_finite,
                        [](auto zero, auto &&open, const ColumnsRequest &request) {
                          using T = decltype(zero);
                          const auto r = without_gil([&] { return lowla::qrcp(*open(), request); });
                          return py::make_tuple(matrix<T>(r.Q), matrix<T>(r.R), places(r.perm),
                                                facts_of(r.facts));
                        });
  }

  static py::tuple cur(const py::object &A, index k, double tol, const std::string &method,
                       const std::string &middle, index oversample, const std::string &sketch,
                       std::uint64_t key, bool check_finite) {
    require_rank_only(tol);
    ensure_blas();
    return Arrays::with_source(A, [&](auto zero, index m, index n, auto &&open) -> py::tuple {
      using T = decltype(zero);
      const index columns = k + (method == "leverage" ? oversample : 0);
      if (k < 1 || k > std::min(m, n) || oversample < 0 || k + oversample > m || columns > n)
        throw ValueError("k and oversample must fit the shape of A");
      auto request = request_for<CurRequest, T>(k, method, oversample, sketch, key, check_finite);
      request.cross = middle == "cross";
      const auto r = without_gil([&] { return lowla::cur(*open(), request); });
      py::dict facts = facts_of(r.facts);
      facts["method"] = method;
      return py::make_tuple(places(r.rows), places(r.cols), matrix<T>(r.U), facts);
    });
  }

  static py::tuple pivoted_qr(const py::object &Y, index k, double tol) {
    return Arrays::with_copy(Y, [&](auto zero, auto &entries, index l, index n) -> py::tuple {
      const auto r =
          without_gil([&] { return lowla::pivoted_qr(entries.data(), n, l, n, k, tol); });
      return py::make_tuple(places(r.perm), matrix<decltype(zero)>(r.R), r.rank);
    });
  }

  static py::object pivoted_lu_rows(const py::object &Y, index k) {
    return Arrays::with_copy(Y, [&](auto, auto &entries, index m, index n) -> py::object {
      return places(without_gil(
          [&] { return lowla::pivoted_lu_rows(entries.data(), n, m, std::min(k, n)); }));
    });
  }

  static void add_to(py::module_ &m) {
    m.def("cur", &cur, py::arg("A"), py::arg("k"), py::arg("tol"), py::arg("method"),
          py::arg("middle"), py::arg("oversample"), py::arg("sketch"), py::arg("key"),
          py::arg("check_finite"));
    m.def("interp_decomp", &interp_decomp, py::arg("A"), py::arg("k"), py::arg("eps"),
          py::arg("method"), py::arg("oversample"), py::arg("bound"), py::arg("sketch"),
          py::arg("key"), py::arg("check_finite"));
    m.def("two_sided_id", &two_sided_id, py::arg("A"), py::arg("k"), py::arg("eps"),
          py::arg("method"), py::arg("oversample"), py::arg("bound"), py::arg("sketch"),
          py::arg("key"), py::arg("check_finite"));
    m.def("qrcp", &qrcp, py::arg("A"), py::arg("k"), py::arg("tol"), py::arg("oversample"),
          py::arg("sketch"), py::arg("key"), py::arg("check_finite"));
    m.def("pivoted_qr", &pivoted_qr, py::arg("Y"), py::arg("k"), py::arg("tol"));
    m.def("pivoted_lu_rows", &pivoted_lu_rows, py::arg("Y"), py::arg("k"));
  }

private:
  static void require_rank_only(double tol) {
    if (tol != 0.0)
      throw ValueError("tol is not known here");
  }

  /// f(T{}, open, request) for what the functions of columns.hpp share.
  template <class F>
  static py::tuple with_columns(const py::object &A, index k, double tol, const std::string &method,
                                index oversample, double bound, const std::string &sketch,
                                std::uint64_t key, bool check_finite, F &&f) {
    require_rank_only(tol);
    ensure_blas();
    return Arrays::with_source(A, [&](auto zero, index m, index n, auto &&open) -> py::tuple {
      if (k < 1 || k > std::min(m, n) || oversample < 0)
        throw ValueError("k must fit the shape of A");
      auto request = request_for<ColumnsRequest, decltype(zero)>(
          k, method, std::min(oversample, m), sketch, key, check_finite); // k + p <= m rows
      request.bound = bound;
      return f(zero, open, request);
    });
  }

  static py::object places(const Places &values) {
    return Arrays::template array<std::int64_t>(
        {static_cast<index>(values.size())},
        [&](std::int64_t *out) { std::copy(values.begin(), values.end(), out); });
  }

  /// A (rows x cols) in the dtype T.
  template <class T, class W> static py::object matrix(const Small<W> &A) {
    return Arrays::template array<T>({A.rows, A.cols}, [&](T *out) {
      for (index i = 0; i < A.rows; ++i)
        for (index j = 0; j < A.cols; ++j)
          *out++ = T(A(i, j));
    });
  }
  template <class T, class W> static py::object matrix(const Entries<W> &A) {
    return Arrays::template array<T>({A.rows, A.cols}, [&](T *out) {
      std::transform(A.row(0), A.row(A.rows), out, [](W x) { return T(x); });
    });
  }
  template <class T, class W> static py::object matrix(const Panel<W> &A) {
    Entries<W> rows(A.rows, A.cols);
    Host<W>::store(A, std::vector<W>(at(A.cols), W(1)), rows.row(0), A.cols, 1, false);
    return matrix<T>(rows);
  }
};

} // namespace lowla::bindings
