#include "add_noise.cuh"

#include "dispatch.h"

void add_noise(Dtype dtype, const std::string& kind, void* out, const void* x, int64_t draws,
               int64_t first_draw, double scale, const int64_t* ids, const int64_t* seed, Bounds bounds,
               Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    using C = fastadv::Compute<T>;
    fastadv::launch_add_noise(
        fastadv::AddNoiseArgs<T>{
            .out = static_cast<T*>(out),
            .x = static_cast<const T*>(x),
            .ids = ids,
            .seed = seed,
            .kind = kind == "normal"    ? fastadv::Noise::normal
                    : kind == "uniform" ? fastadv::Noise::uniform
                                        : fastadv::Noise::sign,
            .scale = static_cast<C>(scale),
            .lower = static_cast<C>(bounds.lower),
            .upper = static_cast<C>(bounds.upper),
            .first_draw = first_draw,
            .draws = draws,
            .rows = shape.rows,
            .cols = shape.cols,
        },
        nullptr);
  });
}
