// What the pages of attention maps and the playground share: numbers, colours, tables, and cells to choose.

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

const strength = (value, most) => most ? 0.85 * Math.abs(value) / Math.abs(most) : 0; // an alpha; full colour is `most`
const css = (value, most) => `rgb(var(--${value < 0 ? "minus" : "plus"}) / ${strength(value, most).toFixed(4)})`;

// A canvas with a pixel for each value, in rows of `columns`.
function shades(values, columns, most) {
  const canvas = html("canvas", { width: columns, height: values.length / columns });
  const pixels = new ImageData(columns, values.length / columns), [plus, minus] = ["--plus", "--minus"].map(cssNumbers);
  values.forEach((value, i) => pixels.data.set([...(value < 0 ? minus : plus), Math.round(255 * strength(value, most))], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// A row of a table of class probabilities.
function classRow(name, share, isTarget) {
  const bar = html("b");
  bar.style.width = `${100 * share}%`;
  return html("tr", { className: isTarget ? "target" : "" }, html("td", {}, name), html("td", {}, percent(share)), html("td", {}, bar));
}

byId("theme").addEventListener("click", () => chooseTheme());
byId("title").textContent = data.title;
