"use strict";
// The theme button and the score table.
const NllTable = (() => {
  const { at, announce } = Nll;

  const themes = ["system", "light", "dark"];
  const themeButton = at("theme");
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme ?? "system") + 1) % 3];
    root.dataset.theme = next;
    themeButton.lastElementChild.textContent = `Theme: ${next}`;
  });

  const table = at("table");
  if (!table) return null;
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (cell) => (cell.dataset.v === undefined ? NaN : Number(cell.dataset.v));
  const byName = new Intl.Collator("en", { numeric: true });

  const compare = (column, sign) => (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    if (column === 0) return sign * byName.compare(x.textContent, y.textContent);
    const [v, w] = [valueOf(x), valueOf(y)];
    if (Number.isNaN(v) || Number.isNaN(w)) return Number.isNaN(v) - Number.isNaN(w);
    return v === w ? 0 : sign * (v < w ? -1 : 1);
  };

  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const first = column === 0 ? "ascending" : "descending";
      const second = column === 0 ? "descending" : "ascending";
      const order = before === "none" ? first : before === first ? second : "none";
      for (const h of heads) h.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sorted = order === "none" ? rows : [...rows].sort(compare(column, order === "ascending" ? 1 : -1));
      table.tBodies[0].append(...sorted);
      const name = head.firstElementChild.textContent;
      announce(order === "none" ? "Rows in their first order" : `Sorted by ${name}, ${order}`);
    });
  });

  heads.slice(1).forEach((head) => { head.dataset.axis ??= head.firstElementChild.textContent; });
  return { table, rows, heads, valueOf };
})();
