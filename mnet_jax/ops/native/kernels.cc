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

#include <cstdint>
#include <type_traits>
#include <utility>

#include "depthwise.h"
#include "full.h"
#include "inverted.h"
#include "pointwise.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace mnet {
namespace {

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

Product ProductOf(In x, In w, ffi::AnyBuffer::Dimensions y) {
  int64_t inputs = x.dimensions().back(), outputs = y.back();
  return {static_cast<int64_t>(x.element_count()) / inputs, inputs, outputs,
          w.dimensions().size() == 1};
}

Window WindowOf(In x, ffi::AnyBuffer::Dimensions y, int64_t stride, int64_t top, int64_t left) {
  auto shape = x.dimensions();
  return {shape[0], shape[1], shape[2], shape[3], y[1], y[2], stride, top, left};
}

Filter FilterOf(Window window, In kernel) {
  auto shape = kernel.dimensions();
  return {window, shape[0], shape[1], shape[3]};
}

ffi::Error PointwiseForwardCall(ffi::ThreadPool pool, In x, In norm, In w, In bias, Out y,
                                Out mean, Out variance, int64_t act, int64_t after,
                                bool statistics) {
  return WithActivations(act, after, [&](auto a, auto b) {
    PointwiseForward<a, b>(pool, ProductOf(x, w, y->dimensions()), x.typed_data(),
                           norm.typed_data(), w.typed_data(), bias.typed_data(), statistics,
                           y->typed_data(), mean->typed_data(), variance->typed_data());
  });
}

ffi::Error PointwiseBackwardCall(ffi::ThreadPool pool, In x, In norm, In w, In g, In y, In pull,
                                 Out dx, Out dnorm, Out dw, int64_t act) {
  return WithActivation(act, [&](auto a) {
    PointwiseBackward<a>(pool, ProductOf(x, w, y.dimensions()), x.typed_data(), norm.typed_data(),
                         w.typed_data(), g.typed_data(), y.typed_data(), pull.typed_data(),
                         dx->typed_data(), dnorm->typed_data(), dw->typed_data());
  });
}

ffi::Error DepthwiseForwardCall(ffi::ThreadPool pool, In x, In norm, In kernel, In bias, Out y,
                                Out mean, Out variance, int64_t act, int64_t after,
                                bool statistics, int64_t stride, int64_t top, int64_t left) {
  Window w = WindowOf(x, y->dimensions(), stride, top, left);
  return WithSize(kernel.dimensions()[0], [&](auto size) {
    return WithActivations(act, after, [&](auto a, auto b) {
      DepthwiseForward<a, b, size>(pool, w, x.typed_data(), norm.typed_data(), kernel.typed_data(),
                                   bias.typed_data(), statistics, y->typed_data(),
                                   mean->typed_data(), variance->typed_data());
    });
  });
}

ffi::Error DepthwiseBackwardCall(ffi::ThreadPool pool, In x, In norm, In kernel, In g, In y,
                                 In pull, Out dx, Out dnorm, Out dk, int64_t act, int64_t stride,
                                 int64_t top, int64_t left) {
  Window w = WindowOf(x, y.dimensions(), stride, top, left);
  return WithSize(kernel.dimensions()[0], [&](auto size) {
    return WithActivation(act, [&](auto a) {
      DepthwiseBackward<a, size>(pool, w, x.typed_data(), norm.typed_data(), kernel.typed_data(),
                                 g.typed_data(), y.typed_data(), pull.typed_data(),
                                 dx->typed_data(), dnorm->typed_data(), dk->typed_data());
    });
  });
}

ffi::Error FullForwardCall(ffi::ThreadPool pool, In x, In norm, In kernel, In bias, Out y,
                           Out mean, Out variance, int64_t act, int64_t after, bool statistics,
                           int64_t stride, int64_t top, int64_t left) {
  Filter f = FilterOf(WindowOf(x, y->dimensions(), stride, top, left), kernel);
  return WithActivations(act, after, [&](auto a, auto b) {
    FullForward<a, b>(pool, f, x.typed_data(), norm.typed_data(), kernel.typed_data(),
                      bias.typed_data(), statistics, y->typed_data(), mean->typed_data(),
                      variance->typed_data());
  });
}

ffi::Error FullBackwardCall(ffi::ThreadPool pool, In x, In norm, In kernel, In g, In y, In pull,
                            Out dx, Out dnorm, Out dk, int64_t act, int64_t stride, int64_t top,
                            int64_t left, bool input_gradient) {
  Filter f = FilterOf(WindowOf(x, y.dimensions(), stride, top, left), kernel);
  return WithActivation(act, [&](auto a) {
    FullBackward<a>(pool, f, x.typed_data(), norm.typed_data(), kernel.typed_data(), g.typed_data(),
                    y.typed_data(), pull.typed_data(), input_gradient, dx->typed_data(),
                    dnorm->typed_data(), dk->typed_data());
  });
}

// `expand` is empty where x is expanded already, `skip` where nothing is added.
ffi::Error InvertedForwardCall(ffi::ThreadPool pool, In x, In expand, In expand_bias, In kernel,
                               In bias, In project, In project_bias, In skip, Out y, int64_t act,
                               int64_t stride, int64_t top, int64_t left, int64_t expand_act,
                               int64_t project_act) {
  auto shape = x.dimensions(), taps = kernel.dimensions(), out = y->dimensions();
  int64_t inputs = shape[3], expanded = taps[2], outputs = out[3];
  Window w{shape[0], shape[1], shape[2], expanded, out[1], out[2], stride, top, left};
  const float* added = skip.element_count() ? skip.typed_data() : nullptr;
  Multiply widen, narrow;
  ffi::Error known = WithActivation(project_act, [&](auto a) {
    narrow = Pointwise<a>(expanded, outputs, project.typed_data(), project_bias.typed_data());
  });
  if (known.success() && expand.element_count()) {
    known = WithActivation(expand_act, [&](auto a) {
      widen = Pointwise<a>(inputs, expanded, expand.typed_data(), expand_bias.typed_data());
    });
  }
  if (known.failure()) return known;
  return WithSize(taps[0], [&](auto size) {
    return WithActivation(act, [&](auto a) {
      InvertedForward<a, size>(pool, w, inputs, outputs, widen, kernel.typed_data(),
                               bias.typed_data(), narrow, x.typed_data(), added, y->typed_data());
    });
  });
}

// What the calls of one direction share: arrays in and out, and the activation.
auto Forward() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<In>()
      .Arg<In>()
      .Arg<In>()
      .Arg<In>()
      .Ret<In>()
      .Ret<In>()
      .Ret<In>()
      .Attr<int64_t>("act")
      .Attr<int64_t>("after")
      .Attr<bool>("statistics");
}

auto Backward() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<In>()
      .Arg<In>()
      .Arg<In>()
      .Arg<In>()
      .Arg<In>()
      .Arg<In>()
      .Ret<In>()
      .Ret<In>()
      .Ret<In>()
      .Attr<int64_t>("act");
}

template <typename Binding>
auto WithWindow(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("stride")
      .template Attr<int64_t>("top")
      .template Attr<int64_t>("left");
}

}  // namespace
}  // namespace mnet

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_pointwise_forward, mnet::PointwiseForwardCall, mnet::Forward());
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_pointwise_backward, mnet::PointwiseBackwardCall,
                              mnet::Backward());
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_depthwise_forward, mnet::DepthwiseForwardCall,
                              mnet::WithWindow(mnet::Forward()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_depthwise_backward, mnet::DepthwiseBackwardCall,
                              mnet::WithWindow(mnet::Backward()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_full_forward, mnet::FullForwardCall,
                              mnet::WithWindow(mnet::Forward()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_full_backward, mnet::FullBackwardCall,
                              mnet::WithWindow(mnet::Backward()).Attr<bool>("input_gradient"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_inverted_forward, mnet::InvertedForwardCall,
                              mnet::WithWindow(ffi::Ffi::Bind()
                                                   .Ctx<ffi::ThreadPool>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Arg<mnet::In>()
                                                   .Ret<mnet::In>()
                                                   .Attr<int64_t>("act"))
                                  .Attr<int64_t>("expand_act")
                                  .Attr<int64_t>("project_act"));
