// One pass over flat memory: each element is read once, written once, by one thread.
//
// An Op has
//   static constexpr int kWidth     elements per 16-byte access (1: indices are no addresses)
//   int shift                       see common_shift
//   template <int W> void write(int64_t index) const
#pragma once

#include "access.cuh"

namespace fastadv {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // per multiprocessor at least: 64 registers a thread, enough not to spill

template <class Op>
constexpr int64_t kElementsPerBlock = int64_t{kThreads} * Op::kWidth * 2;

template <class Op>
__global__ void __launch_bounds__(kThreads, kBlocks) elementwise_kernel(Op op, int64_t count) {
  const int64_t begin = int64_t{blockIdx.x} * kElementsPerBlock<Op>;
  const int64_t end = begin + kElementsPerBlock<Op>;
  sweep<Op::kWidth>(begin, end < count ? end : count, op.shift, static_cast<int>(threadIdx.x), kThreads,
                    [&](int64_t index, auto width) { op.template write<decltype(width)::value>(index); });
}

template <class Op>
inline void launch_elementwise(const Op& op, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  const int64_t blocks = (count + kElementsPerBlock<Op> - 1) / kElementsPerBlock<Op>;
  FASTADV_LAUNCH((elementwise_kernel<Op>), dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, op,
                 count);
}

}  // namespace fastadv
