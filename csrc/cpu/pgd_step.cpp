#include <memory>

#include "bindings/lp.h"
#include "cpu/sweeps.h"
#include "kernels/lp_ops.cuh"

namespace fastadv {
namespace {

template <class T, bool Steepest, class C = Compute<T>>
struct LinfSpan {
  FASTADV_HD static void run(T* out, const T* x_adv, const T* x, const T* grad, int64_t count, C eps,
                             C step_size, C lower, C upper) {
#pragma GCC ivdep  // out may be x_adv: each element is read before it is written
    for (int64_t i = 0; i < count; ++i) {
      out[i] = linf_update<T, Steepest>(widen(x_adv[i]), widen(x[i]), widen(grad[i]), eps, step_size, lower,
                                        upper);
    }
  }
};

template <class T>
struct L2Sums {
  FASTADV_HD static void run(const T* x_adv, const T* x, const T* grad, int64_t count, double* sums) {
    Lanes<Double4> gg, dg, dd;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const auto g = to_double(load_lanes(grad + i));
      const auto d = to_double(load_lanes(x_adv + i) - load_lanes(x + i));
      gg += g * g;
      dg += d * g;
      dd += d * d;
    }
    for (; i < count; ++i) {
      const double g = widen(grad[i]);
      const double d = widen(x_adv[i]) - widen(x[i]);
      gg.low[0] += g * g;
      dg.low[0] += d * g;
      dd.low[0] += d * d;
    }
    sums[0] = sum_of(gg);
    sums[1] = sum_of(dg);
    sums[2] = sum_of(dd);
  }
};

template <class T, class C = Compute<T>>
struct L2Span {
  FASTADV_HD static void run(T* out, const T* x_adv, const T* x, const T* grad, int64_t count, L2Step<C> step,
                             C lower, C upper) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      out[i] = l2_update<T>(widen(x_adv[i]), widen(x[i]), widen(grad[i]), step, lower, upper);
    }
  }
};

struct Kernel {
  template <class T>
  static void run(const PgdStepArgs<T>& args, double norm, const Tensor&) {
    const Batch batch{args.rows, args.cols};
    if (!has_own_kernel(norm)) return lp(args, norm);
    if (norm == kInf) {
      for_each_piece(batch, [&](int64_t row, int64_t first, int64_t last) { linf(args, row, first, last); });
      return;
    }
    using C = Compute<T>;
    run_rows<3>(
        batch, [&](int64_t row, int64_t first, int64_t last) { return l2_sums(args, row, first, last); },
        [&](int64_t row, const std::array<double, 3>& sums) {
          return l2_step<C>(sums[0], sums[1], sums[2], args.eps[row], args.step_size[row], args.steepest);
        },
        [&](int64_t row, int64_t first, int64_t last, const L2Step<C>& step) {
          l2(args, row, first, last, step);
        });
  }

 private:
  /// A sample after the other moves to memory of its thread, and is projected from there while that is in
  /// cache.
  template <class T>
  static void lp(const PgdStepArgs<T>& args, double norm) {
    for_each_sample({args.rows, args.cols}, [&](int64_t first, int64_t last) {
      const std::unique_ptr<double[]> moved(new double[static_cast<size_t>(args.cols)]);
      for (int64_t row = first; row < last; ++row) {
        with_pgd_step(args, norm, moved.get(), 0,
                      [&](const auto& op, int64_t length) { sweep_row(op, row, length); });
      }
    });
  }

  /// Leaves the iterate where the best ones are kept, before it moves.
  template <class T>
  static void keep(const PgdStepArgs<T>& args, int64_t at, int64_t row, int64_t count) {
    if (args.keeps(row)) std::copy_n(args.x_adv + at, count, args.best + at);
  }

  /// Whether the sample keeps its bits; if so they are put in place.
  template <class T>
  static bool stays(const PgdStepArgs<T>& args, int64_t at, int64_t row, int64_t count) {
    if (args.moves(row)) return false;
    if (args.out != args.x_adv) std::copy_n(args.x_adv + at, count, args.out + at);
    return true;
  }

  template <class T>
  static void linf(const PgdStepArgs<T>& args, int64_t row, int64_t first, int64_t last) {
    const int64_t at = row * args.cols + first, count = last - first;
    keep(args, at, row, count);
    if (stays(args, at, row, count)) return;
    const auto span = [&](auto body) {
      run_simd<decltype(body)>(args.out + at, args.x_adv + at, args.x + at, args.grad + at, count,
                               args.eps[row], args.step_size[row], args.lower, args.upper);
    };
    args.steepest ? span(LinfSpan<T, true>{}) : span(LinfSpan<T, false>{});
  }

  template <class T>
  static std::array<double, 3> l2_sums(const PgdStepArgs<T>& args, int64_t row, int64_t first, int64_t last) {
    std::array<double, 3> sums{};
    const int64_t at = row * args.cols + first;
    if (args.moves(row)) {
      run_simd<L2Sums<T>>(args.x_adv + at, args.x + at, args.grad + at, last - first, sums.data());
    }
    return sums;
  }

  template <class T>
  static void l2(const PgdStepArgs<T>& args, int64_t row, int64_t first, int64_t last,
                 const L2Step<Compute<T>>& step) {
    const int64_t at = row * args.cols + first, count = last - first;
    keep(args, at, row, count);
    if (stays(args, at, row, count)) return;
    run_simd<L2Span<T>>(args.out + at, args.x_adv + at, args.x + at, args.grad + at, count, step, args.lower,
                        args.upper);
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step<fastadv::Kernel>));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_<fastadv::Kernel>));
}
