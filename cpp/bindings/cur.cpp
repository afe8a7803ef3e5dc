// Bindings of decompositions by columns and rows, and of pivoted factorisations.
#include "lowla/cur.hpp"

#include "python.hpp"

namespace lowla::bindings {
namespace {

py::array_t<std::int64_t> places_of(const std::vector<index> &places) {
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(places.size()), places.data());
}

/// A (rows x cols) in the dtype T.
template <class T, class W> py::array_t<T> matrix_of(const Small<W> &A) {
  py::array_t<T> out({A.rows, A.cols});
  T *to = out.mutable_data();
  for (index i = 0; i < A.rows; ++i)
    for (index j = 0; j < A.cols; ++j)
      *to++ = T(A(i, j));
  return out;
}

template <class T, class W> py::array_t<T> matrix_of(const Entries<W> &A) {
  py::array_t<T> out({A.rows, A.cols});
  std::transform(A.row(0), A.row(A.rows), out.mutable_data(), [](W x) { return T(x); });
  return out;
}
template <class T, class W> py::array_t<T> matrix_of(const Panel<W> &A) {
  Entries<W> rows(A.rows, A.cols);
  Host<W>::store(A, std::vector<W>(static_cast<std::size_t>(A.cols), W(1)), rows.row(0), A.cols, 1,
                 false);
  return matrix_of<T>(rows);
}

py::dict facts_of(const ColumnsFacts &f) {
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

/// f(T{}, view of A, request) for what the functions of columns.hpp share.
template <class F>
py::tuple with_columns(const py::object &A, index k, double tol, const std::string &method,
                       index oversample, double bound, const std::string &sketch, std::uint64_t key,
                       bool check_finite, F &&f) {
  if (tol != 0.0)
    throw ValueError("tol is not known here");
  ensure_blas();
  return with_view(A, [&](auto zero, auto view) -> py::tuple {
    if (k < 1 || k > std::min(view.m, view.n) || oversample < 0)
      throw ValueError("k must fit the shape of A");
    auto request = request_for<ColumnsRequest, decltype(zero)>(
        k, method, std::min(oversample, view.m), sketch, key, check_finite); // k + p <= m rows
    request.bound = bound;
    return f(zero, view, request);
  });
}

py::tuple interpolate(const py::object &A, index k, double eps, const std::string &method,
                      index oversample, double bound, const std::string &sketch, std::uint64_t key,
                      bool check_finite) {
  return with_columns(A, k, eps, method, oversample, bound, sketch, key, check_finite,
                      [](auto zero, auto view, const ColumnsRequest &request) {
                        const auto r = without_gil(
                            [&] { return interp_decomp(*column_source(view), request); });
                        return py::make_tuple(places_of(r.perm), matrix_of<decltype(zero)>(r.proj),
                                              facts_of(r.facts));
                      });
}

py::tuple interpolate_both(const py::object &A, index k, double eps, const std::string &method,
                           index oversample, double bound, const std::string &sketch,
                           std::uint64_t key, bool check_finite) {
  return with_columns(
      A, k, eps, method, oversample, bound, sketch, key, check_finite,
      [](auto zero, auto view, const ColumnsRequest &request) {
        using T = decltype(zero);
        const auto r = without_gil([&] { return two_sided_id(*column_source(view), request); });
        return py::make_tuple(places_of(r.rows), places_of(r.cols), matrix_of<T>(r.X),
                              matrix_of<T>(r.Y), facts_of(r.facts));
      });
}

py::tuple pivoted_columns(const py::object &A, index k, double tol, index oversample,
                          const std::string &sketch, std::uint64_t key, bool check_finite) {
  return with_columns(A, k, tol, "project", oversample, 2.0, sketch, key, check_finite,
                      [](auto zero, auto view, const ColumnsRequest &request) {
                        using T = decltype(zero);
                        const auto r =
                            without_gil([&] { return qrcp(*column_source(view), request); });
                        return py::make_tuple(matrix_of<T>(r.Q), matrix_of<T>(r.R),
                                              places_of(r.perm), facts_of(r.facts));
                      });
}

py::tuple decompose(const py::object &A, index k, double tol, const std::string &method,
                    const std::string &middle, index oversample, const std::string &sketch,
                    std::uint64_t key, bool check_finite) {
  if (tol != 0.0)
    throw ValueError("tol is not known here");
  ensure_blas();
  return with_view(A, [&](auto zero, auto view) -> py::tuple {
    using T = decltype(zero);
    using W = wide_t<T>;
    const index columns = k + (method == "leverage" ? oversample : 0);
    if (k < 1 || k > std::min(view.m, view.n) || oversample < 0 || k + oversample > view.m ||
        columns > view.n)
      throw ValueError("k and oversample must fit the shape of A");
    auto request = request_for<CurRequest, T>(k, method, oversample, sketch, key, check_finite);
    request.cross = middle == "cross";
    const Cur<W> r = without_gil([&] { return cur(*column_source(view), request); });
    py::dict facts = facts_of(r.facts);
    facts["method"] = method;
    return py::make_tuple(places_of(r.rows), places_of(r.cols), matrix_of<T>(r.U), facts);
  });
}

/// f(W{}, entries of Y in double precision, row-major, l, n).
template <class F> py::object with_copy(const py::array &Y, F &&f) {
  if (Y.ndim() != 2)
    throw ValueError("Y must have 2 dimensions");
  return with_scalar(Y.dtype(), [&](auto zero) -> py::object {
    using W = wide_t<decltype(zero)>;
    const auto whole = py::cast<py::array_t<W, py::array::c_style | py::array::forcecast>>(Y);
    std::vector<W> copy(whole.data(), whole.data() + whole.size());
    return f(W{}, copy, static_cast<index>(Y.shape(0)), static_cast<index>(Y.shape(1)));
  });
}

py::object qr(const py::array &Y, index k, double tol) {
  return with_copy(Y, [&](auto zero, auto &copy, index l, index n) -> py::object {
    using W = decltype(zero);
    const auto r = without_gil([&] { return pivoted_qr(copy.data(), n, l, n, k, tol); });
    return py::make_tuple(places_of(r.perm), matrix_of<W>(r.R), r.rank);
  });
}

py::object lu_rows(const py::array &Y, index k) {
  return with_copy(Y, [&](auto, auto &copy, index m, index n) -> py::object {
    return places_of(
        without_gil([&] { return pivoted_lu_rows(copy.data(), n, m, std::min(k, n)); }));
  });
}

} // namespace

void register_cur(py::module_ &m) {
  m.def("cur", &decompose, py::arg("A"), py::arg("k"), py::arg("tol"), py::arg("method"),
        py::arg("middle"), py::arg("oversample"), py::arg("sketch"), py::arg("key"),
        py::arg("check_finite"));
  m.def("interp_decomp", &interpolate, py::arg("A"), py::arg("k"), py::arg("eps"),
        py::arg("method"), py::arg("oversample"), py::arg("bound"), py::arg("sketch"),
        py::arg("key"), py::arg("check_finite"));
  m.def("two_sided_id", &interpolate_both, py::arg("A"), py::arg("k"), py::arg("eps"),
        py::arg("method"), py::arg("oversample"), py::arg("bound"), py::arg("sketch"),
        py::arg("key"), py::arg("check_finite"));
  m.def("qrcp", &pivoted_columns, py::arg("A"), py::arg("k"), py::arg("tol"), py::arg("oversample"),
        py::arg("sketch"), py::arg("key"), py::arg("check_finite"));
  m.def("pivoted_qr", &qr, py::arg("Y"), py::arg("k"), py::arg("tol"));
  m.def("pivoted_lu_rows", &lu_rows, py::arg("Y"), py::arg("k"));
}

} // namespace lowla::bindings
