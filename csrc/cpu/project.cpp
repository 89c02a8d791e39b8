#include "bindings/lp.h"
#include "cpu/sweeps.h"
#include "kernels/lp_ops.cuh"

namespace fastadv {
namespace {

template <class T, class C = Compute<T>>
struct LinfProjectSpan {
  FASTADV_HD static void run(T* out, const T* delta, int64_t count, C eps) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = linf_project<T>(widen(delta[i]), eps);
  }
};

template <class T, class C = Compute<T>>
struct L2ProjectSpan {
  FASTADV_HD static void run(T* out, const T* delta, int64_t count, C scale) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = l2_project<T>(widen(delta[i]), scale);
  }
};

struct Kernel {
  template <class T>
  static void run(const ProjectArgs<T>& args, double norm, const Tensor&) {
    const Batch batch{args.rows, args.cols};
    if (!has_own_kernel(norm) || args.x != nullptr) {
      return with_projection(args, norm,
                             [&](const auto& op, int64_t length) { sweep_rows(op, {args.rows, length}); });
    }
    if (norm == kInf) {
      for_each_piece(batch, [&](int64_t row, int64_t first, int64_t last) {
        const int64_t at = row * args.cols + first;
        run_simd<LinfProjectSpan<T>>(args.out + at, args.delta + at, last - first, args.eps[row]);
      });
      return;
    }
    using C = Compute<T>;
    run_rows<1>(
        batch,
        [&](int64_t row, int64_t first, int64_t last) {
          return square_sum(args.delta + row * args.cols, first, last);
        },
        [&](int64_t row, const std::array<double, 1>& sums) {
          return l2_scale(std::sqrt(sums[0]), args.eps[row]);
        },
        [&](int64_t row, int64_t first, int64_t last, C scale) {
          const int64_t at = row * args.cols + first;
          run_simd<L2ProjectSpan<T>>(args.out + at, args.delta + at, last - first, scale);
        });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("project", TORCH_BOX(&fastadv::project<fastadv::Kernel>));
}
