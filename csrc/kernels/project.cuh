// The Euclidean projection of each sample on the ball of radius eps around 0, and perhaps a box.
//
// linf. Bytes per element: 1 read and 1 write (8 in fp32). Floor: that. Limit: memory bandwidth.
// l2.   Bytes per element: 1 read for the norm, 1 read and 1 write to rescale (12 in fp32). Floor: 8.
// Other norms, and all of them in a box: a read for each sweep, from the L2 cache but for the first, and a
// write; see l0_project.cuh, l1_project.cuh and lp_project.cuh. Limit: the arithmetic in double.
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
struct LinfProject {
  using C = Compute<T>;
  static constexpr int kWidth = kPack<T>;
  ProjectArgs<T> args;
  int shift;

  template <int W>
  __device__ __forceinline__ void write(int64_t index) const {
    const auto delta = load<W>(args.delta + index);
    const bool uniform = args.eps.stride == 0;
    RowCursor cursor(uniform ? 0 : row_of(index, args.cols), args.cols);
    C eps = args.eps[cursor.row];
    Pack<T, W> out;
#pragma unroll
    for (int e = 0; e < W; ++e) {
      if (!uniform && cursor.passes_end(index + e)) eps = args.eps[cursor.row];
      out.at[e] = linf_project<T>(widen(delta.at[e]), eps);
    }
    store<W>(args.out + index, out);
  }
};

template <class T>
struct L2Project {
  using C = Compute<T>;
  static constexpr int kWidth = kPack<T>;
  static constexpr int kSums = 1;
  using Plan = C;
  ProjectArgs<T> args;
  int shift;

  __device__ __forceinline__ bool reads(int64_t) const { return true; }

  template <int W>
  __device__ __forceinline__ void add(int64_t row, int64_t col, bool aligned, double (&sums)[kSums]) const {
    const auto delta = load<W>(args.delta + row * args.cols + col, aligned);
#pragma unroll
    for (int e = 0; e < W; ++e) {
      const double d = widen(delta.at[e]);
      sums[0] += d * d;
    }
  }

  __device__ __forceinline__ Plan plan(int64_t row, const double (&sums)[kSums]) const {
    return l2_scale(std::sqrt(sums[0]), args.eps[row]);
  }

  template <int W>
  __device__ __forceinline__ void write(int64_t row, int64_t col, const Plan& scale) const {
    const int64_t index = row * args.cols + col;
    auto out = load<W>(args.delta + index);
#pragma unroll
    for (int e = 0; e < W; ++e) out.at[e] = l2_project<T>(widen(out.at[e]), scale);
    store<W>(args.out + index, out);
  }
};

template <class T>
inline void launch_linf_project(const ProjectArgs<T>& args, cudaStream_t stream) {
  launch_elementwise(LinfProject<T>{args, common_shift(args.out, args.delta)}, args.rows * args.cols, stream);
}

/// `scratch` holds scratch_doubles<L2Project<T>>(rows, cols) doubles.
template <class T>
inline void launch_l2_project(const ProjectArgs<T>& args, double* scratch, cudaStream_t stream) {
  launch_rows(L2Project<T>{args, common_shift(args.out, args.delta)}, args.rows, args.cols, scratch, stream);
}

template <class T>
inline void launch_lp_project(const ProjectArgs<T>& args, double norm, cudaStream_t stream) {
  with_projection(args, norm,
                  [&](const auto& op, int64_t length) { launch_sweeps(op, args.rows, length, stream); });
}

}  // namespace fastadv
