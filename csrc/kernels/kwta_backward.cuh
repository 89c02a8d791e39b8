// The gradient of k winners take all: the winners' elements of the output's gradient, +0 elsewhere.
//
// Bytes per element: 1 read and 1 write (8 in fp32) and 1/8 byte of winners. Floor: that. Limit: memory
// bandwidth. Deterministic: no sums.
#pragma once

#include "args.cuh"
#include "elementwise.cuh"

namespace fastadv {

template <class T>
struct KwtaBackward {
  static constexpr int kWidth = kPack<T>;
  KwtaBackwardArgs<T> args;
  int shift;

  template <int W>
  __device__ __forceinline__ void write(int64_t index) const {
    const auto grad = load<W>(args.grad + index);
    RowCursor cursor(row_of(index, args.cols), args.cols);
    int64_t col = index - cursor.row * args.cols;
    const auto word_of = [&] { return args.winners[cursor.row * args.words() + col / 32]; };
    uint32_t word = word_of();
    Pack<T, W> out;
#pragma unroll
    for (int e = 0; e < W; ++e, ++col) {
      if (cursor.passes_end(index + e)) col = 0;
      if (e > 0 && col % 32 == 0) word = word_of();
      out.at[e] = (word >> (col % 32)) & 1u ? grad.at[e] : T{};
    }
    store<W>(args.out + index, out);
  }
};

template <class T>
inline void launch_kwta_backward(const KwtaBackwardArgs<T>& args, cudaStream_t stream) {
  launch_elementwise(KwtaBackward<T>{args, common_shift(args.out, args.grad)}, args.rows * args.cols, stream);
}

}  // namespace fastadv
