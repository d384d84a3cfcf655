// What is done to a feature map on the way in and on the way out of a convolution.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace mnet {

// Sums per channel in double precision, of `count` kinds.
struct Sums {
  Sums(int64_t parts, int64_t count, int64_t channels)
      : size(count * channels), channels(channels), values(parts * size, 0.0) {}
  double* at(int64_t part, int64_t kind) { return &values[part * size + kind * channels]; }
  // Two kinds at once.
  void Add(int64_t part, const float* first, const float* second) {
    for (int64_t c = 0; c < channels; ++c) {
      at(part, 0)[c] += first[c];
      at(part, 1)[c] += second[c];
    }
  }
  // The parts added up, into part 0.
  void Join() {
    for (size_t i = size; i < values.size(); ++i) values[i % size] += values[i];
  }
  int64_t size, channels;
  std::vector<double> values;
};

inline void WriteMoments(Sums& sums, int64_t count, float* mean, float* variance) {
  sums.Join();
  for (int64_t c = 0; c < sums.channels; ++c) {
    double m = sums.at(0, 0)[c] / count;
    mean[c] = static_cast<float>(m);
    variance[c] = static_cast<float>(std::max(0.0, sums.at(0, 1)[c] / count - m * m));
  }
}

// The gradient of mean, scale and bias, from the sums of that of u and of its product with the
// centred input.
inline void WriteNormGradient(Sums& sums, const float* norm, float* gradient) {
  sums.Join();
  int64_t channels = sums.channels;
  for (int64_t c = 0; c < channels; ++c) {
    double shift = sums.at(0, 0)[c];
    gradient[c] = static_cast<float>(-shift * norm[channels + c]);
    gradient[channels + c] = static_cast<float>(sums.at(0, 1)[c]);
    gradient[2 * channels + c] = static_cast<float>(shift);
  }
}

// Adds the parts' kernel gradients, matrices whose rows are `wide`, in order.
inline void JoinProducts(const float* products, int64_t parts, int64_t size, int64_t rows,
                         int64_t columns, int64_t wide, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      float total = 0;
      for (int64_t part = 0; part < parts; ++part) total += products[part * size + r * wide + c];
      to[r * columns + c] = total;
    }
  }
}

// Channels c0 ... of one of the rows of a [3, channels] array: a pass's constants.
struct Constants {
  Constants(const float* p, int64_t channels, int64_t c)
      : first(Load(p + c, channels - c)),
        second(Load(p + channels + c, channels - c)),
        third(Load(p + 2 * channels + c, channels - c)) {}
  Vec first, second, third;
};

// u = (x - mean) * scale + bias
struct Norm : Constants {
  using Constants::Constants;
  ALWAYS_INLINE Vec Centred(Vec x) const { return x - first; }
  ALWAYS_INLINE Vec Apply(Vec centred) const { return centred * second + third; }
};

// The gradient of y with what comes by its mean and its variance:
//     g + of_mean + of_variance * (y - mean)
struct Pull : Constants {
  using Constants::Constants;
  ALWAYS_INLINE Vec Apply(Vec g, Vec y) const { return g + second + third * (y - first); }
};

// One vector of channels along a line: from the gradient of z to that of x, and its sums.
template <int64_t act>
ALWAYS_INLINE void PushLine(const Norm& norm, const float* x, const float* dz, int64_t dz_step,
                            float* dx, int64_t channels, int64_t columns, int64_t n, bool stream,
                            float* shift, float* slope) {
  Vec s{}, q{};
  for (int64_t column = 0; column < columns; ++column) {
    Vec centred = norm.Centred(Load(x + column * channels, n));
    Vec d = Passed<act>(Load(dz + column * dz_step), norm.Apply(centred));
    s += d;
    q += d * centred;
    StoreOut(dx + column * channels, d * norm.second, n, stream);
  }
  Store(shift, s);
  Store(slope, q);
}

// What is done to y on the way out, `after` being its activation: act(y + bias).
template <int64_t after>
struct Finish {
  const float* bias;
  int64_t channels;
  ALWAYS_INLINE Vec Bias(int64_t c) const {
    return after == kNone ? Vec{} : Load(bias + c, channels - c);
  }
  ALWAYS_INLINE static Vec Apply(Vec y, Vec bias) {
    return after == kNone ? y : Activate<after>(y + bias);
  }
};

// A vector of channels of z, given one of x.
template <int64_t act>
ALWAYS_INLINE Vec Normalize(Vec x, const float* norm, int64_t channels, int64_t c) {
  if (act == kNone) return x;
  Norm constants(norm, channels, c);
  return Activate<act>(constants.Apply(constants.Centred(x)));  // 0 behind the channels
}

// Rows of z, normalized and activated: [rows, width] with zeros behind the channels and the rows.
template <int64_t act>
void NormalizeRows(const float* x, const float* norm, int64_t rows, int64_t padded_rows,
                   int64_t channels, int64_t width, float* z) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; c += kLanes) {
      Vec value = Load(x + r * channels + c, channels - c);
      Store(z + r * width + c, Normalize<act>(value, norm, channels, c));
    }
  }
  std::memset(z + rows * width, 0, 4 * (padded_rows - rows) * width);
}

// Constants of channels that lie densely, repeated until whole vectors of numbers have their own.
struct RepeatedNorm {
  RepeatedNorm(const float* norm, int64_t channels)
      : period(channels % kLanes ? channels * kLanes : channels), values(3 * period) {
    for (int64_t i = 0; i < 3 * period; ++i)
      values[i] = norm[i / period * channels + i % period % channels];
  }
  int64_t period;
  std::vector<float> values;
};

// `count` numbers of a line of z, without gaps between the channels.
template <int64_t act>
void NormalizeLine(const float* x, const RepeatedNorm& norm, int64_t count, float* z) {
  for (int64_t i = 0, c = 0; i < count; i += kLanes) {
    int64_t n = count - i;
    Store(z + i, Normalize<act>(Load(x + i, n), norm.values.data(), norm.period, c), n);
    c = c + kLanes == norm.period ? 0 : c + kLanes;
  }
}

// Rows of the gradient of y: [rows, width] with zeros behind the channels and the rows.
inline void PullRows(const float* g, const float* y, const float* pull, int64_t rows,
              int64_t padded_rows, int64_t channels, int64_t width, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; c += kLanes) {
      Pull constants(pull, channels, c);
      int64_t at = r * channels + c, n = channels - c;
      Store(to + r * width + c, constants.Apply(Load(g + at, n), Load(y + at, n)));
    }
  }
  std::memset(to + rows * width, 0, 4 * (padded_rows - rows) * width);
}

}  // namespace mnet
