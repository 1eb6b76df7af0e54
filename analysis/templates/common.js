// What every part of the report uses: the data, elements, number texts, the tooltip, the sortable table.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const runById = new Map(data.runs.map((run) => [run.id, run]));

function element(name, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "rect", "line", "path", "circle", "text", "polyline", "title"].includes(name);
  const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function fillSelect(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
  if (choices.some(([value]) => value === chosen)) select.value = chosen;
}

const number = (value, digits) => (value == null ? "–" : value.toFixed(digits));
const percent = (share) => `${Math.round(100 * share)} %`;

function onNewWidth(node, draw) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (node.clientWidth === width) return;
    width = node.clientWidth;
    requestAnimationFrame(draw);
  }).observe(node);
}

// A box with more than it shows fades out where that is.
function cue(box) {
  box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.classList.toggle("more-below", box.scrollTop + box.clientHeight < box.scrollHeight - 1);
}
for (const box of document.querySelectorAll(".scroll, .bars")) {
  box.addEventListener("scroll", () => cue(box), { passive: true });
  new ResizeObserver(() => cue(box)).observe(box);
  document.addEventListener("filtered", () => cue(box));
}

// Where a row is a card, each number has its heading; what such a box is to those who hear it, its look must not decide.
for (const table of document.querySelectorAll(".scroll table")) {
  const headings = [...table.tHead.rows[0].cells];
  table.classList.add("cards");
  table.setAttribute("role", "table");
  for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
  for (const row of table.rows) {
    row.setAttribute("role", "row");
    for (const cell of row.cells) {
      const isHeading = row.parentNode === table.tHead;
      cell.setAttribute("role", isHeading ? "columnheader" : cell.tagName === "TH" ? "rowheader" : "cell");
      if (cell.tagName === "TD" && cell.colSpan === 1) cell.dataset.label = headings[cell.cellIndex].textContent;
    }
  }
}

function showTip(target) {
  const tip = $("tip"), box = target.getBoundingClientRect();
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
}

for (const [start, end] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(start, (event) => {
    const target = event.target.closest?.("[data-tip]");
    if (target?.dataset.tip) showTip(target);
  });
  document.addEventListener(end, () => { $("tip").hidden = true; });
}
document.addEventListener("scroll", () => { $("tip").hidden = true; }, { capture: true, passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") $("tip").hidden = true; });

// Rows without a number stay last in either direction.
function sortBy(heading) {
  const table = heading.closest("table"), index = heading.cellIndex;
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.cells[index]?.dataset.value ?? "";
  const compare = (a, b) => (heading.dataset.kind === "text" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [one, two] = [key(a), key(b)];
    if (one === "" || two === "") return (one === "") - (two === "");
    return descending ? compare(two, one) : compare(one, two);
  });
  table.tBodies[0].append(...rows);
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
