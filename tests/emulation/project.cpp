#include "project.cuh"

#include "dispatch.h"

void project(Dtype dtype, double norm, void* out, const void* delta, Values eps, const void* x, Bounds bounds,
             int64_t channels, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    using C = fastadv::Compute<T>;
    const fastadv::ProjectArgs<T> args{
        .out = static_cast<T*>(out),
        .delta = static_cast<const T*>(delta),
        .eps = per_sample<T>(eps),
        .x = static_cast<const T*>(x),
        .lower = static_cast<C>(bounds.lower),
        .upper = static_cast<C>(bounds.upper),
        .channels = channels,
        .rows = shape.rows,
        .cols = shape.cols,
    };
    if (x != nullptr || (norm != 2 && !std::isinf(norm)))
      return fastadv::launch_lp_project(args, norm, nullptr);
    if (std::isinf(norm)) return fastadv::launch_linf_project(args, nullptr);
    auto scratch = poisoned(fastadv::scratch_doubles<fastadv::L2Project<T>>(shape.rows, shape.cols));
    fastadv::launch_l2_project(args, scratch.data(), nullptr);
  });
}
