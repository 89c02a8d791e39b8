// Greedy choice: numbers have ranks and sizes, and are taken from the highest rank down, the first of equal
// ranks first, until their sizes add up to a budget. The last one is taken in part.
//
// No sort: each sweep adds up the sizes from seven ranks on, and the eighth of the range in which the budget
// is reached is the next range; ranks are doubles, whose bits have their order. Then the same for the indices
// of the numbers at that rank. Some twenty sweeps of linear time for float ranks.
#pragma once

#include "power.cuh"

namespace fastadv {

/// What is known of the choice between sweeps.
struct Greedy {
  static constexpr int kValues = 7;  // sums that a sweep takes
  static constexpr int kParts = kValues + 1;

  enum Phase { total, ranks, indices, everything, decided };
  Phase phase;
  int shift;  // low bits that all ranks have clear
  double budget;
  uint64_t low;   // in units of `shift`: what is taken from this rank or up to this index exceeds the budget,
  uint64_t high;  // or not: the rank is in [low, high), the index in (low, high]
  double rank;    // numbers above it are taken, those at it up to `index`
  double index;   // from 1 on
  double above;   // the sizes above the rank
  double before;  // the sizes at the rank before the index

  /// Of ranks that are exact in float if `narrow`.
  static FASTADV_HD Greedy of(double budget, bool narrow) {
    Greedy greedy{};
    greedy.phase = total;
    greedy.shift = narrow ? 29 : 0;
    greedy.budget = budget;
    return greedy;
  }

  FASTADV_HD bool done() const { return phase == everything || phase == decided; }

  /// Where the range is cut.
  FASTADV_HD uint64_t mark(int part) const {
    const uint64_t range = high - low;
    return low + range / kParts * part + range % kParts * part / kParts;
  }

  /// What numbers of these ranks (>= 0) and sizes contribute, from index `first` on; ranks of 0 are not
  /// taken.
  template <int N>
  FASTADV_HD void visit(int64_t first, const double (&rank_of)[N], const double (&size_of)[N],
                        double (&values)[kValues][N]) const {
    if (phase == total) {
      for (int k = 0; k < kValues; ++k) {
        for (int j = 0; j < N; ++j) values[k][j] = k == 0 && rank_of[j] > 0.0 ? size_of[j] : 0.0;
      }
      return;
    }
    for (int k = 0; k < kValues; ++k) {
      if (phase == ranks) {
        const double least = double_of(mark(k + 1) << shift);
        for (int j = 0; j < N; ++j) values[k][j] = rank_of[j] >= least ? size_of[j] : 0.0;
      } else {
        const double left = static_cast<double>(static_cast<int64_t>(mark(k + 1)) - first);
        for (int j = 0; j < N; ++j) values[k][j] = rank_of[j] == rank && j < left ? size_of[j] : 0.0;
      }
    }
  }

  FASTADV_HD void advance(const double (&values)[kValues], int64_t count) {
    if (phase == total) {
      phase = values[0] <= budget ? everything : ranks;
      low = 1;
      high = (bits_of(HUGE_VAL) >> shift) + 1;
    } else if (phase == ranks) {
      advance_ranks(values, count);
    } else {
      advance_indices(values);
    }
  }

  /// How much is taken of a number.
  FASTADV_HD double taken(int64_t number, double rank_of, double size_of) const {
    if (phase == everything) return rank_of > 0.0 ? size_of : 0.0;
    const double at = static_cast<double>(number + 1);
    if (rank_of > rank || (rank_of == rank && at < index)) return size_of;
    if (!(rank_of == rank && at == index)) return 0.0;
    const double left = budget - above - before;
    if (left < budget * 0x1p-40) return 0.0;  // which is rounding
    return left < size_of ? left : size_of;
  }

 private:
  FASTADV_HD void advance_ranks(const double (&values)[kValues], int64_t count) {
    const Greedy cut = *this;
    for (int part = 1; part <= kValues; ++part) {
      if (values[part - 1] < budget) {
        high = cut.mark(part);
        above = values[part - 1];
        break;
      }
      low = cut.mark(part);
    }
    if (high - low > 1) return;
    rank = double_of(low << shift);
    phase = indices;
    low = 0;
    high = static_cast<uint64_t>(count);
  }

  FASTADV_HD void advance_indices(const double (&values)[kValues]) {
    const Greedy cut = *this;
    for (int part = 1; part <= kValues; ++part) {
      if (above + values[part - 1] >= budget) {
        high = cut.mark(part);
        break;
      }
      low = cut.mark(part);
      before = values[part - 1];
    }
    if (high - low > 1) return;
    index = static_cast<double>(high);
    phase = decided;
  }
};

}  // namespace fastadv
