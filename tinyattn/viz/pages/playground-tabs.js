// The page of the playground: its tabs, and what they share. A tab without a model is left out.
const asked = new URLSearchParams(location.hash.slice(1)); // #tab=digit&item=4&token=24, #tab=words&word=abc open the page there
window.page = { temperature: 1, tab: null }; // for the curious, and for the tests
const tabs = [...document.querySelectorAll("[role=tab]")].filter((tab) => data.tabs.includes(tab.value));

function open(name) {
  page.tab = name;
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", tab.value === name);
    tab.tabIndex = tab.value === name ? 0 : -1; // as one stop of the Tab key; the arrow keys go from tab to tab
  }
  for (const part of document.querySelectorAll("[data-tabs]")) part.hidden = !part.dataset.tabs.split(" ").includes(name);
  document.dispatchEvent(new Event("tab"));
}

function heat(power) {
  page.temperature = 2 ** power;
  byId("temperature").value = power;
  byId("degrees").textContent = page.temperature.toFixed(2);
  document.dispatchEvent(new Event("temperature"));
}

byId("tabs").replaceChildren(...tabs);
byId("tabs").hidden = tabs.length < 2;
for (const tab of tabs) tab.addEventListener("click", () => open(tab.value));
byId("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.findIndex((tab) => tab.value === page.tab) + step + tabs.length) % tabs.length];
  open(next.value);
  next.focus();
});
byId("temperature").addEventListener("input", (event) => heat(Number(event.target.value)));
byId("reset").addEventListener("click", () => {
  document.dispatchEvent(new Event("reset"));
  heat(0);
});
document.addEventListener("DOMContentLoaded", () => open(tabs.some((tab) => tab.value === asked.get("tab")) ? asked.get("tab") : tabs[0].value));
