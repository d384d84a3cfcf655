// The calls of the depthwise convolution.

#include <cstdint>

#include "depthwise.h"
#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {
namespace {

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

}  // namespace
}  // namespace mnet

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_depthwise_forward, mnet::DepthwiseForwardCall,
                              mnet::WithWindow(mnet::Forward()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_depthwise_backward, mnet::DepthwiseBackwardCall,
                              mnet::WithWindow(mnet::Backward()));
