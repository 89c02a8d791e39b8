#include "kernels/add_noise.cuh"

#include "bindings/noise.h"
#include "cuda/launch.h"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const AddNoiseArgs<T>& args, const Tensor& out) {
    const OnDevice device(out);
    launch_add_noise(args, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("add_noise", TORCH_BOX(&fastadv::add_noise<fastadv::Kernel>));
}
