// The convolutions of a MobileNet for training on a CPU, each in one pass over memory.
//
// An operation reads x, normalizes and activates it on the way,
//     z = act((x - mean) * scale + bias)                          (`norm`: mean, scale, bias),
// convolves z, pointwise, depthwise or in full, and gathers mean and variance of what it writes. So
// a layer reads each feature map once and writes it once, as the convolution left it. The gradient
// does the same: it takes the gradient of the output together with that of its mean and variance,
// and computes anew what it needs of z.
//
// Without training there is nothing to measure: then x is z, and y is activated on the way out,
//     y = after(convolve(x) + bias).
//
// Arrays are float32 and dense, channels last. Work is cut into parts by rows; each part has sums
// of its own, added in order at the end, so results do not depend on which thread ran what.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "depthwise.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

namespace ffi = xla::ffi;

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

// Calls body with the activation as a constant.
template <typename Body>
ffi::Error WithActivation(int64_t act, const Body& body) {
  switch (act) {
    case kLinear: body(std::integral_constant<int64_t, kLinear>{}); break;
    case kRelu: body(std::integral_constant<int64_t, kRelu>{}); break;
    case kRelu6: body(std::integral_constant<int64_t, kRelu6>{}); break;
    case kHardSwish: body(std::integral_constant<int64_t, kHardSwish>{}); break;
    default: return ffi::Error::InvalidArgument("unknown activation");
  }
  return ffi::Error::Success();
}

// The same for the activations on the way in and on the way out, of which one is.
template <typename Body>
ffi::Error WithActivations(int64_t act, int64_t after, const Body& body) {
  using None = std::integral_constant<int64_t, kNone>;
  if (after == kNone) return WithActivation(act, [&](auto a) { body(a, None{}); });
  if (act == kNone) return WithActivation(after, [&](auto a) { body(None{}, a); });
  return ffi::Error::InvalidArgument("activations on both sides");
}

// The same for the side of a depthwise kernel.
template <typename Body>
ffi::Error WithSize(int64_t size, const Body& body) {
  switch (size) {
    case 3: return body(std::integral_constant<int, 3>{});
    case 5: return body(std::integral_constant<int, 5>{});
    default: return ffi::Error::InvalidArgument("unknown kernel size");
  }
}

inline Window WindowOf(In x, ffi::AnyBuffer::Dimensions y, int64_t stride, int64_t top,
                       int64_t left) {
  auto shape = x.dimensions();
  return {shape[0], shape[1], shape[2], shape[3], y[1], y[2], stride, top, left};
}

// A binding with so many more arrays in, one or more.
template <int count, typename Binding>
auto WithArguments(Binding binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Arg<In>();
  } else {
    return WithArguments<count - 1>(std::move(binding).template Arg<In>());
  }
}

// The same with arrays out.
template <int count, typename Binding>
auto WithResults(Binding binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Ret<In>();
  } else {
    return WithResults<count - 1>(std::move(binding).template Ret<In>());
  }
}

// What all calls share: threads, arrays, and the activation of the convolution.
template <int arguments, int results>
auto Call() {
  return WithResults<results>(WithArguments<arguments>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()))
      .template Attr<int64_t>("act");
}

inline auto Forward() {
  return Call<4, 3>().Attr<int64_t>("after").Attr<bool>("statistics");
}

inline auto Backward() { return Call<6, 3>(); }

template <typename Binding>
auto WithWindow(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("stride")
      .template Attr<int64_t>("top")
      .template Attr<int64_t>("left");
}

}  // namespace mnet
