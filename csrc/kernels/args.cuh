// What a kernel is given: flat arrays of rows * cols elements, as a rule one sample a row.
#pragma once

#include "philox.cuh"
#include "scalar.cuh"

namespace fastadv {

template <class T, class C = Compute<T>>
struct PgdStepArgs {
  T* out;  // may be x_adv
  const T* x_adv;
  const T* x;
  const T* grad;
  PerSample<C> eps;
  PerSample<C> step_size;
  const bool* active;  // null: every sample moves
  T* best;             // null, or where samples that are `better` leave x_adv before they move
  const bool* better;
  C lower;
  C upper;
  bool steepest;
  int64_t rows;
  int64_t cols;

  FASTADV_HD bool moves(int64_t row) const { return active == nullptr || active[row]; }
  FASTADV_HD bool keeps(int64_t row) const { return best != nullptr && better[row]; }
};

template <class T, class C = Compute<T>>
struct ProjectArgs {
  T* out;
  const T* delta;
  PerSample<C> eps;
  int64_t rows;
  int64_t cols;
};

template <class T>
struct SteepestArgs {
  T* out;
  const T* grad;
  int64_t rows;
  int64_t cols;
};

/// A row is what competes for winners: a sample, a channel or a vector.
template <class T>
struct KwtaArgs {
  T* out;
  const T* x;
  uint32_t* winners;  // null, or rows * words() words: bit i % 32 of word i / 32 says whether element i won
  int64_t k;          // 1 .. cols
  bool lowest_index;  // of equal elements the first ones win, so that there are k winners; else all of them
  int64_t rows;
  int64_t cols;  // below 2^31

  FASTADV_HD int64_t words() const { return (cols + 31) / 32; }
};

template <class T>
struct KwtaBackwardArgs {
  T* out;
  const T* grad;
  const uint32_t* winners;
  int64_t rows;
  int64_t cols;

  FASTADV_HD int64_t words() const { return (cols + 31) / 32; }
};

template <class T, class C = Compute<T>>
struct RandomInBallArgs {
  T* out;
  const T* x;
  PerSample<C> eps;
  const int64_t* ids;   // null: sample i is number i
  const int64_t* seed;  // key, offset
  C lower;
  C upper;
  int64_t rows;
  int64_t cols;

  FASTADV_HD int64_t id(int64_t row) const { return ids == nullptr ? row : ids[row]; }
  FASTADV_HD Seed stream() const { return {static_cast<uint64_t>(seed[0]), static_cast<uint32_t>(seed[1])}; }
  FASTADV_HD int64_t quads() const { return (cols + 3) / 4; }  // a Philox call serves four elements
};

}  // namespace fastadv
