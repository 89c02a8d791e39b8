#include "bindings/lp.h"
#include "cpu/random.h"
#include "cpu/sweeps.h"
#include "kernels/lp_random_in_ball.cuh"

namespace fastadv {
namespace {

template <class T, class C = Compute<T>>
struct LinfPlaceSpan {
  FASTADV_HD static void run(T* out, const T* x, const float* uniforms, int64_t count, C eps, C lower,
                             C upper) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      out[i] = place<T>(widen(x[i]), eps * uniforms[i], eps, lower, upper);
    }
  }
};

template <class T, class C = Compute<T>>
struct L2PlaceSpan {
  FASTADV_HD static void run(T* out, const T* x, const float* normals, int64_t count, Multiple<C> plan,
                             C lower, C upper) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      const C delta = plan(C(normals[i]));
      out[i] = place<T>(widen(x[i]), delta, std::fabs(delta), lower, upper);
    }
  }
};

struct Kernel {
  template <class T>
  static void run(const RandomInBallArgs<T>& args, double norm, const Tensor&) {
    if (!has_own_kernel(norm)) return sweep_rows(LpRandomInBall<T>{args, norm}, {args.rows, args.cols});
    norm == kInf ? linf(args) : l2(args);
  }

 private:
  template <class T>
  static void linf(const RandomInBallArgs<T>& args) {
    for_each_piece({args.rows, args.cols}, [&](int64_t row, int64_t first, int64_t last) {
      for_each_drawn<DrawUniforms>(
          args.stream(), args.id(row), first, last, [&](int64_t begin, int64_t end, const float* uniforms) {
            const int64_t at = row * args.cols + begin;
            run_simd<LinfPlaceSpan<T>>(args.out + at, args.x + at, uniforms, end - begin, args.eps[row],
                                       args.lower, args.upper);
          });
    });
  }

  template <class T>
  static void l2(const RandomInBallArgs<T>& args) {
    using C = Compute<T>;
    run_rows<1>(
        {args.rows, args.cols},
        [&](int64_t row, int64_t first, int64_t last) {
          std::array<double, 1> sum{};
          for_each_drawn<DrawNormals>(args.stream(), args.id(row), first, last,
                                      [&](int64_t begin, int64_t end, const float* normals) {
                                        sum[0] += square_sum(normals, 0, end - begin)[0];
                                      });
          return sum;
        },
        [&](int64_t row, const std::array<double, 1>& sums) {
          const double radius = args.eps[row] * unit_radius(args.stream(), args.id(row), args.cols);
          return towards<C>(std::sqrt(sums[0]), radius * (1.0 - slack<C>()));
        },
        [&](int64_t row, int64_t first, int64_t last, const Multiple<C>& plan) {
          for_each_drawn<DrawNormals>(args.stream(), args.id(row), first, last,
                                      [&](int64_t begin, int64_t end, const float* normals) {
                                        const int64_t at = row * args.cols + begin;
                                        run_simd<L2PlaceSpan<T>>(args.out + at, args.x + at, normals,
                                                                 end - begin, plan, args.lower, args.upper);
                                      });
        });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("random_in_ball", TORCH_BOX(&fastadv::random_in_ball<fastadv::Kernel>));
}
