// The panel: one step, with its arrays.

const note = (text) => html("p", { className: "note" }, text);
const heading = (text) => html("h3", {}, text);
const card = (...children) => html("div", { className: "card" }, ...children);
const back = (...children) => html("div", { className: "card back" }, ...children);

class Panel {
  constructor(model, element, goTo) {
    Object.assign(this, { model, element, goTo });
  }

  show(...children) {
    this.element.replaceChildren(...children.flat(Infinity).filter(Boolean));
    this.element.scrollTop = 0;
    this.repaint();
  }

  repaint() {
    for (const canvas of this.element.querySelectorAll("canvas")) canvas.paint();
  }

  // --- contents ---

  overview() {
    const { model } = this;
    const parameters = model.vertices.filter((v) => v.kind === "parameter");
    const elements = parameters.reduce((n, v) => n + v.size, 0);
    const row = (name, value) => html("div", {}, html("b", {}, String(value)), ` ${name}`);
    this.show(
      html("span", { className: "phase" }, "Overview"),
      html("h2", {}, model.title),
      model.error ? card(html("b", {}, "The forward pass failed"), html("pre", {}, model.error)) : null,
      html("p", {}, "The forward pass runs from top to bottom." + (model.steps.length ? " The backward pass then starts at the output, takes the newest node first, and passes its gradients on to the node's inputs." : "") + " The slider, or the key →, leads through the steps."),
      card(
        row(`${plural("operation", model.forward.length)} in the forward pass`, model.forward.length),
        model.known ? row(`${plural("node", model.steps.length)} in the backward pass`, model.steps.length) : html("div", {}, model.backward),
        row("edges", model.edges),
        parameters.length ? row(`parameters with ${elements.toLocaleString("en")} elements`, parameters.length) : null),
      model.note ? note(model.note) : null,
      model.unused ? note(`${model.unused} more ${plural("operation", model.unused)} ran, but no output depends on them.`) : null,
      html("p", { className: "note" }, html("kbd", {}, "?"), " shows all keys."));
  }

  forward(vertex, number) {
    this.show(this.head(vertex, "Forward", `step ${number} of ${this.model.forward.length}`), this.values(vertex), this.saved(vertex));
  }

  vertex(vertex) {
    const users = this.model.users[vertex.index];
    this.show(this.head(vertex, vertex.operation ? "Operation" : vertex.kind[0].toUpperCase() + vertex.kind.slice(1), ""), this.values(vertex),
      vertex.gradient === null ? null : [heading("Gradient"), back(this.array(vertex.gradient))],
      this.saved(vertex),
      users.length ? [heading("Used by"), html("p", { className: "goes" }, ...users.slice(0, 40).flatMap((u) => [this.link(u), html("br")]))] : null);
  }

  backward(step, number) {
    const vertex = this.model.vertices[step.vertex];
    const rules = this.model.sources[vertex.rule];
    this.show(this.head(vertex, "Backward", `step ${number} of ${this.model.steps.length}`, true),
      heading(vertex.operation ? "Gradient g of the output" : "Gradient, as stored in .grad"),
      back(this.array(step.gradient)),
      step.arrivals.length ? heading("Rules and their gradients") : null,
      "" in rules && step.arrivals.length ? html("pre", {}, rules[""]) : null,
      vertex.rule in this.model.kernels ? html("details", {}, html("summary", {}, "what it computes, in operations"), html("pre", {}, this.model.kernels[vertex.rule])) : null,
      step.arrivals.map((arrival) => this.arrival(vertex, arrival, rules)),
      vertex.operation ? null : note("A leaf: the backward pass ends here."),
      this.saved(vertex, "Saved values that the rules use"), this.line(vertex));
  }

  arrival(vertex, [target, slot, gradient, total], rules) {
    const formula = { ...this.model.formulas[vertex.rule], ...vertex.rules };
    const name = slot.replace(/\[\d+\]$/, "");
    return card(
      html("div", { className: "head" }, html("b", {}, `for ${vertex.letters[slot] ?? slot}:`), html("span", { className: "rule" }, formula[slot] || formula[name] || "")),
      rules[name] ? html("pre", {}, rules[name]) : null,
      this.array(gradient),
      total === gradient ? html("p", { className: "goes" }, "goes to ", this.link(target)) : html("p", { className: "goes sum" }, "added to the gradient of ", this.link(target), ", which is now:"),
      total === gradient ? null : this.array(total));
  }

  // --- parts ---

  head(vertex, phase, count, isBack = false) {
    const turns = this.model.turns(vertex.index).map(([box, which]) => {
      const { name, members } = this.model.boxes[box];
      return `${name}: ${which + 1} of ${members.length}`;
    });
    return [
      html("span", { className: isBack ? "phase back" : "phase" }, count ? `${phase}, ${count}` : phase),
      html("h2", {}, vertex.title),
      html("p", { className: "path" }, [vertex.path, turns.join(", ")].filter(Boolean).join(" · ")),
      vertex.kind === "failed" ? null : html("p", { className: "path" }, vertex.about)];
  }

  equation(vertex) {
    const options = Object.entries({ ...vertex.numbers, ...vertex.options }).map(([k, v]) => `${k} = ${v}`).join(",  ");
    return [vertex.formula ? html("p", { className: "equation" }, vertex.formula) : null, options ? note(options) : null,
      vertex.operation && !vertex.recorded && vertex.kind !== "failed" ? note("Not recorded: no gradient flows here.") : null];
  }

  // What went in and what came out.
  values(vertex) {
    const failure = vertex.error ? card(html("b", {}, "The forward pass failed here"), html("pre", {}, vertex.error)) : null;
    return [this.equation(vertex), failure, this.line(vertex), this.inputs(vertex), this.output(vertex)];
  }

  inputs(vertex) {
    if (!vertex.inputs.length) return null;
    return [heading("Inputs"), vertex.inputs.map(([source, slot], i) => {
      const from = this.model.vertices[source];
      const head = html("div", { className: "head" }, html("b", {}, slot in vertex.letters ? `input ${i + 1}` : slot), " from ", this.link(source));
      return card(head, from.value === null ? html("span", { className: "shape-text" }, `${from.shape} ${from.dtype}`) : this.array(from.value));
    })];
  }

  output(vertex) {
    if (vertex.kind === "failed") return null;
    const value = vertex.value === null ? note("Not recorded. Pass the model and its inputs to graph() to see the value.") : this.array(vertex.value);
    return [heading(vertex.operation ? "Output" : "Value"), card(value)];
  }

  saved(vertex, title = "Saved for the backward pass") {
    const entries = Object.entries(vertex.saved);
    return entries.length ? [heading(title), entries.map(([name, place]) => card(html("b", {}, name), this.array(place)))] : null;
  }

  line(vertex) {
    return [["Your line", vertex.site], ["The model's line", vertex.inner]].map(([title, site]) => site && [heading(`${title}, ${site[0]}:${site[1]}`), html("pre", {}, site[2] || "source not available")]).flat();
  }

  link(index) {
    const vertex = this.model.vertices[index];
    const text = vertex.path && !vertex.title.startsWith(vertex.path) ? `${vertex.title} in ${vertex.path}` : vertex.title;
    return html("button", { className: "link", onclick: () => this.goTo(index) }, text);
  }

  // --- arrays ---

  array(place) {
    const entry = this.model.arrays[place];
    const element = html("div", { className: "array", "data-array": place });
    element.append(html("div", { className: "shape-text" }, `${entry.shape.join("×") || "scalar"} ${entry.dtype}`));
    element.append(entry.values ? numbers(entry) : heatMap(entry), entry.values?.length === 1 ? "" : stats(entry));
    return element;
  }
}

// A table of all elements, rows by the last axis.
function numbers(entry) {
  const columns = entry.shape.length ? entry.shape[entry.shape.length - 1] : 1;
  const table = html("table");
  const scale = Math.max(...entry.values.map((v) => Math.abs(v)).filter(Number.isFinite), 0);
  for (let i = 0; i < entry.values.length; i += columns) {
    const row = table.insertRow();
    for (const value of entry.values.slice(i, i + columns)) {
      const cell = row.insertCell();
      cell.textContent = shortNumber(value);
      cell.title = String(value);
      if (typeof value === "number" && entry.values.length > 1) cell.style.background = `rgb(var(--${value < 0 ? "minus" : "plus"}) / ${scale ? ((0.5 * Math.abs(value)) / scale).toFixed(3) : 0})`;
    }
  }
  return table;
}

function shortNumber(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// Orange above zero, blue below, both from the largest magnitude; without both signs, from the smallest to the largest
// value. Frames are matrices along the first axes.
function heatMap(entry) {
  const [frames, rows, columns] = entry.grid;
  const codes = Uint8Array.from(atob(entry.cells), (c) => c.charCodeAt(0));
  const [low, high] = [Number(entry.low), Number(entry.high)];
  const ends = low >= 0 ? [low, high] : high <= 0 ? [high, low] : [0, Math.max(-low, high)]; // white, and full colour
  const reach = ends[1] - ends[0] || 1;
  const holder = html("div", { className: "frames" });
  const most = frames > 1 ? 160 : 340; // pixels
  for (let f = 0; f < frames; f++) {
    const canvas = html("canvas", { width: columns, height: rows, role: "img", "aria-label": `heat map, ${entry.shape.join(" by ")}` });
    const cell = Math.max(1, Math.min(most / columns, 220 / rows, 14));
    canvas.style.width = `${Math.max(columns * cell, 40)}px`;
    canvas.style.height = `${Math.max(rows * cell, 12)}px`;
    canvas.paint = () => {
      const [plus, minus, zero] = ["--plus", "--minus", "--zero"].map(cssNumbers);
      const image = new ImageData(columns, rows);
      for (let i = 0; i < rows * columns; i++) {
        const code = codes[f * rows * columns + i];
        const value = low + (code / 254) * (high - low), t = Math.min(1, Math.abs((value - ends[0]) / reach));
        const colour = code === 255 ? [255, 0, 255] : zero.map((z, k) => z + (value < 0 || high <= 0 && low < 0 ? minus : plus)[k] * t - z * t);
        image.data.set([...colour, 255], i * 4);
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    };
    holder.append(canvas);
  }
  const more = entry.frames > frames ? `the first ${frames} of ${entry.frames} matrices; ` : "";
  const cells = rows * columns * frames < entry.shape.reduce((n, m) => n * m, 1) && !more ? "a cell is a mean of several; " : "";
  const square = entry.square ? `each row of ${entry.square ** 2} as ${entry.square} × ${entry.square}; ` : "";
  const sign = low >= 0 ? "plus" : high <= 0 ? "minus" : "";
  const scale = html("div", { className: "scale" }, shortNumber(sign ? ends[0] : -reach), html("i", { className: sign }), shortNumber(ends[1]), more || cells || square ? html("span", {}, (more + cells + square).replace(/; $/, "")) : null);
  return html("div", {}, holder, scale);
}

function stats(entry) {
  const element = html("div", { className: "stats" });
  for (const name of ["min", "mean", "max", "std", "norm"]) if (name in entry) element.append(html("span", {}, `${name} `, html("b", {}, shortNumber(Number(entry[name])))));
  if (entry.zeros) element.append(html("span", {}, "zeros ", html("b", {}, String(entry.zeros))));
  if (entry.bad) element.append(html("span", {}, "NaN or infinite ", html("b", {}, String(entry.bad))));
  return element;
}
