// The state of the page, and what changes it: typing, dragging, buttons and keys.

const zeros = (a) => a.map((row) => row.map(() => 0));

// tau: temperature; shift: added to rows of S; at, hover, turn: cells; moments, t, last, losses: of the optimiser.
function fresh() {
  const inputs = structuredClone(data.start);
  const moments = Object.fromEntries(Object.entries(inputs).map(([m, a]) => [m, { m: zeros(a), v: zeros(a), mhat: zeros(a), vhat: zeros(a) }]));
  return {
    inputs, moments, t: 0, last: {}, losses: [], score: "scaled", root: true, causal: false, tau: 1, shift: Array(8).fill(0),
    hover: null, turn: null, streak: 0, says: "", happy: false, check: false, typing: null,
  };
}
const state = { ...fresh(), lang: data.lang, optimiser: "adam", at: innerWidth > 900 ? { m: "S", i: 2, j: 1 } : null };

function update(change) {
  Object.assign(state, { says: "", happy: false }, change);
  byId("score").value = state.score;
  byId("root").checked = state.root && !additive();
  byId("root").disabled = additive();
  byId("causal").checked = state.causal;
  byId("tau").value = Math.round(100 * Math.log10(state.tau));
  byId("optimiser").value = state.optimiser;
  draw();
}

// --- numbers ---

// A number that somebody typed, or null.
function parsed(text, least = -1000, most = 1000) {
  const x = Number(text.trim().replace("−", "-").replace(",", "."));
  return text.trim() !== "" && x >= least && x <= most ? x : null;
}

function setInput({ m, i, j }, x) {
  state.inputs[m][i][j] = Math.max(-1000, Math.min(1000, x));
  update({});
}

document.addEventListener("input", ({ target }) => {
  if (!target.at) return;
  state.typing = target;
  const x = parsed(target.value);
  if (x !== null) setInput(target.at, x);
});
document.addEventListener("change", ({ target }) => {
  if (!target.at) return;
  const wrong = parsed(target.value) === null;
  update({ typing: null, says: wrong ? word("bad", { a: target.value }) : "" });
});

let drag = null; // {target, y, x}: where the pointer went down, and the number then
document.addEventListener("pointerdown", ({ target, clientY, button }) => {
  if (target.matches?.("input.cell") && button === 0) drag = { target, y: clientY, x: at(target.at), moved: false };
});
document.addEventListener("pointermove", (event) => {
  if (!drag || (!drag.moved && Math.abs(event.clientY - drag.y) < 4)) return;
  drag.moved = true;
  document.body.classList.add("dragging");
  setInput(drag.target.at, Number((drag.x + (drag.y - event.clientY) / 100).toFixed(2)));
});
for (const name of ["pointerup", "pointercancel"]) {
  document.addEventListener(name, () => { drag = null; document.body.classList.remove("dragging"); });
}

// --- choosing cells ---

document.addEventListener("focusin", ({ target }) => {
  if (!target.at) return;
  for (const element of cells.values()) if (element.at.m === target.at.m) element.tabIndex = element === target ? 0 : -1;
  if (target.tagName === "INPUT") target.select();
  if (state.turn) return;
  Object.assign(state, { at: target.at, hover: null });
  drawLens();
});
document.addEventListener("focusout", ({ target }) => { if (target === state.typing) state.typing = null; });
document.addEventListener("pointerover", ({ target, pointerType }) => {
  const place = target.closest?.(".cell")?.at ?? null;
  if (drag || state.turn || pointerType === "touch" || place === state.hover) return;
  state.hover = place;
  drawLens();
});

function cellKey(event) {
  const { target, key } = event, { m, i, j } = target.at, arrow = ARROWS[key], isInput = target.tagName === "INPUT";
  if (isInput && arrow?.[0]) { // up and down change the number
    state.typing = null;
    setInput(target.at, Number((at(target.at) - arrow[0] * (event.shiftKey ? 0.01 : 0.1)).toFixed(4)));
    target.select();
  } else if (isInput && arrow && target.selectionEnd - target.selectionStart < target.value.length) return; // the text cursor
  else if (arrow || (isInput && key === "Enter")) cells.get(`${m} ${i + (arrow?.[0] ?? 1)} ${j + (arrow?.[1] ?? 0)}`)?.focus();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (key === "Escape") return state.turn ? update({ turn: null }) : update({ at: null, hover: null, check: false });
  if (target.at && (ARROWS[key] || key === "Enter")) return cellKey(event);
  const button = { c: "check", t: "turn", s: "step" }[key];
  if (!button || target.tagName === "SELECT" || (target.tagName === "INPUT" && !target.at && target.type !== "range")) return;
  event.preventDefault();
  byId(button).click();
});

// --- buttons ---

const listen = (id, type, does) => byId(id).addEventListener(type, does);
listen("score", "change", ({ target: { value } }) => rearrange({ score: value, root: value === "dot" ? false : value === "scaled" ? true : state.root }));
listen("root", "change", ({ target: { checked } }) => rearrange({ root: checked, score: state.score === "heads" ? "heads" : checked ? "scaled" : "dot" }));
listen("causal", "change", ({ target: { checked } }) => update({ causal: checked }));
listen("tau", "input", ({ target: { value } }) => update({ tau: 10 ** (value / 100) }));
listen("optimiser", "change", ({ target: { value } }) => rearrange({ optimiser: value }));
listen("reset", "click", () => { byId("rate").value = "0.1"; rearrange({ ...fresh(), optimiser: state.optimiser }); });
listen("language", "click", () => update({ lang: state.lang === "en" ? "zh" : "en" }));
listen("theme", "click", () => chooseTheme());
listen("close", "click", () => update({ at: null, hover: null, turn: null, check: false }));
listen("check", "click", () => update({ check: !state.check, turn: null }));

// Another score or optimiser has other cells: an optimiser starts anew, and a cell that is gone is not chosen.
function rearrange(change) {
  const { moments, t, last, losses, shift } = fresh();
  const gone = ({ m, i }) => m.includes(".") || m.endsWith("w") || i > 3;
  update({ moments, t, last, losses, shift, hover: null, turn: null, at: state.at && gone(state.at) ? null : state.at, ...change });
}

listen("shift", "click", () => {
  const before = now, row = (current()?.i ?? 0) % now.S.length, gradients = ["A", ...BACKWARD];
  state.shift[row] += 5;
  update({ turn: null });
  const moved = Math.max(...gradients.map((m) => difference(before[m], now[m])));
  update({ says: word("shifted", { a: word("tokens")[row % now.n], b: rough(moved) }) });
});

function step() {
  const lr = parsed(byId("rate").value, Number.MIN_VALUE, 10);
  if (lr === null) return update({ says: word("badRate", { a: byId("rate").value }) });
  const t = state.t + 1, last = {};
  for (const name of parameters()) {
    const g = now[`d${name}`], old = { m: now[`m.${name}`], v: now[`v.${name}`] };
    const { p, ...kept } = state.optimiser === "adam" ? adam(now[name], g, old, t, lr) : sgd(now[name], g, lr);
    p.forEach((row, i) => row.forEach((x, j) => { state.inputs[name][i][j] = x; }));
    Object.assign(state.moments[name], kept);
    last[name] = { old, g };
  }
  update({ t, last, losses: [...state.losses, now.L[0][0]] });
}
listen("step", "click", step);
listen("steps", "click", () => range(10).forEach(step));

// --- your turn ---

listen("turn", "click", () => {
  const askable = [...cells.values()].map((e) => e.at).filter((p) => [...FORWARD, ...BACKWARD].includes(p.m) && Number.isFinite(at(p)) && p.m !== "L");
  const own = askable.find((place) => same(place, state.at)), random = askable[Math.floor(Math.random() * askable.length)];
  if (state.turn) return update({ turn: null, streak: 0 });
  const turn = own && !state.streak ? own : random; // after a right answer, another cell
  byId("guess").value = "";
  update({ turn, at: turn, hover: null, check: false });
  cells.get(`${turn.m} ${turn.i} ${turn.j}`).scrollIntoView({ block: "nearest" });
  byId("guess").focus();
});

listen("answer", "submit", (event) => {
  event.preventDefault();
  const typed = byId("guess").value, x = parsed(typed), wanted = at(state.turn);
  if (x === null) return update({ says: word("bad", { a: typed }) });
  if (Math.abs(x - wanted) > 0.00501) return update({ streak: 0, says: word(x < wanted ? "low" : "high", { a: typed }) });
  const streak = state.streak + 1;
  update({ turn: null, streak, happy: true, says: `${"★".repeat(Math.min(streak, 5))} ${word("right")[Math.min(streak, 3) - 1]}` });
  byId("turn").focus();
});

update({});
