// The k-th largest key of a row by radix select, for a warp, a block or a cluster of blocks.
//
// Keys are told apart a digit at a time, the highest first. Each round counts the digits of the candidates,
// the keys that share all higher digits with the k-th largest, in bins of shared memory; the bin that holds
// the k-th largest says its digit, and the keys in that bin are the next candidates.
//
// Deterministic: only counts leave a round, and whole numbers add up to the same in any order.
//
// A Team is the threads that work on one row:
//   kThreads, kBits         how many they are in a block; the bits of a digit
//   kGathers                whether they gather candidates in a list once there are few
//   memory                  what they share, and thread, their number in it
//   bins                    where count(bin) is read from
//   sync(), sync_all()      barriers for the threads of a block, and for all threads of the row
//   sum_before(value)       the sum of the values of the threads before this one in its block
//   row_sum_before(value)   the same, and of all threads of the blocks that hold earlier parts of the row
//
// A Row is the part of a row that a thread's warp visits, in order; visit(f) calls f(index, inside, value) in
// all lanes of the warp at once, and lanes beyond the end have `inside` false.
#pragma once

#include "elementwise.cuh"
#include "order.cuh"

namespace fastadv {

/// The digit of the k-th largest key that a round has found.
struct FoundDigit {
  uint32_t digit;
  uint32_t needed;
  uint32_t candidates;
  uint32_t here;
};

/// What is known of the k-th largest key of a row.
template <class T>
struct Threshold {
  using Key = OrderKey<T>;
  Key low;  // it lies in [low, high]
  Key high;
  int shift;            // the lowest bits, in which low and high differ
  uint32_t candidates;  // how many keys of the row lie in [low, high]
  uint32_t needed;      // how many of them are winners: it is the needed-th largest of them
  uint32_t here;        // how many of them this block holds

  static __device__ __forceinline__ Threshold unknown(int64_t k, int64_t cols) {
    constexpr Key kHalf = Key{1} << (kKeyBits<T> - 1);
    const auto all = static_cast<uint32_t>(cols);
    return {0, kHalf | (kHalf - 1), kKeyBits<T>, all, static_cast<uint32_t>(k), all};
  }

  /// Whether the winners are known: they are the keys from `low` on, of which more may equal `low` than
  /// `needed`.
  __device__ __forceinline__ bool decided() const { return shift == 0 || needed == candidates; }
  __device__ __forceinline__ bool contains(Key key) const { return low <= key && key <= high; }

  /// The highest unknown digit of a candidate.
  template <int Bits>
  __device__ __forceinline__ uint32_t digit(Key key) const {
    return static_cast<uint32_t>((key - low) >> (shift > Bits ? shift - Bits : 0));
  }

  template <int Bits>
  __device__ __forceinline__ Threshold with(const FoundDigit& found) const {
    const int left = shift > Bits ? shift - Bits : 0;
    const Key first = low + (Key{found.digit} << left);
    return {first, first + ((Key{1} << left) - 1), left, found.candidates, found.needed, found.here};
  }
};

template <int Bits, int Warps>
struct alignas(16) TeamMemory {
  uint32_t bins[1 << Bits];
  uint32_t warp_sums[Warps];
  FoundDigit found;
  uint32_t listed;  // candidates gathered so far
  uint32_t total;   // what row_sum_before adds up across blocks
};

/// The sum of the values of the lanes before this one.
__device__ __forceinline__ uint32_t warp_sum_before(uint32_t value, int lane) {
  uint32_t sum = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint32_t before = __shfl_up_sync(kFullWarp, sum, distance);
    if (lane >= distance) sum += before;
  }
  return sum - value;
}

struct WarpTeam {
  static constexpr int kThreads = kWarp;
  static constexpr int kBits = 8;  // clearing and adding up more bins would cost more than a row of 1024
  static constexpr bool kGathers = false;
  using Memory = TeamMemory<kBits, 1>;
  Memory* memory;
  const uint32_t* bins;
  int thread;

  __device__ __forceinline__ WarpTeam(Memory* memory, int thread)
      : memory(memory), bins(memory->bins), thread(thread) {}

  __device__ __forceinline__ void sync() const { __syncwarp(); }
  __device__ __forceinline__ void sync_all() const { __syncwarp(); }
  __device__ __forceinline__ uint32_t count(int bin) const { return bins[bin]; }
  __device__ __forceinline__ uint32_t sum_before(uint32_t value) const {
    return warp_sum_before(value, thread);
  }
  __device__ __forceinline__ uint32_t row_sum_before(uint32_t value) const { return sum_before(value); }
};

template <int Threads>
struct BlockTeam {
  static constexpr int kThreads = Threads;
  static constexpr int kWarps = Threads / kWarp;
  static constexpr int kBits = 11;  // three digits for float, two for half
  static constexpr bool kGathers = true;
  using Memory = TeamMemory<kBits, kWarps>;
  Memory* memory;
  const uint32_t* bins;
  int thread;

  /// `bins` are the memory's, or those that other kernels have filled.
  __device__ __forceinline__ BlockTeam(Memory* memory, const uint32_t* bins)
      : memory(memory), bins(bins), thread(static_cast<int>(threadIdx.x)) {}

  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void sync_all() const { __syncthreads(); }
  __device__ __forceinline__ uint32_t count(int bin) const { return bins[bin]; }

  /// A barrier must lie between two calls, because a slow warp may still read the sums of the first.
  __device__ __forceinline__ uint32_t sum_before(uint32_t value) const {
    const int lane = thread % kWarp;
    const int warp = thread / kWarp;
    const uint32_t sum = warp_sum_before(value, lane);
    if (lane == kWarp - 1) memory->warp_sums[warp] = sum + value;
    __syncthreads();
    const uint32_t of_warp = lane < kWarps ? memory->warp_sums[lane] : 0;
    return sum + __shfl_sync(kFullWarp, warp_sum_before(of_warp, lane), warp);
  }
  __device__ __forceinline__ uint32_t row_sum_before(uint32_t value) const { return sum_before(value); }
};

/// Empties the bins and the list; a barrier must lie before (others may read them) and after (others fill
/// them).
template <class Team>
__device__ __forceinline__ void clear(const Team& team) {
  for (int bin = team.thread; bin < (1 << Team::kBits); bin += Team::kThreads) team.memory->bins[bin] = 0;
  if (team.thread == 0) team.memory->listed = 0;
}

template <class Team, class T>
__device__ __forceinline__ void count_digit(const Team& team, const Threshold<T>& threshold,
                                            OrderKey<T> key) {
  atomicAdd(team.memory->bins + threshold.template digit<Team::kBits>(key), 1u);
}

/// Finds the next digit from the team's bins, which a barrier has made complete. Ends with a barrier, after
/// which nobody reads the bins any more.
template <class T, class Team>
__device__ __forceinline__ Threshold<T> narrow(const Team& team, const Threshold<T>& threshold) {
  constexpr int kBins = 1 << Team::kBits;
  constexpr int kOwn = kBins / Team::kThreads;
  const int top = kBins - 1 - team.thread * kOwn;  // a thread's bins, from the highest digit down
  uint32_t counts[kOwn];
  uint32_t own = 0;
#pragma unroll
  for (int o = 0; o < kOwn; ++o) {
    counts[o] = team.count(top - o);
    own += counts[o];
  }
  uint32_t above = team.sum_before(own);
#pragma unroll
  for (int o = 0; o < kOwn; ++o) {
    if (above < threshold.needed && threshold.needed <= above + counts[o]) {  // in one bin of one thread
      team.memory->found = {static_cast<uint32_t>(top - o), threshold.needed - above, counts[o],
                            team.bins[top - o]};
    }
    above += counts[o];
  }
  team.sync_all();
  return threshold.template with<Team::kBits>(team.memory->found);
}

/// Room for the candidates of a block.
template <class T>
struct CandidateList {
  OrderKey<T>* keys;
  uint32_t capacity;
};

/// Adds the key to the list where `joins`; to be called by all lanes of a warp at once.
template <class T, class Team>
__device__ __forceinline__ void append(const Team& team, const CandidateList<T>& list, OrderKey<T> key,
                                       bool joins) {
  const unsigned votes = __ballot_sync(kFullWarp, joins);
  if (votes == 0) return;
  const int lane = team.thread % kWarp;
  uint32_t begin = 0;
  if (lane == 0) begin = atomicAdd(&team.memory->listed, static_cast<uint32_t>(__popc(votes)));
  begin = __shfl_sync(kFullWarp, begin, 0);
  if (joins) list.keys[begin + __popc(votes & ((1u << lane) - 1u))] = key;
}

/// The decided threshold of a row. The bins hold its keys' first digits, and a barrier of all threads has
/// made them and the row complete. Candidates that fit are gathered, so that later rounds need not visit the
/// row; those that do not (many equal keys, say) are counted where they are.
template <class T, class Team, class Row>
__device__ __forceinline__ Threshold<T> select(const Team& team, const Row& row, const CandidateList<T>& list,
                                               Threshold<T> threshold) {
  uint32_t gathered = 0;
  threshold = narrow(team, threshold);
  while (!threshold.decided()) {
    const bool gathers =
        Team::kGathers && gathered == 0 && threshold.here <= list.capacity && threshold.shift > Team::kBits;
    clear(team);
    team.sync();
    if (gathered != 0) {
      for (uint32_t i = team.thread; i < gathered; i += Team::kThreads) {
        const OrderKey<T> key = list.keys[i];
        if (threshold.contains(key)) count_digit(team, threshold, key);
      }
    } else {
      row.visit([&](int, bool inside, T value) {
        const OrderKey<T> key = order_key(value);
        const bool candidate = inside && threshold.contains(key);
        if (candidate) count_digit(team, threshold, key);
        if (Team::kGathers && gathers) append(team, list, key, candidate);
      });
    }
    if (gathers) gathered = threshold.here;
    team.sync_all();
    threshold = narrow(team, threshold);
  }
  return threshold;
}

}  // namespace fastadv
