// The projection on the lp ball for 1 < p < inf, on the ball and a box for p = inf too.
//
// The nearest u to a >= 0 with ||u||_p = eps has u + mu u^(p-1) = a in every element, one mu >= 0 for the
// whole sample; in the box that u is cut at the element's room, because the problem is separable and convex
// for every mu. ||u(mu)||_p falls as mu grows, so mu is found by Halley's method in log mu and log ||u||_p,
// in which the function is all but straight, kept in a bracket. Each of its steps cubes the error. By duality
//   mu = ||a - u||_q / eps^(p-1),   1/p + 1/q = 1,
// which bounds mu by its value for u = 0; the triangle inequality bounds it below, because no element loses
// more than mu max(a)^(p-1); and (1 - eps / ||a||_p) ||a||_q / eps^(p-1) is mu itself where all magnitudes
// are equal: the first guess.
//
// Sweeps per sample: two for the norms, two to five for mu, and one that writes.
#pragma once

#include "ball.cuh"

namespace fastadv {

/// u with u + mu u^(p-1) = a, and how it moves with mu.
struct LpRoot {
  double u;
  double power;  // u^p, or mu u^p where `with_mu`
  double fall;   // -d ln u / d ln mu
};

/// The roots for magnitudes a >= 0, scaled by a power of two so that the largest is in [1, 2).
struct LpRoots {
  double p;
  double log2_mu;
  double log2_eps;

  /// Where there is no closed form, or where it would underflow.
  static FASTADV_HD bool with_mu(double p, double log2_eps) {
    return log2_eps < -200.0 || (p != 1.5 && p != 2.0 && p != 3.0);
  }

  /// use(j, root of a[j]) for all elements.
  template <int N, class Use>
  FASTADV_HD void solve(const double (&a)[N], const Use& use) const {
    if (with_mu(p, log2_eps)) return solve_any(a, use);
    const double mu = exp2_of(log2_mu);
    if (p == 1.5) {
      for (int j = 0; j < N; ++j) use(j, root_1_5(a[j], mu));
    } else if (p == 2.0) {
      for (int j = 0; j < N; ++j) use(j, root_2(a[j], mu));
    } else {
      for (int j = 0; j < N; ++j) use(j, root_3(a[j], mu));
    }
  }

 private:
  /// A quadratic equation in sqrt(u).
  static FASTADV_HD LpRoot root_1_5(double a, double mu) {
    const double root = std::sqrt(mu * mu + 4.0 * a);
    const double inverse = 1.0 / (root * (mu + root));
    const double t = 2.0 * a * root * inverse;
    return {t * t, t * t * t, 2.0 * mu * ((mu + root) * inverse)};
  }
  static FASTADV_HD LpRoot root_2(double a, double mu) {
    const double u = a / (1.0 + mu);
    return {u, u * u, mu / (1.0 + mu)};
  }
  /// A quadratic equation in u.
  static FASTADV_HD LpRoot root_3(double a, double mu) {
    const double root = std::sqrt(1.0 + 4.0 * mu * a);
    const double inverse = 1.0 / (root * (1.0 + root));
    const double u = 2.0 * a * root * inverse;
    return {u, u * u * u, mu * u * ((1.0 + root) * inverse)};
  }

  /// With u = a r: r + w = 1, where w = mu a^(p-2) r^(p-1). Halley's method in ln r, in which r + w is
  /// convex, from where the larger of the two is 1. A step cubes the excess of r + w, and from there on none
  /// moves ln r or ln w by more than 2.
  template <int N, class Use>
  FASTADV_HD void solve_any(const double (&a)[N], const Use& use) const {
    constexpr double kNear = 0x1p-17;
    const double power_of_r = p - 1.0;
    double r[N], w[N];
    for (int j = 0; j < N; ++j) {
      const double z = log2_mu + (p - 2.0) * log2_of(a[j]);
      r[j] = exp2_of(z > 0.0 ? -z / power_of_r : 0.0);
      w[j] = exp2_of(z < 0.0 ? z : 0.0);
    }
    const auto step = [&](int j, double least) {
      const double excess = r[j] + w[j] - 1.0;
      const double slope = r[j] + power_of_r * w[j], bend = r[j] + power_of_r * (power_of_r * w[j]);
      const double length = 2.0 * excess * slope / (2.0 * slope * slope - excess * bend);
      const bool far = std::fabs(excess) > least;
      const double down = far ? length * kLog2E : 0.0;
      r[j] *= exp2_of(-down);
      w[j] *= exp2_of(-down * power_of_r);
      return far;
    };
    constexpr int kMost = 100;
    for (int steps = 0; steps < kMost; ++steps) {
      int moving = 0;
      for (int j = 0; j < N; ++j) moving += step(j, kNear);
      if (moving == 0) break;
    }
    for (int j = 0; j < N; ++j) {
      step(j, 0.0);  // three times the digits
      use(j, LpRoot{a[j] * r[j], a[j] * a[j] * (r[j] * w[j]), w[j] / (r[j] + power_of_r * w[j])});
    }
  }
};

template <class T, class V>
struct LpProject {
  static constexpr int kValues = 4;
  static constexpr int kMostSweeps = 150;
  static constexpr double kNear = 0x1p-44, kNearest = 0x1p-30, kNearBounds = 0x1p-25;
  enum Phase { largest, norms, root };
  struct State {
    Outcome outcome;
    Phase phase;
    double limit;  // of a magnitude, where it is bounded
    double scale;
    double a_max;    // the largest magnitude, scaled
    double cut_max;  // the same in the box
    double eps;      // scaled, less the slack
    double log2_eps;
    double gap;  // log2 of the norm over eps
    double log2_mu;
    double low;  // what log2_mu is above and below
    double high;
    int sweeps;
  };
  BallArgs<T, V> args;
  double p;

  FASTADV_HD double conjugate() const { return p == 1.5 ? 3.0 : p == 3.0 ? 1.5 : p / (p - 1.0); }

  FASTADV_HD State begin(int64_t row) const {
    State state{};
    state.outcome = outcome_of(args.eps[row], args.moves(row));
    state.eps = args.eps[row];
    state.limit = HUGE_VAL;
    if (p == HUGE_VAL && state.outcome == Outcome::unknown) {
      state.outcome = Outcome::bounded;
      state.limit = state.eps;
    }
    state.scale = 1.0;
    return state;
  }

  FASTADV_HD bool done(const State& state) const { return state.outcome != Outcome::unknown; }
  FASTADV_HD bool takes_maxima(const State& state) const { return state.phase == largest; }

  template <int N>
  FASTADV_HD void visit(const State& state, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    double a[N], room[N];
    load_magnitudes(args, row, col, count, state.scale, a, room);
    if (state.phase == root) {
      roots(state).solve(a, Contribution<N>{p, room, values});
      if (args.x != nullptr) {
        for (int j = 0; j < N; ++j) values[3][j] /= state.eps;
        raise(values[3], p);
      }
      return;
    }
    for (int j = 0; j < N; ++j) {
      values[0][j] = a[j] < room[j] ? a[j] : room[j];
      values[1][j] = a[j];
      values[2][j] = values[3][j] = 0.0;
    }
    if (state.phase == largest) {
      for (int j = 0; j < N; ++j) {
        values[0][j] = a[j] < HUGE_VAL ? values[0][j] : HUGE_VAL;  // a NaN must not be overlooked
        values[1][j] = a[j] < HUGE_VAL ? a[j] : HUGE_VAL;
      }
    } else {
      for (int j = 0; j < N; ++j) values[0][j] /= state.cut_max;  // divided, so that the largest is exactly 1
      for (int j = 0; j < N; ++j) values[1][j] = args.x == nullptr ? values[0][j] : a[j] / state.a_max;
      raise(values[0], p);
      raise(values[1], conjugate());
    }
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    if (state.phase == largest) return take_largest(state, values);
    if (state.phase == norms) return take_norms(state, values);
    take_step(state, values);
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    if (state.outcome != Outcome::root) {
      return write_outcome<N>(args, state.outcome, state.limit, row, col, count);
    }
    double a[N], room[N];
    load_magnitudes(args, row, col, count, state.scale, a, room);
    const double back = 1.0 / state.scale;
    double u[N];
    roots(state).solve(a, Result<N>{back, room, u});
    for (int j = 0; j < N; ++j) room[j] *= back;
    write_magnitudes(args, row, col, count, u, room);
  }

 private:
  /// What an element adds to a sweep's sums.
  template <int N>
  struct Contribution {
    double p;
    const double (&room)[N];
    double (&values)[kValues][N];

    FASTADV_HD void operator()(int j, const LpRoot& root) const {
      const bool cut = root.u > room[j];
      values[0][j] = cut ? 0.0 : root.power;
      values[1][j] = values[0][j] * root.fall;
      values[2][j] = values[1][j] * (1.0 - (p - 1.0) * root.fall * (3.0 - (p - 2.0) * root.fall));
      values[3][j] = cut ? room[j] : 0.0;
    }
  };

  template <int N>
  struct Result {
    double back;  // to the unscaled sample
    const double (&room)[N];
    double (&u)[N];

    FASTADV_HD void operator()(int j, const LpRoot& root) const {
      u[j] = (root.u < room[j] ? root.u : room[j]) * back;
    }
  };

  FASTADV_HD LpRoots roots(const State& state) const { return {p, state.log2_mu, state.log2_eps}; }

  FASTADV_HD void take_largest(State& state, const double (&values)[kValues]) const {
    if (!(values[1] < HUGE_VAL)) {
      state.outcome = Outcome::invalid;
    } else if (!(values[0] > 0.0)) {
      state.outcome = Outcome::bounded;
    }
    state.scale = scale_of(values[1]);
    state.cut_max = values[0] * state.scale;
    state.a_max = values[1] * state.scale;
    state.phase = norms;
  }

  FASTADV_HD void take_norms(State& state, const double (&values)[kValues]) const {
    const double radius = state.eps * state.scale;
    const double norm = state.cut_max * exp2_of(log2_of(values[0]) / p);
    if (norm <= radius) {
      state.outcome = Outcome::bounded;
      return;
    }
    if (!(radius > 0.0)) {
      state.outcome = Outcome::nothing;
      return;
    }
    state.eps = radius * (1.0 - args.slack());
    state.log2_eps = log2_of(state.eps);
    state.gap = log2_of(norm) - state.log2_eps;
    const double log2_dual = log2_of(state.a_max) + log2_of(values[1]) / conjugate();
    const double most = log2_dual - (p - 1.0) * state.log2_eps;
    state.log2_mu = most + log2_of(1.0 - state.eps / norm);
    const double n = static_cast<double>(args.cols);
    state.low = log2_of(norm - state.eps) - log2_of(n) / p - (p - 1.0) * log2_of(state.a_max) - 1e-9;
    state.high = most + 1e-9 * (1.0 + std::fabs(most));
    state.phase = root;
  }

  /// With S = sum of u^p, u' = -fall u and fall' = fall (1 - (p - 1) fall) (1 - (p - 2) fall), all in ln mu.
  FASTADV_HD void take_step(State& state, const double (&values)[kValues]) const {
    // In units of eps^p.
    const double unit = p * state.log2_eps + (LpRoots::with_mu(p, state.log2_eps) ? state.log2_mu : 0.0);
    const double uncut = values[0] > 0.0 ? exp2_of(log2_of(values[0]) - unit) : 0.0;
    const double total = uncut + values[3];
    const double excess = log2_of(total) / p;  // of log2 ||u||_p over log2 eps
    const double share = uncut > 0.0 ? uncut / total / values[0] : 0.0;
    const double fall = share * values[1], bend = share * values[2] + p * fall * fall;
    (excess > 0.0 ? state.low : state.high) = state.log2_mu;
    // Where the function is far from its parabola, Newton's step times 2 or 2/3 at most.
    const double curved = clamp(kLn2 * excess * bend / (2.0 * fall * fall), -0.5, 0.5);
    double next = state.log2_mu + excess / (fall * (1.0 + curved));
    const bool trusted = fall > 0.0 && next >= state.low && next <= state.high && state.sweeps < 40;
    if (!trusted) next = 0.5 * (state.low + state.high);
    ++state.sweeps;
    const double error = std::fabs(excess);
    // What a step leaves goes with (error / gap)^3 gap, near p = 1, where the function bends within p - 1,
    // with a factor (p - 1)^-2; elements that come to their bounds add error^2.
    const double bends = p < 2.0 ? (p - 1.0) * (p - 1.0) : 1.0;
    const bool near =
        error * error * error <= kNear * bends * (state.gap * state.gap) || error <= kNearest * state.gap;
    const bool among_bounds = args.x != nullptr && error > kNearBounds;
    if ((trusted && near && !among_bounds) || next == state.log2_mu || state.sweeps == kMostSweeps) {
      state.outcome = Outcome::root;
    }
    state.log2_mu = next;
  }
};

}  // namespace fastadv
