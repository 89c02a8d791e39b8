#include "bindings/lp.h"
#include "cpu/sweeps.h"
#include "kernels/lp_ops.cuh"

namespace fastadv {
namespace {

template <class T>
struct SignSpan {
  FASTADV_HD static void run(T* out, const T* grad, int64_t count) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = narrow<T>(sign(widen(grad[i])));
  }
};

template <class T, class C = Compute<T>>
struct L2DirectionSpan {
  FASTADV_HD static void run(T* out, const T* grad, int64_t count, Multiple<C> direction) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = l2_direction<T>(widen(grad[i]), direction);
  }
};

struct Kernel {
  template <class T>
  static void run(const SteepestArgs<T>& args, double norm, const Tensor&) {
    const Batch batch{args.rows, args.cols};
    if (!has_own_kernel(norm)) {
      return with_steepest(args, norm,
                           [&](const auto& op, int64_t length) { sweep_rows(op, {args.rows, length}); });
    }
    if (norm == kInf) {
      for_each_piece(batch, [&](int64_t row, int64_t first, int64_t last) {
        const int64_t at = row * args.cols + first;
        run_simd<SignSpan<T>>(args.out + at, args.grad + at, last - first);
      });
      return;
    }
    using C = Compute<T>;
    run_rows<1>(
        batch,
        [&](int64_t row, int64_t first, int64_t last) {
          return square_sum(args.grad + row * args.cols, first, last);
        },
        [&](int64_t, const std::array<double, 1>& sums) { return towards<C>(std::sqrt(sums[0]), 1.0); },
        [&](int64_t row, int64_t first, int64_t last, const Multiple<C>& direction) {
          const int64_t at = row * args.cols + first;
          run_simd<L2DirectionSpan<T>>(args.out + at, args.grad + at, last - first, direction);
        });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("steepest", TORCH_BOX(&fastadv::steepest<fastadv::Kernel>));
}
