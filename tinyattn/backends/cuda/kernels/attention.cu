// Scaled dot-product attention in general: masks, dropout of the weights, cross-attention, heads that lie anyhow. What the
// way back needs is saved: e (batch, heads, queries, keys), the exponentials of the scores, and their sums.
//
// A block does some queries of a head (or some keys, for their gradients), and walks along the other axis tile by tile;
// where a head is short, there is but one tile. Products are made in shared memory.
#include "scores.cuh"

// out = softmax(q k' scale + mask) v. A query that may look at nothing gets zeros.
extern "C" __global__ void __launch_bounds__(256) attention_forward(
    const real* q, const real* k, const real* v, const real* mask, const bool* allowed, const real* keep, real* out,
    real* e, real* total, Size queries, Size keys, Size dim, Size value_dim, Size heads, Size tile, double scale,
    STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(mask), STRIDES(allowed), STRIDES(out)) {
  Size tiles = (queries + tile - 1) / tile, which = blockIdx.x / tiles;
  int first = int(blockIdx.x % tiles * tile), rows = least(tile, queries - first);
  auto qs = plane(q, GIVEN(q), which, heads), ks = plane(k, GIVEN(k), which, heads), vs = plane(v, GIVEN(v), which, heads);
  auto ys = plane(out, GIVEN(out), which, heads), es = plane(e, which, queries, keys);
  auto kept = plane(keep, which, queries, keys);
  Mask masked = {plane(mask, GIVEN(mask), which, heads), plane(allowed, GIVEN(allowed), which, heads), false};

  Carver memory = carver();
  Tile mine = memory.tile(tile, dim), other = memory.tile(tile, dim > value_dim ? dim : value_dim);
  Tile weights = memory.tile(tile, tile), sums = memory.tile(tile, value_dim);
  real* totals = memory.line(tile);
  load(mine, qs, first, rows, dim);
  clear(sums, rows, value_dim);
  for (int start = 0; start < keys; start += tile) {
    int columns = least(tile, keys - start);
    load(other, ks, start, columns, dim);
    __syncthreads();
    product<4, 4>(rows, columns, dim, mine, other, [&](int i, int j, real sum) {
      es(first + i, start + j) = masked(first + i, start + j, sum * real(scale));
    });
    __syncthreads();
  }
  each_row_by_warp(rows, [&](int i, int lane) {  // scores become exponentials, where they lie
    real top = -infinity(), sum = 0;
    for (int j = lane; j < keys; j += WARP) top = larger(top, es(first + i, j));
    top = warp_max(top);
    top = top == -infinity() ? real(0) : top;  // it may look at nothing: exp(-inf) is 0, not NaN
    for (int j = lane; j < keys; j += WARP) {
      real more = exp(es(first + i, j) - top);
      es(first + i, j) = more;
      sum += more;
    }
    sum = warp_sum(sum);
    if (lane == 0) totals[i] = total[which * queries + first + i] = sum == 0 ? real(1) : sum;
  });
  __syncthreads();
  for (int start = 0; start < keys; start += tile) {
    int columns = least(tile, keys - start);
    bool odd = load(other, vs, start, columns, value_dim);
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      int row = i / columns, column = i % columns;
      real weight = es(first + row, start + column);
      weights(row, column) = kept ? weight * kept(first + row, start + column) : weight;
    }
    bool careful = __syncthreads_or(odd) && masked.any();
    weigh(careful, rows, value_dim, columns, weights, [&](int d, int j) { return other(j, d); },
          [&](int i, int d, real sum) { sums(i, d) += sum; });
    __syncthreads();
  }
  for (int i = threadIdx.x; i < rows * value_dim; i += blockDim.x) {
    int row = i / int(value_dim), d = i % int(value_dim);
    ys(first + row, d) = sums(row, d) / totals[row];
  }
}

// The gradient at scores, g_i over the sum of its row: u (rows, value_dim), and its product with the output: along.
__device__ inline void load_slopes(
    Tile u, real* along, Plane<const real> g, Plane<const real> out, const real* total, int first, int rows, int columns) {
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x)
    u(i / columns, i % columns) = g(first + i / columns, i % columns) / total[first + i / columns];
  if (!along) return;
  __syncthreads();
  each_row_by_warp(rows, [&](int i, int lane) {
    real sum = 0;
    for (int d = lane; d < columns; d += WARP) sum += u(i, d) * out(first + i, d);
    sum = warp_sum(sum);
    if (lane == 0) along[i] = sum;
  });
}

// dq, and the gradients of the scores, which are those of an additive mask: dscores (batch, heads, queries, keys). That
// of score ij is w_ij (keep_ij g_i . v_j - g_i . out_i). masked: whether some of them are hidden.
extern "C" __global__ void __launch_bounds__(256) attention_backward_queries(
    const real* g, const real* k, const real* v, const real* out, const real* e, const real* total, const real* keep,
    real* dq, real* dscores, Size queries, Size keys, Size dim, Size value_dim, Size heads, Size tile, double scale,
    Size masked, STRIDES(g), STRIDES(k), STRIDES(v), STRIDES(out), STRIDES(dq)) {
  Size tiles = (queries + tile - 1) / tile, which = blockIdx.x / tiles;
  int first = int(blockIdx.x % tiles * tile), rows = least(tile, queries - first);
  auto gs = plane(g, GIVEN(g), which, heads), ks = plane(k, GIVEN(k), which, heads), vs = plane(v, GIVEN(v), which, heads);
  auto ys = plane(out, GIVEN(out), which, heads), es = plane(e, which, queries, keys);
  auto kept = plane(keep, which, queries, keys);
  auto dqs = plane(dq, GIVEN(dq), which, heads), ds = plane(dscores, which, queries, keys);

  Carver memory = carver();
  Tile u = memory.tile(tile, value_dim), other = memory.tile(tile, dim > value_dim ? dim : value_dim);
  Tile slopes = memory.tile(tile, tile), sums = memory.tile(tile, dim);
  real* along = memory.line(tile);
  load_slopes(u, along, gs, ys, total + which * queries, first, rows, value_dim);
  clear(sums, rows, dim);
  for (int start = 0; start < keys; start += tile) {
    int columns = least(tile, keys - start);
    load(other, vs, start, columns, value_dim);
    __syncthreads();
    product<4, 4>(rows, columns, value_dim, u, other, [&](int i, int j, real sum) {
      real weight = es(first + i, start + j);
      if (kept) sum *= kept(first + i, start + j);
      real slope = masked && weight == 0 ? real(0) : weight * (sum - along[i]);
      ds(first + i, start + j) = slopes(i, j) = slope;
    });
    __syncthreads();
    bool odd = load(other, ks, start, columns, dim);
    bool careful = __syncthreads_or(odd) && masked;
    weigh(careful, rows, dim, columns, slopes, [&](int d, int j) { return other(j, d); },
          [&](int i, int d, real sum) { sums(i, d) += sum; });
    __syncthreads();
  }
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x)
    dqs(first + i / int(dim), i % int(dim)) = sums(i / int(dim), i % int(dim)) * real(scale);
}

// dk and dv, from what `attention_backward_queries` made of the scores.
extern "C" __global__ void __launch_bounds__(256) attention_backward_keys(
    const real* g, const real* q, const real* e, const real* total, const real* keep, const real* dscores, real* dk,
    real* dv, Size queries, Size keys, Size dim, Size value_dim, Size heads, Size tile, double scale, Size masked,
    STRIDES(g), STRIDES(q), STRIDES(dk), STRIDES(dv)) {
  Size tiles = (keys + tile - 1) / tile, which = blockIdx.x / tiles;
  int first = int(blockIdx.x % tiles * tile), columns = least(tile, keys - first);
  auto gs = plane(g, GIVEN(g), which, heads), qs = plane(q, GIVEN(q), which, heads);
  auto es = plane(e, which, queries, keys), ds = plane(dscores, which, queries, keys);
  auto kept = plane(keep, which, queries, keys);
  auto dks = plane(dk, GIVEN(dk), which, heads), dvs = plane(dv, GIVEN(dv), which, heads);

  Carver memory = carver();
  Tile other = memory.tile(tile, dim > value_dim ? dim : value_dim), weights = memory.tile(tile, tile);
  Tile k_sums = memory.tile(tile, dim), v_sums = memory.tile(tile, value_dim);
  clear(k_sums, columns, dim);
  clear(v_sums, columns, value_dim);
  auto load_weights = [&](Plane<const real> from, Plane<const real> times, int start, int rows) {
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
      int row = i / columns, column = i % columns;
      real weight = from(start + row, first + column);
      weights(row, column) = times ? weight * times(start + row, first + column) : weight;
    }
  };
  auto transposed = [&](int j, int i) { return weights(i, j); };
  auto down = [&](int d, int i) { return other(i, d); };
  for (int start = 0; start < queries; start += tile) {
    int rows = least(tile, queries - start);
    load_weights(es, kept, start, rows);
    load_slopes(other, nullptr, gs, gs, total + which * queries, start, rows, value_dim);
    __syncthreads();
    product<2, 2>(columns, value_dim, rows, transposed, down, [&](int j, int d, real sum) { v_sums(j, d) += sum; });
    __syncthreads();
    load_weights(ds, Plane<const real>{nullptr, 0, 0}, start, rows);
    bool odd = load(other, qs, start, rows, dim);
    bool careful = __syncthreads_or(odd) && masked;
    weigh(careful, columns, dim, rows, transposed, down, [&](int j, int d, real sum) { k_sums(j, d) += sum; });
    __syncthreads();
  }
  for (int i = threadIdx.x; i < columns * dim; i += blockDim.x)
    dks(first + i / int(dim), i % int(dim)) = k_sums(i / int(dim), i % int(dim)) * real(scale);
  for (int i = threadIdx.x; i < columns * value_dim; i += blockDim.x)
    dvs(first + i / int(value_dim), i % int(value_dim)) = v_sums(i / int(value_dim), i % int(value_dim));
}
