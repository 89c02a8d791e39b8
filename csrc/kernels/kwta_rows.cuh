// The rows that kwta_select.cuh visits, in registers and in memory, and how their winners are written.
//
// Lane i of a warp holds element 32 w + i, so that a vote of the warp is word w of the winners' bits.
#pragma once

#include "args.cuh"
#include "kwta_select.cuh"

namespace fastadv {

/// A whole row of at most 32 * Slots elements in the registers of one warp.
template <class T, int Slots>
struct RegisterRow {
  T values[Slots];
  int cols;
  int lane;

  __device__ __forceinline__ RegisterRow(const T* from, int cols, int lane) : cols(cols), lane(lane) {
    const T* own = from + lane;
#pragma unroll
    for (int s = 0; s < Slots; ++s) values[s] = s * kWarp + lane < cols ? own[s * kWarp] : T{};
  }

  template <class Visit>
  __device__ __forceinline__ void visit(const Visit& visit) const {
#pragma unroll
    for (int s = 0; s < Slots; ++s) {
      const int index = s * kWarp + lane;
      if (s * kWarp < cols) visit(index, index < cols, values[s]);
    }
  }
};

/// A warp's share of a part of a row: consecutive words' worth of elements, in shared or global memory.
template <class T>
struct WarpRun {
  const T* elements;
  int begin;  // their place in the row, a multiple of 32
  int count;

  /// Of `size` elements at `part`, which are those of the row from `origin` on.
  __device__ __forceinline__ WarpRun(const T* part, int origin, int size, int warp, int warps) {
    const int words = (size + kWarp - 1) / kWarp;
    const int share = (words + warps - 1) / warps * kWarp;
    const int first = share * warp < size ? share * warp : size;
    elements = part + first;
    begin = origin + first;
    count = size - first < share ? size - first : share;
  }

  template <class Visit>
  __device__ __forceinline__ void visit(const Visit& visit) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int done = 0; done < count; done += kWarp) {
      const int i = done + lane;
      const bool inside = i < count;
      visit(begin + i, inside, inside ? elements[i] : T{});
    }
  }
};

/// How many of the elements that this thread visits equal the threshold.
template <class T, class Row>
__device__ __forceinline__ uint32_t count_ties(const Row& row, const Threshold<T>& threshold) {
  uint32_t ties = 0;
  row.visit([&](int, bool inside, T value) { ties += inside && order_key(value) == threshold.low; });
  return ties;
}

/// How many elements equal the threshold in what the team holds of the row before this warp's part.
template <class T, class Team, class Row>
__device__ __forceinline__ uint32_t ties_before(const Team& team, const Row& row,
                                                const Threshold<T>& threshold) {
  return __shfl_sync(kFullWarp, team.row_sum_before(count_ties(row, threshold)), 0);
}

/// Whether only some of the elements that equal the threshold are winners: the first ones.
template <class T>
__device__ __forceinline__ bool splits_ties(const KwtaArgs<T>& args, const Threshold<T>& threshold) {
  return args.lowest_index && threshold.needed < threshold.candidates;
}

/// Writes this warp's elements of row `number`, winners or zeros, and their bits.
template <class T, class Row>
__device__ __forceinline__ void write_winners(const KwtaArgs<T>& args, int64_t number, const Row& row,
                                              const Threshold<T>& threshold, uint32_t ties_so_far) {
  T* out = args.out + number * args.cols;
  uint32_t* words = args.winners == nullptr ? nullptr : args.winners + number * args.words();
  const bool splits = splits_ties(args, threshold);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  row.visit([&](int index, bool inside, T value) {
    const OrderKey<T> key = order_key(value);
    bool wins = inside && key >= threshold.low;
    if (splits) {
      const bool tie = inside && key == threshold.low;
      const unsigned ties = __ballot_sync(kFullWarp, tie);
      const uint32_t rank = ties_so_far + __popc(ties & ((1u << lane) - 1u));
      if (tie && rank >= threshold.needed) wins = false;
      ties_so_far += __popc(ties);
    }
    const unsigned votes = __ballot_sync(kFullWarp, wins);
    if (words != nullptr && lane == 0) words[index / kWarp] = votes;
    if (inside) out[index] = wins ? value : T{};
  });
}

}  // namespace fastadv
