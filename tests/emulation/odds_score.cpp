#include "odds_score.cuh"

#include "launchers.h"

void odds_score(double* score, int64_t* towards, const double* gaps, const int64_t* predicted,
                const double* mean, const double* std, bool two_sided, int64_t kinds, Shape shape) {
  fastadv::launch_odds_score(
      fastadv::OddsScoreArgs{
          .score = score,
          .towards = towards,
          .gaps = gaps,
          .predicted = predicted,
          .mean = mean,
          .std = std,
          .two_sided = two_sided,
          .kinds = kinds,
          .rows = shape.rows,
          .classes = shape.cols,
      },
      nullptr);
}
