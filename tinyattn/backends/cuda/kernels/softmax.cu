// Softmax, its logarithm and its sum.
//
// *_rows: the axis lies side by side in memory; a team does a row, which is read and written once.
// *_columns: other axes are further in: x (outer, n, inner); a thread does a column, neighbours side by side.
#include "exponentials.cuh"

__device__ inline real finite_or_zero(real top) { return top - top == 0 ? top : real(0); }

extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)
    softmax_rows(const real* x, real* out, Size rows, Size width, Size size) {
  Team team = team_of(size);
  each_row(team, rows, width, [&](Size r, int wide) {
    Row row = read_row(team, x + r * width, wide);
    Sum sum = exponentials(team, row, wide, true);
    write_row(team, wide, out + r * width, [&](int i, int column) {
      real e = i < HELD ? row.held[i] : exp(row.from[column] - sum.top);
      return e / sum.total;
    });
  });
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)
    log_softmax_rows(const real* x, real* out, Size rows, Size width, Size size) {
  Team team = team_of(size);
  each_row(team, rows, width, [&](Size r, int wide) {
    Row row = read_row(team, x + r * width, wide);
    Sum sum = exponentials(team, row, wide);
    real logarithm = log(sum.total);
    write_row(team, wide, out + r * width,
              [&](int i, int column) { return row.at(i, column) - sum.top - logarithm; });
  });
}

// out (rows): log(sum(exp(x))); of nothing but -inf it is -inf.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)
    logsumexp_rows(const real* x, real* out, Size rows, Size width, Size size) {
  Team team = team_of(size);
  each_row(team, rows, width, [&](Size r, int wide) {
    Row row = read_row(team, x + r * width, wide);
    real top = -infinity(), total = 0;
    each_column(team, wide, [&](int i, int column) { top = larger(top, row.at(i, column)); });
    top = finite_or_zero(team_max(team, top));  // inf - inf is NaN
    each_column(team, wide, [&](int i, int column) { total += exp(row.at(i, column) - top); });
    total = team_sum(team, total);
    if (team.rank == 0 && wide > 0) out[r] = log(total) + top;
  });
}

// --- along another axis ---

// f(where the column starts) for every column of (outer, n, inner); its elements are `inner` apart.
template <typename F> __device__ inline void each_strided_column(Size outer, Size n, Size inner, F f) {
  for (Size i = position(); i < outer * inner; i += crowd()) f(i / inner * n * inner + i % inner);
}

__device__ inline Sum strided_sum(const real* x, Size n, Size inner) {
  real top = -infinity(), total = 0;
  for (Size i = 0; i < n; i++) top = larger(top, x[i * inner]);
  for (Size i = 0; i < n; i++) total += exp(x[i * inner] - top);
  return {top, total};
}

extern "C" __global__ void softmax_columns(const real* x, real* out, Size outer, Size n, Size inner) {
  each_strided_column(outer, n, inner, [&](Size start) {
    Sum sum = strided_sum(x + start, n, inner);
    for (Size i = start; i < start + n * inner; i += inner) out[i] = exp(x[i] - sum.top) / sum.total;
  });
}

extern "C" __global__ void log_softmax_columns(const real* x, real* out, Size outer, Size n, Size inner) {
  each_strided_column(outer, n, inner, [&](Size start) {
    Sum sum = strided_sum(x + start, n, inner);
    real logarithm = log(sum.total);
    for (Size i = start; i < start + n * inner; i += inner) out[i] = x[i] - sum.top - logarithm;
  });
}
