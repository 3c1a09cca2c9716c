// What every kernel here builds on.
//
// A source is compiled once for float32 and once for float64: `real` is which (-Dreal=float). Integers that kernels are
// given are `long long` and numbers `double`, which is what Python's become on the way.
#pragma once

typedef long long Size;
typedef unsigned long long Bits;

// All shared memory of a block; how much there is, the launch says. Used under other names and types.
alignas(16) extern __shared__ unsigned char block_memory[];

__device__ inline real infinity() { return -log(real(0)); }

// Threads of all blocks in one row: where this one stands, and how many there are.
__device__ inline Size position() { return Size(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Size crowd() { return Size(gridDim.x) * blockDim.x; }

// Four neighbours, which a thread reads or writes in one go (float32) or two: what the memory of a GPU likes best.
struct alignas(16) Quad {
  real at[4];
};

__device__ inline bool in_quads(const void* pointer) { return reinterpret_cast<Bits>(pointer) % 16 == 0; }

// from[0] to from[3], of which only `left` exist; the others read as zero. whole: one read will do.
__device__ inline Quad read_quad(const real* from, Size left, bool whole) {
  if (whole && left >= 4) return *reinterpret_cast<const Quad*>(from);
  Quad quad = {};
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (j < left) quad.at[j] = from[j];
  return quad;
}

__device__ inline void write_quad(real* to, const Quad& quad, Size left, bool whole) {
  if (whole && left >= 4) {
    *reinterpret_cast<Quad*>(to) = quad;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (j < left) to[j] = quad.at[j];
}
