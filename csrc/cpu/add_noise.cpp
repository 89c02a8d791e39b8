#include "bindings/noise.h"
#include "cpu/random.h"
#include "cpu/rows.h"

namespace fastadv {
namespace {

template <class T>
struct PlaceSpan {
  FASTADV_HD static void run(const AddNoiseArgs<T>* args, T* out, const T* x, const float* noise,
                             int64_t count) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = args->place(x[i], noise[i]);
  }
};

/// 1 or -1, the sign of a uniform number, which is never 0.
struct DrawSigns {
  FASTADV_HD static void run(Seed seed, int64_t id, uint32_t first, int64_t quads, float* out) {
    DrawUniforms::run(seed, id, first, quads, out);
    for (int64_t i = 0; i < 4 * quads; ++i) out[i] = std::copysign(1.0f, out[i]);
  }
};

struct Kernel {
  template <class T>
  static void run(const AddNoiseArgs<T>& args, const Tensor&) {
    switch (args.kind) {
      case Noise::normal:
        return fill<DrawNormals>(args);
      case Noise::uniform:
        return fill<DrawUniforms>(args);
      case Noise::sign:
        return fill<DrawSigns>(args);
    }
  }

 private:
  template <class Draw, class T>
  static void fill(const AddNoiseArgs<T>& args) {
    for_each_piece({args.draws * args.rows, args.cols}, [&](int64_t copy, int64_t first, int64_t last) {
      const int64_t draw = copy / args.rows, row = copy % args.rows;
      for_each_drawn<Draw>(args.stream(), args.number(draw, row), first, last,
                           [&](int64_t begin, int64_t end, const float* noise) {
                             run_simd<PlaceSpan<T>>(&args, args.out + copy * args.cols + begin,
                                                    args.x + row * args.cols + begin, noise, end - begin);
                           });
    });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("add_noise", TORCH_BOX(&fastadv::add_noise<fastadv::Kernel>));
}
