// The kernels of csrc/kernels on the CPU, for Python. Arrays are [rows, cols] in memory that the caller owns
// and may place at any address; float16 and bfloat16 come as uint16 bit patterns. Results are written to
// `out`.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <variant>

#include "launchers.h"
#include "schedule.h"

namespace py = pybind11;

namespace {

using Bools = py::array_t<bool, py::array::c_style>;
using Int64s = py::array_t<int64_t, py::array::c_style>;
using Doubles = py::array_t<double, py::array::c_style>;
using PerSample = std::variant<double, py::array>;  // a constant, or an array of shape [] or [rows]

const std::map<std::string, std::pair<Dtype, char>> kDtypes = {{"float32", {Dtype::float32, 'f'}},
                                                               {"float64", {Dtype::float64, 'd'}},
                                                               {"float16", {Dtype::float16, 'H'}},
                                                               {"bfloat16", {Dtype::bfloat16, 'H'}}};

// The samples of one call: they all have the dtype and the shape of the first.
class Samples {
 public:
  Samples(const std::string& dtype, const py::array& first)
      : dtype_(kDtypes.at(dtype).first),
        format_(kDtypes.at(dtype).second),
        shape_{first.shape(0), first.shape(1)} {}

  Dtype dtype() const { return dtype_; }
  Shape shape() const { return shape_; }
  const void* read(const py::array& array) const {
    const bool fits = array.ndim() == 2 && array.shape(0) == shape_.rows && array.shape(1) == shape_.cols;
    if (!fits || array.dtype().char_() != format_ || !(array.flags() & py::array::c_style))
      throw std::invalid_argument("expected a C-contiguous array of one shape and of the dtype named");
    return array.data();
  }
  void* write(py::array& array) const {
    read(array);
    return array.mutable_data();
  }
  Values per_sample(const PerSample& value) const {
    if (const auto* constant = std::get_if<double>(&value)) return {nullptr, 0, *constant};
    const auto& array = std::get<py::array>(value);
    if (array.dtype().char_() != (dtype_ == Dtype::float64 ? 'd' : 'f') || array.ndim() > 1 ||
        (array.ndim() == 1 && array.shape(0) != shape_.rows))
      throw std::invalid_argument("expected shape [] or [rows], float32, or float64 for float64 samples");
    return {array.data(), array.ndim() == 0 ? 0 : array.strides(0) / array.itemsize(), 0};
  }

 private:
  Dtype dtype_;
  char format_;
  Shape shape_;
};

using Words = py::array_t<uint32_t, py::array::c_style>;

void check_words(const Words& winners, Shape shape) {
  if (winners.ndim() != 2 || winners.shape(0) != shape.rows || winners.shape(1) != (shape.cols + 31) / 32)
    throw std::invalid_argument("expected uint32 winners of shape [rows, ceil(cols / 32)]");
}

// The limits of a device as (shared_bytes, multiprocessors, largest_cluster); those of an H200 by default.
using Limits = std::tuple<int64_t, int64_t, int64_t>;
constexpr auto kLimits = [] { return Limits(227 << 10, 132, 8); };
DeviceLimits device(const Limits& limits) {
  return {std::get<0>(limits), std::get<1>(limits), std::get<2>(limits)};
}

template <class T>
const T* data_or_null(const std::optional<py::array_t<T, py::array::c_style>>& array) {
  return array ? array->data() : nullptr;
}

}  // namespace

PYBIND11_MODULE(kernel_module, m) {
  using py::arg;
  const auto infinite = [] { return std::pair(-HUGE_VAL, HUGE_VAL); };

  m.def("set_order", &set_order, arg("order"), arg("seed") = 0);
  m.def("take_launched", &take_launched);
  m.def("leave_out_barrier", &leave_out_barrier, arg("number"));
  m.def("take_barriers", &take_barriers);
  m.def(
      "pgd_step",
      [](const std::string& dtype, double norm, py::array out, const py::array& x_adv, const py::array& x,
         const py::array& grad, const PerSample& eps, const PerSample& step_size,
         const std::optional<Bools>& active, std::optional<py::array> best,
         const std::optional<Bools>& better, std::pair<double, double> bounds, bool steepest, int64_t spread,
         int64_t channels) {
        const Samples samples(dtype, out);
        pgd_step(samples.dtype(), norm, samples.write(out), samples.read(x_adv), samples.read(x),
                 samples.read(grad), samples.per_sample(eps), samples.per_sample(step_size),
                 data_or_null(active), best ? samples.write(*best) : nullptr, data_or_null(better),
                 {bounds.first, bounds.second}, steepest, spread, channels, samples.shape());
      },
      arg("dtype"), arg("norm"), arg("out"), arg("x_adv"), arg("x"), arg("grad"), arg("eps"),
      arg("step_size"), arg("active") = py::none(), arg("best") = py::none(), arg("better") = py::none(),
      arg("bounds") = infinite(), arg("steepest") = true, arg("spread") = 1, arg("channels") = 1);
  m.def(
      "project",
      [](const std::string& dtype, double norm, py::array out, const py::array& delta, const PerSample& eps,
         const std::optional<py::array>& x, std::pair<double, double> bounds, int64_t channels) {
        const Samples samples(dtype, out);
        project(samples.dtype(), norm, samples.write(out), samples.read(delta), samples.per_sample(eps),
                x ? samples.read(*x) : nullptr, {bounds.first, bounds.second}, channels, samples.shape());
      },
      arg("dtype"), arg("norm"), arg("out"), arg("delta"), arg("eps"), arg("x") = py::none(),
      arg("bounds") = infinite(), arg("channels") = 1);
  m.def(
      "steepest",
      [](const std::string& dtype, double norm, py::array out, const py::array& grad) {
        const Samples samples(dtype, out);
        steepest(samples.dtype(), norm, samples.write(out), samples.read(grad), samples.shape());
      },
      arg("dtype"), arg("norm"), arg("out"), arg("grad"));
  m.def(
      "random_in_ball",
      [](const std::string& dtype, double norm, py::array out, const py::array& x, const PerSample& eps,
         const Int64s& seed, const std::optional<Int64s>& ids, std::pair<double, double> bounds) {
        const Samples samples(dtype, out);
        random_in_ball(samples.dtype(), norm, samples.write(out), samples.read(x), samples.per_sample(eps),
                       data_or_null(ids), seed.data(), {bounds.first, bounds.second}, samples.shape());
      },
      arg("dtype"), arg("norm"), arg("out"), arg("x"), arg("eps"), arg("seed"), arg("ids") = py::none(),
      arg("bounds") = infinite());
  m.def(
      "kwta",
      [](const std::string& dtype, py::array out, const py::array& x, std::optional<Words> winners, int64_t k,
         bool lowest_index, const std::string& tier, const Limits& limits) {
        const Samples samples(dtype, out);
        if (winners) check_words(*winners, samples.shape());
        kwta(samples.dtype(), samples.write(out), samples.read(x),
             winners ? winners->mutable_data() : nullptr, k, lowest_index, samples.shape(), tier,
             device(limits));
      },
      arg("dtype"), arg("out"), arg("x"), arg("winners"), arg("k"), arg("lowest_index") = false,
      arg("tier") = "", arg("limits") = kLimits());
  m.def(
      "kwta_plan",
      [](const std::string& dtype, int64_t rows, int64_t cols, const std::string& tier,
         const Limits& limits) {
        return kwta_plan(kDtypes.at(dtype).first, {rows, cols}, tier, device(limits));
      },
      arg("dtype"), arg("rows"), arg("cols"), arg("tier") = "", arg("limits") = kLimits());
  m.def(
      "kwta_backward",
      [](const std::string& dtype, py::array out, const py::array& grad, const Words& winners) {
        const Samples samples(dtype, out);
        check_words(winners, samples.shape());
        kwta_backward(samples.dtype(), samples.write(out), samples.read(grad), winners.data(),
                      samples.shape());
      },
      arg("dtype"), arg("out"), arg("grad"), arg("winners"));
  m.def(
      "add_noise",
      [](const std::string& dtype, const std::string& kind, py::array out, const py::array& x,
         int64_t first_draw, double scale, const Int64s& seed, const std::optional<Int64s>& ids,
         std::pair<double, double> bounds) {
        const Samples samples(dtype, x), copies(dtype, out);
        const int64_t draws = copies.shape().rows / samples.shape().rows;
        add_noise(samples.dtype(), kind, copies.write(out), samples.read(x), draws, first_draw, scale,
                  data_or_null(ids), seed.data(), {bounds.first, bounds.second}, samples.shape());
      },
      arg("dtype"), arg("kind"), arg("out"), arg("x"), arg("first_draw"), arg("scale"), arg("seed"),
      arg("ids") = py::none(), arg("bounds") = infinite());
  m.def(
      "gap_moments",
      [](const std::string& dtype, Doubles sums, Doubles squares, const std::optional<Doubles>& earlier_sums,
         const std::optional<Doubles>& earlier_squares, const py::array& clean, const py::array& noisy) {
        const Samples samples(dtype, clean), draws(dtype, noisy);
        gap_moments(samples.dtype(), sums.mutable_data(), squares.mutable_data(), data_or_null(earlier_sums),
                    data_or_null(earlier_squares), samples.read(clean), draws.read(noisy),
                    draws.shape().rows / samples.shape().rows, samples.shape());
      },
      arg("dtype"), arg("sums"), arg("squares"), arg("earlier_sums"), arg("earlier_squares"), arg("clean"),
      arg("noisy"));
  m.def(
      "odds_score",
      [](Doubles score, Int64s towards, const Doubles& gaps, const Int64s& predicted, const Doubles& mean,
         const Doubles& std, bool two_sided) {
        odds_score(score.mutable_data(), towards.mutable_data(), gaps.data(), predicted.data(), mean.data(),
                   std.data(), two_sided, gaps.shape(0), {gaps.shape(1), gaps.shape(2)});
      },
      arg("score"), arg("towards"), arg("gaps"), arg("predicted"), arg("mean"), arg("std"), arg("two_sided"));
  m.def(
      "cw_step",
      [](const std::string& dtype, py::array x_adv, py::array w, py::array m, py::array v, const py::array& x,
         const py::array& grad, Doubles distance, const PerSample& c, const PerSample& weight,
         const std::optional<PerSample>& tau, const std::optional<Bools>& active,
         std::optional<py::array> best, const std::optional<Bools>& better, double lr, int64_t step,
         std::pair<double, double> bounds, double stretch) {
        const Samples samples(dtype, x_adv), state(dtype == "float64" ? "float64" : "float32", w);
        const Values hinge = tau ? samples.per_sample(*tau) : Values{};
        cw_step(samples.dtype(), samples.write(x_adv), state.write(w), state.write(m), state.write(v),
                samples.read(x), samples.read(grad), distance.mutable_data(), samples.per_sample(c),
                samples.per_sample(weight), tau ? &hinge : nullptr, data_or_null(active),
                best ? samples.write(*best) : nullptr, data_or_null(better), lr, step,
                {bounds.first, bounds.second}, stretch, samples.shape());
      },
      arg("dtype"), arg("x_adv"), arg("w"), arg("m"), arg("v"), arg("x"), arg("grad"), arg("distance"),
      arg("c"), arg("weight"), arg("tau") = py::none(), arg("active") = py::none(), arg("best") = py::none(),
      arg("better") = py::none(), arg("lr") = 0.01, arg("step") = 1, arg("bounds") = std::pair(0.0, 1.0),
      arg("stretch") = 0.0);
}
