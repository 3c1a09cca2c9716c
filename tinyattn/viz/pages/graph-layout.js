// The layout. Each box is laid out by itself in layers (Sugiyama, Tagawa and Toda 1981), innermost first, and is then
// an item of the box around it. A wire that crosses borders is laid out in pieces, which meet at a port on each border.

const GAP_X = 20, GAP_Y = 28, PAD = 14, HEAD = 26, LANE = 14;

// view: of Model; frameOf(box): the nearest box with a frame; size(item) -> [width, height]; title(box) -> width.
// Returns boxes and items as {x, y, w, h} by key, and the points of each wire.
function layOut(view, boxes, frameOf, size, title) {
  const parent = (box) => frameOf(boxes[box].parent);
  const chain = (box) => {
    const found = [];
    for (; box >= 0; box = parent(box)) found.push(box);
    return found;
  };
  const levels = new Map([[-1, newLevel()]]);
  for (const box of view.open) levels.set(box, newLevel());
  [...view.items.values()].forEach((item, order) => {
    const { key, leaf, last } = item, [w, h] = size(item);
    levels.get(item.box).nodes.set(key, { key, w, h, leaf, order, last });
  });
  for (const box of view.open) levels.get(parent(box)).nodes.set("o" + box, { key: "o" + box, box, order: Infinity });
  for (const wire of view.wires.values()) addPieces(levels, view, chain, wire);
  const deepestFirst = [...view.open].sort((a, b) => chain(b).length - chain(a).length || a - b);
  for (const box of deepestFirst) {
    const level = levels.get(box);
    arrange(level);
    const node = levels.get(parent(box)).nodes.get("o" + box);
    node.w = Math.max(level.w + 2 * PAD, title(box) + 2 * PAD);
    node.h = level.h + HEAD + PAD;
    node.shift = (node.w - level.w) / 2;
    node.ports = level.ports;
    node.order = Math.min(...[...level.nodes.values()].map((n) => n.order));
    node.last = Math.max(...[...level.nodes.values()].map((n) => n.last));
  }
  arrange(levels.get(-1));
  return gather(levels, (box) => chain(box).length);
}

const newLevel = () => ({ nodes: new Map(), pieces: [], ports: new Map(), w: 0, h: 0 });

// Adds a piece of the wire to each box that it passes: out of those around its source, across, and into those around its target.
function addPieces(levels, view, chain, wire) {
  const from = view.items.get(wire.from), to = view.items.get(wire.to);
  const outside = chain(from.box), inside = chain(to.box);
  let shared = [...outside, -1].find((box) => box === -1 || inside.includes(box));
  let source = from.key, target = to.key;
  for (const box of outside) {
    if (box === shared) break;
    levels.get(box).pieces.push({ wire, from: source, to: null });
    source = "o" + box;
  }
  for (const box of inside) {
    if (box === shared) break;
    levels.get(box).pieces.push({ wire, from: null, to: target });
    target = "o" + box;
  }
  levels.get(shared).pieces.push({ wire, from: source, to: target });
}

// --- one level ---

function arrange(level) {
  const nodes = [...level.nodes.values()].sort((a, b) => a.order - b.order);
  const edges = level.pieces.filter((p) => p.from && p.to);
  rank(nodes, edges);
  const last = Math.max(0, ...nodes.map((n) => n.rank));
  const layers = Array.from({ length: last + 3 }, () => []); // the first and the last are for ports
  for (const node of nodes) { node.rank += 1; node.up = []; node.down = []; layers[node.rank].push(node); }
  for (const piece of level.pieces) thread(level, layers, piece, last + 2);
  for (let sweep = 0; sweep < 10; sweep++) reorder(layers, sweep % 2 === 0);
  place(layers);
  for (const piece of level.pieces) straighten(layers, piece.path.filter((node) => node.dummy));
  heights(layers);
  const all = layers.flat();
  const left = Math.min(...all.map((n) => n.x - n.w / 2)), right = Math.max(...all.map((n) => n.x + n.w / 2));
  for (const node of all) node.x -= left;
  level.w = right - left;
  level.h = layers.h;
  for (const piece of level.pieces) {
    const end = piece.from ? piece.path[piece.path.length - 1] : piece.path[0];
    if (!piece.from || !piece.to) level.ports.set(piece.wire.key, end.x);
  }
}

// Ranks by the longest path from the top; then moves late inputs down, next to their first user.
function rank(nodes, edges) {
  const byKey = new Map(nodes.map((n) => [n.key, n]));
  for (const n of nodes) Object.assign(n, { rank: 0, before: [], after: new Set() });
  for (const { from, to } of edges) {
    byKey.get(from).after.add(byKey.get(to));
    byKey.get(to).before.push(byKey.get(from));
  }
  const inOrder = [...nodes].sort((a, b) => a.last - b.last); // inputs of a node ran before it
  for (const n of inOrder) n.rank = Math.max(0, ...n.before.map((m) => m.rank + 1));
  for (const n of inOrder.reverse()) {
    if (n.after.size && n.before.every((m) => m.after.size === 1)) {
      n.rank = Math.min(...[...n.after].map((m) => m.rank)) - 1;
      n.late = true;
    }
  }
}

// Adds a chain of places, one in each layer, for one piece of a wire.
function thread(level, layers, piece, bottom) {
  const from = piece.from ? level.nodes.get(piece.from) : dummy(layers, 0, piece.wire);
  const to = piece.to ? level.nodes.get(piece.to) : dummy(layers, bottom, piece.wire);
  piece.path = [from];
  for (let r = from.rank + 1; r < to.rank; r++) piece.path.push(dummy(layers, r, piece.wire));
  piece.path.push(to);
  for (let i = 1; i < piece.path.length; i++) {
    const [a, b] = [piece.path[i - 1], piece.path[i]];
    const link = { a, b, atA: a.ports ? port(a, piece.wire) : 0, atB: b.ports ? port(b, piece.wire) : 0 };
    a.down.push(link);
    b.up.push(link);
  }
}

const port = (node, wire) => node.ports.get(wire.key) + node.shift - node.w / 2;

function dummy(layers, rank, wire) {
  const node = { dummy: true, rank, w: LANE, h: 0, up: [], down: [], order: Infinity, wire };
  layers[rank].push(node);
  return node;
}

// Sorts each layer by the places of its neighbours in the layer before, which reduces crossings.
function reorder(layers, downward) {
  for (const layer of layers) layer.forEach((n, i) => (n.at = i));
  const sequence = downward ? layers : [...layers].reverse();
  for (const layer of sequence) {
    for (const node of layer) {
      const links = downward ? node.up : node.down;
      const places = links.map((l) => (downward ? l.a.at + l.atA / (l.a.w + 1) : l.b.at + l.atB / (l.b.w + 1)));
      node.mean = places.length ? places.reduce((s, p) => s + p, 0) / places.length : node.at;
    }
    layer.sort((a, b) => a.mean - b.mean || a.at - b.at);
    layer.forEach((n, i) => (n.at = i));
  }
}

// Moves each node towards the mean of its neighbours; in each layer, to the closest places that keep order and gaps
// (isotonic regression, by pooling adjacent violators).
function place(layers) {
  for (const layer of layers) {
    layer.forEach((n, i) => (n.at = i));
    let x = 0;
    for (const node of layer) { node.x = x + node.w / 2; x += node.w + gapAfter(node); }
    const middle = x / 2;
    for (const node of layer) node.x -= middle;
  }
  for (let sweep = 0; sweep < 24; sweep++) {
    const sequence = sweep % 2 ? [...layers].reverse() : layers;
    for (const layer of sequence) {
      for (const node of layer) {
        let weight = 0, sum = 0;
        for (const [links, other, own, at] of [[node.up, "a", "atB", "atA"], [node.down, "b", "atA", "atB"]]) {
          for (const link of links) {
            const w = pull(link);
            weight += w;
            sum += w * (link[other].x + link[at] - link[own]);
          }
        }
        node.wish = weight ? sum / weight : node.x;
        node.weight = weight || 0.1;
      }
      settle(layer);
    }
  }
}

// The weight of a wire in that mean: large for long wires, small for those of a parameter.
function pull(link) {
  if (link.a.leaf) return 0.5;
  return link.a.dummy && link.b.dummy ? 8 : link.a.dummy || link.b.dummy ? 3 : 2;
}

// Straightens a long wire: it runs straight down as far as there is room, and then bends.
function straighten(layers, run) {
  let start = 0, low = -Infinity, high = Infinity;
  const settleDown = (stop) => {
    const part = run.slice(start, stop), xs = part.map((n) => n.x).sort((a, b) => a - b);
    for (const node of part) node.x = Math.min(Math.max(xs[xs.length >> 1], low), high);
  };
  run.forEach((node, i) => {
    const layer = layers[node.rank], [left, right] = [layer[node.at - 1], layer[node.at + 1]];
    const from = left ? left.x + apart(left, node) : -Infinity, to = right ? right.x - apart(node, right) : Infinity;
    if (Math.max(low, from) > Math.min(high, to)) {
      settleDown(i);
      [start, low, high] = [i, from, to];
    } else [low, high] = [Math.max(low, from), Math.min(high, to)];
  });
  if (run.length) settleDown(run.length);
}

const apart = (left, right) => left.w / 2 + right.w / 2 + Math.max(gapAfter(left), gapAfter(right));
const gapAfter = (node) => (node.dummy ? LANE / 2 : GAP_X);

function settle(layer) {
  const blocks = []; // runs of nodes that touch: {first, wish, weight, width}
  let offset = 0;
  layer.forEach((node, i) => {
    if (i) offset += apart(layer[i - 1], node);
    node.offset = offset;
    blocks.push({ first: i, wish: node.wish - offset, weight: node.weight });
    while (blocks.length > 1 && blocks[blocks.length - 2].wish > blocks[blocks.length - 1].wish) {
      const b = blocks.pop(), a = blocks[blocks.length - 1];
      a.wish = (a.wish * a.weight + b.wish * b.weight) / (a.weight + b.weight);
      a.weight += b.weight;
    }
  });
  blocks.forEach((block, k) => {
    const stop = k + 1 < blocks.length ? blocks[k + 1].first : layer.length;
    for (let i = block.first; i < stop; i++) layer[i].x = block.wish + layer[i].offset;
  });
}

function heights(layers) {
  let y = 0;
  layers.forEach((layer, r) => {
    const h = Math.max(0, ...layer.map((n) => n.h));
    for (const node of layer) node.y = node.late ? y + h - node.h / 2 : y + h / 2;
    const isPort = r === 0 || r === layers.length - 1;
    y += h + (isPort && !layer.length ? 0 : r < layers.length - 1 ? GAP_Y : 0);
  });
  if (!layers[layers.length - 1].length) y -= GAP_Y;
  layers.h = y;
}

// --- put together ---

function gather(levels, depth) {
  const found = { items: new Map(), boxes: new Map(), wires: new Map(), w: levels.get(-1).w, h: levels.get(-1).h };
  const corner = new Map([[-1, [0, 0]]]); // of the inside of each box
  const outermostFirst = [...levels.keys()].sort((a, b) => depth(a) - depth(b));
  for (const box of outermostFirst) {
    const [x, y] = corner.get(box);
    for (const node of levels.get(box).nodes.values()) {
      const rect = { x: x + node.x - node.w / 2, y: y + node.y - node.h / 2, w: node.w, h: node.h };
      if (node.box === undefined) found.items.set(node.key, rect);
      else {
        found.boxes.set(node.box, rect);
        corner.set(node.box, [rect.x + node.shift, rect.y + HEAD]);
      }
    }
  }
  for (const [box, level] of levels) for (const piece of level.pieces) {
    const [x, y] = corner.get(box);
    const points = [];
    piece.path.forEach((node, i) => {
      if (node.dummy) points.push([x + node.x, y + node.y]);
      else {
        const at = node.ports ? port(node, piece.wire) : 0;
        points.push([x + node.x + at, y + node.y + (i === 0 ? node.h / 2 : -node.h / 2)]);
      }
    });
    if (!found.wires.has(piece.wire.key)) found.wires.set(piece.wire.key, []);
    found.wires.get(piece.wire.key).push(points);
  }
  for (const [key, pieces] of found.wires) found.wires.set(key, pieces.flat().sort((a, b) => a[1] - b[1]));
  return found;
}
