#include "pgd_step.cuh"

#include "dispatch.h"

void pgd_step(Dtype dtype, double norm, void* out, const void* x_adv, const void* x, const void* grad,
              Values eps, Values step_size, const bool* active, void* best, const bool* better, Bounds bounds,
              bool steepest, int64_t spread, int64_t channels, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    using C = fastadv::Compute<T>;
    const fastadv::PgdStepArgs<T> args{
        .out = static_cast<T*>(out),
        .x_adv = static_cast<const T*>(x_adv),
        .x = static_cast<const T*>(x),
        .grad = static_cast<const T*>(grad),
        .eps = per_sample<T>(eps),
        .step_size = per_sample<T>(step_size),
        .active = active,
        .best = static_cast<T*>(best),
        .better = better,
        .lower = static_cast<C>(bounds.lower),
        .upper = static_cast<C>(bounds.upper),
        .steepest = steepest,
        .spread = spread,
        .channels = channels,
        .rows = shape.rows,
        .cols = shape.cols,
    };
    if (norm != 2 && !std::isinf(norm)) {
      auto moved = poisoned(shape.rows * shape.cols);
      return fastadv::launch_lp_pgd_step(args, norm, moved.data(), nullptr);
    }
    if (std::isinf(norm)) return fastadv::launch_linf_pgd_step(args, nullptr);
    auto scratch = poisoned(fastadv::scratch_doubles<fastadv::L2PgdStep<T>>(shape.rows, shape.cols));
    fastadv::launch_l2_pgd_step(args, scratch.data(), nullptr);
  });
}
