// An inverted residual in one pass: a row of the expanded feature map is computed when the window
// of the depthwise convolution reaches it, so the map never leaves the caches.

#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "depthwise.h"
#include "layer.h"
#include "passes.h"
#include "pointwise.h"
#include "product.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

constexpr int64_t kProjectedPixels = 56;  // projected together, with one read of the kernel
constexpr int64_t kLeastPartRows = 7;     // of y in a part, if each thread has so many

// Rows of z and of y, `z_step` and `y_step` numbers apart. `skip` is dense, or null where nothing
// is added. There are at least kTileRows rows.
struct ProductRows {
  const float* z;
  int64_t z_step;
  const float* skip;
  float* y;
  int64_t y_step, count;
};

// y = output_act(z kernel + bias + skip), with a kernel in panels.
template <Activation output_act>
class PanelProduct {
 public:
  PanelProduct(int64_t inputs, int64_t outputs, const float* kernel, const float* bias)
      : inputs_(inputs),
        outputs_(outputs),
        kernel_(kernel),
        bias_(bias),
        strips_(StripsOf(outputs, kPanelColumns)) {}

  void operator()(const ProductRows& rows) const {
    for (const Strip& strip : strips_)
      WithVectors(strip, [&](auto vectors) { MultiplyStrip<vectors>(rows, strip); });
  }

 private:
  template <int vectors>
  NOINLINE void MultiplyStrip(const ProductRows rows, const Strip strip) const {
    KernelStrip kernel = StripInPanel(kernel_, inputs_, outputs_, strip);
    StripOutput<output_act> output{{bias_, outputs_}, rows.y, rows.y_step, strip.column(), false};
    StripSums<vectors> sums;
    for (int64_t r = 0; r < rows.count; r += kTileRows) {
      int64_t first = std::min(r, rows.count - kTileRows);  // the last tile may overlap another
      Tile<vectors> tile = {};
      if (rows.skip) LoadSkip(rows.skip + first * outputs_, strip.column(), tile);
      const float* z = rows.z + first * rows.z_step;
      TileFactors factors{z, rows.z_step, 1, kernel.from, kernel.row_step, inputs_};
      Multiply(factors, tile);
      StoreTile(tile, first, kTileRows, output, sums);
    }
  }

  template <int vectors>
  ALWAYS_INLINE void LoadSkip(const float* skip, int64_t column, Tile<vectors>& tile) const {
    for (int64_t r = 0; r < kTileRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        int64_t c = column + v * kLanes;
        tile[r][v] = Load(skip + r * outputs_ + c, outputs_ - c);
      }
    }
  }

  int64_t inputs_, outputs_;
  const float *kernel_, *bias_;
  std::vector<Strip> strips_;
};

// A `PanelProduct` with any activation.
using RowProduct = std::function<void(const ProductRows&)>;

// y = project(depthwise(expand(x)), skip)
struct InvertedBlock {
  Geometry geometry;        // of the depthwise convolution; its channels are the expanded ones
  int64_t inputs, outputs;  // channels of x and of y
  RowProduct expand;        // empty where x is expanded already
  RowProduct project;
  const float *x, *kernel, *bias;  // kernel and bias are those of the depthwise convolution
  const float* skip;               // null where nothing is added
  float* y;
};

// Finds the rows of the expanded feature map under one row of y.
template <int size>
void FindExpanded(const InvertedBlock& block, int64_t unit, SlidingRows& expanded,
                  const float* (&lines)[size]) {
  const Geometry& g = block.geometry;
  int64_t image = unit / g.out_rows, inputs = block.inputs, padded = g.padded_channels();
  auto find = [&](int64_t row) {
    return expanded.Row(image, row, g.rows, [&](float* to) {
      const float* x = block.x + (image * g.rows + row) * g.columns * inputs;
      if (block.expand) return block.expand({x, inputs, nullptr, to, padded, g.columns});
      NormalizeRows<kNone>(x, nullptr, {g.columns, g.columns, inputs, padded}, to);
    });
  };
  FindLines(g, unit % g.out_rows, find, lines);
}

// The forward pass. A unit of work is a row of y.
template <Activation output_act, int size>
void InvertedForward(xla::ffi::ThreadPool& pool, const InvertedBlock& block) {
  const Geometry& g = block.geometry;
  int64_t padded = g.padded_channels(), units = g.out_units(), pixels = g.out_columns;
  int64_t together = std::clamp<int64_t>(kProjectedPixels / pixels, 1, g.out_rows);  // rows of y
  // Neighbouring parts compute some expanded rows twice, so parts should not be too small.
  int64_t thread_rows = units / std::max<int64_t>(pool.num_threads(), 1);
  int64_t per_thread = std::clamp<int64_t>(thread_rows / kLeastPartRows, 1, kPartsPerThread);
  int64_t parts = PartsFor(pool, units, per_thread);
  Scratch taps(size * size * padded);
  PackTaps(block.kernel, size * size, g, taps.get());
  Finish<output_act> finish{block.bias, g.channels};
  RowFilter<output_act> filter{g, taps.get(), finish, 0, pixels, padded, false};
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows expanded({size, g.left, g.columns, g.right(size), padded});
    Scratch filtered(together * pixels * padded);
    Range range = ShareOf(units, part, parts);
    for (int64_t unit = range.begin, count; unit < range.end; unit += count) {
      count = std::min(together, range.end - unit);
      for (int64_t i = 0; i < count; ++i) {
        const float* lines[size];
        FindExpanded(block, unit + i, expanded, lines);
        float* z = filtered.get() + i * pixels * padded;
        FilterRow<size>(filter, FilteredRow{lines, nullptr, z, nullptr, nullptr});
      }
      int64_t at = unit * pixels * block.outputs;
      const float* skip = block.skip ? block.skip + at : nullptr;
      block.project({filtered.get(), padded, skip, block.y + at, block.outputs, count * pixels});
    }
  });
}

}  // namespace mnet
