// The page: steps, selection, keys, mouse, search.

class Page {
  constructor(data) {
    this.model = new Model(data);
    this.picture = new Picture(this.model, byId("scene"));
    this.panel = new Panel(this.model, byId("panel"), (index) => this.select(index));
    this.last = this.model.forward.length + this.model.steps.length;
    this.step = 0; // 0 is the overview, then forward, then backward
    this.selected = null; // a key: "v3", "b2", "o2"
    this.eye = new Eye(byId("canvas"), byId("graph"), byId("scene"), byId("legend"), this.picture);
    this.hits = [];
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
    if (wanted.has("step")) this.goTo(Number(wanted.get("step")) || 0);
  }

  // At first as much is unfolded as can be read without moving about.
  foldToFit() {
    const asked = new Set(this.model.folded);
    for (let depth = this.deepest; depth >= 1; depth--) {
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
    byId("counts").textContent = `${model.forward.length} operations · ${model.vertices.length} vertices · ${model.edges} edges · ${model.steps.length} backward steps`;
    byId("slider").max = this.last;
    byId("phase-forward").style.flex = model.forward.length;
    byId("phase-backward").style.flex = model.steps.length;
    byId("phase-backward").hidden = byId("turn").hidden = !model.steps.length;
    this.deepest = model.levels();
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
    byId("depth").textContent = `${this.model.level()}/${this.deepest}`;
    this.paint();
    this.offerTab();
  }

  // Shows the step in the picture.
  paint() {
    const { model, step } = this, forward = model.forward.length;
    const state = { done: new Set(model.vertices.map((v) => v.index)), reached: new Set(), waiting: new Set(), now: null, carries: [], feeds: [] };
    document.body.classList.toggle("backward", step > forward);
    if (step > 0 && step <= forward) {
      const now = model.forward[step - 1];
      for (const v of model.forward.slice(step)) state.done.delete(v.index);
      state.now = now.index;
      state.feeds = now.inputs.map(([source]) => [source, now.index]);
    } else if (step > forward) {
      const at = step - forward - 1, now = model.steps[at];
      state.now = now.vertex;
      for (const [vertex, i] of this.takenAt) if (i <= at) state.reached.add(vertex);
      for (const [vertex, i] of this.firstArrival) if (i <= at) state.waiting.add(vertex);
      state.carries = now.arrivals.map(([target]) => [target, now.vertex]);
    }
    this.picture.show(state);
    this.mark();
  }

  mark() {
    for (const [key, element] of this.picture.elements) element.classList.toggle("hit", this.hits.includes(key) || key === this.selected);
  }

  // --- steps ---

  goTo(step, follow = true) {
    this.step = Math.max(0, Math.min(this.last, step));
    this.selected = null;
    const forward = this.model.forward.length;
    byId("slider").value = this.step;
    let where = "overview", now = null;
    if (this.step === 0) this.panel.overview();
    else if (this.step <= forward) {
      const vertex = this.model.forward[this.step - 1];
      where = `forward ${this.step} of ${forward}: ${vertex.title}`;
      now = vertex.index;
      this.panel.forward(vertex, this.step);
    } else {
      const step = this.model.steps[this.step - forward - 1];
      where = `backward ${this.step - forward} of ${this.model.steps.length}: ${this.model.vertices[step.vertex].title}`;
      now = step.vertex;
      this.panel.backward(step, this.step - forward);
    }
    byId("where").textContent = where;
    byId("slider").setAttribute("aria-valuetext", where);
    this.paint();
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

  // Shows a vertex, opening what it is folded into.
  select(index) {
    if (this.model.itemOf(index) !== "v" + index) {
      this.model.reveal(index);
      this.redraw();
    }
    this.focus(this.picture.view.of[index]);
    this.details("v" + index);
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
    if (key[0] === "v") this.panel.vertex(this.model.vertices[Number(key.slice(1))]);
  }

  // One element of the graph is in the order of Tab: the selected one, else the first.
  offerTab() {
    const { elements } = this.picture;
    for (const element of elements.values()) element.setAttribute("tabindex", -1);
    const first = elements.get(this.selected) || [...elements].find(([key]) => key[0] !== "o")?.[1];
    if (first) first.setAttribute("tabindex", 0);
  }

  // Folds or unfolds a box; a repeat goes from one box for all to each of them, and back.
  toggle(box) {
    const { model } = this;
    if (model.boxes[box].members.length) model.spread[model.spread.has(box) ? "delete" : "add"](box);
    else model.folded[model.folded.has(box) ? "delete" : "add"](box);
    this.keepInPlace(box, () => this.redraw());
    const key = ["b" + box, "o" + box].find((k) => this.picture.elements.has(k));
    this.focus(key || this.picture.view.of[model.inside[box][0]]);
  }

  // Shows every one of the boxes that one stands for around an item, or one for all again.
  spreadAround() {
    const { model } = this;
    const groups = this.around().filter((b) => model.boxes[b].members.length);
    if (groups.length) this.toggle(groups.pop());
  }

  // The boxes around the selected item, outermost first; a folded one with itself.
  around() {
    const { model } = this, key = this.selected || (this.step ? this.nowKey() : null);
    if (!key) return [];
    const index = Number(key.slice(1));
    return model.chain(key[0] === "v" ? model.vertices[index].box : index);
  }

  // The box's corner stays where it was on the screen.
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
    this.model.foldTo(Math.max(0, Math.min(this.deepest, this.model.level() + change)));
    this.model.spread.clear();
    this.selected = null;
    this.redraw();
    this.eye.fit(READABLE);
  }

  // To what it came from (-1) or to what uses it (1).
  neighbour(direction) {
    const { wires, items } = this.picture.view;
    const key = this.selected && items.has(this.selected) ? this.selected : this.step ? this.nowKey() : items.keys().next().value;
    if (!this.selected) return this.arrive(key);
    const near = [...wires.values()].filter((w) => (direction < 0 ? w.to : w.from) === key).map((w) => (direction < 0 ? w.from : w.to));
    const order = [...items.keys()];
    near.sort((a, b) => items.get(a).leaf - items.get(b).leaf || order.indexOf(a) - order.indexOf(b));
    if (near.length) this.arrive(near[0]);
  }

  nowKey() {
    const forward = this.model.forward.length;
    const index = this.step <= forward ? this.model.forward[this.step - 1].index : this.model.steps[this.step - forward - 1].vertex;
    return this.picture.view.of[index];
  }

  arrive(key) {
    this.focus(key);
    this.details(key);
  }

  tab(direction) {
    const keys = [...this.picture.view.items.keys()];
    const at = keys.indexOf(this.selected);
    const next = at + direction;
    if (at < 0 || next < 0 || next >= keys.length) return false;
    this.arrive(keys[next]);
    return true;
  }

  enter(element) {
    const { key, box } = element.dataset;
    if (box !== undefined) this.toggle(Number(box));
    else if (key[0] === "b") this.toggle(Number(key.slice(1)));
    else {
      this.focus(key);
      this.details(key);
    }
  }

  foldAround() {
    const box = this.around().filter((b) => !this.model.boxes[b].members.length && !this.model.folded.has(b)).pop();
    if (box !== undefined) this.toggle(box);
  }

  // --- search ---

  search(text) {
    const { model } = this, wanted = text.trim().toLowerCase();
    const found = wanted ? model.vertices.filter((v) => `${v.title} ${v.op} ${v.path} ${v.site ? v.site.join(" ") : ""} ${shapeText(v.shape)}`.toLowerCase().includes(wanted)) : [];
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
    if (this.model.itemOf(index) !== "v" + index) {
      this.model.reveal(index);
      this.redraw();
    }
    this.hits = [this.picture.view.of[index]];
    this.mark();
    this.eye.look(this.hits[0]);
    this.details("v" + index);
    byId("found").textContent = `${this.foundAt + 1} of ${this.found.length}`;
  }

  // --- input ---

  controls() {
    const buttons = {
      first: () => this.goTo(0), previous: () => this.goTo(this.step - 1), next: () => this.goTo(this.step + 1),
      play: () => this.play(), turn: () => this.goTo(this.model.forward.length + 1), less: () => this.depth(-1),
      more: () => this.depth(1), fit: () => this.eye.fit(), theme: () => chooseTheme(), "help-button": () => byId("help").showModal(),
    };
    for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
    byId("slider").addEventListener("input", (event) => this.goTo(Number(event.target.value)));
    byId("search").addEventListener("input", (event) => this.search(event.target.value));
    document.addEventListener("theme", () => this.panel.repaint());
    document.addEventListener("keydown", (event) => this.key(event));
    byId("scene").addEventListener("click", (event) => this.click(event));
    byId("scene").addEventListener("focusin", (event) => this.focused(event));
  }

  click(event) {
    if (this.eye.dragged) return; // the mouse has moved the picture
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
    const key = element.dataset.key || "o" + element.dataset.box;
    if (key !== this.selected) {
      this.selected = key;
      this.mark();
    }
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
    const action = this.keys()[event.key];
    if (!action) return;
    event.preventDefault();
    action(event);
  }

  keys() {
    const far = (event) => (event.shiftKey ? 10 : 1);
    const pan = (x, y) => () => this.eye.move(x, y);
    return {
      ArrowRight: (event) => this.goTo(this.step + far(event)),
      ArrowLeft: (event) => this.goTo(this.step - far(event)),
      ArrowUp: () => this.neighbour(-1),
      ArrowDown: () => this.neighbour(1),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.last),
      b: () => this.goTo(this.model.forward.length + 1),
      " ": () => this.play(),
      f: () => this.foldAround(),
      x: () => this.spreadAround(),
      "[": () => this.depth(-1),
      "]": () => this.depth(1),
      "/": () => byId("search").focus(),
      "+": () => this.eye.zoom(1.25), "=": () => this.eye.zoom(1.25), "-": () => this.eye.zoom(0.8), 0: () => this.eye.fit(),
      w: pan(0, 60), a: pan(60, 0), s: pan(0, -60), d: pan(-60, 0),
      t: () => chooseTheme(),
      "?": () => byId("help").showModal(),
    };
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

window.page = new Page(JSON.parse(byId("data").textContent));
