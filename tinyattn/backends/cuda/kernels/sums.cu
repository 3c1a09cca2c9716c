// Sums down the columns of a matrix (the gradient of a bias), in an order that does not depend on timing.
//
// A block is 32 x 8 threads: 32 side by side take four columns each, which makes a read of 512 bytes, and the 8 take every
// eighth row of the block's stripe. blockIdx.x says which columns, blockIdx.y which stripe of gridDim.y.
#include "common.cuh"

constexpr int ACROSS = 32, DOWN = 8;
constexpr int AHEAD = 32 / sizeof(real);  // rows that a thread reads before it adds them: as many reads are under way
constexpr int CHAIN = 128 / AHEAD;        // times that before they join its sum, in which small numbers would be lost

// x (gridDim.z, rows, width) -> out (gridDim.z, gridDim.y, width): of each matrix one row of sums for each stripe; of
// products with `by`, of the shape of x, where that is not null. Summing the sums with one stripe gives the whole.
extern "C" __global__ void __launch_bounds__(256)
    column_sums(const real* x, const real* by, real* out, Size rows, Size width) {
  int lane = threadIdx.x % ACROSS, line = threadIdx.x / ACROSS;
  Size column = 4 * (Size(blockIdx.x) * ACROSS + lane), left = width - column;  // of four columns, `left` exist, or none
  bool whole = width % 4 == 0 && in_quads(x) && in_quads(by);
  Size step = Size(gridDim.y) * DOWN, start = blockIdx.z * rows * width + column;
  Quad sum = {}, few = {};
  for (Size row = Size(blockIdx.y) * DOWN + line, count = 0; row < rows; row += AHEAD * step) {
    Quad more[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
      more[i] = read_quad(x + start + (row + i * step) * width, row + i * step < rows ? left : 0, whole);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      Quad factor;
      if (by) factor = read_quad(by + start + (row + i * step) * width, row + i * step < rows ? left : 0, whole);
#pragma unroll
      for (int j = 0; j < 4; j++) few.at[j] += by ? more[i].at[j] * factor.at[j] : more[i].at[j];
    }
    if (++count % CHAIN) continue;
#pragma unroll
    for (int j = 0; j < 4; j++) sum.at[j] += few.at[j], few.at[j] = 0;
  }
#pragma unroll
  for (int j = 0; j < 4; j++) sum.at[j] += few.at[j];
  Quad* of_lines = reinterpret_cast<Quad*>(block_memory);  // (DOWN, ACROSS)
  of_lines[threadIdx.x] = sum;
  __syncthreads();
  if (line != 0 || left <= 0) return;
  for (int other = 1; other < DOWN; other++) {
    Quad more = of_lines[other * ACROSS + lane];
#pragma unroll
    for (int j = 0; j < 4; j++) sum.at[j] += more.at[j];
  }
  write_quad(out + (Size(blockIdx.z) * gridDim.y + blockIdx.y) * width + column, sum, left, false);
}
