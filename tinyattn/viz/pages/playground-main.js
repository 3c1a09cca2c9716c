// The tab of the digit: the state, and one function that draws all of it.
const model = new Classifier(data);
const side = Math.round(Math.sqrt(model.tokens)), cell = data.size / side; // patches, as a grid of squares
const state = {
  image: new Float64Array(data.size ** 2), what: "attention", target: null, token: null,
  blank: new Set(), silent: Array.from({ length: data.layers }, () => new Set()),
};
const samples = data.samples.map((text) => Float64Array.from(bytes(text), (byte) => byte / 255));

const cellOf = (pixel) => Math.floor(Math.floor(pixel / data.size) / cell) * side + Math.floor(pixel % data.size / cell);
const without = (blank) => blank.size ? state.image.map((v, i) => blank.has(cellOf(i)) ? 0 : v) : state.image;
const think = (blank) => model.forward(without(blank), page.temperature, state.silent);

// One query's row of a matrix (tokens, tokens); no query: the mean of all.
function rowOf(map, token) {
  if (token !== null) return map.subarray(token * model.tokens, (token + 1) * model.tokens);
  const mean = new Float64Array(model.tokens);
  map.forEach((value, i) => { mean[i % model.tokens] += value / model.tokens; });
  return mean;
}

// --- drawing ---

let run = null, effects = null;

function update() {
  run = think(state.blank);
  effects = null;
  draw();
  curveSoon();
  document.dispatchEvent(new Event("image"));
}

function draw() {
  const best = run.probabilities.indexOf(Math.max(...run.probabilities));
  const target = state.target === null ? best : state.target;
  if (state.what === "effect" && (effects === null || effects.of !== target)) {
    effects = model.backward(run, target);
    effects.of = target;
  }
  drawClasses(target);
  drawMaps();
  drawSeen();
  const blanked = state.blank.size ? ` ${state.blank.size} blank.` : "";
  const where = state.token === null ? "No patch is chosen: the maps are means over all patches." :
    `Patch in row ${Math.floor(state.token / side) + 1}, column ${state.token % side + 1}; ` +
    `the pooling gives it ${percent(run.pool.weights[state.token])}.`;
  byId("readout").textContent = `${data.names[best]}, ${percent(run.probabilities[best])}. ${where}${blanked}`;
  byId("of").textContent = state.what === "attention" ? "What each head attends to" :
    `What each head's attention adds to the score of ${data.names[target]}`;
}

function drawClasses(target) {
  byId("classes").replaceChildren(...data.names.map((name, c) => {
    const choose = html("button", { type: "button", title: "choose this class" }, name);
    choose.addEventListener("click", () => { state.target = state.target === c ? null : c; draw(); curveSoon(); });
    return classRow(choose, run.probabilities[c], c === target);
  }));
}

const maps = Array.from({ length: data.layers }, (_, b) => Array.from({ length: data.heads }, (_, h) => {
  const canvas = html("canvas", { width: 4 * data.size, height: 4 * data.size });
  const button = html("button", { type: "button", title: "silence this head" }, `head ${h}`);
  button.addEventListener("click", () => {
    state.silent[b].has(h) ? state.silent[b].delete(h) : state.silent[b].add(h);
    update();
  });
  return { canvas, button, box: html("div", {}, button, canvas) };
}));
byId("maps").append(...maps.map((heads, b) =>
  html("div", { className: "row" }, html("h3", {}, `block ${b}`), html("div", { className: "cells" }, ...heads.map((m) => m.box)))));

function drawMaps() {
  const source = state.what === "attention" ? run.weights : effects;
  const rows = source.map((heads) => heads.map((map) => rowOf(map, state.token)));
  const largest = Math.max(4 / model.tokens * (state.what === "attention"), ...rows.flat().map((row) => Math.max(...row.map(Math.abs))), 1e-12);
  const digit = picture(without(state.blank), data.size, 0.35);
  rows.forEach((heads, b) => heads.forEach((row, h) => {
    const { canvas, button, box } = maps[b][h];
    paintOver(canvas, digit, row, side, largest);
    const off = state.silent[b].has(h);
    box.className = off ? "silent" : "";
    button.setAttribute("aria-pressed", off);
    canvas.title = `largest: ${Math.max(...row).toPrecision(3)}`;
  }));
  const signed = state.what === "effect";
  byId("scale").className = signed ? "signed" : "";
  byId("low").textContent = signed ? (-largest).toPrecision(2) : "0";
  byId("high").textContent = signed ? largest.toPrecision(2) : percent(largest);
  byId("even").hidden = signed;
  byId("even").style.left = `${100 / model.tokens / largest}%`;
  byId("mark").textContent = signed ? "To first order, what each weight adds to the score." :
    `All maps are on this scale. The mark is 1/${model.tokens}: attention that prefers nothing.`;
}

function drawSeen() {
  const canvas = byId("seen"), ink = canvas.getContext("2d"), each = canvas.width / side;
  ink.clearRect(0, 0, canvas.width, canvas.height);
  ink.imageSmoothingEnabled = false;
  ink.drawImage(picture(state.image, data.size), 0, 0, canvas.width, canvas.height);
  for (let t = 0; t < model.tokens; t++) {
    const at = [t % side * each, Math.floor(t / side) * each, each, each];
    ink.strokeStyle = "rgba(128, 128, 128, .35)";
    ink.lineWidth = 1;
    ink.strokeRect(...at);
    if (state.blank.has(t)) {
      ink.fillStyle = `rgb(${cssNumbers("--minus").join(" ")} / .75)`;
      ink.fillRect(...at);
    }
  }
  if (state.token === null) return;
  ink.strokeStyle = getComputedStyle(root).getPropertyValue("--now");
  ink.lineWidth = 3;
  ink.strokeRect(state.token % side * each, Math.floor(state.token / side) * each, each, each);
}

// --- the curve: the probability of the class as patches are blanked, the most attended first, and in chance order ---

let waiting = 0;

function curveSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(curve, 250);
}

function shuffled(items, seed) { // the same order each time, so that a curve changes only with what was drawn
  const next = () => { seed = seed * 48271 % 2147483647; return seed; };
  return items.map((item) => [next(), item]).sort(([a], [b]) => a - b).map(([, item]) => item);
}

function curve() {
  const best = run.probabilities.indexOf(Math.max(...run.probabilities));
  const target = state.target === null ? best : state.target, share = model.rollout(run), n = model.tokens;
  const led = Array.from({ length: n }, (_, t) => t).sort((a, b) => share[b] - share[a]);
  const chance = [1, 2, 3].map((seed) => shuffled(led, seed));
  const counts = Array.from({ length: 9 }, (_, i) => Math.round(i * n / 8)), jobs = [], found = [[], []];
  for (const count of counts) for (const [i, orders] of [[0, [led]], [1, chance]]) jobs.push({ count, i, orders });
  const work = () => { // a piece at a time, so that the page answers
    const { count, i, orders } = jobs.shift();
    const p = orders.map((order) => think(new Set([...state.blank, ...order.slice(0, count)])).probabilities[target]);
    found[i].push([count, p.reduce((a, b) => a + b) / p.length]);
    drawCurve(found, target);
    if (jobs.length) waiting = setTimeout(work, 0);
  };
  work();
}

function drawCurve([led, chance], target) {
  const x = (count) => 52 + 360 * count / model.tokens, y = (p) => 122 - 110 * p;
  const path = (points, name) => svg("path", { class: name, d: `M${points.map(([c, p]) => `${x(c)},${y(p)}`).join("L")}` });
  const text = (at, down, words, anchor = "start") => svg("text", { x: at, y: down, "text-anchor": anchor }, words);
  byId("curve").replaceChildren(
    svg("title", {}, `Probability of ${data.names[target]} as patches are blanked`),
    svg("path", { class: "frame", d: "M52,12V122H412" }), path(led, "led"), ...(chance.length ? [path(chance, "chance")] : []),
    text(46, 18, "100 %", "end"), text(46, 126, "0 %", "end"), text(52, 140, "0"), text(412, 140, `${model.tokens} blank`, "end"),
    text(232, 140, `probability of ${data.names[target]}`, "middle"));
}

// --- what the reader does ---

const paper = new Paper(byId("paper"), () => {
  state.image = paper.image(data.size);
  state.blank.clear();
  update();
});

function take(image) {
  paper.show(image, data.size);
  state.image = image;
  state.blank.clear();
  update();
}

for (const image of samples) {
  const button = html("button", { type: "button", title: "take this sample" });
  const repaint = () => button.replaceChildren(picture(image, data.size));
  document.addEventListener("theme", repaint);
  repaint();
  button.addEventListener("click", () => take(image));
  byId("samples").append(button);
}

function tool(erasing) {
  paper.erasing = erasing;
  byId("draw").setAttribute("aria-pressed", !erasing);
  byId("erase").setAttribute("aria-pressed", erasing);
}

function choose(token) {
  if (token === state.token) return;
  state.token = token;
  draw();
}

function toggle(token) {
  if (token === null) return;
  state.blank.has(token) ? state.blank.delete(token) : state.blank.add(token);
  update();
}

pickCells(byId("seen"), side, () => state.token, choose, toggle);
byId("draw").addEventListener("click", () => tool(false));
byId("erase").addEventListener("click", () => tool(true));
byId("clear").addEventListener("click", () => take(new Float64Array(data.size ** 2)));
byId("what").addEventListener("change", (event) => { state.what = event.target.value; draw(); });
document.addEventListener("reset", () => {
  state.blank.clear();
  state.silent.forEach((heads) => heads.clear());
  Object.assign(state, { target: null, token: null });
});
document.addEventListener("temperature", update);
document.addEventListener("theme", () => run && draw());
if (asked.has("token")) state.token = Number(asked.get("token"));
if (samples.length) take(samples[Number(asked.get("item") || 0)]);
else update();
Object.assign(page, { model, state, update });
