#include "bindings/odds.h"
#include "cpu/rows.h"

namespace fastadv {
namespace {

struct Kernel {
  static void run(const OddsScoreArgs& args, const Tensor&) {
    const int64_t grain = std::max<int64_t>(1, kGrain / (args.kinds * args.classes));
    torch::stable::parallel_for(0, args.rows, grain, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) args.decide(row);
    });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("odds_score", TORCH_BOX(&fastadv::odds_score<fastadv::Kernel>));
}
