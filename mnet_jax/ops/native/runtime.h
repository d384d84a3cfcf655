// Threads, scratch memory, and sums that do not depend on which thread ran what.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace mnet {

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

inline Blocks& AllBlocks() {
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
inline void Parallel(xla::ffi::ThreadPool& pool, int64_t parts,
                     const std::function<void(int64_t)>& body) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto state = std::make_shared<State>();
  const auto* run = &body;  // alive until all parts are done, and not touched later
  auto work = [state, parts, run] {
    for (int64_t i; (i = state->next.fetch_add(1)) < parts;) {
      (*run)(i);
      FinishStreams();
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

inline int64_t PartsFor(xla::ffi::ThreadPool& pool, int64_t units, int64_t per_thread = 4) {
  int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  return std::max<int64_t>(1, std::min(units, threads > 1 ? per_thread * threads : 1));
}

}  // namespace mnet
