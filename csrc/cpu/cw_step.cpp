#include "bindings/carlini_wagner.h"

#include "cpu/rows.h"

namespace fastadv {
namespace {

template <class T, bool Hinge, class C = Compute<T>>
struct UpdateSpan {
  FASTADV_HD static void run(T* x_adv, C* w, C* m, C* v, const T* x, const T* grad, int64_t count,
                             TanhSpace<C> space, Pull<Hinge, C> pull) {
#pragma GCC ivdep  // no two of the arrays overlap
    for (int64_t i = 0; i < count; ++i) {
      C next_w = w[i], next_m = m[i], next_v = v[i];
      x_adv[i] = tanh_space_update<T>(space, pull, widen(x_adv[i]), widen(x[i]), widen(grad[i]), next_w,
                                      next_m, next_v);
      w[i] = next_w;
      m[i] = next_m;
      v[i] = next_v;
    }
  }
};

template <class T, bool Hinge, class C = Compute<T>>
struct DistanceSum {
  FASTADV_HD static void run(const T* x_adv, const T* x, int64_t count, Pull<Hinge, C> pull, double* sum) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) lanes[l] += pull.distance(widen(x_adv[i + l]) - widen(x[i + l]));
    }
    for (; i < count; ++i) lanes[0] += pull.distance(widen(x_adv[i]) - widen(x[i]));
    *sum += ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
};

constexpr int64_t kSpan = 1024;  // elements whose seven numbers stay in the first cache

struct Kernel {
  template <class T, bool Hinge>
  static void run(const CwStepArgs<T>& args, const Tensor&) {
    run_rows<1>(
        {args.rows, args.cols},
        [&](int64_t row, int64_t first, int64_t last) {
          std::array<double, 1> sum{};
          for (int64_t begin = first; begin < last; begin += kSpan) {
            const int64_t at = row * args.cols + begin, count = std::min(kSpan, last - begin);
            const auto pull = args.template pull<Hinge>(row);
            if (args.keeps(row)) std::copy_n(args.x_adv + at, count, args.best + at);
            if (args.moves(row)) {
              run_simd<UpdateSpan<T, Hinge>>(args.x_adv + at, args.w + at, args.m + at, args.v + at,
                                             args.x + at, args.grad + at, count, args.space, pull);
            }
            run_simd<DistanceSum<T, Hinge>>(static_cast<const T*>(args.x_adv + at), args.x + at, count, pull,
                                            sum.data());
          }
          return sum;
        },
        [](int64_t, const std::array<double, 1>& sums) { return sums[0]; },
        [&](int64_t row, int64_t first, int64_t, double total) {
          if (first == 0) args.distance[row] = total;
        });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("cw_step_", TORCH_BOX(&fastadv::cw_step_<fastadv::Kernel>));
}
