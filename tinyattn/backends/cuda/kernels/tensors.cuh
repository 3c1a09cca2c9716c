// Many tensors in one launch: a block is told its place in the row of all blocks, and looks up what it has to do.
//
// The list of tensors is an argument of the kernel, handed over by value. So nothing is copied to the GPU beforehand, and
// a captured launch keeps the addresses it had. All arguments of a kernel together have room for 4 KB, hence MOST.
#pragma once
#include "common.cuh"

constexpr int MOST = 64, ROLES = 5;

// As `_LIST` in ../tensors.py has it.
struct Tensors {
  real* at[ROLES][MOST];    // at[r][i]: the array of tensor i in role r, which the kernel gives names to; may be null
  const float* step[MOST];  // the number of the step that tensor i is in, where a kernel asks for it
  Size size[MOST];          // elements of tensor i, in each of its arrays
  int first[MOST];          // the block that does the first elements of tensor i; those after it do the others
  Size count;               // of tensors
  Size share;               // elements that a block does, a multiple of four
};

// What one block does: elements `begin` up to, but without, `end` of a tensor.
struct Share {
  int tensor;
  Size begin, end;
};

__device__ inline Share share_of_block(const Tensors& all) {
  int low = 0, high = int(all.count), block = int(blockIdx.x);  // all.first[low] <= block < all.first[high]
  while (high - low > 1) {
    int middle = (low + high) / 2;
    (all.first[middle] <= block ? low : high) = middle;
  }
  Size begin = Size(block - all.first[low]) * all.share, end = begin + all.share;
  return {low, begin, end < all.size[low] ? end : all.size[low]};
}

// x[i] = f(x[i]) for the block's share of the tensors in role 0.
template <typename F> __device__ inline void each_in_share(const Tensors& all, F f) {
  Share share = share_of_block(all);
  real* x = all.at[0][share.tensor];
  bool whole = in_quads(x);
  for (Size i = share.begin + 4 * threadIdx.x; i < share.end; i += 4 * blockDim.x) {
    Quad quad = read_quad(x + i, share.end - i, whole);
#pragma unroll
    for (int j = 0; j < 4; j++) quad.at[j] = f(quad.at[j]);
    write_quad(x + i, quad, share.end - i, whole);
  }
}
