// The calls of the full convolution.

#include "full.h"

#include <cstdint>

#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

struct FullBackwardAttributes {
  int64_t input_activation;
  bool input_gradient;
  WindowAttributes window;
};

namespace {

FullShape ShapeOf(const Geometry& geometry, const In& kernel) {
  auto sizes = kernel.dimensions();
  return {geometry, sizes[0], sizes[1], sizes[3]};
}

ffi::Error ForwardCall(ffi::ThreadPool& pool, const WindowForwardAttributes& attributes,
                       ForwardBuffers buffers) {
  FullShape shape =
      ShapeOf(GeometryOf(buffers.x.dimensions(), buffers.y->dimensions(), attributes.window),
              buffers.kernel);
  ForwardArrays arrays = ArraysOf(buffers, attributes.statistics);
  int64_t input = attributes.input_activation, output = attributes.output_activation;
  return WithActivations(input, output, [&](auto input_act, auto output_act) {
    FullForward<input_act, output_act>(pool, shape, arrays);
  });
}

ffi::Error BackwardCall(ffi::ThreadPool& pool, const FullBackwardAttributes& attributes,
                        BackwardBuffers buffers) {
  FullShape shape =
      ShapeOf(GeometryOf(buffers.x.dimensions(), buffers.y.dimensions(), attributes.window),
              buffers.kernel);
  BackwardArrays arrays = ArraysOf(buffers);
  return WithActivation(attributes.input_activation, [&](auto input_act) {
    FullBackward<input_act>(pool, shape, arrays, attributes.input_gradient);
  });
}

}  // namespace
}  // namespace mnet

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(mnet::FullBackwardAttributes,
                                      StructMember<int64_t>("input_activation"),
                                      StructMember<bool>("input_gradient"), MNET_WINDOW_MEMBERS);
MNET_DEFINE_HANDLER(mnet_full_forward, mnet::ForwardCall, mnet::ForwardBuffers,
                    mnet::WindowForwardAttributes);
MNET_DEFINE_HANDLER(mnet_full_backward, mnet::BackwardCall, mnet::BackwardBuffers,
                    mnet::FullBackwardAttributes);
