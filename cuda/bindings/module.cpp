// lowla._cuda: the module.
#include "arrays.hpp"

#include "lowla/core/threads.hpp"

PYBIND11_MODULE(LOWLA_MODULE, m, pybind11::mod_gil_not_used()) {
  namespace py = pybind11;
  using namespace lowla;
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p)
        std::rethrow_exception(p);
    } catch (const CudaError &e) {
      py::set_error(py::module_::import("lowla._errors").attr("CudaError"), e.what());
    } catch (const Error &) {
      bindings::translate(p);
    }
  });
  bindings::gpu::prepare(m);
  m.def("device_count", &bindings::gpu::device_count);
  m.def("set_num_threads", &threads::set_num_threads, py::arg("n"));
  m.def("get_num_threads", &threads::get_num_threads);
  m.def("features", &bindings::gpu::features);
  bindings::gpu::register_sketch(m);
  bindings::gpu::register_rsvd(m);
  bindings::gpu::register_lstsq(m);
  bindings::gpu::register_scores(m);
  bindings::gpu::register_completion(m);
  bindings::gpu::register_lp(m);
  bindings::gpu::register_cur(m);
  bindings::gpu::register_kron(m);
  bindings::gpu::register_mfac(m);
  bindings::gpu::register_sinkhorn(m);
}
