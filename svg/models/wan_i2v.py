"""Wan's image-to-video in diffusers: text-to-video's transformer, with the first frame in the latents' channels."""

from __future__ import annotations

from typing import Any

from svg.layout import TokenLayout
from svg.models._sizes import sides_for_image
from svg.models.wan import WanAdapter

PIPELINES = ("WanImageToVideoPipeline",)
# diffusers counts the image's tokens as all but so many.
TEXT_TOKENS = 512


class WanImageToVideoAdapter(WanAdapter):
    """What the attachment needs to know of it: what it knows of Wan; the image has its own cross-attention."""

    def layout(self, transformer: Any, inputs: dict[str, Any]) -> TokenLayout:
        """Return the layout of latents ``(batch, channels, frames, height, width)``.

        Raises:
            ValueError: If image tokens would be taken for text, or text for the image.
        """
        text, image = inputs.get("encoder_hidden_states"), inputs.get("encoder_hidden_states_image")
        if image is not None and text is not None and text.shape[1] != TEXT_TOKENS:
            raise ValueError(
                f"model.max_sequence_length is {text.shape[1]}; image-to-video with an image encoder takes "
                f"{TEXT_TOKENS} only, for diffusers tells its image tokens from text by that number"
            )
        return super().layout(transformer, inputs)

    def size_for_image(self, pipeline: Any, area: int, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the video: of the image's shape, and of at most about ``area`` pixels.

        Args:
            pipeline: A Wan pipeline.
            area: Pixels of a frame, before both sides are rounded down to what the patching can divide.
            height, width: Of the image.
        """
        return sides_for_image(area, height, width, self.size_multiples(pipeline))
