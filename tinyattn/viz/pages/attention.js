"use strict";
// The state is four choices; every picture is drawn anew from them.
const data = JSON.parse(document.getElementById("data").textContent);
const state = { item: 0, token: null, row: 0, cell: 0, what: "attention", direction: "from", over: null };
const byId = (id) => document.getElementById(id);
const grid = data.grid;
const unit = grid ? "patch" : "word";

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "title"].includes(tag) && attributes.svg;
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name !== "svg" && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// --- numbers ---

// Arrays come as 16-bit integers in base64, with the number that stands for the largest of them.
function unpack(packed) {
  if (packed === null) return null;
  const text = atob(packed.data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const view = new DataView(bytes.buffer), values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) values[i] = view.getInt16(2 * i, true) / 32767 * packed.largest;
  return values;
}

for (const layer of data.layers) {
  layer.attention = unpack(layer.attention);
  layer.gradient = unpack(layer.gradient);
}
for (const name of ["rollout", "answer", "relevance"]) data[name] = unpack(data[name]);

function mean(vectors) {
  const sum = new Float32Array(vectors[0].length);
  for (const vector of vectors) vector.forEach((value, i) => { sum[i] += value / vectors.length; });
  return sum;
}

// One token's line in a matrix (queries, keys) that begins at `start`: what it looks at, or who looks at it.
function line(values, start, queries, keys, token, direction) {
  if (direction === "to" && token !== null) {
    return Float32Array.from({ length: queries }, (_, q) => values[start + q * keys + token]);
  }
  const row = (q) => values.subarray(start + q * keys, start + (q + 1) * keys);
  return token === null || token >= queries ? mean(Array.from({ length: queries }, (_, q) => row(q))) : row(token);
}

function headsOf(layer) {
  const source = layer[state.what], size = layer.queries * layer.keys;
  return Array.from({ length: layer.heads }, (_, h) =>
    line(source, (state.item * layer.heads + h) * size, layer.queries, layer.keys, layer.pooling ? null : state.token, state.direction));
}

// Every row of small maps: {name, cells: [{name, values, share}]}, `share` where the values are shares of one.
function rows() {
  const found = [], share = state.what === "attention";
  for (const layer of data.layers.filter((l) => !l.pooling)) {
    const heads = headsOf(layer);
    const cells = heads.map((values, h) => ({ name: "head " + h, values, share, of: layer.name }));
    if (heads.length > 1) cells.push({ name: "mean", values: mean(heads), share, of: layer.name });
    found.push({ name: layer.name, cells });
  }
  const cells = [], T = data.tokens;
  if (data.rollout) {
    cells.push({ name: "rollout", values: line(data.rollout, state.item * T * T, T, T, state.token, state.direction), share: true, of: "all layers" });
    cells.push({ name: "rollout, answer", values: data.answer.subarray(state.item * T, (state.item + 1) * T), share: true, answer: true, of: "all layers" });
  }
  for (const layer of data.layers.filter((l) => l.pooling)) {
    headsOf(layer).forEach((values, h) =>
      cells.push({ name: layer.heads > 1 ? "pooling, head " + h : "pooling", values, share, answer: true, of: layer.name }));
  }
  if (data.relevance) {
    const target = data.items[state.item].target;
    cells.push({ name: target === null ? "spoke for it" : "spoke for " + target, values: data.relevance.subarray(state.item * T, (state.item + 1) * T), share: false, answer: true, of: "gradient \u00d7 attention through all layers" });
  }
  if (cells.length) found.push({ name: "what came of it all", cells });
  return found;
}

const largest = (values) => values.reduce((most, v) => (Math.abs(v) > Math.abs(most) ? v : most), 0);
function number(value, share) {
  return share ? (100 * value).toFixed(1) + " %" : Number(value.toPrecision(3)).toString();
}
function tokenName(token) {
  if (!grid) return "\u201c" + data.items[state.item].words[token] + "\u201d";
  if (token < grid.extra) return grid.extra === 1 ? "the class token" : "extra token " + token;
  const place = token - grid.extra;
  return "(" + Math.floor(place / grid.columns) + ", " + (place % grid.columns) + ")";
}

// --- colours ---

function colour(value, most) {
  const style = getComputedStyle(document.documentElement);
  const [r, g, b] = style.getPropertyValue(value < 0 ? "--cold" : "--warm").split(",").map(Number);
  return [r, g, b, most ? 0.85 * Math.abs(value) / Math.abs(most) : 0];
}
const css = (value, most) => { const [r, g, b, a] = colour(value, most); return `rgba(${r}, ${g}, ${b}, ${a.toFixed(4)})`; };

// The cells of the grid as so many pixels, stretched over the image.
function paint(canvas, values) {
  const context = canvas.getContext("2d"), pixels = context.createImageData(grid.columns, grid.rows), most = largest(values);
  for (let i = 0; i < grid.rows * grid.columns; i++) {
    const [r, g, b, a] = colour(values[i + grid.extra], most);
    pixels.data.set([r, g, b, Math.round(255 * a)], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
}

function stage(item) {
  const image = make("img", { src: item.image, alt: item.caption, class: data.colours ? "" : "grey", draggable: "false" });
  const box = make("div", { class: "stage" }, image);
  box.style.aspectRatio = grid.width + " / " + grid.height;
  return box;
}

// --- drawing ---

function drawItems() {
  const nav = byId("items");
  data.items.forEach((item, i) => {
    const button = make("button", { type: "button", role: "radio", class: item.wrong ? "wrong" : "" });
    if (grid) button.append(make("img", { src: item.image, alt: "", class: data.colours ? "" : "grey" }));
    if (!grid) button.append(make("em", {}, item.words.slice(0, 6).join(" ") + (item.words.length > 6 ? " \u2026" : "")));
    if (item.caption) button.append(make("span", {}, item.caption));
    button.addEventListener("click", () => update({ item: i }));
    nav.append(button);
  });
  nav.hidden = data.items.length < 2;
}

function drawAll() {
  const all = byId("all"), item = data.items[state.item], found = rows();
  all.style.setProperty("--most", Math.max(...found.map((row) => row.cells.length)));
  all.replaceChildren(...found.map((row, r) => {
    const cells = row.cells.map((cell, c) => {
      const chosen = r === state.row && c === state.cell;
      const label = make("span", { class: "label" }, make("span", {}, cell.name), make("em", {}, number(largest(cell.values), cell.share)));
      const button = make("button", { type: "button", class: "mini", role: "gridcell", "aria-selected": chosen, tabindex: chosen ? 0 : -1 }, label);
      if (grid) {
        const box = stage(item), canvas = make("canvas", { width: grid.columns, height: grid.rows });
        place(canvas);
        paint(canvas, cell.values);
        box.append(canvas);
        button.append(box);
      } else {
        button.append(words(cell, false));
      }
      button.addEventListener("click", () => update({ row: r, cell: c }));
      return button;
    });
    return make("div", { class: "row", role: "row" }, make("h3", {}, row.name), make("div", { class: "cells" }, ...cells));
  }));
}

function place(canvas) {
  const first = grid.cells[0], last = grid.cells[grid.cells.length - 1];
  const percent = (x, whole) => (100 * x / whole) + "%";
  canvas.style.left = percent(first[0], grid.width);
  canvas.style.top = percent(first[1], grid.height);
  canvas.style.width = percent(last[2] - first[0], grid.width);
  canvas.style.height = percent(last[3] - first[1], grid.height);
}

function words(cell, large) {
  const most = largest(cell.values), item = data.items[state.item];
  const spans = Array.from(cell.values, (value, i) => {
    const span = make("span", { title: number(value, cell.share) }, item.words[i] ?? "+" + i);
    span.style.background = css(value, most);
    if (large) {
      span.id = "token-" + i;
      span.setAttribute("role", "gridcell");
      span.classList.toggle("chosen", i === state.token);
      span.append(make("small", {}, number(value, cell.share)));
      span.addEventListener("click", () => update({ token: i === state.token ? null : i }));
    }
    return span;
  });
  return make("div", { class: "words" }, ...spans);
}

function drawBig(cell) {
  const big = byId("big"), item = data.items[state.item];
  big.setAttribute("aria-activedescendant", state.token === null ? "" : "token-" + state.token);
  if (!grid) return big.replaceChildren(words(cell, true));
  const box = stage(item), most = largest(cell.values);
  const svg = make("svg", { svg: true, class: grid.cells.length > 400 ? "fine" : "", viewBox: `0 0 ${grid.width} ${grid.height}` });
  const frame = (bounds, extra) => make("rect", { svg: true, x: bounds[0], y: bounds[1], width: bounds[2] - bounds[0], height: bounds[3] - bounds[1], ...extra });
  grid.cells.forEach((bounds, i) => {
    const token = i + grid.extra, said = tokenName(token) + ": " + number(cell.values[token], cell.share);
    const rect = frame(bounds, { id: "token-" + token, role: "gridcell", "aria-label": said, "aria-selected": token === state.token, fill: css(cell.values[token], most) });
    rect.append(make("title", { svg: true }, said));
    rect.addEventListener("click", () => update({ token: token === state.token ? null : token }));
    svg.append(rect);
  });
  if (state.token !== null && state.token >= grid.extra) svg.append(frame(grid.boxes[state.token - grid.extra], { class: "box" }));
  box.append(svg);
  const parts = [box];
  const extras = Array.from({ length: grid.extra }, (_, token) => {
    const button = make("button", { type: "button", class: "extra", id: "token-" + token, tabindex: -1, "aria-selected": token === state.token }, tokenName(token) + ": " + number(cell.values[token], cell.share));
    button.style.background = css(cell.values[token], most);
    button.addEventListener("click", () => update({ token: token === state.token ? null : token }));
    return button;
  });
  big.replaceChildren(...extras, ...parts);
}

function drawReadout(row, cell) {
  const item = data.items[state.item];
  byId("name").textContent = [item.caption, cell.of, cell.name].filter(Boolean).join(" \u00b7 ");
  const most = largest(cell.values), signed = !cell.share && cell.values.some((v) => v < 0);
  byId("legend").className = signed ? "signed" : "";
  byId("low").textContent = signed ? number(-Math.abs(most), cell.share) : "0";
  byId("high").textContent = number(Math.abs(most), cell.share);
  const order = Array.from(cell.values.keys()).sort((a, b) => Math.abs(cell.values[b]) - Math.abs(cell.values[a])).slice(0, 3);
  const list = order.map((t) => `${tokenName(t)} ${number(cell.values[t], cell.share)}`).join(", ");
  const chosen = state.token === null ? `All ${unit === "patch" ? "patches" : "words"}, on average,` : `${unit === "patch" && !(state.token < grid.extra) ? "Patch " : ""}${tokenName(state.token)}`;
  let sentence;
  if (cell.answer) sentence = `The answer: most from ${list}.`;
  else if (state.what === "gradient" && cell.name !== "rollout") sentence = `${chosen}: what the score${item.target === null ? "" : " of " + item.target} gains or loses by each weight; most by ${list}.`;
  else if (state.direction === "to" && state.token !== null) sentence = `${chosen} is looked at most by ${list}.`;
  else sentence = `${chosen} look${state.token === null ? "" : "s"} most at ${list}.`;
  if (state.token === null && !cell.answer) sentence += ` Click a ${unit} to see what it alone looks at.`;
  byId("readout").textContent = sentence;
}

function drawClasses() {
  const item = data.items[state.item], table = byId("classes");
  table.replaceChildren(...(item.probabilities || []).map(([name, p]) => {
    const bar = make("b");
    bar.style.width = 100 * p + "%";
    return make("tr", { class: name === item.target ? "target" : "" }, make("td", {}, String(name)), make("td", {}, number(p, true)), make("td", {}, bar));
  }));
}

function draw() {
  const all = rows();
  state.row = Math.min(state.row, all.length - 1);
  state.cell = Math.min(state.cell, all[state.row].cells.length - 1);
  const cell = all[state.row].cells[state.cell];
  [...byId("items").children].forEach((button, i) => {
    button.setAttribute("aria-checked", i === state.item);
    button.tabIndex = i === state.item ? 0 : -1;
  });
  byId("direction").disabled = state.token === null;
  for (const name of ["what", "direction"]) document.querySelector(`input[name=${name}][value=${state[name]}]`).checked = true;
  drawAll();
  drawBig(cell);
  drawReadout(all[state.row], cell);
  drawClasses();
}

function update(change) {
  const focus = byId("all").contains(document.activeElement) ? "#all [tabindex='0']" : byId("big").contains(document.activeElement) ? "#big" : null;
  Object.assign(state, change);
  draw();
  if (focus) document.querySelector(focus)?.focus();
}

// --- keys ---

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const within = (value, count) => Math.max(0, Math.min(count - 1, value));

function moveToken(down, right) {
  const extra = grid ? grid.extra : 0, columns = grid ? grid.columns : data.tokens, lines = grid ? grid.rows : 1;
  if (state.token === null) return update({ token: 0 });
  if (state.token < extra) { // from one extra token to the next, and then to the first patch
    return update({ token: down > 0 ? extra : within(state.token + right, data.tokens) });
  }
  const at = state.token - extra, y = Math.floor(at / columns), x = at % columns;
  if (extra && y === 0 && down < 0) return update({ token: extra - 1 });
  update({ token: extra + within(y + down, lines) * columns + within(x + right, columns) });
}

function moveCell(down, right) {
  const all = rows();
  if (!grid) { // one column: the rows of words below each other
    const flat = all.flatMap((row, r) => row.cells.map((_, c) => [r, c]));
    const at = flat.findIndex(([r, c]) => r === state.row && c === state.cell);
    const [row, cell] = flat[within(at + down + right, flat.length)];
    return update({ row, cell });
  }
  const row = within(state.row + down, all.length);
  update({ row, cell: within(state.cell + right, all[row].cells.length) });
}

function moveItem(step) {
  update({ item: within(state.item + step, data.items.length) });
  if (byId("items").contains(document.activeElement)) byId("items").children[state.item].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = (id) => byId(id).contains(document.activeElement);
  const arrow = ARROWS[event.key];
  if (arrow && document.activeElement.tagName === "INPUT") return; // radio buttons move by themselves
  if (arrow && inside("items")) moveItem(arrow[0] + arrow[1]);
  else if (arrow && inside("all")) moveCell(...arrow);
  else if (arrow) moveToken(...arrow);
  else if (event.key === "Escape") update({ token: null });
  else if (event.key === "g" && data.gradients) update({ what: state.what === "gradient" ? "attention" : "gradient" });
  else if (event.key === "d") update({ direction: state.direction === "to" ? "from" : "to" });
  else if (event.key === ",") moveItem(-1);
  else if (event.key === ".") moveItem(1);
  else return;
  event.preventDefault();
});

for (const name of ["what", "direction"]) {
  byId(name).addEventListener("change", (event) => update({ [name]: event.target.value }));
}
byId("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = getComputedStyle(root).getPropertyValue("--invert").trim() === "1";
  root.dataset.theme = dark ? "light" : "dark";
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// attention.html#item=4&token=24&row=1&cell=3&what=gradient opens it there.
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  if (["item", "token", "row", "cell"].includes(name) && /^\d+$/.test(value)) state[name] = Number(value);
  if (name === "what" && (value !== "gradient" || data.gradients) && ["attention", "gradient"].includes(value)) state.what = value;
  if (name === "direction" && ["from", "to"].includes(value)) state.direction = value;
}
state.item = within(state.item, data.items.length);
if (state.token !== null) state.token = within(state.token, data.tokens);
byId("title").textContent = data.title;
byId("unit").textContent = unit;
document.querySelectorAll(".unit").forEach((element) => { element.textContent = unit; });
byId("what").disabled = !data.gradients;
document.body.className = grid ? "of-patches" : "of-words";
byId("note").textContent = data.note;
drawItems();
draw();
