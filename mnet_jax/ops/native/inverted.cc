// The call of the inverted residual.

#include <cstdint>

#include "depthwise.h"
#include "handlers.h"
#include "inverted.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {
namespace {

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

auto Inverted() {
  return WithWindow(Call<8, 1>()).Attr<int64_t>("expand_act").Attr<int64_t>("project_act");
}

}  // namespace
}  // namespace mnet

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_inverted_forward, mnet::InvertedForwardCall, mnet::Inverted());
