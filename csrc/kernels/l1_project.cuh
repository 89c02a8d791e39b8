// The projection on the l1 ball, and on the ball and a box: u = min(max(a - theta, 0), room) for magnitudes
// a, with the theta at which the sum of u is eps.
//
// What is found is reach = max(a) - theta, because theta is all but max(a) where eps is small. It is the sum
// of two doubles, because u is known only to reach's rounding where most of it cancels.
//
// The sum grows with reach along straight pieces, so that Newton's method ends in finitely many steps; a
// bracket bounds their number where the box makes the function neither convex nor concave and where
// magnitudes are spread over many scales. No sort: a sweep takes linear time, and there are some ten (Condat,
// "Fast projection onto the simplex and the l1 ball", Mathematical Programming 158, 2016, compares the ways).
#pragma once

#include "ball.cuh"

namespace fastadv {

template <class T, class V>
struct L1Project {
  static constexpr int kValues = 2;
  static constexpr int kMostSweeps = 200;
  enum Phase { largest, norm, newton };
  struct State {
    Outcome outcome;
    Phase phase;
    double most;  // the largest magnitude
    double eps;   // less the slack
    double reach;
    double rest;  // reach is reach + rest
    double low;   // what reach is above and below
    double high;
    double active;  // elements that reach moves, as of the last sweep
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
  FASTADV_HD bool takes_maxima(const State& state) const { return state.phase == largest; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double a[N], room[N];
    load_magnitudes(args, row, col, count, 1.0, a, room);
    for (int j = 0; j < N; ++j) values[1][j] = 0.0;
    if (state.phase == largest) {
      for (int j = 0; j < N; ++j) values[0][j] = a[j] < HUGE_VAL ? a[j] : HUGE_VAL;  // a NaN is to be noticed
    } else if (state.phase == norm) {
      for (int j = 0; j < N; ++j) {
        values[0][j] = a[j] > room[j] ? room[j] : a[j];
        values[1][j] = j < count ? 1.0 : 0.0;
      }
    } else {
      for (int j = 0; j < N; ++j) {
        const double u = (state.reach - (state.most - a[j])) + state.rest;
        values[0][j] = u > 0.0 ? (u < room[j] ? u : room[j]) : 0.0;
        values[1][j] = u >= 0.0 && u < room[j] ? 1.0 : 0.0;
      }
    }
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    if (state.phase == newton) return take_step(state, values[0], values[1]);
    if (state.phase == largest) {
      if (!(values[0] < HUGE_VAL)) state.outcome = Outcome::invalid;
      state.most = state.high = values[0];
      state.phase = norm;
      return;
    }
    if (values[0] <= state.eps) {
      state.outcome = Outcome::bounded;
    } else if (!(state.eps > 0.0)) {
      state.outcome = Outcome::nothing;
    }
    state.eps *= 1.0 - args.slack();
    // Each u is at least its magnitude in the box less theta.
    const double theta = (values[0] - state.eps) / values[1];
    state.reach = theta < state.most ? state.most - theta : 0.0;
    state.phase = newton;
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    if (state.outcome != Outcome::root) {
      return write_outcome<N>(args, state.outcome, HUGE_VAL, row, col, count);
    }
    double a[N], room[N];
    load_magnitudes(args, row, col, count, 1.0, a, room);
    for (int j = 0; j < N; ++j) {
      const double u = (state.reach - (state.most - a[j])) + state.rest;
      a[j] = u > 0.0 ? (u < room[j] ? u : room[j]) : 0.0;
    }
    write_magnitudes(args, row, col, count, a, room);
  }

 private:
  FASTADV_HD void take_step(State& state, double sum, double active) const {
    constexpr double kNear = 0x1p-46;  // of eps: some roundings of the sum
    constexpr double kNearly = 0x1p-42;
    constexpr int kUnguided = 24;  // steps of Newton's before every other one halves the bracket
    const double excess = sum - state.eps, distance = std::fabs(excess);
    (excess > 0.0 ? state.high : state.low) = state.reach;
    // The same piece again: as good as rounding allows.
    const bool again = active == state.active && distance <= kNearly * state.eps;
    if (distance <= kNear * state.eps || again || state.sweeps == kMostSweeps) {
      state.outcome = Outcome::root;
      if (distance > kNearly * state.eps) {  // the end of the sweeps: inside at least
        state.reach = state.low;
        state.rest = 0.0;
      }
      return;
    }
    const double more = state.rest - excess / active;
    const double next = state.reach + more;
    const double middle = 0.5 * (state.low + state.high);
    // No double is left between: what is sought is rest alone, where magnitudes dwarf the room.
    const bool narrow = !(middle > state.low && middle < state.high);
    const bool trusted = active > 0.0 && next >= state.low && next <= state.high &&
                         (state.sweeps < kUnguided || state.sweeps % 2 == 0 || narrow);
    if (trusted) {
      state.rest = more - (next - state.reach);
      state.reach = next;
      state.active = active;
    } else {
      state.reach = narrow ? state.low : middle;
      state.rest = 0.0;
      state.active = -1.0;
    }
    ++state.sweeps;
  }
};

}  // namespace fastadv
