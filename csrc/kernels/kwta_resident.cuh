// k-WTA with the row on chip: in the registers of a warp, in the shared memory of a block or of a cluster.
// kwta.cuh says what each costs.
#pragma once

#include "access.cuh"
#include "cluster.cuh"
#include "kwta_rows.cuh"

namespace fastadv {

// A warp per row

/// The longest row that a warp holds: 32 registers a thread for the elements, and as many for their keys.
template <class T>
constexpr int64_t kWarpCols = sizeof(T) == 8 ? 512 : 1024;

constexpr int kShortSlots = 8;  // for rows up to 256, which then take fewer registers
constexpr int kRowsPerBlock = 4;
constexpr int kWarpBlocks = 3;  // per multiprocessor at least: 168 registers a thread

template <class T, int Slots>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp, kWarpBlocks) kwta_warp_kernel(KwtaArgs<T> args) {
  FASTADV_SHARED(WarpTeam::Memory, memories, kRowsPerBlock);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t number = int64_t{blockIdx.x} * kRowsPerBlock + warp;
  if (number >= args.rows) return;  // a whole warp
  const WarpTeam team(memories + warp, lane);
  const RegisterRow<T, Slots> row(args.x + number * args.cols, static_cast<int>(args.cols), lane);
  auto threshold = Threshold<T>::unknown(args.k, args.cols);
  clear(team);
  team.sync();
  row.visit([&](int, bool inside, T value) {
    if (inside) count_digit(team, threshold, order_key(value));
  });
  team.sync_all();
  threshold = select(team, row, CandidateList<T>{nullptr, 0}, threshold);
  write_winners(args, number, row, threshold, 0);
}

// A block or a cluster per row

/// Candidates that a block of `share` elements has room for. One bin holds 2 to 4 in 100 of normally
/// distributed numbers. 16-bit keys have no third digit that would gain by a list.
template <class T>
FASTADV_HD int64_t list_capacity(int64_t share) {
  return kKeyBits<T> > 2 * BlockTeam<kWarp>::kBits ? share / 16 : 0;
}

/// Bytes that the elements of a share take, which start where x starts between two 16-byte boundaries.
template <class T>
FASTADV_HD int64_t values_bytes(int64_t share) {
  return ((share + kPack<T>)*int64_t{sizeof(T)} + 15) / 16 * 16;
}

constexpr int kSmallBlock = 256;
constexpr int kLargeBlock = 1024;
constexpr int64_t kSmallBlockCols = 16384;  // so that several blocks fit a multiprocessor

/// Shared memory of a block that holds `share` elements: the team's, the elements, the list.
template <class T>
inline int64_t resident_bytes(int64_t share) {
  return int64_t{sizeof(BlockTeam<kLargeBlock>::Memory)} + values_bytes<T>(share) +
         list_capacity<T>(share) * int64_t{sizeof(OrderKey<T>)};
}

/// Elements per block of a row in a cluster: whole words of winners.
FASTADV_HD int64_t cluster_share(int64_t cols, int64_t blocks) {
  return (cols + blocks * kWarp - 1) / (blocks * kWarp) * kWarp;
}

/// Chooses and writes the winners among the `size` elements from `begin` on of row `number`, while the other
/// blocks of the team do so for the rest of the row. `shared` has room for `share` elements and their list.
template <class T, class Team>
__device__ __forceinline__ void resident_winners(const KwtaArgs<T>& args, const Team& team,
                                                 unsigned char* shared, int64_t number, int begin, int size,
                                                 int share, int shift) {
  const int64_t start = number * args.cols + begin;
  // The copy lies between 16-byte boundaries as x does, so that whole packs go from one to the other.
  T* part = reinterpret_cast<T*>(shared) + (start + shift) % kPack<T>;
  const CandidateList<T> list{reinterpret_cast<OrderKey<T>*>(shared + values_bytes<T>(share)),
                              static_cast<uint32_t>(list_capacity<T>(share))};
  auto threshold = Threshold<T>::unknown(args.k, args.cols);
  clear(team);
  team.sync();
  sweep<kPack<T>>(start, start + size, shift, team.thread, Team::kThreads, [&](int64_t index, auto width) {
    constexpr int W = decltype(width)::value;
    const auto pack = load<W>(args.x + index);
#pragma unroll
    for (int e = 0; e < W; ++e) count_digit(team, threshold, order_key(pack.at[e]));
    store<W>(part + (index - start), pack);
  });
  team.sync_all();
  const WarpRun<T> row(part, begin, size, team.thread / kWarp, Team::kWarps);
  threshold = select(team, row, list, threshold);
  const uint32_t ties = splits_ties(args, threshold) ? ties_before(team, row, threshold) : 0;
  write_winners(args, number, row, threshold, ties);
}

template <class T, int Threads>
__global__ void __launch_bounds__(Threads) kwta_block_kernel(KwtaArgs<T> args, int shift) {
  using Team = BlockTeam<Threads>;
  FASTADV_DYNAMIC_SHARED(shared);
  auto* memory = reinterpret_cast<typename Team::Memory*>(shared);
  const int cols = static_cast<int>(args.cols);
  resident_winners(args, Team(memory, memory->bins), shared + sizeof(typename Team::Memory), blockIdx.x, 0,
                   cols, cols, shift);
}

#if defined(FASTADV_CLUSTERS)
/// The blocks of a cluster, each with its part of the row. A block reads the others' memory in count and in
/// row_sum_before only; both are followed by a barrier of the cluster, so that none of them leaves or clears
/// its bins before.
struct ClusterTeam : BlockTeam<kLargeBlock> {
  using BlockTeam::BlockTeam;

  __device__ __forceinline__ void sync_all() const { cluster_sync(); }

  __device__ __forceinline__ uint32_t count(int bin) const {
    const unsigned size = cluster_size();
    const unsigned first = cluster_rank();  // so that not all blocks read the same one at once
    uint32_t sum = 0;
#pragma unroll 1
    for (unsigned r = 0; r < size; ++r) sum += *cluster_map(memory->bins + bin, (first + r) % size);
    return sum;
  }

  __device__ __forceinline__ uint32_t row_sum_before(uint32_t value) const {
    uint32_t sum = sum_before(value);
    if (thread == kThreads - 1) memory->total = sum + value;
    cluster_sync();
    for (unsigned r = 0; r < cluster_rank(); ++r) sum += *cluster_map(&memory->total, r);
    cluster_sync();
    return sum;
  }
};
#endif

template <class T>
__global__ void __launch_bounds__(kLargeBlock) kwta_cluster_kernel(KwtaArgs<T> args, int shift) {
#if defined(FASTADV_CLUSTERS)
  FASTADV_DYNAMIC_SHARED(shared);
  auto* memory = reinterpret_cast<ClusterTeam::Memory*>(shared);
  const unsigned blocks = cluster_size();
  const int64_t share = cluster_share(args.cols, blocks);
  const int64_t part = cluster_rank() * share;  // the last blocks may have less, or nothing
  const int64_t begin = part < args.cols ? part : args.cols;
  const int64_t size = args.cols - begin < share ? args.cols - begin : share;
  resident_winners(args, ClusterTeam(memory, memory->bins), shared + sizeof(ClusterTeam::Memory),
                   blockIdx.x / blocks, static_cast<int>(begin), static_cast<int>(size),
                   static_cast<int>(share), shift);
#else
  __trap();
#endif
}

}  // namespace fastadv
