// x plus a point drawn uniformly from the volume of the eps ball, in the box.
//
// linf: independent uniforms. l2: a normal vector has a uniform direction; its length is replaced by
// eps * u^(1/d), which makes the volume uniform.
// Bytes per element: 1 read and 1 write (8 in fp32). Limit: linf memory; l2 the arithmetic of drawing
// the normals twice, once for their norm and once to use them, which beats storing them.
// Other norms: see lp_random_in_ball.cuh.
// Deterministic: counter-based numbers (philox.cuh), sums as in row_reduce.cuh.
#pragma once

#include "args.cuh"
#include "elementwise.cuh"
#include "lp.cuh"
#include "lp_random_in_ball.cuh"
#include "normal.cuh"
#include "row_reduce.cuh"
#include "sweeps.cuh"

namespace fastadv {

template <class T>
struct LinfRandomInBall {
  using C = Compute<T>;
  static constexpr int kWidth = 1;
  RandomInBallArgs<T> args;
  int shift;

  template <int W>
  __device__ __forceinline__ void write(int64_t index) const {
    const int64_t row = row_of(index, args.quads());
    const int64_t quad = index - row * args.quads();
    const C eps = args.eps[row];
    const Philox4 words = random_words(args.stream(), args.id(row), static_cast<uint32_t>(quad));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t col = quad * 4 + e;
      if (col >= args.cols) return;
      const int64_t at = row * args.cols + col;
      const C delta = eps * symmetric_uniform(words.word[e]);
      args.out[at] = place<T>(widen(args.x[at]), delta, eps, args.lower, args.upper);
    }
  }
};

template <class T>
struct L2RandomInBall {
  using C = Compute<T>;
  static constexpr int kWidth = 1;
  static constexpr int kSums = 1;
  using Plan = Multiple<C>;
  RandomInBallArgs<T> args;
  int shift;

  __device__ __forceinline__ bool reads(int64_t) const { return true; }

  template <int W>
  __device__ __forceinline__ void add(int64_t row, int64_t quad, bool, double (&sums)[kSums]) const {
    const Random4 normals = random_normals(args.stream(), args.id(row), static_cast<uint32_t>(quad));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const double normal = quad * 4 + e < args.cols ? normals.at[e] : 0.0f;
      sums[0] += normal * normal;
    }
  }

  __device__ __forceinline__ Plan plan(int64_t row, const double (&sums)[kSums]) const {
    const double radius = args.eps[row] * unit_radius(args.stream(), args.id(row), args.cols);
    return towards<C>(std::sqrt(sums[0]), radius * (1.0 - slack<C>()));
  }

  template <int W>
  __device__ __forceinline__ void write(int64_t row, int64_t quad, const Plan& plan) const {
    const Random4 normals = random_normals(args.stream(), args.id(row), static_cast<uint32_t>(quad));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t col = quad * 4 + e;
      if (col >= args.cols) return;
      const int64_t at = row * args.cols + col;
      const C delta = plan(C(normals.at[e]));
      args.out[at] = place<T>(widen(args.x[at]), delta, std::fabs(delta), args.lower, args.upper);
    }
  }
};

template <class T>
inline void launch_linf_random_in_ball(const RandomInBallArgs<T>& args, cudaStream_t stream) {
  launch_elementwise(LinfRandomInBall<T>{args, kUnaligned}, args.rows * args.quads(), stream);
}

/// `scratch` holds scratch_doubles<L2RandomInBall<T>>(rows, quads) doubles.
template <class T>
inline void launch_l2_random_in_ball(const RandomInBallArgs<T>& args, double* scratch, cudaStream_t stream) {
  launch_rows(L2RandomInBall<T>{args, kUnaligned}, args.rows, args.quads(), scratch, stream);
}

template <class T>
inline void launch_lp_random_in_ball(const RandomInBallArgs<T>& args, double norm, cudaStream_t stream) {
  launch_sweeps(LpRandomInBall<T>{args, norm}, args.rows, args.cols, stream);
}

}  // namespace fastadv
