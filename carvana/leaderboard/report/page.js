// Sorting of the leaderboard. Without it the rows stay in the order of rank.
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const ranks = new Map([...body.rows].map((row, index) => [row, index]));

  // Numbers by their size, names as people sort them ("unet2" before "unet10"); unknown values come last both ways.
  function compare(a, b, column, sign) {
    const [x, y] = [a, b].map((row) => row.cells[column].dataset.value);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const numeric = headings[column].classList.contains("number");
    const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
    return sign * order || ranks.get(a) - ranks.get(b);
  }

  function sort(column, sign) {
    const rows = [...body.rows];
    const ranked = rows.filter((row) => !row.classList.contains("unranked"));
    const others = rows.filter((row) => row.classList.contains("unranked"));
    ranked.sort((a, b) => compare(a, b, column, sign));
    body.append(...ranked, ...others);
    headings.forEach((heading, index) => {
      if (index === column) heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    });
  }

  for (const hint of document.querySelectorAll(".sorts")) hint.hidden = false;

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = heading.title;
    button.append(...heading.childNodes);
    heading.append(button);
    heading.removeAttribute("title");
    // The first click shows the best first, as each column says which way that is.
    const first = heading.dataset.best === "high" ? -1 : 1;
    button.addEventListener("click", () => {
      const sorted = heading.getAttribute("aria-sort");
      sort(column, sorted === null ? first : sorted === "ascending" ? -1 : 1);
    });
  });
}
