// Kernels that sweep over a sample as often as it takes: a block does it all in one launch.
//
// An Op, which the CPU runs too (cpu/sweeps.h), has
//   static constexpr int kValues         numbers that a sweep finds of a sample, in double
//   struct State                         what is known of a sample between sweeps
//   State begin(int64_t row) const
//   bool done(const State&) const        whether enough is known to write
//   bool takes_maxima(const State&)      whether the next sweep's numbers are maxima, of numbers >= 0, or
//   sums template <int N> void visit(const State&, int64_t row, int64_t col, int64_t count,
//                               double (&values)[kValues][N]) const
//                                        what elements col .. col + count - 1 contribute, 0 beyond them
//   void advance(State&, const double (&values)[kValues]) const
//   template <int N> void write(const State&, int64_t row, int64_t col, int64_t count) const
//
// Deterministic and independent of batch mates: which thread visits which element depends on the sample's
// length alone, threads are combined in a fixed tree, and there are no float atomics. Samples of up to some
// hundred thousand elements come from the L2 cache in all sweeps but the first.
#pragma once

#include "elementwise.cuh"

namespace fastadv {

constexpr int64_t kShortSample = 2048;  // elements that a small block sweeps as fast as a large one

template <class Op, int Threads>
__global__ void __launch_bounds__(Threads, 1) sweeps_kernel(Op op, int64_t cols) {
  constexpr int kWarps = Threads / kWarp;
  FASTADV_SHARED(typename Op::State, shared, 1);
  FASTADV_SHARED(double, of_warp, kWarps* Op::kValues);
  const int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  typename Op::State& state = shared[0];
  if (thread == 0) state = op.begin(row);
  __syncthreads();
  while (!op.done(state)) {
    const bool maxima = op.takes_maxima(state);
    const auto combine = [maxima](double a, double b) { return !maxima ? a + b : a > b ? a : b; };
    double found[Op::kValues] = {};
    for (int64_t col = thread; col < cols; col += Threads) {
      double values[Op::kValues][1];
      op.template visit<1>(state, row, col, 1, values);
#pragma unroll
      for (int k = 0; k < Op::kValues; ++k) found[k] = combine(found[k], values[k][0]);
    }
#pragma unroll
    for (int k = 0; k < Op::kValues; ++k) {
#pragma unroll
      for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        found[k] = combine(found[k], __shfl_xor_sync(kFullWarp, found[k], distance));
      }
      if (lane == 0) of_warp[warp * Op::kValues + k] = found[k];
    }
    __syncthreads();
    if (thread == 0) {
#pragma unroll
      for (int k = 0; k < Op::kValues; ++k) {
        for (int w = 1; w < kWarps; ++w) found[k] = combine(found[k], of_warp[w * Op::kValues + k]);
      }
      op.advance(state, found);
    }
    __syncthreads();
  }
  for (int64_t col = thread; col < cols; col += Threads) op.template write<1>(state, row, col, 1);
}

template <class Op>
inline void launch_sweeps(const Op& op, int64_t rows, int64_t cols, cudaStream_t stream) {
  if (rows == 0 || cols == 0) return;
  constexpr int kSmall = 128, kLarge = 512;
  const dim3 grid(static_cast<unsigned>(rows));
  if (cols <= kShortSample) {
    FASTADV_LAUNCH((sweeps_kernel<Op, kSmall>), grid, dim3(kSmall), 0, stream, op, cols);
  } else {
    FASTADV_LAUNCH((sweeps_kernel<Op, kLarge>), grid, dim3(kLarge), 0, stream, op, cols);
  }
}

}  // namespace fastadv
