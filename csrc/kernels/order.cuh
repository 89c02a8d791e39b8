// The order in which winners are chosen: numbers as unsigned keys that compare as the numbers do.
//
// -0 and +0 have one key, because they are equal; NaN has the largest, as in torch.topk and torch.sort.
#pragma once

#include "scalar.cuh"

namespace fastadv {

template <class T>
struct OrderOf;
template <>
struct OrderOf<float> {
  using Key = uint32_t;
  using Bits = uint32_t;
  static constexpr int kBits = 32;
  static constexpr Key kInfinity = 0x7f800000u;
};
template <>
struct OrderOf<double> {
  using Key = uint64_t;
  using Bits = uint64_t;
  static constexpr int kBits = 64;
  static constexpr Key kInfinity = 0x7ff0000000000000u;
};
template <>
struct OrderOf<Half> {
  using Key = uint32_t;  // of which the low 16 bits are used
  using Bits = uint16_t;
  static constexpr int kBits = 16;
  static constexpr Key kInfinity = 0x7c00u;
};
template <>
struct OrderOf<BFloat16> {
  using Key = uint32_t;
  using Bits = uint16_t;
  static constexpr int kBits = 16;
  static constexpr Key kInfinity = 0x7f80u;
};

template <class T>
using OrderKey = typename OrderOf<T>::Key;
template <class T>
constexpr int kKeyBits = OrderOf<T>::kBits;

/// The key of a number: order_key(a) < order_key(b) iff a < b, or b alone is NaN.
template <class T>
FASTADV_HD OrderKey<T> order_key(T value) {
  using Order = OrderOf<T>;
  using Key = OrderKey<T>;
  constexpr Key kSign = Key{1} << (Order::kBits - 1);
  constexpr Key kAll = kSign | (kSign - 1);
  typename Order::Bits raw;
  std::memcpy(&raw, &value, sizeof raw);
  const Key bits = raw;
  const Key magnitude = bits & (kSign - 1);
  const bool below_zero = bits > kSign;  // the sign bit with something behind it: not -0
  const Key key = below_zero ? kAll ^ bits : magnitude | kSign;
  return magnitude > Order::kInfinity ? kAll : key;
}

}  // namespace fastadv
