// SIMD by run-time dispatch: a body is compiled once per instruction set, the machine picks.
//
// A body is a struct with `static inline __attribute__((always_inline)) void run(args...)`, written as
// plain loops. Inlined into a function with a target attribute it is vectorised for that target. No
// -march flag is needed, so a wheel built anywhere runs everywhere. With contraction of a * b + c off
// (setup.py) all levels give the same bits.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#define FASTADV_TARGET_AVX2 __attribute__((target("avx2,fma,f16c,bmi2")))
#define FASTADV_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")))
#endif

namespace fastadv {

enum class Simd { base, avx2, avx512 };

inline const char* name_of(Simd level) {
  switch (level) {
    case Simd::avx512:
      return "AVX-512";
    case Simd::avx2:
      return "AVX2";
    default:
      return "baseline";
  }
}

/// The best level of this machine; FASTADV_SIMD=base|avx2 lowers it, for tests and comparisons.
inline Simd simd_level() {
  static const Simd level = [] {
#if defined(__x86_64__)
    const char* wanted = std::getenv("FASTADV_SIMD");
    const bool base = wanted != nullptr && std::strcmp(wanted, "base") == 0;
    const bool avx2 = wanted != nullptr && std::strcmp(wanted, "avx2") == 0;
    if (!base && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
      return avx512 && !avx2 ? Simd::avx512 : Simd::avx2;
    }
#endif
    return Simd::base;
  }();
  return level;
}

#if defined(__x86_64__)
template <class Body, class... Args>
FASTADV_TARGET_AVX2 void run_avx2(Args... args) {
  Body::run(args...);
}
template <class Body, class... Args>
FASTADV_TARGET_AVX512 void run_avx512(Args... args) {
  Body::run(args...);
}
#endif

/// Body::run(args...) compiled for the machine at hand.
template <class Body, class... Args>
void run_simd(Args... args) {
#if defined(__x86_64__)
  if (simd_level() == Simd::avx512) return run_avx512<Body>(args...);
  if (simd_level() == Simd::avx2) return run_avx2<Body>(args...);
#endif
  Body::run(args...);
}

}  // namespace fastadv
