// Whether indices are in range. The answer stays on the device: a flag goes up, which the optimizer's kernels heed and
// which the host reads once a step.
#include "common.cuh"

constexpr Size MOST = Size(~0ull >> 1);

struct Found {
  Size value, position;
};

// Which of two finds a message would name: the lower value, or the higher, and of equals the first.
__device__ inline Found worse(Found a, Found b, bool lower) {
  if (a.value == b.value) return b.position < a.position ? b : a;
  return (b.value < a.value) == lower ? b : a;
}

// The worst of what all threads of the block found; known to thread 0.
__device__ inline Found worst(Found mine, bool lower) {
  Found* all = reinterpret_cast<Found*>(block_memory);
  all[threadIdx.x] = mine;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {  // the block is a power of two
    if (threadIdx.x < half) all[threadIdx.x] = worse(all[threadIdx.x], all[threadIdx.x + half], lower);
    __syncthreads();
  }
  Found found = all[0];
  __syncthreads();  // before the memory is used again
  return found;
}

// By thread 0, which knows the worst of all: if a value is out of [least, size), and no flag is up yet,
// flag = {id, value, position}, and the same in `host`, memory of the host that the device can write.
__device__ inline void settle(Found low, Found high, Size least, Size size, Size id, Size* flag, Size* host) {
  if (threadIdx.x != 0 || flag[0] != 0) return;
  if (low.value >= least && high.value < size) return;
  Found bad = low.value < least ? low : high;
  flag[1] = bad.value;
  flag[2] = bad.position;
  flag[0] = id;
  if (host == nullptr) return;
  host[1] = bad.value;
  host[2] = bad.position;
  __threadfence_system();  // the host looks at host[0] first
  host[0] = id;
}

// index (n), each to be in [least, size). Names the lowest value if that is below `least`, else the highest.
// A single block settles it; several write what they found to `found` (blocks, 4), for `settle_indices`.
extern "C" __global__ void __launch_bounds__(1024) check_indices(
    const Size* index, Size n, Size least, Size size, Size id, Size* flag, Size* host, Size* found) {
  Found low = {MOST, 0}, high = {-MOST - 1, 0};
  for (Size i = position(); i < n; i += crowd()) {
    low = worse(low, {index[i], i}, true);
    high = worse(high, {index[i], i}, false);
  }
  low = worst(low, true);
  high = worst(high, false);
  if (n == 0) return;
  if (gridDim.x == 1) {
    settle(low, high, least, size, id, flag, host);
  } else if (threadIdx.x == 0) {
    Size* mine = found + 4 * Size(blockIdx.x);
    mine[0] = low.value, mine[1] = low.position, mine[2] = high.value, mine[3] = high.position;
  }
}

// One block, for what `check_indices` found in several.
extern "C" __global__ void __launch_bounds__(1024) settle_indices(
    const Size* found, Size blocks, Size least, Size size, Size id, Size* flag, Size* host) {
  Found low = {MOST, 0}, high = {-MOST - 1, 0};
  for (Size i = threadIdx.x; i < blocks; i += blockDim.x) {
    low = worse(low, {found[4 * i], found[4 * i + 1]}, true);
    high = worse(high, {found[4 * i + 2], found[4 * i + 3]}, false);
  }
  low = worst(low, true);
  high = worst(high, false);
  settle(low, high, least, size, id, flag, host);
}
