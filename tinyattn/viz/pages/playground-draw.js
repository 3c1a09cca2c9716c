// The paper, and what becomes of a drawing: centred by its mass in a box of 20 / 28 of the image, as MNIST's digits are.

class Paper {
  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed, erasing: false, last: null });
    this.ink = canvas.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.line(event);
    });
    canvas.addEventListener("pointermove", (event) => this.last && this.line(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { this.last = null; });
    document.addEventListener("theme", () => this.paint());
    this.clear();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect(), by = this.canvas.width / box.width;
    return [(event.clientX - box.left) * by, (event.clientY - box.top) * by];
  }

  // The ink is the alpha of each pixel; its colour is that of the theme's text.
  line(event) {
    const here = this.place(event), { ink } = this;
    ink.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    ink.lineWidth = this.canvas.width * (this.erasing ? 0.12 : 0.075);
    ink.lineCap = ink.lineJoin = "round";
    ink.strokeStyle = getComputedStyle(root).getPropertyValue("--text");
    ink.beginPath();
    ink.moveTo(...this.last);
    ink.lineTo(here[0] + 0.01, here[1]);
    ink.stroke();
    this.last = here;
    this.changed();
  }

  paint() { // again, in the colour of the theme
    this.ink.globalCompositeOperation = "source-in";
    this.ink.fillStyle = getComputedStyle(root).getPropertyValue("--text");
    this.ink.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  clear() {
    this.ink.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  show(image, size) { // an image of the model's size, as ink
    this.clear();
    this.ink.globalCompositeOperation = "source-over";
    this.ink.drawImage(picture(image, size), 0, 0, this.canvas.width, this.canvas.height);
    this.paint();
  }

  // The drawing as size x size numbers from 0 to 1.
  image(size) {
    const n = this.canvas.width, alpha = this.ink.getImageData(0, 0, n, n).data.filter((_, i) => i % 4 === 3);
    let left = n, top = n, right = -1, bottom = -1;
    alpha.forEach((a, i) => {
      if (a < 30) return;
      left = Math.min(left, i % n);
      right = Math.max(right, i % n);
      top = Math.min(top, Math.floor(i / n));
      bottom = Math.max(bottom, Math.floor(i / n));
    });
    if (right < 0) return new Float64Array(size * size);
    const by = size * 20 / 28 / (Math.max(right - left, bottom - top) + 1); // pixels of the image in one of the paper
    let mass = 0, x = 0, y = 0;
    alpha.forEach((a, i) => {
      mass += a;
      x += a * (i % n + 0.5);
      y += a * (Math.floor(i / n) + 0.5);
    });
    return this.shrunk(by, size / 2 - by * x / mass, size / 2 - by * y / mass, size);
  }

  shrunk(by, x, y, size) { // four times too large, then the mean of 4 x 4: no pixel is passed over
    const fine = document.createElement("canvas");
    fine.width = fine.height = 4 * size;
    const ink = fine.getContext("2d", { willReadFrequently: true });
    ink.imageSmoothingQuality = "high";
    ink.setTransform(4 * by, 0, 0, 4 * by, 4 * x, 4 * y);
    ink.drawImage(this.canvas, 0, 0);
    const found = ink.getImageData(0, 0, 4 * size, 4 * size).data, image = new Float64Array(size * size);
    for (let i = 0; i < 16 * size * size; i++) {
      const at = Math.floor(i / (16 * size)) * size + Math.floor(i % (4 * size) / 4);
      image[at] += found[4 * i + 3] / 255 / 16;
    }
    return image;
  }
}

// A canvas of the image's own size, whose alpha is the image.
function picture(image, size, strength = 1) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const ink = canvas.getContext("2d"), pixels = ink.createImageData(size, size);
  const colour = root.dataset.theme === "dark" ? 230 : 20;
  image.forEach((value, i) => pixels.data.set([colour, colour, colour, 255 * value * strength], 4 * i));
  ink.putImageData(pixels, 0, 0);
  return canvas;
}

// Paints an image and, over it, the shades of values in rows of `columns`; full colour is `most`.
function paintOver(canvas, image, values, columns, most) {
  const ink = canvas.getContext("2d");
  ink.clearRect(0, 0, canvas.width, canvas.height);
  ink.imageSmoothingEnabled = false;
  for (const layer of [image, shades(values, columns, most)]) ink.drawImage(layer, 0, 0, canvas.width, canvas.height);
}

// Lets the reader choose a cell of the square maps in `element`, by pointer and by arrow keys; null: none.
// chosen() returns the cell, choose sets it, press acts on one: a click, or Enter.
function pickCells(element, side, chosen, choose, press = null) {
  const under = ({ target, clientX, clientY }) => {
    const box = target.getBoundingClientRect(), at = (d) => Math.min(Math.max(Math.floor(d * side), 0), side - 1);
    return target.matches("canvas") ? at((clientY - box.top) / box.height) * side + at((clientX - box.left) / box.width) : null;
  };
  element.addEventListener("pointermove", (event) => choose(under(event)));
  element.addEventListener("pointerleave", () => choose(null));
  element.addEventListener("click", (event) => press?.(under(event)));
  element.addEventListener("keydown", (event) => {
    const [down, right] = ARROWS[event.key] ?? [0, 0];
    if (down || right) choose(Math.min(Math.max((chosen() ?? 0) + down * side + right, 0), side ** 2 - 1));
    else if (press && (event.key === "Enter" || event.key === " ")) press(chosen() ?? 0);
    else if (event.key === "Escape") choose(null);
    else return;
    event.preventDefault();
  });
}
