// The part of CUDA that the kernels use, for a C++ compiler: so that the device code itself is tested where
// there is no GPU. scheduler.h says how its threads run.
//
// What this cannot show: weak memory ordering, time, bank conflicts, the last ulps of fast-math intrinsics,
// whether a cluster finds room on a device; and barriers of a whole grid (cooperative launches) do not work.
// What is not here does not compile.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using cudaStream_t = void*;

#define FASTADV_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  FASTADV_LAUNCH_CLUSTERS(kernel, 1, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)

#define FASTADV_CLUSTERS
#define FASTADV_LAUNCH_CLUSTERS(kernel, size, grid, block, shared_bytes, stream, ...)                     \
  (static_cast<void>(stream), fastadv::emulation::launch({#kernel, reinterpret_cast<const void*>(kernel), \
                                                          grid, block, shared_bytes, size},               \
                                                         [&] { (kernel)(__VA_ARGS__); }))

// The static is another one in each instantiation of a template, as the shared array is under nvcc.
#define FASTADV_SHARED(T, name, count)      \
  static const char name##_declaration = 0; \
  T(&name)[count] = fastadv::emulation::shared_array<T[count]>(&name##_declaration)

#define FASTADV_DYNAMIC_SHARED(name) unsigned char* name = fastadv::emulation::dynamic_shared_memory()

namespace fastadv::emulation {

inline std::uint64_t warp_operation(const WarpRequest& request, const Site& site) {
  running->request = request;
  suspend(State::at_warp_operation, site);
  return running->result;
}

template <class T>
T shuffle(std::uint32_t mask, T value, unsigned source_lane, const Site& site) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t operand = 0;
  std::memcpy(&operand, &value, sizeof(T));
  const std::uint64_t result = warp_operation({Operation::shuffle, mask, operand, source_lane}, site);
  std::memcpy(&value, &result, sizeof(T));
  return value;
}

// The block's copy of one shared array; `declaration` is the address of what the macro declares beside it.
template <class Array>
Array& shared_array(const void* declaration) {
  static_assert(alignof(Array) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  std::vector<SharedArray>& arrays = running->block->shared_arrays;
  for (const SharedArray& array : arrays)
    if (array.declaration == declaration) return *reinterpret_cast<Array*>(array.bytes.get());
  return *reinterpret_cast<Array*>(arrays.emplace_back(declaration, sizeof(Array)).bytes.get());
}

inline unsigned char* dynamic_shared_memory() {
  return reinterpret_cast<unsigned char*>(running->block->shared_arrays.front().bytes.get());
}

inline void __syncthreads(Site site = Site::current()) {
  wait_at_barrier(State::at_barrier, site);
}

inline void __syncwarp(unsigned mask = ~0u, Site site = Site::current()) {
  running->request = {Operation::sync, mask};
  wait_at_barrier(State::at_warp_operation, site);
}

inline unsigned __ballot_sync(unsigned mask, int vote, Site site = Site::current()) {
  const std::uint64_t operand = vote != 0;
  return static_cast<unsigned>(warp_operation({Operation::ballot, mask, operand}, site));
}

template <class T>
T __shfl_sync(unsigned mask, T value, unsigned lane, Site site = Site::current()) {
  return shuffle(mask, value, lane % kWarpSize, site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits, Site site = Site::current()) {
  return shuffle(mask, value, running->lane ^ bits, site);
}

template <class T>  // a lane that would read beyond the warp keeps its own value; so it does below
T __shfl_down_sync(unsigned mask, T value, unsigned by, Site site = Site::current()) {
  const unsigned lane = running->lane;
  return shuffle(mask, value, lane + by < kWarpSize ? lane + by : lane, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, Site site = Site::current()) {
  const unsigned lane = running->lane;
  return shuffle(mask, value, lane >= by ? lane - by : lane, site);
}

template <class T>
T atomicAdd(T* address, T value) {  // only one fiber runs at a time
  return std::exchange(*address, *address + value);
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

inline void cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
}

inline int __popc(unsigned bits) {
  return std::popcount(bits);
}

}  // namespace fastadv::emulation

// What cluster.cuh declares for nvcc.
namespace fastadv {

inline unsigned cluster_size() {
  return static_cast<unsigned>(emulation::cluster.size());
}

inline unsigned cluster_rank() {
  return static_cast<unsigned>(emulation::running->block - emulation::cluster.data());
}

inline void cluster_sync(emulation::Site site = emulation::Site::current()) {
  emulation::wait_at_barrier(emulation::State::at_cluster_barrier, site);
}

template <class T>
T* cluster_map(T* mine, unsigned rank, emulation::Site site = emulation::Site::current()) {
  const auto* address = reinterpret_cast<const std::byte*>(mine);
  const emulation::Block& other = emulation::cluster.at(rank);
  if (!other.started || other.has_left())
    emulation::fail_in_kernel(
        "reads the shared memory of a block that does not run, at " + emulation::to_string(site), site);
  for (const emulation::SharedArray& array : emulation::running->block->shared_arrays) {
    if (address < array.bytes.get() || address >= array.bytes.get() + array.size) continue;
    for (const emulation::SharedArray& theirs : other.shared_arrays)
      if (theirs.declaration == array.declaration)
        return reinterpret_cast<T*>(theirs.bytes.get() + (address - array.bytes.get()));
  }
  emulation::fail_in_kernel("maps what is no shared memory, at " + emulation::to_string(site), site);
}

template <class Kernel>
void allow_shared_bytes(Kernel* kernel, std::int64_t bytes) {
  emulation::allowed_shared_bytes[reinterpret_cast<const void*>(kernel)] = static_cast<std::size_t>(bytes);
}

}  // namespace fastadv

using fastadv::emulation::__ballot_sync;
using fastadv::emulation::__ldg;
using fastadv::emulation::__popc;
using fastadv::emulation::__shfl_down_sync;
using fastadv::emulation::__shfl_sync;
using fastadv::emulation::__shfl_up_sync;
using fastadv::emulation::__shfl_xor_sync;
using fastadv::emulation::__syncthreads;
using fastadv::emulation::__syncwarp;
using fastadv::emulation::atomicAdd;
using fastadv::emulation::cudaMemsetAsync;
