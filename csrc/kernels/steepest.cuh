// The direction of steepest ascent: argmax of <u, grad> over the unit ball, 0 where grad is 0.
//
// linf. Bytes per element: 1 read and 1 write (8 in fp32). Floor: that. Limit: memory bandwidth.
// l2.   Bytes per element: 1 read for the norm, 1 read and 1 write to rescale (12 in fp32). Floor: 8.
// Other norms: 2 reads to know the direction, 1 read and 1 write; see lp_direction.cuh.
// Deterministic: linf has no sums; for l2 see row_reduce.cuh, for others sweeps.cuh.
#pragma once

#include "args.cuh"
#include "elementwise.cuh"
#include "lp.cuh"
#include "lp_ops.cuh"
#include "row_reduce.cuh"
#include "sweeps.cuh"

namespace fastadv {

template <class T>
struct LinfSteepest {
  static constexpr int kWidth = kPack<T>;
  SteepestArgs<T> args;
  int shift;

  template <int W>
  __device__ __forceinline__ void write(int64_t index) const {
    auto out = load<W>(args.grad + index);
#pragma unroll
    for (int e = 0; e < W; ++e) out.at[e] = narrow<T>(sign(widen(out.at[e])));
    store<W>(args.out + index, out);
  }
};

template <class T>
struct L2Steepest {
  using C = Compute<T>;
  static constexpr int kWidth = kPack<T>;
  static constexpr int kSums = 1;
  using Plan = Multiple<C>;
  SteepestArgs<T> args;
  int shift;

  __device__ __forceinline__ bool reads(int64_t) const { return true; }

  template <int W>
  __device__ __forceinline__ void add(int64_t row, int64_t col, bool aligned, double (&sums)[kSums]) const {
    const auto grad = load<W>(args.grad + row * args.cols + col, aligned);
#pragma unroll
    for (int e = 0; e < W; ++e) {
      const double g = widen(grad.at[e]);
      sums[0] += g * g;
    }
  }

  __device__ __forceinline__ Plan plan(int64_t, const double (&sums)[kSums]) const {
    return towards<C>(std::sqrt(sums[0]), 1.0);
  }

  template <int W>
  __device__ __forceinline__ void write(int64_t row, int64_t col, const Plan& direction) const {
    const int64_t index = row * args.cols + col;
    auto out = load<W>(args.grad + index);
#pragma unroll
    for (int e = 0; e < W; ++e) out.at[e] = l2_direction<T>(widen(out.at[e]), direction);
    store<W>(args.out + index, out);
  }
};

template <class T>
inline void launch_linf_steepest(const SteepestArgs<T>& args, cudaStream_t stream) {
  launch_elementwise(LinfSteepest<T>{args, common_shift(args.out, args.grad)}, args.rows * args.cols, stream);
}

/// `scratch` holds scratch_doubles<L2Steepest<T>>(rows, cols) doubles.
template <class T>
inline void launch_l2_steepest(const SteepestArgs<T>& args, double* scratch, cudaStream_t stream) {
  launch_rows(L2Steepest<T>{args, common_shift(args.out, args.grad)}, args.rows, args.cols, scratch, stream);
}

template <class T>
inline void launch_lp_steepest(const SteepestArgs<T>& args, double norm, cudaStream_t stream) {
  with_steepest(args, norm,
                [&](const auto& op, int64_t length) { launch_sweeps(op, args.rows, length, stream); });
}

}  // namespace fastadv
