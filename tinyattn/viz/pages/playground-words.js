// The tab of the words: one types, and the attention of every head follows.

// Names and order are those of CharacterModel in examples/reverse_words.py.
class Characters extends Transformer {
  constructor({ alphabet, ...rest }) {
    super(rest);
    this.alphabet = alphabet;
  }

  // word: at most as many characters as the model has places; the first character of the alphabet fills the rest.
  forward(word, temperature = 1, silent = []) {
    const { w, dim, tokens } = this, seen = [...word.padEnd(tokens, this.alphabet[0])].map((c) => this.alphabet.indexOf(c));
    const x = Float64Array.from({ length: tokens * dim }, (_, at) => w["embedding.weight"][seen[Math.floor(at / dim)] * dim + at % dim] + w.position[at]);
    const run = this.run(x, temperature, silent), many = this.alphabet.length;
    const scores = linear(this.norm(run.x, "norm").y, w["head.weight"], w["head.bias"]);
    const best = seen.map((_, t) => {
      const row = softmax(scores.subarray(t * many, (t + 1) * many)), most = row.indexOf(row.reduce((a, b) => Math.max(a, b)));
      return { character: this.alphabet[most], probability: row[most] };
    });
    return { seen: seen.map((c) => this.alphabet[c]), scores, best, weights: run.blocks.map((b) => b.attended.weights) };
  }
}

const characters = new Characters(data.words), places = [...Array(characters.tokens).keys()];
const words = { word: "", place: null, silent: Array.from({ length: data.words.layers }, () => new Set()), run: null };
const visible = (c) => c.trim() || "·";

// A button for each place of the row; the one that is pointed at, or has the focus, is the chosen place.
const cellsOf = (name, label) => places.map((t) => {
  const cell = html("button", { type: "button", "aria-label": `${label} ${t + 1}` });
  for (const event of ["pointerenter", "focus"]) cell.addEventListener(event, () => choosePlace(t));
  byId(name).append(cell);
  return cell;
});
const given = places.map(() => byId("given").appendChild(html("span"))), written = cellsOf("written", "place");
const tables = words.silent.map((silent, b) => Array.from({ length: data.words.heads }, (_, h) => {
  const button = html("button", { type: "button", title: "silence this head" }, `block ${b}, head ${h}`);
  button.addEventListener("click", () => { silent.has(h) ? silent.delete(h) : silent.add(h); drawWords(); });
  const heads = places.map(() => html("th", { scope: "col" })), sides = places.map(() => html("th", { scope: "row" }));
  const cells = places.map(() => places.map(() => html("td")));
  const rows = places.map((t) => html("tr", {}, sides[t], ...cells[t]));
  rows.forEach((row, t) => row.addEventListener("pointerenter", () => choosePlace(t)));
  const box = html("div", {}, button, html("table", {}, html("tr", {}, html("td"), ...heads), ...rows));
  byId("grids").append(box);
  return { box, button, heads, sides, cells, rows };
}));

function drawWords() {
  const run = words.run = characters.forward(words.word, page.temperature, words.silent), colour = cssNumbers("--plus").join(" ");
  const shade = (cell, share, most) => { cell.style.background = `rgb(${colour} / ${most * share})`; };
  const last = run.weights.at(-1), { place } = words, n = places.length;
  places.forEach((t) => {
    given[t].textContent = visible(run.seen[t]);
    shade(given[t], place === null || !last ? 0 : last.reduce((sum, map) => sum + map[place * n + t], 0) / last.length, 0.5); // as dark as a letter can be read on
    written[t].textContent = visible(run.best[t].character);
    written[t].className = t === place ? "now" : "";
  });
  tables.forEach((heads, b) => heads.forEach(({ box, button, heads: tops, sides, cells, rows }, h) => {
    const off = words.silent[b].has(h);
    box.className = off ? "silent" : "";
    button.setAttribute("aria-pressed", off);
    places.forEach((t) => {
      tops[t].textContent = visible(run.seen[t]);
      sides[t].textContent = visible(run.best[t].character);
      rows[t].className = t === place ? "now" : "";
      places.forEach((s) => {
        const share = run.weights[b][h][t * n + s];
        shade(cells[t][s], share, 0.75);
        cells[t][s].title = percent(share);
      });
    });
  }));
  const sure = Math.min(...run.best.map((x) => x.probability));
  byId("sure").textContent = place === null ? `It is at least ${percent(sure)} sure of every place.` :
    `Place ${place + 1}: ${visible(run.best[place].character)}, ${percent(run.best[place].probability)}. The shades above are what the last block attends to there.`;
}

function choosePlace(place) {
  if (place === words.place) return;
  words.place = place;
  drawWords();
}

function type(text) {
  const known = [...text.toLowerCase()].filter((c) => characters.alphabet.includes(c) && c !== characters.alphabet[0]).join("");
  words.word = known.slice(0, characters.tokens);
  byId("unknown").textContent = known.length > characters.tokens ? `The model has ${characters.tokens} places.` :
    known.length < text.length ? `It knows only ${characters.alphabet.slice(1)}.` : "";
  drawWords();
}

byId("word").maxLength = characters.tokens + 1;
byId("word").addEventListener("input", () => type(byId("word").value));
byId("words").addEventListener("pointerleave", () => choosePlace(null));
byId("words").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], at = written.indexOf(event.target);
  if (step && at >= 0) written[Math.min(Math.max(at + step, 0), places.length - 1)].focus();
  else if (event.key === "Escape") choosePlace(null);
});
document.addEventListener("reset", () => {
  words.silent.forEach((heads) => heads.clear());
  words.place = null;
});
for (const event of ["temperature", "theme"]) document.addEventListener(event, drawWords);
byId("word").value = asked.get("word") ?? characters.alphabet.slice(1, 1 + Math.ceil(0.6 * characters.tokens));
type(byId("word").value);
Object.assign(page, { characters, words });
