// The p-norm of many arrays read as one vector, and gradients cut to size by it, without the host ever looking.
#include "tensors.cuh"

constexpr int THREADS = 256;

// One element's part in the sum, for p = 0 the count of what is not zero; in the largest for p = inf, the least for -inf.
__device__ inline double part_of(double x, double p) {
  double size = fabs(x);
  if (p == 0) return size != 0 || size != size ? 1 : 0;
  if (p == 1 || fabs(p) > 1e300) return size;
  return p == 2 ? size * size : pow(size, p);
}

__device__ inline double join(double a, double b, double p) {
  if (fabs(p) <= 1e300) return a + b;
  if (a != a || b != b) return a + b;  // NaN wins
  return (p > 0) == (a > b) ? a : b;
}

__device__ inline double nothing(double p) { return p < -1e300 ? double(infinity()) : 0; }

// All threads' values joined, in a fixed order; known to thread 0.
__device__ inline double join_block(double mine, double p) {
  double* all = reinterpret_cast<double*>(block_memory);
  all[threadIdx.x] = mine;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) all[threadIdx.x] = join(all[threadIdx.x], all[threadIdx.x + half], p);
    __syncthreads();
  }
  return all[0];
}

// parts[block]: what the block's share of the tensors comes to. Sums in float64: they grow long.
extern "C" __global__ void __launch_bounds__(THREADS) norm_parts(const Tensors all, double* parts, double p) {
  Share share = share_of_block(all);
  const real* x = all.at[0][share.tensor];
  double mine = nothing(p);
  bool whole = in_quads(x);
  for (Size i = share.begin + 4 * threadIdx.x; i < share.end; i += 4 * THREADS) {
    Quad quad = read_quad(x + i, share.end - i, whole);
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (i + j < share.end) mine = join(mine, part_of(quad.at[j], p), p);
  }
  mine = join_block(mine, p);
  if (threadIdx.x == 0) parts[blockIdx.x] = mine;
}

// The norm, from all parts (n); one block. For p = 0 a part is what a whole array comes to, and it is counted how many
// come to anything: the norm of norms, as in PyTorch.
extern "C" __global__ void __launch_bounds__(THREADS) norm_whole(const double* parts, real* norm, Size n, double p) {
  double mine = nothing(p);
  for (Size i = threadIdx.x; i < n; i += THREADS) mine = join(mine, p == 0 ? part_of(parts[i], p) : parts[i], p);
  mine = join_block(mine, p);
  if (threadIdx.x != 0) return;
  bool root = p != 0 && p != 1 && fabs(p) <= 1e300;
  norm[0] = real(!root ? mine : p == 2 ? sqrt(mine) : pow(mine, 1 / p));
}

// All tensors times most / norm, unless that is above one.
extern "C" __global__ void clip_to_norm(const Tensors all, const real* norm, double most) {
  double scale = most / (double(norm[0]) + 1e-6);
  if (scale >= 1) return;
  each_in_share(all, [&](real value) { return value * real(scale); });
}

// All tensors between -limit and limit; NaN stays.
extern "C" __global__ void clip_to_value(const Tensors all, double limit) {
  real most = real(limit);
  each_in_share(all, [&](real value) { return value > most ? most : value < -most ? -most : value; });
}
