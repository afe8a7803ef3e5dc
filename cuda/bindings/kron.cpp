// Bindings of the Kronecker and Monarch products, Fourier transforms and convolutions.
#include "arrays.hpp"

namespace lowla::bindings::gpu {
namespace {

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

/// K X, or conj(K) X; X (n, r) C- or Fortran-ordered (else copied), the result alike.
py::object kron_matmul(const py::sequence &factors, const py::object &X, bool conjugate) {
  const Session session(X);
  const ArrayInfo whole(X);
  if (whole.ndim() != 2)
    throw ValueError("X must have 2 dimensions, got " + std::to_string(whole.ndim()));
  return with_scalar(whole.dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    std::vector<MatrixView<T>> views;
    index rows = 1, inner = 1;
    for (const py::handle &factor : factors) {
      views.push_back(matrix_view_of<T>(ArrayInfo(factor)));
      views.back().conjugated = conjugate && is_complex_v<T>;
      rows *= views.back().m;
      inner *= views.back().n;
    }
    const index columns = whole.shape[1];
    if (views.empty() || whole.shape[0] != inner)
      throw ValueError("X must have " + std::to_string(inner) + " rows, got " +
                       std::to_string(whole.shape[0]));
    if (rows == 0 || columns == 0 || inner == 0)
      return zeros({rows, columns}, whole.dtype);
    const MatrixView<T> x = view_of<T>(whole);
    const bool by_rows = x.rs == columns && x.cs == 1;
    const bool columns_first = !by_rows && x.rs == 1 && x.cs == inner;
    const py::object held = columns_first || by_rows ? X : contiguous(X);
    const auto *source = static_cast<const T *>(ArrayInfo(held).data);
    const Output<T> Y(columns_first ? std::vector<index>{columns, rows}
                                    : std::vector<index>{rows, columns});
    without_gil([&] {
      CudaKron<T, Runtime>::kron_multiply(views, source, columns, columns_first, Y.data);
    });
    return columns_first ? py::object(Y.array.attr("T")) : Y.array;
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

/// M X, M^T X, or either with M conjugated; X (n, c).
py::object monarch_matmul(const py::object &L, const py::object &R, const py::object &X,
                          bool permuted, bool transpose, bool conjugate) {
  const Session session(X);
  const ArrayInfo left(L), right(R), whole(X);
  if (left.ndim() != 3 || right.ndim() != 3 || whole.ndim() != 2)
    throw ValueError("L and R must have 3 dimensions and X 2");
  return with_scalar(whole.dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    auto l = blocks_of<T>(left, "L"), r = blocks_of<T>(right, "R");
    l.conjugated = r.conjugated = conjugate && is_complex_v<T>;
    const MatrixView<T> x = view_of<T>(whole);
    const index rows = l.count * l.m, inner = r.count * r.n, between = r.count * r.m;
    if (between != l.count * l.n || x.m != (transpose ? rows : inner))
      throw ValueError("the blocks and X do not fit");
    const std::vector<index> shape{transpose ? inner : rows, x.n};
    if (shape[0] == 0 || x.m == 0 || x.n == 0 || between == 0)
      return zeros(shape, whole.dtype);
    const Output<T> Y(shape);
    without_gil(
        [&] { CudaKron<T, Runtime>::monarch_multiply(l, r, x, permuted, transpose, Y.data); });
    return Y.array;
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
  m.def("monarch_matmul", &monarch_matmul, py::arg("L"), py::arg("R"), py::arg("X"),
        py::arg("permuted"), py::arg("transpose"), py::arg("conjugate"));
  m.def("monarch_fft", &monarch_fft, py::arg("x"), py::arg("n"), py::arg("inverse"));
  m.def("fftconv", &fftconv, py::arg("u"), py::arg("k"), py::arg("mask"));
}

} // namespace lowla::bindings::gpu
