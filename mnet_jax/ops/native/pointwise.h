// The pointwise convolution: products of tall matrices with small ones.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "passes.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

constexpr int64_t kRows = 8;    // of a tile of the product
constexpr int64_t kVectors = 3;  // in a row of it
constexpr int64_t kPackAlone = 1 << 15;  // numbers that are copied before another thread is awake
constexpr int64_t kDirectRows = 512;     // up to here the copy costs more than it saves

// acc[r] += sum over t of a[r * row + t * step] * b[t * width ...]
template <int vectors>
ALWAYS_INLINE void Accumulate(const float* __restrict a, int64_t row, int64_t step,
                              const float* __restrict b, int64_t width, int64_t count,
                              Vec (&acc)[kRows][vectors]) {
  for (int64_t t = 0; t < count; ++t) {
    Vec line[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) line[v] = Load(b + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Vec value = Fill(a[r * row]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) acc[r][v] += value * line[v];
    }
    a += step;
    b += width;
  }
}

// Writes the first `rows` of a tile from column c on, and adds all of it to the sums: behind these
// rows it is zero. A loop that ended there would not be unrolled.
template <int vectors, int64_t after>
ALWAYS_INLINE void StoreTile(const Vec (&acc)[kRows][vectors], int64_t rows,
                             const Finish<after>& finish, int64_t c, float* to, bool stream,
                             Vec (&sum)[vectors], Vec (&square)[vectors]) {
  to += c;
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    int64_t first = v * kLanes, n = finish.channels - c - first;
    Vec bias = finish.Bias(c + first);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      if (after == kNone) {
        sum[v] += acc[r][v];
        square[v] += acc[r][v] * acc[r][v];
      }
      if (r < rows)
        StoreOut(to + r * finish.channels + first, finish.Apply(acc[r][v], bias), n, stream);
    }
  }
}

// Adds them to what is there.
template <int vectors>
ALWAYS_INLINE void AddTile(const Vec (&acc)[kRows][vectors], int64_t rows, float* to, int64_t row,
                           int64_t columns) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* at = to + r * row + v * kLanes;
      int64_t n = columns - v * kLanes;
      Store(at, Load(at, n) + acc[r][v], n);
    }
  }
}

// Columns of a matrix that a tile of the product takes at a time, in vectors.
struct Panel {
  int64_t first, vectors;
  int64_t column() const { return first * kLanes; }
  int64_t width() const { return vectors * kLanes; }
};

inline std::vector<Panel> PanelsOf(int64_t columns) {
  std::vector<Panel> panels;
  int64_t vectors = RoundUp(columns, kLanes) / kLanes;
  for (int64_t v = 0; v < vectors; v += panels.back().vectors) {
    int64_t left = vectors - v;
    panels.push_back({v, left >= 5 || left == kVectors ? kVectors : std::min<int64_t>(left, 2)});
  }
  return panels;
}

// Calls body with the panel's number of vectors as a constant.
template <typename Body>
ALWAYS_INLINE void WithVectors(const Panel& panel, const Body& body) {
  switch (panel.vectors) {
    case 1: return body(std::integral_constant<int, 1>{});
    case 2: return body(std::integral_constant<int, 2>{});
    default: return body(std::integral_constant<int, 3>{});
  }
}

// [rows, columns] (or its transpose) as panels of columns, each [rows, width], padded with zeros.
inline void Pack(xla::ffi::ThreadPool& pool, const std::vector<Panel>& panels, const float* w,
                 int64_t rows, int64_t columns, bool transposed, float* packed) {
  auto pack = [&](int64_t i) {
    int64_t width = panels[i].width(), first = panels[i].column();
    int64_t count = std::min(width, columns - first);
    float* to = packed + first * rows;
    if (count < width) std::memset(to, 0, 4 * rows * width);
    for (int64_t r = 0; r < rows && !transposed; ++r)
      std::memcpy(to + r * width, w + r * columns + first, 4 * count);
    for (int64_t c = 0; c < count && transposed; ++c)
      for (int64_t r = 0; r < rows; ++r) to[r * width + c] = w[(first + c) * rows + r];
  };
  if (rows * columns > kPackAlone) return Parallel(pool, panels.size(), pack);
  for (size_t i = 0; i < panels.size(); ++i) pack(i);
}

struct Product {
  int64_t rows, inputs, outputs;
  int64_t wide_in() const { return RoundUp(inputs, kLanes); }
  int64_t wide_out() const { return RoundUp(outputs, kLanes); }
  // Rows of a tile whose z and y stay in the second cache.
  int64_t tile() const {
    int64_t fit = 49152 / (wide_in() + wide_out()) / kRows * kRows;
    return std::clamp<int64_t>(fit, 2 * kRows, 128);
  }
};

template <int64_t act, int64_t after>
void PointwiseForward(xla::ffi::ThreadPool& pool, Product p, const float* x, const float* norm,
                      const float* w, const float* bias, bool statistics, float* y, float* mean,
                      float* variance) {
  int64_t wide = p.wide_in(), out = p.wide_out(), tile = p.tile();
  Finish<after> finish{bias, p.outputs};
  std::vector<Panel> panels = PanelsOf(p.outputs);
  bool direct = p.rows <= kDirectRows && out == p.outputs;
  Scratch packed(direct ? 0 : p.inputs * out);
  if (!direct) Pack(pool, panels, w, p.inputs, p.outputs, false, packed.get());
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
      if (t != normalized) {
        NormalizeRows<act>(x + first * p.inputs, norm, rows, RoundUp(rows, kRows), p.inputs, wide,
                           z.get());
        normalized = t;
      }
      float* sum = moments.Zeroed(2 * out);
      float* square = sum + out;
      int64_t last = panels.size() * (group + 1) / groups;
      for (int64_t i = panels.size() * group / groups; i < last; ++i) {
        WithVectors(panels[i], [&](auto size) NOT_INLINE {
          constexpr int vectors = size;
          int64_t column = panels[i].column();
          const float* panel = direct ? w + column : packed.get() + column * p.inputs;
          int64_t width = direct ? p.outputs : panels[i].width();
          Vec s[vectors] = {}, q[vectors] = {};
          for (int64_t r = 0; r < rows; r += kRows) {
            Vec acc[kRows][vectors] = {};
            Accumulate<vectors>(z.get() + r * wide, wide, 1, panel, width, p.inputs, acc);
            StoreTile(acc, rows - r, finish, column, y + (first + r) * p.outputs, stream, s, q);
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
          Accumulate<vectors>(gradient.get() + r * out, out, 1, panel, width, p.outputs, acc);
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
        for (int64_t k = 0; k < wide; k += kRows) {
          Vec acc[kRows][vectors] = {};
          Accumulate<vectors>(z.get() + k, 1, wide, gradient.get() + column, out, rows, acc);
          AddTile(acc, kRows, product + k * out + column, out, out);
        }
      });
    }
  });
  WriteNormGradient(sums, norm, dnorm);
  JoinProducts(products.get(), parts, wide * out, p.inputs, p.outputs, out, dw);
}

}  // namespace mnet
