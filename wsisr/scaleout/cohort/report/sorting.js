"use strict";
for (const head of document.querySelectorAll("th[aria-sort]")) {
  head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = document.querySelector("tbody");
    const key = row => row.cells[head.cellIndex].dataset.value;
    const compare = (a, b) =>
      isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
    const rows = Array.from(body.rows, row => [key(row), row]);
    rows.sort(([a], [b]) =>
      a === undefined || b === undefined
        ? (a === undefined) - (b === undefined)
        : down ? compare(b, a) : compare(a, b));
    body.append(...rows.map(([, row]) => row));
    for (const other of document.querySelectorAll("th[aria-sort]")) {
      other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
