// The page: steps, selection, keys, mouse, search.

class Page {
  constructor(data) {
    this.model = new Model(data);
    this.picture = new Picture(this.model, byId("scene"));
    this.panel = new Panel(this.model, byId("panel"), (index) => this.select(index));
    this.last = this.model.forward.length + this.model.steps.length;
    this.step = 0; // 0 is the overview, then forward, then backward
    this.selected = null; // a key: "v3", "b2", "o2"
    this.eye = new Eye(byId("graph"), byId("scene"), this.picture);
    this.hits = [];
    this.listing = data.program.length ? new Listing(this, byId("program")) : null;
    this.prepare();
    this.words();
    this.controls();
    this.redraw();
    if (data.auto) this.foldToFit();
    this.eye.fit(READABLE);
    this.goTo(0);
    this.follow(new URLSearchParams(location.hash.slice(1)));
  }

  // page.html#step=44&level=3&theme=dark opens the page there.
  follow(wanted) {
    if (wanted.has("theme")) chooseTheme(wanted.get("theme") === "dark");
    if (wanted.has("level")) this.depth((Number(wanted.get("level")) || 0) - this.model.level());
    if (wanted.get("tab") === "program") this.listing?.open("program");
    if (wanted.has("step")) this.goTo(Number(wanted.get("step")) || 0);
  }

  // Unfolds as much at first as can be read without moving the picture.
  foldToFit() {
    const asked = new Set(this.model.folded);
    for (let depth = this.model.deepest; depth >= 1; depth--) {
      this.model.foldTo(depth);
      for (const box of asked) this.model.folded.add(box);
      this.redraw();
      if (this.eye.scaleToFit() >= READABLE) return;
    }
  }

  // At which step the backward pass takes each vertex, and at which the first gradient arrives there.
  prepare() {
    this.takenAt = new Map(this.model.steps.map((step, i) => [step.vertex, i]));
    this.firstArrival = new Map();
    this.model.steps.forEach((step, i) => step.arrivals.forEach(([vertex]) => this.firstArrival.has(vertex) || this.firstArrival.set(vertex, i)));
  }

  words() {
    const { model } = this;
    byId("title").textContent = model.title;
    byId("counts").textContent = [[model.forward.length, "operation"], [model.vertices.length, "vertex"], [model.edges, "edge"]]
      .map(([count, noun]) => `${count} ${noun === "vertex" && count !== 1 ? "vertices" : plural(noun, count)}`).concat(model.backward).join(" · ");
    byId("slider").max = this.last;
    byId("phase-forward").style.flex = model.forward.length;
    byId("phase-backward").style.flex = model.steps.length;
    byId("phase-backward").hidden = byId("turn").hidden = !model.steps.length;
  }

  // --- drawing ---

  redraw() {
    const fits = this.picture.draw();
    if (!fits) { // restore
      [this.model.folded, this.model.spread] = this.kept;
      this.picture.draw();
    }
    byId("message").textContent = fits ? "" : `More than ${MOST} items would be visible. Unfold one box at a time.`;
    this.kept = [new Set(this.model.folded), new Set(this.model.spread)];
    byId("depth").textContent = `${this.model.level()}/${this.model.deepest}`;
    byId("shapes").setAttribute("aria-pressed", !this.model.tidy);
    byId("heat").hidden = !this.picture.most;
    byId("heat").lastChild.textContent = `time, 0 to ${timeText(this.picture.most)}`;
    this.paint();
    this.offerTab();
  }

  // Shows the step in the picture.
  paint() {
    const { model, step } = this, now = this.now(), at = step - model.forward.length - 1; // backward from 0 on
    const until = (map) => new Set([...map].filter(([, i]) => i <= at).map(([vertex]) => vertex));
    const todo = new Set(step > 0 && at < 0 ? model.forward.slice(step) : []);
    document.body.classList.toggle("backward", at >= 0);
    this.picture.show({
      done: new Set(model.vertices.filter((v) => !todo.has(v)).map((v) => v.index)),
      reached: until(this.takenAt),
      waiting: until(this.firstArrival),
      now,
      feeds: step > 0 && at < 0 ? model.vertices[now].inputs.map(([source]) => [source, now]) : [],
      carries: at >= 0 ? model.steps[at].arrivals.map(([target]) => [target, now]) : [],
    });
    this.mark();
  }

  // The vertex of the step, null in the overview.
  now() {
    const { forward, steps } = this.model, { step } = this;
    if (step === 0) return null;
    return step <= forward.length ? forward[step - 1].index : steps[step - forward.length - 1].vertex;
  }

  mark() {
    for (const [key, element] of this.picture.elements) element.classList.toggle("hit", this.hits.includes(key) || key === this.selected);
  }

  // --- steps ---

  goTo(step, follow = true) {
    this.step = Math.max(0, Math.min(this.last, step));
    this.selected = null;
    const { forward, steps, vertices } = this.model, back = this.step - forward.length, now = this.now();
    let where = "overview";
    if (this.step === 0) this.panel.overview();
    else if (back <= 0) {
      where = `forward ${this.step} of ${forward.length}: ${vertices[now].title}`;
      this.panel.forward(vertices[now], this.step);
    } else {
      where = `backward ${back} of ${steps.length}: ${vertices[now].title}`;
      this.panel.backward(steps[back - 1], back);
    }
    byId("where").textContent = where;
    byId("slider").value = this.step;
    byId("slider").setAttribute("aria-valuetext", where);
    this.paint();
    this.listing?.show(now === null ? [] : [vertices[now]], back > 0);
    if (now !== null && follow) this.eye.look(this.picture.view.of[now]);
  }

  play() {
    if (this.timer) return this.stop();
    if (this.step === this.last) this.goTo(0);
    byId("play-icon").setAttribute("d", "M3 2h3.5v11H3zM8.5 2H12v11H8.5z");
    byId("play").setAttribute("aria-label", "Stop");
    this.timer = setInterval(() => (this.step === this.last ? this.stop() : this.goTo(this.step + 1)), 700);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    byId("play-icon").setAttribute("d", "M3 1.5v12l10-6z");
    byId("play").setAttribute("aria-label", "Play");
  }

  // --- selection and folding ---

  // Shows a vertex and selects it.
  select(index) {
    this.reveal(index);
    this.focus(this.model.itemOf(index));
    this.details("v" + index);
  }

  // Opens the boxes that a vertex is folded into.
  reveal(index) {
    if (this.model.itemOf(index) === "v" + index) return;
    this.model.reveal(index);
    this.redraw();
  }

  // Selects an item and shows its details.
  arrive(key) {
    this.focus(key);
    this.details(key);
  }

  focus(key) {
    const element = this.picture.elements.get(key);
    if (!element) return;
    this.selected = key;
    this.mark();
    this.offerTab();
    element.focus({ preventScroll: true });
    this.eye.look(key);
  }

  details(key) {
    const index = Number(key.slice(1)), { model } = this;
    if (key[0] === "v") this.panel.vertex(model.vertices[index]);
    this.listing?.show(model.vertices.filter((v) => (key[0] === "v" ? v.index === index : model.chain(v.box).includes(index))));
  }

  // Tab reaches one element of the graph: the selected one, else the first.
  offerTab() {
    const { elements } = this.picture;
    for (const element of elements.values()) element.setAttribute("tabindex", -1);
    const first = elements.get(this.selected) || [...elements].find(([key]) => key[0] !== "o")?.[1];
    if (first) first.setAttribute("tabindex", 0);
  }

  // Folds or unfolds a box; a repeat switches between one box for all and all of them.
  toggle(box) {
    const { model } = this;
    if (model.boxes[box].members.length) model.spread[model.spread.has(box) ? "delete" : "add"](box);
    else model.folded[model.folded.has(box) ? "delete" : "add"](box);
    this.keepInPlace(box, () => this.redraw());
    const key = ["b" + box, "o" + box].find((k) => this.picture.elements.has(k));
    this.focus(key || this.picture.view.of[model.vertices.find((v) => model.chain(v.box).includes(box)).index]);
    this.eye.show(box);
    this.details("b" + box);
  }

  // Switches the repeat around an item between one box for all and all of them.
  spreadAround() {
    const { model } = this;
    const groups = this.around().filter((b) => model.boxes[b].members.length);
    if (groups.length) this.toggle(groups.pop());
  }

  // The boxes around the selected item, outermost first; a folded one with itself.
  around() {
    const { model } = this, key = this.currentKey();
    if (!key) return [];
    const index = Number(key.slice(1));
    return model.chain(key[0] === "v" ? model.vertices[index].box : index);
  }

  // Keeps the corner of a box in place on the screen.
  keepInPlace(box, change) {
    const one = this.model.boxes[box].members.length ? this.model.boxes.find((b) => b.parent === box).index : box;
    const corner = () => [box, one].flatMap((b) => [this.picture.layout.boxes.get(b), this.picture.layout.items.get("b" + b)]).find(Boolean);
    const before = corner();
    change();
    const after = corner();
    if (!before || !after) return;
    this.eye.move((before.x - after.x) * this.eye.scale, (before.y - after.y) * this.eye.scale);
  }

  depth(change) {
    this.model.foldTo(Math.max(0, Math.min(this.model.deepest, this.model.level() + change)));
    this.model.spread.clear();
    this.selected = null;
    this.redraw();
    this.eye.fit(READABLE);
  }

  // Selects the first input (-1) or user (1) of an item.
  neighbour(direction) {
    const { wires, items } = this.picture.view;
    const key = items.has(this.currentKey()) ? this.currentKey() : items.keys().next().value;
    if (!this.selected) return this.arrive(key);
    const near = [...wires.values()].filter((w) => (direction < 0 ? w.to : w.from) === key).map((w) => (direction < 0 ? w.from : w.to));
    const order = [...items.keys()];
    near.sort((a, b) => items.get(a).leaf - items.get(b).leaf || order.indexOf(a) - order.indexOf(b));
    if (near.length) this.arrive(near[0]);
  }

  // The selected item, else that of the step, else none.
  currentKey() {
    return this.selected || (this.step ? this.picture.view.of[this.now()] : null);
  }

  tab(direction) {
    const keys = [...this.picture.view.items.keys()];
    const at = keys.indexOf(this.selected), next = keys[at + direction];
    if (at < 0 || !next) return false;
    this.arrive(next);
    return true;
  }

  enter(element) {
    const { key, box } = element.dataset;
    if (box !== undefined) this.toggle(Number(box));
    else if (key[0] === "b") this.toggle(Number(key.slice(1)));
    else this.arrive(key);
  }

  foldAround() {
    const box = this.around().filter((b) => !this.model.boxes[b].members.length && !this.model.folded.has(b)).pop();
    if (box !== undefined) this.toggle(box);
  }

  // --- search ---

  search(text) {
    const { model } = this, wanted = text.trim().toLowerCase();
    const found = wanted ? model.vertices.filter((v) => v.searched.includes(wanted)) : [];
    this.found = found.map((v) => v.index);
    this.foundAt = -1;
    this.hits = [...new Set(this.found.map((i) => this.picture.view.of[i]))];
    byId("found").textContent = wanted ? `${found.length} found` : "";
    this.mark();
    if (this.hits.length) this.eye.look(this.hits[0]);
  }

  nextHit(direction) {
    if (!this.found || !this.found.length) return;
    this.foundAt = (this.foundAt + direction + this.found.length) % this.found.length;
    const index = this.found[this.foundAt];
    this.reveal(index);
    this.hits = [this.picture.view.of[index]];
    this.mark();
    this.eye.look(this.hits[0]);
    this.details("v" + index);
    byId("found").textContent = `${this.foundAt + 1} of ${this.found.length}`;
  }

  // --- input ---

  controls() {
    this.actions = {}; // by key
    for (const [keys, text, actions] of this.keys()) {
      Object.assign(this.actions, actions);
      byId("keys").append(html("dt", {}, ...keys.split(" ").flatMap((key) => [html("kbd", {}, key), " "])), html("dd", {}, text));
    }
    for (const button of document.querySelectorAll("[data-press]")) button.addEventListener("click", this.actions[button.dataset.press]);
    byId("slider").addEventListener("input", (event) => this.goTo(Number(event.target.value)));
    byId("search").addEventListener("input", (event) => this.search(event.target.value));
    document.addEventListener("theme", () => this.panel.repaint());
    document.addEventListener("keydown", (event) => this.key(event));
    byId("scene").addEventListener("click", (event) => this.click(event));
    byId("scene").addEventListener("focusin", (event) => this.focused(event));
  }

  click(event) {
    if (this.eye.dragged) return; // a drag is no click
    const element = event.target.closest("[data-key], [data-box]");
    if (!element || (element.dataset.box !== undefined && !event.target.closest(".heading, .times"))) return;
    if (event.target.closest(".times")) {
      this.selected = element.dataset.key || "o" + element.dataset.box;
      return this.spreadAround();
    }
    this.enter(element);
  }

  focused(event) {
    const element = event.target.closest("[data-key], [data-box]");
    if (!element) return;
    this.selected = element.dataset.key || "o" + element.dataset.box;
    this.mark();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || byId("help").open) return;
    if (event.target === byId("search")) return this.keyInSearch(event);
    const onGraph = byId("scene").contains(event.target);
    if (onGraph && event.key === "Tab") {
      if (this.tab(event.shiftKey ? -1 : 1)) event.preventDefault();
      return;
    }
    if (onGraph && event.key === "Escape") return byId("panel").focus();
    if (["Enter", " "].includes(event.key) && event.target.closest("button, a")) return; // the button acts by itself
    if (onGraph && event.key === "Enter") {
      event.preventDefault();
      return this.enter(event.target.closest("[data-key], [data-box]"));
    }
    if (byId("panel").contains(event.target) && /^Arrow(Up|Down)$/.test(event.key)) return; // scrolls it
    const action = this.actions[event.key];
    if (!action) return;
    event.preventDefault();
    action(event);
  }

  // [keys, what they do, actions by the names of the keys]: the keyboard, the buttons with data-press, and the help.
  keys() {
    const { model } = this, far = (event) => (event.shiftKey ? 10 : 1);
    const zoom = (factor) => () => this.eye.zoom(factor);
    const move = (x, y) => () => this.eye.move(x, y);
    return [
      ["← →", "previous, next step; with Shift ten steps", { ArrowLeft: (event) => this.goTo(this.step - far(event)), ArrowRight: (event) => this.goTo(this.step + far(event)) }],
      ["Home End b", "overview, last step, first backward step", { Home: () => this.goTo(0), End: () => this.goTo(this.last), b: () => this.goTo(this.model.forward.length + 1) }],
      ["Space", "play, stop", { " ": () => this.play() }],
      ["↑ ↓", "to the first input, to the first user of the item", { ArrowUp: () => this.neighbour(-1), ArrowDown: () => this.neighbour(1) }],
      ["Tab", "next item of the graph, in the order of the forward pass", {}],
      ["Esc", "from the graph to the panel", {}],
      ["Enter", "fold or unfold a box; show the details of an operation", {}],
      ["f", "fold the box around the item", { f: () => this.foldAround() }],
      ["x", "repeated blocks (×12): show all of them, or one for all", { x: () => this.spreadAround() }],
      ["[ ]", "fold, unfold by one level everywhere", { "[": () => this.depth(-1), "]": () => this.depth(1) }],
      ["m", "show or hide reshape and permute", { m: () => { model.tidy = !model.tidy; this.redraw(); } }],
      ["/", "search; Enter shows the next hit", { "/": () => byId("search").focus() }],
      ["+ − 0", "zoom, show everything", { "+": zoom(1.25), "=": zoom(1.25), "-": zoom(0.8), 0: () => this.eye.fit() }],
      ["w a s d", "move the picture", { w: move(0, 60), a: move(60, 0), s: move(0, -60), d: move(-60, 0) }],
      ...(this.listing ? [["p", "the program of the step, or the details", { p: () => this.listing.open(byId("program").hidden ? "program" : "panel") }]] : []),
      ["t", "light, dark", { t: () => chooseTheme() }],
      ["?", "this list", { "?": () => byId("help").showModal() }],
    ];
  }

  keyInSearch(event) {
    if (event.key === "Enter") this.nextHit(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      event.target.value = "";
      this.search("");
      event.target.blur();
      this.goTo(this.step, false);
    }
  }
}

window.page = new Page(data);
