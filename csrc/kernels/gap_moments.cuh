// Sums over draws of how the gaps between logits move under noise, and of the squares: a warp per row.
//
// Bytes per noisy logit: 1 read (4 in fp32); those of the predicted class are read once more, from cache.
// Floor: that. Limit: memory bandwidth where there are rows enough to fill the device, else latency.
// Deterministic: draws are added one after the other in double, so that their sum does not depend on how they
// were cut into chunks either.
#pragma once

#include "args.cuh"
#include "row_reduce.cuh"
#include "warp_largest.cuh"

namespace fastadv {

template <class T>
__global__ void __launch_bounds__(kThreads, kLargestBlocks) gap_moments_kernel(GapMomentsArgs<T> args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= args.rows) return;  // a whole warp
  const T* clean = args.clean + row * args.classes;
  const int64_t predicted =
      warp_largest(args.classes, lane, [&](int64_t k) -> double { return widen(clean[k]); }).index;
  const double clean_predicted = widen(clean[predicted]);
  const int64_t stride = args.rows * args.classes;
  for (int64_t k = lane; k < args.classes; k += kWarp) {
    const int64_t at = row * args.classes + k;
    const double clean_k = widen(clean[k]);
    double sum = args.earlier_sums == nullptr ? 0.0 : args.earlier_sums[at];
    double squares = args.earlier_squares == nullptr ? 0.0 : args.earlier_squares[at];
    const T* noisy = args.noisy + row * args.classes;
#pragma unroll 4
    for (int64_t draw = 0; draw < args.draws; ++draw) {
      const double shift = double(widen(noisy[draw * stride + predicted])) - clean_predicted;
      const double gap = (double(widen(noisy[draw * stride + k])) - clean_k) - shift;
      sum += gap;
      squares += gap * gap;
    }
    args.sums[at] = sum;
    args.squares[at] = squares;
  }
}

template <class T>
inline void launch_gap_moments(const GapMomentsArgs<T>& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  const int64_t blocks = (args.rows * kWarp + kThreads - 1) / kThreads;
  FASTADV_LAUNCH((gap_moments_kernel<T>), dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                 args);
}

}  // namespace fastadv
