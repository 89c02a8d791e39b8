#include "cw_step.cuh"

#include "dispatch.h"

void cw_step(Dtype dtype, void* x_adv, void* w, void* m, void* v, const void* x, const void* grad,
             double* distance, Values c, Values weight, const Values* tau, const bool* active, void* best,
             const bool* better, double lr, int64_t step, Bounds bounds, double stretch, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    using C = fastadv::Compute<T>;
    const fastadv::CwStepArgs<T> args{
        .x_adv = static_cast<T*>(x_adv),
        .w = static_cast<C*>(w),
        .m = static_cast<C*>(m),
        .v = static_cast<C*>(v),
        .x = static_cast<const T*>(x),
        .grad = static_cast<const T*>(grad),
        .distance = distance,
        .c = per_sample<T>(c),
        .weight = per_sample<T>(weight),
        .tau = tau ? per_sample<T>(*tau) : fastadv::PerSample<C>{nullptr, 0, C(0)},
        .active = active,
        .best = static_cast<T*>(best),
        .better = better,
        .space = fastadv::TanhSpace<C>(bounds.lower, bounds.upper, lr, step, stretch),
        .rows = shape.rows,
        .cols = shape.cols,
    };
    auto scratch = poisoned(fastadv::scratch_doubles<fastadv::CwStep<T, true>>(shape.rows, shape.cols));
    if (tau) return fastadv::launch_cw_step<T, true>(args, scratch.data(), nullptr);
    fastadv::launch_cw_step<T, false>(args, scratch.data(), nullptr);
  });
}
