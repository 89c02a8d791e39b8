#include "bindings/odds.h"
#include "cpu/rows.h"

namespace fastadv {
namespace {

/// Adds one draw's gaps of one row to its sums.
template <class T>
struct AddGaps {
  FASTADV_HD static void run(double* sums, double* squares, const T* clean, const T* noisy, int64_t classes,
                             int64_t predicted) {
    const double shift = double(widen(noisy[predicted])) - double(widen(clean[predicted]));
#pragma GCC ivdep
    for (int64_t k = 0; k < classes; ++k) {
      const double gap = (double(widen(noisy[k])) - double(widen(clean[k]))) - shift;
      sums[k] += gap;
      squares[k] += gap * gap;
    }
  }
};

struct Kernel {
  template <class T>
  static void run(const GapMomentsArgs<T>& args, const Tensor&) {
    const int64_t grain = std::max<int64_t>(1, kGrain / (args.classes * std::max<int64_t>(1, args.draws)));
    torch::stable::parallel_for(0, args.rows, grain, [&](int64_t first, int64_t last) {
      const int64_t begin = first * args.classes, end = last * args.classes;
      const auto start = [&](const double* earlier, double* sums) {
        earlier == nullptr ? std::fill(sums + begin, sums + end, 0.0)
                           : static_cast<void>(std::copy(earlier + begin, earlier + end, sums + begin));
      };
      start(args.earlier_sums, args.sums);
      start(args.earlier_squares, args.squares);
      std::vector<int64_t> predicted;
      for (int64_t row = first; row < last; ++row) predicted.push_back(args.predicted(row));
      for (int64_t draw = 0; draw < args.draws; ++draw) {
        for (int64_t row = first; row < last; ++row) {
          const int64_t at = row * args.classes;
          run_simd<AddGaps<T>>(args.sums + at, args.squares + at, args.clean + at,
                               args.noisy + draw * args.rows * args.classes + at, args.classes,
                               predicted[static_cast<size_t>(row - first)]);
        }
      }
    });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("gap_moments", TORCH_BOX(&fastadv::gap_moments<fastadv::Kernel>));
}
