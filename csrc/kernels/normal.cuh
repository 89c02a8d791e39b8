// Normal numbers and radii from Philox words.
//
// Logarithm, sine and cosine are polynomials of our own, fitted to the ranges they are needed on with errors
// below a float's rounding. So every device draws the same bits, and a CPU's lanes draw several at once.
#pragma once

#include "philox.cuh"
#include "scalar.cuh"

namespace fastadv {

struct Random4 {
  float at[4];
};

/// ln(u) for a normal u in (0, 1): u = m 2^e with m in [sqrt(1/2), sqrt(2)), f = m - 1, and
/// ln(1 + f) = f - f^2 / 2 + f^3 P(f), |P's error| * f^2 < 8e-10.
FASTADV_HD float log_of_uniform(float u) {
  const uint32_t bits = bits_of(u);
  constexpr uint32_t kRootHalf = 0x3f3504f3u;
  const uint32_t shifted = bits + (0x3f800000u - kRootHalf);
  const float exponent = static_cast<float>(static_cast<int32_t>(shifted >> 23) - 127);
  const float f = float_of((shifted & 0x007fffffu) + kRootHalf) - 1.0f;
  float p = 0x1.1b3ef4p-4f;
  p = p * f - 0x1.e2e81cp-4f;
  p = p * f + 0x1.e65188p-4f;
  p = p * f - 0x1.fb4380p-4f;
  p = p * f + 0x1.2332b4p-3f;
  p = p * f - 0x1.5562e0p-3f;
  p = p * f + 0x1.99a546p-3f;
  p = p * f - 0x1.ffffeep-3f;
  p = p * f + 0x1.555546p-2f;
  const float square = f * f;
  const float small = (f * square) * p - 0.5f * square;
  constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;  // whose sum is ln 2 to 2^-40
  return exponent * kLn2High + (f + (small + exponent * kLn2Low));
}

/// Sine and cosine of 2 pi v for v in (0, 1): 4 v = q + r with |r| <= 1/2, both exact; then sin(r pi / 2) =
/// r S(r^2) and cos(r pi / 2) = C(r^2), with errors below 5e-9, go to the quadrant q.
FASTADV_HD void sine_and_cosine(float v, float& sine, float& cosine) {
  const float turns = 4.0f * v;
  const auto quadrant = static_cast<int32_t>(turns + 0.5f);
  const float r = turns - static_cast<float>(quadrant);
  const float t = r * r;
  const float s = r * (((-0x1.2d9bb8p-8f * t + 0x1.465ec6p-4f) * t - 0x1.4abbbap-1f) * t + 0x1.921fb6p+0f);
  const float c =
      (((0x1.d9c364p-11f * t - 0x1.55c57cp-6f) * t + 0x1.03c1dcp-2f) * t - 0x1.3bd3ccp+0f) * t + 1.0f;
  const bool swapped = (quadrant & 1) != 0;
  const float along = swapped ? s : c;
  const float across = swapped ? c : s;
  cosine = ((quadrant + 1) & 2) != 0 ? -along : along;
  sine = (quadrant & 2) != 0 ? -across : across;
}

/// Two independent standard normals from two words (Box and Muller 1958).
FASTADV_HD void normal_pair(uint32_t first, uint32_t second, float& a, float& b) {
  const float radius = std::sqrt(-2.0f * log_of_uniform(open_uniform(first)));
  float sine, cosine;
  sine_and_cosine(open_uniform(second), sine, cosine);
  a = radius * cosine;
  b = radius * sine;
}

/// Four standard normals for elements 4 * block .. 4 * block + 3.
FASTADV_HD Random4 random_normals(Seed seed, int64_t id, uint32_t block) {
  const Philox4 words = random_words(seed, id, block);
  Random4 normals;
  normal_pair(words.word[0], words.word[1], normals.at[0], normals.at[1]);
  normal_pair(words.word[2], words.word[3], normals.at[2], normals.at[3]);
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
