// Sums and maxima over the threads of a warp, which tell each other their numbers without memory in between.
#pragma once
#include "common.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

// The larger of two; NaN is larger than anything.
__device__ inline real larger(real a, real b) { return a > b || a != a ? a : b; }
__device__ inline real plus(real a, real b) { return a + b; }

// What `size` lanes side by side (a power of two) have, combined: the same bits in each of them. All lanes must call it.
template <typename F> __device__ inline real combine_lanes(int size, real x, F f) {
  for (int distance = size / 2; distance > 0; distance /= 2) x = f(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}
