#include "kernels/odds_score.cuh"

#include "bindings/odds.h"
#include "cuda/launch.h"

namespace fastadv {
namespace {

struct Kernel {
  static void run(const OddsScoreArgs& args, const Tensor& out) {
    const OnDevice device(out);
    launch_odds_score(args, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("odds_score", TORCH_BOX(&fastadv::odds_score<fastadv::Kernel>));
}
