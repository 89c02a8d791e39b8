#include <cstdlib>

#include "bindings/kwta.h"
#include "cuda/launch.h"
#include "kernels/kwta.cuh"

namespace fastadv {
namespace {

/// The most blocks in a cluster for which the device has room, each with all the shared memory it may ask
/// for. 1 where the machine code that runs is of an architecture without clusters.
template <class T>
int64_t largest_cluster(int64_t shared_bytes) {
  const auto kernel = &kwta_cluster_kernel<T>;
  cudaFuncAttributes attributes;
  STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  if (attributes.ptxVersion < 90) return 1;
  allow_shared_bytes(kernel, shared_bytes);
  for (unsigned blocks = 8; blocks > 1; blocks /= 2) {
    cudaLaunchAttribute attribute;
    const auto config = cluster_config(blocks, dim3(blocks), dim3(kLargeBlock),
                                       static_cast<size_t>(shared_bytes), nullptr, attribute);
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess && clusters > 0)
      return blocks;
    cudaGetLastError();  // that there is no room is an answer, not an error
  }
  return 1;
}

template <class T>
DeviceLimits limits_of(int device) {
  return once_per_device(device, [&] {
    DeviceLimits limits{};
    limits.shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    limits.multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device);
    limits.largest_cluster = largest_cluster<T>(limits.shared_bytes);
    return limits;
  });
}

/// The tier that FASTADV_KWTA_TIER names, for benchmarks and tests, else the best one.
template <class T>
KwtaPlan plan(const KwtaArgs<T>& args, const DeviceLimits& limits) {
  const char* name = std::getenv("FASTADV_KWTA_TIER");
  if (name == nullptr || *name == '\0') {
    return plan_kwta<T>(choose_kwta_tier<T>(args.rows, args.cols, limits), args.rows, args.cols, limits);
  }
  const auto tier = kwta_tier_named(name);
  require(tier.has_value(), "kwta", "FASTADV_KWTA_TIER must be warp, block, cluster or global, got '", name,
          "'");
  require(kwta_tier_holds<T>(*tier, args.cols, limits), "kwta", "FASTADV_KWTA_TIER=", name,
          " cannot hold a row of ", args.cols, " elements of ", sizeof(T), " bytes on this device");
  return plan_kwta<T>(*tier, args.rows, args.cols, limits);
}

struct Kernel {
  template <class T>
  static void run(const KwtaArgs<T>& args, const Tensor& out) {
    const OnDevice device(out);
    const KwtaPlan how = plan(args, limits_of<T>(out.get_device_index()));
    const Scratch scratch(out, scratch_doubles<T>(how, args.rows, args.cols));
    launch_kwta(args, how, scratch.data(), device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CUDA, m) {
  m.impl("kwta", TORCH_BOX(&fastadv::kwta<fastadv::Kernel>));
}
