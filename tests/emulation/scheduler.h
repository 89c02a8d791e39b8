// The threads of a block as fibers, and the order in which they run.
//
// Every CUDA thread of a block is a fiber: a function call with a stack of its own that can be put aside in
// the middle. It runs until it must wait for others (__syncthreads, __syncwarp, a shuffle, a vote) and then
// hands over to the scheduler. Clusters of blocks, of one block as a rule, run one after another, on the one
// thread of the caller.
//
// The scheduler is there to make races show, not to be fair:
//  * It runs each warp as far as it can possibly get before it looks at the next one. That is the largest
//    skew between warps that the barriers allow, so a missing barrier, before a read or before a write, lets
//    one warp see or destroy the unfinished work of another. Lanes of a warp and blocks of a cluster are
//    skewed in the same way.
//  * Which warp, lane and block goes first is the schedule's choice: forward, reverse, or shuffled anew each
//    time. A race that happens to be harmless in one order is harmful in another; right code gives the same
//    bits in all of them.
//  * Shared memory is filled with 0xff at the start of every block (NaN in every floating-point format), so
//    that reading what nobody has written yet cannot pass for a zero, and again when a block of a cluster
//    leaves. It is heap memory, so that AddressSanitizer notices an index out of range.
//  * It can leave out one barrier of a kernel, so that a test can see whether its absence would be noticed.
//
// A barrier that not every thread reaches, and a warp operation that waits for a lane that never comes, end
// the launch with an EmulationError that names file and line.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <source_location>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sanitizer/asan_interface.h>

#include "context.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace fastadv::emulation {

constexpr unsigned kWarpSize = 32;
// No power of two: the tops of all stacks would share one cache set.
constexpr std::size_t kStackBytes = (64 << 10) + 192;

using Site = std::source_location;

constexpr std::size_t kStaticSharedBytes = 48 << 10;  // what a block gets without asking
constexpr std::size_t kSharedBytes = 227 << 10;       // and at most, as on sm_90

enum class State : std::uint8_t {
  runnable,
  at_barrier,
  at_cluster_barrier,
  at_warp_operation,
  failed,
  finished
};

enum class Operation : std::uint8_t { sync, shuffle, ballot };

// What a lane brings to a warp operation, which is carried out once every lane named in `mask` has come.
struct WarpRequest {
  Operation operation;
  std::uint32_t mask;
  std::uint64_t operand = 0;  // the value to hand round, or the vote
  unsigned source_lane = 0;
};

struct Block;

struct Fiber {
  Block* block;
  Context context;
  std::unique_ptr<char[]> stack;
  uint3 thread_index;
  unsigned lane;
  State state;
  Site site;  // where it waits
  WarpRequest request;
  std::uint64_t result;  // of its last warp operation
  int barriers;          // that it has come to
};

struct EmulationError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order : std::uint8_t { forward, reverse, shuffled };

// Which block, warp and lane goes first. Tests set it between launches.
class Schedule {
 public:
  void set(Order order, unsigned seed) {
    order_ = order;
    random_.seed(seed);
  }
  template <class T>
  void arrange(std::span<T> numbers) {
    std::iota(numbers.begin(), numbers.end(), T{0});
    if (order_ == Order::reverse) std::reverse(numbers.begin(), numbers.end());
    if (order_ == Order::shuffled) std::shuffle(numbers.begin(), numbers.end(), random_);
  }

 private:
  Order order_ = Order::forward;
  std::minstd_rand random_;
};

struct SharedArray {
  const void* declaration;
  std::size_t size;
  std::unique_ptr<std::byte[]> bytes;

  SharedArray(const void* declaration, std::size_t size)
      : declaration(declaration), size(size), bytes(std::make_unique_for_overwrite<std::byte[]>(size)) {
    poison();
  }
  void poison() { std::memset(bytes.get(), 0xff, size); }
};

struct Block {
  uint3 index;
  std::span<Fiber> fibers;
  std::vector<SharedArray> shared_arrays;
  bool started = false;

  bool has_left() const {
    return std::ranges::all_of(fibers, [](const Fiber& f) { return f.state == State::finished; });
  }
};

inline Schedule schedule;
inline std::vector<std::string> launched;  // kernels in the order of their launches, until a test clears it
inline std::map<const void*, std::size_t> allowed_shared_bytes;  // of the kernels that asked for more
inline int left_out_barrier = -1;  // every thread walks through its barrier of this number, from 0
inline int most_barriers = 0;      // that a thread has come to, until a test clears it

// The cluster that runs now.
inline std::vector<Fiber> fibers;  // never shrunk: stacks are kept from block to block
inline std::vector<Block> cluster;
inline const std::function<void()>* kernel_body;
inline std::string failure;  // of the running fiber
inline Fiber* running;
inline Context scheduler;

inline const char dynamic_shared_declaration = 0;

inline void suspend(State state, const Site& site) {
  running->state = state;
  running->site = site;
  Context::swap(running->context, scheduler);
}

inline void wait_at_barrier(State state, const Site& site) {
  const int number = running->barriers++;
  most_barriers = std::max(most_barriers, running->barriers);
  if (number != left_out_barrier) suspend(state, site);
}

// Ends the launch from inside a kernel, through whose frames no exception can pass.
[[noreturn]] inline void fail_in_kernel(const std::string& what, const Site& site) {
  failure = what;
  suspend(State::failed, site);
  __builtin_trap();
}

[[noreturn]] inline void fiber_entry() noexcept {
  (*kernel_body)();
  suspend(State::finished, Site::current());
  __builtin_trap();
}

inline std::string to_string(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line());
}

inline std::string to_string(const uint3& i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

inline bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

inline std::string describe(const Fiber& fiber) {
  const std::string thread = "thread " + to_string(fiber.thread_index);
  return fiber.state == State::finished ? thread + " has left the kernel"
                                        : thread + " waits at " + to_string(fiber.site);
}

[[noreturn]] inline void fail(const std::string& what) {
  throw EmulationError(what + ", in block " + to_string(blockIdx) + " of " + launched.back());
}

inline void resume(Fiber& fiber) {
  running = &fiber;
  threadIdx = fiber.thread_index;
  blockIdx = fiber.block->index;
  fiber.block->started = true;
  Context::swap(scheduler, fiber.context);
  if (fiber.state == State::failed) fail("thread " + to_string(fiber.thread_index) + " " + failure);
}

inline bool wait_at_same_operation(const Fiber& a, const Fiber& b) {
  return a.state == State::at_warp_operation && b.state == State::at_warp_operation &&
         a.request.operation == b.request.operation && a.request.mask == b.request.mask &&
         same_site(a.site, b.site);
}

// A lane that this one's warp operation still waits for; null when all are here. Lanes that have left the
// kernel are not waited for: CUDA asks for "all non-exited threads named in mask".
inline const Fiber* missing_lane(const Fiber& fiber, std::span<const Fiber> warp) {
  for (const Fiber& other : warp) {
    const bool named = fiber.request.mask >> other.lane & 1;
    if (named && other.state != State::finished && !wait_at_same_operation(fiber, other)) return &other;
  }
  return nullptr;
}

inline void carry_out(std::uint32_t mask, std::span<Fiber> warp) {
  const auto takes_part = [&](const Fiber& fiber) {
    return (mask >> fiber.lane & 1) && fiber.state == State::at_warp_operation;
  };
  std::uint32_t votes = 0;
  for (const Fiber& fiber : warp)
    if (takes_part(fiber) && fiber.request.operand != 0) votes |= 1u << fiber.lane;
  for (Fiber& fiber : warp) {  // first all results, then the release: a shuffle reads its source's request
    if (!takes_part(fiber)) continue;
    if (fiber.request.operation == Operation::ballot) fiber.result = votes;
    if (fiber.request.operation != Operation::shuffle) continue;
    const unsigned source = fiber.request.source_lane;
    if (source >= warp.size() || !takes_part(warp[source]))
      fail("the shuffle of " + describe(fiber) + " reads lane " + std::to_string(source) +
           ", which takes no part");
    fiber.result = warp[source].request.operand;
  }
  for (Fiber& fiber : warp)
    if (takes_part(fiber)) fiber.state = State::runnable;
}

// Carries out the warp operations that are complete; false when there was none.
inline bool carry_out_complete_operations(std::span<Fiber> warp) {
  bool any = false;
  for (Fiber& fiber : warp) {
    if (fiber.state != State::at_warp_operation) continue;
    if (!(fiber.request.mask >> fiber.lane & 1))
      fail(describe(fiber) + " with a mask that leaves itself out");
    if (missing_lane(fiber, warp) != nullptr) continue;
    carry_out(fiber.request.mask, warp);
    any = true;
  }
  return any;
}

inline void run_warp(std::span<Fiber> warp) {
  std::array<unsigned, kWarpSize> lanes;
  do {
    schedule.arrange(std::span(lanes).first(warp.size()));
    for (const unsigned lane : std::span(lanes).first(warp.size()))
      if (warp[lane].state == State::runnable) resume(warp[lane]);
  } while (carry_out_complete_operations(warp));
}

[[noreturn]] inline void fail_stuck(const Fiber& fiber, std::span<const Fiber> block) {
  const unsigned first = static_cast<unsigned>(&fiber - block.data()) - fiber.lane;
  const auto warp = block.subspan(first, std::min<std::size_t>(kWarpSize, block.size() - first));
  fail("deadlock: the warp operation of " + describe(fiber) +
       " waits for lanes that never come: " + describe(*missing_lane(fiber, warp)));
}

// Called when no warp of the block can go on by itself. Opens the barrier if every thread left has come to
// it; false when there is no thread left, or the block has to wait for others of its cluster.
inline bool open_barrier(std::span<Fiber> block) {
  const Fiber* first = nullptr;
  for (const Fiber& fiber : block) {
    if (fiber.state == State::at_warp_operation) fail_stuck(fiber, block);
    if (fiber.state == State::finished) continue;
    if (first == nullptr) first = &fiber;
    if (!same_site(first->site, fiber.site))
      fail("divergent __syncthreads: " + describe(*first) + ", but " + describe(fiber));
  }
  if (first == nullptr || first->state == State::at_cluster_barrier) return false;
  for (Fiber& fiber : block)
    if (fiber.state == State::at_barrier) fiber.state = State::runnable;
  return true;
}

// Called when no block can go on by itself. False when there is no block left.
inline bool open_cluster_barrier() {
  const Fiber* first = nullptr;
  for (Block& block : cluster) {
    for (Fiber& fiber : block.fibers) {
      if (fiber.state == State::finished) continue;
      if (first == nullptr) first = &fiber;
      if (!same_site(first->site, fiber.site))
        fail("divergent cluster barrier: " + describe(*first) + " of block " +
             to_string(first->block->index) + ", but " + describe(fiber));
      fiber.state = State::runnable;
    }
  }
  return first != nullptr;
}

// Runs the block until it has left or waits for others of its cluster.
inline void run_block(Block& block) {
  const std::span threads = block.fibers;
  std::vector<unsigned> warps((threads.size() + kWarpSize - 1) / kWarpSize);
  do {
    schedule.arrange(std::span(warps));
    for (const unsigned warp : warps) {
      const std::size_t first = warp * kWarpSize;
      run_warp(threads.subspan(first, std::min<std::size_t>(kWarpSize, threads.size() - first)));
    }
  } while (open_barrier(threads));
  if (block.has_left())
    for (SharedArray& array : block.shared_arrays) array.poison();
}

inline void start_block(Block& block, std::size_t dynamic_shared_bytes) {
  block.shared_arrays.emplace_back(&dynamic_shared_declaration, dynamic_shared_bytes);
  for (unsigned i = 0; i < block.fibers.size(); ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.block = &block;
    fiber.thread_index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    fiber.lane = i % kWarpSize;
    fiber.state = State::runnable;
    fiber.barriers = 0;
    // The last kernel's frames were left, not returned from, and AddressSanitizer still guards them.
    ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), kStackBytes);
    fiber.context.prepare(fiber.stack.get(), kStackBytes, fiber_entry);
  }
}

inline void run_cluster() {
  std::vector<unsigned> ranks(cluster.size());
  do {
    schedule.arrange(std::span(ranks));
    for (const unsigned rank : ranks) run_block(cluster[rank]);
  } while (open_cluster_barrier());
}

// What a kernel is launched with.
struct Launch {
  const char* name;
  const void* kernel;
  dim3 grid;
  dim3 block;
  std::size_t dynamic_shared_bytes;
  unsigned cluster_size = 1;
};

inline void launch(const Launch& launch, const std::function<void()>& body) {
  const dim3 grid = launch.grid, block = launch.block;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const auto allowed = allowed_shared_bytes.find(launch.kernel);
  const std::size_t shared_limit =
      allowed == allowed_shared_bytes.end() ? kStaticSharedBytes : std::min(allowed->second, kSharedBytes);
  launched.emplace_back(launch.name);
  if (threads < 1 || threads > 1024 || block.z > 64 || grid.x < 1 || grid.x > 0x7fffffff || grid.y < 1 ||
      grid.y > 65535 || grid.z < 1 || grid.z > 65535 || launch.dynamic_shared_bytes > shared_limit ||
      launch.cluster_size > 8 || grid.x % launch.cluster_size != 0)
    throw EmulationError(std::string("CUDA would refuse to launch ") + launch.name + ": grid " +
                         to_string({grid.x, grid.y, grid.z}) + ", block " +
                         to_string({block.x, block.y, block.z}) + ", clusters of " +
                         std::to_string(launch.cluster_size) + ", " +
                         std::to_string(launch.dynamic_shared_bytes) + " bytes of shared memory");
  while (fibers.size() < threads * launch.cluster_size)
    fibers.emplace_back().stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  kernel_body = &body;
  gridDim = grid;
  blockDim = block;
  std::vector<std::uint64_t> clusters(std::uint64_t{grid.x} * grid.y * grid.z / launch.cluster_size);
  schedule.arrange(std::span(clusters));
  for (const std::uint64_t i : clusters) {
    cluster = std::vector<Block>(launch.cluster_size);
    for (unsigned rank = 0; rank < launch.cluster_size; ++rank) {
      const std::uint64_t number = i * launch.cluster_size + rank, row = number / grid.x;
      cluster[rank].index = {unsigned(number % grid.x), unsigned(row % grid.y), unsigned(row / grid.y)};
      cluster[rank].fibers = std::span(fibers).subspan(rank * threads, threads);
      start_block(cluster[rank], launch.dynamic_shared_bytes);
    }
    run_cluster();
  }
}

}  // namespace fastadv::emulation
