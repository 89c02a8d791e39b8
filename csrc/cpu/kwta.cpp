// k winners take all in three sweeps over a row: count the top digits of the keys, collect the keys of the
// bucket that holds the k-th largest, keep what is not below it. Only the collected keys, a few percent of
// a row of activations, are ranked.
//
// Everything counted is an integer, so neither SIMD level nor thread count changes a result.
#include <functional>

#include "bindings/kwta.h"
#include "cpu/rows.h"
#include "kernels/order.cuh"
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 gives it for its own intrinsics
#endif

namespace fastadv {
namespace {

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kCopies = 4;       // of the histogram: equal neighbours would wait for each other's increment
constexpr int64_t kBlock = 256;  // keys at a time on their way to the histogram
constexpr int64_t kShortRow = 256;  // rows up to here are ranked without a histogram
constexpr int64_t kShortList = 64;  // and so are lists of keys
constexpr int64_t kWord = 32;       // elements that share a word of winners

template <class T>
struct CountTopDigits {
  FASTADV_HD static void run(const T* x, int64_t count, uint32_t (*bins)[kBins]) {
    constexpr int kShift = kKeyBits<T> - kDigitBits;
    uint16_t digits[kBlock];
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t size = std::min(kBlock, count - i);
      for (int64_t j = 0; j < size; ++j) digits[j] = static_cast<uint16_t>(order_key(x[i + j]) >> kShift);
      int64_t j = 0;
      for (; j + kCopies <= size; j += kCopies) {
        for (int copy = 0; copy < kCopies; ++copy) ++bins[copy][digits[j + copy]];
      }
      for (; j < size; ++j) ++bins[0][digits[j]];
    }
  }
};

template <class T>
struct Collect {
  FASTADV_HD static void run(const T* x, int64_t count, OrderKey<T> digit, OrderKey<T>* list,
                             OrderKey<T>* end) {
    OrderKey<T> keys[kBlock];
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t size = std::min(kBlock, count - i);
      for (int64_t j = 0; j < size; ++j) keys[j] = order_key(x[i + j]);
      for (int64_t j = 0; j < size && list < end; ++j) {
        *list = keys[j];  // overwritten by the next one unless it is counted
        list += (keys[j] >> (kKeyBits<T> - kDigitBits)) == digit;
      }
    }
  }
};

#if defined(__x86_64__)
/// As Collect for 32-bit keys; no compiler finds this instruction by itself.
template <class T>
FASTADV_TARGET_AVX512 void collect_avx512(const T* x, int64_t count, uint32_t digit, uint32_t* list) {
  constexpr int kWidth = 16;
  const __m512i wanted = _mm512_set1_epi32(static_cast<int>(digit));
  uint32_t keys[kBlock];
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t size = std::min(kBlock, count - i);
    for (int64_t j = 0; j < size; ++j) keys[j] = order_key(x[i + j]);
    for (int64_t j = 0; j < size; j += kWidth) {
      const __m512i lanes = _mm512_loadu_si512(keys + j);
      const __m512i digits = _mm512_srli_epi32(lanes, kKeyBits<T> - kDigitBits);
      const auto left = static_cast<__mmask16>(size - j >= kWidth ? 0xffff : (1 << (size - j)) - 1);
      const __mmask16 found = _mm512_mask_cmpeq_epi32_mask(left, digits, wanted);
      // Compressed in a register: some machines take a hundred cycles to compress into memory.
      const int found_count = __builtin_popcount(found);
      const auto first = static_cast<__mmask16>((1u << found_count) - 1u);
      _mm512_mask_storeu_epi32(list, first, _mm512_maskz_compress_epi32(found, lanes));
      list += found_count;
    }
  }
}
#endif

/// Writes the keys of x whose top digit is `digit` to [list, end), which they fill.
template <class T>
void collect(const T* x, int64_t count, OrderKey<T> digit, OrderKey<T>* list, OrderKey<T>* end) {
#if defined(__x86_64__)
  if constexpr (sizeof(OrderKey<T>) == 4) {
    if (simd_level() == Simd::avx512) return collect_avx512(x, count, digit, list);
  }
#endif
  run_simd<Collect<T>>(x, count, digit, list, end);
}

/// Eight bytes of 0 or 1 as eight bits.
FASTADV_HD uint32_t pack_bits(const uint8_t* flags) {
  uint64_t bytes;
  std::memcpy(&bytes, flags, sizeof bytes);
  return static_cast<uint32_t>((bytes * 0x0102040810204080u) >> 56);
}

/// Keeps the elements whose keys are not below the threshold; `words` may be null.
template <class T>
struct KeepSpan {
  FASTADV_HD static void run(T* out, uint32_t* words, const T* x, int64_t count, OrderKey<T> threshold) {
    using Bits = typename OrderOf<T>::Bits;
    uint8_t won[kBlock];
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t size = std::min(kBlock, count - i);
      for (int64_t j = 0; j < size; ++j) won[j] = order_key(x[i + j]) >= threshold;
#pragma GCC ivdep
      for (int64_t j = 0; j < size; ++j) {
        Bits bits;
        std::memcpy(&bits, x + i + j, sizeof bits);
        bits &= static_cast<Bits>(-static_cast<Bits>(won[j]));
        std::memcpy(out + i + j, &bits, sizeof bits);
      }
      if (words == nullptr) continue;
      for (int64_t j = size; j % kWord != 0; ++j) won[j] = 0;  // the last word may be unfinished
      for (int64_t j = 0; j < size; j += kWord) {
        *words++ = pack_bits(won + j) | pack_bits(won + j + 8) << 8 | pack_bits(won + j + 16) << 16 |
                   pack_bits(won + j + 24) << 24;
      }
    }
  }
};

template <class T>
struct CountTies {
  FASTADV_HD static void run(const T* x, int64_t count, OrderKey<T> threshold, int64_t* ties) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i) found += order_key(x[i]) == threshold;
    *ties = found;
  }
};

/// What decides a row: the k-th largest key, and how many of the elements that equal it win.
template <class Key>
struct Decision {
  Key threshold;
  int64_t wanted_ties;
  int64_t ties;
};

/// The bin that holds the k-th largest key; k becomes its rank inside the bin.
template <int kCount>
int find_bin(const uint32_t (*bins)[kCount], int64_t copies, int64_t& k) {
  constexpr int kGroup = 32;  // bins skipped at a time
  const auto count_of = [&](int first, int size) {
    uint32_t count = 0;
    for (int64_t copy = 0; copy < copies; ++copy) {
      for (int bin = 0; bin < size; ++bin) count += bins[copy][first + bin];
    }
    return count;
  };
  const auto descend = [&](int from, int size) {
    for (int first = from;; first -= size) {
      const uint32_t count = count_of(first, size);
      if (count >= k) return first;
      k -= count;
    }
  };
  return descend(descend(kCount - kGroup, kGroup) + kGroup - 1, 1);
}

/// Ranks a list of keys that differ in their low `bits` bits only, and shuffles it.
template <class Key>
Decision<Key> decide(Key* list, int64_t size, int64_t k, int bits) {
  constexpr int kListBits = 8;  // a histogram that costs little beside a short list
  while (size > kShortList) {
    Key low = list[0], high = list[0];
    for (int64_t i = 1; i < size; ++i) {
      low = std::min(low, list[i]);
      high = std::max(high, list[i]);
    }
    if (low == high) return {low, k, size};  // the zeros behind a ReLU
    const int shift = std::max(bits - kListBits, 0);
    const auto digit_of = [&](Key key) {
      return static_cast<uint32_t>(key >> shift) & ((1u << kListBits) - 1u);
    };
    uint32_t bins[1][1 << kListBits] = {};
    for (int64_t i = 0; i < size; ++i) ++bins[0][digit_of(list[i])];
    const auto digit = static_cast<uint32_t>(find_bin(bins, 1, k));
    int64_t kept = 0;
    for (int64_t i = 0; i < size; ++i) {
      const Key key = list[i];
      list[kept] = key;
      kept += digit_of(key) == digit;
    }
    size = kept;
    bits = shift;
  }
  std::nth_element(list, list + (k - 1), list + size, std::greater<>());
  const Key threshold = list[k - 1];
  const auto above = std::count_if(list, list + size, [&](Key key) { return key > threshold; });
  return {threshold, k - above, std::count(list, list + size, threshold)};
}

/// Memory for the work on one row, kept from row to row.
template <class T>
struct Workspace {
  explicit Workspace(int64_t pieces) : bins(static_cast<size_t>(pieces) * kCopies * kBins), ties(pieces) {}
  uint32_t (*histogram(int64_t piece)) [kBins] {
    return reinterpret_cast<uint32_t (*)[kBins]>(bins.data() + piece * kCopies * kBins);
  } OrderKey<T>* keys(int64_t count) {
    if (count > capacity) {
      list.reset(new OrderKey<T>[static_cast<size_t>(count)]);
      capacity = count;
    }
    return list.get();
  }

  std::vector<uint32_t> bins;
  std::vector<int64_t> ties;
  std::unique_ptr<OrderKey<T>[]> list;
  int64_t capacity = 0;
};

/// One row, cut into pieces of `length` (a multiple of kWord) that threads share.
template <class T>
class Row {
 public:
  Row(const KwtaArgs<T>& args, int64_t row, int64_t length, Workspace<T>& work)
      : args_(args),
        x_(args.x + row * args.cols),
        out_(args.out + row * args.cols),
        words_(args.winners == nullptr ? nullptr : args.winners + row * args.words()),
        length_(length),
        work_(work) {}

  void run() {
    const auto decision = args_.cols <= kShortRow ? rank_all() : rank_bucket();
    each_piece([&](int64_t, int64_t begin, int64_t size) {
      uint32_t* words = words_ == nullptr ? nullptr : words_ + begin / kWord;
      run_simd<KeepSpan<T>>(out_ + begin, words, x_ + begin, size, decision.threshold);
    });
    if (args_.lowest_index && decision.ties > decision.wanted_ties) drop_surplus(decision);
  }

 private:
  using Key = OrderKey<T>;

  template <class Body>
  void each_piece(const Body& body) const {
    torch::stable::parallel_for(0, (args_.cols + length_ - 1) / length_, 1, [&](int64_t first, int64_t last) {
      for (int64_t piece = first; piece < last; ++piece) {
        const int64_t begin = piece * length_;
        body(piece, begin, std::min(length_, args_.cols - begin));
      }
    });
  }

  Decision<Key> rank_all() const {
    Key keys[kShortRow];
    for (int64_t i = 0; i < args_.cols; ++i) keys[i] = order_key(x_[i]);
    return decide(keys, args_.cols, args_.k, kKeyBits<T>);
  }

  Decision<Key> rank_bucket() const {
    std::fill(work_.bins.begin(), work_.bins.end(), 0u);
    each_piece([&](int64_t piece, int64_t begin, int64_t size) {
      run_simd<CountTopDigits<T>>(x_ + begin, size, work_.histogram(piece));
    });
    int64_t k = args_.k;
    const auto copies = static_cast<int64_t>(work_.ties.size()) * kCopies;
    const int digit = find_bin(work_.histogram(0), copies, k);
    // Where each piece's keys begin in the list.
    std::vector<int64_t> starts(work_.ties.size() + 1);
    for (size_t piece = 0; piece < work_.ties.size(); ++piece) {
      starts[piece + 1] = starts[piece];
      for (int copy = 0; copy < kCopies; ++copy) starts[piece + 1] += work_.histogram(piece)[copy][digit];
    }
    Key* list = work_.keys(starts.back());
    each_piece([&](int64_t piece, int64_t begin, int64_t size) {
      collect(x_ + begin, size, static_cast<Key>(digit), list + starts[piece], list + starts[piece + 1]);
    });
    return decide(list, starts.back(), k, kKeyBits<T> - kDigitBits);
  }

  /// Takes back what KeepSpan gave to ties that come too late.
  void drop_surplus(const Decision<Key>& decision) const {
    each_piece([&](int64_t piece, int64_t begin, int64_t size) {
      run_simd<CountTies<T>>(x_ + begin, size, decision.threshold, &work_.ties[piece]);
    });
    each_piece([&](int64_t piece, int64_t begin, int64_t size) {
      int64_t left = decision.wanted_ties;
      for (int64_t p = 0; p < piece; ++p) left -= work_.ties[p];
      for (int64_t i = begin; i < begin + size; ++i) {
        if (order_key(x_[i]) != decision.threshold || left-- > 0) continue;
        out_[i] = T{};
        if (words_ != nullptr) words_[i / kWord] &= ~(1u << (i % kWord));
      }
    });
  }

  const KwtaArgs<T>& args_;
  const T* x_;
  T* out_;
  uint32_t* words_;
  int64_t length_;
  Workspace<T>& work_;
};

struct Kernel {
  template <class T>
  static void run(const KwtaArgs<T>& args, const Tensor&) {
    const int64_t threads = torch::stable::get_num_threads();
    if (args.rows >= 2 * threads || args.cols <= kGrain) {
      const int64_t grain = std::max<int64_t>(1, kGrain / args.cols);
      torch::stable::parallel_for(0, args.rows, grain, [&](int64_t first, int64_t last) {
        Workspace<T> work(1);
        for (int64_t row = first; row < last; ++row) Row<T>(args, row, args.cols, work).run();
      });
      return;
    }
    const int64_t words = (args.words() + threads - 1) / threads;
    const int64_t length = std::max(words * kWord, kGrain);
    Workspace<T> work((args.cols + length - 1) / length);
    for (int64_t row = 0; row < args.rows; ++row) Row<T>(args, row, length, work).run();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("kwta", TORCH_BOX(&fastadv::kwta<fastadv::Kernel>));
}
