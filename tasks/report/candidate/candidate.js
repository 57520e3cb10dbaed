"use strict";
// The behaviour of a candidate's page: theme, the crystal, and the CIF's copy.

const root = document.documentElement, wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
const view = new CrystalView(document.getElementById("crystal"), JSON.parse(document.getElementById("scene").textContent));
function paint(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = dark ? "Light" : "Dark";
  view.draw();
}
document.getElementById("theme").addEventListener("click", () => paint(root.dataset.theme !== "dark"));
wantsDark.addEventListener("change", (event) => paint(event.matches));
document.getElementById("copy").addEventListener("click", async (event) => {
  const cif = document.getElementById("cif");
  try {
    await navigator.clipboard.writeText(cif.textContent);
    event.target.textContent = "Copied";
  } catch { // a page opened as a file may not write there: the text is selected for Ctrl-C
    getSelection().selectAllChildren(cif);
    event.target.textContent = "Selected: press Ctrl-C";
  }
});
paint(wantsDark.matches);
