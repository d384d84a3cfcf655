// SIMD vectors of channels, and the activations on them.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mnet {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#else
constexpr int64_t kLanes = 8;
#endif
constexpr int64_t kFloatBytes = sizeof(float);
constexpr int64_t kVectorBytes = kLanes * kFloatBytes;
constexpr int64_t kCacheLineBytes = 64;
constexpr int64_t kStreamBytes = 16 << 20;  // about half of a shared third-level cache
typedef float Vec __attribute__((vector_size(kVectorBytes)));
typedef float UnalignedVec
    __attribute__((vector_size(kVectorBytes), aligned(kFloatBytes), may_alias));

#define ALWAYS_INLINE inline __attribute__((always_inline))
// For loops that need all registers. If inlined, they would share the registers with the caller.
#define NOINLINE __attribute__((noinline))

// Unroll loops of constant length, so that arrays of vectors become registers.
#define UNROLL_VECTORS _Pragma("GCC unroll 4")  // the vectors of a strip
#define UNROLL_ROWS _Pragma("GCC unroll 8")     // the rows of a tile or of a depthwise kernel
#define UNROLL_TAPS _Pragma("GCC unroll 64")    // the taps of a depthwise kernel

// A number as a type, for values that are known when the kernels are compiled.
template <int64_t n>
using Constant = std::integral_constant<int64_t, n>;

constexpr int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

inline void ZeroFloats(float* p, int64_t count) {
  std::memset(p, 0, static_cast<size_t>(kFloatBytes * count));
}

inline void CopyFloats(float* to, const float* from, int64_t count) {
  std::memcpy(to, from, static_cast<size_t>(kFloatBytes * count));
}

ALWAYS_INLINE Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
ALWAYS_INLINE void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
ALWAYS_INLINE Vec Broadcast(float value) { return value - Vec{}; }

// Keeps a vector that is used several times in a register. Otherwise the compiler may load it again
// for each use.
ALWAYS_INLINE Vec InRegister(Vec v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX2__)
  asm("" : "+x"(v));
#endif
  return v;
}

// Prefetches a cache line into the second-level cache.
ALWAYS_INLINE void Prefetch(const float* p) { __builtin_prefetch(p, 0, 2); }

#if defined(__AVX512F__)
// Selects the first n lanes.
ALWAYS_INLINE __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
#elif defined(__AVX2__)
// Ones in the first n lanes.
ALWAYS_INLINE __m256i FirstLanes(int64_t n) {
  __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
#endif

// Loads the first n lanes; the others are zero.
ALWAYS_INLINE Vec Load(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(FirstLanes(n), p);
#elif defined(__AVX2__)
  return (Vec)_mm256_maskload_ps(p, FirstLanes(n));
#else
  Vec v{};
  std::memcpy(&v, p, static_cast<size_t>(kFloatBytes * n));
  return v;
#endif
}

// Stores the first n lanes.
ALWAYS_INLINE void Store(float* p, Vec v, int64_t n) {
  if (n >= kLanes) return Store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, FirstLanes(n), (__m512)v);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, FirstLanes(n), (__m256)v);
#else
  std::memcpy(p, &v, static_cast<size_t>(kFloatBytes * n));
#endif
}

// Stores the first n lanes of a result. With `stream` (see `ShouldStream`), the store bypasses the
// caches and does not read the cache line that it overwrites.
ALWAYS_INLINE void StoreOutput(float* p, Vec v, int64_t n, [[maybe_unused]] bool stream) {
#if defined(__AVX512F__)
  if (stream) return _mm512_stream_ps(p, (__m512)v);
#endif
  Store(p, v, n);
}

// Orders streaming stores before every later store.
inline void FenceStreams() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

// Returns whether to stream a feature map [rows, channels]: whether it is too large to be read
// again from a cache, and each store is a whole, aligned vector. Streaming partial cache lines
// would be slower.
inline bool ShouldStream(const float* p, int64_t rows, int64_t channels) {
  bool aligned = reinterpret_cast<uintptr_t>(p) % kCacheLineBytes == 0 && channels % kLanes == 0;
  return aligned && kFloatBytes * rows * channels > kStreamBytes;
}

// The larger of both; NaN if v is NaN.
ALWAYS_INLINE Vec AtLeast(Vec bound, Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)bound, (__m512)v);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)bound, (__m256)v);
#else
  return bound > v ? bound : v;
#endif
}

// The smaller of both; NaN if v is NaN.
ALWAYS_INLINE Vec AtMost(Vec bound, Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)bound, (__m512)v);
#elif defined(__AVX2__)
  return (Vec)_mm256_min_ps((__m256)bound, (__m256)v);
#else
  return bound < v ? bound : v;
#endif
}

// Numbered as in ops/native/calls.py. kNone: an input without norm, or an output without bias.
enum Activation : int64_t { kNone = -1, kLinear = 0, kRelu = 1, kRelu6 = 2, kHardSwish = 3 };

template <Activation activation>
ALWAYS_INLINE Vec Activate(Vec u) {
  if (activation == kRelu) return AtLeast(Vec{}, u);
  if (activation == kRelu6) return AtMost(Broadcast(6), AtLeast(Vec{}, u));
  if (activation == kHardSwish)
    return u * AtMost(Broadcast(6), AtLeast(Vec{}, u + 3.0f)) * (1.0f / 6);
  return u;
}

// The gradient of u, given that of its activation. It is zero at the corners of ReLU.
template <Activation activation>
ALWAYS_INLINE Vec ActivationGradient(Vec g, Vec u) {
  Vec zero{};
  if (activation == kRelu) return u > zero ? g : zero;
  if (activation == kRelu6) return ((u > zero) & (u < Broadcast(6))) ? g : zero;
  if (activation == kHardSwish) {
    Vec middle = g * (u * (1.0f / 3) + 0.5f);
    return u <= Broadcast(-3) ? zero : (u >= Broadcast(3) ? g : middle);
  }
  return g;
}

}  // namespace mnet
