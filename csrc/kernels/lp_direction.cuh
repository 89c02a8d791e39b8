// The direction of steepest ascent in the lp ball, and steps along it.
//
// For 1 < p < inf it is sign(g) |g|^(q-1) / ||g||_q^(q-1) with 1/p + 1/q = 1, which is taken of |g| / max
// |g|: q is huge where p is near 1. For p = 1 it is one element, the first of the largest; a step in the box
// takes several, because one alone would stall at the box:
//   argmax <u, g> over ||u||_1 <= step size, |u_i| <= step size / spread, x_adv + u in the box,
// which is greedy (Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
// classifiers", ICML 2021, section 3; the spread is Tramer and Boneh's, "Adversarial training and robustness
// for multiple perturbations", NeurIPS 2019).
#pragma once

#include "args.cuh"
#include "greedy.cuh"
#include "lp.cuh"

namespace fastadv {

/// As long as any step: squares of it are still numbers.
constexpr double kEndless = 1e150;

/// The step size, 0 for a NaN.
FASTADV_HD double step_length(double step_size) {
  return step_size > kEndless ? kEndless : step_size >= 0.0 ? step_size : 0.0;
}

/// Where a step ends before it is projected: in `moved`, x_adv - x plus the step.
template <class T>
struct MoveArgs {
  PgdStepArgs<T> step;
  double* moved;
  int64_t stride;  // from a sample's place to the next one's: cols, or 0 where one place serves all

  /// Writes columns col .. col + count - 1, moved by `by`.
  template <int N>
  FASTADV_HD void write(int64_t row, int64_t col, int64_t count, const double (&by)[N]) const {
    const int64_t at = row * step.cols + col;
    double* to = moved + row * stride + col;
    if (step.keeps(row)) {
      for (int j = 0; j < N; ++j) {
        if (j < count) step.best[at + j] = step.x_adv[at + j];
      }
    }
    for (int j = 0; j < N; ++j) {
      if (j >= count) continue;
      to[j] = static_cast<double>(widen(step.x_adv[at + j]) - widen(step.x[at + j])) + by[j];
    }
  }
};

template <int N, class T>
FASTADV_HD void load_doubles(const T* from, int64_t count, double (&to)[N]) {
  for (int j = 0; j < N; ++j) to[j] = j < count ? static_cast<double>(widen(from[j])) : 0.0;
}

/// |g|, where what is not finite counts as infinite: a NaN must not be overlooked.
template <int N>
FASTADV_HD void finite_sizes(const double (&g)[N], double (&size)[N]) {
  for (int j = 0; j < N; ++j) size[j] = std::fabs(g[j]) < HUGE_VAL ? std::fabs(g[j]) : HUGE_VAL;
}

/// What is known of a direction between sweeps.
struct DirectionState {
  enum Phase { largest, second, known, none };  // none: there is no direction
  Phase phase;
  double most;   // the largest |g|
  double place;  // 1 < p: 1 / (sum of (|g| / most)^q)^(1/p); p = 1: the index of the element
  FASTADV_HD bool done() const { return phase == known || phase == none; }
};

/// steepest(g, p) for 1 < p < inf.
template <class T>
struct LpDirection {
  static constexpr int kValues = 1;
  using State = DirectionState;
  const T* grad;
  int64_t cols;
  double p;

  FASTADV_HD double conjugate() const { return p == 1.5 ? 3.0 : p == 3.0 ? 1.5 : p / (p - 1.0); }
  FASTADV_HD State begin() const { return {State::largest, 0.0, 0.0}; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double g[N];
    load_doubles(grad + row * cols + col, count, g);
    finite_sizes(g, values[0]);
    if (state.phase == State::largest) return;
    for (int j = 0; j < N; ++j) values[0][j] /= state.most;
    raise(values[0], conjugate());
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    if (state.phase == State::largest) {
      state.most = values[0];
      state.phase = values[0] > 0.0 && values[0] < HUGE_VAL ? State::second : State::none;
    } else {
      state.place = exp2_of(-log2_of(values[0]) / p);
      state.phase = State::known;
    }
  }

  template <int N>
  FASTADV_HD void get(const State& state, int64_t row, int64_t col, int64_t count, double (&u)[N]) const {
    double g[N];
    load_doubles(grad + row * cols + col, count, g);
    for (int j = 0; j < N; ++j) u[j] = state.phase == State::known ? std::fabs(g[j]) / state.most : 0.0;
    raise(u, conjugate() - 1.0);
    for (int j = 0; j < N; ++j) u[j] = std::copysign(u[j] * state.place, g[j]);
  }
};

template <class T>
struct LpSteepest {
  static constexpr int kValues = 1;
  using State = DirectionState;
  T* out;
  LpDirection<T> direction;

  FASTADV_HD State begin(int64_t) const { return direction.begin(); }
  FASTADV_HD bool done(const State& state) const { return state.done(); }
  FASTADV_HD bool takes_maxima(const State& state) const { return state.phase == State::largest; }
  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    direction.visit(state, row, col, count, values);
  }
  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    direction.advance(state, values);
  }
  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    double u[N];
    direction.get(state, row, col, count, u);
    T* to = out + row * direction.cols + col;
    for (int j = 0; j < N; ++j) {
      if (j < count) to[j] = narrow<T>(static_cast<Compute<T>>(u[j]));
    }
  }
};

template <class T>
struct L1Steepest {
  static constexpr int kValues = 1;
  using State = DirectionState;
  SteepestArgs<T> args;

  FASTADV_HD State begin(int64_t) const { return {State::largest, 0.0, 0.0}; }
  FASTADV_HD bool done(const State& state) const { return state.done(); }
  FASTADV_HD bool takes_maxima(const State&) const { return true; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double g[N];
    load_doubles(args.grad + row * args.cols + col, count, g);
    finite_sizes(g, values[0]);
    if (state.phase == State::largest) return;
    const double left = static_cast<double>(args.cols - col);  // the first index leaves most
    for (int j = 0; j < N; ++j) values[0][j] = values[0][j] == state.most ? left - j : 0.0;
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    if (state.phase == State::largest) {
      state.most = values[0];
      state.phase = values[0] > 0.0 && values[0] < HUGE_VAL ? State::second : State::none;
    } else {
      state.place = static_cast<double>(args.cols) - values[0];
      state.phase = State::known;
    }
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    const int64_t at = row * args.cols + col;
    const int64_t chosen = state.phase == State::known ? static_cast<int64_t>(state.place) - col : -1;
    for (int j = 0; j < N; ++j) {
      if (j < count)
        args.out[at + j] = narrow<T>(j == chosen ? sign(widen(args.grad[at + j])) : Compute<T>(0));
    }
  }
};

/// A step of step_size * steepest(grad, p), or of step_size * grad, before its projection.
template <class T>
struct LpMove {
  static constexpr int kValues = 1;
  using State = DirectionState;
  MoveArgs<T> args;
  LpDirection<T> direction;
  bool steepest;

  FASTADV_HD State begin(int64_t row) const {
    State state = direction.begin();
    if (!args.step.moves(row)) state.phase = State::none;
    return state;
  }
  FASTADV_HD bool done(const State& state) const { return state.done(); }
  FASTADV_HD bool takes_maxima(const State& state) const { return state.phase == State::largest; }
  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    direction.visit(state, row, col, count, values);
  }
  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    direction.advance(state, values);
    if (!steepest && state.phase == State::second) state.phase = State::known;  // grad needs no norm
  }
  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    double by[N];
    if (steepest) {
      direction.get(state, row, col, count, by);
    } else {
      load_doubles(direction.grad + row * direction.cols + col, count, by);
    }
    const double length = step_length(args.step.step_size[row]);
    for (int j = 0; j < N; ++j) by[j] = state.phase == State::known ? by[j] * length : 0.0;
    args.write(row, col, count, by);
  }
};

/// The greedy step of the l1 ball in the box, before its projection.
template <class T>
struct L1Move {
  static constexpr int kValues = Greedy::kValues;
  struct State {
    Greedy greedy;
    bool still;
  };
  MoveArgs<T> args;

  FASTADV_HD State begin(int64_t row) const {
    const bool narrow = sizeof(Compute<T>) == sizeof(float);
    return {Greedy::of(step_length(args.step.step_size[row]), narrow), !args.step.moves(row)};
  }
  FASTADV_HD bool done(const State& state) const { return state.still || state.greedy.done(); }
  FASTADV_HD bool takes_maxima(const State&) const { return false; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double g[N], size[N], room[N];
    load(row, col, count, g, size, room);
    state.greedy.visit(col, size, room, values);
    if (state.greedy.phase == Greedy::total) {
      for (int j = 0; j < N; ++j) values[1][j] = size[j] < HUGE_VAL ? 0.0 : 1.0;
    }
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    state.still = state.greedy.phase == Greedy::total && values[1] > 0.0;  // a gradient that is not finite
    state.greedy.advance(values, args.step.cols);
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    double g[N], size[N], room[N];
    load(row, col, count, g, size, room);
    for (int j = 0; j < N; ++j) {
      const double taken = state.still ? 0.0 : state.greedy.taken(col + j, size[j], room[j]);
      g[j] = std::copysign(taken, g[j]);
    }
    args.write(row, col, count, g);
  }

 private:
  /// Gradients, their magnitudes, and how far each element may move along its gradient's sign.
  template <int N>
  FASTADV_HD void load(int64_t row, int64_t col, int64_t count, double (&g)[N], double (&size)[N],
                       double (&room)[N]) const {
    const int64_t at = row * args.step.cols + col;
    const double lower = args.step.lower, upper = args.step.upper;
    const double most = step_length(args.step.step_size[row]) / static_cast<double>(args.step.spread);
    load_doubles(args.step.grad + at, count, g);
    load_doubles(args.step.x_adv + at, count, room);
    finite_sizes(g, size);
    for (int j = 0; j < N; ++j) {
      const double distance = g[j] < 0.0 ? room[j] - lower : upper - room[j];
      const double least = distance < most ? distance : most;
      room[j] = size[j] > 0.0 && least > 0.0 ? least : 0.0;
    }
  }
};

}  // namespace fastadv
