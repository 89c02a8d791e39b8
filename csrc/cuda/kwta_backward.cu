#include "bindings/kwta.h"
#include "cuda/launch.h"
#include "kernels/kwta_backward.cuh"

namespace fastadv {
namespace {

struct Kernel {
  template <class T>
  static void run(const KwtaBackwardArgs<T>& args, const Tensor& out) {
    const OnDevice device(out);
    launch_kwta_backward(args, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("kwta_backward", TORCH_BOX(&fastadv::kwta_backward<fastadv::Kernel>));
}
