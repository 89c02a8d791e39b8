#include "steepest.cuh"

#include "dispatch.h"

void steepest(Dtype dtype, double norm, void* out, const void* grad, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    const fastadv::SteepestArgs<T> args{
        .out = static_cast<T*>(out),
        .grad = static_cast<const T*>(grad),
        .rows = shape.rows,
        .cols = shape.cols,
    };
    if (norm != 2 && !std::isinf(norm)) return fastadv::launch_lp_steepest(args, norm, nullptr);
    if (std::isinf(norm)) return fastadv::launch_linf_steepest(args, nullptr);
    auto scratch = poisoned(fastadv::scratch_doubles<fastadv::L2Steepest<T>>(shape.rows, shape.cols));
    fastadv::launch_l2_steepest(args, scratch.data(), nullptr);
  });
}
