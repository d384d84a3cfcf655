// The depthwise convolution: windows that slide over rows which are normalized once.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "layer.h"
#include "passes.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

// Copies a kernel's taps [size, size, channels] to [size, size, padded channels].
inline void PackTaps(const float* kernel, int64_t taps, const Geometry& g, float* packed) {
  int64_t channels = g.channels, padded = g.padded_channels();
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < padded; ++c)
      packed[t * padded + c] = c < channels ? kernel[t * channels + c] : 0;
}

constexpr int kColumns = 4;  // of y computed together, with one load of each column of z

// The arguments of `FilterRow` that all rows of a feature map y share.
template <Activation output_act>
struct RowFilter {
  const Geometry& geometry;
  const float* taps;  // as `PackTaps` makes them
  Finish<output_act> finish;
  // The columns of y whose windows lie within the columns of z. For the other columns, the taps
  // outside of z are skipped.
  int64_t first_inner, last_inner;
  int64_t step;  // numbers from one column of y to the next
  bool stream;
};

// The arguments of `FilterRow` for one row of y.
struct FilteredRow {
  // The rows of z under the kernel's rows, from the first window's first column on; their columns
  // are padded.
  const float* const* lines;
  const float* next;  // the address to prefetch from, or null
  float* y;
  float *sum, *square;  // over the columns, before bias and activation; or null
};

// The side of a square kernel.
constexpr int SideOf(int taps) {
  int side = 1;
  while (side * side < taps) ++side;
  return side;
}

// The state for one vector of channels, from channel c on: the number of channels from c to the
// last one, the distance between columns of z, the bias, and the sums over the columns of y.
struct FilterState {
  int64_t c, left, padded;
  Vec bias, sum, square;
};

// Computes `count` columns of y, at a margin only one. If `count` is above 1, the stride is a
// constant.
template <int count, bool at_margin, int taps, Activation output_act, typename Stride>
ALWAYS_INLINE void FilterColumns(const RowFilter<output_act>& filter, const FilteredRow& row,
                                 const Vec (&kernel)[taps], FilterState& state, int64_t column,
                                 Stride stride_of) {
  constexpr int size = SideOf(taps);
  const Geometry& g = filter.geometry;
  int64_t c = state.c, padded = state.padded, stride = stride_of;
  Vec y[count] = {};
  for (int64_t i = 0; row.next && i < count * stride * stride; ++i)
    Prefetch(row.next + (column * stride * stride + i) * g.channels + c);
  UNROLL_ROWS
  for (int i = 0; i < size; ++i) {
    const float* line = row.lines[i] + column * stride * padded + c;
    UNROLL_TAPS
    for (int64_t j = 0; j < (count - 1) * stride + size; ++j) {
      if (at_margin) {
        int64_t read = column * stride + j - g.left;
        if (read < 0 || read >= g.columns) continue;
      }
      Vec value = InRegister(Load(line + j * padded));
      UNROLL_ROWS
      for (int o = 0; o < count; ++o) {
        int64_t tap = j - o * stride;
        if (tap >= 0 && tap < size) y[o] += kernel[i * size + tap] * value;
      }
    }
  }
  float* to = row.y + column * filter.step + c;
  UNROLL_ROWS
  for (int o = 0; o < count; ++o) {
    state.sum += y[o];
    state.square += y[o] * y[o];
    StoreOutput(to, filter.finish.Apply(y[o], state.bias), state.left, filter.stream);
    to += filter.step;
  }
}

// Computes all columns of y for one vector of channels, most of them kColumns at a time.
template <int taps, Activation output_act>
ALWAYS_INLINE void FilterChannels(const RowFilter<output_act>& filter, const FilteredRow& row,
                                  const Vec (&kernel)[taps], FilterState& state) {
  int64_t column = 0, last_inner = filter.last_inner, stride = filter.geometry.stride;
  auto one_by_one = [&](int64_t end, auto at_margin) __attribute__((always_inline)) {
    for (; column < end; ++column)
      FilterColumns<1, at_margin>(filter, row, kernel, state, column, stride);
  };
  auto by_several = [&](auto constant_stride) __attribute__((always_inline)) {
    int64_t first = column;
    for (; column + kColumns <= last_inner; column += kColumns)
      FilterColumns<kColumns, false>(filter, row, kernel, state, column, constant_stride);
    if (row.sum || column == first || column == last_inner) return;
    // Without sums, some columns may be computed twice: compute the last kColumns columns together.
    column = last_inner - kColumns;
    FilterColumns<kColumns, false>(filter, row, kernel, state, column, constant_stride);
    column = last_inner;
  };
  one_by_one(filter.first_inner, std::true_type{});
  if (stride == 1) by_several(Constant<1>{});
  if (stride == 2) by_several(Constant<2>{});
  one_by_one(last_inner, std::false_type{});
  one_by_one(filter.geometry.out_columns, std::true_type{});
}

// Computes one row of y.
template <int size, Activation output_act>
NOINLINE void FilterRow(const RowFilter<output_act> filter, const FilteredRow row) {
  int64_t channels = filter.geometry.channels, padded = filter.geometry.padded_channels();
  for (int64_t c = 0; c < padded; c += kLanes) {
    Vec kernel[size * size];
    UNROLL_TAPS
    for (int i = 0; i < size * size; ++i) kernel[i] = Load(filter.taps + i * padded + c);
    FilterState state{c, channels - c, padded, filter.finish.Bias(c), Vec{}, Vec{}};
    FilterChannels(filter, row, kernel, state);
    if (!row.sum) continue;
    Store(row.sum + c, state.sum);
    Store(row.square + c, state.square);
  }
}

// Finds the rows of z under one row of y, for `FilteredRow`. find(row) returns the first column of
// a row of z; the row may lie outside of the image.
template <int size, typename Find>
ALWAYS_INLINE void FindLines(const Geometry& g, int64_t out_row, const Find& find,
                             const float* (&lines)[size]) {
  for (int i = 0; i < size; ++i)
    lines[i] = find(g.stride * out_row + i - g.top) - g.left * g.padded_channels();
}

template <Activation input_act, Activation output_act, int size>
void DepthwiseForward(xla::ffi::ThreadPool& pool, const Geometry& g, const ForwardArrays& arrays) {
  int64_t padded = g.padded_channels(), units = g.out_units(), parts = PartsFor(pool, units);
  Scratch taps(size * size * padded);
  PackTaps(arrays.kernel, size * size, g, taps.get());
  bool stream = ShouldStream(arrays.y, units * g.out_columns, g.channels);
  Finish<output_act> finish{arrays.bias, g.channels};
  RowFilter<output_act> filter{g, taps.get(), finish, 0, g.out_columns, g.channels, stream};
  // Rows that are neither normalized nor padded are read from x itself, which has no margins.
  bool direct = input_act == kNone && g.channels == padded;
  if (direct) {
    filter.first_inner = std::min((g.left + g.stride - 1) / g.stride, g.out_columns);
    int64_t end = FloorDivide(g.columns - size + g.left, g.stride) + 1;
    filter.last_inner = std::clamp(end, filter.first_inner, g.out_columns);
  }
  Sums sums(parts, g.channels);
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows normalized({size, g.left, g.columns, g.right(size), padded});
    Scratch moments(2 * padded);
    float* sum = arrays.statistics ? moments.get() : nullptr;
    float* square = arrays.statistics ? sum + padded : nullptr;
    Range range = ShareOf(units, part, parts);
    for (int64_t unit = range.begin; unit < range.end; ++unit) {
      int64_t image = unit / g.out_rows, out_row = unit % g.out_rows;
      auto row_of_x = [&](int64_t row) { return arrays.x + (image * g.rows + row) * g.row_size(); };
      auto find = [&](int64_t row) -> const float* {
        if (direct && row >= 0 && row < g.rows) return row_of_x(row);
        return normalized.Row(image, row, g.rows, [&](float* to) {
          PaddedRows shape{g.columns, g.columns, g.channels, padded};
          NormalizeRows<input_act>(row_of_x(row), arrays.norm, shape, to);
        });
      };
      const float* lines[size];
      FindLines(g, out_row, find, lines);
      // The next row of y reads `stride` more rows of x.
      const float* next = row_of_x(g.stride * out_row + size - g.top);
      float* y = arrays.y + unit * g.out_columns * g.channels;
      FilterRow<size>(filter, FilteredRow{lines, next, y, sum, square});
      if (arrays.statistics) sums.Add(part, sum, square);
    }
  });
  if (arrays.statistics) WriteStatistics(sums, units * g.out_columns, arrays.mean, arrays.variance);
}

// The columns of x with one remainder modulo the stride. In each row of the kernel, all of them use
// the same taps: tap taps[t] connects the q-th of these columns with column q + offsets[t] of y.
template <int size>
struct Phase {
  Phase(const Geometry& g, int64_t first_column)
      : first(first_column), columns((g.columns - first + g.stride - 1) / g.stride) {
    for (int tap = 0; tap < size; ++tap) {
      int64_t scaled = first + g.left - tap, offset = FloorDivide(scaled, g.stride);
      if (offset * g.stride != scaled) continue;
      taps[count] = tap;
      offsets[count++] = offset;
    }
  }
  int64_t first, columns;
  int count = 0;
  int64_t taps[size], offsets[size];
};

// A row of the kernel, and the rows of x and y that it connects; one vector of channels of each.
struct KernelRow {
  const float* gradient;  // the complete gradient of y; columns are `padded` apart
  const float *taps, *z;  // likewise
  float *dtaps, *dz;      // dtaps likewise; columns of dz are kLanes apart
  const float* next;      // the row to prefetch; columns are `channels` apart
  const Geometry* geometry;
};

// Adds the contribution of a row of the kernel to the gradients, at the columns of one phase:
//     dz[first + stride q] += sum over t of taps[t] gradient[q + offsets[t]]
//     dtaps[t] += sum over q of z[first + stride q] gradient[q + offsets[t]]
template <int count, int size>
ALWAYS_INLINE void AddPhase(const Phase<size>& phase, const KernelRow& row) {
  int64_t padded = row.geometry->padded_channels(), channels = row.geometry->channels;
  int64_t stride = row.geometry->stride, next_step = stride * channels;
  Vec tap[count], sum[count];
  const float* from[count];
  UNROLL_ROWS
  for (int t = 0; t < count; ++t) {
    tap[t] = Load(row.taps + phase.taps[t] * padded);
    sum[t] = Load(row.dtaps + phase.taps[t] * padded);
    from[t] = row.gradient + phase.offsets[t] * padded;
  }
  const float* z = row.z + phase.first * padded;
  const float* next = row.next + phase.first * channels;
  float* dz = row.dz + phase.first * kLanes;
  for (int64_t q = 0, end = phase.columns; q < end; ++q) {
    Vec value = InRegister(Load(z + q * stride * padded)), total = Load(dz + q * stride * kLanes);
    UNROLL_ROWS
    for (int t = 0; t < count; ++t) {
      Vec gradient = InRegister(Load(from[t] + q * padded));
      total += tap[t] * gradient;
      sum[t] += value * gradient;
    }
    Prefetch(next + q * next_step);
    Store(dz + q * stride * kLanes, total);
  }
  UNROLL_ROWS
  for (int t = 0; t < count; ++t) Store(row.dtaps + phase.taps[t] * padded, sum[t]);
}

// Calls `AddPhase` with the number of taps as a constant.
template <int count, int size>
ALWAYS_INLINE void AddPhaseOf(const Phase<size>& phase, const KernelRow& row) {
  if constexpr (count > 0) {
    if (phase.count == count) return AddPhase<count>(phase, row);
    AddPhaseOf<count - 1>(phase, row);
  }
}

// The gradients of a depthwise convolution. A unit of work is a row of x.
template <Activation input_act, int size>
class DepthwiseGradients {
 public:
  DepthwiseGradients(const Geometry& geometry, const BackwardArrays& arrays, int64_t parts)
      : g_(geometry),
        arrays_(arrays),
        parts_(parts),
        padded_(g_.padded_channels()),
        stream_(ShouldStream(arrays.dx, g_.in_units() * g_.columns, g_.channels)),
        taps_(kTaps * padded_),
        products_(parts * kTaps * padded_),
        sums_(parts, g_.channels) {
    PackTaps(arrays.kernel, kTaps, g_, taps_.get());
    for (int64_t first = 0; first < std::min(g_.stride, g_.columns); ++first)
      phases_.emplace_back(g_, first);
  }

  void RunPart(int64_t part) {
    int64_t lowest = FloorDivide(g_.left - (size - 1), g_.stride);
    int64_t highest = FloorDivide(g_.columns - 1 + g_.left, g_.stride);
    int64_t before = std::max<int64_t>(0, -lowest);
    int64_t after = std::max<int64_t>(0, highest - (g_.out_columns - 1));
    SlidingRows gradients({size, before, g_.out_columns, after, padded_});
    Scratch moments(2 * padded_), normalized(g_.columns * padded_), dz(g_.columns * kLanes);
    float* first = moments.get();
    float* second = first + padded_;
    Row row;
    row.z = normalized.get();
    row.dz = dz.get();
    row.dtaps = products_.get() + part * kTaps * padded_;
    ZeroFloats(row.dtaps, kTaps * padded_);
    Range range = ShareOf(g_.in_units(), part, parts_);
    for (int64_t unit = range.begin; unit < range.end; ++unit) {
      FindGradients(unit, gradients, row);
      InputRow input{arrays_.x + unit * g_.row_size(), arrays_.dx + unit * g_.row_size(),
                     g_.columns, g_.channels, stream_};
      PaddedRows shape{g_.columns, g_.columns, g_.channels, padded_};
      NormalizeRows<input_act>(input.x, arrays_.norm, shape, normalized.get());
      for (int64_t c = 0; c < padded_; c += kLanes) {
        ZeroFloats(row.dz, g_.columns * kLanes);
        AddKernelRows(row, c);
        WriteInputGradient<input_act>(input, {row.dz, kLanes}, Norm(arrays_.norm, g_.channels, c),
                                      c, first, second);
      }
      sums_.Add(part, first, second);
    }
  }

  void Join() {
    WriteNormGradient(sums_, arrays_.norm, arrays_.dnorm);
    JoinMatrices({products_.get(), parts_, kTaps * padded_, padded_}, kTaps, g_.channels,
                 arrays_.dkernel);
  }

 private:
  static constexpr int kTaps = size * size;
  static constexpr int kNext = 3;

  // One row of x.
  struct Row {
    const float* gradients[size];  // the row of y for each row of the kernel, or null
    const float* next[kNext];      // rows that the next row of x reads; a kernel row prefetches one
    const float* z;
    float *dz, *dtaps;
  };

  void FindGradients(int64_t unit, SlidingRows& gradients, Row& row) {
    int64_t image = unit / g_.rows, in_row = unit % g_.rows;
    int64_t out_size = g_.out_columns * g_.channels;
    for (int i = 0; i < size; ++i) {
      int64_t scaled = in_row + g_.top - i, out_row = FloorDivide(scaled, g_.stride);
      row.gradients[i] = nullptr;
      if (out_row * g_.stride != scaled || out_row < 0 || out_row >= g_.out_rows) continue;
      row.gradients[i] = gradients.Row(image, out_row, g_.out_rows, [&](float* to) {
        int64_t start = (image * g_.out_rows + out_row) * out_size;
        PaddedRows shape{g_.out_columns, g_.out_columns, g_.channels, padded_};
        CorrectRows(arrays_.gradient + start, arrays_.y + start, arrays_.correction, shape, to);
      });
    }
    int64_t next_out = image * g_.out_rows + FloorDivide(in_row + g_.top, g_.stride) + 1;
    row.next[0] = arrays_.x + (unit + 1) * g_.row_size();
    row.next[1] = arrays_.gradient + next_out * out_size;
    row.next[2] = arrays_.y + next_out * out_size;
  }

  // Adds the contributions of all kernel rows, for the vector of channels from c on.
  void AddKernelRows(const Row& row, int64_t c) const {
    for (int i = 0, met = 0; i < size; ++i) {
      if (!row.gradients[i]) continue;
      int64_t at = i * size * padded_ + c;
      KernelRow kernel_row;
      kernel_row.gradient = row.gradients[i] + c;
      kernel_row.taps = taps_.get() + at;
      kernel_row.z = row.z + c;
      kernel_row.dtaps = row.dtaps + at;
      kernel_row.dz = row.dz;
      kernel_row.next = row.next[met++ % kNext] + c;
      kernel_row.geometry = &g_;
      for (const Phase<size>& phase : phases_) AddPhaseOf<size>(phase, kernel_row);
    }
  }

  Geometry g_;
  BackwardArrays arrays_;
  int64_t parts_, padded_;
  bool stream_;
  Scratch taps_, products_;  // a gradient of the kernel for each part
  Sums sums_;
  std::vector<Phase<size>> phases_;
};

template <Activation input_act, int size>
void DepthwiseBackward(xla::ffi::ThreadPool& pool, const Geometry& geometry,
                       const BackwardArrays& arrays) {
  int64_t parts = PartsFor(pool, geometry.in_units());
  DepthwiseGradients<input_act, size> gradients(geometry, arrays, parts);
  Parallel(pool, parts, [&](int64_t part) { gradients.RunPart(part); });
  gradients.Join();
}

}  // namespace mnet
