#include "gap_moments.cuh"

#include "dispatch.h"

void gap_moments(Dtype dtype, double* sums, double* squares, const double* earlier_sums,
                 const double* earlier_squares, const void* clean, const void* noisy, int64_t draws,
                 Shape shape) {
  dispatch(dtype, [&]<class T>(T) {
    fastadv::launch_gap_moments(
        fastadv::GapMomentsArgs<T>{
            .sums = sums,
            .squares = squares,
            .earlier_sums = earlier_sums,
            .earlier_squares = earlier_squares,
            .clean = static_cast<const T*>(clean),
            .noisy = static_cast<const T*>(noisy),
            .draws = draws,
            .rows = shape.rows,
            .classes = shape.cols,
        },
        nullptr);
  });
}
