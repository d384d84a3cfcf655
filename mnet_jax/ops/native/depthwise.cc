// The calls of the depthwise convolution.

#include "depthwise.h"

#include <cstdint>

#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

struct DepthwiseBackwardAttributes {
  int64_t input_activation;
  WindowAttributes window;
};

namespace {

ffi::Error ForwardCall(ffi::ThreadPool& pool, const WindowForwardAttributes& attributes,
                       ForwardBuffers buffers) {
  Geometry geometry =
      GeometryOf(buffers.x.dimensions(), buffers.y->dimensions(), attributes.window);
  ForwardArrays arrays = ArraysOf(buffers, attributes.statistics);
  int64_t input = attributes.input_activation, output = attributes.output_activation;
  return WithSize(buffers.kernel.dimensions()[0], [&](auto size) {
    return WithActivations(input, output, [&](auto input_act, auto output_act) {
      DepthwiseForward<input_act, output_act, size>(pool, geometry, arrays);
    });
  });
}

ffi::Error BackwardCall(ffi::ThreadPool& pool, const DepthwiseBackwardAttributes& attributes,
                        BackwardBuffers buffers) {
  Geometry geometry = GeometryOf(buffers.x.dimensions(), buffers.y.dimensions(), attributes.window);
  BackwardArrays arrays = ArraysOf(buffers);
  return WithSize(buffers.kernel.dimensions()[0], [&](auto size) {
    return WithActivation(attributes.input_activation, [&](auto input_act) {
      DepthwiseBackward<input_act, size>(pool, geometry, arrays);
    });
  });
}

}  // namespace
}  // namespace mnet

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(mnet::DepthwiseBackwardAttributes,
                                      StructMember<int64_t>("input_activation"),
                                      MNET_WINDOW_MEMBERS);
MNET_DEFINE_HANDLER(mnet_depthwise_forward, mnet::ForwardCall, mnet::ForwardBuffers,
                    mnet::WindowForwardAttributes);
MNET_DEFINE_HANDLER(mnet_depthwise_backward, mnet::BackwardCall, mnet::BackwardBuffers,
                    mnet::DepthwiseBackwardAttributes);
