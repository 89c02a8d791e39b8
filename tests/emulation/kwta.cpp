#include "kwta.cuh"

#include <stdexcept>

#include "dispatch.h"

namespace {

fastadv::DeviceLimits of(const DeviceLimits& limits) {
  return {limits.shared_bytes, limits.multiprocessors, limits.largest_cluster};
}

template <class T>
fastadv::KwtaPlan plan(const std::string& forced, Shape shape, const DeviceLimits& limits) {
  const auto named = fastadv::kwta_tier_named(forced.c_str());
  const auto tier = named ? *named : fastadv::choose_kwta_tier<T>(shape.rows, shape.cols, of(limits));
  if (!fastadv::kwta_tier_holds<T>(tier, shape.cols, of(limits)))
    throw std::invalid_argument("the tier cannot hold such a row");
  return fastadv::plan_kwta<T>(tier, shape.rows, shape.cols, of(limits));
}

}  // namespace

void kwta(Dtype dtype, void* out, const void* x, uint32_t* winners, int64_t k, bool lowest_index, Shape shape,
          const std::string& tier, const DeviceLimits& limits) {
  dispatch(dtype, [&]<class T>(T) {
    const fastadv::KwtaArgs<T> args{
        .out = static_cast<T*>(out),
        .x = static_cast<const T*>(x),
        .winners = winners,
        .k = k,
        .lowest_index = lowest_index,
        .rows = shape.rows,
        .cols = shape.cols,
    };
    const fastadv::KwtaPlan how = plan<T>(tier, shape, limits);
    auto scratch = poisoned(fastadv::scratch_doubles<T>(how, shape.rows, shape.cols));
    fastadv::launch_kwta(args, how, scratch.data(), nullptr);
  });
}

std::pair<std::string, int> kwta_plan(Dtype dtype, Shape shape, const std::string& tier,
                                      const DeviceLimits& limits) {
  std::pair<std::string, int> chosen;
  dispatch(dtype, [&]<class T>(T) {
    const fastadv::KwtaPlan how = plan<T>(tier, shape, limits);
    chosen = {fastadv::kKwtaTierNames[static_cast<int>(how.tier)], how.blocks};
  });
  return chosen;
}
