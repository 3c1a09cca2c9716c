// CUDA's half, as CuPy's headers use it, on g++'s _Float16 (version 12 and later).
#pragma once
#include <cstring>
#include <type_traits>

struct __half_raw { unsigned short x; };
struct half {
  _Float16 value;

  half() {}
  half(float x) : value(_Float16(x)) {}
  half(double x) : value(_Float16(x)) {}
  template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0> explicit half(T x) : value(_Float16(x)) {}
  explicit half(const __half_raw& raw) { std::memcpy(&value, &raw.x, sizeof value); }
  operator float() const { return float(value); }
  operator __half_raw() const {
    __half_raw raw;
    std::memcpy(&raw.x, &value, sizeof value);
    return raw;
  }
};
using __half = half;
inline unsigned short __half_as_ushort(half x) { return __half_raw(x).x; }
inline half __ushort_as_half(unsigned short x) { return half(__half_raw{x}); }
inline half __float2half(float x) { return half(x); }
inline half __float2half_rn(float x) { return half(x); }
inline float __half2float(half x) { return float(x); }
