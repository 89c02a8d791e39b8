// Noisy copies of samples: out[draw] = clamp(x + scale * noise(draw)).
//
// Bytes per element of the result: 1 write (4 in fp32); x is read once per copy, from the L2 cache where it
// fits. Floor: the write. Limit: memory bandwidth for float32, the arithmetic of Philox and of the normals
// below it. Deterministic: counter-based numbers (philox.cuh), no sums.
#pragma once

#include "args.cuh"
#include "elementwise.cuh"
#include "normal.cuh"

namespace fastadv {

/// Four noise values of the kind, for elements 4 * block .. 4 * block + 3.
template <Noise Kind>
__device__ __forceinline__ Random4 random_noise(Seed seed, int64_t id, uint32_t block) {
  if constexpr (Kind == Noise::normal) return random_normals(seed, id, block);
  const Philox4 words = random_words(seed, id, block);
  Random4 noise;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float uniform = symmetric_uniform(words.word[e]);
    noise.at[e] = Kind == Noise::sign ? std::copysign(1.0f, uniform) : uniform;
  }
  return noise;
}

/// Index i is quad i % quads() of copy i / quads(); `whole` says that quads are packs of aligned memory.
template <class T, Noise Kind>
struct AddNoise {
  static constexpr int kWidth = 1;
  AddNoiseArgs<T> args;
  bool whole;
  int shift;

  template <int W>
  __device__ __forceinline__ void write(int64_t index) const {
    const int64_t copy = row_of(index, args.quads());
    const int64_t quad = index - copy * args.quads();
    const int64_t draw = row_of(copy, args.rows);
    const int64_t row = copy - draw * args.rows;
    const Random4 noise =
        random_noise<Kind>(args.stream(), args.number(draw, row), static_cast<uint32_t>(quad));
    const T* from = args.x + row * args.cols + quad * 4;
    T* to = args.out + copy * args.cols + quad * 4;
    if (whole) {
      auto pack = load<4>(from);
#pragma unroll
      for (int e = 0; e < 4; ++e) pack.at[e] = args.place(pack.at[e], noise.at[e]);
      store<4>(to, pack);
      return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (quad * 4 + e < args.cols) to[e] = args.place(from[e], noise.at[e]);
    }
  }
};

template <Noise Kind, class T>
inline void launch_noise_of(const AddNoiseArgs<T>& args, cudaStream_t stream) {
  const auto aligned = [](const T* at) { return reinterpret_cast<uintptr_t>(at) % sizeof(Pack<T, 4>) == 0; };
  const bool whole = args.cols % 4 == 0 && aligned(args.x) && aligned(args.out);
  launch_elementwise(AddNoise<T, Kind>{args, whole, kUnaligned}, args.draws * args.rows * args.quads(),
                     stream);
}

template <class T>
inline void launch_add_noise(const AddNoiseArgs<T>& args, cudaStream_t stream) {
  switch (args.kind) {
    case Noise::normal:
      return launch_noise_of<Noise::normal>(args, stream);
    case Noise::uniform:
      return launch_noise_of<Noise::uniform>(args, stream);
    case Noise::sign:
      return launch_noise_of<Noise::sign>(args, stream);
  }
}

}  // namespace fastadv
