#include "bindings/lp.h"
#include "cuda/launch.h"
#include "kernels/project.cuh"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const ProjectArgs<T>& args, double norm, const Tensor& out) {
    const OnDevice device(out);
    if (!has_own_kernel(norm) || args.x != nullptr) {
      launch_lp_project(args, norm, device.stream());
    } else if (norm == kInf) {
      launch_linf_project(args, device.stream());
    } else {
      const Scratch scratch(out, scratch_doubles<L2Project<T>>(args.rows, args.cols));
      launch_l2_project(args, scratch.data(), device.stream());
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("project", TORCH_BOX(&fastadv::project<fastadv::Kernel>));
}
