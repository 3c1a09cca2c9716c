// Attention one tile of scores at a time, for long rows: no score ever leaves the block that made it, and memory grows with
// the tokens, not with their square. The softmax of a row is built up tile by tile (Milakov and Gimelshein 2018, "Online
// normalizer calculation for softmax"); on the way back the scores are computed again (Dao et al. 2022,
// "FlashAttention"), once for the gradients of queries and once for those of keys and values, so that no two blocks ever
// add to one number.
#include "scores.cuh"

// out = softmax(q k' scale + mask) v, and logs (batch, heads, queries): the logarithm of the sum of exponentials.
extern "C" __global__ void __launch_bounds__(256, 2) tiled_forward(
    const real* q, const real* k, const real* v, const real* mask, const bool* allowed, real* out, real* logs,
    Size queries, Size keys, Size dim, Size value_dim, Size heads, Size tile, Size causal, double scale, STRIDES(q),
    STRIDES(k), STRIDES(v), STRIDES(mask), STRIDES(allowed), STRIDES(out)) {
  Size tiles = (queries + tile - 1) / tile, which = blockIdx.x / tiles;
  int first = int(blockIdx.x % tiles * tile), rows = least(tile, queries - first);
  auto qs = plane(q, GIVEN(q), which, heads), ks = plane(k, GIVEN(k), which, heads), vs = plane(v, GIVEN(v), which, heads);
  auto ys = plane(out, GIVEN(out), which, heads);
  Mask masked = {plane(mask, GIVEN(mask), which, heads), plane(allowed, GIVEN(allowed), which, heads), causal != 0};

  Carver memory = carver();
  Tile mine = memory.tile(tile, dim), other = memory.tile(tile, dim > value_dim ? dim : value_dim);
  Tile s = memory.tile(tile, tile), sums = memory.tile(tile, value_dim);
  real *tops = memory.line(tile), *totals = memory.line(tile), *fades = memory.line(tile);
  load(mine, qs, first, rows, dim);
  clear(sums, rows, value_dim);
  for (int i = threadIdx.x; i < rows; i += blockDim.x) tops[i] = -infinity(), totals[i] = 0;
  int seen = causal ? least(keys, first + rows) : int(keys);
  for (int start = 0; start < seen; start += tile) {
    int columns = least(tile, seen - start);
    load(other, ks, start, columns, dim);
    __syncthreads();
    product<4, 4>(rows, columns, dim, mine, other, [&](int i, int j, real sum) {
      s(i, j) = masked(first + i, start + j, sum * real(scale));
    });
    __syncthreads();
    bool odd = load(other, vs, start, columns, value_dim);
    each_row_by_warp(rows, [&](int i, int lane) {
      real top = tops[i], sum = 0;
      for (int j = lane; j < columns; j += WARP) top = larger(top, s(i, j));
      top = warp_max(top);
      real shift = top == -infinity() ? real(0) : top;  // nothing seen yet: exp(-inf) is 0, not NaN
      for (int j = lane; j < columns; j += WARP) {
        s(i, j) = exp(s(i, j) - shift);
        sum += s(i, j);
      }
      sum = warp_sum(sum);
      if (lane != 0) return;
      fades[i] = exp(tops[i] - shift);  // what came before was relative to a lower top
      totals[i] = totals[i] * fades[i] + sum;
      tops[i] = top;
    });
    bool careful = __syncthreads_or(odd) && masked.any();
    weigh(careful, rows, value_dim, columns, s, [&](int d, int j) { return other(j, d); },
          [&](int i, int d, real sum) { sums(i, d) = sums(i, d) * fades[i] + sum; });
    __syncthreads();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows * value_dim; i += blockDim.x) {
    int row = i / int(value_dim), d = i % int(value_dim);
    ys(first + row, d) = totals[row] == 0 ? real(0) : sums(row, d) / totals[row];  // 0: it may look at nothing
  }
  for (int i = threadIdx.x; i < rows; i += blockDim.x)
    logs[which * queries + first + i] = totals[i] == 0 ? real(0) : tops[i] + log(totals[i]);
}

// Rows of the gradient, and of each its product with the output.
__device__ inline void load_slopes(
    Tile u, real* along, Plane<const real> g, Plane<const real> out, int first, int rows, int columns) {
  load(u, g, first, rows, columns);
  each_row_by_warp(rows, [&](int i, int lane) {
    real sum = 0;
    for (int d = lane; d < columns; d += WARP) sum += g(first + i, d) * out(first + i, d);
    sum = warp_sum(sum);
    if (lane == 0) along[i] = sum;
  });
}

// The gradient of score ij, from its weight: w_ij (g_i . v_j - g_i . out_i); 0 where a mask hides a NaN.
__device__ inline real score_slope(real weight, real sum, real along, bool masked) {
  return masked && weight == 0 ? real(0) : weight * (sum - along);
}

extern "C" __global__ void __launch_bounds__(256, 2) tiled_backward_queries(
    const real* g, const real* q, const real* k, const real* v, const real* out, const real* logs, const real* mask,
    const bool* allowed, real* dq, Size queries, Size keys, Size dim, Size value_dim, Size heads, Size tile, Size causal,
    double scale, STRIDES(g), STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(out), STRIDES(mask), STRIDES(allowed),
    STRIDES(dq)) {
  Size tiles = (queries + tile - 1) / tile, which = blockIdx.x / tiles;
  int first = int(blockIdx.x % tiles * tile), rows = least(tile, queries - first);
  auto gs = plane(g, GIVEN(g), which, heads), qs = plane(q, GIVEN(q), which, heads);
  auto ks = plane(k, GIVEN(k), which, heads), vs = plane(v, GIVEN(v), which, heads);
  auto ys = plane(out, GIVEN(out), which, heads);
  auto dqs = plane(dq, GIVEN(dq), which, heads);
  Mask masked = {plane(mask, GIVEN(mask), which, heads), plane(allowed, GIVEN(allowed), which, heads), causal != 0};

  Carver memory = carver();
  Tile mine = memory.tile(tile, dim), u = memory.tile(tile, value_dim), sums = memory.tile(tile, dim);
  Tile other = memory.tile(tile, dim > value_dim ? dim : value_dim), s = memory.tile(tile, tile);
  real *along = memory.line(tile), *log = memory.line(tile);
  load(mine, qs, first, rows, dim);
  load_slopes(u, along, gs, ys, first, rows, value_dim);
  clear(sums, rows, dim);
  for (int i = threadIdx.x; i < rows; i += blockDim.x) log[i] = logs[which * queries + first + i];
  int seen = causal ? least(keys, first + rows) : int(keys);
  for (int start = 0; start < seen; start += tile) {
    int columns = least(tile, seen - start);
    load(other, ks, start, columns, dim);
    __syncthreads();
    product<4, 4>(rows, columns, dim, mine, other, [&](int i, int j, real sum) {
      s(i, j) = exp(masked(first + i, start + j, sum * real(scale)) - log[i]);
    });
    __syncthreads();
    load(other, vs, start, columns, value_dim);
    __syncthreads();
    product<4, 4>(rows, columns, value_dim, u, other, [&](int i, int j, real sum) {
      s(i, j) = score_slope(s(i, j), sum, along[i], masked.any());
    });
    __syncthreads();
    bool odd = load(other, ks, start, columns, dim);
    bool careful = __syncthreads_or(odd) && masked.any();
    weigh(careful, rows, dim, columns, s, [&](int d, int j) { return other(j, d); },
          [&](int i, int d, real sum) { sums(i, d) += sum; });
    __syncthreads();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x)
    dqs(first + i / int(dim), i % int(dim)) = sums(i / int(dim), i % int(dim)) * real(scale);
}

extern "C" __global__ void __launch_bounds__(256, 2) tiled_backward_keys(
    const real* g, const real* q, const real* k, const real* v, const real* out, const real* logs, const real* mask,
    const bool* allowed, real* dk, real* dv, Size queries, Size keys, Size dim, Size value_dim, Size heads, Size tile,
    Size causal, double scale, STRIDES(g), STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(out), STRIDES(mask),
    STRIDES(allowed), STRIDES(dk), STRIDES(dv)) {
  Size tiles = (keys + tile - 1) / tile, which = blockIdx.x / tiles;
  int first = int(blockIdx.x % tiles * tile), columns = least(tile, keys - first);
  auto gs = plane(g, GIVEN(g), which, heads), qs = plane(q, GIVEN(q), which, heads);
  auto ks = plane(k, GIVEN(k), which, heads), vs = plane(v, GIVEN(v), which, heads);
  auto ys = plane(out, GIVEN(out), which, heads);
  auto dks = plane(dk, GIVEN(dk), which, heads), dvs = plane(dv, GIVEN(dv), which, heads);
  Mask masked = {plane(mask, GIVEN(mask), which, heads), plane(allowed, GIVEN(allowed), which, heads), causal != 0};

  Carver memory = carver();
  Tile k_mine = memory.tile(tile, dim), v_mine = memory.tile(tile, value_dim);
  Tile k_sums = memory.tile(tile, dim), v_sums = memory.tile(tile, value_dim);
  Tile other = memory.tile(tile, dim), u = memory.tile(tile, value_dim), s = memory.tile(tile, tile);
  real *along = memory.line(tile), *log = memory.line(tile);
  load(k_mine, ks, first, columns, dim);
  load(v_mine, vs, first, columns, value_dim);
  clear(k_sums, columns, dim);
  clear(v_sums, columns, value_dim);
  auto transposed = [&](int j, int i) { return s(i, j); };
  for (int start = causal ? first : 0; start < queries; start += tile) {  // earlier queries do not see these keys
    int rows = least(tile, queries - start);
    bool odd = load(other, qs, start, rows, dim);
    load_slopes(u, along, gs, ys, start, rows, value_dim);
    for (int i = threadIdx.x; i < rows; i += blockDim.x) log[i] = logs[which * queries + start + i];
    bool careful = __syncthreads_or(odd) && masked.any();
    product<4, 4>(rows, columns, dim, other, k_mine, [&](int i, int j, real sum) {
      s(i, j) = exp(masked(start + i, first + j, sum * real(scale)) - log[i]);
    });
    __syncthreads();
    product<2, 2>(columns, value_dim, rows, transposed, [&](int d, int i) { return u(i, d); },
                  [&](int j, int d, real sum) { v_sums(j, d) += sum; });
    __syncthreads();
    product<4, 4>(rows, columns, value_dim, u, v_mine, [&](int i, int j, real sum) {
      s(i, j) = score_slope(s(i, j), sum, along[i], masked.any());
    });
    __syncthreads();
    weigh(careful, columns, dim, rows, transposed, [&](int d, int i) { return other(i, d); },
          [&](int j, int d, real sum) { k_sums(j, d) += sum; });
    __syncthreads();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < columns * dim; i += blockDim.x)
    dks(first + i / int(dim), i % int(dim)) = k_sums(i / int(dim), i % int(dim)) * real(scale);
  for (int i = threadIdx.x; i < columns * value_dim; i += blockDim.x)
    dvs(first + i / int(value_dim), i % int(value_dim)) = v_sums(i / int(value_dim), i % int(value_dim));
}
