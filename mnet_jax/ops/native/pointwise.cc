// The calls of the pointwise convolution.

#include "pointwise.h"

#include <cstdint>

#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {
namespace {

ProductShape ShapeOf(const In& x, const In& kernel, ffi::AnyBuffer::Dimensions y) {
  int64_t inputs = x.dimensions().back(), outputs = y.back();
  bool in_panels = kernel.dimensions().size() == 1;
  return {static_cast<int64_t>(x.element_count()) / inputs, inputs, outputs, in_panels};
}

ffi::Error ForwardCall(ffi::ThreadPool& pool, const PointwiseForwardAttributes& attributes,
                       ForwardBuffers buffers) {
  ProductShape shape = ShapeOf(buffers.x, buffers.kernel, buffers.y->dimensions());
  ForwardArrays arrays = ArraysOf(buffers, attributes.statistics);
  int64_t input = attributes.input_activation, output = attributes.output_activation;
  return WithActivations(input, output, [&](auto input_act, auto output_act) {
    PointwiseForward<input_act, output_act>(pool, shape, arrays);
  });
}

ffi::Error BackwardCall(ffi::ThreadPool& pool, const PointwiseBackwardAttributes& attributes,
                        BackwardBuffers buffers) {
  ProductShape shape = ShapeOf(buffers.x, buffers.kernel, buffers.y.dimensions());
  BackwardArrays arrays = ArraysOf(buffers);
  return WithActivation(attributes.input_activation,
                        [&](auto input_act) { PointwiseBackward<input_act>(pool, shape, arrays); });
}

}  // namespace
}  // namespace mnet

MNET_DEFINE_HANDLER(mnet_pointwise_forward, mnet::ForwardCall, mnet::ForwardBuffers,
                    mnet::PointwiseForwardAttributes);
MNET_DEFINE_HANDLER(mnet_pointwise_backward, mnet::BackwardCall, mnet::BackwardBuffers,
                    mnet::PointwiseBackwardAttributes);
