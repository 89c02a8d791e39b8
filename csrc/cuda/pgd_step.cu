#include "bindings/lp.h"
#include "cuda/launch.h"
#include "kernels/pgd_step.cuh"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const PgdStepArgs<T>& args, double norm, const Tensor& out) {
    const OnDevice device(out);
    if (!has_own_kernel(norm)) {
      const Scratch scratch(out, args.rows * args.cols);
      launch_lp_pgd_step(args, norm, scratch.data(), device.stream());
    } else if (norm == kInf) {
      launch_linf_pgd_step(args, device.stream());
    } else {
      const Scratch scratch(out, scratch_doubles<L2PgdStep<T>>(args.rows, args.cols));
      launch_l2_pgd_step(args, scratch.data(), device.stream());
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step<fastadv::Kernel>));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_<fastadv::Kernel>));
}
