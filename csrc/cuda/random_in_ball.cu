#include "bindings/lp.h"
#include "cuda/launch.h"
#include "kernels/random_in_ball.cuh"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const RandomInBallArgs<T>& args, double norm, const Tensor& out) {
    const OnDevice device(out);
    if (!has_own_kernel(norm)) {
      launch_lp_random_in_ball(args, norm, device.stream());
    } else if (norm == kInf) {
      launch_linf_random_in_ball(args, device.stream());
    } else {
      const Scratch scratch(out, scratch_doubles<L2RandomInBall<T>>(args.rows, args.quads()));
      launch_l2_random_in_ball(args, scratch.data(), device.stream());
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("random_in_ball", TORCH_BOX(&fastadv::random_in_ball<fastadv::Kernel>));
}
