// Layer normalisation over the last axis, forward and backward; a team does a row.
#include "rows.cuh"

// out = normal weight + bias, where normal = (x - mean) rstd; weight and bias may be null.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) layer_norm_forward(
    const real* x, const real* weight, const real* bias, real* out, real* normal, real* rstd, double eps, Size rows,
    Size width, Size size) {
  Team team = team_of(size);
  each_row(team, rows, width, [&](Size r, int wide) {
    Row row = read_row(team, x + r * width, wide);
    real mean = 0, squares = 0;
    each_column(team, wide, [&](int i, int column) { mean += row.at(i, column); });
    mean = team_sum(team, mean) / width;
    // what rounding has left of it: all there is of a constant row
    real rest = 0;
    each_column(team, wide, [&](int i, int column) { rest += row.at(i, column) - mean; });
    mean += team_sum(team, rest) / width;
    // around the mean, not as a difference of two large sums
    each_column(team, wide, [&](int i, int column) {
      real centred = row.at(i, column) - mean;
      squares += centred * centred;
    });
    real scale = 1 / sqrt(team_sum(team, squares) / width + real(eps));
    write_row(team, wide, normal + r * width, [&](int i, int column) { return (row.at(i, column) - mean) * scale; });
    write_row(team, wide, out + r * width, [&](int i, int column) {
      real y = (row.at(i, column) - mean) * scale;
      if (weight) y *= weight[column];
      return bias ? y + bias[column] : y;
    });
    if (team.rank == 0 && wide > 0) rstd[r] = scale;
  });
}

// What a block's teams have each gathered for the columns, added up in the order of the teams: to[column].
__device__ inline void add_up(Team team, int width, const real (&gathered)[HELD], real* to) {
  int teams = blockDim.x / team.size;
  real* of_teams = reinterpret_cast<real*>(block_memory);  // (teams, width)
  if (teams == 1) {
    each_column(team, width, [&](int i, int column) { to[column] = gathered[i]; });
    return;
  }
  __syncthreads();
  each_column(team, width, [&](int i, int column) { of_teams[threadIdx.x / team.size * width + column] = gathered[i]; });
  __syncthreads();
  for (int column = threadIdx.x; column < width; column += blockDim.x) {
    real sum = 0;
    for (int other = 0; other < teams; other++) sum += of_teams[other * width + column];
    to[column] = sum;
  }
}

// dx = rstd (h - mean(h) - normal mean(h normal)), with h = g weight; not written where dx is null. On the way each block
// gathers the gradients of weight and bias over its rows: sums (2, blocks, width), to be added up by `column_sums`.
// Where sums is null it does not; it must be null for rows that the threads cannot hold.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, 1) layer_norm_backward(
    const real* g, const real* normal, const real* rstd, const real* weight, real* dx, real* sums, Size rows,
    Size width, Size size) {
  Team team = team_of(size);
  real dweight[HELD] = {}, dbias[HELD] = {};
  each_row(team, rows, width, [&](Size r, int wide) {
    Row slope = read_row(team, g + r * width, wide), row = read_row(team, normal + r * width, wide);
    real mean = 0, along = 0;
    each_column(team, wide, [&](int i, int column) {
      real u = slope.at(i, column), n = row.at(i, column), h = weight ? u * weight[column] : u;
      mean += h;
      along += h * n;
      if (i < HELD) {
        dweight[i] += u * n;
        dbias[i] += u;
      }
    });
    if (!dx) return;
    mean = team_sum(team, mean) / width;
    along = team_sum(team, along) / width;
    real scale = rstd[r];
    write_row(team, wide, dx + r * width, [&](int i, int column) {
      real u = slope.at(i, column), h = weight ? u * weight[column] : u;
      return (h - mean - row.at(i, column) * along) * scale;
    });
  });
  if (!sums) return;
  add_up(team, int(width), dweight, sums + blockIdx.x * width);
  add_up(team, int(width), dbias, sums + (gridDim.x + blockIdx.x) * width);
}
