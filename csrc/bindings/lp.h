// The bindings of pgd_step, project, steepest and random_in_ball; see arguments.h. A backend's Kernel has
//   template <class T> static void run(const <Op>Args<T>&, double norm, const Tensor& out);
#pragma once

#include "arguments.h"
#include "kernels/args.cuh"

namespace fastadv {

/// Whether elements are told apart by their indices, so that memory must have them in that order.
inline bool ties_by_index(double norm) {
  return norm <= 1.0;
}

/// Whether the norm has kernels of its own, which know no box for projections; others share those of
/// lp_ops.cuh.
inline bool has_own_kernel(double norm) {
  return norm == 2.0 || norm == kInf;
}

/// The tensors and scalars of a PGD step as the schema has them.
struct PgdStepCall {
  const char* op;
  const Tensor& x_adv;
  const Tensor& x;
  const Tensor& grad;
  const Tensor& eps;
  const Tensor& step_size;
  double norm;
  double lower;
  double upper;
  bool steepest;
  const std::optional<Tensor>& active;
  int64_t spread;
  bool pixels;
  const std::optional<Tensor>& best;
  const std::optional<Tensor>& better;

  void check() const {
    batch_of(op, "x_adv", x_adv);
    check_bounds(op, lower, upper);
    check_like(op, "x", x, "x_adv", x_adv);
    check_like(op, "grad", grad, "x_adv", x_adv);
    require(spread == 1 || (spread > 1 && norm == 1.0), op,
            "spread must be 1, or at least 1 for norm 1, got ", spread, " for norm ", norm);
    require(best.has_value() == better.has_value(), op, "best and better must come together");
    if (best) check_like(op, "best", *best, "x_adv", x_adv);
  }

  /// Writes the step from `from` to `out`, which is flat and may be `from`.
  template <class T, class Kernel>
  void run(const Tensor& from, const Tensor& out) const {
    using C = Compute<T>;
    const Batch batch = batch_of(op, "x_adv", out);
    const auto eps_of = per_sample<C>(op, "eps", eps, out);
    const auto step_size_of = per_sample<C>(op, "step_size", step_size, out);
    const auto flags = per_row(op, "active", active, ScalarType::Bool, out);
    const auto keepers = per_row(op, "better", better, ScalarType::Bool, out);
    if (out.numel() == 0) return;
    const Tensor start = arranged_like(from, out), centre = arranged_like(x, out),
                 slope = arranged_like(grad, out);
    Tensor kept = best ? arranged_like(*best, out) : out;
    check_overlap(op, "best", kept, out);
    check_overlap(op, "x", centre, out);
    check_overlap(op, "grad", slope, out);
    const PgdStepArgs<T> args{write_ptr<T>(out),
                              read_ptr<T>(start),
                              read_ptr<T>(centre),
                              read_ptr<T>(slope),
                              eps_of,
                              step_size_of,
                              flags ? read_ptr<bool>(*flags) : nullptr,
                              best ? write_ptr<T>(kept) : nullptr,
                              keepers ? read_ptr<bool>(*keepers) : nullptr,
                              static_cast<C>(lower),
                              static_cast<C>(upper),
                              steepest,
                              spread,
                              channels_of(op, out, norm, pixels),
                              batch.rows,
                              batch.cols};
    Kernel::template run<T>(args, norm, out);
    if (best && !same_strides(*best, out)) {
      Tensor target = *best;
      torch::stable::copy_(target, kept);
    }
  }
};

template <class Kernel>
Tensor pgd_step(const Tensor& x_adv, const Tensor& x, const Tensor& grad, const Tensor& eps,
                const Tensor& step_size, double norm, double lower, double upper, bool steepest,
                const std::optional<Tensor>& active, int64_t spread, bool pixels) {
  norm = norm_or_0_of("pgd_step", norm);
  const std::optional<Tensor> nothing;
  const PgdStepCall call{"pgd_step", x_adv,    x,      grad,   eps,    step_size, norm,   lower,
                         upper,      steepest, active, spread, pixels, nothing,   nothing};
  call.check();
  Tensor out = torch::stable::empty_like(x_adv);
  dispatch(call.op, "x_adv", x_adv, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_flat_output(out, is_flat(out, ties_by_index(norm)), false,
                     [&](const Tensor& flat) { call.run<T, Kernel>(x_adv, flat); });
  });
  return out;
}

template <class Kernel>
void pgd_step_(Tensor x_adv, const Tensor& x, const Tensor& grad, const Tensor& eps, const Tensor& step_size,
               double norm, double lower, double upper, bool steepest, const std::optional<Tensor>& active,
               int64_t spread, bool pixels, const std::optional<Tensor>& best,
               const std::optional<Tensor>& better) {
  norm = norm_or_0_of("pgd_step_", norm);
  const PgdStepCall call{"pgd_step_", x_adv,    x,      grad,   eps,    step_size, norm,  lower,
                         upper,       steepest, active, spread, pixels, best,      better};
  call.check();
  dispatch(call.op, "x_adv", x_adv, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_flat_output(x_adv, is_flat(x_adv, ties_by_index(norm)), true,
                     [&](const Tensor& flat) { call.run<T, Kernel>(flat, flat); });
  });
}

template <class Kernel>
Tensor project(const Tensor& delta, const Tensor& eps, double norm, const std::optional<Tensor>& x,
               std::optional<double> least, std::optional<double> most, bool pixels) {
  const char* op = "project";
  const double lower = least.value_or(-kInf), upper = most.value_or(kInf);
  norm = norm_or_0_of(op, norm);
  check_bounds(op, lower, upper);
  if (x) check_like(op, "x", *x, "delta", delta);
  require(x || (lower == -kInf && upper == kInf), op, "lower and upper are bounds of x + u: give x too");
  Tensor out = torch::stable::empty_like(delta);
  dispatch(op, "delta", delta, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Batch batch = batch_of(op, "delta", delta);
    const auto eps_of = per_sample<C>(op, "eps", eps, delta);
    const int64_t channels = channels_of(op, delta, norm, pixels);
    with_flat_output(out, is_flat(out, ties_by_index(norm)), false, [&](const Tensor& flat) {
      if (flat.numel() == 0) return;
      const Tensor from = arranged_like(delta, flat);
      const Tensor centre = x ? arranged_like(*x, flat) : from;
      const ProjectArgs<T> args{write_ptr<T>(flat),
                                read_ptr<T>(from),
                                eps_of,
                                x ? read_ptr<T>(centre) : nullptr,
                                static_cast<C>(lower),
                                static_cast<C>(upper),
                                channels,
                                batch.rows,
                                batch.cols};
      Kernel::template run<T>(args, norm, flat);
    });
  });
  return out;
}

template <class Kernel>
Tensor steepest(const Tensor& grad, double norm) {
  const char* op = "steepest";
  norm = norm_of(op, norm);
  Tensor out = torch::stable::empty_like(grad);
  dispatch(op, "grad", grad, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Batch batch = batch_of(op, "grad", grad);
    with_flat_output(out, is_flat(out, ties_by_index(norm)), false, [&](const Tensor& flat) {
      if (flat.numel() == 0) return;
      const Tensor from = arranged_like(grad, flat);
      const SteepestArgs<T> args{write_ptr<T>(flat), read_ptr<T>(from), batch.rows, batch.cols};
      Kernel::template run<T>(args, norm, flat);
    });
  });
  return out;
}

template <class Kernel>
Tensor random_in_ball(const Tensor& x, const Tensor& eps, double norm, double lower, double upper,
                      const Tensor& seed, const std::optional<Tensor>& ids) {
  const char* op = "random_in_ball";
  norm = norm_of(op, norm);
  check_bounds(op, lower, upper);
  check_seed(op, seed, x);
  const Tensor from = torch::stable::contiguous(x);  // numbers are counted in logical order
  const Tensor flat = torch::stable::empty_like(from);
  dispatch(op, "x", x, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Batch batch = batch_of(op, "x", x);
    const auto eps_of = per_sample<C>(op, "eps", eps, x);
    const auto numbers = per_row(op, "ids", ids, ScalarType::Long, x);
    if (flat.numel() == 0) return;
    const RandomInBallArgs<T> args{write_ptr<T>(flat),
                                   read_ptr<T>(from),
                                   eps_of,
                                   numbers ? read_ptr<int64_t>(*numbers) : nullptr,
                                   read_ptr<int64_t>(seed),
                                   static_cast<C>(lower),
                                   static_cast<C>(upper),
                                   batch.rows,
                                   batch.cols};
    Kernel::template run<T>(args, norm, flat);
  });
  return arranged_like(flat, torch::stable::empty_like(x));
}

}  // namespace fastadv
