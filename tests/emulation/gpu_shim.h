// The part of CUDA that the kernels use, for a C++ compiler: so that the device code itself is tested where
// there is no GPU. scheduler.h says how its threads run.
//
// What this cannot show: weak memory ordering, time, bank conflicts, the last ulps of fast-math intrinsics;
// and barriers across blocks (cooperative launches, clusters) do not work. What is not here does not compile.
#pragma once

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
  (static_cast<void>(stream),                                          \
   fastadv::emulation::launch(#kernel, grid, block, shared_bytes, [&] { (kernel)(__VA_ARGS__); }))

// The static is another one in each instantiation of a template, as the shared array is under nvcc.
#define FASTADV_SHARED(T, name, count)      \
  static const char name##_declaration = 0; \
  T(&name)[count] = fastadv::emulation::shared_array<T[count]>(&name##_declaration)

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
  for (const SharedArray& array : shared_arrays)
    if (array.declaration == declaration) return *reinterpret_cast<Array*>(array.bytes.get());
  auto bytes = std::make_unique_for_overwrite<std::byte[]>(sizeof(Array));
  std::memset(bytes.get(), 0xff, sizeof(Array));
  return *reinterpret_cast<Array*>(shared_arrays.emplace_back(declaration, std::move(bytes)).bytes.get());
}

inline void __syncthreads(Site site = Site::current()) {
  suspend(State::at_barrier, site);
}

inline void __syncwarp(unsigned mask = ~0u, Site site = Site::current()) {
  warp_operation({Operation::sync, mask}, site);
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

}  // namespace fastadv::emulation

using fastadv::emulation::__ballot_sync;
using fastadv::emulation::__ldg;
using fastadv::emulation::__shfl_down_sync;
using fastadv::emulation::__shfl_sync;
using fastadv::emulation::__shfl_up_sync;
using fastadv::emulation::__shfl_xor_sync;
using fastadv::emulation::__syncthreads;
using fastadv::emulation::__syncwarp;
using fastadv::emulation::atomicAdd;
