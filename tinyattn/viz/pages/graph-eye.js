// The visible section of the picture: moved and zoomed by mouse and keys, and to selected items.

const READABLE = 0.85; // the smallest scale at first
const LEGIBLE = 0.55; // the smallest to show a frame as a whole

class Eye {
  constructor(canvas, scene, picture) {
    Object.assign(this, { canvas, scene, picture, x: 0, y: 0, scale: 1, dragged: false });
    this.mouse();
  }

  move(right, down) {
    this.set(this.x + right, this.y + down, this.scale);
  }

  set(x, y, scale) {
    Object.assign(this, { x, y, scale });
    this.scene.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
  }

  scaleToFit() {
    const { clientWidth: w, clientHeight: h } = this.canvas, { layout } = this.picture;
    return Math.max(0.05, Math.min((w - 40) / layout.w, (h - 32) / layout.h, 1.25));
  }

  // Shows everything; if that needs a scale below `least`, as much as fits from the top, in full width if it can be read.
  fit(least = 0) {
    const { clientWidth: w, clientHeight: h } = this.canvas, { layout } = this.picture;
    const scale = Math.max(this.scaleToFit(), Math.min(least, Math.max(LEGIBLE, (w - 24) / layout.w)));
    this.set((w - layout.w * scale) / 2, Math.max(16, (h - layout.h * scale) / 2), scale);
  }

  // Zooms by a factor, around a point of the canvas or its middle.
  zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const scale = Math.max(0.05, Math.min(4, this.scale * factor)), real = scale / this.scale;
    this.set(px - (px - this.x) * real, py - (py - this.y) * real, scale);
  }

  // Moves and zooms so that an item or a box is visible and readable.
  look(key) {
    const { items, boxes } = this.picture.layout;
    const rect = items.get(key) || boxes.get(Number(key.slice(1)));
    if (!rect) return;
    const { clientWidth: w, clientHeight: h } = this.canvas, edge = 40;
    if (this.scale < 0.7) this.set(w / 2 - (rect.x + rect.w / 2) * 0.85, h / 2 - (rect.y + rect.h / 2) * 0.85, 0.85);
    const { scale } = this;
    const [left, top, wide, high] = [rect.x * scale + this.x, rect.y * scale + this.y, rect.w * scale, rect.h * scale];
    const outX = left < edge || left + wide > w - edge, outY = top < edge || top + high > h - edge - 30;
    this.move(outX ? Math.max(edge, (w - wide) / 2) - left : 0, outY ? Math.max(edge, (h - high) / 2) - top : 0);
  }

  // Moves, and zooms out as far as one can still read, so that the whole frame of an open box is visible.
  show(box) {
    const rect = this.picture.layout.boxes.get(box), { clientWidth: w, clientHeight: h } = this.canvas, edge = 12;
    if (!rect) return;
    const fitting = Math.min(this.scale, (w - 2 * edge) / rect.w, (h - 2 * edge) / rect.h);
    if (fitting < LEGIBLE) return;
    this.zoom(fitting / this.scale, this.x + rect.x * this.scale, this.y + rect.y * this.scale); // around its corner
    const [left, top] = [rect.x * fitting + this.x, rect.y * fitting + this.y];
    const into = (start, size, room) => Math.max(edge, Math.min(start, room - edge - size)) - start;
    this.move(into(left, rect.w * fitting, w), into(top, rect.h * fitting, h));
  }

  mouse() {
    this.canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    let from = null; // mouse and picture when the button went down
    this.canvas.addEventListener("pointerdown", (event) => {
      from = { mouseX: event.clientX, mouseY: event.clientY, x: this.x, y: this.y };
      this.dragged = false;
    });
    addEventListener("pointermove", (event) => {
      if (!from) return;
      const [right, down] = [event.clientX - from.mouseX, event.clientY - from.mouseY];
      this.dragged = this.dragged || Math.hypot(right, down) > 4;
      this.canvas.classList.toggle("dragging", this.dragged);
      if (this.dragged) this.set(from.x + right, from.y + down, this.scale);
    });
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => {
      from = null;
      this.canvas.classList.remove("dragging");
    });
  }

  wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1; // lines, or pixels
    if (event.ctrlKey || event.metaKey) {
      const { left, top } = this.canvas.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * unit * 0.004), event.clientX - left, event.clientY - top);
    } else if (event.shiftKey) this.move(-event.deltaY * unit, 0);
    else this.move(-event.deltaX * unit, -event.deltaY * unit);
  }
}
