// Narrows all that is shown to the runs of the chosen models, methods and knobs; where nothing is ticked, all are left.
const facets = data.filters.facets.map(({ name, values }) => ({ name, values, ticked: new Set() }));
const isShown = (place) => facets.every(({ ticked }, facet) => !ticked.size || ticked.has(data.filters.runs[place][facet]));
const shownRuns = () => data.runs.filter((run) => isShown(run.place));

// Every part of the report draws itself anew from what is left.
const onFilter = (draw) => document.addEventListener("filtered", draw);

function drawFacet(facet, index) {
  const isUnset = data.filters.runs.some((held) => held[index] === -1);
  const choices = [...facet.values.map((text, place) => [place, text]), ...(isUnset ? [[-1, "not set"]] : [])];
  const summary = element("summary", {}, `${facet.name} `, element("b", {}, "all"));
  const options = choices.map(([place, text]) => {
    const box = element("input", { type: "checkbox", value: place });
    box.addEventListener("change", () => {
      box.checked ? facet.ticked.add(place) : facet.ticked.delete(place);
      const said = choices.filter(([choice]) => facet.ticked.has(choice)).map(([, words]) => words);
      summary.querySelector("b").textContent = said.length > 2 ? `${said.length} of ${choices.length}` : said.join(", ") || "all";
      filter();
    });
    return element("label", {}, box, text);
  });
  return element("details", { class: "facet", name: "facet" }, summary, element("div", { class: "options" }, ...options));
}

function clearFilters() {
  for (const facet of facets) facet.ticked.clear();
  $("facets").replaceChildren(...facets.map(drawFacet));
  filter();
}

function filter() {
  const places = data.filters.runs.map((_, place) => place), left = places.filter(isShown).length;
  for (const part of document.querySelectorAll("[data-runs]")) part.hidden = !part.dataset.runs.split(" ").some((place) => isShown(Number(place)));
  for (const box of document.querySelectorAll(".scroll")) box.hidden = !box.querySelector("tbody tr:not([hidden])");
  for (const unfold of document.querySelectorAll(".notes details")) {
    const count = unfold.querySelectorAll("li:not([hidden])").length;
    unfold.querySelector("summary").textContent = `${count} row${count === 1 ? "" : "s"}`;
  }
  const text = `${left ? left : "No run"} of ${places.length} runs${left ? "" : " is left"}. `;
  $("filtered").replaceChildren(left === places.length ? `All ${places.length} runs.` : text);
  if (facets.some(({ ticked }) => ticked.size)) {
    const button = element("button", { type: "button" }, "Show all");
    button.addEventListener("click", () => { clearFilters(); $("facets").querySelector("summary").focus(); });
    $("filtered").append(" ", button);
  }
  document.dispatchEvent(new Event("filtered"));
}

document.addEventListener("click", ({ target }) => {
  for (const open of document.querySelectorAll(".facet[open]")) if (!open.contains(target)) open.open = false;
});
document.addEventListener("keydown", ({ key }) => {
  const open = key === "Escape" && document.querySelector(".facet[open]");
  if (open) { open.open = false; open.querySelector("summary").focus(); }
});
if (facets.length) {
  $("filters").hidden = false;
  clearFilters();
}
