"""What the methods share whose heads keep a spatial or a temporal band: how wide, with which sink, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from svg.layout import TokenLayout
from svg.method import SparseMethod, check_choice
from svg.palette import Geometry, Rounding, head_patterns, window_tokens
from svg.pattern import Sink
from svg.plan import HeadPattern

SPATIAL, TEMPORAL = 0, 1


@dataclass(frozen=True, kw_only=True)
class BandMethod(SparseMethod):
    """A method whose palette is Sparse VideoGen's two patterns, or that keeps as much as they do.

    Args:
        sink: ``"first_frame"``, ``"layout"`` or ``"none"``; see ``svg.pattern.band``.
        rounding: ``"tile"``, ``"token"``, ``"ceil128"`` or ``"floor128"``; see ``svg.palette.Geometry``.
        key_order: ``"sink_first"`` or ``"plain"``; see ``svg.palette.Geometry``.
        spatial_unit: ``"token"`` (a sliding band) or ``"frame"`` (whole frames, the paper's figure; needs
            rounding=token).
        query_block_size: Queries per tile, at least 1, where they are not as many as keys, which are ``block_size``;
            None: they are. 192 is what flash_block_sparse's kernel wants at a head_dim up to 96.

    Raises:
        ValueError: If a value is none of these, or two of them exclude each other.
    """

    # Whether heads of a kind have one mask; else each has its own, which keeps as much.
    shares_masks: ClassVar[bool] = True

    sink: Sink = "first_frame"
    rounding: Rounding = "tile"
    key_order: Literal["sink_first", "plain"] = "sink_first"
    spatial_unit: Literal["token", "frame"] = "token"
    query_block_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("sink", self.sink, ("first_frame", "layout", "none"))
        check_choice("rounding", self.rounding, ("tile", "token", "ceil128", "floor128"))
        check_choice("key_order", self.key_order, ("sink_first", "plain"))
        check_choice("spatial_unit", self.spatial_unit, ("token", "frame"))
        if self.sink == "layout" and self.key_order != "plain":
            raise ValueError(
                "method.sink=layout needs method.key_order=plain: it is a quirk of the reference code's order"
            )
        if self.spatial_unit == "frame" and self.rounding != "token":
            raise ValueError(
                f"method.spatial_unit=frame needs method.rounding=token, got {self.rounding}: whole frames are no "
                f"whole tiles, and the reference code's widths are in tokens"
            )

        if self.query_block_size is not None and self.query_block_size < 1:
            raise ValueError(f"method.query_block_size is {self.query_block_size}; it must be at least 1, or null")
        if self.query_block_size is not None and not self.shares_masks:
            raise ValueError(
                f"method.query_block_size is {self.query_block_size}, but each head of this method has a mask of its "
                f"own, in square tiles; leave it null and change method.block_size"
            )

    @property
    def geometry(self) -> Geometry:
        """How the kept fraction becomes a mask."""
        return Geometry(
            self.density_requested,
            self.block_size,
            self.rounding,
            self.sink,
            self.key_order,
            self.spatial_unit,
            query_block_size=self.query_block_size,
        )

    def palette(self, layout: TokenLayout) -> tuple[HeadPattern, HeadPattern]:
        """Return the (spatial, temporal) patterns that run."""
        return head_patterns(layout, self.geometry)

    def density_executed(self, layout: TokenLayout) -> float:
        """Return the share of all pairs that the two patterns compute, tile by tile, on average."""
        shares = [pattern.mask.tile_density for pattern in self.palette(layout) if pattern.mask is not None]
        return sum(shares) / len(shares)

    def pairs_executed(self, layout: TokenLayout) -> int:
        """Return how many pairs that share is, for who counts them out tile by tile."""
        return round(self.density_executed(layout) * layout.seq_len**2)

    def patterns(self, layout: TokenLayout) -> tuple[HeadPattern, ...]:
        """Return what heads may take, as far as it is known before there are data; for forecasts."""
        return self.palette(layout)

    def window_tokens(self, layout: TokenLayout) -> int:
        """Return how far a spatial head sees to either side; see ``svg.palette.window_tokens``."""
        return window_tokens(layout, self.geometry)
