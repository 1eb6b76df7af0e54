"""HunyuanVideo's two tokenizers over the caption grammar: one knows the pipeline's template, every caption as long."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, normalizers, processors

from experiments.tiny import clips, words

MARKS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# Tokens that the pipeline cuts off, the template's up to the prompt.
CROP = 95
# Tokens of a caption: a motion's two words are one, and so is a background with how it slides.
CAPTION_TOKENS = 10
# Beside the description stand, before the prompt: the text's beginning and, of both roles, header marks, name and line;
# and the end of the first turn.
_BESIDE = 1 + 2 * 4 + 1


def tokenizer() -> Any:
    """Return the tokenizer of the template and the captions; the template's description is one word again and again."""
    motions = [motion for motion in clips.MOTIONS if " " in motion]
    slides = [f"background {slide}" for slide in clips.SLIDES if slide]
    joined = {phrase: phrase.replace(" ", "_") for phrase in (*motions, *slides)}
    vocabulary = ["<pad>", "</s>", "<unk>", *MARKS, "system", "user", "line", "describe"]
    built = words.word_level(
        [*vocabulary, *clips.vocabulary(), *joined.values()],
        [
            normalizers.Replace(Regex("Describe the video by.*in the video:"), "describe " * (CROP - _BESIDE)),
            normalizers.Replace(Regex("\\n+"), " line "),
            normalizers.Lowercase(),
            *(normalizers.Replace(phrase, word) for phrase, word in joined.items()),
        ],
    )
    built.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    built.post_processor = processors.TemplateProcessing(
        single=f"{MARKS[0]} $A", special_tokens=[(MARKS[0], vocabulary.index(MARKS[0]))]
    )
    return words.wrapped(built, 1024)


def pooled_tokenizer() -> Any:
    """Return the tokenizer of the second encoder: the grammar's words, ``</s>`` at the end."""
    return words.tokenizer(77)
