// Element types, conversions, and the one rule by which a result is rounded into the ball.
//
// Half and BFloat16 are bit patterns of their own so that no header here needs torch or the CUDA
// half headers; torch's types have the same bits. Arithmetic happens in float (double for double).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "platform.cuh"

namespace fastadv {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
/// The type in which a kernel on T computes.
template <class T>
using Compute = typename ComputeOf<T>::type;

FASTADV_HD uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

FASTADV_HD float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

FASTADV_HD uint64_t bits_of(double value) {
#if defined(__CUDA_ARCH__)
  return static_cast<uint64_t>(__double_as_longlong(value));
#else
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

FASTADV_HD double double_of(uint64_t bits) {
#if defined(__CUDA_ARCH__)
  return __longlong_as_double(static_cast<int64_t>(bits));
#else
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

FASTADV_HD float widen(float value) {
  return value;
}
FASTADV_HD double widen(double value) {
  return value;
}
FASTADV_HD float widen(BFloat16 value) {
  return float_of(uint32_t{value.bits} << 16);
}
FASTADV_HD float widen(Half value) {
  // Read as a float with half's exponent bias, then multiply the bias away: exact, subnormals too.
  const uint32_t magnitude = uint32_t{value.bits & 0x7fffu} << 13;
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN
  return float_of(sign | (magnitude >= 0x0f800000u ? special : finite));
}

/// Rounds to the nearest T, ties to even.
template <class T>
FASTADV_HD T narrow(Compute<T> value);
template <>
FASTADV_HD float narrow<float>(float value) {
  return value;
}
template <>
FASTADV_HD double narrow<double>(double value) {
  return value;
}
template <>
FASTADV_HD BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded)};
}
template <>
FASTADV_HD Half narrow<Half>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal halves: rebias the exponent by 112 and round off 13 bits; the carry may reach infinity.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal halves: 0.5f has the spacing of half's subnormals, so the addition does the rounding.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return {static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite))};
}

/// The next number of T towards 0, for what is neither 0 nor a NaN.
FASTADV_HD float towards_zero(float value) {
  return float_of(bits_of(value) - 1u);
}
FASTADV_HD double towards_zero(double value) {
  return double_of(bits_of(value) - 1u);
}
FASTADV_HD Half towards_zero(Half value) {
  return {static_cast<uint16_t>(value.bits - 1u)};
}
FASTADV_HD BFloat16 towards_zero(BFloat16 value) {
  return {static_cast<uint16_t>(value.bits - 1u)};
}

/// What rounding a double to T is off by, relative to it: 2^-24 in float, on the way to which half precision
/// is rounded too. No relation holds below T's least normal number.
template <class T>
struct Rounding {
  static constexpr double kError = 0x1p-24, kLeastNormal = 0x1p-126;
};
template <>
struct Rounding<double> {
  static constexpr double kError = 0.0, kLeastNormal = 0.0;
};
template <>
struct Rounding<Half> {
  static constexpr double kError = 0x1p-11 + 0x1p-24, kLeastNormal = 0x1p-14;
};
template <>
struct Rounding<BFloat16> {
  static constexpr double kError = 0x1p-8 + 0x1p-24, kLeastNormal = 0x1p-126;
};

/// The neighbour of `value` on the side of `target`; `value` must differ from `target`.
///
/// For float and double the neighbour is reached without a branch: 5/8 of an ulp at the bottom of
/// the binade and up to 5/4 at its top always rounds to exactly one step. It needs a normal
/// `value`; a subnormal sum of two floats is exact and never asks for a step.
FASTADV_HD float neighbour(float value, float target) {
  return value + std::copysign(std::fabs(value) * 0x1.4p-24f, target - value);
}
FASTADV_HD double neighbour(double value, double target) {
  return value + std::copysign(std::fabs(value) * 0x1.4p-53, target - value);
}
FASTADV_HD uint16_t neighbour16(uint16_t bits, bool upwards) {
  const bool negative = (bits & 0x8000u) != 0;
  const uint32_t from_zero = upwards ? 0x0001u : 0x8001u;
  const uint32_t stepped = negative == upwards ? bits - 1u : bits + 1u;
  return static_cast<uint16_t>((bits & 0x7fffu) == 0 ? from_zero : stepped);
}
FASTADV_HD Half neighbour(Half value, float target) {
  return {neighbour16(value.bits, target > widen(value))};
}
FASTADV_HD BFloat16 neighbour(BFloat16 value, float target) {
  return {neighbour16(value.bits, target > widen(value))};
}

/// Rounds `value` to T without ending up farther than `limit` from `origin`.
///
/// Rounding to nearest can leave the ball by half an ulp of T (2e-3 for bfloat16 pixels). One step
/// back towards the origin is always inside again, because the exact value was.
template <class T, class C = Compute<T>>
FASTADV_HD T round_within(C value, C origin, C limit) {
  const T nearest = narrow<T>(value);
  const bool outside = std::fabs(widen(nearest) - origin) > limit;
  return outside ? neighbour(nearest, origin) : nearest;
}

/// Rounds to the nearest T whose magnitude is not beyond `limit`, itself at least that of `value`.
template <class T>
FASTADV_HD T narrow_within(double value, double limit) {
  const T nearest = narrow<T>(static_cast<Compute<T>>(value));
  return std::fabs(static_cast<double>(widen(nearest))) > limit ? towards_zero(nearest) : nearest;
}

/// Between limits, which are no NaN; a value that is one stays one: it must not pass for a bound.
template <class C>
FASTADV_HD C clamp(C value, C lower, C upper) {
  const C raised = value < lower ? lower : value;
  return raised > upper ? upper : raised;
}

/// At most `radius` in size. A NaN stays one, and so does a radius that is one: it is not no limit.
template <class C>
FASTADV_HD C within(C value, C radius) {
  const C inside = clamp(value, -radius, radius);
  return radius == radius ? inside : radius;
}

/// x + delta in the box, rounded so that no element is farther than `limit` from x.
template <class T, class C = Compute<T>>
FASTADV_HD T place(C x, C delta, C limit, C lower, C upper) {
  return round_within<T>(clamp(x + delta, lower, upper), x, limit);
}

template <class C>
FASTADV_HD C sign(C value) {  // NaN gives 0: it names no direction
  return static_cast<C>(value > C(0)) - static_cast<C>(value < C(0));
}

/// A length for every sample, or one for each: `values` is null for a host constant. A negative one counts as
/// 0; a NaN stays one.
template <class C>
struct PerSample {
  const C* values;
  int64_t stride;  // 0: the same for all samples, read from memory
  C constant;
  FASTADV_HD C operator[](int64_t row) const {
    const C value = values ? values[row * stride] : constant;
    return value < C(0) ? C(0) : value;
  }
};

}  // namespace fastadv
