// Translates XLA's foreign function calls to the kernels: arrays, attributes, template arguments.
//
// README.md describes the path of a call.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "layer.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

namespace ffi = xla::ffi;

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

// The arrays of a call, in the order of the call.
struct ForwardBuffers {
  static constexpr int kIn = 4, kOut = 3;
  In x, norm, kernel, bias;
  Out y, mean, variance;
};

struct BackwardBuffers {
  static constexpr int kIn = 6, kOut = 3;
  In x, norm, kernel, gradient, y, correction;
  Out dx, dnorm, dkernel;
};

inline ForwardArrays ArraysOf(ForwardBuffers b, bool statistics) {
  return {b.x.typed_data(),  b.norm.typed_data(),  b.kernel.typed_data(),    b.bias.typed_data(),
          b.y->typed_data(), b.mean->typed_data(), b.variance->typed_data(), statistics};
}

inline BackwardArrays ArraysOf(BackwardBuffers b) {
  return {b.x.typed_data(),        b.norm.typed_data(),   b.kernel.typed_data(),
          b.gradient.typed_data(), b.y.typed_data(),      b.correction.typed_data(),
          b.dx->typed_data(),      b.dnorm->typed_data(), b.dkernel->typed_data()};
}

// The numbers of a call that the shapes of its arrays do not determine, named as in
// ops/native/calls.py.
struct WindowAttributes {
  int64_t stride, top, left;
};

struct PointwiseForwardAttributes {
  int64_t input_activation, output_activation;
  bool statistics;
};

struct PointwiseBackwardAttributes {
  int64_t input_activation;
};

// The attributes of a depthwise or a full convolution.
struct WindowForwardAttributes {
  int64_t input_activation, output_activation;
  bool statistics;
  WindowAttributes window;
};

inline Geometry GeometryOf(ffi::AnyBuffer::Dimensions x, ffi::AnyBuffer::Dimensions y,
                           const WindowAttributes& window) {
  return {x[0], x[1], x[2], x[3], y[1], y[2], window.stride, window.top, window.left};
}

// Calls body with the activation as a constant.
template <typename Body>
ffi::Error WithActivation(int64_t activation, const Body& body) {
  switch (activation) {
    case kLinear: body(std::integral_constant<Activation, kLinear>{}); break;
    case kRelu: body(std::integral_constant<Activation, kRelu>{}); break;
    case kRelu6: body(std::integral_constant<Activation, kRelu6>{}); break;
    case kHardSwish: body(std::integral_constant<Activation, kHardSwish>{}); break;
    default: return ffi::Error::InvalidArgument("unknown activation");
  }
  return ffi::Error::Success();
}

// Calls body with the input and output activations as constants; exactly one of them is kNone.
template <typename Body>
ffi::Error WithActivations(int64_t input_act, int64_t output_act, const Body& body) {
  using None = std::integral_constant<Activation, kNone>;
  if (output_act == kNone) return WithActivation(input_act, [&](auto a) { body(a, None{}); });
  if (input_act == kNone) return WithActivation(output_act, [&](auto a) { body(None{}, a); });
  return ffi::Error::InvalidArgument("activations on both sides");
}

// Calls body with the side of a depthwise kernel as a constant.
template <typename Body>
ffi::Error WithSize(int64_t size, const Body& body) {
  switch (size) {
    case 3: return body(Constant<3>{});
    case 5: return body(Constant<5>{});
    default: return ffi::Error::InvalidArgument("unknown kernel size");
  }
}

// Returns a binding with `count` more input arrays, at least one.
template <int count, typename Binding>
auto WithArguments(Binding binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Arg<In>();
  } else {
    return WithArguments<count - 1>(std::move(binding).template Arg<In>());
  }
}

// Returns a binding with `count` more output arrays, at least one.
template <int count, typename Binding>
auto WithResults(Binding binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Ret<In>();
  } else {
    return WithResults<count - 1>(std::move(binding).template Ret<In>());
  }
}

// Returns the binding that declares the arguments of a `Handler` to XLA.
template <typename Buffers, typename Attributes>
auto Signature() {
  return WithResults<Buffers::kOut>(
      WithArguments<Buffers::kIn>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attrs<Attributes>()));
}

// Returns a handler that passes its arrays to a function as one struct.
template <typename Buffers, typename Attributes>
auto Handler(ffi::Error (*call)(ffi::ThreadPool&, const Attributes&, Buffers)) {
  return [call](ffi::ThreadPool pool, Attributes attributes, auto... arrays) -> ffi::Error {
    return call(pool, attributes, Buffers{arrays...});
  };
}

}  // namespace mnet

// Declare to XLA the members of the attribute structs, by name.
#define MNET_WINDOW_MEMBERS \
  StructMember<int64_t>("stride"), StructMember<int64_t>("top"), StructMember<int64_t>("left")
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(mnet::PointwiseForwardAttributes,
                                      StructMember<int64_t>("input_activation"),
                                      StructMember<int64_t>("output_activation"),
                                      StructMember<bool>("statistics"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(mnet::PointwiseBackwardAttributes,
                                      StructMember<int64_t>("input_activation"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(mnet::WindowForwardAttributes,
                                      StructMember<int64_t>("input_activation"),
                                      StructMember<int64_t>("output_activation"),
                                      StructMember<bool>("statistics"), MNET_WINDOW_MEMBERS);

// Defines the symbol by which ops/native/compilation.py finds a call.
#define MNET_DEFINE_HANDLER(symbol, call, Buffers, Attributes)                      \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(symbol, (mnet::Handler<Buffers, Attributes>(call)), \
                                (mnet::Signature<Buffers, Attributes>()))
