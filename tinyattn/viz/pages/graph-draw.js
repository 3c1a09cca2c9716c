// The picture: items, frames and wires as SVG, and how a step shows in it.

const FONTS = { name: "650 13px system-ui, sans-serif", times: "650 13px system-ui, sans-serif", formula: "italic 13.5px 'DejaVu Serif', Georgia, serif", quiet: "11px system-ui, sans-serif" };
const SPACE = 8; // between two words of different style
const MOST = 1500; // items drawn at once; more are slow and unreadable

class Picture {
  constructor(model, scene) {
    this.model = model;
    this.scene = scene;
    this.pen = document.createElement("canvas").getContext("2d");
  }

  // Draws what is visible; returns false without drawing if that is too much.
  draw() {
    const view = this.model.view();
    if (view.items.size > MOST) return false;
    this.view = view;
    this.warm(view);
    this.lines = new Map([...view.items.values()].map((item) => [item.key, this.linesOf(item)]));
    const size = (item) => this.sizeOf(item);
    this.layout = layOut(view, this.model.boxes, (box) => this.model.frameOf(box), size, (box) => this.headingWidth(box));
    this.scene.replaceChildren();
    this.elements = new Map();
    this.wires = new Map();
    const frames = [...view.open].sort((a, b) => this.model.chain(a).length - this.model.chain(b).length || a - b);
    for (const box of frames) this.scene.append(this.frame(box));
    for (const wire of view.wires.values()) this.drawWire(wire);
    for (const box of frames) this.scene.append(this.heading(box)); // above the wires
    for (const item of view.items.values()) this.scene.append(this.item(item));
    return true;
  }

  // The time of each item, summed over all that it stands for, if times were recorded.
  warm(view) {
    this.seconds = new Map();
    for (const [i, v] of this.model.vertices.entries()) if (v.operation) this.seconds.set(view.of[i], (this.seconds.get(view.of[i]) || 0) + v.seconds);
    this.most = Math.max(0, ...this.seconds.values());
  }

  // --- words ---

  // Lines of text, each a list of [style, text].
  linesOf(item) {
    const lines = item.isBox ? this.linesOfBox(item.index) : this.model.vertices[item.index].lines;
    return lines.map((line) => line.filter(([, text]) => text));
  }

  linesOfBox(index) {
    const { label, lines } = this.model.boxes[index], [name, times] = this.model.nameOf(index);
    return [[["name", name], ["times", times ? `×${times}` : ""], ["quiet", label]], ...lines, ...(this.seconds.get("b" + index) && !lines.some((line) => /[mµ]s/.test(line[0][1])) ? [[["quiet", timeText(this.seconds.get("b" + index))]]] : [])];
  }

  width(style, text) {
    this.pen.font = FONTS[style];
    return this.pen.measureText(text).width;
  }

  lineWidth(line) {
    return line.reduce((sum, [style, text]) => sum + this.width(style, text) + SPACE, -SPACE);
  }

  sizeOf(item) {
    const lines = this.lines.get(item.key);
    const wide = Math.max(...lines.map((line) => this.lineWidth(line)));
    return item.leaf ? [wide + 24, 6 + lines.length * 18] : [Math.max(70, wide + 26), 12 + lines.length * 18];
  }

  headingWidth(box) {
    const [name, times] = this.model.nameOf(box);
    return this.width("name", name + (times ? ` ×${times}` : "")) + this.width("quiet", this.model.boxes[box].type) + 40;
  }

  // --- elements ---

  item(item) {
    const { x, y, w, h } = this.layout.items.get(item.key);
    const lines = this.lines.get(item.key);
    const g = svg("g", { class: `item ${this.classesOf(item)}`, transform: `translate(${x} ${y})`, tabindex: -1, role: "button", "data-key": item.key, "aria-label": (item.isBox ? this.model.boxes : this.model.vertices)[item.index].spoken });
    const square = item.leaf && this.model.vertices[item.index].kind !== "input" && this.model.vertices[item.index].kind !== "constant";
    const radius = item.leaf ? (square ? 0 : 12) : 8;
    if (item.isBox) {
      g.setAttribute("aria-expanded", "false");
      const layers = this.model.nameOf(item.index)[1] ? 2 : 1; // a pile, where one stands for several
      for (let i = layers; i > 0; i--) g.append(svg("rect", { class: "under", x: 3.5 * i, y: 3.5 * i, width: w, height: h, rx: 8 }));
    }
    const shape = svg("rect", { class: "shape", width: w, height: h, rx: radius });
    const share = this.most && !item.leaf ? (this.seconds.get(item.key) || 0) / this.most : 0;
    if (share) shape.style.fill = `color-mix(in srgb, rgb(var(--plus)) ${Math.round(45 * share ** 0.7)}%, var(--card))`;
    g.append(shape);
    const [top, step] = item.leaf ? [16.5, 18] : [19, 18];
    lines.forEach((line, i) => {
      let x = (w - this.lineWidth(line)) / 2;
      for (const [style, text] of line) {
        g.append(svg("text", { class: style, x, y: top + i * step }, text));
        x += this.width(style, text) + SPACE;
      }
    });
    this.elements.set(item.key, g);
    return g;
  }

  classesOf(item) {
    if (item.isBox) return this.model.boxes[item.index].output ? "box output" : "box";
    const vertex = this.model.vertices[item.index];
    return [vertex.kind, vertex.output ? "output" : "", vertex.operation && !vertex.recorded && vertex.kind !== "failed" && this.model.anyRecorded ? "unrecorded" : ""].join(" ").trim();
  }

  frame(index) {
    const box = this.model.boxes[index], times = this.model.nameOf(index)[1], { x, y, w, h } = this.layout.boxes.get(index);
    const g = svg("g", { class: `frame ${box.kind}${times ? " repeat" : ""}`, transform: `translate(${x} ${y})`, tabindex: -1, role: "button", "aria-expanded": "true", "data-box": index, "aria-label": `${box.path || box.name} ${box.type}, unfolded` });
    g.append(svg("rect", { width: w, height: h, rx: 10 }), svg("rect", { class: "heading", x: 1, y: 1, width: w - 2, height: HEAD - 2, rx: 9 }));
    this.elements.set("o" + index, g);
    return g;
  }

  heading(index) {
    const box = this.model.boxes[index], [name, times] = this.model.nameOf(index), { x, y } = this.layout.boxes.get(index);
    const text = svg("text", { class: "title", x: x + 12, y: y + 17.5, "data-box": index }, svg("tspan", { class: "name" }, name));
    const count = times || box.members.length;
    if (count) text.append(svg("tspan", { class: "times", dx: 7 }, `×${count}`));
    if (box.type) text.append(svg("tspan", { class: "quiet", dx: 7 }, box.type));
    return text;
  }

  drawWire(wire) {
    const points = this.layout.wires.get(wire.key);
    const path = svg("path", { class: `wire${wire.recorded || !this.model.anyRecorded ? "" : " unrecorded"}`, d: curve(points), "data-wire": wire.key });
    this.scene.append(path);
    this.wires.set(wire.key, path);
    const from = this.view.items.get(wire.from), to = this.view.items.get(wire.to);
    if (from.leaf || (from.box === to.box && !from.isBox && points.length < 3)) return;
    const [x, y] = points[0];
    this.scene.append(svg("text", { class: "wire-label", x: x + 6, y: y + 15, "data-wire": wire.key }, wire.shape));
  }

  // --- a step ---

  // done, reached, waiting: vertices; now: a vertex; carries, feeds: pairs of vertices whose wire is highlighted.
  show({ done, reached, waiting, now, carries, feeds }) {
    const seen = this.inTheSameTurn(now);
    const keys = (set) => new Set([...set].filter(seen).map((i) => this.view.of[i]));
    const [doneKeys, reachedKeys, waitingKeys] = [keys(done), keys(reached), keys(waiting)];
    const nowKey = now === null ? "" : this.view.of[now];
    for (const [key, element] of this.elements) {
      if (key[0] === "o") continue;
      element.classList.toggle("todo", !doneKeys.has(key));
      element.classList.toggle("reached", reachedKeys.has(key) && key !== nowKey);
      element.classList.toggle("waiting", waitingKeys.has(key) && !reachedKeys.has(key) && key !== nowKey);
      element.classList.toggle("now", key === nowKey);
    }
    const pairs = (list) => new Set(list.map(([a, b]) => this.view.of[a] + ">" + this.view.of[b]));
    const [back, fed] = [pairs(carries), pairs(feeds)];
    for (const [key, path] of this.wires) {
      path.classList.toggle("carries", back.has(key));
      path.classList.toggle("feeds", fed.has(key));
      path.classList.toggle("todo", !key.split(">").every((end) => doneKeys.has(end)));
    }
    if (nowKey && this.elements.has(nowKey)) this.scene.append(this.elements.get(nowKey)); // above its neighbours
  }

  // Whether a vertex is in the same one of the repeated blocks as `now`: the block on the screen shows that one.
  inTheSameTurn(now) {
    const { model } = this;
    const turns = now === null ? [] : model.turns(now).filter(([box]) => model.stands(box));
    return (i) => turns.every(([box, turn]) => (model.vertices[i].turns[box]?.[0] ?? turn) === turn);
  }
}

const timeText = (seconds) => `${Number((seconds * (seconds < 1e-3 ? 1e6 : 1e3)).toPrecision(3))} ${seconds < 1e-3 ? "µs" : "ms"}`;

// A smooth line through points that run downwards.
function curve(points) {
  let d = `M${round(points[0][0])} ${round(points[0][1])}`;
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i];
    if (Math.abs(x0 - x1) < 0.5) d += `L${round(x1)} ${round(y1)}`;
    else {
      const bend = Math.min((y1 - y0) * 0.5, 40);
      d += `C${round(x0)} ${round(y0 + bend)} ${round(x1)} ${round(y1 - bend)} ${round(x1)} ${round(y1)}`;
    }
  }
  return d;
}

const round = (x) => Math.round(x * 10) / 10;
