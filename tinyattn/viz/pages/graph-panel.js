"use strict";
// The panel: what happens at a step, with its arrays.

function html(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

class Panel {
  constructor(model, element, goTo) {
    Object.assign(this, { model, element, goTo });
  }

  show(...children) {
    this.element.replaceChildren(...children.flat(Infinity).filter(Boolean));
    this.element.scrollTop = 0;
    for (const canvas of this.element.querySelectorAll("canvas")) canvas.paint();
  }

  repaint() {
    for (const canvas of this.element.querySelectorAll("canvas")) canvas.paint();
  }

  // --- what there is to show ---

  overview() {
    const { model } = this;
    const kinds = (kind) => model.vertices.filter((v) => v.kind === kind);
    const parameters = kinds("parameter");
    const elements = parameters.reduce((n, v) => n + sizeOf(v.shape), 0);
    const row = (name, value) => html("div", {}, html("b", {}, String(value)), ` ${name}`);
    this.show(
      html("span", { className: "phase" }, "Overview"),
      html("h2", {}, model.title),
      model.error ? html("div", { className: "card" }, html("b", {}, "The forward stopped"), html("pre", {}, model.error)) : null,
      html("p", {}, "The forward runs from top to bottom. Then the walk goes back from the output, the newest node first, and hands each gradient on to what the node was computed from. Press → to take the first step."),
      html("div", { className: "card" },
        row(`operation${model.forward.length === 1 ? "" : "s"} forward`, model.forward.length),
        row("nodes on the way back", model.steps.length),
        row("edges", model.vertices.reduce((n, v) => n + v.inputs.length, 0)),
        parameters.length ? row(`parameters with ${elements.toLocaleString("en")} elements`, parameters.length) : null),
      model.note ? html("p", { className: "note" }, model.note) : null,
      model.unused ? html("p", { className: "note" }, `${model.unused} more operation${model.unused === 1 ? "" : "s"} ran and led to no output.`) : null,
      html("p", { className: "note" }, html("kbd", {}, "?"), " shows all keys."));
  }

  forward(vertex, number) {
    this.show(this.heading(vertex, "Forward", `step ${number} of ${this.model.forward.length}`),
      this.equation(vertex), this.failure(vertex), this.line(vertex), this.inputs(vertex), this.output(vertex), this.saved(vertex));
  }

  vertex(vertex) {
    const users = this.model.users[vertex.index];
    this.show(this.heading(vertex, vertex.operation ? "Operation" : vertex.kind[0].toUpperCase() + vertex.kind.slice(1), ""),
      this.equation(vertex), this.failure(vertex), this.line(vertex), this.inputs(vertex), this.output(vertex),
      vertex.gradient === null ? null : [html("h3", {}, "Its whole gradient"), html("div", { className: "card back" }, this.array(vertex.gradient))],
      this.saved(vertex),
      users.length ? [html("h3", {}, "Goes into"), html("p", { className: "goes" }, ...users.slice(0, 40).flatMap((u) => [this.link(u), html("br")]))] : null);
  }

  backward(step, number) {
    const vertex = this.model.vertices[step.vertex];
    const rules = this.model.sources[vertex.rule];
    this.show(this.heading(vertex, "Backward", `step ${number} of ${this.model.steps.length}`, true),
      html("h3", {}, vertex.operation ? "The gradient g that has arrived, complete" : "The gradient that has arrived: what .grad gets"),
      html("div", { className: "card back" }, this.array(step.gradient)),
      step.arrivals.length ? html("h3", {}, "Its rules, and what they give") : null,
      "" in rules && step.arrivals.length ? html("pre", {}, rules[""]) : null,
      step.arrivals.map((arrival) => this.arrival(vertex, arrival, rules)),
      vertex.operation ? null : html("p", { className: "note" }, "A leaf: the walk ends here."),
      this.saved(vertex, "What the rules use, saved on the way forward"), this.line(vertex));
  }

  arrival(vertex, [target, slot, gradient, total], rules) {
    const formula = this.model.formulas[vertex.rule];
    const name = slot.replace(/\[\d+\]$/, "");
    const card = html("div", { className: "card" },
      html("div", { className: "head" }, html("b", {}, `for ${slot}:`), html("span", { className: "rule" }, formula[slot] || formula[name] || "")),
      rules[name] ? html("pre", {}, rules[name]) : null, this.array(gradient));
    if (total === gradient) card.append(html("p", { className: "goes" }, "goes to ", this.link(target)));
    else card.append(html("p", { className: "goes sum" }, "is added to what had come to ", this.link(target), " before:"), this.array(total));
    return card;
  }

  // --- parts ---

  heading(vertex, phase, count, back = false) {
    const turn = this.model.turn(vertex.index);
    return [
      html("span", { className: back ? "phase back" : "phase" }, count ? `${phase}, ${count}` : phase),
      html("h2", {}, vertex.title),
      html("p", { className: "path" }, [vertex.path, turn].filter(Boolean).join(" · ")),
      vertex.kind === "failed" ? null : html("p", { className: "path" }, `${shapeText(vertex.shape)} ${vertex.dtype}, ${bytesText(vertex.bytes)}${vertex.time ? ", " + vertex.time : ""}`)];
  }

  equation(vertex) {
    const options = Object.entries({ ...vertex.numbers, ...vertex.options }).map(([k, v]) => `${k} = ${v}`).join(",  ");
    return [vertex.formula ? html("p", { className: "equation" }, vertex.formula) : null, options ? html("p", { className: "note" }, options) : null,
      vertex.operation && !vertex.recorded && vertex.kind !== "failed" ? html("p", { className: "note" }, "Not recorded: no gradient passes here.") : null];
  }

  failure(vertex) {
    return vertex.error ? html("div", { className: "card" }, html("b", {}, "Here the forward stopped"), html("pre", {}, vertex.error)) : null;
  }

  inputs(vertex) {
    if (!vertex.inputs.length) return null;
    return [html("h3", {}, "Takes"), vertex.inputs.map(([source, slot]) => {
      const from = this.model.vertices[source];
      const head = html("div", { className: "head" }, html("b", {}, slot), " from ", this.link(source));
      return html("div", { className: "card" }, head, from.value === null ? html("span", { className: "shape-text" }, `${shapeText(from.shape)} ${from.dtype}`) : this.array(from.value));
    })];
  }

  output(vertex) {
    if (vertex.kind === "failed") return null;
    const value = vertex.value === null ? html("p", { className: "note" }, "The value was not kept. Give graph() the model and its inputs, and it is.") : this.array(vertex.value);
    return [html("h3", {}, vertex.operation ? "Gives" : "Value"), html("div", { className: "card" }, value)];
  }

  saved(vertex, title = "Saves for the way back") {
    const entries = Object.entries(vertex.saved);
    return entries.length ? [html("h3", {}, title), entries.map(([name, place]) => html("div", { className: "card" }, html("b", {}, name), this.array(place)))] : null;
  }

  line(vertex) {
    return [["Your line", vertex.site], ["The model's line", vertex.inner]].map(([title, site]) => site && [html("h3", {}, `${title}, ${site[0]}:${site[1]}`), html("pre", {}, site[2] || "not at hand")]).flat();
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
    element.append(html("div", { className: "shape-text" }, `${shapeText(entry.shape)} ${entry.dtype}`));
    if (entry.values) element.append(numbers(entry), entry.values.length > 1 ? stats(summary(entry.values)) : "");
    else element.append(heatMap(entry), stats(entry));
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

// Orange above zero, blue below, both from the largest magnitude; frames are matrices along the first axes.
function heatMap(entry) {
  const [frames, rows, columns] = entry.grid;
  const codes = Uint8Array.from(atob(entry.cells), (c) => c.charCodeAt(0));
  const [low, high] = [Number(entry.low), Number(entry.high)];
  const reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const holder = html("div", { className: "frames" });
  const most = frames > 1 ? 160 : 340; // pixels
  for (let f = 0; f < frames; f++) {
    const canvas = html("canvas", { width: columns, height: rows, role: "img", "aria-label": `heat map, ${entry.shape.join(" by ")}` });
    const cell = Math.max(1, Math.min(most / columns, 220 / rows, 14));
    canvas.style.width = `${Math.max(columns * cell, 40)}px`;
    canvas.style.height = `${Math.max(rows * cell, 12)}px`;
    canvas.paint = () => {
      const style = getComputedStyle(document.documentElement);
      const [plus, minus, zero] = ["--plus", "--minus", "--zero"].map((v) => style.getPropertyValue(v).trim().split(" ").map(Number));
      const image = new ImageData(columns, rows);
      for (let i = 0; i < rows * columns; i++) {
        const code = codes[f * rows * columns + i];
        const value = low + (code / 254) * (high - low), t = Math.min(1, Math.abs(value) / reach);
        const colour = code === 255 ? [255, 0, 255] : zero.map((z, k) => z + (value < 0 ? minus : plus)[k] * t - z * t);
        image.data.set([...colour, 255], i * 4);
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
    };
    holder.append(canvas);
  }
  const more = entry.frames > frames ? `the first ${frames} of ${entry.frames} matrices; ` : "";
  const cells = rows * columns * frames < sizeOf(entry.shape) && !more ? "a cell is a mean of several; " : "";
  const scale = html("div", { className: "scale" }, shortNumber(-reach), html("i"), shortNumber(reach), more || cells ? html("span", {}, (more + cells).replace(/; $/, "")) : null);
  return html("div", {}, holder, scale);
}

function summary(values) {
  const finite = values.map(Number).filter(Number.isFinite);
  const n = finite.length, sum = (f) => finite.reduce((s, v) => s + f(v), 0);
  if (!n) return { bad: values.length, zeros: 0 };
  const mean = sum((v) => v) / n;
  return { min: Math.min(...finite), mean, max: Math.max(...finite), std: Math.sqrt(sum((v) => (v - mean) ** 2) / n), norm: Math.sqrt(sum((v) => v * v)), zeros: finite.filter((v) => v === 0).length, bad: values.length - n };
}

function stats(entry) {
  const element = html("div", { className: "stats" });
  for (const name of ["min", "mean", "max", "std", "norm"]) if (name in entry) element.append(html("span", {}, `${name} `, html("b", {}, shortNumber(Number(entry[name])))));
  if (entry.zeros) element.append(html("span", {}, "zeros ", html("b", {}, String(entry.zeros))));
  if (entry.bad) element.append(html("span", {}, "NaN or infinite ", html("b", {}, String(entry.bad))));
  return element;
}
