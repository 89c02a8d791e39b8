// Which sweeps (sweeps.cuh) make an operator, for the norms 0, 1 and 1 < p < inf.
#pragma once

#include "l0_project.cuh"
#include "l1_project.cuh"
#include "lp_direction.cuh"
#include "lp_project.cuh"

namespace fastadv {

/// sweep(op, length) for the projection; length counts what the op is swept over.
template <class T, class V, class Sweep>
inline void with_projection(const BallArgs<T, V>& args, double norm, const Sweep& sweep) {
  if (norm == 0.0) {
    sweep(L0Project<T, V>{args}, args.pixels());
  } else if (norm == 1.0) {
    sweep(L1Project<T, V>{args}, args.cols);
  } else {
    sweep(LpProject<T, V>{args, norm}, args.cols);
  }
}

template <class T, class Sweep>
inline void with_projection(const ProjectArgs<T>& args, double norm, const Sweep& sweep) {
  with_projection(BallArgs<T, T>{args.out, args.delta, args.cols, args.x, nullptr, nullptr, args.eps,
                                 args.lower, args.upper, args.cols, args.channels},
                  norm, sweep);
}

template <class T, class Sweep>
inline void with_steepest(const SteepestArgs<T>& args, double norm, const Sweep& sweep) {
  if (norm == 1.0) {
    sweep(L1Steepest<T>{args}, args.cols);
  } else {
    sweep(LpSteepest<T>{args.out, {args.grad, args.cols, norm}}, args.cols);
  }
}

/// A move to `moved`, where `stride` lies between samples, and its projection, to be swept one after the
/// other.
template <class T, class Sweep>
inline void with_pgd_step(const PgdStepArgs<T>& args, double norm, double* moved, int64_t stride,
                          const Sweep& sweep) {
  const MoveArgs<T> move{args, moved, stride};
  if (norm == 1.0 && args.steepest) {
    sweep(L1Move<T>{move}, args.cols);
  } else {
    const double geometry = norm > 1.0 ? norm : 2.0;  // the l0 ball has no steepest direction
    sweep(LpMove<T>{move, {args.grad, args.cols, geometry}, args.steepest}, args.cols);
  }
  with_projection(BallArgs<T, double>{args.out, moved, stride, args.x, args.x_adv, args.active, args.eps,
                                      args.lower, args.upper, args.cols, args.channels},
                  norm, sweep);
}

}  // namespace fastadv
