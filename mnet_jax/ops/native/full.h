// The full convolution, which mixes channels and positions. The inputs under one row of the kernel
// are contiguous in memory, so the convolution is a sum of matrix products without copied windows.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "layer.h"
#include "passes.h"
#include "product.h"
#include "runtime.h"
#include "vectors.h"

namespace mnet {

// A kernel [rows, columns, channels, outputs] and its windows.
struct FullShape {
  Geometry geometry;
  int64_t rows, columns, outputs;
  // The count of numbers under one row of the kernel, and from one window to the next.
  int64_t span() const { return columns * geometry.channels; }
  int64_t step() const { return geometry.stride * geometry.channels; }
  int64_t padded_span() const { return RoundUp(span(), kTileRows); }
  int64_t padded_outputs() const { return RoundUp(outputs, kLanes); }
  // Columns after the image that the last tile of windows or the last vector of channels reads.
  int64_t after() const {
    const Geometry& g = geometry;
    int64_t read = g.stride * (RoundUp(g.out_columns, kTileRows) - 1) + columns;
    int64_t spare = (kLanes + g.channels - 1) / g.channels;
    return std::max<int64_t>(0, read - g.left - g.columns) + spare;
  }
};

// The forward pass. A unit of work is a row of y.
template <Activation input_act, Activation output_act>
class FullProduct {
 public:
  FullProduct(xla::ffi::ThreadPool& pool, const FullShape& shape, const ForwardArrays& arrays)
      : f_(shape),
        g_(shape.geometry),
        arrays_(arrays),
        inputs_(f_.rows * f_.span()),
        stream_(ShouldStream(arrays.y, g_.out_units() * g_.out_columns, f_.outputs)),
        strips_(StripsOf(f_.outputs)),
        packed_(inputs_ * f_.padded_outputs()),
        norm_(arrays.norm, g_.channels) {
    Pack(pool, strips_, {arrays.kernel, inputs_, f_.outputs, false}, packed_.get());
  }

  void RunPart(int64_t part, int64_t parts, Sums& sums) const {
    int64_t padded = f_.padded_outputs();
    SlidingRows normalized({f_.rows, g_.left, g_.columns, f_.after(), g_.channels});
    Scratch moments(2 * padded);
    float* totals = moments.get();
    std::vector<const float*> lines(static_cast<size_t>(f_.rows));
    Range units = ShareOf(g_.out_units(), part, parts);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      FindLines(unit, normalized, lines);
      for (const Strip& strip : strips_) {
        WithVectors(strip, [&](auto vectors) {
          MultiplyStrip<vectors>(lines.data(), strip, unit, totals);
        });
      }
      if (arrays_.statistics) sums.Add(part, totals, totals + padded);
    }
  }

 private:
  // The rows of z under a row of y, from the first window's first column on.
  void FindLines(int64_t unit, SlidingRows& normalized, std::vector<const float*>& lines) const {
    int64_t image = unit / g_.out_rows, row = g_.stride * (unit % g_.out_rows) - g_.top;
    for (const float*& line : lines) {
      line = normalized.Row(image, row, g_.rows, [&](float* to) {
        const float* x = arrays_.x + (image * g_.rows + row) * g_.row_size();
        NormalizeDense<input_act>(x, norm_, g_.row_size(), to);
      });
      line -= g_.left * g_.channels;
      ++row;
    }
  }

  template <int vectors>
  NOINLINE void MultiplyStrip(const float* const* lines, const Strip strip, int64_t unit,
                              float* totals) const {
    int64_t column = strip.column(), width = strip.width(), rows = f_.rows, span = f_.span();
    int64_t step = f_.step(), out_columns = g_.out_columns;
    const float* kernel = packed_.get() + column * inputs_;
    Finish<output_act> finish{arrays_.bias, f_.outputs};
    float* y = arrays_.y + unit * out_columns * f_.outputs;
    StripOutput<output_act> output{finish, y, f_.outputs, column, stream_};
    StripSums<vectors> sums;
    for (int64_t at = 0; at < out_columns; at += kTileRows) {
      Tile<vectors> tile = {};
      for (int64_t i = 0; i < rows; ++i)
        Multiply({lines[i] + at * step, step, 1, kernel + i * span * width, width, span}, tile);
      ClearRows(tile, out_columns - at);  // windows after the last column
      StoreTile(tile, at, out_columns - at, output, sums);
    }
    sums.StoreTo(totals + column, totals + f_.padded_outputs() + column);
  }

  template <int vectors>
  ALWAYS_INLINE static void ClearRows(Tile<vectors>& tile, int64_t first) {
    for (int64_t r = first; r < kTileRows; ++r)
      for (Vec& value : tile[r]) value = Vec{};
  }

  FullShape f_;
  Geometry g_;
  ForwardArrays arrays_;
  int64_t inputs_;  // numbers under the whole kernel
  bool stream_;
  std::vector<Strip> strips_;
  Scratch packed_;  // the kernel, strip after strip
  RepeatedNorm norm_;
};

template <Activation input_act, Activation output_act>
void FullForward(xla::ffi::ThreadPool& pool, const FullShape& shape, const ForwardArrays& arrays) {
  const Geometry& g = shape.geometry;
  int64_t parts = PartsFor(pool, g.out_units());
  FullProduct<input_act, output_act> product(pool, shape, arrays);
  Sums sums(parts, shape.outputs);
  Parallel(pool, parts, [&](int64_t part) { product.RunPart(part, parts, sums); });
  int64_t positions = g.out_units() * g.out_columns;
  if (arrays.statistics) WriteStatistics(sums, positions, arrays.mean, arrays.variance);
}

// The gradients of a full convolution. A unit of work is a row of x.
template <Activation input_act>
class FullGradients {
 public:
  FullGradients(xla::ffi::ThreadPool& pool, const FullShape& shape, const BackwardArrays& arrays,
                bool input_gradient)
      : f_(shape),
        g_(shape.geometry),
        arrays_(arrays),
        input_gradient_(input_gradient),
        stream_(ShouldStream(arrays.dx, g_.in_units() * g_.columns, g_.channels)),
        margin_(g_.left * g_.channels),
        padded_out_(f_.padded_outputs()),
        product_row_(f_.padded_span() * padded_out_),
        parts_(PartsFor(pool, g_.in_units(), PartsWithGradient(f_.rows * product_row_))),
        in_strips_(StripsOf(input_gradient ? f_.span() : 0)),
        out_strips_(StripsOf(f_.outputs)),
        transposed_row_(f_.outputs * RoundUp(f_.span(), kLanes)),
        transposed_(f_.rows * transposed_row_),
        norm_(arrays.norm, g_.channels),
        sums_(parts_, g_.channels),
        products_(parts_ * f_.rows * product_row_) {
    for (int64_t i = 0; i < f_.rows; ++i) {
      Matrix row{arrays.kernel + i * f_.span() * f_.outputs, f_.outputs, f_.span(), true};
      Pack(pool, in_strips_, row, transposed_.get() + i * transposed_row_);
    }
  }

  int64_t parts() const { return parts_; }

  void RunPart(int64_t part) {
    int64_t padded_columns = RoundUp(g_.out_columns, kTileRows), padded = g_.padded_channels();
    int64_t line = margin_ + (g_.columns + f_.after()) * g_.channels + kLanes;
    SlidingRows gradients({f_.rows, 0, padded_columns, 0, padded_out_});
    Scratch moments(2 * padded), z(line), dz(line);
    Line row{z.Zeroed(line), dz.get(), products_.get() + part * f_.rows * product_row_};
    ZeroFloats(row.product, f_.rows * product_row_);
    Range units = ShareOf(g_.in_units(), part, parts_);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      NormalizeDense<input_act>(arrays_.x + unit * g_.row_size(), norm_, g_.row_size(),
                                row.z + margin_);
      ZeroFloats(row.dz, line);
      AddKernelRows(unit, gradients, row);
      if (!input_gradient_) continue;
      WriteInputs(unit, row, moments.get());
      sums_.Add(part, moments.get(), moments.get() + padded);
    }
  }

  void Join() {
    if (input_gradient_) WriteNormGradient(sums_, arrays_.norm, arrays_.dnorm);
    for (int64_t i = 0; i < f_.rows; ++i) {
      PartialMatrices products{products_.get() + i * product_row_, parts_, f_.rows * product_row_,
                               padded_out_};
      JoinMatrices(products, f_.span(), f_.outputs, arrays_.dkernel + i * f_.span() * f_.outputs);
    }
  }

 private:
  // One row of z and its gradient, both with margins, and the part's gradient of the kernel.
  struct Line {
    float *z, *dz, *product;
  };

  void AddKernelRows(int64_t unit, SlidingRows& gradients, const Line& row) const {
    int64_t image = unit / g_.rows, in_row = unit % g_.rows;
    for (int64_t i = 0; i < f_.rows; ++i) {
      int64_t scaled = in_row + g_.top - i, out_row = FloorDivide(scaled, g_.stride);
      if (out_row * g_.stride != scaled || out_row < 0 || out_row >= g_.out_rows) continue;
      const float* gradient = gradients.Row(image, out_row, g_.out_rows, [&](float* to) {
        int64_t start = (image * g_.out_rows + out_row) * g_.out_columns * f_.outputs;
        CorrectRows(arrays_.gradient + start, arrays_.y + start, arrays_.correction,
                    {g_.out_columns, RoundUp(g_.out_columns, kTileRows), f_.outputs, padded_out_},
                    to);
      });
      const float* transposed = transposed_.get() + i * transposed_row_;
      for (const Strip& strip : in_strips_) {
        WithVectors(strip, [&](auto vectors) {
          MultiplyInputs<vectors>(gradient, transposed, strip, row.dz);
        });
      }
      float* product = row.product + i * product_row_;
      for (const Strip& strip : out_strips_) {
        WithVectors(
            strip, [&](auto vectors) { MultiplyKernel<vectors>(row.z, gradient, strip, product); });
      }
    }
  }

  // Adds a strip of gradient kernel_row^T to dz, at the columns under each window.
  template <int vectors>
  NOINLINE void MultiplyInputs(const float* gradient, const float* transposed, const Strip strip,
                               float* dz) const {
    int64_t column = strip.column(), step = f_.step(), columns = f_.span() - column;
    int64_t out_columns = g_.out_columns;
    const float* kernel = transposed + column * f_.outputs;
    TileFactors factors{nullptr, padded_out_, 1, kernel, strip.width(), f_.outputs};
    for (int64_t at = 0; at < out_columns; at += kTileRows) {
      Tile<vectors> tile = {};
      factors.a = gradient + at * padded_out_;
      Multiply(factors, tile);
      AddTile(tile, out_columns - at, columns, dz + at * step + column, step);
    }
  }

  // Adds a strip of windows^T gradient to the gradient of one row of the kernel.
  template <int vectors>
  NOINLINE void MultiplyKernel(const float* z, const float* gradient, const Strip strip,
                               float* product) const {
    int64_t column = strip.column(), row_step = padded_out_, span = f_.span();
    TileFactors factors{nullptr, 1, f_.step(), gradient + column, row_step, g_.out_columns};
    for (int64_t k = 0; k < span; k += kTileRows) {
      Tile<vectors> tile = {};
      factors.a = z + k;
      Multiply(factors, tile);
      AddTile(tile, kTileRows, row_step, product + k * row_step + column, row_step);
    }
  }

  void WriteInputs(int64_t unit, const Line& row, float* moments) const {
    int64_t padded = g_.padded_channels();
    InputRow input{arrays_.x + unit * g_.row_size(), arrays_.dx + unit * g_.row_size(), g_.columns,
                   g_.channels, stream_};
    for (int64_t c = 0; c < padded; c += kLanes) {
      WriteInputGradient<input_act>(input, {row.dz + margin_ + c, g_.channels},
                                    Norm(arrays_.norm, g_.channels, c), c, moments,
                                    moments + padded);
    }
  }

  FullShape f_;
  Geometry g_;
  BackwardArrays arrays_;
  bool input_gradient_, stream_;
  int64_t margin_;  // numbers before the first column of a line
  int64_t padded_out_;
  int64_t product_row_;  // numbers in the gradient of one row of the kernel, of one part
  int64_t parts_;
  std::vector<Strip> in_strips_, out_strips_;
  int64_t transposed_row_;
  Scratch transposed_;  // each row of the kernel, strip after strip
  RepeatedNorm norm_;
  Sums sums_;
  Scratch products_;
};

template <Activation input_act>
void FullBackward(xla::ffi::ThreadPool& pool, const FullShape& shape, const BackwardArrays& arrays,
                  bool input_gradient) {
  FullGradients<input_act> gradients(pool, shape, arrays, input_gradient);
  Parallel(pool, gradients.parts(), [&](int64_t part) { gradients.RunPart(part); });
  gradients.Join();
}

}  // namespace mnet
