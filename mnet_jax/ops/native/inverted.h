// An inverted residual in one pass: a row of the expanded map is made when the window of the
// depthwise convolution comes to it, and none of it leaves the caches.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "depthwise.h"
#include "passes.h"
#include "pointwise.h"
#include "product.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

constexpr int64_t kPixels = 56;  // that are projected at a time: they share the reading of the kernel
constexpr int64_t kRowsOfPart = 7;  // at least, where each thread has as many

// after(z w + bias + skip) with the kernel w in blocks.
template <int64_t after>
struct Pointwise {
  Pointwise(int64_t inputs, int64_t outputs, const float* w, const float* bias)
      : inputs(inputs), outputs(outputs), w(w), bias(bias), panels(PanelsOf(outputs, kBlock)) {}

  // At least kRows rows; those of z and of the result lie so many numbers apart. `skip` is dense, or
  // null where nothing is added.
  void operator()(const float* z, int64_t z_step, const float* skip, float* to, int64_t to_step,
                  int64_t rows) const {
    Product p{rows, inputs, outputs, true};
    Finish<after> finish{bias, outputs};
    for (const Panel& panel : panels) WithVectors(panel, [&](auto size) NOT_INLINE {
      constexpr int vectors = size;
      int64_t column = panel.column();
      PanelRows b = RowsInBlocks(p, panel, w);
      Vec s[vectors] = {}, q[vectors] = {};
      for (int64_t r = 0; r < rows; r += kRows) {
        int64_t first = std::min(r, rows - kRows);  // the last tile is whole too
        Vec acc[kRows][vectors] = {};
        for (int64_t i = 0; skip && i < kRows; ++i) {
          for (int v = 0; v < vectors; ++v) {
            int64_t c = column + v * kLanes;
            acc[i][v] = Load(skip + (first + i) * outputs + c, outputs - c);
          }
        }
        Accumulate<vectors>(z + first * z_step, z_step, 1, b.from, b.width, inputs, acc);
        StoreTile(acc, kRows, finish, column, to + first * to_step, to_step, false, s, q);
      }
    });
  }

  int64_t inputs, outputs;
  const float *w, *bias;
  std::vector<Panel> panels;
};

// Any of them.
using Multiply = std::function<void(const float* z, int64_t z_step, const float* skip, float* to,
                                    int64_t to_step, int64_t rows)>;

// y = project(depthwise(expand(x)), skip): `w` is the window of the depthwise convolution, `inputs` the
// channels of x, which is expanded already where `expand` is empty, and `outputs` those of y.
template <int64_t act, int size>
void InvertedForward(xla::ffi::ThreadPool& pool, Window w, int64_t inputs, int64_t outputs,
                     const Multiply& expand, const float* kernel, const float* bias,
                     const Multiply& project, const float* x, const float* skip, float* y) {
  int64_t wide = w.wide(), units = w.images * w.out_rows, pixels = w.out_columns;
  int64_t together = std::clamp<int64_t>(kPixels / pixels, 1, w.out_rows);
  // Each part makes some rows that the one before it made too, so it is to have more of its own.
  int64_t rows = units / std::max<int64_t>(pool.num_threads(), 1);  // of a thread
  int64_t parts = PartsFor(pool, units, std::clamp<int64_t>(rows / kRowsOfPart, 1, 4));
  Scratch taps(size * size * wide);
  PackTaps(kernel, size * size, w.channels, wide, taps.get());
  Finish<act> finish{bias, w.channels};
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows expanded(size, w.left, w.columns, w.right(size), wide);
    Scratch filtered(together * pixels * wide);
    int64_t end = units * (part + 1) / parts;
    for (int64_t unit = units * part / parts, count; unit < end; unit += count) {
      count = std::min(together, end - unit);
      for (int64_t i = 0; i < count; ++i) {
        int64_t image = (unit + i) / w.out_rows, row = (unit + i) % w.out_rows;
        const float* lines[size];
        for (int j = 0; j < size; ++j) {
          int64_t from = w.stride * row + j - w.top;
          lines[j] = expanded.Row(image, from, w.rows, [&](float* to) {
            const float* line = x + (image * w.rows + from) * w.columns * inputs;
            if (expand) return expand(line, inputs, nullptr, to, wide, w.columns);
            NormalizeRows<kNone>(line, nullptr, w.columns, w.columns, inputs, wide, to);
          });
          lines[j] -= w.left * wide;
        }
        FilterRow<act, size>(w, lines, 0, pixels, taps.get(), finish, nullptr,
                             filtered.get() + i * pixels * wide, wide, false, nullptr, nullptr);
      }
      int64_t at = unit * pixels * outputs;
      project(filtered.get(), wide, skip ? skip + at : nullptr, y + at, outputs, count * pixels);
    }
  });
}

}  // namespace mnet
