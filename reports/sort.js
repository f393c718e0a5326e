// A button in each heading sorts its table: by the number that a cell begins with, else by its text.
for (const head of document.querySelectorAll("table.sortable thead tr:last-child th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  head.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const text = row => row.cells[column].textContent.trim();
    const number = row => parseFloat(text(row).replaceAll(",", ""));
    const numeric = [...body.rows].some(row => !isNaN(number(row)));
    const order = (head.ariaSort === "none") === numeric || head.ariaSort === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => numeric
      ? isNaN(number(a)) - isNaN(number(b)) || sign * (number(a) - number(b)) || 0  // rows without a number stay last
      : sign * text(a).localeCompare(text(b), undefined, {numeric: true});
    body.append(...[...body.rows].sort(compare));
  });
}
