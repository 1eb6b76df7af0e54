"""How the tokens of one self-attention sequence are laid out: video frames, and text before or after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TokenLayout:
    """Token counts of one sequence in frame-major order, the order in which diffusers hands it to attention.

    Args:
        num_frames: Latent frames, at least 1.
        tokens_per_frame: Tokens of one latent frame, at least 1.
        num_text_tokens: Text tokens inside the self-attention sequence; 0 where text has its own cross-attention.
        text_position: Where the text stands: ``"first"`` (CogVideoX) or ``"last"`` (HunyuanVideo).

    Raises:
        ValueError: If a count is out of range or the position is unknown.
    """

    num_frames: int
    tokens_per_frame: int
    num_text_tokens: int = 0
    text_position: Literal["first", "last"] = "last"

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.tokens_per_frame < 1 or self.num_text_tokens < 0:
            raise ValueError(
                f"a layout needs num_frames >= 1, tokens_per_frame >= 1 and num_text_tokens >= 0, got "
                f"{self.num_frames}, {self.tokens_per_frame} and {self.num_text_tokens}"
            )
        if self.text_position not in ("first", "last"):
            raise ValueError(f"text_position is {self.text_position!r}; it must be 'first' or 'last'")

    @property
    def num_video_tokens(self) -> int:
        return self.num_frames * self.tokens_per_frame

    @property
    def seq_len(self) -> int:
        return self.num_video_tokens + self.num_text_tokens

    @property
    def video_start(self) -> int:
        """Position of the first video token."""
        return self.num_text_tokens if self.text_position == "first" else 0

    @property
    def video_stop(self) -> int:
        """Position after the last video token."""
        return self.video_start + self.num_video_tokens

    @property
    def text_start(self) -> int:
        """Position of the first text token (the end of the sequence where there is none)."""
        return 0 if self.text_position == "first" else self.num_video_tokens

    @property
    def text_stop(self) -> int:
        """Position after the last text token."""
        return self.text_start + self.num_text_tokens

    def check(self, seq_len: int) -> None:
        """Raise ``ValueError`` unless ``seq_len`` is the length of this layout."""
        if seq_len != self.seq_len:
            raise ValueError(
                f"seq_len {seq_len} does not fit the layout: {self.num_frames} frames x {self.tokens_per_frame} tokens "
                f"+ {self.num_text_tokens} text tokens = {self.seq_len}; check model.height, model.width and "
                f"model.num_frames"
            )
