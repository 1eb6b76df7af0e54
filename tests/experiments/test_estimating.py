"""What earlier records say of the time that a sweep will take."""

from __future__ import annotations

import shutil

import pytest

from experiments.estimating import Estimator
from svg import provenance
from svg.results import Measurement, RunWriter


@pytest.fixture
def of_this_machine(tmp_path):
    """Write a record of this machine with a config; return the folder of all of them."""

    def write(run_id: str, config: dict, *rows: Measurement, has_video: bool = False):
        facts = {"gpu": None, "cpu": {"name": provenance.hardware("cpu")["device"]}}
        names = {"model": "m", "method": "svg", "backend": "none", "dense_backend": "none"}
        with RunWriter(tmp_path, run_id, config=config, provenance=facts, prompts=[], seeds=[], **names) as run:
            run.extend(rows)
            if has_video:
                run.video_paths("a", 0).sparse.write_bytes(b"frames")
                run.add_video("a", 0, frames=1, fps=8, height=8, width=8)
        return tmp_path

    return write


def test_records_without_videos_say_nothing_and_stop_nothing(of_this_machine):
    of_this_machine("plan", {"forecast": {"gpu": "h200"}, "model": {}, "method": {}})
    assert Estimator(of_this_machine("rates", {"products": {}}), "cpu").twins == set()


def test_a_run_whose_videos_were_deleted_still_tells_its_time(of_this_machine):
    config = {"model": {}, "method": {}, "dense_backend": "auto", "device": "cpu", "threads": 1}
    config |= {"prompts": ["a"], "seeds": [0]}
    seconds = Measurement(quantity="generation_s", unit="s", value=2.0)
    folder = of_this_machine("run", config, seconds, has_video=True)
    shutil.rmtree(folder / "run" / "videos")
    assert len(Estimator(folder, "cpu").twins) == 1
