// Attention of query, key and value that lie side by side, as one projection gives them: qkv (batch, tokens, 3 heads dim)
// -> out (batch, tokens, heads dim). For short rows: one block does a head of a sample, and query, key, value and all
// scores of it stay in shared memory. Nothing is copied into another order on the way in or back, and what the way back
// needs of the softmax is one number a query: logs (batch, heads, tokens), the logarithm of the sum of exponentials.
//
// At 49 tokens and a head of 16 this reads 9.4 KB and writes 3.3 KB a head; the scores, 9.6 KB, never leave the block.
#include "tiles.cuh"

// Where the rows of one head begin, and how far apart they are.
struct Head {
  Size sample, head, tokens, heads, dim;
  __device__ Size packed(int part) const { return (sample * tokens * 3 + part) * heads * dim + head * dim; }
  __device__ Size packed_stride() const { return 3 * heads * dim; }
  __device__ Size joined() const { return (sample * tokens * heads + head) * dim; }
  __device__ Size joined_stride() const { return heads * dim; }
  __device__ Size log() const { return (sample * heads + head) * tokens; }
};

__device__ inline Head own_head(Size tokens, Size heads, Size dim) {
  return {blockIdx.x / heads, blockIdx.x % heads, tokens, heads, dim};
}

extern "C" __global__ void __launch_bounds__(256) packed_attention_forward(
    const real* qkv, real* out, real* logs, Size tokens, Size heads, Size dim, double scale) {
  Head head = own_head(tokens, heads, dim);
  int n = int(tokens), width = int(dim);
  Carver memory = carver();
  Tile q = memory.tile(n, width), k = memory.tile(n, width), v = memory.tile(n, width), s = memory.tile(n, n);
  load(q, qkv + head.packed(0), head.packed_stride(), n, width);
  load(k, qkv + head.packed(1), head.packed_stride(), n, width);
  load(v, qkv + head.packed(2), head.packed_stride(), n, width);
  __syncthreads();
  product<4, 4>(n, n, width, q, k, [&](int i, int j, real sum) { s(i, j) = sum * real(scale); });
  __syncthreads();
  each_row_by_warp(n, [&](int i, int lane) {  // scores become weights
    real top = -infinity(), total = 0;
    for (int j = lane; j < n; j += WARP) top = larger(top, s(i, j));
    top = warp_max(top);
    for (int j = lane; j < n; j += WARP) {
      s(i, j) = exp(s(i, j) - top);
      total += s(i, j);
    }
    total = warp_sum(total);
    for (int j = lane; j < n; j += WARP) s(i, j) /= total;
    if (lane == 0) logs[head.log() + i] = top + log(total);
  });
  __syncthreads();
  product<2, 2>(n, width, n, s, [&](int d, int j) { return v(j, d); }, [&](int i, int d, real sum) {
    out[head.joined() + i * head.joined_stride() + d] = sum;
  });
}

// The gradient of qkv. With weights w, that of score ij is w_ij (g_i . v_j - g_i . out_i) scale.
extern "C" __global__ void __launch_bounds__(256) packed_attention_backward(
    const real* g, const real* qkv, const real* out, const real* logs, real* dqkv, Size tokens, Size heads, Size dim,
    double scale) {
  Head head = own_head(tokens, heads, dim);
  int n = int(tokens), width = int(dim);
  Carver memory = carver();
  Tile q = memory.tile(n, width), k = memory.tile(n, width), v = memory.tile(n, width), u = memory.tile(n, width);
  Tile s = memory.tile(n, n);
  real* along = memory.line(n);
  load(q, qkv + head.packed(0), head.packed_stride(), n, width);
  load(k, qkv + head.packed(1), head.packed_stride(), n, width);
  load(v, qkv + head.packed(2), head.packed_stride(), n, width);
  load(u, g + head.joined(), head.joined_stride(), n, width);
  __syncthreads();
  const real* log = logs + head.log();
  product<4, 4>(n, n, width, q, k, [&](int i, int j, real sum) { s(i, j) = exp(sum * real(scale) - log[i]); });
  each_row_by_warp(n, [&](int i, int lane) {
    const real* y = out + head.joined() + i * head.joined_stride();
    real sum = 0;
    for (int d = lane; d < width; d += WARP) sum += u(i, d) * y[d];
    sum = warp_sum(sum);
    if (lane == 0) along[i] = sum;
  });
  __syncthreads();
  auto write = [&](int part, int i, int d, real sum) { dqkv[head.packed(part) + i * head.packed_stride() + d] = sum; };
  product<2, 2>(n, width, n, [&](int j, int i) { return s(i, j); }, [&](int d, int i) { return u(i, d); },
                [&](int j, int d, real sum) { write(2, j, d, sum); });
  __syncthreads();
  product<4, 4>(n, n, width, u, v, [&](int i, int j, real sum) { s(i, j) *= (sum - along[i]) * real(scale); });
  __syncthreads();
  product<2, 2>(n, width, n, s, [&](int d, int j) { return k(j, d); },
                [&](int i, int d, real sum) { write(0, i, d, sum); });
  product<2, 2>(n, width, n, [&](int j, int i) { return s(i, j); }, [&](int d, int i) { return q(i, d); },
                [&](int j, int d, real sum) { write(1, j, d, sum); });
}
