// Bindings of the Kronecker and Monarch products and solves, Fourier transforms and convolutions.
#include "arrays.hpp"
#include "kron_request.hpp"

namespace lowla::bindings::gpu {
namespace {

/// Shorter side of a rearranged matrix up to which its whole decomposition is taken.
constexpr index kExactSide = 256;

template <class T> void need_dtype(const ArrayInfo &A, const char *name) {
  if (!A.dtype.equal(py::dtype::of<T>()))
    throw py::type_error(std::string(name) + " has another dtype than expected");
}

py::object zeros(const std::vector<index> &shape, const py::dtype &dtype) {
  return make_array("zeros", shape, dtype);
}

/// The array itself, or a C-ordered copy by its own library.
py::object contiguous(const py::object &array) {
  return py::module_::import(kArrayLibrary).attr("ascontiguousarray")(array);
}

/// The factors of a Kronecker product.
template <class T> struct Factors {
  std::vector<MatrixView<T>> views;
  index rows = 1, columns = 1;

  explicit Factors(const py::sequence &factors, bool conjugate = false) {
    for (const py::handle &factor : factors) {
      views.push_back(matrix_view_of<T>(ArrayInfo(factor)));
      views.back().conjugated = conjugate && is_complex_v<T>;
      rows *= views.back().m;
      columns *= views.back().n;
    }
    if (views.empty())
      throw ValueError("there must be at least one factor");
  }
};

/// multiply(x, columns of X, columns first, y) for X (n, r) as it lies in C or Fortran order (else
/// a copy) and a result of `rows` rows in the same order; zeros where there are no entries.
template <class T, class F>
py::object in_order_of(const py::object &X, index n, index rows, F &&multiply) {
  const ArrayInfo whole(X);
  if (whole.ndim() != 2)
    throw ValueError("X must have 2 dimensions, got " + std::to_string(whole.ndim()));
  const index columns = whole.shape[1];
  if (whole.shape[0] != n)
    throw ValueError("X must have " + std::to_string(n) + " rows, got " +
                     std::to_string(whole.shape[0]));
  if (rows == 0 || columns == 0 || n == 0)
    return zeros({rows, columns}, whole.dtype);
  const MatrixView<T> x = view_of<T>(whole);
  const bool by_rows = x.rs == columns && x.cs == 1;
  const bool columns_first = !by_rows && x.rs == 1 && x.cs == n;
  const py::object held = columns_first || by_rows ? X : contiguous(X);
  const auto *source = static_cast<const T *>(ArrayInfo(held).data);
  const Output<T> Y(columns_first ? std::vector<index>{columns, rows}
                                  : std::vector<index>{rows, columns});
  without_gil([&] { multiply(source, columns, columns_first, Y.data); });
  return columns_first ? py::object(Y.array.attr("T")) : Y.array;
}

/// K X, or conj(K) X; X (n, r) C- or Fortran-ordered (else copied), the result alike.
py::object kron_matmul(const py::sequence &factors, const py::object &X, bool conjugate) {
  const Session session(X);
  return with_scalar(ArrayInfo(X).dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Factors<T> K(factors, conjugate);
    return in_order_of<T>(
        X, K.columns, K.rows, [&](const T *x, index columns, bool columns_first, T *y) {
          CudaKron<T, Runtime>::kron_multiply(K.views, x, columns, columns_first, y);
        });
  });
}

template <class T> void need_square(const Factors<T> &K) {
  for (const MatrixView<T> &F : K.views)
    if (F.m != F.n)
      throw ValueError("the factors must be square");
}

/// K^-1 b
py::object kron_solve(const py::sequence &factors, const py::object &b) {
  const Session session(b);
  return with_scalar(ArrayInfo(b).dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Factors<T> K(factors);
    need_square(K);
    return in_order_of<T>(b, K.columns, K.rows,
                          [&](const T *x, index columns, bool columns_first, T *y) {
                            CudaKron<T, Runtime>::kron_solve(K.views, x, columns, columns_first, y);
                          });
  });
}

/// V (w + shift)^-1 V^H b, w in main memory.
py::object kron_solve_shifted(const py::sequence &w, const py::sequence &V, const py::object &b,
                              double shift) {
  const Session session(b);
  return with_scalar(ArrayInfo(b).dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    using R = real_t<T>;
    const Factors<T> vectors(V);
    const auto values = eigenvalues_of(w, vectors.views);
    return in_order_of<T>(
        b, vectors.columns, vectors.rows, [&](const T *x, index columns, bool columns_first, T *y) {
          CudaKron<T, Runtime>::kron_solve_shifted(values, vectors.views, static_cast<R>(shift), x,
                                                   columns, columns_first, y);
        });
  });
}

/// A rearranged, its truncated singular value decomposition (see LowRank) as B and C, and facts.
py::tuple nearest_kron(const py::object &A, const std::pair<index, index> &shape1,
                       const std::pair<index, index> &shape2, index terms, std::uint64_t key,
                       bool check_finite) {
  const Session session(A);
  const ArrayInfo whole(A);
  const auto [m1, n1] = shape1;
  const auto [m2, n2] = shape2;
  const index blocks = m1 * n1, entries = m2 * n2;
  return with_scalar(whole.dtype, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const MatrixView<T> view = matrix_view_of<T>(whole);
    if (view.m != m1 * m2 || view.n != n1 * n2 || terms < 1 || terms > std::min(blocks, entries))
      throw ValueError("the shapes, the terms and A do not fit");
    const Output<T> B({terms, m1, n1}), C({terms, m2, n2});
    py::dict facts;
    const LowRankFacts found = without_gil([&] {
      DeviceArray<Runtime, T> rows(blocks * entries);
      CudaKron<T, Runtime>::rearrange(view, n1, m2, n2, rows.get());
      const auto matrix = Device<T>::dense({rows.get(), blocks, entries, entries, 1});
      LowRankRequest request;
      request.k = terms;
      request.key = key;
      request.check_finite = check_finite;
      const index small = std::min(blocks, entries);
      if (small <= kExactSide) // the basis is everything
        request.oversample = std::max(request.oversample, small - terms);
      const auto result = LowRank<Device<T>>(*matrix, request).svd();
      std::vector<wide_t<T>> factor = phases<T>(result.left);
      for (index t = 0; t < terms; ++t)
        factor[at(t)] *= std::sqrt(result.values[at(t)]);
      Device<T>::store(result.left, factor, B.data, 1, blocks, false);
      Device<T>::store(result.right, factor, C.data, 1, entries, true);
      return result.facts;
    });
    facts["error"] = found.error;
    facts["method"] = std::string(found.method) == "direct" ? "svd" : "krylov";
    return py::make_tuple(B.array, C.array, facts);
  });
}

template <class T> BlocksView<T> blocks_of(const ArrayInfo &F, const char *name) {
  need_dtype<T>(F, name);
  const MatrixView<T> block = view_of<T>(F, 1);
  const auto item = static_cast<index>(sizeof(T));
  if (F.strides[0] % item != 0)
    throw py::type_error(std::string(name) + " is not aligned to its items");
  return {block.data, F.shape[0], block.m, block.n, F.strides[0] / item, block.rs, block.cs};
}

/// f(L, R, x, shape of the result) for M X or M^T X, or with conj(M), or for their inverses; zeros
/// where there are no entries.
template <class T, class F>
py::object with_blocks(const ArrayInfo &left, const ArrayInfo &right, const ArrayInfo &whole,
                       bool transpose, bool conjugate, bool inverse, F &&f) {
  auto l = blocks_of<T>(left, "L"), r = blocks_of<T>(right, "R");
  l.conjugated = r.conjugated = conjugate && is_complex_v<T>;
  const MatrixView<T> x = view_of<T>(whole);
  const index rows = l.count * l.m, inner = r.count * r.n, between = r.count * r.m;
  if (between != l.count * l.n || x.m != (transpose ? rows : inner) ||
      (inverse && (l.m != l.n || r.m != r.n)))
    throw ValueError("the blocks and X do not fit");
  const std::vector<index> shape{transpose ? inner : rows, x.n};
  if (shape[0] == 0 || x.m == 0 || x.n == 0 || between == 0)
    return zeros(shape, whole.dtype);
  const Output<T> Y(shape);
  without_gil([&] { f(l, r, x, Y.data); });
  return Y.array;
}

void need_blocks(const ArrayInfo &left, const ArrayInfo &right, const ArrayInfo &whole) {
  if (left.ndim() != 3 || right.ndim() != 3 || whole.ndim() != 2)
    throw ValueError("L and R must have 3 dimensions and X 2");
}

/// M X, M^T X, or either with M conjugated; X (n, c).
py::object monarch_matmul(const py::object &L, const py::object &R, const py::object &X,
                          bool permuted, bool transpose, bool conjugate) {
  const Session session(X);
  const ArrayInfo left(L), right(R), whole(X);
  need_blocks(left, right, whole);
  return with_scalar(whole.dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    return with_blocks<T>(left, right, whole, transpose, conjugate, false,
                          [&](const auto &l, const auto &r, const auto &x, T *y) {
                            CudaKron<T, Runtime>::monarch_multiply(l, r, x, permuted, transpose, y);
                          });
  });
}

/// The same with M^-1; b (n, c).
py::object monarch_solve(const py::object &L, const py::object &R, const py::object &b,
                         bool permuted, bool transpose, bool conjugate) {
  const Session session(b);
  const ArrayInfo left(L), right(R), whole(b);
  need_blocks(left, right, whole);
  return with_scalar(whole.dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    return with_blocks<T>(left, right, whole, transpose, conjugate, true,
                          [&](const auto &l, const auto &r, const auto &x, T *y) {
                            CudaKron<T, Runtime>::monarch_solve(l, r, x, permuted, transpose, y);
                          });
  });
}

/// L and R of the Monarch matrix nearest to W, and the relative error.
py::tuple monarch_project(const py::object &W, index k, index l, bool check_finite) {
  const Session session(W);
  const ArrayInfo whole(W);
  return with_scalar(whole.dtype, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const MatrixView<T> view = matrix_view_of<T>(whole);
    if (k < 1 || l < 1 || view.n % k != 0 || view.m % l != 0 || whole.size() == 0)
      throw ValueError("the blocks and W do not fit");
    const Output<T> L({l, view.m / l, k}), R({k, l, view.n / k});
    const double error = without_gil([&] {
      return CudaKron<T, Runtime>::monarch_project(view, k, l, check_finite, L.data, R.data);
    });
    return py::make_tuple(L.array, R.array, error);
  });
}

/// Lines of an array: all axes but the last.
index lines_of(const std::vector<index> &shape) {
  index out = 1;
  for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis)
    out *= shape[axis];
  return out;
}

void need_lines(const ArrayInfo &A, const char *name) {
  if (A.ndim() < 1)
    throw ValueError(std::string(name) + " must have at least 1 dimension, got a scalar");
}

/// The discrete Fourier transform of order n along the last axis, or its inverse; the signals cut
/// or continued by zeros.
py::object monarch_fft(const py::object &x, index n, bool inverse) {
  constexpr index kMost = index(1) << 31;
  if (n < 1 || n >= kMost)
    throw ValueError("n must be in 1..2^31 - 1, got " + std::to_string(n));
  const Session session(x);
  const py::object held = contiguous(x);
  const ArrayInfo signals(held);
  need_lines(ArrayInfo(x), "x");
  return with_scalar(signals.dtype, [&](auto zero) -> py::object {
    using N = decltype(zero);
    using R = real_t<N>;
    const index lines = lines_of(signals.shape), length = signals.shape.back();
    std::vector<index> shape = signals.shape;
    shape.back() = n;
    const Output<std::complex<R>> out(shape);
    if (lines > 0)
      without_gil([&] {
        CudaFourier<R, Runtime>::transform(static_cast<const N *>(signals.data), lines, length, n,
                                           inverse, out.data);
      });
    return out.array;
  });
}

/// Which line of an array each line of `shape` is, where the array's leading axes are broadcast.
std::vector<index> broadcast_lines(const std::vector<index> &shape, const std::vector<index> &own) {
  std::vector<index> out{0};
  const std::size_t missing = shape.size() - own.size();
  for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) {
    const index size = axis < missing ? 1 : own[axis - missing];
    std::vector<index> longer;
    longer.reserve(out.size() * static_cast<std::size_t>(shape[axis]));
    for (const index line : out)
      for (index i = 0; i < shape[axis]; ++i)
        longer.push_back(line * size + (size == 1 ? 0 : i));
    out = std::move(longer);
  }
  return out;
}

/// The leading axes of u and k broadcast, and the last one of u.
std::vector<index> broadcast_shape(const std::vector<index> &u, const std::vector<index> &k) {
  std::vector<index> out(std::max(u.size(), k.size()), 1);
  for (std::size_t axis = 1; axis < out.size(); ++axis) { // from the end, behind the last
    const index a = axis < u.size() ? u[u.size() - 1 - axis] : 1;
    const index b = axis < k.size() ? k[k.size() - 1 - axis] : 1;
    if (a != b && a != 1 && b != 1)
      throw ValueError("the leading axes of u and k must broadcast");
    out[out.size() - 1 - axis] = a == 1 ? b : a;
  }
  out.back() = u.back();
  return out;
}

/// y[..., t] = sum_{j <= t} k[..., j] u[..., t - j], for t < u.shape[-1]; the spectra of k times
/// the mask unless it is None.
py::object fftconv(const py::object &u, const py::object &k, const py::object &mask) {
  const Session session(u);
  const bool masked = !mask.is_none();
  need_lines(ArrayInfo(u), "u");
  need_lines(ArrayInfo(k), "k");
  if (masked)
    need_lines(ArrayInfo(mask), "mask");
  const py::object held_u = contiguous(u), held_k = contiguous(k);
  const py::object held_mask = masked ? contiguous(mask) : held_k;
  const ArrayInfo signals(held_u), kernels(held_k), weights(held_mask);
  return with_scalar(signals.dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    if constexpr (is_complex_v<T>) {
      throw py::type_error("u and k must be real");
    } else {
      need_dtype<T>(kernels, "k");
      need_dtype<T>(weights, "mask");
      auto shape = broadcast_shape(signals.shape, kernels.shape);
      if (masked)
        shape = broadcast_shape(shape, weights.shape);
      const index n = shape.back(), taps = kernels.shape.back(), f = weights.shape.back();
      const Output<T> y(shape);
      if (lines_of(shape) == 0 || n == 0 || taps == 0)
        return zeros(shape, signals.dtype);
      if (masked && f == 0)
        throw ValueError("mask must have at least 1 entry");
      const auto of_u = broadcast_lines(shape, signals.shape);
      const auto of_k = broadcast_lines(shape, kernels.shape);
      const auto *x = static_cast<const T *>(signals.data);
      const auto *filter = static_cast<const T *>(kernels.data);
      without_gil([&] {
        if (masked)
          CudaFourier<T, Runtime>::convolve_masked(x, n, of_u, filter, taps, of_k,
                                                   static_cast<const T *>(weights.data), f,
                                                   broadcast_lines(shape, weights.shape), y.data);
        else
          CudaFourier<T, Runtime>::convolve(x, n, of_u, filter, taps, of_k, y.data);
      });
      return y.array;
    }
  });
}

} // namespace

void register_kron(py::module_ &m) {
  m.def("kron_matmul", &kron_matmul, py::arg("factors"), py::arg("X"), py::arg("conjugate"));
  m.def("kron_solve", &kron_solve, py::arg("factors"), py::arg("b"));
  m.def("kron_solve_shifted", &kron_solve_shifted, py::arg("w"), py::arg("V"), py::arg("b"),
        py::arg("shift"));
  m.def("nearest_kron", &nearest_kron, py::arg("A"), py::arg("shape1"), py::arg("shape2"),
        py::arg("terms"), py::arg("key"), py::arg("check_finite"));
  m.def("monarch_solve", &monarch_solve, py::arg("L"), py::arg("R"), py::arg("b"),
        py::arg("permuted"), py::arg("transpose"), py::arg("conjugate"));
  m.def("monarch_project", &monarch_project, py::arg("W"), py::arg("k"), py::arg("l"),
        py::arg("check_finite"));
  m.def("monarch_matmul", &monarch_matmul, py::arg("L"), py::arg("R"), py::arg("X"),
        py::arg("permuted"), py::arg("transpose"), py::arg("conjugate"));
  m.def("monarch_fft", &monarch_fft, py::arg("x"), py::arg("n"), py::arg("inverse"));
  m.def("fftconv", &fftconv, py::arg("u"), py::arg("k"), py::arg("mask"));
}

} // namespace lowla::bindings::gpu
