// The update of one element in tanh space, shared by every backend: x' = lower + (upper - lower) s(w) with
// s(w) = (tanh(w) + 1) / 2 = 1 / (1 + exp(-2 w)), Adam on w, and what an element adds to the distance. With a
// stretch, s is drawn out in both directions to (1 + stretch) (s(w / (1 + stretch)) - 1/2) + 1/2, and w ends
// where that is 0 or 1: the faces of the box are then within reach, and so is the way back from them.
//
// The exponential is a polynomial of our own, so that every device and every SIMD level computes the same
// bits, and a CPU's lanes several at once. Written with exp(-2 |w|), s is accurate relative to itself at
// the lower face of the box, and its derivative at both.
#pragma once

#include "power.cuh"

namespace fastadv {

/// Adam's constants (Kingma and Ba 2015), those of Carlini and Wagner.
constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kAdamEps = 1e-8;

/// What all elements of a call share.
template <class C>
struct TanhSpace {
  C lower;
  C upper;
  C range;
  C rate;       // lr / (1 - beta1^step)
  C root_bias;  // 1 / sqrt(1 - beta2^step)
  C stretch;
  C twice;  // 2 / (1 + stretch)
  C limit;  // of |w|, by a part in 1e4 beyond the faces, so that rounding cannot keep x' from them

  TanhSpace(double lower, double upper, double lr, int64_t step, double stretch)
      : lower(static_cast<C>(lower)),
        upper(static_cast<C>(upper)),
        range(static_cast<C>(upper - lower)),
        rate(static_cast<C>(lr / (1.0 - std::pow(kBeta1, static_cast<double>(step))))),
        root_bias(static_cast<C>(1.0 / std::sqrt(1.0 - std::pow(kBeta2, static_cast<double>(step))))),
        stretch(static_cast<C>(stretch)),
        twice(static_cast<C>(2.0 / (1.0 + stretch))),
        limit(static_cast<C>((1.0 + 1e-4) * (1.0 + stretch) * std::atanh(1.0 / (1.0 + stretch)))) {}

  /// The derivative of x' in w.
  FASTADV_HD C slope(C w) const {
    const C e = exp_of_minus(twice * std::fabs(w));
    const C inverse = C(1) / (C(1) + e);
    return C(2) * range * (e * inverse * inverse);
  }

  FASTADV_HD C image(C w) const {
    const C e = exp_of_minus(twice * std::fabs(w));
    const C inverse = C(1) / (C(1) + e);
    const C s = w < C(0) ? e * inverse : inverse;
    return clamp(lower + range * (s + stretch * (s - C(0.5))), lower, upper);
  }
};

/// How far a sample is, element by element, and how hard that pulls: for l2 the squares; for linf, with
/// Hinge, what exceeds tau.
template <bool Hinge, class C>
struct Pull {
  C c;       // how hard the model's gradient pulls
  C weight;  // and the distance
  C tau;

  FASTADV_HD C slope(C delta) const {
    if (Hinge) return std::fabs(delta) > tau ? sign(delta) : C(0);
    return C(2) * delta;
  }
  FASTADV_HD double distance(C delta) const {
    if (Hinge) return std::fabs(delta) > tau ? static_cast<double>(std::fabs(delta) - tau) : 0.0;
    return static_cast<double>(delta) * static_cast<double>(delta);
  }
};

/// One step of Adam on weight * distance - c * reward, whose gradient in x' is `grad`. Gradients beyond 2^60
/// count as that, because v holds squares; one that is no number moves nothing.
template <class T, bool Hinge, class C = Compute<T>>
FASTADV_HD T tanh_space_update(const TanhSpace<C>& space, const Pull<Hinge, C>& pull, C x_adv, C x, C grad,
                               C& w, C& m, C& v) {
  constexpr C kLargest = C(0x1p60);
  const C raw = (pull.weight * pull.slope(x_adv - x) - pull.c * grad) * space.slope(w);
  const C g = clamp(raw, -kLargest, kLargest);
  const C next_m = C(kBeta1) * m + C(1.0 - kBeta1) * g;
  const C next_v = C(kBeta2) * v + C(1.0 - kBeta2) * (g * g);
  const C step = space.rate * next_m / (std::sqrt(next_v) * space.root_bias + C(kAdamEps));
  const C next_w = clamp(w - step, -space.limit, space.limit);
  const bool moves = raw == raw;
  m = moves ? next_m : m;
  v = moves ? next_v : v;
  w = moves ? next_w : w;
  return narrow<T>(space.image(w));
}

template <class T, class C = Compute<T>>
struct CwStepArgs {
  T* x_adv;
  C* w;
  C* m;
  C* v;
  const T* x;
  const T* grad;
  double* distance;  // [rows]
  PerSample<C> c;
  PerSample<C> weight;
  PerSample<C> tau;    // of the hinge
  const bool* active;  // null: every sample moves
  T* best;             // null, or where samples that are `better` leave x_adv before they move
  const bool* better;
  TanhSpace<C> space;
  int64_t rows;
  int64_t cols;

  FASTADV_HD bool moves(int64_t row) const { return active == nullptr || active[row]; }
  FASTADV_HD bool keeps(int64_t row) const { return best != nullptr && better[row]; }
  template <bool Hinge>
  FASTADV_HD Pull<Hinge, C> pull(int64_t row) const {
    return {c[row], weight[row], Hinge ? tau[row] : C(0)};
  }
};

}  // namespace fastadv
