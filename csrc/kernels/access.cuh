// 16-byte accesses over arrays of any length and alignment.
#pragma once

#include "scalar.cuh"

namespace fastadv {

/// Elements of T in one 16-byte access.
template <class T>
constexpr int kPack = 16 / sizeof(T);

template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T at[W];
};

template <int W>
struct Width {
  static constexpr int value = W;
};

template <int W, class T>
__device__ __forceinline__ Pack<T, W> load(const T* from) {
  return *reinterpret_cast<const Pack<T, W>*>(from);
}

/// As load, for an address that may lie between 16-byte boundaries.
template <int W, class T>
__device__ __forceinline__ Pack<T, W> load(const T* from, bool aligned) {
  if (aligned) return load<W>(from);
  Pack<T, W> pack;
#pragma unroll
  for (int e = 0; e < W; ++e) pack.at[e] = from[e];
  return pack;
}

template <int W, class T>
__device__ __forceinline__ void store(T* to, const Pack<T, W>& pack) {
  *reinterpret_cast<Pack<T, W>*>(to) = pack;
}

constexpr int kUnaligned = -1;

/// Elements between the 16-byte boundary before the arrays' start and the start; kUnaligned if the
/// arrays differ in it, so that no index is aligned in all of them.
template <class T, class... More>
inline int common_shift(const T* first, const More*... more) {
  const auto shift_of = [](const void* p) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(p) % 16 / sizeof(T));
  };
  const int shift = shift_of(first);
  return ((shift_of(more) == shift) && ...) ? shift : kUnaligned;
}

template <int W>
__device__ __forceinline__ bool is_aligned(int64_t index, int shift) {
  return W == 1 || (shift != kUnaligned && (index + shift) % W == 0);
}

/// Visits [begin, end) with the threads of a group: packs of W where aligned, single elements in
/// front, behind, and everywhere if the arrays are not aligned alike. visit(index, Width).
template <int W, class Visit>
__device__ __forceinline__ void sweep(int64_t begin, int64_t end, int shift, int thread, int threads,
                                      const Visit& visit) {
  int64_t first = end;
  if (shift != kUnaligned) {
    first = begin + (W - (begin + shift) % W) % W;
    first = first < end ? first : end;
  }
  const int64_t packs = (end - first) / W;
  for (int64_t i = begin + thread; i < first; i += threads) visit(i, Width<1>{});
  for (int64_t p = thread; p < packs; p += threads) visit(first + p * W, Width<W>{});
  for (int64_t i = first + packs * W + thread; i < end; i += threads) visit(i, Width<1>{});
}

/// index / cols, in 32 bits where both fit: a 64-bit division costs more than the rest of a kernel.
__device__ __forceinline__ int64_t row_of(int64_t index, int64_t cols) {
  if (((index | cols) >> 32) == 0) return static_cast<uint32_t>(index) / static_cast<uint32_t>(cols);
  return index / cols;
}

/// Follows which sample rising indices belong to, with one division for all of them.
struct RowCursor {
  int64_t cols;
  int64_t row;
  int64_t end;

  __device__ __forceinline__ RowCursor(int64_t row, int64_t cols)
      : cols(cols), row(row), end((row + 1) * cols) {}

  /// Steps to the next sample if the next index, one on from the last, is past this one's end.
  __device__ __forceinline__ bool passes_end(int64_t index) {
    if (index < end) return false;
    ++row;
    end += cols;
    return true;
  }
};

}  // namespace fastadv
