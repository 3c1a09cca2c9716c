// Each number as the sum that it is: a list of text, cells {m, i, j}, and other numbers {x}.

const cell = (m, i, j) => ({ m, i, j });
const plus = (n, term) => range(n).flatMap((k) => (k ? [" + ", ...term(k)] : term(k)));

function terms(m, i, j, o, values) {
  const { n, d, divisor } = values, additive = o.score === "additive", q = i % n;
  const first = Math.floor(i / n) * d, above = Math.floor(j / d) * n; // as in attention()
  const scaled = (list) => (divisor === 1 ? list : ["(", ...list, ") ÷ ", { x: divisor }]);
  const bent = (a, b, k) => ["tanh(", cell("Q", a, k), " + ", cell("K", b, k), ")"];
  const slope = (a, b, k) => [cell("w", 0, k), " × (1 − ", ...bent(a, b, k), "²)"];
  const of = {
    S: () => {
      if (values.S[i][j] === -Infinity) return ["−∞"];
      const pair = (k) => (additive ? [cell("w", 0, k), " × ", ...bent(q, j, k)] : [cell("Q", q, first + k), " × ", cell("K", j, first + k)]);
      return [...scaled(plus(d, pair)), ...(o.shift[i] ? [" + ", { x: o.shift[i] }] : [])];
    },
    Z: () => [cell("S", i, j), " − ", cell("S", i, values.Z[i].indexOf(0))],
    E: () => ["exp(", cell("Z", i, j), ")"],
    R: () => plus(n, (k) => [cell("E", i, k)]),
    A: () => [cell("E", i, j), " ÷ ", cell("R", i, 0)],
    H: () => ["−(", ...plus(n, (k) => (values.A[i][k] ? [cell("A", i, k), " × ln(", cell("A", i, k), ")"] : ["0"])), ")"],
    Y: () => plus(n, (k) => [cell("A", above + i, k), " × ", cell("V", k, j)]),
    L: () => {
      const width = widthOf(o), square = (k) => ["(", cell("Y", Math.floor(k / width), k % width), " − ", cell("T", Math.floor(k / width), k % width), ")²"];
      return ["½ × (", ...plus(n * width, square), ")"];
    },
    G: () => [cell("Y", i, j), " − ", cell("T", i, j)],
    dV: () => plus(n, (k) => [cell("A", above + k, i), " × ", cell("G", k, j)]),
    dA: () => plus(d, (k) => [cell("G", q, first + k), " × ", cell("V", j, first + k)]),
    dS: () => [cell("A", i, j), " × (", cell("dA", i, j), " − (", ...plus(n, (k) => [cell("A", i, k), " × ", cell("dA", i, k)]), "))"],
    dQ: () => scaled(plus(n, (k) => [cell("dS", above + i, k), " × ", ...(additive ? slope(i, k, j) : [cell("K", k, j)])])),
    dK: () => scaled(plus(n, (k) => [cell("dS", above + k, i), " × ", ...(additive ? slope(k, i, j) : [cell("Q", k, j)])])),
    dw: () => scaled(plus(n * n, (k) => [cell("dS", Math.floor(k / n), k % n), " × ", ...bent(Math.floor(k / n), k % n, j)])),
  };
  return of[m] ? of[m]() : momentTerms(m, i, j, values);
}

// m, v, m̂, v̂ of Adam; an input is no sum: null.
function momentTerms(m, i, j, values) {
  const [kind, name] = m.split("."), { t, last } = values.adam;
  if (!name || !t) return null;
  const { old, g } = last[name], dx = { x: g[i][j] };
  return {
    m: () => [{ x: BETA1 }, " × ", { x: old.m[i][j] }, " + ", { x: 1 - BETA1 }, " × ", dx],
    v: () => [{ x: BETA2 }, " × ", { x: old.v[i][j] }, " + ", { x: 1 - BETA2 }, " × ", dx, "²"],
    mhat: () => [cell(`m.${name}`, i, j), " ÷ ", { x: 1 - BETA1 ** t }],
    vhat: () => [cell(`v.${name}`, i, j), " ÷ ", { x: 1 - BETA2 ** t }],
  }[kind]();
}
