// How CPU kernels share work: flat ranges for linf, samples or chunks of samples for l2.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "arguments.h"
#include "cpu/simd.h"

namespace fastadv {

constexpr int64_t kGrain = 32768;     // elements worth waking a thread for
constexpr int64_t kSumChunk = 16384;  // elements added up in one go; fixes the order of all sums
// Sums run in eight lanes at every SIMD level, so that all levels add in the same order. They are two
// vectors of four: what AVX2 has, and compilers make of vectors wider than the machine's slow code.
constexpr int kLanes = 8;

// Lanes never cross a call: everything that takes or returns them is always inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

typedef float Float4 __attribute__((vector_size(4 * sizeof(float))));
typedef double Double4 __attribute__((vector_size(4 * sizeof(double))));

template <class Vector>
struct Lanes {
  Vector low{}, high{};

  FASTADV_HD Lanes operator-(const Lanes& other) const { return {low - other.low, high - other.high}; }
  FASTADV_HD Lanes operator*(const Lanes& other) const { return {low * other.low, high * other.high}; }
  FASTADV_HD void operator+=(const Lanes& other) {
    low += other.low;
    high += other.high;
  }
};
template <class T>
using ComputeLanes = Lanes<std::conditional_t<sizeof(T) == sizeof(double), Double4, Float4>>;

/// Eight elements in the type they are computed in.
template <class T>
FASTADV_HD ComputeLanes<T> load_lanes(const T* from) {
  ComputeLanes<T> lanes;
  if constexpr (sizeof(T) >= sizeof(float)) {
    std::memcpy(&lanes.low, from, sizeof lanes.low);
    std::memcpy(&lanes.high, from + 4, sizeof lanes.high);
  } else {
    for (int l = 0; l < 4; ++l) {
      lanes.low[l] = widen(from[l]);
      lanes.high[l] = widen(from[l + 4]);
    }
  }
  return lanes;
}

FASTADV_HD Lanes<Double4> to_double(const Lanes<Float4>& lanes) {
  return {__builtin_convertvector(lanes.low, Double4), __builtin_convertvector(lanes.high, Double4)};
}
FASTADV_HD Lanes<Double4> to_double(const Lanes<Double4>& lanes) {
  return lanes;
}

FASTADV_HD double sum_of(const Lanes<Double4>& lanes) {
  const Double4 sums = lanes.low + lanes.high;
  return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

template <class T>
struct SquareSum {
  FASTADV_HD static void run(const T* values, int64_t count, double* sum) {
    Lanes<Double4> squares;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const auto value = to_double(load_lanes(values + i));
      squares += value * value;
    }
    for (; i < count; ++i) {
      const double value = widen(values[i]);
      squares.low[0] += value * value;
    }
    *sum = sum_of(squares);
  }
};

/// The sum of squares of row[first..last).
template <class T>
std::array<double, 1> square_sum(const T* row, int64_t first, int64_t last) {
  std::array<double, 1> sum{};
  run_simd<SquareSum<T>>(row + first, last - first, sum.data());
  return sum;
}

/// Calls body(row, begin, end) for pieces of the flat batch, in parallel; a piece lies in one sample.
template <class Body>
void for_each_piece(Batch batch, const Body& body) {
  torch::stable::parallel_for(0, batch.rows * batch.cols, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last;) {
      const int64_t row = at / batch.cols;
      const int64_t end = std::min(last, (row + 1) * batch.cols);
      body(row, at - row * batch.cols, end - row * batch.cols);
      at = end;
    }
  });
}

/// An l2 kernel. `sums(row, begin, end)` gives Sums over columns [begin, end) of a sample,
/// `plan(row, Sums)` what the second sweep needs, `write(row, begin, end, Plan)` does it.
///
/// The sums of a sample are those of its chunks, added in order: the same bits for any number of
/// threads, and for a sample in any batch. With enough samples each stays with one thread, so that
/// the second sweep finds it in cache; a few long samples are shared out by chunks.
template <int kSums, class Sums, class MakePlan, class Write>
void run_rows(Batch batch, const Sums& sums, const MakePlan& plan, const Write& write) {
  using Totals = std::array<double, kSums>;
  const int64_t chunks = (batch.cols + kSumChunk - 1) / kSumChunk;
  const auto chunk_end = [&](int64_t chunk) { return std::min((chunk + 1) * kSumChunk, batch.cols); };
  const auto add = [](Totals& totals, const Totals& more) {
    for (int k = 0; k < kSums; ++k) totals[k] += more[k];
  };
  if (batch.rows >= 2 * static_cast<int64_t>(torch::stable::get_num_threads()) || chunks == 1) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, batch.cols));
    torch::stable::parallel_for(0, batch.rows, grain, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        Totals totals{};
        for (int64_t c = 0; c < chunks; ++c) add(totals, sums(row, c * kSumChunk, chunk_end(c)));
        write(row, int64_t{0}, batch.cols, plan(row, totals));
      }
    });
    return;
  }
  std::vector<Totals> partial(static_cast<size_t>(batch.rows * chunks));
  torch::stable::parallel_for(0, batch.rows * chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / chunks, c = i % chunks;
      partial[static_cast<size_t>(i)] = sums(row, c * kSumChunk, chunk_end(c));
    }
  });
  torch::stable::parallel_for(0, batch.rows * chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / chunks, c = i % chunks;
      Totals totals{};
      for (int64_t k = 0; k < chunks; ++k) add(totals, partial[static_cast<size_t>(row * chunks + k)]);
      write(row, c * kSumChunk, chunk_end(c), plan(row, totals));
    }
  });
}

}  // namespace fastadv
