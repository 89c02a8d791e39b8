#include "kwta_backward.cuh"

#include "dispatch.h"

void kwta_backward(Dtype dtype, void* out, const void* grad, const uint32_t* winners, Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    const fastadv::KwtaBackwardArgs<T> args{
        .out = static_cast<T*>(out),
        .grad = static_cast<const T*>(grad),
        .winners = winners,
        .rows = shape.rows,
        .cols = shape.cols,
    };
    fastadv::launch_kwta_backward(args, nullptr);
  });
}
