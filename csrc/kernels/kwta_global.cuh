// k-WTA with the row in global memory: rows too long for the chip, and any row on a device without clusters.
//
// Plain kernels, so that nothing waits inside one for another block: a launch for each digit counts it, each
// block in bins of its own that it then adds to the row's; a launch writes the winners; between them, where
// ties are split, a launch counts each chunk's ties. Every block works out from the bins of the last
// launch what it needs to know, and once the winners are known the remaining counts return at once.
#pragma once

#include "access.cuh"
#include "kwta_rows.cuh"

namespace fastadv {

using ChunkTeam = BlockTeam<kThreads>;

constexpr int64_t kKwtaChunk = 16384;  // elements per block, a multiple of 32
constexpr int kKwtaBlocks = 3;         // per multiprocessor at least: 80 registers a thread
constexpr int kDigitBins = 1 << ChunkTeam::kBits;
template <class T>
constexpr int kDigits = (kKeyBits<T> + ChunkTeam::kBits - 1) / ChunkTeam::kBits;

/// What the launches for `rows` rows leave each other.
template <class T>
struct KwtaScratch {
  Threshold<T>* thresholds;  // [rows, kDigits]: what was known before each digit
  uint32_t* bins;            // [rows, kDigits, kDigitBins], zero at first
  uint32_t* ties;            // [rows, chunks], those that equal the threshold
  int64_t chunks;

  static int64_t chunks_of(int64_t cols) { return (cols + kKwtaChunk - 1) / kKwtaChunk; }
  static int64_t bin_bytes(int64_t rows) {
    return rows * kDigits<T> * kDigitBins * int64_t{sizeof(uint32_t)};
  }
  static int64_t threshold_bytes(int64_t rows) { return rows * kDigits<T> * int64_t{sizeof(Threshold<T>)}; }
  static int64_t doubles(int64_t rows, int64_t cols) {
    const int64_t tie_bytes = rows * chunks_of(cols) * int64_t{sizeof(uint32_t)};
    return (bin_bytes(rows) + threshold_bytes(rows) + tie_bytes + 7) / 8;
  }

  KwtaScratch(double* memory, int64_t rows, int64_t cols) : chunks(chunks_of(cols)) {
    auto* bytes = reinterpret_cast<unsigned char*>(memory);
    bins = reinterpret_cast<uint32_t*>(bytes);
    thresholds = reinterpret_cast<Threshold<T>*>(bytes + bin_bytes(rows));
    ties = reinterpret_cast<uint32_t*>(bytes + bin_bytes(rows) + threshold_bytes(rows));
  }
};

/// The chunk of a row that this block works on.
struct Chunk {
  int64_t number;  // of the row
  int64_t index;   // of the chunk in it
  int begin;
  int size;

  __device__ __forceinline__ Chunk(int64_t chunks, int64_t cols)
      : number(row_of(blockIdx.x, chunks)), index(blockIdx.x - number * chunks) {
    begin = static_cast<int>(index * kKwtaChunk);
    size = static_cast<int>(cols - begin < kKwtaChunk ? cols - begin : kKwtaChunk);
  }
};

/// What is known once the bins of the digits before `digit` are complete; they are, by earlier launches.
template <class T>
__device__ __forceinline__ Threshold<T> threshold_before(int digit, const KwtaArgs<T>& args,
                                                         const KwtaScratch<T>& scratch, int64_t number,
                                                         ChunkTeam::Memory* memory) {
  if (digit == 0) return Threshold<T>::unknown(args.k, args.cols);
  const int64_t last = number * kDigits<T> + digit - 1;
  const Threshold<T> threshold = scratch.thresholds[last];
  if (threshold.decided()) return threshold;
  return narrow(ChunkTeam(memory, scratch.bins + last * kDigitBins), threshold);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kKwtaBlocks)
    kwta_count_kernel(KwtaArgs<T> args, KwtaScratch<T> scratch, int digit, int shift) {
  FASTADV_SHARED(ChunkTeam::Memory, memory, 1);
  const Chunk chunk(scratch.chunks, args.cols);
  const auto threshold = threshold_before(digit, args, scratch, chunk.number, memory);
  const int64_t slot = chunk.number * kDigits<T> + digit;
  if (chunk.index == 0 && threadIdx.x == 0) scratch.thresholds[slot] = threshold;
  if (threshold.decided()) return;
  const ChunkTeam team(memory, memory->bins);
  clear(team);
  team.sync();
  const int64_t start = chunk.number * args.cols + chunk.begin;
  sweep<kPack<T>>(start, start + chunk.size, shift, team.thread, kThreads, [&](int64_t index, auto width) {
    constexpr int W = decltype(width)::value;
    const auto pack = load<W>(args.x + index);
#pragma unroll
    for (int e = 0; e < W; ++e) {
      const OrderKey<T> key = order_key(pack.at[e]);
      if (threshold.contains(key)) count_digit(team, threshold, key);
    }
  });
  team.sync();
  for (int bin = team.thread; bin < kDigitBins; bin += kThreads) {
    const uint32_t count = memory->bins[bin];
    if (count != 0) atomicAdd(scratch.bins + slot * kDigitBins + bin, count);
  }
}

template <class T>
__device__ __forceinline__ WarpRun<T> run_of(const KwtaArgs<T>& args, const Chunk& chunk, int thread) {
  return {args.x + chunk.number * args.cols + chunk.begin, chunk.begin, chunk.size, thread / kWarp,
          ChunkTeam::kWarps};
}

template <class T>
__global__ void __launch_bounds__(kThreads, kKwtaBlocks)
    kwta_ties_kernel(KwtaArgs<T> args, KwtaScratch<T> scratch) {
  FASTADV_SHARED(ChunkTeam::Memory, memory, 1);
  const Chunk chunk(scratch.chunks, args.cols);
  const auto threshold = threshold_before(kDigits<T>, args, scratch, chunk.number, memory);
  if (!splits_ties(args, threshold)) return;
  const ChunkTeam team(memory, memory->bins);
  const uint32_t ties = count_ties(run_of(args, chunk, team.thread), threshold);
  const uint32_t before = team.sum_before(ties);
  if (team.thread == kThreads - 1) scratch.ties[blockIdx.x] = before + ties;
}

/// The row's ties in the chunks before this one.
template <class T>
__device__ __forceinline__ uint32_t ties_in_earlier_chunks(const KwtaScratch<T>& scratch, const Chunk& chunk,
                                                           const ChunkTeam& team) {
  uint32_t sum = 0;
  for (int64_t c = team.thread; c < chunk.index; c += kThreads) {
    sum += scratch.ties[chunk.number * scratch.chunks + c];
  }
  const uint32_t before = team.sum_before(sum);
  if (team.thread == kThreads - 1) team.memory->total = before + sum;
  team.sync();
  return team.memory->total;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kKwtaBlocks)
    kwta_write_kernel(KwtaArgs<T> args, KwtaScratch<T> scratch) {
  FASTADV_SHARED(ChunkTeam::Memory, memory, 1);
  const Chunk chunk(scratch.chunks, args.cols);
  const auto threshold = threshold_before(kDigits<T>, args, scratch, chunk.number, memory);
  const ChunkTeam team(memory, memory->bins);
  const WarpRun<T> row = run_of(args, chunk, team.thread);
  uint32_t ties = 0;
  if (splits_ties(args, threshold)) {
    ties = ties_in_earlier_chunks(scratch, chunk, team);
    ties += ties_before(team, row, threshold);
  }
  write_winners(args, chunk.number, row, threshold, ties);
}

/// `memory` holds KwtaScratch<T>::doubles(rows, cols) doubles.
template <class T>
inline void launch_kwta_global(const KwtaArgs<T>& args, double* memory, cudaStream_t stream) {
  const KwtaScratch<T> scratch(memory, args.rows, args.cols);
  const dim3 grid(static_cast<unsigned>(args.rows * scratch.chunks));
  const int shift = common_shift(args.x);
  cudaMemsetAsync(scratch.bins, 0, static_cast<size_t>(scratch.bin_bytes(args.rows)), stream);
  for (int digit = 0; digit < kDigits<T>; ++digit) {
    FASTADV_LAUNCH((kwta_count_kernel<T>), grid, dim3(kThreads), 0, stream, args, scratch, digit, shift);
  }
  if (args.lowest_index) {
    FASTADV_LAUNCH((kwta_ties_kernel<T>), grid, dim3(kThreads), 0, stream, args, scratch);
  }
  FASTADV_LAUNCH((kwta_write_kernel<T>), grid, dim3(kThreads), 0, stream, args, scratch);
}

}  // namespace fastadv
