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

// The charts, by Vega-Embed, which comes before this script. Its interpreter needs no `eval`, which
// the page does not allow.
const options = {
  actions: false, ast: true, defaultStyle: false, mode: "vega-lite", renderer: "svg",
  tooltip: { disableDefaultStyle: true },
};
for (const figure of document.querySelectorAll("figure")) {
  const drawing = figure.querySelector(".drawing");
  const chart = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(drawing, chart, options).then(() => walkable(drawing));
}

// Vega says what a mark has to say when a pointer moves over it, which neither a tap nor a key does.
// The Tab key gets to a chart, and the arrow keys to those of its marks that say something.
function walkable(drawing) {
  const described = ".role-mark > [aria-label]";
  drawing.tabIndex = 0;
  drawing.addEventListener("click", (event) => {
    if (event.target.matches(described)) show(event.target);
  });
  drawing.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide(event.target);
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const marks = [...drawing.querySelectorAll(described)];
    const next = marks.indexOf(event.target) + step;
    const mark = marks[Math.max(0, Math.min(next, marks.length - 1))];
    mark.tabIndex = -1;
    mark.focus();
    show(mark);
  });
  drawing.addEventListener("focusout", (event) => hide(event.target));
}

function show(mark) {
  const box = mark.getBoundingClientRect();
  const [clientX, clientY] = [box.x + box.width / 2, box.y + Math.min(box.height / 2, 60)];
  mark.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX, clientY }));
}

function hide(mark) {
  mark.dispatchEvent(new MouseEvent("mouseout", { bubbles: true }));
}
