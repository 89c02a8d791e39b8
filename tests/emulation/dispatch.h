// From the type-free arguments of launchers.h to those of a kernel.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "args.cuh"
#include "launchers.h"

// body(T{}) for the element type.
template <class Body>
void dispatch(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::float32:
      return body(float{});
    case Dtype::float64:
      return body(double{});
    case Dtype::float16:
      return body(fastadv::Half{});
    case Dtype::bfloat16:
      return body(fastadv::BFloat16{});
  }
}

template <class T>
fastadv::PerSample<fastadv::Compute<T>> per_sample(const Values& values) {
  using C = fastadv::Compute<T>;
  return {static_cast<const C*>(values.values), values.stride, static_cast<C>(values.constant)};
}

// Scratch memory as a caching allocator gives it: whatever was there before.
inline std::vector<double> poisoned(int64_t doubles) {
  return std::vector<double>(static_cast<std::size_t>(doubles), std::numeric_limits<double>::quiet_NaN());
}
