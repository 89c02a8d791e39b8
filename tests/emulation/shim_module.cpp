// The kernels that test the emulation itself, for Python: NumPy in, NumPy out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "schedule.h"
#include "shim_kernels.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

py::array_t<float> empty(py::ssize_t size) {
  return py::array_t<float>(size);
}

}  // namespace

PYBIND11_MODULE(shim_module, m) {
  m.def("set_order", &set_order, py::arg("order"), py::arg("seed") = 0);
  m.def("take_launched", &take_launched);
  m.def("uses_ucontext", &uses_ucontext);
  m.def("sum_rows", [](const Array<float>& x, const std::string& bug) {
    const std::map<std::string, Bug> bugs = {{"none", Bug::none},
                                             {"missing_read_barrier", Bug::missing_read_barrier},
                                             {"missing_write_barrier", Bug::missing_write_barrier}};
    py::array_t<float> sums = empty(x.shape(0));
    sum_rows(x.data(), sums.mutable_data(), int(x.shape(0)), int(x.shape(1)), bugs.at(bug));
    return sums;
  });
  m.def("thread_numbers", [](const std::vector<unsigned>& grid, const std::vector<unsigned>& block) {
    std::size_t size = 1;
    for (const unsigned n : grid) size *= n;
    for (const unsigned n : block) size *= n;
    py::array_t<int32_t> out(static_cast<py::ssize_t>(size));
    thread_numbers(out.mutable_data(), grid, block);
    return out;
  });
  m.def("first_shared_value", [](int blocks) {
    py::array_t<float> out = empty(blocks);
    first_shared_value(out.mutable_data(), blocks);
    return out;
  });
  m.def("warp_primitives", [](const Array<int32_t>& x) {
    py::array_t<int32_t> out({x.size(), py::ssize_t{6}});
    warp_primitives(x.data(), out.mutable_data(), int(x.size()));
    return out;
  });
  m.def("gather", [](const Array<float>& x, const Array<int32_t>& index) {
    py::array_t<float> out = empty(index.size());
    gather(x.data(), index.data(), out.mutable_data(), int(index.size()));
    return out;
  });
  m.def("shared_at", [](const Array<int32_t>& index) {
    py::array_t<float> out = empty(1);
    shared_at(index.data(), out.mutable_data());
    return out;
  });
  m.def("load_vector", [](const Array<float>& x) {
    py::array_t<float> out = empty(4);
    load_vector(x.data(), out.mutable_data());
    return out;
  });
  m.def("diverge_at_barrier", &diverge_at_barrier);
  m.def("ballot_with_waiting_lanes", &ballot_with_waiting_lanes);
  m.def("shuffle_from_left_lane", &shuffle_from_left_lane);
  m.def("leave_out_barrier", &leave_out_barrier, py::arg("number"));
  m.def("take_barriers", &take_barriers);
  m.def(
      "neighbours",
      [](int blocks, int threads, int cluster_size, const std::string& bug) {
        const std::map<std::string, ClusterBug> bugs = {
            {"none", ClusterBug::none},
            {"missing_start_barrier", ClusterBug::missing_start_barrier},
            {"missing_end_barrier", ClusterBug::missing_end_barrier}};
        py::array_t<int32_t> out({blocks, threads});
        neighbours(out.mutable_data(), blocks, threads, cluster_size, bugs.at(bug));
        return out;
      },
      py::arg("blocks"), py::arg("threads"), py::arg("cluster_size"), py::arg("bug"));
  m.def("diverge_at_cluster_barrier", &diverge_at_cluster_barrier);
  m.def(
      "dynamic_shared_at",
      [](const Array<int32_t>& index, std::size_t shared_bytes, std::size_t allowed_bytes) {
        py::array_t<float> out = empty(1);
        dynamic_shared_at(index.data(), out.mutable_data(), shared_bytes, allowed_bytes);
        return out;
      },
      py::arg("index"), py::arg("shared_bytes"), py::arg("allowed_bytes") = 0);
}
