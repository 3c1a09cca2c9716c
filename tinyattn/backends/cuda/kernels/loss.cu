// Cross-entropy with class numbers: x (rows, classes), target (rows).
#include "exponentials.cuh"

// -log softmax(x)[target]. A target out of range gives NaN and reads no memory; `check_indices` reports it.
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
