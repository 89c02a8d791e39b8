// What every CUDA operator does around its launch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <map>
#include <mutex>

#include "arguments.h"

namespace fastadv {

/// Makes the tensor's device current while it lives and knows PyTorch's current stream on it.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

/// Scratch memory from PyTorch's allocator: capturable in a CUDA graph, ordered by the stream.
class Scratch {
 public:
  Scratch(const Tensor& like, int64_t doubles)
      : memory_(torch::stable::new_empty(like, {doubles}, ScalarType::Double)) {}
  double* data() const { return write_ptr<double>(memory_); }

 private:
  Tensor memory_;
};

/// query() on the current device, number `device`, which is asked once for each kind of query.
template <class Query>
inline auto once_per_device(int device, const Query& query) {
  static std::mutex mutex;
  static std::map<int, decltype(query())> answers;
  const std::lock_guard lock(mutex);
  const auto known = answers.find(device);
  return known != answers.end() ? known->second : answers.emplace(device, query()).first->second;
}

inline int64_t device_attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

}  // namespace fastadv
