// The binding of add_noise; see arguments.h. A backend's Kernel has
//   template <class T> static void run(const AddNoiseArgs<T>&, const Tensor& out);
#pragma once

#include "arguments.h"
#include "kernels/args.cuh"

namespace fastadv {

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

}  // namespace fastadv
