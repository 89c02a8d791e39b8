#include "bindings/kwta.h"
#include "cpu/rows.h"

namespace fastadv {
namespace {

constexpr int64_t kWord = 32;  // elements that share a word of winners

template <class T>
struct MaskSpan {
  FASTADV_HD static void run(T* out, const T* grad, const uint32_t* words, int64_t count) {
    for (int64_t i = 0; i < count; i += kWord) {
      const uint32_t word = *words++;
      const int64_t size = std::min(kWord, count - i);
      for (int64_t j = 0; j < size; ++j) out[i + j] = (word >> j & 1u) != 0 ? grad[i + j] : T{};
    }
  }
};

struct Kernel {
  template <class T>
  static void run(const KwtaBackwardArgs<T>& args, const Tensor&) {
    const int64_t chunk = std::min(kGrain, args.words() * kWord);
    const int64_t chunks = (args.cols + chunk - 1) / chunk;
    const int64_t grain = std::max<int64_t>(1, kGrain / chunk);
    torch::stable::parallel_for(0, args.rows * chunks, grain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t row = i / chunks, begin = (i % chunks) * chunk;
        const int64_t at = row * args.cols + begin;
        run_simd<MaskSpan<T>>(args.out + at, args.grad + at,
                              args.winners + row * args.words() + begin / kWord,
                              std::min(chunk, args.cols - begin));
      }
    });
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("kwta_backward", TORCH_BOX(&fastadv::kwta_backward<fastadv::Kernel>));
}
