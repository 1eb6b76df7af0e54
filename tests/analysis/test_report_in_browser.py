"""The report in a real browser: it plays in step, shows the difference, fits its window and asks for nothing."""

import os
import shutil
import time

import pytest

from analysis import load
from analysis.report import render
from svg.results import Measurement, RunWriter
from tests.analysis import chromium
from tests.analysis.test_noise import write as write_noise
from tests.fake_runs import (
    FPS,
    FRAMES,
    HEADS,
    LAYERS,
    PROVENANCE,
    RUNS,
    SAMPLED,
    STEPS,
    write_fake_runs,
    write_many_runs,
)
from tests.fake_steps import write_fake_steps

BINARY = chromium.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine; on Debian: apt-get install chromium"),
]

# Samples both clocks while they play, leaves out the instants of a jump, and gives the greatest distance in frames.
STEP_TEST = """
new Promise((resolve) => {
  const end = performance.now() + %d, drifts = [], frames = new Set();
  const look = () => {
    if (!dense.seeking && !sparse.seeking && !dense.paused && !sparse.paused && !dense.ended && !sparse.ended) {
      drifts.push(Math.abs(dense.currentTime - sparse.currentTime) * player.clip.fps);
    }
    if (canvas.dataset.frame !== undefined) frames.add(canvas.dataset.frame);
    performance.now() < end ? requestAnimationFrame(look) : resolve({ drifts, frames: frames.size });
  };
  look();
})
"""
BRIGHTEST = """
(() => { const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height); let most = 0;
         for (let i = 0; i < data.length; i++) if (i %% 4 !== 3) most = Math.max(most, data[i]); return most; })()
""".replace("%%", "%")
READY = "dense.readyState > 2 && sparse.readyState > 2 && canvas.dataset.frame !== undefined"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_fake_runs(root)
    file = root / "report.html"
    file.write_text(render(load.measurements(root), load.runs(root)), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium.launch(BINARY) as page:
        yield page


@pytest.fixture(params=[1280, 390])
def page(browser, url, request):
    browser.open(url, request.param, 900)
    browser.wait_for(READY)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []
    # Evidence for people, where someone asks for it.
    if folder := os.environ.get("SVG_SCREENSHOTS"):
        browser.screenshot(chromium.Path(folder) / f"{request.node.name}.png")


def choose(page, element, value):
    page.evaluate(
        f"(() => {{ const e = document.getElementById('{element}'); e.value = {value!r}; "
        f"e.dispatchEvent(new Event(e.type === 'range' ? 'input' : 'change')); return e.value; }})()"
    )


def tick(page, facet, value):
    page.evaluate(
        f"[...document.querySelectorAll('.facet')].find((part) => part.textContent.startsWith({facet!r}))"
        f".querySelectorAll('label').forEach((label) => {{ if (label.textContent === {value!r}) label.click(); }})"
    )


def choose_run(page, run_id):
    choose(page, "run", run_id)
    page.wait_for(READY)


def test_nothing_is_wider_than_the_window(page):
    for width in (page.evaluate("innerWidth"), 320):
        page.resize(width, 900)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_both_videos_play_in_step(page):
    choose_run(page, "svg-0.25")
    page.evaluate("document.getElementById('play').click()")
    page.wait_for("player.isPlaying && !dense.paused && !sparse.paused")
    seen = page.evaluate(STEP_TEST % 4000)
    # Starting takes a moment; from then on they are within a frame of each other.
    settled = sorted(seen["drifts"])[: int(len(seen["drifts"]) * 0.95)]
    assert len(seen["drifts"]) > 20
    assert settled[-1] < 1
    assert seen["frames"] >= FRAMES // 2
    page.evaluate("document.getElementById('play').click()")
    assert page.evaluate("dense.paused && sparse.paused")


def test_scrubbing_shows_one_frame_of_both(page):
    choose_run(page, "svg-0.25")
    for frame in (FRAMES - 1, 3, 0, 5):
        choose(page, "frame", str(frame))
        page.wait_for(f"canvas.dataset.frame === '{frame}' && !dense.seeking && !sparse.seeking")
        shown = page.evaluate("[dense.currentTime, sparse.currentTime]")
        assert [int(seconds * FPS) for seconds in shown] == [frame, frame]
    page.evaluate("document.getElementById('forward').click()")
    page.wait_for("canvas.dataset.frame === '6'")
    assert page.evaluate("document.getElementById('counter').textContent").startswith(f"7 / {FRAMES}")


def test_the_difference_is_bright_where_videos_differ_and_black_where_not(page):
    choose_run(page, "svg-0.15")
    choose(page, "gain", "3")
    assert page.evaluate(BRIGHTEST) > 60
    choose(page, "gain", "0")
    assert 5 < page.evaluate(BRIGHTEST) < 255
    choose_run(page, "dense")
    choose(page, "gain", "5")
    assert page.evaluate(BRIGHTEST) == 0


def test_every_run_is_a_dot_and_a_dot_leads_to_its_videos_its_settings_and_its_command(page):
    finite = [run_id for run_id, _, _, psnr in RUNS if psnr is not None]
    dots = page.evaluate("[...document.querySelectorAll('#quality-chart .dot')].map((dot) => dot.dataset.run)")
    assert sorted(dots) == sorted([*finite, "dense"])
    assert "∞, identical" in page.evaluate("document.querySelector('#quality-chart [data-run=dense]').dataset.tip")
    page.evaluate("document.querySelector('#quality-chart [data-run=\"svg-0.50\"]').focus()")
    page.press("Enter")
    page.wait_for("document.getElementById('run').value === 'svg-0.50'")
    assert page.evaluate("document.getElementById('heads-run').value") == "svg-0.50"
    command = page.evaluate("document.getElementById('chosen-command').innerText")
    assert command == "python -m experiments.compare method=svg method.sparsity=0.5"
    page.evaluate("document.getElementById('copy').click()")
    page.wait_for("document.getElementById('copy').textContent !== 'Copy the command'")
    assert page.evaluate("getSelection().toString().trim()") == command
    page.evaluate("document.getElementById('chosen-run').click()")
    page.wait_for("document.querySelector('#runs details[open]')")
    unfolded = page.evaluate("document.querySelector('#runs details[open]').innerText")
    assert "svg-0.50" in unfolded
    assert command in unfolded
    assert "method.sparsity: 0.5" in unfolded


def test_a_quality_without_numbers_says_why(page):
    choose(page, "quality", "lpips_alex standard")
    text = page.evaluate("document.getElementById('quality-chart').textContent")
    assert "unavailable: backbone weights alexnet-owt-7be5be79.pth not found" in text
    for density in ("token", "overall", "tile"):
        choose(page, "density", density)
        choose(page, "scale", "log")
        choose(page, "quality", "ssim standard")
        assert page.evaluate("document.querySelectorAll('#quality-chart .dot').length") == len(RUNS)


def test_the_head_maps_show_every_layer_step_and_head(page):
    choose(page, "heads-run", "svg-0.25")
    choose(page, "step", "2")
    count = "document.querySelectorAll('#{} rect.cell').length"
    assert page.evaluate(count.format("layer-step")) == STEPS * LAYERS
    assert page.evaluate(count.format("head-layer")) == LAYERS * HEADS
    page.evaluate("document.querySelector('#head-layer svg').focus()")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    text = page.evaluate("document.getElementById('heads-values').textContent")
    assert text.startswith("Step 2, layer 1, head 0: ")
    assert text.endswith("% temporal")
    choose(page, "heads-kind", "margin")
    choose(page, "branch", "1")
    page.press("ArrowDown")
    assert "head 1: margin 0." in page.evaluate("document.getElementById('heads-values').textContent")
    # What was sampled elsewhere leads there.
    choose(page, "heads-kind", "head_kept_mass")
    text = page.evaluate("document.getElementById('heads-values').textContent")
    assert text.startswith(f"Step {SAMPLED[0]}, layer {SAMPLED[1]}: attention that the pattern keeps 0.30")
    assert page.evaluate("document.querySelectorAll('#layer-step rect.cell:not([style*=hatched])').length") == 1


def test_the_table_sorts_both_ways_and_keeps_the_failed_run_last(page):
    order = "[...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[0].dataset.value)"
    button = "[...document.querySelectorAll('#table th button')].find((b) => b.textContent === 'PSNR dB').click()"
    page.evaluate(button)
    rising = page.evaluate(order)
    page.evaluate(button)
    falling = page.evaluate(order)
    assert rising[0] == "random_blocks sparsity=0.25"
    assert rising[-2:] == ["dense", "svg sparsity=0.05"]
    assert falling == [*reversed(rising[:-1]), rising[-1]]


def test_nothing_that_a_record_says_runs_as_script(browser, tmp_path):
    evil = """"'><img src=x onerror=\"window.ran=1\"><script>window.ran=1</script>`${window.ran=1}`"""
    texts = {"model": evil, "method": evil, "backend": evil, "dense_backend": evil}
    config = {"seed": 0, "method": {"name": evil, "sparsity": 0.25, "sink": evil}, "model": {"name": evil}}
    prompt = {"prompt_id": "p" + evil, "text": evil}
    facts = {"config": config, "prompts": [prompt], "overrides": [evil], "experiment": evil, "seeds": [0]}
    provenance = PROVENANCE | {"command": f"{PROVENANCE['command']} {evil}", "cpu": {"name": evil, "cores": 2}}
    for number in range(2):
        config["method"]["sink"] = f"{number}{evil}"
        with RunWriter(tmp_path, f"r{number}", provenance=provenance, **texts, **facts) as run:
            place = {"prompt_id": prompt["prompt_id"], "seed": 0, "protocol": "standard"}
            run.add(Measurement(quantity="psnr_db", unit="dB", value=30.0 + number, **place))
            run.add(Measurement(quantity="ssim", unit="1", value=None, status="unavailable", reason=evil, **place))
            density = {"unit": "1", "value": 0.25, "prompt_id": prompt["prompt_id"], "seed": 0}
            run.add(Measurement(quantity="density_executed", protocol="tile", **density))
    file = tmp_path / f"{evil.replace('/', '')}.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    browser.wait_for("document.querySelectorAll('#quality-chart .dot').length === 2")
    browser.evaluate("document.querySelector('#quality-chart .dot').dispatchEvent(new MouseEvent('click'))")
    tick(browser, "sink", f"1{evil}")
    assert evil in browser.evaluate("document.getElementById('chosen-name').textContent")
    assert browser.evaluate("document.querySelectorAll('img, script').length") == 2
    assert browser.evaluate("typeof window.ran") == "undefined"
    assert browser.complaints() == []
    # Were some text markup after all, it would not run either.
    browser.evaluate(f"document.body.insertAdjacentHTML('beforeend', {evil!r}); document.body.querySelector('img')")
    browser.wait_for("document.querySelector('img').complete")
    assert browser.evaluate("typeof window.ran") == "undefined"


@pytest.mark.timing
def test_200_runs_load_in_less_than_two_seconds(browser, tmp_path):
    write_many_runs(tmp_path, 200)
    file = tmp_path / "many.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    assert browser.evaluate("document.querySelectorAll('#speed-chart .dot').length") == 200
    assert browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000


def test_a_report_of_a_failed_run_alone_says_why_and_shows_no_empty_control(browser, tmp_path):
    names = {"model": "m", "method": "svg", "backend": "b", "dense_backend": "d"}
    facts = {"config": {}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with pytest.raises(ValueError, match="purpose"), RunWriter(tmp_path, "a", **names, **facts):
        raise ValueError("psnr_db is NaN <b>on purpose</b>")
    file = tmp_path / "failed.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    for width in (1280, 390):
        browser.open(file.as_uri(), width, 900)
        text = browser.evaluate("document.getElementById('no-chart').innerText")
        assert text == "No run is complete: failed, psnr_db is NaN <b>on purpose</b>"
        shown = (
            "[...document.querySelectorAll('select, input, video, canvas')].filter((part) => part.checkVisibility())"
        )
        assert browser.evaluate(f"{shown}.length") == 0
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.complaints() == []


def test_runs_whose_previews_are_gone_say_so_and_stand_after_those_that_have_them(browser, tmp_path):
    write_fake_runs(tmp_path)
    for run_id in ("svg-0.25", "dense"):
        shutil.rmtree(tmp_path / run_id / "videos")
    file = tmp_path / "gone.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    options = browser.evaluate("[...document.getElementById('run').options].map((option) => option.value)")
    assert set(options[-2:]) == {"svg-0.25", "dense"}
    is_shown = "document.querySelector('.players').checkVisibility()"
    assert browser.evaluate(is_shown)
    browser.evaluate(
        "document.querySelector('#quality-chart [data-run=\"svg-0.25\"]').dispatchEvent(new Event('click'))"
    )
    assert (
        browser.evaluate(
            "document.getElementById('chosen-videos').hidden && document.getElementById('no-videos').innerText"
        )
        == "Previews are not kept with the rows of this run."
    )
    assert not browser.evaluate(is_shown)
    assert "PSNR dB" in browser.evaluate("document.getElementById('clip-values').innerText")
    tick(browser, "method", "random_blocks")
    assert browser.evaluate("document.getElementById('chosen').hidden")
    assert browser.evaluate(is_shown)
    assert browser.complaints() == []


def test_a_speed_chart_has_the_ideal_line_and_a_cut_table_a_cue(page):
    text = "document.getElementById('speed-chart').innerText"
    assert "Ideal, dashed: 1 / density." in page.evaluate(text)
    points = page.evaluate("document.querySelector('#speed-chart polyline.floor').getAttribute('points').split(' ')")
    assert len(points) > 10
    box = "document.querySelector('#table .scroll')"
    is_cut = f"{box}.scrollLeft + {box}.clientWidth < {box}.scrollWidth - 1"
    page.wait_for(f"{box}.classList.contains('more-right') === ({is_cut})")
    page.resize(600, 900)
    page.wait_for(f"{box}.classList.contains('more-right')")
    page.evaluate(f"{box}.scrollLeft = 9999")
    page.wait_for(f"!{box}.classList.contains('more-right')")


def test_in_a_narrow_window_a_row_is_a_card_that_shows_all_its_numbers_by_name(browser, tmp_path):
    write_fake_steps(tmp_path)
    file = tmp_path / "steps.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    place = "document.querySelector('#table tbody tr:not(.failed)')"
    for width, is_card in ((1280, False), (390, True), (320, True)):
        browser.open(file.as_uri(), width, 900)
        assert browser.evaluate(f"getComputedStyle({place}).display") == ("grid" if is_card else "table-row")
        cells = browser.evaluate(
            f"[...{place}.cells].map((cell) => {{ const box = cell.getBoundingClientRect(); return "
            "{ isName: cell.tagName === 'TH', role: cell.role, label: cell.dataset.label ?? null, "
            "ends: [box.left, box.right], shown: getComputedStyle(cell, '::before').content }; })"
        )
        headings = browser.evaluate("[...document.querySelectorAll('#table th button')].map((b) => b.textContent)")
        assert [cell["label"] for cell in cells if not cell["isName"]] == headings[sum(c["isName"] for c in cells) :]
        for cell in cells:
            assert 0 <= cell["ends"][0] < cell["ends"][1] <= width
            assert cell["role"] == ("rowheader" if cell["isName"] else "cell")
            assert (cell["shown"] != "none") == (is_card and not cell["isName"])
        # A line of its own for what failed, and headings that sort still.
        failed = "document.querySelector('#table tr.failed .error').getBoundingClientRect().right"
        assert browser.evaluate(failed) <= width
        button = "[...document.querySelectorAll('#table th button')].find((b) => b.textContent === 'Density')"
        browser.evaluate(f"{button}.click()")
        assert browser.evaluate(f"{button}.closest('th').ariaSort") == "ascending"
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.complaints() == []


def test_a_report_without_videos_or_choices_still_opens(browser, tmp_path):
    write_fake_runs(tmp_path)
    measurements, runs = load.measurements(tmp_path), load.runs(tmp_path)
    runs["videos"] = [[] for _ in range(len(runs))]
    measurements = measurements[~measurements["quantity"].str.startswith(("head_", "phase_"))]
    file = tmp_path / "bare.html"
    file.write_text(render(measurements, runs), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    time.sleep(0.5)
    assert browser.complaints() == []
    assert "No run recorded choices of heads." in browser.evaluate("document.getElementById('heads').textContent")
    assert browser.evaluate("document.querySelectorAll('#speed-chart .dot').length") == len(RUNS)


def test_the_quality_chart_draws_the_noise_floor(browser, tmp_path):
    write_noise(tmp_path, "floor", "dense", {"p0": 40.0})
    write_noise(tmp_path, "svg", "svg", {"p0": 30.0})
    file = tmp_path / "noise.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    floor, svg = (f"document.querySelector('#quality-chart {name}')" for name in (".floor", '[data-run="svg"] .target'))
    browser.wait_for(f"{floor} !== null")
    assert float(browser.evaluate(f"{floor}.getAttribute('y1')")) < float(browser.evaluate(f"{svg}.getAttribute('cy')"))
    text = browser.evaluate("document.getElementById('quality-chart').textContent")
    assert "Noise floor, dashed: PSNR dB 40.00, dense on flex." in text
    assert browser.complaints() == []


def test_a_noise_floor_far_above_all_runs_leaves_them_the_scale(browser, tmp_path):
    for name, score in {"svg": 30.0, "rival": 28.0}.items():
        write_noise(tmp_path, name, name, {"p0": score})
    write_noise(tmp_path, "floor", "dense", {"p0": 72.0})
    file = tmp_path / "far.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path)), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    chart = "document.querySelector('#quality-chart')"
    browser.wait_for(f"{chart}.querySelector('.floor') !== null")
    places = {
        name: float(browser.evaluate(f"{chart}.querySelector('[data-run={name}] .target').getAttribute('cy')"))
        for name in ("svg", "rival", "floor")
    }
    assert float(browser.evaluate(f"{chart}.querySelector('.floor').getAttribute('y1')")) == places["floor"]
    # 2 dB apart fill the chart, though the floor is 42 dB away.
    assert places["floor"] < places["svg"] and places["rival"] - places["svg"] > 100
    assert "above a gap in the scale: PSNR dB 72.00" in browser.evaluate(f"{chart}.textContent")
    assert browser.complaints() == []


def test_left_out_videos_are_said_to_be_left_out(browser, tmp_path):
    write_fake_runs(tmp_path)
    file = tmp_path / "small.html"
    file.write_text(render(load.measurements(tmp_path), load.runs(tmp_path), max_mb=0.12), encoding="utf-8")
    browser.open(file.as_uri(), 1280, 900)
    time.sleep(0.5)
    assert "Left out to keep this file small." in browser.evaluate(
        "document.getElementById('sparse-missing').textContent"
    )
    browser.evaluate("document.getElementById('play').click()")
    assert browser.complaints() == []


def test_filters_leave_their_runs_and_nothing_else_in_every_part(page):
    shown = "[...document.querySelectorAll('{}')].filter((part) => part.checkVisibility()).map((part) => {})"
    tick(page, "method", "svg")
    tick(page, "method", "random_blocks")
    tick(page, "sparsity", "0.25")
    left = ["random_blocks sparsity=0.25", "svg sparsity=0.25"]
    assert sorted(page.evaluate(shown.format("#table tbody tr", "part.cells[0].dataset.value"))) == left
    assert sorted(page.evaluate(shown.format("#quality-chart .dot", "part.dataset.run"))) == [
        "random_blocks-0.25",
        "svg-0.25",
    ]
    assert sorted(page.evaluate(shown.format("#time .name", "part.textContent"))) == left
    assert len(page.evaluate(shown.format("#runs details", "part.id"))) == 2
    assert page.evaluate(shown.format("#paired tbody tr", "part.cells[0].dataset.value")) == [left[0]] * 3
    options = page.evaluate("[...document.getElementById('run').options].map((option) => option.value)")
    assert sorted(options) == ["random_blocks-0.25", "svg-0.25"]
    assert page.evaluate("document.getElementById('filtered').textContent").startswith("2 of 8 runs.")
    tick(page, "method", "svg")
    assert "None of" not in page.evaluate("document.getElementById('videos').innerText")
    # A method that chooses nothing has no map, and says so.
    assert "No run recorded choices of heads." in page.evaluate("document.getElementById('heads').innerText")
    tick(page, "sparsity", "0.25")
    tick(page, "sparsity", "not set")
    assert page.evaluate("document.getElementById('quality-chart').innerText").endswith("No run is left to show.")
    assert "None of these runs has a video." in page.evaluate("document.getElementById('videos').innerText")
    page.evaluate("document.querySelector('#filtered button').click()")
    assert len(page.evaluate(shown.format("#table tbody tr", "part.id"))) == len(RUNS) + 1
    assert "No run recorded" not in page.evaluate("document.getElementById('heads').innerText")
    page.wait_for(READY)
