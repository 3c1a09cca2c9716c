// The tab of the score functions: the article's model with each of them, on the same drawing.

// Names and order are those of AttentionModel in tinyattn/models.py.
class Pooled {
  constructor({ name, heads, scale, levels, eps, weights }) {
    Object.assign(this, { name, heads, scale, levels, eps, w: decoded(weights) });
    this.dim = this.w["norm.weight"].length;
    this.additive = "attention.hidden.weight" in this.w;
    this.formula = this.additive ? "tanh(w·x + b)" : heads > 1 ? `qₕ·(Wx)ₕ / √${this.dim / heads}` : scale === 1 ? "q·(Wx)" : `q·(Wx) / √${this.dim}`;
    this.table = this.scored();
  }

  token(level, pixel, i) {
    return this.w["embedding.weight"][level * this.dim + i] + this.w.position[pixel * this.dim + i];
  }

  // The score of every level at every pixel, by each head. q . (x W) is x . (q W): a query is one row of weights.
  scored() {
    const { w, dim, heads } = this, size = dim / heads, pixels = w.position.length / dim;
    const rows = new Float64Array(heads * dim), start = new Float64Array(heads);
    for (let o = 0; !this.additive && o < dim; o++) {
      const h = Math.floor(o / size), by = w["attention.query"][o] * this.scale;
      start[h] += by * w["attention.key.bias"][o];
      for (let i = 0; i < dim; i++) rows[h * dim + i] += by * w["attention.key.weight"][o * dim + i];
    }
    const tokens = Float64Array.from({ length: this.levels * pixels * dim }, (_, at) =>
      this.token(Math.floor(at / dim / pixels), Math.floor(at / dim) % pixels, at % dim));
    if (this.additive) return linear(tokens, w["attention.hidden.weight"], w["attention.hidden.bias"]).map(Math.tanh);
    return linear(tokens, rows, start); // (levels, pixels, heads)
  }

  forward(image, temperature = 1) {
    const { w, dim, heads } = this, size = dim / heads, mean = new Float64Array(dim);
    const levels = Array.from(image, (v) => Math.floor(v * (this.levels - 1) + 0.5));
    const weights = Array.from({ length: heads }, (_, h) =>
      softmax(Float64Array.from(levels, (level, p) => this.table[(level * image.length + p) * heads + h] / temperature)));
    for (let i = 0; i < dim; i++) {
      const share = weights[Math.floor(i / size)];
      for (let p = 0; p < image.length; p++) mean[i] += share[p] * this.token(levels[p], p, i);
    }
    const scores = linear(layerNorm(mean, dim, w["norm.weight"], w["norm.bias"], this.eps).y, w["fc.weight"], w["fc.bias"]);
    return { weights, scores, probabilities: softmax(scores) };
  }
}

const spread = (share) => Math.exp(-share.reduce((sum, p) => sum + (p && p * Math.log(p)), 0)); // as many equal weights

const cards = data.compare.map((content) => {
  const parts = { maps: html("div", { className: "maps" }), best: html("p", { className: "best" }), bars: html("div", { className: "bars" }), note: html("p", { className: "quiet" }) };
  byId("four").append(html("article", {}, html("h3", {}, content.name), html("p", { className: "formula" }), parts.maps, parts.best, parts.bars, parts.note));
  return { content, model: null, ...parts };
});
byId("four").style.maxWidth = `${304 * cards.length - 22}px`; // no map wider than the paper
let pixel = null; // that under the pointer

function drawScores() {
  if (page.tab !== "scores") return;
  const digit = picture(state.image, data.size, 0.35);
  for (const card of cards) {
    if (card.model === null) { // its table is made when the tab is first seen
      card.model = new Pooled(card.content);
      card.bars.closest("article").querySelector(".formula").textContent = card.model.formula;
      card.canvases = Array.from({ length: card.model.heads }, () => html("canvas", { width: 4 * data.size, height: 4 * data.size }));
      card.maps.replaceChildren(...card.canvases);
      card.maps.classList.toggle("several", card.model.heads > 1);
    }
    card.run = card.model.forward(state.image, page.temperature);
    card.canvases.forEach((canvas, h) => paintOver(canvas, digit, card.run.weights[h], data.size, card.run.weights[h].reduce((a, b) => Math.max(a, b))));
    const { probabilities } = card.run, best = probabilities.indexOf(Math.max(...probabilities));
    card.best.textContent = `${data.names[best]}, ${percent(probabilities[best])}`;
    card.bars.replaceChildren(...Array.from(probabilities, (p, c) => {
      const bar = html("b", { className: c === best ? "best" : "" });
      bar.style.height = `${40 * p + 1}px`;
      return html("span", { title: percent(p) }, bar, data.names[c]);
    }));
  }
  drawPixel();
}

function drawPixel() { // what each model gives the chosen pixel, or how its weights are spread
  const even = data.size ** 2, shown = (list) => list.map((x) => x.toFixed(x < 10 ? 1 : 0)).join(", ");
  for (const { run: { weights }, note } of cards) {
    note.textContent = pixel === null ? `Spread as over ${weights.map((w) => spread(w).toFixed(0)).join(", ")} equal pixels of ${even}.` :
      `Row ${Math.floor(pixel / data.size) + 1}, column ${pixel % data.size + 1}: ${shown(weights.map((w) => w[pixel] * even))} times an even share.`;
  }
}

pickCells(byId("four"), data.size, () => pixel, (chosen) => { pixel = chosen; drawPixel(); });
for (const event of ["tab", "image", "theme"]) document.addEventListener(event, drawScores);
page.compared = (index) => cards[index].model ??= new Pooled(cards[index].content);
