// The convolution that mixes channels and positions: under each row of the kernel lie numbers that
// are neighbours in memory, so it is a sum of products like the pointwise one, without a copy.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "depthwise.h"
#include "passes.h"
#include "product.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

struct Filter {
  Window window;
  int64_t rows, columns, outputs;  // of the kernel, and channels out
  // Numbers under one row of the kernel, and between the windows of neighbours.
  int64_t span() const { return columns * window.channels; }
  int64_t step() const { return window.stride * window.channels; }
  int64_t wide_out() const { return RoundUp(outputs, kLanes); }
  // Columns behind the input that the last window reads, and what whole tiles and vectors do.
  int64_t after() const {
    int64_t read = window.stride * (RoundUp(window.out_columns, kRows) - 1) + columns;
    int64_t spare = (kLanes + window.channels - 1) / window.channels;
    return std::max<int64_t>(0, read - window.left - window.columns) + spare;
  }
};

template <int64_t act, int64_t after>
void FullForward(xla::ffi::ThreadPool& pool, Filter f, const float* x, const float* norm,
                 const float* kernel, const float* bias, bool statistics, float* y, float* mean,
                 float* variance) {
  const Window& w = f.window;
  int64_t span = f.span(), step = f.step(), inputs = f.rows * span, out = f.wide_out();
  int64_t units = w.images * w.out_rows, parts = PartsFor(pool, units);
  bool stream = ShouldStream(y, units * w.out_columns, f.outputs);
  Finish<after> finish{bias, f.outputs};
  std::vector<Panel> panels = PanelsOf(f.outputs);
  Scratch packed(inputs * out);
  Pack(pool, panels, kernel, inputs, f.outputs, false, packed.get());
  RepeatedNorm repeated(norm, w.channels);
  Sums sums(parts, 2, f.outputs);
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows lines(f.rows, w.left, w.columns, f.after(), w.channels);
    Scratch moments(2 * out);
    std::vector<const float*> line(f.rows);
    for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
      int64_t image = unit / w.out_rows, row = unit % w.out_rows;
      for (int64_t i = 0; i < f.rows; ++i) {
        int64_t from = w.stride * row + i - w.top;
        line[i] = lines.Row(image, from, w.rows, [&](float* to) {
          const float* start = x + (image * w.rows + from) * w.columns * w.channels;
          NormalizeLine<act>(start, repeated, w.columns * w.channels, to);
        });
        line[i] -= w.left * w.channels;
      }
      float* sum = moments.get();
      float* square = sum + out;
      for (const Panel& panel : panels) WithVectors(panel, [&](auto size) NOT_INLINE {
        constexpr int vectors = size;
        int64_t column = panel.column(), width = panel.width();
        Vec s[vectors] = {}, q[vectors] = {};
        for (int64_t at = 0; at < w.out_columns; at += kRows) {
          Vec acc[kRows][vectors] = {};
          for (int64_t i = 0; i < f.rows; ++i)
            Accumulate<vectors>(line[i] + at * step, step, 1,
                                packed.get() + column * inputs + i * span * width, width, span,
                                acc);
          for (int64_t r = w.out_columns - at; r < kRows; ++r)  // windows behind the last column
            for (Vec& value : acc[r]) value = Vec{};
          float* to = y + (unit * w.out_columns + at) * f.outputs;
          StoreTile(acc, w.out_columns - at, finish, column, to, f.outputs, stream, s, q);
        }
        for (int j = 0; j < vectors; ++j) {
          Store(sum + column + j * kLanes, s[j]);
          Store(square + column + j * kLanes, q[j]);
        }
      });
      if (statistics) sums.Add(part, sum, square);
    }
  });
  if (statistics) WriteMoments(sums, units * w.out_columns, mean, variance);
}

template <int64_t act>
void FullBackward(xla::ffi::ThreadPool& pool, Filter f, const float* x, const float* norm,
                  const float* kernel, const float* g, const float* y, const float* pull,
                  bool input_gradient, float* dx, float* dnorm, float* dk) {
  const Window& w = f.window;
  int64_t span = f.span(), step = f.step(), tall = RoundUp(span, kRows), out = f.wide_out();
  int64_t wide = RoundUp(w.channels, kLanes), margin = w.left * w.channels;
  int64_t whole = margin + (w.columns + f.after()) * w.channels + kLanes;  // a line with margins
  int64_t padded = RoundUp(w.out_columns, kRows);
  int64_t units = w.images * w.rows;
  int64_t parts = PartsFor(pool, units, f.rows * tall * out > 1 << 15 ? 1 : 4);
  bool stream = ShouldStream(dx, units * w.columns, w.channels);
  std::vector<Panel> in_panels, out_panels = PanelsOf(f.outputs);
  if (input_gradient) in_panels = PanelsOf(span);
  int64_t turned = f.outputs * RoundUp(span, kLanes);  // of the transposed rows of the kernel
  Scratch packed(f.rows * turned);
  for (int64_t i = 0; i < f.rows; ++i)
    Pack(pool, in_panels, kernel + i * span * f.outputs, f.outputs, span, true,
         packed.get() + i * turned);
  RepeatedNorm repeated(norm, w.channels);
  Sums sums(parts, 2, w.channels);
  Scratch products(parts * f.rows * tall * out);
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows gradients(f.rows, 0, padded, 0, out);
    Scratch moments(2 * wide), normalized(whole), pulled(whole);
    float* product = products.get() + part * f.rows * tall * out;
    std::memset(product, 0, 4 * f.rows * tall * out);
    float* z = normalized.Zeroed(whole);
    for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
      int64_t image = unit / w.rows, row = unit % w.rows;
      const float* from = x + unit * w.columns * w.channels;
      NormalizeLine<act>(from, repeated, w.columns * w.channels, z + margin);
      float* dz = pulled.Zeroed(whole);
      for (int64_t i = 0; i < f.rows; ++i) {
        int64_t scaled = row + w.top - i, met = FloorDivide(scaled, w.stride);
        if (met * w.stride != scaled || met < 0 || met >= w.out_rows) continue;
        const float* gradient = gradients.Row(image, met, w.out_rows, [&](float* to) {
          int64_t start = (image * w.out_rows + met) * w.out_columns * f.outputs;
          PullRows(g + start, y + start, pull, w.out_columns, padded, f.outputs, out, to);
        });
        for (const Panel& panel : in_panels) WithVectors(panel, [&](auto size) {
          constexpr int vectors = size;
          int64_t column = panel.column(), width = panel.width();
          const float* turned_panel = packed.get() + i * turned + column * f.outputs;
          for (int64_t at = 0; at < w.out_columns; at += kRows) {
            Vec acc[kRows][vectors] = {};
            Accumulate<vectors>(gradient + at * out, out, 1, turned_panel, width, f.outputs, acc);
            AddTile(acc, w.out_columns - at, dz + at * step + column, step, span - column);
          }
        });
        for (const Panel& panel : out_panels) WithVectors(panel, [&](auto size) {
          constexpr int vectors = size;
          for (int64_t k = 0; k < span; k += kRows) {
            Vec acc[kRows][vectors] = {};
            Accumulate<vectors>(z + k, 1, step, gradient + panel.column(), out, w.out_columns, acc);
            AddTile(acc, kRows, product + (i * tall + k) * out + panel.column(), out, out);
          }
        });
      }
      if (!input_gradient) continue;
      for (int64_t c = 0; c < wide; c += kLanes) {
        PushLine<act>(Norm(norm, w.channels, c), from + c, dz + margin + c, w.channels,
                      dx + unit * w.columns * w.channels + c, w.channels, w.columns,
                      w.channels - c, stream, moments.get() + c, moments.get() + wide + c);
      }
      sums.Add(part, moments.get(), moments.get() + wide);
    }
  });
  if (input_gradient) WriteNormGradient(sums, norm, dnorm);
  for (int64_t i = 0; i < f.rows; ++i)
    JoinProducts(products.get() + i * tall * out, parts, f.rows * tall * out, span, f.outputs, out,
                 dk + i * span * f.outputs);
}

}  // namespace mnet
