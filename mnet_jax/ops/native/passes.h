// Element-wise operations on the input and the output of a convolution, and their sums.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace mnet {

// Two sums for each channel and each part of the work, in double precision.
class Sums {
 public:
  Sums(int64_t parts, int64_t channels)
      : channels_(channels), values_(static_cast<size_t>(2 * parts * channels), 0.0) {}

  int64_t channels() const { return channels_; }
  const double* first() const { return values_.data(); }
  const double* second() const { return values_.data() + channels_; }

  void Add(int64_t part, const float* first, const float* second) {
    double* to = values_.data() + 2 * part * channels_;
    for (int64_t c = 0; c < channels_; ++c) {
      to[c] += first[c];
      to[channels_ + c] += second[c];
    }
  }

  // Adds all parts to the first one, in order.
  void Join() {
    size_t size = static_cast<size_t>(2 * channels_);
    for (size_t i = size; i < values_.size(); ++i) values_[i % size] += values_[i];
  }

 private:
  int64_t channels_;
  std::vector<double> values_;
};

// Writes the mean and biased variance of y, from the sums of y and y^2 over `count` positions.
inline void WriteStatistics(Sums& sums, int64_t count, float* mean, float* variance) {
  sums.Join();
  double n = static_cast<double>(count);
  for (int64_t c = 0; c < sums.channels(); ++c) {
    double m = sums.first()[c] / n;
    mean[c] = static_cast<float>(m);
    variance[c] = static_cast<float>(std::max(0.0, sums.second()[c] / n - m * m));
  }
}

// Writes the gradient of norm, from the sums of the gradient of u (see `Norm`) and of its product
// with (x - mean).
inline void WriteNormGradient(Sums& sums, const float* norm, float* gradient) {
  sums.Join();
  int64_t channels = sums.channels();
  const float* scale = norm + channels;
  for (int64_t c = 0; c < channels; ++c) {
    double of_bias = sums.first()[c];
    gradient[c] = static_cast<float>(-of_bias * scale[c]);
    gradient[channels + c] = static_cast<float>(sums.second()[c]);
    gradient[2 * channels + c] = static_cast<float>(of_bias);
  }
}

// One matrix [rows, columns] for each part of the work. The matrices are `part_step` numbers apart,
// and the rows of each are `row_step` numbers apart.
struct PartialMatrices {
  const float* data;
  int64_t parts, part_step, row_step;
};

// Adds the parts' matrices in order, into a dense one.
inline void JoinMatrices(const PartialMatrices& matrices, int64_t rows, int64_t columns,
                         float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      float total = 0;
      for (int64_t part = 0; part < matrices.parts; ++part)
        total += matrices.data[part * matrices.part_step + r * matrices.row_step + c];
      to[r * columns + c] = total;
    }
  }
}

// The vectors of channels from channel c on, one of each row of an array [3, channels].
struct ChannelConstants {
  ChannelConstants(const float* p, int64_t channels, int64_t c)
      : first(Load(p + c, channels - c)),
        second(Load(p + channels + c, channels - c)),
        third(Load(p + 2 * channels + c, channels - c)) {}
  Vec first, second, third;
};

// u = (x - mean) * scale + bias
struct Norm : ChannelConstants {
  using ChannelConstants::ChannelConstants;
  ALWAYS_INLINE Vec Centred(Vec x) const { return x - first; }
  ALWAYS_INLINE Vec Apply(Vec centred) const { return centred * second + third; }
  ALWAYS_INLINE Vec Scale() const { return second; }
};

// The complete gradient of y, with the part through its mean and its variance:
//     g + offset + slope * (y - mean)
struct Correction : ChannelConstants {
  using ChannelConstants::ChannelConstants;
  ALWAYS_INLINE Vec Apply(Vec g, Vec y) const { return g + second + third * (y - first); }
};

// The operation on y before it is written: none, or the activation of y + bias.
template <Activation output_act>
struct Finish {
  const float* bias;
  int64_t channels;
  ALWAYS_INLINE Vec Bias(int64_t c) const {
    return output_act == kNone ? Vec{} : Load(bias + c, channels - c);
  }
  ALWAYS_INLINE static Vec Apply(Vec y, Vec bias_vector) {
    return output_act == kNone ? y : Activate<output_act>(y + bias_vector);
  }
};

// Returns a vector of channels of z, given that of x. Lanes after the last channel stay zero.
template <Activation input_act>
ALWAYS_INLINE Vec Normalize(Vec x, const float* norm, int64_t channels, int64_t c) {
  if (input_act == kNone) return x;
  Norm constants(norm, channels, c);
  return Activate<input_act>(constants.Apply(constants.Centred(x)));
}

// The sizes of dense rows [rows, channels] and of their copy, which is padded with zeros.
struct PaddedRows {
  int64_t rows, padded_rows, channels, padded_channels;
};

// Computes z [padded_rows, padded_channels] from x [rows, channels].
template <Activation input_act>
void NormalizeRows(const float* x, const float* norm, const PaddedRows& shape, float* z) {
  int64_t rows = shape.rows, channels = shape.channels, padded = shape.padded_channels;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < padded; c += kLanes) {
      Vec value = Load(x + r * channels + c, channels - c);
      Store(z + r * padded + c, Normalize<input_act>(value, norm, channels, c));
    }
  }
  ZeroFloats(z + rows * padded, (shape.padded_rows - rows) * padded);
}

// Computes the complete gradient of y [padded_rows, padded_channels] from g and y [rows, channels].
inline void CorrectRows(const float* g, const float* y, const float* correction,
                        const PaddedRows& shape, float* to) {
  int64_t rows = shape.rows, channels = shape.channels, padded = shape.padded_channels;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < padded; c += kLanes) {
      Correction constants(correction, channels, c);
      int64_t at = r * channels + c, n = channels - c;
      Store(to + r * padded + c, constants.Apply(Load(g + at, n), Load(y + at, n)));
    }
  }
  ZeroFloats(to + rows * padded, (shape.padded_rows - rows) * padded);
}

// The rows of norm for columns without padded channels: [3, period]. If the channels do not fill
// whole vectors, they are repeated until they do.
struct RepeatedNorm {
  RepeatedNorm(const float* norm, int64_t channels)
      : period(channels % kLanes ? channels * kLanes : channels),
        values(static_cast<size_t>(3 * period)) {
    for (int64_t i = 0; i < 3 * period; ++i)
      values[static_cast<size_t>(i)] = norm[i / period * channels + i % period % channels];
  }
  int64_t period;
  std::vector<float> values;
};

// Computes `count` numbers of z, in columns without padded channels.
template <Activation input_act>
void NormalizeDense(const float* x, const RepeatedNorm& norm, int64_t count, float* z) {
  for (int64_t i = 0, c = 0; i < count; i += kLanes) {
    int64_t n = count - i;
    Vec value = Load(x + i, n);
    Store(z + i, Normalize<input_act>(value, norm.values.data(), norm.period, c), n);
    c = c + kLanes == norm.period ? 0 : c + kLanes;
  }
}

// One row of x and of its gradient.
struct InputRow {
  const float* x;
  float* dx;
  int64_t columns, channels;
  bool stream;
};

// The gradient of z in one row; its columns are `step` numbers apart.
struct RowGradient {
  const float* dz;
  int64_t step;
};

// Computes the gradient of x from that of z, for the vector of channels from c on. Writes the row's
// sums for `WriteNormGradient` to first + c and second + c.
template <Activation input_act>
ALWAYS_INLINE void WriteInputGradient(const InputRow& row, const RowGradient& gradient,
                                      const Norm& norm, int64_t c, float* first, float* second) {
  Vec sum{}, product_sum{};
  int64_t n = row.channels - c;
  for (int64_t column = 0; column < row.columns; ++column) {
    int64_t at = column * row.channels + c;
    Vec centred = norm.Centred(Load(row.x + at, n));
    Vec du = ActivationGradient<input_act>(Load(gradient.dz + column * gradient.step),
                                           norm.Apply(centred));
    sum += du;
    product_sum += du * centred;
    StoreOutput(row.dx + at, du * norm.Scale(), n, row.stream);
  }
  Store(first + c, sum);
  Store(second + c, product_sum);
}

}  // namespace mnet
