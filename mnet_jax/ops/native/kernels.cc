// The convolutions of a MobileNet for training on a CPU, each in one pass over memory.
//
// An operation reads x, normalizes and activates it on the way,
//     z = act((x - mean) * scale + bias)                          (`norm`: mean, scale, bias),
// convolves z, pointwise or depthwise, and gathers mean and variance of what it writes. So a layer
// reads each feature map once and writes it once, as the convolution left it. The gradient does
// the same: it takes the gradient of the output together with that of its mean and variance, and
// computes anew what it needs of z.
//
// Arrays are float32 and dense, channels last. Work is cut into parts by rows; each part has sums
// of its own, added in order at the end, so results do not depend on which thread ran what.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// ---- vectors of channels

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif
constexpr int64_t kStreamBytes = 16 << 20;  // about half of a shared third cache
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

#define ALWAYS_INLINE inline __attribute__((always_inline))

ALWAYS_INLINE Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
ALWAYS_INLINE void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
ALWAYS_INLINE Vec Fill(float value) { return value - Vec{}; }

// The first n lanes; the others are zero.
ALWAYS_INLINE Vec Load(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  Vec v{};
  std::memcpy(&v, p, 4 * n);
  return v;
#endif
}

ALWAYS_INLINE void Store(float* p, Vec v, int64_t n) {
  if (n >= kLanes) return Store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  std::memcpy(p, &v, 4 * n);
#endif
}

// Past the caches, for what is too large to be read from them: it saves reading what is overwritten.
// Where `stream` says so, n whole lanes at an aligned place.
ALWAYS_INLINE void StoreOut(float* p, Vec v, int64_t n, bool stream) {
#if defined(__AVX512F__)
  if (stream) return _mm512_stream_ps(p, (__m512)v);
#endif
  Store(p, v, n);
}

bool ShouldStream(const float* p, int64_t rows, int64_t channels) {
  bool aligned = reinterpret_cast<uintptr_t>(p) % 64 == 0 && channels % kLanes == 0;
  return aligned && 4 * rows * channels > kStreamBytes;
}

ALWAYS_INLINE Vec Max(Vec a, Vec b) { return a > b ? a : b; }
ALWAYS_INLINE Vec Min(Vec a, Vec b) { return a < b ? a : b; }

constexpr int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// ---- activations

enum Activation : int64_t { kLinear = 0, kRelu = 1, kRelu6 = 2, kHardSwish = 3 };

template <int64_t act>
ALWAYS_INLINE Vec Activate(Vec u) {
  if (act == kRelu) return Max(u, Vec{});
  if (act == kRelu6) return Min(Max(u, Vec{}), Fill(6));
  if (act == kHardSwish) return u * Min(Max(u + 3.0f, Vec{}), Fill(6)) * (1.0f / 6);
  return u;
}

// The gradient of u, given that of its activation; zero at the corners of ReLU.
template <int64_t act>
ALWAYS_INLINE Vec Passed(Vec g, Vec u) {
  Vec zero{};
  if (act == kRelu) return u > zero ? g : zero;
  if (act == kRelu6) return (u > zero) & (u < Fill(6)) ? g : zero;
  if (act == kHardSwish) {
    Vec middle = g * (u * (1.0f / 3) + 0.5f);
    return u <= Fill(-3) ? zero : (u >= Fill(3) ? g : middle);
  }
  return g;
}

// ---- memory and threads

// Blocks that calls hand on to each other, as fresh pages cost more than what is done on them.
class Blocks {
 public:
  float* Take(int64_t floats) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < free_.size(); ++i) {
      if (free_[i].second >= floats) {
        float* block = free_[i].first;
        taken_.push_back(free_[i]);
        free_.erase(free_.begin() + i);
        return block;
      }
    }
    float* block = static_cast<float*>(std::aligned_alloc(64, RoundUp(4 * floats, 64)));
    taken_.emplace_back(block, floats);
    return block;
  }

  void Give(float* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (taken_[i].first == block) {
        free_.push_back(taken_[i]);
        taken_.erase(taken_.begin() + i);
        break;
      }
    }
    std::sort(free_.begin(), free_.end(),
              [](const auto& a, const auto& b) { return a.second < b.second; });
    while (free_.size() > 32) {  // the smallest go
      std::free(free_.front().first);
      free_.erase(free_.begin());
    }
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<float*, int64_t>> free_, taken_;
};

Blocks& AllBlocks() {
  static Blocks* blocks = new Blocks;
  return *blocks;
}

// Scratch memory of one call or one part.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : data_(AllBlocks().Take(std::max<int64_t>(floats, 16))) {}
  ~Scratch() { AllBlocks().Give(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* get() const { return data_; }
  float* Zeroed(int64_t floats) const {
    std::memset(data_, 0, 4 * floats);
    return data_;
  }

 private:
  float* data_;
};

constexpr int64_t kSpins = 20000;  // a few microseconds, before another thread is let in

// Calls body(0) ... body(parts - 1) on the threads of the pool and on this one.
void Parallel(ffi::ThreadPool& pool, int64_t parts, const std::function<void(int64_t)>& body) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto state = std::make_shared<State>();
  const auto* run = &body;  // alive until all parts are done, and not touched later
  auto work = [state, parts, run] {
    for (int64_t i; (i = state->next.fetch_add(1)) < parts;) {
      (*run)(i);
      state->done.fetch_add(1);
    }
  };
  int64_t helpers = std::min<int64_t>(pool.num_threads(), parts) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(decltype(work)(work));
  work();
  for (int64_t spins = 0; state->done.load() < parts; ++spins) {
    if (spins > kSpins) std::this_thread::yield();
  }
}

int64_t PartsFor(ffi::ThreadPool& pool, int64_t units, int64_t per_thread = 4) {
  int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  return std::max<int64_t>(1, std::min(units, threads > 1 ? per_thread * threads : 1));
}

// ---- statistics

// Sums per channel in double precision, of `count` kinds.
struct Sums {
  Sums(int64_t parts, int64_t count, int64_t channels)
      : size(count * channels), channels(channels), values(parts * size, 0.0) {}
  double* at(int64_t part, int64_t kind) { return &values[part * size + kind * channels]; }
  // The parts added up, into part 0.
  void Join() {
    for (size_t i = size; i < values.size(); ++i) values[i % size] += values[i];
  }
  int64_t size, channels;
  std::vector<double> values;
};

void WriteMoments(Sums& sums, int64_t count, float* mean, float* variance) {
  sums.Join();
  for (int64_t c = 0; c < sums.channels; ++c) {
    double m = sums.at(0, 0)[c] / count;
    mean[c] = static_cast<float>(m);
    variance[c] = static_cast<float>(std::max(0.0, sums.at(0, 1)[c] / count - m * m));
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

// ---- matrix products

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

// Columns of a matrix that a tile of the product takes at a time, in vectors.
struct Panel {
  int64_t first, vectors;
  int64_t column() const { return first * kLanes; }
  int64_t width() const { return vectors * kLanes; }
};

std::vector<Panel> PanelsOf(int64_t columns) {
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
void Pack(ffi::ThreadPool& pool, const std::vector<Panel>& panels, const float* w, int64_t rows,
          int64_t columns, bool transposed, float* packed) {
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

// Rows of z, normalized and activated: [rows, width] with zeros behind the channels and the rows.
template <int64_t act>
void NormalizeRows(const float* x, const float* norm, int64_t rows, int64_t padded_rows,
                   int64_t channels, int64_t width, float* z) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; c += kLanes) {
      Norm constants(norm, channels, c);
      Vec u = constants.Apply(constants.Centred(Load(x + r * channels + c, channels - c)));
      Store(z + r * width + c, Activate<act>(u));  // lanes behind the channels are act(0) = 0
    }
  }
  std::memset(z + rows * width, 0, 4 * (padded_rows - rows) * width);
}

// Rows of the gradient of y, likewise.
void PullRows(const float* g, const float* y, const float* pull, int64_t rows,
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

template <int64_t act>
void PointwiseForward(ffi::ThreadPool& pool, Product p, const float* x, const float* norm,
                      const float* w, bool statistics, float* y, float* mean, float* variance) {
  int64_t wide = p.wide_in(), out = p.wide_out(), tile = p.tile();
  std::vector<Panel> panels = PanelsOf(p.outputs);
  bool direct = p.rows <= kDirectRows && out == p.outputs;
  Scratch packed(direct ? 0 : p.inputs * out);
  if (!direct) Pack(pool, panels, w, p.inputs, p.outputs, false, packed.get());
  // Where there are few rows, the threads share the columns too.
  int64_t tiles = (p.rows + tile - 1) / tile, wanted = 2 * pool.num_threads();
  int64_t groups = std::clamp<int64_t>(wanted / tiles, 1, panels.size());
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
        WithVectors(panels[i], [&](auto size) {
          constexpr int vectors = size;
          int64_t column = panels[i].column();
          const float* panel = direct ? w + column : packed.get() + column * p.inputs;
          int64_t width = direct ? p.outputs : panels[i].width();
          Vec s[vectors] = {}, q[vectors] = {};
          for (int64_t r = 0; r < rows; r += kRows) {
            Vec acc[kRows][vectors] = {};
            Accumulate<vectors>(z.get() + r * wide, wide, 1, panel, width, p.inputs, acc);
            float* to = y + (first + r) * p.outputs + column;
#pragma GCC unroll 8
            for (int k = 0; k < kRows; ++k) {
#pragma GCC unroll 4
              for (int j = 0; j < vectors; ++j) {
                s[j] += acc[k][j];  // rows behind the last are zero
                q[j] += acc[k][j] * acc[k][j];
                if (r + k < rows)
                  StoreOut(to + k * p.outputs + j * kLanes, acc[k][j],
                           p.outputs - column - j * kLanes, stream);
              }
            }
          }
          for (int j = 0; j < vectors; ++j) {
            Store(sum + column + j * kLanes, s[j]);
            Store(square + column + j * kLanes, q[j]);
          }
        });
      }
      if (!statistics) continue;
      for (int64_t c = 0; c < p.outputs; ++c) {
        sums.at(part, 0)[c] += sum[c];
        sums.at(part, 1)[c] += square[c];
      }
    }
  });
  if (statistics) WriteMoments(sums, p.rows, mean, variance);
}

template <int64_t act>
void PointwiseBackward(ffi::ThreadPool& pool, Product p, const float* x, const float* norm,
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
      for (int64_t c = 0; c < p.inputs; ++c) {
        sums.at(part, 0)[c] += shift[c];
        sums.at(part, 1)[c] += slope[c];
      }
      for (const Panel& panel : out_panels) WithVectors(panel, [&](auto size) {
        constexpr int vectors = size;
        int64_t column = panel.column();
        for (int64_t k = 0; k < wide; k += kRows) {
          Vec acc[kRows][vectors] = {};
          Accumulate<vectors>(z.get() + k, 1, wide, gradient.get() + column, out, rows, acc);
#pragma GCC unroll 8
          for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) {
              float* to = product + (k + i) * out + column + j * kLanes;
              Store(to, Load(to) + acc[i][j]);
            }
          }
        }
      });
    }
  });
  sums.Join();
  for (int64_t c = 0; c < p.inputs; ++c) {
    double shift = sums.at(0, 0)[c];
    dnorm[c] = static_cast<float>(-shift * norm[p.inputs + c]);
    dnorm[p.inputs + c] = static_cast<float>(sums.at(0, 1)[c]);
    dnorm[2 * p.inputs + c] = static_cast<float>(shift);
  }
  for (int64_t k = 0; k < p.inputs; ++k) {
    for (int64_t c = 0; c < p.outputs; ++c) {
      float total = 0;
      for (int64_t part = 0; part < parts; ++part)
        total += products.get()[part * wide * out + k * out + c];
      dw[k * p.outputs + c] = total;
    }
  }
}

// ---- depthwise convolution

struct Window {
  int64_t images, rows, columns, channels;  // in
  int64_t out_rows, out_columns;
  int64_t stride, top, left;
  int64_t wide() const { return RoundUp(channels, kLanes); }
};

int64_t FloorDivide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

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
    scratch_.Zeroed((count + 1) * size_);
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
void PackTaps(const float* kernel, int64_t taps, int64_t channels, int64_t wide, float* packed) {
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < wide; ++c)
      packed[t * wide + c] = c < channels ? kernel[t * channels + c] : 0;
}

template <int64_t act, int size>
void DepthwiseForward(ffi::ThreadPool& pool, Window w, const float* x, const float* norm,
                      const float* kernel, bool statistics, float* y, float* mean,
                      float* variance) {
  int64_t wide = w.wide(), units = w.images * w.out_rows;
  int64_t after = std::max<int64_t>(0, w.stride * (w.out_columns - 1) + size - w.left - w.columns);
  int64_t parts = PartsFor(pool, units);
  bool stream = ShouldStream(y, units * w.out_columns, w.channels);
  Scratch taps(size * size * wide);
  PackTaps(kernel, size * size, w.channels, wide, taps.get());
  Sums sums(parts, 2, w.channels);
  Parallel(pool, parts, [&](int64_t part) {
    SlidingRows inputs(size, w.left, w.columns, after, wide);
    Scratch moments(2 * wide);
    for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
      int64_t image = unit / w.out_rows, row = unit % w.out_rows;
      const float* lines[size];
      for (int i = 0; i < size; ++i) {
        int64_t from = w.stride * row + i - w.top;
        lines[i] = inputs.Row(image, from, w.rows, [&](float* to) {
          const float* line = x + (image * w.rows + from) * w.columns * w.channels;
          NormalizeRows<act>(line, norm, w.columns, w.columns, w.channels, wide, to);
        });
        lines[i] -= w.left * wide;
      }
      float* to = y + unit * w.out_columns * w.channels;
      float* sum = moments.get();
      float* square = sum + wide;
      for (int64_t c = 0; c < wide; c += kLanes) {
        Vec k[size * size];
#pragma GCC unroll 64
        for (int i = 0; i < size * size; ++i) k[i] = Load(taps.get() + i * wide + c);
        Vec s{}, q{};
        int64_t n = w.channels - c;
        for (int64_t column = 0; column < w.out_columns; ++column) {
          Vec acc{};
#pragma GCC unroll 8
          for (int i = 0; i < size; ++i) {
            const float* from = lines[i] + column * w.stride * wide + c;
#pragma GCC unroll 8
            for (int j = 0; j < size; ++j) acc += k[i * size + j] * Load(from + j * wide);
          }
          s += acc;
          q += acc * acc;
          StoreOut(to + column * w.channels + c, acc, n, stream);
        }
        Store(sum + c, s);
        Store(square + c, q);
      }
      if (!statistics) continue;
      for (int64_t c = 0; c < w.channels; ++c) {
        sums.at(part, 0)[c] += sum[c];
        sums.at(part, 1)[c] += square[c];
      }
    }
  });
  if (statistics) WriteMoments(sums, units * w.out_columns, mean, variance);
}

// One row of taps onto one row of the input's gradient, at the columns of one phase:
//     dz[phase + stride q] += sum over t of k[t] g[q + offset[t]]
//     dk[t] += sum over q of z[phase + stride q] g[q + offset[t]]
template <int count>
ALWAYS_INLINE void PullRow(const float* g, int64_t wide, const int64_t* offset, const float* const* k,
                           float* const* dk, const float* z, float* dz, int64_t stride,
                           int64_t columns) {
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
    Store(dz + q * stride * kLanes, total);
  }
#pragma GCC unroll 8
  for (int t = 0; t < count; ++t) Store(dk[t], sum[t]);
}

template <int64_t act, int size>
void DepthwiseBackward(ffi::ThreadPool& pool, Window w, const float* x, const float* norm,
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
      NormalizeRows<act>(from, norm, w.columns, w.columns, w.channels, wide, normalized.get());
      for (int64_t c = 0; c < wide; c += kLanes) {
        Norm constants(norm, w.channels, c);
        int64_t n = w.channels - c;
        const float* z = normalized.get() + c;
        std::memset(dz, 0, 4 * w.columns * kLanes);
        for (int i = 0; i < size; ++i) {
          if (!lines[i]) continue;
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
                                     dz + phase * kLanes, w.stride, columns);
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
        Vec s{}, q{};
        for (int64_t column = 0; column < w.columns; ++column) {
          Vec centred = constants.Centred(Load(from + column * w.channels + c, n));
          Vec d = Passed<act>(Load(dz + column * kLanes), constants.Apply(centred));
          s += d;
          q += d * centred;
          StoreOut(to + column * w.channels + c, d * constants.second, n, stream);
        }
        Store(moments.get() + c, s);
        Store(moments.get() + wide + c, q);
      }
      for (int64_t c = 0; c < w.channels; ++c) {
        sums.at(part, 0)[c] += moments.get()[c];
        sums.at(part, 1)[c] += moments.get()[wide + c];
      }
    }
  });
  sums.Join();
  for (int64_t c = 0; c < w.channels; ++c) {
    double shift = sums.at(0, 0)[c];
    dnorm[c] = static_cast<float>(-shift * norm[w.channels + c]);
    dnorm[w.channels + c] = static_cast<float>(sums.at(0, 1)[c]);
    dnorm[2 * w.channels + c] = static_cast<float>(shift);
  }
  for (int64_t t = 0; t < size * size; ++t) {
    for (int64_t c = 0; c < w.channels; ++c) {
      float total = 0;
      for (int64_t part = 0; part < parts; ++part)
        total += products.get()[(part * size * size + t) * wide + c];
      dk[t * w.channels + c] = total;
    }
  }
}

// ---- bindings

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

// Calls body with the activation as a constant.
template <typename Body>
ffi::Error WithActivation(int64_t act, const Body& body) {
  switch (act) {
    case kLinear: body(std::integral_constant<int64_t, kLinear>{}); break;
    case kRelu: body(std::integral_constant<int64_t, kRelu>{}); break;
    case kRelu6: body(std::integral_constant<int64_t, kRelu6>{}); break;
    case kHardSwish: body(std::integral_constant<int64_t, kHardSwish>{}); break;
    default: return ffi::Error::InvalidArgument("unknown activation");
  }
  return ffi::Error::Success();
}

// The same for the side of a depthwise kernel.
template <typename Body>
ffi::Error WithSize(int64_t size, const Body& body) {
  switch (size) {
    case 3: return body(std::integral_constant<int, 3>{});
    case 5: return body(std::integral_constant<int, 5>{});
    default: return ffi::Error::InvalidArgument("unknown kernel size");
  }
}

Product ProductOf(In x, In w) {
  auto shape = w.dimensions();
  return {static_cast<int64_t>(x.element_count()) / shape[0], shape[0], shape[1]};
}

Window WindowOf(In x, ffi::AnyBuffer::Dimensions y, int64_t stride, int64_t top, int64_t left) {
  auto shape = x.dimensions();
  return {shape[0], shape[1], shape[2], shape[3], y[1], y[2], stride, top, left};
}

ffi::Error PointwiseForwardCall(ffi::ThreadPool pool, In x, In norm, In w, Out y, Out mean,
                                Out variance, int64_t act, bool statistics) {
  return WithActivation(act, [&](auto a) {
    PointwiseForward<a>(pool, ProductOf(x, w), x.typed_data(), norm.typed_data(), w.typed_data(),
                        statistics, y->typed_data(), mean->typed_data(), variance->typed_data());
  });
}

ffi::Error PointwiseBackwardCall(ffi::ThreadPool pool, In x, In norm, In w, In g, In y, In pull,
                                 Out dx, Out dnorm, Out dw, int64_t act) {
  return WithActivation(act, [&](auto a) {
    PointwiseBackward<a>(pool, ProductOf(x, w), x.typed_data(), norm.typed_data(), w.typed_data(),
                         g.typed_data(), y.typed_data(), pull.typed_data(), dx->typed_data(),
                         dnorm->typed_data(), dw->typed_data());
  });
}

ffi::Error DepthwiseForwardCall(ffi::ThreadPool pool, In x, In norm, In kernel, Out y, Out mean,
                                Out variance, int64_t act, bool statistics, int64_t stride,
                                int64_t top, int64_t left) {
  Window w = WindowOf(x, y->dimensions(), stride, top, left);
  return WithSize(kernel.dimensions()[0], [&](auto size) {
    return WithActivation(act, [&](auto a) {
      DepthwiseForward<a, size>(pool, w, x.typed_data(), norm.typed_data(), kernel.typed_data(),
                                statistics, y->typed_data(), mean->typed_data(),
                                variance->typed_data());
    });
  });
}

ffi::Error DepthwiseBackwardCall(ffi::ThreadPool pool, In x, In norm, In kernel, In g, In y,
                                 In pull, Out dx, Out dnorm, Out dk, int64_t act, int64_t stride,
                                 int64_t top, int64_t left) {
  Window w = WindowOf(x, y.dimensions(), stride, top, left);
  return WithSize(kernel.dimensions()[0], [&](auto size) {
    return WithActivation(act, [&](auto a) {
      DepthwiseBackward<a, size>(pool, w, x.typed_data(), norm.typed_data(), kernel.typed_data(),
                                 g.typed_data(), y.typed_data(), pull.typed_data(),
                                 dx->typed_data(), dnorm->typed_data(), dk->typed_data());
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_pointwise_forward, PointwiseForwardCall,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Attr<int64_t>("act")
                                  .Attr<bool>("statistics"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_pointwise_backward, PointwiseBackwardCall,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Attr<int64_t>("act"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_depthwise_forward, DepthwiseForwardCall,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Attr<int64_t>("act")
                                  .Attr<bool>("statistics")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(mnet_depthwise_backward, DepthwiseBackwardCall,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Arg<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Ret<In>()
                                  .Attr<int64_t>("act")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left"));
