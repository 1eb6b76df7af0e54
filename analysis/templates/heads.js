// Draws what the heads chose: a map of layer over step, and of head over layer at one step.
const NONE = 255, FULL = 250;
const heads = { run: null, maps: {}, step: 0 };
const kind = () => $("heads-kind").value;

const bytesOf = (text) => text && Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// The mean over branches (and heads, where none is given) at one place; null where no choice was made.
function valueAt(step, layer, head = null) {
  const { steps, layers, heads: count, branches } = heads.run.heads, values = heads.maps[kind()].values;
  const chosen = $("branch").value === "all" ? branches.map((_, index) => index) : [Number($("branch").value)];
  let sum = 0, n = 0;
  for (const branch of chosen) {
    for (let index = head ?? 0; index <= (head ?? count - 1); index++) {
      const value = values[((branch * steps + step) * layers + layer) * count + index];
      if (value !== NONE) { sum += value / FULL; n += 1; }
    }
  }
  return n ? sum / n : null;
}

function paint(value) {
  if (value == null) return "fill:url(#hatched)";
  if (kind() !== "choice") return `fill:color-mix(in oklab, var(--margin) ${100 * value}%, var(--middle))`;
  const end = value > 0.5 ? "--temporal" : "--spatial";
  return `fill:color-mix(in oklab, var(${end}) ${Math.abs(value - 0.5) * 200}%, var(--middle))`;
}

// A grid of cells with one cursor that pointer and arrow keys move.
function drawMap(box, map) {
  const { columns, rows, value, names, cursor, onMove } = map;
  const cell = Math.max(4, Math.min(44, (Math.max(260, box.clientWidth) - 44) / columns)), high = Math.max(5, Math.min(34, 420 / rows, cell * 1.4));
  const width = 40 + cell * columns + 2, height = high * rows + 34;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "application", "aria-label": `${names.join(" over ")}; arrow keys move` });
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      svg.append(element("rect", { class: "cell", x: 40 + column * cell, y: row * high, width: cell - (cell > 8 ? 1 : 0), height: high - (high > 8 ? 1 : 0), style: paint(value(row, column)), "data-row": row, "data-column": column }));
    }
  }
  const every = (count, size) => Math.ceil(Math.max(1, 22 / size) * (count > 40 ? 1.5 : 1));
  for (let row = 0; row < rows; row += every(rows, high)) svg.append(element("text", { class: "tick", x: 32, y: (row + 0.5) * high + 4, "text-anchor": "end" }, String(row)));
  for (let column = 0; column < columns; column += every(columns, cell)) svg.append(element("text", { class: "tick", x: 40 + (column + 0.5) * cell, y: rows * high + 14, "text-anchor": "middle" }, String(column)));
  svg.append(element("text", { class: "label", x: 40 + (columns * cell) / 2, y: height - 4, "text-anchor": "middle" }, names[1]));
  svg.append(element("text", { class: "label", x: 0, y: 0, transform: `translate(10 ${(rows * high) / 2}) rotate(-90)`, "text-anchor": "middle" }, names[0]));
  const mark = element("rect", { class: "cursor", width: cell, height: high });
  svg.append(mark);
  const move = ([row, column], isTold = true) => {
    cursor[0] = Math.min(rows - 1, Math.max(0, row));
    cursor[1] = Math.min(columns - 1, Math.max(0, column));
    mark.setAttribute("x", 39.5 + cursor[1] * cell);
    mark.setAttribute("y", cursor[0] * high - 0.5);
    if (isTold) onMove(...cursor);
  };
  svg.addEventListener("pointermove", ({ target }) => { if (target.dataset.row) move([Number(target.dataset.row), Number(target.dataset.column)]); });
  svg.addEventListener("click", ({ target }) => { if (target.dataset.row) map.onChoose?.(Number(target.dataset.column)); });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    move([cursor[0] + by[0], cursor[1] + by[1]]);
    map.onChoose?.(cursor[1]);
  });
  move(cursor, false);
  // Drawn anew under the keyboard's focus, a map keeps it.
  const hadFocus = box.contains(document.activeElement);
  box.replaceChildren(svg);
  if (hadFocus) svg.focus();
}

const cursors = { layerStep: [0, 0], headLayer: [0, 0] };
const said = (value) => {
  if (value == null) return kind() === "choice" || kind() === "margin" ? "dense, no choice" : "not sampled";
  return kind() === "choice" ? `${percent(value)} temporal` : `${heads.maps[kind()].said} ${value.toFixed(2)}`;
};

function tellLayer(layer, step) {
  const each = Array.from({ length: heads.run.heads.heads }, (_, head) => valueAt(step, layer, head));
  const list = each.length <= 16 && each.some((value) => value != null) ? `; head by head: ${each.map((value) => (value == null ? "–" : percent(value))).join(", ")}` : "";
  $("heads-values").textContent = `Step ${step}, layer ${layer}: ${said(valueAt(step, layer))}${list}`;
}

function drawHeads() {
  const { steps, layers, heads: count } = heads.run.heads;
  $("step-text").textContent = `${heads.step} of ${steps - 1}`;
  $("head-layer-title").textContent = `Head over layer, step ${heads.step}`;
  document.querySelector(".ramp").classList.toggle("of-margin", kind() !== "choice");
  [$("ramp-low").textContent, $("ramp-high").textContent] = heads.maps[kind()].ends;
  cursors.layerStep[1] = heads.step;
  drawMap($("layer-step"), { columns: steps, rows: layers, names: ["layer", "step"], cursor: cursors.layerStep, value: (row, column) => valueAt(column, row), onMove: tellLayer, onChoose: (step) => setStep(step) });
  drawMap($("head-layer"), { columns: layers, rows: count, names: ["head", "layer"], cursor: cursors.headLayer, value: (row, column) => valueAt(heads.step, column, row), onMove: (head, layer) => { $("heads-values").textContent = `Step ${heads.step}, layer ${layer}, head ${head}: ${said(valueAt(heads.step, layer, head))}`; } });
}

function setStep(step) {
  if (step === heads.step) return;
  heads.step = step;
  $("step").value = step;
  drawHeads();
}

// A grid of all steps and layers from one of those that were sampled.
function spread({ steps, layers, values }, facts) {
  const full = new Uint8Array(facts.branches.length * facts.steps * facts.layers * facts.heads).fill(NONE), given = bytesOf(values);
  let from = 0;
  for (let branch = 0; branch < facts.branches.length; branch++) {
    for (const step of steps) {
      for (const layer of layers) {
        full.set(given.subarray(from, from + facts.heads), ((branch * facts.steps + step) * facts.layers + layer) * facts.heads);
        from += facts.heads;
      }
    }
  }
  return full;
}

// Where there is nothing at the step or the layer, both go to the first where there is.
function settle() {
  const { steps, layers } = heads.run.heads, upTo = (count) => [...Array(count).keys()];
  const hasSome = (step) => upTo(layers).some((layer) => valueAt(step, layer) != null);
  if (!(heads.step < steps && hasSome(heads.step))) heads.step = Math.max(0, upTo(steps).findIndex(hasSome));
  $("step").value = heads.step;
  const layer = Math.max(0, upTo(layers).findIndex((index) => valueAt(heads.step, index) != null));
  [cursors.layerStep[0], cursors.headLayer[1]] = [layer, layer];
  drawHeads();
  tellLayer(layer, heads.step);
}

function loadHeads() {
  heads.run = runById.get($("heads-run").value);
  const facts = heads.run.heads;
  heads.maps = { choice: { name: "choice", ends: ["spatial", "temporal"], values: bytesOf(facts.choice) } };
  if (facts.margin) heads.maps.margin = { name: "margin of the choice", said: "margin", ends: ["0, a coin toss", "1, clear"], values: bytesOf(facts.margin) };
  for (const map of facts.sampled) heads.maps[map.quantity] = { name: map.name, said: map.name, ends: ["0", "1"], values: spread(map, facts) };
  fillSelect($("heads-kind"), Object.entries(heads.maps).map(([key, { name }]) => [key, name]), kind());
  $("heads-kind").parentElement.hidden = Object.keys(heads.maps).length === 1;
  const branches = facts.branches.map((name, index) => [String(index), name]);
  fillSelect($("branch"), branches.length > 1 ? [["all", "all"], ...branches] : branches, $("branch").value);
  $("step").max = facts.steps - 1;
  settle();
}

// The run that was shown stays where the filters leave it; else one with margins comes first.
function listHeads(chosen) {
  const runs = shownRuns().filter((run) => run.heads);
  const kept = runs.find((run) => run.id === chosen) ?? runs.find((run) => run.heads.margin) ?? runs[0];
  $("no-heads").hidden = Boolean(kept);
  for (const part of $("heads").querySelectorAll(".hint, .controls, .maps, .ramp, .readout")) part.hidden = !kept;
  fillSelect($("heads-run"), runs.map((run) => [run.id, run.name]), kept?.id);
  if (kept && kept !== heads.run) loadHeads();
}

function chooseHeads(id) {
  $("heads-run").value = id;
  loadHeads();
}

if (data.runs.some((run) => run.heads)) {
  $("heads-run").addEventListener("change", loadHeads);
  for (const id of ["branch", "heads-kind"]) $(id).addEventListener("change", settle);
  $("step").addEventListener("input", () => setStep(Number($("step").value)));
  listHeads();
  onFilter(() => listHeads($("heads-run").value));
  onNewWidth($("heads"), () => heads.run && drawHeads());
} else listHeads();
