// Threads, and scratch memory that calls reuse.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

// Buffers that later calls reuse: mapping new pages takes longer than the computation in them.
class BufferPool {
 public:
  float* Acquire(int64_t floats) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->floats >= floats) {
        Buffer buffer = *it;
        free_.erase(it);
        used_.push_back(buffer);
        return buffer.data;
      }
    }
    int64_t bytes = RoundUp(kFloatBytes * floats, kCacheLineBytes);
    void* data = std::aligned_alloc(kCacheLineBytes, static_cast<size_t>(bytes));
    used_.push_back({static_cast<float*>(data), floats});
    return used_.back().data;
  }

  void Release(float* data) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto released = std::find_if(used_.begin(), used_.end(),
                                 [data](const Buffer& buffer) { return buffer.data == data; });
    free_.push_back(*released);
    used_.erase(released);
    std::sort(free_.begin(), free_.end(),
              [](const Buffer& a, const Buffer& b) { return a.floats < b.floats; });
    while (free_.size() > kMaxFree) {  // frees the smallest
      std::free(free_.front().data);
      free_.erase(free_.begin());
    }
  }

 private:
  struct Buffer {
    float* data;
    int64_t floats;
  };
  static constexpr size_t kMaxFree = 32;

  std::mutex mutex_;
  std::vector<Buffer> free_, used_;
};

inline BufferPool& Buffers() {
  static BufferPool* buffers = new BufferPool;  // never destroyed: threads may outlive `main`
  return *buffers;
}

// Scratch memory, for as long as this object lives.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : data_(Buffers().Acquire(std::max(floats, kMinFloats))) {}
  ~Scratch() { Buffers().Release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* get() const { return data_; }
  float* Zeroed(int64_t floats) const {
    ZeroFloats(data_, floats);
    return data_;
  }

 private:
  static constexpr int64_t kMinFloats = 16;

  float* data_;
};

constexpr int64_t kSpins = 20000;       // waits a few microseconds before it yields the processor
constexpr int64_t kPartsPerThread = 4;  // small parts, so that all threads finish together

// Calls body(0) ... body(parts - 1) on the threads of the pool and on the calling thread.
inline void Parallel(xla::ffi::ThreadPool& pool, int64_t parts,
                     const std::function<void(int64_t)>& body) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto state = std::make_shared<State>();
  const auto* run = &body;  // alive until all parts are done, and not touched later
  auto work = [state, parts, run] {
    for (int64_t part; (part = state->next.fetch_add(1)) < parts;) {
      (*run)(part);
      FenceStreams();
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

// Returns the number of parts into which to divide `units` of work. It depends only on the number
// of threads, so results do not depend on which thread runs which part.
inline int64_t PartsFor(xla::ffi::ThreadPool& pool, int64_t units,
                        int64_t per_thread = kPartsPerThread) {
  int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  return std::max<int64_t>(1, std::min(units, threads > 1 ? per_thread * threads : 1));
}

// Consecutive units of work, or strips of a matrix.
struct Range {
  int64_t begin, end;
};

// Returns the share of part `part` of `parts` in `count` units or strips.
inline Range ShareOf(int64_t count, int64_t part, int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

}  // namespace mnet
