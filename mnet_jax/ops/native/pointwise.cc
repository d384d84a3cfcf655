// The calls of the pointwise convolution.

#include <cstdint>

#include "handlers.h"
#include "pointwise.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {
namespace {

Product ProductOf(In x, In w, ffi::AnyBuffer::Dimensions y) {
  int64_t inputs = x.dimensions().back(), outputs = y.back();
  return {static_cast<int64_t>(x.element_count()) / inputs, inputs, outputs,
          w.dimensions().size() == 1};
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

}  // namespace
}  // namespace mnet

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_pointwise_forward, mnet::PointwiseForwardCall, mnet::Forward());
XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_pointwise_backward, mnet::PointwiseBackwardCall,
                              mnet::Backward());
