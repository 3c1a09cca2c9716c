// What CuPy's generated sources expect of NVRTC and its headers, for g++; after the shim's cuda.hpp. Precompiled.
#pragma once
// of these CuPy's headers declare overloads, which the shim's templates would hide
#define atomicAdd shim_atomicAdd
#define atomicMin shim_atomicMin
#define atomicMax shim_atomicMax
#include "cuda.hpp"
#undef atomicAdd
#undef atomicMin
#undef atomicMax

#undef __shared__
#define __shared__ static  // blocks run one after another
#define __constant__ static
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __CUDACC_VER_MAJOR__ 12
extern "C" unsigned char block_memory[];  // dynamic shared memory

#include <cassert>
#include <cfloat>
#include <initializer_list>
#include <limits>
using std::memcpy; using std::memset; using std::ptrdiff_t; using std::size_t;
using std::acos; using std::acosh; using std::asin; using std::asinh; using std::atan; using std::atan2; using std::atanh;
using std::cbrt; using std::copysign; using std::cosh; using std::erfc; using std::exp2; using std::fmod; using std::frexp;
using std::hypot; using std::isnormal; using std::ldexp; using std::lgamma; using std::log10; using std::modf;
using std::nextafter; using std::rint; using std::round; using std::signbit; using std::sinh; using std::tan;
using std::tgamma; using std::trunc;

// --- bits ---

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <typename To, typename From> To shim_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline int __float_as_int(float x) { return shim_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
inline float __int_as_float(int x) { return shim_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return shim_bits<float>(x); }
inline long long __double_as_longlong(double x) { return shim_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return shim_bits<double>(x); }
inline int __double2hiint(double x) { return int(shim_bits<long long>(x) >> 32); }
inline int __double2loint(double x) { return int(shim_bits<long long>(x)); }
template <typename T> T __ldg(const T* at) { return *at; }

// --- atomic operations: threads take turns, so plain reads and writes are atomic ---

template <typename T> T atomicCAS(T* at, T expected, T value) {
  T old = *at;
  if (old == expected) *at = value;
  return old;
}
template <typename T> T atomicExch(T* at, T value) { return std::exchange(*at, value); }
#define SHIM_ATOMIC(NAME, T, NEW) \
  inline T NAME(T* at, T value) { T old = *at; *at = NEW; return old; }
#define SHIM_ATOMICS(T)                                      \
  SHIM_ATOMIC(atomicAdd, T, old + value)                     \
  SHIM_ATOMIC(atomicMin, T, value < old ? value : old)       \
  SHIM_ATOMIC(atomicMax, T, old < value ? value : old)       \
  SHIM_ATOMIC(atomicAnd, T, old & value)                     \
  SHIM_ATOMIC(atomicOr, T, old | value)
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)
SHIM_ATOMIC(atomicMin, long long, value < old ? value : old)  // the other ones CuPy has itself
SHIM_ATOMIC(atomicMax, long long, old < value ? value : old)
SHIM_ATOMIC(atomicAdd, float, old + value)
SHIM_ATOMIC(atomicAdd, double, old + value)

#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
#include <cupy/atomics.cuh>
#include <cupy/math_constants.h>
