// The arguments of a kernel (arrays and geometry of a layer), and the rows under a window.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "runtime.h"
#include "vectors.h"

namespace mnet {

// The arrays of the forward pass. Shapes and meanings are those of `forward` and `finish` in
// ops/native/calls.py.
struct ForwardArrays {
  const float *x, *norm, *kernel, *bias;
  float *y, *mean, *variance;
  bool statistics;  // whether mean and variance are wanted
};

// The arrays of the backward pass. Shapes and meanings are those of `backward` and
// `BackwardOperands` in ops/native/calls.py.
struct BackwardArrays {
  const float *x, *norm, *kernel, *gradient, *y, *correction;
  float *dx, *dnorm, *dkernel;
};

// The `Geometry` of ops/shifted.py, with one stride for both axes and without dilation.
struct Geometry {
  int64_t images, rows, columns, channels;  // of the input
  int64_t out_rows, out_columns;
  int64_t stride, top, left;  // rows and columns of zeros before the image: `low` in Python
  int64_t padded_channels() const { return RoundUp(channels, kLanes); }
  int64_t row_size() const { return columns * channels; }
  int64_t out_units() const { return images * out_rows; }
  int64_t in_units() const { return images * rows; }
  // Columns of zeros after the image that the last window, of `kernel_columns` columns, reads.
  int64_t right(int64_t kernel_columns) const {
    return std::max<int64_t>(0, stride * (out_columns - 1) + kernel_columns - left - columns);
  }
};

inline int64_t FloorDivide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// The size of `SlidingRows`: the number of rows kept, and for each row the number of columns and of
// columns of zeros before and after them.
struct RowShape {
  int64_t kept, before, columns, after, channels;
};

// The rows of an image that a window slides over. A row is computed on first use, and is kept until
// a later row replaces it. Rows outside of the image are zero.
class SlidingRows {
 public:
  explicit SlidingRows(const RowShape& shape)
      : kept_(shape.kept),
        size_((shape.before + shape.columns + shape.after) * shape.channels),
        start_(shape.before * shape.channels),
        ids_(static_cast<size_t>(kept_), -1),
        rows_((kept_ + 1) * size_) {
    ZeroFloats(rows_.get() + kept_ * size_, size_);  // the row outside of the image
    int64_t end = start_ + shape.columns * shape.channels;
    for (int64_t slot = 0; slot < kept_; ++slot) {
      ZeroFloats(rows_.get() + slot * size_, start_);
      ZeroFloats(rows_.get() + slot * size_ + end, size_ - end);
    }
  }

  // Returns the first column of a row of an image; each image has `rows` rows. make(p) computes the
  // columns of the row and writes them to p.
  template <typename Make>
  const float* Row(int64_t image, int64_t row, int64_t rows, const Make& make) {
    if (row < 0 || row >= rows) return rows_.get() + kept_ * size_ + start_;
    int64_t id = image * rows + row;
    size_t slot = static_cast<size_t>(row % kept_);
    float* to = rows_.get() + row % kept_ * size_ + start_;
    if (ids_[slot] != id) {
      make(to);
      ids_[slot] = id;
    }
    return to;
  }

 private:
  int64_t kept_, size_, start_;
  std::vector<int64_t> ids_;  // the row in each slot, counted over all images
  Scratch rows_;
};

}  // namespace mnet
