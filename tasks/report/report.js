"use strict";
// The page's behaviour: theme, hull figures, table sorting and filtering, and the crystal dialog. No library but plotly.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const scenes = read("scenes"), figures = read("figures");
const views = [];
const root = document.documentElement;

// ---- theme ---------------------------------------------------------------------------------------------------------
const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
function paint(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = dark ? "Light" : "Dark";
  views.forEach((view) => view.draw());
  drawHull();
}
document.getElementById("theme").addEventListener("click", () => paint(root.dataset.theme !== "dark"));
wantsDark.addEventListener("change", (event) => paint(event.matches));

// ---- hull ----------------------------------------------------------------------------------------------------------
let shownFigure = "plane";
const VIEW_PX = 990;  // width that the first view of hull_space.py takes up
function coloured(figure) {
  const style = getComputedStyle(root), tone = (name) => style.getPropertyValue(name).trim();
  const dark = root.dataset.theme === "dark";
  const copy = JSON.parse(JSON.stringify(figure)), ink = tone("--ink"), card = tone("--card");
  for (const trace of copy.data) {
    if (trace.meta === "tie") trace.line.color = tone("--tie");
    if (trace.meta === "known") Object.assign(trace.marker, { color: ink, line: { width: 1, color: ink } });
    const faint = tone("--faint"), solid = trace.type === "scatter3d";
    if (trace.meta === "other") Object.assign(trace.marker, { color: solid ? faint : card, line: { width: 1, color: faint } });
    if (trace.meta === "candidate" || trace.meta === "key") trace.marker.line.color = dark || shownFigure === "space" ? ink : card;
    if (trace.textfont) trace.textfont.color = ink;
  }
  copy.layout.font.color = ink;
  copy.layout.hoverlabel = { ...copy.layout.hoverlabel, bgcolor: card, bordercolor: tone("--line"), font: { color: ink } };
  const notes = [...(copy.layout.annotations || []), ...(copy.layout.scene?.annotations || [])];
  for (const note of notes) Object.assign(note, { bgcolor: `${card}c8`, arrowcolor: tone("--faint"), font: { ...note.font, color: ink } });
  Object.assign(copy.layout.modebar, { color: tone("--faint"), activecolor: ink });
  if (window.innerWidth < 640) beneath(copy);
  return copy;
}
// On a narrow screen the legend and the colour bar go below the picture.
function beneath({ data, layout }) {
  const bar = data.find((trace) => trace.meta === "candidate")?.marker.colorbar;
  if (bar) Object.assign(bar, { orientation: "h", x: 0.5, xanchor: "center", y: -0.04, yanchor: "top", len: 0.9 });
  if (bar) bar.title.text = bar.title.text.replace("<br>", " ");
  layout.legend = { ...layout.legend, orientation: "v", x: 0, xanchor: "left", y: -0.24, yanchor: "top" };
  layout.margin = { l: 4, r: 4, t: 4, b: 4 };
  const corner = (layout.annotations || []).find((note) => note.name === "corner");
  if (corner) Object.assign(corner, { y: 1, yanchor: "top", text: corner.text.replaceAll(/, |: /g, "$&<br>") });
}
// A narrower picture is seen from further away, or its axis would be cut off; one with all else beneath is lower too.
function furtherAway({ eye, center }, width) {
  const factor = Math.max(1, VIEW_PX / width);
  for (const axis of "xyz") eye[axis] = center[axis] + factor * (eye[axis] - center[axis]);
}
function drawHull() {
  const place = document.getElementById("hull-plot");
  if (!place || !window.Plotly) return;
  const { data, layout } = coloured(figures[shownFigure]);
  if (layout.scene && window.innerWidth >= 640) furtherAway(layout.scene.camera, place.clientWidth);
  Plotly.newPlot(place, data, layout, { responsive: true, displaylogo: false, scrollZoom: shownFigure === "space",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "hoverClosest3d", "tableRotation"] });
  place.removeAllListeners("plotly_click");
  place.on("plotly_click", (event) => event.points[0].customdata && inspect(event.points[0].customdata));
}
for (const button of document.querySelectorAll("[data-figure]")) {
  button.addEventListener("click", () => {
    shownFigure = button.dataset.figure;
    document.querySelectorAll("[data-figure]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    drawHull();
  });
}

// ---- crystals: drawn when they come into sight ---------------------------------------------------------------------
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    views.push(new CrystalView(target, scenes[target.dataset.crystal]));
  }
}, { rootMargin: "200px" });
document.querySelectorAll(".gallery canvas").forEach((canvas) => watcher.observe(canvas));

// ---- table ---------------------------------------------------------------------------------------------------------
const table = document.getElementById("candidates");
const rows = table ? [...table.tBodies[0].rows] : [];
function sortBy(column, descending) {
  const value = (row) => row.cells[column].dataset.value;
  const numeric = table.tHead.rows[0].cells[column].dataset.kind === "number";
  const sorted = [...rows].sort((one, two) => {
    const [a, b] = [value(one), value(two)];
    if (a === "" || b === "") return (a === "") - (b === "") || one.dataset.rank - two.dataset.rank; // unknown goes last
    const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
    return (descending ? -order : order) || one.dataset.rank - two.dataset.rank;
  });
  table.tBodies[0].append(...sorted);
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    if (i === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}
function filterRows() {
  const field = (name) => document.getElementById(`filter-${name}`);
  const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const limit = field("energy").value === "" ? Infinity : Number(field("energy").value);
  let shown = 0;
  for (const row of rows) {
    const energy = row.dataset.energy === "" ? NaN : Number(row.dataset.energy);
    const hit = words.every((word) => row.dataset.search.includes(word))
      && (limit === Infinity || energy <= limit)
      && (!field("new").checked || row.dataset.new === "1")
      && (!field("converged").checked || row.dataset.status === "converged");
    row.hidden = !hit;
    shown += hit;
  }
  document.getElementById("filter-count").textContent = `${shown} of ${rows.length} shown`;
}
if (table) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.querySelector("button")?.addEventListener("click", () => sortBy(column, cell.getAttribute("aria-sort") === "ascending"));
  });
  document.querySelectorAll(".filters input").forEach((input) => input.addEventListener("input", filterRows));
  document.getElementById("all-columns").addEventListener("input", (event) => table.classList.toggle("every", event.target.checked));
  table.tBodies[0].addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!event.target.closest("a") && row.dataset.id) inspect(row.dataset.id);
  });
}

// ---- one candidate, large ------------------------------------------------------------------------------------------
const dialog = document.getElementById("inspect");
let large = null, current = null;
function inspect(id) {
  const row = rows.find((r) => r.dataset.id === id);
  if (!row) return;
  current = id;
  const cell = (name) => row.querySelector(`[data-column="${name}"]`);
  document.getElementById("inspect-title").innerHTML = cell("formula").querySelector(".text").innerHTML;
  document.getElementById("inspect-id").textContent = id;
  const list = document.getElementById("inspect-numbers");
  list.replaceChildren();
  for (const head of table.tHead.rows[0].cells) {
    const name = head.dataset.column;
    if (name === "formula") continue;
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.innerHTML = head.dataset.label;
    value.innerHTML = cell(name).innerHTML;
    list.append(term, value);
  }
  const canvas = document.getElementById("inspect-canvas"), scene = scenes[id];
  canvas.hidden = !scene;
  document.getElementById("inspect-missing").hidden = Boolean(scene);
  document.getElementById("inspect-key").innerHTML = scene ? keyOf(scene) : "";
  if (!dialog.open) dialog.showModal();
  if (!scene) return;
  canvas.setAttribute("aria-label", `Crystal structure of candidate ${id}; drag or use the arrow keys to turn it`);
  if (large) large.show(scene);
  else views.push((large = new CrystalView(canvas, scene)));
}
function keyOf(scene) {
  return scene.s.map((symbol, i) => `<span><i style="background:${css(scene.c[i])}"></i>${symbol}</span>`).join("");
}
function neighbour(step) {
  const order = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const at = order.findIndex((row) => row.dataset.id === current);
  const next = order[(at + step + order.length) % order.length];
  if (next) inspect(next.dataset.id);
}
if (dialog) {
  document.getElementById("inspect-close").addEventListener("click", () => dialog.close());
  document.getElementById("inspect-previous").addEventListener("click", () => neighbour(-1));
  document.getElementById("inspect-next").addEventListener("click", () => neighbour(1));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
document.querySelectorAll("[data-inspect]").forEach((button) => button.addEventListener("click", () => inspect(button.dataset.inspect)));

paint(wantsDark.matches);
