// The calls of the convolution that mixes channels and positions.

#include <cstdint>

#include "full.h"
#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {
namespace {

Filter FilterOf(Window window, In kernel) {
  auto shape = kernel.dimensions();
  return {window, shape[0], shape[1], shape[3]};
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

}  // namespace
}  // namespace mnet

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_full_forward, mnet::FullForwardCall,
                              mnet::WithWindow(mnet::Forward()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_full_backward, mnet::FullBackwardCall,
                              mnet::WithWindow(mnet::Backward()).Attr<bool>("input_gradient"));
