"use strict";

// A click on a header sorts the rows by that column, a second click the other way round. Cells
// without a value come last both times.
for (const button of document.querySelectorAll("th[aria-sort] button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

function sortBy(head) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const value = (row) => row.cells[head.cellIndex].dataset.v;
  const rows = [...body.rows].sort((a, b) => {
    const [one, two] = [value(a), value(b)];
    if (one === "" || two === "") return (one === "") - (two === "");
    const order = isNaN(one) || isNaN(two)
      ? one.localeCompare(two, undefined, { numeric: true })
      : one - two;
    return descending ? -order : order;
  });
  body.append(...rows);
}

// What a mark says appears beside it when it is pointed at, touched or focused.
const tip = document.getElementById("tip");
let shown = null;

function show(mark, x, y) {
  if (mark !== shown) {
    hide();
    shown = mark;
    mark.classList.add("on");
    const [title, ...rows] = JSON.parse(mark.dataset.tip);
    const head = document.createElement("b");
    head.textContent = title;
    tip.append(head, ...rows.map(line));
    tip.hidden = false;
  }
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, innerWidth - box.width - 8);
  const above = y - box.height - 14;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 8 ? above : Math.min(y + 18, innerHeight - box.height - 8)}px`;
}

function line([style, name, value]) {
  const row = document.createElement("div");
  const parts = ["swatch " + style, "", ""].map((classes) => {
    const part = document.createElement("span");
    part.className = classes;
    return part;
  });
  parts[1].textContent = name;
  parts[2].textContent = value;
  row.append(...parts);
  return row;
}

function hide() {
  if (shown) shown.classList.remove("on");
  shown = null;
  tip.hidden = true;
  tip.replaceChildren();
}

function beside(mark) {
  const box = mark.getBoundingClientRect();
  show(mark, box.x + box.width / 2, box.y + Math.min(box.height / 2, 60));
}

for (const kind of ["pointerover", "pointermove", "pointerdown"]) {
  document.addEventListener(kind, (event) => {
    const mark = event.target.closest("[data-tip]");
    if (mark) show(mark, event.clientX, event.clientY);
    else if (kind !== "pointermove") hide();
  });
}
document.documentElement.addEventListener("mouseleave", hide);
document.addEventListener("focusin", (event) => {
  if (event.target.matches("[data-tip]") && event.target !== shown) beside(event.target);
});
document.addEventListener("focusout", hide);
document.addEventListener("scroll", hide, { passive: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !event.target.matches("svg.columns")) return;
  event.preventDefault();
  const columns = [...event.target.querySelectorAll(".column")];
  const next = columns.indexOf(shown) + step;
  beside(columns[Math.max(0, Math.min(next, columns.length - 1))]);
});
