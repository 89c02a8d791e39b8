// The bindings of kwta and kwta_backward; see arguments.h. A backend's Kernel has
//   template <class T> static void run(const <Op>Args<T>&, const Tensor& out);
#pragma once

#include "arguments.h"
#include "kernels/args.cuh"

namespace fastadv {

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

}  // namespace fastadv
