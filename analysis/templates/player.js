// Plays the dense and the sparse video of one prompt in step, and shows how they differ, frame by frame.
const dense = $("dense"), sparse = $("sparse"), canvas = $("difference");
const player = { clip: null, rate: 1, isPlaying: false, wanted: null, cache: new Map([[dense, new Map()], [sparse, new Map()]]) };
const picture = canvas.getContext("2d", { willReadFrequently: true });
const urls = new Map();

function urlOf(key) {
  if (!urls.has(key)) {
    const bytes = Uint8Array.from(atob(data.videos[key]), (letter) => letter.charCodeAt(0));
    urls.set(key, URL.createObjectURL(new Blob([bytes], { type: "video/mp4" })));
  }
  return urls.get(key);
}

// Rows may stand without their previews, which are no numbers.
const hasPreview = (clip) => clip.dense != null || clip.sparse != null;
const clipKey = (clip) => `${clip.prompt} ${clip.seed}`;
const currentRun = () => runById.get($("run").value);
const lastFrame = () => player.clip.frames - 1;
const hasBoth = () => dense.readyState > 1 && sparse.readyState > 1;

const placeShown = () => JSON.stringify([$("clip").value, $("run").value]);

function load() {
  player.shown = placeShown();
  const run = currentRun(), clip = run?.videos.find((video) => clipKey(video) === $("clip").value);
  pause();
  player.clip = clip ?? null;
  const isKept = Boolean(clip && hasPreview(clip));
  $("no-videos").hidden = isKept;
  $("no-videos").textContent = clip ? "Previews are not kept with the rows of this run." : "None of these runs has a video.";
  for (const part of $("videos").querySelectorAll(".prompt, .readout")) part.hidden = !clip;
  for (const part of $("videos").querySelectorAll(".players, .transport, .hint")) part.hidden = !isKept;
  if (!clip) return;
  $("prompt").textContent = data.prompts[clip.prompt] ?? clip.prompt;
  $("dense-name").textContent = run.denseBackend;
  $("sparse-name").textContent = run.label;
  for (const [video, key, name] of [[dense, clip.dense, "dense"], [sparse, clip.sparse, "sparse"]]) {
    player.cache.get(video).clear();
    const isThere = key != null && key in data.videos;
    $(`${name}-missing`).textContent = isThere ? "" : key ? "Left out to keep this file small." : "This run kept no preview.";
    isThere ? (video.src = urlOf(key)) : video.removeAttribute("src");
    video.parentElement.style.aspectRatio = `${clip.width} / ${clip.height}`;
    video.load();
  }
  canvas.parentElement.style.aspectRatio = `${clip.width} / ${clip.height}`;
  [canvas.width, canvas.height] = [clip.width, clip.height];
  delete canvas.dataset.frame;
  $("frame").max = lastFrame();
  $("clip-values").replaceChildren(...clip.values.map(([name, text, reason]) => element("span", {}, `${name} `, element("b", {}, text), reason && `: ${reason}`)));
  drawFrameQuality(clip);
  showFrame(0);
  seek(0);
}

function showFrame(frame) {
  $("frame").value = frame;
  const value = player.clip.psnr?.[frame];
  const quality = player.clip.psnr ? `, ${value == null ? "∞" : value.toFixed(1)} dB` : "";
  $("frame").setAttribute("aria-valuetext", `frame ${frame + 1} of ${player.clip.frames}${quality}`);
  $("counter").textContent = `${frame + 1} / ${player.clip.frames}${quality}`;
  $("frames").querySelector("line")?.setAttribute("transform", `translate(${frame} 0)`);
}

// Both videos to the middle of one frame; the newest wish wins while an older one is under way.
async function seek(frame) {
  const isBusy = player.wanted !== null;
  player.wanted = Math.min(Math.max(frame, 0), lastFrame());
  if (isBusy) return;
  try {
    while (true) {
      const target = player.wanted, time = (target + 0.5) / player.clip.fps;
      await Promise.all([dense, sparse].map((video) => seekOne(video, time)));
      if (player.wanted === target) break;
    }
  } finally { player.wanted = null; }
}

function seekOne(video, time) {
  return new Promise((resolve) => {
    if (!video.currentSrc || video.error || !video.getAttribute("src")) return resolve();
    const done = () => { for (const name of ["seeked", "error", "emptied"]) video.removeEventListener(name, done); resolve(); };
    for (const name of ["seeked", "error", "emptied"]) video.addEventListener(name, done);
    video.currentTime = time;
  });
}

function pause() {
  player.isPlaying = false;
  dense.pause();
  sparse.pause();
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play");
}

async function play() {
  if (!player.clip || !hasBoth()) return;
  player.isPlaying = true;
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "Pause");
  if (dense.ended || sparse.ended || Number($("frame").value) >= lastFrame()) await seek(0);
  await start();
}

async function start() {
  dense.playbackRate = sparse.playbackRate = player.rate;
  try {
    await Promise.all([dense.play(), sparse.play()]);
    requestAnimationFrame(steer);
  } catch { pause(); }
}

// The dense video is the clock: the sparse one hurries or waits a little, or jumps if it is frames away.
async function steer() {
  if (!player.isPlaying) return;
  if (dense.ended) {
    await seek(0);
    if (player.isPlaying) await start();
    return;
  }
  const drift = (sparse.currentTime - dense.currentTime) * player.clip.fps;
  if (Math.abs(drift) > 2 && !sparse.seeking && !sparse.ended) sparse.currentTime = dense.currentTime;
  const rate = Math.abs(drift) < 0.15 ? player.rate : player.rate * (1 - Math.min(0.3, Math.max(-0.3, drift * 0.3)));
  if (Math.abs(sparse.playbackRate - rate) > 0.01) sparse.playbackRate = rate;
  requestAnimationFrame(steer);
}

// Keeps the pixels of every frame that a video shows; where both have shown one, their difference can be drawn.
function watch(video) {
  const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const onFrame = (_, { mediaTime }) => {
    video.requestVideoFrameCallback(onFrame);
    if (!player.clip) return;
    const { width, height, fps } = player.clip, frame = Math.min(lastFrame(), Math.round(mediaTime * fps));
    const kept = player.cache.get(video);
    if (!kept.has(frame)) {
      [scratch.canvas.width, scratch.canvas.height] = [width, height];
      scratch.drawImage(video, 0, 0);
      kept.set(frame, scratch.getImageData(0, 0, width, height));
      if (kept.size * width * height * 4 > 1e8) kept.delete(kept.keys().next().value);
    }
    if (video === dense) showFrame(frame);
    drawDifference(frame);
  };
  video.requestVideoFrameCallback(onFrame);
  video.addEventListener("error", () => {
    if (video.getAttribute("src")) $(`${video.id}-missing`).textContent = "This browser does not play H.264.";
  });
}

const gain = () => 2 ** Number($("gain").value);

function drawDifference(frame) {
  const one = player.cache.get(dense).get(frame)?.data, two = player.cache.get(sparse).get(frame)?.data;
  if (!one || !two) return;
  const image = new ImageData(player.clip.width, player.clip.height), factor = gain();
  for (let index = 0; index < one.length; index++) image.data[index] = factor * Math.abs(one[index] - two[index]);
  for (let index = 3; index < one.length; index += 4) image.data[index] = 255;
  picture.putImageData(image, 0, 0);
  canvas.dataset.frame = frame;
}

function drawFrameQuality(clip) {
  const svg = $("frames"), known = (clip.psnr ?? []).filter((value) => value != null);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, clip.frames - 1)} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  if (known.length < 2) return;
  const low = Math.min(...known), span = Math.max(...known) - low || 1;
  const points = clip.psnr.map((value, frame) => `${frame},${value == null ? 0 : 0.9 - 0.8 * (value - low) / span}`);
  svg.append(element("polyline", { points: points.join(" ") }), element("line", { x1: 0, x2: 0, y1: 0, y2: 1 }));
}

function listClips() {
  const clips = new Map(shownRuns().flatMap((run) => run.videos.map((clip) => [clipKey(clip), clip])));
  const several = new Set([...clips.values()].map((clip) => clip.seed)).size > 1;
  const name = (clip) => `${data.prompts[clip.prompt] ?? clip.prompt}${several ? ` (seed ${clip.seed})` : ""}`;
  fillSelect($("clip"), [...clips].map(([key, clip]) => [key, name(clip)]), $("clip").value);
}

function listRuns(chosen) {
  const isKept = (run) => run.videos.some((clip) => clipKey(clip) === $("clip").value && hasPreview(clip));
  const runs = shownRuns().filter((run) => run.videos.some((clip) => clipKey(clip) === $("clip").value));
  runs.sort((a, b) => isKept(b) - isKept(a));
  const best = runs.filter((run) => isKept(run) === isKept(runs[0]));
  const first = best.find((run) => run.heads?.margin) ?? best.find((run) => run.method !== "dense") ?? best[0];
  fillSelect($("run"), runs.map((run) => [run.id, run.name]), runs.some((run) => run.id === chosen) ? chosen : first?.id);
  if (player.shown !== placeShown()) load();
}

function chooseRun(id) {
  const run = runById.get(id);
  if (!run.videos.some((clip) => clipKey(clip) === $("clip").value)) $("clip").value = clipKey(run.videos[0]);
  listRuns(id);
}

document.querySelector("nav a[href='#videos']").hidden = !data.runs.some((run) => run.videos.some(hasPreview));
if (data.runs.some((run) => run.videos.length)) {
  const step = (by) => { if (player.clip) { pause(); seek(Number($("frame").value) + by); } };
  $("clip").addEventListener("change", () => listRuns($("run").value));
  $("run").addEventListener("change", load);
  $("play").addEventListener("click", () => (player.isPlaying ? pause() : play()));
  $("back").addEventListener("click", () => step(-1));
  $("forward").addEventListener("click", () => step(1));
  $("frame").addEventListener("input", () => { pause(); seek(Number($("frame").value)); });
  $("speed").addEventListener("change", () => { player.rate = dense.playbackRate = Number($("speed").value); });
  const showGain = () => { $("gain-text").textContent = `× ${gain()}`; $("gain").setAttribute("aria-valuetext", `times ${gain()}`); };
  $("gain").addEventListener("input", () => { showGain(); drawDifference(Number($("frame").value)); });
  watch(dense);
  watch(sparse);
  showGain();
  listClips();
  listRuns();
  onFilter(() => {
    listClips();
    listRuns($("run").value);
  });
} else {
  load();
  $("videos").querySelectorAll(".controls, .players, .transport, .readout, .hint").forEach((part) => part.remove());
}
