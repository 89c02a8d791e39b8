#include "kernels/cw_step.cuh"

#include "bindings/carlini_wagner.h"
#include "cuda/launch.h"

namespace fastadv {
namespace {

struct Kernel {
  template <class T, bool Hinge>
  static void run(const CwStepArgs<T>& args, const Tensor& x_adv) {
    const OnDevice device(x_adv);
    const Scratch scratch(x_adv, scratch_doubles<CwStep<T, Hinge>>(args.rows, args.cols));
    launch_cw_step<T, Hinge>(args, scratch.data(), device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("cw_step_", TORCH_BOX(&fastadv::cw_step_<fastadv::Kernel>));
}
