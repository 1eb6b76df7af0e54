"""What adapters say a text encoder takes of a prompt is what the pipelines cut, in every family."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from svg.models import adapter_for
from svg.models._text import TextCount
from tests.tiny_cogvideox import picture, tiny_cogvideox_i2v_pipeline, tiny_cogvideox_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import (
    generate,
    tiny_hunyuan_video_i2v_pipeline,
    tiny_hunyuan_video_pipeline,
    tiny_wan_i2v_pipeline,
    tiny_wan_pipeline,
)

PIPELINES = {
    "wan": (tiny_wan_pipeline, {}),
    "wan_i2v": (lambda: tiny_wan_i2v_pipeline(boundary_ratio=0.5), {"image": picture(32, 48)}),
    "hunyuan_video": (tiny_hunyuan_video_pipeline, {"guidance_scale": 1.0}),
    "hunyuan_video_i2v": (tiny_hunyuan_video_i2v_pipeline, {"image": picture(32, 48), "guidance_scale": 1.0}),
    "cogvideox": (tiny_cogvideox_pipeline, {}),
    "cogvideox_i2v": (tiny_cogvideox_i2v_pipeline, {"image": picture(32, 48)}),
    "cosmos": (tiny_cosmos_pipeline, {}),
}
PROMPT = "a red  circle &amp; a blue square moves right " + "and left " * 45


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("most", [16, 300])
def test_the_tokens_counted_are_those_that_the_pipeline_cuts(family, most, monkeypatch):
    make, settings = PIPELINES[family]
    pipeline = make()
    cuts = []
    call = PreTrainedTokenizerFast.__call__

    def spy(self, text, **options):
        if options.get("truncation"):
            [one] = [text] if isinstance(text, str) else text
            cuts.append((len(call(self, one, verbose=False).input_ids), options["max_length"]))
        return call(self, text, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", spy)
    pipeline.encode_prompt = lambda *args, encode=pipeline.encode_prompt, **kwargs: stop(encode(*args, **kwargs))

    class Encoded(Exception):
        pass

    def stop(_):
        raise Encoded

    with pytest.raises(Encoded):
        generate(pipeline, prompt=PROMPT, max_sequence_length=most, **settings)
    monkeypatch.undo()
    counts = adapter_for(pipeline).text_counts(pipeline, PROMPT, most)
    of_prompt = [(tokens, taken) for tokens, taken in cuts if tokens > 90]
    assert [one.tokens - one.most for one in counts] == [tokens - taken for tokens, taken in of_prompt]
    assert [one.most for one in counts] == ([most, 77] if "hunyuan" in family else [most])
    assert counts[0].tokens > 90


def test_without_a_length_the_pipelines_own_counts():
    pipeline = tiny_wan_pipeline()
    assert adapter_for(pipeline).text_counts(pipeline, "a red circle", None) == [TextCount("text_encoder", 3, 512)]
