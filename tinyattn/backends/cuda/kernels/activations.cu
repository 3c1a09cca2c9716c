// GELU (Hendrycks and Gimpel 2016), with or without a bias that is added before: gelu(x + bias).
#include "columns.cuh"

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

// bias (width) or null; n a multiple of width.
extern "C" __global__ void gelu_forward(
    const real* x, const real* bias, real* out, Size n, Size width, Size approximate) {
  each_element(x, out, n, [&](Size i, real value) {
    return gelu_at(bias ? value + bias[i % width] : value, approximate);
  });
}

// dx = g times the slope at x.
extern "C" __global__ void gelu_backward(const real* g, const real* x, real* dx, Size n, Size approximate) {
  bool whole = in_quads(g) && in_quads(x) && in_quads(dx);
  for (Size i = 4 * position(); i < n; i += 4 * crowd()) {
    Quad slope = read_quad(x + i, n - i, whole), u = read_quad(g + i, n - i, whole);
#pragma unroll
    for (int j = 0; j < 4; j++) slope.at[j] = u.at[j] * gelu_slope(slope.at[j], approximate);
    write_quad(dx + i, slope, n - i, whole);
  }
}

// The same for gelu(x + bias), x (rows, width), and on the way the sums of dx down each stripe of rows, which make up
// the gradient of the bias: sums (gridDim.y, width), to be added up by `column_sums`.
extern "C" __global__ void __launch_bounds__(256) bias_gelu_backward(
    const real* g, const real* x, const real* bias, real* dx, real* sums, Size rows, Size width, Size approximate) {
  bool whole = width % 4 == 0 && in_quads(g) && in_quads(x) && in_quads(dx);
  sum_columns(rows, width, sums + blockIdx.y * width, [&](Size row, Size column, Size left) {
    Size i = row * width + column;
    Quad slope = read_quad(x + i, left, whole), u = read_quad(g + i, left, whole);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      real b = j < left ? bias[column + j] : real(0);
      slope.at[j] = u.at[j] * gelu_slope(slope.at[j] + b, approximate);
    }
    write_quad(dx + i, slope, left, whole);
    return slope;
  });
}
