// Softmax, its logarithm, and cross-entropy, along rows: a team does a row, which is read and written once.
#include "rows.cuh"

// top: what was taken from the elements, the largest of them, so that exp cannot overflow. total: the sum of exp(x - top).
struct Sum {
  real top, total;
};

// keep: the elements that the row holds become exp(x - top).
__device__ inline Sum exponentials(Team team, Row& row, int width, bool keep = false) {
  real top = -infinity(), total = 0;
  each_column(team, width, [&](int i, int column) { top = larger(top, row.at(i, column)); });
  top = team_max(team, top);
  each_column(team, width, [&](int i, int column) {
    real e = exp(row.at(i, column) - top);
    if (keep && i < HELD) row.held[i] = e;
    total += e;
  });
  return {top, team_sum(team, total)};
}

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

// -log softmax(x)[target]: x (rows, classes), target (rows). A target out of range gives NaN and reads no memory; `check_indices` reports it.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) cross_entropy_forward(
    const real* x, const Size* target, real* losses, Size rows, Size classes, Size size) {
  Team team = team_of(size);
  each_row(team, rows, classes, [&](Size r, int wide) {
    Row row = read_row(team, x + r * classes, wide);
    Sum sum = exponentials(team, row, wide);
    if (team.rank != 0 || wide == 0) return;
    bool known = target[r] >= 0 && target[r] < classes;
    real score = known ? x[r * classes + target[r]] : infinity() - infinity();
    losses[r] = log(sum.total) - (score - sum.top);
  });
}

// out = (softmax(x) - 1 at the target) g: x and out (rows, classes), g (rows). A target out of range is at no class.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) cross_entropy_backward(
    const real* x, const Size* target, const real* g, real* out, Size rows, Size classes, Size size) {
  Team team = team_of(size);
  each_row(team, rows, classes, [&](Size r, int wide) {
    Row row = read_row(team, x + r * classes, wide);
    Sum sum = exponentials(team, row, wide);
    write_row(team, wide, out + r * classes, [&](int i, int column) {
      return (exp(row.at(i, column) - sum.top) / sum.total - real(column == target[r])) * g[r];
    });
  });
}

__device__ inline real product(real y, real g, Size masked) { return masked && y == 0 ? 0 : y * g; }

// out = y (g - sum(y g)), where y is a softmax; out may be g. masked: where y is 0, g counts as 0, so that NaN stays hidden.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1)
    softmax_backward(const real* y, const real* g, real* out, Size masked, Size rows, Size width, Size size) {
  Team team = team_of(size);
  each_row(team, rows, width, [&](Size r, int wide) {
    Row ys = read_row(team, y + r * width, wide), gs = read_row(team, g + r * width, wide);
    real total = 0;
    each_column(team, wide, [&](int i, int column) { total += product(ys.at(i, column), gs.at(i, column), masked); });
    total = team_sum(team, total);
    write_row(team, wide, out + r * width,
              [&](int i, int column) { return product(ys.at(i, column), gs.at(i, column) - total, masked); });
  });
}
