// Drawing: cards with matrices, the lens that explains one cell, the curves over the temperature.
// build() makes the cards; draw() computes everything again and fills in the numbers.

const INPUTS = ["Q", "K", "V", "T", "w"], BY_KEYS = ["S", "Z", "E", "A", "dA", "dS"], SINGLE = ["R", "H", "L"];
const FORWARD = ["S", "Z", "E", "R", "A", "Y", "L"], BACKWARD = ["G", "dV", "dA", "dS", "dQ", "dK"];
const MOMENTS = { m: "m", v: "v", mhat: "m̂", vhat: "v̂" };
const cells = new Map(); // "Q 0 1" -> its element, whose property `at` is {m, i, j}
let now = {}; // all matrices, by name

const word = (name, more = {}) => {
  const found = WORDS[state.lang][name];
  return typeof found === "string" ? found.replace(/\{(\w+)\}/g, (_, key) => more[key]) : found;
};
const additive = () => state.score === "additive";
const parameters = () => (additive() ? ["Q", "K", "V", "w"] : ["Q", "K", "V"]);
const same = (a, b) => a && b && a.m === b.m && a.i === b.i && a.j === b.j;
const current = () => state.turn ?? state.hover ?? state.at;

function digits(x) {
  const size = Math.abs(x), short = size && (size < 0.0005 || size >= 1000);
  return (x === -Infinity ? "-∞" : short ? x.toExponential(x < 0 ? 0 : 1) : x.toFixed(3)).replaceAll("-", "−");
}
const precise = (x) => (Math.abs(x) < 1e-4 && x ? x.toExponential(3) : x.toFixed(8)).replaceAll("-", "−");
const rough = (x) => x.toExponential(0).replaceAll("-", "−");
const edited = (x) => [4, 2].map((n) => String(Number(x.toFixed(n)))).find((text, k) => k || text.length < 6); // fits its cell
const at = ({ m, i, j }) => now[m][i][j];
const textOf = (place) => (same(place, state.turn) ? "?" : digits(at(place)));

function label(m) {
  const [kind, name] = m.split(".");
  return name ? `${MOMENTS[kind]}(${name})` : m;
}

function nameOf({ m, i, j }) {
  const token = word("tokens"), row = now[m].length > 1 ? [token[i % now.n]] : [];
  const column = SINGLE.includes(m) ? [] : [BY_KEYS.includes(m) ? token[j] : j + 1];
  const head = now[m].length > now.n ? `, ${word("head", { h: i < now.n ? 1 : 2 })}` : "";
  const inside = [...row, ...column].join(", ");
  return label(m) + (inside && `[${inside}]`) + head;
}

// --- cards ---

function grid(m) {
  const a = now[m], token = word("tokens"), name = (j) => (SINGLE.includes(m) ? label(m) : BY_KEYS.includes(m) ? token[j] : String(j + 1));
  const field = (i, j) => {
    const edit = INPUTS.includes(m) ? { inputMode: "text", autocomplete: "off", "aria-label": nameOf({ m, i, j }) } : null;
    const element = html(edit ? "input" : "div", { className: "cell", tabIndex: i || j ? -1 : 0, ...edit }, edit ? null : "?");
    element.at = { m, i, j };
    cells.set(`${m} ${i} ${j}`, element);
    return html("td", { role: "gridcell" }, element);
  };
  const top = html("tr", {}, html("td", { className: "corner" }, a.length > now.n && m !== "H" ? word("head", { h: 1 }) : ""), ...a[0].map((_, j) => html("th", { scope: "col" }, name(j))));
  const rows = a.flatMap((row, i) => {
    const line = html("tr", {}, html("th", { scope: "row" }, a.length > 1 && m !== "H" ? token[i % now.n] : ""), ...row.map((_, j) => field(i, j)));
    return i === now.n ? [html("tr", {}, html("td", { className: "corner second" }, m === "H" ? "\u00a0" : word("head", { h: 2 }))), line] : [line];
  });
  return html("table", { id: m, role: "grid", "aria-label": m }, top, ...rows);
}

function card(m, back) {
  const [name, sentence] = word("stations")[m];
  return html("section", { className: "card" + (back ? " back" : ""), style: `--wide: ${now[m][0].length + ({ A: 1.6, L: 0.6 }[m] ?? 0)}` },
    html("h3", {}, html("b", {}, m), " ", name), html("p", {}, sentence), html("p", { className: "formula" }, formula(m, state)),
    html("div", { className: "matrices" }, grid(m), m === "A" ? grid("H") : null));
}

function moments(name) {
  const captioned = Object.keys(MOMENTS).map((kind) => html("div", {}, html("span", { className: "formula" }, label(`${kind}.${name}`)), grid(`${kind}.${name}`)));
  return html("section", { className: "card" }, html("h3", {}, html("b", {}, name)), html("div", { className: "matrices" }, ...captioned));
}

function build() {
  cells.clear();
  root.lang = state.lang === "zh" ? "zh-CN" : "en";
  document.title = word("title");
  document.querySelectorAll("[data-t]").forEach((e) => { e.textContent = word(e.dataset.t); });
  document.querySelectorAll("[data-label]").forEach((e) => e.setAttribute("aria-label", word(e.dataset.label)));
  byId("inputs").replaceChildren(...INPUTS.filter((m) => m !== "w" || additive()).map((m) => card(m, false)));
  byId("forward").replaceChildren(...FORWARD.map((m) => card(m, false)));
  byId("backward").replaceChildren(...[...BACKWARD, ...(additive() ? ["dw"] : [])].map((m) => card(m, true)));
  byId("moments").replaceChildren(...(state.optimiser === "adam" ? parameters().map(moments) : []));
  byId("keys").replaceChildren(...word("keys").map((text, i) => html(i % 2 ? "dd" : "dt", {}, text)));
}

function fill() {
  const most = {};
  for (const element of cells.values()) {
    const { m } = element.at, x = at(element.at), isTurn = same(element.at, state.turn);
    most[m] ??= Math.max(...now[m].flat().map(Math.abs).filter(Number.isFinite));
    const share = Number.isFinite(x) && most[m] && !isTurn ? 0.42 * Math.abs(x) / most[m] : 0;
    const title = isTurn ? "" : String(x), isInput = element.tagName === "INPUT";
    if (isInput && element !== state.typing) element.value = edited(x);
    if (element.title === title && element.share === share) continue; // most numbers of a slider's step are new, not all
    element.share = share;
    element.title = title;
    element.style.background = `rgb(var(--${x < 0 ? "minus" : "plus"}) / ${share.toFixed(3)})`;
    if (!isInput) element.firstChild.nodeValue = textOf(element.at); // which is faster than textContent
  }
}

// --- the lens ---

// The cell of Q, K, V or w that Check would nudge for a cell: the input itself, or that of its gradient.
function nudgeable(place) {
  const m = place?.m.replace(/^d/, "");
  return m && parameters().includes(m) ? { ...place, m } : null;
}

function pieceNodes(pieces) {
  return pieces.map((piece, k) => {
    if (typeof piece === "string") return piece;
    const x = piece.m ? at(piece) : piece.x, text = piece.m ? textOf(piece) : digits(x);
    const inBrackets = x < 0 && k > 0 && !/\($/.test(pieces[k - 1]) ? `(${text})` : text;
    return html("span", { className: piece.m ? "ref" : "", title: piece.m ? nameOf(piece) : String(x), "data-x": x }, inBrackets);
  });
}

function drawLens() {
  const place = current(), pieces = place && terms(place.m, place.i, place.j, state, now);
  for (const element of cells.values()) element.classList.remove("now", "from");
  if (place) cells.get(`${place.m} ${place.i} ${place.j}`).classList.add("now");
  for (const piece of pieces ?? []) if (piece.m) cells.get(`${piece.m} ${piece.i} ${piece.j}`).classList.add("from");
  byId("lens").classList.toggle("empty", !place);
  byId("lens-name").textContent = place ? nameOf(place) : "";
  byId("lens-terms").replaceChildren(...sentence(place, pieces));
  byId("answer").hidden = !state.turn;
  byId("turn").textContent = word(state.turn ? "show" : "turn");
  byId("says").textContent = state.says;
  byId("says").className = state.happy ? "happy" : "";
  byId("checked").replaceChildren(...(state.check && place ? checkNodes(place) : []));
  const found = place ? sourceOf(place.m) : [];
  byId("lens-code").replaceChildren(...found.flatMap(([where, code]) => [html("small", {}, where), html("pre", {}, code)]));
}

function sentence(place, pieces) {
  if (!place) return [word("none")];
  if (at(place) === -Infinity) return [`−∞: ${word("hidden")}`];
  if (pieces) return ["= ", ...pieceNodes(pieces), html("br"), "= ", html("b", {}, textOf(place))];
  const input = nudgeable(place);
  return input ? [`= ${digits(at(place))}. ${word("input")} d${nameOf(input)} = ${digits(at({ ...input, m: `d${input.m}` }))}`] : [`= ${digits(at(place))}`];
}

function checkNodes(place) {
  const input = nudgeable(place);
  if (!input || state.turn) return [html("p", {}, word("checkWhat"))];
  const { h, plus, minus, slope } = nudged(state.inputs, state, input.m, input.i, input.j), gradient = at({ ...input, m: `d${input.m}` });
  const row = (name, value) => html("tr", {}, html("th", { scope: "row" }, name), html("td", {}, value));
  return [
    html("p", {}, word("checked", { a: nameOf(input), h: "0.00001" })),
    html("table", {}, row("L₊", precise(plus)), row("L₋", precise(minus)), row("(L₊ − L₋) ÷ 2h", precise(slope)), row(`${word("gradient")} d${nameOf(input)}`, precise(gradient))),
    html("p", {}, "✓ " + word("differ", { a: rough(Math.abs(slope - gradient)) })),
  ];
}

function sourceOf(m) {
  if (m.includes(".")) return [data.sources.adam[Object.keys(MOMENTS).indexOf(m.split(".")[0])]];
  const name = ["Q", "K", "V", "w"].includes(m) ? `d${m}` : m === "H" ? "A" : m;
  const found = (additive() && data.sources[`${name} additive`]) || data.sources[name] || [];
  return m === "S" && state.causal ? [...found, ...data.sources["S causal"]] : found;
}

// --- curves ---

const TAUS = range(61).map((k) => 10 ** (k / 20 - 2)); // 0.01 to 10, as the slider
const line = (numbers, most, name) => svg("polyline", { class: name, points: numbers.map((y, k) => `${(k * 320) / (numbers.length - 1)},${86 - (82 * y) / (most || 1)}`).join(" ") });

const heat = { of: "", lines: [] }; // the curves, and what they were computed from: not the temperature

function drawHeat() {
  const { inputs, score, root, causal, shift } = state, of = JSON.stringify([inputs, score, root, causal, shift]), most = Math.log(now.n);
  if (of !== heat.of) {
    const runs = TAUS.map((tau) => attention(inputs, { ...state, tau })), slopes = runs.map((run) => norm(run.dS));
    heat.lines = now.H.map((_, i) => line(runs.map((run) => run.H[i][0]), most, "entropy"));
    heat.lines.push(line(slopes, Math.max(...slopes), "slope"));
    heat.of = of;
  }
  const x = (320 / 3) * (2 + Math.log10(state.tau));
  byId("heat").querySelector("svg").replaceChildren(...heat.lines, svg("line", { x1: x, x2: x, y1: 0, y2: 90 }));
  const mean = total(now.H.length, (i) => now.H[i][0]) / now.H.length;
  byId("reads").textContent = word("reads", { t: state.tau.toPrecision(3), h: mean.toFixed(3), most: most.toFixed(3), s: digits(norm(now.dS)) });
}

function drawLearning() {
  const { losses, t } = state, loss = now.L[0][0], isAdam = state.optimiser === "adam";
  byId("learned").textContent = t ? word("learned", { t, a: digits(loss), b: digits(losses[0]) }) : word("start");
  byId("losses").replaceChildren(...(t ? [svg("polyline", { points: [...losses, loss].map((y, k) => `${(k * 120) / t},${26 - (24 * y) / Math.max(loss, ...losses)}`).join(" ") })] : []));
  byId("optimiser-says").textContent = word(isAdam ? "adamSays" : "sgdSays");
  byId("optimiser-code").lastElementChild.textContent = data.sources[state.optimiser].map((each) => each[1]).join("\n");
}

let built = "";
function draw() {
  const width = widthOf(state), shape = [state.lang, state.score, state.root, state.optimiser].join();
  now = { ...attention(state.inputs, state), adam: state };
  for (const m of INPUTS) now[m] = state.inputs[m].map((row) => row.slice(0, width));
  for (const name of parameters()) for (const kind of Object.keys(MOMENTS)) now[`${kind}.${name}`] = state.moments[name][kind].map((row) => row.slice(0, width));
  if (shape !== built) build();
  built = shape;
  fill();
  drawLens();
  drawHeat();
  drawLearning();
}
