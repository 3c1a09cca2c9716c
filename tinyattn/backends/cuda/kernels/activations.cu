// GELU (Hendrycks and Gimpel 2016), with or without a bias that is added before: gelu(x + bias).
#include "common.cuh"

// x times the normal distribution function at x, or its approximation by tanh.
__device__ inline real gelu_at(real x, bool approximate) {
  if (!approximate) return x * (1 + erf(x * real(0.7071067811865476))) * real(0.5);
  real t = tanh(x * (real(0.7978845608028654) + real(0.7978845608028654 * 0.044715) * x * x));
  return x * (1 + t) * real(0.5);
}

__device__ inline real gelu_slope(real x, bool approximate) {
  if (!approximate) {
    real density = exp(real(-0.5) * x * x) * real(0.3989422804014327);
    return (1 + erf(x * real(0.7071067811865476))) * real(0.5) + x * density;
  }
  // with t = tanh(x s), s = k + c x^2: (1 + t) (1 + (1 - t) x (k + 3 c x^2)) / 2
  real k = real(0.7978845608028654), c = real(0.7978845608028654 * 0.044715), square = x * x;
  real t = tanh(x * (k + c * square));
  return (1 + t) * (1 + (1 - t) * x * (k + 3 * c * square)) * real(0.5);
}

// bias (width) or null; n a multiple of width. slope: the derivative at x + bias, or null where nobody asks for it; it may
// be x itself.
extern "C" __global__ void gelu_forward(
    const real* x, const real* bias, real* out, real* slope, Size n, Size width, Size approximate) {
  bool whole = in_quads(x) && in_quads(out) && (!slope || in_quads(slope));
  for (Size i = 4 * position(); i < n; i += 4 * crowd()) {
    Quad value = read_quad(x + i, n - i, whole), rise;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (bias && i + j < n) value.at[j] += bias[(i + j) % width];
      if (slope) rise.at[j] = gelu_slope(value.at[j], approximate);
      value.at[j] = gelu_at(value.at[j], approximate);
    }
    if (slope) write_quad(slope + i, rise, n - i, whole);
    write_quad(out + i, value, n - i, whole);
  }
}
