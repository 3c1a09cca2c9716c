// Steps of optimizers, one launch for all parameters of a group. Nothing happens while an index is out of range (`flag`,
// see flags.cu), so that no weight is spoiled. What changes from step to step (learning rate, number of the step) lies in
// device memory, where a replayed graph finds its new value.
#include "tensors.cuh"

// {p, g, ...}: the same four neighbours of every array; `left` of them exist.
struct Step {
  bool whole;
  Size left;
  __device__ Quad read(const real* from) const { return read_quad(from, left, whole); }
  __device__ void write(real* to, const Quad& quad) const { write_quad(to, quad, left, whole); }
};

// steps (n) counts those of each parameter: one more where mask (n) is 1, none where it is 0.
extern "C" __global__ void count_steps(float* steps, const float* mask, Size n, const Size* flag) {
  if (flag[0] != 0) return;
  for (Size i = position(); i < n; i += crowd()) steps[i] += mask[i];
}

// One step of Adam, or of AdamW (decoupled). Roles: parameter, gradient, first and second moment, and the largest second
// moment so far (amsgrad) or null. lr: one number.
extern "C" __global__ void __launch_bounds__(256) adam_step(
    const Tensors all, const double* lr, double beta1, double beta2, double eps, double weight_decay, Size decoupled,
    Size maximize, const Size* flag) {
  if (flag[0] != 0) return;  // the same for all threads
  Share share = share_of_block(all);
  real *param = all.at[0][share.tensor], *grad = all.at[1][share.tensor], *exp_avg = all.at[2][share.tensor];
  real *exp_avg_sq = all.at[3][share.tensor], *top = all.at[4][share.tensor];
  // The bias corrections are taken out of the root and out of the quotient, into two numbers for all elements, which one
  // thread of a block works out in float64.
  double* corrected = reinterpret_cast<double*>(block_memory);
  if (threadIdx.x == 0) {
    double step = all.step[share.tensor][0], root = sqrt(1 - pow(beta2, step));
    corrected[0] = lr[0] * root / (1 - pow(beta1, step));
    corrected[1] = eps * root;
  }
  __syncthreads();
  real rate = real(corrected[0]), floor = real(corrected[1]);
  real shrink = real(decoupled ? 1 - lr[0] * weight_decay : 1.0), penalty = real(decoupled ? 0.0 : weight_decay);
  real keep1 = real(beta1), keep2 = real(beta2), new1 = real(1 - beta1), new2 = real(1 - beta2);
  bool whole = in_quads(param) && in_quads(grad) && in_quads(exp_avg) && in_quads(exp_avg_sq) && in_quads(top);
  for (Size i = share.begin + 4 * threadIdx.x; i < share.end; i += 4 * blockDim.x) {
    Step four = {whole, share.end - i};
    Quad p = four.read(param + i), g = four.read(grad + i);
    Quad m = four.read(exp_avg + i), v = four.read(exp_avg_sq + i), most = top ? four.read(top + i) : v;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      real slope = (maximize ? -g.at[j] : g.at[j]) + (penalty != 0 ? penalty * p.at[j] : real(0));
      m.at[j] = keep1 * m.at[j] + new1 * slope;
      v.at[j] = keep2 * v.at[j] + new2 * slope * slope;
      most.at[j] = top && (most.at[j] > v.at[j] || most.at[j] != most.at[j]) ? most.at[j] : v.at[j];
      p.at[j] = p.at[j] * shrink - rate * (m.at[j] / (sqrt(most.at[j]) + floor));
    }
    four.write(param + i, p);
    four.write(exp_avg + i, m);
    four.write(exp_avg_sq + i, v);
    if (top) four.write(top + i, most);
  }
}

// One step of SGD. Roles: parameter, gradient, and momentum or null. first: there is no momentum yet.
extern "C" __global__ void __launch_bounds__(256) sgd_step(
    const Tensors all, const double* lr, Size first, double momentum, double dampening, double weight_decay,
    Size nesterov, Size maximize, const Size* flag) {
  if (flag[0] != 0) return;
  Share share = share_of_block(all);
  real *param = all.at[0][share.tensor], *grad = all.at[1][share.tensor], *buffer = all.at[2][share.tensor];
  real rate = real(lr[0]), keep = real(momentum), fresh = real(1 - dampening), penalty = real(weight_decay);
  bool whole = in_quads(param) && in_quads(grad) && in_quads(buffer);
  for (Size i = share.begin + 4 * threadIdx.x; i < share.end; i += 4 * blockDim.x) {
    Step four = {whole, share.end - i};
    Quad p = four.read(param + i), g = four.read(grad + i), b = buffer ? four.read(buffer + i) : g;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      real slope = (maximize ? -g.at[j] : g.at[j]) + (penalty != 0 ? penalty * p.at[j] : real(0));
      if (buffer) {
        b.at[j] = first ? slope : keep * b.at[j] + fresh * slope;
        slope = nesterov ? slope + keep * b.at[j] : b.at[j];
      }
      p.at[j] -= rate * slope;
    }
    four.write(param + i, p);
    if (buffer) four.write(buffer + i, b);
  }
}
