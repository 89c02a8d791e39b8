// The projection on the l1 ball, and on the ball and a box: u = min(max(a - theta, 0), room) for magnitudes
// a, with the theta at which the sum of u is eps.
//
// The sum falls with theta along straight pieces, so that Newton's method ends in finitely many steps; a
// bracket bounds their number where the box makes the function neither convex nor concave and where
// magnitudes are spread over many scales. No sort: a sweep takes linear time, and there are some ten (Condat,
// "Fast projection onto the simplex and the l1 ball", Mathematical Programming 158, 2016, compares the ways).
//
// theta is the sum of two doubles, because u is known only to theta's rounding where all of it cancels.
#pragma once

#include "ball.cuh"

namespace fastadv {

template <class T, class V>
struct L1Project {
  static constexpr int kValues = 3;
  static constexpr int kMostSweeps = 200;
  struct State {
    Outcome outcome;
    bool newton;  // whether theta is looked for, after a sweep for the norm
    double eps;   // less the slack
    double theta;
    double rest;  // theta is theta + rest
    double low;   // what theta is above and below
    double high;
    double active;  // elements that theta moves, as of the last sweep
    int sweeps;
  };
  BallArgs<T, V> args;

  FASTADV_HD State begin(int64_t row) const {
    State state{};
    state.outcome = outcome_of(args.eps[row], args.moves(row));
    state.eps = args.eps[row];
    return state;
  }

  FASTADV_HD bool done(const State& state) const { return state.outcome != Outcome::unknown; }
  FASTADV_HD bool takes_maxima(const State&) const { return false; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double a[N], room[N];
    load_magnitudes(args, row, col, count, 1.0, a, room);
    if (!state.newton) {
      for (int j = 0; j < N; ++j) {
        values[0][j] = a[j] > room[j] ? room[j] : a[j];
        values[1][j] = a[j];
        values[2][j] = j < count ? 1.0 : 0.0;
      }
      return;
    }
    for (int j = 0; j < N; ++j) {
      const double u = (a[j] - state.theta) - state.rest;
      const double above = u > 0.0 ? u : 0.0;
      values[0][j] = above > room[j] ? room[j] : above;
      values[1][j] = u > 0.0 && u < room[j] ? 1.0 : 0.0;
      values[2][j] = 0.0;
    }
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    if (state.newton) return take_step(state, values[0], values[1]);
    if (!(values[1] < HUGE_VAL)) {
      state.outcome = Outcome::invalid;
    } else if (values[0] <= state.eps) {
      state.outcome = Outcome::bounded;
    }
    state.eps *= 1.0 - args.slack();
    state.high = values[1];
    state.theta =
        (values[0] - state.eps) / values[2];  // each u is at least its magnitude in the box less theta
    state.newton = true;
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    if (state.outcome != Outcome::root) {
      return write_outcome<N>(args, state.outcome, HUGE_VAL, row, col, count);
    }
    double a[N], room[N];
    load_magnitudes(args, row, col, count, 1.0, a, room);
    for (int j = 0; j < N; ++j) {
      const double u = (a[j] - state.theta) - state.rest;
      a[j] = u > 0.0 ? (u < room[j] ? u : room[j]) : 0.0;
    }
    write_magnitudes(args, row, col, count, a);
  }

 private:
  FASTADV_HD void take_step(State& state, double sum, double active) const {
    constexpr double kNear = 0x1p-46;  // of eps: some roundings of the sum
    constexpr double kNearly = sizeof(Compute<T>) == sizeof(double) ? 0x1p-42 : 0x1p-26;
    constexpr int kUnguided = 24;  // steps of Newton's before every other one halves the bracket
    const double excess = sum - state.eps, distance = std::fabs(excess);
    (excess > 0.0 ? state.low : state.high) = state.theta;
    // The same piece again: as good as rounding allows.
    const bool again = active == state.active && distance <= kNearly * state.eps;
    if (distance <= kNear * state.eps || again || state.sweeps == kMostSweeps) {
      state.outcome = Outcome::root;
      return;
    }
    const double more = state.rest + excess / active;
    const double next = state.theta + more;
    const bool trusted = active > 0.0 && next >= state.low && next <= state.high &&
                         (state.sweeps < kUnguided || state.sweeps % 2 == 0);
    if (trusted) {
      state.rest = more - (next - state.theta);
      state.theta = next;
      state.active = active;
    } else {
      state.theta = 0.5 * (state.low + state.high);
      state.rest = 0.0;
      state.active = -1.0;
    }
    ++state.sweeps;
  }
};

}  // namespace fastadv
