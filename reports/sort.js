// A button in a column's heading sorts its table; cells with numbers have them in data-value, others are text.
document.addEventListener("click", event => {
  const button = event.target.closest("th button");
  if (!button) return;
  const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
  const numeric = "numeric" in head.dataset, column = Number(head.dataset.column);
  const before = head.getAttribute("aria-sort");
  const order = before === "none" ? (numeric ? "descending" : "ascending")
    : before === "ascending" ? "descending" : "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const key = row => numeric ? parseFloat(row.cells[column].dataset.value) : row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const [one, other] = [key(a), key(b)];
    if (!numeric) return sign * one.localeCompare(other, undefined, {numeric: true});
    return isNaN(one) - isNaN(other) || sign * (one - other) || 0;  // rows without the number stay last
  };
  body.append(...[...body.rows].sort(compare));
});
