// Random numbers for a span of a sample's elements, several Philox blocks side by side in SIMD lanes.
#pragma once

#include <algorithm>

#include "cpu/simd.h"
#include "kernels/normal.cuh"

namespace fastadv {

constexpr int64_t kQuads = 64;  // Philox blocks at a time
constexpr int64_t kDrawn = 4 * kQuads;

/// Uniform numbers on (-1, 1) for the elements of blocks first .. first + quads - 1 of sample `id`.
struct DrawUniforms {
  FASTADV_HD static void run(Seed seed, int64_t id, uint32_t first, int64_t quads, float* out) {
    uint32_t words[4][kQuads];
    draw_words(seed, id, first, quads, words);
    for (int64_t q = 0; q < quads; ++q) {
      for (int w = 0; w < 4; ++w) out[4 * q + w] = symmetric_uniform(words[w][q]);
    }
  }
};

/// Standard normals, likewise.
struct DrawNormals {
  FASTADV_HD static void run(Seed seed, int64_t id, uint32_t first, int64_t quads, float* out) {
    uint32_t words[4][kQuads];
    draw_words(seed, id, first, quads, words);
    float normals[4][kQuads];
    for (int w = 0; w < 4; w += 2) {
      for (int64_t q = 0; q < quads; ++q) {
        normal_pair(words[w][q], words[w + 1][q], normals[w][q], normals[w + 1][q]);
      }
    }
    for (int64_t q = 0; q < quads; ++q) {
      for (int w = 0; w < 4; ++w) out[4 * q + w] = normals[w][q];
    }
  }
};

/// Calls body(first, last, numbers) for pieces of columns [first, last) of sample `id`, numbers[0] being that
/// of column `first`.
template <class Draw, class Body>
void for_each_drawn(Seed seed, int64_t id, int64_t first, int64_t last, const Body& body) {
  float numbers[kDrawn];
  for (int64_t col = first; col < last;) {
    const int64_t block = col / 4;
    const int64_t end = std::min(last, 4 * block + kDrawn);
    run_simd<Draw>(seed, id, static_cast<uint32_t>(block), (end - 4 * block + 3) / 4,
                   static_cast<float*>(numbers));
    body(col, end, static_cast<const float*>(numbers) + (col - 4 * block));
    col = end;
  }
}

}  // namespace fastadv
