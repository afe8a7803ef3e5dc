// Array descriptions (see arrays.hpp).
#include "arrays.hpp"

namespace lowla::bindings::gpu {

ArrayInfo::ArrayInfo(const py::handle &array) : data(nullptr) {
  const auto interface = py::cast<py::dict>(array.attr(kArrayInterface));
  dtype = py::dtype(py::cast<std::string>(interface["typestr"]));
  for (const auto &size : py::cast<py::tuple>(interface["shape"]))
    shape.push_back(py::cast<index>(size));
  data =
      reinterpret_cast<void *>(py::cast<std::uintptr_t>(py::cast<py::tuple>(interface["data"])[0]));
  if (interface.contains("strides") && !py::object(interface["strides"]).is_none()) {
    for (const auto &stride : py::cast<py::tuple>(interface["strides"]))
      strides.push_back(py::cast<index>(stride));
    return;
  }
  strides.resize(shape.size());
  index step = dtype.itemsize();
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = step;
    step *= shape[axis];
  }
}

index ArrayInfo::size() const {
  index product = 1;
  for (const index n : shape)
    product *= n;
  return product;
}

py::object make_array(const char *function, const std::vector<index> &shape,
                      const py::dtype &dtype) {
  py::tuple sizes(shape.size());
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    sizes[axis] = shape[axis];
  return py::module_::import(kArrayLibrary).attr(function)(sizes, dtype);
}

NewArray new_array(const std::vector<index> &shape, const py::dtype &dtype) {
  NewArray made;
  made.array = make_array("empty", shape, dtype);
  made.data = ArrayInfo(made.array).data;
  return made;
}

namespace {

py::tuple four(const py::tuple &A) {
  if (A.size() != 4)
    throw py::type_error("sparse A must be (indptr, indices, data, (m, n))");
  return A;
}

} // namespace

CsrParts::CsrParts(const py::tuple &A)
    : indptr(four(A)[0]), indices(A[1]), data(A[2]),
      m(py::cast<index>(py::cast<py::tuple>(A[3])[0])),
      n(py::cast<index>(py::cast<py::tuple>(A[3])[1])) {
  if (indptr.size() != m + 1)
    throw ValueError("sparse A is malformed: indptr must have m + 1 entries");
  const bool integers = indices.dtype.kind() == 'i' && indices.dtype.itemsize() >= 4;
  if (!integers || !indptr.dtype.equal(indices.dtype))
    throw py::type_error("indptr and indices must both be int32, or both int64");
  for (const ArrayInfo *part : {&indptr, &indices, &data})
    if (part->ndim() != 1 || (part->size() > 1 && part->strides[0] != part->dtype.itemsize()))
      throw py::type_error("the parts of a sparse A must be contiguous");
}

py::object located(const py::object &A) {
  if (py::isinstance<py::tuple>(A))
    return four(py::reinterpret_borrow<py::tuple>(A))[2];
  return is_array(A) ? A : py::object(py::none());
}

} // namespace lowla::bindings::gpu
