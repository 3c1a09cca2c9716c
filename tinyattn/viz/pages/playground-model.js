// Transformer blocks and the classifier, forward and backward. Matrices are rows of numbers one after the other, in float64.
// Names and order are those of tinyattn/models.py; a weight of a linear layer is (outputs, inputs).

function numbers(text) {
  const view = new DataView(bytes(text).buffer);
  return Float64Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function linear(x, weight, bias) { // x W' + b
  const out = bias.length, width = weight.length / out, rows = x.length / width, y = new Float64Array(rows * out);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < out; o++) {
      let sum = bias[o];
      for (let i = 0; i < width; i++) sum += x[r * width + i] * weight[o * width + i];
      y[r * out + o] = sum;
    }
  }
  return y;
}

function linearBack(g, weight, out) { // the gradient of x: g W
  const width = weight.length / out, rows = g.length / out, dx = new Float64Array(rows * width);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < out; o++) {
      const by = g[r * out + o];
      if (by) for (let i = 0; i < width; i++) dx[r * width + i] += by * weight[o * width + i];
    }
  }
  return dx;
}

function layerNorm(x, width, weight, bias, eps) {
  const y = new Float64Array(x.length), normal = new Float64Array(x.length), scale = [];
  for (let r = 0; r < x.length / width; r++) {
    const row = x.subarray(r * width, (r + 1) * width);
    const mean = row.reduce((a, b) => a + b) / width;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / width;
    scale.push(1 / Math.sqrt(variance + eps));
    for (let i = 0; i < width; i++) {
      normal[r * width + i] = (row[i] - mean) * scale[r];
      y[r * width + i] = normal[r * width + i] * weight[i] + bias[i];
    }
  }
  return { y, normal, scale };
}

function layerNormBack(g, width, weight, { normal, scale }) {
  const dx = new Float64Array(g.length);
  for (let r = 0; r < scale.length; r++) {
    let sum = 0, along = 0;
    for (let i = 0; i < width; i++) {
      const h = g[r * width + i] * weight[i];
      sum += h;
      along += h * normal[r * width + i];
    }
    for (let i = 0; i < width; i++) {
      const at = r * width + i;
      dx[at] = scale[r] * (g[at] * weight[i] - (sum + normal[at] * along) / width);
    }
  }
  return dx;
}

const SLOPE = Math.sqrt(2 / Math.PI);

const gelu = (x) => x.map((v) => 0.5 * v * (1 + Math.tanh(SLOPE * (v + 0.044715 * v ** 3))));

function geluBack(g, x) {
  return g.map((value, i) => {
    const v = x[i], t = Math.tanh(SLOPE * (v + 0.044715 * v ** 3));
    return value * 0.5 * (1 + t + v * (1 - t * t) * SLOPE * (1 + 3 * 0.044715 * v * v));
  });
}

const plus = (a, b) => a.map((value, i) => value + b[i]);

function softmax(row) {
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity), e = row.map((s) => Math.exp(s - most));
  const sum = e.reduce((a, b) => a + b);
  return e.map((v) => v / sum);
}

// Attention of all heads on packed queries, keys and values (tokens, 3 dim). silent: heads that give nothing.
function attention(qkv, dim, heads, temperature, silent) {
  const tokens = qkv.length / (3 * dim), size = dim / heads, scale = 1 / Math.sqrt(size) / temperature;
  const y = new Float64Array(tokens * dim), weights = [];
  for (let h = 0; h < heads; h++) {
    const map = new Float64Array(tokens * tokens), q = h * size, k = q + dim, v = k + dim;
    for (let t = 0; t < tokens; t++) {
      const scores = map.subarray(t * tokens, (t + 1) * tokens);
      for (let s = 0; s < tokens; s++) {
        let sum = 0;
        for (let i = 0; i < size; i++) sum += qkv[t * 3 * dim + q + i] * qkv[s * 3 * dim + k + i];
        scores[s] = sum * scale;
      }
      scores.set(softmax(scores));
      if (silent.has(h)) continue;
      for (let s = 0; s < tokens; s++) {
        for (let i = 0; i < size; i++) y[t * dim + q + i] += scores[s] * qkv[s * 3 * dim + v + i];
      }
    }
    weights.push(map);
  }
  return { y, weights, scale };
}

// The gradient of qkv; and gradient x attention of each head, A o dA.
function attentionBack(g, qkv, dim, { weights, scale }, silent) {
  const heads = weights.length, tokens = qkv.length / (3 * dim), size = dim / heads, dqkv = new Float64Array(qkv.length);
  const effects = weights.map((map, h) => {
    const effect = new Float64Array(tokens * tokens), q = h * size, k = q + dim, v = k + dim;
    if (silent.has(h)) return effect;
    for (let t = 0; t < tokens; t++) {
      let along = 0;
      for (let s = 0; s < tokens; s++) {
        const a = map[t * tokens + s];
        let da = 0;
        for (let i = 0; i < size; i++) {
          da += g[t * dim + q + i] * qkv[s * 3 * dim + v + i];
          dqkv[s * 3 * dim + v + i] += a * g[t * dim + q + i];
        }
        along += effect[t * tokens + s] = a * da;
      }
      for (let s = 0; s < tokens; s++) {
        const ds = (effect[t * tokens + s] - map[t * tokens + s] * along) * scale;
        for (let i = 0; i < size; i++) {
          dqkv[t * 3 * dim + q + i] += ds * qkv[s * 3 * dim + k + i];
          dqkv[s * 3 * dim + k + i] += ds * qkv[t * 3 * dim + q + i];
        }
      }
    }
    return effect;
  });
  return { dqkv, effects };
}

const decoded = (weights) => Object.fromEntries(Object.entries(weights).map(([name, text]) => [name, numbers(text)]));

class Transformer {
  constructor({ heads, layers, eps, weights }) {
    Object.assign(this, { heads, layers, eps, w: decoded(weights) });
    this.dim = this.w["norm.weight"].length;
    this.tokens = this.w.position.length / this.dim;
  }

  // Two linear layers with a GELU between them.
  mlp(x, name) {
    const hidden = linear(x, this.w[`${name}.fc1.weight`], this.w[`${name}.fc1.bias`]);
    return { hidden, y: linear(gelu(hidden), this.w[`${name}.fc2.weight`], this.w[`${name}.fc2.bias`]) };
  }

  norm(x, name) {
    return layerNorm(x, this.dim, this.w[`${name}.weight`], this.w[`${name}.bias`], this.eps);
  }

  // All blocks, on tokens x. silent: a set of heads for each block. Keeps what `backward` needs.
  run(x, temperature, silent) {
    const { w } = this, blocks = [];
    for (let b = 0; b < this.layers; b++) {
      const name = `blocks.${b}`, off = silent[b] || new Set(), norm1 = this.norm(x, `${name}.norm1`);
      const qkv = linear(norm1.y, w[`${name}.attention.in_proj_weight`], w[`${name}.attention.in_proj_bias`]);
      const attended = attention(qkv, this.dim, this.heads, temperature, off);
      x = plus(x, linear(attended.y, w[`${name}.attention.out_proj.weight`], w[`${name}.attention.out_proj.bias`]));
      const norm2 = this.norm(x, `${name}.norm2`), mlp = this.mlp(norm2.y, `${name}.mlp`);
      x = plus(x, mlp.y);
      blocks.push({ name, off, norm1, qkv, attended, norm2, mlp });
    }
    return { x, blocks };
  }
}

class Classifier extends Transformer {
  constructor({ patches, size, padding, ...rest }) {
    super(rest);
    Object.assign(this, { patches, size, padding });
  }

  // image: size x size numbers from 0 to 1.
  forward(image, temperature = 1, silent = []) {
    const { w, size, padding } = this, padded = size + 2 * padding;
    const pixel = (at) => {
      const y = Math.floor(at / padded) - padding, x = at % padded - padding;
      return y >= 0 && x >= 0 && y < size && x < size ? image[y * size + x] : 0;
    };
    const seen = Float64Array.from(this.patches.flatMap((patch) => patch.map(pixel)));
    const patches = w["embed.weight"] ? linear(seen, w["embed.weight"], w["embed.bias"]) : this.mlp(seen, "embed").y;
    const { x, blocks } = this.run(plus(patches, w.position), temperature, silent);
    const norm = this.norm(x, "norm"), pool = this.pool(norm.y);
    const scores = linear(pool.y, w["head.weight"], w["head.bias"]);
    return { blocks, norm, pool, scores, probabilities: softmax(scores), weights: blocks.map((b) => b.attended.weights) };
  }

  // The mean of the tokens, or that weighted by the softmax of tanh(x w + b).
  pool(x) {
    const { w, tokens, dim } = this, y = new Float64Array(dim);
    const tanh = w["pool.hidden.weight"] && linear(x, w["pool.hidden.weight"], w["pool.hidden.bias"]).map(Math.tanh);
    const weights = tanh ? softmax(tanh) : new Float64Array(tokens).fill(1 / tokens);
    for (let t = 0; t < tokens; t++) for (let i = 0; i < dim; i++) y[i] += weights[t] * x[t * dim + i];
    return { y, tanh, weights };
  }

  // Gradient x attention of every head, for the score of one class.
  backward(run, target) {
    const { w, tokens, dim } = this, { tanh, weights } = run.pool;
    const dy = w["head.weight"].subarray(target * dim, (target + 1) * dim);
    const g = new Float64Array(tokens * dim), dWeights = new Float64Array(tokens);
    for (let t = 0; t < tokens; t++) {
      for (let i = 0; i < dim; i++) {
        g[t * dim + i] = weights[t] * dy[i];
        dWeights[t] += dy[i] * run.norm.y[t * dim + i];
      }
    }
    if (tanh) {
      const along = dWeights.reduce((sum, d, t) => sum + d * weights[t], 0);
      for (let t = 0; t < tokens; t++) {
        const slope = weights[t] * (dWeights[t] - along) * (1 - tanh[t] ** 2);
        for (let i = 0; i < dim; i++) g[t * dim + i] += slope * w["pool.hidden.weight"][i];
      }
    }
    let dx = layerNormBack(g, dim, w["norm.weight"], run.norm);
    const effects = [];
    for (const block of run.blocks.toReversed()) {
      const { name, mlp } = block, wide = mlp.hidden.length / tokens;
      let h = geluBack(linearBack(dx, w[`${name}.mlp.fc2.weight`], dim), mlp.hidden);
      h = linearBack(h, w[`${name}.mlp.fc1.weight`], wide);
      dx = plus(dx, layerNormBack(h, dim, w[`${name}.norm2.weight`], block.norm2));
      h = linearBack(dx, w[`${name}.attention.out_proj.weight`], dim);
      const back = attentionBack(h, block.qkv, dim, block.attended, block.off);
      effects.unshift(back.effects);
      h = linearBack(back.dqkv, w[`${name}.attention.in_proj_weight`], 3 * dim);
      dx = plus(dx, layerNormBack(h, dim, w[`${name}.norm1.weight`], block.norm1));
    }
    return effects;
  }

  // The share of each token in the pooled one: the pooling's weights, led back through the blocks (attention rollout).
  rollout(run) {
    let share = run.pool.weights;
    for (const maps of run.weights.toReversed()) {
      const next = new Float64Array(this.tokens);
      for (let t = 0; t < this.tokens; t++) {
        next[t] += share[t] / 2;
        for (let s = 0; s < this.tokens; s++) {
          for (const map of maps) next[s] += share[t] * map[t * this.tokens + s] / maps.length / 2;
        }
      }
      share = next;
    }
    return share;
  }
}
