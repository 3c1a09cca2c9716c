// The sum of a row's exponentials, which softmax divides by and of which losses take the logarithm.
#pragma once
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
