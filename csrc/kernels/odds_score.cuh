// The largest z-score of a sample's gaps over classes, and its class: a warp per row.
//
// Bytes per gap: 1 read, and 1 each of its mean and standard deviation, which stay in cache (24 in double).
// Limit: latency; the arrays are small. Deterministic: kinds of noise are added in order, and the first of
// equal scores is taken.
#pragma once

#include "args.cuh"
#include "row_reduce.cuh"
#include "warp_largest.cuh"

namespace fastadv {

__global__ void __launch_bounds__(kThreads, kLargestBlocks) odds_score_kernel(OddsScoreArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= args.rows) return;  // a whole warp
  const Largest largest = warp_largest(args.classes, lane, [&](int64_t k) { return args.z(row, k); });
  if (lane != 0) return;
  args.score[row] = largest.value;
  args.towards[row] = largest.index;
}

inline void launch_odds_score(const OddsScoreArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  const int64_t blocks = (args.rows * kWarp + kThreads - 1) / kThreads;
  FASTADV_LAUNCH(odds_score_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, args);
}

}  // namespace fastadv
