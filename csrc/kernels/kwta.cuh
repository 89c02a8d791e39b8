// k winners take all: the k largest elements of a row keep their bits, all others become +0.
//
// Bytes per element: where the row stays on chip (tiers warp, block and cluster), 1 read and 1 write (8 in
// fp32) and 1/8 byte of winners. Floor: that. In global memory: 1 read per digit (3 in fp32, 2 in half, 6 in
// double), 1 read and 1 write for the result (20 in fp32), of which all but the first read and the write
// come from the L2 cache where the rows fit it.
// Limit: memory bandwidth, next to which a row on chip is visited three times.
// Deterministic: the threshold follows from whole-number counts (kwta_select.cuh), and a tie is won by its
// place in the row, never by the order in which threads come to it.
// kwta_plan.h chooses the tier.
#pragma once

#include "kwta_global.cuh"
#include "kwta_plan.h"
#include "kwta_resident.cuh"

namespace fastadv {

template <class T>
inline void launch_kwta_warp(const KwtaArgs<T>& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((args.rows + kRowsPerBlock - 1) / kRowsPerBlock));
  const dim3 block(kRowsPerBlock * kWarp);
  if (args.cols <= kShortSlots * kWarp) {
    FASTADV_LAUNCH((kwta_warp_kernel<T, kShortSlots>), grid, block, 0, stream, args);
  } else {
    FASTADV_LAUNCH((kwta_warp_kernel<T, kWarpCols<T> / kWarp>), grid, block, 0, stream, args);
  }
}

// What a kernel may ask for is set to the same number whatever it asks for now: another thread may be about
// to launch it for longer rows.

template <class T, int Threads>
inline void launch_kwta_block(const KwtaArgs<T>& args, const KwtaPlan& plan, cudaStream_t stream) {
  const int64_t shared_bytes = resident_bytes<T>(args.cols);
  allow_shared_bytes(&kwta_block_kernel<T, Threads>, plan.shared_limit);
  FASTADV_LAUNCH((kwta_block_kernel<T, Threads>), dim3(static_cast<unsigned>(args.rows)), dim3(Threads),
                 static_cast<size_t>(shared_bytes), stream, args, common_shift(args.x));
}

template <class T>
inline void launch_kwta_clusters(const KwtaArgs<T>& args, const KwtaPlan& plan, cudaStream_t stream) {
  const int64_t shared_bytes = resident_bytes<T>(cluster_share(args.cols, plan.blocks));
  allow_shared_bytes(&kwta_cluster_kernel<T>, plan.shared_limit);
  FASTADV_LAUNCH_CLUSTERS((kwta_cluster_kernel<T>), static_cast<unsigned>(plan.blocks),
                          dim3(static_cast<unsigned>(args.rows * plan.blocks)), dim3(kLargeBlock),
                          static_cast<size_t>(shared_bytes), stream, args, common_shift(args.x));
}

/// Doubles of scratch memory that launch_kwta needs.
template <class T>
inline int64_t scratch_doubles(const KwtaPlan& plan, int64_t rows, int64_t cols) {
  return plan.tier == KwtaTier::global ? KwtaScratch<T>::doubles(rows, cols) : 0;
}

template <class T>
inline void launch_kwta(const KwtaArgs<T>& args, const KwtaPlan& plan, double* scratch, cudaStream_t stream) {
  if (args.rows == 0 || args.cols == 0) return;
  switch (plan.tier) {
    case KwtaTier::warp:
      return launch_kwta_warp(args, stream);
    case KwtaTier::block:
      if (args.cols <= kSmallBlockCols) return launch_kwta_block<T, kSmallBlock>(args, plan, stream);
      return launch_kwta_block<T, kLargeBlock>(args, plan, stream);
    case KwtaTier::cluster:
      return launch_kwta_clusters(args, plan, stream);
    case KwtaTier::global:
      return launch_kwta_global(args, scratch, stream);
  }
}

}  // namespace fastadv
