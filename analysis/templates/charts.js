// Draws quality and speed-up over density: every run a dot, an interval where there is one, identical videos on top, and
// below them a noise floor that is far above all other runs; below a quality's chart stands what its noise floor is.
const estimateText = (estimate, metric) => {
  if (estimate.mean == null) return estimate.infinite ? "∞, identical" : "n/a";
  const ends = estimate.low == null ? "" : ` [${number(estimate.low, metric.digits)}, ${number(estimate.high, metric.digits)}]`;
  return `${number(estimate.mean, metric.digits)}${ends}${estimate.noise ? `, ${estimate.noise}` : ""}`;
};
const colorOf = (run) => `var(--color-${run.color})`;

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let value = Math.ceil(low / size) * size; value <= high + size * 1e-9; value += size) found.push(Number(value.toPrecision(12)));
  return found;
}

function scaleOf(values, isLog, from, to) {
  const change = isLog ? Math.log : (value) => value;
  let low = Math.min(...values), high = Math.max(...values);
  const room = (change(high) - change(low)) * 0.06 || Math.abs(change(high)) * 0.05 || 1;
  [low, high] = [change(low) - room, change(high) + room];
  const place = (value) => from + ((change(value) - low) / (high - low)) * (to - from);
  const [first, last] = isLog ? [Math.exp(low), Math.exp(high)] : [low, high];
  return { place, ticks: ticks(first, last, 5) };
}

function drawChart(box, metric, options) {
  const width = Math.max(280, box.clientWidth), height = Math.round(Math.min(380, Math.max(260, width * 0.62)));
  const dots = shownRuns()
    .map((run) => ({ run, x: run.density[options.density], estimate: run.values[metric.key] }))
    .filter((dot) => dot.x != null && dot.estimate);
  const known = dots.filter((dot) => dot.estimate.mean != null);
  const infinite = dots.filter((dot) => dot.estimate.mean == null && dot.estimate.infinite);
  const silent = dots.filter((dot) => dot.estimate.mean == null && !dot.estimate.infinite);
  const title = element("h3", {}, metric.name, element("small", {}, metric.isHigherBetter ? " higher is better" : " lower is better"));
  if (!known.length && !infinite.length) {
    return box.replaceChildren(title, element("p", { class: "empty" }, silent[0]?.estimate.note || (data.runs.length && !shownRuns().length ? "No run is left to show." : "Nothing was measured.")));
  }
  const floors = metric.versus ? [] : [...new Map(dots.filter((dot) => dot.estimate.floor).map((dot) => [dot.estimate.floor.text, dot.estimate.floor])).values()];
  const drawn = floors.filter((floor) => floor.value != null);
  const sparse = known.filter((dot) => dot.estimate.noise !== "noise floor");
  const ends = (list) => list.flatMap(({ estimate: { mean, low, high } }) => [mean, low ?? mean, high ?? mean]);
  const least = Math.min(...ends(sparse)), most = Math.max(...ends(sparse));
  const isFar = drawn.length > 0 && most > least && Math.min(...drawn.map((floor) => floor.value)) - most > most - least;
  const edges = isFar ? ends(sparse) : [...ends(known), ...drawn.map((floor) => floor.value)];
  // What a speed-up would be if only the pairs that are computed took time; of it, what is near the runs.
  const densities = dots.map((dot) => dot.x).filter((density) => density > 0), ideal = metric.versus && densities.length ? [] : null;
  const widest = Math.max(...densities), lowest = Math.min(...densities, 0.8 * widest);
  if (ideal) edges.push(Math.min(1 / lowest, 1.5 * Math.max(most, 1 / widest)));
  const strip = infinite.length ? 40 : 16;
  const frame = { left: 52, right: width - 12, top: isFar ? strip + 24 : infinite.length ? 40 : 14, bottom: height - 42 };
  const isLog = options.isLog && Math.min(...edges) > 0;
  const y = scaleOf(edges.length ? edges : [0, 1], isLog, frame.bottom, frame.top);
  const x = scaleOf([0, ...dots.map((dot) => dot.x)], false, frame.left, frame.right);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `${metric.name} over density` });
  for (const tick of y.ticks) {
    const place = y.place(tick);
    svg.append(element("line", { class: "grid", x1: frame.left, x2: frame.right, y1: place, y2: place }));
    svg.append(element("text", { class: "tick", x: frame.left - 8, y: place + 4, "text-anchor": "end" }, String(tick)));
  }
  for (const tick of x.ticks.filter((value) => value >= 0)) {
    svg.append(element("text", { class: "tick", x: x.place(tick), y: frame.bottom + 18, "text-anchor": "middle" }, String(tick)));
  }
  svg.append(element("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }));
  svg.append(element("text", { class: "label", x: (frame.left + frame.right) / 2, y: height - 6, "text-anchor": "middle" }, `density, ${options.densityName}`));
  if (infinite.length) {
    svg.append(element("text", { class: "tick", x: frame.left - 8, y: 20, "text-anchor": "end" }, "∞"));
    svg.append(element("line", { class: "grid dashed", x1: frame.left, x2: frame.right, y1: 16, y2: 16 }));
  }
  for (const floor of drawn) {
    const place = isFar ? strip : y.place(floor.value);
    svg.append(element("line", { class: "floor", x1: frame.left, x2: frame.right, y1: place, y2: place, "data-tip": `Noise floor: ${floor.text}` }));
  }
  if (isFar) svg.append(element("text", { class: "tick", x: frame.left - 8, y: strip + 4, "text-anchor": "end" }, number(Math.min(...drawn.map((floor) => floor.value)), 0)));
  if (ideal) {
    for (let part = 0; part <= 200; part++) {
      const density = lowest + ((widest - lowest) * part) / 200, place = y.place(1 / density);
      if (place >= frame.top) ideal.push(`${x.place(density)},${place}`);
    }
    svg.append(element("polyline", { class: "floor", points: ideal.join(" "), "data-tip": "Ideal: 1 / density" }));
  }
  for (const dot of dots) {
    dot.isOff = isFar && dot.estimate.noise === "noise floor";
    dot.at = [x.place(dot.x), dot.estimate.mean == null ? 16 : dot.isOff ? strip : y.place(dot.estimate.mean)];
  }
  for (const family of new Set(known.map((dot) => dot.run.family))) {
    const members = known.filter((dot) => dot.run.family === family).sort((a, b) => a.x - b.x);
    svg.append(element("polyline", { class: "join", points: members.map((dot) => dot.at.join(",")).join(" "), style: `stroke:${colorOf(members[0].run)}` }));
  }
  for (const dot of [...known, ...infinite]) svg.append(drawDot(dot, metric, y));
  box.replaceChildren(title, svg);
  if (ideal) box.append(element("p", { class: "hint" }, "Ideal, dashed: 1 / density."));
  if (!metric.versus) box.append(element("p", { class: "hint" }, floors.length ? `Noise floor, dashed${isFar ? ", above a gap in the scale" : ""}: ${floors.map((floor) => floor.text).join("; ")}.` : data.noFloor));
  if (silent.length) box.append(element("p", { class: "hint" }, `${silent.length} of ${dots.length} runs have no ${metric.name}: ${silent[0].estimate.note}`));
}

function drawDot({ run, x, at, estimate, isOff }, metric, y) {
  const text = `${run.name}\n${metric.name} ${estimateText(estimate, metric)} (${estimate.total} video${estimate.total === 1 ? "" : "s"})\ndensity ${number(x, 3)}${metric.versus ? `\nagainst dense ${run.denseBackend}` : ""}`;
  const group = element("g", { class: "dot", tabindex: 0, role: "button", "aria-label": text.replaceAll("\n", ", "), "data-tip": text, "data-run": run.id, style: `color:${colorOf(run)}` });
  if (estimate.low != null && estimate.mean != null && !isOff) {
    group.append(element("line", { x1: at[0], x2: at[0], y1: y.place(estimate.low), y2: y.place(estimate.high) }));
  }
  group.append(element("circle", { class: "target", cx: at[0], cy: at[1], r: 12 }), element("circle", { cx: at[0], cy: at[1], r: 5.5 }));
  group.addEventListener("click", () => choose(run));
  group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(run); } });
  return group;
}

let chosenId = null;

function markChosen(id) {
  chosenId = id;
  for (const dot of document.querySelectorAll(".dot")) dot.classList.toggle("chosen", dot.dataset.run === id);
}

function drawCharts() {
  const density = $("density");
  const options = { density: density.value, densityName: density.selectedOptions[0]?.text, isLog: $("scale").value === "log" };
  const chosen = (list, id) => list.find((metric) => metric.key === $(id).value);
  for (const [list, id, box] of [[data.quality, "quality", "quality-chart"], [data.speed, "speedup", "speed-chart"]]) {
    const metric = chosen(list, id);
    $(box).hidden = !metric;
    if (metric) drawChart($(box), metric, options);
  }
  markChosen(chosenId);
  drawLegend();
}

function drawLegend() {
  const series = new Map(shownRuns().map((run) => [run.series, run]));
  $("legend").replaceChildren(...[...series].map(([name, run]) => {
    const item = element("li", {}, name);
    item.style.setProperty("--swatch", colorOf(run));
    return item;
  }));
}

if (!data.noChart) {
  for (const [id, list] of [["quality", data.quality], ["speedup", data.speed], ["density", data.densities]]) {
    fillSelect($(id), list.map((entry) => [entry.key, entry.name]));
    $(id).parentElement.hidden = !list.length;
    $(id).addEventListener("change", drawCharts);
  }
  $("scale").addEventListener("change", drawCharts);
  drawCharts();
  onNewWidth($("charts"), drawCharts);
  onFilter(drawCharts);
} else {
  $("no-chart").textContent = data.noChart;
  $("no-chart").hidden = false;
  $("charts").querySelectorAll(".controls, .hint, .legend, .charts").forEach((part) => part.remove());
}
