#include "bindings/lp.h"
#include "cuda/launch.h"
#include "kernels/steepest.cuh"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const SteepestArgs<T>& args, double norm, const Tensor& out) {
    const OnDevice device(out);
    if (!has_own_kernel(norm)) {
      launch_lp_steepest(args, norm, device.stream());
    } else if (norm == kInf) {
      launch_linf_steepest(args, device.stream());
    } else {
      const Scratch scratch(out, scratch_doubles<L2Steepest<T>>(args.rows, args.cols));
      launch_l2_steepest(args, scratch.data(), device.stream());
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("steepest", TORCH_BOX(&fastadv::steepest<fastadv::Kernel>));
}
