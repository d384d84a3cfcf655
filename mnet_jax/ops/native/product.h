// Matrix products, a tile at a time in registers.
//
// A tile is kTileRows rows of the product by the columns of one strip. A kernel that ops/panels.py
// has packed comes in panels of kPanelColumns columns; no strip crosses the end of a panel.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "passes.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

// A tile and a row of b fit into the registers: AVX-512 has 32, others have 16.
#if defined(__AVX512F__)
constexpr int64_t kTileRows = 8;
#else
constexpr int64_t kTileRows = 4;
#endif
constexpr int64_t kStripVectors = 3;   // at most
constexpr int64_t kPanelColumns = 48;  // as in ops/panels.py; whole strips
constexpr int64_t kPanelStep = 16;     // as in ops/panels.py
static_assert(kPanelColumns % (kStripVectors * kLanes) == 0 && kPanelStep % kLanes == 0,
              "a strip would cross the end of a panel");
constexpr int64_t kSerialPack = 1 << 15;     // fewer numbers are copied faster by one thread
constexpr int64_t kSmallGradient = 1 << 15;  // numbers that fit a cache several times

// Returns the number of parts per thread if each part has its own kernel gradient of this size.
inline int64_t PartsWithGradient(int64_t size) {
  return size > kSmallGradient ? 1 : kPartsPerThread;
}

// An address to prefetch from, which advances by `step` numbers in each step of a product.
struct Prefetched {
  const float* from;
  int64_t step = kTileRows;
};

// The factors of a tile: kTileRows rows of a, `a_row_step` numbers apart, and a strip of b, whose
// rows are `b_row_step` apart. The sum has `count` terms, which are `a_term_step` apart in a.
struct TileFactors {
  const float* a;
  int64_t a_row_step, a_term_step;
  const float* b;
  int64_t b_row_step, count;
};

template <int vectors>
using Tile = Vec[kTileRows][vectors];

// tile[r] += sum over t of a[r * a_row_step + t * a_term_step] * b[t * b_row_step ...]
//
// Each step also prefetches a cache line from each of the addresses `next`, which are read after
// this tile. Otherwise memory would be idle during the product.
template <int vectors, typename... Next>
ALWAYS_INLINE void Multiply(const TileFactors& factors, Tile<vectors>& tile, Next... next) {
  // Two pointers to rows of a: the offsets of all rows from one of them would take too many
  // registers.
  constexpr int half = 4;
  const float *a = factors.a, *upper = a + half * factors.a_row_step, *b = factors.b;
  for (int64_t t = 0; t < factors.count; ++t) {
    Vec line[vectors];
    UNROLL_VECTORS
    for (int v = 0; v < vectors; ++v) line[v] = InRegister(Load(b + v * kLanes));
    UNROLL_ROWS
    for (int r = 0; r < kTileRows; ++r) {
      Vec value = Broadcast((r < half ? a : upper)[r % half * factors.a_row_step]);
      UNROLL_VECTORS
      for (int v = 0; v < vectors; ++v) tile[r][v] += value * line[v];
    }
    (Prefetch(next.from + t * next.step), ...);
    a += factors.a_term_step;
    upper += factors.a_term_step;
    b += factors.b_row_step;
  }
}

// Sums over the rows of a strip of y, and over their squares.
template <int vectors>
struct StripSums {
  Vec sum[vectors] = {}, square[vectors] = {};
  void StoreTo(float* sums, float* squares) const {
    for (int v = 0; v < vectors; ++v) {
      Store(sums + v * kLanes, sum[v]);
      Store(squares + v * kLanes, square[v]);
    }
  }
};

// The destination of a strip of y: columns from `column` on, in rows `row_step` numbers apart.
template <Activation output_act>
struct StripOutput {
  Finish<output_act> finish;
  float* y;
  int64_t row_step, column;
  bool stream;
};

// Writes the first `rows` rows of a tile to the output, from its row `first` on. The sums include
// all rows of the tile: those after `rows` are zero, and a loop of `rows` steps would not be
// unrolled.
template <int vectors, Activation output_act>
ALWAYS_INLINE void StoreTile(const Tile<vectors>& tile, int64_t first, int64_t rows,
                             const StripOutput<output_act>& output, StripSums<vectors>& sums) {
  float* to = output.y + first * output.row_step + output.column;
  UNROLL_VECTORS
  for (int v = 0; v < vectors; ++v) {
    int64_t start = v * kLanes, n = output.finish.channels - output.column - start;
    Vec bias = output.finish.Bias(output.column + start);
    UNROLL_ROWS
    for (int r = 0; r < kTileRows; ++r) {
      if (output_act == kNone) {
        sums.sum[v] += tile[r][v];
        sums.square[v] += tile[r][v] * tile[r][v];
      }
      if (r < rows)
        StoreOutput(to + r * output.row_step + start, output.finish.Apply(tile[r][v], bias), n,
                    output.stream);
    }
  }
}

// Adds the first `rows` rows and `columns` columns of a tile to a matrix; its rows are `row_step`
// apart.
template <int vectors>
ALWAYS_INLINE void AddTile(const Tile<vectors>& tile, int64_t rows, int64_t columns, float* to,
                           int64_t row_step) {
  UNROLL_ROWS
  for (int r = 0; r < kTileRows; ++r) {
    if (r >= rows) break;
    UNROLL_VECTORS
    for (int v = 0; v < vectors; ++v) {
      float* at = to + r * row_step + v * kLanes;
      int64_t n = columns - v * kLanes;
      Store(at, Load(at, n) + tile[r][v], n);
    }
  }
}

// The columns of one tile, in vectors.
struct Strip {
  int64_t first, vectors;
  int64_t column() const { return first * kLanes; }
  int64_t width() const { return vectors * kLanes; }
};

// All columns of a matrix in strips, none of which crosses a multiple of `panel`.
inline std::vector<Strip> StripsOf(int64_t columns, int64_t panel) {
  std::vector<Strip> strips;
  for (int64_t start = 0; start < columns; start += panel) {
    int64_t v = start / kLanes, end = RoundUp(std::min(start + panel, columns), kLanes) / kLanes;
    while (v < end) {
      int64_t left = end - v;  // four vectors are two strips of two, not of three and one
      bool full = left == kStripVectors || left >= kStripVectors + 2;
      strips.push_back({v, full ? kStripVectors : std::min<int64_t>(left, 2)});
      v += strips.back().vectors;
    }
  }
  return strips;
}

inline std::vector<Strip> StripsOf(int64_t columns) { return StripsOf(columns, columns); }

// Calls body with the number of vectors of a strip as a constant.
template <typename Body>
ALWAYS_INLINE void WithVectors(const Strip& strip, const Body& body) {
  static_assert(kStripVectors == 3, "a case for each number of vectors");
  switch (strip.vectors) {
    case 1: return body(Constant<1>{});
    case 2: return body(Constant<2>{});
    default: return body(Constant<3>{});
  }
}

// A dense matrix: data [rows, columns], or [columns, rows] if it is transposed.
struct Matrix {
  const float* data;
  int64_t rows, columns;
  bool transposed;
};

// Copies one strip of a matrix to [rows, width], with zeros after the last column.
inline void PackStrip(const Matrix& matrix, const Strip& strip, float* to) {
  int64_t width = strip.width(), first = strip.column();
  int64_t count = std::min(width, matrix.columns - first);
  if (count < width) ZeroFloats(to, matrix.rows * width);
  if (matrix.transposed) {
    for (int64_t c = 0; c < count; ++c)
      for (int64_t r = 0; r < matrix.rows; ++r)
        to[r * width + c] = matrix.data[(first + c) * matrix.rows + r];
  } else {
    for (int64_t r = 0; r < matrix.rows; ++r)
      CopyFloats(to + r * width, matrix.data + r * matrix.columns + first, count);
  }
}

// Copies the strips of a matrix, one after the other.
inline void Pack(xla::ffi::ThreadPool& pool, const std::vector<Strip>& strips, const Matrix& matrix,
                 float* packed) {
  auto pack = [&](int64_t i) {
    const Strip& strip = strips[static_cast<size_t>(i)];
    PackStrip(matrix, strip, packed + strip.column() * matrix.rows);
  };
  int64_t count = static_cast<int64_t>(strips.size());
  if (matrix.rows * matrix.columns > kSerialPack) return Parallel(pool, count, pack);
  for (int64_t i = 0; i < count; ++i) pack(i);
}

}  // namespace mnet
