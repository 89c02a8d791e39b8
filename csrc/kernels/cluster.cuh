// Clusters: blocks that run at the same time and read each other's shared memory, from sm_90 on.
//
// Kernels that use them have a body only where FASTADV_CLUSTERS is defined; whoever launches them finds out
// first whether the machine code that will run is of such an architecture. tests/emulation runs the blocks of
// a cluster together; whether a cluster finds room, and how long a barrier takes, only a GPU shows.
#pragma once

#include "platform.cuh"

#if defined(__CUDACC__)

#include <cooperative_groups.h>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FASTADV_CLUSTERS

namespace fastadv {

__device__ __forceinline__ unsigned cluster_rank() {
  return cooperative_groups::this_cluster().block_rank();
}
__device__ __forceinline__ unsigned cluster_size() {
  return cooperative_groups::this_cluster().num_blocks();
}
/// A barrier for all threads of the cluster, after which each sees what the others wrote before it.
__device__ __forceinline__ void cluster_sync() {
  cooperative_groups::this_cluster().sync();
}
/// Where block `rank` of the cluster has what this block has at `mine`, in shared memory.
template <class T>
__device__ __forceinline__ T* cluster_map(T* mine, unsigned rank) {
  return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
}

}  // namespace fastadv

#endif

namespace fastadv {

/// Lets a kernel take more than 48 KiB of dynamic shared memory.
template <class Kernel>
inline void allow_shared_bytes(Kernel* kernel, int64_t bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/// A launch in clusters of `size` blocks; `attribute` has to live as long as the result.
inline cudaLaunchConfig_t cluster_config(unsigned size, dim3 grid, dim3 block, size_t shared_bytes,
                                         cudaStream_t stream, cudaLaunchAttribute& attribute) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {size, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return config;
}

}  // namespace fastadv

#define FASTADV_LAUNCH_CLUSTERS(kernel, size, grid, block, shared_bytes, stream, ...)                \
  do {                                                                                               \
    cudaLaunchAttribute attribute{};                                                                 \
    const auto config = fastadv::cluster_config(size, grid, block, shared_bytes, stream, attribute); \
    cudaLaunchKernelEx(&config, kernel, __VA_ARGS__);                                                \
  } while (false)

#endif
