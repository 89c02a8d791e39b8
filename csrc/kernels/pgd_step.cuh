// One step of projected gradient ascent: move, project on the ball around x, clamp to the box.
//
// linf. Bytes per element: 3 reads and 1 write (16 in fp32, 8 in half). Floor: exactly that, in one
//       launch. Limit: memory bandwidth. Deterministic: no sums.
// l2.   Bytes per element: 3 reads for the sums, 3 reads and 1 write for the step (28 in fp32, of which 12
//       come from cache where the sample is short). Floor: 16, if a sample stayed on chip. Limit: memory
//       bandwidth. Deterministic: see row_reduce.cuh.
// Other norms: a launch moves each sample to scratch memory, a launch projects it from there on ball and box;
//       see lp_direction.cuh and project.cuh.
#pragma once

#include "args.cuh"
#include "elementwise.cuh"
#include "lp.cuh"
#include "lp_ops.cuh"
#include "row_reduce.cuh"
#include "sweeps.cuh"

namespace fastadv {

template <class T, bool Steepest, bool Uniform>
struct LinfPgdStep {
  using C = Compute<T>;
  static constexpr int kWidth = kPack<T>;
  PgdStepArgs<T> args;
  int shift;

  template <int W>
  __device__ __forceinline__ void write(int64_t index) const {
    const auto x_adv = load<W>(args.x_adv + index);
    const auto x = load<W>(args.x + index);
    const auto grad = load<W>(args.grad + index);
    RowCursor cursor(Uniform ? 0 : row_of(index, args.cols), args.cols);
    C eps = args.eps[cursor.row];
    C step_size = args.step_size[cursor.row];
    bool moves = Uniform || args.moves(cursor.row);
    bool keeps = !Uniform && args.keeps(cursor.row);
    const bool in_one_row = index + W <= cursor.end;
    if (keeps && in_one_row) store<W>(args.best + index, x_adv);
    Pack<T, W> out;
#pragma unroll
    for (int e = 0; e < W; ++e) {
      if (!Uniform && cursor.passes_end(index + e)) {
        eps = args.eps[cursor.row];
        step_size = args.step_size[cursor.row];
        moves = args.moves(cursor.row);
        keeps = args.keeps(cursor.row);
      }
      if (!Uniform && keeps && !in_one_row) args.best[index + e] = x_adv.at[e];
      const T stepped = linf_update<T, Steepest>(widen(x_adv.at[e]), widen(x.at[e]), widen(grad.at[e]), eps,
                                                 step_size, args.lower, args.upper);
      out.at[e] = moves ? stepped : x_adv.at[e];
    }
    store<W>(args.out + index, out);
  }
};

template <class T>
struct L2PgdStep {
  using C = Compute<T>;
  static constexpr int kWidth = kPack<T>;
  static constexpr int kSums = 3;  // <grad, grad>, <delta, grad>, <delta, delta>
  struct Plan {
    L2Step<C> step;
    bool moves;
    bool keeps;
  };
  PgdStepArgs<T> args;
  int shift;

  __device__ __forceinline__ bool reads(int64_t row) const { return args.moves(row); }

  template <int W>
  __device__ __forceinline__ void add(int64_t row, int64_t col, bool aligned, double (&sums)[kSums]) const {
    const int64_t index = row * args.cols + col;
    const auto x_adv = load<W>(args.x_adv + index, aligned);
    const auto x = load<W>(args.x + index, aligned);
    const auto grad = load<W>(args.grad + index, aligned);
#pragma unroll
    for (int e = 0; e < W; ++e) {
      const double g = widen(grad.at[e]);
      const double d = widen(x_adv.at[e]) - widen(x.at[e]);
      sums[0] += g * g;
      sums[1] += d * g;
      sums[2] += d * d;
    }
  }

  __device__ __forceinline__ Plan plan(int64_t row, const double (&sums)[kSums]) const {
    return {l2_step<C>(sums[0], sums[1], sums[2], args.eps[row], args.step_size[row], args.steepest),
            args.moves(row), args.keeps(row)};
  }

  template <int W>
  __device__ __forceinline__ void write(int64_t row, int64_t col, const Plan& plan) const {
    const int64_t index = row * args.cols + col;
    auto out = load<W>(args.x_adv + index);
    if (plan.keeps) store<W>(args.best + index, out);
    if (plan.moves) {
      const auto x = load<W>(args.x + index);
      const auto grad = load<W>(args.grad + index);
#pragma unroll
      for (int e = 0; e < W; ++e) {
        out.at[e] = l2_update<T>(widen(out.at[e]), widen(x.at[e]), widen(grad.at[e]), plan.step, args.lower,
                                 args.upper);
      }
    }
    store<W>(args.out + index, out);
  }
};

template <class T>
inline int shift_of(const PgdStepArgs<T>& args) {
  const T* best = args.best == nullptr ? args.out : args.best;
  return common_shift(args.out, args.x_adv, args.x, args.grad, best);
}

template <class T>
inline void launch_linf_pgd_step(const PgdStepArgs<T>& args, cudaStream_t stream) {
  const int64_t count = args.rows * args.cols;
  const int shift = shift_of(args);
  // Where all samples share eps and step size, move and keep nothing, no element needs to know its sample.
  const bool uniform =
      args.eps.stride == 0 && args.step_size.stride == 0 && args.active == nullptr && args.best == nullptr;
  if (uniform && args.steepest) {
    launch_elementwise(LinfPgdStep<T, true, true>{args, shift}, count, stream);
  } else if (uniform) {
    launch_elementwise(LinfPgdStep<T, false, true>{args, shift}, count, stream);
  } else if (args.steepest) {
    launch_elementwise(LinfPgdStep<T, true, false>{args, shift}, count, stream);
  } else {
    launch_elementwise(LinfPgdStep<T, false, false>{args, shift}, count, stream);
  }
}

/// `scratch` holds scratch_doubles<L2PgdStep<T>>(rows, cols) doubles.
template <class T>
inline void launch_l2_pgd_step(const PgdStepArgs<T>& args, double* scratch, cudaStream_t stream) {
  launch_rows(L2PgdStep<T>{args, shift_of(args)}, args.rows, args.cols, scratch, stream);
}

/// `scratch` holds rows * cols doubles.
template <class T>
inline void launch_lp_pgd_step(const PgdStepArgs<T>& args, double norm, double* scratch,
                               cudaStream_t stream) {
  with_pgd_step(args, norm, scratch, args.cols,
                [&](const auto& op, int64_t length) { launch_sweeps(op, args.rows, length, stream); });
}

}  // namespace fastadv
