"""Prompts from lists and files."""

import hashlib

import pytest

from svg.prompts import Prompt, load_prompts, make_prompts


def test_an_id_is_the_place_and_the_first_digits_of_the_hash():
    digest = hashlib.sha256(b"a cat").hexdigest()
    assert make_prompts(["a dog", "a cat"])[1] == Prompt(f"p01-{digest[:8]}", "a cat")


def test_ids_differ_even_for_equal_texts_and_over_a_hundred_prompts():
    ids = [prompt.prompt_id for prompt in make_prompts(["a cat"] * 101)]
    assert len(set(ids)) == 101
    assert ids[100].startswith("p100-")


def test_a_file_is_one_prompt_a_line_without_its_byte_order_mark(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffein Käfer\r\n\n  # 一只猫 \u2028 x\n".encode())
    assert [prompt.text for prompt in load_prompts(file)] == ["ein Käfer", "# 一只猫 \u2028 x"]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "holds no prompt"),
        (b" \n\r\n\t\n", "holds no prompt"),
        ("ein Käfer".encode("latin-1"), "is not UTF-8: line 1 holds byte 0xe4"),
        ("a\nb\n\xe4".encode("latin-1"), "is not UTF-8: line 3"),
        ("a cat".encode("utf-16"), "is not UTF-8"),
        (b"a cat\na\x00dog", "prompt 2 holds the control character"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_setting(tmp_path, content, rule):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="prompts.path=") as caught:
        load_prompts(file)
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"prompts\.path=.* cannot be read: "):
        load_prompts(tmp_path / "missing.txt")


@pytest.mark.parametrize("texts", [[], [""], ["a cat", "  "], ["a\ncat"], [7]])
def test_a_bad_list_is_refused(texts):
    with pytest.raises(ValueError, match=r"^prompts\.texts"):
        make_prompts(texts)


def test_an_image_belongs_to_its_prompt_by_content_not_by_place(tmp_path):
    for name, content in (("a.png", b"one"), ("b.png", b"one"), ("c.png", b"two")):
        (tmp_path / name).write_bytes(content)
    [a], [b], [c], [none] = (
        make_prompts(["a cat"], images=images)
        for images in ([tmp_path / "a.png"], [tmp_path / "b.png"], [tmp_path / "c.png"], [None])
    )
    assert a.image == str(tmp_path / "a.png")
    assert a.image_sha256 == hashlib.sha256(b"one").hexdigest()
    assert (a.prompt_id, a.identity) == (b.prompt_id, b.identity)
    assert len({prompt.prompt_id for prompt in (a, c, none)}) == 3
    assert none == make_prompts(["a cat"])[0]
    assert none.record() == {"prompt_id": none.prompt_id, "text": "a cat"} and none.identity == "a cat"
    assert a.record()["image"] == "a.png"


def test_a_folder_holds_a_text_and_maybe_an_image_for_each_id(tmp_path):
    (tmp_path / "boat.txt").write_text("a boat\nat sea\n")
    (tmp_path / "boat.png").write_bytes(b"image")
    (tmp_path / "kite.txt").write_text("a kite")
    (tmp_path / "notes.md").write_text("not a prompt")
    boat, kite = load_prompts(tmp_path)
    assert (boat.prompt_id, boat.text, boat.image) == ("boat", "a boat at sea", str(tmp_path / "boat.png"))
    assert (kite.prompt_id, kite.text, kite.image) == ("kite", "a kite", None)


def test_a_jsonl_file_holds_an_object_a_line(tmp_path):
    (tmp_path / "boat.png").write_bytes(b"image")
    file = tmp_path / "set.jsonl"
    file.write_text('{"id": "boat", "text": "a boat", "image": "boat.png"}\n\n{"text": "a kite"}\n')
    boat, kite = load_prompts(file)
    assert (boat.prompt_id, boat.image) == ("boat", str(tmp_path / "boat.png"))
    assert kite == make_prompts(["a kite"] * 2)[1]


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({}, "is a folder without prompts"),
        ({"a.txt": b"\xe4"}, r"a\.txt is not UTF-8"),
        ({"a.txt": b" "}, "prompt 1 is ''"),
        ({"a.txt": b"a cat", "a.png": b"", "a.jpg": b""}, r"a\.txt has 2 images, a\.png and a\.jpg"),
        ({"a b.txt": b"a cat"}, "is named 'a b'; an id is at most 100 letters"),
        ({"set.jsonl": b"a cat"}, "prompt 1 is no JSON"),
        ({"set.jsonl": b'["a cat"]'}, "prompt 1 is no object of texts"),
        ({"set.jsonl": b'{"text": "a cat"}\n{"txt": "a dog"}'}, "prompt 2 has txt; it must have text"),
        ({"set.jsonl": b'{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}'}, "two prompts are named x"),
        ({"set.jsonl": b'{"text": "a cat", "image": "b.png"}'}, r"image .*b\.png of prompt 1 cannot be read: "),
    ],
)
def test_a_bad_folder_or_jsonl_file_is_one_line_that_names_the_setting(tmp_path, files, rule):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^prompts\.path=.*{rule}") as caught:
        load_prompts(tmp_path / "set.jsonl" if "set.jsonl" in files else tmp_path)
    assert "\n" not in str(caught.value)


def test_texts_and_images_must_be_as_many():
    with pytest.raises(ValueError, match=r"prompts\.texts: 2 texts and 1 images; give one image a prompt"):
        make_prompts(["a cat", "a dog"], images=["a.png"])
