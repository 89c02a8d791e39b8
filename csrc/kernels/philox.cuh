// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A counter-based generator: number i of sample s is a pure function of (seed, s, i). So the CPU,
// the GPU and the reference draw the same integers whatever the launch shape, thread count or
// chunking, and nothing is stored between calls.
#pragma once

#include <cstdint>

#include "platform.cuh"

namespace fastadv {

struct Seed {
  uint64_t key;
  uint32_t offset;  // which stream of this key: a restart, say
};

struct Philox4 {
  uint32_t word[4];
};

/// Flips the bit of a key that seeds leave 0: noise has other numbers than random_in_ball with the same seed.
constexpr uint64_t kNoiseKeys = uint64_t{1} << 63;

constexpr int kPhiloxRounds = 10;

/// One round, after which both keys go on by kWeyl0 and kWeyl1.
FASTADV_HD Philox4 philox_round(Philox4 counter, uint32_t key0, uint32_t key1) {
  const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
  const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
  return {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
           static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
}
constexpr uint32_t kWeyl0 = 0x9E3779B9u;
constexpr uint32_t kWeyl1 = 0xBB67AE85u;

FASTADV_HD Philox4 philox(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    counter = philox_round(counter, key0, key1);
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

/// The counter of elements 4 * block .. 4 * block + 3 of sample `id`.
FASTADV_HD Philox4 counter_of(Seed seed, int64_t id, uint32_t block) {
  const uint64_t sample = static_cast<uint64_t>(id);
  return {{block, static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32), seed.offset}};
}

/// The number of draw `draw` of sample `id`: no two of them meet as long as ids differ by less than 2^31 and
/// draws are fewer, because no multiple of 2^64 over the golden ratio comes closer to 0.
FASTADV_HD int64_t draw_number(int64_t id, int64_t draw) {
  return static_cast<int64_t>(static_cast<uint64_t>(id) + static_cast<uint64_t>(draw) * 0x9E3779B97F4A7C15u);
}

/// Four random words for elements 4 * block .. 4 * block + 3 of sample `id`.
FASTADV_HD Philox4 random_words(Seed seed, int64_t id, uint32_t block) {
  return philox(counter_of(seed, id, block), static_cast<uint32_t>(seed.key),
                static_cast<uint32_t>(seed.key >> 32));
}

/// The words of blocks first .. first + quads - 1 (at most N), each of the four in an array of its own: a
/// CPU's lanes draw several blocks at once.
template <int N>
FASTADV_HD void draw_words(Seed seed, int64_t id, uint32_t first, int64_t quads, uint32_t (&words)[4][N]) {
  for (int64_t q = 0; q < quads; ++q) {
    const Philox4 counter = counter_of(seed, id, first + static_cast<uint32_t>(q));
    for (int w = 0; w < 4; ++w) words[w][q] = counter.word[w];
  }
  auto key0 = static_cast<uint32_t>(seed.key), key1 = static_cast<uint32_t>(seed.key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int64_t q = 0; q < quads; ++q) {
      const Philox4 next = philox_round({{words[0][q], words[1][q], words[2][q], words[3][q]}}, key0, key1);
      for (int w = 0; w < 4; ++w) words[w][q] = next.word[w];
    }
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
}

/// Uniform on the open interval (0, 1): odd multiples of 2^-24, exact in float.
FASTADV_HD float open_uniform(uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

/// Uniform on (-1, 1): odd multiples of 2^-23, exact in float, symmetric around 0.
FASTADV_HD float symmetric_uniform(uint32_t word) {
  return 2.0f * open_uniform(word) - 1.0f;
}

}  // namespace fastadv
