// The depthwise convolution: a window that slides over rows which are normalized once.

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

struct Window {
  int64_t images, rows, columns, channels;  // in
  int64_t out_rows, out_columns;
  int64_t stride, top, left;
  int64_t wide() const { return RoundUp(channels, kLanes); }
  // Columns of zeros behind a row that the last window of a kernel of this side reads.
  int64_t right(int64_t size) const {
    return std::max<int64_t>(0, stride * (out_columns - 1) + size - left - columns);
  }
};

inline int64_t FloorDivide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Rows that slide over an image: each is made when it is first asked for, and kept until the rows
// that follow need its place. Rows outside of the image are zero, as are the margins.
class SlidingRows {
 public:
  SlidingRows(int64_t count, int64_t before, int64_t columns, int64_t after, int64_t wide)
      : count_(count),
        size_((before + columns + after) * wide),
        start_(before * wide),
        held_(count, -1),
        scratch_((count + 1) * size_) {
    std::memset(scratch_.get() + count * size_, 0, 4 * size_);  // a row outside of the image
    int64_t end = start_ + columns * wide;
    for (int64_t slot = 0; slot < count; ++slot) {
      std::memset(scratch_.get() + slot * size_, 0, 4 * start_);
      std::memset(scratch_.get() + slot * size_ + end, 0, 4 * (size_ - end));
    }
  }

  // The first column of row `row` of image `image`; make(pointer) writes its columns.
  template <typename Make>
  const float* Row(int64_t image, int64_t row, int64_t rows, const Make& make) {
    if (row < 0 || row >= rows) return scratch_.get() + count_ * size_ + start_;
    int64_t slot = row % count_, id = image * rows + row;
    float* to = scratch_.get() + slot * size_ + start_;
    if (held_[slot] != id) {
      make(to);
      held_[slot] = id;
    }
    return to;
  }

 private:
  int64_t count_, size_, start_;
  std::vector<int64_t> held_;
  Scratch scratch_;
};

// A kernel's taps [size, size, channels] in whole vectors.
inline void PackTaps(const float* kernel, int64_t taps, int64_t channels, int64_t wide,
                     float* packed) {
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < wide; ++c)
      packed[t * wide + c] = c < channels ? kernel[t * channels + c] : 0;
}

constexpr int kColumns = 4;  // of y at a time: what is read serves all that need it

// One row of y: what lies under a window that slides over `size` lines, each of w.wide() numbers a
// column. Only from first_inner to last_inner the window stays within the columns; elsewhere what it
// reads besides is skipped. Columns of `to` lie `step` numbers apart. Meanwhile `next`, if it is not
// null, is asked for; `sum` and `square`, if they are not null, take those of the row before anything
// is done to it.
template <int64_t after, int size>
void FilterRow(const Window& w, const float* const* lines, int64_t first_inner,
               int64_t last_inner, const float* taps, const Finish<after>& finish,
               const float* next, float* to, int64_t step, bool stream, float* sum,
               float* square) {
  int64_t wide = w.wide();
  for (int64_t c = 0; c < wide; c += kLanes) {
    Vec k[size * size];
#pragma GCC unroll 64
    for (int i = 0; i < size * size; ++i) k[i] = Load(taps + i * wide + c);
    Vec s{}, q{}, shift = finish.Bias(c);
    int64_t n = w.channels - c;
    // Some columns of y; where they are several, the stride is a constant.
    auto slide = [&](int64_t column, auto columns, auto stride, bool at_margin) INLINE {
      constexpr int count = columns;
      int64_t move = stride;
      Vec acc[count] = {};
      for (int64_t i = 0; next && i < count * move * move; ++i)
        Ahead(next + (column * move * move + i) * w.channels + c);
#pragma GCC unroll 8
      for (int i = 0; i < size; ++i) {
        const float* from = lines[i] + column * move * wide + c;
#pragma GCC unroll 64
        for (int64_t j = 0; j < (count - 1) * move + size; ++j) {
          if (at_margin) {
            int64_t read = column * move + j - w.left;
            if (read < 0 || read >= w.columns) continue;
          }
          Vec value = InRegister(Load(from + j * wide));
#pragma GCC unroll 8
          for (int o = 0; o < count; ++o) {
            int64_t tap = j - o * move;
            if (tap >= 0 && tap < size) acc[o] += k[i * size + tap] * value;
          }
        }
      }
#pragma GCC unroll 8
      for (int o = 0; o < count; ++o) {
        s += acc[o];
        q += acc[o] * acc[o];
        StoreOut(to + (column + o) * step + c, finish.Apply(acc[o], shift), n, stream);
      }
    };
    int64_t column = 0;
    auto one_by_one = [&](int64_t end, bool at_margin) INLINE {
      for (; column < end; ++column) slide(column, Number<1>{}, w.stride, at_margin);
    };
    auto by_several = [&](auto stride) INLINE {
      int64_t first = column;
      for (; column + kColumns <= last_inner; column += kColumns)
        slide(column, Number<kColumns>{}, stride, false);
      if (sum || column == first || column == last_inner) return;
      slide(last_inner - kColumns, Number<kColumns>{}, stride, false);  // some of them again
      column = last_inner;
    };
    one_by_one(first_inner, true);
    if (w.stride == 1) by_several(Number<1>{});
    if (w.stride == 2) by_several(Number<2>{});
    one_by_one(last_inner, false);
    one_by_one(w.out_columns, true);
    if (!sum) continue;
    Store(sum + c, s);
    Store(square + c, q);
  }
}

template <int64_t act, int64_t after, int size>
void DepthwiseForward(xla::ffi::ThreadPool& pool, Window w, const float* x, const float* norm,
                      const float* kernel, const float* bias, bool statistics, float* y,
                      float* mean, float* variance) {
  int64_t wide = w.wide(), units = w.images * w.out_rows;
  int64_t parts = PartsFor(pool, units);
  bool stream = ShouldStream(y, units * w.out_columns, w.channels);
  Finish<after> finish{bias, w.channels};
  // Rows that need no change are read where they are, but for the columns that meet a margin.
  bool direct = act == kNone && w.channels == wide;
  int64_t first_inner = 0, last_inner = w.out_columns;
  if (direct) {
    first_inner = std::min((w.left + w.stride - 1) / w.stride, w.out_columns);
    last_inner = FloorDivide(w.columns - size + w.left, w.stride) + 1;
    last_inner = std::clamp(last_inner, first_inner, w.out_columns);
  }
  Scratch taps(size * size * wide);
  PackTaps(kernel, size * size, w.channels, wide, taps.get());
  Sums sums(parts, 2, w.channels);
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows inputs(size, w.left, w.columns, w.right(size), wide);
    Scratch moments(2 * wide);
    for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
      int64_t image = unit / w.out_rows, row = unit % w.out_rows;
      const float* lines[size];
      for (int i = 0; i < size; ++i) {
        int64_t from = w.stride * row + i - w.top;
        const float* line = x + (image * w.rows + from) * w.columns * w.channels;
        bool inside = from >= 0 && from < w.rows;
        lines[i] = direct && inside ? line : inputs.Row(image, from, w.rows, [&](float* to) {
          NormalizeRows<act>(line, norm, w.columns, w.columns, w.channels, wide, to);
        });
        lines[i] -= w.left * wide;
      }
      // What the next row of y reads first: stride rows of x.
      int64_t following = w.stride * (row + 1) + size - w.stride - w.top;
      const float* next = x + (image * w.rows + following) * w.columns * w.channels;
      float* sum = statistics ? moments.get() : nullptr;
      float* square = statistics ? sum + wide : nullptr;
      FilterRow<after, size>(w, lines, first_inner, last_inner, taps.get(), finish, next,
                             y + unit * w.out_columns * w.channels, w.channels, stream, sum,
                             square);
      if (statistics) sums.Add(part, sum, square);
    }
  });
  if (statistics) WriteMoments(sums, units * w.out_columns, mean, variance);
}

// One row of taps onto one row of the input's gradient, at the columns of one phase:
//     dz[phase + stride q] += sum over t of k[t] g[q + offset[t]]
//     dk[t] += sum over q of z[phase + stride q] g[q + offset[t]]
//
// Meanwhile a line of `next` is asked for, for each of its columns.
template <int count>
ALWAYS_INLINE void PullRow(const float* g, int64_t wide, const int64_t* offset,
                           const float* const* k, float* const* dk, const float* z, float* dz,
                           int64_t stride, int64_t columns, const float* next,
                           int64_t next_step) {
  Vec tap[count], sum[count];
  const float* from[count];
#pragma GCC unroll 8
  for (int t = 0; t < count; ++t) {
    tap[t] = Load(k[t]);
    sum[t] = Load(dk[t]);
    from[t] = g + offset[t] * wide;
  }
  for (int64_t q = 0; q < columns; ++q) {
    Vec value = Load(z + q * stride * wide), total = Load(dz + q * stride * kLanes);
#pragma GCC unroll 8
    for (int t = 0; t < count; ++t) {
      Vec gradient = Load(from[t] + q * wide);
      total += tap[t] * gradient;
      sum[t] += value * gradient;
    }
    Ahead(next + q * next_step);
    Store(dz + q * stride * kLanes, total);
  }
#pragma GCC unroll 8
  for (int t = 0; t < count; ++t) Store(dk[t], sum[t]);
}

template <int64_t act, int size>
void DepthwiseBackward(xla::ffi::ThreadPool& pool, Window w, const float* x, const float* norm,
                       const float* kernel, const float* g, const float* y, const float* pull,
                       float* dx, float* dnorm, float* dk) {
  int64_t wide = w.wide(), units = w.images * w.rows;
  int64_t lowest = FloorDivide(w.left - (size - 1), w.stride);
  int64_t highest = FloorDivide(w.columns - 1 + w.left, w.stride);
  int64_t before = std::max<int64_t>(0, -lowest);
  int64_t after = std::max<int64_t>(0, highest - (w.out_columns - 1));
  int64_t parts = PartsFor(pool, units);
  bool stream = ShouldStream(dx, units * w.columns, w.channels);
  Scratch taps(size * size * wide), products(parts * size * size * wide);
  PackTaps(kernel, size * size, w.channels, wide, taps.get());
  Sums sums(parts, 2, w.channels);
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows gradients(size, before, w.out_columns, after, wide);
    Scratch moments(2 * wide), normalized(w.columns * wide), line(w.columns * kLanes);
    float* dz = line.get();
    float* product = products.get() + part * size * size * wide;
    std::memset(product, 0, 4 * size * size * wide);
    for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
      int64_t image = unit / w.rows, row = unit % w.rows;
      const float* lines[size];  // of the gradient that the taps of kernel row i meet, or null
      for (int i = 0; i < size; ++i) {
        int64_t scaled = row + w.top - i, from = FloorDivide(scaled, w.stride);
        lines[i] = nullptr;
        if (from * w.stride != scaled || from < 0 || from >= w.out_rows) continue;
        lines[i] = gradients.Row(image, from, w.out_rows, [&](float* to) {
          int64_t start = (image * w.out_rows + from) * w.out_columns * w.channels;
          PullRows(g + start, y + start, pull, w.out_columns, w.out_columns, w.channels, wide, to);
        });
      }
      const float* from = x + unit * w.columns * w.channels;
      float* to = dx + unit * w.columns * w.channels;
      // What the next row of dx reads first; each row of taps asks for one of them.
      int64_t following = image * w.out_rows + FloorDivide(row + w.top, w.stride) + 1;
      const float* next[] = {from + w.columns * w.channels,
                             g + following * w.out_columns * w.channels,
                             y + following * w.out_columns * w.channels};
      NormalizeRows<act>(from, norm, w.columns, w.columns, w.channels, wide, normalized.get());
      for (int64_t c = 0; c < wide; c += kLanes) {
        Norm constants(norm, w.channels, c);
        int64_t n = w.channels - c;
        const float* z = normalized.get() + c;
        std::memset(dz, 0, 4 * w.columns * kLanes);
        for (int i = 0, met = 0; i < size; ++i) {
          if (!lines[i]) continue;
          const float* ahead = next[met++ % 3] + c;
          for (int64_t phase = 0; phase < std::min(w.stride, w.columns); ++phase) {
            int64_t offset[size];
            const float* k[size];
            float* d[size];
            int count = 0;
            for (int j = 0; j < size; ++j) {
              int64_t scaled = phase + w.left - j;
              if (FloorDivide(scaled, w.stride) * w.stride != scaled) continue;
              offset[count] = FloorDivide(scaled, w.stride);
              k[count] = taps.get() + (i * size + j) * wide + c;
              d[count++] = product + (i * size + j) * wide + c;
            }
            int64_t columns = (w.columns - phase + w.stride - 1) / w.stride;
            auto run = [&](auto taps_of_phase) {
              PullRow<taps_of_phase>(lines[i] + c, wide, offset, k, d, z + phase * wide,
                                     dz + phase * kLanes, w.stride, columns,
                                     ahead + phase * w.channels, w.stride * w.channels);
            };
            switch (count) {
              case 1: run(std::integral_constant<int, 1>{}); break;
              case 2: run(std::integral_constant<int, 2>{}); break;
              case 3: run(std::integral_constant<int, 3>{}); break;
              case 4: run(std::integral_constant<int, 4>{}); break;
              case 5: run(std::integral_constant<int, 5>{}); break;
              default: break;
            }
          }
        }
        PushLine<act>(constants, from + c, dz, kLanes, to + c, w.channels, w.columns, n, stream,
                      moments.get() + c, moments.get() + wide + c);
      }
      sums.Add(part, moments.get(), moments.get() + wide);
    }
  });
  WriteNormGradient(sums, norm, dnorm);
  JoinProducts(products.get(), parts, size * size * wide, size * size, w.channels, wide, dk);
}

}  // namespace mnet
