#include "shim_kernels.h"

#include "gpu_shim.h"

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// One block per row, in two passes so that the second can overwrite the partial sums of the first: shared
// memory has to be written before it is read (read barrier) and read before it is written again (write
// barrier).
template <Bug bug>
__global__ void sum_rows_kernel(const float* x, float* sums, int columns) {
  FASTADV_SHARED(float, warp_sums, kWarps);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float total = 0;
  for (int begin = 0; begin < columns; begin += kThreads) {
    const int column = begin + int(threadIdx.x);
    float value = column < columns ? x[int64_t{blockIdx.x} * columns + column] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
    if (lane == 0) warp_sums[warp] = value;
    if constexpr (bug != Bug::missing_read_barrier) __syncthreads();
    for (const float warp_sum : warp_sums) total += warp_sum;
    if constexpr (bug != Bug::missing_write_barrier) __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ void thread_numbers_kernel(int32_t* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = int32_t(block * 10000 + thread);
}

__global__ void first_shared_value_kernel(float* out) {
  FASTADV_SHARED(float, value, 1);
  out[blockIdx.x] = value[0];
  value[0] = 1.0f;
}

// Per thread: the neighbour's value by each shuffle, the votes of the warp, and the count of all threads so
// far.
__global__ void warp_primitives_kernel(const int32_t* x, int32_t* out, int32_t* count) {
  const int thread = int(threadIdx.x);
  const int32_t value = __ldg(x + thread);
  int32_t* mine = out + thread * 6;
  mine[0] = __shfl_xor_sync(~0u, value, 1);
  mine[1] = __shfl_up_sync(~0u, value, 2);
  mine[2] = __shfl_down_sync(~0u, value, 2);
  mine[3] = __shfl_sync(~0u, value, 5);
  mine[4] = int32_t(__ballot_sync(~0u, value % 3 == 0));
  __syncwarp();
  atomicAdd(count, 1);
  __syncthreads();
  mine[5] = *count;
}

// Every block writes its number to its shared memory and reads that of the next one in its cluster.
template <ClusterBug bug>
__global__ void neighbours_kernel(int32_t* out) {
  FASTADV_DYNAMIC_SHARED(shared);
  auto* mine = reinterpret_cast<int32_t*>(shared) + threadIdx.x;
  *mine = int32_t(blockIdx.x * 1000 + threadIdx.x);
  if constexpr (bug != ClusterBug::missing_start_barrier) fastadv::cluster_sync();
  const unsigned next = (fastadv::cluster_rank() + 1) % fastadv::cluster_size();
  // Of another thread, which has another warp's position in this block.
  const unsigned thread = blockDim.x - 1 - threadIdx.x;
  auto* theirs = fastadv::cluster_map(reinterpret_cast<int32_t*>(shared) + thread, next);
  out[blockIdx.x * blockDim.x + threadIdx.x] = *theirs;
  if constexpr (bug != ClusterBug::missing_end_barrier) fastadv::cluster_sync();
}

__global__ void diverge_at_cluster_barrier_kernel() {
  if (fastadv::cluster_rank() == 0)
    fastadv::cluster_sync();
  else
    fastadv::cluster_sync();
}

__global__ void dynamic_shared_at_kernel(const int32_t* index, float* out) {
  FASTADV_DYNAMIC_SHARED(shared);
  *out = reinterpret_cast<float*>(shared)[*index];
}

__global__ void gather_kernel(const float* x, const int32_t* index, float* out) {
  out[threadIdx.x] = x[index[threadIdx.x]];
}

__global__ void shared_at_kernel(const int32_t* index, float* out) {
  FASTADV_SHARED(float, values, 8);
  for (int i = 0; i < 8; ++i) values[i] = float(i);
  *out = values[*index];
}

struct alignas(16) Vector {
  float values[4];
};

__global__ void load_vector_kernel(const float* x, float* out) {
  const Vector vector = *reinterpret_cast<const Vector*>(x);
  for (int i = 0; i < 4; ++i) out[i] = vector.values[i];
}

__global__ void diverge_at_barrier_kernel() {
  if (threadIdx.x < 100)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void ballot_with_waiting_lanes_kernel() {
  if (threadIdx.x % 2 == 0) __ballot_sync(~0u, 1);
  __syncthreads();
}

__global__ void shuffle_from_left_lane_kernel() {
  if (threadIdx.x == 7) return;
  __shfl_sync(~0u, 1, 7);
}

dim3 dimensions(const std::vector<unsigned>& xyz) {
  return {xyz.at(0), xyz.at(1), xyz.at(2)};
}

}  // namespace

void sum_rows(const float* x, float* sums, int rows, int columns, Bug bug) {
  if (bug == Bug::missing_read_barrier)
    FASTADV_LAUNCH((sum_rows_kernel<Bug::missing_read_barrier>), rows, kThreads, 0, nullptr, x, sums,
                   columns);
  else if (bug == Bug::missing_write_barrier)
    FASTADV_LAUNCH((sum_rows_kernel<Bug::missing_write_barrier>), rows, kThreads, 0, nullptr, x, sums,
                   columns);
  else
    FASTADV_LAUNCH((sum_rows_kernel<Bug::none>), rows, kThreads, 0, nullptr, x, sums, columns);
}

void thread_numbers(int32_t* out, const std::vector<unsigned>& grid, const std::vector<unsigned>& block) {
  FASTADV_LAUNCH(thread_numbers_kernel, dimensions(grid), dimensions(block), 0, nullptr, out);
}

void first_shared_value(float* out, int blocks) {
  FASTADV_LAUNCH(first_shared_value_kernel, blocks, 1, 0, nullptr, out);
}

void warp_primitives(const int32_t* x, int32_t* out, int threads) {
  int32_t count = 0;
  FASTADV_LAUNCH(warp_primitives_kernel, 1, threads, 0, nullptr, x, out, &count);
}

void gather(const float* x, const int32_t* index, float* out, int count) {
  FASTADV_LAUNCH(gather_kernel, 1, count, 0, nullptr, x, index, out);
}

void shared_at(const int32_t* index, float* out) {
  FASTADV_LAUNCH(shared_at_kernel, 1, 1, 0, nullptr, index, out);
}

void load_vector(const float* x, float* out) {
  FASTADV_LAUNCH(load_vector_kernel, 1, 1, 0, nullptr, x, out);
}

void diverge_at_barrier(int threads) {
  FASTADV_LAUNCH(diverge_at_barrier_kernel, 1, threads, 0, nullptr);
}

void ballot_with_waiting_lanes() {
  FASTADV_LAUNCH(ballot_with_waiting_lanes_kernel, 1, 32, 0, nullptr);
}

void shuffle_from_left_lane() {
  FASTADV_LAUNCH(shuffle_from_left_lane_kernel, 1, 32, 0, nullptr);
}

void neighbours(int32_t* out, int blocks, int threads, int cluster_size, ClusterBug bug) {
  const auto launch = [&](auto kernel) {
    FASTADV_LAUNCH_CLUSTERS(kernel, unsigned(cluster_size), blocks, threads, threads * sizeof(int32_t),
                            nullptr, out);
  };
  if (bug == ClusterBug::missing_start_barrier)
    launch(neighbours_kernel<ClusterBug::missing_start_barrier>);
  else if (bug == ClusterBug::missing_end_barrier)
    launch(neighbours_kernel<ClusterBug::missing_end_barrier>);
  else
    launch(neighbours_kernel<ClusterBug::none>);
}

void diverge_at_cluster_barrier() {
  FASTADV_LAUNCH_CLUSTERS(diverge_at_cluster_barrier_kernel, 2, 4, 32, 0, nullptr);
}

void dynamic_shared_at(const int32_t* index, float* out, std::size_t shared_bytes,
                       std::size_t allowed_bytes) {
  if (allowed_bytes != 0) fastadv::allow_shared_bytes(&dynamic_shared_at_kernel, int64_t(allowed_bytes));
  FASTADV_LAUNCH(dynamic_shared_at_kernel, 1, 1, shared_bytes, nullptr, index, out);
}
