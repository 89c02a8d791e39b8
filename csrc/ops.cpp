// Every schema of fastadv, on one page. Kernels: cpu/X.cpp and cuda/X.cu; fake and autograd rules:
// fastadv/_registration; documentation: fastadv/ops.
//
// eps and step_size are tensors of shape [] or [B] in the compute dtype (float32, or float64 for
// float64 samples); lower and upper are -inf and inf (or None) for no bounds; seed is int64 (key, offset).
// norm is in [1, inf], or 0 for project and pgd_step: then eps counts elements, or with `pixels` pixels of
// [B, C, ...].
//
// kwta returns its output and int32 words [rows, ceil(cols / 32)] whose bits say which elements won, in the
// order of the output's memory, or of contiguous memory for ties="lowest_index" and where rows are not
// contiguous runs; empty unless `winners`. kwta_backward takes a gradient in the output's strides.
#include <torch/csrc/stable/library.h>

#include "cpu/simd.h"

STABLE_TORCH_LIBRARY(fastadv, m) {
  m.def(
      "pgd_step(Tensor x_adv, Tensor x, Tensor grad, Tensor eps, Tensor step_size, float norm, float lower, "
      "float upper, bool steepest=True, Tensor? active=None, int spread=1, bool pixels=False) -> Tensor");
  m.def(
      "pgd_step_(Tensor(a!) x_adv, Tensor x, Tensor grad, Tensor eps, Tensor step_size, float norm, float "
      "lower, "
      "float upper, bool steepest=True, Tensor? active=None, int spread=1, bool pixels=False, Tensor(b!)? "
      "best=None, Tensor? better=None) -> ()");
  m.def(
      "project(Tensor delta, Tensor eps, float norm, Tensor? x=None, float? lower=None, float? upper=None, "
      "bool pixels=False) -> Tensor");
  m.def("steepest(Tensor grad, float norm) -> Tensor");
  m.def(
      "random_in_ball(Tensor x, Tensor eps, float norm, float lower, float upper, Tensor seed, "
      "Tensor? ids=None) -> Tensor");
  m.def(
      "kwta(Tensor x, SymInt k, str per=\"sample\", str ties=\"all\", str backward=\"mask\", bool "
      "winners=True) "
      "-> (Tensor, Tensor)");
  m.def("kwta_backward(Tensor grad, Tensor winners, str per=\"sample\", str ties=\"all\") -> Tensor");
  m.def(
      "add_noise(Tensor x, SymInt draws, str kind, float scale, float lower, float upper, Tensor seed, "
      "Tensor? ids=None, SymInt first_draw=0) -> Tensor");
  m.def(
      "gap_moments(Tensor clean_logits, Tensor noisy_logits, Tensor? sums=None, Tensor? squares=None) -> "
      "(Tensor, Tensor)");
  m.def(
      "odds_score(Tensor gaps, Tensor predicted, Tensor mean, Tensor std, bool two_sided=False) -> (Tensor, "
      "Tensor)");
  // w, m and v are in the compute dtype; c, weight and tau [] or [B]; the distance is [B] float64.
  m.def(
      "cw_step_(Tensor(a!) x_adv, Tensor(b!) w, Tensor(c!) m, Tensor(d!) v, Tensor x, Tensor grad, Tensor c, "
      "Tensor weight, float lr, SymInt step, float lower, float upper, Tensor? tau=None, Tensor? "
      "active=None, "
      "Tensor(e!)? best=None, Tensor? better=None, float stretch=0.) -> Tensor");
  m.def("_simd_level() -> str");
}

namespace fastadv {
std::string simd_level_name() {
  return name_of(simd_level());
}
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CompositeExplicitAutograd, m) {
  m.impl("_simd_level", TORCH_BOX(&fastadv::simd_level_name));
}
