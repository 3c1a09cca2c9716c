// The graph, and its visible part: boxes fold, and one of repeated boxes stands for all. As model.py.

class Model {
  constructor(data) {
    Object.assign(this, data); // vertices, boxes, steps, arrays, formulas, sources ...
    this.forward = this.vertices.filter((v) => v.operation);
    this.anyRecorded = this.forward.some((v) => v.recorded);
    this.edges = this.vertices.reduce((n, v) => n + v.inputs.length, 0);
    this.folded = new Set(data.folded); // boxes shown as one
    this.spread = new Set(); // repeats that show every box
    this.failed = new Set(this.vertices.filter((v) => v.kind === "failed").flatMap((v) => this.chain(v.box))); // never folded
    this.deepest = Math.max(0, ...this.boxes.map((box) => box.level + 1));
    this.users = this.vertices.map(() => []);
    for (const vertex of this.vertices) for (const [source] of vertex.inputs) this.users[source].push(vertex.index);
  }

  // A box and those around it, outermost first.
  chain(box) {
    const found = [];
    for (; box >= 0; box = this.boxes[box].parent) found.push(box);
    return found.reverse();
  }

  // The repeats around a vertex: [repeat, which of its boxes the vertex is in, the corresponding vertex in the first].
  turns(index) {
    return Object.entries(this.vertices[index].turns).map(([box, [which, twin]]) => [Number(box), which, twin]);
  }

  // The vertex that is drawn in place of this one: itself, or the corresponding one in the first repeated box.
  exemplar(index) {
    for (;;) {
      const turn = this.turns(index).find(([box, which]) => which > 0 && !this.spread.has(box));
      if (!turn) return index;
      index = turn[2];
    }
  }

  // The key of the item that a vertex is part of: "v12", or "b3" for a folded box.
  itemOf(index) {
    const seen = this.exemplar(index);
    const closed = this.chain(this.vertices[seen].box).find((box) => this.folded.has(box));
    if (closed !== undefined) return "b" + closed;
    const { bookkeeping, inputs } = this.vertices[seen];
    return this.tidy && bookkeeping ? this.itemOf(inputs[0][0]) : "v" + seen;
  }

  // What is visible: items by key and in order, with the box around them, wires between them, open boxes.
  view() {
    const of = this.vertices.map((vertex) => this.itemOf(vertex.index));
    const items = new Map();
    for (const [last, key] of of.entries()) { // last: the last vertex that is part of the item
      const index = Number(key.slice(1)), isBox = key[0] === "b";
      const box = this.frameOf(isBox ? this.boxes[index].parent : this.vertices[index].box);
      if (items.has(key)) items.get(key).last = last;
      else items.set(key, { key, index, isBox, box, last, leaf: !isBox && !this.vertices[index].operation });
    }
    const wires = new Map();
    for (const vertex of this.vertices) {
      for (const [source, , recorded] of vertex.inputs) {
        const [from, to] = [of[source], of[vertex.index]];
        if (from === to || this.inDifferentTurns(source, vertex.index)) continue;
        const key = from + ">" + to;
        if (!wires.has(key)) wires.set(key, { key, from, to, shape: this.vertices[source].shape, recorded: false });
        wires.get(key).recorded ||= recorded;
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
  inDifferentTurns(source, target) {
    const turns = this.vertices[target].turns;
    return this.turns(source).some(([box, which]) => !this.spread.has(box) && box in turns && turns[box][0] !== which);
  }

  // The level that is visible: that of the deepest open box.
  level() {
    const open = this.boxes.filter((box) => this.chain(box.index).every((b) => !this.folded.has(b)));
    return Math.max(0, ...open.map((box) => box.level + 1));
  }

  // Fold so that modules show down to a level.
  foldTo(level) {
    this.folded = new Set(this.boxes.filter((box) => box.level >= level && !this.failed.has(box.index)).map((box) => box.index));
  }

  // Open every box around a vertex.
  reveal(index) {
    for (const box of this.chain(this.vertices[index].box)) this.folded.delete(box);
    for (const [box, which] of this.turns(index)) if (which > 0) this.spread.add(box);
  }
}

const plural = (noun, count) => noun + (count === 1 ? "" : "s");
