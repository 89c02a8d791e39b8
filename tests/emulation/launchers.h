// The kernels' host launchers without their types: one function per operator, which picks the instantiation.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

enum class Dtype { float32, float64, float16, bfloat16 };

// fastadv::PerSample for any type: one value per row `stride` apart, or the constant where `values` is null.
struct Values {
  const void* values;
  int64_t stride;
  double constant;
};

struct Shape {
  int64_t rows;
  int64_t cols;
};

struct Bounds {
  double lower;
  double upper;
};

// fastadv::DeviceLimits, which the emulation may set as it likes.
struct DeviceLimits {
  int64_t shared_bytes;
  int64_t multiprocessors;
  int64_t largest_cluster;
};

void pgd_step(Dtype dtype, double norm, void* out, const void* x_adv, const void* x, const void* grad,
              Values eps, Values step_size, const bool* active, void* best, const bool* better, Bounds bounds,
              bool steepest, int64_t spread, int64_t channels, Shape shape);
// x is null for no box.
void project(Dtype dtype, double norm, void* out, const void* delta, Values eps, const void* x, Bounds bounds,
             int64_t channels, Shape shape);
void steepest(Dtype dtype, double norm, void* out, const void* grad, Shape shape);
void random_in_ball(Dtype dtype, double norm, void* out, const void* x, Values eps, const int64_t* ids,
                    const int64_t* seed, Bounds bounds, Shape shape);
// In the tier of this name, or where it is empty in the one that the limits lead to.
void kwta(Dtype dtype, void* out, const void* x, uint32_t* winners, int64_t k, bool lowest_index, Shape shape,
          const std::string& tier, const DeviceLimits& limits);
std::pair<std::string, int> kwta_plan(Dtype dtype, Shape shape, const std::string& tier,
                                      const DeviceLimits& limits);
void kwta_backward(Dtype dtype, void* out, const void* grad, const uint32_t* winners, Shape shape);
// out is [draws * rows, cols]; kind is "normal", "uniform" or "sign".
void add_noise(Dtype dtype, const std::string& kind, void* out, const void* x, int64_t draws,
               int64_t first_draw, double scale, const int64_t* ids, const int64_t* seed, Bounds bounds,
               Shape shape);
// Logits [rows, cols] and [draws, rows, cols]; the sums so far, or null.
void gap_moments(Dtype dtype, double* sums, double* squares, const double* earlier_sums,
                 const double* earlier_squares, const void* clean, const void* noisy, int64_t draws,
                 Shape shape);
// gaps [kinds, rows, cols]; mean and std [kinds, cols, cols].
void odds_score(double* score, int64_t* towards, const double* gaps, const int64_t* predicted,
                const double* mean, const double* std, bool two_sided, int64_t kinds, Shape shape);
// w, m and v are of the compute type; tau is null for l2.
void cw_step(Dtype dtype, void* x_adv, void* w, void* m, void* v, const void* x, const void* grad,
             double* distance, Values c, Values weight, const Values* tau, const bool* active, void* best,
             const bool* better, double lr, int64_t step, Bounds bounds, double stretch, Shape shape);
