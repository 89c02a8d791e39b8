// The binding of cw_step_; see arguments.h. A backend's Kernel has
//   template <class T, bool Hinge> static void run(const CwStepArgs<T>&, const Tensor& x_adv);
#pragma once

#include "arguments.h"
#include "kernels/tanh_space.cuh"

namespace fastadv {

/// One of the in-place tensors beside x_adv, in the strides of x_adv while the kernel works on it.
class InPlace {
 public:
  InPlace(const char* op, const char* name, const Tensor& tensor, const Tensor& layout)
      : tensor_(tensor), flat_(arranged_like(tensor, layout)) {
    check_overlap(op, name, flat_, layout);
  }
  const Tensor& flat() const { return flat_; }
  void write_back() {
    if (!same_strides(tensor_, flat_)) torch::stable::copy_(tensor_, flat_);
  }

 private:
  Tensor tensor_;
  Tensor flat_;
};

template <class Kernel>
Tensor cw_step_(Tensor x_adv, Tensor w, Tensor m, Tensor v, const Tensor& x, const Tensor& grad,
                const Tensor& c, const Tensor& weight, double lr, int64_t step, double lower, double upper,
                const std::optional<Tensor>& tau, const std::optional<Tensor>& active,
                const std::optional<Tensor>& best, const std::optional<Tensor>& better, double stretch) {
  const char* op = "cw_step_";
  const Batch batch = batch_of(op, "x_adv", x_adv);
  check_bounds(op, lower, upper);
  require(lower > -kInf && upper < kInf, op, "lower and upper must be finite, got ", lower, " and ", upper);
  require(lr >= 0, op, "lr must be at least 0, got ", lr);
  require(stretch >= 0 && stretch < kInf, op, "stretch must be finite and at least 0, got ", stretch);
  require(step >= 1, op, "step must be at least 1, got ", step);
  check_like(op, "x", x, "x_adv", x_adv);
  check_like(op, "grad", grad, "x_adv", x_adv);
  require(best.has_value() == better.has_value(), op, "best and better must come together");
  if (best) check_like(op, "best", *best, "x_adv", x_adv);
  const Tensor distance = torch::stable::new_zeros(x_adv, {batch.rows}, ScalarType::Double);
  dispatch(op, "x_adv", x_adv, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    for (const auto& [name, state] : {std::pair{"w", &w}, std::pair{"m", &m}, std::pair{"v", &v}}) {
      require(same_shape(*state, x_adv), op, name, " must have the shape of x_adv, ", shape_of(x_adv),
              ", got ", shape_of(*state));
      require(state->scalar_type() == (sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float), op, name,
              " must be ", sizeof(C) == 8 ? "float64 for float64 samples" : "float32");
      require(state->device() == x_adv.device(), op, name, " must be on the device of x_adv");
    }
    const auto c_of = per_sample<C>(op, "c", c, x_adv),
               weight_of = per_sample<C>(op, "weight", weight, x_adv);
    const PerSample<C> tau_of = tau ? per_sample<C>(op, "tau", *tau, x_adv) : PerSample<C>{nullptr, 0, C(0)};
    const auto flags = per_row(op, "active", active, ScalarType::Bool, x_adv);
    const auto keepers = per_row(op, "better", better, ScalarType::Bool, x_adv);
    with_flat_output(x_adv, is_flat(x_adv), true, [&](const Tensor& flat) {
      if (flat.numel() == 0) return;
      const Tensor centre = arranged_like(x, flat), slope = arranged_like(grad, flat);
      check_overlap(op, "x", centre, flat);
      check_overlap(op, "grad", slope, flat);
      InPlace states[] = {{op, "w", w, flat}, {op, "m", m, flat}, {op, "v", v, flat}};
      InPlace kept(op, "best", best ? *best : flat, flat);
      const CwStepArgs<T> args{write_ptr<T>(flat),
                               write_ptr<C>(states[0].flat()),
                               write_ptr<C>(states[1].flat()),
                               write_ptr<C>(states[2].flat()),
                               read_ptr<T>(centre),
                               read_ptr<T>(slope),
                               write_ptr<double>(distance),
                               c_of,
                               weight_of,
                               tau_of,
                               flags ? read_ptr<bool>(*flags) : nullptr,
                               best ? write_ptr<T>(kept.flat()) : nullptr,
                               keepers ? read_ptr<bool>(*keepers) : nullptr,
                               TanhSpace<C>(lower, upper, lr, step, stretch),
                               batch.rows,
                               batch.cols};
      tau ? Kernel::template run<T, true>(args, flat) : Kernel::template run<T, false>(args, flat);
      for (InPlace& state : states) state.write_back();
      kept.write_back();
    });
  });
  return distance;
}

}  // namespace fastadv
