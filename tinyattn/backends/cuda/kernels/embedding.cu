// Looking rows of a table up, and the gradient of that: the vectors that came from one row added up.
//
// Floats must not be added by atomics, whose order changes from run to run. So the look-ups are sorted by row, stably,
// and neighbours are added up: a thread takes a column of one stretch of the sorted list, from left to right. A row whose
// look-ups reach over the end of a stretch is put together from parts by a second launch.
#include "common.cuh"

constexpr int DIGITS = 256;  // of the radix sort: a byte at a time

// out[i] = weight[index[i]]: weight (rows, dim), index (count), out (count, dim). Out of range: zeros.
extern "C" __global__ void embedding_rows(
    const real* weight, const Size* index, real* out, Size count, Size rows, Size dim) {
  bool whole = dim % 4 == 0 && in_quads(weight) && in_quads(out);
  Size across = (dim + 3) / 4;
  for (Size i = position(); i < count * across; i += crowd()) {
    Size place = i / across, column = i % across * 4, row = index[place];
    bool there = row >= 0 && row < rows;
    Quad quad = there ? read_quad(weight + row * dim + column, dim - column, whole) : Quad{};
    write_quad(out + place * dim + column, quad, dim - column, whole);
  }
}

// --- sorting by row ---

// Places before they are sorted are just numbered: a null `order` stands for 0, 1, 2 ...
__device__ inline Size place_at(const int* order, Size i) { return order ? order[i] : i; }

// Thread d walks through the block's stretch of keys and calls f(place) for each whose digit is d. All threads read the
// same key at the same time, from shared memory, which costs no more than one of them reading it.
template <typename F>
__device__ inline void each_of_my_digit(const Size* keys, const int* order, Size count, Size stretch, Size shift, F f) {
  int* digits = reinterpret_cast<int*>(block_memory);
  Size start = blockIdx.x * stretch;
  int length = int(count - start < stretch ? count - start : stretch);
  for (int i = threadIdx.x; i < length; i += DIGITS)
    digits[i] = int(Bits(keys[place_at(order, start + i)]) >> shift & (DIGITS - 1));
  __syncthreads();
  for (int i = 0; i < length; i++)
    if (digits[i] == threadIdx.x) f(int(place_at(order, start + i)));
}

// counts (DIGITS, stretches): how often each digit occurs in each stretch.
extern "C" __global__ void __launch_bounds__(DIGITS) sort_count(
    const Size* keys, const int* order, int* counts, Size count, Size stretch, Size shift) {
  int mine = 0;
  each_of_my_digit(keys, order, count, stretch, shift, [&](int) { mine++; });
  counts[Size(threadIdx.x) * gridDim.x + blockIdx.x] = mine;
}

// counts (n) become the sums of all before them. One block: each thread adds up a stretch, then the stretches are added.
extern "C" __global__ void __launch_bounds__(1024) sort_scan(int* counts, Size n) {
  int* sums = reinterpret_cast<int*>(block_memory);
  Size stretch = (n + blockDim.x - 1) / blockDim.x, start = threadIdx.x * stretch;
  Size end = start + stretch < n ? start + stretch : n;
  int sum = 0;
  for (Size i = start; i < end; i++) sum += counts[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int reach = 1; reach < blockDim.x; reach *= 2) {  // sums of 2, 4, 8 ... up to here
    int before = threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
  sum = sums[threadIdx.x] - sum;
  for (Size i = start; i < end; i++) {
    int own = counts[i];
    counts[i] = sum;
    sum += own;
  }
}

// The order in which digits ascend, and keys of one digit keep the order they had.
extern "C" __global__ void __launch_bounds__(DIGITS) sort_place(
    const Size* keys, const int* order, const int* counts, int* sorted, Size count, Size stretch, Size shift) {
  int next = counts[Size(threadIdx.x) * gridDim.x + blockIdx.x];
  each_of_my_digit(keys, order, count, stretch, shift, [&](int place) { sorted[next++] = place; });
}

// --- adding neighbours up ---

struct Lookups {
  const Size* index;
  const int* order;
  Size count;
  // the row of the i-th look-up in order; -1 for no look-up
  __device__ Size row(Size i) const { return i >= 0 && i < count ? index[order[i]] : -1; }
};

__device__ inline bool counts_for(Size row, Size rows, Size padding) { return row >= 0 && row < rows && row != padding; }

// g (count, dim) -> out (rows, dim), which holds zeros, for rows whose look-ups lie in one stretch; for those that reach
// over its ends, their sums in it: parts (stretches, 2, dim), the one that came in from the left, then the one that goes
// on to the right (the first, if it does both).
extern "C" __global__ void embedding_sums(
    const real* g, const Size* index, const int* order, real* out, real* parts, Size count, Size rows, Size dim,
    Size stretch, Size padding) {
  Size column = position();
  if (column >= dim) return;
  Lookups look = {index, order, count};
  Size start = blockIdx.y * stretch, end = start + stretch < count ? start + stretch : count;
  bool came_in = look.row(start - 1) == look.row(start);
  real sum = 0;
  for (Size i = start; i < end; i++) {
    Size row = look.row(i), next = look.row(i + 1);
    sum += g[order[i] * dim + column];
    if (row == next && i + 1 < end) continue;
    if (came_in || row == next)
      parts[(2 * blockIdx.y + (came_in ? 0 : 1)) * dim + column] = sum;
    else if (counts_for(row, rows, padding))
      out[row * dim + column] = sum;
    came_in = false;
    sum = 0;
  }
}

// Rows that begin in a stretch and reach over its end: the sum of their parts, in order.
extern "C" __global__ void embedding_join(
    const Size* index, const int* order, const real* parts, real* out, Size count, Size rows, Size dim, Size stretch,
    Size padding) {
  Size column = position(), end = (blockIdx.y + 1) * stretch;
  if (column >= dim || end >= count) return;
  Lookups look = {index, order, count};
  Size row = look.row(end - 1);
  bool goes_on = row == look.row(end);
  bool came_in = row == look.row(end - stretch) && row == look.row(end - stretch - 1);  // it began further left
  if (!goes_on || came_in || !counts_for(row, rows, padding)) return;
  real sum = parts[(2 * blockIdx.y + 1) * dim + column];
  for (Size other = blockIdx.y + 1; look.row(other * stretch) == row; other++)
    sum += parts[2 * other * dim + column];
  out[row * dim + column] = sum;
}
