// The gradient of a bias: sums down columns.
#include "columns.cuh"

// x (rows, width) -> out (gridDim.y, width): one row of sums for each stripe; of products with `by`, of the shape of x,
// where that is not null. Summing the sums with one stripe gives the whole.
extern "C" __global__ void __launch_bounds__(256)
    column_sums(const real* x, const real* by, real* out, Size rows, Size width) {
  out += Size(blockIdx.y) * width;
  bool whole = width % 4 == 0 && in_quads(x) && in_quads(by);
  sum_columns(rows, width, out, [&](Size row, Size column, Size left) {
    Quad quad = read_quad(x + row * width + column, left, whole);
    if (by) {
      Quad factor = read_quad(by + row * width + column, left, whole);
#pragma unroll
      for (int j = 0; j < 4; j++) quad.at[j] *= factor.at[j];
    }
    return quad;
  });
}
