"use strict";
// What all pages share: elements, the data of the page, and the theme.

const byId = (id) => document.getElementById(id), data = JSON.parse(byId("data").textContent);
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }; // down, right

// An HTML element. Names of properties set properties, other names attributes; null and "" are no children.
function html(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// --- light and dark: as the system has it, until the reader chooses ---

const root = document.documentElement, systemIsDark = matchMedia("(prefers-color-scheme: dark)");
let themeIsChosen = false;

function setTheme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  document.dispatchEvent(new Event("theme")); // canvases must be painted again
}

function chooseTheme(dark = root.dataset.theme !== "dark") {
  themeIsChosen = true;
  setTheme(dark);
}

systemIsDark.addEventListener("change", () => themeIsChosen || setTheme(systemIsDark.matches));
setTheme(systemIsDark.matches);

const cssNumbers = (name) => getComputedStyle(root).getPropertyValue(name).trim().split(" ").map(Number); // "213 94 0"
