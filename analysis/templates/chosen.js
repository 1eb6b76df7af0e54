// The run that a reader has chosen: its numbers, the command that makes it again, and the ways to all else of it.
function choose(run) {
  $("chosen").hidden = false;
  $("chosen-name").textContent = run.name;
  const known = [...data.quality, ...data.speed].filter((metric) => run.values[metric.key]);
  $("chosen-values").replaceChildren(...known.map((metric) => element("span", { title: run.values[metric.key].note }, `${metric.name} `, element("b", {}, estimateText(run.values[metric.key], metric)))));
  $("chosen-command").textContent = run.command || "The record holds no command.";
  $("copy").hidden = !run.command;
  $("copy").textContent = "Copy the command";
  $("chosen-run").setAttribute("href", `#run-${run.place}`);
  $("chosen-videos").hidden = !run.videos.some(hasPreview);
  $("chosen-heads").hidden = !run.heads;
  if (run.videos.length) chooseRun(run.id);
  if (run.heads) chooseHeads(run.id);
  markChosen(run.id);
  $("chosen").scrollIntoView({ block: "nearest" });
}

// A run that the filters leave out is chosen no longer.
onFilter(() => {
  if (shownRuns().some((run) => run.id === chosenId)) return;
  $("chosen").hidden = true;
  markChosen(null);
});

// Without leave to write the clipboard, the command stands selected for the reader's own keys.
async function copyCommand() {
  getSelection().selectAllChildren($("chosen-command"));
  try {
    await navigator.clipboard.writeText($("chosen-command").textContent);
    $("copy").textContent = "Copied";
  } catch { $("copy").textContent = "Selected: copy it"; }
}
$("copy").addEventListener("click", copyCommand);

// A run that a link leads to unfolds.
function unfold() {
  const target = location.hash.startsWith("#run-") && $(location.hash.slice(1));
  if (!target) return;
  target.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", unfold);
document.addEventListener("click", ({ target }) => { if (target.closest?.("a[href^='#run-']")?.hash === location.hash) unfold(); });
unfold();
