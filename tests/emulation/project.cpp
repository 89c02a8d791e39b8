#include "project.cuh"

#include "dispatch.h"

void project(Dtype dtype, double norm, void* out, const void* delta, Values eps, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    const fastadv::ProjectArgs<T> args{
        .out = static_cast<T*>(out),
        .delta = static_cast<const T*>(delta),
        .eps = per_sample<T>(eps),
        .rows = shape.rows,
        .cols = shape.cols,
    };
    if (std::isinf(norm)) return fastadv::launch_linf_project(args, nullptr);
    auto scratch = poisoned(fastadv::scratch_doubles<fastadv::L2Project<T>>(shape.rows, shape.cols));
    fastadv::launch_l2_project(args, scratch.data(), nullptr);
  });
}
