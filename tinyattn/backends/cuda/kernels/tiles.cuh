// Tiles of matrices in shared memory, and their products.
#pragma once
#include "warps.cuh"

// Rows lie `stride` apart. An odd stride puts the elements of a column into different banks of the shared memory, so that
// lanes that each read another row of it need not wait for each other.
struct Tile {
  real* at;
  int stride;
  __device__ real& operator()(int row, int column) const { return at[row * stride + column]; }
};

// Takes one piece of the shared memory after the other.
struct Carver {
  real* next;
  __device__ Tile tile(int rows, int columns) {
    Tile tile = {next, columns | 1};
    next += rows * tile.stride;
    return tile;
  }
  __device__ real* line(int length) {
    real* line = next;
    next += length;
    return line;
  }
};

__device__ inline Carver carver() { return {reinterpret_cast<real*>(block_memory)}; }

// `rows` rows of `columns`, `stride` apart in memory, into a tile. By all threads of the block, which must wait after it.
__device__ inline void load(Tile tile, const real* from, Size stride, int rows, int columns) {
  if (columns % 4 == 0 && stride % 4 == 0 && in_quads(from)) {
    int across = columns / 4;
    for (int i = threadIdx.x; i < rows * across; i += blockDim.x) {
      int row = i / across, column = i % across * 4;
      Quad quad = *reinterpret_cast<const Quad*>(from + row * stride + column);
#pragma unroll
      for (int j = 0; j < 4; j++) tile(row, column + j) = quad.at[j];
    }
    return;
  }
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x)
    tile(i / columns, i % columns) = from[i / columns * stride + i % columns];
}

// use(i, j, sum of a(i, k) b(j, k) over k < depth) for all i < rows and j < columns, by all threads of the block.
//
// A thread works out R x C of them at a time, for which it reads R + C numbers a step instead of 2 R C. Its rows and
// columns lie far apart, so that lanes side by side have columns side by side. HIDE: where a is 0 the product is, even if
// b is infinite or NaN.
template <int R, int C, bool HIDE = false, typename A, typename B, typename F>
__device__ inline void product(int rows, int columns, int depth, A a, B b, F use) {
  int down = (rows + R - 1) / R, across = (columns + C - 1) / C;
  for (int patch = threadIdx.x; patch < down * across; patch += blockDim.x) {
    int is[R], js[C];
    real sums[R][C] = {};
#pragma unroll
    for (int r = 0; r < R; r++) is[r] = patch / across + r * down;
#pragma unroll
    for (int c = 0; c < C; c++) js[c] = patch % across + c * across;
#pragma unroll 2
    for (int k = 0; k < depth; k++) {
      real left[R], right[C];
#pragma unroll
      for (int r = 0; r < R; r++) left[r] = a(is[r] < rows ? is[r] : rows - 1, k);
#pragma unroll
      for (int c = 0; c < C; c++) right[c] = b(js[c] < columns ? js[c] : columns - 1, k);
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int c = 0; c < C; c++) sums[r][c] += HIDE && left[r] == 0 ? real(0) : left[r] * right[c];
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int c = 0; c < C; c++)
        if (is[r] < rows && js[c] < columns) use(is[r], js[c], sums[r][c]);
  }
}

// A product with weights, a, that hide what they are 0 for, where that makes a difference (`careful`).
template <typename A, typename B, typename F>
__device__ inline void weigh(bool careful, int rows, int columns, int depth, A a, B b, F use) {
  if (careful)
    product<2, 2, true>(rows, columns, depth, a, b, use);
  else
    product<2, 2>(rows, columns, depth, a, b, use);
}

// f(row, lane) for every row, by one warp each.
template <typename F> __device__ inline void each_row_by_warp(int rows, F f) {
  for (int row = threadIdx.x / WARP; row < rows; row += blockDim.x / WARP) f(row, threadIdx.x % WARP);
}
