// Each operator once, for every backend: checks its tensors, arranges them in memory, and hands a
// Kernel plain pointers. A backend's file defines
//   struct Kernel { template <class T> static void run(const <Op>Args<T>&, double norm, const Tensor& out);
//   };
// (without the norm for k-WTA)
// and registers the functions below with it.
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

/// What competes for winners in `x`: rows of `cols` elements, which are the dimensions from `first` on.
struct WinnerRows {
  int64_t first;
  int64_t rows;
  int64_t cols;
  bool in_index_order;

  WinnerRows(const char* op, const char* name, const Tensor& x, const std::string& per,
             const std::string& ties)
      : first(per == "sample"    ? 1
              : per == "channel" ? 2
                                 : x.dim() - 1),
        rows(1),
        cols(1),
        in_index_order(ties == "lowest_index") {
    require(per == "sample" || per == "channel" || per == "last", op,
            "per must be 'sample', 'channel' or 'last', got '", per, "'");
    require(ties == "all" || in_index_order, op, "ties must be 'all' or 'lowest_index', got '", ties, "'");
    require(x.dim() > first && first >= 0, op, name, " must have at least ", std::max<int64_t>(first, 0) + 1,
            " dimensions for per='", per, "', got shape ", shape_of(x));
    for (int64_t d = 0; d < x.dim(); ++d) (d < first ? rows : cols) *= x.size(d);
    require(cols < (int64_t{1} << 31), op, "rows must be shorter than 2^31, got ", cols);
  }

  int64_t words() const { return (cols + 31) / 32; }
  bool is_flat(const Tensor& x) const {
    return in_index_order ? x.is_contiguous() : fastadv::is_flat(x, first);
  }
};

template <class Kernel>
std::tuple<Tensor, Tensor> kwta(const Tensor& x, int64_t k, const std::string& per, const std::string& ties,
                                const std::string& backward, bool winners) {
  const char* op = "kwta";
  const WinnerRows shape(op, "x", x, per, ties);
  require(backward == "mask" || backward == "straight_through", op,
          "backward must be 'mask' or 'straight_through', got '", backward, "'");
  require(1 <= k && k <= shape.cols, op, "k must be 1 .. ", shape.cols, ", the length of a row, got ", k);
  Tensor out = torch::stable::empty_like(x);
  const Tensor words =
      torch::stable::new_empty(x, {winners ? shape.rows : 0, winners ? shape.words() : 0}, ScalarType::Int);
  dispatch(op, "x", x, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_flat_output(out, shape.is_flat(out), false, [&](const Tensor& flat) {
      if (flat.numel() == 0) return;
      const Tensor from = arranged_like(x, flat);
      const KwtaArgs<T> args{write_ptr<T>(flat),
                             read_ptr<T>(from),
                             winners ? write_ptr<uint32_t>(words) : nullptr,
                             k,
                             shape.in_index_order,
                             shape.rows,
                             shape.cols};
      Kernel::template run<T>(args, flat);
    });
  });
  return {out, words};
}

template <class Kernel>
Tensor kwta_backward(const Tensor& grad, const Tensor& winners, const std::string& per,
                     const std::string& ties) {
  const char* op = "kwta_backward";
  const WinnerRows shape(op, "grad", grad, per, ties);
  require(winners.scalar_type() == ScalarType::Int && winners.dim() == 2 && winners.size(0) == shape.rows &&
              winners.size(1) == shape.words() && winners.is_contiguous(),
          op, "winners must be contiguous int32 of shape [", shape.rows, ", ", shape.words(), "], got ",
          torch::headeronly::toString(winners.scalar_type()), " of shape ", shape_of(winners));
  require(winners.device() == grad.device(), op, "winners must be on grad's device");
  Tensor out = torch::stable::empty_like(grad);
  dispatch(op, "grad", grad, [&](auto tag) {
    using T = typename decltype(tag)::type;
    with_flat_output(out, shape.is_flat(out), false, [&](const Tensor& flat) {
      if (flat.numel() == 0) return;
      const Tensor from = arranged_like(grad, flat);
      const KwtaBackwardArgs<T> args{write_ptr<T>(flat), read_ptr<T>(from), read_ptr<uint32_t>(winners),
                                     shape.rows, shape.cols};
      Kernel::template run<T>(args, flat);
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

template <class Kernel>
Tensor add_noise(const Tensor& x, int64_t draws, const std::string& kind, double scale, double lower,
                 double upper, const Tensor& seed, const std::optional<Tensor>& ids, int64_t first_draw) {
  const char* op = "add_noise";
  require(kind == "normal" || kind == "uniform" || kind == "sign", op,
          "kind must be 'normal', 'uniform' or 'sign', got '", kind, "'");
  require(draws >= 1, op, "draws must be at least 1, got ", draws);
  require(scale >= 0, op, "scale must be at least 0, got ", scale);
  require(first_draw >= 0, op, "first_draw must be at least 0, got ", first_draw);
  check_bounds(op, lower, upper);
  check_seed(op, seed, x);
  const Tensor from = torch::stable::contiguous(x);  // numbers are counted in logical order
  std::vector<int64_t> shape{draws};
  for (int64_t d = 0; d < x.dim(); ++d) shape.push_back(x.size(d));
  const Tensor out = torch::stable::new_empty(from, shape);
  dispatch(op, "x", x, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Batch batch = batch_of(op, "x", x);
    const auto numbers = per_row(op, "ids", ids, ScalarType::Long, x);
    if (out.numel() == 0) return;
    const AddNoiseArgs<T> args{write_ptr<T>(out),
                               read_ptr<T>(from),
                               numbers ? read_ptr<int64_t>(*numbers) : nullptr,
                               read_ptr<int64_t>(seed),
                               kind == "normal"    ? Noise::normal
                               : kind == "uniform" ? Noise::uniform
                                                   : Noise::sign,
                               static_cast<C>(scale),
                               static_cast<C>(lower),
                               static_cast<C>(upper),
                               first_draw,
                               draws,
                               batch.rows,
                               batch.cols};
    Kernel::template run<T>(args, out);
  });
  return out;
}

template <class Kernel>
std::tuple<Tensor, Tensor> gap_moments(const Tensor& clean_logits, const Tensor& noisy_logits,
                                       const std::optional<Tensor>& sums,
                                       const std::optional<Tensor>& squares) {
  const char* op = "gap_moments";
  require(clean_logits.dim() == 2 && clean_logits.size(1) >= 2, op,
          "clean_logits must be [B, K] with K >= 2, got shape ", shape_of(clean_logits));
  const int64_t rows = clean_logits.size(0), classes = clean_logits.size(1);
  require(noisy_logits.dim() == 3 && noisy_logits.size(1) == rows && noisy_logits.size(2) == classes, op,
          "noisy_logits must have shape [draws, ", rows, ", ", classes, "], got ", shape_of(noisy_logits));
  require(noisy_logits.scalar_type() == clean_logits.scalar_type(), op,
          "noisy_logits must have the dtype of clean_logits");
  require(noisy_logits.device() == clean_logits.device(), op,
          "noisy_logits must be on the device of clean_logits");
  require(sums.has_value() == squares.has_value(), op, "sums and squares must come together");
  std::optional<Tensor> earlier[2] = {sums, squares};
  for (auto& sum : earlier) {
    if (!sum) continue;
    require(same_shape(*sum, clean_logits) && sum->scalar_type() == ScalarType::Double &&
                sum->device() == clean_logits.device(),
            op, "earlier sums must be float64 ", shape_of(clean_logits), " on clean_logits' device");
    sum = torch::stable::contiguous(*sum);
  }
  const Tensor clean = torch::stable::contiguous(clean_logits),
               noisy = torch::stable::contiguous(noisy_logits);
  const Tensor out_sums = torch::stable::new_empty(clean, {rows, classes}, ScalarType::Double);
  const Tensor out_squares = torch::stable::new_empty(clean, {rows, classes}, ScalarType::Double);
  dispatch(op, "clean_logits", clean, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (rows == 0) return;
    const GapMomentsArgs<T> args{write_ptr<double>(out_sums),
                                 write_ptr<double>(out_squares),
                                 earlier[0] ? read_ptr<double>(*earlier[0]) : nullptr,
                                 earlier[1] ? read_ptr<double>(*earlier[1]) : nullptr,
                                 read_ptr<T>(clean),
                                 read_ptr<T>(noisy),
                                 noisy.size(0),
                                 rows,
                                 classes};
    Kernel::template run<T>(args, out_sums);
  });
  return {out_sums, out_squares};
}

template <class Kernel>
std::tuple<Tensor, Tensor> odds_score(const Tensor& gaps, const Tensor& predicted, const Tensor& mean,
                                      const Tensor& std, bool two_sided) {
  const char* op = "odds_score";
  require(gaps.dim() == 3 && gaps.size(0) >= 1 && gaps.size(2) >= 2, op,
          "gaps must be [kinds, B, K] with K >= 2, got ", shape_of(gaps));
  require(gaps.scalar_type() == ScalarType::Double, op, "gaps must be float64");
  const int64_t kinds = gaps.size(0), rows = gaps.size(1), classes = gaps.size(2);
  require(predicted.dim() == 1 && predicted.size(0) == rows && predicted.scalar_type() == ScalarType::Long &&
              predicted.device() == gaps.device(),
          op, "predicted must be int64 of shape [", rows, "] on the device of gaps, got shape ",
          shape_of(predicted));
  const Tensor labels = torch::stable::contiguous(predicted);
  for (const auto& [name, known] : {std::pair{"mean", &mean}, std::pair{"std", &std}}) {
    require(known->dim() == 3 && known->size(0) == kinds && known->size(1) == classes &&
                known->size(2) == classes,
            op, name, " must have shape [", kinds, ", ", classes, ", ", classes, "], got ", shape_of(*known));
    require(known->scalar_type() == ScalarType::Double, op, name, " must be float64");
    require(known->device() == gaps.device(), op, name, " must be on the device of gaps");
  }
  const Tensor from = torch::stable::contiguous(gaps);
  const Tensor means = torch::stable::contiguous(mean), stds = torch::stable::contiguous(std);
  const Tensor score = torch::stable::new_empty(from, {rows});
  const Tensor towards = torch::stable::new_empty(from, {rows}, ScalarType::Long);
  if (rows > 0) {
    Kernel::run(OddsScoreArgs{write_ptr<double>(score), write_ptr<int64_t>(towards), read_ptr<double>(from),
                              read_ptr<int64_t>(labels), read_ptr<double>(means), read_ptr<double>(stds),
                              two_sided, kinds, rows, classes},
                score);
  }
  return {score, towards};
}

}  // namespace fastadv
