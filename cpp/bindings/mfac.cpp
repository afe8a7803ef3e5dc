// Bindings of the inverse-Fisher-vector products.
#include "mfac_request.hpp"

#include <cstring>

namespace lowla::bindings {
namespace {

index stride_of(const py::array &A, int axis) {
  if (A.shape(axis) <= 1)
    return axis + 1 == A.ndim() ? 1 : static_cast<index>(A.shape(axis + 1));
  if (A.strides(axis) % A.itemsize() != 0)
    throw py::type_error("an array is not aligned to its items");
  return static_cast<index>(A.strides(axis) / A.itemsize());
}

/// The gradients, and the arrays that own their memory.
struct Held {
  std::vector<py::array> arrays;
  Gradients G;

  Held(const py::sequence &shards, index block_size)
      : arrays(arrays_of(shards)), G(views(arrays), rows(arrays), block_size) {}

  static std::vector<py::array> arrays_of(const py::sequence &shards) {
    std::vector<py::array> out;
    for (const py::handle &shard : shards)
      out.push_back(py::cast<py::array>(shard));
    return out;
  }
  static index rows(const std::vector<py::array> &arrays) {
    return arrays.empty() ? 0 : static_cast<index>(arrays.front().shape(0));
  }
  static std::vector<Shard> views(const std::vector<py::array> &arrays) {
    std::vector<Shard> out;
    for (const py::array &A : arrays) {
      if (A.ndim() != 2 || A.shape(0) != rows(arrays))
        throw ValueError("shards must be matrices of equally many rows");
      out.push_back({A.data(), stored_type(A.dtype()), stride_of(A, 0), stride_of(A, 1),
                     static_cast<index>(A.shape(1))});
    }
    return out;
  }
};

Vectors vectors_of(const py::array &X, index rows) {
  if (X.ndim() != 2 || X.shape(0) != rows)
    throw ValueError("X must have " + std::to_string(rows) + " rows");
  return {X.data(), is_double(X.dtype()), X.shape(0), X.shape(1), stride_of(X, 0), stride_of(X, 1)};
}

/// A new array of the shape of X, in its order, and where to write.
std::pair<py::array, MutableVectors> like(const Vectors &X, const std::string &dtype) {
  const bool by_columns = X.rs == 1 && X.cols > 1;
  const py::dtype type(dtype);
  const auto item = type.itemsize();
  const std::vector<py::ssize_t> strides = by_columns
                                               ? std::vector<py::ssize_t>{item, item * X.rows}
                                               : std::vector<py::ssize_t>{item * X.cols, item};
  py::array out(type, std::vector<py::ssize_t>{X.rows, X.cols}, strides);
  return {out,
          {out.mutable_data(), is_double(out.dtype()), by_columns ? 1 : X.cols,
           by_columns ? X.rows : 1}};
}

/// The factors of `blocks` blocks of order s.
Factors factors_of(const py::array_t<double> &L, index blocks, index s) {
  if (L.ndim() != 3 || L.shape(0) != blocks || L.shape(1) != s || L.shape(2) != s)
    throw ValueError("L must have shape (" + std::to_string(blocks) + ", " + std::to_string(s) +
                     ", " + std::to_string(s) + ")");
  if (s > 1 && L.strides(2) != sizeof(double))
    throw ValueError("the rows of L must be contiguous");
  return {L.data(), stride_of(L, 0), stride_of(L, 1)};
}

py::array gram(const py::sequence &shards, index block_size, const py::object &mask) {
  const Held held(shards, block_size);
  py::array_t<bool, py::array::c_style | py::array::forcecast> bits;
  if (!mask.is_none()) {
    bits = py::cast<decltype(bits)>(mask);
    if (bits.size() != held.G.d)
      throw ValueError("mask must have an entry for each column");
  }
  const index s = held.G.order();
  py::array_t<double> K({held.G.blocks, s, s});
  double *out = K.mutable_data();
  const auto *chosen =
      mask.is_none() ? nullptr : reinterpret_cast<const unsigned char *>(bits.data());
  without_gil([&] { fisher_gram(held.G, chosen, out); });
  return K;
}

py::array factor(const py::array_t<double> &K, double shift, index head) {
  ensure_blas();
  if (K.ndim() != 3 || K.shape(1) != K.shape(2))
    throw ValueError("K must be a stack of square matrices");
  const index blocks = K.shape(0), s = K.shape(1);
  const Factors source = factors_of(K, blocks, s);
  py::array_t<double> L({blocks, s, s});
  const Stack<double> out{L.mutable_data(), s * s, s};
  without_gil([&] { fisher_factor(source, blocks, s, shift, head, out); });
  return L;
}

py::array coefficients(const py::array_t<double> &L, index head, const Doubles &R) {
  if (R.ndim() != 2)
    throw ValueError("R must have 2 dimensions");
  const index m = R.shape(0), r = R.shape(1);
  const Factors factors = factors_of(L, 1, m);
  py::array_t<double> C({m, r});
  double *out = C.mutable_data();
  without_gil([&] { fisher_coefficients(factors, m, head, R.data(), r, out); });
  return C;
}

py::array dots(const py::sequence &shards, const py::array &X) {
  const Held held(shards, 0);
  const Vectors x = vectors_of(X, held.G.d);
  py::array_t<double> R({held.G.m, x.cols});
  double *out = R.mutable_data();
  without_gil([&] { fisher_dots(held.G, x, out); });
  return R;
}

py::array combine(const py::sequence &shards, const Doubles &C, const py::array &X, double alpha,
                  double beta, const std::string &dtype) {
  const Held held(shards, 0);
  const Vectors x = vectors_of(X, held.G.d);
  if (C.ndim() != 2 || C.shape(0) != held.G.m || C.shape(1) != x.cols)
    throw ValueError("C must have a row for each gradient and a column for each vector");
  auto [Y, out] = like(x, dtype);
  without_gil([&, &out = out] { fisher_combine(held.G, C.data(), x, alpha, beta, out); });
  return Y;
}

py::array solve(const py::sequence &shards, const py::array_t<double> &L, index head,
                index block_size, double damp, const py::array &X, const std::string &dtype) {
  const Held held(shards, block_size);
  const Factors factors = factors_of(L, held.G.blocks, held.G.order());
  const Vectors x = vectors_of(X, held.G.d);
  auto [Y, out] = like(x, dtype);
  without_gil([&, &out = out] { fisher_solve(held.G, factors, head, damp, x, out); });
  return Y;
}

py::array multiply(const py::sequence &shards, index block_size, double damp, const py::array &X,
                   const std::string &dtype) {
  const Held held(shards, block_size);
  const Vectors x = vectors_of(X, held.G.d);
  auto [Y, out] = like(x, dtype);
  without_gil([&, &out = out] { fisher_multiply(held.G, damp, x, out); });
  return Y;
}

py::array diagonal(const py::sequence &shards, const py::array_t<double> &L, index head,
                   index block_size, double damp, const std::string &dtype) {
  const Held held(shards, block_size);
  const Factors factors = factors_of(L, held.G.blocks, held.G.order());
  std::vector<double> found(static_cast<std::size_t>(held.G.d));
  without_gil([&] { fisher_diagonal(held.G, factors, head, damp, found.data()); });
  if (dtype == "float32")
    return vector_of<float>(found);
  return vector_of<double>(found);
}

py::array columns(const py::sequence &shards, const py::array_t<double> &L, index head,
                  index block_size, const Indices &indices) {
  const Held held(shards, block_size);
  const index s = held.G.order(), n = indices.size();
  const Factors factors = factors_of(L, held.G.blocks, s);
  check_below(indices, held.G.d, "indices");
  py::array_t<double> W({n, s});
  double *out = W.mutable_data();
  without_gil([&] { fisher_columns(held.G, factors, head, indices.data(), n, out); });
  return W;
}

py::array inner(const Doubles &W, const Indices &i, const Indices &j) {
  if (W.ndim() != 2 || i.size() != j.size())
    throw ValueError("W must have 2 dimensions, i and j equally many entries");
  check_below(i, W.shape(0), "i");
  check_below(j, W.shape(0), "j");
  py::array_t<double> found(i.size());
  double *out = found.mutable_data();
  without_gil([&] { fisher_inner(W.data(), W.shape(1), i.data(), j.data(), i.size(), out); });
  return found;
}

py::array cross(const Doubles &V, const Doubles &W) {
  if (V.ndim() != 2 || W.ndim() != 2 || V.shape(1) != W.shape(1))
    throw ValueError("V and W must be matrices of equally many columns");
  py::array_t<double> found({V.shape(0), W.shape(0)});
  double *out = found.mutable_data();
  without_gil([&] { fisher_cross(V.data(), V.shape(0), W.data(), W.shape(0), V.shape(1), out); });
  return found;
}

py::tuple trace(const py::array_t<double> &L, double shift, index width) {
  if (L.ndim() != 3 || width < 0 || width > L.shape(1))
    throw ValueError("L must be a stack of matrices with at least `width` rows");
  const index blocks = L.shape(0), s = L.shape(1);
  const Factors factors = factors_of(L, blocks, s);
  const LogTrace found =
      without_gil([&] { return fisher_log_trace(factors, blocks, s, width, shift); });
  return py::make_tuple(found.log_det, found.trace);
}

/// The small matrices of a window, to be written to.
Stack<double> stack_of(py::array_t<double> &A, index blocks, const char *name) {
  if (A.ndim() != 3 || A.shape(0) != blocks || A.shape(1) != A.shape(2))
    throw ValueError(std::string(name) + " must be a stack of square matrices, one a block");
  if (A.shape(2) > 1 && A.strides(2) != sizeof(double))
    throw ValueError(std::string("the rows of ") + name + " must be contiguous");
  return {A.mutable_data(), stride_of(A, 0), stride_of(A, 1)};
}

py::dict push(const py::sequence &shards, py::array_t<double> K, py::array_t<double> L, index head,
              index count, index block_size, double damp, const py::sequence &g, bool refactor) {
  ensure_blas();
  const auto window = Held::arrays_of(shards);
  std::vector<py::array> rows;
  for (const py::array &row : Held::arrays_of(g))
    rows.push_back(py::cast<py::array>(row.attr("reshape")(1, -1)));
  const auto views = Held::views(window), newest = Held::views(rows);
  const index capacity = Held::rows(window);
  bool fits = views.size() == newest.size() && capacity > 0;
  for (std::size_t i = 0; fits && i < views.size(); ++i)
    fits =
        views[i].cols == newest[i].cols && views[i].type == newest[i].type && window[i].writeable();
  if (!fits || head < 0 || head >= capacity || count < 0 || count > capacity)
    throw ValueError("g must have a row for each writable shard of the window, in its dtype");
  const Gradients shape(views, capacity, block_size);
  const Stack<double> K_out = stack_of(K, shape.blocks, "K"),
                      L_out = stack_of(L, shape.blocks, "L");
  if (K.shape(1) != shape.order() || L.shape(1) != shape.order())
    throw ValueError("K and L must have the order of the window");
  const Window now = without_gil([&] {
    return fisher_push(views, capacity, newest, block_size, K_out, L_out, head, count, damp,
                       refactor);
  });
  return to_dict(now);
}

/// Matrix `item` of a stack (..., rows, columns).
Vectors item_of(const py::array &stack, index item) {
  const auto ndim = stack.ndim();
  const auto *data = static_cast<const char *>(stack.data());
  for (auto axis = ndim - 3; axis >= 0; --axis) {
    data += item % stack.shape(axis) * stack.strides(axis);
    item /= stack.shape(axis);
  }
  return {data,
          is_double(stack.dtype()),
          stack.shape(ndim - 2),
          stack.shape(ndim - 1),
          stride_of(stack, static_cast<int>(ndim) - 2),
          stride_of(stack, static_cast<int>(ndim) - 1)};
}

py::array natural(const py::array &G, const py::array &U, const py::array &S, double damp) {
  ensure_blas();
  const auto ndim = G.ndim();
  if (ndim < 2 || U.ndim() != ndim || S.ndim() != ndim - 1)
    throw ValueError("G, U and S must have shapes (..., d, r), (..., d, s) and (..., s)");
  index items = 1;
  for (py::ssize_t axis = 0; axis + 1 < ndim; ++axis) {
    if (U.shape(axis) != G.shape(axis) || (axis + 2 < ndim && S.shape(axis) != G.shape(axis)))
      throw ValueError("G, U and S must be stacks of one shape");
    items *= axis + 2 < ndim ? G.shape(axis) : 1;
  }
  if (S.shape(ndim - 2) != U.shape(ndim - 1))
    throw ValueError("S must have an entry for each column of U");
  const Doubles scale(S);
  const index d = G.shape(ndim - 2), r = G.shape(ndim - 1), s = U.shape(ndim - 1);
  py::array Y(G.dtype(), std::vector<py::ssize_t>(G.shape(), G.shape() + ndim));
  auto *out = static_cast<char *>(Y.mutable_data());
  const bool wide = is_double(G.dtype());
  const py::ssize_t item = Y.itemsize();
  std::vector<Vectors> right, left; // made while the GIL is held
  for (index i = 0; i < items; ++i) {
    right.push_back(item_of(G, i));
    left.push_back(item_of(U, i));
  }
  without_gil([&] {
    for (index i = 0; i < items; ++i)
      natural_gradient(right[static_cast<std::size_t>(i)], left[static_cast<std::size_t>(i)],
                       scale.data() + i * s, damp, {out + i * d * r * item, wide, r, 1});
  });
  return Y;
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

} // namespace lowla::bindings
