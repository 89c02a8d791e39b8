// One step of Carlini and Wagner's search: the gradient's way through tanh, Adam, the new image and its
// distance, in one pass.
//
// Bytes per element: x_adv, w, m and v are read and written, x and grad read (40 in fp32, 28 in half whose
// state is fp32); a sample that is `better` costs a write more. Floor: that. Limit: memory bandwidth; two
// exponentials, two divisions and a square root hide behind it. Samples of more than kBlockRow elements take
// a second launch, which adds up a few doubles each.
// Deterministic: which thread adds which element depends on the sample's length alone, threads are combined
// in a fixed tree; see row_reduce.cuh.
#pragma once

#include "row_reduce.cuh"
#include "tanh_space.cuh"

namespace fastadv {

/// Elements between the last boundary of a pack of W and each array's start; kUnaligned if they differ. The
/// arrays may be of different types: a pack of floats is twice as long as one of halves.
template <int W, class T, class... More>
inline int pack_shift(const T* first, const More*... more) {
  const auto shift_of = [](const auto* p) {
    constexpr auto kBytes = sizeof(*p);
    return static_cast<int>(reinterpret_cast<uintptr_t>(p) % (W * kBytes) / kBytes);
  };
  const int shift = shift_of(first);
  return ((shift_of(more) == shift) && ...) ? shift : kUnaligned;
}

template <int W, class T>
__device__ __forceinline__ void store(T* to, const Pack<T, W>& pack, bool aligned) {
  if (aligned) return store<W>(to, pack);
#pragma unroll
  for (int e = 0; e < W; ++e) to[e] = pack.at[e];
}

/// An Op for add_columns: the update happens where its distance is added up.
template <class T, bool Hinge>
struct CwStep {
  using C = Compute<T>;
  static constexpr int kWidth = kPack<C>;
  static constexpr int kSums = 1;
  static constexpr int kBlocks = sizeof(C) == 8 ? 3 : fastadv::kBlocks;  // the exponential of doubles
  CwStepArgs<T> args;
  int shift;

  __device__ __forceinline__ bool reads(int64_t) const { return true; }

  template <int W>
  __device__ __forceinline__ void add(int64_t row, int64_t col, bool aligned, double (&sums)[kSums]) const {
    const int64_t index = row * args.cols + col;
    const auto pull = args.template pull<Hinge>(row);
    auto x_adv = load<W>(args.x_adv + index, aligned);
    const auto x = load<W>(args.x + index, aligned);
    if (args.keeps(row)) store<W>(args.best + index, x_adv, aligned);
    if (args.moves(row)) {
      const auto grad = load<W>(args.grad + index, aligned);
      auto w = load<W>(args.w + index, aligned);
      auto m = load<W>(args.m + index, aligned);
      auto v = load<W>(args.v + index, aligned);
#pragma unroll
      for (int e = 0; e < W; ++e) {
        x_adv.at[e] = tanh_space_update<T>(args.space, pull, widen(x_adv.at[e]), widen(x.at[e]),
                                           widen(grad.at[e]), w.at[e], m.at[e], v.at[e]);
      }
      store<W>(args.w + index, w, aligned);
      store<W>(args.m + index, m, aligned);
      store<W>(args.v + index, v, aligned);
      store<W>(args.x_adv + index, x_adv, aligned);
    }
#pragma unroll
    for (int e = 0; e < W; ++e) sums[0] += pull.distance(widen(x_adv.at[e]) - widen(x.at[e]));
  }
};

template <class Op, int ThreadsPerRow>
__global__ void __launch_bounds__(kThreads, Op::kBlocks)
    update_rows_kernel(Op op, int64_t rows, int64_t cols, double* totals) {
  const int thread = static_cast<int>(threadIdx.x) % ThreadsPerRow;
  const int64_t row =
      int64_t{blockIdx.x} * (kThreads / ThreadsPerRow) + static_cast<int>(threadIdx.x) / ThreadsPerRow;
  if (row >= rows) return;  // whole warps: ThreadsPerRow is a warp or the block
  double sums[Op::kSums];
  add_columns(op, row, cols, 0, cols, thread, ThreadsPerRow, sums);
  if constexpr (ThreadsPerRow == kWarp) {
    warp_sum(sums);
  } else {
    block_sum<ThreadsPerRow>(sums);
  }
  if (thread == 0) totals[row] = sums[0];
}

/// A sample's chunks added up in order: there are few of them.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    add_chunks_kernel(const T* partial, int64_t rows, int64_t chunks, T* totals) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  T total = T(0);
  for (int64_t c = 0; c < chunks; ++c) total += partial[row * chunks + c];
  totals[row] = total;
}

/// `scratch` holds scratch_doubles<CwStep<T, Hinge>>(rows, cols) doubles.
template <class T, bool Hinge>
inline void launch_cw_step(const CwStepArgs<T>& args, double* scratch, cudaStream_t stream) {
  using Op = CwStep<T, Hinge>;
  if (args.rows == 0 || args.cols == 0) return;
  const T* best = args.best == nullptr ? args.x_adv : args.best;
  const Op op{args, pack_shift<Op::kWidth>(args.x_adv, args.w, args.m, args.v, args.x, args.grad, best)};
  if (args.cols <= kWarpRow) {
    const int64_t blocks = (args.rows * kWarp + kThreads - 1) / kThreads;
    FASTADV_LAUNCH((update_rows_kernel<Op, kWarp>), dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                   stream, op, args.rows, args.cols, args.distance);
  } else if (args.cols <= kBlockRow) {
    FASTADV_LAUNCH((update_rows_kernel<Op, kThreads>), dim3(static_cast<unsigned>(args.rows)), dim3(kThreads),
                   0, stream, op, args.rows, args.cols, args.distance);
  } else {
    const int64_t chunks = (args.cols + kChunk - 1) / kChunk;
    FASTADV_LAUNCH((chunk_sums_kernel<Op, Op::kBlocks>), dim3(static_cast<unsigned>(args.rows * chunks)),
                   dim3(kThreads), 0, stream, op, args.cols, chunks, scratch);
    const int64_t blocks = (args.rows + kThreads - 1) / kThreads;
    FASTADV_LAUNCH((add_chunks_kernel<double>), dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                   stream, static_cast<const double*>(scratch), args.rows, chunks, args.distance);
  }
}

}  // namespace fastadv
