// What separates nvcc from a plain C++ compiler, in one place.
//
// Kernel headers are compiled three ways: by nvcc for a GPU; by the host compiler with
// FASTADV_EMULATE, where tests/emulation/gpu_shim.h runs every CUDA thread on the CPU; and by the
// host compiler for the CPU kernels, which take only the scalar math marked FASTADV_HD.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define FASTADV_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define FASTADV_SHARED(T, name, count) __shared__ T name[count]
#define FASTADV_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define FASTADV_HD __host__ __device__ __forceinline__
#elif defined(FASTADV_EMULATE)
#include "gpu_shim.h"
#define FASTADV_HD __host__ __device__ __forceinline__
#else
#define FASTADV_HD inline __attribute__((always_inline))
#endif
