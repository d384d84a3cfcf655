// The call of the inverted residual.

#include "inverted.h"

#include <cstdint>

#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

// The `Operands` of ops/layer.py; arrays of missing parts are empty.
struct InvertedBuffers {
  static constexpr int kIn = 8, kOut = 1;
  In x, expand, expand_bias, kernel, bias, project, project_bias, skip;
  Out y;
};

struct InvertedAttributes {
  int64_t expand_activation, depthwise_activation, project_activation;
  WindowAttributes window;
};

namespace {

InvertedBlock BlockOf(InvertedBuffers b, const WindowAttributes& window) {
  InvertedBlock block{};
  auto y = b.y->dimensions();
  block.geometry = GeometryOf(b.x.dimensions(), y, window);
  block.geometry.channels = b.kernel.dimensions()[2];
  block.inputs = b.x.dimensions()[3];
  block.outputs = y[3];
  block.x = b.x.typed_data();
  block.kernel = b.kernel.typed_data();
  block.bias = b.bias.typed_data();
  block.skip = b.skip.element_count() ? b.skip.typed_data() : nullptr;
  block.y = b.y->typed_data();
  return block;
}

ffi::Error ForwardCall(ffi::ThreadPool& pool, const InvertedAttributes& attributes,
                       InvertedBuffers b) {
  InvertedBlock block = BlockOf(b, attributes.window);
  int64_t inputs = block.inputs, expanded = block.geometry.channels, outputs = block.outputs;
  ffi::Error known = WithActivation(attributes.project_activation, [&](auto act) {
    const float *kernel = b.project.typed_data(), *bias = b.project_bias.typed_data();
    block.project = PanelProduct<act>(expanded, outputs, kernel, bias);
  });
  if (known.success() && b.expand.element_count()) {
    known = WithActivation(attributes.expand_activation, [&](auto act) {
      const float *kernel = b.expand.typed_data(), *bias = b.expand_bias.typed_data();
      block.expand = PanelProduct<act>(inputs, expanded, kernel, bias);
    });
  }
  if (known.failure()) return known;
  return WithSize(b.kernel.dimensions()[0], [&](auto size) {
    return WithActivation(attributes.depthwise_activation,
                          [&](auto act) { InvertedForward<act, size>(pool, block); });
  });
}

}  // namespace
}  // namespace mnet

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(mnet::InvertedAttributes,
                                      StructMember<int64_t>("expand_activation"),
                                      StructMember<int64_t>("depthwise_activation"),
                                      StructMember<int64_t>("project_activation"),
                                      MNET_WINDOW_MEMBERS);
MNET_DEFINE_HANDLER(mnet_inverted_forward, mnet::ForwardCall, mnet::InvertedBuffers,
                    mnet::InvertedAttributes);
