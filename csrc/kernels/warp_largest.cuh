// The largest of a row's values, found by a warp.
#pragma once

#include "row_reduce.cuh"

namespace fastadv {

constexpr int kLargestBlocks = 3;  // per multiprocessor at least: 80 registers a thread

struct Largest {
  double value;
  int64_t index;

  /// Whether `this` comes after the other: it is smaller, or equal and farther back; a NaN is largest.
  FASTADV_HD bool yields_to(const Largest& other) const {
    const bool same = value == other.value || (value != value && other.value != other.value);
    if (same) return other.index < index;
    return value == value && (other.value > value || other.value != other.value);
  }
};

/// The first of the largest of value(0) .. value(count - 1), in all lanes.
template <class Value>
__device__ __forceinline__ Largest warp_largest(int64_t count, int lane, const Value& value) {
  Largest best{-HUGE_VAL, count};
  for (int64_t k = lane; k < count; k += kWarp) {
    const Largest next{value(k), k};
    if (best.yields_to(next)) best = next;
  }
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Largest other{__shfl_xor_sync(kFullWarp, best.value, distance),
                        __shfl_xor_sync(kFullWarp, best.index, distance)};
    if (best.yields_to(other)) best = other;
  }
  return best;
}

}  // namespace fastadv
