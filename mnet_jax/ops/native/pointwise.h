// The pointwise convolution: products of tall matrices with small ones.

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

constexpr int64_t kFewRows = 512;  // for so few rows a copy of the kernel costs more than it saves
constexpr int64_t kBlockFloats = 48 * 1024;  // of z and y: a block stays in a second-level cache
constexpr int64_t kLeastBlockRows = 2 * kTileRows;
constexpr int64_t kMostBlockRows = 128;
constexpr int64_t kBlocksPerThread = 2;  // at least

// y [rows, outputs] = z [rows, inputs] kernel [inputs, outputs]
struct ProductShape {
  int64_t rows, inputs, outputs;
  bool in_panels;  // whether the kernel is packed; see ops/panels.py
  int64_t padded_inputs() const { return RoundUp(inputs, kLanes); }
  int64_t padded_outputs() const { return RoundUp(outputs, kLanes); }
  // Rows that are normalized and multiplied at a time.
  int64_t block_rows() const {
    int64_t fit = kBlockFloats / (padded_inputs() + padded_outputs()) / kTileRows * kTileRows;
    return std::clamp(fit, kLeastBlockRows, kMostBlockRows);
  }
};

// A strip of a kernel: its address, the distance between its rows, and where the next strips begin.
struct KernelStrip {
  const float* from;
  int64_t row_step;
  const float* next;
};

// Returns a strip of a kernel [inputs, outputs] in panels.
inline KernelStrip StripInPanel(const float* kernel, int64_t inputs, int64_t outputs,
                                const Strip& strip) {
  int64_t start = strip.column() / kPanelColumns * kPanelColumns, within = strip.column() - start;
  int64_t width = std::min(kPanelColumns, RoundUp(outputs, kPanelStep) - start);
  const float* panel = kernel + start * inputs;
  return {panel + within, width, panel + (width + within) * inputs};
}

// The forward pass. A unit of work is a block of rows by a group of strips.
template <Activation input_act, Activation output_act>
class PointwiseProduct {
 public:
  PointwiseProduct(xla::ffi::ThreadPool& pool, const ProductShape& shape,
                   const ForwardArrays& arrays)
      : p_(shape),
        arrays_(arrays),
        strips_(StripsOf(p_.outputs, p_.in_panels ? kPanelColumns : p_.outputs)),
        few_(p_.rows <= kFewRows),
        copied_(!p_.in_panels && !(few_ && p_.padded_outputs() == p_.outputs)),
        stream_(ShouldStream(arrays.y, p_.rows, p_.outputs)),
        copy_(copied_ ? p_.inputs * p_.padded_outputs() : 0) {
    if (copied_) Pack(pool, strips_, {arrays.kernel, p_.inputs, p_.outputs, false}, copy_.get());
    // The blocks have equal sizes, so that all threads have equal work. If there are few blocks,
    // they are divided by columns as well.
    int64_t most = p_.block_rows(), blocks = (p_.rows + most - 1) / most;
    int64_t wanted = kBlocksPerThread * pool.num_threads();
    block_rows_ = RoundUp((p_.rows + blocks - 1) / blocks, kTileRows);
    groups_ = std::clamp<int64_t>((wanted + blocks - 1) / blocks, 1, strip_count());
    units_ = blocks * groups_;
  }

  int64_t units() const { return units_; }

  void RunPart(int64_t part, int64_t parts, Sums& sums) const {
    int64_t padded = p_.padded_outputs();
    Scratch z(block_rows_ * p_.padded_inputs()), moments(2 * padded);
    int64_t normalized = -1;  // the block that z holds
    Range units = ShareOf(units_, part, parts);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      int64_t block = unit / groups_, group = unit % groups_;
      Rows rows = RowsOf(block, z.get());
      if (block != normalized) NormalizeBlock(rows, z.get());
      normalized = block;
      float* totals = moments.Zeroed(2 * padded);
      Range strips = ShareOf(strip_count(), group, groups_);
      for (int64_t i = strips.begin; i < strips.end; ++i) {
        WithVectors(strips_[static_cast<size_t>(i)],
                    [&](auto vectors) { MultiplyStrip<vectors>(rows, i, totals); });
      }
      if (arrays_.statistics) sums.Add(part, totals, totals + padded);
    }
  }

 private:
  // The `count` rows of a block, from `first` on. The first `direct` of them are read from x.
  struct Rows {
    int64_t first, count, direct;
    const float* z;
  };

  int64_t strip_count() const { return static_cast<int64_t>(strips_.size()); }

  Rows RowsOf(int64_t block, const float* z) const {
    int64_t first = block * block_rows_, count = std::min(block_rows_, p_.rows - first);
    // Rows that are neither normalized nor padded are read in place, if they form whole tiles.
    bool unchanged = input_act == kNone && p_.inputs == p_.padded_inputs();
    return {first, count, unchanged ? count / kTileRows * kTileRows : 0, z};
  }

  void NormalizeBlock(const Rows& rows, float* z) const {
    int64_t count = rows.count - rows.direct, padded = p_.padded_inputs();
    NormalizeRows<input_act>(arrays_.x + (rows.first + rows.direct) * p_.inputs, arrays_.norm,
                             {count, RoundUp(count, kTileRows), p_.inputs, padded},
                             z + rows.direct * padded);
  }

  KernelStrip KernelStripOf(const Strip& strip) const {
    if (p_.in_panels) return StripInPanel(arrays_.kernel, p_.inputs, p_.outputs, strip);
    if (!copied_) return {arrays_.kernel + strip.column(), p_.outputs, nullptr};
    return {copy_.get() + strip.column() * p_.inputs, strip.width(), nullptr};
  }

  // Computes the i-th strip of y, for the rows of a block.
  template <int vectors>
  NOINLINE void MultiplyStrip(const Rows rows, int64_t i, float* totals) const {
    const Strip& strip = strips_[static_cast<size_t>(i)];
    KernelStrip kernel = KernelStripOf(strip);
    int64_t inputs = p_.inputs, padded = p_.padded_inputs(), column = strip.column();
    const float* x = arrays_.x;
    const float* next_x = x + (rows.first + block_rows_) * inputs;
    bool prefetch_kernel = few_ && p_.in_panels, prefetch_x = i == 0;
    // Each row of tiles prefetches its share of the next strip.
    int64_t share = inputs * strip.width() * kTileRows / rows.count;
    Finish<output_act> finish{arrays_.bias, p_.outputs};
    float* y = arrays_.y + rows.first * p_.outputs;
    StripOutput<output_act> output{finish, y, p_.outputs, column, stream_};
    StripSums<vectors> sums;
    for (int64_t r = 0; r < rows.count; r += kTileRows) {
      Tile<vectors> tile = {};
      const float* z = r < rows.direct ? x + (rows.first + r) * padded : rows.z + r * padded;
      TileFactors factors{z, padded, 1, kernel.from, kernel.row_step, inputs};
      if (prefetch_kernel) {
        Prefetched next{kernel.next + r / kTileRows * share, (share + inputs - 1) / inputs};
        Multiply(factors, tile, next);
      } else if (prefetch_x) {
        Multiply(factors, tile, Prefetched{next_x + r * inputs});
      } else {
        Multiply(factors, tile);
      }
      StoreTile(tile, r, rows.count - r, output, sums);
    }
    sums.StoreTo(totals + column, totals + p_.padded_outputs() + column);
  }

  ProductShape p_;
  ForwardArrays arrays_;
  std::vector<Strip> strips_;
  bool few_, copied_, stream_;
  Scratch copy_;  // of the kernel, strip after strip
  int64_t block_rows_, groups_, units_;
};

template <Activation input_act, Activation output_act>
void PointwiseForward(xla::ffi::ThreadPool& pool, const ProductShape& shape,
                      const ForwardArrays& arrays) {
  PointwiseProduct<input_act, output_act> product(pool, shape, arrays);
  int64_t parts = PartsFor(pool, product.units());
  Sums sums(parts, shape.outputs);
  Parallel(pool, parts, [&](int64_t part) { product.RunPart(part, parts, sums); });
  if (arrays.statistics) WriteStatistics(sums, shape.rows, arrays.mean, arrays.variance);
}

// The gradients of a pointwise convolution. A unit of work is a block of rows.
template <Activation input_act>
class PointwiseGradients {
 public:
  PointwiseGradients(xla::ffi::ThreadPool& pool, const ProductShape& shape,
                     const BackwardArrays& arrays)
      : p_(shape),
        arrays_(arrays),
        padded_in_(p_.padded_inputs()),
        padded_out_(p_.padded_outputs()),
        block_rows_(p_.block_rows()),
        blocks_((p_.rows + block_rows_ - 1) / block_rows_),
        parts_(PartsFor(pool, blocks_, PartsWithGradient(padded_in_ * padded_out_))),
        stream_(ShouldStream(arrays.dx, p_.rows, p_.inputs)),
        in_strips_(StripsOf(p_.inputs)),
        out_strips_(StripsOf(p_.outputs)),
        transposed_(p_.outputs * padded_in_),
        sums_(parts_, p_.inputs),
        products_(parts_ * padded_in_ * padded_out_) {
    Pack(pool, in_strips_, {arrays.kernel, p_.outputs, p_.inputs, true}, transposed_.get());
  }

  int64_t parts() const { return parts_; }

  void RunPart(int64_t part) {
    Scratch z(block_rows_ * padded_in_), gradient(block_rows_ * padded_out_);
    Scratch moments(2 * padded_in_);
    float* product = products_.get() + part * padded_in_ * padded_out_;
    ZeroFloats(product, padded_in_ * padded_out_);
    Range blocks = ShareOf(blocks_, part, parts_);
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      int64_t first = block * block_rows_, count = std::min(block_rows_, p_.rows - first);
      int64_t padded_count = RoundUp(count, kTileRows), out = first * p_.outputs;
      NormalizeRows<input_act>(arrays_.x + first * p_.inputs, arrays_.norm,
                               {count, padded_count, p_.inputs, padded_in_}, z.get());
      CorrectRows(arrays_.gradient + out, arrays_.y + out, arrays_.correction,
                  {count, padded_count, p_.outputs, padded_out_}, gradient.get());
      Rows rows{first, count, z.get(), gradient.get()};
      float* totals = moments.Zeroed(2 * padded_in_);
      for (const Strip& strip : in_strips_)
        WithVectors(strip, [&](auto vectors) { MultiplyInputs<vectors>(rows, strip, totals); });
      sums_.Add(part, totals, totals + padded_in_);
      for (const Strip& strip : out_strips_)
        WithVectors(strip, [&](auto vectors) { MultiplyKernel<vectors>(rows, strip, product); });
    }
  }

  void Join() {
    WriteNormGradient(sums_, arrays_.norm, arrays_.dnorm);
    JoinMatrices({products_.get(), parts_, padded_in_ * padded_out_, padded_out_}, p_.inputs,
                 p_.outputs, arrays_.dkernel);
  }

 private:
  // The rows of a block, from `first` on.
  struct Rows {
    int64_t first, count;
    const float *z, *gradient;  // padded; the complete gradient of y
  };

  // Computes a strip of dx: gradient kernel^T, and the gradients of activation and normalization.
  template <int vectors>
  NOINLINE void MultiplyInputs(const Rows rows, const Strip strip, float* totals) const {
    int64_t column = strip.column(), outputs = p_.outputs;
    const float* kernel = transposed_.get() + column * outputs;
    TileFactors factors{nullptr, padded_out_, 1, kernel, strip.width(), outputs};
    int64_t next = (rows.first + block_rows_) * outputs;
    for (int64_t r = 0; r < rows.count; r += kTileRows) {
      Tile<vectors> tile = {};
      factors.a = rows.gradient + r * padded_out_;
      if (column == 0) {
        int64_t at = next + r * outputs;
        Multiply(factors, tile, Prefetched{arrays_.gradient + at}, Prefetched{arrays_.y + at});
      } else {
        Multiply(factors, tile);
      }
      StoreInputs(tile, rows.first + r, std::min(kTileRows, rows.count - r), column, totals);
    }
  }

  // Writes `count` rows of dx from a tile of the gradient of z, and adds to the sums.
  template <int vectors>
  ALWAYS_INLINE void StoreInputs(const Tile<vectors>& tile, int64_t first, int64_t count,
                                 int64_t column, float* totals) const {
    int64_t inputs = p_.inputs, padded = padded_in_;
    bool stream = stream_;
    const float* x = arrays_.x + first * inputs;
    float* dx = arrays_.dx + first * inputs;
    UNROLL_VECTORS
    for (int v = 0; v < vectors; ++v) {
      int64_t c = column + v * kLanes, n = inputs - c;
      Norm norm(arrays_.norm, inputs, c);
      Vec sum{}, product_sum{};
      UNROLL_ROWS
      for (int r = 0; r < kTileRows; ++r) {
        if (r >= count) break;
        Vec centred = norm.Centred(Load(x + r * inputs + c, n));
        Vec du = ActivationGradient<input_act>(tile[r][v], norm.Apply(centred));
        sum += du;
        product_sum += du * centred;
        StoreOutput(dx + r * inputs + c, du * norm.Scale(), n, stream);
      }
      Store(totals + c, Load(totals + c) + sum);
      Store(totals + padded + c, Load(totals + padded + c) + product_sum);
    }
  }

  // Adds a strip of z^T gradient to the part's gradient of the kernel.
  template <int vectors>
  NOINLINE void MultiplyKernel(const Rows rows, const Strip strip, float* product) const {
    int64_t column = strip.column(), inputs = p_.inputs, row_step = padded_out_;
    TileFactors factors{nullptr, 1, padded_in_, rows.gradient + column, row_step, rows.count};
    const float* next = arrays_.x + (rows.first + block_rows_) * inputs;
    for (int64_t c = 0; c < inputs; c += kTileRows) {
      Tile<vectors> tile = {};
      factors.a = rows.z + c;
      if (column == 0) {
        Multiply(factors, tile, Prefetched{next + c * rows.count});
      } else {
        Multiply(factors, tile);
      }
      AddTile(tile, kTileRows, row_step, product + c * row_step + column, row_step);
    }
  }

  ProductShape p_;
  BackwardArrays arrays_;
  int64_t padded_in_, padded_out_, block_rows_, blocks_, parts_;
  bool stream_;
  std::vector<Strip> in_strips_, out_strips_;
  Scratch transposed_;  // the kernel, strip after strip
  Sums sums_;
  Scratch products_;  // a gradient of the kernel for each part
};

template <Activation input_act>
void PointwiseBackward(xla::ffi::ThreadPool& pool, const ProductShape& shape,
                       const BackwardArrays& arrays) {
  PointwiseGradients<input_act> gradients(pool, shape, arrays);
  Parallel(pool, gradients.parts(), [&](int64_t part) { gradients.RunPart(part); });
  gradients.Join();
}

}  // namespace mnet
