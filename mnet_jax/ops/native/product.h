// Tiles of matrix products, in registers.

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

// A tile of the product and a row of b fit into the registers: AVX-512 has 32, others have 16.
#if defined(__AVX512F__)
constexpr int64_t kRows = 8;
#else
constexpr int64_t kRows = 4;
#endif
constexpr int64_t kVectors = 3;
constexpr int64_t kBlock = 48;  // columns that ops/panels.py puts together: whole panels
constexpr int64_t kBlockStep = 16;  // what the last of them are rounded up to
constexpr int64_t kPackAlone = 1 << 15;  // numbers that are copied before another thread is awake

// A place in memory that is read soon, and how many numbers of it there are for each step.
struct Soon {
  const float* from;
  int64_t step = kRows;
};

// acc[r] += sum over t of a[r * row + t * step] * b[t * width ...]
//
// Meanwhile a line a step is asked for from each of the places `next`, which are read after this
// tile: else nothing would be read while there is something to multiply.
template <int vectors, typename... Next>
ALWAYS_INLINE void Accumulate(const float* __restrict a, int64_t row, int64_t step,
                              const float* __restrict b, int64_t width, int64_t count,
                              Vec (&acc)[kRows][vectors], Next... next) {
  for (int64_t t = 0; t < count; ++t) {
    Vec line[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) line[v] = InRegister(Load(b + v * kLanes));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Vec value = Fill(a[r * row]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) acc[r][v] += value * line[v];
    }
    (Ahead(next.from + t * next.step), ...);
    a += step;
    b += width;
  }
}

// Writes the first `rows` of a tile from column c on, `step` numbers apart, and adds all of it to the
// sums: behind these rows it is zero. A loop that ended there would not be unrolled.
template <int vectors, int64_t after>
ALWAYS_INLINE void StoreTile(const Vec (&acc)[kRows][vectors], int64_t rows,
                             const Finish<after>& finish, int64_t c, float* to, int64_t step,
                             bool stream, Vec (&sum)[vectors], Vec (&square)[vectors]) {
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
        StoreOut(to + r * step + first, finish.Apply(acc[r][v], bias), n, stream);
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

// All columns in panels, none of which goes over the end of a block.
inline std::vector<Panel> PanelsOf(int64_t columns, int64_t block) {
  std::vector<Panel> panels;
  for (int64_t start = 0; start < columns; start += block) {
    int64_t v = start / kLanes, end = RoundUp(std::min(start + block, columns), kLanes) / kLanes;
    for (; v < end; v += panels.back().vectors) {
      int64_t left = end - v;
      panels.push_back({v, left >= 5 || left == kVectors ? kVectors : std::min<int64_t>(left, 2)});
    }
  }
  return panels;
}

inline std::vector<Panel> PanelsOf(int64_t columns) { return PanelsOf(columns, columns); }

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

}  // namespace mnet
