// The graph, and its visible part: boxes fold, and one of repeated boxes stands for all. As fold.py.

class Model {
  constructor(data) {
    Object.assign(this, data); // vertices, boxes, steps, arrays, formulas, sources ...
    this.forward = this.vertices.filter((v) => v.operation);
    this.anyRecorded = this.forward.some((v) => v.recorded);
    this.edges = this.vertices.reduce((n, v) => n + v.inputs.length, 0);
    this.folded = new Set(data.folded); // boxes shown as one
    this.spread = new Set(); // repeats that show every box
    this.places = this.boxes.map((box) => placesOf(box));
    this.inside = this.boxes.map(() => []); // vertices of each box, however deep
    for (const vertex of this.vertices) for (const box of this.chain(vertex.box)) this.inside[box].push(vertex.index);
    this.only = this.inside.map((inside) => {
      const operations = inside.filter((i) => this.vertices[i].operation);
      return operations.length === 1 ? this.vertices[operations[0]] : null; // a Linear layer is its operation
    });
    this.users = this.vertices.map(() => []);
    for (const vertex of this.vertices) for (const [source] of vertex.inputs) this.users[source].push(vertex.index);
  }

  // A box and those around it, outermost first.
  chain(box) {
    const found = [];
    for (; box >= 0; box = this.boxes[box].parent) found.push(box);
    return found.reverse();
  }

  // The vertex that is drawn in place of this one: itself, or the corresponding one in the first repeated box.
  exemplar(index) {
    for (;;) {
      const group = this.chain(this.vertices[index].box).find(
        (box) => this.boxes[box].members.length && !this.spread.has(box) && this.places[box].get(index)[0] > 0);
      if (group === undefined) return index;
      index = this.boxes[group].members[0][this.places[group].get(index)[1]];
    }
  }

  // The key of the item that a vertex is part of: "v12", or "b3" for a folded box.
  itemOf(index) {
    const seen = this.exemplar(index);
    const closed = this.chain(this.vertices[seen].box).find((box) => this.folded.has(box));
    return closed === undefined ? "v" + seen : "b" + closed;
  }

  // What is visible: items by key with the box around them, wires between them, open boxes.
  view() {
    const of = this.vertices.map((vertex) => this.itemOf(vertex.index));
    const items = new Map();
    for (const key of of) {
      if (items.has(key)) continue;
      const index = Number(key.slice(1));
      const isBox = key[0] === "b";
      const place = this.frameOf(isBox ? this.boxes[index].parent : this.vertices[index].box);
      items.set(key, { key, index, isBox, box: place, leaf: !isBox && !this.vertices[index].operation });
    }
    const wires = new Map();
    for (const vertex of this.vertices) {
      for (const [source, slot, recorded] of vertex.inputs) {
        const [from, to] = [of[source], of[vertex.index]];
        if (from === to || this.carried(source, vertex.index)) continue;
        const key = from + ">" + to;
        if (!wires.has(key)) wires.set(key, { key, from, to, shape: this.vertices[source].shape, recorded: false, slots: new Set() });
        const wire = wires.get(key);
        wire.recorded = wire.recorded || recorded;
        wire.slots.add(`${this.exemplar(source)} ${slot}`);
      }
    }
    const open = new Set(); // those with a frame
    for (const item of items.values()) for (let box = item.box; box >= 0; box = this.frameOf(this.boxes[box].parent)) open.add(box);
    return { of, items, wires, open };
  }

  // The nearest box with a frame: repeats have none while one box stands for all.
  frameOf(box) {
    while (box >= 0 && this.stands(box)) box = this.boxes[box].parent;
    return box;
  }

  // Whether this is a repeat of which one box stands for all.
  stands(box) {
    return this.boxes[box].members.length > 0 && !this.spread.has(box);
  }

  // [name, number of boxes it stands for] of a box: the group's name if it stands for all.
  nameOf(box) {
    const group = this.boxes[box].parent;
    return group >= 0 && this.stands(group) ? [this.boxes[group].name, this.boxes[group].members.length] : [this.boxes[box].name, 0];
  }

  // Whether an edge leads from one repeated box to another, while one stands for all.
  carried(source, target) {
    return this.chain(this.vertices[source].box).some((box) => {
      const places = this.boxes[box].members.length && !this.spread.has(box) && this.places[box];
      return places && places.has(target) && places.get(target)[0] !== places.get(source)[0];
    });
  }

  // Which of the repeated boxes a vertex is in: "blocks.0-11: 2 of 12", or "".
  turn(index) {
    return this.chain(this.vertices[index].box)
      .filter((box) => this.boxes[box].members.length)
      .map((box) => `${this.boxes[box].name}: ${this.places[box].get(index)[0] + 1} of ${this.boxes[box].members.length}`)
      .join(", ");
  }

  // How many modules are around a box.
  depth(box) {
    return this.chain(box).filter((b) => b !== box && !isGroup(this.boxes[b])).length;
  }

  // The number of levels: down to the deepest module, then modules that are one operation.
  levels() {
    const several = this.boxes.filter((box) => !this.only[box.index] && !isGroup(box)).map((box) => this.depth(box.index) + 1);
    return Math.max(0, ...several) + (this.only.some(Boolean) ? 1 : 0);
  }

  // The level that is visible: that of the deepest open box.
  level() {
    const open = this.boxes.filter((box) => !isGroup(box) && this.chain(box.index).every((b) => !this.folded.has(b)));
    if (open.some((box) => this.only[box.index])) return this.levels();
    return Math.max(0, ...open.map((box) => this.depth(box.index) + 1));
  }

  // Fold so that modules show down to a level.
  foldTo(level) {
    const all = level >= this.levels();
    const failed = new Set(this.vertices.filter((v) => v.kind === "failed").flatMap((v) => this.chain(v.box)));
    const closed = (box) => !all && !failed.has(box.index) && (this.only[box.index] || this.depth(box.index) >= level);
    this.folded = new Set(this.boxes.filter((b) => closed(b) && !isGroup(b)).map((b) => b.index));
  }

  // Open every box around a vertex.
  reveal(index) {
    for (const box of this.chain(this.vertices[index].box)) {
      this.folded.delete(box);
      if (this.boxes[box].members.length && this.places[box].get(index)[0] > 0) this.spread.add(box);
    }
  }

  // The contents of a box as text.
  contents(box) {
    const vertices = this.inside[box].map((i) => this.vertices[i]);
    const operations = vertices.filter((v) => v.operation).length;
    const parameters = vertices.filter((v) => v.kind === "parameter").reduce((n, v) => n + sizeOf(v.shape), 0);
    return `${operations} ${plural("operation", operations)}` + (parameters ? `, ${parameters.toLocaleString("en")} parameters` : "");
  }
}

function placesOf(box) {
  const places = new Map();
  box.members.forEach((member, which) => member.forEach((vertex, at) => places.set(vertex, [which, at])));
  return places;
}

const isGroup = (box) => box.kind === "repeat" || box.kind === "pass"; // no level of its own
const plural = (noun, count) => noun + (count === 1 ? "" : "s");
const sizeOf = (shape) => shape.reduce((n, m) => n * m, 1);
const shapeText = (shape) => (shape.length ? shape.join("×") : "scalar");

function bytesText(bytes) {
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (bytes >= scale) return `${Number((bytes / scale).toPrecision(3))} ${unit}`;
  return `${bytes} B`;
}
