// Random numbers from a counter: the i-th number of a stream is a function of the seed and i alone, so that all threads
// draw at once, in any order, and a replayed graph goes on where the last one stopped.
//
// Philox4x32-10, Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
// state = {seed, counter} lies in device memory; `advance` moves the counter on once a launch has drawn.
#include "common.cuh"

struct Words {
  unsigned at[4];
};

__device__ inline void multiply(unsigned a, unsigned b, unsigned& high, unsigned& low) {
  Bits both = Bits(a) * b;
  high = unsigned(both >> 32);
  low = unsigned(both);
}

// The four words that belong to a place in the stream.
__device__ inline Words philox(Bits seed, Bits place) {
  unsigned c0 = unsigned(place), c1 = unsigned(place >> 32), c2 = 0, c3 = 0;
  unsigned k0 = unsigned(seed), k1 = unsigned(seed >> 32);
  for (int round = 0; round < 10; round++) {
    unsigned high0, low0, high1, low1;
    multiply(0xD2511F53u, c0, high0, low0);
    multiply(0xCD9E8D57u, c2, high1, low1);
    c0 = high1 ^ c1 ^ k0, c1 = low1;
    c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// How many numbers four words give: four of float32, two of float64.
constexpr int NUMBERS = 16 / sizeof(real);

__device__ inline Bits word(const Words& words, int j) { return Bits(words.at[2 * j + 1]) << 32 | words.at[2 * j]; }

// The j-th number in [0, 1): 24 or 53 random bits, so that 1 itself is never reached by rounding.
__device__ inline real unit(const Words& words, int j) {
  if (sizeof(real) == 4) return real(words.at[j] >> 8) * real(1.0 / (1 << 24));
  return real((word(words, j) >> 11) * (1.0 / (1ull << 53)));
}

// out[i] = f(words, j), where i is the j-th number that comes from these words.
template <typename T, typename F> __device__ inline void draw(T* out, Size n, const Bits* state, F f) {
  for (Size block = position(); block * NUMBERS < n; block += crowd()) {
    Words words = philox(state[0], state[1] + block);
#pragma unroll
    for (int j = 0; j < NUMBERS; j++)
      if (block * NUMBERS + j < n) out[block * NUMBERS + j] = f(words, j);
  }
}

extern "C" __global__ void philox_uniform(real* out, Size n, const Bits* state) { draw(out, n, state, unit); }

// Two numbers of the normal distribution from two uniform ones (Box and Muller 1958).
extern "C" __global__ void philox_normal(real* out, Size n, const Bits* state) {
  draw(out, n, state, [](const Words& words, int j) {
    real radius = sqrt(-2 * log(1 - unit(words, j & ~1)));  // 1 - u is never zero
    real angle = real(6.283185307179586) * unit(words, j | 1);
    return radius * (j % 2 ? sin(angle) : cos(angle));
  });
}

// Words of 64 random bits; `real` is double.
extern "C" __global__ void philox_bits(Bits* out, Size n, const Bits* state) { draw(out, n, state, word); }

// What dropout keeps: true with probability 1 - p, where `philox_uniform` would have drawn p or more.
extern "C" __global__ void philox_keep(bool* out, Size n, double p, const Bits* state) {
  draw(out, n, state, [=](const Words& words, int j) { return unit(words, j) >= real(p); });
}

extern "C" __global__ void philox_advance(Bits* state, Size places) {
  state[1] += places;
}
