// Bindings of decompositions by columns and rows, and of pivoted factorisations.
#include "arrays.hpp"
#include "cur_functions.hpp"

namespace lowla::bindings::gpu {
namespace {

/// Those of the device, and CSR tuples of them.
struct DeviceArrays {
  template <class F> static py::tuple with_source(const py::object &A, F &&f) {
    const Session session(located(A));
    if (py::isinstance<py::tuple>(A)) {
      const CsrParts parts(py::reinterpret_borrow<py::tuple>(A));
      return with_scalar(parts.data.dtype, [&](auto zero) {
        using T = decltype(zero);
        return with_index(parts, [&](auto integer) -> py::tuple {
          const auto view = parts.view<T, decltype(integer)>();
          return f(zero, view.m, view.n,
                   [&] { return CudaColumns<T, Runtime>::open(view, parts.stored()); });
        });
      });
    }
    require_array(A, "A must be a dense array, or (indptr, indices, data, (m, n))");
    const ArrayInfo array(A);
    return with_scalar(array.dtype, [&](auto zero) -> py::tuple {
      using T = decltype(zero);
      const auto view = matrix_view_of<T>(array);
      return f(zero, view.m, view.n, [&] { return CudaColumns<T, Runtime>::open(view); });
    });
  }

  /// Y comes down: it is factored on the host.
  template <class F> static auto with_copy(const py::object &Y, F &&f) {
    require_array(Y, "Y must be a dense array");
    const Session session(Y);
    const ArrayInfo array(Y);
    if (array.ndim() != 2)
      throw ValueError("Y must have 2 dimensions, got " + std::to_string(array.ndim()));
    return with_scalar(array.dtype, [&](auto zero) {
      using T = decltype(zero);
      const auto view = view_of<T>(array);
      // The rows of Y are the columns of its transpose, as a small matrix holds them.
      auto entries = without_gil(
          [&] { return Device<T>::entries({view.data, view.n, view.m, view.cs, view.rs}).data; });
      return f(wide_t<T>{}, entries, view.m, view.n);
    });
  }

  template <class N, class F> static py::object array(const std::vector<index> &shape, F &&write) {
    index size = 1;
    for (const index n : shape)
      size *= n;
    std::vector<N> values(static_cast<std::size_t>(size));
    write(values.data());
    const Output<N> out(shape);
    if (size > 0)
      Runtime::to_device(out.data, values.data(), values.size() * sizeof(N));
    return out.array;
  }

private:
  static void require_array(const py::object &object, const char *message) {
    if (!is_array(object))
      throw py::type_error(message);
  }
};

} // namespace

void register_cur(py::module_ &m) { CurFunctions<DeviceArrays>::add_to(m); }

} // namespace lowla::bindings::gpu
