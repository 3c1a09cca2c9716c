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
