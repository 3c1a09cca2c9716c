// The page of attention maps.
// The state is six choices; every change draws all pictures again.
const state = { item: 0, token: null, row: 0, cell: 0, what: "attention", direction: "from" };
const grid = data.grid;
const unit = grid ? "patch" : "word";

// --- numbers ---

// Arrays come as 16-bit integers in base64, with the number that 32767 stands for.
function unpack(packed) {
  if (packed === null) return null;
  const view = new DataView(bytes(packed.data).buffer);
  return Float32Array.from({ length: view.byteLength / 2 }, (_, i) => view.getInt16(2 * i, true) / 32767 * packed.largest);
}

for (const layer of data.layers) {
  layer.attention = unpack(layer.attention);
  layer.gradient = unpack(layer.gradient);
}
for (const name of ["rollout", "output", "relevance"]) data[name] = unpack(data[name]);

function mean(vectors) {
  const sum = new Float32Array(vectors[0].length);
  for (const vector of vectors) vector.forEach((value, i) => { sum[i] += value / vectors.length; });
  return sum;
}

// One token's row or column of a matrix (queries, keys) that begins at `start`; no token: the mean of the rows.
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

// Every row of small maps: {name, cells: [{name, values, share, output, of}]}. share: the values are shares of 1;
// output: they describe the model's output, not the chosen token; of: the layer.
function rows() {
  const found = [], share = state.what === "attention", T = data.tokens;
  const own = (values) => values.subarray(state.item * T, (state.item + 1) * T);
  for (const layer of data.layers.filter((l) => !l.pooling)) {
    const heads = headsOf(layer);
    const cells = heads.map((values, h) => ({ name: "head " + h, values, share, of: layer.name }));
    if (heads.length > 1) cells.push({ name: "mean", values: mean(heads), share, of: layer.name });
    found.push({ name: layer.name, cells });
  }
  const cells = [], of = "all layers";
  if (data.rollout) {
    const values = line(data.rollout, state.item * T * T, T, T, state.token, state.direction);
    cells.push({ name: "rollout", values, share: true, of });
    cells.push({ name: "rollout, output", values: own(data.output), share: true, output: true, of });
  }
  for (const layer of data.layers.filter((l) => l.pooling)) {
    headsOf(layer).forEach((values, h) =>
      cells.push({ name: layer.heads > 1 ? "pooling, head " + h : "pooling", values, share, output: true, of: layer.name }));
  }
  if (data.relevance) {
    const target = data.items[state.item].target;
    cells.push({ name: `relevance for ${target ?? "the target"}`, values: own(data.relevance), share: false, output: true, of });
  }
  if (cells.length) found.push({ name: of, cells });
  return found;
}

const largest = (values) => values.reduce((most, v) => (Math.abs(v) > Math.abs(most) ? v : most), 0);
function number(value, share) {
  return share ? percent(value) : Number(value.toPrecision(3)).toString();
}
function tokenName(token) {
  if (!grid) return "\u201c" + data.items[state.item].words[token] + "\u201d";
  if (token < grid.extra) return grid.extra === 1 ? "the class token" : "extra token " + token;
  const place = token - grid.extra;
  return "(" + Math.floor(place / grid.columns) + ", " + (place % grid.columns) + ")";
}

// --- colours ---

// What full colour stands for: the largest of all maps of one kind, so that two maps can be compared by eye, and of shares
// at least four times even attention. Rollout has a scale of its own, since a token keeps much of itself, and so have the
// terms of the pooling, since all that the blocks do must pass through it.
const kindOf = (cell) => (cell.name === "rollout" ? "rollout" : cell.share ? "share" : cell.output ? cell.name.split(/[ ,]/)[0] : "gradient");
const scaleOf = (cell) => scales[kindOf(cell)];
let scales = {};
function setScales(cells) {
  scales = { share: 4 / data.tokens };
  for (const cell of cells) scales[kindOf(cell)] = largest([scales[kindOf(cell)] ?? 0, largest(cell.values)]);
}

// What the names mean.
const MEANINGS = {
  rollout: "how much of each token has arrived in the chosen one after all layers: the product of the layers' mean weights, half of each for the residual connection",
  "rollout, output": "how much of each token has arrived in the output, by rollout",
  pooling: "the weights with which the tokens are added up for the output",
  relevance: "how much each token adds to the score of this class through attention: positive gradient × attention, through all layers",
  mean: "the mean of the heads",
  head: "one head's attention weights; they add up to 100 % for each query",
};
const meaning = (cell) => MEANINGS[cell.name] ?? MEANINGS[cell.name.split(/[ ,]/)[0]] ?? "";

// The values of the patches, stretched over the image.
function canvasOf(values, most) {
  const canvas = shades(values.subarray(grid.extra), grid.columns, most);
  const [left, top] = grid.cells[0], [, , right, bottom] = grid.cells.at(-1);
  const share = (x, whole) => (100 * x / whole) + "%";
  Object.assign(canvas.style, {
    left: share(left, grid.width), top: share(top, grid.height),
    width: share(right - left, grid.width), height: share(bottom - top, grid.height),
  });
  return canvas;
}

function stage(item, over) {
  const image = html("img", { src: item.image, alt: item.caption, class: data.colours ? "" : "grey", draggable: false });
  const box = html("div", { class: "stage" }, image, over);
  box.style.aspectRatio = grid.width + " / " + grid.height;
  return box;
}

// --- drawing ---

function drawItems() {
  const nav = byId("items");
  data.items.forEach((item, i) => {
    const start = grid
      ? html("img", { src: item.image, alt: "", class: data.colours ? "" : "grey" })
      : html("em", {}, item.words.slice(0, 6).join(" ") + (item.words.length > 6 ? " \u2026" : ""));
    const text = item.caption ? html("span", {}, item.caption) : null;
    nav.append(html("button", { type: "button", role: "radio", class: item.wrong ? "wrong" : "", onclick: () => update({ item: i }) }, start, text));
  });
  nav.hidden = data.items.length < 2;
}

function drawAll() {
  const all = byId("all"), item = data.items[state.item], found = rows();
  all.style.setProperty("--most", Math.max(...found.map((row) => row.cells.length)));
  all.replaceChildren(...found.map((row, r) => {
    const cells = row.cells.map((cell, c) => {
      const chosen = r === state.row && c === state.cell;
      const label = html("span", { class: "label" }, html("span", {}, cell.name), html("em", {}, number(largest(cell.values), cell.share)));
      const map = grid ? stage(item, canvasOf(cell.values, scaleOf(cell))) : words(cell, false);
      return html("button", {
        type: "button", class: "mini", title: meaning(cell), role: "gridcell", "aria-selected": chosen, tabindex: chosen ? 0 : -1,
        onclick: () => update({ row: r, cell: c }),
      }, label, map);
    });
    return html("div", { class: "row", role: "row" }, html("h3", {}, row.name), html("div", { class: "cells" }, ...cells));
  }));
}

function words(cell, large) {
  const most = scaleOf(cell), item = data.items[state.item];
  const spans = Array.from(cell.values, (value, i) => {
    const span = html("span", { title: number(value, cell.share) }, item.words[i] ?? "+" + i);
    span.style.background = css(value, most);
    if (large) {
      span.id = "token-" + i;
      span.setAttribute("role", "gridcell");
      span.classList.toggle("chosen", i === state.token);
      span.append(html("small", {}, number(value, cell.share)));
      span.addEventListener("click", () => choose(i));
    }
    return span;
  });
  return html("div", { class: "words" }, ...spans);
}

function drawBig(cell) {
  const big = byId("big"), item = data.items[state.item];
  big.setAttribute("aria-activedescendant", state.token === null ? "" : "token-" + state.token);
  if (!grid) return big.replaceChildren(words(cell, true));
  const most = scaleOf(cell);
  const text = (token) => tokenName(token) + ": " + number(cell.values[token], cell.share);
  const field = (token) => ({ id: "token-" + token, "aria-selected": token === state.token });
  const plane = svg("svg", { class: grid.cells.length > 400 ? "fine" : "", viewBox: `0 0 ${grid.width} ${grid.height}` });
  const frame = ([left, top, right, bottom], extra) => svg("rect", { x: left, y: top, width: right - left, height: bottom - top, ...extra });
  grid.cells.forEach((bounds, i) => {
    const token = i + grid.extra;
    const rect = frame(bounds, { ...field(token), role: "gridcell", "aria-label": text(token), fill: css(cell.values[token], most) });
    rect.append(svg("title", {}, text(token)));
    rect.addEventListener("click", () => choose(token));
    plane.append(rect);
  });
  if (state.token !== null && state.token >= grid.extra) plane.append(frame(grid.boxes[state.token - grid.extra], { class: "box" }));
  const extras = Array.from({ length: grid.extra }, (_, token) => {
    const button = html("button", { ...field(token), type: "button", class: "extra", tabindex: -1, onclick: () => choose(token) }, text(token));
    button.style.background = css(cell.values[token], most);
    return button;
  });
  big.replaceChildren(...extras, stage(item, plane));
}

function drawReadout(cell) {
  const item = data.items[state.item];
  byId("name").textContent = [item.caption, cell.of, cell.name].filter(Boolean).join(" \u00b7 ");
  const most = scaleOf(cell), signed = !cell.share && cell.values.some((v) => v < 0);
  byId("scale").className = signed ? "signed" : "";
  byId("low").textContent = signed ? number(-Math.abs(most), cell.share) : "0";
  byId("high").textContent = number(Math.abs(most), cell.share) + (cell.share ? `; even attention is ${number(1 / data.tokens, true)}` : "");
  const order = [...cell.values.keys()].sort((a, b) => Math.abs(cell.values[b]) - Math.abs(cell.values[a]));
  const list = order.slice(0, 3).map((t) => `${tokenName(t)} ${number(cell.values[t], cell.share)}`).join(", ");
  const isPatch = grid && state.token >= grid.extra;
  const chosen = state.token === null ? `All ${grid ? "patches" : "words"}, on average,` : `${isPatch ? "Patch " : ""}${tokenName(state.token)}`;
  let sentence;
  if (cell.output) sentence = `The output: most from ${list}.`;
  else if (state.what === "gradient" && cell.name !== "rollout") sentence = `${chosen}: the term of each weight in the score${item.target === null ? "" : " of " + item.target}; largest for ${list}.`;
  else if (state.direction === "to" && state.token !== null) sentence = `${chosen} is attended to most by ${list}.`;
  else sentence = `${chosen} attend${state.token === null ? "" : "s"} most to ${list}.`;
  if (state.token === null && !cell.output) sentence += ` Click a ${unit} to see its own attention.`;
  byId("readout").textContent = sentence;
}

function drawClasses() {
  const item = data.items[state.item];
  byId("classes").replaceChildren(...(item.probabilities || []).map(([name, share]) => classRow(String(name), share, name === item.target)));
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
  const strip = byId("items"), chosen = strip.children[state.item], left = chosen.offsetLeft - strip.offsetLeft;
  strip.scrollLeft = Math.min(left, Math.max(strip.scrollLeft, left + chosen.offsetWidth - strip.clientWidth));
  byId("direction").disabled = state.token === null;
  for (const name of ["what", "direction"]) document.querySelector(`input[name=${name}][value=${state[name]}]`).checked = true;
  setScales(all.flatMap((row) => row.cells));
  drawAll();
  drawBig(cell);
  drawReadout(cell);
  drawClasses();
}

const choose = (token) => update({ token: token === state.token ? null : token });

function update(change) {
  const focus = byId("all").contains(document.activeElement) ? "#all [tabindex='0']" : byId("big").contains(document.activeElement) ? "#big" : null;
  Object.assign(state, change);
  draw();
  if (focus) document.querySelector(focus)?.focus();
}

// --- keys ---

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
document.addEventListener("theme", draw);

// attention.html#item=4&token=24&row=1&cell=3&what=gradient opens the page there.
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  if (["item", "token", "row", "cell"].includes(name) && /^\d+$/.test(value)) state[name] = Number(value);
  if (name === "what" && (value !== "gradient" || data.gradients) && ["attention", "gradient"].includes(value)) state.what = value;
  if (name === "direction" && ["from", "to"].includes(value)) state.direction = value;
}
state.item = within(state.item, data.items.length);
if (state.token !== null) state.token = within(state.token, data.tokens);
document.querySelectorAll(".unit").forEach((element) => { element.textContent = unit; });
byId("what").disabled = !data.gradients;
document.body.className = grid ? "of-patches" : "of-words";
byId("note").textContent = data.note;
drawItems();
draw();
