#include "random_in_ball.cuh"

#include "dispatch.h"

void random_in_ball(Dtype dtype, double norm, void* out, const void* x, Values eps, const int64_t* ids,
                    const int64_t* seed, Bounds bounds, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    using C = fastadv::Compute<T>;
    const fastadv::RandomInBallArgs<T> args{
        .out = static_cast<T*>(out),
        .x = static_cast<const T*>(x),
        .eps = per_sample<T>(eps),
        .ids = ids,
        .seed = seed,
        .lower = static_cast<C>(bounds.lower),
        .upper = static_cast<C>(bounds.upper),
        .rows = shape.rows,
        .cols = shape.cols,
    };
    if (norm != 2 && !std::isinf(norm)) return fastadv::launch_lp_random_in_ball(args, norm, nullptr);
    if (std::isinf(norm)) return fastadv::launch_linf_random_in_ball(args, nullptr);
    auto scratch = poisoned(fastadv::scratch_doubles<fastadv::L2RandomInBall<T>>(shape.rows, args.quads()));
    fastadv::launch_l2_random_in_ball(args, scratch.data(), nullptr);
  });
}
