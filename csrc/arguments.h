// What every operator does with its tensors before a kernel sees pointers: checks, layout, dtype.
//
// The operators themselves are in bindings/, by family, each once for every backend: a function template
// checks its tensors, arranges them in memory, and hands a Kernel plain pointers. A backend's file defines
// that Kernel, and registers the function with it.
//
// Uses only LibTorch's stable ABI, so one build serves every torch from 2.11 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/scalar.cuh"

namespace fastadv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();

/// Throws "fastadv::<op>: <message>", which Python gets as a RuntimeError, unless the condition holds.
template <class... Parts>
inline void require(bool condition, const char* op, const Parts&... message) {
  if (condition) return;
  std::ostringstream text;
  text << "fastadv::" << op << ": ";
  (text << ... << message);
  throw std::runtime_error(text.str());
}

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

/// The batch: dimension 0 counts samples, all others together are one sample.
struct Batch {
  int64_t rows;
  int64_t cols;
};

inline Batch batch_of(const char* op, const char* name, const Tensor& tensor) {
  require(tensor.dim() >= 1, op, name, " must have a batch dimension, got a scalar");
  const int64_t rows = tensor.size(0);
  return {rows, rows == 0 ? 0 : tensor.numel() / rows};
}

inline void check_like(const char* op, const char* name, const Tensor& tensor, const char* model_name,
                       const Tensor& model) {
  require(same_shape(tensor, model), op, name, " must have the shape of ", model_name, ", ", shape_of(model),
          ", got ", shape_of(tensor));
  require(tensor.scalar_type() == model.scalar_type(), op, name, " must have the dtype of ", model_name);
  require(tensor.device() == model.device(), op, name, " must be on the device of ", model_name);
}

/// eps and step_size: shape [] or [B], float32 (float64 for float64 samples), on the samples'
/// device; a scalar may stay on the CPU, where it is read without waiting for a GPU.
template <class C>
inline PerSample<C> per_sample(const char* op, const char* name, const Tensor& value, const Tensor& samples) {
  constexpr auto dtype = sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float;
  require(value.scalar_type() == dtype, op, name, " must be ",
          sizeof(C) == 8 ? "float64 for float64 samples" : "float32");
  if (value.dim() == 0 && value.is_cpu()) return {nullptr, 0, *value.const_data_ptr<C>()};
  require(value.device() == samples.device(), op, name, " must be on the samples' device");
  if (value.dim() == 0) return {value.const_data_ptr<C>(), 0, C(0)};
  require(value.dim() == 1 && value.size(0) == samples.size(0), op, name, " must have shape [] or [",
          samples.size(0), "], got ", shape_of(value));
  return {value.const_data_ptr<C>(), value.stride(0), C(0)};
}

/// An optional [B] tensor of flags or numbers, made contiguous; keep it alive while it is used.
inline std::optional<Tensor> per_row(const char* op, const char* name, const std::optional<Tensor>& value,
                                     ScalarType dtype, const Tensor& samples) {
  if (!value.has_value()) return std::nullopt;
  require(value->dim() == 1 && value->size(0) == samples.size(0), op, name, " must have shape [",
          samples.size(0), "], got ", shape_of(*value));
  require(value->scalar_type() == dtype, op, name, " must be ", dtype == ScalarType::Bool ? "bool" : "int64");
  require(value->device() == samples.device(), op, name, " must be on the samples' device");
  return torch::stable::contiguous(*value);
}

inline void check_seed(const char* op, const Tensor& seed, const Tensor& samples) {
  require(seed.dim() == 1 && seed.size(0) == 2 && seed.scalar_type() == ScalarType::Long, op,
          "seed must be int64 of shape [2] (key, offset), got shape ", shape_of(seed));
  require(seed.device() == samples.device() && seed.is_contiguous(), op,
          "seed must be contiguous and on the samples' device");
}

inline void check_bounds(const char* op, double lower, double upper) {
  require(lower < upper, op, "lower must be less than upper, got ", lower, " and ", upper);
}

/// Refuses an input that shares part of the output's memory: it would change while it is read. Sharing
/// all of it is fine, because each element is read before it is written.
inline void check_overlap(const char* op, const char* name, const Tensor& input, const Tensor& output) {
  const auto begin = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data_ptr()); };
  const auto end = [&](const Tensor& t) {
    return begin(t) + static_cast<size_t>(t.numel()) * t.element_size();
  };
  require(begin(input) == begin(output) || end(input) <= begin(output) || end(output) <= begin(input), op,
          name, " shares part of the output's memory: clone it first");
}

/// From here on a norm counts as inf: ||v||_p <= ||v||_inf N^(1/p), which is 1 to 2^-49 for any N.
constexpr double kAsLinf = 0x1p55;

/// The norm that kernels take.
inline double norm_of(const char* op, double norm) {
  require(norm >= 1.0, op, "norm must be in [1, inf], got ", norm);
  return norm >= kAsLinf ? kInf : norm;
}
inline double norm_or_0_of(const char* op, double norm) {
  require(norm == 0.0 || norm >= 1.0, op, "norm must be 0 or in [1, inf], got ", norm);
  return norm >= kAsLinf ? kInf : norm;
}

/// Elements of a pixel of [B, C, ...] samples; each element of a vector is one.
inline int64_t channels_of(const char* op, const Tensor& samples, double norm, bool pixels) {
  if (!pixels) return 1;
  require(norm == 0.0, op, "pixels is for norm 0, got norm ", norm);
  return samples.dim() > 2 ? samples.size(1) : 1;
}

/// Whether memory holds the rows (a row is the dimensions from `first` on, a sample by default) one after
/// the other without gaps, in whatever order inside a row and among rows. Then a kernel needs no strides:
/// channels_last is as good as contiguous.
inline bool is_flat(const Tensor& tensor, int64_t first = 1) {
  if (tensor.numel() == 0) return true;
  int64_t expected = 1;
  const auto is_dense = [&](int64_t begin, int64_t end) {
    std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
    for (int64_t d = begin; d < end; ++d) {
      if (tensor.size(d) != 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
    }
    std::sort(dims.begin(), dims.end());
    for (const auto& [stride, size] : dims) {
      if (stride != expected) return false;
      expected *= size;
    }
    return true;
  };
  return is_dense(first, tensor.dim()) && is_dense(0, first);
}

/// As is_flat, for an operator that needs the elements of a sample in the order of their indices.
inline bool is_flat(const Tensor& tensor, bool in_index_order) {
  return in_index_order ? tensor.is_contiguous() : is_flat(tensor, int64_t{1});
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

/// `tensor` with the strides of `layout`, which is dense: itself, or a copy.
inline Tensor arranged_like(const Tensor& tensor, const Tensor& layout) {
  if (same_strides(tensor, layout)) return tensor;
  Tensor copy = torch::stable::to(torch::stable::empty_like(layout), tensor.scalar_type());
  torch::stable::copy_(copy, tensor);
  return copy;
}

/// Runs kernel(flat) where flat is `out` if that is flat already, else a contiguous stand-in whose result is
/// then copied to `out`. `out` is uninitialised unless `reads_out`.
template <class Kernel>
inline void with_flat_output(Tensor& out, bool out_is_flat, bool reads_out, const Kernel& kernel) {
  if (out_is_flat) return kernel(out);
  Tensor flat = torch::stable::empty_like(torch::stable::contiguous(out));
  if (reads_out) torch::stable::copy_(flat, out);
  kernel(flat);
  torch::stable::copy_(out, flat);
}

template <class T>
struct TypeTag {
  using type = T;
};

/// body(TypeTag<T>) for the element type; Half and BFloat16 are fastadv's own bit patterns.
template <class Body>
inline void dispatch(const char* op, const char* name, const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return body(TypeTag<float>{});
    case ScalarType::Double:
      return body(TypeTag<double>{});
    case ScalarType::Half:
      return body(TypeTag<Half>{});
    case ScalarType::BFloat16:
      return body(TypeTag<BFloat16>{});
    default:
      require(false, op, name, " must be float32, float64, float16 or bfloat16, got ",
              torch::headeronly::toString(tensor.scalar_type()));
  }
}

template <class T>
inline const T* read_ptr(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
inline T* write_ptr(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace fastadv
