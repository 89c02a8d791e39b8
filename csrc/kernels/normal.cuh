// Normal numbers and radii from Philox words.
#pragma once

#include "philox.cuh"
#include "scalar.cuh"

namespace fastadv {

struct Normal4 {
  float at[4];
};

/// Four standard normals for elements 4 * block .. 4 * block + 3 (Box and Muller 1958).
FASTADV_HD Normal4 random_normals(Seed seed, int64_t id, uint32_t block) {
  const Philox4 words = random_words(seed, id, block);
  Normal4 normals;
  for (int pair = 0; pair < 4; pair += 2) {
    const float u = open_uniform(words.word[pair]);
    const float v = open_uniform(words.word[pair + 1]);
#if defined(__CUDA_ARCH__)
    const float radius = sqrtf(-2.0f * logf(u));
    float sine, cosine;
    sincospif(2.0f * v, &sine, &cosine);
#else  // in double, so that an argument of 2 pi v costs no digits of the result
    const auto radius = static_cast<float>(std::sqrt(-2.0 * std::log(double{u})));
    const auto cosine = static_cast<float>(std::cos(6.283185307179586 * v));
    const auto sine = static_cast<float>(std::sin(6.283185307179586 * v));
#endif
    normals.at[pair] = radius * cosine;
    normals.at[pair + 1] = radius * sine;
  }
  return normals;
}

/// The block no element of a sample reaches: 4 * 0xffffffff elements are 64 GiB of floats.
constexpr uint32_t kRadiusBlock = 0xffffffffu;

/// The distance from the centre of a point uniform in the unit ball of `dimensions` dimensions.
FASTADV_HD double unit_radius(Seed seed, int64_t id, int64_t dimensions) {
  const double u = open_uniform(random_words(seed, id, kRadiusBlock).word[0]);
  return std::exp(std::log(u) / static_cast<double>(dimensions));
}

}  // namespace fastadv
