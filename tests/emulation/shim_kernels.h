// Launchers of the small kernels that test the emulation itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// How the block sum is planted with a bug.
enum class Bug { none, missing_read_barrier, missing_write_barrier };
// And how a cluster's reading of each other's memory is.
enum class ClusterBug { none, missing_start_barrier, missing_end_barrier };

void sum_rows(const float* x, float* sums, int rows, int columns, Bug bug);
void thread_numbers(int32_t* out, const std::vector<unsigned>& grid, const std::vector<unsigned>& block);
void first_shared_value(float* out, int blocks);
void warp_primitives(const int32_t* x, int32_t* out, int threads);
void gather(const float* x, const int32_t* index, float* out, int count);
void shared_at(const int32_t* index, float* out);
void load_vector(const float* x, float* out);
void diverge_at_barrier(int threads);
void ballot_with_waiting_lanes();
void shuffle_from_left_lane();
void neighbours(int32_t* out, int blocks, int threads, int cluster_size, ClusterBug bug);
void diverge_at_cluster_barrier();
void dynamic_shared_at(const int32_t* index, float* out, std::size_t shared_bytes, std::size_t allowed_bytes);
