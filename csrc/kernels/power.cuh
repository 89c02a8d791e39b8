// Exponentials, logarithms and powers by polynomials of our own: every device and every SIMD level computes
// the same bits, and a CPU's lanes compute several at once. All are right to a few units in the last place.
#pragma once

#include "scalar.cuh"

namespace fastadv {

constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLog2E = 0x1.71547652b82fep+0;  // log2(e) = 1 / ln 2

/// log2(x) for x >= 0, which counts as the least normal number where it is less: x = m 2^e with m in
/// [sqrt(1/2), sqrt(2)), and ln m = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172, by its series.
FASTADV_HD double log2_of(double x) {
  constexpr uint64_t kRootHalf = 0x3fe6a09e667f3bcdu;
  const uint64_t shifted = bits_of(x > 0x1p-1022 ? x : 0x1p-1022) + (0x3ff0000000000000u - kRootHalf);
  // The biased exponent in the mantissa of 2^52: no SIMD level but AVX-512 converts 64-bit integers.
  const double exponent = double_of((shifted >> 52) | 0x4330000000000000u) - (0x1p52 + 1023.0);
  const double m = double_of((shifted & 0x000fffffffffffffu) + kRootHalf);
  const double s = (m - 1.0) / (m + 1.0);
  const double t = s * s;
  double p = 1.0 / 21;
  p = p * t + 1.0 / 19;
  p = p * t + 1.0 / 17;
  p = p * t + 1.0 / 15;
  p = p * t + 1.0 / 13;
  p = p * t + 1.0 / 11;
  p = p * t + 1.0 / 9;
  p = p * t + 1.0 / 7;
  p = p * t + 1.0 / 5;
  p = p * t + 1.0 / 3;
  const double ln = 2.0 * s + 2.0 * (s * t) * p;
  return exponent + ln * kLog2E;
}

/// exp(t) for |t| <= ln 2 / 2, by its series: the remainder is below 6e-9 of it in float, 5e-18 in double.
FASTADV_HD float exp_near_zero(float t) {
  float p = 1.0f / 5040.0f;
  p = p * t + 1.0f / 720.0f;
  p = p * t + 1.0f / 120.0f;
  p = p * t + 1.0f / 24.0f;
  p = p * t + 1.0f / 6.0f;
  p = p * t + 0.5f;
  p = p * t + 1.0f;
  return p * t + 1.0f;
}
FASTADV_HD double exp_near_zero(double t) {
  double p = 1.0 / 6227020800.0;
  p = p * t + 1.0 / 479001600.0;
  p = p * t + 1.0 / 39916800.0;
  p = p * t + 1.0 / 3628800.0;
  p = p * t + 1.0 / 362880.0;
  p = p * t + 1.0 / 40320.0;
  p = p * t + 1.0 / 5040.0;
  p = p * t + 1.0 / 720.0;
  p = p * t + 1.0 / 120.0;
  p = p * t + 1.0 / 24.0;
  p = p * t + 1.0 / 6.0;
  p = p * t + 0.5;
  p = p * t + 1.0;
  return p * t + 1.0;
}

/// 2^x, 0 below 2^-1022, and for x > 1023 as for 1023: the nearest integer goes to the exponent, the rest, at
/// most 1/2, into the series of exp.
FASTADV_HD double exp2_of(double x) {
  const double low = x > -1022.0 ? x : -1022.0;
  const double inside = low < 1023.0 ? low : 1023.0;
  const double rounded = inside + 0x1.8p52;  // whose lowest bits are the nearest integer
  const double t = (inside - (rounded - 0x1.8p52)) * kLn2;
  return x >= -1022.0 ? double_of(bits_of(exp_near_zero(t)) + (bits_of(rounded) << 52)) : 0.0;
}

/// exp(-a) for a >= 0, not below 1e-38 (1e-307): -a = n ln 2 + r with |r| <= ln 2 / 2. Adding and subtracting
/// 1.5 * 2^23 (2^52) rounds to the nearest integer n, which the low bits of the sum spell out.
FASTADV_HD float exp_of_minus(float a) {
  a = a < 87.0f ? a : 87.0f;
  constexpr float kRound = 0x1.8p23f, kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
  const float shifted = kRound - a * 0x1.715476p+0f;
  const float n = shifted - kRound;
  const float r = (-a - n * kLn2High) - n * kLn2Low;
  return exp_near_zero(r) * float_of((bits_of(shifted) << 23) + 0x3f800000u);
}

FASTADV_HD double exp_of_minus(double a) {
  a = a < 707.0 ? a : 707.0;
  constexpr double kRound = 0x1.8p52, kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  const double shifted = kRound - a * kLog2E;
  const double n = shifted - kRound;
  const double r = (-a - n * kLn2High) - n * kLn2Low;
  return exp_near_zero(r) * double_of((bits_of(shifted) << 52) + 0x3ff0000000000000u);
}

/// The power of two that scales a number into [1, 2), or as far as 2^1000 goes; 1 for 0.
FASTADV_HD double scale_of(double largest) {
  if (!(largest > 0.0)) return 1.0;
  const double exponent = static_cast<double>((bits_of(largest) >> 52) & 0x7ffu) - 1023.0;
  return exp2_of(exponent > 1000.0 ? -1000.0 : exponent < -1000.0 ? 1000.0 : -exponent);
}

/// x^exponent for x >= 0, element by element; the usual exponents cost no logarithm.
template <int N>
FASTADV_HD void raise(double (&x)[N], double exponent) {
  if (exponent == 1.0) return;
  if (exponent == 0.5) {
    for (int j = 0; j < N; ++j) x[j] = std::sqrt(x[j]);
  } else if (exponent == 1.5) {
    for (int j = 0; j < N; ++j) x[j] *= std::sqrt(x[j]);
  } else if (exponent == 2.0) {
    for (int j = 0; j < N; ++j) x[j] *= x[j];
  } else if (exponent == 3.0) {
    for (int j = 0; j < N; ++j) x[j] *= x[j] * x[j];
  } else {
    for (int j = 0; j < N; ++j) x[j] = x[j] > 0.0 ? exp2_of(exponent * log2_of(x[j])) : 0.0;
  }
}

}  // namespace fastadv
