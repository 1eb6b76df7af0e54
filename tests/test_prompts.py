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


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=r"prompts\.path=.* cannot be read: "):
        load_prompts(tmp_path / name)


@pytest.mark.parametrize("texts", [[], [""], ["a cat", "  "], ["a\ncat"], [7]])
def test_a_bad_list_is_refused(texts):
    with pytest.raises(ValueError, match=r"^prompts\.texts"):
        make_prompts(texts)
