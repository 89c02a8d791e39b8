// Launchers of the small kernels that test the emulation itself.
#pragma once

#include <cstdint>
#include <vector>

// How the block sum is planted with a bug.
enum class Bug { none, missing_read_barrier, missing_write_barrier };

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
void ask_for_dynamic_shared_memory();
