"use strict";
// Headings become buttons here, so that a page without scripts promises nothing it cannot do.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value;
  const compared = (a, b) => {
    const numbers = [a, b].map(Number);
    return numbers.some(Number.isNaN) ? a.localeCompare(b, "en") : numbers[0] - numbers[1];
  };
  const sort = (column) => {
    const falling = heads[column].getAttribute("aria-sort") === "ascending";
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [value(one, column), value(other, column)];
      if (a === "" || b === "") return (a === "") - (b === ""); // what is unknown comes last either way
      return (falling ? -1 : 1) * compared(a, b);
    });
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...rows);
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });
}
