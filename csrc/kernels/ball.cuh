// What the projections on lp balls share: magnitudes and room in, magnitudes out.
//
// A projection keeps every sign, so it is solved for magnitudes. In the box an element has room, the distance
// from x to the bound that its sign points to. All arithmetic is in double. A root is rounded to the nearest
// T within the room: its norm grows by T's relative rounding at most, and the radius is taken less that. What
// is not the root of an equation is exact but for a bound, and that is rounded towards 0.
#pragma once

#include "args.cuh"
#include "lp.cuh"
#include "power.cuh"

namespace fastadv {

/// Samples to project. V is the type of delta: T, or double after a step.
template <class T, class V, class C = Compute<T>>
struct BallArgs {
  T* out;
  const V* delta;
  int64_t delta_stride;  // from a sample's delta to the next one's: cols, or 0 where one place serves all
  const T* x;            // null: no box
  const T* x_adv;        // null: out is delta; else it is x + delta, or x_adv where a sample does not move
  const bool* active;    // null: every sample moves
  PerSample<C> eps;
  C lower;
  C upper;
  int64_t cols;
  int64_t channels;  // elements of a pixel, cols / channels apart; 1: an element is a pixel

  /// What a norm is taken to be off by: the double sums, and the elements, which are rounded once, unless
  /// they are added to x.
  FASTADV_HD double slack() const {
    return x_adv == nullptr ? fastadv::slack<double>() + Rounding<T>::kError : fastadv::slack<C>();
  }

  FASTADV_HD bool moves(int64_t row) const { return active == nullptr || active[row]; }
  FASTADV_HD int64_t pixels() const { return cols / channels; }
};

/// How a sample's result follows from its magnitudes, once that is known.
enum class Outcome {
  unknown,
  stays,    // its bits in x_adv
  bounded,  // min(magnitude, room, limit)
  root,     // the root of the projection's equation, at most the room
  nothing,  // 0
  invalid,  // NaN: of what is not finite there is no projection, nor on a ball whose radius is a NaN
};

/// The outcome that is known before any sweep, if one is.
FASTADV_HD Outcome outcome_of(double eps, bool moves) {
  if (!moves) return Outcome::stays;
  return eps == eps ? Outcome::unknown : Outcome::invalid;
}

/// Magnitudes of elements col .. col + count - 1, and the room that each has; both 0 beyond them.
template <int N, class T, class V>
FASTADV_HD void load_magnitudes(const BallArgs<T, V>& args, int64_t row, int64_t col, int64_t count,
                                double scale, double (&size)[N], double (&room)[N]) {
  const V* delta = args.delta + row * args.delta_stride + col;
  double value[N];
  for (int j = 0; j < N; ++j) value[j] = j < count ? static_cast<double>(widen(delta[j])) : 0.0;
  for (int j = 0; j < N; ++j) size[j] = std::fabs(value[j]) * scale;
  if (args.x == nullptr) {
    for (int j = 0; j < N; ++j) room[j] = j < count ? HUGE_VAL : 0.0;
    return;
  }
  const T* x = args.x + row * args.cols + col;
  const double lower = args.lower, upper = args.upper;
  for (int j = 0; j < N; ++j) room[j] = j < count ? static_cast<double>(widen(x[j])) : 0.0;
  for (int j = 0; j < N; ++j) {
    const double distance = value[j] < 0.0 ? room[j] - lower : upper - room[j];
    room[j] = j < count && distance > 0.0 ? distance * scale : 0.0;
  }
}

/// Writes elements col .. col + count - 1 from their magnitudes, which rounding takes beyond no limit; NaN
/// where those are.
template <int N, class T, class V>
FASTADV_HD void write_magnitudes(const BallArgs<T, V>& args, int64_t row, int64_t col, int64_t count,
                                 const double (&size)[N], const double (&limit)[N]) {
  using C = Compute<T>;
  const V* delta = args.delta + row * args.delta_stride + col;
  T* out = args.out + row * args.cols + col;
  if (args.x_adv == nullptr) {
    for (int j = 0; j < N; ++j) {
      const double value = std::copysign(size[j], static_cast<double>(widen(delta[j])));
      if (j < count)
        out[j] = narrow_within<T>(value, size[j] < Rounding<T>::kLeastNormal ? size[j] : limit[j]);
    }
    return;
  }
  const T* x = args.x + row * args.cols + col;
  for (int j = 0; j < N; ++j) {
    if (j >= count) continue;
    const double value = std::copysign(size[j], static_cast<double>(widen(delta[j])));
    const C moved = narrow_within<C>(value, size[j]);
    out[j] = place<T>(widen(x[j]), moved, std::fabs(moved), args.lower, args.upper);
  }
}

/// Writes elements whose outcome takes no root.
template <int N, class T, class V>
FASTADV_HD void write_outcome(const BallArgs<T, V>& args, Outcome outcome, double limit, int64_t row,
                              int64_t col, int64_t count) {
  if (outcome == Outcome::stays) {
    const int64_t at = row * args.cols + col;
    for (int j = 0; j < N; ++j) {
      if (j < count) args.out[at + j] = args.x_adv[at + j];
    }
    return;
  }
  double size[N], room[N];
  load_magnitudes(args, row, col, count, 1.0, size, room);
  for (int j = 0; j < N; ++j) {
    const double least = room[j] < limit ? room[j] : limit;
    const double bounded = size[j] > least ? least : size[j];
    size[j] = outcome == Outcome::bounded ? bounded : outcome == Outcome::nothing ? 0.0 : NAN;
  }
  write_magnitudes(args, row, col, count, size, size);
}

}  // namespace fastadv
