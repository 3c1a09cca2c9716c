// The tab with the program of a compiled step: blocks of lines, each of one operation in one module, forward or backward.

class Listing {
  constructor(page, element) {
    Object.assign(this, { page, element });
    this.blocks = page.model.program.map(([origin, lines]) => {
      const back = origin.startsWith("d ");
      const block = html("pre", { role: "option", tabIndex: -1, className: back ? "block back" : "block" }, origin ? html("b", {}, origin) : null, origin ? "\n" : null, lines);
      return Object.assign(block, { origin: back ? origin.slice(2) : origin, back });
    });
    element.append(...this.blocks);
    element.addEventListener("click", (event) => this.choose(event.target.closest(".block")));
    element.addEventListener("keydown", (event) => this.key(event));
    byId("tabs").hidden = false;
    for (const name of ["panel", "program"]) byId(`tab-${name}`).addEventListener("click", () => this.open(name));
    this.open("panel");
  }

  // Shows the panel or the program beside the graph.
  open(tab) {
    for (const name of ["panel", "program"]) {
      byId(name).hidden = name !== tab;
      byId(`tab-${name}`).setAttribute("aria-selected", name === tab);
    }
  }

  // Marks the lines of some operations; back: those of the backward pass (true), of the forward pass (false), or both.
  show(vertices, back) {
    const origins = new Set(vertices.map((v) => v.origin).filter(Boolean));
    for (const block of this.blocks) block.setAttribute("aria-selected", origins.has(block.origin) && block.back === (back ?? block.back));
    const marked = this.blocks.filter((block) => block.getAttribute("aria-selected") === "true");
    for (const block of this.blocks) block.tabIndex = block === (marked[0] ?? this.blocks[0]) ? 0 : -1;
    const { top, bottom } = this.element.getBoundingClientRect();
    const isVisible = (block) => { const box = block.getBoundingClientRect(); return box.bottom > top && box.top < bottom; };
    if (marked.length && !marked.some(isVisible)) this.element.scrollTo(0, marked[0].offsetTop - this.element.offsetTop);
  }

  // Goes to the step that a block computes.
  choose(block) {
    const { model, takenAt } = this.page, vertex = block?.origin && model.forward.find((v) => v.origin === block.origin);
    if (!vertex) return;
    const at = takenAt.get(vertex.index);
    this.page.goTo(block.back && at !== undefined ? model.forward.length + 1 + at : model.forward.indexOf(vertex) + 1);
  }

  key(event) {
    const at = this.blocks.indexOf(event.target), step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) this.blocks[Math.max(0, Math.min(this.blocks.length - 1, at + step))].focus();
    else if (event.key === "Enter") this.choose(event.target);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
