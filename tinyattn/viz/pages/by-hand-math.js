// Attention, its gradients and two optimisers, in plain loops. A matrix is an array of rows.
// Two heads: each has two columns of Q, K, V; their 4 x 4 matrices lie one below the other.

const range = (n) => Array.from({ length: n }, (_, i) => i);
const total = (n, term) => range(n).reduce((sum, k) => sum + term(k), 0);
const matrix = (rows, columns, f) => range(rows).map((i) => range(columns).map((j) => f(i, j)));
const each = (f, a, ...more) => a.map((row, i) => row.map((x, j) => f(x, ...more.map((b) => b[i][j]))));
const widthOf = (o) => (o.score === "heads" ? 4 : 3); // numbers of a token

// All values for the inputs {Q, K, V, T, w} and the options {score, root, causal, tau, shift}.
function attention({ Q, K, V, T, w }, o) {
  const n = Q.length, width = widthOf(o), heads = o.score === "heads" ? 2 : 1, d = width / heads;
  const additive = o.score === "additive";
  const divisor = o.tau * (o.root && !additive ? Math.sqrt(d) : 1);
  const first = (i) => Math.floor(i / n) * d; // row of S -> first column of its head
  const above = (k) => Math.floor(k / d) * n; // column -> first row of its head in S
  const bent = (i, j, k) => Math.tanh(Q[i][k] + K[j][k]);

  const score = (i, j) => total(d, (k) => (additive ? w[0][k] * bent(i, j, k) : Q[i % n][first(i) + k] * K[j][first(i) + k]));
  const S = matrix(heads * n, n, (i, j) => (o.causal && j > i % n ? -Infinity : score(i, j) / divisor + o.shift[i]));
  const Z = S.map((row) => row.map((x) => x - Math.max(...row)));
  const E = each(Math.exp, Z);
  const R = E.map((row) => [total(n, (j) => row[j])]);
  const A = E.map((row, i) => row.map((x) => x / R[i][0]));
  const H = A.map((row) => [-total(n, (j) => (row[j] > 0 ? row[j] * Math.log(row[j]) : 0))]); // entropy
  const Y = matrix(n, width, (i, k) => total(n, (j) => A[above(k) + i][j] * V[j][k]));
  const G = each((y, t) => y - t, Y, T);
  const L = [[total(n, (i) => total(width, (k) => G[i][k] ** 2)) / 2]];

  const dV = matrix(n, width, (j, k) => total(n, (i) => A[above(k) + i][j] * G[i][k]));
  const dA = matrix(heads * n, n, (i, j) => total(d, (k) => G[i % n][first(i) + k] * V[j][first(i) + k]));
  const dS = A.map((row, i) => {
    const mean = total(n, (j) => row[j] * dA[i][j]);
    return row.map((a, j) => a * (dA[i][j] - mean));
  });
  const slope = (i, j, k) => w[0][k] * (1 - bent(i, j, k) ** 2);
  const dQ = matrix(n, width, (i, k) => total(n, (j) => dS[above(k) + i][j] * (additive ? slope(i, j, k) : K[j][k])) / divisor);
  const dK = matrix(n, width, (j, k) => total(n, (i) => dS[above(k) + i][j] * (additive ? slope(i, j, k) : Q[i][k])) / divisor);
  const found = { S, Z, E, R, A, H, Y, L, G, dV, dA, dS, dQ, dK, n, d, divisor };
  if (additive) found.dw = matrix(1, d, (_, k) => total(n, (i) => total(n, (j) => dS[i][j] * bent(i, j, k))) / divisor);
  return found;
}

const norm = (a) => Math.sqrt(a.flat().reduce((sum, x) => sum + x * x, 0));
const difference = (a, b) => Math.max(...a.flat().map((x, i) => Math.abs(x - b.flat()[i])));

// (L+ - L-) / 2h for one number of an input.
function nudged(inputs, o, m, i, j, h = 1e-5) {
  const lossAt = (x) => {
    const moved = { ...inputs, [m]: inputs[m].map((row) => [...row]) };
    moved[m][i][j] = x;
    return attention(moved, o).L[0][0];
  };
  const [plus, minus] = [lossAt(inputs[m][i][j] + h), lossAt(inputs[m][i][j] - h)];
  return { h, plus, minus, slope: (plus - minus) / (2 * h) };
}

// One step of an optimiser for one parameter: {p, m, v, mhat, vhat}; `old` has m and v, t counts from 1.
const BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-8;

const sgd = (p, g, lr) => ({ p: each((x, dx) => x - lr * dx, p, g) });

function adam(p, g, old, t, lr) {
  const m = each((x, dx) => BETA1 * x + (1 - BETA1) * dx, old.m, g);
  const v = each((x, dx) => BETA2 * x + (1 - BETA2) * dx * dx, old.v, g);
  const mhat = each((x) => x / (1 - BETA1 ** t), m), vhat = each((x) => x / (1 - BETA2 ** t), v);
  return { p: each((x, a, b) => x - lr * a / (Math.sqrt(b) + EPSILON), p, mhat, vhat), m, v, mhat, vhat };
}
