// The bindings of gap_moments and odds_score; see arguments.h. A backend's Kernel has
//   template <class T> static void run(const GapMomentsArgs<T>&, const Tensor& sums);
// or, for odds_score,
//   static void run(const OddsScoreArgs&, const Tensor& score);
#pragma once

#include "arguments.h"
#include "kernels/args.cuh"

namespace fastadv {

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
