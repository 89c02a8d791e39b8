// The projection on the l0 ball, and on the ball and a box: the eps pixels are kept that save most.
//
// A pixel that is kept saves v^2 - (v - w)^2 = w (2 v - w) of the squared distance, where w is its nearest
// value in the box (v itself without one), summed over its channels. Infinite ones save the most; what is not
// a number is not kept.
#pragma once

#include "ball.cuh"
#include "greedy.cuh"

namespace fastadv {

/// To be swept over pixels: an index is that of a pixel's first element.
template <class T, class V>
struct L0Project {
  static constexpr int kValues = Greedy::kValues;
  struct State {
    Outcome outcome;
    double scale;  // a power of two with which squares neither overflow nor vanish; 0 before it is known
    Greedy greedy;
  };
  BallArgs<T, V> args;

  FASTADV_HD State begin(int64_t row) const {
    State state{};
    const double eps = args.eps[row];
    state.outcome = outcome_of(eps, args.moves(row));
    if (state.outcome == Outcome::unknown && eps < 1.0) state.outcome = Outcome::nothing;
    state.greedy = Greedy::of(std::floor(eps), false);
    return state;
  }

  FASTADV_HD bool done(const State& state) const {
    return state.outcome != Outcome::unknown || state.greedy.done();
  }
  FASTADV_HD bool takes_maxima(const State& state) const { return state.scale == 0.0; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double saved[N], size[N];
    if (state.scale == 0.0) return largest(row, col, count, values);
    savings(row, col, count, state.scale, saved);
    for (int j = 0; j < N; ++j) size[j] = 1.0;
    state.greedy.visit(col, saved, size, values);
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    if (state.scale == 0.0) {
      state.scale = scale_of(values[0]);
    } else {
      state.greedy.advance(values, args.pixels());
    }
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    double saved[N], size[N], room[N];
    if (state.outcome == Outcome::unknown) savings(row, col, count, state.scale, saved);
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      const int64_t at = col + channel * args.pixels();
      if (state.outcome != Outcome::unknown) {
        write_outcome<N>(args, state.outcome, HUGE_VAL, row, at, count);
        continue;
      }
      load_magnitudes(args, row, at, count, 1.0, size, room);
      for (int j = 0; j < N; ++j) {
        const double cut = size[j] > room[j] ? room[j] : size[j];
        const bool kept = state.greedy.taken(col + j, saved[j], 1.0) > 0.0;
        size[j] = kept && cut > 0.0 ? cut : 0.0;  // a NaN is not kept
      }
      write_magnitudes(args, row, at, count, size, size);
    }
  }

 private:
  template <int N>
  FASTADV_HD void largest(int64_t row, int64_t col, int64_t count, double (&values)[kValues][N]) const {
    double size[N], room[N];
    for (int k = 0; k < kValues; ++k) {
      for (int j = 0; j < N; ++j) values[k][j] = 0.0;
    }
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      load_magnitudes(args, row, col + channel * args.pixels(), count, 1.0, size, room);
      for (int j = 0; j < N; ++j) {
        values[0][j] = size[j] > values[0][j] && size[j] < HUGE_VAL ? size[j] : values[0][j];
      }
    }
  }

  template <int N>
  FASTADV_HD void savings(int64_t row, int64_t col, int64_t count, double scale, double (&saved)[N]) const {
    double size[N], room[N];
    for (int j = 0; j < N; ++j) saved[j] = 0.0;
    for (int64_t channel = 0; channel < args.channels; ++channel) {
      load_magnitudes(args, row, col + channel * args.pixels(), count, scale, size, room);
      for (int j = 0; j < N; ++j) {
        const double cut = size[j] > room[j] ? room[j] : size[j];
        const double infinite = size[j] == HUGE_VAL && cut > 0.0 ? HUGE_VAL : 0.0;
        saved[j] += size[j] < HUGE_VAL ? cut * (2.0 * size[j] - cut) : infinite;
      }
    }
  }
};

}  // namespace fastadv
