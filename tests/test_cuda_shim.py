"""tests/cuda_shim does what a GPU does, and finds what a GPU would let pass."""

from __future__ import annotations

import cuda_shim
import numpy as np
import pytest

CODE = r"""
extern __shared__ unsigned char block_memory[];

extern "C" __global__ void reverse(const float* x, float* y) {  // in blocks
  float* shared = reinterpret_cast<float*>(block_memory);
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  shared[threadIdx.x] = x[i];
  __syncthreads();
  y[i] = shared[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void reverse_without_barrier(const float* x, float* y) {
  float* shared = reinterpret_cast<float*>(block_memory);
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  shared[threadIdx.x] = x[i];
  y[i] = shared[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void lanes(int* sums, unsigned* even, int* from_lane_3) {
  int sum = threadIdx.x;
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  sums[threadIdx.x] = sum;
  even[threadIdx.x] = __ballot_sync(~0u, threadIdx.x % 2 == 0);
  from_lane_3[threadIdx.x] = __shfl_sync(~0u, int(threadIdx.x), 3);
}
extern "C" __global__ void any_thread(int* out, long long which) {
  for (int i = 0; i < 3; i++) out[3 * threadIdx.x + i] = __syncthreads_or(i == 1 && threadIdx.x == which);
}
extern "C" __global__ void place(int* out) {
  int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
extern "C" __global__ void leave(long long first) { if (threadIdx.x >= first) return; __syncthreads(); }
extern "C" __global__ void part(long long first) {
  if (threadIdx.x < first) __syncthreads(); else __shfl_xor_sync(~0u, 1, 1);
}
extern "C" __global__ void two_barriers(long long first) {
  if (threadIdx.x < first) __syncthreads();
  else
    __syncthreads();
}
extern "C" __global__ void beyond_shared(long long at) { block_memory[at] = 1; }
extern "C" __global__ void read_shared(float* out) { out[0] = reinterpret_cast<float*>(block_memory)[0]; }
extern "C" __global__ void write(float* out, long long at) { out[at] = 1; }
extern "C" __global__ void race(float* out) { out[0] = blockIdx.x; }
struct Lot { float* at[2]; long long size; };
extern "C" __global__ void fill(const Lot lot, float value) { lot.at[1][lot.size] = value; }
extern "C" __global__ void count(int* out) { atomicAdd(out, 1); }
"""


@pytest.fixture(params=cuda_shim.SCHEDULES)
def run(request):
    module = cuda_shim.compile(CODE, schedule=request.param)
    return module.launch


def test_shared_memory_and_barriers(run):
    x, y = np.arange(96, dtype=np.float32), np.zeros(96, np.float32)
    run("reverse", (3,), (32,), (x, y), 128)
    np.testing.assert_array_equal(y, x.reshape(3, 32)[:, ::-1].reshape(-1))


def test_a_missing_barrier_is_found():
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    with (
        cuda_shim.thorough(),
        pytest.raises(cuda_shim.KernelError, match="the order 'backward' of threads gives other bits"),
    ):
        cuda_shim.compile(CODE).launch("reverse_without_barrier", (1,), (64,), (x, y), 256)


def test_blocks_that_write_to_one_place_are_found():
    out = np.zeros(1, np.float32)
    with cuda_shim.thorough(), pytest.raises(cuda_shim.KernelError, match="gives other bits"):
        cuda_shim.compile(CODE).launch("race", (5,), (1,), (out,))


def test_exchanges_between_lanes(run):
    sums, even, third = np.zeros(64, np.int32), np.zeros(64, np.uint32), np.zeros(64, np.int32)
    run("lanes", (1,), (64,), (sums, even, third))
    assert sums.tolist() == [sum(range(32))] * 32 + [sum(range(32, 64))] * 32
    assert set(even.tolist()) == {0x55555555}
    assert third.tolist() == [3] * 32 + [35] * 32


def test_a_barrier_tells_what_any_thread_said(run):
    out = np.full((70, 3), 7, np.int32)
    run("any_thread", (1,), (70,), (out, 33))
    assert (out == [0, 1, 0]).all()


def test_threads_and_blocks_know_where_they_stand(run):
    out = np.zeros((24, 24), np.int32)
    run("place", (2, 3, 4), (4, 3, 2), (out,))
    np.testing.assert_array_equal(out, np.arange(24)[:, None] * 1000 + np.arange(24))


def test_atomics(run):
    out = np.zeros(1, np.int32)
    run("count", (7,), (33,), (out,))
    assert out[0] == 7 * 33


@pytest.mark.parametrize(
    ("kernel", "first", "block", "message"),
    [
        ("leave", 40, 64, r"a barrier not reached by all: .* thread 0 waits at the barrier .* thread 40 has left"),
        ("leave", 3, 64, r"a barrier not reached by all"),
        ("part", 3, 32, r"lanes of a warp parted: .* thread 0 waits at the barrier .* thread 3 exchanges values"),
        ("part", 0, 40, r"an exchange in a warp of 8 threads"),
        ("two_barriers", 40, 64, r"a barrier not reached by all: .* waits at the barrier .* waits at the barrier"),
    ],
)  # fmt: skip
def test_threads_that_part_are_found(run, kernel, first, block, message):
    with pytest.raises(cuda_shim.KernelError, match=message):
        run(kernel, (2,), (block,), (first,))
    out = np.zeros(1, np.int32)
    run("count", (2,), (64,), (out,))  # and what comes next is not disturbed
    assert out[0] == 128


def test_all_threads_may_leave(run):
    run("leave", (2,), (64,), (0,))
    run("leave", (2,), (64,), (64,))


def test_shared_memory_has_an_end(run):
    run("beyond_shared", (1,), (1,), (63,), 64)
    with pytest.raises(cuda_shim.KernelError, match="a write 6 bytes beyond the 64 of shared memory"):
        run("beyond_shared", (1,), (1,), (70,), 64)


def test_shared_memory_begins_as_nan(run):
    out = np.zeros(1, np.float32)
    run("read_shared", (1,), (1,), (out,), 4)
    assert np.isnan(out[0])


def test_a_write_beyond_an_array_is_found():
    module, out = cuda_shim.compile(CODE), np.zeros(10, np.float32)
    with cuda_shim.thorough():
        module.launch("write", (1,), (1,), (out, 9))
        assert out.tolist() == [0] * 9 + [1]
        for at in (10, -1, 200):
            with pytest.raises(cuda_shim.KernelError, match=f"a write outside of array 0 .40 bytes., at byte {4 * at}"):
                module.launch("write", (1,), (1,), (out, at))


def test_arrays_that_share_memory_are_moved_together():
    module, both = cuda_shim.compile(CODE), np.arange(8, dtype=np.float32)
    with cuda_shim.thorough():
        module.launch("reverse", (1,), (4,), (both[:4], both[3:7]), 16)
    assert both.tolist() == [0, 1, 2, 3, 2, 1, 0, 7]


@pytest.mark.parametrize(
    ("kernel", "args", "shared", "message"),
    [
        ("write", (np.zeros(1, np.float32),), 0, "1 arguments; it takes 2"),
        ("write", (np.zeros(1), 0), 0, "argument 0 points to float64; the kernel takes 'Pf'"),
        ("write", (np.zeros(1, np.float32), 0.5), 0, "argument 1 is float64; the kernel takes 'q'"),
        ("write", (np.zeros(1, np.float32), np.int32(0)), 0, "argument 1 is int32; the kernel takes 'q'"),
        ("leave", (0,), 50_000, "50000 bytes of shared memory; a block may have 49152 unless"),
    ],
)  # fmt: skip
def test_arguments_must_fit(run, kernel, args, shared, message):
    with pytest.raises(cuda_shim.KernelError, match=message):
        run(kernel, (1,), (1,), args, shared)


def test_sizes_must_fit(run):
    for grid, block in (((0,), (1,)), ((1,), (0,)), ((1,), (1025,)), ((1, 1 << 16), (1,))):
        with pytest.raises(cuda_shim.KernelError, match="a grid of"):
            run("leave", grid, block, (0,))


def test_what_does_not_compile_says_why():
    with pytest.raises(cuda_shim.KernelError, match="was not declared"):
        cuda_shim.compile('extern "C" __global__ void f() { g(); }')
    with pytest.raises(cuda_shim.KernelError, match="no kernel 'nothing'"):
        cuda_shim.compile(CODE).get_function("nothing")


LOT = np.dtype([("at", np.uint64, (2,)), ("size", np.int64)])


def test_a_struct_is_passed_by_value(run, monkeypatch):
    out, lot = np.zeros(4, np.float32), np.zeros(1, LOT)
    lot["at"][0, 1], lot["size"] = out.ctypes.data, 2
    run("fill", (1,), (1,), (lot, np.float32(7)))
    assert out.tolist() == [0, 0, 7, 0]
    for wrong in (np.zeros(2, LOT), np.zeros(1, [("at", np.uint64)]), 5):
        with pytest.raises(cuda_shim.KernelError, match=r"argument 0 is .*; the kernel takes 'S24'"):
            run("fill", (1,), (1,), (wrong, np.float32(7)))
    with cuda_shim.thorough():
        with pytest.raises(cuda_shim.KernelError, match="a struct points to memory that nobody holds, 0x"):
            run("fill", (1,), (1,), (lot, np.float32(7)))
        bounds = (out.ctypes.data, out.ctypes.data + 16)
        monkeypatch.setattr(cuda_shim.guarded, "memory_at", lambda address: bounds)
        run("fill", (1,), (1,), (lot, np.float32(8)))
        assert out.tolist() == [0, 0, 8, 0]
        lot["size"] = 4
        with pytest.raises(cuda_shim.KernelError, match=r"a write outside of array 0 \(16 bytes\), at byte 16"):
            run("fill", (1,), (1,), (lot, np.float32(8)))
