// Bindings of the inverse-Fisher-vector products.
//
// On the device are gradients, vectors, L, W and what has their sizes; in main memory K, R, C,
// masks and indices, which come and go as NumPy arrays.
#include "arrays.hpp"
#include "mfac_request.hpp"

#include "lowla/device/cuda_mfac.hpp"

namespace lowla::bindings::gpu {
namespace {

using Mfac = CudaMfac<Runtime>;

index stride_of(const ArrayInfo &A, std::size_t axis) {
  const auto item = static_cast<index>(A.dtype.itemsize());
  if (A.shape[axis] <= 1)
    return axis + 1 == A.shape.size() ? 1 : A.shape[axis + 1];
  if (A.strides[axis] % item != 0)
    throw py::type_error("an array is not aligned to its items");
  return A.strides[axis] / item;
}

py::object first_of(const py::sequence &shards) {
  if (py::len(shards) == 0)
    throw ValueError("shards must hold at least one array");
  return shards[0];
}

std::vector<Shard> views_of(const py::sequence &shards) {
  std::vector<Shard> out;
  index rows = -1;
  for (const py::handle &shard : shards) {
    const ArrayInfo A(shard);
    if (A.ndim() != 2 || (rows >= 0 && A.shape[0] != rows))
      throw ValueError("shards must be matrices of equally many rows");
    rows = A.shape[0];
    out.push_back({A.data, stored_type(A.dtype), stride_of(A, 0), stride_of(A, 1), A.shape[1]});
  }
  return out;
}

index rows_of(const py::sequence &shards) { return ArrayInfo(first_of(shards)).shape.at(0); }

Gradients gradients_of(const py::sequence &shards, index block_size) {
  return {views_of(shards), rows_of(shards), block_size};
}

/// The last two axes, `offset` bytes into the array.
Vectors vectors_of(const ArrayInfo &X, index offset = 0) {
  const std::size_t axis = X.shape.size() - 2;
  return {static_cast<const char *>(X.data) + offset,
          is_double(X.dtype),
          X.shape[axis],
          X.shape[axis + 1],
          stride_of(X, axis),
          stride_of(X, axis + 1)};
}

Vectors vectors_of(const py::object &array, index rows, const char *name) {
  const ArrayInfo X(array);
  if (X.ndim() != 2 || X.shape[0] != rows)
    throw ValueError(std::string(name) + " must have " + std::to_string(rows) + " rows");
  return vectors_of(X);
}

/// A new array (rows, cols), and where to write.
struct NewVectors {
  NewArray made;
  MutableVectors view;

  NewVectors(const std::vector<index> &shape, const py::dtype &dtype)
      : made(new_array(shape, dtype)),
        view{made.data, is_double(dtype), shape.size() > 1 ? shape[1] : 1, 1} {}
};

/// `blocks` matrices of order s with contiguous rows.
Stack<double> squares_of(const py::object &array, index blocks, index s, const char *name) {
  const ArrayInfo A(array);
  if (!A.dtype.equal(py::dtype::of<double>()))
    throw py::type_error(std::string(name) + " must be float64");
  if (A.shape != std::vector<index>{blocks, s, s})
    throw ValueError(std::string(name) + " must have shape (" + std::to_string(blocks) + ", " +
                     std::to_string(s) + ", " + std::to_string(s) + ")");
  if (stride_of(A, 2) != 1)
    throw ValueError(std::string("the rows of ") + name + " must be contiguous");
  return {static_cast<double *>(A.data), stride_of(A, 0), stride_of(A, 1)};
}

Factors factors_of(const py::object &L, index blocks, index s) {
  const Stack<double> out = squares_of(L, blocks, s, "L");
  return {out.data, out.block, out.ld};
}

/// Blocks and order of a stack of square matrices.
std::pair<index, index> sizes_of(const py::object &array, const char *name) {
  const ArrayInfo A(array);
  if (A.ndim() != 3 || A.shape[1] != A.shape[2])
    throw ValueError(std::string(name) + " must be a stack of square matrices");
  return {A.shape[0], A.shape[1]};
}

/// K, in main memory.
Stack<double> stack_of(py::array_t<double> &K, const char *name) {
  if (K.ndim() != 3 || K.shape(1) != K.shape(2))
    throw ValueError(std::string(name) + " must be a stack of square matrices");
  const auto item = static_cast<py::ssize_t>(sizeof(double));
  if (K.shape(2) > 1 && K.strides(2) != item)
    throw ValueError(std::string("the rows of ") + name + " must be contiguous");
  return {const_cast<double *>(K.data()), static_cast<index>(K.strides(0) / item),
          static_cast<index>(K.strides(1) / item)};
}

std::vector<index> indices_of(const Indices &indices, index n, const char *name) {
  check_below(indices, n, name);
  return {indices.data(), indices.data() + indices.size()};
}

py::array gram(const py::sequence &shards, index block_size, const py::object &mask) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, block_size);
  py::array_t<bool, py::array::c_style | py::array::forcecast> bits;
  if (!mask.is_none()) {
    bits = py::cast<decltype(bits)>(mask);
    if (bits.size() != G.d)
      throw ValueError("mask must have an entry for each column");
  }
  const index s = G.order();
  py::array_t<double> K({G.blocks, s, s});
  double *out = K.mutable_data();
  const auto *chosen =
      mask.is_none() ? nullptr : reinterpret_cast<const unsigned char *>(bits.data());
  without_gil([&] { Mfac::gram(G, chosen, out); });
  return K;
}

py::object factor(py::array_t<double> K, double shift, index head) {
  const Session session;
  const Stack<double> source = stack_of(K, "K");
  const index blocks = K.shape(0), s = K.shape(1);
  const Output<double> L({blocks, s, s});
  without_gil([&] {
    Mfac::factor({source.data, source.block, source.ld}, blocks, s, shift, head,
                 {L.data, s * s, s});
  });
  return L.array;
}

py::array coefficients(const py::object &L, index head, const Doubles &R) {
  if (R.ndim() != 2)
    throw ValueError("R must have 2 dimensions");
  const Session session(L);
  const index m = R.shape(0), r = R.shape(1);
  const Factors factors = factors_of(L, 1, m);
  py::array_t<double> C({m, r});
  double *out = C.mutable_data();
  without_gil([&] { Mfac::coefficients(factors, m, head, R.data(), r, out); });
  return C;
}

py::array dots(const py::sequence &shards, const py::object &X) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, 0);
  const Vectors x = vectors_of(X, G.d, "X");
  py::array_t<double> R({G.m, x.cols});
  double *out = R.mutable_data();
  without_gil([&] { Mfac::dots(G, x, out); });
  return R;
}

py::object combine(const py::sequence &shards, const Doubles &C, const py::object &X, double alpha,
                   double beta, const std::string &dtype) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, 0);
  const Vectors x = vectors_of(X, G.d, "X");
  if (C.ndim() != 2 || C.shape(0) != G.m || C.shape(1) != x.cols)
    throw ValueError("C must have a row for each gradient and a column for each vector");
  const NewVectors Y({x.rows, x.cols}, py::dtype(dtype));
  without_gil([&] { Mfac::combine(G, C.data(), x, alpha, beta, Y.view); });
  return Y.made.array;
}

py::object solve(const py::sequence &shards, const py::object &L, index head, index block_size,
                 double damp, const py::object &X, const std::string &dtype) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, block_size);
  const Factors factors = factors_of(L, G.blocks, G.order());
  const Vectors x = vectors_of(X, G.d, "X");
  const NewVectors Y({x.rows, x.cols}, py::dtype(dtype));
  without_gil([&] { Mfac::solve(G, factors, head, damp, x, Y.view); });
  return Y.made.array;
}

py::object multiply(const py::sequence &shards, index block_size, double damp, const py::object &X,
                    const std::string &dtype) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, block_size);
  const Vectors x = vectors_of(X, G.d, "X");
  const NewVectors Y({x.rows, x.cols}, py::dtype(dtype));
  without_gil([&] { Mfac::multiply(G, damp, x, Y.view); });
  return Y.made.array;
}

py::object diagonal(const py::sequence &shards, const py::object &L, index head, index block_size,
                    double damp, const std::string &dtype) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, block_size);
  const Factors factors = factors_of(L, G.blocks, G.order());
  const NewVectors out({G.d}, py::dtype(dtype));
  without_gil([&] { Mfac::diagonal(G, factors, head, damp, out.view); });
  return out.made.array;
}

py::object columns(const py::sequence &shards, const py::object &L, index head, index block_size,
                   const Indices &indices) {
  const Session session(first_of(shards));
  const Gradients G = gradients_of(shards, block_size);
  const index s = G.order();
  const Factors factors = factors_of(L, G.blocks, s);
  const std::vector<index> chosen = indices_of(indices, G.d, "indices");
  const Output<double> W({static_cast<index>(chosen.size()), s});
  without_gil([&] { Mfac::columns(G, factors, head, chosen, W.data); });
  return W.array;
}

/// (n, s), float64 and C-ordered.
std::pair<const double *, std::vector<index>> rows_of(const py::object &array, const char *name) {
  const ArrayInfo W(array);
  if (W.ndim() != 2 || !W.dtype.equal(py::dtype::of<double>()))
    throw ValueError(std::string(name) + " must be a matrix of float64");
  if (W.size() > 0 && (stride_of(W, 1) != 1 || stride_of(W, 0) != W.shape[1]))
    throw ValueError(std::string(name) + " must be C-ordered");
  return {static_cast<const double *>(W.data), W.shape};
}

py::object inner(const py::object &W, const Indices &i, const Indices &j) {
  const Session session(W);
  if (i.size() != j.size())
    throw ValueError("i and j must have equally many entries");
  const auto [data, shape] = rows_of(W, "W");
  const auto left = indices_of(i, shape[0], "i"), right = indices_of(j, shape[0], "j");
  const Output<double> out({static_cast<index>(left.size())});
  without_gil([&, data = data, s = shape[1]] { Mfac::inner(data, s, left, right, out.data); });
  return out.array;
}

py::object cross(const py::object &V, const py::object &W) {
  const Session session(V);
  const auto [v, v_shape] = rows_of(V, "V");
  const auto [w, w_shape] = rows_of(W, "W");
  if (v_shape[1] != w_shape[1])
    throw ValueError("V and W must have equally many columns");
  const Output<double> out({v_shape[0], w_shape[0]});
  without_gil([&, v = v, w = w, p = v_shape[0], q = w_shape[0], s = v_shape[1]] {
    Mfac::cross(v, p, w, q, s, out.data);
  });
  return out.array;
}

py::tuple trace(const py::object &L, double shift, index width) {
  const Session session(L);
  const auto [blocks, s] = sizes_of(L, "L");
  if (width < 0 || width > s)
    throw ValueError("width must be in 0.." + std::to_string(s));
  const Factors factors = factors_of(L, blocks, s);
  const LogTrace found = without_gil(
      [&, blocks = blocks, s = s] { return Mfac::log_trace(factors, blocks, s, width, shift); });
  return py::make_tuple(found.log_det, found.trace);
}

py::dict push(const py::sequence &shards, py::array_t<double> K, const py::object &L, index head,
              index count, index block_size, double damp, const py::sequence &g, bool refactor) {
  const Session session(first_of(shards));
  const std::vector<Shard> window = views_of(shards);
  std::vector<Shard> newest;
  for (const py::handle &part : g) {
    const ArrayInfo row(part);
    if (row.ndim() != 1)
      throw ValueError("g must have 1 dimension a shard, got " + std::to_string(row.ndim()));
    newest.push_back({row.data, stored_type(row.dtype), 1, stride_of(row, 0), row.shape[0]});
  }
  const index capacity = rows_of(shards);
  bool fits = window.size() == newest.size() && capacity > 0;
  for (std::size_t i = 0; fits && i < window.size(); ++i)
    fits = window[i].cols == newest[i].cols && window[i].type == newest[i].type;
  if (!fits || head < 0 || head >= capacity || count < 0 || count > capacity)
    throw ValueError("g must have a row for each shard of the window, in its dtype");
  const Gradients shape(window, capacity, block_size);
  const Stack<double> K_out = stack_of(K, "K");
  const Stack<double> L_out = squares_of(L, shape.blocks, shape.order(), "L");
  if (!K.writeable() || K.shape(0) != shape.blocks || K.shape(1) != shape.order())
    throw ValueError("K must be writable and have the shape of L");
  return to_dict(without_gil([&] {
    return Mfac::push(window, capacity, newest, block_size, K_out, L_out, head, count, damp,
                      refactor);
  }));
}

/// Bytes to matrix (or row) `item` of a stack whose last `own` axes are one of them.
index offset_of(const ArrayInfo &stack, std::size_t own, index item) {
  index offset = 0;
  for (std::size_t axis = stack.shape.size() - own; axis-- > 0;) {
    offset += item % stack.shape[axis] * stack.strides[axis];
    item /= stack.shape[axis];
  }
  return offset;
}

py::object natural(const py::object &G, const py::object &U, const py::object &S, double damp) {
  const Session session(G);
  const ArrayInfo g(G), u(U), scale(S);
  if (g.ndim() < 2 || u.ndim() != g.ndim() || scale.ndim() + 1 != g.ndim())
    throw ValueError("G, U and S must have shapes (..., d, r), (..., d, s) and (..., s)");
  const std::size_t axes = g.shape.size() - 2;
  bool fits = g.shape[axes] == u.shape[axes] && u.shape[axes + 1] == scale.shape[axes];
  index items = 1;
  for (std::size_t axis = 0; axis < axes; ++axis) {
    fits = fits && u.shape[axis] == g.shape[axis] && scale.shape[axis] == g.shape[axis];
    items *= g.shape[axis];
  }
  if (!fits)
    throw ValueError("G, U and S must be stacks of one shape");
  const NewArray Y = new_array(g.shape, g.dtype);
  const index d = g.shape[axes], r = g.shape[axes + 1], s = u.shape[axes + 1];
  if (items * d * r == 0)
    return Y.array;
  const bool wide = is_double(g.dtype), scale_wide = is_double(scale.dtype);
  without_gil([&] {
    for (index i = 0; i < items; ++i) {
      const Vectors S_i{static_cast<const char *>(scale.data) + offset_of(scale, 1, i),
                        scale_wide,
                        s,
                        1,
                        stride_of(scale, axes),
                        1};
      Mfac::natural_gradient(
          vectors_of(g, offset_of(g, 2, i)), vectors_of(u, offset_of(u, 2, i)), S_i, damp,
          {static_cast<char *>(Y.data) + i * d * r * (wide ? 8 : 4), wide, r, 1});
    }
  });
  return Y.array;
}

} // namespace

void register_mfac(py::module_ &m) {
  m.def("fisher_gram", &gram, py::arg("shards"), py::arg("block_size"), py::arg("mask"));
  m.def("fisher_factor", &factor, py::arg("K"), py::arg("shift"), py::arg("head"));
  m.def("fisher_coefficients", &coefficients, py::arg("L"), py::arg("head"), py::arg("R"));
  m.def("fisher_dots", &dots, py::arg("shards"), py::arg("X"));
  m.def("fisher_combine", &combine, py::arg("shards"), py::arg("C"), py::arg("X"), py::arg("alpha"),
        py::arg("beta"), py::arg("dtype"));
  m.def("fisher_solve", &solve, py::arg("shards"), py::arg("L"), py::arg("head"),
        py::arg("block_size"), py::arg("damp"), py::arg("X"), py::arg("dtype"));
  m.def("fisher_multiply", &multiply, py::arg("shards"), py::arg("block_size"), py::arg("damp"),
        py::arg("X"), py::arg("dtype"));
  m.def("fisher_diagonal", &diagonal, py::arg("shards"), py::arg("L"), py::arg("head"),
        py::arg("block_size"), py::arg("damp"), py::arg("dtype"));
  m.def("fisher_columns", &columns, py::arg("shards"), py::arg("L"), py::arg("head"),
        py::arg("block_size"), py::arg("indices"));
  m.def("fisher_inner", &inner, py::arg("W"), py::arg("i"), py::arg("j"));
  m.def("fisher_cross", &cross, py::arg("V"), py::arg("W"));
  m.def("fisher_trace", &trace, py::arg("L"), py::arg("shift"), py::arg("width"));
  m.def("fisher_push", &push, py::arg("shards"), py::arg("K"), py::arg("L"), py::arg("head"),
        py::arg("count"), py::arg("block_size"), py::arg("damp"), py::arg("g"),
        py::arg("refactor"));
  m.def("natural_gradient", &natural, py::arg("G"), py::arg("U"), py::arg("S"), py::arg("damp"));
}

} // namespace lowla::bindings::gpu
