// The pointwise convolution: products of tall matrices with small ones.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "passes.h"
#include "product.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

constexpr int64_t kFewRows = 512;  // up to here a copy of the kernel costs more than it saves

struct Product {
  int64_t rows, inputs, outputs;
  bool in_blocks;  // the order of the kernel's numbers; see ops/panels.py
  int64_t wide_in() const { return RoundUp(inputs, kLanes); }
  int64_t wide_out() const { return RoundUp(outputs, kLanes); }
  // Rows of a tile whose z and y stay in the second cache.
  int64_t tile() const {
    int64_t fit = 49152 / (wide_in() + wide_out()) / kRows * kRows;
    return std::clamp<int64_t>(fit, 2 * kRows, 128);
  }
};

// Where the rows of a panel of the kernel are, how far apart, and what the next panels read.
struct PanelRows {
  const float* from;
  int64_t width;
  const float* following;
};

inline PanelRows RowsInBlocks(const Product& p, const Panel& panel, const float* w) {
  int64_t start = panel.column() / kBlock * kBlock, within = panel.column() - start;
  int64_t width = std::min(kBlock, RoundUp(p.outputs, kBlockStep) - start);
  const float* block = w + start * p.inputs;
  return {block + within, width, block + (width + within) * p.inputs};
}

template <int64_t act, int64_t after>
void PointwiseForward(xla::ffi::ThreadPool& pool, Product p, const float* x, const float* norm,
                      const float* w, const float* bias, bool statistics, float* y, float* mean,
                      float* variance) {
  int64_t wide = p.wide_in(), out = p.wide_out(), tile = p.tile();
  Finish<after> finish{bias, p.outputs};
  std::vector<Panel> panels = PanelsOf(p.outputs, p.in_blocks ? kBlock : p.outputs);
  bool few = p.rows <= kFewRows, direct = few && out == p.outputs;
  Scratch copy(p.in_blocks || direct ? 0 : p.inputs * out);
  if (!p.in_blocks && !direct) Pack(pool, panels, w, p.inputs, p.outputs, false, copy.get());
  auto rows_of = [&](const Panel& panel) -> PanelRows {
    if (p.in_blocks) return RowsInBlocks(p, panel, w);
    if (direct) return {w + panel.column(), p.outputs, nullptr};
    return {copy.get() + panel.column() * p.inputs, panel.width(), nullptr};
  };
  // Tiles of a size, so that threads have the same to do, and shared by columns if they are few.
  int64_t tiles = (p.rows + tile - 1) / tile, wanted = 2 * pool.num_threads();
  tile = RoundUp((p.rows + tiles - 1) / tiles, kRows);
  int64_t groups = std::clamp<int64_t>((wanted + tiles - 1) / tiles, 1, panels.size());
  int64_t units = tiles * groups, parts = PartsFor(pool, units);
  bool stream = ShouldStream(y, p.rows, p.outputs);
  Sums sums(parts, 2, p.outputs);
  Parallel(pool, parts, [&](int64_t part) {
    Scratch z(tile * wide), moments(2 * out);
    int64_t normalized = -1;  // the tile that z holds
    for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
      int64_t t = unit / groups, group = unit % groups;
      int64_t first = t * tile, rows = std::min(tile, p.rows - first);
      // Rows that need no change are read where they are, if they make whole tiles of the product.
      int64_t kept = act == kNone && p.inputs == wide ? rows / kRows * kRows : 0;
      if (t != normalized) {
        NormalizeRows<act>(x + (first + kept) * p.inputs, norm, rows - kept,
                           RoundUp(rows - kept, kRows), p.inputs, wide, z.get() + kept * wide);
        normalized = t;
      }
      float* sum = moments.Zeroed(2 * out);
      float* square = sum + out;
      int64_t last = panels.size() * (group + 1) / groups;
      for (int64_t i = panels.size() * group / groups; i < last; ++i) {
        WithVectors(panels[i], [&](auto size) NOT_INLINE {
          constexpr int vectors = size;
          int64_t column = panels[i].column();
          PanelRows b = rows_of(panels[i]);
          // Each row of tiles asks for its share of the panel that follows.
          int64_t share = p.inputs * panels[i].width() * kRows / rows;
          Vec s[vectors] = {}, q[vectors] = {};
          for (int64_t r = 0; r < rows; r += kRows) {
            Vec acc[kRows][vectors] = {};
            const float* z_rows = r < kept ? x + (first + r) * wide : z.get() + r * wide;
            auto multiply = [&](auto... next) INLINE {
              Accumulate<vectors>(z_rows, wide, 1, b.from, b.width, p.inputs, acc, next...);
            };
            if (few && p.in_blocks) {
              multiply(Soon{b.following + r / kRows * share, (share + p.inputs - 1) / p.inputs});
            } else if (i == 0) {
              multiply(Soon{x + (first + tile + r) * p.inputs});
            } else {
              multiply();
            }
            StoreTile(acc, rows - r, finish, column, y + (first + r) * p.outputs, p.outputs,
                      stream, s, q);
          }
          for (int j = 0; j < vectors; ++j) {
            Store(sum + column + j * kLanes, s[j]);
            Store(square + column + j * kLanes, q[j]);
          }
        });
      }
      if (statistics) sums.Add(part, sum, square);
    }
  });
  if (statistics) WriteMoments(sums, p.rows, mean, variance);
}

template <int64_t act>
void PointwiseBackward(xla::ffi::ThreadPool& pool, Product p, const float* x, const float* norm,
                       const float* w, const float* g, const float* y, const float* pull,
                       float* dx, float* dnorm, float* dw) {
  int64_t wide = p.wide_in(), out = p.wide_out(), tile = p.tile();
  std::vector<Panel> in_panels = PanelsOf(p.inputs), out_panels = PanelsOf(p.outputs);
  Scratch packed(p.outputs * wide);
  Pack(pool, in_panels, w, p.outputs, p.inputs, true, packed.get());
  int64_t tiles = (p.rows + tile - 1) / tile;
  int64_t parts = PartsFor(pool, tiles, wide * out > 1 << 15 ? 1 : 4);
  bool stream = ShouldStream(dx, p.rows, p.inputs);
  Sums sums(parts, 2, p.inputs);
  Scratch products(parts * wide * out);
  Parallel(pool, parts, [&](int64_t part) {
    Scratch z(tile * wide), gradient(tile * out), moments(2 * wide);
    float* product = products.get() + part * wide * out;
    std::memset(product, 0, 4 * wide * out);
    for (int64_t t = tiles * part / parts; t < tiles * (part + 1) / parts; ++t) {
      int64_t first = t * tile, rows = std::min(tile, p.rows - first);
      const float* from = x + first * p.inputs;
      int64_t padded = RoundUp(rows, kRows);
      NormalizeRows<act>(from, norm, rows, padded, p.inputs, wide, z.get());
      PullRows(g + first * p.outputs, y + first * p.outputs, pull, rows, padded, p.outputs, out,
               gradient.get());
      float* shift = moments.Zeroed(2 * wide);
      float* slope = shift + wide;
      for (const Panel& in : in_panels) WithVectors(in, [&](auto size) {
        constexpr int vectors = size;
        int64_t column = in.column(), width = in.width();
        const float* panel = packed.get() + column * p.outputs;
        for (int64_t r = 0; r < rows; r += kRows) {
          Vec acc[kRows][vectors] = {};
          const float* rows_of_g = gradient.get() + r * out;
          if (column == 0) {
            int64_t next = (first + tile + r) * p.outputs;
            Accumulate<vectors>(rows_of_g, out, 1, panel, width, p.outputs, acc, Soon{g + next},
                                Soon{y + next});
          } else {
            Accumulate<vectors>(rows_of_g, out, 1, panel, width, p.outputs, acc);
          }
          int64_t count = std::min(kRows, rows - r);
#pragma GCC unroll 4
          for (int j = 0; j < vectors; ++j) {
            int64_t c = column + j * kLanes, n = p.inputs - c;
            Norm constants(norm, p.inputs, c);
            Vec s{}, q{};
#pragma GCC unroll 8
            for (int i = 0; i < kRows; ++i) {
              if (i >= count) break;
              Vec centred = constants.Centred(Load(from + (r + i) * p.inputs + c, n));
              Vec d = Passed<act>(acc[i][j], constants.Apply(centred));
              s += d;
              q += d * centred;
              StoreOut(dx + (first + r + i) * p.inputs + c, d * constants.second, n, stream);
            }
            Store(shift + c, Load(shift + c) + s);
            Store(slope + c, Load(slope + c) + q);
          }
        }
      });
      sums.Add(part, shift, slope);
      for (const Panel& panel : out_panels) WithVectors(panel, [&](auto size) {
        constexpr int vectors = size;
        int64_t column = panel.column();
        for (int64_t k = 0; k < p.inputs; k += kRows) {
          Vec acc[kRows][vectors] = {};
          const float* columns_of_z = z.get() + k;
          const float* columns_of_g = gradient.get() + column;
          if (column == 0) {
            const float* next = x + (first + tile) * p.inputs + k * rows;
            Accumulate<vectors>(columns_of_z, 1, wide, columns_of_g, out, rows, acc, Soon{next});
          } else {
            Accumulate<vectors>(columns_of_z, 1, wide, columns_of_g, out, rows, acc);
          }
          AddTile(acc, kRows, product + k * out + column, out, out);
        }
      });
    }
  });
  WriteNormGradient(sums, norm, dnorm);
  JoinProducts(products.get(), parts, wide * out, p.inputs, p.outputs, out, dw);
}

}  // namespace mnet
