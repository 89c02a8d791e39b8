// The arithmetic of one element and of one sample in the linf and l2 balls, shared by every backend.
#pragma once

#include "scalar.cuh"

namespace fastadv {

/// One step of projected gradient ascent in the linf ball: 7 flops on 4 numbers, so memory-bound.
template <class T, bool Steepest, class C = Compute<T>>
FASTADV_HD T linf_update(C x_adv, C x, C grad, C eps, C step_size, C lower, C upper) {
  const C delta = x_adv - x;
  const C moved = delta + step_size * (Steepest ? sign(grad) : grad);
  const C kept = moved == moved ? moved : delta;  // a NaN gradient moves nothing
  return place<T>(x, within(kept, eps), eps, lower, upper);
}

/// What a norm is taken to be off by, relative to the numbers that went into it, so that rounding (of
/// the sums, the scale, the products) cannot leave the ball, and a second projection changes nothing.
/// float: eight roundings. double: the sums are in double too, and their error grows with the sample.
template <class C>
FASTADV_HD double slack();
template <>
FASTADV_HD double slack<float>() {
  return 0x1p-21;
}
template <>
FASTADV_HD double slack<double>() {
  return 0x1p-41;
}

/// The factor that projects a vector of this norm on the l2 ball; NaN where the norm is not finite.
template <class C>
FASTADV_HD C l2_scale(double norm, C eps) {
  if (norm == HUGE_VAL) return C(NAN);
  return norm <= static_cast<double>(eps) ? C(1) : static_cast<C>(eps / norm * (1.0 - slack<C>()));
}

/// v -> v * pre * post: in two factors, because 1 / ||grad|| alone can overflow a float.
template <class C>
struct Multiple {
  C pre;
  C post;
  FASTADV_HD C operator()(C value) const { return value * pre * post; }
};

/// length / norm as a Multiple; zero where the norm is 0, infinite or NaN: no direction.
template <class C>
FASTADV_HD Multiple<C> towards(double norm, double length) {
  if (!(norm > 0.0 && norm < HUGE_VAL)) return {C(0), C(0)};
  int exponent = -std::ilogb(norm);
  exponent = exponent < -126 ? -126 : exponent > 126 ? 126 : exponent;
  const double pre = std::ldexp(1.0, exponent);
  return {static_cast<C>(pre), static_cast<C>(length / norm / pre)};
}

/// The l2 step of one sample: delta -> delta * scale + direction(grad), in the ball. The projection is
/// part of both factors, so nothing on the way is larger than its result and no step is too long.
template <class C>
struct L2Step {
  C scale;
  Multiple<C> direction;
};

/// From <g,g>, <d,g> and <d,d> alone, by ||d + c g||^2 = <d,d> + 2c <d,g> + c^2 <g,g>: one sweep
/// over the data where three norms would take three. Where d and c g cancel, the result is known only
/// relative to them: the slack counts from their lengths.
template <class C>
FASTADV_HD L2Step<C> l2_step(double gg, double dg, double dd, C eps, C step_size, bool steepest) {
  const double grad_norm = std::sqrt(gg);
  const bool usable = grad_norm > 0.0 && grad_norm < HUGE_VAL && step_size > C(0);  // which may be a NaN
  const double length = !usable ? 0.0 : steepest ? step_size : step_size * grad_norm;
  const double factor = usable ? length / grad_norm : 0.0;
  const double squared = usable ? dd + factor * (2.0 * dg + factor * gg) : dd;
  const double norm = std::sqrt(squared > 0.0 ? squared : 0.0) + slack<C>() * (std::sqrt(dd) + length);
  if (norm == HUGE_VAL && eps == eps)
    return {C(0), towards<C>(grad_norm, eps * (1.0 - slack<C>()))};  // an endless step
  const double scale = norm <= static_cast<double>(eps) ? 1.0 : eps / norm;
  return {static_cast<C>(scale), towards<C>(grad_norm, length * scale)};
}

template <class T, class C = Compute<T>>
FASTADV_HD T linf_project(C delta, C eps) {
  return round_within<T>(within(delta, eps), C(0), eps);
}

template <class T, class C = Compute<T>>
FASTADV_HD T l2_project(C delta, C scale) {
  const C projected = delta * scale;
  return round_within<T>(projected, C(0), std::fabs(projected));
}

/// NaN and infinity times the zero of "no direction" would be NaN: they give 0.
template <class T, class C = Compute<T>>
FASTADV_HD T l2_direction(C grad, const Multiple<C>& direction) {
  const C scaled = direction(grad);
  return narrow<T>(scaled == scaled ? scaled : C(0));
}

template <class T, class C = Compute<T>>
FASTADV_HD T l2_update(C x_adv, C x, C grad, const L2Step<C>& step, C lower, C upper) {
  const C kept = (x_adv - x) * step.scale;
  const C moved = kept + step.direction(grad);
  const C delta = moved == moved ? moved : kept;  // a NaN gradient moves nothing
  return place<T>(x, delta, std::fabs(delta), lower, upper);
}

}  // namespace fastadv
