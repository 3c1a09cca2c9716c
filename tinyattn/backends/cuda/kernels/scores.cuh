// Which query may look at which key, and the memory of heads that lie anyhow.
#pragma once
#include "tiles.cuh"

// An array (batch, heads, rows, columns) of which a block sees one head: element (i, j) at i row + j column. A stride of 0
// means that the axis was broadcast.
struct Strides {
  Size batch, head, row, column;
};

// Kernels get strides as numbers; an argument list reads STRIDES(q), STRIDES(k), ... and its body `q_strides`.
#define STRIDES(name) Size name##_batch, Size name##_head, Size name##_row, Size name##_column
#define GIVEN(name) Strides{name##_batch, name##_head, name##_row, name##_column}

template <typename T> struct Plane {
  T* at;
  Size row, column;
  __device__ T& operator()(int i, int j) const { return at[i * row + j * column]; }
  __device__ operator bool() const { return at != nullptr; }
};

// One head of it; `which` counts the heads of all samples.
template <typename T> __device__ inline Plane<T> plane(T* array, Strides strides, Size which, Size heads) {
  Size start = which / heads * strides.batch + which % heads * strides.head;
  return {array ? array + start : array, strides.row, strides.column};
}

// The same of an array (batch, heads, rows, columns) that is contiguous.
template <typename T> __device__ inline Plane<T> plane(T* array, Size which, Size rows, Size columns) {
  return {array ? array + which * rows * columns : array, columns, 1};
}

// What is added to scores, and what forbids them. Either may be null.
struct Mask {
  Plane<const real> added;
  Plane<const bool> allowed;
  bool causal;

  __device__ bool any() const { return added || allowed || causal; }

  // The score of query i and key j, -inf where it may not look; a NaN does not get past a mask.
  __device__ real operator()(int i, int j, real score) const {
    if (causal && j > i) return -infinity();
    if (allowed && !allowed(i, j)) return -infinity();
    if (!added) return score;
    real more = added(i, j);
    return more == -infinity() ? more : score + more;
  }
};

// `rows` rows of a plane, from `first` on, into a tile. Returns whether this thread met a number that is not finite.
__device__ inline bool load(Tile tile, Plane<const real> from, int first, int rows, int columns) {
  bool odd = false;
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    real value = from(first + i / columns, i % columns);
    odd |= !(value - value == 0);
    tile(i / columns, i % columns) = value;
  }
  return odd;
}

__device__ inline void clear(Tile tile, int rows, int columns) {
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) tile(i / columns, i % columns) = 0;
}

__device__ inline int least(Size a, Size b) { return int(a < b ? a : b); }
