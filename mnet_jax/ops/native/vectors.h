// Vectors of channels, and the activations on them.

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
constexpr int64_t kStreamBytes = 16 << 20;  // about half of a shared third cache
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define INLINE __attribute__((always_inline))  // of a lambda
// For loops that need the registers for themselves.
#define NOT_INLINE __attribute__((noinline))

ALWAYS_INLINE Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
ALWAYS_INLINE void Store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
ALWAYS_INLINE Vec Fill(float value) { return value - Vec{}; }

// Keeps a vector that is used several times from being read from memory each time.
ALWAYS_INLINE Vec InRegister(Vec v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX2__)
  asm("" : "+x"(v));
#endif
  return v;
}

// Asks for a line of memory that is read later, past the first cache.
ALWAYS_INLINE void Ahead(const float* p) { __builtin_prefetch(p, 0, 2); }

#if defined(__AVX2__) && !defined(__AVX512F__)
// Ones in the first n lanes.
ALWAYS_INLINE __m256i FirstLanes(int64_t n) {
  __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
#endif

// The first n lanes; the others are zero.
ALWAYS_INLINE Vec Load(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(__AVX2__)
  return (Vec)_mm256_maskload_ps(p, FirstLanes(n));
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
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, FirstLanes(n), (__m256)v);
#else
  std::memcpy(p, &v, 4 * n);
#endif
}

// With `stream` past the caches, for what is too large to be read from them again; it saves reading
// what is overwritten. That takes whole lanes at an aligned place, and lanes that fill a line of
// memory: parts of lines cost more than they save.
ALWAYS_INLINE void StoreOut(float* p, Vec v, int64_t n, bool stream) {
#if defined(__AVX512F__)
  if (stream) return _mm512_stream_ps(p, (__m512)v);
#endif
  Store(p, v, n);
}

// Makes what was stored past the caches seen before anything stored later.
inline void FinishStreams() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

inline bool ShouldStream(const float* p, int64_t rows, int64_t channels) {
  bool aligned = reinterpret_cast<uintptr_t>(p) % 64 == 0 && channels % kLanes == 0;
  return aligned && 4 * rows * channels > kStreamBytes;
}

// What is no number passes both.
ALWAYS_INLINE Vec AtLeast(Vec bound, Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)bound, (__m512)v);
#elif defined(__AVX2__)
  return (Vec)_mm256_max_ps((__m256)bound, (__m256)v);
#else
  return bound > v ? bound : v;
#endif
}

ALWAYS_INLINE Vec AtMost(Vec bound, Vec v) {
#if defined(__AVX512F__)
  return (Vec)_mm512_min_ps((__m512)bound, (__m512)v);
#elif defined(__AVX2__)
  return (Vec)_mm256_min_ps((__m256)bound, (__m256)v);
#else
  return bound < v ? bound : v;
#endif
}

template <int64_t n>
using Number = std::integral_constant<int64_t, n>;

constexpr int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// kNone: nothing is done, neither on the way in nor on the way out.
enum Activation : int64_t { kNone = -1, kLinear = 0, kRelu = 1, kRelu6 = 2, kHardSwish = 3 };

template <int64_t act>
ALWAYS_INLINE Vec Activate(Vec u) {
  if (act == kRelu) return AtLeast(Vec{}, u);
  if (act == kRelu6) return AtMost(Fill(6), AtLeast(Vec{}, u));
  if (act == kHardSwish) return u * AtMost(Fill(6), AtLeast(Vec{}, u + 3.0f)) * (1.0f / 6);
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

}  // namespace mnet
