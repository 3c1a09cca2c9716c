"use strict";
// The picture: items, frames and wires as SVG, and how a step shows in it.

const SVG = "http://www.w3.org/2000/svg";
const MOST = 1500; // items drawn at once; beyond, a picture is neither quick nor readable

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

class Picture {
  constructor(model, scene) {
    this.model = model;
    this.scene = scene;
    this.pen = document.createElement("canvas").getContext("2d");
  }

  // Draws what is visible; false, and nothing is drawn, if that is too much.
  draw() {
    const view = this.model.view();
    if (view.items.size > MOST) return false;
    this.view = view;
    this.lines = new Map([...view.items.values()].map((item) => [item.key, this.linesOf(item)]));
    const size = (item) => this.sizeOf(item);
    this.layout = layOut(view, this.model.boxes, size, (box) => this.headingWidth(box));
    this.scene.replaceChildren();
    this.elements = new Map();
    this.wires = new Map();
    const frames = [...view.open].sort((a, b) => this.model.chain(a).length - this.model.chain(b).length || a - b);
    for (const box of frames) this.scene.append(this.frame(box));
    for (const wire of view.wires.values()) this.drawWire(wire);
    const inOrder = [...view.items.values()].sort((a, b) => view.of.indexOf(a.key) - view.of.indexOf(b.key));
    for (const item of inOrder) this.scene.append(this.item(item));
    return true;
  }

  // --- words ---

  // Lines of text as [class, text].
  linesOf(item) {
    if (item.isBox) {
      const box = this.model.boxes[item.index];
      const kind = box.type && box.type !== box.name ? ` ${box.type}` : box.kind === "definition" ? " definition" : "";
      return [["name", box.name + kind], ["quiet", this.model.contents(item.index)]];
    }
    const vertex = this.model.vertices[item.index];
    const shape = `${shapeText(vertex.shape)}${vertex.dtype && vertex.dtype !== "float32" ? " " + vertex.dtype : ""}`;
    if (!vertex.operation) return [["name", this.relative(vertex)], ["quiet", shape]];
    const lines = [["name", vertex.title]];
    if (vertex.formula) lines.push(["formula", vertex.formula]);
    if (vertex.kind === "failed") {
      for (const [source, slot] of vertex.inputs) lines.push(["quiet", `${slot}: ${shapeText(this.model.vertices[source].shape)}`]);
      for (const part of wrapped(vertex.error, 48)) lines.push(["quiet", part]);
    } else lines.push(["quiet", shape + (vertex.time ? `  ·  ${vertex.time}` : "")]);
    return lines;
  }

  // A parameter's name inside its module, "weight"; all of it elsewhere.
  relative(vertex) {
    const path = vertex.box < 0 ? "" : this.model.boxes[vertex.box].path;
    return path && vertex.title.startsWith(path + ".") ? vertex.title.slice(path.length + 1) : vertex.title;
  }

  width(style, text) {
    this.pen.font = { name: "650 13px system-ui, sans-serif", formula: "italic 13px 'DejaVu Serif', serif" }[style] || "11px system-ui, sans-serif";
    return this.pen.measureText(text).width;
  }

  sizeOf(item) {
    const lines = this.lines.get(item.key);
    if (item.leaf) return [Math.max(44, this.width("name", lines[0][1]) + this.width("quiet", lines[1][1]) + 28), 26];
    const wide = Math.max(...lines.map(([style, text]) => this.width(style, text)));
    return [Math.max(84, wide + 28), 12 + lines.length * 17];
  }

  headingWidth(box) {
    const { name, type, members } = this.model.boxes[box];
    return this.width("name", name + (members.length ? " ×12" : "")) + this.width("quiet", type === name ? "" : type) + 40;
  }

  // --- elements ---

  item(item) {
    const { x, y, w, h } = this.layout.items.get(item.key);
    const lines = this.lines.get(item.key);
    const g = svg("g", { class: `item ${this.classesOf(item)}`, transform: `translate(${x} ${y})`, tabindex: -1, role: "button", "data-key": item.key, "aria-label": this.spoken(item) });
    const square = item.leaf && this.model.vertices[item.index].kind !== "input" && this.model.vertices[item.index].kind !== "constant";
    const radius = item.leaf ? (square ? 0 : h / 2) : 8;
    if (item.isBox) {
      g.setAttribute("aria-expanded", "false");
      g.append(svg("rect", { class: "under", x: 4, y: 4, width: w, height: h, rx: 8 }));
    }
    g.append(svg("rect", { class: "shape", width: w, height: h, rx: radius }));
    if (item.leaf) {
      const name = this.width("name", lines[0][1]);
      const start = (w - name - 8 - this.width("quiet", lines[1][1])) / 2;
      g.append(svg("text", { class: "name", x: start, y: 17 }, lines[0][1]), svg("text", { class: "quiet", x: start + name + 8, y: 17 }, lines[1][1]));
    } else lines.forEach(([style, text], i) => g.append(svg("text", { class: style, x: w / 2, y: 20 + i * 17, "text-anchor": "middle" }, text)));
    this.elements.set(item.key, g);
    return g;
  }

  classesOf(item) {
    if (item.isBox) return "box";
    const vertex = this.model.vertices[item.index];
    return [vertex.kind, vertex.output ? "output" : "", vertex.operation && !vertex.recorded && vertex.kind !== "failed" && this.model.anyRecorded ? "unrecorded" : ""].join(" ").trim();
  }

  spoken(item) {
    if (item.isBox) return `${this.model.boxes[item.index].path || this.model.boxes[item.index].name}, folded, ${this.model.contents(item.index)}`;
    const vertex = this.model.vertices[item.index];
    const kind = vertex.operation ? "" : vertex.kind + " ";
    return `${kind}${vertex.title}${vertex.path ? " in " + vertex.path : ""}, ${shapeText(vertex.shape)}`;
  }

  frame(index) {
    const box = this.model.boxes[index], { x, y, w, h } = this.layout.boxes.get(index);
    const kind = box.type && box.type !== box.name ? box.type : box.kind === "definition" ? "definition" : "";
    const g = svg("g", { class: `frame ${box.kind}`, transform: `translate(${x} ${y})`, tabindex: -1, role: "button", "aria-expanded": "true", "data-box": index, "aria-label": `${box.path || box.name} ${kind}, unfolded` });
    g.append(svg("rect", { width: w, height: h, rx: 10 }), svg("rect", { class: "heading", x: 1, y: 1, width: w - 2, height: HEAD - 2, rx: 9 }));
    const text = svg("text", { x: 12, y: 17.5 }, svg("tspan", { class: "name" }, box.name));
    if (box.members.length) text.append(svg("tspan", { class: "times name" }, `  ×${box.members.length}`));
    if (kind) text.append(svg("tspan", { class: "quiet" }, `  ${kind}`));
    g.append(text);
    this.elements.set("o" + index, g);
    return g;
  }

  drawWire(wire) {
    const points = this.layout.wires.get(wire.key);
    const path = svg("path", { class: `wire${wire.recorded || !this.model.anyRecorded ? "" : " unrecorded"}`, d: curve(points), "data-wire": wire.key });
    this.scene.append(path);
    this.wires.set(wire.key, path);
    const from = this.view.items.get(wire.from), to = this.view.items.get(wire.to);
    if (from.leaf || (from.box === to.box && !from.isBox && points.length < 3)) return;
    const [x, y] = points[0];
    this.scene.append(svg("text", { class: "wire-label", x: x + 5, y: y + 12, "data-wire": wire.key }, shapeText(wire.shape)));
  }

  // --- a step ---

  // done, reached, waiting: vertices; now: a vertex; carries, feeds: pairs of vertices whose wire stands out.
  show({ done, reached, waiting, now, carries, feeds }) {
    const keys = (set) => new Set([...set].map((i) => this.view.of[i]));
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
}

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

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    if ((lines[lines.length - 1] + word).length > width) lines.push("");
    lines[lines.length - 1] = (lines[lines.length - 1] + " " + word).trim();
  }
  return lines;
}
