// The CPU's side of kernels/sweeps.cuh, where an Op is described: sweeps over one sample, in SIMD lanes.
//
// The sums of a sample are those of its chunks, added in order: the same bits for any number of threads, at
// every SIMD level, and for a sample in any batch.
#pragma once

#include "cpu/rows.h"

namespace fastadv {

constexpr int kVisited = 64;  // elements at a time, on their way to the sums

template <class Op>
struct SweepSpan {
  FASTADV_HD static void run(const Op* op, const typename Op::State* state, int64_t row, int64_t first,
                             int64_t last, double* found) {
    const bool maxima = op->takes_maxima(*state);
    Lanes<Double4> totals[Op::kValues];
    double values[Op::kValues][kVisited];
    for (int64_t col = first; col < last; col += kVisited) {
      op->template visit<kVisited>(*state, row, col, std::min<int64_t>(kVisited, last - col), values);
      for (int k = 0; k < Op::kValues; ++k) {
        for (int j = 0; j < kVisited; j += kLanes) {
          const auto lanes = load_lanes(values[k] + j);
          if (maxima) {
            totals[k].low = totals[k].low > lanes.low ? totals[k].low : lanes.low;
            totals[k].high = totals[k].high > lanes.high ? totals[k].high : lanes.high;
          } else {
            totals[k] += lanes;
          }
        }
      }
    }
    for (int k = 0; k < Op::kValues; ++k) {
      if (maxima) {
        double most = 0.0;
        for (int l = 0; l < 4; ++l) most = std::max({most, totals[k].low[l], totals[k].high[l]});
        found[k] = most;
      } else {
        found[k] = sum_of(totals[k]);
      }
    }
  }
};

template <class Op>
struct WriteSpan {
  FASTADV_HD static void run(const Op* op, const typename Op::State* state, int64_t row, int64_t first,
                             int64_t last) {
    for (int64_t col = first; col < last; col += kVisited) {
      op->template write<kVisited>(*state, row, col, std::min<int64_t>(kVisited, last - col));
    }
  }
};

/// All sweeps over one sample. Its chunks are shared out to threads, unless samples are already.
template <class Op>
void sweep_row(const Op& op, int64_t row, int64_t cols) {
  using Values = std::array<double, Op::kValues>;
  const int64_t chunks = (cols + kSumChunk - 1) / kSumChunk;
  const auto each_chunk = [&](const auto& body) {
    torch::stable::parallel_for(0, chunks, 2, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) body(c, c * kSumChunk, std::min((c + 1) * kSumChunk, cols));
    });
  };
  std::vector<Values> partial(static_cast<size_t>(chunks));
  typename Op::State state = op.begin(row);
  while (!op.done(state)) {
    each_chunk([&](int64_t chunk, int64_t first, int64_t last) {
      run_simd<SweepSpan<Op>>(&op, &state, row, first, last, partial[static_cast<size_t>(chunk)].data());
    });
    double found[Op::kValues] = {};
    for (const Values& values : partial) {
      for (int k = 0; k < Op::kValues; ++k) {
        found[k] = op.takes_maxima(state) ? std::max(found[k], values[k]) : found[k] + values[k];
      }
    }
    op.advance(state, found);
  }
  each_chunk(
      [&](int64_t, int64_t first, int64_t last) { run_simd<WriteSpan<Op>>(&op, &state, row, first, last); });
}

/// Calls body(first, last) for ranges of samples: in parallel where there are enough of them.
template <class Body>
void for_each_sample(Batch batch, const Body& body) {
  if (batch.rows < 2 * static_cast<int64_t>(torch::stable::get_num_threads()) && batch.cols > kGrain) {
    return body(int64_t{0}, batch.rows);
  }
  torch::stable::parallel_for(0, batch.rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, batch.cols)),
                              body);
}

template <class Op>
void sweep_rows(const Op& op, Batch batch) {
  for_each_sample(batch, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) sweep_row(op, row, batch.cols);
  });
}

}  // namespace fastadv
