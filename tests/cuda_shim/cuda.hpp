// What CUDA C++ knows by itself, for g++: enough of it for the sources in backends/cuda/kernels.
// The work is done in runtime.cpp.
#pragma once
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__  // there is one such array, block_memory, of which every block has its share

struct ShimIndex { unsigned x, y, z; };
enum ShimSite : int {};  // a line of source, where threads meet

extern "C" {
extern ShimIndex threadIdx, blockIdx, blockDim, gridDim;
int shim_barrier(int value, int line);                       // waits for the block; the or of all values
const unsigned char* shim_exchange(const void* value, int size, unsigned mask, int line);  // 32 cells of 16 bytes
int shim_lane();
}
constexpr int warpSize = 32;

inline void __syncthreads(int line = __builtin_LINE()) { shim_barrier(0, line); }
inline int __syncthreads_or(int value, int line = __builtin_LINE()) { return shim_barrier(value != 0, line); }
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { shim_exchange(&mask, 4, mask, line); }
inline void __threadfence() {}
inline void __threadfence_system() {}

template <typename T> T shim_read(const unsigned char* cells, int lane) {
  T value;
  std::memcpy(&value, cells + 16 * lane, sizeof(T));
  return value;
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
  int mine = shim_lane();
  return shim_read<T>(shim_exchange(&value, sizeof(T), mask, line), (mine & ~(width - 1)) + (lane & (width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32, int line = __builtin_LINE()) {
  int mine = shim_lane();
  return shim_read<T>(shim_exchange(&value, sizeof(T), mask, line), mine ^ distance);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const unsigned char* cells = shim_exchange(&predicate, 4, mask, line);
  unsigned all = 0;
  for (int lane = 0; lane < 32; lane++) all |= (shim_read<int>(cells, lane) != 0) << lane;
  return all;
}

// threads take turns, so that plain reads and writes are atomic
template <typename T> T atomicAdd(T* at, T value) { T old = *at; *at = old + value; return old; }
template <typename T> T atomicMin(T* at, T value) { T old = *at; if (value < old) *at = value; return old; }
template <typename T> T atomicMax(T* at, T value) { T old = *at; if (value > old) *at = value; return old; }

using std::abs; using std::ceil; using std::cos; using std::erf; using std::exp; using std::expm1; using std::fabs;
using std::floor; using std::fma; using std::fmax; using std::fmin; using std::isfinite; using std::isinf; using std::isnan;
using std::log; using std::log1p; using std::log2; using std::pow; using std::sin; using std::sqrt; using std::tanh;
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <typename A, typename B> constexpr auto min(A a, B b) -> std::common_type_t<A, B> { return b < a ? b : a; }
template <typename A, typename B> constexpr auto max(A a, B b) -> std::common_type_t<A, B> { return a < b ? b : a; }

// --- what Python calls: NAME__call with addresses of arguments, and NAME__signature, one word an argument ---

template <typename T> constexpr char shim_code() {
  if (std::is_same_v<T, void>) return 'v';
  if (std::is_same_v<T, bool>) return 'b';
  if (std::is_same_v<T, signed char>) return 'c';
  if (std::is_same_v<T, unsigned char>) return 'C';
  if (std::is_same_v<T, int>) return 'i';
  if (std::is_same_v<T, unsigned>) return 'I';
  if (std::is_same_v<T, long long>) return 'q';
  if (std::is_same_v<T, unsigned long long>) return 'Q';
  if (std::is_same_v<T, float>) return 'f';
  if (std::is_same_v<T, double>) return 'd';
  return '?';
}
template <typename F> struct ShimEntry;
template <typename... A> struct ShimEntry<void (*)(A...)> {
  template <std::size_t... i>
  static void call(void (*kernel)(A...), void** args, std::index_sequence<i...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(args[i])...);
  }
  static void call(void (*kernel)(A...), void** args) { call(kernel, args, std::index_sequence_for<A...>()); }
  static const char* signature() {
    static char text[4 * sizeof...(A) + 1];
    char* end = text;
    auto word = [&](bool pointer, char code) {
      if (pointer) *end++ = 'P';
      *end++ = code;
      *end++ = ' ';
    };
    (word(std::is_pointer_v<A>, shim_code<std::remove_cv_t<std::remove_pointer_t<A>>>()), ...);
    *end = 0;
    return text;
  }
};
#define SHIM_KERNEL(name)                                                                                     \
  extern "C" void name##__call(void** args) { ShimEntry<decltype(&name)>::call(&name, args); }                \
  extern "C" const char* name##__signature() { return ShimEntry<decltype(&name)>::signature(); }
