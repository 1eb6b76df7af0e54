"""Word-level tokenizers of the caption grammar."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from experiments.tiny import clips


def tokenizer(max_length: int = 512) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the caption grammar; every text ends in ``</s>``."""
    words = ["<pad>", "</s>", "<unk>", *clips.vocabulary()]
    built = word_level(words, [normalizers.Lowercase()])
    built.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return wrapped(built, max_length)


def word_level(words: Sequence[str], normalisation: Sequence[normalizers.Normalizer]) -> Tokenizer:
    """Return a tokenizer of these words, an unknown one being ``<unk>``."""
    built = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    built.normalizer = normalizers.Sequence(list(normalisation)) if len(normalisation) > 1 else normalisation[0]
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return built


def wrapped(built: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer in the class that pipelines take; it pads on the right with ``<pad>``."""
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=max_length
    )
