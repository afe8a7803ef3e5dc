// Bindings of the random draws and embeddings.
#include "arrays.hpp"

namespace lowla::bindings::gpu {
namespace {

py::object random_normal(std::uint64_t key, std::uint32_t stream, index rows, index cols,
                         const std::string &dtype) {
  if (rows < 0 || cols < 0)
    throw ValueError("rows and cols must not be negative");
  const Session session;
  return with_scalar(py::dtype(dtype), [&](auto zero) -> py::object {
    using T = decltype(zero);
    if constexpr (is_complex_v<T>) {
      throw py::type_error("dtype must be float32 or float64");
    } else {
      const Output<T> out({rows, cols});
      without_gil([&] { Device<T>::normal_entries(out.data, cols, rows, cols, 0, key, stream); });
      return out.array;
    }
  });
}

py::object random_signs(std::uint64_t key, std::uint32_t stream, index rows, index cols) {
  const Session session;
  const Output<std::int8_t> out({rows, cols});
  without_gil([&] { CudaRandom<Runtime>::signs(out.data, rows, cols, key, stream); });
  return out.array;
}

py::object raw_philox(std::uint64_t key, const py::sequence &counter) {
  if (counter.size() != 4)
    throw ValueError("counter must have four words");
  philox::Words words;
  for (std::size_t i = 0; i < 4; ++i)
    words.w[i] = py::cast<std::uint32_t>(counter[i]);
  const Session session;
  const Output<std::uint32_t> out({4});
  without_gil([&] { CudaRandom<Runtime>::words(out.data, words, key); });
  return out.array;
}

py::tuple sketch_pattern(const std::string &kind, std::uint64_t key, index d, index n, index nnz,
                         double density) {
  const SketchSpec spec = sketch_spec(kind, key, d, n, nnz, density);
  if (!spec.is_sparse())
    throw ValueError("kind must be a sparse one, got \"" + kind + "\"");
  const Session session;
  const Output<index> starts({n + 1});
  const index total =
      without_gil([&] { return CudaRandom<Runtime>::pattern_starts(spec, starts.data); });
  const Output<index> rows({total});
  const Output<std::int8_t> signs({total});
  without_gil([&] { CudaRandom<Runtime>::pattern(spec, starts.data, rows.data, signs.data); });
  return py::make_tuple(starts.array, rows.array, signs.array);
}

py::object sketch_entries(const std::string &kind, std::uint64_t key, index d, index n,
                          const std::string &dtype) {
  const SketchSpec spec = sketch_spec(kind, key, d, n, 1, 1.0);
  if (spec.is_sparse())
    throw ValueError("kind must be a dense one, got \"" + kind + "\"");
  const Session session;
  return with_scalar(py::dtype(dtype), [&](auto zero) -> py::object {
    using T = decltype(zero);
    if constexpr (is_complex_v<T>) {
      throw py::type_error("dtype must be float32 or float64");
    } else {
      const Output<T> out({d, n});
      without_gil([&] { Device<T>::sketch_entries(spec, out.data); });
      return out.array;
    }
  });
}

py::object sketch_apply(const std::string &kind, std::uint64_t key, index d, index n, index nnz,
                        double density, const py::object &A, bool adjoint) {
  const SketchSpec spec = sketch_spec(kind, key, d, n, nnz, density);
  const auto need_rows = [&](index got) {
    const index want = adjoint ? d : n;
    if (got != want)
      throw ValueError("A must have " + std::to_string(want) + " rows, got " + std::to_string(got));
  };
  const Session session(located(A));
  if (py::isinstance<py::tuple>(A) && !adjoint) {
    const CsrParts parts(py::reinterpret_borrow<py::tuple>(A));
    need_rows(parts.m);
    return with_scalar(parts.data.dtype, [&](auto zero) -> py::object {
      using T = decltype(zero);
      return with_index(parts, [&](auto integer) -> py::object {
        const auto view = parts.view<T, decltype(integer)>();
        const Output<T> out({d, view.n});
        without_gil([&] { Device<T>::sketch_csr(spec, view, parts.stored(), out.data); });
        return out.array;
      });
    });
  }
  if (!is_array(A))
    throw py::type_error("A must be a dense array, or (indptr, indices, data, (m, n))");
  const ArrayInfo array(A);
  return with_scalar(array.dtype, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const auto view = matrix_view_of<T>(array);
    need_rows(view.m);
    const Output<T> out({adjoint ? n : d, view.n});
    without_gil([&] {
      if (adjoint)
        Device<T>::sketch_adjoint(spec, view, out.data);
      else
        Device<T>::sketch_dense(spec, view, out.data);
    });
    return out.array;
  });
}

} // namespace

void register_sketch(py::module_ &m) {
  m.def("random_normal", &random_normal, py::arg("key"), py::arg("stream"), py::arg("rows"),
        py::arg("cols"), py::arg("dtype"));
  m.def("random_signs", &random_signs, py::arg("key"), py::arg("stream"), py::arg("rows"),
        py::arg("cols"));
  m.def("philox", &raw_philox, py::arg("key"), py::arg("counter"));
  m.def("sketch_pattern", &sketch_pattern, py::arg("kind"), py::arg("key"), py::arg("d"),
        py::arg("n"), py::arg("nnz"), py::arg("density"));
  m.def("sketch_entries", &sketch_entries, py::arg("kind"), py::arg("key"), py::arg("d"),
        py::arg("n"), py::arg("dtype"));
  m.def("sketch_apply", &sketch_apply, py::arg("kind"), py::arg("key"), py::arg("d"), py::arg("n"),
        py::arg("nnz"), py::arg("density"), py::arg("A"), py::arg("adjoint"));
}

} // namespace lowla::bindings::gpu
