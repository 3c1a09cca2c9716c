// Rows of a matrix, each done by a team: a part of a warp for short rows, a whole block for long ones.
//
// A thread of the team reads four neighbouring columns, then four more a team's stride further on, and keeps the first
// HELD of them in registers, so that a row of up to HELD times the team comes from memory once however often a kernel
// looks at it. What is beyond is read again (backends/cuda/rows.py chooses teams so that this is rare).
#pragma once
#include "common.cuh"

constexpr int QUADS = sizeof(real) == 4 ? 4 : 2, HELD = 4 * QUADS;  // 16 registers, whatever the type
constexpr int ROW_THREADS = 512;                                     // of a block, at most: so each may have 128

// size: a power of two up to a warp, or the whole block. rank: which of its threads this is.
struct Team {
  int size, rank;
};

__device__ inline Team team_of(Size size) { return {int(size), int(threadIdx.x % size)}; }

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

// The larger of two; NaN is larger than anything.
__device__ inline real larger(real a, real b) { return a > b || a != a ? a : b; }

// x of all threads of the team combined, in an order that does not depend on timing; all of them must call it.
template <typename F> __device__ inline real combine(Team team, real x, F f) {
  for (int distance = (team.size < WARP ? team.size : WARP) / 2; distance > 0; distance /= 2)
    x = f(x, __shfl_xor_sync(ALL_LANES, x, distance));  // without memory in between, and the same bits in each lane
  if (team.size <= WARP) return x;
  real* of_warps = reinterpret_cast<real*>(block_memory);
  if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = x;
  __syncthreads();
  x = of_warps[0];
  for (int warp = 1; warp < team.size / WARP; warp++) x = f(x, of_warps[warp]);
  __syncthreads();  // before the memory is used again
  return x;
}

__device__ inline real team_sum(Team team, real x) { return combine(team, x, [](real a, real b) { return a + b; }); }
__device__ inline real team_max(Team team, real x) { return combine(team, x, larger); }

// One row, as one thread of its team sees it.
struct Row {
  const real* from;
  real held[HELD];

  // i-th element of this thread, which stands in `column`; i = HELD if it is not held
  __device__ real at(int i, int column) const { return i < HELD ? held[i] : from[column]; }
};

__device__ inline Row read_row(Team team, const real* from, int width) {
  Row row;
  row.from = from;
  bool whole = width % 4 == 0 && in_quads(from);
#pragma unroll
  for (int q = 0; q < QUADS; q++) {
    int column = 4 * (q * team.size + team.rank);
    Quad quad = read_quad(from + column, width - column, whole);
#pragma unroll
    for (int j = 0; j < 4; j++) row.held[4 * q + j] = quad.at[j];
  }
  return row;
}

// f(i, column) for every column of this thread.
template <typename F> __device__ inline void each_column(Team team, int width, F f) {
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    int column = 4 * (i / 4 * team.size + team.rank) + i % 4;
    if (column < width) f(i, column);
  }
  for (int start = 4 * (QUADS * team.size + team.rank); start < width; start += 4 * team.size)
    for (int column = start; column < start + 4 && column < width; column++) f(HELD, column);
}

// to[column] = f(i, column) for every column of this thread.
template <typename F> __device__ inline void write_row(Team team, int width, real* to, F f) {
  bool whole = width % 4 == 0 && in_quads(to);
#pragma unroll
  for (int q = 0; q < QUADS; q++) {
    int column = 4 * (q * team.size + team.rank);
    Quad quad = {};
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (column + j < width) quad.at[j] = f(4 * q + j, column + j);
    write_quad(to + column, quad, width - column, whole);
  }
  for (int start = 4 * (QUADS * team.size + team.rank); start < width; start += 4 * team.size)
    for (int column = start; column < start + 4 && column < width; column++) to[column] = f(HELD, column);
}

// f(row, width) for every row, by the team it falls to. Teams that get no row in the last round come along with a width
// of 0, since all lanes of a warp must take part in its sums.
template <typename F> __device__ inline void each_row(Team team, Size rows, Size width, F f) {
  Size teams = blockDim.x / team.size;
  for (Size first = blockIdx.x * teams; first < rows; first += gridDim.x * teams) {
    Size row = first + threadIdx.x / team.size;
    bool there = row < rows;
    f(there ? row : rows - 1, there ? int(width) : 0);
  }
}
