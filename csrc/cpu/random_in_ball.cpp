#include "bindings.h"
#include "cpu/rows.h"
#include "kernels/lp.cuh"
#include "kernels/normal.cuh"

namespace fastadv {
namespace {

/// Calls body(column, number in its quad) for columns [first, last); a Philox call serves a quad.
template <class Make, class Body>
inline void for_each_quad(int64_t first, int64_t last, const Make& make, const Body& body) {
  for (int64_t col = first; col < last;) {
    const auto quad = make(static_cast<uint32_t>(col / 4));
    for (int64_t e = col % 4; e < 4 && col < last; ++e, ++col) body(col, quad, e);
  }
}

struct Kernel {
  template <class T>
  static void run(const RandomInBallArgs<T>& args, double norm, const Tensor&) {
    norm == kInf ? linf(args) : l2(args);
  }

 private:
  template <class T>
  static void linf(const RandomInBallArgs<T>& args) {
    const Seed seed = args.stream();
    for_each_piece({args.rows, args.cols}, [&](int64_t row, int64_t first, int64_t last) {
      const auto eps = args.eps[row];
      for_each_quad(
          first, last, [&](uint32_t block) { return random_words(seed, args.id(row), block); },
          [&](int64_t col, const Philox4& words, int64_t e) {
            const int64_t at = row * args.cols + col;
            const auto delta = eps * symmetric_uniform(words.word[e]);
            args.out[at] = place<T>(widen(args.x[at]), delta, eps, args.lower, args.upper);
          });
    });
  }

  template <class T>
  static void l2(const RandomInBallArgs<T>& args) {
    using C = Compute<T>;
    const Seed seed = args.stream();
    const auto normals = [&](int64_t row) {
      return [&, row](uint32_t block) { return random_normals(seed, args.id(row), block); };
    };
    run_rows<1>(
        {args.rows, args.cols},
        [&](int64_t row, int64_t first, int64_t last) {
          double sum = 0.0;
          for_each_quad(first, last, normals(row), [&](int64_t, const Normal4& quad, int64_t e) {
            sum += double{quad.at[e]} * double{quad.at[e]};
          });
          return std::array<double, 1>{sum};
        },
        [&](int64_t row, const std::array<double, 1>& sums) {
          const double radius = args.eps[row] * unit_radius(seed, args.id(row), args.cols);
          return towards<C>(std::sqrt(sums[0]), radius * (1.0 - slack<C>()));
        },
        [&](int64_t row, int64_t first, int64_t last, const Multiple<C>& plan) {
          for_each_quad(first, last, normals(row), [&](int64_t col, const Normal4& quad, int64_t e) {
            const int64_t at = row * args.cols + col;
            const C delta = plan(C(quad.at[e]));
            args.out[at] = place<T>(widen(args.x[at]), delta, std::fabs(delta), args.lower, args.upper);
          });
        });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("random_in_ball", TORCH_BOX(&fastadv::random_in_ball<fastadv::Kernel>));
}
