#include "kernels/gap_moments.cuh"

#include "bindings/odds.h"
#include "cuda/launch.h"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const GapMomentsArgs<T>& args, const Tensor& out) {
    const OnDevice device(out);
    launch_gap_moments(args, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("gap_moments", TORCH_BOX(&fastadv::gap_moments<fastadv::Kernel>));
}
