// Bindings of decompositions by columns and rows, and of pivoted factorisations.
#include "cur_functions.hpp"

namespace lowla::bindings {
namespace {

/// NumPy's, and CSR tuples of them.
struct HostArrays {
  template <class F> static py::tuple with_source(const py::object &A, F &&f) {
    return with_view(A, [&](auto zero, auto view) -> py::tuple {
      return f(zero, view.m, view.n, [&] { return column_source(view); });
    });
  }

  template <class F> static auto with_copy(const py::object &object, F &&f) {
    const auto Y = py::cast<py::array>(object);
    if (Y.ndim() != 2)
      throw ValueError("Y must have 2 dimensions, got " + std::to_string(Y.ndim()));
    return with_scalar(Y.dtype(), [&](auto zero) {
      using W = wide_t<decltype(zero)>;
      const auto whole = py::cast<py::array_t<W, py::array::c_style | py::array::forcecast>>(Y);
      std::vector<W> entries(whole.data(), whole.data() + whole.size());
      return f(W{}, entries, static_cast<index>(Y.shape(0)), static_cast<index>(Y.shape(1)));
    });
  }

  template <class N, class F> static py::object array(const std::vector<index> &shape, F &&write) {
    py::array_t<N> out(shape);
    write(out.mutable_data());
    return out;
  }
};

} // namespace

void register_cur(py::module_ &m) { CurFunctions<HostArrays>::add_to(m); }

} // namespace lowla::bindings
