// Sums over each sample, then a second sweep that uses them: the frame of every l2 kernel.
//
// An Op has
//   static constexpr int kSums      sums per sample, in double
//   static constexpr int kWidth     elements per 16-byte access (1: columns are no addresses)
//   int shift                       see common_shift, for index row * cols + col
//   struct Plan                     what the second sweep needs to know of a sample
//   bool reads(int64_t row) const   whether this sample's sums are wanted
//   template <int W> void add(int64_t row, int64_t col, bool aligned, double (&sums)[kSums]) const
//   Plan plan(int64_t row, const double (&sums)[kSums]) const
//   template <int W> void write(int64_t row, int64_t col, const Plan&) const
//
// Deterministic and independent of batch mates: which thread adds which element depends on the
// sample's length alone (not on its alignment or on the batch), threads are combined in a fixed
// tree, and there are no float atomics. Double accumulators neither overflow nor underflow on
// products of floats: a gradient of norm 1e-30 has a norm here.
//
// Short samples: one group of threads reads, reduces and rereads (from cache) in one launch. Long
// ones: a launch for the sums of each chunk, a launch that adds up a sample's chunks and writes.
#pragma once

#include "access.cuh"
#include "elementwise.cuh"

namespace fastadv {

constexpr int64_t kWarpRow = 512;     // up to here a warp takes a sample, up to kBlockRow a block
constexpr int64_t kBlockRow = 16384;  // beyond it several blocks do
constexpr int64_t kChunk = 8192;      // elements per block of a long sample

template <int N>
__device__ __forceinline__ void warp_sum(double (&sums)[N]) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < N; ++k) sums[k] += __shfl_xor_sync(kFullWarp, sums[k], distance);
  }
}

/// Sums over the block's threads; every thread gets the total. To be called once by a kernel: a second
/// call could write the shared memory that slower threads still read.
template <int Threads, int N>
__device__ __forceinline__ void block_sum(double (&sums)[N]) {
  constexpr int kWarps = Threads / kWarp;
  FASTADV_SHARED(double, of_warp, kWarps* N);
  warp_sum(sums);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (lane == 0) {
#pragma unroll
    for (int k = 0; k < N; ++k) of_warp[warp * N + k] = sums[k];
  }
#if !defined(FASTADV_PLANT_MISSING_BARRIER)  // the tests plant this bug and must find it
  __syncthreads();
#endif
#pragma unroll
  for (int k = 0; k < N; ++k) {
    sums[k] = 0.0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sums[k] += of_warp[w * N + k];
  }
}

/// One thread's share of the sums over columns [begin, end).
template <class Op>
__device__ __forceinline__ void add_columns(const Op& op, int64_t row, int64_t cols, int64_t begin,
                                            int64_t end, int thread, int threads, double (&sums)[Op::kSums]) {
  constexpr int W = Op::kWidth;
#pragma unroll
  for (int k = 0; k < Op::kSums; ++k) sums[k] = 0.0;
  const bool aligned = is_aligned<W>(row * cols + begin, op.shift);
  const int64_t packs = (end - begin) / W;
  for (int64_t p = thread; p < packs; p += threads) op.template add<W>(row, begin + p * W, aligned, sums);
  for (int64_t i = begin + packs * W + thread; i < end; i += threads) op.template add<1>(row, i, true, sums);
}

template <class Op>
__device__ __forceinline__ void write_columns(const Op& op, int64_t row, int64_t cols, int64_t begin,
                                              int64_t end, int thread, int threads,
                                              const typename Op::Plan& plan) {
  const int64_t start = row * cols;
  sweep<Op::kWidth>(start + begin, start + end, op.shift, thread, threads, [&](int64_t index, auto width) {
    op.template write<decltype(width)::value>(row, index - start, plan);
  });
}

template <class Op, int ThreadsPerRow>
__global__ void __launch_bounds__(kThreads, kBlocks) row_kernel(Op op, int64_t rows, int64_t cols) {
  constexpr int kRows = kThreads / ThreadsPerRow;
  const int thread = static_cast<int>(threadIdx.x) % ThreadsPerRow;
  const int64_t row = int64_t{blockIdx.x} * kRows + static_cast<int>(threadIdx.x) / ThreadsPerRow;
  if (row >= rows) return;  // whole warps: ThreadsPerRow is a warp or the block
  double sums[Op::kSums] = {};
  if (op.reads(row)) add_columns(op, row, cols, 0, cols, thread, ThreadsPerRow, sums);
  if constexpr (ThreadsPerRow == kWarp) {
    warp_sum(sums);
  } else {
    block_sum<ThreadsPerRow>(sums);
  }
  write_columns(op, row, cols, 0, cols, thread, ThreadsPerRow, op.plan(row, sums));
}

/// `Blocks` on an SM at least: fewer than kBlocks for an op that needs more registers than those leave.
template <class Op, int Blocks = kBlocks>
__global__ void __launch_bounds__(kThreads, Blocks)
    chunk_sums_kernel(Op op, int64_t cols, int64_t chunks, double* partial_sums) {
  const int64_t row = row_of(blockIdx.x, chunks);
  if (!op.reads(row)) return;
  const int64_t begin = (blockIdx.x - row * chunks) * kChunk;
  const int64_t end = begin + kChunk < cols ? begin + kChunk : cols;
  double sums[Op::kSums];
  add_columns(op, row, cols, begin, end, static_cast<int>(threadIdx.x), kThreads, sums);
  block_sum<kThreads>(sums);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int k = 0; k < Op::kSums; ++k) partial_sums[int64_t{blockIdx.x} * Op::kSums + k] = sums[k];
  }
}

template <class Op>
__global__ void __launch_bounds__(kThreads, kBlocks)
    chunk_write_kernel(Op op, int64_t cols, int64_t chunks, const double* partial_sums) {
  const int64_t row = row_of(blockIdx.x, chunks);
  const int64_t begin = (blockIdx.x - row * chunks) * kChunk;
  const int64_t end = begin + kChunk < cols ? begin + kChunk : cols;
  double sums[Op::kSums] = {};
  if (op.reads(row)) {
    for (int64_t c = threadIdx.x; c < chunks; c += kThreads) {
#pragma unroll
      for (int k = 0; k < Op::kSums; ++k) sums[k] += partial_sums[(row * chunks + c) * Op::kSums + k];
    }
  }
  block_sum<kThreads>(sums);
  write_columns(op, row, cols, begin, end, static_cast<int>(threadIdx.x), kThreads, op.plan(row, sums));
}

/// Doubles of scratch memory that launch_rows needs.
template <class Op>
inline int64_t scratch_doubles(int64_t rows, int64_t cols) {
  return cols <= kBlockRow ? 0 : rows * ((cols + kChunk - 1) / kChunk) * Op::kSums;
}

template <class Op>
inline void launch_rows(const Op& op, int64_t rows, int64_t cols, double* scratch, cudaStream_t stream) {
  if (rows == 0 || cols == 0) return;
  if (cols <= kWarpRow) {
    const int64_t blocks = (rows * kWarp + kThreads - 1) / kThreads;
    FASTADV_LAUNCH((row_kernel<Op, kWarp>), dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream,
                   op, rows, cols);
  } else if (cols <= kBlockRow) {
    FASTADV_LAUNCH((row_kernel<Op, kThreads>), dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream,
                   op, rows, cols);
  } else {
    const int64_t chunks = (cols + kChunk - 1) / kChunk;
    const dim3 grid(static_cast<unsigned>(rows * chunks));
    FASTADV_LAUNCH((chunk_sums_kernel<Op>), grid, dim3(kThreads), 0, stream, op, cols, chunks, scratch);
    FASTADV_LAUNCH((chunk_write_kernel<Op>), grid, dim3(kThreads), 0, stream, op, cols, chunks,
                   static_cast<const double*>(scratch));
  }
}

}  // namespace fastadv
