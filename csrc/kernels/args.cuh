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
  int64_t spread;    // l1: elements that share a step at least
  int64_t channels;  // l0: elements of a pixel, cols / channels apart
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
  const T* x;  // null: no box
  C lower;
  C upper;
  int64_t channels;  // l0: elements of a pixel, cols / channels apart
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

enum class Noise { normal, uniform, sign };

/// out[draw, row, col], of which every (draw, row) has a stream of random numbers.
template <class T, class C = Compute<T>>
struct AddNoiseArgs {
  T* out;
  const T* x;
  const int64_t* ids;   // null: sample i is number i
  const int64_t* seed;  // key, offset
  Noise kind;
  C scale;
  C lower;
  C upper;
  int64_t first_draw;
  int64_t draws;
  int64_t rows;
  int64_t cols;

  FASTADV_HD int64_t number(int64_t draw, int64_t row) const {
    return draw_number(ids == nullptr ? row : ids[row], first_draw + draw);
  }
  FASTADV_HD Seed stream() const {
    return {static_cast<uint64_t>(seed[0]) ^ kNoiseKeys, static_cast<uint32_t>(seed[1])};
  }
  FASTADV_HD int64_t quads() const { return (cols + 3) / 4; }
  FASTADV_HD T place(T x, float noise) const {
    const C moved = widen(x) + scale * C(noise);
    return narrow<T>(clamp(moved, lower, upper));
  }
};

/// Sums over draws, by row and class.
template <class T>
struct GapMomentsArgs {
  double* sums;
  double* squares;
  const double* earlier_sums;  // null: there were no draws before
  const double* earlier_squares;
  const T* clean;
  const T* noisy;
  int64_t draws;
  int64_t rows;
  int64_t classes;

  /// The class that the model predicts for a row: the first of the largest logits, NaN being largest.
  FASTADV_HD int64_t predicted(int64_t row) const {
    const T* logits = clean + row * classes;
    int64_t best = 0;
    for (int64_t k = 1; k < classes; ++k) {
      const auto value = widen(logits[k]), most = widen(logits[best]);
      if (value > most || (value != value && most == most)) best = k;
    }
    return best;
  }
};

/// gaps[kind, row, class]; mean and std[kind, predicted class, class]; a score and its class for each row.
struct OddsScoreArgs {
  double* score;
  int64_t* towards;
  const double* gaps;
  const int64_t* predicted;
  const double* mean;
  const double* std;
  bool two_sided;
  int64_t kinds;
  int64_t rows;
  int64_t classes;

  /// The z-score of a gap, averaged over kinds of noise; -inf where nothing is known of it.
  FASTADV_HD double z(int64_t row, int64_t towards) const {
    const int64_t from = predicted[row];
    if (from < 0 || from >= classes) return -HUGE_VAL;  // no class: nothing is known of it
    double total = 0.0;
    for (int64_t kind = 0; kind < kinds; ++kind) {
      const int64_t known = (kind * classes + from) * classes + towards;
      total += (gaps[(kind * rows + row) * classes + towards] - mean[known]) / std[known];
    }
    const double z = total / static_cast<double>(kinds);
    const double side = two_sided ? std::fabs(z) : z;
    return towards == from || z != z ? -HUGE_VAL : side;
  }

  /// Writes a row's score: the first class of the largest z.
  FASTADV_HD void decide(int64_t row) const {
    int64_t best = 0;
    double most = z(row, 0);
    for (int64_t k = 1; k < classes; ++k) {
      const double value = z(row, k);
      if (value > most) {
        most = value;
        best = k;
      }
    }
    score[row] = most;
    towards[row] = best;
  }
};

}  // namespace fastadv
