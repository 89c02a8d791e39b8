// x plus a point drawn uniformly from the volume of the lp ball of radius eps, 1 <= p < inf, in the box:
//   eps g / (sum of |g_i|^p + z)^(1/p)
// with g_i of density ~ exp(-|t|^p) and z of density exp(-t) (Barthe, Guedon, Mendelson, Naor, "A
// probabilistic approach to the geometry of the l_p^n-ball", Annals of Probability 33, 2005, Theorem 1).
//
// |g_i| is -ln(u) for p = 1. For p > 1 it is drawn by rejection from a flat part of width 1 - 1/p and an
// exponential tail, together min(1, exp(-(1 + p (t - 1)))), under which log-concave exp(-t^p) lies (Devroye,
// "Non-uniform random variate generation", 1986, section VII.2): one of nine candidates is rejected at most.
// Which ones is decided in float by our own logarithm, so that devices cannot differ in it.
//
// The numbers are drawn twice, once for their sum and once to be used, which beats storing them.
#pragma once

#include "args.cuh"
#include "lp.cuh"
#include "normal.cuh"
#include "power.cuh"

namespace fastadv {

/// Numbers of density ~ exp(-|t|^p), those of elements col .. col + N - 1; N is 1 or a multiple of 4, and col
/// one of N.
template <int N>
struct ExponentialPower {
  float at[N];

  FASTADV_HD void draw(Seed seed, int64_t id, int64_t col, double p) {
    p == 1.0 ? draw_exponentials(seed, id, col) : draw_by_rejection(seed, id, col, p);
  }

 private:
  static FASTADV_HD float with_sign(float size, uint32_t word) { return (word & 1u) != 0 ? -size : size; }

  FASTADV_HD void draw_exponentials(Seed seed, int64_t id, int64_t col) {
    constexpr int kBlocks = (N + 3) / 4;
    uint32_t words[4][kBlocks];
    draw_words(seed, id, static_cast<uint32_t>(col / 4), kBlocks, words);
    const int first = static_cast<int>(col % 4);
    for (int j = 0; j < N; ++j) {
      uint32_t word = 0;
      for (int w = 0; w < 4; ++w) word = w == (first + j) % 4 ? words[w][j / 4] : word;
      at[j] = with_sign(-log_of_uniform(open_uniform(word)), word);
    }
  }

  /// Element i has block i to itself; round after round takes the stream of the next draw of the sample's id
  /// and has two candidates, each of two words: where it lies, and what decides.
  FASTADV_HD void draw_by_rejection(Seed seed, int64_t id, int64_t col, double p) {
    const auto width = static_cast<float>(1.0 - 1.0 / p), inverse = static_cast<float>(1.0 / p);
    const auto power = static_cast<float>(p);
    uint32_t missing[N], words[4][N];
    for (int j = 0; j < N; ++j) missing[j] = 1;
    uint32_t left = N;
    for (int64_t round = 0; left != 0; ++round) {
      draw_words(seed, draw_number(id, round), static_cast<uint32_t>(col), N, words);
      left = 0;
      for (int w = 0; w < 4; w += 2) {
        for (int j = 0; j < N; ++j) {
          const float u = open_uniform(words[w][j]), v = open_uniform(words[w + 1][j]);
          const bool flat = u <= width;
          const float tail = -log_of_uniform(flat ? 1.0f : (u - width) * power);
          const float t = flat ? u : width + tail * inverse;
          // v times the envelope is at most exp(-t^p), in logarithms twice.
          const bool accepted = power * log_of_uniform(t) <= log_of_uniform(tail - log_of_uniform(v));
          at[j] = missing[j] != 0 && accepted ? with_sign(t, words[w][j]) : at[j];
          missing[j] = accepted ? 0u : missing[j];
        }
      }
      for (int j = 0; j < N; ++j) left += missing[j];
    }
  }
};

template <class T>
struct LpRandomInBall {
  using C = Compute<T>;
  static constexpr int kValues = 1;
  struct State {
    bool known;
    double reach;  // what the numbers are multiplied by
    double last;   // z
  };
  RandomInBallArgs<T> args;
  double p;

  FASTADV_HD State begin(int64_t row) const {
    const uint32_t word = random_words(args.stream(), args.id(row), kRadiusBlock).word[0];
    return {false, args.eps[row] * (1.0 - slack<C>()), -log_of_uniform(open_uniform(word))};
  }
  FASTADV_HD bool done(const State& state) const { return state.known; }
  FASTADV_HD bool takes_maxima(const State&) const { return false; }

  template <int N>
  FASTADV_HD void visit(const State&, int64_t row, int64_t col, int64_t count,
                        double (&values)[kValues][N]) const {
    ExponentialPower<N> numbers;
    numbers.draw(args.stream(), args.id(row), col, p);
    for (int j = 0; j < N; ++j)
      values[0][j] = j < count ? std::fabs(static_cast<double>(numbers.at[j])) : 0.0;
    raise(values[0], p);
  }

  FASTADV_HD void advance(State& state, const double (&values)[kValues]) const {
    state.reach *= exp2_of(-log2_of(values[0] + state.last) / p);
    state.known = true;
  }

  template <int N>
  FASTADV_HD void write(const State& state, int64_t row, int64_t col, int64_t count) const {
    ExponentialPower<N> numbers;
    numbers.draw(args.stream(), args.id(row), col, p);
    const int64_t at = row * args.cols + col;
    for (int j = 0; j < N; ++j) {
      if (j >= count) continue;
      const auto delta = static_cast<C>(numbers.at[j] * state.reach);
      args.out[at + j] = place<T>(widen(args.x[at + j]), delta, std::fabs(delta), args.lower, args.upper);
    }
  }
};

}  // namespace fastadv
