// Bindings of the random draws and embeddings.
#include "lowla/sketch.hpp"

#include "python.hpp"

#include <array>
#include <cmath>

namespace lowla::bindings {
namespace {

py::array random_normal(std::uint64_t key, std::uint32_t stream, index rows, index cols,
                        const std::string &dtype) {
  if (rows < 0 || cols < 0)
    throw ValueError("rows and cols must not be negative");
  return with_scalar(py::dtype(dtype), [&](auto zero) -> py::array {
    using T = decltype(zero);
    if constexpr (is_complex_v<T>) {
      throw py::type_error("dtype must be float32 or float64");
    } else {
      py::array_t<T> out({rows, cols});
      T *data = out.mutable_data();
      without_gil([&] {
        const index groups = (rows + 3) / 4;
        threads::parallel_for((groups + 63) / 64, [&](index chunk) {
          for (index g = 64 * chunk; g < std::min(groups, 64 * (chunk + 1)); ++g)
            for (index j = 0; j < cols; ++j) {
              double four[4];
              philox::normals4(key, stream, static_cast<std::uint64_t>(g),
                               static_cast<std::uint64_t>(j), four);
              for (index i = 4 * g; i < std::min(rows, 4 * g + 4); ++i)
                data[i * cols + j] = static_cast<T>(four[i - 4 * g]);
            }
        });
      });
      return out;
    }
  });
}

py::array random_signs(std::uint64_t key, std::uint32_t stream, index rows, index cols) {
  py::array_t<std::int8_t> out({rows, cols});
  std::int8_t *data = out.mutable_data();
  without_gil([&] {
    threads::parallel_for((rows + 127) / 128, [&](index chunk) {
      for (index j = 0; j < cols; ++j) {
        const auto words = philox::block(key, stream, static_cast<std::uint64_t>(chunk),
                                         static_cast<std::uint64_t>(j));
        for (index i = 128 * chunk; i < std::min(rows, 128 * (chunk + 1)); ++i)
          data[i * cols + j] = ((words.w[(i >> 5) & 3] >> (i & 31)) & 1u) ? -1 : 1;
      }
    });
  });
  return out;
}

py::array raw_philox(std::uint64_t key, const std::array<std::uint32_t, 4> &counter) {
  const auto words =
      philox::rounds10(philox::Words{{counter[0], counter[1], counter[2], counter[3]}},
                       static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32));
  return py::array_t<std::uint32_t>(4, words.w);
}

template <class N> py::array_t<N> copied(const std::vector<N> &values) {
  return py::array_t<N>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple pattern(const std::string &kind, std::uint64_t key, index d, index n, index nnz,
                  double density) {
  const SketchSpec spec = sketch_spec(kind, key, d, n, nnz, density);
  if (!spec.is_sparse())
    throw ValueError("kind must be a sparse one, got \"" + kind + "\"");
  const SketchPattern made = without_gil([&] { return sketch_pattern(spec); });
  return py::make_tuple(copied(made.starts), copied(made.rows), copied(made.signs));
}

py::array entries(const std::string &kind, std::uint64_t key, index d, index n,
                  const std::string &dtype) {
  const SketchSpec spec = sketch_spec(kind, key, d, n, 1, 1.0);
  if (spec.is_sparse())
    throw ValueError("kind must be a dense one, got \"" + kind + "\"");
  return with_scalar(py::dtype(dtype), [&](auto zero) -> py::array {
    using T = decltype(zero);
    if constexpr (is_complex_v<T>) {
      throw py::type_error("dtype must be float32 or float64");
    } else {
      py::array_t<T> out({d, n});
      T *data = out.mutable_data();
      without_gil([&] { sketch_entries(spec, data); });
      return out;
    }
  });
}

py::array sketch_apply(const std::string &kind, std::uint64_t key, index d, index n, index nnz,
                       double density, const py::object &A, bool adjoint) {
  const SketchSpec spec = sketch_spec(kind, key, d, n, nnz, density);
  const auto need_rows = [&](index got) {
    const index want = adjoint ? d : n;
    if (got != want)
      throw ValueError("A must have " + std::to_string(want) + " rows, got " + std::to_string(got));
  };
  if (!py::isinstance<py::array>(A) && (adjoint || !py::isinstance<py::tuple>(A)))
    throw py::type_error("A must be a dense array, or (indptr, indices, data, (m, n))");
  return with_view(A, [&](auto zero, auto view) -> py::array {
    using T = decltype(zero);
    need_rows(view.m);
    py::array_t<T> out({adjoint ? n : d, view.n});
    T *data = out.mutable_data();
    without_gil([&] {
      if constexpr (std::is_same_v<decltype(view), MatrixView<T>>) {
        if (adjoint)
          sketch_adjoint(spec, view, data);
        else
          sketch_dense(spec, view, data);
      } else {
        sketch_csr(spec, view, data);
      }
    });
    return out;
  });
}

} // namespace

void register_sketch(py::module_ &m) {
  m.def("random_normal", &random_normal, py::arg("key"), py::arg("stream"), py::arg("rows"),
        py::arg("cols"), py::arg("dtype"));
  m.def("random_signs", &random_signs, py::arg("key"), py::arg("stream"), py::arg("rows"),
        py::arg("cols"));
  m.def(
      "philox",
      [](std::uint64_t key, const py::sequence &counter) {
        if (counter.size() != 4)
          throw ValueError("counter must have four words");
        return raw_philox(
            key, {py::cast<std::uint32_t>(counter[0]), py::cast<std::uint32_t>(counter[1]),
                  py::cast<std::uint32_t>(counter[2]), py::cast<std::uint32_t>(counter[3])});
      },
      py::arg("key"), py::arg("counter"));
  m.def("sketch_pattern", &pattern, py::arg("kind"), py::arg("key"), py::arg("d"), py::arg("n"),
        py::arg("nnz"), py::arg("density"));
  m.def("sketch_entries", &entries, py::arg("kind"), py::arg("key"), py::arg("d"), py::arg("n"),
        py::arg("dtype"));
  m.def("sketch_apply", &sketch_apply, py::arg("kind"), py::arg("key"), py::arg("d"), py::arg("n"),
        py::arg("nnz"), py::arg("density"), py::arg("A"), py::arg("adjoint"));
}

} // namespace lowla::bindings
