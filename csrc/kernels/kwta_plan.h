// Where a row of k-WTA is held while its winners are chosen: the one place that decides it.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

#include "kwta_resident.cuh"

namespace fastadv {

/// What a device offers to a block and to a row.
struct DeviceLimits {
  int64_t shared_bytes;  // that a block may ask for
  int64_t multiprocessors;
  int64_t largest_cluster;  // blocks; 1 where there are no clusters
};

enum class KwtaTier { warp, block, cluster, global };

constexpr const char* kKwtaTierNames[] = {"warp", "block", "cluster", "global"};

/// The tier of this name; none if there is none.
inline std::optional<KwtaTier> kwta_tier_named(const char* name) {
  for (int tier = 0; tier < 4; ++tier) {
    if (std::strcmp(name, kKwtaTierNames[tier]) == 0) return static_cast<KwtaTier>(tier);
  }
  return std::nullopt;
}

struct KwtaPlan {
  KwtaTier tier;
  int blocks;            // per row, in a cluster
  int64_t shared_limit;  // bytes that a block may ask for
};

constexpr int64_t kSmallestClusterShare = 4096;  // elements per block worth a cluster's barriers

/// Whether the tier can hold a row of so many elements.
template <class T>
inline bool kwta_tier_holds(KwtaTier tier, int64_t cols, const DeviceLimits& limits) {
  switch (tier) {
    case KwtaTier::warp:
      return cols <= kWarpCols<T>;
    case KwtaTier::block:
      return resident_bytes<T>(cols) <= limits.shared_bytes;
    case KwtaTier::cluster:
      return limits.largest_cluster > 1 &&
             resident_bytes<T>(cluster_share(cols, limits.largest_cluster)) <= limits.shared_bytes;
    case KwtaTier::global:
      return true;
  }
  return false;
}

/// The tier for rows of this length: the fewest threads that hold a row on chip. A row that one block could
/// hold goes to a cluster where there are too few rows to give every multiprocessor one.
template <class T>
inline KwtaTier choose_kwta_tier(int64_t rows, int64_t cols, const DeviceLimits& limits) {
  const auto holds = [&](KwtaTier tier) { return kwta_tier_holds<T>(tier, cols, limits); };
  if (holds(KwtaTier::warp)) return KwtaTier::warp;
  const bool idle = rows * 2 <= limits.multiprocessors && cols >= 2 * kSmallestClusterShare;
  if (holds(KwtaTier::block) && !(idle && holds(KwtaTier::cluster))) return KwtaTier::block;
  return holds(KwtaTier::cluster) ? KwtaTier::cluster : KwtaTier::global;
}

/// The tier with the number of blocks that share a row, which it must hold: the smallest cluster that does,
/// then more blocks while multiprocessors would be idle.
template <class T>
inline KwtaPlan plan_kwta(KwtaTier tier, int64_t rows, int64_t cols, const DeviceLimits& limits) {
  if (tier != KwtaTier::cluster) return {tier, 1, limits.shared_bytes};
  int64_t blocks = 2;
  while (resident_bytes<T>(cluster_share(cols, blocks)) > limits.shared_bytes) blocks *= 2;
  while (blocks * 2 <= limits.largest_cluster && rows * blocks * 2 <= limits.multiprocessors &&
         cols >= blocks * 2 * kSmallestClusterShare) {
    blocks *= 2;
  }
  return {tier, static_cast<int>(blocks), limits.shared_bytes};
}

}  // namespace fastadv
