"""VBench's lists of prompts: texts, dimensions and images, and what is no such list."""

from __future__ import annotations

import json

import pytest

from svg.vbench import load_vbench

# In the form of VBench's lists; the texts are ours.
TEXT_LIST = [
    {"prompt_en": "a kite above a beach", "dimension": ["motion_smoothness", "aesthetic_quality"]},
    {"prompt_en": "two boats", "dimension": ["multiple_objects"], "auxiliary_info": {"multiple_objects": "boat"}},
    {"prompt_en": "a kite above a beach ", "dimension": ["imaging_quality"]},
]
IMAGE_LIST = [
    {"prompt_en": "a kite", "dimension": ["i2v_subject"], "image_type": "sky", "image_name": "a kite.jpg"},
    {"prompt_en": "a kite, camera pans left", "dimension": ["camera_motion"], "image_type": "sky"},
    {"prompt_en": "a boat", "dimension": ["i2v_subject"], "custom_image_path": "mine/boat.png"},
]


@pytest.fixture
def written(tmp_path):
    def write(content, name="list.json"):
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    return write


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "mine").mkdir(parents=True)
    (folder / "a kite.jpg").write_bytes(b"kite")
    (folder / "mine" / "boat.png").write_bytes(b"boat")
    return folder


def test_a_prompt_of_several_dimensions_is_one_prompt_with_all_of_them(written):
    kite, boats = load_vbench(written(TEXT_LIST))
    assert (kite.text, boats.text) == ("a kite above a beach", "two boats")
    assert kite.dimensions == ("motion_smoothness", "aesthetic_quality", "imaging_quality")
    facts = {"source": "list.json", "dimensions": "multiple_objects"}
    assert boats.record() == {"prompt_id": boats.prompt_id, "text": "two boats"} | facts


def test_ids_are_the_same_whatever_is_chosen_and_wherever_a_prompt_stands(written):
    every = {prompt.text: prompt.prompt_id for prompt in load_vbench(written(TEXT_LIST))}
    turned = {prompt.text: prompt.prompt_id for prompt in load_vbench(written(TEXT_LIST[::-1]))}
    [chosen] = load_vbench(written(TEXT_LIST), "multiple_objects")
    assert turned == every and chosen.prompt_id == every["two boats"]
    assert len(set(every.values())) == 2


def test_images_are_named_or_follow_from_the_text_before_the_movement_of_the_camera(written, images):
    still, panned, own = load_vbench(written(IMAGE_LIST), image_folder=images)
    assert still.image == panned.image == str(images / "a kite.jpg")
    assert own.image == str(images / "mine" / "boat.png")
    assert still.prompt_id != panned.prompt_id and still.image_sha256 == panned.image_sha256


def test_images_lie_beside_the_list_where_nothing_else_is_said(written, images):
    [still] = load_vbench(written(IMAGE_LIST[:1], "images/list.json"))
    assert still.image == str(images / "a kite.jpg")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("a cat", "is no JSON: Expecting value"),
        ("{}", "is no list of prompts"),
        ("[]", "is no list of prompts"),
        ('["a cat"]', "prompt 1 has no keys; it must have prompt_en"),
        ([{"prompt": "a cat", "dimension": ["color"]}], "prompt 1 has prompt, dimension; it must have prompt_en"),
        ([TEXT_LIST[0], {"prompt_en": "a cat"}], "prompt 2 has prompt_en; it must have prompt_en, a text, and"),
        ([{"prompt_en": "a cat", "dimension": "color"}], "dimension, a list of texts"),
        ([{"prompt_en": "a cat", "dimension": [7]}], "dimension, a list of texts"),
        ([{"prompt_en": " ", "dimension": ["color"]}], "prompt 1 is ''"),
        ([{"prompt_en": "a cat", "dimension": ["color"]}] * 2, "prompt 2, 'a cat', stands there twice for color"),
        (IMAGE_LIST[:1], r"image .*a kite\.jpg of prompt 1 cannot be read: No such file"),
        ([{**IMAGE_LIST[0], "image_name": 7}], "prompt 1 has prompt_en, dimension, image_type, image_name; it must"),
    ],
)
def test_what_is_no_list_is_one_line_that_names_the_setting(written, content, rule):
    with pytest.raises(ValueError, match=rf"^prompts\.path=.*{rule}") as caught:
        load_vbench(written(content))
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^prompts\.path=.*none\.json cannot be read: No such file"):
        load_vbench(tmp_path / "none.json")


def test_an_unknown_dimension_is_refused_with_those_that_there_are(written):
    with pytest.raises(
        ValueError, match=r"prompts\.dimension is 'colour'; list\.json has aesthetic_quality, imaging_q"
    ):
        load_vbench(written(TEXT_LIST), "colour")
